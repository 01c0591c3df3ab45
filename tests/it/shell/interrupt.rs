//! Ctrl-C: it cancels on the server, and it never waits for a server that is gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;
use tokio::sync::watch;
use townlake_tests::bed::poll;

use super::{Host, Ran};

/// Runs for hours, and holds little.
pub const SLOW: &str = "SELECT count(*) FROM generate_series(1, 1000000) AS a(x), generate_series(1, 1000000) AS b(y) \
    WHERE x * y % 999983 = 7";

/// The states of the slow queries, as the server has them.
async fn states(host: &Host) -> Vec<String> {
    let sql = "SELECT state FROM system.runtime.queries WHERE sql LIKE '%999983%' AND sql NOT LIKE '%runtime%'";
    let (_, batches) = host.connect().await.collect(sql).await.expect("ask for the queries");
    let states = |batch: &arrow::array::RecordBatch| -> Vec<String> {
        batch.column(0).as_string::<i32>().iter().flatten().map(str::to_string).collect()
    };
    batches.iter().flat_map(states).collect()
}

/// Waits until one of the slow queries is RUNNING.
pub async fn until_one_runs(host: &Host) {
    poll("the slow query runs", Duration::from_secs(30), async || {
        states(host).await.iter().any(|state| state == "RUNNING").then_some(())
    })
    .await;
}

/// Waits until all slow queries are CANCELLED.
pub async fn until_all_are_cancelled(host: &Host) {
    poll("the slow query is cancelled", Duration::from_secs(30), async || {
        let states = states(host).await;
        (!states.is_empty() && states.iter().all(|state| state == "CANCELLED")).then_some(())
    })
    .await;
}

fn interrupt(child: &Child) {
    let id = i32::try_from(child.id().expect("it runs")).expect("a process id");
    kill(Pid::from_raw(id), Signal::SIGINT).expect("send SIGINT");
}

async fn end_of(child: Child) -> Ran {
    let ended = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await;
    Ran::of(ended.expect("the shell ends").expect("its output"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_cancels_the_query_on_the_server() {
    let host = Host::start().await;
    let script = format!("SELECT 1 AS a; {SLOW}; SELECT 2 AS a");
    let child = host.sql(&["--format", "csv", "-e", &script]).spawn().expect("start the shell");
    until_one_runs(&host).await;
    tokio::time::sleep(Duration::from_millis(700)).await; // two looks at the progress, if there were a terminal
    interrupt(&child);
    let ran = end_of(child).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), "a\n1\n"), "{ran:?}");
    assert_eq!(ran.stderr, "error: CANCELLED: the query was cancelled\n", "and no progress line: this is no terminal");
    until_all_are_cancelled(&host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_ends_a_statement_whose_rows_are_printed() {
    let host = Host::start().await;
    let rows = 4_000_000;
    let sql = format!("SELECT value, value * 2 AS twice FROM generate_series(1, {rows})");
    let mut child = host.sql(&["--format", "csv", "-e", &sql]).spawn().expect("start the shell");
    let mut out = child.stdout.take().expect("its output");
    // The shell prints faster than this reads, so that rows wait for it all the time.
    let mut seen = vec![0; 1 << 20];
    out.read_exact(&mut seen).await.expect("the first rows");
    interrupt(&child);
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), out.read_to_end(&mut rest)).await;
    read.expect("the shell ends").expect("its output");
    let ran = end_of(child).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.starts_with("error: CANCELLED: "), "{ran:?}");
    let lines = seen.iter().chain(&rest).filter(|byte| **byte == b'\n').count();
    assert!(lines < rows / 2, "{lines} of {rows} rows were printed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_ends_a_statement_that_is_still_planned() {
    let host = Host::start().await;
    let proxy = Proxy::start(host.town.url().trim_start_matches("http://")).await;
    // After the first statement SIGINT has a listener for good: where nobody listens to that, it is lost.
    let script = format!("SELECT 1 AS a; SELECT 2 AS {MUTE}");
    let mut shell = host.sql(&["--format", "csv", "-e", &script, "--url", &proxy.address]);
    let child = shell.spawn().expect("start the shell");
    let mut is_mute = proxy.is_mute.subscribe();
    let held = tokio::time::timeout(Duration::from_secs(30), is_mute.wait_for(|mute| *mute)).await;
    assert!(held.is_ok_and(|held| held.is_ok()), "the second statement comes by");
    interrupt(&child);
    let ran = end_of(child).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), "a\n1\n"), "{ran:?}");
    assert!(ran.stderr.starts_with("error: CANCELLED: "), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_does_not_wait_for_a_server_that_is_gone() {
    let host = Host::start().await;
    let proxy = Proxy::start(host.town.url().trim_start_matches("http://")).await;
    for second in [false, true] {
        let mut shell = host.sql(&["-e", SLOW, "--url", &proxy.address]);
        let child = shell.spawn().expect("start the shell");
        until_one_runs(&host).await;
        proxy.is_mute.send_replace(true);
        let started = Instant::now();
        interrupt(&child);
        if second {
            tokio::time::sleep(Duration::from_millis(500)).await;
            interrupt(&child);
        }
        let ran = end_of(child).await;
        if second {
            assert_eq!(ran.code, Some(130), "{ran:?}");
            assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        } else {
            assert_eq!(ran.code, Some(1), "{ran:?}");
            assert!(ran.stderr.contains("did not say") && ran.stderr.contains("kill_query"), "{ran:?}");
            assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
        }
        // the proxy closes what it held back; the server sees the client go and cancels
        proxy.is_mute.send_replace(false);
        until_all_are_cancelled(&host).await;
    }
}

/// What makes a proxy fall silent when a client sends it.
const MUTE: &str = "be_silent_now";

/// A TCP proxy that can fall silent: bytes are held, and the connections stay.
struct Proxy {
    address: String,
    is_mute: Arc<watch::Sender<bool>>,
}

impl Proxy {
    async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("its address").to_string();
        let is_mute = Arc::new(watch::Sender::new(false));
        let (target, mute) = (target.to_string(), Arc::clone(&is_mute));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&target).await.expect("reach the server");
                let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
                tokio::spawn(carry(client_in, server_out, Arc::clone(&mute)));
                tokio::spawn(carry(server_in, client_out, Arc::clone(&mute)));
            }
        });
        Self { address, is_mute }
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, is_mute: Arc<watch::Sender<bool>>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let bytes = &buffer[..length];
        if bytes.windows(MUTE.len()).any(|window| window == MUTE.as_bytes()) {
            is_mute.send_replace(true);
        }
        let open = is_mute.subscribe().wait_for(|mute| !mute).await.is_ok();
        if !open || to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
