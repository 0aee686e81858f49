//! Routes, one after the other: what they have in common with each other and with those of before is the same object.

use super::super::check::matching;
use super::super::decode::At;
use super::super::raw::{RawAction, RawPolicies, RawRewrite, RawRoute};
use super::{auth, door, limit, Upstreams};
use crate::gateway::{Action, Gateway, Retry, Route, Rules, Split};
use crate::observe::stats::RouteStats;
use crate::policy::concurrency::Concurrency;
use crate::policy::max_body::MaxBody;
use crate::policy::rewrite::{PathRewrite, Rewrite};
use crate::policy::{Chain, Policy};
use crate::router::{Match, PathMatch};
use http::HeaderValue;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
const DEFAULT_RETRY: Retry = Retry { attempts: 2, connect: true, reset: true };

/// The routes that are compiled, and what they need.
pub(super) struct Routes<'a> {
    defaults: RawPolicies,
    /// The running ones by name.
    counted: HashMap<&'a str, &'a Route>,
    names: HashMap<String, usize>,
    shared: Shared,
    pub(super) guards: auth::Guards<'a>,
    pub(super) limits: limit::Limits<'a>,
    pub(super) files: door::ListFiles,
    /// What each takes, for people.
    pub(super) matches: Vec<Box<str>>,
}

impl<'a> Routes<'a> {
    /// None yet.
    pub(super) fn new(
        defaults: RawPolicies,
        guards: auth::Guards<'a>,
        limits: limit::Limits<'a>,
        before: Option<&'a Gateway>,
    ) -> Self {
        let counted = before.into_iter().flat_map(|before| before.router.iter());
        Routes {
            defaults,
            counted: counted.map(|route| (&*route.stats.name.plain, route)).collect(),
            names: HashMap::new(),
            shared: Shared::default(),
            guards,
            limits,
            files: door::ListFiles::default(),
            matches: Vec::new(),
        }
    }

    /// One more, unless it is one that `check` found wrong.
    pub(super) fn add(
        &mut self,
        mut route: RawRoute,
        upstreams: &mut Upstreams<'_>,
    ) -> Option<(Match, Route)> {
        let action = action(route.action.take()?, upstreams)?;
        let matching = matching(&route);
        let name = route_name(&route, &matching, &mut self.names);
        self.matches.push(described(&matching).into());
        let old = self.counted.get(name.as_str()).copied();
        let stats = old.map_or_else(|| Arc::new(RouteStats::new(&name)), |old| Arc::clone(&old.stats));
        let policies = route.policies.clone().or(&self.defaults);
        let rewrite = route.rewrite.map(|r| r.value);
        let mut own = door::policies(&policies.door, &mut self.files);
        own.extend(self.limits.policies(&name, policies.rate_limit.as_deref().unwrap_or_default()));
        own.extend(policies.auth.as_ref().and_then(|auth| self.guards.policy(auth)));
        let chain = chain(&policies, own, rewrite, &matching.path, old);
        let timeout = policies.timeout.unwrap_or(DEFAULT_TIMEOUT);
        let retry = policies.retry.map_or(DEFAULT_RETRY, |r| Retry {
            attempts: r.attempts,
            connect: r.connect,
            reset: r.reset,
        });
        let priority = policies.priority.unwrap_or_default();
        let grpc_web = policies.grpc_web.is_some_and(|flag| flag.value);
        let rules = self.shared.share(Rules { chain, timeout, retry, priority, grpc_web });
        Some((matching, Route { stats, action, rules }))
    }
}

fn action(raw: At<RawAction>, upstreams: &mut Upstreams<'_>) -> Option<Action> {
    match raw.value {
        RawAction::Redirect(redirect) => Some(Action::Redirect(Box::new(redirect))),
        RawAction::Respond(respond) => Some(Action::Respond(Box::new(respond))),
        RawAction::Upstream(choices) => {
            let choices: Option<Vec<_>> = choices
                .into_iter()
                .map(|(name, weight)| Some((weight, upstreams.get(&name.value)?)))
                .collect();
            choices.map(|choices| Action::Forward(Split::new(choices)))
        }
    }
}

/// The route's own name, or one made of what it matches; never the same twice.
fn route_name(route: &RawRoute, matching: &Match, taken: &mut HashMap<String, usize>) -> String {
    let derived = || {
        let methods = matching.methods.iter().map(|m| m.as_str()).collect::<Vec<_>>().join(",");
        let host = matching.hosts.first().map(ToString::to_string).unwrap_or_default();
        let path = match &matching.path {
            PathMatch::Prefix(path) => path.clone(),
            PathMatch::Exact(path) => format!("={path}"),
            PathMatch::Regex(pattern) => format!("~{pattern}"),
        };
        format!("{methods}{}{host}{path}", if methods.is_empty() { "" } else { ":" })
    };
    let base = route.name.as_ref().map_or_else(derived, |name| name.value.clone());
    let mut name = base.clone();
    while taken.contains_key(&name) {
        // Goes on where the last of that base ended: thousands of routes may differ by a header only.
        let uses = taken.entry(base.clone()).or_insert(1);
        *uses += 1;
        name = format!("{base}#{uses}");
    }
    taken.insert(name.clone(), 1);
    name
}

