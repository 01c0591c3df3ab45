//! An etcd that is away.

use std::time::{Duration, Instant};

use townlake_tests::bed::{BedSpec, TestBed, poll};

use super::{ANSWER, COUNTED_PAIRS, LONG_STAGE};

/// Longer than a lease lives.
const LEASE: Duration = Duration::from_secs(7);

/// The member list stays what it was, asked again and again for longer than a lease.
async fn nobody_leaves(bed: &TestBed, members: &[String]) {
    let start = Instant::now();
    while start.elapsed() < LEASE {
        assert_eq!(bed.executors().await, members);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_go_on_without_etcd_and_its_return_loses_nobody() {
    let Some(mut bed) = TestBed::start("without_etcd", BedSpec::default()).await else { return };
    let members = bed.executors().await;
    assert_eq!(members.len(), 3);
    let expected = bed.rows(COUNTED_PAIRS).await;

    let asked = bed.ask(COUNTED_PAIRS).await;
    bed.running_task(&asked.id, LONG_STAGE).await;
    bed.etcd.process.kill();
    nobody_leaves(&bed, &members).await;
    assert_eq!(asked.answer(ANSWER).await.expect("the query goes on"), expected);
    assert_eq!(bed.rows(COUNTED_PAIRS).await, expected, "a new query, while etcd is away");

    bed.etcd.restart().await.expect("etcd starts again");
    nobody_leaves(&bed, &members).await;
    let mut client = etcd_client::Client::connect([bed.etcd.endpoint()], None).await.expect("connect to etcd");
    poll("every executor is in etcd again", Duration::from_secs(10), async || {
        let options = etcd_client::GetOptions::new().with_prefix().with_count_only();
        let found = client.get("townlake/v1/executors/", Some(options)).await.ok()?;
        (found.count() == 3).then_some(())
    })
    .await;
    assert_eq!(bed.rows(COUNTED_PAIRS).await, expected, "a new query, after its return");
    bed.finish(&["etcd"]);
}
