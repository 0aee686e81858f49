//! The page: who is better at what in one glance, then a drawing of each figure, then the tables, the machine and the
//! configurations. One file, nothing loaded from elsewhere.

use crate::catalogue::{Better, Figure};
use crate::plot::{self, Bar};
use crate::report::{Described, Report, Row, Summary};
use crate::{table, verdict, words};
use std::fmt::Write as _;

const STYLE: &str = include_str!("page.css");

pub fn html(report: &Report) -> Result<String, String> {
    let title = "Portcullis beside other proxies";
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n<main>\n"
    );
    page.push_str(&head(report));
    page.push_str("<section class=\"charts\">\n");
    for measurement in &report.measurements {
        for figure in measurement.figures.iter().filter(|f| f.drawn) {
            page.push_str(&card(report, measurement, figure)?);
        }
    }
    page.push_str("</section>\n<h2>All figures</h2>\n<p class=\"quiet\">Medians of the rounds, with the least and the most.</p>\n");
    for measurement in &report.measurements {
        page.push_str(&full_table(report, measurement));
    }
    page.push_str(&machine(report));
    page.push_str("</main>\n</html>\n");
    Ok(page)
}

fn head(report: &Report) -> String {
    let mut text = format!("<h1>{}</h1>\n", escaped(&verdict::headline(report)));
    for (class, sentence) in verdict::standing(report) {
        let _ = writeln!(text, "<p class=\"{class}\">{}</p>", escaped(&sentence));
    }
    let (settings, machine) = (&report.settings, &report.machine);
    let _ = writeln!(
        text,
        "<p class=\"quiet\">One worker each{}, all in turn, {} rounds of {} s, on {} × {}, {}. \
         Bars are medians, whiskers the least and the most.</p>",
        if settings.pinned { " on a processor of its own" } else { "" },
        settings.rounds,
        settings.seconds,
        machine.processors,
        escaped(&machine.processor),
        escaped(&machine.date),
    );
    for warning in warnings(report) {
        let _ = writeln!(text, "<p class=\"warning\">{}</p>", escaped(&warning));
    }
    text
}

fn warnings(report: &Report) -> Vec<String> {
    let mut all = Vec::new();
    for measurement in &report.measurements {
        for row in report.rows(measurement.name) {
            for (error, count) in report.errors(measurement.name, row) {
                all.push(format!(
                    "Invalid: {}, {} {}: {error} ({count}).",
                    measurement.title,
                    words::title(row.1),
                    row.0
                ));
            }
        }
    }
    if report.settings.quick {
        all.push("A quick look: too short for figures to quote.".to_owned());
    }
    if report.noise() > 5.0 {
        all.push(format!("Noisy: other programs took {:.0}% of the machine meanwhile.", report.noise()));
    }
    all
}

/// One figure, drawn.
fn card(report: &Report, measurement: &Described, figure: &Figure) -> Result<String, String> {
    let rows: Vec<(Row<'_>, &Summary)> = report
        .rows(measurement.name)
        .into_iter()
        .filter_map(|row| Some((row, report.get(measurement.name, row, figure.key)?)))
        .filter(|((case, _), _)| !(figure.key == "ratio" && *case == "10 routes"))
        .collect();
    if rows.is_empty() {
        return Ok(String::new());
    }
    let bar = |((case, contender), summary): &(Row<'_>, &Summary)| Bar {
        label: format!("{} {}", words::title(contender), case.split(' ').next().unwrap_or_default())
            .trim_end()
            .to_owned(),
        contender: (*contender).to_owned(),
        median: summary.median,
        min: summary.min,
        max: summary.max,
    };
    let drawing = plot::bars(&rows.iter().map(bar).collect::<Vec<_>>(), figure.decimals)?;
    let unit = if figure.unit.is_empty() { String::new() } else { format!(", {}", figure.unit) };
    let better = if figure.better == Better::More { "more is better" } else { "less is better" };
    let mut text = format!(
        "<figure>\n<figcaption><h3>{}: {}{unit}</h3><p class=\"{}\">{better}</p></figcaption>\n{drawing}\n",
        measurement.title,
        figure.title,
        if figure.better == Better::More { "more" } else { "less" },
    );
    let limits: Vec<String> = rows
        .iter()
        .filter_map(|(row, _)| Some((row, report.limit(measurement.name, *row)?)))
        .map(|(row, limit)| format!("{} {limit}", words::title(row.1)))
        .collect();
    if !limits.is_empty() && figure.better == Better::More {
        let _ = writeln!(text, "<p class=\"quiet\">{}</p>", escaped(&limits.join("; ")));
    }
    text.push_str("</figure>\n");
    Ok(text)
}

fn full_table(report: &Report, measurement: &Described) -> String {
    let rows = report.rows(measurement.name);
    let mut text = format!(
        "<h3>{}</h3>\n<p class=\"quiet\">{}</p>\n<div class=\"wide\"><table>\n<tr><th></th>",
        measurement.title,
        escaped(measurement.how)
    );
    for (case, contender) in &rows {
        let _ = write!(text, "<th>{}<br>{case}</th>", escaped(words::title(contender)));
    }
    for figure in measurement.figures {
        let cells: Vec<Option<String>> = rows
            .iter()
            .map(|row| report.get(measurement.name, *row, figure.key).map(|s| table::cell(figure, s)))
            .collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(text, "</tr>\n<tr><th>{}</th>", escaped(&table::heading(figure)));
        for cell in cells {
            let cell = cell.unwrap_or_else(|| "–".to_owned());
            let _ = match cell.split_once(" (") {
                Some((median, range)) => {
                    write!(text, "<td>{median}<br><small>{}</small></td>", range.trim_end_matches(')'))
                }
                None => write!(text, "<td>{cell}</td>"),
            };
        }
    }
    text.push_str("</tr>\n</table></div>\n");
    for row in rows {
        if let Some(limit) = report.limit(measurement.name, row) {
            let name = format!("{} {}", words::title(row.1), row.0);
            let _ = writeln!(text, "<p class=\"quiet\">{}: {limit}.</p>", escaped(name.trim_end()));
        }
    }
    text
}

fn machine(report: &Report) -> String {
    let machine = &report.machine;
    let mut text =
        "<h2>How it was measured</h2>\n<details><summary>The machine and the programs</summary>\n<dl>\n"
            .to_owned();
    let mut entry = |name: &str, value: &str| {
        let _ = writeln!(text, "<dt>{}</dt><dd>{}</dd>", escaped(name), escaped(value));
    };
    entry("processor", &format!("{} × {}", machine.processors, machine.processor));
    entry("memory", &machine.memory);
    entry("system", &format!("{}, {}", machine.system, machine.kernel));
    entry("date", &machine.date);
    entry("commit", machine.commit.as_deref().unwrap_or("unknown"));
    if let Some(rate) = report.settings.rate {
        entry("rate of the open loop", &format!("{} requests a second", words::number(rate as f64, 0)));
    }
    for contender in &report.contenders {
        entry(words::title(&contender.name), &contender.version);
    }
    for (tool, version) in &report.tools {
        entry(tool, version);
    }
    text.push_str("</dl>\n</details>\n");
    for contender in &report.contenders {
        let _ = writeln!(
            text,
            "<details><summary>Configuration of {}</summary>\n<pre>{}</pre>\n</details>",
            escaped(words::title(&contender.name)),
            escaped(&contender.configuration)
        );
    }
    text.push_str("<p class=\"quiet\">Made by <code>benches/compare</code>; report.json beside this page has every round.</p>\n");
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
