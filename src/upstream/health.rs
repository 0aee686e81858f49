//! Active health checks: an HTTP request or a TCP connection, run by Pingora's checkers in parallel.

use super::Targets;
use async_trait::async_trait;
use log::{info, warn};
use pingora::{Error, ErrorType};
use pingora_load_balancing::health_check::{HealthCheck, HttpHealthCheck, TcpHealthCheck};
use pingora_load_balancing::Backend;
use std::sync::Arc;
use std::time::Duration;

/// `health_check` of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSpec {
    /// What to GET; `None`: a TCP connection is enough.
    pub http: Option<HttpSpec>,
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

/// The check of one upstream. Unlike Pingora's it bounds the whole check in time, lets the first result decide,
/// and remembers why a target is sick.
pub(super) struct Checks {
    upstream: Arc<str>,
    spec: HealthSpec,
    probe: Box<dyn HealthCheck + Send + Sync>,
    targets: Targets,
}

impl Checks {
    pub(super) fn new(upstream: Arc<str>, spec: &HealthSpec, targets: Targets) -> Self {
        let probe: Box<dyn HealthCheck + Send + Sync> = match &spec.http {
            Some(http) => Box::new(http_probe(http, spec)),
            None => {
                let mut tcp = TcpHealthCheck::new();
                tcp.peer_template.options.connection_timeout = Some(spec.timeout);
                tcp
            }
        };
        Checks { upstream, spec: spec.clone(), probe, targets }
    }

    async fn probe(&self, backend: &Backend) -> Result<(), String> {
        let mut backend = backend.clone();
        if let Some(port) = self.spec.port {
            backend.addr.set_port(port);
        }
        match tokio::time::timeout(self.spec.timeout, self.probe.check(&backend)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(brief(&e)),
            Err(_) => Err(format!("no answer within {:?}", self.spec.timeout)),
        }
    }
}

fn http_probe(http: &HttpSpec, spec: &HealthSpec) -> HttpHealthCheck {
    let mut probe = HttpHealthCheck::new(&http.host, false);
    probe.peer_template.options.connection_timeout = Some(spec.timeout);
    probe.peer_template.options.read_timeout = Some(spec.timeout);
    probe.peer_template.options.write_timeout = Some(spec.timeout);
    probe.req.set_raw_path(http.path.as_bytes()).expect("the path is normal");
    probe.req.insert_header("User-Agent", "portcullis health check").expect("a constant field is valid");
    let expect = http.expect.clone();
    probe.validator = Some(Box::new(move |response| {
        let status = response.status.as_u16();
        if expect.iter().any(|(low, high)| (*low..=*high).contains(&status)) {
            return Ok(());
        }
        Error::e_explain(ErrorType::CustomCode("status", status), format!("it answered {status}"))
    }));
    probe
}

/// The reason without Pingora's trail of types and contexts.
fn brief(e: &Error) -> String {
    match (e.etype(), &e.context) {
        (ErrorType::CustomCode(..), Some(context)) => context.as_str().to_owned(),
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
        let result = self.probe(backend).await;
        let Some(target) = backend.addr.as_inet().and_then(|a| self.targets.load().get(a).cloned()) else {
            return Ok(());
        };
        match (target.observe(&result, self.spec.healthy_after, self.spec.unhealthy_after), &result) {
            (Some(true), _) => {
                info!("upstream {}: target {} is healthy again", self.upstream, target.address)
            }
            (Some(false), Err(e)) => {
                warn!("upstream {}: target {} is unhealthy: {e}", self.upstream, target.address)
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
