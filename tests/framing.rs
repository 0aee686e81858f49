//! Requests that two readers could delimit or understand differently are refused, and nothing of what is hidden in
//! them reaches an origin.

mod kit;

use kit::raw::exchange;
use kit::{until, Gateway, Origin, Raw};

/// What an attacker hides behind a request: if an origin ever gets it, the gateway was fooled.
const HIDDEN: &[u8] = b"GET /hidden HTTP/1.1\r\nHost: t\r\n\r\n";

/// A name, the bytes, the status, the reason in the problem's `type`.
type Case = (&'static str, &'static [u8], u16, &'static str);

fn gateway(origin: &Origin) -> Gateway {
    Gateway::start(&format!("routes: [{{path: /, upstream: \"{}\"}}]", origin.url()))
}

/// Sends a refused request with another hidden behind it; `bytewise` cuts it as finely as can be.
fn assert_refused(gateway: &Gateway, case: &Case, bytewise: bool) {
    let (name, bytes, status, reason) = *case;
    let mut client = Raw::connect(gateway.address());
    let all = [bytes, HIDDEN].concat();
    if bytewise {
        for byte in &all {
            client.send([*byte]);
        }
    } else {
        client.send(&all);
    }
    let response = client.response();
    assert_eq!((response.status, response.problem().as_str()), (status, reason), "{name}");
    assert_eq!(response.field("connection"), Some("close"), "{name}");
    assert_eq!(String::from_utf8_lossy(&client.rest()), "", "{name}: nothing comes after the refusal");
}

/// Everything that the origin has received once nothing is under way any more: one good request proves that the
/// gateway still serves, and is left out.
fn settle(gateway: &Gateway, origin: &Origin) -> Vec<kit::Received> {
    let good = exchange(gateway.address(), "GET /good HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    assert_eq!(good.status, 200);
    until("only the good request's connection is left", || origin.open() <= 1);
    let mut received = origin.received();
    let good = received.iter().position(|r| r.line() == "GET /good HTTP/1.1").expect("the good request");
    received.remove(good);
    received
}

#[test]
#[rustfmt::skip] // one line a case
fn ambiguous_heads_are_refused_and_nothing_reaches_the_origin() {
    let cases: &[Case] = &[
        // Content-Length and Transfer-Encoding
        ("length and coding", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "length_and_coding"),
        ("coding and length", b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400, "length_and_coding"),
        ("two equal lengths", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", 400, "length_duplicate"),
        ("two lengths", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\nContent-Length: 33\r\n\r\n", 400, "length_duplicate"),
        ("list of equal lengths", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0, 0\r\n\r\n", 400, "length_list"),
        ("list of lengths", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0,33\r\n\r\n", 400, "length_list"),
        ("length with plus", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: +0\r\n\r\n", 400, "length_invalid"),
        ("length with minus", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: -1\r\n\r\n", 400, "length_invalid"),
        ("length with a space in it", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0 33\r\n\r\n", 400, "length_invalid"),
        ("length in hexadecimal", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0x21\r\n\r\n", 400, "length_invalid"),
        ("length with a point", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0.0\r\n\r\n", 400, "length_invalid"),
        ("length with an underscore", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3_3\r\n\r\n", 400, "length_invalid"),
        ("no length at all", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: \r\n\r\n", 400, "length_invalid"),
        ("length of 2^63", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 9223372036854775808\r\n\r\n", 400, "length_invalid"),
        ("length of 2^64 and a bit", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 18446744073709551617\r\n\r\n", 400, "length_invalid"),
        ("Content_Length", b"POST / HTTP/1.1\r\nHost: t\r\nContent_Length: 33\r\n\r\n", 400, "underscore"),
        ("Transfer_Encoding", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\nTransfer_Encoding: chunked\r\n\r\n", 400, "underscore"),
        // Transfer-Encoding alone
        ("chunked not last", b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 400, "coding_invalid"),
        ("chunked twice", b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", 400, "coding_invalid"),
        ("identity", b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: identity\r\n\r\n", 400, "coding_invalid"),
        ("nearly chunked", b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: xchunked\r\n\r\n", 400, "coding_invalid"),
        ("quoted chunked", b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", 400, "coding_invalid"),
        ("chunked with a parameter", b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", 400, "coding_invalid"),
        ("empty element before chunked", b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: ,chunked\r\n\r\n", 400, "coding_invalid"),
        ("no coding at all", b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding:\r\n\r\n", 400, "coding_invalid"),
        ("vertical tab before chunked", b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", 400, "field_value"),
        ("two codings", b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", 400, "coding_invalid"),
        ("chunked in two fields", b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "coding_duplicate"),
        ("gzip, chunked", b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, "coding_unsupported"),
        ("coding in HTTP/1.0", b"POST / HTTP/1.0\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "coding_in_http10"),
        // line ends and white space
        ("LF only", b"GET / HTTP/1.1\nHost: t\n\n", 400, "bare_lf"),
        ("LF after one field", b"GET / HTTP/1.1\r\nHost: t\r\nX: y\nZ: z\r\n\r\n", 400, "bare_lf"),
        ("LF as empty line", b"GET / HTTP/1.1\r\nHost: t\r\n\n", 400, "bare_lf"),
        ("CR in a value", b"GET / HTTP/1.1\r\nHost: t\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n", 400, "bare_cr"),
        ("CR CR LF", b"GET / HTTP/1.1\r\nHost: t\r\r\n\r\n", 400, "bare_cr"),
        ("CR in the request line", b"GET /\r HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bare_cr"),
        ("obs-fold", b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", 400, "coding_invalid"),
        ("obs-fold after a value", b"GET / HTTP/1.1\r\nHost: t\r\nX: y\r\n\tz\r\n\r\n", 400, "fold"),
        ("space before the first field", b"GET / HTTP/1.1\r\n Host: t\r\n\r\n", 400, "fold"),
        ("space before the colon", b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding : chunked\r\n\r\n", 400, "space_before_colon"),
        ("tab before the colon", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length\t: 33\r\n\r\n", 400, "space_before_colon"),
        ("NUL in a value", b"GET / HTTP/1.1\r\nHost: t\r\nX: a\0b\r\n\r\n", 400, "nul"),
        ("NUL in a name", b"GET / HTTP/1.1\r\nHost: t\r\nX\0: a\r\n\r\n", 400, "nul"),
        ("DEL in a value", b"GET / HTTP/1.1\r\nHost: t\r\nX: a\x7fb\r\n\r\n", 400, "field_value"),
        ("no colon", b"GET / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding chunked\r\n\r\n", 400, "field_name"),
        ("no name", b"GET / HTTP/1.1\r\nHost: t\r\n: x\r\n\r\n", 400, "field_name"),
        ("bracket in a name", b"GET / HTTP/1.1\r\nHost: t\r\nX(y: z\r\n\r\n", 400, "field_name"),
        ("five empty lines first", b"\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: t\r\n\r\n", 400, "empty_lines"),
        // the host
        ("no Host", b"GET / HTTP/1.1\r\n\r\n", 400, "host_missing"),
        ("two Hosts", b"GET / HTTP/1.1\r\nHost: t\r\nHost: u\r\n\r\n", 400, "host_duplicate"),
        ("two equal Hosts", b"GET / HTTP/1.1\r\nHost: t\r\nhost: t\r\n\r\n", 400, "host_duplicate"),
        ("two hosts in one", b"GET / HTTP/1.1\r\nHost: t,u\r\n\r\n", 400, "host_invalid"),
        ("Host with a path", b"GET / HTTP/1.1\r\nHost: t/u\r\n\r\n", 400, "host_invalid"),
        ("Host with a user", b"GET / HTTP/1.1\r\nHost: u@t\r\n\r\n", 400, "host_invalid"),
        ("absolute-form, another host", b"GET http://u/ HTTP/1.1\r\nHost: t\r\n\r\n", 400, "host_mismatch"),
        ("absolute-form, another port", b"GET http://t:81/ HTTP/1.1\r\nHost: t\r\n\r\n", 400, "host_mismatch"),
        ("absolute-form with a user", b"GET http://u@t/ HTTP/1.1\r\nHost: t\r\n\r\n", 400, "target_form"),
        ("absolute-form, another scheme", b"GET ftp://t/ HTTP/1.1\r\nHost: t\r\n\r\n", 400, "target_form"),
        // the request line
        ("CONNECT", b"CONNECT t:443 HTTP/1.1\r\nHost: t:443\r\n\r\n", 405, "method_refused"),
        ("TRACE", b"TRACE / HTTP/1.1\r\nHost: t\r\n\r\n", 405, "method_refused"),
        ("trace", b"trace / HTTP/1.1\r\nHost: t\r\n\r\n", 405, "method_refused"),
        ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "version_unsupported"),
        ("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: t\r\n\r\n", 505, "version_unsupported"),
        ("HTTP/0.9", b"GET /\r\n", 400, "request_line"),
        ("lower-case version", b"GET / http/1.1\r\nHost: t\r\n\r\n", 400, "version"),
        ("version with a leading zero", b"GET / HTTP/01.1\r\nHost: t\r\n\r\n", 400, "version"),
        ("two spaces", b"GET  / HTTP/1.1\r\nHost: t\r\n\r\n", 400, "version"),
        ("tab for space", b"GET\t/ HTTP/1.1\r\nHost: t\r\n\r\n", 400, "method"),
        ("space in the target", b"GET /a b HTTP/1.1\r\nHost: t\r\n\r\n", 400, "version"),
        ("fragment", b"GET /a#b HTTP/1.1\r\nHost: t\r\n\r\n", 400, "target"),
        ("asterisk", b"GET * HTTP/1.1\r\nHost: t\r\n\r\n", 400, "target_form"),
        ("no slash", b"GET a HTTP/1.1\r\nHost: t\r\n\r\n", 400, "target_form"),
        ("a TLS ClientHello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "method"),
        ("another expectation", b"POST / HTTP/1.1\r\nHost: t\r\nExpect: 200-ok\r\nContent-Length: 0\r\n\r\n", 417, "expectation"),
    ];
    let origin = Origin::text("x");
    let gateway = gateway(&origin);
    for bytewise in [false, true] {
        for case in cases {
            assert_refused(&gateway, case, bytewise);
        }
    }
    let received = settle(&gateway, &origin);
    assert!(received.is_empty(), "{received:#?}");
}

#[test]
fn heads_beyond_the_usual_limits_are_414_and_431() {
    let origin = Origin::text("x");
    let gateway = gateway(&origin);
    let target = "x".repeat(8 << 10);
    let field = "x".repeat(32 << 10);
    let fields = "X: y\r\n".repeat(100);
    for (bytes, status, reason) in [
        (format!("GET /{target} HTTP/1.1\r\nHost: t\r\n\r\n"), 414, "target_too_long"),
        (format!("GET / HTTP/1.1\r\nHost: t\r\nX: {field}\r\n\r\n"), 431, "head_too_large"),
        (format!("GET / HTTP/1.1\r\nHost: t\r\n{fields}\r\n"), 431, "too_many_fields"),
    ] {
        assert_refused(&gateway, &("limit", bytes.leak().as_bytes(), status, reason), false);
    }
    assert!(settle(&gateway, &origin).is_empty());
}

#[test]
#[rustfmt::skip] // one line a case
fn broken_chunks_are_400_and_the_origin_never_sees_a_whole_request() {
    let cases: &[(&str, &[u8])] = &[
        ("no size", b"\r\n\r\n"),
        ("size is no number", b"xyz\r\n\r\n"),
        ("0x size", b"0x1\r\na\r\n0\r\n\r\n"),
        ("signed size", b"+1\r\na\r\n0\r\n\r\n"),
        ("negative size", b"-1\r\na\r\n0\r\n\r\n"),
        ("size that overflows to 1", b"10000000000000001\r\na\r\n0\r\n\r\n"),
        ("size of 2^63", b"8000000000000000\r\na\r\n0\r\n\r\n"),
        ("space before the size", b" 1\r\na\r\n0\r\n\r\n"),
        ("space after the size", b"1 \r\na\r\n0\r\n\r\n"),
        ("LF after the size", b"1\na\r\n0\r\n\r\n"),
        ("CR after the size", b"1\ra\r\n0\r\n\r\n"),
        ("LF in an extension", b"1;a\nb\r\na\r\n0\r\n\r\n"),
        ("CR in an extension", b"1;a\rb\r\na\r\n0\r\n\r\n"),
        ("line end in a quoted extension", b"1;a=\"\r\n0\r\n\r\n\"\r\na\r\n0\r\n\r\n"),
        ("NUL in an extension", b"1;\0\r\na\r\n0\r\n\r\n"),
        ("extension gone wild", b""), // see below
        ("data longer than its size", b"1\r\nab\r\n0\r\n\r\n"),
        ("data shorter than its size", b"3\r\na\r\n0\r\n\r\n"),
        ("LF after the data", b"1\r\na\n0\r\n\r\n"),
        ("LF after the last size", b"1\r\na\r\n0\n\r\n"),
        ("LF at the very end", b"1\r\na\r\n0\r\n\n"),
        ("trailer without colon", b"1\r\na\r\n0\r\nabc\r\n\r\n"),
        ("trailer with space before the colon", b"1\r\na\r\n0\r\nA : b\r\n\r\n"),
        ("folded trailer", b"1\r\na\r\n0\r\nA: b\r\n c\r\n\r\n"),
        ("NUL in a trailer", b"1\r\na\r\n0\r\nA: \0\r\n\r\n"),
        ("LF in a trailer", b"1\r\na\r\n0\r\nA: b\nC: d\r\n\r\n"),
        ("no last chunk's empty line", b"1\r\na\r\n0\r\n"),
    ];
    let wild = [b"1;".as_slice(), &[b'x'; 300], b"\r\na\r\n0\r\n\r\n"].concat();
    let origin = Origin::text("x");
    let gateway = gateway(&origin);
    for (name, body) in cases {
        let body = if body.is_empty() { &wild } else { *body };
        let head = b"POST /broken HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
        let bytes: &'static [u8] = [head, body].concat().leak();
        for bytewise in [false, true] {
            assert_refused(&gateway, &(name, bytes, 400, "chunked_coding"), bytewise);
        }
    }
    for request in settle(&gateway, &origin) {
        assert_eq!(request.line(), "POST /broken HTTP/1.1");
        assert!(!request.complete, "{request:?}");
    }
}

#[test]
#[rustfmt::skip] // one line a case
fn paths_that_two_readers_could_take_for_two_are_refused_and_the_connection_goes_on() {
    let origin = Origin::text("x");
    let gateway = gateway(&origin);
    let mut client = Raw::connect(gateway.address());
    for (target, reason) in [
        ("/api%2fadmin", "path_encoded_slash"),
        ("/api%2Fadmin", "path_encoded_slash"),
        ("/a%00b", "path_encoded_control"),
        ("/a%0d%0aX:y", "path_encoded_control"),
        ("/api/../..", "path_above_root"),
        ("/..", "path_above_root"),
        ("/%2e%2e/x", "path_above_root"),
        ("/a/..;/b", "path_dot_parameters"),
        ("/a/..%3b/b", "path_dot_parameters"),
        ("/a\\b", "path_backslash"),
        ("/a%5cb", "path_backslash"),
        ("/a%", "path_bad_escape"),
        ("/a%zz", "path_bad_escape"),
        ("http://t/a/../..", "path_above_root"),
    ] {
        let response = client.send(format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n")).response();
        assert_eq!((response.status, response.problem().as_str()), (400, reason), "{target}");
    }
    assert_eq!(client.send("GET /still HTTP/1.1\r\nHost: t\r\n\r\n").response().status, 200);
    let targets: Vec<String> = origin.received().iter().map(|r| r.target().to_owned()).collect();
    assert_eq!(targets, ["/still"]);
}

#[test]
#[rustfmt::skip] // one line a case
fn unusual_requests_that_leave_no_doubt_pass() {
    let cases: &[(&str, &[u8], &str, &str)] = &[
        ("empty line first", b"\r\nGET /a HTTP/1.1\r\nHost: t\r\n\r\n", "GET /a HTTP/1.1", ""),
        ("absolute-form", b"GET HTTP://T:80/a?b HTTP/1.1\r\nHost: t\r\n\r\n", "GET /a?b HTTP/1.1", ""),
        ("absolute-form without path", b"GET http://t HTTP/1.1\r\nHost: t\r\n\r\n", "GET / HTTP/1.1", ""),
        ("dots that stay below the root", b"GET /a/./b/../c//d HTTP/1.1\r\nHost: t\r\n\r\n", "GET /a/c/d HTTP/1.1", ""),
        ("white space around values", b"POST /a HTTP/1.1\r\nHost:\tt \r\ncontent-LENGTH:  \t5 \r\n\r\nhello", "POST /a HTTP/1.1", "hello"),
        ("coding in upper case", b"POST /a HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: CHUNKED\r\n\r\n005;x=\"y;z\"\r\nhello\r\n0\r\n\r\n", "POST /a HTTP/1.1", "hello"),
        ("length of 0", b"POST /a HTTP/1.1\r\nHost: t\r\nContent-Length: 000\r\n\r\n", "POST /a HTTP/1.1", ""),
        ("body of a GET", b"GET /a HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello", "GET /a HTTP/1.1", "hello"),
        ("bytes that are no ASCII", b"GET /a HTTP/1.1\r\nHost: t\r\nX: \xc3\xa9\xff\r\n\r\n", "GET /a HTTP/1.1", ""),
        ("a method of one's own", b"X-!9 /a HTTP/1.1\r\nHost: t\r\n\r\n", "X-!9 /a HTTP/1.1", ""),
    ];
    let origin = Origin::text("x");
    let gateway = gateway(&origin);
    let mut client = Raw::connect(gateway.address());
    for (name, bytes, line, body) in cases {
        let response = client.send(bytes).response();
        assert_eq!((response.status, response.text().as_str()), (200, "x"), "{name}");
        let received = origin.last();
        assert_eq!((received.line(), received.body.as_slice()), (*line, body.as_bytes()), "{name}");
        assert!(received.complete, "{name}");
        assert_eq!(received.field("host").map(str::to_ascii_lowercase).as_deref(), Some("t"), "{name}");
        let framing = received.all("content-length").len() + received.all("transfer-encoding").len();
        assert!(framing <= 1, "{name}: {}", received.head);
    }
    assert_eq!(origin.received().len(), cases.len());
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let origin = Origin::start(|request| kit::origin::reply(200, request.target()));
    let gateway = gateway(&origin);
    let mut client = Raw::connect(gateway.address());
    let requests = ["/1", "/2", "/3"].map(|t| format!("GET {t} HTTP/1.1\r\nHost: t\r\n\r\n"));
    client.send(requests.concat());
    for target in ["/1", "/2", "/3"] {
        assert_eq!(client.response().text(), target);
    }
    let received: Vec<String> = origin.received().iter().map(|r| r.target().to_owned()).collect();
    assert_eq!(received, ["/1", "/2", "/3"]);
    assert_eq!(client.send("GET /4 HTTP/1.1\r\nHost: t\r\n\r\n").response().text(), "/4");
}

#[test]
fn a_request_pipelined_behind_a_body_is_not_taken_for_the_body() {
    let bodies: [(&str, &str); 3] = [
        ("Content-Length: 5", "hello"),
        ("Transfer-Encoding: chunked", "2\r\nhe\r\n3;x\r\nllo\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\nTrailer-Field: GET /no\r\n\r\n"),
    ];
    for (framing, body) in bodies {
        let origin = Origin::start(|request| kit::origin::reply(200, request.target()));
        let gateway = gateway(&origin);
        let mut client = Raw::connect(gateway.address());
        let second = "POST /2 HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nyo";
        client.send(format!("POST /1 HTTP/1.1\r\nHost: t\r\n{framing}\r\n\r\n{body}{second}"));
        assert_eq!([client.response().text(), client.response().text()], ["/1", "/2"], "{body:?}");
        let bodies: Vec<Vec<u8>> = origin.received().into_iter().map(|r| r.body).collect();
        assert_eq!(bodies, [b"hello".to_vec(), b"yo".to_vec()], "{body:?}");
    }
}

#[test]
fn a_malformed_request_behind_a_good_one_gets_its_400_after_the_good_answer() {
    let origin = Origin::text("good");
    let gateway = gateway(&origin);
    let mut client = Raw::connect(gateway.address());
    let good = "GET /1 HTTP/1.1\r\nHost: t\r\n\r\n";
    client.send(format!("{good}POST /2 HTTP/1.1\r\nHost: t\r\nContent-Length: 1, 2\r\n\r\n{good}"));
    assert_eq!(client.response().text(), "good");
    let refused = client.response();
    assert_eq!((refused.status, refused.problem().as_str()), (400, "length_list"));
    assert!(client.rest().is_empty());
    assert_eq!(origin.received().len(), 1);
}

#[test]
fn the_rest_of_a_body_that_was_answered_early_is_never_taken_for_a_request() {
    let origin = Origin::on_head(|_| kit::origin::raw("HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno"));
    let gateway = gateway(&origin);
    let mut client = Raw::connect(gateway.address());
    client.send("POST /1 HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.field("connection")), (413, Some("close")));
    client.send(HIDDEN).send(HIDDEN);
    client.half_close();
    assert!(client.rest().is_empty());
    until("the origin's connection ends", || origin.open() == 0);
    let received: Vec<String> = origin.received().iter().map(|r| r.target().to_owned()).collect();
    assert_eq!(received, ["/1"]);
}

#[test]
fn fields_that_frame_or_route_a_request_cannot_be_nominated_away_by_connection() {
    let origin = Origin::text("x");
    let gateway = gateway(&origin);
    for name in ["Content-Length", "transfer-encoding", "keep-alive, HOST"] {
        let body = String::from_utf8_lossy(HIDDEN);
        let head = format!("POST /1 HTTP/1.1\r\nHost: t\r\nConnection: {name}\r\n");
        let mut client = Raw::connect(gateway.address());
        let response = client.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).response();
        if response.status == 200 {
            // Nominated but not there, or kept all the same: then it must have arrived whole.
            let received = origin.last();
            assert_eq!((received.target(), received.body.as_slice()), ("/1", HIDDEN), "{name}");
            assert_eq!(received.field("host"), Some("t"), "{name}");
        } else {
            assert_eq!((response.status, response.problem().as_str()), (400, "malformed"), "{name}");
            assert!(client.rest().is_empty(), "{name}");
        }
    }
    assert!(settle(&gateway, &origin).iter().all(|r| r.target() == "/1"));
}

/// The gateway's own reading comes before the engine's: whatever the engine alone would refuse must not be answered
/// without a problem body, and what passes must arrive as the same request.
#[test]
fn every_byte_in_a_target_a_name_or_a_value_passes_or_is_refused_with_a_problem() {
    let origin = Origin::text("x");
    let gateway = gateway(&origin);
    let mut passed = 0;
    for byte in 0..=255u8 {
        for (before, after) in [
            ("GET /a", "b HTTP/1.1\r\nHost: t\r\n\r\n"),
            ("GET /?a", "b HTTP/1.1\r\nHost: t\r\n\r\n"),
            ("GET http://t/a", "b HTTP/1.1\r\nHost: t\r\n\r\n"),
            ("GE", "T / HTTP/1.1\r\nHost: t\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: a", "b\r\n\r\n"),
            ("GET http://a", "b/ HTTP/1.1\r\nHost: ab\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: t\r\nX", "y: z\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: t\r\nX: y", "z\r\n\r\n"),
        ] {
            let response =
                exchange(gateway.address(), [before.as_bytes(), &[byte], after.as_bytes()].concat());
            if response.status == 200 {
                passed += 1;
                let received = origin.last();
                assert!(
                    received.complete && received.raw_body.is_empty(),
                    "{byte:#x} in {before}: {received:?}"
                );
            } else {
                let problem = response.field("content-type") == Some("application/problem+json");
                assert!(problem && response.status == 400, "{byte:#x} in {before}: {}", response.head);
            }
        }
    }
    assert_eq!(origin.received().len(), passed);
    assert!(passed > 600, "{passed} passed");
}
