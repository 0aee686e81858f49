//! The sections `routes` and `defaults`.

use super::super::decode::{At, Fields, Item};
use super::super::raw::{RawAction, RawPolicies, RawRetry, RawRewrite, RawRoute};
use super::super::MAX_ATTEMPTS;
use super::door::{door, only};
use super::limit::rate_limit;
use super::plain_path;
use super::upstream::header_name;
use crate::base::priority::Priority;
use crate::base::units;
use crate::policy::headers::{self, HeaderEdits};
use crate::policy::redirect::Redirect;
use crate::policy::respond::Respond;
use crate::router::{HostPattern, PathMatch, ValueMatch};
use http::{HeaderName, HeaderValue, Method};
use regex::Regex;

/// A pattern may compile to this much, so that one cannot take all memory.
const REGEX_BYTES: usize = 1 << 20;
/// And have this many bytes itself: what it is parsed to is larger by far.
const REGEX_TEXT: usize = 10_000;

pub(super) fn route(item: &Item<'_, '_>) -> Option<RawRoute> {
    let fields = item.fields("a mapping with `path` and `upstream`")?;
    let name = fields.get("name").and_then(|i| i.parse("a name", name));
    let before = item.errors();
    let hosts = fields
        .get("hosts")
        .map(|i| {
            list(&i, "a list of hosts such as [api.example.com]", |i| i.parse("a host", HostPattern::parse))
        })
        .unwrap_or_default();
    let path = fields.get("path").and_then(|i| path(&i));
    let methods = fields
        .get("methods")
        .map(|i| list(&i, "a list of methods such as [GET, POST]", |i| i.parse("a method", method)))
        .unwrap_or_default();
    let headers = fields.get("headers").map(|i| headers_match(&i)).unwrap_or_default();
    let query = fields.get("query").map(|i| query_match(&i)).unwrap_or_default();
    let matching = item.errors() == before;
    let action = action(item, &fields);
    let rewrite = fields.get("rewrite").and_then(|i| rewrite(&i));
    let policies = policies(&fields);
    let before = item.errors();
    fields.close();
    let sound = matching && item.errors() == before;
    let place = item.place();
    Some(RawRoute { place, sound, name, hosts, path, methods, headers, query, action, rewrite, policies })
}

/// The policy keys, which `defaults` has too. The caller closes the fields.
pub(super) fn policies(fields: &Fields<'_, '_, '_>) -> RawPolicies {
    RawPolicies {
        request_headers: fields.get("request_headers").and_then(|i| edits(&i, true)).map(Box::new),
        response_headers: fields.get("response_headers").and_then(|i| edits(&i, false)).map(Box::new),
        timeout: fields
            .get("timeout")
            .and_then(|i| i.parse("a duration", super::positive_duration))
            .map(|t| t.value),
        retry: fields.get("retry").and_then(|i| retry(&i)),
        concurrency: fields.get("concurrency").and_then(|i| super::load::route(&i)),
        priority: fields.get("priority").and_then(|i| i.parse("a class", Priority::parse)).map(|p| p.value),
        rate_limit: fields.get("rate_limit").and_then(|i| rate_limit(&i)),
        max_body: fields.get("max_body").and_then(|i| i.parse("a size", units::size)).map(|s| s.value),
        grpc_web: fields.get("grpc_web").and_then(|i| i.flag()),
        auth: fields.get("auth").and_then(|i| super::auth::auth(&i)).map(Box::new),
        door: door(fields),
    }
}

/// The values of a non-empty list.
fn list<'c, 'a, T>(item: &Item<'c, 'a>, what: &str, read: impl Fn(&Item<'c, 'a>) -> Option<At<T>>) -> Vec<T> {
    let items = item.items(what);
    if items.is_empty() && item.is_list() {
        item.fail("an empty list would match nothing; leave the key out to match everything");
    }
    items.iter().filter_map(read).map(|at| at.value).collect()
}

fn name(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.len() <= 100 && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"') {
        return Ok(text.to_owned());
    }
    Err(format!("a name has 1 to 100 visible characters without spaces or quotes, found {text:?}"))
}

