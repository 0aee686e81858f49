//! TLS: certificates with their keys, on both sides; and at the door which of them a client gets, who must show one, and
//! the tickets by which a client comes back without a handshake.
//!
//! In reading order: [`pem`] is certificates and keys out of text; a [`pair`] is those of a listener in their files, checked
//! as they are read; [`names`] are the hosts that a certificate covers; [`clients`] says whose certificates are accepted;
//! [`ticket`] makes and reads session tickets; a [`terminator`] has all of these for one listener and does its handshakes; [`acme`] gets
//! certificates from an authority.
//!
//! It refuses what does not fit together: a key that is not the certificate's, a certificate that is none, TLS below 1.2.
//! It knows no route and no request: who asks whether a host may be asked for on a connection gets the [`Session`].
//! Files are read by `config`, and read again here when they change; nothing else here does I/O but the handshake itself, and [`acme`].

pub mod acme;
pub mod clients;
pub mod names;
pub mod pair;
pub mod pem;
pub mod source;
pub mod terminator;
pub mod ticket;

pub use terminator::{Session, Terminator};

use rustls::crypto::CryptoProvider;
use std::sync::Arc;

/// The cryptography of all of the process's TLS: aws-lc, whose signatures take less of the processor than ring's
/// (benches/README.md).
pub fn provider() -> Arc<CryptoProvider> {
    install_provider();
    Arc::clone(CryptoProvider::get_default().expect("it has been installed"))
}

/// Makes [`provider`]'s the one that libraries take when they are not told. The engine would take ring with its first
/// connector, and whoever comes first wins: whoever builds a part of the engine that may speak TLS calls this before.
pub fn install_provider() {
    // An error says that one is there: this one, or a test's own.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
/// An empty list of authorities, for a connector that needs none: it would read the system's otherwise.
pub const NO_AUTHORITIES: &str = "/dev/null";

/// How many authorities the system has (`SSL_CERT_FILE` and `SSL_CERT_DIR` come first), as the engine's connectors will find
/// them.
///
/// # Errors
/// Why they cannot be read. A connector would panic over that: it is to be given [`NO_AUTHORITIES`] instead.
pub fn system_authorities() -> Result<usize, String> {
    let mut store = rustls::RootCertStore::empty();
    pingora::tls::load_platform_certs_incl_env_into_store(&mut store).map_err(|e| {
        let cause = e.cause.as_ref().map(ToString::to_string);
        cause.unwrap_or_else(|| e.to_string())
    })?;
    Ok(store.len())
}
