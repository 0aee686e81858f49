//! What an operator sees of the gateway, at the address of `admin`: metrics, health, status, and a page that shows them.
//!
//! It looks and never changes anything: it answers GET and HEAD. `guard` says who may look. It knows the gateway and what
//! is observed of it; how the process is, it is told through [`Process`] by the server, which also listens for it. It is
//! served by the background runtime, so that busy workers do not keep an operator waiting, nor he them.

mod guard;
mod metrics;
mod page;
mod rate_limits;
mod status;

use crate::gateway::{Admin as Configured, Gateway};
use crate::observe::status::Status;
use crate::observe::Observed;
use arc_swap::ArcSwap;
use bytes::Bytes;
use guard::{Denial, Question};
use http::{header, Method};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::Result;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{watch, Semaphore};
use tokio::time::timeout;
use tokio::time::MissedTickBehavior;

/// How often the page hears how the gateway is.
const EVERY: Duration = Duration::from_secs(1);

/// How many may hear that at once.
const LISTENERS: usize = 32;

/// What the server knows of the process.
pub trait Process: Send + Sync + 'static {
    /// The parts of the document that concern the process: its state, its listeners, its connections.
    fn describe(&self, status: &mut Status);

    /// The runtime that serves requests, once it does.
    fn workers(&self) -> Option<Handle>;
}

/// Answers who looks at the gateway.
pub struct Admin {
    /// The configuration that serves.
    pub gateway: Arc<ArcSwap<Gateway>>,
    /// What is counted and noted.
    pub observed: Arc<Observed>,
    /// How the process is.
    pub process: Arc<dyn Process>,
    /// Room for those who listen to the events.
    listeners: Semaphore,
}

impl Admin {
    /// Of this gateway.
    pub fn new(gateway: Arc<ArcSwap<Gateway>>, observed: Arc<Observed>, process: Arc<dyn Process>) -> Self {
        Admin { gateway, observed, process, listeners: Semaphore::new(LISTENERS) }
    }

    /// How the gateway is, as one document.
    pub fn status(&self) -> Status {
        let mut status = Status::default();
        status::describe(&self.gateway.load(), &self.observed, &mut status);
        self.process.describe(&mut status);
        status
    }

    /// Answers one request within `patience`; the connection is not used for another one. Events go on until `end` is true.
    pub async fn answer(
        self: &Arc<Self>,
        mut session: ServerSession,
        patience: Duration,
        end: watch::Receiver<bool>,
    ) {
        let Ok(Ok(true)) = timeout(patience, session.read_request()).await else { return };
        session.set_keepalive(None);
        // Whoever asked may be gone, or take longer than that.
        if let Ok(Ok(Some(admin))) = timeout(patience, self.respond(&mut session)).await {
            let _ = self.events(&mut session, &admin, end).await;
        }
        let _ = timeout(patience, session.shutdown()).await;
    }

    /// Answers what has an end; the events, which have none, are left to the caller, for as long as this configuration lasts.
    async fn respond(self: &Arc<Self>, session: &mut ServerSession) -> Result<Option<Configured>> {
        let request = session.req_header();
        let path = request.uri.path().to_owned();
        let admin = self.gateway.load().admin.clone();
        let Some(admin) = admin else { return Ok(None) }; // it has just been configured away
        let field =
            |name| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let question = Question {
            method: &request.method,
            path: &path,
            host: field(header::HOST.as_str()),
            origin: field(header::ORIGIN.as_str()),
            site: field("sec-fetch-site"),
            mode: field("sec-fetch-mode"),
            authorization: field(header::AUTHORIZATION.as_str()),
        };
        if let Err(denial) = guard::admit(&admin, &question) {
            return deny(session, denial).await.map(|()| None);
        }
        let open_metrics = wants_open_metrics(field(header::ACCEPT.as_str()));
        let done = match path.as_str() {
            "/health/live" => plain(session, 200, "live\n").await,
            "/health/ready" => match self.status_of_process().ready {
                true => plain(session, 200, "ready\n").await,
                false => {
                    plain(session, 503, &format!("not ready: {}\n", self.status_of_process().state)).await
                }
            },
            "/metrics" => self.metrics(session, open_metrics).await,
            "/status" => {
                let text = self.document().await;
                whole(session, 200, "application/json", text).await
            }
            "/events" => return Ok(Some(admin)),
            "/" => page(session).await,
            _ => plain(session, 404, "here are: /  /status  /metrics  /health/live  /health/ready\n").await,
        };
        done.map(|()| None)
    }

    fn status_of_process(&self) -> Status {
        let mut status = Status::default();
        self.process.describe(&mut status);
        status
    }

