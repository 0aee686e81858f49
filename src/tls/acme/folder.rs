//! What gateways have in common on disk.
//!
//! ```text
//! FOLDER/                       0700, and so is all of it; the files are 0600
//!   lock                        whoever orders holds it (flock): a gateway that dies lets go of it
//!   pending/TOKEN               what an authority is to be shown
//!   acme-v02.api.…-1a2b3c4d/    one for each directory
//!     account.json              the account and its key
//!     HOST.pem                  the key, then the certificate and what it was issued under
//!     HOST.failed               what went wrong the last time, if it did
//! ```
//!
//! A file is written beside its place, forced to the disk, and put there: who reads finds the old one or the new one. Only
//! who has the lock writes.

use super::due::Note;
use super::proof::{Proof, Shown};
use super::Challenge;
use crate::base::identity::Identity;
use arc_swap::ArcSwap;
use log::warn;
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a file is called while it is written.
const UNFINISHED: &str = ".unfinished-";
/// The most proofs that are pending; more than an order has.
const MOST: usize = 64;
/// The most that a small file has.
const SMALL: u64 = 64 << 10;

/// A folder, and what is pending in it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    pending: ArcSwap<Pending>,
}

/// What an authority may ask for now.
#[derive(Debug, Default)]
struct Pending {
    /// What was read.
    files: Vec<(OsString, Option<Identity>)>,
    proofs: Vec<Proof>,
}

/// What a file of `pending` says.
#[derive(Serialize, Deserialize)]
struct Written {
    host: String,
    /// The key authorization (RFC 8555 §8.1).
    answer: String,
    tls: bool,
}

impl Folder {
    /// At this path; nothing is there or needs to be.
    pub fn new(path: PathBuf) -> Self {
        Folder { path, pending: ArcSwap::default() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is to be answered to a request for this token (RFC 8555 §8.3).
    pub fn answer(&self, token: &str) -> Option<Arc<str>> {
        let pending = self.pending.load();
        pending.proofs.iter().find_map(|proof| match &proof.shown {
            Shown::Answer(answer) if *proof.token == *token => Some(Arc::clone(answer)),
            _ => None,
        })
    }

    /// How a handshake is done with an authority that asks for this host (RFC 8737).
    pub fn handshake(&self, host: &str) -> Option<Arc<ServerConfig>> {
        let pending = self.pending.load();
        pending.proofs.iter().find_map(|proof| match &proof.shown {
            Shown::Handshake(config) if *proof.host == *host => Some(Arc::clone(config)),
            _ => None,
        })
    }

    /// Looks what is pending, whoever has put it there. Blocks.
    pub fn look(&self) {
        let folder = self.path.join("pending");
        let mut files: Vec<_> = fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(is_token))
            .take(MOST)
            .map(|entry| (entry.file_name(), Identity::of(&entry.path())))
            .collect();
        files.sort_by(|a, b| a.0.cmp(&b.0));
        if self.pending.load().files == files {
            return;
        }
        let proofs = files.iter().filter_map(|(name, _)| {
            let token = name.to_str()?;
            let written: Written = serde_json::from_str(&small(&folder.join(name)).ok()?).ok()?;
            let challenge = if written.tls { Challenge::TlsAlpn } else { Challenge::Http };
            Proof::new(token, &written.host, &written.answer, challenge)
        });
        let proofs = proofs.collect();
        self.pending.store(Arc::new(Pending { files, proofs }));
    }

    /// Takes the turn to order for this directory, unless another gateway has it. What its predecessor left unfinished
    /// goes. Blocks.
    ///
    /// # Errors
    /// Why there is no such folder and none can be made.
    pub fn take_turn(&self, label: &str) -> io::Result<Option<Turn>> {
        let at = self.path.join(label);
        let pending = self.path.join("pending");
        private_folder(&self.path)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.path.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(e),
        }
        for folder in [&at, &pending] {
            private_folder(folder)?;
        }
        let turn = Turn { _lock: lock, at, pending };
        turn.clear();
        Ok(Some(turn))
    }

    /// Puts what is to be shown where every gateway finds it. For who has the turn; blocks.
    pub(super) fn show(&self, token: &str, host: &str, answer: &str, challenge: Challenge) -> io::Result<()> {
        if !is_token(token) {
            // It becomes a file's name, and the authority is not to choose which (RFC 8555 §8.1).
            return Err(io::Error::other("a token that is none"));
        }
        let written = Written {
            host: host.to_owned(),
            answer: answer.to_owned(),
            tls: challenge == Challenge::TlsAlpn,
        };
        let text = serde_json::to_string(&written).map_err(io::Error::other)?;
        put(&self.path.join("pending"), token, text.as_bytes())?;
        self.look();
        Ok(())
    }
}

