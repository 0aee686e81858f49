//! One connection of HTTP/2: a task for each stream, and the connection's own end.
//!
//! ```text
//! serving --drain, idle, enough requests--> leaving: GOAWAY, what is on its way is served and sent --> over
//!    |                                         |
//!    +--a flood, a head that does not end------+--> GOAWAY (ENHANCE_YOUR_CALM), everything is reset --> over
//! ```

use super::connection::{self, InFlight, Owing, Ticket, Told, LINE};
use super::Shared;
use crate::error::Reject;
use crate::gateway::Limits;
use crate::observe::exchange::Exchange;
use crate::proxy::ctx::new_id;
use crate::proxy::{failure, Proxy};
use crate::wire::client::Client;
use crate::wire::clock::Clock;
use crate::wire::facts::Facts;
use crate::wire::head::HeadError;
use crate::wire::http2::guard::{Bounds, Guard, Outlet, Sentence, Verdict};
use crate::wire::http2::head;
use crate::wire::http2::later::{Later, OnItsWay, Running};
use crate::wire::http2::stream::Stream;
use crate::wire::http2::unheard::{Own, Unheard};
use crate::wire::http2::watch::Origin;
use crate::wire::socket::Socket;
use bytes::{Bytes, BytesMut};
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::request::Parts;
use http::Request;
use log::info;
use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use pingora_proxy::HttpProxy;
use smallvec::SmallVec;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{timeout, Instant};

/// What a client may send of a body before somebody has taken it: of one stream, and of all together, so that a few that
/// are not taken leave the others room.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// How much of an answer waits in memory for its client to take it.
const SEND_BUFFER: usize = 64 << 10;
/// How long a client may take to hear that a connection ends, once nothing is in flight on it.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A client that speaks HTTP/2, whatever has told so.
pub(super) struct Arrived {
    /// The accepted socket, TLS included if there is any.
    pub socket: Socket,
    /// What was read from it.
    pub ahead: BytesMut,
    /// The client's address; none on a Unix socket.
    pub peer: Option<IpAddr>,
    /// What every request of it says.
    pub facts: Facts,
}

/// Serves requests on one connection until it ends; `ticket` counts it until then.
pub(super) async fn serve(
    arrived: Arrived,
    ticket: Arc<Ticket>,
    proxy: Arc<HttpProxy<Proxy>>,
    shared: Arc<Shared>,
    draining: watch::Receiver<bool>,
) {
    let Arrived { socket, ahead, peer, facts } = arrived;
    let limits = shared.gateway.load().limits;
    let farewell = Arc::clone(&shared.farewell);
    // Who fills all streams twice in ten seconds and wants no answer is no browser.
    let resets = limits.h2_streams.saturating_mul(2);
    let bounds = Bounds { write: limits.write_timeout, head: limits.header_timeout, resets };
    let guard = Guard::new(socket, ahead, bounds, Arc::clone(&farewell), ticket);
    let (outlet, sentence, unheard) = (guard.outlet(), guard.sentence(), guard.unheard());
    let Ok(Ok(connection)) = timeout(limits.header_timeout, options(&limits).handshake(guard)).await else {
        return;
    };
    let origin = Arc::new(Origin { peer, facts, farewell, answered: AtomicBool::new(false) });
    let running = Arc::default();
    let streams = Streams {
        proxy,
        shared,
        draining,
        origin,
        running: Arc::clone(&running),
        served: 0,
        most: limits.requests_per_connection,
    };
    let idle = Instant::now() + limits.idle_timeout;
    outlet.collect();
    let course = Course {
        connection,
        outlet,
        sentence,
        unheard,
        streams,
        leaving: None,
        busy: None,
        owing: None,
        idle,
    };
    Later::new(course.run(), running).await;
}

