//! The access log: one line for each request that reached a listener.
//!
//! As JSON with the fields of [`JSON_FIELDS`] and [`MORE_FIELDS`], or in NCSA's Common Log Format, or that with referer and user agent
//! ("combined"), as Apache and NGINX write them. No field of a request is in it but those named; secrets in queries are
//! masked ([`Secrets`]), and Authorization and Cookie have no place at all.
//!
//! It refuses to be incomplete where it matters: a share of the successes may be left out (`sample`), a failure never is.

use super::exchange::Exchange;
use super::mask::Secrets;
use super::sink::{Counts, Destination, Manner, Sink};
use crate::base::decimal::{hex_128, write_millis, write_three, write_u64};
use log::error;
use std::cell::Cell;
use std::io::Write;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long the writer gathers lines before it writes them.
const GATHER: Duration = Duration::from_millis(50);
/// How long it is waited for that nothing goes to the file before any more.
const SWITCH: Duration = Duration::from_secs(1);

/// The members of a line in JSON, in their order. One that has no value is null.
pub const JSON_FIELDS: [&str; 21] = [
    "time",
    "request_id",
    "trace_id",
    "client_ip",
    "method",
    "host",
    "path",
    "status",
    "bytes_in",
    "bytes_out",
    "duration_ms",
    "upstream_ms",
    "route",
    "upstream",
    "target",
    "attempts",
    "reused",
    "cache",
    "consumer",
    "user_agent",
    "tls",
];
/// Those that stand behind them, each only if it has a value, and `error`, which is there always.
pub const MORE_FIELDS: [&str; 5] = ["query", "referer", "grpc_status", "error", "detail"];

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object.
    Json,
    /// NCSA's Common Log Format.
    Common,
    /// The same with referer and user agent.
    Combined,
}

/// `access_log`, as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Where lines go; none: there is no access log.
    pub to: Option<Destination>,
    /// How they look.
    pub format: Format,
    /// The share of successes that is logged, 0 to 1.
    pub sample: f64,
    /// Query parameters whose values are secret besides the usual ones, in lower case.
    pub mask: Vec<String>,
    /// Bytes that may wait to be written.
    pub room: usize,
}

impl Default for Spec {
    fn default() -> Self {
        let to = Some(Destination::Stderr);
        Spec { to, format: Format::Json, sample: 1.0, mask: Vec::new(), room: 4 << 20 }
    }
}

/// An access log. Nothing is opened before [`AccessLog::open`].
pub struct AccessLog {
    spec: Spec,
    secrets: Secrets,
    /// Of 2^32 successes so many are logged.
    sampled: u64,
    sink: OnceLock<Arc<Sink>>,
    counts: OnceLock<Arc<Counts>>,
}

impl AccessLog {
    /// One as configured.
    pub fn new(spec: Spec) -> Self {
        let secrets = Secrets(spec.mask.clone());
        let sampled = (spec.sample.clamp(0.0, 1.0) * (1u64 << 32) as f64) as u64;
        AccessLog { spec, secrets, sampled, sink: OnceLock::new(), counts: OnceLock::new() }
    }

    /// What must not be told of a query or a path.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Whether there is none.
    pub fn is_off(&self) -> bool {
        self.spec.to.is_none()
    }

    /// Opens it, in place of another one: the file is made anew if somebody has moved it, and lines that wait go to where
    /// they were meant for.
    ///
    /// # Errors
    /// Why it cannot be opened; the one before goes on.
    pub fn open(&self, before: Option<&AccessLog>) -> Result<(), String> {
        let Some(to) = &self.spec.to else { return Ok(()) };
        let failed = |e: std::io::Error| format!("access_log: cannot write to {to}: {e}");
        let file = to.open().map_err(failed)?;
        let counts = before.and_then(|before| before.counts.get()).map(Arc::clone).unwrap_or_default();
        let same =
            before.filter(|before| before.spec.to == self.spec.to && before.spec.room == self.spec.room);
        let sink = match same.and_then(|before| before.sink.get()) {
            Some(sink) => {
                sink.continue_in(file, SWITCH);
                Arc::clone(sink)
            }
            None => {
                let manner = Manner { room: self.spec.room, gather: GATHER, complain: true };
                let name = format!("access log {to}");
                Arc::new(Sink::new(name, file, manner, Arc::clone(&counts)).map_err(failed)?)
            }
        };
        // It is opened once.
        let _ = self.counts.set(counts);
        let _ = self.sink.set(sink);
        Ok(())
    }

