//! The column metrics of a data file, for its manifest.
//!
//! They come from the file's own footer, added up over the row groups. A bound must hold for the whole file: as soon as
//! one row group with values has no bound, the file has none.

use std::cmp::Ordering;
use std::collections::HashMap;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type};
use iceberg::spec::{Datum, PrimitiveType, Schema};
use parquet::basic::{LogicalType, TimeUnit as Unit, Type as Physical};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::statistics::Statistics;

use crate::schema::field_id;

/// How many characters of text, or bytes, a bound keeps: Iceberg's default `truncate(16)`.
const BOUND_LENGTH: usize = 16;

/// Metrics by field id.
#[derive(Debug, Default)]
pub(crate) struct ColumnMetrics {
    pub(crate) sizes: HashMap<i32, u64>,
    pub(crate) values: HashMap<i32, u64>,
    pub(crate) nulls: HashMap<i32, u64>,
    pub(crate) lower: HashMap<i32, Datum>,
    pub(crate) upper: HashMap<i32, Datum>,
}

/// The metrics of a file whose footer is `metadata`. Its columns carry field ids.
pub(super) fn of_file(metadata: &ParquetMetaData, schema: &Schema) -> ColumnMetrics {
    let of = |chunk: &ColumnChunkMetaData| {
        let basic = chunk.column_descr().self_type().get_basic_info();
        let id = basic.has_id().then(|| basic.id())?;
        let field_type = schema.field_by_id(id).map(|field| field.field_type.as_ref());
        Some((id, field_type.and_then(|of| of.as_primitive_type()).cloned()))
    };
    of_chunks(metadata, of)
}

/// The metrics of a file that another wrote without field ids. `column` tells the field id of a column and the type that the
/// table has it in. A bound that is in another unit than the table's, or in an order that is not told, is none.
pub(crate) fn of_columns(
    metadata: &ParquetMetaData,
    column: impl Fn(&ColumnChunkMetaData) -> Option<(i32, PrimitiveType)>,
) -> ColumnMetrics {
    of_chunks(metadata, |chunk| {
        let (id, of) = column(chunk)?;
        Some((id, Some(of).filter(|of| is_told_in(chunk, of))))
    })
}

/// Whether the footer has bounds of the column as values of this type.
fn is_told_in(chunk: &ColumnChunkMetaData, of: &PrimitiveType) -> bool {
    let physical = chunk.column_descr().physical_type();
    let logical = chunk.column_descr().logical_type_ref();
    match (of, physical) {
        (PrimitiveType::Boolean, Physical::BOOLEAN)
        | (PrimitiveType::Float, Physical::FLOAT)
        | (PrimitiveType::Double, Physical::FLOAT | Physical::DOUBLE) => true,
        // Numbers without a sign have another order.
        (PrimitiveType::Int | PrimitiveType::Long, Physical::INT32) | (PrimitiveType::Long, Physical::INT64) => {
            match logical {
                None => true,
                Some(LogicalType::Integer(integer)) => integer.is_signed,
                Some(_) => false,
            }
        }
        (PrimitiveType::Date, Physical::INT32) => matches!(logical, Some(LogicalType::Date)),
        (PrimitiveType::Timestamp | PrimitiveType::Timestamptz, Physical::INT64) => {
            matches!(logical, Some(LogicalType::Timestamp(time)) if time.unit == Unit::MICROS)
        }
        (PrimitiveType::String, Physical::BYTE_ARRAY) => {
            // Old footers have the bounds of bytes with signs.
            let deprecated = chunk.statistics().is_some_and(Statistics::is_min_max_deprecated);
            matches!(logical, Some(LogicalType::String)) && !deprecated
        }
        _ => false,
    }
}

/// Where the row groups of a file begin.
pub(crate) fn split_offsets(metadata: &ParquetMetaData) -> Vec<i64> {
    let offsets = metadata.row_groups().iter().filter_map(|group| {
        let first = group.columns().first()?;
        Some(first.dictionary_page_offset().unwrap_or_else(|| first.data_page_offset()))
    });
    offsets.collect()
}

