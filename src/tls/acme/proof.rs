//! What an authority is shown, so that it believes that a host is ours.

use super::Challenge;
use crate::tls::source::sha256;
use log::warn;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::ServerConfig;
use std::sync::Arc;

/// What an authority names by ALPN (RFC 8737 §6.2).
const ACME_TLS: &[u8] = b"acme-tls/1";

/// Under which path an authority asks (RFC 8555 §8.3).
pub const PATH: &str = "/.well-known/acme-challenge/";

/// One that is pending.
#[derive(Debug)]
pub(super) struct Proof {
    pub(super) token: Box<str>,
    pub(super) host: Box<str>,
    pub(super) shown: Shown,
}

#[derive(Debug)]
pub(super) enum Shown {
    Answer(Arc<str>),
    Handshake(Arc<ServerConfig>),
}

impl Proof {
    pub(super) fn new(token: &str, host: &str, answer: &str, challenge: Challenge) -> Option<Self> {
        let shown = match challenge {
            Challenge::Http => Shown::Answer(answer.into()),
            Challenge::TlsAlpn => match handshake(host, answer) {
                Ok(config) => Shown::Handshake(Arc::new(config)),
                Err(e) => {
                    warn!("{host}: no certificate to prove it by: {e}");
                    return None;
                }
            },
        };
        Some(Proof { token: token.into(), host: host.into(), shown })
    }
}

/// Whether an authority, and nobody else, begins this handshake.
pub(in crate::tls) fn is_asked_for(hello: &ClientHello<'_>) -> bool {
    let Some(mut offered) = hello.alpn() else { return false };
    (offered.next(), offered.next()) == (Some(ACME_TLS), None)
}

/// A certificate of its own with the digest of the key authorization in it (RFC 8737 §3).
fn handshake(host: &str, answer: &str) -> Result<ServerConfig, Box<dyn std::error::Error>> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&sha256(answer.as_bytes()))];
    let certificate = params.self_signed(&key)?;
    let provider = crate::tls::provider();
    let secret = PrivateKeyDer::try_from(key.serialize_der())?;
    let signing = provider.key_provider.load_private_key(secret)?;
    let certified = CertifiedKey::new(vec![certificate.der().clone()], signing);
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.with_no_client_auth();
    let mut config = config.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
