//! What ClickHouse and the way to it report, as our typed errors: catalog and host are named, URL, password and data are not.

use std::fmt;

use townlake_common::{Error, ErrorCode};

use crate::http::{innermost, is_tls};

/// TOO_MANY_SIMULTANEOUS_QUERIES
const TOO_MANY_QUERIES: i32 = 202;

/// Longest text of the server that is told.
const TEXT_LIMIT: usize = 300;
const SYNTAX_ERROR: i32 = 62;

/// Which server an error is about.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// The catalog's name.
    pub catalog: String,
    /// `host:port`.
    pub host: String,
}

impl Server {
    /// The typed error of an exception that the server told, by its text: `Code: 60. DB::Exception: …`. `doing` says what we
    /// were about, for example `read table db.orders`.
    pub fn exception(&self, doing: &str, code: Option<i32>, text: &str) -> Error {
        let (catalog, host) = (&self.catalog, &self.host);
        let Some(code) = code.or_else(|| code_in(text)) else {
            return self.corrupt("an error without a code");
        };
        let told = match code {
            SYNTAX_ERROR => place_of_syntax_error(text),
            code if tells_no_data(code) => reason(text),
            _ => None,
        };
        let told = told.map(|reason| format!(": {reason}")).unwrap_or_default();
        let name = name_of(code).map(|name| format!(" {name}")).unwrap_or_default();
        let message = format!("catalog {catalog}: ClickHouse at {host} refused to {doing}{told} (code {code}{name})");
        let error = Error::new(code_of(code), message);
        match code {
            TOO_MANY_QUERIES => error
                .with_hint(format!(
                    "lower `connections` in [catalogs.{catalog}], or raise max_concurrent_queries on the server"
                ))
                .with_source(Full)
                .retryable(),
            164 | 452 => error.with_hint("the account must be allowed to change settings: readonly = 2, or 0"),
            192..=195 | 516 => {
                error.with_hint(format!("see the account and its password in `url` of [catalogs.{catalog}]"))
            }
            209 | 210 | 425 | 999 => error.retryable(),
            _ => error,
        }
    }

    /// An answer that is no exception, with a status that is no success: of a proxy, most likely.
    pub fn refused(&self, doing: &str, status: u16) -> Error {
        let (catalog, host) = (&self.catalog, &self.host);
        let message = format!("catalog {catalog}: {host} answered with HTTP status {status} to: {doing}");
        match status {
            401 | 403 | 407 => Error::new(ErrorCode::SourceDenied, message),
            429 | 502..=504 => Error::new(ErrorCode::SourceUnavailable, message).retryable(),
            300..=399 => Error::new(ErrorCode::SourceError, message)
                .with_hint("a redirect is not followed: name its target in `url`"),
            _ => Error::new(ErrorCode::SourceError, message),
        }
    }

    /// The server could not be reached, or the connection to it broke.
    pub fn unreachable(&self, doing: &str, error: reqwest::Error) -> Error {
        let (catalog, host) = (&self.catalog, &self.host);
        // The URL has no password (it goes in headers), and is nobody's business all the same.
        let error = error.without_url();
        let reason = innermost(&error);
        if error.is_timeout() && error.is_connect() {
            return self.timed_out(doing).with_hint(format!("the limit is `connect_timeout` in [catalogs.{catalog}]"));
        }
        if is_tls(&error) {
            let message = format!("catalog {catalog}: TLS with ClickHouse at {host} failed: {reason}");
            return Error::new(ErrorCode::SourceDenied, message)
                .with_hint(format!("see `tls_ca` in [catalogs.{catalog}]"))
                .with_source(error);
        }
        let message = format!("catalog {catalog}: ClickHouse at {host} cannot be reached to {doing}: {reason}");
        Error::new(ErrorCode::SourceUnavailable, message)
            .with_hint("check that the server runs and accepts HTTP connections from here")
            .with_source(error)
            .retryable()
    }

    /// The server could not be reached in time.
    pub fn timed_out(&self, doing: &str) -> Error {
        let message = format!("catalog {}: ClickHouse at {} did not answer in time: {doing}", self.catalog, self.host);
        Error::new(ErrorCode::SourceUnavailable, message).retryable()
    }

