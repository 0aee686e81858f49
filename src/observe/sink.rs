//! Lines on their way to a file or a stream, written by a thread of the sink's own.
//!
//! Whoever has a line puts it into a bounded buffer and goes on: a full disk or a reader that stopped never makes it wait.
//! What finds no room is given up and counted. A line is whole or not there; lines of one thread keep their order, those of
//! two may change places by the time that a buffer fills.
//!
//! Each thread has a buffer of its own in practice (there are a few, taken in turn), so that its lock is free. The writer
//! takes a buffer whole by putting an empty one in its place, and sleeps without being woken as long as nothing comes.

use rustix::event::{poll, PollFd, PollFlags};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How many buffers there are.
const BUFFERS: usize = 4;
/// What a pipe takes in one piece, whoever else writes to it (PIPE_BUF, pipe(7)).
const WHOLE: usize = 4096;
/// How much waits when the writer is woken before its time: little enough to be in the processor's cache still, and enough
/// that it is woken less than a hundred times a second. (With 48 KiB a line cost the same.)
const EAGER: usize = 256 << 10;
/// What an idle buffer may keep of its memory.
const IDLE: usize = 16 << 10;
/// How often it is said that lines are lost.
const COMPLAIN: Duration = Duration::from_secs(10);

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Destination::Stderr => f.write_str("stderr"),
            Destination::Stdout => f.write_str("stdout"),
            Destination::File(path) => path.display().fmt(f),
        }
    }
}

impl Destination {
    /// Opens it. It does not wait for whoever is to read a named pipe: there must be somebody.
    ///
    /// # Errors
    /// When a file cannot be made or written to.
    pub fn open(&self) -> io::Result<File> {
        match self {
            Destination::Stderr => io::stderr().as_fd().try_clone_to_owned().map(File::from),
            Destination::Stdout => io::stdout().as_fd().try_clone_to_owned().map(File::from),
            Destination::File(path) => {
                let nonblocking = OFlags::NONBLOCK.bits() as i32;
                let how = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(0o640)
                    .custom_flags(nonblocking)
                    .open(path);
                let file = how?;
                let flags = rustix::fs::fcntl_getfl(&file)?;
                rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
                Ok(file)
            }
        }
    }
}

/// How a sink does its work.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// How many bytes may wait to be written, in all.
    pub room: usize,
    /// For how long the writer gathers lines before it writes them.
    pub gather: Duration,
    /// Losses are said in the program's log; else, for that log itself, in their place.
    pub complain: bool,
}

/// What became of lines; several sinks, one after the other, may have the same.
#[derive(Debug, Default)]
pub struct Counts {
    written: AtomicU64,
    dropped: AtomicU64,
}

impl Counts {
    /// Lines written, and lines given up.
    pub fn read(&self) -> (u64, u64) {
        (self.written.load(Ordering::Relaxed), self.dropped.load(Ordering::Relaxed))
    }
}

/// A sink; what is in it is still written after it is dropped.
pub struct Sink {
    shared: Arc<Shared>,
    writer: Thread,
}

struct Shared {
    name: String,
    manner: Manner,
    buffers: [Mutex<Vec<u8>>; BUFFERS],
    counts: Arc<Counts>,
    /// The writer sleeps until it is woken.
    idle: AtomicBool,
    /// The sink is gone.
    closing: AtomicBool,
    /// Another file, to be written to from now on.
    next: Mutex<Option<File>>,
    flushes: Mutex<Flushes>,
    flushed: Condvar,
    complained: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Flushes {
    asked: u64,
    done: u64,
}

thread_local! {
    /// Which buffer this thread uses.
    static SLOT: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % BUFFERS
    };
}

