//! Has the certificates that an authority issues attended to, and what is pending looked at, for ever.
//!
//! One order at a time, and the one that was due first. A reload that wants another set ends what is under way for a
//! certificate that is not in it; what that has left in the folder, the next turn clears.

use crate::gateway::Gateway;
use crate::observe::Observed;
use crate::tls::acme::{Folder, Outcome, Wanted};
use arc_swap::ArcSwap;
use log::{debug, error, info};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How often it is looked what is pending; `tls::acme` waits for three of them.
const PENDING: Duration = Duration::from_millis(500);
/// How often it is looked what is due.
const DUE: Duration = Duration::from_secs(1);

/// Knows what is pending already, before a client comes in.
pub(super) async fn begin(gateway: &Gateway) {
    look(&gateway.folders).await;
}

/// Looks what is pending, whoever orders it.
pub(super) async fn follow(gateway: Arc<ArcSwap<Gateway>>) {
    loop {
        let folders = gateway.load().folders.clone();
        look(&folders).await;
        sleep(PENDING).await;
    }
}

async fn look(folders: &[Arc<Folder>]) {
    for folder in folders {
        let folder = Arc::clone(folder);
        if let Err(e) = tokio::task::spawn_blocking(move || folder.look()).await {
            error!("looking for pending challenges failed: {e}");
        }
    }
}

/// Attends to what is due.
pub(super) async fn keep(gateway: Arc<ArcSwap<Gateway>>, observed: Arc<Observed>) {
    let mut generation = gateway.load().generation;
    loop {
        let (wanted, now) = {
            let gateway = gateway.load();
            (gateway.wanted.clone(), gateway.generation)
        };
        // Somebody may just have put right what was wrong, with the file or elsewhere.
        let reloaded = std::mem::replace(&mut generation, now) != now;
        if reloaded {
            wanted.iter().for_each(|one| one.hurry());
        }
        for one in wanted.iter().filter(|one| one.is_due()) {
            // A task of its own: should it panic, upstreams are maintained all the same. It ends when its set is dropped.
            let (mut task, attended) = (JoinSet::new(), Arc::clone(one));
            task.spawn(async move { attended.attend(reloaded).await });
            tokio::select! {
                Some(ended) = task.join_next() => {
                    let outcome = ended.unwrap_or_else(|e| one.broke(&format!("a fault of the gateway: {e}")));
                    tell(one, outcome, &observed);
                }
                () = gone(one, &gateway) => debug!("{}: no certificate is wanted any more", one.host),
            }
        }
        sleep(DUE).await;
    }
}

/// Waits until a certificate is not wanted any more.
async fn gone(one: &Arc<Wanted>, gateway: &ArcSwap<Gateway>) {
    while gateway.load().wanted.iter().any(|wanted| Arc::ptr_eq(wanted, one)) {
        sleep(DUE).await;
    }
}

fn tell(one: &Wanted, outcome: Outcome, observed: &Observed) {
    let host = &one.host;
    match outcome {
        Outcome::Nothing => {}
        Outcome::Issued => {
            info!("{host}: a certificate was issued: {}", one.file().display());
            observed.journal.event("acme", true, format!("{host}: a certificate was issued"));
        }
        Outcome::Failed { why, news: true, again } => {
            error!("{host}: no certificate was issued: {why}");
            error!("{host}: the next attempt is in {again}s, or after a reload; what there is stays in use");
            observed.journal.event("acme", false, format!("{host}: {why}"));
        }
        Outcome::Failed { why, news: false, again } => {
            debug!("{host}: still no certificate: {why}; the next attempt is in {again}s");
        }
    }
}
