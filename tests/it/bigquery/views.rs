//! Views: what the Storage API does not read is read by a query job.

use serde_json::json;
use townlake_common::ErrorCode;

use super::{Bq, query};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_is_read_by_a_query_job() {
    let fields = json!([
        ["i", "INTEGER", "NULLABLE"],
        ["n", "NUMERIC", "NULLABLE"],
        ["s", "STRING", "NULLABLE"],
        ["byt", "BYTES", "NULLABLE"],
        ["d", "DATE", "NULLABLE"],
        ["dt", "DATETIME", "NULLABLE"],
        ["ts", "TIMESTAMP", "NULLABLE"],
        ["b", "BOOLEAN", "NULLABLE"],
        ["f", "FLOAT", "NULLABLE"],
        ["st", "RECORD", "NULLABLE", [["a", "INTEGER", "NULLABLE"], ["b", "STRING", "NULLABLE"]]],
        ["ar", "INTEGER", "REPEATED"]
    ]);
    let commands = [
        json!({"table": "DS.t", "fields": fields}),
        json!({"sql": "INSERT INTO DS.t (i, n, s, byt, d, dt, ts, b, f, st, ar) VALUES (1, NUMERIC '1.5', 'it\\'s', FROM_HEX('00ff'), \
            DATE '2024-02-29', DATETIME '2024-02-29 01:02:03.000004', TIMESTAMP '1969-12-31 23:59:59.999999+00', true, 1.5, STRUCT(1, 'y'), [1, 2])"}),
        json!({"sql": "INSERT INTO DS.t (i) VALUES (2)"}),
        json!({"sql": "CREATE VIEW DS.v AS SELECT * FROM DS.t"}),
        json!({"sql": "CREATE TABLE DS.numbers AS SELECT x AS id FROM UNNEST(GENERATE_ARRAY(1, 20000)) AS x"}),
        json!({"sql": "CREATE VIEW DS.many AS SELECT id, id * 2 AS twice FROM DS.numbers"}),
    ];
    let Some(bq) = Bq::with("viewed", &commands).await else { return };
    let (_, text) = bq.plan(&query(), &["v"], "SELECT i, s FROM v WHERE i = 1 AND f > 0").await;
    assert!(text.contains("query_job=[SELECT `i`, `s`, `f` FROM `town`.`viewed`.`v` WHERE (`i` = 1)]"), "{text}");
    assert!(text.contains("splits=1") && text.contains("floating point"), "{text}");
    let cells = bq.cells(&["v"], "SELECT i, n, s, byt, d, dt, ts, b, f, st, ar FROM v ORDER BY i").await;
    let first = [
        "1",
        "1.500000000",
        "it's",
        "00ff",
        "2024-02-29",
        "2024-02-29T01:02:03.000004",
        "1969-12-31T23:59:59.999999Z",
        "true",
        "1.5",
        "{a: 1, b: y}",
        "[1, 2]",
    ];
    assert_eq!(cells[0], first);
    assert_eq!(cells[1][..10], ["2", "", "", "", "", "", "", "", "", ""]);
    assert_eq!(bq.cells(&["v"], "SELECT count(*) FROM v").await, [["2"]]);
    // More rows than a page has.
    let sums = bq.cells(&["many"], "SELECT count(*), sum(twice), count(DISTINCT id) FROM many").await;
    assert_eq!(sums, [["20000", "400020000", "20000"]]);
    assert_eq!(bq.cells(&["many"], "SELECT id FROM many WHERE id > 19990 ORDER BY id LIMIT 1").await, [["19991"]]);
    let joined = bq.cells(&["many", "t"], "SELECT twice FROM many JOIN t ON id = i ORDER BY 1").await;
    assert_eq!(joined, [["2"], ["4"]]);
}

/// What would be read is known from the read session, before anything is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_cost_too_much_is_refused_when_it_is_planned() {
    let commands = [json!({"sql": "CREATE TABLE DS.t AS SELECT x AS id FROM UNNEST(GENERATE_ARRAY(1, 10000)) AS x"})];
    let Some(bq) = Bq::of("guarded", &commands, "maximum_bytes_billed = \"1 kB\"").await else { return };
    let error = bq.query(&["t"], "SELECT id FROM t").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ResourceExhausted, "{error}");
    assert!(
        error.message().contains("bq.guarded.t") && error.message().contains("`maximum_bytes_billed` is 1000"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("[catalogs.bq]") && !error.is_retryable(), "{error:?}");
    let free = Bq::of(
        "guarded_well",
        &[json!({"sql": "CREATE TABLE DS.t AS SELECT CAST(1 AS INT64) AS id"})],
        "maximum_bytes_billed = \"1 MB\"",
    )
    .await;
    assert_eq!(free.unwrap().cells(&["t"], "SELECT id FROM t").await, [["1"]]);
}
