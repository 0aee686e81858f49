//! A client that sends exactly the bytes it is given.

use super::DEADLINE;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// A connection to the gateway.
pub struct Raw<S = TcpStream> {
    /// The socket, for what the methods do not do.
    pub socket: S,
    buffer: Vec<u8>,
}

/// A response as it arrived.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The head, byte for byte, without the empty line.
    pub head: String,
    /// The same where bytes that are no UTF-8 matter.
    pub raw_head: Vec<u8>,
    /// The body, chunk framing removed.
    pub body: Vec<u8>,
    /// The body ended as its framing says.
    pub complete: bool,
}

impl Response {
    /// All values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        super::values(&self.head, name)
    }

    /// The only value of a field; more than one fails the test.
    pub fn field(&self, name: &str) -> Option<&str> {
        super::only_value(&self.head, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The last part of the problem's `type`, such as `no_route`; the rest of the problem body is checked.
    pub fn problem(&self) -> String {
        assert_eq!(self.field("content-type"), Some("application/problem+json"), "{self:?}");
        let json: serde_yaml::Value = serde_yaml::from_slice(&self.body).unwrap(); // YAML reads JSON
        assert_eq!(json["status"], self.status, "{self:?}");
        assert_eq!(json["instance"].as_str(), self.field("x-request-id"), "{self:?}");
        assert_eq!(json["title"], json["error"], "{self:?}");
        assert!(json["detail"].as_str().is_some_and(|d| !d.is_empty()), "{self:?}");
        json["type"].as_str().unwrap().strip_prefix("urn:portcullis:problem:").unwrap().to_owned()
    }
}

impl Raw {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Raw {
        Raw::from(TcpStream::connect(address).unwrap())
    }

    /// Takes over a connection.
    pub fn from(socket: TcpStream) -> Raw {
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Raw::over(socket)
    }

    /// Says that nothing more will be sent.
    pub fn half_close(&mut self) -> &mut Raw {
        let _ = self.socket.shutdown(Shutdown::Write);
        self
    }

    /// Whether nothing at all comes for a while (a negative: it can only be looked at for some time).
    pub fn silent_for(&mut self, time: Duration) -> bool {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut byte = [0; 1];
        let result = self.socket.peek(&mut byte);
        self.socket.set_read_timeout(Some(DEADLINE)).unwrap();
        matches!(result, Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    }
}

impl<S: Read + Write> Raw<S> {
    /// Over whatever can be read and written.
    pub fn over(socket: S) -> Raw<S> {
        Raw { socket, buffer: Vec::new() }
    }

    /// Sends bytes; that the other side closed meanwhile is no failure here.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.socket.write_all(bytes.as_ref()).and_then(|()| self.socket.flush());
        self
    }

    /// Reads one final response (1xx before it are passed over).
    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    /// Reads one final response to a request with this method: HEAD has no body.
    pub fn response_to(&mut self, method: &str) -> Response {
        loop {
            let response = self.one_response(method).expect("a response");
            if response.status >= 200 || response.status == 101 {
                return response;
            }
        }
    }

    /// Reads the next response, 1xx included; none when the connection closed before one began.
    pub fn one_response(&mut self, method: &str) -> Option<Response> {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            self.fill()?;
        };
        let raw_head = self.buffer[..end].to_vec();
        let head = String::from_utf8_lossy(&raw_head).into_owned();
        self.buffer.drain(..end + 4);
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .unwrap_or_else(|| panic!("no status in {head:?}"));
        let mut response = Response { status, head, raw_head, body: Vec::new(), complete: true };
        if status >= 200 && !matches!(status, 204 | 304) && method != "HEAD" {
            self.body(&mut response);
        }
        Some(response)
    }

    fn body(&mut self, response: &mut Response) {
        if response.field("transfer-encoding").is_some() {
            response.complete = self.chunks(response).is_some();
        } else if let Some(length) = response.field("content-length").map(|l| l.parse::<usize>().unwrap()) {
            while self.buffer.len() < length && self.fill().is_some() {}
            let there = self.buffer.len().min(length);
            response.body = self.buffer.drain(..there).collect();
            response.complete = there == length;
        } else {
            while self.fill().is_some() {}
            response.body = std::mem::take(&mut self.buffer);
        }
    }

    fn chunks(&mut self, response: &mut Response) -> Option<()> {
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
            while self.buffer.len() < size + 2 {
                self.fill()?;
            }
            response.body.extend(self.buffer.drain(..size));
            self.buffer.drain(..2);
            if size == 0 {
                return Some(()); // the gateway sends no trailers
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Some(line);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Option<usize> {
        let mut chunk = [0; 65_536];
        match self.socket.read(&mut chunk) {
            Ok(0) => None,
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                Some(n)
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing came within {DEADLINE:?}")
            }
            Err(_) => None,
        }
    }

    /// The next line, without its end.
    pub fn one_line(&mut self) -> String {
        self.line().expect("a line")
    }

    /// Waits until this has come, among whatever else.
    pub fn wait_text(&mut self, text: &str) {
        while find(&self.buffer, text.as_bytes()).is_none() {
            assert!(self.fill().is_some(), "{text:?} never came");
        }
    }

    /// Whether the gateway closes: waits for the end of the stream.
    pub fn closed(&mut self) -> bool {
        loop {
            let mut chunk = [0; 4096];
            match self.socket.read(&mut chunk) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) => return !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            }
        }
    }

    /// Everything that still comes until the gateway closes.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill().is_some() {}
        std::mem::take(&mut self.buffer)
    }
}

/// One request on a connection of its own, bytes as given.
pub fn exchange(address: SocketAddr, request: impl AsRef<[u8]>) -> Response {
    Raw::connect(address).send(request).response()
}

/// A GET with `Host: test`.
pub fn get(address: SocketAddr, target: &str) -> Response {
    exchange(address, format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"))
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|w| w == pattern)
}
