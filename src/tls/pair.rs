//! A certificate with its key, read from two PEM files (RFC 7468) and checked against each other.

use super::names::Names;
use super::source::{sha256, Flaw, Source};
use rustls::pki_types::pem::{Error as PemError, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, SignatureAlgorithm};
use std::path::PathBuf;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate, what it was issued under, and its key.
#[derive(Debug)]
pub struct Pair {
    /// Where the certificate is.
    pub cert: PathBuf,
    /// Where its key is.
    pub key: PathBuf,
    /// Both, ready to sign with.
    pub certified: Arc<CertifiedKey>,
    /// The hosts that it is for.
    pub names: Arc<Names>,
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
    /// When it begins, in seconds since 1970.
    pub not_before: i64,
    /// Tells these contents of the two files from any others.
    pub(super) fingerprint: [u8; 32],
}

impl Pair {
    /// Reads and compares both. That a certificate has expired is no flaw: a gateway that does not start would be worse.
    ///
    /// # Errors
    /// Which of the files is wrong, and how.
    pub fn parse(cert: &Source, key: &Source) -> Result<Pair, Flaw> {
        let chain = certificates(cert)?;
        let secret = private_key(key)?;
        let provider = super::provider();
        let signing = provider.key_provider.load_private_key(secret);
        let signing = signing.map_err(|e| key.flaw(format!("a key that cannot be used: {e}")))?;
        let (_, leaf) =
            X509Certificate::from_der(&chain[0]).map_err(|e| cert.flaw(format!("not a certificate: {e}")))?;
        let (names, validity) = (Names::of(&leaf), leaf.validity().clone());
        let certified = CertifiedKey::new(chain, signing);
        match certified.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                return Err(key.flaw("not the key of its certificate"));
            }
            Err(e) => return Err(cert.flaw(format!("a certificate that cannot be used: {e}"))),
        }
        Ok(Pair {
            cert: cert.path.clone(),
            key: key.path.clone(),
            certified: Arc::new(certified),
            names: Arc::new(names),
            not_after: validity.not_after.timestamp(),
            not_before: validity.not_before.timestamp(),
            fingerprint: sha256(&[cert.fingerprint(), key.fingerprint()].concat()),
        })
    }

    /// Reads both files again.
    ///
    /// # Errors
    /// Which of them is wrong, and how.
    pub(super) fn again(&self) -> Result<Pair, Flaw> {
        Pair::parse(&Source::read(&self.cert)?, &Source::read(&self.key)?)
    }

    /// How dear its signature is: of two certificates for a name the client gets the cheaper that it knows.
    pub(super) fn cost(&self) -> u8 {
        match self.certified.key.algorithm() {
            SignatureAlgorithm::RSA => 1,
            _ => 0,
        }
    }
}

/// All certificates of a file, of which there is at least one.
///
/// # Errors
/// What is wrong with it.
pub fn certificates(source: &Source) -> Result<Vec<CertificateDer<'static>>, Flaw> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(source.bytes()).collect();
    let chain = chain.map_err(|e| source.flaw(format!("not PEM: {e}")))?;
    if chain.is_empty() {
        return Err(
            source.flaw(format!("no certificate (-----BEGIN CERTIFICATE-----) in it{}", instead(source)))
        );
    }
    Ok(chain)
}

fn private_key(source: &Source) -> Result<PrivateKeyDer<'static>, Flaw> {
    PrivateKeyDer::from_pem_slice(source.bytes()).map_err(|e| match e {
        PemError::NoItemsFound => source.flaw(format!("no private key in it{}", instead(source))),
        e => source.flaw(format!("not PEM: {e}")),
    })
}

/// What is in the file, where something else should be.
fn instead(source: &Source) -> String {
    const ENCRYPTED: &[u8] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
    const OLD_ENCRYPTED: &[u8] = b"Proc-Type: 4,ENCRYPTED";
    let has = |text: &[u8]| memchr::memmem::find(source.bytes(), text).is_some();
    if has(ENCRYPTED) || has(OLD_ENCRYPTED) {
        return "; it is encrypted: write it without a passphrase (openssl pkey -in … -out …)".to_owned();
    }
    let mut found: Vec<_> = <(SectionKind, Vec<u8>)>::pem_slice_iter(source.bytes())
        .filter_map(|item| item.ok())
        .map(|(kind, _)| match kind {
            SectionKind::Certificate => "a certificate",
            SectionKind::PublicKey => "a public key",
            SectionKind::Csr => "a request for a certificate",
            SectionKind::Crl => "a revocation list",
            SectionKind::RsaPrivateKey | SectionKind::PrivateKey | SectionKind::EcPrivateKey => {
                "a private key"
            }
            _ => "something else",
        })
        .collect();
    found.dedup();
    if found.is_empty() {
        return String::new();
    }
    format!("; there is {}", found.join(", "))
}
