//! Decoded values into Arrow columns of any shape.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Decimal256Builder, Float32Builder,
    Float64Builder, Int32Builder, Int64Builder, IntervalMonthDayNanoBuilder, ListArray, MapArray, NullBufferBuilder,
    NullBuilder, StringBuilder, StructArray, Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
    TimestampNanosecondBuilder, UInt32Builder, UInt64Builder,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, IntervalMonthDayNano, IntervalUnit, TimeUnit};
use arrow::error::ArrowError;

use super::datum::{Datum, Misfit};

/// Builds one column, or a part of one.
#[derive(Debug)]
pub(crate) enum Nested {
    Null(NullBuilder),
    Boolean(BooleanBuilder),
    Integer(Int32Builder),
    Unsigned32(UInt32Builder),
    Bigint(Int64Builder),
    Unsigned64(UInt64Builder),
    Real(Float32Builder),
    Double(Float64Builder),
    Decimal(Decimal128Builder),
    Wide(Decimal256Builder),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Micros(TimestampMicrosecondBuilder),
    Nanos(TimestampNanosecondBuilder),
    Interval(IntervalMonthDayNanoBuilder),
    List { field: FieldRef, ends: Ends, items: Box<Nested> },
    Map { entry: FieldRef, ends: Ends, keys: Box<Nested>, values: Box<Nested> },
    Struct { fields: Fields, nulls: NullBufferBuilder, rows: usize, members: Vec<Nested> },
}

/// Where each of the lists of a column ends, and which are NULL.
#[derive(Debug)]
pub(crate) struct Ends {
    ends: Vec<i32>,
    nulls: NullBufferBuilder,
}

impl Ends {
    fn new() -> Self {
        Self { ends: vec![0], nulls: NullBufferBuilder::new(0) }
    }

    /// One more list; `None`: NULL.
    fn push(&mut self, length: Option<usize>) -> Result<(), Misfit> {
        let last = self.ends.last().copied().unwrap_or_default();
        let length = i32::try_from(length.unwrap_or_default()).map_err(|_| Misfit)?;
        self.ends.push(last.checked_add(length).ok_or(Misfit)?);
        Ok(())
    }

    fn append(&mut self, length: Option<usize>) -> Result<(), Misfit> {
        self.push(length)?;
        self.nulls.append(length.is_some());
        Ok(())
    }

    fn finish(&mut self) -> (OffsetBuffer<i32>, Option<arrow::buffer::NullBuffer>) {
        let ends = std::mem::replace(&mut self.ends, vec![0]);
        // They rise: each is the one before it and a length.
        (OffsetBuffer::new(ScalarBuffer::from(ends)), self.nulls.finish())
    }
}

macro_rules! leaf {
    ($self:expr, $builder:ident => $do:expr, $($rest:tt)*) => {
        match $self {
            Nested::Null($builder) => $do,
            Nested::Boolean($builder) => $do,
            Nested::Integer($builder) => $do,
            Nested::Unsigned32($builder) => $do,
            Nested::Unsigned64($builder) => $do,
            Nested::Bigint($builder) => $do,
            Nested::Real($builder) => $do,
            Nested::Double($builder) => $do,
            Nested::Decimal($builder) => $do,
            Nested::Wide($builder) => $do,
            Nested::Text($builder) => $do,
            Nested::Bytes($builder) => $do,
            Nested::Date($builder) => $do,
            Nested::Time($builder) => $do,
            Nested::Micros($builder) => $do,
            Nested::Nanos($builder) => $do,
            Nested::Interval($builder) => $do,
            $($rest)*
        }
    };
}

