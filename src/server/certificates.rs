//! Follows the files of certificates while the configuration stays as it is: what has changed is taken up by the listener
//! that has it, without a reload and without touching a connection; what is wrong is said once, and the old one stays.

use crate::gateway::{Gateway, Listener};
use crate::observe::exchange::unix_millis;
use crate::observe::Observed;
use crate::tls::terminator::Shown;
use arc_swap::ArcSwap;
use log::{error, info, warn};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How often the files are looked at; a change is taken up at the second look at it.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is said that a certificate is about to end.
const REMIND: Duration = Duration::from_secs(86_400);
/// How long before its end that begins; for those that live for days or hours, when a quarter of that is left, which is
/// later than an authority is asked for another.
const SOON: i64 = 14 * 86_400;

/// Looks, for ever.
pub(super) async fn watch(gateway: Arc<ArcSwap<Gateway>>, observed: Arc<Observed>) {
    let mut reminded: Option<(Instant, u64)> = None;
    loop {
        let (listeners, generation) = {
            let gateway = gateway.load();
            let tls = gateway.listeners.iter().filter(|listener| listener.tls.is_some());
            (tls.map(Arc::clone).collect::<Vec<_>>(), gateway.generation)
        };
        let mut changed = false;
        for listener in &listeners {
            changed |= look(listener, &observed).await;
        }
        let due = reminded.is_none_or(|(at, of)| at.elapsed() >= REMIND || of != generation);
        if changed || due {
            reminded = Some((Instant::now(), generation));
            listeners.iter().for_each(|listener| remind(listener));
        }
        sleep(LOOK).await;
    }
}

/// Whether something was taken up.
async fn look(listener: &Arc<Listener>, observed: &Observed) -> bool {
    let looking = Arc::clone(listener);
    let looked = tokio::task::spawn_blocking(move || looking.tls.as_ref().map(|tls| tls.look())).await;
    let at = &listener.at;
    match looked {
        Ok(Some(Ok(true))) => {
            info!("{at}: certificates taken up anew");
            observed.journal.event("certificates", true, format!("{at}: taken up anew"));
            true
        }
        Ok(Some(Err(flaws))) => {
            flaws.iter().for_each(|flaw| error!("{at}: {flaw}"));
            error!("{at}: the certificates stay as they were");
            let all: Vec<String> = flaws.iter().map(ToString::to_string).collect();
            observed.journal.event("certificates", false, format!("{at}: {}", all.join("\n")));
            false
        }
        Ok(_) => false,
        Err(e) => {
            error!("{at}: looking at the certificates failed: {e}");
            false
        }
    }
}

fn remind(listener: &Listener) {
    let now = (unix_millis() / 1000) as i64;
    for Shown { file, valid: (from, until), .. } in listener.tls.iter().flat_map(|tls| tls.certificates()) {
        let (at, file, days) = (&listener.at, file.display(), (until - now) / 86_400);
        if until <= now {
            warn!("{at}: {file}: the certificate has expired; clients refuse it");
        } else if until - now < SOON.min((until - from) / 4) {
            warn!("{at}: {file}: the certificate ends in {days} days");
        } else if from > now {
            warn!("{at}: {file}: the certificate is not valid yet; clients refuse it");
        }
    }
}
