//! Sockets that listen: bound by this process, or inherited from the service manager or from a predecessor.
//!
//! A socket goes by the address in the configuration, not by the one the kernel gave (port 0), so that it can be told
//! which one a configuration means. Everything that can fail here fails before anything is announced.
//!
//! Pingora's `Fds` is not used: it keeps raw descriptors, which only `unsafe` code can take up, passes at most 32 of them
//! with 2 KiB of addresses, and receives them on a socket that it makes world-writable and panics without. Our
//! [`hand_over`](super::hand_over) passes owned ones.

use super::StartError;
use crate::gateway::{Admin, Bind};
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
    /// The service manager listens on it too (a socket unit), whatever this process does: it cannot be bound anew.
    pub(super) held: bool,
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
        Ok(Bound { at: at.clone(), held: false, socket })
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
        self.socket.as_fd()
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
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
pub struct Inherited(Vec<Entry>);

struct Entry {
    name: String,
    held: bool,
    socket: Listening,
}

/// A socket on its way from one process to the next.
pub(super) struct Passed {
    pub(super) name: String,
    /// See [`Bound::held`].
    pub(super) held: bool,
    pub(super) socket: OwnedFd,
}

/// What a process begins with.
#[derive(Default)]
pub struct Sockets {
    /// One for each listener, in their order.
    pub bound: Vec<Bound>,
    /// The service manager's own that no listener has now: it listens all the same.
    pub aside: Inherited,
    /// Names of those that the service manager stores for the service and that no listener has.
    pub unclaimed: Vec<String>,
    /// That of `admin`.
    pub admin: Option<Bound>,
}

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
            let held = !name.starts_with(STORED);
            let tcp = passed.take_tcp_listener(at).ok().flatten().map(Listening::Tcp);
            let socket = tcp.or_else(|| passed.take_unix_listener(at).ok().flatten().map(Listening::Unix));
            match socket.map(usable) {
                Some(Ok(socket)) => all.push(Entry { name, held, socket }),
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
    pub(super) fn from_predecessor(passed: impl IntoIterator<Item = Passed>) -> io::Result<Inherited> {
        let entries = passed.into_iter().map(|Passed { name, held, socket }| {
            let is_unix = socket2::SockRef::from(&socket).local_addr()?.is_unix();
            let socket = if is_unix { Listening::Unix(socket.into()) } else { Listening::Tcp(socket.into()) };
            Ok(Entry { name, held, socket: usable(socket)? })
        });
        entries.collect::<io::Result<_>>().map(Inherited)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These, and behind them others, which are claimed only where these have none.
    #[must_use]
    pub fn and(mut self, others: Inherited) -> Inherited {
        self.0.extend(others.0);
        self
    }

    /// Takes a socket back that no listener has any more.
    pub(super) fn put(&mut self, bound: Bound) {
        self.0.push(Entry { name: store_name(&bound.at), held: bound.held, socket: bound.socket });
    }

    /// Other descriptors of all of them.
    pub(super) fn pass(&self) -> impl Iterator<Item = io::Result<Passed>> + '_ {
        self.0.iter().map(|entry| {
            let socket = entry.socket.as_fd().try_clone_to_owned()?;
            Ok(Passed { name: entry.name.clone(), held: entry.held, socket })
        })
    }

    /// The socket for this address, if there is one: by the name that we gave it, else by where it listens.
    fn claim(&mut self, at: &Bind) -> Option<Bound> {
        let known = store_name(at);
        let by_name = self.0.iter().position(|entry| entry.name == known);
        let found = by_name.or_else(|| self.0.iter().position(|entry| listens_at(&entry.socket, at)))?;
        // In order, for several may go by the name of port 0.
        let Entry { held, socket, .. } = self.0.remove(found);
        Some(Bound { at: at.clone(), held, socket })
    }

    /// The socket for this address, inherited or bound anew.
    ///
    /// # Errors
    /// Why it cannot be bound.
    pub(super) fn claim_or_bind(&mut self, at: &Bind) -> Result<Bound, StartError> {
        if let Some(claimed) = self.claim(at) {
            return Ok(claimed);
        }
        let others: Vec<Bind> = self.0.iter().filter_map(|entry| address(&entry.socket)).collect();
        Bound::bind(at).map_err(|e| explain(e, at, &others))
    }

    /// The same as [`bind_all`](Self::bind_all), and one for `admin`.
    ///
    /// # Errors
    /// The first address that cannot be bound, and why.
    pub fn bind_with(mut self, listeners: &[Bind], admin: Option<&Admin>) -> Result<Sockets, StartError> {
        let known = admin.map(|admin| admin_name(&admin.address));
        let passed = self.0.iter().position(|entry| known.as_ref() == Some(&entry.name));
        let passed = passed.map(|at| self.0.remove(at));
        let mut sockets = self.bind_all(listeners)?;
        sockets.admin = match (admin, passed) {
            (Some(Admin { address: at, .. }), Some(Entry { held, socket, .. })) => {
                Some(Bound { at: at.clone(), held, socket })
            }
            (Some(Admin { address: at, .. }), None) => Some(sockets.aside.claim_or_bind(at)?),
            (None, _) => None,
        };
        Ok(sockets)
    }

    /// One socket for each listener. What nobody claims and the service manager does not hold is closed.
    ///
    /// # Errors
    /// The first address that cannot be bound, and why.
    pub fn bind_all(mut self, listeners: &[Bind]) -> Result<Sockets, StartError> {
        let bound: Result<Vec<Bound>, StartError> =
            listeners.iter().map(|at| self.claim_or_bind(at)).collect();
        let bound = bound?;
        let (aside, closed): (Vec<Entry>, Vec<Entry>) = self.0.into_iter().partition(|entry| entry.held);
        for Entry { name, socket, .. } in &closed {
            info!("inherited socket {name:?} ({}) is in no listener and is closed", whereabouts(socket));
        }
        let is_claimed = |name: &String| bound.iter().any(|bound| store_name(&bound.at) == *name);
        let unclaimed = closed.into_iter().map(|entry| entry.name).filter(|name| !is_claimed(name)).collect();
        Ok(Sockets { bound, aside: Inherited(aside), unclaimed, admin: None })
    }
}

