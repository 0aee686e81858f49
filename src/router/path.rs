//! The paths of one host: exact ones by hash, prefixes by a trie over whole segments, regexes one by one.
//!
//! It knows routes by their number only, and hands out the numbers of those that may take a path, best first;
//! a regex is still to be tried, after the cheaper parts of its route.

use std::iter::successors;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use smol_str::SmolStr;

use super::matcher::{bare, PathMatch};

/// A route by its number, the place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteId(u32);

impl RouteId {
    pub(super) fn new(place: usize) -> Self {
        RouteId(index(place))
    }

    pub(super) fn place(self) -> usize {
        self.0 as usize
    }
}

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
        seal_list(&mut self.regexes, key);
        self.exact.shrink_to_fit();
        self.prefixes.seal(key);
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

#[derive(Debug, Default)]
struct Node {
    children: FxHashMap<SmolStr, Step>,
    routes: RouteIds,
    /// Before `seal` the parent; after it the nearest node above with routes, so that falling back to a
    /// shorter prefix is to follow a link and needs no stack. None for the root, and where there is nothing
    /// above.
    above: Option<u32>,
}

/// Where a segment leads.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// To this node; before `seal` always.
    Node(u32),
    /// To one route and no further, as with most prefixes: the route stands where its segment is found, and no node of
    /// its own must be waited for.
    Leaf(RouteId),
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
        if let Some(&Step::Node(child)) = children.get(segment) {
            return child;
        }
        children.insert(segment.into(), Step::Node(next));
        self.nodes.push(Node { above: Some(parent), ..Node::default() });
        next
    }

    /// Puts every list of routes in order of `key`, leaves out the nodes that are but leaves, and sets the links to what
    /// is above.
    fn seal<K: Ord>(&mut self, key: impl Fn(&RouteId) -> K + Copy) {
        let mut nodes: Vec<Node> = Vec::new();
        let mut steps: Vec<Step> = Vec::with_capacity(self.nodes.len());
        // Parents come first, so the step to a parent, and its link, are final when its children read them.
        for mut node in std::mem::take(&mut self.nodes) {
            let parent = node.above.map(|parent| steps[parent as usize]);
            if let ([route], Some(_), true) = (&node.routes[..], parent, node.children.is_empty()) {
                steps.push(Step::Leaf(*route));
                continue;
            }
            node.above = match parent {
                Some(Step::Node(parent)) => above_through(&nodes, parent),
                Some(Step::Leaf(_)) | None => None,
            };
            seal_list(&mut node.routes, key);
            steps.push(Step::Node(index(nodes.len())));
            nodes.push(node);
        }
        for node in &mut nodes {
            node.children.shrink_to_fit();
            for step in node.children.values_mut() {
                if let Step::Node(before) = *step {
                    *step = steps[before as usize];
                }
            }
        }
        nodes.shrink_to_fit();
        self.nodes = nodes;
    }

    /// The routes of every prefix of `path`, the longest first.
    fn longest_first<'a>(&'a self, path: &str) -> impl Iterator<Item = &'a [RouteId]> + use<'a> {
        let (leaf, deepest) = self.deepest(path);
        let up = |node: &&'a Node| node.above.map(|above| &self.nodes[above as usize]);
        leaf.into_iter().chain(successors(deepest, up).map(|node| node.routes.as_slice()))
    }

    /// The leaf at the end of the way of `path`, if there is one, and the last node on it, whether or not it has routes.
    fn deepest(&self, path: &str) -> (Option<&[RouteId]>, Option<&Node>) {
        let Some(mut at) = self.nodes.first() else { return (None, None) };
        for segment in path.strip_prefix('/').unwrap_or_default().split('/') {
            match at.children.get(segment) {
                Some(Step::Node(node)) => at = &self.nodes[*node as usize],
                Some(Step::Leaf(route)) => return (Some(std::slice::from_ref(route)), Some(at)),
                None => break,
            }
        }
        (None, Some(at))
    }
}

/// The nearest node with routes at `node` or above it.
fn above_through(nodes: &[Node], node: u32) -> Option<u32> {
    let has_routes = !nodes[node as usize].routes.is_empty();
    has_routes.then_some(node).or(nodes[node as usize].above)
}

/// Routes and segments are numbered with 32 bits to halve what the tables take.
fn index(n: usize) -> u32 {
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
            paths.insert(&PathMatch::Prefix((*prefix).to_owned()), RouteId::new(i));
        }
        paths.seal(|route| route.place());
        paths
    }

    fn found(paths: &Paths, path: &str) -> Vec<usize> {
        paths.candidates(path).map(RouteId::place).collect()
    }

    #[test]
    fn half_a_cache_line_holds_a_segment_and_its_route() {
        assert_eq!(size_of::<(SmolStr, Step)>(), 32);
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
        paths.insert(&PathMatch::Exact("/a/".to_owned()), RouteId::new(1));
        assert_eq!(found(&paths, "/a/"), [1, 0]);
        assert_eq!(found(&paths, "/a"), [0]);
    }
}
