//! Queries in GoogleSQL that are passed through: what columns they give, by a dry run.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use townlake_common::{Error, ErrorCode, Result};

use super::client::Client;
use super::discovery::{FoundSchema, Relation};
use super::error::Reason;
use crate::pass_through::{SCHEMA, TABLE, check_names};
use crate::{TableKeys, TableKind};

/// What a dry run tells.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    status: Status,
    #[serde(default)]
    statistics: Statistics,
    #[serde(default, rename = "jobReference")]
    job: JobReference,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    error_result: Option<Reason>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Statistics {
    query: QueryStatistics,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct QueryStatistics {
    schema: FoundSchema,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JobReference {
    location: String,
}

/// The query as a relation. As a subquery it can only read, and is one query.
///
/// Errors: `SOURCE_ERROR` with BigQuery's reason; `INVALID_QUERY` for columns without names of their own.
pub(crate) async fn relation(client: &Arc<Client>, sql: &str) -> Result<Relation> {
    // On lines of its own: it may end in a comment.
    let from = format!("(\n{sql}\n)");
    let doing = "plan the query";
    let query = json!({"query": format!("SELECT * FROM {from}"), "useLegacySql": false});
    let body = json!({"configuration": {"dryRun": true, "query": query}});
    let _place = client.place().await?;
    let answer: Answer = match client.post(doing, &client.settings.billing_project, &["jobs"], &[], &body).await? {
        Ok(answer) => answer,
        Err(refused) => return Err(client.server().refused(doing, refused.status, &refused.body)),
    };
    if let Some(reason) = answer.status.error_result {
        return Err(client.server().because(doing, None, &reason));
    }
    let columns = answer.statistics.query.schema.into_columns();
    let catalog = &client.server().catalog;
    if columns.is_empty() {
        let message = format!("catalog {catalog}: BigQuery does not say which columns the query gives");
        return Err(Error::new(ErrorCode::SourceError, message));
    }
    check_names(catalog, columns.iter().map(|column| column.name.as_str()))?;
    Ok(Relation {
        dataset: SCHEMA.to_string(),
        table: TABLE.to_string(),
        from: Some(from),
        kind: TableKind::View,
        is_stored: false,
        columns,
        rows: None,
        bytes: None,
        location: answer.job.location,
        keys: TableKeys::default(),
    })
}
