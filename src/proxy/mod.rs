//! The request path on Pingora's engine: what was decided elsewhere is applied to a session here.
//!
//! Each method of [`ProxyHttp`] is a few lines that name its steps: `request` decides (normalise, route, admit,
//! choose a target), `forward` writes the upstream's request, `response` the client's response, `grpc_web` its
//! body for browsers that call by gRPC, `attempt` says what may be tried again, `failure` alone turns causes into answers, `record` tells what became of it. It knows no configuration file and no
//! listener.

mod attempt;
pub mod ctx;
pub mod failure;
pub mod forward;
mod grpc_web;
pub mod record;
mod request;
mod response;

use crate::gateway::Gateway;
use crate::observe::Observed;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use ctx::Ctx;
use http::HeaderMap;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, Result};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use std::sync::Arc;
use std::time::Duration;

/// The gateway as Pingora's application.
pub struct Proxy {
    /// The snapshot that new requests get.
    pub gateway: Arc<ArcSwap<Gateway>>,
    /// What is counted and noted.
    pub observed: Arc<Observed>,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx::new(self.gateway.load_full())
    }

    fn init_downstream_modules(&self, _: &mut pingora::modules::http::HttpModules) {
        // None: Pingora's default would add a disabled compression filter to every request.
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        match request::decide(session, ctx).await {
            Ok(None) => Ok(false),
            Ok(Some(answer)) => answer.write(session, ctx).await.map(|()| true),
            Err(reject) => failure::refuse(session, ctx, reject).await.map(|()| true),
        }
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        attempt::begin(session, ctx)
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        reused: bool,
        _: &HttpPeer,
        _: std::os::unix::io::RawFd,
        _: Option<&Digest>,
        ctx: &mut Ctx,
    ) -> Result<()> {
        attempt::connected(ctx, reused);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        attempt::agreed(request, ctx)?;
        forward::meet_expectation(session, request).await?;
        forward::write(session, request, ctx)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Ctx,
    ) -> Result<()> {
        request::count_body(session, body, ctx)?;
        grpc_web::request_body(body, end, ctx)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        response::clean(session, response, ctx)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        response::dress(session, response, ctx)
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        part: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<Duration>> {
        grpc_web::response_body(part, ctx);
        ctx.sent += part.as_ref().map_or(0, |part| part.len() as u64);
        response::body(session, end);
        Ok(None)
    }

    async fn response_trailer_filter(
        &self,
        session: &mut Session,
        trailers: &mut HeaderMap,
        ctx: &mut Ctx,
    ) -> Result<Option<Bytes>> {
        response::trailers(session, trailers, ctx);
        Ok(grpc_web::response_trailers(trailers, ctx))
    }

    fn fail_to_connect(&self, _: &mut Session, _: &HttpPeer, ctx: &mut Ctx, e: Box<Error>) -> Box<Error> {
        attempt::not_connected(ctx, e)
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        e: Box<Error>,
        ctx: &mut Ctx,
        reused: bool,
    ) -> Box<Error> {
        attempt::broke(session, ctx, e, reused)
    }

    async fn fail_to_proxy(&self, session: &mut Session, e: &Error, ctx: &mut Ctx) -> FailToProxy {
        failure::after_error(session, ctx, e).await
    }

    async fn logging(&self, session: &mut Session, e: Option<&Error>, ctx: &mut Ctx) {
        ctx.told = true;
        record::finish(self, session, e, ctx);
    }

    fn suppress_error_log(&self, _: &Session, _: &Ctx, _: &Error) -> bool {
        true // `failure::log` says it once, with its cause
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Ctx, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}
