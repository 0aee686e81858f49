//! `rewrite`: the path and host that the upstream sees.
//!
//! Paths are strings that the normaliser made, and every rewriting keeps them normal: a prefix is cut off or put
//! in front by whole segments only, so that policy and upstream never see two different paths.

use crate::base::path;
use http::HeaderValue;
use std::borrow::Cow;

/// What to change before forwarding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// The change of the path, if any.
    pub path: Option<PathRewrite>,
    /// The Host field to send instead of the client's.
    pub host: Option<HeaderValue>,
}

/// How the path changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathRewrite {
    /// Cut the route's prefix off.
    Strip {
        /// The route's prefix.
        from: Box<str>,
    },
    /// Replace the route's prefix by another; `to` has no slash at its end.
    Replace {
        /// The route's prefix.
        from: Box<str>,
        /// What stands in its place; empty for the root.
        to: Box<str>,
    },
    /// One path whatever was asked for.
    Whole(Box<str>),
}

impl PathRewrite {
    /// The path to send upstream.
    pub fn apply<'a>(&'a self, given: &'a str) -> Cow<'a, str> {
        match self {
            PathRewrite::Strip { from } => Cow::Borrowed(path::strip_prefix(given, from)),
            PathRewrite::Replace { from, to } => match path::strip_prefix(given, from) {
                // `/orders` with prefix `/orders` -> `/v2`, but `/orders/` -> `/v2/`
                "/" if !given.ends_with('/') && !to.is_empty() => Cow::Borrowed(to),
                rest => Cow::Owned(format!("{to}{rest}")),
            },
            PathRewrite::Whole(path) => Cow::Borrowed(path),
        }
    }
}

/// Reads a path that a user wrote for the upstream; it must be normal already, or what is forwarded would not
/// be what the file says.
///
/// # Errors
/// What to write instead.
pub fn plain_path(text: &str) -> Result<String, String> {
    match path::normalise(text.as_bytes()) {
        Ok(normal) if normal == text => Ok(text.to_owned()),
        Ok(normal) => Err(format!("{text:?} is not normal; write {normal:?}")),
        Err(e) => Err(format!("{text:?} is not a path: {}", e.detail())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefixes_change_by_whole_segments() {
        let strip = PathRewrite::Strip { from: "/api".into() };
        assert_eq!(strip.apply("/api/x"), "/x");
        assert_eq!(strip.apply("/api"), "/");
        assert_eq!(strip.apply("/api/"), "/");
        let replace = PathRewrite::Replace { from: "/api".into(), to: "/v2".into() };
        assert_eq!(replace.apply("/api"), "/v2");
        assert_eq!(replace.apply("/api/"), "/v2/");
        assert_eq!(replace.apply("/api/x/y"), "/v2/x/y");
        let root = PathRewrite::Replace { from: "/api".into(), to: "".into() };
        assert_eq!(root.apply("/api"), "/");
        assert_eq!(PathRewrite::Replace { from: "/".into(), to: "/v2".into() }.apply("/x"), "/v2/x");
        assert_eq!(PathRewrite::Replace { from: "/".into(), to: "/v2".into() }.apply("/"), "/v2/");
    }

    proptest! {
        #[test]
        fn what_is_rewritten_is_still_normal(path in "(/[a-z.%;]{0,4}){0,6}", prefix in "(/[a-z.]{1,3}){0,3}", to in "(/[a-z]{1,3}){0,2}") {
            let (Ok(path), Ok(prefix)) = (path::normalise(path.as_bytes()), path::normalise(prefix.as_bytes())) else { return Ok(()) };
            let prefix = prefix.trim_end_matches('/');
            let covered = path == prefix || path.strip_prefix(prefix).is_some_and(|r| r.starts_with('/'));
            prop_assume!(covered);
            for rewrite in [PathRewrite::Strip { from: prefix.into() }, PathRewrite::Replace { from: prefix.into(), to: to.as_str().into() }] {
                let out = rewrite.apply(&path);
                prop_assert_eq!(path::normalise(out.as_bytes()).unwrap(), out.clone());
            }
        }
    }
}
