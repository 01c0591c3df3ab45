//! Structs are assigned by the names of their fields, and all of them must be there.
//!
//! DataFusion casts a struct to another by name: a field that the target has not is left out, and one that the value has not is NULL.
//! In a query that is what was asked for. In an assignment it would lose data in silence, where a misspelt name is enough.

use datafusion::arrow::datatypes::{DataType, Fields, Schema};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Cast, Expr, ExprSchemable, LogicalPlan, TryCast};
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::error::{from_datafusion, to_datafusion};
use townlake_lake::LoadedTable;

/// The fields of the first struct in `given` that has not the same names as the one in its place in `wanted`, and those of the
/// latter. Their order does not count.
pub(super) fn misnamed<'t>(given: &'t DataType, wanted: &'t DataType) -> Option<(&'t Fields, &'t Fields)> {
    match (given, wanted) {
        (DataType::Struct(from), DataType::Struct(to)) => {
            let all_there = from.len() == to.len() && to.iter().all(|field| from.find(field.name()).is_some());
            if !all_there {
                return Some((from, to));
            }
            to.iter().find_map(|field| misnamed(from.find(field.name())?.1.data_type(), field.data_type()))
        }
        // by position: the names of a map's entries, keys and values are nobody's choice
        (DataType::Map(from, _), DataType::Map(to, _)) => match (from.data_type(), to.data_type()) {
            (DataType::Struct(from), DataType::Struct(to)) => {
                from.iter().zip(to).find_map(|(from, to)| misnamed(from.data_type(), to.data_type()))
            }
            _ => None,
        },
        (DataType::Dictionary(_, from), to) => misnamed(from, to),
        (from, to) => misnamed(element(from)?, element(to)?),
    }
}

/// Whether a rewritten or cast value keeps all of its fields, for each value that an INSERT, UPDATE or MERGE assigns to a column of
/// `table`. `output` are the columns as the plan gives them, in the order of the table's.
///
/// Errors: `INVALID_QUERY` naming the fields, and the column where it can be told.
pub(super) fn check_assigned(plan: &LogicalPlan, skip: usize, table: &LoadedTable, state: &SessionState) -> Result<()> {
    let columns = table.arrow_schema.as_ref();
    if !columns.fields().iter().any(|field| has_struct(field.data_type())) {
        return Ok(());
    }
    // Coercion casts, too: of the branches of a CASE, of the sides of a UNION.
    let analyzed = state
        .analyzer()
        .execute_and_check(plan.clone(), state.config_options(), |_, _| {})
        .map_err(|error| from_datafusion(&error))?;
    let assigned = analyzed.schema().fields().iter().skip(skip).zip(columns.fields());
    for (given, wanted) in assigned {
        if let Some(fields) = misnamed(given.data_type(), wanted.data_type()) {
            return Err(refused(fields, Some(wanted.name()), table));
        }
    }
    analyzed
        .apply_with_subqueries(|node| {
            let inputs = merge_schema(&node.inputs());
            node.apply_expressions(|expr| expr.apply(|expr| check_cast(expr, &inputs, table)))
        })
        .map_err(|error| from_datafusion(&error))?;
    Ok(())
}

fn check_cast(expr: &Expr, inputs: &DFSchema, table: &LoadedTable) -> Result<TreeNodeRecursion, DataFusionError> {
    let (Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field })) = expr else {
        return Ok(TreeNodeRecursion::Continue);
    };
    if has_struct(field.data_type())
        && let Some(fields) = misnamed(&expr.get_type(inputs)?, field.data_type())
    {
        return Err(to_datafusion(refused(fields, column_of(fields.1, &table.arrow_schema), table)));
    }
    Ok(TreeNodeRecursion::Continue)
}

/// The column that has a struct of these fields in it, where just one has.
fn column_of<'t>(fields: &Fields, columns: &'t Schema) -> Option<&'t str> {
    let mut like = columns.fields().iter().filter(|column| has_struct_of(column.data_type(), fields));
    match (like.next(), like.next()) {
        (Some(column), None) => Some(column.name()),
        _ => None,
    }
}

fn refused((given, wanted): (&Fields, &Fields), column: Option<&str>, table: &LoadedTable) -> Error {
    let place = match column {
        Some(column) => format!("column {column} of table {}", table.full_name()),
        None => format!("table {}", table.full_name()),
    };
    let message = format!("{place}: {}", difference(given, wanted));
    Error::new(ErrorCode::InvalidQuery, message)
        .with_hint("name all fields of the struct, with NULL for those that have no value; their order does not count")
}

/// What is wrong with the fields of a struct, for a message.
pub(super) fn difference(given: &Fields, wanted: &Fields) -> String {
    let names = |fields: &Fields| fields.iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
    format!("a struct of the fields ({}) is given where one of ({}) is wanted", names(given), names(wanted))
}

fn has_struct_of(data_type: &DataType, fields: &Fields) -> bool {
    match data_type {
        DataType::Struct(own) => {
            let are_same = own.len() == fields.len() && own.iter().zip(fields).all(|(a, b)| a.name() == b.name());
            are_same || own.iter().any(|field| has_struct_of(field.data_type(), fields))
        }
        DataType::Map(entries, _) => has_struct_of(entries.data_type(), fields),
        other => element(other).is_some_and(|element| has_struct_of(element, fields)),
    }
}

fn has_struct(data_type: &DataType) -> bool {
    match data_type {
        DataType::Struct(_) => true,
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => fields.iter().any(|field| has_struct(field.data_type())),
            _ => false,
        },
        other => element(other).is_some_and(has_struct),
    }
}

/// The type of a list's elements.
pub(super) fn element(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => Some(item.data_type()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::datatypes::Field;

    use super::*;

    fn record(fields: &[(&str, DataType)]) -> DataType {
        DataType::Struct(fields.iter().map(|(name, of)| Field::new(*name, of.clone(), true)).collect())
    }

    fn list(of: DataType) -> DataType {
        DataType::List(Arc::new(Field::new("element", of, true)))
    }

    #[test]
    fn fields_are_told_apart_by_name_at_every_depth() {
        let (int, text) = (DataType::Int32, DataType::Utf8View);
        let ab = record(&[("a", int.clone()), ("b", text.clone())]);
        let same = [
            (ab.clone(), record(&[("b", DataType::Utf8), ("a", DataType::Int64)])),
            (list(ab.clone()), list(record(&[("b", text.clone()), ("a", int.clone())]))),
            (int.clone(), text.clone()),
            (DataType::Null, ab.clone()),
        ];
        for (given, wanted) in &same {
            assert_eq!(misnamed(given, wanted), None, "{given} for {wanted}");
        }
        let others = [
            record(&[("a", int.clone())]),
            record(&[("a", int.clone()), ("zzz", text.clone())]),
            record(&[("A", int.clone()), ("b", text.clone())]),
            record(&[("a", int.clone()), ("b", text.clone()), ("c", text)]),
        ];
        for given in &others {
            assert!(misnamed(given, &ab).is_some(), "{given}");
            assert!(misnamed(&list(given.clone()), &list(ab.clone())).is_some(), "list of {given}");
            let (deep, wanted) = (record(&[("x", list(given.clone()))]), record(&[("x", list(ab.clone()))]));
            let (fields, _) = misnamed(&deep, &wanted).unwrap();
            assert_eq!(DataType::Struct(fields.clone()), *given);
        }
    }
}
