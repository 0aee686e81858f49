//! Who comes in by a token, and who does not: attacks from the literature, keys that change or cannot be had, and what the
//! upstream is told.

mod kit;

use kit::certs::Authority;
use kit::http2::{self, run};
use kit::jwt::{claims, encode, now, set, Idp, Signer, ISSUER};
use kit::origin::{raw, reply};
use kit::raw::exchange;
use kit::{until, wait_for, Gateway, Http2, Origin, Response, Secure, Step};
use serde_json::{json, Value};
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

/// A configuration with one provider that every request needs a token of.
fn yaml(origin: &Origin, provider: &str, more: &str) -> String {
    format!(
        "access_log: {{path: $FOLDER/access.log}}
admin: {{address: '127.0.0.1:0'}}
providers:
  idp:
    jwt: {{issuer: \"{ISSUER}\", {provider}}}
{more}
routes:
  - {{name: api, path: /, upstream: \"{}\", auth: {{any: [{{jwt: idp}}]}}}}
",
        origin.url()
    )
}

fn start(origin: &Origin, provider: &str) -> Gateway {
    Gateway::start(&yaml(origin, provider, ""))
}

/// With what most tests want: an audience and these algorithms.
fn by(algorithms: &str, source: &str) -> String {
    format!("audience: api, algorithms: [{algorithms}], {source}")
}

fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: t\r\n");
    for (name, value) in fields {
        text += &format!("{name}: {value}\r\n");
    }
    (text + "\r\n").into_bytes()
}

fn ask(gateway: &Gateway, path: &str, token: &str) -> Response {
    let bearer = format!("Bearer {token}");
    exchange(gateway.address(), request("GET", path, &[("Authorization", &bearer)]))
}

/// The reason in the access log for the one request of this path.
fn reason(gateway: &Gateway, path: &str) -> String {
    wait_for(&format!("a line of {path}"), || {
        let lines = gateway.access_log();
        let line = lines.iter().find(|line| line["path"] == path)?;
        Some(line["error"].as_str().unwrap_or_default().to_owned())
    })
}

/// Asks until the answer is this.
fn wait_status(gateway: &Gateway, token: &str, status: u16) {
    until(&format!("{status} for the token"), || ask(gateway, "/wait", token).status == status);
}

fn look(gateway: &Gateway, path: &str) -> String {
    let admin = gateway.admin();
    exchange(admin, format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\n\r\n")).text()
}

fn metric(gateway: &Gateway, name: &str) -> Option<f64> {
    let text = look(gateway, "/metrics");
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn file(folder: &Path, name: &str, keys: &[Value]) -> String {
    let path = kit::certs::write(folder, name, &set(keys));
    path.display().to_string()
}

// ---- attacks ----

/// The table: what is sent, and why it is refused. `$` is a good token's part where only the rest matters.
fn attacks(
    rsa: &Signer,
    ec: &Signer,
    ed: &Signer,
    strange: &Signer,
) -> Vec<(&'static str, String, &'static str)> {
    let good = rsa.token(json!({}));
    let parts: Vec<&str> = good.split('.').collect();
    let (head, body, signature) = (parts[0], parts[1], parts[2]);
    let usual = claims(json!({})).to_string();
    let header = |members: Value| rsa.with_header(members, json!({}));
    let change = |members: Value| rsa.token(members);
    let as_secret = |bytes: &[u8]| {
        let mut signer = Signer::secret(bytes);
        signer.kid = "r1".to_owned();
        signer.token(json!({}))
    };
    let unsigned = |alg: &str| format!("{}.{body}.", encode(json!({"alg": alg, "kid": "r1"}).to_string()));
    let flipped = |text: &str, at: usize| {
        let other = if text.as_bytes()[at] == b'A' { 'B' } else { 'A' };
        format!("{}{other}{}", &text[..at], &text[at + 1..])
    };
    let es_head = encode(ec.header().to_string());
    let ec_token = ec.token(json!({}));
    let ec_parts: Vec<&str> = ec_token.split('.').collect();
    let der = [&[0x30, 0x44, 0x02, 0x20][..], &[1; 32], &[0x02, 0x20], &[1; 32]].concat();
    let mut last = signature[signature.len() - 1..].to_owned();
    // RS256 with 2048 bits: 256 bytes leave 4 bits over, which have to be 0.
    last = last.replace(|_: char| true, "B");
    let long = format!("{}.{}.{signature}", head, encode(vec![b' '; 7000]));
    vec![
        // RFC 8725 §2.1: the algorithm is chosen by the attacker
        ("none", unsigned("none"), "jwt_alg_none"),
        ("none in another case", unsigned("nOnE"), "jwt_alg_none"),
        ("none with a signature", format!("{}{signature}", unsigned("None")), "jwt_alg_none"),
        ("public key as secret", as_secret(&rsa.public), "jwt_alg_confusion"),
        ("public key of EC as secret", as_secret(&ec.public), "jwt_alg_confusion"),
        ("key set as secret", as_secret(rsa.jwk().to_string().as_bytes()), "jwt_alg_confusion"),
        ("not allowed", rsa.by(jsonwebtoken::Algorithm::PS256).token(json!({})), "jwt_alg_not_allowed"),
        ("in lower case", header(json!({"alg": "rs256"})), "jwt_alg_not_allowed"),
        ("no such", header(json!({"alg": "RS1"})), "jwt_alg_not_allowed"),
        ("encryption as signature", header(json!({"alg": "RSA-OAEP"})), "jwt_alg_not_allowed"),
        ("no alg", header(json!({"alg": null})), "jwt_malformed"),
        ("alg is a list", header(json!({"alg": ["RS256"]})), "jwt_malformed"),
        // the key does not fit
        ("RS256 by a key of EC", header(json!({"kid": "e1"})), "jwt_key_type"),
        ("ES384 by P-256", ec.with_header(json!({"alg": "ES384"}), json!({})), "jwt_key_type"),
        ("EdDSA by RSA", ed.with_header(json!({"kid": "r1"}), json!({})), "jwt_key_type"),
        ("a weak key", header(json!({"kid": "weak"})), "jwt_key_weak"),
        // the header brings its own
        ("jku", strange.with_header(json!({"jku": "https://evil.example/jwks.json"}), json!({})), "jwt_jku"),
        ("jwk", strange.with_header(json!({"jwk": strange.jwk()}), json!({})), "jwt_jwk"),
        ("x5u", strange.with_header(json!({"x5u": "https://evil.example/c.pem"}), json!({})), "jwt_x5u"),
        ("x5c", strange.with_header(json!({"x5c": ["MIIB"]}), json!({})), "jwt_x5c"),
        ("kid of nobody", strange.token(json!({})), "jwt_kid_unknown"),
        ("kid as path", header(json!({"kid": "../../../dev/null"})), "jwt_kid_unknown"),
        ("kid as query", header(json!({"kid": "x' UNION SELECT 'k"})), "jwt_kid_unknown"),
        ("kid of another length", header(json!({"kid": "r"})), "jwt_kid_unknown"),
        ("kid is a number", header(json!({"kid": 1})), "jwt_malformed"),
        ("kid is endless", header(json!({"kid": "r".repeat(300)})), "jwt_malformed"),
        // what has to be understood
        ("crit", header(json!({"crit": ["exp"], "exp": 1})), "jwt_crit"),
        ("empty crit", header(json!({"crit": []})), "jwt_crit"),
        ("b64 understood", header(json!({"crit": ["b64"], "b64": true})), "jwt_crit"),
        ("not encoded", header(json!({"crit": ["b64"], "b64": false})), "jwt_unencoded"),
        ("not encoded, not said", header(json!({"b64": false})), "jwt_unencoded"),
        ("another kind", header(json!({"typ": "logout+jwt"})), "jwt_typ"),
        ("another kind, in full", header(json!({"typ": "application/secevent+jwt"})), "jwt_typ"),
        ("nested", header(json!({"cty": "JWT"})), "jwt_nested"),
        // the signature
        ("none at all", format!("{head}.{body}."), "jwt_unsigned"),
        (
            "of other claims",
            format!("{head}.{}.{signature}", encode(claims(json!({"sub": "root"})).to_string())),
            "jwt_signature",
        ),
        ("one bit off", format!("{head}.{body}.{}", flipped(signature, 9)), "jwt_signature"),
        ("cut short", format!("{head}.{body}.{}", &signature[..signature.len() - 2]), "jwt_signature"),
        ("by a stranger", strange.with_header(json!({"kid": "r1"}), json!({})), "jwt_signature"),
        ("all zero", format!("{}.{}.{}", ec_parts[0], ec_parts[1], encode([0; 64])), "jwt_signature"),
        ("in DER", format!("{es_head}.{}.{}", ec_parts[1], encode(&der)), "jwt_signature"),
        // read in two ways
        ("alg twice", rsa.sign(r#"{"alg":"none","alg":"RS256","kid":"r1"}"#, &usual), "jwt_duplicate_member"),
        (
            "kid twice",
            rsa.sign(r#"{"alg":"RS256","kid":"r1","k\u0069d":"e1"}"#, &usual),
            "jwt_duplicate_member",
        ),
        (
            "sub twice",
            rsa.sign(rsa.header().to_string(), usual.replacen('{', r#"{"sub":"root","#, 1)),
            "jwt_duplicate_member",
        ),
        ("not UTF-8", rsa.sign(rsa.header().to_string(), b"{\"sub\":\"\xff\"}"), "jwt_not_utf8"),
        ("header not UTF-8", rsa.sign(b"{\"alg\":\"RS256\xff\"}", &usual), "jwt_not_utf8"),
        ("a list", rsa.sign(rsa.header().to_string(), "[]"), "jwt_json"),
        ("two objects", rsa.sign(rsa.header().to_string(), format!("{usual}{usual}")), "jwt_json"),
        ("not JSON", rsa.sign(rsa.header().to_string(), "x"), "jwt_json"),
        ("padded", format!("{head}.{body}.{signature}=="), "jwt_base64"),
        ("padded claims", rsa.sign_encoded(head, &format!("{body}=")), "jwt_base64"),
        ("another alphabet", rsa.sign_encoded(&head.replacen('e', "+", 1), body), "jwt_base64"),
        (
            "bits left over",
            format!("{head}.{body}.{}{last}", &signature[..signature.len() - 1]),
            "jwt_base64",
        ),
        ("white space", format!("{head}. {body}.{signature}"), "jwt_base64"),
        // the form
        ("one part", "x".to_owned(), "jwt_malformed"),
        ("two parts", format!("{head}.{body}"), "jwt_malformed"),
        ("four parts", format!("{good}.x"), "jwt_malformed"),
        ("six parts", format!("{good}.x.y.z"), "jwt_malformed"),
        ("dots", "..".to_owned(), "jwt_json"),
        ("encrypted", format!("{head}.a.b.c.d"), "jwt_encrypted"),
        ("says it is encrypted", header(json!({"enc": "A128GCM"})), "jwt_encrypted"),
        ("giant", long, "jwt_too_long"),
        ("nothing", String::new(), "jwt_malformed"),
        ("two in one field", format!("{good}, Bearer {good}"), "jwt_encrypted"),
        // the claims
        ("expired", change(json!({"exp": now() - 100})), "jwt_expired"),
        ("for ever", change(json!({"exp": null})), "jwt_claim_missing"),
        ("expires as text", change(json!({"exp": (now() + 600).to_string()})), "jwt_time"),
        ("expires before 1970", change(json!({"exp": -1})), "jwt_time"),
        ("expires after all", change(json!({"exp": 1e30})), "jwt_time"),
        ("not yet", change(json!({"nbf": now() + 600})), "jwt_not_yet"),
        ("from the future", change(json!({"iat": now() + 600})), "jwt_future"),
        ("another issuer", change(json!({"iss": "https://evil.example"})), "jwt_issuer"),
        ("nearly the issuer", change(json!({"iss": format!("{ISSUER}/")})), "jwt_issuer"),
        ("no issuer", change(json!({"iss": null})), "jwt_claim_missing"),
        ("for somebody else", change(json!({"aud": "other"})), "jwt_audience"),
        ("for others", change(json!({"aud": ["other", "apis"]})), "jwt_audience"),
        ("for nobody", change(json!({"aud": null})), "jwt_claim_missing"),
        ("audience is an object", change(json!({"aud": {"api": true}})), "jwt_malformed"),
        ("subject is a list", change(json!({"sub": ["root"]})), "jwt_malformed"),
    ]
}

#[test]
fn attacks_are_refused_each_for_its_own_reason() {
    let origin = Origin::text("in");
    let (rsa, ec, ed, strange) = (Signer::rsa("r1"), Signer::ec("e1"), Signer::ed("d1"), Signer::rsa("s1"));
    let weak = json!({"kty": "RSA", "kid": "weak", "n": encode([0xff; 128]), "e": "AQAB"});
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "keys.json", &[rsa.jwk(), ec.jwk(), ed.jwk(), weak]);
    let gateway = start(&origin, &by("RS256, ES256, ES384, EdDSA", &format!("file: \"{path}\"")));
    let attacks = attacks(&rsa, &ec, &ed, &strange);
    for (number, (what, token, _)) in attacks.iter().enumerate() {
        let answer = ask(&gateway, &format!("/{number}"), token);
        assert_eq!(answer.status, 401, "{what}");
        assert_eq!(answer.problem(), "invalid_token", "{what}: the client is told nothing of why");
        let challenge = answer.field("www-authenticate").unwrap();
        assert_eq!(challenge, "Bearer realm=\"portcullis\", error=\"invalid_token\"", "{what}");
        assert!(!answer.text().contains("jwt_"), "{what}: {}", answer.text());
    }
    assert_eq!(origin.connections(), 0, "none of it went on");
    let lines: HashMap<String, String> = gateway
        .access_lines(attacks.len())
        .iter()
        .map(|line| (line["path"].as_str().unwrap().to_owned(), line["error"].as_str().unwrap().to_owned()))
        .collect();
    let wrong: Vec<String> = attacks
        .iter()
        .enumerate()
        .map(|(number, (what, _, reason))| (what, reason, &lines[&format!("/{number}")]))
        .filter(|(_, reason, found)| reason != found)
        .map(|(what, reason, found)| format!("{what}: {found}, not {reason}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for good in [&rsa, &ec, &ed] {
        assert_eq!(ask(&gateway, "/", &good.token(json!({}))).status, 200, "{}", good.kid);
        assert_eq!(ask(&gateway, "/", &good.token(json!({"aud": ["x", "api"]}))).status, 200, "{}", good.kid);
    }
    let rejected = look(&gateway, "/metrics");
    assert!(
        rejected.contains("portcullis_rejected_total{route=\"api\",reason=\"jwt_alg_none\"} 3"),
        "{rejected}"
    );
}

#[test]
fn a_token_without_a_name_of_its_key_has_few_keys_tried() {
    let origin = Origin::text("in");
    let keys: Vec<Signer> = (0..5).map(|number| Signer::ec(&number.to_string())).collect();
    let nameless = |signer: &Signer| signer.with_header(json!({"kid": null}), json!({}));
    let folder = tempfile::tempdir().unwrap();
    let of = |count: usize| {
        let path = file(
            folder.path(),
            &format!("{count}.json"),
            &keys[..count].iter().map(Signer::jwk).collect::<Vec<_>>(),
        );
        start(&origin, &by("ES256", &format!("file: \"{path}\"")))
    };
    let (four, five) = (of(4), of(5));
    assert_eq!(ask(&four, "/last", &nameless(&keys[3])).status, 200);
    assert_eq!(ask(&four, "/none", &nameless(&keys[4])).status, 401);
    assert_eq!(reason(&four, "/none"), "jwt_signature");
    assert_eq!(ask(&five, "/many", &nameless(&keys[0])).status, 401);
    assert_eq!(reason(&five, "/many"), "jwt_kid_missing");
    assert_eq!(ask(&five, "/", &keys[4].token(json!({}))).status, 200);
}

#[test]
fn a_secret_is_a_secret_and_nothing_else() {
    let origin = Origin::text("in");
    let secret = "a secret that has thirty-two bytes and more";
    let gateway = start(&origin, &by("HS256", &format!("secret: \"{secret}\"")));
    let signer = Signer::secret(secret.as_bytes());
    assert_eq!(ask(&gateway, "/", &signer.token(json!({}))).status, 200);
    assert_eq!(ask(&gateway, "/other", &Signer::secret(&[7; 32]).token(json!({}))).status, 401);
    assert_eq!(reason(&gateway, "/other"), "jwt_signature");
    assert_eq!(ask(&gateway, "/public", &Signer::rsa("r1").token(json!({}))).status, 401);
    assert_eq!(reason(&gateway, "/public"), "jwt_alg_confusion");
    // Nowhere to be seen.
    let status = look(&gateway, "/status");
    assert!(!status.contains(secret) && !gateway.log().join("\n").contains(secret));
}

#[test]
fn a_type_that_is_asked_for_is_the_only_one() {
    let origin = Origin::text("in");
    let rsa = Signer::rsa("r1");
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "keys.json", &[rsa.jwk()]);
    let gateway = start(&origin, &by("RS256", &format!("typ: at+jwt, file: \"{path}\"")));
    let of = |typ: Value| ask(&gateway, "/", &rsa.with_header(json!({ "typ": typ }), json!({}))).status;
    assert_eq!([of(json!("at+jwt")), of(json!("application/AT+JWT"))], [200, 200]);
    assert_eq!([of(json!("JWT")), of(Value::Null), of(json!("id+jwt"))], [401, 401, 401]);
}

// ---- what the upstream is told ----

const TELLING: &str = "claims_to_headers: {x-user: sub, x-roles: realm.roles, x-admin: admin}";

#[test]
fn claims_are_told_and_spoofed_ones_are_not() {
    let origin = Origin::text("in");
    let idp = Idp::start(&[]);
    let rsa = Signer::rsa("r1");
    idp.has(&[&rsa]);
    let gateway = start(&origin, &by("RS256", &format!("jwks: \"{}\", {TELLING}", idp.url())));
    let bearer = format!("bearer {}", rsa.token(json!({"realm": {"roles": ["a", "b"]}})));
    let fields = [
        ("Authorization", bearer.as_str()),
        ("X-User", "root"),
        ("x_user", "root"),
        ("X-Admin", "true"),
        ("X-Roles", "root"),
        ("X-Roles", "admin"),
        ("Cookie", "a=1"),
    ];
    assert_eq!(exchange(gateway.address(), request("GET", "/", &fields)).status, 200);
    let got = origin.last();
    assert_eq!((got.field("x-user"), got.field("x-roles")), (Some("user-1"), Some("a,b")));
    assert_eq!((got.all("x-admin"), got.all("x_user")), (vec![], vec![]), "{}", got.head);
    assert_eq!(got.field("authorization"), None, "the token was for the gateway");
    assert_eq!(got.field("cookie"), Some("a=1"));
    // What cannot be a field's value comes to nothing.
    assert_eq!(ask(&gateway, "/crlf", &rsa.token(json!({"sub": "a\r\nx-admin: true"}))).status, 401);
    assert_eq!(reason(&gateway, "/crlf"), "jwt_field");
    assert_eq!(origin.received().len(), 1);
}

#[test]
fn credentials_go_on_where_the_route_says_so() {
    let origin = Origin::text("in");
    let rsa = Signer::rsa("r1");
    let idp = Idp::start(&[&rsa]);
    let provider = by(
        "RS256",
        &format!("jwks: \"{}\", token: [bearer, {{cookie: session}}, {{header: x-token}}]", idp.url()),
    );
    let gateway = Gateway::start(&format!(
        "providers: {{idp: {{jwt: {{issuer: \"{ISSUER}\", {provider}}}}}}}
routes:
  - {{path: /, upstream: \"{0}\", auth: {{any: [{{jwt: idp}}]}}}}
  - {{path: /pass, upstream: \"{0}\", auth: {{any: [{{jwt: idp}}], pass_credentials: true}}}}
",
        origin.url()
    ));
    let token = rsa.token(json!({}));
    let bearer = format!("Bearer {token}");
    let cookie = format!("a=1; session={token}; b=2");
    let ways = [("Authorization", &bearer), ("Cookie", &cookie), ("X-Token", &token)];
    for (name, value) in ways {
        let send = |path: &str| exchange(gateway.address(), request("GET", path, &[(name, value)])).status;
        assert_eq!(send("/"), 200, "{name}");
        assert!(!origin.last().head.contains(&token), "{name}: {}", origin.last().head);
        if name == "Cookie" {
            assert_eq!(origin.last().field("cookie"), Some("a=1; b=2"));
        }
        assert_eq!(send("/pass"), 200, "{name}");
        assert!(origin.last().head.contains(&token), "{name}: {}", origin.last().head);
    }
    let before = origin.received().len();
    for (one, two) in [(0, 1), (0, 2), (1, 2), (0, 0), (2, 2)] {
        let fields = [(ways[one].0, ways[one].1.as_str()), (ways[two].0, ways[two].1.as_str())];
        let answer = exchange(gateway.address(), request("GET", "/", &fields));
        assert_eq!((answer.status, answer.problem().as_str()), (400, "auth_ambiguous"), "{one} and {two}");
    }
    assert_eq!(origin.received().len(), before);
}

#[test]
fn a_claim_names_the_consumer() {
    let origin = Origin::text("in");
    let rsa = Signer::rsa("r1");
    let idp = Idp::start(&[&rsa]);
    let keys = format!("issuer: \"{ISSUER}\", {}", by("RS256", &format!("jwks: \"{}\"", idp.url())));
    let gateway = Gateway::start(&format!(
        "access_log: {{path: $FOLDER/access.log}}
consumers: {{alice: {{groups: [staff]}}}}
providers:
  strict: {{jwt: {{{keys}, consumer_claim: sub}}}}
  open: {{jwt: {{{keys}, consumer_claim: sub, unknown_consumer: accept, groups_claim: groups}}}}
routes:
  - {{path: /strict, upstream: \"{0}\", auth: {{any: [{{jwt: strict}}]}}}}
  - {{path: /open, upstream: \"{0}\", auth: {{any: [{{jwt: open}}]}}}}
  - {{path: /staff, upstream: \"{0}\", auth: {{any: [{{jwt: open}}], groups: [staff]}}}}
",
        origin.url()
    ));
    let (alice, bob) = (rsa.token(json!({"sub": "alice"})), rsa.token(json!({"sub": "bob"})));
    let manager = rsa.token(json!({"sub": "carol", "groups": ["staff"]}));
    assert_eq!(ask(&gateway, "/strict", &alice).status, 200);
    assert_eq!(origin.last().field("x-consumer"), Some("alice"));
    assert_eq!(origin.last().field("x-consumer-groups"), Some("staff"));
    let refused = ask(&gateway, "/strict/bob", &bob);
    assert_eq!((refused.status, refused.problem().as_str()), (403, "auth_unknown_consumer"));
    assert_eq!(ask(&gateway, "/open", &bob).status, 200);
    assert_eq!(origin.last().all("x-consumer"), Vec::<&str>::new());
    assert_eq!(ask(&gateway, "/staff", &alice).status, 200);
    assert_eq!(ask(&gateway, "/staff", &manager).status, 200, "the group is the token's");
    assert_eq!(ask(&gateway, "/staff", &bob).status, 403);
    let lines = gateway.access_lines(6);
    assert_eq!(lines[0]["consumer"], "alice");
}

#[test]
fn scopes_and_claims_are_asked_for() {
    let origin = Origin::text("in");
    let rsa = Signer::rsa("r1");
    let idp = Idp::start(&[&rsa]);
    let provider = by("RS256", &format!("jwks: \"{}\", required_claims: {{tenant: [a, b]}}", idp.url()));
    let gateway = Gateway::start(&format!(
        "access_log: {{path: $FOLDER/access.log}}
providers: {{idp: {{jwt: {{issuer: \"{ISSUER}\", {provider}}}}}}}
routes: [{{path: /, upstream: \"{}\", auth: {{any: [{{jwt: idp}}], scopes: [write]}}}}]
",
        origin.url()
    ));
    let of = |path: &str, change: Value| ask(&gateway, path, &rsa.token(change));
    assert_eq!(of("/", json!({"tenant": "b", "scope": "read write"})).status, 200);
    assert_eq!(of("/", json!({"tenant": ["x", "a"], "scp": ["write"]})).status, 200);
    assert_eq!(of("/tenant", json!({"tenant": "c", "scope": "write"})).status, 401);
    assert_eq!(reason(&gateway, "/tenant"), "jwt_claim");
    assert_eq!(of("/no-tenant", json!({"scope": "write"})).status, 401);
    let narrow = of("/scope", json!({"tenant": "a", "scope": "read rewrite"}));
    assert_eq!((narrow.status, narrow.problem().as_str()), (403, "auth_scope"));
    let challenge = narrow.field("www-authenticate").unwrap();
    assert!(challenge.contains("error=\"insufficient_scope\""), "{challenge}");
}

// ---- ways in ----

#[test]
fn no_way_in_without_a_token() {
    let origin = Origin::text("in");
    let rsa = Signer::rsa("r1");
    let idp = Idp::start(&[&rsa]);
    let gateway = start(&origin, &by("RS256", &format!("jwks: \"{}\"", idp.url())));
    let upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket")];
    let ways: [(&str, &[(&str, &str)]); 8] = [
        ("GET", &[]),
        ("HEAD", &[]),
        ("OPTIONS", &[]),
        ("POST", &[("Content-Length", "0")]),
        ("GET", &upgrade),
        ("GET", &[("Authorization", "Basic YTpi")]),
        ("OPTIONS", &[("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET")]),
        ("GET", &[("X-Consumer", "root"), ("Proxy-Authorization", "Bearer x")]),
    ];
    for (method, fields) in ways {
        let mut client = kit::Raw::connect(gateway.address());
        let answer = client.send(request(method, "/", fields)).response_to(method);
        assert_eq!(answer.status, 401, "{method} {fields:?}");
        // RFC 6750 §3: no error where nothing was shown.
        assert_eq!(
            answer.field("www-authenticate"),
            Some("Bearer realm=\"portcullis\""),
            "{method} {fields:?}"
        );
    }
    assert_eq!(origin.connections(), 0);
    let bearer = format!("Bearer {}", rsa.token(json!({})));
    for method in ["GET", "HEAD", "OPTIONS"] {
        let mut client = kit::Raw::connect(gateway.address());
        let answer = client.send(request(method, "/", &[("Authorization", &bearer)])).response_to(method);
        assert_eq!(answer.status, 200, "{method}");
    }
    let twice = [("Authorization", bearer.as_str()), ("Authorization", "Bearer x")];
    assert_eq!(exchange(gateway.address(), request("GET", "/", &twice)).status, 400);
}

#[test]
fn http2_is_no_other_way() {
    let origin = Origin::text("in");
    let rsa = Signer::rsa("r1");
    let idp = Idp::start(&[&rsa]);
    let provider = by("RS256", &format!("jwks: \"{}\", token: [bearer, {{cookie: session}}]", idp.url()));
    let text = yaml(&origin, &provider, "listeners: [{address: \"127.0.0.1:0\", protocols: [h2]}]");
    let gateway = Gateway::start(&text);
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let with = |fields: &[(&'static str, &str)]| {
            let mut request = http2::get("/");
            for (name, value) in fields {
                request.headers_mut().append(*name, value.parse().unwrap());
            }
            request
        };
        let token = rsa.token(json!({}));
        let bearer = format!("Bearer {token}");
        let cookie = format!("session={token}");
        for (fields, status) in [
            (&[][..], 401),
            (&[("authorization", "Bearer x.y.z")], 401),
            (&[("authorization", &bearer)], 200),
            (&[("cookie", "a=1"), ("cookie", &cookie)], 200),
            (&[("authorization", &bearer), ("cookie", &cookie)], 400),
            (&[("cookie", &cookie), ("cookie", "session=x")], 400),
        ] {
            let answer = client.exchange(with(fields), b"").await.unwrap();
            assert_eq!(answer.status, status, "{fields:?}");
        }
    });
    assert_eq!(origin.received().len(), 2);
    assert_eq!(origin.last().field("cookie"), Some("a=1"));
}

#[test]
fn each_provider_has_its_own_tokens() {
    let origin = Origin::text("in");
    let (one, two) = (Signer::rsa("k"), Signer::ec("k"));
    let (first, second) = (Idp::start(&[&one]), Idp::start(&[&two]));
    let gateway = Gateway::start(&format!(
        "access_log: {{path: $FOLDER/access.log}}
providers:
  one: {{jwt: {{issuer: \"{ISSUER}\", {}}}}}
  two: {{jwt: {{issuer: \"https://two.example\", {}}}}}
routes:
  - {{path: /, upstream: \"{2}\", auth: {{any: [{{jwt: one}}, {{jwt: two}}]}}}}
  - {{path: /one, upstream: \"{2}\", auth: {{any: [{{jwt: one}}]}}}}
",
        by("RS256, ES256", &format!("jwks: \"{}\"", first.url())),
        by("RS256, ES256", &format!("jwks: \"{}\"", second.url())),
        origin.url()
    ));
    let theirs = two.token(json!({"iss": "https://two.example"}));
    assert_eq!(ask(&gateway, "/", &one.token(json!({}))).status, 200);
    assert_eq!(ask(&gateway, "/", &theirs).status, 200);
    assert_eq!(ask(&gateway, "/one", &theirs).status, 401);
    assert_eq!(reason(&gateway, "/one"), "jwt_issuer");
    // A key of one's never signs for the other, though both call it the same.
    assert_eq!(ask(&gateway, "/forged", &two.token(json!({}))).status, 401);
    let old = two.token(json!({"iss": "https://two.example", "exp": now() - 9}));
    assert_eq!(ask(&gateway, "/old", &old).status, 401);
    assert_eq!(reason(&gateway, "/old"), "jwt_expired", "the reason of whose token it is");
    assert_eq!((first.asked(), second.asked()), (1, 1), "nobody's keys were fetched for the other's tokens");
}

// ---- keys ----

#[test]
fn a_provider_that_changes_its_keys_is_followed_at_once() {
    let origin = Origin::text("in");
    let (old, new) = (Signer::rsa("old"), Signer::rsa("new"));
    let idp = Idp::start(&[&old]);
    let gateway = start(&origin, &by("RS256", &format!("jwks: \"{}\", refresh: 1h", idp.url())));
    let (by_old, by_new) = (old.token(json!({})), new.token(json!({})));
    assert_eq!(ask(&gateway, "/", &by_old).status, 200);
    idp.has(&[&new]);
    assert_eq!(ask(&gateway, "/", &by_old).status, 200, "nobody has asked yet");
    assert_eq!(ask(&gateway, "/", &by_new).status, 200, "the request has waited for the new keys");
    assert_eq!(ask(&gateway, "/old", &by_old).status, 401, "what was remembered went with its key");
    assert_eq!(reason(&gateway, "/old"), "jwt_kid_unknown");
    assert_eq!(idp.asked(), 2);
}

#[test]
fn a_key_that_is_withdrawn_is_forgotten_with_the_next_refresh() {
    let origin = Origin::text("in");
    let (old, new) = (Signer::rsa("old"), Signer::rsa("new"));
    let idp = Idp::start(&[&old, &new]);
    let gateway =
        start(&origin, &by("RS256", &format!("jwks: \"{}\", refresh: 1s, cooldown: 1h", idp.url())));
    let (by_old, by_new) = (old.token(json!({})), new.token(json!({})));
    assert_eq!([ask(&gateway, "/", &by_old).status, ask(&gateway, "/", &by_new).status], [200, 200]);
    idp.has(&[&new]);
    wait_status(&gateway, &by_old, 401);
    assert_eq!(ask(&gateway, "/", &by_new).status, 200);
    // The same set again is no other set: what is remembered stays.
    let asked = idp.asked();
    until("it is fetched twice more", || idp.asked() > asked + 1);
    assert_eq!(metric(&gateway, "portcullis_jwt_tokens_cached{provider=\"idp\"}"), Some(1.0));
}

#[test]
fn a_flood_of_unknown_keys_has_few_fetched() {
    let origin = Origin::text("in");
    let rsa = Signer::rsa("r1");
    let idp = Idp::start(&[&rsa]);
    let gateway =
        start(&origin, &by("RS256", &format!("jwks: \"{}\", refresh: 1h, cooldown: 1h", idp.url())));
    let tokens: Vec<String> =
        (0..200).map(|number| rsa.with_header(json!({"kid": format!("x{number}")}), json!({}))).collect();
    std::thread::scope(|scope| {
        for part in tokens.chunks(25) {
            let gateway = &gateway;
            scope.spawn(move || {
                part.iter().for_each(|token| assert_eq!(ask(gateway, "/", token).status, 401))
            });
        }
    });
    assert_eq!(idp.asked(), 2, "at the start, and once for all of them");
    assert_eq!(ask(&gateway, "/", &rsa.token(json!({}))).status, 200);
}

#[test]
fn without_keys_nobody_comes_in_and_is_told_to_come_again() {
    let origin = Origin::text("in");
    let rsa = Signer::rsa("r1");
    let idp = Idp::start(&[&rsa]);
    idp.origin.stop();
    let gateway = start(&origin, &by("RS256", &format!("jwks: \"{}\"", idp.url())));
    let token = rsa.token(json!({}));
    for (path, token) in [("/good", token.as_str()), ("/bad", "x.y.z")] {
        let answer = ask(&gateway, path, token);
        assert_eq!((answer.status, answer.problem().as_str()), (503, "keys_unavailable"), "{path}");
        assert!(answer.field("retry-after").is_some());
        assert_eq!(reason(&gateway, path), "keys_unavailable");
    }
    assert_eq!(exchange(gateway.address(), request("GET", "/", &[])).status, 401, "no token is no token");
    gateway.wait_log(&["provider idp", "until there are some, nobody comes in"]);
    assert_eq!(metric(&gateway, "portcullis_jwt_keys{provider=\"idp\"}"), Some(0.0));
    assert_eq!(origin.connections(), 0);
    idp.origin.restart();
    wait_status(&gateway, &token, 200);
    assert_eq!(metric(&gateway, "portcullis_jwt_keys{provider=\"idp\"}"), Some(1.0));
}

#[test]
fn the_last_good_keys_stay_whatever_the_provider_says() {
    let origin = Origin::text("in");
    let rsa = Signer::rsa("r1");
    let idp = Idp::start(&[&rsa]);
    let provider = format!("jwks: \"{}\", refresh: 1s, timeout: 500ms, max_size: 4KiB", idp.url());
    let gateway = start(&origin, &by("RS256", &provider));
    let token = rsa.token(json!({}));
    assert_eq!(ask(&gateway, "/", &token).status, 200);
    let weak = json!({"kty": "RSA", "n": encode([0xff; 128]), "e": "AQAB"});
    let secret = json!({"kty": "oct", "k": encode([7; 64])});
    let many: Vec<Value> = (0..101).map(|_| json!({"kty": "oct", "k": "AA"})).collect();
    let moved = "HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n";
    let cases: Vec<(&str, Vec<Step>, &str)> = vec![
        ("garbage", reply(200, "<html>"), "not one JSON object"),
        ("empty", reply(200, &set(&[])), "it has none"),
        ("no set", reply(200, "{}"), "no list called keys"),
        ("weak", reply(200, &set(&[weak])), "too short"),
        ("secret", reply(200, &set(&[secret])), "anybody can fetch"),
        ("too many", reply(200, &set(&many)), "100 are the most"),
        ("giant", reply(200, &"x".repeat(5000)), "length limit exceeded"),
        ("error", reply(500, &set(&[rsa.jwk()])), "it answers 500"),
        ("elsewhere", raw(moved), "it answers 302"),
        ("slow", vec![Step::Pause(Duration::from_secs(2))], "no answer within"),
        ("reset", vec![Step::Reset], "reset"),
    ];
    for (what, steps, why) in cases {
        let lines = gateway.log().len();
        idp.says(steps);
        until(&format!("{what}: {why} in {:?}", gateway.log_from(lines)), || {
            let log = gateway.log_from(lines);
            log.iter().any(|line| {
                line.contains("provider idp") && line.contains(why) && line.contains("stay in use")
            })
        });
        assert_eq!(ask(&gateway, "/", &token).status, 200, "{what}");
        assert_eq!(
            ask(&gateway, "/", &rsa.token(json!({"sub": what}))).status,
            200,
            "{what}: not remembered"
        );
        idp.has(&[&rsa]);
        let asked = idp.asked();
        until("it is well again", || idp.asked() > asked);
    }
    assert!(metric(&gateway, "portcullis_jwt_refresh_failures_total{provider=\"idp\"}").unwrap() >= 11.0);
    let seen = metric(&gateway, "portcullis_jwt_keys_seen_timestamp_seconds{provider=\"idp\"}").unwrap();
    assert!((seen as i64 - now()).abs() < 60, "{seen}");
    assert!(idp.origin.received().iter().all(|request| request.target() == "/jwks.json"));
}

#[test]
fn keys_come_over_tls_from_who_can_prove_it() {
    let origin = Origin::text("in");
    let rsa = Signer::rsa("r1");
    let idp = Idp::start(&[&rsa]);
    let (authority, other) = (Authority::new("right"), Authority::new("wrong"));
    let secure =
        Secure::start(idp.origin.address, kit::secure::server(&authority.leaf(&["localhost"]), None));
    let port = secure.target().rsplit(':').next().unwrap().to_owned();
    let from = |authority: &Authority| {
        let ca = authority.file();
        start(
            &origin,
            &by("RS256", &format!("jwks: \"https://localhost:{port}/jwks.json\", ca: \"{}\"", ca.display())),
        )
    };
    let token = rsa.token(json!({}));
    assert_eq!(ask(&from(&authority), "/", &token).status, 200);
    let refused = from(&other);
    assert_eq!(ask(&refused, "/", &token).status, 503);
    refused.wait_log(&["provider idp", "certificate"]);
    assert_eq!(idp.asked(), 1);
}

#[test]
fn a_file_of_keys_is_followed() {
    let origin = Origin::text("in");
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "keys.json", &[old.jwk()]);
    let gateway = start(&origin, &by("ES256", &format!("file: \"{path}\"")));
    let (by_old, by_new) = (old.token(json!({})), new.token(json!({})));
    assert_eq!([ask(&gateway, "/", &by_old).status, ask(&gateway, "/", &by_new).status], [200, 401]);
    kit::certs::replace(Path::new(&path), &set(&[new.jwk()]));
    wait_status(&gateway, &by_new, 200);
    assert_eq!(ask(&gateway, "/", &by_old).status, 401, "remembered, and forgotten with its key");
    kit::certs::replace(Path::new(&path), "{");
    gateway.wait_log(&["provider idp", "not one JSON object", "stay in use"]);
    assert_eq!(ask(&gateway, "/", &by_new).status, 200);
    std::fs::remove_file(&path).unwrap();
    gateway.wait_log(&["provider idp", "it is gone", "stay in use"]);
    assert_eq!(ask(&gateway, "/", &by_new).status, 200);
    std::fs::write(&path, set(&[old.jwk()])).unwrap();
    wait_status(&gateway, &by_old, 200);
}

#[test]
fn what_is_remembered_ends_with_its_time() {
    let origin = Origin::text("in");
    let rsa = Signer::rsa("r1");
    let idp = Idp::start(&[&rsa]);
    let gateway = start(&origin, &by("RS256", &format!("jwks: \"{}\"", idp.url())));
    let token = rsa.token(json!({"exp": now() + 3}));
    assert_eq!(ask(&gateway, "/first", &token).status, 200);
    assert_eq!(metric(&gateway, "portcullis_jwt_tokens_cached{provider=\"idp\"}"), Some(1.0));
    wait_status(&gateway, &token, 401);
    assert_eq!(ask(&gateway, "/last", &token).status, 401);
    assert_eq!(reason(&gateway, "/last"), "jwt_expired");
}

#[test]
fn a_reload_keeps_the_keys_and_nothing_that_no_longer_holds() {
    let origin = Origin::text("in");
    let (rsa, other) = (Signer::rsa("r1"), Signer::rsa("r1"));
    let idp = Idp::start(&[&rsa]);
    let jwks = format!("jwks: \"{}\", timeout: 500ms", idp.url());
    let gateway = start(&origin, &by("RS256", &jwks));
    let token = rsa.token(json!({}));
    assert_eq!(ask(&gateway, "/", &token).status, 200);
    idp.origin.stop();
    let reload = |text: &str| assert!(gateway.reload(text).contains("] reloaded "));
    reload(&yaml(&origin, &by("RS256", &jwks), "trusted_proxies: [10.0.0.0/8]"));
    assert_eq!(ask(&gateway, "/", &token).status, 200, "the same provider");
    reload(&yaml(&origin, &format!("audience: [other], algorithms: [RS256], {jwks}"), ""));
    assert_eq!(ask(&gateway, "/aud", &token).status, 401, "remembered under other settings");
    assert_eq!(reason(&gateway, "/aud"), "jwt_audience");
    assert_eq!(ask(&gateway, "/", &rsa.token(json!({"aud": "other"}))).status, 200, "with the keys it had");
    // Keys of elsewhere are others, whatever they are called.
    let elsewhere = Idp::start(&[&other]);
    reload(&yaml(&origin, &by("RS256", &format!("jwks: \"{}\"", elsewhere.url())), ""));
    assert_eq!(ask(&gateway, "/", &token).status, 401);
    assert_eq!(ask(&gateway, "/", &other.token(json!({}))).status, 200);
    reload(&format!(
        "admin: {{address: \"127.0.0.1:0\"}}\nroutes: [{{path: /, upstream: \"{}\"}}]",
        origin.url()
    ));
    let text = look(&gateway, "/metrics");
    assert!(!text.contains("portcullis_jwt"), "no provider, no series");
}
