//! Passwords: what they are verified against, and the work of doing so, which is meant to be much.
//!
//! It is done away from the threads that serve requests, by at most half of the processors at once, and only so many wait
//! for it, few of one address: who comes then is told to come again, and is not let in. A password that was right is known for
//! as long as it is used once a minute, by a keyed hash of it and of what it was verified against, so that one that is changed is not known any more. Who is known
//! so waits for nobody, however many guess.

use crate::base::client;
use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::hmac;
use rustc_hash::FxHashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// How many may be verified or wait for it.
const MOST_WAITING: usize = 64;
/// How many of them may be of one address (of IPv6 of one /64): others are to have room.
const MOST_OF_ONE: usize = 8;
/// For how long a password that was right is known after its last use.
const MEMORY: Duration = Duration::from_secs(60);
/// How many are known.
const MOST_KNOWN: usize = 4096;
/// What bcrypt looks at of a password.
const BCRYPT_LENGTH: usize = 72;

/// What a password is verified against: a hash by argon2 or bcrypt that is neither too cheap to be safe nor too dear to be
/// served.
pub struct PasswordHash {
    kind: Kind,
    text: Box<str>,
}

enum Kind {
    Argon2 { argon: Argon2<'static>, salt: Box<[u8]>, hash: Box<[u8]> },
    Bcrypt,
}

impl PasswordHash {
    /// Reads a PHC string of argon2, or a hash of bcrypt. What it says of another text does not repeat it: it may be the
    /// password.
    ///
    /// # Errors
    /// What to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let kind = if text.starts_with("$2") { bcrypt(text)? } else { argon2(text)? };
        Ok(PasswordHash { kind, text: text.into() })
    }

    /// Whether this is the password. It takes long.
    fn fits(&self, password: &[u8]) -> bool {
        match &self.kind {
            Kind::Argon2 { argon, salt, hash } => {
                let mut out = Zeroizing::new(vec![0; hash.len()]);
                argon.hash_password_into(password, salt, &mut out).is_ok() && out.ct_eq(hash).into()
            }
            // What is longer than it looks at costs the same, and is not the password.
            Kind::Bcrypt => {
                let seen = &password[..password.len().min(BCRYPT_LENGTH)];
                let fits = bcrypt::verify(seen, &self.text).unwrap_or(false);
                fits && seen.len() == password.len()
            }
        }
    }
}

const FORM: &str =
    "expected a hash of the password by argon2 ($argon2id$…, as `portcullis key hash` prints it) or bcrypt ($2b$…)";

fn argon2(text: &str) -> Result<Kind, String> {
    let parsed = phc::PasswordHash::new(text).map_err(|_| FORM)?;
    let algorithm = Algorithm::new(parsed.algorithm).map_err(|_| FORM)?;
    let version = parsed.version.map_or(Ok(Version::V0x10), Version::try_from).map_err(|_| FORM)?;
    let params = Params::try_from(&parsed).map_err(|_| FORM)?;
    let (Some(salt), Some(hash)) = (&parsed.salt, &parsed.hash) else { return Err(FORM.to_owned()) };
    let (memory, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
    // OWASP has nothing below 7 MiB, with five passes.
    let bounds = [
        ("m", memory, 7 * 1024, 256 * 1024),
        ("t", passes, 1, 10),
        ("p", lanes, 1, 8),
        ("m times t", memory.saturating_mul(passes), 19 * 1024, 1024 * 1024),
    ];
    for (name, value, low, high) in bounds {
        if !(low..=high).contains(&value) {
            return Err(format!(
                "the cost {name} of this hash is {value}, which is not between {low} and {high}: {}",
                if value < low {
                    "guessing would be too cheap"
                } else {
                    "a few requests would stop the gateway"
                }
            ));
        }
    }
    if hash.len() < 16 || salt.len() < 8 {
        return Err("this hash or its salt is too short: at least 16 and 8 bytes".to_owned());
    }
    let argon = Argon2::new(algorithm, version, params);
    Ok(Kind::Argon2 { argon, salt: salt.as_ref().into(), hash: hash.as_bytes().into() })
}

fn bcrypt(text: &str) -> Result<Kind, String> {
    let parts: bcrypt::HashParts = text.parse().map_err(|_| FORM)?;
    let cost = parts.get_cost();
    if !(10..=14).contains(&cost) {
        return Err(format!(
            "the cost of this hash is {cost}, which is not between 10 and 14: {}",
            if cost < 10 { "guessing would be too cheap" } else { "a few requests would stop the gateway" }
        ));
    }
    if text.starts_with("$2x$") {
        return Err("hashes that begin with $2x$ come from a broken bcrypt; make a new one".to_owned());
    }
    Ok(Kind::Bcrypt)
}

/// Hashes a password for the file.
///
/// # Errors
/// Why that is not possible.
pub fn hash(password: &[u8]) -> Result<String, String> {
    use argon2::password_hash::PasswordHasher;
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|e| format!("no random numbers: {e}"))?;
    let hash: phc::PasswordHash =
        Argon2::default().hash_password_with_salt(password, &salt).map_err(|e| e.to_string())?;
    Ok(hash.to_string())
}

