//! HTTP/2 of clients: what they get, what is refused, and how it ends.

mod kit;

use bytes::Bytes;
use http::Request;
use kit::http2::{get, run, send_all, whole};
use kit::origin::{raw, reply};
use kit::{frames, until, Frames, Gateway, Http2, Origin, Raw, Step};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const BOTH: &str = "listeners: [{address: \"127.0.0.1:0\", protocols: [h2, http1]}]\n";
const LOG: &str = "access_log: {path: $FOLDER/access.log}\n";

/// A gateway that speaks both, with its access log.
fn gateway(yaml: &str) -> Gateway {
    Gateway::start(&format!("{BOTH}{LOG}{yaml}"))
}

/// The same in front of one upstream.
fn before(origin: &Origin) -> Gateway {
    gateway(&format!("routes: [{{path: /, upstream: \"{}\"}}]", origin.url()))
}

// What is spoken

#[test]
fn the_first_bytes_decide_what_is_spoken() {
    let origin = Origin::text("here");
    let gateway = before(&origin);
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        for _ in 0..2 {
            let answer = client.get("/a?b").await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "here"));
            assert_eq!(answer.field("x-request-id").unwrap().len(), 32);
            assert!(answer.field("server-timing").unwrap().contains("upstream;dur="));
            assert!(answer.field("connection").is_none() && answer.field("date").is_some());
        }
    });
    let mut client = Raw::connect(gateway.address());
    assert_eq!(client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response().status, 200);
    // Piece by piece too.
    let mut client = Raw::connect(gateway.address());
    client.send("P").send("OST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let lines = gateway.access_lines(4);
    assert_eq!(lines[0]["path"], "/a");
    assert_eq!(
        (&lines[0]["host"], &lines[0]["status"], &lines[0]["bytes_out"]),
        (&"test".into(), &200.into(), &4.into())
    );
}

#[test]
fn where_only_one_is_spoken_the_other_is_refused() {
    let only = |protocols: &str| {
        Gateway::start(&format!(
            "listeners: [{{address: \"127.0.0.1:0\", protocols: [{protocols}]}}]\nroutes: [{{respond: {{body: here}}}}]"
        ))
    };
    let gateway = only("h2");
    run(async { assert_eq!(Http2::connect(gateway.address()).await.get("/").await.text(), "here") });
    let mut client = Raw::connect(gateway.address());
    let refused = client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response();
    assert_eq!((refused.status, refused.problem().as_str()), (505, "http2_only"));
    assert!(client.rest().is_empty());
    for gateway in [only("http1"), Gateway::start("routes: [{respond: {body: here}}]")] {
        let refused = Raw::connect(gateway.address()).send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").response();
        assert_eq!((refused.status, refused.problem().as_str()), (505, "version_unsupported"));
    }
}

#[test]
fn a_preface_that_does_not_end_is_refused_in_time() {
    let gateway =
        Gateway::start(&format!("{BOTH}limits: {{header_timeout: 300ms}}\nroutes: [{{respond: {{}}}}]"));
    let mut client = Raw::connect(gateway.address());
    let refused = client.send("PRI * HTTP/2.0\r\n\r\nSM").response();
    assert_eq!((refused.status, refused.problem().as_str()), (408, "slow_head"));
}

// What goes upstream, and comes back

#[test]
fn the_upstream_gets_a_request_of_http_1() {
    let origin = Origin::text("here");
    let gateway = before(&origin);
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let request = Request::get("http://Shop.Test:81/a/../b?c=d")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("cookie", "c=3")
            .header("te", "trailers")
            .header("x-own", "mine")
            .header("x-forwarded-for", "1.2.3.4")
            .header("accept", "x");
        let answer = client.exchange(request.body(()).unwrap(), b"").await.unwrap();
        assert_eq!(answer.status, 200);
    });
    let received = origin.first();
    assert_eq!(received.line(), "GET /b?c=d HTTP/1.1");
    assert!(
        received.head.lines().nth(1).unwrap().eq_ignore_ascii_case("host: Shop.Test:81"),
        "{}",
        received.head
    );
    assert_eq!(received.field("cookie"), Some("a=1; b=2; c=3"));
    assert_eq!(received.field("via"), Some("2.0 portcullis"));
    assert_eq!(received.field("x-own"), Some("mine"));
    assert_eq!(received.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(received.field("x-forwarded-host"), Some("Shop.Test:81"));
    assert_eq!(received.field("forwarded"), Some("for=127.0.0.1;proto=http;host=\"Shop.Test:81\""));
    assert_eq!(received.field("te"), None);
    assert_eq!(received.field("transfer-encoding"), None);
    assert_eq!(received.field("x-request-id").map(str::len), Some(32));
    assert!(received.field("traceparent").is_some());
}

#[test]
fn a_routes_changes_are_made() {
    let origin = Origin::start(|_| {
        raw("HTTP/1.1 200 OK\r\nServer: secret\r\nContent-Length: 4\r\nConnection: x-hop\r\nX-Hop: a\r\n\r\nhere")
    });
    let gateway = gateway(&format!(
        "routes:
  - path: /a
    hosts: [test]
    upstream: \"{}\"
    rewrite: {{strip_prefix: true, host: inner.test}}
    request_headers: {{set: {{x-gateway: portcullis}}, remove: [x-debug]}}
    response_headers: {{remove: [server], set: {{x-request-id: mine, x-frame-options: DENY}}}}
",
        origin.url()
    ));
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let request = Request::get("http://test/a/b?c").header("x-debug", "1").body(()).unwrap();
        let answer = client.exchange(request, b"").await.unwrap();
        assert_eq!((answer.status, answer.field("x-frame-options")), (200, Some("DENY")));
        assert_eq!((answer.field("server"), answer.field("x-hop")), (None, None));
        assert_eq!(answer.field("x-request-id"), Some("mine"));
        let other = Request::get("http://other/a/b").body(()).unwrap();
        assert_eq!(client.exchange(other, b"").await.unwrap().problem(), "no_route");
    });
    let received = origin.first();
    assert_eq!(received.line(), "GET /b?c HTTP/1.1");
    assert_eq!(
        (received.field("host"), received.field("x-gateway")),
        (Some("inner.test"), Some("portcullis"))
    );
    assert_eq!((received.field("x-debug"), received.field("x-forwarded-host")), (None, Some("test")));
}

