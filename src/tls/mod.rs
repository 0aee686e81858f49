//! TLS at the door: certificates with their keys, which of them a client gets, who must show one, and the tickets by which
//! a client comes back without a handshake.
//!
//! In reading order: a [`pair`] is a certificate and its key, checked as they are read; [`names`] are the hosts that it
//! covers; [`clients`] says whose certificates are accepted; [`ticket`] makes and reads session tickets; a [`terminator`] has
//! all of these for one listener and does its handshakes.
//!
//! It refuses what does not fit together: a key that is not the certificate's, a certificate that is none, TLS below 1.2.
//! It knows no route and no request: who asks whether a host may be asked for on a connection gets the [`Session`].
//! Files are read by `config`, and read again here when they change; nothing else here does I/O but the handshake itself.

pub mod clients;
pub mod names;
pub mod pair;
pub mod source;
pub mod terminator;
pub mod ticket;

pub use terminator::{Session, Terminator};

use rustls::crypto::CryptoProvider;
use std::sync::Arc;

/// The cryptography of all of the process's TLS: aws-lc, whose RSA signatures take a third of ring's time
/// (benches/README.md).
pub fn provider() -> Arc<CryptoProvider> {
    install_provider();
    Arc::clone(CryptoProvider::get_default().expect("it has been installed"))
}

/// Makes [`provider`]'s the one that libraries take when they are not told. Before the engine does: its own would be ring.
pub fn install_provider() {
    // An error says that one is there: this one, or a test's own.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
