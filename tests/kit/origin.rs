//! Origins: real servers that record exactly what they received and do exactly what a test says.

use super::{until, wait_for};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// The head, byte for byte, without the empty line.
    pub head: String,
    /// The same where bytes that are no UTF-8 matter.
    pub raw_head: Vec<u8>,
    /// The body, chunk framing removed.
    pub body: Vec<u8>,
    /// The body as it came on the wire.
    pub raw_body: Vec<u8>,
    /// Which connection it came on, counted from 1.
    pub connection: usize,
    /// The body arrived whole.
    pub complete: bool,
}

impl Received {
    /// The request line.
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// The method.
    pub fn method(&self) -> &str {
        self.line().split(' ').next().unwrap_or_default()
    }

    /// The request target.
    pub fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    /// All values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        super::values(&self.head, name)
    }

    /// The only value of a field; more than one fails the test.
    pub fn field(&self, name: &str) -> Option<&str> {
        super::only_value(&self.head, name)
    }
}

/// What an origin does on a connection, one after the other.
#[derive(Debug, Clone)]
pub enum Step {
    /// Writes bytes.
    Send(Vec<u8>),
    /// Waits until the test calls [`Origin::release`], or the connection or origin ends.
    Hold,
    /// Reads the request's body to its end; after [`Origin::on_head`] only, where it is not read yet.
    Body,
    /// Pauses, to be slow on purpose.
    Pause(Duration),
    /// Closes with a reset.
    Reset,
    /// Closes in order.
    Close,
}

/// A usual answer with this status and body.
pub fn reply(status: u16, body: &str) -> Vec<Step> {
    vec![Step::Send(
        format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes(),
    )]
}

/// These bytes and then nothing; the connection stays open.
pub fn raw(bytes: impl AsRef<[u8]>) -> Vec<Step> {
    vec![Step::Send(bytes.as_ref().to_vec())]
}

/// An address that takes connections and never answers, as long as the socket lives: a check of it lasts until its timeout.
pub fn silent() -> (std::net::TcpListener, SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address that refuses every connection for as long as the socket lives: bound, so that nobody else gets the
/// port, and never listening.
pub fn refusing() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

type Behaviour = dyn Fn(&Received) -> Vec<Step> + Send + Sync;

/// When the behaviour is asked: after the whole request, or as soon as the head is there.
#[derive(Clone, Copy, PartialEq)]
enum When {
    Whole,
    Head,
}

/// An origin; ends when dropped.
pub struct Origin {
    /// Where it listens, also after [`Origin::stop`].
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    behaviour: Box<Behaviour>,
    when: When,
    received: Mutex<Vec<Received>>,
    connections: AtomicUsize,
    open: Mutex<HashMap<usize, TcpStream>>,
    stopping: AtomicBool,
    released: AtomicBool,
}

impl Origin {
    /// Answers each whole request as `behaviour` says. After its steps the connection is kept for the next request.
    pub fn start(behaviour: impl Fn(&Received) -> Vec<Step> + Send + Sync + 'static) -> Origin {
        Origin::with(Box::new(behaviour), When::Whole)
    }

    /// Asks `behaviour` as soon as the head has come, before any of the body is read.
    pub fn on_head(behaviour: impl Fn(&Received) -> Vec<Step> + Send + Sync + 'static) -> Origin {
        Origin::with(Box::new(behaviour), When::Head)
    }

    /// Answers 200 with this body.
    pub fn text(body: &str) -> Origin {
        let body = body.to_owned();
        Origin::start(move |_| reply(200, &body))
    }

    /// Answers 200 with this body, on an address of the test's choice.
    pub fn text_at(address: SocketAddr, body: &str) -> Origin {
        let body = body.to_owned();
        Origin::bound(TcpListener::bind(address).unwrap(), Box::new(move |_| reply(200, &body)), When::Whole)
    }

    fn with(behaviour: Box<Behaviour>, when: When) -> Origin {
        Origin::bound(TcpListener::bind("127.0.0.1:0").unwrap(), behaviour, when)
    }

    fn bound(listener: TcpListener, behaviour: Box<Behaviour>, when: When) -> Origin {
        let shared = Arc::new(Shared {
            behaviour,
            when,
            received: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: Mutex::default(),
            stopping: AtomicBool::new(false),
            released: AtomicBool::new(false),
        });
        let address = listener.local_addr().unwrap();
        let accepting = Mutex::new(Some(accept(listener, Arc::clone(&shared))));
        Origin { address, shared, accepting }
    }

    /// `host:port` for a configuration.
    pub fn target(&self) -> String {
        self.address.to_string()
    }

    /// `http://host:port` for a configuration.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What has arrived so far.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// Waits for the first request and returns it.
    pub fn first(&self) -> Received {
        wait_for("a request at the origin", || self.received().into_iter().next())
    }

    /// The last request, of which there must be one.
    pub fn last(&self) -> Received {
        self.received().pop().expect("a request at the origin")
    }

    /// Waits until `count` requests have arrived.
    pub fn wait_count(&self, count: usize) {
        until(&format!("{count} requests at the origin"), || {
            self.shared.received.lock().unwrap().len() >= count
        });
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }

    /// Lets every [`Step::Hold`] go on, now and later.
    pub fn release(&self) {
        self.shared.released.store(true, Ordering::SeqCst);
    }

    /// Goes down: the listener closes, every connection is cut.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the accept
        if let Some(accepting) = self.accepting.lock().unwrap().take() {
            accepting.join().unwrap();
        }
        self.cut();
    }

    /// Cuts every open connection but goes on listening.
    pub fn cut(&self) {
        for (_, open) in self.shared.open.lock().unwrap().drain() {
            let _ = open.shutdown(Shutdown::Both);
        }
    }

    /// Comes back on the same port.
    pub fn restart(&self) {
        self.shared.stopping.store(false, Ordering::SeqCst);
        let listener = wait_for("the origin's port is free again", || TcpListener::bind(self.address).ok());
        *self.accepting.lock().unwrap() = Some(accept(listener, Arc::clone(&self.shared)));
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.release();
        self.stop();
    }
}

