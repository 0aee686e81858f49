//! Routes that can never win, for `check` to refuse.

use http::Method;
use rustc_hash::FxHashMap;

use super::matcher::{bare, rank};
use super::{HostPattern, Match, PathMatch, ValueMatch};

/// A route that can never win.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// The route, by its place among those asked about.
    pub route: usize,
    /// A route that wins instead; where it takes several together, the first of them.
    pub by: usize,
}

/// The routes that can never win, in the order given, each with one that wins instead.
///
/// Every one reported is certain; not every one is found. A route is held to be covered by routes of higher
/// precedence that name the same host pattern, the same path and the same predicates, and its methods between
/// them. A regex route is covered also by prefix routes at `/` that ask no more than it does, since prefixes
/// come before regexes. What one regex says about another, or `x: present` about `x: acme`, is not looked
/// into.
///
/// Its cost is near linear: routes meet by hash, never each with each.
pub fn shadowed(matches: &[&Match]) -> Vec<Shadow> {
    let mut order: Vec<usize> = (0..matches.len()).collect();
    order.sort_by_key(|&route| {
        let m = matches[route];
        let regex = matches!(m.path, PathMatch::Regex(_));
        (regex, rank(&m.methods, &m.headers, &m.query, route))
    });
    // From the highest precedence down, so that what is seen already is all that can cover what comes.
    let mut seen = Seen::default();
    let mut shadows = Vec::new();
    for route in order {
        let m = matches[route];
        let predicates = predicates(m);
        if let Some(by) = seen.covering(m, &predicates) {
            shadows.push(Shadow { route, by });
        }
        seen.add(route, m, predicates);
    }
    shadows.sort_by_key(|shadow| shadow.route);
    shadows
}

/// How many predicates of a regex route are looked at for what covers it from `/`: their subsets are tried
/// one by one.
const FEW: usize = 8;

/// One predicate, comparable: what it looks at, the name, how it compares, and with what text.
type Predicate<'a> = (Part, &'a str, Comparison, &'a str);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part {
    Header,
    Query,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Comparison {
    Exact,
    Regex,
    Present,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Path<'a> {
    Prefix(&'a str),
    Exact(&'a str),
    Regex(&'a str),
}

/// A place in the router: a host pattern or any host, and a path.
type Place<'a> = (Option<&'a HostPattern>, Path<'a>);

/// The routes that take a method, the first of each: those that name it, and those that name none.
#[derive(Default)]
struct Takers<'a> {
    named: FxHashMap<&'a Method, usize>,
    any: Option<usize>,
}

/// The routes looked at so far, by place and predicates.
#[derive(Default)]
struct Seen<'a>(FxHashMap<(Place<'a>, Vec<Predicate<'a>>), Takers<'a>>);

impl<'a> Seen<'a> {
    /// A route that takes requests from `m`, if together those seen take every one.
    fn covering(&self, m: &'a Match, predicates: &[Predicate<'a>]) -> Option<usize> {
        let mut by = None;
        for host in hosts(m) {
            let key = ((host, path(m)), predicates.to_vec());
            let mut takers: Vec<_> = self.0.get(&key).into_iter().collect();
            if matches!(m.path, PathMatch::Regex(_)) {
                takers.extend(self.at_root(host, predicates));
            }
            let first = covering(&takers, &m.methods)?;
            by = by.or(Some(first));
        }
        by
    }

    fn add(&mut self, route: usize, m: &'a Match, predicates: Vec<Predicate<'a>>) {
        for host in hosts(m) {
            let key = ((host, path(m)), predicates.clone());
            self.0.entry(key).or_default().add(route, m);
        }
    }

    /// The prefix routes at `/` of `host` that ask no more than `predicates`: one look-up for each subset,
    /// which beats going through the routes as long as the predicates are few.
    fn at_root<'s>(
        &'s self,
        host: Option<&'a HostPattern>,
        predicates: &'s [Predicate<'a>],
    ) -> impl Iterator<Item = &'s Takers<'a>> {
        let few = &predicates[..predicates.len().min(FEW)];
        (0..1_u32 << few.len()).filter_map(move |subset| {
            let chosen = few.iter().enumerate().filter(|(i, _)| subset >> i & 1 == 1);
            let key = ((host, Path::Prefix("")), chosen.map(|(_, one)| *one).collect());
            self.0.get(&key)
        })
    }
}

impl<'a> Takers<'a> {
    fn add(&mut self, route: usize, m: &'a Match) {
        if m.methods.is_empty() {
            self.any.get_or_insert(route);
        }
        for method in &m.methods {
            self.named.entry(method).or_insert(route);
        }
    }
}

/// The first of the routes that between them take every one of `methods`, or every method at all where none
/// is named.
fn covering(takers: &[&Takers<'_>], methods: &[Method]) -> Option<usize> {
    let any = takers.iter().find_map(|takers| takers.any);
    if any.is_some() || methods.is_empty() {
        return any;
    }
    let taker = |method| takers.iter().find_map(|takers| takers.named.get(method).copied());
    let all: Option<Vec<usize>> = methods.iter().map(taker).collect();
    all?.first().copied()
}

/// The host patterns of a route; `None` is any host.
fn hosts(m: &Match) -> impl Iterator<Item = Option<&HostPattern>> {
    let any = m.hosts.is_empty().then_some(None);
    m.hosts.iter().map(Some).chain(any)
}

fn path(m: &Match) -> Path<'_> {
    match &m.path {
        PathMatch::Prefix(prefix) => Path::Prefix(bare(prefix)),
        PathMatch::Exact(path) => Path::Exact(path),
        PathMatch::Regex(regex) => Path::Regex(regex.as_str()),
    }
}

