//! Carries measurements out: every contender once a round, round after round, so that a noisy machine disturbs all
//! alike.

use crate::args::Plan;
use crate::catalogue::{Measurement, Work, PLAINTEXT};
use crate::dial::Handshake;
use crate::parse::Load;
use crate::process::{self, Cpu};
use crate::proxies::{Contender, Kind, Running, Served, Setup};
use crate::report::{median, Sample};
use crate::tls::Key;
use crate::tools::{self, Paths};
use crate::{idle, words};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Below this percentage of its processor a proxy in a closed loop was not what limited it.
const SATURATED: f64 = 93.0;
/// Above it the load side was.
const LOADED: f64 = 85.0;
const LOAD_SIDE: &str = "limited by the load side";
const DISTURBED: &str = "disturbed by other programs";
/// Above it requests were sent when they were due.
const ON_TIME: f64 = 0.98;
const LEAST_RATE: u64 = 100;

/// The cases of new connections.
const DIALLED: [(&str, Option<Key>, Handshake); 4] = [
    (PLAINTEXT, None, Handshake::Plain),
    ("P-256", Some(Key::P256), Handshake::Full),
    ("RSA-2048", Some(Key::Rsa2048), Handshake::Full),
    ("resumed", Some(Key::P256), Handshake::Resumed),
];

type Values = BTreeMap<&'static str, f64>;

/// One contender in one case of a measurement.
struct Lane<'a> {
    contender: &'a Contender,
    case: String,
    setup: Setup,
    paths: Paths,
    /// Of those that are dialled.
    handshake: Handshake,
    /// None when it is started anew each round.
    running: Option<Running>,
}

pub struct Session<'a> {
    plan: &'a Plan,
    direct: Contender,
    pub samples: Vec<Sample>,
    /// Of the open loop, once known.
    pub rate: Option<u64>,
    began: Instant,
    done: Duration,
    expected: Duration,
}

/// What was used up so far.
struct Reading {
    at: Instant,
    proxy: Cpu,
    origin: Cpu,
    load: Cpu,
    everybody: f64,
    served: Served,
}

