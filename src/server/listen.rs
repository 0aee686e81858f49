//! Accepting: one task for each listener, in a Pingora service of our own. Listeners come and go while it runs.
//!
//! Pingora's own listening service panics in a task thirty seconds after a failed bind while the process lives on,
//! cannot count connections, cannot watch over a head's deadline, and has the listeners that it started with for ever,
//! so this one stands in its place.

use super::accept::Acceptor;
use super::connection::{self, Arrival, Ticket};
use super::sockets::{self, Bound, Inherited, Passed, Sockets};
use super::{systemd, Shared, StartError};
use crate::error::Reject;
use crate::gateway::{Bind, Listener, Protocols};
use crate::observe::exchange::Exchange;
use crate::proxy::{failure, Proxy};
use crate::wire::facts::Ends;
use crate::wire::socket::Socket;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use log::{error, info, warn};
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use pingora_proxy::HttpProxy;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::{watch, Notify};
use tokio::task::JoinHandle;

/// What the gateway asks itself: no route has the path `*`, so no upstream is in it, and there must be a 404.
const QUESTION: &[u8] = b"OPTIONS * HTTP/1.1\r\nHost: itself\r\nConnection: close\r\n\r\n";
const PROOF: &[u8] = b"HTTP/1.1 404 ";

/// All listeners of the process. A socket stays here while nothing is accepted from it, so that it can be handed over or
/// accepted from again.
pub struct Listeners {
    all: Mutex<All>,
    /// Known once the service runs.
    accepting: OnceLock<Accepting>,
}

struct All {
    open: Vec<Open>,
    /// Of the service manager's own, those that no listener has now.
    aside: Inherited,
    /// Whether connections are accepted: not before the process serves, and not while it leaves.
    accepts: bool,
    store: Store,
}

/// What the service manager stores for the service.
struct Store {
    /// As long as another process may have to serve with what is stored, it stays.
    ours: bool,
    /// What is to go from it once it is ours.
    unwanted: Vec<String>,
}

/// What an accepted connection needs.
#[derive(Clone)]
struct Accepting {
    runtime: Handle,
    proxy: Arc<HttpProxy<Proxy>>,
    shared: Arc<Shared>,
    draining: watch::Receiver<bool>,
}

struct Open {
    bound: Bound,
    /// As configured now; what is accepted while it is removed is served as it was.
    listener: Arc<ArcSwap<Listener>>,
    task: Option<Task>,
}

struct Task {
    order: watch::Sender<Order>,
    done: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Accept,
    /// Somebody else accepts from the same socket, or will: what waits in its queue is theirs.
    Leave,
    /// The socket is about to be closed: what waits in its queue is still served.
    Close,
}

/// Sockets for the listeners of a new configuration, bound but not accepted from.
pub struct Change {
    added: Vec<Bound>,
    wanted: Vec<Bind>,
}

impl Listeners {
    /// Of sockets that listen already. Nothing is accepted before [`open_up`](Self::open_up).
    pub fn new(sockets: Sockets, configured: &[Arc<Listener>]) -> Self {
        let Sockets { bound, aside, unclaimed, .. } = sockets;
        let store = Store { ours: false, unwanted: unclaimed };
        let mut all = All { open: Vec::new(), aside, accepts: false, store };
        all.configure(bound, configured);
        Listeners { all: Mutex::new(all), accepting: OnceLock::new() }
    }

    /// Binds what a new configuration has more; nothing else changes.
    ///
    /// # Errors
    /// The first address that cannot be bound, and why.
    pub fn prepare(&self, wanted: &[Bind], looked_at: Option<&Bind>) -> Result<Change, StartError> {
        let mut all = self.all();
        let present: Vec<Bind> = all.open.iter().map(|open| open.bound.at.clone()).collect();
        let mut ours = all.addresses();
        ours.extend(looked_at.cloned());
        let mut added = Vec::new();
        for at in missing(wanted, &present) {
            match all.aside.claim_or_bind(&at) {
                Ok(bound) => added.push(bound),
                Err(e) => {
                    all.discard(added);
                    return Err(sockets::explain(e, &at, &ours));
                }
            }
        }
        Ok(Change { added, wanted: wanted.to_vec() })
    }

