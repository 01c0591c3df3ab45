//! Changes of columns. Ids are never reused and never change: so files that were written before are read as before.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use iceberg::spec::{NestedField, NestedFieldRef, PrimitiveType, Schema, StructType, TableMetadata, Type};
use iceberg::{TableRequirement, TableUpdate};
use townlake_common::{Error, ErrorCode, Result};

use super::fields::{self, edit, find};
use super::{LAST_ADDED, Plan, Position, TableChange};
use crate::schema;

/// Fields in each other. Statements could build a tower of them one by one, and from about 40 levels on the metadata's JSON is
/// too deep for whoever reads it, us included.
const MAX_LEVELS: usize = 32;

/// The columns of a table while they are changed.
pub(super) struct Columns<'a> {
    metadata: &'a TableMetadata,
    table: &'a str,
    root: Type,
    last_id: i32,
    /// Whether a column was dropped: then partitioning and sort order must stay what they are.
    drops: bool,
}

impl<'a> Columns<'a> {
    pub fn of(metadata: &'a TableMetadata, table: &'a str) -> Self {
        let root = Type::Struct(metadata.current_schema().as_struct().clone());
        Self { metadata, table, root, last_id: metadata.last_column_id(), drops: false }
    }

    /// Makes the change, if it is one of columns.
    pub fn apply(&mut self, change: &TableChange) -> Result<bool> {
        match change {
            TableChange::AddColumn { path, column, position, if_not_exists } => {
                self.add(path, column, position.as_ref(), *if_not_exists)?;
            }
            TableChange::DropColumn { path, if_exists } => self.drop_column(path, *if_exists)?,
            TableChange::RenameColumn { path, to } => self.rename(path, to)?,
            TableChange::SetType { path, to } => self.set_type(path, to)?,
            TableChange::DropNotNull { path } => self.change_field(path, |field| {
                field.required = false;
                Ok(())
            })?,
            TableChange::CommentColumn { path, comment } => self.change_field(path, |field| {
                field.doc.clone_from(comment);
                Ok(())
            })?,
            TableChange::MoveColumn { path, position } => self.move_column(path, position)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Adds what makes the new columns current to the plan, if they are other ones.
    pub fn finish(self, plan: &mut Plan) -> Result<()> {
        let Type::Struct(fields) = &self.root else { return Err(Error::internal("a schema that is no struct")) };
        let old = self.metadata.current_schema();
        if old.as_struct() == fields {
            return Ok(());
        }
        if fields::levels(&self.root) > MAX_LEVELS {
            let message =
                format!("the columns of table {} would be nested deeper than {MAX_LEVELS} levels", self.table);
            return Err(Error::new(ErrorCode::NotSupported, message));
        }
        let schema = self.schema_of(fields, old)?;
        plan.updates.push(TableUpdate::AddSchema { schema });
        plan.updates.push(TableUpdate::SetCurrentSchema { schema_id: LAST_ADDED });
        plan.requirements.extend([
            TableRequirement::CurrentSchemaIdMatch { current_schema_id: self.metadata.current_schema_id() },
            TableRequirement::LastAssignedFieldIdMatch { last_assigned_field_id: self.metadata.last_column_id() },
        ]);
        if self.drops {
            let default_sort_order_id = self.metadata.default_sort_order_id();
            plan.requirements.extend([
                TableRequirement::DefaultSpecIdMatch { default_spec_id: self.metadata.default_partition_spec_id() },
                TableRequirement::DefaultSortOrderIdMatch { default_sort_order_id },
            ]);
        }
        Ok(())
    }

    fn schema_of(&self, fields: &StructType, old: &Schema) -> Result<Schema> {
        let builder = Schema::builder().with_fields(fields.fields().iter().cloned());
        builder.with_identifier_field_ids(old.identifier_field_ids()).build().map_err(|error| {
            let message = format!("the columns of table {} cannot be changed so: {}", self.table, error.message());
            Error::new(ErrorCode::InvalidQuery, message).with_source(error)
        })
    }

    fn edit(
        &mut self,
        path: &[String],
        mut change: impl FnMut(&mut Vec<NestedFieldRef>, &str) -> Result<()>,
    ) -> Result<()> {
        self.root = edit(&self.root, path, self.table, &mut change)?;
        Ok(())
    }

    fn change_field(&mut self, path: &[String], mut change: impl FnMut(&mut NestedField) -> Result<()>) -> Result<()> {
        let table = self.table;
        self.edit(path, |fields, name| {
            let index = find(fields, name, table)?;
            let mut field = take(fields, index)?.as_ref().clone();
            change(&mut field)?;
            fields.insert(index, Arc::new(field));
            Ok(())
        })
    }

    fn add(
        &mut self,
        path: &[String],
        column: &FieldRef,
        position: Option<&Position>,
        if_not_exists: bool,
    ) -> Result<()> {
        let (table, last) = (self.table, self.last_id);
        let mut highest = last;
        self.edit(path, |fields, name| {
            if let Some(taken) = taken(fields, name) {
                return if if_not_exists { Ok(()) } else { Err(exists(taken, table)) };
            }
            let column = Arc::new(column.as_ref().clone().with_name(name).with_nullable(true));
            let added = schema::from_arrow_above(&[column], last)?;
            highest = added.highest_field_id();
            let index = match position {
                Some(position) => place(fields, position, table)?,
                None => fields.len(),
            };
            fields.splice(index..index, added.as_struct().fields().iter().cloned());
            Ok(())
        })?;
        self.last_id = highest;
        Ok(())
    }

    fn drop_column(&mut self, path: &[String], if_exists: bool) -> Result<()> {
        let (table, metadata) = (self.table, self.metadata);
        let mut drops = false;
        let dropped = self.edit(path, |fields, name| {
            let index = find(fields, name, table)?;
            let field = take(fields, index)?;
            check_unused(&field, metadata, table)?;
            if fields.is_empty() {
                let message = format!("{name} is the last column there is of table {table} or of a struct in it");
                return Err(Error::new(ErrorCode::InvalidQuery, message));
            }
            drops = true;
            Ok(())
        });
        self.drops |= drops;
        match dropped {
            Err(error) if if_exists && error.code() == ErrorCode::ColumnNotFound => Ok(()),
            dropped => dropped,
        }
    }

    fn rename(&mut self, path: &[String], to: &str) -> Result<()> {
        let table = self.table;
        self.edit(path, |fields, name| {
            let index = find(fields, name, table)?;
            let field = take(fields, index)?;
            if let Some(taken) = taken(fields, to) {
                return Err(exists(taken, table));
            }
            fields.insert(index, Arc::new(NestedField { name: to.to_string(), ..field.as_ref().clone() }));
            Ok(())
        })
    }

    fn set_type(&mut self, path: &[String], to: &DataType) -> Result<()> {
        let wanted = schema::from_arrow(&[Arc::new(Field::new("type", to.clone(), true))])?;
        let wanted = wanted.as_struct().fields().first().map(|field| field.field_type.as_ref().clone());
        let wanted = wanted.ok_or_else(|| Error::internal("a type without a field"))?;
        let (table, column) = (self.table, path.join("."));
        self.change_field(path, |field| {
            if !may_become(&field.field_type, &wanted) {
                let message = format!(
                    "column {column} of table {table} has the type {}, which cannot become {wanted}",
                    field.field_type
                );
                return Err(Error::new(ErrorCode::NotSupported, message).with_hint(
                    "int becomes long, float becomes double, and a decimal one of more digits and the same scale",
                ));
            }
            *field.field_type = wanted.clone();
            Ok(())
        })
    }

    fn move_column(&mut self, path: &[String], position: &Position) -> Result<()> {
        let table = self.table;
        self.edit(path, |fields, name| {
            let index = find(fields, name, table)?;
            let field = take(fields, index)?;
            let index = place(fields, position, table)?;
            fields.insert(index, field);
            Ok(())
        })
    }
}

fn take(fields: &mut Vec<NestedFieldRef>, index: usize) -> Result<NestedFieldRef> {
    match index < fields.len() {
        true => Ok(fields.remove(index)),
        false => Err(Error::internal("a field that was found is not there")),
    }
}

fn place(fields: &[NestedFieldRef], position: &Position, table: &str) -> Result<usize> {
    match position {
        Position::First => Ok(0),
        Position::After(name) => find(fields, name, table).map(|index| index + 1),
    }
}

/// The field that has the name, in whatever case: engines that fold the case of names could not tell the two apart.
fn taken<'f>(fields: &'f [NestedFieldRef], name: &str) -> Option<&'f NestedFieldRef> {
    let name = name.to_lowercase();
    fields.iter().find(|field| field.name.to_lowercase() == name)
}

