//! The response that goes to the client: an upstream's, cleaned and dressed, or the gateway's own.

use super::attempt;
use super::ctx::{client, conn, Ctx};
use super::request::origin;
use crate::base::decimal::write_millis;
use crate::base::grpc;
use crate::error::Reject;
use crate::policy::headers::HeaderEdits;
use crate::policy::redirect::Redirect;
use crate::policy::respond::Respond;
use crate::policy::{cors, security_headers};
use crate::policy::{Chain, Edit, Reply, OWN_FIELDS};
use crate::wire::head::HeadError;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::response::Parts;
use http::Version;
use pingora::http::ResponseHeader;
use pingora::{Error, ErrorType, OrErr, Result};
use pingora_proxy::Session;

/// Fields that an answer has yet to get: our own two and the date.
const MORE: usize = 3;

/// Takes from an upstream's response what belongs to its connection alone (RFC 9110 §7.6.1), and notes that it came.
///
/// # Errors
/// When the upstream changes to a protocol that the client did not ask for (what the client sends next would reach it
/// as it is, past every policy), or uses a transfer coding that nobody asked for; when the client could not tell its end.
pub(super) fn clean(session: &Session, response: &mut ResponseHeader, ctx: &mut Ctx) -> Result<()> {
    if response.status == 100 || !response.status.is_informational() {
        if let Some(client) = client(session) {
            client.expect_body();
        }
    }
    if let Some(client) = client(session) {
        client.end_silence();
    }
    if response.status == 101 {
        if !session.is_upgrade_req() {
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "an upgrade nobody asked for").into_up());
        }
        attempt::answered(ctx, 101);
        if let Some(conn) = conn(session) {
            conn.become_tunnel(ctx.tunnel_idle());
        }
        return Ok(()); // Connection and Upgrade are the answer itself (RFC 9110 §7.8)
    }
    let (from, to) = (response.version, session.req_header().version);
    if from == Version::HTTP_2 && to == Version::HTTP_10 && is_of_unknown_length(session, response) {
        // The engine would write it in chunks, which this client cannot read (RFC 9112 §6.1).
        ctx.reject = Some(Reject::Head(HeadError::VersionUnsupported));
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "an answer of unknown length for HTTP/1.0");
    }
    let to_the_end = from == Version::HTTP_2 && to == Version::HTTP_2;
    remove_hop_by_hop(response, to_the_end);
    frame_plainly(response)?;
    forget_browsers(response, ctx);
    response.set_version(Version::HTTP_11); // the version is each hop's own (RFC 9112 §2.3)
    if !response.status.is_informational() {
        if let Some(web) = &mut ctx.web {
            web.answer(response)?;
        }
        note_call(&response.headers, ctx);
        attempt::answered(ctx, response.status.as_u16());
    }
    Ok(())
}

/// Adds the gateway's fields and the route's edits.
pub(super) fn dress(session: &mut Session, response: &mut ResponseHeader, ctx: &Ctx) -> Result<()> {
    let last = !response.status.is_informational();
    // The engine closes after a response that precedes the end of the request, and would after a 100 too.
    session.set_close_on_response_before_downstream_finish(last);
    if !last {
        return Ok(());
    }
    close_when_leaving(session);
    // A client of HTTP/1.0 does not know chunks (RFC 9112 §6.1): without them the end of the connection ends the body.
    if session.req_header().version == Version::HTTP_10
        && response.remove_header(&header::TRANSFER_ENCODING).is_some()
    {
        session.set_keepalive(None);
    }
    if !has_body(session, response) {
        body(session, true);
    }
    let [request_id, _] = OWN_FIELDS;
    response.remove_header(&request_id);
    promise_tls(session, response)?;
    let chain = ctx.route().map(|route| &route.rules.chain);
    let at_the_wire = conn(session).filter(|_| chain.is_none_or(Chain::own_fields_stay));
    if at_the_wire.is_none() {
        if conn(session).is_none() {
            forget_spellings(response)?;
        }
        insert_own(response, ctx)?;
    }
    answer_to(ctx, response)?;
    if let Some(chain) = chain {
        chain.respond().iter().try_for_each(|edits| edit(response, edits))?;
    }
    for_browsers(session, response, ctx)?;
    if let Some(conn) = at_the_wire {
        conn.set_response_fields(|out| {
            write_own(ctx, out);
        });
    }
    Ok(())
}

