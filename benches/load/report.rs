//! What was found: raw samples, medians with their range, and the JSON of it all.

use crate::catalogue::{Figure, Measurement};
use crate::machine::Machine;
use serde::Serialize;
use std::collections::BTreeMap;

/// One contender in one round.
#[derive(Serialize, Clone)]
pub struct Sample {
    pub measurement: &'static str,
    /// Such as a number of routes; empty when there is but one case.
    pub case: String,
    pub contender: String,
    /// 0 is the start.
    pub round: u64,
    pub values: BTreeMap<&'static str, f64>,
    /// Any makes the run invalid.
    pub errors: BTreeMap<String, u64>,
    /// Why the proxy was not what limited the run, if it was not.
    pub limit: Option<&'static str>,
}

/// A figure over all rounds.
#[derive(Serialize, Clone)]
pub struct Summary {
    pub measurement: &'static str,
    pub case: String,
    pub contender: String,
    pub figure: &'static str,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub rounds: usize,
}

#[derive(Serialize)]
pub struct Settings {
    pub rounds: u64,
    pub seconds: u64,
    pub quick: bool,
    /// Requests a second of the open loop.
    pub rate: Option<u64>,
    pub pinned: bool,
}

#[derive(Serialize)]
pub struct Shown {
    pub name: String,
    pub version: String,
    pub configuration: String,
}

#[derive(Serialize)]
pub struct Described {
    pub name: &'static str,
    pub title: &'static str,
    pub how: &'static str,
    pub figures: &'static [Figure],
}

#[derive(Serialize)]
pub struct Report {
    pub valid: bool,
    pub settings: Settings,
    pub machine: Machine,
    pub contenders: Vec<Shown>,
    pub tools: BTreeMap<&'static str, String>,
    pub measurements: Vec<Described>,
    pub summary: Vec<Summary>,
    pub samples: Vec<Sample>,
}

/// The rows of a measurement's table: a case and a contender.
pub type Row<'a> = (&'a str, &'a str);

impl Report {
    pub fn rows(&self, measurement: &str) -> Vec<Row<'_>> {
        let mut rows: Vec<Row<'_>> = Vec::new();
        for sample in self.samples.iter().filter(|s| s.measurement == measurement) {
            let row = (sample.case.as_str(), sample.contender.as_str());
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        rows
    }

    pub fn get(&self, measurement: &str, (case, contender): Row<'_>, figure: &str) -> Option<&Summary> {
        self.summary.iter().find(|s| {
            s.measurement == measurement && s.case == case && s.contender == contender && s.figure == figure
        })
    }

    /// What limited most rounds of a row, when it was not the proxy.
    pub fn limit(&self, measurement: &str, row: Row<'_>) -> Option<&'static str> {
        let limits: Vec<Option<&'static str>> = self.of_row(measurement, row).map(|s| s.limit).collect();
        let known: Vec<&'static str> = limits.iter().flatten().copied().collect();
        if 2 * known.len() > limits.len() {
            known.first().copied()
        } else {
            None
        }
    }

    /// What went wrong in a row, with how often.
    pub fn errors(&self, measurement: &str, row: Row<'_>) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for (error, count) in self.of_row(measurement, row).flat_map(|s| &s.errors) {
            *all.entry(error.clone()).or_default() += count;
        }
        all
    }

    /// The most of the machine that other programs took in half the rounds of any measurement, in per cent.
    pub fn noise(&self) -> f64 {
        let of = |m: &Described| {
            let samples = self.samples.iter().filter(|s| s.measurement == m.name);
            median(&samples.filter_map(|s| s.values.get("others").copied()).collect::<Vec<_>>())
        };
        self.measurements.iter().filter_map(of).fold(0.0, f64::max)
    }

    fn of_row<'a>(&'a self, measurement: &'a str, row: Row<'a>) -> impl Iterator<Item = &'a Sample> {
        self.samples
            .iter()
            .filter(move |s| s.measurement == measurement && (s.case.as_str(), s.contender.as_str()) == row)
    }
}

pub fn describe(measurement: &Measurement) -> Described {
    Described {
        name: measurement.name,
        title: measurement.title,
        how: measurement.how,
        figures: measurement.figures,
    }
}

/// Median, least and most of every figure of every row.
pub fn summarise(samples: &[Sample]) -> Vec<Summary> {
    let mut groups: Vec<(&Sample, &'static str, Vec<f64>)> = Vec::new();
    for sample in samples {
        for (figure, value) in &sample.values {
            let same = |s: &Sample| {
                s.measurement == sample.measurement
                    && s.case == sample.case
                    && s.contender == sample.contender
            };
            match groups.iter_mut().find(|(s, key, _)| key == figure && same(s)) {
                Some((_, _, values)) => values.push(*value),
                None => groups.push((sample, figure, vec![*value])),
            }
        }
    }
    let summary = |(sample, figure, values): (&Sample, &'static str, Vec<f64>)| {
        Some(Summary {
            measurement: sample.measurement,
            case: sample.case.clone(),
            contender: sample.contender.clone(),
            figure,
            median: median(&values)?,
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            rounds: values.len(),
        })
    };
    groups.into_iter().filter_map(summary).collect()
}

/// The middle value; of an even number the mean of the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}
