//! How the processes of a cluster find each other.

use std::time::Duration;

use townlake_cli::connection::Connection;
use townlake_tests::bed::{BedSpec, TestBed, poll};

/// Records of the cluster's nodes in etcd.
async fn records(client: &mut etcd_client::Client, role: &str) -> i64 {
    let options = etcd_client::GetOptions::new().with_prefix().with_count_only();
    let found = client.get(format!("townlake/v1/{role}/"), Some(options)).await;
    found.expect("ask etcd").count()
}

/// Incarnation and address of the coordinator.
async fn coordinator(bed: &TestBed) -> Vec<String> {
    let sql = "SELECT node_id, address FROM system.runtime.nodes WHERE role = 'coordinator'";
    bed.rows(sql).await.into_iter().next().expect("the coordinator lists itself")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn executors_find_a_coordinator_that_comes_later_on_a_random_port() {
    let spec = BedSpec { scale: 0.01, ..BedSpec::default() };
    let Some(mut bed) = TestBed::start("membership", spec).await else { return };
    let (executors, first) = (bed.executors().await, coordinator(&bed).await);
    let expected = bed.rows("SELECT count(*), sum(l_orderkey) FROM lake.chaos.items").await;
    assert_eq!(executors.len(), 3);

    // Now there are executors and no coordinator.
    bed.cluster.coordinator.kill();
    let mut client = etcd_client::Client::connect([bed.etcd.endpoint()], None).await.expect("connect to etcd");
    poll("no coordinator is listed", Duration::from_secs(10), async || {
        (records(&mut client, "coordinators").await == 0).then_some(())
    })
    .await;
    assert_eq!(records(&mut client, "executors").await, 3);

    bed.cluster.restart_coordinator().await.expect("a coordinator that comes later");
    bed.connection = Connection::open(&bed.cluster.connect_args()).await.expect("connect");
    bed.run("SET SESSION execution = 'cluster'").await;
    assert_eq!(bed.executors().await, executors, "the same executors");
    let second = coordinator(&bed).await;
    assert!(first[0] != second[0] && first[1] != second[1], "{first:?} {second:?}");
    assert_eq!(bed.rows("SELECT count(*), sum(l_orderkey) FROM lake.chaos.items").await, expected);

    for number in 1..=3 {
        let config = std::fs::read_to_string(bed.folder().join(format!("executor-{number}.toml"))).expect("read");
        assert!(!config.contains(&first[1]) && !config.contains("[server]"), "{config}");
    }
    bed.finish(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_comes_and_goes() {
    let spec = BedSpec { executors: 1, scale: 0.0, ..BedSpec::default() };
    let Some(mut bed) = TestBed::start("comes_and_goes", spec).await else { return };
    let first = bed.executors().await;
    bed.add_executor().await;
    let both = bed.executors().await;
    assert!(both.len() == 2 && both.contains(&first[0]));
    // One that is told to stop leaves at once, and does not wait for its lease to end.
    bed.cluster.executors[1].stop();
    poll("it left", Duration::from_secs(2), async || (bed.executors().await == first).then_some(())).await;
    // The same executor started again is another one.
    bed.add_executor().await;
    assert!(bed.executors().await.iter().all(|name| *name == first[0] || !both.contains(name)));
    bed.finish(&[]);
}
