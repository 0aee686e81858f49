//! Spans on their way to a collector, by OTLP: gRPC, or protobuf over HTTP.
//!
//! Whoever has a span puts it into a bounded queue and goes on: a collector that is slow, fails or is not there never makes
//! a request wait. What finds no room is dropped and counted. What the collector did not take is counted too and not kept,
//! beyond the retries of one export that OTLP asks for; a collector that fails is left alone for growing pauses.
//!
//! It refuses to let the environment have a say: of `OTEL_EXPORTER_OTLP_*`, `OTEL_RESOURCE_ATTRIBUTES` and
//! `OTEL_SERVICE_NAME` nothing is used, although the library would; nor is a proxy. It refuses TLS, and it changes nothing
//! that belongs to the whole process: there is no global tracer.

use async_trait::async_trait;
use http::header::{HeaderMap, HeaderName, HeaderValue, CONTENT_TYPE, USER_AGENT};
use log::{info, warn};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::resource::{Resource, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch, Notify};
use tokio::time::{sleep_until, timeout, timeout_at, Instant};
use tonic::metadata::MetadataMap;
use tonic::transport::Endpoint;

/// How many spans may wait to be exported.
pub const ROOM: usize = 2048;
/// How many spans go in one request.
const BATCH: usize = 512;
/// For how long spans are gathered into a batch.
const GATHER: Duration = Duration::from_secs(1);
/// The pause after the first failure; it doubles with every further one.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The name of the instrumentation scope of all spans.
const SCOPE: &str = "portcullis";
/// What a collector is told of who is speaking.
const AGENT: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"));
/// The path that OTLP has for traces over HTTP.
const TRACES: &str = "/v1/traces";

/// How spans are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP/1.1, as protobuf.
    Http,
}

/// Where spans go, as configured.
#[derive(Clone, PartialEq, Eq)]
pub struct Spec {
    /// `http://host:port`; for HTTP with a path where it is not `/v1/traces`.
    pub endpoint: String,
    /// How they are sent.
    pub protocol: Protocol,
    /// The resource's `service.name`.
    pub service_name: String,
    /// Header fields (gRPC: metadata) of every request.
    pub headers: Vec<(String, String)>,
    /// The longest that one export may last, its retries with it.
    pub timeout: Duration,
}

impl std::fmt::Debug for Spec {
    /// Without the values of the headers, which may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        let Spec { endpoint, protocol, service_name, timeout, .. } = self;
        f.debug_struct("Spec")
            .field("endpoint", endpoint)
            .field("protocol", protocol)
            .field("service_name", service_name)
            .field("headers", &headers)
            .field("timeout", timeout)
            .finish()
    }
}

/// What became of the spans so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// The collector has them.
    pub exported: u64,
    /// The queue had no room for them.
    pub dropped: u64,
    /// The collector did not take them.
    pub failed: u64,
}

/// Takes spans on any thread, and has them exported by the one task that runs [`Exporter::run`].
pub struct Exporter {
    shared: Arc<Shared>,
}

impl Exporter {
    /// Makes one; it does nothing yet and needs no runtime.
    pub fn new(spec: Spec) -> Exporter {
        let (entrance, exit) = mpsc::channel(ROOM);
        let shared = Shared {
            spec,
            entrance,
            exit: Mutex::new(exit),
            waiting: AtomicIsize::new(0),
            bell: Notify::new(),
            closing: AtomicBool::new(false),
            under_way: watch::Sender::new(0),
            exported: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            due: Mutex::new(None),
            failing: Mutex::new(None),
        };
        Exporter { shared: Arc::new(shared) }
    }

    /// What it was made of.
    pub fn spec(&self) -> &Spec {
        &self.shared.spec
    }

