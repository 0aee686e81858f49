//! The section `upstreams`.

use super::super::decode::{At, Item};
use super::super::raw::{
    positive_duration, provable, whereabouts, Balance, RawHealthCheck, RawProtocol, RawTarget, RawTimeouts,
    RawUpstream, RawUpstreamTls,
};
use super::{load, plain_path, tls};
use crate::policy::headers;
use crate::upstream::balance::HashOn;
use crate::wire::proxy_protocol::Version;
use std::time::Duration;

pub(super) fn upstream(name: &At<String>, item: &Item<'_, '_>) -> RawUpstream {
    // Without its fields it is still there, so that routes to it are no errors of their own.
    let Some(fields) = item.fields("a mapping with `targets`") else {
        return RawUpstream::empty(name.clone());
    };
    let targets = fields.need("targets").map(|i| (i.items("a list of targets such as [10.0.0.11:8080]"), i));
    if let Some((targets, item)) = &targets {
        if targets.is_empty() && item.is_list() {
            item.fail("the list is empty: an upstream needs at least one target");
        }
    }
    let targets = targets.map(|(targets, _)| targets).unwrap_or_default();
    let (pool, ping) = fields.get("keepalive").map(|i| keepalive(&i)).unwrap_or_default();
    let upstream = RawUpstream {
        name: name.clone(),
        targets: targets.iter().filter_map(target).collect(),
        balance: fields.get("balance").and_then(|i| balance(&i)),
        protocol: fields.get("protocol").and_then(|i| i.parse("http1, h2, h2c or auto", RawProtocol::read)),
        tls: fields.get("tls").and_then(|i| secured(&i)),
        proxy_protocol: fields.get("proxy_protocol").and_then(|i| proxy_protocol(&i)),
        health_check: fields.get("health_check").and_then(|i| health_check(&i)),
        timeouts: fields.get("timeouts").and_then(|i| timeouts(&i)).unwrap_or_default(),
        pool,
        ping,
        load: fields.get("concurrency").and_then(|i| load::upstream(&i)).unwrap_or_default(),
    };
    fields.close();
    upstream
}

fn proxy_protocol(item: &Item<'_, '_>) -> Option<Version> {
    let parse = |text: &str| match text {
        "v1" => Ok(Version::V1),
        "v2" => Ok(Version::V2),
        "true" => Err("expected v1 or v2: which version do its targets read?".to_owned()),
        other => Err(format!("expected v1 or v2, found {other:?}")),
    };
    item.parse("v1 or v2", parse).map(|version| version.value)
}

fn target(item: &Item<'_, '_>) -> Option<At<RawTarget>> {
    let address = |item: &Item<'_, '_>| item.parse("host:port or unix:/path", whereabouts);
    if !item.is_map() {
        let At { place, value: at } = address(item)?;
        return Some(At { place, value: RawTarget { at, weight: 1 } });
    }
    let fields = item.fields("a target")?;
    let found = fields.need("address").and_then(|i| address(&i));
    // The balancer holds a slot for each unit of weight.
    let weight = fields.get("weight").map(|i| i.number("a weight", 1, 1000));
    fields.close();
    let weight = match weight {
        Some(weight) => weight?.value as usize,
        None => 1,
    };
    let At { place, value: at } = found?;
    Some(At { place, value: RawTarget { at, weight } })
}

/// `true` is as good as an empty mapping.
fn secured(item: &Item<'_, '_>) -> Option<RawUpstreamTls> {
    if !item.is_map() {
        let wanted = item.parse("a mapping such as {sni: orders.internal} or true", |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            other => {
                Err(format!("expected a mapping such as {{sni: orders.internal}} or true, found {other:?}"))
            }
        });
        return wanted?.value.then(RawUpstreamTls::default);
    }
    let fields = item.fields("a mapping such as {sni: orders.internal}")?;
    let client = fields.get("client").and_then(|item| {
        let fields = item.fields("a mapping such as {cert: gateway.pem, key: gateway.key}")?;
        let pair = tls::credentials(&fields);
        fields.close();
        pair
    });
    let tls = RawUpstreamTls {
        sni: fields.get("sni").and_then(|i| i.parse("a name", provable)).map(|name| name.value),
        ca: fields.get("ca").and_then(|i| tls::authorities(&i)),
        verify: fields.get("verify").and_then(|i| i.flag()).is_none_or(|verify| verify.value),
        client,
    };
    fields.close();
    Some(tls)
}