/// base64url, of some length.
fn is_token(name: &str) -> bool {
    (16..=200).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// The turn to order; given back when it is dropped.
#[derive(Debug)]
pub struct Turn {
    _lock: File,
    at: PathBuf,
    pending: PathBuf,
}

impl Turn {
    /// What went wrong the last time.
    pub fn note(&self, host: &str) -> Option<Note> {
        serde_json::from_str(&small(&self.at.join(format!("{host}.failed"))).ok()?).ok()
    }

    /// Notes what went wrong.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub fn take_note(&self, host: &str, note: &Note) -> io::Result<()> {
        let text = serde_json::to_string(note).map_err(io::Error::other)?;
        put(&self.at, &format!("{host}.failed"), text.as_bytes())
    }

    /// Keeps a certificate and its key; whatever went wrong before is over.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub fn keep(&self, host: &str, text: &str) -> io::Result<()> {
        put(&self.at, &format!("{host}.pem"), text.as_bytes())?;
        let _ = fs::remove_file(self.at.join(format!("{host}.failed"))); // mostly there is none
        Ok(())
    }

    fn clear(&self) {
        // Whoever has the turn is the only one with something pending.
        for (folder, all) in [(&self.pending, true), (&self.at, false)] {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let gone = |name: &str| name.starts_with(UNFINISHED) || (all && is_token(name));
            for entry in entries.filter(|entry| gone(&entry.file_name().to_string_lossy())) {
                if let Err(e) = fs::remove_file(entry.path()) {
                    warn!("{}: {e}", entry.path().display());
                }
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The account with an authority, if there is one that can be read.
pub(super) fn account(at: &Path) -> Option<String> {
    small(&at.join("account.json")).ok()
}

/// Keeps the account; for who has the turn.
pub(super) fn keep_account(at: &Path, text: &str) -> io::Result<()> {
    put(at, "account.json", text.as_bytes())
}

/// Forgets the account, which the authority does not know (any more).
pub(super) fn forget_account(at: &Path) {
    let _ = fs::remove_file(at.join("account.json")); // it is written over, else
}

/// A folder that is nobody else's. One that is there already, as its owner has made it, stays as open as it is: what lies
/// in it is closed.
fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn small(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(SMALL).read_to_string(&mut text)?;
    Ok(text)
}

/// Puts a file in its place, whole, on the disk and for the owner alone.
fn put(folder: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let beside = folder.join(format!("{UNFINISHED}{name}"));
    let _ = fs::remove_file(&beside); // of who died over it
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&beside)?;
    file.set_permissions(Permissions::from_mode(0o600))?; // whatever the umask
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, folder.join(name))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_the_turn_and_all_see_what_is_pending() {
        let at = tempfile::tempdir().unwrap();
        let (one, other) = (Folder::new(at.path().join("a/b")), Folder::new(at.path().join("a/b")));
        other.look(); // nothing is there, and that is all right
        let turn = one.take_turn("ca").unwrap().unwrap();
        assert!(other.take_turn("ca").unwrap().is_none());
        let token = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0";
        for bad in ["../../etc/passwd-or-such", "short", ".unfinished-LoqXcYV8q5ONbJQ", ""] {
            assert!(one.show(bad, "a.test", "x", Challenge::Http).is_err(), "{bad}");
        }
        one.show(token, "a.test", "answer", Challenge::Http).unwrap();
        assert_eq!(one.answer(token).as_deref(), Some("answer"), "at once");
        assert_eq!(other.answer(token), None);
        other.look();
        assert_eq!(other.answer(token).as_deref(), Some("answer"));
        assert!(other.answer("another").is_none() && other.handshake("a.test").is_none());
        drop(turn);
        other.look();
        assert!(other.answer(token).is_none());
        assert!(other.take_turn("ca").unwrap().is_some());
    }

    #[test]
    fn nobody_else_can_read_it() {
        let at = tempfile::tempdir().unwrap();
        let folder = Folder::new(at.path().join("acme"));
        let turn = folder.take_turn("ca").unwrap().unwrap();
        fs::write(folder.path().join("ca/.unfinished-a.test.pem"), "half").unwrap();
        turn.keep("a.test", "text").unwrap();
        let mode = |path: &str| fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(["", "ca", "pending"].map(mode), [0o700; 3]);
        assert_eq!(["lock", "ca/a.test.pem"].map(mode), [0o600; 2]);
        assert!(!folder.path().join("ca/.unfinished-a.test.pem").exists());
    }
}
