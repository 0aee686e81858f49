//! Second attempts: when a request goes out again, when it must not, and where to.

mod kit;

use kit::origin::{raw, reply};
use kit::raw::exchange;
use kit::{Gateway, Origin, Raw, Step};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// An address where nothing listens; the listener keeps the port from being given to others until it is dropped.
fn refusing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    address
}

fn yaml(targets: &[&str], route: &str) -> String {
    let targets: Vec<String> = targets.iter().map(|t| format!("\"{t}\"")).collect();
    format!(
        "upstreams: {{app: {{targets: [{}]}}}}\nroutes: [{{path: /, upstream: app{route}}}]\n",
        targets.join(", ")
    )
}

/// An origin that resets every connection as soon as a request's head is there.
fn resetting() -> Origin {
    Origin::on_head(|_| vec![Step::Reset])
}

const GET: &str = "GET / HTTP/1.1\r\nHost: t\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello";

#[test]
fn a_refused_connection_goes_to_another_target_for_every_method() {
    let good = Origin::text("good");
    let gateway = Gateway::start(&yaml(&[&refusing(), &good.target()], ""));
    for request in [GET, POST, GET, POST] {
        let response = exchange(gateway.address(), request);
        assert_eq!((response.status, response.text().as_str()), (200, "good"), "{request}");
    }
    assert_eq!(good.received().iter().filter(|r| r.method() == "POST" && r.body == b"hello").count(), 2);
}

#[test]
fn a_reset_before_the_answer_goes_elsewhere_only_when_idempotent() {
    let (bad, good) = (resetting(), Origin::text("good"));
    let gateway = Gateway::start(&yaml(&[&bad.target(), &good.target()], ""));
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "GET"] {
        let body = if method == "PUT" { "Content-Length: 5\r\n\r\nhello" } else { "\r\n" };
        let response = Raw::connect(gateway.address())
            .send(format!("{method} / HTTP/1.1\r\nHost: t\r\n{body}"))
            .response_to(method);
        assert_eq!(response.status, 200, "{method}: {response:?}");
    }
    assert!(
        good.received().iter().any(|r| r.method() == "PUT" && r.body == b"hello"),
        "the body was sent again, whole"
    );
    let statuses: Vec<u16> = (0..2).map(|_| exchange(gateway.address(), POST).status).collect();
    assert!(
        statuses.contains(&502) && statuses.contains(&200),
        "a POST that may have been processed is not repeated: {statuses:?}"
    );
    assert_eq!(bad.received().iter().filter(|r| r.method() == "POST").count(), 1);
}

#[test]
fn a_kept_connection_that_closed_is_replaced_even_for_the_only_target() {
    // Answers once on each connection, and resets at the second request: the race every keep-alive client knows.
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let per_connection = std::sync::Mutex::new(std::collections::HashMap::<usize, usize>::new());
    let origin = Origin::on_head(move |r| {
        counter.fetch_add(1, Ordering::SeqCst);
        let mut counts = per_connection.lock().unwrap();
        let count = counts.entry(r.connection).or_default();
        *count += 1;
        if *count > 1 {
            vec![Step::Reset]
        } else {
            reply(200, "ok")
        }
    });
    let gateway = Gateway::start(&yaml(&[&origin.target()], ""));
    let mut client = Raw::connect(gateway.address());
    for n in 0..5 {
        let response = client.send(GET).response();
        assert_eq!(response.status, 200, "request {n}: {response:?}");
    }
    assert!(seen.load(Ordering::SeqCst) > 5, "connections were reused and broke");
}

#[test]
fn nothing_is_repeated_once_a_byte_of_the_answer_has_gone_to_the_client() {
    let half = || {
        Origin::start(|_| {
            vec![Step::Send(b"HTTP/1.1 200 X\r\nContent-Length: 100\r\n\r\nhalf".to_vec()), Step::Reset]
        })
    };
    let origins = [half(), half()];
    let gateway = Gateway::start(&yaml(&[&origins[0].target(), &origins[1].target()], ""));
    let response = exchange(gateway.address(), GET);
    assert_eq!((response.status, response.complete), (200, false));
    assert_eq!(origins[0].received().len() + origins[1].received().len(), 1);
}

#[test]
fn attempts_are_bounded_and_each_goes_to_another_target() {
    let origins: Vec<Origin> = (0..5).map(|_| resetting()).collect();
    let targets: Vec<String> = origins.iter().map(Origin::target).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let gateway = Gateway::start(&yaml(&targets, ", retry: {attempts: 3}"));
    let response = exchange(gateway.address(), GET);
    assert_eq!((response.status, response.problem().as_str()), (502, "upstream_broke"));
    let counts: Vec<usize> = origins.iter().map(|o| o.received().len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 4, "the first and three more: {counts:?}");
    assert!(counts.iter().all(|c| *c <= 1), "never the same twice: {counts:?}");
}

#[test]
fn a_route_chooses_what_is_repeated() {
    let (bad, good) = (resetting(), Origin::text("good"));
    let gateway = Gateway::start(&yaml(&[&bad.target(), &good.target()], ", retry: {on: [connect]}"));
    let statuses: Vec<u16> = (0..2).map(|_| exchange(gateway.address(), GET).status).collect();
    assert!(statuses.contains(&502), "a reset is not repeated here: {statuses:?}");
    let gateway = Gateway::start(&yaml(&[&refusing(), &good.target()], ", retry: {attempts: 0}"));
    let responses: Vec<_> = (0..2).map(|_| exchange(gateway.address(), GET)).collect();
    let refused = responses.iter().find(|r| r.status == 502).expect("no attempt after the first");
    assert_eq!(refused.problem(), "connect");
}

#[test]
fn errors_that_are_answers_are_passed_on_untouched() {
    let (first, second) = (Origin::start(|_| reply(503, "mine")), Origin::start(|_| reply(503, "mine")));
    let gateway = Gateway::start(&yaml(&[&first.target(), &second.target()], ""));
    let response = exchange(gateway.address(), GET);
    assert_eq!(
        (response.status, response.text().as_str(), response.field("content-type")),
        (503, "mine", None)
    );
    assert_eq!(first.received().len() + second.received().len(), 1);
}

#[test]
fn garbage_is_not_repeated() {
    let origins =
        [Origin::start(|_| raw("SSH-2.0-nope\r\n\r\n")), Origin::start(|_| raw("SSH-2.0-nope\r\n\r\n"))];
    let gateway = Gateway::start(&yaml(&[&origins[0].target(), &origins[1].target()], ""));
    let response = exchange(gateway.address(), GET);
    assert_eq!((response.status, response.problem().as_str()), (502, "upstream_broke"));
    assert_eq!(origins[0].received().len() + origins[1].received().len(), 1, "it may have been processed");
}

#[test]
fn a_body_larger_than_the_buffer_is_not_repeated() {
    // Resets after the whole body: it cannot be replayed, so the client must hear of it.
    let origins = [Origin::start(|_| vec![Step::Reset]), Origin::start(|_| vec![Step::Reset])];
    let gateway = Gateway::start(&yaml(&[&origins[0].target(), &origins[1].target()], ""));
    let body = "x".repeat(300_000);
    let response = exchange(
        gateway.address(),
        format!("PUT / HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
    );
    assert_eq!(response.status, 502);
    assert_eq!(origins[0].received().len() + origins[1].received().len(), 1);
}
