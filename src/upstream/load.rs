//! How many requests an upstream may have in hand: a fixed number, and one that follows how long it takes.
//!
//! An upstream that slows down has ever more requests waiting, answers them when nobody waits any more, and serves nobody
//! at all. So who is one too many is turned away at once. How many are too many nobody knows beforehand; it is measured:
//!
//! ```text
//!            nothing is wrong                      the median answer takes more than `tolerance` times its usual
//!   limit: grows by its root while it is used  ->  shrinks with the ratio, by half at most, each quarter of a second
//!            ^                                        |
//!            |                                        v
//!   what it takes now is the usual  <-----  the floor: `min`, or twice what it bears in ordinary times
//! ```
//!
//! At the floor nothing more can be won by waiting less, so what is measured there after a while becomes the usual (twice of
//! it is too much then): an upstream that is ten times slower, but as parallel as before, gets back all it can work on. Above it the usual
//! only falls, so that a queue never becomes usual. In ordinary times nobody is turned away: the floor is twice what is in hand then.
//!
//! In hand is what waits for the head of its answer. A stream, a download or a tunnel is not, once it has begun.

use crate::base::priority::Priority;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;
use tokio::time::Instant;

/// `concurrency` of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadSpec {
    /// At most so many in flight, to their last bytes.
    pub max: Option<usize>,
    /// The limit that is measured, if it is.
    pub adaptive: Option<Adaptive>,
}

impl Default for LoadSpec {
    fn default() -> Self {
        LoadSpec { max: None, adaptive: Some(Adaptive::default()) }
    }
}

/// What is allowed before it counts as too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adaptive {
    /// How much longer than usual the median answer may take, in percent of the usual: 300 is three times.
    pub tolerance: u32,
    /// As many may always be in hand.
    pub min: usize,
}

impl Default for Adaptive {
    fn default() -> Self {
        Adaptive { tolerance: 300, min: 20 }
    }
}

/// For so long latency is collected before it is judged; longer while there is little.
const WINDOW: Duration = Duration::from_millis(250);
/// With fewer answers nothing is judged.
const ENOUGH: u32 = 10;
/// What is older says nothing of now.
const STALE: Duration = Duration::from_secs(5);
/// Windows before anything is limited: nothing is usual yet.
const LEARNING: u32 = 20;
/// Windows at the floor until what is measured there is believed: the queue of before has to be worked off first.
const SETTLED: u32 = 8;
/// The limit while nothing is usual yet; a quarter more of it is still a number.
const UNKNOWN: usize = usize::MAX / 2;
/// As good as no limit.
const CEILING: f64 = 1e6;
/// What it bears in ordinary times is forgotten by half in five minutes.
const FORGET: f64 = 0.999_42;

/// Buckets of latency: four to each doubling, from 64 microseconds to over a minute.
const BUCKETS: usize = 84;

/// What is in hand, and what may be.
#[derive(Debug)]
pub struct Load {
    spec: LoadSpec,
    in_flight: AtomicUsize,
    waiting: AtomicUsize,
    limit: AtomicUsize,
    window: Window,
    begun: Instant,
    controller: Mutex<Controller>,
}

/// Why a request is one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooMuch {
    /// The fixed number is reached.
    Fixed,
    /// The measured one is.
    Measured,
}

/// What has been seen since the last judgement.
#[derive(Debug)]
struct Window {
    /// When it ends, in nanoseconds since the beginning.
    end: AtomicU64,
    peak: AtomicUsize,
    shed: AtomicUsize,
    /// Of the answers, those that nobody waited for any more.
    given_up: AtomicU32,
    answers: [AtomicU32; BUCKETS],
}

/// A request that counts. Whoever has one says what became of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Turn {
    /// It does not count (any more).
    #[default]
    Over,
    /// It waits for the head of its answer.
    Waiting,
    /// It has it.
    Answered,
}

impl Load {
    /// Of an upstream that has nothing in hand.
    pub fn new(spec: LoadSpec) -> Self {
        Load::with(spec, Controller::default())
    }

    /// The same with other numbers: what was measured still holds. What is in flight is counted from now.
    pub fn succeeding(spec: LoadSpec, before: &Load) -> Self {
        let known = before.controller().clone();
        Load::with(spec, known)
    }

