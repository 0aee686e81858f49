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
//!            +-- SIGTERM, Retire --> leaving: at most the grace period --> end
//! ```
//!
//! Leaving has two phases. First nothing is accepted any more and answers say `Connection: close`, while kept connections
//! may still send a request that was on its way (`linger`); then those that wait are closed, and requests in flight get the
//! rest of the grace period. Without clients both are over at once. A second SIGTERM ends everything at once, in every state.
//!
//! Every ending in which a request is cut off is logged with how many there were.

use super::control::{self, Answer, Asked, Command, Control, Reply, Status};
use super::hand_over::{Message, Terms};
use super::listen::Listeners;
use super::reload::{Refused, Reloads};
use super::signals::{Signals, Told};
use super::sockets::{store_name, Bound};
use super::succeed::{Predecessor, Staying};
use super::upgrade::{self, Launch, Successor, Word};
use super::{systemd, Shared, VERSION};
use crate::gateway::Timing;
use async_trait::async_trait;
use log::{error, info, warn};
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use std::future::pending;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch, Mutex, Notify};
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout, Instant};

/// How long connections that close in two steps are waited for at the end.
const SETTLE: Duration = Duration::from_secs(2);
/// How long tunnels may take to be told that they are cut off.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often a drain that is waited for says how it goes on.
const PROGRESS: Duration = Duration::from_secs(1);
/// How often a new process looks whether it serves worse than the one before.
const LOOK: Duration = Duration::from_millis(500);
/// How long a gateway may take to answer itself.
const PROOF: Duration = Duration::from_secs(5);

/// Everything the process does besides serving, until it ends.
pub(super) struct Life {
    course: Mutex<Option<Course>>,
    failed: Arc<AtomicBool>,
}

/// What a life begins with.
pub(super) struct Birth {
    pub(super) shared: Arc<Shared>,
    pub(super) listeners: Arc<Listeners>,
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
    /// Sockets that the service manager keeps and that no listener has any more.
    pub(super) unclaimed: Vec<String>,
    /// The service manager started this process with sockets of the service.
    pub(super) inherited: bool,
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
            began: Instant::now(),
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
    began: Instant,
    failed: Arc<AtomicBool>,
}

enum Stage {
    Serving,
    Drained(JoinHandle<()>),
    HandedOver { successor: Successor, at: Instant, until: Instant },
}

enum Event {
    Told(Told),
    Asked(Asked),
    Upgraded(Result<Successor, String>),
    Word(Word),
    WindowOver,
    PredecessorGone,
    Look,
}

impl Course {
    async fn run(&mut self) {
        if !self.begin().await {
            return;
        }
        loop {
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
                    () = staying.gone() => Event::PredecessorGone,
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
        self.birth.listeners.accept();
        if let (true, Some(path)) = (self.birth.inherited, &self.birth.control) {
            // A process of the service that the manager does not know any more, such as one that took over again.
            let path = path.clone();
            let asked = tokio::task::spawn_blocking(move || control::ask(&path, Command::Retire, |_| {}));
            if let Ok(Ok(Ok(Answer::Done(answer)))) = timeout(PROOF, asked).await {
                info!("the process before this one: {answer}");
            }
        }
        self.be_the_service();
        true
    }

    async fn succeed(&mut self, predecessor: Predecessor) -> Result<(), String> {
        if let Err(reason) = self.birth.listeners.prove(PROOF).await {
            predecessor.refuse(vec![reason.clone()]);
            return Err(reason);
        }
        let mut staying = predecessor.await_go().await?;
        self.birth.listeners.accept();
        self.be_the_service();
        staying.tell(Message::Serving).await;
        info!("serving in place of process {}", staying.pid());
        self.staying = Some(staying);
        Ok(())
    }

    /// Takes commands, and tells the service manager that it is this process, which serves.
    fn be_the_service(&mut self) {
        if let Some(path) = &self.birth.control {
            match control::listen(path, self.orders.clone()) {
                Ok(control) => self.control = Some(control),
                Err(e) => error!("no commands at {}: {e}", path.display()),
            }
        }
        systemd::forget(&std::mem::take(&mut self.birth.unclaimed));
        self.birth.listeners.with_all(systemd::keep);
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
            Event::Asked(Asked { command: Command::Retire, reply, .. }) => {
                reply.done(format!("process {} leaves", std::process::id()));
                return self.leave("a newer process of the service").await;
            }
            Event::Asked(Asked { command: Command::Drain, reply, .. }) => self.drain(reply).await,
            Event::Asked(Asked { command: Command::Undrain, reply, .. }) => self.undrain(&reply),
            Event::Asked(Asked { command, reply, stream }) => self.order(command, reply, stream),
            Event::Upgraded(outcome) => self.upgraded(outcome).await,
            Event::Word(Word::Gone) => self.take_over("it is gone").await,
            Event::Word(Word::TakeBack(reason)) => self.take_over(&reason).await,
            Event::Word(Word::Settled) => return self.leave("its successor has a successor").await,
            Event::Word(Word::Leaving) => return self.leave("its successor was told to stop").await,
            Event::WindowOver => return self.leave("its successor serves").await,
            Event::PredecessorGone => self.staying = None,
            Event::Look => return self.look().await,
        }
        true
    }

