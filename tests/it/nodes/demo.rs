//! `townlake demo`: it shows what it promises, and leaves nothing behind, however it ends.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use townlake_cli::demo::Sources;
use townlake_cli::local::{Etcd, Postgres, fetched};
use townlake_tests::bed::{binary, poll};

use super::{Running, clean};

/// One demo at a time: it takes the standard ports where they are free.
static TURN: Mutex<()> = Mutex::const_new(());

struct Stage {
    /// Log of the demo, and its temporary files in `tmp`.
    folder: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Stage {
    async fn new() -> Self {
        let turn = TURN.lock().await;
        let folder = tempfile::Builder::new().prefix("townlake-nodes-").tempdir().expect("a temporary folder");
        let stage = Self { folder, _turn: turn };
        std::fs::create_dir(stage.tmp()).expect("create a folder");
        for path in [stage.folder.path(), &stage.tmp()] {
            // a user that Postgres runs as must get through
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("open the folder");
        }
        stage
    }

    fn tmp(&self) -> std::path::PathBuf {
        self.folder.path().join("tmp")
    }

    fn demo(&self, arguments: &[&str]) -> Running {
        let mut command = clean(binary(), &self.tmp());
        command.args(["demo", "--scale", "0.01"]).args(arguments);
        // where Kafka and the emulator of BigQuery were fetched to
        for (variable, folder) in [("TOWNLAKE_KAFKA", "kafka"), ("TOWNLAKE_VENV", "venv")] {
            command.env(variable, fetched(variable, folder));
        }
        // the emulator of BigQuery finds its DuckDB's extensions there
        if arguments.contains(&"--federation") {
            command.env("HOME", std::env::var_os("HOME").unwrap_or_default());
        }
        Running::start(command, self.folder.path())
    }

    /// The processes (never the demo itself) whose arguments or working folder lie in the temporary folder of the demo.
    fn processes(&self) -> BTreeMap<u32, String> {
        let tmp = self.tmp();
        let inside = |process: u32| {
            let own = Path::new("/proc").join(process.to_string());
            let arguments = String::from_utf8_lossy(&std::fs::read(own.join("cmdline")).ok()?).replace('\0', " ");
            let cwd = std::fs::read_link(own.join("cwd")).unwrap_or_default();
            let is_inside = arguments.contains(&*tmp.to_string_lossy()) || cwd.starts_with(&tmp);
            is_inside.then_some((process, arguments))
        };
        let entries = std::fs::read_dir("/proc").expect("read /proc").filter_map(|entry| entry.ok());
        entries.filter_map(|entry| inside(entry.file_name().to_str()?.parse().ok()?)).collect()
    }

    async fn until_nothing_is_left(&self, limit: Duration) {
        let start = Instant::now();
        while !self.processes().is_empty() {
            assert!(start.elapsed() < limit, "left: {:#?}", self.processes());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn left_files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.tmp()).expect("read the folder").filter_map(|entry| entry.ok());
        entries.map(|entry| entry.file_name().to_string_lossy().to_string()).collect()
    }
}

fn can_be_a_cluster(test: &str) -> bool {
    let can = Etcd::is_installed() && Postgres::is_installed();
    if !can {
        let required = std::env::var_os("TOWNLAKE_REQUIRE_SERVERS").is_some();
        assert!(!required, "{test} needs etcd and Postgres");
        eprintln!("SKIPPED {test}: etcd or Postgres is not installed");
    }
    can
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_demo_answers_four_questions_and_exits() {
    let stage = Stage::new().await;
    let mut demo = stage.demo(&["--embedded", "--exit"]);
    let status = demo.end(Duration::from_secs(240)).await;
    let output = demo.output();
    assert_eq!(status.code(), Some(0), "{output}");
    let words =
        |line: &str| line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join(" ");
    let lines: Vec<_> = output.lines().map(words).collect();
    for question in ["── 1. ", "── 2. ", "── 3. ", "── 4. "] {
        assert!(lines.iter().any(|line| line.starts_with(question)), "{output}");
    }
    for answer in ["nation orders revenue", "before 5", "now 6"] {
        assert!(lines.iter().any(|line| line == answer), "no `{answer}`: {output}");
    }
    let flags = lines.iter().filter(|line| line.starts_with("A F ") || line.starts_with("N O ")).count();
    assert_eq!(flags, 2, "the aggregate: {output}");
    assert!(output.contains("Ready after ") && !output.contains("The door is open"), "{output}");
    assert!(stage.left_files().is_empty(), "{:?}", stage.left_files());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_of_five_systems_joins_them_and_reads_the_same_again() {
    if let Some(missing) = Sources::missing() {
        assert!(std::env::var_os("TOWNLAKE_REQUIRE_SERVERS").is_none(), "the demo of five systems needs {missing}");
        eprintln!("SKIPPED the_demo_of_five_systems: {missing} is not installed");
        return;
    }
    let stage = Stage::new().await;
    let mut demo = stage.demo(&["--federation", "--exit"]);
    let status = demo.end(Duration::from_secs(240)).await;
    let output = demo.output();
    assert_eq!(status.code(), Some(0), "{output}");
    for told in [
        "KafkaScanExec: table=bus.tpch.orders",
        "PostgresScanExec: table=crm.public.customer",
        "ClickHouseScanExec: table=stock.tpch.part",
        "BigQueryScanExec: table=partners.tpch.supplier",
        "tpch/lineitem/data/",
        "stock.tpch.part: clickhouse, unpinned",
    ] {
        assert!(output.contains(told), "no `{told}`: {output}");
    }
    let counts: Vec<_> = output.lines().skip_while(|line| !line.contains("orders_in_kafka |")).collect();
    let counts: Vec<_> = counts.iter().filter(|line| line.starts_with("| 1500")).collect();
    assert!(counts.len() == 3 && counts[0] == counts[2] && counts[1].starts_with("| 15001 "), "{counts:#?}\n{output}");
    stage.until_nothing_is_left(Duration::from_secs(5)).await;
    assert!(stage.left_files().is_empty(), "{:?}", stage.left_files());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_the_embedded_demo_and_its_files() {
    for signal in [Signal::SIGINT, Signal::SIGHUP] {
        let stage = Stage::new().await;
        let mut demo = stage.demo(&["--embedded"]);
        demo.says("JDBC").await;
        assert!(!stage.left_files().is_empty());
        demo.signal(signal);
        assert_eq!(demo.end(Duration::from_secs(30)).await.code(), Some(0), "{}", demo.output());
        assert!(stage.left_files().is_empty(), "{signal}: {:?}", stage.left_files());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_every_process_that_the_demo_started() {
    if !can_be_a_cluster("a_signal_ends_every_process") {
        return;
    }
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGKILL] {
        let stage = Stage::new().await;
        let mut demo = stage.demo(&[]);
        demo.says("find each other through etcd (").await;
        let started = stage.processes();
        for part in ["postgres", "etcd", " coordinator ", " executor "] {
            assert!(started.values().any(|arguments| arguments.contains(part)), "no {part} in {started:#?}");
        }
        demo.signal(signal);
        let status = demo.end(Duration::from_secs(40)).await;
        stage.until_nothing_is_left(Duration::from_secs(20)).await;
        if signal != Signal::SIGKILL {
            assert_eq!(status.code(), Some(0), "{}", demo.output());
            assert!(stage.left_files().is_empty(), "{signal}: {:?}", stage.left_files());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_a_demo_that_has_just_begun() {
    if !can_be_a_cluster("a_signal_ends_a_demo_that_has_just_begun") {
        return;
    }
    let stage = Stage::new().await;
    let mut demo = stage.demo(&[]);
    poll("initdb runs", Duration::from_secs(30), async || {
        stage.processes().values().any(|arguments| arguments.contains("initdb")).then_some(())
    })
    .await;
    demo.signal(Signal::SIGTERM);
    assert_eq!(demo.end(Duration::from_secs(30)).await.code(), Some(0), "{}", demo.output());
    stage.until_nothing_is_left(Duration::from_secs(5)).await;
    assert!(stage.left_files().is_empty(), "{:?}", stage.left_files());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_does_not_wait_for_what_hangs() {
    if !can_be_a_cluster("a_second_signal") {
        return;
    }
    let stage = Stage::new().await;
    let mut demo = stage.demo(&[]);
    demo.says("find each other through etcd (").await;
    let started = stage.processes();
    let stopped: Vec<_> = started.iter().filter(|(_, arguments)| arguments.contains(" executor ")).collect();
    assert_eq!(stopped.len(), 2, "{started:#?}");
    for (process, _) in stopped {
        // it cannot hear that it is to stop: 8 s each
        nix::sys::signal::kill(Pid::from_raw(i32::try_from(*process).expect("an id")), Signal::SIGSTOP).expect("stop");
    }
    demo.signal(Signal::SIGINT);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = Instant::now();
    demo.signal(Signal::SIGINT);
    demo.end(Duration::from_secs(40)).await;
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    stage.until_nothing_is_left(Duration::from_secs(5)).await;
    assert!(stage.left_files().is_empty(), "{:?}", stage.left_files());
}
