//! Hosts: the patterns a route may name, and the table that finds the most specific one first.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use rustc_hash::FxHashMap;

use super::path::Paths;

/// A host a route answers for, in the form a request's host is compared in: lower case, no port, no trailing
/// dot.
///
/// It refuses everything a client could never send as the host of a URL; the port is the listener's business.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This host alone.
    Exact(String),
    /// One or more labels in front of this suffix (Gateway API, `Hostname`): `*.example.org` takes
    /// `a.example.org` and `b.a.example.org`, never `example.org`. The suffix is kept without its `*.`.
    Wildcard(String),
}

const EVERY_HOST: &str = "leave `hosts` out to match every host";

impl HostPattern {
    /// Reads `api.example.com`, `*.example.org`, `192.0.2.1` or `[2001:db8::1]`.
    ///
    /// Names are as RFC 1123, section 2.1 has them, with `_` taken too because container names carry it; a v6
    /// address takes the spelling of RFC 5952, which is what clients send.
    ///
    /// # Errors
    ///
    /// What is wrong with the text, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        if name.is_empty() || name == "*" {
            return Err(EVERY_HOST.to_owned());
        }
        if name.contains('/') {
            return Err(format!("{text:?} is not a host: write the name alone, like \"api.example.com\""));
        }
        if let Some(address) = v6(name)? {
            return Ok(Self::Exact(address));
        }
        if let Some((host, _)) = name.split_once(':') {
            return Err(match host {
                "" | "*" => EVERY_HOST.to_owned(),
                _ => format!("a host has no port, the listener decides it: write {host:?}"),
            });
        }
        if name.parse::<Ipv4Addr>().is_ok() {
            return Ok(Self::Exact(name.to_owned()));
        }
        let (suffix, wildcard) = match name.strip_prefix("*.") {
            Some(suffix) => (suffix, true),
            None => (name, false),
        };
        check_name(suffix)?;
        Ok(if wildcard { Self::Wildcard(suffix.to_owned()) } else { Self::Exact(name.to_owned()) })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// The paths of every host.
///
/// The keys come from the configuration alone, so a fast hash that can be made to collide is safe: nobody
/// outside can insert.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    exact: FxHashMap<Box<str>, Paths>,
    wildcard: FxHashMap<Box<str>, Paths>,
    /// The length of the longest wildcard's suffix. No longer suffix of a host is looked up, so that a host
    /// of a thousand dots does not cost a thousand long hashes.
    longest: usize,
    any: Paths,
}

impl Hosts {
    /// The paths of `pattern`, or those of every host.
    pub(super) fn entry(&mut self, pattern: Option<&HostPattern>) -> &mut Paths {
        match pattern {
            None => &mut self.any,
            Some(HostPattern::Exact(host)) => self.exact.entry(host.as_str().into()).or_default(),
            Some(HostPattern::Wildcard(suffix)) => {
                self.longest = self.longest.max(suffix.len());
                self.wildcard.entry(suffix.as_str().into()).or_default()
            }
        }
    }

    /// Every table, in no order.
    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Paths> {
        self.exact.values_mut().chain(self.wildcard.values_mut()).chain(std::iter::once(&mut self.any))
    }

    /// The tables that apply to `host`, the most specific first.
    pub(super) fn tables<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Paths> + 'a {
        let wildcards = suffixes(host, self.longest).filter_map(|suffix| self.wildcard.get(suffix));
        self.exact.get(host).into_iter().chain(wildcards).chain(std::iter::once(&self.any))
    }
}

/// What is left of `host` without its first label, without its first two, and so on, less what is longer than
/// `longest`.
fn suffixes(host: &str, longest: usize) -> impl Iterator<Item = &str> {
    // A dot in front of everything has no label before it.
    let first = host.len().saturating_sub(longest + 1).max(1);
    let dots = (first..host.len()).filter(|&at| host.as_bytes()[at] == b'.');
    dots.map(|dot| &host[dot + 1..])
}

/// The bracketed address when `name` is one, `None` when it is something else, an error when it is nearly
/// one.
fn v6(name: &str) -> Result<Option<String>, String> {
    if let Ok(address) = name.parse::<Ipv6Addr>() {
        return Err(format!("a v6 address goes in brackets: write \"[{address}]\""));
    }
    let Some(inner) = name.strip_prefix('[') else {
        return Ok(None);
    };
    let (inner, rest) = inner.split_once(']').unwrap_or((inner, ""));
    let Ok(address) = inner.parse::<Ipv6Addr>() else {
        return Err(format!("{name:?} is not a v6 address: write it like \"[2001:db8::1]\""));
    };
    if !name.ends_with(']') || !rest.is_empty() {
        return Err(format!("a v6 host is its address in brackets, without a port: write \"[{address}]\""));
    }
    Ok(Some(format!("[{address}]")))
}

