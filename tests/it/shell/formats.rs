//! The same rows in every format: many types, and NULL in each.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use super::{Host, Ran};

/// Name, expression, and how JSON and CSV show it.
fn columns() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    vec![
        ("yes", "true", json!(true), "true"),
        ("short", "CAST(-7 AS SMALLINT)", json!(-7), "-7"),
        ("long", "9007199254740993", json!(9007199254740993_i64), "9007199254740993"),
        ("real", "CAST(1.5 AS REAL)", json!(1.5), "1.5"),
        ("double", "CAST(0.1 AS DOUBLE)", json!(0.1), "0.1"),
        ("decimal", "CAST(12.5 AS DECIMAL(12, 2))", json!(12.5), "12.50"),
        ("text", "'é \"q\", and\nmore'", json!("é \"q\", and\nmore"), "\"é \"\"q\"\", and\nmore\""),
        ("bytes", "X'00ff'", json!("00ff"), "00ff"),
        ("day", "DATE '2024-02-29'", json!("2024-02-29"), "2024-02-29"),
        ("time", "TIME '12:34:56'", json!("12:34:56"), "12:34:56"),
        ("at", "TIMESTAMP '2024-02-29 12:34:56.5'", json!("2024-02-29T12:34:56.500"), "2024-02-29T12:34:56.500"),
        ("gap", "INTERVAL '14 months 3 days'", json!("14 mons 3 days"), "14 mons 3 days"),
        ("list", "make_array(1, NULL, 3)", json!([1, null, 3]), "\"[1, NULL, 3]\""),
        ("pair", "named_struct('a', 1, 'b', 'x')", json!({"a": 1, "b": "x"}), "\"{a: 1, b: x}\""),
    ]
}

/// Row 1 has the values, row 2 only NULLs.
fn query() -> String {
    let cells: Vec<_> =
        columns().iter().map(|(name, sql, ..)| format!("CASE WHEN n = 1 THEN {sql} END AS \"{name}\"")).collect();
    format!("SELECT n, {} FROM (VALUES (1), (2)) AS t(n) ORDER BY n", cells.join(", "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn csv_json_and_tables_show_every_type_and_null() {
    let host = Host::start().await;
    let names: Vec<_> = columns().iter().map(|(name, ..)| *name).collect();

    let cells: Vec<_> = columns().iter().map(|(.., cell)| *cell).collect();
    let (header, nulls) = (names.join(","), ",".repeat(names.len()));
    let expected = format!("n,{header}\n1,{}\n2{nulls}\n", cells.join(","));
    assert_eq!(host.run(&["--format", "csv"], &query()).await, Ran::rows(&expected));

    let ran = host.run(&["--format", "json"], &query()).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let row = |n: i32, value: &dyn Fn(Value) -> Value| {
        let mut object = json!({"n": n});
        for (name, _, shown, _) in columns() {
            object[name] = value(shown);
        }
        object
    };
    assert_eq!(lines, [row(1, &|shown| shown), row(2, &|_| Value::Null)], "every key is there, also for NULL");

    let table = host.run(&[], &query()).await;
    assert_eq!((table.code, table.stderr.as_str()), (Some(0), ""), "{table:?}");
    assert!(
        table.stdout.matches("NULL").count() > names.len() && table.stdout.contains("9007199254740993"),
        "{table:?}"
    );
    let escape = host.run(&[], "SELECT chr(27) || '[2J' AS a").await;
    assert!(!escape.stdout.contains('\u{1b}') && escape.stdout.contains("[2J"), "a terminal obeys no data: {escape:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parquet_holds_every_type_and_null() {
    let host = Host::start().await;
    let output = host.sql(&["--format", "parquet", "-e", &query()]).output().await.expect("run the shell");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{output:?}");
    let file = host.home.path().join("rows.parquet");
    std::fs::write(&file, output.stdout).expect("write the file");
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&file).expect("open"));
    let reader = reader.expect("a Parquet file").build().expect("read it");
    let batches: Vec<RecordBatch> = reader.map(|batch| batch.expect("a batch")).collect();
    let read = concat_batches(&batches[0].schema(), &batches).expect("one batch");

    let (schema, batches) = host.connect().await.collect(&query()).await.expect("ask the same");
    let asked = concat_batches(&schema, &batches).expect("one batch");
    assert_eq!((read.num_rows(), read.num_columns()), (2, columns().len() + 1));
    for (index, field) in schema.fields().iter().enumerate() {
        let (read, asked) = (read.column(index), asked.column(index));
        if field.name() == "gap" {
            assert_eq!(read.data_type(), &DataType::Utf8, "Parquet has no such interval");
            let texts = read.as_string::<i32>();
            assert!(texts.value(0) == "14 mons 3 days" && texts.is_null(1), "{texts:?}");
        } else {
            assert_eq!(read, asked, "{}", field.name());
        }
    }
    let several = host.run(&["--format", "parquet"], "SELECT 1; SELECT 2").await;
    assert!(
        several.code == Some(1) && several.stdout.is_empty() && several.stderr.contains("one statement"),
        "{several:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_rows_still_has_a_form() {
    let host = Host::start().await;
    let none = "SELECT id, make_array(id) AS l FROM lake.web.events WHERE id < 0";
    assert_eq!(host.run(&["--format", "csv"], none).await, Ran::rows("id,l\n"));
    assert_eq!(host.run(&["--format", "json"], none).await, Ran::rows(""));
    assert_eq!(host.run(&["--format", "quiet"], "SELECT 1").await, Ran::rows(""));
    // a stream of data holds no answers to statements that have an effect
    let effect = "SET SESSION execution = 'cluster'; INSERT INTO lake.web.events VALUES (4, 'new'); SELECT 1 AS a";
    assert_eq!(host.run(&["--format", "csv"], effect).await, Ran::rows("a\n1\n"));
}
