//! What an upstream takes over from the one that had its name before a reload.

use super::load::Load;
use super::peer::Target;
use super::{Spec, Upstream};
use std::sync::Arc;

impl Upstream {
    /// An upstream in the place of one that was configured otherwise: what still holds of the old one's state is its
    /// own. Names keep their last good addresses, so that a reload during an outage of the name server takes no target
    /// away. Targets keep their health if it is checked as before: to add one must not shorten the way of another
    /// through `healthy_after` and `unhealthy_after`.
    pub fn succeeding(spec: Spec, old: &Upstream) -> Self {
        let load = Load::succeeding(spec.load.clone(), &old.load);
        let new = Upstream { stats: Arc::clone(&old.stats), load, ..Upstream::new(spec) };
        for name in &new.names {
            old.names.iter().for_each(|before| name.inherit(before));
        }
        let what = |spec: &Spec| (spec.health.clone(), spec.tls.clone(), spec.speech, spec.proxy_protocol);
        let alike = what(&new.spec) == what(&old.spec);
        if new.spec.health.is_some() && alike {
            let known = old.targets.load();
            let carried = known.iter().map(|(address, before)| {
                let peer = new.dial.peer(address, before.name().to_owned());
                let target = Target::new(address.clone(), peer, true);
                target.inherit(before);
                (address.clone(), Arc::new(target))
            });
            // `adopt` keeps those that are still configured.
            new.targets.store(Arc::new(carried.collect()));
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balance::Method;
    use crate::upstream::dial::Speech;
    use crate::upstream::discover::Resolver;
    use crate::upstream::health::HealthSpec;
    use crate::upstream::load::LoadSpec;
    use crate::upstream::peer::Address;
    use crate::upstream::peer::Timeouts;
    use std::time::Duration;

    fn spec(targets: &[Address], interval: u64) -> Spec {
        let health = HealthSpec {
            http: None,
            grpc: None,
            port: None,
            interval: Duration::from_secs(interval),
            timeout: Duration::from_millis(200),
            healthy_after: 1,
            unhealthy_after: 3,
        };
        Spec {
            name: "app".to_owned(),
            fixed: targets.iter().map(|target| (target.clone(), 1)).collect(),
            named: Vec::new(),
            method: Method::RoundRobin,
            proxy_protocol: None,
            speech: Speech::default(),
            tls: None,
            health: Some(health),
            timeouts: Timeouts::default(),
            pool: 1,
            load: LoadSpec::default(),
        }
    }

    #[test]
    fn health_goes_over_where_it_is_checked_alike() {
        let refusing = |port| Address::Inet(([127, 0, 0, 1], port).into());
        let (one, two) = (refusing(1), refusing(2));
        let old = Upstream::new(spec(std::slice::from_ref(&one), 5));
        let known = Target::new(one.clone(), old.dial.peer(&one, String::new()), true);
        known.observe(&Ok(()), 1, 3);
        old.targets.store(Arc::new([(one.clone(), Arc::new(known))].into_iter().collect()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let healthy = |upstream: &Upstream| {
            runtime.block_on(upstream.prepare(&Resolver::new(None)));
            let targets = upstream.targets.load();
            [&one, &two].map(|address| targets.get(address).map(|target| target.is_healthy()))
        };
        let alike = Upstream::succeeding(spec(&[one.clone(), two.clone()], 5), &old);
        assert_eq!(healthy(&alike), [Some(true), Some(false)], "one failure of three; a first check");
        let otherwise = Upstream::succeeding(spec(&[one.clone(), two.clone()], 6), &old);
        assert_eq!(healthy(&otherwise), [Some(false), Some(false)], "two first checks");
        let gone = Upstream::succeeding(spec(std::slice::from_ref(&two), 5), &old);
        assert_eq!(healthy(&gone), [None, Some(false)]);
    }
}
