//! What a route does to a request besides choosing its upstream, in one fixed order.
//!
//! A [`Policy`] is one variant with one file; [`Chain`] sorts the policies of a route into the phases they take
//! part in, so that a policy costs nothing in the others and "cache before auth" cannot be written. Order by
//! kind, whatever the order in the file (`Place` has that of admission): who may come in, limits on the body, rewriting,
//! request fields, response fields.
//!
//! Policies decide and never apply: they see plain values ([`Arrival`]), not the engine's session, and say what comes of it
//! ([`Pass`]). They have no way to be skipped, because a policy that cannot be built is a configuration error. One that has
//! to ask somebody else waits for that; all others decide at once.

pub mod addresses;
pub mod auth;
pub mod concurrency;
pub mod cors;
pub mod headers;
pub mod max_body;
pub mod rate_limit;
pub mod redirect;
pub mod respond;
pub mod rewrite;
pub mod security_headers;
pub mod sieve;

use crate::auth::Identity;
use crate::base::priority::Priority;
use crate::base::request::{Headers, Request};
use crate::error::Reject;
use crate::wire::facts::Facts;
use addresses::Addresses;
use auth::Auth;
use bytes::Bytes;
use concurrency::{Concurrency, InFlight};
use cors::Cors;
use headers::HeaderEdits;
use http::{HeaderName, HeaderValue};
use max_body::MaxBody;
use rate_limit::{RateLimit, Whose};
use rewrite::Rewrite;
use security_headers::SecurityHeaders;
use sieve::{MethodOverride, Sieve};
use std::net::IpAddr;
use std::sync::Arc;

/// What the gateway itself adds to each response; a route may edit these as any other field.
pub const OWN_FIELDS: [HeaderName; 2] =
    [HeaderName::from_static("x-request-id"), HeaderName::from_static("server-timing")];

/// One policy of a route.
#[derive(Debug, Clone)]
pub enum Policy {
    /// How many requests may be in flight.
    Concurrency(Concurrency),
    /// From where requests may come.
    Addresses(Addresses),
    /// What pages of other origins may do.
    Cors(Arc<Cors>),
    /// What becomes of a field that asks for another method.
    MethodOverride(MethodOverride),
    /// What browsers are told to be careful about.
    SecurityHeaders(Arc<SecurityHeaders>),
    /// How often clients may come.
    RateLimit(RateLimit),
    /// Who may come in.
    Auth(Arc<Auth>),
    /// The largest request body.
    MaxBody(MaxBody),
    /// Changes of path or host before forwarding.
    Rewrite(Rewrite),
    /// Edits of the fields sent upstream.
    RequestHeaders(HeaderEdits),
    /// Edits of the fields sent to the client.
    ResponseHeaders(HeaderEdits),
}

/// A request as admission sees it.
#[derive(Clone, Copy)]
pub struct Arrival<'a> {
    /// The request itself, as it was routed by.
    pub request: Request<'a>,
    /// The believed client address; none on a Unix socket.
    pub client: Option<IpAddr>,
    /// What its connection says of it, the certificate that the client has shown included.
    pub facts: Option<&'a Facts>,
    /// The length of the body as declared; none: chunked, or no body.
    pub length: Option<u64>,
}

impl Arrival<'_> {
    /// The believed client address, unless it is that of a balancer who speaks for somebody and does not say for whom.
    fn named_client(&self) -> Option<IpAddr> {
        self.client.filter(|_| !self.facts.is_some_and(|facts| facts.ends.stranger))
    }
}

