//! What a write answers: one row a data file, from which the coordinator makes its commit.
//!
//! The crate `iceberg` has JSON for the record of a file, but only its bounds survive that: a partition value that is NaN
//! or infinite comes back as null, and many `real`s do not come back at all. So the partition travels beside it in bytes.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, Int64Array, ListBuilder, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema as ArrowSchema, SchemaRef};
use iceberg::spec::{
    DataFile, DataFileBuilder, Datum, FormatVersion, Literal, PrimitiveLiteral, Struct, StructType,
    deserialize_data_file_from_json, serialize_data_file_to_json,
};
use townlake_common::{Error, Result};

use super::files::Finished;
use crate::types::{FilePlan, LoadedTable, WrittenFile};

/// The answer of a write: one row a data file, with its Iceberg record as JSON, its partition's values, rows and bytes.
pub static WRITTEN_FILES_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(ArrowSchema::new(vec![
        Field::new("data_file", DataType::Utf8, false),
        Field::new("partition", DataType::List(Arc::new(Field::new_list_field(DataType::Binary, true))), false),
        Field::new("rows", DataType::Int64, false),
        Field::new("bytes", DataType::Int64, false),
    ]))
});

/// The answer that tells of these files.
pub(super) fn encode(finished: Vec<Finished>, version: FormatVersion) -> Result<RecordBatch> {
    let broken = |what: &str| Error::internal(format!("a data file's {what} cannot be encoded"));
    let mut json = Vec::with_capacity(finished.len());
    let mut partitions = ListBuilder::new(BinaryBuilder::new());
    let (mut rows, mut bytes) = (Vec::with_capacity(finished.len()), Vec::with_capacity(finished.len()));
    for file in finished {
        rows.push(i64::try_from(file.rows).unwrap_or(i64::MAX));
        bytes.push(i64::try_from(file.bytes).unwrap_or(i64::MAX));
        for value in file.data_file.partition().fields() {
            match value {
                None => partitions.values().append_null(),
                Some(Literal::Primitive(value)) => {
                    let value = to_bytes(value).ok_or_else(|| broken("partition"))?;
                    partitions.values().append_value(value);
                }
                Some(_) => return Err(broken("partition")),
            }
        }
        partitions.append(true);
        // Of no partition type: the JSON leaves the partition out.
        let record = serialize_data_file_to_json(file.data_file, &StructType::new(vec![]), version);
        json.push(record.map_err(|e| broken("record").with_source(e))?);
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(json)),
        Arc::new(partitions.finish()),
        Arc::new(Int64Array::from(rows)),
        Arc::new(Int64Array::from(bytes)),
    ];
    RecordBatch::try_new(Arc::clone(&WRITTEN_FILES_SCHEMA), columns)
        .map_err(|e| Error::internal("the answer of a write cannot be made").with_source(e))
}

/// The files that the answers of a write tell of.
pub fn written_files(batches: &[RecordBatch], table: &LoadedTable) -> Result<Vec<WrittenFile>> {
    changed_files(batches, table, &FilePlan::default())
}

/// The files that the answers of a write of changed rows tell of: data files, and position delete files in the partitions
/// of the data files of `plan`.
pub fn changed_files(batches: &[RecordBatch], table: &LoadedTable, plan: &FilePlan) -> Result<Vec<WrittenFile>> {
    let mut files = Vec::new();
    for batch in batches {
        if batch.schema().as_ref() != WRITTEN_FILES_SCHEMA.as_ref() {
            return Err(Error::internal("a write answered with other columns than those of its files"));
        }
        let [json, partitions, rows, bytes] = batch.columns() else { continue };
        let counts = rows.as_primitive::<Int64Type>().values().iter().zip(bytes.as_primitive::<Int64Type>().values());
        let records = json.as_string::<i32>().iter().flatten().zip(partitions.as_list::<i32>().iter().flatten());
        for ((json, partition), (rows, bytes)) in records.zip(counts) {
            let (data_file, spec_id) = data_file(json, &partition, table, plan)?;
            let positive = |number: &i64| u64::try_from(*number).unwrap_or(0);
            files.push(WrittenFile { data_file, spec_id, rows: positive(rows), bytes: positive(bytes) });
        }
    }
    Ok(files)
}

