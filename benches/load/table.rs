//! The tables on the terminal.

use crate::catalogue::{Better, Figure};
use crate::report::{Described, Report, Row};
use crate::words;
use std::fmt::Write as _;

/// Everything but the raw samples.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    for measurement in &report.measurements {
        let _ = writeln!(text, "\n{} ({})", measurement.title, measurement.name);
        for line in wrapped(measurement.how, 110) {
            let _ = writeln!(text, "  {line}");
        }
        text.push_str(&aligned(&rows(report, measurement)));
        for row in report.rows(measurement.name) {
            let name = format!("{} {}", words::title(row.1), row.0);
            let name = name.trim_end();
            if let Some(limit) = report.limit(measurement.name, row) {
                let _ = writeln!(text, "  {name}: {limit}");
            }
            for (error, count) in report.errors(measurement.name, row) {
                let _ = writeln!(text, "  INVALID {name}: {error} ({count})");
            }
        }
    }
    if report.noise() > 5.0 {
        let _ = writeln!(text, "\nNoisy: other programs took {:.0}% of the machine.", report.noise());
    }
    if !report.valid {
        let _ = writeln!(text, "\nINVALID: there were errors.");
    }
    text
}

/// The figures down, the contenders across: that fits a terminal.
fn rows(report: &Report, measurement: &Described) -> Vec<Vec<String>> {
    let columns = report.rows(measurement.name);
    let name = |(case, contender): &Row<'_>| {
        let number = case.split(' ').next().unwrap_or_default();
        format!("{} {number}", words::title(contender)).trim_end().to_owned()
    };
    let mut all = vec![std::iter::once(String::new()).chain(columns.iter().map(name)).collect::<Vec<_>>()];
    for figure in measurement.figures {
        let cells: Vec<String> = columns
            .iter()
            .map(|row| {
                report.get(measurement.name, *row, figure.key).map_or("–".to_owned(), |s| cell(figure, s))
            })
            .collect();
        if cells.iter().any(|c| c != "–") {
            all.push(std::iter::once(heading(figure)).chain(cells).collect());
        }
    }
    all
}

pub fn cell(figure: &Figure, summary: &crate::report::Summary) -> String {
    let number = |v| words::number(v, figure.decimals);
    if summary.min == summary.max || figure.better == Better::Neither {
        return number(summary.median);
    }
    format!("{} ({}–{})", number(summary.median), number(summary.min), number(summary.max))
}

pub fn heading(figure: &Figure) -> String {
    let unit = if figure.unit.is_empty() { String::new() } else { format!(", {}", figure.unit) };
    let better = match figure.better {
        Better::Less => " ↓",
        Better::More => " ↑",
        Better::Neither => "",
    };
    format!("{}{unit}{better}", figure.title)
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|at| rows.iter().filter_map(|r| r.get(at)).map(|c| c.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from("  ");
        for (at, cell) in row.iter().enumerate() {
            let blank = " ".repeat(widths[at] - cell.chars().count());
            let _ = if at == 0 { write!(line, "{cell}{blank}") } else { write!(line, "   {blank}{cell}") };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("there is always a line");
        if last.is_empty() {
            last.push_str(word);
        } else if last.len() + 1 + word.len() > width {
            lines.push(word.to_owned());
        } else {
            last.push(' ');
            last.push_str(word);
        }
    }
    lines
}
