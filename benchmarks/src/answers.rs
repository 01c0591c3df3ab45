//! A checksum of a result that does not depend on the order of rows nor on the last digits of floats.

use arrow::array::Array;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use sha2::{Digest, Sha256};

/// The first 12 hexadecimal digits of SHA-256 over the sorted rows. Numbers with a fraction count to nine significant
/// digits, so that sums added up in another order agree.
pub fn checksum(batches: &[RecordBatch]) -> String {
    let mut rows: Vec<String> = batches.iter().flat_map(rows_of).collect();
    rows.sort_unstable();
    let mut hash = Sha256::new();
    for row in &rows {
        hash.update(row.as_bytes());
        hash.update(b"\n");
    }
    let mut text = hex::encode(hash.finalize());
    text.truncate(12);
    text
}

fn rows_of(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("∅");
    let formatters: Vec<_> = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options)).collect();
    (0..batch.num_rows())
        .map(|row| {
            let cells = formatters.iter().zip(batch.columns()).map(|(formatter, column)| match formatter {
                Ok(formatter) => normal(column.as_ref(), formatter.value(row).to_string()),
                Err(error) => error.to_string(),
            });
            cells.collect::<Vec<_>>().join("|")
        })
        .collect()
}

fn normal(column: &dyn Array, text: String) -> String {
    use DataType::{Decimal128, Decimal256, Float16, Float32, Float64};
    match column.data_type() {
        Float16 | Float32 | Float64 | Decimal128(..) | Decimal256(..) => {
            text.parse::<f64>().map_or(text, |number| format!("{number:.8e}"))
        }
        _ => text.trim_end().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, StringArray};

    use super::*;

    fn batch(names: Vec<&str>, values: Vec<f64>) -> RecordBatch {
        let names: ArrayRef = Arc::new(StringArray::from(names));
        let values: ArrayRef = Arc::new(Float64Array::from(values));
        RecordBatch::try_from_iter([("name", names), ("value", values)]).unwrap()
    }

    #[test]
    fn order_and_last_digits_do_not_matter_and_values_do() {
        let one = checksum(&[batch(vec!["a", "b"], vec![1.0, 0.1 + 0.2])]);
        assert_eq!(one, checksum(&[batch(vec!["b"], vec![0.3]), batch(vec!["a"], vec![1.0])]));
        assert_ne!(one, checksum(&[batch(vec!["a", "b"], vec![1.0, 0.31])]));
        assert_ne!(one, checksum(&[batch(vec!["a"], vec![1.0])]));
    }
}
