//! A test bed: etcd, coordinator and executors (and Postgres where asked for) as real processes, with data in the lake.
//!
//! One bed stands at a time: what its tests measure is time and CPU. A bed that a test is done with is [`TestBed::finish`]ed:
//! its logs must hold no warning that the test did not expect, and no password.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinHandle;
use townlake_cli::args::LoadMode;
use townlake_cli::connection::Connection;
use townlake_cli::demo::Sources;
use townlake_cli::load;
use townlake_cli::local::{Cluster, ClusterSpec, Etcd, Postgres, Process};
use townlake_cli::tpch::Table;
use townlake_common::Result;

/// The user of a bed, an administrator.
pub const USER: &str = "ann";
/// Her password, to be looked for where it must not be.
pub const PASSWORD: &str = "hunter2-town";

static TURN: Mutex<()> = Mutex::const_new(());

/// What a bed is to look like.
pub struct BedSpec {
    /// Executors at the start, of one slot each.
    pub executors: usize,
    /// Memory of each executor.
    pub memory: &'static str,
    /// `limits.executor_wait`.
    pub executor_wait: &'static str,
    /// Scale of `lake.tpch.lineitem` (60 MB of Arrow at 0.05); 0 is no data.
    pub scale: f64,
    /// Whether there is a Postgres, as catalog `crm`.
    pub postgres: bool,
    /// Whether there are the four sources of the demo of five systems, a Postgres among them.
    pub federation: bool,
    /// Further lines of every node's configuration.
    pub toml: String,
}

impl Default for BedSpec {
    fn default() -> Self {
        Self {
            executors: 3,
            memory: "1GB",
            executor_wait: "2s",
            scale: 0.05,
            postgres: false,
            federation: false,
            toml: String::new(),
        }
    }
}

/// A running bed. Fields drop in order: the cluster goes before what it stands on.
pub struct TestBed {
    /// The session of [`USER`].
    pub connection: Connection,
    /// Coordinator and executors.
    pub cluster: Cluster,
    /// Membership.
    pub etcd: Etcd,
    /// The source behind the catalog `crm`.
    pub postgres: Option<Postgres>,
    /// The sources of five systems.
    pub sources: Option<Sources>,
    folder: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// The rows of a result as text.
pub type Rows = Vec<Vec<String>>;

/// A query that runs in the background. Aborting `rows` is a client that goes away.
pub struct Asked {
    /// Its id in `system.runtime`.
    pub id: String,
    /// Its rows, or its error.
    pub rows: JoinHandle<Result<Rows>>,
}

impl Asked {
    /// The answer. Panics when it takes longer than `limit`.
    pub async fn answer(self, limit: Duration) -> Result<Rows> {
        let answer = tokio::time::timeout(limit, self.rows).await;
        answer
            .unwrap_or_else(|_| panic!("query {} gave no answer within {limit:?}", self.id))
            .expect("the reader of rows")
    }
}

/// One row of `system.runtime.tasks`.
#[derive(Debug, Clone)]
pub struct TaskSeen {
    pub stage: u32,
    pub task: u32,
    pub attempt: u32,
    /// The incarnation of the executor.
    pub executor: String,
    pub state: String,
    pub rows: u64,
}

impl TestBed {
    /// A bed with its data; `None` (and a line on standard error) where a server is not installed, unless
    /// `TOWNLAKE_REQUIRE_SERVERS` is set. Panics when something does not start.
    pub async fn start(test: &str, spec: BedSpec) -> Option<Self> {
        let missing = match () {
            () if !Etcd::is_installed() => "etcd",
            () if spec.postgres && !Postgres::is_installed() => "Postgres",
            () if spec.federation => Sources::missing().unwrap_or_default(),
            () => "",
        };
        if !missing.is_empty() {
            let required = std::env::var_os("TOWNLAKE_REQUIRE_SERVERS").is_some();
            assert!(!required, "{test} needs {missing}, which is not installed");
            eprintln!("SKIPPED {test}: {missing} is not installed");
            return None;
        }
        let turn = TURN.lock().await;
        let folder = tempfile::Builder::new().prefix("townlake-bed-").tempdir().expect("a temporary folder");
        let postgres = if spec.postgres { Some(Postgres::start(&[]).await.expect("start Postgres")) } else { None };
        let sources =
            if spec.federation { Some(Sources::start(folder.path()).await.expect("start the sources")) } else { None };
        let etcd = Etcd::start(folder.path()).await.expect("start etcd");
        let mut sections = sections(folder.path(), &spec, postgres.as_ref());
        sections.extend(sources.as_ref().map(|sources| sources.sections(USER)));
        sections.push_str(&spec.toml);
        let cluster = Cluster::start(ClusterSpec {
            binary: binary(),
            folder: folder.path().to_path_buf(),
            etcd: etcd.endpoint(),
            executors: spec.executors,
            slots: 1,
            memory: spec.memory.to_string(),
            sections,
            user: (USER.to_string(), PASSWORD.to_string()),
            standard_ports: false,
        });
        let cluster = cluster.await.expect("start the cluster");
        let connection = Connection::open(&cluster.connect_args()).await.expect("connect");
        let bed = Self { connection, cluster, etcd, postgres, sources, folder, _turn: turn };
        if spec.scale > 0.0 {
            bed.load(spec.scale).await;
        }
        Some(bed)
    }

