//! The contenders and their configurations, matched: one worker, kept connections on both sides, the same routes, the
//! same fields added to each request, no access log. File names are relative, so that a text can be shown as it is.
//!
//! With `--logs` each has a twin with an access log in a file: JSON for Portcullis, with an admin address that nobody asks,
//! NGINX's own format with its buffer, HAProxy's through its standard output.
//!
//! Over TLS all have the same certificate, TLS 1.2 and 1.3, tickets, and HTTP/2 beside HTTP/1.1.

use crate::args::Plan;
use crate::dial;
use crate::process::{self, Process};
use crate::tls::{self, Key};
use rustls::{ClientConnection, StreamOwned};
use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Portcullis,
    Nginx,
    Haproxy,
    /// Pingora and nothing else: one target, no routes, no fields.
    Bare,
    /// No proxy: the load generator asks the origin itself.
    Direct,
}

#[derive(Clone, Debug)]
pub struct Contender {
    pub name: String,
    pub kind: Kind,
    /// The program, and arguments before those that are written here.
    pub program: Vec<String>,
    /// With an access log.
    pub logs: bool,
}

/// What a measurement needs of a contender.
#[derive(Clone, Copy)]
pub struct Setup {
    /// TLS with a certificate of this key; None is plaintext.
    pub tls: Option<Key>,
    /// Whether `/` is answered by the proxy itself.
    pub answers: bool,
    pub routes: usize,
    /// At most so many clients at once; the pool of upstream connections has room for all.
    pub connections: usize,
}

/// A contender that serves, with an origin of its own: their connections are not each other's.
pub struct Running {
    pub address: SocketAddr,
    /// None for [`Kind::Direct`].
    pub proxy: Option<Process>,
    pub origin: Process,
    origin_address: SocketAddr,
    setup: Setup,
}

/// What the origin has served so far.
#[derive(serde::Deserialize, Clone, Copy)]
pub struct Served {
    pub connections: u64,
    pub requests: u64,
}

impl Running {
    pub fn start(plan: &Plan, contender: &Contender, setup: Setup) -> Result<Running, String> {
        let origin_address = process::free_address()?;
        // There may be several of a contender at once.
        let name = format!("{}-{}", contender.name, origin_address.port());
        let command = [plan.origin.clone(), origin_address.to_string()];
        let mut origin =
            Process::start(&format!("{name}-origin"), plan.load_cpus(), plan.folder(), &command)?;
        origin.wait_until_listening(origin_address)?;
        if contender.kind == Kind::Direct {
            return Ok(Running { address: origin_address, proxy: None, origin, origin_address, setup });
        }
        let address = process::free_address()?;
        let logs = contender.logs;
        // Programs differ in what a relative name is relative to.
        let keys = plan.folder().join(tls::FOLDER).to_string_lossy().into_owned();
        let place = Place { folder: name.clone(), keys, address, origin: origin_address, setup, logs };
        let folder = plan.folder().join(&name);
        fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
        for (file, text) in place.files(contender.kind) {
            fs::write(folder.join(file), text).map_err(|e| e.to_string())?;
        }
        let command = [contender.program.clone(), place.arguments(contender.kind)].concat();
        let mut proxy = Process::start(&name, plan.proxy_cpu(), plan.folder(), &command)?;
        proxy.wait_until_listening(address)?;
        let running = Running { address, proxy: Some(proxy), origin, origin_address, setup };
        running.probe()?;
        Ok(running)
    }

    /// Scheme and address.
    pub fn base(&self) -> String {
        let scheme = if self.setup.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    pub fn served(&self) -> Result<Served, String> {
        let (_, body) = get(self.origin_address, None, "/stats")?;
        serde_json::from_slice(&body).map_err(|e| format!("the origin's statistics: {e}"))
    }

    /// What answers must be before anything is measured.
    fn probe(&self) -> Result<(), String> {
        for (path, length) in [("/service1/orders", 1024), ("/service1/bytes/102400", 102_400)] {
            let (head, body) = get(self.address, self.setup.tls, path)?;
            if !head.starts_with("HTTP/1.1 200") || body.len() != length {
                let line = head.lines().next().unwrap_or_default();
                return Err(format!("{path} was answered with {line:?} and {} bytes", body.len()));
            }
        }
        if self.setup.answers {
            let (head, body) = get(self.address, self.setup.tls, "/")?;
            dial::judge(&[head.as_bytes(), b"\r\n\r\n", &body].concat())?;
        }
        Ok(())
    }
}

/// One GET on a connection of its own.
fn get(address: SocketAddr, tls: Option<Key>, path: &str) -> Result<(String, Vec<u8>), String> {
    let failed = |e: std::io::Error| format!("GET {path}: {e}");
    let stream = TcpStream::connect(address).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(failed)?;
    let host = if tls.is_some() { tls::HOST.to_owned() } else { address.to_string() };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let all = match tls {
        None => ask(stream, &request),
        Some(_) => {
            let session = ClientConnection::new(tls::client(false)?, tls::name()?);
            ask(StreamOwned::new(session.map_err(|e| e.to_string())?, stream), &request)
        }
    };
    let all = all.map_err(failed)?;
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").ok_or("an answer without an end of its head")?;
    Ok((String::from_utf8_lossy(&all[..end]).into_owned(), all[end + 4..].to_vec()))
}

fn ask(mut stream: impl Read + Write, request: &str) -> std::io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        // Without a farewell of TLS; the length is known.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(all),
        other => other.map(|_| all),
    }
}