    /// A socket for `admin`: the service manager's, or bound anew.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub(super) fn socket_for_admin(&self, at: &Bind) -> Result<Bound, StartError> {
        let mut all = self.all();
        let ours = all.addresses();
        all.aside.claim_or_bind(at).map_err(|e| sockets::explain(e, at, &ours))
    }

    /// Takes one back that is not used any more.
    pub(super) fn take_back(&self, bound: Bound) {
        self.all().discard(vec![bound]);
    }

    /// Gives up a change.
    pub fn revoke(&self, change: Change) {
        self.all().discard(change.added);
    }

    /// Accepts from what was added, and closes what is not configured any more. Returns how many of each.
    pub async fn commit(&self, change: Change, configured: &[Arc<Listener>]) -> (usize, usize) {
        let added = change.added.len();
        let removed = {
            let mut all = self.all();
            let present: Vec<Bind> = all.open.iter().map(|open| open.bound.at.clone()).collect();
            let mut removed = Vec::new();
            for at in missing(&present, &change.wanted) {
                if let Some(place) = all.open.iter().position(|open| open.bound.at == at) {
                    removed.push(all.open.remove(place));
                }
            }
            all.configure(change.added, configured);
            removed
        };
        self.accept();
        let count = removed.len();
        for open in removed {
            info!("no longer listening on {}", open.bound.name());
            if !open.bound.held {
                open.bound.remove_file();
            }
            self.close_one(open).await;
        }
        self.all().settle_store();
        (added, count)
    }

    /// From now on accepts connections, from every socket.
    pub fn open_up(&self) {
        self.all().accepts = true;
        self.accept();
    }

    /// Accepts from every socket from which nothing is accepted yet, if anything is to be.
    fn accept(&self) {
        let Some(accepting) = self.accepting.get() else { return };
        let mut all = self.all();
        if !all.accepts {
            return;
        }
        for open in all.open.iter_mut().filter(|open| open.task.is_none()) {
            match accepting.begin(open) {
                Ok(task) => {
                    info!("listening on {}", open.bound.name());
                    open.task = Some(task);
                }
                Err(e) => error!("{}: a bound socket cannot be used: {e}", open.bound.name()),
            }
        }
    }

    /// Binds these and accepts from them, after all were closed.
    ///
    /// # Errors
    /// The first address that cannot be bound, and why; nothing is accepted then.
    pub fn reopen(&self, configured: &[Arc<Listener>]) -> Result<(), StartError> {
        let wanted: Vec<Bind> = configured.iter().map(|listener| listener.at.clone()).collect();
        let change = self.prepare(&wanted, None)?;
        {
            let mut all = self.all();
            all.configure(change.added, configured);
            all.settle_store();
        }
        self.open_up();
        Ok(())
    }

    /// Accepts no more and keeps the sockets, whose queues are somebody else's.
    pub async fn leave(&self) {
        let tasks: Vec<Task> = {
            let mut all = self.all();
            all.accepts = false;
            all.open.iter_mut().filter_map(|open| open.task.take()).collect()
        };
        for task in tasks {
            task.end(Order::Leave).await;
        }
    }

    /// Closes all of them, once what waits in their queues is served, also for the service manager's next process. On those
    /// of a socket unit the manager goes on to listen: clients wait there.
    pub async fn close(&self) {
        for open in self.take_all() {
            if open.bound.held {
                warn!("{}: the service manager's socket unit still listens; clients wait", open.bound.name());
            }
            self.close_one(open).await;
        }
        self.all().settle_store();
    }

    /// The same at the end of the process, after which the service may begin anew with the sockets that are stored.
    pub async fn close_for_good(&self) {
        for open in self.take_all() {
            if let Some(task) = open.task {
                task.end(Order::Close).await;
            }
        }
    }

    /// Closes the descriptors of this process only: the sockets are another's, with their queues and their files.
    pub async fn forget(&self) {
        self.leave().await;
        self.all().open.clear();
    }

    fn take_all(&self) -> Vec<Open> {
        let mut all = self.all();
        all.accepts = false;
        std::mem::take(&mut all.open)
    }

    async fn close_one(&self, open: Open) {
        if let Some(task) = open.task {
            task.end(Order::Close).await;
        }
        let mut all = self.all();
        if open.bound.held {
            all.aside.put(open.bound);
        } else {
            all.store.unwanted.push(sockets::store_name(&open.bound.at));
        }
    }

    /// No other process may have to serve with what the service manager stores: from now on it stores what this one has.
    pub fn keep_sockets(&self) {
        let mut all = self.all();
        all.store.ours = true;
        all.settle_store();
    }

    /// Another descriptor of each socket, for a successor.
    pub(super) fn pass(&self) -> io::Result<Vec<Passed>> {
        let all = self.all();
        let open = all.open.iter().map(|open| {
            let Open { bound, .. } = open;
            let socket = bound.as_fd().try_clone_to_owned()?;
            Ok(Passed { name: sockets::store_name(&bound.at), held: bound.held, socket })
        });
        open.chain(all.aside.pass()).collect()
    }

    /// Asks the gateway something through all of it but the network: a connection of a socket pair is served as an
    /// accepted one, by the workers, and has to be answered.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn prove(&self, patience: Duration) -> Result<(), String> {
        let accepting = self.accepting.get().ok_or("the workers have not started")?;
        let asked = accepting.runtime.spawn(accepting.clone().ask_itself());
        match tokio::time::timeout(patience, asked).await {
            Ok(Ok(Ok(answer))) if answer.starts_with(PROOF) => Ok(()),
            Ok(Ok(Ok(other))) => {
                Err(format!("its answer to itself was {:?}", String::from_utf8_lossy(&other)))
            }
            Ok(Ok(Err(e))) => Err(format!("it cannot ask itself: {e}")),
            Ok(Err(e)) => Err(format!("asking itself failed: {e}")),
            Err(_) => Err(format!("it did not answer itself within {patience:?}")),
        }
    }

    /// The runtime that serves, once it does.
    pub(super) fn workers(&self) -> Option<Handle> {
        self.accepting.get().map(|accepting| accepting.runtime.clone())
    }

    /// What listens.
    pub fn names(&self) -> Vec<String> {
        self.all().open.iter().map(|open| open.bound.name()).collect()
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    /// Adds sockets, and tells each one how it is configured now: the first on an address is the first configured there.
    fn configure(&mut self, added: Vec<Bound>, configured: &[Arc<Listener>]) {
        let mut left: Vec<&Arc<Listener>> = configured.iter().collect();
        let mut take = |at: &Bind| {
            let place = left.iter().position(|listener| listener.at == *at)?;
            Some(Arc::clone(left.remove(place)))
        };
        for open in &self.open {
            let Some(listener) = take(&open.bound.at) else { continue };
            open.listener.store(listener);
        }
        for bound in added {
            let listener = take(&bound.at).expect("only what is configured is bound");
            self.open.push(Open { bound, listener: Arc::new(ArcSwap::new(listener)), task: None });
        }
    }

    fn addresses(&self) -> Vec<Bind> {
        self.open
            .iter()
            .map(|open| open.bound.address().map_or_else(|| open.bound.at.clone(), Bind::Tcp))
            .collect()
    }

    /// Sockets that come to nothing; the service manager's own may be wanted again.
    fn discard(&mut self, added: Vec<Bound>) {
        for bound in added {
            if bound.held {
                self.aside.put(bound);
            } else {
                bound.remove_file();
            }
        }
    }

    fn settle_store(&mut self) {
        if !self.store.ours {
            return;
        }
        let open: Vec<&Bound> = self.open.iter().map(|open| &open.bound).collect();
        let listens = |name: &String| open.iter().any(|bound| sockets::store_name(&bound.at) == *name);
        self.store.unwanted.retain(|name| !listens(name));
        systemd::forget(&self.store.unwanted);
        self.store.unwanted.clear();
        systemd::keep(&open);
    }
}

