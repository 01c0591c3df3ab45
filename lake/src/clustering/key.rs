//! What rows are compared by, as bytes: the values of the partition, then those of the order, both in the row format of Arrow
//! (<https://docs.rs/arrow-row>), or the z-order of their ranks.

use arrow::array::{Array, ArrayRef, BinaryArray, BinaryBuilder, Int64Array, RecordBatch};
use arrow::compute::{CastOptions, SortOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use iceberg::spec::Transform;
use std::sync::Arc;

use super::zorder::interleave;
use crate::write::transform;

/// So much of a sampled value is kept. A bound need not be a value, so that the beginning of one will do.
const SAMPLED_BYTES: usize = 256;
const RANGE: &str = "__range";
const KEY: &str = "__key";

/// A column that rows are compared by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyColumn {
    /// Its place in the input.
    pub index: usize,
    /// Its type in the table.
    pub data_type: DataType,
    pub transform: Transform,
    pub descending: bool,
    pub nulls_first: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Curve {
    Linear,
    /// For each column the bounds of its ranks, ascending. Without them there are samples only.
    Z {
        quantiles: Vec<Vec<Vec<u8>>>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// Of one row in so many what it is compared by.
    Samples { every: u64 },
    /// The columns of the input, the token of the row's range, and its key. `bounds`: where the second and later ranges begin.
    Keys { bounds: Vec<Vec<u8>>, tokens: Vec<i64> },
}

/// How the rows of an input are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeySpec {
    pub partition: Vec<KeyColumn>,
    pub order: Vec<KeyColumn>,
    pub curve: Curve,
    pub output: Output,
}

impl KeySpec {
    /// The same over an input that has no other columns, and which columns those are.
    pub(super) fn over_its_columns(&self) -> (Self, Vec<usize>) {
        let mut needed: Vec<usize> = self.partition.iter().chain(&self.order).map(|column| column.index).collect();
        needed.sort_unstable();
        needed.dedup();
        let moved = |columns: &[KeyColumn]| {
            let place = |index: usize| needed.binary_search(&index).unwrap_or_default();
            columns.iter().map(|column| KeyColumn { index: place(column.index), ..column.clone() }).collect()
        };
        let spec = Self { partition: moved(&self.partition), order: moved(&self.order), ..self.clone() };
        (spec, needed)
    }

    /// The columns of the answer.
    pub(super) fn schema(&self, input: &Schema) -> SchemaRef {
        let added = |name: &str, of: DataType| -> FieldRef { Arc::new(Field::new(name, of, false)) };
        let fields: Vec<FieldRef> = match &self.output {
            Output::Samples { .. } => {
                (0..=self.parts().len()).map(|n| added(&format!("{KEY}{n}"), DataType::Binary)).collect()
            }
            Output::Keys { .. } => {
                let more = [added(RANGE, DataType::Int64), added(KEY, DataType::Binary)];
                input.fields().iter().cloned().chain(more).collect()
            }
        };
        Arc::new(Schema::new(fields))
    }

    /// The columns that are compared together.
    fn parts(&self) -> Vec<&[KeyColumn]> {
        match self.curve {
            Curve::Linear => vec![&self.order],
            Curve::Z { .. } => self.order.chunks(1).collect(),
        }
    }
}

/// Computes keys.
pub(super) struct Keys {
    spec: Arc<KeySpec>,
    partition: Option<Encoder>,
    parts: Vec<Encoder>,
}

impl Keys {
    /// Errors: a column whose values have no order.
    pub(super) fn new(spec: Arc<KeySpec>) -> Result<Self, ArrowError> {
        let partition = if spec.partition.is_empty() { None } else { Some(Encoder::new(&spec.partition)?) };
        let parts = spec.parts().into_iter().map(Encoder::new).collect::<Result<_, _>>()?;
        Ok(Self { spec, partition, parts })
    }

    /// What the rows with these numbers are compared by: the partition, and each part of the order.
    pub(super) fn samples(&self, batch: &RecordBatch, rows: &[usize]) -> Result<Vec<ArrayRef>, ArrowError> {
        let of_rows = |encoded: Option<Rows>| -> ArrayRef {
            let start = |row: usize| match &encoded {
                Some(encoded) => {
                    let row = encoded.row(row);
                    row.data().get(..SAMPLED_BYTES).unwrap_or(row.data()).to_vec()
                }
                None => Vec::new(),
            };
            Arc::new(rows.iter().map(|row| Some(start(*row))).collect::<BinaryArray>())
        };
        let mut columns = vec![of_rows(self.partition.as_ref().map(|encoder| encoder.encode(batch)).transpose()?)];
        for part in &self.parts {
            columns.push(of_rows(Some(part.encode(batch)?)));
        }
        Ok(columns)
    }

    /// The batch with the token of each row's range and its key.
    pub(super) fn keyed(
        &self,
        batch: &RecordBatch,
        bounds: &[Vec<u8>],
        tokens: &[i64],
        schema: &SchemaRef,
    ) -> Result<RecordBatch, ArrowError> {
        let partition = self.partition.as_ref().map(|encoder| encoder.encode(batch)).transpose()?;
        let parts = self.parts.iter().map(|part| part.encode(batch)).collect::<Result<Vec<_>, _>>()?;
        let (mut keys, mut ranges) = (BinaryBuilder::new(), Vec::with_capacity(batch.num_rows()));
        let mut key = Vec::new();
        for row in 0..batch.num_rows() {
            key.clear();
            key.extend_from_slice(partition.as_ref().map_or(&[], |encoded| encoded.row(row).data()));
            let values: Vec<&[u8]> = parts.iter().map(|encoded| encoded.row(row).data()).collect();
            self.spec.curve.extend(&values, &mut key);
            let range = bounds.partition_point(|bound| bound.as_slice() <= key.as_slice());
            ranges.push(tokens.get(range).copied().unwrap_or_default());
            keys.append_value(&key);
        }
        let added: [ArrayRef; 2] = [Arc::new(Int64Array::from(ranges)), Arc::new(keys.finish())];
        RecordBatch::try_new(Arc::clone(schema), batch.columns().iter().cloned().chain(added).collect())
    }
}

impl Curve {
    /// Appends to a key what stands for the values of the order.
    pub(super) fn extend(&self, values: &[&[u8]], key: &mut Vec<u8>) {
        match self {
            Self::Linear => values.iter().for_each(|value| key.extend_from_slice(value)),
            Self::Z { quantiles } => {
                let rank =
                    |(value, bounds): (&&[u8], &Vec<Vec<u8>>)| bounds.partition_point(|b| b.as_slice() <= *value);
                let ranks: Vec<usize> = values.iter().zip(quantiles).map(rank).collect();
                interleave(&ranks, key);
            }
        }
    }
}

/// Encodes some columns so that their bytes compare as they do.
struct Encoder {
    columns: Vec<KeyColumn>,
    rows: RowConverter,
}

impl Encoder {
    fn new(columns: &[KeyColumn]) -> Result<Self, ArrowError> {
        let mut fields = Vec::with_capacity(columns.len());
        for column in columns {
            let of = transform::apply(column.transform, &arrow::array::new_empty_array(&column.data_type))?;
            let options = SortOptions { descending: column.descending, nulls_first: column.nulls_first };
            fields.push(SortField::new_with_options(of.data_type().clone(), options));
        }
        Ok(Self { columns: columns.to_vec(), rows: RowConverter::new(fields)? })
    }

    fn encode(&self, batch: &RecordBatch) -> Result<Rows, ArrowError> {
        let mut arrays = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            let missing = || ArrowError::SchemaError("a column that rows are compared by is not there".to_string());
            let array = batch.columns().get(column.index).ok_or_else(missing)?;
            // New rows may come in other types than the table's.
            let array = match array.data_type() == &column.data_type {
                true => Arc::clone(array),
                false => {
                    let options = CastOptions { safe: false, ..CastOptions::default() };
                    cast_with_options(array, &column.data_type, &options)?
                }
            };
            arrays.push(transform::apply(column.transform, &array)?);
        }
        self.rows.convert_columns(&arrays)
    }
}
