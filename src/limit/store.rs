//! The Redis (or Valkey) in which several gateways count together, and what happens when it is slow or gone.
//!
//! ```text
//!            connected, and it has answered
//!   +----> up ------------------------------+
//!   |       |  no answer in time, an error,  |
//!   |       v  a broken connection           |
//!   +---- down: nobody waits; the background asks again, or connects anew, after growing pauses
//! ```
//!
//! A request asks by one script, which the server runs as a whole: one round trip for all limits of the request, over one
//! connection that all requests share. Where the answer does not come within the timeout, or is an error, the store is down
//! from that moment: this request and all after it are counted here, each limit within this gateway's share of it, until it
//! answers in time again. That is said once in the log, and in metrics.
//!
//! What that can cost: while all gateways are cut off they let through together what the limit is (each its share of rate and
//! burst); with `gateways` set too low they let through more. Each change from one count to the other can let one more burst
//! through, because neither knows all that was taken by the other (what a gateway gets of the store it notes in its own
//! share too, so that it goes on from there): `rate · t + burst · (1 + changes)` at most in a time `t`. A
//! gateway that alone is cut off has its share besides what the others count together.
//!
//! In a cluster all keys of one caller lie on one node (their braces say so); limits that tell callers apart by other things
//! lie on others. They are asked at the same time, and what was taken is given back if another one refuses: for one round
//! trip more is taken then than should be.

use super::key::Caller;
use super::link::{Call, Link};
use super::sync::Pending;
use super::table::{Key, Taken};
use super::{Base, Limit};
use arc_swap::ArcSwapOption;
use futures_util::future::join_all;
use log::{info, warn};
use redis::{ConnectionInfo, IntoConnectionInfo};
use smallvec::SmallVec;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::{interval, sleep, timeout, MissedTickBehavior};

/// The pause before it is tried again, and what that grows to while it fails.
const PAUSES: [Duration; 2] = [Duration::from_millis(5), Duration::from_secs(1)];
/// The longest of them before a connection is asked again that was late, but is there.
const MOMENT: Duration = Duration::from_millis(100);
/// How long it must have answered for the next pause to be the first again.
const CALM: Duration = Duration::from_secs(2);
/// How often it is asked whether it is there, when nobody asks anything else; and how long that may take.
const BEAT: Duration = Duration::from_millis(500);
/// How long connecting may take, with everything that belongs to it.
const CONNECT: Duration = Duration::from_secs(1);

/// Where it is, as a URL that may hold a password.
#[derive(Clone)]
pub struct Endpoint {
    url: Box<str>,
    info: ConnectionInfo,
}

impl Endpoint {
    /// `redis://[user[:password]@]host[:port][/db]`, `rediss://` for TLS, `unix:/path`.
    ///
    /// # Errors
    /// What to write instead; nothing of the URL is in it.
    pub fn parse(url: &str) -> Result<Endpoint, String> {
        const FORM: &str = "expected redis://host:port, or rediss://host:port for TLS";
        let known = ["redis://", "rediss://", "valkey://", "valkeys://", "unix:"];
        if !known.iter().any(|scheme| url.starts_with(scheme)) {
            return Err(FORM.to_owned());
        }
        let info = url.into_connection_info().map_err(|_| FORM.to_owned())?;
        Ok(Endpoint { url: url.into(), info })
    }

    /// Whether TLS is spoken.
    pub fn is_secure(&self) -> bool {
        matches!(self.info.addr(), redis::ConnectionAddr::TcpTls { .. })
    }

    /// Whether it is a Unix socket.
    pub fn is_socket(&self) -> bool {
        matches!(self.info.addr(), redis::ConnectionAddr::Unix(_))
    }

    pub(super) fn info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl PartialEq for Endpoint {
    fn eq(&self, other: &Endpoint) -> bool {
        self.url == other.url
    }
}

impl Eq for Endpoint {}

/// Host and port alone.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.info.addr())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What is at these addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// One server, at one of them: the first that can be reached.
    Single,
    /// Some nodes of a cluster.
    Cluster,
    /// Sentinels that know the server of this name.
    Sentinel(Box<str>),
}

/// A store as configured.
#[derive(Clone, PartialEq, Eq)]
pub struct Spec {
    /// Where it is; at least one, all with TLS or none.
    pub endpoints: Vec<Endpoint>,
    /// What is there.
    pub mode: Mode,
    /// Who the gateway is there, where the URL does not say so.
    pub username: Option<Box<str>>,
    /// And proves it with.
    pub password: Option<Box<str>>,
    /// Who has issued its certificate, as PEM; else the system's authorities.
    pub ca: Option<Box<str>>,
    /// The gateway's own certificate and key, as PEM.
    pub client: Option<(Box<str>, Box<str>)>,
    /// How long a request waits.
    pub timeout: Duration,
    /// How many gateways count there: what one of them may let through alone is that part.
    pub gateways: u32,
    /// What its keys begin with; no braces.
    pub prefix: Box<str>,
    /// How often counts are exchanged; none: with each request.
    pub sync: Option<Duration>,
}