/// The configuration as it is shown in the report.
pub fn shown(kind: Kind, encrypts: bool) -> String {
    let (address, origin) = (([127, 0, 0, 1], 8080).into(), ([127, 0, 0, 1], 7001).into());
    let place = Place {
        folder: "conf".to_owned(),
        keys: tls::FOLDER.to_owned(),
        address,
        origin,
        setup: Setup { tls: encrypts.then_some(Key::P256), answers: encrypts, routes: 10, connections: 64 },
        logs: false,
    };
    let mut text = String::new();
    if encrypts {
        text.push_str(
            "# With TLS, and with the answer of its own that only new connections are measured with.\n",
        );
    }
    for (file, content) in place.files(kind) {
        let _ = write!(text, "# {file}\n{content}\n");
    }
    if kind == Kind::Bare {
        let _ = write!(text, "bare {}", place.arguments(kind).join(" "));
    }
    text
}

/// Where a contender listens and whom it asks. Its files are in `folder`, seen from where it is started.
struct Place {
    folder: String,
    /// Where the certificates are.
    keys: String,
    address: SocketAddr,
    origin: SocketAddr,
    setup: Setup,
    logs: bool,
}

impl Place {
    fn arguments(&self, kind: Kind) -> Vec<String> {
        let (folder, address, origin) = (&self.folder, self.address, self.origin);
        let line = match kind {
            Kind::Portcullis => format!("run -c {folder}/portcullis.yaml"),
            Kind::Nginx => format!("-p {folder} -c nginx.conf -e stderr"),
            Kind::Haproxy => format!("-db -C {folder} -f haproxy.cfg"),
            Kind::Bare => match self.setup.tls {
                Some(key) => {
                    let (keys, stem) = (&self.keys, key.stem());
                    format!("{address} {origin} 1 {keys}/{stem}.pem {keys}/{stem}.key")
                }
                None => format!("{address} {origin} 1"),
            },
            Kind::Direct => String::new(),
        };
        line.split(' ').map(str::to_owned).collect()
    }

    fn files(&self, kind: Kind) -> Vec<(&'static str, String)> {
        match kind {
            Kind::Portcullis => vec![("portcullis.yaml", self.portcullis())],
            Kind::Nginx => vec![("nginx.conf", self.nginx())],
            Kind::Haproxy => vec![("haproxy.cfg", self.haproxy()), ("routes.map", self.haproxy_map())],
            Kind::Bare | Kind::Direct => Vec::new(),
        }
    }

    /// Room for every client of a measurement.
    fn pool(&self) -> usize {
        self.setup.connections.max(128)
    }

    fn portcullis(&self) -> String {
        let (address, origin, pool) = (self.address, self.origin, self.pool());
        let logs = match self.logs {
            true => format!("{{path: {}/access.log}}\nadmin: {{address: \"127.0.0.1:0\"}}", self.folder),
            false => "{path: off}".to_owned(),
        };
        let tls = self.setup.tls.map_or_else(String::new, |key| {
            let (keys, stem) = (&self.keys, key.stem());
            format!(
                "\n    protocols: [h2, http1]\n    tls: {{certificates: [{{cert: {keys}/{stem}.pem, key: {keys}/{stem}.key}}]}}"
            )
        });
        let own = match self.setup.answers {
            true => format!("\n  - {{path: {{exact: /}}, respond: {{status: 200, body: {}}}}}", dial::BODY),
            false => String::new(),
        };
        let mut text = format!(
            r#"listeners:
  - address: {address}{tls}
access_log: {logs}
threads: 1
limits:
  idle_timeout: 10m
  requests_per_connection: 4000000000
upstreams:
  origin:
    targets: ["{origin}"]
    timeouts: {{idle: 10m}}
    keepalive: {{pool: {pool}}}
routes:{own}
"#
        );
        for n in 0..self.setup.routes {
            let _ = writeln!(text, "  - {{path: /service{n}, upstream: origin}}");
        }
        text
    }