    /// Puts a span into the queue, or drops and counts it where that is full; never waits. Its instrumentation scope is
    /// set when it is exported: `InstrumentationScope::default()` will do.
    pub fn send(&self, span: SpanData) {
        let shared = &*self.shared;
        if shared.entrance.try_send(span).is_err() {
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // Counted when it is in, so that whatever is counted can be taken.
        let before = shared.waiting.fetch_add(1, Ordering::Relaxed);
        // Waking a thread is the dearest part, and nobody sleeps through anything else.
        if before == 0 || before + 1 == BATCH as isize {
            shared.bell.notify_one();
        }
    }

    /// What became of the spans so far.
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// The one background task, for a Tokio runtime with time and I/O: exports what is queued, in batches. It does not
    /// keep the exporter: once that is dropped, and what was queued exported or given up, it ends. Thus another exporter
    /// can take over at any time, and the spans of requests that still have the old one are not lost.
    ///
    /// It may be dropped at any time: another `run` goes on where it was, pauses included, and what is queued stays so. An
    /// export that is under way comes to its end all the same and is counted, as long as the runtime lives.
    pub fn run(&self) -> impl Future<Output = ()> + Send + 'static {
        run(Arc::clone(&self.shared))
    }

    /// Exports what is queued and waits for what is under way, for so long at the most; whatever `run` does meanwhile.
    /// What a collector does not take is given up, as ever.
    pub async fn flush(&self, patience: Duration) {
        let shared = &self.shared;
        let all = async {
            let mut link = None;
            while let Some(batch) = Shared::take(shared) {
                link = deliver(batch, link).await;
            }
            let _ = shared.under_way.subscribe().wait_for(|batches| *batches == 0).await;
        };
        if timeout(patience, all).await.is_err() {
            let waiting = shared.waiting.load(Ordering::Relaxed).max(0);
            let (batches, endpoint) = (*shared.under_way.borrow(), &shared.spec.endpoint);
            warn!(
                "spans for {endpoint}: {waiting} waiting and {batches} batches under way after {patience:?}"
            );
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.bell.notify_one();
    }
}

struct Shared {
    spec: Spec,
    entrance: mpsc::Sender<SpanData>,
    exit: Mutex<mpsc::Receiver<SpanData>>,
    /// How many spans are in the queue; below that number for the moment that a sender needs to count.
    waiting: AtomicIsize,
    /// Rung when the queue is no longer empty, has a batch, or gets no more.
    bell: Notify,
    /// The exporter is gone.
    closing: AtomicBool,
    /// Batches that were taken and have no outcome yet.
    under_way: watch::Sender<usize>,
    exported: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    /// When the batch that is gathered goes. This and the next are here and not in the task, so that they hold for another
    /// one that goes on.
    due: Mutex<Option<Instant>>,
    /// While the collector fails.
    failing: Mutex<Option<Failing>>,
}

struct Failing {
    /// How many spans had been lost before.
    lost: u64,
    /// The present pause, and when it is over.
    pause: Duration,
    over: Instant,
}

impl Shared {
    /// Waits for a span; false: there will be none.
    async fn first(&self) -> bool {
        loop {
            // In this order: nothing is sent any more when it closes.
            let closing = self.closing.load(Ordering::Acquire);
            if self.waiting.load(Ordering::Relaxed) > 0 {
                return true;
            }
            if closing {
                return false;
            }
            self.bell.notified().await;
        }
    }

