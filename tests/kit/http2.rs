//! A client of HTTP/2 that does as it should: the `h2` crate's.

use super::DEADLINE;
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use std::future::Future;
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Runs a test's clients.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(3 * DEADLINE, test).await.expect("the test ends in time") })
}

/// A connection to the gateway.
pub struct Http2 {
    /// For what the methods do not do.
    pub send: SendRequest<Bytes>,
    /// The end of the connection.
    pub driver: JoinHandle<Result<(), h2::Error>>,
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The fields.
    pub head: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
    /// Fields behind it.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// The value of a field; more than one fails the test.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut all = self.head.get_all(name).iter();
        let first = all.next().map(|value| value.to_str().unwrap());
        assert!(all.next().is_none(), "{name} stands twice: {self:?}");
        first
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The last part of the problem's `type`; the rest of the problem is checked.
    pub fn problem(&self) -> String {
        assert_eq!(self.field("content-type"), Some("application/problem+json"), "{self:?}");
        let json: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(json["status"], self.status, "{self:?}");
        assert_eq!(json["instance"].as_str(), self.field("x-request-id"), "{self:?}");
        json["type"].as_str().unwrap().strip_prefix("urn:portcullis:problem:").unwrap().to_owned()
    }
}

impl Http2 {
    /// Connects as one that knows that HTTP/2 is spoken there.
    pub async fn connect(address: SocketAddr) -> Http2 {
        let socket = TcpStream::connect(address).await.unwrap();
        let (send, connection) = h2::client::handshake(socket).await.unwrap();
        Http2 { send, driver: tokio::spawn(connection) }
    }

    /// Sends a request with a body, and has its answer.
    pub async fn exchange(&mut self, request: Request<()>, body: &[u8]) -> Result<Answer, h2::Error> {
        let mut send = self.send.clone().ready().await?;
        let (answer, mut stream) = send.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            let body = Bytes::copy_from_slice(body);
            tokio::spawn(async move {
                let _ = send_all(&mut stream, body).await;
            });
        }
        whole(answer.await?).await
    }

    /// A GET of this path at `test`.
    pub async fn get(&mut self, path: &str) -> Answer {
        self.exchange(get(path), b"").await.unwrap()
    }

    /// How the connection ends.
    pub async fn end(self) -> Option<Reason> {
        drop(self.send);
        self.driver.await.unwrap().err().and_then(|e| e.reason())
    }
}

/// A GET of this path at `test`.
pub fn get(path: &str) -> Request<()> {
    Request::get(format!("http://test{path}")).body(()).unwrap()
}

/// Sends a body to its end, as fast as it is taken.
pub async fn send_all(stream: &mut h2::SendStream<Bytes>, mut body: Bytes) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let room = room.ok_or(h2::Error::from(Reason::CANCEL))??;
        stream.send_data(body.split_to(room.min(body.len())), false)?;
    }
    stream.send_data(Bytes::new(), true)
}

/// Reads an answer to its end.
pub async fn whole(answer: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut stream) = answer.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    let trailers = stream.trailers().await?;
    Ok(Answer { status: head.status.as_u16(), head: head.headers, body, trailers })
}
