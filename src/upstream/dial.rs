//! How the targets of an upstream are reached: the peers that Pingora connects to, in the clear or with TLS.
//!
//! Pingora verifies nothing at all when a peer has no name to verify. So with TLS there always is one: `tls.sni`, or the
//! target's own name; a target without either is refused in the configuration, unless `verify: false` is written there.
//! The name goes to the target as SNI too, except an address, which TLS never sends.
//!
//! TLS is Pingora's own, 1.2 or 1.3. It makes the settings anew for each connection to a peer with its own `ca` or a client
//! certificate, so those never resume a session; others, verified by the system's authorities, do. Its constructor for
//! connectors of one's own is not public, and what `custom_l4` gives it is never kept for the next request; so what
//! spares handshakes is the pool of connections.
//!
//! HTTP/2 is Pingora's own too, many requests on one connection. Its windows are bounded here: what a slow client has not
//! taken waits in them.

use super::peer::{Address, Timeouts};
use crate::tls::pem::Credentials;
use pingora::protocols::l4::ext::TcpKeepalive;
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{parse_x509, CertKey, WrappedX509};
use pingora::{Error, ErrorType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::CertificateDer;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// `protocol` of an upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 and nothing else: agreed on by ALPN with TLS, taken for granted without.
    Http2,
    /// HTTP/2 or HTTP/1.1, as each target wants by ALPN.
    Auto,
}

/// How targets are spoken to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Speech {
    /// In which protocol.
    pub protocol: Protocol,
    /// How often a connection of HTTP/2 is asked whether it lives (RFC 9113 §6.7); none: never. Servers of gRPC take
    /// often asked questions for an attack.
    pub ping: Option<Duration>,
}

/// Requests at once on one connection of HTTP/2; a target may want fewer.
const STREAMS: usize = 100;
/// What a target may send of one answer before its client has taken it, and of all answers on a connection together: a few
/// that are not taken leave the others their room. It is as much as a target may be ahead that answers while it reads.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;

/// `tls` of an upstream. Its files are here with their content, so that an upstream whose files have changed is another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSpec {
    /// The name that every target has to prove; none: each its own.
    pub name: Option<String>,
    /// Whose word counts; none: that of the system's authorities.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
    /// Whether anything has to be proved.
    pub verify: bool,
    /// What the gateway shows of itself to a target that asks.
    pub client: Option<Credentials>,
}

/// Makes peers.
#[derive(Debug)]
pub struct Dial {
    timeouts: Timeouts,
    speech: Speech,
    tls: Option<Tls>,
}

#[derive(Debug)]
struct Tls {
    name: Option<String>,
    verify: bool,
    authorities: Option<Arc<CaType>>,
    client: Option<Arc<CertKey>>,
    group: u64,
}

/// The last bit of a peer's `group_key`: it keeps the pooled connections of ordinary requests from those that may become a
/// tunnel.
pub(super) const TUNNELS: u64 = 1;

impl Dial {
    /// By these settings.
    pub fn new(timeouts: &Timeouts, speech: &Speech, tls: Option<&TlsSpec>) -> Self {
        let tls = tls.map(|spec| Tls {
            name: spec.name.clone(),
            verify: spec.verify,
            authorities: match &spec.authorities {
                Some(authorities) => Some(wrapped(authorities)),
                None if spec.verify => None,
                None => Some(wrapped(&[nobody()])),
            },
            client: spec.client.as_ref().map(|pair| Arc::new(cert_key(pair))),
            group: group(spec, speech.protocol),
        });
        Dial { timeouts: *timeouts, speech: *speech, tls }
    }

    /// What the target with this address, called so in the configuration, has to prove to be; nothing without TLS.
    pub fn name(&self, host: Option<&str>, address: &Address) -> String {
        match &self.tls {
            None => String::new(),
            Some(Tls { name: Some(name), .. }) => name.clone(),
            Some(_) => match (host, address) {
                (Some(host), _) => host.to_owned(),
                // Where these have to prove something, the configuration names it.
                (None, Address::Inet(address)) => address.ip().to_string(),
                (None, Address::Unix(_)) => "localhost".to_owned(),
            },
        }
    }

    /// The peer at this address, which has to prove this name.
    pub fn peer(&self, address: &Address, name: String) -> HttpPeer {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let mut peer = HttpPeer::new(nowhere, self.tls.is_some(), name);
        peer._address = address.clone();
        peer.options.connection_timeout = Some(self.timeouts.connect);
        peer.options.total_connection_timeout = Some(self.timeouts.connect);
        peer.options.read_timeout = Some(self.timeouts.read);
        peer.options.write_timeout = Some(self.timeouts.write);
        peer.options.idle_timeout = Some(self.timeouts.idle);
        self.speak(&mut peer);
        if let Some(tls) = &self.tls {
            debug_assert!(!peer.sni.is_empty(), "without a name Pingora verifies nothing");
            peer.options.verify_cert = tls.verify;
            peer.options.verify_hostname = tls.verify;
            peer.options.ca.clone_from(&tls.authorities);
            peer.client_cert_key.clone_from(&tls.client);
            peer.group_key = tls.group;
        }
        peer
    }

