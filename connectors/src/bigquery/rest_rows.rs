//! The rows of a job's result over REST, page by page: each value is text in JSON, `{"f": [{"v": "1"}, …]}`.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, Int64Array, ListArray, RecordBatch, RecordBatchOptions, StringArray, StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, SchemaRef};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use townlake_common::Result;

use super::arrow_rows::Fault;
use super::client::Client;
use super::job::DoneJob;
use super::reader::told;
use super::recipe::Recipe;
use super::types::{Column, Kind, Mode};
use crate::scan::ScanMetrics;

/// Rows of a page.
const PAGE_ROWS: &str = "8192";

/// The rest of a result.
pub(crate) struct RestRows {
    done: DoneJob,
    /// `None`: nothing was read yet.
    page: Option<String>,
    is_over: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    rows: Vec<Value>,
    page_token: Option<String>,
}

impl RestRows {
    /// The rows of a job.
    pub fn new(done: DoneJob) -> Self {
        Self { done, page: None, is_over: false }
    }

    /// The next page; `None` behind the last.
    pub async fn next(
        &mut self,
        client: &Client,
        recipe: &Recipe,
        wanted: &SchemaRef,
        metrics: &ScanMetrics,
    ) -> Result<Option<RecordBatch>> {
        if self.is_over {
            return Ok(None);
        }
        let job = &self.done.job;
        let mut parameters =
            vec![("maxResults", PAGE_ROWS.to_string()), ("formatOptions.useInt64Timestamp", "true".to_string())];
        parameters.extend(self.page.clone().map(|page| ("pageToken", page)));
        if !job.location.is_empty() {
            parameters.push(("location", job.location.clone()));
        }
        let path = ["queries", job.id.as_str()];
        let doing = recipe.reading();
        let page = client.get::<Page>(&doing, &client.settings.billing_project, &path, &parameters).await?;
        let page = page.ok_or_else(|| client.server().corrupt("a result that is gone"))?;
        let next = page.page_token.filter(|token| !token.is_empty());
        if next.is_some() && next == self.page {
            return Err(client.server().corrupt("the same page again"));
        }
        (self.is_over, self.page) = (next.is_none(), next);
        let _timer = metrics.baseline.elapsed_compute().timer();
        batch(&page.rows, &recipe.columns, wanted)
            .map(Some)
            .map_err(|fault| told(client, recipe, fault, "in the result of the query job"))
    }
}

/// A page as columns.
fn batch(rows: &[Value], columns: &[Column], wanted: &SchemaRef) -> std::result::Result<RecordBatch, Fault> {
    let cells = rows.iter().map(|row| row.get("f").and_then(Value::as_array)).collect::<Option<Vec<_>>>();
    let cells = cells.ok_or(Fault::Malformed("a row without fields"))?;
    let made = columns.iter().enumerate().map(|(place, column)| {
        let values: Vec<_> = cells.iter().map(|row| row.get(place).and_then(|cell| cell.get("v"))).collect();
        let values = values.into_iter().map(|value| value.ok_or(Fault::Malformed("a row without a field")));
        let values = values.collect::<std::result::Result<Vec<_>, _>>()?;
        let array = of_column(column, &values);
        let array = array.filter(|array| column.mode != Mode::Required || array.null_count() == 0);
        array.ok_or_else(|| Fault::Column(column.name.clone(), "holds what does not fit its type".to_string()))
    });
    let made = made.collect::<std::result::Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(Arc::clone(wanted), made, &options)
        .map_err(|_| Fault::Malformed("columns of other types"))
}

/// The values of a column; `None` where one does not fit.
fn of_column(column: &Column, values: &[&Value]) -> Option<ArrayRef> {
    if column.mode != Mode::Repeated {
        return of_kind(&column.kind, values);
    }
    let lists: Vec<&[Value]> = values
        .iter()
        .map(|value| match value {
            Value::Null => Some(&[][..]),
            value => value.as_array().map(Vec::as_slice),
        })
        .collect::<Option<_>>()?;
    let elements =
        lists.iter().flat_map(|list| list.iter()).map(|element| element.get("v")).collect::<Option<Vec<_>>>()?;
    let field = Field::new_list_field(column.kind.arrow(), true);
    let offsets = OffsetBuffer::from_lengths(lists.iter().map(|list| list.len()));
    let list = ListArray::try_new(Arc::new(field), offsets, of_kind(&column.kind, &elements)?, None);
    Some(Arc::new(list.ok()?))
}

