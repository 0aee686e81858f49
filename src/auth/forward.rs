//! By a service of the user's own, which is asked with each request (as NGINX's `auth_request` and Traefik's `ForwardAuth`
//! do): a GET that says what was asked for. 2xx lets it in; 401, 403 and redirects are the client's answer; whatever else
//! comes of it, nothing included, lets nobody in.
//!
//! Connections to it are kept. What it answers is bounded in size and time, and where it redirects to is the client's to
//! follow.

pub(super) mod connect;

use crate::base::request::Request;
use crate::wire::facts::Facts;
use bytes::Bytes;
use connect::{told, Connector};
use http::header::{
    CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_TYPE, EXPIRES, HOST, LOCATION, RETRY_AFTER, SET_COOKIE, VARY,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// The most that an answer's body has.
const MOST: usize = 64 << 10;
/// How long a connection that nobody uses is kept, and how many.
const IDLE: Duration = Duration::from_secs(30);
const MOST_IDLE: usize = 64;
/// How many may wait for its answer at once; one more is not let in.
const MOST_AT_ONCE: usize = 256;

/// What of a refusal the client gets besides its body.
const PASSED_ON: [HeaderName; 9] = [
    LOCATION,
    WWW_AUTHENTICATE,
    SET_COOKIE,
    CONTENT_TYPE,
    CONTENT_LANGUAGE,
    CACHE_CONTROL,
    EXPIRES,
    VARY,
    RETRY_AFTER,
];

const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Whom to ask, and how.
#[derive(Clone, PartialEq, Eq)]
pub struct Spec {
    /// What to GET.
    pub url: Uri,
    /// How long the whole may take.
    pub timeout: Duration,
    /// Fields of the request that it gets.
    pub request_headers: Box<[HeaderName]>,
    /// Fields of its answer that the upstream gets; a client's own are never passed on.
    pub response_headers: Box<[HeaderName]>,
    /// Who may vouch for it; none: the system's authorities.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
}

/// Not the query of its URL, which may be a secret.
impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spec").field("path", &self.url.path()).finish_non_exhaustive()
    }
}

/// Reads the URL of a service.
///
/// # Errors
/// What to write instead.
pub fn url(text: &str) -> Result<Uri, String> {
    let bad = || format!("expected a URL such as http://127.0.0.1:9000/check, found {text:?}");
    let uri: Uri = text.parse().map_err(|_| bad())?;
    let host = uri.authority().filter(|authority| !authority.as_str().contains('@')).map(|a| a.host());
    let is_sound =
        matches!(uri.scheme_str(), Some("http" | "https")) && host.is_some_and(|host| !host.is_empty());
    if is_sound && !text.contains('#') {
        Ok(uri)
    } else {
        Err(bad())
    }
}

/// What it says of a request.
#[derive(Debug)]
pub enum Verdict {
    /// Let it in, and tell the upstream this.
    In(Vec<(HeaderName, HeaderValue)>),
    /// Answer the client this.
    Out {
        /// 401, 403 or 3xx.
        status: u16,
        /// Its fields but those that frame it.
        fields: Vec<(HeaderName, HeaderValue)>,
        /// The content.
        body: Bytes,
    },
}

/// It cannot be asked, or its answer means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;

/// A service that is asked. Two are the same only if they are one: connections are kept.
pub struct Service {
    spec: Spec,
    host: HeaderValue,
    /// Its URL without the query, which may be a secret.
    shown: Box<str>,
    client: Client<Connector, Empty<Bytes>>,
    failing: AtomicBool,
    /// For those who wait for its answer: each has a connection, and whoever asks has proven nothing yet.
    places: Semaphore,
}

impl Service {
    /// One that nobody has asked yet.
    pub fn new(spec: Spec) -> Self {
        let mut client = Client::builder(TokioExecutor::new());
        client.pool_idle_timeout(IDLE).pool_max_idle_per_host(MOST_IDLE).pool_timer(TokioTimer::new());
        client.http1_max_buf_size(MOST);
        let connector = Connector::new(spec.authorities.clone());
        let host = spec.url.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        let host = host.unwrap_or_else(|| HeaderValue::from_static(""));
        let (url, place) = (&spec.url, spec.url.authority().map_or("", |authority| authority.as_str()));
        let shown = format!("{}://{place}{}", url.scheme_str().unwrap_or_default(), url.path()).into();
        Service {
            client: client.build(connector),
            host,
            shown,
            failing: AtomicBool::new(false),
            places: Semaphore::new(MOST_AT_ONCE),
            spec,
        }
    }

