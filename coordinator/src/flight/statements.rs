//! Prepared statements: planned once, kept under a signed handle, bounded by session, forgotten when idle.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use townlake_common::{Error, ErrorCode, Result};

use crate::query::Prepared;
use crate::session::Session;

/// Statements that one session may have open. Calls without a session share one bound by principal.
const PER_SESSION: usize = 256;
/// Columns that were looked up so long ago are those of today still: a client runs most statements when it has prepared them.
const OF_TODAY: Duration = Duration::from_secs(1);

/// A prepared statement of one session.
#[derive(Clone)]
pub struct Statement {
    /// The session it was prepared in: a call without token or cookie goes on in it.
    pub session: Arc<Session>,
    /// The plan.
    pub prepared: Arc<Prepared>,
    /// The parameters that were bound last: one row.
    pub parameters: Option<RecordBatch>,
}

struct Kept {
    statement: Statement,
    owner: String,
    last_use: Instant,
    /// When its columns were looked up; `None` where it has been run since.
    described: Option<Instant>,
}

/// The open prepared statements.
pub struct Statements {
    ttl: Duration,
    kept: Mutex<HashMap<String, Kept>>,
}

impl Statements {
    /// None yet; one that is not used for `ttl` is forgotten.
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, kept: Mutex::default() }
    }

    /// Keeps a statement and gives its id.
    ///
    /// Errors: `RESOURCE_EXHAUSTED` when the session has too many open.
    pub fn open(&self, session: &Arc<Session>, prepared: Arc<Prepared>) -> Result<String> {
        let owner = owner(session);
        let now = Instant::now();
        let mut kept = self.kept.lock();
        let open = |kept: &HashMap<String, Kept>| kept.values().filter(|k| k.owner == owner).count();
        if open(&kept) >= PER_SESSION {
            kept.retain(|_, k| self.is_fresh(k, now));
            if open(&kept) >= PER_SESSION {
                let message = format!("the session has {PER_SESSION} prepared statements open");
                return Err(Error::new(ErrorCode::ResourceExhausted, message).with_hint("close statements after use"));
            }
        }
        let id = ulid::Ulid::new().to_string();
        let statement = Statement { session: Arc::clone(session), prepared, parameters: None };
        kept.insert(id.clone(), Kept { statement, owner, last_use: now, described: Some(now) });
        Ok(id)
    }

    /// The statement of a handle whose signature and principal were checked.
    ///
    /// Errors: `INVALID_ARGUMENT` when it is closed or forgotten.
    pub fn find(&self, id: &str) -> Result<Statement> {
        let mut kept = self.kept.lock();
        let now = Instant::now();
        let found = kept.get_mut(id).filter(|k| self.is_fresh(k, now)).ok_or_else(closed)?;
        found.last_use = now;
        Ok(found.statement.clone())
    }

    /// Whether a run of the statement may promise the columns that it was prepared with: once, and soon.
    pub fn is_of_today(&self, id: &str) -> bool {
        let described = self.kept.lock().get_mut(id).and_then(|kept| kept.described.take());
        described.is_some_and(|at| at.elapsed() < OF_TODAY)
    }

    /// Keeps the statement as it was prepared anew.
    pub fn renew(&self, id: &str, prepared: &Arc<Prepared>) {
        if let Some(kept) = self.kept.lock().get_mut(id) {
            kept.statement.prepared = Arc::clone(prepared);
        }
    }

    /// Binds parameters for the statement's next executions.
    ///
    /// Errors: as [`Statements::find`].
    pub fn bind(&self, id: &str, parameters: Option<RecordBatch>) -> Result<()> {
        let mut kept = self.kept.lock();
        kept.get_mut(id).ok_or_else(closed)?.statement.parameters = parameters;
        Ok(())
    }

    /// Closes a statement. One that is closed already stays so: closing is not an error twice.
    pub fn close(&self, id: &str) {
        self.kept.lock().remove(id);
    }

    /// Closes the statements of a session that is closed.
    pub fn forget_session(&self, session: &str) {
        self.kept.lock().retain(|_, kept| kept.statement.session.id != session);
    }

    /// Forgets unused statements. A background task calls it now and then.
    pub fn expire(&self) {
        let now = Instant::now();
        self.kept.lock().retain(|_, kept| self.is_fresh(kept, now));
    }

    fn is_fresh(&self, kept: &Kept, now: Instant) -> bool {
        now.saturating_duration_since(kept.last_use) < self.ttl
    }
}

/// Whose statements are counted together.
fn owner(session: &Session) -> String {
    if session.is_kept() { format!("session {}", session.id) } else { format!("principal {}", session.principal.name) }
}

fn closed() -> Error {
    Error::new(ErrorCode::InvalidArgument, "this prepared statement is closed, or was not used for too long")
        .with_hint("prepare it again")
}
