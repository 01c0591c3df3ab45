//! `INSERT INTO` a Postgres table: all rows by one COPY, in one transaction.
//!
//! COPY is spoken in its text format: the server reads each value with the input function of the column's own type, so that enums, domains, JSON and
//! types that we know as text only take what the server's own clients would send.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::types::{
    Date32Type, Decimal128Type, Decimal256Type, DecimalType, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow::array::{Array, AsArray, RecordBatch};
use bytes::Bytes;
use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, Timelike};
use futures::stream::BoxStream;
use futures::{SinkExt, StreamExt};
use townlake_common::{Error, ErrorCode, QueryId, Result};

use super::discovery::Discovery;
use super::pool::{Pool, Purpose};
use super::sql::{identifier, relation};
use super::types::{Column, ColumnType, Scalar};
use crate::spi::InsertInto;

/// A piece of COPY is sent when it has so many bytes.
const PIECE: usize = 256 << 10;

/// Writes the rows and commits; their number. Dropped before that, nothing is written.
///
/// Errors: `TABLE_NOT_FOUND`, `COLUMN_NOT_FOUND` and `COMMIT_CONFLICT` where the table changed since the statement was planned,
/// `CONSTRAINT_VIOLATION`, `COMMIT_STATE_UNKNOWN` where the server was lost in the commit, and what the rows' own query reports.
pub(crate) async fn insert(
    pool: &Arc<Pool>,
    query: &QueryId,
    into: &InsertInto,
    mut rows: BoxStream<'static, Result<RecordBatch>>,
) -> Result<u64> {
    let server = pool.server();
    let name = format!("{}.{}.{}", server.catalog, into.schema, into.table);
    let connection = pool.begin(query, Purpose::Write, None).await?;
    let found = Discovery { client: connection.client()?, server }.relation(&into.schema, &into.table).await?;
    let found =
        found.ok_or_else(|| Error::new(ErrorCode::TableNotFound, format!("table {name} does not exist any more")))?;
    let columns = columns_of(&found.columns, into, &name)?;
    let names: Vec<_> = columns.iter().map(|column| identifier(&column.name)).collect();
    let copy = format!("COPY {} ({}) FROM STDIN", relation(&into.schema, &into.table), names.join(", "));
    let doing = format!("write to table {}.{}", into.schema, into.table);
    let failed = |error| server.error(&doing, error);
    let sink = connection.client()?.copy_in::<_, Bytes>(copy.as_str()).await.map_err(failed)?;
    let mut sink = std::pin::pin!(sink);
    let mut text = String::new();
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        for row in 0..batch.num_rows() {
            line(&mut text, &columns, &batch, row).map_err(|(column, what)| unsuitable(&name, column, what))?;
            if text.len() >= PIECE {
                sink.send(Bytes::from(std::mem::take(&mut text))).await.map_err(failed)?;
            }
        }
    }
    if !text.is_empty() {
        sink.send(Bytes::from(text)).await.map_err(failed)?;
    }
    let count = sink.finish().await.map_err(failed)?;
    // Not interrupted by a client that goes away: a commit half asked for would leave nobody who knows whether it happened.
    let committing = tokio::spawn(connection.commit());
    committing.await.map_err(|error| Error::internal("the commit stopped").with_source(error))??;
    Ok(count)
}

/// The table's columns in the order of the rows'.
fn columns_of(found: &[Column], into: &InsertInto, table: &str) -> Result<Vec<Column>> {
    let mut columns = Vec::with_capacity(into.columns.len());
    for field in &into.columns {
        let name = field.name();
        let column = found.iter().find(|column| column.name == *name).ok_or_else(|| {
            Error::new(ErrorCode::ColumnNotFound, format!("table {table} has no column {name} any more"))
        })?;
        if column.column_type.arrow() != *field.data_type() {
            let message =
                format!("column {name} of table {table} has another type than when the statement was planned");
            return Err(Error::new(ErrorCode::CommitConflict, message)
                .with_hint("run the statement again")
                .retryable());
        }
        columns.push(column.clone());
    }
    Ok(columns)
}

fn unsuitable(table: &str, column: &str, what: &str) -> Error {
    Error::new(ErrorCode::InvalidArgument, format!("column {column} of table {table}: {what}"))
}

