//! What the soak says: a line while it runs, a table and a JSON file at its end.

use super::tally::Tally;
use super::watch::{Sample, Trend};
use serde_json::{json, Map};
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::Duration;

/// All that came of a run.
pub struct Report<'a> {
    pub seed: u64,
    pub ran: Duration,
    pub tally: &'a Tally,
    pub samples: &'a [Sample],
    pub trends: &'a [Trend],
    /// Why it failed; empty when it did not.
    pub reasons: &'a [String],
}

impl Report<'_> {
    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::from("\nkind of traffic       exchanges  slowest  outcomes\n");
        for (name, kind) in self.tally.kinds() {
            let all: u64 = kind.outcomes.values().sum();
            let mut outcomes: Vec<_> = kind.outcomes.iter().collect();
            outcomes.sort_by(|a, b| b.1.cmp(a.1));
            let outcomes: Vec<String> = outcomes.iter().map(|(o, n)| format!("{n} {o}")).collect();
            let slowest = format!("{:.1?}", kind.slowest);
            let _ = writeln!(text, "{name:<20} {all:>10} {slowest:>8}  {}", outcomes.join(", "));
        }
        text += "\nafter the warm-up  first quarter  last quarter  tolerated  an hour by least squares\n";
        if self.trends.is_empty() {
            text += "too short a run to see growth\n";
        }
        for Trend { name, first, last, slope, tolerance } in self.trends {
            let _ = writeln!(text, "{name:<18} {first:>13.1} {last:>13.1} {tolerance:>+10.1} {slope:>+12.1}");
        }
        let (seconds, all) = (self.ran.as_secs_f64(), self.tally.exchanges());
        let _ = writeln!(
            text,
            "\n{all} exchanges in {seconds:.0} s ({:.0} a second), seed {}",
            all as f64 / seconds,
            self.seed
        );
        match self.reasons {
            [] => text += "PASSED: every outcome explained, nothing grew, everything was given back\n",
            reasons => {
                text += "FAILED:\n";
                reasons.iter().for_each(|reason| {
                    let _ = writeln!(text, "  {reason}");
                });
            }
        }
        text
    }

    /// For programs.
    pub fn write_json(&self, file: &Path) -> io::Result<()> {
        let traffic = self.tally.kinds().into_iter().map(|(name, kind)| {
            let slowest = kind.slowest.as_secs_f64();
            (name.to_owned(), json!({"slowest_s": slowest, "outcomes": kind.outcomes}))
        });
        let trend = |t: &Trend| {
            let Trend { first, last, slope, tolerance, .. } = t;
            let trend =
                json!({"first": first, "last": last, "tolerance": tolerance, "slope_per_hour": slope});
            (t.name.to_owned(), trend)
        };
        let report = json!({
            "passed": self.reasons.is_empty(),
            "seed": self.seed,
            "seconds": self.ran.as_secs_f64(),
            "reasons": self.reasons,
            "traffic": traffic.collect::<Map<_, _>>(),
            "trends": self.trends.iter().map(trend).collect::<Map<_, _>>(),
            "samples_s_rss_mib_descriptors_threads":
                self.samples.iter().map(|s| (s.at, s.rss_mib, s.descriptors, s.threads)).collect::<Vec<_>>(),
        });
        std::fs::write(file, format!("{report:#}\n"))
    }
}
