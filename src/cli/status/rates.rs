//! From counters to figures: percentiles from buckets, and what happened in the last ten seconds and two minutes from
//! one document a second. Nothing here reads a clock or draws. It refuses to compare two processes: when the process
//! has changed, everything begins anew, and no rate is ever negative.

use crate::observe::status::{Durations, RouteStatus, Status};
use std::collections::{HashMap, VecDeque};

/// Rates and percentiles are those of so many milliseconds.
pub(super) const WINDOW_MS: u64 = 10_000;
/// And the chart shows so many seconds.
pub(super) const CHART_SECONDS: usize = 120;
/// A document may come a little late without the one before it falling out of the window.
const LATE_MS: u64 = 500;

/// A duration that a share of all did not exceed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Percentile {
    /// In milliseconds.
    pub(super) ms: f64,
    /// Longer than the last bound; how much longer nobody knows.
    pub(super) beyond: bool,
}

/// The duration that `share` of all did not exceed, as if durations were spread evenly within their bucket; nothing
/// when there are none.
pub(super) fn percentile(bounds_ms: &[f64], buckets: &[u64], share: f64) -> Option<Percentile> {
    let total: u64 = buckets.iter().sum();
    let rank = share * total as f64;
    let mut before = 0;
    for (at, count) in buckets.iter().copied().enumerate().filter(|(_, count)| *count > 0) {
        if (before + count) as f64 >= rank {
            let lower = at.checked_sub(1).and_then(|at| bounds_ms.get(at)).copied().unwrap_or(0.0);
            return Some(match bounds_ms.get(at) {
                Some(upper) => {
                    let within = ((rank - before as f64) / count as f64).clamp(0.0, 1.0);
                    Percentile { ms: lower + (upper - lower) * within, beyond: false }
                }
                None => Percentile { ms: bounds_ms.last().copied().unwrap_or(0.0), beyond: true },
            });
        }
        before += count;
    }
    None
}

/// All requests of a route.
pub(super) fn requests(route: &RouteStatus) -> u64 {
    route.codes.iter().sum()
}

/// What happened in the window.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Figures {
    /// A second.
    pub(super) rate: f64,
    /// Share of answers with 4xx, of 1.
    pub(super) share_4xx: f64,
    /// Share of answers with 5xx, of 1.
    pub(super) share_5xx: f64,
    /// Answers with 5xx a second.
    pub(super) rate_5xx: f64,
    /// How long half of them took.
    pub(super) p50: Option<Percentile>,
    /// How long all but a twentieth took.
    pub(super) p95: Option<Percentile>,
    /// How long all but a hundredth took.
    pub(super) p99: Option<Percentile>,
}

/// A second of the chart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    /// Requests a second.
    pub(super) requests: f64,
    /// Answers with 5xx a second.
    pub(super) errors: f64,
}

/// Counters of a route, or of an upstream, which has no codes.
#[derive(Debug, Clone, Default)]
struct Counts {
    codes: [u64; 5],
    buckets: Vec<u64>,
}

/// What is kept of a document.
#[derive(Debug)]
struct Sample {
    at_ms: u64,
    pid: u32,
    uptime_seconds: u64,
    generation: u64,
    answered: u64,
    routes: HashMap<String, Counts>,
    upstreams: HashMap<String, Counts>,
}

impl Sample {
    fn of(at_ms: u64, status: &Status) -> Self {
        let counts = |codes, durations: &Durations| Counts { codes, buckets: durations.buckets.clone() };
        let routes = status.routes.iter().map(|r| (r.name.clone(), counts(r.codes, &r.durations)));
        let upstreams = status.upstreams.iter().map(|u| (u.name.clone(), counts([0; 5], &u.durations)));
        Sample {
            at_ms,
            pid: status.pid,
            uptime_seconds: status.uptime_seconds,
            generation: status.generation,
            answered: status.answered,
            routes: routes.collect(),
            upstreams: upstreams.collect(),
        }
    }

    /// In a container every process may have the same id, so that this alone does not tell.
    fn is_of_another_process(&self, next: &Sample) -> bool {
        self.pid != next.pid || next.uptime_seconds < self.uptime_seconds || next.answered < self.answered
    }

