//! Targets by name: resolved in the background by a real name server, never on the request path.

mod kit;

use kit::dns::Dns;
use kit::raw::get;
use kit::{until, Gateway, Origin};
use std::net::SocketAddr;

/// Two origins on one port and two addresses, as two records of one name would have.
fn pair() -> (Origin, Origin) {
    let one = Origin::text("one");
    let two = Origin::text_at(SocketAddr::new("127.0.0.2".parse().unwrap(), one.address.port()), "two");
    (one, two)
}

fn yaml(dns: &Dns, port: u16, keys: &str) -> String {
    format!(
        "resolver: {{servers: [\"{}\"]}}\nupstreams: {{app: {{targets: [\"app.test:{port}\"]{keys}}}}}\nroutes: [{{path: /, upstream: app}}]\n",
        dns.address
    )
}

fn bodies(gateway: &Gateway) -> Vec<String> {
    (0..4).map(|_| get(gateway.address(), "/").text()).collect()
}

#[test]
fn every_address_of_a_name_is_a_target_and_changes_are_followed() {
    let (one, _two) = pair();
    let dns = Dns::start("127.0.0.1 app.test\n");
    let gateway = Gateway::start(&yaml(&dns, one.address.port(), ""));
    assert_eq!(bodies(&gateway), ["one"; 4], "resolved before the first request");
    dns.set("127.0.0.1 app.test\n127.0.0.2 app.test\n");
    until("both addresses serve", || bodies(&gateway).contains(&"two".to_owned()));
    assert!(bodies(&gateway).contains(&"one".to_owned()));
    dns.set("127.0.0.2 app.test\n");
    until("only the second serves", || bodies(&gateway) == ["two"; 4]);
}

#[test]
fn the_last_good_answer_stays_when_the_name_vanishes_or_the_server_falls_silent() {
    let (one, _two) = pair();
    let mut dns = Dns::start("127.0.0.1 app.test\n");
    let gateway = Gateway::start(&yaml(&dns, one.address.port(), ""));
    assert_eq!(bodies(&gateway), ["one"; 4]);
    dns.set("127.0.0.9 other.test\n");
    gateway.wait_log(&["app.test does not resolve", "1 known addresses stay in use"]);
    assert_eq!(bodies(&gateway), ["one"; 4]);
    dns.set("127.0.0.2 app.test\n");
    gateway.wait_log(&["app.test resolves again"]);
    until("the new answer is used", || bodies(&gateway) == ["two"; 4]);
    let lines = gateway.log().len();
    dns.stop();
    until("the silence is told", || {
        gateway.log()[lines..].iter().any(|l| l.contains("app.test does not resolve"))
    });
    assert_eq!(bodies(&gateway), ["two"; 4]);
}

#[test]
fn a_name_unknown_at_the_start_is_503_until_it_is_known() {
    let (one, _two) = pair();
    let dns = Dns::start("127.0.0.9 other.test\n");
    let gateway = Gateway::start(&yaml(&dns, one.address.port(), ""));
    let response = get(gateway.address(), "/");
    assert_eq!((response.status, response.problem().as_str()), (503, "no_healthy_target"));
    gateway.wait_log(&["upstream app: no healthy target: app.test:"]);
    dns.set("127.0.0.1 app.test\n");
    until("it is known", || get(gateway.address(), "/").status == 200);
}

#[test]
fn a_new_address_waits_for_its_first_check() {
    let (one, two) = pair();
    let dns = Dns::start("127.0.0.1 app.test\n");
    let gateway = Gateway::start(&yaml(&dns, one.address.port(), ", health_check: {path: /, interval: 60s}"));
    two.stop();
    dns.set("127.0.0.1 app.test\n127.0.0.2 app.test\n");
    gateway.wait_log(&[&two.target(), "is unhealthy"]);
    for _ in 0..10 {
        assert_eq!(bodies(&gateway), ["one"; 4]);
    }
}