impl Sink {
    /// Writes to `file`, which is called `name`, and goes on with these counts.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn new(name: String, file: File, manner: Manner, counts: Arc<Counts>) -> io::Result<Sink> {
        let shared = Arc::new(Shared {
            name,
            manner,
            buffers: Default::default(),
            counts,
            idle: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            next: Mutex::default(),
            flushes: Mutex::default(),
            flushed: Condvar::new(),
            complained: Mutex::default(),
        });
        let (theirs, out) = (Arc::clone(&shared), Out::new(file));
        let writer = thread::Builder::new().name("log".to_owned()).spawn(move || serve(&theirs, out))?;
        Ok(Sink { shared, writer: writer.thread().clone() })
    }

    /// Has `write` put a line down, with its end.
    pub fn line(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let shared = &*self.shared;
        let room = shared.manner.room / BUFFERS;
        let mut buffer = lock(&shared.buffers[SLOT.with(|slot| *slot)]);
        let before = buffer.len();
        if before >= room {
            drop(buffer);
            return self.no_room();
        }
        write(&mut buffer);
        let after = buffer.len();
        drop(buffer);
        let eager = EAGER.min(room / 2);
        let filling = before < eager && after >= eager;
        // The lock that was held orders this after the writer's last look into the buffer.
        if filling || (shared.idle.load(Ordering::Relaxed) && shared.idle.swap(false, Ordering::Relaxed)) {
            self.writer.unpark();
        }
    }

    #[cold]
    fn no_room(&self) {
        self.shared.lose(1, "it is not read, or the disk is too slow");
    }

    /// Lines written, and lines given up.
    pub fn counts(&self) -> (u64, u64) {
        self.shared.counts.read()
    }

    /// From now on writes to this file; what came before goes to the one before. Waits until that is written and no more will
    /// be, but not longer than `patience`; whether it is.
    pub fn continue_in(&self, file: File, patience: Duration) -> bool {
        *lock(&self.shared.next) = Some(file);
        self.flush(patience)
    }

    /// Waits until what is in it now is written, but not longer than `patience`; whether it is.
    pub fn flush(&self, patience: Duration) -> bool {
        let mine = {
            let mut flushes = lock(&self.shared.flushes);
            flushes.asked += 1;
            flushes.asked
        };
        self.wake();
        let flushes = lock(&self.shared.flushes);
        let waited = self.shared.flushed.wait_timeout_while(flushes, patience, |flushes| flushes.done < mine);
        waited.unwrap_or_else(PoisonError::into_inner).0.done >= mine
    }

    fn wake(&self) {
        self.shared.idle.store(false, Ordering::Relaxed);
        self.writer.unpark();
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.wake();
    }
}

impl Shared {
    fn lose(&self, lines: u64, why: &str) {
        let dropped = self.counts.dropped.fetch_add(lines, Ordering::Relaxed) + lines;
        if !self.manner.complain {
            return;
        }
        let Ok(mut last) = self.complained.try_lock() else { return };
        if last.is_none_or(|last| last.elapsed() >= COMPLAIN) {
            *last = Some(Instant::now());
            drop(last);
            log::warn!("{}: lines are lost, {dropped} so far: {why}", self.name);
        }
    }

    /// Whether there is nothing to do.
    fn is_done(&self) -> bool {
        let flushes = lock(&self.flushes);
        flushes.done == flushes.asked
            && lock(&self.next).is_none()
            && self.buffers.iter().all(|buffer| lock(buffer).is_empty())
            && !self.closing.load(Ordering::SeqCst)
    }
}

/// The writer's thread: ends when the sink is gone and all of it is written.
fn serve(shared: &Shared, mut out: Out) {
    let mut taken = Vec::new();
    loop {
        let closing = shared.closing.load(Ordering::SeqCst);
        let asked = lock(&shared.flushes).asked;
        let mut any = false;
        for buffer in &shared.buffers {
            std::mem::swap(&mut *lock(buffer), &mut taken);
            any |= !taken.is_empty();
            out.write(&taken, shared);
            taken.clear();
        }
        if let Some(next) = lock(&shared.next).take() {
            out = Out { lost: out.lost, ..Out::new(next) };
        }
        lock(&shared.flushes).done = asked;
        shared.flushed.notify_all();
        if closing {
            return;
        }
        if any {
            thread::park_timeout(shared.manner.gather);
            continue;
        }
        taken.shrink_to(IDLE);
        shared.buffers.iter().for_each(|buffer| lock(buffer).shrink_to(IDLE));
        shared.idle.store(true, Ordering::Relaxed);
        if shared.is_done() {
            thread::park();
            // The first of many, perhaps.
            thread::park_timeout(if shared.is_done() { Duration::ZERO } else { shared.manner.gather });
        }
        shared.idle.store(false, Ordering::Relaxed);
    }
}

