//! Which route a request takes, and what is answered when none does.

mod kit;

use kit::raw::{exchange, get};
use kit::{Gateway, Origin, Raw, Response};

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

/// One route after the other that answers with its own name, as `{name}: match`.
fn answering(routes: &[(&str, &str)]) -> Gateway {
    let routes: String = routes
        .iter()
        .map(|(name, matching)| format!("  - {{respond: {{body: {name}}}, {matching}}}\n"))
        .collect();
    Gateway::start(&format!("routes:\n{routes}"))
}

/// The body of the answer to this request line and these fields; its status if it is not 200.
fn who_takes(gateway: &Gateway, line: &str, fields: &str) -> String {
    let response = exchange(gateway.address(), format!("{line} HTTP/1.1\r\n{fields}\r\n"));
    match response.status {
        200 => response.text(),
        status => status.to_string(),
    }
}

#[test]
fn hosts_are_exact_or_wildcards_without_port_case_or_final_dot() {
    let gateway = answering(&[
        ("any", "path: /"),
        ("wild", "path: /, hosts: [\"*.example.org\"]"),
        ("deeper", "path: /, hosts: [\"*.eu.example.org\"]"),
        ("exact", "path: /, hosts: [api.example.org, other.test]"),
        ("v4", "path: /, hosts: [127.0.0.1]"),
        ("v6", "path: /, hosts: [\"[::1]\"]"),
    ]);
    for (host, name) in [
        ("api.example.org", "exact"),
        ("other.test", "exact"),
        ("API.Example.ORG", "exact"),
        ("api.example.org:8080", "exact"),
        ("api.example.org.", "exact"),
        ("Api.Example.Org.:443", "exact"),
        ("www.example.org", "wild"),
        ("a.b.example.org", "wild"),
        ("x.eu.example.org:1", "deeper"),
        ("eu.example.org", "wild"),
        ("example.org", "any"),
        ("badexample.org", "any"),
        ("example.org.evil.test", "any"),
        ("api.example.org.evil.test", "any"),
        ("127.0.0.1:80", "v4"),
        ("[::1]:80", "v6"),
        ("[::1]", "v6"),
        ("localhost", "any"),
    ] {
        assert_eq!(who_takes(&gateway, "GET /", &format!("Host: {host}\r\n")), name, "{host}");
    }
    let response = exchange(gateway.address(), "GET / HTTP/1.0\r\n\r\n");
    assert_eq!(response.text(), "any", "HTTP/1.0 may come without Host");
}

#[test]
fn an_absolute_target_is_routed_by_its_host_which_must_be_the_field_too() {
    let gateway = answering(&[("a", "path: /x, hosts: [a.test]"), ("b", "path: /x, hosts: [b.test]")]);
    let ask = |target: &str, host: &str| {
        who_takes(&gateway, &format!("GET {target}"), &format!("Host: {host}\r\n"))
    };
    assert_eq!(ask("http://a.test/x", "a.test"), "a");
    assert_eq!(ask("HTTP://b.test/y/../x", "b.test"), "b");
    assert_eq!(ask("http://a.test/x", "b.test"), "400");
    assert_eq!(ask("http://a.test@b.test/x", "b.test"), "400");
    assert_eq!(ask("ftp://a.test/x", "a.test"), "400");
}

#[test]
fn exact_paths_win_over_longer_prefixes_over_regexes() {
    let gateway = answering(&[
        ("regex", "path: {regex: \"^/a/[0-9]+$\"}"),
        ("short", "path: /a"),
        ("long", "path: /a/b"),
        ("exact", "path: {exact: /a/b/c}"),
        ("only", "path: {regex: \"[.]js$\"}"),
    ]);
    for (path, name) in [
        ("/a", "short"),
        ("/a/", "short"),
        ("/a/7", "short"), // a prefix goes before a regex, whatever the order in the file
        ("/a/bc", "short"),
        ("/a/b", "long"),
        ("/a/b/", "long"),
        ("/a/b/c", "exact"),
        ("/a/b/c/", "long"),
        ("/a/b/cd", "long"),
        ("/x/app.js", "only"),
        ("/x/app.jsx", "404"),
        ("/A", "404"),
    ] {
        assert_eq!(who_takes(&gateway, &format!("GET {path}"), "Host: t\r\n"), name, "{path}");
    }
}

