//! `portcullis status` as plain text, for people and for pipes: no colours, no cursor moves, nothing cut off. The first
//! lines are read by scripts and stay as they are; a section that has nothing to say is left out. It refuses to pass
//! on control characters, whoever wrote them.

use crate::cli::status::rates;
use crate::cli::status::text;
use crate::observe::status::{Event, Refusal, RouteStatus, Status, TargetStatus, UpstreamStatus};
use std::fmt::Write as _;

/// So many refusals and events are shown.
const LATEST: usize = 10;

/// The status as text, lines ended.
pub(super) fn show(status: &Status) -> String {
    let mut out = head(status);
    dropped(status, &mut out);
    routes(status, &mut out);
    upstreams(status, &mut out);
    refusals(status, &mut out);
    history(status, &mut out);
    certificates(status, &mut out);
    out
}

fn head(status: &Status) -> String {
    let Status { pid, uptime_seconds, generation, connections, requests, answered, faults, .. } = status;
    let predecessor = status.predecessor.map_or(String::new(), |pid| {
        let then = if status.predecessor_takes_over {
            "takes over if this one fails"
        } else {
            "finishes its requests"
        };
        format!("predecessor  process {pid} is still here and {then}\n")
    });
    format!(
        "state        {}\nprocess      {pid}, version {}, for {uptime_seconds} s\n\
         generation   {generation}\nlisteners    {}\nconnections  {connections}\nin flight    {requests}\n\
         answered     {answered}, of them {faults} with a 5xx of the gateway's own\n{predecessor}",
        text::clean(&status.state),
        text::clean(&status.version),
        text::clean(&status.listeners.join(", ")),
    )
}

fn dropped(status: &Status, out: &mut String) {
    for (label, what, count) in [("access log", "lines", status.access_log), ("spans", "spans", status.spans)]
    {
        if count.dropped > 0 {
            put(
                out,
                format_args!("{label:<13}{} {what} dropped, {} written\n", count.dropped, count.written),
            );
        }
    }
}

fn routes(status: &Status, out: &mut String) {
    // The entry for requests that no route took is always there, and says nothing without any.
    let shown =
        |route: &&RouteStatus| !route.name.is_empty() || rates::requests(route) > 0 || route.in_flight > 0;
    let row = |route: &RouteStatus| {
        let percentile = |share| rates::percentile(&status.bounds_ms, &route.durations.buckets, share);
        vec![
            text::route(&route.name).into_owned(),
            text::clean(&route.matches).into_owned(),
            rates::requests(route).to_string(),
            route.codes[3].to_string(),
            route.codes[4].to_string(),
            text::duration(percentile(0.50)),
            text::duration(percentile(0.99)),
            route.in_flight.to_string(),
        ]
    };
    let rows: Vec<_> = status.routes.iter().filter(shown).map(row).collect();
    if rows.is_empty() {
        return;
    }
    let named = status.routes.iter().filter(|route| !route.name.is_empty()).count();
    let note = match status.routes_total {
        total if total > named => format!("{named} of {total}: those that had requests"),
        _ => String::new(),
    };
    title(out, "routes", &note);
    const COLUMNS: [&str; 8] =
        ["route", "matches", ">requests", ">4xx", ">5xx", ">p50", ">p99", ">in flight"];
    table(out, &COLUMNS, &rows);
}

fn upstreams(status: &Status, out: &mut String) {
    if status.upstreams.is_empty() {
        return;
    }
    let all = status.upstreams.iter().flat_map(|upstream| &upstream.targets);
    let unhealthy = all.filter(|target| target.health == "unhealthy").count();
    let note = match unhealthy {
        0 => String::new(),
        n => format!("{} unhealthy", text::counted(n, "target")),
    };
    title(out, "upstreams", &note);
    let rows: Vec<_> = status.upstreams.iter().flat_map(|upstream| targets(status, upstream)).collect();
    table(out, &["upstream", "target", "health", ">for", ">weight", ">in flight", "last check"], &rows);
    for upstream in &status.upstreams {
        for line in upstream.trouble.iter().flat_map(|trouble| text::lines(trouble)) {
            put(out, format_args!("  {}: {line}\n", text::clean(&upstream.name)));
        }
    }
}

fn targets(status: &Status, upstream: &UpstreamStatus) -> Vec<Vec<String>> {
    let name = text::clean(&upstream.name).into_owned();
    if upstream.targets.is_empty() {
        return vec![vec![name, "(none)".to_owned()]];
    }
    let row = |target: &TargetStatus| {
        let since = target.since_ms.map_or(text::UNKNOWN.to_owned(), |ms| text::between(ms, status.time_ms));
        vec![
            name.clone(),
            text::clean(&target.address).into_owned(),
            text::clean(&target.health).into_owned(),
            since,
            target.weight.to_string(),
            target.in_flight.to_string(),
            last_check(status, target),
        ]
    };
    upstream.targets.iter().map(row).collect()
}

