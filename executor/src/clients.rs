//! Connections to other executors, kept between fetches. Ballista's own pool is private.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ballista_core::client::BallistaClient;
use ballista_core::client_pool::{BallistaClientPool, PooledClient};
use ballista_core::error::Result;
use ballista_core::extension::BallistaConfigGrpcEndpoint;
use ballista_core::utils::GrpcClientConfig;
use parking_lot::Mutex;

/// A connection that nobody used for this long is closed.
const IDLE: Duration = Duration::from_secs(60);

type Key = (String, u16, GrpcClientConfig);

/// The pool: idle connections by peer and settings. One is used by one fetch at a time.
#[derive(Default)]
pub(crate) struct ClientPool {
    idle: Mutex<HashMap<Key, Vec<(BallistaClient, Instant)>>>,
    this: Weak<ClientPool>,
}

impl ClientPool {
    /// An empty pool that closes idle connections while it lives.
    pub(crate) fn start() -> Arc<Self> {
        let pool = Arc::new_cyclic(|this| Self { idle: Mutex::default(), this: this.clone() });
        let weak = Arc::downgrade(&pool);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(IDLE / 2).await;
                let Some(pool) = weak.upgrade() else { return };
                pool.evict_idle().await;
            }
        });
        pool
    }

    fn take(&self, key: &Key) -> Option<BallistaClient> {
        self.idle.lock().get_mut(key)?.pop().map(|(client, _)| client)
    }
}

impl fmt::Debug for ClientPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientPool")
    }
}

#[async_trait]
impl BallistaClientPool for ClientPool {
    async fn acquire(
        &self,
        host: &str,
        port: u16,
        config: &GrpcClientConfig,
        customize_endpoint: Option<Arc<BallistaConfigGrpcEndpoint>>,
    ) -> Result<PooledClient> {
        let key = (host.to_string(), port, config.clone());
        let client = match self.take(&key) {
            Some(client) => client,
            None => {
                BallistaClient::try_new(
                    host,
                    port,
                    config.max_message_size,
                    config.use_tls,
                    customize_endpoint,
                    config.io_retries_times,
                    config.io_retry_wait_time_ms,
                    config.initial_connection_window_size,
                    config.initial_stream_window_size,
                )
                .await?
            }
        };
        let pool = self.this.clone();
        let give_back = move |client| {
            if let Some(pool) = pool.upgrade() {
                pool.idle.lock().entry(key).or_default().push((client, Instant::now()));
            }
        };
        Ok(PooledClient::new(client, Box::new(give_back)))
    }

    async fn evict_idle(&self) {
        self.idle.lock().retain(|_, clients| {
            clients.retain(|(_, since)| since.elapsed() < IDLE);
            !clients.is_empty()
        });
    }
}
