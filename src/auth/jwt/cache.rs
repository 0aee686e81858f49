//! Tokens that were verified, by their hash. One belongs to one key set and goes with it, so that nothing of an old set
//! outlives it. Only what was verified gets in: strangers cannot fill it.

use super::Verified;
use rustc_hash::FxHashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Requests on different processors seldom want the same part.
const PARTS: usize = 16;
/// How many of a part's tokens there are room for in either of its halves.
const HALF: usize = 256;
/// The most tokens that are known at once.
pub const MOST: usize = PARTS * HALF * 2;
/// The longest token that is remembered: what it says takes several times as much, and all of them have to have room.
pub(super) const LONGEST: usize = 4 << 10;

/// Tokens by SHA-256. When a part's young half is full it becomes the old one, and what was that is forgotten: what is used
/// moves back to the young, so that it stays.
#[derive(Default)]
pub(super) struct Cache([Mutex<Part>; PARTS]);

type Half = FxHashMap<[u8; 32], Arc<Verified>>;

#[derive(Default)]
struct Part {
    young: Half,
    old: Half,
}

impl Cache {
    /// What was found out about a token; whether it still holds is the caller's to see.
    pub(super) fn get(&self, hash: &[u8; 32]) -> Option<Arc<Verified>> {
        let mut part = self.part(hash).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = part.young.get(hash) {
            return Some(Arc::clone(known));
        }
        let known = part.old.remove(hash)?;
        part.put(*hash, Arc::clone(&known));
        Some(known)
    }

    pub(super) fn put(&self, hash: [u8; 32], verified: Arc<Verified>) {
        self.part(&hash).lock().unwrap_or_else(PoisonError::into_inner).put(hash, verified);
    }

    pub(super) fn forget(&self, hash: &[u8; 32]) {
        let mut part = self.part(hash).lock().unwrap_or_else(PoisonError::into_inner);
        part.young.remove(hash);
        part.old.remove(hash);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        let of = |part: &Mutex<Part>| {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.young.len() + part.old.len()
        };
        self.0.iter().map(of).sum()
    }

    fn part(&self, hash: &[u8; 32]) -> &Mutex<Part> {
        &self.0[usize::from(hash[31]) % PARTS]
    }
}

impl Part {
    fn put(&mut self, hash: [u8; 32], verified: Arc<Verified>) {
        if self.young.len() >= HALF {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, verified);
    }
}
