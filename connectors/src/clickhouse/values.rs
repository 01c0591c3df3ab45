//! Values as they were sent ([`super::wire`]) into the Arrow types that columns are read as.

use std::sync::Arc;

use arrow::array::builder::{Decimal256Builder, StringBuilder};
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, GenericStringArray, ListArray, MapArray,
    StringArray, StructArray,
};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, Field, Int8Type, Int16Type, Int32Type,
    TimestampMicrosecondType, TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type, i256,
};

use super::types::{Kind, Labels, Type};

/// Why a value cannot be represented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueFault {
    /// It is not of the type that was asked for.
    Malformed,
    /// A value of ClickHouse that the Arrow type does not have; the text names it without quoting data.
    NotRepresentable(&'static str),
    /// An enum has labels that it had not when the query was planned.
    NewLabel,
}

use ValueFault::{Malformed, NewLabel, NotRepresentable};

const MICROS: i64 = 1_000_000;

/// The values of a column as their Arrow type.
pub(crate) fn convert(array: &ArrayRef, to: &Type) -> Result<ArrayRef, ValueFault> {
    if *array.data_type() != to.wire().arrow() {
        return Err(Malformed);
    }
    Ok(match &to.kind {
        Kind::Number(_) => Arc::clone(array),
        Kind::Decimal { precision, .. } => {
            in_range(array, *precision)?;
            Arc::clone(array)
        }
        Kind::Bool => {
            let bytes = array.as_primitive::<UInt8Type>();
            let bits = arrow::buffer::BooleanBuffer::collect_bool(bytes.len(), |row| bytes.value(row) != 0);
            Arc::new(BooleanArray::new(bits, bytes.nulls().cloned()))
        }
        Kind::String | Kind::Uuid | Kind::Ip | Kind::State | Kind::Other => text(array.as_binary())?,
        Kind::FixedString(size) => bytes(array, *size)?,
        Kind::Wide(wide) => integers(array.as_binary(), wide.digits())?,
        Kind::Enum(labels) => labelled(array, labels)?,
        Kind::Date => Arc::new(array.as_primitive::<UInt16Type>().unary::<_, Date32Type>(i32::from)),
        Kind::Date32 => {
            let (_, days, nulls) = array.as_primitive::<Int32Type>().clone().into_parts();
            Arc::new(Date32Array::new(days, nulls))
        }
        Kind::DateTime => {
            let times = array.as_primitive::<UInt32Type>();
            let times = times.unary::<_, TimestampMicrosecondType>(|seconds| i64::from(seconds) * MICROS);
            Arc::new(times.with_timezone("+00:00"))
        }
        Kind::DateTime64(digits) => times(array, *digits)?,
        Kind::Array(element) => {
            let (_, offsets, values, nulls) = array.as_list::<i32>().clone().into_parts();
            let field = Arc::new(element.field("item"));
            let list = ListArray::try_new(field, offsets, convert(&values, element)?, nulls);
            Arc::new(list.map_err(|_| Malformed)?)
        }
        Kind::Map(key, value) => map(array, key, value, to)?,
        Kind::Tuple(elements) => {
            let (_, columns, nulls) = array.as_struct().clone().into_parts();
            let converted = columns.iter().zip(elements).map(|(column, (_, element))| convert(column, element));
            let fields = elements.iter().map(|(name, element)| element.field(name)).collect();
            let tuple = StructArray::try_new(fields, converted.collect::<Result<_, _>>()?, nulls);
            Arc::new(tuple.map_err(|_| Malformed)?)
        }
    })
}

/// ClickHouse stores what fits the bits, not the digits.
fn in_range(array: &ArrayRef, precision: u8) -> Result<(), ValueFault> {
    let valid = match array.data_type() {
        DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().validate_decimal_precision(precision),
        _ => array.as_primitive::<Decimal256Type>().validate_decimal_precision(precision),
    };
    valid.map_err(|_| NotRepresentable("a number with more digits than its column declares"))
}

