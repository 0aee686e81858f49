//! HTTP/2 to upstreams: what goes there, what comes back, how connections are shared, and what becomes of failures.

mod kit;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response};
use kit::certs::Authority;
use kit::http2::{get, run, whole};
use kit::http2_origin::Asked;
use kit::secure::server;
use kit::{until, Gateway, Http2, Http2Origin, Origin, Raw, Secure};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const BOTH: &str = "listeners: [{address: \"127.0.0.1:0\", protocols: [h2, http1]}]\n";
const LOG: &str = "access_log: {path: $FOLDER/access.log}\n";

fn yaml(targets: &[&str], upstream: &str, route: &str) -> String {
    let targets: Vec<String> = targets.iter().map(|target| format!("\"{target}\"")).collect();
    format!(
        "{BOTH}{LOG}upstreams:\n  app:\n    targets: [{}]\n{upstream}\nroutes: [{{path: /, upstream: app{route}}}]\n",
        targets.join(", ")
    )
}

/// A gateway in front of this origin, by prior knowledge.
fn before(origin: &Http2Origin) -> Gateway {
    Gateway::start(&yaml(&[&origin.target()], "    protocol: h2c", ""))
}

async fn until_async(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + kit::DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn field<'a>(head: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut all = head.get_all(name).iter();
    let first = all.next().map(|value| value.to_str().unwrap());
    assert!(all.next().is_none(), "{name} stands twice: {head:?}");
    first
}

/// An origin behind TLS that agrees to these protocols.
fn secured(origin: std::net::SocketAddr, agreed: &[&str]) -> (Secure, tempfile::TempDir, String) {
    let (ca, folder) = (Authority::new("Test CA"), tempfile::tempdir().unwrap());
    ca.write(folder.path(), "ca.pem");
    let mut config = server(&ca.leaf(&["app.internal"]), None);
    config.alpn_protocols = agreed.iter().map(|name| name.as_bytes().to_vec()).collect();
    let tls = format!("    tls: {{ca: {}, sni: app.internal}}", folder.path().join("ca.pem").display());
    (Secure::start(origin, config), folder, tls)
}

// What goes there