    fn with(spec: LoadSpec, controller: Controller) -> Self {
        let window = Window {
            end: AtomicU64::new(WINDOW.as_nanos() as u64),
            peak: AtomicUsize::new(0),
            shed: AtomicUsize::new(0),
            given_up: AtomicU32::new(0),
            answers: [const { AtomicU32::new(0) }; BUCKETS],
        };
        Load {
            spec,
            in_flight: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            limit: AtomicUsize::new(controller.known()),
            window,
            begun: Instant::now(),
            controller: Mutex::new(controller),
        }
    }

    fn controller(&self) -> MutexGuard<'_, Controller> {
        self.controller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many may be in hand now; none: nothing is measured, or not yet for long enough.
    pub fn limit(&self) -> Option<usize> {
        self.spec.adaptive.map(|_| self.limit.load(Relaxed)).filter(|limit| *limit != UNKNOWN)
    }

    /// How many are.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Takes a request that came at `now`.
    ///
    /// # Errors
    /// When it is one too many.
    pub fn enter(&self, priority: Priority, now: Instant) -> Result<Turn, TooMuch> {
        if let Some(max) = self.spec.max {
            if self.in_flight.fetch_add(1, Relaxed) >= priority.share(max) {
                self.in_flight.fetch_sub(1, Relaxed);
                return Err(TooMuch::Fixed);
            }
        }
        let Some(adaptive) = &self.spec.adaptive else { return Ok(Turn::Waiting) };
        let waiting = self.waiting.fetch_add(1, Relaxed) + 1;
        let limit = self.limit.load(Relaxed);
        let room = match priority {
            Priority::High => limit + limit / 4,
            other => other.share(limit),
        };
        if waiting > room {
            self.window.shed.fetch_add(1, Relaxed);
            self.leave(Turn::Waiting);
            self.judge(adaptive, now);
            return Err(TooMuch::Measured);
        }
        if waiting > self.window.peak.load(Relaxed) {
            self.window.peak.fetch_max(waiting, Relaxed);
        }
        self.judge(adaptive, now);
        Ok(Turn::Waiting)
    }

    /// The head of its answer is there after `took`, or it has given up waiting after that: one turn's next.
    pub fn answered(&self, turn: Turn, took: Duration, now: Instant) -> Turn {
        if turn != Turn::Waiting {
            return turn;
        }
        if let Some(adaptive) = &self.spec.adaptive {
            self.waiting.fetch_sub(1, Relaxed);
            self.window.answers[bucket(took)].fetch_add(1, Relaxed);
            self.judge(adaptive, now);
        }
        Turn::Answered
    }

    /// Its client has given up after `took`: it would have taken longer, and the upstream may still be at it.
    pub fn given_up(&self, turn: Turn, took: Duration, now: Instant) -> Turn {
        if turn == Turn::Waiting && self.spec.adaptive.is_some() {
            self.window.given_up.fetch_add(1, Relaxed);
        }
        self.answered(turn, took, now)
    }

    /// It is over.
    pub fn leave(&self, turn: Turn) {
        if turn == Turn::Over {
            return;
        }
        if turn == Turn::Waiting && self.spec.adaptive.is_some() {
            self.waiting.fetch_sub(1, Relaxed);
        }
        if self.spec.max.is_some() {
            self.in_flight.fetch_sub(1, Relaxed);
        }
    }

    /// Once a window, by whoever comes first after it.
    fn judge(&self, adaptive: &Adaptive, now: Instant) {
        let now = now.saturating_duration_since(self.begun);
        let end = Duration::from_nanos(self.window.end.load(Relaxed));
        if now < end {
            return;
        }
        let mut controller = match self.controller.try_lock() {
            Ok(controller) => controller,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return, // somebody is doing it
        };
        if self.window.end.load(Relaxed) != end.as_nanos() as u64 {
            return;
        }
        let seen = self.window.answers.each_ref().map(|bucket| bucket.load(Relaxed));
        let answers: u32 = seen.iter().sum();
        let lasted = now + WINDOW - end;
        let next = |after: Duration| self.window.end.store((now + after).as_nanos() as u64, Relaxed);
        let nothing = answers == 0 && self.waiting() > 0;
        if answers < ENOUGH && !nothing && lasted < STALE {
            return; // and the next one looks again
        }
        let median = match nothing {
            true => lasted, // at least
            false => median(&seen),
        };
        let given_up = self.window.given_up.swap(0, Relaxed);
        let silent = nothing || (given_up > 0 && given_up * 2 >= answers);
        let mean = in_hand(&seen, lasted);
        self.window.answers.iter().for_each(|bucket| bucket.store(0, Relaxed));
        let peak = self.window.peak.swap(self.waiting(), Relaxed);
        let shed = self.window.shed.swap(0, Relaxed) > 0;
        next(WINDOW);
        if answers >= ENOUGH || silent {
            controller.judge(adaptive, &Seen { median: median.as_secs_f64(), mean, peak, shed, silent });
            self.limit.store(controller.known(), Relaxed);
        }
    }
}

