//! `rate_limit` of a route, `rate_plans`, `rate_limit_store`.

use super::super::decode::{suggest, At, Fields, Item};
use super::upstream::header_name;
use crate::base::units;
use crate::limit::gcra::Quota;
use crate::limit::key::Part;
use crate::limit::store::{self, Endpoint, Mode};
use crate::limit::{Settings, Spec};
use crate::tls::pem;
use std::time::Duration;

const FORM: &str = "a limit such as {rate: 100/s, burst: 200, per: client_ip}, a list of them, or off";
/// The most limits of one route: each is asked of each request.
const MOST: usize = 8;
const COSTLIEST: u64 = 1_000_000;
const LARGEST: u64 = 1_000_000_000;

/// One limit or several; `off`: none, where there would be the default.
pub(super) fn rate_limit(item: &Item<'_, '_>) -> Option<Vec<Spec>> {
    limits(item, None)
}

/// The plans of consumers, by name.
pub(super) fn plans(item: &Item<'_, '_>) -> Vec<(At<String>, Vec<Spec>)> {
    let entries = item.entries("a mapping from names to limits, such as {gold: {rate: 1000/s}}");
    let plan = |(name, item): &(At<String>, Item<'_, '_>)| {
        let limits = limits(item, Some(Part::Consumer))?;
        if limits.is_empty() {
            item.fail("a plan without limits is none");
            return None;
        }
        Some((name.clone(), limits))
    };
    entries.iter().filter_map(plan).collect()
}

fn limits(item: &Item<'_, '_>, always: Option<Part>) -> Option<Vec<Spec>> {
    if item.is_map() {
        return limit(item, always.as_ref()).map(|limit| vec![limit]);
    }
    if !item.is_list() {
        return item
            .parse(FORM, |text| {
                if text == "off" {
                    Ok(Vec::new())
                } else {
                    Err(format!("expected {FORM}, found {text:?}"))
                }
            })
            .map(|at| at.value);
    }
    let (items, before) = (item.items(FORM), item.errors());
    if items.is_empty() || items.len() > MOST {
        item.fail(format!("expected 1 to {MOST} limits, found {}; for none write off", items.len()));
    }
    let mut all: Vec<Spec> = Vec::new();
    for item in &items {
        let Some(limit) = limit(item, always.as_ref()) else { continue };
        if all.iter().any(|other| other.name == limit.name) {
            item.fail(format!("a second limit called {:?}; tell them apart by `name`", limit.name));
        }
        all.push(limit);
    }
    (item.errors() == before).then_some(all)
}

fn limit(item: &Item<'_, '_>, always: Option<&Part>) -> Option<Spec> {
    let fields = item.fields("a mapping such as {rate: 100/s, per: client_ip}")?;
    let rate = fields.need("rate").and_then(|i| i.parse("a rate such as 100/s", units::rate));
    let burst = fields.get("burst").map(|i| i.number("a number", 1, LARGEST));
    let per = match always {
        Some(part) => Some(vec![part.clone()]),
        None => fields.get("per").map_or(Some(vec![Part::ClientIp]), |i| parts(&i)),
    };
    let cost = fields.get("cost").map_or(Some(1), |i| i.number("a number", 1, COSTLIEST).map(|n| n.value));
    let name = fields.get("name").map(|i| i.parse("a name", name));
    let shared = fields.get("shared").map_or(Some(true), |i| i.flag().map(|flag| flag.value));
    fields.close();
    let (count, period) = rate?.value;
    let burst = burst.map_or(Some(u64::from(count)), |burst| burst.map(|burst| burst.value))?;
    let (per, cost, shared) = (per?, cost?, shared?);
    let name = match name {
        Some(name) => name?.value,
        None => {
            let per: Vec<String> = per.iter().map(ToString::to_string).collect();
            format!("{}-{}", per.join("+"), units::show_seconds(period.as_secs()))
        }
    };
    if cost > burst.max(1) {
        item.fail(format!(
            "no request could ever pass: it costs {cost}, and at most {burst} can be had at once"
        ));
        return None;
    }
    match Quota::new(count, period.as_secs(), burst) {
        Ok(quota) => Some(Spec { name: name.into(), per: per.into(), quota, cost, shared }),
        Err(e) => {
            item.fail(e);
            None
        }
    }
}

