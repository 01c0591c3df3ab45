//! Fields of a binary COPY into Arrow builders.

use std::sync::Arc;

use arrow::array::builder::{
    BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Decimal256Builder, Float32Builder, Float64Builder,
    Int16Builder, Int32Builder, Int64Builder, IntervalMonthDayNanoBuilder, NullBufferBuilder, StringBuilder,
    Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
};
use arrow::array::{ArrayRef, ListArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, IntervalMonthDayNanoType};

use super::numeric::{self, NumericFault};
use super::types::{ColumnType, Scalar};

/// Days from 1970-01-01 to 2000-01-01, where Postgres counts from.
const EPOCH_DAYS: i32 = 10_957;
/// The same in microseconds.
const EPOCH_MICROS: i64 = EPOCH_DAYS as i64 * 86_400_000_000;
const DAY_MICROS: i64 = 86_400_000_000;

/// Why a field cannot be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ValueFault {
    /// The bytes are no value of the type.
    Malformed,
    /// A value of Postgres that the Arrow type does not have; the text names it without quoting data.
    NotRepresentable(&'static str),
}

type Outcome = Result<(), ValueFault>;

use ValueFault::{Malformed, NotRepresentable};

/// Collects the values of one column.
pub(crate) enum ColumnBuilder {
    Scalar(ScalarBuilder),
    List(ListBuilder),
}

impl ColumnBuilder {
    /// An empty builder.
    pub fn new(column_type: ColumnType) -> Self {
        let values = ScalarBuilder::new(column_type.scalar);
        match column_type.dimensions {
            0 => Self::Scalar(values),
            dimensions => Self::List(ListBuilder::new(column_type.scalar, values, dimensions)),
        }
    }

    /// Appends one field; `None` is NULL.
    pub fn append(&mut self, field: Option<&[u8]>) -> Outcome {
        match self {
            Self::Scalar(values) => values.append(field),
            Self::List(lists) => lists.append(field),
        }
    }

    /// The values so far; the builder is empty again.
    ///
    /// Errors: more than 2³¹ bytes or elements in one list column.
    pub fn finish(&mut self) -> Result<ArrayRef, arrow::error::ArrowError> {
        match self {
            Self::Scalar(values) => Ok(values.finish()),
            Self::List(lists) => lists.finish(),
        }
    }
}

/// Values of one scalar type.
pub(crate) enum ScalarBuilder {
    Bool(BooleanBuilder),
    Int2(Int16Builder),
    Int4(Int32Builder),
    Int8(Int64Builder),
    Float4(Float32Builder),
    Float8(Float64Builder),
    Decimal128(Decimal128Builder, u8, i8),
    Decimal256(Decimal256Builder, u8, i8),
    Text(StringBuilder),
    Uuid(StringBuilder),
    Bytea(BinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Interval(IntervalMonthDayNanoBuilder),
}

impl ScalarBuilder {
    fn new(scalar: Scalar) -> Self {
        let arrow = scalar.arrow();
        match scalar {
            Scalar::Bool => Self::Bool(BooleanBuilder::new()),
            Scalar::Int2 => Self::Int2(Int16Builder::new()),
            Scalar::Int4 => Self::Int4(Int32Builder::new()),
            Scalar::Int8 => Self::Int8(Int64Builder::new()),
            Scalar::Float4 => Self::Float4(Float32Builder::new()),
            Scalar::Float8 => Self::Float8(Float64Builder::new()),
            Scalar::Numeric { precision, scale } if matches!(arrow, DataType::Decimal128(..)) => {
                Self::Decimal128(Decimal128Builder::new().with_data_type(arrow), precision, scale)
            }
            Scalar::Numeric { precision, scale } => {
                Self::Decimal256(Decimal256Builder::new().with_data_type(arrow), precision, scale)
            }
            Scalar::Text => Self::Text(StringBuilder::new()),
            Scalar::Uuid => Self::Uuid(StringBuilder::new()),
            Scalar::Bytea => Self::Bytea(BinaryBuilder::new()),
            Scalar::Date => Self::Date(Date32Builder::new()),
            Scalar::Time => Self::Time(Time64MicrosecondBuilder::new()),
            Scalar::Timestamp | Scalar::Timestamptz => {
                Self::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(arrow))
            }
            Scalar::Interval => Self::Interval(IntervalMonthDayNanoBuilder::new()),
        }
    }

