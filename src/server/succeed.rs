//! Replacing a running process: takes its sockets over, and serves only when it is told to go.
//!
//! Everything that can fail fails before that, with the reason told to the predecessor, which serves on. While the
//! predecessor stays, this process watches how often it must answer with a 5xx of its own, and asks to be relieved when
//! that is far more often than it was before.

use super::hand_over::{Channel, Message, Terms, PROTOCOL};
use super::sockets::{Inherited, Passed};
use super::{systemd, upgrade, VERSION};
use crate::observe::stats::Totals;
use crate::observe::status::Event;
use log::warn;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Command;
use std::time::Duration;
use tokio::time::Instant;

/// For words that cost the predecessor nothing.
const PROMPTLY: Duration = Duration::from_secs(10);
/// What takes over again: this many answers of 5xx that the gateway made itself ...
const FAULTS: u64 = 20;
/// ... that are this share of all answers, and this many times the share that the predecessor had.
const SHARE: f64 = 0.2;
const TIMES: f64 = 3.0;

/// The process whose sockets these are.
pub struct Predecessor {
    stream: StdUnixStream,
    /// What it has told of itself.
    pub terms: Terms,
}

/// Is this process to start the successor only? Then it does, and the exit code is returned.
pub fn fork() -> Option<Result<(), String>> {
    (std::env::var(upgrade::VARIABLE).as_deref() == Ok(upgrade::FORK)).then(start_successor)
}

fn start_successor() -> Result<(), String> {
    let binary = std::env::current_exe().map_err(|e| format!("which binary is this? {e}"))?;
    let stream = stdin().map_err(|e| format!("no stream to the predecessor: {e}"))?;
    let theirs = stream.try_clone().map_err(|e| format!("no stream to the predecessor: {e}"))?;
    let successor = Command::new(binary)
        .args(std::env::args_os().skip(1))
        .env(upgrade::VARIABLE, upgrade::SERVE)
        .stdin(std::os::fd::OwnedFd::from(theirs))
        .spawn()
        .map_err(|e| format!("the successor cannot be started: {e}"))?;
    tell(&stream, &Message::Started { pid: successor.id() })
        .map_err(|e| format!("the predecessor is gone: {e}"))
}

/// The stream to the predecessor that started this process, if one did.
pub fn stream() -> io::Result<Option<StdUnixStream>> {
    if std::env::var(upgrade::VARIABLE).as_deref() != Ok(upgrade::SERVE) {
        return Ok(None);
    }
    let stream = stdin()?;
    // The predecessor must see the end of this process, and this process's own successors must not have its input.
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    std::env::remove_var(upgrade::VARIABLE);
    Ok(Some(stream))
}

/// Standard input as what it is here.
fn stdin() -> io::Result<StdUnixStream> {
    Ok(StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

fn tell(mut stream: &StdUnixStream, message: &Message) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.set_nonblocking(false)?;
    stream.write_all(&line)
}

/// Says that this process will not serve, and why.
pub fn refuse(stream: &StdUnixStream, reasons: Vec<String>) {
    let _ = tell(stream, &Message::Refused { reasons });
}

/// Introduces itself to the predecessor, and is given its sockets.
///
/// # Errors
/// Why there are none.
pub fn meet(stream: StdUnixStream) -> Result<(Predecessor, Inherited), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("no runtime: {e}"))?;
    runtime.block_on(async {
        let lost = |e: io::Error| format!("the predecessor is gone: {e}");
        let mut channel = Channel::from_std(stream).map_err(lost)?;
        let hello =
            Message::Hello { protocol: PROTOCOL, version: VERSION.to_owned(), pid: std::process::id() };
        channel.send(&hello, &[]).await.map_err(lost)?;
        // Descriptors of several messages may come together, but in their order.
        let (mut known, mut descriptors) = (Vec::new(), Vec::new());
        loop {
            let (message, passed) = channel.expect("the predecessor", PROMPTLY).await?;
            descriptors.extend(passed);
            match message {
                Message::Sockets { names, held } => known.extend(names.into_iter().zip(held)),
                Message::Terms(_) if known.len() != descriptors.len() => {
                    return Err("the predecessor's sockets and their names do not match".to_owned());
                }
                Message::Terms(terms) => {
                    let sockets = known.into_iter().zip(descriptors);
                    let sockets = sockets.map(|((name, held), socket)| Passed { name, held, socket });
                    let inherited = Inherited::from_predecessor(sockets)
                        .map_err(|e| format!("the predecessor's sockets are of no use: {e}"))?;
                    let stream = channel.into_std().map_err(lost)?;
                    return Ok((Predecessor { stream, terms }, inherited));
                }
                other => return Err(format!("the predecessor said {other:?}")),
            }
        }
    })
}

