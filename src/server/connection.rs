//! One connection's life: admitted, parked, a head read and checked, handed to the engine, and parked again.

use super::handshake::shake_hands;
use super::{http2, Shared};
use crate::error::Reject;
use crate::gateway::{Limits, Listener, Protocols};
use crate::observe::exchange::Exchange;
use crate::proxy::ctx::new_id;
use crate::proxy::record::Left;
use crate::proxy::{failure, record, Proxy};
use crate::wire::client::Client;
use crate::wire::conn::{Conn, NoHead, Pace};
use crate::wire::facts::{Ends, Facts};
use crate::wire::head::HeadError;
use crate::wire::socket::Socket;
use crate::wire::trail::Trail;
use bytes::BytesMut;
use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use pingora::protocols::Stream;
use pingora_proxy::HttpProxy;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::{watch, Notify};

/// How much of a request line is kept for the log, should the request end without a word.
pub(super) const LINE: usize = 512;

/// A connection that was accepted.
pub struct Arrival {
    /// The accepted socket.
    pub socket: Socket,
    /// Its two ends.
    pub ends: Ends,
    /// What it came in by.
    pub listener: Arc<Listener>,
}

/// Connections and requests that are there now.
#[derive(Default)]
pub struct Counters {
    connections: AtomicUsize,
    requests: AtomicUsize,
    /// Connections of HTTP/2 that may still have to send what their requests were answered.
    owing: AtomicUsize,
    done: Notify,
    /// By address; only kept while a limit by address is configured.
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

impl Counters {
    /// Requests in flight.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Client connections, those included that are closing.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits until no request is in flight, and none of their answers.
    pub async fn idle(&self) {
        self.none(|counters| counters.requests() + counters.owing.load(Ordering::SeqCst)).await;
    }

    /// Waits until no client is connected.
    pub async fn deserted(&self) {
        self.none(Self::connections).await;
    }

    async fn none(&self, of: impl Fn(&Self) -> usize) {
        loop {
            let done = self.done.notified();
            if of(self) == 0 {
                return;
            }
            done.await;
        }
    }
}

/// One admitted connection; gives its place back when it is dropped.
pub struct Ticket {
    shared: Arc<Shared>,
    counted: bool,
    address: OnceLock<IpAddr>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let counters = &self.shared.counters;
        if self.counted && counters.connections.fetch_sub(1, Ordering::SeqCst) == 1 {
            counters.done.notify_waiters();
        }
        let Some(address) = self.address.take() else { return };
        let mut by_address = counters.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&address);
            }
        }
    }
}

impl Shared {
    /// Lets the gateway's own connection in, which takes nobody's room: a full gateway lives.
    pub(super) fn admit_itself(self: &Arc<Self>) -> Arc<Ticket> {
        Arc::new(Ticket { shared: Arc::clone(self), counted: false, address: OnceLock::new() })
    }

    /// Lets a connection in while there is room.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn admit(self: &Arc<Self>, peer: Option<IpAddr>) -> Result<Arc<Ticket>, Reject> {
        let most = self.gateway.load().limits.connections;
        if self.counters.connections.fetch_add(1, Ordering::SeqCst) >= most {
            self.counters.connections.fetch_sub(1, Ordering::SeqCst);
            return Err(Reject::TooManyConnections);
        }
        // From here on the ticket's drop takes the count back.
        let ticket = Ticket { shared: Arc::clone(self), counted: true, address: OnceLock::new() };
        self.admit_from(&ticket, peer)?;
        Ok(Arc::new(ticket))
    }

    /// Lets the connection in as one of this address's, once it is known whose it is; a trusted proxy's are everybody's.
    ///
    /// # Errors
    /// That the address has too many.
    pub(super) fn admit_from(&self, ticket: &Ticket, client: Option<IpAddr>) -> Result<(), Reject> {
        let gateway = self.gateway.load();
        let (Some(most), Some(client)) = (gateway.limits.connections_per_address, client) else {
            return Ok(());
        };
        if gateway.trusted.contains(client) {
            return Ok(());
        }
        let site = crate::base::client::site(client);
        let mut by_address = self.counters.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(site).or_insert(0);
        if *count >= most {
            return Err(Reject::TooManyFromAddress);
        }
        if ticket.address.set(site).is_ok() {
            *count += 1;
        }
        Ok(())
    }
}

/// A request in flight; the last one to end wakes who waits for an idle gateway.
pub(super) struct InFlight<S: Deref<Target = Shared>>(S);

impl<S: Deref<Target = Shared>> InFlight<S> {
    pub(super) fn new(shared: S) -> Self {
        shared.counters.requests.fetch_add(1, Ordering::SeqCst);
        InFlight(shared)
    }
}

impl<S: Deref<Target = Shared>> Drop for InFlight<S> {
    fn drop(&mut self) {
        let counters = &self.0.counters;
        if counters.requests.fetch_sub(1, Ordering::SeqCst) == 1 {
            counters.done.notify_waiters();
        }
    }
}

