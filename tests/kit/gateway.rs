//! The real binary as a child process.

use super::{until, wait_for, DEADLINE};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A running gateway; killed when dropped.
pub struct Gateway {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    output: Arc<Mutex<Vec<String>>>,
    /// Where it listens, in the order of the file.
    pub addresses: Vec<SocketAddr>,
    /// The folder with its configuration.
    pub folder: tempfile::TempDir,
}

/// The listener that most tests use: a port of the kernel's choice.
pub const LISTEN: &str = "listeners: [{address: \"127.0.0.1:0\"}]\n";

impl Gateway {
    /// Starts `portcullis run` with this YAML, in front of which a listener on a free port is put unless it has
    /// `listeners` itself. Returns when it listens.
    pub fn start(yaml: &str) -> Gateway {
        let mut gateway = Gateway::spawn(yaml);
        let listeners =
            if yaml.contains("listeners:") { yaml.matches("address: \"127.").count().max(1) } else { 1 };
        let listening = || {
            let log = gateway.log();
            let found: Vec<String> = log
                .iter()
                .filter_map(|l| Some(l.split_once("] listening on ")?.1.trim().to_owned()))
                .collect();
            (found.len() >= listeners).then_some(found)
        };
        let end = Instant::now() + DEADLINE;
        let found = loop {
            if let Some(found) = listening() {
                break found;
            }
            assert!(Instant::now() < end, "the gateway does not listen:\n{}", gateway.log().join("\n"));
            std::thread::sleep(std::time::Duration::from_millis(10));
        };
        gateway.addresses = found.iter().filter_map(|a| a.parse().ok()).collect();
        gateway
    }