fn text(array: &BinaryArray) -> Result<ArrayRef, ValueFault> {
    let texts: Result<StringArray, _> = GenericStringArray::try_from_binary(array.clone());
    Ok(Arc::new(texts.map_err(|_| NotRepresentable("text that is not UTF-8"))?))
}

/// Fixed strings are read as bytes of any length: the values lie the same way.
fn bytes(array: &ArrayRef, size: i32) -> Result<ArrayRef, ValueFault> {
    let fixed = array.as_fixed_size_binary();
    let size = usize::try_from(size).map_err(|_| Malformed)?;
    let ends = size.checked_mul(fixed.len()).and_then(|end| i32::try_from(end).ok()).ok_or(Malformed)?;
    let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(size, fixed.len()));
    let values = Buffer::from(fixed.value_data().get(..ends as usize).ok_or(Malformed)?);
    let array = BinaryArray::try_new(offsets, values, fixed.nulls().cloned());
    Ok(Arc::new(array.map_err(|_| Malformed)?))
}

fn integers(array: &BinaryArray, digits: u8) -> Result<ArrayRef, ValueFault> {
    let too_long = NotRepresentable("an integer of 77 digits");
    let mut builder = Decimal256Builder::with_capacity(array.len()).with_data_type(DataType::Decimal256(digits, 0));
    for value in array {
        let Some(value) = value else {
            builder.append_null();
            continue;
        };
        let text = std::str::from_utf8(value).map_err(|_| Malformed)?;
        let length = text.strip_prefix('-').unwrap_or(text).len();
        if length > usize::from(digits) {
            return Err(if length <= 78 { too_long } else { Malformed });
        }
        builder.append_value(i256::from_string(text).ok_or(Malformed)?);
    }
    Ok(Arc::new(builder.finish()))
}

fn labelled(array: &ArrayRef, labels: &Labels) -> Result<ArrayRef, ValueFault> {
    let numbers: Box<dyn Iterator<Item = Option<i16>> + '_> = if labels.wide {
        Box::new(array.as_primitive::<Int16Type>().iter())
    } else {
        Box::new(array.as_primitive::<Int8Type>().iter().map(|number| number.map(i16::from)))
    };
    let mut builder = StringBuilder::with_capacity(array.len(), array.len() * 8);
    for number in numbers {
        match number {
            None => builder.append_null(),
            Some(number) => builder.append_value(labels.label(number).ok_or(NewLabel)?),
        }
    }
    Ok(Arc::new(builder.finish()))
}

/// Ticks of so many digits of a second, which came as decimals.
fn times(array: &ArrayRef, digits: u8) -> Result<ArrayRef, ValueFault> {
    let ticks = array.as_primitive::<Decimal128Type>();
    let beyond = NotRepresentable("a time that 64 bits do not hold at this precision");
    let target = if digits <= 6 { 6 } else { 9 };
    let factor = 10i64.checked_pow(u32::from(target - digits)).ok_or(Malformed)?;
    let scaled = |ticks: i128| i64::try_from(ticks).ok().and_then(|ticks| ticks.checked_mul(factor)).ok_or(beyond);
    Ok(if digits <= 6 {
        Arc::new(ticks.try_unary::<_, TimestampMicrosecondType, _>(scaled)?.with_timezone("+00:00"))
    } else {
        Arc::new(ticks.try_unary::<_, TimestampNanosecondType, _>(scaled)?.with_timezone("+00:00"))
    })
}

