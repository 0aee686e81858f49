//! What really reaches the origin and the client, field by field.

mod kit;

use kit::origin::{raw, reply};
use kit::raw::{exchange, get};
use kit::{Gateway, Origin, Raw, Received};

const TRUSTING: &str = "trusted_proxies: [127.0.0.0/8, \"::1\"]\n";

/// One route for everything to this origin, with more keys of the route.
fn in_front_of(origin: &Origin, keys: &str) -> Gateway {
    Gateway::start(&format!("routes:\n  - {{path: /, upstream: \"{}\"{keys}}}\n", origin.url()))
}

fn trusting(origin: &Origin) -> Gateway {
    Gateway::start(&format!("{TRUSTING}routes: [{{path: /, upstream: \"{}\"}}]", origin.url()))
}

/// Sends a GET with these field lines beside Host, and returns what the origin received.
fn received(gateway: &Gateway, origin: &Origin, fields: &str) -> Received {
    let before = origin.received().len();
    let response = exchange(gateway.address(), format!("GET /a HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"));
    assert_eq!(response.status, 200, "{fields:?}: {response:?}");
    assert_eq!(origin.received().len(), before + 1);
    origin.last()
}

/// The gateway's own fields as they are for a client on 127.0.0.1 that nobody trusts.
fn assert_identified(gateway: &Gateway, request: &Received, shown: &str) {
    let port = gateway.address().port().to_string();
    for (name, value) in [
        ("host", "a.test"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "a.test"),
        ("x-forwarded-port", &port),
        ("forwarded", "for=127.0.0.1;proto=http;host=a.test"),
        ("via", "1.1 portcullis"),
    ] {
        assert_eq!(request.field(name), Some(value), "{name} with {shown:?}");
    }
    assert!(request.field("x-request-id").is_some_and(is_new_id), "{shown:?}");
}

fn is_new_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

#[test]
fn hop_by_hop_fields_end_at_the_gateway() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "");
    let request = received(
        &gateway,
        &origin,
        "Connection: keep-alive, X-Hop\r\nConnection: x-other\r\nX-Hop: 1\r\nX-Other: 2\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nTE: trailers\r\nTrailer: X-T\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\nX-Kept: 3\r\n",
    );
    for name in [
        "connection",
        "x-hop",
        "x-other",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "trailer",
        "upgrade",
        "http2-settings",
        "transfer-encoding",
    ] {
        assert!(request.all(name).is_empty(), "{name} in\n{}", request.head);
    }
    assert_eq!(request.field("x-kept"), Some("3"));
}

#[test]
fn hop_by_hop_fields_of_a_response_end_at_the_gateway() {
    let origin = Origin::start(|_| {
        raw("HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nConnection: x-other\r\nX-Hop: 1\r\nX-Other: 2\r\n\
             Keep-Alive: timeout=5\r\nProxy-Connection: close\r\nUpgrade: h2\r\nTrailer: X-T\r\nX-Kept: 3\r\n\
             Content-Length: 2\r\n\r\nok")
    });
    let gateway = in_front_of(&origin, "");
    let mut client = Raw::connect(gateway.address());
    for _ in 0..2 {
        // The second time shows that the origin's `close` was not the client's.
        let response = client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").response();
        for name in ["x-hop", "x-other", "keep-alive", "proxy-connection", "upgrade", "trailer"] {
            assert!(response.all(name).is_empty(), "{name} in\n{}", response.head);
        }
        assert_eq!(response.field("connection"), Some("keep-alive"));
        assert_eq!((response.field("x-kept"), response.text().as_str()), (Some("3"), "ok"));
    }
    assert_eq!(origin.connections(), 2, "a connection that its origin closes is not used again");
}