#[test]
fn bodies_pass_both_ways_at_the_speed_of_the_slower_side() {
    let origin = Origin::start(|request| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len());
        vec![Step::Send([head.as_bytes(), &request.body].concat())]
    });
    let gateway = before(&origin);
    let body: Vec<u8> = (0..5_000_000_u32).map(|n| ((n * 31) >> 3) as u8).collect();
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let request = || Request::post("http://test/").body(()).unwrap();
        assert!(client.exchange(request(), &body).await.unwrap().body == body);
        let known = Request::put("http://test/").header("content-length", body.len()).body(()).unwrap();
        assert!(client.exchange(known, &body).await.unwrap().body == body);
    });
    let [chunked, known] = &origin.received()[..] else { panic!("two requests") };
    assert_eq!(chunked.field("transfer-encoding"), Some("chunked"));
    assert_eq!(known.field("content-length"), Some("5000000"));
    let lines = gateway.access_lines(2);
    for line in lines {
        assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&5_000_000.into(), &5_000_000.into()));
    }
}

/// What nobody takes fills the window of its own stream, and leaves the others theirs.
#[test]
fn a_body_that_is_not_taken_does_not_stop_the_others() {
    // It does not read: what comes fills its buffers, and the gateway's.
    let stuck = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = Origin::start(|request| reply(200, &request.body.len().to_string()));
    let gateway = gateway(&format!(
        "routes: [{{path: /stuck, upstream: \"http://{}\"}}, {{path: /, upstream: \"{}\"}}]",
        stuck.local_addr().unwrap(),
        origin.url()
    ));
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let mut stalled = Vec::new();
        for _ in 0..2 {
            let mut send = client.send.clone().ready().await.unwrap();
            let post = Request::post("http://test/stuck").body(()).unwrap();
            let (answer, mut body) = send.send_request(post, false).unwrap();
            let sending = tokio::spawn(async move { send_all(&mut body, vec![0; 64 << 20].into()).await });
            stalled.push((answer, sending));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        for _ in 0..3 {
            let post = Request::post("http://test/").body(()).unwrap();
            let answer = client.exchange(post, &[1; 1_000_000]).await.unwrap();
            assert_eq!(answer.text(), "1000000");
        }
        assert!(stalled.iter().all(|(_, sending)| !sending.is_finished()));
    });
}

#[test]
fn a_hundred_requests_at_once_share_a_connection() {
    let origin = Origin::start(|_| {
        vec![Step::Hold, Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere".to_vec())]
    });
    let gateway = before(&origin);
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let mut answers = Vec::new();
        for n in 0..100 {
            let mut send = client.send.clone().ready().await.unwrap();
            answers.push(send.send_request(get(&format!("/{n}")), true).unwrap().0);
        }
        client.send = client.send.ready().await.unwrap();
        let origin = tokio::task::spawn_blocking(move || {
            origin.wait_count(100);
            origin.release();
            origin
        });
        let _origin = origin.await.unwrap();
        for answer in answers {
            assert_eq!(whole(answer.await.unwrap()).await.unwrap().text(), "here");
        }
    });
    assert_eq!(gateway.access_lines(100).len(), 100);
}

#[test]
fn answers_without_a_body_have_none() {
    let origin = Origin::start(|request| match request.target() {
        "/head" => raw("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"),
        "/204" => raw("HTTP/1.1 204 No Content\r\n\r\n"),
        "/304" => raw("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"),
        _ => raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    });
    let gateway = before(&origin);
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let head = client.exchange(Request::head("http://test/head").body(()).unwrap(), b"").await.unwrap();
        assert_eq!((head.status, head.field("content-length"), head.body.len()), (200, Some("7"), 0));
        for (path, status) in [("/204", 204), ("/304", 304), ("/empty", 200)] {
            let answer = client.get(path).await;
            assert_eq!((answer.status, answer.body.len()), (status, 0), "{path}");
            assert!(answer.field("transfer-encoding").is_none());
        }
    });
}

#[test]
fn a_1xx_comes_before_its_answer() {
    let origin = Origin::start(|_| {
        raw("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere")
    });
    let gateway = before(&origin);
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let mut send = client.send.clone().ready().await.unwrap();
        let (mut answer, _) = send.send_request(get("/"), true).unwrap();
        let early = std::future::poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(early.status(), 103);
        assert!(early.headers().contains_key("link"));
        assert_eq!(whole(answer.await.unwrap()).await.unwrap().text(), "here");
        client.send = client.send.ready().await.unwrap();
    });
}

/// HTTP/1.1 upstreams could have them, but Pingora passes none on, either way.
#[test]
fn trailers_are_read_and_dropped() {
    let origin = Origin::start(|_| {
        raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n4\r\nhere\r\n0\r\nx-sum: 7\r\n\r\n")
    });
    let gateway = before(&origin);
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        for _ in 0..2 {
            let mut send = client.send.clone().ready().await.unwrap();
            let request = Request::post("http://test/").header("trailer", "x-sum").body(()).unwrap();
            let (answer, mut body) = send.send_request(request, false).unwrap();
            body.send_data(Bytes::from_static(b"body"), false).unwrap();
            body.send_trailers(
                [(http::HeaderName::from_static("x-sum"), "9".parse().unwrap())].into_iter().collect(),
            )
            .unwrap();
            let answer = whole(answer.await.unwrap()).await.unwrap();
            assert_eq!((answer.text().as_str(), answer.trailers), ("here", None));
        }
        client.send = client.send.ready().await.unwrap();
    });
    for received in origin.received() {
        assert_eq!((received.body.as_slice(), received.complete), (&b"body"[..], true));
        assert!(!received.head.contains("x-sum"), "{}", received.head);
    }
    assert_eq!(origin.connections(), 1, "the upstream's connection stays usable");
}

