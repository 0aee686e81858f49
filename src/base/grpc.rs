//! gRPC over HTTP/2, as far as a gateway has to know it: whose requests it is, how long they may take, and how a status is
//! told. <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use std::fmt::Write;
use std::time::Duration;

/// The content type of what the gateway answers itself.
pub const CONTENT_TYPE: &str = "application/grpc";
/// Where a status is told, and in words.
pub const STATUS: &str = "grpc-status";
/// The words.
pub const MESSAGE: &str = "grpc-message";
/// How long the client waits.
pub const TIMEOUT: &str = "grpc-timeout";

/// Statuses that the gateway tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // gRPC's own names
#[repr(u8)]
pub enum Code {
    Unknown = 2,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// Whether a message of this type is one of gRPC: `application/grpc`, or with `+proto` and the like. What browsers send
/// (`application/grpc-web`) is not.
pub fn is_grpc(content_type: &[u8]) -> bool {
    let (name, rest) = content_type.split_at(content_type.len().min(CONTENT_TYPE.len()));
    name.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes())
        && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// The value of a `grpc-timeout`: at most eight digits and a unit.
pub fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Words as a `grpc-message` has them: what is not printable, and `%`, as `%XX`.
pub fn message(words: &str) -> String {
    let mut out = String::with_capacity(words.len());
    for byte in words.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_grpc_are_known() {
        for yes in ["application/grpc", "application/grpc+proto", "Application/GRPC; a=b"] {
            assert!(is_grpc(yes.as_bytes()), "{yes}");
        }
        for no in ["", "application/grp", "application/grpc-web", "application/grpc-web-text", "text/plain"] {
            assert!(!is_grpc(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn timeouts_are_read() {
        for (given, read) in [
            ("1S", Some(Duration::from_secs(1))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("7n", Some(Duration::from_nanos(7))),
        ] {
            assert_eq!(timeout(given.as_bytes()), read, "{given}");
        }
        for bad in ["", "S", "1", "1s", "-1S", "123456789S", "1 S", "+1S"] {
            assert_eq!(timeout(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn messages_are_ascii() {
        assert_eq!(message("50% — nichts\n"), "50%25 %E2%80%94 nichts%0A");
    }
}