fn exists(field: &NestedFieldRef, table: &str) -> Error {
    Error::new(ErrorCode::AlreadyExists, format!("table {table} has a column {} already", field.name))
}

/// Refuses a column that the table's layout is made of.
fn check_unused(field: &NestedFieldRef, metadata: &TableMetadata, table: &str) -> Result<()> {
    let ids = fields::ids(field);
    let refused = |what: &str, hint: &str| {
        let message = format!("column {} of table {table} {what}", field.name);
        Err(Error::new(ErrorCode::InvalidQuery, message).with_hint(hint))
    };
    let spec = metadata.default_partition_spec();
    if let Some(partition) = spec.fields().iter().find(|partition| ids.contains(&partition.source_id)) {
        let hint = format!("ALTER TABLE … DROP PARTITION FIELD {} first", partition.name);
        return refused("partitions the table", &hint);
    }
    if metadata.default_sort_order().fields.iter().any(|sort| ids.contains(&sort.source_id)) {
        return refused("is part of the table's sort order", "ALTER TABLE … WRITE UNORDERED first");
    }
    if metadata.current_schema().identifier_field_ids().any(|id| ids.contains(&id)) {
        return refused("identifies its rows", "another engine set its identifier fields, and can change them");
    }
    Ok(())
}

/// Whether every value of the one type is one of the other, in the files too.
fn may_become(from: &Type, to: &Type) -> bool {
    use PrimitiveType::{Decimal, Double, Float, Int, Long};
    match (from, to) {
        (from, to) if from == to => true,
        (Type::Primitive(from), Type::Primitive(to)) => match (from, to) {
            (Int, Long) | (Float, Double) => true,
            (Decimal { precision: old, scale: a }, Decimal { precision: new, scale: b }) => a == b && old <= new,
            _ => false,
        },
        _ => false,
    }
}
