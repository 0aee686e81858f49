//! One exchange as it is told to whoever observes: plain values, whatever engine had it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// What is known of a request when it is over. What is not known is empty.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// When it was over.
    pub ended: Instant,
    /// Its id.
    pub request_id: &'a [u8],
    /// Of the trace it is part of; 0: none.
    pub trace_id: u128,
    /// Nothing in the id has to be escaped: it was made here.
    pub own_id: bool,
    /// The believed client address.
    pub client: Option<IpAddr>,
    /// The same as text, where it is there already.
    pub client_text: &'a [u8],
    /// The method.
    pub method: &'a str,
    /// The Host field as sent.
    pub host: &'a [u8],
    /// The path as it was routed by, or as received where it could not be normalised.
    pub path: &'a [u8],
    /// Without its `?`.
    pub query: &'a [u8],
    /// `HTTP/1.1`.
    pub version: &'static str,
    /// The status of the answer; 499: the client went away first.
    pub status: u16,
    /// Content received, in bytes.
    pub bytes_in: u64,
    /// Content sent, in bytes.
    pub bytes_out: u64,
    /// From the complete head to the end.
    pub duration: Duration,
    /// From the beginning of the last attempt to the head of its answer, or to its failure.
    pub upstream_duration: Option<Duration>,
    /// The route, as a JSON string and as it is.
    pub route: Option<&'a Name>,
    /// The upstream.
    pub upstream: Option<&'a Name>,
    /// The target of the last attempt; none, and empty, when there was none.
    pub target: &'a str,
    /// Attempts made.
    pub attempts: usize,
    /// Whether the last one went over a connection that was there.
    pub reused: bool,
    /// Who asked, as they are called here; empty: nobody wanted to know, or nobody knows.
    pub consumer: &'a str,
    /// What became of a call of gRPC.
    pub grpc_status: Option<u32>,
    /// `TLSv1.3`; empty where there is none.
    pub tls: &'static str,
    /// The User-Agent field.
    pub user_agent: &'a [u8],
    /// The Referer field.
    pub referer: &'a [u8],
    /// Why the gateway refused it or answered in place of an upstream.
    pub error: Option<&'static str>,
    /// What else is known of that, for the operator.
    pub detail: &'a str,
}

impl Default for Exchange<'_> {
    /// One of which nothing is known but that it is over now.
    fn default() -> Self {
        Exchange {
            ended: Instant::now(),
            request_id: b"",
            trace_id: 0,
            own_id: false,
            client: None,
            client_text: b"",
            method: "",
            host: b"",
            path: b"",
            query: b"",
            version: "",
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            upstream_duration: None,
            route: None,
            upstream: None,
            target: "",
            attempts: 0,
            reused: false,
            consumer: "",
            grpc_status: None,
            tls: "",
            user_agent: b"",
            referer: b"",
            error: None,
            detail: "",
        }
    }
}

/// A name of the configuration, ready to be written.
#[derive(Debug, PartialEq, Eq)]
pub struct Name {
    /// As it is.
    pub plain: Box<str>,
    /// As a JSON string, with its quotes (RFC 8259 §7).
    pub json: Box<str>,
}

impl Name {
    /// Of this text.
    pub fn new(plain: &str) -> Self {
        Name { plain: plain.into(), json: serde_json::Value::from(plain).to_string().into() }
    }
}

/// Milliseconds since 1970.
pub fn unix_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
