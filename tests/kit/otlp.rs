//! A collector for tests: takes spans by OTLP, keeps what it took, and refuses or hangs as a test says.
//!
//! Built on the published protobufs and on hyper; it shares no code with what is tested.

#![allow(dead_code)] // each test file uses its part of it

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{oneshot, watch};
use tonic::codegen::Service;

/// A span as it arrived, with what came around it.
#[derive(Debug, Clone)]
pub struct Received {
    /// The attributes of its resource.
    pub resource: BTreeMap<String, String>,
    /// The name of its instrumentation scope.
    pub scope: String,
    /// The span itself.
    pub span: Span,
    /// The fields of the request that brought it, names in lower case; several values with `, ` between them.
    pub headers: BTreeMap<String, String>,
    /// The path of that request.
    pub path: String,
    /// Which request that was, counted from 1.
    pub request: usize,
}

impl Received {
    /// The value of an attribute of the span, as text.
    pub fn attribute(&self, key: &str) -> Option<String> {
        texts(&self.span.attributes).remove(key)
    }
}

/// Attributes as text: numbers in decimal, what is neither text nor number nor truth in the form of a debugger.
pub fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|v| v.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|a| (a.key.clone(), text(a))).collect()
}

/// An address that refuses every connection until a collector is started at it; nobody else gets the port meanwhile.
pub struct Absent(TcpSocket, SocketAddr);

impl Absent {
    /// Takes an address.
    pub fn new() -> Absent {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        Absent(socket, address)
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.1)
    }

    /// A collector for gRPC at the address.
    pub fn start_grpc(self) -> Receiver {
        Receiver::start(self, Speech::Grpc)
    }

    /// A collector for HTTP at the address.
    pub fn start_http(self) -> Receiver {
        Receiver::start(self, Speech::Http)
    }
}

#[derive(Clone, Copy)]
enum Speech {
    Grpc,
    Http,
}

/// A running collector; it ends when it is dropped, with its connections.
pub struct Receiver {
    url: String,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    refuse: AtomicBool,
    hang: watch::Sender<bool>,
    requests: AtomicUsize,
    spans: Mutex<Vec<Received>>,
}

impl Receiver {
    /// One that speaks gRPC.
    pub fn start_grpc() -> Receiver {
        Absent::new().start_grpc()
    }

    /// One that speaks HTTP/1.1 with protobuf.
    pub fn start_http() -> Receiver {
        Absent::new().start_http()
    }

    fn start(at: Absent, speech: Speech) -> Receiver {
        let (url, state) = (at.url(), Arc::new(State::default()));
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let theirs = Arc::clone(&state);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = at.0.listen(64).unwrap();
                ready.send(()).unwrap();
                tokio::select! {
                    () = accept(listener, theirs, speech) => {}
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().unwrap();
        Receiver { url, state, stop: Some(stop), thread: Some(thread) }
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it took so far, in order.
    pub fn spans(&self) -> Vec<Received> {
        self.state.spans.lock().unwrap().clone()
    }

    /// How many requests came, whatever became of them.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// From now on it refuses: UNAVAILABLE, or 503. Or no more.
    pub fn refuse(&self, refuse: bool) {
        self.state.refuse.store(refuse, Ordering::SeqCst);
    }

    /// From now on it answers nothing. Or it goes on, with those requests first that wait.
    pub fn hang(&self, hang: bool) {
        self.state.hang.send_replace(hang);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the collector of the test panicked");
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, speech: Speech) {
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        tokio::spawn(serve(connection, Arc::clone(&state), speech));
    }
}

/// A connection that breaks is the client's affair.
async fn serve(connection: TcpStream, state: Arc<State>, speech: Speech) {
    let io = TokioIo::new(connection);
    match speech {
        Speech::Grpc => {
            let answer = service_fn(move |request: Request<Incoming>| {
                let export = Export::new(&state, &request);
                async move { TraceServiceServer::new(export).call(request).await }
            });
            let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, answer).await;
        }
        Speech::Http => {
            let answer = service_fn(move |request: Request<Incoming>| {
                let export = Export::new(&state, &request);
                async move { Ok::<_, Infallible>(export.answer(request).await) }
            });
            let _ = http1::Builder::new().serve_connection(io, answer).await;
        }
    }
}

/// A request, before its content is known.
struct Export {
    state: Arc<State>,
    number: usize,
    path: String,
    headers: BTreeMap<String, String>,
}

impl Export {
    fn new(state: &Arc<State>, request: &Request<Incoming>) -> Export {
        let number = state.requests.fetch_add(1, Ordering::SeqCst) + 1;
        let path = request.uri().path().to_owned();
        Export { state: Arc::clone(state), number, path, headers: fields(request.headers()) }
    }

    /// Takes the spans, at last; or not.
    async fn take(&self, content: ExportTraceServiceRequest) -> Result<ExportTraceServiceResponse, Refused> {
        self.state.hang.subscribe().wait_for(|hang| !hang).await.unwrap();
        if self.state.refuse.load(Ordering::SeqCst) {
            return Err(Refused);
        }
        let mut taken = self.state.spans.lock().unwrap();
        for of_resource in content.resource_spans {
            let resource = texts(&of_resource.resource.unwrap_or_default().attributes);
            for of_scope in of_resource.scope_spans {
                let scope = of_scope.scope.unwrap_or_default().name;
                taken.extend(of_scope.spans.into_iter().map(|span| Received {
                    resource: resource.clone(),
                    scope: scope.clone(),
                    span,
                    headers: self.headers.clone(),
                    path: self.path.clone(),
                    request: self.number,
                }));
            }
        }
        Ok(ExportTraceServiceResponse::default())
    }

    /// What a collector for HTTP says (OTLP specification, "OTLP/HTTP").
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let status = |status, body: Vec<u8>| {
            let mut response = Response::new(Full::new(Bytes::from(body)));
            *response.status_mut() = status;
            response
        };
        let kind = self.headers.get("content-type").map(String::as_str);
        if request.method() != Method::POST || kind != Some("application/x-protobuf") {
            return status(StatusCode::UNSUPPORTED_MEDIA_TYPE, Vec::new());
        }
        let Ok(body) = request.into_body().collect().await else {
            return status(StatusCode::BAD_REQUEST, Vec::new());
        };
        let Ok(content) = ExportTraceServiceRequest::decode(body.to_bytes()) else {
            return status(StatusCode::BAD_REQUEST, Vec::new());
        };
        match self.take(content).await {
            Ok(response) => status(StatusCode::OK, response.encode_to_vec()),
            Err(Refused) => status(StatusCode::SERVICE_UNAVAILABLE, Vec::new()),
        }
    }
}

struct Refused;

#[tonic::async_trait]
impl TraceService for Export {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let taken = self.take(request.into_inner()).await;
        taken.map(tonic::Response::new).map_err(|Refused| tonic::Status::unavailable("as the test says"))
    }
}

fn fields(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let all: &mut String = fields.entry(name.to_string()).or_default();
        if !all.is_empty() {
            all.push_str(", ");
        }
        all.push_str(&value);
    }
    fields
}