fn last_check(status: &Status, target: &TargetStatus) -> String {
    let when = target.checked_ms.map(|ms| format!("{} ago", text::between(ms, status.time_ms)));
    let error = target.check_error.as_deref().map(text::clean);
    match (when, error) {
        (Some(when), Some(error)) => format!("{when}: {error}"),
        (Some(when), None) => when,
        (None, Some(error)) => error.into_owned(),
        (None, None) => text::UNKNOWN.to_owned(),
    }
}

fn refusals(status: &Status, out: &mut String) {
    if status.refusals.is_empty() {
        return;
    }
    let row = |refusal: &Refusal| {
        vec![
            text::utc(refusal.time_ms),
            refusal.status.to_string(),
            text::clean(&refusal.reason).into_owned(),
            text::route(&refusal.route).into_owned(),
            text::clean(&refusal.request_id).into_owned(),
            text::clean(format!("{} {}", refusal.method, refusal.path).trim()).into_owned(),
        ]
    };
    title(out, "refusals", "the latest");
    let rows: Vec<_> = status.refusals.iter().take(LATEST).map(row).collect();
    table(out, &["time", ">status", "reason", "route", "request id", "request"], &rows);
}

fn history(status: &Status, out: &mut String) {
    if status.history.is_empty() {
        return;
    }
    let rows = |event: &Event| -> Vec<Vec<String>> {
        let first = [text::utc(event.time_ms), text::clean(&event.kind).into_owned(), done(event).to_owned()];
        let kept = if event.ok { 1 } else { usize::MAX };
        let mut lines = text::lines(&event.text).take(kept).map(|line| line.into_owned());
        let mut rows = vec![[first.to_vec(), vec![lines.next().unwrap_or_default()]].concat()];
        rows.extend(lines.map(|line| vec![String::new(), String::new(), String::new(), line]));
        rows
    };
    title(out, "history", "the latest");
    let rows: Vec<_> = status.history.iter().take(LATEST).flat_map(rows).collect();
    table(out, &["time", "what", "", "outcome"], &rows);
}

fn done(event: &Event) -> &'static str {
    if event.ok {
        "done"
    } else {
        "FAILED"
    }
}

fn certificates(status: &Status, out: &mut String) {
    if status.certificates.is_empty() {
        return;
    }
    title(out, "certificates", "");
    let row = |certificate: &crate::observe::status::Certificate| {
        vec![
            text::day(certificate.expires_ms),
            text::expiry(certificate.expires_ms, status.time_ms),
            text::clean(&certificate.names.join(", ")).into_owned(),
        ]
    };
    let rows: Vec<_> = status.certificates.iter().map(row).collect();
    table(out, &["expires", "", "names"], &rows);
}

fn title(out: &mut String, label: &str, note: &str) {
    out.push('\n');
    out.push_str(text::left(label, 13).as_str());
    out.push_str(note);
    trim_end(out);
    out.push('\n');
}

