//! The keys about the door to policies.

use super::super::raw::{RawAddresses, RawDoor};
use crate::policy::addresses::{Addresses, List, ListFile};
use crate::policy::Policy;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The files that lists of addresses name, each once.
#[derive(Default)]
pub(super) struct ListFiles(HashMap<PathBuf, Arc<ListFile>>);

impl ListFiles {
    /// All of them.
    pub(super) fn all(self) -> Box<[Arc<ListFile>]> {
        self.0.into_values().collect()
    }

    fn list(&mut self, raw: &RawAddresses) -> List {
        let one = |file: &Arc<ListFile>| {
            Arc::clone(self.0.entry(file.path.clone()).or_insert_with(|| Arc::clone(file)))
        };
        List { fixed: Arc::clone(&raw.fixed), files: raw.files.iter().map(one).collect() }
    }
}

/// What a route's keys come to.
pub(super) fn policies(raw: &RawDoor, files: &mut ListFiles) -> Vec<Policy> {
    let mut policies = Vec::new();
    let addresses = Addresses {
        allow: raw.allow.as_ref().map(|list| files.list(list)),
        deny: raw.deny.as_ref().map(|list| files.list(list)),
    };
    if addresses != Addresses::default() {
        policies.push(Policy::Addresses(addresses));
    }
    let cors = raw.cors.as_ref().and_then(Option::as_ref);
    policies.extend(cors.map(|cors| Policy::Cors(Arc::clone(&cors.value))));
    let security = raw.security_headers.as_ref().and_then(Option::as_ref);
    policies.extend(security.map(|security| Policy::SecurityHeaders(Arc::clone(security))));
    policies.extend(raw.method_override.map(Policy::MethodOverride));
    policies
}