impl fmt::Debug for Spec {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spec { endpoints, mode, timeout, gateways, prefix, sync, .. } = self;
        f.debug_struct("Spec")
            .field("endpoints", endpoints)
            .field("mode", mode)
            .field("timeout", timeout)
            .field("gateways", gateways)
            .field("prefix", prefix)
            .field("sync", sync)
            .finish_non_exhaustive()
    }
}

/// What has become of asking it.
#[derive(Debug, Default)]
pub struct StoreCounts {
    /// Requests that it has decided.
    pub asked: AtomicU64,
    /// Requests that were decided here, to be told to it later.
    pub ahead: AtomicU64,
    /// Requests that were decided here because it was down.
    pub fallbacks: AtomicU64,
    /// How often it went down.
    pub outages: AtomicU64,
}

/// Who counts for all gateways.
pub struct Store {
    spec: Spec,
    pub(super) base: Arc<Base>,
    /// Only while it is up.
    link: ArcSwapOption<Link>,
    lost: Notify,
    said: AtomicU8,
    pub(super) pending: Pending,
    counts: StoreCounts,
}

// What has been said of it last.
const NOTHING: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

impl Store {
    pub(super) fn new(spec: Spec, base: Arc<Base>) -> Store {
        Store {
            spec,
            base,
            link: ArcSwapOption::empty(),
            lost: Notify::new(),
            said: AtomicU8::new(NOTHING),
            pending: Pending::default(),
            counts: StoreCounts::default(),
        }
    }

    /// What it was made of.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Whether counts are exchanged at intervals only.
    pub(super) fn counts_ahead(&self) -> bool {
        self.spec.sync.is_some()
    }

    /// Whether it answers.
    pub fn is_up(&self) -> bool {
        self.link.load().is_some()
    }

    /// What has become of asking it.
    pub fn counts(&self) -> &StoreCounts {
        &self.counts
    }