#[test]
fn headers_are_exact_by_regex_or_present() {
    let gateway = answering(&[
        ("exact", "path: /, headers: {x-tenant: acme}"),
        ("regex", "path: /, headers: {x-tenant: {regex: \"^big-\"}}"),
        ("present", "path: /, headers: {X-Beta: {present: true}}"),
    ]);
    for (fields, name) in [
        ("X-TENANT: acme\r\n", "exact"),
        ("x-tenant: other\r\nx-tenant: acme\r\n", "exact"),
        ("x-tenant: big-one\r\n", "regex"),
        ("x-tenant: not-big-one\r\n", "404"),
        ("x-tenant: ACME\r\n", "404"),
        ("x-tenant: acme2\r\n", "404"),
        ("x_tenant: acme\r\n", "404"),
        ("x-beta:\r\n", "present"),
        ("x-beta: no\r\n", "present"),
        ("", "404"),
    ] {
        assert_eq!(who_takes(&gateway, "GET /", &format!("Host: t\r\n{fields}")), name, "{fields}");
    }
}

#[test]
fn query_parameters_are_compared_decoded() {
    let gateway = answering(&[
        ("exact", "path: /, query: {version: \"2\"}"),
        ("spaced", "path: /, query: {q: \"a b\"}"),
        ("regex", "path: /, query: {version: {regex: \"^3[.]\"}}"),
        ("present", "path: /, query: {debug: {present: true}}"),
    ]);
    for (query, name) in [
        ("?version=2", "exact"),
        ("?x=1&version=2&y", "exact"),
        ("?%76ersion=%32", "exact"),
        ("?version=1&version=2", "exact"),
        ("?q=a+b", "spaced"),
        ("?q=a%20b", "spaced"),
        ("?version=3.1", "regex"),
        ("?version=%33.1", "regex"),
        ("?debug", "present"),
        ("?debug=", "present"),
        ("?version=22", "404"),
        ("?Version=2", "404"),
        ("?x=version=2", "404"),
        ("?", "404"),
        ("", "404"),
    ] {
        assert_eq!(who_takes(&gateway, &format!("GET /{query}"), "Host: t\r\n"), name, "{query}");
    }
}

#[test]
fn among_equal_paths_the_more_specific_predicates_win() {
    let gateway = answering(&[
        ("plain", "path: /a"),
        ("query", "path: /a, query: {v: \"1\"}"),
        ("two-queries", "path: /a, query: {v: \"1\", w: \"1\"}"),
        ("header", "path: /a, headers: {x: \"1\"}"),
        ("two-headers", "path: /a, headers: {x: \"1\", y: \"1\"}"),
        ("method", "path: /a, methods: [POST]"),
        ("first", "path: /b, headers: {x: \"1\"}"),
        ("second", "path: /b, headers: {y: \"1\"}"),
    ]);
    for (line, fields, name) in [
        ("GET /a", "", "plain"),
        ("GET /a?v=1", "", "query"),
        ("GET /a?v=1&w=1", "", "two-queries"),
        ("GET /a?v=1&w=1", "x: 1\r\n", "header"), // one header outweighs any number of parameters
        ("GET /a?v=1&w=1", "x: 1\r\ny: 1\r\n", "two-headers"),
        ("POST /a?v=1&w=1", "x: 1\r\ny: 1\r\n", "method"), // and a method outweighs headers
        ("GET /b", "x: 1\r\ny: 1\r\n", "first"),           // then the order in the file
        ("GET /b", "y: 1\r\n", "second"),
    ] {
        assert_eq!(who_takes(&gateway, line, &format!("Host: t\r\n{fields}")), name, "{line} {fields:?}");
    }
}

