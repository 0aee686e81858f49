//! The one runtime for all background work: names, health checks, reloads. Tasks belong to the upstreams they serve
//! and end with them.

use super::door::Door;
use super::reload::Reloads;
use crate::auth::jwt::Provider;
use crate::gateway::Gateway;
use crate::limit::store::Store;
use crate::observe::trace::Tracing;
use crate::upstream::discover::Resolver;
use crate::upstream::Upstream;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use log::error;
use pingora::server::ShutdownWatch;
use pingora::services::background::{BackgroundService, GenBackgroundService};
use pingora::services::ServiceReadyNotifier;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// A pause before a failed task starts anew, so that a certain failure does not spin.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// Keeps the gateway's upstreams fresh, and reloads.
pub(super) struct Background {
    gateway: Arc<ArcSwap<Gateway>>,
    reloads: Arc<Reloads>,
    door: Arc<Door>,
}

impl Background {
    pub(super) fn service(
        gateway: Arc<ArcSwap<Gateway>>,
        reloads: Arc<Reloads>,
        door: Arc<Door>,
    ) -> GenBackgroundService<Self> {
        let background = Arc::new(Background { gateway, reloads, door });
        let mut service = GenBackgroundService::new("background".to_owned(), background);
        service.threads = Some(1);
        service
    }
}

#[async_trait]
impl BackgroundService for Background {
    async fn start_with_ready_notifier(&self, mut shutdown: ShutdownWatch, ready: ServiceReadyNotifier) {
        self.door.begin(Handle::current());
        let gateway = self.gateway.load_full();
        tokio::join!(prepare(&gateway.upstreams, &gateway.resolver), provide(&gateway.providers));
        super::acme::begin(&gateway).await;
        let mut upkeep = Upkeep {
            gateway: Arc::clone(&self.gateway),
            tasks: HashMap::new(),
            keys: Vec::new(),
            exporting: None,
            counting: None,
        };
        upkeep.follow(&gateway);
        if let Some(store) = gateway.limiter.store() {
            store.settle().await; // or the first requests would be counted here alone
        }
        ready.notify_ready();
        drop(gateway); // the first snapshot does not outlive its last request
        tokio::select! {
            () = self.reloads.serve(&mut upkeep) => {}
            () = self.reloads.watch() => {}
            () = super::certificates::watch(Arc::clone(&self.gateway), self.reloads.observed()) => {}
            () = super::addresses::watch(Arc::clone(&self.gateway), self.reloads.observed()) => {}
            () = super::acme::follow(Arc::clone(&self.gateway)) => {}
            () = super::acme::keep(Arc::clone(&self.gateway), self.reloads.observed()) => {}
            _ = shutdown.changed() => {}
        }
    }
}

/// Makes known the names and health of these upstreams, all at once; false when that failed for one by a fault of ours.
pub(super) async fn prepare(upstreams: &[Arc<Upstream>], resolver: &Arc<Resolver>) -> bool {
    let mut preparing = JoinSet::new();
    for upstream in upstreams {
        let (upstream, resolver) = (Arc::clone(upstream), Arc::clone(resolver));
        preparing.spawn(async move { upstream.prepare(&resolver).await });
    }
    let mut good = true;
    while let Some(prepared) = preparing.join_next().await {
        if let Err(e) = prepared {
            error!("the preparation of an upstream failed: {e}");
            good = false;
        }
    }
    good
}

/// Has keys of these providers where they can be had now.
pub(super) async fn provide(providers: &[Arc<Provider>]) {
    let mut preparing = JoinSet::new();
    for provider in providers {
        let provider = Arc::clone(provider);
        preparing.spawn(async move { provider.prepare().await });
    }
    while let Some(prepared) = preparing.join_next().await {
        if let Err(e) = prepared {
            error!("the preparation of a provider failed: {e}"); // without keys it lets nobody in
        }
    }
}

