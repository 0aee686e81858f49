//! What stands in the four panes, and how one is drawn. It refuses to show anything that was not made harmless: all
//! names, paths and reasons go through `text::clean`.

use super::lines::{numbers, table, words, Cell, Column, Words, LUXURY};
use super::theme::Theme;
use super::{Pane, Sort, View};
use crate::cli::status::rates::{self, Figures};
use crate::cli::status::text;
use crate::observe::status::{Event, Refusal, RouteStatus, Status, TargetStatus, UpstreamStatus};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use ratatui::Frame;
use std::cmp::Reverse;

/// A share of 5xx that is bad and not just odd.
const BAD_SHARE: f64 = 0.05;

/// What stands in a pane.
pub(super) struct Body {
    name: &'static str,
    note: Span<'static>,
    head: Option<Line<'static>>,
    rows: Vec<Line<'static>>,
    least: u16,
    most: u16,
}

impl Body {
    /// The least rows that make sense and the most that are of use, with the title and a blank below.
    pub(super) fn wanted(&self) -> (u16, u16) {
        (self.least, self.most.max(self.least))
    }

    /// Draws it as far as it was scrolled.
    pub(super) fn draw(self, frame: &mut Frame<'_>, area: Rect, view: &mut View, pane: Pane) {
        if area.height == 0 {
            return;
        }
        let head_rows = u16::from(self.head.is_some());
        let parts = [Constraint::Length(1), Constraint::Length(head_rows), Constraint::Fill(1)];
        let [title, head, body] = Layout::vertical(parts).areas(area);
        // A blank below the last row keeps the panes apart when there is room for all rows.
        let room = usize::from(body.height).min(self.rows.len().max(1));
        let first = view.scroll[pane as usize].min(self.rows.len() - room.min(self.rows.len()));
        (view.scroll[pane as usize], view.page[pane as usize]) = (first, room);
        let place = match self.rows.len() {
            all if all > room && room > 0 => format!("{}-{} of {all}", first + 1, first + room),
            _ => String::new(),
        };
        let line = self.title(place, view.pane == pane, view.theme, usize::from(area.width));
        frame.render_widget(line, title);
        if let Some(line) = self.head {
            frame.render_widget(line, head);
        }
        let shown: Vec<_> = self.rows.into_iter().skip(first).take(room).collect();
        frame.render_widget(Paragraph::new(shown), body);
    }

    fn title(&self, place: String, focused: bool, theme: Theme, room: usize) -> Line<'static> {
        let rule = if focused { theme.accent() } else { theme.dim() };
        let name = if focused { theme.accent().patch(theme.strong()) } else { theme.strong() };
        let mut spans = vec![
            Span::styled(if focused { "━━ " } else { "── " }, rule),
            Span::styled(self.name, name),
            Span::raw(" "),
        ];
        let used = |spans: &[Span<'_>]| spans.iter().map(Span::width).sum::<usize>();
        if !self.note.content.is_empty() && used(&spans) + self.note.width() + 3 <= room {
            spans.extend([Span::raw(" "), self.note.clone(), Span::raw(" ")]);
        }
        let place = if place.is_empty() { place } else { format!(" {place} ") };
        let end = if place.is_empty() || used(&spans) + place.len() + 4 > room { 0 } else { place.len() + 2 };
        let bar = if focused { "━" } else { "─" };
        spans.push(Span::styled(bar.repeat(room.saturating_sub(used(&spans) + end)), rule));
        if end > 0 {
            spans.extend([Span::styled(place, theme.dim()), Span::styled(bar.repeat(2), rule)]);
        }
        Line::from(spans)
    }
}

/// What stands in `pane` when it has so many columns of the terminal.
pub(super) fn body(pane: Pane, view: &View, room: usize) -> Body {
    static NOTHING: std::sync::LazyLock<Status> = std::sync::LazyLock::new(Status::default);
    let status = view.latest.as_ref().unwrap_or(&NOTHING);
    match pane {
        Pane::Routes => routes(view, status, room),
        Pane::Upstreams => upstreams(view, status, room),
        Pane::Refusals => refusals(view.theme, status, room),
        Pane::History => history(view.theme, status, room),
    }
}

