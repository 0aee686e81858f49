//! Programs that the comparison starts: each is ended by its id when it is dropped, and what it and its children cost
//! is read from /proc.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::signal::unix::{signal, SignalKind};

/// /proc counts CPU time in these on every architecture that Linux runs on (USER_HZ).
const TICKS_A_SECOND: f64 = 100.0;
const STARTUP: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

static STOP: AtomicBool = AtomicBool::new(false);

/// Ends every wait with an error once SIGINT or SIGTERM came, so that what was started is dropped and thereby ended. A
/// second signal ends the program at once.
pub fn heed_signals() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
                if STOP.swap(true, SeqCst) {
                    std::process::exit(130);
                }
            }
        });
    });
    Ok(())
}

/// Whether the user asked to stop.
pub fn stopped() -> bool {
    STOP.load(SeqCst)
}

/// Sleeps in small parts; an error when the user asked to stop.
pub fn pause(duration: Duration) -> Result<(), String> {
    let end = Instant::now() + duration;
    loop {
        if stopped() {
            return Err("interrupted".to_owned());
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(POLL));
    }
}

/// A running program.
pub struct Process {
    child: Child,
    name: String,
    /// What it prints on standard output; its errors are beside it.
    log: PathBuf,
    tree: Tree,
}

/// A process and its descendants, each with its start time: an id alone may be given to another one later.
type Tree = BTreeMap<u32, String>;

/// CPU time in seconds.
#[derive(Clone, Copy, Default)]
pub struct Cpu {
    pub user: f64,
    pub system: f64,
}

impl Cpu {
    pub fn total(self) -> f64 {
        self.user + self.system
    }

    pub fn since(self, before: Cpu) -> Cpu {
        Cpu { user: self.user - before.user, system: self.system - before.system }
    }
}

impl Process {
    /// Starts a program in `folder`, on the processors `cpus` when there is a choice. What it prints goes to a file.
    pub fn start(
        name: &str,
        cpus: Option<&str>,
        folder: &Path,
        command: &[String],
    ) -> Result<Process, String> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).map_err(|e| format!("{name}'s log: {e}"))?;
        let errors = File::create(log.with_extension("errors")).map_err(|e| format!("{name}'s log: {e}"))?;
        let pinned = cpus.map(|cpus| ["taskset", "-c", cpus].map(str::to_owned));
        let all: Vec<String> = pinned.into_iter().flatten().chain(command.iter().cloned()).collect();
        let child = Command::new(&all[0])
            .args(&all[1..])
            .current_dir(folder)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .map_err(|e| format!("{}: {e}", all[0]))?;
        let tree = tree(child.id());
        Ok(Process { child, name: name.to_owned(), log, tree })
    }

    /// Waits until somebody accepts at `address`, then notes which processes belong to this one.
    pub fn wait_until_listening(&mut self, address: SocketAddr) -> Result<(), String> {
        let end = Instant::now() + STARTUP;
        while TcpStream::connect(address).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{} ended ({status}): {}", self.name, self.last_words()));
            }
            if Instant::now() > end {
                return Err(format!(
                    "{} does not listen after {STARTUP:?}: {}",
                    self.name,
                    self.last_words()
                ));
            }
            pause(POLL)?;
        }
        pause(Duration::from_millis(100))?; // NGINX listens before its worker is there
        self.tree = tree(self.child.id());
        Ok(())
    }

    /// An error unless exactly those processes live that lived when it was ready.
    pub fn check_alive(&mut self) -> Result<(), String> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(format!("died ({status}): {}", self.last_words()));
        }
        if tree(self.child.id()) != self.tree {
            return Err(format!("a process of it died: {}", self.last_words()));
        }
        Ok(())
    }

    /// What all its processes and threads have used so far, ended threads included.
    pub fn cpu(&self) -> Cpu {
        self.tree.keys().filter_map(|pid| fields(*pid)).fold(Cpu::default(), |sum, fields| Cpu {
            user: sum.user + seconds(&fields, 11),
            system: sum.system + seconds(&fields, 12),
        })
    }

    /// Resident memory in bytes. What a worker shares with its master is not counted twice: the largest process counts
    /// whole, the others with what is theirs alone.
    pub fn resident(&self) -> f64 {
        let kib = |pid: &u32, key| kib(*pid, "smaps_rollup", key);
        let Some(largest) = self.tree.keys().max_by(|a, b| kib(a, "Rss:").total_cmp(&kib(b, "Rss:"))) else {
            return 0.0;
        };
        let others = self.tree.keys().filter(|pid| *pid != largest);
        let own = others.map(|pid| kib(pid, "Private_Clean:") + kib(pid, "Private_Dirty:")).sum::<f64>();
        1024.0 * (kib(largest, "Rss:") + own)
    }

    /// The most that was ever resident, in bytes; shared pages count for each process.
    pub fn peak(&self) -> f64 {
        1024.0 * self.tree.keys().map(|pid| kib(*pid, "status", "VmHWM:")).sum::<f64>()
    }

    /// The end of what it printed.
    fn last_words(&self) -> String {
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let text = read(&self.log) + &read(&self.log.with_extension("errors"));
        let lines: Vec<&str> = text.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut all = std::mem::take(&mut self.tree);
        if matches!(self.child.try_wait(), Ok(None)) {
            all.extend(tree(self.child.id()));
        }
        // A master that is killed leaves its workers behind, so these are ended as well.
        let ids: Vec<String> = all
            .iter()
            .filter(|(id, start)| started(**id).as_ref() == Some(*start))
            .map(|(id, _)| id.to_string())
            .collect();
        if !ids.is_empty() {
            let kill = Command::new("sh")
                .args(["-c", "kill -KILL \"$@\" 2>/dev/null", "sh"])
                .args(&ids)
                .stdin(Stdio::null())
                .status();
            if kill.is_err() {
                let _ = self.child.kill();
            }
        }
        let _ = self.child.wait();
    }
}