/// What is written to.
struct Out {
    file: File,
    /// Others may write to it too, and it takes only so much in one piece: a pipe, or a stream socket (the journal's).
    is_shared: bool,
    /// The last line there has no end.
    torn: bool,
    /// Lines lost since anything was written.
    lost: u64,
}

impl Out {
    fn new(file: File) -> Out {
        let kind = file.metadata().map(|file| file.file_type());
        let is_shared = kind.is_ok_and(|kind| kind.is_fifo() || kind.is_socket());
        Out { file, is_shared, torn: false, lost: 0 }
    }

    /// Writes whole lines.
    fn write(&mut self, mut lines: &[u8], shared: &Shared) {
        while !lines.is_empty() {
            let (piece, rest) = lines.split_at(self.piece(lines));
            if let Err(e) = self.write_piece(piece, shared) {
                return shared.lose(count(lines), &e.to_string());
            }
            shared.counts.written.fetch_add(count(piece), Ordering::Relaxed);
            lines = rest;
        }
    }

    /// How much of these lines goes out together.
    fn piece(&self, lines: &[u8]) -> usize {
        if !self.is_shared || lines.len() <= WHOLE {
            return lines.len();
        }
        let end = memchr::memrchr(b'\n', &lines[..WHOLE]).or_else(|| memchr::memchr(b'\n', lines));
        end.map_or(lines.len(), |end| end + 1)
    }

    fn write_piece(&mut self, mut piece: &[u8], shared: &Shared) -> io::Result<()> {
        if std::mem::take(&mut self.torn) {
            self.torn = true; // until it has its end
            self.file.write_all(b"\n")?;
            self.torn = false;
        }
        let lost = if shared.manner.complain { 0 } else { shared.counts.read().1 };
        if lost > self.lost {
            let said = format!("{} lines of this log are lost\n", lost - self.lost);
            self.file.write_all(said.as_bytes())?;
            self.lost = lost;
        }
        while !piece.is_empty() {
            match self.file.write(piece) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.torn = piece[written - 1] != b'\n';
                    piece = &piece[written..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Whoever started the process has made it so; the reader may only be slow.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], None)?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const MANNER: Manner = Manner { room: 64 << 10, gather: Duration::from_millis(1), complain: true };

    fn sink(file: &File, manner: Manner) -> Sink {
        Sink::new("test".to_owned(), file.try_clone().unwrap(), manner, Arc::default()).unwrap()
    }

    fn put(sink: &Sink, text: &str) {
        sink.line(|out| {
            out.extend_from_slice(text.as_bytes());
            out.push(b'\n');
        });
    }

    #[test]
    fn lines_of_many_threads_arrive_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let sink = sink(file.as_file(), Manner { room: 64 << 20, ..MANNER });
        thread::scope(|scope| {
            for name in 0..8 {
                let sink = &sink;
                scope.spawn(move || (0..1_000).for_each(|n| put(sink, &format!("{name} {n}"))));
            }
        });
        assert!(sink.flush(Duration::from_secs(20)));
        let text = std::fs::read_to_string(file.path()).unwrap();
        for name in 0..8 {
            let own: Vec<_> = text.lines().filter_map(|l| l.strip_prefix(&format!("{name} "))).collect();
            assert!(own.iter().enumerate().all(|(n, line)| *line == n.to_string()), "in order");
            assert_eq!(own.len(), 1_000);
        }
        assert_eq!(sink.counts(), (8_000, 0));
    }

