//! Pingora's balancers behind one type.

use super::discover::Known;
use super::health::Checks;
use super::peer::Address;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::HeaderName;
use log::error;
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::selection::{BackendIter, BackendSelection, Consistent, Random, RoundRobin};
use pingora_load_balancing::{Backend, Backends};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// How a target is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// In turn, by weight.
    RoundRobin,
    /// By chance, by weight.
    Random,
    /// Ketama: the same key goes to the same target while that is healthy.
    ConsistentHash(HashOn),
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Method::RoundRobin => f.write_str("round_robin"),
            Method::Random => f.write_str("random"),
            Method::ConsistentHash(HashOn::ClientIp) => f.write_str("consistent_hash: client_ip"),
            Method::ConsistentHash(HashOn::Path) => f.write_str("consistent_hash: path"),
            Method::ConsistentHash(HashOn::Header(name)) => write!(f, "consistent_hash: header {name}"),
            Method::ConsistentHash(HashOn::Cookie(name)) => write!(f, "consistent_hash: cookie {name}"),
        }
    }
}

/// What of a request is hashed. Where it is missing, the client's address is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashOn {
    /// The first value of a field.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(String),
    /// The believed client address.
    ClientIp,
    /// The normalised path.
    Path,
}

/// One of Pingora's selections over its set of backends.
///
/// Pingora's own type for the two, `LoadBalancer`, hashes, remembers and clones every backend that it offers, which costs
/// more than the routing of a request; so its parts are put together here.
pub(super) struct Balancer {
    backends: Backends,
    selection: Selection,
}

enum Selection {
    RoundRobin(ArcSwap<RoundRobin>),
    Random(ArcSwap<Random>),
    Consistent(ArcSwap<Consistent>),
}

impl Balancer {
    pub(super) fn new(method: &Method, known: Arc<Known>, checks: Option<Checks>) -> Self {
        let mut backends = Backends::new(Box::new(Discovery(known)));
        if let Some(checks) = checks {
            backends.set_health_check(Box::new(checks));
        }
        let selection = match method {
            Method::RoundRobin => Selection::RoundRobin(over(&BTreeSet::new())),
            Method::Random => Selection::Random(over(&BTreeSet::new())),
            Method::ConsistentHash(_) => Selection::Consistent(over(&BTreeSet::new())),
        };
        Balancer { backends, selection }
    }

    /// The first candidate in the selection's order that `accept` takes. `count` is the number of targets.
    pub(super) fn select<T>(
        &self,
        key: &[u8],
        count: usize,
        accept: impl Fn(&Address) -> Option<T>,
    ) -> Option<T> {
        match &self.selection {
            // Fallbacks go round uniformly: one round and a bit for concurrent requests that advance it too.
            Selection::RoundRobin(all) => pick(all, key, count * 4 + 16, accept),
            // By chance, one healthy among many sick needs many draws; 16 a target miss it once in 10 million.
            Selection::Random(all) => pick(all, key, count * 16 + 64, accept),
            // A ring has 160 points a target.
            Selection::Consistent(all) => pick(all, key, count * 160 + 1, accept),
        }
    }

    /// Follows what is known now.
    pub(super) async fn update(&self) {
        let replace = |backends: Arc<BTreeSet<Backend>>| match &self.selection {
            Selection::RoundRobin(all) => all.store(built(&backends)),
            Selection::Random(all) => all.store(built(&backends)),
            Selection::Consistent(all) => all.store(built(&backends)),
        };
        if let Err(e) = self.backends.update(replace).await {
            error!("balancer not updated: {e}");
        }
    }

    /// Runs every target's check once, in parallel.
    pub(super) async fn check(&self) {
        self.backends.run_health_check(true).await;
    }
}

fn built<S: BackendSelection>(backends: &BTreeSet<Backend>) -> Arc<S> {
    Arc::new(S::build(backends))
}

fn over<S: BackendSelection>(backends: &BTreeSet<Backend>) -> ArcSwap<S> {
    ArcSwap::new(built(backends))
}

fn pick<S, T>(
    selection: &ArcSwap<S>,
    key: &[u8],
    steps: usize,
    accept: impl Fn(&Address) -> Option<T>,
) -> Option<T>
where
    S: BackendSelection,
    S::Iter: BackendIter,
{
    let mut candidates = selection.load().iter(key);
    for _ in 0..steps {
        // Health is our own (`Target`), so that a new target waits for its first check; Pingora's flag follows it.
        let found = accept(&candidates.next()?.addr);
        if found.is_some() {
            return found;
        }
    }
    None
}

struct Discovery(Arc<Known>);

#[async_trait]
impl ServiceDiscovery for Discovery {
    async fn discover(&self) -> pingora::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        Ok((self.0.get(), HashMap::new()))
    }
}
