//! Splits on one snapshot, the way to another process, the connection budget, the end of a statement that nobody wants.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, execute_stream, execute_stream_partitioned};
use datafusion_proto::physical_plan::{AsExecutionPlan, PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use datafusion_proto::protobuf::PhysicalPlanNode;
use futures::StreamExt;
use prost::Message;
use townlake_common::QueryContext;
use townlake_connectors::{SourceScanExec, codec};
use townlake_tests::postgres::PASSWORD;

use super::{Crm, connections, query, session, typed};

const ACCOUNTS: &str = "CREATE TABLE accounts (id int8 PRIMARY KEY, balance int8, pad text);
    INSERT INTO accounts SELECT i, 100, repeat('x', 100) FROM generate_series(1, 40000) i;";

async fn read(plan: &Arc<dyn ExecutionPlan>, context: Arc<TaskContext>) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    for mut partition in execute_stream_partitioned(Arc::clone(plan), context).expect("execute") {
        while let Some(batch) = partition.next().await {
            batches.push(batch.unwrap_or_else(|error| panic!("{:?}", typed(error))));
        }
    }
    batches
}

fn column(batches: &[RecordBatch], index: usize) -> Vec<i64> {
    batches.iter().flat_map(|batch| batch.column(index).as_primitive::<Int64Type>().values().to_vec()).collect()
}

