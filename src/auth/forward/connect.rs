//! Connections to a service, with TLS or without.

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

/// Makes them. Authorities are read when the first one is made that has TLS.
#[derive(Clone)]
pub(in crate::auth) struct Connector(Arc<Trust>);

struct Trust {
    authorities: Option<Vec<CertificateDer<'static>>>,
    tls: OnceCell<TlsConnector>,
}

impl Connector {
    pub(in crate::auth) fn new(authorities: Option<Vec<CertificateDer<'static>>>) -> Self {
        Connector(Arc::new(Trust { authorities, tls: OnceCell::new() }))
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = String;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, String>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), String>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let trust = Arc::clone(&self.0);
        Box::pin(async move { trust.connect(&uri).await.map(TokioIo::new) })
    }
}

impl Trust {
    async fn connect(&self, uri: &Uri) -> Result<Stream, String> {
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let socket = TcpStream::connect((host.as_str(), port)).await.map_err(|e| e.to_string())?;
        let _ = socket.set_nodelay(true); // slower without, no more
        if !secure {
            return Ok(Stream(Box::new(socket)));
        }
        let tls = self.tls.get_or_try_init(|| self.load()).await?;
        let name = ServerName::try_from(host).map_err(|e| e.to_string())?;
        let stream = tls.connect(name, socket).await.map_err(|e| e.to_string())?;
        Ok(Stream(Box::new(stream)))
    }

    async fn load(&self) -> Result<TlsConnector, String> {
        let authorities = self.authorities.clone();
        let load = tokio::task::spawn_blocking(move || roots(authorities));
        let roots = load.await.map_err(|e| e.to_string())??;
        let config = ClientConfig::builder_with_provider(crate::tls::provider());
        let config = config.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

/// These, or the system's.
fn roots(authorities: Option<Vec<CertificateDer<'static>>>) -> Result<RootCertStore, String> {
    let all = match authorities {
        Some(own) => own,
        None => {
            let all = rustls_native_certs::load_native_certs();
            all.map_err(|e| format!("the system's authorities cannot be read: {e}"))?
        }
    };
    let mut store = RootCertStore::empty();
    if store.add_parsable_certificates(all).0 == 0 {
        return Err("the system has no authorities (Debian: ca-certificates)".to_owned());
    }
    Ok(store)
}

/// What can be read and written.
trait Link: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Link for T {}

/// A connection.
pub(in crate::auth) struct Stream(Box<dyn Link>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// What went wrong, down to the cause.
pub(in crate::auth) fn told(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}
