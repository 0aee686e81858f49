//! What a route makes of a request: another path or host, one of several upstreams, a redirect, an answer of its own.

mod kit;

use kit::gateway::check;
use kit::raw::{exchange, get};
use kit::{Gateway, Origin, Raw};

fn in_front_of(origin: &Origin, route: &str) -> Gateway {
    Gateway::start(&format!("routes: [{{upstream: \"{}\", {route}}}]", origin.url()))
}

/// What arrives for a target, or the status of the refusal.
fn arrives(gateway: &Gateway, origin: &Origin, target: &str) -> String {
    let before = origin.received().len();
    let status = get(gateway.address(), target).status;
    if status == 200 {
        assert_eq!(origin.received().len(), before + 1, "{target}");
        return origin.last().target().to_owned();
    }
    assert_eq!(origin.received().len(), before, "{target} is refused but arrives");
    status.to_string()
}

#[test]
fn strip_prefix_cuts_whole_segments_off_the_normalised_path() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "path: /api, rewrite: {strip_prefix: true}");
    for (target, expected) in [
        ("/api", "/"),
        ("/api/", "/"),
        ("/api//", "/"),
        ("/api/x", "/x"),
        ("/api/x/", "/x/"),
        ("/api/api/x", "/api/x"),
        ("//api//x", "/x"),
        ("/%61pi/x", "/x"),
        ("/x/../api/y", "/y"),
        ("/api/a/../b", "/b"),
        ("/api/./b", "/b"),
        ("/api/a%20b%3f", "/a%20b%3F"),
        ("/api/%2561", "/%2561"),
        ("/api/é", "/%C3%A9"),
        ("/api/x;v=1", "/x;v=1"),
        ("/api/..x/y", "/..x/y"),
        ("/api?a=b", "/?a=b"),
        ("/api?", "/?"),
        ("/api/x?a=/api/../y%2F", "/x?a=/api/../y%2F"),
        ("http://test/api/x?a", "/x?a"),
        // not under the prefix
        ("/api../x", "404"),
        ("/api%2e%2e/x", "404"),
        ("/apix", "404"),
        ("/api.", "404"),
        ("/api;v=1/x", "404"),
        ("/api%20/x", "404"),
        ("/API/x", "404"),
        ("/api/../x", "404"),
        ("/api/%2e%2e/x", "404"),
        ("//x//api", "404"),
        // could mean two paths
        ("/api/..;/x", "400"),
        ("/api/%2e%2e;/x", "400"),
        ("/api%2Fx", "400"),
        ("/api/..%2fx", "400"),
        ("/api/..%5cx", "400"),
        ("/api/../../x", "400"),
    ] {
        assert_eq!(arrives(&gateway, &origin, target), expected, "{target}");
    }
}

#[test]
fn a_prefix_with_a_final_slash_is_the_same_prefix() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "path: /api/, rewrite: {strip_prefix: true}");
    for (target, expected) in [("/api", "/"), ("/api/", "/"), ("/api/x", "/x"), ("/apix", "404")] {
        assert_eq!(arrives(&gateway, &origin, target), expected, "{target}");
    }
}

#[test]
fn prefix_puts_another_prefix_in_its_place() {
    let origin = Origin::text("x");
    for (route, cases) in [
        (
            "path: /api, rewrite: {prefix: /v2/all}",
            &[
                ("/api", "/v2/all"),
                ("/api/", "/v2/all/"),
                ("/api/x", "/v2/all/x"),
                ("/api/x?a=b", "/v2/all/x?a=b"),
                ("/api?a=b", "/v2/all?a=b"),
                ("//api//x/../y", "/v2/all/y"),
                ("/api../x", "404"),
                ("/api/..;/x", "400"),
            ][..],
        ),
        ("path: /api, rewrite: {prefix: /v2/}", &[("/api", "/v2"), ("/api/", "/v2/"), ("/api/x", "/v2/x")]),
        ("path: /api, rewrite: {prefix: /}", &[("/api", "/"), ("/api/", "/"), ("/api/x", "/x")]),
        ("path: /, rewrite: {prefix: /v2}", &[("/", "/v2/"), ("/x", "/v2/x"), ("//x", "/v2/x")]),
        ("path: /, rewrite: {strip_prefix: true}", &[("/", "/"), ("/x/y", "/x/y")]),
    ] {
        let gateway = in_front_of(&origin, route);
        for (target, expected) in cases {
            assert_eq!(arrives(&gateway, &origin, target), *expected, "{target} with {route}");
        }
    }
}

#[test]
fn path_replaces_the_whole_path_and_keeps_the_query() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "path: {regex: \"^/old/[0-9]+$\"}, rewrite: {path: /new/one}");
    for (target, expected) in [
        ("/old/1", "/new/one"),
        ("/old/22?a=b&c=%2F", "/new/one?a=b&c=%2F"),
        ("/old//3?", "/new/one?"),
        ("/old/x", "404"),
    ] {
        assert_eq!(arrives(&gateway, &origin, target), expected, "{target}");
    }
}

