//! The section `providers`.

use super::super::decode::{suggest, At, Fields, Item};
use super::super::raw::provider::RawProvider;
use super::auth::claims;
use super::{bounded_size, tls};
use crate::auth::forward;
use crate::auth::jwt::{Algorithm, Fetch, KeySet, Settings, Source, TokenPlace, MOST_LEEWAY};
use crate::auth::needs::Needs;
use crate::base::units;
use crate::policy::headers::editable;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderName, Uri};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

const FORM: &str =
    "a mapping such as {issuer: https://id.example.com, audience: api, algorithms: [RS256], jwks: https://id.example.com/jwks.json}";
/// Unless the file says so.
const LEEWAY: Duration = Duration::ZERO;
const REFRESH: Duration = Duration::from_secs(300);
const TIMEOUT: Duration = Duration::from_secs(5);
const COOLDOWN: Duration = Duration::from_secs(10);
const MAX_SIZE: u64 = 256 << 10;

/// One of `providers`.
pub(super) fn provider(name: &At<String>, item: &Item<'_, '_>) -> RawProvider {
    let empty = RawProvider { name: name.clone(), settings: None };
    let Some(fields) = item.fields("a mapping such as {jwt: {…}}") else { return empty };
    let settings = fields.need("jwt").and_then(|item| jwt(&name.value, &item));
    fields.close();
    RawProvider { settings, ..empty }
}

fn jwt(name: &str, item: &Item<'_, '_>) -> Option<Settings> {
    let fields = item.fields(FORM)?;
    let before = item.errors();
    let issuer = fields.need("issuer").and_then(|i| i.parse("an issuer", filled)).map(|text| text.value);
    let audience = fields.need("audience").and_then(|item| audience(&item));
    let algorithms = fields.need("algorithms").map(|item| algorithms(&item)).unwrap_or_default();
    let source = source(item, &fields, &algorithms);
    let leeway = fields.get("leeway").and_then(|i| i.parse("a duration", leeway)).map(|leeway| leeway.value);
    let kind = fields.get("typ").and_then(|i| i.parse("a type such as at+jwt", kind)).map(|kind| kind.value);
    let require = fields.get("require").map(|item| texts(&item, "a list of claims such as [exp, sub]"));
    let needs = fields.get("required_claims").map(|item| claims(&item)).unwrap_or_default();
    let told = fields.get("claims_to_headers").map(|item| told(&item)).unwrap_or_default();
    let claim = |item: Item<'_, '_>| item.parse("a claim", filled).map(|claim| claim.value);
    let consumer_claim = fields.get("consumer_claim").and_then(claim);
    let groups_claim = fields.get("groups_claim").and_then(claim);
    let strangers = fields.get("unknown_consumer").map(|i| (i.parse("refuse or accept", strangers), i));
    let places = fields.get("token").map_or_else(|| vec![TokenPlace::Bearer], |item| places(&item));
    fields.close();
    if let (Some((_, item)), None) = (&strangers, &consumer_claim) {
        item.fail("`unknown_consumer` is about `consumer_claim`, and there is none");
    }
    if item.errors() > before {
        return None;
    }
    Some(Settings {
        name: name.into(),
        issuer: issuer?,
        audience: audience?,
        algorithms: algorithms.into(),
        source: source?,
        leeway: leeway.unwrap_or(LEEWAY),
        kind,
        require: require.unwrap_or_else(|| vec!["exp".into()]).into(),
        needs: Needs { claims: needs.into(), ..Needs::default() },
        claims_to_headers: told.into(),
        consumer_claim,
        strangers: strangers.and_then(|(read, _)| read).is_some_and(|read| read.value),
        groups_claim,
        places: places.into(),
    })
}

fn filled(text: &str) -> Result<Box<str>, String> {
    match text.trim() == text && !text.is_empty() {
        true => Ok(text.into()),
        false => Err(format!("expected a text without white space at its ends, found {text:?}")),
    }
}

