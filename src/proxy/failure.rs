//! Causes to answers: the one place that knows which status and which words a cause becomes.

use super::ctx::{client, conn, Ctx};
use crate::base::grpc::{self, Code};
use crate::base::units::show_size;
use crate::error::{Denial, Reject};
use crate::upstream::dial::tls_trouble;
use crate::wire::conn::Fault;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use log::{info, warn};
use pingora::http::ResponseHeader;
use pingora::protocols::http::v2::client::PING_TIMEDOUT;
use pingora::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::{FailToProxy, Session};
use std::borrow::Cow;
use std::fmt::Write;
use tokio::time::Instant;

/// What the client gets to see of a cause (RFC 9457); nothing in it names a target.
struct Problem {
    status: u16,
    reason: &'static str,
    title: &'static str,
    detail: Cow<'static, str>,
}

/// The status that a cause is answered with and the machine-readable reason for it. 499, as in NGINX: nobody is left to
/// answer.
pub fn code(reject: &Reject) -> (u16, &'static str) {
    match reject {
        Reject::Head(e) => (e.status(), e.reason()),
        Reject::Chunk(_) => (400, "chunked_coding"),
        Reject::Path(e) => (400, e.reason()),
        Reject::GrpcWeb(_) => (400, "grpc_web"),
        Reject::Malformed => (400, "malformed"),
        Reject::SlowHead => (408, "slow_head"),
        Reject::SlowBody => (408, "slow_body"),
        Reject::BodyTooLarge(_) => (413, "body_too_large"),
        Reject::Misdirected => (421, "misdirected"),
        Reject::PlainHttp => (400, "plain_http_to_tls"),
        Reject::ProxyHeader => (400, "proxy_header"),
        Reject::NoRoute => (404, "no_route"),
        Reject::MethodNotAllowed(_) => (405, "method_not_allowed"),
        Reject::AddressDenied => (403, "address_denied"),
        Reject::CorsOrigin => (403, "cors_origin"),
        Reject::MethodOverride => (400, "method_override"),
        Reject::RateLimited(_) => (429, "rate_limited"),
        Reject::Unauthenticated(e) => (e.status(), e.reason()),
        Reject::Forbidden(e) => (403, e.reason()),
        Reject::ForwardRefused => (403, "auth_forward_refused"),
        Reject::PasswordsBusy => (503, "auth_busy"),
        Reject::AuthUnavailable => (503, "auth_unavailable"),
        Reject::KeysUnavailable => (503, "keys_unavailable"),
        Reject::NoTarget => (503, "no_healthy_target"),
        Reject::TooManyConnections => (503, "too_many_connections"),
        Reject::TooManyFromAddress => (429, "too_many_connections_from_address"),
        Reject::TooManyInFlight => (503, "too_many_in_flight"),
        Reject::Overloaded => (503, "overloaded"),
        Reject::Exhausted => (503, "out_of_descriptors"),
        Reject::TunnelEnded => (499, "tunnel_ended"),
        Reject::Connect => (502, "connect"),
        Reject::UpstreamTls => (502, "upstream_tls"),
        Reject::UpstreamBroke => (502, "upstream_broke"),
        Reject::UpstreamTimeout => (504, "upstream_timeout"),
        Reject::ExchangeTimeout => (504, "exchange_timeout"),
        Reject::ClientGone => (499, "client_gone"),
        Reject::CutOff => (503, "cut_off"),
        Reject::Internal => (500, "internal"),
    }
}

/// The same as gRPC says it: by the status where its table of HTTP statuses has it, by the cause where that says more.
/// <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>
fn grpc_code(reject: &Reject) -> Code {
    match reject {
        Reject::ExchangeTimeout => Code::DeadlineExceeded,
        Reject::BodyTooLarge(_) | Reject::RateLimited(_) => Code::ResourceExhausted,
        Reject::MethodNotAllowed(_) => Code::Unimplemented,
        _ => match code(reject).0 {
            400 | 500 => Code::Internal,
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::Unimplemented,
            429 | 502 | 503 | 504 => Code::Unavailable,
            _ => Code::Unknown,
        },
    }
}

