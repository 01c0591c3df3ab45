//! Another order for what is written from now on.

use iceberg::spec::{NullOrder, PrimitiveType, Schema, SortDirection, SortField, SortOrder, TableMetadata, Transform};
use iceberg::{TableRequirement, TableUpdate};
use townlake_common::{Error, ErrorCode, Result, nearest};

use super::{LAST_ADDED, Plan};
use crate::PartitionField;
use crate::lake_catalog::parse_transform;

/// One key of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortKey {
    /// A column of the table, and what of its values counts.
    pub by: PartitionField,
    /// The greatest first.
    pub descending: bool,
    /// Rows without a value come before the others.
    pub nulls_first: bool,
}

impl SortKey {
    /// By the values of a column, the least first, rows without one before them.
    pub(crate) fn ascending(column: &str) -> Self {
        let by = PartitionField { column: column.to_string(), transform: "identity".to_string() };
        Self { by, descending: false, nulls_first: true }
    }
}

impl Plan {
    pub(super) fn set_sort_order(&mut self, keys: &[SortKey], metadata: &TableMetadata, table: &str) -> Result<()> {
        let order = sort_order(keys, metadata.current_schema())
            .map_err(|error| error.within(&format!("the order of table {table} cannot be changed")))?;
        if order.fields == metadata.default_sort_order().fields {
            return Ok(());
        }
        self.updates.push(TableUpdate::AddSortOrder { sort_order: order });
        self.updates.push(TableUpdate::SetDefaultSortOrder { sort_order_id: LAST_ADDED.into() });
        self.requirements
            .push(TableRequirement::CurrentSchemaIdMatch { current_schema_id: metadata.current_schema_id() });
        self.requirements.push(TableRequirement::DefaultSortOrderIdMatch {
            default_sort_order_id: metadata.default_sort_order_id(),
        });
        Ok(())
    }
}

/// The order of these keys; without keys there is none.
///
/// Errors: `COLUMN_NOT_FOUND`, `INVALID_QUERY` for a column that has no order or comes twice.
pub(crate) fn sort_order(keys: &[SortKey], schema: &Schema) -> Result<SortOrder> {
    if keys.is_empty() {
        return Ok(SortOrder::unsorted_order());
    }
    let mut fields: Vec<SortField> = Vec::with_capacity(keys.len());
    for key in keys {
        let field = field_of(key, schema)?;
        if fields.iter().any(|known| (known.source_id, known.transform) == (field.source_id, field.transform)) {
            let message = format!("rows cannot be sorted by {} twice", key.by.column);
            return Err(Error::new(ErrorCode::InvalidQuery, message));
        }
        fields.push(field);
    }
    SortOrder::builder().with_fields(fields).build(schema).map_err(|error| {
        let message = format!("rows cannot be sorted so: {}", error.message());
        Error::new(ErrorCode::InvalidQuery, message).with_source(error)
    })
}

fn field_of(key: &SortKey, schema: &Schema) -> Result<SortField> {
    let columns = schema.as_struct().fields();
    let name = &key.by.column;
    let Some(column) = columns.iter().find(|column| column.name == *name) else {
        let error = Error::new(ErrorCode::ColumnNotFound, format!("there is no column {name} to sort by"));
        return Err(match nearest(name, columns.iter().map(|column| column.name.as_str())) {
            Some(near) => error.with_hint(format!("did you mean {near}?")),
            None => error,
        });
    };
    if column.field_type.as_primitive_type().is_none_or(|of| matches!(of, PrimitiveType::Fixed(_))) {
        let message = format!("rows cannot be sorted by {name}: {} has no order", column.field_type);
        return Err(Error::new(ErrorCode::InvalidQuery, message));
    }
    let transform = parse_transform(&key.by, &column.field_type)?;
    if transform == Transform::Void {
        let message = format!("rows cannot be sorted by void({name}), which is the same for all of them");
        return Err(Error::new(ErrorCode::InvalidQuery, message));
    }
    Ok(SortField {
        source_id: column.id,
        transform,
        direction: if key.descending { SortDirection::Descending } else { SortDirection::Ascending },
        null_order: if key.nulls_first { NullOrder::First } else { NullOrder::Last },
    })
}
