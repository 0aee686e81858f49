//! `auth`: who asks, and may they?
//!
//! Nobody comes in whom no method knows: that is the outcome of everything that is not said here. Of `any` methods the
//! first that knows somebody decides; credentials that stand there twice end it at once, since none of them is to be chosen.
//! `all` methods have to know the same one. Then they need to have what the route asks for.

use super::{Arrival, Edit, Pass, Reply};
use crate::auth::api_key::ApiKey;
use crate::auth::basic;
use crate::auth::certificate;
use crate::auth::consumer::Consumers;
use crate::auth::forward::{Service, Verdict};
use crate::auth::jwt::{without_cookies, Provider, TokenPlace};
use crate::auth::needs::Needs;
use crate::auth::password::Passwords;
use crate::auth::Identity;
use crate::base::query;
use crate::error::{Denial, Lack, Reject, TokenFault};
use http::header::{AUTHORIZATION, COOKIE, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue};
use smallvec::SmallVec;
use std::sync::Arc;

/// A way to know who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// A key in a header or in the query.
    ApiKey(ApiKey),
    /// A user name and a password.
    Basic,
    /// A certificate shown at the handshake.
    Certificate,
    /// A token of a provider.
    Jwt(Arc<Provider>),
    /// A service that is asked.
    Forward(Arc<Service>),
}

/// What a method says of a request.
enum Proof {
    /// Nothing of its kind came.
    Absent,
    /// It is them.
    Of(Identity),
    /// The client gets this.
    Answer(Reply),
}

/// How several methods count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One is enough.
    Any,
    /// Each is needed.
    All,
}

/// What a route says of it.
#[derive(Debug)]
pub struct Spec {
    /// At least one.
    pub methods: Vec<Method>,
    /// How they count.
    pub mode: Mode,
    /// What who is known has to have.
    pub needs: Needs,
    /// Whether the upstream gets the credentials too.
    pub pass_credentials: bool,
}

/// The policy.
#[derive(Debug, PartialEq, Eq)]
pub struct Auth {
    methods: Box<[Method]>,
    mode: Mode,
    needs: Needs,
    pass_credentials: bool,
    consumers: Arc<Consumers>,
    passwords: Arc<Passwords>,
    /// What who is not known is asked for.
    challenges: Box<[HeaderValue]>,
    /// Fields that go no further.
    dropped: Box<[HeaderName]>,
    /// Parameters that go no further.
    parameters: Box<[Box<str>]>,
    /// Schemes of `Authorization` that go no further.
    schemes: Box<[&'static str]>,
    /// Cookies that go no further.
    cookies: Box<[Box<str>]>,
}

/// RFC 6750 §3: to whom has shown no token, to whom has shown one that is not believed, and to whom has one that is not good
/// for this.
const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"portcullis\"");
const INVALID_TOKEN: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"portcullis\", error=\"invalid_token\"");
const INSUFFICIENT_SCOPE: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"portcullis\", error=\"insufficient_scope\"");

impl Auth {
    /// The policy of a route.
    pub fn new(spec: Spec, consumers: &Arc<Consumers>, passwords: &Arc<Passwords>) -> Self {
        let Spec { methods, mode, needs, pass_credentials } = spec;
        let (mut challenges, mut dropped, mut parameters) = (Vec::new(), Vec::new(), Vec::new());
        let (mut schemes, mut cookies) = (Vec::new(), Vec::new());
        for method in &methods {
            challenges.extend(method.challenge().filter(|one| !challenges.contains(one)));
            match method {
                Method::ApiKey(ApiKey { header, query }) if !pass_credentials => {
                    dropped.extend(header.clone());
                    parameters.extend(query.clone());
                }
                // Only the service may say these, whoever else lets the request in.
                Method::Forward(service) => dropped.extend(service.spec().response_headers.iter().cloned()),
                Method::Basic if !pass_credentials => schemes.push("basic"),
                Method::Jwt(provider) => {
                    // Only the provider may say these, whoever else lets the request in.
                    dropped.extend(provider.told().cloned());
                    for place in provider.places().iter().filter(|_| !pass_credentials) {
                        match place {
                            TokenPlace::Bearer => schemes.push("bearer"),
                            TokenPlace::Header(name) => dropped.push(name.clone()),
                            TokenPlace::Cookie(name) => cookies.push(name.clone()),
                        }
                    }
                }
                Method::ApiKey(_) | Method::Basic | Method::Certificate => {}
            }
        }
        Auth {
            methods: methods.into(),
            mode,
            needs,
            pass_credentials,
            consumers: Arc::clone(consumers),
            passwords: Arc::clone(passwords),
            challenges: challenges.into(),
            dropped: dropped.into(),
            parameters: parameters.into(),
            schemes: schemes.into(),
            cookies: cookies.into(),
        }
    }