/// The answer to a cause.
fn problem(reject: &Reject) -> Problem {
    let (status, reason) = code(reject);
    let (title, detail): (&str, Cow<'static, str>) = match reject {
        Reject::Head(e) => ("Request not understood", e.detail().into()),
        Reject::Chunk(why) | Reject::GrpcWeb(why) => ("Request not understood", (*why).into()),
        Reject::Path(e) => ("Path not accepted", e.detail().into()),
        Reject::Malformed => ("Request not understood", "The request is not well-formed HTTP.".into()),
        Reject::SlowHead => ("Request too slow", "The request's head did not arrive in time.".into()),
        Reject::SlowBody => ("Request too slow", "The request's body arrives too slowly.".into()),
        Reject::BodyTooLarge(limit) => (
            "Body too large",
            format!("The request's body may have at most {} here.", show_size(*limit)).into(),
        ),
        Reject::Misdirected => (
            "Misdirected request",
            "This TLS connection is for another host; ask for this one over a connection of its own.".into(),
        ),
        Reject::PlainHttp => ("TLS expected", "This port speaks HTTPS; the request was plain HTTP.".into()),
        Reject::ProxyHeader => {
            ("Request not understood", "This port is for the balancer in front of it.".into())
        }
        Reject::NoRoute => ("Service not found", "No service is configured for this host and path.".into()),
        Reject::MethodNotAllowed(allow) => {
            ("Method not allowed", format!("Allowed here: {}.", allow.join(", ")).into())
        }
        Reject::AddressDenied => ("Not allowed", "Requests from your address are not accepted here.".into()),
        Reject::CorsOrigin => ("Not allowed", "Pages of this origin may not use this service.".into()),
        Reject::MethodOverride => (
            "Method override",
            "A field asks for another method than the request's; send that method.".into(),
        ),
        Reject::RateLimited(seconds) => {
            ("Too many requests", format!("Too often; come again in {seconds} s.").into())
        }
        Reject::Unauthenticated(e) => ("Not authenticated", e.detail().into()),
        Reject::Forbidden(e) => ("Not allowed", e.detail().into()),
        Reject::ForwardRefused => ("Not allowed", "You may not come in.".into()),
        Reject::PasswordsBusy => ("Gateway busy", "Too many passwords are being verified.".into()),
        Reject::AuthUnavailable | Reject::KeysUnavailable => {
            ("Service unavailable", "Whether you may come in cannot be found out now.".into())
        }
        Reject::NoTarget => {
            ("Service unavailable", "No instance of this service is able to answer now.".into())
        }
        Reject::TooManyConnections => ("Gateway busy", "The gateway has no connection to spare.".into()),
        Reject::TooManyFromAddress => {
            ("Too many connections", "Too many connections come from your address.".into())
        }
        Reject::TooManyInFlight => {
            ("Service busy", "As many requests are in flight to this service as may be.".into())
        }
        Reject::Overloaded => {
            ("Service overloaded", "This service takes too long now to take on one more request.".into())
        }
        Reject::Exhausted => ("Gateway busy", "The gateway has no connection to spare.".into()),
        Reject::TunnelEnded => ("Tunnel ended", "".into()),
        Reject::Connect => ("Bad gateway", "No connection could be made to the service.".into()),
        Reject::UpstreamTls => ("Bad gateway", "No secure connection could be made to the service.".into()),
        Reject::UpstreamBroke => ("Bad gateway", "The service broke off or did not answer in HTTP.".into()),
        Reject::UpstreamTimeout => ("Gateway timeout", "The service did not answer in time.".into()),
        Reject::ExchangeTimeout => ("Gateway timeout", "The whole exchange took longer than it may.".into()),
        Reject::ClientGone => ("Client closed request", "".into()),
        Reject::CutOff => ("Gateway stopped", "The gateway was stopped before this request was over.".into()),
        Reject::Internal => ("Internal error", "The gateway failed to handle this request.".into()),
    };
    let reason = match reject {
        Reject::Unauthenticated(Denial::Token(_)) => "invalid_token", // more would help who tries tokens out
        _ => reason,
    };
    Problem { status, reason, title, detail }
}

