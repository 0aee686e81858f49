//! Health checks: who gets requests while targets come and go.

mod kit;

use kit::origin::reply;
use kit::raw::get;
use kit::{until, Gateway, Origin, Raw};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::Arc;

/// Three origins that answer their number, and pass an HTTP check.
fn three() -> Vec<Origin> {
    (0..3).map(|n| Origin::text(&n.to_string())).collect()
}

fn upstream(origins: &[Origin], check: &str) -> String {
    let targets: Vec<String> = origins.iter().map(|o| format!("\"{}\"", o.target())).collect();
    format!(
        "upstreams:\n  app:\n    targets: [{}]\n{check}\nroutes: [{{path: /, upstream: app}}]\n",
        targets.join(", ")
    )
}

/// Bodies of successful answers out of `count` requests; others fail the test.
fn bodies(address: SocketAddr, count: usize) -> Vec<String> {
    let mut client = Raw::connect(address);
    let request = |client: &mut Raw| {
        let response = client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response();
        assert_eq!(response.status, 200, "{response:?}");
        response.text()
    };
    (0..count).map(|_| request(&mut client)).collect()
}

#[test]
fn killing_one_of_three_under_load_costs_no_request() {
    let origins = three();
    let check = "    health_check: {path: /, interval: 100ms, unhealthy_after: 1}";
    let gateway = Gateway::start(&upstream(&origins, check));
    let (address, stop, done) = (gateway.address(), AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = Raw::connect(address);
                while !stop.load(Ordering::SeqCst) {
                    let response = client.send("GET /x HTTP/1.1\r\nHost: t\r\n\r\n").response();
                    assert_eq!(response.status, 200, "{response:?}");
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        until("load before", || done.load(Ordering::SeqCst) > 500);
        origins[1].stop();
        gateway.wait_log(&[&origins[1].target(), "is unhealthy"]);
        let then = done.load(Ordering::SeqCst);
        until("load after", || done.load(Ordering::SeqCst) > then + 500);
        origins[1].restart();
        gateway.wait_log(&[&origins[1].target(), "is healthy again"]);
        let then = done.load(Ordering::SeqCst);
        until("load with it back", || done.load(Ordering::SeqCst) > then + 200);
        stop.store(true, Ordering::SeqCst);
    });
    assert!(bodies(address, 6).contains(&"1".to_owned()), "the one that came back serves again");
}

#[test]
fn all_down_is_503_with_the_reasons_in_the_log_and_recovery_is_noticed() {
    let origins = three();
    let gateway = Gateway::start(&upstream(
        &origins,
        "    health_check: {path: /, interval: 100ms, unhealthy_after: 1}",
    ));
    origins.iter().for_each(Origin::stop);
    for origin in &origins {
        gateway.wait_log(&[&origin.target(), "is unhealthy", "connection refused"]);
    }
    let response = get(gateway.address(), "/");
    assert_eq!((response.status, response.problem().as_str()), (503, "no_healthy_target"));
    assert_eq!(response.field("retry-after"), Some("1"));
    assert!(!response.text().contains("127.0.0.1"));
    let line = gateway.wait_log(&["upstream app: no healthy target"]);
    for origin in &origins {
        assert!(line.contains(&format!("{}: connection refused", origin.target())), "{line}");
    }
    origins[2].restart();
    until("the recovered one serves", || get(gateway.address(), "/").status == 200);
}

#[test]
fn a_target_that_fails_its_first_check_never_gets_a_request() {
    let sick = Origin::start(|r| if r.target() == "/healthz" { reply(500, "") } else { reply(200, "sick") });
    let well = Origin::text("well");
    let origins = [sick, well];
    let gateway = Gateway::start(&upstream(
        &origins,
        "    health_check: {path: /healthz, interval: 60s, unhealthy_after: 5}",
    ));
    assert!(bodies(gateway.address(), 20).iter().all(|b| b == "well"));
    gateway.wait_log(&["is unhealthy: it answered 500"]);
}

#[test]
fn thresholds_count_results_in_a_row() {
    let status = Arc::new(AtomicU16::new(200));
    let seen = Arc::clone(&status);
    let origin = Origin::start(move |r| {
        reply(if r.target() == "/healthz" { seen.load(Ordering::SeqCst) } else { 200 }, "")
    });
    let checks = |o: &Origin| o.received().iter().filter(|r| r.target() == "/healthz").count();
    let origins = [origin];
    let gateway = Gateway::start(&upstream(&origins, "    health_check: {path: /healthz, interval: 50ms, healthy_after: 3, unhealthy_after: 4, expect: [2xx]}"));
    status.store(503, Ordering::SeqCst);
    let from = checks(&origins[0]);
    gateway.wait_log(&["is unhealthy: it answered 503"]);
    assert!(checks(&origins[0]) >= from + 4, "{} checks", checks(&origins[0]) - from);
    status.store(204, Ordering::SeqCst);
    let from = checks(&origins[0]);
    gateway.wait_log(&["is healthy again"]);
    assert!(checks(&origins[0]) >= from + 3, "{} checks", checks(&origins[0]) - from);
}

#[test]
fn an_http_check_says_who_asks_and_whom() {
    let origins = [Origin::text("x")];
    let _gateway =
        Gateway::start(&upstream(&origins, "    health_check: {path: \"/healthz?full=1\", interval: 60s}"));
    let check = origins[0].first();
    assert_eq!(check.line(), "GET /healthz?full=1 HTTP/1.1");
    assert_eq!(
        (check.field("host"), check.field("user-agent")),
        (Some("app"), Some("portcullis health check"))
    );
}

#[test]
fn without_a_path_a_connection_is_the_check() {
    let origins = [Origin::text("a"), Origin::text("b")];
    let gateway =
        Gateway::start(&upstream(&origins, "    health_check: {interval: 50ms, unhealthy_after: 2}"));
    until("checked", || origins[0].connections() > 2);
    assert!(origins[0].received().is_empty(), "no request is made");
    origins[0].stop();
    gateway.wait_log(&[&origins[0].target(), "is unhealthy: connection refused"]);
    assert!(bodies(gateway.address(), 10).iter().all(|b| b == "b"));
}

#[test]
fn a_check_that_hangs_fails_by_its_timeout_and_holds_up_nobody() {
    let hanging = Origin::start(|_| vec![kit::Step::Hold]);
    let well = Origin::text("well");
    let origins = [hanging, well];
    let gateway =
        Gateway::start(&upstream(&origins, "    health_check: {path: /, interval: 200ms, timeout: 100ms}"));
    gateway.wait_log(&[&origins[0].target(), "is unhealthy: no answer"]);
    assert!(bodies(gateway.address(), 10).iter().all(|b| b == "well"));
    let before = origins[1].received().len();
    until("the other goes on being checked", || origins[1].received().len() > before + 3);
}
