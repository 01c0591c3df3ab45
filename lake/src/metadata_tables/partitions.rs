//! `$partitions`: the data files of a snapshot, added up by partition.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use futures::{FutureExt, StreamExt, TryStreamExt};
use iceberg::spec::{DataContentType, DataFile, Manifest, ManifestFile, NestedFieldRef, PrimitiveType, Transform};
use townlake_common::Result;

use super::values::{PartitionColumns, scalars};
use super::{Batches, each_manifest, optional, required, unfit};
use crate::LoadedTable;
use crate::plan::bounds;
use crate::schema::primitive_to_arrow;

pub(super) fn schema(table: &LoadedTable) -> Result<Schema> {
    let partition = PartitionColumns::of(&table.metadata)?.data_type();
    let mut fields: Vec<Field> = partition.map(|of| required("partition", of)).into_iter().collect();
    fields.extend([
        required("record_count", DataType::Int64),
        required("file_count", DataType::Int64),
        required("total_size", DataType::Int64),
    ]);
    let data = data_fields(&Columns::of(table))?;
    if !data.is_empty() {
        fields.push(required("data", DataType::Struct(data)));
    }
    Ok(Schema::new(fields))
}

/// What is told of each column beside those of identity partitions.
fn data_fields(columns: &Columns) -> Result<Fields> {
    let field = |(field, of): &(NestedFieldRef, PrimitiveType)| {
        Ok(Field::new(&field.name, DataType::Struct(column_fields(of)?), true))
    };
    Ok(columns.0.iter().map(field).collect::<Result<Vec<_>>>()?.into())
}

fn column_fields(of: &PrimitiveType) -> Result<Fields> {
    let of = primitive_to_arrow(of)?;
    Ok(Fields::from(vec![
        optional("min", of.clone()),
        optional("max", of),
        optional("null_count", DataType::Int64),
        optional("nan_count", DataType::Int64),
    ]))
}

/// The primitive columns of the top level whose value the partition does not say.
struct Columns(Vec<(NestedFieldRef, PrimitiveType)>);

impl Columns {
    fn of(table: &LoadedTable) -> Self {
        let fields = table.metadata.partition_specs_iter().flat_map(|spec| spec.fields());
        let identities = fields.filter(|field| field.transform == Transform::Identity).map(|field| field.source_id);
        let identities: Vec<i32> = identities.collect();
        let columns = table.iceberg_schema.as_struct().fields().iter().filter_map(|field| {
            let of = field.field_type.as_primitive_type()?;
            (!identities.contains(&field.id)).then(|| (Arc::clone(field), of.clone()))
        });
        Self(columns.collect())
    }
}

type Key = (i32, Vec<ScalarValue>);
type Partitions = HashMap<Key, Totals>;

/// What the files of a partition add up to.
#[derive(Default)]
struct Totals {
    records: u64,
    files: i64,
    bytes: u64,
    columns: Vec<ColumnTotals>,
}

/// Of one column. What one file does not tell is not known of the partition.
struct ColumnTotals {
    min: Bound,
    max: Bound,
    nulls: Option<u64>,
    nans: Option<u64>,
}

/// The least or greatest value so far.
enum Bound {
    /// No file has a value.
    None,
    Known(ScalarValue),
    /// A file with values does not tell.
    Unknown,
}

pub(super) fn batches(table: &Arc<LoadedTable>, schema: &SchemaRef) -> Batches {
    let (table, schema) = (Arc::clone(table), Arc::clone(schema));
    let batch = async move {
        let of = Arc::clone(&table);
        let parts = each_manifest(&table, move |head, manifest| add_up(&of, head, manifest));
        let merge = |mut all: Partitions, part: Partitions| async move {
            for (key, totals) in part {
                all.entry(key).or_default().add(totals);
            }
            Ok(all)
        };
        let all = parts.try_fold(Partitions::new(), merge).await?;
        batch(&table, &schema, all)
    };
    batch.into_stream().boxed()
}

/// The partitions of one manifest.
fn add_up(table: &LoadedTable, head: &ManifestFile, manifest: &Manifest) -> Result<Partitions> {
    let (partitions, columns) = (PartitionColumns::of(&table.metadata)?, Columns::of(table));
    let spec = manifest.metadata().partition_spec();
    let mut all = Partitions::new();
    for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
        let file = &entry.data_file;
        if file.content_type() == DataContentType::Data {
            let key = (head.partition_spec_id, partitions.values(spec, file.partition())?);
            all.entry(key).or_default().add(Totals::of(file, &columns));
        }
    }
    Ok(all)
}

