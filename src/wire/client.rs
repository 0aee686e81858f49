//! The client of an exchange, as the request path sees it, whatever protocol it speaks.

use super::facts::Facts;
use super::outcome::Fault;
use super::trail::Trail;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The client of an exchange: a connection of HTTP/1, or a stream of HTTP/2. It has the clocks that its slowness runs
/// against, and is told of what they need to know.
pub trait Client: Send + Sync {
    /// The client's address; none on a Unix socket.
    fn peer(&self) -> Option<IpAddr>;

    /// The same and more, as fields are made of it.
    fn facts(&self) -> &Facts;

    /// What becomes of its requests.
    fn trail(&self) -> &Arc<Trail>;

    /// Whether the gateway asks itself here.
    fn is_own(&self) -> bool {
        false
    }

    /// Whether the next answer is the last on this connection, because the process is leaving.
    fn is_leaving(&self) -> bool;

    /// Sets the end of the exchange; a read or write that is waiting then fails with [`Fault::ExchangeTimeout`].
    fn set_deadline(&self, deadline: Instant);

    /// An upstream is waited for that has the whole request: a read fails with [`Fault::SilentUpstream`] once nothing has
    /// come from it in so long a time.
    fn bear_silence(&self, patience: Duration);

    /// The body of this request is a conversation, in which the client may be silent: nothing is asked of its speed.
    fn bear_pauses(&self) {}

    /// The upstream has sent something.
    fn end_silence(&self);

    /// The client has its 100, or a final answer in its place: from now on its body must come, or end.
    fn expect_body(&self);

    /// The answer is complete. A body that is still coming is nobody's any more: it ends soon, or at once when the
    /// client was waiting for a 100 that it now will not get.
    fn answered(&self);

    /// The gateway is going to end this connection, and the client may not expect it: it closes in two steps.
    fn end_unawares(&self) {}

    /// Whether the whole body of the present request has come.
    fn body_done(&self) -> bool;

    /// Whether it is the client that is waited for: its body, which does not come.
    fn is_awaited(&self) -> bool {
        !self.body_done()
    }

    /// What ended the request from this side, if anything did.
    fn fault(&self) -> Option<Fault>;
}
