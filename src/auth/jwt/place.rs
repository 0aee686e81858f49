//! Where the token of a request stands.

use crate::auth::basic;
use crate::base::request::Request;
use crate::error::{Denial, TokenFault};
use http::header::COOKIE;
use http::HeaderName;
use std::borrow::Cow;

/// Where a token may stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenPlace {
    /// `Authorization: Bearer` (RFC 6750 §2.1).
    Bearer,
    /// All of a field.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(Box<str>),
}

/// The one token that there is.
///
/// # Errors
/// There are several (RFC 6750 §2), or there is an empty one.
pub(super) fn find<'a>(
    places: &[TokenPlace],
    request: &Request<'a>,
) -> Result<Option<Cow<'a, [u8]>>, Denial> {
    let mut found = None;
    for place in places {
        let here = match place {
            TokenPlace::Bearer => basic::authorization(request, "bearer")?.map(Cow::Borrowed),
            TokenPlace::Header(name) => {
                let value = request.headers.only(name).map_err(|_| Denial::Ambiguous)?;
                value.map(|value| Cow::Borrowed(value.trim_ascii()))
            }
            TokenPlace::Cookie(name) => cookie(request, name)?.map(Cow::Owned),
        };
        if here.is_some() && found.is_some() {
            return Err(Denial::Ambiguous);
        }
        found = here.or(found);
    }
    match found {
        Some(token) if token.is_empty() => Err(Denial::Token(TokenFault::Malformed)),
        found => Ok(found),
    }
}

/// The name and the value of a cookie (RFC 6265 §5.4).
fn pair(text: &[u8]) -> (&[u8], &[u8]) {
    let text = text.trim_ascii();
    match memchr::memchr(b'=', text) {
        Some(at) => (text[..at].trim_ascii(), text[at + 1..].trim_ascii()),
        None => (text, &[]),
    }
}

/// HTTP/2 may have each cookie on a line of its own (RFC 9113 §8.2.3).
fn cookie(request: &Request<'_>, name: &str) -> Result<Option<Vec<u8>>, Denial> {
    let (mut found, mut several) = (None, false);
    request.headers.any(&COOKIE, &mut |line| {
        for (its, value) in line.split(|byte| *byte == b';').map(pair) {
            if its == name.as_bytes() {
                several |= found.replace(value.to_vec()).is_some();
            }
        }
        false
    });
    match several {
        true => Err(Denial::Ambiguous),
        false => Ok(found),
    }
}

/// The cookies of a request but these, as one line; none: none of these is there. An empty line is none.
pub fn without_cookies(request: &Request<'_>, names: &[&str]) -> Option<Vec<u8>> {
    let (mut rest, mut gone): (Vec<u8>, bool) = (Vec::new(), false);
    request.headers.any(&COOKIE, &mut |line| {
        for text in line.split(|byte| *byte == b';') {
            let (name, _) = pair(text);
            if names.iter().any(|one| one.as_bytes() == name) {
                gone = true;
            } else if !text.trim_ascii().is_empty() {
                if !rest.is_empty() {
                    rest.extend_from_slice(b"; ");
                }
                rest.extend_from_slice(text.trim_ascii());
            }
        }
        false
    });
    gone.then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue};

    fn with<T>(fields: &[(&'static str, &str)], of: impl FnOnce(&Request<'_>) -> T) -> T {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        of(&Request { method: "GET", host: "", path: "/", query: "", headers: &headers })
    }

    #[test]
    fn one_token_and_no_more() {
        let places = [
            TokenPlace::Bearer,
            TokenPlace::Header(HeaderName::from_static("x-token")),
            TokenPlace::Cookie("session".into()),
        ];
        let find = |fields: &[(&'static str, &str)]| {
            with(fields, |request| {
                let found = find(&places, request);
                found.map(|token| token.map(|token| String::from_utf8(token.into_owned()).unwrap()))
            })
        };
        let one = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(find(&[]), Ok(None));
        assert_eq!(find(&[("authorization", "Basic YTpi")]), Ok(None));
        assert_eq!(find(&[("authorization", "bEARER  a.b.c ")]), one("a.b.c"));
        assert_eq!(find(&[("x-token", "a.b.c")]), one("a.b.c"));
        assert_eq!(find(&[("cookie", "a=1; session=a.b.c;b=2")]), one("a.b.c"));
        assert_eq!(find(&[("cookie", "a=1"), ("cookie", "session=a.b.c")]), one("a.b.c"));
        assert_eq!(find(&[("cookie", "xsession=a; sessionx=b")]), Ok(None));
        let empty = Err(Denial::Token(TokenFault::Malformed));
        for bare in [[("authorization", "Bearer")], [("authorization", "Bearer ")], [("cookie", "session=")]]
        {
            assert_eq!(find(&bare), empty, "{bare:?}");
        }
        let twice = [
            [("authorization", "Bearer a"), ("authorization", "Bearer a")],
            [("authorization", "Bearer a"), ("authorization", "Basic a")],
            [("authorization", "Bearer a"), ("x-token", "a")],
            [("x-token", "a"), ("x-token", "a")],
            [("x-token", "a"), ("cookie", "session=a")],
            [("cookie", "session=a; session=a"), ("accept", "a")],
            [("cookie", "session=a"), ("cookie", "session=b")],
        ];
        for fields in twice {
            assert_eq!(find(&fields), Err(Denial::Ambiguous), "{fields:?}");
        }
    }

    #[test]
    fn other_cookies_go_on() {
        let without = |lines: &[(&'static str, &str)]| {
            with(lines, |request| without_cookies(request, &["session"]))
                .map(|rest| String::from_utf8(rest).unwrap())
        };
        assert_eq!(without(&[("cookie", "a=1")]), None);
        assert_eq!(without(&[("cookie", "session=x")]).as_deref(), Some(""));
        assert_eq!(without(&[("cookie", "a=1;session=x; b=\"2\";")]).as_deref(), Some("a=1; b=\"2\""));
        assert_eq!(
            without(&[("cookie", "a=1"), ("cookie", "session=x"), ("cookie", "b=2")]).as_deref(),
            Some("a=1; b=2")
        );
    }
}
