//! `rate_limit`: how often clients may come, by address, field or route, and, once they have proven who they are, by
//! consumer.
//!
//! A route has at most one of each [`Whose`]. A consumer with a rate plan is held to that, counted over all routes, in the
//! place of what a route says of consumers.

use super::{Arrival, Edit, Pass};
use crate::error::Reject;
use crate::limit::key::{Caller, Proven};
use crate::limit::{Counts, Set, Verdict};
use http::HeaderName;
use rustc_hash::FxHashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

/// What may be had, and in which time that is there again (draft-ietf-httpapi-ratelimit-headers-10 §3).
pub const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// What is left of it (§4).
pub const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// Rate plans by name; the same for all routes of a configuration.
pub type Plans = FxHashMap<Box<str>, Arc<Set>>;

/// When a limit is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Before anybody has proven anything.
    Anybodys,
    /// After that.
    Consumers,
}

/// Who has proven to be whom.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// Whom.
    pub proven: Proven<'a>,
    /// The plan they have, if any.
    pub plan: Option<&'a str>,
}

/// The limits of a route in one phase.
#[derive(Clone)]
pub struct RateLimit {
    /// When they are asked.
    pub whose: Whose,
    /// The route's own.
    pub set: Option<Arc<Set>>,
    /// Those of consumers.
    pub plans: Arc<Plans>,
    /// What comes of it.
    pub counts: Arc<Counts>,
}

impl std::fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RateLimit")
            .field("whose", &self.whose)
            .field("set", &self.set)
            .finish_non_exhaustive()
    }
}

/// Buckets are a route's own, so that no two routes have the same limits.
impl PartialEq for RateLimit {
    fn eq(&self, other: &RateLimit) -> bool {
        self.whose == other.whose && Arc::ptr_eq(&self.counts, &other.counts)
    }
}

impl Eq for RateLimit {}

impl RateLimit {
    /// Asks all limits of this phase, and leaves in `pass` what the client is told of them.
    ///
    /// # Errors
    /// [`Reject::RateLimited`]; nothing is taken then.
    pub async fn admit(&self, arrival: &Arrival<'_>, pass: &mut Pass) -> Result<(), Reject> {
        let Some((set, verdict)) = self.ask(arrival, who(pass)).await else { return Ok(()) };
        pass.answer.push(Edit::Add(POLICY, set.policies().clone()));
        pass.answer.extend(verdict.state.map(|state| Edit::Add(STATE, state)));
        if verdict.allowed {
            self.counts.allowed.fetch_add(1, Relaxed);
            return Ok(());
        }
        self.counts.limited.fetch_add(1, Relaxed);
        // Rounded up: who comes back at that moment must not be too early.
        let seconds = verdict.wait.as_nanos().div_ceil(1_000_000_000).max(1);
        Err(Reject::RateLimited(u32::try_from(seconds).unwrap_or(u32::MAX)))
    }

    /// None: there is nothing to ask.
    async fn ask<'s>(&'s self, arrival: &Arrival<'_>, who: Option<Who<'_>>) -> Option<(&'s Set, Verdict)> {
        let plan = who.and_then(|who| self.plans.get(who.plan?));
        let set = plan.or(self.set.as_ref())?;
        let consumer = who.map(|who| who.proven);
        let caller = Caller { client: arrival.client, consumer, headers: arrival.request.headers };
        Some((set, set.take(&caller).await))
    }
}

/// Who has been found to ask.
fn who(pass: &Pass) -> Option<Who<'_>> {
    let identity = pass.identity.as_ref()?;
    if let Some(consumer) = &identity.consumer {
        return Some(Who { proven: Proven::Consumer(&consumer.name), plan: consumer.rate_plan.as_deref() });
    }
    let claims = identity.claims.as_ref().filter(|claims| !claims.subject.is_empty())?;
    let issuer = claims.all.get("iss").and_then(|issuer| issuer.as_str()).unwrap_or_default();
    Some(Who { proven: Proven::Subject { issuer, name: &claims.subject }, plan: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::request::Request;
    use crate::limit::gcra::Quota;
    use crate::limit::key::Part;
    use crate::limit::{Limiter, Settings, Spec};
    use futures_util::FutureExt;
    use http::HeaderMap;

    fn specs(count: u32) -> Vec<Spec> {
        let quota = Quota::new(count, 86_400, count.into()).unwrap();
        vec![Spec { name: "x".into(), per: [Part::Consumer].into(), quota, cost: 1, shared: true }]
    }

    fn passes(limit: &RateLimit, client: [u8; 4], who: Option<Who<'_>>) -> u32 {
        let headers = HeaderMap::new();
        let request = Request { method: "GET", host: "t", path: "/", query: "", headers: &headers };
        let arrival = Arrival { request, client: Some(client.into()), facts: None, length: None };
        let ask = || limit.ask(&arrival, who).now_or_never().unwrap().unwrap().1;
        let passed = (0..50).filter(|_| ask().allowed).count();
        assert!(ask().wait.as_secs() > 1);
        passed as u32
    }

    #[test]
    fn consumers_are_told_apart_and_nobody_goes_uncounted() {
        let mut limiter = Limiter::new(Settings::default(), None);
        let plan = limiter.set("plan.gold", specs(20), None);
        let plans: Arc<Plans> = Arc::new([("gold".into(), plan)].into_iter().collect());
        let mut route = |name: &str| RateLimit {
            whose: Whose::Consumers,
            set: Some(limiter.set(name, specs(3), None)),
            plans: Arc::clone(&plans),
            counts: limiter.counts(name, None),
        };
        let (a, b) = (route("route.a"), route("route.b"));
        let who = |name, plan| Some(Who { proven: Proven::Consumer(name), plan });
        let [here, there] = [[192, 0, 2, 1], [192, 0, 2, 2]];
        assert_eq!(passes(&a, here, who("one", None)), 3);
        assert_eq!(passes(&a, there, who("one", None)), 0, "the same one elsewhere");
        assert_eq!(passes(&a, here, who("two", None)), 3);
        assert_eq!(passes(&a, here, None), 3, "nobody is counted by address");
        assert_eq!(passes(&a, here, None), 0);
        assert_eq!(passes(&a, there, None), 3);
        assert_eq!(passes(&b, here, who("one", None)), 3, "another route");
        assert_eq!(passes(&b, here, who("rich", Some("gold"))), 20);
        assert_eq!(passes(&a, here, who("rich", Some("gold"))), 0, "a plan is for all routes together");
    }
}
