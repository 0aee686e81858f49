//! A client of TLS that says what its handshake settled.

use super::certs::{Authority, Issued};
use super::raw::{Raw, Response};
use super::DEADLINE;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion,
};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

/// A client that trusts an authority; clones share its sessions, so that the second connection may resume the first.
#[derive(Clone)]
pub struct Client(Arc<ClientConfig>);

/// A connection over TLS.
pub type Tls = Raw<StreamOwned<ClientConnection, TcpStream>>;

impl Client {
    pub fn of(authority: &Authority) -> Client {
        Client::with(authority, None, rustls::ALL_VERSIONS)
    }

    /// With a certificate of its own.
    pub fn known_by(authority: &Authority, own: &Issued) -> Client {
        Client::with(authority, Some(own), rustls::ALL_VERSIONS)
    }

    pub fn with(
        authority: &Authority,
        own: Option<&Issued>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Client {
        Client::trusting(authority.pem(), own, versions)
    }

    /// The same by the authority's certificate alone.
    pub fn trusting(
        pem: &str,
        own: Option<&Issued>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let config = config.with_root_certificates(roots);
        Client(Arc::new(match own {
            Some(own) => {
                let chain = vec![CertificateDer::from_pem_slice(own.cert_pem.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
            None => config.with_no_client_auth(),
        }))
    }

    /// Changes what is offered.
    pub fn change(self, change: impl FnOnce(&mut ClientConfig)) -> Client {
        let mut config = (*self.0).clone();
        change(&mut config);
        Client(Arc::new(config))
    }

    /// Connects, and does the whole handshake.
    pub fn connect(&self, address: SocketAddr, name: &str) -> io::Result<Tls> {
        self.over(TcpStream::connect(address)?, name)
    }

    /// The same over a connection on which something else came first.
    pub fn over(&self, socket: TcpStream, name: &str) -> io::Result<Tls> {
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut stream = StreamOwned::new(ClientConnection::new(Arc::clone(&self.0), name).unwrap(), socket);
        stream.flush()?;
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Raw::over(stream))
    }

    /// A GET on a connection of its own; its error may be one that the handshake only shows when it is read from (a
    /// certificate that is refused under TLS 1.3).
    pub fn get(&self, address: SocketAddr, name: &str, target: &str) -> io::Result<Response> {
        self.connect(address, name)?.ask(name, target)
    }
}

impl Tls {
    /// Sends a GET for this host and reads the answer.
    pub fn ask(&mut self, host: &str, target: &str) -> io::Result<Response> {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        self.one_response("GET").ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
    }

    /// How the handshake was done; known once something was read.
    pub fn resumed(&self) -> bool {
        self.socket.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The certificate that was shown.
    pub fn shown(&self) -> Vec<u8> {
        self.socket.conn.peer_certificates().unwrap()[0].to_vec()
    }
}

/// What a client shows of itself.
pub fn key(own: &Issued) -> Arc<dyn rustls::client::ResolvesClientCert> {
    let chain = vec![CertificateDer::from_pem_slice(own.cert_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let certified = rustls::sign::CertifiedKey::from_der(chain, key, &provider).unwrap();
    Arc::new(rustls::sign::SingleCertAndKey::from(certified))
}

/// The certificate of a file as [`Tls::shown`] has it.
pub fn der(issued: &Issued) -> Vec<u8> {
    CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap().to_vec()
}
