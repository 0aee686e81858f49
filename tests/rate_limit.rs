//! Rate limits: by whom, how much, what the client is told; and together with other gateways through a real Redis, that
//! is stopped, paused and started again meanwhile.
//!
//! No time is asserted. What may pass in the time that a test happens to take is computed from that time, both ways: no
//! more than a burst and what the rate adds until the last answer, and, since a refusal shows that nothing is left, no less
//! than that until the last refused request was sent.

mod kit;

use kit::certs::Authority;
use kit::raw::{exchange, get};
use kit::{until, wait_for, Gateway, Raw, Redis, Response};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ROUTE: &str = "path: /, respond: {status: 200, body: ok}";

fn from(address: SocketAddr, client: &str) -> Response {
    with(address, &format!("X-Forwarded-For: {client}\r\n"))
}

fn with(address: SocketAddr, fields: &str) -> Response {
    exchange(address, format!("GET / HTTP/1.1\r\nHost: t\r\n{fields}\r\n"))
}

/// How many of so many requests pass.
fn passed(times: usize, ask: impl Fn() -> Response) -> usize {
    let answers = (0..times).map(|_| ask().status);
    answers.inspect(|status| assert!(matches!(status, 200 | 429), "{status}")).filter(|s| *s == 200).count()
}

/// The value of a metric, labels included in its name; 0 where it is not there.
fn metric(gateway: &Gateway, name: &str) -> f64 {
    let text = exchange(gateway.admin(), "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
    line.map_or(0.0, |value| value.parse().unwrap())
}

fn is_up(gateway: &Gateway) -> bool {
    metric(gateway, "portcullis_rate_limit_store_up") == 1.0
}

fn number(response: &Response, field: &str, key: &str) -> u64 {
    let value = response.field(field).unwrap_or_else(|| panic!("no {field} in\n{}", response.head));
    let found = value.split(';').find_map(|part| part.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {key} in {value}")).parse().unwrap()
}

/// What clients saw who asked without a pause.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    passed: u64,
    refused: u64,
    /// From before the first request to after the last answer.
    most: Duration,
    /// From after the first answer to before the last request that was refused.
    least: Duration,
}

impl Seen {
    fn assert(&self, rate: f64, burst: f64) {
        let (most, least) = (burst + rate * self.most.as_secs_f64(), burst + rate * self.least.as_secs_f64());
        assert!(self.passed as f64 <= most + 1.0, "{self:?}: at most {most}");
        assert!(self.passed as f64 >= least - 2.0, "{self:?}: at least {least}");
    }
}

/// Asks all of these as fast as they answer, on kept connections, until told to stop.
fn hammer(addresses: &[SocketAddr], each: usize, stop: &AtomicBool) -> Seen {
    let began = Instant::now();
    let one = |address: SocketAddr| {
        let (mut seen, mut first) = (Seen::default(), None);
        let mut refused_at = None;
        let mut client = Raw::connect(address);
        while !stop.load(Ordering::Relaxed) {
            let sent = Instant::now();
            client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
            let response = client.response();
            first.get_or_insert_with(Instant::now);
            match response.status {
                200 => seen.passed += 1,
                429 => {
                    seen.refused += 1;
                    refused_at = Some(sent);
                }
                other => panic!("{other}: {}", response.head),
            }
            if response.field("connection") == Some("close") {
                client = Raw::connect(address);
            }
        }
        (seen, first, refused_at)
    };
    let all: Vec<_> = std::thread::scope(|scope| {
        let one = &one;
        let threads = addresses.iter().flat_map(|address| (0..each).map(move |_| *address));
        let threads: Vec<_> = threads.map(|address| scope.spawn(move || one(address))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let most = began.elapsed();
    let first = all.iter().filter_map(|(_, first, _)| *first).min();
    let last = all.iter().filter_map(|(_, _, refused)| *refused).max();
    let least = first.zip(last).map_or(Duration::ZERO, |(first, last)| last.saturating_duration_since(first));
    let sum = |of: fn(&Seen) -> u64| all.iter().map(|(seen, _, _)| of(seen)).sum();
    Seen { passed: sum(|s| s.passed), refused: sum(|s| s.refused), most, least }
}

/// The same for as long as `meanwhile` takes.
fn hammer_while(addresses: &[SocketAddr], each: usize, meanwhile: impl FnOnce()) -> Seen {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| hammer(addresses, each, &stop));
        // Whatever becomes of it, who asks is to stop.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meanwhile));
        stop.store(true, Ordering::Relaxed);
        let seen = asking.join().unwrap();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        seen
    })
}

fn for_a_while() {
    std::thread::sleep(Duration::from_millis(1500)); // the longer, the more there is to count; no time is too short
}

// ---- what is limited, and what the client is told ----

#[test]
fn who_comes_too_often_is_told_so_and_when_to_come_again() {
    let gateway = Gateway::start(&format!(
        "admin: {{address: \"127.0.0.1:0\"}}\nroutes: [{{name: r, {ROUTE}, rate_limit: {{rate: 3/h, burst: 2}}}}]"
    ));
    let first = get(gateway.address(), "/");
    assert_eq!(first.status, 200);
    assert_eq!(first.all("ratelimit-policy"), ["\"client_ip-1h\";q=2;w=2400"]);
    assert_eq!(number(&first, "ratelimit", "r"), 1);
    assert!((1190..=1200).contains(&number(&first, "ratelimit", "t")));
    assert_eq!(get(gateway.address(), "/").status, 200);
    let refused = get(gateway.address(), "/");
    assert_eq!((refused.status, refused.problem().as_str()), (429, "rate_limited"));
    assert_eq!(number(&refused, "ratelimit", "r"), 0);
    let after: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((1190..=1200).contains(&after), "{after}");
    assert_eq!(refused.all("ratelimit-policy").len(), 1);
    let head = Raw::connect(gateway.address()).send("HEAD / HTTP/1.1\r\nHost: t\r\n\r\n").response_to("HEAD");
    let options = exchange(gateway.address(), "OPTIONS / HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!((head.status, options.status), (429, 429), "every method counts");
    let of = |result: &str| {
        metric(&gateway, &format!("portcullis_rate_limit_total{{route=\"r\",result=\"{result}\"}}"))
    };
    assert_eq!((of("allowed"), of("limited")), (2.0, 3.0));
    assert_eq!(metric(&gateway, "portcullis_rejected_total{route=\"r\",reason=\"rate_limited\"}"), 3.0);
    assert_eq!(metric(&gateway, "portcullis_rate_limit_keys"), 1.0);
}

#[test]
fn what_is_waited_for_is_there_then() {
    let gateway = Gateway::start(&format!("routes: [{{{ROUTE}, rate_limit: {{rate: 1/s, burst: 1}}}}]"));
    for _ in 0..2 {
        assert_eq!(get(gateway.address(), "/").status, 200);
        let refused = get(gateway.address(), "/");
        if refused.status == 429 {
            assert_eq!(refused.field("retry-after"), Some("1"));
            std::thread::sleep(Duration::from_secs(1)); // as it was told
        }
    }
}

#[test]
fn the_rate_is_exact() {
    let gateway = Gateway::start(&format!("routes: [{{{ROUTE}, rate_limit: {{rate: 300/s, burst: 50}}}}]"));
    let seen = hammer_while(&[gateway.address()], 4, for_a_while);
    assert!(seen.refused > 0, "{seen:?}");
    seen.assert(300.0, 50.0);
}

#[test]
fn clients_are_told_apart_by_what_the_route_says() {
    let limited = |per: &str| {
        Gateway::start(&format!(
            "trusted_proxies: [127.0.0.1]\nroutes:\n  - {{path: /other, respond: {{status: 200}}, rate_limit: {{rate: 5/d, per: {per}}}}}\n  - {{{ROUTE}, rate_limit: {{rate: 5/d, per: {per}}}}}"
        ))
    };
    let by_ip = limited("client_ip");
    let at = by_ip.address();
    assert_eq!(passed(9, || from(at, "192.0.2.1")), 5);
    assert_eq!(passed(9, || from(at, "192.0.2.2")), 5);
    assert_eq!(passed(9, || from(at, "::ffff:192.0.2.2")), 0, "the same one");
    assert_eq!(
        passed(3, || from(at, "2001:db8::1")) + passed(9, || from(at, "2001:db8::ffff:ffff:ffff:ffff")),
        5
    );
    assert_eq!(passed(9, || from(at, "2001:db8:0:1::1")), 5, "the next network");
    let other = || exchange(at, "GET /other HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n");
    assert_eq!(passed(9, other), 5, "each route has its own");

    let by_header = limited("header:x-tenant");
    let at = by_header.address();
    let tenant = |name: &str, ip: &str| with(at, &format!("X-Tenant: {name}\r\nX-Forwarded-For: {ip}\r\n"));
    assert_eq!(passed(3, || tenant("a", "192.0.2.1")) + passed(9, || tenant("a", "192.0.2.2")), 5);
    assert_eq!(passed(9, || tenant("b", "192.0.2.1")), 5);
    assert_eq!(passed(9, || from(at, "192.0.2.1")), 5, "without the field: by address");
    assert_eq!(passed(9, || from(at, "192.0.2.2")), 5);

    let by_route = limited("route");
    assert_eq!(
        passed(3, || from(by_route.address(), "192.0.2.1"))
            + passed(9, || from(by_route.address(), "192.0.2.2")),
        5
    );

    let by_both = limited("[client_ip, header:x-tenant]");
    let at = by_both.address();
    let tenant = |name: &str, ip: &str| with(at, &format!("X-Tenant: {name}\r\nX-Forwarded-For: {ip}\r\n"));
    for (name, ip) in [("a", "192.0.2.1"), ("a", "192.0.2.2"), ("b", "192.0.2.1")] {
        assert_eq!(passed(9, || tenant(name, ip)), 5, "{name} {ip}");
    }

    let by_consumer = limited("consumer");
    assert_eq!(passed(9, || from(by_consumer.address(), "192.0.2.1")), 5, "nobody in particular: by address");
    assert_eq!(passed(9, || from(by_consumer.address(), "192.0.2.2")), 5);
}

#[test]
fn a_client_cannot_choose_whose_bucket_it_takes_from() {
    let gateway = Gateway::start(&format!("routes: [{{{ROUTE}, rate_limit: {{rate: 5/d}}}}]"));
    let mut number = 0;
    let answers = (0..20).map(|_| {
        number += 1;
        from(gateway.address(), &format!("192.0.2.{number}")).status // nobody trusts it
    });
    assert_eq!(answers.filter(|status| *status == 200).count(), 5);
}

#[test]
fn several_limits_must_all_allow_and_a_refusal_takes_from_none() {
    let gateway = Gateway::start(&format!(
        "trusted_proxies: [127.0.0.1]\nroutes: [{{{ROUTE}, rate_limit: [{{rate: 10/d, per: route, name: all}}, {{rate: 3/d, name: each}}]}}]"
    ));
    let at = gateway.address();
    assert_eq!(passed(20, || from(at, "192.0.2.1")), 3);
    let refused = from(at, "192.0.2.1");
    assert_eq!(refused.field("ratelimit-policy"), Some("\"all\";q=10;w=86400, \"each\";q=3;w=86400"));
    assert!(refused.field("ratelimit").unwrap().starts_with("\"each\";r=0;"));
    // 18 refusals have taken nothing from the seven that are left for others.
    let others = (2..6).map(|n| passed(3, || from(at, &format!("192.0.2.{n}")))).sum::<usize>();
    assert_eq!(others, 7);
    assert!(from(at, "192.0.2.9").field("ratelimit").unwrap().starts_with("\"all\";r=0;"));
}

#[test]
fn a_request_may_cost_more_and_a_default_may_be_lifted() {
    let gateway = Gateway::start(
        "defaults: {rate_limit: {rate: 10/d, cost: 4}}\nroutes:\n\
         - {path: /free, respond: {status: 200}, rate_limit: off}\n\
         - {path: /, respond: {status: 200}}",
    );
    assert_eq!(passed(9, || get(gateway.address(), "/")), 2);
    assert_eq!(passed(20, || get(gateway.address(), "/free")), 20);
    assert_eq!(get(gateway.address(), "/free").field("ratelimit"), None);
}

/// A consumer's plan is in the place of what the route says, over all routes; whose key it is, is not said by the client.
#[test]
fn consumers_are_counted_by_name_and_by_their_plans() {
    let hash = |key: &str| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes());
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let gateway = Gateway::start(&format!(
        "rate_plans: {{gold: {{rate: 5/day}}}}\n\
         consumers:\n  small: {{api_keys: [\"sha256:{}\", \"sha256:{}\"]}}\n  other: {{api_keys: [\"sha256:{}\"]}}\n  \
         big: {{rate_plan: gold, api_keys: [\"sha256:{}\"]}}\n\
         defaults: {{auth: api_key, rate_limit: {{rate: 2/day, per: consumer}}}}\n\
         routes:\n  - {{path: /, respond: {{status: 200}}}}\n  - {{path: /b, respond: {{status: 200}}}}\n",
        hash("one"), hash("two"), hash("three"), hash("four")
    ));
    let ask = |path: &str, key: &str| {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: t\r\nX-Api-Key: {key}\r\nX-Consumer: other\r\n\r\n");
        exchange(gateway.address(), request)
    };
    assert_eq!(passed(4, || ask("/", "one")), 2);
    assert_eq!(passed(4, || ask("/", "two")), 0, "another key of the same one");
    assert_eq!(passed(4, || ask("/b", "one")), 2, "each route counts by itself");
    assert_eq!(passed(4, || ask("/", "three")), 2);
    assert_eq!(passed(3, || ask("/", "four")), 3);
    assert_eq!(passed(4, || ask("/b", "four")), 2, "a plan is one for all routes");
    for _ in 0..5 {
        assert_eq!(ask("/", "nobody's").status, 401, "who is nobody takes from nobody");
    }
}

#[test]
fn a_reload_gives_nobody_a_fresh_start() {
    let yaml = |rate: &str| {
        format!("routes: [{{name: a, {ROUTE}, rate_limit: {{rate: {rate}, burst: 4}}}}, {{path: /{}, respond: {{status: 200}}}}]", rate.len())
    };
    let gateway = Gateway::start(&yaml("4/d"));
    assert_eq!(passed(9, || get(gateway.address(), "/")), 4);
    assert!(gateway.reload(&yaml("4/d")).contains("] reloaded "));
    assert_eq!(passed(9, || get(gateway.address(), "/")), 0, "the same limit");
    assert!(gateway.reload(&yaml("5/d")).contains("] reloaded "));
    assert_eq!(passed(9, || get(gateway.address(), "/")), 0, "another rate");
    assert!(gateway.reload(&yaml("5/d").replace("name: a", "name: b")).contains("] reloaded "));
    assert_eq!(passed(9, || get(gateway.address(), "/")), 4, "another route");
}

#[test]
fn more_keys_than_there_is_room_for_are_one() {
    let gateway = Gateway::start(&format!(
        "trusted_proxies: [127.0.0.1]\nadmin: {{address: \"127.0.0.1:0\"}}\nrate_limit_store: {{max_keys: 1000}}\n\
         routes: [{{{ROUTE}, rate_limit: {{rate: 50/d, burst: 50}}}}]"
    ));
    let mut client = Raw::connect(gateway.address());
    let mut ask = |n: u32| {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + n);
        client.send(format!("GET / HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: {address}\r\n\r\n"));
        client.response().status
    };
    assert_eq!((0..60).filter(|_| ask(0) == 200).count(), 50);
    let passed = (1..3_000).filter(|n| ask(*n) == 200).count();
    assert_eq!(passed, 999 + 50, "those with room, and one bucket for all others");
    assert_eq!(ask(0), 429, "who was limited still is");
    assert_eq!(ask(1), 200, "who is known has theirs");
    assert_eq!(metric(&gateway, "portcullis_rate_limit_keys"), 1000.0);
    assert!(metric(&gateway, "portcullis_rate_limit_crowded_total") >= 2_000.0);
}