/// What the names of sockets begin with that the service manager stores for us.
const STORED: &str = "listen-";

/// What a socket is called outside the process: `:` would separate two names (sd_pid_notify_with_fds(3)).
pub(super) fn store_name(at: &Bind) -> String {
    let mut name = format!("{STORED}{at}").replace(|c: char| c == ':' || !c.is_ascii_graphic(), "_");
    name.truncate(255);
    name
}

/// What the socket of `admin` is called between two processes: not as a listener, which it must not become.
pub(super) fn admin_name(at: &Bind) -> String {
    format!("admin-{at}")
}

/// An address that is in use may be so by ourselves: then nothing but a restart lets one socket follow the other.
pub(super) fn explain(error: StartError, at: &Bind, ours: &[Bind]) -> StartError {
    match ours.iter().find(|other| at.overlaps(other)) {
        Some(other) => StartError(format!(
            "cannot listen on {at}: this gateway listens on {other}, which takes the same connections; such a change needs a restart"
        )),
        None => error,
    }
}

fn address(socket: &Listening) -> Option<Bind> {
    match socket {
        Listening::Tcp(listener) => listener.local_addr().ok().map(Bind::Tcp),
        Listening::Unix(listener) => {
            listener.local_addr().ok()?.as_pathname().map(|path| Bind::Unix(path.to_owned()))
        }
    }
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
    address(socket).is_some_and(|address| address == *at)
}

fn whereabouts(socket: &Listening) -> String {
    address(socket).map_or_else(|| "an unnamed socket".to_owned(), |address| address.to_string())
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
        let sockets: Vec<Bound> = (0..4).map(|_| Bound::bind(&any).unwrap()).collect();
        let addresses: Vec<SocketAddr> = sockets.iter().map(|s| s.address().unwrap()).collect();
        let passed = |at: usize, name: &str, held: bool| {
            let socket = sockets[at].as_fd().try_clone_to_owned().unwrap();
            Passed { name: name.to_owned(), held, socket }
        };
        let known = store_name(&any);
        let all = [
            passed(0, "unit", true),
            passed(1, &known, false),
            passed(2, "gone", false),
            passed(3, "x", true),
        ];
        let inherited = Inherited::from_predecessor(all).unwrap();
        let Sockets { bound, mut aside, unclaimed, .. } =
            inherited.bind_all(&[Bind::Tcp(addresses[0]), any]).unwrap();
        let found: Vec<(SocketAddr, bool)> = bound.iter().map(|b| (b.address().unwrap(), b.held)).collect();
        assert_eq!(found, [(addresses[0], true), (addresses[1], false)]);
        assert_eq!(unclaimed, ["gone"]);
        // What the service manager holds can be had later, and only so.
        let later = Bind::Tcp(addresses[3]);
        assert!(Bound::bind(&later).is_err());
        assert_eq!(aside.claim_or_bind(&later).unwrap().address(), Some(addresses[3]));
        assert!(aside.is_empty());
    }

    #[test]
    fn a_socket_in_the_way_is_named_when_it_is_ours() {
        let at = |text: &str| Bind::Tcp(text.parse().unwrap());
        let explained =
            |new: &str, ours: &str| explain(StartError("in use".to_owned()), &at(new), &[at(ours)]).0;
        for (new, ours) in
            [("127.0.0.1:80", "0.0.0.0:80"), ("0.0.0.0:80", "127.0.0.1:80"), ("[::1]:80", "[::]:80")]
        {
            assert!(
                explained(new, ours).contains(&format!("this gateway listens on {ours}")),
                "{new} {ours}"
            );
        }
        for (new, ours) in
            [("127.0.0.1:80", "0.0.0.0:81"), ("127.0.0.1:80", "127.0.0.2:80"), ("[::1]:80", "0.0.0.0:80")]
        {
            assert_eq!(explained(new, ours), "in use");
        }
    }

    #[test]
    fn a_socket_that_does_not_listen_is_refused() {
        let (one, _other) = UnixStream::pair().unwrap();
        let passed = Passed { name: "x".to_owned(), held: false, socket: one.into() };
        assert!(Inherited::from_predecessor([passed]).is_err());
    }
}
