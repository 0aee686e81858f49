//! A recorded request as spans: one for the request, and one for each attempt at an upstream, with the attributes of
//! OpenTelemetry's semantic conventions for HTTP (1.27 and later). They are made when the request is over; before that a
//! recorded request only notes when attempts began and ended.
//!
//! Nothing secret is in them: no fields but the user agent, and queries are masked as in the access log.

use super::exchange::Exchange;
use super::mask::Secrets;
use super::trace::{new_span, Context, Tracing};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::SpanData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::SystemTime;

/// What a recorded request notes on its way.
#[derive(Debug)]
pub struct Recording {
    /// The span of the request.
    pub span: u64,
    /// `tracestate` as received; of a sound `traceparent` only.
    pub state: String,
    started: SystemTime,
    attempts: Vec<Attempt>,
}

#[derive(Debug)]
struct Attempt {
    span: u64,
    target: Server,
    secure: bool,
    started: SystemTime,
    ended: Option<SystemTime>,
    status: Option<u16>,
    error: Option<String>,
}

/// Where an attempt goes.
#[derive(Debug)]
pub enum Server {
    /// An address.
    Tcp(SocketAddr),
    /// The path of a socket.
    Unix(PathBuf),
}

impl Server {
    fn address(&self) -> String {
        match self {
            Server::Tcp(address) => address.ip().to_string(),
            Server::Unix(path) => path.display().to_string(),
        }
    }
}

impl Recording {
    /// Begins now.
    pub fn new(state: String) -> Self {
        Recording { span: new_span(), state, started: SystemTime::now(), attempts: Vec::new() }
    }

    /// Another attempt begins, at this target, over TLS or not.
    pub fn begin_attempt(&mut self, target: Server, secure: bool) {
        self.attempts.push(Attempt {
            span: new_span(),
            target,
            secure,
            started: SystemTime::now(),
            ended: None,
            status: None,
            error: None,
        });
    }

    /// The span of the present attempt.
    pub fn attempt_span(&self) -> u64 {
        self.attempts.last().map_or(self.span, |attempt| attempt.span)
    }

    /// The present attempt has an answer with this status.
    pub fn answered(&mut self, status: u16) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.status = Some(status);
        }
    }

    /// The present attempt came to nothing.
    pub fn failed(&mut self, error: &str) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.error = Some(error.to_owned());
            attempt.ended = Some(SystemTime::now());
        }
    }
}

/// Sends the spans of an exchange that is over.
pub fn send(
    tracing: &Tracing,
    secrets: &Secrets,
    context: &Context,
    recording: &Recording,
    exchange: &Exchange<'_>,
) {
    let ended = SystemTime::now();
    let request = Spans { secrets, context, recording, exchange };
    for (number, attempt) in recording.attempts.iter().enumerate() {
        tracing.exporter.send(request.attempt(number, attempt, ended));
    }
    tracing.exporter.send(request.whole(ended));
}

struct Spans<'a> {
    secrets: &'a Secrets,
    context: &'a Context,
    recording: &'a Recording,
    exchange: &'a Exchange<'a>,
}

