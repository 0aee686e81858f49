//! What a route asks of a request, and how routes that ask it of the same host and path are ranked.

use std::cmp::Reverse;

use http::{HeaderName, Method};
use regex::{bytes, Regex};

use super::HostPattern;

/// What a route asks of a request: every part of it must hold.
#[derive(Clone, Debug)]
pub struct Match {
    /// Any of these hosts; empty: every host, and requests without one.
    pub hosts: Vec<HostPattern>,
    /// The path.
    pub path: PathMatch,
    /// Any of these methods; empty: every method. GET does not imply HEAD, as in the Gateway API.
    pub methods: Vec<Method>,
    /// All of these header fields; a field on several lines satisfies with any of them.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// All of these query parameters, by decoded name; a parameter given twice satisfies with either.
    pub query: Vec<(String, ValueMatch)>,
}

/// What a route asks of the path. Paths are case-sensitive (RFC 3986, section 6.2.2.1) and compared in
/// normalised form, so what is written here must be in that form too: it is not normalised again.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// By whole segments: `/orders` takes `/orders`, `/orders/` and `/orders/7`, never `/ordersX`. A trailing
    /// slash is ignored, and `/` takes everything.
    Prefix(String),
    /// The whole path, so `/a` is not `/a/`.
    Exact(String),
    /// A search anywhere in the path: anchor it to mean the start or the whole.
    Regex(Regex),
}

/// What a route asks of the value of a header field or of a query parameter.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// The whole value, case-sensitive.
    Exact(String),
    /// A search anywhere in the value, which need not be UTF-8.
    Regex(bytes::Regex),
    /// Any value, an empty one too.
    Present,
}

/// A prefix as the router compares it: without the slashes that change nothing about which segments it names.
pub(super) fn bare(prefix: &str) -> &str {
    let prefix = prefix.trim_end_matches('/');
    prefix.strip_prefix('/').unwrap_or(prefix)
}

/// The rank of a route among those with the same host and the same kind and length of path; the least wins.
pub(super) type Rank = (bool, Reverse<usize>, Reverse<usize>, usize);

/// Methods before none, then more headers, then more query parameters, then the order in the file (Gateway
/// API, `HTTPRouteRule.matches`).
pub(super) fn rank(
    methods: &[Method],
    headers: &[(HeaderName, ValueMatch)],
    query: &[(String, ValueMatch)],
    order: usize,
) -> Rank {
    (methods.is_empty(), Reverse(headers.len()), Reverse(query.len()), order)
}
