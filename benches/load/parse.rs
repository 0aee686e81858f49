//! What the load generators print, and every error in it. `tests/load_report.rs` reads recorded outputs with it.

use std::collections::BTreeMap;

/// One run of a load generator.
#[derive(Debug, Default, PartialEq)]
pub struct Load {
    /// Answers, errors' too.
    pub requests: u64,
    pub per_second: f64,
    /// Only of an open loop.
    pub latency: Option<Latency>,
    /// Only of new TLS connections.
    pub handshakes: Option<Handshakes>,
    /// By their kind; empty is good.
    pub errors: BTreeMap<String, u64>,
}

/// Milliseconds from the time a request was due until its answer was there.
#[derive(Debug, PartialEq)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

/// How many handshakes were what, those before the clock as well.
#[derive(Debug, PartialEq)]
pub struct Handshakes {
    pub full: u64,
    pub resumed: u64,
}

/// The summary of wrk 4.
pub fn wrk(text: &str) -> Result<Load, String> {
    let lines = || text.lines().map(str::trim);
    let requests = lines().find_map(|l| l.split_once(" requests in ")?.0.parse().ok());
    let per_second = lines().find_map(|l| l.strip_prefix("Requests/sec:")?.trim().parse().ok());
    let (Some(requests), Some(per_second)) = (requests, per_second) else {
        return Err(format!("wrk printed no summary: {}", text.trim()));
    };
    let mut errors = BTreeMap::new();
    for line in lines() {
        if let Some(kinds) = line.strip_prefix("Socket errors:") {
            // connect 0, read 12, write 0, timeout 3
            for kind in kinds.split(',') {
                let (name, count) = kind.trim().split_once(' ').ok_or_else(|| format!("wrk: {line}"))?;
                count_error(&mut errors, &format!("socket: {name}"), number(count)?);
            }
        } else if let Some(count) = line.strip_prefix("Non-2xx or 3xx responses:") {
            count_error(&mut errors, "status not 2xx or 3xx", number(count)?);
        }
    }
    if requests == 0 {
        count_error(&mut errors, "no answer at all", 1);
    }
    Ok(Load { requests, per_second, errors, ..Load::default() })
}

/// The JSON of oha 1.x.
pub fn oha(text: &str) -> Result<Load, String> {
    let all: serde_json::Value =
        serde_json::from_str(text).map_err(|e| format!("oha printed no JSON: {e}"))?;
    let mut load = Load::default();
    for (status, count) in all["statusCodeDistribution"].as_object().into_iter().flatten() {
        let count = count.as_u64().ok_or("oha: a status without a count")?;
        load.requests += count;
        if status != "200" {
            count_error(&mut load.errors, &format!("status {status}"), count);
        }
    }
    for (error, count) in all["errorDistribution"].as_object().into_iter().flatten() {
        count_error(&mut load.errors, error, count.as_u64().ok_or("oha: an error without a count")?);
    }
    let total = all["summary"]["total"].as_f64().filter(|t| *t > 0.0).ok_or("oha: no total time")?;
    load.per_second = load.requests as f64 / total;
    let milliseconds = |key: &str| all["latencyPercentiles"][key].as_f64().map(|s| s * 1000.0);
    load.latency = match (milliseconds("p50"), milliseconds("p99"), milliseconds("p99.9")) {
        (Some(p50), Some(p99), Some(p999)) => Some(Latency { p50, p99, p999 }),
        _ => None,
    };
    if load.requests == 0 {
        count_error(&mut load.errors, "no answer at all", 1);
    }
    Ok(load)
}

/// The summary of h2load 1.x with `--duration`, which must have spoken HTTP/2 over TLS 1.3 with this suite.
pub fn h2load(text: &str, suite: &str) -> Result<Load, String> {
    let value = |key: &str| text.lines().find_map(|l| l.trim().strip_prefix(key)).map(str::trim);
    let (Some(finished), Some(requests), Some(statuses)) =
        (value("finished in"), value("requests:"), value("status codes:"))
    else {
        return Err(format!("h2load printed no summary: {}", text.trim()));
    };
    // "2.00s, 240685.50 req/s, 15.61MB/s"
    let per_second = finished.split(", ").find_map(|p| p.strip_suffix(" req/s")?.parse().ok());
    let mut load = Load { per_second: per_second.ok_or("h2load: no rate")?, ..Load::default() };
    for part in requests.split(", ").chain(statuses.split(", ")) {
        let (count, kind) = part.split_once(' ').ok_or_else(|| format!("h2load: {part:?}"))?;
        let count = count.parse().map_err(|_| format!("h2load: {count:?} is no number"))?;
        match kind {
            "done" => load.requests = count,
            // Whatever was in flight at the end is started and not done.
            "total" | "started" | "succeeded" | "2xx" => {}
            _ => count_error(&mut load.errors, kind, count),
        }
    }
    for (key, wanted) in [("TLS Protocol:", "TLSv1.3"), ("Cipher:", suite), ("Application protocol:", "h2")] {
        let found = value(key).unwrap_or("nothing");
        if found != wanted {
            count_error(&mut load.errors, &format!("{key} {found}, not {wanted}"), 1);
        }
    }
    if load.requests == 0 {
        count_error(&mut load.errors, "no answer at all", 1);
    }
    Ok(load)
}

/// The line of `dial.rs`. A handshake of another kind than what was to be measured is an error like any other.
pub fn dial(text: &str) -> Result<Load, String> {
    let all: serde_json::Value =
        serde_json::from_str(text).map_err(|e| format!("the dialler printed no JSON: {e}"))?;
    let count = |key: &str| all[key].as_u64().ok_or_else(|| format!("the dialler told no {key}"));
    let (connections, primers) = (count("connections")?, count("primers")?);
    let (full, resumed, retried) = (count("full")?, count("resumed")?, count("retried")?);
    let seconds = all["seconds"].as_f64().filter(|s| *s > 0.0).ok_or("the dialler told no time")?;
    let mut load = Load {
        requests: connections + primers,
        per_second: connections as f64 / seconds,
        handshakes: Some(Handshakes { full: full + primers, resumed }),
        ..Load::default()
    };
    for (error, count) in all["errors"].as_object().into_iter().flatten() {
        count_error(&mut load.errors, error, count.as_u64().ok_or("the dialler: an error without a count")?);
    }
    let expected = match all["expected"].as_str() {
        Some("plain") => {
            load.handshakes = None;
            0
        }
        Some("full") => full,
        Some("resumed") => resumed,
        other => return Err(format!("the dialler expected {other:?}")),
    };
    count_error(&mut load.errors, "handshakes of another kind", full + resumed + retried - expected);
    if load.handshakes.is_some() {
        count_error(
            &mut load.errors,
            "connections without a handshake",
            connections.saturating_sub(full + resumed + retried),
        );
    }
    if connections == 0 {
        count_error(&mut load.errors, "no answer at all", 1);
    }
    Ok(load)
}

fn count_error(errors: &mut BTreeMap<String, u64>, kind: &str, count: u64) {
    if count > 0 {
        *errors.entry(kind.to_owned()).or_default() += count;
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| format!("wrk: {text:?} is no number"))
}
