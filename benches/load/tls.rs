//! The TLS side of the load: certificates for the contenders, and a client that can say what it negotiated.

use crate::process;
use crate::unverified::Unverified;
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::CipherSuite;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The name in the certificates.
pub const HOST: &str = "localhost";
/// What every client here and every load generator negotiates, so that no contender has the cheaper cipher.
pub const SUITE: &str = "TLS_AES_256_GCM_SHA384";
/// Where the certificates are in the folder of a run.
pub const FOLDER: &str = "keys";

/// The key of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    P256,
    Rsa2048,
}

impl Key {
    /// The files' name without what follows the dot.
    pub fn stem(self) -> &'static str {
        match self {
            Key::P256 => "p256",
            Key::Rsa2048 => "rsa2048",
        }
    }

    fn made_by(self) -> &'static str {
        match self {
            Key::P256 => "ec -pkeyopt ec_paramgen_curve:P-256",
            Key::Rsa2048 => "rsa:2048",
        }
    }
}

/// Writes certificates that sign themselves: NAME.pem, NAME.key, and NAME.both with one after the other for HAProxy.
/// By the openssl program, because rcgen makes no RSA keys with the backend that it has here.
pub fn make_certificates(run: &Path) -> Result<(), String> {
    let folder = run.join(FOLDER);
    fs::create_dir_all(&folder).map_err(|e| format!("a folder for certificates: {e}"))?;
    for key in [Key::P256, Key::Rsa2048] {
        let stem = key.stem();
        let line = format!(
            "openssl req -x509 -sha256 -days 30 -nodes -newkey {} -keyout {stem}.key -out {stem}.pem -subj /CN={HOST} \
             -addext subjectAltName=DNS:{HOST},IP:127.0.0.1",
            key.made_by()
        );
        let command: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        process::output(None, &folder, &command, Duration::from_secs(30))?;
        let read = |file: String| fs::read(folder.join(&file)).map_err(|e| format!("{file}: {e}"));
        let both = [read(format!("{stem}.pem"))?, read(format!("{stem}.key"))?].concat();
        fs::write(folder.join(format!("{stem}.both")), both).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// TLS 1.3 with one suite and one group: all contenders do the same work or none at all. With `resumes` it keeps the
/// tickets that it gets, and each is used once.
pub fn client(resumes: bool) -> Result<Arc<ClientConfig>, String> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|s| s.suite() == CipherSuite::TLS13_AES_256_GCM_SHA384);
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let provider = Arc::new(provider);
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?;
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = if resumes { Resumption::in_memory_sessions(8) } else { Resumption::disabled() };
    Ok(Arc::new(config))
}

/// Whom the client asks for.
pub fn name() -> Result<ServerName<'static>, String> {
    ServerName::try_from(HOST).map_err(|e| e.to_string())
}
