//! Whose bucket a request takes from.

use super::table::{Key, Table};
use crate::base::request::{Headers, Several};
use aws_lc_rs::digest::{Context, SHA256};
use http::HeaderName;
use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr};

/// What tells clients apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Part {
    /// The believed address; of IPv6 the network, which is what one customer has.
    ClientIp,
    /// Who they have proven to be.
    Consumer,
    /// The value of a field that stands once.
    Header(HeaderName),
    /// Nothing: all requests together.
    Route,
}

/// As the configuration writes it.
impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Part::ClientIp => f.write_str("client_ip"),
            Part::Consumer => f.write_str("consumer"),
            Part::Header(name) => write!(f, "header:{name}"),
            Part::Route => f.write_str("route"),
        }
    }
}

/// Who somebody has proven to be. What a token says is nobody's name here, and a name of its issuer's alone (RFC 7519
/// §4.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proven<'a> {
    /// A consumer.
    Consumer(&'a str),
    /// The subject of a token that names no consumer.
    Subject {
        /// Who issues such tokens.
        issuer: &'a str,
        /// Of whom it is.
        name: &'a str,
    },
}

/// What of a request tells clients apart.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// The believed address; none on a Unix socket, whose clients count as one.
    pub client: Option<IpAddr>,
    /// Who they have proven to be, if anybody.
    pub consumer: Option<Proven<'a>>,
    /// The fields.
    pub headers: &'a dyn Headers,
}

/// Keeps an address from being taken for a name.
#[derive(Clone, Copy)]
enum Kind {
    Address,
    Consumer,
    Header,
    Subject,
}

impl Caller<'_> {
    /// The bucket of this caller in the table.
    pub fn key(&self, table: &Table, limit: u64, per: &[Part], prefix: u8) -> Key {
        let mut maker = table.maker(limit);
        self.walk(per, prefix, &mut |kind, value| {
            maker.put(&[kind as u8]);
            maker.put(value);
        });
        maker.key()
    }

    /// The same as text, the same on all gateways. What may be secret or long is hashed, and it has no braces: they are
    /// around it in the store's key, and say there what lies together.
    pub fn text(&self, per: &[Part], prefix: u8) -> String {
        let mut text = String::new();
        self.walk(per, prefix, &mut |kind, value| {
            text.push_str(if text.is_empty() { "" } else { "," });
            match (kind, value) {
                (Kind::Address, []) => text.push_str("ip="),
                (Kind::Address, value) => {
                    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
                    let v6 = <[u8; 16]>::try_from(value).map(IpAddr::from);
                    let _ = v4.or(v6).map(|ip| write!(text, "ip={ip}"));
                }
                (Kind::Consumer, name) => text += &format!("consumer={}", plain(name)),
                (Kind::Subject, value) => text += &format!("subject={}", hashed(value)),
                (Kind::Header, value) => text += &format!("header={}", hashed(value)),
            }
        });
        text
    }

    fn walk(&self, per: &[Part], prefix: u8, put: &mut dyn FnMut(Kind, &[u8])) {
        // Who does not show what tells them apart is told apart by their address, never let through uncounted.
        for part in per {
            match part {
                Part::Route => {}
                Part::ClientIp => self.address(prefix, put),
                Part::Consumer => match self.consumer {
                    Some(Proven::Consumer(name)) => put(Kind::Consumer, name.as_bytes()),
                    Some(Proven::Subject { issuer, name }) => {
                        put(Kind::Subject, issuer.as_bytes());
                        put(Kind::Subject, name.as_bytes());
                    }
                    None => self.address(prefix, put),
                },
                Part::Header(name) => {
                    // Of several lines nobody knows which one counts behind the gateway: one could be made up each time.
                    match self.headers.only(name) {
                        Ok(Some(value)) => put(Kind::Header, value),
                        Ok(None) | Err(Several) => self.address(prefix, put),
                    }
                }
            }
        }
    }

    fn address(&self, prefix: u8, put: &mut dyn FnMut(Kind, &[u8])) {
        match self.client.map(|client| client.to_canonical()) {
            Some(IpAddr::V4(v4)) => put(Kind::Address, &v4.octets()),
            Some(IpAddr::V6(v6)) => put(Kind::Address, &network(v6, prefix).octets()),
            None => put(Kind::Address, &[]),
        }
    }
}

