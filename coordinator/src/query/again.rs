//! Queries that are planned and run once more: a source has lost the moment at which they read it (a hot standby ended the scan and took
//! the snapshot away, for one). The error says so by a mark of its own. Only what reads is run again, never what replays a cut, which
//! must not move to another moment, and not once rows have gone to the client.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use futures::future::BoxFuture;
use townlake_common::{Error, Result};

use super::registry::{QueryState, Tracked};
use super::rows::Source;
use super::service::{Prepared, Run};
use super::statement::Statement;

/// How often a query is run at most.
const RUNS: u32 = 3;
/// Between two runs.
const PAUSE: Duration = Duration::from_millis(200);

/// How often a query may still be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tries(u32);

impl Tries {
    /// Of a statement that has not been run yet.
    pub(super) fn of(statement: &Statement, replays: bool) -> Self {
        let may_move = matches!(statement, Statement::Query(_)) && !replays;
        Self(if may_move { RUNS - 1 } else { 0 })
    }

    /// Whether it is to be run once more after this error: that uses up a try.
    pub(super) fn after(&mut self, error: &Error) -> bool {
        let again = error.is_moment_lost() && self.0 > 0;
        self.0 -= u32::from(again);
        again
    }
}

/// Makes ready for another run: what the query pinned is let go, and its cut is forgotten.
pub(super) async fn anew(tracked: &Tracked, lost: &Error) {
    let query = &tracked.context.id;
    tracing::info!(%query, error = %lost, "the query is planned and run again: the moment that it read is gone");
    tokio::time::sleep(PAUSE).await;
    tracked.context.begin_anew();
    tracked.enter(QueryState::Planning);
}

/// The runs that a query has left, and how the next begins.
pub(super) struct Again {
    tries: Tries,
    run: Box<dyn Fn(Error) -> BoxFuture<'static, Result<SendableRecordBatchStream>> + Send>,
}

impl Again {
    /// Of a query whose rows have these columns; `None` for what is run once.
    pub(super) fn of(run: &Run<'_>, prepared: &Arc<Prepared>, tries: Tries, schema: &SchemaRef) -> Option<Self> {
        if tries == Tries(0) {
            return None;
        }
        let (service, session) = (Arc::clone(run.service), Arc::clone(run.session));
        let (tracked, settings, parameters) = (Arc::clone(&run.tracked), run.settings.clone(), run.parameters.clone());
        let (prepared, schema) = (Arc::clone(prepared), Arc::clone(schema));
        let run = move |lost: Error| {
            let (service, session, tracked) = (Arc::clone(&service), Arc::clone(&session), Arc::clone(&tracked));
            let (settings, parameters) = (settings.clone(), parameters.clone());
            let (prepared, schema) = (Arc::clone(&prepared), Arc::clone(&schema));
            let run = async move {
                // Nothing else has tries.
                let Statement::Query(ast) = &prepared.statement else { return Err(lost) };
                anew(&tracked, &lost).await;
                let run = Run { service: &service, session: &session, tracked, settings, parameters };
                let planned = run.planner().plan(ast).await?;
                let (columns, source) = run.start_query(planned).await?;
                if columns != schema {
                    return Err(lost); // the client was told of others
                }
                source.open().await
            };
            Box::pin(run) as BoxFuture<'static, _>
        };
        Some(Self { tries, run: Box::new(run) })
    }

    /// The next run after this error, where there is one.
    ///
    /// Errors: that error.
    pub(super) fn after(&mut self, error: Error) -> Result<Source> {
        match self.tries.after(&error) {
            true => Ok(Source::Lazy((self.run)(error))),
            false => Err(error),
        }
    }
}

/// The error of a query that could have run again, had its client no rows of it.
pub(super) fn too_late(error: Error) -> Error {
    let hint = error.hint().map(|hint| format!("{hint}; ")).unwrap_or_default();
    error.with_hint(format!("{hint}rows had gone to the client already: else it would have been run again by itself"))
}

#[cfg(test)]
mod tests {
    use townlake_common::ErrorCode;

    use super::super::parse::parse;
    use super::*;

    #[test]
    fn only_what_reads_at_a_moment_of_its_own_is_run_again() {
        let lost = Error::new(ErrorCode::SourceError, "the snapshot is gone").moment_lost();
        let other = Error::new(ErrorCode::SourceUnavailable, "it is down").retryable();
        let runs = |sql: &str, replays: bool| {
            let mut tries = Tries::of(&parse(sql).unwrap(), replays);
            assert!(!tries.after(&other));
            1 + std::iter::from_fn(|| tries.after(&lost).then_some(())).count()
        };
        assert_eq!(runs("SELECT 1", false), 3);
        assert_eq!(runs("SELECT 1", true), 1);
        assert_eq!(runs("INSERT INTO l.s.t SELECT 1", false), 1);
        assert_eq!(runs("EXPLAIN ANALYZE SELECT 1", false), 1);
    }
}
