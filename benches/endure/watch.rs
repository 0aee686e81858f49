//! Watches the gateway from outside: memory, descriptors and threads from /proc, and every line of its log.

use super::kit::Gateway;
use super::world::World;
use std::time::{Duration, Instant};

/// Between two samples.
pub const EVERY: Duration = Duration::from_secs(2);
/// The part of the run in which allocator, pools and tables find their size.
const WARM_UP: f64 = 0.2;
/// Resident memory may differ by this between the first and the last quarter after the warm-up. The allocator's own
/// unrest is about a third of it; over an hour at 300 exchanges a second it is 10 bytes an exchange.
const RSS_MIB: f64 = 8.0;
/// The load is the same all the time, but which exchanges overlap is not.
const DESCRIPTORS: f64 = 25.0;
/// Threads for blocking work come and go with reloads.
const THREADS: f64 = 4.0;
/// Fewer samples after the warm-up say nothing.
const ENOUGH: usize = 16;

/// The gateway at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Seconds since the load began.
    pub at: f64,
    pub rss_mib: f64,
    pub descriptors: f64,
    pub threads: f64,
}

impl Sample {
    pub fn take(pid: u32, began: Instant) -> Sample {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let number = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
        };
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        Sample {
            at: began.elapsed().as_secs_f64(),
            rss_mib: number("VmRSS:") / 1024.0,
            descriptors: descriptors as f64,
            threads: number("Threads:"),
        }
    }
}

/// How one figure went: medians of the first and the last quarter after the warm-up, and the line through them all.
pub struct Trend {
    pub name: &'static str,
    pub first: f64,
    pub last: f64,
    /// By least squares, an hour.
    pub slope: f64,
    pub tolerance: f64,
}

impl Trend {
    pub fn grows(&self) -> bool {
        self.last > self.first + self.tolerance
    }
}

/// The trends; none when the run was too short to see any.
pub fn trends(samples: &[Sample]) -> Vec<Trend> {
    let end = samples.last().map_or(0.0, |s| s.at);
    let warm: Vec<Sample> = samples.iter().copied().filter(|s| s.at >= end * WARM_UP).collect();
    if warm.len() < ENOUGH {
        return Vec::new();
    }
    let trend = |name, figure: fn(&Sample) -> f64, tolerance| {
        let quarter = warm.len() / 4;
        let first = median(warm[..quarter].iter().map(figure).collect());
        let last = median(warm[warm.len() - quarter..].iter().map(figure).collect());
        Trend { name, first, last, slope: slope(&warm, figure) * 3600.0, tolerance }
    };
    vec![
        trend("RSS, MiB", |s| s.rss_mib, RSS_MIB),
        trend("descriptors", |s| s.descriptors, DESCRIPTORS),
        trend("threads", |s| s.threads, THREADS),
    ]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn slope(samples: &[Sample], figure: fn(&Sample) -> f64) -> f64 {
    let n = samples.len() as f64;
    let mean = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / n;
    let (at, value) = (mean(&|s| s.at), mean(&figure));
    let along: f64 = samples.iter().map(|s| (s.at - at) * (figure(s) - value)).sum();
    let across: f64 = samples.iter().map(|s| (s.at - at).powi(2)).sum();
    along / across
}

/// Reads the log as it grows.
pub struct Log<'a> {
    gateway: &'a Gateway,
    file: String,
    read: usize,
}

impl<'a> Log<'a> {
    pub fn new(gateway: &'a Gateway) -> Self {
        Log { gateway, file: gateway.file().display().to_string(), read: 0 }
    }

    /// Complains of each new line that nothing explains.
    pub fn look(&mut self, world: &World) {
        let lines = self.gateway.log_from(self.read);
        self.read += lines.len();
        for line in lines.iter().filter(|line| !self.is_expected(line)) {
            world.tally.complain(format!("in the log: {line}"));
        }
    }

    /// Errors are those of a refused configuration; warnings are of origins that are not always well.
    fn is_expected(&self, line: &str) -> bool {
        let level = line.split_whitespace().nth(1).unwrap_or_default();
        let of_the_weather = ["upstream flaky", "upstream lonely", "route flaky", "route lonely"];
        match level {
            _ if line.contains("panicked") => false,
            "INFO" => line.starts_with('['),
            "WARN" => of_the_weather.iter().any(|of| line.contains(of)),
            "ERROR" => line.contains(&self.file),
            _ => false,
        }
    }
}