// ---- together with other gateways ----

/// Gateways that count in a store.
fn gateways(count: usize, store: &str, route: &str) -> Vec<Gateway> {
    let yaml = format!(
        "admin: {{address: \"127.0.0.1:0\"}}\ntrusted_proxies: [127.0.0.1]\nrate_limit_store: {store}\nroutes: [{{name: r, {ROUTE}, {route}}}]\n"
    );
    let all: Vec<Gateway> = (0..count).map(|_| Gateway::start(&yaml)).collect();
    all
}

fn addresses(gateways: &[Gateway]) -> Vec<SocketAddr> {
    gateways.iter().map(Gateway::address).collect()
}

/// What Redis alone decided, or the test shows nothing.
fn assert_no_fallbacks(gateways: &[Gateway]) {
    for gateway in gateways {
        let fallbacks = metric(gateway, "portcullis_rate_limit_store_requests_total{by=\"fallback\"}");
        assert_eq!(fallbacks, 0.0, "{}", gateway.log().join("\n"));
    }
}

#[test]
fn three_gateways_share_one_limit() {
    let redis = Redis::start();
    let three = gateways(
        3,
        &format!("{{redis: \"{}\", timeout: 1s, gateways: 3}}", redis.url()),
        "rate_limit: [{rate: 300/s, burst: 60, per: route}, {rate: 10_000/day, per: client_ip}]",
    );
    let seen = hammer_while(&addresses(&three), 2, || {
        for_a_while();
        redis.cli(&["script", "flush"]); // it is given the script again
        for_a_while();
    });
    assert_no_fallbacks(&three);
    assert!(seen.refused > 0);
    seen.assert(300.0, 60.0);
    // Refusals by the one have taken nothing from the other.
    let key = "portcullis:{ip=127.0.0.1}:route.r:client_ip-1d";
    until("the key expires no sooner than its debt", || {
        redis.cli(&["pttl", key]).trim().parse::<i64>().is_ok()
    });
    let left: i64 = redis.cli(&["pttl", key]).trim().parse().unwrap();
    let owed = seen.passed as f64 * 8_640.0;
    assert!(left as f64 <= owed + 2.0 && left as f64 >= owed - 60_000.0, "{left} of {owed}");
}

