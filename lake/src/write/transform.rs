//! Iceberg's partition transforms over Arrow arrays.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryViewArray, Int32Array, StringViewArray, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int32Type, Int64Type, Time64MicrosecondType, TimeUnit,
    TimestampMicrosecondType, TimestampNanosecondType,
};
use arrow::error::ArrowError;
use iceberg::spec::Transform;

const MICROS_PER_HOUR: i64 = 3_600_000_000;
const MICROS_PER_DAY: i64 = 24 * MICROS_PER_HOUR;

/// The transform of each value; null stays null. Years, months, days and hours count from 1970, as `Int32`.
///
/// Errors: a transform that this version does not know, or one that its source type does not have.
pub(crate) fn apply(transform: Transform, source: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match transform {
        Transform::Identity => Ok(Arc::clone(source)),
        Transform::Void => Ok(new_null_array(source.data_type(), source.len())),
        Transform::Bucket(count) => bucket(source, count),
        Transform::Truncate(width) => truncate(source, width),
        Transform::Year => from_days(source, |days| Some(civil(days).0 - 1970)),
        Transform::Month => from_days(source, |days| {
            let (year, month) = civil(days);
            Some((year - 1970) * 12 + month - 1)
        }),
        Transform::Day => from_days(source, Some),
        Transform::Hour => {
            let micros = micros(source)?;
            let hours = micros.iter().map(|value| value.map(|micros| micros.div_euclid(MICROS_PER_HOUR)));
            narrow(hours.collect())
        }
        Transform::Unknown => Err(unsupported("unknown", source)),
    }
}

fn unsupported(what: &str, source: &ArrayRef) -> ArrowError {
    ArrowError::NotYetImplemented(format!("the partition transform {what} of {}", source.data_type()))
}

fn narrow(values: Vec<Option<i64>>) -> Result<ArrayRef, ArrowError> {
    let narrow = |value: Option<i64>| value.map(i32::try_from).transpose();
    let values: Result<Vec<_>, _> = values.into_iter().map(narrow).collect();
    let values = values.map_err(|_| ArrowError::ArithmeticOverflow("a partition value is out of range".to_string()))?;
    Ok(Arc::new(Int32Array::from(values)))
}

// ---- time ----

fn micros(source: &ArrayRef) -> Result<Vec<Option<i64>>, ArrowError> {
    match source.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Ok(source.as_primitive::<TimestampMicrosecondType>().iter().collect())
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let nanos = source.as_primitive::<TimestampNanosecondType>().iter();
            Ok(nanos.map(|value| value.map(|nanos| nanos.div_euclid(1000))).collect())
        }
        _ => Err(unsupported("hour", source)),
    }
}

fn from_days(source: &ArrayRef, f: impl Fn(i64) -> Option<i64>) -> Result<ArrayRef, ArrowError> {
    let days: Vec<Option<i64>> = match source.data_type() {
        DataType::Date32 => source.as_primitive::<Date32Type>().iter().map(|value| value.map(i64::from)).collect(),
        DataType::Timestamp(..) => {
            micros(source)?.into_iter().map(|value| value.map(|micros| micros.div_euclid(MICROS_PER_DAY))).collect()
        }
        _ => return Err(unsupported("year, month or day", source)),
    };
    narrow(days.into_iter().map(|value| value.and_then(&f)).collect())
}

/// Year and month (1 to 12) of a day since 1970-01-01 in the proleptic Gregorian calendar.
/// Days are counted from 0000-03-01, so that leap days come last, in eras of 400 years.
fn civil(days: i64) -> (i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month)
}

// ---- bucket ----

fn bucket(source: &ArrayRef, count: u32) -> Result<ArrayRef, ArrowError> {
    let count = i32::try_from(count).ok().filter(|count| *count > 0);
    let count = count.ok_or_else(|| ArrowError::InvalidArgumentError("a bucket count must be positive".to_string()))?;
    let hashes = hashes(source)?;
    Ok(Arc::new(Int32Array::from_iter(hashes.into_iter().map(|hash| hash.map(|hash| (hash & i32::MAX) % count)))))
}

