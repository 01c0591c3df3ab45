//! Another partitioning for what is written from now on. Files that are there keep theirs, and are read by it.

use iceberg::spec::{PartitionSpec, Schema, TableMetadata, Transform, UnboundPartitionField, UnboundPartitionSpec};
use iceberg::{TableRequirement, TableUpdate};
use townlake_common::{Error, ErrorCode, Result, nearest};

use super::{DropPartitionField, LAST_ADDED, Plan};
use crate::PartitionField;
use crate::format::is_avro_name;
use crate::lake_catalog::{parse_transform, partition_field_name};

impl Plan {
    pub(super) fn add_partition_field(
        &mut self,
        field: &PartitionField,
        name: Option<&str>,
        metadata: &TableMetadata,
        table: &str,
    ) -> Result<()> {
        let (source_id, transform) = made_of(field, metadata.current_schema(), table)?;
        let name = name.map_or_else(|| partition_field_name(&field.column, transform), str::to_string);
        if !is_avro_name(&name) {
            let message = format!("a partition field of table {table} cannot be called {name}");
            let hint = "manifests take letters, digits and _, a digit not in front";
            return Err(Error::new(ErrorCode::InvalidQuery, message).with_hint(hint));
        }
        let spec = metadata.default_partition_spec();
        let twice = spec.fields().iter().find(|field| {
            field.name.eq_ignore_ascii_case(&name) || (field.source_id, field.transform) == (source_id, transform)
        });
        if let Some(twice) = twice {
            let message = format!("table {table} is partitioned by {} already", twice.name);
            return Err(Error::new(ErrorCode::AlreadyExists, message));
        }
        let mut fields = unbound(spec);
        fields.push(UnboundPartitionField { source_id, field_id: None, name, transform });
        self.set_spec(fields, metadata, table)
    }

    pub(super) fn drop_partition_field(
        &mut self,
        dropped: &DropPartitionField,
        metadata: &TableMetadata,
        table: &str,
    ) -> Result<()> {
        let (spec, schema) = (metadata.default_partition_spec(), metadata.current_schema());
        let made = match dropped {
            DropPartitionField::Made(field) => Some(made_of(field, schema, table)?),
            DropPartitionField::Named(_) => None,
        };
        let index = spec.fields().iter().position(|field| match dropped {
            DropPartitionField::Named(name) => {
                let source = schema.name_by_field_id(field.source_id);
                field.name == *name || (field.transform == Transform::Identity && source == Some(name))
            }
            DropPartitionField::Made(_) => Some((field.source_id, field.transform)) == made,
        });
        let Some(index) = index else { return Err(no_such_field(dropped, spec, table)) };
        let mut fields = unbound(spec);
        match metadata.format_version() {
            // Version 1 finds partition values by their place: a dropped field keeps it.
            iceberg::spec::FormatVersion::V1 => fields.iter_mut().skip(index).take(1).for_each(|field| {
                field.transform = Transform::Void;
                field.name = format!("{}_{}", field.name, field.field_id.unwrap_or_default());
            }),
            _ => drop(fields.remove(index)),
        }
        self.set_spec(fields, metadata, table)
    }

    fn set_spec(&mut self, fields: Vec<UnboundPartitionField>, metadata: &TableMetadata, table: &str) -> Result<()> {
        let spec = UnboundPartitionSpec::builder().add_partition_fields(fields).map_err(|error| {
            let message = format!("table {table} cannot be partitioned so: {}", error.message());
            Error::new(ErrorCode::InvalidQuery, message).with_source(error)
        })?;
        self.updates.push(TableUpdate::AddSpec { spec: spec.build() });
        self.updates.push(TableUpdate::SetDefaultSpec { spec_id: LAST_ADDED });
        self.requirements.extend([
            TableRequirement::CurrentSchemaIdMatch { current_schema_id: metadata.current_schema_id() },
            TableRequirement::DefaultSpecIdMatch { default_spec_id: metadata.default_partition_spec_id() },
            TableRequirement::LastAssignedPartitionIdMatch { last_assigned_partition_id: metadata.last_partition_id() },
        ]);
        Ok(())
    }
}

/// The source column's id, and the transform.
fn made_of(field: &PartitionField, schema: &Schema, table: &str) -> Result<(i32, Transform)> {
    let Some(source) = schema.field_by_name(&field.column) else {
        let message = format!("column {} does not exist in table {table}", field.column);
        let error = Error::new(ErrorCode::ColumnNotFound, message);
        let near = nearest(&field.column, schema.as_struct().fields().iter().map(|field| field.name.as_str()));
        return Err(match near {
            Some(near) => error.with_hint(format!("did you mean {near}?")),
            None => error,
        });
    };
    Ok((source.id, parse_transform(field, &source.field_type)?))
}

fn unbound(spec: &PartitionSpec) -> Vec<UnboundPartitionField> {
    spec.fields().iter().cloned().map(UnboundPartitionField::from).collect()
}

fn no_such_field(dropped: &DropPartitionField, spec: &PartitionSpec, table: &str) -> Error {
    let name = match dropped {
        DropPartitionField::Named(name) => name.clone(),
        DropPartitionField::Made(field) => format!("{}({})", field.transform, field.column),
    };
    let error = Error::new(ErrorCode::ColumnNotFound, format!("table {table} is not partitioned by {name}"));
    let fields: Vec<_> = spec.fields().iter().map(|field| field.name.as_str()).collect();
    match fields.is_empty() {
        true => error.with_hint("it is not partitioned"),
        false => error.with_hint(format!("its partition fields are {}", fields.join(", "))),
    }
}
