//! The hosts that a certificate is for.

use std::net::IpAddr;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// The names of a certificate's subject (RFC 9525 §6.1): DNS names in lower case, `*` for one whole first label, addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// As they stand in the certificate.
    pub dns: Vec<Box<str>>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

impl Names {
    /// Of a certificate. One without any alternative name is taken at its common name, as old internal ones mean it.
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Names {
        let mut names = Names::default();
        let alternative = certificate.subject_alternative_name().ok().flatten();
        let Some(alternative) = alternative else {
            let common = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
            names.dns.extend(common.map(|name| name.to_ascii_lowercase().into()));
            return names;
        };
        for name in &alternative.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.dns.push(name.to_ascii_lowercase().into()),
                GeneralName::IPAddress(bytes) => names.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        names
    }

    /// Whether a host (in lower case, without port; an IPv6 address in brackets) is one of them.
    pub fn cover(&self, host: &str) -> bool {
        let wildcard = host.split_once('.').map(|(_, rest)| rest);
        let is =
            |name: &str| name == host || name.strip_prefix("*.").is_some_and(|rest| Some(rest) == wildcard);
        self.dns.iter().any(|name| is(name)) || literal(host).is_some_and(|ip| self.addresses.contains(&ip))
    }
}

/// The address that a host is, if it is one.
pub fn literal(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_one_label() {
        let names = Names {
            dns: ["a.test".into(), "*.b.test".into()].into(),
            addresses: vec!["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
        };
        for host in ["a.test", "x.b.test", "10.0.0.1", "[::1]"] {
            assert!(names.cover(host), "{host}");
        }
        for host in ["b.test", "x.y.b.test", "xa.test", "", "10.0.0.2", "[::2]", ".b.test.", "test"] {
            assert!(!names.cover(host), "{host}");
        }
    }
}