    /// Goes on in a new file of the same name.
    pub fn reopen(&self) {
        let (Some(to), Some(sink)) = (&self.spec.to, self.sink.get()) else { return };
        match to.open() {
            Ok(file) => drop(sink.continue_in(file, SWITCH)),
            Err(e) => error!("access_log: cannot open {to} anew: {e}; the one that is open goes on"),
        }
    }

    /// Writes what waits, within this time.
    pub fn flush(&self, patience: Duration) {
        if let Some(sink) = self.sink.get() {
            sink.flush(patience);
        }
    }

    /// Lines written and lines given up.
    pub fn counts(&self) -> (u64, u64) {
        self.counts.get().map_or((0, 0), |counts| counts.read())
    }

    /// Logs an exchange.
    pub fn write(&self, exchange: &Exchange<'_>) {
        let Some(sink) = self.sink.get() else { return };
        let failed = exchange.error.is_some() || exchange.status >= 400;
        if !failed && self.sampled < 1 << 32 && u64::from(fastrand::u32(..)) >= self.sampled {
            return;
        }
        sink.line(|out| self.put(exchange, wall(exchange.ended), out));
    }

    /// Puts one line down.
    pub fn put(&self, exchange: &Exchange<'_>, now: SystemTime, out: &mut Vec<u8>) {
        match self.spec.format {
            Format::Json => self.json(exchange, now, out),
            Format::Common => self.common(exchange, now, out),
            Format::Combined => {
                self.common(exchange, now, out);
                out.pop(); // the line's end
                out.extend_from_slice(b" \"");
                quoted(&self.secrets.url(exchange.referer), out);
                out.extend_from_slice(b"\" \"");
                quoted(exchange.user_agent, out);
                out.extend_from_slice(b"\"\n");
            }
        }
    }

    fn json(&self, x: &Exchange<'_>, now: SystemTime, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":\"");
        time(now, out);
        out.extend_from_slice(b"\",\"request_id\":");
        let id = if x.own_id { plain } else { text };
        id(x.request_id, out);
        out.extend_from_slice(b",\"trace_id\":");
        if x.trace_id == 0 {
            out.extend_from_slice(b"null");
        } else {
            out.push(b'"');
            out.extend_from_slice(&hex_128(x.trace_id));
            out.push(b'"');
        }
        out.extend_from_slice(b",\"client_ip\":");
        if x.client_text.is_empty() {
            match x.client {
                Some(client) => put(out, format_args!("\"{client}\"")),
                None => out.extend_from_slice(b"null"),
            }
        } else {
            plain(x.client_text, out);
        }
        out.extend_from_slice(b",\"method\":");
        plain(x.method.as_bytes(), out); // a token (RFC 9110 §9.1)
        out.extend_from_slice(b",\"host\":");
        text(x.host, out);
        out.extend_from_slice(b",\"path\":");
        text(&self.secrets.path(x.path), out);
        out.extend_from_slice(b",\"status\":");
        write_u64(u64::from(x.status), out);
        out.extend_from_slice(b",\"bytes_in\":");
        write_u64(x.bytes_in, out);
        out.extend_from_slice(b",\"bytes_out\":");
        write_u64(x.bytes_out, out);
        out.extend_from_slice(b",\"duration_ms\":");
        write_millis(x.duration, out);
        out.extend_from_slice(b",\"upstream_ms\":");
        match x.upstream_duration {
            Some(duration) => write_millis(duration, out),
            None => out.extend_from_slice(b"null"),
        }
        self.json_rest(x, out);
    }

