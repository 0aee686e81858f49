//! A certificate with its key, read from two PEM files (RFC 7468) and checked against each other.

use super::names::Names;
use super::pem;
use super::source::{sha256, Flaw, Source};
use rustls::sign::CertifiedKey;
use rustls::SignatureAlgorithm;
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
        let chain = pem::certificates(cert.text()).map_err(|e| cert.flaw(e))?;
        let secret = pem::private_key(key.text()).map_err(|e| key.flaw(e))?;
        let certified = pem::certify(chain, &secret).map_err(|e| key.flaw(e))?;
        let leaf = X509Certificate::from_der(&certified.cert[0]);
        let (_, leaf) = leaf.map_err(|e| cert.flaw(format!("not X.509: {e}")))?;
        let (names, validity) = (Names::of(&leaf), leaf.validity().clone());
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
