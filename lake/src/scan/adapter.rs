//! From table columns to the columns of one data file: by Iceberg field id, never by name.
//!
//! DataFusion opens each file with an adapter that rewrites predicate and projection from the table's schema to the
//! file's. Its own adapter goes by name, which is wrong as soon as a column was renamed, or dropped and added again.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::common::metadata::FieldMetadata;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion_physical_expr_adapter::{PhysicalExprAdapter, PhysicalExprAdapterFactory};
use iceberg::spec::{MappedField, NameMapping};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use townlake_common::{Error, ErrorCode};

use super::conform::{Defaults, field_id, is_readable_as};
use super::field_id_cast::FieldIdCast;

/// Makes the adapter of each file of one table.
#[derive(Debug)]
pub(crate) struct FieldIdAdapterFactory {
    table: String,
    defaults: Arc<Defaults>,
    name_mapping: Option<NameMapping>,
}

impl FieldIdAdapterFactory {
    /// For the table named so. `name_mapping` gives ids to files that carry none.
    pub(crate) fn new(table: String, defaults: Defaults, name_mapping: Option<NameMapping>) -> Self {
        Self { table, defaults: Arc::new(defaults), name_mapping }
    }

    /// The same for a file in which these columns have one value, wherever it lacks them.
    pub(super) fn with_constants(&self, constants: &Defaults) -> Self {
        let mut defaults = self.defaults.as_ref().clone();
        defaults.extend(constants.iter().map(|(id, value)| (*id, value.clone())));
        Self { table: self.table.clone(), defaults: Arc::new(defaults), name_mapping: self.name_mapping.clone() }
    }

    /// The file's fields with ids. A file with some ids is a file with ids; one with none needs the table's mapping.
    pub(super) fn identified(&self, physical: &SchemaRef) -> Result<SchemaRef> {
        if physical.fields().is_empty() || physical.fields().iter().any(|field| has_ids(field)) {
            return Ok(Arc::clone(physical));
        }
        let Some(mapping) = &self.name_mapping else {
            return Err(external(
                Error::new(
                    ErrorCode::FormatNotSupported,
                    format!("a data file of {} has no field ids and the table has no name mapping", self.table),
                )
                .with_hint("set the table property schema.name-mapping.default"),
            ));
        };
        let root: Vec<&MappedField> = mapping.fields().iter().collect();
        Ok(Arc::new(Schema::new_with_metadata(map_fields(physical.fields(), &root), physical.metadata().clone())))
    }
}

impl PhysicalExprAdapterFactory for FieldIdAdapterFactory {
    fn create(&self, logical: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let physical = self.identified(&physical)?;
        let ids = physical.fields().iter().enumerate();
        let by_id = ids.filter_map(|(index, field)| field_id(field).map(|id| (id, index))).collect();
        Ok(Arc::new(FieldIdAdapter {
            table: self.table.clone(),
            defaults: Arc::clone(&self.defaults),
            logical,
            physical,
            by_id,
        }))
    }
}

/// The adapter of one file.
#[derive(Debug)]
struct FieldIdAdapter {
    table: String,
    defaults: Arc<Defaults>,
    logical: SchemaRef,
    physical: SchemaRef,
    by_id: HashMap<i32, usize>,
}

impl PhysicalExprAdapter for FieldIdAdapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        expr.transform_up(|node| match node.downcast_ref::<Column>() {
            Some(column) => self.rewrite_column(column).map(Transformed::yes),
            None => Ok(Transformed::no(node)),
        })
        .data()
    }
}

impl FieldIdAdapter {
    fn rewrite_column(&self, column: &Column) -> Result<Arc<dyn PhysicalExpr>> {
        let Ok(target) = self.logical.field_with_name(column.name()) else {
            // An expression that was already written against the file.
            return Ok(Arc::new(Column::new_with_schema(column.name(), &self.physical)?));
        };
        let Some(id) = field_id(target) else {
            // A virtual column, which the reader makes: the same on both sides.
            return Ok(Arc::new(Column::new_with_schema(column.name(), &self.physical)?));
        };
        let found =
            self.by_id.get(&id).and_then(|index| self.physical.fields().get(*index).map(|field| (*index, field)));
        match found {
            Some((index, source)) => self.read(index, source, target),
            None => self.fill(id, target),
        }
    }

