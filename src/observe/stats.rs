//! Counters and durations, by what the configuration names.
//!
//! Whoever counts holds the very counter (a route its [`RouteStats`], an upstream its [`UpstreamStats`]): nothing is looked
//! up by name, and no name comes from a request, so that their number is the configuration's. A counter lives on when its
//! owner is configured anew. Nothing here waits.

use super::exchange::Name;
use super::status::Durations;
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Duration;

/// Upper bounds of the buckets of a duration, in microseconds: what a gateway adds is below a millisecond, what an
/// upstream takes may be a minute.
pub const BOUNDS: [u64; 17] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// How long something took, by bucket.
#[derive(Debug, Default)]
pub struct Histogram {
    sum_micros: AtomicU64,
    buckets: [AtomicU64; BOUNDS.len() + 1],
}

impl Histogram {
    /// Counts one.
    pub fn observe(&self, duration: Duration) {
        let micros = duration.as_micros() as u64;
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_micros.fetch_add(micros, Relaxed);
    }

    /// The counts, and the sum in seconds.
    pub fn read(&self) -> ([u64; BOUNDS.len() + 1], f64) {
        let buckets = std::array::from_fn(|at| self.buckets[at].load(Relaxed));
        (buckets, self.sum_micros.load(Relaxed) as f64 / 1e6)
    }

    /// The same for the status document.
    pub fn durations(&self) -> Durations {
        let (buckets, sum) = self.read();
        Durations { buckets: buckets.to_vec(), sum_ms: sum * 1e3 }
    }
}

