//! Protocol upgrades pass through: bytes both ways, no framing, no exchange timeout.

mod kit;

use kit::origin::reply;
use kit::{until, Gateway, Raw};
use std::io::{Read, Write};
use std::net::TcpListener;

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n";

/// An origin that accepts one upgrade and then echoes in upper case; returns the head it got.
fn echo(listener: TcpListener) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        let mut byte = [0; 1];
        while !head.ends_with(b"\r\n\r\n") {
            socket.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        socket
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello",
            )
            .unwrap();
        let mut chunk = [0; 1024];
        while let Ok(n @ 1..) = socket.read(&mut chunk) {
            socket.write_all(&chunk[..n].to_ascii_uppercase()).unwrap();
        }
        String::from_utf8_lossy(&head).into_owned()
    })
}

fn read(client: &mut Raw, length: usize) -> String {
    let mut bytes = vec![0; length];
    client.socket.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_websocket_passes_both_ways_beyond_the_exchange_timeout_and_max_body() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = listener.local_addr().unwrap();
    let echo = echo(listener);
    let gateway = Gateway::start(&format!(
        "routes: [{{path: /, upstream: \"http://{origin}\", timeout: 300ms, max_body: 10B}}]"
    ));
    let mut client = Raw::connect(gateway.address());
    client.send(HANDSHAKE);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push_str(&read(&mut client, 1));
    }
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.to_ascii_lowercase().contains("upgrade: websocket"), "{head}");
    assert_eq!(read(&mut client, 5), "hello");
    for n in 0..8 {
        client.send(format!("ping {n}"));
        assert_eq!(read(&mut client, 6), format!("PING {n}"));
    }
    std::thread::sleep(std::time::Duration::from_millis(500)); // silent for longer than an exchange may take
    client.send("still");
    assert_eq!(read(&mut client, 5), "STILL");
    drop(client);
    until("the origin hears the end", || echo.is_finished());
    let head = echo.join().unwrap().to_ascii_lowercase();
    assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
}

#[test]
fn a_websocket_may_be_silent_for_longer_than_an_answer_and_not_for_ever() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = listener.local_addr().unwrap();
    let echo = echo(listener);
    let gateway = Gateway::start(&format!(
        "upstreams: {{a: {{targets: [\"{origin}\"], timeouts: {{read: 200ms, tunnel: 1500ms}}}}}}\n\
         access_log: {{path: $FOLDER/access.log}}\nroutes: [{{path: /, upstream: a}}]"
    ));
    let mut client = Raw::connect(gateway.address());
    client.send(HANDSHAKE);
    assert!(head(&mut client).starts_with("HTTP/1.1 101"));
    assert_eq!(read(&mut client, 5), "hello");
    for n in 0..3 {
        std::thread::sleep(std::time::Duration::from_millis(600)); // longer than `read`, and together than `tunnel`
        client.send(format!("ping {n}"));
        assert_eq!(read(&mut client, 6), format!("PING {n}"));
    }
    client.rest();
    until("the origin hears the end", || echo.is_finished());
    assert_eq!(gateway.access_lines(1)[0]["error"], "tunnel_ended");
}

#[test]
fn an_idle_websocket_is_told_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = listener.local_addr().unwrap();
    let origin_ends = silent(listener, "websocket", b"\x81\x05hello");
    let gateway = Gateway::start(&format!(
        "upstreams: {{a: {{targets: [\"{origin}\"], timeouts: {{tunnel: 300ms}}}}}}\nroutes: [{{path: /, upstream: a}}]"
    ));
    let mut client = Raw::connect(gateway.address());
    client.send(HANDSHAKE);
    assert!(head(&mut client).starts_with("HTTP/1.1 101"));
    assert_eq!(client.rest(), b"\x81\x05hello\x88\x02\x03\xE9");
    origin_ends.join().unwrap();
}

/// What an upstream does not answer in time is a 504 also when it was asked for a tunnel.
#[test]
fn an_upgrade_that_nobody_answers_times_out() {
    let (_listener, origin) = kit::origin::silent();
    let gateway = Gateway::start(&format!(
        "upstreams: {{a: {{targets: [\"{origin}\"], timeouts: {{read: 200ms}}}}}}\nroutes: [{{path: /, upstream: a}}]"
    ));
    let response = Raw::connect(gateway.address()).send(HANDSHAKE).response();
    assert_eq!((response.status, response.problem().as_str()), (504, "upstream_timeout"));
}