#[test]
fn host_is_rewritten_and_the_old_one_told() {
    let origin = Origin::text("x");
    let gateway =
        in_front_of(&origin, "path: /api, rewrite: {strip_prefix: true, host: \"orders.internal:8080\"}");
    for line in ["GET /api/x", "GET http://a.test/api/x"] {
        let response = exchange(gateway.address(), format!("{line} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        assert_eq!(response.status, 200, "{line}");
        let request = origin.last();
        assert_eq!((request.target(), request.field("host")), ("/x", Some("orders.internal:8080")), "{line}");
        assert_eq!(request.field("x-forwarded-host"), Some("a.test"), "{line}");
        assert_eq!(request.field("forwarded"), Some("for=127.0.0.1;proto=http;host=a.test"), "{line}");
    }
}

#[test]
fn a_split_follows_its_weights() {
    let (three, one, never) = (Origin::text("three"), Origin::text("one"), Origin::text("never"));
    let gateway = Gateway::start(&format!(
        "routes:\n  - path: /\n    upstream: [{{to: \"{}\", weight: 0}}, {{to: \"{}\", weight: 3}}, {{to: \"{}\"}}]\n",
        never.url(),
        three.url(),
        one.url()
    ));
    let mut client = Raw::connect(gateway.address());
    for _ in 0..400 {
        assert_eq!(client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response().status, 200);
    }
    assert_eq!(three.received().len() + one.received().len(), 400);
    // 300 are expected, with a standard deviation of 9.
    assert!((220..380).contains(&three.received().len()), "{} of 400", three.received().len());
    assert_eq!(never.connections(), 0);
}

#[test]
fn a_split_may_name_upstreams() {
    let (a, b) = (Origin::text("a"), Origin::text("b"));
    let gateway = Gateway::start(&format!(
        "upstreams: {{a: {{targets: [\"{}\"]}}, b: {{targets: [\"{}\"]}}}}\n\
         routes: [{{path: /, upstream: [{{to: a, weight: 1}}, {{to: b, weight: 0}}]}}]",
        a.target(),
        b.target()
    ));
    for _ in 0..20 {
        assert_eq!(get(gateway.address(), "/").text(), "a");
    }
    assert_eq!(b.connections(), 0);
}

#[test]
fn redirects_fill_their_placeholders() {
    for (to, target, location) in [
        ("https://{host}{uri}", "/a/b?c=d&e", "https://a.test/a/b?c=d&e"),
        ("https://{host}{uri}", "/", "https://a.test/"),
        ("https://{host}{uri}", "//a/./b?//", "https://a.test/a/b?//"),
        ("https://new.test{path}", "/a/b?c=d", "https://new.test/a/b"),
        ("/new{path}{query}", "/a?c=d", "/new/a?c=d"),
        ("/new{path}{query}", "/a", "/new/a"),
        ("/search{query}", "/a?q=%0d%0aX:1", "/search?q=%0d%0aX:1"),
        ("https://new.test/fixed", "/a?b", "https://new.test/fixed"),
        ("{path}/x", "/a", "/a/x"),
    ] {
        let gateway = Gateway::start(&format!("routes: [{{path: /, redirect: {{to: \"{to}\"}}}}]"));
        let response =
            exchange(gateway.address(), format!("GET {target} HTTP/1.1\r\nHost: a.test:81\r\n\r\n"));
        assert_eq!((response.status, response.field("location")), (308, Some(location)), "{to} {target}");
        assert_eq!((response.field("content-length"), response.text().as_str()), (Some("0"), ""));
    }
}

#[test]
fn redirects_have_the_status_they_are_given() {
    for status in [301, 302, 303, 307, 308] {
        let gateway =
            Gateway::start(&format!("routes: [{{path: /, redirect: {{to: /b, status: {status}}}}}]"));
        assert_eq!(get(gateway.address(), "/a").status, status);
    }
    let (code, errors) = check(
        "listeners: [{address: \"127.0.0.1:0\"}]\nroutes: [{path: /, redirect: {to: /b, status: 304}}]",
    );
    assert!(code == 1 && errors[0].contains("304"), "{errors:?}");
}

#[test]
fn a_redirect_cannot_be_led_to_another_host() {
    for to in ["{path}", "{uri}", "{path}{query}"] {
        let gateway = Gateway::start(&format!("routes: [{{path: /, redirect: {{to: \"{to}\"}}}}]"));
        for target in [
            "//evil.test",
            "///evil.test/x",
            "/.//evil.test",
            "/a/..//evil.test",
            "/%2e//evil.test",
            "/;/..//evil.test",
            "//evil.test?x",
            "http://test//evil.test",
        ] {
            let response = get(gateway.address(), target);
            assert_eq!(response.status, 308, "{target}");
            let location = response.field("location").unwrap();
            assert!(location.starts_with('/') && !location.starts_with("//"), "{to}, {target}: {location}");
        }
        for refused in ["/\\evil.test", "/%5cevil.test", "/%2fevil.test", "/%2F/evil.test", "/\tevil.test"] {
            assert_eq!(get(gateway.address(), refused).status, 400, "{refused}");
        }
    }
}

#[test]
fn a_template_that_would_lead_to_a_host_of_the_clients_choice_is_refused() {
    for to in ["/{path}", "/{uri}", "https://{path}", "http://{uri}"] {
        let yaml = format!(
            "listeners: [{{address: \"127.0.0.1:0\"}}]\nroutes: [{{path: /, redirect: {{to: \"{to}\"}}}}]"
        );
        let (code, errors) = check(&yaml);
        assert_eq!(code, 1, "{to} is accepted");
        assert!(errors[0].contains("routes[0].redirect"), "{errors:?}");
    }
}

#[test]
fn a_redirect_cannot_split_the_response() {
    let gateway = Gateway::start("routes: [{path: /, redirect: {to: \"https://{host}{uri}\"}}]");
    for request in [
        "GET /a%0d%0aSet-Cookie:x=1 HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET /a\rSet-Cookie:x=1 HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET /a?\rb HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET /a?b\x0bc HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: t\rSet-Cookie: x=1\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: t/evil\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: good@evil.test\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: t?x\r\n\r\n",
    ] {
        let response = exchange(gateway.address(), request);
        assert_eq!((response.status, response.field("set-cookie")), (400, None), "{request:?}");
        assert_eq!(response.field("location"), None);
    }
    let response = exchange(gateway.address(), "GET /a?b=%0d%0aSet-Cookie:x=1 HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(response.field("location"), Some("https://t/a?b=%0d%0aSet-Cookie:x=1"));
    assert_eq!(response.field("set-cookie"), None);
}

#[test]
fn respond_answers_by_itself() {
    let gateway = Gateway::start(
        "routes:\n  - {path: /plain, respond: {body: hello}}\n  \
         - {path: /json, respond: {status: 503, body: '{\"a\": 1}', content_type: application/json}}\n  \
         - {path: /none, respond: {status: 204}}\n  - {path: /empty, respond: {}}\n",
    );
    for (target, status, content_type, length, body) in [
        ("/plain/x?y", 200, Some("text/plain; charset=utf-8"), Some("5"), "hello"),
        ("/json", 503, Some("application/json"), Some("8"), "{\"a\": 1}"),
        ("/none", 204, None, None, ""),
        ("/empty", 200, None, Some("0"), ""),
    ] {
        let response = get(gateway.address(), target);
        assert_eq!((response.status, response.text().as_str()), (status, body), "{target}");
        assert_eq!(response.field("content-type"), content_type, "{target}");
        assert_eq!(response.field("content-length"), length, "{target}");
        assert!(response.field("server-timing").is_some_and(|t| t.starts_with("gateway;dur=")), "{target}");
        assert_eq!(response.all("transfer-encoding"), [""; 0], "{target}");
    }
}

#[test]
fn head_gets_the_fields_of_an_own_answer_without_its_body() {
    let gateway =
        Gateway::start("routes: [{path: /own, respond: {body: hello}}, {path: /away, redirect: {to: /own}}]");
    let mut client = Raw::connect(gateway.address());
    for (target, status, length) in [("/own", 200, "5"), ("/away", 308, "0"), ("/none", 404, "")] {
        let response = client.send(format!("HEAD {target} HTTP/1.1\r\nHost: t\r\n\r\n")).response_to("HEAD");
        assert_eq!(response.status, status);
        assert!(length.is_empty() || response.field("content-length") == Some(length), "{response:?}");
    }
    // A body would stand before this answer.
    let response = client.send("GET /own HTTP/1.1\r\nHost: t\r\n\r\n").response();
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
}

#[test]
fn a_body_sent_to_an_own_answer_is_never_taken_for_a_request() {
    let gateway = Gateway::start(
        "routes: [{path: /own, respond: {body: hello}}, {path: /away, redirect: {to: /own}}, {path: /inner, respond: {body: smuggled}}]",
    );
    let inner = "GET /inner HTTP/1.1\r\nHost: t\r\n\r\n";
    for (target, status) in [("/own", 200), ("/away", 308), ("/nowhere", 404)] {
        for framing in [
            format!("Content-Length: {}\r\n\r\n{inner}", inner.len()),
            format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len()),
        ] {
            let mut client = Raw::connect(gateway.address());
            client.send(format!("POST {target} HTTP/1.1\r\nHost: t\r\n{framing}"));
            assert_eq!(client.response().status, status, "{target}");
            client.send("GET /own HTTP/1.1\r\nHost: t\r\n\r\n");
            match client.one_response("GET") {
                None => {} // closed: as good
                Some(response) => assert_eq!(response.text(), "hello", "{target}"),
            }
        }
    }
}
