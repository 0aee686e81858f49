//! What is told of an exchange when it is over: counted, written down, exported, each from the same plain record.

use super::ctx::{client, Ctx};
use super::failure;
use super::request::target;
use super::Proxy;
use crate::auth::Identity;
use crate::error::Reject;
use crate::gateway::Gateway;
use crate::observe::access_log::AccessLog;
use crate::observe::exchange::{unix_millis, Exchange};
use crate::observe::mask::Secrets;
use crate::observe::spans;
use crate::observe::spans::Recording;
use crate::observe::stats::RouteStats;
use crate::observe::status::Refusal;
use crate::observe::trace::Context;
use crate::observe::Observed;
use crate::router::RouteId;
use crate::upstream::peer::Target;
use crate::upstream::Upstream;
use http::{header, HeaderValue, Version};
use pingora::Error;
use pingora_proxy::Session;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Tells of an exchange that a session had.
pub(super) fn finish(proxy: &Proxy, session: &Session, e: Option<&Error>, ctx: &Ctx) {
    if let Some(client) = client(session) {
        client.trail().told();
        if client.is_own() {
            return; // the gateway asked itself whether it lives
        }
    }
    let refused = ctx.reject.as_ref().map(failure::code);
    let sent = session.response_written().map(|response| response.status.as_u16());
    // A call of gRPC has a 200 whatever became of it; what the gateway made of it is counted by its cause.
    let own = ctx.grpc && ctx.reject.as_ref().is_some_and(|reject| *reject != Reject::ClientGone);
    let sent = sent.filter(|_| !own);
    // What the client has seen; 1xx alone is no answer, but 101 is one.
    let status = sent.filter(|status| *status >= 200 || *status == 101);
    let status = status.or(refused.map(|(status, _)| status)).unwrap_or(499);
    let ended = Instant::now();
    let stats = ctx.route().map_or(&proxy.observed.totals.unrouted, |route| &route.stats);
    stats.count(status, Some(ended - ctx.started));
    proxy.observed.totals.count(ctx.reject.as_ref().is_some_and(is_fault));
    let log = &ctx.gateway.access_log;
    let request = session.req_header();
    if let (Some(reject), Some((status, reason))) = (&ctx.reject, refused) {
        refuse(&proxy.observed, stats, reject, || Refusal {
            reason: reason.to_owned(),
            status,
            method: request.method.to_string(),
            path: String::from_utf8_lossy(&log.secrets().path(target(request).0.as_bytes())).into_owned(),
            request_id: String::from_utf8_lossy(ctx.id.as_bytes()).into_owned(),
            ..Refusal::default()
        });
        if log.is_off() {
            failure::log(session, e, ctx);
        }
    }
    if !log.is_off() || ctx.recording.is_some() {
        write_down(session, e, ctx, ended, status, refused.map(|(_, reason)| reason));
    }
}

/// A line in the log, and the spans.
fn write_down(
    session: &Session,
    e: Option<&Error>,
    ctx: &Ctx,
    ended: Instant,
    status: u16,
    refused: Option<&'static str>,
) {
    let (log, request) = (&ctx.gateway.access_log, session.req_header());
    let (path, query) = target(request);
    let detail = e.filter(|_| refused.is_some()).map(failure::brief).unwrap_or_default();
    let field = |name: header::HeaderName| request.headers.get(name).map_or(&b""[..], |v| v.as_bytes());
    let downstream = session.as_downstream();
    let peer = client(session).filter(|_| !ctx.peer_trusted).and_then(|client| client.facts().peer.as_ref());
    let client_text = peer.map_or(&b""[..], |peer| peer.as_bytes());
    let exchange = Exchange {
        ended: ended.into_std(),
        request_id: ctx.id.as_bytes(),
        trace_id: ctx.trace.trace_id,
        own_id: !ctx.peer_trusted,
        client: ctx.client,
        client_text,
        method: request.method.as_str(),
        host: field(header::HOST),
        path: path.as_bytes(),
        query: query.as_bytes(),
        version: version(request.version),
        status,
        bytes_in: downstream.body_bytes_read() as u64,
        bytes_out: downstream.body_bytes_sent() as u64,
        duration: ended - ctx.started,
        upstream_duration: ctx.upstream_took,
        route: ctx.route().map(|route| &route.stats.name),
        upstream: ctx.upstream.as_ref().map(|upstream| &upstream.stats().name),
        target: ctx.target.as_ref().map_or("", |target| &target.text),
        attempts: ctx.attempts,
        reused: ctx.reused,
        consumer: ctx.pass.identity.as_ref().map_or("", |identity| identity.name()),
        grpc_status: ctx.grpc_status,
        tls: client(session).and_then(|client| client.facts().tls.as_ref()).map_or("", |tls| tls.version),
        user_agent: field(header::USER_AGENT),
        referer: field(header::REFERER),
        error: refused,
        detail: &detail,
    };
    log.write(&exchange);
    if let (Some(recording), Some(tracing)) = (&ctx.recording, &ctx.gateway.tracing) {
        spans::send(tracing, log.secrets(), &ctx.trace, recording, &exchange);
    }
}

