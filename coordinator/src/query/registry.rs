//! The queries of this coordinator: those that run, and the last that ended. Each leaves a durable audit row.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use townlake_common::{Cut, Error, ErrorCode, Principal, QueryContext, QueryId, Result};
use townlake_lake::{LoadedTable, PinnedSnapshot};
use townlake_store::{QueryAudit, QueryOutcome, QueryState as AuditState, Store};

/// How many ended queries `system.runtime.queries` remembers; the audit log in the store keeps all.
const HISTORY: usize = 1000;

/// How much of a statement's text is kept here, in bytes. The audit log has all of it.
const KEPT_SQL: usize = 16 << 10;

/// Where a query is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryState {
    /// Waits for its turn.
    Queued,
    /// Names are resolved, plans are made.
    Planning,
    /// Its rows are computed and read.
    Running,
    /// Its write is committed.
    Finishing,
    /// It ended well.
    Finished,
    /// It ended with an error.
    Failed,
    /// Its user, an administrator, or the end of its client ended it.
    Cancelled,
}

impl QueryState {
    /// The public name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Planning => "PLANNING",
            Self::Running => "RUNNING",
            Self::Finishing => "FINISHING",
            Self::Finished => "FINISHED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

/// What is known of a query, at one moment.
#[derive(Debug, Clone)]
pub struct QueryInfo {
    /// Its id.
    pub id: QueryId,
    /// Who asked.
    pub user: String,
    /// The statement as it was given; the beginning of a long one.
    pub sql: Arc<str>,
    /// Where it is.
    pub state: QueryState,
    /// Why it failed.
    pub code: Option<ErrorCode>,
    /// When it came in.
    pub created: DateTime<Utc>,
    /// When it began to run.
    pub started: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended: Option<DateTime<Utc>>,
    /// Rows that were given to the client, or written.
    pub rows: u64,
    /// Bytes of those rows in memory.
    pub bytes: u64,
    /// Stages; 0 where it ran in the coordinator.
    pub stages: usize,
    /// What it holds on to in its sources (snapshots).
    pub pins: Vec<String>,
    /// At which moments it reads its sources.
    pub cut: Cut,
}

/// A query that has not ended.
pub struct Tracked {
    /// Id and principal, as they travel.
    pub context: Arc<QueryContext>,
    sql: Arc<str>,
    created: DateTime<Utc>,
    cancel: CancellationToken,
    progress: Mutex<Progress>,
    rows: AtomicU64,
    bytes: AtomicU64,
    stages: AtomicUsize,
}

struct Progress {
    state: QueryState,
    started: Option<DateTime<Utc>>,
    catalogs: Vec<String>,
}

impl Tracked {
    /// Moves it on.
    pub fn enter(&self, state: QueryState) {
        let mut progress = self.progress.lock();
        progress.state = state;
        if state == QueryState::Running && progress.started.is_none() {
            progress.started = Some(Utc::now());
        }
    }

    /// Fires when the query is to stop.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Counts rows that left for the client or into a table.
    pub fn count(&self, rows: u64, bytes: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says into how many stages the plan was cut.
    pub fn set_stages(&self, stages: usize) {
        self.stages.store(stages, Ordering::Relaxed);
    }

    /// Says which catalogs it touches, for the audit.
    pub fn set_catalogs(&self, catalogs: Vec<String>) {
        self.progress.lock().catalogs = catalogs;
    }

    fn info(&self) -> QueryInfo {
        let progress = self.progress.lock();
        QueryInfo {
            id: self.context.id.clone(),
            user: self.context.principal.name.clone(),
            sql: Arc::clone(&self.sql),
            state: progress.state,
            code: None,
            created: self.created,
            started: progress.started,
            ended: None,
            rows: self.rows.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            stages: self.stages.load(Ordering::Relaxed),
            pins: self.context.pin_keys(),
            cut: self.context.cut(),
        }
    }
}

/// Running and ended queries, and their way into the audit log.
pub struct Registry {
    store: Store,
    node: String,
    queries: Mutex<Queries>,
}

#[derive(Default)]
struct Queries {
    live: HashMap<QueryId, Arc<Tracked>>,
    ended: VecDeque<QueryInfo>,
}

impl Registry {
    /// An empty registry over the store of the audit log. `node` is the incarnation of this coordinator.
    pub fn new(store: Store, node: String) -> Arc<Self> {
        Arc::new(Self { store, node, queries: Mutex::default() })
    }

