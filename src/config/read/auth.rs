//! The section `consumers`, and `auth` of routes.

use super::super::decode::{suggest, At, Item};
use super::super::raw::auth::{RawAuth, RawConsumer, RawKnown, RawMethod};
use super::{positive_duration, tls};
use crate::auth::api_key::{parse_hash, ApiKey};
use crate::auth::certificate::CertificateName;
use crate::auth::consumer::{is_name, KeyHash, Login};
use crate::auth::forward;
use crate::auth::needs::{Need, Needs};
use crate::auth::password::PasswordHash;
use crate::base::client::is_forwarding;
use crate::base::priority::Priority;
use crate::policy::auth::Mode;
use crate::policy::headers::editable;
use http::header::{AUTHORIZATION, COOKIE};
use http::HeaderName;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// How long a service is asked unless the file says so.
const PATIENCE: Duration = Duration::from_secs(1);

/// One of `consumers`.
pub(super) fn consumer(name: &At<String>, item: &Item<'_, '_>) -> RawConsumer {
    let mut consumer = RawConsumer {
        name: name.clone(),
        groups: vec![],
        priority: None,
        rate_plan: None,
        keys: vec![],
        login: None,
        certificate: None,
    };
    let Some(fields) = item.fields("a mapping such as {api_keys: [\"sha256:…\"], groups: [external]}")
    else {
        return consumer;
    };
    if let Some(item) = fields.get("groups") {
        let items = item.items("a list of groups such as [external]");
        let names = items.iter().filter_map(|i| i.parse("a group", is_name));
        consumer.groups = names.map(|name| name.value).collect();
    }
    consumer.priority =
        fields.get("priority").and_then(|i| i.parse("a class", Priority::parse)).map(|class| class.value);
    consumer.rate_plan = fields.get("rate_plan").and_then(|i| i.text("the name of a plan"));
    if let Some(item) = fields.get("api_keys") {
        if item.is_list() {
            consumer.keys = item.items("").iter().filter_map(key).collect();
        } else {
            item.fail("expected a list of hashes such as [\"sha256:…\"]"); // whatever it is may be a key
        }
    }
    consumer.login = fields.get("basic").and_then(|item| login(&item));
    consumer.certificate = fields.get("certificate").and_then(|item| certificate(&item));
    fields.close();
    consumer
}

fn key(item: &Item<'_, '_>) -> Option<At<KeyHash>> {
    const WHAT: &str = "the hash of a key";
    if !item.is_map() {
        let At { place, value: hash } = item.parse(WHAT, parse_hash)?;
        return Some(At { place, value: KeyHash { hash, expires: None } });
    }
    let fields = item.fields("a mapping such as {hash: \"sha256:…\", expires: 2027-01-01}")?;
    let hash = fields.need("hash").and_then(|i| i.parse(WHAT, parse_hash));
    let expires = match fields.get("expires") {
        Some(item) => item.parse("a date", expiry).map(|end| Some(end.value)),
        None => Some(None),
    };
    fields.close();
    let At { place, value: hash } = hash?;
    Some(At { place, value: KeyHash { hash, expires: expires? } })
}

/// The second since 1970 at which a key ends: a moment, or the beginning of a day in UTC.
///
/// # Errors
/// What to write instead.
pub fn expiry(text: &str) -> Result<i64, String> {
    let moment = text.parse::<Timestamp>().ok();
    let day = || text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|day| day.timestamp());
    let end = moment.or_else(|| day().filter(|_| text.len() == "2027-01-01".len()));
    let end = end.ok_or_else(|| {
        format!("expected a date such as 2027-01-01 or a moment such as 2027-01-01T12:00:00Z, found {text:?}")
    })?;
    Ok(end.as_second())
}

fn login(item: &Item<'_, '_>) -> Option<At<Login>> {
    let fields = item.fields("a mapping such as {username: mobile, password: \"$argon2id$…\"}")?;
    let username = |text: &str| {
        let sound = (1..=255).contains(&text.len()) && !text.contains(|c: char| c == ':' || c.is_control());
        let bad = || format!("expected a user name without colons (RFC 7617 §2), found {text:?}");
        sound.then(|| text.into()).ok_or_else(bad)
    };
    let username = fields.need("username").and_then(|i| i.parse("a user name", username));
    let password =
        fields.need("password").and_then(|i| i.parse("the hash of a password", PasswordHash::parse));
    fields.close();
    let (At { place, value: username }, password) = (username?, Arc::new(password?.value));
    Some(At { place, value: Login { username, password } })
}

fn certificate(item: &Item<'_, '_>) -> Option<At<CertificateName>> {
    const FORM: &str =
        "one of {subject: \"CN=mobile,O=Acme\"}, {san: mobile.internal} or {fingerprint: \"sha256:…\"}";
    let fields = item.fields(FORM)?;
    let before = item.errors();
    let names = [
        fields.get("subject").and_then(|i| i.parse("a subject", CertificateName::subject)),
        fields.get("san").and_then(|i| i.parse("an alternative name", CertificateName::san)),
        fields.get("fingerprint").and_then(|i| i.parse("a fingerprint", CertificateName::fingerprint)),
    ];
    fields.close();
    let mut names: Vec<_> = names.into_iter().flatten().collect();
    if names.len() != 1 {
        if item.errors() == before {
            item.fail(format!("expected {FORM}"));
        }
        return None;
    }
    names.pop()
}

