//! gRPC-Web, the gRPC of browsers, which cannot read what stands behind a body: the same messages over any HTTP, in base64
//! where the type says `-text`, and the status as the last message.
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md>
//!
//! What is here goes through a body piece by piece, as the pieces come, and keeps a few bytes between them: neither a message
//! nor a body is ever held.

use super::grpc;
use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use http::HeaderMap;

/// The content type of what the gateway answers itself.
pub const CONTENT_TYPE: &str = "application/grpc-web";
/// The same in base64.
pub const TEXT_CONTENT_TYPE: &str = "application/grpc-web-text";

/// Marks the message that is the status (the highest bit of the first byte).
const STATUS_FLAG: u8 = 0x80;
/// What stands before a message: the flags, and the length in four bytes.
const PREFIX: usize = 5;

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Binary,
    /// In base64.
    Text,
}

impl Form {
    /// The content type without its suffix.
    pub fn content_type(self) -> &'static str {
        match self {
            Form::Binary => CONTENT_TYPE,
            Form::Text => TEXT_CONTENT_TYPE,
        }
    }
}

/// The form that a content type names, and what stands behind it (`+proto`); none if it is not one of gRPC-Web.
pub fn form(content_type: &[u8]) -> Option<(Form, &[u8])> {
    [Form::Text, Form::Binary].into_iter().find_map(|form| {
        let (name, rest) = content_type.split_at_checked(form.content_type().len())?;
        let same = name.eq_ignore_ascii_case(form.content_type().as_bytes());
        (same && matches!(rest.first(), None | Some(b'+' | b';' | b' '))).then_some((form, rest))
    })
}

/// The form that an `Accept` asks for, if it names one; of two the one in base64, which every client of it can read.
pub fn accepted<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Option<Form> {
    let ranges = fields.flat_map(|field| field.split(|b| *b == b','));
    let forms = ranges.filter_map(|range| form(range.trim_ascii())).map(|(form, _)| form);
    forms.reduce(|a, b| if a == Form::Text { a } else { b })
}

/// The content type that this one of gRPC-Web is for an upstream.
pub fn to_grpc(suffix: &[u8]) -> Vec<u8> {
    [grpc::CONTENT_TYPE.as_bytes(), suffix].concat()
}

/// The content type that one of gRPC is in this form; none if it is not one of gRPC.
pub fn from_grpc(content_type: &[u8], form: Form) -> Option<Vec<u8>> {
    let suffix = grpc::is_grpc(content_type).then(|| &content_type[grpc::CONTENT_TYPE.len()..])?;
    Some([form.content_type().as_bytes(), suffix].concat())
}

/// A status, or whatever else stood behind a body, as the last message of one. The lines have no space behind the colon,
/// which old clients take for a part of the value.
pub fn last_message(trailers: &HeaderMap) -> Vec<u8> {
    let mut out = vec![STATUS_FLAG, 0, 0, 0, 0];
    for (name, value) in trailers {
        out.extend_from_slice(name.as_str().as_bytes()); // in lower case
        out.push(b':');
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    // Far below 4 GiB: HTTP/2 lets nobody send so many fields.
    let length = u32::try_from(out.len() - PREFIX).unwrap_or(u32::MAX);
    out[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    out
}

/// A piece of a body in base64, padded, so that it can be read without those that follow.
pub fn encode(piece: &[u8]) -> String {
    STANDARD.encode(piece)
}

/// Reads base64 that comes in pieces of any length: several encodings one behind the other, each with its padding, as
/// clients write that encode each message by itself.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The beginning of a group of four.
    group: [u8; 4],
    length: usize,
}

impl Decoder {
    /// Appends what this piece stands for to `out`; what is left of it waits for the next.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(&mut self, mut piece: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
        out.reserve((piece.len() + self.length) / 4 * 3);
        if self.length > 0 {
            let (first, rest) = piece.split_at(piece.len().min(4 - self.length));
            self.keep(first);
            piece = rest;
            if self.length < 4 {
                return Ok(());
            }
            let group = self.group;
            groups(&group, out)?;
            self.length = 0;
        }
        let (whole, rest) = piece.split_at(piece.len() / 4 * 4);
        groups(whole, out)?;
        self.keep(rest);
        Ok(())
    }

    /// The body is over.
    ///
    /// # Errors
    /// When it ended in the midst of a group.
    pub fn end(&self) -> Result<(), &'static str> {
        match self.length {
            0 => Ok(()),
            _ => Err("The request's base64 breaks off."),
        }
    }

    fn keep(&mut self, few: &[u8]) {
        self.group[self.length..self.length + few.len()].copy_from_slice(few);
        self.length += few.len();
    }
}