#[test]
fn a_response_cannot_nominate_the_gateways_fields_or_its_own_framing_away() {
    let origin = Origin::start(|_| {
        raw("HTTP/1.1 200 OK\r\nConnection: x-request-id, server-timing, content-length\r\nContent-Length: 2\r\n\r\nok")
    });
    let response = get(in_front_of(&origin, "").address(), "/");
    assert!(response.field("x-request-id").is_some_and(is_new_id));
    assert!(response.field("server-timing").is_some());
    assert_eq!((response.field("content-length"), response.text().as_str()), (Some("2"), "ok"));
}

#[test]
fn a_client_cannot_nominate_the_gateways_fields_away() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, ", request_headers: {set: {x-env: prod}}");
    // What Pingora protects is refused; all else is taken away from the client's fields, before ours are written.
    for (nominated, refused) in [
        ("x-forwarded-for", true),
        ("X-Forwarded-For", true),
        ("x-forwarded-proto", true),
        ("x-forwarded-host", true),
        ("Host", true),
        ("close, x-forwarded-for", true),
        ("\"x-forwarded-for\"", true),
        (":authority", true),
        ("a, b, c, d, e, f, g, h, i, j, k", true),
        ("x-forwarded-port", false),
        ("forwarded", false),
        ("Via", false),
        ("x-request-id", false),
        ("x-env", false),
        ("close, forwarded, via, x-env", false),
        ("x_forwarded_for", false),
        ("connection", false),
    ] {
        let before = origin.received().len();
        let fields =
            format!("Connection: {nominated}\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n");
        let request = format!("GET /a HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n");
        let response = exchange(gateway.address(), request);
        if refused {
            assert_eq!((response.status, response.problem().as_str()), (400, "malformed"), "{nominated}");
            assert_eq!(origin.received().len(), before, "{nominated} is refused before the origin");
        } else {
            assert_eq!(response.status, 200, "{nominated}");
            let request = origin.last();
            assert_identified(&gateway, &request, nominated);
            assert_eq!(request.field("x-env"), Some("prod"), "{nominated}");
        }
    }
}

#[test]
fn a_client_cannot_nominate_the_framing_of_its_body_away() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "");
    for (nominated, framing, body) in [
        ("content-length", "Content-Length: 5", "hello"),
        ("transfer-encoding", "Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let request =
            format!("POST / HTTP/1.1\r\nHost: a.test\r\nConnection: {nominated}\r\n{framing}\r\n\r\n{body}");
        assert_eq!(exchange(gateway.address(), request).status, 200, "{nominated}");
        assert_eq!(origin.last().body, b"hello", "{nominated}");
    }
}

#[test]
fn the_origin_is_told_who_asks_and_how() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "");
    assert_identified(&gateway, &received(&gateway, &origin, ""), "");
}

#[test]
fn a_host_with_a_port_is_quoted_in_forwarded() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "");
    exchange(gateway.address(), "GET / HTTP/1.1\r\nHost: A.test:81\r\n\r\n");
    let request = origin.last();
    assert_eq!(request.field("host"), Some("A.test:81"));
    assert_eq!(request.field("x-forwarded-host"), Some("A.test:81"));
    assert_eq!(request.field("forwarded"), Some("for=127.0.0.1;proto=http;host=\"A.test:81\""));
}

#[test]
fn a_host_cannot_add_parameters_to_forwarded() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "");
    // `;` and `=` may stand in a Host (RFC 3986 §3.2.2, sub-delims), but they are syntax in Forwarded.
    exchange(gateway.address(), "GET / HTTP/1.1\r\nHost: a.test;for=6.6.6.6\r\n\r\n");
    assert_eq!(
        origin.last().field("forwarded"),
        Some("for=127.0.0.1;proto=http;host=\"a.test;for=6.6.6.6\"")
    );
}

