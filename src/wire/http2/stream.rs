//! One request of an HTTP/2 connection, as Pingora's engine takes it.

use super::head::Head;
use super::watch::{Origin, Watch};
use crate::wire::client::Client;
use crate::wire::clock::Clock;
use crate::wire::outcome::{Fault, Pace};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream as Messages;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{self, HeaderMap, HeaderName};
use http::response::Parts;
use http::{Method, Response};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::body_buffer::FixedBuffer;
use pingora::protocols::http::custom::server::Session;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::date::get_cached_date;
use pingora::protocols::http::HttpTask;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::Digest;
use pingora::{Error, ErrorType, OrErr, Result};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// How much of a body is kept for another attempt; as much as for HTTP/1.
const RETRY_BUFFER: usize = 64 << 10;

/// What a head of HTTP/1 says of its connection.
const OF_A_HOP: [HeaderName; 5] = [
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// How often the answer has its turn for each piece of a request that is still coming.
const TURNS: u8 = 4;

/// One request of an HTTP/2 connection.
///
/// Pingora has such a session of its own. It answers heads that it does not like itself, with no body and no line in the
/// log, drops every 1xx, and has no clock for a body that comes slowly, for the whole exchange or for a silent upstream, so
/// this one stands in its place, where Pingora lets another protocol's session stand.
pub struct Stream {
    head: RequestHeader,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    /// Once the head of the answer is written.
    writer: Option<SendStream<Bytes>>,
    /// The status of that head.
    written: Option<Box<ResponseHeader>>,
    /// The end of the answer is written.
    ended: bool,
    received: usize,
    sent: usize,
    retry: Option<FixedBuffer>,
    /// Turns that the answer has before the next piece of the body.
    turns: u8,
    pace: Pace,
    clock: Clock,
    watch: Arc<Watch>,
    digest: Digest,
}

impl Stream {
    /// A request that has begun. What Pingora hands around of a session has room for one thing of ours: the
    /// [`Watch`] is found there again ([`Stream::watch_of`]).
    pub fn new(
        head: Head,
        body: RecvStream,
        respond: SendResponse<Bytes>,
        origin: Arc<Origin>,
        pace: Pace,
    ) -> Self {
        let watch = Arc::new(Watch::new(origin, head.expect_continue, body.is_end_stream()));
        let nothing = ResponseHeader::build(200, Some(0)).expect("200 is a status");
        let ours = ProxyDigest::new(Box::new(nothing), Some(Box::new(Arc::clone(&watch))));
        Stream {
            head: head.header,
            body,
            respond,
            writer: None,
            written: None,
            ended: false,
            received: 0,
            sent: 0,
            retry: None,
            turns: 0,
            pace,
            clock: Clock::default(),
            watch,
            digest: Digest { proxy_digest: Some(Arc::new(ours)), ..Digest::default() },
        }
    }

    /// The client of this stream.
    pub fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// The client of the stream whose digest this is.
    pub fn watch_of(digest: &Digest) -> Option<&Watch> {
        let ours = digest.proxy_digest.as_ref()?.user_data.as_ref()?;
        ours.downcast_ref::<Arc<Watch>>().map(|watch| &**watch)
    }

    /// Never an empty piece: with the end of the body the engine makes a last chunk of it, and then another one, which the
    /// upstream would take for the next request.
    ///
    /// While the engine waits for an upstream of HTTP/2 to take a piece, it takes nothing of the answer. An upstream that
    /// answers as it reads could so wait for the engine, and the engine for it. So the answer goes first.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        if self.turns > 0 && self.written.is_some() {
            self.turns -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            let data = match self.body.poll_data(cx) {
                Poll::Pending => return self.wait_to_read(cx),
                Poll::Ready(data) => data.transpose().map_err(|e| self.broken_off(e))?,
            };
            let Some(data) = data else {
                // Trailers are not passed on (RFC 9110 §6.5.1 lets a gateway drop them), only read.
                ready!(self.body.poll_trailers(cx)).or_err(ErrorType::ReadError, "reading trailers")?;
                self.watch.received(0, true);
                return Poll::Ready(Ok(None));
            };
            if data.is_empty() {
                continue;
            }
            self.received += data.len();
            self.watch.received(data.len(), self.body.is_end_stream());
            if let Some(retry) = &mut self.retry {
                retry.write_to_buffer(&data);
            }
            // An error is the stream's own, which the next read finds.
            let _ = self.body.flow_control().release_capacity(data.len());
            self.turns = TURNS;
            return Poll::Ready(Ok(Some(data)));
        }
    }

    /// Nothing more is expected of the client but that it goes.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let reset = match &mut self.writer {
            Some(writer) => writer.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        match reset {
            Poll::Pending => self.wait_to_read(cx),
            Poll::Ready(Ok(reason)) => {
                Poll::Ready(Error::e_explain(ErrorType::ReadError, format!("the client gave up: {reason}")))
            }
            Poll::Ready(Err(e)) => {
                Poll::Ready(Error::e_because(ErrorType::ReadError, "the client is gone", e))
            }
        }
    }

    fn wait_to_read<T>(&mut self, cx: &mut Context<'_>) -> Poll<Result<T>> {
        match self.watch.end_of_reading(&self.pace) {
            Some((end, fault)) if self.clock.is_over(cx, end) => {
                Poll::Ready(Err(self.fail(fault, ErrorType::ReadTimedout)))
            }
            _ => Poll::Pending,
        }
    }

    /// A client that has its answer whole may leave the rest of its request, and many do.
    fn broken_off(&self, e: h2::Error) -> Box<Error> {
        if self.ended {
            self.watch.fail(Fault::Unneeded);
        }
        Error::because(ErrorType::ReadError, "reading a body", e)
    }

    fn fail(&self, fault: Fault, kind: ErrorType) -> Box<Error> {
        self.watch.fail(fault);
        Error::explain(kind, "the client's stream is out of time")
    }

    /// Writes as much of it as the client takes now.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
        end: bool,
        since: &mut Option<Instant>,
    ) -> Poll<Result<()>> {
        while !data.is_empty() {
            let Some(writer) = &mut self.writer else { return Poll::Ready(Err(no_head())) };
            writer.reserve_capacity(data.len());
            let mut room = writer.capacity();
            while room == 0 {
                room = match writer.poll_capacity(cx) {
                    Poll::Ready(Some(room)) => {
                        room.or_err(ErrorType::WriteError, "waiting for the client's window")?
                    }
                    Poll::Ready(None) => {
                        return Poll::Ready(Error::e_explain(ErrorType::WriteError, "the client gave up"));
                    }
                    Poll::Pending => {
                        let since = *since.get_or_insert_with(Instant::now);
                        let (until, fault) = self.watch.end_of_writing(since, &self.pace);
                        if self.clock.is_over(cx, until) {
                            return Poll::Ready(Err(self.fail(fault, ErrorType::WriteTimedout)));
                        }
                        return Poll::Pending;
                    }
                };
            }
            *since = None;
            let part = data.split_to(room.min(data.len()));
            let (length, last) = (part.len(), end && data.is_empty());
            writer.send_data(part, last).or_err(ErrorType::WriteError, "writing a body")?;
            self.sent += length;
            self.ended |= last;
        }
        Poll::Ready(Ok(()))
    }

    async fn write(&mut self, mut data: Bytes, end: bool) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let mut since = None;
        poll_fn(|cx| self.poll_write(cx, &mut data, end, &mut since)).await?;
        if end {
            self.end()?;
        }
        Ok(())
    }

    fn write_head(&mut self, mut head: Box<ResponseHeader>, end: bool) -> Result<()> {
        if self.ended || self.written.is_some() {
            return Ok(());
        }
        // Its fields go to the client; who asks later what was written asks for the status.
        let written = ResponseHeader::build_no_case(head.status, Some(0))?;
        let mut parts = Parts::from(std::mem::replace(&mut *head, written));
        // Of the hop before (RFC 9113 §8.2.2).
        if parts.headers.keys().any(|name| OF_A_HOP.contains(name)) {
            OF_A_HOP.iter().for_each(|name| drop(parts.headers.remove(name)));
        }
        if parts.status.is_informational() {
            let head = Response::from_parts(parts, ());
            return self.respond.send_informational(head).or_err(ErrorType::WriteError, "writing a 1xx");
        }
        let dated = parts.headers.try_insert(header::DATE, get_cached_date());
        dated.or_err(ErrorType::InvalidHTTPHeader, "too many fields")?;
        if self.watch.is_first_answer() {
            name_ours(&mut parts.headers);
        }
        // The engine does not always say that nothing follows where nothing may (RFC 9110 §6.4.1).
        let end = end || self.head.method == Method::HEAD || matches!(parts.status.as_u16(), 204 | 304);
        let sent = self.respond.send_response(Response::from_parts(parts, ()), end);
        self.writer = Some(sent.or_err(ErrorType::WriteError, "writing a head")?);
        self.written = Some(head);
        if end {
            Client::answered(&*self.watch);
        }
        self.ended |= end;
        Ok(())
    }

    /// Ends the answer, if it has begun.
    fn end(&mut self) -> Result<()> {
        let Some(writer) = self.writer.as_mut().filter(|_| !self.ended) else { return Ok(()) };
        writer.send_data(Bytes::new(), true).or_err(ErrorType::WriteError, "ending a body")?;
        self.ended = true;
        Ok(())
    }

    fn end_with(&mut self, trailers: HeaderMap) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let writer = self.writer.as_mut().ok_or_else(no_head)?;
        writer.send_trailers(trailers).or_err(ErrorType::WriteError, "writing trailers")?;
        self.ended = true;
        Ok(())
    }

    /// Whatever the client has of an answer is not all of it.
    fn reset(&mut self) {
        if !self.ended {
            self.ended = true;
            self.respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

/// HPACK's table is to have the names of the gateway's fields, whose values it is not to have. What an upstream keeps out
/// of it stays out (RFC 7541 §7.1.3).
fn name_ours(fields: &mut HeaderMap) {
    for name in ["x-request-id", "server-timing"] {
        if fields.get_all(name).iter().count() == 1 {
            fields.get_mut(name).into_iter().for_each(|value| value.set_sensitive(false));
        }
    }
}

fn no_head() -> Box<Error> {
    Error::explain(ErrorType::InternalError, "a body without a head")
}

#[async_trait]
impl Session for Stream {
    fn req_header(&self) -> &RequestHeader {
        &self.head
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.head
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_body(cx)).await
    }

    /// What is left is the connection's to throw away.
    async fn drain_request_body(&mut self) -> Result<()> {
        Ok(())
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.write_head(head, end)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.write_head(Box::new(head.clone()), end)
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.write(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.end_with(trailers)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut end = false;
        for task in tasks {
            end |= match task {
                HttpTask::Header(head, last) => {
                    self.write_head(head, last).map_err(|e| e.into_down())?;
                    last
                }
                HttpTask::Body(data, last) => {
                    if let Some(data) = data.filter(|data| !data.is_empty()) {
                        self.write(data, last).await.map_err(|e| e.into_down())?;
                    }
                    last
                }
                HttpTask::Trailer(Some(trailers)) => {
                    self.end_with(*trailers).map_err(|e| e.into_down())?;
                    true
                }
                HttpTask::Trailer(None) | HttpTask::Done => true,
                HttpTask::UpgradedBody(..) => {
                    return Error::e_explain(
                        ErrorType::InternalError,
                        "another protocol on a stream of HTTP/2",
                    );
                }
                HttpTask::Failed(e) => return Err(e),
            };
        }
        if end {
            self.end().map_err(|e| e.into_down())?;
        }
        Ok(end)
    }

    // The clocks are the watch's.
    fn set_read_timeout(&mut self, _: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, _: Option<Duration>) {}

    fn get_write_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_total_drain_timeout(&mut self, _: Option<Duration>) {}

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        None
    }

    fn request_summary(&self) -> String {
        format!("{} over HTTP/2", self.head.method)
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.written.as_deref()
    }

    async fn shutdown(&mut self, _: u32, _: &str) {
        self.reset();
    }

    fn is_body_done(&mut self) -> bool {
        self.body.is_end_stream() || Client::body_done(&*self.watch)
    }

    async fn finish(&mut self) -> Result<()> {
        self.end()
    }

    fn is_body_empty(&mut self) -> bool {
        self.received == 0 && self.is_body_done()
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        let idle = no_body_expected || self.is_body_done();
        poll_fn(|cx| if idle { self.poll_gone(cx) } else { self.poll_body(cx) }).await
    }

    fn body_bytes_sent(&self) -> usize {
        self.sent
    }

    fn body_bytes_read(&self) -> usize {
        self.received
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        Some(&mut self.digest)
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    /// Only for subrequests, which there are none of.
    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    fn enable_retry_buffering(&mut self) {
        self.retry.get_or_insert_with(|| FixedBuffer::new(RETRY_BUFFER));
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.retry.as_ref().is_some_and(FixedBuffer::is_truncated)
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.retry.as_ref().filter(|retry| !retry.is_truncated())?.get_buffer()
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Messages<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _: Box<dyn Messages<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
