//! Routes that let everybody in beside routes that do not: a mistake as often as not, which `auth: none` says is none.

use super::super::decode::{Context, Place};
use super::super::raw::auth::RawAuth;
use super::super::raw::{Raw, RawRoute};
use super::matching;
use crate::router::{Match, PathMatch};
use std::collections::HashMap;

/// How many segments of a path are looked at.
const DEEP: usize = 32;

/// Warns of each route without a word on `auth` of which a part, or of whose part, another route asks who comes.
pub(super) fn check(raw: &Raw, cx: &Context<'_>) {
    if raw.defaults.auth.is_some() {
        return; // then every route has a word on it
    }
    let mut guarded = Guarded::default();
    for route in &raw.routes {
        if let Some(RawAuth::Known(known)) = route.policies.auth.as_deref() {
            guarded.add(&matching(route), (route, &known.place));
        }
    }
    let open = |route: &&RawRoute| route.policies.auth.is_none() && !guarded.own.is_empty();
    for route in raw.routes.iter().filter(open) {
        let Some((other, place)) = guarded.meets(&matching(route)) else { continue };
        let name = other.name.as_ref().map(|name| format!(" {:?}", name.shown())).unwrap_or_default();
        let at = route.path.as_ref().map_or(&route.place, |path| &path.place);
        cx.warn(
            at,
            format!(
                "this route lets everybody in, beside or within {}{name} with `auth` on line {}; write `auth: none` if it is meant",
                other.place.path, place.pos.line
            ),
        );
    }
}

type Found<'a> = (&'a RawRoute, &'a Place);
type Index<'a> = HashMap<(String, String), Found<'a>>;

/// The routes with `auth`, by what they take and by all that has it within.
#[derive(Default)]
struct Guarded<'a> {
    /// By host and path as they are.
    own: Index<'a>,
    /// By each host that is the same or wider, with the path as it is.
    wider_hosts: Index<'a>,
    /// By the host as it is, and each path that is the same or shorter.
    shorter: Index<'a>,
    /// By both.
    all: Index<'a>,
}

impl<'a> Guarded<'a> {
    fn add(&mut self, m: &Match, route: Found<'a>) {
        let path = literal(&m.path);
        // Nothing lies below an exact path.
        let own = if is_exact(m) { format!("{path}{EXACT}") } else { path.clone() };
        for host in hosts(m) {
            let put = |map: &mut Index<'a>, host: &str, path: &str| {
                map.entry((host.to_owned(), path.to_owned())).or_insert(route);
            };
            put(&mut self.own, &host, &own);
            for above in paths(&path) {
                put(&mut self.shorter, &host, above);
            }
            for wider in wider(&host) {
                put(&mut self.wider_hosts, wider, &own);
                for above in paths(&path) {
                    put(&mut self.all, wider, above);
                }
            }
        }
    }

    /// One that takes requests which could be this route's, or the other way round.
    fn meets(&self, m: &Match) -> Option<Found<'a>> {
        let path = literal(&m.path);
        let same = format!("{path}{EXACT}");
        let get =
            |map: &Index<'a>, host: &str, path: &str| map.get(&(host.to_owned(), path.to_owned())).copied();
        let above = || paths(&path).chain([same.as_str()]);
        let below = |map, host: &str| if is_exact(m) { None } else { get(map, host, &path) };
        hosts(m).into_iter().find_map(|host| {
            let hosts = || wider(&host);
            below(&self.all, &host)
                .or_else(|| above().find_map(|above| get(&self.wider_hosts, &host, above)))
                .or_else(|| hosts().find_map(|host| below(&self.shorter, host)))
                .or_else(|| hosts().find_map(|host| above().find_map(|above| get(&self.own, host, above))))
        })
    }
}

/// Behind an exact path, which a path never has.
const EXACT: char = '?';

fn is_exact(m: &Match) -> bool {
    matches!(m.path, PathMatch::Exact(_))
}

/// As they are kept here: `.example.com` for `*.example.com`, nothing for any host.
fn hosts(m: &Match) -> Vec<String> {
    if m.hosts.is_empty() {
        return vec![String::new()];
    }
    m.hosts.iter().map(|host| host.to_string().trim_start_matches('*').to_owned()).collect()
}

/// The host itself, each wildcard that covers it, and any host.
fn wider(host: &str) -> impl Iterator<Item = &str> {
    let dots = host.match_indices('.').map(|(at, _)| at).take(DEEP);
    let wildcards = dots.map(move |at| &host[at..]).filter(move |wide| *wide != host);
    let any = std::iter::once("").filter(move |_| !host.is_empty());
    std::iter::once(host).chain(wildcards).chain(any)
}

/// The path itself, and each that it lies below.
fn paths(path: &str) -> impl Iterator<Item = &str> {
    let slashes = path.match_indices('/').map(|(at, _)| at).take(DEEP);
    std::iter::once(path).chain(slashes.map(move |at| &path[..at]).filter(move |above| *above != path))
}

/// Without its last `/`; of a pattern as much as every match of it begins with, to the last whole segment.
fn literal(path: &PathMatch) -> String {
    match path {
        PathMatch::Prefix(path) | PathMatch::Exact(path) => path.trim_end_matches('/').to_owned(),
        PathMatch::Regex(pattern) => {
            let Some(rest) = pattern.as_str().strip_prefix('^') else { return String::new() };
            let plain = |c: char| c.is_ascii_alphanumeric() || "/-_".contains(c);
            let end = rest.find(|c| !plain(c)).unwrap_or(rest.len());
            // Alternatives reach to the beginning, and what may be left out is not there.
            if rest.contains('|') {
                return String::new();
            }
            rest[..end].rfind('/').map_or(String::new(), |slash| rest[..slash].to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_around_a_host_and_a_path() {
        let all = |host| wider(host).collect::<Vec<_>>();
        assert_eq!(all("a.b.test"), ["a.b.test", ".b.test", ".test", ""]);
        assert_eq!(all(".b.test"), [".b.test", ".test", ""]);
        assert_eq!(all(""), [""]);
        let above = |path| paths(path).collect::<Vec<_>>();
        assert_eq!(above("/a/b"), ["/a/b", "", "/a"]);
        assert_eq!(above(""), [""]);
        let regex = |text: &str| literal(&PathMatch::Regex(regex::Regex::new(text).unwrap()));
        assert_eq!(regex("^/v1/x[0-9]"), "/v1");
        assert_eq!(regex("/v1/"), "");
        assert_eq!(regex("^/v1/a|^/"), "");
    }
}
