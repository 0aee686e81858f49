//! What one client may cost: time for its head and body, idle connections, connections at once, sizes of the head.

mod kit;

use kit::origin::{raw, reply};
use kit::raw::exchange;
use kit::{until, wait_for, Bulk, Gateway, Origin, Raw, Response, Step};
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const GET: &str = "GET / HTTP/1.1\r\nHost: t\r\n\r\n";

/// A gateway with these limits in front of one upstream.
fn limited(limits: &str, url: &str) -> Gateway {
    Gateway::start(&format!("limits: {{{limits}}}\nroutes: [{{path: /, upstream: \"{url}\"}}]"))
}

/// A gateway with these limits that answers by itself.
fn alone(limits: &str) -> Gateway {
    Gateway::start(&format!(
        "limits: {{{limits}}}\nroutes: [{{path: /, respond: {{status: 200, body: here}}}}]"
    ))
}

fn assert_served(client: &mut Raw) {
    assert_eq!(client.send(GET).response().status, 200);
}

fn assert_refused(response: &Response, status: u16, reason: &str) {
    assert_eq!((response.status, response.problem().as_str()), (status, reason), "{}", response.head);
    assert_eq!(response.field("connection"), Some("close"));
}

/// Sends bytes one by one with a pause between them, until all are sent or the gateway closes: how many it were.
fn drip(client: &Raw, bytes: &'static [u8], pause: Duration) -> std::thread::JoinHandle<usize> {
    use std::io::Write;
    let mut socket = client.socket.try_clone().unwrap();
    std::thread::spawn(move || {
        bytes
            .iter()
            .take_while(|byte| {
                std::thread::sleep(pause);
                socket.write_all(&[**byte]).is_ok()
            })
            .count()
    })
}

// Time for the head

#[test]
fn a_head_that_does_not_end_in_time_is_408() {
    let gateway = alone("header_timeout: 300ms");
    for part in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: t\r\nX: y\r\n", "\r\nG"] {
        let mut client = Raw::connect(gateway.address());
        let response = client.send(part).response();
        assert_refused(&response, 408, "slow_head");
        assert!(client.rest().is_empty(), "{part:?}");
    }
}

/// RFC 9112 §2.2: some clients send one after a body. It begins no request, so nothing waits for its end.
#[test]
fn an_empty_line_between_requests_is_not_a_slow_head() {
    let mut gateway = alone("header_timeout: 100ms");
    let mut client = Raw::connect(gateway.address());
    for _ in 0..2 {
        assert_eq!(client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response().status, 200);
        client.send("\r\n");
        assert!(client.silent_for(Duration::from_millis(300)), "no answer to nothing");
    }
    client.send("\r\n");
    gateway.signal("TERM");
    gateway.wait_log(&["requests in flight: 0"]);
    assert_eq!(gateway.wait_exit().code(), Some(0));
}

#[test]
fn a_head_that_comes_byte_by_byte_has_no_more_time() {
    let gateway = alone("header_timeout: 300ms");
    let mut client = Raw::connect(gateway.address());
    let head: &[u8] = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'y'; 2000]].concat().leak();
    let begun = Instant::now();
    let dripping = drip(&client, head, Duration::from_millis(20));
    let response = client.response();
    assert_refused(&response, 408, "slow_head");
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert!(client.closed());
    drop(client);
    assert!(dripping.join().unwrap() < head.len(), "it was cut");
}

#[test]
fn the_head_of_a_later_request_has_its_own_time() {
    let gateway = alone("header_timeout: 300ms");
    let mut client = Raw::connect(gateway.address());
    for _ in 0..3 {
        assert_served(&mut client);
        std::thread::sleep(Duration::from_millis(200)); // more than the limit in all: waiting is not the head's time
    }
    assert_refused(&client.send("GET / HT").response(), 408, "slow_head");
    assert!(client.rest().is_empty());
}

#[test]
fn a_head_within_its_time_is_served_however_it_is_cut() {
    let gateway = alone("header_timeout: 10s");
    let mut client = Raw::connect(gateway.address());
    let dripping = drip(&client, GET.as_bytes(), Duration::from_millis(5));
    assert_eq!(client.response().text(), "here");
    assert_eq!(dripping.join().unwrap(), GET.len());
}

