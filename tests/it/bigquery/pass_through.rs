//! Queries in GoogleSQL, as tables.

use serde_json::json;
use townlake_common::ErrorCode;

use super::{Bq, collect, query, session};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_is_a_table_with_its_types() {
    let commands = [
        json!({"table": "DS.t", "fields": [["id", "INTEGER", "REQUIRED"], ["name", "STRING", "NULLABLE"]]}),
        json!({"sql": "INSERT INTO DS.t (id, name) SELECT n, CONCAT('n', CAST(n AS STRING)) FROM UNNEST(GENERATE_ARRAY(1, 100)) AS n"}),
    ];
    let Some(bq) = Bq::of("passed", &commands, "pass_through = true").await else { return };
    let context = query();
    let session = session(&context, &bq.connections, 4);
    let passed = "SELECT MOD(id, 3) AS rest, COUNT(*) AS n, ARRAY_AGG(id ORDER BY id LIMIT 2) AS ids FROM passed.t GROUP BY rest -- so";
    let table = bq.source().query(&context, passed).await.unwrap_or_else(|error| panic!("{error:?}"));
    session.register_table("q", table).expect("register");
    let rows = collect(&session, "SELECT rest, n, ids FROM q WHERE rest > 0 ORDER BY rest").await.expect("rows");
    let text = datafusion::arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string();
    let cells: Vec<_> = text.lines().skip(3).filter(|line| line.starts_with('|')).collect();
    assert!(cells.len() == 2 && cells[0].contains("| 34 | [1, 4]") && cells[1].contains("| 33 | [2, 5]"), "{text}");
    for passed in ["SELECT no_such FROM passed.t", "DROP TABLE passed.t", "SELECT 1 AS x; DROP TABLE passed.t", ""] {
        assert!(bq.source().query(&context, passed).await.is_err(), "{passed}");
    }
    assert_eq!(bq.cells(&["t"], "SELECT count(*) FROM t").await, [["100"]]);
    let Some(off) = Bq::with("passed_off", &[]).await else { return };
    assert_eq!(off.source().query(&query(), "SELECT 1 AS x").await.unwrap_err().code(), ErrorCode::NotSupported);
}
