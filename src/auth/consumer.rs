//! Consumers, and the table in which a credential finds whose it is.

use super::certificate::CertificateName;
use super::password::PasswordHash;
use crate::base::priority::Priority;
use crate::tls::clients::ClientCert;
use http::HeaderValue;
use rustc_hash::FxHashMap;
use std::fmt;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Somebody with a name here.
#[derive(Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Their name.
    pub name: Box<str>,
    /// What they belong to.
    pub groups: Box<[Box<str>]>,
    /// The rate plan that limits by consumer go by; none: that of everybody.
    pub rate_plan: Option<Box<str>>,
    /// Their class; none: that of the route.
    pub priority: Option<Priority>,
    /// The name as upstreams are told it.
    pub name_field: HeaderValue,
    /// The groups likewise, between commas; none: they have none.
    pub groups_field: Option<HeaderValue>,
}

impl Consumer {
    /// One in these groups, both as [`is_name`] wants them.
    pub fn new(name: &str, groups: &[String]) -> Self {
        // What is no name was refused when it was read.
        let field = |text: &str| HeaderValue::from_str(text).ok();
        Consumer {
            name: name.into(),
            groups: groups.iter().map(|group| group.as_str().into()).collect(),
            rate_plan: None,
            priority: None,
            name_field: field(name).unwrap_or_else(|| HeaderValue::from_static("")),
            groups_field: if groups.is_empty() { None } else { field(&groups.join(",")) },
        }
    }
}

/// Reads the name of a consumer or a group: what fields, lists and logs take as it is.
///
/// # Errors
/// What to write instead.
pub fn is_name(text: &str) -> Result<String, String> {
    let sound = |b: u8| b.is_ascii_alphanumeric() || b"-._@/+:".contains(&b);
    if (1..=100).contains(&text.len()) && text.bytes().all(sound) {
        return Ok(text.to_owned());
    }
    Err(format!("expected 1 to 100 letters, digits or any of -._@/+: such as mobile-app, found {text:?}"))
}

/// The hash of an API key, and until when it is good.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyHash {
    /// SHA-256.
    pub hash: [u8; 32],
    /// The second since 1970 from which on it is not; none: for ever.
    pub expires: Option<i64>,
}

/// Not the hash.
impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyHash").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// A user name, and what the password is verified against.
#[derive(Debug, Clone)]
pub struct Login {
    /// Without a colon (RFC 7617 §2).
    pub username: Box<str>,
    /// The hash.
    pub password: Arc<PasswordHash>,
}

/// A consumer with all that they are known by.
#[derive(Debug)]
pub struct Entry {
    /// Who.
    pub consumer: Consumer,
    /// Their keys.
    pub keys: Vec<KeyHash>,
    /// Their password.
    pub login: Option<Login>,
    /// Their certificate.
    pub certificate: Option<CertificateName>,
}

/// All consumers, found by what they are known by. Two of one configuration are the same only if they are one.
#[derive(Default)]
pub struct Consumers {
    all: Box<[Arc<Consumer>]>,
    names: FxHashMap<Box<str>, Arc<Consumer>>,
    /// By the beginning of the hash, which nobody can choose without having the key.
    keys: FxHashMap<u64, Vec<(KeyHash, Arc<Consumer>)>>,
    logins: FxHashMap<Box<str>, (Arc<PasswordHash>, Arc<Consumer>)>,
    /// What passwords of nobody are verified against, so that it costs the same.
    hashes: Vec<Arc<PasswordHash>>,
    fingerprints: FxHashMap<Box<str>, Arc<Consumer>>,
    subjects: FxHashMap<Box<str>, Arc<Consumer>>,
    sans: FxHashMap<Box<str>, Arc<Consumer>>,
}

impl Consumers {
    /// A table of these, of which no two have anything in common: `check` sees to that.
    pub fn new(entries: Vec<Entry>) -> Self {
        let mut table = Consumers::default();
        let mut all = Vec::with_capacity(entries.len());
        for Entry { consumer, keys, login, certificate } in entries {
            let consumer = Arc::new(consumer);
            for key in keys {
                table.keys.entry(beginning(&key.hash)).or_default().push((key, Arc::clone(&consumer)));
            }
            if let Some(Login { username, password }) = login {
                table.hashes.push(Arc::clone(&password));
                table.logins.insert(username, (password, Arc::clone(&consumer)));
            }
            if let Some(name) = certificate {
                let (names, name) = match name {
                    CertificateName::Fingerprint(name) => (&mut table.fingerprints, name),
                    CertificateName::Subject(name) => (&mut table.subjects, name),
                    CertificateName::San(name) => (&mut table.sans, name),
                };
                names.insert(name, Arc::clone(&consumer));
            }
            table.names.insert(consumer.name.clone(), Arc::clone(&consumer));
            all.push(consumer);
        }
        table.all = all.into();
        table
    }

    /// All of them, in the order of the file.
    pub fn all(&self) -> &[Arc<Consumer>] {
        &self.all
    }

    /// By name, as a token may have it.
    pub fn named(&self, name: &str) -> Option<&Arc<Consumer>> {
        self.names.get(name)
    }

    /// Whose key this is the hash of.
    pub(super) fn by_key(&self, hash: &[u8; 32]) -> Option<(&KeyHash, &Arc<Consumer>)> {
        let near = self.keys.get(&beginning(hash))?;
        let found = near.iter().find(|(key, _)| key.hash.ct_eq(hash).into());
        found.map(|(key, consumer)| (key, consumer))
    }

    /// Who logs in so, with what their password is verified against.
    pub(super) fn by_login(&self, username: &str) -> Option<(&Arc<PasswordHash>, &Arc<Consumer>)> {
        self.logins.get(username).map(|(password, consumer)| (password, consumer))
    }

    /// What the password of somebody whom nobody knows is verified against: one of those that there are, always the same one
    /// for the same `number`, so that the time it takes tells nothing. None: nobody logs in with a password.
    pub(super) fn decoy(&self, number: u64) -> Option<&Arc<PasswordHash>> {
        let count = self.hashes.len() as u64;
        let at = number.checked_rem(count)?;
        self.hashes.get(at as usize)
    }

    /// Whose certificate this is, by each thing that it can be recognised by.
    pub(super) fn by_certificate<'a>(
        &'a self,
        shown: &'a ClientCert,
    ) -> impl Iterator<Item = &'a Arc<Consumer>> {
        let whole = [self.fingerprints.get(&shown.fingerprint), self.subjects.get(&shown.subject)];
        let parts = shown.names.iter().map(|name| self.sans.get(name));
        whole.into_iter().chain(parts).flatten()
    }
}

fn beginning(hash: &[u8; 32]) -> u64 {
    let (first, _) = hash.split_first_chunk().expect("a hash has 32 bytes");
    u64::from_le_bytes(*first)
}

impl PartialEq for Consumers {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Consumers {}

/// The names alone.
impl fmt::Debug for Consumers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.all.iter().map(|consumer| &consumer.name)).finish()
    }
}
