//! Who may come in: by key, password, certificate or a service that is asked; and that nobody else does, however they ask.

mod kit;

use aws_lc_rs::digest;
use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use kit::certs::{Authority, Leaf};
use kit::gateway::{check, repository};
use kit::http2::{self, run};
use kit::origin::{raw, refusing, reply, silent};
use kit::raw::{exchange, get};
use kit::tls::Client;
use kit::{until, Gateway, Http2, Origin, Raw, Received, Response, Step};
use std::time::Duration;

/// Of the password "open sesame", by bcrypt.
const SESAME: &str = "$2b$10$EEQ97A4wIv3a/mLAl.FMLOjJsSulC.Vmmh2oh9gDdZHZ74pGZb5lm";

/// As a file has it.
fn hash(key: &str) -> String {
    let digest = digest::digest(&digest::SHA256, key.as_bytes());
    format!("sha256:{}", digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn basic(credentials: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(credentials))
}

/// Says what it got.
fn echo() -> Origin {
    Origin::start(|request| reply(200, &request.head))
}

/// Two who are known by keys, and one of them by a password too.
fn consumers() -> String {
    format!(
        "consumers:\n  app:\n    groups: [external, mobile]\n    api_keys: [\"{}\", {{hash: \"{}\", expires: 2020-01-01}}, {{hash: \"{}\", expires: 2099-01-01}}]\n    \
         basic: {{username: ali, password: \"{SESAME}\"}}\n  batch:\n    api_keys: [\"{}\"]\n",
        hash("app-key"),
        hash("old-key"),
        hash("new-key"),
        hash("batch-key"),
    )
}

/// These routes before an origin, written as `ORIGIN`.
fn start(routes: &str, origin: &Origin) -> Gateway {
    Gateway::start(&yaml(routes, origin))
}

fn yaml(routes: &str, origin: &Origin) -> String {
    let log = "access_log: {path: $FOLDER/access.log}\nadmin: {address: \"127.0.0.1:0\"}\n";
    format!("{log}{}routes:\n{}", consumers(), routes.replace("ORIGIN", &origin.url()))
}

fn ask(gateway: &Gateway, target: &str, fields: &str) -> Response {
    exchange(gateway.address(), format!("GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n"))
}

/// Of the admin endpoint.
fn page(gateway: &Gateway, path: &str) -> String {
    let answer = exchange(gateway.admin(), format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.text()
}

const KEY: &str = "X-Api-Key: app-key\r\n";
const GUARDED: &str = "- {path: /api, upstream: ORIGIN, auth: api_key}\n";

#[test]
fn nobody_comes_in_without_a_credential_however_they_ask() {
    let origin = echo();
    let gateway = start(&format!("{GUARDED}- {{path: /open, upstream: ORIGIN}}\n"), &origin);
    let body = "Content-Length: 2\r\n\r\nhi";
    let socket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    let requests = [
        ("GET /api HTTP/1.1", "\r\n"),
        ("GET /api/ HTTP/1.1", "\r\n"),
        ("HEAD /api/x HTTP/1.1", "\r\n"),
        ("OPTIONS /api HTTP/1.1", "\r\n"),
        ("OPTIONS /api HTTP/1.1", "Origin: http://a.test\r\nAccess-Control-Request-Method: GET\r\n\r\n"),
        ("PROPFIND /api HTTP/1.1", "\r\n"),
        ("POST /api HTTP/1.1", body),
        ("POST /api HTTP/1.1", "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"),
        ("GET /api HTTP/1.0", "\r\n"),
        ("GET http://test/api HTTP/1.1", "\r\n"),
        ("GET /api?x-api-key=app-key&api_key=app-key HTTP/1.1", "\r\n"),
        (
            "GET /api HTTP/1.1",
            "Authorization: app-key\r\nCookie: x-api-key=app-key\r\nX_Api_Key: app-key\r\n\r\n",
        ),
        ("GET /api HTTP/1.1", "Client-Cert: :AAAA:\r\nX-Consumer: app\r\nX-Forwarded-User: app\r\n\r\n"),
        ("GET /api HTTP/1.1", socket),
        // However the path is spelt, it is the one that the upstream would get.
        ("GET /open/../api/x HTTP/1.1", "\r\n"),
        ("GET //api//x HTTP/1.1", "\r\n"),
        ("GET /%61pi/x HTTP/1.1", "\r\n"),
        ("GET /./open/%2e%2e/a%70i HTTP/1.1", "\r\n"),
    ];
    for (line, rest) in requests {
        let method = line.split(' ').next().unwrap();
        let mut client = Raw::connect(gateway.address());
        let answer =
            client.send(format!("{line}\r\nHost: test\r\nConnection: close\r\n{rest}")).response_to(method);
        assert_eq!(answer.status, 401, "{line}: {answer:?}");
        assert_eq!(answer.field("www-authenticate"), Some("ApiKey realm=\"portcullis\""), "{line}");
        if method != "HEAD" {
            assert_eq!(answer.problem(), "auth_missing", "{line}");
        }
    }
    for line in ["GET /api%2fx HTTP/1.1", "GET /open/..%2fapi HTTP/1.1", "GET /open\\..\\api HTTP/1.1"] {
        assert_eq!(
            exchange(gateway.address(), format!("{line}\r\nHost: test\r\n\r\n")).status,
            400,
            "{line}"
        );
    }
    assert_eq!(origin.received().len(), 0);
    // The same come in with a key.
    for (count, (line, rest)) in requests.iter().enumerate() {
        let method = line.split(' ').next().unwrap();
        let mut client = Raw::connect(gateway.address());
        let answer = client
            .send(format!("{line}\r\nHost: test\r\n{KEY}{rest}"))
            .send(if rest.contains("Expect") { "hi" } else { "" })
            .response_to(method);
        assert_eq!(answer.status, 200, "{line}: {answer:?}");
        assert_eq!(origin.received().len(), count + 1);
    }
}

#[test]
fn each_refusal_has_its_reason_in_the_answer_the_log_and_the_metrics() {
    let origin = echo();
    let routes = "- {path: /, upstream: ORIGIN, auth: {any: [{api_key: {header: x-api-key, query: key}}, basic]}}\n\
                  - {path: /mobile, upstream: ORIGIN, auth: {any: [api_key], groups: {all: [external, mobile]}}}\n";
    let gateway = start(routes, &origin);
    let cases = [
        ("/", "", 401, "auth_missing", ""),
        ("/", "X-Api-Key: wrong\r\n", 401, "auth_unknown_key", ""),
        ("/", "X-Api-Key: old-key\r\n", 401, "auth_expired_key", ""),
        ("/", "X-Api-Key:\r\n", 401, "auth_malformed", ""),
        ("/", "X-Api-Key: app-key\r\nX-Api-Key: app-key\r\n", 400, "auth_ambiguous", ""),
        ("/?key=app-key", KEY, 400, "auth_ambiguous", ""),
        ("/?key=app-key&key=app-key", "", 400, "auth_ambiguous", ""),
        ("/?key=", "", 401, "auth_malformed", ""),
        ("/", &basic("ali:wrong"), 401, "auth_bad_password", ""),
        ("/", &basic("nobody:open sesame"), 401, "auth_bad_password", ""),
        ("/", &basic("ALI:open sesame"), 401, "auth_bad_password", ""),
        ("/", &basic("no colon"), 401, "auth_malformed", ""),
        ("/", "Authorization: Basic !!!\r\n", 401, "auth_malformed", ""),
        ("/", "Authorization: Basic\r\n", 401, "auth_malformed", ""),
        ("/", "Authorization: Bearer abc\r\n", 401, "auth_missing", ""),
        ("/", &[basic("ali:open sesame"), basic("ali:open sesame")].concat(), 400, "auth_ambiguous", ""),
        (
            "/",
            &["Authorization: Bearer abc\r\n", &basic("ali:open sesame")].concat(),
            400,
            "auth_ambiguous",
            "",
        ),
        // Not even beside one that is good: it is not known which the client means.
        (
            "/",
            &["X-Api-Key: x\r\nX-Api-Key: y\r\n", &basic("ali:open sesame")].concat(),
            400,
            "auth_ambiguous",
            "",
        ),
        ("/mobile", "X-Api-Key: batch-key\r\n", 403, "auth_group", "batch"),
        ("/mobile", "X-Api-Key: app-key\r\n", 200, "", "app"),
        ("/", "X-Api-Key: new-key\r\n", 200, "", "app"),
        ("/?key=batch-key", "", 200, "", "batch"),
        ("/", &basic("ali:open sesame"), 200, "", "app"),
        // One that is good is enough, even beside one that is not.
        ("/", &["X-Api-Key: wrong\r\n", &basic("ali:open sesame")].concat(), 200, "", "app"),
    ];
    for (at, (target, fields, status, reason, consumer)) in cases.iter().enumerate() {
        let answer = ask(&gateway, target, fields);
        assert_eq!(answer.status, *status, "{target} {fields:?}: {answer:?}");
        if *status != 200 {
            assert_eq!(answer.problem(), *reason, "{target} {fields:?}");
        }
        let challenges = answer.all("www-authenticate");
        let expected: &[&str] = if *status == 401 {
            &["ApiKey realm=\"portcullis\"", "Basic realm=\"portcullis\", charset=\"UTF-8\""]
        } else {
            &[]
        };
        assert_eq!(challenges, expected, "{target} {fields:?}");
        let line = gateway.access_lines(at + 1).pop().unwrap();
        assert_eq!(line["error"].as_str().unwrap_or_default(), *reason, "{line}");
        assert_eq!(line["consumer"].as_str().unwrap_or_default(), *consumer, "{line}");
    }
    let metrics = page(&gateway, "/metrics");
    for (route, reason, count) in
        [("/", "auth_missing", 2), ("/", "auth_ambiguous", 6), ("/mobile", "auth_group", 1)]
    {
        let line = format!("portcullis_rejected_total{{route=\"{route}\",reason=\"{reason}\"}} {count}");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}

/// What the upstream got of a request that came in.
fn forwarded(gateway: &Gateway, origin: &Origin, target: &str, fields: &str) -> Received {
    let before = origin.received().len();
    let answer = ask(gateway, target, fields);
    assert_eq!(answer.status, 200, "{target} {fields}: {answer:?}");
    assert_eq!(origin.received().len(), before + 1);
    origin.last()
}

#[test]
fn the_upstream_is_told_who_asks_and_gets_no_credential() {
    let origin = echo();
    let method = "{api_key: {header: x-api-key, query: k.1}}";
    let routes = format!(
        "- {{path: /, upstream: ORIGIN, auth: {{any: [{method}, basic]}}}}\n\
         - {{path: /pass, upstream: ORIGIN, auth: {{any: [{method}, basic], pass_credentials: true}}}}\n"
    );
    let gateway = start(&routes, &origin);
    let got =
        forwarded(&gateway, &origin, "/?a=1", &format!("{KEY}x_api_key: app-key\r\nX-Consumer: root\r\n"));
    assert_eq!(got.field("x-consumer"), Some("app"));
    assert_eq!(got.field("x-consumer-groups"), Some("external,mobile"));
    assert_eq!((got.field("x-api-key"), got.field("x_api_key")), (None, None), "{}", got.head);
    assert_eq!(got.target(), "/?a=1");
    // Who has no groups has none, whatever they say.
    let spoofed = "X-Api-Key: batch-key\r\nX-Consumer-Groups: admin\r\nX_Consumer_Groups: admin\r\n";
    let got = forwarded(&gateway, &origin, "/", spoofed);
    assert_eq!((got.field("x-consumer"), got.field("x-consumer-groups")), (Some("batch"), None));
    assert!(!got.head.contains("admin"), "{}", got.head);
    // In the query, however it is spelt there.
    for (target, left) in [
        ("/?k.1=app-key", "/"),
        ("/x?a=1&k.1=app-key&b=2", "/x?a=1&b=2"),
        ("/?%6B%2E1=app%2Dkey&k=1", "/?k=1"),
    ] {
        assert_eq!(forwarded(&gateway, &origin, target, "").target(), left);
    }
    let got = forwarded(&gateway, &origin, "/", &basic("ali:open sesame"));
    assert_eq!((got.field("authorization"), got.field("x-consumer")), (None, Some("app")));
    // What is for the upstream is not taken away.
    let got = forwarded(&gateway, &origin, "/", &format!("{KEY}Authorization: Bearer abc\r\n"));
    assert_eq!((got.field("authorization"), got.field("x-api-key")), (Some("Bearer abc"), None));
    // Unless it is told to pass.
    let got = forwarded(&gateway, &origin, "/pass?k.1=app-key", &basic("ali:open sesame"));
    assert_eq!((got.target(), got.field("authorization").is_some()), ("/pass?k.1=app-key", true));
    assert_eq!(forwarded(&gateway, &origin, "/pass", KEY).field("x-api-key"), Some("app-key"));
    let log = std::fs::read_to_string(gateway.folder.path().join("access.log")).unwrap();
    assert!(log.contains("k.1=***") && !log.contains("app-key") && !log.contains("app%2Dkey"), "{log}");
}

#[test]
fn nobody_says_who_they_are_where_nobody_is_asked() {
    let origin = echo();
    let gateway = Gateway::start(&format!(
        "trusted_proxies: [127.0.0.1]\nlisteners: [{{address: \"127.0.0.1:0\", protocols: [h2, http1]}}]\nroutes: [{{upstream: \"{}\"}}]",
        origin.url()
    ));
    let names = ["X-Consumer", "x-consumer-groups", "X_Consumer", "X-Consumer_Groups", "x_consumer_groups"];
    let fields: String = names.iter().map(|name| format!("{name}: admin\r\n")).collect();
    let got = forwarded(&gateway, &origin, "/", &fields);
    assert!(!got.head.contains("admin"), "{}", got.head);
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let mut request = http2::get("/");
        for name in names {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, "admin".parse().unwrap());
        }
        assert_eq!(client.exchange(request, b"").await.unwrap().status, 200);
    });
    assert!(!origin.last().head.contains("admin"), "{}", origin.last().head);
}