#[test]
fn a_refused_upgrade_is_an_ordinary_answer() {
    let origin = kit::Origin::start(|_| reply(403, "no"));
    let gateway = Gateway::start(&format!("routes: [{{path: /, upstream: \"{}\"}}]", origin.url()));
    let mut client = Raw::connect(gateway.address());
    let response = client.send(HANDSHAKE).response();
    assert_eq!((response.status, response.text().as_str()), (403, "no"));
}

#[test]
fn other_upgrades_are_not_passed_on() {
    let origin = kit::Origin::text("plain");
    let gateway = Gateway::start(&format!("routes: [{{path: /, upstream: \"{}\"}}]", origin.url()));
    let response = kit::raw::exchange(
        gateway.address(),
        "GET / HTTP/1.1\r\nHost: t\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
    );
    assert_eq!((response.status, response.text().as_str()), (200, "plain"));
    let received = origin.first();
    assert_eq!((received.field("upgrade"), received.field("http2-settings")), (None, None));
}

/// Its 101 is there before the request is, so that the engine finds it whenever it looks first.
#[test]
fn a_tunnel_outlives_an_upstream_that_answers_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let accepted =
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
                let (mut buffer, mut head) = ([0; 1024], Vec::new());
                stream.write_all(accepted.as_bytes()).unwrap();
                while !head.ends_with(b"\r\n\r\n") {
                    let read = stream.read(&mut buffer[..1]).unwrap();
                    head.extend_from_slice(&buffer[..read]);
                }
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    let gateway = Gateway::start(&format!("routes: [{{path: /, upstream: \"http://{origin}\"}}]"));
    for n in 0..40 {
        let mut client = Raw::connect(gateway.address());
        client.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        assert_eq!(client.one_response("GET").unwrap().status, 101, "tunnel {n}");
        client.socket.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        client.socket.read_exact(&mut heard).unwrap_or_else(|e| panic!("tunnel {n}: {e}"));
        assert_eq!(&heard, b"hello");
    }
}

/// The head of the answer to the handshake.
fn head(client: &mut Raw) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push_str(&read(client, 1));
    }
    head
}

/// An origin that switches protocols, sends these bytes, and then is silent until the connection ends.
fn silent(
    listener: TcpListener,
    protocol: &'static str,
    first: &'static [u8],
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let _ = socket.read(&mut [0; 4096]).unwrap();
        let answer =
            format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n");
        socket.write_all(answer.as_bytes()).unwrap();
        socket.write_all(first).unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    })
}

#[test]
fn a_websocket_is_told_that_the_gateway_goes_away() {
    let text = b"\x81\x05hello";
    // What comes last before the end, and what follows it.
    let cases: [(&str, &'static [u8], &[u8]); 4] = [
        ("websocket", text, b"\x88\x02\x03\xE9"),
        ("WebSocket", b"\x82\x7E\x00\x02ab", b"\x88\x02\x03\xE9"),
        ("websocket", b"\x88\x00", b""),    // closed already
        ("websocket", b"\x81\x05hel", b""), // nothing can be put into a frame
    ];
    for (protocol, first, last) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = listener.local_addr().unwrap();
        let origin_ends = silent(listener, protocol, first);
        let mut gateway = Gateway::start(&format!(
            "grace_period: 200ms\nlinger: 0s\nroutes: [{{path: /, upstream: \"http://{origin}\"}}]"
        ));
        let mut client = Raw::connect(gateway.address());
        client.send(HANDSHAKE.replace("websocket", protocol));
        assert!(head(&mut client).starts_with("HTTP/1.1 101"));
        let mut begun = vec![0; first.len()];
        client.socket.read_exact(&mut begun).unwrap();
        assert_eq!(begun, first);
        gateway.signal("TERM");
        assert_eq!(client.rest(), last, "{protocol} {first:?}");
        assert_eq!(gateway.wait_exit().code(), Some(0));
        gateway.wait_log(&["the grace period is over, requests cut off: 1"]);
        origin_ends.join().unwrap();
    }
}
