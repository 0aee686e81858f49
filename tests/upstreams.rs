//! Balancing over targets, reuse of connections, timeouts.

mod kit;

use kit::raw::{exchange, get};
use kit::{Gateway, Origin, Raw, Step};
use std::collections::HashMap;

fn upstream(keys: &str, targets: &[String]) -> String {
    format!(
        "upstreams: {{app: {{targets: [{}]{keys}}}}}\nroutes: [{{path: /, upstream: app}}]\n",
        targets.join(", ")
    )
}

fn counts(gateway: &Gateway, requests: usize, head: impl Fn(usize) -> String) -> HashMap<String, usize> {
    let mut client = Raw::connect(gateway.address());
    let mut counts = HashMap::new();
    for n in 0..requests {
        let response = client.send(format!("GET / HTTP/1.1\r\nHost: t\r\n{}\r\n", head(n))).response();
        assert_eq!(response.status, 200);
        *counts.entry(response.text()).or_default() += 1;
    }
    counts
}

fn named(names: &[&str]) -> (Vec<Origin>, Vec<String>) {
    let origins: Vec<Origin> = names.iter().map(|n| Origin::text(n)).collect();
    let targets = origins.iter().map(|o| format!("\"{}\"", o.target())).collect();
    (origins, targets)
}

#[test]
fn round_robin_goes_in_turn_and_by_weight() {
    let (origins, mut targets) = named(&["a", "b", "c"]);
    let gateway = Gateway::start(&upstream("", &targets));
    let even = counts(&gateway, 30, |_| String::new());
    assert_eq!(even, HashMap::from([("a".into(), 10), ("b".into(), 10), ("c".into(), 10)]));
    targets[1] = format!("{{address: \"{}\", weight: 3}}", origins[1].target());
    let gateway = Gateway::start(&upstream("", &targets));
    let weighted = counts(&gateway, 50, |_| String::new());
    assert_eq!(weighted, HashMap::from([("a".into(), 10), ("b".into(), 30), ("c".into(), 10)]));
}

#[test]
fn random_reaches_every_target() {
    let (_origins, targets) = named(&["a", "b", "c"]);
    let gateway = Gateway::start(&upstream(", balance: random", &targets));
    let counts = counts(&gateway, 300, |_| String::new());
    assert!(counts.len() == 3 && counts.values().all(|c| (40..200).contains(c)), "{counts:?}");
}

#[test]
fn consistent_hash_keeps_a_key_on_its_target_and_moves_only_what_it_must() {
    let (origins, targets) = named(&["a", "b", "c"]);
    let check = ", health_check: {path: /, interval: 100ms, unhealthy_after: 1}";
    let gateway = Gateway::start(&upstream(
        &format!(", balance: {{consistent_hash: {{header: x-user}}}}{check}"),
        &targets,
    ));
    let mut client = Raw::connect(gateway.address());
    let mut place = |user: usize| {
        client.send(format!("GET / HTTP/1.1\r\nHost: t\r\nX-User: user{user}\r\n\r\n")).response().text()
    };
    let before: Vec<String> = (0..60).map(&mut place).collect();
    let again: Vec<String> = (0..60).map(&mut place).collect();
    assert_eq!(before, again);
    assert_eq!(before.iter().collect::<std::collections::HashSet<_>>().len(), 3, "all targets are used");
    origins[0].stop();
    gateway.wait_log(&[&origins[0].target(), "is unhealthy"]);
    let after: Vec<String> = (0..60).map(&mut place).collect();
    for (was, is) in before.iter().zip(&after) {
        assert!(was == is || was == "a", "{was} moved to {is}");
        assert_ne!(is, "a");
    }
}

