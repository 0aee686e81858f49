//! One attempt after another: which target, and whether there may be a next one.
//!
//! A request goes out again only while no byte of an answer has gone to the client, and only when no byte of it was
//! sent (a connection that could not be made) or it is still whole in memory and idempotent (RFC 9110 §9.2.2), or the
//! target has said, as HTTP/2 lets it, that it has not looked at it (RFC 9113 §8.7).
//! It goes to another target; to the same one only after a kept connection turned out to be closed or a request was left
//! alone there, which says nothing about the target.

use super::ctx::{client, Ctx};
use crate::error::Reject;
use crate::observe::stats::RetryReason;
use crate::upstream::peer::Busy;
use crate::wire::facts::Ends;
use crate::wire::outcome::Fault;
use crate::wire::proxy_protocol;
use http::Version;
use pingora::http::RequestHeader;
use pingora::protocols::http::v2::client::PING_TIMEDOUT;
use pingora::protocols::tls::ALPN;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::Session;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Starts an attempt at the target chosen before.
pub(super) fn begin(session: &Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
    let Some(target) = ctx.next.take() else { return refuse(ctx, Reject::NoTarget) };
    let now = Instant::now();
    let left = ctx.deadline.saturating_duration_since(now);
    if left.is_zero() {
        return refuse(ctx, Reject::ExchangeTimeout);
    }
    ctx.attempts += 1;
    ctx.attempt_started = now;
    ctx.upstream_took = None;
    ctx.reused = false;
    ctx.body_received = 0;
    if let Some(web) = &mut ctx.web {
        web.begin_attempt();
    }
    if let Some(recording) = &mut ctx.recording {
        recording.begin_attempt(target.server(), !target.name().is_empty());
    }
    let may_become_tunnel = session.is_upgrade_req() && !target.speaks_http2_only();
    let mut peer = match ctx.upstream.as_ref().and_then(|upstream| upstream.spec().proxy_protocol) {
        Some(version) => target.own_peer(proxy_protocol::header(version, ends(session, ctx))),
        None if may_become_tunnel => target.own_peer(Vec::new()),
        None => target.peer(),
    };
    let within = |timeout: Option<Duration>| timeout.map(|t| t.min(left));
    peer.options.connection_timeout = within(peer.options.connection_timeout);
    peer.options.total_connection_timeout = peer.options.connection_timeout;
    // The engine's own timeout would go on in a tunnel, which may be silent for longer.
    if may_become_tunnel {
        if let Some(client) = client(session).filter(|c| c.body_done()) {
            peer.options.read_timeout.take().into_iter().for_each(|patience| client.bear_silence(patience));
        }
    } else {
        let http1 = peer.options.alpn == ALPN::H1;
        let done = client(session).filter(|c| if http1 { c.body_done() } else { ctx.grpc });
        match (done, peer.options.read_timeout.take()) {
            // A caller may be silent for long, and so may be who is called; once it has all of the call the client's timer
            // runs. The engine looks at the deadline when it does not look at the client any more.
            (Some(client), Some(patience)) if !http1 => {
                client.bear_silence(patience);
                peer.options.read_timeout = Some(left);
            }
            // The client has a timer already; the engine would start one for each read.
            (Some(client), Some(patience)) => client.bear_silence(patience),
            (_, patience) => peer.options.read_timeout = within(patience),
        }
        // While the upstream takes nothing the engine waits for it alone and sees no deadline of the client's connection.
        peer.options.write_timeout = within(peer.options.write_timeout);
    }
    ctx.target = Some(Busy::new(target));
    Ok(peer)
}

/// The client's connection, or what is known of the one to the trusted proxy that it came by.
fn ends(session: &Session, ctx: &Ctx) -> Ends {
    let mut ends = client(session).map(|client| client.facts().ends).unwrap_or_default();
    if ends.address().map(|peer| peer.to_canonical()) != ctx.client {
        ends.client = ctx.client.map(|believed| SocketAddr::new(believed, 0));
    }
    ends
}

/// No connection was made: nothing was sent, so any request may go elsewhere.
pub(super) fn not_connected(ctx: &mut Ctx, mut e: Box<Error>) -> Box<Error> {
    failed(ctx, &e, false);
    // No stream could be begun on a connection that was there.
    let stale = *e.etype() == ErrorType::H2Error;
    let again =
        ctx.rules().retry.connect && (choose_other(ctx, RetryReason::Connect) || (stale && choose_same(ctx)));
    e.set_retry(again);
    e
}

/// The connection is there, and this request is going to be written to it.
///
/// # Errors
/// When it is not in the protocol that it has to be in: an answer to HTTP/1.1 is not what was configured.
pub(super) fn agreed(request: &RequestHeader, ctx: &mut Ctx) -> Result<()> {
    let only = ctx.target.as_ref().is_some_and(|target| target.speaks_http2_only());
    let strict = only || ctx.web.is_some(); // gRPC is spoken over HTTP/2 alone
    if strict && request.version != Version::HTTP_2 {
        ctx.reject = Some(Reject::UpstreamBroke);
        let e = Error::explain(ErrorType::H2Error, "the target did not agree to HTTP/2");
        return Err(e.into_up());
    }
    Ok(())
}

