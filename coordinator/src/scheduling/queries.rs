//! The queries that run on the cluster now: how one is cancelled by its id, at whatever point it is.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ballista_core::JobId;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use townlake_common::{QueryId, Result};

use super::job::cancelled;
use super::tasks::TaskBook;

/// Cancels of queries that have not come here yet which are kept in mind.
const EARLY_CANCELS: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Queries {
    tasks: Arc<TaskBook>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    active: HashMap<QueryId, Active>,
    early_cancels: VecDeque<QueryId>,
}

#[derive(Debug)]
struct Active {
    cancel: CancellationToken,
    job: Option<JobId>,
    runs: usize,
}

impl Queries {
    pub(super) fn new(tasks: Arc<TaskBook>) -> Arc<Self> {
        Arc::new(Self { tasks, table: Mutex::default() })
    }

    /// A plan of this query begins. A query may run several plans, also at the same time.
    ///
    /// Errors: `CANCELLED` when it was cancelled before.
    pub(super) fn enter(self: &Arc<Self>, query: &QueryId) -> Result<Run> {
        let mut table = self.table.lock();
        if table.early_cancels.contains(query) {
            return Err(cancelled(query));
        }
        let new = || Active { cancel: CancellationToken::new(), job: None, runs: 0 };
        let active = table.active.entry(query.clone()).or_insert_with(new);
        active.runs += 1;
        let cancel = active.cancel.clone();
        Ok(Run { queries: Arc::clone(self), query: query.clone(), cancel })
    }

    /// Cancels a query; one that is not here yet fails as soon as it comes.
    pub(super) fn cancel(&self, query: &QueryId) {
        let mut table = self.table.lock();
        if let Some(active) = table.active.get(query) {
            active.cancel.cancel();
        }
        // Also for an active one: it may have further plans to run.
        if table.early_cancels.len() >= EARLY_CANCELS {
            table.early_cancels.pop_front();
        }
        table.early_cancels.push_back(query.clone());
    }

    /// The job that works for a query now.
    pub(super) fn job(&self, query: &QueryId) -> Option<JobId> {
        self.table.lock().active.get(query)?.job.clone()
    }

    /// How many queries are here.
    pub(super) fn count(&self) -> usize {
        self.table.lock().active.len()
    }

    fn leave(&self, query: &QueryId) {
        let mut table = self.table.lock();
        let Some(active) = table.active.get_mut(query) else { return };
        active.runs = active.runs.saturating_sub(1);
        if active.runs == 0 {
            table.active.remove(query);
            drop(table);
            self.tasks.end_query(query);
        }
    }
}

/// One plan of a query on its way; dropping it says that it has ended.
#[derive(Debug)]
pub(super) struct Run {
    queries: Arc<Queries>,
    query: QueryId,
    pub cancel: CancellationToken,
}

impl Run {
    /// This job works for the query from now on.
    pub(super) fn set_job(&self, job: &JobId) {
        if let Some(active) = self.queries.table.lock().active.get_mut(&self.query) {
            active.job = Some(job.clone());
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.queries.leave(&self.query);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_sticks_whenever_it_comes() {
        let (queries, id) = (Queries::new(Arc::default()), QueryId::generate());
        let run = queries.enter(&id).unwrap();
        assert!(!run.cancel.is_cancelled());
        queries.cancel(&id);
        assert!(run.cancel.is_cancelled());
        drop(run);
        assert!(queries.enter(&id).is_err(), "a second plan of a cancelled query does not start");
        let early = QueryId::generate();
        queries.cancel(&early);
        assert!(queries.enter(&early).is_err());
        assert_eq!(queries.count(), 0);
    }

    #[test]
    fn a_query_is_here_until_its_last_plan_ends() {
        let (queries, id) = (Queries::new(Arc::default()), QueryId::generate());
        let (first, second) = (queries.enter(&id).unwrap(), queries.enter(&id).unwrap());
        first.set_job(&JobId::new("j"));
        drop(first);
        assert_eq!(queries.job(&id), Some(JobId::new("j")));
        drop(second);
        assert_eq!((queries.count(), queries.job(&id)), (0, None));
    }
}