impl<'a> Session<'a> {
    pub fn new(plan: &'a Plan) -> Session<'a> {
        let direct =
            Contender { name: "direct".to_owned(), kind: Kind::Direct, program: Vec::new(), logs: false };
        let (rate, began) = (plan.rate, Instant::now());
        let mut session = Session {
            plan,
            direct,
            samples: Vec::new(),
            rate,
            began,
            done: Duration::ZERO,
            expected: Duration::ZERO,
        };
        session.expected = plan.measurements.iter().map(|m| session.duration(m)).sum();
        session
    }

    /// How long everything is expected to take.
    pub fn expected(&self) -> Duration {
        self.expected
    }

    /// One measurement with all its rounds. An error is the user's wish to stop; everything else becomes a sample.
    pub fn run(&mut self, measurement: &'static Measurement) -> Result<(), String> {
        let contenders: Vec<Contender> = self.takes_part(measurement).into_iter().cloned().collect();
        let mut lanes = Vec::new();
        for lane in all_lanes(measurement, &contenders) {
            match self.start(measurement, &lane) {
                Ok(running) => lanes.push(Lane { running, ..lane }),
                Err(error) => self.fail(measurement, &lane, 0, error)?,
            }
        }
        if let Work::Open { path, connections } = measurement.work {
            self.choose_rate(&lanes, path, connections)?;
        }
        for round in 1..=rounds(self.plan, measurement) {
            for lane in &mut lanes {
                match self.once(measurement, lane) {
                    Ok(sample) => self.keep(measurement, sample, round),
                    Err(error) => self.fail(measurement, lane, round, error)?,
                }
            }
        }
        self.done += self.duration(measurement);
        derive(&mut self.samples, measurement);
        Ok(())
    }

    fn takes_part(&self, measurement: &Measurement) -> Vec<&Contender> {
        let with_routes = |c: &&Contender| measurement.bare || c.kind != Kind::Bare;
        let direct = measurement.direct.then_some(&self.direct);
        self.plan.contenders.iter().filter(with_routes).chain(direct).collect()
    }

    /// Starts a lane and warms it up, so that connections and pools are there in the first round.
    fn start(&self, measurement: &Measurement, lane: &Lane<'_>) -> Result<Option<Running>, String> {
        if matches!(measurement.work, Work::Idle { .. }) {
            return Ok(None);
        }
        let running = Running::start(self.plan, lane.contender, lane.setup)?;
        match measurement.work {
            Work::Open { .. } => {
                tools::wrk(self.plan, &running.base(), lane.paths, lane.setup.connections, &[], 1)?
            }
            _ => self.load(measurement, lane, &running, 1)?,
        };
        Ok(Some(running))
    }

    /// One run of the load generator.
    fn load(
        &self,
        measurement: &Measurement,
        lane: &Lane<'_>,
        running: &Running,
        seconds: u64,
    ) -> Result<Load, String> {
        let (plan, to) = (self.plan, running.address);
        match measurement.work {
            Work::Open { path, connections } => {
                tools::oha(plan, to, path, connections, self.rate.unwrap_or(LEAST_RATE), seconds)
            }
            Work::Streams { path, connections, streams } => {
                tools::h2load(plan, &running.base(), path, (connections, streams), seconds)
            }
            Work::Dialled { clients } => tools::dial(plan, to, clients, lane.handshake, seconds),
            _ => {
                let fields = if let Work::Closed { fields, .. } = measurement.work { fields } else { &[] };
                tools::wrk(plan, &running.base(), lane.paths, lane.setup.connections, fields, seconds)
            }
        }
    }

    /// Half of what the slowest can do, unless the load side cannot keep that up on time.
    fn choose_rate(
        &mut self,
        lanes: &[Lane<'_>],
        path: &'static str,
        connections: usize,
    ) -> Result<(), String> {
        if self.rate.is_some() {
            return Ok(());
        }
        let mut slowest = f64::INFINITY;
        for lane in lanes.iter().filter(|l| l.contender.kind != Kind::Direct) {
            let name = &lane.contender.name;
            let known: Vec<f64> = self
                .samples
                .iter()
                .filter(|s| s.measurement == "cpu" && s.contender == *name)
                .filter_map(|s| s.values.get("rps").copied())
                .collect();
            let Some(running) = &lane.running else { continue };
            let rps = match median(&known) {
                Some(rps) => rps,
                None => {
                    tools::wrk(self.plan, &running.base(), Paths::One(path), connections, &[], 2)?.per_second
                }
            };
            slowest = slowest.min(rps);
        }
        let mut rate = if slowest.is_finite() { (slowest / 2.0) as u64 } else { 1000 };
        let direct = lanes.iter().find(|l| l.contender.kind == Kind::Direct).and_then(|l| l.running.as_ref());
        if let Some(direct) = direct {
            for _ in 0..8 {
                let load = tools::oha(self.plan, direct.address, path, connections, rate, 1)?;
                if load.per_second > ON_TIME * rate as f64 {
                    break;
                }
                rate = rate * 4 / 5;
            }
        }
        self.rate = Some((rate / 100 * 100).max(LEAST_RATE));
        Ok(())
    }

    fn once(&self, measurement: &'static Measurement, lane: &mut Lane<'_>) -> Result<Sample, String> {
        let mut sample = Sample {
            measurement: measurement.name,
            case: lane.case.clone(),
            contender: lane.contender.name.clone(),
            round: 0,
            values: BTreeMap::new(),
            errors: BTreeMap::new(),
            limit: None,
        };
        if let Work::Idle { steps } = measurement.work {
            let (values, errors) = idle::measure(self.plan, lane.contender, lane.setup, steps)?;
            (sample.values, sample.errors) = (values, errors);
            return Ok(sample);
        }
        let mut running = lane.running.take().ok_or("not running")?;
        let outcome = self.measured(measurement, lane, &mut running, &mut sample);
        lane.running = Some(running);
        outcome.map(|()| sample)
    }

    /// A run of the load generator, and what everybody used meanwhile.
    fn measured(
        &self,
        measurement: &Measurement,
        lane: &Lane<'_>,
        running: &mut Running,
        sample: &mut Sample,
    ) -> Result<(), String> {
        let before = Reading::take(running)?;
        let load = self.load(measurement, lane, running, self.plan.seconds)?;
        let after = Reading::take(running)?;
        sample.values = self.figures(measurement, running, &load, &before, &after);
        sample.limit = self.limit(measurement, lane.contender, &sample.values);
        sample.errors = load.errors;
        let asked = if lane.setup.answers { 0 } else { load.requests };
        if after.served.requests < before.served.requests + asked {
            sample.errors.insert("answers that the origin did not give".to_owned(), 1);
        }
        if lane.setup.answers && after.served.requests > before.served.requests {
            sample.errors.insert("answers that the origin gave".to_owned(), 1);
        }
        if let Err(error) = running.proxy.as_mut().map_or(Ok(()), process::Process::check_alive) {
            sample.errors.insert(error, 1);
        }
        Ok(())
    }

    /// Everything that a run of a load generator tells; those that the measurement does not name are left out.
    fn figures(
        &self,
        measurement: &Measurement,
        running: &Running,
        load: &Load,
        before: &Reading,
        after: &Reading,
    ) -> Values {
        let wall = (after.at - before.at).as_secs_f64();
        let requests = load.requests.max(1) as f64;
        let (proxy, origin) = (after.proxy.since(before.proxy), after.origin.since(before.origin).total());
        let side = after.load.since(before.load).total() + origin;
        let everybody = after.everybody - before.everybody;
        let each = |seconds: f64| seconds * 1e6 / requests;
        let opened = after.served.connections - before.served.connections;
        let mut values = vec![
            ("rps", load.per_second),
            ("rate", load.per_second),
            ("opened", opened as f64 * 10_000.0 / requests),
            ("origin", each(origin)),
            ("load", 100.0 * side / wall / self.plan.load_processors() as f64),
            ("others", (100.0 * (everybody - side - proxy.total()) / wall / processors()).max(0.0)),
        ];
        if let Some(process) = &running.proxy {
            values.extend([
                ("cpu", each(proxy.total())),
                ("user", each(proxy.user)),
                ("system", each(proxy.system)),
                ("busy", 100.0 * proxy.total() / wall),
                ("peak", process.peak() / f64::from(1 << 20)),
            ]);
        }
        if let Work::Closed { body, .. } = measurement.work {
            let gigabytes = requests * body as f64 / 1e9;
            values.push(("gb_cpu", proxy.total() / gigabytes));
            values.push(("gb_rate", load.per_second * body as f64 / 1e9));
        }
        if let Some(handshakes) = &load.handshakes {
            values.extend([("full", handshakes.full as f64), ("resumed", handshakes.resumed as f64)]);
        }
        if let Some(latency) = &load.latency {
            values.extend([("p50", latency.p50), ("p99", latency.p99), ("p999", latency.p999)]);
        }
        values.into_iter().filter(|(key, _)| measurement.figure(key).is_some()).collect()
    }

    /// What limited a run, when it was not the proxy.
    fn limit(
        &self,
        measurement: &Measurement,
        contender: &Contender,
        values: &Values,
    ) -> Option<&'static str> {
        let value = |key| values.get(key).copied().unwrap_or(0.0);
        let late = match measurement.work {
            Work::Open { .. } => value("rate") < ON_TIME * self.rate.unwrap_or(LEAST_RATE) as f64,
            _ => contender.kind != Kind::Direct,
        };
        let idle = value("busy") < SATURATED;
        (late && idle).then_some(if value("load") > LOADED { LOAD_SIDE } else { DISTURBED })
    }

    fn keep(&mut self, measurement: &Measurement, mut sample: Sample, round: u64) {
        sample.round = round;
        self.progress(measurement, &sample);
        self.samples.push(sample);
    }

    fn fail(
        &mut self,
        measurement: &'static Measurement,
        lane: &Lane<'_>,
        round: u64,
        error: String,
    ) -> Result<(), String> {
        if process::stopped() {
            return Err(error);
        }
        let sample = Sample {
            measurement: measurement.name,
            case: lane.case.clone(),
            contender: lane.contender.name.clone(),
            round,
            values: BTreeMap::new(),
            errors: BTreeMap::from([(error, 1)]),
            limit: None,
        };
        self.keep(measurement, sample, round);
        Ok(())
    }

    fn progress(&mut self, measurement: &Measurement, sample: &Sample) {
        let shown = |f: &&crate::catalogue::Figure| sample.values.contains_key(f.key);
        let figure = measurement
            .figures
            .iter()
            .find(|f| f.drawn && shown(f))
            .or_else(|| measurement.figures.iter().find(shown));
        let figure = figure.map_or_else(String::new, |f| {
            format!("{} {} {}", f.title, words::number(sample.values[f.key], f.decimals), f.unit)
        });
        let errors: String = sample.errors.iter().map(|(e, n)| format!(" ERROR {e} ({n})")).collect();
        let place = format!("{} {}", measurement.name, sample.case);
        let spent = self.began.elapsed();
        eprintln!(
            "[{} of about {}] {:<20} round {}/{} {:<12} {}{errors}",
            words::clock(spent),
            words::clock(self.expected.max(spent)),
            place,
            sample.round,
            rounds(self.plan, measurement),
            words::title(&sample.contender),
            figure.trim_end(),
        );
    }

    fn duration(&self, measurement: &Measurement) -> Duration {
        let contenders = self.takes_part(measurement).len() as f64;
        let cases = match measurement.work {
            Work::Routes { counts, .. } => counts.len() as f64,
            Work::Dialled { .. } => DIALLED.len() as f64,
            Work::Encrypted { .. } => 2.0,
            _ => 1.0,
        };
        let each = match measurement.work {
            Work::Idle { steps } => 3.0 + 3.7 * steps.len() as f64,
            _ => self.plan.seconds as f64 + 0.25,
        };
        let start = if matches!(measurement.work, Work::Idle { .. }) { 0.0 } else { 1.6 };
        let rounds = rounds(self.plan, measurement) as f64;
        Duration::from_secs_f64(contenders * cases * (start + rounds * each))
    }
}

impl Reading {
    fn take(running: &Running) -> Result<Reading, String> {
        let served = running.served()?;
        Ok(Reading {
            proxy: running.proxy.as_ref().map(process::Process::cpu).unwrap_or_default(),
            origin: running.origin.cpu(),
            load: process::cpu_of_ended_children(),
            everybody: process::cpu_of_everybody(),
            served,
            at: Instant::now(),
        })
    }
}

fn rounds(plan: &Plan, measurement: &Measurement) -> u64 {
    if matches!(measurement.work, Work::Idle { .. }) {
        plan.rounds.min(3)
    } else {
        plan.rounds
    }
}

fn processors() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64)
}

