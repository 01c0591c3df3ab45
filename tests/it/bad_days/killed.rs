//! An executor that is killed (kill -9) in mid-scan leaves nothing running in any source, and the query has all its rows. What the nodes
//! log of it, and of a source that refuses them, has no secret.

use std::time::{Duration, Instant};

use townlake_common::ErrorCode;
use townlake_tests::bed::{BedSpec, TestBed, poll};
use townlake_tests::line::Mode;
use townlake_tests::postgres::PASSWORD;

use super::scene::{ALL, BigQuery, InClickHouse, InKafka, InPostgres, Kind, Sources};
use crate::bigquery::mock_google::Step;
use crate::chaos::executors::LOSSES;

const ANSWER: Duration = Duration::from_secs(60);
/// After so long a newcomer uses its share of the connections.
const GROWN: Duration = Duration::from_secs(4);
/// A server looks each second whether its client is there.
const NOTICED: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_executor_killed_in_mid_scan_leaves_nothing_running_in_any_source() {
    let Some(sources) = Sources::start("killed_in_mid_scan").await else { return };
    let wrong = sources.postgres.url("postgres").replace(PASSWORD, "hunter2-wrong");
    let mut toml = sources.catalogs().replace("_timeout = \"2s\"", "_timeout = \"60s\"");
    toml.push_str(&format!("[catalogs.denied]\ntype = \"postgres\"\nurl = \"{wrong}\"\nreaders = [\"ann\"]\n"));
    let spec = BedSpec { executors: 3, scale: 0.0, toml, ..BedSpec::default() };
    let Some(mut bed) = TestBed::start("killed_in_mid_scan", spec).await else { return };
    for kind in ALL {
        let (sql, answer) = slow(&sources, kind);
        let asked = bed.ask(&sql).await;
        if kind == InKafka {
            sources.until_in_the_middle(kind).await;
        }
        sources.until_running(kind).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        // One that still waits: others may be done by now.
        let task = bed.running_task(&asked.id, 1).await;
        let victim = bed.process_of(&task.executor).await;
        let before = Seen::now(&sources, kind).await;
        bed.cluster.executors[victim].kill();
        let killed = Instant::now();
        poll("what the dead executor ran is gone", NOTICED, async || {
            let now = Seen::now(&sources, kind).await;
            now.has_lost_some_of(&before).then_some(())
        })
        .await;
        eprintln!("  {kind:?}: noticed after {:.2} s", killed.elapsed().as_secs_f64());
        sources.line(kind).set(Mode::Open);
        assert_eq!(asked.answer(ANSWER).await.expect("the query survives"), [answer], "{kind:?}");
        sources.until_gone(kind, "the query has ended").await;
        bed.add_executor().await;
        // A newcomer waits before it opens connections: the others must have closed some of theirs.
        tokio::time::sleep(GROWN).await;
    }
    let error = bed.try_rows("SELECT * FROM denied.public.big").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SourceDenied, "{error:?}");
    for node in bed.cluster.executors.iter().chain([&bed.cluster.coordinator]) {
        let log = std::fs::read_to_string(node.log()).unwrap();
        assert!(!log.contains("hunter2"), "{} logged a password", node.name());
    }
    bed.finish(LOSSES);
}

/// A query that takes some seconds in a source, and its answer.
fn slow(sources: &Sources, kind: Kind) -> (String, Vec<String>) {
    let (sql, answer) = match kind {
        InPostgres => {
            let sql = "SELECT count(*), sum(abs(id)) FROM pg.public.slow HAVING max(note) IS NOT NULL";
            (sql.to_string(), "1200 719400".to_string())
        }
        InClickHouse => {
            let sql = "SELECT count(*), sum(abs(CAST(id AS BIGINT))) FROM ch.big.slow HAVING max(s) IS NOT NULL";
            (sql.to_string(), format!("655360 {}", 655_360i64 * 655_359 / 2))
        }
        InKafka => {
            sources.stop_in_the_middle(kind, Mode::Silent);
            kind.read_all()
        }
        BigQuery => {
            let (sql, answer) = kind.read_all();
            let all = answer.split(' ').next().and_then(|rows| rows.parse().ok()).expect("its rows");
            let first = vec![Step::Below(80_000), Step::Hangs];
            sources.bigquery_answers([first].into_iter().chain((0..5).map(|_| vec![Step::Below(all)])));
            (sql, answer)
        }
    };
    (sql, answer.split(' ').map(str::to_string).collect())
}

/// What a source has of us at a moment.
struct Seen {
    /// By name where they have one: backends of Postgres, statements of ClickHouse.
    named: Vec<String>,
    /// Connections that have ended: the task that runs again elsewhere opens others at once.
    ended: usize,
    streams_left: usize,
}

impl Seen {
    async fn now(sources: &Sources, kind: Kind) -> Self {
        let running = match kind {
            InPostgres | InClickHouse => sources.running(kind).await,
            InKafka | BigQuery => Vec::new(),
        };
        let is_scan = |what: &String| what.contains("COPY") || kind == InClickHouse;
        let name = |what: String| what.split_whitespace().next().unwrap_or_default().to_string();
        Self {
            named: running.into_iter().filter(is_scan).map(name).collect(),
            ended: if kind == InKafka { sources.line(kind).ended() } else { 0 },
            streams_left: if kind == BigQuery { sources.bigquery.state().left } else { 0 },
        }
    }

    /// The victim's: every scan that was running where there was one, a connection, a stream.
    fn has_lost_some_of(&self, before: &Self) -> bool {
        let named = !before.named.is_empty() && !before.named.iter().any(|name| self.named.contains(name));
        named || self.ended > before.ended || self.streams_left > before.streams_left
    }
}