    fn append(&mut self, field: Option<&[u8]>) -> Outcome {
        let Some(bytes) = field else {
            self.append_null();
            return Ok(());
        };
        match self {
            Self::Bool(b) => match bytes {
                [0] => b.append_value(false),
                [1] => b.append_value(true),
                _ => return Err(Malformed),
            },
            Self::Int2(b) => b.append_value(i16::from_be_bytes(fixed(bytes)?)),
            Self::Int4(b) => b.append_value(i32::from_be_bytes(fixed(bytes)?)),
            Self::Int8(b) => b.append_value(i64::from_be_bytes(fixed(bytes)?)),
            Self::Float4(b) => b.append_value(f32::from_be_bytes(fixed(bytes)?)),
            Self::Float8(b) => b.append_value(f64::from_be_bytes(fixed(bytes)?)),
            Self::Decimal128(b, precision, scale) => b.append_value(numeric::to_i128(bytes, *precision, *scale)?),
            Self::Decimal256(b, precision, scale) => b.append_value(numeric::to_i256(bytes, *precision, *scale)?),
            Self::Text(b) => {
                b.append_value(std::str::from_utf8(bytes).map_err(|_| NotRepresentable("text that is not UTF-8"))?)
            }
            Self::Uuid(b) => {
                let mut text = [0u8; uuid::fmt::Hyphenated::LENGTH];
                b.append_value(uuid::Uuid::from_bytes(fixed(bytes)?).as_hyphenated().encode_lower(&mut text));
            }
            Self::Bytea(b) => b.append_value(bytes),
            Self::Date(b) => b.append_value(date(i32::from_be_bytes(fixed(bytes)?))?),
            Self::Time(b) => b.append_value(time(i64::from_be_bytes(fixed(bytes)?))?),
            Self::Timestamp(b) => b.append_value(timestamp(i64::from_be_bytes(fixed(bytes)?))?),
            Self::Interval(b) => b.append_value(interval(bytes)?),
        }
        Ok(())
    }

    fn append_null(&mut self) {
        match self {
            Self::Bool(b) => b.append_null(),
            Self::Int2(b) => b.append_null(),
            Self::Int4(b) => b.append_null(),
            Self::Int8(b) => b.append_null(),
            Self::Float4(b) => b.append_null(),
            Self::Float8(b) => b.append_null(),
            Self::Decimal128(b, ..) => b.append_null(),
            Self::Decimal256(b, ..) => b.append_null(),
            Self::Text(b) | Self::Uuid(b) => b.append_null(),
            Self::Bytea(b) => b.append_null(),
            Self::Date(b) => b.append_null(),
            Self::Time(b) => b.append_null(),
            Self::Timestamp(b) => b.append_null(),
            Self::Interval(b) => b.append_null(),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Bool(b) => Arc::new(b.finish()),
            Self::Int2(b) => Arc::new(b.finish()),
            Self::Int4(b) => Arc::new(b.finish()),
            Self::Int8(b) => Arc::new(b.finish()),
            Self::Float4(b) => Arc::new(b.finish()),
            Self::Float8(b) => Arc::new(b.finish()),
            Self::Decimal128(b, ..) => Arc::new(b.finish()),
            Self::Decimal256(b, ..) => Arc::new(b.finish()),
            Self::Text(b) | Self::Uuid(b) => Arc::new(b.finish()),
            Self::Bytea(b) => Arc::new(b.finish()),
            Self::Date(b) => Arc::new(b.finish()),
            Self::Time(b) => Arc::new(b.finish()),
            Self::Timestamp(b) => Arc::new(b.finish()),
            Self::Interval(b) => Arc::new(b.finish()),
        }
    }
}

/// Arrays of the declared dimensions. Lower bounds are not kept: Arrow has none.
pub(crate) struct ListBuilder {
    element: DataType,
    values: ScalarBuilder,
    /// Per dimension, the outermost first: the lengths of its lists so far.
    lengths: Vec<Vec<usize>>,
    /// Of the outermost: inner ones are never NULL.
    validity: NullBufferBuilder,
}

impl ListBuilder {
    fn new(scalar: Scalar, values: ScalarBuilder, dimensions: u8) -> Self {
        let lengths = vec![Vec::new(); dimensions.into()];
        Self { element: scalar.arrow(), values, lengths, validity: NullBufferBuilder::new(0) }
    }

    fn append(&mut self, field: Option<&[u8]>) -> Outcome {
        match field {
            None => self.append_no_elements(),
            Some(bytes) => self.append_elements(bytes)?,
        }
        self.validity.append(field.is_some());
        Ok(())
    }

    fn append_no_elements(&mut self) {
        if let Some(outermost) = self.lengths.first_mut() {
            outermost.push(0);
        }
    }