#[test]
fn the_gateways_own_answers_are_problems_and_each_has_a_line() {
    let ((_refusing, address), origin) = (kit::origin::refusing(), Origin::text("here"));
    let target = origin.target();
    let gateway = gateway(&format!(
        "routes:
  - {{path: /old, redirect: {{to: 'https://new.test{{path}}'}}}}
  - {{path: /fixed, respond: {{status: 203, body: fixed}}}}
  - {{path: /down, upstream: \"http://{address}\"}}
  - {{path: /small, max_body: 4B, upstream: \"http://{target}\"}}
  - {{path: /post, methods: [POST], respond: {{}}}}
"
    ));
    let answers = run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let redirect = client.get("/old/a").await;
        assert_eq!((redirect.status, redirect.field("location")), (308, Some("https://new.test/old/a")));
        let fixed = client.get("/fixed").await;
        assert_eq!((fixed.status, fixed.text().as_str()), (203, "fixed"));
        assert!(fixed.field("x-request-id").is_some() && fixed.field("server-timing").is_some());
        let head = client.exchange(Request::head("http://test/none").body(()).unwrap(), b"").await.unwrap();
        assert_eq!((head.status, head.body.len()), (404, 0));
        let head = client.exchange(Request::head("http://test/down").body(()).unwrap(), b"").await.unwrap();
        assert_eq!((head.status, head.body.len()), (502, 0));
        let post = client.get("/post").await;
        assert_eq!(post.field("allow"), Some("POST"));
        let mut answers =
            vec![post, client.get("/none").await, client.get("/down").await, client.get("/a%00b").await];
        let large = Request::post("http://test/small").body(()).unwrap();
        answers.push(client.exchange(large, b"12345").await.unwrap());
        let known = Request::post("http://test/small").header("content-length", "5").body(()).unwrap();
        answers.push(client.exchange(known, b"12345").await.unwrap());
        assert_eq!(client.get("/fixed").await.status, 203, "the connection goes on");
        answers
    });
    let problems: Vec<(u16, String)> =
        answers.iter().map(|answer| (answer.status, answer.problem())).collect();
    let expected = [
        (405, "method_not_allowed"),
        (404, "no_route"),
        (502, "connect"),
        (400, "path_encoded_control"),
        (413, "body_too_large"),
        (413, "body_too_large"),
    ];
    assert_eq!(problems, expected.map(|(status, reason)| (status, reason.to_owned())));
    let lines = gateway.access_lines(11);
    assert_eq!(lines.len(), 11);
    let ids: Vec<_> = answers.iter().map(|answer| answer.field("x-request-id").unwrap()).collect();
    for (id, (status, reason)) in ids.iter().zip(expected) {
        let line = lines.iter().find(|line| line["request_id"] == *id).unwrap();
        assert_eq!((&line["status"], &line["error"]), (&status.into(), &reason.into()));
    }
}

/// curl, as Debian has it.
#[test]
fn curl_speaks_with_it() {
    let origin = Origin::start(|request| reply(200, &String::from_utf8_lossy(&request.body)));
    let gateway = before(&origin);
    let curl = |arguments: &[&str]| {
        let format = "%{http_version} %{http_code}";
        let out = Command::new("curl")
            .args(["-s", "--http2-prior-knowledge", "--max-time", "10", "-w", format])
            .args(arguments)
            .arg(gateway.url("/"))
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(curl(&[]), "2 200");
    assert_eq!(curl(&["-d", "hello"]), "hello2 200");
    assert_eq!(curl(&["-H", "Expect: 100-continue", "-d", "hello"]), "hello2 200");
    assert_eq!(curl(&["-I"]).lines().next().unwrap().trim(), "HTTP/2 200");
}

// How a request ends

#[test]
fn a_request_that_its_client_gives_up_is_499() {
    let origin = Origin::start(|_| vec![Step::Hold]);
    let gateway = before(&origin);
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let mut send = client.send.clone().ready().await.unwrap();
        let (answer, mut stream) = send.send_request(get("/gone"), true).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        origin.wait_count(1);
        stream.send_reset(h2::Reason::CANCEL);
        drop(answer);
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.send = client.send.ready().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    });
    let lines = gateway.access_lines(1);
    assert_eq!((&lines[0]["status"], &lines[0]["error"]), (&499.into(), &"client_gone".into()));
    assert_eq!(lines[0]["path"], "/gone");
    until("the upstream is let go", || origin.open() == 0);
}

#[test]
fn time_runs_for_a_stream_as_for_a_connection() {
    let origin = Origin::start(|_| vec![Step::Hold]);
    let gateway = gateway(&format!(
        "limits: {{min_body_rate: 1KiB/s}}
upstreams: {{silent: {{targets: [\"{0}\"], timeouts: {{read: 400ms}}}}}}
routes:
  - {{path: /short, timeout: 300ms, upstream: \"http://{0}\"}}
  - {{path: /silent, upstream: silent}}
  - {{path: /, upstream: \"http://{0}\"}}
",
        origin.target()
    ));
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let began = Instant::now();
        let short = client.get("/short").await;
        assert_eq!((short.status, short.problem().as_str()), (504, "exchange_timeout"));
        let silent = client.get("/silent").await;
        assert_eq!((silent.status, silent.problem().as_str()), (504, "upstream_timeout"));
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        // A body that does not come: five seconds of grace, then it is too slow.
        let mut send = client.send.clone().ready().await.unwrap();
        let (answer, mut body) =
            send.send_request(Request::post("http://test/").body(()).unwrap(), false).unwrap();
        body.send_data(Bytes::from_static(b"a"), false).unwrap();
        let slow = whole(answer.await.unwrap()).await.unwrap();
        assert_eq!((slow.status, slow.problem().as_str()), (408, "slow_body"));
        client.send = client.send.ready().await.unwrap();
    });
    let errors: Vec<_> = gateway.access_lines(3).iter().map(|line| line["error"].clone()).collect();
    assert_eq!(errors, ["exchange_timeout", "upstream_timeout", "slow_body"]);
}

#[test]
fn an_answer_that_breaks_off_is_no_whole_one() {
    let origin = Origin::start(|_| {
        vec![Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec()), Step::Close]
    });
    let gateway = before(&origin);
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let broken = client.exchange(get("/"), b"").await.unwrap_err();
        assert_eq!(broken.reason(), Some(h2::Reason::INTERNAL_ERROR));
        assert!(client.exchange(get("/"), b"").await.is_err(), "the connection goes on");
    });
    let lines = gateway.access_lines(2);
    assert_eq!((&lines[0]["status"], &lines[0]["error"]), (&200.into(), &"upstream_broke".into()));
}

#[test]
fn an_early_answer_does_not_need_the_rest_of_the_body() {
    let origin =
        Origin::on_head(|_| vec![Step::Send(b"HTTP/1.1 401 X\r\nContent-Length: 2\r\n\r\nno".to_vec())]);
    let gateway = before(&origin);
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let mut send = client.send.clone().ready().await.unwrap();
        let (answer, mut body) =
            send.send_request(Request::post("http://test/").body(()).unwrap(), false).unwrap();
        body.send_data(Bytes::from_static(b"part"), false).unwrap();
        let early = whole(answer.await.unwrap()).await.unwrap();
        assert_eq!((early.status, early.text().as_str()), (401, "no"));
        // RFC 9113 §8.1: the gateway says that it needs no more.
        let reason = std::future::poll_fn(|cx| body.poll_reset(cx)).await.unwrap();
        assert_eq!(reason, h2::Reason::NO_ERROR);
        assert!(send_all(&mut body, Bytes::from_static(b"more")).await.is_err());
        client.send = client.send.ready().await.unwrap();
    });
    assert_eq!(gateway.access_lines(1)[0]["status"], 401);
}

// Heads

#[test]
fn heads_that_two_readers_could_take_otherwise_are_refused() {
    let gateway = gateway("routes: [{path: /, respond: {body: here}}]");
    let (long, many) = ("x".repeat(9000), vec![("x-many", "1"); 101]);
    let (full, huge) = ("y".repeat(40_000), "z".repeat(100_000));
    let usual = [(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/")];
    let [method, scheme, authority, path] = usual;
    let long_path = format!("/{long}");
    let with = |more: &[(&'static str, &'static str)]| [&usual[..], more].concat();
    let cases: Vec<(Vec<(&str, &str)>, &str)> = vec![
        (usual.to_vec(), "here"),
        (with(&[("te", "trailers")]), "here"),
        (with(&[("host", "test")]), "here"),
        (with(&[("host", "TEST:80")]), "here"),
        (vec![method, scheme, path, ("host", "test")], "here"),
        (vec![method, scheme, authority, (":path", "/%61\"<?a=\u{e9}")], "reset 1"),
        (vec![method, scheme, authority, (":path", "/%61\"?a=\u{e9}")], "here"),
        // Who is meant
        (vec![method, scheme, path], "host_missing"),
        (vec![method, scheme, (":authority", ""), path], "reset 1"),
        (vec![method, scheme, (":authority", "me@test"), path], "host_invalid"),
        (vec![method, scheme, (":authority", "a,b"), path], "host_invalid"),
        (with(&[("host", "other")]), "host_mismatch"),
        (with(&[("host", "test:81")]), "host_mismatch"),
        (with(&[("host", "")]), "host_invalid"),
        (with(&[("host", "test"), ("host", "test")]), "host_duplicate"),
        // What is meant
        (vec![scheme, authority, path], "reset 1"),
        (vec![method, authority, path], "reset 1"),
        (vec![method, scheme, authority], "reset 1"),
        (vec![method, scheme, authority, (":path", "")], "reset 1"),
        (vec![method, scheme, authority, (":path", "a")], "reset 1"),
        (vec![method, scheme, authority, (":path", "*")], "target_form"),
        (vec![method, scheme, authority, (":path", "http://test/")], "reset 1"),
        (vec![method, scheme, authority, (":path", "/a b")], "reset 1"),
        (vec![method, scheme, authority, (":path", "/a\x7F")], "reset 1"),
        (vec![method, scheme, authority, (":path", "/a\\b")], "path_backslash"),
        (vec![method, (":scheme", "ftp"), authority, path], "target_form"),
        (vec![(":method", "OPTIONS"), scheme, authority, (":path", "*")], "no_route"),
        (vec![(":method", "CONNECT"), authority], "method_refused"),
        (vec![(":method", "CONNECT"), (":protocol", "websocket"), scheme, authority, path], "reset 1"),
        (vec![(":method", "trace"), scheme, authority, path], "method_refused"),
        (vec![method, method, scheme, authority, path], "reset 1"),
        (vec![method, scheme, authority, ("a", "b"), path], "reset 1"),
        (with(&[(":status", "200")]), "reset 1"),
        // What belongs to a connection (RFC 9113 §8.2.2), a WebSocket's beginning too
        (with(&[("connection", "close")]), "reset 1"),
        (with(&[("connection", "upgrade"), ("upgrade", "websocket")]), "reset 1"),
        (with(&[("upgrade", "websocket")]), "reset 1"),
        (with(&[("keep-alive", "5")]), "reset 1"),
        (with(&[("proxy-connection", "close")]), "reset 1"),
        (with(&[("transfer-encoding", "chunked")]), "reset 1"),
        (with(&[("te", "gzip")]), "reset 1"),
        // How long the body is
        (with(&[("content-length", "0"), ("content-length", "0")]), "length_duplicate"),
        (with(&[("content-length", "5")]), "reset 1"),
        (with(&[("content-length", "+0")]), "reset 1"),
        (with(&[("content_length", "5")]), "underscore"),
        (with(&[("transfer_encoding", "chunked")]), "underscore"),
        (with(&[("expect", "wonders")]), "expectation"),
        // Names and values
        (with(&[("x", " a")]), "field_value"),
        (with(&[("x", "a\t")]), "field_value"),
        // How much
        (vec![method, scheme, authority, (":path", &long_path)], "target_too_long"),
        ([&usual[..], &many].concat(), "too_many_fields"),
        ([&usual[..], &[("x", full.as_str())]].concat(), "head_too_large"),
        ([&usual[..], &[("x", huge.as_str())]].concat(), ""), // the crate's own 431
    ];
    let mut wrong = Vec::new();
    for (fields, expected) in &cases {
        let mut client = Frames::connect(gateway.address());
        let block = frames::block(fields);
        let mut pieces = block.chunks(16_384).peekable();
        let mut kind = frames::HEADERS;
        while let Some(piece) = pieces.next() {
            let last = if pieces.peek().is_none() { frames::END_HEADERS } else { 0 };
            let end = if kind == frames::HEADERS { frames::END_STREAM } else { 0 };
            client.frame(kind, last | end, 1, piece);
            kind = frames::CONTINUATION;
        }
        let found = client.reason(1);
        let shown: Vec<String> =
            fields.iter().map(|(n, v)| format!("{n}: {}", &v[..v.len().min(30)])).collect();
        if found != *expected {
            wrong.push(format!("{shown:?}: {found}, expected {expected}"));
        }
        // One bad request does not spoil the next.
        client.get(3, "/");
        let next = client.outcome(3);
        if next != "here" {
            wrong.push(format!("{shown:?}: then {next}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Each has its line, those too that the crate answers alone.
    let lines = gateway.access_lines(2 * cases.len());
    assert_eq!(lines.len(), 2 * cases.len());
    for (_, expected) in &cases {
        let expected = match *expected {
            "here" => continue,
            "reset 1" => "malformed",
            "" => "head_too_large",
            reason => reason,
        };
        assert!(lines.iter().any(|line| line["error"] == expected), "{expected}");
    }
    let malformed = cases.iter().filter(|(_, expected)| *expected == "reset 1").count();
    assert_eq!(lines.iter().filter(|line| line["error"] == "malformed").count(), malformed);
}

/// What no list of fields can hold ends the connection.
#[test]
fn fields_that_are_none_end_the_connection() {
    let gateway = gateway("routes: [{path: /, respond: {body: here}}]");
    for field in [("X-Upper", "a"), ("x", "a\nb"), ("x", "a\0b"), ("x y", "a"), ("", "a"), (":other", "a")] {
        let mut client = Frames::connect(gateway.address());
        client.frame(
            frames::HEADERS,
            frames::END_HEADERS | frames::END_STREAM,
            1,
            &frames::request("GET", "/", &[field]),
        );
        let found = client.reason(1);
        assert!(
            matches!(found.as_str(), "goaway 1" | "goaway 9" | "reset 1" | "field_name"),
            "{field:?}: {found}"
        );
    }
    // Half a head.
    let mut client = Frames::connect(gateway.address());
    client.frame(frames::HEADERS, frames::END_STREAM, 1, &frames::request("GET", "/", &[]));
    drop(client);
    let lines = gateway.access_lines(7);
    assert_eq!(lines.iter().filter(|line| line["status"] == 400).count(), 6, "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line["error"] == "client_gone").count(), 1, "{lines:?}");
}

#[test]
fn a_refused_head_has_a_line() {
    let gateway = gateway("routes: [{path: /, respond: {body: here}}]");
    let mut client = Frames::connect(gateway.address());
    let head = frames::request("GET", "/a?token=secret", &[("host", "other")]);
    client.frame(frames::HEADERS, frames::END_HEADERS | frames::END_STREAM, 1, &head);
    assert_eq!(client.reason(1), "host_mismatch");
    let line = &gateway.access_lines(1)[0];
    assert_eq!((&line["status"], &line["error"]), (&400.into(), &"host_mismatch".into()));
    assert_eq!((&line["path"], &line["client_ip"]), (&"/a".into(), &"127.0.0.1".into()));
}

#[test]
fn a_body_of_another_length_than_announced_is_refused() {
    let origin = Origin::text("here");
    let gateway = before(&origin);
    for body in [&b"12345678"[..], b"1"] {
        let mut client = Frames::connect(gateway.address());
        let head = frames::request("POST", "/", &[("content-length", "4")]);
        client.frame(frames::HEADERS, frames::END_HEADERS, 1, &head);
        client.frame(frames::DATA, frames::END_STREAM, 1, body);
        assert_eq!(client.outcome(1), "reset 1");
    }
    gateway.access_lines(2);
    assert!(origin.received().iter().all(|received| !received.complete));
}

#[test]
fn another_attempt_has_the_whole_body() {
    let (broken, sound) = (Origin::start(|_| vec![Step::Reset]), Origin::text("here"));
    let gateway = gateway(&format!(
        "upstreams: {{both: {{targets: [\"{}\", \"{}\"]}}}}\nroutes: [{{path: /, upstream: both}}]",
        broken.target(),
        sound.target()
    ));
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        for _ in 0..4 {
            let put = Request::put("http://test/").body(()).unwrap();
            assert_eq!(client.exchange(put, b"the whole body").await.unwrap().text(), "here");
        }
    });
    assert!(!broken.received().is_empty());
    assert!(sound.received().iter().all(|received| received.body == b"the whole body"));
    let lines = gateway.access_lines(4);
    assert!(lines.iter().any(|line| line["attempts"] == 2));
}

// How a connection ends

/// No request fails when another process takes over: who asks on is told to come again.
#[test]
fn an_upgrade_fails_no_request() {
    let origin = Origin::text("here");
    let gateway = Gateway::start_controlled(&format!(
        "{BOTH}upgrade: {{rollback_window: 500ms}}\nroutes: [{{path: /, upstream: \"{}\"}}]",
        origin.url()
    ));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            run(async {
                let (mut served, mut connections) = (0, 0);
                while !done.load(Ordering::SeqCst) {
                    let mut client = Http2::connect(gateway.address()).await;
                    connections += 1;
                    // Another connection only when this one takes no more.
                    while !done.load(Ordering::SeqCst) {
                        let Ok(mut send) = client.send.clone().ready().await else { break };
                        let Ok((answer, _)) = send.send_request(get("/"), true) else { break };
                        client.send = send;
                        match answer.await {
                            Ok(answer) => assert_eq!(whole(answer).await.unwrap().text(), "here"),
                            // Sent after the GOAWAY: not begun, and to be sent again (RFC 9113 §6.8).
                            Err(e) if e.is_go_away() && e.reason() == Some(h2::Reason::NO_ERROR) => break,
                            Err(e) => panic!("no answer: {e:?}"),
                        }
                        served += 1;
                    }
                }
                (served, connections)
            })
        });
        let before = gateway.serving_pid();
        gateway.command_done("upgrade");
        std::thread::sleep(Duration::from_millis(300));
        assert_ne!(gateway.serving_pid(), before);
        done.store(true, Ordering::SeqCst);
        let (served, connections) = asking.join().unwrap();
        assert!(served > 10 && connections >= 2, "{served} requests on {connections} connections");
        assert_eq!(origin.received().len(), served, "what was not begun is not upstream");
    });
}

#[test]
fn a_reload_decides_for_new_connections() {
    let yaml = |protocols: &str| {
        format!("listeners: [{{address: \"127.0.0.1:0\", protocols: [{protocols}]}}]\nroutes: [{{respond: {{body: here}}}}]")
    };
    let gateway = Gateway::start(&yaml("h2"));
    run(async {
        let mut before = Http2::connect(gateway.address()).await;
        assert_eq!(before.get("/").await.text(), "here");
        gateway.reload(&yaml("http1"));
        assert_eq!(before.get("/").await.text(), "here", "what is there stays");
    });
    let mut after = Raw::connect(gateway.address());
    assert_eq!(after.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response().status, 200);
}

/// One request in flight, one connection that waits: the one is answered, the other ends, and so does the process.
#[test]
fn a_process_that_leaves_finishes_what_has_begun() {
    let origin = Origin::start(|_| {
        vec![Step::Hold, Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere".to_vec())]
    });
    let mut gateway = gateway(&format!(
        "linger: 200ms\nroutes: [{{path: /held, upstream: \"{}\"}}, {{path: /, respond: {{body: own}}}}]",
        origin.url()
    ));
    run(async {
        let mut waiting = Http2::connect(gateway.address()).await;
        assert_eq!(waiting.get("/").await.text(), "own");
        let mut busy = Http2::connect(gateway.address()).await;
        let mut send = busy.send.clone().ready().await.unwrap();
        let (answer, _) = send.send_request(get("/held"), true).unwrap();
        busy.send = busy.send.ready().await.unwrap();
        until_async(|| origin.received().len() == 1).await;
        gateway.signal("TERM");
        assert_eq!(waiting.end().await, None, "GOAWAY without an error, then the end");
        // Told to go, but not cut off.
        until_async(|| gateway.log().iter().any(|line| line.contains("requests in flight: 1"))).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert!(!busy.driver.is_finished());
        origin.release();
        assert_eq!(whole(answer.await.unwrap()).await.unwrap().text(), "here");
        drop(send);
        assert_eq!(busy.end().await, None);
    });
    assert!(gateway.wait_exit().success());
    assert_eq!(gateway.access_log().len(), 2);
}

/// A request is over for the gateway when its answer is queued; the client has it when it takes it.
#[test]
fn a_process_that_leaves_sends_what_it_has_answered() {
    const STREAMS: u32 = 128;
    const BODY: usize = 60_000; // all of them together are more than a socket takes
    let origin = Origin::text(&"x".repeat(BODY));
    let mut gateway =
        gateway(&format!("linger: 100ms\nroutes: [{{path: /, upstream: \"{}\"}}]", origin.url()));
    let mut client = Frames::connect_with(gateway.address(), &[0, 4, 0x7F, 0xFF, 0xFF, 0xFF]);
    client.frame(frames::WINDOW_UPDATE, 0, 0, &[0x7F, 0xFF, 0, 0]);
    for n in 0..STREAMS {
        client.get(2 * n + 1, "/");
    }
    gateway.access_lines(STREAMS as usize);
    gateway.signal("TERM");
    gateway.wait_log(&["no new connections"]);
    std::thread::sleep(Duration::from_millis(1500)); // longer than it would stay for its own sake
    assert!(gateway.is_running());
    let (mut bytes, mut ends) = (0, 0);
    while let Some(frame) = client.next() {
        if frame.kind == frames::DATA {
            bytes += frame.payload.len();
            ends += u32::from(frame.flags & frames::END_STREAM != 0);
        }
    }
    assert_eq!((bytes, ends), (BODY * STREAMS as usize, STREAMS));
    assert!(gateway.wait_exit().success());
}

/// Waits for a condition without keeping the clients from what they do.
async fn until_async(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_request_that_is_cut_off_has_a_line() {
    let origin = Origin::start(|_| vec![Step::Hold]);
    let mut gateway = gateway(&format!(
        "linger: 0s\ngrace_period: 300ms\nroutes: [{{path: /, upstream: \"{}\"}}]",
        origin.url()
    ));
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let mut send = client.send.clone().ready().await.unwrap();
        let (answer, _) = send.send_request(get("/held"), true).unwrap();
        client.send = client.send.ready().await.unwrap();
        until_async(|| origin.received().len() == 1).await;
        gateway.signal("TERM");
        assert!(answer.await.is_err());
    });
    gateway.wait_exit();
    let lines = gateway.access_lines(1);
    assert_eq!((&lines[0]["status"], &lines[0]["error"]), (&503.into(), &"cut_off".into()));
    assert_eq!((&lines[0]["path"], &lines[0]["attempts"]), (&"/held".into(), &1.into()));
}

#[test]
fn a_connection_that_waits_too_long_or_had_enough_requests_ends() {
    let with =
        |limits: &str| gateway(&format!("limits: {{{limits}}}\nroutes: [{{respond: {{body: here}}}}]"));
    let gateway = with("idle_timeout: 300ms");
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        client.get("/").await;
        let began = Instant::now();
        let Http2 { send, driver } = client;
        assert!(driver.await.unwrap().is_ok());
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        drop(send);
    });
    // One that answers nothing, too.
    let mut silent = Frames::connect(gateway.address());
    assert_eq!(silent.end(), Some(0));
    let gateway = with("requests_per_connection: 2");
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        assert_eq!(client.get("/").await.status, 200);
        assert_eq!(client.get("/").await.status, 200);
        assert_eq!(client.end().await, None);
    });
}

