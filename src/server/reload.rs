//! Reload: the configuration file of the start is read again, and serves whole or not at all.
//!
//! The new file is loaded and compiled beside the running snapshot; upstreams that are new or configured otherwise
//! are resolved and checked; only then one pointer is swapped. Requests in flight end on the snapshot they began with,
//! the next ones on every connection, kept or new, get the new one. Upstreams that stay as they are configured are
//! the same objects in both, with their balancer, health and names.
//!
//! Listeners that are new are bound before anything changes, and accepted from once the new snapshot serves; those that are
//! gone are closed after that, when what waits in their queues has been accepted.
//!
//! Refused, with the old snapshot serving on: a file that cannot be read or has an error; an address that cannot be
//! listened on; a change of what else the process is built with ([`Settings`]), with the key that changed; everything once
//! the process is leaving. The pool of idle upstream connections is the exception: its size follows from the
//! upstreams, which may come and go, so it stays what it was and the log says so.
//!
//! Anybody may ask, from any thread; the reload itself runs in the background service alone, one at a time. Who asks while
//! one runs gets one more after it, which reads the file anew: the last word wins, and no word is lost.

use super::background::{prepare, provide, Upkeep};
use super::door::Door;
use super::listen::Listeners;
use super::systemd;
use super::{fit_descriptors, processors, Shared};
use crate::base::identity::Identity;
use crate::config::load::LoadError;
use crate::config::{self, Compiled};
use crate::error::ConfigError;
use crate::gateway::{Gateway, Listener, Settings};
use crate::observe::Observed;
use crate::upstream::Upstream;
use log::{error, info};
use std::collections::HashMap;
use std::fmt::Display;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, Notify};
use tokio::time::sleep;

/// How often it is looked whether the file has changed, and whether an old snapshot is still in use.
const LOOK: Duration = Duration::from_secs(1);
/// For how long a changed file must stay as it is.
const SETTLED: Duration = Duration::from_millis(300);

/// How long opening a file may take.
const PATIENCE: Duration = Duration::from_secs(5);

const LEAVING: &str = "the gateway takes no connections now: it is drained, replaced or leaving";

/// Asks for reloads and carries them out.
pub struct Reloads {
    file: Option<PathBuf>,
    running: Mutex<Settings>,
    listeners: Arc<Listeners>,
    door: Arc<Door>,
    shared: Arc<Shared>,
    /// Who waits for the next reload; many before it begins are one.
    waiting: Mutex<Vec<oneshot::Sender<Outcome>>>,
    asked: Notify,
    /// Held while a reload changes things, and while they must not change.
    turn: tokio::sync::Mutex<()>,
    /// The file as it was when this process read it.
    read: Option<Identity>,
}

/// Why nothing changed, one line each, as `check` prints them.
#[derive(Debug, Clone)]
pub(super) enum Refused {
    /// The file is wrong, or its listeners cannot be bound.
    Wrong(Vec<String>),
    /// What changed is what a process is built with.
    NeedsNewProcess(Vec<String>),
}

/// What a reload did, in a line.
type Outcome = Result<String, Refused>;

