//! Where the frames of a WebSocket end (RFC 6455 §5.2), so that one can be put between them.

/// A whole close frame of a server: going away (RFC 6455 §7.4.1).
pub(super) const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xE9];

/// Longest head: two bytes, a length of eight, a mask of four.
const HEAD: usize = 14;

/// Follows one direction. What is no frame leaves it in the midst of something, and that is all that happens.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD],
    /// Bytes of the head that have come.
    seen: usize,
    /// Bytes of the payload that have not.
    left: u64,
    /// A close frame has passed: nothing may follow it.
    closed: bool,
}

impl Frames {
    /// Bytes that have passed.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= passed as u64;
                bytes = &bytes[passed..];
                continue;
            }
            self.head[self.seen] = bytes[0];
            self.seen += 1;
            bytes = &bytes[1..];
            if let Some(payload) = self.payload() {
                self.closed |= self.head[0] & 0x0F == 8;
                (self.left, self.seen) = (payload, 0);
            }
        }
    }

    /// Whether one frame is over, the next has not begun, and there may be one.
    pub(super) fn may_follow(&self) -> bool {
        self.left == 0 && self.seen == 0 && !self.closed
    }

    /// Whether a close frame has passed.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// The length of the payload, once the whole head is there.
    fn payload(&self) -> Option<u64> {
        let head = self.head.get(..self.seen).filter(|head| head.len() >= 2)?;
        let mask = if head[1] & 0x80 == 0 { 0 } else { 4 };
        let (wide, short) = match head[1] & 0x7F {
            126 => (2, 0),
            127 => (8, 0),
            short => (0, u64::from(short)),
        };
        if head.len() < 2 + wide + mask {
            return None;
        }
        let length = head[2..2 + wide].iter().fold(0, |length: u64, &byte| length << 8 | u64::from(byte));
        Some(if wide == 0 { short } else { length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_are_followed_however_they_come() {
        let mut all = Vec::new();
        let mut ends = vec![0];
        for (length, mask) in
            [(0, false), (5, false), (125, true), (126, false), (65_535, true), (65_536, false)]
        {
            let masked = if mask { 0x80 } else { 0 };
            all.push(0x82);
            match length {
                0..=125 => all.push(masked | length as u8),
                126..=65_535 => {
                    all.push(masked | 126);
                    all.extend_from_slice(&(length as u16).to_be_bytes());
                }
                _ => {
                    all.push(masked | 127);
                    all.extend_from_slice(&(length as u64).to_be_bytes());
                }
            }
            all.extend(std::iter::repeat_n(0xFF, length + if mask { 4 } else { 0 }));
            ends.push(all.len());
        }
        // The mask's four bytes are counted with the head.
        for step in [1, 2, 3, 7, 4096, all.len()] {
            let mut frames = Frames::default();
            let mut at = 0;
            for piece in all.chunks(step) {
                assert_eq!(frames.may_follow(), ends.contains(&at), "at {at} in steps of {step}");
                frames.pass(piece);
                at += piece.len();
            }
            assert!(frames.may_follow());
        }
        let mut frames = Frames::default();
        frames.pass(&GOING_AWAY);
        assert!(!frames.may_follow(), "nothing follows a close");
    }
}