    /// Answers with 5xx from here to `next`. A route that was not listed here had none, unless it came by a reload.
    fn errors_until(&self, next: &Sample) -> u64 {
        let known = |name: &str| match self.routes.get(name) {
            Some(counts) => Some(counts.codes[4]),
            None => (self.generation == next.generation).then_some(0),
        };
        let of =
            |(name, now): (&String, &Counts)| now.codes[4].saturating_sub(known(name).unwrap_or(u64::MAX));
        next.routes.iter().map(of).sum()
    }
}

/// What came in the last seconds, and the figures of them.
#[derive(Debug, Default)]
pub(super) struct Rates {
    samples: VecDeque<Sample>,             // oldest first, all of one process
    chart: VecDeque<(u64, Option<Point>)>, // second and what was in it, oldest first
    all: Option<Figures>,
    routes: HashMap<String, Figures>,
    upstreams: HashMap<String, Figures>,
}

impl Rates {
    /// Takes a document that came at `at_ms` of a clock that never goes back.
    pub(super) fn take(&mut self, at_ms: u64, status: &Status) {
        let sample = Sample::of(at_ms, status);
        if self.samples.back().is_some_and(|last| last.is_of_another_process(&sample)) {
            self.samples.clear();
        }
        let point = self.samples.back().and_then(|last| {
            let seconds = seconds(last.at_ms, at_ms)?;
            Some(Point {
                requests: (sample.answered - last.answered) as f64 / seconds,
                errors: last.errors_until(&sample) as f64 / seconds,
            })
        });
        self.chart.push_back((at_ms / 1_000, point));
        let shown = at_ms / 1_000;
        // A chart whose columns do not divide two minutes shows a little more of them, at most twice.
        self.chart.retain(|(second, _)| shown.saturating_sub(*second) < 2 * CHART_SECONDS as u64);
        self.samples.push_back(sample);
        while self.samples.front().is_some_and(|s| at_ms.saturating_sub(s.at_ms) > WINDOW_MS + LATE_MS) {
            self.samples.pop_front();
        }
        self.work_out(&status.bounds_ms);
    }

    /// The figures of the whole gateway; nothing before the second document of a process.
    pub(super) fn all(&self) -> Option<&Figures> {
        self.all.as_ref()
    }

    /// The figures of a route.
    pub(super) fn route(&self, name: &str) -> Option<&Figures> {
        self.routes.get(name)
    }

    /// The figures of an upstream; without shares of statuses, which are not counted for upstreams.
    pub(super) fn upstream(&self, name: &str) -> Option<&Figures> {
        self.upstreams.get(name)
    }

    /// The last two minutes until `now_ms` in `columns` columns, the newest last; nothing where nothing is known. When
    /// columns are fewer than seconds, each has the mean of its seconds, and seconds do not change their column-mates
    /// as time goes by: peaks wander, they do not flicker.
    pub(super) fn chart(&self, now_ms: u64, columns: usize) -> Vec<Option<Point>> {
        let columns = columns.clamp(1, CHART_SECONDS);
        let each = CHART_SECONDS.div_ceil(columns) as u64;
        let newest = now_ms / 1_000 / each;
        let mut sums = vec![(0.0, 0.0, 0.0); columns];
        for (second, point) in &self.chart {
            let back = newest.saturating_sub(second / each) as usize;
            if let (Some(point), true) = (point, back < columns) {
                let (requests, errors, count) = &mut sums[columns - 1 - back];
                *requests += point.requests;
                *errors += point.errors;
                *count += 1.0;
            }
        }
        let mean = |(requests, errors, count): (f64, f64, f64)| {
            (count > 0.0).then(|| Point { requests: requests / count, errors: errors / count })
        };
        sums.into_iter().map(mean).collect()
    }

    fn work_out(&mut self, bounds_ms: &[f64]) {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else { return };
        let each = |of: fn(&Sample) -> &HashMap<String, Counts>| -> HashMap<String, Figures> {
            let known = of(last).iter().filter_map(|(name, now)| {
                let (since_ms, delta) = self.delta(name, now, of);
                Some((name.clone(), figures(&delta, seconds(since_ms, last.at_ms)?, bounds_ms)))
            });
            known.collect()
        };
        let mut sum = Counts::default();
        for (name, now) in &last.routes {
            let (_, delta) = self.delta(name, now, |sample| &sample.routes);
            sum.codes = std::array::from_fn(|at| sum.codes[at] + delta.codes[at]);
            sum.buckets.resize(sum.buckets.len().max(delta.buckets.len()), 0);
            sum.buckets.iter_mut().zip(&delta.buckets).for_each(|(sum, count)| *sum += count);
        }
        let all = seconds(first.at_ms, last.at_ms).map(|seconds| Figures {
            // Routes may have gone by a reload; what the process answered stays counted.
            rate: (last.answered - first.answered) as f64 / seconds,
            ..figures(&sum, seconds, bounds_ms)
        });
        let (routes, upstreams) = (each(|sample| &sample.routes), each(|sample| &sample.upstreams));
        (self.all, self.routes, self.upstreams) = (all, routes, upstreams);
    }

