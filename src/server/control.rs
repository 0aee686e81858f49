//! The control socket: commands to a running gateway, one JSON line each, and its answers, a line each.
//!
//! Only the gateway's own user and root are heard, whatever the file's mode (0600) says. It carries commands and answers
//! and decides nothing: `life` does. The socket belongs to the process that serves; a successor puts its own in the
//! place of the file.

pub use crate::observe::status::Status;
use log::{debug, warn};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Where it is unless the configuration or the service manager says otherwise.
pub const USUAL: &str = "/run/portcullis/control.sock";
/// A command is a short line, and sent at once.
const LONGEST: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(5);

/// What can be asked of a running gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Read the configuration again.
    Reload,
    /// Put a new process in its place.
    Upgrade,
    /// The one that is needed for what has changed: the binary, or what needs a new process, or the rest.
    ReloadOrUpgrade,
    /// How it is.
    Status,
    /// Take no connections and end those that are there, and stay.
    Drain,
    /// Take connections again.
    Undrain,
    /// This stream is a successor's, which was started by somebody else.
    HandOver,
}

/// An answer; the last one is not `Say`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// How it goes on.
    Say(String),
    /// It is done.
    Done(String),
    /// How the gateway is.
    Status(Box<Status>),
    /// It was not done, and why.
    Failed(Vec<String>),
}

/// A command, and who waits for its answer.
pub(super) struct Asked {
    pub(super) command: Command,
    pub(super) reply: Reply,
    /// Of [`Command::HandOver`].
    pub(super) stream: Option<UnixStream>,
}

/// Answers a command. That nobody waits any more is no failure.
#[derive(Clone)]
pub(super) struct Reply(Option<mpsc::UnboundedSender<Answer>>);

impl Reply {
    /// For a command that nobody waits for.
    pub(super) fn nobody() -> Reply {
        Reply(None)
    }

    pub(super) fn say(&self, text: impl Into<String>) {
        self.send(Answer::Say(text.into()));
    }

    pub(super) fn done(&self, text: impl Into<String>) {
        self.send(Answer::Done(text.into()));
    }

    pub(super) fn failed(&self, reasons: Vec<String>) {
        self.send(Answer::Failed(reasons));
    }

    pub(super) fn send(&self, answer: Answer) {
        if let Some(to) = &self.0 {
            let _ = to.send(answer);
        }
    }
}

/// The socket of this process; closed when dropped, its file left to whoever has it by then.
pub(super) struct Control(JoinHandle<()>);

impl Drop for Control {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whether a gateway answers there.
pub fn is_taken(path: &Path) -> bool {
    StdUnixStream::connect(path).is_ok()
}

/// Whether a socket can be made at `path`, for a start that is to fail early.
///
/// # Errors
/// Why not.
pub fn check(path: &Path) -> Result<(), String> {
    let beside = beside(path);
    let made = std::os::unix::net::UnixListener::bind(&beside);
    let _ = std::fs::remove_file(&beside);
    made.map(drop).map_err(|e| format!("cannot take commands at {}: {e}", path.display()))
}

/// Takes commands at `path`, in place of whoever did before.
///
/// # Errors
/// When the path cannot be used.
pub(super) fn listen(path: &Path, to: mpsc::Sender<Asked>) -> io::Result<Control> {
    // Beside it and then in its place: at no moment is there a socket with other rights, or none.
    let beside = beside(path);
    let _ = std::fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside)?;
    let ready = std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&beside, path));
    if let Err(e) = ready {
        let _ = std::fs::remove_file(&beside);
        return Err(e);
    }
    Ok(Control(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(take_command(stream, to.clone()))),
                Err(e) => {
                    warn!("control socket: cannot accept: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    })))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    path.with_file_name(name)
}

async fn take_command(mut stream: UnixStream, to: mpsc::Sender<Asked>) {
    let own = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == own || peer.uid() == 0 => {}
        Ok(peer) => {
            warn!("control socket: user {} is not heard", peer.uid());
            return;
        }
        Err(e) => {
            warn!("control socket: who asks? {e}");
            return;
        }
    }
    let command = match tokio::time::timeout(PATIENCE, read_command(&mut stream)).await {
        Ok(Ok(command)) => command,
        Ok(Err(e)) => {
            debug!("control socket: {e}");
            let failed =
                Answer::Failed(vec![format!("no command of this version ({}): {e}", super::VERSION)]);
            let _ = write_answer(&mut stream, &failed).await;
            return;
        }
        Err(_) => return,
    };
    let (answers, mut answered) = mpsc::unbounded_channel();
    let reply = Reply(Some(answers));
    if command == Command::HandOver {
        let _ = to.send(Asked { command, reply: Reply::nobody(), stream: Some(stream) }).await;
        return;
    }
    if to.send(Asked { command, reply, stream: None }).await.is_err() {
        return;
    }
    while let Some(answer) = answered.recv().await {
        if write_answer(&mut stream, &answer).await.is_err() {
            return;
        }
    }
}

/// One line and no byte more, for what follows may be a successor's.
async fn read_command(stream: &mut UnixStream) -> io::Result<Command> {
    let mut line = Vec::new();
    while line.len() < LONGEST {
        match stream.read_u8().await? {
            b'\n' => return Ok(serde_json::from_slice(&line)?),
            byte => line.push(byte),
        }
    }
    Err(io::Error::other("the line is too long"))
}

async fn write_answer(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

/// Asks the gateway at `path`; `say` is told how it goes on. Returns the last answer.
///
/// # Errors
/// Why there is none.
pub fn ask(path: &Path, command: Command, mut say: impl FnMut(&str)) -> Result<Answer, String> {
    let stream = connect(path, command)?;
    let lost = |e: io::Error| match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("the gateway at {} does not answer", path.display())
        }
        _ => format!("the gateway at {} is gone: {e}", path.display()),
    };
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line.map_err(lost)?) {
            Ok(Answer::Say(text)) => say(&text),
            Ok(last) => return Ok(last),
            Err(e) => return Err(format!("the gateway at {} cannot be understood: {e}", path.display())),
        }
    }
    Err(format!("the gateway at {} ended before it answered; its log says why", path.display()))
}

/// Sends a command; the stream is for what follows.
///
/// # Errors
/// Why it cannot be sent.
pub fn connect(path: &Path, command: Command) -> Result<StdUnixStream, String> {
    let mut stream = StdUnixStream::connect(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!(
                "no gateway takes commands at {}: is it running, with this `control: {{socket: …}}`?",
                path.display()
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!("not permitted to speak to {}: it hears the gateway's own user and root", path.display())
        }
        _ => format!("{}: {e}", path.display()),
    })?;
    if command == Command::Status {
        // Everything else may take as long as it takes.
        let _ = stream.set_read_timeout(Some(PATIENCE));
    }
    let mut line = serde_json::to_vec(&command).map_err(|e| e.to_string())?;
    line.push(b'\n');
    stream.write_all(&line).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(stream)
}

/// Where a gateway of this configuration takes commands, if anywhere: where it says, else in the folder that the service
/// manager made for it.
pub fn place(configured: Option<&Path>) -> Option<PathBuf> {
    let given = || {
        let folders = std::env::var("RUNTIME_DIRECTORY").ok().filter(|folders| !folders.is_empty())?;
        Some(Path::new(folders.split(':').next()?).join("control.sock"))
    };
    configured.map(Path::to_owned).or_else(given)
}
