//! The one runtime for all background work: names, health checks. Tasks belong to the snapshot they serve.

use crate::gateway::Gateway;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::{BackgroundService, GenBackgroundService};
use pingora::services::ServiceReadyNotifier;
use std::sync::Arc;
use tokio::task::JoinSet;

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
            let (upstream, gateway) = (Arc::clone(upstream), Arc::clone(&gateway));
            maintaining.spawn(async move { upstream.maintain(&gateway.resolver).await });
        }
        let _ = shutdown.changed().await;
    }
}
