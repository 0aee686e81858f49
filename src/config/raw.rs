//! The file as the user wrote it: every value typed and placed, nothing yet compared with anything else.

mod door;

pub use door::{RawAddresses, RawDoor};
pub mod auth;
pub mod provider;

use super::decode::{suggest, At, Place};
use crate::base::priority::Priority;
use crate::base::units;
use crate::gateway::{Admin, Bind, Protocols};
use crate::limit;
use crate::observe::{access_log, export};
use crate::policy::headers::HeaderEdits;
use crate::policy::redirect::Redirect;
use crate::policy::respond::Respond;
use crate::router::{HostPattern, PathMatch, ValueMatch};
use crate::tls::acme::Authority;
use crate::tls::clients::Clients;
use crate::tls::pair::Pair;
use crate::tls::pem::Credentials;
use crate::upstream::balance::HashOn;
use crate::upstream::load::LoadSpec;
use crate::wire::facts::Terms;
use crate::wire::proxy_protocol::Version;
use http::{HeaderName, Method};
use ipnet::IpNet;
use rustls::pki_types::{CertificateDer, ServerName};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The whole file.
#[derive(Debug, Default)]
pub struct Raw {
    /// `listeners`.
    pub listeners: Vec<RawListener>,
    /// `threads`.
    pub threads: Option<usize>,
    /// `watch`.
    pub watch: bool,
    /// `grace_period`.
    pub grace_period: Option<Duration>,
    /// `linger`.
    pub linger: Option<Duration>,
    /// `upgrade`.
    pub upgrade: RawUpgrade,
    /// `control`.
    pub control: Option<PathBuf>,
    /// `admin`.
    pub admin: Option<At<Admin>>,
    /// `access_log`.
    pub access_log: access_log::Spec,
    /// `traces`, with the share that is recorded.
    pub traces: Option<(export::Spec, f64)>,
    /// `trusted_proxies`.
    pub trusted_proxies: Vec<IpNet>,
    /// `resolver.servers`.
    pub resolver: Option<Vec<SocketAddr>>,
    /// `limits`.
    pub limits: RawLimits,
    /// `rate_limit_store`.
    pub rate_limits: limit::Settings,
    /// `rate_plans`.
    pub rate_plans: Vec<(At<String>, Vec<limit::Spec>)>,
    /// `upstreams`.
    pub upstreams: Vec<RawUpstream>,
    /// `consumers`.
    pub consumers: Vec<auth::RawConsumer>,
    /// `providers`.
    pub providers: Vec<provider::RawProvider>,
    /// `defaults`.
    pub defaults: RawPolicies,
    /// `routes`.
    pub routes: Vec<RawRoute>,
}

/// One of `listeners`.
#[derive(Debug)]
pub struct RawListener {
    /// `address`.
    pub address: At<Bind>,
    /// `protocols`.
    pub protocols: Option<Protocols>,
    /// `proxy_protocol`, where it is true.
    pub proxy_protocol: Option<Place>,
    /// `tls`.
    pub tls: Option<RawTls>,
    /// `redirect_to_https` and `tls.hsts`.
    pub terms: Terms,
}

/// `tls` of a listener.
#[derive(Debug)]
pub struct RawTls {
    /// `certificates`, read.
    pub pairs: Vec<Pair>,
    /// `acme`.
    pub acme: Vec<RawAcme>,
    /// `client_auth`, read.
    pub clients: Vec<Clients>,
    /// `min_version: "1.3"`.
    pub only_tls13: bool,
}

/// One of `acme` of a listener.
#[derive(Debug)]
pub struct RawAcme {
    /// Where it stands.
    pub place: Place,
    /// All of it but the hosts.
    pub authority: Authority,
    /// `hosts`, with what there is of each already.
    pub hosts: Vec<(Box<str>, Option<Pair>)>,
}

