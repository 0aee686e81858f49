//! `cors`: which pages of other origins may use a route from a browser, as the Fetch standard's CORS protocol has it
//! (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
//!
//! It tells browsers what pages may do; it keeps nobody out who is no browser, and it does not guard WebSockets, for which
//! browsers do not ask. A preflight is answered here and goes nowhere else; whether what it asks for is among the methods
//! and fields told is for the browser to compare.

use super::Reply;
use crate::error::Reject;
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use std::time::Duration;

/// What pages of other origins may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Those pages.
    pub origins: Origins,
    /// The methods besides those that need no leave, as a field has them.
    pub methods: HeaderValue,
    /// The request's fields likewise.
    pub headers: Option<HeaderValue>,
    /// The fields of the answer that they may see besides the usual ones.
    pub expose: Option<HeaderValue>,
    /// Whether cookies and the like are sent.
    pub credentials: bool,
    /// For how long browsers may remember the answer to a preflight.
    pub max_age: Option<Duration>,
}

/// Origins of pages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    /// All of them.
    pub any: bool,
    /// These, as browsers write them.
    pub exact: Vec<Box<str>>,
    /// All that begin and end so, with labels of a name between: `https://` and `.example.com`.
    pub under: Vec<(Box<str>, Box<str>)>,
}

/// What an upstream may say to browsers, none of which is for it to say where the gateway does.
pub const FIELDS: [HeaderName; 7] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
    HeaderName::from_static("access-control-allow-private-network"),
];

/// What the answer to a preflight depends on, the route included.
const VARY: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");

impl Cors {
    /// What `Access-Control-Allow-Origin` says to who comes from this origin; none: nothing.
    ///
    /// Where everybody may, it is told to everybody, so that an answer which a cache keeps is good for all.
    pub fn allowed(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        if self.origins.any {
            return Some(HeaderValue::from_static("*"));
        }
        origin.filter(|origin| self.origins.contain(origin.as_bytes())).cloned()
    }

    /// Whether answers are different for different origins.
    pub fn varies(&self) -> bool {
        !self.origins.any
    }

    /// The answer to a preflight (204) from this origin; none when it has none, or several.
    ///
    /// # Errors
    /// [`Reject::CorsOrigin`] for one that may do nothing. Browsers take any answer without the right fields for that; this
    /// one says so to people as well.
    pub fn preflight(&self, origin: Option<&HeaderValue>) -> Result<Reply, Reject> {
        let allowed = origin.and_then(|origin| self.allowed(Some(origin))).ok_or(Reject::CorsOrigin)?;
        let mut fields = vec![
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed),
            (header::ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone()),
            (header::VARY, VARY),
        ];
        if let Some(headers) = &self.headers {
            fields.push((header::ACCESS_CONTROL_ALLOW_HEADERS, headers.clone()));
        }
        if self.credentials {
            fields.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
        if let Some(age) = self.max_age {
            fields.push((header::ACCESS_CONTROL_MAX_AGE, age.as_secs().into()));
        }
        Ok(Reply { status: 204, fields, body: Bytes::new() })
    }
}

impl Origins {
    /// Whether this is one of them, byte for byte: browsers write an origin in one way only.
    fn contain(&self, origin: &[u8]) -> bool {
        self.exact.iter().any(|exact| exact.as_bytes() == origin)
            || self.under.iter().any(|(scheme, suffix)| {
                let rest = origin.strip_prefix(scheme.as_bytes());
                let front = rest.and_then(|rest| rest.strip_suffix(suffix.as_bytes()));
                front.is_some_and(|front| {
                    let of_a_name =
                        |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(b);
                    !front.is_empty() && front.iter().all(of_a_name)
                })
            })
    }