/// What admission has found out about a request, and what comes of it. It stays with the exchange until that is over.
#[derive(Default)]
pub struct Pass {
    /// What the upstream is told, in order; before the route's own edits.
    pub upstream: Vec<Edit>,
    /// What the client is told, in order, by whatever answer it gets, a refusal too; before the route's own edits.
    pub answer: Vec<Edit>,
    /// Its class; the route's, unless who asks has another.
    pub priority: Priority,
    /// It counts as in flight.
    pub in_flight: Option<InFlight>,
    /// Who asks, if a route has wanted to know, even where they may not.
    pub identity: Option<Identity>,
    /// The query that goes on in the place of the one received.
    pub query: Option<String>,
    /// Why the answer that admission gives is a refusal.
    pub refused: Option<Reject>,
}

/// A change of a message's fields that depends on the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// This value in place of all others of its field.
    Set(HeaderName, HeaderValue),
    /// This value besides those that are there.
    Add(HeaderName, HeaderValue),
    /// None.
    Remove(HeaderName),
}

/// An answer that admission gives in the place of everything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    pub status: u16,
    /// Its fields but those that frame it.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// The content, possibly empty.
    pub body: Bytes,
}

/// The policies of one route, by phase.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    admit: Box<[Admit]>,
    forward: Box<[Forward]>,
    respond: Box<[HeaderEdits]>,
    own_fields_stay: bool,
    body_limit: Option<MaxBody>,
    cors: Option<Arc<Cors>>,
    method_override: MethodOverride,
    sieve: Sieve,
    security: Option<Arc<SecurityHeaders>>,
}

/// Policies of the first phase: may this request in?
///
/// Chains are compared, since routes that have the same share them: what a policy keeps of requests is the same object in
/// both, or it is another policy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Admit {
    Concurrency(Concurrency),
    Addresses(Addresses),
    RateLimit(RateLimit),
    Auth(Arc<Auth>),
    MaxBody(MaxBody),
}

/// The order of admission, whatever the order in the file: who is turned away anyhow costs nothing more, nobody's secret is
/// looked at for who has no business here, and nobody is counted as who they have not proven to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Who may come in from where.
    Address,
    /// How often from there.
    LimitAddress,
    /// Who it is, and whether they may do this.
    Identity,
    /// How often they.
    LimitIdentity,
    /// How many at once.
    Load,
    /// How much.
    Content,
}

impl Admit {
    fn place(&self) -> Place {
        match self {
            Admit::Concurrency(_) => Place::Load,
            Admit::Addresses(_) => Place::Address,
            Admit::RateLimit(limit) if limit.whose == Whose::Consumers => Place::LimitIdentity,
            Admit::RateLimit(_) => Place::LimitAddress,
            Admit::Auth(_) => Place::Identity,
            Admit::MaxBody(_) => Place::Content,
        }
    }
}

/// Policies of the second phase: what goes upstream?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forward {
    /// Path and host.
    Rewrite(Rewrite),
    /// Fields.
    Headers(HeaderEdits),
}

impl Chain {
    /// Sorts policies into their phases. Each kind stands at most once.
    pub fn new(policies: Vec<Policy>) -> Self {
        let (mut admit, mut rewrite, mut fields, mut respond) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut body_limit = None;
        let mut chain = Chain::default();
        for policy in policies {
            match policy {
                Policy::Concurrency(limit) => admit.push(Admit::Concurrency(limit)),
                Policy::Addresses(addresses) => admit.push(Admit::Addresses(addresses)),
                Policy::Cors(cors) => chain.cors = Some(cors),
                Policy::MethodOverride(becomes) => {
                    chain.method_override = becomes;
                    chain.sieve.no_overrides = becomes == MethodOverride::Drop;
                }
                Policy::SecurityHeaders(security) => chain.security = Some(security),
                Policy::RateLimit(limit) => admit.push(Admit::RateLimit(limit)),
                Policy::Auth(auth) => admit.push(Admit::Auth(auth)),
                Policy::MaxBody(limit) => {
                    admit.push(Admit::MaxBody(limit));
                    body_limit = Some(limit);
                }
                Policy::Rewrite(change) => rewrite.push(Forward::Rewrite(change)),
                Policy::RequestHeaders(mut edits) => {
                    chain.sieve.only = edits.only.take().map(Into::into);
                    fields.push(Forward::Headers(edits));
                }
                Policy::ResponseHeaders(edits) => respond.push(edits),
            }
        }
        admit.sort_by_key(Admit::place);
        rewrite.append(&mut fields);
        let replaced = |edits: &HeaderEdits| OWN_FIELDS.iter().any(|name| edits.replaces(name));
        Chain {
            own_fields_stay: !respond.iter().any(replaced),
            admit: admit.into(),
            forward: rewrite.into(),
            respond: respond.into(),
            body_limit,
            ..chain
        }
    }

