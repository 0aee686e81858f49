//! One target: its address, its health, and the peer that Pingora connects to.

use super::dial::TUNNELS;
use super::tunnel::Tunnels;
use crate::observe::exchange::unix_millis;
use crate::observe::spans::Server;
pub use pingora::protocols::l4::socket::SocketAddr as Address;
use pingora::protocols::tls::ALPN;
use pingora::upstreams::peer::HttpPeer;
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long to wait for an upstream; all of them end somewhere by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// Between two reads of the response, its head included.
    pub read: Duration,
    /// For one write of the request.
    pub write: Duration,
    /// For which an unused connection is kept.
    pub idle: Duration,
    /// For which nothing may pass through a tunnel (a WebSocket), one way or the other.
    pub tunnel: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let s = Duration::from_secs;
        Timeouts { connect: s(1), read: s(30), write: s(30), idle: s(60), tunnel: s(3600) }
    }
}

const UNCHECKED: u8 = 0;
const HEALTHY: u8 = 1;
const UNHEALTHY: u8 = 2;

/// A target of an upstream.
///
/// ```text
/// unchecked --first check--> healthy <--healthy_after / unhealthy_after in a row--> unhealthy
/// ```
/// Without a configured check a target is healthy from the start.
#[derive(Debug)]
pub struct Target {
    /// Where it listens.
    pub address: Address,
    /// The same as the configuration would have it.
    pub text: Box<str>,
    /// Requests that are being served by it.
    pub in_flight: AtomicU64,
    peer: HttpPeer,
    health: AtomicU8,
    last: Mutex<LastCheck>,
}

#[derive(Debug, Default, Clone)]
struct LastCheck {
    /// Results in a row that speak against the present health.
    against: usize,
    error: Option<String>,
    /// When it was, and when the health changed last, in milliseconds since 1970.
    at: Option<u64>,
    changed: Option<u64>,
}

/// A request that is being served by a target.
#[derive(Debug)]
pub struct Busy(Arc<Target>);

impl Busy {
    /// One more.
    pub fn new(target: Arc<Target>) -> Self {
        target.in_flight.fetch_add(1, Ordering::Relaxed);
        Busy(target)
    }

    /// The target.
    pub fn target(&self) -> &Arc<Target> {
        &self.0
    }
}

impl std::ops::Deref for Busy {
    type Target = Target;