fn parts(item: &Item<'_, '_>) -> Option<Vec<Part>> {
    const WHAT: &str = "client_ip, consumer, header:NAME, route, or a list of them";
    if !item.is_list() {
        return item.parse(WHAT, part).map(|part| vec![part.value]);
    }
    let (items, before) = (item.items(WHAT), item.errors());
    if items.is_empty() {
        item.fail(format!("the list is empty: expected {WHAT}"));
    }
    let mut all = Vec::new();
    for item in &items {
        let Some(At { value, .. }) = item.parse(WHAT, part) else { continue };
        if all.contains(&value) {
            item.fail(format!("{value} stands twice"));
        }
        all.push(value);
    }
    (item.errors() == before).then_some(all)
}

fn part(text: &str) -> Result<Part, String> {
    Ok(match text {
        "client_ip" => Part::ClientIp,
        "consumer" => Part::Consumer,
        "route" => Part::Route,
        _ => match text.strip_prefix("header:") {
            Some(name) => Part::Header(header_name(name)?),
            None => {
                let near = suggest(text, ["client_ip", "consumer", "route"].into_iter());
                return Err(format!(
                    "expected client_ip, consumer, header:NAME or route, found {text:?}{near}"
                ));
            }
        },
    })
}

/// As it stands in a field between quotes (RFC 9651 §3.3.3).
fn name(text: &str) -> Result<String, String> {
    let sound = text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'));
    if (1..=64).contains(&text.len()) && sound {
        return Ok(text.to_owned());
    }
    Err(format!(
        "a name has 1 to 64 visible characters without spaces, quotes and backslashes, found {text:?}"
    ))
}

pub(super) fn store(item: &Item<'_, '_>) -> Option<Settings> {
    let fields = item.fields("a mapping such as {redis: \"redis://127.0.0.1:6379\"}")?;
    let default = Settings::default();
    let most = fields.get("max_keys").map(|i| i.number("a number", 1_000, 100_000_000));
    let prefix = fields.get("ipv6_prefix").map(|i| i.number("a number of bits", 32, 128));
    let store = redis(item, &fields);
    fields.close();
    Some(Settings {
        most: most.map_or(Some(default.most), |n| n.map(|n| n.value as usize))?,
        prefix: prefix.map_or(Some(default.prefix), |n| n.map(|n| n.value as u8))?,
        store: store.ok()?,
    })
}

/// What there is of a store; none where there is no `redis`. `Err`: it is wrong, and that has been said.
fn redis(item: &Item<'_, '_>, fields: &Fields<'_, '_, '_>) -> Result<Option<store::Spec>, ()> {
    let before = item.errors();
    let endpoints = fields.get("redis").map(|i| endpoints(&i)).unwrap_or_default();
    let mode = fields.get("mode").and_then(|i| i.parse("single, cluster or sentinel", mode));
    let master = fields.get("master").and_then(|i| i.text("the name that the sentinels know it by"));
    let (username, password) = (text_of(fields.get("username")), text_of(fields.get("password")));
    let tls = fields.get("tls").map(|i| (tls(&i), i));
    let time = |item: Option<Item<'_, '_>>, low: u64, high: u64| {
        item.and_then(|i| i.parse("a duration", |text| bounded(text, low, high))).map(|time| time.value)
    };
    let timeout = time(fields.get("timeout"), 1, 1_000);
    let gateways = fields.get("gateways").and_then(|i| i.number("how many gateways there are", 1, 10_000));
    let prefix = fields.get("prefix").and_then(|i| i.parse("a text", prefix));
    let sync = time(fields.get("sync"), 10, 10_000);
    let name = mode.as_ref().map_or("single", |mode| mode.value);
    let mode = match (name, master) {
        ("sentinel", Some(master)) => Mode::Sentinel(master.value.into()),
        ("sentinel", None) => {
            item.fail("the key \"master\" is missing: sentinels know many servers, each by its name");
            Mode::Single
        }
        (name, master) => {
            if let Some(At { place, .. }) = master {
                item.fail(format!("`{}` is for `mode: sentinel` alone", place.path));
            }
            if name == "cluster" {
                Mode::Cluster
            } else {
                Mode::Single
            }
        }
    };
    agree(item, &endpoints, &mode, tls.as_ref().map(|(_, item)| item));
    let said =
        timeout.is_some() || gateways.is_some() || sync.is_some() || username.is_some() || password.is_some();
    if fields.get("redis").is_none() && (said || prefix.is_some()) {
        item.fail("this is about a store, and there is none: `redis` is missing");
    }
    if item.errors() != before {
        return Err(());
    }
    let (ca, client) = tls.and_then(|(tls, _)| tls).unwrap_or_default();
    Ok((!endpoints.is_empty()).then(|| store::Spec {
        endpoints,
        mode,
        username,
        password,
        ca,
        client,
        timeout: timeout.unwrap_or(Duration::from_millis(20)),
        gateways: gateways.map_or(1, |n| n.value as u32),
        prefix: prefix.map_or_else(|| "portcullis:".into(), |prefix| prefix.value.into()),
        sync,
    }))
}