/// Which bucket a latency falls into.
fn bucket(took: Duration) -> usize {
    let micros = (took.as_micros() as u64).max(64);
    let octave = micros.ilog2();
    let quarter = (micros >> (octave - 2)) & 3;
    ((octave as usize - 6) * 4 + quarter as usize).min(BUCKETS - 1)
}

/// Where the middle one of these is, within a bucket's width.
fn median(seen: &[u32; BUCKETS]) -> Duration {
    let half = seen.iter().sum::<u32>() / 2;
    let mut passed = 0;
    let at = seen.iter().position(|count| {
        passed += count;
        passed > half
    });
    middle(at.unwrap_or(0))
}

/// The middle of a bucket.
fn middle(at: usize) -> Duration {
    let (octave, quarter) = (at / 4 + 6, at % 4);
    Duration::from_micros((1u64 << octave) + ((quarter as u64 * 2 + 1) << (octave - 3)))
}

/// How many were in hand on average in a window that lasted so long: by Little's law, from what the answers took.
fn in_hand(seen: &[u32; BUCKETS], lasted: Duration) -> f64 {
    let took = seen.iter().enumerate().map(|(at, count)| middle(at).as_secs_f64() * f64::from(*count));
    took.sum::<f64>() / lasted.as_secs_f64()
}

/// What a window has shown.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// In seconds.
    median: f64,
    /// How many were in hand on average.
    mean: f64,
    /// The most that were in hand.
    peak: usize,
    /// Somebody was turned away.
    shed: bool,
    /// Most were not answered at all: it takes longer than that.
    silent: bool,
}

/// Decides how many may be in hand, from one window to the next. It has no clock.
#[derive(Debug, Clone)]
struct Controller {
    /// How long the median answer takes in ordinary times, in seconds.
    usual: Option<f64>,
    /// How many are in hand in ordinary times.
    borne: f64,
    /// How many the last window had, if it was an ordinary one: what comes just before trouble is no proof.
    last: f64,
    limit: f64,
    windows: u32,
    /// For how many windows there were as few in hand as may be, and the shortest median of them.
    floored: (u32, f64),
}

impl Default for Controller {
    fn default() -> Self {
        Controller {
            usual: None,
            borne: 0.0,
            last: 0.0,
            limit: CEILING,
            windows: 0,
            floored: (0, f64::INFINITY),
        }
    }
}

impl Controller {
    /// The limit, once something is usual.
    fn known(&self) -> usize {
        if self.windows <= LEARNING {
            return UNKNOWN;
        }
        self.limit as usize
    }

