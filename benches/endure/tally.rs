//! What came of each exchange, by kind of traffic; and what nobody can explain, in full.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// More of them say nothing new, and the run ends.
pub const ENOUGH: usize = 10;

/// Counts of all kinds.
#[derive(Default)]
pub struct Tally {
    kinds: Mutex<BTreeMap<&'static str, Kind>>,
    unexplained: Mutex<Vec<String>>,
}

/// Counts of one kind.
#[derive(Default, Clone)]
pub struct Kind {
    pub outcomes: BTreeMap<String, u64>,
    pub slowest: Duration,
}

impl Tally {
    /// Notes an exchange: its outcome, or why it cannot be explained.
    pub fn note(&self, kind: &'static str, began: Instant, result: Result<String, String>) {
        let took = began.elapsed();
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(why) => {
                self.complain(format!("{kind}: {why} (after {took:.1?})"));
                "UNEXPLAINED".to_owned()
            }
        };
        let mut kinds = self.kinds.lock().expect("no holder panics");
        let kind = kinds.entry(kind).or_default();
        *kind.outcomes.entry(outcome).or_default() += 1;
        kind.slowest = kind.slowest.max(took);
    }

    /// Notes something that cannot be explained.
    pub fn complain(&self, what: String) {
        eprintln!("soak: unexplained: {what}");
        self.unexplained.lock().expect("no holder panics").push(what);
    }

    pub fn unexplained(&self) -> Vec<String> {
        self.unexplained.lock().expect("no holder panics").clone()
    }

    pub fn has_enough(&self) -> bool {
        self.unexplained.lock().expect("no holder panics").len() >= ENOUGH
    }

    pub fn kinds(&self) -> BTreeMap<&'static str, Kind> {
        self.kinds.lock().expect("no holder panics").clone()
    }

    pub fn exchanges(&self) -> u64 {
        let kinds = self.kinds.lock().expect("no holder panics");
        kinds.values().flat_map(|k| k.outcomes.values()).sum()
    }
}