/// The first so many bits.
fn network(address: Ipv6Addr, prefix: u8) -> Ipv6Addr {
    let away = 128 - u32::from(prefix.min(128));
    Ipv6Addr::from_bits(u128::MAX.checked_shl(away).unwrap_or(0) & address.to_bits())
}

/// A name as it is, if it is short and has nothing in it that means something in a key.
pub fn plain(name: &[u8]) -> String {
    let simple = |b: &u8| b.is_ascii_alphanumeric() || b"._/:-".contains(b);
    match std::str::from_utf8(name) {
        Ok(text) if (1..=64).contains(&name.len()) && name.iter().all(simple) => text.to_owned(),
        _ => hashed(name),
    }
}

/// 128 bits of SHA-256, in hexadecimal.
fn hashed(value: &[u8]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(value);
    context.finish().as_ref()[..16].iter().fold(String::with_capacity(33), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue};

    const TENANT: HeaderName = HeaderName::from_static("x-tenant");

    fn caller<'a>(client: &str, consumer: Option<&'a str>, headers: &'a HeaderMap) -> Caller<'a> {
        Caller { client: client.parse().ok(), consumer: consumer.map(Proven::Consumer), headers }
    }

    #[test]
    fn both_forms_tell_the_same_apart() {
        let table = Table::new(1);
        let mut acme = HeaderMap::new();
        acme.append(TENANT, HeaderValue::from_static("acme"));
        let (mut other, none) = (acme.clone(), HeaderMap::new());
        other.append(TENANT, HeaderValue::from_static("second line"));
        let callers = [
            caller("192.0.2.1", None, &none),
            caller("192.0.2.2", Some("app"), &none),
            caller("2001:db8::1", Some("app"), &acme),
            caller("2001:db8::ffff:1", Some("other"), &acme),
            caller("2001:db8:0:1::1", None, &other),
            caller("::ffff:192.0.2.1", None, &acme),
            caller("", None, &none),
        ];
        let pers: [&[Part]; 6] = [
            &[Part::ClientIp],
            &[Part::Consumer],
            &[Part::Header(TENANT)],
            &[Part::Route],
            &[Part::ClientIp, Part::Route],
            &[Part::Consumer, Part::Header(TENANT)],
        ];
        for per in pers {
            for one in &callers {
                for two in &callers {
                    let keys = [one, two].map(|c| c.key(&table, 1, per, 64));
                    let texts = [one, two].map(|c| c.text(per, 64));
                    assert_eq!(keys[0] == keys[1], texts[0] == texts[1], "{per:?} {texts:?}");
                }
            }
        }
        let text = |at: usize, per: &[Part]| callers[at].text(per, 64);
        assert_eq!(text(0, &[Part::ClientIp]), "ip=192.0.2.1");
        assert_eq!(text(5, &[Part::ClientIp]), "ip=192.0.2.1", "mapped");
        assert_eq!(text(2, &[Part::ClientIp]), text(3, &[Part::ClientIp]), "one network");
        assert_ne!(text(2, &[Part::ClientIp]), text(4, &[Part::ClientIp]), "another");
        assert_eq!(text(0, &[Part::Consumer]), "ip=192.0.2.1", "nobody is counted by their address");
        assert_eq!(text(0, &[Part::Header(TENANT)]), "ip=192.0.2.1");
        assert_ne!(text(4, &[Part::Header(TENANT)]), text(3, &[Part::Header(TENANT)]), "every line counts");
        assert_eq!(text(0, &[Part::Route]), "");
        assert!(!text(2, &[Part::Header(TENANT)]).contains("acme"), "it may be a secret");
        assert_eq!(text(6, &[Part::ClientIp]), "ip=");
    }

    #[test]
    fn names_are_shown_where_they_mean_nothing_else() {
        assert_eq!(plain(b"mobile-app"), "mobile-app");
        for odd in [&b"a}b"[..], b"", b"a,b", &[b'a'; 65], b"\xff"] {
            let shown = plain(odd);
            assert!(shown.len() == 32 && shown.bytes().all(|b| b.is_ascii_hexdigit()), "{shown}");
        }
    }

    #[test]
    fn networks_have_any_length() {
        let all: Ipv6Addr = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
        for (prefix, network_of) in [
            (128, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            (64, "ffff:ffff:ffff:ffff::"),
            (56, "ffff:ffff:ffff:ff00::"),
            (0, "::"),
        ] {
            assert_eq!(network(all, prefix).to_string(), network_of);
        }
    }
}
