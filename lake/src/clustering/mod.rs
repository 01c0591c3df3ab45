//! Rows brought together in files: all files of a table, or some, written anew in one order over all of them, so that the bounds
//! of the new files overlap as little as they can.
//!
//! Three steps, of which two are distributed queries. [`Clustering::sample_plan`] reads the columns of the order and gives some
//! rows of them; [`Clustering::ranges`] cuts what it gave into ranges of about the same number of rows, one for each task;
//! [`Clustering::rewrite_plan`] sends each row to the task of its range, which sorts and writes. Rows go by their partition of the
//! table first: a file has rows of one partition only.
//!
//! What rows are compared by are bytes ([`key`]): the row format of Arrow, or a z-order over the ranks of the values.

mod exec;
mod key;
mod ranges;
mod recipe;
#[cfg(test)]
mod tests;
mod zorder;

use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::common::Result as DFResult;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning};
use iceberg::spec::{SortOrder, Transform};
use townlake_common::{Error, ErrorCode, QueryContext, Result};

pub(crate) use self::exec::ClusterKeyExec;
pub(crate) use self::key::KeySpec;
use self::key::{Curve, KeyColumn, Output};
pub use self::ranges::Ranges;
use crate::alter::sort_order;
use crate::scan::scan_plan;
use crate::schema::field_id;
use crate::write::write_sorted;
use crate::{FilePlan, LoadedTable, SortKey};

/// A z-order is over at least two columns; more than these tell next to nothing apart.
const ZORDER_COLUMNS: std::ops::RangeInclusive<usize> = 2..=8;
/// About how many rows are sampled.
const SAMPLES: u64 = 40_000;

/// The order that rows are to have over all files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowOrder {
    /// That of the table.
    OfTable,
    Keys(Vec<SortKey>),
    /// The columns of a z-order.
    ZOrder(Vec<String>),
}

/// How the rows of a table are brought together.
#[derive(Debug)]
pub struct Clustering {
    spec: KeySpec,
    /// The table's order, where it is that.
    sort_order_id: Option<i32>,
}

impl Clustering {
    /// Errors: `COLUMN_NOT_FOUND`, `INVALID_QUERY` for a column that has no order or comes twice, `INVALID_ARGUMENT` for a table
    /// without an order or a z-order of too few or too many columns.
    pub fn new(table: &LoadedTable, order: &RowOrder) -> Result<Self> {
        let own = table.metadata.default_sort_order();
        let (order, curve) = match order {
            RowOrder::OfTable if own.fields.is_empty() => {
                let message = format!("table {} has no sort order to write its files in", table.full_name());
                return Err(Error::new(ErrorCode::InvalidArgument, message)
                    .with_hint("sort_order => 'column, …' or 'zorder(column, …)', or ALTER TABLE … WRITE ORDERED BY"));
            }
            RowOrder::OfTable => (own.as_ref().clone(), Curve::Linear),
            RowOrder::Keys(keys) => (sort_order(keys, &table.iceberg_schema)?, Curve::Linear),
            RowOrder::ZOrder(columns) => {
                if !ZORDER_COLUMNS.contains(&columns.len()) {
                    let (least, most) = (ZORDER_COLUMNS.start(), ZORDER_COLUMNS.end());
                    let message = format!("a z-order is over {least} to {most} columns, not {}", columns.len());
                    return Err(Error::new(ErrorCode::InvalidArgument, message));
                }
                let keys: Vec<SortKey> = columns.iter().map(|column| SortKey::ascending(column)).collect();
                (sort_order(&keys, &table.iceberg_schema)?, Curve::Z { quantiles: Vec::new() })
            }
        };
        let is_own = curve == Curve::Linear && order.fields == own.fields;
        let sort_order_id = is_own.then(|| i32::try_from(own.order_id).ok()).flatten();
        let order = order_columns(table, &order, 0).ok_or_else(|| {
            let message = format!("the sort order of table {} is not one of its top-level columns", table.full_name());
            Error::new(ErrorCode::FormatNotSupported, message)
        })?;
        let spec = KeySpec { partition: partition_columns(table)?, order, curve, output: Output::Samples { every: 1 } };
        Ok(Self { spec, sort_order_id })
    }

    #[cfg(test)]
    pub(crate) fn spec(&self) -> &KeySpec {
        &self.spec
    }

    /// The plan that gives some rows of what the rows of these files are compared by.
    ///
    /// Errors: `INTERNAL` for files that cannot be read.
    pub fn sample_plan(
        &self,
        table: &LoadedTable,
        files: FilePlan,
        session: &dyn Session,
        query: &QueryContext,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows: u64 = files.files.iter().map(|file| file.record_count).sum();
        let (spec, columns) = self.spec.over_its_columns();
        let spec = KeySpec { output: Output::Samples { every: (rows / SAMPLES).max(1) }, ..spec };
        let planning = || {
            let rows = scan_plan(table, files, &query.principal.name, session, Some(&columns), None)?;
            Ok(Arc::new(ClusterKeyExec::try_new(Arc::new(spec), rows)?) as Arc<dyn ExecutionPlan>)
        };
        planning().map_err(|error| failed(table, error))
    }

