//! Splits, the way to another process, the budget, the end of a statement that nobody wants.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::UInt64Type;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, execute_stream, execute_stream_partitioned};
use datafusion_proto::physical_plan::{AsExecutionPlan, PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use datafusion_proto::protobuf::PhysicalPlanNode;
use futures::StreamExt;
use prost::Message;
use townlake_common::{Error, QueryContext};
use townlake_connectors::{SourceScanExec, codec};
use townlake_tests::clickhouse::{Engine, PASSWORD};

use super::{Ch, connections, query, session, typed};

/// By partition; by part, which nobody merges meanwhile; one part; what has none.
const TABLES: &[&str] = &[
    "CREATE TABLE DB.by_partition (id UInt64, p UInt8) ENGINE = MergeTree PARTITION BY p ORDER BY id",
    "INSERT INTO DB.by_partition SELECT number, number % 12 FROM numbers(1200000)",
    "CREATE TABLE DB.by_part (id UInt64) ENGINE = MergeTree ORDER BY id",
    "SYSTEM STOP MERGES DB.by_part",
    "INSERT INTO DB.by_part SELECT number FROM numbers(300000)",
    "INSERT INTO DB.by_part SELECT number + 300000 FROM numbers(300000)",
    "INSERT INTO DB.by_part SELECT number + 600000 FROM numbers(300000)",
    "CREATE TABLE DB.by_hash (id UInt64) ENGINE = MergeTree ORDER BY id",
    "INSERT INTO DB.by_hash SELECT number FROM numbers(1500000)",
    "CREATE TABLE DB.stored (id UInt64) ENGINE = Memory",
    "INSERT INTO DB.stored SELECT number FROM numbers(1000)",
    "CREATE TABLE DB.nothing (id UInt64) ENGINE = MergeTree ORDER BY id",
    "CREATE VIEW DB.few AS SELECT * FROM DB.by_hash WHERE id < 100",
];

async fn try_read(plan: &Arc<dyn ExecutionPlan>, context: Arc<TaskContext>) -> Result<Vec<RecordBatch>, Error> {
    let mut batches = Vec::new();
    for mut partition in execute_stream_partitioned(Arc::clone(plan), context).expect("execute") {
        while let Some(batch) = partition.next().await {
            batches.push(batch.map_err(typed)?);
        }
    }
    Ok(batches)
}

async fn read(plan: &Arc<dyn ExecutionPlan>, context: Arc<TaskContext>) -> Vec<RecordBatch> {
    try_read(plan, context).await.unwrap_or_else(|error| panic!("{error:?}"))
}

fn ids(batches: &[RecordBatch]) -> Vec<u64> {
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<UInt64Type>().values().to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn splits_are_disjoint_and_complete() {
    for ch in Ch::each("splits", TABLES).await {
        let cases = [
            ("by_partition", 1_200_000, 8..=8),
            ("by_part", 900_000, 3..=3),
            ("by_hash", 1_500_000, 4..=4),
            ("stored", 1000, 1..=1),
            ("nothing", 0, 1..=1),
            ("few", 100, 1..=1),
        ];
        for (table, rows, splits) in cases {
            let query = query();
            let (plan, text) = ch.plan(&query, &[table], &format!("SELECT id FROM {table}")).await;
            let count = plan.output_partitioning().partition_count();
            assert!(splits.contains(&count), "{:?}: {count}: {text}", ch.server.engine);
            let found = ids(&read(&plan, session(&query, &ch.connections, 8).task_ctx()).await);
            let distinct: BTreeSet<_> = found.iter().copied().collect();
            assert_eq!((found.len(), distinct.len()), (rows, rows), "{:?}: {table}", ch.server.engine);
            assert_eq!(ch.cells(&[table], &format!("SELECT count(*) FROM {table}")).await, [[rows.to_string()]]);
            #[expect(deprecated, reason = "the one without a context")]
            let estimate = plan.partition_statistics(None).unwrap().num_rows;
            if table.starts_with("by") {
                assert_eq!(estimate.get_value(), Some(&rows), "{table}");
            }
        }
        let (plan, text) = ch.plan(&query(), &["by_partition"], "SELECT id FROM by_partition LIMIT 10").await;
        assert_eq!(plan.output_partitioning().partition_count(), 1, "a peek is one statement: {text}");
    }
}

/// A merge between planning and reading makes parts that no split has named.
#[tokio::test]
async fn a_merge_while_parts_are_read_loses_no_row_silently() {
    for ch in Ch::each("merged", &TABLES[2..7]).await {
        let early = query();
        let (plan, _) = ch.plan(&early, &["by_part"], "SELECT id FROM by_part").await;
        assert_eq!(plan.output_partitioning().partition_count(), 3);
        ch.server.run("SYSTEM START MERGES merged.by_part").await;
        ch.server.run("OPTIMIZE TABLE merged.by_part FINAL").await;
        let error = try_read(&plan, session(&early, &ch.connections, 8).task_ctx()).await.unwrap_err();
        assert!(error.is_retryable() && error.message().contains("merged"), "{error}");
        let again = query();
        let (plan, _) = ch.plan(&again, &["by_part"], "SELECT id FROM by_part").await;
        assert_eq!(ids(&read(&plan, session(&again, &ch.connections, 8).task_ctx()).await).len(), 900_000);
    }
}

#[tokio::test]
async fn replacing_tables_are_read_final_where_asked() {
    let statements = [
        "CREATE TABLE DB.latest (id UInt64, v UInt64) ENGINE = ReplacingMergeTree(v) PARTITION BY id % 2 ORDER BY id",
        "INSERT INTO DB.latest SELECT number, 1 FROM numbers(1200000)",
        "INSERT INTO DB.latest SELECT number, 2 FROM numbers(600000)",
        "CREATE TABLE DB.plain (id UInt64) ENGINE = MergeTree ORDER BY id",
        "INSERT INTO DB.plain SELECT 1",
    ];
    for engine in [Engine::Old, Engine::Modern] {
        let Some(ch) = Ch::of(engine, "replacing", &statements, "final = true").await else { continue };
        let query = query();
        let (plan, text) = ch.plan(&query, &["latest"], "SELECT id, v FROM latest WHERE v > 0").await;
        assert!(text.contains("`latest` FINAL") && plan.output_partitioning().partition_count() > 1, "{text}");
        let rows = read(&plan, session(&query, &ch.connections, 8).task_ctx()).await;
        let sum: u64 =
            rows.iter().flat_map(|batch| batch.column(1).as_primitive::<UInt64Type>().values().to_vec()).sum();
        assert_eq!((ids(&rows).len(), sum), (1_200_000, 1_800_000));
        assert_eq!(ch.cells(&["plain"], "SELECT id FROM plain").await, [["1"]]);
        let all = connections(&ch.server.url(), "");
        let table = all.source("ch").unwrap().table(&query, "replacing", "latest").await.unwrap().unwrap();
        let session = session(&query, &all, 2);
        session.register_table("latest", table).unwrap();
        let plan = session.sql("SELECT id FROM latest").await.unwrap().create_physical_plan().await.unwrap();
        assert!(ids(&read(&plan, session.task_ctx()).await).len() >= 1_200_000);
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
    for ch in Ch::each("pieces", &TABLES[..2]).await {
        let query = query();
        let (plan, text) = ch.plan(&query, &["by_partition"], "SELECT id FROM by_partition WHERE id > 10").await;
        let mut found = Vec::new();
        for partitions in [0..3, 3..4, 4..8] {
            let piece = slice(&plan, partitions.clone());
            assert_eq!(piece.output_partitioning().partition_count(), partitions.len());
            let bytes = PhysicalPlanNode::try_from_physical_plan(piece, &ConnectorCodec).unwrap().encode_to_vec();
            assert!(!bytes.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes()), "no secret travels");
            assert!(!bytes.windows(9).any(|window| window == b"127.0.0.1"), "no address travels");
            let connections = connections(&ch.server.url(), "");
            let context = session(&super::query(), &connections, 8).task_ctx();
            let node = PhysicalPlanNode::try_decode(&bytes).unwrap();
            let decoded = node.try_into_physical_plan(&context, &ConnectorCodec).unwrap();
            assert_eq!(decoded.schema(), plan.schema());
            found.extend(ids(&read(&decoded, context).await));
            for end in 0..bytes.len().min(600) {
                let _ = PhysicalPlanNode::try_decode(&bytes[..end]).map(|node| {
                    let context = session(&super::query(), &connections, 8).task_ctx();
                    node.try_into_physical_plan(&context, &ConnectorCodec).map(drop)
                });
            }
        }
        found.sort_unstable();
        assert!(found.iter().copied().eq(11..1_200_000), "{text}");
    }
}

/// Statements of a query that run on the server.
async fn running(ch: &Ch, query: &QueryContext) -> u64 {
    let sql = format!("SELECT count() FROM system.processes WHERE query_id LIKE 'townlake-{}-%'", query.id);
    ch.server.run(&sql).await.trim().parse().expect("a count")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn splits_queue_for_a_small_budget() {
    let Some(ch) = Ch::of(Engine::Old, "budget", &TABLES[..2], "connections = 2\nmax_splits = 12").await else {
        return;
    };
    let query = query();
    let (plan, text) = ch.plan(&query, &["by_partition"], "SELECT id, p FROM by_partition").await;
    assert!(plan.output_partitioning().partition_count() > 8, "{text}");
    let partitions = execute_stream_partitioned(plan, session(&query, &ch.connections, 8).task_ctx()).unwrap();
    let tasks: Vec<_> = partitions
        .into_iter()
        .map(|partition| {
            tokio::spawn(async move { partition.map(|batch| batch.unwrap().num_rows()).collect::<Vec<_>>().await })
        })
        .collect();
    let mut most = 0;
    while !tasks.iter().all(|task| task.is_finished()) {
        most = most.max(running(&ch, &query).await);
    }
    let mut rows = 0;
    for task in tasks {
        rows += task.await.unwrap().iter().sum::<usize>();
    }
    assert_eq!(rows, 1_200_000);
    assert!((1..=2).contains(&most), "{most} statements with a budget of two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_dropped_ends_its_statement_on_the_server() {
    let statements = [
        "CREATE VIEW DB.sleepy AS SELECT number, sleep(0.2) AS s FROM system.numbers",
        "CREATE VIEW DB.endless AS SELECT number, toString(number) AS s FROM system.numbers",
        "CREATE VIEW DB.silent AS SELECT count() AS n FROM system.numbers WHERE NOT ignore(sipHash64(number))",
    ];
    let Some(ch) = Ch::of(Engine::Old, "cancelled", &statements, "").await else { return };
    // Waiting for rows, blocked by a reader that does not read, and computing without sending anything.
    for (table, batches) in [("sleepy", 0), ("endless", 2), ("silent", 0)] {
        let query = query();
        let (plan, _) = ch.plan(&query, &[table], &format!("SELECT * FROM {table}")).await;
        let mut stream = execute_stream(plan, session(&query, &ch.connections, 1).task_ctx()).unwrap();
        for _ in 0..batches {
            assert!(stream.next().await.unwrap().unwrap().num_rows() > 0);
        }
        let _ = tokio::time::timeout(Duration::from_millis(300), stream.next()).await;
        assert_eq!(running(&ch, &query).await, 1, "{table}");
        drop(stream);
        let dropped = Instant::now();
        while running(&ch, &query).await > 0 {
            assert!(dropped.elapsed() < Duration::from_secs(2), "{table}: still there after two seconds");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
