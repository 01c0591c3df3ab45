//! What BigQuery and the way to it report, as our typed errors: catalog, host and table are named, credentials and data are not.

use serde::Deserialize;
use tonic::{Code, Status};
use townlake_common::{Error, ErrorCode};

/// Longest text of the server that is told.
const TEXT_LIMIT: usize = 300;

/// Which server an error is about.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// The catalog's name.
    pub catalog: String,
    /// `host`, or `host:port` of an emulator.
    pub host: String,
}

/// The body of an error of a Google API.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Refusal {
    #[serde(default)]
    error: Body,
}

#[derive(Debug, Default, Deserialize)]
struct Body {
    #[serde(default)]
    message: String,
    #[serde(default)]
    errors: Vec<Reason>,
}

/// One reason, as REST answers and jobs have it.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Reason {
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub message: String,
}

impl Refusal {
    /// The first reason.
    fn reason(self) -> Reason {
        let Body { message, errors } = self.error;
        let reason = errors.into_iter().next().map(|first| first.reason).unwrap_or_default();
        Reason { reason, message }
    }
}

impl Server {
    /// The typed error of a REST answer that is no success. `doing` says what we were about, for example `read table d.t`.
    pub fn refused(&self, doing: &str, status: u16, body: &[u8]) -> Error {
        let reason = serde_json::from_slice::<Refusal>(body).unwrap_or_default().reason();
        self.because(doing, Some(status), &reason)
    }

    /// The typed error of a reason, which a REST answer or a failed job gives.
    pub fn because(&self, doing: &str, status: Option<u16>, reason: &Reason) -> Error {
        let Server { catalog, host } = self;
        let word = reason.reason.as_str();
        let code = match (word, status) {
            ("notFound", _) | ("", Some(404)) => ErrorCode::TableNotFound,
            ("accessDenied" | "authError" | "required" | "billingNotEnabled" | "forbidden", _)
            | ("", Some(401 | 403)) => ErrorCode::SourceDenied,
            ("bytesBilledLimitExceeded" | "quotaExceeded" | "billingTierLimitExceeded", _) => {
                ErrorCode::ResourceExhausted
            }
            ("rateLimitExceeded" | "jobRateLimitExceeded" | "backendError" | "internalError" | "timeout", _)
            | (_, Some(429 | 500 | 502..=504)) => ErrorCode::SourceUnavailable,
            _ => ErrorCode::SourceError,
        };
        // Others may quote a statement or a value.
        let tells_no_data = matches!(
            code,
            ErrorCode::TableNotFound
                | ErrorCode::SourceDenied
                | ErrorCode::ResourceExhausted
                | ErrorCode::SourceUnavailable
        );
        let told = if tells_no_data { told(&reason.message) } else { String::new() };
        let known = if word.is_empty() { status.map(|status| format!("HTTP {status}")) } else { Some(shown(word)) };
        let known = known.map(|known| format!(" ({known})")).unwrap_or_default();
        let message = format!("catalog {catalog}: BigQuery at {host} refused to {doing}{told}{known}");
        let error = Error::new(code, message);
        match (code, word) {
            (_, "bytesBilledLimitExceeded") => error.with_hint(self.guard_hint()),
            (ErrorCode::SourceUnavailable, _) => error.retryable(),
            _ => error,
        }
    }

    /// The typed error of a gRPC call.
    pub fn status(&self, doing: &str, status: &Status) -> Error {
        let Server { catalog, host } = self;
        let code = match status.code() {
            Code::NotFound => ErrorCode::TableNotFound,
            Code::PermissionDenied | Code::Unauthenticated => ErrorCode::SourceDenied,
            Code::ResourceExhausted => ErrorCode::ResourceExhausted,
            _ if is_broken(status) => ErrorCode::SourceUnavailable,
            Code::DeadlineExceeded | Code::Aborted => ErrorCode::SourceUnavailable,
            _ => ErrorCode::SourceError,
        };
        let text = status.message();
        // The other texts may quote a row restriction, or rows.
        let is_plain =
            matches!(code, ErrorCode::SourceDenied | ErrorCode::ResourceExhausted | ErrorCode::SourceUnavailable)
                || status.code() == Code::FailedPrecondition
                || text.contains("without a filter over column");
        let told = if is_plain { told(text) } else { String::new() };
        let message = format!("catalog {catalog}: BigQuery at {host} refused to {doing}{told} ({:?})", status.code());
        let error = Error::new(code, message);
        match status.code() {
            _ if code == ErrorCode::SourceUnavailable => error.retryable(),
            Code::FailedPrecondition => {
                error.with_hint("a read session ends after some hours: run the query again").retryable()
            }
            _ => error,
        }
    }