/// The gateway ends TLS, so it is the gateway that says what browsers may rely on, in place of an upstream (RFC 6797 §7.1).
pub(super) fn promise_tls(session: &Session, response: &mut ResponseHeader) -> Result<()> {
    match client(session).and_then(|client| client.facts().terms.hsts.as_ref()) {
        Some(hsts) => response.insert_header(header::STRICT_TRANSPORT_SECURITY, hsts.clone()),
        None => Ok(()),
    }
}

/// What admission tells the client.
pub(super) fn answer_to(ctx: &Ctx, response: &mut ResponseHeader) -> Result<()> {
    ctx.pass.answer.iter().try_for_each(|edit| match edit {
        Edit::Set(name, value) => response.insert_header(name.clone(), value.clone()),
        Edit::Add(name, value) => response.append_header(name.clone(), value.clone()).map(|_| ()),
        Edit::Remove(name) => {
            response.remove_header(name);
            Ok(())
        }
    })
}

/// Takes from an upstream's answer what the route says to browsers itself, and what tells of the upstream's make.
fn forget_browsers(response: &mut ResponseHeader, ctx: &Ctx) {
    let Some(chain) = ctx.route().map(|route| &route.rules.chain) else { return };
    let mut remove = |names: &[HeaderName]| {
        names.iter().for_each(|name| {
            response.remove_header(name);
        });
    };
    if chain.cors().is_some() {
        remove(&cors::FIELDS);
    }
    if chain.security().is_some_and(|security| security.hide_server) {
        remove(&security_headers::MAKE);
    }
}

/// Tells browsers what the route says of an answer, whoever made it: a page that cannot read a refusal cannot act on it.
pub(super) fn for_browsers(session: &Session, response: &mut ResponseHeader, ctx: &Ctx) -> Result<()> {
    let Some(chain) = ctx.route().map(|route| &route.rules.chain) else { return Ok(()) };
    if let Some(security) = chain.security() {
        for (name, value) in &security.fields {
            if !response.headers.contains_key(name) {
                response.insert_header(name.clone(), value.clone())?;
            }
        }
    }
    let Some(cors) = chain.cors() else { return Ok(()) };
    let allowed = cors.allowed(origin(session.req_header()));
    let credentials = allowed.as_ref().filter(|_| cors.credentials).map(|_| HeaderValue::from_static("true"));
    let expose = allowed.as_ref().and(cors.expose.clone());
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed),
        (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, expose),
    ] {
        match value {
            Some(value) => response.insert_header(name, value)?,
            None => {
                response.remove_header(&name);
            }
        }
    }
    if cors.varies() && !varies_by_origin(&response.headers) {
        response.append_header(header::VARY, HeaderValue::from_static("Origin"))?;
    }
    Ok(())
}

fn varies_by_origin(fields: &HeaderMap) -> bool {
    let said = fields.get_all(header::VARY).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    said.map(<[u8]>::trim_ascii).any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"))
}

/// The fields that tell the client the id of its request and where its time went.
pub(super) fn insert_own(response: &mut ResponseHeader, ctx: &Ctx) -> Result<()> {
    response.insert_header("X-Request-Id", ctx.id.clone())?;
    // An upstream's own metrics stay: the field is a list that each hop may add to (W3C Server Timing §3).
    let [_, server_timing] = OWN_FIELDS;
    let mut timing = Vec::with_capacity(64);
    write_timing(ctx, &mut timing);
    let mut timing = HeaderValue::from_bytes(&timing).expect("words and digits");
    timing.set_sensitive(true); // as the id
    response.append_header(server_timing, timing).map(|_| ())
}

/// Names have no case in HTTP/2: the engine's map of spellings is of no use there, and each change would be made twice.
fn forget_spellings(response: &mut ResponseHeader) -> Result<()> {
    if response.has_case() {
        let nothing = ResponseHeader::build_no_case(200, Some(0))?;
        let mut parts = Parts::from(std::mem::replace(response, nothing));
        parts.headers.reserve(MORE);
        *response = parts.into();
    }
    Ok(())
}

