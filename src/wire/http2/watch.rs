//! The client of one stream: what the request path knows of it and tells it, and the clocks it runs against.

use crate::wire::client::Client;
use crate::wire::facts::Facts;
use crate::wire::linger::Farewell;
use crate::wire::outcome::{Fault, Pace};
use crate::wire::trail::Trail;
use crate::wire::wait::{BodyWait, Silence};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The client of one stream. The stream and the request path share it: Pingora's engine has the stream.
pub struct Watch {
    origin: Arc<Origin>,
    trail: Arc<Trail>,
    clocks: Mutex<Clocks>,
}

/// What all streams of a connection have in common.
pub struct Origin {
    /// The client's address; none on a Unix socket.
    pub peer: Option<IpAddr>,
    /// The same and more, as fields are made of it.
    pub facts: Facts,
    /// Whether the process is leaving.
    pub farewell: Arc<Farewell>,
    /// An answer's head has been written.
    pub answered: AtomicBool,
}

/// Seldom asked by two at once, and never for long.
struct Clocks {
    deadline: Option<Instant>,
    wait: BodyWait,
    silence: Silence,
    /// The client may pause in its body.
    pauses: bool,
    answered: bool,
    body_done: bool,
    fault: Option<Fault>,
}

impl Watch {
    /// For a request whose client may wait for a 100 before it sends the body.
    pub(super) fn new(origin: Arc<Origin>, expects_100: bool, body_done: bool) -> Self {
        let clocks = Clocks {
            deadline: None,
            wait: BodyWait::new(expects_100),
            silence: Silence::default(),
            pauses: false,
            answered: false,
            body_done,
            fault: None,
        };
        Watch { origin, trail: Arc::default(), clocks: Mutex::new(clocks) }
    }

    fn clocks(&self) -> MutexGuard<'_, Clocks> {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So much of the body has come, and perhaps its end.
    pub(super) fn received(&self, bytes: usize, end: bool) {
        let mut clocks = self.clocks();
        clocks.wait.received(bytes);
        if end && !clocks.body_done {
            clocks.silence.end_it(); // from now on the upstream has all of it
        }
        clocks.body_done |= end;
    }

    /// When a read that has to wait will have waited too long, and what it fails with then.
    pub(super) fn end_of_reading(&self, pace: &Pace) -> Option<(Instant, Fault)> {
        let clocks = &mut *self.clocks();
        let body = match clocks {
            Clocks { body_done: true, .. } => None,
            Clocks { answered: true, wait, .. } => Some((wait.end_unneeded(), Fault::Unneeded)),
            Clocks { pauses: true, .. } => None,
            Clocks { wait, .. } => wait.end(pace).map(|end| (end, Fault::SlowBody)),
        };
        let exchange = clocks.deadline.map(|end| (end, Fault::ExchangeTimeout));
        let silent = if clocks.body_done { clocks.silence.end() } else { None };
        let upstream = silent.map(|end| (end, Fault::SilentUpstream));
        // Of two that are over at once the first says more.
        [exchange, body, upstream].into_iter().flatten().min_by_key(|(end, _)| *end)
    }

    /// The same of a write that waits since then.
    pub(super) fn end_of_writing(&self, since: Instant, pace: &Pace) -> (Instant, Fault) {
        let stalled = (since + pace.write, Fault::StalledWrite);
        match self.clocks().deadline {
            Some(end) if end <= stalled.0 => (end, Fault::ExchangeTimeout),
            _ => stalled,
        }
    }

    /// Whether no answer has gone before on this connection. Asked once for each.
    pub(super) fn is_first_answer(&self) -> bool {
        !self.origin.answered.swap(true, Ordering::Relaxed)
    }

    /// This ended the request.
    pub(super) fn fail(&self, fault: Fault) {
        self.clocks().fault = Some(fault);
    }
}

impl Client for Watch {
    fn peer(&self) -> Option<IpAddr> {
        self.origin.peer
    }

    fn facts(&self) -> &Facts {
        &self.origin.facts
    }

    fn trail(&self) -> &Arc<Trail> {
        &self.trail
    }

    fn is_leaving(&self) -> bool {
        self.origin.farewell.is_leaving()
    }

    fn set_deadline(&self, deadline: Instant) {
        self.clocks().deadline = Some(deadline);
    }

    fn bear_silence(&self, patience: Duration) {
        self.clocks().silence.bear(patience);
    }

    fn bear_pauses(&self) {
        self.clocks().pauses = true;
    }

    fn end_silence(&self) {
        self.clocks().silence.end_it();
    }

    fn expect_body(&self) {
        self.clocks().wait.release();
    }

    fn answered(&self) {
        self.clocks().answered = true;
    }

    fn body_done(&self) -> bool {
        self.clocks().body_done
    }

    fn is_awaited(&self) -> bool {
        let clocks = self.clocks();
        !clocks.body_done && clocks.wait.is_on()
    }

    fn fault(&self) -> Option<Fault> {
        self.clocks().fault
    }
}
