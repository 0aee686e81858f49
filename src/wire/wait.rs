//! What a connection waits for, and since when: the client's body, the upstream's next word.

use super::outcome::Pace;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How long a body may still pause once the answer to it is complete.
const ANSWERED_PAUSE: Duration = Duration::from_secs(1);

/// How long the client has let us wait for its body.
#[derive(Debug, Default)]
pub(super) struct BodyWait {
    since: Option<Instant>,
    waited: Duration,
    received: u64,
    /// The client waits for our 100 first: its clock has not started.
    held: AtomicBool,
}

impl BodyWait {
    /// For the body of a new request.
    pub(super) fn new(held: bool) -> Self {
        BodyWait { held: held.into(), ..BodyWait::default() }
    }

    /// The client has its 100, or a final answer in its place.
    pub(super) fn release(&self) {
        self.held.store(false, Ordering::Relaxed);
    }

    /// So much has come.
    pub(super) fn received(&mut self, bytes: usize) {
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
        self.received += bytes as u64;
        *self.held.get_mut() = false;
    }

    /// Whether it is being waited for.
    pub(super) fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// When the body that is being waited for will have been too slow; none while the client waits for us.
    pub(super) fn end(&mut self, pace: &Pace) -> Option<Instant> {
        if *self.held.get_mut() {
            return None;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let earned = Duration::from_micros(self.received.saturating_mul(1_000_000) / pace.body_rate.max(1));
        let allowed = pace.body_grace.saturating_add(earned.min(Duration::from_secs(3600)));
        Some(since + allowed.saturating_sub(self.waited))
    }

    /// The same when the answer is complete already: nobody needs the rest, and a client that waited for a 100 will
    /// not get one.
    pub(super) fn end_unneeded(&mut self) -> Instant {
        let pause = if *self.held.get_mut() { Duration::ZERO } else { ANSWERED_PAUSE };
        *self.since.get_or_insert_with(Instant::now) + pause
    }
}

/// How long the upstream has been silent while the engine waited for it.
///
/// The engine has such a timeout of its own, with a timer for each read. Here it is one more deadline on the
/// connection's one timer. That works because the engine, as long as it waits for an upstream that has the whole
/// request, also waits for the client. With a body under way, in a tunnel, and without a client (a cache that fills) it
/// may not, and its own timeout is needed.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// How long it may last, in milliseconds; 0: nobody is waited for.
    patience: AtomicU64,
    /// Something came since anybody looked.
    broken: AtomicBool,
    since: Option<Instant>,
}

impl Silence {
    /// From now on an upstream is waited for, so long at a time.
    pub(super) fn bear(&self, patience: Duration) {
        self.patience.store((patience.as_millis() as u64).max(1), Ordering::Relaxed);
        self.end_it();
    }

    /// No upstream is waited for.
    pub(super) fn stop(&mut self) {
        *self.patience.get_mut() = 0;
    }

    /// Something came from the upstream.
    pub(super) fn end_it(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// When it will have lasted too long, if it goes on.
    pub(super) fn end(&mut self) -> Option<Instant> {
        let patience = *self.patience.get_mut();
        if patience == 0 {
            return None;
        }
        if std::mem::take(self.broken.get_mut()) {
            self.since = Some(Instant::now());
        }
        Some(self.since? + Duration::from_millis(patience))
    }
}
