//! What stands between the `h2` crate and the socket.
//!
//! The crate bounds what it keeps: streams, header lists, CONTINUATION frames, empty and tiny DATA frames, streams reset before
//! they were taken up, errors it had to answer with a reset. It does not bound what a client makes it do over time, so the
//! frames are counted here as they come in (Rapid Reset, CVE-2023-44487: requests that are taken up and reset at once; floods
//! of PING, SETTINGS, PRIORITY, WINDOW_UPDATE and unknown frames), and it has no clocks: here are those for a client that does
//! not end a head and for one that takes no bytes.

use super::outbox::Outbox;
use super::unheard::{Sent, Unheard};
use super::PREFACE;
use crate::wire::clock::Clock;
use crate::wire::linger::{linger, Farewell};
use crate::wire::socket::Socket;
use bytes::{Buf, BytesMut};
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{ready, Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// For which a client's frames are counted together.
const SPAN: Duration = Duration::from_secs(10);
/// Bytes of frames that carry nothing which a client may send in that time, besides half of what it sends and is sent in
/// earnest: a WINDOW_UPDATE for every thirty bytes of an answer, but not one PING after another, each with its answer.
const IDLE_BYTES: u64 = 64 << 10;

/// What the client may do to a connection.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Without a byte taken.
    pub write: Duration,
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// Streams that it may reset in ten seconds.
    pub resets: u32,
}

/// Why a connection has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Too many resets.
    Resets,
    /// Too many frames that carry nothing.
    Flood,
    /// A head that does not end.
    SlowHead,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::Resets => "too many resets",
            Verdict::Flood => "too many frames that carry nothing",
            Verdict::SlowHead => "a head that does not end",
        })
    }
}

/// Where the guard says it, and its connection's task reads it.
#[derive(Debug, Default)]
pub struct Sentence(AtomicU8);

impl Sentence {
    /// What it is, once there is one.
    pub fn passed(&self) -> Option<Verdict> {
        match self.0.load(Ordering::Relaxed) {
            1 => Some(Verdict::Resets),
            2 => Some(Verdict::Flood),
            3 => Some(Verdict::SlowHead),
            _ => None,
        }
    }

    fn pass(&self, verdict: Verdict) {
        let number = match verdict {
            Verdict::Resets => 1,
            Verdict::Flood => 2,
            Verdict::SlowHead => 3,
        };
        self.0.store(number, Ordering::Relaxed);
    }
}

/// A client's socket, watched. Dropped with its [`Outlet`], it closes in two steps.
pub struct Guard(Arc<Mutex<Watched>>);

/// The same socket, for who drives the connection: what it says waits there until it has said all.
pub struct Outlet(Arc<Mutex<Watched>>);

impl Outlet {
    /// From now on what is said waits for [`poll_broken`](Self::poll_broken).
    pub fn collect(&self) {
        lock(&self.0).outbox.collect();
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        lock(&self.0).outbox.is_empty()
    }

    /// Sends what waits. Ready when that fails, and not before.
    pub fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
        match lock(&self.0).poll_send(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }
}

/// Both are of one task, so that nobody waits.
fn lock(watched: &Mutex<Watched>) -> MutexGuard<'_, Watched> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Watched {
    socket: Option<Socket>,
    outbox: Outbox,
    /// Read before it was known what is spoken.
    ahead: BytesMut,
    bounds: Bounds,
    frames: Frames,
    sent: Sent,
    sentence: Arc<Sentence>,
    unheard: Arc<Unheard>,
    span: Instant,
    head_since: Option<Instant>,
    write_since: Option<Instant>,
    reading: Clock,
    writing: Clock,
    /// The client has closed, or the connection broke.
    gone: bool,
    farewell: Arc<Farewell>,
    /// Counts this connection for as long as it lives, lingering included.
    ticket: Arc<dyn Send + Sync>,
}

impl Guard {
    /// Watches over a socket of which `ahead` has been read. `ticket` is dropped when the connection is closed.
    pub fn new(
        socket: Socket,
        ahead: BytesMut,
        bounds: Bounds,
        farewell: Arc<Farewell>,
        ticket: Arc<dyn Send + Sync>,
    ) -> Self {
        Guard(Arc::new(Mutex::new(Watched {
            socket: Some(socket),
            outbox: Outbox::default(),
            ahead,
            bounds,
            frames: Frames::default(),
            sent: Sent::default(),
            sentence: Arc::default(),
            unheard: Arc::default(),
            span: Instant::now(),
            head_since: None,
            write_since: None,
            reading: Clock::default(),
            writing: Clock::default(),
            gone: false,
            farewell,
            ticket,
        })))
    }

