//! Keeps a provider's keys: fetched again and again, or read when their file changes. What cannot be had or is no key set
//! changes nothing; the last good one stays, however old, and the log and a metric say so.
//!
//! Nothing here is on the way of a request but one thing: a token whose key is unknown has the set fetched at once, unless
//! that was done for another one within `cooldown`, and waits for it, but not for long. So a provider that changes its
//! keys is followed, and strangers with made-up names of keys make it be asked once in that time, all of them together.

use super::provider::{now, Known};
use super::{Fetch, KeySet, Provider, Source};
use crate::auth::forward::connect::{told, Connector};
use crate::base::identity::Identity;
use crate::base::trouble::plain;
use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use log::{info, warn};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{watch, Notify};
use tokio::time::{sleep, sleep_until, timeout, Instant};

/// How long a request waits for new keys at most.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a file is looked at; a change is taken up at the second look at it.
const LOOK: Duration = Duration::from_secs(1);
/// From the first failure to the next attempt; doubled with each, up to the second of these or to `refresh`.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// The most that a file of keys has.
const MOST_IN_FILE: u64 = 1 << 20;
/// Who asks.
const NAME: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"));

type Caller = Client<Connector, Empty<Bytes>>;

/// What is going on about the keys.
#[derive(Default)]
pub(super) struct Upkeep {
    caller: OnceLock<Caller>,
    /// Has the task fetch at once.
    wish: Notify,
    /// How many wishes have been fulfilled, or have failed.
    done: watch::Sender<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When a request had keys fetched last.
    wished: Option<Instant>,
    /// That has not been done yet.
    pending: bool,
    /// Failures in a row.
    failures: u32,
    /// When the keys are fetched next.
    next: Option<Instant>,
    /// The file as it was read, and as it was seen last.
    file: [Option<Identity>; 2],
}

impl Upkeep {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Provider {
    /// Has keys if they can be had now; waits for no longer than `timeout` says.
    pub async fn prepare(&self) {
        match &self.settings.source {
            Source::Url(fetch) if self.keys.load().is_none() => self.fetch(fetch).await,
            Source::File(path, _) => self.look(path).await,
            Source::Url(_) | Source::Secret(_) => {}
        }
    }

    /// Keeps its keys, for ever.
    pub async fn keep(&self) {
        if self.upkeep.state().pending {
            self.upkeep.wish.notify_one(); // a wish that came to nothing with the task before this one
        }
        match &self.settings.source {
            Source::Secret(_) => std::future::pending().await,
            Source::File(path, _) => loop {
                self.look(path).await;
                sleep(LOOK).await;
            },
            Source::Url(fetch) => loop {
                let next = self.upkeep.state().next.unwrap_or_else(Instant::now);
                let is_wish = tokio::select! {
                    () = sleep_until(next) => false,
                    () = self.upkeep.wish.notified() => true,
                };
                self.fetch(fetch).await;
                if is_wish {
                    self.upkeep.state().pending = false;
                    self.upkeep.done.send_modify(|count| *count += 1);
                }
            },
        }
    }

    /// Has the keys fetched for a token whose key is unknown, and waits for that, unless it has just been done.
    pub(super) async fn refreshed(&self) {
        let Source::Url(fetch) = &self.settings.source else { return };
        let mut done = self.upkeep.done.subscribe();
        {
            let mut state = self.upkeep.state();
            let rested = state.wished.is_none_or(|at| at.elapsed() >= fetch.cooldown);
            if rested && !state.pending {
                (state.wished, state.pending) = (Some(Instant::now()), true);
                self.upkeep.wish.notify_one();
            } else if !state.pending {
                return;
            }
        }
        let _ = timeout(PATIENCE, done.changed()).await; // whatever came of it, the keys say
    }

    async fn fetch(&self, fetch: &Fetch) {
        let got = timeout(fetch.timeout, self.get(fetch)).await;
        let got = got.unwrap_or_else(|_| Err(format!("no answer within {:?}", fetch.timeout)));
        let set = got.and_then(|bytes| KeySet::parse(&bytes, &self.settings.algorithms, false));
        let pause = {
            let mut state = self.upkeep.state();
            state.failures = if set.is_ok() { 0 } else { state.failures.saturating_add(1) };
            match state.failures {
                0 => fetch.refresh.mul_f64(1.0 - 0.1 * fastrand::f64()), // gateways that began together do not stay so
                failures => {
                    AGAIN[0].saturating_mul(1 << (failures - 1).min(10)).min(AGAIN[1]).min(fetch.refresh)
                }
            }
        };
        self.upkeep.state().next = Some(Instant::now() + pause);
        self.settle(set, &fetch.shown());
    }

