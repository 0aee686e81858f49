//! The section `listeners`.

use super::super::decode::{At, Item};
use super::super::raw::{RawListener, RawTls};
use super::{bind, positive_duration};
use crate::gateway::Protocols;
use crate::router::HostPattern;
use crate::tls::clients::Clients;
use crate::tls::names::literal;
use crate::tls::pair::Pair;
use crate::tls::source::{Flaw, Source};
use crate::wire::facts::Terms;
use http::HeaderValue;
use std::time::Duration;

pub(super) fn listener(item: &Item<'_, '_>) -> Option<RawListener> {
    let fields = item.fields("a mapping such as {address: 0.0.0.0:8080}")?;
    let address = fields.need("address").and_then(|i| i.parse("an address to listen on", bind));
    let protocols = fields.get("protocols").and_then(|item| protocols(&item));
    let proxy_protocol = fields.get("proxy_protocol").and_then(|item| item.flag()).filter(|flag| flag.value);
    let tls = fields.get("tls");
    let https = fields.get("redirect_to_https");
    let has_tls = tls.is_some();
    let (tls, hsts) =
        tls.and_then(|item| self::tls(&item)).map_or((None, None), |(tls, hsts)| (Some(tls), hsts));
    if let Some(https) = https.as_ref().filter(|_| has_tls) {
        https.fail("who comes in here speaks TLS already; this belongs to a listener without `tls`");
    }
    let terms = Terms::new(https.and_then(|item| port_of_https(&item)), hsts);
    fields.close();
    let proxy_protocol = proxy_protocol.map(|flag| flag.place);
    Some(RawListener { address: address?, protocols, proxy_protocol, tls, terms })
}

fn protocols(item: &Item<'_, '_>) -> Option<Protocols> {
    let items = item.items("a list such as [h2, http1]");
    if items.is_empty() && item.is_list() {
        item.fail("the list is empty: nothing could be spoken here");
    }
    let mut protocols = Protocols { http1: false, h2: false };
    for item in &items {
        let named = item.parse("h2 or http1", |text| match text {
            "h2" | "http1" => Ok(text == "h2"),
            "h2c" => Err("expected h2 or http1, found \"h2c\": without `tls`, h2 is h2c".to_owned()),
            other => Err(format!("expected h2 or http1, found {other:?}")),
        });
        let Some(At { value: is_h2, .. }) = named else { continue };
        let named = if is_h2 { &mut protocols.h2 } else { &mut protocols.http1 };
        if std::mem::replace(named, true) {
            item.fail("stands in the list twice");
        }
    }
    (!items.is_empty()).then_some(protocols)
}

/// `true`, or the port.
fn port_of_https(item: &Item<'_, '_>) -> Option<Box<str>> {
    let port = item.parse("true or a port", |text| match text {
        "true" => Ok(Some(443)),
        "false" => Ok(None),
        port => match port.parse::<u16>() {
            Ok(0) | Err(_) => Err(format!("expected true or a port such as 8443, found {port:?}")),
            Ok(port) => Ok(Some(port)),
        },
    });
    match port?.value? {
        443 => Some("".into()),
        port => Some(format!(":{port}").into()),
    }
}

fn tls(item: &Item<'_, '_>) -> Option<(RawTls, Option<HeaderValue>)> {
    let fields = item.fields("a mapping such as {certificates: [{cert: a.pem, key: a.key}]}")?;
    let acme = fields.get("acme");
    // Either will do; who has neither is told of the one that needs no authority.
    let list = if acme.is_some() { fields.get("certificates") } else { fields.need("certificates") };
    let certificates = list.as_ref().map(|i| i.items("a list such as [{cert: a.pem, key: a.key}]"));
    if let (Some(list), Some(items)) = (&list, &certificates) {
        if items.is_empty() && list.is_list() {
            list.fail("the list is empty: TLS needs a certificate");
        }
    }
    let pairs: Vec<Pair> = certificates.unwrap_or_default().iter().filter_map(pair).collect();
    let clients = fields.get("client_auth").map(|item| client_auth(&item)).unwrap_or_default();
    let only_tls13 = fields.get("min_version").and_then(|item| {
        item.parse("\"1.2\" or \"1.3\"", |text| match text {
            "1.2" => Ok(false),
            "1.3" => Ok(true),
            "1.0" | "1.1" => Err(format!("TLS {text} is broken (RFC 8996); \"1.2\" is the oldest there is")),
            other => Err(format!("expected \"1.2\" or \"1.3\", found {other:?}")),
        })
    });
    let acme = acme.map(|item| super::acme::acme(&item)).unwrap_or_default();
    let hsts = fields.get("hsts").and_then(|item| hsts(&item));
    fields.close();
    Some((RawTls { pairs, acme, clients, only_tls13: only_tls13.is_some_and(|only| only.value) }, hsts))
}

fn pair(item: &Item<'_, '_>) -> Option<Pair> {
    let fields = item.fields("a mapping such as {cert: a.pem, key: a.key}")?;
    let (cert, key) = (fields.need("cert"), fields.need("key"));
    fields.close();
    let (cert, key) = (cert?, key?);
    let (cert_file, key_file) = (source(&cert), source(&key));
    let (cert_file, key_file) = (cert_file?, key_file?);
    Pair::parse(&cert_file.0, &key_file.0)
        .map_err(|flaw| blame(&flaw, &[(&cert, &cert_file), (&key, &key_file)]))
        .ok()
}