/// A connection that may still have to send what its requests were answered; like [`InFlight`].
pub(super) struct Owing(Arc<Shared>);

impl Owing {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        shared.counters.owing.fetch_add(1, Ordering::SeqCst);
        Owing(shared)
    }
}

impl Drop for Owing {
    fn drop(&mut self) {
        let counters = &self.0.counters;
        if counters.owing.fetch_sub(1, Ordering::SeqCst) == 1 {
            counters.done.notify_waiters();
        }
    }
}

/// Serves requests on one connection until it ends; `ticket` counts it until then.
pub async fn serve(
    arrival: Arrival,
    ticket: Arc<Ticket>,
    proxy: Arc<HttpProxy<Proxy>>,
    shared: Arc<Shared>,
    draining: watch::Receiver<bool>,
) {
    let protocols = arrival.listener.protocols;
    let listener = &arrival.listener;
    let (socket, facts) = if listener.tls.is_none() && !listener.proxy_protocol {
        let facts = Facts::new(arrival.ends, None, Arc::clone(&listener.terms));
        (arrival.socket, facts)
    } else {
        // In a box: a connection that waits for its next request is not to be as large as a handshake.
        let Some(ready) = Box::pin(shake_hands(arrival, &ticket, &shared)).await else { return };
        ready
    };
    let peer = facts.address;
    if facts.tls.as_ref().is_some_and(|tls| tls.h2) {
        let client = http2::Arrived { socket, ahead: BytesMut::new(), peer, facts };
        // In a box: it is larger than all of this, and HTTP/1 needs it not.
        return Box::pin(http2::serve(client, ticket, proxy, shared, draining)).await;
    }
    let limits = shared.gateway.load().limits;
    let farewell = Arc::clone(&shared.farewell);
    let itself = !ticket.counted;
    let mut conn = Box::new(Conn::new(socket, facts, pace(&limits), farewell, Arc::clone(&ticket) as _));
    if itself {
        conn.set_own();
    }
    // A client that has TLS has said by now what it speaks; unless nothing else is spoken here.
    if protocols.h2 && (conn.facts.tls.is_none() || !protocols.http1) {
        match begins_http2(&mut conn, &protocols, &limits).await {
            Ok(false) => {}
            Ok(true) => {
                let (socket, ahead, facts) = conn.give_up();
                let client = http2::Arrived { socket, ahead, peer, facts };
                return Box::pin(http2::serve(client, ticket, proxy, shared, draining)).await;
            }
            Err(no_head) => return refuse(*conn, &shared, no_head).await,
        }
    }
    drop(ticket);
    http1(conn, limits, proxy, shared, draining).await;
}

/// Serves requests of HTTP/1 until the connection ends.
async fn http1(
    mut conn: Box<Conn>,
    mut limits: Limits,
    proxy: Arc<HttpProxy<Proxy>>,
    shared: Arc<Shared>,
    draining: watch::Receiver<bool>,
) {
    let (trail, peer) = (Arc::clone(conn.trail()), conn.facts.address);
    let mut served = 0;
    loop {
        if !conn.wait_for_request(limits.idle_timeout).await {
            return;
        }
        // After the wait, in which a reload may have come.
        limits = shared.gateway.load().limits;
        conn.set_pace(pace(&limits));
        let _in_flight = InFlight::new(&*shared);
        let head = match conn.read_head(&limits.head, limits.header_timeout).await {
            Ok((_, head)) => head,
            Err(no_head) => return refuse(*conn, &shared, no_head).await,
        };
        served += 1;
        let line = &head[..head.len().min(LINE)];
        let line = &line[..memchr::memchr(b'\r', line).unwrap_or(line.len())];
        let _told = Told { shared: &shared, trail: &trail, served, peer, line: line.into() };
        let mut session = ServerSession::new_http1(conn);
        session.set_pipelined_prefix(head);
        session.set_read_timeout(None); // `Conn` has the clocks
        if served >= limits.requests_per_connection {
            session.set_keepalive_reuses_remaining(Some(0));
            if let Some(conn) = crate::proxy::ctx::conn_of(&session) {
                conn.end_unawares();
            }
        }
        let Some(reused) = proxy.process_new_http(session, &draining).await else { return };
        let (stream, _) = reused.consume();
        let Some(back) = own(stream) else { return };
        if !back.body_done() {
            return; // what follows would be taken for a head
        }
        conn = back;
    }
}

/// Whether a connection speaks HTTP/2, where it may, with no TLS to say so.
async fn begins_http2(conn: &mut Conn, protocols: &Protocols, limits: &Limits) -> Result<bool, NoHead> {
    if !conn.wait_for_request(limits.idle_timeout).await {
        return Err(NoHead::Closed);
    }
    let begins = conn.begins_http2(limits.header_timeout).await?;
    if !begins && !protocols.http1 {
        return Err(NoHead::Refused(HeadError::Http2Only));
    }
    Ok(begins)
}

