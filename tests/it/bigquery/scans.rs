//! Streams as splits, projection, limits, the way to another process, one moment for a query.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, execute_stream_partitioned};
use datafusion_proto::physical_plan::{AsExecutionPlan, PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use datafusion_proto::protobuf::PhysicalPlanNode;
use futures::StreamExt;
use prost::Message;
use serde_json::{Value, json};
use townlake_common::Error;
use townlake_connectors::{NothingPushed, codec};

use super::{Bq, collect, connections, query, session, typed};

const ROWS: usize = 200_000;

fn numbers() -> [Value; 1] {
    let select = format!(
        "SELECT x AS id, MOD(x, 7) AS k, CONCAT('row ', CAST(x AS STRING)) AS s FROM UNNEST(GENERATE_ARRAY(1, {ROWS})) AS x"
    );
    [json!({"sql": format!("CREATE TABLE DS.numbers AS {select}")})]
}

async fn read(plan: &Arc<dyn ExecutionPlan>, context: Arc<TaskContext>) -> Result<Vec<RecordBatch>, Error> {
    let mut batches = Vec::new();
    for mut partition in execute_stream_partitioned(Arc::clone(plan), context).expect("execute") {
        while let Some(batch) = partition.next().await {
            batches.push(batch.map_err(typed)?);
        }
    }
    Ok(batches)
}

fn ids(batches: &[RecordBatch]) -> Vec<i64> {
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_disjoint_and_complete() {
    for compression in ["none", "lz4", "zstd"] {
        let dataset =
            ["streams_none", "streams_lz4", "streams_zstd"].into_iter().find(|name| name.ends_with(compression));
        // The emulator makes one stream of less than a megabyte.
        let keys = format!("compression = \"{compression}\"\nmax_splits = 4");
        let Some(bq) = Bq::of(dataset.unwrap(), &numbers(), &keys).await else { return };
        let query = query();
        let (plan, text) = bq.plan(&query, &["numbers"], "SELECT id FROM numbers").await;
        assert_eq!(plan.output_partitioning().partition_count(), 4, "{text}");
        assert!(text.contains("selected_fields=[id]"), "{text}");
        let found = ids(&read(&plan, session(&query, &bq.connections, 8).task_ctx()).await.unwrap());
        let distinct: BTreeSet<_> = found.iter().copied().collect();
        assert_eq!((found.len(), distinct.len()), (ROWS, ROWS), "{compression}");
        let counted = bq.cells(&["numbers"], "SELECT count(*) FROM numbers").await;
        assert_eq!(counted, [[ROWS.to_string()]]);
        let of_each = bq
            .cells(&["numbers"], "SELECT k, count(*), min(s) FROM numbers WHERE id <= 70 GROUP BY k ORDER BY k")
            .await;
        assert_eq!(of_each[0], ["0", "10", "row 14"], "{of_each:?}");
        assert_eq!(of_each.len(), 7);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_is_what_googles_client_reads() {
    let Some(bq) = Bq::with("beside_google", &numbers()).await else { return };
    let command = json!({"read": "beside_google.numbers", "fields": ["id", "s"], "where": "k = 3", "streams": 3});
    let server = Arc::clone(&bq.server);
    let theirs = tokio::task::spawn_blocking(move || server.client(&[command])).await.unwrap();
    let mut theirs: Vec<_> = theirs[0].as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect();
    let mut ours = ids(&bq.query(&["numbers"], "SELECT id, s FROM numbers WHERE k = 3").await.unwrap());
    theirs.sort_unstable();
    ours.sort_unstable();
    assert!(!ours.is_empty() && ours == theirs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_is_one_stream_that_stops_early() {
    let Some(bq) = Bq::with("limited", &numbers()).await else { return };
    let query = query();
    let (plan, text) = bq.plan(&query, &["numbers"], "SELECT id FROM numbers LIMIT 10").await;
    assert_eq!(plan.output_partitioning().partition_count(), 1, "{text}");
    assert!(text.contains("stops_after=[10]"), "{text}");
    assert_eq!(ids(&read(&plan, session(&query, &bq.connections, 8).task_ctx()).await.unwrap()).len(), 10);
    for (sql, rows) in [
        ("SELECT id FROM numbers WHERE k = 3 LIMIT 5", 5),
        ("SELECT id FROM numbers WHERE s LIKE '%7' LIMIT 5", 5),
        ("SELECT id FROM numbers LIMIT 0", 0),
        ("SELECT id FROM numbers WHERE id < 4 LIMIT 50", 3),
    ] {
        assert_eq!(ids(&bq.query(&["numbers"], sql).await.unwrap()).len(), rows, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_pushed_where_that_is_asked() {
    let Some(bq) = Bq::with("nothing_pushed", &numbers()).await else { return };
    let query = query();
    let session = session(&query, &bq.connections, 2);
    let table = bq.table(&query, "numbers").await;
    session.register_table("numbers", Arc::new(NothingPushed(table))).unwrap();
    let sql = "SELECT id FROM numbers WHERE k = 3 AND id < 100";
    let explained = collect(&session, &format!("EXPLAIN {sql}")).await.unwrap();
    let text = datafusion::arrow::util::pretty::pretty_format_batches(&explained).unwrap().to_string();
    assert!(!text.contains("row_restriction") && text.contains("FilterExec"), "{text}");
    assert_eq!(ids(&collect(&session, sql).await.unwrap()).len(), 14);
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

#[tokio::test]
async fn a_scan_runs_in_another_process() {
    let Some(bq) = Bq::with("another_process", &numbers()).await else { return };
    let query = query();
    let (plan, _) = bq.plan(&query, &["numbers"], "SELECT id, s FROM numbers WHERE id > 10").await;
    let bytes = PhysicalPlanNode::try_from_physical_plan(Arc::clone(&plan), &ConnectorCodec).unwrap().encode_to_vec();
    assert!(!bytes.windows(9).any(|window| window == b"127.0.0.1"), "no address travels");
    let connections = connections(&bq.server.keys());
    let context = session(&super::query(), &connections, 8).task_ctx();
    let node = PhysicalPlanNode::try_decode(&bytes).unwrap();
    let decoded = node.try_into_physical_plan(&context, &ConnectorCodec).unwrap();
    assert_eq!(decoded.schema(), plan.schema());
    let mut found = ids(&read(&decoded, context).await.unwrap());
    found.sort_unstable();
    assert!(found.iter().copied().eq(11..=ROWS as i64));
    for end in 0..bytes.len().min(600) {
        let _ = PhysicalPlanNode::try_decode(&bytes[..end]).map(|node| {
            let context = session(&super::query(), &connections, 8).task_ctx();
            node.try_into_physical_plan(&context, &ConnectorCodec).map(drop)
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn splits_queue_for_a_small_budget() {
    let Some(bq) = Bq::of("small_budget", &numbers(), "connections = 1\nmax_splits = 4").await else { return };
    let query = query();
    let (plan, text) = bq.plan(&query, &["numbers"], "SELECT id FROM numbers").await;
    assert_eq!(plan.output_partitioning().partition_count(), 4, "{text}");
    let partitions = execute_stream_partitioned(plan, session(&query, &bq.connections, 8).task_ctx()).unwrap();
    let tasks = partitions.into_iter().map(|partition| {
        tokio::spawn(async move { partition.map(|batch| batch.unwrap().num_rows()).collect::<Vec<_>>().await })
    });
    let mut rows = 0;
    for task in tasks.collect::<Vec<_>>() {
        rows += task.await.unwrap().iter().sum::<usize>();
    }
    assert_eq!(rows, ROWS);
}