impl Nested {
    /// An empty column of this type; `None` for types that no value has.
    pub fn new(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Null => Self::Null(NullBuilder::new()),
            DataType::Boolean => Self::Boolean(BooleanBuilder::new()),
            DataType::Int32 => Self::Integer(Int32Builder::new()),
            DataType::UInt32 => Self::Unsigned32(UInt32Builder::new()),
            DataType::UInt64 => Self::Unsigned64(UInt64Builder::new()),
            DataType::Int64 => Self::Bigint(Int64Builder::new()),
            DataType::Float32 => Self::Real(Float32Builder::new()),
            DataType::Float64 => Self::Double(Float64Builder::new()),
            DataType::Decimal128(..) => Self::Decimal(Decimal128Builder::new().with_data_type(data_type.clone())),
            DataType::Decimal256(..) => Self::Wide(Decimal256Builder::new().with_data_type(data_type.clone())),
            DataType::Utf8 => Self::Text(StringBuilder::new()),
            DataType::Binary => Self::Bytes(BinaryBuilder::new()),
            DataType::Date32 => Self::Date(Date32Builder::new()),
            DataType::Time64(TimeUnit::Microsecond) => Self::Time(Time64MicrosecondBuilder::new()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Self::Micros(TimestampMicrosecondBuilder::new().with_data_type(data_type.clone()))
            }
            DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                Self::Nanos(TimestampNanosecondBuilder::new().with_data_type(data_type.clone()))
            }
            DataType::Interval(IntervalUnit::MonthDayNano) => Self::Interval(IntervalMonthDayNanoBuilder::new()),
            DataType::List(field) => {
                let items = Box::new(Self::new(field.data_type())?);
                Self::List { field: Arc::clone(field), ends: Ends::new(), items }
            }
            DataType::Map(entry, _) => {
                let DataType::Struct(parts) = entry.data_type() else { return None };
                let [key, value] = parts.as_ref() else { return None };
                let keys = Box::new(Self::new(key.data_type())?);
                let values = Box::new(Self::new(value.data_type())?);
                Self::Map { entry: Arc::clone(entry), ends: Ends::new(), keys, values }
            }
            DataType::Struct(fields) => {
                let members = fields.iter().map(|field| Self::new(field.data_type())).collect::<Option<_>>()?;
                Self::Struct { fields: fields.clone(), nulls: NullBufferBuilder::new(0), rows: 0, members }
            }
            _ => return None,
        })
    }

    /// Appends NULL.
    pub fn append_null(&mut self) {
        leaf!(self, builder => builder.append_null(),
            Self::List { ends, .. } | Self::Map { ends, .. } => drop(ends.append(None)),
            Self::Struct { nulls, rows, members, .. } => {
                nulls.append_null();
                *rows += 1;
                members.iter_mut().for_each(Self::append_null);
            }
        );
    }

    /// Appends a value of this column's type.
    ///
    /// Errors: a value of another type, which only a fault of ours gives: the column is of no use then.
    pub fn append(&mut self, value: &Datum<'_>) -> Result<(), Misfit> {
        let narrow = |value: &i64| i32::try_from(*value).map_err(|_| Misfit);
        match (self, value) {
            (column, Datum::Null) => column.append_null(),
            (Self::Boolean(builder), Datum::Boolean(value)) => builder.append_value(*value),
            (Self::Integer(builder), Datum::Int(value)) => builder.append_value(narrow(value)?),
            (Self::Unsigned32(builder), Datum::Unsigned(value)) => {
                builder.append_value(u32::try_from(*value).map_err(|_| Misfit)?);
            }
            (Self::Unsigned64(builder), Datum::Unsigned(value)) => builder.append_value(*value),
            (Self::Bigint(builder), Datum::Int(value)) => builder.append_value(*value),
            (Self::Real(builder), Datum::Real(value)) => builder.append_value(*value),
            (Self::Double(builder), Datum::Double(value)) => builder.append_value(*value),
            (Self::Decimal(builder), Datum::Decimal(value)) => builder.append_value(*value),
            (Self::Wide(builder), Datum::Wide(value)) => builder.append_value(**value),
            (Self::Text(builder), Datum::Text(value)) => builder.append_value(value),
            (Self::Bytes(builder), Datum::Bytes(value)) => builder.append_value(value),
            (Self::Date(builder), Datum::Int(value)) => builder.append_value(narrow(value)?),
            (Self::Time(builder), Datum::Int(value)) => builder.append_value(*value),
            (Self::Micros(builder), Datum::Int(value)) => builder.append_value(*value),
            (Self::Nanos(builder), Datum::Int(value)) => builder.append_value(*value),
            (Self::Interval(builder), Datum::Interval { months, days, nanoseconds }) => {
                builder.append_value(IntervalMonthDayNano::new(*months, *days, *nanoseconds));
            }
            (Self::List { ends, items, .. }, Datum::List(values)) => {
                values.iter().try_for_each(|value| items.append(value))?;
                ends.append(Some(values.len()))?;
            }
            (Self::Map { ends, keys, values, .. }, Datum::Map(entries)) => {
                for (key, value) in entries {
                    keys.append(key)?;
                    values.append(value)?;
                }
                ends.append(Some(entries.len()))?;
            }
            (Self::Struct { nulls, rows, members, .. }, Datum::Struct(values)) if members.len() == values.len() => {
                members.iter_mut().zip(values).try_for_each(|(member, value)| member.append(value))?;
                nulls.append_non_null();
                *rows += 1;
            }
            _ => return Err(Misfit),
        }
        Ok(())
    }

    /// The column, and an empty one after it.
    pub fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(leaf!(self, builder => Arc::new(builder.finish()),
            Self::List { field, ends, items } => {
                let (ends, nulls) = ends.finish();
                Arc::new(ListArray::try_new(Arc::clone(field), ends, items.finish()?, nulls)?)
            }
            Self::Map { entry, ends, keys, values } => {
                let DataType::Struct(parts) = entry.data_type() else {
                    return Err(ArrowError::SchemaError("a map without entries".to_string()));
                };
                let (ends, nulls) = ends.finish();
                let entries = StructArray::try_new(parts.clone(), vec![keys.finish()?, values.finish()?], None)?;
                Arc::new(MapArray::try_new(Arc::clone(entry), ends, entries, nulls, false)?)
            }
            Self::Struct { fields, nulls, rows, members } => {
                let members = members.iter_mut().map(Self::finish).collect::<Result<Vec<_>, _>>()?;
                let rows = std::mem::take(rows);
                Arc::new(StructArray::try_new_with_length(fields.clone(), members, nulls.finish(), rows)?)
            }
        ))
    }
}