/// What a route takes, for people.
fn described(matching: &Match) -> String {
    let methods = matching.methods.iter().map(|m| m.as_str()).collect::<Vec<_>>().join(",");
    let hosts = matching.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let path = match &matching.path {
        PathMatch::Prefix(path) => path.clone(),
        PathMatch::Exact(path) => format!("={path}"),
        PathMatch::Regex(pattern) => format!("~{pattern}"),
    };
    let mut text = [methods, format!("{hosts}{path}")].join(" ").trim_start().to_owned();
    if !matching.headers.is_empty() || !matching.query.is_empty() {
        let headers = matching.headers.iter().map(|(name, _)| name.as_str());
        let query = matching.query.iter().map(|(name, _)| name.as_str());
        let names: Vec<&str> = headers.chain(query).collect();
        text += &format!(" [{}]", names.join(", "));
    }
    text
}

impl RawPolicies {
    /// These, and for what is absent the defaults.
    fn or(self, defaults: &RawPolicies) -> RawPolicies {
        RawPolicies {
            request_headers: self.request_headers.or_else(|| defaults.request_headers.clone()),
            response_headers: self.response_headers.or_else(|| defaults.response_headers.clone()),
            timeout: self.timeout.or(defaults.timeout),
            retry: self.retry.or_else(|| defaults.retry.clone()),
            rate_limit: self.rate_limit.or_else(|| defaults.rate_limit.clone()),
            max_body: self.max_body.or(defaults.max_body),
            concurrency: self.concurrency.or(defaults.concurrency),
            priority: self.priority.or(defaults.priority),
            grpc_web: self.grpc_web.or_else(|| defaults.grpc_web.clone()),
            door: self.door.or(&defaults.door),
            auth: self.auth.or_else(|| defaults.auth.clone()),
        }
    }
}

/// The rules of the last routes; a file has few different ones, mostly in groups.
#[derive(Default)]
struct Shared(VecDeque<Arc<Rules>>);

impl Shared {
    /// How many are looked through for each route.
    const MOST: usize = 8;

    fn share(&mut self, rules: Rules) -> Arc<Rules> {
        if let Some(same) = self.0.iter().find(|known| ***known == rules) {
            return Arc::clone(same);
        }
        let rules = Arc::new(rules);
        self.0.truncate(Self::MOST - 1);
        self.0.push_front(Arc::clone(&rules));
        rules
    }
}

/// What a route does besides; `old` is the running one of its name, whose counts go on.
fn chain(
    policies: &RawPolicies,
    mut chain: Vec<Policy>,
    rewrite: Option<RawRewrite>,
    path: &PathMatch,
    old: Option<&Route>,
) -> Chain {
    let before = old.and_then(|old| old.rules.chain.concurrency());
    chain.extend(policies.concurrency.map(|max| Policy::Concurrency(Concurrency::new(max, before))));
    chain.extend(policies.max_body.map(|bytes| Policy::MaxBody(MaxBody(bytes))));
    chain.extend(rewrite.map(|raw| Policy::Rewrite(self::rewrite(raw, path))));
    chain.extend(policies.request_headers.clone().map(|edits| Policy::RequestHeaders(*edits)));
    chain.extend(policies.response_headers.clone().map(|edits| Policy::ResponseHeaders(*edits)));
    Chain::new(chain)
}

fn rewrite(raw: RawRewrite, path: &PathMatch) -> Rewrite {
    let from = || match path {
        PathMatch::Prefix(prefix) => prefix.trim_end_matches('/').into(),
        PathMatch::Exact(_) | PathMatch::Regex(_) => "".into(), // refused by `check`
    };
    let path = match raw {
        RawRewrite { path: Some(path), .. } => Some(PathRewrite::Whole(path.into())),
        RawRewrite { prefix: Some(to), .. } => {
            Some(PathRewrite::Replace { from: from(), to: to.trim_end_matches('/').into() })
        }
        RawRewrite { strip_prefix: true, .. } => Some(PathRewrite::Strip { from: from() }),
        RawRewrite { .. } => None,
    };
    Rewrite { path, host: raw.host.and_then(|host| HeaderValue::try_from(host).ok()) }
}
