//! The door of `admin`: one socket beside the listeners, by which the gateway is looked at.
//!
//! It outlives them. It opens before there is anything to serve and stays open while the process drains or leaves, so that
//! whoever asks for its health is told; it shuts when a successor answers in its place. It has its own few connections, which
//! no limit of the clients' counts, no log names and no drain waits for. Nobody has to wait behind others there.

use super::accept::Acceptor;
use super::listen::Listeners;
use super::sockets::{self, Bound, Passed};
use super::StartError;
use crate::admin::Admin;
use crate::gateway::{Bind, Limits};
use crate::wire::conn::{Conn, Pace};
use crate::wire::facts::Facts;
use crate::wire::head::HeadLimits;
use crate::wire::linger::Farewell;
use log::{error, info};
use pingora::protocols::http::ServerSession;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::timeout;

/// How many may look at once: beyond it the one that came first has to go, so that a crowd keeps no probe waiting.
const MOST: usize = 128;
/// For a request's head: whoever asks has it ready.
const HEAD_TIME: Duration = Duration::from_secs(2);
/// For an answer that has an end, the time included that its reader takes.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// For an answer that is under way when the door is shut.
const LAST_WORDS: Duration = Duration::from_secs(2);
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
    task: Option<Task>,
    /// Told to end, and not known to have.
    ending: Vec<JoinHandle<()>>,
}

/// What accepts, until it is told to end; then it lets what is under way end too.
struct Task {
    end: watch::Sender<bool>,
    done: JoinHandle<()>,
}

/// Another address, bound and not yet accepted from; or none any more.
pub(super) struct Change(Option<Option<Bound>>);

impl Door {
    /// A door that is shut.
    pub(super) fn new(admin: Arc<Admin>, bound: Option<Bound>) -> Self {
        let state = State { bound, open: false, task: None, ending: Vec::new() };
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
        state.end_task();
    }

    /// Shuts it, and waits until whoever had come in has an answer.
    pub(super) async fn close(&self) {
        self.shut();
        let ending = std::mem::take(&mut self.state().ending);
        for done in ending {
            let _ = done.await; // it bounds itself
        }
    }

    /// Shuts it, and lets go of the socket, which is another process's.
    pub(super) fn forget(&self) {
        self.shut();
        self.state().bound = None;
    }

    /// Gets a socket for the address of a new configuration, if it is another one.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn prepare(&self, at: Option<&Bind>, listeners: &Listeners) -> Result<Change, StartError> {
        if self.at().as_ref() == at {
            return Ok(Change(None));
        }
        at.map(|at| listeners.socket_for_admin(at)).transpose().map(|bound| Change(Some(bound)))
    }

    /// Gives up a change.
    pub(super) fn revoke(&self, change: Change, listeners: &Listeners) {
        if let Change(Some(Some(bound))) = change {
            listeners.take_back(bound);
        }
    }

    /// Moves there.
    pub(super) fn commit(&self, change: Change, listeners: &Listeners) {
        let Change(Some(bound)) = change else { return };
        let mut state = self.state();
        state.end_task();
        if let Some(before) = std::mem::replace(&mut state.bound, bound) {
            info!("admin: no longer at {}", before.name());
            listeners.take_back(before);
        }
        self.accept(&mut state);
    }

    /// Where it is, as configured.
    fn at(&self) -> Option<Bind> {
        self.state().bound.as_ref().map(|bound| bound.at.clone())
    }

    /// Where it is in fact, with the port that the kernel chose.
    pub(super) fn whereabouts(&self) -> Option<Bind> {
        let state = self.state();
        let bound = state.bound.as_ref()?;
        Some(bound.address().map_or_else(|| bound.at.clone(), Bind::Tcp))
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
                let end = watch::Sender::new(false);
                let done = runtime.spawn(serve(acceptor, Arc::clone(&self.admin), end.subscribe()));
                state.task = Some(Task { end, done });
            }
            Err(e) => error!("admin: {} cannot be used: {e}", bound.name()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end_task(&mut self) {
        self.ending.retain(|done| !done.is_finished());
        if let Some(Task { end, done }) = self.task.take() {
            end.send_replace(true);
            self.ending.push(done);
        }
    }
}

/// Accepts until it is told to end, and then lets those go who have been let in.
async fn serve(mut acceptor: Acceptor, admin: Arc<Admin>, mut end: watch::Receiver<bool>) {
    let farewell = Arc::<Farewell>::default();
    let mut inside = JoinSet::new();
    let mut seats: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let (socket, ends) = tokio::select! {
            accepted = acceptor.next() => accepted,
            _ = end.wait_for(|end| *end) => break,
        };
        while inside.try_join_next().is_some() {}
        if seats.len() >= MOST {
            seats.retain(|seat| !seat.is_finished());
        }
        if seats.len() >= MOST {
            seats.pop_front().iter().for_each(AbortHandle::abort);
        }
        let pace = Pace { write: ANSWER_TIME, body_rate: 240, body_grace: Limits::BODY_GRACE };
        let facts = Facts::new(ends, None, Arc::default());
        let conn = Conn::new(socket, facts, pace, Arc::clone(&farewell), Arc::new(()));
        seats.push_back(inside.spawn(answer(Box::new(conn), Arc::clone(&admin), end.clone())));
    }
    drop(acceptor);
    let _ = timeout(LAST_WORDS, async { while inside.join_next().await.is_some() {} }).await;
}

async fn answer(mut conn: Box<Conn>, admin: Arc<Admin>, end: watch::Receiver<bool>) {
    if !conn.wait_for_request(HEAD_TIME).await {
        return;
    }
    match conn.read_head(&HEAD, HEAD_TIME).await {
        Ok((_, head)) => {
            let mut session = ServerSession::new_http1(conn);
            session.set_pipelined_prefix(head);
            session.set_read_timeout(None); // `Conn` has the clocks
            admin.answer(session, ANSWER_TIME, end).await;
        }
        Err(_) => {
            conn.answer_and_close(
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            )
            .await;
        }
    }
}
