//! Soak: an hour of mixed traffic through the release binary, with origins that fail and return and a reload every few
//! seconds. Every outcome must be explained, nothing may grow, and at the end everything must be given back.
//!
//! `benches/soak` starts it. `world` is what all share, `origin` fails, `traffic`, `slow` and `rude` ask, `plan`
//! reloads, `watch` looks on, `tally` and `report` say what came of it.

mod client;
#[path = "../../tests/kit/mod.rs"]
mod kit;
mod origin;
mod plan;
mod report;
mod rude;
mod slow;
mod tally;
mod traffic;
mod watch;
mod world;

use kit::Gateway;
use report::Report;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use watch::{Log, Sample};
use world::{Origins, Sabotage, World};

const USAGE: &str = "\
usage: benches/soak [--minutes N] [--rate N] [--seed N] [--out FOLDER] [--sabotage KIND]
  --minutes N      how long, default 60; fractions are fine
  --rate N         exchanges a second of all kinds together, about; default 300
  --seed N         of the weather and the reloads, default 1
  --out FOLDER     for soak.json and the gateway's log, default target/soak
  --sabotage KIND  makes it fail, to see that it does: answer, connections or origin";

/// The exchanges a second that `traffic` makes by itself.
const RATE: f64 = 300.0;
/// Between two lines that say how it goes.
const PROGRESS: Duration = Duration::from_secs(10);
/// Within this the last connection to an upstream is given up, and the process ends once told to.
const PATIENCE: Duration = Duration::from_secs(20);
const QUICK: Duration = Duration::from_secs(3);

struct Options {
    minutes: f64,
    rate: f64,
    seed: u64,
    out: PathBuf,
    sabotage: Option<Sabotage>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    // `cargo bench` and `cargo test` start every bench target without this.
    if arguments.first().is_none_or(|first| first != "--run") {
        return ExitCode::SUCCESS;
    }
    let Some(options) = parse(&arguments[1..]) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // A worker's panic is an outcome, and told as one.
        if std::thread::current().name() == Some("main") {
            usual(panic);
        }
    }));
    match soak(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("soak: {}: {e}", options.out.display());
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Option<Options> {
    let mut options =
        Options { minutes: 60.0, rate: RATE, seed: 1, out: PathBuf::from("target/soak"), sabotage: None };
    for pair in arguments.chunks(2) {
        let [name, value] = pair else { return None };
        match name.as_str() {
            "--minutes" => options.minutes = value.parse().ok().filter(|m| *m > 0.0)?,
            "--rate" => options.rate = value.parse().ok().filter(|r| *r > 0.0)?,
            "--seed" => options.seed = value.parse().ok()?,
            "--out" => options.out = value.into(),
            "--sabotage" => {
                options.sabotage = Some(match value.as_str() {
                    "answer" => Sabotage::Answer,
                    "connections" => Sabotage::Connections,
                    "origin" => Sabotage::Origin,
                    _ => return None,
                });
            }
            _ => return None,
        }
    }
    Some(options)
}

/// Runs it all; whether it passed.
fn soak(options: &Options) -> std::io::Result<bool> {
    std::fs::create_dir_all(&options.out)?;
    let origins = Origins::start();
    let base = plan::base(&origins);
    let mut gateway = Gateway::start(&plan::version(&base, 0, "", ""));
    let mut world = World::new(gateway.address(), origins, options.seed, options.rate / RATE);
    world.sabotage = options.sabotage;
    // The checks of the start have closed their connections; nobody else has come yet.
    let idle = quiet(&gateway, f64::MAX);
    let began = Instant::now();
    let mut log = Log::new(&gateway);
    let samples = load(&world, &gateway, &base, options.minutes, &mut log);
    let ran = began.elapsed();

    let end = quiet(&gateway, idle);
    log.look(&world);
    let mut reasons = world.tally.unexplained();
    let trends = watch::trends(&samples);
    for t in trends.iter().filter(|t| t.grows()) {
        reasons.push(format!("{} grew from {:.1} to {:.1}", t.name, t.first, t.last));
    }
    if end > idle {
        reasons.push(format!("{end} descriptors are open without any client, and {idle} were at the start"));
    }
    reasons.extend(leave(&mut gateway));
    let (tally, samples, trends) = (&world.tally, &samples[..], &trends[..]);
    let report = Report { seed: options.seed, ran, tally, samples, trends, reasons: &reasons };
    report.write_json(&options.out.join("soak.json"))?;
    std::fs::write(options.out.join("gateway.log"), gateway.log().join("\n") + "\n")?;
    eprintln!("{}", report.table());
    Ok(reasons.is_empty())
}

/// The load, watched; ends with the time, or with enough that nobody can explain.
fn load(world: &World, gateway: &Gateway, base: &str, minutes: f64, log: &mut Log<'_>) -> Vec<Sample> {
    let (began, length) = (Instant::now(), Duration::from_secs_f64(minutes * 60.0));
    let (mut samples, mut held, mut told) = (Vec::new(), Vec::new(), began);
    std::thread::scope(|scope| {
        scope.spawn(|| world::weather(world));
        scope.spawn(|| plan::reloads(world, gateway, base));
        traffic::start(scope, world);
        while began.elapsed() < length && !world.tally.has_enough() {
            world.sleep(watch::EVERY.min(length.saturating_sub(began.elapsed())));
            let sample = Sample::take(gateway.pid(), began);
            samples.push(sample);
            log.look(world);
            if sample.rss_mib == 0.0 {
                world.tally.complain("the gateway is gone".to_owned());
                break;
            }
            if world.sabotage == Some(Sabotage::Connections) {
                slow::hold(world, &mut held);
            }
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                progress(world, &sample, length);
            }
        }
        world.stop();
    });
    samples
}

fn progress(world: &World, sample: &Sample, length: Duration) {
    let clock = |seconds: u64| format!("{:02}:{:02}", seconds / 60, seconds % 60);
    let Sample { at, rss_mib, descriptors, threads } = sample;
    eprintln!(
        "soak {}/{}: {} exchanges, {} unexplained, {rss_mib:.1} MiB, {descriptors} descriptors, {threads} threads, {}",
        clock(*at as u64),
        clock(length.as_secs()),
        world.tally.exchanges(),
        world.tally.unexplained().len(),
        world.weather(),
    );
}

/// The descriptors once they are as few as these, or have not been for a while; then as they are.
fn quiet(gateway: &Gateway, goal: f64) -> f64 {
    let now = || Sample::take(gateway.pid(), Instant::now()).descriptors;
    let (mut last, mut since, begin) = (now(), Instant::now(), Instant::now());
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let current = now();
        if current < last {
            (last, since) = (current, Instant::now());
        }
        let settled = goal == f64::MAX && since.elapsed() > plan::KEPT;
        if current <= goal && goal < f64::MAX || settled || begin.elapsed() > PATIENCE {
            return last.min(current);
        }
    }
}

/// Tells the gateway to end, and says what is wrong with how it does.
fn leave(gateway: &mut Gateway) -> Option<String> {
    let told = Instant::now();
    if !gateway.is_running() {
        return Some("the gateway ended by itself".to_owned());
    }
    gateway.signal("TERM");
    let status = gateway.wait_exit();
    match status.code() {
        Some(0) if told.elapsed() < QUICK => None,
        Some(0) => Some(format!("idle, it took {:.1?} to end", told.elapsed())),
        _ => Some(format!("it ended with {status}")),
    }
}