pub(super) fn method(text: &str) -> Result<Method, String> {
    let upper = text.to_ascii_uppercase();
    let method = Method::from_bytes(text.as_bytes()).map_err(|_| format!("{text:?} is not a method"))?;
    let usual = matches!(upper.as_str(), "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS");
    if usual && upper != text {
        return Err(format!("methods are case-sensitive (RFC 9110 §9.1); write {upper}"));
    }
    if matches!(upper.as_str(), "CONNECT" | "TRACE") {
        return Err(format!("{upper} is never passed on"));
    }
    Ok(method)
}

fn regex(text: &str) -> Result<Regex, String> {
    short(text)?;
    regex::RegexBuilder::new(text).size_limit(REGEX_BYTES).build().map_err(|e| regex_error(&e))
}

fn bytes_regex(text: &str) -> Result<regex::bytes::Regex, String> {
    short(text)?;
    regex::bytes::RegexBuilder::new(text).size_limit(REGEX_BYTES).build().map_err(|e| regex_error(&e))
}

fn short(pattern: &str) -> Result<(), String> {
    if pattern.len() > REGEX_TEXT {
        return Err(format!("a regular expression of more than {REGEX_TEXT} bytes; use several routes"));
    }
    Ok(())
}

/// The last line says what is wrong; those before it repeat the pattern.
fn regex_error(e: &regex::Error) -> String {
    if let regex::Error::CompiledTooBig(_) = e {
        return format!(
            "a regular expression that compiles to more than {} bytes; use several routes",
            REGEX_BYTES
        );
    }
    let text = e.to_string();
    format!(
        "not a regular expression: {}",
        text.lines().last().unwrap_or(&text).trim_start_matches("error: ")
    )
}

fn path(item: &Item<'_, '_>) -> Option<At<PathMatch>> {
    const FORM: &str = "a path such as /orders, {exact: /orders} or {regex: \"^/v[0-9]+/\"}";
    if !item.is_map() {
        let At { place, value } = item.parse(FORM, plain_path)?;
        return Some(At { place, value: PathMatch::Prefix(value) });
    }
    let fields = item.fields(FORM)?;
    let prefix =
        fields.get("prefix").map(|i| i.parse("a path", plain_path).map(|p| PathMatch::Prefix(p.value)));
    let exact = fields.get("exact").map(|i| i.parse("a path", plain_path).map(|p| PathMatch::Exact(p.value)));
    let pattern = fields
        .get("regex")
        .map(|i| i.parse("a regular expression", regex).map(|p| PathMatch::Regex(p.value)));
    fields.close();
    one(item, FORM, [prefix, exact, pattern]).map(|value| At { place: item.place(), value })
}

/// The one that is written; an error when none or several are. (Written and wrong is `Some(None)`.)
fn one<T, const N: usize>(item: &Item<'_, '_>, form: &str, candidates: [Option<Option<T>>; N]) -> Option<T> {
    let mut written: Vec<Option<T>> = candidates.into_iter().flatten().collect();
    if written.len() == 1 {
        return written.remove(0);
    }
    let found = if written.is_empty() { "none" } else { "several" };
    item.fail(format!("expected one of {form}, found {found}"));
    None
}

fn headers_match(item: &Item<'_, '_>) -> Vec<(HeaderName, ValueMatch)> {
    let mut found = Vec::new();
    for (name, item) in item.entries("a mapping such as {x-tenant: acme}") {
        let header = header_name(&name.value).and_then(|header| once(header, &found));
        let value = value_match(&item);
        match (header, value) {
            (Ok(header), Some(value)) => found.push((header, value)),
            (Err(e), _) => item.fail(e),
            _ => {}
        }
    }
    found
}

/// YAML knows keys twice only when they are spelled alike; the names of fields have no case (RFC 9110 §5.1).
pub(super) fn once<T>(name: HeaderName, seen: &[(HeaderName, T)]) -> Result<HeaderName, String> {
    if seen.iter().any(|(other, _)| *other == name) {
        return Err(format!("{name} stands twice; case makes no difference in names of fields"));
    }
    Ok(name)
}

