//! `portcullis status --watch`: the status as a live view. This file asks, waits for keys and keeps what is on the
//! screen; `draw` and `panes` put it there. It refuses to run without a terminal, and gives up for nothing else: while
//! the gateway does not answer, the view keeps its last data, says so, and goes on asking.

mod draw;
mod lines;
mod panes;
mod theme;

use crate::cli::status::rates::Rates;
use crate::observe::status::Status;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::DefaultTerminal;
use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};
use theme::Theme;

/// The gateway is asked once in so many milliseconds.
const EACH_MS: u64 = 1_000;

/// Shows what `fetch` brings until the user leaves.
///
/// # Errors
/// Standard output is not a terminal, or the terminal cannot be written or read.
pub(super) fn watch(fetch: impl FnMut() -> Result<Status, String>) -> io::Result<()> {
    if !io::stdout().is_terminal() {
        return Err(io::Error::other("--watch needs a terminal: without it, status prints the same as text"));
    }
    // Also sets a panic hook that puts the terminal back.
    let started = ratatui::try_init();
    let done = started.and_then(|mut terminal| run(&mut terminal, fetch));
    let restored = ratatui::try_restore();
    done.and(restored)
}

fn run(terminal: &mut DefaultTerminal, mut fetch: impl FnMut() -> Result<Status, String>) -> io::Result<()> {
    let start = Instant::now();
    let now_ms = || start.elapsed().as_millis() as u64;
    let mut view = View::new(Theme::from_env());
    let mut next_ms = 0;
    loop {
        if now_ms() >= next_ms {
            view.take(now_ms(), fetch());
            // Always on the full second, however long it took: the chart has a column for each.
            next_ms = (now_ms() / EACH_MS + 1) * EACH_MS;
        }
        terminal.draw(|frame| draw::draw(frame, &mut view, now_ms()))?;
        let mut patience = Duration::from_millis(next_ms.saturating_sub(now_ms()));
        // All that waits is handled before the next picture: a key held down does not lag behind.
        while event::poll(patience)? {
            patience = Duration::ZERO;
            if let Event::Key(key) = event::read()? {
                if view.key(key) == After::Leave {
                    return Ok(());
                }
            }
        }
    }
}

/// What follows from a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Stay,
    Leave,
}

/// A part of the screen that scrolls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pane {
    Routes,
    Upstreams,
    Refusals,
    History,
}

impl Pane {
    /// In the order of the Tab key, and of importance.
    const ALL: [Pane; 4] = [Pane::Routes, Pane::Upstreams, Pane::Refusals, Pane::History];

    /// The one so many further on, around the end.
    fn further(self, by: usize) -> Pane {
        Pane::ALL[(self as usize + by) % Pane::ALL.len()]
    }
}

/// What the routes are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Rate,
    Errors,
    Slowness,
    Name,
    File,
}

impl Sort {
    /// The next one for the key `s`.
    fn next(self) -> Sort {
        match self {
            Sort::Rate => Sort::Errors,
            Sort::Errors => Sort::Slowness,
            Sort::Slowness => Sort::Name,
            Sort::Name => Sort::File,
            Sort::File => Sort::Rate,
        }
    }

    /// As the title of the pane says it.
    fn words(self) -> &'static str {
        match self {
            Sort::Rate => "by rate",
            Sort::Errors => "by 5xx",
            Sort::Slowness => "by p99",
            Sort::Name => "by name",
            Sort::File => "in the order of the file",
        }
    }
}

/// The gateway does not answer.
#[derive(Debug)]
struct Lost {
    since_ms: u64,
    reason: String,
}

/// All that the screen is drawn from.
struct View {
    theme: Theme,
    rates: Rates,
    latest: Option<Status>,
    lost: Option<Lost>,
    pane: Pane,
    /// The first row shown of each pane; drawing corrects what is too far.
    scroll: [usize; 4],
    /// How many rows a pane showed when it was drawn last: what a page is.
    page: [usize; 4],
    sort: Sort,
    help: bool,
}

impl View {
    fn new(theme: Theme) -> Self {
        View {
            theme,
            rates: Rates::default(),
            latest: None,
            lost: None,
            pane: Pane::Routes,
            scroll: [0; 4],
            page: [0; 4],
            sort: Sort::Rate,
            help: false,
        }
    }

    /// What the gateway answered at `now_ms`, or why it did not.
    fn take(&mut self, now_ms: u64, answer: Result<Status, String>) {
        match answer {
            Ok(status) => {
                self.rates.take(now_ms, &status);
                self.latest = Some(status);
                self.lost = None;
            }
            Err(reason) => {
                let since_ms = self.lost.as_ref().map_or(now_ms, |lost| lost.since_ms);
                self.lost = Some(Lost { since_ms, reason });
            }
        }
    }

