//! The request that goes upstream: hop-by-hop fields are gone already (Pingora's standard policy, RFC 9110
//! §7.6.1), so what a client nominates in `Connection` cannot take away what is added here.

use super::ctx::{client, Ctx};
use super::request::{nothing, target};
use crate::base::client::{entry_address, is_forwarding};
use crate::observe::trace::new_span;
use crate::policy::headers::HeaderEdits;
use crate::policy::rewrite::Rewrite;
use crate::policy::sieve::Sieve;
use crate::policy::{Edit, Forward};
use crate::wire::facts::Facts;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{ErrorType, OrErr, Result};
use pingora_proxy::Session;
use smallvec::SmallVec;

/// A field that the gateway writes, in both of its spellings.
pub struct Name {
    spelt: &'static str,
    name: HeaderName,
}

const fn name(spelt: &'static str, lower: &'static str) -> Name {
    Name { spelt, name: HeaderName::from_static(lower) }
}

const FORWARDED: Name = name("Forwarded", "forwarded");
const VIA: Name = name("Via", "via");
const X_REQUEST_ID: Name = name("X-Request-Id", "x-request-id");
const X_FORWARDED_FOR: Name = name("X-Forwarded-For", "x-forwarded-for");
const X_FORWARDED_PROTO: Name = name("X-Forwarded-Proto", "x-forwarded-proto");
const X_FORWARDED_HOST: Name = name("X-Forwarded-Host", "x-forwarded-host");
const X_FORWARDED_PORT: Name = name("X-Forwarded-Port", "x-forwarded-port");

/// The client's certificate (RFC 9440 §2.2), and what led to it (§2.3), which is not passed on.
const CLIENT_CERT: Name = name("Client-Cert", "client-cert");
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");

const TRACEPARENT_NAME: Name = name("traceparent", "traceparent");
/// The W3C's names for a request's place in its trace.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Who asks, as the gateway knows them; nobody else may say so.
const X_CONSUMER: Name = name("X-Consumer", "x-consumer");
const X_CONSUMER_GROUPS: Name = name("X-Consumer-Groups", "x-consumer-groups");

/// How many these are without the consumer's.
const NAMES: usize = 9;

/// The fields of a request that goes upstream: the engine's two maps, of values and of spellings, or the first alone.
pub trait Fields {
    /// The values.
    fn map(&self) -> &HeaderMap;
    /// Puts a value in place of all others of its field.
    ///
    /// # Errors
    /// When there are too many.
    fn put(&mut self, name: Name, value: HeaderValue) -> Result<()>;
    /// Takes a field away.
    fn remove(&mut self, name: &HeaderName);
}

impl Fields for RequestHeader {
    fn map(&self) -> &HeaderMap {
        &self.headers
    }

    fn put(&mut self, name: Name, value: HeaderValue) -> Result<()> {
        self.insert_header(name.spelt, value)
    }

    fn remove(&mut self, name: &HeaderName) {
        self.remove_header(name);
    }
}

impl Fields for HeaderMap {
    fn map(&self) -> &HeaderMap {
        self
    }

    fn put(&mut self, name: Name, value: HeaderValue) -> Result<()> {
        let put = self.try_insert(name.name, value);
        put.map(|_| ()).or_err(ErrorType::InvalidHTTPHeader, "too many fields")
    }

    fn remove(&mut self, name: &HeaderName) {
        HeaderMap::remove(self, name);
    }
}

/// Lets the client send its body, if it waits to be let (RFC 9110 §10.1.1), where no 100 of the upstream's would reach it:
/// the engine passes none on from HTTP/2.
pub(super) async fn meet_expectation(session: &mut Session, request: &mut RequestHeader) -> Result<()> {
    if request.version != Version::HTTP_2 || request.remove_header(&header::EXPECT).is_none() {
        return Ok(());
    }
    if client(session).is_some_and(|client| !client.body_done()) {
        session.write_response_header(Box::new(ResponseHeader::build(100, None)?), false).await?;
    }
    if let Some(client) = client(session) {
        client.expect_body();
    }
    Ok(())
}

/// Writes the gateway's fields and the route's changes into the upstream's request.
pub(super) fn write(session: &Session, request: &mut RequestHeader, ctx: &Ctx) -> Result<()> {
    sift(request, ctx.rules().chain.sieve());
    let own = Own {
        client: client(session).map(|c| c.facts()),
        trusted: ctx.peer_trusted,
        id: &ctx.id,
        received: session.req_header().version,
        trace: trace(ctx),
    };
    if request.has_case() {
        own.add(request)?;
    } else {
        let mut parts = Parts::from(std::mem::replace(request, nothing()));
        parts.headers.reserve(NAMES + if ctx.pass.identity.is_some() { 2 } else { 0 });
        let added = own.add(&mut parts.headers);
        *request = parts.into();
        added?;
    }
    // What is said of the connection that it came on is gone; a client that takes trailers is passed some (§10.1.4).
    if let Some(web) = &ctx.web {
        web.ask(request)?;
    } else if request.version == Version::HTTP_2 && takes_trailers(session.req_header()) {
        request.insert_header(header::TE, "trailers")?;
    }
    admitted(request, ctx)?;
    ctx.rules().chain.forward().iter().try_for_each(|policy| match policy {
        Forward::Rewrite(change) => rewrite(request, change),
        Forward::Headers(edits) => edit(request, edits),
    })
}

