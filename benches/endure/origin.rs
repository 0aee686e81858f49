//! Origins of the soak: they answer what shows whose answer it is, and fail when the weather says so.
//!
//! Unlike the kit's they remember nothing of what they received, so an hour of traffic costs them no memory.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How an origin fails, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It does not.
    Well,
    /// Nothing listens.
    Closed,
    /// Connections are reset as soon as they are there.
    Reset,
    /// Requests get no answer.
    Stall,
    /// Requests get a 500 of its own.
    Error,
    /// Answers come late, but come.
    Slow,
}

/// The five ways to be unwell.
pub const UNWELL: [Mode; 5] = [Mode::Closed, Mode::Reset, Mode::Stall, Mode::Error, Mode::Slow];

/// How late [`Mode::Slow`] is.
const LATE: Duration = Duration::from_millis(150);
/// The pause between pieces of `/trickle/`.
const TRICKLE: Duration = Duration::from_millis(100);

/// A time in which an origin was unwell.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub mode: Mode,
    pub from: Instant,
    /// None while it lasts.
    pub to: Option<Instant>,
}

/// An origin on a port of its own.
pub struct Origin {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    mode: Mutex<Mode>,
    windows: Mutex<Vec<Window>>,
    open: Mutex<HashMap<u64, TcpStream>>,
    next: AtomicU64,
    /// The present listener shall end.
    closing: AtomicBool,
}

impl Origin {
    pub fn start() -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Well),
            windows: Mutex::default(),
            open: Mutex::default(),
            next: AtomicU64::new(0),
            closing: AtomicBool::new(false),
        });
        accept(listener, Arc::clone(&shared));
        Origin { address, shared }
    }

    pub fn mode(&self) -> Mode {
        *self.shared.mode.lock().expect("no holder panics")
    }

    /// From now on it fails so. What was open is cut, so that nothing of the time before goes on.
    pub fn become_unwell(&self, mode: Mode) {
        let window = Window { mode, from: Instant::now(), to: None };
        self.shared.windows.lock().expect("no holder panics").push(window);
        *self.shared.mode.lock().expect("no holder panics") = mode;
        if mode == Mode::Closed {
            self.shared.closing.store(true, Ordering::SeqCst);
            let _ = TcpStream::connect(self.address); // wakes the accept
        }
        if matches!(mode, Mode::Closed | Mode::Reset) {
            self.cut();
        }
    }

    /// Well again; what stalled is cut.
    pub fn recover(&self) {
        let was = std::mem::replace(&mut *self.shared.mode.lock().expect("no holder panics"), Mode::Well);
        if was == Mode::Stall {
            self.cut();
        }
        if was == Mode::Closed {
            while self.shared.closing.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            let listener = loop {
                match TcpListener::bind(self.address) {
                    Ok(listener) => break listener,
                    Err(_) => std::thread::sleep(Duration::from_millis(20)),
                }
            };
            accept(listener, Arc::clone(&self.shared));
        }
        let mut windows = self.shared.windows.lock().expect("no holder panics");
        if let Some(last) = windows.last_mut() {
            last.to = Some(Instant::now());
        }
    }

    /// The ways in which it was unwell at some time of these, and for `settle` after it.
    pub fn troubles(&self, from: Instant, to: Instant, settle: Duration) -> Vec<Mode> {
        let windows = self.shared.windows.lock().expect("no holder panics");
        let during = |w: &&Window| w.from <= to && w.to.is_none_or(|end| from <= end + settle);
        windows.iter().filter(during).map(|w| w.mode).collect()
    }

    fn cut(&self) {
        for (_, open) in self.shared.open.lock().expect("no holder panics").drain() {
            let _ = open.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: TcpListener, shared: Arc<Shared>) {
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            if shared.closing.load(Ordering::SeqCst) {
                break;
            }
            let (number, ours) = (shared.next.fetch_add(1, Ordering::SeqCst), Arc::clone(&shared));
            let Ok(other) = socket.try_clone() else { continue };
            shared.open.lock().expect("no holder panics").insert(number, other);
            std::thread::spawn(move || {
                let over = serve(&socket, &ours);
                ours.open.lock().expect("no holder panics").remove(&number);
                if over == Over::Reset {
                    let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
                }
            });
        }
        drop(listener);
        shared.closing.store(false, Ordering::SeqCst);
    });
}

#[derive(PartialEq)]
enum Over {
    Closed,
    Reset,
}

