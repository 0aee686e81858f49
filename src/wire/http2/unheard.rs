//! Requests that the `h2` crate answers by itself, found by the frames that pass the guard: somebody has to tell of them.

use super::guard::{FRAME_HEAD, HEADERS, RST_STREAM};
use h2::Reason;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
}

#[derive(Debug, Default)]
struct Requests {
    /// By their streams.
    begun: Vec<u32>,
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
        self.requests().begun.retain(|begun| *begun != stream);
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
        match self.head[3] {
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