/// Decodes whole groups of four, of which any may end an encoding.
fn groups(mut groups: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    while !groups.is_empty() {
        let end = memchr::memchr(b'=', groups).map_or(groups.len(), |at| (at / 4 + 1) * 4);
        let (one, rest) = groups.split_at(end);
        STANDARD.decode_vec(one, out).map_err(|_| "The request's body is no base64.")?;
        groups = rest;
    }
    Ok(())
}

/// Where in a body of messages we are.
#[derive(Debug, Default)]
pub struct Messages {
    /// What has come of the next message's prefix.
    prefix: [u8; PREFIX],
    length: usize,
    /// How much of the present message is to come.
    left: u32,
}

impl Messages {
    /// Goes over a piece.
    ///
    /// # Errors
    /// When a status begins in it.
    pub fn pass(&mut self, mut piece: &[u8]) -> Result<(), StatusFound> {
        while !piece.is_empty() {
            if self.left > 0 {
                let passed = piece.len().min(self.left as usize);
                self.left -= passed as u32;
                piece = &piece[passed..];
                continue;
            }
            let (first, rest) = piece.split_at(piece.len().min(PREFIX - self.length));
            self.prefix[self.length..self.length + first.len()].copy_from_slice(first);
            self.length += first.len();
            piece = rest;
            let [flags, length @ ..] = self.prefix;
            if flags & STATUS_FLAG != 0 {
                return Err(StatusFound);
            }
            if self.length == PREFIX {
                self.length = 0;
                self.left = u32::from_be_bytes(length);
            }
        }
        Ok(())
    }

    /// Whether no message has begun that is not whole.
    pub fn between(&self) -> bool {
        self.length == 0 && self.left == 0
    }
}

