//! Asks the server to end a statement, and waits until it has heard.
//!
//! The driver closes its connection when it has asked. pgbouncer takes that for a client that went away, and forgets what it asked for: one
//! must wait until the other side closes, as libpq does.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_postgres::config::Host;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{CancelToken, Config, Error, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Asks for it. Best effort.
pub(crate) async fn send(config: &Config, tls: Option<MakeRustlsConnect>, token: CancelToken) -> Result<(), Error> {
    match (only_server(config).await, tls) {
        (Some((host, socket)), Some(mut tls)) => match MakeTlsConnect::<Patient>::make_tls_connect(&mut tls, &host) {
            Ok(tls) => token.cancel_query_raw(Patient(socket), tls).await,
            Err(_) => token.cancel_query(tls).await,
        },
        (Some((_, socket)), None) => token.cancel_query_raw(Patient(socket), NoTls).await,
        (None, Some(tls)) => token.cancel_query(tls).await,
        (None, None) => token.cancel_query(NoTls).await,
    }
}

/// A connection to the server, where there is one only: of several, the driver alone knows which one runs the statement.
async fn only_server(config: &Config) -> Option<(String, TcpStream)> {
    let [Host::Tcp(host)] = config.get_hosts() else { return None };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let mut addresses = tokio::net::lookup_host((host.as_str(), port)).await.ok()?;
    let (first, None) = (addresses.next()?, addresses.next()) else { return None };
    Some((host.clone(), TcpStream::connect(first).await.ok()?))
}

/// A socket that is closed by the other side: to shut it down is to wait for that.
struct Patient(TcpStream);

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, to)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut bytes = [0; 64];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.0).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