    fn read(&self, index: usize, source: &FieldRef, target: &Field) -> Result<Arc<dyn PhysicalExpr>> {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(source.name(), index));
        if source.data_type() == target.data_type() {
            return Ok(column);
        }
        let target = Arc::new(target.clone());
        if same_nesting(source.data_type(), target.data_type()) {
            let defaults = Arc::clone(&self.defaults);
            return Ok(Arc::new(FieldIdCast::new(column, Arc::clone(source), target, defaults)));
        }
        if is_readable_as(source.data_type(), target.data_type()) {
            // Pruning and row filters see through this cast, as they would not through one of ours.
            return Ok(Arc::new(CastExpr::new_with_target_field(column, target, None)));
        }
        Err(external(Error::new(
            ErrorCode::DataCorrupt,
            format!(
                "a data file of {} holds column {} as {}, which cannot be read as {}",
                self.table,
                target.name(),
                source.data_type(),
                target.data_type()
            ),
        )))
    }

    fn fill(&self, id: i32, target: &Field) -> Result<Arc<dyn PhysicalExpr>> {
        let value = match self.defaults.get(&id) {
            Some(value) => value.clone(),
            None if target.is_nullable() => ScalarValue::try_from(target.data_type())?,
            None => {
                return Err(external(Error::new(
                    ErrorCode::DataCorrupt,
                    format!("a data file of {} has no values for the required column {}", self.table, target.name()),
                )));
            }
        };
        Ok(Arc::new(Literal::new_with_metadata(value, Some(FieldMetadata::from(target)))))
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn same_nesting(from: &DataType, to: &DataType) -> bool {
    use DataType::{FixedSizeList, LargeList, LargeListView, List, ListView, Map, Struct};
    matches!(
        (from, to),
        (Struct(_), Struct(_))
            | (Map(..), Map(..))
            | (List(_) | LargeList(_) | FixedSizeList(..) | ListView(_) | LargeListView(_), List(_))
    )
}

fn children(data_type: &DataType) -> Option<Fields> {
    match data_type {
        DataType::Struct(fields) => Some(fields.clone()),
        DataType::List(child) | DataType::LargeList(child) | DataType::FixedSizeList(child, _) => {
            Some(Fields::from(vec![Arc::clone(child)]))
        }
        DataType::Map(entries, _) => children(entries.data_type()),
        _ => None,
    }
}

fn has_ids(field: &Field) -> bool {
    field_id(field).is_some()
        || children(field.data_type()).is_some_and(|children| children.iter().any(|child| has_ids(child)))
}

/// `fields` with the ids that the mapping gives to their names; a field that it does not know stays without.
fn map_fields(fields: &Fields, mapping: &[&MappedField]) -> Fields {
    let map = |field: &FieldRef| match find_mapped(mapping, field.name()) {
        Some(mapped) => Arc::new(map_field(field, mapped)),
        None => Arc::clone(field),
    };
    fields.iter().map(map).collect()
}

fn find_mapped<'a>(mapping: &[&'a MappedField], name: &str) -> Option<&'a MappedField> {
    mapping.iter().find(|mapped| mapped.names().iter().any(|known| known == name)).copied()
}

fn map_field(field: &Field, mapped: &MappedField) -> Field {
    let below: Vec<&MappedField> = mapped.fields().iter().map(Arc::as_ref).collect();
    // The children of lists and maps have fixed names in a mapping, whatever the file calls them.
    let fixed = |child: &FieldRef, name: &str| match find_mapped(&below, name) {
        Some(mapped) => Arc::new(map_field(child, mapped)),
        None => Arc::clone(child),
    };
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(map_fields(fields, &below)),
        DataType::List(child) => DataType::List(fixed(child, "element")),
        DataType::LargeList(child) => DataType::LargeList(fixed(child, "element")),
        DataType::Map(entries, sorted) => match entries.data_type() {
            DataType::Struct(pair) => {
                let named = pair.iter().zip(["key", "value"]).map(|(child, name)| fixed(child, name)).collect();
                let entries = entries.as_ref().clone().with_data_type(DataType::Struct(named));
                DataType::Map(Arc::new(entries), *sorted)
            }
            _ => field.data_type().clone(),
        },
        other => other.clone(),
    };
    let mut metadata = field.metadata().clone();
    if let Some(id) = mapped.field_id() {
        metadata.insert(PARQUET_FIELD_ID_META_KEY.to_string(), id.to_string());
    }
    field.clone().with_data_type(data_type).with_metadata(metadata)
}