/// As a request line has it; HTTP/2 has none.
fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// What is known of an exchange that ended without the engine's saying so: the process ended, or a fault of ours.
pub struct Left {
    gateway: Arc<Gateway>,
    route: Option<RouteId>,
    id: HeaderValue,
    trace: Context,
    recording: Option<Box<Recording>>,
    client: Option<IpAddr>,
    upstream: Option<Arc<Upstream>>,
    target: Option<Arc<Target>>,
    attempts: usize,
    reused: bool,
    upstream_took: Option<Duration>,
    identity: Option<Identity>,
    started: Instant,
    status: Option<u16>,
    received: u64,
    sent: u64,
}

impl Left {
    /// Of an exchange that ends now.
    pub(super) fn of(ctx: &mut Ctx) -> Left {
        Left {
            gateway: Arc::clone(&ctx.gateway),
            route: ctx.route,
            id: ctx.id.clone(),
            trace: ctx.trace,
            recording: ctx.recording.take(),
            client: ctx.client,
            upstream: ctx.upstream.take(),
            target: ctx.target.as_ref().map(|busy| Arc::clone(busy.target())),
            attempts: ctx.attempts,
            reused: ctx.reused,
            upstream_took: ctx.upstream_took,
            identity: ctx.pass.identity.take(),
            started: ctx.started,
            status: ctx.status,
            received: ctx.body_received,
            sent: ctx.sent,
        }
    }

    /// Tells of it. `line` is its request line.
    pub fn tell(&self, observed: &Observed, reject: &Reject, line: &[u8]) {
        let (usual, reason) = failure::code(reject);
        let status = self.status.unwrap_or(usual);
        let route = self.route.map(|id| self.gateway.route(id));
        let stats = route.map_or(&observed.totals.unrouted, |route| &route.stats);
        let duration = self.started.elapsed();
        stats.count(status, Some(duration));
        observed.totals.count(is_fault(reject));
        let line = Line::read(line);
        let log = &self.gateway.access_log;
        refuse(observed, stats, reject, || line.refusal(status, reason, self.id.as_bytes(), log.secrets()));
        let exchange = Exchange {
            request_id: self.id.as_bytes(),
            trace_id: self.trace.trace_id,
            client: self.client,
            method: line.method,
            path: line.path,
            query: line.query,
            status,
            bytes_in: self.received,
            bytes_out: self.sent,
            duration,
            upstream_duration: self.upstream_took,
            route: route.map(|route| &route.stats.name),
            upstream: self.upstream.as_ref().map(|upstream| &upstream.stats().name),
            target: self.target.as_ref().map_or("", |target| &target.text),
            attempts: self.attempts,
            reused: self.reused,
            consumer: self.identity.as_ref().map_or("", |identity| identity.name()),
            error: Some(reason),
            ..Exchange::default()
        };
        log.write(&exchange);
        if let (Some(recording), Some(tracing)) = (&self.recording, &self.gateway.tracing) {
            spans::send(tracing, log.secrets(), &self.trace, recording, &exchange);
        }
    }
}

/// What of a request line can be told: nothing of what may be anything else, such as a field or a piece of a body.
#[derive(Default)]
struct Line<'a> {
    method: &'a str,
    path: &'a [u8],
    query: &'a [u8],
}

