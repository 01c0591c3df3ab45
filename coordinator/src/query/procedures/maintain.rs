//! Procedures that look after old snapshots, files and manifests.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::Utc;
use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use datafusion::arrow::record_batch::RecordBatch;
use townlake_common::{Error, ErrorCode, Result};
use townlake_lake::{Expiration, Leftovers, OrphanFile, OrphanSearch, PositionDeletes, RowOrder};

use super::arguments::Arguments;
use super::{Call, Value, one_row};
use crate::query::change_table::uninterrupted;
use crate::query::changes::{Changed, Optimization, SMALL_FILE_BYTES, collect, commit};
use crate::query::create_table::parse_row_order;
use crate::query::service::Run;

/// The order that `strategy` and `sort_order` ask for, as Spark has them.
fn row_order(arguments: &Arguments) -> Result<Option<RowOrder>> {
    let invalid = |message: String| Error::new(ErrorCode::InvalidArgument, message);
    let order = arguments.optional_text("sort_order");
    let sorts = match arguments.optional_text("strategy").map(|strategy| strategy.to_lowercase()).as_deref() {
        None => order.is_some(),
        Some("sort") => true,
        Some("binpack") if order.is_none() => false,
        Some("binpack") => return Err(invalid("sort_order: the strategy binpack has no order".to_string())),
        Some(other) => {
            return Err(invalid(format!("strategy: '{other}' is not one")).with_hint("'binpack' or 'sort'"));
        }
    };
    let parsed = |text: String| {
        parse_row_order(&text).map_err(|error| {
            invalid(format!("sort_order: '{text}' is not an order: {}", error.message()))
                .with_hint("'column DESC NULLS LAST, …' or 'zorder(column, …)'")
                .with_source(error)
        })
    };
    match order {
        Some(text) => parsed(text).map(Some),
        None => Ok(sorts.then_some(RowOrder::OfTable)),
    }
}

impl Run<'_> {
    /// `optimize`.
    pub(super) async fn call_optimize(&self, call: &Call<'_>) -> Result<RecordBatch> {
        let arguments = call.arguments;
        let target = arguments.size("target_size")?;
        let threshold = arguments.size("file_size_threshold")?;
        // A file of three quarters of the target is no small one (as Spark has it).
        let threshold = threshold.or(target.map(|target| target / 4 * 3)).unwrap_or(SMALL_FILE_BYTES);
        let order = row_order(arguments)?;
        let wanted = Optimization { threshold, target, order, filter: arguments.optional_text("where") };
        let done = self.optimize(&call.table, &wanted).await?;
        let row = vec![
            Value::Count(done.rewritten_files as u64),
            Value::Count(done.added_files as u64),
            Value::Count(done.rewritten_bytes),
        ];
        one_row(call.procedure, row)
    }

    /// `expire_snapshots`. What queries of this coordinator read stays.
    pub(super) async fn expire_snapshots(&self, call: &Call<'_>) -> Result<RecordBatch> {
        let table = self.loaded(call).await?;
        let expiration = Expiration {
            now_ms: Utc::now().timestamp_millis(),
            older_than_ms: call.arguments.time("older_than"),
            retain_last: call.arguments.count("retain_last")?,
            pinned: BTreeSet::new(),
        };
        let (lake, registry, own) =
            (Arc::clone(&call.lake), Arc::clone(self.service.registry()), self.tracked.context.id.clone());
        let expiring = async move {
            let pinned = || registry.pinned_snapshots(&table, &own);
            lake.expire_snapshots(&table, expiration, pinned).await
        };
        let expiry = uninterrupted(expiring).await?;
        let files = expiry.files;
        let counts = [
            expiry.snapshots,
            expiry.references,
            files.data_files,
            files.position_delete_files,
            files.equality_delete_files,
            files.manifests,
            files.manifest_lists,
            files.statistics_files,
            files.left,
        ];
        one_row(call.procedure, counts.map(Value::Count).into())
    }

    /// `remove_orphan_files`.
    pub(super) async fn remove_orphan_files(&self, call: &Call<'_>) -> Result<RecordBatch> {
        let table = self.loaded(call).await?;
        let search =
            OrphanSearch { now_ms: Utc::now().timestamp_millis(), older_than_ms: call.arguments.time("older_than") };
        let dry_run = call.arguments.boolean("dry_run").unwrap_or(false);
        let files = call.lake.remove_orphan_files(&table, search, dry_run).await?;
        let column = |value: fn(&OrphanFile) -> i64| files.iter().map(value).collect::<Vec<i64>>();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(files.iter().map(|file| Some(file.uri.as_str())).collect::<StringArray>()),
            Arc::new(Int64Array::from(column(|file| i64::try_from(file.size).unwrap_or(i64::MAX)))),
            Arc::new(
                TimestampMicrosecondArray::from(column(|file| file.last_modified.timestamp_micros()))
                    .with_timezone("UTC"),
            ),
        ];
        RecordBatch::try_new(call.procedure.schema(), columns)
            .map_err(|error| Error::internal("the list of orphan files could not be built").with_source(error))
    }

    /// `rewrite_position_deletes`: distributed like a DELETE.
    pub(super) async fn rewrite_position_deletes(&self, call: &Call<'_>) -> Result<RecordBatch> {
        let table = self.loaded(call).await?;
        let deletes = PositionDeletes::plan(&table).await?;
        let (gone, state, context) = (deletes.count(), self.planner().empty_state(), &self.tracked.context);
        let row = |added: usize| vec![Value::Count(gone as u64), Value::Count(added as u64)];
        if gone == 0 {
            return one_row(call.procedure, row(0));
        }
        let leftovers = Leftovers::new(&call.lake, &table, &context.id);
        let written = match deletes.write_plan(&state, context).await? {
            Some(plan) => {
                let always_cluster = self.settings.always_cluster;
                let answers = collect(self.service, &self.tracked, plan, state, always_cluster).await?;
                deletes.written(&answers)?
            }
            None => Vec::new(),
        };
        let added = written.len();
        let delta = deletes.delta(written);
        let changed = Changed { delta, needless: Vec::new(), rows: 0 };
        commit(Arc::clone(&self.tracked), Arc::clone(&call.lake), &table, changed, leftovers).await?;
        one_row(call.procedure, row(added))
    }

    /// `rewrite_manifests`.
    pub(super) async fn rewrite_manifests(&self, call: &Call<'_>) -> Result<RecordBatch> {
        let table = self.loaded(call).await?;
        let (lake, query) = (Arc::clone(&call.lake), self.tracked.context.id.clone());
        let now = table.snapshot_id();
        let merged = uninterrupted(async move { lake.rewrite_manifests(&table, &query).await }).await?;
        let (count, snapshot) = merged.map_or((0, now), |(count, snapshot)| (count as u64, Some(snapshot)));
        one_row(call.procedure, vec![Value::Count(count), Value::Id(snapshot)])
    }
}