    fn speak(&self, peer: &mut HttpPeer) {
        let options = &mut peer.options;
        match self.speech.protocol {
            Protocol::Http1 => return,
            Protocol::Http2 => options.set_http_version(2, 2),
            Protocol::Auto => options.set_http_version(2, 1),
        }
        options.max_h2_streams = STREAMS;
        options.h2_stream_window_size = Some(STREAM_WINDOW);
        options.h2_connection_window_size = Some(CONNECTION_WINDOW);
        options.h2_ping_interval = self.speech.ping;
        // Every request shares the connection, so one that leads nowhere any more has to be found out.
        let patience = self.timeouts.read.clamp(Duration::from_secs(1), Duration::from_secs(600));
        options.tcp_keepalive = Some(TcpKeepalive {
            idle: patience,
            interval: Duration::from_secs(5),
            count: 3,
            user_timeout: patience,
        });
    }
}

impl TlsSpec {
    /// Whether the system's authorities are asked.
    pub fn asks_the_system(&self) -> bool {
        self.verify && self.authorities.is_none()
    }
}

/// What TLS had against a connection, when that is why it failed: the engine's words about itself and the names in a
/// certificate, nothing else that a target sent.
pub fn tls_trouble(e: &Error) -> Option<String> {
    /// A certificate may have hundreds of names.
    const MOST: usize = 300;
    let mut trouble = match e.etype() {
        ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert => {
            let context = e.context.as_ref().map(|context| context.as_str()).unwrap_or_default();
            // `TLS connect() failed: … cause: WHY, SNI: NAME`
            let why = context.rsplit_once(" cause: ").map_or(context, |(_, why)| why);
            why.rsplit_once(", SNI: ").map_or(why, |(why, _)| why).trim().to_owned()
        }
        // With TLS 1.3 a client certificate is refused only after the handshake, in the place of an answer.
        _ => {
            let io = e.cause.as_deref()?.downcast_ref::<std::io::Error>()?;
            io.get_ref()?.downcast_ref::<rustls::Error>()?.to_string()
        }
    };
    if let Some((end, _)) = trouble.char_indices().nth(MOST) {
        trouble.truncate(end);
        trouble.push('…');
    }
    Some(trouble)
}

/// Pingora tells pooled connections apart by address and name, but not by whose word was believed, and client certificates
/// by their serial number alone.
/// What is spoken counts too: a connection that was asked for one protocol is not used for another.
fn group(spec: &TlsSpec, protocol: Protocol) -> u64 {
    let mut hash = DefaultHasher::new();
    protocol.hash(&mut hash);
    spec.authorities.iter().flatten().for_each(|der| der.as_ref().hash(&mut hash));
    spec.verify.hash(&mut hash);
    if let Some(Credentials { chain, key }) = &spec.client {
        chain.iter().for_each(|der| der.as_ref().hash(&mut hash));
        key.secret_der().hash(&mut hash);
    }
    hash.finish() & !TUNNELS
}

fn wrapped(certificates: &[CertificateDer<'static>]) -> Arc<CaType> {
    certificates.iter().map(|der| WrappedX509::new(der.to_vec(), parse_x509)).collect()
}

fn cert_key(pair: &Credentials) -> CertKey {
    CertKey::new(pair.chain.iter().map(|der| der.to_vec()).collect(), pair.key.secret_der().to_vec())
}

/// An authority that nobody is: its key was thrown away, and with `verify: false` it is not even asked. But Pingora wants
/// one where the system has none, also to verify nothing.
fn nobody() -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(NOBODY.as_bytes()).expect("a constant certificate is PEM")
}

const NOBODY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBeTCCAR+gAwIBAgIUOhdNwBKaiJG8JSV2z0aljTKzFh8wCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyNTEzNDA1MVoYDzIxMjYxMTAxMTM0
MDUxWjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AATAl01o9j2Ad7noomkYFey5uoi4XBLptgii1NRyUk24pSlS9MFCHt/UrvdX/txI
63AqMtZV7TrbWe9y8ksDIcS3o1MwUTAdBgNVHQ4EFgQUpC35FlVdthYR9QQBj2cJ
ZT2Ok2UwHwYDVR0jBBgwFoAUpC35FlVdthYR9QQBj2cJZT2Ok2UwDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiAap3q0iQUnlo1TISwe8SlOeLobap3m
d+p1KnlMtRK2TwIhAOSueoG/vVki2qvaX+fugHclc5Wv5A1Kx3gtLyc9JA6N
-----END CERTIFICATE-----
";
