//! The one list of public error codes. A code is never renamed and never reused: users search for it, clients match on it.

use serde::{Deserialize, Serialize};
use tonic::Code;

macro_rules! error_codes {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $text:literal => $grpc:ident ),+ $(,)?) => {
        /// What went wrong, in the vocabulary that users and clients rely on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode { $( $(#[doc = $doc])+ #[serde(rename = $text)] $variant ),+ }

        impl ErrorCode {
            /// Every code, in the order of the list.
            pub const ALL: &'static [ErrorCode] = &[ $( ErrorCode::$variant ),+ ];

            /// The stable public text, for example `TABLE_NOT_FOUND`.
            pub fn as_str(self) -> &'static str {
                match self { $( ErrorCode::$variant => $text ),+ }
            }

            /// The gRPC status under which the error crosses the wire.
            pub fn grpc(self) -> Code {
                match self { $( ErrorCode::$variant => Code::$grpc ),+ }
            }

            /// The code whose public text is `text`.
            pub fn parse(text: &str) -> Option<ErrorCode> {
                match text { $( $text => Some(ErrorCode::$variant), )+ _ => None }
            }
        }
    };
}

error_codes! {
    /// The statement does not parse.
    SyntaxError = "SYNTAX_ERROR" => InvalidArgument,
    /// One call carried several statements, or none.
    NotOneStatement = "NOT_ONE_STATEMENT" => InvalidArgument,
    /// The statement parses and makes no sense: wrong types, ambiguous names, a bad argument.
    InvalidQuery = "INVALID_QUERY" => InvalidArgument,
    /// A value that was given (a parameter, a setting, an option) is not acceptable.
    InvalidArgument = "INVALID_ARGUMENT" => InvalidArgument,
    /// The statement is understood and deliberately not offered.
    NotSupported = "NOT_SUPPORTED" => Unimplemented,
    /// No such catalog, or none that this principal may see.
    CatalogNotFound = "CATALOG_NOT_FOUND" => NotFound,
    /// No such schema, or none that this principal may see.
    SchemaNotFound = "SCHEMA_NOT_FOUND" => NotFound,
    /// No such table, or none that this principal may see.
    TableNotFound = "TABLE_NOT_FOUND" => NotFound,
    /// No such column in the tables of the query.
    ColumnNotFound = "COLUMN_NOT_FOUND" => NotFound,
    /// No such function.
    FunctionNotFound = "FUNCTION_NOT_FOUND" => NotFound,
    /// The table has no such snapshot, branch, tag, or none at that time.
    SnapshotNotFound = "SNAPSHOT_NOT_FOUND" => NotFound,
    /// No such query, or not this principal's.
    QueryNotFound = "QUERY_NOT_FOUND" => NotFound,
    /// The object to create is there already.
    AlreadyExists = "ALREADY_EXISTS" => AlreadyExists,
    /// Name or password wrong, token unknown, or no credentials given.
    Unauthenticated = "UNAUTHENTICATED" => Unauthenticated,
    /// Known, and not allowed to do this.
    PermissionDenied = "PERMISSION_DENIED" => PermissionDenied,
    /// The ticket is forged, damaged or another principal's.
    TicketInvalid = "TICKET_INVALID" => PermissionDenied,
    /// The ticket was good and its time is over.
    TicketExpired = "TICKET_EXPIRED" => PermissionDenied,
    /// The session is unknown or closed.
    SessionNotFound = "SESSION_NOT_FOUND" => Unauthenticated,
    /// The query was cancelled by its user, an administrator, or because its client went away.
    Cancelled = "CANCELLED" => Cancelled,
    /// The query ran into a time limit of the configuration or session.
    Timeout = "TIMEOUT" => DeadlineExceeded,
    /// The query needs more memory than its limit and could not spill.
    MemoryLimit = "MEMORY_LIMIT" => ResourceExhausted,
    /// A bounded resource (queue, connection budget, message size) is used up.
    ResourceExhausted = "RESOURCE_EXHAUSTED" => ResourceExhausted,
    /// No executor is alive to run the query.
    NoExecutors = "NO_EXECUTORS" => Unavailable,
    /// An executor was lost and the query could not be recovered.
    ExecutorLost = "EXECUTOR_LOST" => Unavailable,
    /// A source (Postgres, a catalog, an object store) cannot be reached.
    SourceUnavailable = "SOURCE_UNAVAILABLE" => Unavailable,
    /// A source refused our credentials or our rights there.
    SourceDenied = "SOURCE_DENIED" => FailedPrecondition,
    /// A source answered with an error of its own.
    SourceError = "SOURCE_ERROR" => Aborted,
    /// What a source or a file holds cannot be decoded.
    DataCorrupt = "DATA_CORRUPT" => DataLoss,
    /// A file that table metadata names is not there.
    FileNotFound = "FILE_NOT_FOUND" => DataLoss,
    /// The table uses a format feature that would be read wrongly, so it is refused.
    FormatNotSupported = "FORMAT_NOT_SUPPORTED" => Unimplemented,
    /// Another writer changed the table at the same time.
    CommitConflict = "COMMIT_CONFLICT" => Aborted,
    /// The catalog did not answer: the commit may or may not have happened.
    CommitStateUnknown = "COMMIT_STATE_UNKNOWN" => Unknown,
    /// A row broke a constraint (NOT NULL, a type's range).
    ConstraintViolation = "CONSTRAINT_VIOLATION" => InvalidArgument,
    /// A division by zero, an overflow, a cast that fails.
    ArithmeticError = "ARITHMETIC_ERROR" => InvalidArgument,
    /// The configuration file or an override of it is wrong.
    ConfigInvalid = "CONFIG_INVALID" => FailedPrecondition,
    /// Membership (etcd) cannot be reached.
    MembershipUnavailable = "MEMBERSHIP_UNAVAILABLE" => Unavailable,
    /// The store of the coordinator's state cannot be used.
    StoreUnavailable = "STORE_UNAVAILABLE" => Unavailable,
    /// A fault of ours. Please report it.
    Internal = "INTERNAL" => Internal,
}

impl ErrorCode {
    /// The HTTP status for the doors that speak HTTP.
    pub fn http(self) -> u16 {
        match self.grpc() {
            Code::InvalidArgument | Code::FailedPrecondition => 400,
            Code::Unauthenticated => 401,
            Code::PermissionDenied => 403,
            Code::NotFound => 404,
            Code::AlreadyExists | Code::Aborted => 409,
            Code::ResourceExhausted => 429,
            Code::Unimplemented => 501,
            Code::Unavailable => 503,
            Code::DeadlineExceeded => 504,
            _ => 500,
        }
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