#[test]
fn consistent_hash_takes_cookie_path_and_client_address() {
    for (on, spread) in [("{cookie: session}", true), ("path", false), ("client_ip", false)] {
        let (_origins, targets) = named(&["a", "b", "c"]);
        let gateway = Gateway::start(&upstream(&format!(", balance: {{consistent_hash: {on}}}"), &targets));
        let counts = counts(&gateway, 60, |n| format!("Cookie: a=b; session=s{n}; c=d\r\n"));
        assert_eq!(counts.len() > 1, spread, "{on}: {counts:?}");
    }
}

#[test]
fn ten_thousand_requests_over_64_connections_open_few_more_to_the_origin() {
    let origin = Origin::text("x");
    let gateway = Gateway::start(&upstream("", &[format!("\"{}\"", origin.target())]));
    let address = gateway.address();
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(move || {
                let mut client = Raw::connect(address);
                for _ in 0..157 {
                    assert_eq!(client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response().status, 200);
                }
            });
        }
    });
    assert_eq!(origin.received().len(), 64 * 157);
    println!("{} upstream connections for {} requests", origin.connections(), 64 * 157);
    assert!(origin.connections() <= 72, "{} connections", origin.connections());
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    let origin = Origin::text("x");
    let gateway =
        Gateway::start(&upstream(", timeouts: {idle: 100ms}", &[format!("\"{}\"", origin.target())]));
    get(gateway.address(), "/");
    kit::until("the idle connection is gone and the next request opens another", || {
        std::thread::sleep(std::time::Duration::from_millis(150));
        get(gateway.address(), "/");
        origin.connections() > 1
    });
}

#[test]
fn a_silent_upstream_is_504_by_the_read_timeout() {
    let origin = Origin::start(|_| vec![Step::Hold]);
    let gateway =
        Gateway::start(&upstream(", timeouts: {read: 200ms}", &[format!("\"{}\"", origin.target())]));
    let response = get(gateway.address(), "/");
    assert_eq!((response.status, response.problem().as_str()), (504, "upstream_timeout"));
    gateway.wait_log(&["-> 504 upstream_timeout", "upstream app", &origin.target()]);
}

#[test]
fn an_upstream_that_never_accepts_is_504_by_the_connect_timeout() {
    // A full backlog: the kernel neither completes nor refuses the handshake.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let filler: Vec<_> = (0..4)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address.into());
            socket
        })
        .collect();
    let gateway = Gateway::start(&upstream(", timeouts: {connect: 200ms}", &[format!("\"{address}\"")]));
    let response = get(gateway.address(), "/");
    assert_eq!((response.status, response.problem().as_str()), (504, "upstream_timeout"));
    drop(filler);
}

#[test]
fn an_upstream_that_takes_no_body_is_504() {
    // After the write timeout an answer sent early (a 413, say) is still waited for, by the read timeout.
    let origin = Origin::on_head(|_| vec![Step::Hold]);
    let gateway = Gateway::start(&upstream(
        ", timeouts: {write: 300ms, read: 300ms}",
        &[format!("\"{}\"", origin.target())],
    ));
    let size = 64 << 20; // more than all socket buffers on the way
    let mut client = Raw::connect(gateway.address());
    let mut writer = client.socket.try_clone().unwrap();
    client.send(format!("PUT / HTTP/1.1\r\nHost: t\r\nContent-Length: {size}\r\n\r\n"));
    std::thread::spawn(move || {
        use std::io::Write;
        let chunk = vec![b'x'; 1 << 20];
        (0..size >> 20).all(|_| writer.write_all(&chunk).is_ok())
    });
    let response = client.response();
    assert_eq!((response.status, response.problem().as_str()), (504, "upstream_timeout"));
}

#[test]
fn an_upstream_without_a_listener_is_502_and_no_address_is_told() {
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let gateway = Gateway::start(&format!("routes: [{{path: /, upstream: \"http://{gone}\"}}]"));
    let response = exchange(gateway.address(), "GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!((response.status, response.problem().as_str()), (502, "connect"));
    assert!(!response.text().contains(&gone.port().to_string()));
    gateway.wait_log(&["-> 502 connect", &gone.to_string()]);
}