#[test]
fn a_request_is_one_of_http_2_whatever_the_client_speaks() {
    let origin = Http2Origin::text("here");
    let gateway = before(&origin);
    let mut client = Raw::connect(gateway.address());
    let request = "POST /a/../b?c=d HTTP/1.1\r\nHost: Shop.Test:81\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers, deflate\r\nX-Own: mine\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
    let response = client.send(request).response();
    assert_eq!((response.status, response.text().as_str()), (200, "here"));
    assert_eq!(response.field("transfer-encoding"), Some("chunked"));
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let request =
            Request::get("http://Shop.Test:81/b?c=d").header("te", "trailers").header("x-own", "mine");
        let answer = client.exchange(request.body(()).unwrap(), b"").await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "here"));
        assert!(answer.field("transfer-encoding").is_none(), "{answer:?}");
    });
    let heads = origin.heads();
    for (head, via, te) in
        [(&heads[0], "1.1 portcullis", None), (&heads[1], "2.0 portcullis", Some("trailers"))]
    {
        assert_eq!(head.uri.to_string(), "http://Shop.Test:81/b?c=d");
        assert_eq!(field(&head.headers, "via"), Some(via));
        assert_eq!(field(&head.headers, "te"), te);
        assert_eq!(field(&head.headers, "x-own"), Some("mine"));
        assert_eq!(field(&head.headers, "x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(field(&head.headers, "x-forwarded-host"), Some("Shop.Test:81"));
        for name in ["host", "connection", "keep-alive", "x-hop", "transfer-encoding", "upgrade"] {
            assert_eq!(field(&head.headers, name), None, "{name}");
        }
    }
}

#[test]
fn a_rewritten_host_is_the_authority() {
    let origin = Http2Origin::text("here");
    let yaml = yaml(&[&origin.target()], "    protocol: h2c", ", rewrite: {host: inner.test, prefix: /v2}");
    let gateway = Gateway::start(&yaml);
    assert_eq!(kit::raw::get(gateway.address(), "/a?b").status, 200);
    assert_eq!(origin.heads()[0].uri.to_string(), "http://inner.test/v2/a?b");
}

#[test]
fn tls_agrees_on_the_protocol() {
    for protocol in ["h2", "auto"] {
        let origin = Http2Origin::text("two");
        let (secure, _folder, tls) = secured(origin.address, &["h2", "http/1.1"]);
        let gateway =
            Gateway::start(&yaml(&[&secure.target()], &format!("    protocol: {protocol}\n{tls}"), ""));
        for _ in 0..3 {
            assert_eq!(kit::raw::get(gateway.address(), "/").text(), "two", "{protocol}");
        }
        let shaken = secure.shaken();
        assert_eq!((shaken.len(), shaken[0].alpn.as_deref()), (1, Some(&b"h2"[..])), "{protocol}");
        assert_eq!(origin.heads()[0].uri.scheme_str(), Some("https"));
    }
}

#[test]
fn auto_is_http_1_where_the_target_wants_that() {
    for agreed in [&["http/1.1"][..], &[]] {
        let origin = Origin::text("one");
        let (secure, _folder, tls) = secured(origin.address, agreed);
        let gateway = Gateway::start(&yaml(&[&secure.target()], &format!("    protocol: auto\n{tls}"), ""));
        for _ in 0..3 {
            assert_eq!(kit::raw::get(gateway.address(), "/").text(), "one");
        }
        assert_eq!(origin.received().len(), 3);
        assert!(origin.received().iter().all(|asked| asked.line() == "GET / HTTP/1.1"));
        assert!(secure.shaken().iter().all(|shaken| shaken.alpn.as_deref() != Some(b"h2")));
    }
}

#[test]
fn h2_is_nothing_else() {
    for agreed in [&["http/1.1"][..], &[]] {
        let origin = Origin::text("one");
        let (secure, _folder, tls) = secured(origin.address, agreed);
        let gateway = Gateway::start(&yaml(
            &[&secure.target()],
            &format!("    protocol: h2\n{tls}\n    health_check: {{path: /, unhealthy_after: 1}}"),
            "",
        ));
        let response = kit::raw::get(gateway.address(), "/");
        assert_eq!((response.status, response.problem().as_str()), (503, "no_healthy_target"));
        gateway.wait_log(&["is unhealthy: "]);
        let gateway = Gateway::start(&yaml(&[&secure.target()], &format!("    protocol: h2\n{tls}"), ""));
        let response = kit::raw::get(gateway.address(), "/");
        assert_eq!(response.status, 502, "{response:?}");
        assert!(origin.received().is_empty());
    }
}

#[test]
fn an_upgrade_is_asked_for_where_it_can_be() {
    let ask = "GET /chat HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // HTTP/2 has no `Upgrade`: the request is an ordinary one there, as a server may take any (RFC 9110 §7.8).
    let origin = Http2Origin::text("no socket");
    let gateway = before(&origin);
    let response = Raw::connect(gateway.address()).send(ask).response();
    assert_eq!((response.status, response.text().as_str()), (200, "no socket"));
    assert_eq!(field(&origin.heads()[0].headers, "upgrade"), None);
    // With `auto` HTTP/1.1 is asked for.
    let origin = Origin::start(|_| {
        kit::origin::raw("HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    });
    let (secure, _folder, tls) = secured(origin.address, &["h2", "http/1.1"]);
    let gateway = Gateway::start(&yaml(&[&secure.target()], &format!("    protocol: auto\n{tls}"), ""));
    let response = Raw::connect(gateway.address()).send(ask).response();
    assert_eq!(response.status, 101);
    assert_eq!(secure.shaken()[0].alpn.as_deref(), Some(&b"http/1.1"[..]));
}

// What comes back

#[test]
fn trailers_pass_from_end_to_end() {
    let origin = Http2Origin::start(|mut asked: Asked| async move {
        let _ = asked.whole().await;
        let mut head = Response::new(());
        head.headers_mut().insert("trailer", "x-sum".parse().unwrap());
        let mut send = asked.respond.send_response(head, false).unwrap();
        send.send_data(Bytes::from_static(b"content"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "42".parse().unwrap());
        trailers.append("x-many", "a".parse().unwrap());
        trailers.append("x-many", "b".parse().unwrap());
        send.send_trailers(trailers).unwrap();
    });
    let gateway = before(&origin);
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let answer = client.get("/").await;
        assert_eq!(answer.text(), "content");
        assert_eq!(answer.field("trailer"), Some("x-sum"));
        let trailers = answer.trailers.unwrap();
        assert_eq!(trailers["x-sum"], "42");
        assert_eq!(trailers.get_all("x-many").iter().collect::<Vec<_>>(), ["a", "b"]);
    });
    // A client of HTTP/1.1 has the content whole.
    let response = kit::raw::get(gateway.address(), "/");
    assert_eq!(response.text(), "content");
    assert_eq!(response.field("trailer"), None);
}

#[test]
fn answers_without_content_have_none() {
    let origin = Http2Origin::start(|mut asked: Asked| async move {
        let status = asked.head.uri.path().trim_start_matches('/').parse::<u16>().unwrap();
        asked.respond.send_response(Response::builder().status(status).body(()).unwrap(), true).unwrap();
    });
    let gateway = before(&origin);
    for status in [200, 204, 304, 404] {
        let mut client = Raw::connect(gateway.address());
        for method in ["GET", "HEAD", "GET"] {
            let response = client
                .send(format!("{method} /{status} HTTP/1.1\r\nHost: t\r\n\r\n"))
                .one_response(method)
                .unwrap();
            assert_eq!((response.status, response.text().as_str()), (status, ""), "{method}");
        }
    }
}

/// HTTP/1.0 knows no chunks, in which the engine would write an answer of unknown length.
#[test]
fn a_client_of_http_1_0_has_answers_of_known_length_only() {
    let origin = Http2Origin::start(|mut asked: Asked| async move {
        let known = asked.head.uri.path() == "/known";
        let head = Response::builder();
        let head = if known { head.header("content-length", 4) } else { head };
        let mut send = asked.respond.send_response(head.body(()).unwrap(), false).unwrap();
        send.send_data(Bytes::from_static(b"here"), true).unwrap();
    });
    let gateway = before(&origin);
    let mut client = Raw::connect(gateway.address());
    let known = client.send("GET /known HTTP/1.0\r\nHost: t\r\n\r\n").response();
    assert_eq!((known.status, known.text().as_str()), (200, "here"));
    let mut client = Raw::connect(gateway.address());
    let unknown = client.send("GET / HTTP/1.0\r\nHost: t\r\n\r\n").response();
    assert_eq!((unknown.status, unknown.problem().as_str()), (505, "version_unsupported"));
}

/// Both ways at once, a piece at a time, nothing held back.
#[test]
fn a_stream_goes_both_ways() {
    let origin = Http2Origin::start(echo);
    let gateway = before(&origin);
    run(async {
        let client = Http2::connect(gateway.address()).await;
        let mut send = client.send.clone().ready().await.unwrap();
        let (answer, mut up) =
            send.send_request(Request::post("http://test/").body(()).unwrap(), false).unwrap();
        let mut down = answer.await.unwrap().into_body();
        for round in 0..100 {
            let piece = Bytes::from(format!("piece {round}"));
            up.send_data(piece.clone(), false).unwrap();
            assert_eq!(down.data().await.unwrap().unwrap(), piece);
            let _ = down.flow_control().release_capacity(piece.len());
        }
        up.send_data(Bytes::new(), true).unwrap();
        while let Some(piece) = down.data().await {
            assert!(piece.unwrap().is_empty());
        }
    });
}

/// Sends back what comes, as it comes.
async fn echo(mut asked: Asked) {
    let mut send = asked.respond.send_response(Response::new(()), false).unwrap();
    while let Some(Ok(piece)) = asked.body.data().await {
        let _ = asked.body.flow_control().release_capacity(piece.len());
        let mut rest = piece;
        while !rest.is_empty() {
            send.reserve_capacity(rest.len());
            let Some(Ok(room)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return };
            if send.send_data(rest.split_to(room.min(rest.len())), false).is_err() {
                return;
            }
        }
    }
    let _ = send.send_data(Bytes::new(), true);
}

#[test]
fn large_bodies_pass_both_ways() {
    let origin = Http2Origin::start(echo);
    let gateway = Gateway::start(&yaml(&[&origin.target()], "    protocol: h2c", ", max_body: 64MiB"));
    let body: Bytes = (0..3_000_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let request = Request::post("http://test/").body(()).unwrap();
        let answer = client.exchange(request, &body).await.unwrap();
        assert!(answer.body == body);
    });
}

#[test]
fn a_client_that_waits_for_a_100_gets_one() {
    let origin = Http2Origin::start(echo);
    let gateway = before(&origin);
    let mut client = Raw::connect(gateway.address());
    client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    client.wait_text("HTTP/1.1 100");
    let response = client.send("body").response();
    assert_eq!((response.status, response.text().as_str()), (200, "body"));
    assert_eq!(field(&origin.heads()[0].headers, "expect"), None);
}

// How connections are shared

#[test]
fn many_requests_share_few_connections() {
    let (origin, gate) = held();
    let gateway = before(&origin);
    run(async {
        let client = Http2::connect(gateway.address()).await;
        let mut answers = Vec::new();
        // One after the other: two that look for a connection at the same moment may have one each.
        for nth in 1..=61 {
            let mut send = client.send.clone().ready().await.unwrap();
            answers.push(send.send_request(get("/"), true).unwrap().0);
            until_async("it has come", || origin.heads().len() == nth).await;
        }
        gate.store(true, Ordering::SeqCst);
        for answer in answers {
            assert_eq!(whole(answer.await.unwrap()).await.unwrap().text(), "late");
        }
        assert_eq!(origin.connections(), 1);
    });
    assert_eq!(gateway.access_lines(61).iter().filter(|line| line["reused"] == true).count(), 60);
}

#[test]
fn a_target_that_takes_few_at_once_has_more_connections() {
    let gate = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&gate);
    let mut few = h2::server::Builder::new();
    few.max_concurrent_streams(2);
    let origin = Http2Origin::with(few, move |asked: Asked| {
        let gate = Arc::clone(&theirs);
        async move {
            let free = asked.head.uri.path() == "/free";
            until_async("it may answer", || free || gate.load(Ordering::SeqCst)).await;
            asked.answer("late").await;
        }
    });
    let gateway = before(&origin);
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let mut answers = Vec::new();
        for expected in 1..=7 {
            // So the gateway has heard of what the target takes before it sends the next one.
            assert_eq!(client.get("/free").await.text(), "late");
            let mut send = client.send.clone().ready().await.unwrap();
            answers.push(send.send_request(get("/held"), true).unwrap().0);
            until_async("it has come", || origin.heads().len() == 2 * expected).await;
        }
        gate.store(true, Ordering::SeqCst);
        for answer in answers {
            assert_eq!(whole(answer.await.unwrap()).await.unwrap().text(), "late");
        }
    });
    assert!(origin.connections() >= 4, "{}", origin.connections());
}