/// Columns as wide as what is in them; those whose title begins with `>` hold numbers and stand at the right.
fn table(out: &mut String, columns: &[&str], rows: &[Vec<String>]) {
    let titles: Vec<String> = columns.iter().map(|title| title.trim_start_matches('>').to_owned()).collect();
    let all = || std::iter::once(&titles).chain(rows);
    let widest =
        |at: usize| all().filter_map(|row| row.get(at)).map(|cell| text::width(cell)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(widest).collect();
    for row in all() {
        for ((cell, cells), column) in row.iter().zip(&widths).zip(columns) {
            let put = if column.starts_with('>') { text::right } else { text::left };
            out.push_str("  ");
            out.push_str(&put(cell, *cells));
        }
        trim_end(out);
        out.push('\n');
    }
}

fn trim_end(out: &mut String) {
    out.truncate(out.trim_end_matches(' ').len());
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::status::{Certificate, Durations, Written};

    fn plain() -> Status {
        Status {
            state: "serving".to_owned(),
            pid: 1234,
            version: "0.1.0".to_owned(),
            uptime_seconds: 12,
            generation: 1,
            listeners: vec!["127.0.0.1:8080".to_owned(), "127.0.0.1:8081".to_owned()],
            connections: 3,
            requests: 1,
            answered: 100,
            faults: 2,
            predecessor: Some(1233),
            predecessor_takes_over: true,
            time_ms: 1_774_101_802_000,
            ..Status::default()
        }
    }

    #[test]
    fn the_first_lines_are_what_scripts_read() {
        let mut status = plain();
        let expected = "state        serving\nprocess      1234, version 0.1.0, for 12 s\ngeneration   1\n\
            listeners    127.0.0.1:8080, 127.0.0.1:8081\nconnections  3\nin flight    1\n\
            answered     100, of them 2 with a 5xx of the gateway's own\n\
            predecessor  process 1233 is still here and takes over if this one fails\n";
        assert_eq!(show(&status), expected);
        status.predecessor_takes_over = false;
        assert!(show(&status).ends_with("process 1233 is still here and finishes its requests\n"));
        status.predecessor = None;
        assert!(show(&status).ends_with("of the gateway's own\n"));
    }

    #[test]
    fn sections_are_aligned_by_what_a_terminal_shows() {
        let mut status = plain();
        status.bounds_ms = vec![10.0, 20.0];
        status.routes_total = 2_000;
        let route = |name: &str, codes, buckets: [u64; 3]| RouteStatus {
            name: name.to_owned(),
            matches: format!("{name}.example.com/"),
            codes,
            durations: Durations { buckets: buckets.to_vec(), sum_ms: 0.0 },
            ..RouteStatus::default()
        };
        status.routes =
            vec![route("日本", [0, 1_000, 0, 20, 3], [1_023, 0, 0]), route("b", [0, 1, 0, 0, 0], [0, 0, 1])];
        status.routes.push(RouteStatus::default());
        let shown = show(&status);
        let section = shown.split("\n\n").nth(1).unwrap();
        assert_eq!(
            section,
            "routes       2 of 2000: those that had requests\n\
             \x20 route  matches            requests  4xx  5xx     p50     p99  in flight\n\
             \x20 日本   日本.example.com/      1023   20    3  5.0 ms  9.9 ms          0\n\
             \x20 b      b.example.com/            1    0    0  >20 ms  >20 ms          0\n"
        );
    }

    #[test]
    fn every_section_that_has_something_to_say_is_there() {
        let mut status = plain();
        let target = TargetStatus {
            address: "10.0.0.1:80".to_owned(),
            health: "unhealthy".to_owned(),
            since_ms: Some(status.time_ms - 200_000),
            checked_ms: Some(status.time_ms - 1_000),
            check_error: Some("connection refused".to_owned()),
            weight: 1,
            ..TargetStatus::default()
        };
        let upstream = UpstreamStatus {
            name: "orders".to_owned(),
            targets: vec![target],
            trouble: vec!["orders.internal does not resolve".to_owned()],
            ..UpstreamStatus::default()
        };
        status.upstreams =
            vec![upstream, UpstreamStatus { name: "void".to_owned(), ..UpstreamStatus::default() }];
        let event = |kind: &str, ok, text: &str| Event {
            kind: kind.to_owned(),
            ok,
            text: text.to_owned(),
            time_ms: 0,
        };
        status.history =
            vec![event("reload", false, "a:1:2: one\na:3:4: two"), event("start", true, "up\nmore")];
        status.certificates =
            vec![Certificate { names: vec!["a.test".to_owned()], expires_ms: 0, ..Default::default() }];
        status.access_log = Written { written: 5, dropped: 2 };
        let shown = show(&status);
        for line in [
            "access log   2 lines dropped, 5 written\n",
            "upstreams    1 target unhealthy\n",
            "  orders    10.0.0.1:80  unhealthy  3 min       1          0  1 s ago: connection refused\n",
            "  void      (none)\n",
            "  orders: orders.internal does not resolve\n",
            "  1970-01-01T00:00:00Z  reload  FAILED  a:1:2: one\n                                        a:3:4: two\n",
            "  1970-01-01T00:00:00Z  start   done    up\n",
            "  1970-01-01  EXPIRED 20533 d 14 h ago  a.test\n",
        ] {
            assert!(shown.contains(line), "{line}\n{shown}");
        }
        assert!(
            !shown.contains("more") && !shown.contains("\nspans") && !shown.contains("refusals"),
            "{shown}"
        );
    }

    #[test]
    fn what_attackers_write_is_shown_and_not_obeyed() {
        let mut status = plain();
        let evil = "\u{1b}]0;owned\u{7}\r\n\u{9b}2J\u{202e}".to_owned();
        let refusal = Refusal {
            method: evil.clone(),
            path: evil.clone(),
            reason: evil.clone(),
            route: evil.clone(),
            request_id: evil.clone(),
            ..Refusal::default()
        };
        status.refusals = vec![refusal; 12];
        status.history = vec![Event { text: evil.clone(), kind: evil.clone(), ..Event::default() }];
        status.state.clone_from(&evil);
        status.listeners = vec![evil.clone()];
        let check_error = Some(evil.clone());
        let targets = vec![TargetStatus { address: evil.clone(), check_error, ..TargetStatus::default() }];
        let trouble = vec![evil.clone()];
        status.upstreams =
            vec![UpstreamStatus { name: evil.clone(), targets, trouble, ..UpstreamStatus::default() }];
        status.routes =
            vec![RouteStatus { name: evil.clone(), matches: evil.clone(), ..RouteStatus::default() }];
        status.certificates = vec![Certificate { names: vec![evil], expires_ms: 0, ..Default::default() }];
        let shown = show(&status);
        assert!(
            shown.chars().all(|c| c == '\n' || !c.is_control()) && !shown.contains('\u{202e}'),
            "{shown:?}"
        );
        assert_eq!(shown.lines().filter(|line| line.starts_with("  1970-01-01T")).count(), 11);
    }
}
