//! The section `acme` of a listener's `tls`.

use super::super::decode::{At, Item};
use super::super::raw::RawAcme;
use super::listener::{blame, source};
use crate::router::HostPattern;
use crate::tls::acme::{label, Authority, Challenge, External, Roots};
use crate::tls::pair::Pair;
use crate::tls::source::Source;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use http::Uri;
use std::net::IpAddr;
use std::path::PathBuf;

const FORM: &str =
    "a mapping such as {hosts: [api.example.com], directory: letsencrypt, terms_of_service_agreed: true}";
/// With its ending a host is the name of a file, which has 255 characters.
const LONGEST: usize = 240;

/// One authority, or a list of them.
pub(super) fn acme(item: &Item<'_, '_>) -> Vec<RawAcme> {
    if !item.is_list() {
        return one(item).into_iter().collect();
    }
    let items = item.items("a list");
    if items.is_empty() {
        item.fail("the list is empty; leave `acme` out");
    }
    items.iter().filter_map(one).collect()
}

fn one(item: &Item<'_, '_>) -> Option<RawAcme> {
    let fields = item.fields(FORM)?;
    let hosts = fields.need("hosts").map(|item| hosts(&item));
    let directory = fields.need("directory").and_then(|item| item.parse("a directory", directory));
    let agreed = fields.need("terms_of_service_agreed");
    let email = fields.get("email").map(|item| item.parse("an address such as ops@example.com", email));
    let folder = fields.get("folder").map(|item| item.text("a folder"));
    let challenge = fields.get("challenge").map(|item| item.parse("tls_alpn or http", challenge));
    let external = fields.get("external_account").map(|item| external(&item));
    let roots = fields.get("ca").map(|item| {
        let file = source(&item)?;
        Roots::parse(&file.0).map_err(|flaw| blame(&flaw, &[(&item, &file)])).ok()
    });
    fields.close();
    if let Some(item) = agreed {
        if item.flag().is_some_and(|agreed| !agreed.value) {
            item.fail(
                "the authority issues to nobody else: read its terms, and write true if you agree to them",
            );
        }
    }
    let folder = match folder {
        Some(named) => named.map(|named| item.beside(&named.value)),
        None => default_folder(item),
    };
    let (email, challenge) =
        (email.map(|email| email.map(|at| at.value)), challenge.map(|at| at.map(|at| at.value)));
    let directory = directory?.value;
    let authority = Authority {
        label: label(&directory).into(),
        directory: directory.into(),
        email: flat(email)?,
        challenge: flat(challenge)?.unwrap_or(Challenge::TlsAlpn),
        external: flat(external)?,
        roots: flat(roots)?,
        folder: folder?,
    };
    let hosts = hosts?.into_iter().map(|host| {
        let pair = kept(item, authority.file(&host));
        (host, pair)
    });
    Some(RawAcme { place: item.place(), hosts: hosts.collect(), authority })
}

/// What is wrong (and has been said) is `None`; what is left out is `Some(None)`.
fn flat<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        Some(Some(value)) => Some(Some(value)),
        Some(None) => None,
        None => Some(None),
    }
}

/// Where the service manager lets the service keep things.
fn default_folder(item: &Item<'_, '_>) -> Option<PathBuf> {
    // Several are told apart by colons; ours is the first.
    let folders = item.environment("STATE_DIRECTORY");
    let first = folders.as_deref().and_then(|folders| folders.split(':').next());
    if first.is_none() {
        item.fail("the key \"folder\" is missing: where is the certificate to be kept? (a service of systemd with StateDirectory= needs none)");
    }
    first.map(|first| PathBuf::from(first).join("acme"))
}

/// What is there from before; what is broken is as good as nothing, and is said when another is ordered.
fn kept(item: &Item<'_, '_>, path: PathBuf) -> Option<Pair> {
    let source = Source::new(path.clone(), item.kept(&path)?);
    Pair::parse(&source, &source).ok()
}

fn hosts(item: &Item<'_, '_>) -> Vec<Box<str>> {
    let items = item.items("a list of hosts such as [api.example.com]");
    if items.is_empty() && item.is_list() {
        item.fail("the list is empty: for whom is there to be a certificate?");
    }
    let mut hosts: Vec<Box<str>> = Vec::new();
    for item in &items {
        let Some(At { value: host, .. }) = item.parse("a host", host) else { continue };
        match hosts.contains(&host) {
            true => item.fail("stands in the list twice"),
            false => hosts.push(host),
        }
    }
    hosts
}

fn host(text: &str) -> Result<Box<str>, String> {
    match HostPattern::parse(text)? {
        HostPattern::Wildcard(_) => Err(format!(
            "{text:?}: a wildcard is only issued to who proves it by DNS (DNS-01), which is not built: name each host, or \
             put the certificate into `certificates`"
        )),
        HostPattern::Exact(host) => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            if bare.parse::<IpAddr>().is_ok() {
                return Err(format!("{text:?} is an address: a certificate is ordered for a name"));
            }
            if host.len() > LONGEST {
                return Err(format!("a host longer than {LONGEST} characters"));
            }
            Ok(host.into())
        }
    }
}

fn directory(text: &str) -> Result<String, String> {
    const KNOWN: [(&str, &str); 2] = [
        ("letsencrypt", "https://acme-v02.api.letsencrypt.org/directory"),
        ("letsencrypt_staging", "https://acme-staging-v02.api.letsencrypt.org/directory"),
    ];
    if let Some((_, url)) = KNOWN.iter().find(|(name, _)| *name == text) {
        return Ok((*url).to_owned());
    }
    if text.starts_with("http://") {
        return Err(format!("{text:?}: ACME is spoken over TLS (RFC 8555 §6.1): write https://"));
    }
    let url =
        text.parse::<Uri>().ok().filter(|uri| uri.scheme_str() == Some("https") && uri.host().is_some());
    url.map(|_| text.to_owned()).ok_or_else(|| {
        let near = super::super::decode::suggest(text, KNOWN.iter().map(|(name, _)| *name));
        format!("expected letsencrypt, letsencrypt_staging or https://… of a directory, found {text:?}{near}")
    })
}

fn email(text: &str) -> Result<Box<str>, String> {
    let sound = text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && host.contains('.'))
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b',' && b != b'?');
    match sound {
        true if !text.starts_with("mailto:") => Ok(text.into()),
        _ => Err(format!("expected an address such as ops@example.com, found {text:?}")),
    }
}

fn challenge(text: &str) -> Result<Challenge, String> {
    match text {
        "tls_alpn" => Ok(Challenge::TlsAlpn),
        "http" => Ok(Challenge::Http),
        "dns" => Err("DNS-01 is not built; expected tls_alpn or http".to_owned()),
        other => Err(format!("expected tls_alpn or http, found {other:?}")),
    }
}

fn external(item: &Item<'_, '_>) -> Option<External> {
    const KEY: &str = "a key in base64url, as the authority gives it";
    let fields = item.fields("a mapping such as {kid: id, hmac_key: \"${ACME_HMAC_KEY}\"}")?;
    let (kid, key) = (fields.need("kid"), fields.need("hmac_key"));
    fields.close();
    let kid = kid.and_then(|kid| kid.text("what the authority calls the account"));
    let key = key.and_then(|key| {
        key.parse(KEY, |text| {
            let key = URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
            // What was written may be the key with a slip in it.
            key.ok().filter(|key| !key.is_empty()).ok_or_else(|| format!("expected {KEY}"))
        })
    });
    Some(External { kid: kid?.value.into(), key: key?.value.into() })
}