    /// `lake.tpch.lineitem` in one file, and `lake.chaos.items`, some of its columns in six files: six splits of a scan.
    /// The session sends every scan to executors, however small.
    async fn load(&self, scale: f64) {
        let tables = [Table::LineItem];
        load::tpch(&self.connection, "lake", "tpch", scale, &tables, LoadMode::Create).await.expect("load TPC-H");
        self.run("CREATE SCHEMA lake.chaos").await;
        let part = |number| {
            format!(
                "SELECT l_orderkey, l_linenumber, l_suppkey, l_extendedprice, l_tax, l_comment FROM lake.tpch.lineitem \
                 WHERE l_orderkey % 6 = {number}"
            )
        };
        self.run(&format!("CREATE TABLE lake.chaos.items AS {}", part(0))).await;
        for number in 1..6 {
            self.run(&format!("INSERT INTO lake.chaos.items {}", part(number))).await;
        }
        self.run("SET SESSION execution = 'cluster'").await;
    }

    /// Where configuration, logs, spill folders and the warehouse lie.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Another session of [`USER`].
    pub async fn connect(&self) -> Connection {
        Connection::open(&self.cluster.connect_args()).await.expect("connect")
    }

    /// Runs a statement for its effect.
    pub async fn run(&self, sql: &str) -> u64 {
        self.connection.run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).unwrap_or(0)
    }

