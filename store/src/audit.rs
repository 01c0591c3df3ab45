//! The audit log of queries. Two rows a query: one before it starts, one when it ends; neither is ever changed.

use chrono::{DateTime, Utc};
use townlake_common::{Error, ErrorCode, QueryId, Result};

use crate::open::{Database, Store, on};

/// A query that is about to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryAudit {
    /// Its id.
    pub query: QueryId,
    /// Who asks.
    pub principal: String,
    /// The incarnation of the coordinator that runs it.
    pub node: String,
    /// The statement as the user gave it. It may hold data.
    pub sql: String,
    /// When it was admitted.
    pub started: DateTime<Utc>,
    /// The catalogs that it reads or writes.
    pub catalogs: Vec<String>,
}

/// How a query ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryOutcome {
    /// Finished, failed or cancelled.
    pub state: QueryState,
    /// Why it did not finish.
    pub code: Option<ErrorCode>,
    /// When it ended.
    pub ended: DateTime<Utc>,
    /// Rows that the client got or that were written.
    pub rows: u64,
    /// Bytes of those rows in memory.
    pub bytes: u64,
}

/// The states of a query in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryState {
    /// It has no end yet: it runs, or its coordinator died with it.
    Running,
    /// It gave its whole result.
    Finished,
    /// It ended with an error.
    Failed,
    /// Its user, an administrator or a client that went away ended it.
    Cancelled,
}

impl QueryState {
    /// The state as the log and `system.runtime.queries` spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Finished, Self::Failed, Self::Cancelled].into_iter().find(|state| state.as_str() == text)
    }
}

/// A query of the log: its start and, where there is one, its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryRecord {
    /// What was written when it started.
    pub start: QueryAudit,
    /// What was written when it ended.
    pub outcome: Option<QueryOutcome>,
}

impl QueryRecord {
    /// The query's state.
    pub fn state(&self) -> QueryState {
        self.outcome.as_ref().map_or(QueryState::Running, |outcome| outcome.state)
    }
}

const INSERT_STARTED: &str = "INSERT INTO query_audit (query_id, event, at_us, principal, node, sql_text, catalogs) \
     VALUES ($1, 'started', $2, $3, $4, $5, $6)";

const INSERT_ENDED: &str = "INSERT INTO query_audit \
     (query_id, event, at_us, principal, node, state, code, row_count, byte_size, catalogs) \
     VALUES ($1, 'ended', $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (query_id, event) DO NOTHING";

const SELECT_RECENT: &str = "SELECT s.query_id, s.principal, s.node, s.sql_text, s.at_us AS started_us, \
     coalesce(e.catalogs, s.catalogs) AS catalogs, e.state, e.code, e.at_us AS ended_us, e.row_count, e.byte_size \
     FROM query_audit s LEFT JOIN query_audit e ON e.query_id = s.query_id AND e.event = 'ended' \
     WHERE s.event = 'started' ORDER BY s.sequence DESC LIMIT $1";

impl Store {
    /// Writes that a query starts; when it returns, the row is durable. A query that cannot be audited must not run.
    ///
    /// Errors: `STORE_UNAVAILABLE`, also for an id that was used before.
    pub async fn audit_started(&self, query: &QueryAudit) -> Result<()> {
        let catalogs = to_json(&query.catalogs)?;
        on!(self, pool => sqlx::query(INSERT_STARTED)
            .bind(query.query.as_str())
            .bind(query.started.timestamp_micros())
            .bind(&query.principal)
            .bind(&query.node)
            .bind(without_nul(&query.sql))
            .bind(catalogs)
            .execute(pool)
            .await
            .map(drop))
        .map_err(|error| self.failed("cannot write the audit log", error))
    }

    /// Writes how a query ended, with the catalogs that `query` now names. Of several ends of one query the first counts.
    ///
    /// Errors: `STORE_UNAVAILABLE`.
    pub async fn audit_finished(&self, query: &QueryAudit, outcome: &QueryOutcome) -> Result<()> {
        if outcome.state == QueryState::Running {
            return Err(Error::internal("a query cannot end as running"));
        }
        let catalogs = to_json(&query.catalogs)?;
        on!(self, pool => sqlx::query(INSERT_ENDED)
            .bind(query.query.as_str())
            .bind(outcome.ended.timestamp_micros())
            .bind(&query.principal)
            .bind(&query.node)
            .bind(outcome.state.as_str())
            .bind(outcome.code.map(ErrorCode::as_str))
            .bind(i64::try_from(outcome.rows).unwrap_or(i64::MAX))
            .bind(i64::try_from(outcome.bytes).unwrap_or(i64::MAX))
            .bind(catalogs)
            .execute(pool)
            .await
            .map(drop))
        .map_err(|error| self.failed("cannot write the audit log", error))
    }

    /// The latest queries, newest first, at most `limit`.
    ///
    /// Errors: `STORE_UNAVAILABLE`; `DATA_CORRUPT` for rows that this build did not write.
    pub async fn recent_queries(&self, limit: u32) -> Result<Vec<QueryRecord>> {
        let rows: Vec<Row> =
            on!(self, pool => sqlx::query_as(SELECT_RECENT).bind(i64::from(limit)).fetch_all(pool).await)
                .map_err(|error| self.failed("cannot read the audit log", error))?;
        rows.into_iter()
            .map(|row| row.record().ok_or_else(|| corrupt("a row of the audit log cannot be read")))
            .collect()
    }
}

