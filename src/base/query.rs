//! A query as it is read: `application/x-www-form-urlencoded` (WHATWG URL §5.1). Pairs between `&`, empty ones skipped, a
//! pair without `=` has the empty value, `+` is a space, and a `%` that starts no escape stands for itself.

use std::borrow::Cow;

/// The pairs, not decoded.
pub fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(pair)
}

fn pair(text: &str) -> (&str, &str) {
    text.split_once('=').unwrap_or((text, ""))
}

/// The bytes of `text` once decoded, one at a time so that comparing needs no buffer.
pub fn decoded(text: &str) -> impl Iterator<Item = u8> + '_ {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (&first, tail) = rest.split_first()?;
        let (byte, tail) = match (first, tail) {
            (b'+', _) => (b' ', tail),
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b'%', tail),
            },
            _ => (first, tail),
        };
        rest = tail;
        Some(byte)
    })
}

/// The same in one piece; it allocates only where something is escaped.
pub fn contiguous(encoded: &str) -> Cow<'_, [u8]> {
    if encoded.contains(['%', '+']) {
        decoded(encoded).collect()
    } else {
        Cow::Borrowed(encoded.as_bytes())
    }
}

/// Whether a name as it is encoded is this one.
pub fn is_named(encoded: &str, name: &str) -> bool {
    encoded == name || (encoded.contains(['%', '+']) && decoded(encoded).eq(name.bytes()))
}

/// The query without the parameters that are called so, however that is encoded; none: there are none.
pub fn without(query: &str, is_gone: impl Fn(&str) -> bool) -> Option<String> {
    if !pairs(query).any(|(name, _)| is_gone(name)) {
        return None;
    }
    let kept = query.split('&').filter(|text| !is_gone(pair(text).0));
    Some(kept.collect::<Vec<_>>().join("&"))
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_taken_out_however_they_are_spelt() {
        let cases = [
            ("k=1", Some("")),
            ("a=1&k=2&b=3", Some("a=1&b=3")),
            ("%6b=1&a=%41&k", Some("a=%41")),
            ("a=k&b=&&kk=1", None),
            ("", None),
        ];
        for (query, left) in cases {
            assert_eq!(without(query, |name| is_named(name, "k")).as_deref(), left, "{query}");
        }
    }
}
