//! What a process and its successor say to each other: messages over a Unix stream, listening sockets beside them.
//!
//! ```text
//! old process                                   successor
//!   |  <-- Started: its process id ----------------|   by who started it
//!   |  <-- Hello: version, protocol ---------------|
//!   |  --- Sockets: names (and descriptors) ------>|   once, or more often when there are hundreds; which of them the
//!   |                                              |   service manager holds itself, so that they cannot be bound anew
//!   |  --- Terms: how long the old one stays ----->|
//!   |                                              |   binds what is new, starts, checks upstreams, asks itself
//!   |  <-- Ready ----------------------------------|   nothing accepted yet: until here it may die without harm
//!   |  --- Go ------------------------------------>|   accepts, tells the service manager
//!   |  <-- Serving --------------------------------|
//!   |  drains, keeps the sockets for a while       |
//!   |  <-- TakeBack | Leaving | Settled | (end) ---|
//!   |  --- Relieved ------------------------------>|   after TakeBack, once it serves again
//! ```
//!
//! Instead of any message either side may say `Refused`, with its reason. The end of the stream is a message too: that
//! the other process is gone. It speaks to the same binary of another version only, and refuses another protocol.

use crate::observe::status::Event;
use crate::tls::ticket::Secret;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Of these messages. A change that the other side cannot read has another number.
pub const PROTOCOL: u32 = 1;
/// Descriptors in one message; the system's limit is 253.
pub const DESCRIPTORS: usize = 128;
/// A message is a line of at most this.
const LONGEST: usize = 256 << 10;

/// See the drawing above.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // the fields are what the drawing says
pub enum Message {
    Started { pid: u32 },
    Hello { protocol: u32, version: String, pid: u32 },
    Sockets { names: Vec<String>, held: Vec<bool> },
    Terms(Terms),
    Ready,
    Go,
    Serving,
    Leaving,
    Settled,
    TakeBack { reason: String },
    Relieved,
    Refused { reasons: Vec<String> },
}

/// What the successor must know of the process before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// Its process id.
    pub pid: u32,
    /// Which snapshot it serves; the successor counts on from there.
    pub generation: u64,
    /// For how long it stays to take over again, in milliseconds.
    pub window_ms: u64,
    /// Which share of its requests it had to answer with a 5xx of its own.
    pub fault_share: f64,
    /// What was done to it and to those before it, newest first.
    #[serde(default)]
    pub history: Vec<Event>,
    /// What seals its clients' TLS sessions, so that they go on.
    #[serde(default)]
    pub tickets: Vec<Secret>,
}

/// One end of the stream.
pub struct Channel {
    stream: UnixStream,
    /// Received and not yet a whole message.
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Channel {
    /// Over a stream of this runtime.
    pub fn new(stream: UnixStream) -> Self {
        Channel { stream, bytes: Vec::new(), descriptors: Vec::new() }
    }

    /// Over a stream of no runtime yet.
    ///
    /// # Errors
    /// When the system does not let it be used so.
    pub fn from_std(stream: StdUnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self::new(UnixStream::from_std(stream)?))
    }

    /// Out of its runtime, to go on in another. What was received is dropped: only between messages.
    ///
    /// # Errors
    /// When the system does not let it.
    pub fn into_std(self) -> io::Result<StdUnixStream> {
        self.stream.into_std()
    }

    /// Sends a message with descriptors, at most [`DESCRIPTORS`].
    ///
    /// # Errors
    /// When the other side is gone.
    pub async fn send(&mut self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let mut rest = &line[..];
        while !rest.is_empty() {
            // With the first bytes only.
            let with: &[BorrowedFd<'_>] = if rest.len() == line.len() { descriptors } else { &[] };
            let stream = &self.stream;
            let send = || send_some(stream.as_fd(), rest, with);
            let sent = stream.async_io(Interest::WRITABLE, send).await?;
            rest = &rest[sent..];
        }
        Ok(())
    }

    /// The next message, with all descriptors that have come until then; `None` when the other side is gone. May be
    /// dropped while it waits.
    ///
    /// # Errors
    /// When what comes is no message.
    pub async fn receive(&mut self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.bytes) {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                let message = serde_json::from_slice(&line)?;
                return Ok(Some((message, std::mem::take(&mut self.descriptors))));
            }
            if self.bytes.len() > LONGEST {
                return Err(io::Error::other("an endless message"));
            }
            let Channel { stream, bytes, descriptors } = self;
            let receive = || receive_some(stream.as_fd(), bytes, descriptors);
            match stream.async_io(Interest::READABLE, receive).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }

