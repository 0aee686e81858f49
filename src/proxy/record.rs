//! What is told of an exchange when it is over: counted, written down, exported, each from the same plain record.

use super::ctx::{conn, Ctx};
use super::failure;
use super::request::target;
use super::Proxy;
use crate::error::Reject;
use crate::observe::access_log::AccessLog;
use crate::observe::exchange::{unix_millis, Exchange};
use crate::observe::spans;
use crate::observe::stats::RouteStats;
use crate::observe::status::Refusal;
use crate::observe::Observed;
use http::{header, Version};
use pingora::Error;
use pingora_proxy::Session;

/// Tells of an exchange that a session had.
pub(super) fn finish(proxy: &Proxy, session: &Session, e: Option<&Error>, ctx: &Ctx) {
    if let Some(conn) = conn(session) {
        conn.note_record();
        if conn.is_own() {
            return; // the gateway asked itself whether it lives
        }
    }
    let refused = ctx.reject.as_ref().map(failure::code);
    let sent = session.response_written().map(|response| response.status.as_u16());
    // What the client has seen; 1xx alone is no answer, but 101 is one.
    let status = sent.filter(|status| *status >= 200 || *status == 101);
    let status = status.or(refused.map(|(status, _)| status)).unwrap_or(499);
    let duration = ctx.started.elapsed();
    let stats = ctx.route().map_or(&proxy.observed.totals.unrouted, |route| &route.stats);
    stats.count(status, duration);
    proxy.observed.totals.count(refused.is_some_and(|(status, _)| status >= 500));
    let log = &ctx.gateway.access_log;
    let request = session.req_header();
    let (path, query) = target(request);
    if let (Some(reject), Some((status, reason))) = (&ctx.reject, refused) {
        refuse(&proxy.observed, stats, reject, || Refusal {
            reason: reason.to_owned(),
            status,
            method: request.method.to_string(),
            path: path.to_owned(),
            request_id: String::from_utf8_lossy(ctx.id.as_bytes()).into_owned(),
            ..Refusal::default()
        });
        if log.is_off() {
            failure::log(session, e, ctx);
        }
    }
    if log.is_off() && ctx.recording.is_none() {
        return;
    }
    let detail = e.filter(|_| refused.is_some()).map(failure::brief).unwrap_or_default();
    let field = |name: header::HeaderName| request.headers.get(name).map_or(&b""[..], |v| v.as_bytes());
    let downstream = session.as_downstream();
    let exchange = Exchange {
        request_id: ctx.id.as_bytes(),
        trace_id: ctx.trace.trace_id,
        client: ctx.client,
        method: request.method.as_str(),
        host: field(header::HOST),
        path: path.as_bytes(),
        query: query.as_bytes(),
        version: if request.version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" },
        status,
        bytes_in: downstream.body_bytes_read() as u64,
        bytes_out: downstream.body_bytes_sent() as u64,
        duration,
        upstream_duration: ctx.upstream_took,
        route: ctx.route().map(|route| &route.stats.name),
        upstream: ctx.upstream.as_ref().map(|upstream| &upstream.stats().name),
        target: ctx.target.as_ref().map(|target| target.address),
        attempts: ctx.attempts,
        reused: ctx.reused,
        user_agent: field(header::USER_AGENT),
        referer: field(header::REFERER),
        error: refused.map(|(_, reason)| reason),
        detail: &detail,
    };
    log.write(&exchange);
    if let (Some(recording), Some(tracing)) = (&ctx.recording, &ctx.gateway.tracing) {
        spans::send(tracing, &ctx.trace, recording, &exchange);
    }
}

/// Tells of a request that never became a session, or whose session ended without a word. `line` is the request line as
/// far as it came.
pub fn unheard(observed: &Observed, log: &AccessLog, reject: &Reject, line: &[u8], known: Exchange<'_>) {
    let (status, reason) = failure::code(reject);
    observed.totals.unrouted.count(status, known.duration);
    observed.totals.count(status >= 500);
    let mut words = line.split(|b| *b == b' ');
    let method = words.next().and_then(|method| std::str::from_utf8(method).ok()).unwrap_or_default();
    let method = if method.len() <= 32 && method.bytes().all(|b| b.is_ascii_graphic()) { method } else { "" };
    let target = words.next().unwrap_or_default();
    let end = memchr::memchr(b'?', target).unwrap_or(target.len());
    let (path, query) = (&target[..end], target.get(end + 1..).unwrap_or_default());
    refuse(observed, &observed.totals.unrouted, reject, || Refusal {
        reason: reason.to_owned(),
        status,
        method: method.to_owned(),
        path: String::from_utf8_lossy(path).into_owned(),
        request_id: String::from_utf8_lossy(known.request_id).into_owned(),
        ..Refusal::default()
    });
    if log.is_off() {
        let id = String::from_utf8_lossy(known.request_id);
        match known.client {
            Some(client) => log::info!("{id} from {client} -> {status} {reason}"),
            None => log::info!("{id} -> {status} {reason}"),
        }
    }
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