fn of_chunks(
    metadata: &ParquetMetaData,
    column: impl Fn(&ColumnChunkMetaData) -> Option<(i32, Option<PrimitiveType>)>,
) -> ColumnMetrics {
    let mut metrics = ColumnMetrics::default();
    let mut bounds: HashMap<i32, Bounds> = HashMap::new();
    let mut unknown_nulls = Vec::new();
    for chunk in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        let Some((id, primitive)) = column(chunk) else { continue };
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        *metrics.sizes.entry(id).or_default() += count(chunk.compressed_size());
        *metrics.values.entry(id).or_default() += count(chunk.num_values());
        match chunk.statistics().and_then(Statistics::null_count_opt) {
            Some(nulls) => *metrics.nulls.entry(id).or_default() += nulls,
            None => unknown_nulls.push(id),
        }
        // Values inside lists and maps have no order among the rows: no bounds for them.
        if let Some(primitive) = primitive.filter(|_| chunk.column_descr().max_rep_level() == 0) {
            bounds.entry(id).or_default().add(chunk, &primitive);
        }
    }
    for id in unknown_nulls {
        metrics.nulls.remove(&id);
    }
    for (id, bounds) in bounds {
        if let Bound::Known(lower) = bounds.lower {
            metrics.lower.extend(truncate_lower(lower).map(|lower| (id, lower)));
        }
        if let Bound::Known(upper) = bounds.upper {
            metrics.upper.extend(truncate_upper(upper).map(|upper| (id, upper)));
        }
    }
    metrics
}

#[derive(Debug, Default)]
struct Bounds {
    lower: Bound,
    upper: Bound,
}

#[derive(Debug, Default)]
enum Bound {
    /// No value yet.
    #[default]
    Empty,
    Known(Datum),
    /// There are values that no bound is known of.
    Poisoned,
}

impl Bound {
    fn add(&mut self, next: Option<Datum>, wanted: Ordering) {
        *self = match (std::mem::take(self), next) {
            (Bound::Poisoned, _) | (_, None) => Bound::Poisoned,
            (Bound::Empty, Some(next)) => Bound::Known(next),
            (Bound::Known(known), Some(next)) => match next.partial_cmp(&known) {
                Some(order) if order == wanted => Bound::Known(next),
                Some(_) => Bound::Known(known),
                None => Bound::Poisoned,
            },
        };
    }
}

impl Bounds {
    fn add(&mut self, chunk: &ColumnChunkMetaData, primitive: &PrimitiveType) {
        let statistics = chunk.statistics();
        let nulls = statistics.and_then(Statistics::null_count_opt);
        if nulls.and_then(|nulls| i64::try_from(nulls).ok()) == Some(chunk.num_values()) {
            return;
        }
        // A footer's bound may be cut: then the minimum is still below and the maximum, which was incremented, above.
        // A value of fixed length that was cut is no value any more, which `datum` refuses.
        self.lower.add(statistics.and_then(|s| datum(s, s.min_bytes_opt()?, primitive)), Ordering::Less);
        self.upper.add(statistics.and_then(|s| datum(s, s.max_bytes_opt()?, primitive)), Ordering::Greater);
    }
}

/// A footer's bound as a value of the Iceberg type. `None` where it is no value of it, or NaN.
fn datum(statistics: &Statistics, bytes: &[u8], primitive: &PrimitiveType) -> Option<Datum> {
    let datum = match (primitive, statistics) {
        // Iceberg keeps decimals big-endian, Parquet keeps those in integers little-endian.
        (PrimitiveType::Decimal { .. }, Statistics::Int32(_)) => {
            let value = i32::from_le_bytes(bytes.try_into().ok()?);
            Datum::try_from_bytes(&value.to_be_bytes(), primitive.clone())
        }
        (PrimitiveType::Decimal { .. }, Statistics::Int64(_)) => {
            let value = i64::from_le_bytes(bytes.try_into().ok()?);
            Datum::try_from_bytes(&value.to_be_bytes(), primitive.clone())
        }
        // A file's type may be the narrower one that its column has widened.
        (PrimitiveType::Long, Statistics::Int32(_)) => {
            Ok(Datum::long(i64::from(i32::from_le_bytes(bytes.try_into().ok()?))))
        }
        (PrimitiveType::Double, Statistics::Float(_)) => {
            Ok(Datum::double(f64::from(f32::from_le_bytes(bytes.try_into().ok()?))))
        }
        (PrimitiveType::Fixed(length), _) if bytes.len() as u64 != *length => return None,
        _ => Datum::try_from_bytes(bytes, primitive.clone()),
    };
    datum.ok().filter(|datum| !datum.is_nan())
}

