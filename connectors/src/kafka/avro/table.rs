//! A reader's schema as columns.
//!
//! | Avro | Arrow |
//! |---|---|
//! | null, boolean, int, long, float, double, bytes, string | Null, Boolean, Int32, Int64, Float32, Float64, Binary, Utf8 |
//! | decimal | Decimal128, from 39 digits on Decimal256 |
//! | date; time-millis, time-micros | Date32; Time64(µs) |
//! | timestamp-millis, timestamp-micros; timestamp-nanos | Timestamp(µs, "+00:00"); Timestamp(ns, "+00:00") |
//! | local-timestamp-… | the same without a time zone |
//! | uuid, enum | Utf8 |
//! | fixed | Binary |
//! | duration | Interval(MonthDayNano) |
//! | array, map, record | List, Map(Utf8, …), Struct |
//! | union of null and one type | that type |
//! | any other union | Struct of one member a branch, of which the one that was written is not NULL |

use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};

use super::super::datum::DEEPEST;
use super::super::nested::{list_of, map_of, struct_of};
use super::super::registry::column_name;
use super::super::types::UTC;
use super::schema::{Body, Logical, NoSchema, Schema, Shape, Type, short};

/// So many places may a table's schema have, all records of records counted.
const MOST_PLACES: usize = 20_000;
/// The digits that the widest decimal has.
const MOST_DIGITS: u8 = 76;

/// A reader's schema, and the columns that it makes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AvroTable {
    pub schema: Schema,
    pub columns: Vec<(String, DataType)>,
}

impl AvroTable {
    /// The columns of a schema: its fields, where it is a record, else the whole value.
    ///
    /// Errors: what cannot be a column, by its name.
    pub fn new(schema: Schema) -> Result<Self, NoSchema> {
        let mut shown = Shown { schema: &schema, open: Vec::new(), places: 0, depth: 0 };
        let columns = match schema.fields(&schema.root) {
            Some(fields) => {
                if let Shape::Named(index) = schema.root.shape {
                    shown.open.push(index);
                }
                let column = |field: &super::schema::Field| {
                    Ok((column_name(&field.name), shown.arrow(&field.schema, &field.name)?))
                };
                fields.iter().map(column).collect::<Result<Vec<_>, NoSchema>>()?
            }
            None => vec![("_value".to_string(), shown.arrow(&schema.root, "_value")?)],
        };
        Ok(Self { schema, columns })
    }

    /// Whether the columns are the fields of a record, and not one value.
    pub fn is_record(&self) -> bool {
        self.schema.fields(&self.schema.root).is_some()
    }
}

impl Schema {
    /// The fields of a record.
    pub fn fields(&self, of: &Type) -> Option<&[super::schema::Field]> {
        match of.shape {
            Shape::Named(index) => match &self.named(index)?.body {
                Body::Record(fields) => Some(fields),
                _ => None,
            },
            _ => None,
        }
    }

    /// The branches of a union that are not null, each with its name.
    pub fn branches<'s>(&'s self, union: &'s [Type]) -> Vec<(String, &'s Type)> {
        let branches: Vec<&Type> = union.iter().filter(|branch| branch.shape != Shape::Null).collect();
        let full: Vec<&str> = branches.iter().map(|branch| self.type_name(branch)).collect();
        let is_twice = |name: &str| full.iter().filter(|full| short(full) == name).count() > 1;
        let name = |full: &&str| if is_twice(short(full)) { *full } else { short(full) }.to_string();
        full.iter().map(name).zip(branches).collect()
    }

    /// The name of a type; of a named one with its namespace.
    pub fn type_name(&self, of: &Type) -> &str {
        match &of.shape {
            Shape::Null => "null",
            Shape::Boolean => "boolean",
            Shape::Int => "int",
            Shape::Long => "long",
            Shape::Float => "float",
            Shape::Double => "double",
            Shape::Bytes => "bytes",
            Shape::String => "string",
            Shape::Array(_) => "array",
            Shape::Map(_) => "map",
            Shape::Union(_) => "union",
            Shape::Named(index) => self.named(*index).map_or("?", |named| &named.full),
        }
    }
}

struct Shown<'s> {
    schema: &'s Schema,
    /// The records that we are in.
    open: Vec<usize>,
    places: usize,
    depth: usize,
}