#[test]
fn each_request_of_a_connection_shows_its_own_credential() {
    let origin = echo();
    let gateway = start(GUARDED, &origin);
    let request = |fields: &str| format!("GET /api HTTP/1.1\r\nHost: test\r\n{fields}\r\n");
    let mut client = Raw::connect(gateway.address());
    let all = [request(KEY), request(""), request("X-Api-Key: batch-key\r\n"), request("")].concat();
    client.send(all);
    let answers: Vec<Response> = (0..4).map(|_| client.response()).collect();
    assert_eq!(answers.iter().map(|a| a.status).collect::<Vec<_>>(), [200, 401, 200, 401]);
    let said: Vec<Option<String>> =
        origin.received().iter().map(|r| r.field("x-consumer").map(str::to_owned)).collect();
    assert_eq!(said, [Some("app".to_owned()), Some("batch".to_owned())]);
}

#[test]
fn http2_and_grpc_are_asked_the_same() {
    let origin = echo();
    let gateway = Gateway::start(&format!(
        "listeners: [{{address: \"127.0.0.1:0\", protocols: [h2, http1]}}]\n{}routes:\n{}",
        consumers(),
        GUARDED.replace("ORIGIN", &origin.url())
    ));
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let with = |name: &'static str, values: &[&str]| {
            let mut request = http2::get("/api");
            for value in values {
                request.headers_mut().append(name, value.parse().unwrap());
            }
            request
        };
        let answer = client.get("/api").await;
        assert_eq!((answer.status, answer.problem().as_str()), (401, "auth_missing"));
        assert_eq!(answer.field("www-authenticate"), Some("ApiKey realm=\"portcullis\""));
        let answer = client.exchange(with("x-api-key", &["app-key"]), b"").await.unwrap();
        assert!(answer.status == 200 && answer.text().contains("app"), "{answer:?}");
        let answer = client.exchange(with("x-api-key", &["app-key", "app-key"]), b"").await.unwrap();
        assert_eq!((answer.status, answer.problem().as_str()), (400, "auth_ambiguous"));
        assert_eq!(client.get("/api").await.status, 401);
        let mut call = with("content-type", &["application/grpc"]);
        *call.method_mut() = http::Method::POST;
        let answer = client.exchange(call, b"").await.unwrap();
        assert_eq!((answer.status, answer.field("grpc-status")), (200, Some("16")), "{answer:?}");
    });
    assert_eq!(origin.received().len(), 1);
}

