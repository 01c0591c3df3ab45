//! A coordinator that is killed under its queries.

use std::time::{Duration, Instant};

use townlake_cli::connection::Connection;
use townlake_tests::bed::{BedSpec, TestBed};

use super::{LONG_STAGE, NO_PAIRS};

/// Its lease runs out within 6 s; then the executors are patient for as long as a lease lives.
const ENDED: Duration = Duration::from_secs(14);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_coordinator_leaves_nothing_running_and_nothing_lying() {
    let Some(mut bed) = TestBed::start("killed_coordinator", BedSpec::default()).await else { return };
    let sql = "SELECT count(*), sum(l_orderkey) FROM lake.chaos.items";
    let expected = bed.rows(sql).await;
    // Hours of work.
    let asked = bed.ask(NO_PAIRS).await;
    bed.running_task(&asked.id, LONG_STAGE).await;
    bed.cluster.coordinator.kill();
    let killed = Instant::now();
    asked.answer(Duration::from_secs(5)).await.expect_err("the client is told that nobody answers");
    let idle = bed.until_idle(ENDED).await;
    eprintln!("  executors idle after {:.1} s", idle.saturating_duration_since(killed).as_secs_f64());
    bed.until_no_output(Duration::from_secs(2)).await;

    bed.cluster.restart_coordinator().await.expect("start it again");
    bed.connection = Connection::open(&bed.cluster.connect_args()).await.expect("connect");
    bed.run("SET SESSION execution = 'cluster'").await;
    assert_eq!(bed.rows(sql).await, expected);
    bed.finish(&[]);
}