impl Problem {
    /// The body: `type`, `title`, `status`, `detail`, `instance` (RFC 9457 §3.1), `reason` for programs, and `error`, the
    /// title again for simple clients.
    fn json(&self, id: &str) -> String {
        let (title, detail) = (quoted(self.title), quoted(&self.detail));
        format!(
            r#"{{"type":"urn:portcullis:problem:{}","title":{title},"status":{},"detail":{detail},"instance":{},"reason":"{}","error":{title}}}"#,
            self.reason,
            self.status,
            quoted(id),
            self.reason
        ) + "\n"
    }
}

/// A JSON string (RFC 8259 §7).
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The methods named to who asks with CONNECT or TRACE (RFC 9110 §15.5.6 wants some).
const USUAL_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

fn allow(reject: &Reject, status: u16) -> Option<String> {
    match reject {
        Reject::MethodNotAllowed(methods) => Some(methods.join(", ")),
        _ if status == 405 => Some(USUAL_METHODS.to_owned()),
        _ => None,
    }
}

/// In how many seconds asking again may help (RFC 9110 §10.2.3).
fn retry_after(reject: &Reject, status: u16) -> Option<u32> {
    match reject {
        Reject::RateLimited(seconds) => Some(*seconds),
        _ => matches!(status, 429 | 503).then_some(1),
    }
}

/// The answer to a stream of HTTP/2 that never became a session, and its body.
pub fn stream_answer(reject: &Reject, id: &HeaderValue) -> (http::Response<()>, String) {
    let problem = problem(reject);
    let body = problem.json(id.to_str().unwrap_or_default());
    let mut answer = http::Response::new(());
    *answer.status_mut() =
        http::StatusCode::from_u16(problem.status).unwrap_or(http::StatusCode::BAD_REQUEST);
    let head = answer.headers_mut();
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    head.insert(header::CONTENT_LENGTH, body.len().into());
    head.insert("x-request-id", id.clone());
    if let Some(allow) = allow(reject, problem.status).and_then(|allow| allow.try_into().ok()) {
        head.insert(header::ALLOW, allow);
    }
    (answer, body)
}

/// The whole HTTP/1.1 answer to a connection that never became a session; it closes.
pub fn raw_answer(reject: &Reject, id: &str) -> Vec<u8> {
    let problem = problem(reject);
    let status = http::StatusCode::from_u16(problem.status).unwrap_or(http::StatusCode::BAD_REQUEST);
    let body = problem.json(id);
    let mut answer = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\nX-Request-Id: {id}\r\nConnection: close\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or("Error"),
        body.len(),
    );
    if let Some(allow) = allow(reject, problem.status) {
        let _ = write!(answer, "Allow: {allow}\r\n");
    }
    if let Some(seconds) = retry_after(reject, problem.status) {
        let _ = write!(answer, "Retry-After: {seconds}\r\n");
    }
    answer.push_str("\r\n");
    answer.push_str(&body);
    answer.into_bytes()
}

/// Answers a request that was refused before anything went upstream.
pub(super) async fn refuse(session: &mut Session, ctx: &mut Ctx, reject: Reject) -> Result<()> {
    if reject == Reject::NoTarget {
        if let Some(upstream) = &ctx.upstream {
            upstream.complain();
        }
    }
    let sent = send(session, ctx, &reject).await;
    ctx.reject = Some(reject);
    sent
}