#[test]
fn a_limit_that_is_not_shared_is_each_gateways_own() {
    let redis = Redis::start();
    let two = gateways(
        2,
        &format!("{{redis: \"{}\", timeout: 1s}}", redis.url()),
        "rate_limit: [{rate: 4/d, shared: false, name: own}, {rate: 6/d, name: common}]",
    );
    let [one, other] = [two[0].address(), two[1].address()];
    assert_eq!(passed(9, || get(one, "/")), 4);
    assert_eq!(passed(9, || get(other, "/")), 2);
    // What the common one refused was given back to the gateway's own.
    assert!(get(other, "/").field("ratelimit").unwrap().starts_with("\"common\";r=0"));
    redis.cli(&["flushall"]);
    assert_eq!(passed(9, || get(other, "/")), 2);
}

/// What all answers together say of a store that went away and came back.
fn goes_and_comes(away: impl Fn(&mut Redis), back: impl Fn(&mut Redis)) {
    let mut redis = Redis::start();
    // A day's rate adds nothing while the test lasts: what passes is bursts.
    let three = gateways(
        3,
        &format!("{{redis: \"{}\", gateways: 3}}", redis.url()),
        "rate_limit: {rate: 90/d, per: \"header:x-k\"}",
    );
    let ask = |at: SocketAddr, key: &str| with(at, &format!("X-K: {key}\r\n"));
    let at = addresses(&three);
    three.iter().for_each(|gateway| until("it is there", || is_up(gateway)));
    let traffic = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| hammer(&at, 1, &traffic)); // nobody sees anything but 200 and 429
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..3 {
                three.iter().for_each(|gateway| until("it is there", || is_up(gateway)));
                away(&mut redis);
                three.iter().for_each(|gateway| until("that it is gone is seen", || !is_up(gateway)));
                let alone: usize =
                    at.iter().map(|at| passed(40, || ask(*at, &format!("gone-{round}")))).sum();
                assert_eq!(alone, 90, "a third each");
                back(&mut redis);
                three.iter().for_each(|gateway| until("it comes back by itself", || is_up(gateway)));
            }
        }));
        traffic.store(true, Ordering::Relaxed);
        let seen = load.join().unwrap();
        assert!(seen.passed > 0);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    for gateway in &three {
        let log = gateway.log();
        let said = |what: &str| {
            log.iter().filter(|line| line.contains("rate limits: ") && line.contains(what)).count()
        };
        let outages = metric(gateway, "portcullis_rate_limit_store_outages_total") as usize;
        assert!(outages >= 3);
        assert_eq!(said(" is down ("), outages, "one line for each change: {log:#?}");
        assert!(metric(gateway, "portcullis_rate_limit_store_requests_total{by=\"fallback\"}") > 0.0);
    }
    // They count together again.
    let together: usize = at.iter().map(|at| passed(100, || ask(*at, "after"))).sum();
    assert!(
        (90..=180).contains(&together),
        "{together}: a burst, and one more at most if it is slow for a moment"
    );
}

