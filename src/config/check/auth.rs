//! What is wrong with consumers and with `auth` only when they are seen together.

use super::super::decode::{suggest, At, Context};
use super::super::raw::auth::{RawAuth, RawKnown, RawMethod};
use super::super::raw::Raw;
use crate::auth::consumer::is_name;
use crate::auth::jwt::Settings;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;

pub(super) fn check(raw: &Raw, cx: &Context<'_>) {
    consumers(raw, cx);
    providers(raw, cx);
    let mut told = HashSet::new();
    let routes = raw.routes.iter().map(|route| &route.policies);
    for auth in routes.chain([&raw.defaults]).filter_map(|policies| policies.auth.as_ref()) {
        if let RawAuth::Known(known) = &**auth {
            possible(known, cx);
            known.methods.iter().for_each(|method| useful(raw, method, &mut told, cx));
            known.methods.iter().for_each(|method| provided(raw, method, cx));
        }
    }
}

/// A credential has one owner.
fn consumers(raw: &Raw, cx: &Context<'_>) {
    let (mut keys, mut logins, mut certificates) = (HashMap::new(), HashMap::new(), HashMap::new());
    let plans: Vec<&str> = raw.rate_plans.iter().map(|(name, _)| name.value.as_str()).collect();
    for consumer in &raw.consumers {
        let At { place, value: name } = &consumer.name;
        if let Err(e) = is_name(name) {
            cx.fail(place, e);
        }
        if let Some(At { place, value: plan }) = &consumer.rate_plan {
            if !plans.contains(&plan.as_str()) {
                let near = suggest(plan, plans.iter().copied());
                cx.fail(place, format!("no plan of `rate_plans` is named {:?}{near}", place.show(plan)));
            }
        }
        for key in &consumer.keys {
            once(&mut keys, key, key.value.hash, "key", cx);
        }
        if let Some(login) = &consumer.login {
            once(&mut logins, login, login.value.username.clone(), "user name", cx);
        }
        if let Some(certificate) = &consumer.certificate {
            once(&mut certificates, certificate, certificate.value.clone(), "certificate", cx);
        }
    }
}

/// The name of a provider is a label and stands in lists; whom its tokens name must be there.
fn providers(raw: &Raw, cx: &Context<'_>) {
    for provider in &raw.providers {
        let At { place, value: name } = &provider.name;
        if let Err(e) = is_name(name) {
            cx.fail(place, e);
        }
        let strict = |settings: &Settings| settings.consumer_claim.is_some() && !settings.strangers;
        if raw.consumers.is_empty() && provider.settings.as_ref().is_some_and(strict) {
            cx.fail(
                place,
                "nobody could come in: `consumer_claim` names one of `consumers`, and there are none",
            );
        }
    }
}

/// A token is verified by somebody.
fn provided(raw: &Raw, method: &At<RawMethod>, cx: &Context<'_>) {
    let RawMethod::Jwt(wanted, shown) = &method.value else { return };
    let names = || raw.providers.iter().map(|provider| provider.name.value.as_str());
    if !names().any(|name| name == wanted) {
        let near = suggest(wanted, names());
        let advice = if near.is_empty() { "; name one under `providers`" } else { &near };
        cx.fail(&method.place, format!("no provider is named {shown:?}{advice}"));
    }
}

fn once<T, K: Eq + Hash>(seen: &mut HashMap<K, usize>, at: &At<T>, key: K, what: &str, cx: &Context<'_>) {
    if let Some(first) = seen.insert(key, at.place.pos.line) {
        cx.fail(
            &at.place,
            format!("this {what} stands twice, first on line {first}; it can be one consumer's only"),
        );
    }
}

/// Somebody can have what is asked for.
fn possible(known: &RawKnown, cx: &Context<'_>) {
    let is_own = |method: &At<RawMethod>| !matches!(method.value, RawMethod::Forward(_));
    if known.needs.groups.is_some() && !known.methods.iter().any(is_own) {
        cx.fail(&known.place, "nobody could come in: `forward` knows no groups");
    }
    let brings_token = |method: &At<RawMethod>| matches!(method.value, RawMethod::Jwt(..));
    if known.needs.need_a_token() && !known.methods.iter().any(brings_token) {
        cx.fail(
            &known.place,
            "nobody could come in: only a token has `scopes` and `claims`, and no method here reads one",
        );
    }
}

/// Warns of a method that knows nobody; it is safe, and perhaps not what was meant.
fn useful(raw: &Raw, method: &At<RawMethod>, told: &mut HashSet<&'static str>, cx: &Context<'_>) {
    let asks = |listener: &super::super::raw::RawListener| {
        listener.tls.as_ref().is_some_and(|tls| !tls.clients.is_empty())
    };
    let mut consumers = raw.consumers.iter();
    let lack = match &method.value {
        RawMethod::ApiKey(_) if consumers.all(|one| one.keys.is_empty()) => {
            "no consumer has `api_keys`, so that nobody comes in by one"
        }
        RawMethod::Basic if consumers.all(|one| one.login.is_none()) => {
            "no consumer has `basic`, so that nobody comes in by it"
        }
        RawMethod::Certificate if !raw.listeners.iter().any(asks) => {
            "no listener has `client_auth`, so that nobody can show a certificate"
        }
        RawMethod::Certificate if consumers.all(|one| one.certificate.is_none()) => {
            "no consumer has `certificate`, so that nobody comes in by one"
        }
        _ => return,
    };
    if told.insert(lack) {
        cx.warn(&method.place, lack);
    }
}
