//! A strict reading of an HTTP/1 request head, made before the engine parses it.
//!
//! The engine's parser is lenient, as parsers of the open web are. A gateway cannot be: two readers of
//! one connection that disagree on where a request ends is how requests are smuggled (RFC 9112 §11.2).
//! Whatever two readers could take for two different requests is refused here.

use std::net::Ipv6Addr;
use std::ops::Range;

use bytes::BytesMut;
use memchr::{memchr, memchr_iter};

use crate::base::path::absolute_form;

pub use super::refusal::HeadError;

/// How much head a listener takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the request target; more is a 414.
    pub target: usize,
    /// Bytes of the whole head, empty line included; more is a 431.
    pub size: usize,
    /// Header fields; more is a 431.
    pub fields: usize,
}

/// How the body that follows is delimited (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// By a Content-Length, which may be 0.
    Length(u64),
    /// By the chunked coding, see [`super::chunk`].
    Chunked,
}

/// A head that every reader understands alike. Offsets count from the start of the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Where the head ends, empty line included: the head is `skip..len`, the body starts at `len`.
    pub len: usize,
    /// Bytes of empty lines before the request line, which the engine must not be given.
    pub skip: usize,
    /// Of the body.
    pub framing: Framing,
    /// The client waits for a 100 before it sends the body (RFC 9110 §10.1.1).
    pub expect_continue: bool,
    /// HTTP/1.0, not 1.1.
    pub http10: bool,
    /// The spelling of the field names can be told from the names: the engine needs no record of it.
    pub plain: bool,
    /// Where the method is.
    pub method: Range<usize>,
    /// Where the request target is, as sent.
    pub target: Range<usize>,
    /// Where the Host value is; an HTTP/1.0 request may have none.
    pub host: Option<Range<usize>>,
}

/// What [`check`] made of the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadState {
    /// Nothing wrong yet: read more, then call again with all bytes and how many there were now.
    Partial,
    /// The whole head is there and is sound.
    Complete(Head),
    /// To be answered with the error's status, then closed: where the next request starts is unknown.
    Refused(HeadError),
}

/// Checks the request head at the start of `buf` (RFC 9112 §2 to §6).
///
/// `scanned` is how many bytes an earlier call answered [`HeadState::Partial`] for, 0 at first. A head
/// is parsed when its first line is there and when all of it is; between the two only new bytes are
/// looked at, so that a client sending byte by byte costs no more than one sending at once.
pub fn check(buf: &[u8], scanned: usize, limits: &HeadLimits) -> HeadState {
    match examine(buf, scanned.min(buf.len()), limits) {
        Ok(Some(head)) => HeadState::Complete(head),
        Ok(None) => HeadState::Partial,
        Err(error) => HeadState::Refused(error),
    }
}

/// Whether a token may hold the byte (RFC 9110 §5.6.2).
pub(super) fn is_tchar(byte: u8) -> bool {
    TCHAR[byte as usize]
}

/// Whether a field value may hold the byte (RFC 9110 §5.5).
pub(super) fn is_text(byte: u8) -> bool {
    (byte >= b' ' && byte != 0x7F) || byte == b'\t'
}

/// Longer ones exist nowhere, and a bound tells early that a client speaks something else.
const MAX_METHOD: usize = 32;
/// RFC 9112 §2.2 asks for "at least one" to be forgiven.
const MAX_EMPTY_LINES: usize = 4;

const TCHAR: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8,
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\''
            | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};

fn examine(buf: &[u8], scanned: usize, limits: &HeadLimits) -> Result<Option<Head>, HeadError> {
    let skip = empty_lines(buf)?;
    let head =
        if scanned == 0 || worth_parsing(buf, skip, scanned) { parse(buf, skip, limits)? } else { None };
    if head.is_none() {
        unfinished(&buf[skip..], scanned.saturating_sub(skip), limits)?;
    }
    Ok(head)
}

/// The bytes of empty lines to forgive before the request line (RFC 9112 §2.2).
fn empty_lines(buf: &[u8]) -> Result<usize, HeadError> {
    let mut skip = 0;
    while buf[skip..].starts_with(b"\r\n") {
        skip += 2;
        if skip > 2 * MAX_EMPTY_LINES {
            return Err(HeadError::EmptyLines);
        }
    }
    match buf[skip..] {
        [b'\n', ..] => Err(HeadError::BareLf),
        [b'\r', _, ..] => Err(HeadError::BareCr),
        _ => Ok(skip),
    }
}

/// Whether the bytes after `scanned` hold the end of the first line or of the head, or a bare LF.
fn worth_parsing(buf: &[u8], skip: usize, scanned: usize) -> bool {
    let from = scanned.max(skip);
    memchr_iter(b'\n', &buf[from..]).any(|offset| {
        let before = &buf[skip..from + offset];
        !before.ends_with(b"\r") || before.ends_with(b"\r\n\r") || memchr(b'\n', before).is_none()
    })
}

/// What can be said against a head that is not all there, `rest`, at a cost that does not grow with
/// it. Everything else waits for the line to end.
fn unfinished(rest: &[u8], scanned: usize, limits: &HeadLimits) -> Result<(), HeadError> {
    // A CR at the very end may yet be the line's.
    if let Some(space) = method(rest.strip_suffix(b"\r").unwrap_or(rest))? {
        // The last byte that may be the space after the target. Looked for once, when it has just come.
        let last = (space + 1).saturating_add(limits.target);
        let just_come = scanned <= last && last < rest.len();
        if just_come && memchr(b' ', &rest[space + 1..=last]).is_none() {
            return Err(HeadError::TargetTooLong);
        }
    }
    if rest.len() >= limits.size {
        return Err(HeadError::HeadTooLarge);
    }
    Ok(())
}

