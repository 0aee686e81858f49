//! How the process is, for whoever asks: written down by its life, read from anywhere.

use super::listen::Listeners;
use super::{Shared, VERSION};
use crate::admin::Process;
use crate::observe::status::Status;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::runtime::Handle;

/// What only the life of the process knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    /// `starting`, `serving`, `upgrading`, `drained`, `handed over` or `leaving`.
    pub(super) state: &'static str,
    /// The process before this one, while it is there, and whether it would take over again.
    pub(super) predecessor: Option<(u32, bool)>,
}

/// Where it is written down.
pub(super) struct Desk {
    shared: Arc<Shared>,
    listeners: Arc<Listeners>,
    began: Instant,
    standing: Mutex<Standing>,
}

impl Desk {
    /// Of a process that starts.
    pub(super) fn new(shared: Arc<Shared>, listeners: Arc<Listeners>) -> Self {
        let standing = Mutex::new(Standing { state: "starting", predecessor: None });
        Desk { shared, listeners, began: Instant::now(), standing }
    }

    /// Writes it down.
    pub(super) fn stand(&self, standing: Standing) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }

    /// The process ends; everything else stays as it is. One that has handed over has nobody left to tell.
    pub(super) fn leave(&self) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if standing.state != "handed over" {
            standing.state = "leaving";
        }
    }
}

impl Process for Desk {
    fn describe(&self, status: &mut Status) {
        let Standing { state, predecessor } = *self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        status.state = state.to_owned();
        // Who asked before the door was shut is told of the service, which its successor is.
        status.ready = matches!(state, "serving" | "upgrading" | "handed over");
        status.version = VERSION.to_owned();
        status.pid = std::process::id();
        status.uptime_seconds = self.began.elapsed().as_secs();
        status.listeners = self.listeners.names();
        status.connections = self.shared.counters.connections();
        status.requests = self.shared.counters.requests();
        status.predecessor = predecessor.map(|(pid, _)| pid);
        status.predecessor_takes_over = predecessor.is_some_and(|(_, takes_over)| takes_over);
    }

    fn workers(&self) -> Option<Handle> {
        self.listeners.workers()
    }
}