    /// Begins a query under a fresh id: its audit row is durable when this returns.
    ///
    /// Errors: `STORE_UNAVAILABLE`: a query that cannot be audited does not run.
    pub async fn begin(self: &Arc<Self>, principal: &Principal, sql: &str) -> Result<Begun> {
        self.begin_as(QueryId::generate(), principal, sql, None).await
    }

    /// As [`Registry::begin`], under an id that the client was told when the query was planned.
    /// Where `cut` is given the query reads what an earlier one read.
    pub async fn begin_as(
        self: &Arc<Self>,
        id: QueryId,
        principal: &Principal,
        sql: &str,
        cut: Option<Arc<Cut>>,
    ) -> Result<Begun> {
        let context = QueryContext::replaying(id, principal.clone(), cut);
        let created = Utc::now();
        let tracked = Arc::new(Tracked {
            context,
            sql: beginning_of(sql),
            created,
            cancel: CancellationToken::new(),
            progress: Mutex::new(Progress { state: QueryState::Queued, started: None, catalogs: Vec::new() }),
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            stages: AtomicUsize::new(0),
        });
        self.store.audit_started(&self.audit(&tracked, sql.to_string())).await?;
        self.queries.lock().live.insert(tracked.context.id.clone(), Arc::clone(&tracked));
        Ok(Begun { registry: Arc::clone(self), tracked: Some(tracked) })
    }

    /// Running and ended queries, the newest first.
    pub fn list(&self) -> Vec<QueryInfo> {
        let queries = self.queries.lock();
        let mut list: Vec<_> = queries.live.values().map(|tracked| tracked.info()).collect();
        list.extend(queries.ended.iter().cloned());
        drop(queries);
        list.sort_by(|a, b| b.id.cmp(&a.id));
        list
    }

    /// Queries that have not ended.
    pub fn running(&self) -> usize {
        self.queries.lock().live.len()
    }

    /// The running query of this id.
    pub fn find(&self, id: &QueryId) -> Option<Arc<Tracked>> {
        self.queries.lock().live.get(id).cloned()
    }

    /// The snapshots of a table that running queries read, beside the query `but`.
    pub fn pinned_snapshots(&self, table: &LoadedTable, but: &QueryId) -> BTreeSet<i64> {
        let queries: Vec<_> = self.queries.lock().live.values().map(Arc::clone).collect();
        let others = queries.iter().filter(|tracked| tracked.context.id != *but);
        let pins = others.flat_map(|tracked| tracked.context.pins::<PinnedSnapshot>());
        pins.filter_map(|pin| pin.in_table(table)).collect()
    }

    /// What is known of one query, running or among the last that ended.
    pub fn info(&self, id: &QueryId) -> Option<QueryInfo> {
        let queries = self.queries.lock();
        let live = queries.live.get(id).map(|tracked| tracked.info());
        live.or_else(|| queries.ended.iter().rev().find(|query| query.id == *id).cloned())
    }

    /// Tells every running query to stop: at shutdown.
    pub fn cancel_all(&self) {
        for tracked in self.queries.lock().live.values() {
            tracked.cancel.cancel();
        }
    }

    fn audit(&self, tracked: &Tracked, sql: String) -> QueryAudit {
        QueryAudit {
            query: tracked.context.id.clone(),
            principal: tracked.context.principal.name.clone(),
            node: self.node.clone(),
            sql,
            started: tracked.created,
            catalogs: tracked.progress.lock().catalogs.clone(),
        }
    }

