//! Limits of what is in flight, fixed and measured, and who is turned away first.

mod kit;

use kit::origin::reply;
use kit::raw::exchange;
use kit::{until, Gateway, Origin, Raw, Response, Step};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// An origin that holds the requests of `/held` until it is told to let go.
fn holding() -> Origin {
    Origin::start(|request| match request.target().starts_with("/held") {
        true => [vec![Step::Hold], reply(200, "done")].concat(),
        false => reply(200, "at once"),
    })
}

fn ask(address: SocketAddr, path: &str) -> Raw {
    let mut client = Raw::connect(address);
    client.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n"));
    client
}

fn refused(response: &Response, reason: &str) {
    assert_eq!((response.status, response.problem().as_str()), (503, reason), "{}", response.text());
    assert_eq!(response.field("retry-after"), Some("1"));
}

#[test]
fn a_route_has_so_many_in_flight_and_others_are_not_its_business() {
    let origin = holding();
    let yaml = |max: u32| {
        format!(
            "routes: [{{path: /held, upstream: \"{0}\", concurrency: {{max: {max}}}}}, {{path: /, upstream: \"{0}\"}}]",
            origin.url()
        )
    };
    let gateway = Gateway::start(&yaml(2));
    let mut held: Vec<_> = (0..2).map(|_| ask(gateway.address(), "/held")).collect();
    origin.wait_count(2);
    // The refused keep their connection, and are not counted.
    let mut client = Raw::connect(gateway.address());
    for _ in 0..20 {
        refused(&client.send("GET /held HTTP/1.1\r\nHost: t\r\n\r\n").response(), "too_many_in_flight");
    }
    assert_eq!(client.send("GET /other HTTP/1.1\r\nHost: t\r\n\r\n").response().status, 200);
    // What is in flight counts on when the limit is another.
    gateway.reload(&yaml(3));
    held.push(ask(gateway.address(), "/held"));
    origin.wait_count(4);
    refused(&client.send("GET /held HTTP/1.1\r\nHost: t\r\n\r\n").response(), "too_many_in_flight");
    origin.release();
    for one in &mut held {
        assert_eq!(one.response().status, 200);
    }
    let mut again = ask(gateway.address(), "/held");
    origin.wait_count(5);
    origin.release();
    assert_eq!(again.response().status, 200);
}

#[test]
fn who_goes_away_makes_room() {
    let origin = holding();
    let gateway = Gateway::start(&format!(
        "routes: [{{path: /, upstream: \"{}\", concurrency: {{max: 1}}}}]",
        origin.url()
    ));
    let gone = ask(gateway.address(), "/held");
    origin.wait_count(1);
    refused(&ask(gateway.address(), "/").response(), "too_many_in_flight");
    drop(gone);
    until("the place is free", || ask(gateway.address(), "/").response().status == 200);
}

#[test]
fn an_upstream_has_so_many_whatever_the_route_and_fewer_of_the_low() {
    let origin = holding();
    let gateway = Gateway::start(&format!(
        "upstreams: {{app: {{targets: [\"{}\"], concurrency: {{max: 4}}}}}}\n\
         routes: [{{path: /held/low, upstream: app, priority: low}}, {{path: /held, upstream: app}}]",
        origin.target()
    ));
    let mut held: Vec<_> = (0..3).map(|_| ask(gateway.address(), "/held/low")).collect();
    origin.wait_count(3);
    refused(&ask(gateway.address(), "/held/low").response(), "too_many_in_flight");
    held.push(ask(gateway.address(), "/held"));
    origin.wait_count(4);
    refused(&ask(gateway.address(), "/held").response(), "too_many_in_flight");
    origin.release();
    for one in &mut held {
        assert_eq!(one.response().status, 200);
    }
}

#[test]
fn a_body_that_comes_slowly_is_in_flight_to_its_end() {
    let origin = Origin::start(|_| {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n".to_vec();
        vec![Step::Send(head), Step::Hold, Step::Send(b"body".to_vec())]
    });
    let gateway = Gateway::start(&format!(
        "upstreams: {{app: {{targets: [\"{}\"], concurrency: {{max: 1}}}}}}\nroutes: [{{path: /, upstream: app}}]",
        origin.target()
    ));
    let mut slow = ask(gateway.address(), "/");
    origin.wait_count(1);
    refused(&ask(gateway.address(), "/").response(), "too_many_in_flight");
    origin.release();
    assert_eq!(slow.response().text(), "body");
}

/// An upstream that answers nothing any more: after a while only as many wait as it has always borne, the next ones are
/// told so at once, and all is as before once it answers again.
#[test]
fn an_upstream_that_stops_answering_keeps_few_waiting() {
    let stuck = Arc::new(AtomicBool::new(false));
    let origin = {
        let stuck = Arc::clone(&stuck);
        Origin::start(move |_| match stuck.load(Ordering::SeqCst) {
            true => [vec![Step::Hold], reply(200, "late")].concat(),
            false => reply(200, "at once"),
        })
    };
    let gateway = Gateway::start(&format!(
        "admin: {{address: \"127.0.0.1:0\"}}\n\
         upstreams: {{app: {{targets: [\"{}\"], concurrency: {{adaptive: {{min: 4}}}}}}}}\n\
         routes: [{{path: /health, upstream: app, priority: high}}, {{path: /, upstream: app}}]",
        origin.target()
    ));
    // None before it knows what is usual.
    let limit = || {
        let metrics =
            exchange(gateway.admin(), format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.admin()));
        let text = metrics.text();
        let line = text.lines().find(|line| line.starts_with("portcullis_upstream_concurrency_limit{"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    // It learns what is usual by answers over five seconds, and limits nothing.
    let usual = || ask(gateway.address(), "/").response().status;
    until("it has learned", || {
        (0..20).for_each(|_| assert_eq!(usual(), 200));
        limit().is_some()
    });
    assert_eq!(limit(), Some(1e6));
    stuck.store(true, Ordering::SeqCst);
    let mut waiting: Vec<Raw> = Vec::new();
    until("it is noticed", || {
        waiting.push(ask(gateway.address(), "/"));
        limit().is_some_and(|limit| limit < 10.0)
    });
    refused(&ask(gateway.address(), "/").response(), "overloaded");
    stuck.store(false, Ordering::SeqCst);
    until("everybody is served again", || {
        origin.release();
        ask(gateway.address(), "/").response().status == 200
    });
    for mut one in waiting {
        origin.release();
        assert!([200, 503].contains(&one.response().status));
    }
    assert_eq!(usual(), 200);
}

#[test]
fn it_can_be_turned_off() {
    let origin = Origin::text("hello");
    let gateway = Gateway::start(&format!(
        "admin: {{address: \"127.0.0.1:0\"}}\nupstreams: {{app: {{targets: [\"{}\"], concurrency: {{adaptive: false}}}}}}\n\
         routes: [{{path: /, upstream: app}}]",
        origin.target()
    ));
    assert_eq!(ask(gateway.address(), "/").response().status, 200);
    let metrics =
        exchange(gateway.admin(), format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.admin()));
    assert!(!metrics.text().contains("portcullis_upstream_concurrency_limit{"));
}
