//! The router: host, then path, then predicates, to whatever is to be found.
//!
//! Precedence is the Kubernetes Gateway API's (`HTTPRouteRule.matches`, and `Hostname` for wildcards). Among
//! all routes that match a request the winner has, in this order: the most specific host (exact, the longer
//! wildcard, any), an exact path, the longest prefix, a regex; then methods before none, more headers, more
//! query parameters, the earlier place in the file. A better host or path whose predicates fail does not end
//! the search: the next best is tried.
//!
//! ```text
//! host --hash--> exact --+
//!      --hash--> *.a.b --+--> path --hash--> exact --+
//!      --hash--> *.b   --+         --trie--> prefix -+--> methods, headers, query --> T
//!                any   --+         --list--> regex  -+
//! ```
//!
//! A look-up costs as the host and the path are long, not as the routes are many, with two exceptions, since
//! each is tried in turn: routes at one and the same path, and the regexes of a host. It does not allocate,
//! save to decode a query value for a regex, or to say which methods are allowed.
//!
//! The router trusts the view it is given: normalising paths and hosts is done before, once.

mod host;
mod matcher;
mod path;
mod predicate;
mod shadow;

use http::{HeaderName, Method};
use regex::Regex;

use self::host::Hosts;
use crate::base::request::Request;

pub use self::host::HostPattern;
pub use self::matcher::{Match, PathMatch, ValueMatch};
pub use self::path::RouteId;
pub use self::shadow::{shadowed, Shadow};

/// Finds the one route for a request. It cannot be changed once built: a new configuration builds a new one.
#[derive(Debug)]
pub struct Router<T> {
    hosts: Hosts,
    routes: Vec<Route<T>>,
}

/// What became of a look-up.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// The route that wins, for [`Router::get`].
    Found(RouteId),
    /// No route, whatever the method.
    NotFound,
    /// Routes but for the method; the methods they take, sorted and each once, for `Allow` (RFC 9110, section
    /// 15.5.6).
    MethodNotAllowed(Vec<&'a str>),
}

/// A route less what the tables hold of it; as large as a cache line if what is found takes 56 bytes, and on one.
#[derive(Debug)]
#[repr(align(64))]
struct Route<T> {
    found: T,
    /// None when the tables hold all of it, as of most: then nothing else of it is read.
    conditions: Option<Box<Conditions>>,
}

/// What a request must meet besides host and path.
#[derive(Debug)]
struct Conditions {
    methods: Vec<Method>,
    headers: Vec<(HeaderName, ValueMatch)>,
    query: Vec<(String, ValueMatch)>,
    /// The path's regex, tried last because it costs most; the tables have seen to every other path.
    regex: Option<Regex>,
}

impl<T> Router<T> {
    /// Builds the router; the order of `routes` is that of the file.
    ///
    /// Routes that can never win are taken too: refusing them is for [`shadowed`] and the configuration's
    /// check.
    pub fn build(routes: Vec<(Match, T)>) -> Self {
        let mut hosts = Hosts::default();
        let routes: Vec<Route<T>> = routes
            .into_iter()
            .enumerate()
            .map(|(i, (m, found))| {
                insert(&mut hosts, &m, RouteId::new(i));
                Route::new(m, found)
            })
            .collect();
        let rank = |&id: &RouteId| {
            let Conditions { methods, headers, query, .. } = routes[id.place()].conditions();
            matcher::rank(methods, headers, query, id.place())
        };
        hosts.all_mut().for_each(|paths| paths.seal(rank));
        Self { hosts, routes }
    }

    /// The route that wins `req`, or why there is none.
    pub fn find(&self, req: &Request<'_>) -> Outcome<'_> {
        let mut method_missed = false;
        for id in self.candidates(req) {
            let route = &self.routes[id.place()];
            if !route.takes_method(req.method) {
                method_missed = true;
            } else if route.takes_rest(req) {
                return Outcome::Found(id);
            }
        }
        if method_missed {
            self.not_allowed(req)
        } else {
            Outcome::NotFound
        }
    }

    /// A route that [`find`](Self::find) of this very router has found.
    ///
    /// # Panics
    /// For an id of a larger router.
    pub fn get(&self, id: RouteId) -> &T {
        &self.routes[id.place()].found
    }

    /// All of them, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.routes.iter().map(|route| &route.found)
    }

