//! Our own load generator for new connections, a program of its own so that it has a processor of its own: each client
//! connects, shakes hands, asks once, reads to the end, and does so again. wrk and others say how many connections they
//! opened, not how many of them resumed a session; this one counts what rustls says each handshake was.
//!
//! `dial ADDRESS SECONDS CLIENTS plain|full|resumed` prints one line of JSON, which `parse.rs` judges.

use crate::tls;
use rustls::HandshakeKind;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Much longer than any connection takes, and shorter than the run's own limit.
const PATIENCE: Duration = Duration::from_secs(10);
/// The contenders answer it themselves; the connection ends with the answer.
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
pub const BODY: &str = "ok";

/// What the handshakes must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handshake {
    /// None: the same pattern of connections without TLS.
    Plain,
    Full,
    Resumed,
}

impl Handshake {
    pub fn word(self) -> &'static str {
        match self {
            Handshake::Plain => "plain",
            Handshake::Full => "full",
            Handshake::Resumed => "resumed",
        }
    }
}

/// What all clients counted.
#[derive(Default, serde::Serialize)]
struct Tally {
    expected: &'static str,
    /// Full handshakes before the clock, one for each client, whose tickets are what the others resume.
    primers: u64,
    connections: u64,
    full: u64,
    resumed: u64,
    /// Full ones with a round trip more, because the server wanted another group than was offered.
    retried: u64,
    seconds: f64,
    errors: BTreeMap<String, u64>,
}

/// The whole program; what it prints.
pub fn run(arguments: &[String]) -> Result<String, String> {
    const FORM: &str = "dial ADDRESS SECONDS CLIENTS plain|full|resumed";
    let [address, seconds, clients, handshake] = arguments else { return Err(FORM.to_owned()) };
    let (address, seconds) = (address.parse().map_err(|_| FORM)?, seconds.parse().map_err(|_| FORM)?);
    let clients = clients.parse().map_err(|_| FORM)?;
    let handshake = [Handshake::Plain, Handshake::Full, Handshake::Resumed]
        .into_iter()
        .find(|h| h.word() == handshake)
        .ok_or(FORM)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| e.to_string())?;
    let tally = runtime.block_on(all(address, Duration::from_secs(seconds), clients, handshake))?;
    serde_json::to_string(&tally).map_err(|e| e.to_string())
}

async fn all(
    address: SocketAddr,
    duration: Duration,
    clients: usize,
    handshake: Handshake,
) -> Result<Tally, String> {
    let mut tally = Tally { expected: handshake.word(), ..Tally::default() };
    let mut ready = Vec::new();
    for _ in 0..clients {
        let client = Client::new(address, handshake)?;
        if handshake == Handshake::Resumed {
            match client.once().await {
                Ok(Some(HandshakeKind::Full)) => tally.primers += 1,
                Ok(other) => tally.fail(format!("a first handshake was {other:?}")),
                Err(error) => tally.fail(error),
            }
        }
        ready.push(client);
    }
    let began = Instant::now();
    let tasks: Vec<_> =
        ready.into_iter().map(|client| tokio::spawn(client.until(began + duration))).collect();
    for task in tasks {
        tally.add(task.await.map_err(|e| e.to_string())?);
    }
    tally.seconds = began.elapsed().as_secs_f64();
    Ok(tally)
}

/// One connection after the other. Its tickets are its own, so none is fought over.
struct Client {
    address: SocketAddr,
    tls: Option<TlsConnector>,
}

impl Client {
    fn new(address: SocketAddr, handshake: Handshake) -> Result<Client, String> {
        let tls = match handshake {
            Handshake::Plain => None,
            _ => Some(TlsConnector::from(tls::client(handshake == Handshake::Resumed)?)),
        };
        Ok(Client { address, tls })
    }

    /// Ends at its first error: the run is invalid by then.
    async fn until(self, end: Instant) -> Tally {
        let mut tally = Tally::default();
        while Instant::now() < end {
            match self.once().await {
                Ok(kind) => tally.count(kind),
                Err(error) => {
                    tally.fail(error);
                    break;
                }
            }
        }
        tally
    }

    async fn once(&self) -> Result<Option<HandshakeKind>, String> {
        let late = |_| format!("a connection took more than {PATIENCE:?}");
        tokio::time::timeout(PATIENCE, self.connection()).await.map_err(late)?
    }

    async fn connection(&self) -> Result<Option<HandshakeKind>, String> {
        let stream = TcpStream::connect(self.address).await.map_err(|e| format!("connect: {e}"))?;
        stream.set_nodelay(true).map_err(|e| format!("connect: {e}"))?;
        let Some(tls) = &self.tls else {
            exchange(stream).await?;
            return Ok(None);
        };
        let mut stream = tls.connect(tls::name()?, stream).await.map_err(|e| format!("handshake: {e}"))?;
        let kind = stream.get_ref().1.handshake_kind();
        exchange(&mut stream).await?;
        Ok(kind)
    }
}

/// Asks, and reads until the server has closed: so it is the server that waits in TIME_WAIT, where Linux lets the same
/// ports be used again at once, and the client has seen all the tickets that were sent.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), String> {
    stream.write_all(REQUEST.as_bytes()).await.map_err(|e| format!("write: {e}"))?;
    let mut answer = Vec::with_capacity(1024);
    if let Err(error) = stream.read_to_end(&mut answer).await {
        // Without a farewell of TLS; whether all was there is seen below.
        if error.kind() != std::io::ErrorKind::UnexpectedEof {
            return Err(format!("read: {error}"));
        }
    }
    judge(&answer)
}

pub fn judge(answer: &[u8]) -> Result<(), String> {
    let line = answer.split(|b| *b == b'\r').next().unwrap_or_default();
    if !line.starts_with(b"HTTP/1.1 200") {
        return Err(format!("answered with {:?}", String::from_utf8_lossy(line)));
    }
    if !answer.ends_with(format!("\r\n\r\n{BODY}").as_bytes()) {
        return Err("an answer without its body".to_owned());
    }
    Ok(())
}

impl Tally {
    fn count(&mut self, kind: Option<HandshakeKind>) {
        self.connections += 1;
        match kind {
            None => {}
            Some(HandshakeKind::Full) => self.full += 1,
            Some(HandshakeKind::Resumed) => self.resumed += 1,
            Some(HandshakeKind::FullWithHelloRetryRequest) => self.retried += 1,
        }
    }

    fn fail(&mut self, error: String) {
        *self.errors.entry(error).or_default() += 1;
    }

    fn add(&mut self, other: Tally) {
        self.connections += other.connections;
        self.full += other.full;
        self.resumed += other.resumed;
        self.retried += other.retried;
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }
}
