//! What the gateway costs in memory: idle, with idle clients, with many routes. `--nocapture` shows the figures.

mod kit;

use kit::certs::Authority;
use kit::gateway::{check, LISTEN};
use kit::tls::Client;
use kit::{until, Gateway, Origin, Raw};

const MIB: u64 = 1024;

fn routes(count: usize, origin: &str) -> String {
    let route = |n: usize| format!("  - {{path: /service{n}/api, upstream: \"{origin}\"}}\n");
    format!("{LISTEN}routes:\n{}", (0..count).map(route).collect::<String>())
}

#[test]
fn an_idle_gateway_stays_under_20_mib() {
    let origin = Origin::text("x");
    let gateway = Gateway::start(&routes(10, &origin.url()));
    println!("idle: {} KiB resident", gateway.rss_kib());
    // Of a build without optimisation the code alone is larger than that: there, what is not code is held to less.
    if !cfg!(debug_assertions) {
        assert!(gateway.rss_kib() < 20 * MIB, "{} KiB", gateway.rss_kib());
    }
    let own = gateway.own_kib();
    println!("of its own: {own} KiB");
    assert!(own < 8 * MIB, "{own} KiB besides the code");
}

#[test]
fn five_thousand_idle_connections_stay_small() {
    const CONNECTIONS: u64 = 5_000;
    rlimit::increase_nofile_limit(1 << 16).unwrap();
    let origin = Origin::text("x");
    let gateway = Gateway::start(&format!("{}limits: {{idle_timeout: 10m}}\n", routes(10, &origin.url())));
    let before = gateway.rss_kib();
    let mut clients: Vec<Raw> = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = Raw::connect(gateway.address());
        assert_eq!(client.send("GET /service1/api HTTP/1.1\r\nHost: t\r\n\r\n").response().status, 200);
        clients.push(client);
    }
    // Buffers are given back a second after the last request of each. Required are 100 KiB; a parked connection has
    // none, so far less is held to.
    let per_connection = || gateway.rss_kib().saturating_sub(before) * 1024 / CONNECTIONS;
    until("under 16 KiB each", || per_connection() < 16 * 1024);
    println!("{CONNECTIONS} idle keep-alive connections: {} bytes each", per_connection());
    for client in clients.iter_mut().step_by(100) {
        assert_eq!(
            client.send("GET /service1/api HTTP/1.1\r\nHost: t\r\n\r\n").response().status,
            200,
            "still open"
        );
    }
}

#[test]
fn two_thousand_idle_connections_over_tls_stay_small() {
    const CONNECTIONS: u64 = 2_000;
    rlimit::increase_nofile_limit(1 << 16).unwrap();
    let ca = Authority::new("ca");
    let cert = ca.issue("a", &["a.test"]);
    let gateway = Gateway::start(&format!(
        "listeners: [{{address: \"127.0.0.1:0\", tls: {{certificates: [{}]}}}}]\nlimits: {{idle_timeout: 10m}}\n\
         routes: [{{path: /, respond: {{body: x}}}}]\n",
        cert.yaml()
    ));
    let client = Client::of(&ca);
    let connect = || {
        let mut tls = client.connect(gateway.address(), "a.test").unwrap();
        assert_eq!(tls.ask("a.test", "/").unwrap().status, 200);
        tls
    };
    connect(); // what is made once is not what a connection costs
    let before = gateway.rss_kib();
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| connect()).collect();
    let per_connection = || gateway.rss_kib().saturating_sub(before) * 1024 / CONNECTIONS;
    until("under 32 KiB each", || per_connection() < 32 * 1024);
    println!("{CONNECTIONS} idle connections over TLS: {} bytes each", per_connection());
    for client in clients.iter_mut().step_by(100) {
        assert_eq!(client.ask("a.test", "/").unwrap().status, 200, "still open");
    }
}

#[test]
fn ten_thousand_routes_take_less_than_50_mib() {
    let origin = Origin::text("x");
    let few = Gateway::start(&routes(10, &origin.url()));
    let many = Gateway::start(&routes(10_000, &origin.url()));
    let cost = many.rss_kib().saturating_sub(few.rss_kib());
    println!("10,000 routes: {cost} KiB more than 10");
    assert!(cost < 50 * MIB, "{cost} KiB");
    let start = std::time::Instant::now();
    assert_eq!(check(&routes(10_000, &origin.url())).0, 0);
    println!("check of 10,000 routes: {:?}", start.elapsed());
}