    /// Keeps the connection, for ever: the one background task, for a runtime with time and I/O. It may be dropped at any
    /// time and run again.
    pub async fn run(self: Arc<Self>) {
        let (mut pause, mut kept) = (PAUSES[0], None);
        loop {
            match self.answering(kept.take()).await {
                Ok(link) => {
                    let since = Instant::now();
                    self.link.store(Some(Arc::clone(&link)));
                    self.say(UP, "");
                    self.keep(&link).await;
                    if since.elapsed() > CALM {
                        pause = PAUSES[0];
                    }
                    kept = Some(link); // it may only have been slow for a moment
                }
                Err(e) => self.say(DOWN, &e),
            }
            sleep(if kept.is_some() { pause.min(MOMENT) } else { pause }).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
    }

    /// The connection there was, or a new one, if it answers as fast as requests need it to.
    async fn answering(&self, kept: Option<Arc<Link>>) -> Result<Arc<Link>, String> {
        let in_time = async |link: &Link| matches!(timeout(self.spec.timeout, link.ping()).await, Ok(Ok(())));
        if let Some(kept) = kept {
            if in_time(&kept).await {
                return Ok(kept);
            }
        }
        let connecting = timeout(CONNECT, Link::connect(&self.spec)).await;
        let link = connecting.unwrap_or_else(|_| Err("no answer within a second".to_owned()))?;
        if in_time(&link).await {
            return Ok(Arc::new(link));
        }
        Err(format!("it answers, but not within {:?}", self.spec.timeout))
    }

    /// Waits until it is known whether it is there, for as long as connecting may take.
    pub async fn settle(&self) {
        let end = Instant::now() + CONNECT;
        while self.said.load(Relaxed) == NOTHING && Instant::now() < end {
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Asks for these limits; none: it is down, and has to be counted here.
    pub(super) async fn take(
        &self,
        limits: &[Arc<Limit>],
        keys: &[Key],
        caller: &Caller<'_>,
        prefix: u8,
        now: u64,
    ) -> Option<Taken> {
        let Some(link) = self.link.load_full() else {
            self.counts.fallbacks.fetch_add(1, Relaxed);
            return None;
        };
        if self.spec.sync.is_some() {
            let texts = || limits.iter().map(|limit| self.text(limit, caller, prefix));
            if let Some(taken) = self.count_ahead(limits, keys, texts, now) {
                self.counts.ahead.fetch_add(1, Relaxed);
                return Some(taken);
            }
        }
        let taken = self.ask(&link, limits, caller, prefix).await;
        let counter = if taken.is_some() { &self.counts.asked } else { &self.counts.fallbacks };
        counter.fetch_add(1, Relaxed);
        taken
    }

    /// The whole key of a limit's bucket.
    fn text(&self, limit: &Limit, caller: &Caller<'_>, prefix: u8) -> String {
        let Spec { prefix: first, .. } = &self.spec;
        let own = caller.text(&limit.spec.per, prefix);
        // What all callers share lies where the limit's name says.
        let home = if own.is_empty() { &*limit.suffix } else { own.as_str() };
        format!("{first}{{{home}}}:{}", limit.suffix)
    }

    async fn ask(
        &self,
        link: &Arc<Link>,
        limits: &[Arc<Limit>],
        caller: &Caller<'_>,
        prefix: u8,
    ) -> Option<Taken> {
        let texts: SmallVec<[String; 4]> =
            limits.iter().map(|limit| self.text(limit, caller, prefix)).collect();
        let mut calls: SmallVec<[(Call, SmallVec<[usize; 4]>); 2]> = SmallVec::new();
        for (at, (limit, text)) in limits.iter().zip(texts).enumerate() {
            let together = |call: &Call| self.spec.mode != Mode::Cluster || call.lies_with(&text);
            let cost = limit.spec.cost as i64; // at most a million
            match calls.iter_mut().find(|(call, _)| together(call)) {
                Some((call, places)) => {
                    call.add(text, &limit.spec.quota, cost);
                    places.push(at);
                }
                None => {
                    let mut call = Call::default();
                    call.add(text, &limit.spec.quota, cost);
                    calls.push((call, SmallVec::from_slice(&[at])));
                }
            }
        }
        let answers = match &mut calls[..] {
            [(call, _)] => vec![self.run_call(link, call).await?],
            calls => {
                let asked = calls.iter().map(|(call, _)| self.run_call(link, call));
                join_all(asked).await.into_iter().collect::<Option<Vec<_>>>()?
            }
        };
        let mut taken = Taken { allowed: answers.iter().all(|a| a.allowed), debts: SmallVec::new() };
        taken.debts.resize(limits.len(), 0);
        for (answer, (_, places)) in answers.iter().zip(&calls) {
            for ((micros, part), at) in answer.debts.iter().zip(places) {
                taken.debts[*at] = limits[*at].spec.quota.debt_of_micros(*micros, *part);
            }
        }
        if !taken.allowed && answers.len() > 1 {
            let back = answers.iter().zip(&calls).filter(|(answer, _)| answer.allowed);
            let back: Vec<Call> = back.map(|(_, (call, _))| call.reversed()).collect();
            join_all(back.iter().map(|call| self.run_call(link, call))).await;
        }
        Some(taken)
    }

    /// Runs a call; what does not answer in time, or wrongly, is down from here on.
    pub(super) async fn run_call(&self, link: &Arc<Link>, call: &Call) -> Option<super::link::Answer> {
        let why = match timeout(self.spec.timeout, link.run(call)).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(e)) => e,
            Err(_) => format!("no answer within {:?}", self.spec.timeout),
        };
        self.lose(link, &why);
        None
    }

    /// From here on nobody waits for this connection.
    fn lose(&self, link: &Arc<Link>, why: &str) {
        let held = self.link.load();
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, link)) {
            let before = self.link.compare_and_swap(&*held, None);
            if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, link)) {
                self.say(DOWN, why);
                self.lost.notify_one();
            }
        }
    }

    /// Until it is lost.
    async fn keep(&self, link: &Arc<Link>) {
        let mut sync = interval(self.spec.sync.unwrap_or(Duration::from_secs(3600)));
        sync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.link.load().as_ref().is_some_and(|held| Arc::ptr_eq(held, link)) {
            tokio::select! {
                () = self.lost.notified() => {}
                _ = sync.tick(), if self.spec.sync.is_some() => self.exchange(link).await,
                _ = beat.tick() => {
                    let asked = timeout(BEAT, link.ping()).await;
                    if let Err(why) = asked.unwrap_or_else(|_| Err(format!("no answer within {BEAT:?}"))) {
                        self.lose(link, &why);
                    }
                }
            }
        }
    }

    /// Says what has changed, once.
    fn say(&self, now: u8, why: &str) {
        if self.said.swap(now, Relaxed) == now {
            return;
        }
        let Spec { endpoints, gateways, .. } = &self.spec;
        let all: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
        let all = all.join(", ");
        if now == UP {
            info!("rate limits: counted together in the store at {all}");
        } else {
            self.counts.outages.fetch_add(1, Relaxed);
            warn!(
                "rate limits: the store at {all} is down ({why}); counted here, within 1/{gateways} of each"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_secrets_kept() {
        let parse = |url: &str| Endpoint::parse(url).map(|e| (e.to_string(), e.is_secure(), e.is_socket()));
        assert_eq!(parse("redis://127.0.0.1:6379"), Ok(("127.0.0.1:6379".to_owned(), false, false)));
        assert_eq!(parse("redis://cache.internal"), Ok(("cache.internal:6379".to_owned(), false, false)));
        assert_eq!(parse("rediss://u:secret@h:1/2"), Ok(("h:1".to_owned(), true, false)));
        assert_eq!(parse("unix:/run/redis.sock"), Ok(("/run/redis.sock".to_owned(), false, true)));
        for bad in ["", "127.0.0.1:6379", "http://a", "redis://", "redis://h:secret", "redis://h:1/secret"] {
            let e = parse(bad).unwrap_err();
            assert!(!e.contains("secret"), "{e}");
        }
        let shown = format!("{:?}", Endpoint::parse("redis://:secret@h:1").unwrap());
        assert_eq!(shown, "h:1");
    }
}