/// The 32-bit hash of each value, as appendix B of the table specification has it.
pub(super) fn hashes(source: &ArrayRef) -> Result<Vec<Option<i32>>, ArrowError> {
    let longs = |values: Vec<Option<i64>>| values.into_iter().map(|v| v.map(|v| murmur3(&v.to_le_bytes()))).collect();
    Ok(match source.data_type() {
        DataType::Int32 => longs(widened::<Int32Type>(source)),
        DataType::Date32 => longs(widened::<Date32Type>(source)),
        DataType::Int64 => longs(widened::<Int64Type>(source)),
        DataType::Time64(TimeUnit::Microsecond) => longs(widened::<Time64MicrosecondType>(source)),
        DataType::Timestamp(..) => longs(micros(source)?),
        DataType::Decimal128(..) => {
            let values = source.as_primitive::<Decimal128Type>().iter();
            values.map(|value| value.map(|value| murmur3(minimal_bytes(&value.to_be_bytes())))).collect()
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let views = cast(source, &DataType::Utf8View)?;
            views.as_string_view().iter().map(|value| value.map(|text| murmur3(text.as_bytes()))).collect()
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            let views = cast(source, &DataType::BinaryView)?;
            views.as_binary_view().iter().map(|value| value.map(murmur3)).collect()
        }
        _ => return Err(unsupported("bucket", source)),
    })
}

fn widened<T>(source: &ArrayRef) -> Vec<Option<i64>>
where
    T: ArrowPrimitiveType,
    T::Native: Into<i64>,
{
    source.as_primitive::<T>().iter().map(|value| value.map(Into::into)).collect()
}

