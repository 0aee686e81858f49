//! A connection that turns out to speak HTTP/2 from its first byte on.

use super::{Conn, NoHead, Socket};
use crate::wire::facts::Facts;
use crate::wire::http2::PREFACE;
use bytes::BytesMut;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::time::Instant;

impl Conn {
    /// Whether the client begins with the preface of HTTP/2 (RFC 9113 §3.4): read as far as it takes to tell, nothing of it
    /// taken away.
    ///
    /// # Errors
    /// Why it cannot be told.
    pub async fn begins_http2(&mut self, patience: Duration) -> Result<bool, NoHead> {
        let until = Instant::now() + patience;
        self.head_since = Some(Instant::now());
        loop {
            let there = self.ahead.len().min(PREFACE.len());
            if self.ahead[..there] != PREFACE[..there] {
                return Ok(false);
            }
            if there == PREFACE.len() {
                return Ok(true);
            }
            match self.fill(until).await {
                Ok(read) if read > 0 => {}
                Err(ErrorKind::TimedOut) => return Err(NoHead::Slow),
                _ if self.ahead.is_empty() => return Err(NoHead::Closed),
                _ => return Err(NoHead::BrokenOff),
            }
        }
    }

    /// Gives the socket up, what was read from it, and who is there.
    pub fn give_up(mut self) -> (Socket, BytesMut, Facts) {
        let socket =
            self.socket.take().expect("the socket is only taken by drop and here, where nothing follows");
        (socket, std::mem::take(&mut self.ahead), std::mem::take(&mut self.facts))
    }
}
