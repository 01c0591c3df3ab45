//! Filters that BigQuery applies and filters that stay, with the reason.

use serde_json::json;

use super::{Bq, query};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_shows_what_is_asked_and_what_stays() {
    let commands = [
        json!({"table": "DS.t", "fields": [["i", "INTEGER", "NULLABLE"], ["s", "STRING", "NULLABLE"], ["f", "FLOAT", "NULLABLE"],
            ["n", "NUMERIC", "NULLABLE"], ["d", "DATE", "NULLABLE"], ["ts", "TIMESTAMP", "NULLABLE"], ["b", "BOOLEAN", "NULLABLE"]]}),
        json!({"sql": "INSERT INTO DS.t (i, s, f, n, d, ts, b) VALUES (1, 'a', 1.5, NUMERIC '1.5', DATE '2024-01-01', \
            TIMESTAMP '2024-01-01 00:00:00+00', true), (2, 'b', 2.5, NUMERIC '2.5', DATE '2024-01-02', TIMESTAMP '2024-01-02 00:00:00+00', false)"}),
    ];
    let Some(bq) = Bq::with("explained", &commands).await else { return };
    let pushed = [
        ("i > 1", "row_restriction=[(`i` > 1)]", "2"),
        ("s = 'a'", "row_restriction=[(`s` = 'a')]", "1"),
        ("n BETWEEN 1 AND 2", "NUMERIC '", "1"),
        ("d = DATE '2024-01-02'", "DATE '2024-01-02'", "2"),
        ("ts < TIMESTAMP '2024-01-02 00:00:00+00:00'", "TIMESTAMP '2024-01-02 00:00:00.000000+00:00'", "1"),
        ("b", "row_restriction=[`b`]", "1"),
        ("NOT b AND i IN (1, 2, 3, 4)", "`i` ", "2"),
    ];
    for (filter, asked, found) in pushed {
        let sql = format!("SELECT i FROM t WHERE {filter}");
        let (_, text) = bq.plan(&query(), &["t"], &sql).await;
        assert!(text.contains(asked) && !text.contains("FilterExec"), "{filter}: {text}");
        assert!(text.contains("BigQueryScanExec: table=bq.explained.t") && text.contains("snapshot_time="), "{text}");
        assert_eq!(bq.cells(&["t"], &sql).await, [[found]], "{filter}");
    }
    let local = [
        ("f > 2", "floating point compares differently (NaN)", "2"),
        ("s > 'a'", "the order of text is not the server's to decide", "2"),
        ("s LIKE 'a%'", "not on the list", "1"),
        ("i + 1 = 2", "expression", "1"),
    ];
    for (filter, reason, found) in local {
        let sql = format!("SELECT i FROM t WHERE {filter}");
        let (_, text) = bq.plan(&query(), &["t"], &sql).await;
        assert!(
            text.contains("FilterExec") && text.contains("filtered_here=[") && text.contains(reason),
            "{filter}: {text}"
        );
        assert_eq!(bq.cells(&["t"], &sql).await, [[found]], "{filter}");
    }
    let (_, text) = bq.plan(&query(), &["t"], "SELECT n FROM t WHERE i = 1 AND f = 1.5").await;
    assert!(text.contains("row_restriction=[(`i` = 1)]") && text.contains("FilterExec"), "{text}");
}

/// What ends quotes in other dialects, or tries to. (The emulator refuses a restriction with `--` or `/*` in it, in quotes or not.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_texts_are_values() {
    let hostile = ["it's", "a\\", "\\' OR TRUE OR s = \\'", "`", "\"", "a' OR '1' = '1", "%", "a\nb", "ä\u{10FFFF}"];
    let rows = hostile
        .iter()
        .map(|text| format!("('{}')", text.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\n")));
    let insert = format!("INSERT INTO DS.h (s) VALUES {}", rows.collect::<Vec<_>>().join(", "));
    let commands = [json!({"table": "DS.h", "fields": [["s", "STRING", "NULLABLE"]]}), json!({"sql": insert})];
    let Some(bq) = Bq::with("hostile", &commands).await else { return };
    for text in hostile {
        let sql = format!("SELECT count(*) FROM h WHERE s = '{}'", text.replace('\'', "''"));
        let (_, plan) = bq.plan(&query(), &["h"], &sql).await;
        assert!(plan.contains("row_restriction=") && !plan.contains("FilterExec"), "{plan}");
        assert_eq!(bq.cells(&["h"], &sql).await, [["1"]], "{text}");
    }
}
