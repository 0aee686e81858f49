//! What became of a connection's requests, for whoever has to tell of those that ended without a word.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Outlives the connection's stream, which the engine may drop.
#[derive(Default)]
pub struct Trail {
    told: AtomicU64,
    /// What was known of the last one that was not told of.
    left: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Trail {
    /// One more request has been told of.
    pub fn told(&self) {
        self.told.fetch_add(1, Ordering::Relaxed);
    }

    /// How many have been.
    pub fn count(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    /// Leaves behind what is known of a request that nobody has told of.
    pub fn leave(&self, known: Box<dyn Any + Send>) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }

    /// What was left behind.
    pub fn take<T: Any>(&self) -> Option<Box<T>> {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner).take();
        left.and_then(|left| left.downcast().ok())
    }
}