    /// The same without waiting, for a start that fails.
    pub fn spawn(yaml: &str) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("portcullis.yaml");
        std::fs::write(&path, with_listeners(&within(yaml, folder.path()))).unwrap();
        Gateway::command(&["run", "-c", path.to_str().unwrap()], folder, &[])
    }

    /// Any command of the binary, with its log collected.
    pub fn command(arguments: &[&str], folder: tempfile::TempDir, environment: &[(&str, &str)]) -> Gateway {
        let mut child = binary(arguments, environment).spawn().unwrap();
        let (log, output) = (collect(child.stderr.take().unwrap()), collect(child.stdout.take().unwrap()));
        Gateway { child, log, output, addresses: Vec::new(), folder }
    }

    /// The first listener's address.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// A URL on the first listener.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// Where it is looked at, with `admin: {address: "127.0.0.1:0"}`: the address of the last process that was there.
    pub fn admin(&self) -> SocketAddr {
        wait_for("the admin's address", || {
            let log = self.log();
            log.iter().rev().find_map(|l| l.split_once("] admin at ")?.1.trim().parse().ok())
        })
    }

    /// The access log of `access_log: {path: $FOLDER/access.log}` so far, a JSON object each.
    pub fn access_log(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default();
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
    }

    /// Waits for as many lines of it, and returns all that are there then.
    pub fn access_lines(&self, count: usize) -> Vec<serde_json::Value> {
        wait_for(&format!("{count} lines, found {:#?}", self.access_log()), || {
            let lines = self.access_log();
            (lines.len() >= count).then_some(lines)
        })
    }

    /// All lines logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Those from this one on: a long log is not copied again and again.
    pub fn log_from(&self, line: usize) -> Vec<String> {
        self.log.lock().unwrap().get(line..).unwrap_or_default().to_vec()
    }

    /// All lines on standard output so far.
    pub fn output(&self) -> Vec<String> {
        self.output.lock().unwrap().clone()
    }

    /// Waits for a log line with all these parts and returns it.
    pub fn wait_log(&self, parts: &[&str]) -> String {
        wait_for(&format!("a log line with {parts:?} in\n{}", self.log().join("\n")), || {
            self.log().into_iter().find(|line| parts.iter().all(|part| line.contains(part)))
        })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// The same with a control socket in the folder, for [`operate`](Gateway::operate).
    pub fn start_controlled(yaml: &str) -> Gateway {
        Gateway::start_binary(Path::new(env!("CARGO_BIN_EXE_portcullis")), yaml)
    }

    /// The same from another file than the one that was built.
    pub fn start_binary(file: &Path, yaml: &str) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("portcullis.yaml");
        std::fs::write(&path, controlled(yaml, folder.path())).unwrap();
        let mut gateway = Gateway::launch(file, &["run", "-c", path.to_str().unwrap()], folder);
        let listeners = yaml.matches("address: \"127.").count().max(1);
        gateway.addresses = wait_for("the gateway listens", || {
            let found = gateway.listening();
            (found.len() >= listeners).then_some(found)
        });
        let socket = gateway.folder.path().join("control.sock");
        until("it takes commands", || socket.exists());
        gateway
    }

    fn launch(file: &Path, arguments: &[&str], folder: tempfile::TempDir) -> Gateway {
        let mut child = binary_at(file, arguments, &[]).spawn().unwrap();
        let (log, output) = (collect(child.stderr.take().unwrap()), collect(child.stdout.take().unwrap()));
        Gateway { child, log, output, addresses: Vec::new(), folder }
    }

    /// The addresses that the log says it listens on.
    pub fn listening(&self) -> Vec<SocketAddr> {
        let address = |l: &String| l.split_once("] listening on ")?.1.trim().parse().ok();
        self.log().iter().filter_map(address).collect()
    }

    /// Puts another configuration in the place of the file, with the control socket of
    /// [`start_controlled`](Gateway::start_controlled).
    pub fn configure_controlled(&self, yaml: &str) {
        self.configure(&controlled(yaml, self.folder.path()));
    }

    /// Gives a command over the control socket: exit code, standard output, standard error.
    pub fn operate(&self, command: &str) -> (i32, String, String) {
        run(&[command, "-c", self.file().to_str().unwrap()], self.folder.path(), &[])
    }

    /// Gives a command that must succeed; what it says.
    pub fn command_done(&self, command: &str) -> String {
        let (code, out, err) = self.operate(command);
        assert_eq!(code, 0, "{command}: {out}{err}\n{}", self.log().join("\n"));
        out
    }

    /// The process that takes commands.
    pub fn serving_pid(&self) -> u32 {
        let status = self.command_done("status");
        let line = status.lines().find_map(|l| l.strip_prefix("process ")).unwrap();
        line.trim().split(',').next().unwrap().parse().unwrap()
    }

    /// The configuration file of [`Gateway::start`].
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("portcullis.yaml")
    }

    /// Puts another configuration in the place of the file, whole at every moment.
    pub fn configure(&self, yaml: &str) {
        let new = self.folder.path().join("new.yaml");
        std::fs::write(&new, with_listeners(&within(yaml, self.folder.path()))).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    /// Configures, has it reloaded, and returns the line that says how that went.
    pub fn reload(&self, yaml: &str) -> String {
        self.configure(yaml);
        self.reload_as_is()
    }

    /// The same with the file as it is.
    pub fn reload_as_is(&self) -> String {
        let before = self.log.lock().unwrap().len();
        self.signal("HUP");
        let is_outcome = |l: &String| l.contains("] reloaded ") || l.contains(" not reloaded: ");
        wait_for("a reload ends", || self.log_from(before).into_iter().find(is_outcome))
    }

    /// Waits for the end and returns the status.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the gateway ends", || child.try_wait().unwrap())
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> u64 {
        rss_kib(self.pid())
    }

    /// The same without what is of files: the code.
    pub fn own_kib(&self) -> u64 {
        proc_number(&format!("/proc/{}/status", self.pid()), "RssAnon:")
    }
}

/// The processes whose command names this file.
pub fn running(file: &Path) -> Vec<u32> {
    let file = file.display().to_string();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ours = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(&file) && is_alive(*pid)
    };
    pids.filter(ours).collect()
}

