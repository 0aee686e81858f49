//! Idle connections: opened, used once, then left alone while the proxy's memory is read.

use crate::args::Plan;
use crate::process;
use crate::proxies::{Contender, Running, Setup};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a proxy has to give buffers back.
const SETTLED: Duration = Duration::from_secs(3);
const MIB: f64 = (1 << 20) as f64;

type Figures = BTreeMap<&'static str, f64>;
type Errors = BTreeMap<String, u64>;

/// Starts a fresh process and gives its memory idle and with as many connections as `steps` say.
pub fn measure(
    plan: &Plan,
    contender: &Contender,
    setup: Setup,
    steps: &[usize],
) -> Result<(Figures, Errors), String> {
    let running = Running::start(plan, contender, setup)?;
    let proxy = running.proxy.as_ref().ok_or("no proxy to measure")?;
    process::pause(SETTLED)?;
    let idle = proxy.resident();
    let (mut figures, mut errors) = (Figures::from([("idle", idle / MIB)]), Errors::new());
    let mut clients = Vec::new();
    for step in steps {
        while clients.len() < *step && !process::stopped() {
            match open(running.address) {
                Ok(client) => clients.push(client),
                Err(error) => return Err(format!("connection {}: {error}", clients.len() + 1)),
            }
        }
        process::pause(SETTLED)?;
        let resident = proxy.resident();
        figures.insert(if *step == 1_000 { "with_1000" } else { "with_5000" }, resident / MIB);
        figures.insert("each", (resident - idle) / *step as f64);
    }
    let closed = clients.iter().filter(|c| !is_open(c)).count() as u64;
    if closed > 0 {
        errors.insert("idle connections closed by the proxy".to_owned(), closed);
    }
    Ok((figures, errors))
}

/// A connection that had its one answer of 1 KiB.
fn open(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // In one write: parts would wait for each other's acknowledgement.
    stream.write_all(format!("GET /service1/orders HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let (mut buffer, mut length, mut needed) = ([0; 4096], 0, None);
    while needed.is_none_or(|n| length < n) {
        match stream.read(&mut buffer[length..])? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => length += n,
        }
        if needed.is_none() {
            let end = buffer[..length].windows(4).position(|w| w == b"\r\n\r\n");
            needed = end.map(|end| end + 4 + 1024);
        }
    }
    if buffer.starts_with(b"HTTP/1.1 200") {
        Ok(stream)
    } else {
        Err(std::io::Error::other("not answered with 200"))
    }
}

fn is_open(stream: &TcpStream) -> bool {
    let quiet = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    matches!(quiet, Err(error) if error.kind() == ErrorKind::WouldBlock)
}