fn accept(listener: TcpListener, shared: Arc<Shared>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            if shared.stopping.load(Ordering::SeqCst) {
                return;
            }
            let Ok(socket) = socket else { continue };
            let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
            shared.open.lock().unwrap().insert(number, socket.try_clone().unwrap());
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                serve(&mut { socket }, number, &shared);
                shared.open.lock().unwrap().remove(&number);
            });
        }
    })
}

fn serve(socket: &mut TcpStream, connection: usize, shared: &Shared) {
    let _ = socket.set_nodelay(true);
    let mut buffer = Vec::new();
    while let Some(raw_head) = read_head(socket, &mut buffer) {
        let mut request = Received {
            head: String::from_utf8_lossy(&raw_head).into_owned(),
            raw_head,
            body: Vec::new(),
            raw_body: Vec::new(),
            connection,
            complete: false,
        };
        if shared.when == When::Head {
            shared.received.lock().unwrap().push(request.clone());
            let steps = (shared.behaviour)(&request);
            let whole = steps.iter().position(|s| matches!(s, Step::Body));
            let (before, after) = steps.split_at(whole.unwrap_or(steps.len()));
            if !perform(socket, connection, before.to_vec(), shared) {
                return;
            }
            read_body(socket, &mut buffer, &mut request);
            if let Some(noted) =
                shared.received.lock().unwrap().iter_mut().rev().find(|r| r.connection == connection)
            {
                *noted = request.clone();
            }
            if !request.complete || !perform(socket, connection, after.to_vec(), shared) {
                return;
            }
        } else {
            read_body(socket, &mut buffer, &mut request);
            shared.received.lock().unwrap().push(request.clone());
            if !request.complete || !perform(socket, connection, (shared.behaviour)(&request), shared) {
                return;
            }
        }
    }
}

/// Carries the steps out; false when the connection is over.
fn perform(socket: &mut TcpStream, connection: usize, steps: Vec<Step>, shared: &Shared) -> bool {
    for step in steps {
        match step {
            Step::Send(bytes) => {
                if socket.write_all(&bytes).is_err() {
                    return false;
                }
            }
            Step::Hold => {
                while !shared.released.load(Ordering::SeqCst) && !shared.stopping.load(Ordering::SeqCst) {
                    if has_ended(socket) {
                        return false;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Step::Body => {} // `serve` has read it between the steps
            Step::Pause(time) => std::thread::sleep(time),
            Step::Reset => {
                // With no linger time and no clone left, the close that follows sends a reset.
                shared.open.lock().unwrap().remove(&connection);
                socket2::SockRef::from(&*socket).set_linger(Some(Duration::ZERO)).unwrap();
                return false;
            }
            Step::Close => {
                let _ = socket.shutdown(Shutdown::Both);
                return false;
            }
        }
    }
    true
}

/// Whether the other side has closed and left nothing to read.
fn has_ended(socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    let peeked = socket.peek(&mut [0]);
    socket.set_nonblocking(false).unwrap();
    !matches!(peeked, Ok(1..)) && !matches!(&peeked, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
}

fn read_head(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = buffer[..end].to_vec();
            buffer.drain(..end + 4);
            return Some(head);
        }
        fill(socket, buffer)?;
    }
}

fn read_body(socket: &mut TcpStream, buffer: &mut Vec<u8>, request: &mut Received) {
    if let Some(length) = request.field("content-length").and_then(|l| l.parse::<usize>().ok()) {
        while buffer.len() < length && fill(socket, buffer).is_some() {}
        let there = buffer.len().min(length);
        request.body = buffer.drain(..there).collect();
        request.raw_body.clone_from(&request.body);
        request.complete = there == length;
    } else if request.field("transfer-encoding").is_some() {
        request.complete = read_chunks(socket, buffer, request).is_some();
    } else {
        request.complete = true;
    }
}

fn read_chunks(socket: &mut TcpStream, buffer: &mut Vec<u8>, request: &mut Received) -> Option<()> {
    loop {
        let line = read_line(socket, buffer, request)?;
        let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            while !read_line(socket, buffer, request)?.is_empty() {}
            return Some(());
        }
        while buffer.len() < size + 2 {
            fill(socket, buffer)?;
        }
        request.body.extend_from_slice(&buffer[..size]);
        request.raw_body.extend(buffer.drain(..size + 2));
    }
}

fn read_line(socket: &mut TcpStream, buffer: &mut Vec<u8>, request: &mut Received) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(2).position(|w| w == b"\r\n") {
            let line = String::from_utf8_lossy(&buffer[..end]).into_owned();
            request.raw_body.extend(buffer.drain(..end + 2));
            return Some(line);
        }
        fill(socket, buffer)?;
    }
}

fn fill(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<usize> {
    let mut chunk = [0; 65_536];
    let n = socket.read(&mut chunk).ok().filter(|n| *n > 0)?;
    buffer.extend_from_slice(&chunk[..n]);
    Some(n)
}
