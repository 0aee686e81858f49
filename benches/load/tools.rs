//! The load generators: wrk for closed loops, oha for an open one, h2load for HTTP/2, our own for new connections.

use crate::args::Plan;
use crate::dial::Handshake;
use crate::parse::{self, Load};
use crate::{process, tls};
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

/// Requests over all routes in an order that no cache foresees; the same on every run and for every contender. They
/// are written out before the run, so that Lua only hands them over.
const SPREAD: &str = r#"-- wrk -s spread.lua URL -- ROUTES
local requests, at = {}, 0

function init(arguments)
  local routes, state = tonumber(arguments[1]), 1
  for i = 1, 20000 do
    requests[i] = wrk.format("GET", "/service" .. (i % routes) .. "/orders")
  end
  for i = 20000, 2, -1 do
    state = state * 48271 % 2147483647
    local other = state % i + 1
    requests[i], requests[other] = requests[other], requests[i]
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end
"#;

/// What is asked for.
#[derive(Clone, Copy)]
pub enum Paths {
    One(&'static str),
    /// One of each of so many routes, in random order.
    Spread(usize),
}

/// A closed loop: each connection asks again as soon as it has its answer. `to` is a scheme and an address. Over TLS wrk
/// verifies nothing and takes what OpenSSL likes best, TLS 1.3 with [`tls::SUITE`].
pub fn wrk(
    plan: &Plan,
    to: &str,
    paths: Paths,
    connections: usize,
    fields: &[&str],
    seconds: u64,
) -> Result<Load, String> {
    let mut command: Vec<String> = ["wrk", "-t1", "--timeout", "10s"].map(str::to_owned).to_vec();
    command.extend([format!("-c{connections}"), format!("-d{seconds}s")]);
    command.extend(fields.iter().flat_map(|field| ["-H".to_owned(), (*field).to_owned()]));
    match paths {
        Paths::One(path) => command.push(format!("{to}{path}")),
        Paths::Spread(routes) => {
            fs::write(plan.folder().join("spread.lua"), SPREAD).map_err(|e| e.to_string())?;
            command.extend(["-s".to_owned(), "spread.lua".to_owned(), format!("{to}/")]);
            command.extend(["--".to_owned(), routes.to_string()]);
        }
    }
    let text = process::output(plan.load_cpus(), plan.folder(), &command, limit(seconds))?;
    parse::wrk(&text)
}

/// An open loop: requests are due at a fixed rate, and the wait of one that is due while all connections are busy counts.
pub fn oha(
    plan: &Plan,
    to: SocketAddr,
    path: &str,
    connections: usize,
    rate: u64,
    seconds: u64,
) -> Result<Load, String> {
    let mut command = vec![plan.oha.clone()];
    command.extend(
        ["--no-tui", "--latency-correction", "-w", "--worker-threads", "1", "--output-format", "json"]
            .map(str::to_owned),
    );
    command.extend(["-c".to_owned(), connections.to_string(), "-q".to_owned(), rate.to_string()]);
    command.extend(["-z".to_owned(), format!("{seconds}s"), format!("http://{to}{path}")]);
    let text = process::output(plan.load_cpus(), plan.folder(), &command, limit(seconds))?;
    parse::oha(&text)
}

/// A closed loop over HTTP/2: each stream of each connection asks again as soon as it has its answer.
pub fn h2load(
    plan: &Plan,
    to: &str,
    path: &str,
    (connections, streams): (usize, usize),
    seconds: u64,
) -> Result<Load, String> {
    let command = [
        "h2load".to_owned(),
        format!("--clients={connections}"),
        format!("--max-concurrent-streams={streams}"),
        format!("--duration={seconds}"),
        format!("--tls13-ciphers={}", tls::SUITE),
        format!("{to}{path}"),
    ];
    let text = process::output(plan.load_cpus(), plan.folder(), &command, limit(seconds))?;
    parse::h2load(&text, tls::SUITE)
}

/// New connections, each for one request. This program itself, started once more: see `dial.rs`.
pub fn dial(
    plan: &Plan,
    to: SocketAddr,
    clients: usize,
    handshake: Handshake,
    seconds: u64,
) -> Result<Load, String> {
    let program = std::env::current_exe().map_err(|e| format!("this program's own file: {e}"))?;
    let program = program.into_os_string().into_string().map_err(|p| format!("{p:?} is not UTF-8"))?;
    let command = [
        program,
        "dial".to_owned(),
        to.to_string(),
        seconds.to_string(),
        clients.to_string(),
        handshake.word().to_owned(),
    ];
    let text = process::output(plan.load_cpus(), plan.folder(), &command, limit(seconds))?;
    parse::dial(&text)
}

fn limit(seconds: u64) -> Duration {
    Duration::from_secs(seconds + 30)
}