/// Counters by reasons that the code names; one that never came costs nothing.
#[derive(Debug, Default)]
pub struct ByReason(ArcSwap<Vec<(&'static str, Arc<AtomicU64>)>>);

impl ByReason {
    /// Counts one.
    pub fn count(&self, reason: &'static str) {
        let of = |all: &[(&'static str, Arc<AtomicU64>)]| {
            all.iter().find(|(name, _)| *name == reason).map(|(_, counter)| Arc::clone(counter))
        };
        if let Some((_, counter)) = self.0.load().iter().find(|(name, _)| *name == reason) {
            counter.fetch_add(1, Relaxed);
            return;
        }
        self.0.rcu(|all| {
            let mut all = all.to_vec();
            if of(&all).is_none() {
                all.push((reason, Arc::default()));
            }
            all
        });
        if let Some(counter) = of(&self.0.load()) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// All of them.
    pub fn read(&self) -> BTreeMap<&'static str, u64> {
        self.0.load().iter().map(|(name, counter)| (*name, counter.load(Relaxed))).collect()
    }

    /// The same for the status document.
    pub fn named(&self) -> BTreeMap<String, u64> {
        self.read().into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
    }
}

/// Classes of statuses, as the label `code` names them.
pub const CODES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What is counted for a route.
#[derive(Debug)]
#[repr(align(64))] // what one request counts is in few cache lines, and in no other route's
pub struct RouteStats {
    /// Requests in flight.
    pub in_flight: AtomicU64,
    codes: [AtomicU64; 5],
    durations: Histogram,
    rejected: ByReason,
    /// Its name.
    pub name: Name,
}

impl RouteStats {
    /// Of a route that had no request yet.
    pub fn new(name: &str) -> Self {
        RouteStats {
            in_flight: AtomicU64::new(0),
            codes: Default::default(),
            durations: Histogram::default(),
            rejected: ByReason::default(),
            name: Name::new(name),
        }
    }

    /// Counts an exchange that is over; one that never began has no duration.
    pub fn count(&self, status: u16, duration: Option<Duration>) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.codes[class].fetch_add(1, Relaxed);
        if let Some(duration) = duration {
            self.durations.observe(duration);
        }
    }

    /// Counts a refusal.
    pub fn reject(&self, reason: &'static str) {
        self.rejected.count(reason);
    }

    /// Exchanges by class of status.
    pub fn codes(&self) -> [u64; 5] {
        std::array::from_fn(|at| self.codes[at].load(Relaxed))
    }

    /// How long they took.
    pub fn durations(&self) -> &Histogram {
        &self.durations
    }

    /// Refusals by reason.
    pub fn rejected(&self) -> &ByReason {
        &self.rejected
    }

    /// Whether it ever had a request.
    pub fn is_used(&self) -> bool {
        self.in_flight.load(Relaxed) > 0 || self.codes().iter().any(|count| *count > 0)
    }
}

/// Why another attempt was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// No connection.
    Connect,
    /// The connection broke before an answer.
    Reset,
    /// A kept connection turned out to be closed.
    Reused,
}

/// What the label `reason` of a retry says, in the order of [`RetryReason`].
pub const RETRY_REASONS: [&str; 3] = ["connect", "reset", "reused"];

/// What is counted for an upstream.
#[derive(Debug)]
#[repr(align(64))]
pub struct UpstreamStats {
    durations: Histogram,
    connections: [AtomicU64; 2],
    retries: [AtomicU64; 3],
    /// Its name.
    pub name: Name,
}

impl UpstreamStats {
    /// Of an upstream that had no request yet.
    pub fn new(name: &str) -> Self {
        UpstreamStats {
            durations: Histogram::default(),
            connections: Default::default(),
            retries: Default::default(),
            name: Name::new(name),
        }
    }

    /// Counts the answer to an attempt, or its failure.
    pub fn answered(&self, duration: Duration) {
        self.durations.observe(duration);
    }

    /// Counts a connection that a request got.
    pub fn connected(&self, reused: bool) {
        self.connections[usize::from(reused)].fetch_add(1, Relaxed);
    }

    /// Counts another attempt.
    pub fn retried(&self, reason: RetryReason) {
        self.retries[reason as usize].fetch_add(1, Relaxed);
    }

    /// How long answers took to begin.
    pub fn durations(&self) -> &Histogram {
        &self.durations
    }

    /// Connections made, and connections used again.
    pub fn connections(&self) -> [u64; 2] {
        [self.connections[0].load(Relaxed), self.connections[1].load(Relaxed)]
    }

    /// Further attempts, in the order of [`RETRY_REASONS`].
    pub fn retries(&self) -> [u64; 3] {
        std::array::from_fn(|at| self.retries[at].load(Relaxed))
    }
}

/// What is counted for the process.
#[derive(Debug)]
pub struct Totals {
    requests: AtomicU64,
    faults: AtomicU64,
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// TLS handshakes: full ones, resumed ones, failed ones.
    pub handshakes: [AtomicU64; 3],
    /// What no route took.
    pub unrouted: RouteStats,
    /// Reloads that were done, and those that were refused.
    pub reloads: [AtomicU64; 2],
    /// When a configuration was taken up last, in milliseconds since 1970.
    pub configured_ms: AtomicU64,
    /// Whether the last reload was done.
    pub last_reload_failed: std::sync::atomic::AtomicBool,
}

impl Default for Totals {
    fn default() -> Self {
        Totals {
            requests: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            handshakes: Default::default(),
            unrouted: RouteStats::new(""),
            reloads: Default::default(),
            configured_ms: AtomicU64::new(super::exchange::unix_millis()),
            last_reload_failed: false.into(),
        }
    }
}

impl Totals {
    /// Counts a request, and whether the gateway itself had to answer it with a 5xx.
    pub fn count(&self, fault: bool) {
        self.requests.fetch_add(1, Relaxed);
        if fault {
            self.faults.fetch_add(1, Relaxed);
        }
    }

    /// Counts a reload.
    pub fn reloaded(&self, done: bool) {
        self.reloads[usize::from(!done)].fetch_add(1, Relaxed);
        self.last_reload_failed.store(!done, Relaxed);
        if done {
            self.configured_ms.store(super::exchange::unix_millis(), Relaxed);
        }
    }

    /// Requests answered since the process began, and those of them that the gateway answered with a 5xx of its own.
    pub fn so_far(&self) -> (u64, u64) {
        (self.requests.load(Relaxed), self.faults.load(Relaxed))
    }

    /// The share of the latter.
    pub fn fault_share(&self) -> f64 {
        let (requests, faults) = self.so_far();
        faults as f64 / requests.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_their_buckets() {
        let histogram = Histogram::default();
        for micros in [0, 250, 251, 60_000_000, 60_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let (buckets, sum) = histogram.read();
        assert_eq!((buckets[0], buckets[1], buckets[16], buckets[17]), (2, 1, 1, 1));
        assert!((sum - 120.000_502).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn reasons_are_counted_by_many_at_once() {
        let reasons = ByReason::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|n| reasons.count(["a", "b", "c"][n % 3])));
            }
        });
        assert_eq!(reasons.read(), BTreeMap::from([("a", 1_336), ("b", 1_332), ("c", 1_332)]));
    }

    #[test]
    fn classes_of_statuses() {
        let stats = RouteStats::new("a");
        for status in [101, 200, 204, 301, 404, 499, 503, 999, 0] {
            stats.count(status, None);
        }
        assert_eq!(stats.codes(), [2, 2, 1, 2, 2]);
    }
}