    /// The routes that may win, best first. One with several hosts may come more than once.
    fn candidates<'s, 'a: 's>(&'a self, req: &'s Request<'_>) -> impl Iterator<Item = RouteId> + 's {
        self.hosts.tables(req.host).flat_map(|paths| paths.candidates(req.path))
    }

    /// Called once no route has won, so that any that takes the rest of the request misses by its method.
    fn not_allowed(&self, req: &Request<'_>) -> Outcome<'_> {
        let mut allow: Vec<&str> = self
            .candidates(req)
            .map(|id| &self.routes[id.place()])
            .filter(|route| route.takes_rest(req))
            .flat_map(|route| route.conditions().methods.iter().map(Method::as_str))
            .collect();
        if allow.is_empty() {
            return Outcome::NotFound;
        }
        allow.sort_unstable();
        allow.dedup();
        Outcome::MethodNotAllowed(allow)
    }
}

impl<T> Route<T> {
    fn new(m: Match, found: T) -> Self {
        let regex = match m.path {
            PathMatch::Regex(regex) => Some(regex),
            PathMatch::Prefix(_) | PathMatch::Exact(_) => None,
        };
        let conditions = Conditions { methods: m.methods, headers: m.headers, query: m.query, regex };
        let none = conditions.methods.is_empty()
            && conditions.headers.is_empty()
            && conditions.query.is_empty()
            && conditions.regex.is_none();
        Self { found, conditions: (!none).then(|| Box::new(conditions)) }
    }

    fn conditions(&self) -> &Conditions {
        static NONE: Conditions =
            Conditions { methods: Vec::new(), headers: Vec::new(), query: Vec::new(), regex: None };
        self.conditions.as_deref().unwrap_or(&NONE)
    }

    fn takes_method(&self, method: &str) -> bool {
        let methods = &self.conditions().methods;
        methods.is_empty() || methods.iter().any(|m| m.as_str() == method)
    }

    /// Whether all but the method holds.
    fn takes_rest(&self, req: &Request<'_>) -> bool {
        let Conditions { headers, query, regex, .. } = self.conditions();
        predicate::headers_hold(headers, req.headers)
            && predicate::query_holds(query, req.query)
            && regex.as_ref().is_none_or(|r| r.is_match(req.path))
    }
}