/// `limits`; what is absent keeps its default.
#[derive(Debug, Default)]
#[allow(missing_docs)] // each is described in conf/reference.yaml and on `gateway::Limits`
pub struct RawLimits {
    pub connections: Option<u64>,
    pub connections_per_address: Option<u64>,
    pub header_timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub write_timeout: Option<Duration>,
    pub min_body_rate: Option<u64>,
    pub requests_per_connection: Option<u64>,
    pub h2_streams: Option<u64>,
    pub max_target: Option<u64>,
    pub max_header: Option<u64>,
    pub max_header_fields: Option<u64>,
}

/// One of `upstreams`.
#[derive(Debug)]
#[allow(missing_docs)] // the keys of the file, one each
pub struct RawUpstream {
    pub name: At<String>,
    pub targets: Vec<At<RawTarget>>,
    pub balance: Option<Balance>,
    pub protocol: Option<At<RawProtocol>>,
    pub tls: Option<RawUpstreamTls>,
    pub health_check: Option<RawHealthCheck>,
    pub proxy_protocol: Option<Version>,
    pub timeouts: RawTimeouts,
    pub pool: Option<u64>,
    pub ping: Option<At<Duration>>,
    pub load: LoadSpec,
}

impl RawUpstream {
    /// One of which only the name could be read.
    pub fn empty(name: At<String>) -> Self {
        let timeouts = RawTimeouts::default();
        RawUpstream {
            name,
            targets: Vec::new(),
            balance: None,
            protocol: None,
            tls: None,
            health_check: None,
            proxy_protocol: None,
            timeouts,
            pool: None,
            ping: None,
            load: LoadSpec::default(),
        }
    }
}

/// `tls` of an upstream, its files read.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // the keys of the file, one each
pub struct RawUpstreamTls {
    pub sni: Option<String>,
    pub ca: Option<Vec<CertificateDer<'static>>>,
    pub verify: bool,
    pub client: Option<Credentials>,
}

impl Default for RawUpstreamTls {
    fn default() -> Self {
        RawUpstreamTls { sni: None, ca: None, verify: true, client: None }
    }
}

/// One of `targets`.
#[derive(Debug, Clone)]
pub struct RawTarget {
    /// Where it listens.
    pub at: Whereabouts,
    /// Its share, 1 when absent.
    pub weight: usize,
}

/// `address` of a target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Whereabouts {
    /// A name or an address, and a port.
    Host(String, u16),
    /// A Unix socket.
    Socket(PathBuf),
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whereabouts::Host(host, port) => write!(f, "{host}:{port}"),
            Whereabouts::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `balance`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    /// In turn, by weight.
    RoundRobin,
    /// By chance, by weight.
    Random,
    /// Ketama over a property of the request.
    ConsistentHash(HashOn),
}

/// `protocol` of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawProtocol {
    /// `http1`.
    Http1,
    /// `h2`: over TLS.
    H2,
    /// `h2c`: without.
    H2c,
    /// `auto`: what TLS agrees on.
    Auto,
}

impl RawProtocol {
    /// Of its name in the file.
    ///
    /// # Errors
    /// What to write instead.
    pub fn read(text: &str) -> Result<RawProtocol, String> {
        Ok(match text {
            "http1" => RawProtocol::Http1,
            "h2" => RawProtocol::H2,
            "h2c" => RawProtocol::H2c,
            "auto" => RawProtocol::Auto,
            other => {
                let near = suggest(other, ["http1", "h2", "h2c", "auto"].into_iter());
                return Err(format!("expected http1, h2, h2c or auto, found {other:?}{near}"));
            }
        })
    }
}

/// `upgrade`.
#[derive(Debug, Default, Clone)]
#[allow(missing_docs)] // the keys of the file, one each
pub struct RawUpgrade {
    pub timeout: Option<Duration>,
    pub rollback_window: Option<Duration>,
}

/// `health_check`.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // the keys of the file, one each
pub struct RawHealthCheck {
    pub path: Option<String>,
    pub host: Option<String>,
    /// The service, empty for the server as a whole.
    pub grpc: Option<At<String>>,
    pub port: Option<u16>,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    pub healthy_after: Option<u64>,
    pub unhealthy_after: Option<u64>,
    pub expect: Option<Vec<(u16, u16)>>,
}

