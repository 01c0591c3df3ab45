//! A table whose rows a statement changes, as DataFusion sees it: its columns, and where each row lies.

use std::sync::{Arc, OnceLock};

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use townlake_common::{Error, ErrorCode, QueryContext};

use crate::plan::plan_files;
use crate::scan::{external, places, scan_places};
use crate::types::{FilePlan, LoadedTable};

/// The table, pinned to one snapshot. It is scanned once, and then knows what was planned to be read.
#[derive(Debug)]
pub struct TargetTable {
    table: Arc<LoadedTable>,
    schema: SchemaRef,
    planned: OnceLock<PlannedTarget>,
}

/// What of the table a statement looks at.
#[derive(Debug, Clone, Default)]
pub struct PlannedTarget {
    /// Its files: those whose rows may be changed.
    pub files: FilePlan,
    /// Every row that is changed matches these.
    pub filters: Vec<Expr>,
}

impl TargetTable {
    /// The table for DataFusion.
    ///
    /// Errors: `NOT_SUPPORTED` for a table with a column of a name that is needed here; `FORMAT_NOT_SUPPORTED` for one that
    /// cannot be written.
    pub fn new(table: Arc<LoadedTable>) -> townlake_common::Result<Arc<Self>> {
        table.check_writable()?;
        let columns = table.arrow_schema.fields();
        if let Some(taken) =
            columns.iter().find(|field| [places::FILE, places::POSITION].contains(&field.name().as_str()))
        {
            let message = format!("rows of {} cannot be changed: it has a column {}", table.full_name(), taken.name());
            return Err(Error::new(ErrorCode::NotSupported, message).with_hint("rename the column"));
        }
        let schema = Arc::new(Schema::new(columns.iter().cloned().chain(places::fields()).collect::<Vec<_>>()));
        Ok(Arc::new(Self { table, schema, planned: OnceLock::new() }))
    }

    /// What was loaded.
    pub fn loaded(&self) -> &Arc<LoadedTable> {
        &self.table
    }

    /// What was planned to be read; nothing where a statement needs nothing of the table.
    pub fn planned(&self) -> PlannedTarget {
        self.planned.get().cloned().unwrap_or_default()
    }
}

#[async_trait]
impl TableProvider for TargetTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let name = self.table.full_name();
        let Some(query) = state.config().get_extension::<QueryContext>() else {
            return Err(external(Error::internal(format!("a scan of {name} without a query context"))));
        };
        let files = plan_files(&self.table, filters).await.map_err(external)?;
        let plan = scan_places(&self.table, &files, &query.principal.name, state, projection)?;
        match self.planned.set(PlannedTarget { files, filters: filters.to_vec() }) {
            Ok(()) => Ok(plan),
            // The numbers of files would be those of two plans.
            Err(_) => internal_err!("the rows of {name} that are to be changed are read twice"),
        }
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}
