//! The life of the process: what it does about signals, commands, its successor and its predecessor. One task, one event
//! at a time; what takes long runs beside it.
//!
//! ```text
//!               Drain            Undrain
//!            +--------> drained --------+
//!            |                          |
//! start -> serving <--------------------+---- successor gone, or regrets
//!            |                                        |
//!            +--- successor serves --> handed over ---+
//!            |                             |
//!            |        window over, settled, leaving
//!            |                             |
//!            +-- SIGTERM, relieved ------> leaving: at most the grace period --> end
//! ```
//!
//! `replace` has what concerns successor and predecessor, `leave` how clients are let go. A second SIGTERM ends everything at
//! once, in every state.

mod leave;
mod replace;

use super::control::{self, Answer, Asked, Command, Control, Reply};
use super::desk::{Desk, Standing};
use super::door::Door;
use super::hand_over::{Channel, Message};
use super::listen::Listeners;
use super::reload::{Refused, Reloads};
use super::signals::{Signals, Told};
use super::succeed::{Heard, Predecessor, Staying};
use super::systemd;
use super::upgrade::{Launch, Successor, Word};
use super::{Shared, VERSION};
use crate::admin::Admin;
use crate::gateway::Timing;
use async_trait::async_trait;
use log::{error, info, warn};
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use std::future::pending;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch, Mutex, Notify};
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, Instant};

/// How often a new process looks whether it serves worse than the one before.
const LOOK: Duration = Duration::from_millis(500);

/// Everything the process does besides serving, until it ends.
pub(super) struct Life {
    course: Mutex<Option<Course>>,
    failed: Arc<AtomicBool>,
}

/// What a life begins with.
pub(super) struct Birth {
    pub(super) shared: Arc<Shared>,
    pub(super) listeners: Arc<Listeners>,
    /// What is told to whoever asks how the process is.
    pub(super) desk: Arc<Desk>,
    pub(super) admin: Arc<Admin>,
    pub(super) door: Arc<Door>,
    pub(super) reloads: Arc<Reloads>,
    pub(super) signals: Signals,
    pub(super) draining: watch::Sender<bool>,
    /// Told once connections can be served.
    pub(super) ready: Arc<Notify>,
    /// The control socket.
    pub(super) control: Option<PathBuf>,
    /// What an upgrade starts; without it there is none.
    pub(super) launch: Option<Launch>,
    pub(super) predecessor: Option<Predecessor>,
}

impl Life {
    pub(super) fn new(birth: Birth) -> Self {
        let failed = Arc::new(AtomicBool::new(false));
        let (orders, ordered) = mpsc::channel(16);
        let course = Course {
            birth,
            orders,
            ordered,
            stage: Stage::Serving,
            control: None,
            upgrading: None,
            staying: None,
            watchdog: None,
            failed: Arc::clone(&failed),
        };
        Life { course: Mutex::new(Some(course)), failed }
    }

    /// Turns true when the process ends because it could not begin to serve.
    pub(super) fn failed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.failed)
    }
}

#[async_trait]
impl ShutdownSignalWatch for Life {
    async fn recv(&self) -> ShutdownSignal {
        let course = self.course.lock().await.take();
        if let Some(mut course) = course {
            course.run().await;
        }
        ShutdownSignal::FastShutdown // everything has been waited for
    }
}

struct Course {
    birth: Birth,
    orders: mpsc::Sender<Asked>,
    ordered: mpsc::Receiver<Asked>,
    stage: Stage,
    control: Option<Control>,
    upgrading: Option<(JoinHandle<Result<Successor, String>>, Reply)>,
    /// The process before this one, while it is there.
    staying: Option<Staying>,
    watchdog: Option<JoinHandle<()>>,
    failed: Arc<AtomicBool>,
}

enum Stage {
    Serving,
    /// With what ends its connections, and who waits for that.
    Drained(JoinHandle<()>, Reply),
    HandedOver {
        successor: Successor,
        at: Instant,
        until: Instant,
    },
}

enum Event {
    Told(Told),
    Asked(Asked),
    Upgraded(Result<Successor, String>),
    Word(Word),
    WindowOver,
    Heard(Heard),
    Look,
}

