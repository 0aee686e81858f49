//! An origin that speaks HTTP/2 in the clear: the `h2` crate's, with every stream in the hands of the test.

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::request::Parts;
use http::{HeaderMap, Response};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// A request of which the head has come.
pub struct Asked {
    /// The head.
    pub head: Parts,
    /// What follows it.
    pub body: RecvStream,
    /// How to answer.
    pub respond: SendResponse<Bytes>,
    /// Which connection it came on, counted from 1.
    pub connection: usize,
    /// Which request of the origin it is, counted from 1.
    pub number: usize,
}

impl Asked {
    /// Reads the body to its end, and the trailers.
    pub async fn whole(&mut self) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
        let mut whole = Vec::new();
        while let Some(piece) = self.body.data().await {
            let piece = piece?;
            self.body.flow_control().release_capacity(piece.len())?;
            whole.extend_from_slice(&piece);
        }
        Ok((whole, self.body.trailers().await?))
    }

    /// Answers 200 with this body once the request is whole.
    pub async fn answer(mut self, body: impl Into<Bytes>) {
        let _ = self.whole().await;
        let Ok(mut send) = self.respond.send_response(Response::new(()), false) else { return };
        let _ = super::http2::send_all(&mut send, body.into()).await;
    }

    /// Resets the stream.
    pub fn reset(mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }
}

type Handling = Pin<Box<dyn Future<Output = ()> + Send>>;
type Behaviour = dyn Fn(Asked) -> Handling + Send + Sync;

struct Shared {
    behaviour: Box<Behaviour>,
    settings: h2::server::Builder,
    heads: Mutex<Vec<Parts>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: AtomicUsize,
    leave: watch::Sender<usize>,
}

/// An origin; it ends when dropped.
pub struct Http2Origin {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    _stop: oneshot::Sender<()>,
}

impl Http2Origin {
    /// One that does this with each request.
    pub fn start<F: Future<Output = ()> + Send + 'static>(
        behaviour: impl Fn(Asked) -> F + Send + Sync + 'static,
    ) -> Http2Origin {
        Http2Origin::with(h2::server::Builder::new(), behaviour)
    }

    /// The same with settings of its own.
    pub fn with<F: Future<Output = ()> + Send + 'static>(
        settings: h2::server::Builder,
        behaviour: impl Fn(Asked) -> F + Send + Sync + 'static,
    ) -> Http2Origin {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            behaviour: Box::new(move |asked| Box::pin(behaviour(asked))),
            settings,
            heads: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            leave: watch::Sender::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let accept = async {
                    loop {
                        let (socket, _) = listener.accept().await.unwrap();
                        tokio::spawn(serve(socket, Arc::clone(&theirs)));
                    }
                };
                tokio::select! { () = accept => {}, _ = stopped => {} }
            });
        });
        Http2Origin { address, shared, _stop: stop }
    }

    /// Answers 200 with this body.
    pub fn text(body: &'static str) -> Http2Origin {
        Http2Origin::start(move |asked| asked.answer(body))
    }

    /// `host:port` for a configuration.
    pub fn target(&self) -> String {
        self.address.to_string()
    }

    /// The heads so far.
    pub fn heads(&self) -> Vec<Parts> {
        self.shared.heads.lock().unwrap().clone()
    }

    /// Connections that have been made.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections that are there.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Every connection that is there says that it takes no more.
    pub fn leave(&self) {
        self.shared.leave.send_modify(|times| *times += 1);
    }
}

async fn serve(socket: TcpStream, shared: Arc<Shared>) {
    let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
    shared.open.fetch_add(1, Ordering::SeqCst);
    let mut leave = shared.leave.subscribe();
    if let Ok(mut connection) = shared.settings.handshake::<_, Bytes>(socket).await {
        loop {
            let accepted = tokio::select! {
                Ok(()) = leave.changed() => { connection.graceful_shutdown(); continue }
                accepted = connection.accept() => accepted,
            };
            let Some(Ok((request, respond))) = accepted else { break };
            let (head, body) = request.into_parts();
            shared.heads.lock().unwrap().push(head.clone());
            let nth = shared.requests.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::spawn((shared.behaviour)(Asked { head, body, respond, connection: number, number: nth }));
        }
    }
    shared.open.fetch_sub(1, Ordering::SeqCst);
}
