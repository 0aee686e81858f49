//! Rate limits of routes and plans of consumers.

use super::super::decode::At;
use crate::limit::key::Part;
use crate::limit::{Limiter, Spec};
use crate::policy::rate_limit::{Plans, RateLimit, Whose};
use crate::policy::Policy;
use std::sync::Arc;

/// All limits, while the routes that have them are compiled.
pub(super) struct Limits<'a> {
    limiter: Limiter,
    before: Option<&'a Limiter>,
    plans: Arc<Plans>,
}

impl<'a> Limits<'a> {
    pub(super) fn new(
        mut limiter: Limiter,
        plans: Vec<(At<String>, Vec<Spec>)>,
        before: Option<&'a Limiter>,
    ) -> Self {
        let plan = |(name, specs): (At<String>, Vec<Spec>)| {
            let name = name.value.into_boxed_str();
            let set = limiter.set(&format!("plan.{name}"), specs, before);
            (name, set)
        };
        let plans = Arc::new(plans.into_iter().map(plan).collect());
        Limits { limiter, before, plans }
    }

    /// What a route does about it: nothing, or something before and something after it is known who asks.
    pub(super) fn policies(&mut self, route: &str, specs: &[Spec]) -> Vec<Policy> {
        let of_consumers = |spec: &Spec| spec.per.contains(&Part::Consumer);
        let (consumers, anybodys): (Vec<_>, Vec<_>) = specs.iter().cloned().partition(of_consumers);
        let mut policies = Vec::new();
        for (whose, specs) in [(Whose::Anybodys, anybodys), (Whose::Consumers, consumers)] {
            // Consumers may have a plan whatever the route says.
            let planned = whose == Whose::Consumers && !self.plans.is_empty();
            if specs.is_empty() && !planned {
                continue;
            }
            let scope = format!("route.{route}");
            let set = (!specs.is_empty()).then(|| self.limiter.set(&scope, specs, self.before));
            let plans = Arc::clone(&self.plans);
            let counts = self.limiter.counts(route, self.before);
            policies.push(Policy::RateLimit(RateLimit { whose, set, plans, counts }));
        }
        policies
    }

    pub(super) fn done(self) -> Limiter {
        self.limiter
    }
}
