//! Iceberg schemas as Arrow schemas, and Arrow columns as a new Iceberg schema.
//!
//! Columns are mapped by field id, never by name: each Arrow field at every depth carries `PARQUET:field_id`, and nothing
//! else, because any other metadata would cost a cast per column when a file is read.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema as ArrowSchema, SchemaRef, TimeUnit};
use iceberg::spec::{ListType, MapType, NestedField, PrimitiveType, Schema, StructType, Type};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use townlake_common::{Error, ErrorCode, Result};

/// The one time zone text of `timestamptz`: Arrow types differ by it, so there is only this.
pub const UTC: &str = "+00:00";

/// The entries field of a map, as Parquet names it. It has no field id.
const MAP_ENTRIES: &str = "key_value";
/// The metadata key of a column's comment in `CREATE TABLE`.
const COMMENT: &str = "comment";
const MAX_DECIMAL_PRECISION: u8 = 38;

/// The Arrow schema of an Iceberg schema: text and bytes as views, times in microseconds, `timestamptz` in [`UTC`].
pub fn to_arrow(schema: &Schema) -> Result<SchemaRef> {
    Ok(Arc::new(ArrowSchema::new(arrow_fields(schema.as_struct())?)))
}

/// The Arrow schema of an Iceberg schema with the comments of its columns: for who reads about a table, not for scans.
pub(crate) fn with_comments(arrow: &ArrowSchema, iceberg: &Schema) -> SchemaRef {
    let fields = arrow.fields().iter().zip(iceberg.as_struct().fields()).map(|(field, of)| {
        let mut field = field.as_ref().clone();
        if let Some(comment) = &of.doc {
            field.metadata_mut().insert(COMMENT.to_string(), comment.clone());
        }
        field
    });
    Arc::new(ArrowSchema::new(fields.collect::<Vec<_>>()))
}

/// The field id that an Arrow field carries.
pub fn field_id(field: &Field) -> Option<i32> {
    field.metadata().get(PARQUET_FIELD_ID_META_KEY)?.parse().ok()
}

fn arrow_fields(fields: &StructType) -> Result<Fields> {
    fields.fields().iter().map(|field| arrow_field(field)).collect()
}

/// A field for Arrow, with its id.
pub(crate) fn arrow_field(field: &NestedField) -> Result<FieldRef> {
    let id = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_string(), field.id.to_string())]);
    let arrow = Field::new(&field.name, arrow_type(&field.field_type)?, !field.required);
    Ok(Arc::new(arrow.with_metadata(id)))
}

fn arrow_type(iceberg: &Type) -> Result<DataType> {
    Ok(match iceberg {
        Type::Primitive(primitive) => primitive_to_arrow(primitive)?,
        Type::Struct(fields) => DataType::Struct(arrow_fields(fields)?),
        Type::List(list) => DataType::List(arrow_field(&list.element_field)?),
        Type::Map(map) => {
            let entries = vec![arrow_field(&map.key_field)?, arrow_field(&map.value_field)?];
            DataType::Map(Arc::new(Field::new(MAP_ENTRIES, DataType::Struct(entries.into()), false)), false)
        }
    })
}

/// The Arrow type of a primitive Iceberg type.
pub(crate) fn primitive_to_arrow(primitive: &PrimitiveType) -> Result<DataType> {
    let too_wide = || Error::new(ErrorCode::FormatNotSupported, format!("the type {primitive} cannot be read"));
    Ok(match primitive {
        PrimitiveType::Boolean => DataType::Boolean,
        PrimitiveType::Int => DataType::Int32,
        PrimitiveType::Long => DataType::Int64,
        PrimitiveType::Float => DataType::Float32,
        PrimitiveType::Double => DataType::Float64,
        PrimitiveType::Decimal { precision, scale } => {
            let precision =
                u8::try_from(*precision).ok().filter(|p| *p <= MAX_DECIMAL_PRECISION).ok_or_else(too_wide)?;
            DataType::Decimal128(precision, i8::try_from(*scale).map_err(|_| too_wide())?)
        }
        PrimitiveType::Date => DataType::Date32,
        PrimitiveType::Time => DataType::Time64(TimeUnit::Microsecond),
        PrimitiveType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        PrimitiveType::Timestamptz => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
        PrimitiveType::TimestampNs => DataType::Timestamp(TimeUnit::Nanosecond, None),
        PrimitiveType::TimestamptzNs => DataType::Timestamp(TimeUnit::Nanosecond, Some(UTC.into())),
        PrimitiveType::String => DataType::Utf8View,
        PrimitiveType::Uuid => DataType::FixedSizeBinary(16),
        PrimitiveType::Fixed(length) => DataType::FixedSizeBinary(i32::try_from(*length).map_err(|_| too_wide())?),
        PrimitiveType::Binary => DataType::BinaryView,
    })
}

