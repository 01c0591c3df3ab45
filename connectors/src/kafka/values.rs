//! Records into Arrow columns.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Builder, Int64Builder, ListBuilder, NullBuilder, RecordBatch, RecordBatchOptions,
    StringBuilder, StructBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::error::ArrowError;

use super::datum::Unsound;
use super::fields::FieldBuilder;
use super::json::Places;
use super::nested::{Nested, places};
use super::records::Record;
use super::registry::{ValueDecoder, ValueTable, Writer};
use super::types::{Column, Source, Step, UTC, header_fields};
use super::wire::buffer::Malformed;

/// Builds batches of rows.
pub(crate) struct Rows {
    /// Those of the schema, then those that are only checked.
    columns: Vec<Builder>,
    names: Vec<String>,
    schema: SchemaRef,
    /// Where the fields lie, in the order of the columns that are fields.
    places: Places,
    fields: usize,
    /// What decodes the columns that are members of a registered schema.
    members: Option<ValueDecoder>,
    /// About the bytes that members have taken, beyond what was counted, and those that they take in each row, be they NULL.
    weight: usize,
    row_weight: usize,
    has_value: bool,
    /// What does not fit is NULL, and counted.
    null_and_count: bool,
    rows: usize,
}

/// Why a record cannot be a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The record is damaged.
    Malformed(Malformed),
    /// The value as a whole cannot be decoded.
    Value(Unsound),
    /// The column (its number) does not hold what the value has for it.
    Field(usize),
}

enum Builder {
    Partition(Int32Builder),
    Offset(Int64Builder),
    Timestamp(TimestampMicrosecondBuilder),
    TimestampType(StringBuilder),
    Key(BinaryBuilder),
    Headers(ListBuilder<StructBuilder>),
    Value(FieldBuilder),
    Field(FieldBuilder),
    Member(Box<Nested>),
    Error(StringBuilder),
}

impl Rows {
    /// Rows of these columns; `checked` are decoded as well, but not shown. `values` is what the registered schema says.
    pub fn new(
        columns: &[Column],
        checked: &[Column],
        schema: SchemaRef,
        null_and_count: bool,
        values: Option<&Arc<ValueTable>>,
    ) -> Self {
        let columns: Vec<&Column> = columns.iter().chain(checked).collect();
        let paths: Vec<&[Step]> = columns.iter().filter_map(|column| column.source.path()).collect();
        let whole = columns.iter().any(|column| matches!(column.source, Source::Value(_)));
        let members = values.and_then(|values| {
            let of_members = columns.iter().filter(|column| matches!(column.source, Source::Member(_)));
            let number = |column: &&Column| values.columns().iter().position(|(name, _)| *name == column.name);
            let wanted: Vec<usize> = of_members.filter_map(number).collect();
            (!wanted.is_empty()).then(|| ValueDecoder::new(Arc::clone(values), wanted))
        });
        Self {
            columns: columns.iter().map(|column| Builder::new(&column.source)).collect(),
            names: columns.iter().map(|column| column.name.clone()).collect(),
            schema,
            fields: paths.len(),
            has_value: whole || !paths.is_empty() || members.is_some(),
            members,
            weight: 0,
            row_weight: columns.iter().map(|column| column.source.places() * 8).sum(),
            places: Places::new(paths.into_iter()),
            null_and_count,
            rows: 0,
        }
    }

    /// How many rows wait.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// The schema that must be learned before this record is appended, if there is one.
    pub fn missing(&self, record: &Record) -> Option<u32> {
        self.members.as_ref()?.missing(record.value.as_deref()?)
    }

    /// Learns what the schema of an id is; `None`: the registry has none. Tells how many there were not so far.
    pub fn learn(&mut self, id: u32, writer: Option<&Writer>) -> usize {
        self.members.as_mut().map_or(0, |members| {
            members.learn(id, writer);
            members.unknown()
        })
    }

