//! Limits on the body and on the time, and how defaults give way to a route's own.

mod kit;

use kit::origin::{raw, refusing, reply};
use kit::raw::{exchange, get};
use kit::{until, Gateway, Origin, Raw, Step};
use std::io::Write;
use std::time::{Duration, Instant};

fn in_front_of(origin: &Origin, keys: &str) -> Gateway {
    Gateway::start(&format!("routes: [{{path: /, upstream: \"{}\", {keys}}}]", origin.url()))
}

fn post(target: &str, bytes: usize) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: t\r\nContent-Length: {bytes}\r\n\r\n{}", "x".repeat(bytes))
}

fn post_chunked(target: &str, chunks: &[usize]) -> String {
    let chunks: String = chunks.iter().map(|n| format!("{n:x}\r\n{}\r\n", "x".repeat(*n))).collect();
    format!("POST {target} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
}

/// Longer than any timeout of these tests, shorter than any default: who takes this long has missed its own.
const TOO_LONG: Duration = Duration::from_secs(10);

#[test]
fn a_body_that_declares_too_much_is_refused_before_anything_goes_upstream() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "max_body: 1KiB");
    for bytes in ["1025", "1048576", "9223372036854775807"] {
        // Only the head is sent: the answer cannot be waiting for the body.
        let head = format!("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {bytes}\r\n\r\n");
        let response = exchange(gateway.address(), head);
        assert_eq!((response.status, response.problem().as_str()), (413, "body_too_large"), "{bytes}");
        assert!(response.text().contains("1KiB"), "the limit is told: {}", response.text());
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_client_that_asks_first_is_not_told_to_go_on_with_too_large_a_body() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "max_body: 10B");
    let mut client = Raw::connect(gateway.address());
    client.send("POST / HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n");
    assert_eq!(client.one_response("POST").unwrap().status, 413);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_streamed_body_is_cut_where_it_goes_over_the_limit() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "max_body: 1KiB");
    for (n, chunks) in [&[1025][..], &[1000, 25], &[1024, 1], &[60_000; 40]].into_iter().enumerate() {
        let response = exchange(gateway.address(), post_chunked("/", chunks));
        assert_eq!((response.status, response.problem().as_str()), (413, "body_too_large"), "{chunks:?}");
        // The origin may have seen a beginning, but never a whole request.
        until("the origin's connections end", || origin.received().len() == origin.connections());
        assert!(origin.connections() <= n + 1, "a refused body is not sent again");
        assert!(origin.received().iter().all(|r| !r.complete && r.body.len() <= 1024), "{chunks:?}");
    }
}

#[test]
fn a_body_of_exactly_the_limit_passes() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "max_body: 1KiB");
    for request in [
        post("/", 1024),
        post_chunked("/", &[1024]),
        post_chunked("/", &[1000, 23, 1]),
        post_chunked("/", &[1; 1024]), // framing does not count
        post("/", 0),
        post_chunked("/", &[]),
        "GET / HTTP/1.1\r\nHost: t\r\n\r\n".to_owned(),
    ] {
        assert_eq!(exchange(gateway.address(), &request).status, 200, "{:.80}", request);
        let received = origin.last();
        assert!(received.complete && matches!(received.body.len(), 0 | 1024), "{:.80}", request);
    }
    assert_eq!(origin.received().len(), 7);
}

#[test]
fn a_refused_body_is_never_taken_for_a_request() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "max_body: 10B");
    let inner = "GET /inner HTTP/1.1\r\nHost: t\r\n\r\n";
    for framing in [
        format!("Content-Length: {}\r\n\r\n{inner}", inner.len()),
        format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len()),
    ] {
        let mut client = Raw::connect(gateway.address());
        client.send(format!("POST / HTTP/1.1\r\nHost: t\r\n{framing}"));
        assert_eq!(client.response().status, 413);
        assert!(client.closed());
    }
    assert!(origin.received().iter().all(|r| r.target() != "/inner"));
}

#[test]
fn a_routes_own_key_replaces_the_default_whole() {
    let origin = Origin::text("x");
    let to = format!("upstream: \"{}\"", origin.url());
    let gateway = Gateway::start(&format!(
        "defaults:\n  max_body: 10B\n  request_headers: {{set: {{x-a: \"1\", x-b: \"1\"}}, remove: [x-gone]}}\n  \
         response_headers: {{set: {{x-c: \"1\"}}}}\n\
         routes:\n  - {{path: /default, {to}}}\n  \
         - {{path: /own, {to}, max_body: 20B, request_headers: {{set: {{x-b: \"2\"}}}}, response_headers: {{set: {{x-d: \"2\"}}}}}}\n"
    ));
    for (target, bytes, status) in
        [("/default", 10, 200), ("/default", 11, 413), ("/own", 20, 200), ("/own", 21, 413)]
    {
        assert_eq!(exchange(gateway.address(), post(target, bytes)).status, status, "{target} {bytes}");
    }
    let fields = |target: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: t\r\nX-Gone: 1\r\n\r\n");
        let response = exchange(gateway.address(), request);
        let request = origin.last();
        let sent = ["x-a", "x-b", "x-gone"].map(|name| request.field(name).map(str::to_owned));
        (sent, ["x-c", "x-d"].map(|name| response.field(name).map(str::to_owned)))
    };
    let some = |value: &str| Some(value.to_owned());
    assert_eq!(fields("/default"), ([some("1"), some("1"), None], [some("1"), None]));
    assert_eq!(fields("/own"), ([None, some("2"), some("1")], [None, some("2")]));
}