// Idle connections

#[test]
fn idle_connections_are_closed_without_a_word() {
    for limits in ["idle_timeout: 300ms", "idle_timeout: 1500ms"] {
        let gateway = alone(limits);
        let begun = Instant::now();
        let mut fresh = Raw::connect(gateway.address());
        let mut used = Raw::connect(gateway.address());
        assert_served(&mut used);
        assert!(fresh.rest().is_empty() && used.rest().is_empty(), "{limits}");
        assert!(begun.elapsed() >= Duration::from_millis(300), "{limits}");
    }
}

#[test]
fn a_connection_in_use_is_not_idle() {
    let origin = Origin::start(|_| {
        let mut steps = vec![kit::Step::Pause(Duration::from_millis(800))];
        steps.extend(reply(200, "late"));
        steps
    });
    let gateway = limited("idle_timeout: 200ms, header_timeout: 200ms", &origin.url());
    assert_eq!(exchange(gateway.address(), GET).text(), "late");
}

// Time for the body

/// The grace is five seconds, so these take that long: they run side by side.
#[test]
fn a_body_below_the_minimum_rate_is_408() {
    let origin = Bulk::start();
    let gateway = limited("min_body_rate: 1MiB/s", &origin.url());
    let stalled = |head: &str| {
        let mut client = Raw::connect(gateway.address());
        client.send(format!("POST / HTTP/1.1\r\nHost: t\r\n{head}\r\n\r\n"));
        client
    };
    let mut clients = vec![
        stalled("Content-Length: 10"),
        stalled("Transfer-Encoding: chunked"),
        stalled("Content-Length: 1000"),
        stalled("Transfer-Encoding: chunked"),
    ];
    clients[0].send("begun");
    clients[1].send("5\r\nbegun\r\n");
    let dripping = drip(&clients[2], &[b'x'; 1000], Duration::from_millis(50));
    for mut client in clients {
        assert_refused(&client.response(), 408, "slow_body");
        assert!(client.rest().is_empty());
    }
    assert!(dripping.join().unwrap() < 1000, "it was cut");
    until("the origin's connections end", || origin.open() == 0);
}

#[test]
fn a_body_that_keeps_the_minimum_rate_is_served_however_long_it_takes() {
    let origin = Bulk::start();
    let gateway = limited("min_body_rate: 100B/s", &origin.url());
    let mut client = Raw::connect(gateway.address());
    client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 70000\r\n\r\n");
    for _ in 0..70 {
        std::thread::sleep(Duration::from_millis(100)); // seven seconds: more than the grace
        client.send([b'x'; 1000]);
    }
    assert_eq!(client.response().text(), "70000");
}

#[test]
fn an_upload_that_waits_for_its_origin_is_not_the_clients_fault() {
    let origin = Origin::start(|_| {
        let mut steps = vec![kit::Step::Pause(Duration::from_millis(6000))]; // more than the grace
        steps.extend(reply(200, "late"));
        steps
    });
    let gateway = limited("min_body_rate: 1MiB/s", &origin.url());
    let request = "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(exchange(gateway.address(), request).text(), "late");
}

// Clients that do not take their answer