    /// About the bytes that members have taken since this was last asked. Defaults and items without bytes may take more than
    /// the records had.
    pub fn take_weight(&mut self) -> usize {
        std::mem::take(&mut self.weight)
    }

    /// Appends a record. Tells how many of its columns are NULL because they did not fit: all of its value's, when the value
    /// is not of the format at all. After an error the rows are of no use.
    pub fn append(&mut self, partition: i32, record: &Record) -> Result<usize, Fault> {
        let value = record.value.as_deref().filter(|_| self.has_value);
        let mut found = vec![None; self.fields];
        let mut misfits = Vec::new();
        let mut unsound = None;
        if let Some(value) = value.filter(|_| self.fields > 0) {
            unsound = (!self.places.find(value, &mut found)).then_some(Unsound::Format);
        }
        let mut decoded = Vec::new();
        if let (Some(value), Some(members)) = (value, &self.members) {
            match members.decode(value) {
                Ok(columns) => decoded = columns,
                Err(fault) => unsound = Some(fault),
            }
        }
        if let Some(unsound) = unsound.filter(|_| !self.null_and_count) {
            return Err(Fault::Value(unsound));
        }
        let mut field = 0;
        let mut member = 0;
        for (index, builder) in self.columns.iter_mut().enumerate() {
            let fits = match builder {
                Builder::Value(builder) => match value {
                    Some(value) => builder.append_whole(value).map_err(|_| Unfit::Field(builder)),
                    None => {
                        builder.append_null();
                        Ok(())
                    }
                },
                Builder::Field(builder) => {
                    let here = found.get(field).copied().flatten();
                    field += 1;
                    match unsound {
                        None => builder.append_json(here).map_err(|_| Unfit::Field(builder)),
                        Some(_) => Err(Unfit::Field(builder)),
                    }
                }
                Builder::Member(builder) => {
                    let here = decoded.get(member);
                    member += 1;
                    match here {
                        Some(Some(datum)) => {
                            self.weight += datum.weight();
                            // What is decoded is of the column's type.
                            builder.append(datum).map_err(|_| Fault::Field(index))?;
                            Ok(())
                        }
                        _ if value.is_none() => {
                            builder.append_null();
                            Ok(())
                        }
                        _ => Err(Unfit::Member(builder)),
                    }
                }
                // When all others are known.
                Builder::Error(_) => Ok(()),
                other => Ok(other.append(partition, record).map_err(Fault::Malformed)?),
            };
            if let Err(builder) = fits {
                if !self.null_and_count {
                    return Err(Fault::Field(index));
                }
                misfits.push(index);
                match builder {
                    Unfit::Field(builder) => builder.append_null(),
                    Unfit::Member(builder) => builder.append_null(),
                }
            }
        }
        for builder in &mut self.columns {
            if let Builder::Error(builder) = builder {
                let names = || misfits.iter().filter_map(|index| self.names.get(*index).map(String::as_str));
                match (unsound, misfits.is_empty()) {
                    (Some(unsound), _) => builder.append_value(format!("the value {unsound}")),
                    (None, true) => builder.append_null(),
                    (None, false) => builder.append_value(names().collect::<Vec<_>>().join(", ")),
                }
            }
        }
        self.rows += 1;
        self.weight += self.row_weight;
        Ok(misfits.len())
    }

    /// The rows as a batch, and none after it.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        let mut columns = self.columns.iter_mut().map(Builder::finish).collect::<Result<Vec<ArrayRef>, _>>()?;
        columns.truncate(self.schema.fields().len());
        let options = RecordBatchOptions::new().with_row_count(Some(std::mem::take(&mut self.rows)));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }
}