impl Totals {
    fn of(file: &DataFile, columns: &Columns) -> Self {
        let columns = columns.0.iter().map(|(field, of)| ColumnTotals::of(file, field.id, of)).collect();
        Self { records: file.record_count(), files: 1, bytes: file.file_size_in_bytes(), columns }
    }

    fn add(&mut self, more: Self) {
        self.records = self.records.saturating_add(more.records);
        self.bytes = self.bytes.saturating_add(more.bytes);
        match self.files {
            0 => self.columns = more.columns,
            _ => self.columns.iter_mut().zip(more.columns).for_each(|(column, more)| column.add(more)),
        }
        self.files += more.files;
    }
}

impl ColumnTotals {
    fn of(file: &DataFile, id: i32, of: &PrimitiveType) -> Self {
        let known = bounds::of_column(file, id, of);
        let nulls = known.null_count;
        let no_value = nulls.is_some_and(|nulls| nulls == file.record_count());
        let bound = |value: Option<ScalarValue>| match value {
            Some(value) => Bound::Known(value),
            None if no_value => Bound::None,
            None => Bound::Unknown,
        };
        let nans = file.nan_value_counts().get(&id).copied();
        Self { min: bound(known.lower), max: bound(known.upper), nulls, nans }
    }

    fn add(&mut self, more: Self) {
        let sum = |a: Option<u64>, b: Option<u64>| a?.checked_add(b?);
        self.nulls = sum(self.nulls, more.nulls);
        self.nans = sum(self.nans, more.nans);
        self.min.keep(more.min, |kept, other| other < kept);
        self.max.keep(more.max, |kept, other| other > kept);
    }
}

impl Bound {
    fn keep(&mut self, other: Self, is_better: fn(&ScalarValue, &ScalarValue) -> bool) {
        let replaced = match (&*self, &other) {
            (Self::Unknown, _) | (_, Self::None) => false,
            (Self::None, _) | (_, Self::Unknown) => true,
            (Self::Known(kept), Self::Known(other)) => is_better(kept, other),
        };
        if replaced {
            *self = other;
        }
    }

    fn value(&self) -> Option<&ScalarValue> {
        match self {
            Self::Known(value) => Some(value),
            Self::None | Self::Unknown => None,
        }
    }
}

fn batch(table: &LoadedTable, schema: &SchemaRef, all: Partitions) -> Result<RecordBatch> {
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_by(|((a_spec, a), _), ((b_spec, b), _)| {
        a_spec.cmp(b_spec).then_with(|| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal))
    });
    let (keys, totals): (Vec<_>, Vec<_>) = all.into_iter().map(|((_, values), totals)| (values, totals)).unzip();
    let long = |value: u64| i64::try_from(value).ok();
    let partitions = PartitionColumns::of(&table.metadata)?;
    let mut columns: Vec<ArrayRef> = Vec::new();
    if partitions.data_type().is_some() {
        columns.push(partitions.column(&keys)?);
    }
    columns.extend([
        Arc::new(totals.iter().map(|totals| long(totals.records)).collect::<Int64Array>()) as ArrayRef,
        Arc::new(totals.iter().map(|totals| Some(totals.files)).collect::<Int64Array>()),
        Arc::new(totals.iter().map(|totals| long(totals.bytes)).collect::<Int64Array>()),
    ]);
    let of = Columns::of(table);
    let fields = data_fields(&of)?;
    if !fields.is_empty() {
        let data = of.0.iter().enumerate().map(|(index, (_, of))| data_column(&totals, index, of));
        let data = StructArray::try_new(fields, data.collect::<Result<Vec<_>>>()?, None).map_err(unfit)?;
        columns.push(Arc::new(data));
    }
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(unfit)
}

fn data_column(totals: &[Totals], index: usize, of: &PrimitiveType) -> Result<ArrayRef> {
    let fields = column_fields(of)?;
    let null = ScalarValue::try_from(&primitive_to_arrow(of)?).unwrap_or(ScalarValue::Null);
    let column = || totals.iter().filter_map(|totals| totals.columns.get(index));
    let bounds = |of: fn(&ColumnTotals) -> &Bound| {
        let values = column().map(|column| of(column).value().unwrap_or(&null).clone());
        scalars(values.collect(), &null.data_type())
    };
    let counts = |of: fn(&ColumnTotals) -> Option<u64>| -> ArrayRef {
        let counts = column().map(|column| of(column).and_then(|count| i64::try_from(count).ok()));
        Arc::new(counts.collect::<Int64Array>())
    };
    let columns = vec![
        bounds(|column| &column.min)?,
        bounds(|column| &column.max)?,
        counts(|column| column.nulls),
        counts(|column| column.nans),
    ];
    Ok(Arc::new(StructArray::try_new(fields, columns, None).map_err(unfit)?))
}