/// Checks a name without its `*.`.
fn check_name(name: &str) -> Result<(), String> {
    if let Some(at) = name.rfind('*') {
        let rest = name[at..].split_once('.').map(|(_, rest)| rest);
        return Err(match rest {
            Some(rest) => {
                format!("\"*\" stands alone and in front only: write \"*.{rest}\"")
            }
            None => "\"*\" stands alone and in front only: write it like \"*.example.org\"".to_owned(),
        });
    }
    if !name.is_ascii() {
        return Err(format!("{name:?} is not ASCII: write its labels in their \"xn--\" form"));
    }
    if name.len() > 253 {
        return Err("a host name has 253 characters at most: write a shorter one".to_owned());
    }
    name.split('.').try_for_each(check_label)?;
    // A URL's host that ends in a number is an address or nothing (WHATWG URL, host parsing), so no client
    // can send it.
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{name:?} is not an address: write all of it, like \"192.0.2.1\""));
    }
    Ok(())
}

fn check_label(label: &str) -> Result<(), String> {
    if label.is_empty() {
        return Err("a label between two dots is empty: write it like \"api.example.com\"".to_owned());
    }
    if label.len() > 63 {
        return Err(format!("the label {label:?} is too long: write 63 characters at most"));
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(format!("the label {label:?} starts or ends with \"-\": write it without"));
    }
    match label.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_')) {
        Some(bad) => Err(format!("the label {label:?} has a {bad:?}: write letters, digits and \"-\" only")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_client_could_send() {
        for (text, host) in [
            ("API.Example.com.", "api.example.com"),
            ("localhost", "localhost"),
            ("my_app", "my_app"),
            ("192.0.2.1", "192.0.2.1"),
            ("[2001:DB8:0::1]", "[2001:db8::1]"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ] {
            let read = HostPattern::parse(text);
            assert_eq!(read, Ok(HostPattern::Exact(host.to_owned())), "{text}");
        }
        let wildcard = HostPattern::parse("*.Example.org.");
        assert_eq!(wildcard, Ok(HostPattern::Wildcard("example.org".to_owned())));
        assert_eq!(wildcard.map(|w| w.to_string()), Ok("*.example.org".to_owned()));
    }

    #[test]
    fn refuses_the_rest_and_says_what_to_write() {
        for (text, advice) in [
            ("", "leave `hosts` out"),
            (".", "leave `hosts` out"),
            ("*", "leave `hosts` out"),
            ("a.test:8080", "write \"a.test\""),
            ("https://a.test", "write the name alone"),
            ("a.test/x", "write the name alone"),
            ("::1", "write \"[::1]\""),
            ("[::1]:80", "write \"[::1]\""),
            ("[::1", "write \"[::1]\""),
            ("[nine]", "write it like \"[2001:db8::1]\""),
            ("a.*.test", "write \"*.test\""),
            ("*a.test", "write \"*.test\""),
            ("*.*.test", "write \"*.test\""),
            ("a.*", "write it like \"*.example.org\""),
            ("a..test", "is empty"),
            ("..", "is empty"),
            ("-a.test", "write it without"),
            (":80", "leave `hosts` out"),
            ("*:80", "leave `hosts` out"),
            ("a b.test", "write letters, digits"),
            ("bücher.example", "\"xn--\" form"),
            ("1.2.3", "write all of it"),
            ("*.0.0.1", "write all of it"),
            (&"a".repeat(64), "63 characters"),
            (&"a.".repeat(130), "253 characters"),
        ] {
            match HostPattern::parse(text) {
                Err(said) => assert!(said.contains(advice), "{text:?}: {said}"),
                Ok(read) => panic!("{text:?} was read as {read:?}"),
            }
        }
    }

    #[test]
    fn suffixes_have_a_label_in_front() {
        let all = |host| suffixes(host, 6).collect::<Vec<_>>();
        assert_eq!(all("c.b.a.test"), ["a.test", "test"], "no more than six characters");
        assert_eq!(all("b.a.test"), ["a.test", "test"]);
        assert!(all("test").is_empty());
        assert!(all(".test").is_empty());
        assert!(all("").is_empty());
    }
}