#[test]
fn a_redis_that_stops_and_starts_again() {
    goes_and_comes(Redis::stop, Redis::restart);
}

#[test]
fn a_redis_that_is_paused() {
    goes_and_comes(|redis| redis.pause(), |redis| redis.resume());
}

#[test]
fn a_gateway_starts_without_its_store() {
    let mut redis = Redis::start();
    redis.stop();
    let two = gateways(
        2,
        &format!("{{redis: \"{}\", gateways: 2, timeout: 1s}}", redis.url()),
        "rate_limit: {rate: 10/d}",
    );
    let all: usize = two.iter().map(|gateway| passed(20, || get(gateway.address(), "/"))).sum();
    assert_eq!(all, 10);
    two[0].wait_log(&["rate limits: the store at", "is down", "within 1/2"]);
    redis.restart();
    two.iter().for_each(|gateway| until("it is found", || is_up(gateway)));
    let all: usize = two.iter().map(|gateway| passed(20, || get(gateway.address(), "/"))).sum();
    assert_eq!(all, 10, "one more burst for the change, as is written");
}

#[test]
fn tls_names_and_passwords() {
    let authority = Authority::new("redis");
    let server = authority.issue("redis", &["127.0.0.1", "localhost"]);
    let own = authority.issue("gateway", &["gateway"]);
    let [cert, key, ca] =
        [&server.cert, &server.key, &authority.file()].map(|path| path.display().to_string());
    let redis = Redis::with(&[
        "--port",
        "0",
        "--tls-port",
        "$PORT",
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "yes",
        "--user",
        "default",
        "off",
        "--user",
        "gate",
        "on",
        ">a-secret",
        "~portcullis:*",
        "+@all",
    ]);
    let tls = format!("tls: {{ca: {ca}, cert: {}, key: {}}}", own.cert.display(), own.key.display());
    let url = format!("rediss://{}", redis.address);
    let good = gateways(
        1,
        &format!("{{redis: \"{url}\", username: gate, password: a-secret, timeout: 1s, {tls}}}"),
        "rate_limit: {rate: 5/d}",
    );
    assert_eq!(passed(9, || get(good[0].address(), "/")), 5);
    assert!(is_up(&good[0]));
    assert_no_fallbacks(&good);
    let in_url = format!("rediss://gate:a-secret@{}", redis.address);
    for (store, why) in [
        (format!("{{redis: \"{in_url}\", timeout: 1s, {tls}}}"), None),
        (
            format!("{{redis: \"{url}\", username: gate, password: wrong-secret, {tls}}}"),
            Some("uthentication"),
        ),
        (
            format!("{{redis: \"{url}\", username: gate, password: a-secret, tls: {{ca: {ca}}}}}"),
            Some("is down"),
        ),
        (format!("{{redis: \"{url}\", username: gate, password: a-secret}}"), Some("ertificate")),
    ] {
        let one = gateways(1, &store, "rate_limit: {rate: 5/d}");
        let left = passed(9, || get(one[0].address(), "/"));
        match why {
            None => assert_eq!(left, 0, "the other has taken them"),
            Some(why) => {
                let line = one[0].wait_log(&["rate limits: the store at", why]);
                assert!(!one[0].log().iter().any(|line| line.contains("secret")), "{line}");
                assert_eq!(left, 5, "counted here");
            }
        }
    }
}

