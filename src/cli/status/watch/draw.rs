//! The picture as a whole: what gets which part of the screen, the header, the chart and the help. It refuses to panic
//! at any size: what has no room is left out, the least important first.

use super::lines::Words;
use super::{panes, Pane, View};
use crate::cli::status::rates::{Figures, Percentile, Point};
use crate::cli::status::text;
use crate::observe::status::{Certificate, Written};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear, Padding, Paragraph};
use ratatui::Frame;

/// From here on there are two columns of panes.
const TWO_COLUMNS: u16 = 130;
/// Below, a chart has one row and no latencies beside it.
const LOW: u16 = 18;
/// A certificate that ends so soon is worth a line.
const SOON_MS: u64 = 14 * 86_400_000;
/// A reload that failed is told so long even where the history has no room.
const RECENT_MS: u64 = 120_000;

/// Draws everything as it is at `now_ms`.
pub(super) fn draw(frame: &mut Frame<'_>, view: &mut View, now_ms: u64) {
    let area = frame.area();
    let notices = notices(view, now_ms, usize::from(area.width));
    let most = if area.height < LOW { 1 } else { 3 };
    let roomy = u16::from(area.height >= 30);
    let chart_rows = match area.height {
        0..8 => 0,
        8..LOW => 2,
        LOW..30 => 3,
        30..45 => 4,
        _ => 6,
    };
    let parts = [
        Constraint::Length(1),
        Constraint::Length(notices.len().min(most) as u16),
        Constraint::Length(roomy),
        Constraint::Length(if view.latest.is_some() { chart_rows } else { 0 }),
        Constraint::Length(roomy),
        Constraint::Fill(1),
        Constraint::Length(u16::from(area.height >= 10)),
    ];
    let [top, told, _, chart, _, body, bottom] = Layout::vertical(parts).areas(area);
    frame.render_widget(header(view, usize::from(area.width)), top);
    frame.render_widget(Paragraph::new(notices), told);
    if view.latest.is_some() {
        draw_chart(frame, chart, view, now_ms);
        draw_panes(frame, body, view);
    }
    frame.render_widget(keys(view, usize::from(area.width)), bottom);
    if view.help {
        draw_help(frame, area, view);
    }
}

fn header(view: &View, room: usize) -> Line<'static> {
    let theme = view.theme;
    let Some(status) = &view.latest else {
        return Words(vec![(0, Span::styled("portcullis", theme.strong()))]).line(room);
    };
    let calm = status.state == "serving" && status.ready;
    let (mark, style) = match (&view.lost, calm) {
        (Some(_), _) => ("○", theme.bad()),
        (None, true) => ("●", theme.good()),
        (None, false) => ("◐", theme.odd()),
    };
    let state = format!("{mark} {}", text::clean(&status.state));
    let ready = if status.ready { Span::raw("ready") } else { Span::styled("not ready", theme.odd()) };
    let dropped = |what: &str, count: Written| match count.dropped {
        0 => Span::raw(""),
        dropped => Span::styled(format!("{dropped} {what} dropped"), theme.odd()),
    };
    Words(vec![
        (0, Span::styled(state, style.patch(theme.strong()))),
        (1, ready),
        (8, Span::raw(format!("version {}", text::clean(&status.version)))),
        (5, Span::raw(format!("pid {}", status.pid))),
        (6, Span::raw(format!("generation {}", status.generation))),
        (2, Span::raw(format!("up {}", text::span(status.uptime_seconds)))),
        (4, Span::raw(text::counted(status.connections, "connection"))),
        (3, Span::raw(format!("{} in flight", status.requests))),
        (7, dropped("log lines", status.access_log)),
        (7, dropped("spans", status.spans)),
        (9, Span::styled(text::clean(&status.listeners.join(", ")).into_owned(), theme.dim())),
    ])
    .line(room)
}

/// Lines for what is out of the ordinary, the most important first.
fn notices(view: &View, now_ms: u64, room: usize) -> Vec<Line<'static>> {
    let theme = view.theme;
    let mut notices = Vec::new();
    let mut tell = |text: String, style: Style| {
        notices.push(Line::styled(format!(" {} ", text::cut(&text, room.saturating_sub(2))), style));
    };
    if let Some(lost) = &view.lost {
        let what = if view.latest.is_some() { "contact lost since" } else { "no contact for" };
        let since = text::between(lost.since_ms, now_ms);
        tell(format!("{what} {since}: {}", text::clean(&lost.reason)), theme.alarm());
    }
    let Some(status) = &view.latest else { return notices };
    if let Some(pid) = status.predecessor {
        let then = if status.predecessor_takes_over {
            "takes over if this one fails"
        } else {
            "finishes its requests"
        };
        tell(format!("process {pid} is still here and {then}"), theme.odd());
    }
    if let Some(event) = status.history.first().filter(|event| !event.ok) {
        if status.time_ms.saturating_sub(event.time_ms) < RECENT_MS {
            let why = text::lines(&event.text).next().unwrap_or_default();
            let when = text::between(event.time_ms, status.time_ms);
            tell(format!("{} failed {when} ago: {why}", text::clean(&event.kind)), theme.bad());
        }
    }
    let soon = |certificate: &&Certificate| certificate.expires_ms.saturating_sub(status.time_ms) < SOON_MS;
    for Certificate { names, expires_ms, .. } in status.certificates.iter().filter(soon) {
        let over = *expires_ms <= status.time_ms;
        let (verb, style) = if over { ("", theme.bad()) } else { ("expires ", theme.odd()) };
        let when = text::expiry(*expires_ms, status.time_ms);
        tell(format!("certificate {}: {verb}{when}", text::clean(&names.join(", "))), style);
    }
    notices
}

