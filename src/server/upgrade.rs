//! Being replaced: starts the binary anew, hands it the listening sockets, and is content only when it says that it
//! serves. Until then, and whatever it does instead, this process serves on.
//!
//! The successor is not a child for long: the process that is started starts another and ends, so that the service
//! manager becomes its parent, which would otherwise not notice its end.

use super::hand_over::{Channel, Message, Terms, DESCRIPTORS, PROTOCOL};
use super::sockets::Passed;
use super::VERSION;
use crate::base::identity::Identity;
use log::{info, warn};
use rustix::process::{pidfd_open, pidfd_send_signal, Pid, PidfdFlags, Signal};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::Instant;

/// How a started process knows what it is: [`FORK`] or [`SERVE`]. Its standard input is the stream then.
pub const VARIABLE: &str = "PORTCULLIS_UPGRADE";
/// Starts the successor and ends.
pub const FORK: &str = "fork";
/// Is the successor.
pub const SERVE: &str = "serve";

const WHO: &str = "the successor";
/// From the start of a binary to its first word, and between words that cost it nothing.
const PROMPTLY: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// What is started in an upgrade.
#[derive(Debug, Clone)]
pub struct Launch {
    binary: PathBuf,
    /// Another file by this name is another binary.
    identity: Option<Identity>,
    file: PathBuf,
}

/// A process that serves in this one's place.
pub struct Successor {
    /// Its process id.
    pub pid: u32,
    process: Option<OwnedFd>,
    channel: Channel,
}

/// What a successor says while the old process stays.
pub enum Word {
    /// It is gone without a word.
    Gone,
    /// It asks to be relieved.
    TakeBack(String),
    /// It needs the old one no more.
    Settled,
    /// It was told to stop, so the service stops.
    Leaving,
}

impl Launch {
    /// Of the binary that this process was started from, by its path, with the same configuration file.
    ///
    /// # Errors
    /// When the path is not known.
    pub fn again(file: PathBuf) -> io::Result<Launch> {
        let binary = std::env::current_exe()?;
        // It may have been replaced already.
        let text = binary.to_string_lossy();
        let binary = text.strip_suffix(" (deleted)").map_or(binary.clone(), PathBuf::from);
        let identity = Identity::of(&binary);
        Ok(Launch { binary, identity, file })
    }

    /// Whether another binary has been put in the place of the running one.
    pub fn has_changed(&self) -> bool {
        Identity::of(&self.binary) != self.identity
    }
}

/// Starts the binary and hands over to it. `say` is told how it goes on. When this future is dropped, so is what it started.
///
/// # Errors
/// Why there is no successor; nothing of it is left then.
pub(super) async fn start(
    launch: Launch,
    sockets: Vec<Passed>,
    terms: Terms,
    patience: Duration,
    say: impl Fn(String),
) -> Result<Successor, String> {
    if std::process::id() == 1 {
        return Err(
            "this is process 1, and its container would end with it: replace the container instead".into()
        );
    }
    let (ours, theirs) = StdUnixStream::pair().map_err(|e| format!("no stream to a successor: {e}"))?;
    let mut forking = Forking(
        Command::new(&launch.binary)
            .args(["run", "--upgrade", "-c"])
            .arg(&launch.file)
            .env(VARIABLE, FORK)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .map_err(|e| format!("{} cannot be started: {e}", launch.binary.display()))?,
    );
    let channel = Channel::from_std(ours).map_err(|e| format!("no stream to a successor: {e}"))?;
    let ended = forking.end().await?;
    if !ended.success() {
        return Err(format!("{} ended at once: {ended}", launch.binary.display()));
    }
    negotiate(channel, true, sockets, terms, patience, say).await
}

/// Hands over to a successor at the other end of the stream, however it was started.
///
/// # Errors
/// Why it does not serve; it is killed then.
pub(super) async fn hand_over(
    stream: UnixStream,
    sockets: Vec<Passed>,
    terms: Terms,
    patience: Duration,
) -> Result<Successor, String> {
    negotiate(Channel::new(stream), false, sockets, terms, patience, |_| {}).await
}

/// Hands over, and tells a successor that will not get the service, lest it take the end of the stream for ours.
async fn negotiate(
    mut channel: Channel,
    forked: bool,
    sockets: Vec<Passed>,
    terms: Terms,
    patience: Duration,
    say: impl Fn(String),
) -> Result<Successor, String> {
    match converse(&mut channel, forked, sockets, terms, patience, say).await {
        Ok((pid, process)) => Ok(Successor { pid, process, channel }),
        Err(reason) => {
            let _ = channel.send(&Message::Refused { reasons: vec![reason.clone()] }, &[]).await;
            Err(reason)
        }
    }
}

