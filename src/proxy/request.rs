//! From a parsed head to a decision: normalise, route, admit, choose.

use super::ctx::{client, conn, Ctx};
use super::forward::{TRACEPARENT, TRACESTATE};
use super::grpc_web::Web;
use super::response::Answer;
use crate::base::grpc;
use crate::base::path;
use crate::base::request::Request;
use crate::error::Reject;
use crate::gateway::Action;
use crate::observe::spans::Recording;
use crate::observe::trace::Context;
use crate::policy::{Arrival, Pass, Reply};
use crate::router::{Outcome, RouteId};
use crate::tls::acme::proof;
use crate::upstream::balance::HashOn;
use crate::upstream::load::TooMuch;
use crate::wire::client::Client;
use crate::wire::conn::Conn;
use bytes::Bytes;
use http::request::Parts;
use http::{header, HeaderName, HeaderValue, Method, Version};
use pingora::http::RequestHeader;
use pingora::{Error, ErrorType, Result};
use pingora_proxy::Session;
use std::borrow::Cow;
use std::net::Ipv6Addr;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

/// Decides about a request: `None` lets it go upstream, `Some` is the gateway's own answer.
///
/// # Errors
/// Why it is refused.
pub(super) async fn decide(session: &mut Session, ctx: &mut Ctx) -> Result<Option<Answer>, Reject> {
    identify(session, ctx);
    ctx.web = Web::of(session.req_header());
    ctx.grpc = ctx.web.is_some() || is_grpc(session.req_header());
    join_trace(session.req_header(), ctx);
    if session.req_header().version == Version::HTTP_10 {
        spare_http10(session);
    }
    normalise(session.req_header_mut())?;
    if conn(session).is_some_and(Conn::is_plain) {
        forget_spelling(session.req_header_mut());
    }
    if let Some(answer) = prove(session, ctx) {
        return Ok(Some(answer));
    }
    if let Some(port) = client(session).and_then(|client| client.facts().terms.https.as_ref()) {
        return to_https(session.req_header(), port).map(Some);
    }
    let (id, preflight) = find_route(session, ctx)?;
    ctx.gateway.route(id).stats.in_flight.fetch_add(1, Ordering::Relaxed);
    ctx.route = Some(id);
    if ctx.web.is_some() && !ctx.rules().grpc_web {
        (ctx.web, ctx.grpc) = (None, false); // the upstream's affair
    }
    if preflight {
        let cors = ctx.gateway.route(id).rules.chain.cors();
        let reply = cors.map(|cors| cors.preflight(origin(session.req_header()))).transpose()?;
        return reply.map(|reply| Some(Answer::of(reply))).ok_or(Reject::Internal);
    }
    if let Some(reply) = admit(session.req_header(), client(session), ctx).await? {
        ctx.reject = ctx.pass.refused.clone();
        return Ok(Some(Answer::of(reply)));
    }
    let route = ctx.gateway.route(id);
    let split = match &route.action {
        Action::Redirect(redirect) => {
            let request = session.req_header();
            let (path, query) = target(request);
            let query = ctx.pass.query.as_deref().unwrap_or(query);
            let answer = Answer::redirect(redirect, bare_port(&host_as_sent(request)), path, query);
            return answer.ok_or(Reject::Malformed).map(Some);
        }
        Action::Respond(respond) => return Ok(Some(Answer::fixed(respond))),
        Action::Forward(split) => split,
    };
    let upstream = split.choose();
    ctx.upstream = Some(Arc::clone(upstream));
    ctx.turn = upstream.load().enter(ctx.pass.priority, ctx.started).map_err(|much| match much {
        TooMuch::Fixed => Reject::TooManyInFlight,
        TooMuch::Measured => Reject::Overloaded,
    })?;
    let patience = if ctx.grpc { grpc_timeout(session.req_header()) } else { None };
    ctx.deadline = ctx.started + patience.map_or(route.rules.timeout, |p| p.min(route.rules.timeout));
    hash(session.req_header(), ctx);
    ctx.next = ctx.select(&[]);
    if ctx.next.is_none() {
        return Err(Reject::NoTarget);
    }
    if let Some(client) = client(session) {
        client.set_deadline(ctx.deadline);
        // In gRPC-Web only the answer is a conversation.
        if ctx.grpc && ctx.web.is_none() {
            client.bear_pauses();
        }
    }
    Ok(None)
}

