//! What only shows when parts of a file are compared: names that point nowhere, two of a kind, routes that can
//! never win.

use super::decode::{suggest, At, Context};
use super::raw::{upstream_url, Raw, RawAction, RawRoute, RawUpstream};
use crate::gateway::Bind;
use crate::router::{shadowed, Match, PathMatch};
use std::collections::HashMap;

/// Notes every contradiction in `raw`.
pub(super) fn check(raw: &Raw, cx: &Context<'_>) {
    listeners(raw, cx);
    for upstream in &raw.upstreams {
        self::upstream(upstream, cx);
    }
    let names: Vec<&str> = raw.upstreams.iter().map(|u| u.name.value.as_str()).collect();
    let mut seen = HashMap::new();
    for route in &raw.routes {
        if let Some(name) = &route.name {
            if let Some(first) = seen.insert(name.value.as_str(), name.place.pos.line) {
                cx.fail(
                    &name.place,
                    format!("a second route named {:?}; the first is on line {first}", name.value),
                );
            }
        }
        references(route, &names, cx);
        rewrites(route, cx);
    }
    shadows(&raw.routes, cx);
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
    for At { place, value } in &raw.listeners {
        // Port 0 is another port each time.
        if matches!(value, Bind::Tcp(address) if address.port() == 0) {
            continue;
        }
        if let Some(first) = seen.insert(value, place.pos.line) {
            cx.fail(place, format!("a second listener on {value}; the first is on line {first}"));
        }
    }
    if raw.listeners.is_empty() && cx.is_clean() {
        cx.fail(&Default::default(), "no listener: nothing could come in");
    }
    if raw.routes.is_empty() && cx.is_clean() {
        cx.fail(&Default::default(), "no route: everything would be a 404");
    }
}

fn upstream(upstream: &RawUpstream, cx: &Context<'_>) {
    let name = &upstream.name;
    let usable =
        !name.value.is_empty() && name.value.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'/');
    if !usable {
        cx.fail(&name.place, "an upstream's name has visible characters without spaces, quotes or slashes");
    }
    let mut seen = HashMap::new();
    for At { place, value } in &upstream.targets {
        if let Some(first) = seen.insert((&value.host, value.port), place.pos.line) {
            cx.fail(
                place,
                format!(
                    "the target {}:{} stands twice, first on line {first}; use `weight` to give it more",
                    value.host, value.port
                ),
            );
        }
    }
}

fn references(route: &RawRoute, names: &[&str], cx: &Context<'_>) {
    let Some(At { value: RawAction::Upstream(choices), .. }) = &route.action else { return };
    for (At { place, value }, _) in choices {
        if value.contains("://") {
            if let Err(e) = upstream_url(value) {
                cx.fail(place, e);
            }
        } else if !names.contains(&value.as_str()) {
            let near = suggest(value, names.iter().copied());
            let near = if near.is_empty() {
                "; name one under `upstreams` or write a URL such as http://10.0.0.11:8080"
            } else {
                &near
            };
            cx.fail(place, format!("no upstream is named {value:?}{near}"));
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

fn shadows(routes: &[RawRoute], cx: &Context<'_>) {
    let matches: Vec<Match> = routes.iter().map(matching).collect();
    let references: Vec<&Match> = matches.iter().collect();
    for shadow in shadowed(&references) {
        let (route, by) = (&routes[shadow.route], &routes[shadow.by]);
        let place = route.path.as_ref().map_or(&route.place, |p| &p.place);
        let name = by.name.as_ref().map(|n| format!("{:?} ", n.value)).unwrap_or_default();
        cx.fail(
            place,
            format!(
                "this route can never win: the route {name}on line {} takes all its requests",
                by.place.pos.line
            ),
        );
    }
}