#[test]
fn more_streams_than_allowed_are_refused_each_by_itself() {
    let origin = Origin::start(|_| vec![Step::Hold]);
    let gateway =
        gateway(&format!("limits: {{h2_streams: 2}}\nroutes: [{{path: /, upstream: \"{}\"}}]", origin.url()));
    let mut client = Frames::connect(gateway.address());
    let settings = client.next_of(frames::SETTINGS).unwrap();
    assert!(settings.payload.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 2]), "{settings:?}");
    for stream in [1, 3, 5] {
        client.get(stream, "/");
    }
    assert_eq!(client.outcome(5), "reset 7");
    origin.wait_count(2);
}

// Attacks: each ends its connection at a bounded cost, and neighbours are served meanwhile

/// What a gateway under attack may take more than before, in KiB.
const ROOM: u64 = 24 << 10;

/// Repeats what an attacker does until the gateway takes no more of it, with a neighbour served in the midst; how the
/// connection ends. What the gateway sends is not read before.
fn attack(
    gateway: &Gateway,
    client: &mut Frames,
    mut blow: impl FnMut(&mut Frames, u32) -> bool,
) -> Option<u32> {
    let before = gateway.rss_kib();
    let mut blows = 0;
    let began = Instant::now();
    while blow(client, blows) {
        blows += 1;
        assert!(blows < 2_000_000 && began.elapsed() < kit::DEADLINE, "still taken after {blows}");
        if blows % 500 == 0 {
            served(gateway);
            if client.has_goaway() {
                break;
            }
        }
    }
    served(gateway);
    let grown = gateway.rss_kib().saturating_sub(before);
    assert!(grown < ROOM, "{grown} KiB more");
    client.end()
}

