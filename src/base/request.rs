//! The plain view of a request: all that the router and the policies see of it.
//!
//! No engine's type appears here, so one decision serves a live request on any engine, `explain`, the
//! configuration tests and the benchmarks. It is a borrowed view and refuses to be changed: a decision is
//! returned, never written into it.

use http::{HeaderMap, HeaderName};

/// Header fields by look-up, over whatever holds them; a decision that waits keeps them.
pub trait Headers: Sync {
    /// True when any value of the field `name` satisfies `pred`.
    ///
    /// A field may come on several lines (RFC 9110, section 5.3); each line is one value here, not split at
    /// commas.
    fn any(&self, name: &HeaderName, pred: &mut dyn FnMut(&[u8]) -> bool) -> bool;

    /// True when the name of any field, in lower case, satisfies `pred`.
    fn any_name(&self, pred: &mut dyn FnMut(&str) -> bool) -> bool;

    /// The value of a field that may stand once, if it stands there.
    ///
    /// # Errors
    /// That it stands there on several lines: whoever has to choose one of them would be lied to.
    fn only(&self, name: &HeaderName) -> Result<Option<&[u8]>, Several>;
}

/// A field stands on several lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Several;

impl Headers for HeaderMap {
    fn any(&self, name: &HeaderName, pred: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.get_all(name).iter().any(|value| pred(value.as_bytes()))
    }

    fn any_name(&self, pred: &mut dyn FnMut(&str) -> bool) -> bool {
        self.keys().any(|name| pred(name.as_str()))
    }

    fn only(&self, name: &HeaderName) -> Result<Option<&[u8]>, Several> {
        let mut values = self.get_all(name).iter();
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(Several),
            (first, None) => Ok(first.map(|value| value.as_bytes())),
        }
    }
}

/// A request as decisions see it. Whoever builds it has normalised it: nothing behind it does so again.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The method as received; methods are case-sensitive (RFC 9110, section 9.1).
    pub method: &'a str,
    /// The host asked for: lower case, no port, no trailing dot, a v6 address in brackets and spelt as RFC
    /// 5952 says; `""` when absent.
    pub host: &'a str,
    /// The normalised path; starts with `/`.
    pub path: &'a str,
    /// The query as received, without its `?`; `""` when absent.
    pub query: &'a str,
    /// The header fields.
    pub headers: &'a dyn Headers,
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn every_line_of_a_field_is_looked_at() {
        let name = HeaderName::from_static("x-tenant");
        let mut headers = HeaderMap::new();
        headers.append(&name, HeaderValue::from_static("one"));
        headers.append(&name, HeaderValue::from_static("two"));
        assert!(Headers::any(&headers, &name, &mut |v| v == b"two"));
        assert!(!Headers::any(&headers, &name, &mut |v| v == b"one, two"));
        assert!(!Headers::any(&headers, &HeaderName::from_static("x-other"), &mut |_| true));
        assert_eq!(headers.only(&name), Err(Several));
        assert_eq!(headers.only(&HeaderName::from_static("x-other")), Ok(None));
        headers.insert(&name, HeaderValue::from_static("one"));
        assert_eq!(headers.only(&name), Ok(Some(&b"one"[..])));
    }
}
