//! What a TLS handshake costs the server with each of rustls' providers: client and server in memory, no sockets, and
//! only the server's own steps are timed. The client is the same for both.
//!
//! `cargo bench --bench handshake`; the openssl program makes the certificates. Medians, because a median forgets the
//! handshakes in which somebody else had the processor, and the least beside them.

#[path = "load/unverified.rs"]
mod unverified;

use rustls::client::Resumption;
use rustls::crypto::{aws_lc_rs, ring, CryptoProvider, SupportedKxGroup};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ProducesTickets;
use rustls::{ClientConfig, ClientConnection, Error, HandshakeKind, ServerConfig, ServerConnection};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use unverified::Unverified;

// As in src/main.rs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The providers by turns, so that a noisy machine disturbs both alike.
const ROUNDS: usize = 40;
/// So many in a row, which is how a busy server's caches find them.
const BATCH: usize = 50;

/// One row: what is timed.
struct Case {
    title: &'static str,
    certificate: &'static str,
    kind: HandshakeKind,
    group: Group,
    /// That the server gives; rustls' default is two, also after a resumed handshake, where OpenSSL gives one.
    tickets: usize,
    /// Bytes that the server writes once it may; then the handshake itself is not timed.
    body: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    X25519,
    /// Of aws-lc alone.
    Hybrid,
}

const fn handshake(title: &'static str, certificate: &'static str, kind: HandshakeKind) -> Case {
    Case { title, certificate, kind, group: Group::X25519, tickets: 2, body: 0 }
}

const CASES: [Case; 7] = [
    handshake("full, P-256", "p256", HandshakeKind::Full),
    handshake("full, RSA-2048", "rsa2048", HandshakeKind::Full),
    handshake("resumed by ticket", "p256", HandshakeKind::Resumed),
    Case { tickets: 1, ..handshake("resumed, one ticket back", "p256", HandshakeKind::Resumed) },
    Case { group: Group::Hybrid, ..handshake("full, P-256, X25519MLKEM768", "p256", HandshakeKind::Full) },
    Case { body: 1 << 10, ..handshake("writing 1 KiB", "p256", HandshakeKind::Full) },
    Case { body: 100 << 10, ..handshake("writing 100 KiB", "p256", HandshakeKind::Full) },
];