fn query_match(item: &Item<'_, '_>) -> Vec<(String, ValueMatch)> {
    let entries = item.entries("a mapping such as {version: 2}");
    entries.iter().filter_map(|(name, item)| Some((name.value.clone(), value_match(item)?))).collect()
}

fn value_match(item: &Item<'_, '_>) -> Option<ValueMatch> {
    if !item.is_map() {
        return item.text("a value, {regex: …} or {present: true}").map(|t| ValueMatch::Exact(t.value));
    }
    const FORM: &str = "{exact: …}, {regex: …} or {present: true}";
    let fields = item.fields(FORM)?;
    let exact = fields.get("exact").map(|i| i.text("a value").map(|t| ValueMatch::Exact(t.value)));
    let pattern = fields
        .get("regex")
        .map(|i| i.parse("a regular expression", bytes_regex).map(|p| ValueMatch::Regex(p.value)));
    let present = fields.get("present").map(|i| match i.flag()?.value {
        true => Some(ValueMatch::Present),
        false => {
            i.fail("only `present: true` can be asked for; what is absent cannot be matched");
            None
        }
    });
    fields.close();
    one(item, FORM, [exact, pattern, present])
}

fn action(item: &Item<'_, '_>, fields: &Fields<'_, '_, '_>) -> Option<At<RawAction>> {
    let upstream = fields.get("upstream").map(|i| (upstreams(&i).map(RawAction::Upstream), i.place()));
    let redirect = fields.get("redirect").map(|i| (redirect(&i).map(RawAction::Redirect), i.place()));
    let respond = fields.get("respond").map(|i| (respond(&i).map(RawAction::Respond), i.place()));
    let mut written: Vec<_> = [upstream, redirect, respond].into_iter().flatten().collect();
    match written.len() {
        1 => {
            let (value, place) = written.remove(0);
            value.map(|value| At { place, value })
        }
        0 => {
            item.fail("what to do is missing: `upstream`, `redirect` or `respond`");
            None
        }
        _ => {
            item.fail("only one of `upstream`, `redirect` and `respond` can stand here");
            None
        }
    }
}

fn upstreams(item: &Item<'_, '_>) -> Option<Vec<(At<String>, usize)>> {
    if !item.is_list() {
        return item
            .text("the name of an upstream, a URL, or a list of {to, weight}")
            .map(|name| vec![(name, 1)]);
    }
    let mut choices = Vec::new();
    let (items, before) = (item.items("a list of {to, weight}"), item.errors());
    if items.is_empty() {
        item.fail("the list is empty: there is nothing to choose from");
        return None;
    }
    for item in items {
        let Some(fields) = item.fields("a mapping such as {to: orders, weight: 9}") else { continue };
        let to = fields.need("to").and_then(|i| i.text("the name of an upstream or a URL"));
        let weight = fields
            .get("weight")
            .map_or(Some(1), |i| i.number("a weight", 0, 1_000_000).map(|w| w.value as usize));
        fields.close();
        if let (Some(to), Some(weight)) = (to, weight) {
            choices.push((to, weight));
        }
    }
    if item.errors() == before && choices.iter().all(|(_, weight)| *weight == 0) {
        item.fail("all weights together are zero: nothing could be chosen");
        return None;
    }
    Some(choices)
}

fn redirect(item: &Item<'_, '_>) -> Option<Redirect> {
    let fields = item.fields("a mapping such as {to: \"https://{host}{uri}\", status: 308}")?;
    // Each judged by itself, so that the error stands at the one that is wrong, and both are told.
    let to = fields.need("to").and_then(|i| i.parse("where to", |to| Redirect::new(to, 308)));
    let status = |text: &str| {
        let status = text.parse().map_err(|_| format!("expected a status such as 308, found {text:?}"))?;
        Redirect::new("/", status).map(|redirect| redirect.status)
    };
    let status =
        fields.get("status").map_or(Some(308), |i| i.parse("a status", status).map(|status| status.value));
    fields.close();
    let (mut redirect, status) = (to?.value, status?);
    redirect.status = status;
    Some(redirect)
}

