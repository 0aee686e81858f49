//! Sockets that listen: bound before anything is announced, so that an address in use ends the start with its
//! reason; then accepted from in a Pingora service of our own.
//!
//! Pingora's own listening service panics in a task thirty seconds after a failed bind while the process lives on,
//! cannot count connections and cannot watch over a head's deadline, so this one stands in its place.

use super::connection::{self, Admission};
use super::{Shared, StartError};
use crate::error::Reject;
use crate::gateway::Bind;
use crate::proxy::{failure, Proxy};
use crate::wire::socket::Socket;
use async_trait::async_trait;
use log::{error, info, warn};
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use pingora_proxy::HttpProxy;
use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

/// Connections that the kernel completes before we accept them.
const BACKLOG: i32 = 4096;
/// A pause when the process or the system is out of descriptors or memory, instead of spinning.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// A socket that listens already.
pub enum Bound {
    /// On an address.
    Tcp(std::net::TcpListener),
    /// On a path.
    Unix(std::os::unix::net::UnixListener, String),
}

/// Binds all listeners.
///
/// # Errors
/// The first address that cannot be bound, and why.
pub fn bind_all(listeners: &[Bind]) -> Result<Vec<Bound>, StartError> {
    listeners.iter().map(bind).collect()
}

fn bind(address: &Bind) -> Result<Bound, StartError> {
    let fail = |e: io::Error| match e.kind() {
        io::ErrorKind::AddrInUse => {
            StartError(format!("cannot listen on {address}: another process does already"))
        }
        io::ErrorKind::PermissionDenied => StartError(format!(
            "cannot listen on {address}: not permitted (ports below 1024 need CAP_NET_BIND_SERVICE)"
        )),
        _ => StartError(format!("cannot listen on {address}: {e}")),
    };
    let bound = match address {
        Bind::Tcp(tcp) => Bound::Tcp(bind_tcp(*tcp).map_err(fail)?),
        Bind::Unix(path) => Bound::Unix(bind_unix(path).map_err(fail)?, address.to_string()),
    };
    Ok(bound)
}

fn bind_tcp(address: std::net::SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?; // a restart must not wait for old connections' TIME_WAIT
    if address.is_ipv6() {
        socket.set_only_v6(true)?; // 0.0.0.0 and [::] can both be listened on
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A socket file that a dead process left behind is in the way; one that answers belongs to somebody.
fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Accepts connections and serves each in a task of its own.
pub struct Listening {
    bound: Vec<Bound>,
    proxy: Arc<HttpProxy<Proxy>>,
    shared: Arc<Shared>,
    draining: watch::Receiver<bool>,
}

impl Listening {
    /// A service over sockets that listen already.
    pub fn new(
        bound: Vec<Bound>,
        proxy: Arc<HttpProxy<Proxy>>,
        shared: Arc<Shared>,
        draining: watch::Receiver<bool>,
    ) -> Self {
        Listening { bound, proxy, shared, draining }
    }
}

#[async_trait]
impl Service for Listening {
    async fn start_service(&mut self, _: Option<ListenFds>, _: ShutdownWatch, _: usize) {
        let mut loops = Vec::new();
        for bound in self.bound.drain(..) {
            let acceptor = match Acceptor::new(bound) {
                Ok(acceptor) => acceptor,
                Err(e) => {
                    error!("a bound socket cannot be used: {e}");
                    std::process::exit(3);
                }
            };
            info!("listening on {}", acceptor.name);
            let (proxy, shared, draining) =
                (Arc::clone(&self.proxy), Arc::clone(&self.shared), self.draining.clone());
            loops.push(tokio::spawn(accept_all(acceptor, proxy, shared, draining)));
        }
        for running in loops {
            let _ = running.await;
        }
    }

    fn name(&self) -> &str {
        "listeners"
    }
}

struct Acceptor {
    name: String,
    port: Option<u16>,
    kind: Kind,
}

enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    fn new(bound: Bound) -> io::Result<Self> {
        Ok(match bound {
            Bound::Tcp(listener) => {
                let address = listener.local_addr()?;
                Acceptor {
                    name: address.to_string(),
                    port: Some(address.port()),
                    kind: Kind::Tcp(TcpListener::from_std(listener)?),
                }
            }
            Bound::Unix(listener, name) => {
                Acceptor { name, port: None, kind: Kind::Unix(UnixListener::from_std(listener)?) }
            }
        })
    }

    async fn accept(&self) -> io::Result<(Socket, Option<IpAddr>)> {
        match &self.kind {
            Kind::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                let _ = socket.set_nodelay(true); // answers leave when they are written
                Ok((Socket::Tcp(socket), Some(peer.ip())))
            }
            Kind::Unix(listener) => Ok((Socket::Unix(listener.accept().await?.0), None)),
        }
    }
}

async fn accept_all(
    acceptor: Acceptor,
    proxy: Arc<HttpProxy<Proxy>>,
    shared: Arc<Shared>,
    mut draining: watch::Receiver<bool>,
) {
    let watch = draining.clone();
    let mut complained = false;
    loop {
        let accepted = tokio::select! {
            accepted = acceptor.accept() => accepted,
            _ = draining.wait_for(|begun| *begun) => return,
        };
        match accepted {
            Ok((socket, peer)) => {
                complained = false;
                greet(socket, peer, acceptor.port, &proxy, &shared, &watch);
            }
            Err(e) if is_of_the_client(&e) => {}
            Err(e) => {
                if !std::mem::replace(&mut complained, true) {
                    warn!("{}: cannot accept: {e}", acceptor.name);
                }
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

/// The client went away between the kernel's handshake and our accept.
fn is_of_the_client(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(e.kind(), K::ConnectionAborted | K::ConnectionReset | K::ConnectionRefused | K::Interrupted)
}

/// Serves a connection, or tells it that there is no room.
fn greet(
    socket: Socket,
    peer: Option<IpAddr>,
    port: Option<u16>,
    proxy: &Arc<HttpProxy<Proxy>>,
    shared: &Arc<Shared>,
    draining: &watch::Receiver<bool>,
) {
    match shared.admit(peer) {
        Ok(ticket) => {
            let admission = Admission { socket, peer, port, ticket };
            tokio::spawn(connection::serve(
                admission,
                Arc::clone(proxy),
                Arc::clone(shared),
                draining.clone(),
            ));
        }
        Err(reject) => turn_away(&socket, peer, &reject),
    }
}

/// One attempt to write, without a task: a flood must cost less than what it displaces.
fn turn_away(socket: &Socket, peer: Option<IpAddr>, reject: &Reject) {
    let id = crate::proxy::ctx::new_id();
    let (status, answer) = failure::raw_answer(reject, id.to_str().unwrap_or_default());
    let _ = match socket {
        Socket::Tcp(s) => s.try_write(&answer),
        Socket::Unix(s) => s.try_write(&answer),
    };
    connection::log_refusal(
        id.to_str().unwrap_or_default(),
        peer,
        status,
        &format!("{reject:?}") as &dyn Display,
    );
}
