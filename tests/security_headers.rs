//! `security_headers`, `request_headers: {only: …}` and `method_override`: what browsers are told, what of a client's fields
//! goes on, and that nobody has one method routed and another done.

mod kit;

use kit::gateway::repository;
use kit::origin::{raw, reply};
use kit::raw::exchange;
use kit::{Gateway, Http2, Origin, Raw, Response, Step};

const USUAL: [(&str, &str); 6] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
    (
        "permissions-policy",
        "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

fn in_front_of(origin: &Origin, keys: &str) -> Gateway {
    Gateway::start(&format!("routes: [{{path: /, upstream: \"{}\", {keys}}}]\n", origin.url()))
}

fn ask(gateway: &Gateway, path: &str, fields: &str) -> Response {
    exchange(gateway.address(), format!("GET {path} HTTP/1.1\r\nHost: t\r\n{fields}\r\n"))
}

fn assert_usual(response: &Response, what: &str) {
    for (name, value) in USUAL {
        assert_eq!(response.field(name), Some(value), "{what}: {response:?}");
    }
    assert_eq!(response.field("content-security-policy"), None, "{what}");
}

#[test]
fn one_line_tells_browsers_in_every_answer() {
    let origin = Origin::start(|request| {
        match request.target() {
        "/own" => raw("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Frame-Options: SAMEORIGIN\r\nReferrer-Policy: no-referrer\r\n\
                       Server: nginx/1.2\r\nX-Powered-By: PHP/5\r\nX-Powered-By: ASP\r\n\r\n"),
        "/breaks" => vec![Step::Close],
        _ => reply(200, "hi"),
    }
    });
    let gateway = Gateway::start(&format!(
        "defaults: {{security_headers: true, retry: {{attempts: 0}}}}\nroutes:\n  - {{path: /, upstream: \"{0}\"}}\n  - {{path: /said, respond: {{body: x}}}}\n  \
         - {{path: /moved, redirect: {{to: /}}}}\n  - {{path: /out, respond: {{body: x}}, deny: [0.0.0.0/0]}}\n  \
         - {{path: /plain, upstream: \"{0}\", security_headers: false}}\n",
        origin.url()
    ));
    for (path, status) in [("/", 200), ("/breaks", 502), ("/said", 200), ("/moved", 308), ("/out", 403)] {
        let response = ask(&gateway, path, "");
        assert_eq!(response.status, status, "{path}");
        assert_usual(&response, path);
    }
    // What the upstream says itself stays; what it is made of does not.
    let response = ask(&gateway, "/own", "");
    assert_eq!(response.field("x-frame-options"), Some("SAMEORIGIN"));
    assert_eq!(response.field("referrer-policy"), Some("no-referrer"));
    assert_eq!(response.field("x-content-type-options"), Some("nosniff"));
    assert_eq!((response.field("server"), response.all("x-powered-by").len()), (None, 0));
    let response = ask(&gateway, "/plain", "");
    assert!(USUAL.iter().all(|(name, _)| response.field(name).is_none()), "{response:?}");
}

#[test]
fn single_ones_are_changed_and_left_out() {
    let origin = Origin::start(|_| {
        raw("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nServer: own\r\nX-Frame-Options: ALLOWALL\r\n\r\n")
    });
    let gateway = in_front_of(
        &origin,
        "security_headers: {referrer_policy: no-referrer, permissions_policy: false, content_security_policy: \"default-src 'self'\", \
         hide_server: false}, response_headers: {remove: [x-frame-options], set: {cross-origin-opener-policy: unsafe-none}}",
    );
    let response = ask(&gateway, "/", "");
    for (name, value) in [
        ("referrer-policy", Some("no-referrer")),
        ("permissions-policy", None),
        ("content-security-policy", Some("default-src 'self'")),
        ("x-content-type-options", Some("nosniff")),
        ("server", Some("own")),
        // What the upstream said is taken away, so that there is none; what the file says itself is there.
        ("x-frame-options", Some("DENY")),
        ("cross-origin-opener-policy", Some("unsafe-none")),
    ] {
        assert_eq!(response.field(name), value, "{response:?}");
    }
    assert_usual(&ask(&in_front_of(&origin, "security_headers: {frame_options: DENY, hide_server: true}, response_headers: {remove: [x-frame-options]}"), "/", ""), "a map");
}

#[test]
fn only_what_is_listed_goes_on() {
    let origin = Origin::text("hi");
    let gateway = in_front_of(
        &origin,
        "request_headers: {only: [Accept, content-type], set: {x-gateway: portcullis}, remove: [accept]}",
    );
    let response = exchange(
        gateway.address(),
        "POST /a HTTP/1.1\r\nHost: t\r\nAccept: text/plain\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nCookie: a=1\r\n\
         Authorization: Basic eDp5\r\nX-Internal-User: root\r\nX_Gateway: me\r\nX-Gateway: me\r\nVia: 1.1 before\r\n\
         traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\nhi",
    );
    assert_eq!(response.status, 200);
    let received = origin.last();
    assert_eq!((received.body.as_slice(), received.field("content-type")), (&b"hi"[..], Some("text/plain")));
    for (name, value) in [("accept", None), ("x-gateway", Some("portcullis")), ("host", Some("t"))] {
        assert_eq!(received.field(name), value, "{}", received.head);
    }
    for there in ["x-forwarded-for", "forwarded", "x-request-id", "x-forwarded-proto"] {
        assert!(received.field(there).is_some(), "{there} is the gateway's own:\n{}", received.head);
    }
    assert_eq!(received.all("via").join(", "), "1.1 before, 1.1 portcullis");
    assert!(received.field("traceparent").unwrap().contains("4bf92f3577b34da6a3ce929d0e0e4736"));
    for gone in ["cookie", "authorization", "x-internal-user", "x_gateway"] {
        assert_eq!(received.field(gone), None, "{}", received.head);
    }
    // A body of unknown length is one still, and a WebSocket's handshake is no field like others.
    let chunked =
        "POST /a HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    assert_eq!(exchange(gateway.address(), chunked).status, 200);
    assert_eq!((origin.last().body.as_slice(), origin.last().field("x-a")), (&b"hi"[..], None));
    let handshake =
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                     Sec-WebSocket-Version: 13\r\nCookie: a=1\r\n";
    ask(&gateway, "/ws", handshake);
    let received = origin.last();
    assert!(
        received.field("sec-websocket-key").is_some() && received.field("upgrade").is_some(),
        "{}",
        received.head
    );
    assert_eq!(received.field("cookie"), None);
}

#[test]
fn what_a_trusted_proxy_says_goes_on_as_well() {
    let origin = Origin::text("hi");
    let gateway = Gateway::start(&format!(
        "trusted_proxies: [127.0.0.1]\nroutes: [{{path: /, upstream: \"{}\", request_headers: {{only: []}}}}]\n",
        origin.url()
    ));
    ask(&gateway, "/", "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nAccept: */*\r\n");
    let received = origin.last();
    assert_eq!(received.field("x-forwarded-for"), Some("203.0.113.7, 127.0.0.1"));
    assert_eq!((received.field("x-forwarded-proto"), received.field("accept")), (Some("https"), None));
}

const OVERRIDES: [&str; 7] = [
    "X-HTTP-Method-Override",
    "x-http-method-override",
    "X-HTTP-Method",
    "X-Method-Override",
    "X_HTTP_METHOD_OVERRIDE",
    "X-HTTP_Method",
    "X_Method_Override",
];

#[test]
fn a_field_for_another_method_is_refused() {
    let origin = Origin::text("hi");
    let gateway = in_front_of(&origin, "methods: [GET, POST]");
    for name in OVERRIDES {
        for value in ["DELETE", "POST", ""] {
            let response = ask(&gateway, "/", &format!("{name}: {value}\r\n"));
            assert_eq!(
                (response.status, response.problem().as_str()),
                (400, "method_override"),
                "{name}: {value}"
            );
        }
    }
    assert_eq!(origin.connections(), 0);
    assert_eq!(
        ask(&gateway, "/?_method=DELETE", "X-HTTP-Methods: DELETE\r\n").status,
        200,
        "which is the application's"
    );
    kit::http2::run(async {
        let gateway = Gateway::start(&format!(
            "listeners: [{{address: \"127.0.0.1:0\", protocols: [h2]}}]\nroutes: [{{path: /, upstream: \"{}\"}}]\n",
            origin.url()
        ));
        let mut request = kit::http2::get("/");
        request.headers_mut().insert("x-http-method-override", "DELETE".parse().unwrap());
        let answer = Http2::connect(gateway.address()).await.exchange(request, b"").await.unwrap();
        assert_eq!((answer.status, answer.problem().as_str()), (400, "method_override"));
    });
}

#[test]
fn it_is_dropped_or_passed_where_the_file_says_so() {
    let origin = Origin::text("hi");
    let gateway = Gateway::start(&format!(
        "defaults: {{method_override: drop}}\nroutes:\n  - {{path: /drop, upstream: \"{0}\"}}\n  \
         - {{path: /pass, upstream: \"{0}\", method_override: pass}}\n  - {{path: /refuse, upstream: \"{0}\", method_override: refuse}}\n",
        origin.url()
    ));
    for name in OVERRIDES {
        let field = format!("{name}: DELETE\r\nX-Tenant: acme\r\n");
        assert_eq!(ask(&gateway, "/drop", &field).status, 200);
        let received = origin.last();
        assert_eq!((received.field(name), received.field("x-tenant")), (None, Some("acme")), "{name}");
        assert_eq!(ask(&gateway, "/pass", &field).status, 200);
        assert_eq!(origin.last().field(name), Some("DELETE"));
        assert_eq!(ask(&gateway, "/refuse", &field).status, 400, "{name}");
    }
    assert!(origin.received().iter().all(|request| request.method() == "GET"));
}

/// conf/browser.yaml, with origins of ours in the place of its upstreams.
#[test]
fn the_example_does_what_it_says() {
    let (api, admin) = (Origin::text("api"), Origin::text("admin"));
    let text = std::fs::read_to_string(repository("conf/browser.yaml")).unwrap();
    let yaml = text
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("http://127.0.0.1:5001", &api.url())
        .replace("http://127.0.0.1:5002", &admin.url());
    let gateway = Gateway::start(&format!(
        "trusted_proxies: [127.0.0.1]\n{}",
        yaml.replace("address: 127", "address: \"127").replace(":0\n", ":0\"\n")
    ));
    let origin = "Origin: https://app.example.com\r\n";
    let response = exchange(
        gateway.address(),
        format!("OPTIONS /api/1 HTTP/1.1\r\nHost: t\r\n{origin}Access-Control-Request-Method: PUT\r\n\r\n"),
    );
    assert_eq!((response.status, response.field("access-control-allow-credentials")), (204, Some("true")));
    assert_usual(&response, "a preflight");
    let response = ask(&gateway, "/api/1", &format!("{origin}X-Internal: 1\r\nCookie: a=1\r\n"));
    assert_eq!(
        (response.text().as_str(), response.field("access-control-allow-origin")),
        ("api", Some("https://app.example.com"))
    );
    assert_eq!((api.last().field("x-internal"), api.last().field("cookie")), (None, Some("a=1")));
    for (client, status) in
        [("10.0.0.1", 200), ("10.66.0.1", 403), ("192.0.2.1", 403), ("2001:db8:1::1", 200)]
    {
        let response = ask(&gateway, "/admin", &format!("X-Forwarded-For: {client}\r\n"));
        assert_eq!(response.status, status, "{client}");
        assert_eq!(response.field("content-security-policy"), Some("default-src 'self'"));
    }
    let mut kept = Raw::connect(gateway.address());
    let answered =
        (0..3).filter(|_| kept.send("GET /api HTTP/1.1\r\nHost: t\r\n\r\n").response().status == 200);
    assert_eq!(answered.count(), 3);
}