fn nothing(text: &'static str, theme: Theme) -> Vec<Line<'static>> {
    vec![Line::styled(format!(" {text}"), theme.dim())]
}

const ROUTES: [Column; 9] = [
    words("route", 0, 10),
    words("matches", LUXURY, 14),
    numbers("rate/s", 1, 6),
    numbers("4xx", 4, 6),
    numbers("5xx", 2, 6),
    numbers("p50", 5, 7),
    numbers("p95", 7, 7),
    numbers("p99", 3, 7),
    numbers("in flight", 6, 9),
];

fn routes(view: &View, status: &Status, room: usize) -> Body {
    let theme = view.theme;
    let mut routes: Vec<&RouteStatus> = status.routes.iter().collect();
    routes.retain(|route| !route.name.is_empty() || rates::requests(route) > 0 || route.in_flight > 0);
    sort(&mut routes, view);
    let rows: Vec<_> =
        routes.iter().map(|route| route_row(route, view.rates.route(&route.name), theme)).collect();
    let (head, mut rows) = table(&ROUTES, &rows, room, theme.dim());
    if rows.is_empty() {
        rows = nothing("no route had a request yet", theme);
    }
    let named = routes.iter().filter(|route| !route.name.is_empty()).count();
    let note = match status.routes_total {
        total if total > named => format!("{named} of {total} had requests, {}", view.sort.words()),
        _ => view.sort.words().to_owned(),
    };
    let most = (rows.len() + 3).min(usize::from(u16::MAX)) as u16;
    Body { name: "routes", note: Span::styled(note, theme.dim()), head: Some(head), rows, least: 6, most }
}

/// Sorts so that rows stay where they are while their figures differ little: what is sorted by goes in steps.
fn sort(routes: &mut [&RouteStatus], view: &View) {
    let step = |value: f64| if value > 0.0 { (value.log2() * 2.0).round() as i64 } else { i64::MIN };
    let of = |route: &RouteStatus, pick: fn(&Figures) -> f64| {
        Reverse(view.rates.route(&route.name).map_or(i64::MIN, |figures| step(pick(figures))))
    };
    let rate = |route: &RouteStatus| of(route, |figures| figures.rate);
    match view.sort {
        Sort::Rate => routes.sort_by_cached_key(|route| rate(route)),
        Sort::Errors => {
            routes.sort_by_cached_key(|route| (of(route, |figures| figures.rate_5xx), rate(route)))
        }
        Sort::Slowness => {
            let slow = |figures: &Figures| figures.p99.map_or(0.0, |p99| p99.ms);
            routes.sort_by_cached_key(|route| (of(route, slow), rate(route)));
        }
        Sort::Name => routes.sort_by(|a, b| a.name.cmp(&b.name)),
        Sort::File => {}
    }
}

fn route_row(route: &RouteStatus, figures: Option<&Figures>, theme: Theme) -> Vec<Cell> {
    let quiet = |text: String, nothing: bool| (text, if nothing { theme.dim() } else { Style::new() });
    let name = quiet(text::route(&route.name).into_owned(), route.name.is_empty());
    let matches = (text::clean(&route.matches).into_owned(), theme.dim());
    let in_flight = quiet(route.in_flight.to_string(), route.in_flight == 0);
    let Some(figures) = figures else {
        let unknown = (0..6).map(|_| (text::UNKNOWN.to_owned(), theme.dim()));
        return [name, matches].into_iter().chain(unknown).chain([in_flight]).collect();
    };
    let bad = match figures.share_5xx {
        share if share >= BAD_SHARE => theme.bad(),
        share if share > 0.0 => theme.odd(),
        _ => theme.dim(),
    };
    let duration = |percentile| quiet(text::duration(percentile), percentile.is_none());
    vec![
        name,
        matches,
        quiet(text::rate(figures.rate), figures.rate <= 0.0),
        quiet(text::percent(figures.share_4xx), figures.share_4xx <= 0.0),
        (text::percent(figures.share_5xx), bad),
        duration(figures.p50),
        duration(figures.p95),
        duration(figures.p99),
        in_flight,
    ]
}

const TARGETS: [Column; 7] = [
    words("", 0, 1),
    words("target", 1, 12),
    words("health", 2, 9),
    numbers("for", 3, 7),
    numbers("in flight", 4, 9),
    numbers("weight", 5, 6),
    numbers("checked", 6, 9),
];

fn is_troubled(upstream: &UpstreamStatus) -> bool {
    !upstream.trouble.is_empty() || upstream.targets.iter().any(|target| target.health == "unhealthy")
}

fn upstreams(view: &View, status: &Status, room: usize) -> Body {
    let theme = view.theme;
    let cells: Vec<_> = status.upstreams.iter().flat_map(|upstream| &upstream.targets).collect();
    let cells: Vec<_> = cells.into_iter().map(|target| target_row(target, status, theme)).collect();
    // One table for all, so that columns stand below each other; its rows are then put below their upstreams.
    let (head, lines) = table(&TARGETS, &cells, room, theme.dim());
    let mut lines = lines.into_iter();
    let mut blocks: Vec<(bool, Vec<Line<'static>>)> = Vec::new();
    for upstream in &status.upstreams {
        let mut rows = vec![upstream_line(upstream, view, room)];
        for target in &upstream.targets {
            rows.extend(lines.next());
            let error = target.check_error.iter().flat_map(|error| text::lines(error));
            rows.extend(error.flat_map(|error| below(&format!("check failed: {error}"), room, theme)));
        }
        let trouble = upstream.trouble.iter().flat_map(|trouble| text::lines(trouble));
        rows.extend(trouble.flat_map(|trouble| below(&format!("! {trouble}"), room, theme)));
        blocks.push((is_troubled(upstream), rows));
    }
    let troubled = blocks.iter().filter(|(troubled, _)| *troubled).count();
    // What is in trouble must not be out of sight below.
    blocks.sort_by_key(|(troubled, _)| !troubled);
    let mut rows: Vec<_> = blocks.into_iter().flat_map(|(_, rows)| rows).collect();
    if rows.is_empty() {
        rows = nothing("no upstreams", theme);
    }
    let note = match troubled {
        0 => Span::styled(status.upstreams.len().to_string(), theme.dim()),
        _ => Span::styled(format!("{troubled} of {} in trouble", status.upstreams.len()), theme.bad()),
    };
    let most = (rows.len() + 3).min(usize::from(u16::MAX)) as u16;
    Body { name: "upstreams", note, head: Some(head), rows, least: 5, most }
}

/// What is wrong, as a whole, below that with which it is.
fn below(text: &str, room: usize, theme: Theme) -> Vec<Line<'static>> {
    let pieces = text::wrap(text, room.saturating_sub(4)).into_iter();
    pieces.map(|piece| Line::styled(format!("    {piece}"), theme.odd())).collect()
}

fn upstream_line(upstream: &UpstreamStatus, view: &View, room: usize) -> Line<'static> {
    let theme = view.theme;
    let all = upstream.targets.len();
    let well = upstream.targets.iter().filter(|target| target.health != "unhealthy").count();
    let health = match (upstream.checked, well) {
        _ if all == 0 => Span::styled("no targets", theme.bad()),
        (false, _) => Span::styled("not checked", theme.dim()),
        (true, well) if well == all => Span::styled(format!("{all} of {all} healthy"), theme.good()),
        (true, 0) => Span::styled(format!("none of {all} healthy"), theme.bad()),
        (true, well) => Span::styled(format!("{well} of {all} healthy"), theme.odd()),
    };
    let figures = view.rates.upstream(&upstream.name);
    let rate = figures.map_or(String::new(), |figures| format!("{}/s", text::rate(figures.rate)));
    let p99 = figures.and_then(|figures| figures.p99);
    let p99 = p99.map_or(String::new(), |p99| format!("p99 {}", text::duration(Some(p99))));
    let name = text::cut(&text::clean(&upstream.name), room.saturating_sub(20).max(8)).into_owned();
    Words(vec![
        (0, Span::styled(name, theme.strong())),
        (1, health),
        (2, Span::raw(rate)),
        (3, Span::raw(p99)),
        (4, Span::styled(text::clean(&upstream.balance).into_owned(), theme.dim())),
    ])
    .line(room)
}

