//! Consumers to their table, and `auth` to the policy.

use super::super::raw::auth::{RawAuth, RawConsumer, RawKnown, RawMethod};
use crate::auth::consumer::{Consumer, Consumers, Entry};
use crate::auth::forward::{self, Service};
use crate::auth::jwt::Provider;
use crate::auth::password::Passwords;
use crate::gateway::Gateway;
use crate::policy::auth::{Auth, Method, Spec};
use crate::policy::Policy;
use std::sync::Arc;

/// What the routes' policies share.
pub(super) struct Guards<'a> {
    consumers: Arc<Consumers>,
    providers: &'a [Arc<Provider>],
    pub(super) passwords: Arc<Passwords>,
    /// Those of the configuration before this one: who is asked as before is asked over the same connections.
    running: &'a [Arc<Service>],
    pub(super) services: Vec<Arc<Service>>,
    /// Parameters of queries that are keys, in lower case.
    pub(super) parameters: Vec<String>,
}

impl<'a> Guards<'a> {
    pub(super) fn new(
        raw: Vec<RawConsumer>,
        providers: &'a [Arc<Provider>],
        before: Option<&'a Gateway>,
    ) -> Self {
        let entry = |raw: RawConsumer| Entry {
            consumer: Consumer {
                priority: raw.priority,
                rate_plan: raw.rate_plan.map(|plan| plan.value.into()),
                ..Consumer::new(&raw.name.value, &raw.groups)
            },
            keys: raw.keys.into_iter().map(|key| key.value).collect(),
            login: raw.login.map(|login| login.value),
            certificate: raw.certificate.map(|name| name.value),
        };
        Guards {
            consumers: Arc::new(Consumers::new(raw.into_iter().map(entry).collect())),
            providers,
            passwords: before.map(|before| Arc::clone(&before.passwords)).unwrap_or_default(),
            running: before.map_or(&[][..], |before| &before.services),
            services: Vec::new(),
            parameters: Vec::new(),
        }
    }

    /// The policy; none: everybody may come in.
    pub(super) fn policy(&mut self, raw: &RawAuth) -> Option<Policy> {
        let RawAuth::Known(RawKnown { mode, methods, needs, pass_credentials, .. }) = raw else {
            return None;
        };
        let methods = methods.iter().filter_map(|method| self.method(&method.value)).collect();
        let (needs, pass_credentials) = (needs.clone(), *pass_credentials);
        let spec = Spec { methods, mode: *mode, needs, pass_credentials };
        Some(Policy::Auth(Arc::new(Auth::new(spec, &self.consumers, &self.passwords))))
    }

    /// None: it names a provider that is not there, which `check` has said.
    fn method(&mut self, raw: &RawMethod) -> Option<Method> {
        Some(match raw {
            RawMethod::ApiKey(key) => {
                let name = key.query.iter().map(|name| name.to_ascii_lowercase());
                self.parameters
                    .extend(name.filter(|name| !self.parameters.contains(name)).collect::<Vec<_>>());
                Method::ApiKey(key.clone())
            }
            RawMethod::Basic => Method::Basic,
            RawMethod::Certificate => Method::Certificate,
            RawMethod::Jwt(name, _) => {
                let provider = self.providers.iter().find(|provider| provider.name() == name)?;
                Method::Jwt(Arc::clone(provider))
            }
            RawMethod::Forward(spec) => Method::Forward(self.service(spec)),
        })
    }

    fn service(&mut self, spec: &forward::Spec) -> Arc<Service> {
        let same = |known: &&Arc<Service>| known.spec() == spec;
        if let Some(known) = self.services.iter().find(same) {
            return Arc::clone(known);
        }
        let running = self.running.iter().find(same);
        let service = running.map_or_else(|| Arc::new(Service::new(spec.clone())), Arc::clone);
        self.services.push(Arc::clone(&service));
        service
    }
}
