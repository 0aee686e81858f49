//! [`Raw`] to [`Gateway`]: total and pure, with all defaults in one place each.

mod auth;
mod door;
mod limit;
mod provider;
mod routes;

use super::raw::{
    upstream_url, Balance, Raw, RawAcme, RawHealthCheck, RawLimits, RawListener, RawProtocol, RawTls,
    RawUpstream, RawUpstreamTls, UpstreamUrl, Whereabouts,
};
use crate::base::client::TrustedProxies;
use crate::error::ConfigError;
use crate::gateway::{Gateway, Limits, Listener, Protocols, Settings, Timing};
use crate::limit::Limiter;
use crate::observe::access_log::AccessLog;
use crate::observe::trace::Tracing;
use crate::router::Router;
use crate::tls::acme::{folders, Wants};
use crate::tls::ticket::TicketKeys;
use crate::tls::{terminator as tls, Terminator};
use crate::upstream::balance::Method;
use crate::upstream::calls::GrpcSpec;
use crate::upstream::dial::{Protocol, Speech, TlsSpec};
use crate::upstream::discover::Resolver;
use crate::upstream::health::{HealthSpec, HttpSpec};
use crate::upstream::load::LoadSpec;
use crate::upstream::peer::{Address, Timeouts};
use crate::upstream::{Spec, Upstream};
use crate::wire::head::HeadLimits;
use routes::Routes;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::SocketAddr as UnixAddr;
use std::sync::Arc;
use std::time::Duration;

/// A configuration that can be run.
pub struct Compiled {
    /// What serves requests.
    pub gateway: Gateway,
    /// What the process is built with.
    pub settings: Settings,
    /// How many routes there are.
    pub routes: usize,
    /// What is not wrong, but perhaps not meant.
    pub warnings: Vec<ConfigError>,
}

const DEFAULT_POOL: usize = 128;

/// Builds everything; an upstream that runs and stays as it is configured is the same one with its state, and what is
/// counted for a route goes on under its name. What `check` found wrong may be left out: nothing of the result is used then.
pub(super) fn compile(mut raw: Raw, before: Option<&Gateway>) -> Compiled {
    let running = before.map_or(&[][..], |before| &before.upstreams);
    let running = running.iter().map(|upstream| (&**upstream.name(), upstream)).collect();
    let mut upstreams = Upstreams { running, ..Upstreams::default() };
    for upstream in &raw.upstreams {
        upstreams.add(spec(upstream));
    }
    let timing = timing(&raw);
    let providers = provider::providers(std::mem::take(&mut raw.providers), before);
    let guards = auth::Guards::new(std::mem::take(&mut raw.consumers), &providers, before);
    let limited = before.map(|before| &before.limiter);
    let limits = limit::Limits::new(Limiter::new(raw.rate_limits, limited), raw.rate_plans, limited);
    let mut routes = Routes::new(raw.defaults, guards, limits, before);
    let count = raw.routes.len();
    let table = raw.routes.into_iter().filter_map(|route| routes.add(route, &mut upstreams)).collect();
    let settings =
        Settings { control: raw.control.clone(), threads: raw.threads, pool: upstreams.pool.max(1) };
    let ticket_keys = before.map(|before| Arc::clone(&before.ticket_keys)).unwrap_or_default();
    let mut wants = Wants::after(before.map_or(&[][..], |before| &before.wanted));
    let listeners = listeners(raw.listeners, &ticket_keys, &mut wants, before);
    let wanted = wants.all();
    let Routes { guards, files, limits, matches, .. } = routes;
    let auth::Guards { passwords, services, parameters, .. } = guards;
    raw.access_log.mask.extend(parameters);
    let gateway = Gateway {
        listeners,
        folders: folders(&wanted),
        wanted,
        ticket_keys,
        router: Router::build(table),
        trusted: TrustedProxies::new(&raw.trusted_proxies),
        lists: files.all(),
        limits: self::limits(&raw.limits),
        limiter: limits.done(),
        upstreams: upstreams.all,
        resolver: Arc::new(Resolver::new(raw.resolver)),
        passwords,
        services: services.into(),
        providers,
        access_log: AccessLog::new(raw.access_log),
        tracing: raw.traces.map(|(spec, sample)| {
            let same =
                before.and_then(|before| before.tracing.as_ref()).filter(|same| same.is(&spec, sample));
            same.map_or_else(|| Arc::new(Tracing::new(spec, sample)), Arc::clone)
        }),
        admin: raw.admin.map(|admin| admin.value),
        matches: matches.into(),
        watch: raw.watch,
        timing,
        generation: 0,
    };
    Compiled { gateway, settings, routes: count, warnings: Vec::new() }
}