    /// Fields of the client's that the upstream does not get.
    pub fn dropped(&self) -> &[HeaderName] {
        &self.dropped
    }

    /// Who asks, and may they? `Some`: what they get instead.
    ///
    /// # Errors
    /// Why they do not come in.
    pub(super) async fn admit(
        &self,
        arrival: &Arrival<'_>,
        pass: &mut Pass,
    ) -> Result<Option<Reply>, Reject> {
        let proof = match self.mode {
            Mode::Any => self.any(arrival, pass).await,
            Mode::All => self.all(arrival, pass).await,
        };
        let identity = match proof {
            Ok(Proof::Of(identity)) => identity,
            Ok(Proof::Answer(reply)) => {
                pass.refused = Some(Reject::ForwardRefused);
                return Ok(Some(reply));
            }
            Ok(Proof::Absent) => return Err(self.challenge(Denial::Missing, pass)),
            Err(Reject::Unauthenticated(denial)) => return Err(self.challenge(denial, pass)),
            Err(other) => return Err(other),
        };
        let allowed = self.needs.check(&identity);
        let class = identity.consumer.as_ref().and_then(|consumer| consumer.priority);
        pass.priority = class.unwrap_or(pass.priority);
        pass.identity = Some(identity);
        if allowed == Err(Lack::Scope) && self.challenges.contains(&BEARER) {
            pass.answer.push(Edit::Add(WWW_AUTHENTICATE, INSUFFICIENT_SCOPE));
        }
        allowed.map_err(Reject::Forbidden)?;
        self.clear(arrival, pass);
        Ok(None)
    }

    async fn any(&self, arrival: &Arrival<'_>, pass: &mut Pass) -> Result<Proof, Reject> {
        let (mut answer, mut refusal) = (None, None);
        for method in &self.methods {
            match self.ask(method, arrival, pass).await {
                Ok(Proof::Of(identity)) => return Ok(Proof::Of(identity)),
                Ok(Proof::Answer(reply)) => answer = Some(reply),
                Ok(Proof::Absent) => {}
                Err(twice @ Reject::Unauthenticated(Denial::Ambiguous)) => return Err(twice),
                Err(Reject::Unauthenticated(denial)) => match refusal {
                    // That it is another's token says least.
                    None | Some(Reject::Unauthenticated(Denial::Token(TokenFault::Issuer))) => {
                        refusal = Some(Reject::Unauthenticated(denial));
                    }
                    Some(_) => {}
                },
                // It might have known them.
                Err(unsure) => {
                    if matches!(refusal, None | Some(Reject::Unauthenticated(_))) {
                        refusal = Some(unsure);
                    }
                }
            }
        }
        match (refusal, answer) {
            (Some(Reject::Unauthenticated(_)) | None, Some(reply)) => Ok(Proof::Answer(reply)),
            (Some(refusal), _) => Err(refusal),
            (None, None) => Ok(Proof::Absent),
        }
    }

    async fn all(&self, arrival: &Arrival<'_>, pass: &mut Pass) -> Result<Proof, Reject> {
        let mut known: Option<Identity> = None;
        for method in &self.methods {
            let one = match self.ask(method, arrival, pass).await? {
                Proof::Of(identity) => identity,
                other => return Ok(other),
            };
            let both = match known {
                None => Some(one),
                Some(before) => before.and(one),
            };
            known = Some(both.ok_or(Reject::Unauthenticated(Denial::Contradiction))?);
        }
        Ok(known.map_or(Proof::Absent, Proof::Of))
    }