/// Shows an authority that a host is ours, if it asks for what is pending (RFC 8555 §8.3); it comes without TLS.
fn prove(session: &Session, ctx: &Ctx) -> Option<Answer> {
    if ctx.gateway.folders.is_empty() {
        return None;
    }
    let request = session.req_header();
    let token = request.uri.path().strip_prefix(proof::PATH)?;
    let asks = matches!(request.method, Method::GET | Method::HEAD);
    if !asks || client(session).is_some_and(|client| client.facts().tls.is_some()) {
        return None;
    }
    let answer = ctx.gateway.folders.iter().find_map(|folder| folder.answer(token))?;
    Some(Answer::proof(&answer))
}

/// Whether it is a call of gRPC, which only HTTP/2 carries.
fn is_grpc(request: &RequestHeader) -> bool {
    let content_type = || request.headers.get(header::CONTENT_TYPE);
    request.version == Version::HTTP_2 && content_type().is_some_and(|t| grpc::is_grpc(t.as_bytes()))
}

/// How long the caller waits, if it says so.
fn grpc_timeout(request: &RequestHeader) -> Option<Duration> {
    grpc::timeout(request.headers.get(grpc::TIMEOUT)?.as_bytes())
}

/// Sends the client to the same by TLS.
fn to_https(request: &RequestHeader, port: &str) -> Result<Answer, Reject> {
    let host = host_as_sent(request);
    let host = bare_port(&host);
    let (path, query) = target(request);
    if host.is_empty() || !path.starts_with('/') {
        return Err(Reject::NoRoute); // there is no such place
    }
    let mark = if query.is_empty() { "" } else { "?" };
    Answer::elsewhere(&format!("https://{host}{port}{path}{mark}{query}")).ok_or(Reject::Malformed)
}

/// HTTP/1.0 knows no 1xx answer (RFC 9110 §15.2), and must not have its expectation of one met (§10.1.1).
fn spare_http10(session: &mut Session) {
    session.set_ignore_info_resp(true);
    session.req_header_mut().remove_header(&header::EXPECT);
}

/// Counts body bytes and holds them to the route's limit.
///
/// # Errors
/// When there are too many.
pub(super) fn count_body(session: &Session, body: &Option<Bytes>, ctx: &mut Ctx) -> Result<()> {
    if session.was_upgraded() {
        return Ok(()); // another protocol's bytes, not content (RFC 9110 §7.8)
    }
    ctx.body_received += body.as_ref().map_or(0, |b| b.len() as u64);
    let Some(limit) = ctx.rules().chain.body_limit() else { return Ok(()) };
    limit.received(ctx.body_received).map_err(|reject| {
        ctx.reject = Some(reject);
        Error::explain(ErrorType::InternalError, "body too large").into_down()
    })
}

/// The path and the query (without `?`) as they are now.
pub(super) fn target(request: &RequestHeader) -> (&str, &str) {
    (request.uri.path(), request.uri.query().unwrap_or_default())
}

/// The Host field as the client sent it.
pub(super) fn host_as_sent(request: &RequestHeader) -> Cow<'_, str> {
    request
        .headers
        .get(header::HOST)
        .map_or(Cow::Borrowed(""), |host| String::from_utf8_lossy(host.as_bytes()))
}

/// Who asks, and under which id.
fn identify(session: &Session, ctx: &mut Ctx) {
    let Some(client) = client(session) else { return };
    ctx.trail = Some(Arc::clone(client.trail()));
    let Some(peer) = client.peer() else { return };
    ctx.peer_trusted = !client.facts().ends.stranger && ctx.gateway.trusted.contains(peer);
    if !ctx.peer_trusted {
        ctx.client = Some(peer.to_canonical());
        return;
    }
    let fields = &session.req_header().headers;
    let forwarded = fields.get_all("x-forwarded-for").iter().map(|v| v.as_bytes());
    ctx.client = Some(ctx.gateway.trusted.client(peer, forwarded));
    if let Some(id) = fields.get("x-request-id") {
        if (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic) {
            ctx.id = id.clone();
        }
    }
}