/// `api`, `[api, admin]`, or the word that nobody looks.
fn audience(item: &Item<'_, '_>) -> Option<Box<[Box<str>]>> {
    const FORM: &str = "an audience, a list of them, or {unchecked: true}";
    if item.is_list() {
        let all = texts(item, FORM);
        if all.is_empty() {
            item.fail(
                "the list is empty: for whom are the tokens? {unchecked: true} takes those for anybody",
            );
        }
        return Some(all.into());
    }
    if !item.is_map() {
        return item.parse(FORM, filled).map(|one| [one.value].into());
    }
    let fields = item.fields(FORM)?;
    let unchecked = fields.need("unchecked").and_then(|i| i.flag());
    fields.close();
    if unchecked.is_some_and(|flag| !flag.value) {
        item.fail("write who the tokens are for, or {unchecked: true}");
    }
    Some(Box::default())
}

fn texts(item: &Item<'_, '_>, what: &str) -> Vec<Box<str>> {
    item.items(what).iter().filter_map(|i| i.parse("a text", filled)).map(|text| text.value).collect()
}

fn algorithms(item: &Item<'_, '_>) -> Vec<Algorithm> {
    let mut found = Vec::new();
    let items = item.items("a list of algorithms such as [RS256]");
    if items.is_empty() && item.is_list() {
        item.fail("the list is empty: nothing could be verified");
    }
    for item in &items {
        let Some(At { value, .. }) = item.parse("an algorithm", algorithm) else { continue };
        match found.contains(&value) {
            true => item.fail("stands in the list twice"),
            false => found.push(value),
        }
    }
    if found.iter().any(|one| one.is_symmetric() != found[0].is_symmetric()) {
        item.fail("HS… goes by a secret and the others by a public key, which could be taken for one: a provider of its own for each");
    }
    found
}

fn algorithm(text: &str) -> Result<Algorithm, String> {
    if text.eq_ignore_ascii_case("none") {
        return Err("none is no signature (RFC 8725 §3.2)".to_owned());
    }
    Algorithm::of(text).ok_or_else(|| {
        let near = suggest(text, Algorithm::names());
        let all: Vec<&str> = Algorithm::names().collect();
        format!("expected one of {}, found {text:?}{near}", all.join(", "))
    })
}

/// `jwks`, `file` or `secret`, with what belongs to it.
fn source(item: &Item<'_, '_>, fields: &Fields<'_, '_, '_>, algorithms: &[Algorithm]) -> Option<Source> {
    let (jwks, file, secret) = (fields.get("jwks"), fields.get("file"), fields.get("secret"));
    let fetch = fetch(fields, jwks.as_ref());
    let symmetric = algorithms.iter().any(|algorithm| algorithm.is_symmetric());
    match (jwks, file, secret) {
        (Some(at), None, None) => {
            if symmetric {
                at.fail("HS… needs a secret, and what can be fetched is none: `secret` or `file`");
            }
            fetch.map(Source::Url)
        }
        (None, Some(at), None) => {
            let At { value: (path, text), .. } = at.file("a file with a key set (RFC 7517)")?;
            let set = KeySet::parse(text.as_bytes(), algorithms, symmetric);
            let set = set.map_err(|e| at.fail(format!("{}: {e}", path.display()))).ok()?;
            Some(Source::File(path, Arc::new(set)))
        }
        (None, None, Some(at)) => {
            if !algorithms.is_empty() && !symmetric {
                at.fail(
                    "a secret is for HS256, HS384 and HS512; the others go by public keys: `jwks` or `file`",
                );
                return None;
            }
            let bytes = self::secret(&at)?;
            let set = KeySet::secret(&bytes, algorithms).map_err(|e| at.fail(e)).ok()?;
            Some(Source::Secret(Arc::new(set)))
        }
        (None, None, None) => {
            item.fail("where its keys are is missing: one of `jwks`, `file` and `secret`");
            None
        }
        _ => {
            item.fail("only one of `jwks`, `file` and `secret` can stand here");
            None
        }
    }
}

