//! HTTP/1.1 over TLS to an authority: a connection for each request, since there are a dozen in two months.

use super::Roots;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{HeaderValue, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient, Problem};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most that an answer has; a chain of certificates has a hundredth.
const MOST: usize = 1 << 20;

/// Who asks (RFC 8555 §6.1).
const NAME: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"));

/// Speaks to one authority.
pub(super) struct Client {
    tls: TlsConnector,
    told: Told,
}

/// For how many seconds the authority wants to be left alone, said with its last refusal.
#[derive(Clone, Default)]
pub(super) struct Told(Arc<Mutex<Option<i64>>>);

impl Told {
    pub(super) fn get(&self) -> Option<i64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, seconds: Option<i64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = seconds;
    }
}

impl Client {
    /// One that believes these authorities, or the system's. Blocks.
    ///
    /// # Errors
    /// That there are none.
    pub(super) fn new(roots: Option<&Roots>) -> Result<Self, String> {
        let roots = match roots {
            Some(roots) => Arc::clone(&roots.store),
            None => {
                let all = rustls_native_certs::load_native_certs();
                let all = all.map_err(|e| format!("the system's authorities cannot be read: {e}"))?;
                let mut store = RootCertStore::empty();
                if store.add_parsable_certificates(all).0 == 0 {
                    return Err("the system has no authorities (Debian: ca-certificates)".to_owned());
                }
                Arc::new(store)
            }
        };
        let config = ClientConfig::builder_with_provider(crate::tls::provider());
        let config = config.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Ok(Client { tls: TlsConnector::from(Arc::new(config)), told: Told::default() })
    }

    /// What the authority will have said.
    pub(super) fn told(&self) -> Told {
        self.told.clone()
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (tls, told) = (self.tls.clone(), self.told.clone());
        Box::pin(async move {
            let (uri, signed) = (request.uri().clone(), request.method() == Method::POST);
            let answered = tokio::time::timeout(PATIENCE, exchange(tls, request)).await;
            let answered = answered.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
            let answer = answered.map_err(|why| Error::Other(format!("{uri}: {why}").into()))?;
            let status = answer.status();
            if status.is_client_error() || status.is_server_error() {
                told.set(answer.headers().get(RETRY_AFTER).and_then(seconds));
                match serde_json::from_slice::<Problem>(answer.body()) {
                    // An error page of whatever stands before it, which is not to be read as the authority's word.
                    Err(_) => return Err(Error::Other(format!("{uri}: {status}").into())),
                    // The library looks at the status of what it has signed alone.
                    Ok(problem) if !signed => return Err(Error::Api(problem)),
                    Ok(_) => {}
                }
            }
            Ok(answer.map(Full::new).into())
        })
    }
}

async fn exchange(
    tls: TlsConnector,
    mut request: Request<BodyWrapper<Bytes>>,
) -> Result<Response<Bytes>, String> {
    let uri = std::mem::take(request.uri_mut());
    let (Some(authority), Some("https")) = (uri.authority(), uri.scheme_str()) else {
        return Err("not an https URL".to_owned());
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(443);
    let own = HeaderValue::try_from(authority.as_str()).map_err(|e| e.to_string())?;
    *request.uri_mut() =
        uri.path_and_query().map_or_else(|| Uri::from_static("/"), |rest| rest.clone().into());
    request.headers_mut().insert(HOST, own);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(NAME));
    let socket = TcpStream::connect((host.as_str(), port)).await.map_err(|e| e.to_string())?;
    let name = ServerName::try_from(host).map_err(|e| e.to_string())?;
    let stream = tls.connect(name, socket).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| told(&e))?;
    // Ends with this, whichever way.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let answer = sender.send_request(request).await.map_err(|e| told(&e))?;
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, MOST).collect().await.map_err(|e| e.to_string())?;
    Ok(Response::from_parts(parts, body.to_bytes()))
}

/// What went wrong, down to the cause.
fn told(e: &dyn std::error::Error) -> String {
    e.source().map_or_else(|| e.to_string(), |cause| format!("{e}: {cause}"))
}

/// Of `Retry-After`: seconds, or a date (RFC 9110 §10.2.3).
fn seconds(value: &HeaderValue) -> Option<i64> {
    let text = value.to_str().ok()?.trim();
    text.parse().ok().or_else(|| {
        let date = jiff::fmt::rfc2822::parse(text).ok()?;
        Some(date.timestamp().as_second() - super::now())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let of = |text: &str| seconds(&HeaderValue::from_str(text).unwrap());
        assert_eq!(of("120"), Some(120));
        assert!(of("Wed, 21 Oct 2015 07:28:00 GMT").is_some_and(|past| past < 0));
        assert!(of("Fri, 31 Dec 2100 23:59:59 GMT").is_some_and(|future| future > 0));
        assert_eq!((of("soon"), of("")), (None, None));
    }
}
