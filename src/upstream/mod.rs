//! Upstreams: who can serve a request now, and how to reach it.
//!
//! An [`Upstream`] owns its targets, their health and their balancer, and keeps them fresh in the background. The
//! request path only reads: it never resolves a name, never waits for a check, and gets a [`Target`] or nothing.
//! Routes and policies are not known here.

pub mod balance;
pub mod calls;
pub mod dial;
pub mod discover;
pub mod health;
mod inherit;
pub mod load;
pub mod peer;
mod tunnel;

use crate::observe::stats::UpstreamStats;
use crate::tls;
use crate::upstream::balance::Balancer;
use crate::upstream::dial::{Dial, Speech, TlsSpec};
use crate::upstream::discover::{Known, Name, Resolver};
use crate::upstream::health::{Checks, HealthSpec};
use crate::upstream::load::{Load, LoadSpec};
use crate::upstream::peer::{Address, Target, Timeouts};
use crate::wire::proxy_protocol::Version;
use arc_swap::ArcSwap;
use balance::{HashOn, Method};
use futures_util::future::join_all;
use log::warn;
use pingora_load_balancing::Backend;
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The targets by address, shared by selection and health checks and replaced as a whole.
pub type Targets = Arc<ArcSwap<FxHashMap<Address, Arc<Target>>>>;

/// An upstream as compiled from the configuration. Two that are equal are served by the same [`Upstream`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Its name, or its URL when it was written inline.
    pub name: String,
    /// Targets with an address, and their weights.
    pub fixed: Vec<(Address, usize)>,
    /// Targets with a name, to be resolved.
    pub named: Vec<(String, u16, usize)>,
    /// How a target is chosen.
    pub method: Method,
    /// What is spoken to the targets.
    pub speech: Speech,
    /// TLS to the targets; none: in the clear.
    pub tls: Option<TlsSpec>,
    /// Who is told of the client before anything else, and how.
    pub proxy_protocol: Option<Version>,
    /// Active checks, when there are any.
    pub health: Option<HealthSpec>,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// Idle connections to keep.
    pub pool: usize,
    /// How much it may have in hand.
    pub load: LoadSpec,
}

/// A set of interchangeable targets.
pub struct Upstream {
    name: Arc<str>,
    spec: Spec,
    stats: Arc<UpstreamStats>,
    balancer: Balancer,
    load: Load,
    dial: Dial,
    known: Arc<Known>,
    names: Vec<Name>,
    targets: Targets,
    complained: AtomicU64,
    started: Instant,
}

impl Upstream {
    /// Builds the upstream; nothing is resolved, checked or connected before [`Upstream::prepare`].
    pub fn new(spec: Spec) -> Self {
        let name: Arc<str> = spec.name.as_str().into();
        let named = spec.named.iter().cloned();
        let targets: Targets = Arc::default();
        let known = Arc::new(Known::default());
        let asks = spec.tls.as_ref().is_some_and(TlsSpec::asks_the_system);
        let checks = spec.health.as_ref();
        let checks = checks.map(|health| {
            Checks::new(Arc::clone(&name), health, asks, spec.proxy_protocol, Arc::clone(&targets))
        });
        Upstream {
            balancer: Balancer::new(&spec.method, Arc::clone(&known), checks),
            stats: Arc::new(UpstreamStats::new(&name)),
            dial: Dial::new(&spec.timeouts, &spec.speech, spec.tls.as_ref()),
            load: Load::new(spec.load.clone()),
            name,
            names: named.map(|(host, port, weight)| Name::new(host, port, weight)).collect(),
            spec,
            known,
            targets,
            complained: AtomicU64::new(0),
            started: Instant::now(),
        }
    }

    /// The configured name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What is counted for it; it goes on when it is configured anew.
    pub fn stats(&self) -> &UpstreamStats {
        &self.stats
    }

    /// What it has in hand, and may have.
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// The targets that it has now with their shares, by address.
    pub fn targets(&self) -> Vec<(Arc<Target>, usize)> {
        let mut weights: FxHashMap<Address, usize> = FxHashMap::default();
        for (address, weight) in self.addresses() {
            *weights.entry(address).or_default() += weight;
        }
        let weight = |target: &Arc<Target>| weights.get(&target.address).copied().unwrap_or_default();
        let targets = self.targets.load();
        let mut targets: Vec<_> = targets.values().map(|t| (Arc::clone(t), weight(t))).collect();
        targets.sort_by(|(a, _), (b, _)| a.address.cmp(&b.address));
        targets
    }

    /// What is wrong with its names, a line each.
    pub fn trouble(&self) -> Vec<String> {
        self.names.iter().filter_map(Name::trouble).collect()
    }

    /// What it was built from.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What `consistent_hash` hashes, if this upstream does so.
    pub fn hash_on(&self) -> Option<&HashOn> {
        match &self.spec.method {
            Method::ConsistentHash(on) => Some(on),
            Method::RoundRobin | Method::Random => None,
        }
    }

    /// A target that passes its checks and was not tried yet; one that was not checked yet only when there is no
    /// other. `key` is what is hashed under `consistent_hash`.
    pub fn select(&self, key: &[u8], tried: &[Address]) -> Option<Arc<Target>> {
        let targets = self.targets.load();
        self.pick(&targets, key, |t| t.is_healthy() && !tried.contains(&t.address))
            .or_else(|| self.pick(&targets, key, |t| t.is_unchecked() && !tried.contains(&t.address)))
    }

