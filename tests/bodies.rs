//! Bodies and their ends: what the framing says, what a client or an origin does instead, and how much memory it costs.

mod kit;

use kit::origin::{raw, reply};
use kit::raw::{exchange, get};
use kit::{until, Bulk, Gateway, Origin, Raw, Response, Step};
use std::io::{Read, Write};

fn gateway(url: &str) -> Gateway {
    Gateway::start(&format!("routes: [{{path: /, upstream: \"{url}\"}}]"))
}

fn send(bytes: &str) -> Step {
    Step::Send(bytes.as_bytes().to_vec())
}

const GET: &str = "GET / HTTP/1.1\r\nHost: t\r\n\r\n";

/// That the connection is at the start of a message: another request gets exactly its own answer.
fn assert_usable(client: &mut Raw) {
    let response = client.send("GET /usable HTTP/1.1\r\nHost: t\r\n\r\n").response();
    assert_eq!((response.status, response.text().as_str()), (200, "usable"), "{}", response.head);
}

/// Answers `/usable` for [`assert_usable`], everything else with these bytes.
fn origin(bytes: &'static str) -> Origin {
    Origin::start(move |request| match request.target() {
        "/usable" => reply(200, "usable"),
        _ => raw(bytes),
    })
}

// Answers without a body

#[test]
fn head_keeps_the_fields_of_the_body_and_has_none() {
    for (bytes, field, value) in [
        ("HTTP/1.1 200 X\r\nContent-Length: 5\r\n\r\n", "content-length", Some("5")),
        ("HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n", "content-length", None),
        ("HTTP/1.1 200 X\r\nETag: \"a\"\r\n\r\n", "etag", Some("\"a\"")),
    ] {
        let origin = origin(bytes);
        let gateway = gateway(&origin.url());
        let mut client = Raw::connect(gateway.address());
        let response = client.send("HEAD / HTTP/1.1\r\nHost: t\r\n\r\n").response_to("HEAD");
        assert_eq!((response.status, response.field(field)), (200, value), "{bytes:?}");
        assert_usable(&mut client);
        assert_eq!(origin.first().method(), "HEAD");
    }
}

#[test]
fn head_of_an_error_has_no_body_either() {
    let gateway = Gateway::start("routes: [{path: /a, respond: {status: 200, body: usable}}]");
    let mut client = Raw::connect(gateway.address());
    let response = client.send("HEAD /b HTTP/1.1\r\nHost: t\r\n\r\n").response_to("HEAD");
    assert_eq!(response.status, 404);
    assert!(response.field("content-length").is_some_and(|l| l != "0"));
    let response = client.send("HEAD /a HTTP/1.1\r\nHost: t\r\n\r\n").response_to("HEAD");
    assert_eq!((response.status, response.field("content-length")), (200, Some("6")));
    assert_eq!(client.send("GET /a HTTP/1.1\r\nHost: t\r\n\r\n").response().text(), "usable");
}

