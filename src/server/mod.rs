//! The process: puts the rooms together, binds, serves, and leaves.
//!
//! Everything that can fail at start fails before anything is announced, with an exit code that tells a bad
//! configuration from an address in use.

mod background;
pub mod connection;
pub mod listen;
pub mod signals;

use crate::gateway::{Gateway, Settings};
use crate::proxy::Proxy;
use arc_swap::ArcSwap;
use background::Background;
use listen::{Bound, Listening};
use log::info;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use pingora_proxy::http_proxy;
use signals::Drain;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

/// What every connection shares.
pub struct Shared {
    /// The configuration that new requests get.
    pub gateway: Arc<ArcSwap<Gateway>>,
    /// Counts and limits connections and requests.
    pub counters: connection::Counters,
    /// The process is leaving: answers say so.
    pub leaving: Arc<AtomicBool>,
}

/// Why the process could not start.
#[derive(Debug)]
pub struct StartError(pub String);

/// Serves on listeners that are bound already, until told to stop; then returns.
pub fn run(gateway: Gateway, settings: &Settings, bound: Vec<Bound>) {
    raise_descriptor_limit();
    let conf = ServerConf {
        threads: settings.threads,
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
        leaving: Arc::default(),
    });
    let proxy = Arc::new(http_proxy(&server.configuration, Proxy { gateway: Arc::clone(&gateway) }));
    let drain = Drain::new(Arc::clone(&shared), settings.grace_period);
    let background = server.add_service(Background::service(gateway));
    let listening = server.add_service(Listening::new(bound, proxy, shared, drain.begun()));
    // Names resolved and targets checked first, so that the first request meets known health.
    listening.add_dependency(&background);
    server.run(RunArgs { shutdown_signal: Box::new(drain) });
    info!("stopped");
}

/// Each connection needs two descriptors, and shells give 1,024.
fn raise_descriptor_limit() {
    if let Err(e) = rlimit::increase_nofile_limit(1 << 20) {
        log::warn!("the limit on open files stays as it is: {e}");
    }
}