/// Takes away what the route does not let through.
fn sift(request: &mut RequestHeader, sieve: &Sieve) {
    if sieve.is_open() {
        return;
    }
    let held: Vec<HeaderName> = request.headers.keys().filter(|name| !sieve.passes(name)).cloned().collect();
    held.iter().for_each(|name| {
        request.remove_header(name);
    });
}

/// What admission has found out: credentials stay here, and what is known of who asks goes on.
fn admitted(request: &mut RequestHeader, ctx: &Ctx) -> Result<()> {
    let (pass, dropped) = (&ctx.pass, ctx.rules().chain.dropped());
    drop_lookalikes(request, dropped, &pass.upstream);
    for name in dropped {
        request.remove_header(name);
    }
    if let Some(consumer) = pass.identity.as_ref().and_then(|identity| identity.consumer.as_ref()) {
        request.insert_header(X_CONSUMER.spelt, consumer.name_field.clone())?;
        if let Some(groups) = &consumer.groups_field {
            request.insert_header(X_CONSUMER_GROUPS.spelt, groups.clone())?;
        }
    }
    if let Some(query) = &pass.query {
        let (path, _) = target(request);
        let mark = if query.is_empty() { "" } else { "?" };
        let target = format!("{path}{mark}{query}");
        request.set_raw_path(target.as_bytes())?;
    }
    pass.upstream.iter().try_for_each(|edit| apply(request, edit))
}

/// Removes other spellings of what admission has a say in, `_` for `-` or the reverse, which some servers fold to one name.
fn drop_lookalikes(request: &mut RequestHeader, dropped: &[HeaderName], edits: &[Edit]) {
    let names = edits.iter().map(|edit| match edit {
        Edit::Set(name, _) | Edit::Add(name, _) | Edit::Remove(name) => name,
    });
    let ours: SmallVec<[&HeaderName; 8]> = dropped.iter().chain(names).collect();
    let spelt_so = ours.iter().any(|ours| ours.as_str().contains('_'));
    let is_ours = |name: &str| ours.iter().any(|ours| *ours != name && folds_to(name, ours.as_str()));
    let keys = request
        .headers
        .keys()
        .filter(|key| (spelt_so || key.as_str().contains('_')) && is_ours(key.as_str()));
    let keys: SmallVec<[HeaderName; 2]> = keys.cloned().collect();
    keys.iter().for_each(|key| {
        request.remove_header(key);
    });
}

/// Whether two names are one where `_` is taken for `-`.
fn folds_to(name: &str, other: &str) -> bool {
    let same = |a: u8, b: u8| a == b || matches!((a, b), (b'_', b'-') | (b'-', b'_'));
    name.len() == other.len() && name.bytes().zip(other.bytes()).all(|(a, b)| same(a, b))
}

/// Whether the client can be sent trailers. In HTTP/1.1 the engine sends none.
pub(super) fn takes_trailers(request: &RequestHeader) -> bool {
    request.version == Version::HTTP_2 && request.headers.contains_key(header::TE)
}

/// What the gateway's own fields are made of.
pub struct Own<'a> {
    /// The two ends of the client's connection, if they are known.
    pub client: Option<&'a Facts>,
    /// The client may speak for others.
    pub trusted: bool,
    /// The request's id.
    pub id: &'a HeaderValue,
    /// The version that came in.
    pub received: Version,
    /// What is said of the trace in place of what came in; none: that goes on as it is.
    pub trace: Option<Trace>,
}

/// What the upstream is told of the trace.
pub struct Trace {
    /// A `traceparent`.
    pub parent: [u8; 55],
    /// It begins here: what came in was nothing, or broken.
    pub begins: bool,
}

/// A request that is not recorded adds no span, so that one from elsewhere stays the parent.
fn trace(ctx: &Ctx) -> Option<Trace> {
    let begins = ctx.trace.parent.is_none();
    let span = match &ctx.recording {
        Some(recording) => recording.attempt_span(),
        None if begins => new_span(),
        None => return None,
    };
    Some(Trace { parent: ctx.trace.field(span), begins })
}

impl Own<'_> {
    /// Puts them in place of what the client may not say.
    ///
    /// # Errors
    /// When there are too many fields.
    pub fn add(&self, fields: &mut impl Fields) -> Result<()> {
        drop_spoofed(fields, self.trusted);
        identify_client(self.client, fields, self.trusted)?;
        fields.put(X_REQUEST_ID, self.id.clone())?;
        if let Some(Trace { parent, begins }) = &self.trace {
            if *begins {
                fields.remove(&TRACESTATE);
            }
            fields.put(TRACEPARENT_NAME, HeaderValue::from_bytes(parent).expect("digits and hyphens"))?;
        }
        via(self.received, fields)
    }
}

