//! Where a chunked body ends (RFC 9112 §7.1), read strictly and without looking at its data.
//!
//! The engine decodes the body; this only counts, so that the engine never sees a byte of the next
//! request. It therefore refuses every chunk that two readers could delimit differently.

use super::head::{is_tchar, is_text};

/// How far a [`ChunkScanner`] got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkProgress {
    /// Every byte of the slice belongs to the body, and more is to come.
    More,
    /// The body ended: so many bytes of this slice belong to it, trailers and final CRLF included.
    Done(usize),
    /// Not a chunked body. The sentence is for the client's developer; the connection is beyond repair.
    Bad(&'static str),
}

/// Follows one chunked body through slices cut anywhere.
///
/// ```text
/// Size -> Extension* -> SizeLf -> Data -> DataCr -> DataLf -> Size ...
///                          `-(size 0)-> LineStart -> Name -> Value -> LineLf -> LineStart ...
///                                           `-> EndLf -> Ended
/// ```
///
/// Refused though RFC 9112 §7.1.1 has recipients put up with it: white space around the size. Extensions are
/// bounded and skipped, not parsed; a quoted string cannot hide a line end because none is allowed in one.
#[derive(Clone, Copy, Debug)]
pub struct ChunkScanner {
    state: State,
    /// The size while its digits are read, then the bytes of data still to come.
    remaining: u64,
    digits: u8,
    line_extension: u16,
    /// Over the whole body: tiny chunks with long extensions are an attack (CVE-2023-39326).
    extensions: u16,
    trailers: u16,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    LineStart,
    Name,
    Value,
    LineLf,
    EndLf,
    Ended,
    Broken(&'static str),
}

const MAX_DIGITS: u8 = 16;
const MAX_LINE_EXTENSION: u16 = 256;
const MAX_EXTENSIONS: u16 = 16 * 1024;
const MAX_TRAILERS: u16 = 8 * 1024;

impl Default for ChunkScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkScanner {
    /// At the first byte of a body.
    pub fn new() -> Self {
        Self { state: State::Size, remaining: 0, digits: 0, line_extension: 0, extensions: 0, trailers: 0 }
    }

    /// Takes the next slice of the stream. After `Done` it answers `Done(0)`, after `Bad` the same `Bad`.
    pub fn feed(&mut self, bytes: &[u8]) -> ChunkProgress {
        let mut at = 0;
        loop {
            match self.state {
                State::Ended => return ChunkProgress::Done(at),
                State::Broken(why) => return ChunkProgress::Bad(why),
                State::Data => {
                    let left = (bytes.len() - at) as u64;
                    let taken = left.min(self.remaining);
                    self.remaining -= taken;
                    at += taken as usize; // no more than `left`, which came from a usize
                    if self.remaining > 0 {
                        return ChunkProgress::More;
                    }
                    self.state = State::DataCr;
                }
                _ => {
                    let Some(&byte) = bytes.get(at) else {
                        return ChunkProgress::More;
                    };
                    at += 1;
                    self.state = self.step(byte).unwrap_or_else(State::Broken);
                }
            }
        }
    }

