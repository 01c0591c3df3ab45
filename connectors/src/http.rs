//! What sources that speak HTTP have in common.

use std::error::Error as StdError;
use std::path::Path;

use reqwest::Certificate;
use townlake_common::{Error, ErrorCode, Result};

/// The certificates of the PEM file that a key of the catalog's section names; none without one.
///
/// Errors: `CONFIG_INVALID`.
pub(crate) fn authorities(catalog: &str, key: &str, path: Option<&Path>) -> Result<Vec<Certificate>> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let wrong = |what: &str| {
        Error::new(ErrorCode::ConfigInvalid, format!("catalogs.{catalog}.{key}: {} {what}", path.display()))
    };
    let pem = std::fs::read(path).map_err(|error| wrong("cannot be read").with_source(error))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|_| wrong("is not PEM"))?;
    if found.is_empty() { Err(wrong("holds no certificate")) } else { Ok(found) }
}

/// The innermost cause, which says most: `Connection refused`.
pub(crate) fn innermost(error: &dyn StdError) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Whether a TLS handshake failed: the other side is not who it should be, which another try does not change.
pub(crate) fn is_tls(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(inner) = cause {
        if inner.is::<rustls::Error>() {
            return true;
        }
        // What an io::Error wraps is not its source, but itself.
        cause = match inner.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => inner.source(),
        };
    }
    false
}