    /// Bytes came that are no answer of a ClickHouse server to what we asked.
    pub fn corrupt(&self, what: &str) -> Error {
        let message =
            format!("catalog {}: ClickHouse at {} sent what cannot be decoded: {what}", self.catalog, self.host);
        Error::new(ErrorCode::DataCorrupt, message)
    }
}

/// The server runs as many statements as it may.
#[derive(Debug)]
struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too many simultaneous queries")
    }
}

impl std::error::Error for Full {}

/// Whether the server runs as many statements as it may.
pub(crate) fn is_full(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<Full>())
}

/// The code in an exception's text.
pub(crate) fn code_in(text: &str) -> Option<i32> {
    let digits = text.split("Code: ").nth(1)?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits.get(..end)?.parse().ok()
}

/// What an exception's text says, without the version, the statement and the stack.
fn reason(text: &str) -> Option<String> {
    let text = text.split("DB::Exception: ").nth(1)?;
    let ends = [
        ", e.what()",
        ": While processing",
        ": while ",
        ": While ",
        " In scope ",
        " in scope ",
        ". Stack trace",
        " (version ",
        "\n",
    ];
    let end = ends.iter().filter_map(|end| text.find(end)).min().unwrap_or(text.len());
    let reason: String = text.get(..end)?.chars().take(TEXT_LIMIT).collect();
    let reason = reason.trim().trim_end_matches('.');
    (!reason.is_empty()).then(|| reason.to_string())
}

/// Where a statement of somebody's own is no SQL. The text goes on with the statement itself, which may hold anything. It is sent between two lines
/// of ours.
fn place_of_syntax_error(text: &str) -> Option<String> {
    let (line, rest) = text.split_once("(line ")?.1.split_once(", col ")?;
    let line = line.parse::<u32>().ok()?.saturating_sub(1).max(1);
    let column: u32 = rest.split_once(')')?.0.parse().ok()?;
    Some(format!("syntax error at line {line}, column {column}"))
}

/// The name of a code whose text is not told.
fn name_of(code: i32) -> Option<&'static str> {
    Some(match code {
        6 => "CANNOT_PARSE_TEXT",
        8 => "THERE_IS_NO_COLUMN",
        27 => "CANNOT_PARSE_INPUT_ASSERTION_FAILED",
        36 => "BAD_ARGUMENTS",
        38 => "CANNOT_PARSE_DATE",
        41 => "CANNOT_PARSE_DATETIME",
        42 => "NUMBER_OF_ARGUMENTS_DOESNT_MATCH",
        43 => "ILLEGAL_TYPE_OF_ARGUMENT",
        53 => "TYPE_MISMATCH",
        SYNTAX_ERROR => "SYNTAX_ERROR",
        69 => "ARGUMENT_OUT_OF_BOUND",
        70 => "CANNOT_CONVERT_TYPE",
        72 => "CANNOT_PARSE_NUMBER",
        153 => "ILLEGAL_DIVISION",
        192 => "UNKNOWN_USER",
        193 => "WRONG_PASSWORD",
        194 => "REQUIRED_PASSWORD",
        195 => "IP_ADDRESS_NOT_ALLOWED",
        215 => "NOT_AN_AGGREGATE",
        349 => "CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN",
        386 => "NO_COMMON_TYPE",
        395 => "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO",
        407 => "DECIMAL_OVERFLOW",
        516 => "AUTHENTICATION_FAILED",
        _ => return None,
    })
}

/// Of these the text names tables, columns, grants and limits. Others may quote rows, literals or the account.
fn tells_no_data(code: i32) -> bool {
    matches!(
        code,
        10 | 16
            | 44
            | 46
            | 47
            | 48
            | 50
            | 60
            | 73
            | 81
            | 115
            | 158
            | 159
            | 160
            | 164
            | 181
            | 201
            | 202
            | 203
            | 209
            | 210
            | 218
            | 241
            | 242
            | 307
            | 344
            | 392
            | 394
            | 396
            | 425
            | 452
            | 497
    )
}

