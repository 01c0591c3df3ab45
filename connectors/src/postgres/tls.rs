//! TLS towards a server, in libpq's modes, with rustls and ring.

use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;
use townlake_common::config::TlsMode;
use townlake_common::{Error, ErrorCode, Result};

/// How the driver is told to use TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    /// Whether it must, may or must not be used.
    pub mode: SslMode,
    /// The handshake; `None` where none is ever made.
    pub connector: Option<MakeRustlsConnect>,
}

impl Tls {
    /// TLS as `mode` says; a URL with `sslmode=require` is never weakened by the default mode. As in libpq, `require` with
    /// a `ca` verifies that the certificate is of that authority, and leaves the host name alone.
    ///
    /// Errors: `CONFIG_INVALID` when `ca` cannot be read or no authority is known, and for a `ca` that would verify nothing.
    pub fn new(catalog: &str, mode: TlsMode, in_url: SslMode, ca: Option<&Path>) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        match (mode, ca) {
            (TlsMode::Disable | TlsMode::Prefer, Some(_)) => Err(unused_ca(catalog)),
            (TlsMode::Disable, None) => Ok(Self { mode: SslMode::Disable, connector: None }),
            (TlsMode::Prefer, None) => {
                let mode = if in_url == SslMode::Require { SslMode::Require } else { SslMode::Prefer };
                let verifier = AcceptAnyCertificate(Arc::clone(&provider));
                Self::with_verifier(catalog, provider, mode, Arc::new(verifier))
            }
            (TlsMode::Require, None) => {
                let verifier = AcceptAnyCertificate(Arc::clone(&provider));
                Self::with_verifier(catalog, provider, SslMode::Require, Arc::new(verifier))
            }
            (TlsMode::Require, Some(_)) => {
                let verifier = OfAuthority { roots: authorities(catalog, ca)?, provider: Arc::clone(&provider) };
                Self::with_verifier(catalog, provider, SslMode::Require, Arc::new(verifier))
            }
            (TlsMode::VerifyFull, _) => {
                let roots = authorities(catalog, ca)?;
                let config = builder(catalog, provider)?.with_root_certificates(roots).with_no_client_auth();
                Ok(Self { mode: SslMode::Require, connector: Some(MakeRustlsConnect::new(config)) })
            }
        }
    }

    fn with_verifier(
        catalog: &str,
        provider: Arc<CryptoProvider>,
        mode: SslMode,
        verifier: Arc<dyn ServerCertVerifier>,
    ) -> Result<Self> {
        let config =
            builder(catalog, provider)?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        Ok(Self { mode, connector: Some(MakeRustlsConnect::new(config)) })
    }
}

/// The configuration refuses this too, before anything is built.
fn unused_ca(catalog: &str) -> Error {
    Error::new(ErrorCode::ConfigInvalid, format!("catalogs.{catalog}: `tls_ca` verifies nothing with this `tls`"))
        .with_hint("set `tls` to \"verify-full\", or to \"require\" where the certificate does not name the host")
}

/// See [`builder`].
pub(crate) type ConfigBuilder = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;

/// A client's configuration of rustls, before it is said how certificates are verified.
pub(crate) fn builder(catalog: &str, provider: Arc<CryptoProvider>) -> Result<ConfigBuilder> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::internal(format!("catalog {catalog}: TLS cannot be set up")).with_source(error))
}

/// The authorities of a PEM file, or those of the system.
///
/// Errors: `CONFIG_INVALID` when there are none.
pub(crate) fn authorities(catalog: &str, ca: Option<&Path>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let wrong = |what: &str| {
                let message = format!("catalogs.{catalog}.tls_ca: {} {what}", path.display());
                Error::new(ErrorCode::ConfigInvalid, message)
            };
            let file = std::fs::File::open(path).map_err(|error| wrong("cannot be read").with_source(error))?;
            for certificate in rustls_pemfile::certs(&mut BufReader::new(file)) {
                let certificate = certificate.map_err(|error| wrong("is not PEM").with_source(error))?;
                roots.add(certificate).map_err(|error| wrong("holds no usable certificate").with_source(error))?;
            }
            if roots.is_empty() {
                return Err(wrong("holds no certificate"));
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(system.certs);
            if roots.is_empty() {
                let message = format!("catalogs.{catalog}: this system knows no certificate authority");
                return Err(Error::new(ErrorCode::ConfigInvalid, message).with_hint("give `tls_ca`"));
            }
        }
    }
    Ok(roots)
}

/// `prefer`, and `require` without an authority, encrypt and do not verify, as in libpq. The handshake's signatures are
/// still checked.
#[derive(Debug)]
pub(crate) struct AcceptAnyCertificate(pub Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The certificate is of a known authority and in time; which host it names does not matter.
#[derive(Debug)]
pub(crate) struct OfAuthority {
    pub roots: RootCertStore,
    pub provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OfAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