    /// What pages of other origins may do. A preflight is answered with it before admission, since it comes without
    /// whatever would let its request in.
    pub fn cors(&self) -> Option<&Cors> {
        self.cors.as_deref()
    }

    /// Whether a request with these fields may be taken for what its method says; asked of every request, before the rest.
    ///
    /// # Errors
    /// [`Reject::MethodOverride`].
    pub fn admit_method(&self, headers: &dyn Headers) -> Result<(), Reject> {
        self.method_override.admit(headers)
    }

    /// Whether every request may come in, so that none has to be looked at.
    pub fn is_open(&self) -> bool {
        self.admit.is_empty()
    }

    /// May this request come in? `Some` is the answer that it gets instead.
    ///
    /// # Errors
    /// The cause of the refusal. What `pass` has by then holds for it too.
    pub async fn admit(&self, arrival: &Arrival<'_>, pass: &mut Pass) -> Result<Option<Reply>, Reject> {
        for policy in &self.admit {
            match policy {
                Admit::Concurrency(limit) => pass.in_flight = Some(limit.enter(pass.priority)?),
                Admit::Addresses(addresses) => addresses.admit(arrival.named_client())?,
                Admit::RateLimit(limit) => limit.admit(arrival, pass).await?,
                Admit::Auth(auth) => {
                    if let Some(reply) = auth.admit(arrival, pass).await? {
                        return Ok(Some(reply));
                    }
                }
                Admit::MaxBody(limit) => limit.admit(arrival.length)?,
            }
        }
        Ok(None)
    }

    /// The limit of what is in flight, for the one that comes after this.
    pub fn concurrency(&self) -> Option<&Concurrency> {
        self.admit.iter().find_map(|policy| match policy {
            Admit::Concurrency(limit) => Some(limit),
            Admit::Addresses(_) | Admit::Auth(_) | Admit::MaxBody(_) | Admit::RateLimit(_) => None,
        })
    }

    /// Fields of the client's that were for the gateway alone.
    pub fn dropped(&self) -> &[HeaderName] {
        let mut lists = self.admit.iter().filter_map(|policy| match policy {
            Admit::Auth(auth) => Some(auth.dropped()),
            Admit::Addresses(_) | Admit::Concurrency(_) | Admit::MaxBody(_) | Admit::RateLimit(_) => None,
        });
        lists.next().unwrap_or_default()
    }

    /// The limit to hold a streamed body to.
    pub fn body_limit(&self) -> Option<MaxBody> {
        self.body_limit
    }

    /// What of the client's fields goes upstream, to be asked before the gateway's own are there.
    pub fn sieve(&self) -> &Sieve {
        &self.sieve
    }

    /// What browsers are told to be careful about.
    pub fn security(&self) -> Option<&SecurityHeaders> {
        self.security.as_deref()
    }

    /// What to do to the request that goes upstream, in order.
    pub fn forward(&self) -> &[Forward] {
        &self.forward
    }

    /// Whether no edit of the response touches [`OWN_FIELDS`], so that they need not be there when it is edited.
    pub fn own_fields_stay(&self) -> bool {
        self.own_fields_stay
    }

    /// Edits of the response, in order.
    pub fn respond(&self) -> &[HeaderEdits] {
        &self.respond
    }
}
