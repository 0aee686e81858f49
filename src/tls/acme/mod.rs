//! Certificates that the gateway gets by itself, from an authority that speaks ACME (RFC 8555).
//!
//! In reading order: an [`Authority`] is whom to ask, and how; a [`Wanted`] is one host's certificate, from it; `due` says when
//! one is asked for; `order` asks; `http` is how the words get there; a [`Folder`] keeps what came of it.
//!
//! All that is known lies in the folder, which any number of gateways may share, on one machine or on a shared disk that shows
//! a new file to all of them within a second. Whoever orders holds the folder's lock; the others find what came. What an
//! authority is to be shown by way of proof lies there too, so that it may ask any of the gateways. A certificate and its key
//! are one file, put in its place whole; the [`Terminator`](super::Terminator) follows it as it does any other. So a restart,
//! an upgrade and a reload go on with what is there.
//!
//! It proves that a host is ours by HTTP-01 (RFC 8555 §8.3) or TLS-ALPN-01 (RFC 8737). It refuses what it could never prove
//! so: wildcards, which need DNS-01, and addresses. Until a host has its first certificate, no handshake is made for its name;
//! a certificate that nobody trusts would only look like an attack.
//!
//! Who may call: `server::acme` alone has a [`Wanted`] attended to, one after the other; `server` has the folders looked
//! at, `proxy` and the terminators show what is asked for. Nothing here is done by itself, and what blocks is done on
//! threads that may.

pub mod due;
pub mod folder;
mod http;
mod order;
pub mod proof;

pub use folder::Folder;

use self::due::{Note, Until};
use self::folder::Turn;
use self::order::Failure;
use super::pair::Pair;
use super::pem;
use super::source::{sha256, Flaw, Source};
use log::{info, warn};
use rustls::RootCertStore;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// How long an order may take, from its first word to its last.
const PATIENCE: Duration = Duration::from_secs(300);
/// When it is looked again whether another gateway is done.
const BUSY: i64 = 2;

/// How an authority finds out that a host is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// By a handshake at port 443 (RFC 8737).
    TlsAlpn,
    /// By a request at port 80 (RFC 8555 §8.3).
    Http,
}

/// An account elsewhere that the one with the authority is bound to (RFC 8555 §7.3.4).
#[derive(Clone, PartialEq, Eq)]
pub struct External {
    /// What the authority calls it.
    pub kid: Box<str>,
    /// What the authority has given for it.
    pub key: Box<[u8]>,
}

impl fmt::Debug for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("External").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// Whom an authority's own server must prove to be, where the system's authorities do not say so.
#[derive(Clone)]
pub struct Roots {
    store: Arc<RootCertStore>,
    fingerprint: [u8; 32],
}

impl Roots {
    /// Of a file with certificates.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(file: &Source) -> Result<Self, Flaw> {
        let mut store = RootCertStore::empty();
        for root in pem::authorities(file.text()).map_err(|e| file.flaw(e))? {
            store.add(root).map_err(|e| file.flaw(format!("an authority that cannot be used: {e}")))?;
        }
        Ok(Roots { store: Arc::new(store), fingerprint: file.fingerprint() })
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Roots(…)")
    }
}

/// Whom to ask, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Authority {
    /// Where its directory is (RFC 8555 §7.1.1).
    pub directory: Box<str>,
    /// What its part of the folder is called.
    pub label: Box<str>,
    /// Whom it may write to.
    pub email: Option<Box<str>>,
    /// How it is shown that a host is ours.
    pub challenge: Challenge,
    /// What the account is bound to.
    pub external: Option<External>,
    /// Its server's own authorities; none: the system's.
    pub roots: Option<Roots>,
    /// Where all is kept.
    pub folder: PathBuf,
}

impl Authority {
    /// The file of a host's certificate and key.
    pub fn file(&self, host: &str) -> PathBuf {
        self.folder.join(&*self.label).join(format!("{host}.pem"))
    }
}

/// What a directory's part of the folder is called: something to read, and never the same for two of them.
pub fn label(directory: &str) -> String {
    let host = directory.strip_prefix("https://").unwrap_or(directory).split(['/', ':']).next();
    let host: String =
        host.unwrap_or_default().chars().filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).collect();
    let [a, b, c, d, ..] = sha256(directory.as_bytes());
    format!("{}-{a:02x}{b:02x}{c:02x}{d:02x}", host.trim_start_matches('.'))
}

/// What is known of a certificate's orders. Times are seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// When there will be another attempt; none before the first look.
    pub next: Option<i64>,
    /// When the certificate that serves was issued.
    pub succeeded: Option<i64>,
    /// When the last attempt failed, if it did.
    pub failed: Option<i64>,
    /// How many failed since one did not.
    pub failures: u32,
    /// Why the last one did.
    pub error: Option<String>,
}

