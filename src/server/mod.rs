//! The process: puts the rooms together, binds, serves, is changed while it serves, and leaves.
//!
//! In reading order: [`sockets`] bound or inherited, [`listen`] accepts from them, [`connection`] serves one, `http2` if it speaks that; [`life`] is what
//! the process does about [`signals`], the [`control`] socket's commands, its successor ([`upgrade`]) and its predecessor
//! ([`succeed`]), who speak by [`hand_over`]; [`reload`] changes the configuration. In the background, `certificates` and `addresses` follow files, and `acme` has new ones issued.
//!
//! Everything that can fail at start fails before anything is announced, with an exit code that tells a bad
//! configuration from an address in use.

mod accept;
mod acme;
mod addresses;
mod background;
mod certificates;
pub mod connection;
pub mod control;
mod desk;
mod door;
pub mod hand_over;
mod handshake;
mod http2;
pub mod life;
pub mod listen;
pub mod reload;
pub mod signals;
pub mod sockets;
pub mod succeed;
mod systemd;
pub mod upgrade;

use crate::admin::Admin;
use crate::config::Compiled;
use crate::gateway::{Gateway, Limits, Settings};
use crate::observe::sink::Sink;
use crate::observe::Observed;
use crate::proxy::Proxy;
use crate::tls;
use crate::wire::linger::Farewell;
use arc_swap::ArcSwap;
use background::Background;
use desk::Desk;
use door::Door;
use life::{Birth, Life};
use listen::{Listeners, Workers};
use log::{info, warn};
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use pingora_proxy::http_proxy;
use reload::Reloads;
use signals::Signals;
use sockets::Sockets;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;
use succeed::Predecessor;
use tokio::sync::{watch, Notify};
use upgrade::Launch;

/// Of this binary.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What every connection shares.
pub struct Shared {
    /// The configuration that new requests get.
    pub gateway: Arc<ArcSwap<Gateway>>,
    /// Counts and limits connections and requests.
    pub counters: connection::Counters,
    /// The process is leaving: answers say so, and closing connections are waited for.
    pub farewell: Arc<Farewell>,
    /// What is counted and noted.
    pub observed: Arc<Observed>,
}

/// Why the process could not start.
#[derive(Debug)]
pub struct StartError(pub String);

/// What a process serves with.
pub struct Start {
    /// The first snapshot.
    pub gateway: Gateway,
    /// What the process is built with.
    pub settings: Settings,
    /// Sockets that listen already.
    pub sockets: Sockets,
    /// What a reload reads and an upgrade passes on; none for the demo.
    pub file: Option<PathBuf>,
    /// Heard since the start.
    pub signals: Signals,
    /// The process to replace.
    pub predecessor: Option<Predecessor>,
    /// What the program's log is written by, if it is not written as it comes.
    pub log: Option<Arc<Sink>>,
}

impl Start {
    /// Of a process that takes over from nobody and has no file.
    pub fn new(compiled: Compiled, sockets: Sockets, signals: Signals) -> Start {
        let Compiled { gateway, settings, .. } = compiled;
        Start { gateway, settings, sockets, file: None, signals, predecessor: None, log: None }
    }
}

/// Serves until told to stop; false when it could not begin to.
pub fn run(start: Start) -> bool {
    let Start { mut gateway, settings, mut sockets, file, signals, predecessor, log } = start;
    let looked_at = sockets.admin.take();
    fit_descriptors(&mut gateway.limits);
    gateway.generation = predecessor.as_ref().map_or(1, |predecessor| predecessor.terms.generation + 1);
    tls::install_provider(); // before the engine's
    if let Some(predecessor) = &predecessor {
        gateway.ticket_keys.adopt(predecessor.terms.tickets.clone());
    }
    gateway.upstreams.iter().for_each(|upstream| upstream.caution());
    let mut server = Server::new_with_opt_and_conf(None, engine(&settings));
    let gateway = Arc::new(ArcSwap::from_pointee(gateway));
    let shared = Arc::new(Shared {
        gateway: Arc::clone(&gateway),
        counters: connection::Counters::default(),
        farewell: Arc::default(),
        observed: Arc::new(Observed { log, ..Observed::default() }),
    });
    let proxy = Proxy { gateway: Arc::clone(&gateway), observed: Arc::clone(&shared.observed) };
    let proxy = Arc::new(http_proxy(&server.configuration, proxy));
    let control = control::place(settings.control.as_deref());
    let launch = file.clone().and_then(|file| match Launch::again(file) {
        Ok(launch) => Some(launch),
        Err(e) => {
            warn!("there will be no upgrade: {e}");
            None
        }
    });
    let listeners = Arc::new(Listeners::new(sockets, &gateway.load().listeners));
    let desk = Arc::new(Desk::new(Arc::clone(&shared), Arc::clone(&listeners)));
    let admin = Admin::new(Arc::clone(&gateway), Arc::clone(&shared.observed), Arc::clone(&desk) as _);
    let admin = Arc::new(admin);
    let door = Arc::new(Door::new(Arc::clone(&admin), looked_at));
    if predecessor.is_none() {
        door.open(); // whoever waits for it to be ready is told that it starts
    }
    let reloads = Arc::new(Reloads::new(
        file,
        settings,
        Arc::clone(&listeners),
        Arc::clone(&door),
        Arc::clone(&shared),
    ));
    let (draining, ready) = (watch::Sender::new(false), Arc::new(Notify::new()));
    let workers = Workers::new(
        Arc::clone(&listeners),
        proxy,
        Arc::clone(&shared),
        draining.subscribe(),
        Arc::clone(&ready),
    );
    let background = server.add_service(Background::service(
        Arc::clone(&gateway),
        Arc::clone(&reloads),
        Arc::clone(&door),
    ));
    let listening = server.add_service(workers);
    // Names resolved and targets checked first, so that the first request meets known health.
    listening.add_dependency(&background);
    let life = Life::new(Birth {
        shared,
        listeners,
        desk,
        admin,
        door,
        reloads,
        signals,
        draining,
        ready,
        control,
        launch,
        predecessor,
    });
    let failed = life.failed();
    server.run(RunArgs { shutdown_signal: Box::new(life) });
    gateway.load().access_log.flush(LAST_LINES);
    info!("stopped");
    !failed.load(Ordering::SeqCst)
}

/// How the engine is to run.
fn engine(settings: &Settings) -> ServerConf {
    ServerConf {
        threads: settings.threads.unwrap_or_else(processors),
        // Pingora's other runtime, a queue for each thread, saves 2% of a request at best, but runs what
        // was just woken last: with 5,000 busy connections everything has left the caches by then, and costs half more.
        work_stealing: true,
        upstream_keepalive_pool_size: settings.pool,
        ca_file: tls::system_authorities().is_err().then(|| tls::NO_AUTHORITIES.to_owned()),
        // Our own `Retry` decides; this only bounds it.
        max_retries: crate::config::MAX_ATTEMPTS + 2,
        // `Life` has waited for the requests already when it reports.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    }
}

/// How long the last lines of the access log may take.
const LAST_LINES: Duration = Duration::from_secs(2);

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
