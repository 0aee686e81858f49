//! Queries, paths and URLs without their secrets.

use std::borrow::Cow;

/// A parameter whose name has one of these in it is secret, whatever else the name says.
const PARTS: [&str; 13] = [
    "token",
    "secret",
    "pass",
    "apikey",
    "signature",
    "credential",
    "session",
    "jwt",
    "saml",
    "assertion",
    "private",
    "authorization",
    "cookie",
];
/// And one that is one of these, alone or behind a `-`, `_` or `.`.
const WORDS: [&str; 8] = ["key", "sig", "code", "auth", "pwd", "pin", "otp", "sid"];
const MASK: &[u8] = b"***";

/// What is secret besides the usual names, in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets(pub(super) Vec<String>);

impl Secrets {
    /// Puts a query down (without `?`), the values of secret parameters as `***`.
    pub(super) fn write_query(&self, query: &[u8], out: &mut Vec<u8>) {
        let mut rest = query;
        loop {
            let end = memchr::memchr2(b'&', b';', rest).unwrap_or(rest.len());
            self.write_parameter(&rest[..end], out);
            let Some(separator) = rest.get(end) else { return };
            out.push(*separator);
            rest = &rest[end + 1..];
        }
    }

    fn write_parameter(&self, parameter: &[u8], out: &mut Vec<u8>) {
        let Some(equals) = memchr::memchr(b'=', parameter) else { return out.extend_from_slice(parameter) };
        out.extend_from_slice(&parameter[..=equals]);
        let value = &parameter[equals + 1..];
        if self.is_secret(&parameter[..equals]) {
            return out.extend_from_slice(MASK);
        }
        // A URL in a value has a query or a fragment of its own, which may be escaped once or more often.
        const BEGINS: [&[u8]; 5] = [b"?", b"%3f", b"%253f", b"%23", b"%2523"];
        let inner = BEGINS.iter().filter_map(|begin| find(value, begin)).min();
        out.extend_from_slice(&value[..inner.unwrap_or(value.len())]);
        if inner.is_some() {
            out.extend_from_slice(MASK);
        }
    }

    /// A path whose parameters (`;jsessionid=…`, RFC 3986 §3.3) are masked like those of a query.
    pub fn path<'a>(&self, path: &'a [u8]) -> Cow<'a, [u8]> {
        if memchr::memchr(b';', path).is_none() {
            return Cow::Borrowed(path);
        }
        let mut out = Vec::with_capacity(path.len());
        for (at, segment) in path.split(|b| *b == b'/').enumerate() {
            if at > 0 {
                out.push(b'/');
            }
            let name = memchr::memchr(b';', segment).unwrap_or(segment.len());
            out.extend_from_slice(&segment[..name]);
            if let Some(parameters) = segment.get(name + 1..) {
                out.push(b';');
                self.write_query(parameters, &mut out);
            }
        }
        Cow::Owned(out)
    }

    /// The same for a URL: what follows `?`, and a password before `@`. A fragment may hold a token (OAuth) and is dropped.
    pub(super) fn url<'a>(&self, url: &'a [u8]) -> Cow<'a, [u8]> {
        let url = &url[..memchr::memchr(b'#', url).unwrap_or(url.len())];
        let query = memchr::memchr(b'?', url);
        let place = query.unwrap_or(url.len());
        let authority = url[..place].windows(3).position(|w| w == b"://").map(|at| at + 3);
        let from = authority.unwrap_or(0);
        let end = memchr::memchr(b'/', &url[from..place]).map_or(place, |at| from + at);
        let user = authority.and_then(|_| memchr::memrchr(b'@', &url[from..end]));
        if query.is_none() && user.is_none() && memchr::memchr(b';', url).is_none() {
            return Cow::Borrowed(url);
        }
        let mut out = url[..from].to_vec();
        if user.is_some() {
            out.extend_from_slice(MASK);
        }
        out.extend_from_slice(&url[from + user.unwrap_or(0)..end]);
        out.extend_from_slice(&self.path(&url[end..place]));
        if let Some(at) = query {
            out.push(b'?');
            self.write_query(&url[at + 1..], &mut out);
        }
        Cow::Owned(out)
    }

    fn is_secret(&self, name: &[u8]) -> bool {
        let mut plain = [0; 64];
        let Some(name) = decoded(name, &mut plain) else { return true }; // too long to be sure
        has_part(name)
            || WORDS.iter().any(|word| ends_with_word(name, word.as_bytes()))
            || self.0.iter().any(|own| name == own.as_bytes())
    }
}

