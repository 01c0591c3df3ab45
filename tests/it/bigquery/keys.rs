//! Keys of the small side of a join go into the restriction of a session of its own.

use serde_json::json;

use super::Bq;
use crate::pushed::Both;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_small_side_go_into_the_session() {
    let commands = [
        json!({"table": "DS.events", "fields": [["account", "INTEGER", "NULLABLE"], ["kind", "STRING", "NULLABLE"]]}),
        json!({"sql": "INSERT INTO DS.events (account, kind) SELECT MOD(n, 1000), IF(MOD(n, 2) = 0, 'view', 'sale') \
            FROM UNNEST(GENERATE_ARRAY(0, 29999)) AS n"}),
    ];
    let Some(bq) = Bq::with("keys", &commands).await else { return };
    let both = Both::new(bq.source(), &bq.connections, bq.dataset, &["events"]);
    let few = "SELECT * FROM (VALUES (7, 'a'), (11, 'b'), (NULL, 'c'), (5000, 'd')) AS k(id, name)";
    let sql = "SELECT k.name, count(*) FROM keys AS k JOIN events AS e ON k.id = e.account WHERE e.kind = 'sale' GROUP BY k.name";
    let text = both.with_keys(few, sql).await;
    assert!(text.contains("row_restriction=[(`kind` = 'sale') AND"), "{text}");
    assert!(text.contains("`account` IN (7, 11, 5000)"), "{text}");
    // Too many for a list.
    let many = "SELECT v AS id, 'x' AS name FROM generate_series(100, 30000) AS g(v)";
    let text = both.with_keys(many, sql).await;
    assert!(text.contains("`account` BETWEEN 100 AND 30000") || text.contains("`account` >= 100"), "{text}");
    // What gives all its rows stays as it is.
    let outer =
        "SELECT e.account, k.name FROM keys AS k RIGHT JOIN events AS e ON k.id = e.account WHERE e.account < 9";
    let text = both.with_keys(few, outer).await;
    assert!(!text.contains(" IN ("), "{text}");
}