    fn deref(&self) -> &Target {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A target's health, for people.
#[derive(Debug, Clone)]
pub struct Condition {
    /// `healthy`, `unhealthy` or `unchecked`.
    pub health: &'static str,
    /// Since when it is, in milliseconds since 1970; none when it always was.
    pub since_ms: Option<u64>,
    /// When it was checked last.
    pub checked_ms: Option<u64>,
    /// What that check said if it failed.
    pub error: Option<String>,
}

impl Target {
    /// A target that is reached as this peer; not yet checked, or healthy when nothing will check it.
    pub fn new(address: Address, peer: HttpPeer, checked: bool) -> Self {
        let health = AtomicU8::new(if checked { UNCHECKED } else { HEALTHY });
        let text = written(&address).into();
        Target { address, text, in_flight: AtomicU64::new(0), peer, health, last: Mutex::default() }
    }

    /// The same for a span.
    pub fn server(&self) -> Server {
        match &self.address {
            Address::Inet(address) => Server::Tcp(*address),
            Address::Unix(path) => Server::Unix(path.as_pathname().map(Into::into).unwrap_or_default()),
        }
    }

    /// What it has to prove to be; empty without TLS.
    pub fn name(&self) -> &str {
        &self.peer.sni
    }

    /// The peer for one attempt, with the upstream's timeouts.
    pub fn peer(&self) -> Box<HttpPeer> {
        Box::new(self.peer.clone())
    }

    /// Nothing but HTTP/2 is spoken there, in which no request becomes a tunnel by `Upgrade` (RFC 9113 §8.6).
    pub fn speaks_http2_only(&self) -> bool {
        self.peer.options.alpn == ALPN::H2
    }

    /// The same for a request that gets a connection of its own (`tunnel.rs`), on which this is said first.
    pub fn own_peer(&self, greeting: Vec<u8>) -> Box<HttpPeer> {
        let mut peer = self.peer();
        peer.group_key |= TUNNELS;
        peer.options.set_http_version(1, 1);
        peer.options.tcp_keepalive = None; // for HTTP/2 it is
        peer.options.custom_l4 = Some(Arc::new(Tunnels { tls: peer.is_tls(), greeting }));
        peer
    }

    /// Passed its last checks, or is not checked at all.
    pub fn is_healthy(&self) -> bool {
        self.health.load(Ordering::Relaxed) == HEALTHY
    }

    /// Waits for its first check.
    pub fn is_unchecked(&self) -> bool {
        self.health.load(Ordering::Relaxed) == UNCHECKED
    }

    /// Notes a check's result; `Some(healthy)` when the target's health changed by it.
    pub fn observe(
        &self,
        result: &Result<(), String>,
        healthy_after: usize,
        unhealthy_after: usize,
    ) -> Option<bool> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.error = result.as_ref().err().cloned();
        last.at = Some(unix_millis());
        let now = if result.is_ok() { HEALTHY } else { UNHEALTHY };
        let before = self.health.load(Ordering::Relaxed);
        if now == before {
            last.against = 0;
            return None;
        }
        last.against += 1;
        let needed = match (before, now) {
            (UNCHECKED, _) => 1,
            (_, HEALTHY) => healthy_after,
            _ => unhealthy_after,
        };
        if last.against < needed {
            return None;
        }
        last.against = 0;
        last.changed = last.at;
        self.health.store(now, Ordering::Relaxed);
        // A target that is found healthy at first is no news.
        (before != UNCHECKED || now == UNHEALTHY).then_some(now == HEALTHY)
    }

    /// Takes over what is known of the same target's health.
    pub(super) fn inherit(&self, old: &Target) {
        let last = old.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
        self.health.store(old.health.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// For the operator: how it is, and since when.
    pub fn condition(&self) -> Condition {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let health = match self.health.load(Ordering::Relaxed) {
            HEALTHY => "healthy",
            UNCHECKED => "unchecked",
            _ => "unhealthy",
        };
        Condition { health, since_ms: last.changed, checked_ms: last.at, error: last.error.clone() }
    }

    /// For the operator: what the last check said of a target that is not healthy.
    pub fn why_unhealthy(&self) -> Option<String> {
        match self.health.load(Ordering::Relaxed) {
            HEALTHY => None,
            UNCHECKED => Some(format!("{}: not checked yet", self.text)),
            _ => {
                let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                Some(format!(
                    "{}: {}",
                    self.text,
                    last.error.as_deref().unwrap_or("last check passed, not yet often enough")
                ))
            }
        }
    }
}

/// `10.0.0.11:8080` or `unix:/run/app.sock`.
fn written(address: &Address) -> String {
    match address {
        Address::Inet(address) => address.to_string(),
        Address::Unix(_) => format!("unix:{address}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::dial::{Dial, Speech};

    #[test]
    fn health_changes_as_drawn() {
        let address = Address::Inet("127.0.0.1:1".parse().unwrap());
        let peer = Dial::new(&Timeouts::default(), &Speech::default(), None).peer(&address, String::new());
        let target = Target::new(address, peer, true);
        let (good, bad) = (Ok(()), Err("refused".to_owned()));
        assert!(target.is_unchecked() && !target.is_healthy());
        assert_eq!(target.observe(&bad, 2, 3), Some(false), "the first check decides at once");
        assert_eq!(target.observe(&good, 2, 3), None);
        assert!(!target.is_healthy());
        assert_eq!(target.observe(&good, 2, 3), Some(true));
        assert_eq!(target.observe(&bad, 2, 3), None);
        assert_eq!(target.observe(&bad, 2, 3), None);
        assert_eq!(target.observe(&good, 2, 3), None, "a success starts the count anew");
        assert_eq!(target.observe(&bad, 2, 3), None);
        assert_eq!(target.observe(&bad, 2, 3), None);
        assert_eq!(target.observe(&bad, 2, 3), Some(false));
        assert!(target.why_unhealthy().unwrap().contains("refused"));
    }
}