/// Runs a program to its end and gives what it printed on standard output; it is ended after `limit`.
pub fn output(
    cpus: Option<&str>,
    folder: &Path,
    command: &[String],
    limit: Duration,
) -> Result<String, String> {
    let mut process = Process::start("load", cpus, folder, command)?;
    let end = Instant::now() + limit;
    loop {
        match process.child.try_wait() {
            Ok(Some(status)) => {
                let text = fs::read_to_string(&process.log).unwrap_or_default();
                if status.success() {
                    return Ok(text);
                }
                return Err(format!("{} ended ({status}): {}", command[0], process.last_words()));
            }
            Ok(None) if Instant::now() > end => return Err(format!("{} did not end", command[0])),
            Ok(None) => pause(POLL)?,
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// CPU time of all children that this program has waited for: read around a load generator's run, it is that run's.
pub fn cpu_of_ended_children() -> Cpu {
    fields(std::process::id())
        .map(|f| Cpu { user: seconds(&f, 13), system: seconds(&f, 14) })
        .unwrap_or_default()
}

/// Seconds that all processors were busy so far, whoever made them so; what a hypervisor took away is busy too.
pub fn cpu_of_everybody() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = first.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guests are in user already
    ticks.iter().take(8).enumerate().filter(|(at, _)| *at != 3 && *at != 4).map(|(_, t)| t).sum::<f64>()
        / TICKS_A_SECOND
}

/// The processors that this program may use.
pub fn processors() -> Vec<usize> {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = text.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap_or("0");
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse::<usize>().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// A port on the loopback that nobody uses now.
pub fn free_address() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    listener.local_addr().map_err(|e| e.to_string())
}

/// The fields of /proc/PID/stat behind the program's name, which may itself hold blanks: 0 is the state.
fn fields(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// A line of a file in /proc/PID that ends with kB.
fn kib(pid: u32, file: &str, key: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0)
}

fn seconds(fields: &[String], at: usize) -> f64 {
    fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0) / TICKS_A_SECOND
}

fn started(pid: u32) -> Option<String> {
    fields(pid)?.get(19).cloned()
}

/// A process and all its descendants.
fn tree(root: u32) -> Tree {
    let ids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = ids.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let parents: Vec<(u32, u32)> =
        ids.filter_map(|id| Some((id, fields(id)?.get(1)?.parse::<u32>().ok()?))).collect();
    let mut all: Tree = started(root).map(|start| (root, start)).into_iter().collect();
    loop {
        let more: Vec<(u32, String)> = parents
            .iter()
            .filter(|(id, of)| all.contains_key(of) && !all.contains_key(id))
            .filter_map(|(id, _)| Some((*id, started(*id)?)))
            .collect();
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}