fn draw_chart(frame: &mut Frame<'_>, area: Rect, view: &View, now_ms: u64) {
    if area.height == 0 || area.width < 8 {
        return;
    }
    let all = view.rates.all();
    let beside = if area.height > 2 && area.width >= 60 { 18 } else { 0 };
    let parts = [Constraint::Fill(1), Constraint::Length(2), Constraint::Fill(1), Constraint::Length(beside)];
    let [requests, _, errors, latency] = Layout::horizontal(parts).areas(area);
    let chart = view.rates.chart(now_ms, usize::from(requests.width.saturating_sub(1)));
    let each = |of: fn(&Point) -> f64| -> Vec<Option<f64>> {
        chart.iter().map(|point| point.as_ref().map(of)).collect()
    };
    let theme = view.theme;
    let (of_requests, of_errors) = (each(|point| point.requests), each(|point| point.errors));
    let rate = |of: fn(&Figures) -> f64| all.map_or("…".to_owned(), |figures| text::rate(of(figures)));
    let share = all.filter(|figures| figures.rate_5xx > 0.0).map(|figures| text::percent(figures.share_5xx));
    let error_style = if share.is_some() { theme.bad() } else { Style::new() };
    let [requests_title, requests_bars] = split(requests);
    let [errors_title, errors_bars] = split(errors);
    let (long, short) = if requests.width >= 24 { ("requests/s", "5xx/s") } else { ("req/s", "5xx/s") };
    let titled = |label: &str, value: String, style: Style, note: String, room: u16| {
        let words = vec![
            (0, Span::raw(label.to_owned())),
            (1, Span::styled(value, style.patch(theme.strong()))),
            (2, Span::styled(note, theme.dim())),
        ];
        Words(words).line(usize::from(room))
    };
    let line = titled(long, rate(|f| f.rate), Style::new(), peak(&of_requests), requests.width);
    frame.render_widget(line, requests_title);
    let note = share.unwrap_or_default();
    frame.render_widget(titled(short, rate(|f| f.rate_5xx), error_style, note, errors.width), errors_title);
    frame.render_widget(bars(&of_requests, requests_bars, theme.accent(), theme.dim()), requests_bars);
    frame.render_widget(bars(&of_errors, errors_bars, theme.bad(), theme.dim()), errors_bars);
    let row = |label: &'static str, percentile: Option<Percentile>| {
        let value = text::right(&text::duration(percentile), 9);
        Line::from(vec![Span::raw(label), Span::styled(value, theme.strong())])
    };
    let of = |pick: fn(&Figures) -> Option<Percentile>| all.and_then(pick);
    let mut rows = vec![row("   p50 ", of(|f| f.p50)), row("   p99 ", of(|f| f.p99))];
    if area.height > 3 {
        rows.insert(1, row("   p95 ", of(|f| f.p95)));
    }
    rows.insert(0, Line::styled("   over 10 s", theme.dim()));
    frame.render_widget(Paragraph::new(rows), latency);
}

fn split(area: Rect) -> [Rect; 2] {
    Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area)
}

fn peak(values: &[Option<f64>]) -> String {
    let highest = values.iter().flatten().copied().fold(0.0, f64::max);
    if highest > 0.0 {
        format!("peak {}", text::rate(highest))
    } else {
        String::new()
    }
}

/// The top of the scale: a round number, so that the bars do not all change whenever the highest does.
fn scale(values: &[Option<f64>]) -> f64 {
    let highest = values.iter().flatten().copied().fold(1.0, f64::max);
    let power = 10_f64.powf(highest.log10().floor());
    let steps = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= highest).unwrap_or(10.0 * power)
}

/// Bars, the newest at the right. Nothing is a dim line at the bottom; what is not known is not there.
fn bars(values: &[Option<f64>], area: Rect, style: Style, dim: Style) -> Paragraph<'static> {
    const EIGHTHS: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
    let room = usize::from(area.width.saturating_sub(1));
    let values = &values[values.len().saturating_sub(room)..];
    let (top, height) = (scale(values), usize::from(area.height));
    let eighths =
        |value: f64| ((value / top * (height * 8) as f64).round() as usize).clamp(2, height.max(1) * 8);
    let row = |row: usize| {
        let below = (height - 1 - row) * 8;
        let cell = |value: &Option<f64>| match value {
            None => Span::raw(" "),
            Some(value) if *value <= 0.0 => Span::styled(if below == 0 { "▁" } else { " " }, dim),
            Some(value) => Span::styled(EIGHTHS[eighths(*value).saturating_sub(below).min(8)], style),
        };
        let lead = Span::raw(" ".repeat(1 + room - values.len()));
        Line::from_iter(std::iter::once(lead).chain(values.iter().map(cell)))
    };
    Paragraph::new((0..height).map(row).collect::<Vec<_>>())
}

