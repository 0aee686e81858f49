//! `cors`: what pages of other origins may do, byte by byte and in a real browser.

#[path = "kit/browser.rs"]
mod browser;
mod kit;

use browser::Browser;
use kit::origin::raw;
use kit::raw::exchange;
use kit::{Gateway, Http2, Origin, Raw, Response, Step};

const APP: &str = "https://app.example.com";
const CORS: &str = "cors: {origins: [\"https://app.example.com\", \"https://*.shop.example.com\"], methods: [GET, PUT], \
                    headers: [x-tenant, authorization], expose: [x-request-id, retry-after], credentials: true, max_age: 1h}";
/// The same without what `credentials` forbids.
const WIDE: &str = "cors: {origins: [\"https://app.example.com\", \"https://*.shop.example.com\", \"null\"]}";

fn in_front_of(origin: &Origin, keys: &str) -> Gateway {
    Gateway::start(&format!(
        "routes: [{{path: /, methods: [GET, PUT], upstream: \"{}\", {keys}}}]\n",
        origin.url()
    ))
}

fn credentials_origins() -> String {
    CORS.replace(", \"https://*.shop.example.com\"", "")
}

fn ask(gateway: &Gateway, method: &str, fields: &[(&str, &str)]) -> Response {
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!("{method} / HTTP/1.1\r\nHost: t\r\n{fields}\r\n");
    Raw::connect(gateway.address()).send(request).response_to(method)
}

fn preflight(gateway: &Gateway, origin: &str, method: &str) -> Response {
    let fields = [
        ("Origin", origin),
        ("Access-Control-Request-Method", method),
        ("Access-Control-Request-Headers", "x-tenant"),
    ];
    ask(gateway, "OPTIONS", &fields)
}

/// All fields that speak to browsers of other origins, in order.
fn told(response: &Response) -> Vec<String> {
    let lines = response.head.lines().skip(1).map(str::to_ascii_lowercase);
    let mut told: Vec<String> = lines.filter(|l| l.starts_with("access-control-")).collect();
    told.sort();
    told
}

fn vary(response: &Response) -> Vec<String> {
    let listed = response.all("vary").join(",").to_ascii_lowercase();
    let mut names: Vec<String> =
        listed.split(',').map(|name| name.trim().to_owned()).filter(|n| !n.is_empty()).collect();
    names.sort();
    names
}

const TOLD: [&str; 3] = [
    "access-control-allow-credentials: true",
    "access-control-allow-origin: https://app.example.com",
    "access-control-expose-headers: x-request-id, retry-after",
];

#[test]
fn a_preflight_is_answered_at_the_door() {
    let origin = Origin::text("in");
    let gateway = in_front_of(&origin, &credentials_origins());
    for method in ["GET", "PUT"] {
        let response = preflight(&gateway, APP, method);
        assert_eq!((response.status, response.text().as_str()), (204, ""), "{response:?}");
        assert_eq!(
            told(&response),
            [
                "access-control-allow-credentials: true",
                "access-control-allow-headers: x-tenant, authorization",
                "access-control-allow-methods: GET, PUT",
                "access-control-allow-origin: https://app.example.com",
                "access-control-expose-headers: x-request-id, retry-after",
                "access-control-max-age: 3600",
            ]
            .map(str::to_ascii_lowercase)
        );
        let varies = ["access-control-request-headers", "access-control-request-method", "origin"];
        assert_eq!(vary(&response), varies);
        assert!(response.field("content-length").is_none() && response.field("x-request-id").is_some());
    }
    for origin in ["https://evil.test", "null", "https://APP.example.com", "https://app.example.com:443", ""]
    {
        let response = preflight(&gateway, origin, "GET");
        assert_eq!((response.status, response.problem().as_str()), (403, "cors_origin"), "{origin}");
        assert_eq!((told(&response).len(), vary(&response)), (0, vec!["origin".to_owned()]), "{origin}");
    }
    // No route has such a method: the answer is what OPTIONS gets there.
    assert_eq!(preflight(&gateway, APP, "DELETE").status, 405);
    assert_eq!(origin.connections(), 0, "none of it is the upstream's business");
}

