//! Executors that are killed, stopped, drained, all gone.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use futures::StreamExt;
use nix::sys::signal::Signal;
use townlake_common::ErrorCode;
use townlake_tests::bed::{BedSpec, Rows, TestBed, poll};

use super::{ANSWER, COUNTED_PAIRS, LONG_STAGE, MANY_ROWS, PAIRS};

/// What a cluster may log when an executor goes away under it.
pub(crate) const LOSSES: &[&str] = &[
    "ballista_scheduler::state::execution_graph: Reset ",
    "ballista_scheduler::state::execution_graph: Roll back running job/stage",
    "ballista_scheduler::state::execution_graph: Roll back resolved job/stage",
    "ballista_scheduler::state::execution_graph: Ignore TaskStatus update",
    "ballista_scheduler::state::execution_graph: Need to re",
    "is not in running when updating the status of tasks",
    "ballista_scheduler::state::execution_stage: Ignore TaskStatus update",
    "ballista_scheduler::state::executor_manager: Fail to cancel tasks",
    "ballista_scheduler::state::executor_manager: Failed to get client for executor",
    "ballista_scheduler::state::executor_manager: Failed to get client for Executor",
    "ballista_scheduler::state::executor_manager: Failed to call remove_job_data",
    "ballista_scheduler::state::executor_manager: There are no alive executors",
    "ballista_scheduler::state: Failed to launch new task",
    "ballista_core::client: grpc client failed to fetch partition",
    "the query runs again: an executor was lost",
    "an executor did not confirm that it stops the tasks",
];

/// Kills an executor that runs a task of the long stage, when `done` tasks of it have ended already, which a retry must not
/// count twice. The query's answer, when it is proven that the task was running and that its retry ran elsewhere.
async fn kill_one(bed: &mut TestBed, sql: &str, done: usize) -> Rows {
    kill_one_in(bed, sql, LONG_STAGE, done).await
}

async fn kill_one_in(bed: &mut TestBed, sql: &str, long_stage: u32, done: usize) -> Rows {
    let asked = bed.ask(sql).await;
    let id = asked.id.clone();
    let task = poll("a task runs and others are done", ANSWER, async || {
        let mut tasks = bed.tasks(&id).await;
        tasks.retain(|task| task.stage == long_stage);
        let ended = tasks.iter().filter(|task| task.state == "FINISHED").count();
        tasks.into_iter().rfind(|task| task.state == "RUNNING").filter(|_| ended >= done)
    })
    .await;
    let victim = bed.process_of(&task.executor).await;
    bed.cluster.executors[victim].kill();
    let killed = Instant::now();
    poll("the dead executor leaves the list", Duration::from_secs(10), async || {
        (!bed.executors().await.contains(&task.executor)).then_some(())
    })
    .await;
    eprintln!("  noticed after {:.1} s", killed.elapsed().as_secs_f64());
    let rows = asked.answer(ANSWER).await.expect("the query survives");
    eprintln!("  answered {:.1} s after the kill", killed.elapsed().as_secs_f64());
    let tasks = bed.tasks(&id).await;
    let of_long_stage: Vec<_> = tasks.iter().filter(|task| task.stage == long_stage).collect();
    let lost = of_long_stage.iter().any(|row| row.executor == task.executor && row.state == "LOST");
    assert!(lost, "no task was running on the executor when it was killed: {tasks:#?}");
    let again =
        of_long_stage.iter().any(|row| row.executor != task.executor && row.attempt > 1 && row.state == "FINISHED");
    assert!(again, "no task ran again elsewhere: {tasks:#?}");
    assert!(tasks.iter().all(|task| task.state != "RUNNING"), "{tasks:#?}");
    rows
}

fn sorted(mut rows: Rows) -> Rows {
    rows.sort_unstable();
    rows
}

