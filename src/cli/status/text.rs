//! Text for a terminal: what others wrote made harmless, widths as a terminal counts them, and numbers as people read
//! them. Nothing here draws. It refuses to pass on characters that a terminal would obey instead of show.

use crate::cli::status::rates::Percentile;
use ratatui::text::Span;
use std::borrow::Cow;

/// What stands where a figure is not known.
pub(super) const UNKNOWN: &str = "-";

/// The text with every character that moves the cursor, hides or turns text around written as `\u{1b}`. Paths and
/// methods come from attackers, and upstreams have a say in errors.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_harmful(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Control characters, and invisible ones that change how their neighbours are shown.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// The lines of a text, each of them clean.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Cow<'_, str>> {
    text.lines().map(|line| clean(line.trim_end()))
}

/// How many cells of a terminal it takes.
pub(super) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// Filled up with blanks on the right.
pub(super) fn left(text: &str, cells: usize) -> String {
    format!("{text}{}", " ".repeat(cells.saturating_sub(width(text))))
}

/// Filled up with blanks on the left.
pub(super) fn right(text: &str, cells: usize) -> String {
    format!("{}{text}", " ".repeat(cells.saturating_sub(width(text))))
}

/// At most so many cells, the end replaced by `…` when it is longer.
pub(super) fn cut(text: &str, cells: usize) -> Cow<'_, str> {
    if width(text) <= cells {
        return Cow::Borrowed(text);
    }
    let end = fitting(text, cells.saturating_sub(1));
    Cow::Owned(if cells == 0 { String::new() } else { format!("{}…", &text[..end]) })
}

/// Broken into pieces of at most so many cells, at blanks where there are some.
pub(super) fn wrap(text: &str, cells: usize) -> Vec<String> {
    let cells = cells.max(2); // the widest character must fit, or there is no progress
    let mut pieces = Vec::new();
    let mut rest = text;
    while width(rest) > cells {
        let end = fitting(rest, cells).max(rest.chars().next().map_or(1, char::len_utf8));
        let blank = rest[..end].rfind(' ').filter(|at| *at > end / 2);
        pieces.push(rest[..blank.unwrap_or(end)].to_owned());
        rest = rest[blank.unwrap_or(end)..].trim_start();
    }
    pieces.push(rest.to_owned());
    pieces
}

/// Where the longest beginning ends that takes at most so many cells.
fn fitting(text: &str, cells: usize) -> usize {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += width(c.encode_utf8(&mut [0; 4]));
        if used > cells {
            return at;
        }
    }
    text.len()
}

/// The name of a route; requests that none took have an entry without a name.
pub(super) fn route(name: &str) -> Cow<'_, str> {
    if name.is_empty() {
        Cow::Borrowed("(no route)")
    } else {
        clean(name)
    }
}

