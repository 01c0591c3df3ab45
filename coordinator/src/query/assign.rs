//! A client's values in the type of the column that they are for. Nothing is lost in silence: a value that does not fit is
//! an error, and so is one of which a part would be cut off.

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::error::ArrowError;
use townlake_common::{Error, ErrorCode, Result};

use super::struct_fields::{difference, element, misnamed};

/// A cast that fails where it cannot convert, and never gives NULL for it.
const STRICT: CastOptions<'static> =
    CastOptions { safe: false, format_options: datafusion::arrow::util::display::FormatOptions::new() };

/// `values` in the type `wanted` of the column.
///
/// Errors: `INVALID_ARGUMENT` naming column and table, and never the value.
pub(super) fn assign(values: &ArrayRef, wanted: &DataType, column: &str, table: &str) -> Result<ArrayRef> {
    let given = values.data_type();
    if given == wanted {
        return Ok(ArrayRef::clone(values));
    }
    if let DataType::Dictionary(_, value) = given {
        let unpacked =
            cast_with_options(values, value, &STRICT).map_err(|error| misfit(error, given, wanted, column, table))?;
        return assign(&unpacked, wanted, column, table);
    }
    let convert = |from: &ArrayRef, to: &DataType| {
        cast_with_options(from, to, &STRICT).map_err(|error| misfit(error, given, wanted, column, table))
    };
    if let Some((from, to)) = misnamed(given, wanted) {
        return Err(refused(format!("column {column} of table {table}: {}", difference(from, to))));
    }
    match loss(given, wanted) {
        Loss::None => convert(values, wanted),
        Loss::Always => Err(refused(format!("column {column} of table {table}: {given} does not convert to {wanted}"))),
        Loss::Possible => {
            let converted = convert(values, wanted)?;
            if convert(&converted, given)?.as_ref() == values.as_ref() {
                return Ok(converted);
            }
            let message = format!("column {column} of table {table}: a value of type {given} is cut as {wanted}");
            Err(refused(message))
        }
    }
}

fn misfit(error: ArrowError, given: &DataType, wanted: &DataType, column: &str, table: &str) -> Error {
    // Arrow's message quotes the value: it goes no further.
    let what = if matches!(error, ArrowError::CastError(_)) && !can_cast(given, wanted) {
        format!("{given} does not convert to {wanted}")
    } else {
        format!("a value of type {given} does not fit {wanted}")
    };
    refused(format!("column {column} of table {table}: {what}"))
}

fn can_cast(given: &DataType, wanted: &DataType) -> bool {
    datafusion::arrow::compute::can_cast_types(given, wanted)
}

fn refused(message: String) -> Error {
    Error::new(ErrorCode::InvalidArgument, message).with_hint("convert the column before it is loaded")
}

/// Whether a cast that succeeds can still drop a part of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    None,
    Possible,
    Always,
}

/// Rounding to fewer digits behind the point and nanoseconds to microseconds are no loss here, as in SQL's assignment.
fn loss(given: &DataType, wanted: &DataType) -> Loss {
    use DataType as T;
    let whole = |t: &DataType| t.is_integer() || *t == T::Boolean;
    let date = |t: &DataType| matches!(t, T::Date32 | T::Date64);
    match (given, wanted) {
        (from, to) if (from.is_floating() || from.is_decimal()) && whole(to) => Loss::Possible,
        (from, T::Boolean) if from.is_integer() => Loss::Possible,
        (T::Timestamp(..), to) if date(to) => Loss::Possible,
        (T::Timestamp(..), T::Time32(_) | T::Time64(_)) => Loss::Always,
        (T::Date64, T::Date32) => Loss::Possible,
        (from, to) => match (element(from), element(to)) {
            (Some(from), Some(to)) => loss(from, to),
            _ => fields_loss(from, to),
        },
    }
}

fn fields_loss(given: &DataType, wanted: &DataType) -> Loss {
    match (given, wanted) {
        (DataType::Struct(from), DataType::Struct(to)) => {
            // by name, as Arrow casts them
            let pairs = to.iter().filter_map(|to| Some((from.find(to.name())?.1, to)));
            worst(pairs.map(|(from, to)| loss(from.data_type(), to.data_type())))
        }
        (DataType::Map(from, _), DataType::Map(to, _)) => loss(from.data_type(), to.data_type()),
        _ => Loss::None,
    }
}

