//! Who begins a scheduled maintenance: of the coordinators that share a store, the first that claims it.

use chrono::{DateTime, Utc};
use townlake_common::Result;

use crate::open::{Database, Store, on};

const CLAIM: &str = "INSERT INTO maintenance_run (table_name, procedure, started_us, node) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (table_name, procedure) DO UPDATE SET started_us = excluded.started_us, node = excluded.node \
     WHERE maintenance_run.started_us <= $5";

impl Store {
    /// Claims a procedure for a table, unless it was begun after `due_before`. `true`: the caller begins it now.
    ///
    /// Errors: `STORE_UNAVAILABLE`.
    pub async fn claim_maintenance(
        &self,
        table: &str,
        procedure: &str,
        now: DateTime<Utc>,
        due_before: DateTime<Utc>,
        node: &str,
    ) -> Result<bool> {
        let claimed = on!(self, pool => sqlx::query(CLAIM)
            .bind(table)
            .bind(procedure)
            .bind(now.timestamp_micros())
            .bind(node)
            .bind(due_before.timestamp_micros())
            .execute(pool)
            .await
            .map(|done| done.rows_affected()))
        .map_err(|error| self.failed("cannot claim maintenance", error))?;
        Ok(claimed == 1)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use townlake_common::Secret;

    use super::*;
    use crate::postgres_server::postgres_for;

    async fn one_claims(store: &Store) {
        let now = DateTime::from_timestamp_micros(1_790_000_000_000_000).unwrap();
        let (hour, second) = (TimeDelta::hours(1), TimeDelta::seconds(1));
        let claim = async |at: DateTime<Utc>, node: &str| {
            store.claim_maintenance("lake.s.t", "optimize", at, at - hour, node).await.unwrap()
        };
        let (one, other) = tokio::join!(claim(now, "a"), claim(now, "b"));
        assert!(one != other, "one of both");
        assert!(!claim(now + hour - second, "b").await, "it is not due");
        assert!(claim(now + hour, "b").await, "it is due");
        assert!(!claim(now + hour, "a").await);
        assert!(store.claim_maintenance("lake.s.t", "expire_snapshots", now, now - hour, "a").await.unwrap());
        assert!(store.claim_maintenance("lake.s.u", "optimize", now, now - hour, "a").await.unwrap());
    }

    #[tokio::test]
    async fn of_several_coordinators_one_claims_what_is_due() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/state.db", folder.path().display());
        one_claims(&Store::open(&Secret::new(url)).await.unwrap()).await;
        if let Some(server) = postgres_for("claims") {
            one_claims(&Store::open(&server.url()).await.unwrap()).await;
        }
    }
}
