//! What only shows when parts of a file are compared: names that point nowhere, two of a kind, routes that can
//! never win.

mod auth;
mod grpc_web;
mod overlap;

use super::decode::{suggest, At, Context, Place};
use super::raw::{
    host_port, provable, upstream_url, Balance, Raw, RawAcme, RawAction, RawPolicies, RawProtocol, RawRoute,
    RawTarget, RawUpstream, Whereabouts,
};
use crate::gateway::Bind;
use crate::router::{shadowed, Match, PathMatch};
use crate::tls::acme::Challenge;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// How many names are compared with unknown ones, all suggestions together: thousands of each would take minutes.
const COMPARISONS: usize = 100_000;

/// Notes every contradiction in `raw`.
pub(super) fn check(raw: &Raw, cx: &Context<'_>) {
    listeners(raw, cx);
    for upstream in &raw.upstreams {
        self::upstream(upstream, cx);
    }
    let names: HashSet<&str> = raw.upstreams.iter().map(|u| u.name.value.as_str()).collect();
    let mut seen = HashMap::new();
    let mut patience = COMPARISONS / names.len().max(1);
    for route in &raw.routes {
        if let Some(name) = &route.name {
            if let Some(first) = seen.insert(name.value.as_str(), name.place.pos.line) {
                cx.fail(
                    &name.place,
                    format!("a second route named {:?}; the first is on line {first}", name.shown()),
                );
            }
        }
        references(route, &names, &mut patience, cx);
        rewrites(route, cx);
        browsers(route, &raw.defaults, cx);
    }
    grpc_web::check(raw, cx);
    shadows(&raw.routes, cx);
    auth::check(raw, cx);
    overlap::check(raw, cx);
}

/// What a route asks of a request.
pub(super) fn matching(route: &RawRoute) -> Match {
    let path = route.path.as_ref().map_or_else(|| PathMatch::Prefix("/".to_owned()), |p| p.value.clone());
    let RawRoute { hosts, methods, headers, query, .. } = route;
    Match {
        hosts: hosts.clone(),
        path,
        methods: methods.clone(),
        headers: headers.clone(),
        query: query.clone(),
    }
}

fn listeners(raw: &Raw, cx: &Context<'_>) {
    let mut seen = HashMap::new();
    for At { place, value } in raw.listeners.iter().map(|listener| &listener.address) {
        // Port 0 is another port each time.
        if matches!(value, Bind::Tcp(address) if address.port() == 0) {
            continue;
        }
        if let Some(first) = seen.insert(value, place.pos.line) {
            let value = place.show(value);
            cx.fail(place, format!("a second listener on {value}; the first is on line {first}"));
        }
    }
    for listener in &raw.listeners {
        let nobody = raw.trusted_proxies.is_empty() && matches!(listener.address.value, Bind::Tcp(_));
        if let Some(place) = listener.proxy_protocol.as_ref().filter(|_| nobody) {
            cx.fail(
                place,
                "nobody could connect: the header is taken from `trusted_proxies` alone, and there are none",
            );
        }
    }
    authorities(raw, cx);
    let Some(At { place, value: admin }) = &raw.admin else { return };
    let taken = raw.listeners.iter().find(|listener| listener.address.value.overlaps(&admin.address));
    if let Some(first) = taken.map(|listener| listener.address.place.pos.line) {
        let address = place.show(&admin.address);
        cx.fail(
            place,
            format!(
                "{address} is where the listener on line {first} listens; who looks at the gateway needs another address"
            ),
        );
    }
}

/// What lies in one folder for one directory has one account, and one way to prove.
fn authorities(raw: &Raw, cx: &Context<'_>) {
    let plain = raw.listeners.iter().any(|listener| listener.tls.is_none());
    let mut seen: Vec<&RawAcme> = Vec::new();
    for acme in raw.listeners.iter().filter_map(|listener| listener.tls.as_ref()).flat_map(|tls| &tls.acme) {
        if acme.authority.challenge == Challenge::Http && !plain {
            cx.fail(
                &acme.place,
                "`challenge: http` is answered by a listener without `tls` (at port 80, for the authority), and there is none",
            );
        }
        let same = |known: &&&RawAcme| {
            let (known, new) = (&known.authority, &acme.authority);
            known.folder == new.folder && known.directory == new.directory
        };
        match seen.iter().find(same) {
            Some(known) if known.authority != acme.authority => cx.fail(
                &acme.place,
                format!(
                    "differs from the one on line {} in more than `hosts`, with the same directory and folder: they have one account",
                    known.place.pos.line
                ),
            ),
            _ => seen.push(acme),
        }
    }
}