fn truncate_lower(datum: Datum) -> Option<Datum> {
    match (datum.data_type(), datum.literal()) {
        (PrimitiveType::String, iceberg::spec::PrimitiveLiteral::String(text)) => {
            Some(Datum::string(text.chars().take(BOUND_LENGTH).collect::<String>()))
        }
        (PrimitiveType::Binary, iceberg::spec::PrimitiveLiteral::Binary(bytes)) => {
            Some(Datum::binary(bytes.iter().copied().take(BOUND_LENGTH)))
        }
        _ => Some(datum),
    }
}

/// The shortened bound, raised so that it is still above; `None` when nothing that short is.
fn truncate_upper(datum: Datum) -> Option<Datum> {
    match (datum.data_type(), datum.literal()) {
        (PrimitiveType::String, iceberg::spec::PrimitiveLiteral::String(text)) => {
            if text.chars().count() <= BOUND_LENGTH {
                return Some(datum);
            }
            let mut kept: Vec<char> = text.chars().take(BOUND_LENGTH).collect();
            while let Some(last) = kept.pop() {
                if let Some(next) = next_char(last) {
                    kept.push(next);
                    return Some(Datum::string(kept.into_iter().collect::<String>()));
                }
            }
            None
        }
        (PrimitiveType::Binary, iceberg::spec::PrimitiveLiteral::Binary(bytes)) => {
            if bytes.len() <= BOUND_LENGTH {
                return Some(datum);
            }
            let mut kept: Vec<u8> = bytes.iter().copied().take(BOUND_LENGTH).collect();
            while let Some(last) = kept.pop() {
                if let Some(next) = last.checked_add(1) {
                    kept.push(next);
                    return Some(Datum::binary(kept));
                }
            }
            None
        }
        _ => Some(datum),
    }
}

/// The next character, over the gap that UTF-16 leaves.
fn next_char(c: char) -> Option<char> {
    match u32::from(c) {
        0xD7FF => Some('\u{E000}'),
        code => char::from_u32(code.checked_add(1)?),
    }
}

/// Counts NaN values by field id, which no footer does. Columns inside lists and maps are left out.
#[derive(Debug, Default)]
pub(super) struct NanCounts(HashMap<i32, u64>);