/// `timeouts` of an upstream.
#[derive(Debug, Default, Clone)]
#[allow(missing_docs)] // the keys of the file, one each
pub struct RawTimeouts {
    pub connect: Option<Duration>,
    pub read: Option<Duration>,
    pub write: Option<Duration>,
    pub idle: Option<Duration>,
    pub tunnel: Option<Duration>,
}

/// One of `routes`.
#[derive(Debug)]
#[allow(missing_docs)] // the keys of the file, one each
pub struct RawRoute {
    pub place: Place,
    /// All that says which requests it takes could be read, and there is no unknown key that might have.
    pub sound: bool,
    pub name: Option<At<String>>,
    pub hosts: Vec<HostPattern>,
    pub path: Option<At<PathMatch>>,
    pub methods: Vec<Method>,
    pub headers: Vec<(HeaderName, ValueMatch)>,
    pub query: Vec<(String, ValueMatch)>,
    pub action: Option<At<RawAction>>,
    pub rewrite: Option<At<RawRewrite>>,
    pub policies: RawPolicies,
}

/// What a route does: exactly one of `upstream`, `redirect`, `respond`.
#[derive(Debug)]
pub enum RawAction {
    /// Names or URLs with their weights.
    Upstream(Vec<(At<String>, usize)>),
    /// An answer that sends the client elsewhere.
    Redirect(Redirect),
    /// A fixed answer.
    Respond(Respond),
}

/// `rewrite`.
#[derive(Debug, Default)]
#[allow(missing_docs)] // the keys of the file, one each
pub struct RawRewrite {
    pub strip_prefix: bool,
    pub prefix: Option<String>,
    pub path: Option<String>,
    pub host: Option<String>,
}

/// The policy keys that both a route and `defaults` take. A route's own replaces the default whole.
#[derive(Debug, Default, Clone)]
#[allow(missing_docs)] // the keys of the file, one each
pub struct RawPolicies {
    pub request_headers: Option<Box<HeaderEdits>>, // boxed: thousands of routes have none
    pub response_headers: Option<Box<HeaderEdits>>,
    pub timeout: Option<Duration>,
    pub retry: Option<RawRetry>,
    pub rate_limit: Option<Vec<limit::Spec>>,
    pub max_body: Option<u64>,
    /// Requests in flight.
    pub concurrency: Option<usize>,
    pub priority: Option<Priority>,
    pub grpc_web: Option<At<bool>>,
    pub door: RawDoor,
    pub auth: Option<Box<auth::RawAuth>>,
}

/// `retry`.
#[derive(Debug, Clone)]
pub struct RawRetry {
    /// How many times after the first attempt.
    pub attempts: usize,
    /// After a connection could not be made.
    pub connect: bool,
    /// After a connection broke before any answer.
    pub reset: bool,
}

/// Splits `host:port`, `1.2.3.4:80` or `[::1]:80`.
///
/// # Errors
/// What to write instead.
pub fn host_port(text: &str) -> Result<(String, u16), String> {
    const FORM: &str = "expected host:port, such as 10.0.0.11:8080, [::1]:8080 or orders.internal:8080";
    let bad = || format!("{FORM}, found {text:?}");
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let port: u16 = port.parse().map_err(|_| bad())?;
    if port == 0 {
        return Err(format!("{FORM}: port 0 cannot be connected to"));
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        let _: std::net::Ipv6Addr = inner.parse().map_err(|_| bad())?;
        return Ok((inner.to_owned(), port));
    }
    let name = !host.is_empty()
        && host.len() <= 253
        && host.split('.').all(|label| !label.is_empty() && label.len() <= 63)
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    // All digits and dots that are not an address are a mistyped address, never a name.
    let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if !name || (numeric && host.parse::<std::net::Ipv4Addr>().is_err()) {
        return Err(bad());
    }
    Ok((host.to_ascii_lowercase(), port))
}

/// `host:port` or `unix:/path`.
///
/// # Errors
/// What to write instead.
pub fn whereabouts(text: &str) -> Result<Whereabouts, String> {
    match text.strip_prefix("unix:") {
        None => host_port(text).map(|(host, port)| Whereabouts::Host(host, port)),
        Some(path) => socket_path(path).map(Whereabouts::Socket).map_err(|e| format!("{e} behind unix:")),
    }
}

