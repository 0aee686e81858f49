//! What a connection says of itself to those who tell of its requests afterwards.

use super::Conn;
use std::time::Duration;

impl Conn {
    /// This is the gateway's own connection to itself.
    pub fn set_own(&mut self) {
        self.own = true;
    }

    /// How long the head took that came last, or what there is of it; nothing worth measuring if it came in one piece.
    pub fn head_took(&self) -> Duration {
        self.head_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The request line that is there, as far as it has come, but not more than so much of it.
    pub fn request_line(&self, most: usize) -> &[u8] {
        let mut line = &self.ahead[..self.ahead.len().min(most)];
        while let Some(rest) = line.strip_prefix(b"\r\n") {
            line = rest;
        }
        &line[..memchr::memchr2(b'\r', b'\n', line).unwrap_or(line.len())]
    }
}