    /// The server could not be reached, or the connection to it broke.
    pub fn unreachable(&self, doing: &str, error: reqwest::Error) -> Error {
        let error = error.without_url();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let message =
            format!("catalog {}: BigQuery at {} cannot be reached to {doing}: {cause}", self.catalog, self.host);
        Error::new(ErrorCode::SourceUnavailable, message)
            .with_hint("check that this node reaches it over HTTPS (an emulator: that it runs)")
            .with_source(error)
            .retryable()
    }

    /// The server did not answer in time. `setting`: the one that says how long that is, where there is one.
    pub fn timed_out(&self, doing: &str, seconds: u64, setting: Option<&str>) -> Error {
        let Server { catalog, host } = self;
        let message = format!("catalog {catalog}: BigQuery at {host} did not answer within {seconds} s: {doing}");
        Error::new(ErrorCode::SourceUnavailable, message)
            .with_hint(match setting {
                Some(setting) => format!("the limit is `{setting}` in [catalogs.{catalog}]"),
                None => "a look-up may take no longer, and no setting changes that: try again".to_string(),
            })
            .retryable()
    }

    /// Bytes came that are no answer to what we asked.
    pub fn corrupt(&self, what: &str) -> Error {
        let message =
            format!("catalog {}: BigQuery at {} sent what cannot be decoded: {what}", self.catalog, self.host);
        Error::new(ErrorCode::DataCorrupt, message)
    }

    /// What the cost guard's refusals advise.
    pub fn guard_hint(&self) -> String {
        format!(
            "read fewer columns, filter on the partition column, or raise `maximum_bytes_billed` in [catalogs.{}]",
            self.catalog
        )
    }
}

/// Whether the connection broke under a call, or the server was away: the same call may go on later. Google's clients take the same for it. We
/// cancel by dropping, so that a cancel that we hear of is our transport's.
pub(crate) fn is_broken(status: &Status) -> bool {
    let resets = [
        "RST_STREAM",
        "EOS on DATA frame",
        "h2 protocol error",
        "stream closed",
        "Received Rst",
        "connection error",
        "transport error",
    ];
    match status.code() {
        Code::Unavailable | Code::Cancelled => true,
        Code::Internal | Code::Unknown => resets.iter().any(|text| status.message().contains(text)),
        _ => false,
    }
}

/// The first line of a text, cut, as the end of a sentence.
fn told(text: &str) -> String {
    let line = shown(text.lines().next().unwrap_or_default());
    if line.is_empty() { line } else { format!(": {line}") }
}

/// A text without control characters, cut.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_LIMIT).collect::<String>().trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server { catalog: "bq".into(), host: "bigquery.googleapis.com".into() }
    }

    #[test]
    fn refusals_are_classified() {
        let body = |reason: &str, message: &str| {
            format!("{{\"error\":{{\"code\":1,\"message\":\"{message}\",\"errors\":[{{\"reason\":\"{reason}\"}}]}}}}")
        };
        let cases = [
            (404, "notFound", ErrorCode::TableNotFound, false, true),
            (403, "accessDenied", ErrorCode::SourceDenied, false, true),
            (403, "rateLimitExceeded", ErrorCode::SourceUnavailable, true, true),
            (403, "quotaExceeded", ErrorCode::ResourceExhausted, false, true),
            (503, "backendError", ErrorCode::SourceUnavailable, true, true),
            (400, "invalidQuery", ErrorCode::SourceError, false, false),
            (400, "bytesBilledLimitExceeded", ErrorCode::ResourceExhausted, false, true),
        ];
        for (status, reason, code, retryable, tells) in cases {
            let error = server().refused("read table d.t", status, body(reason, "x hunter2").as_bytes());
            assert_eq!((error.code(), error.is_retryable()), (code, retryable), "{error}");
            assert!(error.message().contains(reason) && error.message().contains("d.t"), "{error}");
            assert_eq!(error.message().contains("hunter2"), tells, "{error}");
        }
        assert_eq!(server().refused("x", 401, b"<html>").code(), ErrorCode::SourceDenied);
        assert_eq!(server().refused("x", 502, b"").code(), ErrorCode::SourceUnavailable);
    }

    #[test]
    fn statuses_are_classified_and_quote_no_filter() {
        let error = server().status("read", &Status::invalid_argument("Filter is 's = \\'hunter2\\''"));
        assert_eq!(error.code(), ErrorCode::SourceError);
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        let error =
            server().status("read", &Status::permission_denied("bigquery.readsessions.create is missing\nmore"));
        assert_eq!(error.code(), ErrorCode::SourceDenied);
        assert!(error.message().contains("readsessions.create is missing") && !error.message().contains("more"));
        assert!(server().status("read", &Status::unavailable("x")).is_retryable());
    }
}