impl Reloads {
    /// Reloads of this file into `shared`, for a process that was built with these settings. Without a file there is
    /// nothing to reload.
    pub(super) fn new(
        file: Option<PathBuf>,
        running: Settings,
        listeners: Arc<Listeners>,
        door: Arc<Door>,
        shared: Arc<Shared>,
    ) -> Self {
        Reloads {
            read: file.as_deref().and_then(Identity::of),
            file,
            running: Mutex::new(running),
            listeners,
            door,
            shared,
            waiting: Mutex::default(),
            asked: Notify::new(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Asks for a reload and waits until one that began after this is over.
    pub(super) async fn ask(&self) -> Outcome {
        let (to, outcome) = oneshot::channel();
        lock(&self.waiting).push(to);
        self.asked.notify_one();
        let ended = || Refused::Wrong(vec!["the process ended first".to_owned()]);
        outcome.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Waits for a reload that is under way; as long as the guard lives there is none.
    pub(super) async fn none(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Carries out what is asked for, for ever.
    pub(super) async fn serve(&self, upkeep: &mut Upkeep) {
        loop {
            self.asked.notified().await;
            let waiting = std::mem::take(&mut *lock(&self.waiting));
            let outcome = {
                let _turn = self.turn.lock().await;
                self.reload(upkeep).await
            };
            if outcome.is_err() {
                self.reopen_log().await;
            }
            self.tell(&outcome);
            for one in waiting {
                let _ = one.send(outcome.clone()); // who asked may be gone
            }
        }
    }

    /// Whoever has moved the log's file wants it made anew whatever else is wrong, and may do anything with the old one once
    /// the reload is over. A disk that hangs is not waited for.
    async fn reopen_log(&self) {
        let gateway = self.shared.gateway.load_full();
        let reopened = tokio::task::spawn_blocking(move || gateway.access_log.reopen());
        if tokio::time::timeout(PATIENCE, reopened).await.is_err() {
            error!("the access log could not be opened anew within {PATIENCE:?}");
        }
    }

    /// What is counted and noted.
    pub(super) fn observed(&self) -> Arc<Observed> {
        Arc::clone(&self.shared.observed)
    }

    fn tell(&self, outcome: &Outcome) {
        let observed = &self.shared.observed;
        observed.totals.reloaded(outcome.is_ok());
        match outcome {
            Ok(done) => {
                info!("{done}");
                systemd::status(done);
                observed.journal.event("reload", true, done.clone());
            }
            Err(Refused::Wrong(reasons) | Refused::NeedsNewProcess(reasons)) => {
                reasons.iter().for_each(|reason| error!("{reason}"));
                let gateway = self.shared.gateway.load();
                error!("{} not reloaded: generation {} goes on", self.source(), gateway.generation);
                observed.journal.event("reload", false, reasons.join("\n"));
            }
        }
    }

    /// Follows the file and asks for a reload when another one is in its place or it was written to, for ever; only while
    /// the configuration that serves wants it.
    ///
    /// By looking, since that sees every way in which a file is changed: written over, swapped by rename, or, as Kubernetes
    /// does, by a symbolic link in the middle of its path.
    pub(super) async fn watch(&self) {
        let Some(file) = &self.file else { return pending().await };
        let mut seen = self.read;
        loop {
            sleep(LOOK).await;
            let mut now = Identity::of(file);
            // A file that is away for a moment is about to be another one; and what would be refused now is not seen yet.
            let refused = self.shared.farewell.is_leaving();
            if now == seen || now.is_none() || refused || !self.shared.gateway.load().watch {
                continue;
            }
            // Whoever writes it may not be done.
            loop {
                sleep(SETTLED).await;
                let later = Identity::of(file);
                if std::mem::replace(&mut now, later) == later {
                    break;
                }
            }
            seen = now;
            info!("{} has changed", file.display());
            let _ = self.ask().await; // it has been logged
        }
    }

    fn source(&self) -> String {
        self.file.as_ref().map_or_else(|| "the demo".to_owned(), |file| file.display().to_string())
    }

    async fn reload(&self, upkeep: &mut Upkeep) -> Outcome {
        let wrong = |reason: &str| Refused::Wrong(vec![reason.to_owned()]);
        let Some(file) = &self.file else {
            return Err(wrong("nothing to reload: the configuration came from no file"));
        };
        let started = Instant::now();
        let old = self.shared.gateway.load_full();
        let Compiled { mut gateway, settings, routes, .. } =
            load(file, &old).await.map_err(Refused::Wrong)?;
        self.needs_no_new_process(file, &settings)?;
        let looked_at = gateway.admin.as_ref().map(|admin| &admin.address);
        let moved = self.door.prepare(looked_at, &self.listeners).map_err(|e| wrong(&e.0))?;
        let change = match self.listeners.prepare(&gateway.binds(), self.door.whereabouts().as_ref()) {
            Ok(change) => change,
            Err(e) => {
                self.door.revoke(moved, &self.listeners);
                return Err(wrong(&e.0));
            }
        };
        fit_descriptors(&mut gateway.limits);
        gateway.generation = old.generation + 1;
        let new = not_in(&gateway.upstreams, &old.upstreams);
        let (prepared, ()) = tokio::join!(prepare(&new, &gateway.resolver), provide(&gateway.providers));
        let usable = match (prepared, self.shared.farewell.is_leaving()) {
            (false, _) => Err("an upstream could not be prepared".to_owned()),
            (true, true) => Err(LEAVING.to_owned()),
            // Last, so that nothing is left of it if something else is refused.
            (true, false) => open_log(gateway, &old).await,
        };
        let gateway = match usable {
            Ok(gateway) => gateway,
            Err(reason) => {
                self.listeners.revoke(change);
                self.door.revoke(moved, &self.listeners);
                return Err(wrong(&reason));
            }
        };
        self.mind_the_pool(&settings);
        let removed = not_in(&old.upstreams, &gateway.upstreams).len();
        let (generation, upstreams) = (gateway.generation, gateway.upstreams.len());
        let gateway = Arc::new(gateway);
        let cautious = Arc::clone(&gateway);
        let caution = move || cautious.upstreams.iter().for_each(|upstream| upstream.caution());
        let _ = tokio::task::spawn_blocking(caution).await; // it may read files; words are all that is lost
                                                            // Before the routes: a connection that was made under weaker rules must not get at a route that is new.
        gateway.listeners.iter().filter_map(|listener| listener.tls.as_ref()).for_each(|tls| tls.take_over());
        supersede(&old.listeners, &gateway.listeners);
        self.shared.gateway.store(Arc::clone(&gateway));
        self.door.commit(moved, &self.listeners);
        upkeep.follow(&gateway);
        let (added, closed) = self.listeners.commit(change, &gateway.listeners).await;
        let listeners = match (added, closed) {
            (0, 0) => String::new(),
            (added, closed) => format!(", listeners: {added} new, {closed} removed"),
        };
        tokio::spawn(retire(old));
        let (source, new, took) = (self.source(), new.len(), started.elapsed());
        let done = format!(
            "reloaded {source}: generation {generation}, routes: {routes}, upstreams: {upstreams} ({new} new, \
             {removed} removed){listeners}, in {took:.1?}"
        );
        Ok(done)
    }

    fn needs_no_new_process(&self, file: &Path, asked: &Settings) -> Result<(), Refused> {
        let mut refused = Vec::new();
        let mut refuse = |key: &str, now: &dyn Display, then: &dyn Display| {
            let message = format!(
                "a change needs a new process (upgrade or restart); it is {now} now and would be {then}"
            );
            let (file, path) = (file.display().to_string().into(), key.to_owned());
            refused.push(ConfigError { file, line: 0, column: 0, path, message }.to_string());
        };
        let running = lock(&self.running);
        // Left out it is what it was, even if the process may use other processors meanwhile.
        let now = running.threads.unwrap_or_else(processors);
        let then = asked.threads.unwrap_or(now);
        if now != then {
            refuse("threads", &now, &then);
        }
        if running.control != asked.control {
            let shown = |socket: &Option<PathBuf>| {
                socket.as_ref().map_or_else(|| "left out".to_owned(), |path| path.display().to_string())
            };
            refuse("control.socket", &shown(&running.control), &shown(&asked.control));
        }
        if refused.is_empty() {
            Ok(())
        } else {
            Err(Refused::NeedsNewProcess(refused))
        }
    }

    fn mind_the_pool(&self, asked: &Settings) {
        let (now, asked) = (lock(&self.running).pool, asked.pool);
        if asked > now {
            info!("keepalive.pool: {now} idle upstream connections are kept, and {asked} after an upgrade or a restart");
        }
    }
}

/// Connections in plain text have no place where TLS is spoken now, nor the other way round.
fn supersede(old: &[Arc<Listener>], new: &[Arc<Listener>]) {
    for old in old {
        let tls = |listener: &Arc<Listener>| listener.tls.is_some();
        let mut here = new.iter().filter(|new| new.at == old.at).peekable();
        if here.peek().is_some() && here.all(|new| tls(new) != tls(old)) {
            old.terms.end();
        }
    }
}

/// Lets go of a snapshot once nobody else has it: to free thousands of routes takes milliseconds, which are not to be those
/// of the request that happens to end last.
async fn retire(old: Arc<Gateway>) {
    while Arc::strong_count(&old) > 1 {
        sleep(LOOK).await;
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the log of a new configuration, where it keeps nobody waiting.
async fn open_log(gateway: Gateway, old: &Arc<Gateway>) -> Result<Gateway, String> {
    let old = Arc::clone(old);
    let opened =
        tokio::task::spawn_blocking(move || gateway.access_log.open(Some(&old.access_log)).map(|()| gateway));
    match tokio::time::timeout(PATIENCE, opened).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(e)) => Err(format!("opening the access log failed: {e}")),
        Err(_) => Err(format!("the access log could not be opened within {PATIENCE:?}")),
    }
}

/// Reads and compiles, where it keeps nobody waiting.
async fn load(file: &Path, old: &Arc<Gateway>) -> Result<Compiled, Vec<String>> {
    let (file, old) = (file.to_owned(), Arc::clone(old));
    let loaded = tokio::task::spawn_blocking(move || config::load_over(&file, Some(&old))).await;
    match loaded {
        Ok(Ok(compiled)) => Ok(compiled),
        Ok(Err(LoadError::Unreadable(message))) => Err(vec![message]),
        Ok(Err(LoadError::Invalid(errors))) => Err(errors.iter().map(ToString::to_string).collect()),
        Err(e) => Err(vec![format!("reading the configuration failed: {e}")]),
    }
}

/// Those of the one list that are not the very same in the other.
fn not_in(these: &[Arc<Upstream>], those: &[Arc<Upstream>]) -> Vec<Arc<Upstream>> {
    let those: HashMap<&str, &Arc<Upstream>> = those.iter().map(|u| (&**u.name(), u)).collect();
    let is_there = |u: &&Arc<Upstream>| those.get(&**u.name()).is_some_and(|other| Arc::ptr_eq(u, other));
    these.iter().filter(|u| !is_there(u)).cloned().collect()
}
