//! What is known of one exchange, from its first byte to its log line.

use super::grpc_web::Web;
use super::record::Left;
use crate::base::decimal::hex_128;
use crate::error::Reject;
use crate::gateway::{Action, Gateway, Route, Rules};
use crate::observe::spans::Recording;
use crate::observe::trace::Context;
use crate::policy::Pass;
use crate::router::RouteId;
use crate::upstream::load::Turn;
use crate::upstream::peer::{Address, Busy, Target};
use crate::upstream::Upstream;
use crate::wire::client::Client;
use crate::wire::conn::Conn;
use crate::wire::http2::stream::Stream;
use crate::wire::trail::Trail;
use http::HeaderValue;
use pingora::protocols::http::ServerSession;
use pingora_proxy::Session;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// One exchange.
pub struct Ctx {
    /// The configuration it began with, and ends with.
    pub gateway: Arc<Gateway>,
    /// When its head was complete.
    pub started: Instant,
    /// When it must be over.
    pub deadline: Instant,
    /// Its id, in the answer, the upstream's request and the log.
    pub id: HeaderValue,
    /// The believed client address; none on a Unix socket.
    pub client: Option<IpAddr>,
    /// The peer may speak for others.
    pub peer_trusted: bool,
    /// Its route, once found.
    pub route: Option<RouteId>,
    /// What admission has found out.
    pub pass: Pass,
    /// The upstream chosen among the route's.
    pub upstream: Option<Arc<Upstream>>,
    /// How it counts there.
    pub turn: Turn,
    /// What `consistent_hash` hashes.
    pub hash_key: Vec<u8>,
    /// The target of the next attempt, once chosen.
    pub next: Option<Arc<Target>>,
    /// The target of the present or last attempt.
    pub target: Option<Busy>,
    /// Targets that failed.
    pub tried: Vec<Address>,
    /// Attempts begun.
    pub attempts: usize,
    /// Body bytes seen in this attempt.
    pub body_received: u64,
    /// When the present attempt began.
    pub attempt_started: Instant,
    /// From then until the head of its final response, or until it failed.
    pub upstream_took: Option<Duration>,
    /// It goes over a connection that was there.
    pub reused: bool,
    /// It is a call of gRPC, or of gRPC-Web that the gateway answers for.
    pub grpc: bool,
    /// It is one of gRPC-Web.
    pub web: Option<Box<Web>>,
    /// What became of it, as gRPC says it.
    pub grpc_status: Option<u32>,
    /// The final response's head has come from the upstream.
    pub answered: bool,
    /// Its place in its trace.
    pub trace: Context,
    /// What becomes of it in spans, if it is recorded.
    pub recording: Option<Box<Recording>>,
    /// The status of that.
    pub status: Option<u16>,
    /// Content of the answer that has passed.
    pub sent: u64,
    /// Why the gateway itself answered.
    pub reject: Option<Reject>,
    /// Where what is known of it stays if it ends without having been told of.
    pub trail: Option<Arc<Trail>>,
    /// It has been told of.
    pub told: bool,
}

impl Ctx {
    /// An exchange that begins now.
    pub fn new(gateway: Arc<Gateway>) -> Self {
        let now = Instant::now();
        // A trace that begins here goes by the number of its first request.
        let number = fastrand::u128(1..);
        Ctx {
            gateway,
            started: now,
            deadline: now,
            id: id_of(number),
            client: None,
            peer_trusted: false,
            route: None,
            pass: Pass::default(),
            upstream: None,
            turn: Turn::default(),
            hash_key: Vec::new(),
            next: None,
            target: None,
            tried: Vec::new(),
            attempts: 0,
            body_received: 0,
            attempt_started: now,
            upstream_took: None,
            reused: false,
            answered: false,
            trace: Context { trace_id: number, parent: None, sampled: false },
            recording: None,
            grpc: false,
            web: None,
            grpc_status: None,
            status: None,
            sent: 0,
            reject: None,
            trail: None,
            told: false,
        }
    }

    /// The route, if one was found.
    pub fn route(&self) -> Option<&Route> {
        self.route.map(|id| self.gateway.route(id))
    }

    /// The route's rules, where there is one for certain: after `decide` let the request pass.
    pub fn rules(&self) -> &Rules {
        &self.route().expect("only requests with a route go upstream").rules
    }

    /// The next target of this upstream that was not tried.
    pub fn select(&self, tried: &[Address]) -> Option<Arc<Target>> {
        self.upstream.as_ref()?.select(&self.hash_key, tried)
    }

    /// How long nothing may pass through a tunnel.
    pub fn tunnel_idle(&self) -> Duration {
        self.upstream.as_ref().map(|upstream| upstream.spec().timeouts).unwrap_or_default().tunnel
    }

    /// Whether this route sends requests to an upstream.
    pub fn forwards(&self) -> bool {
        self.route().is_some_and(|r| matches!(r.action, Action::Forward(_)))
    }
}

impl Drop for Ctx {
    fn drop(&mut self) {
        if let Some(route) = self.route() {
            route.stats.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(upstream) = &self.upstream {
            if self.turn == Turn::Waiting && self.reject == Some(Reject::ClientGone) {
                let now = Instant::now();
                self.turn = upstream.load().given_up(self.turn, now - self.attempt_started, now);
            }
            upstream.load().leave(self.turn);
        }
        if let Some(trail) = self.trail.take().filter(|_| !self.told) {
            trail.leave(Box::new(Left::of(self)));
        }
    }
}

/// The client of a session, whatever protocol it speaks.
pub fn client(session: &Session) -> Option<&dyn Client> {
    let session = session.as_downstream();
    if let Some(conn) = conn_of(session) {
        return Some(conn);
    }
    Some(Stream::watch_of(session.as_custom()?.digest()?)?)
}

/// The connection under a session of HTTP/1.
pub fn conn(session: &Session) -> Option<&Conn> {
    conn_of(session.as_downstream())
}

/// The connection under the engine's own session.
pub fn conn_of(session: &ServerSession) -> Option<&Conn> {
    // `dyn IO`'s own `as_any`, not the box's
    session.stream().and_then(|stream| (**stream).as_any().downcast_ref())
}

/// 128 random bits in hexadecimal: unique, not secret.
pub fn new_id() -> HeaderValue {
    id_of(fastrand::u128(1..))
}

fn id_of(number: u128) -> HeaderValue {
    let mut id = HeaderValue::from_bytes(&hex_128(number)).expect("hexadecimal digits are a field value");
    // It never comes again: in a table of HPACK it would only push out what does (RFC 7541 §7.1.3).
    id.set_sensitive(true);
    id
}
