//! The predicates on header fields and query parameters.

use http::HeaderName;

use super::ValueMatch;
use crate::base::query::{contiguous, decoded, pairs};
use crate::base::request::Headers;

/// True when every wanted field has a value that satisfies.
pub(super) fn headers_hold(wanted: &[(HeaderName, ValueMatch)], headers: &dyn Headers) -> bool {
    wanted.iter().all(|(name, value)| headers.any(name, &mut |given| value_holds(value, given)))
}

/// True when every wanted parameter occurs in `query` with a value that satisfies.
///
/// The query is read as [`base::query`](crate::base::query) says.
pub(super) fn query_holds(wanted: &[(String, ValueMatch)], query: &str) -> bool {
    wanted.iter().all(|(name, value)| {
        pairs(query)
            .any(|(given, encoded)| decoded(given).eq(name.bytes()) && encoded_value_holds(value, encoded))
    })
}

fn value_holds(wanted: &ValueMatch, given: &[u8]) -> bool {
    match wanted {
        ValueMatch::Exact(text) => text.as_bytes() == given,
        ValueMatch::Regex(regex) => regex.is_match(given),
        ValueMatch::Present => true,
    }
}

fn encoded_value_holds(wanted: &ValueMatch, encoded: &str) -> bool {
    match wanted {
        ValueMatch::Exact(text) => decoded(encoded).eq(text.bytes()),
        // A regex wants its text in one piece: the one place where routing may allocate.
        ValueMatch::Regex(regex) => regex.is_match(&contiguous(encoded)),
        ValueMatch::Present => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex::bytes::Regex;

    fn exact(text: &str) -> ValueMatch {
        ValueMatch::Exact(text.to_owned())
    }

    fn holds(name: &str, value: ValueMatch, query: &str) -> bool {
        query_holds(&[(name.to_owned(), value)], query)
    }

    #[test]
    fn names_and_values_are_decoded() {
        for query in ["a b=c/d", "a+b=c%2fd", "a%20b=c%2Fd", "x=1&a+b=%63/%64"] {
            assert!(holds("a b", exact("c/d"), query), "{query}");
        }
        assert!(!holds("a b", exact("c/d"), "a%2bb=c/d"));
        assert!(!holds("a", exact("b"), "a=B"));
    }

    #[test]
    fn a_percent_sign_that_starts_no_escape_stands_for_itself() {
        for value in ["%", "%4", "100%", "%zz", "%+1"] {
            let expected = value.replace('+', " ");
            assert!(holds("v", exact(&expected), &format!("v={value}")), "{value}");
        }
    }

    #[test]
    fn any_occurrence_satisfies_and_every_predicate_must() {
        assert!(holds("v", exact("2"), "v=1&v=2"));
        let both = [("v".to_owned(), exact("1")), ("w".to_owned(), exact("2"))];
        assert!(query_holds(&both, "w=2&v=1"));
        assert!(!query_holds(&both, "v=1"));
        assert!(query_holds(&[], ""));
    }

    #[test]
    fn presence_needs_the_name_alone() {
        for query in ["v", "v=", "v=1", "&&v&", "x=1&v=="] {
            assert!(holds("v", ValueMatch::Present, query), "{query}");
        }
        for query in ["", "&", "vv", "x=v"] {
            assert!(!holds("v", ValueMatch::Present, query), "{query}");
        }
        assert!(!holds("", ValueMatch::Present, "&&"));
    }

    #[test]
    fn a_regex_sees_the_decoded_bytes() {
        let regex = |text| ValueMatch::Regex(Regex::new(text).unwrap());
        assert!(holds("v", regex("^a b$"), "v=a+b"));
        assert!(holds("v", regex("^[0-9]+$"), "v=12"));
        assert!(!holds("v", regex("^[0-9]+$"), "v=x"));
        assert!(holds("v", regex(r"(?-u)^\xff$"), "v=%FF"));
    }
}
