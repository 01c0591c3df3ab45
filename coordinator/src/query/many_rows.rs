//! Many rows of parameters for one `INSERT … VALUES`: they become the rows of the statement, so that it is one write with
//! one commit, as a whole or not at all.

use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result as DFResult, ScalarValue, TableReference};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Values};
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::error::from_datafusion;

use super::insert_target::target_of_values;
use super::parameters::{parameters_of, value_at};
use super::service::Prepared;
use super::statement::Statement;

/// What the bound rows are called inside of the plan.
const ROWS: &str = "bound_rows";

impl Prepared {
    /// Whether several rows of parameters can be bound at once: they are inserted together.
    pub fn takes_many_rows(&self) -> bool {
        matches!(&self.statement, Statement::Insert { ast, .. } if target_of_values(ast).is_some())
    }
}

/// The plan of an `INSERT … VALUES` over all of `rows` in place of its parameters.
///
/// Errors: `INVALID_ARGUMENT` for another number of columns than the statement has parameters, or a value that does not
/// convert; `NOT_SUPPORTED` for a parameter outside of the values.
pub(super) fn bind_rows(plan: LogicalPlan, rows: &RecordBatch) -> Result<LogicalPlan> {
    let parameters = parameters_of(&plan)?;
    let scan = scan_of(converted(rows, &parameters)?).map_err(|error| from_datafusion(&error))?;
    let bound = plan.transform_down(|node| match node {
        LogicalPlan::Values(values) => Ok(Transformed::new(over_rows(&values, &scan)?, true, TreeNodeRecursion::Jump)),
        other => Ok(Transformed::no(other)),
    });
    let bound = bound.map_err(|error| from_datafusion(&error))?.data;
    if !parameters_of(&bound)?.fields().is_empty() {
        let message = "several rows of parameters are bound to a statement with a parameter outside of its VALUES";
        return Err(Error::new(ErrorCode::NotSupported, message).with_hint("bind one row and run it for each"));
    }
    Ok(bound)
}

/// The rows in the types that the parameters ask for.
fn converted(rows: &RecordBatch, parameters: &Schema) -> Result<RecordBatch> {
    if rows.num_columns() != parameters.fields().len() {
        let (takes, bound) = (parameters.fields().len(), rows.num_columns());
        let message = format!("the statement takes {takes} parameters, and {bound} are bound");
        return Err(Error::new(ErrorCode::InvalidArgument, message));
    }
    let mut columns = Vec::with_capacity(rows.num_columns());
    for (parameter, given) in parameters.fields().iter().zip(rows.columns()) {
        if parameter.data_type().is_null() || parameter.data_type() == given.data_type() {
            columns.push(ArrayRef::clone(given));
            continue;
        }
        let values = (0..rows.num_rows()).map(|row| value_at(parameter, given, row)).collect::<Result<Vec<_>>>()?;
        columns.push(ScalarValue::iter_to_array(values).map_err(|error| from_datafusion(&error))?);
    }
    let fields = parameters.fields().iter().zip(&columns);
    let fields: Vec<Field> =
        fields.map(|(parameter, column)| Field::new(parameter.name(), column.data_type().clone(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map_err(|error| Error::internal("bound rows make no batch").with_source(error))
}

fn scan_of(rows: RecordBatch) -> DFResult<LogicalPlan> {
    let table = MemTable::try_new(rows.schema(), vec![vec![rows]])?;
    LogicalPlanBuilder::scan(ROWS, provider_as_source(Arc::new(table)), None)?.build()
}

/// Each row of the values once for each bound row.
fn over_rows(values: &Values, scan: &LogicalPlan) -> DFResult<LogicalPlan> {
    let mut whole: Option<LogicalPlanBuilder> = None;
    for row in &values.values {
        let mut exprs = Vec::with_capacity(row.len());
        for (expr, field) in row.iter().zip(values.schema.fields()) {
            let expr = columns_for_parameters(expr.clone())?;
            exprs.push(expr.cast_to(field.data_type(), scan.schema())?.alias(field.name()));
        }
        let one = LogicalPlanBuilder::from(scan.clone()).project(exprs)?;
        whole = Some(match whole {
            None => one,
            Some(whole) => whole.union(one.build()?)?,
        });
    }
    whole.map_or_else(|| Ok(LogicalPlan::Values(values.clone())), LogicalPlanBuilder::build)
}

fn columns_for_parameters(expr: Expr) -> DFResult<Expr> {
    let replaced = expr.transform_up(|expr| match expr {
        Expr::Placeholder(parameter) => {
            let column = Column::new(Some(TableReference::bare(ROWS)), parameter.id);
            Ok(Transformed::yes(Expr::Column(column)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(replaced.data)
}
