//! By user name and password (RFC 7617).

use super::consumer::Consumers;
use super::password::Passwords;
use super::Identity;
use crate::base::request::Request;
use crate::error::{Denial, Reject};
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use base64::Engine;
use http::header::AUTHORIZATION;
use std::net::IpAddr;
use zeroize::Zeroizing;

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Who logs in with this request; none: nobody does so.
///
/// # Errors
/// They are not who they say, say it in a wrong way or several times, or cannot be verified now.
pub async fn verify(
    request: &Request<'_>,
    client: Option<IpAddr>,
    consumers: &Consumers,
    passwords: &Passwords,
) -> Result<Option<Identity>, Reject> {
    let Some(given) = authorization(request, "basic").map_err(Reject::Unauthenticated)? else {
        return Ok(None);
    };
    let (username, password) = credentials(given).ok_or(Reject::Unauthenticated(Denial::Malformed))?;
    let wrong = Reject::Unauthenticated(Denial::BadPassword);
    let known = consumers.by_login(&username);
    // Counted even where it is not needed, so that both ways cost the same.
    let number = passwords.number(&username);
    let hash = known.map(|(hash, _)| hash).or_else(|| consumers.decoy(number));
    let Some(hash) = hash else { return Err(wrong) };
    let verified = passwords.verify(hash, &username, password, known.is_none(), client).await;
    match (verified, known) {
        (Err(_), _) => Err(Reject::PasswordsBusy),
        (Ok(true), Some((_, consumer))) => Ok(Some(Identity::of(consumer))),
        (Ok(_), _) => Err(wrong),
    }
}

/// What stands behind a scheme in `Authorization` (RFC 9110 §11.6.2); none: there is no such field, or of another scheme.
///
/// # Errors
/// There are several of them.
pub fn authorization<'a>(request: &Request<'a>, scheme: &str) -> Result<Option<&'a [u8]>, Denial> {
    let value = request.headers.only(&AUTHORIZATION).map_err(|_| Denial::Ambiguous)?;
    let Some((name, rest)) = value.and_then(|value| value.split_at_checked(scheme.len())) else {
        return Ok(None);
    };
    let is_end = rest.first().is_none_or(|byte| *byte == b' ');
    let is_it = name.eq_ignore_ascii_case(scheme.as_bytes()) && is_end;
    Ok(is_it.then(|| rest.trim_ascii()))
}

/// The name and the password; none: it is not written as it should be (RFC 7617 §2).
fn credentials(given: &[u8]) -> Option<(String, Zeroizing<Vec<u8>>)> {
    let plain = Zeroizing::new(BASE64.decode(given).ok()?);
    let colon = memchr::memchr(b':', &plain)?;
    let username = std::str::from_utf8(&plain[..colon]).ok()?.to_owned();
    let password = Zeroizing::new(plain[colon + 1..].to_vec());
    let is_sound = !username.is_empty() && !plain.iter().any(u8::is_ascii_control);
    is_sound.then_some((username, password))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue};

    #[test]
    fn the_field_is_read_as_it_is_written_or_not_at_all() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|v| {
                headers.append(AUTHORIZATION, HeaderValue::from_str(v).unwrap());
            });
            let request = Request { method: "GET", host: "", path: "/", query: "", headers: &headers };
            match authorization(&request, "basic") {
                Err(e) => e.reason().to_owned(),
                Ok(None) => "nothing".to_owned(),
                Ok(Some(given)) => credentials(given).map_or("malformed".to_owned(), |(name, password)| {
                    format!("{name} {}", String::from_utf8_lossy(&password))
                }),
            }
        };
        for (field, found) in [
            ("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Aladdin open sesame"), // RFC 7617 §2
            ("bASIC  QWxhZGRpbjpvcGVuIHNlc2FtZQ", "Aladdin open sesame"),
            ("Basic YTpiOmM=", "a b:c"),
            ("Basic YTo=", "a "),
            ("Basic", "malformed"),
            ("Basic ", "malformed"),
            ("Basic YQ==", "malformed"),
            ("Basic OmI=", "malformed"),
            ("Basic YTpiAA==", "malformed"),
            ("Basic YTpi, Basic YTpi", "malformed"),
            ("Basic !!!!", "malformed"),
            ("Basically YTpi", "nothing"),
            ("BasicYTpi", "nothing"),
            ("Bearer YTpi", "nothing"),
            ("", "nothing"),
        ] {
            assert_eq!(read(&[field]), found, "{field}");
        }
        assert_eq!(read(&["Basic YTpi", "Basic YTpi"]), "auth_ambiguous");
        assert_eq!(read(&["Bearer x", "Basic YTpi"]), "auth_ambiguous");
        assert_eq!(read(&[]), "nothing");
    }
}