    /// How it is configured.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Asks it. Why it could not be asked is logged, once until it can be again.
    ///
    /// # Errors
    /// Nobody is to be let in.
    pub async fn ask(
        &self,
        request: &Request<'_>,
        client: Option<IpAddr>,
        facts: Option<&Facts>,
    ) -> Result<Verdict, Unavailable> {
        let Ok(_place) = self.places.try_acquire() else {
            return self.told(Err(format!("{MOST_AT_ONCE} questions wait for it already")));
        };
        let asked = self.question(request, client, facts);
        let answered = match asked {
            Some(asked) => tokio::time::timeout(self.spec.timeout, self.exchange(asked)).await,
            None => return Err(Unavailable), // no field of this request can say what was asked for
        };
        let answered = answered.unwrap_or_else(|_| Err(format!("no answer within {:?}", self.spec.timeout)));
        self.told(answered)
    }

    /// Notes whether it can be asked.
    fn told(&self, answered: Result<Verdict, String>) -> Result<Verdict, Unavailable> {
        match answered {
            Ok(verdict) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    log::info!("forward: {} answers again", self.shown);
                }
                Ok(verdict)
            }
            Err(why) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    log::warn!("forward: {} lets nobody in: {why}", self.shown);
                }
                Err(Unavailable)
            }
        }
    }

    fn question(
        &self,
        request: &Request<'_>,
        client: Option<IpAddr>,
        facts: Option<&Facts>,
    ) -> Option<http::Request<Empty<Bytes>>> {
        let mut asked = http::Request::new(Empty::new());
        *asked.uri_mut() = self.spec.url.clone();
        let fields = asked.headers_mut();
        for name in &self.spec.request_headers {
            request.headers.any(name, &mut |value| {
                fields.extend(HeaderValue::from_bytes(value).ok().map(|value| (name.clone(), value)));
                false
            });
        }
        fields.insert(HOST, self.host.clone());
        let mark = if request.query.is_empty() { "" } else { "?" };
        let uri = format!("{}{mark}{}", request.path, request.query);
        let host = request.headers.only(&HOST).ok()?.unwrap_or_default();
        fields.insert(X_FORWARDED_METHOD, HeaderValue::from_str(request.method).ok()?);
        fields.insert(X_FORWARDED_PROTO, HeaderValue::from_static(facts.map_or("http", Facts::scheme)));
        fields.insert(X_FORWARDED_HOST, HeaderValue::from_bytes(host).ok()?);
        fields.insert(X_FORWARDED_URI, HeaderValue::try_from(uri).ok()?);
        if let Some(client) = client {
            fields.insert(X_FORWARDED_FOR, HeaderValue::try_from(client.to_string()).ok()?);
        }
        Some(asked)
    }

    async fn exchange(&self, asked: http::Request<Empty<Bytes>>) -> Result<Verdict, String> {
        let answer = self.client.request(asked).await.map_err(|e| told(&e))?;
        let (head, body) = answer.into_parts();
        let status = head.status;
        let is_place = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let is_out = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            || (is_place && head.headers.contains_key(LOCATION));
        if !status.is_success() && !is_out {
            return Err(format!("it answers {}", status.as_u16()));
        }
        let body = Limited::new(body, MOST).collect().await;
        let body = body.map_err(|e| format!("its answer: {e}"))?.to_bytes();
        if is_out {
            let fields = chosen(&head.headers, &PASSED_ON);
            return Ok(Verdict::Out { status: status.as_u16(), fields, body });
        }
        Ok(Verdict::In(chosen(&head.headers, &self.spec.response_headers)))
    }
}

/// These fields, in the order of the names.
fn chosen(from: &HeaderMap, names: &[HeaderName]) -> Vec<(HeaderName, HeaderValue)> {
    let all = names.iter().flat_map(|name| from.get_all(name).iter().map(move |value| (name, value)));
    all.map(|(name, value)| (name.clone(), value.clone())).collect()
}

impl PartialEq for Service {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Service {}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Service").field(&self.shown).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_of_http_and_have_no_password() {
        for good in ["http://127.0.0.1:9000/check", "https://auth.internal", "http://[::1]:80/a?b=c"] {
            assert!(url(good).is_ok(), "{good}");
        }
        for bad in ["", "/check", "auth:9000", "ftp://a/", "http://u:p@a/", "http:///x", "http://a/#b"] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}
