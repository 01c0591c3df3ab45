//! Rows in the order that their table wants: each task sorts what it writes, so that each of its files is sorted.

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::DataType;
use datafusion::common::Result as DFResult;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort::SortExec;
use iceberg::spec::{SortField, Transform};

use crate::LoadedTable;
use crate::clustering::{is_descending, is_nulls_first, sorted_by_transforms};
use crate::schema::field_id;

/// Sorts the rows of each partition of `input`, whose columns are the table's behind `before` others, and tells the id of the
/// order. An order by nested columns is not kept: the rows stay as they come, and their files are not said to be sorted.
pub(super) fn sorted(
    table: &LoadedTable,
    input: Arc<dyn ExecutionPlan>,
    before: usize,
) -> DFResult<(Arc<dyn ExecutionPlan>, Option<i32>)> {
    let order = table.metadata.default_sort_order();
    if order.fields.iter().any(|field| field.transform != Transform::Identity) {
        let id = i32::try_from(order.order_id).ok();
        return Ok(match (sorted_by_transforms(table, &input, before)?, id) {
            (Some(sorted), Some(id)) => (sorted, Some(id)),
            _ => (input, None),
        });
    }
    let keys: Option<Vec<PhysicalSortExpr>> =
        order.fields.iter().map(|field| key(table, &input, before, field)).collect();
    let (Some(ordering), Ok(id)) = (keys.and_then(LexOrdering::new), i32::try_from(order.order_id)) else {
        return Ok((input, None));
    };
    let sort = SortExec::new(ordering, input).with_preserve_partitioning(true);
    Ok((Arc::new(sort), Some(id)))
}

fn key(
    table: &LoadedTable,
    input: &Arc<dyn ExecutionPlan>,
    before: usize,
    field: &SortField,
) -> Option<PhysicalSortExpr> {
    let columns = table.arrow_schema.fields();
    let index = columns.iter().position(|column| field_id(column) == Some(field.source_id))? + before;
    let schema = input.schema();
    let column = schema.fields().get(index)?;
    // Fixed bytes are compared as bytes, which is the order of UUIDs too.
    if column.data_type().is_nested() || matches!(column.data_type(), DataType::Null) {
        return None;
    }
    let options = SortOptions { descending: is_descending(field), nulls_first: is_nulls_first(field) };
    Some(PhysicalSortExpr::new(Arc::new(Column::new(column.name(), index)), options))
}
