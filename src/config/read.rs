//! The tree to [`Raw`]: types and units, one function a section.

mod acme;
pub(super) mod auth;
mod door;
mod limit;
mod listener;
mod load;
mod observe;
mod provider;
mod route;
mod tls;
mod upstream;

use super::decode::Item;
use super::raw::{positive_duration, socket_path, Raw, RawLimits, RawUpgrade};
use crate::base::addresses::network;
use crate::base::units;
use crate::gateway::Bind;
use crate::policy::rewrite;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Reads the whole file; what is wrong is noted in the item's run and left out.
pub(super) fn file(root: &Item<'_, '_>) -> Raw {
    let mut raw = Raw::default();
    let Some(fields) = root.fields("a mapping with `listeners` and `routes`") else { return raw };
    if let Some(item) = fields.need("listeners") {
        let items = item.items("a list of listeners such as [{address: 0.0.0.0:8080}]");
        if items.is_empty() && item.is_list() {
            item.fail("the list is empty: without a listener nothing can come in");
        }
        raw.listeners = items.iter().filter_map(listener::listener).collect();
    }
    let threads = fields.get("threads").and_then(|i| i.number("a number of threads", 1, 1024));
    raw.threads = threads.map(|n| n.value as usize);
    raw.grace_period =
        fields.get("grace_period").and_then(|i| i.parse("a duration", units::duration)).map(|d| d.value);
    raw.watch = fields.get("watch").and_then(|i| i.flag()).is_some_and(|watch| watch.value);
    raw.linger = fields.get("linger").and_then(|i| i.parse("a duration", linger)).map(|d| d.value);
    if let Some(item) = fields.get("upgrade") {
        raw.upgrade = upgrade(&item).unwrap_or_default();
    }
    raw.control = fields.get("control").and_then(|item| control(&item));
    raw.admin = fields.get("admin").and_then(|item| observe::admin(&item));
    if let Some(item) = fields.get("access_log") {
        raw.access_log = observe::access_log(&item).unwrap_or_default();
    }
    raw.traces = fields.get("traces").and_then(|item| observe::traces(&item));
    if let Some(item) = fields.get("trusted_proxies") {
        let items = item.items("a list of networks such as [10.0.0.0/8]");
        let networks = items.iter().filter_map(|i| i.parse("a network", network));
        raw.trusted_proxies = networks.map(|n| n.value).collect();
    }
    if let Some(resolver) = fields.get("resolver") {
        raw.resolver = self::resolver(&resolver);
    }
    if let Some(item) = fields.get("limits") {
        raw.limits = limits(&item).unwrap_or_default();
    }
    if let Some(item) = fields.get("rate_limit_store") {
        raw.rate_limits = limit::store(&item).unwrap_or_default();
    }
    if let Some(item) = fields.get("rate_plans") {
        raw.rate_plans = limit::plans(&item);
    }
    if let Some(item) = fields.get("upstreams") {
        let entries = item.entries("a mapping from names to upstreams");
        raw.upstreams = entries.iter().map(|(name, item)| upstream::upstream(name, item)).collect();
    }
    if let Some(item) = fields.get("consumers") {
        let entries = item.entries("a mapping from names to consumers");
        raw.consumers = entries.iter().map(|(name, item)| auth::consumer(name, item)).collect();
    }
    if let Some(item) = fields.get("providers") {
        let entries = item.entries("a mapping from names to providers");
        raw.providers = entries.iter().map(|(name, item)| provider::provider(name, item)).collect();
    }
    if let Some(item) = fields.get("defaults") {
        if let Some(fields) = item.fields("a mapping such as {timeout: 10s}") {
            raw.defaults = route::policies(&fields);
            fields.close();
        }
    }
    if let Some(item) = fields.need("routes") {
        let items = item.items("a list of routes such as [{path: /a, upstream: a}]");
        if items.is_empty() && item.is_list() {
            item.fail("the list is empty: without a route every answer is 404");
        }
        raw.routes = items.iter().filter_map(route::route).collect();
    }
    fields.close();
    raw
}

/// Shorter than any client's patience: it is waited for even when none sends anything.
fn linger(text: &str) -> Result<Duration, String> {
    let linger = units::duration(text)?;
    if linger > Duration::from_secs(10) {
        return Err(format!("{text} is too long: between 0s and 10s"));
    }
    Ok(linger)
}

fn upgrade(item: &Item<'_, '_>) -> Option<RawUpgrade> {
    let fields = item.fields("a mapping such as {rollback_window: 30s}")?;
    let time = |name, parse: fn(&str) -> Result<Duration, String>| {
        fields.get(name).and_then(|i| i.parse("a duration", parse)).map(|d| d.value)
    };
    let upgrade = RawUpgrade {
        timeout: time("timeout", positive_duration),
        rollback_window: time("rollback_window", units::duration),
    };
    fields.close();
    Some(upgrade)
}

