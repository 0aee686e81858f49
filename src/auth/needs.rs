//! What somebody who is known has to have.

use super::Identity;
use crate::error::Lack;
use serde_json::Value;

/// Some of several things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// At least one of these.
    Any(Box<[Box<str>]>),
    /// Each of these.
    All(Box<[Box<str>]>),
}

impl Need {
    fn is_met(&self, has: impl Fn(&str) -> bool) -> bool {
        match self {
            Need::Any(these) => these.iter().any(|one| has(one)),
            Need::All(these) => these.iter().all(|one| has(one)),
        }
    }
}

/// What a route asks of an identity; all of it has to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Groups, of the consumer or of the token.
    pub groups: Option<Need>,
    /// Scopes of the token.
    pub scopes: Option<Need>,
    /// Claims of the token, by name.
    pub claims: Box<[(Box<str>, Need)]>,
}

impl Needs {
    /// Whether an identity has it all.
    ///
    /// # Errors
    /// What is lacking first.
    pub fn check(&self, identity: &Identity) -> Result<(), Lack> {
        if self.groups.as_ref().is_some_and(|need| !need.is_met(|group| identity.in_group(group))) {
            return Err(Lack::Group);
        }
        if self.scopes.as_ref().is_some_and(|need| !need.is_met(|scope| identity.has_scope(scope))) {
            return Err(Lack::Scope);
        }
        let claim = |name: &str| identity.claims.as_ref().and_then(|claims| claims.get(name));
        let has = |(name, need): &(Box<str>, Need)| {
            claim(name).is_some_and(|value| need.is_met(|wanted| is(value, wanted)))
        };
        if self.claims.iter().all(has) {
            Ok(())
        } else {
            Err(Lack::Claim)
        }
    }

    /// Whether only a token can meet them.
    pub fn need_a_token(&self) -> bool {
        self.scopes.is_some() || !self.claims.is_empty()
    }
}

/// Whether a claim is this, or a list that has it. Numbers and truth are compared as they are written.
fn is(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text == wanted,
        Value::Number(number) => number.to_string() == wanted,
        Value::Bool(flag) => wanted == if *flag { "true" } else { "false" },
        Value::Array(list) => list.iter().any(|one| !one.is_array() && is(one, wanted)),
        Value::Null | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::consumer::Consumer;
    use super::super::Claims;
    use super::*;
    use std::sync::Arc;

    fn list(of: &[&str]) -> Box<[Box<str>]> {
        of.iter().map(|one| (*one).into()).collect()
    }

    #[test]
    fn each_kind_of_need() {
        let all = serde_json::json!({"role": ["admin", "dev"], "level": 3, "on": true, "deep": [["x"]]});
        let claims = Claims {
            groups: list(&["from-token"]),
            scopes: list(&["read", "write"]),
            all: all.as_object().unwrap().clone(),
            ..Claims::default()
        };
        let consumer = Arc::new(Consumer::new("a", &["own".to_owned()]));
        let known = Identity { consumer: Some(consumer), claims: Some(Arc::new(claims)) };
        let (any, every) = (|of: &[&str]| Need::Any(list(of)), |of: &[&str]| Need::All(list(of)));
        let groups = |need| Needs { groups: Some(need), ..Needs::default() };
        let scopes = |need| Needs { scopes: Some(need), ..Needs::default() };
        let claim = |name: &str, need| Needs { claims: [(name.into(), need)].into(), ..Needs::default() };
        for (needs, outcome) in [
            (Needs::default(), Ok(())),
            (groups(any(&["other", "own"])), Ok(())),
            (groups(every(&["from-token", "own"])), Ok(())),
            (groups(every(&["other", "own"])), Err(Lack::Group)),
            (groups(any(&["Own"])), Err(Lack::Group)),
            (scopes(any(&["read", "x"])), Ok(())),
            (scopes(every(&["read", "x"])), Err(Lack::Scope)),
            (claim("role", any(&["admin"])), Ok(())),
            (claim("role", every(&["admin", "ops"])), Err(Lack::Claim)),
            (claim("level", any(&["3"])), Ok(())),
            (claim("on", any(&["true"])), Ok(())),
            (claim("deep", any(&["x"])), Err(Lack::Claim)),
            (claim("none", any(&["x"])), Err(Lack::Claim)),
        ] {
            assert_eq!(needs.check(&known), outcome, "{needs:?}");
        }
        // Who has no token has nothing of it.
        let nobody = Identity::default();
        assert_eq!(scopes(any(&["read"])).check(&nobody), Err(Lack::Scope));
        assert_eq!(claim("role", any(&["admin"])).check(&nobody), Err(Lack::Claim));
    }
}
