//! A client's connection, as the engine sees it.
//!
//! Between requests a [`Conn`] is parked: it holds no buffer and waits for a byte. Then [`Conn::read_head`] reads
//! and checks a head, and the engine gets the connection as its stream. While the engine has it, the connection
//! - hands out the bytes of this request's body and none of the next request, which stay where they are;
//! - ends a read or write with an error once a deadline is over: the exchange's, the slow body's, the stalled
//!   write's ([`Client::fault`] says which);
//! - tells when the client has gone.
//!
//! Dropped with request bytes unread, it closes in two steps, so that the answer is not lost to a TCP reset.

mod client;
mod engine;
mod preface;
mod told;
mod tunnel;

use super::chunk::{ChunkProgress, ChunkScanner};
use super::client::Client;
use super::clock::Clock;
use super::facts::Facts;
use super::head::{self, Framing, Head, HeadError, HeadLimits, HeadState};
use super::linger::{linger, Farewell};
use super::out::Out;
pub use super::outcome::{Fault, NoHead, Pace};
use super::socket::Socket;
use super::trail::Trail;
use super::wait::{BodyWait, Silence};
use bytes::{Buf, BytesMut};
use std::future::{poll_fn, Future};
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;
use tunnel::Tunnel;

/// Room for a usual head; grows with larger ones up to the limit.
const READ_BUFFER: usize = 4096;
/// After this a waiting connection gives its buffers back.
const PARK_AFTER: Duration = Duration::from_secs(1);
/// How much of what follows a request is read ahead while its answer is made, so that the client's going is seen.
const READ_AHEAD: usize = 16 << 10;
/// Empty lines that are passed over between requests (RFC 9112 §2.2).
const EMPTY_LINES: usize = 4;

/// How much of this request's body is still to come.
#[derive(Debug)]
enum Body {
    Done,
    Length(u64),
    Chunked(ChunkScanner),
}

/// A client's connection.
pub struct Conn {
    socket: Option<Socket>,
    /// Read from the socket, not yet given out.
    ahead: BytesMut,
    /// Written by the engine, not yet on its way.
    out: Out,
    body: Body,
    /// The present request's field names need no record of their spelling.
    plain: bool,
    /// Another protocol since a 101: bytes pass both ways untouched.
    tunnel: AtomicBool,
    end_of_tunnel: Option<Box<Tunnel>>,
    clock: Clock,
    pace: Pace,
    /// Milliseconds after `opened` at which the exchange must be over; 0: no limit.
    deadline: AtomicU64,
    opened: Instant,
    wait: BodyWait,
    silence: Silence,
    write_since: Option<Instant>,
    /// Since when more of a head is waited for, if the last one did not come in one piece.
    head_since: Option<Instant>,
    fault: Option<Fault>,
    /// Who is at its other end, and how they came in.
    pub facts: Facts,
    /// The client has closed, or the connection broke.
    gone: bool,
    /// The gateway ends this connection though the client may send more.
    unawares: AtomicBool,
    /// The answer is complete, whatever is still to come of the body.
    answered: AtomicBool,
    /// Empty lines passed over since the last request.
    empty_lines: usize,
    farewell: Arc<Farewell>,
    trail: Arc<Trail>,
    /// The gateway's own, by which it asks itself whether it lives.
    own: bool,
    /// Counts this connection for as long as it lives, lingering included.
    ticket: Arc<dyn Send + Sync>,
}

impl Conn {
    /// Takes over an accepted socket. `ticket` is dropped when the connection is closed.
    pub fn new(
        socket: Socket,
        facts: Facts,
        pace: Pace,
        farewell: Arc<Farewell>,
        ticket: Arc<dyn Send + Sync>,
    ) -> Self {
        Conn {
            socket: Some(socket),
            ahead: BytesMut::new(),
            out: Out::default(),
            body: Body::Done,
            plain: false,
            tunnel: AtomicBool::new(false),
            end_of_tunnel: None,
            clock: Clock::default(),
            pace,
            deadline: AtomicU64::new(0),
            opened: Instant::now(),
            wait: BodyWait::default(),
            silence: Silence::default(),
            write_since: None,
            head_since: None,
            fault: None,
            facts,
            gone: false,
            unawares: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            empty_lines: 0,
            farewell,
            trail: Arc::default(),
            own: false,
            ticket,
        }
    }