/// The same as lines of HTTP/1.
pub(super) fn write_own(ctx: &Ctx, out: &mut Vec<u8>) {
    out.extend_from_slice(b"X-Request-Id: ");
    out.extend_from_slice(ctx.id.as_bytes());
    out.extend_from_slice(b"\r\nServer-Timing: ");
    write_timing(ctx, out);
    out.extend_from_slice(b"\r\n");
}

/// Whether content follows this head (RFC 9110 §6.4.1).
fn has_body(session: &Session, response: &ResponseHeader) -> bool {
    let none = matches!(response.status.as_u16(), 204 | 304)
        || session.req_header().method == http::Method::HEAD
        || response.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0");
    !none
}

fn is_of_unknown_length(session: &Session, response: &ResponseHeader) -> bool {
    has_body(session, response) && !response.headers.contains_key(header::CONTENT_LENGTH)
}

/// A piece of the body has come; with the last one the answer is complete, even if the request's body is not.
pub(super) fn body(session: &Session, end: bool) {
    let Some(client) = client(session) else { return };
    client.end_silence();
    if end {
        client.answered();
    }
}

/// What became of a call of gRPC, which is said behind the answer, or in its head where that is all.
fn note_call(fields: &HeaderMap, ctx: &mut Ctx) {
    if !ctx.grpc {
        return;
    }
    let status = fields.get(grpc::STATUS).and_then(|status| status.to_str().ok());
    ctx.grpc_status = status.and_then(|status| status.parse().ok()).or(ctx.grpc_status);
}

/// Fields behind the body have come, which is over.
pub(super) fn trailers(session: &Session, trailers: &mut HeaderMap, ctx: &mut Ctx) {
    note_call(trailers, ctx);
    // What frames a message is no trailer (RFC 9110 §6.5.1); other fields of a connection HTTP/2 has refused already.
    for name in [header::CONTENT_LENGTH, header::TRAILER, header::HOST] {
        trailers.remove(name);
    }
    body(session, true);
}

/// Invites no next request onto a connection that is about to go.
pub(super) fn close_when_leaving(session: &mut Session) {
    if let Some(client) = client(session).filter(|c| c.is_leaving()) {
        client.end_unawares();
        session.set_keepalive(None);
    }
}

/// How long the gateway and how long the upstream took so far, in milliseconds (W3C Server Timing).
fn write_timing(ctx: &Ctx, out: &mut Vec<u8>) {
    out.extend_from_slice(b"gateway;dur=");
    match ctx.upstream_took {
        // The clock has just been asked, when the upstream's answer came.
        Some(upstream) => {
            write_millis(ctx.attempt_started - ctx.started, out);
            out.extend_from_slice(b", upstream;dur=");
            write_millis(upstream, out);
        }
        None => write_millis(ctx.started.elapsed(), out),
    }
}

fn remove_hop_by_hop(response: &mut ResponseHeader, trailers: bool) {
    let is_hops_own = |name: &HeaderName| {
        const NAMES: [HeaderName; 3] = [header::CONNECTION, header::UPGRADE, header::TE];
        // Trailers of HTTP/1.1 are not passed on (RFC 9110 §6.5.1 lets a gateway drop them), nor are they announced then.
        NAMES.contains(name)
            || (*name == header::TRAILER && !trailers)
            || matches!(name.as_str(), "keep-alive" | "proxy-connection")
    };
    let mut own: Vec<HeaderName> =
        response.headers.keys().filter(|name| is_hops_own(name)).cloned().collect();
    if own.contains(&header::CONNECTION) {
        let fields = response.headers.get_all(header::CONNECTION).iter();
        let tokens = fields.flat_map(|v| v.as_bytes().split(|b| *b == b','));
        own.extend(tokens.filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok()));
        // These frame the message: an upstream that nominates them would unframe it.
        own.retain(|name| *name != header::CONTENT_LENGTH && *name != header::TRANSFER_ENCODING);
    }
    for name in own {
        response.remove_header(&name);
    }
}

