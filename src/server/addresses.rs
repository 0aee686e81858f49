//! Follows the files of `allow` and `deny` while the configuration stays as it is: what has changed holds for the next
//! request; what is wrong is said once, and the old list stays.

use crate::gateway::Gateway;
use crate::observe::Observed;
use crate::policy::addresses::ListFile;
use arc_swap::ArcSwap;
use log::{error, info};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// How often the files are looked at; a change is taken up at the second look at it.
const LOOK: Duration = Duration::from_secs(1);

/// Looks, for ever.
pub(super) async fn watch(gateway: Arc<ArcSwap<Gateway>>, observed: Arc<Observed>) {
    loop {
        let lists = gateway.load().lists.clone();
        for list in &lists {
            look(list, &observed).await;
        }
        sleep(LOOK).await;
    }
}

async fn look(list: &Arc<ListFile>, observed: &Observed) {
    let looking = Arc::clone(list);
    let looked = tokio::task::spawn_blocking(move || looking.look()).await;
    let file = list.path.display();
    match looked {
        Ok(Ok(None)) => {}
        Ok(Ok(Some(networks))) => {
            info!("{file}: taken up anew, {networks} networks");
            observed.journal.event("addresses", true, format!("{file}: taken up anew, {networks} networks"));
        }
        Ok(Err(wrong)) => {
            wrong.iter().for_each(|line| error!("{line}"));
            error!("{file}: the list stays as it was");
            observed.journal.event("addresses", false, wrong.join("\n"));
        }
        Err(e) => error!("{file}: looking at the list failed: {e}"),
    }
}
