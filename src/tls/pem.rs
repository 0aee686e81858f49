//! Certificates and keys out of PEM text (RFC 7468). What is wrong with them is told in words, and before anything is
//! served with them: the engine takes what it is given and panics over what it cannot read.

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use std::fmt;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate with those that vouch for it, and the key that belongs to it.
#[derive(PartialEq, Eq)]
pub struct Credentials {
    /// The certificate itself is the first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

impl Credentials {
    /// The two, if they belong together.
    ///
    /// # Errors
    /// Why they cannot be used.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Credentials, String> {
        certify(chain.clone(), &key)?;
        Ok(Credentials { chain, key })
    }
}

/// The two, ready to sign with, if they belong together.
///
/// # Errors
/// Why they cannot be used.
pub(super) fn certify(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'static>,
) -> Result<CertifiedKey, String> {
    let signing = any_supported_type(key).map_err(|e| format!("the key is not usable for TLS: {e}"))?;
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err("the key does not belong to the certificate, which has to be the first of its file"
                .to_owned())
        }
        Err(e) => Err(e.to_string()),
    }
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Credentials { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// Never the key.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// All certificates of a text, at least one.
///
/// # Errors
/// What there is instead.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    // Both in one file is what some are used to, as long as both are there.
    let beside =
        |label: &&str| *label != CERTIFICATE && !(is_of_key(label) && labels(pem).any(|l| l == CERTIFICATE));
    if let Some(other) = labels(pem).find(beside) {
        return Err(format!("expected nothing but certificates, found {other:?}"));
    }
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|e| format!("not PEM: {e}"))?;
    if found.is_empty() {
        return Err("there is no certificate in it (\"-----BEGIN CERTIFICATE-----\")".to_owned());
    }
    for (number, certificate) in (1..).zip(&found) {
        match X509Certificate::from_der(certificate) {
            Ok(([], _)) => {}
            Ok(_) => return Err(format!("certificate {number} in it has bytes behind its end")),
            Err(e) => return Err(format!("certificate {number} in it is not X.509: {e}")),
        }
    }
    Ok(found)
}

/// The same of those whose word is taken for others; a key has no place beside them.
///
/// # Errors
/// What there is instead.
pub fn authorities(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    if let Some(other) = labels(pem).find(|label| *label != CERTIFICATE) {
        return Err(format!("expected nothing but certificates, found {other:?}"));
    }
    let found = certificates(pem)?;
    let mut store = RootCertStore::empty();
    for (number, certificate) in (1..).zip(&found) {
        store
            .add(certificate.clone())
            .map_err(|e| format!("certificate {number} in it cannot vouch for others: {e}"))?;
    }
    Ok(found)
}

/// The one private key of a text: PKCS #8, PKCS #1 (RSA) or SEC 1 (EC).
///
/// # Errors
/// What there is instead.
pub fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, String> {
    if labels(pem).any(|label| label == "ENCRYPTED PRIVATE KEY") || pem.contains("\nProc-Type: 4,ENCRYPTED") {
        let way = "decrypt it (openssl pkey -in KEY -out NEW) and guard the file instead";
        return Err(format!("the key is encrypted, and nobody can be asked for its passphrase; {way}"));
    }
    let beside = |label: &&str| !(is_of_key(label) || *label == CERTIFICATE && labels(pem).any(is_of_key));
    if let Some(other) = labels(pem).find(beside) {
        return Err(format!("expected nothing but a private key, found {other:?}"));
    }
    let found: Result<Vec<_>, _> = PrivateKeyDer::pem_slice_iter(pem.as_bytes()).collect();
    let mut found = found.map_err(|e| format!("not PEM: {e}"))?;
    match (found.pop(), found.is_empty()) {
        (Some(key), true) => Ok(key),
        (Some(_), false) => Err("there is more than one key in it".to_owned()),
        (None, _) => Err("there is no private key in it (\"-----BEGIN PRIVATE KEY-----\")".to_owned()),
    }
}

const CERTIFICATE: &str = "CERTIFICATE";

/// A key, or what `openssl ecparam` writes before one.
fn is_of_key(label: &str) -> bool {
    label == "EC PARAMETERS" || label.ends_with("PRIVATE KEY")
}

/// What the blocks of a text say they are.
fn labels(pem: &str) -> impl Iterator<Item = &str> {
    pem.lines().filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn made() -> (String, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (CertificateParams::new(vec!["a.test".to_owned()]).unwrap().self_signed(&key).unwrap().pem(), key)
    }

    fn why<T>(result: Result<T, String>) -> String {
        result.err().expect("an error")
    }

    #[test]
    fn what_is_usable_is_read() {
        let ((one, key), (two, _)) = (made(), made());
        let both = certificates(&format!("Bag Attributes\n{one}\n# and\n{two}")).unwrap();
        assert_eq!(both.len(), 2);
        assert_eq!(authorities(&one).unwrap(), both[..1]);
        let both_of_them = Credentials::new(both, private_key(&key.serialize_pem()).unwrap()).unwrap();
        assert!(both_of_them == both_of_them.clone());
        assert!(!format!("{both_of_them:?}").contains("key"), "{both_of_them:?}");
    }

    #[test]
    fn what_is_not_is_told_in_words() {
        let ((one, key), (_, other)) = (made(), made());
        let key = key.serialize_pem();
        let together = format!("{one}{key}");
        assert!(certificates(&together).is_ok() && private_key(&together).is_ok());
        assert!(why(certificates("")).contains("no certificate"));
        assert!(why(certificates(&key)).contains("found \"PRIVATE KEY\""));
        assert!(why(certificates(&one.replace("MII", "M%I"))).contains("not PEM"));
        assert!(why(certificates(&one[..one.len() / 2])).contains("not PEM"));
        let no_der = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        assert!(why(certificates(no_der)).contains("certificate 1 in it is not X.509"));
        assert!(why(private_key(&one)).contains("found \"CERTIFICATE\""));
        assert!(why(private_key("")).contains("no private key"));
        assert!(why(private_key(&format!("{key}{key}"))).contains("more than one"));
        assert!(why(private_key(&key.replace("PRIVATE", "ENCRYPTED PRIVATE"))).contains("encrypted"));
        let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES\n\nAAAA\n-----END RSA PRIVATE KEY-----";
        assert!(why(private_key(legacy)).contains("encrypted"));
        let other = private_key(&other.serialize_pem()).unwrap();
        assert!(why(Credentials::new(certificates(&one).unwrap(), other)).contains("does not belong"));
        let broken =
            private_key("-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n").unwrap();
        assert!(why(Credentials::new(certificates(&one).unwrap(), broken)).contains("not usable"));
    }
}