#[test]
fn what_the_gateway_answers_itself_is_behind_auth_too() {
    let origin = echo();
    let key = "{any: [{api_key: {query: key}}]}";
    let routes = format!(
        "- {{path: /moved, redirect: {{to: \"https://other.test{{uri}}\"}}, auth: {key}}}\n\
         - {{path: /fixed, respond: {{body: inside}}, auth: {key}}}\n"
    );
    let gateway = start(&routes, &origin);
    for path in ["/moved", "/fixed"] {
        let answer = get(gateway.address(), path);
        assert_eq!((answer.status, answer.field("location")), (401, None));
        assert!(!answer.text().contains("inside"));
    }
    assert_eq!(get(gateway.address(), "/fixed?key=app-key").text(), "inside");
    // Elsewhere it is somebody else's.
    let answer = get(gateway.address(), "/moved?a=1&key=app-key");
    assert_eq!(answer.field("location"), Some("https://other.test/moved?a=1"));
}

#[test]
fn another_target_gets_the_same_identity() {
    let broken = Origin::start(|_| vec![Step::Reset]);
    let good = echo();
    let yaml = format!(
        "{}upstreams: {{app: {{targets: [\"{}\", \"{}\"]}}}}\nroutes:\n- {{path: /, upstream: app, auth: api_key}}\n",
        consumers(),
        broken.target(),
        good.target()
    );
    let gateway = Gateway::start(&yaml);
    until("one is tried after the other", || {
        assert_eq!(ask(&gateway, "/", KEY).status, 200);
        !broken.received().is_empty()
    });
    for got in broken.received().iter().chain(&good.received()) {
        assert_eq!((got.field("x-consumer"), got.field("x-api-key")), (Some("app"), None), "{}", got.head);
    }
}