#[test]
fn a_routes_own_timeout_replaces_the_default() {
    let origin = Origin::start(|_| vec![Step::Hold]);
    let to = format!("upstream: \"{}\"", origin.url());
    let gateway = Gateway::start(&format!(
        "defaults: {{timeout: 60s}}\nroutes: [{{path: /own, {to}, timeout: 200ms}}, {{path: /default, {to}}}]"
    ));
    let mut waiting = Raw::connect(gateway.address());
    waiting.send("GET /default HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(get(gateway.address(), "/own").status, 504);
    assert!(waiting.silent_for(Duration::from_millis(100)), "the other route still waits");
}

#[test]
fn an_origin_that_stalls_before_its_answer_is_504_in_time() {
    let origin = Origin::start(|_| vec![Step::Hold]);
    let gateway = in_front_of(&origin, "timeout: 300ms");
    let start = Instant::now();
    let response = get(gateway.address(), "/");
    let took = start.elapsed();
    assert_eq!((response.status, response.problem().as_str()), (504, "exchange_timeout"));
    assert!(took >= Duration::from_millis(290) && took < TOO_LONG, "{took:?}");
    assert_eq!(origin.received().len(), 1, "no second attempt is made when the time is over");
}

#[test]
fn an_origin_that_stalls_amid_its_head_is_504_in_time() {
    let origin = Origin::start(|_| vec![Step::Send(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()), Step::Hold]);
    let gateway = in_front_of(&origin, "timeout: 300ms");
    let start = Instant::now();
    assert_eq!(get(gateway.address(), "/").status, 504);
    assert!(start.elapsed() < TOO_LONG);
}

#[test]
fn an_upstreams_read_timeout_is_504_too() {
    let origin = Origin::start(|_| vec![Step::Hold]);
    let gateway = Gateway::start(&format!(
        "upstreams: {{a: {{targets: [\"{}\"], timeouts: {{read: 200ms}}}}}}\nroutes: [{{path: /, upstream: a}}]",
        origin.target()
    ));
    let response = get(gateway.address(), "/");
    assert_eq!((response.status, response.problem().as_str()), (504, "upstream_timeout"));
}

#[test]
fn an_origin_that_stalls_amid_its_body_has_its_answer_cut() {
    for framing in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let origin = Origin::start(move |request| {
            if request.target() == "/well" {
                return reply(200, "well");
            }
            vec![Step::Send(format!("HTTP/1.1 200 OK\r\n{framing}").into_bytes()), Step::Hold]
        });
        let gateway = in_front_of(&origin, "timeout: 300ms");
        let mut client = Raw::connect(gateway.address());
        let start = Instant::now();
        let response = client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response();
        assert_eq!((response.status, response.text().as_str()), (200, "hello"), "{framing}");
        assert!(!response.complete, "{framing}: the client must be able to tell");
        assert!(client.closed() && start.elapsed() < TOO_LONG, "{framing}");
        assert_eq!(get(gateway.address(), "/well").text(), "well", "the gateway lives on");
    }
}

#[test]
fn an_origin_that_trickles_cannot_outlast_the_exchange() {
    // Each read is fast; only the whole is slow: 60 s if nobody ends it.
    let origin = Origin::start(|_| {
        let mut steps = raw("HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n");
        steps.extend(
            (0..3000).flat_map(|_| [Step::Send(b"x".to_vec()), Step::Pause(Duration::from_millis(20))]),
        );
        steps
    });
    let gateway = in_front_of(&origin, "timeout: 400ms");
    let start = Instant::now();
    let response = get(gateway.address(), "/");
    assert!(!response.complete && !response.body.is_empty(), "{response:?}");
    assert!(start.elapsed() < TOO_LONG, "{:?}", start.elapsed());
}

#[test]
fn an_origin_that_trickles_its_head_cannot_outlast_the_exchange() {
    let origin = Origin::start(|_| {
        let mut steps = vec![Step::Send(b"HTTP/1.1 200 OK\r\nX-Long: ".to_vec())];
        steps.extend(
            (0..3000).flat_map(|_| [Step::Send(b"x".to_vec()), Step::Pause(Duration::from_millis(20))]),
        );
        steps
    });
    let gateway = in_front_of(&origin, "timeout: 400ms");
    let start = Instant::now();
    assert_eq!(get(gateway.address(), "/").status, 504);
    assert!(start.elapsed() < TOO_LONG, "{:?}", start.elapsed());
}

