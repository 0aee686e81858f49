//! How the gateway is, as one document: `/status`, the dashboard's events and `portcullis status` show the same.
//!
//! Counters count from the start of the process; who wants rates takes the difference of two documents, and begins anew
//! when `pid` has changed. Times are milliseconds since 1970.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How the gateway is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// When this was written down.
    pub time_ms: u64,
    /// `serving`, `upgrading`, `drained`, `handed over` or `leaving`.
    pub state: String,
    /// What `/health/ready` says.
    pub ready: bool,
    /// Of the binary that runs.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the start of this process.
    pub uptime_seconds: u64,
    /// Which snapshot of the configuration serves; counts on over upgrades.
    pub generation: u64,
    /// Where it listens.
    pub listeners: Vec<String>,
    /// Client connections.
    pub connections: usize,
    /// Connections accepted.
    pub accepted: u64,
    /// Requests in flight, tunnels included.
    pub requests: usize,
    /// Requests since the start of this process, and those of them answered with a 5xx of the gateway's own.
    pub answered: u64,
    /// See `answered`.
    pub faults: u64,
    /// The process before this one, while it is still there.
    pub predecessor: Option<u32>,
    /// Whether it would take over again.
    pub predecessor_takes_over: bool,
    /// Upper bounds of the buckets of all durations, in milliseconds; the last bucket has none.
    pub bounds_ms: Vec<f64>,
    /// How many routes are configured; of thousands only those are listed that had requests.
    pub routes_total: usize,
    /// The routes in the order of the file, and the one without a name for requests that none took.
    pub routes: Vec<RouteStatus>,
    /// The upstreams in the order of the file.
    pub upstreams: Vec<UpstreamStatus>,
    /// Certificates, with their expiry.
    pub certificates: Vec<Certificate>,
    /// The latest refused requests, newest first; under a flood some of each second.
    pub refusals: Vec<Refusal>,
    /// The latest starts, reloads, upgrades and drains, newest first.
    pub history: Vec<Event>,
    /// The access log.
    pub access_log: Written,
    /// Exported spans.
    pub spans: Written,
}

/// A route.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteStatus {
    /// Its name; empty for what no route took.
    pub name: String,
    /// What it takes, such as `GET api.example.com/orders`.
    pub matches: String,
    /// The upstreams it sends requests to; none for redirects and fixed answers.
    pub upstreams: Vec<String>,
    /// Requests in flight.
    pub in_flight: u64,
    /// Answers by class of status: 1xx, 2xx, 3xx, 4xx, 5xx.
    pub codes: [u64; 5],
    /// Refused requests by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Durations.
    pub durations: Durations,
}

/// How long something took.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Durations {
    /// How many fell into each bucket (not cumulated); one more than `bounds_ms`.
    pub buckets: Vec<u64>,
    /// All of them together, in milliseconds.
    pub sum_ms: f64,
}

/// An upstream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamStatus {
    /// Its name, or its URL.
    pub name: String,
    /// How a target is chosen.
    pub balance: String,
    /// Whether targets are checked; without checks all count as healthy.
    pub checked: bool,
    /// Its targets.
    pub targets: Vec<TargetStatus>,
    /// What is wrong with its names, a line each.
    pub trouble: Vec<String>,
    /// Connections made for a request.
    pub connections_new: u64,
    /// Requests over a connection that was there.
    pub connections_reused: u64,
    /// Requests that wait for the head of an answer.
    pub waiting: usize,
    /// How many may, as measured; a very large number while nothing is wrong, none where nothing is measured.
    pub concurrency_limit: Option<usize>,
    /// Further attempts by reason.
    pub retries: BTreeMap<String, u64>,
    /// From the beginning of an attempt to the head of its answer.
    pub durations: Durations,
}

/// A target of an upstream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetStatus {
    /// Where it listens.
    pub address: String,
    /// Its share.
    pub weight: usize,
    /// `healthy`, `unhealthy` or `unchecked`.
    pub health: String,
    /// Since when it is.
    pub since_ms: Option<u64>,
    /// Until when it gets no requests for its errors; ejection is not built yet.
    pub ejected_until_ms: Option<u64>,
    /// When it was checked last.
    pub checked_ms: Option<u64>,
    /// Why that check failed, if it did.
    pub check_error: Option<String>,
    /// Requests in flight.
    pub in_flight: u64,
}

/// A certificate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificate {
    /// The names it is for.
    pub names: Vec<String>,
    /// When it is valid no more.
    pub expires_ms: u64,
    /// Where it is.
    pub file: String,
}

/// A refused request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Refusal {
    /// When.
    pub time_ms: u64,
    /// The machine-readable reason, as in the problem body.
    pub reason: String,
    /// The status it was answered with; 499: nobody was left to answer.
    pub status: u16,
    /// Its route, if one was found.
    pub route: String,
    /// Its method, if it could be read.
    pub method: String,
    /// Its path without the query, cut when it is long.
    pub path: String,
    /// Its id.
    pub request_id: String,
}

/// Something that happened to the process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// When.
    pub time_ms: u64,
    /// `start`, `reload`, `upgrade`, `drain`, `undrain`.
    pub kind: String,
    /// Whether it was done.
    pub ok: bool,
    /// What it came to, or every reason why not.
    pub text: String,
}

/// What is written elsewhere without anybody waiting for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Written {
    /// Written.
    pub written: u64,
    /// Given up because there was no room, or the other side did not take it.
    pub dropped: u64,
}
