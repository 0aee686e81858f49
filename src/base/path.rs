//! The one place where a request path is normalised, before routing and policy look at it.
//!
//! Policy and upstream must never see two different paths, so whatever two readers could take for two
//! different paths (an encoded slash, a backslash, `..;`) is refused rather than guessed at.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// Why a path cannot be normalised without changing what it means. Always a 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// It does not begin with `/`.
    NotAbsolute,
    /// A `%` without two hexadecimal digits (RFC 3986 §2.1).
    BadEscape,
    /// `%2F`: one segment to some readers, two to others.
    EncodedSlash,
    /// `\` or `%5C`: a slash to some readers.
    Backslash,
    /// `%00`, `%0A` or `%0D`.
    EncodedControl,
    /// A raw control character or space.
    Control,
    /// A raw `#` or `?`: the caller has not split the target, or the client sent a fragment.
    Delimiter,
    /// `..` above the root.
    AboveRoot,
    /// `.` or `..` with parameters (`..;x`): a dot segment to servers that strip parameters, else a name.
    DotParameters,
}

impl PathError {
    /// What a client's developer can do about it.
    pub fn detail(self) -> &'static str {
        match self {
            Self::NotAbsolute => "The request path must begin with \"/\".",
            Self::BadEscape => "Every \"%\" in the request path must be followed by two hexadecimal digits.",
            Self::EncodedSlash => "The request path must not contain an encoded slash (%2F).",
            Self::Backslash => "The request path must not contain a backslash, raw or encoded (%5C).",
            Self::EncodedControl => "The request path must not contain %00, %0A or %0D.",
            Self::Control => "Control characters and spaces in the request path must be percent-encoded.",
            Self::Delimiter => "A \"#\" or \"?\" that belongs to the request path must be percent-encoded.",
            Self::AboveRoot => "The request path climbs above the root with \"..\" segments.",
            Self::DotParameters => {
                "A \".\" or \"..\" segment of the request path must not carry parameters (\";\")."
            }
        }
    }

    /// The machine-readable reason, for logs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotAbsolute => "path_not_absolute",
            Self::BadEscape => "path_bad_escape",
            Self::EncodedSlash => "path_encoded_slash",
            Self::Backslash => "path_backslash",
            Self::EncodedControl => "path_encoded_control",
            Self::Control => "path_control",
            Self::Delimiter => "path_delimiter",
            Self::AboveRoot => "path_above_root",
            Self::DotParameters => "path_dot_parameters",
        }
    }
}

/// The normal form of a path (RFC 3986 §6.2.2): unreserved characters decoded, other escapes in upper
/// case, what a browser would have escaped escaped, `//` merged, dot segments resolved.
///
/// Slashes are merged before dot segments are resolved, as NGINX does and as a file system would:
/// `/a//../b` is `/b`, where RFC 3986 §5.2.4 alone, knowing no merging, says `/a/b`.
///
/// Borrowed when the path is already normal: the common case costs one scan and no allocation.
pub fn normalise(raw: &[u8]) -> Result<Cow<'_, str>, PathError> {
    if is_normal(raw) {
        if let Ok(path) = std::str::from_utf8(raw) {
            return Ok(Cow::Borrowed(path));
        }
    }
    if raw.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    resolve(&recode(raw)?).map(Cow::Owned)
}

/// The path and the query of a request target (RFC 9112 §3.2), origin-form or absolute-form. Scheme and
/// authority of an absolute-form are dropped and its empty path is `/`. Nothing is validated here.
pub fn split_target(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    let absolute = absolute_form(target);
    let rest = absolute.map_or(target, |absolute| absolute.rest);
    let (path, query) = match memchr(b'?', rest) {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    // An origin-form must have a path; its absence is left for `normalise` to refuse.
    if path.is_empty() && absolute.is_some() {
        (b"/", query)
    } else {
        (path, query)
    }
}

/// The parts of an absolute-form target (RFC 9112 §3.2.2) with an http or https scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbsoluteForm<'a> {
    /// The port that the scheme implies.
    pub default_port: u16,
    /// Between `//` and the next `/` or `?`, not validated.
    pub authority: &'a [u8],
    /// Path and query; the path may be missing.
    pub rest: &'a [u8],
}

