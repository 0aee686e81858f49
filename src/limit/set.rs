//! Several limits asked for at once, and what the client is told of them.

use super::gcra::{Debt, Quota};
use super::key::Caller;
use super::store::Store;
use super::table::{Ask, Key, Taken, FEW};
use super::{Base, Limit};
use crate::base::decimal::write_u64;
use http::HeaderValue;
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;

/// Limits of which all must allow.
pub struct Set {
    /// Those that are this gateway's own, then those that all gateways count together.
    limits: Box<[Arc<Limit>]>,
    own: usize,
    base: Arc<Base>,
    prefix: u8,
    store: Option<Arc<Store>>,
    policies: HeaderValue,
}

impl std::fmt::Debug for Set {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.limits.iter().map(|limit| &limit.spec)).finish()
    }
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// All limits allow it, and it is taken from all; else nothing is taken.
    pub allowed: bool,
    /// In what time asking again may succeed; zero where it has.
    pub wait: Duration,
    /// The field `RateLimit`, of the limit that is nearest to its end.
    pub state: Option<HeaderValue>,
}

impl Set {
    pub(super) fn new(
        mut limits: Vec<Arc<Limit>>,
        base: Arc<Base>,
        prefix: u8,
        store: Option<Arc<Store>>,
    ) -> Set {
        let common = |limit: &Arc<Limit>| limit.spec.shared && store.is_some();
        limits.sort_by_key(common);
        let own = limits.iter().filter(|limit| !common(limit)).count();
        let policies = policies(&limits);
        Set { limits: limits.into(), own, base, prefix, store, policies }
    }

    /// The field `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10 §3): of each limit its burst, and the time in
    /// which that is there again.
    pub fn policies(&self) -> &HeaderValue {
        &self.policies
    }

    /// Whether all limits allow the request of this caller. It waits for a store that all gateways share, if these limits
    /// are counted there, and no longer than that may take.
    pub async fn take(&self, caller: &Caller<'_>) -> Verdict {
        let now = self.base.now();
        let key = |limit: &Arc<Limit>| caller.key(&self.base.table, limit.id, &limit.spec.per, self.prefix);
        let keys: SmallVec<[Key; FEW]> = self.limits.iter().map(key).collect();
        let ((own, common), (own_keys, keys)) = (self.limits.split_at(self.own), keys.split_at(self.own));
        let own_asks = asks(own, own_keys, |limit| &limit.spec.quota);
        let mut taken = self.base.table.take(&own_asks, now);
        let Some(store) = self.store.as_ref().filter(|_| taken.allowed && !common.is_empty()) else {
            return judge(&taken, own.iter().map(|limit| (&**limit, &limit.spec.quota)));
        };
        let (shared, here) = match store.take(common, keys, caller, self.prefix, now).await {
            Some(shared) => (shared, false),
            None => (self.base.table.take(&asks(common, keys, |limit| &limit.share), now), true),
        };
        if shared.allowed && !here && !store.counts_ahead() {
            // So that whoever had theirs from the store does not begin anew when it goes away.
            self.base.table.charge(&asks(common, keys, |limit| &limit.share), now);
        }
        if !shared.allowed {
            self.base.table.give(&own_asks, now);
            // What was given back is not owed.
            for (debt, limit) in taken.debts.iter_mut().zip(own) {
                *debt = debt.saturating_sub(limit.spec.quota.price(limit.spec.cost));
            }
        }
        taken.allowed = shared.allowed;
        taken.debts.extend(shared.debts);
        let quota = |limit: &Arc<Limit>| if here { limit.share } else { limit.spec.quota };
        let quotas: SmallVec<[Quota; FEW]> =
            own.iter().map(|limit| limit.spec.quota).chain(common.iter().map(quota)).collect();
        judge(&taken, self.limits.iter().map(|limit| &**limit).zip(&quotas))
    }
}

fn asks<'a>(
    limits: &'a [Arc<Limit>],
    keys: &[Key],
    quota: impl Fn(&'a Limit) -> &'a Quota,
) -> SmallVec<[Ask<'a>; FEW]> {
    let ask = |(limit, key): (&'a Arc<Limit>, &Key)| Ask {
        key: *key,
        limit: limit.id,
        quota: quota(limit),
        cost: limit.spec.cost,
    };
    limits.iter().zip(keys).map(ask).collect()
}