#[test]
fn an_ipv6_client_is_quoted_as_rfc_7239_wants() {
    let origin = Origin::text("x");
    let gateway = Gateway::start(&format!(
        "listeners: [{{address: \"[::1]:0\"}}]\nroutes: [{{path: /, upstream: \"{}\"}}]",
        origin.url()
    ));
    let host = gateway.address().to_string();
    assert!(host.starts_with("[::1]:"));
    exchange(gateway.address(), format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let request = origin.last();
    assert_eq!(request.field("x-forwarded-for"), Some("::1"));
    let expected = format!("for=\"[::1]\";proto=http;host=\"{host}\"");
    assert_eq!(request.field("forwarded"), Some(expected.as_str()));
    assert_eq!(request.field("x-forwarded-port"), Some(gateway.address().port().to_string().as_str()));
}

#[test]
fn via_names_the_gateway_after_those_before() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "");
    for (fields, via) in [
        ("", "1.1 portcullis"),
        ("Via: 1.0 fred\r\n", "1.0 fred, 1.1 portcullis"),
        (
            "Via: 1.0 fred\r\nVia: 1.1 p.example.net (x), 2 q\r\n",
            "1.0 fred, 1.1 p.example.net (x), 2 q, 1.1 portcullis",
        ),
    ] {
        assert_eq!(received(&gateway, &origin, fields).field("via"), Some(via));
    }
}

#[test]
fn via_tells_the_version_that_the_client_spoke() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "");
    exchange(gateway.address(), "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n");
    let request = origin.last();
    assert_eq!(request.line(), "GET / HTTP/1.1");
    assert_eq!(request.field("via"), Some("1.0 portcullis"));
}

#[test]
fn every_request_has_an_id_of_its_own_that_both_sides_see() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "");
    let ids: Vec<String> = (0..3)
        .map(|_| {
            let response = get(gateway.address(), "/");
            let id = response.field("x-request-id").unwrap().to_owned();
            assert!(is_new_id(&id));
            assert_eq!(origin.last().field("x-request-id"), Some(id.as_str()));
            id
        })
        .collect();
    assert!(ids[0] != ids[1] && ids[1] != ids[2]);
}

#[test]
fn an_untrusted_clients_id_is_replaced() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "");
    let request = received(&gateway, &origin, "X-Request-Id: mine\r\nX_Request_Id: mine\r\n");
    assert!(request.field("x-request-id").is_some_and(is_new_id));
    assert!(!request.head.contains("mine"));
}

#[test]
fn a_trusted_proxys_id_is_kept_unless_it_is_bad() {
    let origin = Origin::text("x");
    let gateway = trusting(&origin);
    let long = "a".repeat(128);
    for kept in ["abc-123", "x", &long, "{\"json\":\"in\\\\it\"}"] {
        let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\nX-Request-Id: {kept}\r\n\r\n");
        let response = exchange(gateway.address(), request);
        assert_eq!(response.field("x-request-id"), Some(kept));
        assert_eq!(origin.last().field("x-request-id"), Some(kept));
    }
    let too_long = "a".repeat(129);
    for bad in ["", "a b", "a\tb", "\u{e9}", &too_long] {
        let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\nX-Request-Id: {bad}\r\n\r\n");
        let response = exchange(gateway.address(), request);
        let id = response.field("x-request-id").unwrap().to_owned();
        assert!(is_new_id(&id), "{bad:?} gives {id:?}");
        assert_eq!(origin.last().field("x-request-id"), Some(id.as_str()), "{bad:?}");
    }
}

#[test]
fn a_problem_carries_the_id_of_its_request() {
    let origin = Origin::text("x");
    let gateway =
        Gateway::start(&format!("{TRUSTING}routes: [{{path: /a, upstream: \"{}\"}}]", origin.url()));
    let ask = |id: &str| {
        exchange(gateway.address(), format!("GET /b HTTP/1.1\r\nHost: a.test\r\nX-Request-Id: {id}\r\n\r\n"))
    };
    // `problem` compares the field with the body's `instance`.
    for id in ["abc-123", "with\"quote\\and"] {
        let response = ask(id);
        assert_eq!((response.problem().as_str(), response.field("x-request-id")), ("no_route", Some(id)));
    }
    let response = ask("not one");
    assert_eq!(response.problem(), "no_route");
    assert!(response.field("x-request-id").is_some_and(is_new_id));
}

