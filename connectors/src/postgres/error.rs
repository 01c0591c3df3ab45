//! What Postgres and its driver report, as our typed errors: catalog and host are named, URL, password and data are not.

use std::error::Error as _;
use std::io;

use tokio_postgres::error::{DbError, SqlState};
use townlake_common::{Error, ErrorCode};

/// Which server an error is about.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// The catalog's name.
    pub catalog: String,
    /// `host:port`, several with commas.
    pub host: String,
}

impl Server {
    /// The typed error of a driver error; `doing` says what we were about, for example `read table public.orders`.
    pub fn error(&self, doing: &str, error: tokio_postgres::Error) -> Error {
        match error.as_db_error() {
            // Its text may quote a row, and whoever logs an error logs its causes.
            Some(answer) if !tells_no_data(class_of(answer)) => self.answered(doing, answer),
            Some(answer) => self.answered(doing, answer).with_source(error),
            None => self.unreachable(doing, &error).with_source(error),
        }
    }

    /// A standby ended the statement, because what its primary removed was needed to read on.
    fn conflict(&self, doing: &str) -> Error {
        let Self { catalog, host } = self;
        let message = format!(
            "catalog {catalog}: the standby at {host} could not {doing} to the end: conflict with recovery (SQLSTATE 40001)"
        );
        Error::new(ErrorCode::SourceError, message)
            .with_hint("run the query again; hot_standby_feedback or max_standby_streaming_delay on the standby keep it from happening")
            .moment_lost()
    }

    /// A transaction that should join the query's snapshot could not begin.
    pub fn lost_snapshot(&self, error: tokio_postgres::Error) -> Error {
        // "invalid snapshot identifier" before 16, "snapshot does not exist" since; "could not import" when it ends that moment.
        let is_lost =
            [SqlState::INVALID_PARAMETER_VALUE, SqlState::UNDEFINED_OBJECT, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE];
        if !error.code().is_some_and(|code| is_lost.contains(code)) {
            return self.error("join the query's snapshot", error);
        }
        let Self { catalog, host } = self;
        let message = format!("catalog {catalog}: the query's snapshot in Postgres at {host} is gone");
        Error::new(ErrorCode::SourceError, message)
            .with_hint(
                "the query or its coordinator ended, the server restarted, or it is a standby that had a conflict with recovery: \
                 run the query again",
            )
            .with_source(error)
            .moment_lost()
    }

    /// The server did not let a transaction begin within `connect_timeout`.
    pub fn timed_out(&self, doing: &str) -> Error {
        let Self { catalog, host } = self;
        let message = format!("catalog {catalog}: Postgres at {host} did not answer in time: {doing}");
        Error::new(ErrorCode::SourceUnavailable, message)
            .with_hint(format!("the limit is `connect_timeout` in [catalogs.{catalog}]"))
            .retryable()
    }

    /// Several bytes came that are no answer of a Postgres server to what we asked.
    pub fn corrupt(&self, what: &str) -> Error {
        let message =
            format!("catalog {}: Postgres at {} sent what cannot be decoded: {what}", self.catalog, self.host);
        Error::new(ErrorCode::DataCorrupt, message)
    }

    /// A failure without an answer: connection refused, broken, TLS.
    fn unreachable(&self, doing: &str, error: &tokio_postgres::Error) -> Error {
        let (catalog, host) = (&self.catalog, &self.host);
        if let Some(reason) = tls_reason(error) {
            let message = format!("catalog {catalog}: TLS with Postgres at {host} failed: {reason}");
            return Error::new(ErrorCode::SourceDenied, message)
                .with_hint(format!("see `tls` and `tls_ca` in [catalogs.{catalog}]"));
        }
        let reason = match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
            Some(io) => io.kind().to_string(),
            None => error.to_string(),
        };
        let message = format!("catalog {catalog}: Postgres at {host} cannot be reached to {doing}: {reason}");
        Error::new(ErrorCode::SourceUnavailable, message)
            .with_hint("check that the server runs and accepts connections from here")
            .retryable()
    }

    /// A failure that the server itself told.
    fn answered(&self, doing: &str, answer: &DbError) -> Error {
        // Nothing that only reads on one snapshot fails to serialize otherwise.
        if *answer.code() == SqlState::T_R_SERIALIZATION_FAILURE && answer.message().contains("recovery") {
            return self.conflict(doing);
        }
        let (catalog, host) = (&self.catalog, &self.host);
        let state = answer.code();
        let class = class_of(answer);
        let text = match (class, answer.constraint(), answer.column()) {
            _ if tells_no_data(class) => format!(": {}", answer.message()),
            ("23", Some(constraint), _) => format!(": the constraint {constraint} does not allow it"),
            ("23", None, Some(column)) => format!(": column {column} must have a value"),
            _ => String::new(),
        };
        let message =
            format!("catalog {catalog}: Postgres at {host} refused to {doing}{text} (SQLSTATE {})", state.code());
        let error = Error::new(code_of(state, class), message);
        match class {
            _ if *state == SqlState::TOO_MANY_CONNECTIONS => error
                .with_hint(format!(
                    "lower `connections` in [catalogs.{catalog}], or let the server take more (max_connections)"
                ))
                .retryable(),
            "08" | "57" | "40" | "53" if *state != SqlState::QUERY_CANCELED => error.retryable(),
            _ => error,
        }
    }
}

/// The class of a SQLSTATE.
fn class_of(answer: &DbError) -> &str {
    answer.code().code().get(..2).unwrap_or_default()
}

/// Whether the server itself answered this.
pub(crate) fn is_answer(error: &Error) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<tokio_postgres::Error>());
    source.is_some_and(|error| error.as_db_error().is_some())
}

/// Whether the server has no connection left for us.
pub(crate) fn is_full(error: &Error) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<tokio_postgres::Error>());
    source.and_then(tokio_postgres::Error::code) == Some(&SqlState::TOO_MANY_CONNECTIONS)
}

/// Data exceptions (22), constraint texts (23) and texts of user functions (P0) may quote rows; these classes do not.
fn tells_no_data(class: &str) -> bool {
    matches!(class, "08" | "25" | "28" | "3D" | "3F" | "40" | "42" | "53" | "54" | "55" | "57" | "58")
}

fn code_of(state: &SqlState, class: &str) -> ErrorCode {
    match state {
        s if *s == SqlState::INSUFFICIENT_PRIVILEGE => ErrorCode::SourceDenied,
        s if *s == SqlState::UNDEFINED_TABLE => ErrorCode::TableNotFound,
        s if *s == SqlState::UNDEFINED_COLUMN => ErrorCode::ColumnNotFound,
        s if *s == SqlState::QUERY_CANCELED => ErrorCode::SourceError,
        _ => match class {
            "23" => ErrorCode::ConstraintViolation,
            "28" => ErrorCode::SourceDenied,
            "08" | "53" | "57" => ErrorCode::SourceUnavailable,
            _ => ErrorCode::SourceError,
        },
    }
}

/// The reason of a failed TLS handshake. rustls names certificates and alerts, never secrets.
fn tls_reason(error: &tokio_postgres::Error) -> Option<String> {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
            return Some(tls.to_string());
        }
        let wrapped = inner.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(tls) = wrapped.and_then(|w| w.downcast_ref::<rustls::Error>()) {
            return Some(tls.to_string());
        }
        cause = inner.source();
    }
    None
}