    /// What was counted within the window, and since when. What was not listed at first had nothing to count then,
    /// unless a reload brought it, perhaps with counters of earlier days: then it counts from when it was first seen.
    fn delta(&self, name: &str, now: &Counts, of: fn(&Sample) -> &HashMap<String, Counts>) -> (u64, Counts) {
        let first = self.samples.front();
        let seen = self.samples.iter().find_map(|sample| Some((sample, of(sample).get(name)?)));
        match (first, seen) {
            (Some(first), Some((sample, then)))
                if first.at_ms == sample.at_ms || first.generation != sample.generation =>
            {
                (sample.at_ms, minus(now, then))
            }
            (Some(first), _) => (first.at_ms, now.clone()),
            (None, _) => (0, Counts::default()),
        }
    }
}

fn minus(now: &Counts, then: &Counts) -> Counts {
    let before = |at: usize| then.buckets.get(at).copied().unwrap_or(0);
    Counts {
        codes: std::array::from_fn(|at| now.codes[at].saturating_sub(then.codes[at])),
        buckets: now.buckets.iter().enumerate().map(|(at, count)| count.saturating_sub(before(at))).collect(),
    }
}

/// The seconds between two times; nothing when they are the same.
fn seconds(from_ms: u64, to_ms: u64) -> Option<f64> {
    (to_ms > from_ms).then(|| (to_ms - from_ms) as f64 / 1e3)
}

