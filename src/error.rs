//! The two kinds of failure: [`ConfigError`] speaks to the operator, [`Reject`] to the client.

mod denial;
mod token;

pub use denial::{Denial, Lack};
pub use token::TokenFault;

use crate::base::path::PathError;
use crate::wire::head::HeadError;
use std::fmt;
use std::sync::Arc;

/// One thing wrong in a configuration file, shown as `FILE:LINE:COL: path.to.key: message`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    /// The file as the user named it.
    pub file: Arc<str>,
    /// Line, from 1; 0 when the whole file is meant.
    pub line: usize,
    /// Column in characters, from 1; 0 when the whole file is meant.
    pub column: usize,
    /// Where in the tree, such as `routes[2].upstream`; empty at the root.
    pub path: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, " {}:", self.path)?;
        }
        write!(f, " {}", self.message)
    }
}

/// Why the gateway itself answers instead of an upstream: a cause, never a status. `proxy/failure.rs` alone
/// says which status and which words a cause becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reject {
    /// The request head breaks HTTP or a limit.
    Head(HeadError),
    /// The chunked body breaks RFC 9112 §7.1; the sentence says where.
    Chunk(&'static str),
    /// The path cannot be normalised without changing its meaning.
    Path(PathError),
    /// The body is not one of gRPC-Web; the sentence says why.
    GrpcWeb(&'static str),
    /// The engine refused the head after all.
    Malformed,
    /// The head did not arrive in time.
    SlowHead,
    /// The body arrives below the minimum rate.
    SlowBody,
    /// The body is larger than the route allows, in bytes.
    BodyTooLarge(u64),
    /// The host is not one that this TLS connection is for.
    Misdirected,
    /// Plain HTTP where TLS is spoken.
    PlainHttp,
    /// No header of the PROXY protocol came first, or from somebody who may not say such things.
    ProxyHeader,
    /// No route serves this host and path.
    NoRoute,
    /// Routes serve the path, but with these methods only.
    MethodNotAllowed(Vec<String>),
    /// The client's address is not one that may come in.
    AddressDenied,
    /// A page of an origin that may do nothing here asks what it may do.
    CorsOrigin,
    /// A field asks for another method than the request has.
    MethodOverride,
    /// The client has come too often; in so many seconds it may come again.
    RateLimited(u32),
    /// It is not known who asks.
    Unauthenticated(Denial),
    /// It is known who asks, and they may not.
    Forbidden(Lack),
    /// The service that `forward` asks has turned them away, in its own words.
    ForwardRefused,
    /// Too many passwords wait to be verified.
    PasswordsBusy,
    /// The service that `forward` asks cannot be asked, so that nobody is let in.
    AuthUnavailable,
    /// The keys of a token's provider are not known yet, so that nobody is let in.
    KeysUnavailable,
    /// No target of the upstream passes its checks, or none is known yet.
    NoTarget,
    /// The connection limit of the whole gateway is reached.
    TooManyConnections,
    /// The connection limit of the client's address is reached.
    TooManyFromAddress,
    /// As many requests are in flight as the route or its upstream may have.
    TooManyInFlight,
    /// The upstream takes so long that one more request would only wait.
    Overloaded,
    /// The process has no file descriptor left to reach an upstream with.
    Exhausted,
    /// A tunnel (WebSocket) ended other than by its two ends.
    TunnelEnded,
    /// No connection to any tried target.
    Connect,
    /// No secure connection to any tried target: it proved nothing, or wanted more proof of the gateway.
    UpstreamTls,
    /// A target did not accept, answer or take bytes in time.
    UpstreamTimeout,
    /// A target broke off or sent what is not HTTP.
    UpstreamBroke,
    /// The whole exchange took longer than the route allows.
    ExchangeTimeout,
    /// The client went away or stopped reading; nobody is left to answer.
    ClientGone,
    /// The process ended before the exchange did.
    CutOff,
    /// A fault of the gateway's own.
    Internal,
}