fn secret(item: &Item<'_, '_>) -> Option<Zeroizing<Vec<u8>>> {
    const WHAT: &str = "a secret such as ${file:/run/secrets/jwt}, or {base64url: …}";
    if !item.is_map() {
        let secret = |text: &str| match text.starts_with("-----BEGIN") {
            true => Err("this is a key in PEM, which others may know; a secret is random".to_owned()),
            false => Ok(Zeroizing::new(text.as_bytes().to_vec())),
        };
        return item.parse(WHAT, secret).map(|secret| secret.value);
    }
    let fields = item.fields(WHAT)?;
    let decode = |text: &str| {
        let decoded = URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
        decoded.map(Zeroizing::new).map_err(|_| "expected a secret in base64url".to_owned())
        // not what was found
    };
    let secret = fields.need("base64url").and_then(|i| i.parse("a secret in base64url", decode));
    fields.close();
    secret.map(|secret| secret.value)
}

fn fetch(fields: &Fields<'_, '_, '_>, jwks: Option<&Item<'_, '_>>) -> Option<Fetch> {
    let time = |name, low, high| {
        let parse = move |text: &str| within(text, low, high);
        fields.get(name).map(|i| (i.parse("a duration", parse).map(|time| time.value), i))
    };
    let second = Duration::from_secs(1);
    let refresh = time("refresh", second, 86_400 * second);
    let timeout = time("timeout", second / 10, 30 * second);
    let cooldown = time("cooldown", second, 3_600 * second);
    let size = fields.get("max_size").map(|i| (i.parse("a size", |t| bounded_size(t, 1 << 10, 4 << 20)), i));
    let ca = fields.get("ca").map(|i| (tls::authorities(&i), i));
    let plain = fields.get("allow_http").map(|i| (i.flag().is_some_and(|flag| flag.value), i));
    let Some(jwks) = jwks else {
        let times = [&refresh, &timeout, &cooldown];
        let stray = times.into_iter().flatten().map(|(_, i)| i).chain(size.iter().map(|(_, i)| i));
        let stray = stray.chain(ca.iter().map(|(_, i)| i)).chain(plain.iter().map(|(_, i)| i));
        stray.for_each(|item| item.fail("this is about `jwks`, and there is none"));
        return None;
    };
    let allowed = plain.as_ref().is_some_and(|(flag, _)| *flag);
    let url = jwks.parse("a URL", |text| url(text, allowed))?.value;
    if let Some((_, item)) = ca.as_ref().filter(|_| url.scheme_str() != Some("https")) {
        item.fail("`ca` is for https, and the keys are fetched without");
    }
    Some(Fetch {
        url,
        authorities: ca.and_then(|(ca, _)| ca),
        refresh: refresh.and_then(|(time, _)| time).unwrap_or(REFRESH),
        timeout: timeout.and_then(|(time, _)| time).unwrap_or(TIMEOUT),
        max_size: size.and_then(|(size, _)| size).map_or(MAX_SIZE, |size| size.value) as usize,
        cooldown: cooldown.and_then(|(time, _)| time).unwrap_or(COOLDOWN),
    })
}

fn url(text: &str, plain: bool) -> Result<Uri, String> {
    let uri = forward::url(text).map_err(|_| {
        format!("expected a URL such as https://id.example.com/.well-known/jwks.json, found {text:?}")
    })?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let near = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if uri.scheme_str() == Some("https") || near || plain {
        return Ok(uri);
    }
    Err(format!(
        "{text:?}: who is on the way could put other keys in the place of these: write https://, or `allow_http: true` if nobody is"
    ))
}

fn leeway(text: &str) -> Result<Duration, String> {
    let leeway = units::duration(text)?;
    if leeway > MOST_LEEWAY {
        return Err(format!("{text} is too long: clocks may differ by 60s at most"));
    }
    if leeway.subsec_nanos() != 0 {
        return Err(format!("{text}: whole seconds, as times in tokens are"));
    }
    Ok(leeway)
}