    /// The plan that writes the rows of these files into new ones, each range by a task of its own.
    ///
    /// Errors: `FORMAT_NOT_SUPPORTED` for a table that cannot be written.
    pub fn rewrite_plan(
        &self,
        table: &LoadedTable,
        files: FilePlan,
        ranges: Ranges,
        session: &dyn Session,
        query: &QueryContext,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let tasks = ranges.tokens.len();
        let curve = match &self.spec.curve {
            Curve::Linear => Curve::Linear,
            Curve::Z { .. } => Curve::Z { quantiles: ranges.quantiles },
        };
        let output = Output::Keys { bounds: ranges.bounds, tokens: ranges.tokens };
        let spec = KeySpec { curve, output, ..self.spec.clone() };
        let planning = || {
            let rows = scan_plan(table, files, &query.principal.name, session, None, None)?;
            by_key(spec, rows, Some(tasks))
        };
        write_sorted(table, planning().map_err(|error| failed(table, error))?, self.sort_order_id, &query.id)
    }
}

/// Sorts each partition of `input`, whose columns are the table's behind `before` others, by an order of the table that is not of
/// plain columns only. `None`: the order cannot be kept.
pub(crate) fn sorted_by_transforms(
    table: &LoadedTable,
    input: &Arc<dyn ExecutionPlan>,
    before: usize,
) -> DFResult<Option<Arc<dyn ExecutionPlan>>> {
    let Some(order) = order_columns(table, table.metadata.default_sort_order(), before) else { return Ok(None) };
    let output = Output::Keys { bounds: Vec::new(), tokens: vec![0] };
    let spec = KeySpec { partition: Vec::new(), order, curve: Curve::Linear, output };
    by_key(spec, Arc::clone(input), None).map(Some)
}

/// The rows in the order of their keys, within each task. `tasks`: each range has one of its own.
fn by_key(spec: KeySpec, input: Arc<dyn ExecutionPlan>, tasks: Option<usize>) -> DFResult<Arc<dyn ExecutionPlan>> {
    let columns = input.schema();
    let mut rows: Arc<dyn ExecutionPlan> = Arc::new(ClusterKeyExec::try_new(Arc::new(spec), input)?);
    let keyed = rows.schema();
    let column = |index: usize| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new(keyed.field(index).name(), index)) };
    let (range, key) = (column(columns.fields().len()), column(columns.fields().len() + 1));
    if let Some(tasks) = tasks {
        rows = Arc::new(RepartitionExec::try_new(rows, Partitioning::Hash(vec![range], tasks))?);
    }
    if let Some(ordering) = LexOrdering::new([PhysicalSortExpr::new_default(key)]) {
        rows = Arc::new(SortExec::new(ordering, rows).with_preserve_partitioning(true));
    }
    let kept = columns.fields().iter().enumerate().map(|(index, field)| (column(index), field.name().clone()));
    Ok(Arc::new(ProjectionExec::try_new(kept.collect::<Vec<_>>(), rows)?))
}

fn failed(table: &LoadedTable, error: datafusion::common::DataFusionError) -> Error {
    Error::internal(format!("the files of {} cannot be written in order", table.full_name())).with_source(error)
}

/// `None` where one of the columns is not at the top of the table, or has no order.
fn order_columns(table: &LoadedTable, order: &SortOrder, before: usize) -> Option<Vec<KeyColumn>> {
    let column = |field: &iceberg::spec::SortField| {
        let key = key_column(table, field.source_id, field.transform, before)?;
        Some(KeyColumn { descending: is_descending(field), nulls_first: is_nulls_first(field), ..key })
    };
    order.fields.iter().map(column).collect()
}

pub(crate) fn is_descending(field: &iceberg::spec::SortField) -> bool {
    field.direction == iceberg::spec::SortDirection::Descending
}

pub(crate) fn is_nulls_first(field: &iceberg::spec::SortField) -> bool {
    field.null_order == iceberg::spec::NullOrder::First
}

fn partition_columns(table: &LoadedTable) -> Result<Vec<KeyColumn>> {
    let spec = table.metadata.default_partition_spec();
    let column = |field: &iceberg::spec::PartitionField| {
        key_column(table, field.source_id, field.transform, 0).ok_or_else(|| {
            let message = format!("the partition field {} has no top-level source column", field.name);
            Error::new(ErrorCode::FormatNotSupported, message)
        })
    };
    // The void transform is null in each row: it tells nothing apart.
    spec.fields().iter().filter(|field| field.transform != Transform::Void).map(column).collect()
}

fn key_column(table: &LoadedTable, source_id: i32, transform: Transform, before: usize) -> Option<KeyColumn> {
    let columns = table.arrow_schema.fields();
    let (index, column) = columns.iter().enumerate().find(|(_, column)| field_id(column) == Some(source_id))?;
    let has_order = !column.data_type().is_nested() && !column.data_type().is_null();
    let data_type = column.data_type().clone();
    has_order.then_some(KeyColumn { index: index + before, data_type, transform, descending: false, nulls_first: true })
}
