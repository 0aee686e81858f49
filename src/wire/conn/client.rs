//! A connection as the client of its present request.

use super::{Body, Conn};
use crate::wire::client::Client;
use crate::wire::facts::Facts;
use crate::wire::outcome::Fault;
use crate::wire::trail::Trail;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

impl Client for Conn {
    fn peer(&self) -> Option<IpAddr> {
        self.facts.address
    }

    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn trail(&self) -> &Arc<Trail> {
        &self.trail
    }

    fn is_own(&self) -> bool {
        self.own
    }

    fn is_leaving(&self) -> bool {
        self.farewell.is_leaving()
    }

    fn set_deadline(&self, deadline: Instant) {
        let millis = deadline.saturating_duration_since(self.opened).as_millis() as u64;
        self.deadline.store(millis.max(1), Ordering::Relaxed);
    }

    fn bear_silence(&self, patience: Duration) {
        self.silence.bear(patience);
    }

    fn end_silence(&self) {
        self.silence.end_it();
    }

    fn expect_body(&self) {
        self.wait.release();
    }

    fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    fn end_unawares(&self) {
        self.unawares.store(true, Ordering::Relaxed);
    }

    fn body_done(&self) -> bool {
        matches!(self.body, Body::Done)
    }

    fn fault(&self) -> Option<Fault> {
        self.fault
    }
}