#[test]
fn what_is_no_preflight_is_a_request_like_any_other() {
    let origin = Origin::text("in");
    let keys = WIDE.replace("]}", "], methods: [\"*\"]}");
    let gateway = Gateway::start(&format!("routes: [{{path: /, upstream: \"{}\", {keys}}}]\n", origin.url()));
    let method = ("Access-Control-Request-Method", "PUT");
    for fields in [
        &[][..],
        &[("Origin", APP)],
        &[method],
        &[("Origin", APP), method, method],
        &[("Origin", APP), ("Access-Control-Request-Headers", "x")],
    ] {
        let before = origin.received().len();
        assert_eq!(ask(&gateway, "OPTIONS", fields).status, 200, "{fields:?}");
        assert_eq!(origin.received().len(), before + 1, "{fields:?}");
    }
    let before = origin.received().len();
    // Two origins are none; nobody is let in for one of them.
    let response = ask(&gateway, "OPTIONS", &[("Origin", APP), ("Origin", "https://evil.test"), method]);
    assert_eq!((response.status, origin.received().len()), (403, before), "{response:?}");
    let response = ask(&gateway, "GET", &[("Origin", APP), ("Origin", "https://evil.test")]);
    assert_eq!((response.status, told(&response).len()), (200, 0));
}

/// The leave of one route is not another's: a page that asks about DELETE is told of the route that DELETE takes.
#[test]
fn a_preflight_finds_the_route_of_its_request() {
    let (closed, open) = (Origin::text("closed"), Origin::text("open"));
    let gateway = Gateway::start(&format!(
        "routes:\n  - {{path: /a, methods: [DELETE], upstream: \"{}\"}}\n  \
         - {{path: /a, upstream: \"{}\", cors: {{origins: [\"{APP}\"], methods: [GET, DELETE]}}}}\n  \
         - {{path: /b, methods: [GET], respond: {{body: b}}, cors: {{origins: [\"https://b.test\"]}}}}\n  \
         - {{path: /b, methods: [PUT], respond: {{body: b}}, cors: {{origins: [\"{APP}\"], methods: [PUT]}}}}\n",
        closed.url(),
        open.url()
    ));
    let preflight = |path: &str, origin: &str, method: &str| {
        exchange(
            gateway.address(),
            format!("OPTIONS {path} HTTP/1.1\r\nHost: t\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: {method}\r\n\r\n"),
        )
    };
    assert_eq!(preflight("/a", APP, "GET").status, 204);
    let response = preflight("/a", APP, "DELETE");
    assert_eq!(response.text(), "open", "a request like any other, to the route that takes OPTIONS");
    assert_eq!(
        response.field("access-control-allow-methods"),
        None,
        "which tells of no method: {response:?}"
    );
    assert_eq!(preflight("/b", "https://b.test", "GET").status, 204);
    assert_eq!(preflight("/b", APP, "PUT").status, 204);
    assert_eq!(preflight("/b", APP, "GET").status, 403);
    assert_eq!(preflight("/b", "https://b.test", "PUT").status, 403);
    assert_eq!(closed.connections(), 0);
}

#[test]
fn answers_say_who_may_read_them() {
    let origin = Origin::start(|_| {
        // An upstream that has a mind of its own.
        raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nAccess-Control-Allow-Origin: *\r\naccess-control-allow-origin: https://evil.test\r\n\
             Access-Control-Allow-Credentials: true\r\nAccess-Control-Allow-Methods: *\r\nAccess-Control-Expose-Headers: *\r\n\
             Vary: Accept-Encoding\r\n\r\nhi")
    });
    let gateway = in_front_of(&origin, &credentials_origins());
    let response = ask(&gateway, "GET", &[("Origin", APP)]);
    assert_eq!((response.status, told(&response)), (200, TOLD.map(str::to_owned).to_vec()));
    assert_eq!(vary(&response), ["accept-encoding", "origin"]);
    for fields in [&[("Origin", "https://evil.test")][..], &[("Origin", "null")], &[]] {
        let response = ask(&gateway, "GET", fields);
        // The request itself is not refused; a browser keeps the answer from the page.
        assert_eq!((response.text().as_str(), told(&response).len()), ("hi", 0), "{fields:?}");
        assert_eq!(vary(&response), ["accept-encoding", "origin"], "{fields:?}");
    }
    assert_eq!(origin.last().field("origin"), None);
}

