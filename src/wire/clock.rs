//! One timer for all deadlines of a connection.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use tokio::time::{Instant, Sleep};

/// One timer for all of a connection's deadlines. It is armed only when something waits, and moved only when it
/// rings, so that a request on a busy connection costs no timer operation.
#[derive(Default)]
pub struct Clock(Option<Pin<Box<Sleep>>>);

impl Clock {
    /// Whether `until` is over; otherwise the task is woken then.
    pub fn is_over(&mut self, cx: &mut Context<'_>, until: Instant) -> bool {
        if Instant::now() >= until {
            return true;
        }
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if sleep.deadline() > until || sleep.is_elapsed() {
            sleep.as_mut().reset(until);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= until {
                return true;
            }
            sleep.as_mut().reset(until);
        }
        false
    }
}
