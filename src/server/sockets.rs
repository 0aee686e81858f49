//! Sockets that listen: bound by this process, or inherited from the service manager or from a predecessor.
//!
//! A socket goes by the address in the configuration, not by the one the kernel gave (port 0), so that it can be told
//! which one a configuration means. Everything that can fail here fails before anything is announced.
//!
//! Pingora's `Fds` is not used: it keeps raw descriptors, which only `unsafe` code can take up, passes at most 32 of them
//! with 2 KiB of addresses, and receives them on a socket that it makes world-writable and panics without. Our
//! [`hand_over`](super::hand_over) passes owned ones.

use super::StartError;
use crate::gateway::Bind;
use listenfd::ListenFd;
use log::{info, warn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Connections that the kernel completes before we accept them.
const BACKLOG: i32 = 4096;

/// A socket that listens.
pub struct Bound {
    /// Where, as configured.
    pub at: Bind,
    socket: Listening,
}

/// By family, as they must be accepted from.
pub(super) enum Listening {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
}

impl Bound {
    /// Binds an address.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn bind(at: &Bind) -> Result<Bound, StartError> {
        let socket = match at {
            Bind::Tcp(address) => bind_tcp(*address).map(Listening::Tcp),
            Bind::Unix(path) => bind_unix(path).map(Listening::Unix),
        };
        let socket = socket.map_err(|e| match e.kind() {
            io::ErrorKind::AddrInUse => {
                StartError(format!("cannot listen on {at}: another process does already"))
            }
            io::ErrorKind::PermissionDenied => StartError(format!(
                "cannot listen on {at}: not permitted (ports below 1024 need CAP_NET_BIND_SERVICE)"
            )),
            _ => StartError(format!("cannot listen on {at}: {e}")),
        })?;
        Ok(Bound { at: at.clone(), socket })
    }

    /// The address of a TCP socket, with the port that the kernel chose.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Listening::Tcp(listener) => listener.local_addr().ok(),
            Listening::Unix(_) => None,
        }
    }

    /// What the log calls it.
    pub fn name(&self) -> String {
        self.address().map_or_else(|| self.at.to_string(), |address| address.to_string())
    }

    /// Another descriptor of the same socket.
    pub(super) fn another(&self) -> io::Result<Listening> {
        Ok(match &self.socket {
            Listening::Tcp(listener) => Listening::Tcp(listener.try_clone()?),
            Listening::Unix(listener) => Listening::Unix(listener.try_clone()?),
        })
    }

    /// Takes the file of a Unix socket away.
    pub(super) fn remove_file(&self) {
        if let Bind::Unix(path) = &self.at {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Listening::Tcp(listener) => listener.as_fd(),
            Listening::Unix(listener) => listener.as_fd(),
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
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
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        if UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Sockets that listened before this process began, to be claimed by the listeners that are configured.
#[derive(Default)]
pub struct Inherited(Vec<(String, Listening)>);

impl Inherited {
    /// What the service manager passes (sd_listen_fds(3)): of a socket unit, or of its descriptor store, where an earlier
    /// process of this service left them.
    pub fn from_environment() -> Inherited {
        // Before listenfd removes what tells for whom the descriptors are.
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut passed = ListenFd::from_env();
        let mut all = Vec::new();
        for at in 0..passed.len() {
            let name = names.next().unwrap_or_default().to_owned();
            let tcp = passed.take_tcp_listener(at).ok().flatten().map(Listening::Tcp);
            let socket = tcp.or_else(|| passed.take_unix_listener(at).ok().flatten().map(Listening::Unix));
            match socket.map(usable) {
                Some(Ok(socket)) => all.push((name, socket)),
                Some(Err(e)) => warn!("inherited descriptor {name:?} is of no use: {e}"),
                None => warn!("inherited descriptor {name:?} is not a TCP or Unix socket"),
            }
        }
        Inherited(all)
    }

    /// What a predecessor passes.
    ///
    /// # Errors
    /// When one is not a listening socket.
    pub(super) fn from_predecessor(passed: Vec<(String, OwnedFd)>) -> io::Result<Inherited> {
        let passed = passed.into_iter().map(|(name, fd)| {
            let is_unix = socket2::SockRef::from(&fd).local_addr()?.is_unix();
            let socket = if is_unix { Listening::Unix(fd.into()) } else { Listening::Tcp(fd.into()) };
            Ok((name, usable(socket)?))
        });
        passed.collect::<io::Result<_>>().map(Inherited)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The socket for this address, if there is one: by the name that we gave it, else by where it listens.
    fn claim(&mut self, at: &Bind) -> Option<Bound> {
        let known = store_name(at);
        let by_name = self.0.iter().position(|(name, _)| *name == known);
        let found = by_name.or_else(|| self.0.iter().position(|(_, socket)| listens_at(socket, at)))?;
        let (_, socket) = self.0.swap_remove(found);
        Some(Bound { at: at.clone(), socket })
    }

    /// One socket for each listener, inherited or bound anew. What nobody claims is closed, and its names returned.
    ///
    /// # Errors
    /// The first address that cannot be bound, and why.
    pub fn bind_all(mut self, listeners: &[Bind]) -> Result<(Vec<Bound>, Vec<String>), StartError> {
        let bound: Result<Vec<Bound>, StartError> =
            listeners.iter().map(|at| self.claim(at).map_or_else(|| Bound::bind(at), Ok)).collect();
        let bound = bound?;
        for (name, socket) in &self.0 {
            info!("inherited socket {name:?} ({}) is in no listener and is closed", whereabouts(socket));
        }
        Ok((bound, self.0.into_iter().map(|(name, _)| name).collect()))
    }
}

/// What a socket is called outside the process: `:` would separate two names (sd_pid_notify_with_fds(3)).
pub(super) fn store_name(at: &Bind) -> String {
    let mut name = format!("listen-{at}").replace(|c: char| c == ':' || !c.is_ascii_graphic(), "_");
    name.truncate(255);
    name
}

fn usable(socket: Listening) -> io::Result<Listening> {
    let listens = match &socket {
        Listening::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            socket2::SockRef::from(listener).is_listener()?
        }
        Listening::Unix(listener) => {
            listener.set_nonblocking(true)?;
            socket2::SockRef::from(listener).is_listener()?
        }
    };
    if listens {
        Ok(socket)
    } else {
        Err(io::Error::other("it does not listen"))
    }
}

fn listens_at(socket: &Listening, at: &Bind) -> bool {
    match (socket, at) {
        (Listening::Tcp(listener), Bind::Tcp(address)) => listener.local_addr().is_ok_and(|a| a == *address),
        (Listening::Unix(listener), Bind::Unix(path)) => {
            listener.local_addr().is_ok_and(|a| a.as_pathname() == Some(path))
        }
        _ => false,
    }
}

fn whereabouts(socket: &Listening) -> String {
    match socket {
        Listening::Tcp(listener) => listener.local_addr().map_or_else(|e| e.to_string(), |a| a.to_string()),
        Listening::Unix(listener) => {
            listener.local_addr().map_or_else(|e| e.to_string(), |a| format!("{a:?}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_process_are_in_the_managers_alphabet() {
        let name = |at: &str| store_name(&Bind::Tcp(at.parse().unwrap()));
        assert_eq!(name("127.0.0.1:80"), "listen-127.0.0.1_80");
        assert_eq!(name("[::1]:80"), "listen-[__1]_80");
        assert_eq!(store_name(&Bind::Unix("/run/é b".into())), "listen-unix_/run/__b");
    }

    #[test]
    fn an_inherited_socket_is_claimed_by_name_or_by_address_and_the_rest_is_closed() {
        let any: Bind = Bind::Tcp("127.0.0.1:0".parse().unwrap());
        let sockets: Vec<Bound> = (0..3).map(|_| Bound::bind(&any).unwrap()).collect();
        let addresses: Vec<SocketAddr> = sockets.iter().map(|s| s.address().unwrap()).collect();
        let passed =
            |at: usize, name: &str| (name.to_owned(), sockets[at].as_fd().try_clone_to_owned().unwrap());
        let all = vec![passed(0, "other"), passed(1, &store_name(&any)), passed(2, "gone")];
        let inherited = Inherited::from_predecessor(all).unwrap();
        let (bound, unclaimed) = inherited.bind_all(&[Bind::Tcp(addresses[0]), any]).unwrap();
        let found: Vec<SocketAddr> = bound.iter().map(|b| b.address().unwrap()).collect();
        assert_eq!(found, addresses[..2]);
        assert_eq!(unclaimed, ["gone"]);
    }

    #[test]
    fn a_socket_that_does_not_listen_is_refused() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(Inherited::from_predecessor(vec![("x".to_owned(), one.into())]).is_err());
    }
}
