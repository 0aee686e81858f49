//! The machine and the programs, as far as a reader needs them: no names of hosts or users, no paths.

use crate::args::Plan;
use crate::proxies::{Contender, Kind};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

#[derive(Serialize)]
pub struct Machine {
    pub processor: String,
    pub processors: usize,
    pub memory: String,
    pub system: String,
    pub kernel: String,
    pub date: String,
    /// Of Portcullis.
    pub commit: Option<String>,
}

pub fn describe(plan: &Plan) -> Machine {
    let value = |file: &str, key: &str, separator: char| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|l| l.starts_with(key)).map(str::to_owned)?;
        Some(line.split_once(separator)?.1.trim().trim_matches('"').to_owned())
    };
    let unknown = || "unknown".to_owned();
    let kib = value("/proc/meminfo", "MemTotal", ':').and_then(|m| m.split(' ').next()?.parse::<f64>().ok());
    Machine {
        processor: value("/proc/cpuinfo", "model name", ':').unwrap_or_else(unknown),
        processors: plan.processors,
        memory: kib.map_or_else(unknown, |kib| format!("{:.0} GiB", kib / f64::from(1 << 20))),
        system: value("/etc/os-release", "PRETTY_NAME", '=').unwrap_or_else(unknown),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
            .map_or_else(|_| unknown(), |k| format!("Linux {}", k.trim())),
        date: said(&["date", "-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_else(unknown),
        commit: commit(),
    }
}

/// What a contender is, with its version.
pub fn version(contender: &Contender) -> String {
    let program = contender.program.first().map_or("", String::as_str);
    let known = match contender.kind {
        Kind::Portcullis => said(&[program, "--version"]),
        Kind::Nginx => said(&[program, "-v"]).map(|v| v.replace("nginx version: ", "")),
        Kind::Haproxy => said(&[program, "-v"]).map(|v| v.split(" - ").next().unwrap_or(&v).to_owned()),
        Kind::Bare => Some(format!("Pingora {}", pingora())),
        Kind::Direct => None,
    };
    known.unwrap_or_else(|| "unknown".to_owned())
}

/// The load generators with their versions.
pub fn tools(plan: &Plan) -> BTreeMap<&'static str, String> {
    let wrk = said(&["wrk", "-v"]).map(|v| v.split(" Copyright").next().unwrap_or(&v).to_owned());
    let h2load = plan.encrypts().then(|| said(&["h2load", "--version"])).flatten();
    // Also the library of NGINX and HAProxy as the distribution packages them.
    let openssl = plan.encrypts().then(|| said(&["openssl", "version"])).flatten();
    let all =
        [("wrk", wrk), ("oha", said(&[&plan.oha, "--version"])), ("h2load", h2load), ("openssl", openssl)];
    all.into_iter().filter_map(|(name, version)| Some((name, version?))).collect()
}

/// The version that Cargo.lock names.
fn pingora() -> &'static str {
    let lock = include_str!("../../Cargo.lock");
    let version = lock.split("name = \"pingora\"\nversion = \"").nth(1);
    version.and_then(|v| v.split('"').next()).unwrap_or("of unknown version")
}

fn commit() -> Option<String> {
    let commit = said(&["git", "rev-parse", "--short=12", "HEAD"])?;
    let changed = said(&["git", "status", "--porcelain", "--untracked-files=no"]).is_some();
    Some(if changed { format!("{commit} with changes") } else { commit })
}

/// The first line that a program prints. Some print their version on standard error or end with a failure.
fn said(command: &[&str]) -> Option<String> {
    let output = Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).output().ok()?;
    if !output.status.success() && command[0] == "git" {
        return None;
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().map(str::trim).find(|l| !l.is_empty()).map(str::to_owned)
}
