//! A service of gRPC and its callers, both by tonic, without a compiler of protobufs: the methods are written by hand.

use futures_util::stream::{self, Stream};
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tonic::client::Grpc;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::server::{StreamingService, UnaryService};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// The only message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Note {
    /// What to do, or what was done.
    #[prost(string, tag = "1")]
    pub text: String,
    /// Something large.
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
    /// A number.
    #[prost(uint32, tag = "3")]
    pub count: u32,
}

/// A note of this text.
pub fn note(text: &str) -> Note {
    Note { text: text.to_owned(), ..Note::default() }
}

type Codec = ProstCodec<Note, Note>;
type Notes = Pin<Box<dyn Stream<Item = Result<Note, Status>> + Send>>;
type Later<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

/// The service; it ends when dropped.
pub struct Service {
    /// Where it listens.
    pub address: SocketAddr,
    /// The metadata of the calls so far.
    pub calls: Arc<Mutex<Vec<MetadataMap>>>,
    /// A call ended without its answer having ended.
    pub given_up: mpsc::UnboundedReceiver<()>,
    _stop: oneshot::Sender<()>,
}

/// Says that it was given up, unless it was not.
struct Guard(Option<mpsc::UnboundedSender<()>>);

impl Guard {
    fn done(&mut self) {
        self.0 = None;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(told) = self.0.take() {
            let _ = told.send(());
        }
    }
}

#[derive(Clone)]
struct Methods {
    calls: Arc<Mutex<Vec<MetadataMap>>>,
    given_up: mpsc::UnboundedSender<()>,
}

impl Methods {
    fn guard(&self) -> Guard {
        Guard(Some(self.given_up.clone()))
    }

    fn note(&self, metadata: &MetadataMap) {
        self.calls.lock().unwrap().push(metadata.clone());
    }
}

fn no_such_note() -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("x-why", "searched".parse().unwrap());
    metadata.insert_bin("x-why-bin", MetadataValue::from_bytes(&[0, 255, 7]));
    Status::with_details_and_metadata(Code::NotFound, "no ☃ here", vec![1, 2, 3].into(), metadata)
}

/// Sends the note back, with the caller's metadata.
impl UnaryService<Note> for Methods {
    type Response = Note;
    type Future = Later<Note>;

    fn call(&mut self, request: Request<Note>) -> Self::Future {
        self.note(request.metadata());
        let mut guard = self.guard();
        Box::pin(async move {
            match request.get_ref().text.as_str() {
                "fail" => {
                    guard.done();
                    return Err(no_such_note());
                }
                "never" => std::future::pending::<()>().await,
                _ => {}
            }
            guard.done();
            let (metadata, _, note) = request.into_parts();
            let mut response = Response::new(note);
            for name in ["x-back", "x-other"] {
                if let Some(value) = metadata.get(name) {
                    response.metadata_mut().insert(name, value.clone());
                }
            }
            if let Some(value) = metadata.get_bin("x-back-bin") {
                response.metadata_mut().insert_bin("x-back-bin", value.clone());
            }
            Ok(response)
        })
    }
}

/// Answers each note as it comes, with as many as it asks for.
impl StreamingService<Note> for Methods {
    type Response = Note;
    type ResponseStream = Notes;
    type Future = Later<Notes>;

    fn call(&mut self, request: Request<Streaming<Note>>) -> Self::Future {
        self.note(request.metadata());
        let (notes, guard) = (request.into_inner(), self.guard());
        Box::pin(async move {
            let state = (notes, guard, Vec::<Note>::new());
            let answers = stream::unfold(state, |(mut notes, mut guard, mut left)| async move {
                loop {
                    if let Some(note) = left.pop() {
                        return Some((Ok(note), (notes, guard, left)));
                    }
                    match notes.message().await {
                        Ok(Some(note)) if note.text == "fail" => {
                            guard.done();
                            return Some((Err(no_such_note()), (notes, guard, left)));
                        }
                        Ok(Some(note)) => {
                            left = vec![Note { count: 0, ..note.clone() }; note.count.max(1) as usize];
                        }
                        Ok(None) => {
                            guard.done();
                            return None;
                        }
                        Err(_) => return None,
                    }
                }
            });
            Ok(Response::new(Box::pin(answers) as Notes))
        })
    }
}

impl Service {
    /// Starts it.
    pub fn start() -> Service {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (tells, given_up) = mpsc::unbounded_channel();
        let methods = Methods { calls: Arc::default(), given_up: tells };
        let calls = Arc::clone(&methods.calls);
        let (stop, stopped) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! { () = accept(listener, methods) => {}, _ = stopped => {} }
            });
        });
        Service { address, calls, given_up, _stop: stop }
    }

    /// `host:port` for a configuration.
    pub fn target(&self) -> String {
        self.address.to_string()
    }
}

async fn accept(listener: std::net::TcpListener, methods: Methods) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let methods = methods.clone();
        tokio::spawn(async move {
            let call = service_fn(move |request: hyper::Request<Incoming>| {
                let methods = methods.clone();
                async move {
                    let large = 64 << 20;
                    let mut grpc = tonic::server::Grpc::new(Codec::default())
                        .apply_max_message_size_config(Some(large), Some(large));
                    Ok::<_, Infallible>(match request.uri().path() {
                        "/kit.Notes/One" => grpc.unary(methods, request).await,
                        "/kit.Notes/Chat" => grpc.streaming(methods, request).await,
                        _ => Status::unimplemented("no such method").into_http(),
                    })
                }
            });
            let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.max_frame_size(1 << 20).serve_connection(TokioIo::new(socket), call).await;
        });
    }
}

/// A caller.
pub struct Caller(Grpc<Channel>);

impl Caller {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Caller {
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Caller(Grpc::new(channel).max_decoding_message_size(64 << 20))
    }

    /// Calls the method with one note for one.
    pub async fn one(&mut self, request: Request<Note>) -> Result<Response<Note>, Status> {
        self.call("/kit.Notes/One", request).await
    }

    /// The same of any method.
    pub async fn call(
        &mut self,
        path: &'static str,
        request: Request<Note>,
    ) -> Result<Response<Note>, Status> {
        self.0.ready().await.map_err(|e| Status::unknown(e.to_string()))?;
        self.0.unary(request, PathAndQuery::from_static(path), Codec::default()).await
    }

    /// Begins a conversation: what is sent there is sent, what comes back is read.
    pub async fn chat(
        &mut self,
    ) -> (mpsc::UnboundedSender<Note>, impl Future<Output = Result<Response<Streaming<Note>>, Status>> + '_)
    {
        let (send, notes) = mpsc::unbounded_channel();
        let notes = stream::unfold(notes, |mut notes| async move { Some((notes.recv().await?, notes)) });
        self.0.ready().await.unwrap();
        let path = PathAndQuery::from_static("/kit.Notes/Chat");
        (send, self.0.streaming(Request::new(notes), path, Codec::default()))
    }
}
