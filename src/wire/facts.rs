//! What every request of a connection says of it, written once.

use crate::base::client;
use http::HeaderValue;
use std::net::IpAddr;

/// A connection's two ends as fields are made of them.
#[derive(Debug)]
pub struct Facts {
    /// The client's address; none on a Unix socket.
    pub peer: Option<HeaderValue>,
    /// The client as a node of RFC 7239 §6.
    pub node: Box<str>,
    /// The port the client connected to; none on a Unix socket.
    pub local_port: Option<HeaderValue>,
}

impl Facts {
    /// Of a connection from `peer` to `local_port`.
    pub fn new(peer: Option<IpAddr>, local_port: Option<u16>) -> Self {
        let peer = peer.map(|p| p.to_canonical());
        let text = |p: IpAddr| HeaderValue::try_from(p.to_string()).expect("an address is a field value");
        Facts {
            peer: peer.map(text),
            node: peer.map_or_else(|| "unknown".into(), |p| client::node(p).into()),
            local_port: local_port.map(HeaderValue::from),
        }
    }
}