/// The listeners; each with what it has in common with the one before it on the same address.
fn listeners(
    raw: Vec<RawListener>,
    keys: &Arc<TicketKeys>,
    wants: &mut Wants,
    before: Option<&Gateway>,
) -> Box<[Arc<Listener>]> {
    let mut before: Vec<&Arc<Listener>> = before.into_iter().flat_map(|before| &before.listeners).collect();
    let mut listener = |raw: RawListener| {
        let at = raw.address.value;
        let old = before.iter().position(|old| old.at == at).map(|place| before.remove(place));
        let protocols = raw.protocols.unwrap_or(match raw.tls {
            Some(_) => Protocols::BOTH,
            None => Protocols::HTTP1,
        });
        // What `check` found wrong may have no certificate left.
        let tls = raw.tls.filter(|tls| !tls.pairs.is_empty() || !tls.acme.is_empty()).map(|tls| {
            let RawTls { pairs, acme, clients, only_tls13 } = tls;
            let mut issued = Vec::new();
            for RawAcme { authority, hosts, .. } in acme {
                issued.extend(hosts.into_iter().map(|(host, pair)| (wants.want(&host, &authority), pair)));
            }
            let spec = tls::Spec { pairs, issued, clients, only_tls13, protocols: protocols.alpn() };
            Arc::new(Terminator::new(spec, Arc::clone(keys), old.and_then(|old| old.tls.as_deref())))
        });
        Arc::new(Listener {
            at,
            protocols,
            proxy_protocol: raw.proxy_protocol.is_some(),
            tls,
            terms: Arc::new(raw.terms),
        })
    };
    raw.into_iter().map(&mut listener).collect()
}

/// All upstreams, each once, inline ones by their address.
#[derive(Default)]
struct Upstreams<'a> {
    running: HashMap<&'a str, &'a Arc<Upstream>>,
    all: Vec<Arc<Upstream>>,
    by_name: HashMap<String, Arc<Upstream>>,
    pool: usize,
}

impl Upstreams<'_> {
    fn add(&mut self, spec: Spec) -> Arc<Upstream> {
        self.pool += spec.pool;
        let name = spec.name.clone();
        let upstream = match self.running.get(name.as_str()) {
            Some(running) if *running.spec() == spec => Arc::clone(running),
            Some(other) => Arc::new(Upstream::succeeding(spec, other)),
            None => Arc::new(Upstream::new(spec)),
        };
        self.all.push(Arc::clone(&upstream));
        self.by_name.insert(name, Arc::clone(&upstream));
        upstream
    }

    /// By name, or made from a URL.
    fn get(&mut self, reference: &str) -> Option<Arc<Upstream>> {
        if let Some(found) = self.by_name.get(reference) {
            return Some(Arc::clone(found));
        }
        let UpstreamUrl { secure, host, port } = upstream_url(reference).ok()?;
        let scheme = if secure { "https" } else { "http" };
        let name = if host.contains(':') {
            format!("{scheme}://[{host}]:{port}")
        } else {
            format!("{scheme}://{host}:{port}")
        };
        if let Some(found) = self.by_name.get(&name) {
            return Some(Arc::clone(found));
        }
        let tls =
            secure.then(|| tls(&RawUpstreamTls { sni: Some(host.clone()), ..RawUpstreamTls::default() }));
        let (fixed, named) = sort_targets(std::iter::once((Whereabouts::Host(host, port), 1)));
        let (method, timeouts, speech) = (Method::RoundRobin, Timeouts::default(), Speech::default());
        Some(self.add(Spec {
            name,
            fixed,
            named,
            method,
            speech,
            tls,
            proxy_protocol: None,
            health: None,
            timeouts,
            pool: DEFAULT_POOL,
            load: LoadSpec::default(),
        }))
    }
}

type Fixed = Vec<(Address, usize)>;
type Named = Vec<(String, u16, usize)>;

/// Those with an address and those with a name.
fn sort_targets(targets: impl Iterator<Item = (Whereabouts, usize)>) -> (Fixed, Named) {
    let (mut fixed, mut named) = (Vec::new(), Vec::new());
    for (at, weight) in targets {
        match at {
            Whereabouts::Host(host, port) => match host.parse::<IpAddr>() {
                Ok(ip) => fixed.push((Address::Inet(SocketAddr::new(ip, port)), weight)),
                Err(_) => named.push((host, port, weight)),
            },
            // A path that is none was refused when it was read.
            Whereabouts::Socket(path) => {
                fixed.extend(UnixAddr::from_pathname(path).map(|at| (Address::Unix(at), weight)));
            }
        }
    }
    (fixed, named)
}