/// Moves money and adds accounts in pairs until told to stop: every state that commits has the same average.
async fn write(crm: &Crm, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<u32> {
    let writer = crm.postgres.connect("one_snapshot").await;
    tokio::spawn(async move {
        let mut rounds = 0;
        while !stop.load(Ordering::Relaxed) {
            let id = i64::from(rounds % 20_000);
            let sql = format!(
                "BEGIN; UPDATE accounts SET balance = balance - 7 WHERE id = {}; \
                 INSERT INTO accounts VALUES ({}, 93, ''), ({}, 107, ''); \
                 UPDATE accounts SET balance = balance + 7 WHERE id = {}; COMMIT",
                id + 1,
                100_000 + 2 * i64::from(rounds),
                100_001 + 2 * i64::from(rounds),
                40_000 - id,
            );
            writer.batch_execute(&sql).await.expect("write");
            rounds += 1;
        }
        rounds
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn splits_are_disjoint_and_complete_on_one_snapshot_while_others_write() {
    let Some(crm) = Crm::new("one_snapshot", ACCOUNTS).await else { return };
    let stop = Arc::new(AtomicBool::new(false));
    let writer = write(&crm, Arc::clone(&stop)).await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let query = query();
        let (plan, text) = crm.plan(&query, &["accounts"], "SELECT id, balance FROM accounts").await;
        assert_eq!(plan.output_partitioning().partition_count(), 8, "{text}");
        tokio::time::sleep(Duration::from_millis(50)).await; // what is written now must not be seen
        let batches = read(&plan, session(&query, &crm.connections, 8).task_ctx()).await;
        let ids = column(&batches, 0);
        let distinct: BTreeSet<_> = ids.iter().copied().collect();
        assert_eq!(distinct.len(), ids.len(), "no row comes twice");
        assert_eq!(distinct.range(..=40_000).count(), 40_000, "none is missing");
        let added = distinct.range(100_000..).count();
        assert_eq!(ids.len(), 40_000 + added);
        assert_eq!(distinct.range(100_000..).next_back().map_or(0, |last| last - 99_999), added as i64, "no gap");
        assert_eq!(column(&batches, 1).iter().sum::<i64>(), 100 * ids.len() as i64, "one state, not several");
        check_log(&crm, &query);
    }
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 20, "the writer really wrote");
}

/// In the server's own log: eight COPY statements of this query, on one snapshot, of ranges that touch.
fn check_log(crm: &Crm, query: &QueryContext) {
    let log = crm.postgres.log();
    let of_query = |line: &&str| line.contains(&format!("townlake {}", query.id));
    let copies: Vec<_> = log.lines().filter(of_query).filter(|line| line.contains("COPY (SELECT")).collect();
    assert_eq!(copies.len(), 8, "{copies:#?}");
    let snapshots: BTreeSet<_> = log
        .lines()
        .filter(of_query)
        .filter_map(|line| line.split("SET TRANSACTION SNAPSHOT '").nth(1)?.split('\'').next())
        .collect();
    assert_eq!(snapshots.len(), 1, "{snapshots:?}");
    let bound = |line: &str, start: &str| Some(line.split(start).nth(1)?.split(',').next()?.parse::<u32>().unwrap());
    let mut ranges: Vec<_> = copies.iter().map(|line| (bound(line, "ctid >= '("), bound(line, "ctid < '("))).collect();
    ranges.sort();
    assert!(ranges[0].0.is_none() && ranges[7].1.is_none(), "{ranges:?}");
    assert!(ranges.windows(2).all(|pair| pair[0].1.is_some() && pair[0].1 == pair[1].0), "{ranges:?}");
}

#[tokio::test]
async fn partitions_inheritance_and_empty_tables_are_complete() {
    let sql = "CREATE TABLE parts (id int8, pad text) PARTITION BY RANGE (id);
        CREATE TABLE parts_a PARTITION OF parts FOR VALUES FROM (0) TO (1000);
        CREATE TABLE parts_b PARTITION OF parts FOR VALUES FROM (1000) TO (50000) PARTITION BY HASH (id);
        CREATE TABLE parts_b0 PARTITION OF parts_b FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE parts_b1 PARTITION OF parts_b FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        INSERT INTO parts SELECT i, repeat('x', 50) FROM generate_series(0, 49999) i;
        CREATE TABLE parent (id int8, pad text);
        CREATE TABLE child () INHERITS (parent);
        INSERT INTO parent SELECT i, repeat('x', 50) FROM generate_series(0, 9) i;
        INSERT INTO child SELECT i, repeat('x', 50) FROM generate_series(10, 49999) i;
        CREATE TABLE nothing (id int8);
        CREATE VIEW few AS SELECT * FROM parts WHERE id < 100;
        CREATE MATERIALIZED VIEW stored AS SELECT * FROM parts;";
    let Some(crm) = Crm::new("partitions", sql).await else { return };
    for (table, rows, splits) in [
        ("parts", 50_000, 7..=8),
        ("parent", 50_000, 7..=8),
        ("stored", 50_000, 7..=8),
        ("nothing", 0, 1..=1),
        ("few", 100, 1..=1),
    ] {
        let query = query();
        let (plan, text) = crm.plan(&query, &[table], &format!("SELECT id FROM {table}")).await;
        assert!(splits.contains(&plan.output_partitioning().partition_count()), "{text}");
        let ids = column(&read(&plan, session(&query, &crm.connections, 8).task_ctx()).await, 0);
        let distinct: BTreeSet<_> = ids.iter().copied().collect();
        assert_eq!((ids.len(), distinct.len()), (rows, rows), "{table}");
        let counted = crm.show(&[table], &format!("SELECT count(*) AS n FROM {table}")).await;
        assert!(counted.contains(&format!("| {rows} ")), "{counted}");
    }
}

#[derive(Debug)]
struct ConnectorCodec;

impl PhysicalExtensionCodec for ConnectorCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        codec::try_decode(buf, inputs, context, converter)
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> datafusion::error::Result<()> {
        assert!(codec::try_encode(&node, buf, converter)?, "{} is the connector's", node.name());
        Ok(())
    }
}

/// The plan with only some of the scan's splits, cut as Ballista cuts: the memory data below is replaced.
fn slice(plan: &Arc<dyn ExecutionPlan>, partitions: std::ops::Range<usize>) -> Arc<dyn ExecutionPlan> {
    let scan = plan.downcast_ref::<SourceScanExec>().expect("the plan is the scan");
    let leaf = scan.children()[0].downcast_ref::<DataSourceExec>().expect("over data");
    let data = leaf.data_source().downcast_ref::<MemorySourceConfig>().expect("in memory");
    let splits =
        MemorySourceConfig::try_new_exec(&data.partitions()[partitions], data.original_schema(), None).unwrap();
    #[expect(deprecated, reason = "as Ballista does")]
    Arc::clone(plan).with_new_children(vec![splits]).unwrap()
}

#[tokio::test]
async fn a_scan_runs_in_pieces_in_other_processes() {
    let Some(crm) = Crm::new("codec_round_trip", ACCOUNTS).await else { return };
    let query = query();
    let sql = "SELECT id, balance FROM accounts WHERE id > 10";
    let (plan, text) = crm.plan(&query, &["accounts"], sql).await;
    let mut ids = Vec::new();
    for partitions in [0..3, 3..4, 4..8] {
        let piece = slice(&plan, partitions.clone());
        assert_eq!(piece.output_partitioning().partition_count(), partitions.len());
        let bytes = PhysicalPlanNode::try_from_physical_plan(piece, &ConnectorCodec).unwrap().encode_to_vec();
        assert!(!bytes.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes()), "no secret travels");
        assert!(!bytes.windows(9).any(|window| window == b"127.0.0.1"), "no address travels");
        // Another process: connections of its own, no query context.
        let connections = connections(&crm.postgres.url("codec_round_trip"), "");
        let context = session(&super::query(), &connections, 8).task_ctx();
        let node = PhysicalPlanNode::try_decode(&bytes).unwrap();
        let decoded = node.try_into_physical_plan(&context, &ConnectorCodec).unwrap();
        assert_eq!(decoded.schema(), plan.schema());
        assert_eq!(decoded.metrics().is_some(), plan.metrics().is_some());
        ids.extend(column(&read(&decoded, context).await, 0));
        assert!(decoded.metrics().unwrap().output_rows().unwrap() > 0);
        for end in 0..bytes.len().min(600) {
            let _ = PhysicalPlanNode::try_decode(&bytes[..end]).map(|node| {
                let context = session(&super::query(), &connections, 8).task_ctx();
                node.try_into_physical_plan(&context, &ConnectorCodec).map(drop)
            });
        }
    }
    ids.sort_unstable();
    assert_eq!(ids, (11..=40_000).collect::<Vec<_>>(), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn splits_queue_for_a_small_budget() {
    let Some(crm) = Crm::configured("budget", ACCOUNTS, "connections = 2\nmax_splits = 12").await else { return };
    let query = query();
    let (plan, text) = crm.plan(&query, &["accounts"], "SELECT id, balance FROM accounts").await;
    assert!(plan.output_partitioning().partition_count() > 8, "{text}");
    let context = session(&query, &crm.connections, 8).task_ctx();
    let partitions = execute_stream_partitioned(plan, context).unwrap();
    let tasks: Vec<_> = partitions
        .into_iter()
        .map(|partition| {
            tokio::spawn(async move { partition.map(|batch| batch.unwrap().num_rows()).collect::<Vec<_>>().await })
        })
        .collect();
    let most = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'budget' AND application_name LIKE 'townlake%'";
    let mut seen = 0;
    while !tasks.iter().all(|task| task.is_finished()) {
        seen = seen.max(crm.admin.query_one(most, &[]).await.unwrap().get::<_, i64>(0));
    }
    let mut rows = 0;
    for task in tasks {
        rows += task.await.unwrap().iter().sum::<usize>();
    }
    assert_eq!(rows, 40_000);
    assert!((1..=2).contains(&seen), "{seen} connections with a budget of two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_dropped_ends_its_statement_on_the_server() {
    let sql = "CREATE FUNCTION slow(i int8) RETURNS text LANGUAGE sql VOLATILE AS 'SELECT pg_sleep(0.002)::text || i';
        CREATE VIEW sleepy AS SELECT slow(generate_series(1, 1000000000)) AS s;
        CREATE VIEW wide AS SELECT generate_series(1, 1000000000) AS id, repeat('x', 1000) AS s;
        CREATE VIEW watched AS SELECT current_setting('client_connection_check_interval') AS every;
        CREATE VIEW silent AS SELECT count(*) AS n FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b;";
    let Some(crm) = Crm::new("cancelled", sql).await else { return };
    let watched = crm.show(&["watched"], "SELECT every FROM watched").await;
    assert!(watched.contains("| 1s "), "a killed executor is noticed by the server itself: {watched}");
    // Waiting for rows, blocked by a reader that does not read, and computing without sending anything.
    for (table, batches) in [("sleepy", 0), ("wide", 2), ("silent", 0)] {
        let query = query();
        let (plan, _) = crm.plan(&query, &[table], &format!("SELECT * FROM {table}")).await;
        let mut stream = execute_stream(plan, session(&query, &crm.connections, 1).task_ctx()).unwrap();
        for _ in 0..batches {
            assert!(stream.next().await.unwrap().unwrap().num_rows() > 0);
        }
        let _ = tokio::time::timeout(Duration::from_millis(300), stream.next()).await;
        let working = crm.backends(&query).await;
        assert!(working.iter().any(|backend| backend.starts_with("active: COPY")), "{table}: {working:?}");
        drop(stream);
        query_is_over(&crm, query).await;
    }
}

/// Drops the query's context and sees that snapshot and statements are gone in time.
async fn query_is_over(crm: &Crm, query: Arc<QueryContext>) -> Duration {
    let id = QueryContext::new(query.id.clone(), query.principal.clone());
    drop(query);
    crm.wait_until_idle(&id).await
}

#[tokio::test]
async fn the_snapshot_ends_with_the_query_and_connections_are_used_again() {
    let Some(crm) = Crm::new("reused", ACCOUNTS).await else { return };
    for _ in 0..5 {
        let query = query();
        let (plan, _) = crm.plan(&query, &["accounts"], "SELECT id FROM accounts LIMIT 5").await;
        assert_eq!(query.pin_keys(), ["postgres crm"]);
        assert!(crm.backends(&query).await.iter().any(|backend| backend.starts_with("idle in transaction")));
        let rows = read(&plan, session(&query, &crm.connections, 1).task_ctx()).await;
        assert_eq!(column(&rows, 0).len(), 5);
        query_is_over(&crm, query).await;
    }
    let idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'reused' AND application_name LIKE 'townlake%'";
    let open = crm.admin.query_one(idle, &[]).await.unwrap().get::<_, i64>(0);
    assert!((1..=3).contains(&open), "{open} connections for five queries one after another");
}