/// One host's certificate, from an authority.
#[derive(Debug)]
pub struct Wanted {
    /// For whom.
    pub host: Box<str>,
    /// From whom.
    pub authority: Authority,
    /// Where it is kept.
    pub folder: Arc<Folder>,
    status: Mutex<Status>,
}

/// What came of attending to a certificate.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was to be done, or another gateway is at it.
    Nothing,
    /// There is a new one.
    Issued,
    /// There is none.
    Failed {
        /// What went wrong.
        why: String,
        /// Whether that is another thing than the last time.
        news: bool,
        /// Seconds until the next attempt.
        again: i64,
    },
}

impl Wanted {
    /// Of which nothing is known yet.
    pub fn new(host: Box<str>, authority: Authority, folder: Arc<Folder>) -> Self {
        Wanted { host, authority, folder, status: Mutex::default() }
    }

    /// The file of the certificate and its key.
    pub fn file(&self) -> PathBuf {
        self.authority.file(&self.host)
    }

    /// What is known of its orders.
    pub fn status(&self) -> Status {
        self.lock().clone()
    }

    /// Whether it is to be attended to.
    pub fn is_due(&self) -> bool {
        self.lock().next.is_none_or(|next| next <= now())
    }

    /// Has it looked at again at once.
    pub fn hurry(&self) {
        self.lock().next = None;
    }

    /// Does what is to be done: looks at the file, and orders if it is time. `eagerly`: also where an earlier failure is
    /// no longer ago than it should be, as after a reload, which may have put right what was wrong; never before the
    /// authority's own time.
    pub async fn attend(self: &Arc<Self>, eagerly: bool) -> Outcome {
        let looking = Arc::clone(self);
        let looked = blocking(move || looking.look(eagerly)).await;
        let turn = match looked.unwrap_or_else(|e| Err(Failure::ours(e))) {
            Ok(Looked::Later(next)) => {
                self.lock().next = Some(next);
                return Outcome::Nothing;
            }
            Ok(Looked::Waits(note)) => return self.noted(&note),
            Ok(Looked::Due(turn)) => turn,
            Err(failure) => return self.failed(failure, None).await,
        };
        info!("{}: a certificate is ordered from {}", self.host, self.authority.directory);
        let ordered = tokio::time::timeout(PATIENCE, order::order(self)).await;
        let keeping = Arc::clone(self);
        let kept = match ordered.unwrap_or_else(|_| Err(Failure::ours("it took longer than 5 minutes"))) {
            Ok(text) => blocking(move || keeping.keep(&text, turn))
                .await
                .unwrap_or_else(|e| Err((Failure::ours(e), None))),
            Err(failure) => Err((failure, Some(turn))),
        };
        match kept {
            Ok(()) => Outcome::Issued,
            Err((failure, turn)) => self.failed(failure, turn).await,
        }
    }

    /// What is on disk, and whether that will do.
    fn look(&self, eagerly: bool) -> Result<Looked, Failure> {
        let file = self.file();
        let read = || -> Option<Result<Pair, Flaw>> {
            file.exists().then(|| Source::read(&file).and_then(|text| Pair::parse(&text, &text)))
        };
        let seen = |status: &mut Status, pair: &Pair| {
            if status.succeeded != Some(pair.not_before) {
                *status = Status { succeeded: Some(pair.not_before), ..Status::default() };
            }
        };
        let fresh = |pair: &Pair| pair.names.cover(&self.host) && due::renewal(pair) > now();
        if let Some(Ok(pair)) = read() {
            seen(&mut self.lock(), &pair);
            if fresh(&pair) {
                return Ok(Looked::Later(due::renewal(&pair)));
            }
        }
        let turn = self.folder.take_turn(&self.authority.label);
        let Some(turn) = turn.map_err(|e| Failure::ours(format!("{}: {e}", self.folder.path().display())))?
        else {
            return Ok(Looked::Later(now() + BUSY));
        };
        // Again: who had the turn before may have been at this.
        match read() {
            Some(Ok(pair)) if fresh(&pair) => {
                seen(&mut self.lock(), &pair);
                return Ok(Looked::Later(due::renewal(&pair)));
            }
            Some(Err(flaw)) => warn!("{flaw}; another certificate is ordered"),
            Some(Ok(_)) | None => {}
        }
        if let Some(note) = turn.note(&self.host) {
            let waits = match note.until() {
                Until::Patience(until) => until > now() && !eagerly,
                Until::Asked(until) => until > now(),
            };
            if waits {
                return Ok(Looked::Waits(note));
            }
            self.lock().failures = note.failures;
        }
        Ok(Looked::Due(turn))
    }

