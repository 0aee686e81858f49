//! Successor and predecessor: what the process does when it is replaced, and when it replaces another.
//!
//! The rule of both sides: somebody serves at every moment. A process gives way only to one that has said that it serves.

use super::{refuse, Course, Stage, Standing};
use crate::server::control::{self, Reply};
use crate::server::hand_over::{Message, Terms};
use crate::server::succeed::{Predecessor, Staying};
use crate::server::upgrade::{self, Successor};
use crate::server::VERSION;
use log::{error, info};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::Instant;

/// How long a gateway may take to answer itself.
const PROOF: Duration = Duration::from_secs(5);

impl Course {
    /// Serves in place of another process, once it says go.
    pub(super) async fn succeed(&mut self, predecessor: Predecessor) -> Result<(), String> {
        if let Err(reason) = self.birth.listeners.prove(PROOF).await {
            predecessor.refuse(vec![reason.clone()]);
            return Err(reason);
        }
        info!("it answers itself, and is ready to take over");
        let mut staying = predecessor.await_go().await?;
        self.birth.listeners.open_up();
        self.birth.desk.stand(Standing { state: "serving", predecessor: None });
        self.birth.door.open();
        // What the service manager keeps stays as the predecessor has it, which may have to serve with that again.
        self.be_the_service();
        staying.tell(Message::Serving).await;
        info!("serving in place of process {}", staying.pid());
        self.birth.shared.observed.journal.inherit(staying.history());
        let (own, before) = (std::process::id(), staying.pid());
        self.note("upgrade", true, format!("version {VERSION}, process {own} in place of {before}"));
        self.staying = Some(staying);
        Ok(())
    }

    /// Has a new process take over: one that is started now, or the one at the other end of `stream`.
    pub(super) fn upgrade(&mut self, reply: Reply, stream: Option<UnixStream>) {
        let launch = match (&stream, &self.birth.launch) {
            (None, None) => return refuse(&reply, "Upgrade", "the configuration came from no file"),
            (_, launch) => launch.clone(),
        };
        let (shared, timing) = (Arc::clone(&self.birth.shared), self.timing());
        let (listeners, reloads) = (Arc::clone(&self.birth.listeners), Arc::clone(&self.birth.reloads));
        let door = Arc::clone(&self.birth.door);
        info!("upgrade: a new process is to take over");
        let said = reply.clone();
        let task = tokio::spawn(async move {
            // A reload that is under way ends first: what it binds is handed over too.
            let _none = reloads.none().await;
            let terms = Terms {
                pid: std::process::id(),
                generation: shared.gateway.load().generation,
                window_ms: timing.rollback.as_millis() as u64,
                fault_share: shared.observed.totals.fault_share(),
                tickets: shared.gateway.load().ticket_keys.secrets(),
                history: shared.observed.journal.to_hand_over(),
            };
            let failed = |e| format!("the sockets cannot be handed over: {e}");
            let mut sockets = listeners.pass().map_err(failed)?;
            sockets.extend(door.pass().map_err(failed)?);
            match (stream, launch) {
                (Some(stream), _) => upgrade::hand_over(stream, sockets, terms, timing.upgrade).await,
                (None, Some(launch)) => {
                    upgrade::start(launch, sockets, terms, timing.upgrade, move |text| said.say(text)).await
                }
                (None, None) => Err("there is nothing to start".to_owned()), // refused above
            }
        });
        self.upgrading = Some((task, reply));
    }

    /// The upgrade is over, one way or the other.
    pub(super) async fn upgraded(&mut self, outcome: Result<Successor, String>) {
        let Some((_, reply)) = self.upgrading.take() else { return };
        let successor = match outcome {
            Ok(successor) => successor,
            Err(reason) => {
                reason.lines().for_each(|line| error!("{line}"));
                self.note("upgrade", false, reason.clone());
                error!("not upgraded: process {} goes on", std::process::id());
                reply.failed(reason.lines().map(str::to_owned).collect());
                self.be_the_service(); // it may have got as far as to say that it is
                return;
            }
        };
        let pid = successor.pid;
        if let Some(staying) = &mut self.staying {
            staying.settle().await;
        }
        self.end_watchdog();
        self.control = None;
        self.say_goodbye();
        self.birth.listeners.leave().await;
        self.birth.door.shut();
        let (at, window) = (Instant::now(), self.timing().rollback);
        self.stage = Stage::HandedOver { successor, at, until: at + window };
        let (requests, connections) = self.open();
        info!("upgraded: process {pid} serves; still here: requests {requests}, connections {connections}; its sockets are kept for {window:?}");
        reply.done(format!("process {pid} serves in place of process {}", std::process::id()));
    }

    /// Whether a process takes commands where this one would.
    pub(super) fn somebody_serves(&self) -> bool {
        self.birth.control.as_deref().is_some_and(control::is_taken)
    }

    /// Serves again in place of its successor.
    pub(super) fn take_over(&mut self, reason: &str) -> Option<Successor> {
        let Stage::HandedOver { successor, .. } = std::mem::replace(&mut self.stage, Stage::Serving) else {
            return None;
        };
        self.stay();
        self.birth.listeners.open_up();
        self.birth.desk.stand(self.standing());
        self.birth.door.open();
        self.be_the_service();
        self.note("upgrade", false, format!("process {} takes over again: {reason}", std::process::id()));
        error!("process {} takes over again from {}: {reason}", std::process::id(), successor.pid);
        Some(successor)
    }

    /// The same for a successor that is there and waits to be told.
    pub(super) async fn relieve(&mut self, reason: &str) {
        if let Some(mut successor) = self.take_over(reason) {
            successor.relieved().await;
        }
    }

    /// Asks the process before this one to take over again, when this one serves worse. It serves until that has
    /// happened, for the other may be leaving.
    pub(super) async fn look(&mut self) {
        let serving = matches!(self.stage, Stage::Serving) && self.upgrading.is_none();
        let Some(staying) = self.staying.as_mut().filter(|_| serving) else { return };
        if let Some(reason) = staying.regrets(&self.birth.shared.observed.totals) {
            error!("process {} is asked to take over again: {reason}", staying.pid());
            staying.ask_back(reason).await;
        }
    }

    /// Whether the process before this one has been asked to take over again.
    pub(super) fn is_giving_way(&self) -> bool {
        self.staying.as_ref().is_some_and(Staying::is_asked)
    }

    /// The process before this one serves again: false, for this one ends.
    pub(super) async fn give_way(&mut self) -> bool {
        self.control = None;
        self.failed.store(true, Ordering::SeqCst);
        self.staying = None;
        self.birth.listeners.forget().await;
        self.birth.door.forget();
        self.leave("the process before it serves again").await
    }

    /// The process before this one is gone: what the service manager keeps is this one's business now.
    pub(super) fn forget_predecessor(&mut self) {
        if self.is_giving_way() {
            error!("the process before this one is gone: process {} goes on", std::process::id());
        }
        self.staying = None;
        self.birth.listeners.keep_sockets();
    }
}
