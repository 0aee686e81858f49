//! `redirect`: an answer that sends the client elsewhere.

use http::HeaderValue;

/// Where to, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308 (RFC 9110 §15.4).
    pub status: u16,
    to: Vec<Part>,
}

/// A piece of the Location template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Host,
    Path,
    Query,
    Uri,
}

impl Redirect {
    /// Reads a template: text with `{host}` (without port), `{path}` (normalised), `{query}` (with its `?` when there is one) and
    /// `{uri}` (path and query).
    ///
    /// # Errors
    /// What to write instead.
    pub fn new(to: &str, status: u16) -> Result<Self, String> {
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            return Err(format!("a redirect's status is 301, 302, 303, 307 or 308, found {status}"));
        }
        if HeaderValue::from_str(to).is_err() || to.contains(' ') {
            return Err("a redirect's target cannot hold control characters or spaces".to_owned());
        }
        if !(to.starts_with('/')
            || to.starts_with("http://")
            || to.starts_with("https://")
            || to.starts_with('{'))
        {
            return Err(format!("expected a path or a URL such as https://{{host}}{{uri}}, found {to:?}"));
        }
        // A path begins with `/`, so after these its first segment would be read as a host.
        let start = ["/", "http://", "https://"].iter().find_map(|s| to.strip_prefix(s)).unwrap_or_default();
        if start.starts_with("{path}") || start.starts_with("{uri}") {
            return Err(format!("{to:?} would lead to a host that the client chooses; write {start:?}"));
        }
        let (mut parts, mut rest) = (Vec::new(), to);
        while let Some(start) = rest.find('{') {
            let end = rest[start..].find('}').ok_or_else(|| format!("{to:?}: {{ without its }}"))? + start;
            if start > 0 {
                parts.push(Part::Text(rest[..start].to_owned()));
            }
            parts.push(match &rest[start + 1..end] {
                "host" => Part::Host,
                "path" => Part::Path,
                "query" => Part::Query,
                "uri" => Part::Uri,
                other => {
                    return Err(format!(
                        "unknown placeholder {{{other}}}; known: {{host}}, {{path}}, {{query}}, {{uri}}"
                    ))
                }
            });
            rest = &rest[end + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Redirect { status, to: parts })
    }

    /// The Location of one answer. `host` and `path` are the checked and normalised ones of the request.
    pub fn location(&self, host: &str, path: &str, query: &str) -> String {
        let mut out = String::with_capacity(64);
        let add_query = |out: &mut String| {
            if !query.is_empty() {
                out.push('?');
                out.push_str(query);
            }
        };
        for part in &self.to {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Host => out.push_str(host),
                Part::Path => out.push_str(path),
                Part::Query => add_query(&mut out),
                Part::Uri => {
                    out.push_str(path);
                    add_query(&mut out);
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_and_bad_ones_refused() {
        let r = Redirect::new("https://{host}{uri}", 308).unwrap();
        assert_eq!(r.location("a.test", "/x", "q=1"), "https://a.test/x?q=1");
        assert_eq!(r.location("a.test", "/x", ""), "https://a.test/x");
        assert_eq!(Redirect::new("/new{query}", 302).unwrap().location("h", "/old", "a"), "/new?a");
        for (to, status) in [
            ("https://x", 200),
            ("x", 301),
            ("/{nope}", 301),
            ("/{host", 301),
            ("/a b", 301),
            ("/a\r\nb", 301),
            ("/{path}", 301),
            ("https://{uri}", 301),
        ] {
            assert!(Redirect::new(to, status).is_err(), "{to}");
        }
    }
}