    #[test]
    fn what_is_in_it_is_written_after_it_is_gone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let sink = sink(file.as_file(), Manner { gather: Duration::from_secs(3600), ..MANNER });
        (0..10).for_each(|n| put(&sink, &n.to_string()));
        drop(sink);
        let until = Instant::now() + Duration::from_secs(20);
        while std::fs::read_to_string(file.path()).unwrap().lines().count() < 10 {
            assert!(Instant::now() < until);
            thread::yield_now();
        }
    }

    #[test]
    fn a_reader_that_stops_costs_lines_and_nobodys_time() {
        let (mut reader, writer) = io::pipe().unwrap();
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        let sink = sink(&writer, Manner { complain: false, ..MANNER });
        drop(writer);
        let line = "x".repeat(99);
        let (mut all, until) = (0, Instant::now() + Duration::from_secs(20));
        while all == 0 || sink.flush(Duration::from_millis(10)) {
            assert!(Instant::now() < until, "a pipe without an end");
            (0..1_000).for_each(|_| put(&sink, &line)); // 100 KB; the pipe takes 64 KiB, this thread's buffer 16
            all += 1_000;
        }
        (0..1_000).for_each(|_| put(&sink, &line));
        all += 1_000;
        let (_, dropped) = sink.counts();
        assert!(dropped > 500, "{dropped}");
        let got = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        assert!(sink.flush(Duration::from_secs(20)));
        put(&sink, "after");
        drop(sink);
        let text = got.join().unwrap();
        let whole = text.lines().filter(|l| **l == line).count() as u64;
        assert_eq!(whole + dropped, all, "each line is whole, or counted");
        let said = text.lines().filter_map(|l| l.strip_suffix(" lines of this log are lost"));
        assert_eq!(said.map(|n| n.parse::<u64>().unwrap()).sum::<u64>(), dropped);
        assert!(text.ends_with("after\n"));
    }

    /// As systemd makes standard error, and as supervisors that do not block do.
    #[test]
    fn lines_are_whole_on_a_stream_socket_that_others_write_to_and_that_does_not_block() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(ours));
        let reading = thread::spawn(move || {
            let mut text = String::new();
            let (mut theirs, mut some) = (theirs, [0; 1024]);
            loop {
                match theirs.read(&mut some).unwrap() {
                    0 => return text,
                    read => text += std::str::from_utf8(&some[..read]).unwrap(),
                }
            }
        });
        let sinks = [(); 2].map(|()| sink(&file, Manner { room: 64 << 20, ..MANNER }));
        drop(file);
        thread::scope(|scope| {
            for (name, sink) in ["a", "b"].into_iter().zip(&sinks) {
                scope.spawn(move || (0..5_000).for_each(|_| put(sink, &name.repeat(300))));
            }
        });
        assert!(sinks.iter().all(|sink| sink.flush(Duration::from_secs(20))));
        drop(sinks);
        let text = reading.join().unwrap();
        let whole = |line: &str| line == "a".repeat(300) || line == "b".repeat(300);
        assert_eq!(text.lines().filter(|line| whole(line)).count(), 10_000);
    }

    #[test]
    fn a_named_pipe_that_nobody_reads_is_an_error_not_a_wait() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let error = Destination::File(path).open().unwrap_err();
        assert!(error.to_string().contains("No such device or address"), "{error}");
    }

    #[test]
    fn it_goes_on_in_another_file() {
        let (one, two) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let sink = sink(one.as_file(), MANNER);
        put(&sink, "1");
        assert!(sink.continue_in(two.as_file().try_clone().unwrap(), Duration::from_secs(20)));
        put(&sink, "2");
        assert!(sink.flush(Duration::from_secs(20)));
        assert_eq!(std::fs::read_to_string(one.path()).unwrap(), "1\n");
        assert_eq!(std::fs::read_to_string(two.path()).unwrap(), "2\n");
    }

    #[test]
    fn a_full_disk_is_counted() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let sink = sink(&full, MANNER);
        (0..3).for_each(|_| put(&sink, "x"));
        assert!(sink.flush(Duration::from_secs(20)));
        assert_eq!(sink.counts(), (0, 3));
    }
}