/// Answers a request that failed on its way, if an answer is still possible. The connection is not used again:
/// what was left unread on it is not known.
pub(super) async fn after_error(session: &mut Session, ctx: &mut Ctx, e: &Error) -> FailToProxy {
    let fault = client(session).and_then(|client| {
        client.end_unawares();
        client.fault()
    });
    if fault == Some(Fault::Unneeded) {
        // The answer is whole; a slow reader may not have all of it yet.
        session.as_downstream_mut().shutdown().await;
        return FailToProxy { error_code: 0, can_reuse_downstream: false };
    }
    let reject = cause(session, ctx, e);
    session.set_keepalive(None);
    let status = problem(&reject).status;
    let begun = session.response_written().is_some_and(|r| !r.status.is_informational() || r.status == 101);
    let gone = matches!(reject, Reject::ClientGone | Reject::TunnelEnded);
    // What could not be written has gone by the filters all the same, so that nothing is known of where the client is.
    let stuck = ctx.web.is_some() && is_stuck(e);
    if begun && ctx.grpc && !gone && !stuck && end_call(session, ctx, &reject).await {
        ctx.reject = Some(reject);
        return FailToProxy { error_code: status, can_reuse_downstream: false };
    }
    if begun {
        // The engine keeps the beginning of an answer of known length back: what there is of it goes out before the cut.
        session.as_downstream_mut().shutdown().await;
    } else if !gone {
        let _ = send(session, ctx, &reject).await;
    }
    ctx.reject = Some(reject);
    FailToProxy { error_code: status, can_reuse_downstream: false }
}

/// Why a request failed: what a filter noted, what the connection noted, else what Pingora says.
fn cause(session: &Session, ctx: &Ctx, e: &Error) -> Reject {
    if let Some(reject) = &ctx.reject {
        return reject.clone();
    }
    match client(session).and_then(|c| c.fault()) {
        Some(Fault::ExchangeTimeout) => return Reject::ExchangeTimeout,
        Some(Fault::SlowBody) => return Reject::SlowBody,
        Some(Fault::StalledWrite | Fault::Unneeded) => return Reject::ClientGone,
        Some(Fault::Chunk(why)) => return Reject::Chunk(why),
        Some(Fault::SilentUpstream) => return Reject::UpstreamTimeout,
        Some(Fault::IdleTunnel) => return Reject::TunnelEnded,
        None => {}
    }
    use ErrorType as T;
    if session.was_upgraded() {
        return Reject::TunnelEnded;
    }
    if out_of_descriptors(e) {
        return Reject::Exhausted;
    }
    let client_pauses = client(session).is_some_and(|c| c.is_awaited());
    let out_of_time = ctx.forwards() && Instant::now() >= ctx.deadline;
    match (e.esource(), e.etype()) {
        (
            ErrorSource::Upstream,
            T::ConnectTimedout | T::ReadTimedout | T::WriteTimedout | T::TLSHandshakeTimedout,
        ) => {
            if out_of_time {
                Reject::ExchangeTimeout
            } else if client_pauses && *e.etype() == T::ReadTimedout {
                Reject::SlowBody // no upstream answers a request that it does not have
            } else {
                Reject::UpstreamTimeout
            }
        }
        (
            ErrorSource::Upstream,
            T::ConnectRefused
            | T::ConnectNoRoute
            | T::ConnectError
            | T::ConnectProxyFailure
            | T::BindError
            | T::SocketError
            | T::InternalError, // that is what it calls a Unix socket that it may not open
        ) => Reject::Connect,
        (ErrorSource::Upstream, kind) if *kind == PING_TIMEDOUT => Reject::UpstreamTimeout,
        (ErrorSource::Upstream, _) if tls_trouble(e).is_some() => Reject::UpstreamTls,
        (ErrorSource::Upstream, _) => Reject::UpstreamBroke,
        (ErrorSource::Downstream, T::ReadError | T::WriteError | T::ConnectionClosed | T::WriteTimedout) => {
            Reject::ClientGone
        }
        (ErrorSource::Downstream, T::ReadTimedout) => Reject::SlowBody,
        (ErrorSource::Downstream, _) => Reject::Malformed,
        (ErrorSource::Internal | ErrorSource::Unset, _) => Reject::Internal,
    }
}

