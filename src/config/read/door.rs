//! The keys `allow`, `deny`, `cors`, `security_headers` and `method_override`.

use super::super::decode::{At, Fields, Item};
use super::super::raw::{RawAddresses, RawDoor};
use super::route::{method, once};
use super::upstream::header_name;
use crate::base::addresses::{list, network, AddressSet};
use crate::base::units;
use crate::policy::addresses::{wrong_lines, ListFile};
use crate::policy::cors::{Cors, Origins};
use crate::policy::headers;
use crate::policy::security_headers::{Known, SecurityHeaders, KNOWN};
use crate::policy::sieve::MethodOverride;
use http::{HeaderName, HeaderValue};
use std::sync::Arc;

/// The caller closes the fields.
pub(super) fn door(fields: &Fields<'_, '_, '_>) -> RawDoor {
    let allow = fields.get("allow").and_then(|i| {
        let empty = "the list is empty, which would let nobody in; leave `allow` out to let in everybody";
        addresses(&i, Some(empty))
    });
    RawDoor {
        allow,
        deny: fields.get("deny").and_then(|i| addresses(&i, None)),
        cors: fields.get("cors").and_then(|i| unless_off(&i, |i| cors(i).map(Box::new))),
        security_headers: fields.get("security_headers").and_then(|i| unless_off(&i, security_headers)),
        method_override: fields.get("method_override").and_then(|i| method_override(&i)),
    }
}

/// What `read` makes of it, or nothing at all where it is `false`.
fn unless_off<'c, 'a, T>(
    item: &Item<'c, 'a>,
    read: impl FnOnce(&Item<'c, 'a>) -> Option<T>,
) -> Option<Option<T>> {
    if item.is("false") {
        return Some(None);
    }
    read(item).map(Some)
}

fn addresses(item: &Item<'_, '_>, empty: Option<&str>) -> Option<RawAddresses> {
    let items = item.items("a list of networks such as [10.0.0.0/8, {file: office.txt}]");
    if !item.is_list() {
        return None;
    }
    if let (true, Some(advice)) = (items.is_empty(), empty) {
        item.fail(advice);
    }
    let (mut networks, mut files) = (Vec::new(), Vec::new());
    for item in &items {
        if item.is_map() {
            files.extend(list_file(item).map(Arc::new));
        } else {
            networks.extend(item.parse("a network", network).map(|network| network.value));
        }
    }
    Some(RawAddresses { fixed: Arc::new(AddressSet::new(&networks)), files })
}

fn list_file(item: &Item<'_, '_>) -> Option<ListFile> {
    let fields = item.fields("a network or {file: office.txt}")?;
    let file = fields.need("file");
    fields.close();
    let file = file?;
    let At { place, value: (path, text) } = file.file("a file of networks")?;
    match list(&text) {
        Ok(set) => Some(ListFile::new(path, set)),
        Err(wrong) => {
            wrong_lines(&place.show(path.display()), &wrong).iter().for_each(|line| file.fail(line));
            None
        }
    }
}

fn cors<'c>(item: &Item<'c, '_>) -> Option<At<Arc<Cors>>> {
    let fields = item.fields("a mapping such as {origins: [\"https://app.example.com\"]}, or false")?;
    let before = item.errors();
    let credentials = fields.get("credentials").and_then(|i| i.flag()).is_some_and(|flag| flag.value);
    let origins = fields.need("origins").map(|i| origins(&i, credentials)).unwrap_or_default();
    let methods = fields.get("methods").map(|i| {
        names(&i, "a list of methods such as [GET, PUT]", credentials, |text| {
            method(text).map(|method| method.to_string())
        })
    });
    let fields_of = |key: &'static str| {
        let form = "a list of header names such as [content-type]";
        let name = |text: &str| header_name(text).map(|name| name.to_string());
        fields.get(key).map(|i| names(&i, form, credentials, name))
    };
    let (request, expose) = (fields_of("headers"), fields_of("expose"));
    let max_age = fields.get("max_age").and_then(|i| i.parse("a duration", units::duration));
    fields.close();
    if item.errors() > before {
        return None;
    }
    let value = |names: String| HeaderValue::try_from(names).ok();
    let methods = methods.unwrap_or_else(|| "GET, HEAD, POST".to_owned());
    let cors = Cors {
        origins,
        methods: value(methods)?,
        headers: request.and_then(value),
        expose: expose.and_then(value),
        credentials,
        max_age: max_age.map(|age| age.value),
    };
    Some(At { place: item.place(), value: Arc::new(cors) })
}