fn target_row(target: &TargetStatus, status: &Status, theme: Theme) -> Vec<Cell> {
    let (mark, style) = match target.health.as_str() {
        "healthy" => ("✔", theme.good()),
        "unhealthy" => ("✘", theme.bad()),
        _ => ("·", theme.dim()),
    };
    let since = |ms: Option<u64>| ms.map_or(text::UNKNOWN.to_owned(), |ms| text::age(ms, status.time_ms));
    let checked = target
        .checked_ms
        .map_or(text::UNKNOWN.to_owned(), |ms| format!("{} ago", text::age(ms, status.time_ms)));
    let quiet = if target.in_flight == 0 { theme.dim() } else { Style::new() };
    vec![
        (mark.to_owned(), style),
        (text::clean(&target.address).into_owned(), Style::new()),
        (text::clean(&target.health).into_owned(), style),
        (since(target.since_ms), Style::new()),
        (target.in_flight.to_string(), quiet),
        (target.weight.to_string(), theme.dim()),
        (checked, theme.dim()),
    ]
}

const REFUSALS: [Column; 6] = [
    numbers("ago", 3, 7),
    numbers("", 1, 3),
    words("reason", 2, 14),
    words("route", 4, 10),
    words("request", 0, 8),
    words("id", LUXURY, 16),
];

