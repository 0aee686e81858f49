//! Accepting from one socket, for the listeners and for `admin`'s door alike. What goes wrong is said once and tried again; a
//! client that has gone is nothing wrong.

use super::sockets::{self, Bound};
use crate::wire::facts::Ends;
use crate::wire::socket::Socket;
use futures_util::FutureExt;
use log::warn;
use std::io;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};

/// A pause when the process or the system is out of descriptors or memory, instead of spinning.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Accepts from a socket.
pub(super) struct Acceptor {
    name: String,
    /// It has been said that it cannot.
    complained: bool,
    kind: Kind,
}

enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    /// Of this runtime.
    pub(super) fn new(bound: &Bound) -> io::Result<Self> {
        let kind = match bound.another()? {
            sockets::Listening::Tcp(listener) => Kind::Tcp(TcpListener::from_std(listener)?),
            sockets::Listening::Unix(listener) => Kind::Unix(UnixListener::from_std(listener)?),
        };
        Ok(Acceptor { name: bound.name(), complained: false, kind })
    }

    /// The next connection, and whose it is. What goes wrong is said once, and tried again after a pause.
    pub(super) async fn next(&mut self) -> (Socket, Ends) {
        loop {
            match self.accept().await {
                Ok(accepted) => {
                    self.complained = false;
                    return accepted;
                }
                Err(e) if is_of_the_client(&e) => {}
                Err(e) => {
                    if !std::mem::replace(&mut self.complained, true) {
                        warn!("{}: cannot accept: {e}", self.name);
                    }
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }

    /// A connection that is in the queue now. The runtime's budget for a task must not end this: the rest would be reset.
    pub(super) fn waiting(&self) -> Option<(Socket, Ends)> {
        loop {
            match tokio::task::unconstrained(self.accept()).now_or_never()? {
                Ok(accepted) => return Some(accepted),
                Err(e) if is_of_the_client(&e) => {}
                Err(e) => {
                    warn!("{}: cannot accept what waits: {e}", self.name);
                    return None;
                }
            }
        }
    }

    async fn accept(&self) -> io::Result<(Socket, Ends)> {
        match &self.kind {
            Kind::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                let _ = socket.set_nodelay(true); // answers leave when they are written
                let ends = Ends { client: Some(peer), local: socket.local_addr().ok(), stranger: false };
                Ok((Socket::Tcp(socket), ends))
            }
            Kind::Unix(listener) => Ok((Socket::Unix(listener.accept().await?.0), Ends::default())),
        }
    }
}

/// The client went away between the kernel's handshake and our accept.
fn is_of_the_client(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(e.kind(), K::ConnectionAborted | K::ConnectionReset | K::ConnectionRefused | K::Interrupted)
}
