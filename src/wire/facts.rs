//! What every request of a connection says of it, written once.

use crate::base::client;
use crate::tls::Session;
use http::HeaderValue;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// What a listener asks of those who come in by it.
#[derive(Debug, Default)]
pub struct Terms {
    /// They are sent to `https` instead: what stands between host and path there, `:8443` or nothing.
    pub https: Option<Box<str>>,
    /// What browsers are told about coming back by TLS alone (RFC 6797); only where there is TLS.
    pub hsts: Option<HeaderValue>,
    over: AtomicBool,
}

impl Terms {
    /// These.
    pub fn new(https: Option<Box<str>>, hsts: Option<HeaderValue>) -> Self {
        Terms { https, hsts, over: AtomicBool::new(false) }
    }

    /// Nobody comes in like this any more, and who has is not to stay.
    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Whether that is so.
    pub fn are_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

/// The two ends of a client's connection, or what a balancer in front says of them; none on a Unix socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ends {
    /// The client's.
    pub client: Option<SocketAddr>,
    /// What it has connected to.
    pub local: Option<SocketAddr>,
    /// Somebody for whom the one at the other end speaks, without a name: what that one is trusted with is not theirs.
    pub stranger: bool,
}

impl Ends {
    /// The client's address.
    pub fn address(&self) -> Option<IpAddr> {
        self.client.map(|client| client.ip())
    }
}

/// A connection's two ends as fields are made of them.
#[derive(Debug, Default)]
pub struct Facts {
    /// The ends themselves.
    pub ends: Ends,
    /// The client's address; none on a Unix socket.
    pub address: Option<IpAddr>,
    /// The same as a field has it.
    pub peer: Option<HeaderValue>,
    /// The client as a node of RFC 7239 §6.
    pub node: Box<str>,
    /// The port the client connected to; none on a Unix socket.
    pub local_port: Option<HeaderValue>,
    /// What its TLS has settled, if it has TLS.
    pub tls: Option<Box<Session>>,
    /// The client's certificate, as RFC 9440 has it.
    pub client_cert: Option<HeaderValue>,
    /// What its listener asks.
    pub terms: Arc<Terms>,
}

impl Facts {
    /// Of a connection between these.
    pub fn new(ends: Ends, tls: Option<Session>, terms: Arc<Terms>) -> Self {
        let address = ends.address();
        let canonical = address.map(|p| p.to_canonical());
        let text = |p: IpAddr| HeaderValue::try_from(p.to_string()).expect("an address is a field value");
        let field = |cert: &str| HeaderValue::try_from(cert).expect("base64 is a field value");
        let client = tls.as_ref().and_then(|session| session.client.as_ref());
        Facts {
            ends,
            address,
            peer: canonical.map(text),
            node: canonical.map_or_else(|| "unknown".into(), |p| client::node(p).into()),
            local_port: ends.local.map(|local| HeaderValue::from(local.port())),
            client_cert: client.map(|client| field(&client.field)),
            tls: tls.map(Box::new),
            terms,
        }
    }

    /// The scheme that its requests came by.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() {
            "https"
        } else {
            "http"
        }
    }
}