fn all_lanes<'c>(measurement: &Measurement, contenders: &'c [Contender]) -> Vec<Lane<'c>> {
    let lane = |case: &str, setup: Setup, paths, handshake| {
        let case = case.to_owned();
        contenders.iter().map(move |contender| Lane {
            contender,
            case: case.clone(),
            setup,
            paths,
            handshake,
            running: None,
        })
    };
    let setup = |connections| Setup { tls: None, answers: false, routes: 10, connections };
    let plain = |case: &str, setup, paths| lane(case, setup, paths, Handshake::Plain);
    match measurement.work {
        Work::Closed { paths, connections, .. } => plain("", setup(connections), paths).collect(),
        Work::Open { path, connections } => plain("", setup(connections), Paths::One(path)).collect(),
        Work::Idle { steps } => {
            let most = steps.iter().max().copied().unwrap_or(0);
            plain("", setup(most), Paths::One("/service1/orders")).collect()
        }
        Work::Routes { counts, connections } => counts
            .iter()
            .flat_map(|n| {
                let case = format!("{} routes", words::number(*n as f64, 0));
                plain(&case, Setup { routes: *n, ..setup(connections) }, Paths::Spread(*n))
            })
            .collect(),
        Work::Encrypted { path, connections } => [(PLAINTEXT, None), ("TLS", Some(Key::P256))]
            .into_iter()
            .flat_map(|(case, tls)| plain(case, Setup { tls, ..setup(connections) }, Paths::One(path)))
            .collect(),
        Work::Streams { path, connections, streams } => {
            let setup = Setup { tls: Some(Key::P256), ..setup(connections * streams) };
            plain("", setup, Paths::One(path)).collect()
        }
        Work::Dialled { clients } => DIALLED
            .into_iter()
            .flat_map(|(case, tls, handshake)| {
                let setup = Setup { tls, answers: true, ..setup(clients) };
                lane(case, setup, Paths::One("/"), handshake)
            })
            .collect(),
    }
}