/// What the crate is to allow. What is not here has a default there: 100 empty DATA frames, 20 streams that are reset before
/// they are taken up, 1,024 resets that a client's errors demand, CONTINUATION frames for a quarter more than a full head.
fn options(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    // The crate counts 32 bytes more for each field, and answers what is beyond this without a word: what is a little
    // too large has an answer of ours.
    let head = 2 * limits.head.size + limits.head.target + 32 * limits.head.fields;
    builder
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(u32::try_from(head).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

/// A connection on its way.
struct Course {
    connection: Connection<Guard, Bytes>,
    outlet: Outlet,
    sentence: Arc<Sentence>,
    unheard: Arc<Unheard>,
    streams: Streams,
    /// Since then the client has been asked to send nothing new.
    leaving: Option<Instant>,
    /// Streams have begun, and not all that they were answered has been sent: a stream ends here before its last bytes do.
    busy: Option<Owing>,
    /// No stream is left, only bytes that the client has to take; how many it had taken when it was looked last.
    owing: Option<u64>,
    /// When it will have been idle for too long, or the client will have taken nothing for too long, if that is so.
    idle: Instant,
}

impl Course {
    async fn run(mut self) {
        let end = self.serve().await;
        // Nobody hears the rest any more, and it ends by itself.
        self.tell();
        let Some(end) = end else { return };
        for _ in 0..self.unheard.left() {
            self.streams.tell(&end);
        }
    }

    /// Serves until the connection is over; what is to be said of requests that had begun and were not taken up. Nothing
    /// where the client knows that they were not, and sends them again: behind a GOAWAY (RFC 9113 §6.8).
    async fn serve(&mut self) -> Option<Reject> {
        let mut drained = pin!(drained(self.streams.draining.clone()));
        let (farewell, running) =
            (Arc::clone(&self.streams.origin.farewell), Arc::clone(&self.streams.running));
        let mut clock = Clock::default();
        loop {
            self.look(&running);
            let (idle, owing, leaving) = (self.busy.is_none(), self.owing.is_some(), self.leaving.is_some());
            let (outlet, sentence, unheard, until) =
                (&self.outlet, &*self.sentence, &*self.unheard, self.idle);
            // Asked after the connection was driven.
            let sent = poll_fn(|_| when(unheard.all_sent() && outlet.is_empty()));
            let news = poll_fn(|_| when(sentence.passed().is_some() || unheard.any()));
            tokio::select! {
                biased; // the guard has its news while the connection is driven, and is asked for them after that
                () = &mut drained, if !leaving => self.leave(),
                accepted = self.connection.accept() => match accepted {
                    Some(Ok((request, respond))) => self.accept(request, respond),
                    Some(Err(e)) if !e.is_io() => return Some(Reject::Malformed),
                    Some(Err(_)) | None => return (!leaving).then_some(Reject::ClientGone),
                },
                () = poll_fn(|cx| outlet.poll_broken(cx)) => return (!leaving).then_some(Reject::ClientGone),
                () = news => match self.sentence.passed() {
                    Some(verdict) => return Some(self.condemn(verdict).await),
                    None => self.tell(),
                },
                () = poll_fn(|cx| running.poll_none(cx)), if !idle && !owing => {}
                () = sent, if owing => {}
                () = farewell.dismissed(), if leaving && idle => return None,
                () = poll_fn(|cx| when(clock.is_over(cx, until))), if idle || owing => {
                    if self.has_taken_more() {
                        continue;
                    }
                    if leaving || owing {
                        return None;
                    }
                    self.leave();
                }
            }
        }
    }

    /// Tells of what the crate has answered by itself.
    fn tell(&self) {
        for own in self.unheard.told() {
            self.streams.tell(&match own {
                Own::Reset => Reject::Malformed,
                Own::TooLarge => Reject::Head(HeadError::HeadTooLarge),
            });
        }
    }

    fn accept(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        self.unheard.take_up(respond.stream_id().as_u32());
        // A client that goes on and on would keep the process.
        if self.leaving.is_some_and(|since| since.elapsed() > LAST_WORDS) {
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
        if self.busy.is_none() {
            self.busy = Some(Owing::new(Arc::clone(&self.streams.shared)));
        }
        if self.streams.begin(request, respond) {
            self.leave();
        }
    }

    /// Whether the last stream has ended, and whether what it said has been sent.
    fn look(&mut self, running: &Running) {
        let before = self.owing.take();
        if self.busy.is_none() || !running.none() {
            return;
        }
        let limits = self.streams.shared.gateway.load().limits;
        if self.unheard.all_sent() && self.outlet.is_empty() {
            self.busy = None;
            let rest = if self.leaving.is_some() { LAST_WORDS } else { limits.idle_timeout };
            self.idle = Instant::now() + rest;
            return;
        }
        if before.is_none() {
            self.idle = Instant::now() + limits.write_timeout;
        }
        self.owing = before.or(Some(self.unheard.sent()));
    }

    /// Whether a client that has to take what is left has taken some of it since the last look; it gets more time then.
    fn has_taken_more(&mut self) -> bool {
        let sent = self.unheard.sent();
        let more = self.owing.is_some_and(|before| before != sent);
        if more {
            self.owing = Some(sent);
            self.idle = Instant::now() + self.streams.shared.gateway.load().limits.write_timeout;
        }
        more
    }

    /// Asks for no more requests. What is on its way is still served (RFC 9113 §6.8).
    fn leave(&mut self) {
        if self.leaving.is_none() {
            self.connection.graceful_shutdown();
            self.leaving = Some(Instant::now());
            self.idle = Instant::now() + LAST_WORDS;
        }
    }

    /// Ends it at once, and says why.
    async fn condemn(&mut self, verdict: Verdict) -> Reject {
        match self.streams.origin.peer {
            Some(peer) => info!("connection from {} ended: {verdict}", peer.to_canonical()),
            None => info!("connection ended: {verdict}"),
        }
        self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        let _ = timeout(LAST_WORDS, poll_fn(|cx| self.connection.poll_closed(cx))).await;
        match verdict {
            Verdict::SlowHead => Reject::SlowHead,
            Verdict::Resets | Verdict::Flood => Reject::ClientGone,
        }
    }
}

/// Waits until connections shall end.
async fn drained(mut draining: watch::Receiver<bool>) {
    let _ = draining.wait_for(|draining| *draining).await;
}

fn when(it_is: bool) -> Poll<()> {
    if it_is {
        Poll::Ready(())
    } else {
        Poll::Pending
    }
}

/// The requests of a connection, a task each.
struct Streams {
    proxy: Arc<HttpProxy<Proxy>>,
    shared: Arc<Shared>,
    draining: watch::Receiver<bool>,
    origin: Arc<Origin>,
    running: Arc<Running>,
    served: u32,
    most: u32,
}

impl Streams {
    /// Serves a request; true if it was the last that the connection may have.
    fn begin(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) -> bool {
        self.served += 1;
        let on_its_way = OnItsWay::new(&self.running);
        let in_flight = InFlight::new(Arc::clone(&self.shared));
        let (proxy, shared) = (Arc::clone(&self.proxy), Arc::clone(&self.shared));
        let (origin, draining) = (Arc::clone(&self.origin), self.draining.clone());
        tokio::spawn(async move {
            let _counted = (in_flight, on_its_way);
            one(request, respond, proxy, &shared, origin, draining).await;
        });
        self.served >= self.most
    }

    /// Tells of a request that was never taken up, and of which nothing is known but that.
    fn tell(&self, reject: &Reject) {
        let id = new_id();
        connection::tell(&self.shared, reject, id.as_bytes(), self.origin.peer, b"", Exchange::default());
    }
}

/// One request.
async fn one(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    proxy: Arc<HttpProxy<Proxy>>,
    shared: &Shared,
    origin: Arc<Origin>,
    draining: watch::Receiver<bool>,
) {
    let limits = shared.gateway.load().limits;
    let (parts, body) = request.into_parts();
    let (line, peer) = (line(&parts), origin.peer);
    let head = match head::check(parts, &limits.head) {
        Ok(head) => head,
        Err(error) => return refuse(respond, error, shared, peer, &line),
    };
    let stream = Stream::new(head, body, respond, origin, connection::pace(&limits));
    let watch = Arc::clone(stream.watch());
    let _told = Told { shared, trail: watch.trail(), served: 1, peer, line };
    proxy.process_new_http(ServerSession::new_custom(Box::new(stream)), &draining).await;
}

/// What HTTP/1 would have as its request line, as far as the log needs it.
fn line(parts: &Parts) -> SmallVec<[u8; 128]> {
    let mut line = SmallVec::new();
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    for part in [parts.method.as_str(), " ", target, " HTTP/2.0"] {
        line.extend_from_slice(part.as_bytes());
    }
    line.truncate(LINE);
    line
}

/// Answers a request whose head is refused. The stream is over, the connection is not.
fn refuse(
    mut respond: SendResponse<Bytes>,
    error: HeadError,
    shared: &Shared,
    peer: Option<IpAddr>,
    line: &[u8],
) {
    let (reject, id, head_only) = (Reject::Head(error), new_id(), line.starts_with(b"HEAD "));
    let (head, body) = failure::stream_answer(&reject, &id);
    let known = Exchange { bytes_out: if head_only { 0 } else { body.len() as u64 }, ..Exchange::default() };
    connection::tell(shared, &reject, id.as_bytes(), peer, line, known);
    // A client that has gone hears nothing.
    if let Ok(mut writer) = respond.send_response(head, head_only) {
        if !head_only {
            let _ = writer.send_data(body.into(), true);
        }
    }
}