#[test]
fn a_client_that_takes_nothing_is_cut() {
    let origin = Bulk::start();
    let gateway = limited("write_timeout: 400ms", &origin.url());
    for target in ["/down/1000000000", "/chunked/1000000000"] {
        let mut client = Raw::connect(gateway.address());
        client.send(format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n"));
        until("the origin sends", || origin.open() == 1);
        until("the origin's connection ends", || origin.open() == 0);
        let response = client.response();
        assert!(response.status == 200 && !response.complete, "{target}");
    }
    gateway.wait_log(&["499", "client_gone"]);
}

#[test]
fn a_client_that_takes_its_time_is_not_cut() {
    const LENGTH: usize = 30 << 20;
    let origin = Bulk::start();
    let gateway = limited("write_timeout: 2s", &origin.url());
    let mut client = Raw::connect(gateway.address());
    client.send(format!("GET /down/{LENGTH} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"));
    let (mut total, mut block) = (0, vec![0; 1 << 20]);
    while total < LENGTH {
        std::thread::sleep(Duration::from_millis(100)); // some three seconds and more
        let mut taken = 0;
        while taken < block.len() {
            match client.socket.read(&mut block[taken..]).unwrap() {
                0 => break,
                n => taken += n,
            }
        }
        assert!(taken > 0, "cut after {total} bytes");
        total += taken;
    }
}

// Requests on a connection

#[test]
fn the_last_request_of_a_connection_says_so() {
    let origin = Origin::text("x");
    let gateway = limited("requests_per_connection: 3", &origin.url());
    let mut client = Raw::connect(gateway.address());
    for connection in ["keep-alive", "keep-alive", "close"] {
        let response = client.send(GET).response();
        assert_eq!((response.status, response.field("connection")), (200, Some(connection)));
    }
    assert!(client.rest().is_empty());
    assert_eq!(origin.received().len(), 3);
}

#[test]
fn what_is_pipelined_behind_the_last_request_is_not_served() {
    let origin = Origin::text("x");
    let gateway = limited("requests_per_connection: 2", &origin.url());
    let mut client = Raw::connect(gateway.address());
    client.send(GET.repeat(3));
    assert_eq!(client.response().field("connection"), Some("keep-alive"));
    assert_eq!(client.response().field("connection"), Some("close"));
    assert!(client.rest().is_empty());
    assert_eq!(origin.received().len(), 2);
}

// Connections at once

#[test]
fn beyond_the_connections_in_all_it_is_503_with_retry_after() {
    let gateway = alone("connections: 2");
    let mut clients = [Raw::connect(gateway.address()), Raw::connect(gateway.address())];
    clients.iter_mut().for_each(assert_served);
    let mut third = Raw::connect(gateway.address());
    let response = third.response();
    assert_refused(&response, 503, "too_many_connections");
    assert_eq!(response.field("retry-after"), Some("1"));
    assert!(third.rest().is_empty());
    clients.iter_mut().for_each(assert_served);
    drop(clients);
    let_in_again(&gateway);
}

#[test]
fn beyond_the_connections_of_an_address_it_is_429() {
    let gateway = alone("connections_per_address: 2");
    let mut clients = [Raw::connect(gateway.address()), Raw::connect(gateway.address())];
    clients.iter_mut().for_each(assert_served);
    let mut third = Raw::connect(gateway.address());
    let response = third.response();
    assert_refused(&response, 429, "too_many_connections_from_address");
    assert_eq!(response.field("retry-after"), Some("1"));
    assert!(third.rest().is_empty());
    let mut other = from([127, 0, 0, 2], &gateway);
    assert_served(&mut other);
    clients.iter_mut().for_each(assert_served);
    drop(clients);
    let_in_again(&gateway);
}

/// The place of a connection that ends is free again, and one refused took none.
fn let_in_again(gateway: &Gateway) {
    for _ in 0..3 {
        wait_for("a place is free again", || {
            let mut client = Raw::connect(gateway.address());
            let response = client.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").response();
            (response.status == 200).then_some(())
        });
    }
    let mut two = wait_for("two places are free again", || {
        let mut two = [Raw::connect(gateway.address()), Raw::connect(gateway.address())];
        two.iter_mut().all(|c| c.send(GET).response().status == 200).then_some(two)
    });
    two.iter_mut().for_each(assert_served);
}

#[test]
fn however_a_connection_ends_its_place_is_given_back() {
    let origin = Origin::text("x");
    let gateway =
        limited("connections_per_address: 2, header_timeout: 300ms, idle_timeout: 300ms", &origin.url());
    let endings: [(&str, &[u8], bool); 6] = [
        ("never spoke", b"", true),
        ("refused head", b"GET / HTTP/9.9\r\n\r\n", false),
        ("slow head", b"GET / HT", true),
        ("broken chunks", b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", false),
        ("served", b"GET / HTTP/1.1\r\nHost: t\r\n\r\n", true),
        ("gone", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nx", false),
    ];
    for (name, bytes, wait) in endings {
        for _ in 0..2 {
            let mut client = wait_for(&format!("a place after {name:?}"), || {
                let mut client = Raw::connect(gateway.address());
                client.send(bytes);
                if client.silent_for(Duration::from_millis(20)) {
                    return Some(client);
                }
                let response = client.one_response("GET");
                (response.is_none_or(|r| r.status != 429)).then_some(client)
            });
            if wait {
                assert!(client.closed(), "{name}");
            }
        }
        let_in_again(&gateway);
    }
}

#[test]
fn trusted_proxies_are_exempt_from_the_limit_of_an_address() {
    let gateway = Gateway::start(
        "trusted_proxies: [127.0.0.1]\nlimits: {connections_per_address: 1}\nroutes: [{path: /, respond: {status: 200}}]",
    );
    let mut clients: Vec<Raw> = (0..5).map(|_| Raw::connect(gateway.address())).collect();
    clients.iter_mut().for_each(assert_served);
    let mut others = [from([127, 0, 0, 2], &gateway), from([127, 0, 0, 2], &gateway)];
    assert_served(&mut others[0]);
    assert_eq!(others[1].response().status, 429, "who is not trusted is limited");
}

/// A connection from another address of this machine.
fn from(address: [u8; 4], gateway: &Gateway) -> Raw {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from((address, 0)).into()).unwrap();
    socket.connect(&gateway.address().into()).unwrap();
    Raw::from(socket.into())
}

// Sizes of the head

#[test]
fn sizes_of_the_head_are_limited_exactly() {
    let gateway = alone("max_target: 64B, max_header: 512B, max_header_fields: 5");
    let target = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: t\r\n\r\n", "x".repeat(n - 1));
    let header = |n: usize| {
        let head = "GET / HTTP/1.1\r\nHost: t\r\nX: \r\n\r\n";
        head.replace("X: ", &format!("X: {}", "y".repeat(n - head.len())))
    };
    let fields = |n: usize| format!("GET / HTTP/1.1\r\nHost: t\r\n{}\r\n", "X: y\r\n".repeat(n - 1));
    for (name, within, beyond, status, reason) in [
        ("max_target", target(64), target(65), 414, "target_too_long"),
        ("max_header", header(512), header(513), 431, "head_too_large"),
        ("max_header_fields", fields(5), fields(6), 431, "too_many_fields"),
    ] {
        let mut client = Raw::connect(gateway.address());
        assert_eq!(client.send(within).response().status, 200, "{name}");
        assert_refused(&client.send(beyond).response(), status, reason);
        assert!(client.rest().is_empty(), "{name}");
    }
}

#[test]
fn a_head_without_end_is_refused_long_before_its_end() {
    let gateway = alone("max_target: 1KiB, max_header: 4KiB");
    for (begin, status) in [("GET /", 414), ("GET / HTTP/1.1\r\nX: ", 431)] {
        let mut client = Raw::connect(gateway.address());
        client.send(begin).send("y".repeat(5000));
        assert_eq!(client.response().status, status);
        assert!(client.rest().is_empty());
    }
}

/// The widest limits that a configuration may set must fit the engine's own.
#[test]
fn the_largest_limits_can_be_used_to_the_full() {
    let origin = Origin::text("x");
    let gateway = limited("max_target: 512KiB, max_header: 512KiB, max_header_fields: 250", &origin.url());
    let many = format!("GET / HTTP/1.1\r\nHost: t\r\n{}\r\n", "X: y\r\n".repeat(249));
    let wide = format!("GET / HTTP/1.1\r\nHost: t\r\nX: {}\r\n\r\n", "y".repeat(500 << 10));
    let long = format!("GET /{} HTTP/1.1\r\nHost: t\r\n\r\n", "y".repeat(40 << 10));
    for request in [many, wide, long] {
        let response = exchange(gateway.address(), &request);
        assert_eq!(response.status, 200, "{} bytes: {}", request.len(), response.text());
        assert_eq!(origin.last().line(), request.lines().next().unwrap());
    }
    assert_eq!(origin.received()[0].all("x").len(), 249);
    assert_eq!(origin.received()[1].field("x").map(str::len), Some(500 << 10));
}

/// The client sends its next request before it has read the answer, as pipelining clients and pools do: the close must
/// not destroy what it has not read yet.
#[test]
fn the_last_answer_of_a_connection_arrives_whole_although_more_was_sent() {
    let body = "x".repeat(3 << 20);
    let origin = Origin::text(&body);
    let gateway = Gateway::start(&format!(
        "routes: [{{path: /, upstream: \"{}\"}}]\nlimits: {{requests_per_connection: 1}}\n",
        origin.url()
    ));
    let mut client = Raw::connect(gateway.address());
    client.send("GET /big HTTP/1.1\r\nHost: t\r\n\r\n");
    origin.wait_count(1);
    client.send("GET /next HTTP/1.1\r\nHost: t\r\n\r\n");
    std::thread::sleep(Duration::from_millis(300)); // a slow reader, on purpose: the gateway is done before it reads
    let response = client.response();
    assert_eq!((response.status, response.complete, response.body.len()), (200, true, body.len()));
    assert_eq!(response.field("connection"), Some("close"));
    assert!(client.closed());
}

#[test]
fn a_client_that_goes_behind_a_pipelined_byte_is_noticed() {
    let origin = Origin::start(|_| vec![Step::Hold]);
    let gateway = Gateway::start(&format!("routes: [{{path: /, upstream: \"{}\"}}]\n", origin.url()));
    let mut client = Raw::connect(gateway.address());
    client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\nG");
    origin.wait_count(1);
    drop(client);
    gateway.wait_log(&["-> 499 client_gone"]);
}

#[test]
fn a_paused_upload_is_not_blamed_on_the_upstream() {
    let origin = Origin::text("x");
    let gateway = Gateway::start(&format!(
        "upstreams: {{app: {{targets: [\"{}\"], timeouts: {{read: 300ms}}}}}}\nroutes: [{{path: /, upstream: app}}]\n",
        origin.target()
    ));
    let response = exchange(gateway.address(), "PUT / HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nhalf");
    assert_eq!((response.status, response.problem().as_str()), (408, "slow_body"));
}

#[test]
fn an_upload_that_was_answered_early_ends_soon_and_without_blame() {
    let chunked = "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nenough\r\n0\r\n\r\n";
    let origin =
        Origin::on_head(move |r| if r.target() == "/chunked" { raw(chunked) } else { reply(200, "enough") });
    let gateway = Gateway::start(&format!("routes: [{{path: /, upstream: \"{}\"}}]\n", origin.url()));
    for (path, expect) in [("/", ""), ("/", "Expect: 100-continue\r\n"), ("/chunked", "")] {
        let mut client = Raw::connect(gateway.address());
        client.send(format!("PUT {path} HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n{expect}\r\n"));
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (200, "enough"));
        assert_eq!(response.field("connection"), Some("close"));
        assert!(client.closed());
    }
    assert!(!gateway.log().iter().any(|l| l.contains("slow_body")), "{:?}", gateway.log());
}

#[test]
fn connections_that_the_system_cannot_give_are_not_promised() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.yaml");
    std::fs::write(&path, "listeners: [{address: \"127.0.0.1:0\"}]\nroutes: [{path: /, respond: {}}]\n")
        .unwrap();
    let command =
        format!("ulimit -n 256; exec {} run -c {}", env!("CARGO_BIN_EXE_portcullis"), path.display());
    let mut child = Command::new("sh").args(["-c", &command]).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let said = lines
        .take_while(|l| !l.contains("listening on"))
        .any(|l| l.contains("limits.connections is 96 instead of 20000"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(said);
}

#[test]
fn without_a_descriptor_left_a_request_is_503_and_not_the_upstreams_fault() {
    let origin = Origin::text("x");
    let gateway = Gateway::start(&format!(
        "routes: [{{path: /, upstream: \"{}\"}}, {{path: /own, respond: {{}}}}]\n",
        origin.url()
    ));
    let mut client = Raw::connect(gateway.address());
    assert_eq!(client.send("GET /own HTTP/1.1\r\nHost: t\r\n\r\n").response().status, 200);
    // Every number that is free is beyond the limit from now on.
    let limited =
        Command::new("prlimit").args(["--nofile=1:", "--pid", &gateway.pid().to_string()]).status().unwrap();
    assert!(limited.success());
    let response = client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response();
    assert_eq!((response.status, response.problem().as_str()), (503, "out_of_descriptors"));
    assert_eq!(response.field("retry-after"), Some("1"));
    assert_eq!(origin.connections(), 0);
}