/// The client takes no more.
fn is_stuck(e: &Error) -> bool {
    *e.esource() == ErrorSource::Downstream
        && matches!(e.etype(), ErrorType::WriteError | ErrorType::WriteTimedout)
}

/// The process or the system has no descriptor left (EMFILE, ENFILE), whatever Pingora calls it.
fn out_of_descriptors(e: &Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    let mut next: Option<&(dyn std::error::Error + 'static)> = e.cause.as_deref().map(|c| c as _);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return matches!(io.raw_os_error(), Some(EMFILE | ENFILE));
        }
        next = match cause.downcast_ref::<Box<Error>>() {
            Some(inner) => inner.cause.as_deref().map(|c| c as _),
            None => cause.source(),
        };
    }
    false
}

/// The kinds of an error and its causes, and what TLS says, without Pingora's contexts: those quote what an upstream sent.
pub(super) fn brief(e: &Error) -> String {
    let mut text = format!("{} {}", e.source_str(), e.etype().as_str());
    if let Some(trouble) = tls_trouble(e) {
        let _ = write!(text, ": {trouble}");
        return text;
    }
    match e.cause.as_deref().map(|cause| (cause.downcast_ref::<Box<Error>>(), cause)) {
        Some((Some(inner), _)) => {
            let _ = write!(text, ": {}", brief(inner));
        }
        Some((None, cause)) => {
            let _ = write!(text, ": {cause}");
        }
        None => {}
    }
    text
}

/// What a cause is for who calls by gRPC: a status, and what else a problem would say of it in words.
fn grpc_fields(ctx: &mut Ctx, reject: &Reject, mut put: impl FnMut(&'static str, String)) {
    let (code, problem) = (grpc_code(reject) as u32, problem(reject));
    ctx.grpc_status = Some(code);
    put(grpc::STATUS, code.to_string());
    put(grpc::MESSAGE, grpc::message(&format!("{}: {}", problem.title, problem.detail)));
}

/// Answers a call that nothing was answered to: the status is all of it, in the head.
async fn refuse_call(session: &mut Session, ctx: &mut Ctx, reject: &Reject) -> Result<()> {
    let mut head = ResponseHeader::build(200, Some(8))?;
    let content_type = ctx.web.as_ref().map_or(grpc::CONTENT_TYPE, |web| web.content_type());
    head.insert_header(header::CONTENT_TYPE, content_type)?;
    let mut fields = Vec::new();
    grpc_fields(ctx, reject, |name, value| fields.push((name, value)));
    for (name, value) in fields {
        head.insert_header(name, value)?;
    }
    put_own(session, &mut head, ctx)?;
    super::response::promise_tls(session, &mut head)?;
    super::response::answer_to(ctx, &mut head)?;
    super::response::for_browsers(session, &mut head, ctx)?;
    // Past the engine, which does not say that the head is all; callers look for that.
    if let Some(stream) = session.as_downstream_mut().as_custom_mut() {
        return stream.write_response_header(Box::new(head), true).await;
    }
    head.insert_header(header::CONTENT_LENGTH, 0)?;
    session.write_response_header(Box::new(head), true).await
}

/// Ends a call whose answer has begun with the status in the place of what was to come; whether that was possible.
async fn end_call(session: &mut Session, ctx: &mut Ctx, reject: &Reject) -> bool {
    let mut trailers = HeaderMap::new();
    grpc_fields(ctx, reject, |name, value| {
        trailers
            .extend(HeaderValue::try_from(value).ok().map(|value| (HeaderName::from_static(name), value)));
    });
    if let Some(web) = &ctx.web {
        let Some(last) = web.last_message(&trailers) else { return false };
        return session.write_response_body(Some(last), true).await.is_ok();
    }
    match session.as_downstream_mut().as_custom_mut() {
        Some(stream) => stream.write_trailers(trailers).await.is_ok(),
        None => false,
    }
}

/// The gateway's own fields, in place of those of an answer that came to nothing.
fn put_own(session: &Session, head: &mut ResponseHeader, ctx: &Ctx) -> Result<()> {
    match conn(session) {
        Some(conn) => conn.set_response_fields(|out| super::response::write_own(ctx, out)),
        None => super::response::insert_own(head, ctx)?,
    }
    Ok(())
}

async fn send(session: &mut Session, ctx: &mut Ctx, reject: &Reject) -> Result<()> {
    super::response::close_when_leaving(session);
    // A browser that is sent elsewhere has to hear it: it tries again over a connection of its own.
    let elsewhere = ctx.web.is_some() && *reject == Reject::Misdirected;
    if ctx.grpc && !elsewhere {
        return refuse_call(session, ctx, reject).await;
    }
    let problem = problem(reject);
    let body = problem.json(ctx.id.to_str().unwrap_or_default());
    let mut head = ResponseHeader::build(problem.status, Some(6))?;
    head.insert_header(header::CONTENT_TYPE, "application/problem+json")?;
    head.insert_header(header::CONTENT_LENGTH, body.len())?;
    put_own(session, &mut head, ctx)?;
    super::response::promise_tls(session, &mut head)?;
    if let Some(allow) = allow(reject, problem.status) {
        head.insert_header(header::ALLOW, allow)?;
    }
    if let Some(seconds) = retry_after(reject, problem.status) {
        head.insert_header(header::RETRY_AFTER, seconds)?;
    }
    super::response::answer_to(ctx, &mut head)?;
    super::response::for_browsers(session, &mut head, ctx)?;
    let head_only = session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(head), head_only).await?;
    if !head_only {
        session.write_response_body(Some(body.into()), true).await?;
    }
    Ok(())
}

