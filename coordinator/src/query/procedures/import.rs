//! Procedures that make tables of files that are there: metadata, and folders of Parquet files.

use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use townlake_common::Result;

use super::list::Task;
use super::{Call, Value, one_row};
use crate::catalogs::Catalogs;
use crate::query::change_table::uninterrupted;
use crate::query::service::Run;

impl Run<'_> {
    /// `register_table`.
    pub(super) async fn register_table(&self, call: &Call<'_>) -> Result<RecordBatch> {
        Catalogs::check_no_metadata_table(&call.table)?;
        let (lake, name, file) = (Arc::clone(&call.lake), call.table.clone(), call.arguments.text("metadata_file")?);
        let registering = async move { lake.register_table(&name.schema, &name.table, &file).await };
        let table = uninterrupted(registering).await?;
        let total = |key: &str| table.summary_number(key);
        let row = vec![
            Value::Id(table.snapshot_id()),
            Value::Id(total("total-records")),
            Value::Id(total("total-data-files")),
        ];
        one_row(call.procedure, row)
    }

    /// `migrate` and `add_files`.
    pub(super) async fn import(&self, call: &Call<'_>) -> Result<RecordBatch> {
        let (lake, query) = (Arc::clone(&call.lake), self.tracked.context.id.clone());
        let (name, location) = (call.table.clone(), call.arguments.text("location")?);
        let imported = if call.procedure.task == Task::Migrate {
            Catalogs::check_no_metadata_table(&name)?;
            let migrating = async move { lake.migrate(&name.schema, &name.table, &location, &query).await };
            uninterrupted(migrating).await?
        } else {
            let table = self.loaded(call).await?;
            uninterrupted(async move { lake.add_files(&table, &location, &query).await }).await?
        };
        self.tracked.count(imported.rows, 0);
        one_row(call.procedure, vec![Value::Count(imported.files), Value::Count(imported.rows)])
    }
}