/// A message is no message but a status.
#[derive(Debug, PartialEq, Eq)]
pub struct StatusFound;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn types_are_known() {
        for (given, known) in [
            ("application/grpc-web", Some((Form::Binary, ""))),
            ("application/grpc-web+proto", Some((Form::Binary, "+proto"))),
            ("Application/gRPC-Web; a=b", Some((Form::Binary, "; a=b"))),
            ("application/grpc-web-text", Some((Form::Text, ""))),
            ("application/grpc-web-text+json", Some((Form::Text, "+json"))),
            ("application/grpc-web-", None),
            ("application/grpc-website", None),
            ("application/grpc-web-texts", None),
            ("application/grpc", None),
            ("application/grpc+proto", None),
            ("text/plain", None),
            ("", None),
        ] {
            let found = form(given.as_bytes());
            assert_eq!(found, known.map(|(form, rest)| (form, rest.as_bytes())), "{given}");
        }
        assert_eq!(to_grpc(b"+proto"), b"application/grpc+proto");
        let answer =
            |given: &str, form| from_grpc(given.as_bytes(), form).map(|t| String::from_utf8(t).unwrap());
        assert_eq!(answer("application/grpc", Form::Text).as_deref(), Some("application/grpc-web-text"));
        assert_eq!(answer("application/grpc+x", Form::Binary).as_deref(), Some("application/grpc-web+x"));
        assert_eq!(answer("text/html", Form::Binary), None);
    }

    #[test]
    fn what_is_accepted() {
        let accepted = |fields: &[&str]| accepted(fields.iter().map(|field| field.as_bytes()));
        assert_eq!(accepted(&[]), None);
        assert_eq!(accepted(&["*/*", "text/html"]), None);
        assert_eq!(accepted(&["application/grpc-web-text"]), Some(Form::Text));
        assert_eq!(accepted(&["text/html, application/grpc-web+proto;q=1"]), Some(Form::Binary));
        assert_eq!(accepted(&["application/grpc-web, application/grpc-web-text"]), Some(Form::Text));
        assert_eq!(accepted(&["application/grpc-web-text", "application/grpc-web"]), Some(Form::Text));
    }

    #[test]
    fn a_status_is_a_message() {
        let mut trailers = HeaderMap::new();
        assert_eq!(last_message(&trailers), b"\x80\0\0\0\0");
        trailers.insert("Grpc-Status".parse::<http::HeaderName>().unwrap(), "0".parse().unwrap());
        assert_eq!(last_message(&trailers), b"\x80\0\0\0\x0fgrpc-status:0\r\n");
        trailers.append("x", "1".parse().unwrap());
        trailers.append("x", "2".parse().unwrap());
        assert_eq!(last_message(&trailers), b"\x80\0\0\0\x19grpc-status:0\r\nx:1\r\nx:2\r\n");
    }

    fn decoded(pieces: &[&[u8]]) -> Result<Vec<u8>, &'static str> {
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        pieces.iter().try_for_each(|piece| decoder.decode(piece, &mut out))?;
        decoder.end().map(|()| out)
    }

    /// Three encodings one behind the other, cut in two places: every pair of them.
    #[test]
    fn base64_may_be_cut_anywhere() {
        let text = [encode(b"\0\0\0\0\x04"), encode(b"four"), encode(b"\xff\xfe\xfd\xfc\xfb")].concat();
        assert_eq!(text.matches('=').count(), 4);
        let text = text.as_bytes();
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(
                    decoded(&pieces).unwrap(),
                    b"\0\0\0\0\x04four\xff\xfe\xfd\xfc\xfb",
                    "{first} {second}"
                );
            }
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(decoded(&bytes).unwrap(), b"\0\0\0\0\x04four\xff\xfe\xfd\xfc\xfb");
    }

    #[test]
    fn broken_base64_is_refused_wherever_it_is_cut() {
        for bad in [
            "A", "AA", "AAA", "AAAAA", "=AAA", "A=AA", "AA=A", "AAA*", "AA==A", "AAA-", "AA\r\n", "A===",
            "====",
        ] {
            for cut in 0..=bad.len() {
                let (first, rest) = bad.as_bytes().split_at(cut);
                assert!(decoded(&[first, rest]).is_err(), "{bad} at {cut}");
            }
        }
        assert_eq!(decoded(&[]), Ok(Vec::new()));
        assert_eq!(decoded(&[b"", b"AA==", b""]), Ok(vec![0]));
    }

    #[test]
    fn messages_are_told_apart_wherever_they_are_cut() {
        let body = b"\0\0\0\0\0\x01\0\0\0\x03abc\0\0\0\0\x05\x80\x80\x80\x80\x80";
        let ends = [0, 5, 13, body.len()];
        for first in 0..=body.len() {
            for second in first..=body.len() {
                let mut messages = Messages::default();
                for (piece, at) in [(&body[..first], first), (&body[first..second], second)] {
                    messages.pass(piece).unwrap();
                    assert_eq!(messages.between(), ends.contains(&at), "{first} {second}");
                }
                messages.pass(&body[second..]).unwrap();
                assert!(messages.between());
                assert_eq!(messages.pass(b"\x80"), Err(StatusFound));
            }
        }
        assert_eq!(Messages::default().pass(b"\x81\0\0\0\0"), Err(StatusFound));
        let mut long = Messages::default();
        long.pass(b"\0\xff\xff\xff\xff").unwrap();
        long.pass(&[0x80; 1000]).unwrap();
        assert!(!long.between());
    }

    proptest! {
        #[test]
        fn what_was_encoded_in_pieces_comes_back(
            encoded in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let text: String = encoded.iter().map(|piece| encode(piece)).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &text.as_bytes()[cut[0]..cut[1]]).collect();
            prop_assert_eq!(decoded(&pieces).unwrap(), encoded.concat());
        }

        /// Never a panic, and the same verdict in one piece as in many.
        #[test]
        fn anything_may_come(bytes in prop::collection::vec(any::<u8>(), 0..60), cut in any::<prop::sample::Index>()) {
            let (first, rest) = bytes.split_at(cut.index(bytes.len() + 1));
            prop_assert_eq!(decoded(&[first, rest]).ok(), decoded(&[&bytes]).ok());
            let (mut one, mut two) = (Messages::default(), Messages::default());
            let whole = one.pass(&bytes);
            let cut = two.pass(first).and_then(|()| two.pass(rest));
            prop_assert_eq!(whole, cut);
        }
    }
}