/// Figures that are made of several samples of one round: what a proxy adds to the origin's own latency, what more
/// routes cost, what TLS costs.
fn derive(samples: &mut [Sample], measurement: &Measurement) {
    let known = samples.to_vec();
    let base = |sample: &Sample, contender: &str, case: Option<&str>, key: &str| {
        let is = |s: &&Sample| {
            s.measurement == sample.measurement
                && s.round == sample.round
                && s.contender == contender
                && case.is_none_or(|case| s.case == case)
        };
        known.iter().find(is).and_then(|s| s.values.get(key).copied())
    };
    for sample in samples.iter_mut().filter(|s| s.measurement == measurement.name) {
        for (key, added) in [("p50", "p50_added"), ("p99", "p99_added"), ("p999", "p999_added")] {
            let own = sample.values.get(key).copied();
            if let (Some(own), Some(direct)) = (own, base(sample, "direct", None, key)) {
                if sample.contender != "direct" {
                    sample.values.insert(added, own - direct);
                }
            }
        }
        if let (Work::Routes { .. }, Some(own)) = (&measurement.work, sample.values.get("cpu").copied()) {
            if let Some(few) = base(sample, &sample.contender, Some("10 routes"), "cpu") {
                sample.values.insert("ratio", own / few);
            }
        }
        if let (true, Some(own)) = (sample.case != PLAINTEXT, sample.values.get("cpu").copied()) {
            if let Some(without) = base(sample, &sample.contender, Some(PLAINTEXT), "cpu") {
                sample.values.insert("added", own - without);
            }
        }
    }
}
