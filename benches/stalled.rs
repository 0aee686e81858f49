//! The reader of the access log stops reading, for minutes: requests must not become slower, memory must not grow, and what
//! is lost must be counted. `benches/stalled` starts it; the verdict is its exit code.
//!
//! Requests are due at fixed moments and are timed from then (an open loop), so that one that has to wait shows.

#[path = "../tests/kit/mod.rs"]
mod kit;

use kit::gateway::rss_kib;
use kit::raw::exchange;
use kit::{Origin, Raw};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const CLIENTS: u32 = 8;

/// What is seen of one second.
struct Second {
    stalled: bool,
    latencies: Vec<u32>,
    rss_kib: u64,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if arguments.first().is_none_or(|first| first != "--run") {
        return ExitCode::SUCCESS; // `cargo bench` starts every bench target
    }
    let number = |name: &str, usual: f64| {
        let at = arguments.iter().position(|a| a == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(usual)
    };
    let (minutes, rate) = (number("--minutes", 10.0), number("--rate", 4_000.0));
    run(Duration::from_secs_f64(minutes * 60.0), rate)
}

fn run(stalled: Duration, rate: f64) -> ExitCode {
    let origin = Origin::text("hello");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("portcullis.yaml");
    let yaml = format!(
        "listeners: [{{address: \"127.0.0.1:0\"}}]\nadmin: {{address: \"127.0.0.1:0\"}}\nthreads: 1\n\
         limits: {{requests_per_connection: 4000000000}}\nroutes: [{{path: /, upstream: \"{}\"}}]\n",
        origin.url()
    );
    std::fs::write(&file, yaml).expect("a file");
    let mut gateway = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["run", "-c"])
        .arg(&file)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the gateway");
    let reading = Arc::new(AtomicBool::new(true));
    let addresses = read(gateway.stderr.take().expect("a pipe"), Arc::clone(&reading));
    let [admin, address] = addresses;

    let reading_for = stalled / 4;
    let (total, pid) = (reading_for + stalled, gateway.id());
    let seconds = load(address, pid, rate, total, |elapsed| {
        let on = elapsed < reading_for;
        reading.store(on, Ordering::SeqCst);
        !on
    });
    let counted = |name: &str| metric(admin, name);
    let (written, dropped) =
        (counted("portcullis_access_log_lines_total"), counted("portcullis_access_log_dropped_total"));
    reading.store(true, Ordering::SeqCst);
    let _ = Command::new("kill").args(["-TERM", &pid.to_string()]).status();
    let ended = gateway.wait().is_ok_and(|status| status.success());
    verdict(&seconds, written, dropped, ended)
}

/// Reads the log while it is to be read, and finds out where the gateway is. A thread of its own.
fn read(stderr: std::process::ChildStderr, reading: Arc<AtomicBool>) -> [SocketAddr; 2] {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stderr);
        let mut line = String::new();
        loop {
            while !reading.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
            }
            line.clear();
            match reader.read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if line.starts_with('{') => {}
                Ok(_) => drop(tell.send(line.clone())),
            }
        }
    });
    let find = |marker: &str| loop {
        let line = told.recv_timeout(kit::DEADLINE).expect("the gateway says where it is");
        if let Some(address) = line.split_once(marker).and_then(|(_, rest)| rest.trim().parse().ok()) {
            return address;
        }
    };
    [find("] admin at "), find("] listening on ")]
}

/// Asks at fixed moments; what each second saw.
fn load(
    address: SocketAddr,
    pid: u32,
    rate: f64,
    total: Duration,
    stalled: impl Fn(Duration) -> bool,
) -> Vec<Second> {
    let began = Instant::now();
    let each = Duration::from_secs_f64(f64::from(CLIENTS) / rate);
    let collected: Vec<Mutex<Vec<u32>>> = (0..=total.as_secs()).map(|_| Mutex::default()).collect();
    let mut seconds = Vec::new();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let collected = &collected;
            scope.spawn(move || {
                let mut raw = Raw::connect(address);
                let mut due = each * client / CLIENTS;
                while due < total {
                    if let Some(wait) = due.checked_sub(began.elapsed()) {
                        std::thread::sleep(wait);
                    }
                    let response =
                        raw.send("GET /orders/12345?page=2 HTTP/1.1\r\nHost: shop.test\r\n\r\n").response();
                    assert_eq!(response.status, 200);
                    let took = began.elapsed().saturating_sub(due).as_micros() as u32;
                    collected[due.as_secs() as usize].lock().expect("no panic").push(took);
                    due += each;
                }
            });
        }
        for second in 0..total.as_secs() {
            let at = Duration::from_secs(second);
            std::thread::sleep(at.saturating_sub(began.elapsed()));
            seconds.push(Second { stalled: stalled(at), latencies: Vec::new(), rss_kib: rss_kib(pid) });
            if second % 30 == 0 {
                println!("{second} s: {} KiB", seconds[second as usize].rss_kib);
            }
        }
    });
    for (second, latencies) in seconds.iter_mut().zip(collected) {
        second.latencies = latencies.into_inner().expect("no panic");
    }
    seconds
}

fn metric(admin: SocketAddr, name: &str) -> u64 {
    let text = exchange(admin, format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\n\r\n")).text();
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok());
    line.expect("the gateway counts it")
}

fn verdict(seconds: &[Second], written: u64, dropped: u64, ended: bool) -> ExitCode {
    let of = |stalled: bool, share: f64| {
        let mut figures: Vec<u32> = seconds
            .iter()
            .skip(2)
            .filter(|second| second.stalled == stalled && !second.latencies.is_empty())
            .map(|second| {
                let mut all = second.latencies.clone();
                all.sort_unstable();
                all[((all.len() - 1) as f64 * share) as usize]
            })
            .collect();
        figures.sort_unstable();
        figures.get(figures.len() / 2).copied().unwrap_or_default()
    };
    let worst = |stalled: bool| {
        let all = seconds.iter().skip(2).filter(|s| s.stalled == stalled);
        all.flat_map(|s| s.latencies.iter().copied()).max().unwrap_or_default()
    };
    println!("\nmedians of seconds, us        read   not read");
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        println!("{name:<26}{:>8}{:>11}", of(false, share), of(true, share));
    }
    println!("{:<26}{:>8}{:>11}", "slowest", worst(false), worst(true));
    let unread: Vec<u64> = seconds.iter().filter(|s| s.stalled).map(|s| s.rss_kib).collect();
    // The buffers fill within the first seconds; after that nothing may come.
    let (first, last) = (unread.get(unread.len() / 10), unread.last());
    let (first, last) = (first.copied().unwrap_or_default(), last.copied().unwrap_or_default());
    let requests: u64 = seconds.iter().map(|s| s.latencies.len() as u64).sum();
    println!("memory while not read: {first} KiB after a tenth, {last} at the end");
    println!("requests {requests}, lines written {written}, given up {dropped}, ended in order: {ended}");
    let slower = f64::from(of(true, 0.99)) > 1.25 * f64::from(of(false, 0.99));
    let good = !slower && last <= first + 1_024 && dropped > 0 && written + dropped <= requests && ended;
    println!("{}", if good { "passed" } else { "FAILED" });
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