    /// Its other half.
    pub fn outlet(&self) -> Outlet {
        Outlet(Arc::clone(&self.0))
    }

    /// Where it says why the connection has to end. It reads nothing more then.
    pub fn sentence(&self) -> Arc<Sentence> {
        Arc::clone(&lock(&self.0).sentence)
    }

    /// Where it says what requests it has seen.
    pub fn unheard(&self) -> Arc<Unheard> {
        Arc::clone(&lock(&self.0).unheard)
    }
}

impl Watched {
    fn socket(&mut self) -> Pin<&mut Socket> {
        Pin::new(self.socket.as_mut().expect("the socket is only taken by drop"))
    }

    /// Counts what has come.
    fn judge(&mut self, bytes: &[u8]) {
        let now = Instant::now();
        if now.duration_since(self.span) > SPAN {
            self.span = now;
            self.frames.begin_span();
        }
        let unheard = &self.unheard;
        self.frames.pass(bytes, |kind, stream| match kind {
            RST_STREAM => unheard.end(stream),
            _ => unheard.begin(stream),
        });
        let Tally { idle, useful, resets } = self.frames.tally;
        if resets > self.bounds.resets {
            self.sentence.pass(Verdict::Resets);
        } else if idle > IDLE_BYTES + useful / 2 {
            self.sentence.pass(Verdict::Flood);
        }
        if !self.frames.in_head() {
            self.head_since = None;
        }
    }

    /// Nothing has come: in the midst of a head that ends in time.
    fn wait(&mut self, cx: &mut Context<'_>) {
        if self.frames.in_head() {
            let since = *self.head_since.get_or_insert_with(Instant::now);
            if self.reading.is_over(cx, since + self.bounds.head) {
                self.sentence.pass(Verdict::SlowHead);
                // Whoever drives the connection looks for a sentence after it has driven it: that is now.
            }
        }
    }

    /// A write has to wait: fails when it has for too long.
    fn stall(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let since = *self.write_since.get_or_insert_with(Instant::now);
        if self.writing.is_over(cx, since + self.bounds.write) {
            self.gone = true;
            return Poll::Ready(ErrorKind::TimedOut.into());
        }
        Poll::Pending
    }

