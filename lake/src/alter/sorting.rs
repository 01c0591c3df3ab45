//! Another order for what is written from now on.

use iceberg::spec::{NullOrder, PrimitiveType, Schema, SortDirection, SortField, SortOrder, TableMetadata, Transform};
use iceberg::{TableRequirement, TableUpdate};
use townlake_common::{Error, ErrorCode, Result, nearest};

use super::{LAST_ADDED, Plan};

/// One key of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortKey {
    /// A column of the table.
    pub column: String,
    /// The greatest first.
    pub descending: bool,
    /// Rows without a value come before the others.
    pub nulls_first: bool,
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
        if fields.iter().any(|known| known.source_id == field.source_id) {
            let message = format!("rows cannot be sorted by {} twice", key.column);
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
    let Some(column) = columns.iter().find(|column| column.name == key.column) else {
        let error = Error::new(ErrorCode::ColumnNotFound, format!("there is no column {} to sort by", key.column));
        return Err(match nearest(&key.column, columns.iter().map(|column| column.name.as_str())) {
            Some(near) => error.with_hint(format!("did you mean {near}?")),
            None => error,
        });
    };
    if column.field_type.as_primitive_type().is_none_or(|of| matches!(of, PrimitiveType::Fixed(_))) {
        let message = format!("rows cannot be sorted by {}: {} has no order", key.column, column.field_type);
        return Err(Error::new(ErrorCode::InvalidQuery, message));
    }
    Ok(SortField {
        source_id: column.id,
        transform: Transform::Identity,
        direction: if key.descending { SortDirection::Descending } else { SortDirection::Ascending },
        null_order: if key.nulls_first { NullOrder::First } else { NullOrder::Last },
    })
}