/// The Iceberg schema of new columns, with fresh field ids from 1.
///
/// What Iceberg has not is mapped to what holds every value (`UInt64` to `decimal(20,0)`); nanoseconds are cut to
/// microseconds. Errors: `NOT_SUPPORTED` naming the column and its type, `INVALID_QUERY` for no or duplicate names.
pub fn from_arrow(columns: &[FieldRef]) -> Result<Schema> {
    from_arrow_above(columns, 0)
}

/// As [`from_arrow`], with field ids above `last`: those up to it are taken by columns of the table's past.
pub fn from_arrow_above(columns: &[FieldRef], last: i32) -> Result<Schema> {
    if columns.is_empty() {
        return Err(Error::new(ErrorCode::InvalidQuery, "a table needs at least one column"));
    }
    let fields = iceberg_fields(columns, &mut FreshIds(last), "")?;
    Schema::builder().with_fields(fields).build().map_err(|error| {
        Error::new(ErrorCode::InvalidQuery, format!("the columns make no table: {}", error.message()))
            .with_source(error)
    })
}

struct FreshIds(i32);

impl FreshIds {
    fn next(&mut self) -> i32 {
        self.0 += 1;
        self.0
    }
}

fn iceberg_fields(columns: &[FieldRef], ids: &mut FreshIds, path: &str) -> Result<Vec<Arc<NestedField>>> {
    columns.iter().map(|column| Ok(Arc::new(iceberg_field(column, column.name(), ids, path)?))).collect()
}

/// `name` rather than the field's own: elements of lists and maps have fixed names in Iceberg.
fn iceberg_field(field: &Field, name: &str, ids: &mut FreshIds, path: &str) -> Result<NestedField> {
    let path = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
    if name.is_empty() {
        return Err(Error::new(ErrorCode::InvalidQuery, "a column has no name").with_hint("name it with AS"));
    }
    let id = ids.next();
    let iceberg = NestedField::new(id, name, iceberg_type(field, ids, &path)?, !field.is_nullable());
    Ok(match field.metadata().get(COMMENT) {
        Some(comment) => iceberg.with_doc(comment),
        None => iceberg,
    })
}

fn iceberg_type(field: &Field, ids: &mut FreshIds, path: &str) -> Result<Type> {
    match field.data_type() {
        DataType::Struct(fields) => Ok(Type::Struct(StructType::new(iceberg_fields(fields, ids, path)?))),
        DataType::List(element)
        | DataType::LargeList(element)
        | DataType::ListView(element)
        | DataType::LargeListView(element)
        | DataType::FixedSizeList(element, _) => {
            let element = iceberg_field(element, "element", ids, path)?;
            Ok(Type::List(ListType::new(Arc::new(element))))
        }
        DataType::Map(entries, _) => map_type(entries, ids, path),
        DataType::Dictionary(_, value) => {
            iceberg_type(&Field::new(field.name(), value.as_ref().clone(), true), ids, path)
        }
        DataType::RunEndEncoded(_, values) => iceberg_type(values, ids, path),
        _ => iceberg_primitive(field, path).map(Type::Primitive),
    }
}

fn map_type(entries: &Field, ids: &mut FreshIds, path: &str) -> Result<Type> {
    let DataType::Struct(pair) = entries.data_type() else { return Err(unsupported(entries, path)) };
    let [key, value] = pair.iter().collect::<Vec<_>>()[..] else { return Err(unsupported(entries, path)) };
    let key = iceberg_field(&key.as_ref().clone().with_nullable(false), "key", ids, path)?;
    let value = iceberg_field(value, "value", ids, path)?;
    Ok(Type::Map(MapType::new(Arc::new(key), Arc::new(value))))
}

fn iceberg_primitive(field: &Field, path: &str) -> Result<PrimitiveType> {
    let refused = || unsupported(field, path);
    Ok(match field.data_type() {
        DataType::Boolean => PrimitiveType::Boolean,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => PrimitiveType::Int,
        DataType::Int64 | DataType::UInt32 => PrimitiveType::Long,
        DataType::UInt64 => PrimitiveType::Decimal { precision: 20, scale: 0 },
        DataType::Float16 | DataType::Float32 => PrimitiveType::Float,
        DataType::Float64 => PrimitiveType::Double,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => {
            let scale = u32::try_from(*scale).map_err(|_| refused())?;
            if *precision > MAX_DECIMAL_PRECISION {
                return Err(refused());
            }
            PrimitiveType::Decimal { precision: u32::from(*precision), scale }
        }
        DataType::Date32 | DataType::Date64 => PrimitiveType::Date,
        DataType::Time32(_) | DataType::Time64(_) => PrimitiveType::Time,
        DataType::Timestamp(_, None) => PrimitiveType::Timestamp,
        DataType::Timestamp(_, Some(_)) => PrimitiveType::Timestamptz,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => PrimitiveType::String,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => PrimitiveType::Binary,
        DataType::FixedSizeBinary(16) if field.extension_type_name() == Some("arrow.uuid") => PrimitiveType::Uuid,
        DataType::FixedSizeBinary(length) => PrimitiveType::Fixed(u64::try_from(*length).map_err(|_| refused())?),
        _ => return Err(refused()),
    })
}