    /// Changes the pace that the client must keep, from now on.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Waits for the first byte of a request; false when there will be none within `patience`, or the process is leaving
    /// and has waited for it long enough.
    pub async fn wait_for_request(&mut self, patience: Duration) -> bool {
        // Old clients put one behind a body: it is not the beginning of a request (RFC 9112 §2.2).
        self.pass_empty_lines();
        if !self.ahead.is_empty() {
            return true;
        }
        let now = Instant::now();
        let soon = now + patience.min(PARK_AFTER);
        match poll_fn(|cx| self.poll_first_bytes(cx, soon)).await {
            Some(n) => return n > 0,
            None => self.park(),
        }
        // Not before: to be told of the end costs a lock, and most requests come sooner.
        let farewell = Arc::clone(&self.farewell);
        let mut dismissed = std::pin::pin!(farewell.dismissed());
        let until = now + patience;
        let first = poll_fn(|cx| match self.poll_first_bytes(cx, until) {
            Poll::Pending => dismissed.as_mut().poll(cx).map(|()| None),
            ready => ready,
        });
        first.await.is_some_and(|n| n > 0)
    }

    /// Reads once there is something to read: how much, 0 when the client has closed; none when `until` is over.
    /// The socket may be called ready and have nothing, so only bytes end the waiting, and empty lines do not.
    fn poll_first_bytes(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<Option<usize>> {
        loop {
            // Without a buffer first: a parked connection has none.
            let ready = match self.socket().poll_read_ready(cx) {
                Poll::Ready(Ok(())) => self.poll_ahead(cx),
                Poll::Ready(Err(_)) => Poll::Ready(0),
                Poll::Pending => Poll::Pending,
            };
            match ready {
                Poll::Pending if self.clock.is_over(cx, until) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(0) => return Poll::Ready(Some(0)),
                Poll::Ready(_) => self.pass_empty_lines(),
            }
            if !self.ahead.is_empty() {
                return Poll::Ready(Some(self.ahead.len()));
            }
        }
    }

    /// Reads what is there into `ahead`; 0 when the client has closed or the connection broke.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        self.ahead.reserve(READ_BUFFER / 2);
        let socket = self.socket.as_mut().expect("the socket is only taken by drop");
        let read = ready!(std::pin::pin!(socket.read_buf(&mut self.ahead)).poll(cx)).unwrap_or(0);
        self.gone |= read == 0;
        Poll::Ready(read)
    }

    fn pass_empty_lines(&mut self) {
        while self.ahead.starts_with(b"\r\n") && self.empty_lines < EMPTY_LINES {
            self.ahead.advance(2);
            self.empty_lines += 1;
        }
    }

