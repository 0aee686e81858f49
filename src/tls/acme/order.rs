//! One order, from the account to the certificate (RFC 8555 §7.4).

use super::folder::{account, forget_account, keep_account};
use super::http::{Client, Told};
use super::{blocking, Authority, Challenge, Wanted};
use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, ExternalAccountKey, Identifier, NewAccount, NewOrder,
    Order, OrderStatus, Problem, RetryPolicy,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long it takes until every gateway that shares the folder has seen what is pending; they look twice a second, and some
/// disks tell late.
const SETTLED: Duration = Duration::from_millis(1500);
/// How it is asked whether the authority is done: ever less often, for two minutes.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.2)
    .timeout(Duration::from_secs(120));

/// Why there is no certificate.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// For the operator.
    pub(super) why: String,
    /// Whether the authority said no, and did not only stay silent.
    pub(super) refused: bool,
    /// Whether because it was asked too often.
    pub(super) rate_limited: bool,
    /// For how many seconds it wants to be left alone.
    pub(super) retry_after: Option<i64>,
}

impl Failure {
    /// Of a fault that is not the authority's word.
    pub(super) fn ours(why: impl Into<String>) -> Self {
        Failure { why: why.into(), refused: false, rate_limited: false, retry_after: None }
    }

    fn of(error: &Error, told: &Told) -> Self {
        let (why, refused) = match error {
            Error::Api(problem) => (explain(problem), true),
            other => (other.to_string(), false),
        };
        let later = match error {
            Error::Timeout(Some(at)) => Some(at.saturating_duration_since(Instant::now()).as_secs() as i64),
            _ => None,
        };
        Failure { rate_limited: is(error, "rateLimited"), retry_after: told.get().or(later), why, refused }
    }
}

/// Whether it is this problem of RFC 8555 §6.7.
fn is(error: &Error, kind: &str) -> bool {
    let Error::Api(problem) = error else { return false };
    let name = problem.r#type.as_deref().and_then(|name| name.strip_prefix("urn:ietf:params:acme:error:"));
    name == Some(kind)
}

/// Its detail, those of its parts, and its type.
fn explain(problem: &Problem) -> String {
    let mut why = problem.detail.clone().unwrap_or_else(|| "refused without a word".to_owned());
    for part in &problem.subproblems {
        why += &format!("; {part}");
    }
    if let Some(kind) = &problem.r#type {
        why += &format!(" ({kind})");
    }
    why
}

/// Orders, proves, and fetches: the key and the chain, as they go into one file.
///
/// # Errors
/// Why there is none.
pub(super) async fn order(wanted: &Arc<Wanted>) -> Result<String, Failure> {
    let (account, told) = enter(&wanted.authority).await?;
    let failure = |error: &Error| Failure::of(error, &told);
    let hosts = [Identifier::Dns(wanted.host.to_string())];
    let mut order = match account.new_order(&NewOrder::new(&hosts)).await {
        Err(e) if is(&e, "accountDoesNotExist") => {
            // Another authority behind the same address, or one that has forgotten: the next attempt introduces itself.
            let at = at(&wanted.authority);
            let _ = blocking(move || forget_account(&at)).await;
            return Err(Failure { refused: false, ..failure(&e) });
        }
        other => other.map_err(|e| failure(&e))?,
    };
    prove(wanted, &mut order, &told).await?;
    match order.poll_ready(&POLL).await {
        Ok(OrderStatus::Ready) => {}
        Ok(_) => return Err(unproven(&mut order, &told, None).await),
        Err(e) => return Err(unproven(&mut order, &told, Some(&e)).await),
    }
    let key = order.finalize().await.map_err(|e| failure(&e))?;
    let chain = order.poll_certificate(&POLL).await.map_err(|e| failure(&e))?;
    Ok(format!("{}\n{}\n", key.trim_end(), chain.trim_end()))
}

fn at(authority: &Authority) -> PathBuf {
    authority.folder.join(&*authority.label)
}

/// The account of the folder, or a new one.
async fn enter(authority: &Authority) -> Result<(Account, Told), Failure> {
    let (roots, folder) = (authority.roots.clone(), at(authority));
    let prepared = blocking(move || (Client::new(roots.as_ref()), account(&folder))).await;
    let (client, known) = prepared.map_err(Failure::ours)?;
    let client = client.map_err(Failure::ours)?;
    let told = client.told();
    let builder = Account::builder_with_http(Box::new(client));
    let known = known.and_then(|text| match serde_json::from_str(&text) {
        Ok(known) => Some(known),
        Err(e) => {
            log::warn!("{}: {e}; another account is made", at(authority).join("account.json").display());
            None
        }
    });
    if let Some(known) = known {
        let account = builder.from_credentials(known).await;
        return account.map(|account| (account, told.clone())).map_err(|e| Failure::of(&e, &told));
    }
    let contact = authority.email.as_ref().map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.as_deref().into_iter().collect();
    // Without the operator's word there is no configuration that gets here.
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let external = authority.external.as_ref();
    let external = external.map(|external| ExternalAccountKey::new(external.kid.to_string(), &external.key));
    let made = builder.create(&new, authority.directory.to_string(), external.as_ref()).await;
    let (account, credentials) = made.map_err(|e| Failure::of(&e, &told))?;
    let text = serde_json::to_string(&credentials).map_err(|e| Failure::ours(e.to_string()))?;
    let folder = at(authority);
    let kept = blocking(move || keep_account(&folder, &text)).await.map_err(Failure::ours)?;
    kept.map_err(|e| Failure::ours(format!("{}: {e}", at(authority).display())))?;
    Ok((account, told))
}

/// Shows what is asked for, and says that it is there.
async fn prove(wanted: &Arc<Wanted>, order: &mut Order, told: &Told) -> Result<(), Failure> {
    let challenge = wanted.authority.challenge;
    let (kind, name) = match challenge {
        Challenge::TlsAlpn => (ChallengeType::TlsAlpn01, "TLS-ALPN-01"),
        Challenge::Http => (ChallengeType::Http01, "HTTP-01"),
    };
    let mut all = order.authorizations();
    while let Some(authorization) = all.next().await {
        let mut authorization = authorization.map_err(|e| Failure::of(&e, told))?;
        match authorization.status {
            AuthorizationStatus::Valid => continue, // proven not long ago
            AuthorizationStatus::Pending => {}
            other => return Err(Failure::ours(format!("an authorization that is {other:?} already"))),
        }
        let Some(mut asked) = authorization.challenge(kind.clone()) else {
            return Err(Failure::ours(format!("the authority does not offer {name} for it")));
        };
        let (showing, token) = (Arc::clone(wanted), asked.token.clone());
        let answer = asked.key_authorization().as_str().to_owned();
        let shown = blocking(move || showing.folder.show(&token, &showing.host, &answer, challenge)).await;
        let shown = shown.map_err(Failure::ours)?;
        shown.map_err(|e| Failure::ours(format!("{}: {e}", wanted.folder.path().display())))?;
        tokio::time::sleep(SETTLED).await;
        asked.set_ready().await.map_err(|e| Failure::of(&e, told))?;
    }
    Ok(())
}

/// Why the authority does not believe it: what its challenges say, which is more than the order does.
async fn unproven(order: &mut Order, told: &Told, error: Option<&Error>) -> Failure {
    let mut all = order.authorizations();
    while let Some(Ok(mut authorization)) = all.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
            return Failure { refused: true, ..Failure::ours(explain(problem)) };
        }
    }
    match error {
        Some(error) => Failure::of(error, told),
        None => Failure {
            refused: true,
            ..Failure::ours("the authority does not believe it, and does not say why")
        },
    }
}