/// Takes an absolute-form target apart, for routing and for the check against Host alike: they must not
/// disagree on where the authority ends. `None` for any other form or scheme.
pub fn absolute_form(target: &[u8]) -> Option<AbsoluteForm<'_>> {
    for (scheme, default_port) in [(&b"http://"[..], 80), (b"https://", 443)] {
        if target.len() >= scheme.len() && target[..scheme.len()].eq_ignore_ascii_case(scheme) {
            let after = &target[scheme.len()..];
            let (authority, rest) = after.split_at(memchr2(b'/', b'?', after).unwrap_or(after.len()));
            return Some(AbsoluteForm { default_port, authority, rest });
        }
    }
    None
}

/// `path` without its leading `prefix`, by whole segments, never empty and always beginning with `/`.
/// Both are normalised; a trailing slash of the prefix does not count. A path that is not under the
/// prefix comes back as it is.
pub fn strip_prefix<'a>(path: &'a str, prefix: &str) -> &'a str {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    match path.strip_prefix(prefix) {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    }
}

/// What a raw byte of a path needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Stands as it is: pchar (RFC 3986 §3.3), and `[` `]`, which browsers leave alone.
    Plain,
    Slash,
    Percent,
    /// Not allowed in a URI, but sent by careless clients: escaped, as browsers do.
    Escape,
    Refused,
}

const CLASS: [Class; 256] = {
    let mut table = [Class::Plain; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'/' => Class::Slash,
            b'%' => Class::Percent,
            b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80.. => Class::Escape,
            0..=b' ' | 0x7F | b'\\' | b'#' | b'?' => Class::Refused,
            _ => Class::Plain,
        };
        byte += 1;
    }
    table
};

/// Whether normalising would change nothing. Says `false` to anything out of the ordinary, refusals
/// included: the slow path then tells which it is.
fn is_normal(raw: &[u8]) -> bool {
    if raw.first() != Some(&b'/') {
        return false;
    }
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        match CLASS[byte as usize] {
            Class::Plain => at += 1,
            Class::Slash => match raw.get(at + 1) {
                Some(b'/') => return false,
                Some(b'.') if is_dot_segment(&raw[at + 1..]) => return false,
                _ => at += 1,
            },
            Class::Percent => match escape(raw, at) {
                Ok(value) if !is_unreserved(value) && raw[at + 1..at + 3] == HEX[value as usize] => at += 3,
                _ => return false,
            },
            Class::Escape | Class::Refused => return false,
        }
    }
    true
}

/// Whether the segment at the start of `rest` is a dot segment, or one with parameters.
fn is_dot_segment(rest: &[u8]) -> bool {
    let after = rest.strip_prefix(b"..").or_else(|| rest.strip_prefix(b"."));
    after.is_some_and(|rest| matches!(rest, [] | [b'/' | b';', ..] | [b'%', b'3', b'B', ..]))
}

/// Decodes and encodes, byte by byte; the result is ASCII, its only escapes are ones that must stay.
fn recode(raw: &[u8]) -> Result<String, PathError> {
    let mut out = String::with_capacity(raw.len() + 16);
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        match CLASS[byte as usize] {
            Class::Plain | Class::Slash => out.push(char::from(byte)),
            Class::Percent => {
                let value = escape(raw, at)?;
                if is_unreserved(value) {
                    out.push(char::from(value));
                } else {
                    push_escape(&mut out, value);
                }
                at += 2;
            }
            Class::Escape => push_escape(&mut out, byte),
            Class::Refused => return Err(refusal(byte)),
        }
        at += 1;
    }
    Ok(out)
}

/// Merges slashes and resolves dot segments of what [`recode`] made.
fn resolve(path: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len());
    out.push('/');
    let mut segments = path.split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "" | "." => {}
            ".." => {
                // `out` ends with a slash here: the last segment, which may leave none, ends the loop.
                let parent = out.strip_suffix('/').and_then(|p| p.rfind('/'));
                out.truncate(parent.ok_or(PathError::AboveRoot)? + 1);
            }
            _ if has_dot_parameters(segment) => return Err(PathError::DotParameters),
            _ => {
                out.push_str(segment);
                if !last {
                    out.push('/');
                }
            }
        }
    }
    Ok(out)
}

