//! The door of `admin`: one socket beside the listeners, by which the gateway is looked at.
//!
//! It outlives them. It opens before there is anything to serve and stays open while the process drains or leaves, so that
//! whoever asks for its health is told; it shuts when a successor answers in its place. It has its own few connections, which
//! no limit of the clients' counts, no log names and no drain waits for.

use super::listen::Acceptor;
use super::sockets::{self, Bound, Passed};
use super::StartError;
use crate::admin::Admin;
use crate::gateway::{Bind, Limits};
use crate::wire::conn::{Conn, Pace};
use crate::wire::head::HeadLimits;
use crate::wire::linger::Farewell;
use log::{error, info, warn};
use pingora::protocols::http::ServerSession;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

/// How many may look at once.
const MOST: usize = 64;
/// For a request's head, and for each byte of an answer.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);
const HEAD: HeadLimits = HeadLimits { target: 2 << 10, size: 16 << 10, fields: 100 };

/// The door, if the configuration has one.
pub(super) struct Door {
    admin: Arc<Admin>,
    /// Known once it runs.
    runtime: OnceLock<Handle>,
    state: Mutex<State>,
}

struct State {
    bound: Option<Bound>,
    open: bool,
    task: Option<JoinHandle<()>>,
}

/// Another address, bound and not yet accepted from; or none any more.
pub(super) struct Change(Option<Option<Bound>>);

impl Door {
    /// A door that is shut.
    pub(super) fn new(admin: Arc<Admin>, bound: Option<Bound>) -> Self {
        let state = State { bound, open: false, task: None };
        Door { admin, runtime: OnceLock::new(), state: Mutex::new(state) }
    }

    /// The runtime that answers.
    pub(super) fn begin(&self, runtime: Handle) {
        let _ = self.runtime.set(runtime); // it begins once
        self.accept(&mut self.state());
    }

    /// From now on accepts.
    pub(super) fn open(&self) {
        let mut state = self.state();
        state.open = true;
        self.accept(&mut state);
    }

    /// Accepts no more, and ends what is open: whoever looks finds the successor by asking again.
    pub(super) fn shut(&self) {
        let mut state = self.state();
        state.open = false;
        if let Some(task) = state.task.take() {
            task.abort();
        }
    }

    /// Shuts it, and lets go of the socket, which is another process's.
    pub(super) fn forget(&self) {
        self.shut();
        self.state().bound = None;
    }

    /// Binds the address of a new configuration, if it is another one.
    ///
    /// # Errors
    /// Why it cannot be bound.
    pub(super) fn prepare(&self, at: Option<&Bind>) -> Result<Change, StartError> {
        let state = self.state();
        let now = state.bound.as_ref().map(|bound| &bound.at);
        if now == at {
            return Ok(Change(None));
        }
        at.map(Bound::bind).transpose().map(|bound| Change(Some(bound)))
    }

    /// Moves there.
    pub(super) fn commit(&self, change: Change) {
        let Change(Some(bound)) = change else { return };
        let mut state = self.state();
        if let Some(task) = state.task.take() {
            task.abort();
        }
        if let Some(before) = std::mem::replace(&mut state.bound, bound) {
            info!("admin: no longer at {}", before.name());
            before.remove_file();
        }
        self.accept(&mut state);
    }

    /// Another descriptor of its socket, for a successor.
    pub(super) fn pass(&self) -> io::Result<Option<Passed>> {
        let state = self.state();
        let passed = state.bound.as_ref().map(|bound| {
            let socket = bound.as_fd().try_clone_to_owned()?;
            Ok(Passed { name: sockets::admin_name(&bound.at), held: bound.held, socket })
        });
        passed.transpose()
    }

    fn accept(&self, state: &mut State) {
        let (Some(runtime), Some(bound)) = (self.runtime.get(), &state.bound) else { return };
        if !state.open || state.task.is_some() {
            return;
        }
        let _within = runtime.enter();
        match Acceptor::new(bound) {
            Ok(acceptor) => {
                info!("admin at {}", bound.name());
                state.task = Some(runtime.spawn(serve(acceptor, Arc::clone(&self.admin))));
            }
            Err(e) => error!("admin: {} cannot be used: {e}", bound.name()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts for ever. What it has accepted ends with it.
async fn serve(acceptor: Acceptor, admin: Arc<Admin>) {
    let room = Arc::new(Semaphore::new(MOST));
    let farewell = Arc::<Farewell>::default();
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return }; // it is never closed
        match acceptor.accept().await {
            Ok((socket, peer)) => {
                let pace = Pace { write: PATIENCE, body_rate: 240, body_grace: Limits::BODY_GRACE };
                let place: Arc<dyn Send + Sync> = Arc::new(place);
                let conn = Conn::new(socket, peer, acceptor.port(), pace, Arc::clone(&farewell), place);
                open.spawn(answer(Box::new(conn), Arc::clone(&admin)));
            }
            Err(e) => {
                warn!("admin: cannot accept: {e}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(mut conn: Box<Conn>, admin: Arc<Admin>) {
    if !conn.wait_for_request(PATIENCE).await {
        return;
    }
    match conn.read_head(&HEAD, PATIENCE).await {
        Ok((_, head)) => {
            let mut session = ServerSession::new_http1(conn);
            session.set_pipelined_prefix(head);
            session.set_read_timeout(None); // `Conn` has the clocks
            admin.answer(session).await;
        }
        Err(_) => {
            conn.answer_and_close(
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            )
            .await
        }
    }
}
