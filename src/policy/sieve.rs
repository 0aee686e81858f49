//! Which of a client's fields go on: `request_headers: {only: […]}` and `method_override`.
//!
//! It looks at what the client sent; what the gateway adds comes after it.

use crate::base::request::Headers;
use crate::error::Reject;
use http::HeaderName;

/// What becomes of a request that asks to be taken for one with another method.
///
/// Routes, identities and limits go by the method of the request; an upstream that goes by a field in its place would do
/// what nobody has allowed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MethodOverride {
    /// It is refused.
    #[default]
    Refuse,
    /// It goes on without.
    Drop,
    /// It goes on as it is: the upstream is known to have asked for it.
    Pass,
}

impl MethodOverride {
    /// Whether a request with these fields may come in.
    ///
    /// # Errors
    /// [`Reject::MethodOverride`].
    pub fn admit(self, headers: &dyn Headers) -> Result<(), Reject> {
        if self == MethodOverride::Refuse && headers.any_name(&mut |name| is_override(name)) {
            return Err(Reject::MethodOverride);
        }
        Ok(())
    }
}

/// Fields by which frameworks take one method for another; `_` for `-`, as CGI-like servers do.
fn is_override(name: &str) -> bool {
    const NAMES: [&[u8]; 3] = [b"x-http-method-override", b"x-http-method", b"x-method-override"];
    let name = name.as_bytes();
    if name.first() != Some(&b'x') {
        return false; // most names, at once
    }
    let same = |a: &u8, b: &u8| a == b || (*a == b'_' && *b == b'-');
    NAMES.iter().any(|n| name.len() == n.len() && name.iter().zip(*n).all(|(a, b)| same(a, b)))
}

/// What is kept back of a client's fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sieve {
    /// Nothing else goes on, if there is such a list, but what always does (see `keeps`).
    pub only: Option<Box<[HeaderName]>>,
    /// Not these that ask for another method.
    pub no_overrides: bool,
}

impl Sieve {
    /// Whether everything goes on.
    pub fn is_open(&self) -> bool {
        self.only.is_none() && !self.no_overrides
    }

    /// Whether a field goes on.
    pub fn passes(&self, name: &HeaderName) -> bool {
        if self.no_overrides && is_override(name.as_str()) {
            return false;
        }
        self.only.as_ref().is_none_or(|only| only.contains(name) || keeps(name.as_str()))
    }
}

/// What frames a message or belongs to the protocol it is spoken in, and what hops in front of us have written: the
/// gateway sees to these itself. The handshake of a WebSocket is one of those protocols (RFC 6455 §4.1).
fn keeps(name: &str) -> bool {
    const NAMES: [&str; 12] = [
        "connection",
        "content-length",
        "expect",
        "forwarded",
        "host",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    ];
    NAMES.contains(&name) || name.starts_with("sec-websocket-") || name.starts_with("x-forwarded-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue};

    #[test]
    fn every_spelling_of_an_override_is_known() {
        let mut headers = HeaderMap::new();
        headers.insert("x-http-methods", HeaderValue::from_static("DELETE"));
        headers.insert("x-tenant", HeaderValue::from_static("DELETE"));
        assert_eq!(MethodOverride::Refuse.admit(&headers), Ok(()));
        for name in [
            "x-http-method-override",
            "x-http-method",
            "x-method-override",
            "x_http_method_override",
            "x-http_method",
            "x_method-override",
        ] {
            let mut headers = headers.clone();
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("DELETE"));
            assert_eq!(MethodOverride::Refuse.admit(&headers), Err(Reject::MethodOverride), "{name}");
            assert_eq!(MethodOverride::Pass.admit(&headers), Ok(()));
            assert_eq!(MethodOverride::Drop.admit(&headers), Ok(()));
            let sieve = Sieve { only: None, no_overrides: true };
            assert!(!sieve.passes(&HeaderName::from_static(name)));
            assert!(sieve.passes(&HeaderName::from_static("x-tenant")));
        }
    }

    #[test]
    fn only_what_is_listed_and_what_frames_goes_on() {
        let only = [HeaderName::from_static("accept")];
        let sieve = Sieve { only: Some(only.into()), no_overrides: false };
        for passes in
            ["accept", "host", "content-length", "sec-websocket-key", "x-forwarded-for", "traceparent"]
        {
            assert!(sieve.passes(&HeaderName::from_static(passes)), "{passes}");
        }
        for stays in ["cookie", "authorization", "x-tenant", "accept-language", "x-real-ip", "content-type"] {
            assert!(!sieve.passes(&HeaderName::from_static(stays)), "{stays}");
        }
        assert!(Sieve::default().is_open() && Sieve::default().passes(&HeaderName::from_static("x")));
    }
}