/// By its text; what it is made of follows from that.
impl PartialEq for PasswordHash {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// Nothing of it.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

/// So many wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

/// Verifies passwords; one for the whole process.
pub struct Passwords {
    key: hmac::Key,
    known: Mutex<FxHashMap<[u8; 32], Instant>>,
    waiting: Mutex<Waiting>,
    running: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(&mut key[..]).expect("the system has random numbers");
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Passwords {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key[..]),
            known: Mutex::default(),
            waiting: Mutex::default(),
            running: Arc::new(Semaphore::new((processors / 2).max(1))),
        }
    }
}

impl Passwords {
    /// A number that follows from a text, but that nobody outside can know.
    pub(super) fn number(&self, text: &str) -> u64 {
        let tag = hmac::sign(&self.key, text.as_bytes());
        let (first, _) = tag.as_ref().split_first_chunk().expect("it has 32 bytes");
        u64::from_le_bytes(*first)
    }

    /// Whether this is the password of that name. `decoy`: nobody's, whatever it is, but at the same cost.
    ///
    /// # Errors
    /// Too many wait already.
    pub(super) async fn verify(
        &self,
        hash: &Arc<PasswordHash>,
        username: &str,
        password: Zeroizing<Vec<u8>>,
        decoy: bool,
        client: Option<IpAddr>,
    ) -> Result<bool, Busy> {
        let mark = self.mark(hash, username, &password);
        if self.knows(&mark) && !decoy {
            return Ok(true);
        }
        let _place = Place::take(&self.waiting, client).ok_or(Busy)?;
        // It is never closed.
        let Ok(turn) = Arc::clone(&self.running).acquire_owned().await else { return Ok(false) };
        let hash = Arc::clone(hash);
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn; // until it is done, even if nobody waits for it any more
            hash.fits(&password)
        });
        let fits = work.await.unwrap_or(false) && !decoy;
        if fits {
            self.remember(mark);
        }
        Ok(fits)
    }

    fn mark(&self, hash: &PasswordHash, username: &str, password: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [hash.text.as_bytes(), username.as_bytes(), password] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().expect("it has 32 bytes")
    }

    fn knows(&self, mark: &[u8; 32]) -> bool {
        let (mut known, now) = (self.known(), Instant::now());
        let Some(until) = known.get_mut(mark).filter(|until| now < **until) else { return false };
        *until = now + MEMORY;
        true
    }

    fn remember(&self, mark: [u8; 32]) {
        let (mut known, now) = (self.known(), Instant::now());
        if known.len() >= MOST_KNOWN {
            known.retain(|_, until| now < *until);
        }
        // Who finds no room is verified again the next time.
        if known.len() < MOST_KNOWN {
            known.insert(mark, now + MEMORY);
        }
    }

    fn known(&self) -> MutexGuard<'_, FxHashMap<[u8; 32], Instant>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for Passwords {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Passwords {}

/// How many wait, and no more.
impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords")
            .field("waiting", &self.waiting.lock().map(|waiting| waiting.all).unwrap_or_default())
            .finish_non_exhaustive()
    }
}

/// Who waits.
#[derive(Debug, Default)]
struct Waiting {
    all: usize,
    by_address: FxHashMap<Option<IpAddr>, usize>,
}

/// One of the places for those that wait.
struct Place<'a> {
    waiting: &'a Mutex<Waiting>,
    site: Option<IpAddr>,
}