/// Sums as `COUNTED_PAIRS` makes them, of the rows of `PAIRS`.
fn counted(pairs: &Rows) -> Rows {
    let sum = |column: usize| pairs.iter().map(|row| row[column].parse::<i64>().expect("a number")).sum::<i64>();
    vec![vec![pairs.len().to_string(), sum(0).to_string(), sum(2).to_string()]]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_executor_costs_no_row_and_doubles_none() {
    let Some(mut bed) = TestBed::start("a_killed_executor", BedSpec::default()).await else { return };
    let expected = sorted(bed.rows(PAIRS).await);
    assert!(expected.len() > 50_000, "{}", expected.len());
    let rows = sorted(kill_one(&mut bed, PAIRS, 0).await);
    assert_eq!(rows.len(), expected.len());
    assert!(rows == expected, "the rows are others");

    bed.add_executor().await;
    assert_eq!(kill_one(&mut bed, COUNTED_PAIRS, 0).await, counted(&expected));

    // The same when the survivors have done something already.
    bed.add_executor().await;
    assert_eq!(kill_one(&mut bed, COUNTED_PAIRS, 2).await, counted(&expected));

    bed.add_executor().await;
    kill_one(&mut bed, &format!("CREATE TABLE lake.chaos.pairs AS {PAIRS}"), 2).await;
    let written = sorted(bed.rows("SELECT ao, al, bo, bl FROM lake.chaos.pairs").await);
    assert_eq!(written.len(), expected.len());
    assert!(written == expected, "the written rows are others");
    bed.finish(LOSSES);
}

/// The pairs of `COUNTED_PAIRS` with their suppliers in Postgres, each of which has one.
const FEDERATED: &str = "SELECT count(*), sum(a.l_orderkey), sum(b.l_orderkey), sum(s.weight) \
    FROM lake.chaos.items a JOIN lake.chaos.items b ON a.l_suppkey = b.l_suppkey \
    JOIN crm.public.suppliers s ON s.id = a.l_suppkey \
    WHERE sin(a.l_extendedprice + b.l_tax) > 0.999999";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_federated_query_survives_a_kill() {
    let spec = BedSpec { postgres: true, ..BedSpec::default() };
    let Some(mut bed) = TestBed::start("federated_kill", spec).await else { return };
    let suppliers = bed.rows("SELECT max(l_suppkey) FROM lake.chaos.items").await[0][0].clone();
    let admin = bed.postgres.as_ref().expect("a Postgres").connect("postgres").await.expect("connect to Postgres");
    let table = "CREATE TABLE suppliers (id bigint PRIMARY KEY, weight bigint NOT NULL)";
    let rows = format!("INSERT INTO suppliers SELECT id, id * 3 FROM generate_series(1, {suppliers}) AS t(id)");
    admin.batch_execute(&format!("{table}; {rows}; ANALYZE suppliers")).await.expect("make the suppliers");

    let plan = bed.rows(&format!("EXPLAIN {FEDERATED}")).await;
    let looks_at_pairs = |row: &&Vec<String>| row[0].starts_with("stage ") && row[1].contains("sin(");
    let stage = plan.iter().find(looks_at_pairs).unwrap_or_else(|| panic!("{plan:#?}"))[0].clone();
    let stage = stage.trim_start_matches("stage ").parse().expect("the number of a stage");
    let expected = bed.rows(FEDERATED).await;
    assert_eq!(expected[0][..3], bed.rows(COUNTED_PAIRS).await[0], "every pair has one supplier");
    assert_eq!(kill_one_in(&mut bed, FEDERATED, stage, 0).await, expected);
    bed.add_executor().await;
    assert_eq!(kill_one_in(&mut bed, FEDERATED, stage, 2).await, expected);
    bed.finish(LOSSES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_killed_while_its_result_is_read_doubles_no_row() {
    let Some(mut bed) = TestBed::start("killed_while_read", BedSpec::default()).await else { return };
    let all: usize = bed.rows(&format!("SELECT count(*) FROM ({MANY_ROWS})")).await[0][0].parse().expect("a count");
    let query = bed.connection.query(MANY_ROWS).await.expect("plan");
    let mut rows = bed.connection.rows(&query).await.expect("the first rows");
    let id = query.id.clone().expect("an id");
    let tasks = bed.tasks(&id).await;
    let last_stage = tasks.iter().map(|task| task.stage).max().expect("stages");
    let holder = tasks.iter().rfind(|task| task.stage == last_stage && task.rows > 0).expect("a task with rows");
    let victim = bed.process_of(&holder.executor).await;
    bed.cluster.executors[victim].kill();

    let (mut seen, mut error) = (HashSet::new(), None);
    while let Some(batch) = tokio::time::timeout(ANSWER, rows.batches.next()).await.expect("the stream ends") {
        match batch {
            Ok(batch) => {
                let orders = batch.column(0).as_primitive::<Int64Type>();
                let (lines, others) =
                    (batch.column(1).as_primitive::<Int32Type>(), batch.column(2).as_primitive::<Int32Type>());
                for row in 0..batch.num_rows() {
                    let key = (orders.value(row), lines.value(row), others.value(row));
                    assert!(seen.insert(key), "{key:?} came twice");
                }
            }
            Err(failure) => error = Some(failure),
        }
    }
    match error {
        Some(error) => assert_eq!(error.code(), ErrorCode::ExecutorLost, "{error:?}"),
        None => assert_eq!(seen.len(), all, "rows are missing and there is no error"),
    }
    eprintln!("  {} of {all} rows were read", seen.len());
    assert_eq!(bed.rows("SELECT sum(l_orderkey) FROM lake.chaos.items").await.len(), 1, "the next query runs");
    bed.finish(&[LOSSES, &["a part of a result could not be read"]].concat());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_executors_queries_say_so_and_with_new_ones_they_run() {
    let Some(mut bed) = TestBed::start("without_executors", BedSpec::default()).await else { return };
    let expected = bed.rows("SELECT count(*), sum(l_orderkey) FROM lake.chaos.items").await;
    let asked = bed.ask(COUNTED_PAIRS).await;
    bed.running_task(&asked.id, LONG_STAGE).await;
    bed.cluster.executors.iter_mut().for_each(|executor| executor.kill());
    let killed = Instant::now();
    let error = asked.answer(Duration::from_secs(30)).await.expect_err("nobody is left to answer");
    eprintln!("  {} after {:.1} s", error.code().as_str(), killed.elapsed().as_secs_f64());
    assert!(matches!(error.code(), ErrorCode::NoExecutors | ErrorCode::ExecutorLost), "{error:?}");
    assert!(error.is_retryable() && error.hint().is_some(), "{error:?}");

    poll("the list is empty", Duration::from_secs(10), async || bed.executors().await.is_empty().then_some(())).await;
    let start = Instant::now();
    let error = bed.try_rows("SELECT sum(l_orderkey) FROM lake.chaos.items").await.expect_err("nobody is there");
    let waited = start.elapsed();
    assert_eq!(error.code(), ErrorCode::NoExecutors, "{error:?}");
    assert!((2.0..4.0).contains(&waited.as_secs_f64()), "waited {waited:?} where executor_wait is 2 s");

    for _ in 0..2 {
        bed.add_executor().await;
    }
    assert_eq!(bed.rows("SELECT count(*), sum(l_orderkey) FROM lake.chaos.items").await, expected);
    bed.finish(LOSSES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_executor_leaves_and_its_query_ends_well() {
    let Some(mut bed) = TestBed::start("draining", BedSpec::default()).await else { return };
    let expected = bed.rows(COUNTED_PAIRS).await;
    let asked = bed.ask(COUNTED_PAIRS).await;
    let id = asked.id.clone();
    let task = bed.running_task(&id, LONG_STAGE).await;
    let leaving = bed.process_of(&task.executor).await;
    bed.cluster.executors[leaving].signal(Signal::SIGTERM);
    let start = Instant::now();
    let sql = format!("SELECT state FROM system.runtime.nodes WHERE node_id = '{}'", task.executor);
    poll("the executor drains", Duration::from_secs(5), async || {
        let state = bed.rows(&sql).await;
        (state.is_empty() || state[0][0] == "DRAINING").then_some(())
    })
    .await;
    let process = &mut bed.cluster.executors[leaving];
    let status = poll("the executor ends", Duration::from_secs(20), async || process.ended()).await;
    eprintln!("  left after {:.1} s", start.elapsed().as_secs_f64());
    assert!(status.success(), "{status}");
    assert_eq!(asked.answer(ANSWER).await.expect("the query ends well"), expected);
    let tasks = bed.tasks(&id).await;
    assert!(tasks.iter().all(|task| task.state != "FAILED" && task.state != "RUNNING"), "{tasks:#?}");
    poll("it leaves the list", Duration::from_secs(5), async || (bed.executors().await.len() == 2).then_some(())).await;
    assert_eq!(bed.rows("SELECT sum(l_orderkey) FROM lake.chaos.items").await.len(), 1);
    bed.finish(LOSSES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_executor_that_wakes_again_doubles_no_row() {
    let Some(bed) = TestBed::start("stopped", BedSpec::default()).await else { return };
    let expected = sorted(bed.rows(PAIRS).await);
    let asked = bed.ask(PAIRS).await;
    let task = bed.running_task(&asked.id, LONG_STAGE).await;
    let sleeper = bed.process_of(&task.executor).await;
    bed.cluster.executors[sleeper].signal(Signal::SIGSTOP);
    poll("it leaves the list", Duration::from_secs(10), async || {
        (!bed.executors().await.contains(&task.executor)).then_some(())
    })
    .await;
    bed.cluster.executors[sleeper].signal(Signal::SIGCONT);
    let rows = sorted(asked.answer(ANSWER).await.expect("the query survives"));
    assert_eq!(rows.len(), expected.len());
    assert!(rows == expected, "the rows are others");
    poll("it is a member again", Duration::from_secs(15), async || {
        bed.executors().await.contains(&task.executor).then_some(())
    })
    .await;
    let rows = sorted(bed.rows(PAIRS).await);
    assert!(rows == expected, "the rows of the next query are others");
    bed.until_no_output(Duration::from_secs(10)).await;
    bed.finish(&[LOSSES, &["etcd does not answer", "the lease ran out"]].concat());
}
