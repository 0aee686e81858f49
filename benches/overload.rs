//! An origin becomes ten times slower under a load that does not: how many answers come in time, with the measured limit of
//! an upstream and without it. `benches/overload` starts it; the verdict is its exit code, the picture
//! `target/overload/index.html`.
//!
//! The origin has 32 workers and a queue without an end, and works on what nobody waits for any more, as origins do. Its
//! clients are an open loop and give up after two seconds.

use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{handshake, SendRequest};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use plotters::prelude::*;
use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, sleep_until, timeout};

const WORKERS: usize = 32;
const SERVICE: Duration = Duration::from_millis(20);
const SLOWER: u32 = 10;
const PATIENCE: Duration = Duration::from_secs(2);

/// What the requests of one second came to.
#[derive(Default, Clone)]
struct Second {
    answered: Vec<Duration>,
    refused: Vec<Duration>,
    given_up: usize,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if arguments.first().is_none_or(|first| first != "--run") {
        return ExitCode::SUCCESS; // `cargo bench` starts every bench target
    }
    let number = |name: &str, usual: u64| {
        let at = arguments.iter().position(|a| a == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(usual)
    };
    let (rate, phase) = (number("--rate", 800), number("--phase", 20));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let [with, without] = [true, false].map(|adaptive| runtime.block_on(run(adaptive, rate, phase)));
    verdict(&with, &without, phase as usize)
}

/// Three phases: usual, slow, usual.
async fn run(adaptive: bool, rate: u64, phase: u64) -> Vec<Second> {
    let service = Arc::new(AtomicU64::new(SERVICE.as_micros() as u64));
    let origin = origin(Arc::clone(&service)).await;
    let (mut gateway, address) = gateway(origin, adaptive);
    let total = 3 * phase;
    let seconds: Arc<Mutex<Vec<Second>>> = Arc::new(Mutex::new(vec![Second::default(); total as usize]));
    let idle: Arc<Mutex<Vec<SendRequest<Empty<Bytes>>>>> = Arc::default();
    let began = tokio::time::Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for n in 0..rate * total {
        let due = began + Duration::from_secs_f64(n as f64 / rate as f64);
        sleep_until(due).await;
        let second = n / rate;
        let slow = (phase..2 * phase).contains(&second);
        let takes = SERVICE * if slow { SLOWER } else { 1 };
        service.store(takes.as_micros() as u64, Ordering::Relaxed);
        let (idle, seconds) = (Arc::clone(&idle), Arc::clone(&seconds));
        running.spawn(async move {
            let status = timeout(PATIENCE, ask(address, &idle)).await.ok().flatten();
            let took = due.elapsed();
            let mut seconds = seconds.lock().expect("no panic");
            let second = &mut seconds[second as usize];
            match status {
                Some(200) => second.answered.push(took),
                Some(503) => second.refused.push(took),
                _ => second.given_up += 1,
            }
        });
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
    let _ = Command::new("kill").args(["-KILL", &gateway.id().to_string()]).status();
    let _ = gateway.wait();
    let seconds = seconds.lock().expect("no panic").clone();
    seconds
}

/// One request over a kept connection, or a new one.
async fn ask(address: SocketAddr, idle: &Mutex<Vec<SendRequest<Empty<Bytes>>>>) -> Option<u16> {
    let kept = idle.lock().expect("no panic").pop();
    let mut sender = match kept.filter(|kept| !kept.is_closed()) {
        Some(kept) => kept,
        None => {
            let socket = TcpStream::connect(address).await.ok()?;
            let (sender, connection) = handshake(TokioIo::new(socket)).await.ok()?;
            tokio::spawn(connection);
            sender
        }
    };
    let request = Request::get("/orders").header("host", "shop.test").body(Empty::new()).ok()?;
    let response = sender.send_request(request).await.ok()?;
    let status = response.status().as_u16();
    response.into_body().collect().await.ok()?;
    idle.lock().expect("no panic").push(sender);
    Some(status)
}

async fn origin(service: Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let workers = Arc::new(Semaphore::new(WORKERS));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (workers, service) = (Arc::clone(&workers), Arc::clone(&service));
            let serve = service_fn(move |_: Request<Incoming>| {
                let (workers, service) = (Arc::clone(&workers), Arc::clone(&service));
                // Goes on when nobody waits any more.
                let work = tokio::spawn(async move {
                    let _worker = workers.acquire_owned().await;
                    sleep(Duration::from_micros(service.load(Ordering::Relaxed))).await;
                });
                async move {
                    let _ = work.await;
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), serve),
            );
        }
    });
    address
}

