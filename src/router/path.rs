//! The paths of one host: exact ones by hash, prefixes by a trie over whole segments, regexes one by one.
//!
//! It knows routes by their number only, and hands out the numbers of those that may take a path, best first;
//! a regex is still to be tried, after the cheaper parts of its route.

use std::iter::successors;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use smol_str::SmolStr;

use super::matcher::{bare, PathMatch};

/// A route's number: its place in the file.
pub(super) type RouteId = u32;

/// Routes of one path, best first. A few stand where they are looked for: with 10,000 routes what a look-up costs is the
/// memory that it must wait for.
type RouteIds = SmallVec<[RouteId; 4]>;

/// The routes of one host by path.
#[derive(Debug, Default)]
pub(super) struct Paths {
    exact: FxHashMap<SmolStr, RouteIds>,
    prefixes: Trie,
    regexes: RouteIds,
}

impl Paths {
    pub(super) fn insert(&mut self, path: &PathMatch, route: RouteId) {
        let routes = match path {
            PathMatch::Exact(path) => self.exact.entry(path.as_str().into()).or_default(),
            PathMatch::Prefix(prefix) => self.prefixes.entry(prefix),
            PathMatch::Regex(_) => &mut self.regexes,
        };
        // A host named twice in one route brings the same route again.
        if routes.last() != Some(&route) {
            routes.push(route);
        }
    }

    /// Puts every list of routes in order of `key` and gives spare memory back: nothing is inserted after
    /// this.
    pub(super) fn seal<K: Ord>(&mut self, key: impl Fn(&RouteId) -> K + Copy) {
        for routes in self.exact.values_mut() {
            seal_list(routes, key);
        }
        for node in &mut self.prefixes.nodes {
            seal_list(&mut node.routes, key);
            node.children.shrink_to_fit();
        }
        seal_list(&mut self.regexes, key);
        self.exact.shrink_to_fit();
        self.prefixes.seal();
    }

    /// The routes that may take `path`: the exact ones, the prefixes from the longest to the shortest, the
    /// regexes.
    pub(super) fn candidates<'a>(&'a self, path: &str) -> impl Iterator<Item = RouteId> + use<'a> {
        let exact = self.exact.get(path).map_or(&[][..], SmallVec::as_slice);
        exact.iter().chain(self.prefixes.longest_first(path).flatten()).chain(&self.regexes).copied()
    }
}

/// A trie with one segment of the path to a step, kept in one vector: the root first, a parent before its
/// children.
#[derive(Debug, Default)]
struct Trie {
    nodes: Vec<Node>,
}

/// As large as a cache line, and on one.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Node {
    children: FxHashMap<SmolStr, u32>,
    routes: RouteIds,
    /// Before `seal` the parent; after it the nearest node above with routes, so that falling back to a
    /// shorter prefix is to follow a link and needs no stack. None for the root, and where there is nothing
    /// above.
    above: Option<u32>,
}

impl Trie {
    /// The routes of `prefix`, whose nodes are made as needed.
    fn entry(&mut self, prefix: &str) -> &mut RouteIds {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let mut at = 0;
        let prefix = bare(prefix);
        if !prefix.is_empty() {
            for segment in prefix.split('/') {
                at = self.child(at, segment);
            }
        }
        &mut self.nodes[at as usize].routes
    }

    fn child(&mut self, parent: u32, segment: &str) -> u32 {
        let next = index(self.nodes.len());
        let children = &mut self.nodes[parent as usize].children;
        if let Some(&child) = children.get(segment) {
            return child;
        }
        children.insert(segment.into(), next);
        self.nodes.push(Node { above: Some(parent), ..Node::default() });
        next
    }

    fn seal(&mut self) {
        self.nodes.shrink_to_fit();
        // Parents come first, so the link of a parent is final when its children read it.
        for at in 1..self.nodes.len() {
            let Some(parent) = self.nodes[at].above else {
                continue;
            };
            let above = &self.nodes[parent as usize];
            if above.routes.is_empty() {
                self.nodes[at].above = above.above;
            }
        }
    }

    /// The routes of every prefix of `path`, the longest first.
    fn longest_first<'a>(&'a self, path: &str) -> impl Iterator<Item = &'a [RouteId]> + use<'a> {
        let up = |node: &&'a Node| node.above.map(|above| &self.nodes[above as usize]);
        successors(self.deepest(path), up).map(|node| node.routes.as_slice())
    }

    /// The last node on the way of `path`, whether or not it has routes.
    fn deepest(&self, path: &str) -> Option<&Node> {
        let mut at = self.nodes.first()?;
        for segment in path.strip_prefix('/').unwrap_or_default().split('/') {
            let Some(&child) = at.children.get(segment) else {
                break;
            };
            at = &self.nodes[child as usize];
        }
        Some(at)
    }
}

/// Routes and segments are numbered with 32 bits to halve what the tables take.
pub(super) fn index(n: usize) -> u32 {
    u32::try_from(n).expect("a configuration of four thousand million routes does not fit in memory")
}

fn seal_list<K: Ord>(routes: &mut RouteIds, key: impl Fn(&RouteId) -> K) {
    routes.sort_by_key(key);
    routes.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(prefixes: &[&str]) -> Paths {
        let mut paths = Paths::default();
        for (i, prefix) in prefixes.iter().enumerate() {
            paths.insert(&PathMatch::Prefix((*prefix).to_owned()), index(i));
        }
        paths.seal(|&route| route);
        paths
    }

    fn found(paths: &Paths, path: &str) -> Vec<RouteId> {
        paths.candidates(path).collect()
    }

    #[test]
    fn a_node_is_one_cache_line() {
        assert_eq!(size_of::<Node>(), 64);
    }

    #[test]
    fn a_prefix_takes_whole_segments() {
        let paths = prefixes(&["/orders"]);
        for path in ["/orders", "/orders/", "/orders/7", "/orders/7/lines"] {
            assert_eq!(found(&paths, path), [0], "{path}");
        }
        for path in ["/", "/ordersX", "/order", "/Orders", "/v1/orders", "*", ""] {
            assert!(found(&paths, path).is_empty(), "{path}");
        }
    }

    #[test]
    fn longer_prefixes_come_first_over_gaps_in_the_trie() {
        let paths = prefixes(&["/a/b/c/d", "/", "/a/b/", "/a/b"]);
        assert_eq!(found(&paths, "/a/b/c/d/e"), [0, 2, 3, 1]);
        assert_eq!(found(&paths, "/a/b/c"), [2, 3, 1]);
        assert_eq!(found(&paths, "/a"), [1]);
        assert_eq!(found(&paths, "*"), [1], "OPTIONS * is taken by / alone");
    }

    #[test]
    fn an_exact_path_comes_before_its_prefix_and_is_the_whole_path() {
        let mut paths = prefixes(&["/a"]);
        paths.insert(&PathMatch::Exact("/a/".to_owned()), 1);
        assert_eq!(found(&paths, "/a/"), [1, 0]);
        assert_eq!(found(&paths, "/a"), [0]);
    }
}