#[test]
fn a_cluster_counts_too() {
    let nodes = Redis::cluster();
    let urls: Vec<String> = nodes.iter().take(2).map(|node| format!("\"{}\"", node.url())).collect();
    let two = gateways(
        2,
        &format!("{{redis: [{}], mode: cluster, timeout: 1s}}", urls.join(", ")),
        "rate_limit: [{rate: 5/d, name: five}, {rate: 9/d, name: nine}, {rate: 60/d, per: route, name: all}]",
    );
    let at = addresses(&two);
    let mut all = 0;
    for client in 0..12 {
        let from = |at: SocketAddr| move || from(at, &format!("192.0.2.{client}"));
        let both = passed(3, from(at[0])) + passed(9, from(at[1]));
        assert_eq!(both, 5.min(60 - all), "client {client}");
        all += both;
    }
    assert_no_fallbacks(&two);
    // All 60 are taken; the refusals were given back where another node had allowed them already.
    assert_eq!(passed(9, || from(at[0], "192.0.2.200")), 0);
    let homes: Vec<usize> = nodes.iter().map(|node| node.cli(&["dbsize"]).trim().parse().unwrap()).collect();
    assert!(homes.iter().all(|keys| *keys > 0), "keys are on all nodes: {homes:?}");
    let of_the_last = ["-c", "exists", "portcullis:{ip=192.0.2.200}:route.r:five"];
    assert_eq!(nodes[0].cli(&of_the_last).trim(), "0");
}

