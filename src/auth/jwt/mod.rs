//! By a JSON Web Token (RFC 7519) in the way of RFC 6750, as RFC 8725 wants it verified.
//!
//! In reading order: [`Settings`] is what a provider of the configuration says; an [`Algorithm`] is how tokens are signed; a
//! [`KeySet`] has what may have signed them, and which key may verify what; `token` takes one apart; `claims` is what it has to
//! say; `cache` remembers those that were verified; a [`Provider`] is all of this with its state, and `refresh` keeps its keys.
//!
//! Verifying is ours, down to the signature itself, which is aws-lc's. The usual crate (`jsonwebtoken` 10) was read for it and
//! makes the tokens of the tests instead: it takes the last of members that stand twice, passes over `crit`, compares
//! families of algorithms and not curves or sizes, takes `exp` of any number that is one, knows no reasons beyond "invalid", and
//! parses the key anew for each token. All of these are for its caller to see to, which leaves little of it.
//!
//! A token never chooses what it is verified with: the algorithms are the provider's, a key verifies what it was read for, and
//! what a header says of keys elsewhere is a refusal. Nobody comes in without keys: until there are some, nothing is
//! verified, and who asks is told to come again.

pub mod algorithm;
mod cache;
mod claims;
mod json;
pub mod keys;
mod place;
mod provider;
mod refresh;
mod token;

pub use algorithm::Algorithm;
pub use cache::MOST as MOST_CACHED;
pub use claims::REGISTERED;
pub use keys::KeySet;
pub use place::{without_cookies, TokenPlace};
pub use provider::{Provider, Stats};
pub use token::LONGEST;

use super::needs::Needs;
use super::Claims;
use claims::Span;
use http::{HeaderName, HeaderValue, Uri};
use rustls::pki_types::CertificateDer;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The most that clocks may differ.
pub const MOST_LEEWAY: Duration = Duration::from_secs(60);

/// What a provider of the configuration says.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What it is called.
    pub name: Box<str>,
    /// `iss`, to the letter.
    pub issuer: Box<str>,
    /// One of these has to be in `aud`; none: nobody looks.
    pub audience: Box<[Box<str>]>,
    /// What its tokens may be signed with; all of them with secrets, or none.
    pub algorithms: Box<[Algorithm]>,
    /// Where its keys are.
    pub source: Source,
    /// How much clocks may differ.
    pub leeway: Duration,
    /// `typ`, in lower case without `application/`; none: that of an access token or of any JWT, or nothing.
    pub kind: Option<Box<str>>,
    /// Claims that have to be there.
    pub require: Box<[Box<str>]>,
    /// Values that claims have to have.
    pub needs: Needs,
    /// What the upstream is told, by which claim.
    pub claims_to_headers: Box<[(HeaderName, Box<str>)]>,
    /// The claim that names a consumer.
    pub consumer_claim: Option<Box<str>>,
    /// Whether somebody comes in whom that claim does not name, as nobody in particular.
    pub strangers: bool,
    /// The claim that has groups.
    pub groups_claim: Option<Box<str>>,
    /// Where tokens are looked for; at least one place.
    pub places: Box<[TokenPlace]>,
}

/// Where a provider's keys are.
#[derive(Debug, Clone)]
pub enum Source {
    /// At a URL.
    Url(Fetch),
    /// In a file, which is followed; with what it had when the configuration was read.
    File(PathBuf, Arc<KeySet>),
    /// In the configuration.
    Secret(Arc<KeySet>),
}

/// How a key set is fetched.
#[derive(Clone, PartialEq)]
pub struct Fetch {
    /// `https`, or `http` where that has been allowed.
    pub url: Uri,
    /// Who may vouch for it; none: the system's authorities.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
    /// How often.
    pub refresh: Duration,
    /// How long it may take.
    pub timeout: Duration,
    /// The most bytes that a set has.
    pub max_size: usize,
    /// How long after a token with an unknown key another one makes no difference.
    pub cooldown: Duration,
}

impl Fetch {
    /// Its URL without the query, which may be a secret.
    fn shown(&self) -> String {
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        format!("{}://{authority}{}", self.url.scheme_str().unwrap_or_default(), self.url.path())
    }
}

impl fmt::Debug for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fetch").field(&self.shown()).finish()
    }
}

/// The content of a file is not compared: whoever has the same file follows it.
impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Source::Url(one), Source::Url(two)) => one == two,
            (Source::File(one, _), Source::File(two, _)) => one == two,
            (Source::Secret(one), Source::Secret(two)) => one.is(two),
            _ => false,
        }
    }
}

/// What was found out about a token.
#[derive(Debug)]
pub struct Verified {
    /// What it says.
    pub claims: Arc<Claims>,
    /// What the upstream is told of that.
    pub fields: Box<[(HeaderName, HeaderValue)]>,
    /// When that holds.
    span: Span,
}

#[cfg(test)]
mod tests;
