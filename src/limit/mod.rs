//! How often: what may pass, who has had how much of it, and who keeps count.
//!
//! A [`Limit`] is a [`Quota`] and what tells clients apart ([`Part`]). A [`Set`] is the limits of one route in one phase, or
//! of one consumer's plan: all of them must allow, and if one refuses nothing is taken from the others. Counts are kept in
//! the [`Table`] of this process, or, with a [`Store`], in a Redis that several gateways share; when that is slow or gone
//! each gateway counts at once by itself, within its share. [`Limiter`] owns all of it for one configuration, and takes over
//! from the one before what is still configured.
//!
//! It refuses to let anything through uncounted: who does not show what a limit tells clients apart by is told apart by
//! their address, and who finds no room in the table shares one bucket with all who find none.
//!
//! `policy` and everything above may use it; it uses `base` alone. It knows no engine, no status and no configuration file.

pub mod gcra;
pub mod key;
pub mod store;
pub mod table;

mod link;
mod set;
mod sync;

pub use set::{Set, Verdict};

use gcra::Quota;
use key::{plain, Part};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Instant;
use store::Store;
use table::Table;

/// A limit as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// What it is called in answers; printable ASCII without quotes and backslashes, none twice in a set.
    pub name: Box<str>,
    /// What tells clients apart; at least one.
    pub per: Box<[Part]>,
    /// How much may pass.
    pub quota: Quota,
    /// What one request takes; at least 1, at most the burst.
    pub cost: u64,
    /// Whether all gateways count together, if there is a store.
    pub shared: bool,
}

/// A limit with its own buckets.
#[derive(Debug)]
pub struct Limit {
    /// What it is.
    pub spec: Spec,
    /// Its number in the table, the same for as long as it is configured.
    id: u64,
    /// What this gateway may let through alone.
    share: Quota,
    /// What its keys in a store end with.
    suffix: Box<str>,
}

/// What the whole process counts with, whatever configuration it has.
pub(crate) struct Base {
    table: Table,
    began: Instant,
    next: AtomicU64,
}

impl Base {
    /// Nanoseconds of the clock that buckets go by; never 0, which is at rest.
    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64 + 1_000_000_000
    }
}

/// Where everything is counted, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The most buckets in this process.
    pub most: usize,
    /// How many bits of an IPv6 address tell clients apart.
    pub prefix: u8,
    /// Who counts for all gateways.
    pub store: Option<store::Spec>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { most: 500_000, prefix: 64, store: None }
    }
}

/// What came of the requests of a route.
#[derive(Debug, Default)]
pub struct Counts {
    /// Let through.
    pub allowed: AtomicU64,
    /// Refused.
    pub limited: AtomicU64,
}

/// All limits of one configuration.
pub struct Limiter {
    base: Arc<Base>,
    most: usize,
    prefix: u8,
    store: Option<Arc<Store>>,
    /// By scope and name and what tells clients apart.
    known: BTreeMap<String, u64>,
    counts: BTreeMap<Box<str>, Arc<Counts>>,
}

impl Limiter {
    /// One without limits yet, which goes on where `before` stands.
    pub fn new(settings: Settings, before: Option<&Limiter>) -> Limiter {
        let base = match before {
            Some(before) => Arc::clone(&before.base),
            None => Arc::new(Base {
                table: Table::new(settings.most),
                began: Instant::now(),
                next: AtomicU64::new(1),
            }),
        };
        let store = settings.store.map(|spec| {
            let running = before.and_then(|before| before.store.as_ref());
            match running.filter(|running| *running.spec() == spec) {
                Some(same) => Arc::clone(same),
                None => Arc::new(Store::new(spec, Arc::clone(&base))),
            }
        });
        let Settings { most, prefix, .. } = settings;
        Limiter { base, most, prefix, store, known: BTreeMap::new(), counts: BTreeMap::new() }
    }

    /// Limits that are asked for together, under a name that is theirs alone: a route's, or a consumer's. What has that
    /// name in the configuration before keeps its buckets, whatever has become of its rate.
    pub fn set(&mut self, scope: &str, specs: Vec<Spec>, before: Option<&Limiter>) -> Arc<Set> {
        let limits = specs.into_iter().map(|spec| Arc::new(self.limit(scope, spec, before))).collect();
        Arc::new(Set::new(limits, Arc::clone(&self.base), self.prefix, self.store.clone()))
    }

    /// What is counted for a route.
    pub fn counts(&mut self, route: &str, before: Option<&Limiter>) -> Arc<Counts> {
        let old = || before.and_then(|before| before.counts.get(route)).cloned().unwrap_or_default();
        Arc::clone(self.counts.entry(route.into()).or_insert_with(old))
    }

    fn limit(&mut self, scope: &str, spec: Spec, before: Option<&Limiter>) -> Limit {
        let per: Vec<String> = spec.per.iter().map(ToString::to_string).collect();
        let identity = format!("{scope}\0{}\0{}", spec.name, per.join(","));
        let known = before.and_then(|before| before.known.get(&identity)).copied();
        let id = known.unwrap_or_else(|| self.base.next.fetch_add(1, Relaxed));
        self.known.insert(identity, id);
        let gateways = self.store.as_ref().map_or(1, |store| store.spec().gateways);
        Limit {
            id,
            share: spec.quota.share(gateways, spec.cost),
            suffix: format!("{}:{}", plain(scope.as_bytes()), plain(spec.name.as_bytes())).into(),
            spec,
        }
    }

    /// Who counts for all gateways.
    pub fn store(&self) -> Option<&Arc<Store>> {
        self.store.as_ref()
    }

    /// Serves from here on: what it has in common with the one before goes by its own configuration now.
    pub fn take_over(&self) {
        self.base.table.resize(self.most);
    }

    /// The buckets here.
    pub fn table(&self) -> &Table {
        &self.base.table
    }

    /// What is counted, by route.
    pub fn counted(&self) -> impl Iterator<Item = (&str, &Counts)> {
        self.counts.iter().map(|(route, counts)| (&**route, &**counts))
    }
}
