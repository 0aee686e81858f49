//! What is known of requests afterwards: lines of a log, counters, spans, and the latest of what matters.
//!
//! It is told what happened ([`exchange`]) and never asks: no part of it knows the engine, decides about a request, or
//! makes one wait. What it writes goes through a bounded buffer and a thread or task of its own; what has no room there is
//! counted and given up. Handles are resolved when the configuration is compiled, so that a request looks nothing up.
//!
//! `upstream` and everything above may use it; it uses `base` alone.

pub mod access_log;
pub mod exchange;
pub mod export;
pub mod journal;
pub mod mask;
pub mod sink;
pub mod spans;
pub mod stats;
pub mod status;
pub mod trace;

/// A moment in seconds since 1970.
#[derive(Debug)]
pub struct Started(pub f64);

impl Default for Started {
    fn default() -> Self {
        Started(exchange::unix_millis() as f64 / 1e3)
    }
}

/// What the process has counted and noted, whatever configuration it had.
#[derive(Default)]
pub struct Observed {
    /// Counts of the process as a whole.
    pub totals: stats::Totals,
    /// The latest refusals and changes.
    pub journal: journal::Journal,
    /// When the process began.
    pub started: Started,
    /// The program's own log.
    pub log: Option<std::sync::Arc<sink::Sink>>,
}