fn served(gateway: &Gateway) {
    let answer = Raw::connect(gateway.address()).send("GET /own HTTP/1.1\r\nHost: t\r\n\r\n").response();
    assert_eq!(answer.status, 200);
}

/// A gateway to attack, in front of an upstream that takes its time.
fn victim(limits: &str) -> (Origin, Gateway) {
    let origin = Origin::on_head(|_| vec![Step::Hold]);
    let gateway = gateway(&format!(
        "limits: {{{limits}}}\nroutes: [{{path: /own, respond: {{body: own}}}}, {{path: /, upstream: \"{}\"}}]",
        origin.url()
    ));
    (origin, gateway)
}

/// CVE-2023-44487.
#[test]
fn rapid_reset_ends_the_connection() {
    let (origin, gateway) = victim("");
    let mut client = Frames::connect(gateway.address());
    let get = frames::get("/");
    let end = attack(&gateway, &mut client, |client, n| {
        let headers =
            frames::frame(frames::HEADERS, frames::END_HEADERS | frames::END_STREAM, 2 * n + 1, &get);
        let reset = frames::frame(frames::RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8]);
        client.bytes(&[headers, reset].concat())
    });
    assert_eq!(end, Some(frames::ENHANCE_YOUR_CALM));
    assert!(origin.received().len() <= 300, "{} requests upstream", origin.received().len());
    until("the upstream is let go", || origin.open() == 0);
    // Whatever was begun has its line; a few may have been reset before they were taken up.
    until("lines", || {
        gateway.access_log().iter().filter(|line| line["status"] == 499).count() >= origin.received().len()
    });
}