/// Whose value does not fit.
enum Unfit<'b> {
    Field(&'b mut FieldBuilder),
    Member(&'b mut Nested),
}

impl Source {
    /// In how many places a member is, also where it is NULL; other columns are counted by what they hold.
    fn places(&self) -> usize {
        match self {
            Self::Member(data_type) => places(data_type),
            _ => 0,
        }
    }

    /// Where a field lies in the value.
    fn path(&self) -> Option<&[Step]> {
        match self {
            Self::Field(_, path) => Some(path),
            _ => None,
        }
    }
}

impl Builder {
    fn new(source: &Source) -> Self {
        match source {
            Source::Partition => Self::Partition(Int32Builder::new()),
            Source::Offset => Self::Offset(Int64Builder::new()),
            Source::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::new().with_timezone(UTC)),
            Source::TimestampType => Self::TimestampType(StringBuilder::new()),
            Source::Key => Self::Key(BinaryBuilder::new()),
            Source::Headers => {
                let header = StructBuilder::from_fields(header_fields(), 0);
                let element = Field::new_list_field(DataType::Struct(header_fields()), false);
                Self::Headers(ListBuilder::new(header).with_field(element))
            }
            Source::Value(field_type) => Self::Value(FieldBuilder::new(*field_type)),
            Source::Field(field_type, _) => Self::Field(FieldBuilder::new(*field_type)),
            // A schema gives no other types than those that are built.
            Source::Member(data_type) => {
                Self::Member(Box::new(Nested::new(data_type).unwrap_or(Nested::Null(NullBuilder::new()))))
            }
            Source::Error => Self::Error(StringBuilder::new()),
        }
    }

    /// Appends what Kafka itself says of a record.
    fn append(&mut self, partition: i32, record: &Record) -> Result<(), Malformed> {
        match self {
            Self::Partition(builder) => builder.append_value(partition),
            Self::Offset(builder) => builder.append_value(record.offset),
            Self::Timestamp(builder) => {
                let micros = Some(record.timestamp).filter(|millis| *millis != -1);
                builder.append_option(micros.and_then(|millis| millis.checked_mul(1000)));
            }
            Self::TimestampType(builder) => {
                builder.append_value(if record.appended { "LogAppendTime" } else { "CreateTime" });
            }
            Self::Key(builder) => builder.append_option(record.key.as_deref()),
            Self::Headers(builder) => append_headers(builder, record)?,
            Self::Value(builder) | Self::Field(builder) => builder.append_null(),
            Self::Member(builder) => builder.append_null(),
            Self::Error(builder) => builder.append_null(),
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Partition(builder) => Arc::new(builder.finish()),
            Self::Offset(builder) => Arc::new(builder.finish()),
            Self::Timestamp(builder) => Arc::new(builder.finish()),
            Self::TimestampType(builder) => Arc::new(builder.finish()),
            Self::Key(builder) => Arc::new(builder.finish()),
            Self::Headers(builder) => Arc::new(builder.finish()),
            Self::Value(builder) | Self::Field(builder) => builder.finish(),
            Self::Member(builder) => builder.finish()?,
            Self::Error(builder) => Arc::new(builder.finish()),
        })
    }
}