    async fn get(&self, fetch: &Fetch) -> Result<Bytes, String> {
        let caller = self.upkeep.caller.get_or_init(|| {
            let connector = Connector::new(fetch.authorities.clone());
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)
        });
        let authority = fetch.url.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let mut asked = Request::new(Empty::new());
        *asked.uri_mut() = fetch.url.clone();
        let fields = asked.headers_mut();
        fields.insert(HOST, HeaderValue::from_str(authority).map_err(|e| e.to_string())?);
        fields.insert(ACCEPT, HeaderValue::from_static("application/jwk-set+json, application/json"));
        fields.insert(USER_AGENT, HeaderValue::from_static(NAME));
        let answer = caller.request(asked).await.map_err(|e| told(&e))?;
        if answer.status() != StatusCode::OK {
            return Err(format!("it answers {}", answer.status().as_u16())); // a redirect is no key set either
        }
        let body = Limited::new(answer.into_body(), fetch.max_size).collect().await;
        Ok(body.map_err(|e| format!("its answer: {e}"))?.to_bytes())
    }

    /// Reads a file that has changed and is not being written to any more.
    async fn look(&self, path: &Path) {
        let (path, algorithms) = (path.to_owned(), self.settings.algorithms.clone());
        let [read, before] = self.upkeep.state().file;
        let shown = path.display().to_string();
        let looked = tokio::task::spawn_blocking(move || {
            let seen = Identity::of(&path);
            let is_new = seen.is_some() && seen != read && (seen == before || read.is_none());
            (seen, is_new.then(|| bounded(&path).and_then(|text| KeySet::parse(&text, &algorithms, true))))
        });
        let Ok((seen, set)) = looked.await else { return };
        let gone = seen.is_none() && before.is_some();
        let was_good = {
            let mut state = self.upkeep.state();
            state.file = [if set.is_some() { seen } else { read }, seen];
            if let Some(set) = &set {
                state.failures = u32::from(set.is_err());
            }
            state.failures == 0
        };
        match set {
            Some(set) => self.settle(set, &shown),
            None if gone => self.settle(Err("it is gone".to_owned()), &shown),
            None if seen.is_some() && seen == read && was_good => self.stats.seen.store(now(), Relaxed),
            None => {}
        }
    }

    /// Takes up a set, or says why not.
    fn settle(&self, set: Result<KeySet, String>, from: &dyn std::fmt::Display) {
        let name = self.name();
        self.stats.attempts.fetch_add(1, Relaxed);
        let set = match set {
            Ok(set) => set,
            Err(why) => {
                let failures = self.stats.failures.fetch_add(1, Relaxed) + 1;
                let row = self.upkeep.state().failures.max(1);
                if !row.is_power_of_two() && failures > 1 {
                    return; // said often enough
                }
                let age = now() - self.stats.seen.load(Relaxed);
                match self.keys.load().is_some() {
                    true => warn!("provider {name}: no keys from {from}: {why}; those of {age}s ago stay in use"),
                    false => warn!("provider {name}: no keys from {from}: {why}; until there are some, nobody comes in by it"),
                }
                return;
            }
        };
        self.stats.seen.store(now(), Relaxed);
        let known = self.keys.load();
        if known.as_ref().is_some_and(|known| known.set.is(&set)) {
            return;
        }
        info!("provider {name}: {} keys from {from}", set.len());
        set.flaws().iter().for_each(|flaw| warn!("provider {name}: {from}: {flaw}"));
        self.keys.store(Some(Arc::new(Known::new(Arc::new(set)))));
    }
}

fn bounded(path: &Path) -> Result<Vec<u8>, String> {
    let file = std::fs::File::open(path).map_err(|e| plain(&e))?;
    let mut bytes = Vec::new();
    file.take(MOST_IN_FILE + 1).read_to_end(&mut bytes).map_err(|e| plain(&e))?;
    if bytes.len() as u64 > MOST_IN_FILE {
        return Err("larger than 1 MiB".to_owned());
    }
    // As `${file:…}` and the first reading have it, so that both have one fingerprint.
    let end = bytes.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |at| at + 1);
    bytes.truncate(end);
    Ok(bytes)
}