fn refusals(theme: Theme, status: &Status, room: usize) -> Body {
    let row = |refusal: &Refusal| -> Vec<Cell> {
        let style = if refusal.status >= 500 || refusal.status == 429 { theme.odd() } else { Style::new() };
        vec![
            (text::age(refusal.time_ms, status.time_ms), theme.dim()),
            (refusal.status.to_string(), style),
            (text::clean(&refusal.reason).into_owned(), style),
            (text::route(&refusal.route).into_owned(), theme.dim()),
            (text::clean(format!("{} {}", refusal.method, refusal.path).trim()).into_owned(), Style::new()),
            (text::clean(&refusal.request_id).into_owned(), theme.dim()),
        ]
    };
    let rows: Vec<_> = status.refusals.iter().map(row).collect();
    let (head, mut rows) = table(&REFUSALS, &rows, room, theme.dim());
    if rows.is_empty() {
        rows = nothing("none", theme);
    }
    // Not as many rows as there are: under a flood of refusals the other panes stay where they are.
    Body { name: "refusals", note: Span::raw(""), head: Some(head), rows, least: 4, most: 14 }
}

fn history(theme: Theme, status: &Status, room: usize) -> Body {
    let rows = |event: &Event| -> Vec<Line<'static>> {
        let (mark, style) = if event.ok { ("✔", theme.good()) } else { ("✘", theme.bad()) };
        let what = match event.ok {
            true => text::clean(&event.kind).into_owned(),
            false => format!("{} failed", text::clean(&event.kind)),
        };
        let when = text::right(&text::age(event.time_ms, status.time_ms), 9);
        let first = vec![
            Span::styled(format!("{when}  "), theme.dim()),
            Span::styled(format!("{mark} {what}"), style),
            Span::raw("  "),
        ];
        let indent = first.iter().map(Span::width).sum::<usize>();
        let mut lines = text::lines(&event.text);
        if event.ok {
            let line = lines.next().unwrap_or_default();
            let line = text::cut(&line, room.saturating_sub(indent)).into_owned();
            return vec![Line::from([first, vec![Span::raw(line)]].concat())];
        }
        // Every reason as a whole, below what failed: someone has to mend them all.
        let reasons = lines.flat_map(|line| text::wrap(&line, room.saturating_sub(13)));
        let reasons = reasons.map(|piece| Line::raw(format!("{}{piece}", " ".repeat(13))));
        std::iter::once(Line::from(first)).chain(reasons).collect()
    };
    let mut rows: Vec<_> = status.history.iter().flat_map(rows).collect();
    if rows.is_empty() {
        rows = nothing("nothing yet", theme);
    }
    let most = (rows.len() + 2).min(12) as u16;
    Body { name: "history", note: Span::raw(""), head: None, rows, least: 4, most }
}