    /// On the wire: dimensions, flags, element type, then per dimension length and lower bound, then the elements. An array without
    /// elements has no dimensions, whatever is declared.
    fn append_elements(&mut self, bytes: &[u8]) -> Outcome {
        let mut rest = bytes;
        let dimensions = word(&mut rest)?;
        let _has_nulls = word(&mut rest)?;
        let _element_type = word(&mut rest)?;
        match usize::try_from(dimensions) {
            Ok(0) if rest.is_empty() => {
                self.append_no_elements();
                return Ok(());
            }
            Ok(found @ 1..=6) if found == self.lengths.len() => {}
            Ok(1..=6) => return Err(NotRepresentable("an array of other dimensions than are declared")),
            _ => return Err(Malformed),
        }
        let mut lists = 1usize;
        for lengths in &mut self.lengths {
            let length = usize::try_from(word(&mut rest)?).map_err(|_| Malformed)?;
            let _lower_bound = word(&mut rest)?;
            let inner = lists.checked_mul(length).ok_or(Malformed)?;
            // Each element has four bytes at least: no more are believed than can have come.
            if inner == 0 || inner > bytes.len() / 4 {
                return Err(Malformed);
            }
            lengths.extend(std::iter::repeat_n(length, lists));
            lists = inner;
        }
        for _ in 0..lists {
            match word(&mut rest)? {
                -1 => self.values.append(None)?,
                size => {
                    let size = usize::try_from(size).map_err(|_| Malformed)?;
                    let (value, tail) = rest.split_at_checked(size).ok_or(Malformed)?;
                    self.values.append(Some(value))?;
                    rest = tail;
                }
            }
        }
        if rest.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    fn finish(&mut self) -> Result<ArrayRef, arrow::error::ArrowError> {
        let mut array = self.values.finish();
        let mut of = self.element.clone();
        let mut validity = self.validity.finish();
        for (depth, lengths) in self.lengths.iter_mut().enumerate().rev() {
            let field = Arc::new(Field::new_list_field(of, true));
            let offsets = OffsetBuffer::from_lengths(std::mem::take(lengths));
            let nulls = if depth == 0 { validity.take() } else { None };
            array = Arc::new(ListArray::try_new(Arc::clone(&field), offsets, array, nulls)?);
            of = DataType::List(field);
        }
        Ok(array)
    }
}

impl From<NumericFault> for ValueFault {
    fn from(fault: NumericFault) -> Self {
        match fault {
            NumericFault::Malformed => Malformed,
            NumericFault::NotFinite(what) => NotRepresentable(what),
            NumericFault::DoesNotFit => NotRepresentable("a number with more digits than its column declared"),
        }
    }
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], ValueFault> {
    <[u8; N]>::try_from(bytes).map_err(|_| Malformed)
}

fn word(rest: &mut &[u8]) -> Result<i32, ValueFault> {
    let (head, tail) = rest.split_first_chunk::<4>().ok_or(Malformed)?;
    *rest = tail;
    Ok(i32::from_be_bytes(*head))
}

fn date(days: i32) -> Result<i32, ValueFault> {
    match days {
        i32::MAX => Err(NotRepresentable("infinity")),
        i32::MIN => Err(NotRepresentable("-infinity")),
        days => days.checked_add(EPOCH_DAYS).ok_or(Malformed),
    }
}

fn time(micros: i64) -> Result<i64, ValueFault> {
    match micros {
        0..DAY_MICROS => Ok(micros),
        DAY_MICROS => Err(NotRepresentable("24:00:00")),
        _ => Err(Malformed),
    }
}

fn timestamp(micros: i64) -> Result<i64, ValueFault> {
    match micros {
        i64::MAX => Err(NotRepresentable("infinity")),
        i64::MIN => Err(NotRepresentable("-infinity")),
        micros => micros.checked_add(EPOCH_MICROS).ok_or(NotRepresentable("a time after the year 294246")),
    }
}

fn interval(
    bytes: &[u8],
) -> Result<<IntervalMonthDayNanoType as arrow::datatypes::ArrowPrimitiveType>::Native, ValueFault> {
    let (micros, rest) = bytes.split_first_chunk::<8>().ok_or(Malformed)?;
    let (days, months) = rest.split_first_chunk::<4>().ok_or(Malformed)?;
    let (micros, days, months) =
        (i64::from_be_bytes(*micros), i32::from_be_bytes(*days), i32::from_be_bytes(fixed(months)?));
    match (months, days, micros) {
        (i32::MAX, i32::MAX, i64::MAX) => return Err(NotRepresentable("infinity")),
        (i32::MIN, i32::MIN, i64::MIN) => return Err(NotRepresentable("-infinity")),
        _ => {}
    }
    let nanos = micros.checked_mul(1000).ok_or(NotRepresentable("an interval of more than 292 years in seconds"))?;
    Ok(IntervalMonthDayNanoType::make_value(months, days, nanos))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Date32Type, Int32Type};