#[test]
fn statuses_204_and_304_have_no_body() {
    for (bytes, status, length) in [
        ("HTTP/1.1 204 X\r\n\r\n", 204, None),
        ("HTTP/1.1 204 X\r\nContent-Length: 0\r\n\r\n", 204, None),
        ("HTTP/1.1 204 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 204, None),
        ("HTTP/1.1 304 X\r\nETag: \"a\"\r\n\r\n", 304, None),
        ("HTTP/1.1 304 X\r\nContent-Length: 5\r\n\r\n", 304, Some("5")),
    ] {
        let origin = origin(bytes);
        let gateway = gateway(&origin.url());
        let mut client = Raw::connect(gateway.address());
        let response = client.send(GET).response();
        assert_eq!((response.status, response.field("content-length")), (status, length), "{bytes:?}");
        assert_eq!(response.field("transfer-encoding"), None, "{bytes:?}");
        assert_usable(&mut client);
    }
}

#[test]
fn a_body_where_none_may_be_is_never_taken_for_the_next_answer() {
    const LIE: &str = "HTTP/1.1 200 X\r\nContent-Length: 4\r\n\r\nlie!";
    for (method, head) in [
        ("HEAD", "HTTP/1.1 200 X\r\nContent-Length: 40\r\n\r\n"),
        ("GET", "HTTP/1.1 204 X\r\n\r\n"),
        ("GET", "HTTP/1.1 204 X\r\nContent-Length: 40\r\n\r\n"),
        ("GET", "HTTP/1.1 304 X\r\n\r\n"),
        ("GET", "HTTP/1.1 200 X\r\nContent-Length: 0\r\n\r\n"),
        ("GET", "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ] {
        let origin = origin(format!("{head}{LIE}").leak());
        let gateway = gateway(&origin.url());
        let mut client = Raw::connect(gateway.address());
        for _ in 0..3 {
            let request = format!("{method} / HTTP/1.1\r\nHost: t\r\n\r\n");
            let response = client.send(request).response_to(method);
            assert!(
                [200, 204, 304].contains(&response.status) && response.body.is_empty(),
                "{method} {head:?}"
            );
            assert_usable(&mut client);
        }
    }
}

// 1xx

#[test]
fn early_hints_reach_the_client_before_the_answer() {
    let origin = Origin::start(|_| {
        let mut steps = raw("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n");
        steps.push(Step::Hold);
        steps.extend(reply(200, "answer"));
        steps
    });
    let gateway = gateway(&origin.url());
    let mut client = Raw::connect(gateway.address());
    let hints = client.send(GET).one_response("GET").expect("early hints");
    assert_eq!((hints.status, hints.field("link")), (103, Some("</a.css>; rel=preload")));
    origin.release();
    assert_eq!(client.response().text(), "answer");
}

#[test]
fn an_http10_client_gets_no_1xx_even_if_it_expects_one() {
    let origin = Origin::start(|_| {
        raw("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nok")
    });
    let gateway = gateway(&origin.url());
    for expect in ["", "Expect: 100-continue\r\n"] {
        let request = format!("POST / HTTP/1.0\r\nHost: t\r\n{expect}Content-Length: 5\r\n\r\nhello");
        let response = Raw::connect(gateway.address()).send(request).one_response("POST").unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "ok"), "{expect}");
        assert_eq!(origin.last().field("expect"), None);
    }
}

#[test]
fn the_origins_100_lets_the_client_send_its_body() {
    let origin = Origin::on_head(|_| {
        let mut steps = raw("HTTP/1.1 100 Continue\r\n\r\n");
        steps.push(Step::Body);
        steps.extend(reply(200, "thanks"));
        steps
    });
    let gateway = gateway(&origin.url());
    let mut client = Raw::connect(gateway.address());
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(client.one_response("POST").expect("a 100").status, 100);
        let response = client.send("hello").response();
        assert_eq!((response.status, response.text().as_str()), (200, "thanks"));
        assert_eq!(response.field("connection"), Some("keep-alive"));
        let received = origin.last();
        assert_eq!(
            (received.field("expect"), received.body.as_slice()),
            (Some("100-continue"), &b"hello"[..])
        );
    }
}

#[test]
fn a_client_that_does_not_wait_for_the_100_is_served() {
    let origin = Origin::start(|request| reply(200, &String::from_utf8_lossy(&request.body)));
    let gateway = gateway(&origin.url());
    let mut client = Raw::connect(gateway.address());
    for version in ["1.1", "1.0"] {
        let response = client
            .send(format!(
                "POST / HTTP/{version}\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 6\r\n\r\nusable"
            ))
            .response();
        assert_eq!((response.status, response.text().as_str()), (200, "usable"), "HTTP/{version}");
    }
}