/// The path of a Unix socket.
///
/// # Errors
/// What to write instead.
pub fn socket_path(text: &str) -> Result<PathBuf, String> {
    // sun_path has 108 bytes, the last a NUL
    if !text.starts_with('/') || text.len() > 107 || text.contains('\0') {
        return Err(format!("expected a path that begins with / and has at most 107 bytes, found {text:?}"));
    }
    Ok(text.into())
}

/// A URL in the place of an upstream's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// `https`.
    pub secure: bool,
    /// A name or an address; what the target has to prove to be when it is secure.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// `http://host[:port]` or `https://host[:port]` of an inline upstream.
///
/// # Errors
/// What to write instead.
pub fn upstream_url(url: &str) -> Result<UpstreamUrl, String> {
    const FORM: &str = "http://host:port or https://host:port";
    let (secure, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
        (Some(rest), _) => (false, rest),
        (None, Some(rest)) => (true, rest),
        (None, None) => return Err(format!("expected {FORM}, found {url:?}")),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', '@']) {
        return Err(format!("{url:?} may only be {FORM}; a path goes into `rewrite: {{prefix: …}}`"));
    }
    let has_port =
        rest.rsplit_once(':').is_some_and(|(h, p)| !h.contains(':') || h.ends_with(']') && !p.is_empty());
    let (host, port) = match (has_port, secure) {
        (true, _) => host_port(rest)?,
        (false, true) => host_port(&format!("{rest}:443"))?,
        (false, false) => host_port(&format!("{rest}:80"))?,
    };
    if secure {
        provable(&host)?;
    }
    Ok(UpstreamUrl { secure, host, port })
}

/// A name that a certificate can have, or an address.
///
/// # Errors
/// What to write instead.
pub fn provable(name: &str) -> Result<String, String> {
    const FORM: &str = "expected a name as certificates have it, such as orders.internal, or an address";
    if ServerName::try_from(name).is_err() {
        return Err(format!("{FORM}, found {name:?}"));
    }
    // Pingora's doing, and nobody is told of it.
    let changed = name.split_once('.').filter(|(first, rest)| first.contains('_') && rest.contains('.'));
    if let Some((first, rest)) = changed {
        let other = first.replace('_', "-");
        return Err(format!(
            "in the place of {name:?} the name {other}.{rest} would be asked for and verified"
        ));
    }
    Ok(name.to_ascii_lowercase())
}

/// A duration that is not zero.
///
/// # Errors
/// What to write instead.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match units::duration(text)? {
        Duration::ZERO => Err("expected more than nothing: zero would mean at once".to_owned()),
        positive => Ok(positive),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_urls() {
        assert_eq!(host_port("10.0.0.1:80"), Ok(("10.0.0.1".into(), 80)));
        assert_eq!(host_port("[::1]:80"), Ok(("::1".into(), 80)));
        assert_eq!(host_port("Orders.internal:8080"), Ok(("orders.internal".into(), 8080)));
        for bad in [
            "",
            "host",
            "host:",
            "host:x",
            "host:0",
            "::1:80",
            "10.0.0.256:80",
            "10.0.0:80",
            "a b:80",
            "a..b:80",
            "h:70000",
        ] {
            assert!(host_port(bad).is_err(), "{bad}");
        }
        let url = |secure, host: &str, port| Ok(UpstreamUrl { secure, host: host.into(), port });
        assert_eq!(upstream_url("http://a"), url(false, "a", 80));
        assert_eq!(upstream_url("http://[::1]:81/"), url(false, "::1", 81));
        assert_eq!(upstream_url("http://[::1]"), url(false, "::1", 80));
        assert_eq!(upstream_url("https://a.b"), url(true, "a.b", 443));
        assert_eq!(upstream_url("https://[::1]:8443"), url(true, "::1", 8443));
        for bad in ["http://a/b", "https://a/b", "https://-", "ftp://a", "http://u@a", "http://", "https://"]
        {
            assert!(upstream_url(bad).is_err(), "{bad}");
        }
    }
}
