//! HTTP/2 of clients: what they get, what is refused, and how it ends.

mod kit;

use bytes::Bytes;
use http::Request;
use kit::http2::{get, run, send_all, whole};
use kit::origin::{raw, reply};
use kit::{until, Gateway, Http2, Origin, Raw, Step};
use std::process::Command;
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
fn bodies_pass_both_ways_at_the_speed_of_the_slower_side() {
    let origin = Origin::start(|request| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len());
        vec![Step::Send([head.as_bytes(), &request.body].concat())]
    });
    let gateway = before(&origin);
    let body: Vec<u8> = (0..5_000_000_u32).map(|n| (n * 31 >> 3) as u8).collect();
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
    let lines = gateway.access_lines(10);
    assert_eq!(lines.len(), 10);
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
