//! A provider of the configuration with its state: its keys, and the tokens that they were found to have signed.

use super::cache::{self, Cache};
use super::keys::sha256;
use super::refresh::Upkeep;
use super::token::Token;
use super::{claims, place, KeySet, Settings, Source, TokenPlace, Verified, LONGEST};
use crate::auth::consumer::Consumers;
use crate::auth::Identity;
use crate::base::request::Request;
use crate::error::{Denial, Lack, Reject, TokenFault};
use arc_swap::ArcSwapOption;
use http::HeaderName;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Somebody who issues tokens. One is kept over reloads while its settings stay as they are; what is known of its keys and
/// what is counted also where they do not.
pub struct Provider {
    pub(super) settings: Settings,
    pub(super) keys: ArcSwapOption<Known>,
    pub(super) upkeep: Upkeep,
    pub(super) stats: Arc<Stats>,
}

/// Keys, and the tokens that were verified by them.
pub(super) struct Known {
    pub(super) set: Arc<KeySet>,
    cache: Cache,
}

/// What is counted for a provider.
#[derive(Debug, Default)]
pub struct Stats {
    /// The second since 1970 at which its keys were last seen to be what they are; 0: never.
    pub seen: AtomicI64,
    /// Attempts to see them.
    pub attempts: AtomicU64,
    /// Those that failed.
    pub failures: AtomicU64,
}

impl Provider {
    /// One that nobody has asked yet; it has keys if they do not have to be fetched.
    pub fn new(settings: Settings) -> Self {
        let own = match &settings.source {
            Source::Url(_) => None,
            Source::File(_, set) | Source::Secret(set) => Some(Arc::clone(set)),
        };
        let provider = Provider {
            settings,
            keys: ArcSwapOption::empty(),
            upkeep: Upkeep::default(),
            stats: Arc::default(),
        };
        if let Some(set) = own {
            provider.stats.seen.store(now(), Relaxed);
            provider.keys.store(Some(Arc::new(Known::new(set))));
        }
        provider
    }

    /// One in the place of another: the same if nothing has changed. Tokens are verified anew by what has.
    pub fn succeeding(settings: Settings, old: &Arc<Provider>) -> Arc<Provider> {
        if settings == old.settings {
            return Arc::clone(old);
        }
        let mut new = Provider::new(settings);
        let same_keys =
            new.settings.source == old.settings.source && new.settings.algorithms == old.settings.algorithms;
        if same_keys && matches!(new.settings.source, Source::Url(_)) {
            new.keys
                .store(old.keys.load().as_ref().map(|known| Arc::new(Known::new(Arc::clone(&known.set)))));
            new.stats = Arc::clone(&old.stats);
        }
        Arc::new(new)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// What the configuration says of it.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is counted for it.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// How many keys it has and how many tokens are remembered.
    pub fn sizes(&self) -> (usize, usize) {
        self.keys.load().as_ref().map_or((0, 0), |known| (known.set.len(), known.cache.len()))
    }

    /// Fields that only it may say to the upstream.
    pub fn told(&self) -> impl Iterator<Item = &HeaderName> {
        self.settings.claims_to_headers.iter().map(|(name, _)| name)
    }

    /// Whose token came with this request; none: none came.
    ///
    /// # Errors
    /// It is not believed, or there are no keys to say. [`Provider::is_worth_waiting_for`] says whether to ask
    /// [`Provider::verify_anew`].
    pub fn verify(
        &self,
        request: &Request<'_>,
        consumers: &Consumers,
    ) -> Result<Option<(Identity, Arc<Verified>)>, Reject> {
        let token = place::find(&self.settings.places, request).map_err(Reject::Unauthenticated)?;
        let Some(token) = token else { return Ok(None) };
        let verified = self.believe(&token, now())?;
        let identity = self.identity(&verified, consumers)?;
        Ok(Some((identity, verified)))
    }

    /// Whether a refusal may be one for want of the newest keys.
    pub fn is_worth_waiting_for(&self, refusal: &Reject) -> bool {
        matches!(refusal, Reject::Unauthenticated(Denial::Token(TokenFault::KidUnknown)))
            && matches!(self.settings.source, Source::Url(_))
    }

    /// The same as [`Provider::verify`] once the keys have been fetched, if that has not just been done.
    ///
    /// # Errors
    /// As there.
    pub async fn verify_anew(
        &self,
        request: &Request<'_>,
        consumers: &Consumers,
    ) -> Result<Option<(Identity, Arc<Verified>)>, Reject> {
        self.refreshed().await;
        self.verify(request, consumers)
    }

    /// What a token says, if it is good now.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn believe(&self, token: &[u8], now: i64) -> Result<Arc<Verified>, Reject> {
        let fault = |fault| Reject::Unauthenticated(Denial::Token(fault));
        if token.len() > LONGEST {
            return Err(fault(TokenFault::TooLong));
        }
        let known = self.keys.load();
        let known = known.as_ref().ok_or(Reject::KeysUnavailable)?;
        let hash = sha256(token);
        if let Some(verified) = known.cache.get(&hash) {
            return match verified.span.check(now) {
                Ok(()) => Ok(verified),
                Err(over) => {
                    known.cache.forget(&hash);
                    Err(fault(over))
                }
            };
        }
        let verified = Arc::new(self.examine(&known.set, token, now).map_err(fault)?);
        if token.len() <= cache::LONGEST {
            known.cache.put(hash, Arc::clone(&verified));
        }
        Ok(verified)
    }

    fn examine(&self, keys: &KeySet, token: &[u8], now: i64) -> Result<Verified, TokenFault> {
        let Token { header, claims, message, signature } = Token::read(token, &self.settings.algorithms)?;
        let is_kind = match (&self.settings.kind, header.kind.as_deref()) {
            (Some(wanted), kind) => kind == Some(wanted),
            (None, kind) => matches!(kind, None | Some("jwt" | "at+jwt")),
        };
        if !is_kind {
            return Err(TokenFault::Type);
        }
        claims::issuer(&self.settings, &claims)?;
        keys.verify(header.algorithm, header.kid.as_deref(), message, &signature)?;
        let span = claims::check(&self.settings, &claims, now)?;
        let claims = Arc::new(claims::gather(&self.settings, claims));
        let identity = Identity { claims: Some(Arc::clone(&claims)), ..Identity::default() };
        self.settings.needs.check(&identity).map_err(|_| TokenFault::Claim)?;
        let fields = claims::fields(&self.settings, &claims)?;
        Ok(Verified { claims, fields, span })
    }

    fn identity(&self, verified: &Verified, consumers: &Consumers) -> Result<Identity, Reject> {
        let claims = Some(Arc::clone(&verified.claims));
        let Some(name) = &self.settings.consumer_claim else {
            return Ok(Identity { consumer: None, claims });
        };
        let consumer = verified.claims.get(name).and_then(|name| consumers.named(name.as_str()?));
        if consumer.is_none() && !self.settings.strangers {
            return Err(Reject::Forbidden(Lack::Consumer));
        }
        Ok(Identity { consumer: consumer.cloned(), claims })
    }

    /// Where its tokens stand.
    pub fn places(&self) -> &[TokenPlace] {
        &self.settings.places
    }
}

impl Known {
    pub(super) fn new(set: Arc<KeySet>) -> Self {
        Known { set, cache: Cache::default() }
    }

    #[cfg(test)]
    pub(super) fn cache_for_tests(&self) -> &Cache {
        &self.cache
    }
}

/// Two are the same only if they are one: keys are kept.
impl PartialEq for Provider {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Provider {}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Provider").field(&self.settings.name).finish()
    }
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}