    /// Adds one as the configuration has it: `*`, `null`, `https://app.example.com`, `https://*.example.com`.
    ///
    /// # Errors
    /// What to write instead.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        const FORM: &str = "an origin such as https://app.example.com or https://*.example.com";
        if text == "*" {
            self.any = true;
            return Ok(());
        }
        let put = |exact: &mut Vec<Box<str>>, origin: &str| {
            if exact.iter().any(|other| **other == *origin) {
                return Err(format!("{origin} stands twice"));
            }
            exact.push(origin.into());
            Ok(())
        };
        if text == "null" {
            return put(&mut self.exact, text);
        }
        let bad = || format!("expected {FORM}, found {text:?}");
        let (scheme, host) = text.split_once("://").ok_or_else(bad)?;
        let lower = text.to_ascii_lowercase();
        if lower != text {
            return Err(format!("browsers write origins in lower case; write {lower}"));
        }
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
        if !scheme.starts_with(|c: char| c.is_ascii_lowercase()) || !scheme.bytes().all(plain) {
            return Err(bad());
        }
        if let Some((bare, _)) = host.split_once(['/', '?', '#']).filter(|(bare, _)| !bare.is_empty()) {
            return Err(format!("an origin has no path; write {scheme}://{bare}"));
        }
        match (scheme, host.rsplit_once(':')) {
            ("https", Some((bare, "443"))) | ("http", Some((bare, "80"))) => {
                return Err(format!("browsers leave out the usual port; write {scheme}://{bare}"));
            }
            _ => {}
        }
        let Some(suffix) = host.strip_prefix("*.") else {
            host_and_port(host).ok_or_else(bad)?;
            return put(&mut self.exact, text);
        };
        host_and_port(suffix).filter(|_| !suffix.starts_with('[')).ok_or_else(bad)?;
        let under: (Box<str>, Box<str>) = (format!("{scheme}://").into(), format!(".{suffix}").into());
        if self.under.contains(&under) {
            return Err(format!("{text} stands twice"));
        }
        self.under.push(under);
        Ok(())
    }
}

/// `name`, `name:port`, `[v6]:port` as browsers write them.
fn host_and_port(text: &str) -> Option<()> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port_is_good =
        port.is_none_or(|port| port.parse::<u16>().is_ok_and(|n| n > 0 && n.to_string() == port));
    let of_a_name = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let host_is_good = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok_and(|ip| ip.to_string() == v6),
        None => !host.is_empty() && host.bytes().all(of_a_name) && !host.split('.').any(str::is_empty),
    };
    (port_is_good && host_is_good).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(texts: &[&str]) -> Origins {
        let mut origins = Origins::default();
        texts.iter().for_each(|text| origins.add(text).unwrap());
        origins
    }

    #[test]
    fn origins_are_compared_byte_for_byte() {
        let origins =
            origins(&["https://app.example.com", "https://*.example.org:8443", "http://[::1]:8080"]);
        for good in [
            "https://app.example.com",
            "https://a.example.org:8443",
            "https://a.b.example.org:8443",
            "http://[::1]:8080",
        ] {
            assert!(origins.contain(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "null",
            "*",
            "HTTPS://app.example.com",
            "https://APP.example.com",
            "http://app.example.com",
            "https://app.example.com:443",
            "https://app.example.com/",
            "https://app.example.com.evil.test",
            "https://evil.test#app.example.com",
            "https://xapp.example.com",
            "https://example.org:8443",
            "https://.example.org:8443",
            "https://a.example.org",
            "https://a.example.org:84430",
            "https://evilexample.org:8443",
            "https://evil.test/.example.org:8443",
            "https://evil.test:1#.example.org:8443",
            "https://user@a.example.org:8443",
            "https://a\u{e9}.example.org:8443",
            " https://app.example.com",
        ] {
            assert!(!origins.contain(bad.as_bytes()), "{bad}");
        }
        assert!(self::origins(&["null"]).contain(b"null"));
        assert!(!self::origins(&["*"]).contain(b"null"), "which is for `any` to say");
    }

    #[test]
    fn what_no_browser_sends_cannot_be_written() {
        for (bad, advice) in [
            ("https://App.example.com", "write https://app.example.com"),
            ("https://app.example.com/", "an origin has no path; write https://app.example.com"),
            ("https://app.example.com:443", "write https://app.example.com"),
            ("http://app.example.com:80", "write http://app.example.com"),
            ("app.example.com", "expected an origin"),
            ("https://", "expected an origin"),
            ("https:///x", "expected an origin"),
            ("https://*", "expected an origin"),
            ("https://a.*.com", "expected an origin"),
            ("https://*.", "expected an origin"),
            ("https://*.*.com", "expected an origin"),
            ("https://*.[::1]", "expected an origin"),
            ("https://a..b", "expected an origin"),
            ("https://a:0", "expected an origin"),
            ("https://a:080", "expected an origin"),
            ("https://a:x", "expected an origin"),
            ("https://[::0:1]", "expected an origin"),
            ("https://b\u{fc}cher.example", "expected an origin"),
            ("https://u@a", "expected an origin"),
            ("", "expected an origin"),
        ] {
            let error = Origins::default().add(bad).unwrap_err();
            assert!(error.contains(advice), "{bad}: {error}");
        }
        for good in ["https://a", "http://localhost:3000", "capacitor://localhost", "chrome-extension://abc"]
        {
            assert!(Origins::default().add(good).is_ok(), "{good}");
        }
        let mut twice = origins(&["https://a", "null", "https://*.a"]);
        for text in ["https://a", "null", "https://*.a"] {
            assert!(twice.add(text).unwrap_err().contains("twice"));
        }
    }
}