#[test]
fn what_an_untrusted_client_says_of_itself_is_dropped_in_every_spelling() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "");
    for name in [
        "X-Forwarded-For",
        "x-forwarded-for",
        "X_Forwarded_For",
        "X-Forwarded_For",
        "x_forwarded-for",
        "X-Forwarded-Proto",
        "X_FORWARDED_PROTO",
        "X-Forwarded-Host",
        "X_Forwarded_Host",
        "X-Forwarded-Port",
        "X-Forwarded-User",
        "X-Forwarded-Prefix",
        "X-Forwarded-Server",
        "X-Forwarded-Ssl",
        "X-Forwarded",
        "Forwarded",
        "X-Real-IP",
        "X_Real_IP",
        "x-real-ip",
        "X-Client-IP",
        "True-Client-IP",
        "true_client_ip",
        "X-Cluster-Client-IP",
        "X-Request-Id",
    ] {
        let request = received(&gateway, &origin, &format!("{name}: 6.6.6.6\r\n{name}: 7.7.7.7\r\n"));
        assert!(!request.head.contains("6.6.6.6") && !request.head.contains("7.7.7.7"), "{}", request.head);
        assert!(!name.contains('_') || request.all(name).is_empty(), "{}", request.head);
        assert_identified(&gateway, &request, name);
    }
}

#[test]
fn what_only_resembles_a_forwarding_field_is_kept() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "");
    for name in ["X-Forward", "X-Real-IP-Country", "Forwarded-By", "X-Tenant", "Cf_Ray"] {
        assert_eq!(received(&gateway, &origin, &format!("{name}: 1\r\n")).field(name), Some("1"));
    }
}

/// A byte that is no text must not make a line of the chain vanish: the one left of it would be believed.
#[test]
fn a_spoiled_chain_is_believed_no_further_than_its_spoiled_entry() {
    let origins = [Origin::text("a"), Origin::text("b"), Origin::text("c")];
    let targets: Vec<String> = origins.iter().map(|o| format!("\"{}\"", o.target())).collect();
    let gateway = Gateway::start(&format!(
        "trusted_proxies: [127.0.0.0/8]\nupstreams: {{app: {{targets: [{}], balance: {{consistent_hash: client_ip}}}}}}\n\
         routes: [{{path: /, upstream: app}}]\n",
        targets.join(", ")
    ));
    let place = |chain: &[u8]| {
        let request =
            [b"GET / HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: ".as_slice(), chain, b"\r\n\r\n"].concat();
        exchange(gateway.address(), request).text()
    };
    // Where a client hashes to shows which address is believed; several addresses make a chance hit unlikely.
    for n in 1..20 {
        let honest = place(format!("198.51.100.{n}").as_bytes());
        assert_eq!(
            place(&[b"203.0.113.9, \xff, ".as_slice(), format!("198.51.100.{n}").as_bytes()].concat()),
            honest
        );
        let two_lines =
            [b"203.0.113.9\r\nX-Forwarded-For: \xff, ".as_slice(), format!("198.51.100.{n}").as_bytes()]
                .concat();
        assert_eq!(place(&two_lines), honest);
    }
}