    /// The next message, which must come soon and must not be a refusal.
    ///
    /// # Errors
    /// Why there is none, as a sentence about `who`.
    pub async fn expect(&mut self, who: &str, patience: Duration) -> Result<(Message, Vec<OwnedFd>), String> {
        match tokio::time::timeout(patience, self.receive()).await {
            Ok(Ok(Some((Message::Refused { reasons }, _)))) => Err(reasons.join("\n")),
            Ok(Ok(Some(message))) => Ok(message),
            Ok(Ok(None)) => Err(format!("{who} ended; its log says why")),
            Ok(Err(e)) => Err(format!("{who} cannot be understood: {e}")),
            Err(_) => Err(format!("{who} said nothing within {patience:?}")),
        }
    }
}

fn send_some(to: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    Ok(rustix::net::sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

fn receive_some(
    from: BorrowedFd<'_>,
    bytes: &mut Vec<u8>,
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [0; 4096];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(from, &mut [IoSliceMut::new(&mut buffer)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    bytes.extend_from_slice(&buffer[..received.bytes]);
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn messages_arrive_whole_with_their_descriptors() {
        runtime().block_on(async {
            let (a, b) = UnixStream::pair().unwrap();
            let (mut a, mut b) = (Channel::new(a), Channel::new(b));
            let sockets: Vec<_> =
                (0..DESCRIPTORS).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
            let addresses: Vec<_> = sockets.iter().map(|s| s.local_addr().unwrap()).collect();
            let names: Vec<String> = (0..DESCRIPTORS).map(|i| format!("{i:0>200}")).collect();
            let message = Message::Sockets { names, held: vec![false; DESCRIPTORS] };
            let all: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
            let (sent, received) = tokio::join!(a.send(&message, &all), b.receive());
            sent.unwrap();
            let (received, passed) = received.unwrap().unwrap();
            assert_eq!(received, message);
            let passed = passed.into_iter().map(std::net::TcpListener::from);
            assert_eq!(passed.map(|s| s.local_addr().unwrap()).collect::<Vec<_>>(), addresses);
            drop(a);
            assert!(b.receive().await.unwrap().is_none());
        });
    }

    /// An upgrade must not fail for what happened before it.
    #[test]
    fn the_longest_history_fits_into_a_message() {
        let journal = crate::observe::journal::Journal::default();
        (0..100).for_each(|_| journal.event("reload", false, "\u{1}".repeat(1 << 16)));
        let history = journal.to_hand_over();
        let terms = Terms {
            pid: u32::MAX,
            generation: u64::MAX,
            window_ms: u64::MAX,
            fault_share: 0.1,
            history,
            tickets: vec![],
        };
        let length = serde_json::to_vec(&Message::Terms(terms)).unwrap().len();
        assert!((200 << 10..LONGEST).contains(&length), "{length}");
    }

    #[test]
    fn nonsense_and_silence_are_errors() {
        runtime().block_on(async {
            let (mut a, b) = StdUnixStream::pair().unwrap();
            let mut b = Channel::from_std(b).unwrap();
            a.write_all(b"{\"Hello\": 1}\n").unwrap();
            assert!(b
                .expect("it", Duration::from_secs(10))
                .await
                .unwrap_err()
                .contains("cannot be understood"));
            let silent = b.expect("it", Duration::from_millis(1)).await.unwrap_err();
            assert!(silent.contains("said nothing"), "{silent}");
            a.write_all(b"{\"Refused\":{\"reasons\":[\"no\"]}}\n").unwrap();
            assert_eq!(b.expect("it", Duration::from_secs(10)).await.unwrap_err(), "no");
        });
    }
}