#[test]
fn a_reload_counts_for_the_next_request_of_a_kept_connection() {
    let origin = echo();
    let gateway = start(GUARDED, &origin);
    let mut client = Raw::connect(gateway.address());
    let mut status = |fields: &str| {
        client.send(format!("GET /api HTTP/1.1\r\nHost: test\r\n{fields}\r\n")).response().status
    };
    let third = "X-Api-Key: third-key\r\n";
    assert_eq!((status(KEY), status(third)), (200, 401));
    let before = yaml(GUARDED, &origin);
    let after = before.replace(&hash("app-key"), &hash("third-key"));
    gateway.reload(&after);
    assert_eq!((status(KEY), status(third)), (401, 200));
    // A file that is wrong changes nothing.
    gateway.reload(&before.replace("sha256:", "sha1:"));
    assert_eq!((status(KEY), status(third)), (401, 200));
}

#[test]
fn a_password_that_was_right_is_wrong_once_it_is_changed() {
    let origin = echo();
    let routes = "- {path: /, upstream: ORIGIN, auth: basic}\n";
    let gateway = start(routes, &origin);
    let right = basic("ali:open sesame");
    assert_eq!((ask(&gateway, "/", &right).status, ask(&gateway, "/", &right).status), (200, 200));
    let other = portcullis::auth::password::hash(b"other").unwrap();
    gateway.reload(&yaml(routes, &origin).replace(SESAME, &other));
    assert_eq!(ask(&gateway, "/", &right).problem(), "auth_bad_password");
    assert_eq!(ask(&gateway, "/", &basic("ali:other")).status, 200);
}

#[test]
fn when_too_many_passwords_wait_nobody_new_is_let_in_and_who_is_known_is() {
    let origin = echo();
    let slow = bcrypt::hash("right", 14).unwrap(); // a second each
    let yaml = format!(
        "trusted_proxies: [127.0.0.1]\n\
         consumers: {{a: {{basic: {{username: a, password: \"{SESAME}\"}}}}, b: {{basic: {{username: b, password: \"{slow}\"}}}}}}\n\
         routes: [{{path: /, upstream: \"{}\", auth: basic}}]\n",
        origin.url()
    );
    let gateway = Gateway::start(&yaml);
    let known = basic("a:open sesame");
    assert_eq!(ask(&gateway, "/", &known).status, 200);
    // Each either waits, from then on, or is told at once that there is no room.
    let mut waiting = Vec::new();
    let mut room = |credentials: &str, address: &str| {
        let mut client = Raw::connect(gateway.address());
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: {address}\r\n{}\r\n",
            basic(credentials)
        ));
        if client.silent_for(Duration::from_millis(50)) {
            waiting.push(client);
            return None;
        }
        Some(client.response()).filter(|answer| answer.status != 401)
    };
    // One address has few places, and leaves room for others.
    let alone = kit::wait_for("there is no more room for one", || room("b:guess", "192.0.2.1"));
    assert_eq!((alone.status, alone.problem().as_str()), (503, "auth_busy"));
    let mut others = 0;
    for credentials in ["b:guess", "b:right"] {
        let answer = kit::wait_for("there is no more room", || {
            others += 1;
            room(credentials, &format!("198.51.100.{}", others % 200))
        });
        assert_eq!(answer.status, 503, "{credentials}: {answer:?}");
        assert_eq!((answer.problem().as_str(), answer.field("retry-after")), ("auth_busy", Some("1")));
    }
    assert_eq!(ask(&gateway, "/", &known).status, 200, "who is known waits for nobody");
    assert_eq!(origin.received().len(), 2);
    assert!(waiting.len() >= 64);
}