    use super::*;

    fn column(scalar: Scalar, dimensions: u8) -> ColumnBuilder {
        ColumnBuilder::new(ColumnType { scalar, dimensions })
    }

    fn wire(words: &[i32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn infinities_are_refused_by_name() {
        let mut dates = column(Scalar::Date, 0);
        assert_eq!(dates.append(Some(&i32::MAX.to_be_bytes())), Err(NotRepresentable("infinity")));
        dates.append(Some(&0i32.to_be_bytes())).unwrap();
        dates.append(None).unwrap();
        let array = dates.finish().unwrap();
        assert_eq!(array.as_primitive::<Date32Type>().value(0), EPOCH_DAYS);
        assert!(array.is_null(1));
        let mut times = column(Scalar::Timestamptz, 0);
        assert_eq!(times.append(Some(&i64::MIN.to_be_bytes())), Err(NotRepresentable("-infinity")));
        assert!(matches!(times.append(Some(&(i64::MAX - 1).to_be_bytes())), Err(NotRepresentable(_))));
    }

    #[test]
    fn arrays_with_nulls_and_no_elements() {
        let mut words = vec![1i32, 1, 23, 2, 1, 4, 7, -1];
        let mut lists = column(Scalar::Int4, 1);
        lists.append(Some(&wire(&words))).unwrap();
        lists.append(None).unwrap();
        lists.append(Some(&wire(&[0, 0, 23]))).unwrap();
        let array = lists.finish().unwrap();
        let list = array.as_list::<i32>();
        let first = list.value(0);
        assert_eq!(first.as_primitive::<Int32Type>().value(0), 7);
        assert!(first.is_null(1) && list.is_null(1) && !list.is_null(2));
        assert_eq!(list.value(2).len(), 0);
        words[0] = 2;
        assert!(matches!(lists.append(Some(&wire(&words))), Err(NotRepresentable(_))));
        assert_eq!(lists.append(Some(&wire(&[1, 0, 23, i32::MAX, 1]))), Err(Malformed));
    }

    #[test]
    fn arrays_of_several_dimensions() {
        let mut lists = column(Scalar::Int4, 2);
        // {{1,NULL},{3,4},{5,6}} from the lower bounds -7 and 9
        let words = [2, 1, 23, 3, -7, 2, 9, 4, 1, -1, 4, 3, 4, 4, 4, 5, 4, 6];
        lists.append(Some(&wire(&words))).unwrap();
        lists.append(None).unwrap();
        lists.append(Some(&wire(&[0, 0, 23]))).unwrap();
        let array = lists.finish().unwrap();
        assert_eq!(array.data_type(), &ColumnType { scalar: Scalar::Int4, dimensions: 2 }.arrow());
        let outer = array.as_list::<i32>();
        assert_eq!((outer.len(), outer.value_length(0), outer.is_null(1), outer.value_length(2)), (3, 3, true, 0));
        let (first, last) = (outer.value(0).as_list::<i32>().value(0), outer.value(0).as_list::<i32>().value(2));
        assert!(first.is_null(1) && first.as_primitive::<Int32Type>().value(0) == 1);
        assert_eq!(last.as_primitive::<Int32Type>().values(), &[5, 6]);
        // one dimension, though two are declared
        let error = lists.append(Some(&wire(&[1, 0, 23, 1, 1, 4, 7])));
        assert!(matches!(error, Err(NotRepresentable(_))), "{error:?}");
        for hostile in [
            vec![2, 0, 23, i32::MAX, 1, i32::MAX, 1],
            vec![2, 0, 23, 2, 1, 0, 1],
            vec![2, 0, 23, 1 << 20, 1, 1, 1, -1],
            vec![2, 0, 23, -1, 1, 2, 1],
            vec![7, 0, 23],
            vec![-1, 0, 23],
        ] {
            assert_eq!(column(Scalar::Int4, 2).append(Some(&wire(&hostile))), Err(Malformed), "{hostile:?}");
        }
    }

    #[test]
    fn wrong_lengths_are_malformed() {
        let scalars =
            [Scalar::Bool, Scalar::Int2, Scalar::Int8, Scalar::Float4, Scalar::Uuid, Scalar::Interval, Scalar::Time];
        for scalar in scalars {
            assert_eq!(column(scalar, 0).append(Some(&[1, 2, 3])), Err(Malformed), "{scalar:?}");
        }
    }
}
