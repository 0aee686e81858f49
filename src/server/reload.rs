//! Reload: the configuration file of the start is read again, and serves whole or not at all.
//!
//! The new file is loaded and compiled beside the running snapshot; upstreams that are new or configured otherwise
//! are resolved and checked; only then one pointer is swapped. Requests in flight end on the snapshot they began with,
//! the next ones on every connection, kept or new, get the new one. Upstreams that stay as they are configured are
//! the same objects in both, with their balancer, health and names.
//!
//! Refused, with the old snapshot serving on: a file that cannot be read or has an error; a change of what the process
//! is built with ([`Settings`]), with the key that changed; everything once the process is leaving. The pool of
//! idle upstream connections is the exception: its size follows from the upstreams, which may come and go, so it
//! stays what it was and the log says so.
//!
//! Anybody may ask by [`Reloads::request`], from any thread; the reload itself runs in the background service alone,
//! one at a time. Requests that come while one runs are one more reload after it, which reads the file anew: the last
//! word wins, and no word is lost.

use super::background::{prepare, Upkeep};
use super::{fit_descriptors, processors, Shared};
use crate::config::load::LoadError;
use crate::config::{self, Compiled};
use crate::error::ConfigError;
use crate::gateway::{Bind, Gateway, Settings};
use crate::upstream::Upstream;
use log::{error, info, warn};
use std::collections::HashMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Asks for reloads and carries them out.
pub struct Reloads {
    file: Option<PathBuf>,
    running: Settings,
    shared: Arc<Shared>,
    /// Holds one request at most: many before a reload begins are one.
    asked: Notify,
}

/// Why nothing changed, one line each, as `check` prints them.
type Refused = Vec<String>;

/// What a reload did.
struct Done {
    generation: u64,
    routes: usize,
    upstreams: usize,
    new: usize,
    removed: usize,
    took: Duration,
}

impl Reloads {
    /// Reloads of this file into `shared`, for a process that was built with these settings. Without a file there is
    /// nothing to reload.
    pub(super) fn new(file: Option<PathBuf>, running: Settings, shared: Arc<Shared>) -> Self {
        Reloads { file, running, shared, asked: Notify::new() }
    }

    /// Asks for a reload; returns at once.
    pub fn request(&self) {
        self.asked.notify_one();
    }

    /// Carries out what is asked for, for ever.
    pub(super) async fn serve(&self, upkeep: &mut Upkeep) {
        loop {
            self.asked.notified().await;
            let Some(file) = &self.file else {
                warn!("nothing to reload: the configuration came from no file");
                continue;
            };
            match self.reload(file, upkeep).await {
                Ok(Done { generation, routes, upstreams, new, removed, took }) => info!(
                    "reloaded {}: generation {generation}, routes: {routes}, upstreams: {upstreams} ({new} new, \
                     {removed} removed), in {took:.1?}",
                    file.display()
                ),
                Err(reasons) => {
                    reasons.iter().for_each(|reason| error!("{reason}"));
                    let generation = self.shared.gateway.load().generation;
                    error!("{} not reloaded: generation {generation} goes on", file.display());
                }
            }
        }
    }

    async fn reload(&self, file: &Path, upkeep: &mut Upkeep) -> Result<Done, Refused> {
        let started = Instant::now();
        let old = self.shared.gateway.load_full();
        let Compiled { mut gateway, settings, routes } = load(file, &old).await?;
        self.needs_no_restart(file, &settings)?;
        fit_descriptors(&mut gateway.limits);
        gateway.generation = old.generation + 1;
        let new = not_in(&gateway.upstreams, &old.upstreams);
        if !prepare(&new, &gateway.resolver).await {
            return Err(vec!["an upstream could not be prepared".to_owned()]);
        }
        if self.shared.farewell.is_leaving() {
            return Err(vec!["the process is leaving".to_owned()]);
        }
        self.mind_the_pool(&settings);
        let removed = not_in(&old.upstreams, &gateway.upstreams).len();
        let (generation, upstreams) = (gateway.generation, gateway.upstreams.len());
        let gateway = Arc::new(gateway);
        self.shared.gateway.store(Arc::clone(&gateway));
        upkeep.follow(&gateway.upstreams);
        Ok(Done { generation, routes, upstreams, new: new.len(), removed, took: started.elapsed() })
    }

    fn needs_no_restart(&self, file: &Path, asked: &Settings) -> Result<(), Refused> {
        let mut refused = Vec::new();
        let mut refuse = |key: &str, now: &dyn Display, then: &dyn Display| {
            let message = format!("a change needs a restart; it is {now} now and would be {then}");
            let (file, path) = (file.display().to_string().into(), key.to_owned());
            refused.push(ConfigError { file, line: 0, column: 0, path, message }.to_string());
        };
        let (now, then) = (listed(&self.running.listeners), listed(&asked.listeners));
        if now != then {
            refuse("listeners", &now, &then);
        }
        // Left out it is what it was, even if the process may use other processors meanwhile.
        let now = self.running.threads.unwrap_or_else(processors);
        let then = asked.threads.unwrap_or(now);
        if now != then {
            refuse("threads", &now, &then);
        }
        if refused.is_empty() {
            Ok(())
        } else {
            Err(refused)
        }
    }

    fn mind_the_pool(&self, asked: &Settings) {
        let (now, asked) = (self.running.pool, asked.pool);
        if asked > now {
            info!("keepalive.pool: {now} idle upstream connections are kept, and {asked} after a restart");
        }
    }
}

/// Reads and compiles, where it keeps nobody waiting.
async fn load(file: &Path, old: &Arc<Gateway>) -> Result<Compiled, Refused> {
    let (file, old) = (file.to_owned(), Arc::clone(old));
    let loaded = tokio::task::spawn_blocking(move || config::load_over(&file, &old.upstreams)).await;
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

/// In one order, whatever that of the file is.
fn listed(listeners: &[Bind]) -> String {
    let mut all: Vec<String> = listeners.iter().map(ToString::to_string).collect();
    all.sort();
    all.join(", ")
}