#[test]
fn a_certificate_is_known_by_its_subject_a_name_or_its_fingerprint() {
    let origin = echo();
    let (ca, clients) = (Authority::new("ca"), Authority::new("clients"));
    let server = ca.issue("server", &["api.test"]);
    let issue = |file: &str, names: &[&str], serial| {
        clients.issue_as(file, &Leaf { names, serial, ..Leaf::default() })
    };
    let (one, two, three) = (
        issue("one", &["one.test"], 11),
        issue("two", &["x.test", "10.1.2.3"], 12),
        issue("three", &["y.test"], 13),
    );
    let stranger = issue("stranger", &["z.test"], 14);
    let both = issue("both", &["one.test", "10.1.2.3"], 15);
    let print: String = digest::digest(&digest::SHA256, &kit::tls::der(&three))
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let gateway = Gateway::start(&format!(
        "listeners:\n  - address: \"127.0.0.1:0\"\n    tls: {{certificates: [{}], client_auth: {{ca: {}, mode: optional}}}}\n\
         consumers:\n  one: {{certificate: {{subject: CN=one.test}}, api_keys: [\"{}\"]}}\n  two: {{certificate: {{san: 10.1.2.3}}}}\n  three: {{certificate: {{fingerprint: \"sha256:{print}\"}}}}\n\
         routes:\n- {{path: /, upstream: \"{}\", auth: certificate}}\n- {{path: /all, upstream: \"{}\", auth: {{all: [certificate, api_key]}}}}\n",
        server.yaml(),
        clients.file().display(),
        hash("one-key"),
        origin.url(),
        origin.url()
    ));
    let of = |own: Option<&kit::certs::Issued>| {
        own.map_or_else(|| Client::of(&ca), |own| Client::known_by(&ca, own))
    };
    let says = |own: Option<&kit::certs::Issued>, fields: &str, path: &str| {
        let mut client = of(own).connect(gateway.address(), "api.test").unwrap();
        let answer = client.send(format!("GET {path} HTTP/1.1\r\nHost: api.test\r\n{fields}\r\n")).response();
        if answer.status == 200 {
            origin.last().field("x-consumer").unwrap().to_owned()
        } else {
            format!("{} {}", answer.status, answer.problem())
        }
    };
    assert_eq!(says(Some(&one), "", "/"), "one");
    assert_eq!(says(Some(&two), "", "/"), "two");
    assert_eq!(says(Some(&three), "", "/"), "three");
    assert_eq!(says(Some(&stranger), "", "/"), "401 auth_unknown_certificate");
    assert_eq!(says(Some(&both), "", "/"), "401 auth_contradiction");
    assert_eq!(says(None, "", "/"), "401 auth_missing");
    // What the certificate would be is not shown by who says what it is.
    let field = format!("Client-Cert: :{}:\r\n", STANDARD.encode(kit::tls::der(&one)));
    assert_eq!(says(None, &field, "/"), "401 auth_missing");
    // All of them, and the same one.
    let key = "X-Api-Key: one-key\r\n";
    assert_eq!(says(Some(&one), key, "/all"), "one");
    assert_eq!(says(Some(&two), key, "/all"), "401 auth_contradiction");
    assert_eq!(says(Some(&one), "", "/all"), "401 auth_missing");
    assert_eq!(says(None, key, "/all"), "401 auth_missing");
    assert_eq!(says(Some(&one), "X-Api-Key: x\r\n", "/all"), "401 auth_unknown_key");
}

#[test]
fn defaults_count_for_each_route_that_does_not_undo_them() {
    let origin = echo();
    let yaml = format!(
        "{}defaults: {{auth: api_key}}\nroutes:\n- {{path: /, upstream: \"{}\"}}\n- {{path: /open, upstream: \"{}\", auth: none}}\n",
        consumers(),
        origin.url(),
        origin.url()
    );
    let gateway = Gateway::start(&yaml);
    let status = |path, fields| ask(&gateway, path, fields).status;
    assert_eq!((status("/", ""), status("/", KEY), status("/open", "")), (401, 200, 200));
    assert_eq!(check(&format!("{}{yaml}", kit::gateway::LISTEN)), (0, vec![]));
}

#[test]
fn the_formats_of_ncsa_have_the_consumer_in_the_place_of_the_user() {
    let origin = echo();
    for format in ["common", "combined"] {
        let yaml = yaml(GUARDED, &origin).replace("access.log}", &format!("access.log, format: {format}}}"));
        let gateway = Gateway::start(&yaml);
        ask(&gateway, "/api", KEY);
        ask(&gateway, "/api", "");
        let lines = || std::fs::read_to_string(gateway.folder.path().join("access.log")).unwrap_or_default();
        until("two lines", || lines().matches('\n').count() == 2);
        let (known, unknown) = (lines().contains("127.0.0.1 - app ["), lines().contains("127.0.0.1 - - ["));
        assert!(known && unknown, "{}", lines());
    }
}

// ---- a service that is asked ----

/// Before the origin, with this service asked; more keys of it.
fn asking(service: &str, more: &str, origin: &Origin) -> String {
    let routes = format!("- {{path: /, upstream: ORIGIN, auth: {{any: [{{forward: {{url: \"{service}/check?v=1\"{more}}}}}]}}}}\n");
    yaml(&routes, origin)
}