fn ends_with_word(name: &[u8], word: &[u8]) -> bool {
    let before = name.strip_suffix(word);
    before.is_some_and(|before| before.last().is_none_or(|b| matches!(b, b'-' | b'_' | b'.')))
}

/// Where `what`, in lower case, stands in a value of any case.
fn find(value: &[u8], what: &[u8]) -> Option<usize> {
    value.windows(what.len()).position(|window| window.eq_ignore_ascii_case(what))
}

fn has_part(name: &[u8]) -> bool {
    const FIRST: &[u8] = b"tspacj"; // of the parts; most letters of most names are none of them
    (0..name.len()).any(|at| {
        FIRST.contains(&name[at]) && PARTS.iter().any(|part| name[at..].starts_with(part.as_bytes()))
    })
}

/// The name with its escapes undone, in lower case.
fn decoded<'a>(name: &[u8], into: &'a mut [u8; 64]) -> Option<&'a [u8]> {
    let (mut from, mut to) = (0, 0);
    while from < name.len() {
        let escape = name.get(from..from + 3).filter(|e| e[0] == b'%');
        let byte = escape.and_then(|e| u8::from_str_radix(std::str::from_utf8(&e[1..]).ok()?, 16).ok());
        from += if byte.is_some() { 3 } else { 1 };
        *into.get_mut(to)? = byte.unwrap_or(name[from - 1]).to_ascii_lowercase();
        to += 1;
    }
    Some(&into[..to])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(query: &str) -> String {
        let mut out = Vec::new();
        Secrets(vec!["ticket".to_owned()]).write_query(query.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn secrets_of_a_query_are_masked() {
        assert_eq!(masked("page=2&access_token=abc&q=x"), "page=2&access_token=***&q=x");
        assert_eq!(masked("X-Amz-Signature=abc&X-Amz-Date=1"), "X-Amz-Signature=***&X-Amz-Date=1");
        assert_eq!(masked("%74oken=abc&KEY=def&monkey=1"), "%74oken=***&KEY=***&monkey=1");
        assert_eq!(masked("code=1&zipcode=2&TICKET=3"), "code=***&zipcode=2&TICKET=***");
        assert_eq!(masked("a=1;token=x;b=2"), "a=1;token=***;b=2");
        for name in [
            "passcode",
            "passphrase",
            "access_key",
            "subscription-key",
            "auth_code",
            "SAMLResponse",
            "api.key",
        ] {
            assert_eq!(masked(&format!("{name}=x")), format!("{name}=***"));
        }
        assert_eq!(masked("next=https://a/?access_token=x&b=1"), "next=https://a/***&b=1");
        assert_eq!(masked("next=https%3A%2F%2Fa%2F%3Ftoken%3Dx"), "next=https%3A%2F%2Fa%2F***");
        assert_eq!(masked("next=%2Fcb%23access_token%3Dx&b=%2523y"), "next=%2Fcb***&b=***");
        assert_eq!(masked("token"), "token", "it has no value");
        assert_eq!(masked("token=a=b&&="), "token=***&&=");
        assert_eq!(masked(&format!("{}=1", "a".repeat(65))), format!("{}=***", "a".repeat(65)));
        assert_eq!(masked("a%=%zz&b%2=1"), "a%=%zz&b%2=1");
    }

    #[test]
    fn each_part_is_found_wherever_it_stands() {
        for part in PARTS {
            assert_eq!(masked(&format!("x{part}y=1")), format!("x{part}y=***"));
        }
    }

    #[test]
    fn and_of_a_url() {
        let url = |url: &str| String::from_utf8(Secrets::default().url(url.as_bytes()).into_owned()).unwrap();
        assert_eq!(url("https://a.example/b?token=x&c=d#e"), "https://a.example/b?token=***&c=d");
        assert_eq!(url("https://me:pw@a.example/b"), "https://***@a.example/b");
        assert_eq!(url("https://a.example/@b"), "https://a.example/@b");
        assert_eq!(url("https://a.example/cb#access_token=x"), "https://a.example/cb");
        assert_eq!(url("https://a.example/b;jsessionid=x/c?d=1"), "https://a.example/b;jsessionid=***/c?d=1");
        let path =
            |path: &str| String::from_utf8(Secrets::default().path(path.as_bytes()).into_owned()).unwrap();
        assert_eq!(path("/a;v=1;sid=x/b;token=y"), "/a;v=1;sid=***/b;token=***");
    }
}
