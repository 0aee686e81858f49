//! What the engine has written to a client's connection and is not on its way yet.
//!
//! The fields that the gateway adds to each response are put into the head here, as it passes: into the engine's own
//! header maps they would cost several times as much as everything else that is done to a response.

use std::io::{self, ErrorKind, IoSlice};
use std::sync::{Mutex, PoisonError};

/// Head and small body leave in one segment; what is larger goes out directly.
const CAPACITY: usize = 8192;

/// Bytes that wait, and field lines for the next head.
#[derive(Default)]
pub(super) struct Out {
    waiting: Vec<u8>,
    /// Whole lines, each with its CRLF; whoever adds them has made sure that they are fields. Written while the engine
    /// holds the connection, hence the lock, which nobody contends for.
    fields: Mutex<Vec<u8>>,
}

impl Out {
    /// Lets `write` put down the field lines for the next head, in place of any that were there.
    pub(super) fn set_fields(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut fields = self.fields.lock().unwrap_or_else(PoisonError::into_inner);
        fields.clear();
        write(&mut fields);
    }

    /// Forgets fields that no head has taken.
    pub(super) fn drop_fields(&mut self) {
        self.fields.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Takes what is to be written if it is small, or a head that gets fields; how much of it was taken.
    ///
    /// # Errors
    /// When there are fields to add and `bytes` is no whole head: the engine writes a head at once, and fields that
    /// got lost would be worse than a response that does.
    pub(super) fn take(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let fields = self.fields.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !fields.is_empty() && !is_interim(bytes) {
            let Some(lines) = bytes.strip_suffix(b"\r\n").filter(|lines| lines.ends_with(b"\r\n")) else {
                return Err(io::Error::new(ErrorKind::InvalidInput, "a head in parts"));
            };
            self.waiting.reserve(bytes.len() + fields.len());
            self.waiting.extend_from_slice(lines);
            self.waiting.append(fields);
        } else if self.waiting.len() + bytes.len() > CAPACITY {
            return Ok(None);
        } else {
            self.waiting.extend_from_slice(bytes);
            return Ok(Some(bytes.len()));
        }
        self.waiting.extend_from_slice(b"\r\n");
        Ok(Some(bytes.len()))
    }

    /// Puts these behind what waits.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// What waits.
    pub(super) fn waiting(&self) -> &[u8] {
        &self.waiting
    }

    /// What waits and what is large leave together, in one system call and no small segment of its own.
    pub(super) fn before<'a>(&'a self, bytes: &'a [u8]) -> [IoSlice<'a>; 2] {
        [IoSlice::new(&self.waiting), IoSlice::new(bytes)]
    }

    /// So many bytes went out; how many of them had not been waiting.
    pub(super) fn sent(&mut self, count: usize) -> usize {
        let waiting = self.waiting.len().min(count);
        self.waiting.drain(..waiting);
        count - waiting
    }
}

/// Whether these are a head after which another one follows (RFC 9110 §15.2): `HTTP/1.1 1…`.
fn is_interim(head: &[u8]) -> bool {
    head.get(9) == Some(&b'1')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_before_the_end_of_the_next_head() {
        let mut out = Out::default();
        out.set_fields(|fields| fields.extend_from_slice(b"X-Old: 0\r\n"));
        out.set_fields(|fields| fields.extend_from_slice(b"X-A: 1\r\nX-B: 2\r\n"));
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n";
        assert_eq!(out.take(head).unwrap(), Some(head.len()));
        assert_eq!(out.take(b"y").unwrap(), Some(1));
        assert_eq!(out.waiting(), b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX-A: 1\r\nX-B: 2\r\n\r\ny");
        assert_eq!(out.take(&[0; CAPACITY]).unwrap(), None);
    }

    #[test]
    fn a_head_larger_than_the_buffer_gets_them_too() {
        let mut out = Out::default();
        out.set_fields(|fields| fields.extend_from_slice(b"X-A: 1\r\n"));
        let head = [b"HTTP/1.1 200 OK\r\nX: ", &[b'x'; CAPACITY][..], b"\r\n\r\n"].concat();
        assert_eq!(out.take(&head).unwrap(), Some(head.len()));
        assert!(out.waiting().ends_with(b"x\r\nX-A: 1\r\n\r\n"));
    }

    #[test]
    fn an_interim_head_leaves_them_to_the_last() {
        let mut out = Out::default();
        out.set_fields(|fields| fields.extend_from_slice(b"X-A: 1\r\n"));
        for head in ["HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n", "HTTP/1.1 200 OK\r\nX: y\r\n\r\n"] {
            out.take(head.as_bytes()).unwrap();
        }
        let sent = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nX: y\r\nX-A: 1\r\n\r\n";
        assert_eq!(out.waiting(), sent);
    }

    #[test]
    fn fields_are_not_lost_in_a_body() {
        let mut out = Out::default();
        out.set_fields(|fields| fields.extend_from_slice(b"X-A: 1\r\n"));
        assert!(out.take(b"HTTP/1.1 200 OK\r\n").is_err());
    }
}