#[test]
fn a_service_lets_in_and_says_who_it_is() {
    let origin = echo();
    let service = Origin::start(|_| {
        raw("HTTP/1.1 204 X\r\nX-User: ann\r\nX-Role: a\r\nX-Role: b\r\nX-Other: no\r\nSet-Cookie: s=1\r\n\r\n")
    });
    let more = ", request_headers: [cookie, x-tenant], response_headers: [x-user, x-role, x-absent]";
    let gateway = Gateway::start(&asking(&service.url(), more, &origin));
    let spoofed = "X-User: root\r\nX_User: root\r\nX-Absent: root\r\nx-role: root\r\n";
    let fields = format!("Cookie: a=1\r\nCookie: b=2\r\nX-Tenant: t\r\nAuthorization: secret\r\nX-Forwarded-Method: DELETE\r\nX-Forwarded-Uri: /open\r\n{spoofed}");
    let answer = exchange(
        gateway.address(),
        format!("PUT /a/../b?c=d HTTP/1.1\r\nHost: shop.test:80\r\n{fields}Content-Length: 2\r\n\r\nhi"),
    );
    assert_eq!((answer.status, answer.field("set-cookie")), (200, None));
    let asked = service.first();
    assert_eq!(asked.line(), "GET /check?v=1 HTTP/1.1");
    for (name, values) in [
        ("x-forwarded-method", &["PUT"][..]),
        ("x-forwarded-proto", &["http"]),
        ("x-forwarded-host", &["shop.test:80"]),
        ("x-forwarded-uri", &["/b?c=d"]),
        ("x-forwarded-for", &["127.0.0.1"]),
        ("cookie", &["a=1", "b=2"]),
        ("x-tenant", &["t"]),
        ("authorization", &[]),
        ("host", &[service.target().as_str()]),
        ("content-length", &[]),
    ] {
        assert_eq!(asked.all(name), values, "{name}");
    }
    let got = origin.first();
    assert_eq!((got.all("x-user"), got.all("x-role")), (vec!["ann"], vec!["a", "b"]));
    assert!(!got.head.contains("root") && got.field("x-other").is_none(), "{}", got.head);
    assert_eq!(got.body, b"hi");
    // One connection is enough, also over a reload.
    for _ in 0..5 {
        assert_eq!(ask(&gateway, "/", "").status, 200);
    }
    gateway.reload_as_is();
    assert_eq!(ask(&gateway, "/", "").status, 200);
    assert_eq!((service.received().len(), service.connections()), (7, 1));
    // One that has been cut is replaced.
    service.cut();
    until("a new connection", || ask(&gateway, "/", "").status == 200);
}

#[test]
fn a_service_that_turns_somebody_away_does_so_in_its_own_words() {
    let origin = echo();
    let service = Origin::start(|request| {
        match request.field("cookie") {
        Some("401") => raw("HTTP/1.1 401 X\r\nWWW-Authenticate: Bearer\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Type: text/plain\r\nX-Secret: 1\r\nContent-Length: 4\r\n\r\nwho?"),
        Some("403") => raw("HTTP/1.1 403 X\r\nContent-Length: 2\r\n\r\nno"),
        _ => raw("HTTP/1.1 302 X\r\nLocation: https://login.test/?back\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n"),
    }
    });
    let gateway = Gateway::start(&asking(&service.url(), "", &origin));
    let answer = ask(&gateway, "/", "Cookie: 401\r\n");
    assert_eq!((answer.status, answer.text().as_str()), (401, "who?"));
    assert_eq!(answer.all("www-authenticate"), ["Bearer", "Basic realm=\"x\""]);
    assert_eq!((answer.field("content-type"), answer.field("x-secret")), (Some("text/plain"), None));
    assert_eq!(ask(&gateway, "/", "Cookie: 403\r\n").text(), "no");
    let mut client = Raw::connect(gateway.address());
    for method in ["GET", "HEAD", "GET"] {
        let answer = client.send(format!("{method} / HTTP/1.1\r\nHost: test\r\n\r\n")).response_to(method);
        assert_eq!((answer.status, answer.field("location")), (302, Some("https://login.test/?back")));
        assert_eq!(answer.all("set-cookie"), ["a=1", "b=2"]);
    }
    assert_eq!(origin.received().len(), 0);
    let lines = gateway.access_lines(5);
    assert!(lines.iter().all(|line| line["error"] == "auth_forward_refused"), "{lines:#?}");
    let mut statuses: Vec<_> = lines.iter().map(|l| l["status"].as_u64().unwrap()).collect();
    statuses.sort();
    assert_eq!(statuses, [302, 302, 302, 401, 403]);
}