fn unsupported(field: &Field, path: &str) -> Error {
    let message = format!("column {path} has the type {}, which an Iceberg table cannot hold", field.data_type());
    let error = Error::new(ErrorCode::NotSupported, message);
    match field.data_type() {
        DataType::Null => error.with_hint("give NULL a type: CAST(NULL AS VARCHAR)"),
        DataType::Interval(_) | DataType::Duration(_) => error.with_hint("store a number of seconds or a text instead"),
        _ => error.with_hint("cast the column to a type that it can hold"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrow(name: &str, data_type: DataType) -> FieldRef {
        Arc::new(Field::new(name, data_type, true))
    }

    fn element(data_type: DataType) -> FieldRef {
        Arc::new(Field::new_list_field(data_type, true))
    }

    /// Every Iceberg type, nested ones included: Iceberg → Arrow → Iceberg gives the same types.
    #[test]
    fn every_type_makes_the_round_trip() {
        let primitives = [
            PrimitiveType::Boolean,
            PrimitiveType::Int,
            PrimitiveType::Long,
            PrimitiveType::Float,
            PrimitiveType::Double,
            PrimitiveType::Decimal { precision: 38, scale: 10 },
            PrimitiveType::Date,
            PrimitiveType::Time,
            PrimitiveType::Timestamp,
            PrimitiveType::Timestamptz,
            PrimitiveType::String,
            PrimitiveType::Fixed(7),
            PrimitiveType::Binary,
        ];
        let mut id = 0;
        let mut next = || {
            id += 1;
            id
        };
        let mut fields: Vec<_> = primitives
            .into_iter()
            .map(|p| Arc::new(NestedField::optional(next(), format!("{p}"), Type::Primitive(p))))
            .collect();
        let (list, inner) = (next(), next());
        let leaf = NestedField::required(next(), "leaf", Type::Primitive(PrimitiveType::Long));
        let nested = Type::Struct(StructType::new(vec![Arc::new(leaf)]));
        let nested = Type::List(ListType::new(Arc::new(NestedField::list_element(inner, nested, false))));
        fields.push(Arc::new(NestedField::required(list, "list", nested)));
        let map = next();
        let key = NestedField::map_key_element(next(), Type::Primitive(PrimitiveType::String));
        let value = NestedField::map_value_element(next(), Type::Primitive(PrimitiveType::Double), false);
        let entries = Type::Map(MapType::new(Arc::new(key), Arc::new(value)));
        fields.push(Arc::new(NestedField::optional(map, "map", entries)));

        let schema = Schema::builder().with_fields(fields).build().unwrap();
        let arrow = to_arrow(&schema).unwrap();
        let back = from_arrow(arrow.fields()).unwrap();
        assert_eq!(back.as_struct(), schema.as_struct());
    }

    #[test]
    fn ids_stand_at_every_depth_and_nothing_else_does() {
        let columns = [arrow("l", DataType::List(element(DataType::Struct(vec![arrow("a", DataType::Utf8)].into()))))];
        let schema = to_arrow(&from_arrow(&columns).unwrap()).unwrap();
        let list = schema.field(0);
        let DataType::List(item) = list.data_type() else { panic!("{list}") };
        let DataType::Struct(leaves) = item.data_type() else { panic!("{item}") };
        assert_eq!([list, item, &leaves[0]].map(field_id), [Some(1), Some(2), Some(3)]);
        assert!([list, item, &leaves[0]].iter().all(|f| f.metadata().len() == 1));
        assert_eq!(leaves[0].data_type(), &DataType::Utf8View);
    }

    #[test]
    fn what_iceberg_has_not_is_mapped_or_refused_by_name() {
        let mapped = from_arrow(&[
            arrow("u", DataType::UInt64),
            arrow("ts", DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))),
            arrow("d", DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))),
        ]);
        let types: Vec<_> = mapped.unwrap().as_struct().fields().iter().map(|f| f.field_type.to_string()).collect();
        assert_eq!(types, ["decimal(20, 0)", "timestamptz", "string"]);

        let nested = arrow("s", DataType::Struct(vec![arrow("x", DataType::Null)].into()));
        let error = from_arrow(&[nested]).unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotSupported);
        assert!(error.message().contains("s.x") && error.message().contains("Null"), "{error}");
        assert!(from_arrow(&[arrow("a", DataType::Int32), arrow("a", DataType::Int32)]).is_err());
        assert!(from_arrow(&[arrow("i", DataType::Interval(arrow::datatypes::IntervalUnit::DayTime))]).is_err());
    }
}
