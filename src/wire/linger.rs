//! Closing so that the answer arrives.
//!
//! Closing a socket with unread bytes makes the kernel send a reset, which can overtake and destroy the answer. So the
//! writing side is closed first, and what still comes is read away for a while (RFC 9112 §9.6).

use super::socket::Socket;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::futures::OwnedNotified;
use tokio::sync::Notify;

/// Between two reads of what a closing client still sends, and in all, as NGINX has it.
const PAUSE: Duration = Duration::from_secs(5);
const TOTAL: Duration = Duration::from_secs(30);
/// And how much of it.
const BYTES: usize = 64 << 20;

/// What connections and the process tell each other at the end.
///
/// ```text
/// serving --begin--> leaving: answers say so --dismiss--> waiting connections close --cut--> tunnels close
///    ^                  |                                      |                                |
///    +-----cancel-------+--------------------------------------+--------------------------------+
/// ```
#[derive(Debug, Default)]
pub struct Farewell {
    leaving: AtomicBool,
    dismissing: AtomicBool,
    dismissed: Notify,
    cutting: AtomicBool,
    cut: Arc<Notify>,
    lingering: AtomicUsize,
    settled: Notify,
}

impl Farewell {
    /// The process is leaving: the next answer on each connection is its last.
    pub fn begin(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Connections that wait for a request shall wait no more.
    pub fn dismiss(&self) {
        self.dismissing.store(true, Ordering::SeqCst);
        self.dismissed.notify_waiters();
    }

    /// Tunnels shall end, which would not by themselves.
    pub fn cut(&self) {
        self.cutting.store(true, Ordering::SeqCst);
        self.cut.notify_waiters();
    }

    /// The process stays after all.
    pub fn cancel(&self) {
        self.cutting.store(false, Ordering::SeqCst);
        self.dismissing.store(false, Ordering::SeqCst);
        self.leaving.store(false, Ordering::Relaxed);
    }

    /// Whether the process is leaving.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Waits until [`dismiss`](Self::dismiss) is called, or returns at once if it was.
    pub async fn dismissed(&self) {
        let dismissed = self.dismissed.notified();
        if !self.dismissing.load(Ordering::SeqCst) {
            dismissed.await;
        }
    }

    /// Whether tunnels are to end.
    pub(super) fn is_cutting(&self) -> bool {
        self.cutting.load(Ordering::SeqCst)
    }

    /// Waits for the next [`cut`](Self::cut).
    pub(super) fn cut_off(&self) -> OwnedNotified {
        Arc::clone(&self.cut).notified_owned()
    }

    /// Waits until no connection is closing any more.
    pub async fn settled(&self) {
        loop {
            let settled = self.settled.notified();
            if self.lingering.load(Ordering::SeqCst) == 0 {
                return;
            }
            settled.await;
        }
    }
}

/// Counts a closing connection.
struct Lingering(Arc<Farewell>);

impl Drop for Lingering {
    fn drop(&mut self) {
        if self.0.lingering.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.settled.notify_waiters();
        }
    }
}

/// Closes a socket in two steps, in a task of its own; `ticket` is held until then.
pub fn linger(socket: Socket, farewell: Arc<Farewell>, ticket: Arc<dyn Send + Sync>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    farewell.lingering.fetch_add(1, Ordering::SeqCst);
    let counted = Lingering(farewell);
    runtime.spawn(async move {
        let _ = tokio::time::timeout(TOTAL, read_away(socket)).await;
        drop((counted, ticket));
    });
}

async fn read_away(mut socket: Socket) {
    if socket.shutdown().await.is_err() {
        return;
    }
    let (mut waste, mut left) = ([0; 4096], BYTES);
    while let Ok(Ok(n @ 1..)) = tokio::time::timeout(PAUSE, socket.read(&mut waste)).await {
        left = left.saturating_sub(n);
        if left == 0 {
            return;
        }
    }
}
