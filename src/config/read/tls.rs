//! Certificates, keys and authorities, which the configuration names by their files.

use super::super::decode::{At, Fields, Item};
use crate::tls::pem::{self, Credentials};
use rustls::pki_types::CertificateDer;

/// Those whose word is taken.
pub(super) fn authorities(item: &Item<'_, '_>) -> Option<Vec<CertificateDer<'static>>> {
    read(item, "a file of certificates (PEM)", pem::authorities).map(|(_, found)| found)
}

/// The two keys `cert` and `key` of a mapping.
pub(super) fn credentials(fields: &Fields<'_, '_, '_>) -> Option<Credentials> {
    let (cert, key) = (fields.need("cert"), fields.need("key"));
    let chain = cert.and_then(|i| read(&i, "a file of certificates (PEM)", pem::certificates));
    let key = key.and_then(|i| Some((read(&i, "a file with a private key (PEM)", pem::private_key)?, i)));
    let ((cert, chain), ((file, key), item)) = (chain?, key?);
    Credentials::new(chain, key).map_err(|e| item.fail(format!("{file}, with {cert}: {e}"))).ok()
}

/// What `parse` finds in a file, and how that is shown.
fn read<T>(
    item: &Item<'_, '_>,
    what: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<(String, T)> {
    let At { place, value: (path, text) } = item.file(what)?;
    let shown = place.show(path.display());
    match parse(&text) {
        Ok(found) => Some((shown, found)),
        Err(e) => {
            item.fail(format!("{shown}: {e}"));
            None
        }
    }
}
