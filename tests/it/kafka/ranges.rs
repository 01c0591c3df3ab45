//! Splits, pinned ranges, what filters leave of them, and what happens when a pinned range is not there any more.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::{Int32Type, Int64Type};
use datafusion::physical_plan::ExecutionPlanProperties;
use townlake_common::{ErrorCode, Principal, QueryContext, QueryId};

use super::{Bus, cells, collect, query, run};

/// Partition and offset of each row, sorted.
fn places(rows: &[RecordBatch]) -> Vec<(i32, i64)> {
    let mut places: Vec<_> = rows
        .iter()
        .flat_map(|batch| {
            let partitions = batch.column(0).as_primitive::<Int32Type>().values().to_vec();
            partitions.into_iter().zip(batch.column(1).as_primitive::<Int64Type>().values().to_vec())
        })
        .collect();
    places.sort_unstable();
    places
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn splits_are_disjoint_and_complete() {
    let script = r"
topic('splits', 4)
p = producer(queue_buffering_max_messages=1000000)
for n in range(120000):
    p.produce('splits', value=str(n), partition=0 if n % 4 else 2)
    if n % 5000 == 0:
        p.flush()
p.produce('splits', value='one', partition=3)
p.flush()
";
    let Some(bus) = Bus::of("splits", script, "connections = 3") else { return };
    let query = query();
    let (plan, text, session) = bus.plan(&query, &["splits"], "SELECT _partition, _offset FROM splits").await;
    let count = plan.output_partitioning().partition_count();
    assert!((5..=8).contains(&count), "three partitions have rows, one many: {count}: {text}");
    let rows = run(&plan, &session).await.unwrap();
    let found = places(&rows);
    let expected = (0..90_000).map(|n| (0, n)).chain((0..30_000).map(|n| (2, n))).chain([(3, 0)]);
    assert_eq!(found, expected.collect::<Vec<_>>());
    assert!(rows.iter().all(|batch| batch.num_rows() <= 8192));
    let sql = "SELECT count(*), sum(CAST(CAST(_value AS VARCHAR) AS BIGINT)) FROM splits WHERE _partition < 3";
    assert_eq!(bus.lines(&["splits"], sql).await, ["120000 7199940000"]);

    // A peek reads one split a partition, and each stops at the limit.
    let (plan, text, session) = bus.plan(&query, &["splits"], "SELECT _partition, _offset FROM splits LIMIT 7").await;
    assert!(text.contains("splits=3") && text.contains("limit=[7]"), "{text}");
    assert_eq!(places(&run(&plan, &session).await.unwrap()).len(), 7);
    let sql = "SELECT count(*) FROM (SELECT 1 FROM splits WHERE _partition = 2 AND octet_length(CAST(_value AS VARCHAR)) = 1 LIMIT 5)";
    assert_eq!(bus.lines(&["splits"], sql).await, ["3"], "0, 4 and 8: a limit counts what passes the filter");
}

#[tokio::test]
async fn filters_become_ranges() {
    let script = r"
# The times are old: retention would take them away.
topic('filtered', 3, retention_ms=-1)
topic('appended', 2, message_timestamp_type='LogAppendTime')
p = producer()
for n in range(300):
    # Times that do not rise with the offsets.
    p.produce('filtered', value=str(n), partition=n % 3, timestamp=1700000000000 + (n * 37 % 100) * 1000)
p.flush()
for n in range(4):
    for m in range(10):
        p.produce('appended', value=str(n * 10 + m), partition=0)
    p.flush()
    time.sleep(0.3)
";
    let Some(bus) = Bus::of("filters", script, "") else { return };
    let all = bus.query(&["filtered"], "SELECT _partition, _offset, _timestamp FROM filtered").await.unwrap();
    let local = datafusion::prelude::SessionContext::new();
    let table = datafusion::datasource::MemTable::try_new(all[0].schema(), vec![all.clone()]).unwrap();
    local.register_table("filtered", Arc::new(table)).unwrap();
    for (filter, ranges) in [
        ("_partition = 1", "1:[0,100)"),
        ("_partition IN (0, 2)", "0:[0,100) 2:[0,100)"),
        ("_partition = 7", ""),
        ("_offset >= 90", "0:[90,100) 1:[90,100) 2:[90,100)"),
        ("_offset BETWEEN 10 AND 19 AND _partition <> 1", "0:[10,20) 1:[10,20) 2:[10,20)"),
        ("(_partition = 0 AND _offset < 5) OR (_partition = 1 AND _offset = 50)", "0:[0,5) 1:[50,51)"),
        ("_offset < 0", ""),
        ("_offset = 5 AND _partition = 2", "2:[5,6)"),
        ("_offset % 10 = 0", "0:[0,100) 1:[0,100) 2:[0,100)"),
        // Producers' times: an upper bound prunes nothing.
        ("_timestamp < TIMESTAMP '2023-11-14 22:13:25Z'", "0:[0,100) 1:[0,100) 2:[0,100)"),
    ] {
        let sql = format!("SELECT _partition, _offset FROM filtered WHERE {filter} ORDER BY 1, 2");
        let (_, text, _) = bus.plan(&query(), &["filtered"], &sql).await;
        assert!(text.contains(&format!("offsets=[{ranges}]")), "{filter}: {text}");
        let here = cells(&collect(&local, &sql).await.unwrap());
        assert_eq!(bus.cells(&["filtered"], &sql).await, here, "{filter}");
    }
    // A lower bound of times begins where the first record is that is not older. Nothing that passes lies before it.
    for second in [0, 1, 37, 63, 99, 100] {
        let sql = format!(
            "SELECT _partition, _offset FROM filtered WHERE _timestamp >= to_timestamp_seconds({}) ORDER BY 1, 2",
            1_700_000_000 + second
        );
        let here = cells(&collect(&local, &sql).await.unwrap());
        assert_eq!(bus.cells(&["filtered"], &sql).await, here, "{second}");
        let (_, text, _) = bus.plan(&query(), &["filtered"], &sql).await;
        let whole = text.contains("offsets=[0:[0,100) 1:[0,100) 2:[0,100)]");
        assert_eq!(whole, second == 0, "{second}: {text}");
    }

    let first =
        "SELECT min(_timestamp) AS first, max(_timestamp) AS last FROM appended WHERE _offset BETWEEN 10 AND 19";
    let times = bus.cells(&["appended"], first).await.remove(0);
    let sql = format!(
        "SELECT _offset FROM appended WHERE _timestamp >= TIMESTAMP '{}' AND _timestamp <= TIMESTAMP '{}' ORDER BY 1",
        times[0], times[1]
    );
    let (_, text, _) = bus.plan(&query(), &["appended"], &sql).await;
    assert!(text.contains("offsets=[0:[10,20)]"), "brokers' times bound above as well: {text}");
    let offsets: Vec<_> = (10..20).map(|offset| offset.to_string()).collect();
    assert_eq!(bus.lines(&["appended"], &sql).await, offsets);
    let kinds = bus.lines(&["appended"], "SELECT DISTINCT _timestamp_type FROM appended").await;
    assert_eq!(kinds, ["LogAppendTime"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_reads_what_was_there_when_it_was_planned() {
    let script = r"
topic('moving', 3)
p = producer()
for n in range(3000):
    p.produce('moving', value='1', partition=n % 3)
p.flush()
";
    let Some(bus) = Bus::of("pinned", script, "") else { return };
    // Pairs of +1 and −1 in two partitions, each pair one transaction: the sum is always the same.
    let writer = r"
p = producer(transactional_id='mover')
p.init_transactions()
print('begun', flush=True)
import select
n = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    p.begin_transaction()
    p.produce('moving', value='1', partition=n % 3)
    p.produce('moving', value='-1', partition=(n + 1) % 3)
    p.commit_transaction()
    n += 1
print(n, flush=True)
";
    let mut child = bus.server.python_child(writer);
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "begun");
    let sum = "SELECT count(*) AS n, sum(CAST(CAST(_value AS VARCHAR) AS BIGINT)) AS s FROM moving";
    let mut counts = BTreeSet::new();
    for round in 0..20 {
        let query = query();
        let session = bus.session(&query, 4, &["moving"]).await;
        let first = cells(&collect(&session, sum).await.unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
        let again = cells(&collect(&session, sum).await.unwrap());
        assert_eq!(first, again, "round {round}: one query, one range");
        counts.insert(first[0][0].parse::<i64>().unwrap());
    }
    drop(child.stdin.take());
    let ended = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
    assert!(ended.success());
    assert!(counts.len() > 3, "rows came while it was read: {counts:?}");
    // Planned before, read after.
    let query = query();
    let (plan, _, session) = bus.plan(&query, &["moving"], "SELECT _partition, _offset FROM moving").await;
    bus.server
        .python("p = producer()\nfor n in range(300): p.produce('moving', value='5', partition=n % 3)\np.flush()");
    let rows = places(&run(&plan, &session).await.unwrap()).len();
    let later = bus.cells(&["moving"], "SELECT count(*) FROM moving").await;
    assert_eq!(later, [[(rows + 300).to_string()]]);
}

#[tokio::test]
async fn the_same_cut_is_read_again_while_it_is_there() {
    let fill = "for n in range(50): p.produce('cut', value=str(n), partition=n % 2)\np.flush()";
    let script = format!("topic('cut', 2)\np = producer()\n{fill}");
    let Some(bus) = Bus::of("cut", &script, "") else { return };
    // The front door names a table by its catalog and schema.
    let first = query();
    let count = "SELECT count(*) FROM cut";
    assert_eq!(cells(&collect(&bus.session(&first, 2, &["cut"]).await, count).await.unwrap()), [["50"]]);
    let cut = first.cut();
    let noted = cut.get("bus.default.cut").expect("the topic is in the cut");
    assert!(noted.at.contains("read_committed, 0:[0,25) 1:[0,25)"), "{noted}");
    bus.server.python(&format!("p = producer()\n{fill}"));
    let cut = Arc::new(cut);
    let replay = || QueryContext::replaying(QueryId::generate(), Principal::anonymous(), Some(Arc::clone(&cut)));
    let again = replay();
    assert_eq!(cells(&collect(&bus.session(&again, 2, &["cut"]).await, count).await.unwrap()), [["50"]]);
    assert_eq!(again.cut(), *cut);
    bus.server.python("done(admin.delete_records([TopicPartition('cut', 1, 7)]))");
    let late = replay();
    let error = collect(&bus.session(&late, 2, &["cut"]).await, count).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SnapshotNotFound, "{error}");
    assert!(error.message().contains("bus.default.cut") && error.message().contains("partition 1"), "{error}");
}

#[tokio::test]
async fn a_range_that_is_cut_is_an_error_and_never_fewer_rows() {
    let script = r"
topic('retained')
p = producer(batch_num_messages=10)
for n in range(1000):
    p.produce('retained', value=str(n))
p.flush()
";
    let Some(bus) = Bus::of("retention", script, "") else { return };
    let early = query();
    let (plan, _, session) = bus.plan(&early, &["retained"], "SELECT _partition, _offset FROM retained").await;
    bus.server.python("done(admin.delete_records([TopicPartition('retained', 0, 333)]))");
    let error = run(&plan, &session).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SourceError, "{error}");
    assert!(error.is_retryable() && error.message().contains("offsets that the query pinned are gone"), "{error}");
    assert!(error.message().contains("retained"), "{error}");
    assert_eq!(bus.lines(&["retained"], "SELECT count(*), min(_offset) FROM retained").await, ["667 333"]);
    let (_, text, _) = bus.plan(&query(), &["retained"], "SELECT _offset FROM retained WHERE _offset < 400").await;
    assert!(text.contains("offsets=[0:[333,400)]"), "{text}");
    // All of it gone: an empty table, and no error.
    bus.server.python("done(admin.delete_records([TopicPartition('retained', 0, 1000)]))");
    assert_eq!(bus.lines(&["retained"], "SELECT count(*), min(_offset) FROM retained").await, ["0 "]);
}

/// Compaction leaves gaps, also at the end of a range, and tombstones for a while.
#[tokio::test]
async fn a_compacted_topic_is_read_as_a_consumer_reads_it() {
    let script = r"
topic('compacted', cleanup_policy='compact', segment_ms=100, min_cleanable_dirty_ratio='0.01', min_compaction_lag_ms=0,
      delete_retention_ms=600000)
p = producer()
for n in range(3000):
    p.produce('compacted', key=str(n % 50), value=str(n))
    if n % 100 == 0:
        p.flush()
p.produce('compacted', key='7', value=None)
p.flush()
def read():
    c = Consumer({'bootstrap.servers': B, 'group.id': 'compaction', 'enable.partition.eof': True})
    c.assign([TopicPartition('compacted', 0, 0)])
    rows = []
    while True:
        m = c.poll(10)
        if m is None or m.error():
            break
        rows.append((m.offset(), m.key().decode(), None if m.value() is None else m.value().decode()))
    c.close()
    return rows
for attempt in range(120):
    # A segment is closed when something comes after it.
    time.sleep(0.25)
    p.produce('compacted', key='tick', value=str(attempt))
    p.flush()
    if len(read()) < 500:
        break
before = read()
time.sleep(0.5)
for row in read():
    print(*row)
";
    let Some(server) = townlake_tests::kafka::Kafka::shared("compaction") else { return };
    let consumed = server.python(script);
    let connections = super::connections(&server.broker(), "");
    let bus = Bus { server, connections };
    let sql = "SELECT _offset, CAST(_key AS VARCHAR) AS k, coalesce(CAST(_value AS VARCHAR), 'None') AS v FROM compacted ORDER BY 1";
    let mut expected: Vec<_> = consumed.lines().map(str::to_string).collect();
    let mut found = bus.lines(&["compacted"], sql).await;
    let last = expected.last().and_then(|row| row.split(' ').next()).unwrap().parse::<i64>().unwrap();
    assert!(found.len() < 500 && last > 3000, "it was compacted: {} rows up to {last}", found.len());
    assert!(found.iter().any(|row| row.ends_with("7 None")), "tombstones are rows");
    // The cleaner may take ticks away between the two readings.
    expected.retain(|row| !row.contains("tick"));
    found.retain(|row| !row.contains("tick"));
    assert_eq!(found, expected);
    // A range that compaction has emptied ends, and ends at once.
    let begun = std::time::Instant::now();
    let none = bus.lines(&["compacted"], "SELECT count(*) FROM compacted WHERE _offset BETWEEN 10 AND 500").await;
    assert_eq!(none, ["0"]);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_topic_that_is_deleted_or_made_anew_is_gone() {
    let make = |name: &str| {
        format!("topic('{name}')\np = producer()\nfor n in range(10): p.produce('{name}', value='x')\np.flush()\n")
    };
    let script = [make("dropped"), make("replaced")].concat();
    let Some(bus) = Bus::of("deleted", &script, "request_timeout = \"4s\"") else { return };
    let early = query();
    let dropped = bus.plan(&early, &["dropped"], "SELECT _partition, _offset FROM dropped").await;
    let replaced = bus.plan(&early, &["replaced"], "SELECT _partition, _offset FROM replaced").await;
    bus.server.python("done(admin.delete_topics(['dropped', 'replaced']))\ntime.sleep(1)");
    bus.server.python(&make("replaced"));
    for (plan, _, session) in [dropped, replaced] {
        let error = run(&plan, &session).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::TableNotFound, "{error}");
    }
    assert!(bus.source().table(&query(), "default", "dropped").await.unwrap().is_none());
    assert_eq!(bus.lines(&["replaced"], "SELECT count(*) FROM replaced").await, ["10"]);
}
