//! Certificates: an authority, and what it issues, as PEM files in a folder of their own.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SerialNumber,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};

/// An authority with a folder for what it issues.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    folder: tempfile::TempDir,
}

/// A certificate and its key, in files and as text.
#[derive(Clone)]
pub struct Issued {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub cert_pem: String,
    pub key_pem: String,
}

impl Issued {
    /// `{cert: …, key: …}` of a configuration.
    pub fn yaml(&self) -> String {
        format!("{{cert: {}, key: {}}}", self.cert.display(), self.key.display())
    }
}

/// A certificate with its key, both PEM, in no file yet.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The certificate.
    pub cert: String,
    /// The key, PKCS #8.
    pub key: String,
}

impl Signed {
    /// Writes the two into a folder, as NAME.pem and NAME.key.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let cert = write(folder, &format!("{name}.pem"), &self.cert);
        (cert, write(folder, &format!("{name}.key"), &self.key))
    }

    /// The certificates, for a library.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.cert.as_bytes()).map(Result::unwrap).collect()
    }

    /// The key, for a library.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// What a certificate is to be.
pub struct Leaf<'a> {
    /// DNS names and addresses; the first is the common name too.
    pub names: &'a [&'a str],
    pub rsa: bool,
    /// Days from now on, negative ones before.
    pub valid: (i64, i64),
    /// Seconds more.
    pub seconds: i64,
    pub serial: u64,
}

impl Default for Leaf<'_> {
    fn default() -> Self {
        Leaf { names: &["localhost"], rsa: false, valid: (-1, 90), seconds: 0, serial: 1 }
    }
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), &pem).unwrap();
        Authority { issuer: Issuer::new(params, key), pem, folder }
    }

    /// Its own certificate's file.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Its own certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A certificate for these names, good for three months.
    pub fn issue(&self, file: &str, names: &[&str]) -> Issued {
        self.issue_as(file, &Leaf { names, ..Leaf::default() })
    }

    /// Puts `FILE.pem` and `FILE.key` into the folder, in place of any that are there, each whole at once.
    pub fn issue_as(&self, file: &str, leaf: &Leaf<'_>) -> Issued {
        let signed = self.sign(leaf);
        let (cert, key) = signed.write(self.folder.path(), file);
        Issued { cert, key, cert_pem: signed.cert, key_pem: signed.key }
    }

    /// A certificate that is in no file yet.
    pub fn sign(&self, leaf: &Leaf<'_>) -> Signed {
        let kind = if leaf.rsa { &PKCS_RSA_SHA256 } else { &PKCS_ECDSA_P256_SHA256 };
        let key = KeyPair::generate_for(kind).unwrap();
        let names: Vec<String> = leaf.names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, *leaf.names.first().unwrap_or(&"nobody"));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(leaf.serial));
        let now = OffsetDateTime::now_utc();
        params.not_before = now + Duration::days(leaf.valid.0);
        params.not_after = now + Duration::days(leaf.valid.1) + Duration::seconds(leaf.seconds);
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Signed { cert, key: key.serialize_pem() }
    }

    /// The same for these names.
    pub fn leaf(&self, names: &[&str]) -> Signed {
        self.sign(&Leaf { names, ..Leaf::default() })
    }

    /// Writes its own certificate into a folder, under this name.
    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        write(folder, name, &self.pem)
    }

    /// A list of revoked certificates by their serial numbers, good for so many days, in `FILE.crl`.
    pub fn revoke(&self, file: &str, serials: &[u64], days: i64) -> PathBuf {
        let now = OffsetDateTime::now_utc();
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now - Duration::days(2),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: now - Duration::days(3),
            next_update: now + Duration::days(days),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.folder.path().join(format!("{file}.crl"));
        replace(&path, &params.signed_by(&self.issuer).unwrap().pem().unwrap());
        path
    }
}

/// Writes a file into a folder, whole at every moment.
pub fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    replace(&path, text);
    path
}

/// Puts a file in place of another at once.
pub fn replace(path: &Path, text: &str) {
    let beside = path.with_file_name(format!("{}.new", path.file_name().unwrap().to_str().unwrap()));
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}

/// A copy of `conf/`, with the certificates that its files name: `tls/api.pem` and the like.
pub fn conf() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tls = folder.path().join("tls");
    std::fs::create_dir(&tls).unwrap();
    for entry in std::fs::read_dir(super::gateway::repository("conf")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue; // whoever has walked through the README has a certificate there
        }
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let authority = Authority::new("An authority");
    let api = authority.issue("api", &["api.example.com", "localhost"]);
    let crl = authority.revoke("clients", &[], 30);
    for (from, to) in [
        (&api.cert, "api.pem"),
        (&api.key, "api.key"),
        (&authority.file(), "clients.pem"),
        (&crl, "clients.crl"),
    ] {
        std::fs::copy(from, tls.join(to)).unwrap();
    }
    folder
}