/// `auth`.
pub(super) fn auth(item: &Item<'_, '_>) -> Option<RawAuth> {
    const FORM: &str = "a mapping such as {any: [api_key, basic]}, a method such as api_key, or none";
    let place = item.place();
    if !item.is_map() {
        let read = |text: &str| match text {
            "none" => Ok(None),
            other => plain(other, &["none"]).map(Some),
        };
        let At { value: method, .. } = item.parse(FORM, read)?;
        let Some(value) = method else { return Some(RawAuth::Everybody) };
        let methods = vec![At { place: place.clone(), value }];
        let needs = Needs::default();
        let known = RawKnown { place, mode: Mode::Any, methods, needs, pass_credentials: false };
        return Some(RawAuth::Known(known));
    }
    let fields = item.fields(FORM)?;
    let before = item.errors();
    let (any, all) = (fields.get("any"), fields.get("all"));
    let (mode, list) = match (&any, &all) {
        (Some(list), None) => (Mode::Any, Some(list)),
        (None, Some(list)) => (Mode::All, Some(list)),
        (None, None) => (Mode::Any, None),
        (Some(_), Some(list)) => {
            list.fail("only one of `any` and `all` can stand here");
            (Mode::All, None)
        }
    };
    let methods = list.map(methods).unwrap_or_default();
    let groups = fields.get("groups").and_then(|item| need(&item));
    let scopes = fields.get("scopes").and_then(|item| need(&item));
    let claims = fields.get("claims").map(|item| claims(&item)).unwrap_or_default();
    let pass_credentials =
        fields.get("pass_credentials").and_then(|item| item.flag()).is_some_and(|flag| flag.value);
    fields.close();
    if methods.is_empty() {
        if item.errors() == before {
            item.fail("how it is known who asks is missing: `any` or `all` with a list of methods");
        }
        return None;
    }
    let needs = Needs { groups, scopes, claims: claims.into() };
    Some(RawAuth::Known(RawKnown { place, mode, methods, needs, pass_credentials }))
}

