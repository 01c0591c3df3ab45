//! Good and bad files of each kind.

use std::fmt::Write as _;
use std::fs::File;
use std::sync::Arc;

use arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;

use super::Host;

/// Rows of a CSV file; several batches of the reader, and far more than its types are inferred from.
const ROWS: usize = 60_000;

/// `id,name` with a value that is no number at `bad`.
fn csv(bad: Option<usize>) -> String {
    let mut text = String::from("id,name\n");
    for row in 0..ROWS {
        match bad {
            Some(bad) if bad == row => text.push_str("oops,bad\n"),
            _ => writeln!(text, "{row},name {row}").expect("write to a text"),
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_csv_file_is_loaded_whole_or_not_at_all() {
    let host = Host::start().await;
    let (good, bad) = (host.file("good.csv", &csv(None)), host.file("bad.csv", &csv(Some(ROWS - 5_000))));
    host.fails(&[&bad, "--table", "lake.web.t"], &["bad.csv", "oops", "--types"]).await;
    host.is_gone("lake.web.t").await;

    host.loads(&[&good, "--table", "lake.web.t"]).await;
    let sum: usize = (0..ROWS).sum();
    let whole = format!("{ROWS}|{sum}");
    let ask = "SELECT count(*), sum(id) FROM lake.web.t";
    assert_eq!(host.rows(ask).await, [whole.as_str()]);
    for mode in ["append", "replace"] {
        host.fails(&[&bad, "--table", "lake.web.t", "--mode", mode], &["bad.csv", "oops"]).await;
        assert_eq!(host.rows(ask).await, [whole.as_str()], "after a failed {mode}");
    }
    host.fails(&[&good, "--table", "lake.web.t", "--mode", "create"], &["ALREADY_EXISTS", "--mode replace"]).await;
    host.loads(&[&good, "--table", "lake.web.t", "--mode", "replace"]).await;
    assert_eq!(host.rows(ask).await, [whole.as_str()]);
    host.town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn line_breaks_inside_of_quotes_stay_in_their_value_in_a_large_file() {
    let host = Host::start().await;
    // more than ten megabytes, which is where the reader would begin to cut a file into pieces
    let (lines, filling) = (60_000, "x".repeat(180));
    let mut text = String::from("id,note\n");
    for row in 0..lines {
        writeln!(text, "{row},\"first\n{row} second, \"\"{filling}\"\"\"").expect("write to a text");
    }
    assert!(text.len() > 10 << 20);
    host.loads(&[&host.file("notes.csv", &text), "--table", "lake.web.notes"]).await;
    let sum: usize = (0..lines).sum();
    let ask = "SELECT count(*), sum(id), count(*) FILTER (WHERE note LIKE 'first\n' || id || ' second, \"x%x\"') \
               FROM lake.web.notes";
    assert_eq!(host.rows(ask).await, [format!("{lines}|{sum}|{lines}")]);
    host.town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_with_another_delimiter_and_without_a_header() {
    let host = Host::start().await;
    let file = host.file("plain.csv", "1;Brno\n2;Praha\n");
    host.loads(&[&file, "--table", "lake.web.plain", "--delimiter", ";", "--no-header"]).await;
    assert_eq!(host.rows("SELECT column_1, column_2 FROM lake.web.plain ORDER BY 1").await, ["1|Brno", "2|Praha"]);
    let tabs = host.file("tabs.csv", "id\tname\n3\ta,b\n");
    host.loads(&[&tabs, "--table", "lake.web.tabs", "--delimiter", "tab"]).await;
    assert_eq!(host.rows("SELECT id, name FROM lake.web.tabs").await, ["3|a,b"]);
    host.fails(&[&tabs, "--table", "lake.web.tabs", "--delimiter", "ab"], &["one ASCII character"]).await;
    host.town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_files_with_their_columns_in_another_order_are_not_mixed_up() {
    let host = Host::start().await;
    let one = host.file("one.csv", "id,size\n1,10\n");
    let two = host.file("two.csv", "id,size\n2,2.5\n");
    let other = host.file("other.csv", "size,id\n30,3\n");
    host.loads(&[&one, &two, "--table", "lake.web.sizes"]).await;
    assert_eq!(host.rows("SELECT id, size FROM lake.web.sizes ORDER BY 1").await, ["1|10.0", "2|2.5"]);
    host.fails(&[&one, &other, "--table", "lake.web.sizes"], &["other.csv", "one.csv"]).await;
    host.loads(&[&other, "--table", "lake.web.sizes"]).await;
    assert_eq!(host.rows("SELECT id, size FROM lake.web.sizes WHERE id = 3").await, ["3|30.0"]);
    host.town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_keeps_fields_that_only_late_records_have_and_is_all_or_nothing() {
    let host = Host::start().await;
    let mut text = String::new();
    for row in 0..5_000 {
        writeln!(text, "{{\"id\": {row}, \"name\": \"n{row}\"}}").expect("write to a text");
    }
    let good = format!("{text}{{\"id\": 1.5, \"name\": null, \"late\": true}}\n");
    host.loads(&[&host.file("good.json", &good), "--table", "lake.web.j"]).await;
    let ask = "SELECT count(*), sum(id), count(late) FROM lake.web.j";
    let whole = format!("5001|{}.5|1", (0..5_000).sum::<usize>() + 1);
    assert_eq!(host.rows(ask).await, [whole.as_str()]);
    let bad = format!("{text}{{\"id\": oops\n");
    host.fails(&[&host.file("bad.json", &bad), "--table", "lake.web.j"], &["bad.json"]).await;
    assert_eq!(host.rows(ask).await, [whole.as_str()]);
    host.town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_that_does_not_fit_the_table_is_refused_and_names_the_column() {
    let host = Host::start().await;
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("price", DataType::Float64, true),
        Field::new("name", DataType::Utf8, true),
    ]));
    let write = |name: &str, ids: Vec<i64>, prices: Vec<f64>, names: Vec<&str>| -> String {
        let path = host.folder.path().join(name);
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(Int64Array::from(ids)),
            Arc::new(Float64Array::from(prices)),
            Arc::new(StringArray::from(names)),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).expect("a batch");
        let mut writer =
            ArrowWriter::try_new(File::create(&path).expect("a file"), Arc::clone(&schema), None).expect("a writer");
        writer.write(&batch).expect("write");
        writer.close().expect("close");
        path.to_str().expect("a plain path").to_string()
    };
    host.run("CREATE TABLE lake.web.p (id INT, price BIGINT, name INT)").await;
    let good = write("good.parquet", vec![1], vec![2.0], vec!["3"]);
    host.loads(&[&good, "--table", "lake.web.p"]).await;
    let cases = [
        (write("wide.parquet", vec![1 << 40], vec![2.0], vec!["3"]), "column id of table lake.web.p", "1099511627776"),
        (write("cut.parquet", vec![1], vec![2.75], vec!["3"]), "column price of table lake.web.p", "2.75"),
        (write("text.parquet", vec![1], vec![2.0], vec!["hidden"]), "column name of table lake.web.p", "hidden"),
    ];
    for (file, names, value) in &cases {
        let ran = host.load(&[file, "--table", "lake.web.p"]).await;
        assert!(!ran.succeeded && ran.said.contains("INVALID_ARGUMENT") && ran.said.contains(names), "{}", ran.said);
        assert!(!ran.said.contains(value), "a value is told: {}", ran.said);
    }
    host.fails(&[&good, "--table", "lake.web.p", "--types", "id=int"], &["types of their own"]).await;
    assert_eq!(host.rows("SELECT * FROM lake.web.p").await, ["1|2|3"]);
    host.town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_load_of_tpch_doubles_nothing() {
    let host = Host::start().await;
    let tpch = ["tpch", "--scale", "0.01", "--tables", "region,nation", "--schema", "bench"];
    host.loads(&tpch).await;
    host.fails(&tpch, &["ALREADY_EXISTS", "--mode replace"]).await;
    let ask = "SELECT (SELECT count(*) FROM lake.bench.region) AS r, (SELECT count(*) FROM lake.bench.nation) AS n";
    assert_eq!(host.rows(ask).await, ["5|25"]);
    host.loads(&[&tpch[..], &["--mode", "replace"]].concat()).await;
    assert_eq!(host.rows(ask).await, ["5|25"]);
    host.town.stop().await;
}