/// The same by a patient client: each request is taken up, and goes upstream, before it is reset.
#[test]
fn patient_resets_end_the_connection() {
    let (origin, gateway) = victim("");
    let mut client = Frames::connect(gateway.address());
    let get = frames::get("/");
    let end = attack(&gateway, &mut client, |client, n| {
        let streams = || (100 * n..100 * n + 50).map(|n| 2 * n + 1);
        let requests: Vec<u8> = streams()
            .flat_map(|id| frames::frame(frames::HEADERS, frames::END_HEADERS | frames::END_STREAM, id, &get))
            .collect();
        let sent = client.bytes(&requests);
        if n < 5 {
            origin.wait_count(50 * (n as usize + 1));
        }
        std::thread::sleep(Duration::from_millis(20));
        let resets: Vec<u8> =
            streams().flat_map(|id| frames::frame(frames::RST_STREAM, 0, id, &[0, 0, 0, 8])).collect();
        sent && client.bytes(&resets) && !client.has_goaway()
    });
    assert_eq!(end, Some(frames::ENHANCE_YOUR_CALM));
    assert!(origin.received().len() <= 350, "{} requests upstream", origin.received().len());
    let log = gateway.log();
    assert!(
        log.iter().any(|line| line.contains("connection from 127.0.0.1 ended: too many resets")),
        "{log:?}"
    );
}

