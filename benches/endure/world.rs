//! What every worker of the soak shares: the gateway's address, the origins and their weather, the tally, the end.

use super::origin::{Mode, Origin};
use super::tally::Tally;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// After an origin is well again: a check must pass, and what began before must end.
pub const SETTLE: Duration = Duration::from_secs(3);

/// The shared state.
pub struct World {
    pub gateway: SocketAddr,
    /// Always well.
    pub steady: Vec<Origin>,
    /// At most one of them is unwell at a time.
    pub flaky: Vec<Origin>,
    /// The only one of its upstream, and not always well.
    pub lonely: Origin,
    pub tally: Tally,
    pub seed: u64,
    /// Paced kinds do this many times what they do by default.
    pub pace: f64,
    pub sabotage: Option<Sabotage>,
    stop: AtomicBool,
}

/// Makes the soak fail on purpose, to see that it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Waits for another status than the right one.
    Answer,
    /// Holds on to a tunnel more every two seconds.
    Connections,
    /// Takes an origin down that is said to be always well.
    Origin,
}

impl World {
    pub fn new(gateway: SocketAddr, origins: Origins, seed: u64, pace: f64) -> World {
        let Origins { steady, flaky, lonely } = origins;
        let (tally, stop) = (Tally::default(), AtomicBool::new(false));
        World { gateway, steady, flaky, lonely, tally, seed, pace, sabotage: None, stop }
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Sleeps, but not beyond the end.
    pub fn sleep(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.is_over() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }

    /// What may have troubled an exchange with `flaky` that began then and ended now.
    pub fn flaky_troubles(&self, from: Instant) -> Vec<Mode> {
        self.flaky.iter().flat_map(|o| o.troubles(from, Instant::now(), SETTLE)).collect()
    }

    /// The same for `lonely`.
    pub fn lonely_troubles(&self, from: Instant) -> Vec<Mode> {
        self.lonely.troubles(from, Instant::now(), SETTLE)
    }

    /// Who is unwell now, for the progress line.
    pub fn weather(&self) -> String {
        let named = |(n, o): (usize, &Origin)| match o.mode() {
            Mode::Well => None,
            mode if n == self.flaky.len() => Some(format!("lonely {mode:?}")),
            mode => Some(format!("flaky {mode:?}")),
        };
        let unwell: Vec<String> =
            self.flaky.iter().chain([&self.lonely]).enumerate().filter_map(named).collect();
        if unwell.is_empty() {
            "all well".to_owned()
        } else {
            unwell.join(", ")
        }
    }
}

/// All origins.
pub struct Origins {
    pub steady: Vec<Origin>,
    pub flaky: Vec<Origin>,
    pub lonely: Origin,
}

impl Origins {
    pub fn start() -> Origins {
        let some = |n: usize| (0..n).map(|_| Origin::start()).collect();
        Origins { steady: some(2), flaky: some(3), lonely: Origin::start() }
    }
}

/// Lets origins fail and return until the end: of `flaky` one at a time, with a pause in which all have settled.
pub fn weather(world: &World) {
    let unwell = |origins: &[&Origin], seed: u64, pause: Duration| {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut modes = super::origin::UNWELL;
        loop {
            random.shuffle(&mut modes); // each way comes as often as the others
            for mode in modes {
                world.sleep(pause + Duration::from_millis(random.u64(..2000)));
                if world.is_over() {
                    return;
                }
                let origin = origins[random.usize(..origins.len())];
                origin.become_unwell(mode);
                world.sleep(Duration::from_millis(random.u64(1000..4000)));
                origin.recover();
            }
        }
    };
    std::thread::scope(|scope| {
        let flaky: Vec<&Origin> = world.flaky.iter().collect();
        scope.spawn(move || unwell(&flaky, world.seed ^ 1, SETTLE + Duration::from_secs(1)));
        scope.spawn(|| unwell(&[&world.lonely], world.seed ^ 2, SETTLE + Duration::from_secs(2)));
        if world.sabotage == Some(Sabotage::Origin) {
            scope.spawn(|| {
                world.sleep(Duration::from_secs(20));
                world.steady.iter().for_each(|o| o.become_unwell(Mode::Stall));
            });
        }
    });
}