fn parse(buf: &[u8], skip: usize, limits: &HeadLimits) -> Result<Option<Head>, HeadError> {
    let window = &buf[..buf.len().min(skip.saturating_add(limits.size))];
    let Some(end) = line_end(window, skip)? else {
        return Ok(None);
    };
    let mut head = request_line(&window[skip..end], skip, limits)?;
    let mut fields = Fields::default();
    let mut at = end + 2;
    loop {
        let Some(end) = line_end(window, at)? else {
            return Ok(None);
        };
        if end == at {
            break;
        }
        fields.take(window, at..end, limits, head.http10)?;
        at = end + 2;
    }
    head.len = at + 2;
    head.framing = fields.framing(head.http10)?;
    head.expect_continue = fields.expect_continue;
    head.plain = !fields.spelt;
    head.host = fields.host(&window[head.target.clone()], window, head.http10)?;
    Ok(Some(head))
}

/// Where the CRLF of the line at `at` starts.
fn line_end(buf: &[u8], at: usize) -> Result<Option<usize>, HeadError> {
    match memchr(b'\n', &buf[at..]) {
        None => Ok(None),
        Some(n) if n > 0 && buf[at + n - 1] == b'\r' => Ok(Some(at + n - 1)),
        Some(_) => Err(HeadError::BareLf),
    }
}

/// The request line (RFC 9112 §3), its CRLF left off, as a head that has no fields yet.
fn request_line(line: &[u8], skip: usize, limits: &HeadLimits) -> Result<Head, HeadError> {
    let space = method(line)?.ok_or(HeadError::RequestLine)?;
    let (method, rest) = (&line[..space], &line[space + 1..]);
    let start = skip + space + 1;
    let space = memchr(b' ', rest).unwrap_or(rest.len());
    if space > limits.target {
        return Err(HeadError::TargetTooLong);
    }
    let (target, version) = (&rest[..space], rest.get(space + 1..));
    let http10 = http10(version.ok_or_else(|| blame(rest, HeadError::RequestLine))?)?;
    refused_method(method)?;
    if target.is_empty() || !is_target(target) {
        return Err(blame(target, HeadError::Target));
    }
    let asterisk = target == b"*" && method == b"OPTIONS";
    if target[0] != b'/' && !asterisk && absolute_form(target).is_none() {
        return Err(HeadError::TargetForm);
    }
    Ok(Head {
        len: 0,
        skip,
        framing: Framing::None,
        expect_continue: false,
        http10,
        plain: true,
        method: skip..start - 1,
        target: start..start + target.len(),
        host: None,
    })
}

/// Case matters in methods, but not to every server behind us.
fn refused_method(method: &[u8]) -> Result<(), HeadError> {
    if method.eq_ignore_ascii_case(b"CONNECT") || method.eq_ignore_ascii_case(b"TRACE") {
        return Err(HeadError::MethodRefused);
    }
    Ok(())
}

/// Whether a method that came otherwise than in a request line may be used.
pub(super) fn method_allowed(method: &[u8]) -> Result<(), HeadError> {
    if !is_token(method) || method.len() > MAX_METHOD {
        return Err(HeadError::Method);
    }
    refused_method(method)
}

/// How long the method at the start of `bytes` is, if the space after it is there.
fn method(bytes: &[u8]) -> Result<Option<usize>, HeadError> {
    match bytes.iter().take(MAX_METHOD + 1).position(|&byte| !is_tchar(byte)) {
        Some(end) if end > 0 && bytes[end] == b' ' => Ok(Some(end)),
        Some(end) => Err(blame(&bytes[end..=end], HeadError::Method)),
        None if bytes.len() > MAX_METHOD => Err(HeadError::Method),
        None => Ok(None),
    }
}

/// Whether the version is 1.0 rather than 1.1 (RFC 9112 §2.3).
fn http10(version: &[u8]) -> Result<bool, HeadError> {
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Err(HeadError::VersionUnsupported),
        _ => Err(blame(version, HeadError::Version)),
    }
}

/// What the header fields said of host and framing.
#[derive(Default)]
struct Fields {
    count: usize,
    host: Option<Range<usize>>,
    length: Option<u64>,
    coding: Option<Coding>,
    expect_continue: bool,
    /// At least one name has a spelling of its own.
    spelt: bool,
}

#[derive(Clone, Copy)]
enum Coding {
    Chunked,
    /// Well-formed and ending in chunked, but with codings nobody implements.
    Unsupported,
}