#[test]
fn a_service_that_fails_lets_nobody_in() {
    let origin = echo();
    let (_bound, refused) = refusing();
    let (_listening, mute) = silent();
    let huge = |status: u16| {
        format!("HTTP/1.1 {status} X\r\nContent-Length: 1000000\r\n\r\n{}", "x".repeat(1_000_000))
    };
    let answers = move |path: &str| match path {
        "/500/check?v=1" => reply(500, "sorry"),
        "/404/check?v=1" => reply(404, "where?"),
        "/304/check?v=1" => raw("HTTP/1.1 304 X\r\n\r\n"),
        "/nowhere/check?v=1" => reply(302, ""),
        "/garbage/check?v=1" => raw("SSH-2.0-OpenSSH\r\n\r\n"),
        "/huge/check?v=1" => vec![Step::Send(huge(401).into())],
        "/hugein/check?v=1" => vec![Step::Send(huge(200).into())],
        "/cut/check?v=1" => {
            vec![Step::Send("HTTP/1.1 200 X\r\nContent-Length: 5\r\n\r\nhi".into()), Step::Close]
        }
        "/close/check?v=1" => vec![Step::Close],
        "/heads/check?v=1" => {
            vec![Step::Send(format!("HTTP/1.1 200 X\r\nX: {}\r\n\r\n", "x".repeat(200_000)).into())]
        }
        "/drip/check?v=1" => {
            vec![Step::Send("HTTP/1.1 200 X\r\nContent-Length: 5\r\n\r\nh".into()), Step::Hold]
        }
        "/late/check?v=1" => [vec![Step::Pause(Duration::from_secs(2))], reply(200, "")].concat(),
        other => panic!("{other}"),
    };
    let service = Origin::start(move |request| answers(request.target()));
    let kinds = "500 404 304 nowhere garbage huge hugein cut close heads drip late";
    let url = service.url();
    let mut urls: Vec<String> = kinds.split(' ').map(|kind| format!("{url}/{kind}")).collect();
    urls.extend([format!("http://{refused}"), format!("http://{mute}"), "http://nowhere.invalid".to_owned()]);
    urls.push(url.replace("http:", "https:"));
    let routes: String = urls
        .iter()
        .enumerate()
        .map(|(at, url)| format!("- {{path: /{at}, upstream: ORIGIN, auth: {{any: [{{forward: {{url: \"{url}/check?v=1\", timeout: 500ms}}}}]}}}}\n"))
        .collect();
    let gateway = start(&routes, &origin);
    for (at, url) in urls.iter().enumerate() {
        let answer = ask(&gateway, &format!("/{at}"), "");
        assert_eq!((answer.status, answer.problem().as_str()), (503, "auth_unavailable"), "{url}");
        assert_eq!(answer.field("retry-after"), Some("1"));
    }
    assert_eq!(origin.received().len(), 0);
    let line = gateway.wait_log(&["lets nobody in: it answers 500"]);
    assert!(line.contains("/500/check") && !line.contains("v=1"), "a query may be a secret: {line}");
}

#[test]
fn a_service_beside_keys_is_asked_only_of_others_and_its_failure_is_no_way_in() {
    let origin = echo();
    let service = Origin::start(|_| reply(500, ""));
    let routes = format!(
        "- {{path: /, upstream: ORIGIN, auth: {{any: [api_key, {{forward: {{url: \"{}\", response_headers: [x-user]}}}}]}}}}\n",
        service.url()
    );
    let gateway = start(&routes, &origin);
    let got = forwarded(&gateway, &origin, "/", &format!("{KEY}X-User: root\r\n"));
    assert_eq!((got.field("x-user"), service.received().len()), (None, 0));
    assert_eq!(ask(&gateway, "/", "X-Api-Key: wrong\r\n").problem(), "auth_unavailable");
    assert_eq!(ask(&gateway, "/", "").problem(), "auth_unavailable");
    assert_eq!(origin.received().len(), 1);
}

/// The service could look at the first of them and the upstream at the last.
#[test]
fn a_service_is_not_asked_about_what_stands_twice() {
    let origin = echo();
    let service = Origin::start(|_| reply(204, ""));
    let gateway = Gateway::start(&asking(&service.url(), "", &origin));
    let twice = "Authorization: Bearer mine\r\nAuthorization: Bearer another's\r\n";
    let answer = ask(&gateway, "/", twice);
    assert_eq!((answer.status, answer.problem().as_str()), (400, "auth_ambiguous"));
    assert_eq!(
        ask(&gateway, "/", "Authorization: Bearer mine\r\nCookie: a=1\r\nCookie: b=2\r\n").status,
        200
    );
    assert_eq!((service.received().len(), origin.received().len()), (1, 1));
}

/// What the client proved itself with is taken away, and what the service says in its place is not.
#[test]
fn a_service_may_give_the_upstream_another_credential() {
    let origin = echo();
    let service = Origin::start(|_| raw("HTTP/1.1 204 X\r\nAuthorization: Bearer inner\r\n\r\n"));
    let routes = format!(
        "- {{path: /, upstream: ORIGIN, auth: {{all: [basic, {{forward: {{url: \"{}\", response_headers: [authorization]}}}}]}}}}\n",
        service.url()
    );
    let gateway = start(&routes, &origin);
    let got = forwarded(&gateway, &origin, "/", &basic("ali:open sesame"));
    assert_eq!(got.all("authorization"), ["Bearer inner"]);
}

// ---- what the file says ----

#[test]
fn the_example_does_what_it_says() {
    let (app, office) = (echo(), echo());
    let service = Origin::start(|request| match request.field("cookie") {
        Some("session=1") => raw("HTTP/1.1 200 X\r\nX-User: ann\r\nContent-Length: 0\r\n\r\n"),
        _ => raw("HTTP/1.1 302 X\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n"),
    });
    let text = std::fs::read_to_string(repository("conf/auth.yaml")).unwrap();
    let text = text
        .replace("127.0.0.1:8080", "\"127.0.0.1:0\"")
        .replace("127.0.0.1:5001", &app.target())
        .replace("127.0.0.1:5002", &office.target())
        .replace("127.0.0.1:9000", &service.target());
    let gateway = Gateway::start(&text);
    let key = "X-Api-Key: secret\r\n";
    let report = basic("report:report");
    for (path, fields, status) in [
        ("/", "", 200),
        ("/api", "", 401),
        ("/api", key, 200),
        ("/api", &report, 200),
        ("/api/reports", key, 401),
        ("/api/reports", &report, 200),
        ("/office", "", 302),
        ("/office", "Cookie: session=1\r\n", 200),
    ] {
        assert_eq!(ask(&gateway, path, fields).status, status, "{path} {fields}");
    }
    assert_eq!(office.last().field("x-user"), Some("ann"));
}