fn append_headers(builder: &mut ListBuilder<StructBuilder>, record: &Record) -> Result<(), Malformed> {
    let headers = builder.values();
    record.headers(|name, value| {
        // A name is text by the protocol; a producer that does not know that is not worth a failed query.
        let name = String::from_utf8_lossy(name);
        if let Some(names) = headers.field_builder::<StringBuilder>(0) {
            names.append_value(name);
        }
        if let Some(values) = headers.field_builder::<BinaryBuilder>(1) {
            values.append_option(value);
        }
        headers.append(true);
    })?;
    builder.append(true);
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Schema;
    use arrow::util::pretty::pretty_format_batches;
    use bytes::Bytes;

    use super::super::records::{
        next_batch,
        tests::{Raw, Sample},
    };
    use super::super::types::{FieldType, parse_path};
    use super::*;

    fn records(records: &[Raw<'_>]) -> Vec<Record> {
        let sample = Sample { base_offset: 5, last_delta: 99, attributes: 0, producer: -1, records };
        let batch = next_batch(&mut Bytes::from(sample.encode())).unwrap().unwrap();
        let mut records = batch.records().unwrap();
        std::iter::from_fn(|| records.next().unwrap()).collect()
    }

    fn rows(columns: &[Column], null_and_count: bool) -> Rows {
        let schema = Arc::new(Schema::new(columns.iter().map(Column::field).collect::<Vec<_>>()));
        Rows::new(columns, &[], schema, null_and_count, None)
    }

    fn json(name: &str, sql_type: &str) -> Column {
        let path = parse_path(&format!("$.{name}")).unwrap();
        Column { name: name.into(), source: Source::Field(FieldType::parse(sql_type).unwrap(), path) }
    }

    #[test]
    fn every_record_is_a_row_and_a_tombstone_too() {
        let mut columns = Column::of_records();
        columns.push(Column::of_value(FieldType::Varchar));
        let mut rows = rows(&columns, false);
        for record in records(&[(0, Some(b"k"), Some(b"text")), (1, None, None)]) {
            assert_eq!(rows.append(3, &record), Ok(0));
        }
        let shown = pretty_format_batches(&[rows.finish().unwrap()]).unwrap().to_string();
        let header = "[{name: h, value: }, {name: h, value: 31}]";
        assert!(
            shown.contains(&format!(
                "| 3          | 5       | 1970-01-01T00:00:01Z     | CreateTime      | 6b   | {header} | text   |"
            )),
            "{shown}"
        );
        assert!(
            shown.contains(&format!(
                "| 3          | 6       | 1970-01-01T00:00:01.001Z | CreateTime      |      | {header} |        |"
            )),
            "{shown}"
        );
        assert_eq!(rows.len(), 0);
    }

    #[test]
    fn what_does_not_fit_fails_or_is_null_and_counted() {
        let columns = [json("a", "bigint"), json("b", "varchar")];
        let bad = records(&[
            (0, None, Some(br#"{"a": "x", "b": 1}"#)),
            (1, None, Some(b"no")),
            (2, None, Some(br#"{"a": 7}"#)),
        ]);
        let mut strict = rows(&columns, false);
        assert_eq!(strict.append(0, &bad[0]), Err(Fault::Field(0)));
        assert_eq!(rows(&columns, false).append(0, &bad[1]), Err(Fault::Value(Unsound::Format)));
        let mut lenient = rows(&columns, true);
        let misfits: Vec<_> = bad.iter().map(|record| lenient.append(0, record).unwrap()).collect();
        assert_eq!(misfits, [1, 2, 0]);
        let batch = lenient.finish().unwrap();
        assert_eq!((batch.num_rows(), batch.column(0).null_count(), batch.column(1).null_count()), (3, 2, 2));
    }

    #[test]
    fn errors_are_told_of_columns_that_are_not_shown_too() {
        let (columns, checked) = ([Column::of_errors()], [json("a", "bigint"), json("b", "boolean")]);
        let schema = Arc::new(Schema::new(vec![columns[0].field()]));
        let mut rows = Rows::new(&columns, &checked, schema, true, None);
        let values: [&[u8]; 4] = [br#"{"a": 1}"#, br#"{"a": "x", "b": 2}"#, b"{}", b"["];
        for record in records(&values.map(|value| (0, None, Some(value)))) {
            rows.append(0, &record).unwrap();
        }
        let batch = rows.finish().unwrap();
        let told: Vec<_> = batch.column(0).as_string::<i32>().iter().collect();
        assert_eq!(told, [None, Some("a, b"), None, Some("the value is not of the table's format")]);
    }

    #[test]
    fn rows_without_columns_are_counted() {
        let mut rows = rows(&[], false);
        for record in records(&[(0, None, Some(b"not looked at")), (1, None, None)]) {
            rows.append(0, &record).unwrap();
        }
        assert_eq!(rows.finish().unwrap().num_rows(), 2);
    }
}