/// Continues the trace that the request is part of, or begins one.
fn join_trace(request: &RequestHeader, ctx: &mut Ctx) {
    let mut given = request.headers.get_all(&TRACEPARENT).iter();
    let given = match (given.next(), given.next()) {
        (Some(one), None) => Context::parse(one.as_bytes()),
        _ => None,
    };
    let Some(tracing) = &ctx.gateway.tracing else {
        ctx.trace = given.unwrap_or(ctx.trace);
        return;
    };
    match given {
        Some(context) => ctx.trace = context, // who began it has decided
        None => ctx.trace.sampled = tracing.samples(ctx.trace.trace_id),
    }
    if ctx.trace.sampled {
        let state = request.headers.get_all(&TRACESTATE).iter().filter_map(|v| v.to_str().ok());
        let state = given.map(|_| state.collect::<Vec<_>>().join(",")).unwrap_or_default();
        ctx.recording = Some(Box::new(Recording::new(state)));
    }
}

/// Makes the path the one that everything after this sees: routing, policies, the upstream.
fn normalise(request: &mut RequestHeader) -> Result<(), Reject> {
    let raw = request.raw_path();
    if raw == b"*" {
        return Ok(()); // OPTIONS for the server as a whole (RFC 9110 §9.3.7); `find_route` has none for it
    }
    let (given, query) = path::split_target(raw);
    let normal = path::normalise(given).map_err(Reject::Path)?;
    let as_received = matches!(normal, Cow::Borrowed(_)) && raw.first() == Some(&b'/');
    if as_received {
        return Ok(());
    }
    let mut target = normal.into_owned().into_bytes();
    if let Some(query) = query {
        target.push(b'?');
        target.extend_from_slice(query);
    }
    request.set_raw_path(&target).map_err(|_| Reject::Malformed)
}

/// Drops the engine's second map, of names as they were spelt, where the first one tells it: it would be cloned for each
/// attempt and written to with each field. The target is in origin form by now, which the URI has whole.
fn forget_spelling(request: &mut RequestHeader) {
    let parts = Parts::from(std::mem::replace(request, nothing()));
    *request = parts.into();
}

/// Something to leave behind while a request is taken apart.
pub(super) fn nothing() -> RequestHeader {
    http::Request::new(()).into_parts().0.into()
}

/// The route, and whether the request is a preflight that the route answers: one of a page that is going to ask with another
/// method, whose route it is then. A preflight for what no route with `cors` takes is a request like any other.
fn find_route(session: &Session, ctx: &Ctx) -> Result<(RouteId, bool), Reject> {
    let request = session.req_header();
    let host = host_of(request);
    let facts = client(session).map(|client| client.facts());
    if facts.is_some_and(|facts| {
        facts.terms.are_over() || facts.tls.as_ref().is_some_and(|tls| !tls.serves(&host))
    }) {
        return Err(Reject::Misdirected);
    }
    let view = view(request, &host);
    if !view.path.starts_with('/') {
        return Err(Reject::NoRoute); // `*` is no path, so not even the prefix `/` takes it
    }
    if let Some(method) = preflight_for(request) {
        let found = ctx.gateway.router.find(&Request { method, ..view });
        match found {
            Outcome::Found(id) if ctx.gateway.route(id).rules.chain.cors().is_some() => {
                return Ok((id, true))
            }
            _ => {}
        }
    }
    match ctx.gateway.router.find(&view) {
        Outcome::Found(id) => Ok((id, false)),
        Outcome::NotFound => Err(Reject::NoRoute),
        Outcome::MethodNotAllowed(allow) => {
            Err(Reject::MethodNotAllowed(allow.into_iter().map(str::to_owned).collect()))
        }
    }
}

