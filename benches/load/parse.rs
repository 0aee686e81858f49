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
    Ok(Load { requests, per_second, latency: None, errors })
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

fn count_error(errors: &mut BTreeMap<String, u64>, kind: &str, count: u64) {
    if count > 0 {
        *errors.entry(kind.to_owned()).or_default() += count;
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| format!("wrk: {text:?} is no number"))
}