/// Which limit decides, and what it has left. One that refuses comes before one that does not.
fn judge<'a>(taken: &Taken, limits: impl Iterator<Item = (&'a Limit, &'a Quota)>) -> Verdict {
    let mut wait = 0;
    let mut nearest: Option<(&Limit, &Quota, Debt, u64)> = None;
    for ((limit, quota), debt) in limits.zip(&taken.debts) {
        let waits = if taken.allowed { 0 } else { quota.wait(*debt, limit.spec.cost) };
        let left = quota.remaining(*debt);
        let nearer = nearest.is_none_or(|(_, other, _, others)| {
            let share = |left: u64, of: &Quota| u128::from(left) * u128::from(of.burst());
            waits > wait || (waits == wait && share(left, other) < share(others, quota))
        });
        if nearer {
            nearest = Some((limit, quota, *debt, left));
        }
        wait = wait.max(waits);
    }
    let state = nearest.and_then(|(limit, quota, debt, left)| {
        let mut out = Vec::with_capacity(limit.spec.name.len() + 32);
        out.push(b'"');
        out.extend_from_slice(limit.spec.name.as_bytes());
        out.extend_from_slice(b"\";r=");
        write_u64(left, &mut out);
        out.extend_from_slice(b";t=");
        write_u64(quota.reset(debt).div_ceil(SECOND), &mut out);
        HeaderValue::from_maybe_shared(bytes::Bytes::from(out)).ok()
    });
    Verdict { allowed: taken.allowed, wait: Duration::from_nanos(wait), state }
}

fn policies(limits: &[Arc<Limit>]) -> HeaderValue {
    let policy = |limit: &Arc<Limit>| {
        let (name, quota) = (&limit.spec.name, &limit.spec.quota);
        let window = quota.reset(quota.price(quota.burst())).div_ceil(SECOND).max(1);
        format!("\"{name}\";q={};w={window}", quota.burst())
    };
    let all: Vec<String> = limits.iter().map(policy).collect();
    HeaderValue::try_from(all.join(", ")).expect("names of limits are printable ASCII")
}

#[cfg(test)]
mod tests {
    use super::super::key::Part;
    use super::super::{Limiter, Settings, Spec};
    use super::*;
    use futures_util::FutureExt;
    use http::HeaderMap;

    fn spec(name: &str, per: Part, quota: (u32, u64, u64)) -> Spec {
        let quota = Quota::new(quota.0, quota.1, quota.2).unwrap();
        Spec { name: name.into(), per: [per].into(), quota, cost: 1, shared: true }
    }

    fn ask(set: &Set, client: &str) -> Verdict {
        let headers = HeaderMap::new();
        let caller = Caller { client: client.parse().ok(), consumer: None, headers: &headers };
        set.take(&caller).now_or_never().expect("nothing is waited for without a store")
    }

    #[test]
    fn the_nearest_limit_is_told_and_the_one_that_refuses_decides() {
        let mut limiter = Limiter::new(Settings::default(), None);
        let day = spec("day", Part::ClientIp, (3, 86_400, 3));
        let second = spec("second", Part::ClientIp, (100, 1, 200));
        let set = limiter.set("route.a", vec![second, day], None);
        assert_eq!(set.policies(), "\"second\";q=200;w=2, \"day\";q=3;w=86400");
        for left in (0..3).rev() {
            let verdict = ask(&set, "192.0.2.1");
            let state = verdict.state.unwrap();
            assert!(state.to_str().unwrap().starts_with(&format!("\"day\";r={left};t=")), "{state:?}");
            assert!(verdict.allowed && verdict.wait.is_zero());
        }
        let refused = ask(&set, "192.0.2.1");
        assert!(!refused.allowed);
        assert!(refused.wait.as_secs() > 28_000 && refused.wait.as_secs() <= 28_800, "{:?}", refused.wait);
        assert!(refused.state.unwrap().to_str().unwrap().starts_with("\"day\";r=0;t=86"));
        assert!(ask(&set, "192.0.2.2").allowed);
    }

    #[test]
    fn a_configuration_goes_on_where_the_one_before_stands() {
        let limit = |count| vec![spec("x", Part::ClientIp, (count, 86_400, 2))];
        let mut first = Limiter::new(Settings::default(), None);
        let set = first.set("route.a", limit(2), None);
        assert!(ask(&set, "::1").allowed && ask(&set, "::1").allowed && !ask(&set, "::1").allowed);
        let mut second = Limiter::new(Settings::default(), Some(&first));
        let [same, other] = ["route.a", "route.b"].map(|scope| second.set(scope, limit(4), Some(&first)));
        assert!(!ask(&same, "::1").allowed, "another rate, the same buckets");
        assert!(ask(&other, "::1").allowed);
        let mut third = Limiter::new(Settings::default(), Some(&second));
        assert!(!ask(&third.set("route.a", limit(4), Some(&second)), "::1").allowed);
    }
}
