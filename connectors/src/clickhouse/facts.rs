//! What a server can, and which settings its statements run with.
//!
//! Asked for with each plan rather than once: a server may be upgraded, and an account changed, while we run.

use std::sync::Arc;

use serde::Deserialize;
use townlake_common::{Error, ErrorCode, QueryId, Result};

use super::client::{Client, Settings};
use super::error::Server;
use super::sql::literal;

/// What every statement must run with, where the server knows the setting and its value is another.
const REQUIRED: &[(&str, &str)] = &[
    // An answer that a limit of the account cuts short must be an error, not fewer rows.
    ("timeout_overflow_mode", "throw"),
    ("timeout_overflow_mode_leaf", "throw"),
    ("read_overflow_mode", "throw"),
    ("read_overflow_mode_leaf", "throw"),
    ("result_overflow_mode", "throw"),
    ("group_by_overflow_mode", "throw"),
    ("sort_overflow_mode", "throw"),
    ("distinct_overflow_mode", "throw"),
    ("set_overflow_mode", "throw"),
    ("join_overflow_mode", "throw"),
    ("transfer_overflow_mode", "throw"),
    ("limit", "0"),
    ("offset", "0"),
    // A group of nothing is what it is by default.
    ("aggregate_functions_null_for_empty", "0"),
    ("group_by_use_nulls", "0"),
    // More rows behind the answer.
    ("extremes", "0"),
];

/// What statements run with besides, where we may.
const WANTED: &[(&str, &str)] = &[
    // Rows of a batch.
    ("max_block_size", "16384"),
    // Filters and names of parts may be long.
    ("max_query_size", "16777216"),
    // A client that reads slowly is no dead client.
    ("send_timeout", "86400"),
    ("http_send_timeout", "86400"),
    ("cancel_http_readonly_queries_on_client_close", "1"),
    // What ArrowStream looks like.
    (STRING_AS_STRING, "0"),
    ("output_format_arrow_fixed_string_as_fixed_byte_array", "1"),
    ("output_format_arrow_low_cardinality_as_dictionary", "0"),
    ("output_format_arrow_compression_method", "none"),
];

/// Servers that know this setting know the format ArrowStream well enough.
const STRING_AS_STRING: &str = "output_format_arrow_string_as_string";
/// 0: may write and change settings; 1: neither; 2: may change settings.
const READONLY: &str = "readonly";
/// Not a setting: whether `system.tables` has comments.
const TABLE_COMMENT: &str = "system.tables.comment";

/// What a server can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Whether splits are read as ArrowStream rather than RowBinary.
    pub arrow: bool,
    /// Of statements that read splits.
    pub settings: Settings,
    /// Whether `system.tables` has comments.
    pub has_table_comments: bool,
}

#[derive(Deserialize)]
struct Known {
    name: String,
    value: String,
}

impl Facts {
    /// Asks the server.
    ///
    /// Errors: `SOURCE_DENIED` for an account whose answers may be cut short and that may not change it.
    pub async fn of(client: &Arc<Client>, query: &QueryId) -> Result<Self> {
        let names = REQUIRED.iter().chain(WANTED).map(|(name, _)| literal(name)).chain([literal(READONLY)]);
        let names = names.collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT name, toString(value) AS value FROM system.settings WHERE name IN ({names}) UNION ALL \
             SELECT {}, '' FROM system.columns \
             WHERE database = 'system' AND table = 'tables' AND name = 'comment' FORMAT JSONEachRow",
            literal(TABLE_COMMENT)
        );
        let known: Vec<Known> = client.look_up(query, "ask what it can", &sql).await?;
        Self::from_known(client.server(), &known)
    }

    fn from_known(server: &Server, known: &[Known]) -> Result<Self> {
        let value = |name: &str| known.iter().find(|known| known.name == name).map(|known| known.value.as_str());
        let differs = |(name, wanted): &&(&str, &str)| value(name).is_some_and(|value| value != *wanted);
        let has_table_comments = value(TABLE_COMMENT).is_some();
        if value(READONLY) == Some("1") {
            if let Some((name, _)) = REQUIRED.iter().find(differs) {
                return Err(cut_short(server, name));
            }
            // RowBinary is the same with any settings.
            return Ok(Self { arrow: false, settings: Settings::new(), has_table_comments });
        }
        let mut settings: Settings = Vec::new();
        settings.extend(
            REQUIRED.iter().chain(WANTED).filter(differs).map(|(name, value)| (name.to_string(), value.to_string())),
        );
        if value(READONLY) == Some("0") {
            settings.push((READONLY.to_string(), "2".to_string()));
        }
        Ok(Self { arrow: value(STRING_AS_STRING).is_some(), settings, has_table_comments })
    }
}

fn cut_short(server: &Server, setting: &str) -> Error {
    let Server { catalog, host } = server;
    let message = format!(
        "catalog {catalog}: ClickHouse at {host} may cut answers to this account short ({setting}), and does not let us change it"
    );
    Error::new(ErrorCode::SourceDenied, message)
        .with_hint("give the account readonly = 2 rather than 1, or change its profile")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(known: &[(&str, &str)]) -> Result<Facts> {
        let known: Vec<_> =
            known.iter().map(|(name, value)| Known { name: name.to_string(), value: value.to_string() }).collect();
        Facts::from_known(&Server { catalog: "ch".into(), host: "h".into() }, &known)
    }

    fn pairs(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn only_what_is_known_and_differs_is_set() {
        let old = facts(&[("readonly", "0"), ("extremes", "0"), ("read_overflow_mode", "break")]).unwrap();
        assert_eq!(old.settings, pairs(&[("read_overflow_mode", "throw"), ("readonly", "2")]));
        assert!(!old.arrow && !old.has_table_comments);
        let new = facts(&[("readonly", "2"), (STRING_AS_STRING, "1"), (TABLE_COMMENT, "")]).unwrap();
        assert_eq!(new.settings, pairs(&[(STRING_AS_STRING, "0")]));
        assert!(new.arrow && new.has_table_comments);
    }

    #[test]
    fn an_account_that_may_change_nothing_gets_row_binary_or_an_error() {
        let plain = facts(&[("readonly", "1"), ("limit", "0"), (STRING_AS_STRING, "1")]).unwrap();
        assert!(!plain.arrow && plain.settings.is_empty());
        for (name, value) in [("limit", "10"), ("result_overflow_mode", "break"), ("extremes", "1")] {
            let error = facts(&[("readonly", "1"), (name, value)]).unwrap_err();
            assert_eq!(error.code(), ErrorCode::SourceDenied);
            assert!(error.message().contains(name), "{error}");
        }
    }
}