/// The connection was there, and then something went wrong.
pub(super) fn broke(session: &mut Session, ctx: &mut Ctx, mut e: Box<Error>, reused: bool) -> Box<Error> {
    let upstream = *e.esource() == ErrorSource::Upstream;
    let untouched = upstream && is_untouched(&e);
    let idempotent = session.req_header().method.is_idempotent();
    let unanswered = !ctx.answered && session.response_written().is_none_or(|r| r.status.is_informational());
    let repeatable = unanswered && !session.as_ref().retry_buffer_truncated();
    let reset = untouched || (upstream && idempotent && is_reset(&e));
    let may = reset && repeatable && ctx.reject.is_none() && ctx.rules().retry.reset;
    // The client's clock is the one that knows that an upstream is silent.
    let waited = client(session).and_then(|client| client.fault());
    let silent = matches!(waited, Some(Fault::SilentUpstream | Fault::ExchangeTimeout));
    if upstream || silent {
        failed(ctx, &e, silent);
    }
    let same = reused || untouched;
    let again = may && (choose_other(ctx, RetryReason::Reset) || (same && choose_same(ctx)));
    e.set_retry(again);
    e
}

/// The connection broke, or the stream on it.
fn is_reset(e: &Error) -> bool {
    use ErrorType as T;
    matches!(e.etype(), T::ReadError | T::WriteError | T::ConnectionClosed | T::H2Error | T::InvalidH2)
        || *e.etype() == PING_TIMEDOUT
}

/// The target has refused the stream, or has begun to leave before it looked at it, or wants another version: in each
/// case it has done nothing about it.
fn is_untouched(e: &Error) -> bool {
    if *e.etype() == ErrorType::H2Downgrade {
        return true;
    }
    let cause = e.root_cause().downcast_ref::<h2::Error>().filter(|cause| cause.is_remote());
    cause.is_some_and(|cause| cause.is_go_away() || cause.reason() == Some(h2::Reason::REFUSED_STREAM))
}

/// A connection is there, made now or kept.
pub(super) fn connected(ctx: &mut Ctx, reused: bool) {
    ctx.reused = reused;
    if let Some(upstream) = &ctx.upstream {
        upstream.stats().connected(reused);
    }
}

/// The head of the final response is there.
pub(super) fn answered(ctx: &mut Ctx, status: u16) {
    ctx.answered = true;
    ctx.status = Some(status);
    took(ctx, true);
    if let Some(recording) = &mut ctx.recording {
        recording.answered(status);
    }
}

/// The attempt came to nothing, or its answer broke off.
fn failed(ctx: &mut Ctx, e: &Error, silent: bool) {
    use ErrorType as T;
    // To have waited in vain is an answer of a kind; to have been refused is none.
    took(ctx, silent || matches!(e.etype(), T::ReadTimedout | T::WriteTimedout | T::ConnectTimedout));
    if let Some(recording) = &mut ctx.recording {
        recording.failed(e.etype().as_str());
    }
}

/// Whether this says how long the upstream takes.
fn took(ctx: &mut Ctx, telling: bool) {
    if ctx.upstream_took.is_some() {
        return;
    }
    let now = Instant::now();
    let took = now - ctx.attempt_started;
    ctx.upstream_took = Some(took);
    if let Some(upstream) = &ctx.upstream {
        upstream.stats().answered(took);
        if telling {
            ctx.turn = upstream.load().answered(ctx.turn, took, now);
        }
    }
}

fn retried(ctx: &Ctx, reason: RetryReason) {
    if let Some(upstream) = &ctx.upstream {
        upstream.stats().retried(reason);
    }
}

/// Another target, if attempts and targets are left.
fn choose_other(ctx: &mut Ctx, reason: RetryReason) -> bool {
    if let Some(target) = &ctx.target {
        ctx.tried.push(target.address.clone());
    }
    if ctx.attempts > ctx.rules().retry.attempts {
        return false;
    }
    ctx.next = ctx.select(&ctx.tried);
    if ctx.next.is_some() {
        retried(ctx, reason);
    }
    ctx.next.is_some()
}

/// The same target over a new connection.
fn choose_same(ctx: &mut Ctx) -> bool {
    if ctx.attempts > ctx.rules().retry.attempts {
        return false;
    }
    ctx.next = ctx.target.as_ref().map(|busy| Arc::clone(busy.target()));
    if ctx.next.is_some() {
        retried(ctx, RetryReason::Reused);
    }
    ctx.next.is_some()
}

fn refuse<T>(ctx: &mut Ctx, reject: Reject) -> Result<T> {
    ctx.reject = Some(reject);
    Error::e_explain(ErrorType::InternalError, "no attempt")
}