fn worst(losses: impl Iterator<Item = Loss>) -> Loss {
    losses.fold(Loss::None, |worst, loss| match (worst, loss) {
        (Loss::Always, _) | (_, Loss::Always) => Loss::Always,
        (Loss::Possible, _) | (_, Loss::Possible) => Loss::Possible,
        _ => Loss::None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{
        AsArray, Date32Array, DictionaryArray, Float64Array, Int32Array, Int64Array, StringArray,
        TimestampMicrosecondArray,
    };
    use datafusion::arrow::datatypes::{Float64Type, Int32Type, TimeUnit};

    use super::*;

    fn try_assign(values: impl Array + 'static, wanted: &DataType) -> Result<ArrayRef> {
        assign(&(Arc::new(values) as ArrayRef), wanted, "price", "lake.s.t")
    }

    #[test]
    fn what_fits_is_converted() {
        let numbers = try_assign(Float64Array::from(vec![Some(1.0), None, Some(-3.0)]), &DataType::Int32).unwrap();
        assert_eq!(numbers.as_primitive::<Int32Type>(), &Int32Array::from(vec![Some(1), None, Some(-3)]));
        let texts = try_assign(StringArray::from(vec![Some("7"), None]), &DataType::Int32).unwrap();
        assert_eq!(texts.as_primitive::<Int32Type>(), &Int32Array::from(vec![Some(7), None]));
        let texts = try_assign(Int64Array::from(vec![7]), &DataType::Utf8View).unwrap();
        assert_eq!(texts.as_string_view().value(0), "7");
        let midnight = try_assign(TimestampMicrosecondArray::from(vec![86_400_000_000]), &DataType::Date32).unwrap();
        assert_eq!(midnight.as_any().downcast_ref::<Date32Array>().unwrap().value(0), 1);
        let packed: DictionaryArray<Int32Type> = vec!["1.5", "2", "1.5"].into_iter().collect();
        let numbers = try_assign(packed, &DataType::Float64).unwrap();
        assert_eq!(numbers.as_primitive::<Float64Type>().values(), &[1.5, 2.0, 1.5]);
    }

    #[test]
    fn what_does_not_is_an_error_that_names_the_column_and_no_value() {
        let too_large = 1_i64 << 40;
        let noon = 43_200_000_000;
        let cases: Vec<(ArrayRef, DataType, &str)> = vec![
            (Arc::new(StringArray::from(vec!["secret"])), DataType::Int32, "secret"),
            (Arc::new(Int64Array::from(vec![too_large])), DataType::Int32, "1099511627776"),
            (Arc::new(Float64Array::from(vec![1.0, 1.75])), DataType::Int64, "1.75"),
            (Arc::new(Float64Array::from(vec![f64::NAN])), DataType::Int64, "NaN"),
            (Arc::new(Int64Array::from(vec![2])), DataType::Boolean, "value 2"),
            (Arc::new(TimestampMicrosecondArray::from(vec![noon])), DataType::Date32, "12:00"),
            (Arc::new(TimestampMicrosecondArray::from(vec![noon])), DataType::Time64(TimeUnit::Microsecond), "12:00"),
            (Arc::new(Date32Array::from(vec![1])), DataType::Boolean, "1970"),
        ];
        for (values, wanted, value) in cases {
            let error = assign(&values, &wanted, "price", "lake.s.t").unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
            assert!(error.message().contains("column price of table lake.s.t"), "{error}");
            let all = format!("{error} {error:?}");
            assert!(!all.contains(value), "{all}");
        }
    }

    #[test]
    fn fields_go_by_name_and_all_are_there() {
        use datafusion::arrow::array::StructArray;
        use datafusion::arrow::datatypes::{Field, Fields};
        let fields = |names: [&str; 2]| -> Fields {
            names.iter().map(|name| Field::new(*name, DataType::Int32, true)).collect()
        };
        let values = |names| {
            let columns: Vec<ArrayRef> =
                vec![Arc::new(Int32Array::from(vec![1])) as ArrayRef, Arc::new(Int32Array::from(vec![2]))];
            StructArray::new(fields(names), columns, None)
        };
        let wanted = DataType::Struct(fields(["a", "b"]));
        let turned = try_assign(values(["b", "a"]), &wanted).unwrap();
        assert_eq!(turned.as_struct().column(0).as_primitive::<Int32Type>().value(0), 2);
        let error = try_assign(values(["x", "y"]), &wanted).unwrap_err();
        assert!(error.message().contains("fields (x, y)") && error.message().contains("(a, b)"), "{error}");
    }

    #[test]
    fn nor_is_a_part_cut_inside_of_a_list() {
        use datafusion::arrow::array::ListArray;
        use datafusion::arrow::datatypes::Field;
        let list = |value| {
            let items = vec![Some(vec![Some(1.0), Some(value)])];
            ListArray::from_iter_primitive::<Float64Type, _, _>(items)
        };
        let wanted = DataType::List(Arc::new(Field::new("element", DataType::Int64, true)));
        assert!(try_assign(list(2.0), &wanted).is_ok());
        assert!(try_assign(list(2.5), &wanted).unwrap_err().message().contains("price"));
    }
}