    fn json_rest(&self, x: &Exchange<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"route\":");
        out.extend_from_slice(x.route.map_or(b"null", |name| name.json.as_bytes()));
        out.extend_from_slice(b",\"upstream\":");
        out.extend_from_slice(x.upstream.map_or(b"null", |name| name.json.as_bytes()));
        out.extend_from_slice(b",\"target\":");
        plain(x.target.as_bytes(), out);
        out.extend_from_slice(b",\"attempts\":");
        write_u64(x.attempts as u64, out);
        out.extend_from_slice(if x.reused { b",\"reused\":true" } else { b",\"reused\":false" });
        // What is not built yet has its place.
        out.extend_from_slice(b",\"cache\":null,\"consumer\":");
        text(x.consumer.as_bytes(), out);
        out.extend_from_slice(b",\"user_agent\":");
        text(x.user_agent, out);
        out.extend_from_slice(b",\"tls\":");
        plain(x.tls.as_bytes(), out);
        if !x.query.is_empty() {
            out.extend_from_slice(b",\"query\":");
            self.query(x.query, out, text, b"\"");
        }
        if !x.referer.is_empty() {
            out.extend_from_slice(b",\"referer\":");
            text(&self.secrets.url(x.referer), out);
        }
        if let Some(status) = x.grpc_status {
            out.extend_from_slice(b",\"grpc_status\":");
            write_u64(u64::from(status), out);
        }
        let Some(error) = x.error else { return out.extend_from_slice(b",\"error\":null}\n") };
        out.extend_from_slice(b",\"error\":");
        text(error.as_bytes(), out);
        if !x.detail.is_empty() {
            out.extend_from_slice(b",\"detail\":");
            text(x.detail.as_bytes(), out);
        }
        out.extend_from_slice(b"}\n");
    }

    /// A query without its secrets: as it is between `quotes`, or, if something in it has to be escaped, as `escape` puts it
    /// down, with quotes if it has any.
    fn query(&self, query: &[u8], out: &mut Vec<u8>, escape: fn(&[u8], &mut Vec<u8>), quotes: &[u8]) {
        if is_plain(query) {
            out.extend_from_slice(quotes);
            self.secrets.write_query(query, out);
            out.extend_from_slice(quotes);
        } else {
            let mut masked = Vec::with_capacity(query.len());
            self.secrets.write_query(query, &mut masked);
            escape(&masked, out);
        }
    }

    fn common(&self, x: &Exchange<'_>, now: SystemTime, out: &mut Vec<u8>) {
        match x.client {
            Some(client) => put(out, format_args!("{client}")),
            None => out.push(b'-'),
        }
        out.extend_from_slice(b" - ");
        match x.consumer {
            "" => out.push(b'-'),
            consumer => quoted(consumer.as_bytes(), out),
        }
        out.extend_from_slice(b" [");
        clf_time(now, out);
        out.extend_from_slice(b"] \"");
        if x.method.is_empty() {
            out.push(b'-');
        } else {
            quoted(x.method.as_bytes(), out);
            out.push(b' ');
            quoted(&self.secrets.path(x.path), out);
            if !x.query.is_empty() {
                out.push(b'?');
                self.query(x.query, out, quoted, b"");
            }
            out.push(b' ');
            out.extend_from_slice(x.version.as_bytes());
        }
        out.extend_from_slice(b"\" ");
        write_u64(u64::from(x.status), out);
        out.push(b' ');
        write_u64(x.bytes_out, out);
        out.push(b'\n');
    }
}

/// A JSON string, or null for none. Bytes that are no UTF-8 become U+FFFD.
fn text(bytes: &[u8], out: &mut Vec<u8>) {
    if bytes.is_empty() {
        return out.extend_from_slice(b"null");
    }
    if is_plain(bytes) {
        plain(bytes, out);
    } else {
        // Terminals take U+0080 to U+009F for commands; JSON lets them be.
        let control = |c: char| c.is_control() && c > '\u{7e}';
        let text = String::from_utf8_lossy(bytes).replace(control, "\u{fffd}");
        let _ = serde_json::to_writer(out, &text); // a vector takes everything
    }
}

