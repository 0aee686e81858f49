//! Why a request head is refused, and what its sender is told.

/// Why a head is refused, one variant a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // `detail` is their documentation
pub enum HeadError {
    BareCr,
    BareLf,
    Nul,
    EmptyLines,
    RequestLine,
    Method,
    MethodRefused,
    Target,
    TargetForm,
    TargetTooLong,
    Version,
    VersionUnsupported,
    Http2Only,
    HeadTooLarge,
    TooManyFields,
    Fold,
    FieldName,
    SpaceBeforeColon,
    FieldValue,
    Underscore,
    HostMissing,
    HostDuplicate,
    HostInvalid,
    HostMismatch,
    LengthDuplicate,
    LengthList,
    LengthInvalid,
    LengthAndCoding,
    CodingInHttp10,
    CodingDuplicate,
    CodingInvalid,
    CodingUnsupported,
    Expectation,
}

impl HeadError {
    /// The status to answer with. A 405 needs an `Allow` field beside it (RFC 9110 §15.5.6).
    pub fn status(self) -> u16 {
        self.parts().0
    }

    /// The machine-readable reason, for logs and metrics.
    pub fn reason(self) -> &'static str {
        self.parts().1
    }

    /// What a client's developer can do about it.
    pub fn detail(self) -> &'static str {
        self.parts().2
    }

    #[rustfmt::skip] // one line a reason
    fn parts(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::BareCr => (400, "bare_cr", "A carriage return in the request head is not followed by a line feed."),
            Self::BareLf => (400, "bare_lf", "Every line of the request head must end with CRLF, not with LF alone."),
            Self::Nul => (400, "nul", "The request head must not contain NUL bytes."),
            Self::EmptyLines => (400, "empty_lines", "Too many empty lines come before the request line."),
            Self::RequestLine => (400, "request_line", "The request line must be a method, a target and a version, with one space between."),
            Self::Method => (400, "method", "The request method must be a token of at most 32 characters."),
            Self::MethodRefused => (405, "method_refused", "CONNECT and TRACE are not supported."),
            Self::Target => (400, "target", "The request target must not be empty or contain spaces, control characters or \"#\"."),
            Self::TargetForm => (400, "target_form", "The request target must be a path or an http(s) URL; \"*\" is for OPTIONS only."),
            Self::TargetTooLong => (414, "target_too_long", "The request target is too long."),
            Self::Version => (400, "version", "The request line must end with HTTP/1.0 or HTTP/1.1, in upper case."),
            Self::VersionUnsupported => (505, "version_unsupported", "Only HTTP/1.0 and HTTP/1.1 are spoken here without negotiation."),
            Self::Http2Only => (505, "http2_only", "Only HTTP/2 is spoken here, and the connection did not begin with its preface."),
            Self::HeadTooLarge => (431, "head_too_large", "The request line and header fields are too large together."),
            Self::TooManyFields => (431, "too_many_fields", "The request has too many header fields."),
            Self::Fold => (400, "fold", "A header field must not be continued on a second line."),
            Self::FieldName => (400, "field_name", "Every header field must be a name (a token), a colon and a value."),
            Self::SpaceBeforeColon => (400, "space_before_colon", "There must be no white space between a header field's name and its colon."),
            Self::FieldValue => (400, "field_value", "A header field's value must not contain control characters."),
            Self::Underscore => (400, "underscore", "Content-Length and Transfer-Encoding must be written with a hyphen."),
            Self::HostMissing => (400, "host_missing", "An HTTP/1.1 request must have a Host header field."),
            Self::HostDuplicate => (400, "host_duplicate", "A request must have no more than one Host header field."),
            Self::HostInvalid => (400, "host_invalid", "The Host header field must be a host name or address, with or without a port."),
            Self::HostMismatch => (400, "host_mismatch", "The Host header field must name the same host and port as the request target."),
            Self::LengthDuplicate => (400, "length_duplicate", "A request must have no more than one Content-Length header field."),
            Self::LengthList => (400, "length_list", "The Content-Length header field must be a single number."),
            Self::LengthInvalid => (400, "length_invalid", "The Content-Length header field must be a decimal number below 2^63."),
            Self::LengthAndCoding => (400, "length_and_coding", "A request must not have both Content-Length and Transfer-Encoding."),
            Self::CodingInHttp10 => (400, "coding_in_http10", "Transfer-Encoding does not exist in HTTP/1.0."),
            Self::CodingDuplicate => (400, "coding_duplicate", "A request must have no more than one Transfer-Encoding header field."),
            Self::CodingInvalid => (400, "coding_invalid", "The Transfer-Encoding header field must be exactly \"chunked\"."),
            Self::CodingUnsupported => (501, "coding_unsupported", "No transfer coding but \"chunked\" is supported."),
            Self::Expectation => (417, "expectation", "No expectation but \"100-continue\" is supported."),
        }
    }
}