/// How many columns without parts a type is made of: a NULL takes a place in each of them (but for those inside of lists).
pub(crate) fn places(data_type: &DataType) -> usize {
    match data_type {
        DataType::Struct(fields) => 1 + fields.iter().map(|field| places(field.data_type())).sum::<usize>(),
        _ => 1,
    }
}

/// The type of a list of these.
pub(crate) fn list_of(items: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(items, true)))
}

/// The type of a map, its keys never NULL.
pub(crate) fn map_of(key: DataType, value: DataType) -> DataType {
    let parts = Fields::from(vec![Field::new("keys", key, false), Field::new("values", value, true)]);
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(parts), false)), false)
}

/// The type of a struct of these; every member may be NULL.
pub(crate) fn struct_of(members: impl IntoIterator<Item = (String, DataType)>) -> DataType {
    DataType::Struct(members.into_iter().map(|(name, data_type)| Field::new(name, data_type, true)).collect())
}

#[cfg(test)]
mod tests {
    use arrow::util::display::array_value_to_string;

    use super::*;

    #[test]
    fn values_of_any_shape_become_columns() {
        let inner = struct_of([("a".to_string(), DataType::Int32), ("b".to_string(), list_of(DataType::Utf8))]);
        let mut column = Nested::new(&map_of(DataType::Utf8, inner)).unwrap();
        let text = |text: &'static str| Datum::Text(text.into());
        let list = Datum::List(vec![text("x"), Datum::Null]);
        let members = Datum::Struct(vec![Datum::Int(7), list]);
        for round in 0..2 {
            column.append(&Datum::Map(vec![(text("k"), members.clone()), (text("n"), Datum::Null)])).unwrap();
            column.append_null();
            column.append(&Datum::Map(Vec::new())).unwrap();
            let array = column.finish().unwrap();
            let shown: Vec<_> = (0..3).map(|row| array_value_to_string(&array, row).unwrap()).collect();
            assert_eq!(shown, ["{k: {a: 7, b: [x, ]}, n: }", "", "{}"], "{round}");
        }
        assert_eq!(column.append(&Datum::Int(1)), Err(Misfit));
        assert!(Nested::new(&DataType::LargeUtf8).is_none());
        let mut nothing = Nested::new(&struct_of([])).unwrap();
        nothing.append(&Datum::Struct(Vec::new())).unwrap();
        nothing.append_null();
        let array = nothing.finish().unwrap();
        assert_eq!((array.len(), array.null_count()), (2, 1));
        let wide = struct_of((0..10).map(|n| (n.to_string(), struct_of([("x".to_string(), DataType::Int64)]))));
        assert_eq!((places(&wide), places(&list_of(wide.clone()))), (21, 1));
    }
}
