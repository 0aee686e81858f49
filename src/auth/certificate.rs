//! By client certificate: who has proven, at the handshake, to have the key of one that an authority of the listener's has
//! issued. What a proxy in front says of certificates (`Client-Cert`) is no such proof and is not looked at.

use super::consumer::Consumers;
use super::Identity;
use crate::error::Denial;
use crate::wire::facts::Facts;
use std::sync::Arc;

/// What a certificate is recognised by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CertificateName {
    /// The whole subject, as RFC 4514 writes it: `CN=mobile,O=Acme`.
    Subject(Box<str>),
    /// One of its alternative names: a DNS name, an e-mail address, a URI, an address.
    San(Box<str>),
    /// SHA-256 of the certificate, in lower-case hexadecimal.
    Fingerprint(Box<str>),
}

impl CertificateName {
    /// A subject; a space behind a comma is left out, as RFC 4514 does.
    ///
    /// # Errors
    /// What to write instead.
    pub fn subject(text: &str) -> Result<Self, String> {
        const FORM: &str =
            "expected a subject as `openssl x509 -noout -subject -nameopt RFC2253` prints it, such as CN=mobile,O=Acme";
        let (mut plain, mut escaped, mut comma) = (String::with_capacity(text.len()), false, false);
        for c in text.chars().filter(|c| !c.is_control()) {
            if comma && c == ' ' {
                continue;
            }
            comma = c == ',' && !escaped;
            escaped = c == '\\' && !escaped;
            plain.push(c);
        }
        if !plain.contains('=') {
            return Err(format!("{FORM}, found {text:?}"));
        }
        Ok(CertificateName::Subject(plain.into()))
    }

    /// An alternative name.
    ///
    /// # Errors
    /// What to write instead.
    pub fn san(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains(' ') || text.contains('*') {
            return Err(format!("expected one alternative name such as mobile.example.com, found {text:?}"));
        }
        Ok(CertificateName::San(text.into()))
    }

    /// `sha256:` and 64 hexadecimal digits, with or without colons between pairs.
    ///
    /// # Errors
    /// What to write instead.
    pub fn fingerprint(text: &str) -> Result<Self, String> {
        const FORM: &str = "expected sha256: and 64 hexadecimal digits";
        let digits = text.strip_prefix("sha256:").ok_or_else(|| format!("{FORM}, found {text:?}"))?;
        let digits: String = digits.chars().filter(|c| *c != ':').collect::<String>().to_ascii_lowercase();
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("{FORM}, found {text:?}"));
        }
        Ok(CertificateName::Fingerprint(digits.into()))
    }
}

/// Whose certificate the client has shown; none: it has shown none.
///
/// # Errors
/// It is nobody's, or that of several.
pub fn verify(facts: Option<&Facts>, consumers: &Consumers) -> Result<Option<Identity>, Denial> {
    let shown = facts.and_then(|facts| facts.tls.as_ref()?.client.as_ref());
    let Some(shown) = shown else { return Ok(None) };
    let mut found = consumers.by_certificate(shown);
    let first = found.next().ok_or(Denial::UnknownCertificate)?;
    if found.any(|other| !Arc::ptr_eq(first, other)) {
        return Err(Denial::Contradiction);
    }
    Ok(Some(Identity::of(first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_one_spelling() {
        let subject = |text: &str| CertificateName::subject(text).ok();
        assert_eq!(subject("CN=a, O=b"), subject("CN=a,O=b"));
        assert_ne!(subject("CN=a\\, O=b"), subject("CN=a,O=b"));
        assert!(subject("mobile").is_none());
        let digits = "ab".repeat(32);
        let colons = ["AB"; 32].join(":");
        let print = |text: &str| CertificateName::fingerprint(text).ok();
        assert!(print(&format!("sha256:{digits}")).is_some());
        assert_eq!(print(&format!("sha256:{digits}")), print(&format!("sha256:{colons}")));
        assert!(print(&digits).is_none() && print("sha256:ab").is_none());
        assert!(CertificateName::san("*.a.test").is_err());
    }
}
