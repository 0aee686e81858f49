//! Mutual TLS: whose certificates a client may show, where it must, and what is known of it then.

use super::names::Names;
use super::pem;
use super::source::{sha256, Flaw, Source};
use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::WebPkiClientVerifier;
use rustls::RootCertStore;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid2abbrev, oid_registry};
use x509_parser::prelude::{
    AttributeTypeAndValue, FromDer, RelativeDistinguishedName, X509Certificate, X509Name,
};

/// A rule: clients that ask for these hosts show a certificate of this authority.
#[derive(Debug)]
pub struct Clients {
    /// For which hosts, exact or `*.` and a domain; empty: for all that no other rule names.
    pub hosts: Vec<Box<str>>,
    /// Whether one without a certificate is turned away. One with a wrong certificate always is.
    pub required: bool,
    /// The authorities.
    ca: PathBuf,
    /// What they have revoked.
    crls: Vec<PathBuf>,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// Tells this rule with these contents of its files from any other.
    pub(super) context: [u8; 32],
}

impl Clients {
    /// Reads the authorities and their revocation lists. With a list, a certificate that none of them speaks for, and all
    /// once the list is out of date, is refused.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn parse(hosts: Vec<Box<str>>, required: bool, ca: &Source, crls: &[Source]) -> Result<Self, Flaw> {
        let mut roots = RootCertStore::empty();
        for root in pem::authorities(ca.text()).map_err(|e| ca.flaw(e))? {
            roots.add(root).map_err(|e| ca.flaw(e))?;
        }
        let mut lists = Vec::new();
        for crl in crls {
            let before = lists.len();
            for list in CertificateRevocationListDer::pem_slice_iter(crl.text().as_bytes()) {
                lists.push(list.map_err(|e| crl.flaw(format!("not PEM: {e}")))?);
            }
            if lists.len() == before {
                return Err(crl.flaw("no revocation list (-----BEGIN X509 CRL-----) in it"));
            }
        }
        let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), super::provider());
        if !lists.is_empty() {
            verifier =
                verifier.with_crls(lists).only_check_end_entity_revocation().enforce_revocation_expiration();
        }
        if !required {
            verifier = verifier.allow_unauthenticated();
        }
        let of = crls.first().unwrap_or(ca);
        let verifier = verifier.build().map_err(|e| of.flaw(format!("cannot be used: {e}")))?;
        let mut all = vec![u8::from(required)];
        for file in std::iter::once(ca).chain(crls) {
            all.extend_from_slice(&file.fingerprint());
        }
        Ok(Clients {
            hosts,
            required,
            ca: ca.path.clone(),
            crls: crls.iter().map(|crl| crl.path.clone()).collect(),
            verifier,
            context: sha256(&all),
        })
    }

    /// Reads its files again.
    ///
    /// # Errors
    /// Which of them is wrong, and how.
    pub(super) fn again(&self) -> Result<Self, Flaw> {
        let crls: Result<Vec<_>, _> = self.crls.iter().map(|path| Source::read(path)).collect();
        Clients::parse(self.hosts.clone(), self.required, &Source::read(&self.ca)?, &crls?)
    }

    /// Its files.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.ca).chain(&self.crls)
    }
}

/// Which rule is whose, without the certificates: what a connection's later requests are held to.
#[derive(Debug, Default)]
pub(super) struct Rules(Vec<(Vec<Box<str>>, [u8; 32])>);

/// The context where no certificate is asked for.
pub(super) const NOBODY: [u8; 32] = [0; 32];

impl Rules {
    pub(super) fn new(clients: &[Arc<Clients>]) -> Self {
        Rules(clients.iter().map(|rule| (rule.hosts.clone(), rule.context)).collect())
    }

    /// The place of the rule for a host: exact, else the longest wildcard, else the one for all hosts.
    pub(super) fn of(&self, host: &str) -> Option<usize> {
        let fits = |name: &str| match name.strip_prefix('*') {
            _ if name == host => usize::MAX,
            // Any number of labels, as in `routes`: a host must not escape its rule by one more.
            Some(domain) if host.len() > domain.len() && host.ends_with(domain) => domain.len(),
            _ => 0,
        };
        let best = |hosts: &[Box<str>]| match hosts {
            [] => 1,
            hosts => hosts.iter().map(|name| fits(name)).max().unwrap_or(0),
        };
        let ranked = self.0.iter().enumerate().map(|(at, (hosts, _))| (best(hosts), at));
        ranked
            .filter(|(rank, _)| *rank > 0)
            .max_by_key(|(rank, at)| (*rank, usize::MAX - at))
            .map(|(_, at)| at)
    }

    /// What the rule for a host depends on.
    pub(super) fn context(&self, host: &str) -> [u8; 32] {
        self.of(host).map_or(NOBODY, |at| self.0[at].1)
    }

