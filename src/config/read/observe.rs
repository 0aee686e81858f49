//! The sections `admin`, `access_log` and `traces`.

use super::super::decode::{suggest, At, Item};
use super::super::raw::{host_port, positive_duration};
use super::{bind, bounded_size};
use crate::base::units;
use crate::gateway::{Admin, Bind};
use crate::observe::access_log::{Format, Spec};
use crate::observe::export::{self, Protocol};
use crate::observe::sink::Destination;
use std::path::Path;
use std::time::Duration;

/// Fewer characters could be guessed.
const SHORTEST_TOKEN: usize = 16;

pub(super) fn admin(item: &Item<'_, '_>) -> Option<At<Admin>> {
    let fields = item.fields("a mapping such as {address: 127.0.0.1:9901}")?;
    let address = fields.need("address").and_then(|i| i.parse("an address to listen on", bind));
    let token = fields.get("token").map(|i| i.parse("a token", token));
    let hosts = fields.get("hosts").map(|i| i.items("a list of host names such as [gateway.internal]"));
    let hosts = hosts.unwrap_or_default();
    let hosts = hosts.iter().filter_map(|i| i.parse("a host name", host)).map(|h| h.value.into()).collect();
    fields.close();
    let token = match token {
        None => None,
        Some(token) => Some(token?.value.into()),
    };
    let At { place, value: address } = address?;
    let far = matches!(&address, Bind::Tcp(address) if !address.ip().is_loopback());
    if far && token.is_none() {
        item.fail(format!(
            "{address} can be reached from other machines: give a `token`, such as ${{file:/run/secrets/admin}}, or an \
             address of this machine, such as 127.0.0.1:9901"
        ));
    }
    Some(At { place, value: Admin { address, token, hosts } })
}

fn token(text: &str) -> Result<String, String> {
    let sound = text.bytes().all(|b| b.is_ascii_graphic());
    if text.len() < SHORTEST_TOKEN || !sound {
        return Err(format!(
            "a token has at least {SHORTEST_TOKEN} visible characters, as `openssl rand -hex 32` makes"
        ));
    }
    Ok(text.to_owned())
}

fn host(text: &str) -> Result<String, String> {
    match host_port(&format!("{text}:80")) {
        Ok((host, _)) => Ok(host),
        Err(_) => Err(format!("expected a host name without port, such as gateway.internal, found {text:?}")),
    }
}

pub(super) fn access_log(item: &Item<'_, '_>) -> Option<Spec> {
    let fields = item.fields("a mapping such as {path: stderr, format: json}")?;
    let default = Spec::default();
    let path = fields.get("path").map(|i| i.parse("a path, stdout, stderr or off", destination));
    let format = fields.get("format").map(|i| i.parse("a format", format));
    let sample = fields.get("sample").map(|i| i.parse("a share", units::share));
    let room = fields.get("buffer").map(|i| i.parse("a size", |t| bounded_size(t, 64 << 10, 1 << 30)));
    let mask = fields.get("mask").map(|i| i.items("a list of query parameters such as [ticket]"));
    let mask = mask.unwrap_or_default();
    let mask = mask.iter().filter_map(|i| i.text("the name of a query parameter"));
    let spec = Spec {
        mask: mask.map(|name| name.value.to_lowercase()).collect(),
        to: path.map_or(Some(default.to), |p| p.map(|p| p.value))?,
        format: format.map_or(Some(default.format), |f| f.map(|f| f.value))?,
        sample: sample.map_or(Some(default.sample), |s| s.map(|s| s.value))?,
        room: room.map_or(Some(default.room), |r| r.map(|r| r.value as usize))?,
    };
    fields.close();
    Some(spec)
}

fn destination(text: &str) -> Result<Option<Destination>, String> {
    match text {
        "off" => Ok(None),
        "stdout" => Ok(Some(Destination::Stdout)),
        "stderr" => Ok(Some(Destination::Stderr)),
        path if path.contains('/') && !path.ends_with('/') => {
            Ok(Some(Destination::File(Path::new(path).to_owned())))
        }
        other => Err(format!(
            "expected a path with a /, stdout, stderr or off, found {other:?}{}",
            suggest(other, ["stdout", "stderr", "off"].into_iter())
        )),
    }
}

fn format(text: &str) -> Result<Format, String> {
    match text {
        "json" => Ok(Format::Json),
        "common" => Ok(Format::Common),
        "combined" => Ok(Format::Combined),
        other => Err(format!(
            "expected json, common or combined, found {other:?}{}",
            suggest(other, ["json", "common", "combined"].into_iter())
        )),
    }
}

/// The share of traces that is recorded where nobody before has decided.
const SAMPLE: f64 = 0.1;

pub(super) fn traces(item: &Item<'_, '_>) -> Option<(export::Spec, f64)> {
    let fields = item.fields("a mapping such as {endpoint: \"http://127.0.0.1:4317\"}")?;
    let endpoint = fields.need("endpoint").and_then(|i| i.parse("a URL", endpoint));
    let protocol = fields.get("protocol").map(|i| i.parse("grpc or http", protocol));
    let sample = fields.get("sample").map(|i| i.parse("a share", units::share));
    let name = fields.get("service_name").map(|i| i.text("a name"));
    let timeout = fields.get("timeout").map(|i| i.parse("a duration", positive_duration));
    let headers = fields.get("headers").map(|i| i.entries("a mapping such as {x-team: platform}"));
    let mut found = Vec::new();
    for (name, item) in headers.unwrap_or_default() {
        let value = item.parse("a header value", |t| crate::policy::headers::value(t).map(|_| t.to_owned()));
        match (super::upstream::header_name(&name.value), value) {
            (Ok(name), Some(value)) => found.push((name.to_string(), value.value)),
            (Err(e), _) => item.fail(e),
            _ => {}
        }
    }
    fields.close();
    let grpc = matches!(&protocol, None | Some(Some(At { value: Protocol::Grpc, .. })));
    let has_path = |url: &At<String>| url.value.trim_end_matches('/').matches('/').count() > 2;
    if grpc && endpoint.as_ref().is_some_and(has_path) {
        item.fail("with gRPC the endpoint has no path: leave it out, or write `protocol: http`");
    }
    let spec = export::Spec {
        protocol: protocol.map_or(Some(Protocol::Grpc), |p| p.map(|p| p.value))?,
        service_name: name.map_or(Some("portcullis".to_owned()), |n| n.map(|n| n.value))?,
        headers: found,
        timeout: timeout.map_or(Some(Duration::from_secs(5)), |t| t.map(|t| t.value))?,
        endpoint: endpoint?.value,
    };
    Some((spec, sample.map_or(Some(SAMPLE), |s| s.map(|s| s.value))?))
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "grpc" => Ok(Protocol::Grpc),
        "http" => Ok(Protocol::Http),
        other => Err(format!("expected grpc or http, found {other:?}")),
    }
}

/// `http://host:port`, for HTTP with a path if it is not `/v1/traces`.
fn endpoint(text: &str) -> Result<String, String> {
    if text.starts_with("https://") {
        return Err(
            "TLS to a collector is not built yet; send to one on this machine and have it send on".to_owned()
        );
    }
    let form = || format!("expected http://host:port, found {text:?}");
    let rest = text.strip_prefix("http://").ok_or_else(form)?;
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let sound = path.bytes().all(|b| b.is_ascii_graphic() && b != b'#' && b != b'?');
    host_port(authority).map_err(|_| form())?;
    if sound {
        Ok(text.to_owned())
    } else {
        Err(form())
    }
}