fn gateway(origin: SocketAddr, adaptive: bool) -> (Child, SocketAddr) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("portcullis.yaml");
    let yaml = format!(
        "listeners: [{{address: \"127.0.0.1:0\"}}]\nthreads: 1\naccess_log: {{path: off}}\n\
         upstreams: {{app: {{targets: [\"{origin}\"], concurrency: {{adaptive: {adaptive}}}}}}}\n\
         routes: [{{path: /, upstream: app}}]\n"
    );
    std::fs::write(&file, yaml).expect("a file");
    let mut gateway = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["run", "-c"])
        .arg(&file)
        .env("RUST_LOG", "portcullis::server=info")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the gateway");
    let mut lines = BufReader::new(gateway.stderr.take().expect("a pipe")).lines();
    let found =
        lines.by_ref().find_map(|line| line.ok()?.split_once("] listening on ")?.1.trim().parse().ok());
    std::thread::spawn(move || lines.for_each(drop)); // so that it never waits for its reader
    (gateway, found.expect("the gateway says where it is"))
}

fn percentile(all: &[Duration], share: f64) -> f64 {
    let mut all = all.to_vec();
    all.sort_unstable();
    all.get((all.len().saturating_sub(1) as f64 * share) as usize)
        .map_or(0.0, |took| took.as_secs_f64() * 1e3)
}

fn verdict(with: &[Second], without: &[Second], phase: usize) -> ExitCode {
    // What the change itself does passes within five seconds.
    let parts =
        [("usual", 5..phase), ("slow", phase + 5..2 * phase), ("usual again", 2 * phase + 5..3 * phase)];
    let mut slow = Vec::new();
    println!(
        "                        in time/s   p50 ms   p99 ms   refused/s   p50 ms   p99 ms   given up/s"
    );
    for (name, seconds) in [("with the limit", with), ("without", without)] {
        for (part, range) in parts.clone() {
            let length = range.len() as f64;
            let of = |what: fn(&Second) -> &Vec<Duration>| -> Vec<Duration> {
                seconds[range.clone()].iter().flat_map(|second| what(second).iter().copied()).collect()
            };
            let (answered, refused) = (of(|second| &second.answered), of(|second| &second.refused));
            let given_up: usize = seconds[range.clone()].iter().map(|second| second.given_up).sum();
            println!(
                "{name:<15}{part:<12}{:>6.0}{:>9.1}{:>9.1}{:>12.0}{:>9.2}{:>9.2}{:>13.0}",
                answered.len() as f64 / length,
                percentile(&answered, 0.5),
                percentile(&answered, 0.99),
                refused.len() as f64 / length,
                percentile(&refused, 0.5),
                percentile(&refused, 0.99),
                given_up as f64 / length
            );
            if part == "slow" {
                slow.push((answered.len() as f64 / length, percentile(&answered, 0.99)));
            }
        }
    }
    if let Err(e) = picture(with, without) {
        eprintln!("no picture: {e}");
    }
    let capacity = WORKERS as f64 / (SERVICE * SLOWER).as_secs_f64();
    let good = slow[0].0 >= 0.9 * capacity && slow[0].1 < PATIENCE.as_secs_f64() * 1e3;
    println!("capacity while it is slow: {capacity} a second; {}", if good { "passed" } else { "FAILED" });
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

type Line<'a> = (&'a str, RGBColor, Vec<(f64, f64)>);

fn picture(with: &[Second], without: &[Second]) -> Result<(), Box<dyn std::error::Error>> {
    let (blue, red) = (RGBColor(38, 108, 196), RGBColor(200, 70, 50));
    let lines = |value: fn(&Second) -> f64| -> [Line<'static>; 2] {
        let points = |seconds: &[Second]| {
            seconds.iter().enumerate().map(|(at, second)| (at as f64, value(second))).collect::<Vec<_>>()
        };
        [("with the limit", blue, points(with)), ("without", red, points(without))]
    };
    let in_time = chart("answers in time, a second", &lines(|second| second.answered.len() as f64))?;
    let latency =
        chart("99th percentile of answers in time, ms", &lines(|second| percentile(&second.answered, 0.99)))?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/overload");
    std::fs::create_dir_all(&folder)?;
    let page = format!(
        "<!doctype html><meta charset=utf-8><title>Overload</title><body style=\"font-family:sans-serif;max-width:760px;margin:auto\">\
         <h1>An origin becomes ten times slower</h1><p>{WORKERS} workers, {SERVICE:?} a request, then {:?}; clients give up after {PATIENCE:?}.</p>\
         {in_time}{latency}",
        SERVICE * SLOWER
    );
    std::fs::write(folder.join("index.html"), page)?;
    println!("{}", folder.join("index.html").display());
    Ok(())
}

fn chart(title: &str, lines: &[Line<'_>]) -> Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (740, 320)).into_drawing_area();
        let points = || lines.iter().flat_map(|(_, _, points)| points);
        let right = points().map(|point| point.0).fold(1.0, f64::max);
        let top = points().map(|point| point.1).fold(1.0, f64::max) * 1.1;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..right, 0.0..top)?;
        chart.configure_mesh().x_desc("seconds").light_line_style(WHITE).draw()?;
        for (name, colour, points) in lines {
            let colour = *colour;
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
                .label(*name)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
        area.present()?;
    }
    Ok(svg)
}
