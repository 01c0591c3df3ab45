//! The typed errors of tasks. Ballista's status carries only text, so an executor reports the error itself beside it (D10).

use std::collections::HashMap;

use parking_lot::Mutex;
use townlake_common::{Error, ErrorCode};

/// Errors that are kept of one job: the last ones count, a job that retries a lot must not fill the memory.
const KEPT_PER_JOB: usize = 64;
/// The longest report that is taken, in bytes.
pub(super) const MAX_REPORT: usize = 64 << 10;
/// Text of Ballista that is shown when no typed error came, in characters.
const SHOWN_TEXT: usize = 600;

/// The reported errors by job.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<HashMap<String, Vec<Failure>>>);

/// The error of one task attempt.
#[derive(Debug)]
struct Failure {
    stage: u32,
    partitions: Vec<usize>,
    error: Error,
}

impl Failures {
    /// From now on errors of this job are kept.
    pub(super) fn open(&self, job: &str) {
        self.0.lock().insert(job.to_string(), Vec::new());
    }

    /// Keeps the error of an attempt at these partitions of a stage; ignored for a job that is not open.
    pub(super) fn report(&self, job: &str, stage: u32, partitions: Vec<usize>, error: Error) {
        if let Some(errors) = self.0.lock().get_mut(job) {
            if errors.len() >= KEPT_PER_JOB {
                errors.remove(0);
            }
            errors.push(Failure { stage, partitions, error });
        }
    }

    /// These partitions of a stage were done in the end: what an attempt at them ran into before has failed nothing.
    pub(super) fn forgive(&self, job: &str, stage: u32, done: &[usize]) {
        if let Some(errors) = self.0.lock().get_mut(job) {
            errors.retain(|failure| failure.stage != stage || !failure.partitions.iter().any(|p| done.contains(p)));
        }
    }

    /// Keeps no more of a job; how many errors it had.
    pub(super) fn close(&self, job: &str) -> usize {
        self.0.lock().remove(job).map_or(0, |errors| errors.len())
    }

    /// The error that failed a job, by what its tasks reported: the last one that is not a mere consequence (of an executor
    /// that was lost, or of another task's error that had this one cancelled).
    pub(super) fn cause(&self, job: &str) -> Option<Error> {
        let rank = |error: &Error| match error.code() {
            ErrorCode::Cancelled => 0,
            ErrorCode::ExecutorLost => 1,
            _ => 2,
        };
        self.0.lock().get(job)?.iter().map(|failure| &failure.error).max_by_key(|error| rank(error)).cloned()
    }
}

/// The error of a job for which no task reported one: planning, encoding or launching failed.
pub(super) fn untyped(text: &str) -> Error {
    let mut shown: String = text.trim().chars().take(SHOWN_TEXT).collect();
    if shown.len() < text.trim().len() {
        shown.push('…');
    }
    Error::internal(format!("the cluster could not run the query: {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(failures: &Failures, error: Error) {
        failures.report("j", 1, vec![0], error);
    }

    #[test]
    fn the_cause_is_not_its_consequence() {
        let failures = Failures::default();
        report(&failures, Error::new(ErrorCode::SourceError, "not open yet"));
        failures.open("j");
        assert!(failures.cause("j").is_none());
        report(&failures, Error::new(ErrorCode::ExecutorLost, "cannot be fetched"));
        report(&failures, Error::new(ErrorCode::Cancelled, "stopped"));
        assert_eq!(failures.cause("j").unwrap().code(), ErrorCode::ExecutorLost);
        report(&failures, Error::new(ErrorCode::SourceUnavailable, "a first try"));
        report(&failures, Error::new(ErrorCode::DataCorrupt, "file f is cut short"));
        report(&failures, Error::new(ErrorCode::Cancelled, "stopped"));
        assert_eq!(failures.cause("j").unwrap().code(), ErrorCode::DataCorrupt);
        assert_eq!(failures.close("j"), 5);
        assert!(failures.cause("j").is_none());
    }

    #[test]
    fn an_error_that_a_retry_made_good_is_not_the_cause() {
        let failures = Failures::default();
        failures.open("j");
        failures.report("j", 1, vec![2, 3], Error::new(ErrorCode::SourceUnavailable, "a first try"));
        failures.report("j", 2, vec![3], Error::new(ErrorCode::ExecutorLost, "cannot be fetched"));
        failures.forgive("j", 1, &[0, 1]);
        failures.forgive("j", 3, &[3]);
        assert_eq!(failures.cause("j").unwrap().code(), ErrorCode::SourceUnavailable);
        failures.forgive("j", 1, &[3, 4]);
        assert_eq!(failures.cause("j").unwrap().code(), ErrorCode::ExecutorLost);
    }

    #[test]
    fn reports_are_bounded() {
        let failures = Failures::default();
        failures.open("j");
        for n in 0..KEPT_PER_JOB * 2 {
            report(&failures, Error::internal(format!("{n}")));
        }
        assert_eq!(failures.cause("j").unwrap().message(), format!("{}", KEPT_PER_JOB * 2 - 1));
        assert_eq!(failures.close("j"), KEPT_PER_JOB);
        assert!(untyped(&"x".repeat(10_000)).message().len() < 1000);
    }
}
