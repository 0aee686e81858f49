//! What the steps of a request cost that no engine has a part in: its head checked, its path normalised, its route
//! admitting it, a target chosen, the gateway's fields added, and what is told of it afterwards. How they allocate (most of them do not) is in tests/allocations.rs; a look-up among
//! many routes is in router.rs.

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use bytes::BytesMut;
use criterion::measurement::WallTime;
use criterion::{
    criterion_group, criterion_main, BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput,
};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::http::RequestHeader;
use portcullis::auth::api_key::new_key;
use portcullis::auth::jwt::Provider;
use portcullis::base::addresses::{self, AddressSet};
use portcullis::base::path::normalise;
use portcullis::base::request::Request;
use portcullis::config::{self, decode::Secrets};
use portcullis::error::Reject;
use portcullis::gateway::{Action, Gateway, Route};
use portcullis::observe::access_log::{AccessLog, Format, Spec};
use portcullis::observe::exchange::Exchange;
use portcullis::observe::sink::Destination;
use portcullis::observe::stats::{RouteStats, UpstreamStats};
use portcullis::observe::trace::Context;
use portcullis::policy::{Arrival, Pass};
use portcullis::proxy::forward::Own;
use portcullis::proxy::{ctx, failure};
use portcullis::router::Outcome;
use portcullis::upstream::discover::Resolver;
use portcullis::upstream::Upstream;
use portcullis::wire::facts::{Ends, Facts};
use portcullis::wire::head::{check, tidy, HeadLimits, HeadState};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const LIMITS: HeadLimits = HeadLimits { target: 8 << 10, size: 32 << 10, fields: 100 };
/// As wrk sends it, and as a browser does.
const HEADS: [(&str, &str); 2] = [
    ("small", "GET /service1/orders HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"),
    (
        "browser",
        "GET /service1/orders?page=2 HTTP/1.1\r\nHost: api.example.com\r\nConnection: keep-alive\r\n\
         Cache-Control: max-age=0\r\nUpgrade-Insecure-Requests: 1\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36\r\n\
         Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
         Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n\
         Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\nCookie: session=0123456789abcdef\r\n\r\n",
    ),
];

