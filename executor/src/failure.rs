//! What the coordinator is told when a task fails: the typed error for people, and Ballista's failure for its scheduler.

use ballista_core::error::BallistaError;
use ballista_core::serde::protobuf::failed_task::FailedReason;
use ballista_core::serde::protobuf::{ExecutionError, FailedTask, IoError, TaskKilled};
use townlake_common::{Error, ErrorCode};
use townlake_engine::error;

/// The typed error of `failure`, and the failure as Ballista's scheduler takes it.
///
/// The scheduler decides by it: a failed fetch runs the stage again that made the data; a killed task runs again
/// elsewhere and counts for nothing; an input or output failure is tried up to four times; all else fails the job. So a
/// typed error that says that a retry helps becomes an input or output failure, and one that says that it does not becomes
/// an execution error, even where an input or output error lies at its root (permission denied, a file cut short).
pub(crate) fn classify(failure: BallistaError) -> (Error, FailedTask) {
    let typed = error::from_ballista(&failure);
    let mut failed = FailedTask::from(failure);
    if matches!(failed.failed_reason, Some(FailedReason::FetchPartitionError(_))) {
        return (typed, failed);
    }
    // The text is the typed error's: Ballista's is a debug print, which may show what only the log may see.
    failed.error = typed.to_string();
    // At a moment that is gone the same task fails again: the coordinator plans the query anew.
    let helps = typed.is_retryable() && !typed.is_moment_lost();
    failed.retryable = helps;
    failed.count_to_failures = helps;
    failed.failed_reason = Some(match helps {
        true => FailedReason::IoError(IoError {}),
        false => FailedReason::ExecutionError(ExecutionError {}),
    });
    match typed.code() {
        ErrorCode::Cancelled => (typed, handed_back()),
        _ => (typed, failed),
    }
}

/// The failure of a task that was stopped on purpose: the scheduler gives it to another executor, if its job still lives.
pub(crate) fn handed_back() -> FailedTask {
    FailedTask {
        error: "the task was cancelled".to_string(),
        retryable: true,
        count_to_failures: false,
        failed_reason: Some(FailedReason::TaskKilled(TaskKilled {})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::error::DataFusionError;
    use std::io;

    fn reason(failure: BallistaError) -> (ErrorCode, FailedReason) {
        let (typed, failed) = classify(failure);
        (typed.code(), failed.failed_reason.unwrap())
    }

    fn thrown(error: Error) -> BallistaError {
        DataFusionError::ArrowError(
            Box::new(arrow::error::ArrowError::ExternalError(Box::new(error::to_datafusion(error)))),
            None,
        )
        .context("while scanning")
        .into()
    }

    #[test]
    fn a_source_that_may_come_back_is_tried_again() {
        let reset = Error::new(ErrorCode::SourceUnavailable, "connection reset").retryable();
        let (typed, failed) = classify(thrown(reset.clone()));
        assert_eq!(typed.to_wire(), reset.to_wire());
        assert!(failed.retryable && failed.count_to_failures);
        assert!(matches!(failed.failed_reason, Some(FailedReason::IoError(_))));
    }

    #[test]
    fn what_no_retry_helps_fails_at_once() {
        let denied = thrown(Error::new(ErrorCode::SourceDenied, "permission denied"));
        assert!(matches!(reason(denied), (ErrorCode::SourceDenied, FailedReason::ExecutionError(_))));
        let lost = thrown(Error::new(ErrorCode::SourceError, "the snapshot is gone").moment_lost());
        assert!(matches!(reason(lost), (ErrorCode::SourceError, FailedReason::ExecutionError(_))));
        let root: BallistaError = DataFusionError::IoError(io::ErrorKind::PermissionDenied.into()).into();
        assert!(matches!(reason(root), (ErrorCode::SourceDenied, FailedReason::ExecutionError(_))));
        let memory: BallistaError = DataFusionError::ResourcesExhausted("pool".to_string()).into();
        assert!(matches!(reason(memory), (ErrorCode::MemoryLimit, FailedReason::ExecutionError(_))));
    }

    #[test]
    fn fetch_failures_and_cancels_keep_their_meaning() {
        let fetch = BallistaError::FetchFailed("e1".to_string(), 2, 3, "gone".to_string());
        let fetch: BallistaError = fetch.into_datafusion().context("join").into();
        let FailedReason::FetchPartitionError(lost) = reason(fetch).1 else { panic!("not a fetch failure") };
        assert_eq!((lost.executor_id.as_str(), lost.map_stage_id, lost.map_partition_id), ("e1", 2, 3));
        let cancelled: BallistaError = BallistaError::Cancelled.into_datafusion().context("sort").into();
        assert!(matches!(reason(cancelled), (ErrorCode::Cancelled, FailedReason::TaskKilled(_))));
    }

    #[test]
    fn the_text_shows_no_source() {
        let secret = io::Error::other("postgres://ann:hunter2@db");
        let failure = thrown(Error::new(ErrorCode::SourceError, "catalog crm").with_source(secret));
        assert!(!classify(failure).1.error.contains("hunter2"));
    }
}