/// An origin that answers once it may.
fn held() -> (Http2Origin, Arc<AtomicBool>) {
    let gate = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&gate);
    let origin = Http2Origin::start(move |asked: Asked| {
        let gate = Arc::clone(&theirs);
        async move {
            until_async("it may answer", || gate.load(Ordering::SeqCst)).await;
            asked.answer("late").await;
        }
    });
    (origin, gate)
}

#[test]
fn a_socket_can_be_spoken_to_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Http2Origin::text("here");
    let socket = kit::relay::Socket::start(&folder.path().join("app.sock"), origin.address);
    let gateway = Gateway::start(&yaml(&[&socket.target()], "    protocol: h2c", ""));
    for _ in 0..5 {
        assert_eq!(kit::raw::get(gateway.address(), "/").text(), "here");
    }
    // One that is just being given back is not there for the next request.
    assert!(socket.connections() < 5, "{}", socket.connections());
}

#[test]
fn an_unused_connection_is_closed_in_time() {
    let origin = Http2Origin::text("here");
    let gateway =
        Gateway::start(&yaml(&[&origin.target()], "    protocol: h2c\n    timeouts: {idle: 300ms}", ""));
    assert_eq!(kit::raw::get(gateway.address(), "/").status, 200);
    until("it is closed", || origin.open() == 0);
    assert_eq!(kit::raw::get(gateway.address(), "/").status, 200);
    assert_eq!(origin.connections(), 2);
}

