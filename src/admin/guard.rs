//! Who may look: decided from plain values, before anything is looked up.
//!
//! Without a token the address is one of this machine (the configuration sees to that), and the danger is a browser on it: a
//! page of elsewhere that asks for `/status`, or a name of elsewhere that has come to mean 127.0.0.1 (DNS rebinding). So a
//! name must be known, and requests of another site are refused. With a token neither helps an attacker, whose page has
//! no token to send; the health of the gateway needs none, for those who ask for it have none to give.

use crate::gateway::Admin;
use base64::Engine;
use http::Method;
use std::net::{Ipv4Addr, Ipv6Addr};
use subtle::ConstantTimeEq;

/// What is asked, and by whom.
pub(super) struct Question<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    /// The fields, each empty when it is not there.
    pub(super) host: &'a str,
    pub(super) origin: &'a str,
    pub(super) site: &'a str,
    pub(super) mode: &'a str,
    pub(super) authorization: &'a str,
}

/// Why somebody may not look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denial {
    Method,
    Host,
    Site,
    Token,
}

impl Denial {
    /// The status and what to do about it.
    pub(super) fn words(self) -> (u16, &'static str) {
        match self {
            Denial::Method => (405, "here one can look: GET and HEAD\n"),
            Denial::Host => (
                421,
                "this name is not known here: ask by address or as localhost, or add the name to `admin: {hosts: …}`\n",
            ),
            Denial::Site => (403, "other sites may not ask this\n"),
            Denial::Token => (401, "this needs the token of `admin`, as Bearer or as the password of Basic\n"),
        }
    }
}

/// Whether this may be answered.
pub(super) fn admit(admin: &Admin, question: &Question<'_>) -> Result<(), Denial> {
    if !matches!(*question.method, Method::GET | Method::HEAD) {
        return Err(Denial::Method);
    }
    if is_of_another_site(question) {
        return Err(Denial::Site);
    }
    let is_health = question.path.starts_with("/health/");
    match &admin.token {
        // Who names no host is no browser: HAProxy's plain probe.
        None if question.host.is_empty() && is_health => Ok(()),
        None if !is_known(question.host, &admin.hosts) => Err(Denial::Host),
        None => Ok(()),
        Some(_) if is_health => Ok(()),
        Some(token) if has(question.authorization, token) => Ok(()),
        Some(_) => Err(Denial::Token),
    }
}

/// A link from elsewhere may lead to the page; nothing else of another site's is answered (Fetch Metadata; browsers that do
/// not send it send Origin).
fn is_of_another_site(question: &Question<'_>) -> bool {
    let link = question.mode == "navigate" && question.path == "/";
    let foreign = !matches!(question.site, "" | "none" | "same-origin") && !link;
    let own = |scheme: &str| question.origin.strip_prefix(scheme) == Some(question.host);
    let origin = !question.origin.is_empty() && !own("http://") && !own("https://");
    foreign || origin
}

/// An address cannot be rebound; of names only those of this machine and those that are configured are known.
fn is_known(host: &str, hosts: &[Box<str>]) -> bool {
    let end = host.rfind(':').filter(|colon| !host[*colon..].contains(']')).unwrap_or(host.len());
    let host = host[..end].trim_end_matches('.').to_ascii_lowercase();
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    host == "localhost"
        || host.ends_with(".localhost") // RFC 6761 §6.3
        || host.parse::<Ipv4Addr>().is_ok()
        || v6.is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok())
        || hosts.iter().any(|known| **known == *host)
}

/// The token as Bearer (RFC 6750 §2.1), or as the password of Basic (RFC 7617), which browsers ask for.
fn has(authorization: &str, token: &str) -> bool {
    let Some((scheme, given)) = authorization.split_once(' ') else { return false };
    let same = |given: &[u8]| bool::from(given.ct_eq(token.as_bytes()));
    if scheme.eq_ignore_ascii_case("bearer") {
        return same(given.trim().as_bytes());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return false;
    }
    let Ok(pair) = base64::engine::general_purpose::STANDARD.decode(given.trim()) else { return false };
    memchr::memchr(b':', &pair).is_some_and(|colon| same(&pair[colon + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::Bind;

    fn admin(token: Option<&str>) -> Admin {
        let address = Bind::Tcp(([127, 0, 0, 1], 9901).into());
        Admin { address, token: token.map(Into::into), hosts: ["gateway.internal".into()].into() }
    }

    fn ask<'a>(path: &'a str, host: &'a str) -> Question<'a> {
        let method = &Method::GET;
        Question { method, path, host, origin: "", site: "", mode: "", authorization: "" }
    }

    #[test]
    fn names_must_be_known_lest_they_be_rebound() {
        let admin = admin(None);
        for host in [
            "127.0.0.1:9901",
            "[::1]:9901",
            "[::1]",
            "localhost",
            "LocalHost:9901",
            "10.0.0.1",
            "gateway.internal:9901",
            "GATEWAY.internal.",
            "a.localhost",
        ] {
            assert_eq!(admit(&admin, &ask("/status", host)), Ok(()), "{host}");
        }
        assert_eq!(admit(&admin, &ask("/health/live", "")), Ok(()), "a probe in HTTP/1.0");
        for host in [
            "",
            "evil.example",
            "evil.example:9901",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "[::1",
            "::1",
        ] {
            assert_eq!(admit(&admin, &ask("/status", host)), Err(Denial::Host), "{host}");
        }
    }

    #[test]
    fn other_sites_are_refused() {
        let admin = admin(None);
        let host = "127.0.0.1:9901";
        let from =
            |site, mode, origin, path| admit(&admin, &Question { site, mode, origin, ..ask(path, host) });
        assert_eq!(from("cross-site", "no-cors", "", "/status"), Err(Denial::Site));
        assert_eq!(from("same-site", "cors", "", "/metrics"), Err(Denial::Site));
        assert_eq!(from("cross-site", "navigate", "", "/"), Ok(()), "a link to the page");
        assert_eq!(from("cross-site", "navigate", "", "/status"), Err(Denial::Site));
        assert_eq!(from("", "", "http://evil.example", "/"), Err(Denial::Site));
        assert_eq!(from("", "", "null", "/"), Err(Denial::Site));
        assert_eq!(from("same-origin", "cors", "http://127.0.0.1:9901", "/events"), Ok(()));
        let post = Question { method: &Method::POST, ..ask("/", host) };
        assert_eq!(admit(&admin, &post), Err(Denial::Method));
    }

    #[test]
    fn a_token_opens_and_nothing_else_does() {
        let admin = admin(Some("0123456789abcdef"));
        let with =
            |authorization| admit(&admin, &Question { authorization, ..ask("/status", "evil.example") });
        assert_eq!(with("Bearer 0123456789abcdef"), Ok(()));
        assert_eq!(with("bearer 0123456789abcdef"), Ok(()));
        assert_eq!(with("Basic bWU6MDEyMzQ1Njc4OWFiY2RlZg=="), Ok(()));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdeg",
            "Basic",
            "Basic !",
            "Basic MDEyMzQ1Njc4OWFiY2RlZg==",
            "Digest 0123456789abcdef",
            "0123456789abcdef",
        ] {
            assert_eq!(with(wrong), Err(Denial::Token), "{wrong}");
        }
        assert_eq!(admit(&admin, &ask("/health/ready", "10.0.0.7:9901")), Ok(()));
        assert_eq!(admit(&admin, &ask("/health", "")), Err(Denial::Token));
    }
}
