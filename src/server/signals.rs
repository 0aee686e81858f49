//! When to leave: SIGTERM and SIGINT stop accepting, let requests finish within the grace period, and end the
//! process as soon as none is left; a second signal ends it at once. An idle gateway leaves at once.

use super::Shared;
use async_trait::async_trait;
use log::{info, warn};
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{signal, Signal, SignalKind};
use tokio::sync::watch;

/// How long connections that close in two steps are waited for at the end.
const SETTLE: Duration = Duration::from_secs(2);

/// Waits for signals in Pingora's stead and drains before it reports one.
pub struct Drain {
    shared: Arc<Shared>,
    grace: Duration,
    begun: watch::Sender<bool>,
}

impl Drain {
    /// A drain that has not begun.
    pub fn new(shared: Arc<Shared>, grace: Duration) -> Self {
        Drain { shared, grace, begun: watch::Sender::new(false) }
    }

    /// Turns true when no more connections shall be accepted and answers shall say `Connection: close`.
    pub fn begun(&self) -> watch::Receiver<bool> {
        self.begun.subscribe()
    }
}

#[async_trait]
impl ShutdownSignalWatch for Drain {
    async fn recv(&self) -> ShutdownSignal {
        let hear = |kind: SignalKind| signal(kind).expect("the kernel lets a process handle these signals");
        let (mut term, mut int) = (hear(SignalKind::terminate()), hear(SignalKind::interrupt()));
        let (mut hup, mut usr2) = (hear(SignalKind::hangup()), hear(SignalKind::user_defined2()));
        let name = loop {
            tokio::select! {
                name = either(&mut term, &mut int) => break name,
                // Unheard they would kill, and operators send them.
                _ = hup.recv() => warn!("SIGHUP: reloading is not built yet; restart to change the configuration"),
                _ = usr2.recv() => warn!("SIGUSR2: upgrading is not built yet; restart to change the binary"),
            }
        };
        let busy = self.shared.counters.requests();
        info!("{name}: no new connections; requests in flight: {busy}, at most {:?} for them", self.grace);
        self.shared.farewell.begin();
        self.begun.send_replace(true);
        let finished = async {
            self.shared.counters.idle().await;
            // The last answers are written; a moment more for those that the client has not taken yet.
            let _ = tokio::time::timeout(SETTLE, self.shared.farewell.settled()).await;
        };
        tokio::select! {
            () = finished => {}
            () = tokio::time::sleep(self.grace) => {
                warn!("the grace period is over, requests cut off: {}", self.shared.counters.requests());
            }
            name = either(&mut term, &mut int) => {
                warn!("a second signal ({name}), requests cut off: {}", self.shared.counters.requests());
            }
        }
        ShutdownSignal::FastShutdown
    }
}

async fn either(term: &mut Signal, int: &mut Signal) -> &'static str {
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    }
}