#[test]
fn a_reload_changes_the_protocol() {
    let (two, one) = (Http2Origin::text("two"), Origin::text("one"));
    let gateway = Gateway::start(&yaml(&[&two.target()], "    protocol: h2c", ""));
    assert_eq!(kit::raw::get(gateway.address(), "/").text(), "two");
    let line = gateway.reload(&yaml(&[&one.address.to_string()], "", ""));
    assert!(line.contains("reloaded"), "{line}");
    assert_eq!(kit::raw::get(gateway.address(), "/").text(), "one");
}

// Failures

#[test]
fn a_refused_stream_goes_elsewhere_whatever_its_method() {
    let refusing = Http2Origin::start(|asked: Asked| async move { asked.reset(Reason::REFUSED_STREAM) });
    let good = Http2Origin::start(echo);
    let gateway = Gateway::start(&yaml(&[&refusing.target(), &good.target()], "    protocol: h2c", ""));
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        for _ in 0..4 {
            let request = Request::post("http://test/").body(()).unwrap();
            let answer = client.exchange(request, b"content").await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "content"));
        }
    });
    assert!(!refusing.heads().is_empty());
}

/// Others may have been looked at.
#[test]
fn a_stream_that_is_reset_goes_elsewhere_only_if_it_may_be_repeated() {
    let broken = Http2Origin::start(|asked: Asked| async move { asked.reset(Reason::INTERNAL_ERROR) });
    let good = Http2Origin::text("good");
    let gateway = Gateway::start(&yaml(&[&broken.target(), &good.target()], "    protocol: h2c", ""));
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let mut statuses = Vec::new();
        for _ in 0..2 {
            let request = Request::post("http://test/").body(()).unwrap();
            let answer = client.exchange(request, b"content").await.unwrap();
            statuses.push(answer.status);
            assert_eq!(client.get("/").await.text(), "good");
        }
        assert!(statuses.contains(&502), "{statuses:?}");
    });
    let lines = gateway.access_lines(4);
    assert!(lines.iter().any(|line| line["error"] == "upstream_broke"), "{lines:?}");
}

