//! Active health checks: an HTTP request, a call of gRPC or a connection, with TLS its handshake too; run by Pingora in parallel.

use super::calls::{self, GrpcSpec};
use super::dial::tls_trouble;
use super::peer::Target;
use super::Targets;
use crate::tls;
use crate::wire::facts::Ends;
use crate::wire::proxy_protocol::{self, Version};
use async_trait::async_trait;
use http::uri::PathAndQuery;
use http::Uri;
use log::{info, warn};
use pingora::connectors::http::Connector;
use pingora::connectors::ConnectorOptions;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, OrErr};
use pingora_load_balancing::health_check::HealthCheck;
use pingora_load_balancing::Backend;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// `health_check` of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSpec {
    /// What to GET; `None`: a connection is enough.
    pub http: Option<HttpSpec>,
    /// What to call in its place.
    pub grpc: Option<GrpcSpec>,
    /// Another port than the target's.
    pub port: Option<u16>,
    /// From the beginning of one check to that of the next.
    pub interval: Duration,
    /// For the whole check.
    pub timeout: Duration,
    /// Passes in a row that make a sick target healthy.
    pub healthy_after: usize,
    /// Failures in a row that make a healthy target sick.
    pub unhealthy_after: usize,
}

/// The request of an HTTP check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSpec {
    /// The path.
    pub path: String,
    /// The Host field.
    pub host: String,
    /// Ranges of statuses that pass.
    pub expect: Vec<(u16, u16)>,
}

/// A target that does not speak as it has to.
const PROTOCOL: ErrorType = ErrorType::new("Protocol");

/// The check of one upstream. Unlike Pingora's it bounds the whole check in time, lets the first result decide,
/// remembers why a target is sick, and with TLS asks each target for its own name.
pub(super) struct Checks {
    upstream: Arc<str>,
    spec: HealthSpec,
    request: Option<RequestHeader>,
    /// Whether the system is asked for whom to trust.
    asks_the_system: bool,
    /// Whether a target wants to be told first for whom it is asked: for nobody.
    proxy_protocol: Option<Version>,
    /// Made with the first check: a configuration that is only looked at has no use for the system's authorities.
    connector: OnceLock<Connector>,
    targets: Targets,
}

impl Checks {
    /// `asks_the_system`: for whom to trust.
    pub(super) fn new(
        upstream: Arc<str>,
        spec: &HealthSpec,
        asks_the_system: bool,
        proxy_protocol: Option<Version>,
        targets: Targets,
    ) -> Self {
        let request = spec.http.as_ref().map(request);
        let (spec, connector) = (spec.clone(), OnceLock::new());
        Checks { upstream, spec, request, asks_the_system, proxy_protocol, connector, targets }
    }

    fn connector(&self) -> &Connector {
        self.connector.get_or_init(|| {
            tls::install_provider();
            let mut options = ConnectorOptions::new(1); // it keeps none
            if !self.asks_the_system || tls::system_authorities().is_err() {
                options.ca_file = Some(tls::NO_AUTHORITIES.to_owned());
            }
            Connector::new(Some(options))
        })
    }

    async fn probe(&self, target: &Target) -> Result<(), String> {
        let mut peer = match self.proxy_protocol {
            Some(version) => *target.own_peer(proxy_protocol::header(version, Ends::default())),
            None => *target.peer(),
        };
        if let Some(port) = self.spec.port {
            peer._address.set_port(port);
        }
        peer.options.connection_timeout = Some(self.spec.timeout);
        peer.options.total_connection_timeout = Some(self.spec.timeout);
        peer.options.max_h2_streams = 1; // so that the connector does not keep the connection
        let strictly = target.speaks_http2_only();
        match tokio::time::timeout(self.spec.timeout, self.ask(&peer, strictly)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(brief(&e)),
            Err(_) => Err(format!("no answer within {:?}", self.spec.timeout)),
        }
    }