/// Why a value has no text that Postgres takes.
type Fault = &'static str;

/// One row of COPY's text format.
fn line<'c>(
    text: &mut String,
    columns: &'c [Column],
    batch: &RecordBatch,
    row: usize,
) -> std::result::Result<(), (&'c str, Fault)> {
    let mut value = String::new();
    for (index, (column, array)) in columns.iter().zip(batch.columns()).enumerate() {
        if index > 0 {
            text.push('\t');
        }
        if array.is_null(row) {
            text.push_str("\\N");
            continue;
        }
        value.clear();
        write_value(&mut value, column.column_type, array.as_ref(), row)
            .map_err(|what| (column.name.as_str(), what))?;
        escape(text, &value);
    }
    text.push('\n');
    Ok(())
}

fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c => text.push(c),
        }
    }
}

fn write_value(text: &mut String, of: ColumnType, array: &dyn Array, row: usize) -> std::result::Result<(), Fault> {
    if !of.is_array() {
        return write_scalar(text, of.scalar, array, row);
    }
    let items = array.as_list::<i32>().value(row);
    let inner = ColumnType { dimensions: of.dimensions - 1, ..of };
    let mut item = String::new();
    text.push('{');
    for index in 0..items.len() {
        if index > 0 {
            text.push(',');
        }
        if items.is_null(index) {
            text.push_str("NULL");
            continue;
        }
        if inner.is_array() {
            write_value(text, inner, items.as_ref(), index)?;
            continue;
        }
        item.clear();
        write_scalar(&mut item, of.scalar, items.as_ref(), index)?;
        text.push('"');
        for c in item.chars() {
            if matches!(c, '"' | '\\') {
                text.push('\\');
            }
            text.push(c);
        }
        text.push('"');
    }
    text.push('}');
    Ok(())
}

/// One value as Postgres' input functions take it.
fn write_scalar(text: &mut String, scalar: Scalar, array: &dyn Array, row: usize) -> std::result::Result<(), Fault> {
    let written = match scalar {
        Scalar::Bool => write!(text, "{}", array.as_boolean().value(row)),
        Scalar::Int2 => write!(text, "{}", array.as_primitive::<Int16Type>().value(row)),
        Scalar::Int4 => write!(text, "{}", array.as_primitive::<Int32Type>().value(row)),
        Scalar::Int8 => write!(text, "{}", array.as_primitive::<Int64Type>().value(row)),
        // The shortest text that is this value again; `inf` and `NaN` are understood as well.
        Scalar::Float4 => write!(text, "{}", array.as_primitive::<Float32Type>().value(row)),
        Scalar::Float8 => write!(text, "{}", array.as_primitive::<Float64Type>().value(row)),
        Scalar::Numeric { precision, scale } if precision <= 38 => {
            let value = array.as_primitive::<Decimal128Type>().value(row);
            write!(text, "{}", Decimal128Type::format_decimal(value, precision, scale))
        }
        Scalar::Numeric { precision, scale } => {
            let value = array.as_primitive::<Decimal256Type>().value(row);
            write!(text, "{}", Decimal256Type::format_decimal(value, precision, scale))
        }
        Scalar::Text | Scalar::Uuid => {
            let value = array.as_string::<i32>().value(row);
            if value.contains('\0') {
                return Err("Postgres has no text with a zero byte");
            }
            text.push_str(value);
            Ok(())
        }
        Scalar::Bytea => {
            text.push_str("\\x");
            array.as_binary::<i32>().value(row).iter().try_for_each(|byte| write!(text, "{byte:02x}"))
        }
        Scalar::Date => {
            let days = array.as_primitive::<Date32Type>().value(row);
            let date = Date32Type::to_naive_date_opt(days).ok_or("a date beyond the calendar")?;
            write_date(text, date, "")
        }
        Scalar::Time => {
            let micros = array.as_primitive::<Time64MicrosecondType>().value(row);
            let (seconds, rest) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
            let time = u32::try_from(seconds).ok().zip(u32::try_from(rest * 1000).ok());
            let time = time.and_then(|(seconds, nanos)| NaiveTime::from_num_seconds_from_midnight_opt(seconds, nanos));
            write!(text, "{}", time.ok_or("a time beyond the day")?.format("%H:%M:%S%.6f"))
        }
        Scalar::Timestamp | Scalar::Timestamptz => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            let time = DateTime::from_timestamp_micros(micros).ok_or("a time beyond the calendar")?.naive_utc();
            let zone = if scalar == Scalar::Timestamptz { "+00" } else { "" };
            let clock = format!(
                " {:02}:{:02}:{:02}.{:06}{zone}",
                time.hour(),
                time.minute(),
                time.second(),
                time.nanosecond() / 1000
            );
            write_date(text, time.date(), &clock)
        }
        Scalar::Interval => {
            let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            if value.nanoseconds % 1000 != 0 {
                return Err("Postgres has no nanoseconds in an interval");
            }
            let micros = value.nanoseconds / 1000;
            write!(text, "{} mons {} days {micros} microseconds", value.months, value.days)
        }
    };
    written.map_err(|_| "its text cannot be written")
}