#[test]
fn a_client_that_stops_uploading_is_ended_at_the_exchange_timeout() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "timeout: 300ms");
    for request in [
        "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\nhalf",
        "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    ] {
        let mut client = Raw::connect(gateway.address());
        let start = Instant::now();
        let response = client.send(request).response();
        assert!(matches!(response.status, 408 | 504), "{response:?}");
        assert_eq!(response.problem(), "exchange_timeout");
        assert!(client.closed() && start.elapsed() < TOO_LONG, "{:?}", start.elapsed());
    }
    until("the origin's connections end", || origin.received().len() == origin.connections());
    assert!(origin.received().iter().all(|r| !r.complete));
}

#[test]
fn a_client_that_trickles_its_upload_cannot_outlast_the_exchange() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "timeout: 400ms");
    let mut client = Raw::connect(gateway.address());
    let start = Instant::now();
    client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 100000\r\n\r\n");
    while client.silent_for(Duration::from_millis(20)) {
        client.send("x");
        assert!(start.elapsed() < TOO_LONG, "the upload is never ended");
    }
    assert!(matches!(client.response().status, 408 | 504));
}

#[test]
fn an_origin_that_takes_no_body_cannot_outlast_the_exchange() {
    let origin = Origin::on_head(|_| vec![Step::Hold]);
    let gateway = in_front_of(&origin, "timeout: 500ms");
    let mut client = Raw::connect(gateway.address());
    let start = Instant::now();
    let mut upload = client.socket.try_clone().unwrap();
    // More than all buffers on the way take.
    let uploading = std::thread::spawn(move || {
        let _ = upload.write_all(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 268435456\r\n\r\n");
        let piece = vec![b'x'; 1 << 20];
        while upload.write_all(&piece).is_ok() {}
    });
    let response = client.response();
    assert_eq!(response.status, 504, "{response:?}");
    assert!(start.elapsed() < TOO_LONG, "{:?}", start.elapsed());
    drop(gateway);
    uploading.join().unwrap();
}

#[test]
fn no_answer_names_a_target() {
    let (_socket, refusing) = refusing();
    for (what, status, steps) in [
        ("refuses", 502, None),
        ("resets", 502, Some(vec![Step::Reset])),
        ("closes", 502, Some(vec![Step::Close])),
        ("sends garbage", 502, Some([raw("garbage\r\n\r\n"), vec![Step::Close]].concat())),
        ("breaks off its head", 502, Some([raw("HTTP/1.1 200 OK\r\nX"), vec![Step::Close]].concat())),
        ("stalls", 504, Some(vec![Step::Hold])),
    ] {
        let origin = steps.map(|steps| Origin::start(move |_| steps.clone()));
        let target = origin.as_ref().map_or(refusing, |origin| origin.address);
        let gateway =
            Gateway::start(&format!("routes: [{{path: /, upstream: \"http://{target}\", timeout: 500ms}}]"));
        let response = get(gateway.address(), "/");
        assert_eq!(response.status, status, "an origin that {what}: {response:?}");
        assert!(!response.problem().is_empty());
        let told = format!("{}\n{}", response.head, response.text());
        let port = format!(":{}", target.port());
        assert!(!told.contains("127.0.0.1") && !told.contains(&port), "an origin that {what}: {told}");
        // The operator learns it.
        gateway.wait_log(&[&format!("-> {status}"), &target.to_string()]);
    }
}

#[test]
fn an_origin_without_a_healthy_target_is_503_without_its_address() {
    let (_socket, refusing) = refusing();
    let gateway = Gateway::start(&format!(
        "upstreams: {{a: {{targets: [\"{refusing}\"], health_check: {{path: /up}}}}}}\nroutes: [{{path: /, upstream: a}}]"
    ));
    let response = get(gateway.address(), "/");
    assert_eq!((response.status, response.problem().as_str()), (503, "no_healthy_target"));
    assert!(!format!("{}{}", response.head, response.text()).contains("127.0.0.1"));
}

#[test]
fn a_tunnel_that_breaks_gets_no_problem_body_and_no_second_attempt() {
    let tunnel = || {
        Origin::start(|_| {
            let head =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi";
            [raw(head), vec![Step::Hold, Step::Reset]].concat()
        })
    };
    let (one, two) = (tunnel(), tunnel());
    let gateway = Gateway::start(&format!(
        "upstreams: {{a: {{targets: [\"{}\", \"{}\"]}}}}\nroutes: [{{path: /, upstream: a}}]",
        one.target(),
        two.target()
    ));
    let mut client = Raw::connect(gateway.address());
    client.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.response().status, 101);
    one.release();
    two.release();
    assert_eq!(String::from_utf8_lossy(&client.rest()), "hi");
    assert_eq!(one.received().len() + two.received().len(), 1);
}