    fn pick(
        &self,
        targets: &FxHashMap<Address, Arc<Target>>,
        key: &[u8],
        accept: impl Fn(&Target) -> bool,
    ) -> Option<Arc<Target>> {
        // The balancer cannot know that nobody is left and would walk its whole ring to find out.
        if !targets.values().any(|t| accept(t)) {
            return None;
        }
        let accepted = |address: &Address| targets.get(address).filter(|t| accept(t)).cloned();
        self.balancer.select(key, targets.len(), accepted)
    }

    /// Resolves names once, runs every check once; afterwards health is known. Bounded by the resolver's and the
    /// checks' own timeouts.
    pub async fn prepare(&self, resolver: &Resolver) {
        join_all(self.names.iter().map(|name| name.refresh(resolver))).await;
        self.adopt().await;
        self.balancer.check().await;
    }

    /// Keeps names and health fresh, for ever; ends when it is dropped. The resolver is asked for each time, since
    /// the upstream may outlive it.
    pub async fn maintain(&self, resolver: impl Fn() -> Arc<Resolver>) {
        tokio::join!(self.follow_names(resolver), self.keep_checking());
    }

    async fn follow_names(&self, resolver: impl Fn() -> Arc<Resolver>) {
        while let Some(next) = self.names.iter().map(Name::due).min() {
            tokio::time::sleep_until(next).await;
            let due = self.names.iter().filter(|name| name.due() <= next);
            let resolver = resolver();
            if join_all(due.map(|name| name.refresh(&resolver))).await.contains(&true) {
                self.adopt().await;
                self.balancer.check().await;
            }
        }
    }

    async fn keep_checking(&self) {
        let Some(checks) = &self.spec.health else { return };
        let mut ticks = tokio::time::interval(checks.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await; // the first is at once, and `prepare` has just checked
        loop {
            ticks.tick().await;
            self.balancer.check().await;
        }
    }

    /// Says in the log why no target could be chosen, at most once a second.
    pub fn complain(&self) {
        let second = self.started.elapsed().as_secs() + 1;
        if self.complained.swap(second, Ordering::Relaxed) == second {
            return;
        }
        let targets = self.targets.load();
        let mut reasons: Vec<String> = targets.values().filter_map(|t| t.why_unhealthy()).collect();
        reasons.extend(self.names.iter().filter_map(Name::trouble));
        reasons.sort();
        let reasons = if reasons.is_empty() { "it has no target yet".to_owned() } else { reasons.join("; ") };
        warn!("upstream {}: no healthy target: {reasons}", self.name);
    }

    /// Says in the log what its TLS does not do.
    pub fn caution(&self) {
        let Some(tls) = &self.spec.tls else { return };
        if !tls.verify {
            warn!(
                "upstream {}: with `verify: false` anybody in between can read and change everything",
                self.name
            );
        }
        let authorities = if tls.asks_the_system() { tls::system_authorities() } else { return };
        let why = match authorities {
            Ok(1..) => return,
            Ok(0) => "the system has none".to_owned(),
            Err(e) => e,
        };
        warn!("upstream {}: no authority can vouch for it, so nothing will connect: {why}; name one with `tls.ca`", self.name);
    }

    /// Those that are configured, and those of names.
    fn addresses(&self) -> impl Iterator<Item = (Address, usize)> + '_ {
        self.spec.fixed.iter().cloned().chain(self.names.iter().flat_map(Name::addresses))
    }

    /// Makes the balancer follow what is known of addresses now; a target that stays keeps its health.
    async fn adopt(&self) {
        let addresses: BTreeSet<(Address, usize)> = self.addresses().collect();
        let old = self.targets.load_full();
        // Several names may have one address: there the first is what the target has to prove.
        let mut hosts: FxHashMap<Address, &str> = FxHashMap::default();
        for name in self.names.iter().rev() {
            hosts.extend(name.addresses().into_iter().map(|(address, _)| (address, name.host())));
        }
        let target = |address: &Address| {
            let name = self.dial.name(hosts.get(address).copied(), address);
            old.get(address).filter(|target| target.name() == name).cloned().unwrap_or_else(|| {
                let peer = self.dial.peer(address, name);
                Arc::new(Target::new(address.clone(), peer, self.spec.health.is_some()))
            })
        };
        let new: FxHashMap<_, _> =
            addresses.iter().map(|(address, _)| (address.clone(), target(address))).collect();
        // Whatever the balancer names while it changes, old or new, is found.
        let both =
            old.iter().chain(&new).map(|(address, target)| (address.clone(), Arc::clone(target))).collect();
        self.targets.store(Arc::new(both));
        self.known.set(addresses.into_iter().map(|(address, weight)| backend(address, weight)).collect());
        self.balancer.update().await;
        self.targets.store(Arc::new(new));
    }
}

fn backend(addr: Address, weight: usize) -> Backend {
    Backend { addr, weight, ext: Default::default() }
}

/// An address with its port.
fn socket(ip: IpAddr, port: u16) -> Address {
    Address::Inet(SocketAddr::new(ip, port))
}

/// The longest that resolving one name may take at start.
pub const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