impl NanCounts {
    pub(super) fn add(&mut self, batch: &RecordBatch) {
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            self.add_column(field, column);
        }
    }

    fn add_column(&mut self, field: &Field, column: &ArrayRef) {
        let nans = match field.data_type() {
            DataType::Float32 => column.as_primitive::<Float32Type>().iter().flatten().filter(|v| v.is_nan()).count(),
            DataType::Float64 => column.as_primitive::<Float64Type>().iter().flatten().filter(|v| v.is_nan()).count(),
            DataType::Struct(children) => {
                for (child, column) in children.iter().zip(column.as_struct().columns()) {
                    self.add_column(child, column);
                }
                return;
            }
            _ => return,
        };
        if let Some(id) = field_id(field) {
            *self.0.entry(id).or_default() += nans as u64;
        }
    }

    pub(super) fn into_inner(self) -> HashMap<i32, u64> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{BinaryViewArray, Decimal128Array, Float64Array, Int32Array, StringViewArray};
    use iceberg::spec::{NestedField, Type};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;

    use super::*;

    fn schema(fields: Vec<(i32, &str, PrimitiveType)>) -> Schema {
        let fields = fields.into_iter().map(|(id, name, t)| NestedField::optional(id, name, Type::Primitive(t)).into());
        Schema::builder().with_fields(fields).build().unwrap()
    }

    fn write(schema: &Schema, columns: Vec<ArrayRef>, rows_per_group: usize) -> (ParquetMetaData, RecordBatch) {
        let arrow = crate::schema::to_arrow(schema).unwrap();
        let batch = RecordBatch::try_new(Arc::clone(&arrow), columns).unwrap();
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(rows_per_group)).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), arrow, Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        (writer.close().unwrap(), batch)
    }

    #[test]
    fn long_text_has_a_raised_upper_bound() {
        let schema = schema(vec![(1, "s", PrimitiveType::String), (2, "b", PrimitiveType::Binary)]);
        let text: ArrayRef = Arc::new(StringViewArray::from(vec!["aaaaaaaaaaaaaaaaZZZ", "zzzzzzzzzzzzzzzzZZZ"]));
        let high = [0xff_u8; 20];
        let bytes: ArrayRef = Arc::new(BinaryViewArray::from(vec![&[1_u8; 20][..], &high[..]]));
        let (metadata, _) = write(&schema, vec![text, bytes], 10);
        let metrics = of_file(&metadata, &schema);
        assert_eq!(metrics.lower[&1], Datum::string("a".repeat(16)));
        assert_eq!(metrics.upper[&1], Datum::string(format!("{}{{", "z".repeat(15))));
        assert_eq!(metrics.lower[&2], Datum::binary([1_u8; 16]));
        assert!(!metrics.upper.contains_key(&2), "nothing of 16 bytes is above 0xff…");
    }

    #[test]
    fn nan_is_no_bound_and_is_counted() {
        let schema = schema(vec![(1, "d", PrimitiveType::Double), (2, "n", PrimitiveType::Double)]);
        let some: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.5), Some(f64::NAN), None, Some(-2.0)]));
        let only: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN; 4]));
        let (metadata, batch) = write(&schema, vec![some, only], 10);
        let metrics = of_file(&metadata, &schema);
        assert_eq!(metrics.lower[&1], Datum::double(-2.0));
        assert_eq!(metrics.upper[&1], Datum::double(1.5));
        assert!(!metrics.lower.contains_key(&2) && !metrics.upper.contains_key(&2));
        assert_eq!((metrics.values[&1], metrics.nulls[&1]), (4, 1));
        let mut nans = NanCounts::default();
        nans.add(&batch);
        assert_eq!(nans.into_inner(), HashMap::from([(1, 1), (2, 4)]));
    }

    #[test]
    fn row_groups_without_values_poison_nothing_and_those_without_bounds_everything() {
        let schema = schema(vec![(1, "i", PrimitiveType::Int), (2, "d", PrimitiveType::Double)]);
        let ints: ArrayRef = Arc::new(Int32Array::from(vec![Some(7), Some(3), None, None]));
        let doubles: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0, f64::NAN, f64::NAN]));
        let (metadata, _) = write(&schema, vec![ints, doubles], 2);
        assert_eq!(metadata.num_row_groups(), 2);
        let metrics = of_file(&metadata, &schema);
        assert_eq!((&metrics.lower[&1], &metrics.upper[&1]), (&Datum::int(3), &Datum::int(7)));
        assert_eq!(metrics.nulls[&1], 2);
        assert!(!metrics.upper.contains_key(&2), "the second group has only NaN, so no bound of it is known");
    }

    #[test]
    fn decimals_have_bounds_in_every_physical_form() {
        let types: Vec<_> = [5, 15, 30].into_iter().zip(1..).collect();
        let fields = types.iter().map(|(precision, id)| {
            (*id, ["a", "b", "c"][*id as usize - 1], PrimitiveType::Decimal { precision: *precision, scale: 2 })
        });
        let schema = schema(fields.collect());
        let columns = types.iter().map(|(precision, _)| {
            let values = Decimal128Array::from(vec![-1420_i128, 1420, 99]);
            Arc::new(values.with_precision_and_scale(*precision as u8, 2).unwrap()) as ArrayRef
        });
        let (metadata, _) = write(&schema, columns.collect(), 10);
        let metrics = of_file(&metadata, &schema);
        for (_, id) in types {
            let literal = |datum: &Datum| datum.literal().clone();
            assert_eq!(literal(&metrics.lower[&id]), iceberg::spec::PrimitiveLiteral::Int128(-1420));
            assert_eq!(literal(&metrics.upper[&id]), iceberg::spec::PrimitiveLiteral::Int128(1420));
        }
    }
}
