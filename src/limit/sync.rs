//! Counting ahead: what is let through is counted here at once, and told to the store at intervals.
//!
//! Each gateway goes by what all of them had taken when it last asked, and what it has taken itself since. What the others
//! take in between it does not know, so that with `n` gateways up to `(n - 1)` times what one of them lets through in an
//! interval (never more than a burst) passes beyond the limit at once. It is owed all the same: the store adds what it is
//! told to the debt, beyond a burst if need be, and nobody gets anything until that is paid. Over a time that is long
//! against the interval no more than the rate passes.
//!
//! Keys that have no room among those that wait to be told are asked for one by one.

use super::gcra::Quota;
use super::link::{Call, Link};
use super::store::{Mode, Store};
use super::table::{Ask, Key, Taken, FEW};
use super::Limit;
use futures_util::future::join_all;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// The most keys that wait to be told.
const MOST: usize = 50_000;
/// Locks that keep threads out of each other's way.
const PARTS: usize = 16;
/// The most keys in one call, so that a server is never busy for long; and the most calls at once.
const TOGETHER: usize = 100;

/// What was taken since it was told last.
pub(super) struct Pending {
    parts: [Mutex<FxHashMap<Key, Taking>>; PARTS],
    waiting: AtomicUsize,
}

struct Taking {
    text: String,
    quota: Quota,
    cost: u64,
}

impl Default for Pending {
    fn default() -> Self {
        Pending { parts: std::array::from_fn(|_| Mutex::default()), waiting: AtomicUsize::new(0) }
    }
}

impl Pending {
    fn part(&self, key: Key) -> std::sync::MutexGuard<'_, FxHashMap<Key, Taking>> {
        self.parts[key as usize % PARTS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, key: Key, limit: &Limit, text: impl FnOnce() -> String) {
        let mut part = self.part(key);
        if let Some(taking) = part.get_mut(&key) {
            taking.cost += limit.spec.cost;
            return;
        }
        part.insert(key, Taking { text: text(), quota: limit.spec.quota, cost: limit.spec.cost });
        self.waiting.fetch_add(1, Relaxed);
    }

    fn drain(&self) -> Vec<(Key, Taking)> {
        let mut all = Vec::new();
        for part in &self.parts {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            self.waiting.fetch_sub(part.len(), Relaxed);
            all.extend(std::mem::take(&mut *part));
        }
        all
    }
}

impl Store {
    /// Counts here and has it told later; none: there is no room for that.
    pub(super) fn count_ahead<T: Iterator<Item = String>>(
        &self,
        limits: &[Arc<Limit>],
        keys: &[Key],
        texts: impl Fn() -> T,
        now: u64,
    ) -> Option<Taken> {
        if self.pending.waiting.load(Relaxed) + limits.len() > MOST {
            return None;
        }
        let asks: SmallVec<[Ask<'_>; FEW]> = limits
            .iter()
            .zip(keys)
            .map(|(limit, key)| Ask {
                key: *key,
                limit: limit.id,
                quota: &limit.spec.quota,
                cost: limit.spec.cost,
            })
            .collect();
        let taken = self.base.table.take(&asks, now);
        if taken.allowed {
            for (at, (limit, key)) in limits.iter().zip(keys).enumerate() {
                self.pending.add(*key, limit, || texts().nth(at).unwrap_or_default());
            }
        }
        Some(taken)
    }

    /// Tells the store what was taken, and hears what all have.
    pub(super) async fn exchange(&self, link: &Arc<Link>) {
        let mut taken = self.pending.drain();
        let together = if self.spec().mode == Mode::Cluster { 1 } else { TOGETHER };
        while !taken.is_empty() {
            let batch = taken.split_off(taken.len().saturating_sub(TOGETHER));
            let calls: Vec<Call> = batch
                .chunks(together)
                .map(|some| {
                    let mut call = Call::forced();
                    for (_, taking) in some {
                        let cost = i64::try_from(taking.cost).unwrap_or(i64::MAX);
                        call.add(taking.text.clone(), &taking.quota, cost);
                    }
                    call
                })
                .collect();
            let answers = join_all(calls.iter().map(|call| self.run_call(link, call))).await;
            for (answer, some) in answers.iter().zip(batch.chunks(together)) {
                let Some(answer) = answer else { return }; // it is down; what was taken stays owed here
                for ((micros, part), (key, taking)) in answer.debts.iter().zip(some) {
                    let debt = taking.quota.debt_of_micros(*micros, *part);
                    self.base.table.raise(*key, &taking.quota, debt, self.base.now());
                }
            }
        }
    }
}