fn within(text: &str, low: Duration, high: Duration) -> Result<Duration, String> {
    let time = units::duration(text)?;
    match (low..=high).contains(&time) {
        true => Ok(time),
        false => Err(format!("expected a duration between {low:?} and {high:?}, found {text:?}")),
    }
}

fn kind(text: &str) -> Result<Box<str>, String> {
    let text = filled(text)?.to_ascii_lowercase();
    Ok(text.strip_prefix("application/").unwrap_or(&text).into())
}

/// Fields by the claims that they are made of.
fn told(item: &Item<'_, '_>) -> Vec<(HeaderName, Box<str>)> {
    let mut found: Vec<(HeaderName, Box<str>)> = Vec::new();
    for (name, item) in item.entries("a mapping such as {x-user: sub}") {
        let claim = item.parse("a claim", filled);
        match own_field(&name.value) {
            Ok(header) if found.iter().any(|(other, _)| *other == header) => {
                item.fail(format!("{header} stands twice; case makes no difference in names of fields"));
            }
            Ok(header) => found.extend(claim.map(|claim| (header, claim.value))),
            Err(e) => item.fail(e),
        }
    }
    found
}

/// A field that a token may be in, or that may be made of one.
fn own_field(text: &str) -> Result<HeaderName, String> {
    match editable(text)? {
        AUTHORIZATION | COOKIE => Err(format!("{text} has a meaning of its own; another field?")),
        name if matches!(name.as_str(), "x-consumer" | "x-consumer-groups") => {
            Err(format!("{text} is what the gateway says of consumers: `consumer_claim` has it said"))
        }
        name if name.as_str().starts_with("x-forwarded-")
            || name == "forwarded"
            || name == "x-request-id" =>
        {
            Err(format!("{text} is the gateway's own; another field?"))
        }
        name => Ok(name),
    }
}

fn strangers(text: &str) -> Result<bool, String> {
    match text {
        "refuse" => Ok(false),
        "accept" => Ok(true),
        other => Err(format!("expected refuse or accept, found {other:?}")),
    }
}

fn places(item: &Item<'_, '_>) -> Vec<TokenPlace> {
    if !item.is_list() {
        return place(item).into_iter().collect();
    }
    let items = item.items("");
    if items.is_empty() {
        item.fail("the list is empty: where are the tokens?");
    }
    let mut found = Vec::new();
    for item in &items {
        match place(item) {
            Some(place) if found.contains(&place) => item.fail("stands in the list twice"),
            place => found.extend(place),
        }
    }
    found
}

fn place(item: &Item<'_, '_>) -> Option<TokenPlace> {
    const FORM: &str = "bearer, {header: x-token} or {cookie: session}";
    if !item.is_map() {
        let bearer = |text: &str| match text {
            "bearer" => Ok(TokenPlace::Bearer),
            other => Err(format!("expected {FORM}, found {other:?}")),
        };
        return item.parse(FORM, bearer).map(|place| place.value);
    }
    let fields = item.fields(FORM)?;
    let before = item.errors();
    let cookie = |text: &str| {
        let sound = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let is_name = !text.is_empty() && text.bytes().all(sound);
        is_name
            .then(|| TokenPlace::Cookie(text.into()))
            .ok_or_else(|| format!("{text:?} is no name of a cookie (RFC 6265 §4.1)"))
    };
    let header = fields.get("header").and_then(|i| i.parse("a header name", own_field));
    let cookie = fields.get("cookie").and_then(|i| i.parse("the name of a cookie", cookie));
    fields.close();
    let places = [header.map(|name| TokenPlace::Header(name.value)), cookie.map(|place| place.value)];
    let mut places: Vec<TokenPlace> = places.into_iter().flatten().collect();
    if places.len() != 1 {
        if item.errors() == before {
            item.fail(format!("expected {FORM}"));
        }
        return None;
    }
    places.pop()
}