    /// What came of a try to write: bytes that were taken end a wait, and whether it has been too long is asked of one
    /// that goes on. A try that had nothing to send ends none: what the crate cannot hand over here still waits there.
    fn tried<T>(&mut self, cx: &mut Context<'_>, tried: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if self.outbox.has_moved() {
            self.write_since = None;
        }
        match tried {
            Poll::Pending => self.stall(cx).map(Err),
            Poll::Ready(done) => {
                self.gone |= done.is_err();
                Poll::Ready(done)
            }
        }
    }

    fn poll_take(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let socket = Pin::new(self.socket.as_mut().expect("the socket is only taken by drop"));
        let taken = self.outbox.poll_take(socket, cx, bufs);
        let taken = ready!(self.tried(cx, taken))?;
        self.frames.tally.useful += taken as u64;
        let mut left = taken;
        for buf in bufs {
            let part = left.min(buf.len());
            self.sent.pass(&buf[..part], &self.unheard);
            left -= part;
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = Pin::new(self.socket.as_mut().expect("the socket is only taken by drop"));
        let sent = self.outbox.poll_send(socket, cx);
        self.tried(cx, sent)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.sentence.passed().is_some() {
            return Poll::Pending; // for ever: the connection ends
        }
        let start = buf.filled().len();
        if !self.ahead.is_empty() {
            let bytes = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..bytes]);
            self.ahead.advance(bytes);
        } else {
            match self.socket().poll_read(cx, buf) {
                Poll::Pending => {
                    self.wait(cx);
                    return Poll::Pending;
                }
                Poll::Ready(result) => {
                    self.gone |= result.is_err() || buf.filled().len() == start;
                    result?;
                }
            }
        }
        self.judge(&buf.filled()[start..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Guard {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Guard {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_take(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_take(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        lock(&self.0).socket.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut watched = lock(&self.0);
        // The crate flushes after each piece of a body; who drives the connection knows when that was all.
        if watched.outbox.collects() {
            return Poll::Ready(Ok(()));
        }
        watched.poll_send(cx)
    }

    /// The socket itself is closed by drop, in two steps.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).poll_send(cx)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let Some(socket) = self.socket.take() else { return };
        if !self.gone {
            linger(socket, Arc::clone(&self.farewell), Arc::clone(&self.ticket));
        }
    }
}

/// What came in a span of time, and went out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    /// Bytes of frames that carry nothing.
    idle: u64,
    /// Bytes of heads and bodies that came, and all that were written.
    useful: u64,
    /// Streams that the client has reset.
    resets: u32,
}

pub(super) const FRAME_HEAD: usize = 9;
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Follows the client's frames (RFC 9113 §4.1). What is no frame leads it astray, and the crate to an error.
#[derive(Debug, Default)]
struct Frames {
    /// Bytes of the preface that have come.
    preface: usize,
    head: [u8; FRAME_HEAD],
    /// Bytes of the frame's head that have come.
    seen: usize,
    /// Bytes of the payload that have not.
    left: usize,
    /// A header block has begun and has not ended.
    block: bool,
    /// The last stream that has begun.
    last: u32,
    tally: Tally,
}

impl Frames {
    fn begin_span(&mut self) {
        self.tally = Tally::default();
    }

    /// Whether a request's head is on its way.
    fn in_head(&self) -> bool {
        self.block || (self.seen == FRAME_HEAD && matches!(self.kind(), HEADERS | CONTINUATION))
    }

    fn kind(&self) -> u8 {
        self.head[3]
    }

    /// Bytes that have come; `news` hears of streams that begin ([`HEADERS`]) or are reset ([`RST_STREAM`]).
    fn pass(&mut self, mut bytes: &[u8], mut news: impl FnMut(u8, u32)) {
        let preface = bytes.len().min(PREFACE.len() - self.preface);
        self.preface += preface;
        bytes = &bytes[preface..];
        while !bytes.is_empty() {
            if self.left > 0 {
                let passed = self.left.min(bytes.len());
                match self.kind() {
                    DATA | HEADERS | CONTINUATION => self.tally.useful += passed as u64,
                    _ => self.tally.idle += passed as u64,
                }
                self.left -= passed;
                bytes = &bytes[passed..];
            } else {
                let part = bytes.len().min(FRAME_HEAD - self.seen);
                self.head[self.seen..self.seen + part].copy_from_slice(&bytes[..part]);
                self.seen += part;
                bytes = &bytes[part..];
                if self.seen < FRAME_HEAD {
                    return;
                }
                self.begin_frame(&mut news);
            }
            if self.left == 0 {
                self.seen = 0;
            }
        }
    }

    fn begin_frame(&mut self, news: &mut impl FnMut(u8, u32)) {
        let [high, middle, low, kind, flags, stream @ ..] = self.head;
        self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        match kind {
            HEADERS | CONTINUATION | PUSH_PROMISE => self.block = flags & END_HEADERS == 0,
            RST_STREAM => self.tally.resets += 1,
            _ => {}
        }
        let stream = u32::from_be_bytes(stream) & 0x7FFF_FFFF;
        if kind == RST_STREAM {
            news(RST_STREAM, stream);
        }
        // Trailers have a stream that has begun before.
        if kind == HEADERS && stream > self.last {
            self.last = stream;
            news(HEADERS, stream);
        }
        let carries = matches!(kind, DATA | HEADERS | CONTINUATION) && self.left > 0;
        // Resets have a bound of their own.
        if !carries && kind != RST_STREAM {
            self.tally.idle += FRAME_HEAD as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// However the bytes come, the same is counted.
    #[test]
    fn frames_are_counted_however_they_come() {
        let all = [
            PREFACE.to_vec(),
            frame(4, 0, &[0; 12]),
            frame(HEADERS, 0, b"head"),
            frame(CONTINUATION, END_HEADERS, b"more"),
            frame(DATA, 0, b""),
            frame(DATA, 1, &[7; 300]),
            frame(RST_STREAM, 0, &[0; 4]),
            frame(6, 0, &[0; 8]),
        ]
        .concat();
        for step in [1, 2, 5, 9, 10, 4096] {
            let mut frames = Frames::default();
            let (mut passed, mut begun) = (0, Vec::new());
            for piece in all.chunks(step) {
                frames.pass(piece, |kind, stream| begun.extend((kind == HEADERS).then_some(stream)));
                passed += piece.len();
                let at = passed - PREFACE.len().min(passed);
                // From behind the SETTINGS and the head of HEADERS to the end of CONTINUATION.
                let within = (21 + 9..21 + 26).contains(&at);
                assert_eq!(frames.in_head(), within, "at {at} in steps of {step}");
            }
            assert_eq!(begun, [1]);
            assert_eq!(frames.tally, Tally { idle: 21 + 9 + 4 + 17, useful: 308, resets: 1 });
        }
    }
}
