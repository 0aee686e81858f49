//! Which route a request takes, and what is answered when none does.

mod kit;

use kit::raw::{exchange, get};
use kit::{Gateway, Origin};

#[test]
fn paths_choose_the_upstream_by_whole_segments() {
    let (one, two) = (Origin::text("one"), Origin::text("two"));
    let gateway = Gateway::start(&format!(
        "routes:\n  - {{path: /service1, upstream: \"{}\"}}\n  - {{path: /service2, upstream: \"{}\"}}\n",
        one.url(),
        two.url()
    ));
    for (target, body) in
        [("/service1", "one"), ("/service1/", "one"), ("/service1/a/b?c=d", "one"), ("/service2", "two")]
    {
        let response = get(gateway.address(), target);
        assert_eq!((response.status, response.text().as_str()), (200, body), "{target}");
    }
    for target in ["/", "/service", "/service11", "/Service1", "/x/service1"] {
        let response = get(gateway.address(), target);
        assert_eq!(response.status, 404, "{target}");
        assert_eq!(response.problem(), "no_route");
        assert!(response.text().contains("\"error\":\"Service not found\""));
    }
    assert_eq!(one.received().len(), 3);
    assert_eq!(one.last().target(), "/service1/a/b?c=d");
}

#[test]
fn an_ordinary_client_is_served() {
    let origin = Origin::text("hello");
    let gateway = Gateway::start(&format!("routes: [{{path: /, upstream: \"{}\"}}]", origin.url()));
    let mut response = ureq::get(gateway.url("/a?b=c")).header("X-Tenant", "acme").call().unwrap();
    assert_eq!(response.body_mut().read_to_string().unwrap(), "hello");
    let received = origin.first();
    assert_eq!((received.line(), received.field("x-tenant")), ("GET /a?b=c HTTP/1.1", Some("acme")));
    assert_eq!(received.field("host"), Some(gateway.address().to_string().as_str()));
}

#[test]
fn a_known_path_with_another_method_is_405_with_allow() {
    let origin = Origin::text("x");
    let gateway = Gateway::start(&format!(
        "routes: [{{path: /a, methods: [POST, GET], upstream: \"{}\"}}]",
        origin.url()
    ));
    let response = exchange(gateway.address(), "DELETE /a HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!((response.status, response.field("allow")), (405, Some("GET, POST")));
    assert_eq!(response.problem(), "method_not_allowed");
}