/// The shortest big-endian two's complement of a number.
fn minimal_bytes(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let [first, next, ..] = rest {
        let redundant = (*first == 0x00 && *next & 0x80 == 0) || (*first == 0xff && *next & 0x80 != 0);
        if !redundant {
            break;
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    rest
}

fn murmur3(bytes: &[u8]) -> i32 {
    let mut source = bytes;
    // Reading from memory cannot fail.
    murmur3::murmur3_32(&mut source, 0).map(u32::cast_signed).unwrap_or_default()
}

// ---- truncate ----

fn truncate(source: &ArrayRef, width: u32) -> Result<ArrayRef, ArrowError> {
    if width == 0 {
        return Err(ArrowError::InvalidArgumentError("a truncation width must be positive".to_string()));
    }
    let chars = width as usize;
    Ok(match source.data_type() {
        DataType::Int32 => {
            let width = i32::try_from(width).unwrap_or(i32::MAX);
            Arc::new(source.as_primitive::<Int32Type>().unary::<_, Int32Type>(|v| v.wrapping_sub(v.rem_euclid(width))))
        }
        DataType::Int64 => {
            let width = i64::from(width);
            Arc::new(source.as_primitive::<Int64Type>().unary::<_, Int64Type>(|v| v.wrapping_sub(v.rem_euclid(width))))
        }
        DataType::Decimal128(precision, scale) => {
            let width = i128::from(width);
            let values = source.as_primitive::<Decimal128Type>();
            let values = values.unary::<_, Decimal128Type>(|v| v.wrapping_sub(v.rem_euclid(width)));
            Arc::new(values.with_precision_and_scale(*precision, *scale)?)
        }
        DataType::Utf8View => {
            let values = source.as_string_view().iter();
            let cut = |text: &'_ str| text.char_indices().nth(chars).map_or(text.len(), |(end, _)| end);
            Arc::new(StringViewArray::from_iter(values.map(|v| v.map(|text| text.get(..cut(text)).unwrap_or(text)))))
        }
        DataType::BinaryView => {
            let values = source.as_binary_view().iter();
            Arc::new(BinaryViewArray::from_iter(values.map(|v| v.map(|bytes| bytes.get(..chars).unwrap_or(bytes)))))
        }
        _ => return Err(unsupported("truncate", source)),
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Date32Array, Decimal128Array, FixedSizeBinaryArray, Int64Array, StringArray, TimestampMicrosecondArray,
    };

    use super::*;

    fn hash(array: impl Array + 'static) -> i32 {
        hashes(&(Arc::new(array) as ArrayRef)).unwrap()[0].unwrap()
    }

    const NOV_16_2017: i32 = 17_486;
    const NOV_16_2017_22_31_08: i64 = 1_510_871_468_000_000;

    #[test]
    fn hashes_are_those_of_the_specification() {
        assert_eq!(hash(Int32Array::from(vec![34])), 2_017_239_379);
        assert_eq!(hash(Int64Array::from(vec![34])), 2_017_239_379);
        let decimal = Decimal128Array::from(vec![1420]).with_precision_and_scale(9, 2).unwrap();
        assert_eq!(hash(decimal), -500_754_589);
        assert_eq!(hash(Date32Array::from(vec![NOV_16_2017])), -653_330_422);
        assert_eq!(hash(TimestampMicrosecondArray::from(vec![NOV_16_2017_22_31_08])), -2_047_944_441);
        assert_eq!(hash(StringArray::from(vec!["iceberg"])), 1_210_000_089);
        assert_eq!(hash(StringViewArray::from(vec!["iceberg"])), 1_210_000_089);
        let uuid = uuid::Uuid::parse_str("f79c3e09-677c-4bbd-a479-3f349cb785e7").unwrap();
        let uuid = FixedSizeBinaryArray::try_from_iter(std::iter::once(uuid.as_bytes().to_vec())).unwrap();
        assert_eq!(hash(uuid), 1_488_055_340);
        assert_eq!(hash(BinaryViewArray::from(vec![&[0_u8, 1, 2, 3][..]])), -188_683_207);
        let time = arrow::array::Time64MicrosecondArray::from(vec![81_068_000_000]);
        assert_eq!(hash(time), -662_762_989);
    }

    #[test]
    fn buckets_are_positive_and_nulls_stay() {
        let source: ArrayRef = Arc::new(Int32Array::from(vec![Some(34), None, Some(-1)]));
        let buckets = apply(Transform::Bucket(16), &source).unwrap();
        let buckets = buckets.as_primitive::<Int32Type>();
        assert_eq!(buckets.value(0), (2_017_239_379 & i32::MAX) % 16);
        assert!(buckets.is_null(1));
        assert!((0..16).contains(&buckets.value(2)));
    }

    #[test]
    fn truncation_rounds_down_also_below_zero() {
        let ints: ArrayRef = Arc::new(Int32Array::from(vec![1, -1, 10]));
        assert_eq!(
            apply(Transform::Truncate(10), &ints).unwrap().as_primitive::<Int32Type>().values()[..],
            [0, -10, 10]
        );
        let text: ArrayRef = Arc::new(StringViewArray::from(vec!["iceberg", "ab", "äöüß"]));
        let cut = apply(Transform::Truncate(3), &text).unwrap();
        let cut: Vec<_> = cut.as_string_view().iter().flatten().collect();
        assert_eq!(cut, ["ice", "ab", "äöü"]);
        let decimal = Decimal128Array::from(vec![1065, -5]).with_precision_and_scale(9, 2).unwrap();
        let cut = apply(Transform::Truncate(50), &(Arc::new(decimal) as ArrayRef)).unwrap();
        assert_eq!(cut.as_primitive::<Decimal128Type>().values()[..], [1050, -50]);
    }

    #[test]
    fn times_count_from_1970_also_before_it() {
        let days: ArrayRef = Arc::new(Date32Array::from(vec![NOV_16_2017, -1, 0, 59, 11_016]));
        let values = |t| apply(t, &days).unwrap().as_primitive::<Int32Type>().values().to_vec();
        assert_eq!(values(Transform::Year), [47, -1, 0, 0, 30]);
        assert_eq!(values(Transform::Month), [574, -1, 0, 2, 361]);
        assert_eq!(values(Transform::Day), [NOV_16_2017, -1, 0, 59, 11_016]);
        let instants: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![NOV_16_2017_22_31_08, -1]));
        let values = |t| apply(t, &instants).unwrap().as_primitive::<Int32Type>().values().to_vec();
        assert_eq!(values(Transform::Hour), [419_686, -1]);
        assert_eq!(values(Transform::Day), [NOV_16_2017, -1]);
    }
}