/// One rule for all hosts, or a list of rules.
fn client_auth(item: &Item<'_, '_>) -> Vec<Clients> {
    if !item.is_list() {
        return clients(item).into_iter().collect();
    }
    let rules: Vec<Clients> = item
        .items("a list of rules such as [{hosts: [a.example.com], ca: ca.pem}]")
        .iter()
        .filter_map(clients)
        .collect();
    if rules.iter().filter(|rule| rule.hosts.is_empty()).count() > 1 {
        item.fail("more than one rule without `hosts`: which of them is for all the others?");
    }
    let mut hosts: Vec<&str> = rules.iter().flat_map(|rule| rule.hosts.iter().map(|host| &**host)).collect();
    hosts.sort_unstable();
    if let Some(twice) = hosts.windows(2).find(|two| two[0] == two[1]) {
        item.fail(format!("{:?} stands in more than one rule", twice[0]));
    }
    rules
}

/// A host that a client can name before it shows a certificate: addresses are never said (RFC 6066 §3).
fn client_host(text: &str) -> Result<String, String> {
    let host = HostPattern::parse(text)?.to_string();
    match literal(&host) {
        Some(_) => Err(format!("{text}: who connects by address names nobody; leave `hosts` out for those")),
        None => Ok(host),
    }
}

fn clients(item: &Item<'_, '_>) -> Option<Clients> {
    let fields = item.fields("a mapping such as {ca: clients.pem, mode: required}")?;
    let hosts = fields.get("hosts").map(|item| {
        let hosts = item.items("a list of hosts such as [api.example.com, \"*.example.org\"]");
        let host = |i: &Item<'_, '_>| i.parse("a host", client_host);
        if hosts.is_empty() && item.is_list() {
            item.fail("the list is empty; leave `hosts` out for all hosts");
        }
        hosts.iter().filter_map(host).map(|host| host.value.into()).collect()
    });
    let ca = fields.need("ca");
    let mode = fields.get("mode").map(|item| {
        item.parse("required or optional", |text| match text {
            "required" => Ok(true),
            "optional" => Ok(false),
            other => Err(format!("expected required or optional, found {other:?}")),
        })
    });
    let lists = fields.get("crl").map(|item| match item.is_list() {
        true => item.items("a list of files such as [revoked.pem]"),
        false => vec![item],
    });
    fields.close();
    let required = match mode {
        Some(mode) => mode?.value,
        None => true,
    };
    let lists = lists.unwrap_or_default();
    let (ca, ca_file) = (ca.as_ref()?, source(ca.as_ref()?));
    let crl_files: Option<Vec<(Source, String)>> = lists.iter().map(source).collect();
    let (ca_file, crl_files) = (ca_file?, crl_files?);
    let crl_sources: Vec<Source> = crl_files.iter().map(|(source, _)| source.clone()).collect();
    let files: Vec<_> = std::iter::once((ca, &ca_file)).chain(lists.iter().zip(&crl_files)).collect();
    Clients::parse(hosts.unwrap_or_default(), required, &ca_file.0, &crl_sources)
        .map_err(|flaw| blame(&flaw, &files))
        .ok()
}

/// A file, and how a message may call it.
pub(super) fn source(item: &Item<'_, '_>) -> Option<(Source, String)> {
    let At { place, value: (path, text) } = item.file("a file in PEM")?;
    let shown = place.show(path.display());
    Some((Source::new(path, text), shown))
}

/// Says what is wrong where the file is named.
pub(super) fn blame(flaw: &Flaw, files: &[(&Item<'_, '_>, &(Source, String))]) {
    let named = files.iter().find(|(_, (source, _))| source.path == flaw.path).or(files.first());
    if let Some((item, (_, shown))) = named {
        item.fail(format!("{shown}: {}", flaw.why));
    }
}

/// A duration, or a mapping (RFC 6797 §6.1).
fn hsts(item: &Item<'_, '_>) -> Option<HeaderValue> {
    const FORM: &str = "a duration such as 180d";
    if !item.is_map() {
        return item.parse(FORM, positive_duration).map(|age| hsts_value(age.value, false, false));
    }
    let fields = item.fields("a mapping such as {max_age: 180d, include_subdomains: true}")?;
    let age = fields.need("max_age").and_then(|item| item.parse(FORM, positive_duration));
    let flag = |item: Option<Item<'_, '_>>| item.and_then(|item| item.flag()).is_some_and(|flag| flag.value);
    let (subdomains, preload) = (flag(fields.get("include_subdomains")), flag(fields.get("preload")));
    fields.close();
    let age = age?.value;
    if preload && (!subdomains || age < Duration::from_secs(365 * 86_400)) {
        item.fail(
            "`preload` needs include_subdomains: true and max_age: 365d, or browsers' lists do not take it",
        );
    }
    Some(hsts_value(age, subdomains, preload))
}

fn hsts_value(age: Duration, subdomains: bool, preload: bool) -> HeaderValue {
    let subdomains = if subdomains { "; includeSubDomains" } else { "" };
    let preload = if preload { "; preload" } else { "" };
    let value = format!("max-age={}{subdomains}{preload}", age.as_secs());
    HeaderValue::try_from(value).expect("digits and names are a field value")
}