    /// One method. What waits is apart, so that what does not is small.
    async fn ask(&self, method: &Method, arrival: &Arrival<'_>, pass: &mut Pass) -> Result<Proof, Reject> {
        let request = &arrival.request;
        let known = match method {
            Method::ApiKey(key) => key.verify(request, &self.consumers).map_err(Reject::Unauthenticated)?,
            Method::Certificate => {
                certificate::verify(arrival.facts, &self.consumers).map_err(Reject::Unauthenticated)?
            }
            Method::Basic => {
                let verified = basic::verify(request, arrival.client, &self.consumers, &self.passwords);
                Box::pin(verified).await?
            }
            Method::Jwt(provider) => {
                let mut verified = provider.verify(request, &self.consumers);
                if verified.as_ref().is_err_and(|refusal| provider.is_worth_waiting_for(refusal)) {
                    verified = Box::pin(provider.verify_anew(request, &self.consumers)).await;
                }
                let Some((identity, verified)) = verified? else { return Ok(Proof::Absent) };
                let fields = verified.fields.iter();
                pass.upstream.extend(fields.map(|(name, value)| Edit::Set(name.clone(), value.clone())));
                Some(identity)
            }
            Method::Forward(service) => return Box::pin(forward(service, arrival, pass)).await,
        };
        Ok(known.map_or(Proof::Absent, Proof::Of))
    }

    /// Takes away what was for the gateway alone, as far as it is not the same with each request.
    fn clear(&self, arrival: &Arrival<'_>, pass: &mut Pass) {
        if !self.parameters.is_empty() && !arrival.request.query.is_empty() {
            let is_ours = |name: &str| self.parameters.iter().any(|ours| query::is_named(name, ours));
            pass.query = query::without(arrival.request.query, is_ours);
        }
        // Where it stands twice nobody has looked at it, and it goes no further either.
        let has = |scheme: &&str| !matches!(basic::authorization(&arrival.request, scheme), Ok(None));
        // Before what is said of them: a service may give the upstream another one.
        let mut cleared: SmallVec<[Edit; 2]> = SmallVec::new();
        if self.schemes.iter().any(has) {
            cleared.push(Edit::Remove(AUTHORIZATION));
        }
        if !self.cookies.is_empty() {
            let names: SmallVec<[&str; 2]> = self.cookies.iter().map(|name| &**name).collect();
            match without_cookies(&arrival.request, &names).map(HeaderValue::try_from) {
                None => {}
                Some(Ok(rest)) if !rest.is_empty() => cleared.push(Edit::Set(COOKIE, rest)),
                Some(_) => cleared.push(Edit::Remove(COOKIE)),
            }
        }
        if !cleared.is_empty() {
            pass.upstream.splice(..0, cleared);
        }
    }

    /// RFC 9110 §11.6.1: each scheme that would do.
    fn challenge(&self, denial: Denial, pass: &mut Pass) -> Reject {
        if denial.status() == 401 {
            let is_token = matches!(denial, Denial::Token(_));
            let own =
                |one: &HeaderValue| if is_token && *one == BEARER { INVALID_TOKEN } else { one.clone() };
            let challenges = self.challenges.iter().map(own);
            pass.answer.extend(challenges.map(|one| Edit::Add(WWW_AUTHENTICATE, one)));
        }
        Reject::Unauthenticated(denial)
    }
}

async fn forward(service: &Service, arrival: &Arrival<'_>, pass: &mut Pass) -> Result<Proof, Reject> {
    // The service could look at one of them and the upstream at another; cookies are a list by nature.
    let names = service.spec().request_headers.iter().chain([&AUTHORIZATION]).filter(|name| **name != COOKIE);
    if names.into_iter().any(|name| arrival.request.headers.only(name).is_err()) {
        return Err(Reject::Unauthenticated(Denial::Ambiguous));
    }
    let verdict = service.ask(&arrival.request, arrival.client, arrival.facts).await;
    match verdict.map_err(|_| Reject::AuthUnavailable)? {
        Verdict::In(fields) => {
            pass.upstream.extend(fields.into_iter().map(|(name, value)| Edit::Add(name, value)));
            Ok(Proof::Of(Identity::default()))
        }
        Verdict::Out { status, fields, body } => Ok(Proof::Answer(Reply { status, fields, body })),
    }
}

impl Method {
    /// What who is not known may try. Certificates and keys have no registered scheme.
    fn challenge(&self) -> Option<HeaderValue> {
        match self {
            Method::ApiKey(_) => Some(HeaderValue::from_static("ApiKey realm=\"portcullis\"")),
            Method::Basic => Some(HeaderValue::from_static("Basic realm=\"portcullis\", charset=\"UTF-8\"")),
            Method::Certificate => Some(HeaderValue::from_static("Certificate realm=\"portcullis\"")),
            Method::Jwt(_) => Some(BEARER),
            Method::Forward(_) => None,
        }
    }
}
