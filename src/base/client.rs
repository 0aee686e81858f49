//! Who the client is: the peer of the connection, or whom a trusted proxy names.

use super::addresses::AddressSet;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv6Addr};

/// The addresses whose forwarding fields are believed; nobody's by default.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(AddressSet);

impl TrustedProxies {
    /// Trusts these networks.
    pub fn new(networks: &[IpNet]) -> Self {
        TrustedProxies(AddressSet::new(networks))
    }

    /// Whether what this address says of others is believed. An IPv4 address written as `::ffff:a.b.c.d` is the
    /// IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    /// The believed client address: the peer, or, when the peer is trusted, the rightmost address of
    /// `X-Forwarded-For` that is not. What stands further left may be invented by that client. An entry that is
    /// no address ends the walk at the last hop that was believed.
    pub fn client<'a>(
        &self,
        peer: IpAddr,
        forwarded_for: impl DoubleEndedIterator<Item = &'a [u8]>,
    ) -> IpAddr {
        let mut believed = peer.to_canonical();
        for entry in forwarded_for.rev().flat_map(|value| value.rsplit(|b| *b == b',')) {
            if !self.contains(believed) {
                break;
            }
            match std::str::from_utf8(entry).ok().and_then(|e| entry_address(e.trim())) {
                Some(address) => believed = address,
                None => break,
            }
        }
        believed
    }
}

/// An entry of `X-Forwarded-For`: an address, possibly with a port, possibly in brackets.
pub fn entry_address(entry: &str) -> Option<IpAddr> {
    if let Ok(address) = entry.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    if let Ok(with_port) = entry.parse::<std::net::SocketAddr>() {
        return Some(with_port.ip().to_canonical());
    }
    let inner = entry.strip_prefix('[')?.strip_suffix(']')?;
    inner.parse::<IpAddr>().ok().map(|a| a.to_canonical())
}

/// A node identifier of RFC 7239 §6: an IPv6 address in brackets and quotes.
pub fn node(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("\"[{v6}]\""),
    }
}

/// Names that say who the client is or how it came, `_` taken for `-` as CGI-like servers do.
pub fn is_forwarding(name: &str) -> bool {
    const PREFIX: &[u8] = b"x-forwarded";
    const NAMES: [&[u8]; 10] = [
        b"client-cert",
        b"client-cert-chain",
        b"forwarded",
        b"x-real-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"true-client-ip",
        b"x-request-id",
        b"x-consumer",
        b"x-consumer-groups",
    ];
    let name = name.as_bytes();
    if !matches!(name.first(), Some(b'x' | b'f' | b't' | b'c')) {
        return false; // most names, at once
    }
    let same = |a: &u8, b: &u8| a == b || (*a == b'_' && *b == b'-');
    let begins = |with: &[u8]| name.len() >= with.len() && name.iter().zip(with).all(|(a, b)| same(a, b));
    begins(PREFIX) || NAMES.iter().any(|n| name.len() == n.len() && begins(n))
}

/// What counts as one client's address: of IPv6 the /64, since a customer has all of one.
pub fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: &[&str], peer: &str, fields: &[&str]) -> String {
        let trusted = TrustedProxies::new(&trusted.iter().map(|n| n.parse().unwrap()).collect::<Vec<_>>());
        trusted.client(peer.parse().unwrap(), fields.iter().map(|f| f.as_bytes())).to_string()
    }

    #[test]
    fn only_trusted_hops_are_believed() {
        assert_eq!(client(&[], "1.1.1.1", &["9.9.9.9"]), "1.1.1.1");
        assert_eq!(client(&["10.0.0.0/8"], "10.0.0.1", &["9.9.9.9, 8.8.8.8"]), "8.8.8.8");
        assert_eq!(client(&["10.0.0.0/8"], "10.0.0.1", &["9.9.9.9, 10.0.0.2"]), "9.9.9.9");
        assert_eq!(client(&["10.0.0.0/8"], "10.0.0.1", &["9.9.9.9", "10.0.0.2"]), "9.9.9.9");
        assert_eq!(client(&["10.0.0.0/8"], "10.0.0.1", &["6.6.6.6, garbage, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(client(&["10.0.0.0/8"], "10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(client(&["10.0.0.0/8"], "::ffff:10.0.0.1", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(client(&["10.0.0.0/8"], "10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client(&["10.0.0.0/8"], "10.0.0.1", &["6.6.6.6", "\u{fffd}, 1.2.3.4"]), "1.2.3.4");
    }
}