    /// Its own defaults for the buffers of bodies cost twice the CPU with large ones, and write them to disk.
    fn nginx(&self) -> String {
        let (address, origin, pool) = (self.address, self.origin, self.pool());
        let descriptors = 2 * self.setup.connections + 1024;
        let (ssl, tls) = self.nginx_tls();
        let own = match self.setup.answers {
            true => format!("        location = / {{ return 200 \"{}\"; }}\n", dial::BODY),
            false => String::new(),
        };
        let logs = if self.logs { "access.log combined buffer=64k flush=1s" } else { "off" };
        let mut text = format!(
            r#"daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections {descriptors}; }}
http {{
    access_log {logs};
    keepalive_timeout 600s;
    keepalive_requests 4000000000;
    tcp_nodelay on;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream origin {{
        server {origin};
        keepalive {pool};
        keepalive_timeout 600s;
        keepalive_requests 4000000000;
    }}
    server {{
        listen {address}{ssl} backlog=4096;
{tls}        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header X-Forwarded-Host $http_host;
        proxy_set_header X-Forwarded-Port $server_port;
        proxy_set_header Forwarded "for=\"$remote_addr:$remote_port\";proto=$scheme;host=\"$http_host\"";
        proxy_set_header Via "1.1 nginx";
        proxy_set_header X-Request-Id $request_id;
        add_header X-Request-Id $request_id;
        proxy_buffer_size 16k;
        proxy_buffers 16 64k;
        proxy_busy_buffers_size 256k;
        proxy_max_temp_file_size 0;
{own}"#
        );
        for n in 0..self.setup.routes {
            let _ = writeln!(text, "        location /service{n}/ {{ proxy_pass http://origin; }}");
        }
        text.push_str("    }\n}\n");
        text
    }

    /// What follows the address, and the lines for TLS. By default this NGINX has no TLS 1.3.
    fn nginx_tls(&self) -> (&'static str, String) {
        let Some(key) = self.setup.tls else { return ("", String::new()) };
        let (keys, stem) = (&self.keys, key.stem());
        let lines = format!(
            r#"        ssl_certificate {keys}/{stem}.pem;
        ssl_certificate_key {keys}/{stem}.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache shared:tls:10m;
        ssl_session_tickets on;
"#
        );
        (" ssl http2", lines)
    }

    /// By default it keeps idle connections to servers only while they are a quarter of its descriptors, which doubles
    /// what a request costs with many clients. Its buffers stay as they are: larger ones cost it more than they give.
    fn haproxy(&self) -> String {
        let (address, origin) = (self.address, self.origin);
        let clients = self.setup.connections + 256;
        let logs = if self.logs {
            ("    log stdout format raw local0\n", "    log global\n    option httplog\n")
        } else {
            ("", "")
        };
        let (log, with) = logs;
        let own = match self.setup.answers {
            true => format!(
                "    http-request return status 200 content-type text/plain string {} if {{ path / }}\n",
                dial::BODY
            ),
            false => String::new(),
        };
        let (scheme, tls) = match self.setup.tls {
            Some(key) => {
                let (keys, stem) = (&self.keys, key.stem());
                ("https", format!(" ssl crt {keys}/{stem}.both alpn h2,http/1.1 ssl-min-ver TLSv1.2"))
            }
            None => ("http", String::new()),
        };
        format!(
            r#"global
    nbthread 1
    maxconn {clients}
    tune.pool-low-fd-ratio 90
    tune.pool-high-fd-ratio 90
{log}defaults
    mode http
{with}    timeout connect 5s
    timeout client 600s
    timeout server 600s
    timeout http-keep-alive 600s
    option http-keep-alive
    http-reuse always
frontend clients
    bind {address} backlog 4096{tls}
{own}    unique-id-format %[uuid()]
    unique-id-header X-Request-Id
    http-request set-header X-Forwarded-For %[src]
    http-request set-header X-Forwarded-Proto {scheme}
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Port %[dst_port]
    http-request set-header Forwarded for=\"%[src]:%[src_port]\";proto={scheme};host=\"%[req.hdr(host)]\"
    http-request set-header Via "1.1 haproxy"
    http-response set-header X-Request-Id %[unique-id]
    use_backend %[path,map_beg(routes.map)]
backend origin
    server origin {origin} pool-purge-delay 600s
"#
        )
    }

    fn haproxy_map(&self) -> String {
        (0..self.setup.routes).map(|n| format!("/service{n}/ origin\n")).collect()
    }
}