impl Predecessor {
    /// Says that this process will not serve, and why.
    pub fn refuse(self, reasons: Vec<String>) {
        refuse(&self.stream, reasons);
    }

    /// Waits to be told to go. A predecessor that is gone by now is nobody to wait for, and somebody has to serve: the
    /// service manager's next process if there is a manager, else this one.
    pub(super) async fn await_go(self) -> Result<Staying, String> {
        let lost = |e: io::Error| format!("the predecessor's stream cannot be used: {e}");
        let mut channel = Channel::from_std(self.stream).map_err(lost)?;
        // What cannot be told will not be answered either, unless it was refused before.
        let _ = channel.send(&Message::Ready, &[]).await;
        match tokio::time::timeout(PROMPTLY, channel.receive()).await {
            Ok(Ok(Some((Message::Go, _)))) => {}
            Ok(Ok(Some((Message::Refused { reasons }, _)))) => return Err(reasons.join("\n")),
            Ok(Ok(Some((other, _)))) => return Err(format!("the predecessor said {other:?}")),
            Ok(Ok(None)) if systemd::present() => {
                return Err(format!("process {} is gone before it said go", self.terms.pid));
            }
            Ok(Ok(None)) => warn!("process {} is gone before it said go", self.terms.pid),
            Ok(Err(e)) => return Err(format!("the predecessor cannot be understood: {e}")),
            Err(_) => return Err(format!("the predecessor did not say go within {PROMPTLY:?}")),
        }
        Ok(Staying { channel, terms: self.terms, since: Instant::now(), part: Part::Ready })
    }
}

/// A predecessor after the hand-over.
pub(super) struct Staying {
    channel: Channel,
    terms: Terms,
    since: Instant,
    part: Part,
}

/// What a predecessor can still do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Take over again.
    Ready,
    /// It has been asked to.
    Asked,
    /// Finish its requests.
    Over,
}

/// What a predecessor says after the hand-over.
pub(super) enum Heard {
    /// It is gone.
    Gone,
    /// It serves again.
    Relieved,
}

impl Staying {
    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.terms.pid
    }

    /// What was done to it and to those before it.
    pub(super) fn history(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.terms.history)
    }

    /// Tells it something; whether it is there to hear does not matter.
    pub(super) async fn tell(&mut self, message: Message) {
        let _ = self.channel.send(&message, &[]).await;
    }

    /// The service needs it no more.
    pub(super) async fn settle(&mut self) {
        self.part = Part::Over;
        self.tell(Message::Settled).await;
    }

    /// The service is told to stop.
    pub(super) async fn tell_leaving(&mut self) {
        self.part = Part::Over;
        self.tell(Message::Leaving).await;
    }

    /// Asks it to take over again; it says when it has.
    pub(super) async fn ask_back(&mut self, reason: String) {
        self.part = Part::Asked;
        self.tell(Message::TakeBack { reason }).await;
    }

    /// Whether it has been asked to take over again.
    pub(super) fn is_asked(&self) -> bool {
        self.part == Part::Asked
    }

    /// Whether it would, were it needed.
    pub(super) fn can_take_over(&self) -> bool {
        self.part != Part::Over && self.since.elapsed() < Duration::from_millis(self.terms.window_ms)
    }

    /// What it says next. May be dropped while it waits.
    pub(super) async fn hear(&mut self) -> Heard {
        loop {
            match self.channel.receive().await {
                Ok(Some((Message::Relieved, _))) => return Heard::Relieved,
                Ok(Some((other, _))) => {
                    warn!("process {} said {other:?}, which means nothing now", self.terms.pid);
                }
                Ok(None) | Err(_) => return Heard::Gone,
            }
        }
    }

    /// Returns when it is gone. May be dropped while it waits.
    pub(super) async fn gone(&mut self) {
        while !matches!(self.hear().await, Heard::Gone) {}
    }

    /// Why it should take over again, if it should and still can.
    pub(super) fn regrets(&self, totals: &Totals) -> Option<String> {
        if self.is_asked() || !self.can_take_over() {
            return None;
        }
        let (requests, faults) = totals.so_far();
        let share = faults as f64 / requests.max(1) as f64;
        let bad = faults >= FAULTS && share >= SHARE && share >= TIMES * self.terms.fault_share;
        bad.then(|| {
            let percent = |share: f64| 100.0 * share;
            format!(
                "{faults} of {requests} requests had to be answered with a 5xx of the gateway's own: {:.0}%, and {:.0}% before",
                percent(share),
                percent(self.terms.fault_share)
            )
        })
    }
}
