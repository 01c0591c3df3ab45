//! A gRPC channel: over TLS to Google, in plain text to an emulator. Nothing is connected before it is used.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::{Service, http::Uri};
use tonic::transport::{Channel, Endpoint};
use townlake_common::{Error, Result};

/// A server that is gone without a word is noticed this long after the last sign of life.
const KEEPALIVE: Duration = Duration::from_secs(30);
const UNANSWERED: Duration = Duration::from_secs(20);
/// What the server may send before it is asked for: a stream's and all streams'.
const STREAM_WINDOW: u32 = 4 << 20;
const CHANNEL_WINDOW: u32 = 32 << 20;

/// A channel to `https://host` or `http://host:port`.
pub(crate) fn open(url: &str, connect_timeout: Duration) -> Result<Channel> {
    let wrong = |error| Error::internal("the address of the Storage API is none").with_source(error);
    let endpoint = Endpoint::from_shared(url.to_string())
        .map_err(wrong)?
        .connect_timeout(connect_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEPALIVE))
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(UNANSWERED)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CHANNEL_WINDOW)
        .user_agent(concat!("townlake/", env!("CARGO_PKG_VERSION")))
        .map_err(wrong)?;
    if url.starts_with("https://") {
        Ok(endpoint.connect_with_connector_lazy(Tls::new()?))
    } else {
        Ok(endpoint.connect_lazy())
    }
}

/// Connects over TLS, verified by the system's authorities. (tonic's own TLS is not built into this tree.)
#[derive(Clone)]
struct Tls(TlsConnector);

impl Tls {
    fn new() -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal("TLS cannot be set up").with_source(error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }
}

impl Service<Uri> for Tls {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.0.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().to_string();
            let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(443))).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
            Ok(TokioIo::new(connector.connect(name, stream).await?))
        })
    }
}