fn balance(item: &Item<'_, '_>) -> Option<Balance> {
    const FORM: &str = "round_robin, random or {consistent_hash: …}";
    if item.is_map() {
        let fields = item.fields(FORM)?;
        let on = fields.need("consistent_hash").and_then(|i| hash_on(&i));
        fields.close();
        return on.map(Balance::ConsistentHash);
    }
    let parse = |text: &str| match text {
        "round_robin" => Ok(Balance::RoundRobin),
        "random" => Ok(Balance::Random),
        "consistent_hash" => {
            Err("consistent_hash needs to know what to hash: {consistent_hash: client_ip}?".to_owned())
        }
        other => {
            let near = super::super::decode::suggest(other, ["round_robin", "random"].into_iter());
            Err(format!("expected {FORM}, found {other:?}{near}"))
        }
    };
    item.parse(FORM, parse).map(|b| b.value)
}

fn hash_on(item: &Item<'_, '_>) -> Option<HashOn> {
    const FORM: &str = "client_ip, path, {header: NAME} or {cookie: NAME}";
    if !item.is_map() {
        let parse = |text: &str| match text {
            "client_ip" => Ok(HashOn::ClientIp),
            "path" => Ok(HashOn::Path),
            other => Err(format!("expected {FORM}, found {other:?}")),
        };
        return item.parse(FORM, parse).map(|h| h.value);
    }
    let fields = item.fields(FORM)?;
    let header = fields
        .get("header")
        .and_then(|i| i.parse("a header name", header_name))
        .map(|h| HashOn::Header(h.value));
    let cookie = fields.get("cookie").and_then(|i| i.text("a cookie name")).map(|c| HashOn::Cookie(c.value));
    fields.close();
    if header.is_some() == cookie.is_some() {
        item.fail(format!("expected one of {FORM}"));
        return None;
    }
    header.or(cookie)
}

pub(super) fn header_name(text: &str) -> Result<http::HeaderName, String> {
    text.parse().map_err(|_| format!("{text:?} is not a header name"))
}

fn health_check(item: &Item<'_, '_>) -> Option<RawHealthCheck> {
    let fields = item.fields("a mapping such as {path: /healthz, interval: 5s}")?;
    let time = |name| -> Option<Duration> {
        fields.get(name).and_then(|i| i.parse("a duration", positive_duration)).map(|d| d.value)
    };
    let count =
        |name| fields.get(name).and_then(|i| i.number("a number of checks", 1, 1000)).map(|n| n.value);
    let path_query = |text: &str| {
        let (path, query) = text.split_once('?').map_or((text, None), |(p, q)| (p, Some(q)));
        if query.is_some_and(|q| !q.bytes().all(|b| b.is_ascii_graphic() && b != b'#')) {
            return Err(format!("{text:?}: a query is visible characters, others as %XX"));
        }
        plain_path(path).map(|_| text.to_owned())
    };
    let check = RawHealthCheck {
        path: fields.get("path").and_then(|i| i.parse("a path", path_query)).map(|p| p.value),
        host: fields
            .get("host")
            .and_then(|i| i.parse("a host", |t| headers::value(t).map(|_| t.to_owned())))
            .map(|h| h.value),
        grpc: fields.get("grpc").and_then(|i| called(&i)),
        port: fields.get("port").and_then(|i| i.number("a port", 1, 65_535)).map(|p| p.value as u16),
        interval: time("interval"),
        timeout: time("timeout"),
        healthy_after: count("healthy_after"),
        unhealthy_after: count("unhealthy_after"),
        expect: fields.get("expect").map(|i| {
            let items = i.items("a list of statuses such as [200]");
            if items.is_empty() && i.is_list() {
                i.fail("the list is empty: no answer could pass");
            }
            items.iter().filter_map(|i| i.parse("a status", statuses)).map(|s| s.value).collect()
        }),
    };
    fields.close();
    if check.grpc.is_some() && (check.path.is_some() || check.expect.is_some()) {
        item.fail("a check is a GET of `path`, with `expect`, or a call with `grpc`, not both");
    } else if check.grpc.is_none() && check.path.is_none() && (check.expect.is_some() || check.host.is_some())
    {
        item.fail("`expect` and `host` belong to an HTTP check, which needs `path`; without it a connection is the check");
    }
    if let (Some(interval), Some(timeout)) = (check.interval, check.timeout) {
        if timeout > interval {
            item.fail(format!("the timeout ({timeout:?}) is longer than the interval ({interval:?})"));
        }
    }
    Some(check)
}

