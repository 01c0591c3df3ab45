//! The four sources, each behind a line, with a table `big` each; and a town over them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;
use tokio::task::JoinHandle;
use townlake_cli::connection::Connection;
use townlake_common::{Error, Result};
use townlake_tests::clickhouse::{ClickHouse, Engine};
use townlake_tests::kafka::Kafka;
use townlake_tests::line::{Line, Mode};
use townlake_tests::postgres::Postgres;
use townlake_tests::town::{Town, TownSpec};

use crate::bigquery::mock_google::{MockGoogle, Step};

/// Rows of `big` in each source; the mock has more, because its rows are numbers alone.
pub const ROWS: i64 = 200_000;
const NUMBERS: i64 = 2_000_000;
/// When so much of a table has come, it is in the middle of it: each is many times as large.
pub const MIDDLE: u64 = 1 << 20;
/// Within this, nothing of a query that is over runs in a source.
pub const GONE: Duration = Duration::from_secs(2);
/// The stream of the mock.
const STREAM: &str = "projects/p/locations/eu/sessions/s/streams/1";

/// The servers and the lines to them.
pub struct Sources {
    pub postgres: Postgres,
    pub clickhouse: ClickHouse,
    pub kafka: Kafka,
    pub bigquery: MockGoogle,
    lines: [Line; 4],
}

/// One of the four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Postgres,
    ClickHouse,
    Kafka,
    BigQuery,
}

pub use Kind::{BigQuery, ClickHouse as InClickHouse, Kafka as InKafka, Postgres as InPostgres};

pub const ALL: [Kind; 4] = [InPostgres, InClickHouse, InKafka, BigQuery];

impl Kind {
    /// The catalog.
    pub fn catalog(self) -> &'static str {
        ["pg", "ch", "bus", "bq"][self as usize]
    }

    /// Its table in SQL.
    pub fn table(self) -> &'static str {
        ["pg.public.big", "ch.big.big", "bus.default.big", "bq.d.t"][self as usize]
    }

    /// A column with a different value in each row of a split.
    pub fn key(self) -> &'static str {
        ["id", "id", "_offset", "id"][self as usize]
    }

    /// A query that reads all rows and their text, and its answer.
    pub fn read_all(self) -> (String, String) {
        let (table, key) = (self.table(), self.key());
        let text = ["note", "note", "_value", "id"][self as usize];
        let rows = if self == BigQuery { NUMBERS } else { ROWS };
        let parts = if self == InKafka { 4 } else { 1 };
        let of_part = rows / parts;
        let sum = parts * of_part * (of_part - 1) / 2;
        // No source makes sums of what a function gives, or max of text.
        let sql = format!("SELECT count(*), sum(abs({key})) FROM {table} HAVING max({text}) IS NOT NULL");
        (sql, format!("{rows} {sum}"))
    }
}

impl Sources {
    /// All four with their tables; `None` where one is not installed.
    pub async fn start(test: &str) -> Option<Self> {
        let kafka_line = Line::new(None).await;
        let advertised = format!("advertised.listeners=OPEN://127.0.0.1:{}\n", kafka_line.port());
        let kafka = Kafka::start_with(test, &advertised)?;
        kafka_line.lead_to(kafka.port());
        let (postgres, clickhouse) = (Postgres::start(test)?, ClickHouse::start(Engine::Old, test)?);
        let bigquery = MockGoogle::start().await;
        let lines = [
            Line::new(Some(postgres.port())).await,
            Line::new(Some(clickhouse.port())).await,
            kafka_line,
            Line::new(Some(bigquery.grpc)).await,
        ];
        let sources = Self { postgres, clickhouse, kafka, bigquery, lines };
        sources.fill().await;
        Some(sources)
    }