/// A connection that ends in order fails nothing: what came too late for it goes over another one.
#[test]
fn a_target_that_leaves_fails_no_request() {
    let origin = Http2Origin::start(echo);
    let gateway = before(&origin);
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        for round in 0..40 {
            if round % 4 == 0 {
                origin.leave();
            }
            let request = Request::post("http://test/").body(()).unwrap();
            let answer = client.exchange(request, b"content").await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "content"), "round {round}");
        }
    });
    assert!(origin.connections() > 5);
}

#[test]
fn an_answer_that_breaks_off_is_no_whole_one() {
    let origin = Http2Origin::start(|mut asked: Asked| async move {
        let mut send = asked.respond.send_response(Response::new(()), false).unwrap();
        send.send_data(Bytes::from_static(b"half"), false).unwrap();
        // The piece is on its way before the reset can overtake it.
        tokio::time::sleep(Duration::from_millis(50)).await;
        send.send_reset(Reason::INTERNAL_ERROR);
    });
    let gateway = before(&origin);
    run(async {
        let client = Http2::connect(gateway.address()).await;
        let mut send = client.send.clone().ready().await.unwrap();
        let (answer, _) = send.send_request(get("/"), true).unwrap();
        let broken = whole(answer.await.unwrap()).await.unwrap_err();
        assert_eq!(broken.reason(), Some(Reason::INTERNAL_ERROR));
    });
    assert_eq!(gateway.access_lines(1)[0]["error"], "upstream_broke");
}

#[test]
fn who_does_not_speak_it_is_a_broken_upstream() {
    let origin = Origin::text("one");
    let gateway = Gateway::start(&yaml(&[&origin.address.to_string()], "    protocol: h2c", ""));
    let response = kit::raw::get(gateway.address(), "/");
    assert_eq!((response.status, response.problem().as_str()), (502, "upstream_broke"));
}

#[test]
fn time_runs_for_a_target_of_http_2_too() {
    let (origin, _gate) = held();
    let upstream = "    protocol: h2c\n    timeouts: {read: 300ms}";
    let silent = Gateway::start(&yaml(&[&origin.target()], upstream, ""));
    let response = kit::raw::get(silent.address(), "/");
    assert_eq!((response.status, response.problem().as_str()), (504, "upstream_timeout"));
    let whole = Gateway::start(&yaml(&[&origin.target()], "    protocol: h2c", ", timeout: 300ms"));
    let response = kit::raw::get(whole.address(), "/");
    assert_eq!((response.status, response.problem().as_str()), (504, "exchange_timeout"));
}

/// Who takes nothing of a body is not waited for any longer than `write` says.
#[test]
fn a_target_that_takes_nothing_is_given_up() {
    let origin = Http2Origin::start(|asked: Asked| async move {
        std::future::pending::<()>().await;
        drop(asked);
    });
    let upstream = "    protocol: h2c\n    timeouts: {write: 300ms}";
    let gateway = Gateway::start(&yaml(&[&origin.target()], upstream, ", timeout: 3s"));
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let request = Request::post("http://test/").body(()).unwrap();
        let answer = client.exchange(request, &vec![7; 1_000_000]).await.unwrap();
        assert_eq!(answer.status, 504, "{}", answer.text());
    });
}