#[test]
fn a_trusted_proxys_chain_is_continued() {
    let origin = Origin::text("x");
    let gateway = trusting(&origin);
    let request = received(
        &gateway,
        &origin,
        "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: 10.1.1.1, 10.1.1.2\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: www.test\r\nX-Forwarded-Port: 443\r\nForwarded: for=6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\n\
         X-Real-IP: 203.0.113.7\r\nX-Forwarded-User: alice\r\n",
    );
    for (name, value) in [
        ("x-forwarded-for", "203.0.113.7, 10.1.1.1, 10.1.1.2, 127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "www.test"),
        ("x-forwarded-port", "443"),
        ("forwarded", "for=203.0.113.7, for=10.1.1.1, for=10.1.1.2, for=127.0.0.1;proto=http;host=a.test"),
        ("x-real-ip", "203.0.113.7"),
        ("x-forwarded-user", "alice"),
        ("host", "a.test"),
    ] {
        assert_eq!(request.field(name), Some(value), "{name}");
    }
    // Where it says nothing the gateway speaks for itself.
    let request = received(&gateway, &origin, "");
    assert_identified(&gateway, &request, "nothing from a trusted proxy");
}

#[test]
fn only_configured_networks_are_trusted() {
    let origin = Origin::text("x");
    let gateway = Gateway::start(&format!(
        "trusted_proxies: [10.0.0.0/8, 127.0.0.2]\nroutes: [{{path: /, upstream: \"{}\"}}]",
        origin.url()
    ));
    let request = received(&gateway, &origin, "X-Forwarded-For: 10.0.0.1\r\n");
    assert_identified(&gateway, &request, "127.0.0.1 is not 127.0.0.2");
}

#[test]
fn ordinary_fields_arrive_as_they_were_sent() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "");
    let lines = [
        "X-MiXeD-CaSe: Value With  Two Spaces",
        "x-lower: 1",
        "X-UPPER: 2",
        "X-Empty: ",
        "Cookie: a=1; b=\"2\"; c=",
        "Authorization: Basic YTpi",
        "Accept-Encoding: gzip, br;q=0.5",
        "User-Agent: test/1 (x; y)",
        "X-Quoted: \"a, b\"; c=d",
        "X_Underscore: 3",
        "X-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "!#$%&'*+-.^_`|~: token",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ];
    let request = received(&gateway, &origin, &(lines.join("\r\n") + "\r\n"));
    for line in lines {
        // An empty value needs no space after the colon.
        assert!(
            request.head.lines().any(|l| l.trim_end() == line.trim_end()),
            "{line:?} is not in\n{}",
            request.head
        );
    }
}

#[test]
fn values_of_one_name_keep_their_number_and_order() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "");
    let request = received(
        &gateway,
        &origin,
        "X-List: 1\r\nCookie: a=1\r\nx-list: 2, 3\r\nX-Between: b\r\nX-List:\r\nCookie: b=2\r\nX-LIST: 1\r\n",
    );
    assert_eq!(request.all("x-list"), ["1", "2, 3", "", "1"]);
    assert_eq!(request.all("cookie"), ["a=1", "b=2"]);
    let names: Vec<&str> = request
        .head
        .lines()
        .filter_map(|l| l.split_once(':').map(|(name, _)| name))
        .filter(|name| name.eq_ignore_ascii_case("x-list"))
        .collect();
    assert_eq!(names, ["X-List", "x-list", "X-List", "X-LIST"]);
}

#[test]
fn bytes_beyond_ascii_pass_both_ways() {
    let origin = Origin::start(|_| {
        raw(b"HTTP/1.1 200 OK\r\nX-Latin: caf\xE9\r\nX-Any: \x80\xFF\r\nContent-Length: 0\r\n\r\n")
    });
    let gateway = in_front_of(&origin, "");
    let response = exchange(
        gateway.address(),
        b"GET / HTTP/1.1\r\nHost: a.test\r\nX-Latin: caf\xE9\r\nX-Utf: caf\xC3\xA9\r\nVia: 1.0 \xE9\r\n\r\n",
    );
    let holds = |head: &[u8], part: &[u8]| head.windows(part.len()).any(|w| w == part);
    let request = origin.last();
    assert!(holds(&request.raw_head, b"\r\nX-Latin: caf\xE9\r\n"), "{:?}", request.head);
    assert!(holds(&request.raw_head, b"\r\nX-Utf: caf\xC3\xA9\r\n"), "{:?}", request.head);
    assert!(holds(&request.raw_head, b"1.0 \xE9, 1.1 portcullis\r\n"), "{:?}", request.head);
    assert!(holds(&response.raw_head, b"\r\nX-Latin: caf\xE9\r\n"), "{:?}", response.head);
    assert!(holds(&response.raw_head, b"\r\nX-Any: \x80\xFF\r\n"), "{:?}", response.head);
}

