//! Real Redis servers, alone, as a cluster, and with sentinels, that tests stop, pause and start again.

use super::{until, wait_for};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running server, without persistence; killed when dropped.
pub struct Redis {
    child: Child,
    arguments: Vec<String>,
    folder: tempfile::TempDir,
    /// Where it answers.
    pub address: SocketAddr,
}

impl Redis {
    /// One that anybody may talk to in plain text.
    pub fn start() -> Redis {
        Redis::with(&[])
    }

    /// The same with more arguments, in which `$PORT` is its port.
    pub fn with(arguments: &[&str]) -> Redis {
        Redis::serve(tempfile::tempdir().unwrap(), |port, folder| {
            let own = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"];
            let mut all: Vec<String> = own.iter().map(ToString::to_string).collect();
            all.push(folder.display().to_string());
            if !arguments.contains(&"--port") {
                all.extend(["--port".to_owned(), port.to_string()]);
            }
            all.extend(arguments.iter().map(|argument| argument.replace("$PORT", &port.to_string())));
            all
        })
    }

    /// A sentinel of the server `master` at this address.
    pub fn sentinel(of: SocketAddr) -> Redis {
        Redis::serve(tempfile::tempdir().unwrap(), |port, folder| {
            let file = folder.join("sentinel.conf");
            let text = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor master 127.0.0.1 {} 1\n\
                 sentinel down-after-milliseconds master 500\nsentinel failover-timeout master 2000\n",
                of.port()
            );
            std::fs::write(&file, text).unwrap();
            vec![file.display().to_string(), "--sentinel".to_owned()]
        })
    }

    /// Three nodes that are one cluster.
    pub fn cluster() -> Vec<Redis> {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let node = |_| {
            let bus = free();
            Redis::with(&[
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus,
                "--cluster-node-timeout",
                "1000",
            ])
        };
        let nodes: Vec<Redis> = (0..3).map(node).collect();
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(nodes.iter().map(|node| node.address.to_string()));
        let done = create.args(["--cluster-yes"]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
        for node in &nodes {
            until("the cluster is one", || node.cli(&["cluster", "info"]).contains("cluster_state:ok"));
        }
        nodes
    }

    fn serve(folder: tempfile::TempDir, arguments: impl Fn(u16, &Path) -> Vec<String>) -> Redis {
        // Redis cannot let the kernel choose, so the kernel is asked for a free port first; when another test was given the
        // same one in between, Redis ends at once and another is tried.
        let (child, arguments, address) = wait_for("a Redis that listens", || {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let arguments = arguments(address.port(), folder.path());
            let child = listening(&arguments, address)?;
            Some((child, arguments, address))
        });
        Redis { child, arguments, folder, address }
    }

    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// What `redis-cli` prints for a command.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let port = self.address.port().to_string();
        let done = Command::new("redis-cli").args(["-p", &port]).args(arguments).output().unwrap();
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Ends it: its connections break, and nobody listens from now on.
    pub fn stop(&mut self) {
        self.signal("CONT"); // a paused one could not be waited for
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again where it was, empty.
    pub fn restart(&mut self) {
        self.stop();
        let (arguments, address) = (self.arguments.clone(), self.address);
        self.child = wait_for("Redis listens again", || listening(&arguments, address));
    }

    /// It goes on listening, and says nothing any more.
    pub fn pause(&self) {
        assert!(self.signal("STOP"));
    }

    /// Ends that.
    pub fn resume(&self) {
        assert!(self.signal("CONT"));
    }

    fn signal(&self, name: &str) -> bool {
        let pid = self.child.id().to_string();
        let mut kill = Command::new("kill");
        kill.args([&format!("-{name}"), &pid]).stderr(Stdio::null()).status().unwrap().success()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

fn listening(arguments: &[String], address: SocketAddr) -> Option<Child> {
    let mut child = Command::new("redis-server")
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    loop {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        if TcpStream::connect(address).is_ok() && child.try_wait().unwrap().is_none() {
            return Some(child);
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