    fn judge(&mut self, adaptive: &Adaptive, seen: &Seen) {
        let (median, peak) = (seen.median, seen.peak as f64);
        let tolerance = f64::from(adaptive.tolerance) / 100.0;
        if seen.silent && self.usual.is_none() {
            return; // it may be as slow as that
        }
        let usual = self.usual.get_or_insert(median);
        let learning = self.windows < LEARNING;
        self.windows = self.windows.saturating_add(1);
        let at_the_floor = peak < (adaptive.min as f64).max(2.0 * self.borne) + 1.0;
        if median < *usual {
            *usual += (median - *usual) * 0.5;
        } else if seen.silent {
            // It takes longer than that; how long nobody knows yet.
        } else if seen.shed && at_the_floor {
            let (windows, shortest) = &mut self.floored;
            (*windows, *shortest) = (*windows + 1, shortest.min(median));
            // As few as may be, and it still takes so long: from here on twice of it is too much.
            if *windows >= SETTLED {
                *usual = usual.max(*shortest * 2.0 / tolerance);
            }
        } else if at_the_floor || learning {
            *usual += (median - *usual) * 0.1;
        }
        if !(seen.shed && at_the_floor) || seen.silent {
            self.floored = (0, f64::INFINITY);
        }
        let gradient = (tolerance * *usual / median).clamp(0.5, 1.0);
        self.borne *= FORGET;
        let ordinary = gradient >= 1.0 && !seen.shed;
        if ordinary {
            self.borne = self.borne.max(self.last);
        }
        self.last = if ordinary { seen.mean } else { 0.0 };
        if learning {
            return;
        }
        let floor = (adaptive.min as f64).max(2.0 * self.borne);
        if gradient < 1.0 {
            let in_use = self.limit.min(peak.max(floor));
            self.limit = in_use * gradient + in_use.sqrt();
        } else if seen.shed || peak * 2.0 > self.limit {
            self.limit += self.limit.sqrt();
        }
        self.limit = self.limit.clamp(floor, CEILING);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An origin with so many workers that take so long, and what comes to it: a window a step.
    struct Origin {
        controller: Controller,
        workers: f64,
        service: f64,
    }

    impl Origin {
        /// So many requests a second for so long; the most that anybody waited, and how many were answered a second, in the
        /// last half of the time.
        fn bear(&mut self, rate: f64, seconds: usize) -> (f64, f64) {
            let (window, mut worst, mut answered) = (WINDOW.as_secs_f64(), 0.0f64, 0.0);
            let steps = seconds * 4;
            for step in 0..steps {
                let capacity = self.workers / self.service;
                // Little's law, for as many as are let in.
                let wanted = if rate < capacity { rate * self.service } else { f64::INFINITY };
                let peak = wanted.min(self.controller.limit);
                let latency = self.service.max(peak / capacity);
                if step >= steps / 2 {
                    worst = worst.max(latency);
                    answered += (peak / latency).min(rate) * window / (seconds as f64 / 2.0);
                }
                let shed = wanted > self.controller.limit;
                let (mean, peak) = (peak, peak.ceil() as usize);
                let seen = Seen { median: latency, mean, peak, shed, silent: false };
                self.controller.judge(&Adaptive::default(), &seen);
            }
            (worst, answered)
        }
    }

    fn origin(workers: f64, service: f64) -> Origin {
        Origin { controller: Controller::default(), workers, service }
    }

    #[test]
    fn an_origin_that_slows_down_tenfold_goes_on_at_its_capacity() {
        for workers in [8.0, 32.0, 200.0] {
            let mut origin = origin(workers, 0.02);
            let rate = 0.5 * workers / 0.02;
            let (usual, answered) = origin.bear(rate, 60);
            assert_eq!((usual, answered.round()), (0.02, rate), "nobody is turned away in ordinary times");
            origin.service = 0.2;
            for minutes in [1, 10, 100] {
                let (worst, answered) = origin.bear(rate, 60 * minutes);
                let least = 0.2 * f64::max(1.0, 20.0 / workers); // with as few as may always be in hand
                assert!(worst < least * 2.5, "{workers} workers: {worst} s after {minutes} min");
                let share = answered / (workers / 0.2);
                assert!(share > 0.95, "{workers} workers: {share} of what it can do");
            }
            origin.service = 0.02;
            let (usual, answered) = origin.bear(rate, 60);
            assert!((usual - 0.02).abs() < 1e-9 && (answered - rate).abs() < 1.0, "{usual} {answered}");
        }
    }

    /// A whole upstream, a millisecond a step: its workers take requests in turn, those too whose clients have gone.
    struct Queue {
        load: Load,
        now: Instant,
        workers: Vec<Instant>,
        service: Duration,
        /// When they came, and when they will be done.
        waiting: std::collections::VecDeque<(Instant, Instant)>,
        answered: usize,
    }

    impl Queue {
        const PATIENCE: Duration = Duration::from_secs(2);

        fn new(workers: usize, service: u64) -> Self {
            let load = Load::new(LoadSpec::default());
            let now = load.begun;
            let service = Duration::from_millis(service);
            let (waiting, workers) = (Default::default(), vec![now; workers]);
            Queue { load, now, workers, service, waiting, answered: 0 }
        }

        /// So many a second for so long: answers in time a second, in the last half of it.
        fn bear(&mut self, rate: f64, seconds: u64) -> f64 {
            let (mut due, steps) = (0.0, seconds * 1_000);
            for step in 0..steps {
                if step == steps / 2 {
                    self.answered = 0;
                }
                self.now += Duration::from_millis(1);
                let now = self.now;
                let patience = |came: Instant| came + Self::PATIENCE;
                // Those that are done, and those whose clients go. Both keep their order.
                while let Some((came, done)) = self.waiting.front().copied() {
                    if done.min(patience(came)) > now {
                        break;
                    }
                    self.waiting.pop_front();
                    let turn = if done <= patience(came) {
                        self.answered += 1;
                        self.load.answered(Turn::Waiting, done - came, now)
                    } else {
                        self.load.given_up(Turn::Waiting, Self::PATIENCE, now)
                    };
                    self.load.leave(turn);
                }
                due += rate / 1_000.0;
                while due >= 1.0 {
                    due -= 1.0;
                    if self.load.enter(Priority::Normal, now).is_err() {
                        continue;
                    }
                    let worker = self.workers.iter_mut().min().expect("one at least");
                    *worker = (*worker).max(now) + self.service;
                    self.waiting.push_back((now, *worker));
                }
            }
            self.answered as f64 / (seconds as f64 / 2.0)
        }
    }

    #[test]
    fn clients_that_give_up_do_not_keep_it_from_recovering() {
        let mut queue = Queue::new(32, 20);
        assert_eq!(queue.bear(800.0, 20).round(), 800.0);
        queue.service *= 10;
        queue.bear(800.0, 20);
        let answered = queue.bear(800.0, 20);
        assert!(answered > 0.9 * 160.0, "{answered} a second of 160; {:?}", queue.load.controller());
        queue.service /= 10;
        queue.bear(800.0, 20);
        assert_eq!(queue.bear(800.0, 20).round(), 800.0);
    }

    #[test]
    fn twice_as_slow_is_nothing() {
        let mut origin = origin(100.0, 0.02);
        origin.bear(1_000.0, 60);
        origin.service = 0.05;
        let before = origin.controller.limit;
        assert_eq!(origin.bear(1_000.0, 60).1.round(), 1_000.0);
        assert!(origin.controller.limit >= before);
    }

    #[test]
    fn silence_is_latency() {
        let mut origin = origin(32.0, 0.02);
        origin.bear(800.0, 60);
        let seen = Seen { median: 2.0, mean: 0.0, peak: 5_000, shed: false, silent: true };
        (0..20).for_each(|_| origin.controller.judge(&Adaptive::default(), &seen));
        assert!(origin.controller.limit < 40.0, "{}", origin.controller.limit);
        assert!(origin.controller.usual.is_some_and(|usual| usual < 0.03), "nothing was learned from it");
    }

    #[test]
    fn buckets_are_a_quarter_of_an_octave() {
        for micros in [64u64, 100, 250, 999, 5_000, 20_000, 333_333, 59_000_000] {
            let mut seen = [0; BUCKETS];
            seen[bucket(Duration::from_micros(micros))] = 3;
            let middle = median(&seen).as_micros() as f64;
            assert!((middle / micros as f64 - 1.0).abs() < 0.13, "{micros}: {middle}");
        }
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::from_secs(3600)), BUCKETS - 1);
    }

    #[test]
    fn turns_are_counted_to_their_ends() {
        let spec = LoadSpec { max: Some(2), adaptive: Some(Adaptive::default()) };
        let (load, now) = (Load::new(spec), Instant::now());
        let one = load.enter(Priority::Normal, now).unwrap();
        let two = load.enter(Priority::Normal, now).unwrap();
        assert_eq!(load.enter(Priority::High, now), Err(TooMuch::Fixed));
        let one = load.answered(one, Duration::from_millis(1), now);
        assert_eq!((one, load.waiting()), (Turn::Answered, 1));
        assert_eq!(load.enter(Priority::Normal, now), Err(TooMuch::Fixed), "it is still in flight");
        load.leave(one);
        load.leave(two);
        load.leave(Turn::Over);
        assert_eq!((load.waiting(), load.in_flight.load(Relaxed)), (0, 0));
    }
}
