//! Names of targets to addresses, in the background, with the records' TTL in mind.
//!
//! The last good answer is kept: neither a broken name server nor an empty answer takes targets away.

use super::peer::Address;
use super::RESOLVE_TIMEOUT;
use arc_swap::ArcSwap;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::TokioResolver;
use log::{info, warn};
use pingora_load_balancing::Backend;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A record is asked for again no sooner than this, even with a TTL of zero.
const MIN_TTL: Duration = Duration::from_secs(1);
/// And no later than this.
const MAX_TTL: Duration = Duration::from_secs(300);
/// After a failure, doubled each time up to `MAX_RETRY`.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// What the balancer is told when it asks.
#[derive(Default)]
pub(super) struct Known(ArcSwap<BTreeSet<Backend>>);

impl Known {
    pub(super) fn set(&self, backends: BTreeSet<Backend>) {
        self.0.store(Arc::new(backends));
    }

    pub(super) fn get(&self) -> BTreeSet<Backend> {
        BTreeSet::clone(&self.0.load())
    }
}

/// Asks name servers; built once, on first use, inside a runtime.
pub struct Resolver {
    servers: Option<Vec<SocketAddr>>,
    inner: tokio::sync::OnceCell<TokioResolver>,
}

impl Resolver {
    /// These name servers, or those of the system (`/etc/resolv.conf`).
    pub fn new(servers: Option<Vec<SocketAddr>>) -> Self {
        Resolver { servers, inner: tokio::sync::OnceCell::new() }
    }

    async fn lookup(&self, host: &str) -> Result<(Vec<IpAddr>, Duration), String> {
        let inner = self.inner.get_or_try_init(|| async { self.build() }).await?;
        let found = tokio::time::timeout(RESOLVE_TIMEOUT, inner.lookup_ip(host)).await;
        let found =
            found.map_err(|_| "no answer from the name server".to_owned())?.map_err(|e| e.to_string())?;
        let ttl = found.valid_until().saturating_duration_since(std::time::Instant::now());
        Ok((found.iter().collect(), ttl))
    }

    fn build(&self) -> Result<TokioResolver, String> {
        let tune = |options: &mut ResolverOpts| {
            options.cache_size = 0; // `Name` is the cache, and it must see fresh TTLs
            options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            options.timeout = RESOLVE_TIMEOUT / 3;
        };
        let mut builder = match &self.servers {
            None => TokioResolver::builder_tokio()
                .map_err(|e| format!("the system's resolver configuration: {e}"))?,
            Some(servers) => {
                let server = |address: &SocketAddr| {
                    let mut server = NameServerConfig::udp_and_tcp(address.ip());
                    server.connections.iter_mut().for_each(|c| c.port = address.port());
                    server
                };
                let config = ResolverConfig::from_name_servers(servers.iter().map(server).collect());
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        tune(builder.options_mut());
        builder.build().map_err(|e| e.to_string())
    }
}

/// A named target and what is known of it.
pub(super) struct Name {
    host: String,
    port: u16,
    weight: usize,
    state: Mutex<NameState>,
}

struct NameState {
    addresses: Vec<IpAddr>,
    due: Instant,
    retry: Duration,
    trouble: Option<String>,
}

impl Name {
    pub(super) fn new(host: String, port: u16, weight: usize) -> Self {
        let state =
            NameState { addresses: Vec::new(), due: Instant::now(), retry: FIRST_RETRY, trouble: None };
        Name { host, port, weight, state: Mutex::new(state) }
    }

    /// Begins with the addresses that the same name had, should it not resolve now.
    pub(super) fn inherit(&self, old: &Name) {
        if self.host == old.host {
            let known = old.state.lock().unwrap_or_else(PoisonError::into_inner).addresses.clone();
            self.state.lock().unwrap_or_else(PoisonError::into_inner).addresses = known;
        }
    }

    /// Asks now; true when the set of addresses is another one afterwards.
    pub(super) async fn refresh(&self, resolver: &Resolver) -> bool {
        let answer = resolver.lookup(&self.host).await;
        let answer =
            answer.and_then(
                |(a, ttl)| if a.is_empty() { Err("an empty answer".to_owned()) } else { Ok((a, ttl)) },
            );
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok((mut addresses, ttl)) => {
                addresses.sort();
                addresses.dedup();
                state.due = Instant::now() + ttl.clamp(MIN_TTL, MAX_TTL);
                state.retry = FIRST_RETRY;
                if state.trouble.take().is_some() {
                    info!("{} resolves again", self.host);
                }
                let changed = state.addresses != addresses;
                state.addresses = addresses;
                changed
            }
            Err(e) => {
                if state.trouble.is_none() {
                    let kept = state.addresses.len();
                    warn!("{} does not resolve: {e}; {kept} known addresses stay in use", self.host);
                }
                state.due = Instant::now() + state.retry;
                state.retry = (state.retry * 2).min(MAX_RETRY);
                state.trouble = Some(e);
                false
            }
        }
    }

    /// When to ask again.
    pub(super) fn due(&self) -> Instant {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).due
    }

    /// For the operator: why the name does not resolve.
    pub(super) fn trouble(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.trouble.as_ref().map(|e| format!("{}: {e}", self.host))
    }

    /// As the configuration has it.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn addresses(&self) -> Vec<(Address, usize)> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.addresses.iter().map(|ip| (super::socket(*ip, self.port), self.weight)).collect()
    }
}