fn broken() -> Error {
    Error::internal("the record of a written file cannot be decoded")
}

/// The file's record, and the partition spec that it follows.
fn data_file(json: &str, partition: &ArrayRef, table: &LoadedTable, plan: &FilePlan) -> Result<(DataFile, i32)> {
    let spec_id = table.metadata.default_partition_spec_id();
    let file = deserialize_data_file_from_json(json, spec_id, &StructType::new(vec![]), &table.iceberg_schema)
        .map_err(|e| broken().with_source(e))?;
    if let Some(data_file) = file.referenced_data_file() {
        let of = plan.files.iter().find(|planned| planned.path == data_file).ok_or_else(broken)?;
        return Ok((with_partition(&file, of.spec_id, of.partition.clone())?, of.spec_id));
    }
    let partition_type = table.metadata.default_partition_type();
    let values = partition.as_binary::<i32>();
    if values.len() != partition_type.fields().len() {
        return Err(Error::internal("a written file follows another partition spec than its table"));
    }
    let mut literals = Vec::with_capacity(values.len());
    for (value, field) in values.iter().zip(partition_type.fields()) {
        let of = field.field_type.as_primitive_type().ok_or_else(broken)?;
        let datum = value.map(|value| Datum::try_from_bytes(value, of.clone())).transpose();
        let datum = datum.map_err(|e| broken().with_source(e))?;
        literals.push(datum.map(|datum| Literal::Primitive(datum.literal().clone())));
    }
    Ok((with_partition(&file, spec_id, Struct::from_iter(literals))?, spec_id))
}

/// A record cannot be changed: everything that a write says of a file is copied.
fn with_partition(file: &DataFile, spec_id: i32, partition: Struct) -> Result<DataFile> {
    DataFileBuilder::default()
        .content(file.content_type())
        .file_path(file.file_path().to_string())
        .file_format(file.file_format())
        .partition(partition)
        .partition_spec_id(spec_id)
        .record_count(file.record_count())
        .file_size_in_bytes(file.file_size_in_bytes())
        .column_sizes(file.column_sizes().clone())
        .value_counts(file.value_counts().clone())
        .null_value_counts(file.null_value_counts().clone())
        .nan_value_counts(file.nan_value_counts().clone())
        .lower_bounds(file.lower_bounds().clone())
        .upper_bounds(file.upper_bounds().clone())
        .split_offsets(file.split_offsets().map(<[i64]>::to_vec))
        .referenced_data_file(file.referenced_data_file())
        .build()
        .map_err(|e| broken().with_source(e))
}

/// The bytes that `Datum::try_from_bytes` takes. Decimals are whole: a truncated one may be wider than its type says.
fn to_bytes(value: &PrimitiveLiteral) -> Option<Vec<u8>> {
    Some(match value {
        PrimitiveLiteral::Boolean(v) => vec![u8::from(*v)],
        PrimitiveLiteral::Int(v) => v.to_le_bytes().to_vec(),
        PrimitiveLiteral::Long(v) => v.to_le_bytes().to_vec(),
        PrimitiveLiteral::Float(v) => v.0.to_le_bytes().to_vec(),
        PrimitiveLiteral::Double(v) => v.0.to_le_bytes().to_vec(),
        PrimitiveLiteral::String(v) => v.as_bytes().to_vec(),
        PrimitiveLiteral::Binary(v) => v.clone(),
        PrimitiveLiteral::UInt128(v) => v.to_be_bytes().to_vec(),
        PrimitiveLiteral::Int128(v) => v.to_be_bytes().to_vec(),
        PrimitiveLiteral::AboveMax | PrimitiveLiteral::BelowMin => return None,
    })
}
