//! The PROXY protocol: clients that a balancer speaks for, in plain text and before TLS; what is no header is nobody's.

mod kit;

use kit::certs::Authority;
use kit::origin::reply;
use kit::tls::Client;
use kit::{until, Gateway, Origin, Raw, Response};
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";

struct World {
    gateway: Gateway,
    origin: Origin,
}

fn world(more: &str) -> World {
    let origin = Origin::start(|_| reply(200, "ok"));
    let gateway = Gateway::start(&format!(
        "listeners: [{{address: \"127.0.0.1:0\", proxy_protocol: true}}]\n{more}\nadmin: {{address: '127.0.0.1:0'}}\n\
         access_log: {{path: $FOLDER/access.log}}\nroutes: [{{path: /, upstream: \"{}\"}}]\n",
        origin.url()
    ));
    World { gateway, origin }
}

const TRUSTED: &str = "trusted_proxies: [127.0.0.1]";

impl World {
    fn ask(&self, header: &[u8]) -> Response {
        Raw::connect(self.gateway.address()).send([header, REQUEST].concat()).response()
    }

    /// What the upstream was told of the client.
    fn client(&self, header: &[u8]) -> (Option<String>, Option<String>) {
        assert_eq!(self.ask(header).status, 200, "{header:?}");
        let received = self.origin.last();
        let field = |name| received.field(name).map(str::to_owned);
        (field("x-forwarded-for"), field("x-forwarded-port"))
    }
}

/// A header of version 2 (§2.2): command, family, addresses and whatever is added.
fn second(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let mut header = [SIGNATURE, &[0x20 | command, family]].concat();
    header.extend_from_slice(&(addresses.len() as u16).to_be_bytes());
    header.extend_from_slice(addresses);
    header
}

fn v4() -> Vec<u8> {
    [&[203, 0, 113, 7][..], &[192, 0, 2, 1], &50_000_u16.to_be_bytes(), &443_u16.to_be_bytes()].concat()
}

fn is(client: &str, port: &str) -> (Option<String>, Option<String>) {
    (Some(client.to_owned()), Some(port.to_owned()))
}

#[test]
fn upstreams_and_log_have_the_client_that_the_balancer_names() {
    let world = world(TRUSTED);
    let own = world.gateway.address().port().to_string();
    let v6: Vec<u8> = [
        &"2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets()[..],
        &"2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets(),
        &50_000_u16.to_be_bytes(),
        &8443_u16.to_be_bytes(),
    ]
    .concat();
    let with_more = [&v4()[..], &[0x04, 0, 3, 1, 2, 3]].concat(); // PP2_TYPE_NOOP, as AWS pads
    for (header, expected) in [
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\r\n".to_vec(), is("203.0.113.7", "443")),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 50000 8443\r\n".to_vec(), is("2001:db8::7", "8443")),
        (b"PROXY UNKNOWN\r\n".to_vec(), is("127.0.0.1", &own)),
        (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".to_vec(), is("127.0.0.1", &own)),
        (second(1, 0x11, &v4()), is("203.0.113.7", "443")),
        (second(1, 0x21, &v6), is("2001:db8::7", "8443")),
        (second(1, 0x11, &with_more), is("203.0.113.7", "443")),
        (second(0, 0x00, &[]), is("127.0.0.1", &own)),
        (second(0, 0x11, &v4()), is("127.0.0.1", &own)),
        (second(1, 0x00, &[]), is("127.0.0.1", &own)),
    ] {
        assert_eq!(world.client(&header), expected, "{header:?}");
    }
    assert_eq!(world.gateway.access_lines(10)[0]["client_ip"], "203.0.113.7");
    // Byte by byte, and then more requests on the connection.
    let mut socket = TcpStream::connect(world.gateway.address()).unwrap();
    socket.set_nodelay(true).unwrap();
    for byte in b"PROXY TCP4 203.0.113.8 192.0.2.1 50000 443\r\n" {
        socket.write_all(&[*byte]).unwrap();
    }
    let mut raw = Raw::from(socket);
    for _ in 0..3 {
        assert_eq!(raw.send(REQUEST).response().status, 200);
        assert_eq!(world.origin.last().field("x-forwarded-for"), Some("203.0.113.8"));
    }
    // The client itself is not trusted with what it says of others.
    let request = b"PROXY TCP4 203.0.113.9 192.0.2.1 5 443\r\nGET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n";
    assert_eq!(Raw::connect(world.gateway.address()).send(request).response().status, 200);
    assert_eq!(world.origin.last().field("x-forwarded-for"), Some("203.0.113.9"));
    let curl = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--haproxy-protocol", &world.gateway.url("/")])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&curl.stdout), "200");
}