    /// One byte of anything but data.
    fn step(&mut self, byte: u8) -> Result<State, &'static str> {
        match (self.state, byte) {
            (State::Size, b'\r') if self.digits > 0 => Ok(State::SizeLf),
            (State::Size, b';') if self.digits > 0 => self.extend(),
            (State::Size, _) => self.digit(byte),
            (State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Extension, _) if is_text(byte) => self.extend(),
            (State::Extension, _) => Err("A chunk extension contains a control character."),
            (State::SizeLf, b'\n') => Ok(self.size_read()),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size),
            (State::DataCr | State::DataLf, _) => Err("A chunk is longer than its size says."),
            (State::EndLf, b'\n') => Ok(State::Ended),
            (State::LineLf, b'\n') => self.trailer(byte),
            (State::SizeLf | State::LineLf | State::EndLf, _) => {
                Err("A carriage return in the chunked body is not followed by a line feed.")
            }
            _ => self.trailer(byte),
        }
    }

    fn digit(&mut self, byte: u8) -> Result<State, &'static str> {
        let digit = char::from(byte).to_digit(16).ok_or("A chunk size is not a hexadecimal number.")?;
        self.digits += 1;
        let size = self.remaining << 4 | u64::from(digit);
        // Checked before the next shift, so that none loses a bit; u63 because some readers use signed sizes.
        if self.digits > MAX_DIGITS || size > i64::MAX as u64 {
            return Err("A chunk size is too large.");
        }
        self.remaining = size;
        Ok(State::Size)
    }

    fn extend(&mut self) -> Result<State, &'static str> {
        self.line_extension += 1;
        self.extensions += 1;
        if self.line_extension > MAX_LINE_EXTENSION || self.extensions > MAX_EXTENSIONS {
            return Err("The chunk extensions are too long.");
        }
        Ok(State::Extension)
    }

    fn size_read(&mut self) -> State {
        self.digits = 0;
        self.line_extension = 0;
        if self.remaining == 0 {
            State::LineStart
        } else {
            State::Data
        }
    }

    /// The trailer section (RFC 9112 §7.1.2): field lines as strict as those of a head.
    fn trailer(&mut self, byte: u8) -> Result<State, &'static str> {
        self.trailers += 1;
        match (self.state, byte) {
            (State::LineStart, b'\r') => Ok(State::EndLf),
            _ if self.trailers > MAX_TRAILERS => Err("The trailers are too long."),
            (State::LineStart | State::Name, _) if is_tchar(byte) => Ok(State::Name),
            (State::Name, b':') => Ok(State::Value),
            (State::LineStart | State::Name, _) => Err("A trailer is not a field name followed by a colon."),
            (State::Value, b'\r') => Ok(State::LineLf),
            (State::Value, _) if is_text(byte) => Ok(State::Value),
            (State::Value, _) => Err("A trailer contains a control character."),
            (State::LineLf, b'\n') => Ok(State::LineStart),
            _ => Err("The chunked body is malformed."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(bytes: &[u8]) -> ChunkProgress {
        ChunkScanner::new().feed(bytes)
    }

    /// Fed in slices of the given lengths, repeated; the end is counted from the first byte.
    fn scan_split(bytes: &[u8], lengths: &[usize]) -> ChunkProgress {
        let mut scanner = ChunkScanner::new();
        let mut at = 0;
        for length in lengths.iter().cycle() {
            let end = bytes.len().min(at + length);
            match scanner.feed(&bytes[at..end]) {
                ChunkProgress::More if end == bytes.len() => return ChunkProgress::More,
                ChunkProgress::More => at = end,
                ChunkProgress::Done(n) => return ChunkProgress::Done(at + n),
                bad => return bad,
            }
        }
        unreachable!("lengths is never empty");
    }

    #[test]
    fn finds_the_end() {
        let cases: [&[u8]; 17] = [
            b"0\r\n\r\n",
            b"000\r\n\r\n",
            b"0000000000000000\r\n\r\n",
            b"1\r\na\r\n0\r\n\r\n",
            b"a\r\n0123456789\r\n0\r\n\r\n",
            b"A\r\n0123456789\r\n0\r\n\r\n",
            b"000000000000000A\r\n0123456789\r\n0\r\n\r\n",
            b"5\r\n0\r\n\r\n\r\n0\r\n\r\n",
            b"2\r\n\r\n\r\n0\r\n\r\n",
            b"1;a=b\r\nx\r\n0\r\n\r\n",
            b"1;a=\"b;c\"\r\nx\r\n0;last\r\n\r\n",
            b"1; a = b\t\r\nx\r\n0\r\n\r\n",
            b"1;\xFF\r\nx\r\n0\r\n\r\n",
            b"0\r\nA: b\r\n\r\n",
            b"0\r\nA:\r\nx-sum: 1\t2 \xFF\r\n\r\n",
            b"1\r\na\r\n1\r\nb\r\n0\r\nX: y\r\n\r\n",
            b"1\r\n\0\r\n0\r\n\r\n",
        ];
        for body in cases {
            let shown = String::from_utf8_lossy(body);
            let followed = [body, b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(scan(body), ChunkProgress::Done(body.len()), "{shown:?}");
            assert_eq!(scan(&followed), ChunkProgress::Done(body.len()), "{shown:?}");
            assert_eq!(scan_split(&followed, &[1]), ChunkProgress::Done(body.len()), "{shown:?}");
            for cut in 0..body.len() {
                assert_eq!(scan(&body[..cut]), ChunkProgress::More, "{shown:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn refuses_what_is_not_strictly_chunked() {
        let cases: &[(&str, &[u8])] = &[
            ("no size", b"\r\n"),
            ("no size, extension", b";a\r\n"),
            ("bare LF after size", b"1\na\r\n"),
            ("bare CR after size", b"1\ra"),
            ("CR CR LF", b"1\r\r\na"),
            ("leading space", b" 1\r\n"),
            ("trailing space", b"1 \r\n"),
            ("trailing tab", b"1\t\r\n"),
            ("space before extension", b"1 ;a\r\n"),
            ("0x prefix", b"0x1\r\n"),
            ("sign", b"+1\r\n"),
            ("negative", b"-1\r\n"),
            ("underscore", b"1_0\r\n"),
            ("comma", b"1,1\r\n"),
            ("not hexadecimal", b"g\r\n"),
            ("NUL", b"1\0\r\n"),
            ("17 digits", b"00000000000000001\r\n"),
            ("u64", b"8000000000000000\r\n"),
            ("all ones", b"ffffffffffffffff\r\n"),
            ("overflow to one", b"10000000000000001\r\n"),
            ("bare LF in extension", b"1;a\nb\r\n"),
            ("bare CR in extension", b"1;a\rb\r\n"),
            ("LF in a quoted string", b"1;a=\"\n\"\r\n"),
            ("CR in a quoted string", b"1;a=\"\r\"\r\n"),
            ("CRLF in a quoted string", b"1;a=\"\r\n\"\r\nx"),
            ("NUL in extension", b"1;\0\r\n"),
            ("DEL in extension", b"1;\x7F\r\n"),
            ("data too long", b"1\r\nab\r\n"),
            ("data too short", b"3\r\na\r\n0\r\n\r\n"),
            ("LF only after data", b"1\r\na\n0\r\n\r\n"),
            ("CR only after data", b"1\r\na\r0\r\n\r\n"),
            ("no CRLF after data", b"1\r\na0\r\n\r\n"),
            ("two CRLF after data", b"1\r\na\r\n\r\n0\r\n\r\n"),
            ("bare LF at the end", b"0\r\n\n"),
            ("bare CR at the end", b"0\r\n\rX"),
            ("bare LF after last size", b"0\n\r\n"),
            ("trailer without colon", b"0\r\nabc\r\n\r\n"),
            ("next request as trailer", b"0\r\nGET / HTTP/1.1\r\n\r\n"),
            ("trailer with empty name", b"0\r\n: a\r\n\r\n"),
            ("space before colon", b"0\r\nA : b\r\n\r\n"),
            ("folded trailer", b"0\r\nA: b\r\n c\r\n\r\n"),
            ("leading space in trailers", b"0\r\n A: b\r\n\r\n"),
            ("bare LF in trailer", b"0\r\nA: b\nC: d\r\n\r\n"),
            ("bare CR in trailer", b"0\r\nA: b\rC: d\r\n\r\n"),
            ("NUL in trailer", b"0\r\nA: \0\r\n\r\n"),
            ("bad trailer name", b"0\r\nA(: b\r\n\r\n"),
            ("high byte in trailer name", b"0\r\n\xE9: b\r\n\r\n"),
        ];
        for (name, body) in cases {
            let whole = scan(body);
            assert!(matches!(whole, ChunkProgress::Bad(_)), "{name}: {whole:?}");
            assert_eq!(scan_split(body, &[1]), whole, "{name}");
        }
    }

    #[test]
    fn largest_size_is_u63() {
        assert_eq!(scan(b"7fffffffffffffff\r\nabc"), ChunkProgress::More);
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let done = |body: String| matches!(scan(body.as_bytes()), ChunkProgress::Done(n) if n == body.len());
        let extension = |n: usize| format!("0;{}\r\n\r\n", "x".repeat(n - 1));
        assert!(done(extension(256)));
        assert!(!done(extension(257)));
        let chunk = format!("1;{}\r\nx\r\n", "y".repeat(255));
        assert!(done(chunk.repeat(64) + "0\r\n\r\n"));
        assert!(!done(chunk.repeat(64) + "0;\r\n\r\n"));
        let trailers = |n: usize| format!("0\r\nA:{}\r\n\r\n", "x".repeat(n - 4));
        assert!(done(trailers(8192)));
        assert!(!done(trailers(8193)));
    }

    #[test]
    fn answers_stay() {
        let mut scanner = ChunkScanner::new();
        assert_eq!(scanner.feed(b"0\r\n\r\n"), ChunkProgress::Done(5));
        assert_eq!(scanner.feed(b"1\r\n"), ChunkProgress::Done(0));
        let mut scanner = ChunkScanner::new();
        let bad = scanner.feed(b"x");
        assert!(matches!(bad, ChunkProgress::Bad(_)));
        assert_eq!(scanner.feed(b"0\r\n\r\n"), bad);
    }

    fn body() -> impl Strategy<Value = Vec<u8>> {
        let chunk = (proptest::collection::vec(any::<u8>(), 1..40), "(;[ -~]{0,8}){0,2}", 0usize..3);
        let chunks = proptest::collection::vec(chunk, 0..6);
        (chunks, "(;[a-z=]{0,5})?", "([A-Za-z-]{1,5}:[ -~]{0,9}\r\n){0,3}").prop_map(
            |(chunks, last, trailers)| {
                let mut body = Vec::new();
                for (data, extension, zeros) in chunks {
                    body.extend(format!("{}{:x}{extension}\r\n", "0".repeat(zeros), data.len()).bytes());
                    body.extend(data);
                    body.extend(b"\r\n");
                }
                body.extend(format!("0{last}\r\n{trailers}\r\n").bytes());
                body
            },
        )
    }

    proptest! {
        #[test]
        fn exact_end_however_split(
            body in body(),
            garbage in proptest::collection::vec(any::<u8>(), 0..40),
            lengths in proptest::collection::vec(1usize..20, 1..8),
        ) {
            let stream = [&body[..], &garbage].concat();
            prop_assert_eq!(scan(&stream), ChunkProgress::Done(body.len()));
            prop_assert_eq!(scan_split(&stream, &lengths), ChunkProgress::Done(body.len()));
        }

        #[test]
        fn same_answer_however_split(
            body in body(),
            edits in proptest::collection::vec((any::<prop::sample::Index>(), "[\r\n0-9a-f;: \0x]"), 1..4),
            lengths in proptest::collection::vec(1usize..20, 1..8),
        ) {
            let mut broken = body;
            for (index, byte) in edits {
                let at = index.index(broken.len());
                broken[at] = byte.as_bytes()[0];
            }
            prop_assert_eq!(scan_split(&broken, &lengths), scan(&broken));
        }
    }
}
