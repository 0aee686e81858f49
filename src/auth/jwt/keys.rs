//! Key sets (RFC 7517), read once into what verifies signatures. What a key may verify is settled here, by its type, its
//! curve, its size and what it says of itself: a token only chooses among that.

use super::algorithm::{Algorithm, Kind};
use super::json;
use crate::error::TokenFault;
use aws_lc_rs::signature::{ParsedPublicKey, RsaPublicKeyComponents};
use aws_lc_rs::{digest, hmac};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use serde_json::{Map, Value};
use std::fmt;
use zeroize::Zeroizing;

/// The most keys of a set.
pub const MOST_KEYS: usize = 100;
/// How many keys are tried for a token that names none.
const MOST_TRIED: usize = 4;
/// The fewest and the most bits of an RSA key: what is shorter can be broken, what is longer costs too much to verify with.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The keys of one provider.
pub struct KeySet {
    keys: Vec<Key>,
    /// Whether a name in a token is passed over: a secret of the configuration's has none.
    nameless: bool,
    /// Tells this set from any other.
    fingerprint: [u8; 32],
    /// What is wrong with those that are left out.
    flaws: Vec<String>,
}

struct Key {
    kid: Option<Box<str>>,
    /// It is too short, and verifies nothing.
    weak: bool,
    /// What it verifies, by algorithm; those of the provider's that it fits.
    verifiers: Vec<(Algorithm, Verifier)>,
}

/// A key with its algorithm.
pub(super) enum Verifier {
    /// Of a public key.
    Public(ParsedPublicKey),
    /// Of a secret.
    Secret(Box<hmac::Key>),
}

impl Verifier {
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Verifier::Public(key) => key.verify_sig(message, signature).is_ok(),
            Verifier::Secret(key) => hmac::verify(key, message, signature).is_ok(), // in constant time
        }
    }
}

impl KeySet {
    /// Reads a set. Keys that the algorithms have no use for are left out; a secret only counts where it may come in this way:
    /// one that is fetched is no secret.
    ///
    /// # Errors
    /// That it is none, has too many keys, or none of use.
    pub fn parse(bytes: &[u8], algorithms: &[Algorithm], secrets: bool) -> Result<KeySet, String> {
        let set = json::object(bytes).map_err(|fault| match fault {
            TokenFault::DuplicateMember => "not a key set: a member stands twice".to_owned(),
            _ => "not a key set: it is not one JSON object".to_owned(),
        })?;
        let Some(Value::Array(all)) = set.get("keys") else {
            return Err("not a key set: it has no list called keys (RFC 7517 §5)".to_owned());
        };
        if all.len() > MOST_KEYS {
            return Err(format!("{} keys, and {MOST_KEYS} are the most", all.len()));
        }
        let (mut keys, mut flaws) = (Vec::new(), Vec::new());
        for (at, jwk) in all.iter().enumerate() {
            let Value::Object(jwk) = jwk else {
                flaws.push(format!("key {at} is no object"));
                continue;
            };
            match Key::read(jwk, algorithms, secrets) {
                Ok(key) => {
                    if key.weak {
                        flaws.push(format!("key {at} is too short, and verifies nothing"));
                    }
                    keys.push(key);
                }
                Err(why) => flaws.push(format!("key {at} {why}")),
            }
        }
        if keys.iter().all(|key| key.weak) {
            let why = flaws.first().map_or_else(|| "it has none".to_owned(), Clone::clone);
            return Err(format!("no key that can be used: {why}"));
        }
        Ok(KeySet { keys, nameless: false, fingerprint: sha256(bytes), flaws })
    }

    /// One secret that both sides have.
    ///
    /// # Errors
    /// That it is too short for an algorithm (RFC 7518 §3.2).
    pub fn secret(secret: &[u8], algorithms: &[Algorithm]) -> Result<KeySet, String> {
        let needed = algorithms.iter().map(|algorithm| algorithm.shortest_secret()).max().unwrap_or(32);
        if secret.len() < needed {
            return Err(format!(
                "a secret of {} bytes can be found out by trying; {needed} are needed (RFC 7518 §3.2), as `openssl rand -hex 32` makes",
                secret.len()
            ));
        }
        let key = Key { kid: None, weak: false, verifiers: secrets(secret, algorithms) };
        Ok(KeySet { keys: vec![key], nameless: true, fingerprint: sha256(secret), flaws: Vec::new() })
    }

    /// How many keys there are that verify something.
    pub fn len(&self) -> usize {
        self.keys.iter().filter(|key| !key.weak).count()
    }

    /// Whether there is none; that is refused when a set is read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether both have the same content.
    pub fn is(&self, other: &KeySet) -> bool {
        self.fingerprint == other.fingerprint
    }

    /// What is wrong with keys that are left out.
    pub fn flaws(&self) -> &[String] {
        &self.flaws
    }

    /// Whether one of these keys has signed it.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), TokenFault> {
        let kid = kid.filter(|_| !self.nameless);
        let named = || self.keys.iter().filter(|key| kid.is_none() || key.kid.as_deref() == kid);
        if named().next().is_none() {
            return Err(TokenFault::KidUnknown);
        }
        let fitting = || named().filter_map(|key| key.verifier(algorithm));
        match fitting().take(MOST_TRIED + 1).count() {
            0 if named().any(|key| key.weak) => Err(TokenFault::KeyWeak),
            0 => Err(TokenFault::KeyType),
            count if count > MOST_TRIED => Err(TokenFault::KidMissing),
            _ if fitting().any(|verifier| verifier.verify(message, signature)) => Ok(()),
            _ => Err(TokenFault::Signature),
        }
    }
}

