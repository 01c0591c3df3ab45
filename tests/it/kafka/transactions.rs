//! What is seen of transactions.

use super::{Bus, connections};

const LOG: &str = r"
topic('tx', 2)
def transaction(producer, values, end):
    producer.begin_transaction()
    for value in values:
        producer.produce('tx', value=value, partition=0)
        producer.produce('tx', value=value, partition=1)
    producer.flush()
    if end == 'commit':
        producer.commit_transaction()
    elif end == 'abort':
        producer.abort_transaction()
a, b = producer(transactional_id='a'), producer(transactional_id='b')
a.init_transactions()
b.init_transactions()
plain = producer()
transaction(a, ['a%d' % n for n in range(200)], 'commit')
transaction(a, ['x%d' % n for n in range(300)], 'abort')
# Two at once: one ends well, one does not.
b.begin_transaction()
b.produce('tx', value='b1', partition=0)
b.flush()
transaction(a, ['y1', 'y2'], 'abort')
plain.produce('tx', value='plain', partition=0)
plain.flush()
b.produce('tx', value='b2', partition=0)
b.flush()
b.commit_transaction()
for n in range(20):
    transaction(a, ['s%d' % n], 'abort' if n % 2 else 'commit')
def read(level):
    c = Consumer({'bootstrap.servers': B, 'group.id': level, 'enable.partition.eof': True, 'isolation.level': level})
    c.assign([TopicPartition('tx', 0, 0), TopicPartition('tx', 1, 0)])
    ended, rows = set(), []
    while len(ended) < 2:
        m = c.poll(10)
        assert m is not None
        if m.error():
            ended.add(m.partition())
        else:
            rows.append((m.partition(), m.offset(), m.value().decode()))
    c.close()
    for row in sorted(rows):
        print(level, *row)
";

const ROWS: &str = "SELECT _partition, _offset, CAST(_value AS VARCHAR) FROM tx ORDER BY 1, 2";

#[tokio::test]
async fn what_is_aborted_or_open_is_not_read_as_a_consumer_does_not() {
    let Some(server) = townlake_tests::kafka::Kafka::shared("transactions") else { return };
    // A transaction stays open, with records of others behind it.
    let script = format!(
        "{LOG}\nread('read_committed')\nread('read_uncommitted')\n\
         a.begin_transaction()\na.produce('tx', value='open', partition=0)\na.flush()\n\
         plain.produce('tx', value='behind', partition=0)\nplain.flush()\n\
         print('ready', flush=True)\nsys.stdin.read()\na.abort_transaction()\n"
    );
    let mut child = server.python_child(&script);
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut consumed: Vec<String> = Vec::new();
    while consumed.last().is_none_or(|line| line != "ready") {
        let mut line = String::new();
        let read = std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        if read == 0 {
            let mut told = String::new();
            let _ = std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut told);
            panic!("the script ended early: {told}");
        }
        consumed.push(line.trim().to_string());
    }
    let of = |level: &str| -> Vec<String> {
        consumed.iter().filter_map(|line| line.strip_prefix(level)).map(|line| line.trim().to_string()).collect()
    };
    let committed = Bus { connections: connections(&server.broker(), ""), server: std::sync::Arc::clone(&server) };
    let keys = "isolation = \"read_uncommitted\"";
    let everything = Bus { connections: connections(&server.broker(), keys), server: std::sync::Arc::clone(&server) };

    let seen = committed.lines(&["tx"], ROWS).await;
    assert_eq!(seen, of("read_committed "), "neither the open transaction nor what is behind it");
    assert!(seen.iter().all(|row| !row.contains('x') && !row.contains('y')), "{seen:?}");
    assert!(seen.len() > 400, "{}", seen.len());
    let mut expected = of("read_uncommitted ");
    let all = everything.lines(&["tx"], ROWS).await;
    assert_eq!(all.iter().filter(|row| row.ends_with("open") || row.ends_with("behind")).count(), 2);
    expected.retain(|row| !row.is_empty());
    let without: Vec<_> = all.into_iter().filter(|row| !row.ends_with("open") && !row.ends_with("behind")).collect();
    assert_eq!(without, expected, "markers are never rows");

    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let seen = committed.lines(&["tx"], ROWS).await;
    assert!(
        seen.iter().any(|row| row.ends_with("behind")) && !seen.iter().any(|row| row.ends_with("open")),
        "{seen:?}"
    );
    // Also where a split begins inside of what was aborted.
    let sql = "SELECT count(*) FROM tx WHERE _partition = 1 AND _offset BETWEEN 350 AND 400";
    assert_eq!(committed.lines(&["tx"], sql).await, ["0"]);
}