#[test]
fn a_client_that_gives_up_is_heard_of_at_the_target() {
    let (told, mut hears) = mpsc::unbounded_channel();
    let origin = Http2Origin::start(move |mut asked: Asked| {
        let told = told.clone();
        async move {
            let mut send = asked.respond.send_response(Response::new(()), false).unwrap();
            let _ = told.send(std::future::poll_fn(|cx| send.poll_reset(cx)).await.ok());
        }
    });
    let gateway = before(&origin);
    run(async {
        let client = Http2::connect(gateway.address()).await;
        for done in [true, false] {
            let mut send = client.send.clone().ready().await.unwrap();
            let (answer, mut up) = send.send_request(get("/"), done).unwrap();
            let _down = answer.await.unwrap();
            up.send_reset(Reason::CANCEL);
            assert_eq!(hears.recv().await.unwrap(), Some(Reason::CANCEL));
        }
    });
    assert_eq!(gateway.access_lines(2)[0]["error"], "client_gone");
}

#[test]
fn a_dead_connection_is_found_by_its_pings() {
    // It takes the connection and the request, and never says anything, not even that it hears.
    let (listener, address) = kit::origin::silent();
    let upstream = "    protocol: h2c\n    keepalive: {ping: 100ms}";
    let gateway = Gateway::start(&yaml(&[&address.to_string()], upstream, ""));
    let response = kit::raw::get(gateway.address(), "/");
    assert_eq!((response.status, response.problem().as_str()), (502, "upstream_broke"));
    assert!(gateway.access_lines(1)[0]["duration_ms"].as_f64().unwrap() < 20_000.0);
    drop(listener);
}

// Checks

#[test]
fn a_check_speaks_it_too() {
    let origin = Http2Origin::text("here");
    let health = "    health_check: {path: /healthz, host: check.test, interval: 500ms, unhealthy_after: 1}"; // and no longer may a check take
    let gateway = Gateway::start(&yaml(&[&origin.target()], &format!("    protocol: h2c\n{health}"), ""));
    until("it is checked twice", || origin.heads().len() >= 2);
    assert_eq!(origin.heads()[0].uri.to_string(), "http://check.test/healthz");
    assert_eq!(kit::raw::get(gateway.address(), "/").text(), "here");
    until("none of its connections is kept", || origin.open() <= 2);
    let one = Origin::text("one");
    let gateway =
        Gateway::start(&yaml(&[&one.address.to_string()], &format!("    protocol: h2c\n{health}"), ""));
    gateway.wait_log(&["is unhealthy"]);
    assert_eq!(kit::raw::get(gateway.address(), "/").status, 503);
    let (secure, _folder, tls) = secured(origin.address, &["h2"]);
    let gateway =
        Gateway::start(&yaml(&[&secure.target()], &format!("    protocol: h2\n{tls}\n{health}"), ""));
    assert_eq!(kit::raw::get(gateway.address(), "/").text(), "here");
    assert!(origin.heads().iter().any(|head| head.uri == "https://check.test/healthz"));
}

/// A target that answers each piece with far more, and reads the next one only then: the engine takes nothing of an answer
/// while it waits to write. What comes of it is at least no whole answer, and soon over.
#[test]
fn a_target_that_answers_far_more_than_it_reads_is_cut_off() {
    let origin = Http2Origin::start(|mut asked: Asked| async move {
        let mut send = asked.respond.send_response(Response::new(()), false).unwrap();
        while let Some(Ok(piece)) = asked.body.data().await {
            let _ = asked.body.flow_control().release_capacity(piece.len());
            let mut rest = Bytes::from(vec![7; 100 * piece.len()]);
            while !rest.is_empty() {
                send.reserve_capacity(rest.len());
                let Some(Ok(room)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return };
                if send.send_data(rest.split_to(room.min(rest.len())), false).is_err() {
                    return;
                }
            }
        }
        let _ = send.send_data(Bytes::new(), true);
    });
    let upstream = "    protocol: h2c\n    timeouts: {write: 500ms, read: 1s}";
    let gateway = Gateway::start(&yaml(&[&origin.target()], upstream, ""));
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let request = Request::post("http://test/").body(()).unwrap();
        match client.exchange(request, &vec![1; 300_000]).await {
            Ok(answer) => assert_eq!((answer.status, answer.body.len()), (200, 30_000_000)),
            Err(e) => assert_eq!(e.reason(), Some(Reason::INTERNAL_ERROR)),
        }
    });
}
