//! The fast origin of the comparison: one thread, keep-alive, bodies made once. It never asks a request to be more
//! than a GET without a body, because only load generators speak to it.
//!
//! `origin LISTEN`, such as `origin 127.0.0.1:7001`. Any path answers 1 KiB, one with `/bytes/N` in it N bytes,
//! `/stats` alone how many connections brought a request and how many requests there were.

use bytes::Bytes;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const BODY: usize = 1024;
/// A path may not ask for more: the answers are kept.
const LARGEST: usize = 64 << 20;
const LARGEST_HEAD: usize = 64 << 10;

/// What has been served; questions for the statistics do not count.
#[derive(Default)]
struct Stats {
    connections: AtomicU64,
    requests: AtomicU64,
}

/// Whole answers by the length of their body.
type Answers = Mutex<HashMap<usize, Bytes>>;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    // `cargo bench` and `cargo test` start every bench target without arguments.
    let [listen] = &arguments[..] else { return Ok(()) };
    rlimit::increase_nofile_limit(u64::MAX)?;
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(serve(listen))
}

async fn serve(listen: &str) -> io::Result<()> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(listen.parse().map_err(io::Error::other)?)?;
    let listener: TcpListener = socket.listen(8192)?;
    let (stats, answers) = (Arc::new(Stats::default()), Arc::new(Answers::default()));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (stats, answers) = (stats.clone(), answers.clone());
        tokio::spawn(async move {
            // A client that went away is the end of its connection and nobody's error here: it counts its own.
            let _ = connection(stream, &stats, &answers).await;
        });
    }
}

async fn connection(mut stream: TcpStream, stats: &Stats, answers: &Answers) -> io::Result<()> {
    let mut buffer: Vec<u8> = Vec::with_capacity(2048);
    let (mut counted, mut last) = (false, (BODY, answer(BODY, answers)));
    loop {
        while let Some(end) = memchr::memmem::find(&buffer, b"\r\n\r\n") {
            let head = &buffer[..end];
            let close = asks_to_close(head);
            let path = head.split(|b| *b == b' ').nth(1).unwrap_or_default();
            if path == b"/stats" {
                stream.write_all(&statistics(stats)).await?;
            } else {
                stats.requests.fetch_add(1, Relaxed);
                stats.connections.fetch_add(u64::from(!std::mem::replace(&mut counted, true)), Relaxed);
                let length = length(path);
                if length != last.0 {
                    last = (length, answer(length, answers));
                }
                stream.write_all(&last.1).await?;
            }
            if close {
                return stream.shutdown().await;
            }
            buffer.drain(..end + 4);
        }
        if buffer.len() > LARGEST_HEAD || stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// The head as it arrives from a proxy is short: a walk over its lines is cheaper than a parser.
fn asks_to_close(head: &[u8]) -> bool {
    head.split(|b| *b == b'\n').any(|line| {
        line.len() > 11
            && line[..11].eq_ignore_ascii_case(b"connection:")
            && line[11..].trim_ascii().eq_ignore_ascii_case(b"close")
    })
}

/// N of `/bytes/N` anywhere in a path.
fn length(path: &[u8]) -> usize {
    let Some(at) = memchr::memmem::find(path, b"/bytes/") else { return BODY };
    let digits = path[at + 7..].iter().take_while(|b| b.is_ascii_digit());
    digits.fold(0, |n: usize, d| n.saturating_mul(10) + usize::from(d - b'0')).min(LARGEST)
}

fn answer(length: usize, answers: &Answers) -> Bytes {
    let mut answers = answers.lock().expect("nothing panics while it holds the lock");
    let made =
        answers.entry(length).or_insert_with(|| whole("application/octet-stream", &vec![b'x'; length]));
    made.clone()
}

fn statistics(stats: &Stats) -> Bytes {
    let (connections, requests) = (stats.connections.load(Relaxed), stats.requests.load(Relaxed));
    whole("application/json", format!(r#"{{"connections":{connections},"requests":{requests}}}"#).as_bytes())
}

fn whole(kind: &str, body: &[u8]) -> Bytes {
    let mut all =
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
    all.reserve_exact(body.len());
    let mut all = all.into_bytes();
    all.extend_from_slice(body);
    all.into()
}
