//! A hot standby, whose primary takes away what a scan would still have to read.

use std::collections::BTreeSet;
use std::time::Duration;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::physical_plan::{ExecutionPlanProperties, execute_stream_partitioned};
use futures::StreamExt;
use tokio_postgres::Client;
use townlake_cli::connection::Connection;
use townlake_common::{Error, ErrorCode};
use townlake_tests::postgres::Postgres;
use townlake_tests::town::{Town, TownSpec};

use super::{Crm, connections, query, session, typed};

/// Of a kilobyte each: a split of them is much more than a batch and what sockets hold.
const ROWS: usize = 100_000;

/// A primary, and the catalog `crm` over its standby.
struct Pair {
    primary: Postgres,
    writer: Client,
    standby: Crm,
}

impl Pair {
    /// `delay`: for how long replay waits for queries that are in its way.
    async fn start(test: &str, delay: &str) -> Option<Self> {
        let primary = Postgres::start(test)?;
        let writer = primary.create_database("crm").await;
        let sql = format!(
            "CREATE TABLE t (id int8, v int8, pad text);
             INSERT INTO t SELECT i, 1, repeat(md5(i::text), 30) FROM generate_series(1, {ROWS}) i; ANALYZE t; CHECKPOINT"
        );
        writer.batch_execute(&sql).await.unwrap();
        let standby =
            primary.standby(test, &[&format!("max_standby_streaming_delay={delay}"), "hot_standby_feedback=off"])?;
        let admin = standby.connect("crm").await;
        let connections = connections(&standby.url("crm"), "connections = 8\nmax_splits = 3");
        let pair = Self { primary, writer, standby: Crm { postgres: standby.into(), admin, connections } };
        pair.caught_up().await;
        Some(pair)
    }

