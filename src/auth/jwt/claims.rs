//! What the claims of a token have to say (RFC 7519 §4.1), and what becomes of them.

use super::Settings;
use crate::auth::consumer::is_name;
use crate::auth::Claims;
use crate::error::TokenFault;
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

/// The last second of the year 9999; what is later was not meant.
const LAST: f64 = 253_402_300_799.0;

/// The claims that can be required to be there.
pub const REGISTERED: [&str; 5] = ["exp", "nbf", "iat", "sub", "jti"];

/// From when and until when a token is good, in seconds since 1970, leeway included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    from: i64,
    /// The first second at which it is not.
    until: i64,
}

impl Span {
    pub(super) fn check(self, now: i64) -> Result<(), TokenFault> {
        if now >= self.until {
            return Err(TokenFault::Expired);
        }
        if now < self.from {
            return Err(TokenFault::NotYet);
        }
        Ok(())
    }
}

/// Whether the provider is the issuer. Asked before anything is verified, so that a token of another provider's costs
/// nothing more: it can only refuse.
pub(super) fn issuer(settings: &Settings, claims: &Map<String, Value>) -> Result<(), TokenFault> {
    match text(claims, "iss")? {
        Some(issuer) if *issuer == *settings.issuer => Ok(()),
        Some(_) => Err(TokenFault::Issuer),
        None => Err(TokenFault::ClaimMissing),
    }
}

/// Whether all else is as the provider wants it; for how long it is.
pub(super) fn check(settings: &Settings, claims: &Map<String, Value>, now: i64) -> Result<Span, TokenFault> {
    if settings.require.iter().any(|name| !claims.contains_key(&**name)) {
        return Err(TokenFault::ClaimMissing);
    }
    let (sub, jti) = (text(claims, "sub")?, text(claims, "jti")?);
    if [sub, jti].iter().flatten().any(|text| text.is_empty()) {
        return Err(TokenFault::Claim);
    }
    let (exp, nbf, iat) = (time(claims, "exp")?, time(claims, "nbf")?, time(claims, "iat")?);
    let leeway = settings.leeway.as_secs() as i64;
    let span = Span {
        from: nbf.map_or(i64::MIN, |nbf| nbf.ceil() as i64 - leeway),
        until: exp.map_or(i64::MAX, |exp| exp.floor() as i64 + leeway),
    };
    span.check(now)?;
    if iat.is_some_and(|iat| iat > (now + leeway) as f64) {
        return Err(TokenFault::Future);
    }
    audience(settings, claims)?;
    Ok(span)
}

/// One of the audience is enough (RFC 7519 §4.1.3).
fn audience(settings: &Settings, claims: &Map<String, Value>) -> Result<(), TokenFault> {
    let ours = |one: &str| settings.audience.iter().any(|ours| **ours == *one);
    let found = match claims.get("aud") {
        None if settings.audience.is_empty() => return Ok(()),
        None => return Err(TokenFault::ClaimMissing),
        Some(Value::String(one)) => ours(one),
        Some(Value::Array(all)) => {
            let mut found = false;
            for one in all {
                found |= ours(one.as_str().ok_or(TokenFault::Malformed)?);
            }
            found
        }
        Some(_) => return Err(TokenFault::Malformed),
    };
    if found || settings.audience.is_empty() {
        Ok(())
    } else {
        Err(TokenFault::Audience)
    }
}

fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, TokenFault> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(TokenFault::Malformed),
    }
}

/// A NumericDate (RFC 7519 §2), which may have a fraction.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, TokenFault> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..=LAST).contains(seconds));
    seconds.map(Some).ok_or(TokenFault::Time)
}

/// What the claims come to: scopes from `scope` or `scp`, groups from the claim that the provider names. What is no name of
/// a group is none: it would be two in a list between commas.
pub(super) fn gather(settings: &Settings, all: Map<String, Value>) -> Claims {
    let scopes = all.get("scope").or_else(|| all.get("scp")).map(words).unwrap_or_default();
    let subject = all.get("sub").and_then(Value::as_str).unwrap_or_default().into();
    let mut claims = Claims { subject, groups: Box::default(), scopes, all };
    let groups = settings.groups_claim.as_ref().and_then(|name| claims.get(name));
    let groups = match groups {
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(one)) => vec![one.as_str()],
        _ => Vec::new(),
    };
    claims.groups = groups.into_iter().filter_map(|one| is_name(one).ok()).map(Into::into).collect();
    claims
}

/// Words between spaces (RFC 8693 §4.2), or a list of them.
fn words(value: &Value) -> Box<[Box<str>]> {
    match value {
        Value::String(text) => text.split(' ').filter(|word| !word.is_empty()).map(Into::into).collect(),
        Value::Array(all) => all.iter().filter_map(Value::as_str).map(Into::into).collect(),
        _ => Box::default(),
    }
}

/// What the upstream is told of a token. A claim that is not there is not told.
pub(super) fn fields(
    settings: &Settings,
    claims: &Claims,
) -> Result<Box<[(HeaderName, HeaderValue)]>, TokenFault> {
    let mut fields = Vec::with_capacity(settings.claims_to_headers.len());
    for (name, claim) in &settings.claims_to_headers {
        match claims.get(claim) {
            None | Some(Value::Null) => {}
            Some(value) => fields.push((name.clone(), field(value)?)),
        }
    }
    Ok(fields.into())
}

/// A claim as a field's value: texts as they are, in UTF-8, lists between commas. What would be read as something else is
/// refused: white space at either end, control characters, a comma within what is between commas.
fn field(value: &Value) -> Result<HeaderValue, TokenFault> {
    let text = match value {
        Value::Array(all) => {
            let items: Result<Vec<String>, TokenFault> = all.iter().map(scalar).collect();
            let items = items?;
            if items.iter().any(|item| item.contains(',') || item.trim() != item || item.is_empty()) {
                return Err(TokenFault::Field);
            }
            items.join(",")
        }
        other => scalar(other)?,
    };
    let sound = text.trim() == text && !text.chars().any(char::is_control);
    HeaderValue::try_from(text).ok().filter(|_| sound).ok_or(TokenFault::Field)
}

fn scalar(value: &Value) -> Result<String, TokenFault> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(TokenFault::Field),
    }
}