    fn order(&mut self, command: Command, reply: Reply, stream: Option<tokio::net::UnixStream>) {
        let state = match self.stage {
            // The new process has read the file already, or is about to: which of the two is not to be told from here.
            Stage::Serving if self.upgrading.is_some() => {
                Some("an upgrade is under way: ask again when it is over")
            }
            Stage::Serving => None,
            Stage::Drained(_) => Some("the gateway is drained: undrain it first"),
            Stage::HandedOver { .. } => Some("a successor serves in place of this process"),
        };
        match (command, state) {
            (Command::Status, _) => reply.send(Answer::Status(Box::new(self.status()))),
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
            (Command::Drain | Command::Undrain | Command::Retire, None) => {} // taken above
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

    fn upgrade(&mut self, reply: Reply, stream: Option<tokio::net::UnixStream>) {
        let Some(launch) = self.birth.launch.clone() else {
            return refuse(&reply, "Upgrade", "the configuration came from no file");
        };
        let sockets = self.birth.listeners.with_all(|all: &[&Bound]| {
            let passed =
                all.iter().map(|bound| Ok((store_name(&bound.at), bound.as_fd().try_clone_to_owned()?)));
            passed.collect::<std::io::Result<Vec<_>>>()
        });
        let sockets = match sockets {
            Ok(sockets) => sockets,
            Err(e) => return refuse(&reply, "Upgrade", &format!("the sockets cannot be handed over: {e}")),
        };
        let shared = &self.birth.shared;
        let timing = self.timing();
        let terms = Terms {
            pid: std::process::id(),
            generation: shared.gateway.load().generation,
            window_ms: timing.rollback.as_millis() as u64,
            fault_share: shared.tally.fault_share(),
        };
        info!("upgrade: a new process is to take over");
        let said = reply.clone();
        let task = match stream {
            Some(stream) => tokio::spawn(upgrade::hand_over(stream, sockets, terms, timing.upgrade)),
            None => tokio::spawn(upgrade::start(launch, sockets, terms, timing.upgrade, move |text| {
                said.say(text)
            })),
        };
        self.upgrading = Some((task, reply));
    }

    async fn upgraded(&mut self, outcome: Result<Successor, String>) {
        let Some((_, reply)) = self.upgrading.take() else { return };
        let successor = match outcome {
            Ok(successor) => successor,
            Err(reason) => {
                reason.lines().for_each(|line| error!("{line}"));
                error!("not upgraded: process {} goes on", std::process::id());
                reply.failed(reason.lines().map(str::to_owned).collect());
                self.be_the_service(); // it may have got as far as to say that it is
                return;
            }
        };
        let pid = successor.pid;
        if let Some(staying) = &mut self.staying {
            staying.tell(Message::Settled).await;
        }
        self.end_watchdog();
        self.control = None;
        self.birth.listeners.leave().await;
        self.say_goodbye();
        let now = Instant::now();
        let window = self.timing().rollback;
        self.stage = Stage::HandedOver { successor, at: now, until: now + window };
        let (requests, connections) = self.open();
        info!("upgraded: process {pid} serves; still here: requests {requests}, connections {connections}; its sockets are kept for {window:?}");
        reply.done(format!("process {pid} serves in place of process {}", std::process::id()));
    }

    /// Serves again in place of its successor.
    async fn take_over(&mut self, reason: &str) {
        let Stage::HandedOver { successor, .. } = std::mem::replace(&mut self.stage, Stage::Serving) else {
            return;
        };
        self.stay();
        self.birth.listeners.accept();
        self.be_the_service();
        error!("process {} takes over again from {}: {reason}", std::process::id(), successor.pid);
    }

    /// Whether this process serves worse than the one before it; false when it has given way.
    async fn look(&mut self) -> bool {
        let Some(staying) = &mut self.staying else { return true };
        if !matches!(self.stage, Stage::Serving) || self.upgrading.is_some() {
            return true;
        }
        let Some(reason) = staying.regrets(&self.birth.shared.tally) else { return true };
        error!("process {} is asked to take over again: {reason}", staying.pid());
        staying.tell(Message::TakeBack { reason }).await;
        // Both accept until it is the service again, and closes its end.
        let _ = timeout(PROOF, staying.gone()).await;
        self.staying = None;
        self.control = None;
        self.failed.store(true, Ordering::SeqCst);
        self.birth.listeners.forget().await;
        self.leave("the process before it serves again").await
    }

    async fn drain(&mut self, reply: Reply) {
        if !matches!(self.stage, Stage::Serving) || self.upgrading.is_some() {
            return refuse(&reply, "Drain", "it does not serve, or is being upgraded");
        }
        info!("drain: no new connections");
        self.birth.listeners.with_all(|all| {
            systemd::forget(&all.iter().map(|bound| store_name(&bound.at)).collect::<Vec<_>>());
        });
        self.birth.listeners.close().await;
        self.say_goodbye();
        systemd::status("drained");
        let (shared, Timing { linger, grace_period, .. }) = (Arc::clone(&self.birth.shared), self.timing());
        self.stage = Stage::Drained(tokio::spawn(async move {
            let began = Instant::now();
            loop {
                let (requests, connections) = (shared.counters.requests(), shared.counters.connections());
                if connections == 0 {
                    return reply.done("drained: nothing is open; undrain accepts connections again");
                }
                reply.say(format!("still open: requests {requests}, connections {connections}"));
                let next = if began.elapsed() < linger { linger } else { PROGRESS };
                let _ = timeout(next, shared.counters.deserted()).await;
                shared.farewell.dismiss();
                if began.elapsed() > grace_period {
                    shared.farewell.cut();
                }
            }
        }));
    }

    fn undrain(&mut self, reply: &Reply) {
        let Stage::Drained(task) = &self.stage else {
            return refuse(reply, "Undrain", "it is not drained");
        };
        task.abort();
        match self.birth.listeners.reopen(&self.birth.reloads.listeners()) {
            Ok(()) => {
                self.stage = Stage::Serving;
                self.stay();
                self.birth.listeners.with_all(systemd::keep);
                systemd::status("serving");
                info!("undrained: connections are accepted again");
                reply.done("connections are accepted again");
            }
            Err(e) => refuse(reply, "Undrain", &e.0),
        }
    }

    fn say_goodbye(&self) {
        self.birth.shared.farewell.begin();
        self.birth.draining.send_replace(true);
    }

    fn stay(&self) {
        self.birth.shared.farewell.cancel();
        self.birth.draining.send_replace(false);
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

    /// Lets requests finish, and ends; says what it cut off. Always false.
    async fn leave(&mut self, why: &str) -> bool {
        if let Some((task, reply)) = self.upgrading.take() {
            task.abort(); // what it started is ended with it
            refuse(&reply, "Upgrade", "the process was told to stop");
        }
        let Timing { grace_period, linger, .. } = self.timing();
        let (requests, connections) = self.open();
        let (grace, linger, sockets_are_ours) = match &self.stage {
            // What the window has been of both is over.
            Stage::HandedOver { at, .. } => {
                (grace_period.saturating_sub(at.elapsed()), linger.saturating_sub(at.elapsed()), false)
            }
            _ => (grace_period, linger, true),
        };
        info!("{why}: no new connections; requests in flight: {requests}, connections: {connections}, at most {grace:?} for them");
        if let Some(staying) = &mut self.staying {
            staying.tell(Message::Leaving).await;
        }
        if sockets_are_ours {
            self.birth.listeners.close().await;
        } else {
            self.birth.listeners.forget().await;
        }
        self.say_goodbye();
        let (shared, staying) = (Arc::clone(&self.birth.shared), &mut self.staying);
        let finished = async {
            let _ = timeout(linger, shared.counters.deserted()).await;
            shared.farewell.dismiss();
            shared.counters.idle().await;
            // The last answers are written; a moment more for those that the client has not taken yet.
            let _ = timeout(SETTLE, shared.farewell.settled()).await;
            if let Some(staying) = staying {
                staying.gone().await; // the service has not ended before all of it has
            }
        };
        tokio::select! {
            () = finished => {}
            () = sleep(grace) => {
                warn!("the grace period is over, requests cut off: {}", shared.counters.requests());
                shared.farewell.cut();
                let _ = timeout(LAST_WORDS, shared.counters.idle()).await;
            }
            name = second(&mut self.birth.signals) => {
                warn!("a second signal ({name}), requests cut off: {}", shared.counters.requests());
            }
        }
        false
    }

    fn status(&self) -> Status {
        let (requests, connections) = self.open();
        let (answered, faults) = self.birth.shared.tally.so_far();
        let state = match self.stage {
            Stage::Serving if self.upgrading.is_some() => "upgrading",
            Stage::Serving => "serving",
            Stage::Drained(_) => "drained",
            Stage::HandedOver { .. } => "handed over",
        };
        Status {
            state: state.to_owned(),
            version: VERSION.to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.began.elapsed().as_secs(),
            generation: self.birth.shared.gateway.load().generation,
            listeners: self.birth.listeners.names(),
            connections,
            requests,
            answered,
            faults,
            predecessor: self.staying.as_ref().map(Staying::pid),
        }
    }
}

/// Waits for another signal to end.
async fn second(signals: &mut Signals) -> &'static str {
    loop {
        match signals.next().await {
            Told::End(name) => return name,
            Told::Reload => warn!("SIGHUP: the process is leaving; nothing is reloaded"),
            Told::Upgrade => warn!("SIGUSR2: the process is leaving; nothing is upgraded"),
        }
    }
}

fn refuse(reply: &Reply, what: &str, why: &str) {
    warn!("{what} refused: {why}");
    reply.failed(vec![why.to_owned()]);
}