    async fn fill(&self) {
        let admin = self.postgres.connect("postgres").await;
        let big = format!(
            "CREATE TABLE big AS SELECT i::int8 AS id, repeat('x', 90) || i AS note FROM generate_series(0, {ROWS} - 1) i;
             ANALYZE big;
             CREATE FUNCTION slow(i int8) RETURNS text LANGUAGE sql VOLATILE AS 'SELECT pg_sleep(0.005)::text || i';
             CREATE VIEW slow AS SELECT i AS id, slow(i) AS note FROM generate_series(0, 1199) i;
             CREATE VIEW endless AS SELECT generate_series(0, 1000000000000) AS id, repeat('x', 90) AS note;"
        );
        admin.batch_execute(&big).await.expect("fill Postgres");
        self.clickhouse.create_database("big").await;
        for sql in [
            "CREATE TABLE big.big (id Int64, note String) ENGINE = MergeTree ORDER BY id".to_string(),
            format!(
                "INSERT INTO big.big SELECT toInt64(number), concat('{}', toString(number)) FROM numbers({ROWS})",
                "x".repeat(90)
            ),
            "CREATE VIEW big.slow AS SELECT number AS id, sleep(0.1) AS s FROM system.numbers LIMIT 655360".to_string(),
            "CREATE VIEW big.endless AS SELECT number AS id, toString(number) AS note FROM system.numbers".to_string(),
        ] {
            self.clickhouse.run(&sql).await;
        }
        let script = format!(
            "topic('big', 4)\np = producer(queue_buffering_max_messages=1000000)\nfor n in range({ROWS}):\n  \
             p.produce('big', value='x' * 90, partition=n % 4)\n  if n % 10000 == 0: p.flush()\np.flush()"
        );
        tokio::task::block_in_place(|| self.kafka.python(&script));
        self.bigquery_reads_all();
    }

    /// Each reading of the mock's table gives all its rows.
    pub fn bigquery_reads_all(&self) {
        self.bigquery_answers((0..50).map(|_| vec![Step::Below(NUMBERS)]));
    }

    /// What the readings of the mock's table give, one after another.
    pub fn bigquery_answers(&self, calls: impl IntoIterator<Item = Vec<Step>>) {
        self.bigquery.stream(STREAM, calls.into_iter().collect::<std::collections::VecDeque<_>>());
    }

    /// The line to a source.
    pub fn line(&self, kind: Kind) -> &Line {
        &self.lines[kind as usize]
    }

    /// `host:port` as the catalog names it, and as an error should.
    pub fn host(&self, kind: Kind) -> String {
        format!("127.0.0.1:{}", self.line(kind).port())
    }

    /// The catalogs in TOML, which ann may read.
    pub fn catalogs(&self) -> String {
        let port = |kind| self.line(kind).port().to_string();
        let real = |url: String, of: u16, kind| url.replace(&format!(":{of}/"), &format!(":{}/", port(kind)));
        let readers = "readers = [\"ann\"]\nbreaker_failures = 0\nconnect_timeout = \"1s\"";
        format!(
            "[catalogs.pg]\ntype = \"postgres\"\nurl = \"{}\"\npass_through = true\n{readers}\n\
             [catalogs.ch]\ntype = \"clickhouse\"\nurl = \"{}\"\npass_through = true\n{readers}\n\
             [catalogs.bus]\ntype = \"kafka\"\nbrokers = [\"{}\"]\nrequest_timeout = \"2s\"\n{readers}\n\
             [catalogs.bq]\n{}read_timeout = \"2s\"\n{readers}\n",
            real(self.postgres.url("postgres"), self.postgres.port(), InPostgres),
            real(self.clickhouse.url(), self.clickhouse.port(), InClickHouse),
            self.host(InKafka),
            self.bigquery.keys().replace(&format!(":{}\"", self.bigquery.grpc), &format!(":{}\"", port(BigQuery))),
        )
    }

    /// A town of two executors over them.
    pub async fn town(&self) -> Town {
        let spec = TownSpec::default().user("ann", "a password", &[]).toml(&self.catalogs());
        spec.toml("[auth]\nadmins = [\"ann\"]").start().await
    }