/// A task for each upstream and each provider of the snapshot that serves, and none for any other.
pub(super) struct Upkeep {
    gateway: Arc<ArcSwap<Gateway>>,
    /// By name; a task ends when its set is dropped.
    tasks: HashMap<Arc<str>, (Arc<Upstream>, JoinSet<()>)>,
    /// A task ends when its set is dropped.
    keys: Vec<(Arc<Provider>, JoinSet<()>)>,
    exporting: Option<Arc<Tracing>>,
    /// Who counts for all gateways.
    counting: Option<(Arc<Store>, JoinSet<()>)>,
}

impl Upkeep {
    /// From now on this snapshot's: goes on with those that are the same, ends the others' tasks, begins the new ones'.
    pub(super) fn follow(&mut self, gateway: &Gateway) {
        self.export(gateway.tracing.as_ref());
        gateway.limiter.take_over();
        self.count(gateway.limiter.store());
        let mut before = std::mem::take(&mut self.tasks);
        for upstream in &gateway.upstreams {
            let kept = before.remove(upstream.name()).filter(|(old, _)| Arc::ptr_eq(old, upstream));
            let kept = kept.unwrap_or_else(|| {
                let (what, one) =
                    (format!("upstream {}: its maintenance", upstream.name()), Arc::clone(upstream));
                let gateway = Arc::clone(&self.gateway);
                let mut task = JoinSet::new();
                task.spawn(keep(what, move || {
                    let (one, gateway) = (Arc::clone(&one), Arc::clone(&gateway));
                    async move { one.maintain(|| Arc::clone(&gateway.load().resolver)).await }
                }));
                (Arc::clone(upstream), task)
            });
            self.tasks.insert(Arc::clone(upstream.name()), kept);
        }
        let mut before = std::mem::take(&mut self.keys);
        for provider in &gateway.providers {
            let kept = before.iter().position(|(old, _)| Arc::ptr_eq(old, provider));
            let kept = kept.map(|at| before.swap_remove(at)).unwrap_or_else(|| {
                let (what, one) =
                    (format!("provider {}: keeping its keys", provider.name()), Arc::clone(provider));
                let mut task = JoinSet::new();
                task.spawn(keep(what, move || {
                    let one = Arc::clone(&one);
                    async move { one.keep().await }
                }));
                (Arc::clone(provider), task)
            });
            self.keys.push(kept);
        }
    }

    fn count(&mut self, store: Option<&Arc<Store>>) {
        let same = |(old, _): &(Arc<Store>, JoinSet<()>)| store.is_some_and(|new| Arc::ptr_eq(old, new));
        if self.counting.as_ref().is_some_and(same) {
            return;
        }
        self.counting = store.map(|store| {
            let (what, one) = ("the connection to the store of rate limits".to_owned(), Arc::clone(store));
            let mut task = JoinSet::new();
            task.spawn(keep(what, move || Arc::clone(&one).run()));
            (Arc::clone(store), task)
        });
    }

    fn export(&mut self, tracing: Option<&Arc<Tracing>>) {
        let same = match (&self.exporting, tracing) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        self.exporting = tracing.map(Arc::clone); // the one before is let go of here
        if let Some(tracing) = tracing {
            // It ends by itself when nobody makes spans any more and those that wait have been sent.
            tokio::spawn(tracing.exporter.run());
        }
    }
}

/// Does something for ever, and anew when it fails by a fault of ours: without it what is known would silently stay as it is.
async fn keep<F: Future<Output = ()> + Send + 'static>(what: String, begin: impl Fn() -> F) {
    loop {
        let mut task = JoinSet::new(); // ends its task when it is dropped
        task.spawn(begin());
        match task.join_next().await {
            Some(Err(e)) if e.is_panic() => {
                error!("{what} failed and starts anew: {e}");
                tokio::time::sleep(AFTER_PANIC).await;
            }
            _ => return,
        }
    }
}