#[test]
fn what_is_no_header_gets_no_answer_and_a_line() {
    let world = world(&format!("{TRUSTED}\nlimits: {{header_timeout: 400ms}}"));
    let long = [b"PROXY TCP4 ".to_vec(), vec![b' '; 200], b"\r\n".to_vec()].concat();
    let mut wrong_version = second(1, 0x11, &v4());
    wrong_version[12] = 0x31;
    let cases: Vec<Vec<u8>> = vec![
        REQUEST.to_vec(),
        b"PROXY TCP4 203.0.113.7\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.777 192.0.2.1 50000 443\r\n".to_vec(),
        b"PROXY TCP5 203.0.113.7 192.0.2.1 50000 443\r\n".to_vec(),
        b"PROXY \xff\xff\xff\xff\xff\xff\xff\r\n".to_vec(),
        b"proxy TCP4 203.0.113.7 192.0.2.1 50000 443\r\n".to_vec(),
        long,
        wrong_version,
        second(1, 0x11, &v4()[..8]),
        second(7, 0x11, &v4()),
        second(1, 0x11, &vec![0; 5000]),
        SIGNATURE.to_vec(),
        b"PROXY TCP4 203.".to_vec(),
        Vec::new(),
    ];
    let count = cases.len();
    for case in cases {
        let mut raw = Raw::connect(world.gateway.address());
        raw.send(&case);
        let rest = raw.rest();
        assert!(rest.is_empty(), "{case:?}: {:?}", String::from_utf8_lossy(&rest));
    }
    let lines = world.gateway.access_lines(count);
    assert!(
        lines.iter().all(|line| line["error"] == "proxy_header" && line["client_ip"] == "127.0.0.1"),
        "{lines:#?}"
    );
    assert!(lines.iter().any(|line| line["detail"] == "no PROXY header in time"), "{lines:#?}");
    assert!(lines.iter().any(|line| line["detail"] == "no PROXY header came first"), "{lines:#?}");
    assert!(world.origin.received().is_empty());
    assert_eq!(world.ask(&second(1, 0x11, &v4())).status, 200);
}

#[test]
fn a_stranger_has_nothing_of_the_balancers_trust() {
    let world = world(TRUSTED);
    for (header, believed) in [
        (b"PROXY UNKNOWN\r\n".to_vec(), false),
        (second(1, 0x00, &[]), false),
        (second(1, 0x31, &[b'a'; 216]), false), // a Unix socket of the balancer's
        (second(0, 0x00, &[]), true),
    ] {
        let said = "X-Forwarded-For: 203.0.113.66\r\nX-Request-Id: spoofed\r\nClient-Cert: :AAAA:\r\n";
        let request = format!("GET / HTTP/1.1\r\nHost: t\r\n{said}\r\n").into_bytes();
        let mut raw = Raw::connect(world.gateway.address());
        assert_eq!(raw.send([header.clone(), request].concat()).response().status, 200);
        let received = world.origin.last();
        assert_eq!(received.field("client-cert").is_some(), believed, "{header:?}");
        assert_eq!(received.field("x-request-id") == Some("spoofed"), believed, "{header:?}");
        let chain = received.field("x-forwarded-for").unwrap();
        assert_eq!(chain.contains("203.0.113.66"), believed, "{header:?}: {chain}");
    }
}

#[test]
fn only_trusted_proxies_may_say_for_whom() {
    let world = world("trusted_proxies: [10.0.0.0/8]");
    let mut raw = Raw::connect(world.gateway.address());
    assert!(raw.send([&second(1, 0x11, &v4()), REQUEST].concat()).rest().is_empty());
    let line = &world.gateway.access_lines(1)[0];
    assert_eq!(line["error"], "proxy_header");
    assert_eq!(line["detail"], "its sender is not one of trusted_proxies");
    assert!(world.origin.received().is_empty());
}

#[test]
fn it_comes_before_tls() {
    let ca = Authority::new("ca");
    let cert = ca.issue("a", &["a.test"]);
    let origin = Origin::start(|_| reply(200, "ok"));
    let gateway = Gateway::start(&format!(
        "listeners: [{{address: \"127.0.0.1:0\", proxy_protocol: true, tls: {{certificates: [{}]}}}}]\n{TRUSTED}\n\
         routes: [{{path: /, upstream: \"{}\"}}]\n",
        cert.yaml(),
        origin.url()
    ));
    for header in [b"PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\r\n".to_vec(), second(1, 0x11, &v4())] {
        let mut socket = TcpStream::connect(gateway.address()).unwrap();
        socket.write_all(&header).unwrap();
        let mut tls = Client::of(&ca).over(socket, "a.test").unwrap();
        assert_eq!(tls.ask("a.test", "/").unwrap().status, 200);
        let received = origin.last();
        assert_eq!(received.field("x-forwarded-for"), Some("203.0.113.7"));
        assert_eq!(received.field("x-forwarded-proto"), Some("https"));
        assert_eq!(received.field("x-forwarded-port"), Some("443"));
    }
    assert!(Client::of(&ca).connect(gateway.address(), "a.test").is_err(), "without a header");
}

