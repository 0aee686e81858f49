//! What a route does to a request besides choosing its upstream, in one fixed order.
//!
//! A [`Policy`] is one variant with one file; [`Chain`] sorts the policies of a route into the phases they take
//! part in, so that a policy costs nothing in the others and "cache before auth" cannot be written. Order by
//! kind, whatever the order in the file: limits on the body, rewriting, request fields, response fields.
//!
//! Policies decide and never apply: they see plain values, not the engine's session, and they have no way to be
//! skipped, because a policy that cannot be built is a configuration error.

pub mod headers;
pub mod max_body;
pub mod redirect;
pub mod respond;
pub mod rewrite;

use crate::error::Reject;
use headers::HeaderEdits;
use http::HeaderName;
use max_body::MaxBody;
use rewrite::Rewrite;

/// What the gateway itself adds to each response; a route may edit these as any other field.
pub const OWN_FIELDS: [HeaderName; 2] =
    [HeaderName::from_static("x-request-id"), HeaderName::from_static("server-timing")];

/// One policy of a route.
#[derive(Debug, Clone)]
pub enum Policy {
    /// The largest request body.
    MaxBody(MaxBody),
    /// Changes of path or host before forwarding.
    Rewrite(Rewrite),
    /// Edits of the fields sent upstream.
    RequestHeaders(HeaderEdits),
    /// Edits of the fields sent to the client.
    ResponseHeaders(HeaderEdits),
}

/// The policies of one route, by phase.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    admit: Box<[Admit]>,
    forward: Box<[Forward]>,
    respond: Box<[HeaderEdits]>,
    own_fields_stay: bool,
    body_limit: Option<MaxBody>,
}

/// Policies of the first phase: may this request in?
#[derive(Debug, Clone, PartialEq, Eq)]
enum Admit {
    MaxBody(MaxBody),
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
        for policy in policies {
            match policy {
                Policy::MaxBody(limit) => {
                    admit.push(Admit::MaxBody(limit));
                    body_limit = Some(limit);
                }
                Policy::Rewrite(change) => rewrite.push(Forward::Rewrite(change)),
                Policy::RequestHeaders(edits) => fields.push(Forward::Headers(edits)),
                Policy::ResponseHeaders(edits) => respond.push(edits),
            }
        }
        rewrite.append(&mut fields);
        let replaced = |edits: &HeaderEdits| OWN_FIELDS.iter().any(|name| edits.replaces(name));
        Chain {
            own_fields_stay: !respond.iter().any(replaced),
            admit: admit.into(),
            forward: rewrite.into(),
            respond: respond.into(),
            body_limit,
        }
    }

    /// May a request with this declared body length (`None`: chunked or no body) come in?
    ///
    /// # Errors
    /// The cause of the refusal.
    pub fn admit(&self, content_length: Option<u64>) -> Result<(), Reject> {
        self.admit.iter().try_for_each(|policy| match policy {
            Admit::MaxBody(limit) => limit.admit(content_length),
        })
    }

    /// The limit to hold a streamed body to.
    pub fn body_limit(&self) -> Option<MaxBody> {
        self.body_limit
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
