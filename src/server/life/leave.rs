//! How clients are let go: at the end of the process, and in a drain.
//!
//! Two phases. First nothing is accepted any more and answers say `Connection: close`, while kept connections may still send
//! a request that was on its way (`linger`); then those that wait are closed, and requests in flight get the rest of the
//! grace period. Without clients both are over at once.
//!
//! Every ending in which a request is cut off is logged with how many there were.

use super::{refuse, Course, Stage, Standing};
use crate::admin::Admin;
use crate::gateway::Timing;
use crate::server::control::{Answer, Asked, Command, Reply};
use crate::server::signals::{Signals, Told};
use crate::server::systemd;
use crate::server::Shared;
use log::{info, warn};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout, Instant};

/// How long connections that close in two steps are waited for at the end.
const SETTLE: Duration = Duration::from_secs(2);
/// How long tunnels may take to be told that they are cut off.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often a drain that is waited for says how it goes on.
const PROGRESS: Duration = Duration::from_secs(1);

impl Course {
    pub(super) async fn drain(&mut self, reply: Reply) {
        if !matches!(self.stage, Stage::Serving) || self.upgrading.is_some() || self.is_giving_way() {
            return refuse(&reply, "Drain", "it does not serve, or is being replaced");
        }
        info!("drain: no new connections");
        self.birth.desk.stand(Standing { state: "drained", ..self.standing() });
        self.note("drain", true, "no new connections");
        self.say_goodbye();
        self.birth.listeners.close().await;
        systemd::status("drained");
        let task = tokio::spawn(let_go(Arc::clone(&self.birth.shared), self.timing(), reply.clone()));
        self.stage = Stage::Drained(task, reply);
    }

    pub(super) async fn undrain(&mut self, reply: &Reply) {
        let Stage::Drained(task, waiting) = &mut self.stage else {
            return refuse(reply, "Undrain", "it is not drained");
        };
        if let Err(e) = self.birth.listeners.reopen(&self.birth.shared.gateway.load().listeners) {
            return refuse(reply, "Undrain", &e.0);
        }
        task.abort();
        let _ = task.await; // it must not dismiss anybody after this
        waiting.failed(vec!["undrained before everything was closed".to_owned()]);
        self.stage = Stage::Serving;
        self.stay();
        systemd::status("serving");
        self.note("undrain", true, "connections are accepted again");
        info!("undrained: connections are accepted again");
        reply.done("connections are accepted again");
    }

    pub(super) fn say_goodbye(&self) {
        self.birth.shared.farewell.begin();
        self.birth.draining.send_replace(true);
    }

    pub(super) fn stay(&self) {
        self.birth.shared.farewell.cancel();
        self.birth.draining.send_replace(false);
    }

    /// Lets requests finish, and ends; says what it cut off. Always false.
    pub(super) async fn leave(&mut self, why: &str) -> bool {
        if let Some((task, reply)) = self.upgrading.take() {
            task.abort(); // what it started is ended with it ...
            if let Ok(Ok(successor)) = task.await {
                successor.end(); // ... also if it has just come to serve
            }
            refuse(&reply, "Upgrade", "the process was told to stop");
        }
        let Timing { grace_period, linger, .. } = self.timing();
        let (handed_over, linger) = match &self.stage {
            // Kept connections have lingered since then.
            Stage::HandedOver { at, .. } => (true, linger.saturating_sub(at.elapsed())),
            _ => (false, linger),
        };
        let (requests, connections) = self.open();
        self.birth.desk.leave();
        info!("{why}: no new connections; requests in flight: {requests}, connections: {connections}, at most {grace_period:?} for them");
        if let Some(staying) = &mut self.staying {
            staying.tell_leaving().await;
        }
        self.say_goodbye();
        if handed_over {
            self.birth.listeners.forget().await;
            self.birth.door.forget();
        } else {
            self.birth.listeners.close_for_good().await;
        }
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
            () = sleep(grace_period) => {
                if shared.counters.requests() > 0 {
                    warn!("the grace period is over, requests cut off: {}", shared.counters.requests());
                }
                shared.farewell.cut();
                let _ = timeout(LAST_WORDS, shared.counters.idle()).await;
            }
            name = second(&mut self.birth.signals) => {
                warn!("a second signal ({name}), requests cut off: {}", shared.counters.requests());
            }
            () = say_so(&mut self.ordered, &self.birth.admin) => {}
        }
        self.birth.door.close().await;
        if let Some(tracing) = &shared.gateway.load_full().tracing {
            tracing.exporter.flush(LAST_WORDS).await;
        }
        false
    }
}

/// Ends every connection, as long as it takes, and says how it goes on.
async fn let_go(shared: Arc<Shared>, timing: Timing, reply: Reply) {
    let began = Instant::now();
    loop {
        let (requests, connections) = (shared.counters.requests(), shared.counters.connections());
        if connections == 0 {
            return reply.done("drained: nothing is open; undrain accepts connections again");
        }
        reply.say(format!("still open: requests {requests}, connections {connections}"));
        let next = if began.elapsed() < timing.linger { timing.linger } else { PROGRESS };
        let _ = timeout(next, shared.counters.deserted()).await;
        shared.farewell.dismiss();
        if began.elapsed() > timing.grace_period {
            shared.farewell.cut();
        }
    }
}

/// Answers commands while the process leaves, for ever: how it is, and that it does nothing else any more.
async fn say_so(ordered: &mut mpsc::Receiver<Asked>, admin: &Admin) {
    while let Some(Asked { command, reply, stream }) = ordered.recv().await {
        match command {
            Command::Status => reply.send(Answer::Status(Box::new(admin.status()))),
            Command::HandOver => super::turn_down(stream, "the process is leaving"),
            _ => refuse(&reply, &format!("{command:?}"), "the process is leaving"),
        }
    }
    pending().await
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