impl<'a> Line<'a> {
    fn read(line: &'a [u8]) -> Line<'a> {
        let mut words = line.split(|b| *b == b' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else { return Line::default() };
        // RFC 9110 §9.1; no method in use has anything but letters and hyphens.
        let sound =
            (1..=32).contains(&method.len()) && method.iter().all(|b| b.is_ascii_uppercase() || *b == b'-');
        let Some(method) = std::str::from_utf8(method).ok().filter(|_| sound) else { return Line::default() };
        let Some(target) = origin_form(target) else { return Line::default() };
        let end = memchr::memchr(b'?', target).unwrap_or(target.len());
        Line { method, path: &target[..end], query: target.get(end + 1..).unwrap_or_default() }
    }

    fn refusal(&self, status: u16, reason: &str, id: &[u8], secrets: &Secrets) -> Refusal {
        Refusal {
            reason: reason.to_owned(),
            status,
            method: self.method.to_owned(),
            path: String::from_utf8_lossy(&secrets.path(self.path)).into_owned(),
            request_id: String::from_utf8_lossy(id).into_owned(),
            ..Refusal::default()
        }
    }
}

/// The target from its path on: an absolute one may have a password before its host.
fn origin_form(target: &[u8]) -> Option<&[u8]> {
    if target == b"*" || target.first() == Some(&b'/') {
        return Some(target);
    }
    let is_url = |scheme: &[u8]| target.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme));
    let scheme = [&b"http://"[..], b"https://"].into_iter().find(|scheme| is_url(scheme))?;
    let rest = &target[scheme.len()..];
    memchr::memchr(b'/', rest).map(|path| &rest[path..])
}

/// The gateway's own failure, which says something of how it serves; that it had no room, or was stopped, does not.
fn is_fault(reject: &Reject) -> bool {
    let no_room = matches!(reject, Reject::TooManyConnections | Reject::PasswordsBusy | Reject::CutOff);
    !no_room && failure::code(reject).0 >= 500
}

/// Tells of a request that never became a session. `line` is the request line as far as it came.
pub fn unheard(observed: &Observed, log: &AccessLog, reject: &Reject, line: &[u8], known: Exchange<'_>) {
    let (status, reason) = failure::code(reject);
    let read = !matches!(reject, Reject::TooManyConnections | Reject::TooManyFromAddress);
    observed.totals.unrouted.count(status, read.then_some(known.duration));
    observed.totals.count(is_fault(reject));
    let line = Line::read(line);
    let stats = &observed.totals.unrouted;
    refuse(observed, stats, reject, || line.refusal(status, reason, known.request_id, log.secrets()));
    if log.is_off() {
        let id = String::from_utf8_lossy(known.request_id);
        match known.client {
            Some(client) => log::info!("{id} from {client} -> {status} {reason}"),
            None => log::info!("{id} -> {status} {reason}"),
        }
    }
    let Line { method, path, query } = line;
    log.write(&Exchange { method, path, query, status, error: Some(reason), ..known });
}

/// Counts and notes a refusal. That a client went away is none.
fn refuse(observed: &Observed, stats: &RouteStats, reject: &Reject, tell: impl FnOnce() -> Refusal) {
    if matches!(reject, Reject::ClientGone | Reject::TunnelEnded) {
        return;
    }
    stats.reject(failure::code(reject).1);
    if observed.journal.wants_refusal() {
        let route = stats.name.plain.to_string();
        observed.journal.refusal(Refusal { time_ms: unix_millis(), route, ..tell() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> String {
        let Line { method, path, query } = Line::read(line.as_bytes());
        format!("{method} {} {}", String::from_utf8_lossy(path), String::from_utf8_lossy(query))
    }

    #[test]
    fn a_request_line_is_told_and_nothing_that_only_stands_in_its_place() {
        assert_eq!(told("GET /a?b=c HTTP/1.1"), "GET /a b=c");
        assert_eq!(told("OPTIONS * HTTP/1.1"), "OPTIONS * ");
        assert_eq!(told("GET http://me:geheim@h/x?y HTTP/1.1"), "GET /x y");
        for other in [
            "",
            "Cookie: sid=geheim; b=c",
            "X-Api-Key: geheim",
            "password=geheim&u=1",
            "password=geheim /x",
            "GET geheim",
            "GET http://geheim",
            "AUTHORIZATION: geheim",
            "\u{1}GET /geheim",
        ] {
            assert_eq!(told(other), "  ", "{other}");
        }
    }
}