#[test]
fn sentinels_say_where_the_master_is() {
    let mut master = Redis::start();
    let port = master.address.port().to_string();
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &port]);
    until("it replicates", || replica.cli(&["info", "replication"]).contains("master_link_status:up"));
    let sentinel = Redis::sentinel(master.address);
    until("the sentinel knows both", || {
        let port = replica.address.port().to_string();
        sentinel.cli(&["sentinel", "replicas", "master"]).contains(&port)
    });
    let one = gateways(
        1,
        &format!("{{redis: \"{}\", mode: sentinel, master: master, timeout: 1s}}", sentinel.url()),
        "rate_limit: {rate: 20/d}",
    );
    assert_eq!(passed(5, || get(one[0].address(), "/")), 5);
    assert_no_fallbacks(&one);
    until("the replica has it", || replica.cli(&["keys", "*"]).contains("ip=127.0.0.1"));
    master.stop();
    until("it is seen to be gone", || !is_up(&one[0]));
    until("the replica becomes the master", || replica.cli(&["role"]).starts_with("master"));
    until("the gateway has followed", || is_up(&one[0]));
    assert_eq!(passed(30, || get(one[0].address(), "/")), 15, "it goes on where the other was");
}

#[test]
fn counting_ahead_stays_within_what_is_written() {
    let redis = Redis::start();
    let three = gateways(
        3,
        &format!("{{redis: \"{}\", sync: 50ms, timeout: 1s, gateways: 3}}", redis.url()),
        "rate_limit: {rate: 200/s, burst: 20, per: route}",
    );
    let seen = hammer_while(&addresses(&three), 1, || {
        for_a_while();
        for_a_while();
    });
    assert_no_fallbacks(&three);
    let ahead: f64 =
        three.iter().map(|g| metric(g, "portcullis_rate_limit_store_requests_total{by=\"ahead\"}")).sum();
    assert!(ahead >= (seen.passed + seen.refused) as f64, "{ahead} {seen:?}");
    // A burst of each gateway at most, and over all of it the rate: what was too much is paid for.
    let most = 3.0 * 20.0 + 200.0 * seen.most.as_secs_f64();
    assert!(seen.passed as f64 <= most + 1.0, "{seen:?}: at most {most}");
    assert!(seen.passed as f64 >= 200.0 * seen.least.as_secs_f64() / 2.0, "{seen:?}");
    let kept = wait_for("the store was told", || {
        let kept = redis.cli(&["keys", "portcullis:*"]);
        kept.contains("{route.r:route-1s}").then_some(kept)
    });
    assert_eq!(kept.lines().count(), 1);
}