    /// Reads and checks one request head within `patience`, and prepares for its body. The head's bytes are
    /// returned for the engine to parse.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn read_head(
        &mut self,
        limits: &HeadLimits,
        patience: Duration,
    ) -> Result<(Head, BytesMut), NoHead> {
        self.head_since = None;
        let mut until = None;
        let mut scanned = 0;
        loop {
            if self.ahead.len() > scanned {
                match head::check(&self.ahead, scanned, limits) {
                    HeadState::Complete(head) if head.skip / 2 + self.empty_lines > EMPTY_LINES => {
                        return Err(NoHead::Refused(HeadError::EmptyLines));
                    }
                    HeadState::Complete(head) => return Ok(self.begin(head)),
                    HeadState::Refused(error) => return Err(NoHead::Refused(error)),
                    HeadState::Partial => scanned = self.ahead.len(),
                }
            }
            // Not before it is known that the head did not come in one piece: the clock costs a system call.
            let until = *until.get_or_insert_with(|| {
                let now = Instant::now();
                self.head_since = Some(now);
                now + patience
            });
            match self.fill(until).await {
                Ok(read) if read > 0 => {}
                _ if self.ahead.is_empty() => return Err(NoHead::Closed),
                Err(ErrorKind::TimedOut) => return Err(NoHead::Slow),
                _ => return Err(NoHead::BrokenOff),
            }
        }
    }

    /// Lets `write` put down field lines, each with its CRLF, for the head of the response that comes next, in place of
    /// any that were put down before. They must be sound fields (RFC 9110 §5.5): nothing looks at them again.
    pub fn set_response_fields(&self, write: impl FnOnce(&mut Vec<u8>)) {
        self.out.set_fields(write);
    }

    /// Whether the names of the present request's fields go out as they came in without a record of their spelling.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// Writes an answer made without the engine and begins to close.
    pub async fn answer_and_close(mut self, answer: &[u8]) {
        self.out.drop_fields();
        self.set_deadline(Instant::now() + self.pace.write);
        self.body = Body::Length(u64::MAX); // whatever else was sent is not worth reading, but must be drained
        let _ = AsyncWriteExt::write_all(&mut self, answer).await;
        let _ = self.flush().await;
    }

    fn socket(&self) -> &Socket {
        self.socket.as_ref().expect("the socket is only taken by drop")
    }

    fn park(&mut self) {
        self.out = Out::default();
        self.ahead = BytesMut::new();
    }

    async fn fill(&mut self, until: Instant) -> Result<usize, ErrorKind> {
        if self.ahead.capacity() - self.ahead.len() < 512 {
            self.ahead.reserve(READ_BUFFER);
        }
        let socket = self.socket.as_mut().expect("the socket is only taken by drop");
        let mut read = std::pin::pin!(socket.read_buf(&mut self.ahead));
        let clock = &mut self.clock;
        poll_fn(|cx| match read.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result.map_err(|_| ErrorKind::Other)),
            Poll::Pending if clock.is_over(cx, until) => Poll::Ready(Err(ErrorKind::TimedOut)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    fn begin(&mut self, head: Head) -> (Head, BytesMut) {
        self.ahead.advance(head.skip);
        let bytes = head::tidy(self.ahead.split_to(head.len - head.skip), &head);
        self.body = match head.framing {
            Framing::None | Framing::Length(0) => Body::Done,
            Framing::Length(bytes) => Body::Length(bytes),
            Framing::Chunked => Body::Chunked(ChunkScanner::new()),
        };
        self.plain = head.plain;
        self.wait = BodyWait::new(head.expect_continue);
        self.silence.stop();
        self.deadline.store(0, Ordering::Relaxed);
        self.fault = None;
        self.answered.store(false, Ordering::Relaxed);
        self.out.drop_fields();
        self.empty_lines = 0;
        (head, bytes)
    }

    fn fail(&mut self, fault: Fault) -> io::Error {
        self.fault = Some(fault);
        match fault {
            Fault::Chunk(why) => io::Error::new(ErrorKind::InvalidData, why),
            _ => ErrorKind::TimedOut.into(),
        }
    }

    fn exchange_end(&self) -> Option<Instant> {
        match self.deadline.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(self.opened + Duration::from_millis(millis)),
        }
    }

    /// When the client's body would be too slow, if it is being waited for.
    fn body_end(&mut self) -> Option<Instant> {
        match self.body {
            Body::Done => None,
            _ if self.answered.load(Ordering::Relaxed) => Some(self.wait.end_unneeded()),
            _ if self.tunnel.load(Ordering::Relaxed) => None,
            _ => self.wait.end(&self.pace),
        }
    }

    /// A read has to wait: fails when a deadline is over. What was written until now goes on its way, because the
    /// engine does not flush a response that has a length, and its rest may take long.
    fn wait_to_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(e)) = self.poll_drain(cx) {
            return Poll::Ready(Err(e));
        }
        let (exchange, body) = (self.exchange_end(), self.body_end());
        // An upstream is not silent that does not have the whole request.
        let upstream = if matches!(self.body, Body::Done) { self.silence.end() } else { None };
        let Some(until) = [exchange, body, upstream].into_iter().flatten().min() else {
            return Poll::Pending;
        };
        if !self.clock.is_over(cx, until) {
            return Poll::Pending;
        }
        let is_first = |end| end == Some(until);
        let fault = match () {
            () if is_first(exchange) => Fault::ExchangeTimeout,
            () if is_first(body) && self.answered.load(Ordering::Relaxed) => Fault::Unneeded,
            () if is_first(body) => Fault::SlowBody,
            () if self.tunnel.load(Ordering::Relaxed) => Fault::IdleTunnel,
            () => Fault::SilentUpstream,
        };
        Poll::Ready(Err(self.fail(fault)))
    }

    /// A write has to wait: fails when a deadline is over.
    fn wait_to_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let stalled = *self.write_since.get_or_insert_with(Instant::now) + self.pace.write;
        let exchange = self.exchange_end();
        let until = exchange.map_or(stalled, |e| e.min(stalled));
        if !self.clock.is_over(cx, until) {
            return Poll::Pending;
        }
        let fault = if exchange == Some(until) { Fault::ExchangeTimeout } else { Fault::StalledWrite };
        Poll::Ready(self.fail(fault))
    }

    /// Bytes of the body have arrived in `bytes`: how many of them belong to it?
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait.received(bytes.len());
        match &mut self.body {
            Body::Done => Ok(0),
            Body::Length(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                if *left == 0 {
                    self.body = Body::Done;
                    self.silence.end_it();
                }
                Ok(taken)
            }
            Body::Chunked(scanner) => match scanner.feed(bytes) {
                ChunkProgress::More => Ok(bytes.len()),
                ChunkProgress::Done(end) => {
                    self.body = Body::Done;
                    self.silence.end_it();
                    Ok(end)
                }
                ChunkProgress::Bad(why) => Err(self.fail(Fault::Chunk(why))),
            },
        }
    }

    /// The body is over: nothing to give, but the client's going is news. It shows behind what the client sends
    /// next, so that is read too, within bounds; it stays here for the next request.
    fn watch_for_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ahead.len() < READ_AHEAD {
            match self.poll_ahead(cx) {
                Poll::Ready(0) => return Poll::Ready(Ok(())),
                Poll::Ready(_) => {}
                Poll::Pending => break,
            }
        }
        self.wait_to_read(cx)
    }

    fn read_ahead(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        let offered = self.ahead.len().min(buf.remaining());
        let mut bytes = self.ahead.split_to(offered);
        let taken = if self.tunnel.load(Ordering::Relaxed) { offered } else { self.take(&bytes)? };
        buf.put_slice(&bytes[..taken]);
        if taken < offered {
            let mut rest = bytes.split_off(taken);
            rest.unsplit(std::mem::take(&mut self.ahead));
            self.ahead = rest;
        }
        Ok(())
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(taken) = self.out.take(bytes)? {
            return Poll::Ready(Ok(taken));
        }
        loop {
            let socket = self.socket.as_mut().expect("the socket is only taken by drop");
            let both = self.out.before(bytes);
            let from = usize::from(self.out.waiting().is_empty());
            let written = match Pin::new(socket).poll_write_vectored(cx, &both[from..]) {
                Poll::Pending => return self.wait_to_write(cx).map(Err),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(e)) => {
                    self.gone = true;
                    return Poll::Ready(Err(e));
                }
            };
            self.write_since = None;
            let of_these = self.out.sent(written);
            if of_these > 0 {
                return Poll::Ready(Ok(of_these));
            }
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.waiting().is_empty() {
            let socket = self.socket.as_mut().expect("the socket is only taken by drop");
            match Pin::new(socket).poll_write(cx, self.out.waiting()) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.write_since = None;
                    self.out.sent(n);
                }
                Poll::Ready(Err(e)) => {
                    self.gone = true;
                    return Poll::Ready(Err(e));
                }
                Poll::Pending => return self.wait_to_write(cx).map(Err),
            }
        }
        // TLS has taken what it was given, and may not have written it.
        let socket = self.socket.as_mut().expect("the socket is only taken by drop");
        match Pin::new(socket).poll_flush(cx) {
            Poll::Ready(flushed) => {
                self.write_since = None;
                self.gone |= flushed.is_err();
                Poll::Ready(flushed)
            }
            Poll::Pending => self.wait_to_write(cx).map(Err),
        }
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let tunnel = this.tunnel.load(Ordering::Relaxed);
        if !tunnel && matches!(this.body, Body::Done) {
            return this.watch_for_close(cx);
        }
        if !this.ahead.is_empty() {
            return Poll::Ready(this.read_ahead(buf));
        }
        let start = buf.filled().len();
        let socket = this.socket.as_mut().expect("the socket is only taken by drop");
        match Pin::new(socket).poll_read(cx, buf) {
            Poll::Pending if tunnel => return this.wait_in_tunnel(cx),
            Poll::Pending => return this.wait_to_read(cx),
            Poll::Ready(result) => {
                this.gone |= result.is_err() || buf.filled().len() == start;
                result?;
            }
        }
        if tunnel {
            this.silence.end_it();
            return Poll::Ready(Ok(()));
        }
        if buf.filled().len() > start {
            let taken = match this.take(&buf.filled()[start..]) {
                Ok(taken) => taken,
                Err(e) => {
                    buf.set_filled(start);
                    return Poll::Ready(Err(e));
                }
            };
            this.ahead.extend_from_slice(&buf.filled()[start + taken..]);
            buf.set_filled(start + taken);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(self.poll_send(cx, buf))?;
        if self.tunnel.load(Ordering::Relaxed) {
            self.tunnelled(&buf[..written]);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The socket itself is closed by drop, which knows whether it has to linger.
        self.poll_drain(cx)
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        let Some(mut socket) = self.socket.take() else { return };
        let unread = !matches!(self.body, Body::Done) || !self.ahead.is_empty();
        // A client that was not told before, or an upstream's last words in a tunnel.
        let unawares = self.unawares.load(Ordering::Relaxed) || self.tunnel.load(Ordering::Relaxed);
        if !self.gone && (unread || unawares) {
            linger(socket, Arc::clone(&self.farewell), Arc::clone(&self.ticket));
        } else if !self.gone {
            socket.part();
        }
    }
}