/// ClickHouse's `src/Common/ErrorCodes.cpp` in our terms.
fn code_of(code: i32) -> ErrorCode {
    match code {
        // UNKNOWN_TABLE, TABLE_IS_DROPPED
        60 | 218 => ErrorCode::TableNotFound,
        // NOT_FOUND_COLUMN_IN_BLOCK, NO_SUCH_COLUMN_IN_TABLE, UNKNOWN_IDENTIFIER
        10 | 16 | 47 => ErrorCode::ColumnNotFound,
        // READONLY, UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD, IP_ADDRESS_NOT_ALLOWED, UNKNOWN_ADDRESS_PATTERN_TYPE,
        // DATABASE_ACCESS_DENIED, SETTING_CONSTRAINT_VIOLATION, ACCESS_DENIED, UNKNOWN_ROLE, AUTHENTICATION_FAILED
        164 | 192..=196 | 291 | 452 | 497 | 511 | 516 => ErrorCode::SourceDenied,
        // QUOTA_EXCEEDED
        201 => ErrorCode::ResourceExhausted,
        // TOO_MANY_SIMULTANEOUS_QUERIES, SOCKET_TIMEOUT, NETWORK_ERROR, SYSTEM_ERROR, KEEPER_EXCEPTION
        202 | 209 | 210 | 425 | 999 => ErrorCode::SourceUnavailable,
        _ => ErrorCode::SourceError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server { catalog: "ch".into(), host: "127.0.0.1:8123".into() }
    }

    #[test]
    fn exceptions_are_classified_in_old_words_and_new() {
        let cases = [
            (
                "Code: 60, e.displayText() = DB::Exception: Table default.x doesn't exist., e.what() = DB::Exception",
                "Table default.x doesn't exist (code 60)",
                ErrorCode::TableNotFound,
            ),
            (
                "Code: 60. DB::Exception: Table db.x does not exist. (UNKNOWN_TABLE) (version 26.9.2.1)",
                "Table db.x does not exist. (UNKNOWN_TABLE) (code 60)",
                ErrorCode::TableNotFound,
            ),
            (
                "Code: 241. DB::Exception: Memory limit exceeded: While executing X",
                "Memory limit exceeded (code 241)",
                ErrorCode::SourceError,
            ),
            (
                "Code: 202. DB::Exception: Too many simultaneous queries",
                "queries (code 202)",
                ErrorCode::SourceUnavailable,
            ),
        ];
        for (text, told, code) in cases {
            let error = server().exception("read", None, text);
            assert_eq!(error.code(), code, "{text}");
            assert!(error.message().ends_with(told), "{error}");
        }
        assert!(server().exception("read", None, "Code: 202. DB::Exception: x").is_retryable());
        assert_eq!(server().exception("read", None, "hello").code(), ErrorCode::DataCorrupt);
    }

    #[test]
    fn no_account_and_no_row_is_told() {
        let secrets = [
            "Code: 193, e.displayText() = DB::Exception: Wrong password for user hunter2, e.what() = DB::Exception",
            "Code: 6. DB::Exception: Cannot parse string 'hunter2' as UInt8: syntax error",
            "Code: 395. DB::Exception: hunter2: while executing 'FUNCTION throwIf'",
            "Code: 47. DB::Exception: Unknown identifier `a` in scope SELECT a FROM t WHERE s = 'hunter2'",
            "Code: 62. DB::Exception: Syntax error: failed at position 24 (hunter2) (line 2, col 8): hunter2 FROM t. (SYNTAX_ERROR)",
            "Code: 62. DB::Exception: Syntax error: failed at position 24 ('(line hunter2, col 7)') (line 2, col 8): x",
        ];
        for text in secrets {
            let error = server().exception("read", None, text);
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        assert_eq!(server().exception("x", Some(516), "").code(), ErrorCode::SourceDenied);
    }

    #[test]
    fn what_is_not_told_has_a_name_and_a_place() {
        let told = |text: &str| server().exception("plan the query", None, text).message().to_string();
        let syntax =
            "Code: 62. DB::Exception: Syntax error: failed at position 24 ('FRM') (line 2, col 8): FRM t. Expected: x";
        assert!(told(syntax).ends_with("plan the query: syntax error at line 1, column 8 (code 62 SYNTAX_ERROR)"));
        assert!(told("Code: 62. DB::Exception: Syntax error").ends_with("plan the query (code 62 SYNTAX_ERROR)"));
        let password = server().exception("read", None, "Code: 193, e.displayText() = DB::Exception: Wrong password");
        assert!(password.message().ends_with("(code 193 WRONG_PASSWORD)"), "{password}");
        assert!(password.hint().is_some_and(|hint| hint.contains("[catalogs.ch]")), "{password:?}");
    }
}