fn origins(item: &Item<'_, '_>, credentials: bool) -> Origins {
    let items = item.items("a list of origins such as [\"https://app.example.com\"]");
    if items.is_empty() && item.is_list() {
        item.fail("the list is empty, which would let no page in; leave `cors` out for that");
    }
    let mut origins = Origins::default();
    for item in &items {
        let added = item.parse("an origin", |text| {
            if credentials && (text == "null" || text.contains('*')) {
                return Err(format!(
                    "with `credentials: true` each origin is written out: {text:?} would let pages of others act for the user"
                ));
            }
            origins.add(text).map(|()| text == "*")
        });
        if added.is_some_and(|added| added.value) && items.len() > 1 {
            item.fail("\"*\" is every origin; the others besides it say nothing");
        }
    }
    origins
}

/// Names in a list, as one field has them. `*` is all of them, which browsers do not take with credentials.
fn names(
    item: &Item<'_, '_>,
    form: &str,
    credentials: bool,
    read: impl Fn(&str) -> Result<String, String>,
) -> String {
    let items = item.items(form);
    if items.is_empty() && item.is_list() {
        item.fail("the list is empty; leave the key out for none but what needs no leave");
    }
    let mut names: Vec<String> = Vec::new();
    for item in items {
        let name = item.parse("a name or \"*\"", |text| match text {
            "*" if credentials => {
                Err("with `credentials: true` browsers take \"*\" for a name; write out what is meant"
                    .to_owned())
            }
            "*" => Ok("*".to_owned()),
            other => read(other),
        });
        let Some(At { value: name, .. }) = name else { continue };
        if names.contains(&name) {
            item.fail("stands in the list twice");
        }
        names.push(name);
    }
    names.join(", ")
}

fn security_headers(item: &Item<'_, '_>) -> Option<Arc<SecurityHeaders>> {
    let usual = |known: &Known| Some((known.name.clone(), HeaderValue::from_static(known.usual?)));
    if item.is("true") {
        let fields = KNOWN.iter().filter_map(usual).collect();
        return Some(Arc::new(SecurityHeaders { fields, hide_server: true }));
    }
    let given = item.fields("true, false or a mapping such as {frame_options: SAMEORIGIN}")?;
    let mut fields = Vec::new();
    for known in &KNOWN {
        match given.get(known.key) {
            None => fields.extend(usual(known)),
            Some(off) if off.is("false") => {}
            Some(item) => {
                let value = item.parse("a header value or false", |text| security_value(known, text));
                fields.extend(value.map(|value| (known.name.clone(), value.value)));
            }
        }
    }
    let hide_server = given.get("hide_server").and_then(|i| i.flag()).is_none_or(|hide| hide.value);
    given.close();
    Some(Arc::new(SecurityHeaders { fields, hide_server }))
}

fn security_value(known: &Known, text: &str) -> Result<HeaderValue, String> {
    if !known.values.is_empty() && !known.values.contains(&text) {
        return Err(format!("expected {} or false, found {text:?}", known.values.join(", ")));
    }
    if text.is_empty() {
        return Err("an empty value says nothing; write false to leave it out".to_owned());
    }
    headers::value(text)
}

fn method_override(item: &Item<'_, '_>) -> Option<MethodOverride> {
    let read = item.parse("refuse, drop or pass", |text| match text {
        "refuse" => Ok(MethodOverride::Refuse),
        "drop" => Ok(MethodOverride::Drop),
        "pass" => Ok(MethodOverride::Pass),
        other => Err(format!("expected refuse, drop or pass, found {other:?}")),
    });
    read.map(|read| read.value)
}

/// `only` of `request_headers`: no entry at all is a list as well, after which nothing goes on.
pub(super) fn only(item: &Item<'_, '_>) -> Vec<HeaderName> {
    let mut found: Vec<(HeaderName, ())> = Vec::new();
    for item in item.items("a list of header names such as [accept, content-type]") {
        let name = item.parse("a header name", |text| header_name(text).and_then(|name| once(name, &found)));
        found.extend(name.map(|name| (name.value, ())));
    }
    found.into_iter().map(|(name, ())| name).collect()
}
