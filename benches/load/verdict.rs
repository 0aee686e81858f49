//! What the figures say in a sentence or two, also where Portcullis is behind.

use crate::catalogue::{Better, Figure, PLAINTEXT};
use crate::report::{Described, Report, Summary};
use crate::words;

/// Whom it is compared with; bare Pingora is what it stands on, no rival.
const OTHERS: [&str; 2] = ["nginx", "haproxy"];

pub fn headline(report: &Report) -> String {
    let cpu = |contender| report.get("cpu", ("", contender), "cpu").map(|s| s.median);
    let Some(own) = cpu("portcullis") else { return "Portcullis beside other proxies".to_owned() };
    let others: Vec<String> = ["nginx", "haproxy", "bare"]
        .into_iter()
        .filter_map(|name| Some(format!("{} {}", words::title(name), words::number(cpu(name)?, 1))))
        .collect();
    let beside = if others.is_empty() { String::new() } else { format!("; {}", words::list(&others)) };
    format!("A request costs Portcullis {} µs of CPU{beside}", words::number(own, 1))
}

/// Sentences with the class that the page gives them.
pub fn standing(report: &Report) -> Vec<(&'static str, String)> {
    let (mut ahead, mut level, mut behind) = (Vec::new(), Vec::new(), Vec::new());
    for measurement in &report.measurements {
        for figure in measurement.figures.iter().filter(|f| f.drawn) {
            for case in cases(report, measurement) {
                let Some((own, best)) = pair(report, measurement, case, figure) else { continue };
                let title = measurement.title.to_lowercase();
                let title = title
                    .replace("kib", "KiB")
                    .replace("mib", "MiB")
                    .replace("tls", "TLS")
                    .replace("http", "HTTP");
                let of = if case.is_empty() || many(case) { String::new() } else { format!(" ({case})") };
                let name = format!("{title}{of}: {}", figure.title);
                let (value, other) =
                    (words::number(own.median, figure.decimals), words::number(best.median, figure.decimals));
                let text = format!(
                    "{name} ({value} to {}'s {other}{})",
                    words::title(&best.contender),
                    unit(figure)
                );
                let apart = own.max < best.min || own.min > best.max;
                let better = (own.median < best.median) == (figure.better == Better::Less);
                match (apart, better) {
                    (false, _) => level.push(text),
                    (true, true) => ahead.push(text),
                    (true, false) => behind.push(text),
                }
            }
        }
    }
    let sentence = |class, start: &str, all: Vec<String>| {
        (!all.is_empty()).then(|| (class, format!("{start}: {}.", all.join("; "))))
    };
    [
        sentence("ahead", "Ahead of the best of NGINX and HAProxy", ahead),
        sentence("level", "Level (ranges overlap)", level),
        sentence("behind", "Behind", behind),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Those to compare in: the last of more and more of the same, each of different things, none that others are compared with.
fn cases<'a>(report: &'a Report, measurement: &Described) -> Vec<&'a str> {
    let mut all = Vec::new();
    for (case, _) in report.rows(measurement.name) {
        if case != PLAINTEXT && !all.contains(&case) {
            all.push(case);
        }
    }
    match all.last() {
        Some(last) if many(last) => vec![*last],
        _ => all,
    }
}

/// Such as "10,000 routes".
fn many(case: &str) -> bool {
    case.starts_with(|c: char| c.is_ascii_digit())
}

/// Portcullis, and the best of the others.
fn pair<'a>(
    report: &'a Report,
    measurement: &Described,
    case: &str,
    figure: &Figure,
) -> Option<(&'a Summary, &'a Summary)> {
    let get = |contender| report.get(measurement.name, (case, contender), figure.key);
    let own = get("portcullis")?;
    let better = |a: &&Summary, b: &&Summary| match figure.better {
        Better::Less => a.median.total_cmp(&b.median),
        _ => b.median.total_cmp(&a.median),
    };
    Some((own, OTHERS.into_iter().filter_map(get).min_by(better)?))
}

fn unit(figure: &Figure) -> String {
    if figure.unit.is_empty() {
        String::new()
    } else {
        format!(" {}", figure.unit)
    }
}
