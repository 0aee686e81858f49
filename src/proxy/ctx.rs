//! What is known of one exchange, from its first byte to its log line.

use crate::error::Reject;
use crate::gateway::{Action, Gateway, Route, Rules};
use crate::router::RouteId;
use crate::upstream::peer::Target;
use crate::upstream::Upstream;
use crate::wire::conn::Conn;
use http::HeaderValue;
use pingora::protocols::http::ServerSession;
use pingora_proxy::Session;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
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
    /// The upstream chosen among the route's.
    pub upstream: Option<Arc<Upstream>>,
    /// What `consistent_hash` hashes.
    pub hash_key: Vec<u8>,
    /// The target of the next attempt, once chosen.
    pub next: Option<Arc<Target>>,
    /// The target of the present or last attempt.
    pub target: Option<Arc<Target>>,
    /// Targets that failed.
    pub tried: Vec<SocketAddr>,
    /// Attempts begun.
    pub attempts: usize,
    /// Body bytes seen in this attempt.
    pub body_received: u64,
    /// When the present attempt began.
    pub attempt_started: Instant,
    /// The final response's head has come from the upstream.
    pub answered: bool,
    /// Why the gateway itself answered.
    pub reject: Option<Reject>,
}

impl Ctx {
    /// An exchange that begins now.
    pub fn new(gateway: Arc<Gateway>) -> Self {
        let now = Instant::now();
        Ctx {
            gateway,
            started: now,
            deadline: now,
            id: new_id(),
            client: None,
            peer_trusted: false,
            route: None,
            upstream: None,
            hash_key: Vec::new(),
            next: None,
            target: None,
            tried: Vec::new(),
            attempts: 0,
            body_received: 0,
            attempt_started: now,
            answered: false,
            reject: None,
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
    pub fn select(&self, tried: &[SocketAddr]) -> Option<Arc<Target>> {
        self.upstream.as_ref()?.select(&self.hash_key, tried)
    }

    /// Whether this route sends requests to an upstream.
    pub fn forwards(&self) -> bool {
        self.route().is_some_and(|r| matches!(r.action, Action::Forward(_)))
    }
}

/// The connection under a session.
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
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bits = fastrand::u128(..);
    let text: [u8; 32] = std::array::from_fn(|i| HEX[((bits >> (124 - 4 * i)) & 15) as usize]);
    HeaderValue::from_bytes(&text).expect("hexadecimal digits are a field value")
}