fn respond(item: &Item<'_, '_>) -> Option<Respond> {
    let fields = item.fields("a mapping such as {status: 200, body: ok}")?;
    let status =
        fields.get("status").map_or(Some(200), |i| i.number("a status", 200, 599).map(|s| s.value as u16));
    let body = fields.get("body").map_or(Some(String::new()), |i| i.text("a text").map(|b| b.value));
    let default = HeaderValue::from_static("text/plain; charset=utf-8");
    let content_type = fields
        .get("content_type")
        .map_or(Some(default), |i| i.parse("a media type", headers::value).map(|t| t.value));
    fields.close();
    let respond = Respond { status: status?, body: body?.into(), content_type: content_type? };
    if matches!(respond.status, 204 | 304) && !respond.body.is_empty() {
        item.fail(format!("an answer with status {} has no body (RFC 9110 §6.4.1)", respond.status));
        return None;
    }
    Some(respond)
}

fn rewrite(item: &Item<'_, '_>) -> Option<At<RawRewrite>> {
    let fields = item.fields("a mapping such as {strip_prefix: true} or {prefix: /v2}")?;
    let host = |text: &str| {
        let bad =
            text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
        if bad {
            Err(format!("expected a host such as orders.internal or orders.internal:8080, found {text:?}"))
        } else {
            Ok(text.to_owned())
        }
    };
    let rewrite = RawRewrite {
        strip_prefix: fields.get("strip_prefix").and_then(|i| i.flag()).is_some_and(|f| f.value),
        prefix: fields.get("prefix").and_then(|i| i.parse("a path", plain_path)).map(|p| p.value),
        path: fields.get("path").and_then(|i| i.parse("a path", plain_path)).map(|p| p.value),
        host: fields.get("host").and_then(|i| i.parse("a host", host)).map(|h| h.value),
    };
    fields.close();
    Some(At { place: item.place(), value: rewrite })
}

fn edits(item: &Item<'_, '_>, of_request: bool) -> Option<HeaderEdits> {
    let fields = item.fields("a mapping such as {set: {x-env: prod}, remove: [server]}")?;
    let only = if of_request { fields.get("only").map(|i| only(&i)) } else { None };
    let pairs = |name: &'static str| {
        let mut found = Vec::new();
        for (name, item) in
            fields.get(name).map(|i| i.entries("a mapping such as {x-env: prod}")).unwrap_or_default()
        {
            let header = headers::editable(&name.value).and_then(|header| once(header, &found));
            match (header, item.parse("a header value", headers::value)) {
                (Ok(header), Some(value)) => found.push((header, value.value)),
                (Err(e), _) => item.fail(e),
                _ => {}
            }
        }
        found
    };
    let remove =
        fields.get("remove").map(|i| i.items("a list of header names such as [server]")).unwrap_or_default();
    let remove =
        remove.iter().filter_map(|i| i.parse("a header name", headers::editable)).map(|h| h.value).collect();
    let edits = HeaderEdits { only, set: pairs("set"), add: pairs("add"), remove };
    fields.close();
    Some(edits)
}

fn retry(item: &Item<'_, '_>) -> Option<RawRetry> {
    let fields = item.fields("a mapping such as {attempts: 2, on: [connect, reset]}")?;
    let attempts = fields.get("attempts").map_or(Some(2), |i| {
        i.number("a number of further attempts", 0, MAX_ATTEMPTS as u64).map(|n| n.value as usize)
    });
    let mut retry = RawRetry { attempts: attempts?, connect: true, reset: true };
    if let Some(on) = fields.get("on") {
        (retry.connect, retry.reset) = (false, false);
        let items = on.items("a list such as [connect, reset]");
        if items.is_empty() && on.is_list() {
            on.fail("the list is empty; to retry never write `attempts: 0`");
        }
        for item in items {
            let read = item.parse("connect or reset", |text| match text {
                "connect" | "reset" => Ok(text == "connect"),
                status if status.parse::<u16>().is_ok() => {
                    Err(format!("retrying on the status {status} is not built yet; now: connect, reset"))
                }
                other => Err(format!("expected connect or reset, found {other:?}")),
            });
            match read.map(|r| r.value) {
                Some(true) => retry.connect = true,
                Some(false) => retry.reset = true,
                None => {}
            }
        }
    }
    fields.close();
    Some(retry)
}
