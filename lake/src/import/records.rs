//! The records of files for a manifest: partition values, counts and bounds, from folders and footers.

use std::collections::HashMap;

use chrono::NaiveDate;
use iceberg::spec::{
    DataContentType, DataFileBuilder, DataFileFormat, Literal, PartitionSpec, PrimitiveType, Schema, Struct, Transform,
    Type,
};
use townlake_common::{Error, ErrorCode, Result};

use super::folder::{Folder, ParquetFile};
use crate::write::{of_columns, split_offsets};
use crate::{LoadedTable, WrittenFile};

/// The records of all files of a folder, for the partition spec of today.
///
/// Errors: `NOT_SUPPORTED` for a spec that folders cannot say, `INVALID_ARGUMENT` for a value that is none of its column,
/// each naming the file.
pub(super) fn records(table: &LoadedTable, folder: &Folder) -> Result<Vec<WrittenFile>> {
    let (schema, spec) = (table.metadata.current_schema(), table.metadata.default_partition_spec());
    let columns = leaves(schema);
    folder.files.iter().map(|file| record(table, schema, spec, &columns, file)).collect()
}

fn record(
    table: &LoadedTable,
    schema: &Schema,
    spec: &PartitionSpec,
    columns: &HashMap<String, (i32, PrimitiveType)>,
    file: &ParquetFile,
) -> Result<WrittenFile> {
    let metrics = of_columns(&file.footer, |chunk| columns.get(&chunk.column_path().string()).cloned());
    let rows = u64::try_from(file.footer.file_metadata().num_rows()).unwrap_or(0);
    let data_file = DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(file.uri.clone())
        .file_format(DataFileFormat::Parquet)
        .partition(partition(table, schema, spec, file)?)
        .partition_spec_id(spec.spec_id())
        .record_count(rows)
        .file_size_in_bytes(file.size)
        .column_sizes(metrics.sizes)
        .value_counts(metrics.values)
        .null_value_counts(metrics.nulls)
        .lower_bounds(metrics.lower)
        .upper_bounds(metrics.upper)
        .split_offsets(Some(split_offsets(&file.footer)))
        .build()
        .map_err(|e| Error::internal(format!("the record of {} is not complete", file.uri)).with_source(e))?;
    Ok(WrittenFile { data_file, spec_id: spec.spec_id(), rows, bytes: file.size })
}

/// The columns without children, by their paths in a Parquet file that has them as the table does.
fn leaves(schema: &Schema) -> HashMap<String, (i32, PrimitiveType)> {
    let fields = schema.as_struct().fields().iter();
    let mut open: Vec<(String, i32, &Type)> =
        fields.map(|field| (field.name.clone(), field.id, field.field_type.as_ref())).collect();
    let mut leaves = HashMap::new();
    while let Some((path, id, of)) = open.pop() {
        match of {
            Type::Primitive(primitive) => {
                leaves.insert(path, (id, primitive.clone()));
            }
            Type::Struct(fields) => {
                open.extend(fields.fields().iter().map(|f| (format!("{path}.{}", f.name), f.id, f.field_type.as_ref())))
            }
            // What is in lists and maps has no bounds, and its counts are for nobody.
            Type::List(_) | Type::Map(_) => {}
        }
    }
    leaves
}

fn partition(table: &LoadedTable, schema: &Schema, spec: &PartitionSpec, file: &ParquetFile) -> Result<Struct> {
    let refuse = |what: String| {
        let message = format!("{} cannot be a file of table {}: {what}", file.uri, table.full_name());
        Error::new(ErrorCode::NotSupported, message)
    };
    if spec.fields().is_empty() && !file.partition.is_empty() && !file.partition.iter().all(|(name, _)| has(file, name))
    {
        let names: Vec<&str> = file.partition.iter().map(|(name, _)| name.as_str()).collect();
        return Err(refuse(format!("its folders say {}, and the table is not partitioned by it", names.join(", "))));
    }
    let values = spec.fields().iter().map(|field| {
        let source = schema.field_by_id(field.source_id);
        let (Some(source), Transform::Identity) = (source, field.transform) else {
            return match field.transform {
                Transform::Void => Ok(None),
                _ => Err(refuse(format!("no folder says the partition field {}", field.name))),
            };
        };
        let Some((_, value)) = file.partition.iter().find(|(name, _)| *name == source.name) else {
            return Err(refuse(format!("no folder says the partition column {}", source.name)));
        };
        let Some(text) = value else { return Ok(None) };
        literal(text, &source.field_type).map(Some).ok_or_else(|| {
            let message = format!("{}: '{text}' is no {} for column {}", file.uri, source.field_type, source.name);
            Error::new(ErrorCode::InvalidArgument, message)
        })
    });
    let values = values.collect::<Result<Vec<Option<Literal>>>>()?;
    Ok(Struct::from_iter(values))
}

fn has(file: &ParquetFile, column: &str) -> bool {
    file.columns.field_with_name(column).is_ok()
}

fn literal(text: &str, of: &Type) -> Option<Literal> {
    let Type::Primitive(of) = of else { return None };
    Some(match of {
        PrimitiveType::Boolean => Literal::bool(text.parse::<bool>().ok()?),
        PrimitiveType::Int => Literal::int(text.parse::<i32>().ok()?),
        PrimitiveType::Long => Literal::long(text.parse::<i64>().ok()?),
        PrimitiveType::Date => {
            let days = text.parse::<NaiveDate>().ok()?.signed_duration_since(NaiveDate::default()).num_days();
            Literal::date(i32::try_from(days).ok()?)
        }
        PrimitiveType::String => Literal::string(text),
        _ => return None,
    })
}