    /// What runs in a source for us, by its own list.
    pub async fn running(&self, kind: Kind) -> Vec<String> {
        match kind {
            InPostgres => {
                let admin = self.postgres.connect("postgres").await;
                let sql = "SELECT pid || ' ' || state || ' ' || query FROM pg_stat_activity WHERE application_name LIKE 'townlake %'";
                let rows = admin.query(sql, &[]).await.expect("ask Postgres");
                rows.iter().map(|row| row.get(0)).collect()
            }
            InClickHouse => {
                let sql = "SELECT query_id, query FROM system.processes WHERE query_id LIKE 'townlake-%'";
                self.clickhouse.run(sql).await.lines().map(str::to_string).collect()
            }
            // The broker's connections, as its kernel has them, but for those that wait for nothing: they are kept for the next query.
            InKafka => {
                let line = self.line(InKafka);
                let idle = line.open() - line.waiting();
                let all = connections_of(self.kafka.port());
                (idle..all).map(|number| format!("connection {number} of the broker")).collect()
            }
            BigQuery => (0..self.bigquery.state().open).map(|number| format!("stream {number}")).collect(),
        }
    }

    /// Waits until a source works for us.
    pub async fn until_running(&self, kind: Kind) {
        let since = Instant::now();
        while self.running(kind).await.is_empty() {
            assert!(since.elapsed() < Duration::from_secs(20), "{kind:?} has nothing to do");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until nothing of ours runs in a source; panics when that takes too long.
    pub async fn until_gone(&self, kind: Kind, why: &str) {
        let since = Instant::now();
        loop {
            let running = self.running(kind).await;
            if running.is_empty() {
                return;
            }
            assert!(since.elapsed() < GONE, "{why}: still there after {GONE:?} in {kind:?}: {running:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until nothing comes of a source any more: what it had sent for a query before.
    pub async fn until_quiet(&self, kind: Kind) {
        loop {
            let bytes = self.line(kind).bytes();
            tokio::time::sleep(Duration::from_millis(200)).await;
            if self.line(kind).bytes() == bytes {
                return;
            }
        }
    }

    /// Stops a source in the middle of the next table.
    pub fn stop_in_the_middle(&self, kind: Kind, mode: Mode) {
        self.line(kind).set_after(MIDDLE, mode);
    }

    /// Waits until that has happened.
    pub async fn until_in_the_middle(&self, kind: Kind) {
        let since = Instant::now();
        while self.line(kind).mode() == Mode::Open {
            assert!(since.elapsed() < Duration::from_secs(20), "{kind:?} sent {} bytes", self.line(kind).bytes());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Established connections of a server of this machine.
fn connections_of(port: u16) -> usize {
    const ESTABLISHED: &str = "01";
    let local = format!(":{port:04X}");
    let of = |table: &str| {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        let is_of = |line: &str| {
            let mut cells = line.split_whitespace().skip(1);
            let (from, _, state) = (cells.next(), cells.next(), cells.next());
            from.is_some_and(|from| from.ends_with(&local)) && state == Some(ESTABLISHED)
        };
        text.lines().filter(|line| is_of(line)).count()
    };
    of("/proc/net/tcp") + of("/proc/net/tcp6")
}

/// The rows of a query, their cells between blanks.
pub async fn rows(connection: &Connection, sql: &str) -> Result<Vec<String>> {
    let (_, batches) = connection.collect(sql).await?;
    Ok(lines(&batches))
}

pub fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let line = |batch: &RecordBatch, row: usize| {
        let cell = |column: &Arc<dyn Array>| {
            ArrayFormatter::try_new(column.as_ref(), &FormatOptions::default()).expect("shown").value(row).to_string()
        };
        batch.columns().iter().map(cell).collect::<Vec<_>>().join(" ")
    };
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|row| line(batch, row))).collect()
}

/// A query that is planned and read in the background; dropping the task is a client that goes away.
pub async fn ask(connection: &Connection, sql: &str) -> (String, JoinHandle<Result<Vec<String>>>) {
    let query = connection.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let id = query.id.clone().expect("an id");
    let connection = connection.clone();
    let reading = tokio::spawn(async move {
        let rows = connection.rows(&query).await?;
        let batches: Vec<RecordBatch> = rows.batches.try_collect().await?;
        Ok(lines(&batches))
    });
    (id, reading)
}

/// No password and no URL with one is in an error.
pub fn tells_no_secret(error: &Error) {
    let told = format!("{error} {error:?} {}", error.to_wire());
    assert!(!told.contains("hunter2") && !told.contains("postgres://"), "{told}");
}
