//! The compiled configuration: one immutable snapshot that a request sees from its first byte to its log line.

use crate::auth::forward::Service;
use crate::auth::jwt::Provider;
use crate::auth::password::Passwords;
use crate::base::client::TrustedProxies;
use crate::base::priority::Priority;
use crate::limit::Limiter;
use crate::observe::access_log::AccessLog;
use crate::observe::stats::RouteStats;
use crate::observe::trace::Tracing;
use crate::policy::addresses::ListFile;
use crate::policy::redirect::Redirect;
use crate::policy::respond::Respond;
use crate::policy::Chain;
use crate::router::{RouteId, Router};
use crate::tls::acme::{Folder, Wanted};
use crate::tls::ticket::TicketKeys;
use crate::tls::Terminator;
use crate::upstream::discover::Resolver;
use crate::upstream::Upstream;
use crate::wire::facts::Terms;
use crate::wire::head::HeadLimits;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Everything that serves requests.
pub struct Gateway {
    /// Where clients come in.
    pub listeners: Box<[Arc<Listener>]>,
    /// Finds the route of a request.
    pub router: Router<Route>,
    /// Whose forwarding fields are believed.
    pub trusted: TrustedProxies,
    /// What one client may cost.
    pub limits: Limits,
    /// The files that lists of addresses come from, to be followed.
    pub lists: Box<[Arc<ListFile>]>,
    /// How often clients may come, and who counts that.
    pub limiter: Limiter,
    /// All upstreams, for background work.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Asks for the addresses of named targets.
    pub resolver: Arc<Resolver>,
    /// Who issues tokens, for background work.
    pub providers: Vec<Arc<Provider>>,
    /// The certificates that an authority issues, each once.
    pub wanted: Box<[Arc<Wanted>]>,
    /// Where they are kept, and what is pending for them.
    pub folders: Box<[Arc<Folder>]>,
    /// What seals TLS sessions; the same for all configurations of the process.
    pub ticket_keys: Arc<TicketKeys>,
    /// Verifies passwords; the same for all configurations of the process.
    pub passwords: Arc<Passwords>,
    /// The services that are asked who may come in, each once.
    pub services: Box<[Arc<Service>]>,
    /// Where requests are written down.
    pub access_log: AccessLog,
    /// Where spans go, if any are recorded.
    pub tracing: Option<Arc<Tracing>>,
    /// Who may look at the gateway, and where.
    pub admin: Option<Admin>,
    /// What each route takes, for people, in the order of the routes.
    pub matches: Box<[Box<str>]>,
    /// Whether a change of the file is a reload.
    pub watch: bool,
    /// How long changes of the process take.
    pub timing: Timing,
    /// Which snapshot of the process this is: 1, then one more with each reload.
    pub generation: u64,
}

impl Gateway {
    /// The route that the router has found.
    pub fn route(&self, id: RouteId) -> &Route {
        self.router.get(id)
    }

    /// Where its listeners listen, in the file's order.
    pub fn binds(&self) -> Vec<Bind> {
        self.listeners.iter().map(|listener| listener.at.clone()).collect()
    }
}

/// What the process is built with; see `server::reload` for what a change of it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the process takes commands; `None`: where the service manager gave it a folder, else nowhere.
    pub control: Option<PathBuf>,
    /// Worker threads; `None`: one for each processor.
    pub threads: Option<usize>,
    /// Idle upstream connections in all.
    pub pool: usize,
}

/// How long leaving and being replaced may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long requests may still take once the process is leaving.
    pub grace_period: Duration,
    /// For which kept connections may still send a request then.
    pub linger: Duration,
    /// Within which a new process must serve.
    pub upgrade: Duration,
    /// For which the old process stays to take over again.
    pub rollback: Duration,
}

/// Who may look at the gateway, and where: `admin`.
#[derive(Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where it is looked at.
    pub address: Bind,
    /// Who has this may look; without one everybody who reaches the address may, and `check` sees to it that only
    /// processes of this machine do.
    pub token: Option<Box<str>>,
    /// Names that a browser may ask for besides addresses and `localhost`, in lower case.
    pub hosts: Box<[Box<str>]>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        f.debug_struct("Admin").field("address", &self.address).field("token", &token).finish_non_exhaustive()
    }
}

/// Where clients come in, and how what comes in there is served. A connection keeps the one that it came in by.
#[derive(Debug)]
pub struct Listener {
    /// Where it listens.
    pub at: Bind,
    /// Whether a header of the PROXY protocol comes first, from a trusted proxy.
    pub proxy_protocol: bool,
    /// Ends TLS, where there is TLS.
    pub tls: Option<Arc<Terminator>>,
    /// What it asks of who comes in.
    pub terms: Arc<Terms>,
    /// What may be spoken there.
    pub protocols: Protocols,
}

/// What may be spoken on a connection; at least one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols {
    /// HTTP/1.1 and 1.0.
    pub http1: bool,
    /// HTTP/2; where nothing is encrypted by a client that knows so (RFC 9113 §3.3).
    pub h2: bool,
}

impl Protocols {
    /// HTTP/1 alone.
    pub const HTTP1: Protocols = Protocols { http1: true, h2: false };
    /// Both.
    pub const BOTH: Protocols = Protocols { http1: true, h2: true };