fn figures(delta: &Counts, seconds: f64, bounds_ms: &[f64]) -> Figures {
    let answers: u64 = delta.codes.iter().sum();
    let share = |count: u64| if answers == 0 { 0.0 } else { count as f64 / answers as f64 };
    // Upstreams have durations only.
    let all = if answers == 0 { delta.buckets.iter().sum() } else { answers };
    Figures {
        rate: all as f64 / seconds,
        share_4xx: share(delta.codes[3]),
        share_5xx: share(delta.codes[4]),
        rate_5xx: delta.codes[4] as f64 / seconds,
        p50: percentile(bounds_ms, &delta.buckets, 0.50),
        p95: percentile(bounds_ms, &delta.buckets, 0.95),
        p99: percentile(bounds_ms, &delta.buckets, 0.99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::status::UpstreamStatus;

    fn ms(bounds: &[f64], buckets: &[u64], share: f64) -> f64 {
        percentile(bounds, buckets, share).unwrap().ms
    }

    #[test]
    fn percentiles_lie_within_their_bucket() {
        let bounds = [10.0, 20.0, 40.0];
        assert_eq!(ms(&bounds, &[10, 0, 0, 0], 0.5), 5.0);
        assert_eq!(ms(&bounds, &[0, 4, 0, 0], 0.5), 15.0);
        assert_eq!(ms(&bounds, &[50, 40, 10, 0], 0.5), 10.0);
        assert_eq!(ms(&bounds, &[50, 40, 10, 0], 0.95), 30.0);
        assert_eq!(percentile(&bounds, &[1, 0, 0, 99], 0.99), Some(Percentile { ms: 40.0, beyond: true }));
    }

    #[test]
    fn percentiles_of_nothing_or_nonsense_are_not_there_and_harm_nobody() {
        assert_eq!(percentile(&[10.0], &[0, 0], 0.99), None);
        assert_eq!(percentile(&[], &[], 0.5), None);
        assert_eq!(percentile(&[], &[3], 0.5), Some(Percentile { ms: 0.0, beyond: true }));
        assert_eq!(percentile(&[1.0], &[0, 0, 0, 5], 0.5), Some(Percentile { ms: 1.0, beyond: true }));
    }

    /// A process that has answered `ok` and `bad` requests on its route, all within 10 ms.
    fn status(pid: u32, ok: u64, bad: u64) -> Status {
        let durations = Durations { buckets: vec![ok + bad, 0, 0], sum_ms: 0.0 };
        let route = RouteStatus {
            name: "orders".to_owned(),
            codes: [0, ok, 0, 0, bad],
            durations: durations.clone(),
            ..RouteStatus::default()
        };
        let upstream = UpstreamStatus { name: "orders".to_owned(), durations, ..UpstreamStatus::default() };
        Status {
            pid,
            answered: ok + bad,
            uptime_seconds: 100,
            bounds_ms: vec![10.0, 20.0],
            routes: vec![route],
            upstreams: vec![upstream],
            ..Status::default()
        }
    }

    #[test]
    fn rates_are_differences_over_the_window() {
        let mut rates = Rates::default();
        rates.take(0, &status(1, 1_000, 0));
        assert_eq!((rates.all(), rates.route("orders")), (None, None));
        for second in 1..=20 {
            rates.take(second * 1_000, &status(1, 1_000 + second * 90, second * 10));
        }
        let all = rates.all().unwrap();
        assert_eq!((all.rate, all.rate_5xx, all.share_5xx), (100.0, 10.0, 0.1));
        assert_eq!(rates.samples.len(), 11);
        assert_eq!(rates.route("orders").unwrap(), all);
        assert_eq!(rates.route("orders").unwrap().p50.unwrap().ms, 5.0);
        assert_eq!(rates.upstream("orders").unwrap().rate, 100.0);
    }

    #[test]
    fn another_process_begins_anew_and_nothing_is_negative() {
        let mut rates = Rates::default();
        rates.take(0, &status(1, 1_000, 0));
        rates.take(1_000, &status(1, 1_100, 0));
        rates.take(2_000, &status(2, 5, 0)); // an upgrade
        assert_eq!((rates.all(), rates.route("orders"), rates.samples.len()), (None, None, 1));
        rates.take(3_000, &status(2, 15, 0));
        assert_eq!(rates.all().unwrap().rate, 10.0);
        // The same id in a container that was started again.
        rates.take(4_000, &Status { uptime_seconds: 1, ..status(2, 40, 0) });
        assert_eq!(rates.all(), None);
        let chart: Vec<_> = rates.chart(4_000, 120).into_iter().map(|p| p.map(|p| p.requests)).collect();
        assert_eq!(chart[115..], [None, Some(100.0), None, Some(10.0), None]);
    }

    #[test]
    fn a_route_that_a_reload_brings_counts_from_when_it_was_seen() {
        let with_late = |generation, late: u64| {
            let mut status = status(1, 0, 0);
            (status.generation, status.answered) = (generation, late);
            let codes = [0, late, 0, 0, 0];
            status.routes.push(RouteStatus { name: "late".to_owned(), codes, ..RouteStatus::default() });
            status
        };
        let mut rates = Rates::default();
        rates.take(0, &Status { generation: 1, ..status(1, 0, 0) });
        rates.take(1_000, &with_late(1, 30)); // only those are listed that had requests
        assert_eq!(rates.route("late").unwrap().rate, 30.0);

        let mut rates = Rates::default();
        rates.take(0, &Status { generation: 1, ..status(1, 0, 0) });
        rates.take(1_000, &with_late(2, 5_000));
        assert_eq!(rates.route("late"), None);
        rates.take(2_000, &with_late(2, 5_010));
        assert_eq!(rates.route("late").unwrap().rate, 10.0);
    }

    #[test]
    fn counters_that_went_back_count_as_nothing() {
        let mut rates = Rates::default();
        rates.take(0, &status(1, 100, 50));
        let mut later = status(1, 10, 5);
        later.answered = 200;
        rates.take(1_000, &later);
        assert_eq!(rates.route("orders").unwrap().rate, 0.0);
        assert_eq!(rates.all().unwrap().rate_5xx, 0.0);
    }

    #[test]
    fn the_chart_has_gaps_where_there_was_no_contact() {
        let mut rates = Rates::default();
        for second in [0, 1, 2, 6, 7] {
            rates.take(second * 1_000, &status(1, second * 10, 0));
        }
        let known: Vec<_> = rates.chart(8_000, 120).iter().map(Option::is_some).collect();
        assert_eq!(known[111..], [false, true, true, false, false, false, true, true, false]);
        // Two seconds a column: 0-1, 2-3, 4-5, 6-7, 8-9.
        let known: Vec<_> = rates.chart(8_000, 60).iter().map(Option::is_some).collect();
        assert_eq!(known[55..], [true, true, false, true, false]);
        assert!(rates.chart(1_000_000, 0).iter().all(Option::is_none));
    }
}
