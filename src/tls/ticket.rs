//! Session tickets (RFC 8446 §4.6.1, RFC 5077): what a client has to come back with, sealed by keys that only the
//! gateway has.
//!
//! The keys are new every six hours, and what they sealed is good for twelve: who steals one gets no older traffic. They
//! live in memory alone, and go to the next process in an upgrade, so that clients resume there; a restart makes new ones.
//! Where clients' certificates are asked for there are none: what was verified once may be revoked or over by then.

use aws_lc_rs::aead::{Aad, Nonce, RandomizedNonceKey, AES_256_GCM, NONCE_LEN};
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// For how long a key seals.
const SEALS: Duration = Duration::from_secs(6 * 3600);
/// For how long a ticket is good, and with it its key.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// Of a key's name, by which a ticket tells its key.
const NAME: usize = 16;

/// The keys of all tickets of the process.
#[derive(Default)]
pub struct TicketKeys(Mutex<Vec<Arc<Key>>>);

struct Key {
    secret: Secret,
    aead: RandomizedNonceKey,
}

/// A key as it goes to the next process.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Secret {
    name: [u8; NAME],
    key: [u8; 32],
    /// In seconds since 1970.
    made: u64,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKeys(…)")
    }
}

impl Key {
    fn new(secret: Secret) -> Option<Self> {
        let aead = RandomizedNonceKey::new(&AES_256_GCM, &secret.key).ok()?;
        Some(Key { secret, aead })
    }

    fn made(now: u64) -> Option<Self> {
        let mut secret = Secret { name: [0; NAME], key: [0; 32], made: now };
        getrandom::fill(&mut secret.name).ok()?;
        getrandom::fill(&mut secret.key).ok()?;
        Key::new(secret)
    }

    fn is_within(&self, age: Duration, now: u64) -> bool {
        // One from the future, after the clock was set back, would never end.
        (self.secret.made..self.secret.made + age.as_secs()).contains(&now)
    }
}

impl TicketKeys {
    /// The key that seals now; none where the system has no randomness, and then there is no ticket.
    fn sealing(&self, now: u64) -> Option<Arc<Key>> {
        let mut keys = self.keys();
        if let Some(key) = keys.last().filter(|key| key.is_within(SEALS, now)) {
            return Some(Arc::clone(key));
        }
        keys.retain(|key| key.is_within(LIFETIME + SEALS, now));
        let key = Arc::new(Key::made(now)?);
        keys.push(Arc::clone(&key));
        Some(key)
    }

    fn of(&self, name: &[u8], now: u64) -> Option<Arc<Key>> {
        let keys = self.keys();
        let key = keys.iter().rev().find(|key| key.secret.name == name)?;
        key.is_within(LIFETIME + SEALS, now).then(|| Arc::clone(key))
    }

    /// For the next process.
    pub fn secrets(&self) -> Vec<Secret> {
        self.keys().iter().map(|key| key.secret.clone()).collect()
    }

    /// Goes on with the keys of the process before.
    pub fn adopt(&self, secrets: Vec<Secret>) {
        let adopted = secrets.into_iter().filter_map(|secret| Key::new(secret).map(Arc::new));
        let mut keys = self.keys();
        let own = std::mem::take(&mut *keys);
        *keys = adopted.chain(own).collect();
        keys.sort_by_key(|key| key.secret.made);
    }

    fn keys(&self) -> MutexGuard<'_, Vec<Arc<Key>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Makes tickets with these keys.
#[derive(Debug)]
pub(super) struct Tickets(pub(super) Arc<TicketKeys>);

/// A ticket is the key's name, a nonce, and the sealed state with its tag.
impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.0.sealing(now())?;
        let mut sealed = plain.to_vec();
        let nonce = key.aead.seal_in_place_append_tag(Aad::empty(), &mut sealed).ok()?;
        Some([&key.secret.name[..], nonce.as_ref(), &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let key = self.0.of(name, now())?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut state = sealed.to_vec();
        let length = key.aead.open_in_place(nonce, Aad::empty(), &mut state).ok()?.len();
        state.truncate(length);
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_are_opened_whole_and_by_the_next_process() {
        let keys = Arc::new(TicketKeys::default());
        let one = Tickets(Arc::clone(&keys));
        let ticket = one.encrypt(b"state").unwrap();
        assert_ne!(ticket, one.encrypt(b"state").unwrap(), "a nonce of its own");
        assert_eq!(one.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        for at in 0..ticket.len() {
            let mut forged = ticket.clone();
            forged[at] ^= 1;
            assert_eq!(one.decrypt(&forged), None, "byte {at}");
            assert_eq!(one.decrypt(&ticket[..at]), None);
        }
        let next = Arc::new(TicketKeys::default());
        let next_one = Tickets(Arc::clone(&next));
        assert_eq!(next_one.decrypt(&ticket), None);
        let message = serde_json::to_string(&keys.secrets()).unwrap();
        next.adopt(serde_json::from_str(&message).unwrap());
        assert_eq!(next_one.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
    }

    #[test]
    fn keys_change_and_end() {
        let keys = TicketKeys::default();
        let at = |hours: u64| 1_000_000 + hours * 3600;
        let first = keys.sealing(at(0)).unwrap();
        assert!(Arc::ptr_eq(&first, &keys.sealing(at(5)).unwrap()));
        let second = keys.sealing(at(6)).unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(keys.of(&first.secret.name, at(17)).is_some());
        assert!(keys.of(&first.secret.name, at(18)).is_none());
        let third = keys.sealing(at(30)).unwrap();
        assert_eq!(keys.secrets(), vec![third.secret.clone()], "those that open nothing any more are gone");
        let back = keys.sealing(at(0)).unwrap();
        assert!(!Arc::ptr_eq(&third, &back), "the clock was set back");
    }
}
