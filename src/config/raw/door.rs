//! Who may come in and from where, what pages of other origins may do, and what browsers are told.

use super::super::decode::At;
use crate::base::addresses::AddressSet;
use crate::policy::addresses::ListFile;
use crate::policy::cors::Cors;
use crate::policy::security_headers::SecurityHeaders;
use crate::policy::sieve::MethodOverride;
use std::sync::Arc;

/// The keys of a route, and of `defaults`, that are about the door. `false` takes back a default: `Some(None)`.
#[derive(Debug, Default, Clone)]
#[allow(missing_docs)] // the keys of the file, one each
pub struct RawDoor {
    pub allow: Option<RawAddresses>,
    pub deny: Option<RawAddresses>,
    pub cors: Option<Option<Box<At<Arc<Cors>>>>>,
    pub security_headers: Option<Option<Arc<SecurityHeaders>>>,
    pub method_override: Option<MethodOverride>,
}

impl RawDoor {
    /// These, and for what is absent the defaults.
    pub fn or(self, defaults: &RawDoor) -> RawDoor {
        RawDoor {
            allow: self.allow.or_else(|| defaults.allow.clone()),
            deny: self.deny.or_else(|| defaults.deny.clone()),
            cors: self.cors.or_else(|| defaults.cors.clone()),
            security_headers: self.security_headers.or_else(|| defaults.security_headers.clone()),
            method_override: self.method_override.or(defaults.method_override),
        }
    }
}

/// `allow` or `deny`, its files read.
#[derive(Debug, Default, Clone)]
pub struct RawAddresses {
    /// The networks that stand in the configuration itself.
    pub fixed: Arc<AddressSet>,
    /// The files that it names.
    pub files: Vec<Arc<ListFile>>,
}