pub(super) fn pace(limits: &Limits) -> Pace {
    Pace { write: limits.write_timeout, body_rate: limits.min_body_rate, body_grace: Limits::BODY_GRACE }
}

/// The stream that the engine hands back is the connection it was given.
fn own(stream: Stream) -> Option<Box<Conn>> {
    stream.into_any().downcast().ok()
}

/// A request that the engine has. Should it end without having been told of (a panic, the end of the process, a head that
/// the engine refuses after all), it is told of here.
pub(super) struct Told<'a> {
    pub(super) shared: &'a Shared,
    pub(super) trail: &'a Trail,
    /// How many the connection had with it.
    pub(super) served: u32,
    pub(super) peer: Option<IpAddr>,
    pub(super) line: SmallVec<[u8; 128]>,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if self.trail.count() >= u64::from(self.served) {
            return;
        }
        let reject = if std::thread::panicking() {
            Reject::Internal
        } else if self.shared.farewell.is_leaving() {
            Reject::CutOff
        } else {
            Reject::Malformed
        };
        if let Some(left) = self.trail.take::<Left>() {
            return left.tell(&self.shared.observed, &reject, &self.line);
        }
        tell(self.shared, &reject, new_id().as_bytes(), self.peer, &self.line, Exchange::default());
    }
}

async fn refuse(conn: Conn, shared: &Shared, no_head: NoHead) {
    let reject = match no_head {
        NoHead::Closed => return,
        NoHead::BrokenOff => Reject::ClientGone,
        NoHead::Slow => Reject::SlowHead,
        NoHead::Refused(error) => Reject::Head(error),
    };
    let id = new_id();
    let answer = failure::raw_answer(&reject, id.to_str().unwrap_or_default());
    let body = memchr::memmem::find(&answer, b"\r\n\r\n").map_or(0, |end| answer.len() - end - 4);
    let heard = reject != Reject::ClientGone;
    let bytes_out = if heard { body as u64 } else { 0 };
    let known = Exchange { duration: conn.head_took(), bytes_out, ..Exchange::default() };
    tell(shared, &reject, id.as_bytes(), conn.facts.address, conn.request_line(LINE), known);
    if heard {
        conn.answer_and_close(&answer).await;
    }
}

/// Tells of a refusal made before there was a session.
pub(super) fn tell(
    shared: &Shared,
    reject: &Reject,
    id: &[u8],
    peer: Option<IpAddr>,
    line: &[u8],
    known: Exchange<'_>,
) {
    let known = Exchange { request_id: id, client: peer.map(|peer| peer.to_canonical()), ..known };
    record::unheard(&shared.observed, &shared.gateway.load().access_log, reject, line, known);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, load::System};
    use crate::observe::Observed;
    use arc_swap::ArcSwap;
    use std::time::Duration;

    /// A request that the engine never told of has a line, by what ended it; one that it told of has none here.
    #[test]
    fn what_ends_without_a_word_is_told() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let yaml = format!(
            "listeners: [{{address: \"127.0.0.1:0\"}}]\naccess_log: {{path: {}}}\nroutes: [{{respond: {{}}}}]\n",
            log.path().display()
        );
        let gateway = config::compile("test", &yaml, &System).unwrap_or_else(|e| panic!("{e:?}")).gateway;
        gateway.access_log.open(None).unwrap();
        let shared = Shared {
            gateway: Arc::new(ArcSwap::from_pointee(gateway)),
            counters: Counters::default(),
            farewell: Arc::default(),
            observed: Arc::new(Observed::default()),
        };
        let trail = Trail::default();
        let request = |served| Told {
            shared: &shared,
            trail: &trail,
            served,
            peer: None,
            line: b"GET /a?token=geheim HTTP/1.1"[..].into(),
        };
        let fault = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _told = request(1);
            std::panic::resume_unwind(Box::new("a fault of ours"));
        }));
        assert!(fault.is_err());
        drop(request(1)); // the engine refused its head after all
        trail.told();
        drop(request(1));
        shared.farewell.begin();
        drop(request(2));
        let gateway = shared.gateway.load();
        gateway.access_log.flush(Duration::from_secs(20));
        let text = std::fs::read_to_string(log.path()).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let told: Vec<_> =
            lines.iter().map(|l| (l["status"].as_u64().unwrap(), l["error"].as_str().unwrap())).collect();
        assert_eq!(told, [(500, "internal"), (400, "malformed"), (503, "cut_off")]);
        assert!(lines.iter().all(|l| l["path"] == "/a" && l["query"] == "token=***"), "{text}");
        assert_eq!(shared.observed.totals.so_far(), (3, 1), "the panic alone is a fault");
    }
}