impl Spans<'_> {
    fn whole(&self, ended: SystemTime) -> SpanData {
        let x = self.exchange;
        let route = x.route.map(|name| name.plain.to_string());
        let method = method(x.method);
        let mut attributes = vec![
            KeyValue::new("http.request.method", method.clone()),
            KeyValue::new("url.scheme", "http"),
            KeyValue::new("url.path", lossy(&self.secrets.path(x.path))),
            KeyValue::new("http.response.status_code", i64::from(x.status)),
            KeyValue::new("network.protocol.name", "http"),
            KeyValue::new("portcullis.request_id", lossy(x.request_id)),
        ];
        let mut add = |key: &'static str, value: String| {
            if !value.is_empty() {
                attributes.push(KeyValue::new(key, value));
            }
        };
        let mut query = Vec::new();
        self.secrets.write_query(x.query, &mut query);
        add("url.query", lossy(&query));
        add("network.protocol.version", protocol_version(x.version).to_owned());
        add("client.address", x.client.map(|client| client.to_string()).unwrap_or_default());
        add("user_agent.original", lossy(x.user_agent));
        let host = lossy(x.host);
        let (name, port) = split_port(&host);
        add("server.address", name.to_owned());
        add("portcullis.upstream", x.upstream.map(|name| name.plain.to_string()).unwrap_or_default());
        add("http.route", route.clone().unwrap_or_default());
        add("error.type", error_type(x));
        attributes.extend(port.map(|port| KeyValue::new("server.port", i64::from(port))));
        let status = if x.status >= 500 {
            Status::Error { description: x.error.unwrap_or_default().into() }
        } else {
            Status::Unset // a client's mistake is none of a server's span (semantic conventions, HTTP server)
        };
        if method == OTHER {
            attributes.push(KeyValue::new("http.request.method_original", lossy(x.method.as_bytes())));
        }
        let method = if method == OTHER { "HTTP".to_owned() } else { method };
        let name = route.map_or_else(|| method.clone(), |route| format!("{method} {route}"));
        let parent = self.context.parent;
        SpanData {
            parent_span_id: parent.map_or(SpanId::INVALID, |id| SpanId::from_bytes(id.to_be_bytes())),
            parent_span_is_remote: parent.is_some(),
            ..self.span(
                self.recording.span,
                SpanKind::Server,
                name,
                self.recording.started,
                ended,
                attributes,
                status,
            )
        }
    }

    fn attempt(&self, number: usize, attempt: &Attempt, ended: SystemTime) -> SpanData {
        let method = method(self.exchange.method);
        let mut attributes = vec![
            KeyValue::new("http.request.method", method.clone()),
            KeyValue::new("server.address", attempt.target.address()),
            KeyValue::new("network.peer.address", attempt.target.address()),
        ];
        match attempt.target {
            Server::Tcp(address) => {
                attributes.push(KeyValue::new("server.port", i64::from(address.port())));
                attributes.push(KeyValue::new("network.peer.port", i64::from(address.port())));
            }
            Server::Unix(_) => attributes.push(KeyValue::new("network.transport", "unix")),
        }
        attributes.push(KeyValue::new("url.full", self.url_of(attempt)));
        if number > 0 {
            attributes.push(KeyValue::new("http.request.resend_count", number as i64));
        }
        attributes.extend(attempt.status.map(|s| KeyValue::new("http.response.status_code", i64::from(s))));
        let failed_status = attempt.status.filter(|status| *status >= 400);
        let error = attempt.error.clone().or_else(|| failed_status.map(|status| status.to_string()));
        let status = match &error {
            Some(error) => Status::Error { description: error.clone().into() },
            None => Status::Unset,
        };
        attributes.extend(error.map(|error| KeyValue::new("error.type", error)));
        let ended = attempt.ended.unwrap_or(ended);
        SpanData {
            parent_span_id: SpanId::from_bytes(self.recording.span.to_be_bytes()),
            ..self.span(
                attempt.span,
                SpanKind::Client,
                if method == OTHER { "HTTP".to_owned() } else { method },
                attempt.started,
                ended,
                attributes,
                status,
            )
        }
    }

    /// What was asked of the target: as it came in, for what a rewrite makes of it is not kept.
    fn url_of(&self, attempt: &Attempt) -> String {
        let scheme = if attempt.secure { "https" } else { "http" };
        let mut url = match &attempt.target {
            Server::Tcp(address) => format!("{scheme}://{address}"),
            Server::Unix(_) => format!("{scheme}://localhost"), // no URL has a socket
        }
        .into_bytes();
        url.extend_from_slice(&self.secrets.path(self.exchange.path));
        if !self.exchange.query.is_empty() {
            url.push(b'?');
            self.secrets.write_query(self.exchange.query, &mut url);
        }
        lossy(&url)
    }

    #[allow(clippy::too_many_arguments)] // those of the record that it fills
    fn span(
        &self,
        id: u64,
        span_kind: SpanKind,
        name: String,
        start_time: SystemTime,
        end_time: SystemTime,
        attributes: Vec<KeyValue>,
        status: Status,
    ) -> SpanData {
        let state = TraceState::from_str(&self.recording.state).unwrap_or_default();
        SpanData {
            span_context: SpanContext::new(
                TraceId::from_bytes(self.context.trace_id.to_be_bytes()),
                SpanId::from_bytes(id.to_be_bytes()),
                TraceFlags::SAMPLED,
                false,
                state,
            ),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind,
            name: name.into(),
            start_time,
            end_time,
            attributes,
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status,
            instrumentation_scope: InstrumentationScope::default(), // the exporter sets it
        }
    }
}

/// What a method that is not known is called.
const OTHER: &str = "_OTHER";

/// A method that is not known is `_OTHER`, so that clients cannot make names of spans.
fn method(method: &str) -> String {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    if KNOWN.contains(&method) { method } else { OTHER }.to_owned()
}

fn error_type(x: &Exchange<'_>) -> String {
    match x.error {
        Some(error) => error.to_owned(),
        None if x.status >= 500 => x.status.to_string(),
        None => String::new(),
    }
}

fn split_port(host: &str) -> (&str, Option<u16>) {
    let split = host.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse().ok()?)));
    split.map_or((host, None), |(name, port)| (name, Some(port)))
}

/// Collectors take messages of some megabytes, and a batch has hundreds of spans.
const LONGEST: usize = 1024;

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]).into_owned()
}
/// OpenTelemetry says 2 where a log line says HTTP/2.0.
fn protocol_version(version: &str) -> &str {
    let number = version.trim_start_matches("HTTP/");
    if number == "2.0" {
        "2"
    } else {
        number
    }
}