/// A length of time in the two units that matter: `12 s`, `5 min`, `2 h 5 min`, `3 d 4 h`.
pub(super) fn span(seconds: u64) -> String {
    let two = |big: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{big} {unit}"),
        _ => format!("{big} {unit} {small} {small_unit}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// The same between two times in milliseconds; 0 s when the clock was set back.
pub(super) fn between(from_ms: u64, to_ms: u64) -> String {
    span(to_ms.saturating_sub(from_ms) / 1_000)
}

/// The same in one unit, for columns: `90 s`, `83 min`, `30 h`, `4 d`.
pub(super) fn age(from_ms: u64, to_ms: u64) -> String {
    match to_ms.saturating_sub(from_ms) / 1_000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// When a certificate ends, seen from `now_ms`.
pub(super) fn expiry(expires_ms: u64, now_ms: u64) -> String {
    if expires_ms > now_ms {
        format!("in {}", between(now_ms, expires_ms))
    } else {
        format!("EXPIRED {} ago", between(expires_ms, now_ms))
    }
}

/// Milliseconds with as many digits as anybody reads: `0.42 ms`, `4.2 ms`, `120 ms`, `1.3 s`.
pub(super) fn millis(ms: f64) -> String {
    match ms {
        ms if ms < 0.995 => format!("{ms:.2} ms"),
        ms if ms < 9.95 => format!("{ms:.1} ms"),
        ms if ms < 999.5 => format!("{ms:.0} ms"),
        ms if ms < 9_950.0 => format!("{:.1} s", ms / 1e3),
        ms => format!("{:.0} s", ms / 1e3),
    }
}

/// The same for a percentile, which may be longer than anybody measured, or not known.
pub(super) fn duration(percentile: Option<Percentile>) -> String {
    match percentile {
        Some(Percentile { ms, beyond: false }) => millis(ms),
        Some(Percentile { ms, beyond: true }) => format!(">{}", millis(ms)),
        None => UNKNOWN.to_owned(),
    }
}

/// A rate a second: `0`, `0.4`, `12`, `12.3k`.
pub(super) fn rate(a_second: f64) -> String {
    match a_second {
        r if r <= 0.0 => "0".to_owned(),
        r if r < 9.95 => format!("{r:.1}"),
        r if r < 9_999.5 => format!("{r:.0}"),
        r if r < 999_950.0 => format!("{:.1}k", r / 1e3),
        r => format!("{:.1}M", r / 1e6),
    }
}

/// A share of 1 in percent; what is not nothing is never shown as nothing, and what is not all never as all.
pub(super) fn percent(share: f64) -> String {
    match share * 100.0 {
        p if p <= 0.0 => "0 %".to_owned(),
        p if p < 0.1 => "<0.1 %".to_owned(),
        p if p < 9.95 => format!("{p:.1} %"),
        p if p < 100.0 => format!("{:.0} %", p.min(99.0)),
        _ => "100 %".to_owned(),
    }
}

/// `1 target`, `3 targets`.
pub(super) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// The day in UTC: `2026-03-21`.
pub(super) fn day(ms: u64) -> String {
    at(ms, "%Y-%m-%d")
}

/// The second in UTC: `2026-03-21T14:03:22Z`.
pub(super) fn utc(ms: u64) -> String {
    at(ms, "%Y-%m-%dT%H:%M:%SZ")
}

fn at(ms: u64, form: &str) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.unwrap_or_default().strftime(form).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_that_it_would_obey() {
        assert_eq!(clean("/orders/ä?x"), "/orders/ä?x");
        assert_eq!(clean("/\u{1b}[2J\r\n\t\u{7f}"), r"/\u{1b}[2J\u{d}\u{a}\u{9}\u{7f}");
        assert_eq!(clean("\u{9b}31m"), r"\u{9b}31m"); // CSI in one character
        assert_eq!(clean("a\u{202e}b\u{200b}c"), r"a\u{202e}b\u{200b}c");
        assert_eq!(lines("one\ntwo\u{7}\r\n").collect::<Vec<_>>(), ["one", r"two\u{7}"]);
    }

    #[test]
    fn widths_are_those_of_a_terminal() {
        assert_eq!((width("abc"), width("日本")), (3, 4));
        assert_eq!((left("日", 4).as_str(), right("日", 4).as_str()), ("日  ", "  日"));
        assert_eq!(
            (cut("abcdef", 4), cut("日本語", 4), cut("abc", 3)),
            ("abc…".into(), "日…".into(), "abc".into())
        );
        assert_eq!((cut("abc", 0), cut("abc", 1)), ("".into(), "…".into()));
    }

    #[test]
    fn long_texts_are_broken_and_nothing_is_lost() {
        assert_eq!(wrap("the name does not resolve", 12), ["the name", "does not", "resolve"]);
        assert_eq!(wrap("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(wrap("日本", 0), ["日", "本"]);
        assert_eq!(wrap("", 10), [""]);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [12, 60, 7_500, 7_200, 100_000].map(span),
            ["12 s", "1 min", "2 h 5 min", "2 h", "1 d 3 h"]
        );
        assert_eq!(
            [0.416, 4.23, 119.6, 1_250.0, 31_000.0].map(millis),
            ["0.42 ms", "4.2 ms", "120 ms", "1.2 s", "31 s"]
        );
        assert_eq!([0.0, 0.42, 12.3, 12_345.0, 2e6].map(rate), ["0", "0.4", "12", "12.3k", "2.0M"]);
        let shares = [0.0, 0.000_1, 0.013, 0.42, 0.999, 1.0];
        assert_eq!(shares.map(percent), ["0 %", "<0.1 %", "1.3 %", "42 %", "99 %", "100 %"]);
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_774_101_802_345), "2026-03-21T14:03:22Z");
        assert_eq!(day(4_107_542_400_000), "2100-03-01");
        assert_eq!(expiry(90_000_000, 0), "in 1 d 1 h");
        assert_eq!(expiry(0, 3_000), "EXPIRED 3 s ago");
    }
}
