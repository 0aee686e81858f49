//! The generic cell rate algorithm (ITU-T I.371), exactly: whole nanoseconds, and what is left of one as a fraction whose
//! denominator is the rate's own, so that three in a second are three in a second for ever.
//!
//! A bucket is one moment, its theoretical arrival time: how far that lies ahead of now is its debt. Each unit of cost
//! adds `period / count` to the debt, time takes from it, and what would bring it beyond `burst` units is refused. Over any
//! time `t` no more than `burst + t · count / period` units pass.

/// How much may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    count: u32,
    period: u64,
    burst: u64,
}

/// When a bucket is empty of debt: nanoseconds of the clock that is used, and a fraction of one over the quota's count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tat {
    /// Whole nanoseconds.
    pub ns: u64,
    /// The fraction's numerator.
    pub part: u32,
}

/// What is owed, in nanoseconds times the quota's count.
pub type Debt = u128;

/// The longest that a whole burst may take to be there again: beyond it numbers would not be exact on every store.
pub const LONGEST: u64 = 3660 * 86_400 * 1_000_000_000;

const MICRO: u64 = 1_000;

impl Quota {
    /// `count` in `period_seconds`, and `burst` at once.
    ///
    /// # Errors
    /// In words, for numbers that make no sense together.
    pub fn new(count: u32, period_seconds: u64, burst: u64) -> Result<Quota, String> {
        let period = period_seconds.checked_mul(1_000_000_000).filter(|period| *period > 0 && count > 0);
        let period = period.ok_or("a rate has a number and a time, and neither is zero")?;
        let quota = Quota { count, period, burst };
        if burst == 0 {
            return Err("a burst of 0 would let nothing through; 1 lets them through one by one".to_owned());
        }
        if quota.full() / u128::from(count) > u128::from(LONGEST) {
            return Err(format!("a burst of {burst} would take more than ten years to be there again"));
        }
        Ok(quota)
    }

    /// How many in a period.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// In nanoseconds.
    pub fn period(&self) -> u64 {
        self.period
    }

    /// How many at once.
    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// One of so many equal shares: that part of the rate, and of the burst as much as is whole, but room for `cost`.
    pub fn share(&self, of: u32, cost: u64) -> Quota {
        let of = u64::from(of.max(1));
        let burst = (self.burst / of).max(cost).max(1);
        Quota { period: self.period.saturating_mul(of), burst, ..*self }
    }

    /// The largest debt that may be made.
    pub fn full(&self) -> Debt {
        u128::from(self.burst) * u128::from(self.period)
    }

    /// What a cost adds to the debt.
    pub fn price(&self, cost: u64) -> Debt {
        u128::from(cost) * u128::from(self.period)
    }

    /// What is owed at `now`.
    pub fn debt(&self, tat: Tat, now: u64) -> Debt {
        match tat.ns.checked_sub(now) {
            // A fraction of another count, from before a change of the rate, is less than a nanosecond all the same.
            Some(ahead) => {
                u128::from(ahead) * u128::from(self.count) + u128::from(tat.part.min(self.count - 1))
            }
            None => 0,
        }
    }

    /// The moment at which this much is owed at `now`.
    pub fn tat(&self, debt: Debt, now: u64) -> Tat {
        let (ahead, part) = self.split(debt);
        Tat { ns: now.saturating_add(ahead), part }
    }

    /// Whether so much more may be owed.
    pub fn allows(&self, debt: Debt, cost: u64) -> bool {
        debt + self.price(cost) <= self.full()
    }

    /// How many units could be had at once.
    pub fn remaining(&self, debt: Debt) -> u64 {
        let left = self.full().saturating_sub(debt);
        match u64::try_from(left) {
            Ok(left) => left / self.period,
            Err(_) => (left / u128::from(self.period)) as u64, // at most `burst`
        }
    }

    /// In how many nanoseconds nothing is owed any more, rounded up.
    pub fn reset(&self, debt: Debt) -> u64 {
        let (ahead, part) = self.split(debt);
        ahead.saturating_add(u64::from(part > 0))
    }

    /// In how many nanoseconds this cost could be had, rounded up; 0 is now.
    pub fn wait(&self, debt: Debt, cost: u64) -> u64 {
        self.reset((debt + self.price(cost)).saturating_sub(self.full()))
    }

    /// The debt as a store has it that counts in microseconds and fractions of one over the count.
    pub fn debt_of_micros(&self, micros: u64, part: u64) -> Debt {
        (u128::from(micros) * u128::from(self.count) + u128::from(part)) * u128::from(MICRO)
    }

    /// What one unit adds, and what a whole burst is, in microseconds and that fraction: all that such a store needs.
    pub fn in_micros(&self) -> [u64; 4] {
        let (count, period) = (u128::from(self.count), u128::from(self.period / MICRO));
        let full = period * u128::from(self.burst);
        let pair = |n: u128| [(n / count) as u64, (n % count) as u64]; // `new` has bounded both
        let ([step, rest], [full, part]) = (pair(period), pair(full));
        [step, rest, full, part]
    }