impl Course {
    async fn run(&mut self) {
        if !self.begin().await {
            return;
        }
        loop {
            self.birth.desk.stand(self.standing());
            let event = self.event().await;
            if !self.take(event).await {
                return;
            }
        }
    }

    async fn event(&mut self) -> Event {
        let Course { birth, ordered, stage, upgrading, staying, .. } = self;
        let upgraded = async {
            match upgrading {
                Some((task, _)) => task.await.unwrap_or_else(|e| Err(format!("the upgrade failed: {e}"))),
                None => pending().await,
            }
        };
        let successor = async {
            match stage {
                Stage::HandedOver { successor, until, .. } => tokio::select! {
                    word = successor.word() => Event::Word(word),
                    () = sleep_until(*until) => Event::WindowOver,
                },
                _ => pending().await,
            }
        };
        let predecessor = async {
            match staying {
                Some(staying) => tokio::select! {
                    heard = staying.hear() => Event::Heard(heard),
                    () = sleep(LOOK) => Event::Look,
                },
                None => pending().await,
            }
        };
        tokio::select! {
            told = birth.signals.next() => Event::Told(told),
            Some(asked) = ordered.recv() => Event::Asked(asked),
            outcome = upgraded => Event::Upgraded(outcome),
            event = successor => event,
            event = predecessor => event,
        }
    }

    /// Serves, or fails to; false when the process must end.
    async fn begin(&mut self) -> bool {
        tokio::select! {
            () = self.birth.ready.notified() => {}
            name = self.birth.signals.end() => {
                info!("{name}: stopped before anything was served");
                return false;
            }
        }
        if let Some(predecessor) = self.birth.predecessor.take() {
            if let Err(reason) = self.succeed(predecessor).await {
                error!("not started: {reason}");
                self.failed.store(true, Ordering::SeqCst);
                return false;
            }
            return true;
        }
        self.birth.listeners.open_up();
        self.birth.desk.stand(self.standing());
        self.birth.listeners.keep_sockets();
        self.be_the_service();
        self.note("start", true, format!("version {VERSION}, process {}", std::process::id()));
        true
    }

    /// Takes commands, and tells the service manager that it is this process, which serves.
    fn be_the_service(&mut self) {
        if let Some(path) = &self.birth.control {
            match control::listen(path, self.orders.clone()) {
                Ok(control) => self.control = Some(control),
                Err(e) => error!("no commands at {}: {e}", path.display()),
            }
        }
        systemd::serving();
        self.end_watchdog();
        self.watchdog = systemd::watchdog().map(|every| {
            let listeners = Arc::clone(&self.birth.listeners);
            tokio::spawn(async move {
                loop {
                    match listeners.prove(every).await {
                        Ok(()) => systemd::alive(),
                        Err(reason) => error!("the service manager is not told that it lives: {reason}"),
                    }
                    sleep(every).await;
                }
            })
        });
    }

    fn timing(&self) -> Timing {
        self.birth.shared.gateway.load().timing
    }

    /// What follows from an event; false when the process shall end.
    async fn take(&mut self, event: Event) -> bool {
        match event {
            Event::Told(Told::End(name)) => return self.leave(name).await,
            Event::Told(Told::Reload) => self.order(Command::Reload, Reply::nobody(), None),
            Event::Told(Told::Upgrade) => self.order(Command::Upgrade, Reply::nobody(), None),
            Event::Asked(Asked { command: Command::Drain, reply, .. }) => self.drain(reply).await,
            Event::Asked(Asked { command: Command::Undrain, reply, .. }) => self.undrain(&reply).await,
            Event::Asked(Asked { command, reply, stream }) => self.order(command, reply, stream),
            Event::Upgraded(outcome) => self.upgraded(outcome).await,
            // A service manager that was quicker has started another one.
            Event::Word(Word::Gone) if self.somebody_serves() => {
                return self.leave("another process of the service serves").await;
            }
            Event::Word(Word::Gone) => drop(self.take_over("it is gone")),
            Event::Word(Word::TakeBack(reason)) => self.relieve(&reason).await,
            Event::Word(Word::Settled) => return self.leave("its successor has a successor").await,
            Event::Word(Word::Leaving) => return self.leave("its successor was told to stop").await,
            Event::WindowOver => return self.leave("its successor serves").await,
            Event::Heard(Heard::Gone) => self.forget_predecessor(),
            Event::Heard(Heard::Relieved) => return self.give_way().await,
            Event::Look => self.look().await,
        }
        true
    }