    /// Waits until the standby has what the primary has.
    async fn caught_up(&self) {
        let written: String = self.writer.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn");
        for _ in 0..500 {
            if self.standby.admin.query_one(&sql, &[]).await.is_ok_and(|row| row.get(0)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the standby does not catch up:\n{}\n{}", self.primary.log(), self.standby.postgres.log());
    }

    /// Removes what every snapshot until now sees. Replay comes to it some time later.
    async fn take_away(&self) {
        self.writer.batch_execute("UPDATE t SET v = v + 1").await.unwrap();
        self.writer.batch_execute("VACUUM t").await.unwrap();
    }
}

fn is_retryable(error: &Error) -> bool {
    matches!(error.code(), ErrorCode::SourceError | ErrorCode::SourceUnavailable) && error.is_retryable()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_with_recovery_is_told_and_no_row_is_lost_or_doubled() {
    let Some(pair) = Pair::start("hot_standby", "0").await else { return };
    let crm = &pair.standby;
    let context = query();
    let (plan, text) = crm.plan(&context, &["t"], "SELECT id, v, pad FROM t").await;
    assert_eq!(plan.output_partitioning().partition_count(), 3, "{text}");
    let task = session(&context, &crm.connections, 8).task_ctx();
    let mut partitions = execute_stream_partitioned(plan, task).unwrap();

    // One split has begun when the conflict comes, the others have not.
    let mut ids = Vec::new();
    let first = partitions[0].next().await.unwrap().unwrap();
    ids.extend(first.column(0).as_primitive::<Int64Type>().values().iter().copied());
    pair.take_away().await;
    // Replay cannot go on before the split does: the server waits for us to take what it sends.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut failures = Vec::new();
    for partition in &mut partitions {
        while let Some(batch) = partition.next().await {
            match batch {
                Ok(batch) => ids.extend(batch.column(0).as_primitive::<Int64Type>().values().iter().copied()),
                Err(error) => {
                    failures.push(typed(error));
                    break;
                }
            }
        }
    }
    assert!(failures.len() > 1, "a split that was not whole was taken for whole: {} rows", ids.len());
    assert!(failures.iter().all(is_retryable), "{failures:?}");
    let told = |text: &str| failures.iter().any(|error| error.message().contains(text));
    assert!(told("conflict with recovery"), "{failures:?}");
    assert!(told("snapshot in Postgres"), "{failures:?}");
    let distinct: BTreeSet<_> = ids.iter().copied().collect();
    assert!(distinct.len() == ids.len() && ids.len() < ROWS, "{} rows, {} distinct", ids.len(), distinct.len());
    drop(partitions);
    pair.caught_up().await;

    // Once more, and whole.
    let text =
        crm.show(&["t"], "SELECT count(*) AS n, count(DISTINCT id) AS d, sum(v) AS s, min(pad) AS p FROM t").await;
    assert!(text.contains(&format!("| {ROWS} | {ROWS} | {} |", 2 * ROWS)), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_was_taken_away_before_the_scan_is_told() {
    let Some(pair) = Pair::start("hot_standby_snapshot", "0").await else { return };
    let crm = &pair.standby;
    let context = query();
    let (plan, _) = crm.plan(&context, &["t"], "SELECT id FROM t").await;
    pair.take_away().await;
    pair.caught_up().await;
    let task = session(&context, &crm.connections, 8).task_ctx();
    for mut partition in execute_stream_partitioned(plan, task).unwrap() {
        let error = typed(partition.next().await.unwrap().unwrap_err());
        assert!(is_retryable(&error) && error.hint().unwrap().contains("run the query again"), "{error:?}");
    }
    // A look-up in the same query finds its snapshot gone, too.
    let error = crm.session(&context, 4, &["t"]).await.sql("SELECT id FROM t").await.unwrap();
    let error = typed(error.create_physical_plan().await.unwrap_err());
    assert!(is_retryable(&error), "{error:?}");
}

/// Replay waits for the transactions that it found in its way, and a split that joins their snapshot meanwhile is none of them: it must not
/// be taken for whole when the one that exported the snapshot is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_that_outlives_its_snapshot_is_not_taken_for_whole() {
    let Some(pair) = Pair::start("hot_standby_late", "30s").await else { return };
    let crm = &pair.standby;
    let context = query();
    let (plan, _) = crm.plan(&context, &["t"], "SELECT id, v, pad FROM t").await;
    let task = session(&context, &crm.connections, 8).task_ctx();
    let mut partitions = execute_stream_partitioned(plan, task).unwrap();
    partitions[0].next().await.unwrap().unwrap();
    // As replay does it, with the splits in their place.
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'townlake %' \
        AND state = 'idle in transaction'";
    assert_eq!(crm.admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 1, "the snapshot's own");
    for partition in &mut partitions {
        let mut failure = None;
        while let Some(batch) = partition.next().await {
            failure = batch.err().map(typed);
        }
        let failure = failure.expect("a split that nobody vouches for");
        assert!(is_retryable(&failure) && failure.message().contains("snapshot in Postgres"), "{failure:?}");
    }
}

/// A cluster over the standby, and two connections of a user.
async fn town_over(pair: &Pair) -> (Town, Connection, Connection) {
    let url = pair.standby.postgres.url("crm");
    let catalog = format!("[catalogs.crm]\ntype = \"postgres\"\nurl = \"{url}\"\nmax_splits = 3\nreaders = [\"ann\"]");
    let town = TownSpec::default().user("ann", "a password", &[]).toml(&catalog).start().await;
    let (first, second) = (town.connect("ann", "a password").await, town.connect("ann", "a password").await);
    (town, first, second)
}

/// The first cell of a query's rows, as text.
async fn cell(connection: &Connection, sql: &str) -> String {
    let (_, batches) = connection.collect(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let batch = batches.iter().find(|batch| batch.num_rows() > 0).unwrap_or_else(|| panic!("{sql}: no row"));
    datafusion::arrow::util::display::array_value_to_string(batch.column(0), 0).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_a_conflict_ends_is_planned_and_run_again() {
    let Some(pair) = Pair::start("hot_standby_again", "0").await else { return };
    let slow = "CREATE VIEW slow AS SELECT id, v, pg_sleep(0.002)::text AS s FROM t WHERE id <= 1000";
    pair.writer.batch_execute(slow).await.unwrap();
    pair.caught_up().await;
    let (town, ann, beside) = town_over(&pair).await;
    let sql = "SELECT count(*) AS n, sum(v) AS v, count(s) AS s FROM crm.public.slow";
    let running = tokio::spawn(async move {
        let result = ann.collect(sql).await;
        (ann, result)
    });
    let works = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'townlake %' AND state = 'active' \
        AND query LIKE '%slow%' AND query NOT LIKE '%pg_catalog%'";
    for _ in 0..500 {
        if pair.standby.admin.query_one(works, &[]).await.unwrap().get::<_, i64>(0) > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let cut = "SELECT cut FROM system.runtime.queries WHERE sql LIKE '%crm.public.slow' ORDER BY id DESC LIMIT 1";
    let first = cell(&beside, cut).await;
    assert!(first.contains("snapshot"), "{first}");
    pair.take_away().await;
    let (ann, result) = running.await.unwrap();
    let (_, batches) = result.unwrap_or_else(|error| panic!("{error:?}\n{}", pair.standby.postgres.log()));
    let number = |column: usize| batches[0].column(column).as_primitive::<Int64Type>().value(0);
    assert_eq!((number(0), number(1), number(2)), (1000, 2000, 1000), "of the new moment, whole");
    let log = pair.standby.postgres.log();
    assert!(log.contains("conflict with recovery"), "there was no conflict:\n{log}");

    // The cut is that of the run whose rows went out.
    let last = cell(&beside, cut).await;
    assert!(last.contains("snapshot") && last != first, "{first} and {last}");
    let (_, shown) = ann.collect("SHOW CUT").await.unwrap();
    let shown = datafusion::arrow::util::pretty::pretty_format_batches(&shown).unwrap().to_string();
    let snapshot = last.split("snapshot ").nth(1).unwrap().split('"').next().unwrap();
    assert!(shown.contains(snapshot), "{shown} without {snapshot}");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_whose_rows_have_gone_out_is_not_run_again() {
    let Some(pair) = Pair::start("hot_standby_rows_out", "0").await else { return };
    let (town, ann, _) = town_over(&pair).await;
    // A recursive query runs in the coordinator: its rows go out as they come.
    let sql = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 3) \
        SELECT id, v, pad FROM crm.public.t UNION ALL SELECT n, n, 'x' FROM r";
    let query = ann.query(sql).await.unwrap();
    let mut rows = ann.rows(&query).await.unwrap();
    let mut ids = Vec::new();
    let mut first = true;
    let failure = loop {
        match rows.batches.next().await {
            Some(Ok(batch)) => {
                let pads = batch.column(2);
                let read = batch.column(0).as_primitive::<Int64Type>().values().iter().copied();
                ids.extend(
                    read.enumerate()
                        .filter(|(row, _)| {
                            datafusion::arrow::util::display::array_value_to_string(pads, *row).unwrap() != "x"
                        })
                        .map(|(_, id)| id),
                );
                if std::mem::take(&mut first) {
                    pair.take_away().await;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Some(Err(error)) => break error,
            None => panic!("{} rows of a moment that is gone", ids.len()),
        }
    };
    assert!(is_retryable(&failure) && failure.is_moment_lost(), "{failure:?}");
    assert!(failure.hint().unwrap().contains("rows had gone to the client"), "{failure:?}");
    let distinct: BTreeSet<_> = ids.iter().copied().collect();
    assert!(distinct.len() == ids.len() && ids.len() < ROWS, "{} rows, {} distinct", ids.len(), distinct.len());
    drop(rows);
    town.stop().await;
}
