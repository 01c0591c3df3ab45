//! Filters that the partition of a file decides for all of its rows: nobody needs to ask them again of each row, and
//! `count(*)` under such filters is a matter of record counts.
//!
//! They compare columns that are identity partitions in every partition spec of the table. Pruning may keep too much, so
//! the filter itself is computed, once a file, over the partition's values.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue, internal_err};
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::expr_rewriter::unnormalize_col;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, Volatility};
use datafusion::physical_expr::{PhysicalExpr, conjunction_opt, create_physical_expr};
use iceberg::spec::Transform;
use townlake_common::{Error, ErrorCode};

use crate::schema::field_id;
use crate::{ColumnBounds, FilePlan, LoadedTable, PlannedFile};

/// The columns of a table that every file has one value of, by its partition.
pub(crate) struct PartitionColumns(SchemaRef);

impl PartitionColumns {
    pub(crate) fn of(table: &LoadedTable) -> Self {
        let fields = table.arrow_schema.fields().iter().filter(|field| {
            let id = field_id(field);
            let mut specs = table.metadata.partition_specs_iter();
            let is_identity = specs.all(|spec| {
                let mut fields = spec.fields().iter();
                fields.any(|field| Some(field.source_id) == id && field.transform == Transform::Identity)
            });
            is_identity && is_told_exactly(field.data_type())
        });
        Self(Arc::new(Schema::new(fields.cloned().collect::<Vec<Arc<Field>>>())))
    }

    /// Whether the partition of a file decides this filter.
    pub(crate) fn decide(&self, filter: &Expr) -> bool {
        let columns = filter.column_refs();
        let is_of_partition = columns.iter().all(|column| self.0.field_with_name(&column.name).is_ok());
        !columns.is_empty()
            && is_of_partition
            && !filter.is_volatile()
            && is_self_contained(filter)
            && self.physical(filter).is_ok()
    }

    /// Drops the files in which the filters that partitions decide are not true.
    ///
    /// Errors: `DATA_CORRUPT` naming a file without the value; those of computing a filter (a division by zero).
    pub(crate) fn apply(&self, filters: &[Expr], table: &LoadedTable, plan: &mut FilePlan) -> Result<()> {
        let decided: Vec<_> = filters.iter().filter(|filter| self.decide(filter)).collect();
        let filters = decided.iter().map(|filter| self.physical(filter)).collect::<Result<Vec<_>>>()?;
        let Some(filter) = conjunction_opt(filters) else { return Ok(()) };
        if plan.files.is_empty() {
            return Ok(());
        }
        // Only what is compared must be known.
        let names: BTreeSet<_> = decided.iter().flat_map(|f| f.column_refs()).map(|c| c.name.clone()).collect();
        let columns = self.0.fields().iter().map(|field| match names.contains(field.name()) {
            true => values(field, table, &plan.files),
            false => ScalarValue::try_from(field.data_type())?.to_array_of_size(plan.files.len()),
        });
        let nullable = self.0.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        let schema = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
        let options = RecordBatchOptions::new().with_row_count(Some(plan.files.len()));
        let values = RecordBatch::try_new_with_options(schema, columns.collect::<Result<_>>()?, &options)?;
        let keep = filter.evaluate(&values)?.into_array(plan.files.len())?;
        let Some(keep) = keep.as_boolean_opt() else { return internal_err!("{filter} is no condition") };
        let mut keep = (0..keep.len()).map(|file| keep.is_valid(file) && keep.value(file));
        let before = plan.files.len();
        plan.files.retain(|_| keep.next().unwrap_or(true));
        plan.pruned_files += before - plan.files.len();
        Ok(())
    }

    fn physical(&self, filter: &Expr) -> Result<Arc<dyn PhysicalExpr>> {
        let schema = DFSchema::try_from(Arc::clone(&self.0))?;
        let (properties, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
        create_physical_expr(&unnormalize_col(filter.clone()), &schema, &properties, &context)
    }
}

/// Neither floats (which bounds do not hold exactly) nor UUIDs and bytes, which writers order and cut in their own ways.
fn is_told_exactly(data_type: &DataType) -> bool {
    use DataType::{Boolean, Date32, Decimal128, Int32, Int64, Timestamp, Utf8View};
    matches!(data_type, Boolean | Int32 | Int64 | Date32 | Decimal128(..) | Timestamp(..) | Utf8View)
}

/// Whether the filter needs nothing but its columns.
fn is_self_contained(filter: &Expr) -> bool {
    let needs_more = |expr: &Expr| {
        use Expr::{
            Exists, InSubquery, OuterReferenceColumn, Placeholder, ScalarSubquery, ScalarVariable, SetComparison,
        };
        if let Expr::ScalarFunction(call) = expr {
            return Ok(call.func.signature().volatility != Volatility::Immutable);
        }
        Ok(matches!(
            expr,
            Exists(_)
                | InSubquery(_)
                | OuterReferenceColumn(..)
                | Placeholder(_)
                | ScalarSubquery(_)
                | ScalarVariable(..)
                | SetComparison(_)
        ))
    };
    !filter.exists(needs_more).unwrap_or(true)
}

/// The value of a column in each file.
fn values(field: &Field, table: &LoadedTable, files: &[PlannedFile]) -> Result<Arc<dyn Array>> {
    let id = field_id(field).unwrap_or_default();
    let null = ScalarValue::try_from(field.data_type())?;
    let value = |file: &PlannedFile| match file.column(id) {
        ColumnBounds { lower: Some(value), exact: true, .. } => Ok(value),
        ColumnBounds { null_count: Some(nulls), .. } if nulls == file.record_count => Ok(null.clone()),
        _ => {
            let (path, name) = (&file.path, table.full_name());
            let message = format!("the partition of {path} does not say the value of {} in {name}", field.name());
            Err(DataFusionError::External(Box::new(Error::new(ErrorCode::DataCorrupt, message))))
        }
    };
    ScalarValue::iter_to_array(files.iter().map(value).collect::<Result<Vec<_>>>()?)
}