    /// With thousands of routes it takes a while, which is not to be that of health checks.
    async fn document(self: &Arc<Self>) -> Bytes {
        let admin = Arc::clone(self);
        let text = tokio::task::spawn_blocking(move || {
            let mut text = serde_json::to_vec(&admin.status()).unwrap_or_default();
            text.push(b'\n');
            text
        });
        text.await.unwrap_or_default().into()
    }

    async fn metrics(self: &Arc<Self>, session: &mut ServerSession, open_metrics: bool) -> Result<()> {
        let admin = Arc::clone(self);
        let encoded = tokio::task::spawn_blocking(move || metrics::encode(admin, open_metrics)).await;
        match encoded {
            Ok((kind, text)) => whole(session, 200, kind, text.into()).await,
            Err(e) => plain(session, 500, &format!("the metrics could not be written: {e}\n")).await,
        }
    }

    /// The document once a second, as server-sent events (HTML Living Standard §9.2), until whoever listens is gone.
    async fn events(
        self: &Arc<Self>,
        session: &mut ServerSession,
        admitted: &Configured,
        mut end: watch::Receiver<bool>,
    ) -> Result<()> {
        let Ok(_place) = self.listeners.try_acquire() else {
            return plain(session, 503, "too many listen to the events already\n").await;
        };
        let mut head = head(200, "text/event-stream")?;
        head.insert_header("X-Accel-Buffering", "no")?;
        session.write_response_header(Box::new(head)).await?;
        if session.req_header().method == Method::HEAD {
            return Ok(());
        }
        session.write_response_body(Bytes::from_static(b"retry: 1000\n\n"), false).await?;
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = end.wait_for(|end| *end) => return Ok(()),
            }
            if self.gateway.load().admin.as_ref() != Some(admitted) {
                return Ok(()); // who may look has changed: let them show again that they may
            }
            let document = self.document().await; // JSON has no line end in it but the last
            session.write_response_body([b"data: ", &document[..], b"\n"].concat().into(), false).await?;
        }
    }
}

/// Whether OpenMetrics is asked for, and not only to be refused (RFC 9110 §12.4.2).
fn wants_open_metrics(accept: &str) -> bool {
    accept.split(',').map(str::trim).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let none =
            |part: &str| part.strip_prefix("q=").is_some_and(|q| q.trim_matches(['0', '.']).is_empty());
        parts.next() == Some("application/openmetrics-text") && !parts.any(none)
    })
}

async fn page(session: &mut ServerSession) -> Result<()> {
    let Ok(nonce) = page::nonce() else {
        return plain(session, 500, "the system has no random numbers\n").await;
    };
    let policy = page::policy(&nonce);
    let extra = [("Content-Security-Policy", policy.as_str())];
    send(session, 200, "text/html; charset=utf-8", page::with(&nonce).into(), &extra).await
}

async fn deny(session: &mut ServerSession, denial: Denial) -> Result<()> {
    let (status, why) = denial.words();
    let extra: &[(&str, &str)] = match denial {
        Denial::Method => &[("Allow", "GET, HEAD")],
        Denial::Token => &[("WWW-Authenticate", "Bearer realm=\"portcullis\", Basic realm=\"portcullis\"")],
        Denial::Host | Denial::Site => &[],
    };
    send(session, status, "text/plain; charset=utf-8", why.into(), extra).await
}

async fn plain(session: &mut ServerSession, status: u16, text: &str) -> Result<()> {
    whole(session, status, "text/plain; charset=utf-8", text.to_owned().into()).await
}

async fn whole(session: &mut ServerSession, status: u16, kind: &str, body: Bytes) -> Result<()> {
    send(session, status, kind, body, &[]).await
}

async fn send(
    session: &mut ServerSession,
    status: u16,
    kind: &str,
    body: Bytes,
    extra: &[(&str, &str)],
) -> Result<()> {
    let mut head = head(status, kind)?;
    head.insert_header(header::CONTENT_LENGTH, body.len())?;
    for (name, value) in extra {
        head.insert_header((*name).to_owned(), *value)?;
    }
    let head_only = session.req_header().method == Method::HEAD;
    session.write_response_header(Box::new(head)).await?;
    if !head_only {
        session.write_response_body(body, true).await?;
    }
    Ok(())
}

/// With what keeps other sites from showing, guessing or keeping it.
fn head(status: u16, kind: &str) -> Result<ResponseHeader> {
    let mut head = ResponseHeader::build(status, Some(10))?;
    head.insert_header(header::CONTENT_TYPE, kind)?;
    head.insert_header(header::CACHE_CONTROL, "no-store")?;
    head.insert_header("X-Content-Type-Options", "nosniff")?;
    head.insert_header("X-Frame-Options", "DENY")?;
    head.insert_header("Referrer-Policy", "no-referrer")?;
    head.insert_header("Cross-Origin-Resource-Policy", "same-origin")?;
    Ok(head)
}
