//! What the soak says: a line while it runs, a table and a JSON file at its end.

use super::tally::Tally;
use super::watch::{Sample, Trend};
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
        let kinds = self.tally.kinds();
        let kinds = kinds.iter().map(|(name, kind)| {
            let outcomes = kind.outcomes.iter().map(|(o, n)| format!("{}: {n}", quoted(o)));
            let slowest = kind.slowest.as_secs_f64();
            let outcomes = joined(outcomes);
            format!("\n    {}: {{\"slowest_s\": {slowest:.3}, \"outcomes\": {{{outcomes}}}}}", quoted(name))
        });
        let trends = self.trends.iter().map(|t| {
            let Trend { name, first, last, slope, tolerance } = t;
            format!(
                "\n    {}: {{\"first\": {first:.1}, \"last\": {last:.1}, \"tolerance\": {tolerance:.1}, \"slope_per_hour\": {slope:.2}}}",
                quoted(name)
            )
        });
        let samples = self
            .samples
            .iter()
            .map(|s| format!("\n    [{:.1}, {:.2}, {}, {}]", s.at, s.rss_mib, s.descriptors, s.threads));
        let reasons = self.reasons.iter().map(|r| format!("\n    {}", quoted(r)));
        let text = format!(
            "{{\n  \"passed\": {},\n  \"seed\": {},\n  \"seconds\": {:.1},\n  \"reasons\": [{}],\n  \"traffic\": {{{}}},\n  \"trends\": {{{}}},\n  \"samples_s_rss_mib_descriptors_threads\": [{}]\n}}\n",
            self.reasons.is_empty(),
            self.seed,
            self.ran.as_secs_f64(),
            joined(reasons),
            joined(kinds),
            joined(trends),
            joined(samples),
        );
        std::fs::write(file, text)
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

/// A JSON string (RFC 8259 §7).
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
