//! What a client may cost a connection, and how a request on it can end from this side.

use super::head::HeadError;
use std::time::Duration;

/// What ended a connection's request from this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The deadline of the whole exchange.
    ExchangeTimeout,
    /// The body came below the minimum rate.
    SlowBody,
    /// The body paused after the answer to it was complete.
    Unneeded,
    /// The upstream sent nothing for too long.
    SilentUpstream,
    /// Nothing passed through a tunnel for too long.
    IdleTunnel,
    /// The client took no byte for too long.
    StalledWrite,
    /// The chunked coding was broken; the sentence says how.
    Chunk(&'static str),
}

/// What a client's slowness may cost.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Without a byte taken.
    pub write: Duration,
    /// Bytes of body a second, after `grace`.
    pub body_rate: u64,
    /// How long a body may pause in all before the rate counts.
    pub body_grace: Duration,
}

/// Why no head came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoHead {
    /// The client closed, or the connection broke: nobody is left to answer.
    Closed,
    /// The same in the midst of it.
    BrokenOff,
    /// It took too long.
    Slow,
    /// It is refused.
    Refused(HeadError),
}
