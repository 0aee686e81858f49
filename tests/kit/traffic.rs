//! Clients that ask for as long as they live, never try again, and bear no failure.

use super::raw::get;
use super::{until, Origin, Raw, Step};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// What goes on while something is done to the gateway.
pub struct Traffic<'a> {
    address: SocketAddr,
    stop: &'a AtomicBool,
    answered: &'a AtomicUsize,
}

/// What an origin must do for [`Mix::All`]: `/stream` and `/upload` besides anything else.
pub fn origin() -> Origin {
    Origin::start(|request| match request.target() {
        "/stream" => {
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            let mut steps = vec![Step::Send(head)];
            for _ in 0..10 {
                steps.push(Step::Send(b"5\r\nhello\r\n".to_vec()));
                steps.push(Step::Pause(Duration::from_millis(50)));
            }
            steps.push(Step::Send(b"0\r\n\r\n".to_vec()));
            steps
        }
        "/upload" => super::origin::reply(200, &request.body.len().to_string()),
        _ => super::origin::reply(200, "hi"),
    })
}

/// An origin whose every connection becomes a WebSocket that sends back what it gets; for `/ws` of [`Mix::All`].
pub fn websocket_origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && socket.read(&mut byte).is_ok_and(|n| n == 1) {
                    head.push(byte[0]);
                }
                let answer =
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
                let _ = socket.write_all(answer.as_bytes());
                let mut bytes = [0; 1024];
                while let Ok(n @ 1..) = socket.read(&mut bytes) {
                    let _ = socket.write_all(&bytes[..n]);
                }
            });
        }
    });
    address
}

/// Which clients.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// Kept connections and new ones, `/` only.
    Plain,
    /// Also idle ones, streams, uploads and WebSockets, for which the routes and origins above are needed.
    All,
}

impl Traffic<'_> {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests on one connection, each as soon as `pause` after the last, until it is said to close.
    fn kept(&self, request: &[&[u8]], pause: Duration, expected: &str) {
        while self.goes_on() {
            let mut client = Raw::connect(self.address);
            loop {
                for (place, part) in request.iter().enumerate() {
                    if place > 0 {
                        std::thread::sleep(Duration::from_millis(30));
                    }
                    client.send(part);
                }
                let response = client.response();
                assert_eq!((response.status, response.complete), (200, true));
                assert!(expected.is_empty() || response.text() == expected, "{}", response.text());
                self.count();
                if response.field("connection") == Some("close") || !self.goes_on() {
                    break;
                }
                std::thread::sleep(pause);
            }
        }
    }

    fn fresh(&self) {
        while self.goes_on() {
            assert_eq!(get(self.address, "/").status, 200);
            self.count();
        }
    }

    fn websocket(&self) {
        const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n";
        while self.goes_on() {
            let mut client = Raw::connect(self.address);
            client.send(HANDSHAKE);
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.socket.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
            for _ in 0..10 {
                let frame = b"\x81\x85\0\0\0\0hello";
                client.send(frame);
                let mut echo = [0; 11];
                client.socket.read_exact(&mut echo).unwrap();
                assert_eq!(&echo, frame);
                std::thread::sleep(Duration::from_millis(50));
            }
            self.count();
        }
    }
}

/// Runs `work` while clients ask, and a little longer; fails when one of them is failed. `work` may look at how many have
/// been answered.
pub fn under_traffic(address: SocketAddr, mix: Mix, work: impl FnOnce(&AtomicUsize)) {
    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n";
    const STREAM: &[u8] = b"GET /stream HTTP/1.1\r\nHost: t\r\n\r\n";
    const UPLOAD: &[&[u8]] =
        &[b"POST /upload HTTP/1.1\r\nHost: t\r\nContent-Length: 15\r\n\r\n", b"01234", b"56789", b"abcde"];
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let traffic = Traffic { address, stop: &stop, answered: &answered };
    std::thread::scope(|scope| {
        let traffic = &traffic;
        let mut clients = vec![
            scope.spawn(|| traffic.kept(&[GET], Duration::ZERO, "")),
            scope.spawn(|| traffic.kept(&[GET], Duration::ZERO, "")),
            scope.spawn(|| traffic.fresh()),
        ];
        if mix == Mix::All {
            clients.push(scope.spawn(|| traffic.kept(&[GET], Duration::from_millis(20), "hi")));
            clients.push(scope.spawn(|| traffic.kept(&[GET], Duration::from_millis(300), "hi")));
            clients.push(scope.spawn(|| traffic.kept(&[STREAM], Duration::ZERO, &"hello".repeat(10))));
            clients.push(scope.spawn(|| traffic.kept(UPLOAD, Duration::ZERO, "15")));
            clients.push(scope.spawn(|| traffic.websocket()));
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&answered)));
        let before = answered.load(Ordering::Relaxed);
        let failed = || clients.iter().any(std::thread::ScopedJoinHandle::is_finished);
        until("clients are answered", || failed() || answered.load(Ordering::Relaxed) > before + 20);
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("no client is failed");
        }
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Waits until clients have been answered some fifty times more.
pub fn wait_for_more(answered: &AtomicUsize) {
    let before = answered.load(Ordering::Relaxed);
    until("clients are answered", || answered.load(Ordering::Relaxed) > before + 50);
}