/// An encoded `;` counts too: some servers decode before they cut parameters off.
fn has_dot_parameters(segment: &str) -> bool {
    let after = segment.strip_prefix("..").or_else(|| segment.strip_prefix('.'));
    after.is_some_and(|rest| rest.starts_with(';') || rest.starts_with("%3B"))
}

/// The byte that the escape at `at` stands for, unless it must not be in a path.
fn escape(raw: &[u8], at: usize) -> Result<u8, PathError> {
    let digit = |offset: usize| raw.get(at + offset).and_then(|&b| char::from(b).to_digit(16));
    let (Some(high), Some(low)) = (digit(1), digit(2)) else {
        return Err(PathError::BadEscape);
    };
    match (high * 16 + low) as u8 {
        b'/' => Err(PathError::EncodedSlash),
        b'\\' => Err(PathError::Backslash),
        0 | b'\n' | b'\r' => Err(PathError::EncodedControl),
        value => Ok(value),
    }
}

fn refusal(byte: u8) -> PathError {
    match byte {
        b'\\' => PathError::Backslash,
        b'#' | b'?' => PathError::Delimiter,
        _ => PathError::Control,
    }
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The two upper-case digits of every byte (RFC 3986 §6.2.2.1).
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789ABCDEF";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    table
};

fn push_escape(out: &mut String, byte: u8) {
    let [high, low] = HEX[byte as usize];
    out.push('%');
    out.push(char::from(high));
    out.push(char::from(low));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use PathError::*;

    #[test]
    fn normalises_or_refuses() {
        let cases: &[(&[u8], Result<&str, PathError>)] = &[
            (b"/", Ok("/")),
            (b"/a/b", Ok("/a/b")),
            (b"/a/b/", Ok("/a/b/")),
            (b"//", Ok("/")),
            (b"//a", Ok("/a")),
            (b"/a//b///c", Ok("/a/b/c")),
            (b"/a//", Ok("/a/")),
            (b"/.", Ok("/")),
            (b"/./", Ok("/")),
            (b"/a/.", Ok("/a/")),
            (b"/a/./b", Ok("/a/b")),
            (b"/a/..", Ok("/")),
            (b"/a/../", Ok("/")),
            (b"/a/b/..", Ok("/a/")),
            (b"/a/b/../c", Ok("/a/c")),
            (b"/a/b/../../c", Ok("/c")),
            (b"/a//../b", Ok("/b")),
            (b"/a/.//../b", Ok("/b")),
            (b"/..", Err(AboveRoot)),
            (b"/../", Err(AboveRoot)),
            (b"//..", Err(AboveRoot)),
            (b"/a/../..", Err(AboveRoot)),
            (b"/a//../../b", Err(AboveRoot)),
            (b"/../a", Err(AboveRoot)),
            (b"/%2e%2e/", Err(AboveRoot)),
            (b"/.%2E/", Err(AboveRoot)),
            (b"/a/%2e%2e/b", Ok("/b")),
            (b"/a/%2e/b", Ok("/a/b")),
            (b"/a/.%2e", Ok("/")),
            (b"/api../x", Ok("/api../x")),
            (b"/...", Ok("/...")),
            (b"/a/.../b", Ok("/a/.../b")),
            (b"/..a", Ok("/..a")),
            (b"/.well-known/x", Ok("/.well-known/x")),
            (b"/.%41", Ok("/.A")),
            (b"/.%20", Ok("/.%20")),
            (b"/..%20/", Ok("/..%20/")),
            (b"/api/..;/admin", Err(DotParameters)),
            (b"/api/..;x=1", Err(DotParameters)),
            (b"/api/.;/admin", Err(DotParameters)),
            (b"/api/%2e%2e;/admin", Err(DotParameters)),
            (b"/api/..%3b/admin", Err(DotParameters)),
            (b"/api/..%3B/admin", Err(DotParameters)),
            (b"/api/.%3B", Err(DotParameters)),
            (b"/api/a;v=1", Ok("/api/a;v=1")),
            (b"/api/a..;/x", Ok("/api/a..;/x")),
            (b"/...;x", Ok("/...;x")),
            (b"/..%253B/", Ok("/..%253B/")),
            (b"/%7euser", Ok("/~user")),
            (b"/%41%2d%5f", Ok("/A-_")),
            (b"/a%252e", Ok("/a%252e")),
            (b"/%252e%252e/", Ok("/%252e%252e/")),
            (b"/%252F", Ok("/%252F")),
            (b"/%25", Ok("/%25")),
            (b"/%c0%af", Ok("/%C0%AF")),
            (b"/%e2%82%aC", Ok("/%E2%82%AC")),
            (b"/\xE2\x82\xAC", Ok("/%E2%82%AC")),
            (b"/\xFF", Ok("/%FF")),
            (b"/%20", Ok("/%20")),
            (b"/%09", Ok("/%09")),
            (b"/%3f%23", Ok("/%3F%23")),
            (b"/\"<>^`{|}", Ok("/%22%3C%3E%5E%60%7B%7C%7D")),
            (b"/!$&'()*+,;=:@[]-._~", Ok("/!$&'()*+,;=:@[]-._~")),
            (b"/a%2Fb", Err(EncodedSlash)),
            (b"/a%2fb", Err(EncodedSlash)),
            (b"/a%5cb", Err(Backslash)),
            (b"/a%5Cb", Err(Backslash)),
            (b"/a\\b", Err(Backslash)),
            (b"/a%00", Err(EncodedControl)),
            (b"/a%0a", Err(EncodedControl)),
            (b"/a%0D", Err(EncodedControl)),
            (b"/a\0", Err(Control)),
            (b"/a\r", Err(Control)),
            (b"/a\n", Err(Control)),
            (b"/a b", Err(Control)),
            (b"/a\tb", Err(Control)),
            (b"/a\x7F", Err(Control)),
            (b"/a#b", Err(Delimiter)),
            (b"/a?b", Err(Delimiter)),
            (b"/%", Err(BadEscape)),
            (b"/%2", Err(BadEscape)),
            (b"/%zz", Err(BadEscape)),
            (b"/%2x", Err(BadEscape)),
            (b"/%+1", Err(BadEscape)),
            (b"/%u002e", Err(BadEscape)),
            (b"/%%32%65", Err(BadEscape)),
            (b"", Err(NotAbsolute)),
            (b"*", Err(NotAbsolute)),
            (b"a/b", Err(NotAbsolute)),
            (b"%2Fa", Err(NotAbsolute)),
            (b"\\a", Err(NotAbsolute)),
        ];
        for (raw, expected) in cases {
            let shown = String::from_utf8_lossy(raw);
            assert_eq!(normalise(raw).as_deref(), expected.as_ref().copied(), "{shown}");
        }
    }

    #[test]
    fn normal_paths_are_borrowed() {
        let normal: [&[u8]; 5] = [b"/", b"/a/b/", b"/.well-known/x", b"/%20%C3%A9", b"/..a/a;b"];
        for path in normal {
            assert!(matches!(normalise(path), Ok(Cow::Borrowed(_))), "{path:?}");
        }
    }

    #[test]
    fn splits_targets() {
        let cases: &[(&str, &str, Option<&str>)] = &[
            ("/", "/", None),
            ("/a?b", "/a", Some("b")),
            ("/a?", "/a", Some("")),
            ("/a?b?c", "/a", Some("b?c")),
            ("/http://x/", "/http://x/", None),
            ("//x/y", "//x/y", None),
            ("http://h", "/", None),
            ("http://h/", "/", None),
            ("http://h?q", "/", Some("q")),
            ("HTTPS://h:1/a/b?q", "/a/b", Some("q")),
            ("http://h/a?u=http://i/", "/a", Some("u=http://i/")),
            ("http://", "/", None),
            ("*", "*", None),
            ("ftp://h/a", "ftp://h/a", None),
            ("", "", None),
            ("?q", "", Some("q")),
        ];
        for (target, path, query) in cases {
            let expected = (path.as_bytes(), query.map(str::as_bytes));
            assert_eq!(split_target(target.as_bytes()), expected, "{target}");
        }
    }

    #[test]
    fn strips_prefixes_by_whole_segments() {
        let cases = [
            ("/api/x", "/api", "/x"),
            ("/api/x", "/api/", "/x"),
            ("/api/", "/api", "/"),
            ("/api", "/api", "/"),
            ("/api", "/api/", "/"),
            ("/apix", "/api", "/apix"),
            ("/api../x", "/api", "/api../x"),
            ("/other", "/api", "/other"),
            ("/a/b", "/", "/a/b"),
            ("/", "/", "/"),
            ("/a/b/c", "/a/b", "/c"),
        ];
        for (path, prefix, expected) in cases {
            assert_eq!(strip_prefix(path, prefix), expected, "{path} less {prefix}");
        }
    }

    #[test]
    #[ignore = "timing; run with --release --nocapture"]
    fn timing() {
        let paths: [&[u8]; 3] = [b"/service1/orders/12345/items", b"/a/%7euser/../b", b"/search/caf%C3%A9/x"];
        for path in paths {
            let start = std::time::Instant::now();
            for _ in 0..1_000_000 {
                let _ = std::hint::black_box(normalise(std::hint::black_box(path)));
            }
            println!("{:?}: {:?}/1e6", String::from_utf8_lossy(path), start.elapsed());
        }
    }

    /// Arbitrary bytes are nearly always refused: weigh the pieces that matter.
    fn raw_path() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            6 => Just(b"/".to_vec()),
            4 => "\\.{1,3}".prop_map(String::into_bytes),
            4 => "[a-zA-Z0-9~;=@\\[\\]<|\"]{1,3}".prop_map(String::into_bytes),
            3 => "%(2[eE]|7[eE]|[46][1-9a-fA-F]|25|3[bB]|[c-fC-F][0-9a-fA-F])".prop_map(String::into_bytes),
            1 => any::<u8>().prop_map(|b| format!("%{b:02x}").into_bytes()),
            1 => any::<u8>().prop_map(|b| vec![b]),
        ];
        proptest::collection::vec(piece, 0..14).prop_map(|p| [b"/".to_vec(), p.concat()].concat())
    }

    fn assert_normal(path: &str) -> Result<(), TestCaseError> {
        prop_assert!(path.starts_with('/') && path.is_ascii());
        let padded = format!("{path}/");
        for bad in ["/./", "/../", "/.;", "/..;", "/.%3B", "/..%3B"] {
            prop_assert!(!padded.contains(bad), "{path}");
        }
        prop_assert!(!path.contains("//") && !path.contains(['\\', '#', '?', ' ']));
        for (at, _) in path.match_indices('%') {
            let digits = &path[at + 1..at + 3];
            let value = u8::from_str_radix(digits, 16).unwrap();
            prop_assert_eq!(digits, format!("{value:02X}"));
            prop_assert!(!is_unreserved(value) && !matches!(value, b'/' | b'\\' | 0 | b'\n' | b'\r'));
        }
        prop_assert!(matches!(normalise(path.as_bytes()), Ok(Cow::Borrowed(same)) if same == path));
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn results_are_normal(raw in raw_path()) {
            if let Ok(path) = normalise(&raw) {
                assert_normal(&path)?;
            }
        }

        #[test]
        fn fast_and_slow_path_agree(raw in raw_path()) {
            let slow = recode(&raw).and_then(|path| resolve(&path));
            prop_assert_eq!(normalise(&raw).map(Cow::into_owned), slow);
        }

        #[test]
        fn stripped_paths_are_normal(raw in raw_path(), cut in 0usize..20, other in raw_path()) {
            let Ok(path) = normalise(&raw) else { return Ok(()) };
            let own = path.get(..cut).unwrap_or(&path);
            let other = normalise(&other).unwrap_or_default();
            for prefix in [own, &*other] {
                if normalise(prefix.as_bytes()).is_ok_and(|normal| normal == prefix) {
                    assert_normal(strip_prefix(&path, prefix))?;
                }
            }
        }

        #[test]
        fn never_panics(raw in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = normalise(&raw);
            let (path, _) = split_target(&raw);
            let _ = normalise(path);
        }
    }
}