impl Fields {
    /// One field line (RFC 9112 §5), its CRLF left off.
    fn take(
        &mut self,
        buf: &[u8],
        line: Range<usize>,
        limits: &HeadLimits,
        http10: bool,
    ) -> Result<(), HeadError> {
        self.count += 1;
        if self.count > limits.fields {
            return Err(HeadError::TooManyFields);
        }
        let text = &buf[line.clone()];
        let colon = field_name(text)?;
        let (name, value) = (&text[..colon], &text[colon + 1..]);
        if !is_field_value(value) {
            return Err(blame(value, HeadError::FieldValue));
        }
        self.spelt |= !tells_spelling(name);
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                let start = line.end - trim_start(value).len();
                let end = start + trim(value).len();
                once(&mut self.host, start..end, HeadError::HostDuplicate)
            }
            6 if name.eq_ignore_ascii_case(b"expect") && !http10 => {
                self.expect_continue = trim(value).eq_ignore_ascii_case(b"100-continue");
                self.expect_continue.then_some(()).ok_or(HeadError::Expectation)
            }
            14 if is_named(name, b"content-length")? => {
                once(&mut self.length, length(trim(value))?, HeadError::LengthDuplicate)
            }
            17 if is_named(name, b"transfer-encoding")? => {
                once(&mut self.coding, coding(trim(value))?, HeadError::CodingDuplicate)
            }
            _ => Ok(()),
        }
    }

    /// RFC 9112 §6.3, where it leaves a choice always the stricter one.
    fn framing(&self, http10: bool) -> Result<Framing, HeadError> {
        match (self.coding, self.length) {
            (None, None) => Ok(Framing::None),
            (None, Some(length)) => Ok(Framing::Length(length)),
            (Some(_), Some(_)) => Err(HeadError::LengthAndCoding),
            (Some(_), None) if http10 => Err(HeadError::CodingInHttp10),
            (Some(Coding::Unsupported), None) => Err(HeadError::CodingUnsupported),
            (Some(Coding::Chunked), None) => Ok(Framing::Chunked),
        }
    }

    /// The Host value (RFC 9112 §3.2), which must not contradict an absolute-form target.
    ///
    /// RFC 9112 §3.2.2 has the target win; but not every server behind us knows that.
    fn host(&self, target: &[u8], buf: &[u8], http10: bool) -> Result<Option<Range<usize>>, HeadError> {
        let range = match self.host.clone() {
            Some(range) if http10 && range.is_empty() => None,
            None if !http10 => return Err(HeadError::HostMissing),
            range => range,
        };
        let host = match &range {
            Some(range) => Some(authority(&buf[range.clone()]).ok_or(HeadError::HostInvalid)?),
            None => None,
        };
        if let Some(absolute) = absolute_form(target) {
            let (name, port) = authority(absolute.authority).ok_or(HeadError::TargetForm)?;
            let same = host.is_some_and(|(host, host_port)| {
                let default = absolute.default_port;
                host.eq_ignore_ascii_case(name) && host_port.unwrap_or(default) == port.unwrap_or(default)
            });
            if !same {
                return Err(HeadError::HostMismatch);
            }
        }
        Ok(range)
    }
}

fn once<T>(slot: &mut Option<T>, value: T, duplicate: HeadError) -> Result<(), HeadError> {
    slot.replace(value).map_or(Ok(()), |_| Err(duplicate))
}

/// Where the colon after the field name is.
fn field_name(line: &[u8]) -> Result<usize, HeadError> {
    let end = line.iter().position(|&byte| !is_tchar(byte)).unwrap_or(line.len());
    match line.get(end) {
        Some(b':') if end > 0 => Ok(end),
        Some(b' ' | b'\t') if end == 0 => Err(HeadError::Fold),
        Some(b' ' | b'\t') if trim_start(&line[end..]).starts_with(b":") => Err(HeadError::SpaceBeforeColon),
        _ => Err(blame(line, HeadError::FieldName)),
    }
}

