//! The typed error that every crate returns and that crosses every wire whole.
//!
//! Policy: an error is logged once, by whoever handles it; a message says what failed, names the thing at fault and holds
//! no secret; whoever can say what to do about it adds a hint. Nothing is ever parsed back out of a message.

use std::fmt;
use std::panic::Location;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::ErrorCode;

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The metadata header that carries the typed error over gRPC (base64 of the JSON of [`Payload`]).
const HEADER: &str = "townlake-error";

/// What failed: a stable code, a message for people, a hint what to do, and whether a retry helps.
///
/// Boxed inside, so that `Result<T, Error>` stays one pointer wide.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    payload: Payload,
    location: &'static Location<'static>,
    source: Option<std::sync::Arc<dyn std::error::Error + Send + Sync>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Payload {
    code: ErrorCode,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(default)]
    retryable: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    moment_lost: bool,
}

impl Error {
    /// An error with its code and a message that names the thing at fault. Not retryable unless said so.
    #[track_caller]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let payload = Payload { code, message: message.into(), hint: None, retryable: false, moment_lost: false };
        Self(Box::new(Inner { payload, location: Location::caller(), source: None }))
    }

    /// A fault of ours: an invariant that does not hold.
    #[track_caller]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, message)
    }

    /// Adds what the user can do about it.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.payload.hint = Some(hint.into());
        self
    }

    /// Keeps the underlying error for the log. Its text is not shown to the user: it may hold data or secrets.
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(std::sync::Arc::new(source));
        self
    }

    /// The same error with the thing that it happened in named before its message.
    pub fn within(mut self, what: &str) -> Self {
        self.0.payload.message = format!("{what}: {}", self.0.payload.message);
        self
    }

    /// Marks that the same call may succeed when it is made again.
    pub fn retryable(mut self) -> Self {
        self.0.payload.retryable = true;
        self
    }

    /// Marks that the moment at which the query reads a source is gone: a query that is planned anew, at another moment, may succeed, and
    /// the same plan cannot.
    pub fn moment_lost(mut self) -> Self {
        self.0.payload.moment_lost = true;
        self.retryable()
    }

    /// The stable public code.
    pub fn code(&self) -> ErrorCode {
        self.0.payload.code
    }

    /// The message for people, without code and hint.
    pub fn message(&self) -> &str {
        &self.0.payload.message
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<&str> {
        self.0.payload.hint.as_deref()
    }

    /// Whether the same call may succeed when it is made again.
    pub fn is_retryable(&self) -> bool {
        self.0.payload.retryable
    }

    /// Whether the moment at which the query reads a source is gone.
    pub fn is_moment_lost(&self) -> bool {
        self.0.payload.moment_lost
    }

    /// Where in our source the error was made.
    pub fn location(&self) -> &'static Location<'static> {
        self.0.location
    }

    /// The wire form (JSON), for messages of ours that carry an error.
    pub fn to_wire(&self) -> String {
        serde_json::to_string(&self.0.payload).unwrap_or_default()
    }

    /// The error that [`Error::to_wire`] wrote; text that is not one becomes an internal error that quotes nothing.
    #[track_caller]
    pub fn from_wire(text: &str) -> Self {
        match serde_json::from_str::<Payload>(text) {
            Ok(payload) => Self(Box::new(Inner { payload, location: Location::caller(), source: None })),
            Err(_) => Self::internal("a peer reported an error that could not be decoded"),
        }
    }

    /// The typed error of a gRPC status: ours where the peer sent one, else one by the status code, prefixed by `what`.
    #[track_caller]
    pub fn from_status(what: &str, status: &Status) -> Self {
        let header = status.metadata().get(HEADER).and_then(|v| v.to_str().ok());
        let decoded = header.and_then(|text| STANDARD_NO_PAD.decode(text).ok());
        if let Some(json) = decoded.and_then(|bytes| String::from_utf8(bytes).ok()) {
            return Self::from_wire(&json);
        }
        let code = match status.code() {
            Code::Unauthenticated => ErrorCode::Unauthenticated,
            Code::PermissionDenied => ErrorCode::PermissionDenied,
            Code::Cancelled => ErrorCode::Cancelled,
            Code::DeadlineExceeded => ErrorCode::Timeout,
            Code::InvalidArgument => ErrorCode::InvalidArgument,
            Code::Unimplemented => ErrorCode::NotSupported,
            Code::ResourceExhausted => ErrorCode::ResourceExhausted,
            Code::Unavailable => ErrorCode::SourceUnavailable,
            _ => ErrorCode::Internal,
        };
        let error = Self::new(code, format!("{what}: {}", status.message()));
        if status.code() == Code::Unavailable { error.retryable() } else { error }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code(), self.message())?;
        match self.hint() {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} [{}:{}]", self.location().file(), self.location().line())?;
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            write!(f, "; caused by: {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source.as_ref() as &(dyn std::error::Error + 'static))
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut status = Status::new(error.code().grpc(), error.to_string());
        let header = STANDARD_NO_PAD.encode(error.to_wire());
        if let Ok(value) = MetadataValue::try_from(header) {
            status.metadata_mut().insert(HEADER, value);
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crosses_grpc_whole() {
        let error = Error::new(ErrorCode::TableNotFound, "table lake.tpch.order does not exist")
            .with_hint("did you mean lake.tpch.orders?")
            .moment_lost();
        let status = Status::from(error.clone());
        let back = Error::from_status("query", &status);
        assert_eq!(back.to_wire(), error.to_wire());
        assert!(back.is_retryable() && back.is_moment_lost());
        assert_eq!(status.code(), Code::NotFound);
    }

    #[test]
    fn every_code_has_a_text_of_its_own() {
        let mut texts: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(*code));
        }
    }
}