    fn order(&mut self, command: Command, reply: Reply, stream: Option<tokio::net::UnixStream>) {
        let state = match self.stage {
            // The new process has read the file already, or is about to: which of the two is not to be told from here.
            Stage::Serving if self.upgrading.is_some() => {
                Some("an upgrade is under way: ask again when it is over")
            }
            Stage::Serving if self.is_giving_way() => {
                Some("the process before this one is to take over again: ask again when it has")
            }
            Stage::Serving => None,
            Stage::Drained(..) => Some("the gateway is drained: undrain it first"),
            Stage::HandedOver { .. } => Some("a successor serves in place of this process"),
        };
        match (command, state) {
            (Command::Status, _) => reply.send(Answer::Status(Box::new(self.birth.admin.status()))),
            (Command::HandOver, Some(state)) => turn_down(stream, state),
            (_, Some(state)) => refuse(&reply, &format!("{command:?}"), state),
            (Command::Reload, None) => self.reload(reply, false),
            (Command::ReloadOrUpgrade, None) => {
                let changed = self.birth.launch.as_ref().is_some_and(Launch::has_changed);
                if changed {
                    reply.say("the binary has changed");
                    self.upgrade(reply, None);
                } else {
                    self.reload(reply, true);
                }
            }
            (Command::Upgrade | Command::HandOver, None) => self.upgrade(reply, stream),
            (Command::Drain | Command::Undrain, None) => {} // taken above
        }
    }

    fn reload(&self, reply: Reply, or_upgrade: bool) {
        let (reloads, orders) = (Arc::clone(&self.birth.reloads), self.orders.clone());
        tokio::spawn(async move {
            match reloads.ask().await {
                Ok(done) => reply.done(done),
                Err(Refused::NeedsNewProcess(reasons)) if or_upgrade => {
                    reasons.into_iter().for_each(|reason| reply.say(reason));
                    let _ = orders.send(Asked { command: Command::Upgrade, reply, stream: None }).await;
                }
                Err(Refused::NeedsNewProcess(reasons) | Refused::Wrong(reasons)) => reply.failed(reasons),
            }
        });
    }

    fn end_watchdog(&mut self) {
        if let Some(task) = self.watchdog.take() {
            task.abort();
        }
    }

    fn open(&self) -> (usize, usize) {
        let counters = &self.birth.shared.counters;
        (counters.requests(), counters.connections())
    }

    /// Notes what was done, for whoever looks at the gateway.
    fn note(&self, kind: &str, ok: bool, text: impl Into<String>) {
        self.birth.shared.observed.journal.event(kind, ok, text.into());
    }

    fn standing(&self) -> Standing {
        let state = match self.stage {
            Stage::Serving if self.upgrading.is_some() => "upgrading",
            Stage::Serving => "serving",
            Stage::Drained(..) => "drained",
            Stage::HandedOver { .. } => "handed over",
        };
        let predecessor = self.staying.as_ref().map(|staying| (staying.pid(), staying.can_take_over()));
        Standing { state, predecessor }
    }
}

/// Tells a successor that somebody else started why it gets nothing.
fn turn_down(stream: Option<tokio::net::UnixStream>, why: &str) {
    warn!("HandOver refused: {why}");
    if let Some(stream) = stream {
        let message = Message::Refused { reasons: vec![why.to_owned()] };
        tokio::spawn(async move { Channel::new(stream).send(&message, &[]).await });
    }
}

fn refuse(reply: &Reply, what: &str, why: &str) {
    warn!("{what} refused: {why}");
    reply.failed(vec![why.to_owned()]);
}
