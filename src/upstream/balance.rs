//! Pingora's balancers behind one type.

use super::discover::Known;
use super::health::Checks;
use async_trait::async_trait;
use http::HeaderName;
use log::error;
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::selection::{BackendIter, BackendSelection, Consistent, Random, RoundRobin};
use pingora_load_balancing::{Backend, Backends, LoadBalancer};
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
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

/// One of Pingora's balancers.
pub(super) enum Balancer {
    RoundRobin(LoadBalancer<RoundRobin>),
    Random(LoadBalancer<Random>),
    Consistent(LoadBalancer<Consistent>),
}

impl Balancer {
    pub(super) fn new(method: &Method, known: Arc<Known>, checks: Option<Checks>) -> Self {
        let mut backends = Backends::new(Box::new(Discovery(known)));
        if let Some(checks) = checks {
            backends.set_health_check(Box::new(checks));
        }
        match method {
            Method::RoundRobin => Balancer::RoundRobin(LoadBalancer::from_backends(backends)),
            Method::Random => Balancer::Random(LoadBalancer::from_backends(backends)),
            Method::ConsistentHash(_) => Balancer::Consistent(LoadBalancer::from_backends(backends)),
        }
    }

    /// The first candidate in the balancer's order that `accept` takes. `count` is the number of targets.
    pub(super) fn select(
        &self,
        key: &[u8],
        count: usize,
        accept: impl Fn(&SocketAddr) -> bool,
    ) -> Option<Backend> {
        match self {
            // Fallbacks go round uniformly: one round and a bit for concurrent requests that advance it too.
            Balancer::RoundRobin(lb) => pick(lb, key, count * 4 + 16, accept),
            // By chance, one healthy among many sick needs many draws; 16 a target miss it once in 10 million.
            Balancer::Random(lb) => pick(lb, key, count * 16 + 64, accept),
            // A ring has 160 points a target.
            Balancer::Consistent(lb) => pick(lb, key, count * 160 + 1, accept),
        }
    }

    pub(super) async fn update(&self) {
        let result = match self {
            Balancer::RoundRobin(lb) => lb.update().await,
            Balancer::Random(lb) => lb.update().await,
            Balancer::Consistent(lb) => lb.update().await,
        };
        if let Err(e) = result {
            error!("balancer not updated: {e}");
        }
    }

    /// Runs every target's check once, in parallel.
    pub(super) async fn check(&self) {
        match self {
            Balancer::RoundRobin(lb) => lb.backends().run_health_check(true).await,
            Balancer::Random(lb) => lb.backends().run_health_check(true).await,
            Balancer::Consistent(lb) => lb.backends().run_health_check(true).await,
        }
    }
}

fn pick<S>(
    lb: &LoadBalancer<S>,
    key: &[u8],
    steps: usize,
    accept: impl Fn(&SocketAddr) -> bool,
) -> Option<Backend>
where
    S: BackendSelection + 'static,
    S::Iter: BackendIter,
{
    // Health is our own (`Target`), so that a new target waits for its first check; Pingora's flag follows it.
    lb.select_with(key, steps, |backend, _| backend.addr.as_inet().is_some_and(&accept))
}

struct Discovery(Arc<Known>);

#[async_trait]
impl ServiceDiscovery for Discovery {
    async fn discover(&self) -> pingora::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        Ok((self.0.get(), HashMap::new()))
    }
}