/// One line for each request that the gateway itself ended, where no access log says it: faults as warnings, refusals of
/// the client's at level info.
pub(super) fn log(session: &Session, e: Option<&Error>, ctx: &Ctx) {
    let Some(reject) = &ctx.reject else { return };
    let problem = problem(reject);
    if problem.status < 500 && !log::log_enabled!(log::Level::Info) {
        return;
    }
    let request = session.req_header();
    let id = ctx.id.to_str().unwrap_or_default();
    let path = ctx.gateway.access_log.secrets().path(request.uri.path().as_bytes());
    let path = String::from_utf8_lossy(&path);
    let mut line = format!("{id} {} {path} -> {} {}", request.method, problem.status, problem.reason);
    if let Some(route) = ctx.route() {
        let _ = write!(line, ", route {}", route.stats.name.plain);
    }
    if let (Some(upstream), Some(target)) = (&ctx.upstream, &ctx.target) {
        let _ =
            write!(line, ", upstream {}, target {}, attempts {}", upstream.name(), target.text, ctx.attempts);
    }
    if let Some(e) = e {
        let _ = write!(line, ": {}", brief(e));
    }
    if problem.status >= 500 {
        warn!("{line}");
    } else {
        info!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_json_with_the_title_as_error() {
        let json = problem(&Reject::NoRoute).json("ab\"c");
        let value: serde_yaml::Value = serde_yaml::from_str(&json).unwrap(); // YAML reads JSON
        assert_eq!(value["status"], 404);
        assert_eq!(value["error"], "Service not found");
        assert_eq!(value["title"], value["error"]);
        assert_eq!(value["instance"], "ab\"c");
    }

    #[test]
    fn no_body_names_a_target() {
        for reject in [
            Reject::Connect,
            Reject::UpstreamTls,
            Reject::UpstreamBroke,
            Reject::UpstreamTimeout,
            Reject::NoTarget,
        ] {
            assert!(!problem(&reject).json("x").contains("127."), "{reject:?}");
        }
    }
}
