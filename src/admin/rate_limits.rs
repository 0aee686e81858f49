//! Metrics of rate limits.

use super::metrics::{Families, Labels};
use crate::gateway::Gateway;
use std::fmt::Result;
use std::sync::atomic::Ordering::Relaxed;

/// What is counted for routes with limits, the table, and the store where there is one.
pub(super) fn describe(families: &mut Families<'_>, gateway: &Gateway) -> Result {
    let limiter = &gateway.limiter;
    if limiter.counted().next().is_none() {
        return Ok(());
    }
    families.counters(
        "portcullis_rate_limit",
        "Requests that limits were asked about, let through or refused; one that is asked twice is counted twice",
        limiter.counted().flat_map(|(route, counts)| {
            let series = |result, count| -> (Labels<'_, 2>, u64) { ([("route", route), ("result", result)], count) };
            [
                series("allowed", counts.allowed.load(Relaxed)),
                series("limited", counts.limited.load(Relaxed)),
            ]
        }),
    )?;
    families.gauge(
        "portcullis_rate_limit_keys",
        "Buckets in the table of this process",
        limiter.table().used() as f64,
    )?;
    families.counter(
        "portcullis_rate_limit_crowded",
        "Requests whose key found no room in the table and shared a bucket",
        limiter.table().crowded(),
    )?;
    let Some(store) = limiter.store() else { return Ok(()) };
    families.gauge(
        "portcullis_rate_limit_store_up",
        "1 while limits are counted together in the store, 0 while each gateway counts alone",
        f64::from(u8::from(store.is_up())),
    )?;
    let counts = store.counts();
    families.counters(
        "portcullis_rate_limit_store_requests",
        "Decisions about shared limits: by the store, ahead of it, or here because it was down",
        [("store", &counts.asked), ("ahead", &counts.ahead), ("fallback", &counts.fallbacks)]
            .into_iter()
            .map(|(by, count)| ([("by", by)], count.load(Relaxed))),
    )?;
    families.counter(
        "portcullis_rate_limit_store_outages",
        "How often the store went down",
        counts.outages.load(Relaxed),
    )
}