struct Request {
    target: String,
    upgrade: bool,
    /// Bytes of the body and their sum; see [`digest`].
    length: u64,
    digest: u64,
    has_body: bool,
}

fn serve(socket: &TcpStream, shared: &Shared) -> Over {
    let _ = socket.set_nodelay(true);
    let mut reader = BufReader::with_capacity(64 << 10, socket);
    loop {
        let mode = || *shared.mode.lock().expect("no holder panics");
        if mode() == Mode::Reset {
            return Over::Reset;
        }
        let Some(request) = read(&mut reader) else { return Over::Closed };
        match mode() {
            Mode::Reset => return Over::Reset,
            Mode::Closed => return Over::Closed,
            Mode::Stall => {
                let _ = reader.read(&mut [0]); // until it is cut, or the gateway gives up
                return Over::Closed;
            }
            Mode::Error => {
                let answer = b"HTTP/1.1 500 Unwell\r\nContent-Length: 6\r\n\r\nunwell";
                if (&*socket).write_all(answer).is_err() {
                    return Over::Closed;
                }
                continue;
            }
            Mode::Slow if request.target != "/healthz" => std::thread::sleep(LATE),
            Mode::Slow | Mode::Well => {}
        }
        if answer(socket, &mut reader, &request).is_none() {
            return Over::Closed;
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let target = line.split(' ').nth(1)?.to_owned();
    let mut request = Request { target, upgrade: false, length: 0, digest: 0, has_body: false };
    let (mut length, mut chunked) = (0, false);
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => (length, request.has_body) = (value.trim().parse().ok()?, true),
            "transfer-encoding" => (chunked, request.has_body) = (true, true),
            "upgrade" => request.upgrade = true,
            _ => {}
        }
    }
    let mut take = |reader: &mut BufReader<&TcpStream>, mut left: u64| {
        while left > 0 {
            let there = reader.fill_buf().ok().filter(|b| !b.is_empty())?;
            let n = there.len().min(left as usize);
            request.digest = digest(request.digest, &there[..n]);
            (request.length, left) = (request.length + n as u64, left - n as u64);
            reader.consume(n);
        }
        Some(())
    };
    if !chunked {
        take(reader, length)?;
        return Some(request);
    }
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let size = u64::from_str_radix(line.trim_end(), 16).ok()?;
        take(reader, size)?;
        line.clear();
        reader.read_line(&mut line).ok()?;
        if size == 0 {
            return Some(request);
        }
    }
}

fn answer(mut socket: &TcpStream, reader: &mut BufReader<&TcpStream>, request: &Request) -> Option<()> {
    let target = request.target.as_str();
    if request.upgrade {
        let accepted =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        socket.write_all(accepted.as_bytes()).ok()?;
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = reader.read(&mut bytes) {
            socket.write_all(&bytes[..n]).ok()?;
        }
        return None;
    }
    let number = |word: &str| target.split_once(word).and_then(|(_, n)| n.parse::<usize>().ok());
    if let Some(length) = number("/chunked/") {
        socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").ok()?;
        for piece in pattern(length).chunks(60_000) {
            write!(socket, "{:x}\r\n", piece.len()).ok()?;
            socket.write_all(piece).ok()?;
            socket.write_all(b"\r\n").ok()?;
        }
        return socket.write_all(b"0\r\n\r\n").ok();
    }
    if let Some(length) = number("/down/") {
        write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").ok()?;
        return socket.write_all(&pattern(length)).ok();
    }
    if let Some(length) = number("/trickle/") {
        write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").ok()?;
        return pattern(length).chunks(16 << 10).try_for_each(|piece| {
            std::thread::sleep(TRICKLE);
            socket.write_all(piece).ok()
        });
    }
    let body = echo(target, request.has_body.then_some((request.length, request.digest)));
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    socket.write_all((head + &body).as_bytes()).ok()
}

/// What an ordinary answer says: which request it is for, and what of its body arrived.
pub fn echo(target: &str, body: Option<(u64, u64)>) -> String {
    match body {
        None => format!("echo {target}"),
        Some((length, digest)) => format!("echo {target} {length} {digest:016x}"),
    }
}

/// Goes on with a sum in which the order of bytes counts (FNV-1a).
pub fn digest(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, b| (sum ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3).wrapping_add(1))
}

/// A body in which a missing, doubled or moved piece shows.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}
