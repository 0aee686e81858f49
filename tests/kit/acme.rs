//! A real ACME server (Let's Encrypt's Pebble, Debian's `pebble`) behind a front that notes what it is asked and answers in
//! its place where a test wants it to.
//!
//! The front is there before the gateway is, and the server after it: it must be told where the gateway listens, since it
//! does not ask at ports 80 and 443. Who asks in between waits.

use super::certs::Authority;
use super::tls::Client;
use super::{wait_for, Dns};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What the front answers in the server's place to a request line; `None` passes it on.
type Fault = Box<dyn FnMut(&str) -> Option<String> + Send>;

/// What the front and the test have in common.
#[derive(Default)]
struct Shared {
    asked: Mutex<Vec<String>>,
    fault: Mutex<Option<Fault>>,
    server: Mutex<Option<SocketAddr>>,
    there: Condvar,
}

/// The front, and the server once it is there; killed when dropped.
pub struct Acme {
    authority: Authority,
    shared: Arc<Shared>,
    front: SocketAddr,
    server: Option<(Child, SocketAddr)>,
    names: Dns,
    /// What the server's certificates are good for, in seconds.
    pub validity: u64,
    /// Who must be bound to an account, and by which key.
    pub external: Option<(&'static str, &'static str)>,
}

impl Acme {
    /// The front alone. The server will find these hosts at this machine.
    pub fn start(hosts: &[&str]) -> Acme {
        let authority = Authority::new("the server's own");
        authority.issue("server", &["127.0.0.1"]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (front, shared) = (listener.local_addr().unwrap(), Arc::new(Shared::default()));
        let (config, client) = (server_config(authority.folder()), Client::of(&authority));
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (config, client, shared) = (Arc::clone(&config), client.clone(), Arc::clone(&serving));
                // Whoever goes away in the middle is nobody's concern here.
                std::thread::spawn(move || serve(socket, config, &client, &shared));
            }
        });
        let lines: String = hosts.iter().map(|host| format!("127.0.0.1 {host}\n")).collect();
        let names = Dns::start(&lines);
        Acme { authority, shared, front, server: None, names, validity: 90 * 86_400, external: None }
    }

    /// `directory`, `ca` and the rest that is always needed, for these hosts and this folder.
    pub fn yaml(&self, hosts: &[&str], folder: &Path) -> String {
        format!(
            "hosts: [{}], directory: {}, ca: {}, folder: {}, terms_of_service_agreed: true",
            hosts.join(", "),
            self.directory(),
            self.authority.file().display(),
            folder.display()
        )
    }

    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.front)
    }

    /// Starts the server, which will ask at these ports whether a host is somebody's.
    pub fn serve(&mut self, http: u16, tls: u16) {
        let folder = self.authority.folder();
        let (kid, key) = self
            .external
            .unwrap_or(("nobody", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"));
        let started = wait_for("an ACME server that listens", || {
            // It cannot let the kernel choose.
            let (at, management) = (free_port(), free_port());
            let config = serde_json::json!({"pebble": {
                "listenAddress": at.to_string(),
                "managementListenAddress": management.to_string(),
                "certificate": folder.join("server.pem"),
                "privateKey": folder.join("server.key"),
                "httpPort": http,
                "tlsPort": tls,
                "ocspResponderURL": "",
                "externalAccountBindingRequired": self.external.is_some(),
                "externalAccountMACKeys": {kid: key},
                "certificateValidityPeriod": self.validity,
            }});
            let file = folder.join("pebble.json");
            std::fs::write(&file, config.to_string()).unwrap();
            let mut child = Command::new("pebble")
                .args(["-config", file.to_str().unwrap(), "-dnsserver", &self.names.address.to_string()])
                .envs([
                    ("PEBBLE_VA_NOSLEEP", "1"),
                    ("PEBBLE_WFE_NONCEREJECT", "0"),
                    ("PEBBLE_AUTHZREUSE", "0"),
                ])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("pebble is installed (Debian: pebble; tests/run does it)");
            loop {
                if child.try_wait().unwrap().is_some() {
                    return None;
                }
                let listens = [at, management].iter().all(|at| TcpStream::connect(at).is_ok());
                if listens && child.try_wait().unwrap().is_none() {
                    return Some((child, at, management));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let (child, at, management) = started;
        self.stop();
        self.server = Some((child, management));
        *self.shared.server.lock().unwrap() = Some(at);
        self.shared.there.notify_all();
    }

    /// Ends the server: who asks waits again.
    pub fn stop(&mut self) {
        *self.shared.server.lock().unwrap() = None;
        if let Some((mut child, _)) = self.server.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A client that believes what the server issues.
    pub fn client(&self) -> Client {
        let (_, management) = self.server.as_ref().expect("it serves");
        let own = Client::of(&self.authority);
        let root = own.get(*management, "127.0.0.1", "/roots/0").unwrap().text();
        Client::trusting(&root, None, rustls::ALL_VERSIONS)
    }

    /// From now on the front answers in the server's place what this says.
    pub fn fault(&self, fault: impl FnMut(&str) -> Option<String> + Send + 'static) {
        *self.shared.fault.lock().unwrap() = Some(Box::new(fault));
    }

    /// From now on it does not.
    pub fn heal(&self) {
        *self.shared.fault.lock().unwrap() = None;
    }

    /// The request lines so far.
    pub fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// How many orders were made.
    pub fn orders(&self) -> usize {
        self.asked().iter().filter(|line| line.contains("/order-plz")).count()
    }
}

impl Drop for Acme {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("the ACME server was asked:\n{}", self.asked().join("\n"));
        }
    }
}

/// A problem (RFC 8555 §6.7).
pub fn problem(status: u16, kind: &str, detail: &str, more: &str) -> String {
    let body = serde_json::json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail, "status": status});
    answer(status, "application/problem+json", &body.to_string(), more)
}

/// An answer with a nonce; `more` are further lines of its head.
pub fn answer(status: u16, kind: &str, body: &str, more: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nReplay-Nonce: bm8tbm9uY2U\r\n{more}\r\n{body}",
        body.len()
    )
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn server_config(folder: &Path) -> Arc<ServerConfig> {
    let file = |name: &str| -> PathBuf { folder.join(name) };
    let chain = vec![CertificateDer::from_pem_file(file("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

/// One request of one connection.
fn serve(socket: TcpStream, config: Arc<ServerConfig>, client: &Client, shared: &Shared) -> Option<()> {
    let mut stream = StreamOwned::new(ServerConnection::new(config).ok()?, socket);
    let request = one_request(&mut stream)?;
    let line = String::from_utf8_lossy(&request).lines().next()?.to_owned();
    shared.asked.lock().unwrap().push(line.clone());
    let fault = shared.fault.lock().unwrap().as_mut().and_then(|fault| fault(&line));
    let answer = match fault {
        Some(answer) => answer.into_bytes(),
        None => {
            let server = shared.there.wait_while(shared.server.lock().unwrap(), |server| server.is_none());
            let server = (*server.unwrap())?;
            let mut connection = client.connect(server, "127.0.0.1").ok()?;
            let end = request.windows(2).position(|two| two == b"\r\n")? + 2;
            connection.send([&request[..end], b"Connection: close\r\n", &request[end..]].concat());
            let mut answer = Vec::new();
            let _ = connection.socket.read_to_end(&mut answer); // it may end without saying so
            answer
        }
    };
    stream.write_all(&answer).ok()?;
    stream.conn.send_close_notify();
    stream.flush().ok()
}

fn one_request(stream: &mut impl Read) -> Option<Vec<u8>> {
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
            if request.len() >= end + 4 + length {
                return Some(request);
            }
        }
        match stream.read(&mut piece).ok()? {
            0 => return None,
            some => request.extend_from_slice(&piece[..some]),
        }
    }
}