fn upstream(upstream: &RawUpstream, cx: &Context<'_>) {
    let name = &upstream.name;
    let usable =
        !name.value.is_empty() && name.value.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'/');
    if !usable {
        cx.fail(&name.place, "an upstream's name has visible characters without spaces, quotes or slashes");
    }
    let proves_its_own = upstream.tls.as_ref().is_some_and(|tls| tls.verify && tls.sni.is_none());
    speech(upstream, cx);
    let mut seen = HashMap::new();
    for At { place, value } in &upstream.targets {
        if proves_its_own {
            unnamed(value, place, cx);
        }
        if matches!(value.at, Whereabouts::Socket(_)) {
            socket(upstream, place, cx);
        }
        if let Some(first) = seen.insert(&value.at, place.pos.line) {
            let target = place.show(&value.at);
            let advice = "use `weight` to give it a larger share";
            cx.fail(place, format!("the target {target} stands twice, first on line {first}; {advice}"));
        }
    }
}

/// What is spoken, and whether TLS is spoken under it: neither is guessed.
fn speech(upstream: &RawUpstream, cx: &Context<'_>) {
    let protocol = upstream.protocol.as_ref();
    let spoken = protocol.map_or(RawProtocol::Http1, |protocol| protocol.value);
    if let Some(At { place, .. }) = protocol {
        match (spoken, upstream.tls.is_some()) {
            (RawProtocol::H2, false) => cx.fail(
                place,
                "h2 is HTTP/2 over TLS, and this upstream has no `tls`; without TLS it is `protocol: h2c`",
            ),
            (RawProtocol::H2c, true) => cx.fail(
                place,
                "h2c is HTTP/2 without TLS, and this upstream has `tls`; over TLS it is `protocol: h2`",
            ),
            (RawProtocol::Auto, false) => cx.fail(
                place,
                "auto lets TLS agree on the protocol, and this upstream has no `tls`; write h2c or http1",
            ),
            _ => {}
        }
    }
    let called = upstream.health_check.as_ref().and_then(|check| check.grpc.as_ref());
    if let Some(At { place, .. }) = called.filter(|_| spoken == RawProtocol::Http1) {
        cx.fail(place, "gRPC is spoken over HTTP/2; `grpc` needs `protocol: h2`, h2c or auto");
    }
    if let (Some(At { place, .. }), true) = (protocol, upstream.proxy_protocol.is_some()) {
        if spoken != RawProtocol::Http1 {
            cx.fail(place, "with `proxy_protocol` each request has a connection of its own, which HTTP/2 is not for: http1?");
        }
    }
    if let Some(At { place, .. }) = upstream.ping.as_ref().filter(|_| spoken == RawProtocol::Http1) {
        cx.fail(place, "HTTP/1.1 has no pings; `ping` needs `protocol: h2`, h2c or auto");
    }
}

/// What a Unix socket cannot be.
fn socket(upstream: &RawUpstream, place: &Place, cx: &Context<'_>) {
    if matches!(upstream.balance, Some(Balance::ConsistentHash(_))) {
        cx.fail(place, "`balance: {consistent_hash: …}` goes by addresses, and a socket has none");
    }
    if upstream.health_check.as_ref().is_some_and(|check| check.port.is_some()) {
        cx.fail(place, "`health_check.port` cannot be asked of a socket");
    }
}

/// TLS verifies a name; and never nothing unless the file says so.
fn unnamed(target: &RawTarget, place: &Place, cx: &Context<'_>) {
    let host = match &target.at {
        Whereabouts::Host(host, _) => host,
        Whereabouts::Socket(_) => {
            let advice = "write the one that its certificate has, `tls: {sni: orders.internal}`, or `verify: false` to believe anybody";
            return cx.fail(place, format!("a socket has no name, and TLS verifies one: {advice}"));
        }
    };
    if host.parse::<IpAddr>().is_ok() {
        let target = place.show(host);
        cx.fail(
            place,
            format!(
                "{target} is an address, and TLS verifies a name: write the one that its certificate has, \
                 `tls: {{sni: orders.internal}}` ({target} itself if that is it), or `verify: false` to believe anybody"
            ),
        );
    } else if let Err(e) = provable(host) {
        let why = match &place.written {
            None => e,
            Some(written) => format!("what {written:?} stands for is no name that a certificate can have"),
        };
        cx.fail(place, format!("{why}: write what its certificate has as `tls: {{sni: …}}`"));
    }
}

