//! When a certificate is asked for: again at two thirds of its life, and again after a failure.

use super::order::Failure;
use crate::tls::pair::Pair;
use serde::{Deserialize, Serialize};

/// After the first failure to reach the authority or to understand it, in seconds.
const UNREACHED: i64 = 10;
/// After the first refusal. Doubled each time there are four within an hour; Let's Encrypt counts five failed proofs.
const REFUSED: i64 = 300;
/// After a refusal for having asked too often, where the authority does not say how long.
const RATE_LIMITED: i64 = 3600;
/// The longest, in seconds.
const MOST: i64 = 6 * 3600;
/// Nobody waits longer than that for an authority's word.
const MOST_ASKED: i64 = 7 * 86_400;

/// When another is asked for: at two thirds of its life, and up to a thirtieth of it later, so that those of one day do
/// not come back on one day. Always the same for one certificate, in whatever process.
pub fn renewal(pair: &Pair) -> i64 {
    let life = pair.not_after.saturating_sub(pair.not_before).max(0);
    let chance = i64::from(u16::from_be_bytes([pair.fingerprint[0], pair.fingerprint[1]]));
    pair.not_before + life / 3 * 2 + life / 30 * chance / i64::from(u16::MAX)
}

/// What is remembered of failures, by all gateways that share the folder and those to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// How many there were in a row.
    pub failures: u32,
    /// When the last one was, in seconds since 1970.
    pub at: i64,
    /// What went wrong.
    pub why: String,
    /// Until when it is left alone.
    wait: i64,
    /// Until when the authority wants it left alone.
    asked: Option<i64>,
}

/// How long it waits, and by whose wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Ours.
    Patience(i64),
    /// The authority's.
    Asked(i64),
}

impl Until {
    /// In seconds since 1970.
    pub fn time(self) -> i64 {
        match self {
            Until::Patience(time) | Until::Asked(time) => time,
        }
    }
}

impl Note {
    /// Of one more failure.
    pub(super) fn after(failures: u32, now: i64, failure: &Failure) -> Self {
        let first = if failure.refused { REFUSED } else { UNREACHED };
        let wait = first.saturating_mul(1 << failures.min(16)).min(MOST);
        let asked = failure.retry_after.or(failure.rate_limited.then_some(RATE_LIMITED));
        Note {
            failures: failures.saturating_add(1),
            at: now,
            why: failure.why.clone(),
            wait: now + wait,
            asked: asked.map(|seconds| now + seconds.clamp(0, MOST_ASKED)),
        }
    }

    /// The later of both.
    pub fn until(&self) -> Until {
        match self.asked {
            Some(asked) if asked >= self.wait => Until::Asked(asked),
            // Whatever a clock that was set back makes of it.
            _ => Until::Patience(self.wait.min(self.at + MOST)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_and_the_authority_has_the_last_word() {
        let unreached = Failure::ours("no route");
        let waits = |failure: &Failure, failures| Note::after(failures, 1000, failure).until();
        assert_eq!(waits(&unreached, 0), Until::Patience(1010));
        assert_eq!(waits(&unreached, 3), Until::Patience(1080));
        assert_eq!(waits(&unreached, 40), Until::Patience(1000 + MOST));
        let refused = Failure { refused: true, ..Failure::ours("no") };
        let hour: i64 = (0..4).map(|failures| waits(&refused, failures).time() - 1000).sum();
        assert!(hour > 3600, "no fifth within an hour");
        let limited = Failure { rate_limited: true, ..refused.clone() };
        assert_eq!(waits(&limited, 0), Until::Asked(1000 + RATE_LIMITED));
        let told = Failure { retry_after: Some(7200), ..limited };
        assert_eq!(waits(&told, 0), Until::Asked(8200));
        assert_eq!(
            waits(&Failure { retry_after: Some(i64::MAX), ..told }, 0),
            Until::Asked(1000 + MOST_ASKED)
        );
        let short = Failure { retry_after: Some(1), ..refused };
        assert_eq!(waits(&short, 0), Until::Patience(1300));
    }
}