fn text_of(item: Option<Item<'_, '_>>) -> Option<Box<str>> {
    item.and_then(|i| i.text("a text")).map(|text| text.value.into())
}

fn endpoints(item: &Item<'_, '_>) -> Vec<Endpoint> {
    const URL: &str = "a URL such as redis://127.0.0.1:6379, or a list of them";
    if !item.is_list() {
        return item.parse(URL, Endpoint::parse).into_iter().map(|at| at.value).collect();
    }
    let items = item.items(URL);
    if items.is_empty() {
        item.fail("the list is empty; without a store leave `redis` out");
    }
    items.iter().filter_map(|i| i.parse(URL, Endpoint::parse)).map(|at| at.value).collect()
}

/// What is at the addresses, and how it is spoken to.
fn agree(item: &Item<'_, '_>, endpoints: &[Endpoint], mode: &Mode, tls: Option<&Item<'_, '_>>) {
    let secure = endpoints.iter().filter(|endpoint| endpoint.is_secure()).count();
    if secure != 0 && secure != endpoints.len() {
        item.fail(
            "some of the addresses have TLS and some have none: write rediss:// for all of them, or redis://",
        );
    }
    if let (Some(tls), 0) = (tls, secure) {
        tls.fail("nothing here speaks TLS; write rediss:// for redis://");
    }
    if *mode != Mode::Single && endpoints.iter().any(Endpoint::is_socket) {
        item.fail("a cluster and sentinels are reached by host and port, not by a socket");
    }
}

fn mode(text: &str) -> Result<&'static str, String> {
    let known = ["single", "cluster", "sentinel"];
    known.into_iter().find(|known| *known == text).ok_or_else(|| {
        format!("expected single, cluster or sentinel, found {text:?}{}", suggest(text, known.into_iter()))
    })
}

fn bounded(text: &str, low: u64, high: u64) -> Result<Duration, String> {
    let time = units::duration(text)?;
    let [low, high] = [low, high].map(Duration::from_millis);
    if (low..=high).contains(&time) {
        return Ok(time);
    }
    Err(format!("expected between {low:?} and {high:?}, found {text:?}"))
}

fn prefix(text: &str) -> Result<String, String> {
    if text.len() <= 64 && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'{' | b'}')) {
        return Ok(text.to_owned());
    }
    Err(format!("a prefix has at most 64 visible characters without braces, found {text:?}"))
}

type Pem = Box<str>;
/// Authorities, and a certificate with its key.
type Proofs = (Option<Pem>, Option<(Pem, Pem)>);

fn tls(item: &Item<'_, '_>) -> Option<Proofs> {
    let fields = item.fields("a mapping such as {ca: redis-ca.pem}")?;
    let ca = fields.get("ca").map(|i| pem_file(&i, |text| pem::authorities(text).map(|_| ())));
    let (cert, key) = (fields.get("cert"), fields.get("key"));
    if cert.is_some() != key.is_some() {
        item.fail("`cert` and `key` belong together");
    }
    let cert = cert.map(|i| pem_file(&i, |text| pem::certificates(text).map(|_| ())));
    let key = key.map(|i| pem_file(&i, |text| pem::private_key(text).map(|_| ())));
    fields.close();
    let ca = match ca {
        Some(ca) => Some(ca?),
        None => None,
    };
    let client = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert?, key?)),
        _ => None,
    };
    Some((ca, client))
}

fn pem_file(item: &Item<'_, '_>, sound: impl Fn(&str) -> Result<(), String>) -> Option<Pem> {
    let At { place, value: (path, text) } = item.file("a PEM file")?;
    match sound(&text) {
        Ok(()) => Some(text.into()),
        Err(e) => {
            item.fail(format!("{}: {e}", place.show(path.display())));
            None
        }
    }
}
