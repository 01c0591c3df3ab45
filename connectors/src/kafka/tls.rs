//! TLS towards brokers, with rustls and ring, and a certificate of our own where brokers ask for one.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::crypto::ring;
use rustls::{ClientConfig, ConfigBuilder};
use tokio_rustls::TlsConnector;
use townlake_common::config::{KafkaCatalog, KafkaTls};
use townlake_common::{Error, ErrorCode, Result};

use crate::postgres::tls::{AcceptAnyCertificate, OfAuthority, authorities, builder};

/// The handshake that the configuration wants; `None` without TLS.
///
/// Errors: `CONFIG_INVALID` for files that cannot be used.
pub(crate) fn connector(catalog: &str, config: &KafkaCatalog) -> Result<Option<TlsConnector>> {
    let provider = Arc::new(ring::default_provider());
    let begun = builder(catalog, Arc::clone(&provider))?;
    let ca = config.tls_ca.as_deref();
    let verified = match (config.tls, ca) {
        (KafkaTls::Disable, _) => return Ok(None),
        (KafkaTls::Require, None) => {
            begun.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider)))
        }
        (KafkaTls::Require, Some(_)) => {
            let verifier = OfAuthority { roots: authorities(catalog, ca)?, provider };
            begun.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
        (KafkaTls::VerifyFull, _) => begun.with_root_certificates(authorities(catalog, ca)?),
    };
    let config = match (&config.tls_cert, &config.tls_key) {
        (Some(certificate), Some(key)) => with_identity(catalog, verified, certificate, key)?,
        _ => verified.with_no_client_auth(),
    };
    Ok(Some(TlsConnector::from(Arc::new(config))))
}

fn with_identity(
    catalog: &str,
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    certificate: &Path,
    key: &Path,
) -> Result<ClientConfig> {
    let wrong = |name: &str, path: &Path, what: &str| {
        Error::new(ErrorCode::ConfigInvalid, format!("catalogs.{catalog}.{name}: {} {what}", path.display()))
    };
    let open = |name: &str, path: &Path| {
        File::open(path).map(BufReader::new).map_err(|error| wrong(name, path, "cannot be read").with_source(error))
    };
    let chain = rustls_pemfile::certs(&mut open("tls_cert", certificate)?).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| wrong("tls_cert", certificate, "is not PEM").with_source(error))?;
    let key_found = rustls_pemfile::private_key(&mut open("tls_key", key)?).ok().flatten();
    let private = key_found.ok_or_else(|| wrong("tls_key", key, "holds no key in PEM"))?;
    // The error of rustls is not kept: nothing of a key goes into a log.
    builder.with_client_auth_cert(chain, private).map_err(|_| wrong("tls_key", key, "does not fit the certificate"))
}
