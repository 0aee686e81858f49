//! Traces: W3C Trace Context in and out, and spans to a collector by OTLP.

mod kit;
#[path = "kit/otlp.rs"]
mod otlp;

use kit::origin::{refusing, reply};
use kit::raw::{exchange, get};
use kit::{until, wait_for, Gateway, Origin, Raw};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use otlp::{Absent, Received, Receiver};
use std::net::SocketAddr;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn with(address: SocketAddr, fields: &str) -> u16 {
    exchange(address, format!("GET /shop?page=1&token=geheim HTTP/1.1\r\nHost: shop.test:81\r\n{fields}\r\n"))
        .status
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn gateway(target: &str, traces: &str) -> Gateway {
    Gateway::start(&format!(
        "admin: {{address: \"127.0.0.1:0\"}}\naccess_log: {{path: $FOLDER/access.log}}\n{traces}\
         upstreams: {{app: {{targets: [{target}]}}}}\nroutes: [{{name: shop, path: /shop, upstream: app}}]\n"
    ))
}

#[test]
fn without_a_collector_the_context_passes_through() {
    let origin = Origin::text("x");
    let gateway = gateway(&format!("\"{}\"", origin.target()), "");
    let parent = |fields: &str| {
        assert_eq!(with(gateway.address(), fields), 200);
        let received = origin.last();
        let state = received.field("tracestate").map(str::to_owned);
        (received.field("traceparent").unwrap().to_owned(), state)
    };
    let sound = format!("00-{TRACE}-{PARENT}-01");
    let given = format!("traceparent: {sound}\r\ntracestate: a=1,b=2\r\n");
    assert_eq!(
        parent(&given),
        (sound.clone(), Some("a=1,b=2".to_owned())),
        "it adds no span, so it changes nothing"
    );
    let (made, _) = parent("");
    assert!(
        made.starts_with("00-") && made.ends_with("-00") && made.len() == 55 && !made.contains(TRACE),
        "{made}"
    );
    for broken in [
        "00-xyz-1-1".to_owned(),
        sound.to_uppercase(),
        format!("{sound}, {sound}"),
        format!("00-{}-{PARENT}-01", "0".repeat(32)),
        format!("ff-{TRACE}-{PARENT}-01"),
        format!("{sound}\r\ntraceparent: {sound}"),
    ] {
        let (made, state) = parent(&format!("traceparent: {broken}\r\ntracestate: a=1\r\n"));
        assert!(!made.to_lowercase().contains(TRACE), "{broken} must not be passed on: {made}");
        assert_eq!(state, None, "nor its state");
    }
    let lines = gateway.access_lines(8);
    let logged = |trace: &str| lines.iter().filter(|l| l["trace_id"] == trace).count();
    assert_eq!((logged(TRACE), logged(&made[3..35])), (1, 1), "{lines:#?}");
}

#[test]
fn a_request_and_its_attempts_are_spans() {
    for (protocol, receiver) in [("grpc", Receiver::start_grpc()), ("http", Receiver::start_http())] {
        let (_refusing, dead) = refusing();
        let origin = Origin::text("x");
        let gateway = gateway(
            &format!("\"{dead}\", \"{}\"", origin.target()),
            &format!(
                "traces: {{endpoint: \"{}\", protocol: {protocol}, sample: 0%, service_name: door, headers: {{x-team: a}}}}\n",
                receiver.url()
            ),
        );
        // Whoever began these has decided; what begins here is not recorded with a share of nothing.
        assert_eq!(with(gateway.address(), ""), 200);
        assert_eq!(with(gateway.address(), &format!("traceparent: 00-{TRACE}-{PARENT}-00\r\n")), 200);
        let sampled = format!("traceparent: 00-{TRACE}-{PARENT}-01\r\ntracestate: a=1\r\n");
        let with_retry = wait_for("one that has to try twice", || {
            assert_eq!(with(gateway.address(), &sampled), 200);
            until("all of them", || {
                let spans = receiver.spans();
                let asked = spans.iter().filter(|s| s.span.kind == SpanKind::Server as i32).count();
                let attempts = spans.iter().filter(|s| s.span.kind == SpanKind::Client as i32).count();
                asked > 0 && attempts >= asked
            });
            let spans = receiver.spans();
            let attempts = |server: &Received| {
                let of = |s: &&Received| s.span.parent_span_id == server.span.span_id;
                spans.iter().filter(of).cloned().collect::<Vec<_>>()
            };
            let servers = spans.iter().filter(|s| s.span.kind == SpanKind::Server as i32);
            servers.map(|server| (server.clone(), attempts(server))).find(|(_, attempts)| attempts.len() == 2)
        });
        let (server, attempts) = with_retry;
        assert!(
            receiver.spans().iter().all(|s| hex(&s.span.trace_id) == TRACE),
            "the others are not recorded"
        );
        assert_eq!(hex(&server.span.parent_span_id), PARENT);
        assert_eq!(server.span.name, "GET shop");
        assert_eq!(server.span.trace_state, "a=1");
        assert_eq!(server.resource["service.name"], "door");
        assert_eq!(server.headers["x-team"], "a");
        for (key, value) in [
            ("http.request.method", "GET"),
            ("url.path", "/shop"),
            ("url.query", "page=1&token=***"),
            ("http.response.status_code", "200"),
            ("http.route", "shop"),
            ("server.address", "shop.test"),
            ("server.port", "81"),
            ("client.address", "127.0.0.1"),
            ("network.protocol.version", "1.1"),
        ] {
            assert_eq!(server.attribute(key).as_deref(), Some(value), "{key}");
        }
        let [first, second] = &attempts[..] else { panic!("two attempts") };
        assert_eq!(first.attribute("server.port").unwrap(), dead.port().to_string());
        assert_eq!(first.attribute("error.type").as_deref(), Some("ConnectRefused"));
        assert_eq!(second.attribute("http.request.resend_count").as_deref(), Some("1"));
        let url = format!("http://{}/shop?page=1&token=***", origin.target());
        assert_eq!(second.attribute("url.full"), Some(url));
        assert_eq!(second.attribute("http.response.status_code").as_deref(), Some("200"));
        assert!(second.span.end_time_unix_nano >= second.span.start_time_unix_nano);
        // The upstream is told of the attempt, so that its spans hang below it.
        let told: Vec<_> =
            origin.received().iter().map(|r| r.field("traceparent").unwrap().to_owned()).collect();
        assert!(told.contains(&format!("00-{TRACE}-{}-01", hex(&second.span.span_id))), "{told:?}");
        assert!(told.contains(&format!("00-{TRACE}-{PARENT}-00")), "what is not recorded passes: {told:?}");
    }
}

#[test]
fn what_the_gateway_refuses_is_a_span_with_its_reason() {
    let receiver = Receiver::start_grpc();
    let origin = Origin::start(|_| reply(500, "no"));
    let gateway = gateway(
        &format!("\"{}\"", origin.target()),
        &format!("traces: {{endpoint: \"{}\", sample: 100%}}\n", receiver.url()),
    );
    assert_eq!(get(gateway.address(), "/none").status, 404);
    assert_eq!(get(gateway.address(), "/shop").status, 500);
    exchange(gateway.address(), "BREW /none HTTP/1.1\r\nHost: t\r\n\r\n");
    let spans = wait_for("three requests", || Some(receiver.spans()).filter(|s| s.len() == 4));
    let named = |name: &str| spans.iter().find(|s| s.span.name == name).unwrap_or_else(|| panic!("{name}"));
    assert_eq!(named("GET").attribute("error.type").as_deref(), Some("no_route"));
    assert_eq!(
        named("GET").span.status.as_ref().map_or(0, |s| s.code),
        0,
        "a client's mistake is none of the server's"
    );
    assert_eq!(named("GET shop").span.status.as_ref().unwrap().code, 2);
    assert_eq!(named("GET shop").attribute("error.type").as_deref(), Some("500"));
    assert_eq!(
        named("HTTP").attribute("http.request.method_original").as_deref(),
        Some("BREW"),
        "a client makes no names"
    );
    let traces: std::collections::BTreeSet<_> = spans.iter().map(|s| s.span.trace_id.clone()).collect();
    assert_eq!(traces.len(), 3);
    let lines = gateway.access_lines(3);
    assert!(lines.iter().all(|l| traces.iter().any(|t| l["trace_id"] == hex(t))), "the log names the trace");
}

fn metric(gateway: &Gateway, series: &str) -> u64 {
    let admin = gateway.admin();
    let text = exchange(admin, format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\n\r\n")).text();
    let line = text.lines().find_map(|l| l.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    line.unwrap_or_else(|| panic!("{series} in\n{text}"))
}

#[test]
fn a_collector_that_is_missing_costs_a_counter() {
    let absent = Absent::new();
    let origin = Origin::text("x");
    let gateway = gateway(
        &format!("\"{}\"", origin.target()),
        &format!("traces: {{endpoint: \"{}\", sample: 100%}}\n", absent.url()),
    );
    let mut client = Raw::connect(gateway.address());
    for _ in 0..3_000 {
        assert_eq!(client.send("GET /shop HTTP/1.1\r\nHost: t\r\n\r\n").response().status, 200);
    }
    let lost = || {
        metric(&gateway, r#"portcullis_trace_spans_total{result="dropped"}"#)
            + metric(&gateway, r#"portcullis_trace_spans_total{result="failed"}"#)
    };
    until("spans are counted as lost", || lost() > 1_000);
    gateway.wait_log(&["WARN"]);
    // It comes, and gets what is made from then on.
    let receiver = absent.start_grpc();
    until("spans arrive", || {
        get(gateway.address(), "/shop");
        !receiver.spans().is_empty()
    });
}

#[test]
fn the_last_spans_are_sent_before_the_end_and_after_a_reload() {
    let (first, second) = (Receiver::start_grpc(), Receiver::start_grpc());
    let origin = Origin::text("x");
    let yaml = |receiver: &Receiver| {
        format!(
            "traces: {{endpoint: \"{}\", sample: 100%}}\nroutes: [{{path: /, upstream: \"{}\"}}]\n",
            receiver.url(),
            origin.url()
        )
    };
    let mut gateway = Gateway::start(&yaml(&first));
    assert_eq!(get(gateway.address(), "/1").status, 200);
    assert!(gateway.reload(&yaml(&second)).contains("reloaded"));
    assert_eq!(get(gateway.address(), "/2").status, 200);
    gateway.signal("TERM");
    assert!(gateway.wait_exit().success());
    assert_eq!(second.spans().len(), 2, "a request and its attempt");
    until("the first has its own", || first.spans().len() == 2);
}
