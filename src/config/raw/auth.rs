//! `consumers`, and `auth` of a route.

use super::super::decode::{At, Place};
use crate::auth::api_key::ApiKey;
use crate::auth::certificate::CertificateName;
use crate::auth::consumer::{KeyHash, Login};
use crate::auth::forward;
use crate::auth::needs::Needs;
use crate::base::priority::Priority;
use crate::policy::auth::Mode;

/// One of `consumers`.
#[derive(Debug)]
#[allow(missing_docs)] // the keys of the file, one each
pub struct RawConsumer {
    pub name: At<String>,
    pub groups: Vec<String>,
    pub priority: Option<Priority>,
    pub rate_plan: Option<At<String>>,
    pub keys: Vec<At<KeyHash>>,
    pub login: Option<At<Login>>,
    pub certificate: Option<At<CertificateName>>,
}

/// `auth`.
#[derive(Debug, Clone)]
pub enum RawAuth {
    /// `none`: everybody, said so.
    Everybody,
    /// Who is known.
    Known(RawKnown),
}

/// `auth`, where it lets in who is known.
#[derive(Debug, Clone)]
pub struct RawKnown {
    /// Where it stands.
    pub place: Place,
    /// `any` or `all`.
    pub mode: Mode,
    /// The methods of it.
    pub methods: Vec<At<RawMethod>>,
    /// `groups`, `scopes` and `claims`.
    pub needs: Needs,
    /// `pass_credentials`.
    pub pass_credentials: bool,
}

/// One of the methods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawMethod {
    /// `api_key`.
    ApiKey(ApiKey),
    /// `basic`.
    Basic,
    /// `certificate`.
    Certificate,
    /// `jwt`: the provider's name, and what a message may show of it.
    Jwt(String, String),
    /// `forward`.
    Forward(forward::Spec),
}