#[test]
fn everybody_is_told_the_same_where_everybody_may() {
    let origin = Origin::start(|_| {
        raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nVary: Origin, Accept\r\nVary: *\r\n\r\nhi")
    });
    let wide = in_front_of(&origin, "cors: {origins: [\"*\"], headers: [\"*\", authorization]}");
    for fields in [&[("Origin", "https://any.test")][..], &[("Origin", "null")], &[]] {
        let response = ask(&wide, "GET", fields);
        assert_eq!(told(&response), ["access-control-allow-origin: *"], "{fields:?}");
        assert_eq!(response.all("vary"), ["Origin, Accept", "*"], "nothing is added: {fields:?}");
    }
    let response = preflight(&wide, "https://any.test", "PUT");
    assert_eq!(response.status, 204);
    assert_eq!(response.field("access-control-allow-headers"), Some("*, authorization"));
    assert_eq!(response.field("access-control-allow-methods"), Some("GET, HEAD, POST"));
    assert_eq!(response.field("access-control-allow-credentials"), None);
    let some = in_front_of(&origin, WIDE);
    for origin in [APP, "https://a.b.shop.example.com", "null"] {
        let response = ask(&some, "GET", &[("Origin", origin)]);
        assert_eq!(response.field("access-control-allow-origin"), Some(origin));
        assert_eq!(response.all("vary"), ["Origin, Accept", "*"], "it varies by it already");
    }
    assert!(told(&ask(&some, "GET", &[("Origin", "https://shop.example.com")])).is_empty());
}

#[test]
fn what_the_gateway_itself_has_to_say_can_be_read() {
    let breaks = Origin::start(|_| vec![Step::Close]);
    let stalls = Origin::start(|_| vec![Step::Hold]);
    let cors = credentials_origins();
    let gateway = Gateway::start(&format!(
        "trusted_proxies: [127.0.0.1]\ndefaults:\n  {cors}\n  retry: {{attempts: 0}}\nroutes:\n  - {{path: /breaks, upstream: \"{}\"}}\n  \
         - {{path: /stalls, upstream: \"{}\", timeout: 300ms}}\n  - {{path: /small, respond: {{body: x}}, max_body: 1B}}\n  \
         - {{path: /denied, respond: {{body: x}}, deny: [0.0.0.0/0]}}\n  - {{path: /moved, redirect: {{to: /small}}}}\n  \
         - {{path: /own, respond: {{status: 401, body: x}}}}\n  - {{path: /none, cors: false, respond: {{body: x}}}}\n",
        breaks.url(),
        stalls.url()
    ));
    let ask = |path: &str, more: &str| {
        let request = format!("POST {path} HTTP/1.1\r\nHost: t\r\nOrigin: {APP}\r\n{more}");
        exchange(gateway.address(), request)
    };
    let empty = "Content-Length: 0\r\n\r\n";
    for (path, more, status) in [
        ("/breaks", empty, 502),
        ("/stalls", empty, 504),
        ("/small", "Content-Length: 2\r\n\r\nhi", 413),
        ("/small", "X-HTTP-Method: PUT\r\nContent-Length: 0\r\n\r\n", 400),
        ("/denied", empty, 403),
        ("/moved", empty, 308),
        ("/own", empty, 401),
    ] {
        let response = ask(path, more);
        assert_eq!(response.status, status, "{path}: {response:?}");
        assert_eq!(told(&response), TOLD, "{path}");
        assert_eq!(vary(&response), ["origin"], "{path}");
    }
    for path in ["/none", "/nowhere"] {
        let response = ask(path, empty);
        assert_eq!((told(&response).len(), vary(&response).len()), (0, 0), "{path}: {response:?}");
    }
}

#[test]
fn http2_is_told_the_same() {
    let origin = Origin::text("in");
    let gateway = Gateway::start(&format!(
        "listeners: [{{address: \"127.0.0.1:0\", protocols: [h2]}}]\nroutes: [{{path: /, methods: [GET], upstream: \"{}\", {}}}]\n",
        origin.url(),
        credentials_origins()
    ));
    kit::http2::run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let mut request = kit::http2::get("/");
        *request.method_mut() = http::Method::OPTIONS;
        request.headers_mut().insert("origin", APP.parse().unwrap());
        request.headers_mut().insert("access-control-request-method", "GET".parse().unwrap());
        let answer = client.exchange(request, b"").await.unwrap();
        assert_eq!(
            (answer.status, answer.field("access-control-max-age")),
            (204, Some("3600")),
            "{answer:?}"
        );
        let mut request = kit::http2::get("/");
        request.headers_mut().insert("origin", APP.parse().unwrap());
        let answer = client.exchange(request, b"").await.unwrap();
        assert_eq!(
            (answer.status, answer.field("access-control-allow-origin")),
            (200, Some(APP)),
            "{answer:?}"
        );
    });
    assert_eq!(origin.received().len(), 1);
}