    /// The rows of a query that must succeed.
    pub async fn rows(&self, sql: &str) -> Rows {
        self.try_rows(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// The rows of a query.
    pub async fn try_rows(&self, sql: &str) -> Result<Rows> {
        let (_, batches) = self.connection.collect(sql).await?;
        Ok(batches.iter().flat_map(text).collect())
    }

    /// Asks a query, reads its rows in the background.
    pub async fn ask(&self, sql: &str) -> Asked {
        let query = self.connection.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let id = query.id.clone().expect("the server names the query");
        let connection = self.connection.clone();
        let rows = tokio::spawn(async move {
            let rows = connection.rows(&query).await?;
            let batches: Vec<RecordBatch> = rows.batches.try_collect().await?;
            Ok(batches.iter().flat_map(text).collect())
        });
        Asked { id, rows }
    }

    /// The attempts of a query's tasks, as `system.runtime.tasks` has them now.
    pub async fn tasks(&self, query: &str) -> Vec<TaskSeen> {
        let sql = format!(
            "SELECT stage, task, attempt, executor, state, coalesce(rows, 0) FROM system.runtime.tasks \
             WHERE query_id = '{query}' ORDER BY stage, task, attempt"
        );
        let number = |text: &String| text.parse().expect("a number");
        let task = |row: &Vec<String>| TaskSeen {
            stage: number(&row[0]),
            task: number(&row[1]),
            attempt: number(&row[2]),
            executor: row[3].clone(),
            state: row[4].clone(),
            rows: row[5].parse().expect("a number"),
        };
        self.rows(&sql).await.iter().map(task).collect()
    }

    /// Waits until a task of `stage` runs; returns it.
    pub async fn running_task(&self, query: &str, stage: u32) -> TaskSeen {
        poll("a task runs", Duration::from_secs(60), async || {
            self.tasks(query).await.into_iter().find(|task| task.stage == stage && task.state == "RUNNING")
        })
        .await
    }

    /// State and code of a query, as `system.runtime.queries` has them now.
    pub async fn query_state(&self, query: &str) -> (String, String) {
        let sql = format!("SELECT state, coalesce(code, '') FROM system.runtime.queries WHERE id = '{query}'");
        let row = self.rows(&sql).await.into_iter().next().unwrap_or_default();
        (row.first().cloned().unwrap_or_default(), row.get(1).cloned().unwrap_or_default())
    }

    /// The incarnations of the executors on the member list.
    pub async fn executors(&self) -> Vec<String> {
        let sql = "SELECT node_id FROM system.runtime.nodes WHERE role = 'executor' ORDER BY 1";
        self.rows(sql).await.into_iter().flatten().collect()
    }

    /// Starts one more executor and waits until it takes tasks; returns its index.
    pub async fn add_executor(&mut self) -> usize {
        let index = self.cluster.add_executor().expect("start an executor");
        let name = incarnation(&self.cluster.executors[index]).await;
        poll("the new executor takes tasks", Duration::from_secs(20), async || {
            let log = std::fs::read_to_string(self.cluster.coordinator.log()).unwrap_or_default();
            log.lines().any(|line| line.contains("executor takes tasks") && line.contains(&name)).then_some(())
        })
        .await;
        index
    }

    /// The index of the executor process of this incarnation.
    pub async fn process_of(&self, wanted: &str) -> usize {
        for (index, process) in self.cluster.executors.iter().enumerate() {
            if incarnation(process).await == wanted {
                return index;
            }
        }
        panic!("no executor process has the incarnation {wanted}");
    }

    /// CPU time that the living executors have used since their start.
    pub fn executors_cpu(&self) -> Duration {
        self.cluster.executors.iter().map(|process| cpu_time(process.id())).sum()
    }

    /// Waits until the executors use less than a tenth of a core, over 300 ms; when that time began.
    pub async fn until_idle(&self, limit: Duration) -> Instant {
        poll("the executors are idle", limit, async || {
            let (start, before) = (Instant::now(), self.executors_cpu());
            tokio::time::sleep(Duration::from_millis(300)).await;
            (self.executors_cpu() - before < Duration::from_millis(30)).then_some(start)
        })
        .await
    }

    /// The jobs whose output lies on an executor, also on one that has ended.
    fn output(&self) -> Vec<PathBuf> {
        let folders = (1..=self.cluster.executors.len()).map(|n| self.folder().join(format!("executor-{n}/shuffle")));
        let jobs = folders.flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
        jobs.map(|job| job.path()).collect()
    }

    /// Waits until no executor has the output of any job.
    pub async fn until_no_output(&self, limit: Duration) {
        poll("no executor has output", limit, async || {
            (self.output().is_empty() && self.exchange_memory().await == 0.0).then_some(())
        })
        .await;
    }

    /// What the living executors hold of tasks' output in memory, in bytes.
    pub async fn exchange_memory(&self) -> f64 {
        let mut sum = 0.0;
        for process in &self.cluster.executors {
            let log = std::fs::read_to_string(process.log()).expect("read a log");
            let address = log.split_once(" http=").and_then(|(_, rest)| rest.split_whitespace().next());
            let url = format!("http://{}/metrics", address.expect("an executor says where it listens"));
            let Ok(answer) = reqwest::get(&url).await else { continue };
            let text = answer.text().await.unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("townlake_executor_exchange_memory_bytes "));
            sum += line.and_then(|value| value.parse::<f64>().ok()).expect("the metric");
        }
        sum
    }

    /// Ends the bed and looks into the logs of all its nodes: every warning and error must hold one of `expected`.
    pub fn finish(mut self, expected: &[&str]) {
        self.cluster.coordinator.stop();
        self.cluster.executors.iter_mut().for_each(Process::stop);
        let mut secrets = vec![PASSWORD.to_string()];
        secrets.extend(self.postgres.iter().map(|postgres| postgres.password().to_string()));
        secrets.extend(self.sources.iter().flat_map(Sources::passwords));
        for process in self.cluster.executors.iter().chain([&self.cluster.coordinator]) {
            let log = std::fs::read_to_string(process.log()).expect("read a log");
            assert!(secrets.iter().all(|secret| !log.contains(secret)), "{} logged a password", process.name());
        }
        let faults = self.faults(expected);
        assert!(faults.is_empty(), "unexpected warnings in the logs:\n{faults}");
    }

    /// The warnings and errors that the nodes have logged, but for those that hold one of `expected`.
    pub fn faults(&self, expected: &[&str]) -> String {
        let mut faults = String::new();
        for process in self.cluster.executors.iter().chain([&self.cluster.coordinator]) {
            let log = std::fs::read_to_string(process.log()).expect("read a log");
            for line in log.lines().filter(|line| is_fault(line) && !expected.iter().any(|text| line.contains(text))) {
                let _ = writeln!(faults, "{}: {line}", process.name());
            }
        }
        faults
    }
}

/// Asks again and again, until there is an answer. Panics after `limit`.
pub async fn poll<T>(what: &str, limit: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The incarnation that a node named in its first log line.
pub async fn incarnation(process: &Process) -> String {
    poll("an executor listens", Duration::from_secs(20), async || {
        let log = std::fs::read_to_string(process.log()).ok()?;
        let line = log.lines().find(|line| line.contains("listens"))?;
        Some(line.split_once("incarnation=\"")?.1.split_once('"')?.0.to_string())
    })
    .await
}

/// User and system time of a process; nothing when it has ended.
fn cpu_time(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name, in brackets, may hold spaces. Behind it, utime and stime are the 12th and 13th field, in 1/100 s.
    let fields: Vec<_> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

fn is_fault(line: &str) -> bool {
    let level = line.split_whitespace().nth(1).unwrap_or_default();
    matches!(level, "WARN" | "ERROR") || line.contains("panicked at")
}

fn text(batch: &RecordBatch) -> Rows {
    let options = FormatOptions::default();
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).expect("a column that can be shown"))
        .collect();
    (0..batch.num_rows()).map(|row| columns.iter().map(|column| column.value(row).to_string()).collect()).collect()
}

/// `TOWNLAKE_BIN`, else the `townlake` of the build that this test is of.
pub fn binary() -> PathBuf {
    let given = std::env::var_os("TOWNLAKE_BIN").map(PathBuf::from);
    let binary = given.unwrap_or_else(|| {
        let test = std::env::current_exe().expect("where is this test?");
        let build = test.parent().and_then(Path::parent).expect("tests lie in deps/ of the build");
        build.join("townlake")
    });
    assert!(binary.is_file(), "{} is not there: run `cargo build -p townlake`, or set TOWNLAKE_BIN", binary.display());
    binary
}

fn sections(folder: &Path, spec: &BedSpec, postgres: Option<&Postgres>) -> String {
    let hash = townlake_governance::hash_password(PASSWORD).expect("hash the password");
    let (folder, wait) = (folder.display(), spec.executor_wait);
    // Two rounds of tasks: when an executor is lost, others have ended and others still wait.
    let partitions = spec.executors.max(1) * 2;
    let mut text = format!(
        "[limits]\nexecutor_wait = \"{wait}\"\npartitions = {partitions}\n\
         [auth]\nadmins = [\"{USER}\"]\n\
         [[auth.users]]\nname = \"{USER}\"\npassword_hash = \"{hash}\"\n\
         [catalogs.lake]\ntype = \"iceberg\"\ncatalog = \"sql\"\nuri = \"sqlite://{folder}/catalog.db\"\n\
         warehouse = \"file://{folder}/warehouse\"\nwriters = [\"{USER}\"]\n"
    );
    if let Some(postgres) = postgres {
        let url = postgres.url("postgres");
        let _ = writeln!(text, "[catalogs.crm]\ntype = \"postgres\"\nurl = \"{url}\"\nreaders = [\"{USER}\"]");
    }
    text
}
