//! Columns of a type that an output format lacks: written as text, the way a table shows them.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::{DataType, Field, IntervalUnit, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// The types that a format has no place for.
pub type Lacking = fn(&DataType) -> bool;

/// CSV has no lists, structs or maps.
pub fn csv_lacks(data_type: &DataType) -> bool {
    data_type.is_nested()
}

/// The keys of a JSON object are texts.
pub fn json_lacks(data_type: &DataType) -> bool {
    holds(data_type, |inner| {
        let DataType::Map(entries, _) = inner else { return false };
        let DataType::Struct(fields) = entries.data_type() else { return false };
        !fields
            .first()
            .is_some_and(|key| matches!(key.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View))
    })
}

/// Parquet has intervals of months, days and milliseconds, not of nanoseconds, and no empty structs.
pub fn parquet_lacks(data_type: &DataType) -> bool {
    holds(data_type, |inner| match inner {
        DataType::Interval(unit) => *unit == IntervalUnit::MonthDayNano,
        DataType::Struct(fields) => fields.is_empty(),
        DataType::Union(..) => true,
        _ => false,
    })
}

/// Whether the type, or one inside it, is `wanted`.
fn holds(data_type: &DataType, wanted: Lacking) -> bool {
    if wanted(data_type) {
        return true;
    }
    match data_type {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::Map(field, _)
        | DataType::RunEndEncoded(_, field) => holds(field.data_type(), wanted),
        DataType::Struct(fields) => fields.iter().any(|field| holds(field.data_type(), wanted)),
        DataType::Dictionary(_, value) => holds(value, wanted),
        _ => false,
    }
}

/// The schema of what [`plain`] makes.
pub fn plain_schema(schema: &Schema, lacks: Lacking) -> SchemaRef {
    let text = |field: &Arc<Field>| match lacks(field.data_type()) {
        true => Arc::new(Field::new(field.name(), DataType::Utf8, true)),
        false => Arc::clone(field),
    };
    Arc::new(Schema::new(schema.fields().iter().map(text).collect::<Vec<_>>()))
}

/// The batch with the columns as text that are of a lacking type.
pub fn plain(batch: &RecordBatch, lacks: Lacking) -> Result<RecordBatch, ArrowError> {
    let options = FormatOptions::default().with_null("NULL").with_display_error(true);
    let text = |column: &ArrayRef| -> Result<ArrayRef, ArrowError> {
        if !lacks(column.data_type()) {
            return Ok(Arc::clone(column));
        }
        let formatter = ArrayFormatter::try_new(column, &options)?;
        let cell = |row| (!column.is_null(row)).then(|| formatter.value(row).to_string());
        Ok(Arc::new((0..batch.num_rows()).map(cell).collect::<StringArray>()))
    };
    let columns = batch.columns().iter().map(text).collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(plain_schema(&batch.schema(), lacks), columns)
}

#[cfg(test)]
mod tests {
    use arrow::array::builder::{Int32Builder, MapBuilder, StringBuilder};
    use arrow::array::{Array, AsArray, Int32Array, IntervalMonthDayNanoArray, ListArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::IntervalMonthDayNano;
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn intervals() -> IntervalMonthDayNanoArray {
        vec![Some(IntervalMonthDayNano::new(14, 3, 1_000_000_001)), None].into()
    }

    #[test]
    fn parquet_takes_intervals_at_any_depth() {
        let item = Arc::new(Field::new_list_field(intervals().data_type().clone(), true));
        let list = ListArray::new(item, OffsetBuffer::from_lengths([2, 0]), Arc::new(intervals()), None);
        let columns: [(&str, ArrayRef); 3] = [
            ("number", Arc::new(Int32Array::from(vec![1, 2]))),
            ("interval", Arc::new(intervals())),
            ("list", Arc::new(list)),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let made = plain(&batch, parquet_lacks).unwrap();
        assert_eq!(made.schema(), plain_schema(&batch.schema(), parquet_lacks));
        assert_eq!(made.column(0), batch.column(0), "what has a type keeps it");
        let texts = made.column(1).as_string::<i32>();
        assert!(texts.value(0).contains("14 mons 3 days") && texts.value(0).contains("1.000000001"), "{texts:?}");
        assert!(texts.is_null(1));
        assert!(made.column(2).as_string::<i32>().value(0).ends_with(", NULL]"), "{:?}", made.column(2));
        let mut writer = ArrowWriter::try_new(Vec::new(), made.schema(), None).unwrap();
        writer.write(&made).unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn json_takes_maps_with_numbers_for_keys() {
        let mut numbered = MapBuilder::new(None, Int32Builder::new(), StringBuilder::new());
        numbered.keys().append_value(7);
        numbered.values().append_value("seven");
        numbered.append(true).unwrap();
        let mut named = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
        named.keys().append_value("seven");
        named.values().append_value(7);
        named.append(true).unwrap();
        let (numbered, named) = (Arc::new(numbered.finish()) as ArrayRef, Arc::new(named.finish()) as ArrayRef);
        let batch = RecordBatch::try_from_iter([("numbered", numbered), ("named", named)]).unwrap();
        let made = plain(&batch, json_lacks).unwrap();
        let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
        writer.write(&made).unwrap();
        let line = String::from_utf8(writer.into_inner()).unwrap();
        assert_eq!(line.trim(), r#"{"numbered":"{7: seven}","named":{"seven":7}}"#);
    }
}