    /// Puts what came into its place, if it is what was asked for.
    fn keep(&self, text: &str, turn: Turn) -> Result<(), (Failure, Option<Turn>)> {
        let source = Source::new(self.file(), text.to_owned());
        let good = Pair::parse(&source, &source).map_err(|flaw| flaw.why).and_then(|pair| {
            let covers = pair.names.cover(&self.host);
            covers.then_some(pair).ok_or_else(|| "it is for other names".to_owned())
        });
        let pair = match good {
            Ok(pair) => pair,
            Err(why) => return Err((Failure::ours(format!("what came is of no use: {why}")), Some(turn))),
        };
        if let Err(e) = turn.keep(&self.host, text) {
            return Err((Failure::ours(format!("{}: {e}", self.file().display())), Some(turn)));
        }
        if due::renewal(&pair) <= now() {
            // It serves, but to ask for the next one at once, and for the next, would be all that is done from now on.
            let why = "what came is due again already: is the clock of this machine right?";
            return Err((Failure { refused: true, ..Failure::ours(why) }, Some(turn)));
        }
        let mut status = self.lock();
        *status =
            Status { next: Some(due::renewal(&pair)), succeeded: Some(pair.not_before), ..Status::default() };
        Ok(())
    }

    /// Notes a failure, for the other gateways and those to come too if there is still a place to.
    async fn failed(self: &Arc<Self>, failure: Failure, turn: Option<Turn>) -> Outcome {
        let note = Note::after(self.lock().failures, now(), &failure);
        let outcome = self.noted(&note);
        if let Some(turn) = turn {
            let host = self.host.clone();
            let _ = blocking(move || turn.take_note(&host, &note)).await; // it is in memory, at least
        }
        outcome
    }

    /// Attending to it failed by a fault of ours; it waits as after any failure.
    pub fn broke(&self, why: &str) -> Outcome {
        let failures = self.lock().failures;
        self.noted(&Note::after(failures, now(), &Failure::ours(why)))
    }

    /// Knows of a failure, here or at another gateway.
    fn noted(&self, note: &Note) -> Outcome {
        let mut status = self.lock();
        let news = status.error.as_ref() != Some(&note.why);
        status.failures = note.failures;
        status.failed = Some(note.at);
        status.error = Some(note.why.clone());
        let next = note.until().time();
        status.next = Some(next);
        Outcome::Failed { why: note.why.clone(), news, again: (next - now()).max(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a look finds.
enum Looked {
    /// Nothing to be done until then.
    Later(i64),
    /// A failure, not long enough ago.
    Waits(Note),
    /// It is time, and ours to do.
    Due(Turn),
}

/// All that a configuration wants, each once; what was wanted before is the same object.
#[derive(Debug, Default)]
pub struct Wants {
    before: Vec<Arc<Wanted>>,
    all: Vec<Arc<Wanted>>,
}

impl Wants {
    /// Nothing yet, after a configuration that wanted this.
    pub fn after(before: &[Arc<Wanted>]) -> Self {
        Wants { before: before.to_vec(), all: Vec::new() }
    }

    /// Wants a certificate.
    pub fn want(&mut self, host: &str, authority: &Authority) -> Arc<Wanted> {
        let is = |known: &&Arc<Wanted>| *known.host == *host && known.authority == *authority;
        if let Some(known) = self.all.iter().find(is) {
            return Arc::clone(known);
        }
        let wanted = self.before.iter().find(is).cloned().unwrap_or_else(|| {
            let mut known = self.all.iter().chain(&self.before);
            let folder = known.find(|known| known.folder.path() == authority.folder);
            let folder = folder.map(|known| Arc::clone(&known.folder));
            let folder = folder.unwrap_or_else(|| Arc::new(Folder::new(authority.folder.clone())));
            Arc::new(Wanted::new(host.into(), authority.clone(), folder))
        });
        self.all.push(Arc::clone(&wanted));
        wanted
    }

    /// All of it.
    pub fn all(self) -> Box<[Arc<Wanted>]> {
        self.all.into()
    }
}

/// The folders of these, each once.
pub fn folders(wanted: &[Arc<Wanted>]) -> Box<[Arc<Folder>]> {
    let mut folders: Vec<Arc<Folder>> = Vec::new();
    for one in wanted {
        if !folders.iter().any(|known| Arc::ptr_eq(known, &one.folder)) {
            folders.push(Arc::clone(&one.folder));
        }
    }
    folders.into()
}

/// Does something where it keeps nobody waiting.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|e| format!("a fault of the gateway: {e}"))
}

/// In seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as i64)
}