/// The method of the request that a browser asks about, if that is what it does
/// (<https://fetch.spec.whatwg.org/#cors-preflight-request>).
fn preflight_for(request: &RequestHeader) -> Option<&str> {
    if request.method != Method::OPTIONS || !request.headers.contains_key(header::ORIGIN) {
        return None;
    }
    only(request, &header::ACCESS_CONTROL_REQUEST_METHOD)?.to_str().ok()
}

/// The origin of the page that asks, if a page does.
pub(super) fn origin(request: &RequestHeader) -> Option<&HeaderValue> {
    only(request, &header::ORIGIN)
}

/// The value of a field that stands there once.
fn only<'a>(request: &'a RequestHeader, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = request.headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Whether the route lets the request in; `Some`: what it gets instead.
async fn admit(
    request: &RequestHeader,
    client: Option<&dyn Client>,
    ctx: &mut Ctx,
) -> Result<Option<Reply>, Reject> {
    let rules = ctx.rules();
    let (chain, priority) = (&rules.chain, rules.priority);
    chain.admit_method(&request.headers)?;
    if chain.is_open() {
        ctx.pass.priority = priority;
        return Ok(None);
    }
    let host = host_of(request);
    let length = request.headers.get(header::CONTENT_LENGTH);
    let arrival = Arrival {
        request: view(request, &host),
        client: ctx.client,
        facts: client.map(|client| client.facts()),
        length: length.and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok()),
    };
    let mut pass = Pass { priority, ..Pass::default() };
    let admitted = chain.admit(&arrival, &mut pass).await;
    ctx.pass = pass;
    admitted
}

/// The host as routes have it.
fn host_of(request: &RequestHeader) -> Cow<'_, str> {
    bare_host(request.headers.get(header::HOST).map_or("", |h| h.to_str().unwrap_or_default()))
}

/// The request as decisions see it.
fn view<'a>(request: &'a RequestHeader, host: &'a str) -> Request<'a> {
    let (path, query) = target(request);
    Request { method: request.method.as_str(), host, path, query, headers: &request.headers }
}

/// The host without its port.
fn bare_port(host: &str) -> &str {
    match memchr::memrchr(b':', host.as_bytes()) {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    }
}

/// The host in lower case, without port and without the dot of a fully qualified name; IPv6 in its one spelling.
fn bare_host(host: &str) -> Cow<'_, str> {
    let bare = bare_port(host);
    if let Some(v6) = bare.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        // One spelling (RFC 5952), the one that the router has.
        return v6.parse::<Ipv6Addr>().map_or(Cow::Borrowed(bare), |v6| Cow::Owned(format!("[{v6}]")));
    }
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    if bare.bytes().any(|b| b.is_ascii_uppercase()) {
        return Cow::Owned(bare.to_ascii_lowercase());
    }
    Cow::Borrowed(bare)
}

fn hash(request: &RequestHeader, ctx: &mut Ctx) {
    let Some(on) = ctx.upstream.as_ref().and_then(|u| u.hash_on()) else { return };
    let value = match on {
        HashOn::Header(name) => request.headers.get(name).map(|v| v.as_bytes().to_vec()),
        HashOn::Cookie(name) => cookie(request, name).map(<[u8]>::to_vec),
        HashOn::Path => Some(request.uri.path().as_bytes().to_vec()),
        HashOn::ClientIp => None,
    };
    let client = || ctx.client.map(|c| c.to_string().into_bytes()).unwrap_or_default();
    ctx.hash_key = value.unwrap_or_else(client);
}

/// The value of a cookie (RFC 6265 §5.4).
fn cookie<'a>(request: &'a RequestHeader, name: &str) -> Option<&'a [u8]> {
    let pairs =
        request.headers.get_all(header::COOKIE).iter().flat_map(|v| v.as_bytes().split(|b| *b == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_bared() {
        for (given, bare) in [
            ("A.Test:80", "a.test"),
            ("a.test.", "a.test"),
            ("[::1]:8080", "[::1]"),
            ("[::1]", "[::1]"),
            ("[0:0::1]:80", "[::1]"),
            ("", ""),
            ("1.2.3.4:1", "1.2.3.4"),
        ] {
            assert_eq!(bare_host(given), bare, "{given}");
        }
    }
}
