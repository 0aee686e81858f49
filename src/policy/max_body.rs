//! `max_body`: the largest request body a route accepts.

use crate::error::Reject;

/// The limit in bytes of content (RFC 9110 §6.4), chunk framing not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxBody(pub u64);

impl MaxBody {
    /// Refuses a body that declares more than the limit.
    ///
    /// # Errors
    /// [`Reject::BodyTooLarge`].
    pub fn admit(self, content_length: Option<u64>) -> Result<(), Reject> {
        self.received(content_length.unwrap_or(0))
    }

    /// Refuses a stream of which more than the limit has arrived.
    ///
    /// # Errors
    /// [`Reject::BodyTooLarge`].
    pub fn received(self, bytes: u64) -> Result<(), Reject> {
        if bytes > self.0 {
            return Err(Reject::BodyTooLarge(self.0));
        }
        Ok(())
    }
}
