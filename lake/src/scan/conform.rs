//! Bringing one array to the type of a table column, at every depth: by field id for data files, by name for new rows.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};
use arrow::error::ArrowError;
use datafusion::common::ScalarValue;

pub(crate) use crate::schema::field_id;

/// The values of columns that older data files do not have, by field id.
pub(crate) type Defaults = HashMap<i32, ScalarValue>;

/// How the children of a struct find each other.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Matching<'a> {
    /// By field id; what the source lacks is its default or null. For data files.
    FieldId(&'a Defaults),
    /// By name, or by position where no name fits. For rows that a query made.
    Name,
}

/// `array`, which has the field `source`, as the type of `target`.
///
/// Errors: a cast that loses values, a required child without values, a child that the target does not have.
pub(crate) fn conform(
    array: &ArrayRef,
    source: &Field,
    target: &Field,
    matching: Matching<'_>,
) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == target.data_type() {
        return Ok(Arc::clone(array));
    }
    match (source.data_type(), target.data_type()) {
        (DataType::Struct(from), DataType::Struct(to)) => conform_struct(array.as_struct(), from, to, matching),
        (DataType::List(from), DataType::List(to)) => {
            let list = array.as_list::<i32>();
            let values = conform(list.values(), from, to, matching)?;
            Ok(Arc::new(ListArray::try_new(Arc::clone(to), list.offsets().clone(), values, list.nulls().cloned())?))
        }
        (
            DataType::LargeList(child)
            | DataType::FixedSizeList(child, _)
            | DataType::ListView(child)
            | DataType::LargeListView(child),
            DataType::List(_),
        ) => {
            let plain = source.clone().with_data_type(DataType::List(Arc::clone(child)));
            conform(&cast(array, plain.data_type())?, &plain, target, matching)
        }
        (DataType::Map(from, _), DataType::Map(to, sorted)) => conform_map(array.as_map(), from, to, *sorted, matching),
        (_, to) => cast(array, to),
    }
}

fn cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    cast_with_options(array, to, &CastOptions { safe: false, ..Default::default() })
}

fn conform_struct(
    array: &StructArray,
    from: &Fields,
    to: &Fields,
    matching: Matching<'_>,
) -> Result<ArrayRef, ArrowError> {
    let sources = match_children(from, to, matching)?;
    let mut children = Vec::with_capacity(to.len());
    for (target, source) in to.iter().zip(sources) {
        let child = match source.and_then(|index| from.get(index).zip(array.columns().get(index))) {
            Some((field, column)) => conform(column, field, target, matching)?,
            None => missing_value(target, matching)?.to_array_of_size(array.len()).map_err(ArrowError::from)?,
        };
        children.push(child);
    }
    let nulls = array.nulls().cloned();
    Ok(Arc::new(StructArray::try_new_with_length(to.clone(), children, nulls, array.len())?))
}

/// For each target child the index of its source.
fn match_children(from: &Fields, to: &Fields, matching: Matching<'_>) -> Result<Vec<Option<usize>>, ArrowError> {
    let find = |target: &FieldRef| match matching {
        Matching::FieldId(_) => {
            let id = field_id(target);
            from.iter().position(|source| id.is_some() && field_id(source) == id)
        }
        Matching::Name => from.iter().position(|source| source.name() == target.name()),
    };
    let found: Vec<_> = to.iter().map(find).collect();
    if matches!(matching, Matching::Name) {
        let by_name = found.iter().flatten().count();
        if by_name == 0 && from.len() == to.len() {
            return Ok((0..to.len()).map(Some).collect());
        }
        if by_name < from.len() {
            let extra = from.iter().find(|source| to.iter().all(|target| target.name() != source.name()));
            let name = extra.map(|field| field.name().as_str()).unwrap_or_default();
            return Err(ArrowError::CastError(format!("the struct of the table has no field {name}")));
        }
    }
    Ok(found)
}

/// The value of a column or child that a source does not have.
pub(crate) fn missing_value(target: &Field, matching: Matching<'_>) -> Result<ScalarValue, ArrowError> {
    if let Matching::FieldId(defaults) = matching
        && let Some(value) = field_id(target).and_then(|id| defaults.get(&id))
    {
        return Ok(value.clone());
    }
    if !target.is_nullable() {
        return Err(ArrowError::InvalidArgumentError(format!("the required column {} has no values", target.name())));
    }
    ScalarValue::try_from(target.data_type()).map_err(ArrowError::from)
}

fn conform_map(
    array: &MapArray,
    from: &FieldRef,
    to: &FieldRef,
    sorted: bool,
    matching: Matching<'_>,
) -> Result<ArrayRef, ArrowError> {
    let (DataType::Struct(from), DataType::Struct(to_fields)) = (from.data_type(), to.data_type()) else {
        return Err(ArrowError::SchemaError("the entries of a map are not a struct".to_string()));
    };
    // Writers disagree on the names of the entries and of their two children: the position says what they are.
    let mut children = Vec::with_capacity(2);
    for ((column, source), target) in array.entries().columns().iter().zip(from).zip(to_fields) {
        children.push(conform(column, source, target, matching)?);
    }
    let entries = StructArray::try_new(to_fields.clone(), children, array.entries().nulls().cloned())?;
    let nulls = array.nulls().cloned();
    Ok(Arc::new(MapArray::try_new(Arc::clone(to), array.offsets().clone(), entries, nulls, sorted)?))
}

/// Whether values of `from` in a data file may be read as the primitive type `to`: the same, or a widening that Iceberg
/// allows, or another Arrow spelling of the same values.
pub(crate) fn is_readable_as(from: &DataType, to: &DataType) -> bool {
    use DataType::{
        Binary, BinaryView, Date32, Date64, Decimal32, Decimal64, Decimal128, Dictionary, Float16, Float32, Float64,
        Int8, Int16, Int32, Int64, LargeBinary, LargeUtf8, Time32, Time64, Timestamp, UInt8, UInt16, UInt32, Utf8,
        Utf8View,
    };
    match (from, to) {
        (from, to) if from == to => true,
        (Dictionary(_, values), to) => is_readable_as(values, to),
        (Int8 | Int16 | UInt8 | UInt16, Int32 | Int64) | (Int32 | UInt32, Int64) => true,
        (Float16, Float32 | Float64) | (Float32, Float64) => true,
        (Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s), Decimal128(to_p, to_s)) => s == to_s && p <= to_p,
        (Utf8 | LargeUtf8 | Utf8View, Utf8 | LargeUtf8 | Utf8View) => true,
        (Binary | LargeBinary | BinaryView, Binary | LargeBinary | BinaryView) => true,
        // Some writers leave the UTF8 mark out; the cast checks the bytes.
        (Binary | LargeBinary | BinaryView, Utf8 | LargeUtf8 | Utf8View) => true,
        (Date64, Date32) | (Time32(_), Time64(TimeUnit::Microsecond)) | (Time64(_), Time64(_)) => true,
        (Date32, Timestamp(_, None)) => true,
        (Timestamp(_, zone), Timestamp(_, to_zone)) => {
            zone.as_deref().is_none_or(is_utc) && to_zone.as_deref().is_none_or(is_utc)
        }
        _ => false,
    }
}

fn is_utc(zone: &str) -> bool {
    matches!(zone, "UTC" | "+00:00" | "Etc/UTC" | "Z")
}