fn map(array: &ArrayRef, key: &Type, value: &Type, to: &Type) -> Result<ArrayRef, ValueFault> {
    let (_, offsets, entries, nulls, _) = array.as_map().clone().into_parts();
    let (_, columns, _) = entries.into_parts();
    let [keys, values] = columns.as_slice() else { return Err(Malformed) };
    let DataType::Map(field, _) = to.arrow() else { return Err(Malformed) };
    let DataType::Struct(fields) = field.data_type() else { return Err(Malformed) };
    let entries = StructArray::try_new(fields.clone(), vec![convert(keys, key)?, convert(values, value)?], None);
    let entries = entries.map_err(|_| Malformed)?;
    let field = Arc::new(Field::new(field.name(), field.data_type().clone(), false));
    Ok(Arc::new(MapArray::try_new(field, offsets, entries, nulls, false).map_err(|_| Malformed)?))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Decimal128Array, FixedSizeBinaryArray, Int8Array, UInt16Array};
    use arrow::util::display::array_value_to_string;

    use super::super::types::classify;
    use super::*;

    fn show(declared: &str, array: impl Array + 'static) -> Result<Vec<String>, ValueFault> {
        let to = classify(declared);
        let array = convert(&(Arc::new(array) as ArrayRef), &to)?;
        assert_eq!(*array.data_type(), to.arrow());
        Ok((0..array.len()).map(|row| array_value_to_string(&array, row).unwrap()).collect())
    }

    fn binary(values: &[&[u8]]) -> BinaryArray {
        BinaryArray::from_vec(values.to_vec())
    }

    fn ticks(values: Vec<i128>, digits: i8) -> Decimal128Array {
        Decimal128Array::from(values).with_precision_and_scale(18, digits).unwrap()
    }

    #[test]
    fn values_become_their_types() {
        assert_eq!(show("Bool", arrow::array::UInt8Array::from(vec![0, 1])).unwrap(), ["false", "true"]);
        assert_eq!(show("Date", UInt16Array::from(vec![0, 65535])).unwrap(), ["1970-01-01", "2149-06-06"]);
        let enums = Int8Array::from(vec![Some(1), None, Some(-1)]);
        assert_eq!(show("Nullable(Enum8('a' = 1, 'b' = -1))", enums).unwrap(), ["a", "", "b"]);
        let fixed = FixedSizeBinaryArray::try_from_iter([b"ab\0", b"xyz"].into_iter()).unwrap();
        assert_eq!(show("FixedString(3)", fixed).unwrap(), ["616200", "78797a"]);
        let times = show("DateTime64(3)", ticks(vec![-1, 1_704_067_200_500], 3)).unwrap();
        assert_eq!(times, ["1969-12-31T23:59:59.999Z", "2024-01-01T00:00:00.500Z"]);
        let most = "340282366920938463463374607431768211455";
        assert_eq!(show("UInt128", binary(&[most.as_bytes(), b"0"])).unwrap(), [most, "0"]);
        let least = format!("-{}", "9".repeat(76));
        assert_eq!(show("Int256", binary(&[least.as_bytes()])).unwrap(), [least]);
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let told = |declared: &str, array: BinaryArray| match show(declared, array) {
            Err(NotRepresentable(what)) => what,
            other => panic!("{declared}: {other:?}"),
        };
        let largest = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
        assert!(told("UInt256", binary(&[b"1", largest.as_bytes()])).contains("77"));
        assert!(told("String", binary(&[b"\xff"])).contains("UTF-8"));
        // The year 2299 in 100 ns does not fit into nanoseconds.
        assert!(matches!(show("DateTime64(7)", ticks(vec![103_818_239_990_000_000], 7)), Err(NotRepresentable(_))));
        let digits = Decimal128Array::from(vec![1_000_000_000]).with_precision_and_scale(9, 2).unwrap();
        assert!(matches!(show("Decimal(9, 2)", digits), Err(NotRepresentable(_))));
        assert_eq!(show("Enum8('a' = 1)", Int8Array::from(vec![2])), Err(NewLabel));
        assert_eq!(show("Int128", binary(&[b"1e5"])), Err(Malformed));
        assert_eq!(show("UInt8", binary(&[b"1"])), Err(Malformed), "another type");
    }
}