/// Whether nothing in it has to be escaped, in any of the formats.
fn is_plain(bytes: &[u8]) -> bool {
    let plain = |b: &u8| (b' '..0x7f).contains(b) && *b != b'"' && *b != b'\\';
    // Without stopping at the first one: so many are looked at together.
    bytes.iter().fold(true, |all, byte| all & plain(byte))
}

/// A JSON string of what has nothing to escape, or null for none.
fn plain(bytes: &[u8], out: &mut Vec<u8>) {
    if bytes.is_empty() {
        return out.extend_from_slice(b"null");
    }
    out.push(b'"');
    out.extend_from_slice(bytes);
    out.push(b'"');
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text); // a vector takes everything
}

/// What stands between quotes in the formats of NCSA: quotes, backslashes and what is not visible as `\xHH`, `-` for
/// nothing.
fn quoted(bytes: &[u8], out: &mut Vec<u8>) {
    if bytes.is_empty() {
        out.push(b'-');
    }
    for byte in bytes {
        match byte {
            b' '..=b'~' if *byte != b'"' && *byte != b'\\' => out.push(*byte),
            _ => put(out, format_args!("\\x{byte:02X}")),
        }
    }
}

/// What the calendar's clock shows at this moment: it is asked ten times a second, for to ask it costs as much as to ask the
/// other one, which whoever tells of an exchange has just done.
fn wall(at: Instant) -> SystemTime {
    const FRESH: Duration = Duration::from_millis(100);
    let known = CLOCKS.get().filter(|(then, _)| at.saturating_duration_since(*then) < FRESH);
    let (then, shown) = known.unwrap_or_else(|| {
        let clocks = (Instant::now(), SystemTime::now());
        CLOCKS.set(Some(clocks));
        clocks
    });
    shown + at.saturating_duration_since(then)
}

thread_local! {
    static CLOCKS: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
    /// The last second that was written down, and how.
    static SECOND: Cell<(u64, [u8; 20])> = const { Cell::new((u64::MAX, [0; 20])) };
    static CLF_SECOND: Cell<(u64, [u8; 26])> = const { Cell::new((u64::MAX, [0; 26])) };
}

