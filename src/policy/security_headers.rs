//! `security_headers`: what browsers are told to be careful about.
//!
//! What an upstream says itself stays: it knows its pages better. What it says of its own make goes.

use http::header::{self, HeaderName, HeaderValue};

/// The fields, and what an answer loses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityHeaders {
    /// Each is there where the answer has none of its name.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// Whether [`MAKE`] goes.
    pub hide_server: bool,
}

/// What tells of the software that made an answer.
pub const MAKE: [HeaderName; 2] = [header::SERVER, HeaderName::from_static("x-powered-by")];

/// A field that has a value of its own where it is only switched on; `None`: it is there only when it is given.
pub struct Known {
    /// The key in the configuration.
    pub key: &'static str,
    /// The field.
    pub name: HeaderName,
    /// Its value unless another is given.
    pub usual: Option<&'static str>,
    /// All that it may be; nothing: whatever a field can hold.
    pub values: &'static [&'static str],
}

const fn known(
    key: &'static str,
    name: &'static str,
    usual: Option<&'static str>,
    values: &'static [&'static str],
) -> Known {
    Known { key, name: HeaderName::from_static(name), usual, values }
}

/// All of them, with the values that OWASP's cheat sheet has, where pages can bear them.
pub const KNOWN: [Known; 7] = [
    known("content_type_options", "x-content-type-options", Some("nosniff"), &["nosniff"]),
    known("frame_options", "x-frame-options", Some("DENY"), &["DENY", "SAMEORIGIN"]),
    known(
        "referrer_policy",
        "referrer-policy",
        Some("strict-origin-when-cross-origin"),
        &[
            "no-referrer",
            "no-referrer-when-downgrade",
            "origin",
            "origin-when-cross-origin",
            "same-origin",
            "strict-origin",
            "strict-origin-when-cross-origin",
            "unsafe-url",
        ],
    ),
    known(
        "permissions_policy",
        "permissions-policy",
        Some("camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"),
        &[],
    ),
    known(
        "opener_policy",
        "cross-origin-opener-policy",
        Some("same-origin"),
        &["same-origin", "same-origin-allow-popups", "noopener-allow-popups", "unsafe-none"],
    ),
    known(
        "resource_policy",
        "cross-origin-resource-policy",
        Some("same-origin"),
        &["same-origin", "same-site", "cross-origin"],
    ),
    known("content_security_policy", "content-security-policy", None, &[]),
];
