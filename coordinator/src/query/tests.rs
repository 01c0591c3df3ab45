//! Statements from text to rows, on a real scheduler without executors: what runs in the coordinator.

use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::array::{Array, Int64Array, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::physical_plan::memory::MemoryStream;
use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;
use townlake_cluster::EmbeddedMembership;
use townlake_common::config::Config;
use townlake_common::{Error, ErrorCode, Principal, Result};
use townlake_engine::error::from_datafusion;
use townlake_store::Store;

use super::{IngestMode, IngestTarget, QueryService};
use crate::scheduling::Scheduler;
use crate::session::Session;

mod bounds;
mod deep;
mod views;

struct Door {
    service: Arc<QueryService>,
    shutdown: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Door {
    async fn open() -> Self {
        Self::open_with("executor_wait = \"100ms\"").await
    }

    /// With these lines in `[limits]`.
    async fn open_with(limits: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().display();
        let lake = |name: &str, rest: &str| {
            format!(
                "[catalogs.{name}]\ntype = \"iceberg\"\ncatalog = \"sql\"\nuri = \"sqlite://{root}/{name}.db\"\n\
                 warehouse = \"file://{root}/{name}\"\n{rest}\n"
            )
        };
        let text = format!(
            "[cluster]\ninternal = \"127.0.0.1:0\"\n[store]\nurl = \"sqlite://{root}/state.db\"\n\
             [limits]\n{limits}\n[auth]\nadmins = [\"root\"]\n{}{}\
             [catalogs.landing]\ntype = \"files\"\nlocation = \"file://{root}\"\nreaders = [\"dora\"]\n",
            lake("lake", "readers = [\"ann\", \"bob\"]\nwriters = [\"ann\"]"),
            lake("ledger", "readers = [\"carol\"]"),
        );
        let config = Arc::new(Config::from_toml(&text).unwrap());
        let shutdown = CancellationToken::new();
        let internal = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let membership = Arc::new(EmbeddedMembership::new());
        let scheduler = Scheduler::start(&config, membership, internal, shutdown.clone()).await.unwrap();
        let store = Store::open(&config.store.url).await.unwrap();
        let service = QueryService::new(config, scheduler, store).await.unwrap();
        Self { service, shutdown, _folder: folder }
    }

    async fn run(&self, session: &Arc<Session>, sql: &str) -> Result<Vec<RecordBatch>> {
        self.run_with(session, sql, None).await
    }

    async fn run_with(&self, session: &Arc<Session>, sql: &str, row: Option<RecordBatch>) -> Result<Vec<RecordBatch>> {
        let prepared = self.service.prepare(session, sql).await?;
        let running = self.service.execute(session, &prepared, row, None).await?;
        running.rows.try_collect().await.map_err(|error| from_datafusion(&error))
    }

    async fn text(&self, session: &Arc<Session>, sql: &str) -> String {
        let batches = self.run(session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        pretty_format_batches(&batches).unwrap().to_string()
    }

    async fn error(&self, session: &Arc<Session>, sql: &str) -> Error {
        match self.run(session, sql).await {
            Ok(batches) => panic!("{sql}: {}", pretty_format_batches(&batches).unwrap()),
            Err(error) => error,
        }
    }
}

fn session(name: &str) -> Arc<Session> {
    Session::detached(Principal::new(name, vec![]))
}

/// The first column of the first row as a number.
fn number(batches: &[RecordBatch]) -> i64 {
    let column = cast(batches[0].column(0), &DataType::Int64).unwrap();
    column.as_any().downcast_ref::<Int64Array>().unwrap().value(0)
}

/// The first column as texts.
fn texts(batches: &[RecordBatch]) -> Vec<String> {
    let mut texts = Vec::new();
    for batch in batches {
        let column = cast(batch.column(0), &DataType::Utf8).unwrap();
        let column = column.as_any().downcast_ref::<StringArray>().unwrap();
        texts.extend((0..column.len()).map(|row| column.value(row).to_string()));
    }
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_made_filled_and_read_as_it_was() {
    let (door, ann) = (Door::open().await, session("ann"));
    door.run(&ann, "CREATE SCHEMA lake.s").await.unwrap();
    door.run(&ann, "USE lake.s").await.unwrap();
    door.run(&ann, "CREATE TABLE t (id BIGINT NOT NULL, name VARCHAR, day DATE) PARTITIONED BY (day)").await.unwrap();
    let insert = "INSERT INTO t (id, name) VALUES (1, 'one'), (2, 'two')";
    assert_eq!(number(&door.run(&ann, insert).await.unwrap()), 2);
    assert_eq!(number(&door.run(&ann, "SELECT count(*) FROM lake.s.t").await.unwrap()), 2);

    let snapshot = door.service.catalogs().writable(&ann.principal, "lake").await.unwrap();
    let snapshot = snapshot.load("s", "t", None).await.unwrap().unwrap().snapshot_id().unwrap();
    door.run(&ann, "INSERT INTO t SELECT id + 10, name, DATE '2026-01-31' FROM t").await.unwrap();
    assert_eq!(number(&door.run(&ann, "SELECT sum(id) FROM t").await.unwrap()), 26);
    let then =
        format!("SELECT sum(o.id) - count(n.id) FROM t FOR VERSION AS OF {snapshot} AS o, t AS n WHERE o.id = n.id");
    let planned = door.service.prepare(&ann, &then).await.unwrap();
    assert_eq!(planned.schema.fields().len(), 1);
    let then = format!("SELECT sum(t.id) FROM t FOR VERSION AS OF {snapshot}");
    assert_eq!(number(&door.run(&ann, &then).await.unwrap()), 3);
    let error = door.error(&ann, "SELECT * FROM t FOR VERSION AS OF 17").await;
    assert_eq!(error.code(), ErrorCode::SnapshotNotFound);

    assert_eq!(
        number(
            &door.run(&ann, "CREATE TABLE u AS SELECT name AS n, count(*) AS c FROM t GROUP BY name").await.unwrap()
        ),
        2
    );
    assert_eq!(texts(&door.run(&ann, "SHOW TABLES").await.unwrap()), ["t", "u"]);
    assert_eq!(texts(&door.run(&ann, "SHOW TABLES LIKE 'u%'").await.unwrap()), ["u"]);
    let described = door.text(&ann, "DESCRIBE t").await;
    assert!(described.contains("bigint") && described.contains("varchar"), "{described}");
    let columns = "SELECT column_name FROM information_schema.columns WHERE table_name = 'u' ORDER BY ordinal_position";
    assert_eq!(texts(&door.run(&ann, columns).await.unwrap()), ["n", "c"]);
    door.run(&ann, "DROP TABLE u").await.unwrap();
    assert_eq!(door.error(&ann, "DROP TABLE u").await.code(), ErrorCode::TableNotFound);
    door.run(&ann, "DROP TABLE IF EXISTS u").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_create_table_as_leaves_nothing() {
    let (door, ann) = (Door::open().await, session("ann"));
    door.run(&ann, "CREATE SCHEMA lake.s").await.unwrap();
    let error =
        door.error(&ann, "CREATE TABLE lake.s.t AS SELECT 1 / (x - 1) AS y FROM (VALUES (1), (2)) AS v (x)").await;
    assert_eq!(error.code(), ErrorCode::ArithmeticError, "{error}");
    for _ in 0..50 {
        if texts(&door.run(&ann, "SHOW TABLES FROM lake.s").await.unwrap()).is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the table of the failed statement is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_nobody_can_write_asks_for_no_right() {
    let (door, dora, bob) = (Door::open().await, session("dora"), session("bob"));
    std::fs::write(door._folder.path().join("t.csv"), "id\n1\n").unwrap();
    for sql in [
        "INSERT INTO landing.default.t VALUES (1)",
        "UPDATE landing.default.t SET id = 2",
        "DELETE FROM landing.default.t",
        "DROP TABLE landing.default.t",
        "CREATE TABLE landing.default.u (id BIGINT)",
    ] {
        let error = door.error(&dora, sql).await;
        assert_eq!(error.code(), ErrorCode::NotSupported, "{sql}: {error}");
        assert!(error.message().contains("catalog landing (files) is read only"), "{sql}: {error}");
        assert_eq!(door.error(&bob, sql).await.code(), ErrorCode::CatalogNotFound, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_principal_may_not_read_does_not_exist_for_it() {
    let (door, ann, bob) = (Door::open().await, session("ann"), session("bob"));
    door.run(&ann, "CREATE SCHEMA lake.s").await.unwrap();
    door.run(&ann, "CREATE TABLE lake.s.orders (id BIGINT)").await.unwrap();

    assert_eq!(texts(&door.run(&bob, "SHOW CATALOGS").await.unwrap()), ["lake", "system"]);
    let hidden = door.error(&bob, "SELECT * FROM ledger.s.t").await;
    let missing = door.error(&bob, "SELECT * FROM ledgex.s.t").await;
    assert_eq!(hidden.code(), ErrorCode::CatalogNotFound);
    assert_eq!(hidden.to_string().replace("ledger", "ledgex"), missing.to_string());
    assert!(!missing.to_string().contains("ledger"), "{missing}");

    let error = door.error(&bob, "SELECT * FROM lake.s.orderz").await;
    assert_eq!((error.code(), error.hint()), (ErrorCode::TableNotFound, Some("did you mean lake.s.orders?")));
    assert_eq!(door.error(&bob, "SELECT * FROM lake.z.orders").await.code(), ErrorCode::SchemaNotFound);
    assert_eq!(door.error(&bob, "SELECT idd FROM lake.s.orders").await.code(), ErrorCode::ColumnNotFound);
    assert_eq!(door.error(&bob, "SELECT coun(id) FROM lake.s.orders").await.code(), ErrorCode::FunctionNotFound);
    assert_eq!(door.error(&bob, "SELECT * FROM read_csv('/etc/passwd')").await.code(), ErrorCode::FunctionNotFound);
    assert_eq!(door.error(&bob, "SELECT * FROM '/etc/passwd'").await.code(), ErrorCode::TableNotFound);
    for sql in
        ["INSERT INTO lake.s.orders VALUES (1)", "DROP TABLE lake.s.orders", "CREATE TABLE lake.s.x AS SELECT 1 AS a"]
    {
        let error = door.error(&bob, sql).await;
        assert_eq!(error.code(), ErrorCode::PermissionDenied, "{sql}: {error}");
        assert!(error.message().contains("lake"), "{error}");
    }
    assert_eq!(door.error(&bob, "DROP TABLE ledger.s.t").await.code(), ErrorCode::CatalogNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_typed_and_checked() {
    let (door, ann) = (Door::open().await, session("ann"));
    door.run(&ann, "CREATE SCHEMA lake.s").await.unwrap();
    door.run(&ann, "CREATE TABLE lake.s.t (id BIGINT, name VARCHAR)").await.unwrap();
    let insert = "INSERT INTO lake.s.t VALUES (?, ?)";
    let prepared = door.service.prepare(&ann, insert).await.unwrap();
    assert_eq!(*prepared.parameters.field(0).data_type(), DataType::Int64);
    let row = |id: i64, name: &str| {
        let fields = vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)];
        let columns: Vec<Arc<dyn Array>> =
            vec![Arc::new(Int64Array::from(vec![id])), Arc::new(StringArray::from(vec![name]))];
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    };
    door.run_with(&ann, insert, Some(row(7, "seven"))).await.unwrap();
    let select = "SELECT name FROM lake.s.t WHERE id = ? AND name = ?";
    assert_eq!(texts(&door.run_with(&ann, select, Some(row(7, "seven"))).await.unwrap()), ["seven"]);
    assert!(texts(&door.run_with(&ann, select, Some(row(8, "seven"))).await.unwrap()).is_empty());
    assert_eq!(door.error(&ann, select).await.code(), ErrorCode::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_seen_by_their_user_and_administrators() {
    let (door, ann, bob, root) = (Door::open().await, session("ann"), session("bob"), session("root"));
    door.run(&ann, "SELECT 1").await.unwrap();
    door.error(&bob, "SELECT nothing").await;
    let own = "SELECT DISTINCT \"user\" FROM system.runtime.queries ORDER BY 1";
    assert_eq!(texts(&door.run(&bob, own).await.unwrap()), ["bob"]);
    assert_eq!(texts(&door.run(&root, own).await.unwrap()), ["ann", "bob", "root"]);
    let failed = "SELECT code FROM system.runtime.queries WHERE state = 'FAILED'";
    assert_eq!(texts(&door.run(&bob, failed).await.unwrap()), ["COLUMN_NOT_FOUND"]);

    let prepared = door.service.prepare(&ann, "SELECT * FROM generate_series(1, 1000000000)").await.unwrap();
    let mut running = door.service.execute(&ann, &prepared, None, None).await.unwrap();
    assert!(running.rows.try_next().await.unwrap().is_some());
    let kill = format!("CALL system.runtime.kill_query('{}')", running.id);
    assert_eq!(door.error(&bob, &kill).await.code(), ErrorCode::QueryNotFound);
    door.run(&root, &kill).await.unwrap();
    let error = running.rows.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(from_datafusion(&error).code(), ErrorCode::Cancelled);
    assert_eq!(door.service.registry().running(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_rows_and_running_out_of_time_end_a_query() {
    let (door, ann) = (Door::open().await, session("ann"));
    let endless = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000000) b";
    let prepared = door.service.prepare(&ann, endless).await.unwrap();
    let running = door.service.execute(&ann, &prepared, None, None).await.unwrap();
    let id = running.id.clone();
    assert_eq!(door.service.registry().running(), 1);
    drop(running);
    assert_eq!(door.service.registry().running(), 0);
    let ended = door.service.registry().list().into_iter().find(|query| query.id == id).unwrap();
    assert_eq!(ended.code, Some(ErrorCode::Cancelled));

    door.run(&ann, "SET SESSION query_timeout = '200ms'").await.unwrap();
    let began = std::time::Instant::now();
    assert_eq!(door.error(&ann, endless).await.code(), ErrorCode::Timeout);
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_executor_a_cluster_query_says_so() {
    let (door, ann) = (Door::open().await, session("ann"));
    door.run(&ann, "CREATE SCHEMA lake.s").await.unwrap();
    door.run(&ann, "CREATE TABLE lake.s.t AS SELECT 1 AS id").await.unwrap();
    let join = "SELECT count(*) FROM lake.s.t a JOIN lake.s.t b USING (id)";
    let plan = door.text(&ann, &format!("EXPLAIN {join}")).await;
    assert!(plan.contains("stage 1") && plan.contains("lake.s.t"), "{plan}");
    assert_eq!(door.error(&ann, join).await.code(), ErrorCode::NoExecutors);
    let analyzed = door.text(&ann, "EXPLAIN ANALYZE SELECT * FROM lake.s.t").await;
    assert!(analyzed.contains("1 rows in"), "{analyzed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_goes_by_name_and_mode() {
    let (door, ann) = (Door::open().await, session("ann"));
    door.run(&ann, "CREATE SCHEMA lake.s").await.unwrap();
    let batch = |column: &str| {
        let schema = Arc::new(Schema::new(vec![Field::new(column, DataType::Int64, true)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![1, 2, 3]))]).unwrap()
    };
    let ingest = async |mode: IngestMode, column: &str| {
        let data = batch(column);
        let stream = MemoryStream::try_new(vec![data.clone()], data.schema(), None).unwrap();
        let target = IngestTarget {
            catalog: Some("lake".to_string()),
            schema: Some("s".to_string()),
            table: "t".to_string(),
            mode,
        };
        door.service.ingest(&ann, target, Box::pin(stream)).await
    };
    assert_eq!(ingest(IngestMode::Append, "id").await.unwrap_err().code(), ErrorCode::TableNotFound);
    assert_eq!(ingest(IngestMode::Create, "id").await.unwrap(), 3);
    assert_eq!(ingest(IngestMode::Create, "id").await.unwrap_err().code(), ErrorCode::AlreadyExists);
    assert_eq!(ingest(IngestMode::CreateAppend, "id").await.unwrap(), 3);
    assert_eq!(ingest(IngestMode::Append, "idx").await.unwrap_err().code(), ErrorCode::ColumnNotFound);
    assert_eq!(number(&door.run(&ann, "SELECT count(id) FROM lake.s.t").await.unwrap()), 6);
    assert_eq!(ingest(IngestMode::Replace, "other").await.unwrap(), 3);
    assert_eq!(number(&door.run(&ann, "SELECT sum(other) FROM lake.s.t").await.unwrap()), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_finds_nothing_for_hours_can_be_cancelled_and_holds_up_nobody() {
    let (door, ann) = (Arc::new(Door::open().await), session("ann"));
    let pairs = |rows: u32| {
        format!(
            "SELECT count(*) FROM generate_series(1, {rows}) AS a(x) JOIN generate_series(1, {rows}) AS b(y) ON x * y < 0"
        )
    };
    // More than there are threads for them.
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let (mut ids, mut running) = (Vec::new(), Vec::new());
    for _ in 0..=threads {
        let prepared = door.service.prepare(&ann, &pairs(3_000_000)).await.unwrap();
        let query = door.service.execute(&ann, &prepared, None, None).await.unwrap();
        ids.push(query.id.clone());
        running.push(tokio::spawn(query.rows.try_collect::<Vec<_>>()));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(running.iter().all(|query| !query.is_finished()));
    let asked = Instant::now();
    assert_eq!(number(&door.run(&ann, "SELECT 1").await.unwrap()), 1);
    assert!(asked.elapsed() < Duration::from_secs(1), "SELECT 1 took {:?}", asked.elapsed());

    let cancelled = Instant::now();
    // One client goes away, the others cancel.
    running.remove(0).abort();
    for id in &ids[1..] {
        door.service.cancel(&ann.principal, id).await.unwrap();
    }
    for query in running {
        let error = from_datafusion(&query.await.unwrap().unwrap_err());
        assert_eq!(error.code(), ErrorCode::Cancelled);
    }
    // Their threads are free again.
    assert_eq!(number(&door.run(&ann, &pairs(10)).await.unwrap()), 0);
    assert!(cancelled.elapsed() < Duration::from_secs(2), "stopped after {:?}", cancelled.elapsed());
}
