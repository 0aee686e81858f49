//! The page: one file, whose script and style a nonce tells from whatever else might get into it.

use crate::base::decimal::hex_128;

const PAGE: &str = include_str!("dashboard.html");

/// A number that nobody can guess.
pub(super) fn nonce() -> Result<String, getrandom::Error> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits)?;
    Ok(String::from_utf8_lossy(&hex_128(u128::from_be_bytes(bits))).into_owned())
}

/// The page with this nonce, made for one answer.
pub(super) fn with(nonce: &str) -> String {
    PAGE.replace("{{nonce}}", nonce)
}

/// What the page may do (Content Security Policy Level 3): run its own script, and ask where it came from.
pub(super) fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}
