//! `providers`: those that run already go on with what they know.

use super::super::raw::provider::RawProvider;
use crate::auth::jwt::Provider;
use crate::gateway::Gateway;
use std::sync::Arc;

pub(super) fn providers(raw: Vec<RawProvider>, before: Option<&Gateway>) -> Vec<Arc<Provider>> {
    let running = before.map_or(&[][..], |before| &before.providers);
    let provider = |raw: RawProvider| {
        let settings = raw.settings?;
        let old = running.iter().find(|old| *old.settings().name == *settings.name);
        Some(match old {
            Some(old) => Provider::succeeding(settings, old),
            None => Arc::new(Provider::new(settings)),
        })
    };
    raw.into_iter().filter_map(provider).collect()
}