/// Removes what only a trusted proxy may say, and from everyone the names of consumers, which this gateway alone knows, and the
/// spellings with `_` that no proxy writes and some servers fold to these names.
fn drop_spoofed(fields: &mut impl Fields, trusted: bool) {
    let spoofed = |name: &&HeaderName| {
        let name = name.as_str();
        is_forwarding(name) && (!trusted || name.contains('_') || name.starts_with("x-consumer"))
    };
    let spoofed: Vec<HeaderName> = fields.map().keys().filter(spoofed).cloned().collect();
    spoofed.iter().for_each(|name| fields.remove(name));
}

/// `X-Forwarded-*`: appended to what a trusted proxy says, else written anew; `Forwarded` (RFC 7239) from them.
///
/// Without trust there is nothing left to look for: [`drop_spoofed`] was here.
fn identify_client(facts: Option<&Facts>, fields: &mut impl Fields, trusted: bool) -> Result<()> {
    let host = fields.map().get(header::HOST).filter(|host| !host.is_empty()).cloned();
    // `Forwarded` follows from the chain that is believed. Appending to a received one would trust it too, and
    // many proxies write X-Forwarded-For alone and pass their client's `Forwarded` through.
    let received = trusted.then(|| fields.map().get_all(X_FORWARDED_FOR.name)).into_iter().flatten();
    let mut forwarded = Vec::with_capacity(96);
    for hop in received {
        for entry in String::from_utf8_lossy(hop.as_bytes()).split(',') {
            let node =
                entry_address(entry.trim()).map_or_else(|| "unknown".to_owned(), crate::base::client::node);
            forwarded.extend_from_slice(format!("for={node}, ").as_bytes());
        }
    }
    if let Some(peer) = facts.and_then(|f| f.peer.as_ref()) {
        let chain = if trusted { joined(fields.map(), &X_FORWARDED_FOR.name, peer)? } else { peer.clone() };
        fields.put(X_FORWARDED_FOR, chain)?;
    }
    forwarded.extend_from_slice(b"for=");
    forwarded.extend_from_slice(facts.map_or(b"unknown", |f| f.node.as_bytes()));
    let scheme = facts.map_or("http", Facts::scheme);
    forwarded.extend_from_slice(b";proto=");
    forwarded.extend_from_slice(scheme.as_bytes());
    if let Some(host) = &host {
        // A Host may hold `;` and `=`, which would add parameters here; it never holds a quote or a backslash.
        let is_token = host.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(b));
        let (before, after): (&[u8], &[u8]) = if is_token { (b";host=", b"") } else { (b";host=\"", b"\"") };
        forwarded.extend_from_slice(before);
        forwarded.extend_from_slice(host.as_bytes());
        forwarded.extend_from_slice(after);
    }
    fields.put(FORWARDED, value(forwarded)?)?;
    if facts.and_then(|f| f.tls.as_ref()).is_some_and(|tls| tls.asks()) {
        fields.remove(&CLIENT_CERT.name);
        fields.remove(&CLIENT_CERT_CHAIN);
    }
    if let Some(cert) = facts.and_then(|f| f.client_cert.as_ref()) {
        fields.put(CLIENT_CERT, cert.clone())?;
    }
    let told = [
        (X_FORWARDED_PROTO, Some(HeaderValue::from_static(scheme))),
        (X_FORWARDED_HOST, host),
        (X_FORWARDED_PORT, facts.and_then(|f| f.local_port.clone())),
    ];
    for (name, value) in told {
        let Some(value) = value else { continue };
        if !trusted || !fields.map().contains_key(&name.name) {
            fields.put(name, value)?;
        }
    }
    Ok(())
}

/// All values of a field, byte for byte, and one more, as one list.
fn joined(fields: &HeaderMap, name: &HeaderName, last: &HeaderValue) -> Result<HeaderValue> {
    if !fields.contains_key(name) {
        return Ok(last.clone());
    }
    let mut list = Vec::new();
    for value in fields.get_all(name) {
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
fn via(received: Version, fields: &mut impl Fields) -> Result<()> {
    let own = match received {
        Version::HTTP_10 => "1.0 portcullis",
        Version::HTTP_2 => "2.0 portcullis",
        _ => "1.1 portcullis",
    };
    let list = joined(fields.map(), &VIA.name, &HeaderValue::from_static(own))?;
    fields.put(VIA, list)
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

fn apply(request: &mut RequestHeader, edit: &Edit) -> Result<()> {
    match edit {
        Edit::Set(name, value) => request.insert_header(name.clone(), value.clone()),
        Edit::Add(name, value) => request.append_header(name.clone(), value.clone()).map(|_| ()),
        Edit::Remove(name) => {
            request.remove_header(name);
            Ok(())
        }
    }
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
            "client-cert",
            "client_cert",
            "client-cert-chain",
            "x-consumer",
            "x_consumer-groups",
        ] {
            assert!(is_forwarding(name), "{name}");
        }
        for name in ["x-forward", "forwarded-by-me", "x-real-ipsum", "x-tenant", "via", "x-consumers"] {
            assert!(!is_forwarding(name), "{name}");
        }
    }
}
