//! Procedures that make a branch name another snapshot.

use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use townlake_common::{Error, ErrorCode, Result};
use townlake_lake::{BranchMove, SnapshotChoice};

use super::arguments::Arguments;
use super::list::Task;
use super::{Call, Value, one_row};
use crate::query::change_table::uninterrupted;
use crate::query::service::Run;

const MAIN: &str = "main";

impl Run<'_> {
    /// `rollback_to_snapshot`, `rollback_to_timestamp`, `set_current_snapshot`, `fast_forward`.
    pub(super) async fn move_branch(&self, call: &Call<'_>) -> Result<RecordBatch> {
        let table = self.loaded(call).await?;
        let to = destination(call.procedure.task, call.arguments)?;
        let branch = call.arguments.optional_text("branch").unwrap_or_else(|| MAIN.to_string());
        let (lake, change) = (Arc::clone(&call.lake), BranchMove { branch: branch.clone(), to });
        let (before, after) = uninterrupted(async move { lake.move_branch(&table, change).await }).await?;
        let mut row = vec![Value::Id(before), Value::Id(after)];
        if call.procedure.task == Task::FastForward {
            row.insert(0, Value::Text(branch));
        }
        one_row(call.procedure, row)
    }
}

fn destination(task: Task, arguments: &Arguments) -> Result<SnapshotChoice> {
    let (id, time) = (arguments.integer("snapshot_id"), arguments.time("timestamp"));
    let (reference, to) = (arguments.optional_text("ref"), arguments.optional_text("to"));
    match (task, id, time, reference, to) {
        (Task::RollbackToSnapshot, Some(id), ..) => Ok(SnapshotChoice::Past(id)),
        (Task::RollbackToTimestamp, _, Some(time), ..) => Ok(SnapshotChoice::PastAt(time)),
        (Task::SetCurrentSnapshot, Some(id), _, None, _) => Ok(SnapshotChoice::Any(id)),
        (Task::SetCurrentSnapshot, None, _, Some(name), _) => Ok(SnapshotChoice::Named(name)),
        (Task::FastForward, _, _, _, Some(to)) => Ok(SnapshotChoice::Ahead(to)),
        (Task::SetCurrentSnapshot, ..) => {
            let message = "set_current_snapshot takes either snapshot_id or ref";
            Err(Error::new(ErrorCode::InvalidArgument, message))
        }
        _ => Err(Error::internal("a procedure was called without what it needs")),
    }
}