#[test]
fn host_passes_as_it_was_sent() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "");
    for host in ["a.test", "A.TeSt", "a.test:8080", "a.test.", "[::1]:80", "127.0.0.1", "xn--bcher-kva.test"]
    {
        exchange(gateway.address(), format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(origin.last().field("host"), Some(host));
    }
}

#[test]
fn the_origins_response_fields_reach_the_client() {
    let origin = Origin::start(|_| {
        raw("HTTP/1.1 200 Fine\r\nServer: acme/1\r\nSet-Cookie: a=1; Path=/\r\nX-MiXeD: v\r\nSet-Cookie: b=2\r\n\
             Content-Type: text/plain\r\nETag: \"x\"\r\nCache-Control: no-store\r\nX-Empty:\r\nVary: a\r\nVary: b\r\n\
             Content-Length: 2\r\n\r\nok")
    });
    let gateway = in_front_of(&origin, "");
    let response = get(gateway.address(), "/");
    assert_eq!(response.all("set-cookie"), ["a=1; Path=/", "b=2"]);
    assert_eq!(response.all("vary"), ["a", "b"]);
    assert!(response.head.contains("\r\nX-MiXeD: v\r\n"), "{}", response.head);
    for (name, value) in [
        ("server", "acme/1"),
        ("content-type", "text/plain"),
        ("etag", "\"x\""),
        ("cache-control", "no-store"),
        ("x-empty", ""),
        ("content-length", "2"),
    ] {
        assert_eq!(response.field(name), Some(value), "{name}");
    }
    assert!(response.head.starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_response_without_server_gets_none() {
    let response = get(in_front_of(&Origin::text("x"), "").address(), "/");
    assert_eq!(response.field("server"), None);
    assert!(response.field("date").is_some(), "RFC 9110 §6.6.1: a recipient with a clock adds it");
}

#[test]
fn there_is_one_date_and_it_is_the_gateways() {
    // Pingora 0.9.1 writes its own Date over the origin's and lets nobody keep it; the README says so.
    let origin = Origin::start(|_| {
        raw("HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\n\r\n")
    });
    let response = get(in_front_of(&origin, "").address(), "/");
    assert!(
        response.field("date").is_some_and(|d| d.ends_with(" GMT") && !d.contains("1994")),
        "{response:?}"
    );
}

#[test]
fn the_gateway_adds_its_timing_and_the_id_and_never_the_target() {
    let origin = Origin::start(|_| {
        raw("HTTP/1.1 200 OK\r\nX-Request-Id: of-the-origin\r\nServer-Timing: db;dur=53\r\nContent-Length: 0\r\n\r\n")
    });
    let gateway = in_front_of(&origin, "");
    let response = get(gateway.address(), "/");
    let id = response.field("x-request-id").unwrap();
    assert_eq!(origin.last().field("x-request-id"), Some(id));
    let timing = response.all("server-timing").join(", ");
    assert!(timing.starts_with("db;dur=53, gateway;dur="), "the origin's own are kept: {timing}");
    assert!(timing.contains(", upstream;dur="), "{timing}");
    for told in [origin.address.port().to_string(), "127.0.0.1".to_owned()] {
        assert!(!response.head.contains(&told), "{}", response.head);
    }
}

#[test]
fn redirects_of_the_origin_are_passed_on_and_never_followed() {
    let elsewhere = Origin::text("elsewhere");
    let to = elsewhere.url();
    let origin = Origin::start(move |request| {
        let status = request.target().trim_start_matches('/');
        raw(format!("HTTP/1.1 {status} Moved\r\nLocation: {to}/next?a=b\r\nContent-Length: 0\r\n\r\n"))
    });
    let gateway = in_front_of(&origin, "");
    for status in [301, 302, 303, 307, 308] {
        let response = get(gateway.address(), &format!("/{status}"));
        assert_eq!(response.status, status);
        assert_eq!(response.field("location"), Some(format!("{}/next?a=b", elsewhere.url()).as_str()));
    }
    assert_eq!((origin.received().len(), elsewhere.connections()), (5, 0));
}

#[test]
fn request_headers_are_removed_then_set_then_added() {
    let origin = Origin::text("x");
    let gateway = in_front_of(
        &origin,
        ", request_headers: {remove: [x-secret, X-Both], set: {X-Env: prod, x-both: set}, add: {x-tag: mine, x-both: added}}",
    );
    let request = received(
        &gateway,
        &origin,
        "X-Secret: 1\r\nx-secret: 2\r\nX-ENV: dev\r\nX-Env: test\r\nX-Tag: theirs\r\nX-Both: theirs\r\nX-Kept: 1\r\n",
    );
    assert!(request.all("x-secret").is_empty());
    assert_eq!(request.all("x-env"), ["prod"], "what the client sent does not count");
    assert_eq!(request.all("x-tag"), ["theirs", "mine"]);
    assert_eq!(request.all("x-both"), ["set", "added"]);
    assert_eq!(request.field("x-kept"), Some("1"));
}

#[test]
fn request_headers_may_replace_what_the_gateway_says() {
    let origin = Origin::text("x");
    let gateway = in_front_of(
        &origin,
        ", request_headers: {remove: [forwarded, via], set: {x-forwarded-proto: https}}",
    );
    let request = received(&gateway, &origin, "X-Forwarded-Proto: spoofed\r\n");
    assert_eq!((request.field("forwarded"), request.field("via")), (None, None));
    assert_eq!(request.field("x-forwarded-proto"), Some("https"));
}

#[test]
fn response_headers_apply_to_whatever_the_route_answers() {
    let origin = Origin::start(|_| {
        raw("HTTP/1.1 200 OK\r\nServer: acme/1\r\nX-Frame-Options: ALLOW\r\nVary: a\r\nContent-Length: 2\r\n\r\nok")
    });
    let edits =
        "response_headers: {remove: [server, server-timing], set: {X-Frame-Options: DENY}, add: {vary: b}}";
    let gateway = Gateway::start(&format!(
        "routes:\n  - {{path: /to, upstream: \"{}\", {edits}}}\n  - {{path: /own, respond: {{body: hi}}, {edits}}}\n  \
         - {{path: /away, redirect: {{to: /to}}, {edits}}}\n",
        origin.url()
    ));
    for (target, status, vary) in
        [("/to", 200, &["a", "b"][..]), ("/own", 200, &["b"]), ("/away", 308, &["b"])]
    {
        let response = get(gateway.address(), target);
        assert_eq!(response.status, status, "{target}");
        assert_eq!(response.field("x-frame-options"), Some("DENY"), "{target}");
        assert_eq!((response.field("server"), response.field("server-timing")), (None, None), "{target}");
        assert_eq!(response.all("vary"), vary, "{target}");
        assert!(response.field("x-request-id").is_some(), "{target}");
    }
}

#[test]
fn an_interim_response_carries_no_fields_of_the_gateway() {
    let origin = Origin::start(|_| {
        let mut steps = raw("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n");
        steps.extend(reply(200, "ok"));
        steps
    });
    let gateway = in_front_of(&origin, ", response_headers: {set: {x-env: prod}}");
    let mut client = Raw::connect(gateway.address());
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let hints = client.one_response("GET").unwrap();
    assert_eq!((hints.status, hints.field("link")), (103, Some("</a.css>; rel=preload")));
    assert_eq!((hints.field("x-request-id"), hints.field("x-env")), (None, None));
    let response = client.response();
    assert_eq!(
        (response.status, response.field("x-env"), response.text().as_str()),
        (200, Some("prod"), "ok")
    );
}

#[test]
fn names_go_out_as_they_were_spelt_whatever_that_is() {
    let origin = Origin::text("x");
    let gateway = in_front_of(&origin, "");
    for fields in [
        "",
        "x-tenant: a\r\nuser-agent: b\r\naccept: c\r\nx-tenant: d\r\n",
        "X-Tenant: a\r\nUser-Agent: b\r\nAccept: c\r\nx-TENANT: d\r\n",
        "Content-Type: a/b\r\nCache-Control: c\r\nx-tenant: d\r\n",
        "x-tenant: a\r\nX-Other: b\r\n",
    ] {
        let request = received(&gateway, &origin, fields);
        let came = |line: &&str| line.starts_with("Host: ") || fields.split("\r\n").any(|f| f == *line);
        let lines: Vec<&str> = request.head.split("\r\n").filter(came).collect();
        let expected: Vec<&str> =
            ["Host: a.test"].into_iter().chain(fields.split_terminator("\r\n")).collect();
        // Lines of one field stay in order; fields need not (RFC 9110 §5.3).
        let sorted = |mut lines: Vec<&str>| {
            lines.sort_by_key(|line| line.split(':').next().unwrap_or_default().to_ascii_lowercase());
            lines.join("\n")
        };
        assert_eq!(sorted(lines), sorted(expected), "{}", request.head);
        assert_identified(&gateway, &request, fields);
    }
}

#[test]
fn a_trusted_proxys_chain_is_kept_in_either_spelling() {
    let origin = Origin::text("x");
    let routes = format!("routes: [{{path: /, upstream: \"{}\"}}]", origin.url());
    let gateway = Gateway::start(&format!("trusted_proxies: [127.0.0.0/8]\n{routes}"));
    for (name, proto) in [("X-Forwarded-For", "X-Forwarded-Proto"), ("x-forwarded-for", "x-forwarded-proto")]
    {
        let fields = format!("{name}: 6.6.6.6\r\n{name}: 7.7.7.7\r\n{proto}: https\r\nvia: 2 edge\r\n");
        let request = received(&gateway, &origin, &fields);
        assert_eq!(request.field(name), Some("6.6.6.6, 7.7.7.7, 127.0.0.1"), "{}", request.head);
        assert_eq!(request.field(proto), Some("https"), "{}", request.head);
        assert_eq!(request.field("via"), Some("2 edge, 1.1 portcullis"), "{}", request.head);
        let forwarded = "for=6.6.6.6, for=7.7.7.7, for=127.0.0.1;proto=http;host=a.test";
        assert_eq!(request.field("forwarded"), Some(forwarded), "{}", request.head);
    }
}

#[test]
fn the_gateways_own_response_fields_can_be_edited_like_any_other() {
    let origin =
        Origin::start(|_| raw("HTTP/1.1 200 OK\r\nServer-Timing: db;dur=53\r\nContent-Length: 0\r\n\r\n"));
    let ask = |edits: &str| {
        let gateway = in_front_of(&origin, &format!(", response_headers: {edits}"));
        exchange(gateway.address(), "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    };
    let response = ask("{remove: [x-request-id, server-timing]}");
    assert_eq!((response.field("x-request-id"), response.field("server-timing")), (None, None));
    let response = ask("{set: {x-request-id: mine, server-timing: none}}");
    assert_eq!(
        (response.field("x-request-id"), response.field("server-timing")),
        (Some("mine"), Some("none"))
    );
    let response = ask("{add: {x-request-id: mine}}");
    let ids = response.all("x-request-id");
    assert!(ids.len() == 2 && ids.contains(&"mine"), "{}", response.head);
    assert_eq!(response.all("server-timing").len(), 2, "{}", response.head);
}
