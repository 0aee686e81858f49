//! `concurrency`: how many requests of a route may be in flight.

use crate::base::priority::Priority;
use crate::error::Reject;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;

/// At most so many, from admission to the last byte; a tunnel counts until it ends. There is no queue: who would have to
/// wait is told so at once, while the client still cares.
#[derive(Debug, Clone)]
pub struct Concurrency {
    /// So many.
    max: usize,
    in_flight: Arc<AtomicUsize>,
}

impl Concurrency {
    /// At most so many. What is in flight under `before`, the same route's limit, counts here too.
    pub fn new(max: usize, before: Option<&Concurrency>) -> Self {
        Concurrency { max, in_flight: before.map(|before| Arc::clone(&before.in_flight)).unwrap_or_default() }
    }

    /// Takes one more.
    ///
    /// # Errors
    /// When there are so many already.
    pub fn enter(&self, priority: Priority) -> Result<InFlight, Reject> {
        // Counted first: of two that come at once for one place one must see the other.
        let entered = InFlight(Arc::clone(&self.in_flight));
        match self.in_flight.fetch_add(1, Relaxed) < priority.share(self.max) {
            true => Ok(entered),
            false => Err(Reject::TooManyInFlight),
        }
    }
}

/// The same limit counts the same requests.
impl PartialEq for Concurrency {
    fn eq(&self, other: &Self) -> bool {
        self.max == other.max && Arc::ptr_eq(&self.in_flight, &other.in_flight)
    }
}

impl Eq for Concurrency {}

/// One request that counts, until this is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_and_no_more_and_fewer_of_the_low() {
        let limit = Concurrency::new(4, None);
        let held: Vec<_> = (0..3).map(|_| limit.enter(Priority::Low).unwrap()).collect();
        assert!(limit.enter(Priority::Low).is_err(), "a quarter is kept free of them");
        let last = limit.enter(Priority::Normal).unwrap();
        for priority in [Priority::Low, Priority::Normal, Priority::High] {
            assert_eq!(limit.enter(priority).err(), Some(Reject::TooManyInFlight));
        }
        drop(last);
        let other = Concurrency::new(5, Some(&limit));
        let two = [other.enter(Priority::High).unwrap(), other.enter(Priority::High).unwrap()];
        assert!(other.enter(Priority::High).is_err(), "what is in flight goes on counting");
        drop((held, two));
        assert_eq!(limit.in_flight.load(Relaxed), 0, "the refused are not counted");
    }
}
