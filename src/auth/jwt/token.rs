//! A token taken apart (RFC 7515 §7.1), strictly: what two readers could read differently is not read.

use super::algorithm::Algorithm;
use super::json;
use crate::error::TokenFault;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use serde_json::{Map, Value};

/// The longest token.
pub const LONGEST: usize = 8 << 10;
/// The longest name of a key.
const LONGEST_KID: usize = 256;

/// A token whose signature nobody has looked at yet.
pub(super) struct Token<'a> {
    pub(super) header: Header,
    /// What the claims say, if the signature is good.
    pub(super) claims: Map<String, Value>,
    /// What is signed.
    pub(super) message: &'a [u8],
    pub(super) signature: Vec<u8>,
}

/// What the header says, once it is known that it says nothing else that counts.
pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    /// In lower case, without `application/` (RFC 7515 §4.1.9).
    pub(super) kind: Option<String>,
}

impl<'a> Token<'a> {
    /// Takes a token apart; `allowed` are the algorithms that it may be signed with.
    pub(super) fn read(token: &'a [u8], allowed: &[Algorithm]) -> Result<Self, TokenFault> {
        if token.len() > LONGEST {
            return Err(TokenFault::TooLong);
        }
        let mut dots = memchr::memchr_iter(b'.', token);
        let (first, second) = match (dots.next(), dots.next(), dots.next(), dots.next(), dots.next()) {
            (Some(first), Some(second), None, ..) => (first, second),
            (.., Some(_), None) => return Err(TokenFault::Encrypted),
            _ => return Err(TokenFault::Malformed),
        };
        let (header, claims, signature) = (&token[..first], &token[first + 1..second], &token[second + 1..]);
        let header = Header::read(&json::object(&decode(header)?)?, allowed)?;
        if signature.is_empty() {
            return Err(TokenFault::Unsigned);
        }
        let claims = json::object(&decode(claims)?)?;
        Ok(Token { header, claims, message: &token[..second], signature: decode(signature)? })
    }
}

/// Neither padding nor white space nor bits left over.
fn decode(part: &[u8]) -> Result<Vec<u8>, TokenFault> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenFault::Base64)
}

impl Header {
    fn read(members: &Map<String, Value>, allowed: &[Algorithm]) -> Result<Header, TokenFault> {
        // Keys come from the configuration and from nowhere else (RFC 8725 §3.10).
        let brought = [
            ("jku", TokenFault::Jku),
            ("jwk", TokenFault::Jwk),
            ("x5u", TokenFault::X5u),
            ("x5c", TokenFault::X5c),
            ("enc", TokenFault::Encrypted),
        ];
        if let Some((_, fault)) = brought.iter().find(|(name, _)| members.contains_key(*name)) {
            return Err(*fault);
        }
        if members.get("b64").is_some_and(|encoded| *encoded != Value::Bool(true)) {
            return Err(TokenFault::Unencoded);
        }
        if members.contains_key("crit") {
            return Err(TokenFault::Crit);
        }
        let text = |name: &str| match members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(TokenFault::Malformed),
        };
        let algorithm = algorithm(text("alg")?.ok_or(TokenFault::Malformed)?, allowed)?;
        if text("cty")?.is_some_and(|content| bare(content) == "jwt") {
            return Err(TokenFault::Nested);
        }
        let kid = text("kid")?;
        if kid.is_some_and(|kid| kid.len() > LONGEST_KID) {
            return Err(TokenFault::Malformed);
        }
        Ok(Header { algorithm, kid: kid.map(str::to_owned), kind: text("typ")?.map(bare) })
    }
}

fn algorithm(name: &str, allowed: &[Algorithm]) -> Result<Algorithm, TokenFault> {
    if name.eq_ignore_ascii_case("none") {
        return Err(TokenFault::AlgNone);
    }
    let algorithm = Algorithm::of(name).ok_or(TokenFault::AlgNotAllowed)?;
    if allowed.contains(&algorithm) {
        return Ok(algorithm);
    }
    if allowed.iter().all(|one| one.is_symmetric() != algorithm.is_symmetric()) {
        return Err(TokenFault::AlgConfusion);
    }
    Err(TokenFault::AlgNotAllowed)
}

/// A media type as RFC 7515 §4.1.9 compares it.
pub(super) fn bare(kind: &str) -> String {
    let lower = kind.to_ascii_lowercase();
    match lower.strip_prefix("application/") {
        Some(rest) if !rest.contains('/') => rest.to_owned(),
        _ => lower,
    }
}