/// Those of the one list that are not in the other, which has each as often as it is listened on.
fn missing(these: &[Bind], those: &[Bind]) -> Vec<Bind> {
    let mut left = those.to_vec();
    let is_missing = |at: &&Bind| match left.iter().position(|other| other == *at) {
        Some(place) => {
            left.swap_remove(place);
            false
        }
        None => true,
    };
    these.iter().filter(is_missing).cloned().collect()
}

impl Task {
    async fn end(self, order: Order) {
        self.order.send_replace(order);
        let _ = self.done.await;
    }
}

impl Accepting {
    fn begin(&self, open: &Open) -> io::Result<Task> {
        let _within = self.runtime.enter();
        let acceptor = Acceptor::new(&open.bound)?;
        let order = watch::Sender::new(Order::Accept);
        let listener = Arc::clone(&open.listener);
        let done = self.runtime.spawn(accept_all(acceptor, listener, self.clone(), order.subscribe()));
        Ok(Task { order, done })
    }

    async fn ask_itself(self) -> io::Result<Vec<u8>> {
        let (mut ours, theirs) = UnixStream::pair()?;
        let listener = Arc::new(Listener {
            at: Bind::Unix(PathBuf::new()),
            protocols: Protocols::HTTP1,
            proxy_protocol: false,
            tls: None,
            terms: Arc::default(),
        });
        let itself = Arrival { socket: Socket::Unix(theirs), ends: Ends::default(), listener };
        self.serve(itself, self.shared.admit_itself());
        ours.write_all(QUESTION).await?;
        let mut answer = vec![0; PROOF.len()];
        ours.read_exact(&mut answer).await?;
        Ok(answer)
    }