#[test]
fn a_reload_changes_the_store() {
    let (one, two) = (Redis::start(), Redis::start());
    let yaml = |store: String| {
        format!(
            "admin: {{address: \"127.0.0.1:0\"}}\nrate_limit_store: {{redis: \"{store}\", timeout: 1s}}\nroutes: [{{name: r, {ROUTE}, rate_limit: {{rate: 5/d}}}}]"
        )
    };
    let gateway = Gateway::start(&yaml(one.url()));
    assert_eq!(passed(9, || get(gateway.address(), "/")), 5);
    assert!(gateway.reload(&yaml(one.url())).contains("] reloaded "));
    assert_eq!(passed(9, || get(gateway.address(), "/")), 0);
    assert!(gateway.reload(&yaml(two.url())).contains("] reloaded "));
    until("the other is there", || is_up(&gateway));
    assert_eq!(passed(9, || get(gateway.address(), "/")), 5);
    let clients =
        |redis: &Redis| redis.cli(&["client", "list"]).lines().filter(|l| !l.contains("cmd=client")).count();
    until("the first one is let go of", || clients(&one) == 0);
    assert_eq!(clients(&two), 1);
}

/// A measurement, for `PORTCULLIS_RATE_SECONDS=60 cargo test --release --test rate_limit minute -- --nocapture`: 300 a second
/// by three gateways that wait 20 ms for the store (`PORTCULLIS_RATE_TIMEOUT`), counted together, while the store is gone, and together again.
#[test]
fn a_minute_of_three_gateways() {
    let Some(seconds) = std::env::var("PORTCULLIS_RATE_SECONDS").ok().and_then(|text| text.parse().ok())
    else {
        return;
    };
    let mut redis = Redis::start();
    let timeout = std::env::var("PORTCULLIS_RATE_TIMEOUT").unwrap_or_else(|_| "20ms".to_owned());
    let (rate, burst) = (300.0, 30.0);
    let three = gateways(
        3,
        &format!("{{redis: \"{}\", gateways: 3, timeout: {timeout}}}", redis.url()),
        "rate_limit: {rate: 300/s, burst: 30, per: route}",
    );
    let run = |what: &str, changes: f64, apart: f64| {
        let before: f64 = three.iter().map(|g| metric(g, "portcullis_rate_limit_store_outages_total")).sum();
        let seen = hammer_while(&addresses(&three), 2, || std::thread::sleep(Duration::from_secs(seconds)));
        let outages: f64 = three.iter().map(|g| metric(g, "portcullis_rate_limit_store_outages_total")).sum();
        let (t, passed) = (seen.most.as_secs_f64(), seen.passed as f64);
        // While some count together again and others do not yet, those have their share besides.
        let most = rate * (t + apart) + burst * (1.0 + changes + 2.0 * (outages - before));
        println!(
            "{what}: {passed} of {} in {t:.2} s, {:.2} a second, {:+.2}% of {rate}; allowed {most:.0}; outages {}",
            seen.passed + seen.refused,
            passed / t,
            100.0 * (passed / t / rate - 1.0),
            outages - before
        );
        assert!(passed <= most + 1.0, "{seen:?}");
    };
    three.iter().for_each(|gateway| until("it is there", || is_up(gateway)));
    run("together", 0.0, 0.0);
    redis.stop();
    run("without the store", 1.0, 0.0);
    redis.restart();
    run("with the store again", 1.0, 1.0);
}
