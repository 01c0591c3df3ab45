//! The queries of others: not seen, not killed, but by administrators.

use std::time::Duration;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use townlake_cli::connection::{Connection, Query};
use townlake_common::{ErrorCode, Result};

use super::{assert_code, cells, connect, error, rows, run, town};

/// Runs for minutes, unless it is cancelled.
const LONG: &str = "SELECT count(*) FROM lake.sales.orders a, lake.sales.orders b, lake.sales.orders c, lake.sales.orders d \
                    WHERE (a.id + b.id + c.id + d.id) % 1000003 = 7";

#[tokio::test(flavor = "multi_thread")]
async fn only_administrators_see_the_queries_of_others() {
    let town = town().await;
    let (ann, bob, root) = (connect(&town, "ann").await, connect(&town, "bob").await, connect(&town, "root").await);
    run(&ann, "SET SESSION execution = 'cluster'").await;
    run(&ann, "SELECT k, count(*) AS of_ann FROM lake.sales.orders GROUP BY k").await;
    run(&bob, "SELECT count(*) AS of_bob FROM lake.sales.orders").await;

    let users = "SELECT DISTINCT \"user\" FROM system.runtime.queries ORDER BY 1";
    assert_eq!(cells(&bob, users).await, ["bob"]);
    assert_eq!(cells(&ann, users).await, ["ann"]);
    assert_eq!(cells(&root, users).await, ["ann", "bob", "root"]);
    let seen = cells(&bob, "SELECT sql FROM system.runtime.queries").await.join("\n");
    assert!(seen.contains("of_bob") && !seen.contains("of_ann"), "{seen}");

    let of_ann = "SELECT count(*) FROM system.runtime.tasks WHERE query_id IN \
                  (SELECT id FROM system.runtime.queries WHERE sql LIKE '%AS of_ann%' AND sql NOT LIKE '%runtime%')";
    assert_ne!(cells(&ann, of_ann).await, ["0"]);
    assert_ne!(cells(&root, of_ann).await, ["0"]);
    assert_eq!(cells(&bob, "SELECT count(*) FROM system.runtime.tasks").await, ["0"], "bob's query needed no executor");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_administrators_kill_the_queries_of_others() {
    let town = town().await;
    let (ann, bob, root) = (connect(&town, "ann").await, connect(&town, "bob").await, connect(&town, "root").await);
    let planned = ann.query(LONG).await.expect("plan the long query");
    let waiting = planned.id.clone().expect("its id");
    let query = ann.query(LONG).await.expect("plan it again");
    let running = query.id.clone().expect("its id");
    let reader = tokio::spawn({
        let ann = ann.clone();
        async move { count(&ann, &query).await }
    });
    wait_for(&ann, &running, "RUNNING").await;

    // Planned or running or unknown: to bob they are the same.
    for id in [&running, &waiting, &"01jzzzzzzzzzzzzzzzzzzzzzzz".to_string()] {
        let refused = error(&bob, &format!("CALL system.runtime.kill_query('{id}')")).await;
        assert_code(&refused, ErrorCode::QueryNotFound, "kill_query");
        assert_eq!(
            refused.to_string().replace(id.as_str(), "ID"),
            "QUERY_NOT_FOUND: there is no running query ID (see system.runtime.queries)"
        );
    }
    // To bob every query that is not his waits for ever.
    let progress = bob.progress(&running).await.expect("an answer").to_string();
    let unknown = bob.progress("01jzzzzzzzzzzzzzzzzzzzzzzz").await.expect("an answer").to_string();
    assert_eq!(progress.replace(&running, "01jzzzzzzzzzzzzzzzzzzzzzzz"), unknown);
    let _refused_or_ignored = bob.cancel(&planned).await;
    assert_eq!(state(&ann, &running).await, "RUNNING");

    run(&root, &format!("CALL system.runtime.kill_query('{running}')")).await;
    let ended =
        tokio::time::timeout(Duration::from_secs(5), reader).await.expect("the query ends").expect("the reader");
    assert_code(&ended.expect_err("it was killed"), ErrorCode::Cancelled, "the killed query");
    assert_eq!(state(&ann, &running).await, "CANCELLED");

    // What bob could not cancel can still be read, by ann and once: until she cancels it herself.
    ann.cancel(&planned).await.expect("cancel a planned query");
    let gone = count(&ann, &planned).await.expect_err("it was cancelled");
    assert_code(&gone, ErrorCode::TicketInvalid, "a cancelled ticket");
    town.stop().await;
}

/// How many rows a planned query has.
async fn count(connection: &Connection, query: &Query) -> Result<usize> {
    let batches: Vec<RecordBatch> = connection.rows(query).await?.batches.try_collect().await?;
    Ok(batches.iter().map(RecordBatch::num_rows).sum())
}

async fn state(connection: &Connection, id: &str) -> String {
    let found = rows(connection, &format!("SELECT state FROM system.runtime.queries WHERE id = '{id}'")).await;
    found.concat().concat()
}

async fn wait_for(connection: &Connection, id: &str, wanted: &str) {
    for _ in 0..200 {
        if state(connection, id).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("query {id} is {} and not {wanted}", state(connection, id).await);
}