/// A method that needs no more than its name.
fn plain(text: &str, others: &[&'static str]) -> Result<RawMethod, String> {
    const NAMES: [&str; 3] = ["api_key", "basic", "certificate"];
    Ok(match text {
        "api_key" => RawMethod::ApiKey(ApiKey::default()),
        "basic" => RawMethod::Basic,
        "certificate" => RawMethod::Certificate,
        other => {
            let known = NAMES.iter().chain(others).copied();
            let near = suggest(other, known.clone());
            let all = known.collect::<Vec<_>>().join(", ");
            return Err(format!("expected one of {all} or a mapping, found {other:?}{near}"));
        }
    })
}

fn methods(list: &Item<'_, '_>) -> Vec<At<RawMethod>> {
    let items = list.items("a list of methods such as [api_key, basic]");
    if items.is_empty() && list.is_list() {
        list.fail("the list is empty: nobody could come in");
    }
    let mut found: Vec<At<RawMethod>> = Vec::new();
    for item in items {
        let Some(method) = method(&item) else { continue };
        if found.iter().any(|known| known.value == method) {
            item.fail("this method stands here twice");
            continue;
        }
        found.push(At { place: item.place(), value: method });
    }
    found
}

fn method(item: &Item<'_, '_>) -> Option<RawMethod> {
    const FORM: &str =
        "a method: api_key, basic, certificate, {api_key: {query: api_key}}, {jwt: main-idp} or {forward: http://127.0.0.1:9000/check}";
    if !item.is_map() {
        return item.parse(FORM, |text| plain(text, &[])).map(|method| method.value);
    }
    let fields = item.fields(FORM)?;
    let before = item.errors();
    let key = fields.get("api_key").and_then(|item| api_key(&item)).map(RawMethod::ApiKey);
    let token = fields.get("jwt").and_then(|item| item.text("the name of a provider"));
    let token = token.map(|name| RawMethod::Jwt(name.value.clone(), name.shown()));
    let service = fields.get("forward").and_then(|item| forward(&item)).map(RawMethod::Forward);
    fields.close();
    let mut found: Vec<_> = [key, token, service].into_iter().flatten().collect();
    if found.len() != 1 {
        if item.errors() == before {
            item.fail(format!("expected {FORM}"));
        }
        return None;
    }
    found.pop()
}

fn api_key(item: &Item<'_, '_>) -> Option<ApiKey> {
    let fields = item.fields("a mapping such as {header: x-api-key, query: api_key}")?;
    let header = |text: &str| match editable(text)? {
        AUTHORIZATION | COOKIE => Err(format!("{text} is not for keys alone; a field of its own?")),
        name => Ok(name),
    };
    let query = |text: &str| {
        let bad = || format!("expected the name of a parameter such as api_key, found {text:?}");
        let sound = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        (!text.is_empty() && text.bytes().all(sound)).then(|| text.into()).ok_or_else(bad)
    };
    let before = item.errors();
    let header = fields.get("header").and_then(|i| i.parse("a header name", header)).map(|h| h.value);
    let query = fields.get("query").and_then(|i| i.parse("a parameter", query)).map(|q| q.value);
    fields.close();
    match (header, query) {
        _ if item.errors() > before => None,
        (None, None) => Some(ApiKey::default()),
        (header, query) => Some(ApiKey { header, query }),
    }
}

fn forward(item: &Item<'_, '_>) -> Option<forward::Spec> {
    const FORM: &str = "a URL, or a mapping such as {url: http://127.0.0.1:9000/check, timeout: 1s}";
    let mut spec = forward::Spec {
        url: http::Uri::default(),
        timeout: PATIENCE,
        request_headers: [AUTHORIZATION, COOKIE].into(),
        response_headers: [].into(),
        authorities: None,
    };
    if !item.is_map() {
        spec.url = item.parse(FORM, forward::url)?.value;
        return Some(spec);
    }
    let fields = item.fields(FORM)?;
    let before = item.errors();
    let url = fields.need("url").and_then(|i| i.parse("a URL", forward::url));
    let timeout = fields.get("timeout").and_then(|i| i.parse("a duration", positive_duration));
    spec.timeout = timeout.map_or(PATIENCE, |timeout| timeout.value);
    if let Some(item) = fields.get("request_headers") {
        spec.request_headers = names(&item);
        said_by_clients(&item, &spec.request_headers);
    }
    if let Some(item) = fields.get("response_headers") {
        spec.response_headers = names(&item);
    }
    if let Some(item) = fields.get("ca") {
        spec.authorities = tls::authorities(&item);
    }
    fields.close();
    spec.url = url?.value;
    if spec.authorities.is_some() && spec.url.scheme_str() != Some("https") {
        item.fail("`ca` is for https, and this service is asked without");
    }
    (item.errors() == before).then_some(spec)
}

fn names(item: &Item<'_, '_>) -> Box<[HeaderName]> {
    let items = item.items("a list of header names such as [x-user]");
    items.iter().filter_map(|i| i.parse("a header name", editable)).map(|name| name.value).collect()
}

/// A service must not be told as a fact what a client has made up.
fn said_by_clients(item: &Item<'_, '_>, names: &[HeaderName]) {
    for name in names.iter().filter(|name| is_forwarding(name.as_str())) {
        item.fail(format!(
            "{name} may be the client's own invention; the service is told who asks in X-Forwarded-For, -Proto, -Host and -Uri"
        ));
    }
}

/// Some of a list: `[a, b]` and `{any: [a, b]}` one, `{all: [a, b]}` each.
fn need(item: &Item<'_, '_>) -> Option<Need> {
    const FORM: &str = "a list such as [external], {any: […]} or {all: […]}";
    if !item.is_map() && !item.is_list() {
        let one = item.text(FORM)?.value;
        return Some(Need::Any([one.into()].into()));
    }
    if item.is_list() {
        return texts(item).map(Need::Any);
    }
    let fields = item.fields(FORM)?;
    let before = item.errors();
    let any = fields.get("any").and_then(|i| texts(&i)).map(Need::Any);
    let all = fields.get("all").and_then(|i| texts(&i)).map(Need::All);
    fields.close();
    match (any, all) {
        (Some(one), None) | (None, Some(one)) => Some(one),
        _ => {
            if item.errors() == before {
                item.fail(format!("expected {FORM}"));
            }
            None
        }
    }
}

fn texts(item: &Item<'_, '_>) -> Option<Box<[Box<str>]>> {
    let items = item.items("a list of texts");
    if items.is_empty() && item.is_list() {
        item.fail("the list is empty; leave the key out to ask for nothing");
        return None;
    }
    Some(items.iter().filter_map(|i| i.text("a text")).map(|text| text.value.into()).collect())
}

pub(super) fn claims(item: &Item<'_, '_>) -> Vec<(Box<str>, Need)> {
    let entries = item.entries("a mapping such as {role: [admin, editor]}");
    if entries.is_empty() && item.is_map() {
        item.fail("the mapping is empty; leave the key out to ask for nothing");
    }
    let claim = |(name, item): &(At<String>, Item<'_, '_>)| Some((name.value.as_str().into(), need(item)?));
    entries.iter().filter_map(claim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_ends_with_a_moment_or_a_day() {
        assert_eq!(expiry("1970-01-02"), Ok(86_400));
        assert_eq!(expiry("1970-01-01T01:00:00Z"), Ok(3_600));
        assert_eq!(expiry("1970-01-01T01:00:00+01:00"), Ok(0));
        for bad in ["", "2027", "2027-13-01", "01.01.2027", "2027-01-01T00:00:00", "1d"] {
            assert!(expiry(bad).is_err(), "{bad}");
        }
    }
}