#[test]
fn a_head_without_an_end_ends_the_connection() {
    let (_origin, gateway) = victim("header_timeout: 500ms");
    // Endless,
    for piece in [&[0, 1, b'x', 1, b'y'][..], b"", &[0; 16_384]] {
        let mut client = Frames::connect(gateway.address());
        client.frame(frames::HEADERS, frames::END_STREAM, 1, &frames::get("/"));
        let end = attack(&gateway, &mut client, |client, _| client.frame(frames::CONTINUATION, 0, 1, piece));
        assert!(matches!(end, Some(1 | 9 | frames::ENHANCE_YOUR_CALM)), "{end:?}");
    }
    // growing by references to what is large (RFC 7541 §7.3),
    let mut client = Frames::connect(gateway.address());
    let mut bomb = frames::get("/");
    bomb.extend_from_slice(&[0x40, 1, b'x', 127, 0xA1, 0x1E]); // into the table: a value of 4,000 bytes
    bomb.extend_from_slice(&[b'y'; 4_000]);
    bomb.extend_from_slice(&[0xBE; 10_000]); // and again, 10,000 times
    client.frame(frames::HEADERS, frames::END_STREAM | frames::END_HEADERS, 1, &bomb);
    assert_eq!(client.end(), Some(frames::ENHANCE_YOUR_CALM));
    // or slow.
    let began = Instant::now();
    let mut client = Frames::connect(gateway.address());
    client.frame(frames::HEADERS, frames::END_STREAM, 1, &frames::get("/"));
    assert_eq!(client.end(), Some(frames::ENHANCE_YOUR_CALM));
    assert!(began.elapsed() < Duration::from_secs(5));
    until("its line", || gateway.access_log().iter().any(|line| line["error"] == "slow_head"));
    served(&gateway);
}

