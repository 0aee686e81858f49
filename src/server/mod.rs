//! The process: puts the rooms together, binds, serves, and leaves.
//!
//! Everything that can fail at start fails before anything is announced, with an exit code that tells a bad
//! configuration from an address in use.

mod background;
pub mod connection;
pub mod listen;
pub mod reload;
pub mod signals;

use crate::gateway::{Gateway, Limits, Settings};
use crate::proxy::Proxy;
use crate::wire::linger::Farewell;
use arc_swap::ArcSwap;
use background::Background;
use listen::{Bound, Listening};
use log::{info, warn};
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use pingora_proxy::http_proxy;
use reload::Reloads;
use signals::{Drain, Signals};
use std::path::PathBuf;
use std::sync::Arc;

/// What every connection shares.
pub struct Shared {
    /// The configuration that new requests get.
    pub gateway: Arc<ArcSwap<Gateway>>,
    /// Counts and limits connections and requests.
    pub counters: connection::Counters,
    /// The process is leaving: answers say so, and closing connections are waited for.
    pub farewell: Arc<Farewell>,
}

/// Why the process could not start.
#[derive(Debug)]
pub struct StartError(pub String);

/// Serves on listeners that are bound already, until told to stop; then returns. `file` is what a reload reads.
pub fn run(
    mut gateway: Gateway,
    settings: Settings,
    bound: Vec<Bound>,
    file: Option<PathBuf>,
    signals: Signals,
) {
    fit_descriptors(&mut gateway.limits);
    gateway.generation = 1;
    let conf = ServerConf {
        threads: settings.threads.unwrap_or_else(processors),
        // Pingora's other runtime, a queue for each thread, saves 2% of a request at best, but runs what
        // was just woken last: with 5,000 busy connections everything has left the caches by then, and costs half more.
        work_stealing: true,
        upstream_keepalive_pool_size: settings.pool,
        // Our own `Retry` decides; this only bounds it.
        max_retries: crate::config::MAX_ATTEMPTS + 2,
        // `Drain` has waited for the requests already when it reports.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    let gateway = Arc::new(ArcSwap::from_pointee(gateway));
    let shared = Arc::new(Shared {
        gateway: Arc::clone(&gateway),
        counters: connection::Counters::default(),
        farewell: Arc::default(),
    });
    let proxy = Arc::new(http_proxy(&server.configuration, Proxy { gateway: Arc::clone(&gateway) }));
    let reloads = Arc::new(Reloads::new(file, settings, Arc::clone(&shared)));
    let drain = Drain::new(Arc::clone(&shared), Arc::clone(&reloads), signals);
    let background = server.add_service(Background::service(gateway, reloads));
    let listening = server.add_service(Listening::new(bound, proxy, shared, drain.begun()));
    // Names resolved and targets checked first, so that the first request meets known health.
    listening.add_dependency(&background);
    server.run(RunArgs { shutdown_signal: Box::new(drain) });
    info!("stopped");
}

/// Those that the process may use.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Descriptors for listeners, logs, health checks and name servers.
const SPARE_DESCRIPTORS: u64 = 64;

/// Each client may need a descriptor of its own and one to an upstream, and shells give 1,024. What the system does not
/// give must not be promised: idle clients would take what requests need to reach their upstream.
fn fit_descriptors(limits: &mut Limits) {
    let given = match rlimit::increase_nofile_limit(1 << 20) {
        Ok(given) => given,
        Err(e) => {
            warn!("the limit on open files stays as it is: {e}");
            rlimit::Resource::NOFILE.get_soft().unwrap_or(1024)
        }
    };
    let most = (given.saturating_sub(SPARE_DESCRIPTORS) / 2).max(1) as usize;
    if limits.connections > most {
        warn!(
            "open files are limited to {given}: limits.connections is {most} instead of {}",
            limits.connections
        );
        limits.connections = most;
    }
}
