//! What the user asks for, and the plan that follows from it.

use crate::catalogue::{Measurement, MEASUREMENTS};
use crate::process;
use crate::proxies::{Contender, Kind};
use clap::Parser;
use std::path::{Path, PathBuf};

/// Measures Portcullis beside NGINX, HAProxy and bare Pingora on this machine: a table on the terminal, and a JSON
/// file and an HTML page in --out.
#[derive(Parser, Debug)]
#[command(name = "benches/compare", max_term_width = 100)]
pub struct Arguments {
    /// Times that each contender is measured, one after the other
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..1000))]
    rounds: u64,
    /// Seconds that one measurement of one contender takes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..3600))]
    seconds: u64,
    /// 2 rounds of 2 seconds: enough for a look, not for a figure to quote
    #[arg(long)]
    quick: bool,
    /// Measurements, comma-separated: cpu (also rps, upstream), browser, latency, close, handshake, tls, h2,
    /// 100KiB, 1MiB, memory, routes, 5000
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Contenders, comma-separated: portcullis, nginx, haproxy, bare
    #[arg(long, value_delimiter = ',')]
    proxies: Vec<String>,
    /// One more build as a contender, such as before=portcullis:/path/to/portcullis; KIND is portcullis or bare, and
    /// what follows the path goes before the usual arguments
    #[arg(long, value_name = "NAME=KIND:COMMAND")]
    also: Vec<String>,
    /// Each contender but bare Pingora also with an access log
    #[arg(long)]
    logs: bool,
    /// Requests a second of the open loop [default: half of what the slowest contender can do]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Where report.json and index.html go
    #[arg(long, default_value = "target/compare")]
    out: PathBuf,
    // What benches/compare has built or found.
    #[arg(long, hide = true)]
    portcullis: String,
    #[arg(long, hide = true)]
    bare: String,
    #[arg(long, hide = true)]
    origin: String,
    #[arg(long, hide = true)]
    oha: String,
}

pub struct Plan {
    pub rounds: u64,
    pub seconds: u64,
    pub quick: bool,
    pub measurements: Vec<&'static Measurement>,
    pub contenders: Vec<Contender>,
    pub rate: Option<u64>,
    pub out: PathBuf,
    pub origin: String,
    pub oha: String,
    pub processors: usize,
    pinned: Option<(String, String)>,
    folder: tempfile::TempDir,
}

impl Plan {
    pub fn new(arguments: Arguments) -> Result<Plan, String> {
        let folder = tempfile::tempdir().map_err(|e| format!("a temporary folder: {e}"))?;
        // NGINX's worker may run as another user.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).map_err(|e| e.to_string())?;
        let processors = process::processors();
        let (rounds, seconds) = if arguments.quick { (2, 2) } else { (arguments.rounds, arguments.seconds) };
        Ok(Plan {
            rounds,
            seconds,
            quick: arguments.quick,
            measurements: measurements(&arguments.only)?,
            contenders: contenders(&arguments)?,
            rate: arguments.rate,
            out: arguments.out,
            origin: absolute(&arguments.origin)?,
            oha: absolute(&arguments.oha)?,
            processors: processors.len(),
            pinned: split(&processors),
            folder,
        })
    }

    /// Where everything runs and writes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Whether certificates are needed.
    pub fn encrypts(&self) -> bool {
        self.measurements.iter().any(|m| m.work.encrypts())
    }

    /// The processor that the proxies have for themselves; None when there is only one.
    pub fn proxy_cpu(&self) -> Option<&str> {
        self.pinned.as_ref().map(|(proxy, _)| proxy.as_str())
    }

    /// Those of the origin and the load generator.
    pub fn load_cpus(&self) -> Option<&str> {
        self.pinned.as_ref().map(|(_, load)| load.as_str())
    }

    /// How many processors the origin and the load generator share.
    pub fn load_processors(&self) -> usize {
        self.pinned.as_ref().map_or(1, |_| self.processors - 1)
    }
}

/// The last processor for the proxies, the others for the rest.
fn split(processors: &[usize]) -> Option<(String, String)> {
    let (last, others) = processors.split_last()?;
    if others.is_empty() {
        return None;
    }
    Some((last.to_string(), others.iter().map(usize::to_string).collect::<Vec<_>>().join(",")))
}

fn measurements(only: &[String]) -> Result<Vec<&'static Measurement>, String> {
    let known = |name: &String| MEASUREMENTS.iter().any(|m| m.is_called(name));
    if let Some(unknown) = only.iter().find(|name| !known(name)) {
        let names: Vec<&str> = MEASUREMENTS.iter().map(|m| m.name).collect();
        return Err(format!("no measurement is called {unknown:?}; there are {}", names.join(", ")));
    }
    Ok(MEASUREMENTS.iter().filter(|m| only.is_empty() || only.iter().any(|n| m.is_called(n))).collect())
}

fn contenders(arguments: &Arguments) -> Result<Vec<Contender>, String> {
    let own = |name: &str, kind, program: Vec<String>| Contender {
        name: name.to_owned(),
        kind,
        program,
        logs: false,
    };
    let mut all = vec![
        own("portcullis", Kind::Portcullis, vec![absolute(&arguments.portcullis)?]),
        own("nginx", Kind::Nginx, vec!["nginx".to_owned()]),
        own("haproxy", Kind::Haproxy, vec!["haproxy".to_owned()]),
        own("bare", Kind::Bare, vec![absolute(&arguments.bare)?]),
    ];
    if let Some(unknown) = arguments.proxies.iter().find(|p| all.iter().all(|c| c.name != **p)) {
        return Err(format!("no contender is called {unknown:?}"));
    }
    all.retain(|c| arguments.proxies.is_empty() || arguments.proxies.contains(&c.name));
    if arguments.logs {
        let twins = all.iter().filter(|c| c.kind != Kind::Bare).cloned();
        let twins = twins.map(|c| Contender { name: format!("{}-logs", c.name), logs: true, ..c });
        let twins: Vec<Contender> = twins.collect();
        all.extend(twins);
    }
    for also in &arguments.also {
        let wrong = || format!("--also {also}: not NAME=KIND:COMMAND with a new NAME of letters and digits");
        let (name, rest) = also.split_once('=').ok_or_else(wrong)?;
        let kind = match rest.split_once(':').ok_or_else(wrong)? {
            ("portcullis", command) => (Kind::Portcullis, command),
            ("bare", command) => (Kind::Bare, command),
            _ => return Err(wrong()),
        };
        let known = name == "direct" || all.iter().any(|c| c.name == name);
        if known || name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(wrong());
        }
        let mut program: Vec<String> = kind.1.split_whitespace().map(str::to_owned).collect();
        *program.first_mut().ok_or_else(wrong)? = absolute(program.first().ok_or_else(wrong)?)?;
        all.push(own(name, kind.0, program));
    }
    Ok(all)
}

/// Programs are started from another folder.
fn absolute(path: &str) -> Result<String, String> {
    let path = std::fs::canonicalize(path).map_err(|e| format!("{path}: {e}"))?;
    path.into_os_string().into_string().map_err(|p| format!("{p:?} is not UTF-8"))
}