    /// Takes the query out of the running ones and returns what the audit log is told.
    fn retire(&self, tracked: &Tracked, outcome: Option<&Error>) -> (QueryAudit, QueryOutcome) {
        let ended = Utc::now();
        let code = outcome.map(Error::code);
        let (state, audit_state) = match code {
            None => (QueryState::Finished, AuditState::Finished),
            Some(ErrorCode::Cancelled) => (QueryState::Cancelled, AuditState::Cancelled),
            Some(_) => (QueryState::Failed, AuditState::Failed),
        };
        let info = QueryInfo { state, code, ended: Some(ended), ..tracked.info() };
        let outcome = QueryOutcome { state: audit_state, code, ended, rows: info.rows, bytes: info.bytes };
        let mut queries = self.queries.lock();
        queries.live.remove(&info.id);
        if queries.ended.len() >= HISTORY {
            queries.ended.pop_front();
        }
        queries.ended.push_back(info);
        drop(queries);
        tracked.context.release();
        // The row of the end does not repeat the text.
        (self.audit(tracked, String::new()), outcome)
    }
}

fn beginning_of(sql: &str) -> Arc<str> {
    match sql.len() > KEPT_SQL {
        true => format!("{}…", &sql[..sql.floor_char_boundary(KEPT_SQL)]).into(),
        false => sql.into(),
    }
}

/// A query that has begun and must end. Dropping it is cancelling it.
pub struct Begun {
    registry: Arc<Registry>,
    tracked: Option<Arc<Tracked>>,
}

impl Begun {
    /// The running query.
    ///
    /// Errors: `INTERNAL` after its end, which no caller of ours asks for.
    pub fn tracked(&self) -> Result<&Arc<Tracked>> {
        self.tracked.as_ref().ok_or_else(|| Error::internal("the query has ended already"))
    }

    /// Ends it, well or with this error. Its audit row is durable when this returns; a store that fails now is logged,
    /// since the rows are out.
    pub async fn end(mut self, outcome: Option<&Error>) {
        let Some(tracked) = self.tracked.take() else { return };
        let (audit, end) = self.registry.retire(&tracked, outcome);
        log_end(&audit, &end, outcome);
        record(&self.registry.store, &audit, &end).await;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Some(tracked) = self.tracked.take() else { return };
        tracked.cancel.cancel();
        let gone = Error::new(ErrorCode::Cancelled, "the client went away");
        let (audit, end) = self.registry.retire(&tracked, Some(&gone));
        log_end(&audit, &end, Some(&gone));
        let registry = Arc::clone(&self.registry);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { record(&registry.store, &audit, &end).await });
        }
    }
}

async fn record(store: &Store, audit: &QueryAudit, end: &QueryOutcome) {
    if let Err(error) = store.audit_finished(audit, end).await {
        tracing::error!(query = %audit.query, error = ?error, "the end of a query could not be audited");
    }
}

fn log_end(audit: &QueryAudit, end: &QueryOutcome, error: Option<&Error>) {
    match error {
        Some(error) if error.code() == ErrorCode::Internal => {
            tracing::error!(query = %audit.query, error = ?error, "query failed by a fault of ours");
        }
        _ => {
            let code = end.code.map_or("", ErrorCode::as_str);
            tracing::info!(query = %audit.query, state = end.state.as_str(), code, rows = end.rows, "query ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use townlake_common::Secret;

    #[tokio::test]
    async fn a_long_statement_is_whole_in_the_audit_log_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&Secret::new(format!("sqlite://{}/s.db", folder.path().display()))).await.unwrap();
        let registry = Registry::new(store.clone(), "node".to_string());
        let sql = format!("SELECT '{}'", "é".repeat(KEPT_SQL));
        let begun = registry.begin(&Principal::new("ann", vec![]), &sql).await.unwrap();
        let id = begun.tracked().unwrap().context.id.clone();
        let kept = |state: QueryState| {
            let info = registry.info(&id).unwrap();
            assert_eq!(info.state, state);
            assert!(info.sql.starts_with("SELECT 'é") && info.sql.ends_with('…'));
            assert!(info.sql.len() < KEPT_SQL + 8, "{}", info.sql.len());
        };
        kept(QueryState::Queued);
        begun.end(None).await;
        kept(QueryState::Finished);
        assert!(registry.info(&QueryId::generate()).is_none());
        assert_eq!(store.recent_queries(1).await.unwrap()[0].start.sql, sql);
    }
}
