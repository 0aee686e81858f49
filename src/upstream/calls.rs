//! The health check of gRPC: one call of `grpc.health.v1.Health/Check`, whose two messages are small enough to be written and
//! read by hand. <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>

use crate::base::grpc;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{header, HeaderMap, Uri};
use pingora::http::RequestHeader;
use pingora::protocols::http::v2::client::Http2Session;
use pingora::{Error, ErrorType, OrErr, Result};

/// The call of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcSpec {
    /// The service that is asked about; empty: the server as a whole.
    pub service: String,
    /// The authority that is asked.
    pub host: String,
}

const METHOD: &str = "/grpc.health.v1.Health/Check";
/// `SERVING` of the answer's `status`.
const SERVING: u64 = 1;
/// More than the answer ever has.
const MOST: usize = 4096;

/// A server that is not well.
const HEALTH: ErrorType = ErrorType::new("Health");

/// Asks, and is content with SERVING alone.
pub(super) async fn check(session: &mut Http2Session, spec: &GrpcSpec, tls: bool) -> Result<()> {
    session.write_request_header(Box::new(request(spec, tls)?), false)?;
    session.write_request_body(framed(&spec.service), true).await?;
    session.read_response_header().await?;
    let head = session.response_header();
    let (status, mut fields) =
        head.map(|head| (head.status.as_u16(), head.headers.clone())).unwrap_or_default();
    if status != 200 {
        return Error::e_explain(HEALTH, format!("it answered {status}"));
    }
    let mut answer = Vec::new();
    while let Some(piece) = session.read_response_body().await? {
        answer.extend_from_slice(&piece);
        if answer.len() > MOST {
            return Error::e_explain(HEALTH, "its answer is no answer to a health check");
        }
    }
    if let Some(trailers) = session.read_trailers().await? {
        fields = trailers;
    }
    verdict(&fields, &answer)
}

fn request(spec: &GrpcSpec, tls: bool) -> Result<RequestHeader> {
    let uri = Uri::builder().scheme(if tls { "https" } else { "http" }).authority(spec.host.as_str());
    let uri = uri.path_and_query(PathAndQuery::from_static(METHOD)).build();
    let mut request = RequestHeader::build("POST", METHOD.as_bytes(), Some(3))?;
    request.set_uri(uri.or_err(HEALTH, "the check's host is no authority")?);
    request.insert_header(header::CONTENT_TYPE, grpc::CONTENT_TYPE)?;
    request.insert_header(header::TE, "trailers")?;
    request.insert_header(header::USER_AGENT, "portcullis health check")?;
    Ok(request)
}

/// A message that says `service`, field 1, behind the five bytes that every message has before it.
fn framed(service: &str) -> Bytes {
    let mut message = Vec::with_capacity(service.len() + 8);
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7F) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

fn verdict(fields: &HeaderMap, answer: &[u8]) -> Result<()> {
    let code = fields.get(grpc::STATUS).map(|code| String::from_utf8_lossy(code.as_bytes()));
    match code.as_deref() {
        Some("0") => {}
        Some("5") => return Error::e_explain(HEALTH, "it does not know that service"),
        Some("12") => return Error::e_explain(HEALTH, "it has no health checks"),
        Some(code) if code.len() <= 2 => {
            return Error::e_explain(HEALTH, format!("it answered status {code} of gRPC"));
        }
        _ => return Error::e_explain(HEALTH, "it does not speak gRPC"),
    }
    match status(answer) {
        Some(SERVING) => Ok(()),
        Some(0) => Error::e_explain(HEALTH, "it says UNKNOWN"),
        Some(2) => Error::e_explain(HEALTH, "it says NOT_SERVING"),
        Some(3) => Error::e_explain(HEALTH, "it says SERVICE_UNKNOWN"),
        _ => Error::e_explain(HEALTH, "its answer is no answer to a health check"),
    }
}

/// The field `status`, 1, of the one message; other fields are passed over.
fn status(answer: &[u8]) -> Option<u64> {
    let (prefix, mut message) = answer.split_at_checked(5)?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if prefix[0] != 0 || length != message.len() {
        return None;
    }
    let mut status = 0; // what is not said is zero
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match key & 7 {
            0 => {
                let value = varint(&mut message)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7F) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_protobuf() {
        assert_eq!(&framed("")[..], b"\0\0\0\0\0");
        assert_eq!(&framed("a.B")[..], b"\0\0\0\0\x05\x0a\x03a.B");
        let long = "x".repeat(300);
        assert_eq!(&framed(&long)[..8], b"\0\0\0\x01\x2f\x0a\xac\x02");
        assert_eq!(status(b"\0\0\0\0\x02\x08\x01"), Some(1));
        assert_eq!(status(b"\0\0\0\0\0"), Some(0));
        assert_eq!(status(b"\0\0\0\0\x06\x12\x02hi\x08\x02"), Some(2));
        for bad in [
            &b""[..],
            b"\0\0\0\0",
            b"\x01\0\0\0\x02\x08\x01",
            b"\0\0\0\0\x01\x08",
            b"\0\0\0\0\x02\x12\x7f",
            b"\0\0\0\0\x09\x08\x01",
        ] {
            assert_eq!(status(bad), None, "{bad:?}");
        }
    }
}