async fn converse(
    channel: &mut Channel,
    forked: bool,
    sockets: Vec<Passed>,
    terms: Terms,
    patience: Duration,
    say: impl Fn(String),
) -> Result<(u32, Option<OwnedFd>), String> {
    let until = Instant::now() + patience;
    let lost = |e: io::Error| format!("the successor is gone: {e}");
    let mut doomed = Doomed { process: None, by: Signal::KILL };
    let pid = match greeting(channel, forked, &mut doomed).await? {
        Message::Hello { protocol: PROTOCOL, version, pid } => {
            say(format!("process {pid} starts, version {version}"));
            pid
        }
        Message::Hello { protocol, version, .. } => {
            return Err(format!(
                "{VERSION} and {version} hand over differently ({PROTOCOL}, {protocol}): restart"
            ));
        }
        other => return Err(format!("the successor began with {other:?}")),
    };
    doomed.take(pid);
    for some in sockets.chunks(DESCRIPTORS) {
        let names = some.iter().map(|passed| passed.name.clone()).collect();
        let held = some.iter().map(|passed| passed.held).collect();
        let descriptors: Vec<_> = some.iter().map(|passed| passed.socket.as_fd()).collect();
        channel.send(&Message::Sockets { names, held }, &descriptors).await.map_err(lost)?;
    }
    channel.send(&Message::Terms(terms), &[]).await.map_err(lost)?;
    step(channel, &Message::Ready, until.saturating_duration_since(Instant::now())).await?;
    say(format!("process {pid} is ready"));
    // From here on it has clients, which are to be let go in order if this process is told to stop now.
    doomed.by = Signal::TERM;
    channel.send(&Message::Go, &[]).await.map_err(lost)?;
    if let Err(reason) = step(channel, &Message::Serving, PROMPTLY).await {
        doomed.by = Signal::KILL;
        return Err(reason);
    }
    Ok((pid, doomed.spare()))
}

/// The successor's first word. Who started it has told its process id before that or after, but before it ended: without
/// the id a successor that is no good could not be ended.
async fn greeting(channel: &mut Channel, forked: bool, doomed: &mut Doomed) -> Result<Message, String> {
    let mut first = None;
    for _ in 0..=usize::from(forked) {
        match channel.expect(WHO, PROMPTLY).await {
            Ok((Message::Started { pid }, _)) => doomed.take(pid),
            said => first = first.or(Some(said)),
        }
    }
    first.unwrap_or_else(|| Err("the successor is started twice".to_owned())).map(|(said, _)| said)
}

/// Waits for this very message.
async fn step(channel: &mut Channel, wanted: &Message, patience: Duration) -> Result<(), String> {
    match channel.expect(WHO, patience).await? {
        (said, _) if said == *wanted => Ok(()),
        (other, _) => Err(format!("the successor said {other:?} instead of {wanted:?}")),
    }
}

impl Successor {
    /// Tells it that this process serves again.
    pub async fn relieved(&mut self) {
        let _ = self.channel.send(&Message::Relieved, &[]).await;
    }

    /// Has it stop, as by SIGTERM.
    pub fn end(&self) {
        let told = self.process.as_ref().map(|process| pidfd_send_signal(process, Signal::TERM));
        info!("process {} was told to stop: {}", self.pid, matches!(told, Some(Ok(()))));
    }

    /// Its next word. May be dropped while it waits.
    pub async fn word(&mut self) -> Word {
        loop {
            match self.channel.receive().await {
                Ok(Some((Message::TakeBack { reason }, _))) => return Word::TakeBack(reason),
                Ok(Some((Message::Leaving, _))) => return Word::Leaving,
                Ok(Some((Message::Settled, _))) => return Word::Settled,
                Ok(Some((other, _))) => warn!("process {} said {other:?}, which means nothing now", self.pid),
                Ok(None) => return Word::Gone,
                Err(e) => {
                    warn!("process {} cannot be understood: {e}", self.pid);
                    return Word::Gone;
                }
            }
        }
    }
}

/// The process that starts the successor; killed unless it ended.
struct Forking(Child);

impl Forking {
    async fn end(&mut self) -> Result<ExitStatus, String> {
        let until = Instant::now() + PROMPTLY;
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if Instant::now() < until => tokio::time::sleep(POLL).await,
                Ok(None) => return Err(format!("the new binary did not begin within {PROMPTLY:?}")),
                Err(e) => return Err(format!("the new binary cannot be waited for: {e}")),
            }
        }
    }
}

impl Drop for Forking {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// A successor that is killed unless it comes to serve.
struct Doomed {
    process: Option<(u32, OwnedFd)>,
    /// SIGKILL, until it may have clients.
    by: Signal,
}

impl Doomed {
    /// Dooms this process, unless one is already.
    fn take(&mut self, pid: u32) {
        let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let open = || Some((pid, pidfd_open(process?, PidfdFlags::empty()).ok()?));
        self.process = self.process.take().or_else(open);
    }

    fn spare(mut self) -> Option<OwnedFd> {
        self.process.take().map(|(_, process)| process)
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        if let Some((pid, process)) = &self.process {
            if pidfd_send_signal(process, self.by).is_ok() {
                info!("process {pid} was ended");
            }
        }
    }
}