/// A provider with its tickets.
struct Provider {
    name: &'static str,
    crypto: CryptoProvider,
    x25519: &'static dyn SupportedKxGroup,
    hybrid: Option<&'static dyn SupportedKxGroup>,
    ticketer: fn() -> Result<Arc<dyn ProducesTickets>, Error>,
}

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    // `cargo test` starts every bench target as well, without this word.
    if !std::env::args().any(|a| a == "--bench") {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    make_certificate(folder.path(), "p256", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"])?;
    make_certificate(folder.path(), "rsa2048", &["rsa:2048"])?;
    let providers = [
        Provider {
            name: "aws_lc_rs",
            crypto: aws_lc_rs::default_provider(),
            x25519: aws_lc_rs::kx_group::X25519,
            hybrid: Some(aws_lc_rs::kx_group::X25519MLKEM768),
            ticketer: aws_lc_rs::Ticketer::new,
        },
        Provider {
            name: "ring",
            crypto: ring::default_provider(),
            x25519: ring::kx_group::X25519,
            hybrid: None,
            ticketer: ring::Ticketer::new,
        },
    ];
    println!("Server's time in µs, TLS 1.3, AES-256-GCM, median (least) of {}:\n", ROUNDS * BATCH);
    println!("{:<30}{:>20}{:>20}", "", providers[0].name, providers[1].name);
    for case in &CASES {
        let mut pairs = Vec::new();
        for provider in &providers {
            pairs.push(Pair::new(provider, case, folder.path())?);
        }
        let mut times = vec![Vec::new(); pairs.len()];
        for _ in 0..ROUNDS {
            for (pair, times) in pairs.iter().zip(&mut times) {
                let Some(pair) = pair else { continue };
                for _ in 0..BATCH {
                    times.push(pair.once(case)?);
                }
            }
        }
        let cells: String = times.into_iter().map(|times| format!("{:>20}", cell(times))).collect();
        println!("{:<30}{cells}", case.title);
    }
    Ok(())
}

fn cell(mut times: Vec<Duration>) -> String {
    times.sort();
    let shown = |at: usize| times.get(at).map(|t| format!("{:.1}", t.as_secs_f64() * 1e6));
    match (shown(times.len() / 2), shown(0)) {
        (Some(median), Some(least)) => format!("{median} ({least})"),
        _ => "–".to_owned(),
    }
}

/// rcgen makes no RSA keys with the backend that it has here.
fn make_certificate(folder: &Path, name: &str, key: &[&str]) -> Result<(), Failure> {
    let status = Command::new("openssl")
        .args(["req", "-x509", "-sha256", "-nodes", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-newkey"])
        .args(key)
        .args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")])
        .current_dir(folder)
        .stderr(Stdio::null())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err("openssl req failed".into())
    }
}

/// A client and a server that suit each other.
struct Pair {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Pair {
    /// None when the provider cannot do it.
    fn new(provider: &Provider, case: &Case, folder: &Path) -> Result<Option<Pair>, Failure> {
        let (ours, theirs) = match case.group {
            Group::X25519 => (Some(provider.x25519), aws_lc_rs::kx_group::X25519),
            Group::Hybrid => (provider.hybrid, aws_lc_rs::kx_group::X25519MLKEM768),
        };
        let Some(ours) = ours else { return Ok(None) };
        let crypto = narrowed(provider.crypto.clone(), ours);
        let file = |ending: &str| folder.join(format!("{}.{ending}", case.certificate));
        let chain: Vec<_> = CertificateDer::pem_file_iter(file("pem"))?.collect::<Result<_, _>>()?;
        let mut server = ServerConfig::builder_with_provider(crypto)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(file("key"))?)?;
        server.ticketer = (provider.ticketer)()?;
        server.send_tls13_tickets = case.tickets;
        let crypto = narrowed(aws_lc_rs::default_provider(), theirs);
        let mut client = ClientConfig::builder_with_provider(crypto.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(crypto)))
            .with_no_client_auth();
        client.resumption = Resumption::disabled();
        let resumes = case.kind == HandshakeKind::Resumed;
        if resumes {
            client.resumption = Resumption::in_memory_sessions(8);
        }
        let pair = Pair { client: Arc::new(client), server: Arc::new(server) };
        if resumes {
            // Its tickets begin the chain: each handshake uses one and gets others.
            pair.connect()?;
        }
        Ok(Some(pair))
    }

    /// The server's time for what the case is about.
    fn once(&self, case: &Case) -> Result<Duration, Failure> {
        let (mut server, mut spent) = self.connect()?;
        if server.handshake_kind() != Some(case.kind) {
            return Err(format!("{}: the handshake was {:?}", case.title, server.handshake_kind()).into());
        }
        if case.body > 0 {
            let (body, mut out) = (vec![b'x'; case.body], Vec::with_capacity(2 * case.body + 1024));
            // By default a connection keeps no more than 64 KiB.
            server.set_buffer_limit(None);
            let began = Instant::now();
            server.writer().write_all(&body)?;
            while server.wants_write() {
                server.write_tls(&mut out)?;
            }
            return Ok(began.elapsed());
        }
        let began = Instant::now();
        drop(server);
        spent += began.elapsed();
        Ok(spent)
    }

    /// A connection as the server has it after the client's last word and its own tickets, and what that took it.
    fn connect(&self) -> Result<(ServerConnection, Duration), Failure> {
        let mut client = ClientConnection::new(self.client.clone(), ServerName::try_from("localhost")?)?;
        let (mut there, mut back) = (Vec::with_capacity(16 << 10), Vec::with_capacity(16 << 10));
        let began = Instant::now();
        let mut server = ServerConnection::new(self.server.clone())?;
        let mut spent = began.elapsed();
        while client.wants_write() {
            there.clear();
            while client.wants_write() {
                client.write_tls(&mut there)?;
            }
            back.clear();
            let began = Instant::now();
            let mut unread = &there[..];
            while !unread.is_empty() {
                server.read_tls(&mut unread)?;
                server.process_new_packets()?;
            }
            while server.wants_write() {
                server.write_tls(&mut back)?;
            }
            spent += began.elapsed();
            let mut unread = &back[..];
            while !unread.is_empty() {
                client.read_tls(&mut unread)?;
                client.process_new_packets()?;
            }
        }
        if client.is_handshaking() || server.is_handshaking() {
            return Err("the handshake did not end".into());
        }
        Ok((server, spent))
    }
}

/// One suite and one group, so that both providers do the same.
fn narrowed(mut crypto: CryptoProvider, group: &'static dyn SupportedKxGroup) -> Arc<CryptoProvider> {
    crypto.cipher_suites.retain(|s| s.suite() == rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
    crypto.kx_groups = vec![group];
    Arc::new(crypto)
}
