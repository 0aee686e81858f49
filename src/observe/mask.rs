//! Queries without their secrets.

use std::borrow::Cow;

/// A parameter whose name has one of these in it is secret, whatever else the name says.
const PARTS: [&str; 14] = [
    "token",
    "secret",
    "passw",
    "apikey",
    "api_key",
    "api-key",
    "signature",
    "credential",
    "session",
    "jwt",
    "assertion",
    "private",
    "authorization",
    "cookie",
];
/// And these alone.
const WHOLE: [&str; 9] = ["key", "sig", "code", "auth", "pwd", "pass", "pin", "otp", "sid"];
const MASK: &[u8] = b"***";

/// Names besides the usual ones whose values are secret, in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Secrets(pub(super) Vec<String>);

impl Secrets {
    /// Puts a query down (without `?`), the values of secret parameters as `***`.
    pub(super) fn write_query(&self, query: &[u8], out: &mut Vec<u8>) {
        for (at, parameter) in query.split(|b| *b == b'&').enumerate() {
            if at > 0 {
                out.push(b'&');
            }
            let name_end = memchr::memchr(b'=', parameter).unwrap_or(parameter.len());
            if name_end < parameter.len() && self.is_secret(&parameter[..name_end]) {
                out.extend_from_slice(&parameter[..=name_end]);
                out.extend_from_slice(MASK);
            } else {
                out.extend_from_slice(parameter);
            }
        }
    }

    /// The same for a URL: what follows `?`, and a password before `@`. A fragment may hold a token (OAuth) and is dropped.
    pub(super) fn url<'a>(&self, url: &'a [u8]) -> Cow<'a, [u8]> {
        let url = &url[..memchr::memchr(b'#', url).unwrap_or(url.len())];
        let query = memchr::memchr(b'?', url);
        let place = query.unwrap_or(url.len());
        let authority = url[..place].windows(3).position(|w| w == b"://").map(|at| at + 3);
        let user = authority.and_then(|from| {
            let end = memchr::memchr(b'/', &url[from..place]).map_or(place, |at| from + at);
            memchr::memrchr(b'@', &url[from..end]).map(|at| (from, from + at))
        });
        if query.is_none() && user.is_none() {
            return Cow::Borrowed(url);
        }
        let mut out = Vec::with_capacity(url.len());
        match user {
            Some((from, at)) => {
                out.extend_from_slice(&url[..from]);
                out.extend_from_slice(MASK);
                out.extend_from_slice(&url[at..place]);
            }
            None => out.extend_from_slice(&url[..place]),
        }
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
            || WHOLE.iter().any(|whole| name == whole.as_bytes())
            || self.0.iter().any(|own| name == own.as_bytes())
    }
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
    }
}