    /// Waits for a batch, or as long as spans are gathered.
    async fn gather(&self) {
        let due = *lock(&self.due).get_or_insert_with(|| Instant::now() + GATHER);
        while self.waiting.load(Ordering::Relaxed) < BATCH as isize && !self.closing.load(Ordering::Acquire) {
            if timeout_at(due, self.bell.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Waits until no export is under way, be it one that an earlier task left, and the collector may be asked again.
    async fn turn(&self) {
        let _ = self.under_way.subscribe().wait_for(|batches| *batches == 0).await;
        let over = lock(&self.failing).as_ref().map(|failing| failing.over);
        if let Some(over) = over {
            sleep_until(over).await;
        }
    }

    /// Takes a batch from the queue; none when that is empty.
    fn take(shared: &Arc<Shared>) -> Option<Batch> {
        let mut exit = lock(&shared.exit);
        let mut spans = Vec::new();
        while spans.len() < BATCH {
            let Ok(mut span) = exit.try_recv() else { break };
            span.instrumentation_scope =
                InstrumentationScope::builder(SCOPE).with_version(env!("CARGO_PKG_VERSION")).build();
            spans.push(span);
        }
        if spans.is_empty() {
            return None;
        }
        *lock(&shared.due) = None;
        shared.waiting.fetch_sub(spans.len() as isize, Ordering::Relaxed);
        // Under the lock: whoever finds the queue empty finds this under way.
        shared.under_way.send_modify(|batches| *batches += 1);
        Some(Batch { size: spans.len() as u64, spans, taken: false, shared: Arc::clone(shared) })
    }

    fn counts(&self) -> Counts {
        Counts {
            exported: self.exported.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    /// Notes whether the collector works, and says in the log when that changes; not each time.
    fn tell(&self, outcome: Result<(), &str>) {
        let mut failing = lock(&self.failing);
        // Under the lock, so that it is never less than what was noted before.
        let Counts { dropped, failed, .. } = self.counts();
        let (lost, endpoint) = (dropped + failed, &self.spec.endpoint);
        match (outcome, failing.as_mut()) {
            (Err(reason), None) => {
                *failing = Some(Failing { lost, pause: PAUSE, over: Instant::now() + PAUSE });
                warn!("spans do not reach {endpoint}: {reason}");
            }
            (Err(_), Some(still)) => {
                still.pause = (still.pause * 2).min(LONGEST_PAUSE);
                still.over = Instant::now() + still.pause;
            }
            (Ok(()), Some(before)) => {
                info!("spans reach {endpoint} again; {} were lost", lost - before.lost);
                *failing = None;
            }
            (Ok(()), None) => {}
        }
    }
}

/// Spans out of the queue. They are counted when it is dropped, so that none is forgotten, whatever ends their export.
struct Batch {
    shared: Arc<Shared>,
    spans: Vec<SpanData>,
    size: u64,
    /// The collector has them.
    taken: bool,
}

impl Drop for Batch {
    fn drop(&mut self) {
        let count = if self.taken { &self.shared.exported } else { &self.shared.failed };
        count.fetch_add(self.size, Ordering::Relaxed);
        self.shared.under_way.send_modify(|batches| *batches -= 1);
    }
}

async fn run(shared: Arc<Shared>) {
    let mut link = None;
    while shared.first().await {
        shared.gather().await;
        shared.turn().await;
        let Some(batch) = Shared::take(&shared) else { continue };
        link = deliver(batch, link).await;
    }
}

/// Exports a batch over this link or a new one, and gives back the one that worked.
async fn deliver(batch: Batch, link: Option<Link>) -> Option<Link> {
    let shared = Arc::clone(&batch.shared);
    // In a task of its own: it goes on when nobody waits for it any more, and a panic of the library stays in it.
    let task = tokio::spawn(export(batch, link));
    task.await.unwrap_or_else(|_| {
        shared.tell(Err("the export panicked"));
        None
    })
}

async fn export(mut batch: Batch, link: Option<Link>) -> Option<Link> {
    let shared = Arc::clone(&batch.shared);
    let outcome = attempt(&shared.spec, link, std::mem::take(&mut batch.spans)).await;
    batch.taken = outcome.is_ok();
    shared.tell(outcome.as_ref().map(|_| ()).map_err(String::as_str));
    outcome.ok()
}

/// A link that failed is given up with its connection: one that is dead, or waits for a host that is not there, would be
/// used again and again.
async fn attempt(spec: &Spec, link: Option<Link>, spans: Vec<SpanData>) -> Result<Link, String> {
    let link = link.map_or_else(|| Link::new(spec), Ok)?;
    // The library's own would leave out the time that connecting takes (gRPC), and start anew with each retry.
    match timeout(spec.timeout, link.exporter.export(spans)).await {
        Ok(Ok(())) => Ok(link),
        Ok(Err(error)) => Err(link.reason(error)),
        Err(_) => Err(format!("no answer within {:?}", spec.timeout)),
    }
}

/// A way to the collector. It belongs to the runtime that it was made in.
struct Link {
    exporter: opentelemetry_otlp::SpanExporter,
    /// What went wrong last on an HTTP connection.
    trouble: Trouble,
}

type Trouble = Arc<Mutex<Option<String>>>;

impl Link {
    fn new(spec: &Spec) -> Result<Link, String> {
        let (headers, trouble) = (headers(spec)?, Trouble::default());
        let mut exporter = match spec.protocol {
            Protocol::Grpc => grpc(spec, headers),
            Protocol::Http => http(spec, headers, Arc::clone(&trouble)),
        }?;
        exporter.set_resource(&resource(spec));
        Ok(Link { exporter, trouble })
    }

    /// Why an export failed; the library keeps an HTTP connection's error to itself.
    fn reason(&self, error: OTelSdkError) -> String {
        let said = match error {
            OTelSdkError::InternalFailure(reason) => reason,
            other => other.to_string(),
        };
        lock(&self.trouble).take().unwrap_or(said)
    }
}

fn grpc(spec: &Spec, headers: HeaderMap) -> Result<opentelemetry_otlp::SpanExporter, String> {
    let endpoint = Endpoint::from_shared(spec.endpoint.clone()).and_then(|e| e.user_agent(AGENT));
    // Only connecting could go on after `attempt` has lost its patience.
    let endpoint = endpoint.map_err(|e| chain(&e))?.connect_timeout(spec.timeout);
    let metadata = MetadataMap::from_headers(headers);
    // The last word on the metadata: the library puts the environment's over what is configured with it.
    let only_ours = move |mut request: tonic::Request<()>| {
        *request.metadata_mut() = metadata.clone();
        Ok(request)
    };
    let builder = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_timeout(spec.timeout);
    let builder = builder.with_channel(endpoint.connect_lazy()).with_interceptor(only_ours);
    builder.build().map_err(|e| e.to_string())
}

fn http(
    spec: &Spec,
    headers: HeaderMap,
    trouble: Trouble,
) -> Result<opentelemetry_otlp::SpanExporter, String> {
    let hyper = HyperClient::with_default_connector(Duration::MAX, None); // `attempt` has the timeout
    let builder = opentelemetry_otlp::SpanExporter::builder().with_http().with_timeout(spec.timeout);
    let builder = builder.with_http_client(Client { hyper, headers, trouble });
    // Said explicitly, else the environment is asked.
    let builder = builder.with_protocol(opentelemetry_otlp::Protocol::HttpBinary);
    builder.with_endpoint(traces_url(&spec.endpoint)).build().map_err(|e| e.to_string())
}

/// An HTTP client that sends the configured header fields and no others.
#[derive(Debug)]
struct Client {
    hyper: HyperClient,
    headers: HeaderMap,
    trouble: Trouble,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The library puts the environment's over what is configured with it, and over its own.
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        let answer = self.hyper.send_bytes(request).await;
        *lock(&self.trouble) = answer.as_ref().err().map(|e| chain(e.as_ref()));
        answer
    }
}

fn headers(spec: &Spec) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in &spec.headers {
        let key = HeaderName::try_from(name).map_err(|_| format!("{name:?} is no name of a header"))?;
        let mut value =
            HeaderValue::try_from(value).map_err(|_| format!("{name} has no value to be sent"))?;
        value.set_sensitive(true); // mostly credentials: not for the table that HTTP/2 compresses with
        headers.append(key, value);
    }
    Ok(headers)
}

fn resource(spec: &Spec) -> Resource {
    // Not `Resource::builder()`: that one reads the environment.
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_service_name(spec.service_name.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build()
}

/// The endpoint with OTLP's own path where it has none.
fn traces_url(endpoint: &str) -> String {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    match rest.split_once('/') {
        Some((_, path)) if !path.is_empty() => endpoint.to_owned(),
        _ => format!("{}{TRACES}", endpoint.trim_end_matches('/')),
    }
}

/// An error with what caused it.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    let mut texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.dedup(); // some say only what their cause says
    texts.join(": ")
}

/// No panic leaves what these guard half changed.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
