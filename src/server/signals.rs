//! What the process is told by signals: SIGHUP reloads; SIGTERM and SIGINT stop accepting, let requests finish within
//! the grace period, and end the process as soon as none is left; a second one of them ends it at once. An idle gateway
//! leaves at once.

use super::reload::Reloads;
use super::Shared;
use async_trait::async_trait;
use log::{info, warn};
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{signal, Signal, SignalKind};
use tokio::sync::{watch, Mutex};

/// How long connections that close in two steps are waited for at the end.
const SETTLE: Duration = Duration::from_secs(2);

/// The signals that are heard.
pub struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    usr2: Signal,
}

impl Signals {
    /// From now on none of them kills, and what comes before somebody waits for it is kept.
    ///
    /// # Errors
    /// When the system has no descriptor or memory for it.
    pub fn hear() -> io::Result<Self> {
        // Only to register with: the handlers stay, and the runtime that waits later is told what came meanwhile.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _within = runtime.enter();
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next one.
    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.term.recv() => Told::End("SIGTERM"),
            _ = self.int.recv() => Told::End("SIGINT"),
            _ = self.hup.recv() => Told::Reload,
            _ = self.usr2.recv() => Told::Upgrade,
        }
    }
}

enum Told {
    End(&'static str),
    Reload,
    Upgrade,
}

/// Waits for signals in Pingora's stead and drains before it reports one.
pub struct Drain {
    shared: Arc<Shared>,
    reloads: Arc<Reloads>,
    signals: Mutex<Signals>,
    begun: watch::Sender<bool>,
}

impl Drain {
    /// A drain that has not begun.
    pub fn new(shared: Arc<Shared>, reloads: Arc<Reloads>, signals: Signals) -> Self {
        Drain { shared, reloads, signals: Mutex::new(signals), begun: watch::Sender::new(false) }
    }

    /// Turns true when no more connections shall be accepted and answers shall say `Connection: close`.
    pub fn begun(&self) -> watch::Receiver<bool> {
        self.begun.subscribe()
    }

    /// Lets requests finish, as long as it may take; says what it cut off.
    async fn drain(&self, grace: Duration, signals: &mut Signals) {
        let finished = async {
            self.shared.counters.idle().await;
            // The last answers are written; a moment more for those that the client has not taken yet.
            let _ = tokio::time::timeout(SETTLE, self.shared.farewell.settled()).await;
        };
        tokio::select! {
            () = finished => {}
            () = tokio::time::sleep(grace) => {
                warn!("the grace period is over, requests cut off: {}", self.shared.counters.requests());
            }
            name = second(signals) => {
                warn!("a second signal ({name}), requests cut off: {}", self.shared.counters.requests());
            }
        }
    }
}

#[async_trait]
impl ShutdownSignalWatch for Drain {
    async fn recv(&self) -> ShutdownSignal {
        let mut signals = self.signals.lock().await;
        let name = loop {
            match signals.next().await {
                Told::End(name) => break name,
                Told::Reload => self.reloads.request(),
                // Unheard it would kill, and operators send it.
                Told::Upgrade => {
                    warn!("SIGUSR2: upgrading is not built yet; restart to change the binary");
                }
            }
        };
        let (busy, grace) = (self.shared.counters.requests(), self.shared.gateway.load().grace_period);
        info!("{name}: no new connections; requests in flight: {busy}, at most {grace:?} for them");
        self.shared.farewell.begin();
        self.begun.send_replace(true);
        self.drain(grace, &mut signals).await;
        ShutdownSignal::FastShutdown
    }
}

/// Waits for another signal to end.
async fn second(signals: &mut Signals) -> &'static str {
    loop {
        match signals.next().await {
            Told::End(name) => return name,
            Told::Reload => warn!("SIGHUP: the process is leaving; nothing is reloaded"),
            Told::Upgrade => warn!("SIGUSR2: the process is leaving; nothing is upgraded"),
        }
    }
}
