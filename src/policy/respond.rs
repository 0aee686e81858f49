//! `respond`: a fixed answer.

use bytes::Bytes;
use http::HeaderValue;

/// A fixed answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Respond {
    /// 200 to 599.
    pub status: u16,
    /// The content, possibly empty.
    pub body: Bytes,
    /// The Content-Type; sent when there is content.
    pub content_type: HeaderValue,
}
