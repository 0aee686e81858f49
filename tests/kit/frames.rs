//! A client of HTTP/2 that writes exactly the frames it is given, and knows of none that it must not.

use super::DEADLINE;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const ENHANCE_YOUR_CALM: u32 = 11;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A connection to the gateway.
pub struct Frames {
    /// The socket, for what the methods do not do.
    pub socket: TcpStream,
    /// The code of a GOAWAY that has been read.
    goaway: Option<u32>,
}

impl Frames {
    /// Connects, and sends the preface and empty SETTINGS.
    pub fn connect(address: SocketAddr) -> Frames {
        Frames::connect_with(address, b"")
    }

    /// The same with these SETTINGS.
    pub fn connect_with(address: SocketAddr, settings: &[u8]) -> Frames {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        let mut frames = Frames { socket, goaway: None };
        assert!(frames.bytes(PREFACE));
        assert!(frames.frame(SETTINGS, 0, 0, settings));
        frames
    }

    /// Sends bytes; false when the gateway takes no more.
    pub fn bytes(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    /// Sends a frame; false when the gateway takes no more.
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.bytes(&frame(kind, flags, stream, payload))
    }

    /// Sends a GET of this path at `test`; false when the gateway takes no more.
    pub fn get(&mut self, stream: u32, path: &str) -> bool {
        self.frame(HEADERS, END_HEADERS | END_STREAM, stream, &get(path))
    }

    /// The next frame; none once the connection is over.
    pub fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head).ok()?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        self.socket.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5] & 0x7F, head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of this kind.
    pub fn next_of(&mut self, kind: u8) -> Option<Frame> {
        std::iter::from_fn(|| self.next()).find(|frame| frame.kind == kind)
    }

    /// Reads to the end of the connection: the code of the last GOAWAY, if one came.
    pub fn end(&mut self) -> Option<u32> {
        let mut code = self.goaway;
        while let Some(frame) = self.next() {
            if frame.kind == GOAWAY {
                code = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
            }
        }
        code
    }

    /// Reads what has come: whether a GOAWAY with an error is among it, or the end.
    pub fn has_goaway(&mut self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let mut piece = [0; 65_536];
        loop {
            match self.socket.peek(&mut piece) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return true,
            }
            self.socket.set_nonblocking(false).unwrap();
            let Some(frame) = self.next() else { return true };
            if frame.kind == GOAWAY {
                self.goaway = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
                return self.goaway != Some(0);
            }
            self.socket.set_nonblocking(true).unwrap();
        }
        self.socket.set_nonblocking(false).unwrap();
        false
    }

    /// Whether the connection is still there after so long a time in which nothing is sent.
    pub fn lives(&mut self, time: Duration) -> bool {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut waste = [0; 4096];
        loop {
            match self.socket.read(&mut waste) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(e) => return matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            }
        }
    }
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of these fields, without compression.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let text = |block: &mut Vec<u8>, text: &str| {
        // RFC 7541 §5.1: a length with a prefix of seven bits.
        match text.len() {
            short @ ..127 => block.push(short as u8),
            long => {
                block.push(127);
                let mut rest = long - 127;
                while rest >= 128 {
                    block.push((rest % 128) as u8 | 128);
                    rest /= 128;
                }
                block.push(rest as u8);
            }
        }
        block.extend_from_slice(text.as_bytes());
    };
    for (name, value) in fields {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

/// The header block of a GET of this path at `test`.
pub fn get(path: &str) -> Vec<u8> {
    request("GET", path, &[])
}

/// The header block of a request at `test`.
pub fn request(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path)];
    block(&[&pseudo[..], more].concat())
}

impl Frames {
    /// What becomes of a stream: the answer's body, or `reset CODE`, `goaway CODE`, `closed`.
    pub fn outcome(&mut self, stream: u32) -> String {
        let mut body = Vec::new();
        let code = |at: &[u8]| u32::from_be_bytes(at.try_into().unwrap());
        while let Some(frame) = self.next() {
            match frame.kind {
                GOAWAY => return format!("goaway {}", code(&frame.payload[4..8])),
                _ if frame.stream != stream => {}
                RST_STREAM => return format!("reset {}", code(&frame.payload)),
                DATA => body.extend_from_slice(&frame.payload),
                _ => {}
            }
            if matches!(frame.kind, DATA | HEADERS) && frame.stream == stream && frame.flags & END_STREAM != 0
            {
                return String::from_utf8(body).unwrap();
            }
        }
        "closed".to_owned()
    }

    /// The same, of a problem its reason.
    pub fn reason(&mut self, stream: u32) -> String {
        let outcome = self.outcome(stream);
        let problem: Option<serde_json::Value> = serde_json::from_str(&outcome).ok();
        match problem.as_ref().and_then(|problem| problem["reason"].as_str()) {
            Some(reason) => reason.to_owned(),
            None => outcome,
        }
    }
}
