//! A real name server (Debian's dnsmasq) whose answers a test changes.

use super::until;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};

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
        // dnsmasq cannot let the kernel choose, so ask the kernel for a free port first.
        let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("dnsmasq")
            .args([
                "--keep-in-foreground",
                "--no-resolv",
                "--no-hosts",
                "--local-ttl=1",
                "--listen-address=127.0.0.1",
                "--bind-interfaces",
                "--user=",
                "--pid-file=",
            ])
            .args(["--conf-file=/dev/null".to_owned(), format!("--port={}", address.port())])
            .arg(format!("--addn-hosts={}", folder.path().join("hosts").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq is installed (Debian: dnsmasq-base; tests/run does it)");
        let dns = Dns { child, folder, address };
        until("the name server listens", || std::net::TcpStream::connect(address).is_ok());
        dns
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