/// Whether the engine, which knows names in lower case, writes this one as it came without having been told how: it
/// capitalises a few and leaves the others in lower case.
fn tells_spelling(name: &[u8]) -> bool {
    const CAPITALISED: [&[u8]; 6] =
        [b"Host", b"Connection", b"Content-Length", b"Content-Type", b"Transfer-Encoding", b"Cache-Control"];
    !name.iter().any(u8::is_ascii_uppercase)
        || CAPITALISED.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether a field is the one named, which is as long. With underscores for hyphens it is refused: CGI
/// and its heirs fold the two, so a server behind us might obey a length that we ignored.
pub(super) fn is_named(name: &[u8], expected: &[u8]) -> Result<bool, HeadError> {
    if name.eq_ignore_ascii_case(expected) {
        return Ok(true);
    }
    let mut pairs = name.iter().zip(expected);
    if pairs.all(|(&a, &b)| a.eq_ignore_ascii_case(&b) || (a == b'_' && b == b'-')) {
        return Err(HeadError::Underscore);
    }
    Ok(false)
}

/// RFC 9110 §8.6, u63 because some readers use signed lengths.
///
/// A list of equal values, which RFC 9112 §6.3 lets a recipient accept, is refused: no client means it,
/// and servers that take the first value, the last or the whole text differ on where the body ends.
pub(super) fn length(value: &[u8]) -> Result<u64, HeadError> {
    if memchr(b',', value).is_some() {
        return Err(HeadError::LengthList);
    }
    if value.is_empty() {
        return Err(HeadError::LengthInvalid);
    }
    let mut length: i64 = 0;
    for byte in value {
        let digit = byte.wrapping_sub(b'0');
        let longer = length.checked_mul(10).and_then(|n| n.checked_add(i64::from(digit)));
        length = longer.filter(|_| digit <= 9).ok_or(HeadError::LengthInvalid)?;
    }
    Ok(length.unsigned_abs())
}

/// Transfer-Encoding (RFC 9112 §6.1).
fn coding(value: &[u8]) -> Result<Coding, HeadError> {
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    if is_chunked(value) {
        return Ok(Coding::Chunked);
    }
    let mut codings = value.split(|&byte| byte == b',').map(trim).rev();
    let ends_chunked = codings.next().is_some_and(is_chunked);
    if ends_chunked && codings.all(|coding| is_token(coding) && !is_chunked(coding)) {
        Ok(Coding::Unsupported)
    } else {
        Err(HeadError::CodingInvalid)
    }
}

/// The host and port of `uri-host [ ":" port ]` (RFC 9110 §7.2), if it is plausible.
///
/// A comma and a percent-escape, which RFC 3986 §3.2.2 allows in a reg-name, are not: the one passes for
/// a list, the other names one host to a server that decodes and another to one that does not.
pub(super) fn authority(value: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let end = if value.first() == Some(&b'[') {
        let end = memchr(b']', value)?;
        std::str::from_utf8(&value[1..end]).ok()?.parse::<Ipv6Addr>().ok()?;
        end + 1
    } else {
        value.iter().position(|&byte| !is_host_byte(byte)).unwrap_or(value.len())
    };
    match &value[end..] {
        _ if end == 0 => None,
        [] => Some((&value[..end], None)),
        [b':', digits @ ..] => Some((&value[..end], Some(port(digits)?))),
        _ => None,
    }
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(&byte)
}

fn port(digits: &[u8]) -> Option<u16> {
    if !digits.iter().all(u8::is_ascii_digit) || digits.len() > 5 {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The more telling reason when `bytes` hold a CR or a NUL.
fn blame(bytes: &[u8], otherwise: HeadError) -> HeadError {
    if memchr(b'\r', bytes).is_some() {
        HeadError::BareCr
    } else if memchr(0, bytes).is_some() {
        HeadError::Nul
    } else {
        otherwise
    }
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is_tchar(byte))
}

// The next two look at every byte rather than stop at the first bad one: that vectorises.

fn is_field_value(bytes: &[u8]) -> bool {
    !bytes.iter().fold(false, |bad, &byte| bad | !is_text(byte))
}

fn is_target(bytes: &[u8]) -> bool {
    !bytes.iter().fold(false, |bad, &byte| bad | (byte <= b' ') | (byte == 0x7F) | (byte == b'#'))
}

/// Without optional white space (RFC 9110 §5.6.3), which is not what `trim_ascii` trims.
fn trim(bytes: &[u8]) -> &[u8] {
    let bytes = trim_start(bytes);
    let end = bytes.iter().rposition(|&byte| !matches!(byte, b' ' | b'\t'));
    &bytes[..end.map_or(0, |last| last + 1)]
}

fn trim_start(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|&byte| !matches!(byte, b' ' | b'\t'));
    &bytes[start.unwrap_or(bytes.len())..]
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// The head as the engine takes it. `bytes` begins where the request line does.
///
/// - An absolute-form target becomes the origin-form: Host names the same authority (`Fields::host` saw to it), but
///   the engine wants it byte for byte, case and default port included.
/// - `" < > \`` and bytes beyond ASCII in a target are no part of a URI (RFC 3986 §2) and too much for the engine, but
///   hand-written requests hold them, so they are percent-encoded as browsers do.
pub fn tidy(bytes: BytesMut, head: &Head) -> BytesMut {
    let range = head.target.start - head.skip..head.target.end - head.skip;
    let target = &bytes[range.clone()];
    let absolute = absolute_form(target);
    if absolute.is_none() && !target.iter().any(is_strange) {
        return bytes;
    }
    let mut tidied = BytesMut::with_capacity(bytes.len() + 64);
    tidied.extend_from_slice(&bytes[..range.start]);
    let path = absolute.map_or(target, |absolute| absolute.rest);
    if absolute.is_some() && path.first() != Some(&b'/') {
        tidied.extend_from_slice(b"/"); // RFC 9112 §3.2.1: an empty path is sent as one slash
    }
    encode(path, &mut tidied);
    tidied.extend_from_slice(&bytes[range.end..]);
    tidied
}

/// No part of a URI, but of hand-written targets.
pub(super) fn is_strange(byte: &u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'`' | 0x80..)
}

/// Writes a target down with what is strange percent-encoded.
pub(super) fn encode(target: &[u8], out: &mut BytesMut) {
    for byte in target {
        if is_strange(byte) {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        } else {
            out.extend_from_slice(&[*byte]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::HeadError::*;
    use super::*;
    use proptest::prelude::*;

    const LIMITS: HeadLimits = HeadLimits { target: 64, size: 512, fields: 8 };
    const NONE: Result<Framing, HeadError> = Ok(Framing::None);

    /// The answer after feeding `bytes` in slices that end at `cuts`, then whole.
    fn fed(bytes: &[u8], cuts: impl IntoIterator<Item = usize>) -> HeadState {
        let mut scanned = 0;
        for end in cuts {
            match check(&bytes[..end], scanned, &LIMITS) {
                HeadState::Partial => scanned = end,
                answer => return answer,
            }
        }
        check(bytes, scanned, &LIMITS)
    }

    fn assert_table(cases: &[(&str, &[u8], Result<Framing, HeadError>)]) {
        for &(name, bytes, expected) in cases {
            let whole = check(bytes, 0, &LIMITS);
            match (&whole, expected) {
                (HeadState::Complete(head), Ok(framing)) => {
                    assert_eq!((head.framing, head.len), (framing, bytes.len()), "{name}");
                }
                (HeadState::Refused(error), Err(expected)) => {
                    assert_eq!(*error, expected, "{name}")
                }
                _ => panic!("{name}: {whole:?}, expected {expected:?}"),
            }
            assert_eq!(fed(bytes, 0..bytes.len()), whole, "{name}, byte by byte");
            for cut in 0..bytes.len() {
                assert_eq!(fed(bytes, [cut]), whole, "{name}, cut at {cut}");
            }
            let followed = [bytes, b"\r\nGET /next HTTP/1.1\r\n\r\n\n\0"].concat();
            assert_eq!(check(&followed, 0, &LIMITS), whole, "{name}, followed");
        }
    }

    #[test]
    #[rustfmt::skip] // one line a case
    fn request_lines() {
        assert_table(&[
            ("plain", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", NONE),
            ("any token", b"X-!9 / HTTP/1.1\r\nHost: a\r\n\r\n", NONE),
            ("high bytes in target", b"GET /\xC3\xA9 HTTP/1.1\r\nHost: a\r\n\r\n", NONE),
            ("options *", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", NONE),
            ("one empty line", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", NONE),
            ("four empty lines", b"\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", NONE),
            ("five empty lines", b"\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Err(EmptyLines)),
            ("empty line of LF", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Err(BareLf)),
            ("empty line of CR", b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", Err(BareCr)),
            ("LF after request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", Err(BareLf)),
            ("CR after request line", b"GET / HTTP/1.1\rHost: a\r\n\r\n", Err(BareCr)),
            ("CR CR LF", b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", Err(BareCr)),
            ("CR in method", b"G\rET / HTTP/1.1\r\nHost: a\r\n\r\n", Err(BareCr)),
            ("CR in target", b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", Err(BareCr)),
            ("NUL in method", b"GE\0T / HTTP/1.1\r\nHost: a\r\n\r\n", Err(Nul)),
            ("NUL in target", b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", Err(Nul)),
            ("DEL in target", b"GET /\x7F HTTP/1.1\r\nHost: a\r\n\r\n", Err(Target)),
            ("tab in target", b"GET /\t HTTP/1.1\r\nHost: a\r\n\r\n", Err(Target)),
            ("fragment", b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", Err(Target)),
            ("space in target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Err(Version)),
            ("second version", b"GET / HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n", Err(Version)),
            ("space first", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Err(Method)),
            ("two spaces before target", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Err(Version)),
            ("two spaces after target", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Err(Version)),
            ("space last", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Err(Version)),
            ("tabs for spaces", b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", Err(Method)),
            ("no target", b"GET HTTP/1.1\r\nHost: a\r\n\r\n", Err(RequestLine)),
            ("HTTP/0.9", b"GET /\r\n\r\n", Err(RequestLine)),
            ("method only", b"GET\r\n\r\n", Err(RequestLine)),
            ("method with colon", b"Host: a HTTP/1.1\r\nHost: a\r\n\r\n", Err(Method)),
            ("long method", b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF / HTTP/1.1\r\nHost: a\r\n\r\n", NONE),
            ("longer method", b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1\r\nHost: a\r\n\r\n", Err(Method)),
            ("TLS hello", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n", Err(Method)),
            ("lower-case version", b"GET / http/1.1\r\nHost: a\r\n\r\n", Err(Version)),
            ("long version", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", Err(Version)),
            ("short version", b"GET / HTTP/1\r\nHost: a\r\n\r\n", Err(Version)),
            ("other protocol", b"GET / HTTPS/1.1\r\nHost: a\r\n\r\n", Err(Version)),
            ("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", Err(VersionUnsupported)),
            ("HTTP/0.9, said", b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", Err(VersionUnsupported)),
            ("h2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Err(VersionUnsupported)),
            ("CONNECT", b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", Err(MethodRefused)),
            ("TRACE", b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Err(MethodRefused)),
            ("trace", b"trace / HTTP/1.1\r\nHost: a\r\n\r\n", Err(MethodRefused)),
        ]);
    }

    #[test]
    #[rustfmt::skip] // one line a case
    fn targets_and_hosts() {
        assert_table(&[
            ("absolute", b"GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n", NONE),
            ("absolute, other case", b"GET HTTP://A/b HTTP/1.1\r\nHost: a\r\n\r\n", NONE),
            ("absolute, no path", b"GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n", NONE),
            ("default port in target", b"GET http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n", NONE),
            ("default port in Host", b"GET https://a/ HTTP/1.1\r\nHost: a:443\r\n\r\n", NONE),
            ("other default port", b"GET https://a/ HTTP/1.1\r\nHost: a:80\r\n\r\n", Err(HostMismatch)),
            ("other port", b"GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(HostMismatch)),
            ("other host", b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(HostMismatch)),
            ("other host, 1.0", b"GET http://b/ HTTP/1.0\r\n\r\n", Err(HostMismatch)),
            ("userinfo in target", b"GET http://b@a/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(TargetForm)),
            ("backslash in authority", b"GET http://a\\b/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(TargetForm)),
            ("no authority", b"GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n", Err(TargetForm)),
            ("one slash", b"GET http:/a HTTP/1.1\r\nHost: a\r\n\r\n", Err(TargetForm)),
            ("other scheme", b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(TargetForm)),
            ("* with GET", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", Err(TargetForm)),
            ("relative", b"GET a/b HTTP/1.1\r\nHost: a\r\n\r\n", Err(TargetForm)),
            ("authority-form", b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Err(TargetForm)),
            ("query only", b"GET ?a HTTP/1.1\r\nHost: a\r\n\r\n", Err(TargetForm)),
            ("no Host", b"GET / HTTP/1.1\r\n\r\n", Err(HostMissing)),
            ("no Host, 1.0", b"GET / HTTP/1.0\r\n\r\n", NONE),
            ("empty Host", b"GET / HTTP/1.1\r\nHost: \r\n\r\n", Err(HostInvalid)),
            ("empty Host, 1.0", b"GET / HTTP/1.0\r\nHost:\r\n\r\n", NONE),
            ("two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", Err(HostDuplicate)),
            ("two Hosts, 1.0", b"GET / HTTP/1.0\r\nHost:\r\nHost: a\r\n\r\n", Err(HostDuplicate)),
            ("port", b"GET / HTTP/1.1\r\nHost: a.b-c_d.example.:8080\r\n\r\n", NONE),
            ("IPv4", b"GET / HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n", NONE),
            ("IPv6", b"GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n", NONE),
            ("IPv6 and port", b"GET / HTTP/1.1\r\nHost:\t[2001:DB8::1]:80 \r\n\r\n", NONE),
            ("bare IPv6", b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", Err(HostInvalid)),
            ("open IPv6", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", Err(HostInvalid)),
            ("not IPv6", b"GET / HTTP/1.1\r\nHost: [a]\r\n\r\n", Err(HostInvalid)),
            ("after IPv6", b"GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n", Err(HostInvalid)),
            ("zone", b"GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n\r\n", Err(HostInvalid)),
            ("empty port", b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", Err(HostInvalid)),
            ("port only", b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n", Err(HostInvalid)),
            ("named port", b"GET / HTTP/1.1\r\nHost: a:http\r\n\r\n", Err(HostInvalid)),
            ("signed port", b"GET / HTTP/1.1\r\nHost: a:+80\r\n\r\n", Err(HostInvalid)),
            ("large port", b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", Err(HostInvalid)),
            ("two ports", b"GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", Err(HostInvalid)),
            ("userinfo", b"GET / HTTP/1.1\r\nHost: b@a\r\n\r\n", Err(HostInvalid)),
            ("two names", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Err(HostInvalid)),
            ("list", b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", Err(HostInvalid)),
            ("path in Host", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Err(HostInvalid)),
            ("escape in Host", b"GET / HTTP/1.1\r\nHost: %61\r\n\r\n", Err(HostInvalid)),
            ("high byte in Host", b"GET / HTTP/1.1\r\nHost: \xE9\r\n\r\n", Err(HostInvalid)),
        ]);
    }

    #[test]
    #[rustfmt::skip] // one line a case
    fn field_lines() {
        assert_table(&[
            ("no space", b"GET / HTTP/1.1\r\nHost:a\r\nA:\r\n\r\n", NONE),
            ("high bytes and tabs", b"GET / HTTP/1.1\r\nHost: a\r\nA: \t\xFFb\t\r\n\r\n", NONE),
            ("bare LF", b"GET / HTTP/1.1\r\nHost: a\nA: b\r\n\r\n", Err(BareLf)),
            ("LF LF", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\n\n", Err(BareLf)),
            ("CRLF LF", b"GET / HTTP/1.1\r\nHost: a\r\n\n", Err(BareLf)),
            ("bare CR", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\rC: d\r\n\r\n", Err(BareCr)),
            ("CR CR LF", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\r\n\r\n", Err(BareCr)),
            ("CR in name", b"GET / HTTP/1.1\r\nHost: a\r\nA\r: b\r\n\r\n", Err(BareCr)),
            ("NUL in name", b"GET / HTTP/1.1\r\nHost: a\r\nA\0: b\r\n\r\n", Err(Nul)),
            ("NUL in value", b"GET / HTTP/1.1\r\nHost: a\r\nA: \0\r\n\r\n", Err(Nul)),
            ("control in value", b"GET / HTTP/1.1\r\nHost: a\r\nA: \x0B\r\n\r\n", Err(FieldValue)),
            ("DEL in value", b"GET / HTTP/1.1\r\nHost: a\r\nA: \x7F\r\n\r\n", Err(FieldValue)),
            ("fold", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", Err(Fold)),
            ("fold with tab", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\tc\r\n\r\n", Err(Fold)),
            ("fold first", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", Err(Fold)),
            ("blank line", b"GET / HTTP/1.1\r\nHost: a\r\n \r\n\r\n", Err(Fold)),
            ("space before colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", Err(SpaceBeforeColon)),
            ("tab before colon", b"GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", Err(SpaceBeforeColon)),
            ("empty name", b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Err(FieldName)),
            ("no colon", b"GET / HTTP/1.1\r\nHost: a\r\nabc\r\n\r\n", Err(FieldName)),
            ("hidden request", b"GET / HTTP/1.1\r\nHost: a\r\nGET /x HTTP/1.1\r\n\r\n", Err(FieldName)),
            ("quoted name", b"GET / HTTP/1.1\r\nHost: a\r\n\"A\": b\r\n\r\n", Err(FieldName)),
            ("high byte in name", b"GET / HTTP/1.1\r\nHost: a\r\n\xC3\xA9: b\r\n\r\n", Err(FieldName)),
            ("expect", b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\n\r\n", NONE),
            ("expect other", b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", Err(Expectation)),
            ("expect list", b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, x\r\n\r\n", Err(Expectation)),
            ("expect nothing", b"GET / HTTP/1.1\r\nHost: a\r\nExpect:\r\n\r\n", Err(Expectation)),
            ("expect in 1.0", b"GET / HTTP/1.0\r\nExpect: 200-ok\r\n\r\n", NONE),
        ]);
    }

    /// Every case is the fields after a sound request line and Host, in HTTP/1.1.
    #[test]
    #[rustfmt::skip] // one line a case
    fn framing() {
        let cases: &[(&str, Result<Framing, HeadError>)] = &[
            ("Content-Length: 0", Ok(Framing::Length(0))),
            ("content-length:\t 0012 ", Ok(Framing::Length(12))),
            ("Content-Length: 9223372036854775807", Ok(Framing::Length(i64::MAX as u64))),
            ("Content-Length: 9223372036854775808", Err(LengthInvalid)),
            ("Content-Length: 18446744073709551617", Err(LengthInvalid)),
            ("Content-Length:", Err(LengthInvalid)),
            ("Content-Length: +5", Err(LengthInvalid)),
            ("Content-Length: -5", Err(LengthInvalid)),
            ("Content-Length: 0x5", Err(LengthInvalid)),
            ("Content-Length: 5 5", Err(LengthInvalid)),
            ("Content-Length: 5;a", Err(LengthInvalid)),
            ("Content-Length: 5.0", Err(LengthInvalid)),
            ("Content-Length: \"5\"", Err(LengthInvalid)),
            ("Content-Length: \u{661}", Err(LengthInvalid)),
            ("Content-Length: 5, 5", Err(LengthList)),
            ("Content-Length: 5,", Err(LengthList)),
            ("Content-Length: 5\r\nContent-Length: 5", Err(LengthDuplicate)),
            ("Content-Length: 5\r\ncontent-length: 6", Err(LengthDuplicate)),
            ("Content-Length: 5\r\n Content-Length: 6", Err(Fold)),
            ("Content-Length : 5", Err(SpaceBeforeColon)),
            ("Content_Length: 5", Err(Underscore)),
            ("content_length: 5", Err(Underscore)),
            ("Content-Lengths: 5", NONE),
            ("Content-Langth: 5", NONE),
            ("Transfer-Encoding: chunked", Ok(Framing::Chunked)),
            ("transfer-encoding:\tCHUNKED \t", Ok(Framing::Chunked)),
            ("Transfer-Encoding:", Err(CodingInvalid)),
            ("Transfer-Encoding: xchunked", Err(CodingInvalid)),
            ("Transfer-Encoding: chunked;a", Err(CodingInvalid)),
            ("Transfer-Encoding: \"chunked\"", Err(CodingInvalid)),
            ("Transfer-Encoding: chunked,", Err(CodingInvalid)),
            ("Transfer-Encoding: , chunked", Err(CodingInvalid)),
            ("Transfer-Encoding: chunked, chunked", Err(CodingInvalid)),
            ("Transfer-Encoding: chunked, gzip", Err(CodingInvalid)),
            ("Transfer-Encoding: chunked, gzip, chunked", Err(CodingInvalid)),
            ("Transfer-Encoding: chunked identity", Err(CodingInvalid)),
            ("Transfer-Encoding: gzip", Err(CodingInvalid)),
            ("Transfer-Encoding: identity", Err(CodingInvalid)),
            ("Transfer-Encoding: gzip;q=1, chunked", Err(CodingInvalid)),
            ("Transfer-Encoding: \u{b}chunked", Err(FieldValue)),
            ("Transfer-Encoding: \u{a0}chunked", Err(CodingInvalid)),
            ("Transfer-Encoding\u{b}: chunked", Err(FieldName)),
            ("Transfer-Encoding : chunked", Err(SpaceBeforeColon)),
            ("Transfer-Encoding:\r\n chunked", Err(CodingInvalid)),
            ("X: y\rTransfer-Encoding: chunked", Err(BareCr)),
            ("X: y\nTransfer-Encoding: chunked", Err(BareLf)),
            ("Transfer_Encoding: chunked", Err(Underscore)),
            ("Transfer Encoding: chunked", Err(FieldName)),
            ("Transfer-Encoding: gzip, chunked", Err(CodingUnsupported)),
            ("Transfer-Encoding: identity , Chunked", Err(CodingUnsupported)),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Err(CodingDuplicate)),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: x", Err(CodingInvalid)),
            ("Transfer-Encoding: gzip, chunked\r\nTransfer-Encoding: chunked", Err(CodingDuplicate)),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked", Err(LengthAndCoding)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5", Err(LengthAndCoding)),
            ("Transfer-Encoding: gzip, chunked\r\nContent-Length: 0", Err(LengthAndCoding)),
        ];
        for (fields, expected) in cases {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
            assert_table(&[(fields, head.as_bytes(), *expected)]);
        }
        assert_table(&[
            ("1.0", b"POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\n", Ok(Framing::Length(1))),
            ("1.0 TE", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Err(CodingInHttp10)),
        ]);
    }

    #[test]
    fn tells_where_things_are() {
        let bytes = b"\r\nPUT /a?b HTTP/1.0\r\nHost: \t x.y:1 \r\nExpect: 100-continue\r\n\r\nbody";
        let HeadState::Complete(head) = check(bytes, 0, &LIMITS) else { panic!("refused") };
        assert_eq!((head.skip, head.len, head.http10), (2, bytes.len() - 4, true));
        assert!(!head.expect_continue);
        assert_eq!(&bytes[head.method], b"PUT");
        assert_eq!(&bytes[head.target], b"/a?b");
        assert_eq!(&bytes[head.host.unwrap()], b"x.y:1");
        let bytes = b"PUT /a HTTP/1.1\r\nHost:x\r\nExpect: 100-continue\r\n\r\n";
        let HeadState::Complete(head) = check(bytes, 0, &LIMITS) else { panic!("refused") };
        assert!(head.expect_continue && !head.http10);
    }

    #[test]
    fn limits_are_exact() {
        let target = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(n - 1));
        assert_table(&[("target", target(64).as_bytes(), NONE)]);
        assert_table(&[("long target", target(65).as_bytes(), Err(TargetTooLong))]);
        let fields = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(n - 1));
        assert_table(&[("fields", fields(8).as_bytes(), NONE)]);
        assert_table(&[("many fields", fields(9).as_bytes(), Err(TooManyFields))]);
        let size = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nA:{}\r\n\r\n", "x".repeat(n - 31));
        assert_eq!(size(512).len(), 512);
        assert_table(&[("size", size(512).as_bytes(), NONE)]);
        assert_table(&[("large", size(513).as_bytes(), Err(HeadTooLarge))]);
        assert_table(&[("larger", size(9000).as_bytes(), Err(HeadTooLarge))]);
    }

    #[test]
    fn the_engine_gets_an_origin_form_in_uri_characters() {
        for (target, tidied) in [
            ("/a?b=%20|{}", "/a?b=%20|{}"),
            ("/\"<a>`?\u{e9}", "/%22%3Ca%3E%60?%C3%A9"),
            ("http://A:80/b?c", "/b?c"),
            ("http://a", "/"),
            ("HTTP://a?\"", "/?%22"),
            ("//a/b", "//a/b"),
        ] {
            let bytes = format!("\r\nGET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let HeadState::Complete(head) = check(bytes.as_bytes(), 0, &LIMITS) else { panic!("{target}") };
            let tidy = tidy(BytesMut::from(&bytes.as_bytes()[head.skip..]), &head);
            assert_eq!(tidy, format!("GET {tidied} HTTP/1.1\r\nHost: a\r\n\r\n"), "{target}");
        }
    }

    #[test]
    fn refuses_as_early_as_it_can() {
        let early = |bytes: &[u8]| fed(bytes, 0..bytes.len());
        let target = format!("GET /{}", "x".repeat(64));
        assert_eq!(early(&target.as_bytes()[..68]), HeadState::Partial);
        assert_eq!(early(target.as_bytes()), HeadState::Refused(TargetTooLong));
        let large = [&b"GET / HTTP/1.1\r\nA: "[..], &[b'x'; 493]].concat();
        assert_eq!(early(&large[..511]), HeadState::Partial);
        assert_eq!(early(&large), HeadState::Refused(HeadTooLarge));
        assert_eq!(early(b"\x16"), HeadState::Refused(Method));
        assert_eq!(early(&[b'A'; 32]), HeadState::Partial);
        assert_eq!(early(&[b'A'; 33]), HeadState::Refused(Method));
        assert_eq!(early(b"GET / HTTP/3.0\r\n"), HeadState::Refused(VersionUnsupported));
        assert_eq!(early(b"GET / HTTP/1.1\r\nA: b\n"), HeadState::Refused(BareLf));
        assert_eq!(early(b""), HeadState::Partial);
        assert_eq!(early(b"\r\n\r"), HeadState::Partial);
    }

    #[test]
    fn statuses() {
        assert_eq!(BareLf.status(), 400);
        assert_eq!(MethodRefused.status(), 405);
        assert_eq!(TargetTooLong.status(), 414);
        assert_eq!(Expectation.status(), 417);
        assert_eq!((HeadTooLarge.status(), TooManyFields.status()), (431, 431));
        assert_eq!(CodingUnsupported.status(), 501);
        assert_eq!(VersionUnsupported.status(), 505);
        assert_eq!((Fold.reason(), Fold.detail().ends_with('.')), ("fold", true));
    }

    #[test]
    #[ignore = "timing; run with --release --nocapture"]
    fn timing() {
        let head = b"GET /service1/orders/12345/items?page=2 HTTP/1.1\r\nHost: api.example.com\r\n\
            User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
            Accept: application/json, text/plain, */*\r\nAccept-Language: en-US,en;q=0.5\r\n\
            Accept-Encoding: gzip, deflate, br, zstd\r\nAuthorization: Bearer abcdefghijklmnop\r\n\
            Connection: keep-alive\r\nCookie: session=0123456789abcdef\r\nContent-Length: 12\r\n\r\n";
        let limits = HeadLimits { target: 8192, size: 65536, fields: 100 };
        assert!(matches!(check(head, 0, &limits), HeadState::Complete(_)));
        let start = std::time::Instant::now();
        for _ in 0..1_000_000 {
            std::hint::black_box(check(std::hint::black_box(head), 0, &limits));
        }
        println!("{} bytes: {:?}/1e6", head.len(), start.elapsed());
        let slow = [&b"GET / HTTP/1.1\r\nHost: a\r\n"[..], &b"A: b\r\n".repeat(10_000), b"\r\n"].concat();
        let limits = HeadLimits { target: 8192, size: 65536, fields: 20_000 };
        let start = std::time::Instant::now();
        for end in 1..slow.len() {
            assert_eq!(check(&slow[..end], end - 1, &limits), HeadState::Partial);
        }
        println!("{} bytes, byte by byte: {:?}", slow.len(), start.elapsed());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// Damaged heads: no panic, no answer that depends on slicing, no line end that is not CRLF.
        #[test]
        fn sound_however_damaged_and_split(
            edits in proptest::collection::vec(
                (any::<prop::sample::Index>(), 0usize..3, "[\r\n\0\t :/a,_-]{0,2}"), 0..5),
            cuts in proptest::collection::btree_set(0usize..90, 0..6),
        ) {
            let mut bytes = b"POST http://a/b HTTP/1.1\r\nHost: a\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec();
            for (index, removed, put) in edits {
                let at = index.index(bytes.len());
                let end = bytes.len().min(at + removed);
                bytes.splice(at..end, put.bytes());
            }
            let whole = check(&bytes, 0, &LIMITS);
            let cuts = cuts.into_iter().filter(|&cut| cut < bytes.len());
            let split = fed(&bytes, cuts);
            if let HeadState::Complete(head) = &whole {
                let text = &bytes[head.skip..head.len];
                prop_assert_eq!(text.windows(4).position(|w| w == b"\r\n\r\n"), Some(text.len() - 4));
                let count = |byte| text.iter().filter(|&&b| b == byte).count();
                let lines = text.windows(2).filter(|w| w == b"\r\n").count();
                prop_assert_eq!((count(b'\r'), count(b'\n')), (lines, lines));
            }
            match (&whole, &split) {
                // A head never completed: what a line of it holds may be noticed later when split.
                (HeadState::Refused(_), HeadState::Partial) => {
                    prop_assert!(!bytes.windows(4).skip(8).any(|w| w == b"\r\n\r\n"));
                }
                // Of several faults another may come first.
                (HeadState::Refused(one), HeadState::Refused(other)) => {
                    prop_assert_eq!(one.status(), other.status());
                }
                _ => prop_assert_eq!(whole, split),
            }
        }
    }
}