fn draw_panes(frame: &mut Frame<'_>, area: Rect, view: &mut View) {
    if area.width < TWO_COLUMNS {
        return stack(frame, area, view, &Pane::ALL);
    }
    let parts = [Constraint::Fill(11), Constraint::Length(2), Constraint::Fill(9)];
    let [left, _, right] = Layout::horizontal(parts).areas(area);
    stack(frame, left, view, &[Pane::Routes, Pane::Refusals]);
    stack(frame, right, view, &[Pane::Upstreams, Pane::History]);
}

/// The panes one below the other, as many as have room; the one with the keys always has.
fn stack(frame: &mut Frame<'_>, area: Rect, view: &mut View, panes: &[Pane]) {
    let bodies: Vec<_> = panes.iter().map(|pane| panes::body(*pane, view, usize::from(area.width))).collect();
    let wanted: Vec<_> = bodies.iter().map(|body| body.wanted()).collect();
    let focus = panes.iter().position(|pane| *pane == view.pane);
    let mut top = area.y;
    for ((pane, body), height) in panes.iter().zip(bodies).zip(heights(&wanted, focus, area.height)) {
        let place = Rect { y: top, height, ..area };
        top += height;
        body.draw(frame, place, view, *pane);
    }
}

/// Rows for each pane that wants (least, most) of them: those that come first get their least first, then all get more
/// in turn.
fn heights(wanted: &[(u16, u16)], focus: Option<usize>, room: u16) -> Vec<u16> {
    let mut heights = vec![0; wanted.len()];
    let mut left = room;
    let order = focus.into_iter().chain((0..wanted.len()).filter(|at| Some(*at) != focus));
    for (turn, at) in order.enumerate() {
        let least = wanted[at].0;
        if least <= left || turn == 0 {
            heights[at] = least.min(left);
            left -= heights[at];
        }
    }
    let grows = |heights: &[u16], at: usize| heights[at] > 0 && heights[at] < wanted[at].1;
    while left > 0 && (0..wanted.len()).any(|at| grows(&heights, at)) {
        for at in 0..wanted.len() {
            if left > 0 && grows(&heights, at) {
                heights[at] += 1;
                left -= 1;
            }
        }
    }
    // What nobody wants goes to the last one, where it moves nothing.
    if let Some(last) = heights.iter_mut().rfind(|height| **height > 0) {
        *last += left;
    }
    heights
}

fn keys(view: &View, room: usize) -> Line<'static> {
    let texts = [(1, "q quit"), (3, "tab pane"), (4, "↑↓ scroll"), (5, "s sort"), (2, "? help")];
    Words(texts.map(|(rank, text)| (rank, Span::styled(text, view.theme.dim()))).to_vec()).line(room)
}

const HELP: &str = "\
q Esc Ctrl-C   leave
Tab ← →        another pane
↑ ↓ PgUp PgDn  scroll it; Home, End
s              sort the routes otherwise
?              this text

Rates, shares and percentiles are those of
the last 10 s, the bars of the last 2 min.
A new process begins anew.";

fn draw_help(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let widest = HELP.lines().map(text::width).max().unwrap_or(0) as u16;
    let (width, height) = ((widest + 4).min(area.width), (HELP.lines().count() as u16 + 2).min(area.height));
    let place = area.centered(Constraint::Length(width), Constraint::Length(height));
    let frame_of_it = Block::bordered().border_type(BorderType::Rounded).border_style(view.theme.dim());
    let frame_of_it = frame_of_it.title(" keys ").padding(Padding::horizontal(1));
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(HELP).block(frame_of_it), place);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_to_what_matters_first() {
        let wanted = [(6, 20), (5, 9), (4, 12), (4, 10)];
        assert_eq!(heights(&wanted, Some(0), 19), [6, 5, 4, 4]);
        assert_eq!(heights(&wanted, Some(0), 8), [8, 0, 0, 0]);
        assert_eq!(heights(&wanted, Some(3), 8), [0, 0, 4, 4]);
        assert_eq!(heights(&wanted, Some(1), 3), [0, 3, 0, 0]);
        assert_eq!(heights(&wanted, None, 100), [20, 9, 12, 59]);
        assert_eq!(heights(&wanted, Some(2), 0), [0, 0, 0, 0]);
    }

    #[test]
    fn the_scale_is_a_round_number() {
        let tops = [0.0, 1.0, 1.6, 42.0, 91.0, 500.0].map(|value| scale(&[Some(value), None]));
        assert_eq!(tops, [1.0, 1.0, 2.0, 50.0, 100.0, 500.0]);
    }
}
