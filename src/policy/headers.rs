//! `request_headers` and `response_headers`: set, add and remove fields.

use http::{header, HeaderName, HeaderValue};

/// Edits in the order remove, set, add, so that a field can be replaced by several values.
///
/// It refuses the fields that frame a message or belong to one hop (RFC 9110 §7.6.1): editing them would make
/// the two sides disagree about where a message ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Before that, of a request: the only fields of the client's that stay, if there is such a list.
    pub only: Option<Vec<HeaderName>>,
    /// Names to remove.
    pub remove: Vec<HeaderName>,
    /// Values that replace all values of their field.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Values added to those that are there.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderEdits {
    /// Whether a field called so is another one, or gone, after these edits. A value that is added leaves it as it is.
    pub fn replaces(&self, name: &HeaderName) -> bool {
        self.remove.contains(name) || self.set.iter().any(|(set, _)| set == name)
    }
}

/// Reads a field name that may be edited.
///
/// # Errors
/// Why not, and what to do instead.
pub fn editable(name: &str) -> Result<HeaderName, String> {
    let name: HeaderName = name.parse().map_err(|_| format!("{name:?} is not a header name"))?;
    const FRAMING: [HeaderName; 8] = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    if name == header::HOST {
        return Err("Host is changed by `rewrite: {host: …}`".to_owned());
    }
    if FRAMING.contains(&name) {
        return Err(format!("{name} frames the message or belongs to one connection; it cannot be edited"));
    }
    Ok(name)
}

/// Reads a field value: visible characters, spaces and tabs (RFC 9110 §5.5).
///
/// # Errors
/// What is wrong with it.
pub fn value(text: &str) -> Result<HeaderValue, String> {
    if text.trim() != text {
        return Err("a header value cannot begin or end with white space".to_owned());
    }
    HeaderValue::from_str(text)
        .map_err(|_| "a header value cannot hold control characters or line ends".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_and_smuggled_lines_are_refused() {
        for name in ["content-length", "Transfer-Encoding", "HOST", "connection", "a b", "", "x:y"] {
            assert!(editable(name).is_err(), "{name}");
        }
        assert!(editable("X-Env").is_ok());
        for bad in ["a\r\nb: c", "a\nb", " a", "a\0"] {
            assert!(value(bad).is_err(), "{bad:?}");
        }
    }
}
