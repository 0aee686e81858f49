//! `benches/compare`: Portcullis beside NGINX, HAProxy and bare Pingora on one machine, measured in turn, drawn on one
//! page. The script of that name builds and finds what is needed and starts this.

mod args;
mod catalogue;
mod dial;
mod idle;
mod machine;
mod measure;
mod page;
mod parse;
mod plot;
mod process;
mod proxies;
mod report;
mod table;
mod tls;
mod tools;
mod unverified;
mod verdict;
mod words;

use args::{Arguments, Plan};
use clap::Parser;
use measure::Session;
use proxies::Contender;
use report::{Report, Settings, Shown};
use std::process::ExitCode;

/// Descriptors for 5,000 clients and as many upstream connections, and some.
const DESCRIPTORS: u64 = 11_500;

fn main() -> ExitCode {
    // `cargo bench` and `cargo test` start every bench target, without these words.
    match std::env::args().nth(1).as_deref() {
        Some("run") => {}
        Some("dial") => return dialled(&std::env::args().skip(2).collect::<Vec<_>>()),
        _ => return ExitCode::SUCCESS,
    }
    let arguments = Arguments::parse_from(std::env::args().skip(1));
    match run(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(if process::stopped() { 130 } else { 2 })
        }
    }
}

/// What `tools::dial` has started.
fn dialled(arguments: &[String]) -> ExitCode {
    match dial::run(arguments) {
        Ok(line) => println!("{line}"),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Whether all went without an error.
fn run(arguments: Arguments) -> Result<bool, String> {
    process::heed_signals().map_err(|e| format!("signals: {e}"))?;
    let limit = rlimit::increase_nofile_limit(u64::MAX).map_err(|e| format!("descriptors: {e}"))?;
    let plan = Plan::new(arguments)?;
    let many = plan.measurements.iter().any(|m| ["memory", "5000"].contains(&m.name));
    if many && limit < DESCRIPTORS {
        return Err(format!(
            "5,000 connections need {DESCRIPTORS} open files, {limit} are allowed: see ulimit -Hn"
        ));
    }
    if plan.encrypts() {
        tls::make_certificates(plan.folder())?;
    }
    let mut session = Session::new(&plan);
    eprintln!("This takes about {} minutes.", words::clock(session.expected()));
    for measurement in &plan.measurements {
        session.run(measurement)?;
    }
    let report = report(&plan, session);
    std::fs::create_dir_all(&plan.out).map_err(|e| format!("{}: {e}", plan.out.display()))?;
    let json = serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?;
    for (file, text) in [("report.json", json), ("index.html", page::html(&report)?)] {
        let path = plan.out.join(file);
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    print!("{}", table::text(&report));
    eprintln!("\nWritten: {}", plan.out.join("index.html").display());
    Ok(report.valid)
}

fn report(plan: &Plan, session: Session<'_>) -> Report {
    let shown = |contender: &Contender| Shown {
        name: contender.name.clone(),
        version: machine::version(contender),
        configuration: proxies::shown(contender.kind, plan.encrypts()),
    };
    Report {
        valid: session.samples.iter().all(|s| s.errors.is_empty()) && !session.samples.is_empty(),
        settings: Settings {
            rounds: plan.rounds,
            seconds: plan.seconds,
            quick: plan.quick,
            rate: session.rate,
            pinned: plan.proxy_cpu().is_some(),
        },
        machine: machine::describe(plan),
        contenders: plan.contenders.iter().map(shown).collect(),
        tools: machine::tools(plan),
        measurements: plan.measurements.iter().map(|m| report::describe(m)).collect(),
        summary: report::summarise(&session.samples),
        samples: session.samples,
    }
}