/// The predicates of a route, sorted and each once.
fn predicates(m: &Match) -> Vec<Predicate<'_>> {
    let headers = m.headers.iter().map(|(name, value)| {
        let (comparison, text) = comparison(value);
        (Part::Header, name.as_str(), comparison, text)
    });
    let query = m.query.iter().map(|(name, value)| {
        let (comparison, text) = comparison(value);
        (Part::Query, name.as_str(), comparison, text)
    });
    let mut all: Vec<_> = headers.chain(query).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn comparison(value: &ValueMatch) -> (Comparison, &str) {
    match value {
        ValueMatch::Exact(text) => (Comparison::Exact, text),
        ValueMatch::Regex(regex) => (Comparison::Regex, regex.as_str()),
        ValueMatch::Present => (Comparison::Present, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{exact, prefix, regex, with};
    use super::*;

    fn found(matches: &[Match]) -> Vec<(usize, usize)> {
        let matches: Vec<&Match> = matches.iter().collect();
        let pair = |shadow: Shadow| (shadow.route, shadow.by);
        shadowed(&matches).into_iter().map(pair).collect()
    }

    #[test]
    fn the_same_match_twice() {
        assert_eq!(found(&[prefix("/a"), prefix("/a/")]), [(1, 0)]);
        assert_eq!(found(&[exact("/a"), exact("/a/")]), []);
        assert_eq!(found(&[regex("a"), regex("a"), regex("b")]), [(1, 0)]);
        assert_eq!(found(&[prefix("/a"), exact("/a"), regex("/a")]), []);
    }

    #[test]
    fn methods_are_covered_one_by_one() {
        let m = |methods| with(prefix("/a"), &[], methods, &[], "");
        assert_eq!(found(&[m("GET"), m("POST"), m("POST GET")]), [(2, 1)]);
        assert_eq!(found(&[m("GET"), m("POST GET")]), []);
        // A route with methods comes before one without, wherever it stands.
        assert_eq!(found(&[m(""), m("GET")]), []);
        assert_eq!(found(&[m("GET"), m("")]), []);
    }

    #[test]
    fn predicates_must_be_the_same_where_the_path_is() {
        let m = |headers: &[&str], query| with(prefix("/a"), &[], "", headers, query);
        assert_eq!(found(&[m(&["x=1", "y=1"], ""), m(&["y=1", "x=1"], "")]), [(1, 0)]);
        assert_eq!(found(&[m(&[], ""), m(&["x=1"], "")]), []);
        assert_eq!(found(&[m(&[], "x=1"), m(&["x=1"], "")]), []);
        // The one that asks twice asks for no more, but comes first.
        assert_eq!(found(&[m(&["x=1"], ""), m(&["x=1", "x=1"], "")]), [(0, 1)]);
    }

    #[test]
    fn every_host_must_be_covered() {
        let m = |hosts: &[&str]| with(prefix("/a"), hosts, "", &[], "");
        let (a, b) = ("a.test", "*.a.test");
        assert_eq!(found(&[m(&[a]), m(&[b]), m(&[a, b])]), [(2, 0)]);
        assert_eq!(found(&[m(&[a]), m(&[a, b])]), []);
        assert_eq!(found(&[m(&[a, a])]), []);
        assert_eq!(found(&[m(&[]), m(&[a]), m(&[b])]), []);
    }

    #[test]
    fn a_prefix_route_at_the_root_covers_regexes() {
        let root = |methods, headers: &[&str]| with(prefix("/"), &[], methods, headers, "");
        let taken = |methods, headers: &[&str]| with(regex("^/v"), &[], methods, headers, "");
        assert_eq!(found(&[taken("", &[]), root("", &[])]), [(0, 1)]);
        assert_eq!(found(&[taken("GET", &["x=1", "y=2"]), root("", &["x=1"])]), [(0, 1)]);
        assert_eq!(found(&[taken("GET POST", &[]), root("POST", &[]), root("GET", &[])]), [(0, 2)]);
        assert_eq!(found(&[taken("", &[]), root("GET", &[])]), []);
        assert_eq!(found(&[taken("", &["x=1"]), root("", &["x=2"])]), []);
        assert_eq!(found(&[taken("", &[]), with(prefix("/"), &["a.test"], "", &[], "")]), []);
        // Between them: one method by a regex before it, the other by the root.
        assert_eq!(found(&[taken("GET", &[]), taken("GET POST", &[]), root("POST", &[])]), [(1, 0)]);
    }

    #[test]
    fn ten_thousand_routes_in_a_moment() {
        let twice = |i: usize| prefix(&format!("/{}", i / 2));
        let routes: Vec<Match> = (0..10_000).map(twice).collect();
        let start = std::time::Instant::now();
        assert_eq!(found(&routes).len(), 5_000);
        assert!(start.elapsed().as_secs() < 2, "not near linear");
    }
}
