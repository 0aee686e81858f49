//! How many requests there were, and how many of them the gateway itself had to answer with a 5xx.

use std::sync::atomic::{AtomicU64, Ordering};

/// Since the process began.
#[derive(Debug, Default)]
pub struct Tally {
    requests: AtomicU64,
    faults: AtomicU64,
}

impl Tally {
    pub(super) fn count(&self, fault: bool) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if fault {
            self.faults.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Requests answered, and those of them that the gateway answered with a 5xx of its own.
    pub fn so_far(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.faults.load(Ordering::Relaxed))
    }

    /// The share of the latter.
    pub fn fault_share(&self) -> f64 {
        let (requests, faults) = self.so_far();
        faults as f64 / requests.max(1) as f64
    }
}
