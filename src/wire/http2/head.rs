//! A strict reading of an HTTP/2 request's head, made of what the `h2` crate lets through.
//!
//! The crate resets a stream whose head breaks RFC 9113 §8.2 and §8.3 in itself: pseudo-header fields that are missing,
//! unknown, twice there, empty or late, names in upper case, fields of a connection, a `te` but "trailers", a body of another
//! length than announced. What is left is what an upstream behind a gateway, which reads HTTP/1.1, could take otherwise, and
//! how much of it there may be. As for HTTP/1 it is refused, and an answer says why.

use crate::wire::head::{self, HeadError, HeadLimits};
use bytes::BytesMut;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::Uri;
use pingora::http::RequestHeader;

/// Fields that the gateway adds on the way to the upstream, for which there is room from the start.
const MORE: usize = 10;

/// A head that every reader understands alike, as a request of HTTP/1.1 has it: the target in origin form, Host first, the
/// crumbs of a cookie in one field (RFC 9113 §8.2.3).
pub struct Head {
    /// For the engine.
    pub header: RequestHeader,
    /// The client waits for a 100 before it sends the body (RFC 9110 §10.1.1).
    pub expect_continue: bool,
}

/// Checks a head and makes it ready for the engine.
///
/// # Errors
/// Why it is refused.
pub fn check(mut parts: Parts, limits: &HeadLimits) -> Result<Head, HeadError> {
    head::method_allowed(parts.method.as_str().as_bytes())?;
    let target = target(&parts, limits)?;
    let host = host(&parts)?;
    let fields = Fields::read(&parts.headers, target.as_str().len(), limits)?;
    let mut headers = HeaderMap::with_capacity(parts.headers.len() + MORE);
    headers.insert(header::HOST, host);
    if let Some(cookie) = cookie(&parts.headers)? {
        headers.insert(header::COOKIE, cookie);
    }
    let mut name = None;
    for (next, value) in std::mem::take(&mut parts.headers) {
        name = next.or(name);
        let Some(name) = name.as_ref().filter(|name| !matches!(**name, header::HOST | header::COOKIE)) else {
            continue;
        };
        headers.append(name.clone(), value);
    }
    parts.headers = headers;
    parts.uri = Uri::from(target);
    Ok(Head { header: parts.into(), expect_continue: fields.expect_continue })
}

/// The path and query, as an origin-form target (RFC 9113 §8.3.1).
fn target(parts: &Parts, limits: &HeadLimits) -> Result<PathAndQuery, HeadError> {
    let target = parts.uri.path_and_query().ok_or(HeadError::Target)?;
    let text = target.as_str();
    if text.contains('\x7F') {
        return Err(HeadError::Target);
    }
    if text.len() > limits.target {
        return Err(HeadError::TargetTooLong);
    }
    // The crate knows the scheme only where there is an authority.
    let http = parts.uri.scheme_str().is_none_or(|scheme| matches!(scheme, "http" | "https"));
    let form = text.starts_with('/') || (text == "*" && parts.method == http::Method::OPTIONS);
    if !http || !form {
        return Err(HeadError::TargetForm);
    }
    if !text.bytes().any(|byte| head::is_strange(&byte)) {
        return Ok(target.clone());
    }
    let mut encoded = BytesMut::with_capacity(text.len() + 64);
    head::encode(text.as_bytes(), &mut encoded);
    PathAndQuery::from_maybe_shared(encoded.freeze()).map_err(|_| HeadError::Target)
}

/// `:authority`, or Host in its place; both must say the same (RFC 9113 §8.3.1).
fn host(parts: &Parts) -> Result<HeaderValue, HeadError> {
    let mut fields = parts.headers.get_all(header::HOST).iter();
    let (field, second) = (fields.next(), fields.next());
    if second.is_some() {
        return Err(HeadError::HostDuplicate);
    }
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    let Some(host) = authority.map(str::as_bytes).or(field.map(HeaderValue::as_bytes)) else {
        return Err(HeadError::HostMissing);
    };
    let (name, port) = head::authority(host).ok_or(HeadError::HostInvalid)?;
    if let Some(field) = field {
        let (other, other_port) = head::authority(field.as_bytes()).ok_or(HeadError::HostInvalid)?;
        let default = if parts.uri.scheme_str() == Some("https") { 443 } else { 80 };
        if !other.eq_ignore_ascii_case(name) || other_port.unwrap_or(default) != port.unwrap_or(default) {
            return Err(HeadError::HostMismatch);
        }
    }
    HeaderValue::from_bytes(host).map_err(|_| HeadError::HostInvalid)
}

/// What the fields say of the message.
#[derive(Default)]
struct Fields {
    length: Option<u64>,
    expect_continue: bool,
}

impl Fields {
    fn read(headers: &HeaderMap, target: usize, limits: &HeadLimits) -> Result<Fields, HeadError> {
        if headers.len() > limits.fields {
            return Err(HeadError::TooManyFields);
        }
        // As HTTP/1.1 would write them, each with a colon, a space and a line end.
        let lines = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
        if lines.sum::<usize>() + target > limits.size {
            return Err(HeadError::HeadTooLarge);
        }
        let mut fields = Fields::default();
        for (name, value) in headers {
            fields.take(name, value.as_bytes())?;
        }
        Ok(fields)
    }

    fn take(&mut self, name: &HeaderName, value: &[u8]) -> Result<(), HeadError> {
        let text = name.as_str().as_bytes();
        if !text.iter().all(|byte| head::is_tchar(*byte)) {
            return Err(HeadError::FieldName);
        }
        // RFC 9113 §8.2.1: no white space at the ends, which a reader of HTTP/1.1 would trim.
        let bare = |byte: Option<&u8>| !matches!(byte, Some(b' ' | b'\t'));
        if !(value.iter().all(|byte| head::is_text(*byte)) && bare(value.first()) && bare(value.last())) {
            return Err(HeadError::FieldValue);
        }
        match text.len() {
            6 if *name == header::EXPECT => {
                self.expect_continue = value.eq_ignore_ascii_case(b"100-continue");
                self.expect_continue.then_some(()).ok_or(HeadError::Expectation)
            }
            14 if head::is_named(text, b"content-length")? => match self.length.replace(head::length(value)?)
            {
                None => Ok(()),
                Some(_) => Err(HeadError::LengthDuplicate),
            },
            // The name itself does not come as far as here.
            17 if head::is_named(text, b"transfer-encoding")? => Err(HeadError::CodingUnsupported),
            _ => Ok(()),
        }
    }
}

/// The crumbs of a cookie, joined (RFC 9113 §8.2.3).
fn cookie(headers: &HeaderMap) -> Result<Option<HeaderValue>, HeadError> {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let Some(first) = crumbs.next() else { return Ok(None) };
    let Some(second) = crumbs.next() else { return Ok(Some(first.clone())) };
    let mut whole = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(crumb.as_bytes());
    }
    HeaderValue::try_from(whole).map(Some).map_err(|_| HeadError::FieldValue)
}
