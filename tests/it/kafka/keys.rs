//! Keys of the small side of a join narrow the ranges of a topic.

use std::sync::Arc;

use datafusion::physical_plan::{ExecutionPlan, displayable};
use townlake_connectors::SourceScanExec;
use townlake_connectors::dynamic_filters::with_dynamic_filters;

use super::{Bus, cells, collect, query, run};
use crate::pushed::InTask;
use crate::sources::pushing;

/// The records that all scans of a plan that was run gave, and the bytes that they fetched.
fn fetched(plan: &Arc<dyn ExecutionPlan>) -> (usize, usize) {
    let own = plan.downcast_ref::<SourceScanExec>().and_then(|_| plan.metrics()).map(|metrics| {
        let bytes = metrics.sum_by_name("bytes_read").map_or(0, |bytes| bytes.as_usize());
        (metrics.output_rows().unwrap_or(0), bytes)
    });
    let below = plan.children().into_iter().map(fetched);
    below.chain(own).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_join_become_ranges() {
    let script = r"
# The times are old: retention would take them away.
topic('keyed', 4, retention_ms=-1)
topic('keyed_appended', 1, message_timestamp_type='LogAppendTime')
p = producer(queue_buffering_max_messages=1000000)
for n in range(48000):
    p.produce('keyed', value=str(n) * 20, partition=n % 4, timestamp=1700000000000 + n * 1000)
    if n % 2000 == 1999:
        p.flush()
for n in range(12):
    for m in range(1000):
        p.produce('keyed_appended', value=str(n * 1000 + m) * 20, partition=0)
    p.flush()
    time.sleep(0.1)
";
    let Some(bus) = Bus::of("keyed", script, "") else { return };
    // Of a record in the middle, as a broker set it.
    let times = bus
        .cells(&["keyed_appended"], "SELECT _timestamp FROM keyed_appended WHERE _offset IN (5000, 6000) ORDER BY 1")
        .await;
    let (early, late) = (&times[0][0], &times[1][0]);
    let at = |second: i64| format!("to_timestamp_millis(CAST({} AS BIGINT))", 1_700_000_000_000 + second * 1000);
    let cases = [
        // Keys, the topic, what joins, the most records that are fetched, what EXPLAIN shows of the ranges.
        ("SELECT 2 AS k", "keyed", "_partition = k", 12_000, "offsets=[2:[0,12000)]".to_string()),
        (
            "SELECT 1 AS k UNION ALL SELECT 3",
            "keyed",
            "_partition = k",
            24_000,
            "offsets=[1:[0,12000) 3:[0,12000)]".to_string(),
        ),
        ("SELECT 7 AS k", "keyed", "_partition = k", 0, "offsets=[]".to_string()),
        (
            "SELECT CAST(100 AS BIGINT) AS k UNION ALL SELECT 139",
            "keyed",
            "_offset = k",
            160,
            "offsets=[0:[100,140) 1:[100,140) 2:[100,140) 3:[100,140)]".to_string(),
        ),
        (
            "SELECT CAST(11990 AS BIGINT) AS k, 0 AS part UNION ALL SELECT 11995, 1",
            "keyed",
            "_offset = k AND _partition = part",
            12,
            "offsets=[0:[11990,11996) 1:[11990,11996)]".to_string(),
        ),
        // Producers' times: the least of the keys is a start, the greatest no end.
        (
            &format!("SELECT {} AS k UNION ALL SELECT {}", at(47_000), at(47_500)),
            "keyed",
            "_timestamp = k",
            1000,
            String::new(),
        ),
        (
            &format!(
                "SELECT arrow_cast(TIMESTAMP '{early}', 'Timestamp(Microsecond, None)') AS k UNION ALL \
                 SELECT arrow_cast(TIMESTAMP '{late}', 'Timestamp(Microsecond, None)')"
            ),
            "keyed_appended",
            "_timestamp = k",
            // Records of one batch may share their time.
            4000,
            String::new(),
        ),
        // What says nothing of places is asked for whole.
        ("SELECT CAST('x' AS VARCHAR) AS k", "keyed", "CAST(_value AS VARCHAR) = k", 48_000, String::new()),
    ];
    for (keys, topic, on, most, ranges) in &cases {
        let query = query();
        let (with, without) = (pushing(&query, &bus.connections, true), pushing(&query, &bus.connections, false));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.parquet").display().to_string();
        collect(&with, &format!("COPY ({keys}) TO '{file}'")).await.unwrap();
        for session in [&with, &without] {
            session.register_parquet("keys", file.clone(), Default::default()).await.unwrap();
            session.register_table(*topic, bus.table(&query, topic).await).unwrap();
        }
        let sql = format!(
            "SELECT _partition, _offset, octet_length(CAST(_value AS VARCHAR)) AS bytes FROM {topic} JOIN keys ON {on} ORDER BY 1, 2"
        );
        let plain = without.sql(&sql).await.unwrap().create_physical_plan().await.unwrap();
        let expected = run(&plain, &without).await.unwrap();
        let whole = fetched(&plain);
        let plan = with.sql(&sql).await.unwrap().create_physical_plan().await.unwrap();
        let (plan, _) = with_dynamic_filters(plan, &InTask(with.task_ctx())).await;
        let rows = run(&plan, &with).await.unwrap();
        let text = displayable(plan.as_ref()).indent(false).to_string();
        assert_eq!(cells(&rows), cells(&expected), "{sql}\n{text}");
        let (records, bytes) = fetched(&plan);
        assert!(records <= *most && whole.0 >= 12_000, "{sql}: {records} of {}\n{text}", whole.0);
        assert!(text.contains(ranges.as_str()), "{sql}: not {ranges}\n{text}");
        if *most < whole.0 {
            assert!(bytes < whole.1, "{sql}: {bytes} of {} bytes", whole.1);
        }
    }
}