/// A query as [`SELECT_RECENT`] gives it.
#[derive(sqlx::FromRow)]
struct Row {
    query_id: String,
    principal: String,
    node: String,
    sql_text: Option<String>,
    started_us: i64,
    catalogs: String,
    state: Option<String>,
    code: Option<String>,
    ended_us: Option<i64>,
    row_count: Option<i64>,
    byte_size: Option<i64>,
}

impl Row {
    fn record(self) -> Option<QueryRecord> {
        let outcome = match (self.state, self.ended_us) {
            (Some(state), Some(ended)) => Some(QueryOutcome {
                state: QueryState::parse(&state)?,
                code: self.code.as_deref().and_then(ErrorCode::parse),
                ended: DateTime::from_timestamp_micros(ended)?,
                rows: u64::try_from(self.row_count?).ok()?,
                bytes: u64::try_from(self.byte_size?).ok()?,
            }),
            _ => None,
        };
        let start = QueryAudit {
            query: QueryId::parse(&self.query_id).ok()?,
            principal: self.principal,
            node: self.node,
            sql: self.sql_text?,
            started: DateTime::from_timestamp_micros(self.started_us)?,
            catalogs: serde_json::from_str(&self.catalogs).ok()?,
        };
        Some(QueryRecord { start, outcome })
    }
}

fn to_json(catalogs: &[String]) -> Result<String> {
    serde_json::to_string(catalogs)
        .map_err(|error| Error::internal("catalog names cannot be encoded").with_source(error))
}

/// Postgres stores no NUL in a text, and a statement with one must be audited all the same.
fn without_nul(sql: &str) -> String {
    sql.replace('\0', "\u{fffd}")
}

fn corrupt(message: &str) -> Error {
    Error::new(ErrorCode::DataCorrupt, message)
}

#[cfg(test)]
mod tests {
    use townlake_common::Secret;

    use super::*;
    use crate::postgres_server::postgres_for;

    fn query(principal: &str, sql: &str) -> QueryAudit {
        let started = DateTime::from_timestamp_micros(1_790_000_000_123_456).unwrap();
        let (principal, sql) = (principal.to_string(), sql.to_string());
        QueryAudit {
            query: QueryId::generate(),
            principal,
            node: "node".into(),
            sql,
            started,
            catalogs: vec!["lake".into()],
        }
    }

    fn outcome(state: QueryState, code: Option<ErrorCode>) -> QueryOutcome {
        QueryOutcome {
            state,
            code,
            ended: DateTime::from_timestamp_micros(1_790_000_009_000_001).unwrap(),
            rows: 7,
            bytes: 8,
        }
    }

    async fn keeps_the_log(url: &Secret) {
        let store = Store::open(url).await.unwrap();
        let (first, mut second) = (query("ann", "SELECT 1"), query("bob", "SELECT '\0'"));
        store.audit_started(&first).await.unwrap();
        store.audit_started(&second).await.unwrap();
        assert_eq!(store.audit_started(&first).await.unwrap_err().code(), ErrorCode::StoreUnavailable);

        second.catalogs.push("crm".into());
        let failed = outcome(QueryState::Failed, Some(ErrorCode::TableNotFound));
        store.audit_finished(&second, &failed).await.unwrap();
        store.audit_finished(&second, &outcome(QueryState::Cancelled, None)).await.unwrap();
        assert!(store.audit_finished(&first, &outcome(QueryState::Running, None)).await.is_err());
        drop(store);

        let store = Store::open(url).await.unwrap();
        let log = store.recent_queries(10).await.unwrap();
        second.sql = "SELECT '\u{fffd}'".into();
        let expected = QueryRecord { start: second, outcome: Some(failed) };
        assert_eq!(
            log,
            [expected.clone(), QueryRecord { start: first, outcome: None }],
            "newest first, the first end counts"
        );
        assert_eq!(log.iter().map(QueryRecord::state).collect::<Vec<_>>(), [QueryState::Failed, QueryState::Running]);
        assert_eq!(store.recent_queries(1).await.unwrap(), [expected]);

        for change in ["UPDATE query_audit SET principal = 'eve'", "DELETE FROM query_audit"] {
            let error = on!(store, pool => sqlx::query(change).execute(pool).await.map(drop)).unwrap_err();
            assert!(error.to_string().contains("append-only"), "{change}: {error}");
        }
        writes_at_once(&store).await;
    }

    async fn writes_at_once(store: &Store) {
        let writes = (0..20).map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let query = query("ann", &format!("SELECT {n}"));
                store.audit_started(&query).await?;
                store.audit_finished(&query, &outcome(QueryState::Finished, None)).await
            })
        });
        for write in writes.collect::<Vec<_>>() {
            write.await.unwrap().unwrap();
        }
        let finished = store.recent_queries(20).await.unwrap();
        assert!(finished.iter().all(|record| record.state() == QueryState::Finished));
    }

    #[tokio::test]
    async fn sqlite_keeps_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/state.db");
        keeps_the_log(&Secret::new(format!("sqlite://{}", path.display()))).await;
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "the log is for its owner's eyes");
    }

    #[tokio::test]
    async fn postgres_keeps_the_log() {
        let Some(server) = postgres_for("audit::postgres_keeps_the_log") else { return };
        let (one, two) = (server.url(), server.url());
        let (one, two) = tokio::join!(Store::open(&one), Store::open(&two));
        assert!(one.is_ok() && two.is_ok(), "two coordinators start at the same time: {one:?} {two:?}");
        keeps_the_log(&server.url()).await;
    }
}
