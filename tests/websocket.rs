//! WebSockets and event streams, by clients and servers that others have made: a library at both ends, and a browser.

#[path = "kit/browser.rs"]
mod browser;
mod kit;

use browser::Browser;
use kit::certs::{Authority, Issued};
use kit::tls::Client;
use kit::{until, Gateway, Origin, Step};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::CloseFrame;
use tungstenite::{Bytes, Message, WebSocket};

/// Sends back what it gets, until it is closed; then says how.
fn echo() -> (SocketAddr, JoinHandle<Vec<Option<CloseFrame>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move || {
        let mut ends = Vec::new();
        for socket in listener.incoming() {
            // Whoever looks whether somebody listens shakes no hands.
            let Ok(mut socket) = tungstenite::accept(socket.unwrap()) else { continue };
            let end = loop {
                match socket.read() {
                    Ok(Message::Close(end)) => break end,
                    Ok(message @ (Message::Text(_) | Message::Binary(_))) => socket.send(message).unwrap(),
                    Ok(_) => {}
                    Err(_) => break None,
                }
            };
            while socket.read().is_ok() {}
            ends.push(end);
            if ends.len() == 2 {
                break;
            }
        }
        ends
    };
    (address, std::thread::spawn(serve))
}

fn yaml(cert: &Issued, origin: SocketAddr, events: &str) -> String {
    let page = "<!doctype html><title>page</title>";
    format!(
        "grace_period: 300ms\nlinger: 0s\nlisteners: [{{address: \"127.0.0.1:0\", tls: {{certificates: [{}]}}}}]\nroutes:\n\
         - {{path: /ws, upstream: \"http://{origin}\"}}\n- {{path: /events, upstream: \"{events}\"}}\n\
         - {{path: /, respond: {{body: \"{page}\", content_type: text/html}}}}\n",
        cert.yaml()
    )
}

type Secure = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

fn connect(client: &Client, gateway: &Gateway) -> WebSocket<Secure> {
    let tls = client.connect(gateway.address(), "a.test").unwrap();
    let (socket, answer) = tungstenite::client("wss://a.test/ws", tls.socket).unwrap();
    assert_eq!(answer.status(), 101);
    socket
}

#[test]
fn a_librarys_websockets_pass_over_tls_and_end_politely() {
    let ca = Authority::new("ca");
    let cert = ca.issue("a", &["a.test"]);
    let (origin, ends) = echo();
    let mut gateway = Gateway::start(&yaml(&cert, origin, "http://127.0.0.1:1"));
    // As a client of HTTP/2 would do it: a connection of HTTP/1.1 beside it.
    let client = Client::of(&ca);
    let mut one = connect(&client, &gateway);
    let large = Bytes::from(vec![7; 1 << 20]);
    for message in [Message::text("hello"), Message::Binary(large), Message::text("ä€😀"), Message::text("")]
    {
        one.send(message.clone()).unwrap();
        assert_eq!(one.read().unwrap(), message);
    }
    one.send(Message::Ping(Bytes::from_static(b"there?"))).unwrap();
    assert_eq!(one.read().unwrap(), Message::Pong(Bytes::from_static(b"there?")));
    // A reload touches it not.
    assert!(gateway.reload_as_is().contains("] reloaded "));
    one.send(Message::text("still")).unwrap();
    assert_eq!(one.read().unwrap(), Message::text("still"));
    let bye = CloseFrame { code: CloseCode::Library(4321), reason: "enough".into() };
    one.close(Some(bye.clone())).unwrap();
    until("it is closed", || one.read().is_err());

    let mut two = connect(&client, &gateway);
    two.send(Message::text("before")).unwrap();
    assert_eq!(two.read().unwrap(), Message::text("before"));
    gateway.signal("TERM");
    let Message::Close(Some(last)) = two.read().unwrap() else { panic!("no word of the end") };
    assert_eq!(last.code, CloseCode::Away);
    assert_eq!(gateway.wait_exit().code(), Some(0));
    assert_eq!(ends.join().unwrap()[0], Some(bye));
}

/// An event at once, and the next one when the test says so.
fn events() -> Origin {
    Origin::start(|_| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let event = |text: &str| {
            let event = format!("data: {text}\n\n");
            Step::Send(format!("{:x}\r\n{event}\r\n", event.len()).into_bytes())
        };
        vec![Step::Send(head.into()), event("first"), Step::Hold, event("second"), Step::Hold]
    })
}

#[test]
fn a_browser_has_pages_by_http_2_events_as_they_come_and_websockets() {
    let ca = Authority::new("ca");
    let cert = ca.issue("a", &["localhost"]);
    let ((origin, _ends), events) = (echo(), events());
    let gateway = Gateway::start(&yaml(&cert, origin, &events.url()));
    let browser = Browser::start();
    let base = format!("https://localhost:{}", gateway.address().port());
    browser.open(&base);
    let by = browser.ask("return performance.getEntriesByType('navigation')[0].nextHopProtocol");
    assert_eq!(by, "h2");
    browser.ask(&format!(
        "window.seen = []; window.echoed = [];
         new EventSource('{base}/events').onmessage = (event) => window.seen.push(event.data);
         const socket = new WebSocket('{}/ws');
         socket.onopen = () => socket.send('from a browser');
         socket.onmessage = (message) => window.echoed.push(message.data);",
        base.replace("https", "wss")
    ));
    browser.until("the first event comes before there is a second", "return window.seen.join() === 'first'");
    events.release();
    browser.until("the second event comes", "return window.seen.join() === 'first,second'");
    browser.until("the WebSocket answers", "return window.echoed.join() === 'from a browser'");
    let by = "return performance.getEntriesByType('resource').find(e => e.name.endsWith('/events'))?.nextHopProtocol ?? 'h2'";
    assert_eq!(browser.ask(by), "h2");
}
