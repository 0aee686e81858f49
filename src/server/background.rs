//! The one runtime for all background work: names, health checks. Tasks belong to the snapshot they serve.

use crate::gateway::Gateway;
use crate::upstream::Upstream;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use log::error;
use pingora::server::ShutdownWatch;
use pingora::services::background::{BackgroundService, GenBackgroundService};
use pingora::services::ServiceReadyNotifier;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// A pause before a failed task starts anew, so that a certain failure does not spin.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// Keeps the gateway's upstreams fresh.
pub(super) struct Background {
    gateway: Arc<ArcSwap<Gateway>>,
}

impl Background {
    pub(super) fn service(gateway: Arc<ArcSwap<Gateway>>) -> GenBackgroundService<Self> {
        let mut service =
            GenBackgroundService::new("background".to_owned(), Arc::new(Background { gateway }));
        service.threads = Some(1);
        service
    }
}

#[async_trait]
impl BackgroundService for Background {
    async fn start_with_ready_notifier(&self, mut shutdown: ShutdownWatch, ready: ServiceReadyNotifier) {
        let gateway = self.gateway.load_full();
        let mut preparing = JoinSet::new();
        for upstream in &gateway.upstreams {
            let (upstream, gateway) = (Arc::clone(upstream), Arc::clone(&gateway));
            preparing.spawn(async move { upstream.prepare(&gateway.resolver).await });
        }
        while preparing.join_next().await.is_some() {}
        ready.notify_ready();
        let mut maintaining = JoinSet::new();
        for upstream in &gateway.upstreams {
            maintaining.spawn(maintain(Arc::clone(upstream), Arc::clone(&gateway)));
        }
        let _ = shutdown.changed().await;
    }
}

/// Maintains an upstream for ever: without it health and names would silently stay as they are.
async fn maintain(upstream: Arc<Upstream>, gateway: Arc<Gateway>) {
    loop {
        let (one, all) = (Arc::clone(&upstream), Arc::clone(&gateway));
        let mut task = JoinSet::new(); // ends its task when it is dropped
        task.spawn(async move { one.maintain(&all.resolver).await });
        match task.join_next().await {
            Some(Err(e)) if e.is_panic() => {
                error!("upstream {}: its maintenance failed and starts anew: {e}", upstream.name());
                tokio::time::sleep(AFTER_PANIC).await;
            }
            _ => return,
        }
    }
}
