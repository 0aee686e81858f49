//! An origin for bodies too large to keep: it makes what it sends and counts what it gets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;

/// An origin for large bodies; ends when dropped.
///
/// `/down/N` answers with N bytes and a Content-Length, `/chunked/N` with N bytes in chunks; anything else takes the
/// request's body and answers with its length on the wire.
pub struct Bulk {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    received: AtomicU64,
    open: AtomicUsize,
    stopping: AtomicBool,
}

const BLOCK: usize = 256 << 10;

impl Bulk {
    /// Listens on a port of the kernel's choice.
    pub fn start() -> Bulk {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, shared) = (listener.local_addr().unwrap(), Arc::new(Shared::default()));
        let ours = Arc::clone(&shared);
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if ours.stopping.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&ours);
                shared.open.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    while serve(&socket, &shared).is_some() {}
                    drop(socket);
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Bulk { address, shared }
    }

    /// `http://host:port` for a configuration.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Bytes of bodies that have arrived so far, chunk framing included.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the accept
    }
}

/// One request; none when the connection is over.
fn serve(mut socket: &TcpStream, shared: &Shared) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let target = head.split(' ').nth(1)?;
    let number = |prefix: &str| target.strip_prefix(prefix).and_then(|n| n.parse::<u64>().ok());
    if let Some(length) = number("/down/") {
        write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").ok()?;
        return send(socket, length, false);
    }
    if let Some(length) = number("/chunked/") {
        write!(socket, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").ok()?;
        return send(socket, length, true);
    }
    let chunked = head.contains("transfer-encoding:");
    let length = head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<u64>().ok());
    let length = take(socket, length.or((!chunked).then_some(0)), shared)?.to_string();
    write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{length}", length.len()).ok()
}

fn send(mut socket: &TcpStream, mut left: u64, chunked: bool) -> Option<()> {
    let block = vec![b'x'; BLOCK];
    while left > 0 {
        let n = left.min(BLOCK as u64) as usize;
        if chunked {
            write!(socket, "{n:x}\r\n").ok()?;
        }
        socket.write_all(&block[..n]).ok()?;
        if chunked {
            socket.write_all(b"\r\n").ok()?;
        }
        left -= n as u64;
    }
    if chunked {
        socket.write_all(b"0\r\n\r\n").ok()?;
    }
    Some(())
}

/// Takes a body of this length, or a chunked one (whose data must not end like its last chunk).
fn take(mut socket: &TcpStream, length: Option<u64>, shared: &Shared) -> Option<u64> {
    let (mut total, mut tail, mut block) = (0, Vec::new(), vec![0; BLOCK]);
    while length != Some(total) {
        let n = socket.read(&mut block).ok().filter(|n| *n > 0)?;
        total += n as u64;
        shared.received.fetch_add(n as u64, Ordering::SeqCst);
        if length.is_none() {
            tail.extend_from_slice(&block[n.saturating_sub(5)..n]);
            tail.drain(..tail.len().saturating_sub(5));
            if tail == b"0\r\n\r\n" {
                break;
            }
        }
    }
    Some(total)
}