fn references(route: &RawRoute, names: &HashSet<&str>, patience: &mut usize, cx: &Context<'_>) {
    let Some(At { value: RawAction::Upstream(choices), .. }) = &route.action else { return };
    for (At { place, value }, _) in choices {
        if value.contains("://") {
            match (upstream_url(value), &place.written) {
                (Err(e), None) => cx.fail(place, e),
                (Err(_), Some(written)) => {
                    cx.fail(
                        place,
                        format!("what {written:?} stands for is not http://host:port or https://host:port"),
                    );
                }
                (Ok(_), _) => {}
            }
        } else if !names.contains(value.as_str()) {
            let candidates = names.iter().copied().filter(|_| *patience > 0);
            let near = suggest(value, candidates);
            *patience = patience.saturating_sub(1);
            let advice = match near {
                near if !near.is_empty() => near,
                _ if place.written.is_none() && host_port(value).is_ok() => {
                    format!(" (did you mean http://{value}?)")
                }
                _ => "; name one under `upstreams` or write a URL such as http://10.0.0.11:8080".to_owned(),
            };
            cx.fail(place, format!("no upstream is named {:?}{advice}", place.show(value)));
        }
    }
}

fn rewrites(route: &RawRoute, cx: &Context<'_>) {
    let Some(At { place, value: rewrite }) = &route.rewrite else { return };
    if matches!(&route.action, Some(At { value: RawAction::Redirect(_) | RawAction::Respond(_), .. })) {
        cx.fail(place, "`rewrite` changes what an upstream sees, and this route has none");
    }
    let ways = [rewrite.strip_prefix, rewrite.prefix.is_some(), rewrite.path.is_some()];
    if ways.iter().filter(|way| **way).count() > 1 {
        cx.fail(place, "only one of `strip_prefix`, `prefix` and `path` can stand here");
    }
    let by_prefix = matches!(route.path.as_ref().map(|p| &p.value), None | Some(PathMatch::Prefix(_)));
    if (rewrite.strip_prefix || rewrite.prefix.is_some()) && !by_prefix {
        cx.fail(
            place,
            "`strip_prefix` and `prefix` need a route with a path prefix; use `rewrite: {path: …}` here",
        );
    }
}

/// What `cors` writes is not for other keys to write.
fn browsers(route: &RawRoute, defaults: &RawPolicies, cx: &Context<'_>) {
    let RawPolicies { door, response_headers, .. } = &route.policies;
    let Some(Some(cors)) = door.cors.as_ref().or(defaults.door.cors.as_ref()) else { return };
    let place = &cors.place;
    let Some(edits) = response_headers.as_ref().or(defaults.response_headers.as_ref()) else { return };
    let mut written = edits.set.iter().chain(&edits.add).map(|(name, _)| name);
    if let Some(name) = written.find(|name| crate::policy::cors::FIELDS.contains(name)) {
        cx.fail(place, format!("`response_headers` writes {name} on this route, which `cors` does"));
    }
}

fn shadows(routes: &[RawRoute], cx: &Context<'_>) {
    // What could not be read would pass for a route that asks for nothing.
    let routes: Vec<&RawRoute> = routes.iter().filter(|route| route.sound).collect();
    let matches: Vec<Match> = routes.iter().map(|route| matching(route)).collect();
    let references: Vec<&Match> = matches.iter().collect();
    for shadow in shadowed(&references) {
        let (route, by) = (&routes[shadow.route], &routes[shadow.by]);
        let place = route.path.as_ref().map_or(&route.place, |p| &p.place);
        let name = by.name.as_ref().map(|n| format!(" {:?}", n.shown())).unwrap_or_default();
        let (by, line) = (&by.place.path, by.place.pos.line);
        cx.fail(
            place,
            format!("this route can never win: {by}{name} on line {line} takes its requests first"),
        );
    }
}
