//! A call of gRPC-Web on a route with `grpc_web`: the upstream hears gRPC, and its trailers become the end of the body.
//!
//! What is not an answer of gRPC passes as it is. Where a message was cut off no status follows it: the client would take
//! that for the rest of the message.

use super::ctx::Ctx;
use crate::base::grpc_web::{
    accepted, encode, form, from_grpc, last_message, to_grpc, Decoder, Form, Messages,
};
use crate::error::Reject;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, ErrorType, OrErr, Result};

/// What is known of one call.
pub struct Web {
    /// What the upstream is told that the body is.
    content_type: HeaderValue,
    /// How the client writes, and how it reads.
    writes: Form,
    reads: Form,
    request: Request,
    /// Once an answer of gRPC has begun.
    answer: Option<Messages>,
}

/// How far the request has come in this attempt.
#[derive(Default)]
struct Request {
    text: Decoder,
    messages: Messages,
}

impl Web {
    /// The call that this request is, if it is one. HTTP/1.0 cannot carry what comes back, an answer of unknown length.
    pub(super) fn of(request: &RequestHeader) -> Option<Box<Web>> {
        let content_type = request.headers.get(header::CONTENT_TYPE)?;
        let (writes, suffix) = form(content_type.as_bytes())?;
        if request.method != Method::POST || request.version == Version::HTTP_10 {
            return None;
        }
        let accept = request.headers.get_all(header::ACCEPT).iter().map(HeaderValue::as_bytes);
        Some(Box::new(Web {
            content_type: HeaderValue::from_maybe_shared(to_grpc(suffix)).ok()?,
            writes,
            reads: accepted(accept).unwrap_or(writes),
            request: Request::default(),
            answer: None,
        }))
    }

    /// The request goes out, from its beginning.
    pub(super) fn begin_attempt(&mut self) {
        (self.request, self.answer) = (Request::default(), None);
    }

    /// Makes a request of gRPC of the one that goes upstream.
    pub(super) fn ask(&self, request: &mut RequestHeader) -> Result<()> {
        // Neither the length nor what the client takes is true of what is behind.
        for name in [header::CONTENT_LENGTH, header::ACCEPT, header::ACCEPT_ENCODING] {
            request.remove_header(&name);
        }
        request.insert_header(header::CONTENT_TYPE, self.content_type.clone())?;
        request.insert_header(header::TE, "trailers")
    }

    /// The content type of the gateway's own answers.
    pub(super) fn content_type(&self) -> &'static str {
        self.reads.content_type()
    }

    /// Makes the head of an answer one for the client.
    pub(super) fn answer(&mut self, response: &mut ResponseHeader) -> Result<()> {
        let content_type = response.headers.get(header::CONTENT_TYPE).map_or(&b""[..], |t| t.as_bytes());
        let Some(content_type) = from_grpc(content_type, self.reads) else { return Ok(()) };
        let content_type = HeaderValue::from_maybe_shared(content_type)
            .explain_err(ErrorType::InvalidHTTPHeader, |_| "a content type")?;
        response.remove_header(&header::CONTENT_LENGTH);
        response.remove_header(&header::TRAILER);
        self.answer = Some(Messages::default());
        response.insert_header(header::CONTENT_TYPE, content_type)
    }

    /// The last message of an answer that has begun; none if it cannot stand there.
    pub(super) fn last_message(&self, trailers: &HeaderMap) -> Option<Bytes> {
        let between = self.answer.as_ref().is_some_and(Messages::between);
        between.then(|| self.written(last_message(trailers).into()))
    }

    fn written(&self, piece: Bytes) -> Bytes {
        match self.reads {
            Form::Binary => piece,
            Form::Text => encode(&piece).into(),
        }
    }

    fn read(&mut self, body: &mut Option<Bytes>, end: bool) -> Result<(), &'static str> {
        let Request { text, messages } = &mut self.request;
        if let (Form::Text, Some(piece)) = (self.writes, &mut *body) {
            let mut decoded = Vec::new();
            text.decode(piece, &mut decoded)?;
            // Nothing yet is an empty piece: none at all would be the end.
            *piece = decoded.into();
        }
        if let Some(piece) = body {
            messages.pass(piece).map_err(|_| "A request has no status among its messages.")?;
        }
        if end || body.is_none() {
            text.end()?;
            if !messages.between() {
                return Err("The request's last message breaks off.");
            }
        }
        Ok(())
    }
}

/// Reads a piece of the request: what goes upstream in its place.
///
/// # Errors
/// When it is not what a client may send.
pub(super) fn request_body(body: &mut Option<Bytes>, end: bool, ctx: &mut Ctx) -> Result<()> {
    let Some(web) = &mut ctx.web else { return Ok(()) };
    web.read(body, end).map_err(|why| {
        ctx.reject = Some(Reject::GrpcWeb(why));
        Error::explain(ErrorType::InvalidHTTPHeader, why).into_down()
    })
}

/// Writes a piece of the answer.
pub(super) fn response_body(part: &mut Option<Bytes>, ctx: &mut Ctx) {
    let Some(web) = &mut ctx.web else { return };
    let (Some(messages), Some(piece)) = (&mut web.answer, &mut *part) else { return };
    // A status where a message should be is the upstream's doing, and what follows it is not looked at.
    let _ = messages.pass(piece);
    *piece = web.written(std::mem::take(piece));
}

/// What the trailers of an answer become, if they become anything.
pub(super) fn response_trailers(trailers: &HeaderMap, ctx: &mut Ctx) -> Option<Bytes> {
    let last = ctx.web.as_ref()?.last_message(trailers)?;
    ctx.sent += last.len() as u64;
    Some(last)
}