/// What a page gets when it fetches with credentials: the answer's status, text and id, or the kind of failure.
fn fetched(browser: &Browser, url: &str, options: &str) -> serde_json::Value {
    browser.ask(&format!(
        "window.result = null; fetch('{url}', {{credentials: 'include', {options}}}).then(async (r) => {{ \
         const text = await r.text(); window.result = {{status: r.status, text, id: r.headers.get('x-request-id'), \
         length: r.headers.get('x-hidden')}}; }}).catch((e) => {{ window.result = {{error: e.name}}; }});"
    ));
    browser.until("the fetch ends", "return window.result !== null");
    browser.ask("return window.result")
}

#[test]
fn a_browser_lets_the_page_of_one_origin_in_and_no_other() {
    let api = Origin::start(|request| {
        let seen = format!(
            "{} cookie={} tenant={}",
            request.method(),
            request.field("cookie").unwrap_or("none"),
            request.field("x-tenant").unwrap_or("none")
        );
        raw(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nSet-Cookie: session=7; Path=/\r\nX-Hidden: 1\r\nCache-Control: no-store\r\n\r\n{seen}",
            seen.len()
        ))
    });
    let broken = Origin::start(|_| vec![Step::Close]);
    let page = || {
        Origin::start(|_| {
            let html = "<!doctype html><link rel=icon href=data:,><title>page</title>";
            raw(format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{html}",
                html.len()
            ))
        })
    };
    let (app, evil) = (page(), page());
    let gateway = Gateway::start(&format!(
        "defaults:\n  retry: {{attempts: 0}}\n  cors: {{origins: [\"{}\"], methods: [GET, PUT], headers: [x-tenant], expose: [x-request-id], \
         credentials: true, max_age: 0s}}\nroutes:\n  - {{path: /api, methods: [GET, PUT, DELETE], upstream: \"{}\"}}\n  \
         - {{path: /broken, upstream: \"{}\"}}\n  - {{path: /denied, respond: {{body: x}}, deny: [0.0.0.0/0]}}\n",
        app.url(),
        api.url(),
        broken.url()
    ));
    let browser = Browser::start();
    browser.open(&format!("{}/", app.url()));
    let (api_url, put) = (gateway.url("/api"), "method: 'PUT', headers: {'X-Tenant': 'acme'}, body: 'x'");
    let first = fetched(&browser, &api_url, "");
    assert_eq!(
        (&first["status"], &first["text"]),
        (&200.into(), &"GET cookie=none tenant=none".into()),
        "{first}"
    );
    let second = fetched(&browser, &api_url, put);
    assert_eq!(second["text"], "PUT cookie=session=7 tenant=acme", "after a preflight: {second}");
    assert!(
        second["id"].is_string() && second["length"].is_null(),
        "it sees what is exposed alone: {second}"
    );
    // Neither the method nor the field was given leave for: the browser asks, and does not go on.
    let before = api.received().len();
    for options in ["method: 'DELETE'", "headers: {'X-Other': '1'}"] {
        assert_eq!(fetched(&browser, &api_url, options)["error"], "TypeError", "{options}");
    }
    assert_eq!(api.received().len(), before);
    // What the gateway says itself reaches the page.
    for (path, status) in [("/broken", 502), ("/denied", 403)] {
        let answer = fetched(&browser, &gateway.url(path), put);
        assert_eq!(answer["status"], status, "{path}: {answer}");
    }

    browser.open(&format!("{}/", evil.url()));
    assert_eq!(fetched(&browser, &api_url, put)["error"], "TypeError");
    assert_eq!(api.received().len(), before, "a preflight stood in the way");
    assert_eq!(fetched(&browser, &api_url, "")["error"], "TypeError", "the answer is kept from the page");
    assert!(
        api.received().iter().all(|request| request.method() != "OPTIONS"),
        "none was the upstream's business"
    );
}
