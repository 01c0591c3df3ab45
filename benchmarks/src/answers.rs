//! Whether two results are the same: value by value, and as a checksum. Rows count in order where the query orders them, the
//! last digits of floats do not.

use arrow::array::{Array, Float16Array, Float32Array, Float64Array};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast;
use sha2::{Digest, Sha256};

/// Floats that differ by less than this part of the larger are the same: sums were added up in another order.
const TOLERANCE: f64 = 1e-9;

/// Whether the order of a query's rows is part of its answer: it has an ORDER BY of its own, not only in a subquery. What
/// cannot be parsed orders nothing.
pub fn is_ordered(sql: &str) -> bool {
    let statements = DFParser::parse_sql(sql).unwrap_or_default();
    statements.iter().any(|statement| match statement {
        Statement::Statement(statement) => match statement.as_ref() {
            ast::Statement::Query(query) => query.order_by.is_some(),
            _ => false,
        },
        _ => false,
    })
}

/// The first difference between two results, for people; `None` when they are the same.
pub fn difference(ours: &[RecordBatch], expected: &[RecordBatch], ordered: bool) -> Option<String> {
    let (ours, expected) = (rows(ours, ordered), rows(expected, ordered));
    for (number, (row, wanted)) in ours.iter().zip(&expected).enumerate() {
        let same = row.len() == wanted.len() && row.iter().zip(wanted).all(|(cell, wanted)| cell.is_same(wanted));
        if !same {
            return Some(format!("row {} is {}, expected {}", number + 1, shown(row), shown(wanted)));
        }
    }
    let extra = |rows: &[Row], from: usize| rows.get(from).map(shown).unwrap_or_default();
    match (ours.len(), expected.len()) {
        (a, b) if a < b => Some(format!("{a} rows, expected {b}; the first one missing is {}", extra(&expected, a))),
        (a, b) if a > b => Some(format!("{a} rows, expected {b}; the first one too many is {}", extra(&ours, b))),
        _ => None,
    }
}

/// The first 12 hexadecimal digits of SHA-256 over the rows, sorted unless they are `ordered`. Numbers with a fraction count
/// to nine significant digits, so that sums added up in another order agree.
pub fn checksum(batches: &[RecordBatch], ordered: bool) -> String {
    let mut rows: Vec<String> = batches.iter().flat_map(cells_of).map(|row| normal(&row)).collect();
    if !ordered {
        rows.sort_unstable();
    }
    let mut hash = Sha256::new();
    for row in &rows {
        hash.update(row.as_bytes());
        hash.update(b"\n");
    }
    let mut text = hex::encode(hash.finalize());
    text.truncate(12);
    text
}

/// One value: its text, and the number where it is one with a fraction.
struct Cell {
    text: String,
    /// Floats and decimals.
    number: Option<f64>,
    is_float: bool,
}

type Row = Vec<Cell>;

impl Cell {
    fn is_same(&self, other: &Self) -> bool {
        match (self.number, other.number) {
            (Some(a), Some(b)) if self.is_float || other.is_float => {
                a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
            }
            _ => self.text == other.text,
        }
    }

    fn normal(&self) -> String {
        self.number.map_or_else(|| self.text.clone(), |number| format!("{number:.8e}"))
    }
}

fn normal(row: &Row) -> String {
    row.iter().map(Cell::normal).collect::<Vec<_>>().join("|")
}

fn shown(row: &Row) -> String {
    let cells: Vec<_> = row.iter().map(|cell| cell.text.as_str()).collect();
    format!("({})", cells.join(", "))
}

fn rows(batches: &[RecordBatch], ordered: bool) -> Vec<Row> {
    let mut rows: Vec<Row> = batches.iter().flat_map(cells_of).collect();
    if !ordered {
        rows.sort_by_cached_key(normal);
    }
    rows
}