fn of_kind(kind: &Kind, values: &[&Value]) -> Option<ArrayRef> {
    let nulls = || NullBuffer::from_iter(values.iter().map(|value| !value.is_null()));
    match kind {
        Kind::Struct(fields) => {
            let cells = |place: usize| {
                let cell = |value: &&'_ Value| -> Option<Value> {
                    match value {
                        Value::Null => Some(Value::Null),
                        value => value.get("f")?.get(place)?.get("v").cloned(),
                    }
                };
                values.iter().map(cell).collect::<Option<Vec<_>>>()
            };
            let made = fields.iter().enumerate().map(|(place, field)| {
                let cells = cells(place)?;
                of_column(field, &cells.iter().collect::<Vec<_>>())
            });
            structs(kind, made.collect::<Option<Vec<_>>>()?, nulls())
        }
        Kind::Range(element) => {
            let bounds = values.iter().map(|value| match value {
                Value::Null => Some([Value::Null, Value::Null]),
                value => bounds(value.as_str()?),
            });
            let bounds = bounds.collect::<Option<Vec<_>>>()?;
            let side = |side: usize| of_kind(element, &bounds.iter().map(|bounds| &bounds[side]).collect::<Vec<_>>());
            structs(kind, vec![side(0)?, side(1)?], nulls())
        }
        Kind::Bytes => {
            let decode = |value: &&Value| match value {
                Value::Null => Some(None),
                value => STANDARD.decode(value.as_str()?).ok().map(Some),
            };
            let bytes = values.iter().map(decode).collect::<Option<Vec<_>>>()?;
            Some(Arc::new(BinaryArray::from_iter(bytes)))
        }
        Kind::Timestamp => {
            let micros = |value: &&Value| match value {
                Value::Null => Some(None),
                value => value.as_str()?.parse::<i64>().ok().map(Some),
            };
            let micros = Int64Array::from(values.iter().map(micros).collect::<Option<Vec<_>>>()?);
            cast(&micros, &kind.arrow()).ok()
        }
        _ => {
            let text = |value: &&Value| match value {
                Value::Null => Some(None),
                value => value.as_str().map(|text| Some(text.to_string())),
            };
            let texts = StringArray::from(values.iter().map(text).collect::<Option<Vec<_>>>()?);
            let made = if kind.arrow() == DataType::Utf8 {
                Arc::new(texts.clone())
            } else {
                cast(&texts, &kind.arrow()).ok()?
            };
            // A cast makes NULL of what does not fit.
            (made.null_count() == texts.null_count()).then_some(made)
        }
    }
}

fn structs(kind: &Kind, columns: Vec<ArrayRef>, nulls: NullBuffer) -> Option<ArrayRef> {
    let DataType::Struct(fields) = kind.arrow() else { return None };
    // What is REQUIRED inside a STRUCT that is NULL is NULL, too.
    Some(Arc::new(StructArray::try_new(fields, columns, Some(nulls)).ok()?))
}

/// `[2020-01-01, UNBOUNDED)` as its two bounds.
fn bounds(range: &str) -> Option<[Value; 2]> {
    let (start, end) = range.strip_prefix('[')?.strip_suffix(')')?.split_once(',')?;
    let bound = |text: &str| match text.trim() {
        "UNBOUNDED" | "NULL" => Value::Null,
        text => Value::String(text.to_string()),
    };
    Some([bound(start), bound(end)])
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Schema;
    use arrow::util::pretty::pretty_format_batches;
    use serde_json::json;
    use townlake_proto::bigquery as wire;

    use super::super::types::tests::column;
    use super::*;

    fn read(columns: &[Column], rows: Value) -> std::result::Result<RecordBatch, Fault> {
        let schema = Arc::new(Schema::new(columns.iter().map(Column::field).collect::<Vec<_>>()));
        batch(rows.as_array().unwrap(), columns, &schema)
    }

    #[test]
    fn values_are_read_from_text() {
        let mut nested =
            wire::Column { name: "st".into(), r#type: "RECORD".into(), mode: "REPEATED".into(), ..Default::default() };
        nested.fields = vec![column("x", "INTEGER", "").to_wire(), column("y", "STRING", "REPEATED").to_wire()];
        let range = wire::Column {
            name: "r".into(),
            r#type: "RANGE".into(),
            range_element: "DATE".into(),
            ..Default::default()
        };
        let columns = [
            column("i", "INTEGER", ""),
            column("n", "NUMERIC", ""),
            column("b", "BYTES", ""),
            column("ts", "TIMESTAMP", ""),
            column("dt", "DATETIME", ""),
            column("ti", "TIME", ""),
            column("o", "BOOLEAN", ""),
            Column::from_wire(nested),
            Column::from_wire(range),
        ];
        let v = |value: &str| json!({"v": value});
        let rows = json!([
            {"f": [v("-9223372036854775808"), v("1.000000001"), v("AP8="), v("1577836800000001"), v("2020-01-01T01:02:03.000004"),
                v("01:02:03.000004"), v("true"), {"v": [{"v": {"f": [v("1"), {"v": [v("a"), v("b")]}]}}]}, v("[2020-01-01, UNBOUNDED)")]},
            {"f": [{"v": null}, {"v": null}, {"v": null}, {"v": null}, {"v": null}, {"v": null}, {"v": null}, {"v": []}, {"v": null}]},
        ]);
        let shown = pretty_format_batches(&[read(&columns, rows).unwrap()]).unwrap().to_string();
        for text in [
            "-9223372036854775808 | 1.000000001 | 00ff | 2020-01-01T00:00:00.000001Z | 2020-01-01T01:02:03.000004 | 01:02:03.000004 | true",
            "[{x: 1, y: [a, b]}] | {start: 2020-01-01, end: }",
        ] {
            assert!(shown.contains(text), "{shown}");
        }
    }

    #[test]
    fn what_does_not_fit_names_its_column() {
        let columns = [column("i", "INTEGER", "REQUIRED")];
        for value in [json!("x"), json!(null), json!(5), json!("99999999999999999999")] {
            let fault = read(&columns, json!([{"f": [{"v": value}]}])).unwrap_err();
            assert!(matches!(&fault, Fault::Column(name, _) if name == "i"), "{fault:?}");
        }
        assert!(matches!(read(&columns, json!([{"f": []}])), Err(Fault::Malformed(_))));
        assert!(matches!(read(&columns, json!([1])), Err(Fault::Malformed(_))));
    }
}
