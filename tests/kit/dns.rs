//! A real name server (Debian's dnsmasq) whose answers a test changes.

use super::wait_for;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running name server; killed when dropped.
pub struct Dns {
    child: Child,
    folder: tempfile::TempDir,
    /// Where it answers.
    pub address: SocketAddr,
}

impl Dns {
    /// Starts it with these `address name` lines, which it gives with a TTL of one second.
    pub fn start(hosts: &str) -> Dns {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("hosts"), hosts).unwrap();
        // dnsmasq cannot let the kernel choose, so the kernel is asked for a free port first; when another test was
        // given the same one in between, dnsmasq ends at once and another is tried.
        let (child, address) = wait_for("a name server that listens", || {
            let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut child = serve(address, &folder.path().join("hosts"));
            loop {
                if child.try_wait().unwrap().is_some() {
                    return None;
                }
                if TcpStream::connect(address).is_ok() && child.try_wait().unwrap().is_none() {
                    return Some((child, address));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Dns { child, folder, address }
    }

    /// Changes its answers.
    pub fn set(&self, hosts: &str) {
        std::fs::write(self.folder.path().join("hosts"), hosts).unwrap();
        let hup = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status().unwrap();
        assert!(hup.success());
    }

    /// Ends it: it is silent from now on.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(address: SocketAddr, hosts: &Path) -> Child {
    Command::new("dnsmasq")
        .args([
            "--keep-in-foreground",
            "--no-resolv",
            "--no-hosts",
            "--local-ttl=1",
            "--user=",
            "--pid-file=",
        ])
        .args(["--listen-address=127.0.0.1", "--bind-interfaces", "--conf-file=/dev/null"])
        .arg(format!("--port={}", address.port()))
        .arg(format!("--addn-hosts={}", hosts.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("dnsmasq is installed (Debian: dnsmasq-base; tests/run does it)")
}