impl Shown<'_> {
    fn arrow(&mut self, of: &Type, place: &str) -> Result<DataType, NoSchema> {
        self.places += 1;
        if self.places > MOST_PLACES {
            return Err(NoSchema(format!("it has more than {MOST_PLACES} places")));
        }
        if let Some(logical) = self.schema.logical(of) {
            return logical
                .arrow()
                .ok_or_else(|| NoSchema(format!("{place} is a decimal of more than {MOST_DIGITS} digits")));
        }
        Ok(match &of.shape {
            Shape::Null => DataType::Null,
            Shape::Boolean => DataType::Boolean,
            Shape::Int => DataType::Int32,
            Shape::Long => DataType::Int64,
            Shape::Float => DataType::Float32,
            Shape::Double => DataType::Float64,
            Shape::Bytes => DataType::Binary,
            Shape::String => DataType::Utf8,
            Shape::Array(items) => list_of(self.inside(items, place)?),
            Shape::Map(values) => map_of(DataType::Utf8, self.inside(values, place)?),
            Shape::Union(union) => {
                let branches = self.schema.branches(union);
                match branches.as_slice() {
                    [] => DataType::Null,
                    [(_, only)] => self.inside(only, place)?,
                    _ => {
                        let member = |(name, branch): (String, &Type)| {
                            let inside = self.inside(branch, &format!("{place}.{name}"))?;
                            Ok((name, inside))
                        };
                        struct_of(branches.into_iter().map(member).collect::<Result<Vec<_>, NoSchema>>()?)
                    }
                }
            }
            Shape::Named(index) => match self.schema.named(*index).map(|named| &named.body) {
                Some(Body::Record(fields)) => {
                    if self.open.contains(index) {
                        let name = self.schema.type_name(of);
                        return Err(NoSchema(format!(
                            "{place} is a {name} within a {name}: no column has such a type"
                        )));
                    }
                    self.open.push(*index);
                    let mut members = Vec::new();
                    for field in fields {
                        members.push((
                            field.name.clone(),
                            self.inside(&field.schema, &format!("{place}.{}", field.name))?,
                        ));
                    }
                    self.open.pop();
                    struct_of(members)
                }
                Some(Body::Enum { .. }) => DataType::Utf8,
                Some(Body::Fixed(_)) => DataType::Binary,
                Some(Body::Open) | None => return Err(NoSchema(format!("{place} has no type"))),
            },
        })
    }

    fn inside(&mut self, of: &Type, place: &str) -> Result<DataType, NoSchema> {
        if self.depth == DEEPEST {
            return Err(NoSchema("it is too deep".to_string()));
        }
        self.depth += 1;
        let inside = self.arrow(of, place);
        self.depth -= 1;
        inside
    }
}

impl Logical {
    /// The Arrow type; `None` for decimals that are too wide.
    pub fn arrow(self) -> Option<DataType> {
        let zone = |instant: bool| instant.then(|| UTC.into());
        Some(match self {
            Self::Decimal { precision, scale } => match precision {
                ..=38 => DataType::Decimal128(precision, scale),
                39..=MOST_DIGITS => DataType::Decimal256(precision, scale),
                _ => return None,
            },
            Self::Uuid => DataType::Utf8,
            Self::Date => DataType::Date32,
            Self::TimeMillis | Self::TimeMicros => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp { digits: 9, instant } => DataType::Timestamp(TimeUnit::Nanosecond, zone(instant)),
            Self::Timestamp { instant, .. } => DataType::Timestamp(TimeUnit::Microsecond, zone(instant)),
            Self::Duration => DataType::Interval(IntervalUnit::MonthDayNano),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(fields: &str) -> Result<Vec<(String, DataType)>, NoSchema> {
        let text = format!(r#"{{"type": "record", "name": "n.R", "fields": [{fields}]}}"#);
        AvroTable::new(Schema::parse(&text, [])?).map(|table| table.columns)
    }

    #[test]
    fn fields_are_columns() {
        let shown = columns(
            r#"{"name": "a", "type": ["null", "int"]}, {"name": "_key", "type": "string"},
               {"name": "u", "type": ["null", "int", {"type": "enum", "name": "E", "symbols": ["X"]}]},
               {"name": "m", "type": {"type": "map", "values": {"type": "array", "items": "bytes"}}},
               {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 39, "scale": 1}}"#,
        );
        let union = struct_of([("int".to_string(), DataType::Int32), ("E".to_string(), DataType::Utf8)]);
        let expected = [
            ("a", DataType::Int32),
            ("_value_key", DataType::Utf8),
            ("u", union),
            ("m", map_of(DataType::Utf8, list_of(DataType::Binary))),
            ("d", DataType::Decimal256(39, 1)),
        ];
        let expected: Vec<_> = expected.into_iter().map(|(name, kind)| (name.to_string(), kind)).collect();
        assert_eq!(shown.unwrap(), expected);
        let whole = AvroTable::new(Schema::parse(r#""long""#, []).unwrap()).unwrap();
        assert_eq!(whole.columns, [("_value".to_string(), DataType::Int64)]);
    }

    #[test]
    fn what_cannot_be_a_column_is_refused_by_name() {
        for (fields, word) in [
            (r#"{"name": "next", "type": ["null", "n.R"]}"#, "next is a n.R within a n.R"),
            (
                r#"{"name": "t", "type": {"type": "record", "name": "T", "fields": [
                    {"name": "kids", "type": {"type": "array", "items": "T"}}]}}"#,
                "t.kids is a n.T within a n.T",
            ),
            (
                r#"{"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 77}}"#,
                "d is a decimal",
            ),
        ] {
            assert!(columns(fields).unwrap_err().0.contains(word), "{:?}", columns(fields));
        }
        // Each doubles the one before it.
        let record = |n: usize| {
            let inner = if n == 0 { "\"int\"".to_string() } else { format!("\"r{}\"", n - 1) };
            format!(
                r#"{{"type": "record", "name": "r{n}", "fields": [{{"name": "a", "type": {inner}}}, {{"name": "b", "type": {inner}}}]}}"#
            )
        };
        let references: Vec<_> = (0..40).map(record).collect();
        let schema = Schema::parse("\"r39\"", references.iter().map(String::as_str)).unwrap();
        assert!(AvroTable::new(schema).unwrap_err().0.contains("places"));
    }
}
