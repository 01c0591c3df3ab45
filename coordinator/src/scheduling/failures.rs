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
pub(super) struct Failures(Mutex<HashMap<String, Vec<Error>>>);

impl Failures {
    /// From now on errors of this job are kept.
    pub(super) fn open(&self, job: &str) {
        self.0.lock().insert(job.to_string(), Vec::new());
    }

    /// Keeps an error; ignored for a job that is not open.
    pub(super) fn report(&self, job: &str, error: Error) {
        if let Some(errors) = self.0.lock().get_mut(job) {
            if errors.len() >= KEPT_PER_JOB {
                errors.remove(0);
            }
            errors.push(error);
        }
    }

    /// Whether an error of this job was reported.
    pub(super) fn any(&self, job: &str) -> bool {
        self.0.lock().get(job).is_some_and(|errors| !errors.is_empty())
    }

    /// Takes a job's errors and keeps no more.
    pub(super) fn close(&self, job: &str) -> Vec<Error> {
        self.0.lock().remove(job).unwrap_or_default()
    }

    /// The error that failed a job, by what its tasks reported: the last one that is not a mere consequence (of an executor
    /// that was lost, or of another task's error that had this one cancelled).
    pub(super) fn cause(&self, job: &str) -> Option<Error> {
        let rank = |error: &Error| match error.code() {
            ErrorCode::Cancelled => 0,
            ErrorCode::ExecutorLost => 1,
            _ => 2,
        };
        self.0.lock().get(job)?.iter().max_by_key(|error| rank(error)).cloned()
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

    #[test]
    fn the_cause_is_not_its_consequence() {
        let failures = Failures::default();
        failures.report("j", Error::new(ErrorCode::SourceError, "not open yet"));
        failures.open("j");
        assert!(failures.cause("j").is_none());
        failures.report("j", Error::new(ErrorCode::ExecutorLost, "cannot be fetched"));
        failures.report("j", Error::new(ErrorCode::Cancelled, "stopped"));
        assert_eq!(failures.cause("j").unwrap().code(), ErrorCode::ExecutorLost);
        failures.report("j", Error::new(ErrorCode::SourceUnavailable, "a first try"));
        failures.report("j", Error::new(ErrorCode::DataCorrupt, "file f is cut short"));
        failures.report("j", Error::new(ErrorCode::Cancelled, "stopped"));
        assert_eq!(failures.cause("j").unwrap().code(), ErrorCode::DataCorrupt);
        assert_eq!(failures.close("j").len(), 5);
        assert!(failures.cause("j").is_none());
    }

    #[test]
    fn reports_are_bounded() {
        let failures = Failures::default();
        failures.open("j");
        for n in 0..KEPT_PER_JOB * 2 {
            failures.report("j", Error::internal(format!("{n}")));
        }
        assert_eq!(failures.cause("j").unwrap().message(), format!("{}", KEPT_PER_JOB * 2 - 1));
        assert_eq!(failures.close("j").len(), KEPT_PER_JOB);
        assert!(untyped(&"x".repeat(10_000)).message().len() < 1000);
    }
}