/// The engine takes equal lengths for one, and the client must see one (RFC 9110 §8.6). It also passes on a coding that
/// it does not know together with a connection to be kept, so that the client could not tell where the body ends.
fn frame_plainly(response: &mut ResponseHeader) -> Result<()> {
    let mut codings = response.headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked = codings.next().is_none_or(|c| c.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"));
    if !chunked || codings.next().is_some() {
        return Err(Error::explain(ErrorType::InvalidHTTPHeader, "a transfer coding but chunked").into_up());
    }
    if response.status.is_informational() || response.status == 204 {
        // RFC 9110 §8.6 and RFC 9112 §6.1: neither may stand here, and some clients would wait for a body.
        response.remove_header(&header::TRANSFER_ENCODING);
        response.remove_header(&header::CONTENT_LENGTH);
    }
    let mut lengths = response.headers.get_all(header::CONTENT_LENGTH).iter();
    let (Some(first), more) = (lengths.next(), lengths.next().is_some()) else { return Ok(()) };
    if !more && !first.as_bytes().contains(&b',') {
        return Ok(());
    }
    let one = first.as_bytes().split(|b| *b == b',').next().unwrap_or_default().trim_ascii();
    let one = HeaderValue::from_bytes(one)
        .or_err(ErrorType::InvalidHTTPHeader, "a strange length")
        .map_err(|e| e.into_up())?;
    response.insert_header(header::CONTENT_LENGTH, one)
}

fn edit(response: &mut ResponseHeader, edits: &HeaderEdits) -> Result<()> {
    for name in &edits.remove {
        response.remove_header(name);
    }
    for (name, value) in &edits.set {
        response.insert_header(name.clone(), value.clone())?;
    }
    for (name, value) in &edits.add {
        response.append_header(name.clone(), value.clone())?;
    }
    Ok(())
}

/// An answer of the gateway's own.
pub(super) struct Answer(Reply);

impl Answer {
    /// Another place for the request (RFC 9110 §15.4).
    fn moved(status: u16, location: &str) -> Option<Self> {
        let fields = vec![(header::LOCATION, HeaderValue::try_from(location).ok()?)];
        Some(Answer(Reply { status, fields, body: Bytes::new() }))
    }

    /// What a route says; none: it would have made no field of what the request has.
    pub(super) fn redirect(redirect: &Redirect, host: &str, path: &str, query: &str) -> Option<Self> {
        Answer::moved(redirect.status, &redirect.location(host, path, query))
    }

    /// Another place for the same request (RFC 9110 §15.4.9).
    pub(super) fn elsewhere(location: &str) -> Option<Self> {
        Answer::moved(308, location)
    }

    pub(super) fn fixed(respond: &Respond) -> Self {
        let content_type =
            (!respond.body.is_empty()).then(|| (header::CONTENT_TYPE, respond.content_type.clone()));
        let fields = content_type.into_iter().collect();
        Answer(Reply { status: respond.status, fields, body: respond.body.clone() })
    }

    /// What an authority wants to see, as RFC 8555 §8.3 has it.
    pub(super) fn proof(answer: &str) -> Self {
        let fields = vec![(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))];
        Answer(Reply { status: 200, fields, body: Bytes::copy_from_slice(answer.as_bytes()) })
    }

    /// What admission gives.
    pub(super) fn of(reply: Reply) -> Self {
        Answer(reply)
    }

    /// Sends it. The connection stays usable when the request had no body left to read.
    pub(super) async fn write(self, session: &mut Session, ctx: &Ctx) -> Result<()> {
        let Reply { status, fields, body } = self.0;
        let mut head = ResponseHeader::build(status, Some(6))?;
        for (name, value) in fields {
            head.append_header(name, value)?;
        }
        if !matches!(status, 204 | 304) {
            head.insert_header(header::CONTENT_LENGTH, body.len())?;
        }
        dress(session, &mut head, ctx)?;
        let body = if session.req_header().method == http::Method::HEAD { Bytes::new() } else { body };
        session.write_response_header(Box::new(head), body.is_empty()).await?;
        if !body.is_empty() {
            session.write_response_body(Some(body), true).await?;
        }
        Ok(())
    }
}