fn heads(c: &mut Criterion) {
    let mut group = c.benchmark_group("head");
    for (name, head) in HEADS {
        group.throughput(Throughput::Bytes(head.len() as u64));
        group.bench_with_input(BenchmarkId::new("check", name), head, |b, head| {
            b.iter(|| check(black_box(head.as_bytes()), 0, &LIMITS));
        });
        let HeadState::Complete(checked) = check(head.as_bytes(), 0, &LIMITS) else { panic!("a sound head") };
        group.bench_with_input(BenchmarkId::new("tidy", name), head, |b, head| {
            b.iter_batched(
                || BytesMut::from(head.as_bytes()),
                |bytes| tidy(bytes, &checked),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn paths(c: &mut Criterion) {
    for (name, path) in [("as it is", "/service1/orders/42"), ("escaped", "/service1/./a/../%6Frders//42")] {
        c.bench_function(&format!("path/{name}"), |b| b.iter(|| normalise(black_box(path.as_bytes()))));
    }
}

/// The gateway's fields into the upstream's request: into one map, and into the engine's two, where names have a spelling.
fn fields(c: &mut Criterion) {
    let end = |address: [u8; 4], port: u16| Some((address, port).into());
    let ends = Ends { client: end([192, 0, 2, 7], 50_000), local: end([192, 0, 2, 1], 443), stranger: false };
    let (facts, id) = (Facts::new(ends, None, Arc::default()), ctx::new_id());
    let own =
        Own { client: Some(&facts), trusted: false, id: &id, received: http::Version::HTTP_11, trace: None };
    let mut spelt = RequestHeader::build("GET", b"/", Some(2)).expect("a request");
    for (name, value) in [("Host", "api.example.com"), ("User-Agent", "bench")] {
        spelt.append_header(name, value).expect("a field");
    }
    let plain = spelt.headers.clone();
    c.bench_function("fields/one map", |b| {
        b.iter_batched(|| plain.clone(), |mut map| own.add(&mut map).map(|()| map), BatchSize::SmallInput);
    });
    c.bench_function("fields/two maps", |b| {
        b.iter_batched(
            || spelt.clone(),
            |mut request| own.add(&mut request).map(|()| request),
            BatchSize::SmallInput,
        );
    });
}

/// A gateway with four targets and a policy of each kind.
const GATEWAY: &str = "
listeners: [{address: '127.0.0.1:0'}]
upstreams:
  app: {targets: ['127.0.0.1:1', '127.0.0.1:2', {address: '127.0.0.1:3', weight: 2}, '127.0.0.1:4']}
  sticky: {targets: ['127.0.0.1:1', '127.0.0.1:2'], balance: {consistent_hash: {header: x-user}}}
routes:
  - path: /
    upstream: [{to: app, weight: 9}, {to: sticky, weight: 1}]
    max_body: 1MiB
    rewrite: {strip_prefix: true}
    request_headers: {set: {x-env: prod}, remove: [x-internal]}
    response_headers: {set: {strict-transport-security: max-age=31536000}}
";

/// The configuration names no variable and no file.
struct NoSecrets;

impl Secrets for NoSecrets {
    fn env(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, path: &str) -> Result<String, String> {
        Err(path.to_owned())
    }
}

fn choices(c: &mut Criterion) {
    let compiled =
        config::compile("bench", GATEWAY, &NoSecrets).unwrap_or_else(|errors| panic!("{errors:?}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for upstream in &compiled.gateway.upstreams {
        runtime.block_on(upstream.prepare(&Resolver::new(None)));
    }
    let route = the_route(&compiled.gateway);
    let headers = HeaderMap::new();
    let request = Request { method: "POST", host: "t", path: "/orders", query: "", headers: &headers };
    let arrival = Arrival { request, client: None, facts: None, length: Some(4096) };
    c.bench_function("chain/admit", |b| {
        b.iter(|| {
            let mut pass = Pass::default();
            route
                .rules
                .chain
                .admit(black_box(&arrival), &mut pass)
                .now_or_never()
                .map(|admitted| admitted.is_ok())
        });
    });
    let Action::Forward(split) = &route.action else { panic!("it forwards") };
    c.bench_function("split/choose", |b| b.iter(|| Arc::as_ptr(black_box(split.choose()))));
    for upstream in &compiled.gateway.upstreams {
        let select = |upstream: &Upstream| upstream.select(black_box(b"user-1"), &[]).map(|t| t.is_healthy());
        c.bench_function(&format!("upstream/select/{}", upstream.name()), |b| b.iter(|| select(upstream)));
    }
}

/// A request that a limit lets through, counted here: as clients come that are known, and as each is another one.
fn rate_limits(c: &mut Criterion) {
    const LIMITS: [(&str, &str); 2] = [
        ("one limit", "{rate: 1_000_000_000/s, burst: 1000000000}"),
        (
            "two limits",
            "[{rate: 1_000_000_000/s}, {rate: 1_000_000_000/m, per: [client_ip, \"header:x-tenant\"]}]",
        ),
    ];
    let mut headers = HeaderMap::new();
    headers.insert("x-tenant", http::HeaderValue::from_static("acme"));
    let request = Request { method: "GET", host: "t", path: "/", query: "", headers: &headers };
    for (name, limit) in LIMITS {
        let yaml = format!(
            "listeners: [{{address: '127.0.0.1:0'}}]\nroutes: [{{path: /, respond: {{status: 200}}, rate_limit: {limit}}}]"
        );
        let compiled =
            config::compile("bench", &yaml, &NoSecrets).unwrap_or_else(|errors| panic!("{errors:?}"));
        let chain = &the_route(&compiled.gateway).rules.chain;
        for (kind, clients) in [("known", 1_000), ("new", u32::MAX)] {
            let mut client = 0_u32;
            c.bench_function(&format!("limit/{name}, {kind} clients"), |b| {
                b.iter(|| {
                    client = client.wrapping_add(0x9E37_79B1) % clients;
                    let mut pass = Pass::default();
                    let client = Some(client.to_be_bytes().into());
                    let arrival = Arrival { request, client, facts: None, length: None };
                    let admitted = chain.admit(black_box(&arrival), &mut pass).now_or_never();
                    assert_eq!(admitted, Some(Ok(None)));
                    pass.answer.len()
                });
            });
        }
    }
}

/// Who asks, among a thousand with keys: a key that is good, one that nobody has, and none.
fn identities(c: &mut Criterion) {
    let consumer = |number: usize| {
        let made = new_key().unwrap_or_else(|e| panic!("{e}"));
        let entry =
            format!("  c{number}: {{groups: [external, g{number}], api_keys: [\"{}\"]}}\n", made.hash);
        (made.key, entry)
    };
    let (keys, entries): (Vec<_>, Vec<_>) = (0..1000).map(consumer).unzip();
    let yaml = format!(
        "listeners: [{{address: '127.0.0.1:0'}}]\nconsumers:\n{}routes: [{{respond: {{}}, auth: {{any: [api_key], groups: [external]}}}}]\n",
        entries.concat()
    );
    let compiled = config::compile("bench", &yaml, &NoSecrets).unwrap_or_else(|errors| panic!("{errors:?}"));
    let route = the_route(&compiled.gateway);
    for (name, key) in
        [("known", Some(keys[500].as_str())), ("unknown", Some("pck_nobody's")), ("none", None)]
    {
        let mut headers = HeaderMap::new();
        headers.extend(
            key.and_then(|key| key.parse().ok()).map(|key| (HeaderName::from_static("x-api-key"), key)),
        );
        for field in ["user-agent", "accept", "accept-encoding", "cookie"] {
            headers.insert(field, HeaderValue::from_static("as a browser has it"));
        }
        let request = Request { method: "GET", host: "t", path: "/", query: "page=2", headers: &headers };
        let arrival = Arrival { request, client: None, facts: None, length: None };
        c.bench_function(&format!("auth/api key, {name}"), |b| {
            b.iter(|| {
                let mut pass = Pass::default();
                let admitted = route.rules.chain.admit(black_box(&arrival), &mut pass).now_or_never();
                admitted.map(|admitted| admitted.is_ok())
            });
        });
    }
}

fn the_route(gateway: &Gateway) -> &Route {
    let headers = http::HeaderMap::new();
    let request = Request { method: "GET", host: "t", path: "/", query: "", headers: &headers };
    match gateway.router.find(&request) {
        Outcome::Found(id) => gateway.route(id),
        _ => panic!("there is one route for everything"),
    }
}

/// An address among networks of an attacker's, an IPv4 and an IPv6 list of each length: what is looked for is not in it, so
/// that nothing ends the search early but its own bits.
fn addresses(c: &mut Criterion) {
    let mut group = c.benchmark_group("addresses");
    for networks in [10, 10_000] {
        let mut random = fastrand::Rng::with_seed(7);
        let mut v4 = || IpAddr::V4(Ipv4Addr::from_bits(random.u32(..)));
        let (list, asked): (String, Vec<IpAddr>) =
            ((0..networks).map(|_| format!("{}\n", v4())).collect(), (0..1024).map(|_| v4()).collect());
        let set = addresses::list(&list).expect("addresses");
        look_up(&mut group, "IPv4", networks, &set, &asked);
        let mut v6 = || IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | random.u128(..) >> 32));
        let (list, asked): (String, Vec<IpAddr>) =
            ((0..networks).map(|_| format!("{}\n", v6())).collect(), (0..1024).map(|_| v6()).collect());
        let set = addresses::list(&list).expect("addresses");
        look_up(&mut group, "IPv6", networks, &set, &asked);
    }
    group.finish();
}

fn look_up(
    group: &mut BenchmarkGroup<'_, WallTime>,
    family: &str,
    networks: usize,
    set: &AddressSet,
    asked: &[IpAddr],
) {
    let mut next = asked.iter().cycle();
    group.bench_function(BenchmarkId::new(family, networks), |b| {
        b.iter(|| set.contains(black_box(*next.next().expect("a cycle"))));
    });
}

fn answers(c: &mut Criterion) {
    c.bench_function("request id", |b| b.iter(ctx::new_id));
    c.bench_function("problem", |b| {
        b.iter(|| failure::raw_answer(black_box(&Reject::NoRoute), "0123456789abcdef"))
    });
}

/// What is told of a request when it is over: a line put down for the writer, and everything that is counted.
fn records(c: &mut Criterion) {
    let (route, upstream) = (RouteStats::new("service1"), UpstreamStats::new("app"));
    let exchange = Exchange {
        request_id: b"0123456789abcdef0123456789abcdef",
        trace_id: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef,
        own_id: true,
        client: Some([192, 0, 2, 7].into()),
        client_text: b"192.0.2.7",
        method: "GET",
        host: b"api.example.com",
        path: b"/service1/orders",
        query: b"page=2&sort=name",
        version: "HTTP/1.1",
        status: 200,
        bytes_out: 1024,
        duration: Duration::from_micros(1_234),
        upstream_duration: Some(Duration::from_micros(1_111)),
        route: Some(&route.name),
        upstream: Some(&upstream.name),
        target: "10.0.0.11:8080",
        attempts: 1,
        reused: true,
        user_agent:
            b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0",
        ..Exchange::default()
    };
    for (name, format) in [("json", Format::Json), ("combined", Format::Combined)] {
        let log = AccessLog::new(Spec { format, ..Spec::default() });
        let mut out = Vec::with_capacity(4096);
        c.bench_function(&format!("log line/{name}"), |b| {
            b.iter(|| {
                out.clear();
                log.put(black_box(&exchange), SystemTime::now(), &mut out);
                out.len()
            });
        });
    }
    let to = Some(Destination::File("/dev/null".into()));
    let log = AccessLog::new(Spec { to, ..Spec::default() });
    log.open(None).expect("a device that is always there");
    c.bench_function("log line/json, handed to the writer", |b| b.iter(|| log.write(black_box(&exchange))));
    c.bench_function("metrics", |b| {
        b.iter(|| {
            route.in_flight.fetch_add(1, Relaxed);
            upstream.connected(true);
            upstream.answered(black_box(Duration::from_micros(1_111)));
            route.count(black_box(200), black_box(Some(Duration::from_micros(1_234))));
            route.in_flight.fetch_sub(1, Relaxed);
        });
    });
    c.bench_function("traceparent", |b| {
        let field = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        b.iter(|| Context::parse(black_box(field)).map(|context| context.field(7)));
    });
}

/// A key set in the place of every file.
struct KeyFile(String);

impl Secrets for KeyFile {
    fn env(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, _: &str) -> Result<String, String> {
        Ok(self.0.clone())
    }
}

/// A token as providers issue them, of some 800 bytes: remembered, and verified anew by each kind of key.
fn tokens(c: &mut Criterion) {
    use jsonwebtoken::Algorithm::{EdDSA, ES256, RS256};
    let kinds = [
        ("RS256", RS256, &rcgen::PKCS_RSA_SHA256),
        ("ES256", ES256, &rcgen::PKCS_ECDSA_P256_SHA256),
        ("EdDSA", EdDSA, &rcgen::PKCS_ED25519),
    ];
    for (name, algorithm, of) in kinds {
        let pair = rcgen::KeyPair::generate_for(of).expect("a key");
        let pem = pair.serialize_pem();
        let key = match algorithm {
            RS256 => jsonwebtoken::EncodingKey::from_rsa_pem(pem.as_bytes()),
            ES256 => jsonwebtoken::EncodingKey::from_ec_pem(pem.as_bytes()),
            _ => jsonwebtoken::EncodingKey::from_ed_pem(pem.as_bytes()),
        };
        let key = key.expect("the same key");
        let mut header = jsonwebtoken::Header::new(algorithm);
        header.kid = Some("k".to_owned());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let claims = serde_json::json!({
            "iss": "https://id.example.com", "aud": ["api", "web"], "sub": "f1e2d3c4-b5a6-7788-99aa-bbccddeeff00",
            "iat": now, "exp": now + 86_400, "jti": "0123456789abcdef", "scope": "openid profile email read write",
            "realm_access": {"roles": ["user", "editor", "reports"]}, "email": "somebody@example.com",
            "name": "Some Body", "azp": "web", "sid": "00112233-4455-6677-8899-aabbccddeeff",
        });
        let token = jsonwebtoken::encode(&header, &claims, &key).expect("a token");
        let mut jwk = match algorithm {
            EdDSA => {
                let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
                serde_json::json!({"kty": "OKP", "crv": "Ed25519", "x": x})
            }
            _ => {
                let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, algorithm);
                serde_json::to_value(jwk.expect("its public half")).expect("JSON")
            }
        };
        jwk["kid"] = "k".into();
        let file = KeyFile(serde_json::json!({"keys": [jwk]}).to_string());
        let text = format!(
            "listeners: [{{address: '127.0.0.1:0'}}]
providers: {{idp: {{jwt: {{issuer: 'https://id.example.com', audience: api, algorithms: [{name}], file: keys,
  claims_to_headers: {{x-user: sub}}, groups_claim: realm_access.roles}}}}}}
routes: [{{respond: {{}}, auth: {{any: [{{jwt: idp}}], groups: [editor], scopes: [read]}}}}]
"
        );
        let compiled = config::compile("bench", &text, &file).unwrap_or_else(|errors| panic!("{errors:?}"));
        let route = the_route(&compiled.gateway);
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::try_from(format!("Bearer {token}")).expect("a field"));
        let request = Request { method: "GET", host: "t", path: "/", query: "", headers: &headers };
        let arrival = Arrival { request, client: None, facts: None, length: None };
        let admitted = |pass: &mut Pass| route.rules.chain.admit(black_box(&arrival), pass).now_or_never();
        assert!(matches!(admitted(&mut Pass::default()), Some(Ok(None))), "it lets them in");
        if name == "RS256" {
            c.bench_function("jwt/remembered", |b| b.iter(|| admitted(&mut Pass::default()).is_some()));
        }
        let settings = compiled.gateway.providers[0].settings();
        c.bench_function(&format!("jwt/verified/{name}"), |b| {
            let fresh = || Provider::new(settings.clone());
            let believe = |provider: &mut Provider| provider.believe(token.as_bytes(), now as i64).is_ok();
            b.iter_batched_ref(fresh, believe, BatchSize::SmallInput);
        });
    }
}

criterion_group!(
    benches,
    heads,
    paths,
    fields,
    choices,
    addresses,
    rate_limits,
    identities,
    tokens,
    answers,
    records
);
criterion_main!(benches);
