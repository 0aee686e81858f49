//! TLS in front of an [`Origin`](super::Origin), by rustls itself: what it saw of handshakes can be asked for.

use super::certs::{Authority, Signed};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A handshake that was successful.
#[derive(Debug, Clone)]
pub struct Shaken {
    /// The name that was asked for.
    pub sni: Option<String>,
    /// The protocol that was agreed on.
    pub alpn: Option<Vec<u8>>,
    /// Of TLS.
    pub version: ProtocolVersion,
    /// An earlier session went on.
    pub resumed: bool,
    /// The client showed a certificate.
    pub client: bool,
}

/// A listener with TLS; what comes goes on to an origin in the clear. It ends when dropped.
pub struct Secure {
    /// Where it listens.
    pub address: SocketAddr,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    shaken: Arc<Mutex<Vec<Shaken>>>,
    failed: Arc<Mutex<Vec<String>>>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

/// What a server shows, and of whom it wants to see something too.
pub fn server(leaf: &Signed, clients: Option<&Authority>) -> ServerConfig {
    server_of(leaf, clients, rustls::ALL_VERSIONS)
}

/// The same with these versions of TLS.
pub fn server_of(
    leaf: &Signed,
    clients: Option<&Authority>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(versions).unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let mut config = builder.with_single_cert(leaf.chain(), leaf.private_key()).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

impl Secure {
    /// In front of this address.
    pub fn start(behind: SocketAddr, config: ServerConfig) -> Secure {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let secure = Secure {
            address,
            config: Arc::new(Mutex::new(Arc::new(config))),
            shaken: Arc::default(),
            failed: Arc::default(),
            _stop: stop,
        };
        let (config, shaken, failed) =
            (Arc::clone(&secure.config), Arc::clone(&secure.shaken), Arc::clone(&secure.failed));
        let serve = async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                let acceptor = TlsAcceptor::from(Arc::clone(&config.lock().unwrap()));
                let (shaken, failed) = (Arc::clone(&shaken), Arc::clone(&failed));
                tokio::spawn(async move {
                    let mut client = match acceptor.accept(client).await {
                        Ok(client) => client,
                        Err(e) => return failed.lock().unwrap().push(e.to_string()),
                    };
                    shaken.lock().unwrap().push(Shaken::of(client.get_ref().1));
                    let Ok(mut origin) = TcpStream::connect(behind).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut origin).await;
                });
            }
        };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! { () = serve => {}, _ = stopped => {} }
            });
        });
        secure
    }

    /// From now on, for new connections.
    pub fn change(&self, config: ServerConfig) {
        *self.config.lock().unwrap() = Arc::new(config);
    }

    /// The handshakes that were successful, in order.
    pub fn shaken(&self) -> Vec<Shaken> {
        self.shaken.lock().unwrap().clone()
    }

    /// Why the others were not.
    pub fn failed(&self) -> Vec<String> {
        self.failed.lock().unwrap().clone()
    }

    /// `host:port` for a configuration.
    pub fn target(&self) -> String {
        self.address.to_string()
    }
}

impl Shaken {
    fn of(connection: &rustls::ServerConnection) -> Shaken {
        Shaken {
            sni: connection.server_name().map(str::to_owned),
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
            version: connection.protocol_version().unwrap(),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            client: connection.peer_certificates().is_some(),
        }
    }
}