#[test]
fn a_final_answer_instead_of_the_100_ends_the_exchange() {
    let exchanges = [417, 413, 401].map(|status| {
        let origin = Origin::on_head(move |_| reply(status, "no"));
        let gateway = gateway(&origin.url());
        let mut client = Raw::connect(gateway.address());
        client.send("POST / HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        let response = client.one_response("POST").expect("an answer");
        assert_eq!((response.status, response.text().as_str()), (status, "no"));
        // Whether the client will still send the body is not known, so the connection must not be used again.
        assert_eq!(response.field("connection"), Some("close"), "{status}");
        (origin, gateway, client)
    });
    for (origin, _gateway, mut client) in exchanges {
        assert!(client.rest().is_empty());
        until("the origin's connection ends", || origin.open() == 0);
        assert!(origin.last().body.is_empty() && !origin.last().complete);
    }
}

// Uploads

#[test]
fn a_chunked_upload_arrives_whole_and_as_one_body() {
    let origin = Origin::start(|request| reply(200, &request.body.len().to_string()));
    let gateway = gateway(&origin.url());
    let mut client = Raw::connect(gateway.address());
    let data: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    for size in [7usize, 1000, 70_000, 200_000] {
        client.send("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n");
        for chunk in data.chunks(size) {
            let extension = if size < 1000 { "" } else { ";a=b" }; // they may have 16 KiB in all
            client.send([format!("{:X}{extension}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        }
        assert_eq!(client.send("0\r\n\r\n").response().text(), "200000", "chunks of {size}");
        let received = origin.last();
        assert!(received.complete && received.body == data, "chunks of {size}");
        assert_eq!(received.all("transfer-encoding"), ["chunked"]);
        assert!(received.all("content-length").is_empty());
        assert!(
            !String::from_utf8_lossy(&received.raw_body).contains(";a=b"),
            "extensions are each hop's own"
        );
    }
}

#[test]
fn an_upload_reaches_the_origin_while_the_client_is_still_sending() {
    let origin = Bulk::start();
    let gateway = gateway(&origin.url());
    let mut client = Raw::connect(gateway.address());
    client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nfirst");
    until("the first part is at the origin", || origin.received() == 5);
    assert_eq!(client.send("other").response().text(), "10");
}

#[test]
fn trailers_of_an_upload_are_dropped_and_the_connection_stays_usable() {
    let origin = origin("HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nok");
    let gateway = gateway(&origin.url());
    let mut client = Raw::connect(gateway.address());
    for trailers in ["X-Sum: 1\r\n", "X-Sum: 1\r\nContent-Length: 3\r\nHost: evil\r\n", ""] {
        let response = client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: t\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n{trailers}\r\n"
            ))
            .response();
        assert_eq!(response.text(), "ok", "{trailers:?}");
        let received = origin.last();
        assert_eq!((received.body.as_slice(), received.complete), (&b"hello"[..], true), "{trailers:?}");
        assert!(received.raw_body.ends_with(b"0\r\n\r\n"), "{trailers:?}: {received:?}");
        assert_usable(&mut client);
    }
}

/// Closed at once with unread bytes, the kernel would send a reset, and that would destroy the answer on its way.
#[test]
fn a_refusal_reaches_a_client_that_is_still_sending() {
    const SIZE: usize = 12 << 20;
    let origin = Origin::text("x");
    let gateway =
        Gateway::start(&format!("routes: [{{path: /a, max_body: 1KiB, upstream: \"{}\"}}]", origin.url()));
    let length = format!("Content-Length: {SIZE}\r\n\r\n");
    let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{SIZE:x}\r\n");
    for (target, framing, status) in [
        ("/a", &length, 413),
        ("/a", &chunked, 413),
        ("/b", &length, 404),
        ("/b", &chunked, 404),
        ("/%00", &length, 400),
        ("/a#", &length, 400),
    ] {
        let mut client = Raw::connect(gateway.address());
        client.send(format!("POST {target} HTTP/1.1\r\nHost: t\r\n{framing}"));
        client.socket.write_all(&vec![b'x'; SIZE]).unwrap();
        let response = client.response();
        assert_eq!(response.status, status, "{target} {framing}");
        assert_eq!(response.field("connection"), Some("close"), "{target} {framing}");
        response.problem();
        assert!(client.rest().is_empty());
    }
    assert!(origin.received().iter().all(|r| !r.complete));
}

// Downloads

/// Two origins that say the same: chunked, and until the connection closes.
fn without_length() -> [Origin; 2] {
    let chunked = |_: &kit::Received| {
        raw("HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3;x\r\nusa\r\n3\r\nble\r\n0\r\nX-Sum: 1\r\n\r\n")
    };
    let closing = |_: &kit::Received| {
        let mut steps = raw("HTTP/1.0 200 X\r\n\r\nusable");
        steps.push(Step::Close);
        steps
    };
    [Origin::start(chunked), Origin::start(closing)]
}

#[test]
fn a_response_without_length_is_chunked_for_http11() {
    for origin in without_length() {
        let gateway = gateway(&origin.url());
        let mut client = Raw::connect(gateway.address());
        for _ in 0..2 {
            let response = client.send(GET).response();
            assert_eq!((response.status, response.text().as_str()), (200, "usable"));
            assert!(response.complete && response.head.starts_with("HTTP/1.1 "));
            assert_eq!(response.all("transfer-encoding"), ["chunked"]);
            assert!(response.all("content-length").is_empty());
            assert_eq!(response.field("x-sum"), None);
        }
    }
}

#[test]
fn a_response_without_length_ends_with_the_connection_for_http10() {
    for origin in without_length() {
        let gateway = gateway(&origin.url());
        for connection in ["", "Connection: keep-alive\r\n"] {
            let mut client = Raw::connect(gateway.address());
            client.send(format!("GET / HTTP/1.0\r\nHost: t\r\n{connection}\r\n"));
            let response = client.response();
            assert_eq!((response.status, response.text().as_str()), (200, "usable"), "{connection:?}");
            assert_eq!(response.field("transfer-encoding"), None);
            assert_eq!(response.field("connection"), Some("close"));
        }
    }
}

#[test]
fn http10_keeps_the_connection_only_when_asked_to() {
    let origin = origin("HTTP/1.1 200 X\r\nContent-Length: 6\r\n\r\nusable");
    let gateway = gateway(&origin.url());
    let mut client = Raw::connect(gateway.address());
    for _ in 0..2 {
        let response = client.send("GET / HTTP/1.0\r\nHost: t\r\nConnection: Keep-Alive\r\n\r\n").response();
        assert_eq!((response.text().as_str(), response.field("connection")), ("usable", Some("keep-alive")));
    }
    let response = client.send("GET / HTTP/1.0\r\nHost: t\r\n\r\n").response();
    assert_eq!((response.text().as_str(), response.field("connection")), ("usable", Some("close")));
    assert!(client.rest().is_empty());
}

#[test]
fn a_client_that_says_close_is_closed() {
    let origin = origin("HTTP/1.1 200 X\r\nContent-Length: 6\r\n\r\nusable");
    let gateway = gateway(&origin.url());
    let mut client = Raw::connect(gateway.address());
    let response = client.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").response();
    assert_eq!((response.text().as_str(), response.field("connection")), ("usable", Some("close")));
    assert!(client.rest().is_empty());
}

#[test]
fn the_first_bytes_of_a_response_arrive_before_the_origin_sends_the_rest() {
    for (head, parts, all) in [
        ("Transfer-Encoding: chunked", ["5\r\nfirst\r\n", "5\r\nother\r\n0\r\n\r\n"], "firstother"),
        ("Content-Length: 10", ["first", "other"], "firstother"),
        ("Content-Type: text/event-stream", ["first", "other"], "firstother"),
    ] {
        let origin = Origin::start(move |_| {
            let first = format!("HTTP/1.1 200 X\r\n{head}\r\n\r\n{}", parts[0]);
            vec![send(&first), Step::Hold, send(parts[1]), Step::Close]
        });
        let gateway = gateway(&origin.url());
        let mut client = Raw::connect(gateway.address());
        client.send(GET);
        let (mut seen, mut block) = (Vec::new(), [0; 4096]);
        while !String::from_utf8_lossy(&seen).contains("first") {
            let n =
                client.socket.read(&mut block).expect("the first part, while the origin holds the rest back");
            assert!(n > 0, "{head}: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&block[..n]);
        }
        assert!(!String::from_utf8_lossy(&seen).contains("other"), "{head}");
        origin.release();
        assert_eq!(get(gateway.address(), "/").text(), all, "{head}");
    }
}

// Large bodies

const LARGE: u64 = 1 << 30;

#[test]
fn large_bodies_pass_both_ways_in_constant_memory() {
    let origin = Bulk::start();
    let gateway = gateway(&origin.url());
    assert_eq!(
        exchange(gateway.address(), "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nhi").text(),
        "2"
    );
    let before = gateway.rss_kib();
    let mut most = before;
    let mut block = vec![b'x'; 1 << 20];
    let mut client = Raw::connect(gateway.address());

    client.send(format!("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {LARGE}\r\n\r\n"));
    for _ in 0..LARGE >> 20 {
        client.socket.write_all(&block).unwrap();
        most = most.max(gateway.rss_kib());
    }
    assert_eq!(client.response().text(), LARGE.to_string());

    client.send("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..LARGE >> 22 {
        client.send(format!("{:x}\r\n", 1 << 20)).socket.write_all(&block).unwrap();
        client.send("\r\n");
        most = most.max(gateway.rss_kib());
    }
    let text = client.send("0\r\n\r\n").response().text();
    assert!(text.parse::<u64>().unwrap() > LARGE >> 2, "{text}");

    for (target, least) in
        [(format!("/down/{LARGE}"), LARGE), (format!("/chunked/{}", LARGE >> 2), LARGE >> 2)]
    {
        let mut client = Raw::connect(gateway.address());
        client.send(format!("GET {target} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"));
        let (mut total, mut end) = (0, [0; 5]);
        loop {
            let n = client.socket.read(&mut block).unwrap();
            if n == 0 {
                break;
            }
            total += n as u64;
            if n >= 5 {
                end.copy_from_slice(&block[n - 5..n]);
            }
            if total % 64 < 4 {
                most = most.max(gateway.rss_kib());
            }
        }
        assert!(total > least, "{target}: {total}");
        let whole = if target.starts_with("/c") { *b"0\r\n\r\n" } else { *b"xxxxx" };
        assert_eq!(end, whole, "{target}");
    }
    let grown = most.max(gateway.rss_kib()) - before;
    assert!(grown < 30 << 10, "the gateway grew by {grown} KiB");
}

#[test]
fn a_client_that_does_not_read_holds_the_origin_back() {
    let origin = Bulk::start();
    let gateway = gateway(&origin.url());
    assert_eq!(get(gateway.address(), "/").text(), "0");
    let before = gateway.rss_kib();
    let clients: Vec<Raw> = (0..8)
        .map(|_| {
            let mut client = Raw::connect(gateway.address());
            client.send(format!("GET /down/{LARGE} HTTP/1.1\r\nHost: t\r\n\r\n"));
            let mut some = [0; 64];
            client.socket.read_exact(&mut some).unwrap();
            client
        })
        .collect();
    assert!(origin.open() >= 8, "all origins are still sending");
    let grown = gateway.rss_kib().saturating_sub(before);
    assert!(grown < 30 << 10, "the gateway grew by {grown} KiB");
    drop(clients);
    until("the origins' connections end", || origin.open() == 0);
}

// Clients that go

/// A FIN alone does not tell a client that has gone from one that only said its all. RFC 9112 §9.5 has a server watch
/// for the closing and respond to it; like NGINX and Envoy the gateway takes the client to have gone, so that nobody
/// works for nobody. A client that wants its answer keeps its side open.
#[test]
fn a_client_that_half_closes_before_the_answer_is_taken_to_have_gone() {
    let origin = Origin::start(|_| {
        let mut steps = vec![Step::Hold];
        steps.extend(reply(200, "late"));
        steps
    });
    let gateway = gateway(&origin.url());
    let mut client = Raw::connect(gateway.address());
    client.send(GET);
    origin.wait_count(1);
    client.half_close();
    assert!(client.rest().is_empty());
    until("the origin's connection ends", || origin.open() == 0);
    gateway.wait_log(&["499", "client_gone"]);
}

#[test]
fn the_gateways_own_answer_reaches_a_client_that_half_closed() {
    let gateway = Gateway::start("routes: [{path: /a, respond: {status: 200, body: usable}}]");
    for (target, status) in [("/a", 200), ("/b", 404)] {
        let mut client = Raw::connect(gateway.address());
        client.send(format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n")).half_close();
        assert_eq!(client.response().status, status);
        assert!(client.rest().is_empty());
    }
}

#[test]
fn a_client_that_vanishes_ends_the_origins_work_and_nothing_else() {
    let origin = Origin::start(|request| match request.target() {
        "/usable" => reply(200, "usable"),
        _ => vec![send("HTTP/1.1 200 X\r\nContent-Length: 100\r\n\r\nsome"), Step::Hold],
    });
    let gateway = gateway(&origin.url());
    let mut other = Raw::connect(gateway.address());
    for reset in [false, true] {
        let before = origin.received().len();
        let mut client = Raw::connect(gateway.address());
        client.send(GET);
        origin.wait_count(before + 1);
        let mut some = [0; 20];
        client.socket.read_exact(&mut some).unwrap();
        if reset {
            socket2::SockRef::from(&client.socket).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        }
        drop(client);
        until("the origin's connection ends", || origin.open() == 0);
        assert_usable(&mut other);
        origin.cut();
        until("the pool is empty", || origin.open() == 0);
    }
}

#[test]
fn a_client_that_vanishes_in_its_upload_leaves_no_whole_request() {
    let origin = Origin::text("x");
    let gateway = gateway(&origin.url());
    for framing in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        for reset in [false, true] {
            let before = origin.received().len();
            let connections = origin.connections();
            let mut client = Raw::connect(gateway.address());
            client.send(format!("POST / HTTP/1.1\r\nHost: t\r\n{framing}\r\n\r\n4\r\nab"));
            until("the origin is connected to", || origin.connections() > connections);
            if reset {
                socket2::SockRef::from(&client.socket).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            }
            drop(client);
            origin.wait_count(before + 1);
            assert!(!origin.last().complete, "{framing}: {:?}", origin.last());
            until("the origin's connection ends", || origin.open() == 0);
        }
    }
}

// Origins that misbehave

/// That an answer says nothing of where the origin is.
fn assert_discreet(response: &Response, origin: &Origin, name: &str) {
    let all = format!("{}\n{}", response.head, response.text());
    for secret in [origin.target(), format!(":{}", origin.address.port()), "127.0.0.1".to_owned()] {
        assert!(!all.contains(&secret), "{name}: {all}");
    }
}

#[test]
#[rustfmt::skip] // one line a case
fn an_origin_that_does_not_answer_in_http_is_a_502() {
    let bytes = |text: &str| vec![send(text), Step::Close];
    let cases: Vec<(&str, Vec<Step>)> = vec![
        ("closes before answering", vec![Step::Close]),
        ("resets before answering", vec![Step::Reset]),
        ("closes within the head", bytes("HTTP/1.1 200 OK\r\nContent-Le")),
        ("resets within the head", vec![send("HTTP/1.1 200 OK\r\n"), Step::Reset]),
        ("closes after a 1xx", bytes("HTTP/1.1 103 X\r\n\r\n")),
        ("garbage", bytes("\x01\x02garbage\r\n\r\n")),
        ("another protocol", bytes("220 mail.example ESMTP ready\r\n\r\n")),
        ("HTTP/2", bytes("HTTP/2 200\r\n\r\n")),
        ("two lengths", bytes("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!")),
        ("list of lengths", bytes("HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello!")),
        ("length that is none", bytes("HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello")),
        ("negative length", bytes("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello")),
        ("status of two digits", bytes("HTTP/1.1 99 X\r\nContent-Length: 0\r\n\r\n")),
        ("field without colon", bytes("HTTP/1.1 200 OK\r\nContent-Length 5\r\n\r\nhello")),
        ("NUL in a field", bytes("HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 5\r\n\r\nhello")),
        ("head without end", bytes(&format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(3 << 20)))),
        ("fields without end", bytes(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(1000)))),
        ("upgrade nobody asked for", bytes("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello")),
    ];
    for (name, steps) in cases {
        let origin = Origin::start(move |_| steps.clone());
        let gateway = gateway(&origin.url());
        let mut client = Raw::connect(gateway.address());
        let response = client.send(GET).response();
        assert_eq!((response.status, response.problem().as_str()), (502, "upstream_broke"), "{name}");
        assert_discreet(&response, &origin, name);
    }
}

#[test]
fn an_origin_that_is_not_there_is_a_502() {
    let origin = Origin::text("x");
    let gateway = gateway(&origin.url());
    origin.stop();
    let response = get(gateway.address(), "/");
    assert_eq!((response.status, response.problem().as_str()), (502, "connect"));
    assert_discreet(&response, &origin, "stopped");
}

#[test]
fn an_answer_that_breaks_off_is_seen_to_be_incomplete() {
    let steps = |head: &str, last: Step| vec![send(&format!("HTTP/1.1 200 X\r\n{head}")), last];
    let cases = vec![
        ("length, closes", steps("Content-Length: 10\r\n\r\nhello", Step::Close)),
        ("length, resets", steps("Content-Length: 10\r\n\r\nhello", Step::Reset)),
        ("chunked, closes", steps("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Step::Close)),
        ("chunked, closes within", steps("Transfer-Encoding: chunked\r\n\r\na\r\nhello", Step::Close)),
        ("chunked, resets", steps("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Step::Reset)),
        ("chunked, garbage", steps("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", Step::Close)),
        (
            "chunk too long",
            steps("Transfer-Encoding: chunked\r\n\r\n5\r\nhello!!!\r\n0\r\n\r\n", Step::Close),
        ),
    ];
    for (name, steps) in cases {
        let origin = Origin::start(move |request| match request.target() {
            "/usable" => reply(200, "usable"),
            _ => steps.clone(),
        });
        let gateway = gateway(&origin.url());
        let mut client = Raw::connect(gateway.address());
        if let Some(response) = client.send(GET).one_response("GET") {
            assert!(response.status != 200 || !response.complete, "{name}: {response:?}");
            assert_discreet(&response, &origin, name);
        }
        assert!(client.rest().is_empty(), "{name}: the connection closes");
        assert_usable(&mut Raw::connect(gateway.address()));
    }
}

#[test]
fn more_than_the_length_says_goes_to_nobody() {
    let origin = origin(
        "HTTP/1.1 200 X\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 X\r\nContent-Length: 4\r\n\r\nlie!",
    );
    let gateway = gateway(&origin.url());
    let mut client = Raw::connect(gateway.address());
    for _ in 0..3 {
        assert_eq!(client.send(GET).response().text(), "hello");
        assert_usable(&mut client);
    }
}

#[test]
fn a_response_with_length_and_coding_has_one_framing_for_the_client() {
    let origin = origin(
        "HTTP/1.1 200 X\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    let gateway = gateway(&origin.url());
    let response = get(gateway.address(), "/");
    if response.status == 200 {
        let framing = [response.all("content-length").len(), response.all("transfer-encoding").len()];
        assert_eq!((response.text().as_str(), framing), ("hello", [0, 1]), "{}", response.head);
    } else {
        assert_eq!(response.status, 502);
    }
    assert_usable(&mut Raw::connect(gateway.address()));
}

#[test]
fn what_an_origin_sends_unasked_is_never_taken_for_an_answer() {
    let origin = Origin::start(|request| match request.target() {
        "/usable" => reply(200, "usable"),
        _ => {
            let mut steps = reply(200, "asked for");
            steps.push(Step::Pause(std::time::Duration::from_millis(50)));
            steps.extend(reply(200, "not asked for"));
            steps
        }
    });
    let gateway = gateway(&origin.url());
    let mut client = Raw::connect(gateway.address());
    for _ in 0..3 {
        assert_eq!(client.send(GET).response().text(), "asked for");
        until("the gateway drops the connection", || origin.open() == 0);
        assert_usable(&mut client);
        origin.cut();
        until("the pool is empty", || origin.open() == 0);
    }
}

#[test]
#[rustfmt::skip] // one line a case
fn an_answer_that_two_clients_could_read_differently_is_made_plain_or_a_502() {
    for head in [
        "X: a\rY: b\r\nContent-Length: 6",
        "X: a\r\n b\r\nContent-Length: 6",
        "X: a\r\n\tTransfer-Encoding: chunked\r\nContent-Length: 6",
        "X: a\nY: b\nContent-Length: 6",
        "X : a\r\nContent-Length: 6",
        "Content-Length : 6\r\nConnection: close",
        "Content-Length: 6\r\nContent-Length: 6",
        "Content-Length: 6, 6",
        "Content-Length: +6",
        "Content-Length: 6\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: xchunked\r\nContent-Length: 6",
        "Content-Length: 6\r\nConnection: content-length, x",
    ] {
        let origin = Origin::start(move |request| match request.target() {
            "/usable" => reply(200, "usable"),
            _ => vec![send(&format!("HTTP/1.1 200 X\r\n{head}\r\n\r\nusable")), Step::Close],
        });
        let gateway = gateway(&origin.url());
        let mut client = Raw::connect(gateway.address());
        let response = client.send(GET).response();
        if response.status == 502 {
            assert_eq!(response.problem(), "upstream_broke", "{head:?}");
            continue;
        }
        for line in response.head.split("\r\n").skip(1) {
            let (name, value) = line.split_once(':').expect("a field");
            let token = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            assert!(token && !value.contains(['\r', '\n']), "{head:?}: {:?}", response.head);
        }
        let (lengths, codings) = (response.all("content-length"), response.all("transfer-encoding"));
        assert!(lengths.len() + codings.len() == 1, "{head:?}: {}", response.head);
        assert!(lengths == ["6"] || codings == ["chunked"], "{head:?}: {}", response.head);
        assert!(response.complete && response.text() == "usable", "{head:?}: {response:?}");
    }
}

/// An upstream named `slow` with this read timeout.
fn impatient(origin: &Origin) -> Gateway {
    Gateway::start(&format!(
        "upstreams: {{slow: {{targets: [\"{}\"], timeouts: {{read: 300ms}}}}}}\nroutes: [{{path: /, upstream: slow}}]",
        origin.target()
    ))
}

#[test]
fn an_origin_that_stalls_before_its_answer_is_a_504() {
    for steps in [vec![Step::Hold], vec![send("HTTP/1.1 200 OK\r\nContent-"), Step::Hold]] {
        let origin = Origin::start(move |_| steps.clone());
        let gateway = impatient(&origin);
        let response = get(gateway.address(), "/");
        assert_eq!((response.status, response.problem().as_str()), (504, "upstream_timeout"));
        assert_discreet(&response, &origin, "stall");
        until("the origin's connection ends", || origin.open() == 0);
        assert_eq!(origin.received().len(), 1, "what may be under way is not sent again");
    }
}

#[test]
fn an_origin_that_stalls_within_its_answer_breaks_it_off() {
    let origin = Origin::start(|_| {
        vec![send("HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), Step::Hold]
    });
    let gateway = impatient(&origin);
    let mut client = Raw::connect(gateway.address());
    let response = client.send(GET).response();
    assert!(response.status == 200 && !response.complete, "{response:?}");
    assert!(client.rest().is_empty());
    until("the origin's connection ends", || origin.open() == 0);
}

#[test]
fn an_answer_that_comes_in_time_piece_by_piece_is_not_cut() {
    let origin = Origin::start(|_| {
        let mut steps = vec![send("HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\n")];
        for _ in 0..10 {
            steps.extend([Step::Pause(std::time::Duration::from_millis(60)), send("x")]);
        }
        steps
    });
    let gateway = impatient(&origin);
    let response = get(gateway.address(), "/");
    assert_eq!((response.status, response.text().as_str(), response.complete), (200, "xxxxxxxxxx", true));
}

#[test]
fn what_an_upstream_sent_is_not_quoted_in_the_log() {
    let origin =
        Origin::start(|_| raw("HTTP/1.1 200 OK\r\nSet-Cookie: session=geheim\r\nBad Name: x\r\n\r\n"));
    let gateway = Gateway::start(&format!("routes: [{{path: /, upstream: \"{}\"}}]", origin.url()));
    assert_eq!(get(gateway.address(), "/").status, 502);
    gateway.wait_log(&["-> 502 upstream_broke"]);
    assert!(!gateway.log().iter().any(|l| l.contains("geheim")), "{:?}", gateway.log());
}
