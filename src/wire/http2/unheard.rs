//! What the frames that pass the guard say of requests: which of them the `h2` crate answers by itself, so that somebody has
//! to tell of them, and whose answers it has not sent to their ends.

use super::guard::{DATA, FRAME_HEAD, HEADERS, RST_STREAM};
use h2::Reason;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The flag of a frame that is the last of its stream (RFC 9113 §6.1, §6.2).
const END_STREAM: u8 = 1;
/// Of so many at once is known that they have begun; there are never more unless the crate keeps them to itself.
const MOST: usize = 1024;

/// What the crate has done about a request that nobody has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// Its stream is reset: it was malformed (RFC 9113 §8.1.1).
    Reset,
    /// It has a 431: its head was far too large.
    TooLarge,
}

/// Requests that have begun, until they are taken up or the crate has answered.
#[derive(Debug, Default)]
pub struct Unheard {
    requests: Mutex<Requests>,
    any: AtomicBool,
    /// Bytes that have been sent.
    sent: AtomicU64,
}

#[derive(Debug, Default)]
struct Requests {
    /// By their streams.
    begun: Vec<u32>,
    /// Those that were taken up and whose streams have not ended on the wire.
    open: Vec<u32>,
    answered: Vec<Own>,
}

impl Unheard {
    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A head has begun on this stream.
    pub(super) fn begin(&self, stream: u32) {
        let begun = &mut self.requests().begun;
        if begun.len() < MOST {
            begun.push(stream);
        }
    }

    /// The request of this stream is somebody's.
    pub fn take_up(&self, stream: u32) {
        let requests = &mut *self.requests();
        requests.begun.retain(|begun| *begun != stream);
        requests.open.push(stream);
    }

    /// Nothing more is sent on this stream.
    pub(super) fn end(&self, stream: u32) {
        self.requests().open.retain(|open| *open != stream);
    }

    /// How many bytes have been sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether all that was taken up has been answered to its end, on the wire.
    pub fn all_sent(&self) -> bool {
        self.requests().open.is_empty()
    }

    /// A frame has been sent that answers a stream.
    fn answer(&self, stream: u32, how: Option<Own>) {
        let requests = &mut *self.requests();
        let Some(place) = requests.begun.iter().position(|begun| *begun == stream) else { return };
        requests.begun.swap_remove(place);
        requests.answered.extend(how);
        self.any.store(!requests.answered.is_empty(), Ordering::Relaxed);
    }

    /// Whether there is something to tell.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// What the crate has done since the last time.
    pub fn told(&self) -> Vec<Own> {
        self.any.store(false, Ordering::Relaxed);
        std::mem::take(&mut self.requests().answered)
    }

    /// How many have begun that nothing will become of, now that the connection is over.
    pub fn left(&self) -> usize {
        std::mem::take(&mut self.requests().begun).len()
    }
}

/// Follows the frames that are sent.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// The head of a frame, and the code of a reset.
    head: [u8; FRAME_HEAD + 4],
    seen: usize,
    /// Bytes of the payload that have not been sent.
    left: usize,
}

impl Sent {
    /// These bytes have been sent.
    pub(super) fn pass(&mut self, mut bytes: &[u8], unheard: &Unheard) {
        unheard.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        while !bytes.is_empty() {
            if self.seen < FRAME_HEAD {
                let part = bytes.len().min(FRAME_HEAD - self.seen);
                self.head[self.seen..self.seen + part].copy_from_slice(&bytes[..part]);
                self.seen += part;
                bytes = &bytes[part..];
                if self.seen < FRAME_HEAD {
                    return;
                }
                let [high, middle, low, ..] = self.head;
                self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            }
            let part = bytes.len().min(self.left);
            if self.head[3] == RST_STREAM {
                for byte in &bytes[..part] {
                    if let Some(place) = self.head.get_mut(self.seen) {
                        *place = *byte;
                    }
                    self.seen += 1;
                }
            }
            self.left -= part;
            bytes = &bytes[part..];
            if self.left == 0 {
                self.tell(unheard);
                self.seen = 0;
            }
        }
    }

    /// A whole frame has been sent.
    fn tell(&self, unheard: &Unheard) {
        let number = |at: usize| {
            u32::from_be_bytes([self.head[at], self.head[at + 1], self.head[at + 2], self.head[at + 3]])
        };
        let stream = number(5) & 0x7FFF_FFFF;
        let (kind, flags) = (self.head[3], self.head[4]);
        if kind == RST_STREAM || (matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0) {
            unheard.end(stream);
        }
        match kind {
            HEADERS => unheard.answer(stream, Some(Own::TooLarge)),
            // A client may send again what was refused, and has been told so.
            RST_STREAM if number(FRAME_HEAD) == u32::from(Reason::REFUSED_STREAM) => {
                unheard.answer(stream, None)
            }
            RST_STREAM => unheard.answer(stream, Some(Own::Reset)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_sent_when_its_last_frame_is() {
        let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
            [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat()
        };
        let (unheard, mut follower) = (Unheard::default(), Sent::default());
        for stream in [1, 3, 5, 7] {
            unheard.begin(stream);
            unheard.take_up(stream);
        }
        for (sent, all) in [
            (frame(HEADERS, 4, 1, b"head"), false),
            (frame(DATA, 0, 1, b"body"), false),
            (frame(DATA, 1, 1, b""), false),
            (frame(HEADERS, 5, 3, b"head"), false),
            (frame(RST_STREAM, 0, 5, &[0, 0, 0, 8]), false),
            (frame(4, 1, 0, b""), false), // a flag of another meaning
            (frame(DATA, 1, 7, b"end"), true),
        ] {
            assert!(!unheard.all_sent());
            follower.pass(&sent, &unheard);
            assert_eq!(unheard.all_sent(), all);
        }
    }

    #[test]
    fn what_is_answered_without_having_been_taken_up_is_told() {
        let frame = |kind: u8, stream: u8, payload: &[u8]| {
            [&[0, 0, payload.len() as u8, kind, 0, 0, 0, 0, stream], payload].concat()
        };
        let sent = [
            frame(4, 0, &[]),
            frame(HEADERS, 1, b"head"),
            frame(0, 1, b"a body"),
            frame(RST_STREAM, 3, &[0, 0, 0, 1]),
            frame(RST_STREAM, 5, &[0, 0, 0, 7]),
            frame(HEADERS, 7, b"431"),
            frame(RST_STREAM, 1, &[0, 0, 0, 1]),
        ]
        .concat();
        for step in [1, 3, 9, 13, 100] {
            let (unheard, mut follower) = (Unheard::default(), Sent::default());
            [1, 3, 5, 7, 9].into_iter().for_each(|stream| unheard.begin(stream));
            unheard.take_up(1);
            assert!(!unheard.any());
            sent.chunks(step).for_each(|piece| follower.pass(piece, &unheard));
            assert!(unheard.any());
            assert_eq!(unheard.told(), [Own::Reset, Own::TooLarge], "in steps of {step}");
            assert!(!unheard.any() && unheard.told().is_empty());
            assert_eq!(unheard.left(), 1);
        }
    }
}