#[test]
fn a_better_host_or_path_that_asks_for_more_falls_through() {
    let gateway = answering(&[
        ("last", "path: {regex: .}"),
        ("prefix", "path: /a, headers: {x: \"1\"}"),
        ("longer", "path: /a/b, query: {v: \"1\"}"),
        ("exact", "path: {exact: /a/b/c}, methods: [POST]"),
        ("host", "path: /a/b/c, hosts: [h.test], headers: {y: \"1\"}"),
    ]);
    for (line, fields, name) in [
        ("POST /a/b/c?v=1", "Host: h.test\r\nx: 1\r\ny: 1\r\n", "host"),
        ("POST /a/b/c?v=1", "Host: h.test\r\nx: 1\r\n", "exact"),
        ("GET /a/b/c?v=1", "Host: h.test\r\nx: 1\r\n", "longer"),
        ("GET /a/b/c", "Host: h.test\r\nx: 1\r\n", "prefix"),
        ("GET /a/b/c", "Host: h.test\r\n", "last"),
    ] {
        assert_eq!(who_takes(&gateway, line, fields), name, "{line} {fields:?}");
    }
}

#[test]
fn methods_are_exact_so_that_get_does_not_take_head() {
    let origin = Origin::text("x");
    let gateway = Gateway::start(&format!(
        "routes:\n  - {{path: /a, methods: [GET], upstream: \"{0}\"}}\n  - {{path: /a, methods: [POST, PURGE], upstream: \"{0}\"}}\n",
        origin.url()
    ));
    for (method, status) in
        [("GET", 200), ("POST", 200), ("PURGE", 200), ("HEAD", 405), ("OPTIONS", 405), ("get", 405)]
    {
        let mut client = Raw::connect(gateway.address());
        let response = client.send(format!("{method} /a HTTP/1.1\r\nHost: t\r\n\r\n")).response_to(method);
        assert_eq!(response.status, status, "{method}");
        if status == 405 {
            assert_eq!(response.field("allow"), Some("GET, POST, PURGE"), "{method}");
            assert!(method == "HEAD" || response.problem() == "method_not_allowed", "{method}");
        }
    }
    assert_eq!(origin.received().len(), 3);
}

#[test]
fn a_405_names_only_methods_that_the_rest_of_the_request_may_use() {
    let gateway = answering(&[
        ("a", "path: /a, methods: [PUT]"),
        ("b", "path: /a, methods: [DELETE], headers: {x-admin: \"1\"}"),
        ("c", "path: /, methods: [PATCH], hosts: [h.test]"),
    ]);
    let allow = |fields: &str| {
        let response = exchange(gateway.address(), format!("GET /a HTTP/1.1\r\n{fields}\r\n"));
        assert_eq!(response.status, 405);
        response.field("allow").unwrap().to_owned()
    };
    assert_eq!(allow("Host: t\r\n"), "PUT");
    assert_eq!(allow("Host: t\r\nX-Admin: 1\r\n"), "DELETE, PUT");
    assert_eq!(allow("Host: h.test\r\n"), "PATCH, PUT");
    assert_eq!(get(gateway.address(), "/b").status, 404, "no method would help here");
}