    /// Serves a connection, or tells it that there is no room.
    fn greet(&self, arrival: Arrival) {
        match self.shared.admit(arrival.ends.address()) {
            Ok(ticket) => {
                self.shared.observed.totals.accepted.fetch_add(1, Ordering::Relaxed);
                self.serve(arrival, ticket);
            }
            Err(reject) => turn_away(&self.shared, &arrival, &reject),
        }
    }

    fn serve(&self, arrival: Arrival, ticket: Arc<Ticket>) {
        let (proxy, shared) = (Arc::clone(&self.proxy), Arc::clone(&self.shared));
        tokio::spawn(connection::serve(arrival, ticket, proxy, shared, self.draining.clone()));
    }
}

/// The Pingora service in whose runtime connections are served.
pub(super) struct Workers {
    listeners: Arc<Listeners>,
    proxy: Arc<HttpProxy<Proxy>>,
    shared: Arc<Shared>,
    draining: watch::Receiver<bool>,
    ready: Arc<Notify>,
}

impl Workers {
    /// Tells `ready` once connections can be served; accepting them is for the caller to begin.
    pub(super) fn new(
        listeners: Arc<Listeners>,
        proxy: Arc<HttpProxy<Proxy>>,
        shared: Arc<Shared>,
        draining: watch::Receiver<bool>,
        ready: Arc<Notify>,
    ) -> Self {
        Workers { listeners, proxy, shared, draining, ready }
    }
}

#[async_trait]
impl Service for Workers {
    async fn start_service(&mut self, _: Option<ListenFds>, mut shutdown: ShutdownWatch, _: usize) {
        let accepting = Accepting {
            runtime: Handle::current(),
            proxy: Arc::clone(&self.proxy),
            shared: Arc::clone(&self.shared),
            draining: self.draining.clone(),
        };
        let _ = self.listeners.accepting.set(accepting); // a service starts once
        self.ready.notify_one();
        let _ = shutdown.changed().await;
    }

    fn name(&self) -> &str {
        "listeners"
    }
}

async fn accept_all(
    mut acceptor: Acceptor,
    listener: Arc<ArcSwap<Listener>>,
    accepting: Accepting,
    mut order: watch::Receiver<Order>,
) {
    let arrived = |(socket, ends)| accepting.greet(Arrival { socket, ends, listener: listener.load_full() });
    loop {
        tokio::select! {
            accepted = acceptor.next() => arrived(accepted),
            ordered = order.wait_for(|order| *order != Order::Accept) => {
                if ordered.is_ok_and(|order| *order == Order::Close) {
                    while let Some(accepted) = acceptor.waiting() {
                        arrived(accepted);
                    }
                }
                return;
            }
        }
    }
}

/// One attempt to write, without a task: a flood must cost less than what it displaces.
fn turn_away(shared: &Shared, arrival: &Arrival, reject: &Reject) {
    let id = crate::proxy::ctx::new_id();
    let answer = failure::raw_answer(reject, id.to_str().unwrap_or_default());
    if arrival.listener.tls.is_none() {
        let _ = arrival.socket.try_write(&answer);
    }
    connection::tell(shared, reject, id.as_bytes(), arrival.ends.address(), b"", Exchange::default());
}