#[test]
fn floods_of_frames_that_carry_nothing_end_the_connection() {
    let (_origin, gateway) = victim("");
    let floods: [(u8, u32, &[u8]); 6] = [
        (frames::PING, 0, &[0; 8]),
        (frames::SETTINGS, 0, &[]),
        (frames::SETTINGS, 0, &[0, 1, 0, 0, 16, 0, 0, 4, 0, 1, 0, 0]),
        (frames::PRIORITY, 1, &[0, 0, 0, 3, 0]),
        (frames::WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
        (0x42, 1, &[0; 16_384]),
    ];
    for (kind, stream, payload) in floods {
        let mut client = Frames::connect(gateway.address());
        let blow = frames::frame(kind, 0, stream, payload).repeat(10);
        let end = attack(&gateway, &mut client, |client, _| client.bytes(&blow));
        assert_eq!(end, Some(frames::ENHANCE_YOUR_CALM), "{kind}");
    }
}

#[test]
fn floods_of_empty_and_tiny_data_end_the_connection() {
    let (origin, gateway) = victim("");
    for payload in [&b""[..], b"a"] {
        let mut client = Frames::connect(gateway.address());
        client.frame(frames::HEADERS, frames::END_HEADERS, 1, &frames::request("POST", "/", &[]));
        origin.wait_count(1);
        let end = attack(&gateway, &mut client, |client, _| client.frame(frames::DATA, 0, 1, payload));
        // A body that nobody takes fills its window in the end.
        assert!(matches!(end, Some(3 | frames::ENHANCE_YOUR_CALM)), "{end:?}");
    }
}

#[test]
fn streams_that_are_refused_on_and_on_end_the_connection() {
    let (_origin, gateway) = victim("h2_streams: 4");
    let mut client = Frames::connect(gateway.address());
    let end = attack(&gateway, &mut client, |client, n| client.get(2 * n + 1, "/"));
    assert_eq!(end, Some(frames::ENHANCE_YOUR_CALM));
    let mut client = Frames::connect(gateway.address());
    let bad = frames::request("GET", "/", &[("connection", "close")]);
    let end = attack(&gateway, &mut client, |client, n| {
        client.frame(frames::HEADERS, frames::END_HEADERS | frames::END_STREAM, 2 * n + 1, &bad)
    });
    assert_eq!(end, Some(frames::ENHANCE_YOUR_CALM));
}

/// CVE-2025-8671: a client that has its streams reset, by errors of its own, once they are upstream.
#[test]
fn streams_that_the_gateway_is_made_to_reset_end_the_connection() {
    let (origin, gateway) = victim("");
    let mut client = Frames::connect(gateway.address());
    let get = frames::get("/");
    let end = attack(&gateway, &mut client, |client, n| {
        let id = 2 * n + 1;
        let headers = frames::frame(frames::HEADERS, frames::END_HEADERS | frames::END_STREAM, id, &get);
        let nonsense = frames::frame(frames::WINDOW_UPDATE, 0, id, &[0; 4]);
        if n % 50 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        client.bytes(&[headers, nonsense].concat())
    });
    assert!(matches!(end, Some(1 | frames::ENHANCE_YOUR_CALM)), "{end:?}");
    assert!(origin.received().len() <= 1_300, "{} requests upstream", origin.received().len());
    until("the upstream is let go", || origin.open() == 0);
}

/// Answers that the client gives no window for.
#[test]
fn streams_without_a_window_end_in_time() {
    let (_origin, gateway) = victim("write_timeout: 500ms");
    let mut client = Frames::connect_with(gateway.address(), &[0, 4, 0, 0, 0, 0]);
    for n in 0..100 {
        client.get(2 * n + 1, "/own");
    }
    served(&gateway);
    let lines = gateway.access_lines(101);
    assert_eq!(lines.iter().filter(|line| line["status"] == 200).count(), 101, "the heads were sent");
    assert_eq!(lines.iter().filter(|line| line["error"] == "client_gone").count(), 100);
    assert!(client.next_of(frames::RST_STREAM).is_some());
}

/// A client that takes no bytes at all.
#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let bulk = vec![b'x'; 20 << 20];
    let origin = Origin::start(move |_| {
        vec![Step::Send([&b"HTTP/1.1 200 OK\r\nContent-Length: 20971520\r\n\r\n"[..], &bulk].concat())]
    });
    let gateway = gateway(&format!(
        "limits: {{write_timeout: 500ms, idle_timeout: 500ms}}
routes: [{{path: /own, respond: {{body: own}}}}, {{path: /, upstream: \"{}\"}}]",
        origin.url()
    ));
    let before = gateway.rss_kib();
    // Windows as large as they can be.
    let mut client = Frames::connect_with(gateway.address(), &[0, 4, 0x7F, 0xFF, 0xFF, 0xFF]);
    client.frame(frames::WINDOW_UPDATE, 0, 0, &[0x7F, 0xFF, 0, 0]);
    for n in 0..10 {
        client.get(2 * n + 1, "/");
    }
    served(&gateway);
    let lines = gateway.access_lines(11);
    assert_eq!(lines.iter().filter(|line| line["error"] == "client_gone").count(), 10);
    assert!(gateway.rss_kib() < before + ROOM);
    while client.next().is_some() {} // what was on its way, and then the end
}