    fn key(&mut self, key: KeyEvent) -> After {
        if key.kind == KeyEventKind::Release {
            return After::Stay;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return After::Leave,
            KeyCode::Char('q') => return After::Leave,
            // What covers the view goes first, and takes any key for it.
            _ if self.help => self.help = false,
            KeyCode::Esc => return After::Leave,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('s') => {
                self.sort = self.sort.next();
                self.pane = Pane::Routes;
                self.scroll[Pane::Routes as usize] = 0;
            }
            KeyCode::Tab | KeyCode::Right => self.pane = self.pane.further(1),
            KeyCode::BackTab | KeyCode::Left => self.pane = self.pane.further(Pane::ALL.len() - 1),
            _ => self.scroll(key.code),
        }
        After::Stay
    }

    fn scroll(&mut self, code: KeyCode) {
        let page = self.page[self.pane as usize].max(1);
        let row = &mut self.scroll[self.pane as usize];
        *row = match code {
            KeyCode::Up | KeyCode::Char('k') => row.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => row.saturating_add(1),
            KeyCode::PageUp => row.saturating_sub(page),
            KeyCode::PageDown | KeyCode::Char(' ') => row.saturating_add(page),
            KeyCode::Home => 0,
            KeyCode::End => usize::MAX,
            _ => *row,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::status::{
        Certificate, Durations, Event as Happened, Refusal, RouteStatus, TargetStatus, UpstreamStatus,
    };
    use ratatui::backend::TestBackend;
    use ratatui::style::Color;
    use ratatui::Terminal;

    const EVIL: &str = "/x\u{1b}[2J\u{7}\u{202e}\r\n日本";

    /// A gateway after so many seconds, of which each had 90 good answers and 10 bad ones.
    fn status(second: u64) -> Status {
        let time_ms = 1_774_101_802_000 + second * 1_000;
        let text = |text: &str| text.to_owned();
        let route = |name: &str, share: u64| RouteStatus {
            name: text(name),
            matches: text("GET api.example.com/"),
            codes: [0, second * 90 / share, 0, 0, second * 10 / share],
            durations: Durations { buckets: vec![second * 100 / share, 0, 0], sum_ms: 0.0 },
            ..RouteStatus::default()
        };
        let target = |address: &str, health: &str, error: Option<&str>| TargetStatus {
            address: text(address),
            health: text(health),
            check_error: error.map(text),
            ..TargetStatus::default()
        };
        let targets =
            vec![target("10.0.0.1:80", "healthy", None), target("10.0.0.2:80", "unhealthy", Some("refused"))];
        let upstream =
            UpstreamStatus { name: text("shop"), checked: true, targets, ..UpstreamStatus::default() };
        let refusal =
            Refusal { reason: text("no_route"), path: text(EVIL), status: 404, ..Refusal::default() };
        let event =
            Happened { time_ms: 0, kind: text("reload"), ok: false, text: text("f:1:2: one\nf:3:4: two") };
        Status {
            time_ms,
            state: text("serving"),
            ready: true,
            pid: 7,
            uptime_seconds: second,
            answered: second * 100,
            bounds_ms: vec![10.0, 20.0],
            routes: vec![route("orders", 2), route("search", 1), route(EVIL, 5), RouteStatus::default()],
            upstreams: vec![UpstreamStatus { name: text("idle"), ..UpstreamStatus::default() }, upstream],
            refusals: vec![refusal; 30],
            history: vec![event; 3],
            certificates: vec![Certificate {
                names: vec![text(EVIL)],
                expires_ms: time_ms + 5_000,
                ..Default::default()
            }],
            ..Status::default()
        }
    }

    fn view() -> View {
        let mut view = View::new(Theme { colour: true });
        (0..=20).for_each(|second| view.take(second * 1_000, Ok(status(second))));
        view
    }

    fn drawn(view: &mut View, now_ms: u64, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw::draw(frame, view, now_ms)).unwrap();
        terminal.backend().to_string()
    }

    fn press(view: &mut View, code: KeyCode) -> After {
        view.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn has(screen: &str, all: &[&str]) {
        all.iter().for_each(|text| assert!(screen.contains(text), "{text}\n{screen}"));
    }

    #[test]
    fn what_matters_is_there_at_every_size() {
        let view = &mut view();
        has(&drawn(view, 20_000, 40, 12), &["serving", "100", "10 %", "orders", "5xx", "p99", "9.9 ms"]);
        let panes = ["routes", "upstreams", "refusals"];
        has(&drawn(view, 20_000, 80, 24), &panes);
        has(
            &drawn(view, 20_000, 80, 24),
            &["serving", "ready", "requests/s", "10 %", "9.9 ms", "✘", "unhealthy"],
        );
        let wide = drawn(view, 20_000, 200, 60);
        has(&wide, &panes);
        has(
            &wide,
            &[
                "history",
                "✔",
                "10.0.0.1:80",
                "check failed: refused",
                "no_route",
                "reload failed",
                "f:3:4: two",
            ],
        );
        has(&drawn(view, 20_000, 250, 80), &["matches", "GET api.example.com/"]);
        has(&wide, &["p95", "p50", "peak 100"]);
    }

    #[test]
    fn no_size_is_too_small_or_too_large() {
        let (mut full, mut empty, mut lost) = (view(), View::new(Theme { colour: true }), view());
        lost.take(21_000, Err("refused".to_owned()));
        empty.take(0, Ok(Status::default()));
        let narrow =
            [1, 2, 5, 17, 40].into_iter().flat_map(|width| [1, 3, 7, 12].map(|height| (width, height)));
        for (at, (width, height)) in narrow.chain([(250, 80), (500, 3), (130, 14), (3, 200)]).enumerate() {
            for view in [&mut full, &mut empty, &mut lost] {
                (view.pane, view.help) = (Pane::ALL[at % 4], at % 3 == 0);
                drawn(view, 21_000, width, height);
            }
        }
    }

    #[test]
    fn nothing_of_an_attacker_reaches_the_terminal() {
        let screen = drawn(&mut view(), 20_000, 250, 80);
        assert!(
            screen.chars().all(|c| c == '\n' || !c.is_control()) && !screen.contains('\u{202e}'),
            "{screen}"
        );
        has(&screen, &[r"/x\u{1b}[2J\u{7}\u{202e}"]);
    }

    #[test]
    fn without_contact_the_last_data_stay() {
        let mut view = view();
        view.take(21_000, Err("no such socket".to_owned()));
        view.take(33_000, Err("refused\u{1b}".to_owned()));
        for (width, height) in [(60, 12), (200, 60)] {
            let lost = r"contact lost since 12 s: refused\u{1b}";
            has(&drawn(&mut view, 33_000, width, height), &[lost, "orders", "serving"]);
        }
        view.take(34_000, Ok(status(34)));
        assert!(!drawn(&mut view, 34_000, 80, 24).contains("contact"));
        let mut never = View::new(Theme { colour: true });
        never.take(0, Err("refused".to_owned()));
        has(&drawn(&mut never, 3_000, 80, 24), &["no contact for 3 s: refused", "q quit"]);
    }

    #[test]
    fn after_an_upgrade_rates_begin_anew() {
        let mut view = view();
        view.take(21_000, Ok(Status { pid: 8, ..status(1) }));
        has(&drawn(&mut view, 21_000, 80, 24), &["pid 8", "requests/s  …"]);
        view.take(22_000, Ok(Status { pid: 8, ..status(2) }));
        has(&drawn(&mut view, 22_000, 80, 24), &["requests/s  100"]);
    }

    #[test]
    fn no_colour_means_none() {
        for colour in [true, false] {
            let mut view = view();
            view.theme = Theme { colour };
            let mut terminal = Terminal::new(TestBackend::new(200, 60)).unwrap();
            terminal.draw(|frame| draw::draw(frame, &mut view, 20_000)).unwrap();
            let cells = &terminal.backend().buffer().content;
            assert_eq!(cells.iter().any(|cell| (cell.fg, cell.bg) != (Color::Reset, Color::Reset)), colour);
        }
    }

    #[test]
    fn keys_do_what_the_help_says() {
        let view = &mut view();
        assert_eq!(press(view, KeyCode::Char('?')), After::Stay);
        has(&drawn(view, 20_000, 80, 24), &["Ctrl-C", "sort the routes"]);
        assert_eq!((press(view, KeyCode::Esc), view.help), (After::Stay, false));
        assert_eq!(press(view, KeyCode::Esc), After::Leave);
        assert_eq!(press(view, KeyCode::Char('q')), After::Leave);
        assert_eq!(press(view, KeyCode::Char('c')), After::Stay);
        assert_eq!(view.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), After::Leave);
        press(view, KeyCode::BackTab);
        assert_eq!(view.pane, Pane::History);
        press(view, KeyCode::Left);
        has(&drawn(view, 20_000, 40, 12), &["━━ refusals", "1-5 of 30"]);
        press(view, KeyCode::PageDown);
        press(view, KeyCode::Down);
        has(&drawn(view, 20_000, 40, 12), &["7-11 of 30"]);
        press(view, KeyCode::End);
        has(&drawn(view, 20_000, 40, 12), &["26-30 of 30"]);
        press(view, KeyCode::Up);
        has(&drawn(view, 20_000, 40, 12), &["25-29 of 30"]);
    }

    #[test]
    fn routes_are_sorted_as_asked() {
        let view = &mut view();
        let first = |view: &mut View| {
            let screen = drawn(view, 20_000, 80, 24);
            let row = screen.lines().skip_while(|line| !line.contains("rate/s")).nth(1).unwrap_or_default();
            row.trim_start_matches('"').split_whitespace().next().unwrap_or_default().to_owned()
        };
        assert_eq!((view.sort, first(view)), (Sort::Rate, "search".to_owned()));
        for (sort, name) in [
            (Sort::Errors, "search"),
            (Sort::Slowness, "search"),
            (Sort::Name, r"/x\u{1b}"),
            (Sort::File, "orders"),
        ] {
            press(view, KeyCode::Char('s'));
            assert_eq!(view.sort, sort);
            assert!(first(view).starts_with(name), "{sort:?}: {}", first(view));
        }
    }
}