#[test]
fn check_warns_of_what_may_not_be_meant() {
    let warnings = |routes: &str| {
        let yaml = format!("{}{}routes:\n{routes}", kit::gateway::LISTEN, consumers());
        let (code, lines) = check(&yaml);
        assert_eq!(code, 0, "{lines:?}");
        let start = yaml.lines().count() - routes.lines().count();
        let of = |line: &String| {
            let place = line.strip_prefix("warning: p.yaml:").unwrap_or_else(|| panic!("{line}"));
            place.split(':').next().unwrap().parse::<usize>().unwrap() - start
        };
        lines.iter().map(of).collect::<Vec<_>>()
    };
    let route = |hosts: &str, path: &str, auth: &str| {
        let auth = if auth.is_empty() { String::new() } else { format!(", auth: {auth}") };
        format!("- {{hosts: [{hosts}], path: {path}, respond: {{}}{auth}}}\n")
    };
    for (hosts, path, other_hosts, other, meets) in [
        ("a.test", "/a", "a.test", "/a/b", true),
        ("a.test", "/a/b", "a.test", "/a", true),
        ("a.test", "/", "a.test", "/a", true),
        ("a.test", "/a", "a.test", "/ab", false),
        ("a.test", "/a", "b.test", "/a", false),
        ("\"*.test\"", "/a", "x.a.test", "/a/b", true),
        ("x.a.test", "/a/b", "\"*.test\"", "/a", true),
        ("\"*.a.test\"", "/a", "\"*.test\"", "/a/b", true),
        ("\"*.a.test\"", "/a", "\"*.b.test\"", "/a/b", false),
        ("\"*.a.test\"", "/a", "a.test", "/a", false),
        ("a.test", "{exact: /a}", "a.test", "/a/b", false),
        ("a.test", "{exact: /a/b}", "a.test", "/a", true),
        ("a.test", "/a", "a.test", "{exact: /a/b}", true),
        ("a.test", "/a/b", "a.test", "{exact: /a}", false),
        ("a.test", "{regex: \"^/a/[0-9]\"}", "a.test", "/a/b", true),
        ("a.test", "{regex: \"^/a/[0-9]\"}", "a.test", "/b", false),
    ] {
        let guarded = route(other_hosts, other, "api_key");
        let found = warnings(&[guarded.clone(), route(hosts, path, "")].concat());
        assert_eq!(
            found,
            if meets { vec![2] } else { vec![] },
            "{hosts} {path} beside {other_hosts} {other}"
        );
        assert_eq!(warnings(&[route(hosts, path, "none"), guarded].concat()), [0; 0]);
    }
    // The same path with other methods, and no host at all.
    let methods = "- {path: /a, methods: [POST], respond: {}, auth: api_key}\n- {path: /a, respond: {}}\n- {path: /b, respond: {}}\n";
    assert_eq!(warnings(methods), [2]);
    let (_, lines) = check(&format!("{}{}routes:\n{methods}", kit::gateway::LISTEN, consumers()));
    assert!(
        lines[0].ends_with(
            "routes[1].path: this route lets everybody in, beside or within routes[0] with `auth` on line 10; write `auth: none` if it is meant"
        ),
        "{lines:?}"
    );
    // Methods that know nobody.
    let yaml = |auth: &str| format!("{}routes: [{{respond: {{}}, auth: {auth}}}]\n", kit::gateway::LISTEN);
    for (auth, says) in [
        ("api_key", "no consumer has `api_keys`"),
        ("basic", "no consumer has `basic`"),
        ("certificate", "no listener has `client_auth`"),
    ] {
        let (code, lines) = check(&yaml(auth));
        assert!(code == 0 && lines.len() == 1 && lines[0].contains(says), "{lines:?}");
    }
}

#[test]
fn no_secret_is_told_anywhere() {
    let origin = echo();
    let service = Origin::text("");
    let routes = format!(
        "- {{path: /, upstream: ORIGIN, auth: {{any: [{{api_key: {{header: x-api-key, query: ticket}}}}, basic]}}}}\n\
         - {{path: /ask, upstream: ORIGIN, auth: {{any: [{{forward: \"{}\"}}]}}}}\n",
        service.url()
    );
    let gateway = start(&routes, &origin);
    for (target, fields) in [
        ("/?ticket=app-key", ""),
        ("/?ticket=wrong-key", ""),
        ("/", KEY),
        ("/", "X-Api-Key: wrong-key\r\nReferer: http://a.test/?ticket=app-key\r\n"),
        ("/", &basic("ali:open sesame")),
        ("/", &basic("ali:wrong-password")),
        ("/ask", "Cookie: session=app-key\r\n"),
    ] {
        ask(&gateway, target, fields);
    }
    gateway.access_lines(7);
    gateway.reload(&yaml(&routes, &origin).replace("ali, ", "ali, passwort: geheim, "));
    gateway.reload_as_is();
    let mut told = gateway.log().join("\n");
    told += &std::fs::read_to_string(gateway.folder.path().join("access.log")).unwrap();
    for page in ["/status", "/metrics", "/"] {
        told += &self::page(&gateway, page);
    }
    let encoded = STANDARD.encode("ali:open sesame");
    let hash = hash("app-key");
    for secret in
        ["app-key", "wrong-key", "open sesame", "wrong-password", &encoded, SESAME, &hash[7..], "geheim"]
    {
        assert!(!told.contains(secret), "{secret} in\n{told}");
    }
}