    fn split(&self, debt: Debt) -> (u64, u32) {
        match u64::try_from(debt) {
            // A division of 128 bits costs ten times as much, and few need it.
            Ok(debt) => (debt / u64::from(self.count), (debt % u64::from(self.count)) as u32),
            Err(_) => {
                let count = u128::from(self.count);
                (u64::try_from(debt / count).unwrap_or(u64::MAX), (debt % count) as u32)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Takes one as often as it can be had at these moments; how many that were.
    fn pass(quota: &Quota, tat: &mut Tat, moments: impl Iterator<Item = u64>) -> u64 {
        let mut passed = 0;
        for now in moments {
            let debt = quota.debt(*tat, now);
            if quota.allows(debt, 1) {
                *tat = quota.tat(debt + quota.price(1), now);
                passed += 1;
            }
        }
        passed
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let quota = Quota::new(10, 1, 5).unwrap();
        let mut tat = Tat::default();
        assert_eq!(pass(&quota, &mut tat, std::iter::repeat_n(SECOND, 20)), 5);
        assert_eq!(
            pass(&quota, &mut tat, std::iter::once(SECOND + SECOND / 10 - 1)),
            0,
            "a nanosecond early"
        );
        assert_eq!(pass(&quota, &mut tat, std::iter::repeat_n(SECOND + SECOND / 10, 9)), 1);
        assert_eq!(
            pass(&quota, &mut tat, std::iter::repeat_n(100 * SECOND, 20)),
            5,
            "never more than a burst"
        );
    }

    #[test]
    fn nothing_drifts() {
        // A third of a second is no number of nanoseconds, nor is a seventh of a day.
        for (count, period) in [(3, 1), (7, 86_400), (999_983, 1), (1, 3_600)] {
            let quota = Quota::new(count, period, 1).unwrap();
            let (mut tat, mut now, rounds) = (Tat::default(), SECOND, 10_000);
            for _ in 0..rounds {
                now += quota.wait(quota.debt(tat, now), 1);
                let debt = quota.debt(tat, now);
                assert!(quota.allows(debt, 1) && !quota.allows(debt + quota.price(1), 1));
                tat = quota.tat(debt + quota.price(1), now);
            }
            // Whoever comes at the first possible nanosecond loses less than one each time, never gains.
            let exact = u128::from(rounds - 1_u64) * u128::from(period * SECOND) / u128::from(count);
            let took = u128::from(now - SECOND);
            assert!(took >= exact && took <= exact + u128::from(rounds), "{count}/{period}: {took} {exact}");
            // Asked without such rounding the count is exact: a burst of what they are leaves no fraction over.
            let whole = Quota::new(count, period, u64::from(count)).unwrap();
            let spent = (0..count)
                .fold(Tat::default(), |tat, _| whole.tat(whole.debt(tat, SECOND) + whole.price(1), SECOND));
            assert_eq!(spent, Tat { ns: SECOND + period * SECOND, part: 0 });
        }
    }

    #[test]
    fn what_is_left_and_when() {
        let quota = Quota::new(100, 60, 200).unwrap();
        assert_eq!((quota.remaining(0), quota.reset(0), quota.wait(0, 200)), (200, 0, 0));
        let debt = quota.price(150);
        assert_eq!((quota.remaining(debt), quota.reset(debt)), (50, 90 * SECOND));
        assert_eq!(quota.wait(debt, 51), 60 * SECOND / 100);
        assert!(quota.allows(debt, 50) && !quota.allows(debt, 51));
        let beyond = quota.price(500);
        assert_eq!(
            (quota.remaining(beyond), quota.wait(beyond, 1)),
            (0, (500 + 1 - 200) * 60 * SECOND / 100)
        );
    }

    #[test]
    fn shares_are_never_more_than_the_whole() {
        let quota = Quota::new(300, 1, 100).unwrap();
        let share = quota.share(3, 1);
        assert_eq!((share.count(), share.period(), share.burst()), (300, 3 * SECOND, 33));
        assert_eq!(quota.share(1_000, 1).burst(), 1);
        assert_eq!(quota.share(1_000, 7).burst(), 7, "what costs seven must be possible");
    }

    #[test]
    fn micros_say_the_same() {
        let quota = Quota::new(7, 1, 3).unwrap();
        let [step, rest, full, part] = quota.in_micros();
        assert_eq!(quota.debt_of_micros(step, rest), quota.price(1));
        assert_eq!(quota.debt_of_micros(full, part), quota.price(3));
    }

    #[test]
    fn numbers_are_bounded() {
        assert!(Quota::new(1, 366 * 86_400, 10).is_ok());
        assert!(Quota::new(1, 366 * 86_400, 11).is_err());
        assert!(Quota::new(1_000_000_000, 1, 1_000_000_000).is_ok());
        assert!(Quota::new(1, 1, 0).is_err() && Quota::new(0, 1, 1).is_err() && Quota::new(1, 0, 1).is_err());
        let large = Quota::new(1_000_000_000, 366 * 86_400, 9_000_000_000).unwrap();
        let owed = large.price(9_000_000_000);
        assert_eq!(large.debt(large.tat(owed, 5), 5), owed);
        assert_eq!((large.remaining(owed), large.remaining(0)), (0, 9_000_000_000));
    }
}
