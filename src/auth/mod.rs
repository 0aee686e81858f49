//! Who asks: consumers, what they are known by, and what an identity may do.
//!
//! In reading order: a [`consumer`] has a name, groups and credentials, and all of them stand in one table; [`api_key`],
//! [`basic`] and [`certificate`] each look at a request for one kind of credential and find the consumer it belongs to;
//! [`jwt`] verifies tokens; [`password`] has what verifying a password costs, away from the threads that serve requests; [`forward`] asks a service
//! of the user's own; [`needs`] is what an identity has to have.
//!
//! Each kind answers the same way: nothing of its kind came, or an [`Identity`], or why what came is no good. It refuses to
//! choose: what may stand once and stands there twice is nobody's credential. Secrets are compared in constant time or by
//! their hashes, are in no error, log or `Debug`, and are not kept. It does not decide whether somebody comes in:
//! `policy::auth` does, and is the only one to call it besides `config`, which builds it, and `cli`, which makes keys.

pub mod api_key;
pub mod basic;
pub mod certificate;
pub mod consumer;
pub mod forward;
pub mod jwt;
pub mod needs;
pub mod password;

use consumer::Consumer;
use std::sync::Arc;

/// Who asks, as far as it is proven.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// The consumer; none: somebody whom only a token or a service vouches for.
    pub consumer: Option<Arc<Consumer>>,
    /// What a verified token says of them.
    pub claims: Option<Arc<Claims>>,
}

/// What a verified token says.
#[derive(Debug, Default)]
pub struct Claims {
    /// Of whom (RFC 7519 §4.1.2).
    pub subject: Box<str>,
    /// The groups it names, for [`Identity::in_group`].
    pub groups: Box<[Box<str>]>,
    /// What it is good for (RFC 8693 §4.2).
    pub scopes: Box<[Box<str>]>,
    /// All of it.
    pub all: serde_json::Map<String, serde_json::Value>,
}

impl Claims {
    /// A claim by its name, or by a path of names with dots where none has this one: `realm_access.roles`.
    pub fn get(&self, name: &str) -> Option<&serde_json::Value> {
        if let Some(whole) = self.all.get(name) {
            return Some(whole);
        }
        let mut path = name.split('.');
        let first = self.all.get(path.next()?)?;
        path.try_fold(first, |value, name| value.get(name))
    }
}

impl Identity {
    /// This consumer and nothing more.
    pub fn of(consumer: &Arc<Consumer>) -> Self {
        Identity { consumer: Some(Arc::clone(consumer)), claims: None }
    }

    /// The consumer's name; empty where there is none.
    pub fn name(&self) -> &str {
        self.consumer.as_ref().map_or("", |consumer| &consumer.name)
    }

    /// Whether they are in a group, as a consumer or by their token.
    pub fn in_group(&self, group: &str) -> bool {
        let own = self.consumer.iter().flat_map(|consumer| &consumer.groups);
        let told = self.claims.iter().flat_map(|claims| &claims.groups);
        own.chain(told).any(|known| **known == *group)
    }

    /// Whether their token is good for this.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.claims.as_ref().is_some_and(|claims| claims.scopes.iter().any(|known| **known == *scope))
    }

    /// Both, if they can be one's: where each names a consumer it is the same one.
    pub fn and(self, other: Identity) -> Option<Identity> {
        if let (Some(one), Some(two)) = (&self.consumer, &other.consumer) {
            if one.name != two.name {
                return None;
            }
        }
        let consumer = self.consumer.or(other.consumer);
        Some(Identity { consumer, claims: self.claims.or(other.claims) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumer(name: &str) -> Identity {
        Identity::of(&Arc::new(Consumer::new(name, &["g".to_owned()])))
    }

    #[test]
    fn two_proofs_are_one_identity_only_if_they_name_no_two_consumers() {
        let token = || Identity { claims: Some(Arc::default()), ..Identity::default() };
        let both = consumer("a").and(token()).unwrap();
        assert!(both.name() == "a" && both.claims.is_some());
        assert_eq!(token().and(consumer("a")).unwrap().name(), "a");
        assert_eq!(consumer("a").and(consumer("a")).unwrap().name(), "a");
        assert!(consumer("a").and(consumer("b")).is_none());
    }

    #[test]
    fn claims_are_found_by_name_and_by_path() {
        let all = serde_json::json!({"a": {"b": {"c": 1}}, "a.b": 2, "d.e": {"f": 3}});
        let claims = Claims { all: all.as_object().unwrap().clone(), ..Claims::default() };
        assert_eq!(claims.get("a.b"), Some(&2.into()));
        assert_eq!(claims.get("a.b.c"), Some(&1.into()));
        assert_eq!(claims.get("a.x"), None);
        assert_eq!(claims.get(""), None);
    }
}