fn cells_of(batch: &RecordBatch) -> Vec<Row> {
    let options = FormatOptions::default().with_null("∅");
    let formatters: Vec<_> = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options)).collect();
    (0..batch.num_rows())
        .map(|row| {
            let cells = formatters.iter().zip(batch.columns()).map(|(formatter, column)| match formatter {
                Ok(formatter) => cell(column.as_ref(), row, formatter.value(row).to_string()),
                Err(error) => Cell { text: error.to_string(), number: None, is_float: false },
            });
            cells.collect()
        })
        .collect()
}

fn cell(column: &dyn Array, row: usize, text: String) -> Cell {
    let is_float = column.data_type().is_floating();
    // The same value has another scale where another system stores it.
    let text = match column.data_type() {
        DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) if *scale > 0 && !column.is_null(row) => {
            text.trim_end_matches('0').trim_end_matches('.').to_string()
        }
        _ => text,
    };
    let number = match column.data_type() {
        _ if column.is_null(row) => None,
        // not by way of the text, which may be shortened
        DataType::Float16 => downcast::<Float16Array>(column).map(|values| values.value(row).to_f64()),
        DataType::Float32 => downcast::<Float32Array>(column).map(|values| values.value(row).into()),
        DataType::Float64 => downcast::<Float64Array>(column).map(|values| values.value(row)),
        DataType::Decimal128(..) | DataType::Decimal256(..) => text.parse().ok(),
        _ => None,
    };
    Cell { text, number, is_float }
}

fn downcast<T: 'static>(column: &dyn Array) -> Option<&T> {
    column.as_any().downcast_ref()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Decimal128Array, StringArray};

    use super::*;

    fn batch(names: Vec<&str>, values: Vec<f64>) -> RecordBatch {
        let names: ArrayRef = Arc::new(StringArray::from(names));
        let values: ArrayRef = Arc::new(Float64Array::from(values));
        RecordBatch::try_from_iter([("name", names), ("value", values)]).unwrap()
    }

    #[test]
    fn order_counts_where_it_is_asked_for_and_last_digits_never() {
        let one = [batch(vec!["a", "b"], vec![1.0, 0.1 + 0.2])];
        let turned = [batch(vec!["b"], vec![0.3]), batch(vec!["a"], vec![1.0])];
        let cut = [batch(vec!["a"], vec![1.0]), batch(vec!["b"], vec![0.3])];
        for (left, right, ordered, same) in [
            (&one[..], &turned[..], false, true),
            (&one, &turned, true, false),
            (&one, &cut, true, true),
            (&one, &[batch(vec!["a", "b"], vec![1.0, 0.31])], false, false),
            (&one, &cut[..1], false, false),
            (&cut[..1], &one, true, false),
        ] {
            let told = difference(left, right, ordered);
            assert_eq!(told.is_none(), same, "{told:?}");
            assert_eq!(checksum(left, ordered) == checksum(right, ordered), same, "{told:?}");
        }
        let told = difference(&one, &turned, true).unwrap();
        assert!(told.starts_with("row 1 is (a, 1.0), expected (b, 0.3)"), "{told}");
    }

    #[test]
    fn decimals_are_compared_to_their_last_digit() {
        let decimal = |units: i128| {
            let values: ArrayRef =
                Arc::new(Decimal128Array::from(vec![units]).with_precision_and_scale(38, 2).unwrap());
            [RecordBatch::try_from_iter([("value", values)]).unwrap()]
        };
        assert!(difference(&decimal(1_000_000_000_000), &decimal(1_000_000_000_001), true).is_some());
        assert_eq!(difference(&decimal(100), &decimal(100), true), None);
    }

    #[test]
    fn only_an_order_of_the_whole_counts() {
        assert!(is_ordered("SELECT a FROM t ORDER BY a LIMIT 3"));
        assert!(is_ordered("WITH t AS (SELECT 1 AS a) SELECT a FROM t ORDER BY a"));
        assert!(!is_ordered("SELECT a FROM (SELECT a FROM t ORDER BY a) -- ORDER BY a"));
        assert!(!is_ordered("SELECT row_number() OVER (ORDER BY a) FROM t"));
    }
}