    pub(super) fn same(&self, other: &Rules) -> bool {
        self.0 == other.0
    }
}

/// A client's verified certificate.
#[derive(Debug)]
pub struct ClientCert {
    /// Its subject, as RFC 4514 §2 writes it: what comes first there comes last in the certificate, and no value can pass for
    /// several.
    pub subject: Box<str>,
    /// Its alternative names: DNS names, e-mail addresses, URIs, addresses.
    pub names: Vec<Box<str>>,
    /// SHA-256 of the certificate in lower-case hexadecimal.
    pub fingerprint: Box<str>,
    /// The certificate as the value of `Client-Cert` (RFC 9440 §2.1).
    pub field: Box<str>,
}

impl ClientCert {
    /// Of a certificate that was verified.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut fingerprint = String::with_capacity(64);
        sha256(certificate).iter().for_each(|byte| {
            let _ = write!(fingerprint, "{byte:02x}"); // into a string
        });
        let parsed = X509Certificate::from_der(certificate).ok();
        let subject = parsed.as_ref().map(|(_, parsed)| distinguished_name(parsed.subject()));
        let names = parsed.as_ref().map(|(_, parsed)| alternative_names(parsed));
        ClientCert {
            subject: subject.unwrap_or_default().into(),
            names: names.unwrap_or_default(),
            fingerprint: fingerprint.into(),
            field: format!(":{}:", STANDARD.encode(certificate)).into(),
        }
    }
}

/// The library's own way leaves commas in values as they are, so that somebody called `a, O=b` would pass for another.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let attribute = |attribute: &AttributeTypeAndValue<'_>| {
        let kind = attribute.attr_type();
        let kind = oid2abbrev(kind, oid_registry()).map_or_else(|_| kind.to_id_string(), str::to_owned);
        match attribute.as_str() {
            Ok(value) => format!("{kind}={}", escaped(value)),
            Err(_) => {
                let hex = attribute.as_slice().iter().map(|byte| format!("{byte:02x}"));
                format!("{kind}=#{}", hex.collect::<String>())
            }
        }
    };
    let relative =
        |one: &RelativeDistinguishedName<'_>| one.iter().map(attribute).collect::<Vec<_>>().join("+");
    let mut parts: Vec<String> = name.iter().map(relative).collect();
    parts.reverse();
    parts.join(",")
}

/// RFC 4514 §2.4.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        let outer = (c == ' ' && (at == 0 || at == last)) || (c == '#' && at == 0);
        match c {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => out.extend(['\\', c]),
            _ if outer => out.extend(['\\', c]),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(out, "\\{byte:02X}"); // into a string
                }
            }
            c => out.push(c),
        }
    }
    out
}

fn alternative_names(certificate: &X509Certificate<'_>) -> Vec<Box<str>> {
    let names = Names::of(certificate);
    let mut all: Vec<Box<str>> = names.addresses.iter().map(|ip| ip.to_string().into()).collect();
    let Some(alternative) = certificate.subject_alternative_name().ok().flatten() else { return all };
    all.extend(alternative.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => {
            Some((*text).into())
        }
        _ => None,
    }));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who may choose their name must not be able to choose another's.
    #[test]
    fn no_value_of_a_subject_passes_for_several() {
        assert_eq!(escaped("Acme, O=Admin"), "Acme\\, O=Admin");
        assert_eq!(escaped(" #a\\b+\"<>; "), "\\ #a\\\\b\\+\\\"\\<\\>\\;\\ ");
        assert_eq!(escaped("#a\n"), "\\#a\\0A");
        let subject = |parts: &[(rcgen::DnType, &str)]| {
            let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name = rcgen::DistinguishedName::new();
            parts.iter().for_each(|(kind, value)| params.distinguished_name.push(kind.clone(), *value));
            let key = rcgen::KeyPair::generate().unwrap();
            ClientCert::of(params.self_signed(&key).unwrap().der()).subject
        };
        use rcgen::DnType::{CommonName, OrganizationName};
        assert_eq!(&*subject(&[(OrganizationName, "Acme"), (CommonName, "a")]), "CN=a,O=Acme");
        assert_eq!(&*subject(&[(CommonName, "a,O=Acme")]), "CN=a\\,O=Acme");
    }

    #[test]
    fn the_most_specific_rule_counts() {
        let rules = Rules(vec![
            (vec![], [1; 32]),
            (vec!["*.a.test".into()], [2; 32]),
            (vec!["x.a.test".into(), "b.test".into()], [3; 32]),
        ]);
        for (host, rule) in
            [("x.a.test", 2), ("b.test", 2), ("y.a.test", 1), ("z.y.a.test", 1), ("a.test", 0), ("", 0)]
        {
            assert_eq!(rules.of(host), Some(rule), "{host}");
        }
        assert_eq!(Rules::default().of("a.test"), None);
    }
}