    /// As TLS offers them, most wanted first (RFC 7301 §6).
    pub fn alpn(self) -> Vec<Vec<u8>> {
        let all = [(self.h2, &b"h2"[..]), (self.http1, b"http/1.1")];
        all.iter().filter(|(spoken, _)| *spoken).map(|(_, name)| name.to_vec()).collect()
    }
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Bind {
    /// `ip:port` or `[v6]:port`; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// `unix:/path`.
    Unix(PathBuf),
}

impl Bind {
    /// Whether both would take the same connections: one address, or one and all.
    pub fn overlaps(&self, other: &Bind) -> bool {
        match (self, other) {
            (Bind::Tcp(a), Bind::Tcp(b)) => {
                let either_is_all = a.ip().is_unspecified() || b.ip().is_unspecified();
                a.port() != 0
                    && a.port() == b.port()
                    && a.is_ipv4() == b.is_ipv4()
                    && (either_is_all || a.ip() == b.ip())
            }
            (a, b) => a == b,
        }
    }
}

impl std::fmt::Display for Bind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bind::Tcp(address) => write!(f, "{address}"),
            Bind::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What one client may cost: connections, time and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Client connections in all.
    pub connections: usize,
    /// Client connections from one address (IPv6: from one /64); trusted proxies are exempt.
    pub connections_per_address: Option<usize>,
    /// From the first byte of a request head to its last.
    pub header_timeout: Duration,
    /// For which a connection may wait for its next request.
    pub idle_timeout: Duration,
    /// For which a client may refuse to take another byte.
    pub write_timeout: Duration,
    /// Bytes a second that a request body must keep up, after [`Limits::BODY_GRACE`].
    pub min_body_rate: u64,
    /// Requests after which a connection is closed.
    pub requests_per_connection: u32,
    /// Requests that a client may have in flight on one connection of HTTP/2.
    pub h2_streams: u32,
    /// Sizes of the head.
    pub head: HeadLimits,
}

impl Limits {
    /// How long a body may pause before its rate counts.
    pub const BODY_GRACE: Duration = Duration::from_secs(5);
}

/// One route, compiled. It stands in the router's own table, so that with thousands of them a request touches one cache
/// line of its own; what many routes have in common is elsewhere, once, and stays in the processor's caches.
pub struct Route {
    /// Its name, and what is counted for it; one for all configurations that have a route of this name.
    pub stats: Arc<RouteStats>,
    /// What it does.
    pub action: Action,
    /// How it is done; one for all routes that have the same.
    pub rules: Arc<Rules>,
}

/// What routes often have in common.
#[derive(PartialEq, Eq)]
pub struct Rules {
    /// The policies, by phase.
    pub chain: Chain,
    /// For the whole exchange.
    pub timeout: Duration,
    /// When another target is tried.
    pub retry: Retry,
    /// Who goes first where not all can be served.
    pub priority: Priority,
    /// Calls of gRPC-Web reach the upstream as gRPC.
    pub grpc_web: bool,
}

/// What a route does with a request.
pub enum Action {
    /// Passes it to an upstream.
    Forward(Split),
    /// Sends the client elsewhere.
    Redirect(Box<Redirect>),
    /// Answers itself.
    Respond(Box<Respond>),
}

/// When another attempt is made (RFC 9110 §9.2.2: never for what may have been processed and is not idempotent).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Attempts after the first.
    pub attempts: usize,
    /// After a connection could not be made: no byte was sent, any method may go elsewhere.
    pub connect: bool,
    /// After a connection broke before an answer: idempotent methods only.
    pub reset: bool,
}

/// Upstreams by weight. One alone, as most routes have, stands in the route itself.
pub enum Split {
    /// This one.
    One(Arc<Upstream>),
    /// These with their weights.
    Many(Box<Weighted>),
}

/// Upstreams with their weights, and the sum of these.
pub struct Weighted {
    choices: Vec<(usize, Arc<Upstream>)>,
    total: usize,
}

impl Split {
    /// Upstreams with their weights, of which at least one is not zero.
    pub fn new(mut choices: Vec<(usize, Arc<Upstream>)>) -> Self {
        if choices.len() == 1 {
            return Split::One(choices.remove(0).1);
        }
        let total = choices.iter().map(|(weight, _)| weight).sum();
        Split::Many(Box::new(Weighted { choices, total }))
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        let (one, many) = match self {
            Split::One(upstream) => (Some(upstream), None),
            Split::Many(weighted) => (None, Some(weighted.choices.iter().map(|(_, upstream)| upstream))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// One of them, by chance and weight.
    pub fn choose(&self) -> &Arc<Upstream> {
        match self {
            Split::One(upstream) => upstream,
            Split::Many(weighted) => {
                let Weighted { choices, total } = &**weighted;
                let mut draw = fastrand::usize(..*total);
                let chosen = choices.iter().find(|(weight, _)| match draw.checked_sub(*weight) {
                    Some(rest) => {
                        draw = rest;
                        false
                    }
                    None => true,
                });
                &chosen.unwrap_or(&choices[0]).1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_leaves_the_router_room_in_its_cache_line() {
        assert!(size_of::<Route>() <= 56, "{}", size_of::<Route>());
    }
}
