//! Connections to etcd, and what happens while it does not answer.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use etcd_client::{Client, ConnectOptions};
use townlake_common::{Error, ErrorCode, Result};
use url::Url;

/// What the etcd client gives back.
pub(super) type EtcdResult<T> = std::result::Result<T, etcd_client::Error>;

/// How long one call may take. A healthy etcd answers in milliseconds; one that is starved of disk needs some of this.
const CALL_LIMIT: Duration = Duration::from_secs(3);
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Pings on the connection: etcd turns clients away that ping more often than each 5 s.
const PING: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(3));
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// Makes connections, each to the endpoint after the last one's.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    endpoints: Arc<[String]>,
    next: usize,
}

impl Dialer {
    /// Checks the endpoints. Errors: `CONFIG_INVALID`; the endpoint is not quoted where it might hold a password.
    pub fn new(endpoints: &[String]) -> Result<Self> {
        let invalid = |message: String| Err(Error::new(ErrorCode::ConfigInvalid, message));
        if endpoints.is_empty() {
            return invalid("cluster.etcd names no endpoint".to_string());
        }
        for (position, endpoint) in endpoints.iter().enumerate() {
            match Url::parse(endpoint) {
                Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                    return invalid(format!(
                        "cluster.etcd[{position}]: user and password in the URL are not supported"
                    ));
                }
                Ok(url) if url.scheme() == "http" && url.has_host() => {}
                _ => return invalid(format!("cluster.etcd[{position}] must look like http://host:2379")),
            }
        }
        // Nodes begin at different endpoints, so that one etcd does not serve them all.
        let start = usize::try_from(ulid::Ulid::new().random() & 0xffff).unwrap_or_default();
        Ok(Self { endpoints: endpoints.into(), next: start })
    }

    /// How many endpoints there are: so many attempts in a row reach each of them.
    pub fn endpoints(&self) -> usize {
        self.endpoints.len()
    }

    /// A fresh connection to the next endpoint. It is opened by its first call.
    pub async fn dial(&mut self) -> EtcdResult<Client> {
        let position = self.next % self.endpoints.len().max(1);
        self.next = self.next.wrapping_add(1);
        let endpoint = self.endpoints.get(position).map(String::as_str).unwrap_or_default();
        let options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_LIMIT)
            .with_keep_alive(PING.0, PING.1)
            .with_require_leader(true);
        within(Client::connect([endpoint], Some(options))).await
    }

    /// The error for users when etcd did not answer in the time that they can wait.
    pub fn unavailable(&self, what: &str, cause: Option<etcd_client::Error>) -> Error {
        let error = Error::new(ErrorCode::MembershipUnavailable, format!("etcd did not answer in time: {what}"))
            .with_hint(format!("is etcd running at {}? (cluster.etcd)", self.endpoints.join(", ")))
            .retryable();
        match cause {
            Some(cause) => error.with_source(cause),
            None => error,
        }
    }
}

/// The call's answer, or an error when it takes too long.
pub(super) async fn within<T>(call: impl Future<Output = EtcdResult<T>>) -> EtcdResult<T> {
    match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(answer) => answer,
        Err(_) => Err(broken("no answer in time")),
    }
}

/// An error of a connection that ended or went silent.
pub(super) fn broken(how: &str) -> etcd_client::Error {
    etcd_client::Error::Internal(how.to_string())
}

/// The stretches of time in which etcd does not answer: logs begin and end of each once, and paces the attempts.
pub(super) struct Outage {
    what: &'static str,
    since: Option<Instant>,
    delays: ExponentialBackoff,
}

impl Outage {
    /// No outage yet, for work called `what` in the log.
    pub fn new(what: &'static str) -> Self {
        Self { what, since: None, delays: delays() }
    }

    /// Notes a failed attempt and waits for the time of the next one.
    pub async fn wait(&mut self, error: &etcd_client::Error) {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            tracing::warn!(work = self.what, %error, "etcd does not answer, trying on");
        }
        tokio::time::sleep(self.delays.next().unwrap_or(LONGEST_DELAY)).await;
    }

    /// Notes that etcd answers.
    pub fn over(&mut self) {
        self.delays = delays();
        if let Some(since) = self.since.take() {
            tracing::info!(work = self.what, seconds = since.elapsed().as_secs_f32(), "etcd answers again");
        }
    }
}

fn delays() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(FIRST_DELAY)
        .with_max_delay(LONGEST_DELAY)
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked_and_passwords_not_quoted() {
        for wrong in ["", "127.0.0.1:2379", "https://a:2379", "http://"] {
            let error = Dialer::new(&[wrong.to_string()]).unwrap_err();
            assert_eq!(error.code(), ErrorCode::ConfigInvalid, "{wrong}");
        }
        let error = Dialer::new(&["http://root:hunter2@a:2379".to_string()]).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        assert!(Dialer::new(&[]).is_err());
        assert!(Dialer::new(&["http://127.0.0.1:2379".to_string()]).is_ok());
    }

    #[tokio::test]
    async fn each_connection_goes_to_the_next_endpoint() {
        let endpoints: Vec<_> = (1..=3).map(|n| format!("http://127.0.0.1:{n}")).collect();
        let mut dialer = Dialer::new(&endpoints).unwrap();
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(dialer.next % 3);
            dialer.dial().await.unwrap();
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2]);
    }
}
