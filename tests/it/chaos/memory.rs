//! Executors with little memory: what can spill, does; what cannot, fails alone.

use townlake_cli::connection::Connection;
use townlake_common::ErrorCode;
use townlake_tests::bed::{BedSpec, TestBed, poll};

use super::{ANSWER, COUNTED_PAIRS};

/// The place of each row in the order of its comment, folded into one number.
const SORT: &str = "SELECT sum(place * (l_orderkey % 1000)) FROM (SELECT l_orderkey, \
    row_number() OVER (ORDER BY l_comment, l_orderkey, l_linenumber) AS place FROM lake.chaos.items)";

/// As many groups as rows, 60 MB of them.
const AGGREGATE: &str = "SELECT count(*), sum(n * (l_orderkey % 1000)) FROM (SELECT repeat(l_comment, 6), l_orderkey, \
    l_linenumber, count(*) AS n FROM lake.chaos.items GROUP BY repeat(l_comment, 6), l_orderkey, l_linenumber)";

/// A hash table of 60 MB, whichever side it is made of.
const JOIN: &str = "WITH wide AS (SELECT *, repeat(l_comment, 6) AS text FROM lake.chaos.items) \
    SELECT count(*), max(a.text), max(b.text) FROM wide a JOIN wide b \
    ON a.l_orderkey = b.l_orderkey AND a.l_linenumber = b.l_linenumber";

/// How often the operators of a query spilled, by its EXPLAIN ANALYZE.
async fn spills(connection: &Connection, sql: &str) -> u64 {
    let (_, batches) = connection.collect(&format!("EXPLAIN ANALYZE {sql}")).await.expect("explain");
    let text = arrow::util::pretty::pretty_format_batches(&batches).expect("a table").to_string();
    let counts = text.split("spill_count=").skip(1);
    counts
        .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u64>().unwrap_or(0))
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_the_memory_spills_or_fails_alone() {
    let spec = BedSpec { executors: 2, memory: "40MB", ..BedSpec::default() };
    let Some(bed) = TestBed::start("memory", spec).await else { return };
    // One task has all rows, and the memory of one slot.
    let narrow = bed.connect().await;
    for setting in ["execution = 'cluster'", "target_partitions = 1"] {
        narrow.run(&format!("SET SESSION {setting}")).await.expect("set");
    }
    // The coordinator has enough memory: it spills nothing.
    let plain = bed.connect().await;
    for sql in [SORT, AGGREGATE] {
        let (_, expected) = plain.collect(sql).await.expect("in the coordinator");
        let (_, answer) = narrow.collect(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert_eq!(answer, expected, "{sql}");
        let spills = spills(&narrow, sql).await;
        eprintln!("  {spills} spills: {sql}");
        assert!(spills > 0, "nothing was spilled: {sql}");
    }

    let expected = bed.rows(COUNTED_PAIRS).await;
    // One task at a time: the other slot is for the query that fails.
    bed.run("SET SESSION target_partitions = 1").await;
    let asked = bed.ask(COUNTED_PAIRS).await;
    poll("the other query runs", ANSWER, async || {
        bed.tasks(&asked.id).await.iter().any(|task| task.state == "RUNNING").then_some(())
    })
    .await;
    let error = narrow.collect(JOIN).await.expect_err("its hash table does not fit");
    assert_eq!(error.code(), ErrorCode::MemoryLimit, "{error:?}");
    assert!(error.hint().is_some(), "{error:?}");
    assert!(!asked.rows.is_finished(), "the other query ended before");
    assert_eq!(asked.answer(ANSWER).await.expect("the other query goes on"), expected);
    assert_eq!(bed.executors().await.len(), 2);
    bed.finish(&[]);
}