    /// Connects, and asks what there is to ask. The connection is new: to have one is part of the check.
    async fn ask(&self, peer: &HttpPeer, http2_only: bool) -> pingora::Result<()> {
        let (mut session, _) = self.connector().get_http_session(peer).await?;
        let http2 = session.as_http2().is_some();
        if http2_only && !http2 {
            return Error::e_explain(PROTOCOL, "it did not agree to HTTP/2");
        }
        if let Some(call) = &self.spec.grpc {
            let HttpSession::H2(stream) = &mut session else {
                return Error::e_explain(PROTOCOL, "it did not agree to HTTP/2");
            };
            calls::check(stream, call, peer.is_tls()).await?;
        } else if let (Some(request), Some(http)) = (&self.request, &self.spec.http) {
            session.set_write_timeout(Some(self.spec.timeout));
            session.set_read_timeout(Some(self.spec.timeout));
            let mut request = request.clone();
            if http2 {
                address_fully(&mut request, &http.host, peer.is_tls())?;
            }
            session.write_request_header(Box::new(request)).await?;
            session.finish_request_body().await?;
            session.read_response_header().await?;
            let status = session.response_header().map_or(0, |response| response.status.as_u16());
            if !http.expect.iter().any(|(low, high)| (*low..=*high).contains(&status)) {
                let kind = ErrorType::CustomCode("status", status);
                return Error::e_explain(kind, format!("it answered {status}"));
            }
            while session.read_response_body().await?.is_some() {}
        }
        session.shutdown().await; // TLS says that this was all
        Ok(())
    }
}

/// Puts the Host into the target, where HTTP/2 has it (RFC 9113 §8.3.1).
fn address_fully(request: &mut RequestHeader, host: &str, tls: bool) -> pingora::Result<()> {
    let uri = Uri::builder().scheme(if tls { "https" } else { "http" }).authority(host);
    let path = request.uri.path_and_query().cloned();
    let uri = uri.path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/"))).build();
    request.set_uri(uri.or_err(PROTOCOL, "the check's host is no authority")?);
    request.remove_header("Host");
    Ok(())
}

fn request(http: &HttpSpec) -> RequestHeader {
    let mut request = RequestHeader::build("GET", http.path.as_bytes(), Some(2)).expect("the path is normal");
    request.insert_header("Host", &http.host).expect("the host is a field value");
    request.insert_header("User-Agent", "portcullis health check").expect("a constant field is valid");
    request
}

/// The reason without Pingora's trail of types and contexts.
fn brief(e: &Error) -> String {
    if let Some(trouble) = tls_trouble(e) {
        return format!("TLS: {trouble}");
    }
    match (e.etype(), &e.context) {
        (ErrorType::CustomCode(..) | ErrorType::Custom(_), Some(context)) => context.as_str().to_owned(),
        (ErrorType::ConnectRefused, _) => "connection refused".to_owned(),
        (ErrorType::ConnectTimedout | ErrorType::ReadTimedout, _) => "no answer in time".to_owned(),
        (ErrorType::ConnectNoRoute, _) => "no route to host".to_owned(),
        (ErrorType::ConnectionClosed | ErrorType::ReadError, _) => "it closed the connection".to_owned(),
        (other, Some(context)) => format!("{}: {}", other.as_str(), context.as_str()),
        (other, None) => other.as_str().to_owned(),
    }
}

#[async_trait]
impl HealthCheck for Checks {
    async fn check(&self, backend: &Backend) -> pingora::Result<()> {
        let Some(target) = self.targets.load().get(&backend.addr).cloned() else {
            return Ok(());
        };
        let result = self.probe(&target).await;
        match (target.observe(&result, self.spec.healthy_after, self.spec.unhealthy_after), &result) {
            (Some(true), _) => {
                info!("upstream {}: target {} is healthy again", self.upstream, target.text)
            }
            (Some(false), Err(e)) => {
                warn!("upstream {}: target {} is unhealthy: {e}", self.upstream, target.text)
            }
            _ => {}
        }
        if target.is_healthy() {
            return Ok(());
        }
        Error::e_explain(ErrorType::InternalError, result.err().unwrap_or_default())
    }

    fn health_threshold(&self, _success: bool) -> usize {
        1 // `Target::observe` has counted already
    }
}