fn spec(raw: &RawUpstream) -> Spec {
    let (fixed, named) = sort_targets(raw.targets.iter().map(|t| (t.value.at.clone(), t.value.weight)));
    let method = match raw.balance.clone().unwrap_or(Balance::RoundRobin) {
        Balance::RoundRobin => Method::RoundRobin,
        Balance::Random => Method::Random,
        Balance::ConsistentHash(on) => Method::ConsistentHash(on),
    };
    let default = Timeouts::default();
    let timeouts = Timeouts {
        connect: raw.timeouts.connect.unwrap_or(default.connect),
        read: raw.timeouts.read.unwrap_or(default.read),
        write: raw.timeouts.write.unwrap_or(default.write),
        idle: raw.timeouts.idle.unwrap_or(default.idle),
        tunnel: raw.timeouts.tunnel.unwrap_or(default.tunnel),
    };
    let name = raw.name.value.clone();
    let health = raw.health_check.as_ref().map(|check| health(check, &name));
    let (tls, pool) = (raw.tls.as_ref().map(tls), raw.pool.map_or(DEFAULT_POOL, |p| p as usize));
    let proxy_protocol = raw.proxy_protocol;
    let protocol = match raw.protocol.as_ref().map(|protocol| protocol.value) {
        None | Some(RawProtocol::Http1) => Protocol::Http1,
        // Which of them is said by TLS.
        Some(RawProtocol::H2 | RawProtocol::H2c) => Protocol::Http2,
        Some(RawProtocol::Auto) => Protocol::Auto,
    };
    let speech = Speech { protocol, ping: raw.ping.as_ref().map(|ping| ping.value) };
    let load = raw.load.clone();
    Spec { name, fixed, named, method, speech, tls, proxy_protocol, health, timeouts, pool, load }
}

fn tls(raw: &RawUpstreamTls) -> TlsSpec {
    TlsSpec {
        name: raw.sni.clone(),
        authorities: raw.ca.clone(),
        verify: raw.verify,
        client: raw.client.clone(),
    }
}

fn health(raw: &RawHealthCheck, upstream: &str) -> HealthSpec {
    let interval = raw.interval.unwrap_or(Duration::from_secs(5));
    let http = raw.path.clone().map(|path| HttpSpec {
        path,
        host: raw.host.clone().unwrap_or_else(|| upstream.to_owned()),
        expect: raw.expect.clone().unwrap_or_else(|| vec![(200, 200)]),
    });
    let grpc = raw.grpc.as_ref().map(|service| GrpcSpec {
        service: service.value.clone(),
        host: raw.host.clone().unwrap_or_else(|| upstream.to_owned()),
    });
    HealthSpec {
        http,
        grpc,
        port: raw.port,
        interval,
        timeout: raw.timeout.unwrap_or(Duration::from_secs(1)).min(interval),
        healthy_after: raw.healthy_after.unwrap_or(1) as usize,
        unhealthy_after: raw.unhealthy_after.unwrap_or(3) as usize,
    }
}

fn timing(raw: &Raw) -> Timing {
    let s = Duration::from_secs;
    Timing {
        grace_period: raw.grace_period.unwrap_or(s(30)),
        linger: raw.linger.unwrap_or(s(1)),
        upgrade: raw.upgrade.timeout.unwrap_or(s(60)),
        rollback: raw.upgrade.rollback_window.unwrap_or(s(30)),
    }
}

fn limits(raw: &RawLimits) -> Limits {
    let s = Duration::from_secs;
    Limits {
        connections: raw.connections.unwrap_or(20_000) as usize,
        connections_per_address: raw.connections_per_address.map(|n| n as usize),
        header_timeout: raw.header_timeout.unwrap_or(s(10)),
        idle_timeout: raw.idle_timeout.unwrap_or(s(75)),
        write_timeout: raw.write_timeout.unwrap_or(s(60)),
        min_body_rate: raw.min_body_rate.unwrap_or(240),
        requests_per_connection: raw.requests_per_connection.map_or(10_000, |n| n as u32),
        h2_streams: raw.h2_streams.map_or(128, |n| n as u32),
        head: HeadLimits {
            target: raw.max_target.unwrap_or(8 << 10) as usize,
            size: raw.max_header.unwrap_or(32 << 10) as usize,
            fields: raw.max_header_fields.unwrap_or(100) as usize,
        },
    }
}
