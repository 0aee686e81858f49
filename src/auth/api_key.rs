//! By API key: a random text in a header or in the query. Only its hash is known here; since the key is random, a fast hash
//! keeps it as safe as a slow one would.

use super::consumer::Consumers;
use super::Identity;
use crate::base::query;
use crate::base::request::Request;
use crate::error::Denial;
use aws_lc_rs::digest;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use http::HeaderName;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};
use zeroize::Zeroizing;

/// Where a key may stand; at least one of the two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// In this field.
    pub header: Option<HeaderName>,
    /// In this parameter of the query.
    pub query: Option<Box<str>>,
}

impl Default for ApiKey {
    fn default() -> Self {
        ApiKey { header: Some(HeaderName::from_static("x-api-key")), query: None }
    }
}

impl ApiKey {
    /// Whose key came with this request; none: there is no key.
    ///
    /// # Errors
    /// It is nobody's, nobody's any more, or there are several.
    pub fn verify(&self, request: &Request<'_>, consumers: &Consumers) -> Result<Option<Identity>, Denial> {
        let Some(hash) = self.find(request)? else { return Ok(None) };
        let (key, consumer) = consumers.by_key(&hash).ok_or(Denial::UnknownKey)?;
        match key.expires {
            Some(end) if now() >= end => Err(Denial::ExpiredKey),
            _ => Ok(Some(Identity::of(consumer))),
        }
    }

    /// The hash of the one key that there is.
    fn find(&self, request: &Request<'_>) -> Result<Option<[u8; 32]>, Denial> {
        let header = match &self.header {
            Some(name) => request.headers.only(name).map_err(|_| Denial::Ambiguous)?,
            None => None,
        };
        let mut found = header.map(hash_given).transpose()?;
        let Some(name) = self.query.as_ref().filter(|_| !request.query.is_empty()) else { return Ok(found) };
        for (_, value) in query::pairs(request.query).filter(|(given, _)| query::is_named(given, name)) {
            if found.is_some() {
                return Err(Denial::Ambiguous);
            }
            found = Some(hash_given(&query::contiguous(value))?);
        }
        Ok(found)
    }
}

fn hash_given(key: &[u8]) -> Result<[u8; 32], Denial> {
    if key.is_empty() {
        return Err(Denial::Malformed);
    }
    Ok(hash(key))
}

/// SHA-256 of a key.
fn hash(key: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, key).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// Reads `sha256:` and 64 hexadecimal digits. What it says of another text does not repeat it: it may be the key.
///
/// # Errors
/// What to write instead.
pub fn parse_hash(text: &str) -> Result<[u8; 32], String> {
    const FORM: &str = "expected sha256: and 64 hexadecimal digits, as `portcullis key new` prints them";
    if text.starts_with(PREFIX) {
        return Err(format!("{FORM}; this is a key itself, which has no place in a file"));
    }
    let digits = text.strip_prefix("sha256:").filter(|digits| digits.len() == 64).ok_or(FORM)?;
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| pair.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(FORM.to_owned()) };
        *byte = (high << 4 | low) as u8;
    }
    Ok(hash)
}

/// How keys that are made here begin, so that people and scanners know one when they see it.
const PREFIX: &str = "pck_";

/// A new key.
pub struct NewKey {
    /// What the consumer gets.
    pub key: Zeroizing<String>,
    /// What the file gets.
    pub hash: String,
}

/// Makes a key of 256 random bits.
///
/// # Errors
/// Why the system gives none.
pub fn new_key() -> Result<NewKey, String> {
    let mut random = Zeroizing::new([0; 32]);
    getrandom::fill(&mut random[..]).map_err(|e| format!("no random numbers: {e}"))?;
    let key = Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&random[..])));
    let mut hash = "sha256:".to_owned();
    self::hash(key.as_bytes()).iter().for_each(|byte| {
        let _ = write!(hash, "{byte:02x}"); // into a string
    });
    Ok(NewKey { key, hash })
}

#[cfg(test)]
mod tests {
    use super::super::consumer::{Consumer, Entry, KeyHash};
    use super::*;
    use http::{HeaderMap, HeaderValue};

    fn table(key: &[u8], expires: Option<i64>) -> Consumers {
        let keys = vec![KeyHash { hash: hash(key), expires }];
        let consumer = Consumer::new("app", &[]);
        Consumers::new(vec![Entry { consumer, keys, login: None, certificate: None }])
    }

    fn ask(method: &ApiKey, headers: &[(&str, &str)], query: &str, table: &Consumers) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let request = Request { method: "GET", host: "", path: "/", query, headers: &map };
        match method.verify(&request, table) {
            Ok(Some(identity)) => identity.name().to_owned(),
            Ok(None) => "nothing".to_owned(),
            Err(e) => e.reason().to_owned(),
        }
    }

    #[test]
    fn a_key_is_found_where_it_may_stand_and_never_chosen_among_several() {
        let key = "x-api-key";
        let both = ApiKey { query: Some("k".into()), ..ApiKey::default() };
        let good = table(b"secret", None);
        for (headers, query, found) in [
            (&[(key, "secret")][..], "", "app"),
            (&[], "k=secret", "app"),
            (&[], "%6B=sec%72et", "app"),
            (&[(key, "wrong")], "", "auth_unknown_key"),
            (&[(key, "Secret")], "", "auth_unknown_key"),
            (&[(key, "secret, secret")], "", "auth_unknown_key"),
            (&[(key, "")], "", "auth_malformed"),
            (&[], "k=", "auth_malformed"),
            (&[], "k", "auth_malformed"),
            (&[(key, "secret"), (key, "secret")], "", "auth_ambiguous"),
            (&[(key, "secret")], "k=secret", "auth_ambiguous"),
            (&[], "k=secret&a=b&k=secret", "auth_ambiguous"),
            (&[], "k=secret&%6b=other", "auth_ambiguous"),
            (&[("authorization", "secret")], "K=secret", "nothing"),
        ] {
            assert_eq!(ask(&both, headers, query, &good), found, "{headers:?} {query}");
        }
        assert_eq!(ask(&ApiKey::default(), &[], "k=secret", &good), "nothing");
        assert_eq!(ask(&ApiKey { header: None, ..both }, &[(key, "secret")], "", &good), "nothing");
    }

    #[test]
    fn a_key_ends_with_its_second() {
        let headers = [("x-api-key", "secret")];
        for (expires, found) in [(now() + 3600, "app"), (now(), "auth_expired_key"), (0, "auth_expired_key")]
        {
            assert_eq!(ask(&ApiKey::default(), &headers, "", &table(b"secret", Some(expires))), found);
        }
    }

    #[test]
    fn new_keys_are_long_and_their_hashes_are_read() {
        let (one, two) = (new_key().unwrap(), new_key().unwrap());
        assert_ne!(*one.key, *two.key);
        assert_eq!(one.key.len(), PREFIX.len() + 43);
        assert_eq!(parse_hash(&one.hash), Ok(hash(one.key.as_bytes())));
        assert_eq!(parse_hash(&one.hash.to_uppercase().replace("SHA", "sha")), parse_hash(&one.hash));
        let short = &one.hash[..70];
        for bad in ["", "sha256:", short, &one.key, &format!("{short}g"), &format!("{}é", &one.hash[..69])] {
            let e = parse_hash(bad).unwrap_err();
            assert!(bad.is_empty() || !e.contains(bad) || bad == "sha256:", "{e}");
        }
    }
}