#[test]
fn connect_and_trace_are_never_passed_on() {
    let origin = Origin::text("x");
    let gateway = Gateway::start(&format!("routes: [{{path: /, upstream: \"{}\"}}]", origin.url()));
    for line in ["TRACE /a", "CONNECT a.test:443", "CONNECT /a"] {
        let response = exchange(gateway.address(), format!("{line} HTTP/1.1\r\nHost: a.test:443\r\n\r\n"));
        assert!(matches!(response.status, 400 | 405), "{line}: {response:?}");
    }
    let response = exchange(gateway.address(), "OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(response.status, 404, "the server as a whole is no route's path");
    assert_eq!(origin.connections(), 0);
}

/// Raw targets, the path that must win, and the target that must arrive; bytes as in the text, UTF-8 included.
/// A query arrives untouched, save that what no URI has (`"`, `<`, `>`, `` ` ``, bytes beyond ASCII) is escaped as
/// browsers do.
const NORMALISED: [(&str, &str, &str); 47] = [
    ("/", "/", "/"),
    ("//", "/", "/"),
    ("//a", "/a", "/a"),
    ("//a.test/a", "/a.test/a", "/a.test/a"),
    ("///a///b//", "/a/b/", "/a/b/"),
    ("/a/./b", "/a/b", "/a/b"),
    ("/./a", "/a", "/a"),
    ("/a/.", "/a/", "/a/"),
    ("/a/..", "/", "/"),
    ("/a/../b", "/b", "/b"),
    ("/a/x/../../b", "/b", "/b"),
    ("/a//../b", "/b", "/b"),
    ("/a/%2e/b", "/a/b", "/a/b"),
    ("/a/%2e%2e/b", "/b", "/b"),
    ("/a/.%2E/b", "/b", "/b"),
    ("/a/%2E./b", "/b", "/b"),
    ("/%61", "/a", "/a"),
    ("/%41%2d%5F%7e", "/A-_~", "/A-_~"),
    ("/a%3a", "/a%3A", "/a%3A"),
    ("/%e2%82%ac", "/%E2%82%AC", "/%E2%82%AC"),
    ("/€", "/%E2%82%AC", "/%E2%82%AC"),
    ("/caf\u{e9}", "/caf%C3%A9", "/caf%C3%A9"),
    ("/a;b=c", "/a;b=c", "/a;b=c"),
    ("/a%3Bb", "/a%3Bb", "/a%3Bb"),
    ("/a%20b", "/a%20b", "/a%20b"),
    ("/a+b", "/a+b", "/a+b"),
    ("/%2520", "/%2520", "/%2520"),
    ("/%252e%252e/a", "/%252e%252e/a", "/%252e%252e/a"),
    ("/...", "/...", "/..."),
    ("/a../b", "/a../b", "/a../b"),
    ("/..a", "/..a", "/..a"),
    ("/.well-known/x", "/.well-known/x", "/.well-known/x"),
    ("/<a>\"|^`{}", "/%3Ca%3E%22%7C%5E%60%7B%7D", "/%3Ca%3E%22%7C%5E%60%7B%7D"),
    ("/!$&'()*+,:=@[]", "/!$&'()*+,:=@[]", "/!$&'()*+,:=@[]"),
    ("/a?", "/a", "/a?"),
    ("/a?b=%2F//../", "/a", "/a?b=%2F//../"),
    ("/a?b=<b>", "/a", "/a?b=%3Cb%3E"),
    ("/a?b=%zz&c=%00&d=\\", "/a", "/a?b=%zz&c=%00&d=\\"),
    ("/a?b?c=d", "/a", "/a?b?c=d"),
    ("/a?x=€", "/a", "/a?x=%E2%82%AC"),
    ("/a?{\"b\":[1]}|^`'", "/a", "/a?{%22b%22:[1]}|^%60'"),
    ("//a?%61=b//c", "/a", "/a?%61=b//c"),
    ("/./a?", "/a", "/a?"),
    ("http://t/a/../b?c", "/b", "/b?c"),
    ("http://t", "/", "/"),
    ("http://t?a=b", "/", "/?a=b"),
    ("hTTp://t//a", "/a", "/a"),
];

#[test]
fn what_is_routed_is_exactly_what_arrives() {
    let origin = Origin::text("x");
    let mut paths: Vec<&str> = NORMALISED.iter().map(|(_, path, _)| *path).collect();
    paths.sort_unstable();
    paths.dedup();
    // An exact route for each path, which says so to the origin.
    let routes: String = paths
        .iter()
        .map(|path| {
            format!(
                "  - {{path: {{exact: {path:?}}}, upstream: \"{}\", request_headers: {{set: {{x-routed: {path:?}}}}}}}\n",
                origin.url()
            )
        })
        .collect();
    let gateway = Gateway::start(&format!("routes:\n{routes}"));
    for (n, (raw, path, arrives)) in NORMALISED.into_iter().enumerate() {
        let response = get_from_t(&gateway, raw.as_bytes());
        assert_eq!(response.status, 200, "{raw}: {response:?}");
        let received = origin.received();
        assert_eq!(received.len(), n + 1, "{raw}");
        assert_eq!((received[n].field("x-routed"), received[n].target()), (Some(path), arrives), "{raw}");
    }
}

#[test]
fn bytes_of_a_target_that_are_no_utf8_arrive_escaped() {
    let origin = Origin::text("x");
    let gateway = Gateway::start(&format!("routes: [{{path: /a, upstream: \"{}\"}}]", origin.url()));
    for (raw, arrives) in
        [(&b"/a?\xFF=\xE9"[..], "/a?%FF=%E9"), (b"//a?\xFF", "/a?%FF"), (b"/a/\xFF", "/a/%FF")]
    {
        let response = get_from_t(&gateway, raw);
        assert_eq!(response.status, 200, "{arrives}: {response:?}");
        assert_eq!(origin.last().target(), arrives);
    }
}

#[test]
fn what_cannot_be_normalised_is_400_and_never_arrives() {
    let origin = Origin::text("x");
    let gateway = Gateway::start(&format!("routes: [{{path: /, upstream: \"{}\"}}]", origin.url()));
    let cases: [(&[u8], &str); 33] = [
        (b"/a%2Fb", "path_encoded_slash"),
        (b"/a%2fb", "path_encoded_slash"),
        (b"/a%2f..%2fb", "path_encoded_slash"),
        (b"/a%5Cb", "path_backslash"),
        (b"/a%5cb", "path_backslash"),
        (b"/a\\b", "path_backslash"),
        (b"/..\\a", "path_backslash"),
        (b"/a%00", "path_encoded_control"),
        (b"/a%0A", "path_encoded_control"),
        (b"/a%0d%0aX: y", "version"), // the space ends the target
        (b"/a%0d%0aX:y", "path_encoded_control"),
        (b"/%", "path_bad_escape"),
        (b"/%2", "path_bad_escape"),
        (b"/%zz", "path_bad_escape"),
        (b"/%u002f", "path_bad_escape"),
        (b"/a%", "path_bad_escape"),
        (b"/..", "path_above_root"),
        (b"/../a", "path_above_root"),
        (b"/a/../../b", "path_above_root"),
        (b"//..", "path_above_root"),
        (b"/%2e%2e/a", "path_above_root"),
        (b"http://t/../a", "path_above_root"),
        (b"/a/..;/b", "path_dot_parameters"),
        (b"/a/..;x=y/b", "path_dot_parameters"),
        (b"/a/%2e%2e;/b", "path_dot_parameters"),
        (b"/a/..%3b/b", "path_dot_parameters"),
        (b"/a/.;/b", "path_dot_parameters"),
        (b"/a#b", "target"),
        (b"/a\x01", "target"),
        (b"/a\tb", "target"),
        (b"/a\x7F", "target"),
        (b"a", "target_form"),
        (b"?a", "target_form"),
    ];
    for (raw, reason) in cases {
        let shown = String::from_utf8_lossy(raw);
        let response = get_from_t(&gateway, raw);
        assert_eq!(response.status, 400, "{shown}: {response:?}");
        let problem = response.problem();
        assert_eq!(problem, reason, "{shown}");
    }
    assert_eq!(origin.connections(), 0);
}

fn get_from_t(gateway: &Gateway, target: &[u8]) -> Response {
    exchange(gateway.address(), [b"GET ", target, b" HTTP/1.1\r\nHost: t\r\n\r\n"].concat())
}