/// Years before the first are counted backwards, from 1 BC.
fn write_date(text: &mut String, date: NaiveDate, clock: &str) -> std::fmt::Result {
    let (year, era) = if date.year() > 0 { (date.year(), "") } else { (1 - date.year(), " BC") };
    write!(text, "{year:04}-{:02}-{:02}{clock}{era}", date.month(), date.day())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow::array::{ArrayRef, BinaryArray, Date32Array, Float64Array, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn lines(scalar: Scalar, array: ArrayRef) -> String {
        let column = Column {
            name: "c".to_string(),
            column_type: ColumnType::of(scalar),
            nullable: true,
            metadata: HashMap::new(),
        };
        let schema = Schema::new(vec![Field::new("c", array.data_type().clone(), true)]);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![array]).unwrap();
        let mut text = String::new();
        for row in 0..batch.num_rows() {
            line(&mut text, std::slice::from_ref(&column), &batch, row).unwrap();
        }
        text
    }

    #[test]
    fn values_stay_on_their_line() {
        let texts = StringArray::from(vec![Some("a\tb\\N\nc\r"), None, Some("\\.")]);
        assert_eq!(lines(Scalar::Text, Arc::new(texts)), "a\\tb\\\\N\\nc\\r\n\\N\n\\\\.\n");
        assert_eq!(lines(Scalar::Bytea, Arc::new(BinaryArray::from(vec![&[0_u8, 255][..]]))), "\\\\x00ff\n");
    }

    #[test]
    fn numbers_and_times_are_what_postgres_reads() {
        let floats = Float64Array::from(vec![0.1, f64::INFINITY, f64::NAN, -0.0, 1e300]);
        let text = lines(Scalar::Float8, Arc::new(floats));
        assert!(text.starts_with("0.1\ninf\nNaN\n-0\n1"), "{text}");
        let days = Date32Array::from(vec![0, -719_163, 3_000_000]);
        assert_eq!(
            lines(Scalar::Date, Arc::new(days)),
            "1970-01-01\n0001-12-31 BC\n10183-10-06\n".replace("10183-10-06", &expected(3_000_000))
        );
        let times = TimestampMicrosecondArray::from(vec![1, -62_135_596_800_000_001]);
        assert_eq!(
            lines(Scalar::Timestamptz, Arc::new(times)),
            "1970-01-01 00:00:00.000001+00\n0001-12-31 23:59:59.999999+00 BC\n"
        );
    }

    #[test]
    fn arrays_are_written_as_deep_as_they_are() {
        use arrow::array::builder::{ListBuilder, StringBuilder};
        let mut outer = ListBuilder::new(ListBuilder::new(StringBuilder::new()));
        outer.values().append_value([Some("a\"b"), None]);
        outer.values().append_value([Some(""), Some("{}")]);
        outer.append(true);
        outer.append(true);
        let mut text = String::new();
        let of = ColumnType { scalar: Scalar::Text, dimensions: 2 };
        let array = outer.finish();
        write_value(&mut text, of, &array, 0).unwrap();
        text.push(' ');
        write_value(&mut text, of, &array, 1).unwrap();
        assert_eq!(text, r#"{{"a\"b",NULL},{"","{}"}} {}"#);
    }

    fn expected(days: i32) -> String {
        let date = Date32Type::to_naive_date_opt(days).unwrap();
        format!("{}-{:02}-{:02}", date.year(), date.month(), date.day())
    }
}
