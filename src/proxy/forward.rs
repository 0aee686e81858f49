//! The request that goes upstream: hop-by-hop fields are gone already (Pingora's standard policy, RFC 9110
//! §7.6.1), so what a client nominates in `Connection` cannot take away what is added here.

use super::ctx::{conn, Ctx};
use super::request::target;
use crate::base::client::entry_address;
use crate::policy::headers::HeaderEdits;
use crate::policy::rewrite::Rewrite;
use crate::policy::Forward;
use crate::wire::facts::Facts;
use http::header::{self, HeaderName, HeaderValue};
use http::Version;
use pingora::http::RequestHeader;
use pingora::{ErrorType, OrErr, Result};
use pingora_proxy::Session;

const X_FORWARDED_FOR: &str = "X-Forwarded-For";
const X_FORWARDED_PROTO: &str = "X-Forwarded-Proto";
const X_FORWARDED_HOST: &str = "X-Forwarded-Host";
const X_FORWARDED_PORT: &str = "X-Forwarded-Port";

/// Writes the gateway's fields and the route's changes into the upstream's request.
pub(super) fn write(session: &Session, request: &mut RequestHeader, ctx: &Ctx) -> Result<()> {
    drop_spoofed(request, ctx.peer_trusted);
    identify_client(conn(session).map(|c| &c.facts), request)?;
    request.insert_header("X-Request-Id", ctx.id.clone())?;
    via(session.req_header().version, request)?;
    ctx.route().chain.forward().iter().try_for_each(|policy| match policy {
        Forward::Rewrite(change) => rewrite(request, change),
        Forward::Headers(edits) => edit(request, edits),
    })
}

/// Removes what only a trusted proxy may say, and from everyone the spellings with `_` that no proxy writes and some
/// servers fold to these names.
fn drop_spoofed(request: &mut RequestHeader, trusted: bool) {
    let spoofed =
        |name: &&HeaderName| is_forwarding(name.as_str()) && (!trusted || name.as_str().contains('_'));
    let spoofed: Vec<HeaderName> = request.headers.keys().filter(spoofed).cloned().collect();
    for name in &spoofed {
        request.remove_header(name);
    }
}

/// Names that say who the client is or how it came, `_` taken for `-` as CGI-like servers do.
fn is_forwarding(name: &str) -> bool {
    const PREFIX: &[u8] = b"x-forwarded";
    const NAMES: [&[u8]; 6] = [
        b"forwarded",
        b"x-real-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"true-client-ip",
        b"x-request-id",
    ];
    let name = name.as_bytes();
    if !matches!(name.first(), Some(b'x' | b'f' | b't')) {
        return false; // most names, at once
    }
    let same = |a: &u8, b: &u8| a == b || (*a == b'_' && *b == b'-');
    let begins = |with: &[u8]| name.len() >= with.len() && name.iter().zip(with).all(|(a, b)| same(a, b));
    begins(PREFIX) || NAMES.iter().any(|n| name.len() == n.len() && begins(n))
}