fn insert(hosts: &mut Hosts, m: &Match, id: RouteId) {
    if m.hosts.is_empty() {
        hosts.entry(None).insert(&m.path, id);
    }
    for host in &m.hosts {
        hosts.entry(Some(host)).insert(&m.path, id);
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BTreeSet;

    use super::*;
    use http::header::HeaderValue;
    use http::HeaderMap;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{select, subsequence};
    use regex::bytes;

    pub(super) fn prefix(path: &str) -> Match {
        on(PathMatch::Prefix(path.to_owned()))
    }

    pub(super) fn exact(path: &str) -> Match {
        on(PathMatch::Exact(path.to_owned()))
    }

    pub(super) fn regex(path: &str) -> Match {
        on(PathMatch::Regex(Regex::new(path).unwrap()))
    }

    fn on(path: PathMatch) -> Match {
        Match { hosts: vec![], path, methods: vec![], headers: vec![], query: vec![] }
    }

    /// `m` with hosts, methods between spaces, headers as `x=1`, `x~regex` or `x`, and at most one such query
    /// parameter.
    pub(super) fn with(m: Match, hosts: &[&str], methods: &str, headers: &[&str], query: &str) -> Match {
        let query: Option<&str> = Some(query).filter(|q| !q.is_empty());
        Match {
            hosts: hosts.iter().map(|h| HostPattern::parse(h).unwrap()).collect(),
            methods: methods.split_whitespace().map(|m| m.parse().unwrap()).collect(),
            headers: headers
                .iter()
                .map(|h| predicate(h))
                .map(|(name, value)| (name.parse().unwrap(), value))
                .collect(),
            query: query.map(predicate).into_iter().collect(),
            ..m
        }
    }

    fn predicate(text: &str) -> (String, ValueMatch) {
        if let Some((name, value)) = text.split_once('=') {
            (name.to_owned(), ValueMatch::Exact(value.to_owned()))
        } else if let Some((name, regex)) = text.split_once('~') {
            let regex = bytes::Regex::new(regex).unwrap();
            (name.to_owned(), ValueMatch::Regex(regex))
        } else {
            (text.to_owned(), ValueMatch::Present)
        }
    }

    /// A request that owns its parts.
    #[derive(Clone, Debug)]
    struct Asked {
        method: &'static str,
        host: &'static str,
        path: String,
        query: &'static str,
        headers: HeaderMap,
    }

    impl Asked {
        fn view(&self) -> Request<'_> {
            Request {
                method: self.method,
                host: self.host,
                path: &self.path,
                query: self.query,
                headers: &self.headers,
            }
        }
    }

    fn get(host: &'static str, path: &str) -> Asked {
        Asked { method: "GET", host, path: path.to_owned(), query: "", headers: HeaderMap::new() }
    }

    fn numbered(matches: Vec<Match>) -> Router<usize> {
        Router::build(matches.into_iter().enumerate().map(|(i, m)| (m, i)).collect())
    }

    fn found(router: &Router<usize>, asked: &Asked) -> Option<usize> {
        match router.find(&asked.view()) {
            Outcome::Found(id) => Some(*router.get(id)),
            Outcome::NotFound | Outcome::MethodNotAllowed(_) => None,
        }
    }

    #[test]
    fn a_better_host_or_path_that_fails_falls_through() {
        let router = numbered(vec![
            regex("^/a"),
            with(prefix("/a"), &["*.test"], "", &[], ""),
            with(prefix("/a"), &["*.a.test"], "", &["x=1"], ""),
            with(exact("/a/b"), &["b.a.test"], "", &["x=2"], ""),
        ]);
        let mut asked = get("b.a.test", "/a/b");
        assert_eq!(found(&router, &asked), Some(1));
        asked.headers.insert("x", HeaderValue::from_static("1"));
        assert_eq!(found(&router, &asked), Some(2));
        asked.headers.append("x", HeaderValue::from_static("2"));
        assert_eq!(found(&router, &asked), Some(3));
        asked.host = "";
        assert_eq!(found(&router, &asked), Some(0));
        asked.path = "/b".to_owned();
        assert_eq!(router.find(&asked.view()), Outcome::NotFound);
    }

    #[test]
    fn methods_are_exact_and_the_allowed_ones_are_told() {
        let router = numbered(vec![
            with(prefix("/a"), &[], "POST GET", &[], ""),
            with(exact("/a/b"), &[], "PUT GET", &[], ""),
            with(regex("b$"), &[], "PATCH", &["x"], ""),
        ]);
        let mut asked = get("a.test", "/a/b");
        assert_eq!(found(&router, &asked), Some(1));
        asked.method = "HEAD";
        let allow = Outcome::MethodNotAllowed(vec!["GET", "POST", "PUT"]);
        assert_eq!(router.find(&asked.view()), allow);
        asked.path = "/b".to_owned();
        assert_eq!(router.find(&asked.view()), Outcome::NotFound);
    }

    #[test]
    fn an_empty_router_finds_nothing() {
        let router = numbered(vec![]);
        assert_eq!(router.find(&get("", "/").view()), Outcome::NotFound);
    }

    #[test]
    fn a_router_is_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Router<usize>>();
    }

    const HOSTS: [&str; 4] = ["a.test", "b.a.test", "*.a.test", "*.test"];
    const METHODS: [&str; 3] = ["GET", "POST", "PUT"];
    const HEADERS: [&str; 5] = ["x=1", "x=2", "x~^1", "x", "y=1"];
    const QUERY: [&str; 5] = ["", "v=1", "v=a b", "v", "w~^[12]$"];

    fn a_path() -> impl Strategy<Value = String> {
        let segments = vec(select(vec!["a", "b", "ab"]), 0..4);
        (segments, any::<bool>()).prop_map(|(segments, slash)| {
            let slash = if slash || segments.is_empty() { "/" } else { "" };
            segments.iter().map(|s| format!("/{s}")).collect::<String>() + slash
        })
    }

    fn a_match() -> impl Strategy<Value = Match> {
        let path = prop_oneof![
            4 => a_path().prop_map(|p| prefix(&p)),
            2 => a_path().prop_map(|p| exact(&p)),
            2 => select(vec!["^/a", "b$", "/ab?/", "."]).prop_map(regex),
        ];
        (
            path,
            subsequence(HOSTS.to_vec(), 0..=2),
            subsequence(METHODS.to_vec(), 0..=2),
            prop_oneof![Just(vec![]), subsequence(HEADERS.to_vec(), 0..=2)],
            prop_oneof![2 => Just(""), 1 => select(QUERY.to_vec())],
        )
            .prop_map(|(m, hosts, methods, headers, query)| {
                with(m, &hosts, &methods.join(" "), &headers, query)
            })
    }

    fn a_request() -> impl Strategy<Value = Asked> {
        let hosts = vec!["a.test", "b.a.test", "c.a.test", "c.b.a.test", "b.test", "test", "other", ""];
        let query = vec!["", "v=1", "w=2&v=%31", "v=a+b", "v=2&v=a%20b", "v&w=3", "%76"];
        let lines = vec![("x", "1"), ("x", "2"), ("x", "12"), ("y", "1")];
        (
            select(vec!["GET", "POST", "PUT", "HEAD"]),
            select(hosts),
            a_path(),
            select(query),
            subsequence(lines, 0..=3),
        )
            .prop_map(|(method, host, path, query, lines)| {
                let mut headers = HeaderMap::new();
                for (name, value) in lines {
                    headers.append(name, HeaderValue::from_static(value));
                }
                Asked { method, host, path, query, headers }
            })
    }

    /// How specific the best of the hosts of `m` that takes `host` is.
    fn naive_host(m: &Match, host: &str) -> Option<usize> {
        if m.hosts.is_empty() {
            return Some(0);
        }
        let specific = |pattern: &HostPattern| match pattern {
            HostPattern::Exact(name) => (name == host).then_some(usize::MAX),
            HostPattern::Wildcard(suffix) => {
                let front = host.strip_suffix(&format!(".{suffix}"))?;
                (!front.is_empty()).then_some(suffix.len())
            }
        };
        m.hosts.iter().filter_map(specific).max()
    }

    fn naive_path(m: &Match, path: &str) -> Option<usize> {
        match &m.path {
            PathMatch::Exact(exact) => (exact == path).then_some(usize::MAX),
            PathMatch::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                let whole = path == prefix || path.starts_with(&format!("{prefix}/"));
                whole.then_some(prefix.len() + 1)
            }
            PathMatch::Regex(regex) => regex.is_match(path).then_some(0),
        }
    }

    fn naive_value(wanted: &ValueMatch, given: &str) -> bool {
        match wanted {
            ValueMatch::Exact(text) => text == given,
            ValueMatch::Regex(regex) => regex.is_match(given.as_bytes()),
            ValueMatch::Present => true,
        }
    }

    /// The reference: the place of `m` among those that take `asked` but for the method; the greatest wins.
    fn naive_rank(m: &Match, asked: &Asked) -> Option<impl Ord> {
        let plain = asked.query.replace('+', " ").replace("%20", " ");
        let plain = plain.replace("%31", "1").replace("%76", "v");
        let pairs: Vec<(&str, &str)> =
            plain.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
        let headers = m.headers.iter().all(|(name, wanted)| {
            let mut lines = asked.headers.get_all(name).iter();
            lines.any(|line| naive_value(wanted, line.to_str().unwrap()))
        });
        let query = m.query.iter().all(|(name, wanted)| {
            let mut pairs = pairs.iter();
            pairs.any(|(n, v)| n == name && naive_value(wanted, v))
        });
        let host = naive_host(m, asked.host)?;
        let path = naive_path(m, &asked.path)?;
        let counts = (!m.methods.is_empty(), m.headers.len(), m.query.len());
        (headers && query).then_some((host, path, counts))
    }

    fn naive<'a>(matches: &'a [Match], asked: &Asked) -> Result<usize, Vec<&'a str>> {
        let method = |m: &Match| m.methods.is_empty() || m.methods.iter().any(|x| x == asked.method);
        let ranked =
            || matches.iter().enumerate().filter_map(|(i, m)| Some((naive_rank(m, asked)?, Reverse(i))));
        let winner = ranked().filter(|(_, i)| method(&matches[i.0])).max();
        winner.map(|(_, i)| i.0).ok_or_else(|| {
            let methods = ranked().flat_map(|(_, i)| matches[i.0].methods.iter());
            let set: BTreeSet<&str> = methods.map(Method::as_str).collect();
            set.into_iter().collect()
        })
    }

    /// The routes that cover any of `route`, if between them they cover all of it.
    fn naive_shadow(matches: &[Match], route: usize) -> Option<BTreeSet<usize>> {
        let m = &matches[route];
        let hosts: Vec<_> = match m.hosts.as_slice() {
            [] => vec![None],
            hosts => hosts.iter().map(Some).collect(),
        };
        let methods: Vec<_> = match m.methods.as_slice() {
            [] => vec![None],
            methods => methods.iter().map(Some).collect(),
        };
        let mut by = BTreeSet::new();
        for (host, method) in hosts.iter().flat_map(|h| methods.iter().map(move |m| (h, m))) {
            let covers = |&other: &usize| {
                let o = &matches[other];
                host.map_or(o.hosts.is_empty(), |host| o.hosts.contains(host))
                    && (o.methods.is_empty() || method.is_some_and(|x| o.methods.contains(x)))
                    && naive_precedes(o, other, m, route)
                    && asks_no_more(o, m)
            };
            let covering: Vec<usize> = (0..matches.len()).filter(covers).collect();
            if covering.is_empty() {
                return None;
            }
            by.extend(covering);
        }
        Some(by)
    }

    /// Whether `a`, at place `i`, comes before `b`, at `j`, wherever `b` takes the path.
    fn naive_precedes(a: &Match, i: usize, b: &Match, j: usize) -> bool {
        let counts = |m: &Match| (!m.methods.is_empty(), m.headers.len(), m.query.len());
        match (&a.path, &b.path) {
            (PathMatch::Prefix(a), PathMatch::Regex(_)) => return a == "/",
            (PathMatch::Prefix(a), PathMatch::Prefix(b))
                if a.trim_end_matches('/') == b.trim_end_matches('/') => {}
            (PathMatch::Exact(a), PathMatch::Exact(b)) if a == b => {}
            (PathMatch::Regex(a), PathMatch::Regex(b)) if a.as_str() == b.as_str() => {}
            _ => return false,
        }
        (counts(a), Reverse(i)) > (counts(b), Reverse(j))
    }

    fn asks_no_more(a: &Match, b: &Match) -> bool {
        let parts = |m: &Match| -> BTreeSet<String> {
            let headers = m.headers.iter().map(|h| format!("header {h:?}"));
            headers.chain(m.query.iter().map(|q| format!("query {q:?}"))).collect()
        };
        parts(a).is_subset(&parts(b))
    }

    fn quiet() -> ProptestConfig {
        ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(quiet())]

        #[test]
        fn finds_what_the_reference_finds(
            matches in vec(a_match(), 0..24),
            requests in vec(a_request(), 1..16),
        ) {
            let router = numbered(matches.clone());
            for asked in &requests {
                let found = match router.find(&asked.view()) {
                    Outcome::Found(id) => Ok(*router.get(id)),
                    Outcome::NotFound => Err(vec![]),
                    Outcome::MethodNotAllowed(allow) => Err(allow),
                };
                prop_assert_eq!(found, naive(&matches, asked), "{:?}", asked);
            }
        }

        #[test]
        fn a_shadowed_route_never_wins(
            matches in vec(a_match(), 2..24),
            requests in vec(a_request(), 1..32),
        ) {
            let all: Vec<&Match> = matches.iter().collect();
            let shadows = shadowed(&all);
            for asked in &requests {
                if let Ok(winner) = naive(&matches, asked) {
                    prop_assert!(shadows.iter().all(|s| s.route != winner), "{:?}", asked);
                }
            }
        }

        #[test]
        fn shadows_are_those_of_the_reference(matches in vec(a_match(), 2..24)) {
            let all: Vec<&Match> = matches.iter().collect();
            let shadows = shadowed(&all);
            for route in 0..matches.len() {
                let found = shadows.iter().find(|s| s.route == route).map(|s| s.by);
                let by = naive_shadow(&matches, route);
                prop_assert_eq!(found.is_some(), by.is_some(), "{}", route);
                prop_assert!(found.is_none_or(|found| by.unwrap().contains(&found)), "{}", route);
            }
        }
    }
}
