//! The snapshot of a query: one transaction per query and catalog, exported so that every split on every executor reads
//! the same state. It ends with the query.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};
use townlake_common::{Error, Pinned, QueryContext, Result};

use super::pool::{Connection, PIN_PREFIX, Pool, Purpose};

/// An open transaction whose snapshot others may adopt, for as long as this lives.
pub(crate) struct Snapshot {
    id: String,
    connection: Option<Connection>,
    /// What ended the transaction early: Postgres answers everything after it with "transaction is aborted".
    failure: Mutex<Option<Error>>,
}

impl Snapshot {
    /// The snapshot of `query` in this catalog: taken the first time, shared after.
    pub async fn of(query: &QueryContext, pool: &Arc<Pool>) -> Result<Arc<Self>> {
        let key = format!("{PIN_PREFIX}{}", pool.server().catalog);
        query.pin(&key, || Self::take(query, pool)).await
    }

    async fn take(query: &QueryContext, pool: &Arc<Pool>) -> Result<Self> {
        let connection = pool.begin(&query.id, Purpose::Snapshot(query), None).await?;
        let exported = connection.client()?.query_typed_one("SELECT pg_export_snapshot()", &[]).await;
        let id =
            exported.and_then(|row| row.try_get(0)).map_err(|error| pool.server().error("export a snapshot", error))?;
        let id: String = id;
        query.note(&pool.server().catalog, Pinned::held(super::KIND, format!("snapshot {id}")));
        Ok(Self { id, connection: Some(connection), failure: Mutex::default() })
    }

    /// What `SET TRANSACTION SNAPSHOT` takes.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Runs a look-up that must agree with the scans. Look-ups of one snapshot run one after another, and once one has
    /// failed the others fail with its error.
    pub async fn look_up(&self, doing: &str, sql: &str) -> Result<Vec<SimpleQueryRow>> {
        let mut failure = self.failure.lock().await;
        if let Some(error) = failure.as_ref() {
            return Err(error.clone());
        }
        let ended = || Error::internal("a snapshot is used after its end");
        let connection = self.connection.as_ref().ok_or_else(ended)?;
        let messages = connection.client()?.simple_query(sql).await.map_err(|error| {
            let error = connection.server().error(doing, error);
            *failure = Some(error.clone());
            error
        })?;
        let row = |message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None };
        Ok(messages.into_iter().filter_map(row).collect())
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.finish_later();
        }
    }
}
