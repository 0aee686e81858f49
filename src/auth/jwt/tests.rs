//! Tokens made by another implementation (`jsonwebtoken`), and by hand where no implementation makes such.

use super::*;
use crate::error::{Denial, Reject, TokenFault};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use jsonwebtoken::crypto::sign;
use jsonwebtoken::EncodingKey;
use serde_json::{json, Value};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW: i64 = 1_800_000_000;

fn settings(source: Source, algorithms: &[Algorithm]) -> Settings {
    Settings {
        name: "idp".into(),
        issuer: "https://id.example.com".into(),
        audience: ["api".into()].into(),
        algorithms: algorithms.into(),
        source,
        leeway: Duration::ZERO,
        kind: None,
        require: ["exp".into()].into(),
        needs: Needs::default(),
        claims_to_headers: [].into(),
        consumer_claim: None,
        strangers: false,
        groups_claim: None,
        places: [TokenPlace::Bearer].into(),
    }
}

fn shared(change: impl FnOnce(&mut Settings)) -> Provider {
    let set = KeySet::secret(SECRET, &[Algorithm::Hs256]).unwrap();
    let mut settings = settings(Source::Secret(Arc::new(set)), &[Algorithm::Hs256]);
    change(&mut settings);
    Provider::new(settings)
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A good token but for these claims, `null` meaning none.
fn claims(change: Value) -> Value {
    let mut claims = json!({"iss": "https://id.example.com", "aud": "api", "sub": "u1", "exp": NOW + 60});
    for (name, value) in change.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

fn signed(header: &str, claims: &str) -> String {
    let message = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
    let key = EncodingKey::from_secret(SECRET);
    let signature = sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

fn token(change: Value) -> String {
    signed(r#"{"alg":"HS256"}"#, &claims(change).to_string())
}

fn outcome(provider: &Provider, token: &str, now: i64) -> Option<TokenFault> {
    match provider.believe(token.as_bytes(), now) {
        Ok(_) => None,
        Err(Reject::Unauthenticated(Denial::Token(fault))) => Some(fault),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn times_to_the_second() {
    let strict = shared(|_| {});
    let lenient = shared(|settings| settings.leeway = Duration::from_secs(60));
    use TokenFault::{ClaimMissing, Expired, Future, NotYet, Time};
    let cases = [
        (json!({"exp": NOW}), Some(Expired), None),
        (json!({"exp": NOW + 1}), None, None),
        (json!({"exp": NOW - 59}), Some(Expired), None),
        (json!({"exp": NOW - 60}), Some(Expired), Some(Expired)),
        (json!({"exp": NOW as f64 + 0.5}), Some(Expired), None),
        (json!({"exp": null}), Some(ClaimMissing), Some(ClaimMissing)),
        (json!({"exp": "2000000000"}), Some(Time), Some(Time)),
        (json!({"exp": -1}), Some(Time), Some(Time)),
        (json!({"exp": 1e300}), Some(Time), Some(Time)),
        (json!({"exp": u64::MAX}), Some(Time), Some(Time)),
        (json!({"exp": true}), Some(Time), Some(Time)),
        (json!({"exp": [NOW + 60]}), Some(Time), Some(Time)),
        (json!({"nbf": NOW}), None, None),
        (json!({"nbf": NOW + 1}), Some(NotYet), None),
        (json!({"nbf": NOW + 61}), Some(NotYet), Some(NotYet)),
        (json!({"nbf": "0"}), Some(Time), Some(Time)),
        (json!({"iat": NOW}), None, None),
        (json!({"iat": NOW + 1}), Some(Future), None),
        (json!({"iat": NOW + 61}), Some(Future), Some(Future)),
    ];
    for (change, strictly, leniently) in cases {
        assert_eq!(outcome(&strict, &token(change.clone()), NOW), strictly, "{change}");
        assert_eq!(outcome(&lenient, &token(change.clone()), NOW), leniently, "{change} with leeway");
    }
}

#[test]
fn who_issued_it_and_for_whom() {
    use TokenFault::{Audience, ClaimMissing, Issuer, Malformed};
    let strict = shared(|settings| settings.audience = ["api".into(), "admin".into()].into());
    let open = shared(|settings| settings.audience = [].into());
    let cases = [
        (json!({"iss": "https://id.example.com/"}), Some(Issuer), Some(Issuer)),
        (json!({"iss": "HTTPS://id.example.com"}), Some(Issuer), Some(Issuer)),
        (json!({"iss": null}), Some(ClaimMissing), Some(ClaimMissing)),
        (json!({"iss": ["https://id.example.com"]}), Some(Malformed), Some(Malformed)),
        (json!({"aud": "admin"}), None, None),
        (json!({"aud": ["x", "api"]}), None, None),
        (json!({"aud": ["x"]}), Some(Audience), None),
        (json!({"aud": []}), Some(Audience), None),
        (json!({"aud": "api "}), Some(Audience), None),
        (json!({"aud": ["api", 1]}), Some(Malformed), Some(Malformed)),
        (json!({"aud": {"api": 1}}), Some(Malformed), Some(Malformed)),
        (json!({"aud": null}), Some(ClaimMissing), None),
        (json!({"sub": 7}), Some(Malformed), Some(Malformed)),
    ];
    for (change, strictly, openly) in cases {
        assert_eq!(outcome(&strict, &token(change.clone()), NOW), strictly, "{change}");
        assert_eq!(outcome(&open, &token(change.clone()), NOW), openly, "{change}, any audience");
    }
}

#[test]
fn a_remembered_token_ends_with_its_time_and_with_its_keys() {
    let provider = Arc::new(shared(|_| {}));
    let token = token(json!({"exp": NOW + 10, "nbf": NOW}));
    assert_eq!(outcome(&provider, &token, NOW), None);
    assert_eq!(provider.sizes(), (1, 1));
    assert_eq!(outcome(&provider, &token, NOW + 9), None, "from memory");
    assert_eq!(outcome(&provider, &token, NOW - 1), Some(TokenFault::NotYet), "from memory");
    assert_eq!(outcome(&provider, &token, NOW + 10), Some(TokenFault::Expired));
    assert_eq!(provider.sizes(), (1, 0));
    outcome(&provider, &token, NOW);
    let same = Provider::succeeding(provider.settings().clone(), &provider);
    assert!(Arc::ptr_eq(&same, &provider));
    let mut other = provider.settings().clone();
    other.audience = ["admin".into()].into();
    let other = Provider::succeeding(other, &provider);
    assert_eq!(other.sizes(), (1, 0), "nothing is remembered under other settings");
    assert_eq!(outcome(&other, &token, NOW), Some(TokenFault::Audience));
}

#[test]
fn what_is_remembered_is_bounded() {
    let provider = shared(|_| {});
    let known = provider.keys.load();
    let cache = &known.as_ref().unwrap().cache_for_tests();
    let verified = provider.believe(token(json!({})).as_bytes(), NOW).unwrap();
    for number in 0..3 * MOST_CACHED as u32 {
        let hash = keys::sha256(&number.to_be_bytes());
        cache.put(hash, Arc::clone(&verified));
    }
    assert!(cache.len() <= MOST_CACHED && cache.len() > MOST_CACHED / 3, "{}", cache.len());
    assert!(cache.get(&keys::sha256(&(3 * MOST_CACHED as u32 - 1).to_be_bytes())).is_some());
}

#[test]
fn a_long_token_is_verified_each_time() {
    let provider = shared(|_| {});
    assert_eq!(outcome(&provider, &token(json!({"pad": "x".repeat(4000)})), NOW), None);
    assert_eq!(provider.sizes(), (1, 0));
}

#[test]
fn claims_become_fields_or_a_refusal() {
    let provider = shared(|settings| {
        let name = HeaderName::from_static;
        settings.claims_to_headers =
            [(name("x-user"), "sub".into()), (name("x-v"), "v".into()), (name("x-deep"), "a.b".into())]
                .into();
    });
    let of = |change: Value| {
        let believed = provider.believe(token(change).as_bytes(), NOW);
        believed.map(|verified| {
            let fields = verified.fields.iter();
            fields
                .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
                .collect::<Vec<_>>()
        })
    };
    let fault = Err(Reject::Unauthenticated(Denial::Token(TokenFault::Field)));
    assert_eq!(of(json!({})).unwrap(), ["x-user: u1"]);
    assert_eq!(of(json!({"v": 1.5})).unwrap(), ["x-user: u1", "x-v: 1.5"]);
    assert_eq!(of(json!({"v": ["a", true, 3]})).unwrap(), ["x-user: u1", "x-v: a,true,3"]);
    assert_eq!(of(json!({"v": "José, 1"})).unwrap(), ["x-user: u1", "x-v: José, 1"]);
    assert_eq!(of(json!({"a": {"b": "c"}})).unwrap(), ["x-user: u1", "x-deep: c"]);
    for bad in [
        json!("a\r\nx-admin: 1"),
        json!("a\u{0}"),
        json!("\u{85}"),
        json!(" a"),
        json!("a\t"),
        json!({}),
        json!(["a,b"]),
        json!([["a"]]),
        json!([null]),
        json!([""]),
    ] {
        assert_eq!(of(json!({ "v": bad })), fault, "{bad}");
    }
}

#[test]
fn scopes_and_groups_are_gathered() {
    let provider = shared(|settings| settings.groups_claim = Some("realm.roles".into()));
    let of = |change: Value| {
        let claims = Arc::clone(&provider.believe(token(change).as_bytes(), NOW).unwrap().claims);
        (claims.scopes.join("|"), claims.groups.join("|"))
    };
    assert_eq!(of(json!({"scope": "read  write"})).0, "read|write");
    assert_eq!(of(json!({"scp": ["read", "write"]})).0, "read|write");
    assert_eq!(of(json!({"scope": 1})).0, "");
    assert_eq!(of(json!({"realm": {"roles": ["a", "b,c", 1, "d e", "f"]}})).1, "a|f", "no name is two");
    assert_eq!(of(json!({"realm": {"roles": "a"}})).1, "a");
}

#[test]
fn keys_are_read_for_what_they_are() {
    let all: Vec<Algorithm> = Algorithm::names().filter_map(Algorithm::of).collect();
    let read = |keys: Value| KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), &all, false);
    let p256 = json!({"kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"});
    let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    assert_eq!(read(json!([p256, ed])).unwrap().len(), 2);
    let with = |change: Value| {
        let mut key = p256.clone();
        key.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        read(json!([key])).map(|set| set.len())
    };
    assert_eq!(with(json!({"use": "sig", "key_ops": ["verify"], "alg": "ES256", "kid": "a"})), Ok(1));
    for (change, why) in [
        (json!({"use": "enc"}), "not for signatures"),
        (json!({"key_ops": ["sign"]}), "not for verifying"),
        (json!({"alg": "ES384"}), "fits none"),
        (json!({"alg": "none"}), "fits none"),
        (json!({"crv": "P-384"}), "another length"),
        (json!({"crv": "secp256k1"}), "fits none"),
        (json!({"x": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}), "not on its curve"),
        (json!({"x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4="}), "not base64url"),
        (json!({"kid": 1}), "no text"),
        (json!({"kty": "oct", "k": "AAAA"}), "anybody can fetch"),
        (json!({"kty": "XYZ"}), "type"),
        (json!({"kty": "RSA", "n": "AQ", "e": "AQAB"}), "too short"),
    ] {
        let refused = with(change.clone()).unwrap_err();
        assert!(refused.contains(why), "{change}: {refused}");
    }
    assert!(read(json!([])).is_err() && read(json!({})).is_err() && read(json!([1])).is_err());
    assert!(read(json!(vec![p256.clone(); MOST + 1])).unwrap_err().contains("most"));
    for text in ["", "[]", "{\"keys\":[],\"keys\":[]}", "<html>"] {
        assert!(KeySet::parse(text.as_bytes(), &all, false).is_err(), "{text}");
    }
    for (length, algorithm) in [(31, Algorithm::Hs256), (47, Algorithm::Hs384), (63, Algorithm::Hs512)] {
        assert!(KeySet::secret(&vec![7; length], &[algorithm]).is_err());
        assert!(KeySet::secret(&vec![7; length + 1], &[algorithm]).is_ok());
    }
}

const MOST: usize = keys::MOST_KEYS;