fn since_1970(now: SystemTime) -> Duration {
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// RFC 3339 in UTC with milliseconds; the calendar is asked once a second.
fn time(now: SystemTime, out: &mut Vec<u8>) {
    let since = since_1970(now);
    let (mut second, mut shown) = SECOND.get();
    if second != since.as_secs() {
        second = since.as_secs();
        let text = jiff::Timestamp::from_second(second as i64).unwrap_or_default().to_string();
        shown.copy_from_slice(text.as_bytes().get(..20).unwrap_or(b"1970-01-01T00:00:00Z"));
        SECOND.set((second, shown));
    }
    out.extend_from_slice(&shown[..19]);
    out.push(b'.');
    write_three(since.subsec_millis(), out);
    out.push(b'Z');
}

/// `25/Nov/2026:08:44:33 +0000`.
fn clf_time(now: SystemTime, out: &mut Vec<u8>) {
    let since = since_1970(now);
    let (mut second, mut shown) = CLF_SECOND.get();
    if second != since.as_secs() {
        second = since.as_secs();
        let at = jiff::Timestamp::from_second(second as i64).unwrap_or_default();
        let text = at.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string();
        shown.copy_from_slice(text.as_bytes().get(..26).unwrap_or(b"01/Jan/1970:00:00:00 +0000"));
        CLF_SECOND.set((second, shown));
    }
    out.extend_from_slice(&shown);
}

#[cfg(test)]
mod tests {
    use super::super::exchange::Name;
    use super::*;

    fn line(format: Format, exchange: &Exchange<'_>) -> String {
        let log = AccessLog::new(Spec { format, ..Spec::default() });
        let mut out = Vec::new();
        log.put(exchange, UNIX_EPOCH + Duration::from_millis(1_795_596_273_042), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_has_every_field_and_is_json_whatever_is_in_it() {
        let (route, nasty) = (Name::new("a\"b\\c"), "\u{1}\"\\é\n");
        let exchange = Exchange {
            request_id: nasty.as_bytes(),
            trace_id: 0xabc,
            client: Some([192, 0, 2, 7].into()),
            method: "GET",
            host: b"\xff\"",
            path: nasty.as_bytes(),
            query: b"token=geheim&\"",
            version: "HTTP/1.1",
            status: 200,
            duration: Duration::from_micros(1_234),
            route: Some(&route),
            grpc_status: Some(14),
            user_agent: "\u{9b}2J\u{7f}".as_bytes(),
            referer: b"http://a/?key=geheim",
            error: Some("x"),
            detail: nasty,
            ..Exchange::default()
        };
        let json = line(Format::Json, &exchange);
        assert_eq!(json.matches('\n').count(), 1);
        assert!(!json.contains("geheim"), "{json}");
        let value: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&json).unwrap();
        let at = |name: &str| json.find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{name}: {json}"));
        let all = [&JSON_FIELDS[..], &MORE_FIELDS].concat();
        assert!(all.windows(2).all(|two| at(two[0]) < at(two[1])));
        assert_eq!(value.len(), all.len());
        assert_eq!(value["time"], "2026-11-25T08:44:33.042Z");
        assert_eq!(value["path"], nasty);
        assert_eq!(value["user_agent"], "\u{fffd}2J\u{fffd}");
        assert_eq!(value["host"], "\u{fffd}\"");
        assert_eq!(value["route"], "a\"b\\c");
        assert_eq!(value["trace_id"], "00000000000000000000000000000abc");
        assert_eq!(value["duration_ms"], 1.234);
        assert_eq!(value["query"], "token=***&\"");
        assert!(value["upstream_ms"].is_null());
        let empty: serde_json::Value =
            serde_json::from_str(&line(Format::Json, &Exchange::default())).unwrap();
        assert!(empty["path"].is_null() && empty["route"].is_null() && empty["error"].is_null());
        assert_eq!(empty.as_object().unwrap().len(), JSON_FIELDS.len() + 1);
    }

    #[test]
    fn the_formats_of_ncsa() {
        let exchange = Exchange {
            client: Some([192, 0, 2, 7].into()),
            method: "GET",
            path: b"/a\"b\\\x01",
            query: b"page=1&token=geheim",
            version: "HTTP/1.1",
            status: 200,
            bytes_out: 12,
            user_agent: b"curl/8 \"x\"",
            ..Exchange::default()
        };
        let common = r#"192.0.2.7 - - [25/Nov/2026:08:44:33 +0000] "GET /a\x22b\x5C\x01?page=1&token=*** HTTP/1.1" 200 12"#;
        assert_eq!(line(Format::Common, &exchange), format!("{common}\n"));
        assert_eq!(line(Format::Combined, &exchange), format!("{common} \"-\" \"curl/8 \\x22x\\x22\"\n"));
        let unread = Exchange { status: 400, ..Exchange::default() };
        assert!(line(Format::Common, &unread).contains("] \"-\" 400 0"));
    }

    #[test]
    fn failures_are_never_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let spec = Spec { to: Some(Destination::File(path.clone())), sample: 0.1, ..Spec::default() };
        let log = AccessLog::new(spec);
        log.open(None).unwrap();
        let exchange = |status, error| Exchange { status, error, ..Exchange::default() };
        for _ in 0..2_000 {
            log.write(&exchange(200, None));
        }
        for _ in 0..100 {
            log.write(&exchange(404, Some("no_route")));
            log.write(&exchange(500, None));
            log.write(&exchange(200, Some("client_gone")));
        }
        log.flush(Duration::from_secs(20));
        let text = std::fs::read_to_string(path).unwrap();
        let successes =
            text.lines().filter(|l| l.contains("\"status\":200") && l.contains("\"error\":null")).count();
        assert!((50..=400).contains(&successes), "{successes} of 2,000 at 10%");
        assert_eq!(text.lines().count() - successes, 300);
    }
}