impl<'a> Place<'a> {
    fn take(waiting: &'a Mutex<Waiting>, client: Option<IpAddr>) -> Option<Self> {
        let site = client.map(client::site);
        let mut guard = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if guard.all >= MOST_WAITING {
            return None;
        }
        let own = guard.by_address.entry(site).or_default();
        // Those without an address are not known to be one.
        if site.is_some() && *own >= MOST_OF_ONE {
            return None;
        }
        *own += 1;
        guard.all += 1;
        Some(Place { waiting, site })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut guard = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        guard.all -= 1;
        if let Some(own) = guard.by_address.get_mut(&self.site) {
            *own -= 1;
            if *own == 0 {
                guard.by_address.remove(&self.site);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of "secret", by `htpasswd -B -C 10`, and by argon2's own tool.
    const BCRYPT: &str = "$2b$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy";

    #[test]
    fn costs_have_bounds_and_nothing_is_repeated() {
        let argon = |m: u32, t: u32, p: u32| {
            format!("$argon2id$v=19$m={m},t={t},p={p}$c29tZXNhbHRzb21lc2FsdA$MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI")
        };
        for good in [argon(19_456, 2, 1), argon(65_536, 3, 4), argon(7_168, 5, 1), BCRYPT.to_owned()] {
            assert!(PasswordHash::parse(&good).is_ok(), "{good}: {:?}", PasswordHash::parse(&good));
        }
        for (bad, says) in [
            (argon(4_194_304, 1, 1), "the cost m "),
            (argon(1_024, 40, 1), "the cost m "),
            (argon(7_168, 1, 1), "m times t"),
            (argon(262_144, 10, 1), "m times t"),
            (argon(65_536, 100, 1), "the cost t"),
            (argon(65_536, 3, 64), "the cost p"),
            (BCRYPT.replace("$10$", "$31$"), "between 10 and 14"),
            (BCRYPT.replace("$10$", "$04$"), "between 10 and 14"),
            (BCRYPT.replace("2b", "2x"), "broken"),
            ("hunter2".to_owned(), "expected a hash"),
            ("$argon2id$v=19$m=19456,t=2,p=1".to_owned(), "expected a hash"),
            ("$2b$10$short".to_owned(), "expected a hash"),
            (
                "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E"
                    .to_owned(),
                "expected a hash",
            ),
        ] {
            let e = PasswordHash::parse(&bad).unwrap_err();
            assert!(e.contains(says) && !e.contains(&bad), "{bad}: {e}");
        }
    }

    #[test]
    fn what_is_hashed_is_verified_and_nothing_else() {
        let made = hash(b"correct horse").unwrap();
        let parsed = PasswordHash::parse(&made).unwrap();
        assert!(parsed.fits(b"correct horse"));
        assert!(!parsed.fits(b"correct horse ") && !parsed.fits(b""));
        assert!(!format!("{parsed:?}").contains("argon2"));
        // bcrypt looks at 72 bytes: what is longer is refused instead of cut.
        let long = [b'a'; 72];
        let parsed = PasswordHash::parse(&bcrypt::hash(long, 10).unwrap()).unwrap();
        assert!(parsed.fits(&long));
        assert!(!parsed.fits(&[b'a'; 73]) && !parsed.fits(&[b'a'; 71]));
    }

    #[test]
    fn one_address_leaves_room_for_others() {
        let waiting = Mutex::default();
        let take = |client: &str| Place::take(&waiting, client.parse().ok());
        let mut places: Vec<_> = (0..MOST_OF_ONE).map(|n| take(&format!("2001:db8::{n}"))).collect();
        assert!(places.iter().all(Option::is_some));
        assert!(take("2001:db8::ffff:1").is_none(), "all of one /64 are one");
        places.push(take("2001:db8:0:1::1"));
        places.push(take("192.0.2.1"));
        assert!(places.iter().all(Option::is_some));
        places.clear();
        assert!(waiting.lock().unwrap().by_address.is_empty() && waiting.lock().unwrap().all == 0);
        assert!(take("2001:db8::1").is_some());
    }

    #[test]
    fn what_was_right_is_known_until_its_hash_changes() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let passwords = Passwords::default();
        let verify = |hash: &Arc<PasswordHash>, user: &str, password: &str, decoy| {
            let password = Zeroizing::new(password.as_bytes().to_vec());
            runtime.block_on(passwords.verify(hash, user, password, decoy, None))
        };
        let known = || passwords.known().len();
        let one = Arc::new(PasswordHash::parse(&hash(b"secret").unwrap()).unwrap());
        let two = Arc::new(PasswordHash::parse(&hash(b"other").unwrap()).unwrap());
        assert_eq!((verify(&one, "a", "wrong", false), known()), (Ok(false), 0));
        assert_eq!((verify(&one, "a", "secret", true), known()), (Ok(false), 0));
        assert_eq!((verify(&one, "a", "secret", false), known()), (Ok(true), 1));
        // Nobody waits any more to be verified, and it is known.
        passwords.waiting.lock().unwrap().all = MOST_WAITING;
        assert_eq!(verify(&one, "a", "secret", false), Ok(true));
        assert_eq!(verify(&one, "a", "secret", true), Err(Busy));
        assert_eq!(verify(&one, "a", "wrong", false), Err(Busy));
        assert_eq!(verify(&one, "b", "secret", false), Err(Busy));
        assert_eq!(verify(&two, "a", "secret", false), Err(Busy));
    }
}