#[test]
fn an_address_has_its_share_of_connections_behind_a_balancer_too() {
    let world = world(&format!("{TRUSTED}\nlimits: {{connections_per_address: 2}}"));
    let connect = |address: &str| {
        let mut raw = Raw::connect(world.gateway.address());
        raw.send(format!("PROXY TCP4 {address} 192.0.2.1 50000 443\r\n")).send(REQUEST);
        raw
    };
    let mut kept: Vec<Raw> = (0..2).map(|_| connect("203.0.113.7")).collect();
    kept.iter_mut().for_each(|raw| assert_eq!(raw.response().status, 200));
    assert!(connect("203.0.113.7").rest().is_empty());
    assert_eq!(connect("203.0.113.8").response().status, 200, "another address");
    assert_eq!(
        world
            .gateway
            .access_lines(4)
            .iter()
            .filter(|l| l["error"] == "too_many_connections_from_address")
            .count(),
        1
    );
    kept.clear();
    until("there is room again", || connect("203.0.113.7").one_response("GET").is_some());
}

#[test]
fn without_trusted_proxies_it_is_a_mistake() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("p.yaml"),
        "listeners: [{address: \"127.0.0.1:0\", proxy_protocol: true}]\nroutes: [{path: /, respond: {}}]\n",
    )
    .unwrap();
    let (code, _, err) = kit::gateway::run(&["check", "-c", "p.yaml"], folder.path(), &[]);
    assert_eq!(code, 1);
    assert!(err.starts_with("p.yaml:1:54: listeners[0].proxy_protocol: nobody could connect: "), "{err}");
}

#[test]
fn upstreams_are_told_too_each_time_anew() {
    // What comes out is read by what reads it at the other end.
    let inner = world(TRUSTED);
    for (version, tls) in [("v1", false), ("v2", false), ("v2", true)] {
        let ca = Authority::new("ca");
        let cert = ca.issue("a", &["a.test"]);
        let secure = Gateway::start(&format!(
            "listeners: [{{address: \"127.0.0.1:0\", proxy_protocol: true, tls: {{certificates: [{}]}}}}]\n{TRUSTED}\n\
             routes: [{{path: /, upstream: \"{}\"}}]\n",
            cert.yaml(),
            inner.origin.url()
        ));
        let (target, by) = match tls {
            true => (secure.address(), format!("tls: {{ca: {}, sni: a.test}}, ", ca.file().display())),
            false => (inner.gateway.address(), String::new()),
        };
        let outer = Gateway::start(&format!(
            "listeners: [{{address: \"127.0.0.1:0\", proxy_protocol: true}}]\n{TRUSTED}\nupstreams:\n  a: {{targets: \
             [\"{target}\"], {by}proxy_protocol: {version}, health_check: {{interval: 100ms}}}}\n\
             routes: [{{path: /, upstream: a}}]\n"
        ));
        let mut raw = Raw::connect(outer.address());
        raw.send(b"PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\r\n");
        for _ in 0..2 {
            assert_eq!(raw.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").response().status, 200);
            let received = inner.origin.last();
            assert_eq!(received.field("x-forwarded-for"), Some("203.0.113.7"), "{version} {tls}");
            assert_eq!(received.field("x-forwarded-port"), Some("443"));
        }
        // The next client gets no connection of this one's.
        let mut raw = Raw::connect(outer.address());
        raw.send(b"PROXY TCP6 2001:db8::9 2001:db8::1 50000 8443\r\n");
        assert_eq!(raw.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").response().status, 200);
        let received = inner.origin.last();
        assert_eq!(received.field("x-forwarded-for"), Some("2001:db8::9"), "{version} {tls}");
        // Who is nobody is named as nobody.
        let mut raw = Raw::connect(outer.address());
        raw.send(b"PROXY UNKNOWN\r\n");
        assert_eq!(raw.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").response().status, 200);
        assert_eq!(inner.origin.last().field("x-forwarded-for"), Some("127.0.0.1"));
    }
}

#[test]
fn an_upstream_is_told_the_believed_client_before_a_body_and_a_websocket_too() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = Gateway::start(&format!(
        "{TRUSTED}\nupstreams: {{a: {{targets: [\"{}\"], proxy_protocol: v1}}}}\nroutes: [{{path: /, upstream: a}}]\n",
        listener.local_addr().unwrap()
    ));
    let port = gateway.address().port();
    for more in ["", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"] {
        let mut raw = Raw::connect(gateway.address());
        let client = raw.socket.local_addr().unwrap();
        for (forwarded, expected) in [
            (String::new(), format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {port}\r\n", client.port())),
            ("X-Forwarded-For: 203.0.113.7\r\n".into(), format!("PROXY TCP4 203.0.113.7 127.0.0.1 0 {port}\r\n")),
            ("X-Forwarded-For: 2001:db8::7\r\n".into(), format!("PROXY TCP6 2001:db8::7 ::ffff:127.0.0.1 0 {port}\r\n")),
        ] {
            raw.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{more}{forwarded}\r\n"));
            let mut origin = Raw::from(listener.accept().unwrap().0);
            let line = origin.one_line();
            assert_eq!(line, expected.trim_end(), "{more}");
            origin.wait_text("\r\n\r\n");
            origin.send("HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(raw.response().status, 403);
        }
    }
}