/// `X-Forwarded-*`: appended to what a trusted proxy says, else written anew; `Forwarded` (RFC 7239) from them.
fn identify_client(facts: Option<&Facts>, request: &mut RequestHeader) -> Result<()> {
    let host = request.headers.get(header::HOST).filter(|host| !host.is_empty()).cloned();
    // `Forwarded` follows from the chain that is believed. Appending to a received one would trust it too, and
    // many proxies write X-Forwarded-For alone and pass their client's `Forwarded` through.
    let mut forwarded = Vec::with_capacity(96);
    for hop in request.headers.get_all(X_FORWARDED_FOR) {
        for entry in String::from_utf8_lossy(hop.as_bytes()).split(',') {
            let node =
                entry_address(entry.trim()).map_or_else(|| "unknown".to_owned(), crate::base::client::node);
            forwarded.extend_from_slice(format!("for={node}, ").as_bytes());
        }
    }
    if let Some(peer) = facts.and_then(|f| f.peer.as_ref()) {
        let chain = joined(request, X_FORWARDED_FOR, peer)?;
        request.insert_header(X_FORWARDED_FOR, chain)?;
    }
    forwarded.extend_from_slice(b"for=");
    forwarded.extend_from_slice(facts.map_or(b"unknown", |f| f.node.as_bytes()));
    forwarded.extend_from_slice(b";proto=http");
    if let Some(host) = &host {
        // A Host may hold `;` and `=`, which would add parameters here; it never holds a quote or a backslash.
        let is_token = host.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(b));
        let (before, after): (&[u8], &[u8]) = if is_token { (b";host=", b"") } else { (b";host=\"", b"\"") };
        forwarded.extend_from_slice(before);
        forwarded.extend_from_slice(host.as_bytes());
        forwarded.extend_from_slice(after);
    }
    request.insert_header("Forwarded", value(forwarded)?)?;
    insert_absent(request, X_FORWARDED_PROTO, Some(&HeaderValue::from_static("http")))?;
    insert_absent(request, X_FORWARDED_HOST, host.as_ref())?;
    insert_absent(request, X_FORWARDED_PORT, facts.and_then(|f| f.local_port.as_ref()))
}

fn insert_absent(request: &mut RequestHeader, name: &'static str, value: Option<&HeaderValue>) -> Result<()> {
    match value {
        Some(value) if !request.headers.contains_key(name) => request.insert_header(name, value.clone()),
        _ => Ok(()),
    }
}

/// All values of a field, byte for byte, and one more, as one list.
fn joined(request: &RequestHeader, name: &str, last: &HeaderValue) -> Result<HeaderValue> {
    if !request.headers.contains_key(name) {
        return Ok(last.clone());
    }
    let mut list = Vec::new();
    for value in request.headers.get_all(name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(last.as_bytes());
    value(list)
}

fn value(bytes: Vec<u8>) -> Result<HeaderValue> {
    HeaderValue::try_from(bytes).explain_err(ErrorType::InvalidHTTPHeader, |_| "a list of field values")
}

/// RFC 9110 §7.6.3: a gateway names itself in each request it forwards, with the version that came in.
fn via(received: Version, request: &mut RequestHeader) -> Result<()> {
    let own = if received == Version::HTTP_10 { "1.0 portcullis" } else { "1.1 portcullis" };
    let list = joined(request, "Via", &HeaderValue::from_static(own))?;
    request.insert_header("Via", list)
}

fn rewrite(request: &mut RequestHeader, change: &Rewrite) -> Result<()> {
    if let Some(host) = &change.host {
        request.insert_header("Host", host.clone())?;
    }
    let Some(change) = &change.path else { return Ok(()) };
    let (path, query) = target(request);
    let mut target = change.apply(path).into_owned();
    if request.uri.query().is_some() {
        target.push('?');
        target.push_str(query);
    }
    request.set_raw_path(target.as_bytes())
}

fn edit(request: &mut RequestHeader, edits: &HeaderEdits) -> Result<()> {
    for name in &edits.remove {
        request.remove_header(name);
    }
    for (name, value) in &edits.set {
        request.insert_header(name.clone(), value.clone())?;
    }
    for (name, value) in &edits.add {
        request.append_header(name.clone(), value.clone())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_forwarding_field_is_known() {
        for name in [
            "x-forwarded-for",
            "x_forwarded_for",
            "x-forwarded_host",
            "x-forwarded-user",
            "forwarded",
            "x_real_ip",
            "true-client-ip",
            "x-request-id",
        ] {
            assert!(is_forwarding(name), "{name}");
        }
        for name in ["x-forward", "forwarded-by-me", "x-real-ipsum", "x-tenant", "via"] {
            assert!(!is_forwarding(name), "{name}");
        }
    }
}