/// Not the keys, which may be secrets.
impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Key {
    fn verifier(&self, algorithm: Algorithm) -> Option<&Verifier> {
        self.verifiers.iter().find(|(its, _)| *its == algorithm).map(|(_, verifier)| verifier)
    }

    /// Reads a key, or says why it is of no use.
    fn read(jwk: &Map<String, Value>, algorithms: &[Algorithm], secrets: bool) -> Result<Key, String> {
        let text = |name: &str| match jwk.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(format!("has a {name} that is no text")),
        };
        let kid: Option<Box<str>> = text("kid")?.map(Into::into);
        if text("use")?.is_some_and(|purpose| purpose != "sig") {
            return Err("is not for signatures".to_owned());
        }
        if let Some(operations) = jwk.get("key_ops") {
            let verifies = |all: &Vec<Value>| all.iter().any(|one| one == "verify");
            if !operations.as_array().is_some_and(verifies) {
                return Err("is not for verifying".to_owned());
            }
        }
        let own: Option<&str> = text("alg")?;
        let allowed = |algorithm: &&Algorithm| own.is_none_or(|own| Algorithm::of(own) == Some(**algorithm));
        let algorithms: Vec<Algorithm> = algorithms.iter().filter(allowed).copied().collect();
        let (weak, verifiers) = match text("kty")? {
            Some("RSA") => rsa(jwk, &algorithms)?,
            Some("EC" | "OKP") => (false, point(jwk, &algorithms)?),
            Some("oct") if secrets => self::oct(jwk, &algorithms)?,
            Some("oct") => return Err("is a secret, and anybody can fetch this set".to_owned()),
            _ => return Err("is of a type that is not spoken".to_owned()),
        };
        if verifiers.is_empty() && !weak {
            return Err("fits none of `algorithms`".to_owned());
        }
        Ok(Key { kid, weak, verifiers })
    }
}

type Verifiers = Vec<(Algorithm, Verifier)>;

/// A member in base64url.
fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let text = jwk.get(name).and_then(Value::as_str).ok_or_else(|| format!("has no {name}"))?;
    let decoded = URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("has a {name} that is not base64url"))?;
    Ok(Zeroizing::new(decoded))
}

fn rsa(jwk: &Map<String, Value>, algorithms: &[Algorithm]) -> Result<(bool, Verifiers), String> {
    let (n, e) = (bytes(jwk, "n")?, bytes(jwk, "e")?);
    let trim =
        |all: &[u8]| all.iter().position(|byte| *byte != 0).map_or(Vec::new(), |at| all[at..].to_vec());
    let (n, e) = (trim(&n), trim(&e));
    let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
    if bits > *RSA_BITS.end() {
        return Err(format!("has {bits} bits, and {} are the most", RSA_BITS.end()));
    }
    let mut verifiers = Verifiers::new();
    if bits < *RSA_BITS.start() {
        return Ok((true, verifiers));
    }
    for algorithm in algorithms {
        let Kind::Rsa(parameters) = algorithm.kind() else { continue };
        let key = RsaPublicKeyComponents { n: &n, e: &e }.to_parsed_public_key(parameters);
        verifiers.push((*algorithm, Verifier::Public(key.map_err(|_| "is no key of RSA")?)));
    }
    Ok((false, verifiers))
}

fn point(jwk: &Map<String, Value>, algorithms: &[Algorithm]) -> Result<Verifiers, String> {
    let is = |name: &str, value: &str| jwk.get(name).is_some_and(|own| own == value);
    let mut verifiers = Verifiers::new();
    for algorithm in algorithms {
        let encoded = match algorithm.kind() {
            Kind::Curve(curve, length) if is("kty", "EC") && is("crv", curve) => {
                let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
                if x.len() != length || y.len() != length {
                    return Err(format!("has coordinates of another length than {curve} has"));
                }
                [&[4], &x[..], &y[..]].concat()
            }
            Kind::Edwards if is("kty", "OKP") && is("crv", "Ed25519") => bytes(jwk, "x")?.to_vec(),
            _ => continue,
        };
        let Some(verification) = algorithm.by_point() else { continue };
        let key = ParsedPublicKey::new(verification, encoded);
        verifiers.push((*algorithm, Verifier::Public(key.map_err(|_| "is not on its curve")?)));
    }
    Ok(verifiers)
}

fn oct(jwk: &Map<String, Value>, algorithms: &[Algorithm]) -> Result<(bool, Verifiers), String> {
    let secret = bytes(jwk, "k")?;
    let enough: Vec<Algorithm> =
        algorithms.iter().filter(|algorithm| secret.len() >= algorithm.shortest_secret()).copied().collect();
    let verifiers = secrets(&secret, &enough);
    Ok((verifiers.is_empty() && algorithms.iter().any(|algorithm| algorithm.is_symmetric()), verifiers))
}

fn secrets(secret: &[u8], algorithms: &[Algorithm]) -> Verifiers {
    let verifier = |algorithm: &Algorithm| match algorithm.kind() {
        Kind::Secret(hash) => Some((*algorithm, Verifier::Secret(Box::new(hmac::Key::new(hash, secret))))),
        _ => None,
    };
    algorithms.iter().filter_map(verifier).collect()
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}