/// Whether it runs; one that nobody has waited for does not.
pub fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}/cmdline")).exists()
        && !std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default().contains(") Z ")
}

/// A shell script that behaves as a binary does in an upgrade: it starts itself, says whom it started, and goes on in the
/// background with the stream as its standard input. There `hello` and `sockets` are the first steps of a hand-over.
pub fn successor_script(then: &str) -> String {
    format!(
        r#"#!/bin/sh
if [ "$PORTCULLIS_UPGRADE" = fork ]; then
  exec 3<&0
  PORTCULLIS_UPGRADE=serve "$0" <&3 3<&- &
  echo "{{\"Started\":{{\"pid\":$!}}}}" >&3
  exit 0
fi
hello() {{ echo "{{\"Hello\":{{\"protocol\":${{1:-1}},\"version\":\"9.9.9\",\"pid\":$$}}}}" >&0; }}
sockets() {{ read -r line; read -r line; }}
{then}
"#
    )
}

/// Resident memory of a process in KiB.
pub fn rss_kib(pid: u32) -> u64 {
    proc_number(&format!("/proc/{pid}/status"), "VmRSS:")
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Successors are nobody's children, but ours to end: they run the configuration of this folder.
        for pid in running(&self.file()) {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
        if std::thread::panicking() {
            eprintln!("the gateway's log:\n{}", self.log().join("\n"));
        }
    }
}

/// With a control socket in this folder.
fn controlled(yaml: &str, folder: &Path) -> String {
    let socket = folder.join("control.sock");
    with_listeners(&within(&format!("control: {{socket: {}}}\n{yaml}", socket.display()), folder))
}

/// With the gateway's folder in place of `$FOLDER`.
fn within(yaml: &str, folder: &Path) -> String {
    yaml.replace("$FOLDER", folder.to_str().unwrap())
}

/// With a listener on a free port unless there are some, and without an access log unless it is told of: the program's log
/// says then what it would.
fn with_listeners(yaml: &str) -> String {
    let listen = if yaml.contains("listeners:") { "" } else { LISTEN };
    let log = if yaml.contains("access_log:") { "" } else { "\naccess_log: {path: off}\n" };
    format!("{listen}{yaml}{log}")
}

/// Collects lines in the background, as they come.
fn collect(from: impl Read + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let collected = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&collected);
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            sink.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
        }
    });
    collected
}

/// The binary with arguments, no environment of the test's own, and both outputs to be read.
fn binary(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    binary_at(Path::new(env!("CARGO_BIN_EXE_portcullis")), arguments, environment)
}

fn binary_at(file: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(file);
    command
        .args(arguments)
        .env_remove("RUST_LOG")
        .env_remove("PORTCULLIS_CONFIG")
        .env_remove("NOTIFY_SOCKET")
        .envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command of the binary to its end: exit code, standard output, standard error.
#[allow(clippy::zombie_processes)] // every way out has waited or fails the test
pub fn run(arguments: &[&str], folder: &Path, environment: &[(&str, &str)]) -> (i32, String, String) {
    let mut child = binary(arguments, environment).current_dir(folder).spawn().unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let out = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = out.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let err = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = err.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let mut status = None;
    let end = Instant::now() + DEADLINE;
    while status.is_none() {
        status = child.try_wait().unwrap();
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            panic!("portcullis {arguments:?} does not end");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    (status.unwrap().code().unwrap_or(-1), out.join().unwrap(), err.join().unwrap())
}

/// `portcullis check` of a text: exit code and the lines of standard error.
pub fn check(yaml: &str) -> (i32, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("p.yaml"), yaml).unwrap();
    let (code, _, err) = run(&["check", "-c", "p.yaml"], folder.path(), &[]);
    (code, err.lines().map(str::to_owned).collect())
}

/// A file of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn proc_number(path: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find(|l| l.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Waits until nothing listens on an address any more.
pub fn wait_closed(address: SocketAddr) {
    until("nothing listens", || std::net::TcpStream::connect(address).is_err());
}
