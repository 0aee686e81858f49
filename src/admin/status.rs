//! The document's part that the configuration and its counters make.

use crate::gateway::{Action, Gateway, Route};
use crate::observe::exchange::unix_millis;
use crate::observe::stats::{RouteStats, BOUNDS, RETRY_REASONS};
use crate::observe::status::{Certificate, RouteStatus, Status, TargetStatus, UpstreamStatus, Written};
use crate::observe::Observed;
use crate::tls::terminator::Shown;
use crate::upstream::peer::Target;
use crate::upstream::Upstream;
use std::sync::atomic::Ordering::Relaxed;

/// Of more routes than this only those are listed that had requests.
const ALL: usize = 500;

pub(super) fn describe(gateway: &Gateway, observed: &Observed, status: &mut Status) {
    status.time_ms = unix_millis();
    status.generation = gateway.generation;
    status.accepted = observed.totals.accepted.load(Relaxed);
    (status.answered, status.faults) = observed.totals.so_far();
    status.bounds_ms = BOUNDS.iter().map(|micros| *micros as f64 / 1e3).collect();
    status.routes_total = gateway.matches.len();
    let listed = |stats: &RouteStats| status.routes_total <= ALL || stats.is_used();
    let routes = gateway.router.iter().zip(&gateway.matches).filter(|(route, _)| listed(&route.stats));
    let mut routes: Vec<RouteStatus> = routes.map(|(route, matches)| of_route(route, matches)).collect();
    if observed.totals.unrouted.is_used() {
        routes.push(counted(&observed.totals.unrouted));
    }
    status.routes = routes;
    status.upstreams = gateway.upstreams.iter().map(|upstream| of_upstream(upstream)).collect();
    status.certificates = certificates(gateway).into_iter().map(of_certificate).collect();
    status.refusals = observed.journal.refusals();
    status.history = observed.journal.events();
    let (written, dropped) = gateway.access_log.counts();
    status.access_log = Written { written, dropped };
    let spans = gateway.tracing.as_ref().map(|tracing| tracing.exporter.counts()).unwrap_or_default();
    status.spans = Written { written: spans.exported, dropped: spans.dropped + spans.failed };
}

/// The certificates, each once.
pub(super) fn certificates(gateway: &Gateway) -> Vec<Shown> {
    let tls = gateway.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    let mut certificates: Vec<_> = tls.flat_map(|tls| tls.certificates()).collect();
    certificates.sort_by(|a, b| a.file.cmp(&b.file));
    certificates.dedup_by(|a, b| a.file == b.file); // one may stand at many listeners
    certificates
}

fn of_certificate(shown: Shown) -> Certificate {
    Certificate {
        names: shown.names,
        expires_ms: u64::try_from(shown.valid.1).unwrap_or_default().saturating_mul(1000),
        file: shown.file.display().to_string(),
    }
}

fn of_route(route: &Route, matches: &str) -> RouteStatus {
    let upstreams = match &route.action {
        Action::Forward(split) => split.all().map(|upstream| upstream.name().to_string()).collect(),
        Action::Redirect(_) | Action::Respond(_) => Vec::new(),
    };
    RouteStatus { matches: matches.to_owned(), upstreams, ..counted(&route.stats) }
}

fn counted(stats: &RouteStats) -> RouteStatus {
    RouteStatus {
        name: stats.name.plain.to_string(),
        matches: String::new(),
        upstreams: Vec::new(),
        in_flight: stats.in_flight.load(Relaxed),
        codes: stats.codes(),
        rejected: stats.rejected().named(),
        durations: stats.durations().durations(),
    }
}

fn of_upstream(upstream: &Upstream) -> UpstreamStatus {
    let stats = upstream.stats();
    let [connections_new, connections_reused] = stats.connections();
    let retries = RETRY_REASONS.iter().zip(stats.retries());
    UpstreamStatus {
        name: upstream.name().to_string(),
        balance: upstream.spec().method.to_string(),
        checked: upstream.spec().health.is_some(),
        targets: upstream.targets().iter().map(|(target, weight)| of_target(target, *weight)).collect(),
        trouble: upstream.trouble(),
        connections_new,
        connections_reused,
        waiting: upstream.load().waiting(),
        concurrency_limit: upstream.load().limit(),
        retries: retries.filter(|(_, n)| *n > 0).map(|(why, n)| ((*why).to_owned(), n)).collect(),
        durations: stats.durations().durations(),
    }
}

fn of_target(target: &Target, weight: usize) -> TargetStatus {
    let condition = target.condition();
    TargetStatus {
        address: target.text.to_string(),
        weight,
        health: condition.health.to_owned(),
        since_ms: condition.since_ms,
        ejected_until_ms: None,
        checked_ms: condition.checked_ms,
        check_error: condition.error,
        in_flight: target.in_flight.load(Relaxed),
    }
}