/// `true`, or a mapping that names a service.
fn called(item: &Item<'_, '_>) -> Option<At<String>> {
    const FORM: &str = "true or a mapping such as {service: orders.Orders}";
    if !item.is_map() {
        let read = |text: &str| match text {
            "true" => Ok(Some(String::new())),
            "false" => Ok(None),
            other => Err(format!("expected {FORM}, found {other:?}")),
        };
        let At { place, value } = item.parse(FORM, read)?;
        return value.map(|value| At { place, value });
    }
    let fields = item.fields(FORM)?;
    let service = fields.need("service").and_then(|i| i.text("the name of a service"));
    fields.close();
    service
}

/// `200`, `2xx` or `200-399`.
fn statuses(text: &str) -> Result<(u16, u16), String> {
    let bad = || format!("expected a status such as 200, 2xx or 200-399, found {text:?}");
    let status = |t: &str| t.parse::<u16>().ok().filter(|s| (100..600).contains(s)).ok_or_else(bad);
    if let Some(class) = text.strip_suffix("xx") {
        let low = status(&format!("{class}00"))?;
        return Ok((low, low + 99));
    }
    match text.split_once('-') {
        Some((low, high)) => {
            let (low, high) = (status(low)?, status(high)?);
            if low > high {
                Err(bad())
            } else {
                Ok((low, high))
            }
        }
        None => status(text).map(|s| (s, s)),
    }
}

fn timeouts(item: &Item<'_, '_>) -> Option<RawTimeouts> {
    let fields = item.fields("a mapping such as {connect: 1s, read: 10s}")?;
    let time = |name| -> Option<Duration> {
        fields.get(name).and_then(|i| i.parse("a duration", positive_duration)).map(|d| d.value)
    };
    let timeouts = RawTimeouts {
        connect: time("connect"),
        read: time("read"),
        write: time("write"),
        idle: time("idle"),
        tunnel: time("tunnel"),
    };
    fields.close();
    Some(timeouts)
}

/// `pool` and `ping`, of which there has to be one.
fn keepalive(item: &Item<'_, '_>) -> (Option<u64>, Option<At<Duration>>) {
    let Some(fields) = item.fields("a mapping such as {pool: 128}") else { return (None, None) };
    let ping = fields.get("ping");
    let pool = if ping.is_some() { fields.get("pool") } else { fields.need("pool") };
    let pool = pool.and_then(|i| i.number("a number of idle connections", 1, 1_000_000));
    let ping = ping.and_then(|i| i.parse("a duration", positive_duration));
    fields.close();
    (pool.map(|p| p.value), ping)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_ranges() {
        assert_eq!(statuses("200"), Ok((200, 200)));
        assert_eq!(statuses("2xx"), Ok((200, 299)));
        assert_eq!(statuses("200-399"), Ok((200, 399)));
        for bad in ["", "99", "600", "xx", "9xx", "300-200", "ok"] {
            assert!(statuses(bad).is_err(), "{bad}");
        }
    }
}