fn control(item: &Item<'_, '_>) -> Option<PathBuf> {
    let fields = item.fields("a mapping such as {socket: /run/portcullis/control.sock}")?;
    let socket = fields.need("socket").and_then(|i| i.parse("a path", socket_path));
    fields.close();
    socket.map(|s| s.value)
}

/// `ip:port`, `[v6]:port`, `unix:/path`.
fn bind(text: &str) -> Result<Bind, String> {
    const FORM: &str = "expected ip:port, [v6]:port or unix:/path";
    if let Some(path) = text.strip_prefix("unix:") {
        let path = socket_path(path);
        return path
            .map(Bind::Unix)
            .map_err(|_| format!("{FORM}; a socket's path begins with / and has at most 107 bytes"));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Bind::Tcp(address));
    }
    if let Some(port) = text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
        return Err(format!(
            "{FORM}, found {text:?}: write 0.0.0.0:{port} for every IPv4 address, [::]:{port} for IPv6"
        ));
    }
    Err(match text.strip_prefix("localhost:") {
        Some(port) => format!("{FORM}, found {text:?}: write 127.0.0.1:{port}"),
        None => format!("{FORM}, found {text:?}"),
    })
}

fn resolver(item: &Item<'_, '_>) -> Option<Vec<SocketAddr>> {
    let fields = item.fields("a mapping such as {servers: [10.0.0.2:53]}")?;
    let servers = fields.need("servers").map(|i| (i.items("a list of name servers such as [10.0.0.2]"), i));
    fields.close();
    let server = |text: &str| {
        let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
        bare.or_else(|_| text.parse())
            .map_err(|_| format!("expected an address such as 10.0.0.2 or 10.0.0.2:5353, found {text:?}"))
    };
    if servers.as_ref().is_some_and(|(servers, list)| servers.is_empty() && list.is_list()) {
        item.fail("no name server; leave `resolver` out to use the system's");
    }
    Some(servers?.0.iter().filter_map(|i| i.parse("a name server", server)).map(|s| s.value).collect())
}

fn limits(item: &Item<'_, '_>) -> Option<RawLimits> {
    let fields = item.fields("a mapping such as {connections: 5000}")?;
    let count = |name, high| fields.get(name).and_then(|i| i.number("a number", 1, high)).map(|n| n.value);
    let time = |name| -> Option<Duration> {
        fields.get(name).and_then(|i| i.parse("a duration", positive_duration)).map(|d| d.value)
    };
    let size = |name, low, high| {
        fields.get(name).and_then(|i| i.parse("a size", |t| bounded_size(t, low, high))).map(|s| s.value)
    };
    let limits = RawLimits {
        connections: count("connections", 10_000_000),
        connections_per_address: count("connections_per_address", 10_000_000),
        header_timeout: time("header_timeout"),
        idle_timeout: time("idle_timeout"),
        write_timeout: time("write_timeout"),
        min_body_rate: fields
            .get("min_body_rate")
            .and_then(|i| i.parse("bytes a second", positive_rate))
            .map(|r| r.value),
        requests_per_connection: count("requests_per_connection", u64::from(u32::MAX)),
        max_target: size("max_target", 64, 1 << 19),
        h2_streams: count("h2_streams", 10_000),
        // Pingora reads at most 1 MiB and 256 fields.
        max_header: size("max_header", 256, 1 << 19),
        max_header_fields: count("max_header_fields", 250),
    };
    fields.close();
    Some(limits)
}

/// A path in normal form, anything else refused in words for who writes a file, not a request.
fn plain_path(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err(format!("expected a path that begins with /, found {text:?}"));
    }
    rewrite::plain_path(text).map_err(|e| {
        e.replace("The request", "the").replace("the request", "the").trim_end_matches('.').to_owned()
    })
}

fn positive_rate(text: &str) -> Result<u64, String> {
    match units::byte_rate(text)? {
        0 => Err("expected more than nothing; 1B/s lets nearly everything through".to_owned()),
        rate => Ok(rate),
    }
}

fn bounded_size(text: &str, low: u64, high: u64) -> Result<u64, String> {
    let size = units::size(text)?;
    if (low..=high).contains(&size) {
        return Ok(size);
    }
    Err(format!(
        "expected a size between {} and {}, found {text:?}",
        units::show_size(low),
        units::show_size(high)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners() {
        assert!(bind("0.0.0.0:80").is_ok() && bind("[::]:80").is_ok() && bind("unix:/run/x.sock").is_ok());
        assert!(bind(":80").unwrap_err().contains("0.0.0.0:80"));
        assert!(bind("localhost:80").unwrap_err().contains("127.0.0.1:80"));
        for bad in ["", "80", "1.2.3.4", "unix:x", "1.2.3.4:99999"] {
            assert!(bind(bad).is_err(), "{bad}");
        }
    }
}
