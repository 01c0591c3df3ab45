//! Through pgbouncer, which gives a server's connection to one client after another: by session, and by transaction.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::physical_plan::{ExecutionPlanProperties, execute_stream, execute_stream_partitioned};
use futures::{StreamExt, stream};
use townlake_common::ErrorCode;
use townlake_connectors::InsertInto;
use townlake_tests::pgbouncer::PgBouncer;

use super::{Crm, collect, connections, query, session};

const DATA: &str = "CREATE TYPE mood AS ENUM ('ok', 'bad');
    CREATE TABLE accounts (id int8 PRIMARY KEY, balance int8, seen timestamptz, price numeric(12,2), mood mood, pad text);
    INSERT INTO accounts SELECT i, 100, '2024-01-01 00:00+00'::timestamptz + i * interval '1 s', i / 4.0,
        CASE WHEN i % 2 = 0 THEN 'ok'::mood END, repeat('x', 100) FROM generate_series(1, 40000) i;
    CREATE TABLE taken (id int8, note text);
    CREATE VIEW endless AS SELECT i, pg_sleep(0.01)::text AS s FROM generate_series(1, 1000000) i; ANALYZE";

/// A test's database behind a pooler.
struct Pooled {
    crm: Crm,
    _pooler: PgBouncer,
    url: String,
}

impl Pooled {
    async fn start(test: &str, mode: &str, pool: usize, keys: &str) -> Option<Self> {
        let Crm { postgres, admin, .. } = Crm::new(test, DATA).await?;
        let pooler = PgBouncer::start(test, &postgres, mode, pool)?;
        let url = pooler.url(test);
        let connections = connections(&url, &format!("connections = 8\npass_through = true\n{keys}"));
        Some(Self { crm: Crm { postgres, admin, connections }, _pooler: pooler, url })
    }
}

async fn everything_works(test: &str, mode: &str) {
    let Some(pooled) = Pooled::start(test, mode, 12, "").await else { return };
    let crm = &pooled.crm;
    let source = crm.source();
    assert_eq!(source.list_schemas(&query()).await.unwrap(), ["public"]);
    assert_eq!(source.list_tables(&query(), "public").await.unwrap().len(), 3);
    assert_eq!(source.keys(&query(), "public", "accounts").await.unwrap().primary, ["id"]);

    // Splits on one snapshot, over several of the server's connections, while others write.
    for round in 0..3 {
        let context = query();
        let (plan, text) = crm.plan(&context, &["accounts"], "SELECT id, balance FROM accounts").await;
        assert!(plan.output_partitioning().partition_count() > 4, "{text}");
        let sql = "UPDATE accounts SET balance = balance - 50 WHERE id = 1; INSERT INTO accounts (id, balance) \
            SELECT max(id) + 1, 50 FROM accounts";
        crm.admin.batch_execute(sql).await.unwrap();
        let task = session(&context, &crm.connections, 8).task_ctx();
        let (mut ids, mut sum) = (BTreeSet::new(), 0);
        for mut partition in execute_stream_partitioned(plan, task).unwrap() {
            while let Some(batch) = partition.next().await {
                let batch = batch.unwrap();
                ids.extend(batch.column(0).as_primitive::<Int64Type>().values().iter().copied());
                sum += batch.column(1).as_primitive::<Int64Type>().values().iter().sum::<i64>();
            }
        }
        assert_eq!((ids.len(), sum), (40_000 + round, 4_000_000), "{mode}");
    }

    // Values as without it, whatever the connection was set to before.
    let sql = "SELECT min(seen) AS a, sum(price) AS s, count(mood) AS m FROM accounts WHERE id <= 40000";
    let text = crm.show(&["accounts"], sql).await;
    assert!(text.contains("2024-01-01T00:00:01Z") && text.contains("200005000.00") && text.contains("20000"), "{text}");

    // Statements are prepared for it, twice, with a type that the driver must look up.
    for _ in 0..3 {
        let context = query();
        let table = source.query(&context, "SELECT mood, id FROM accounts WHERE id < 3").await.unwrap();
        let session = session(&context, &crm.connections, 2);
        session.register_table("q", table).unwrap();
        let rows = collect(&session, "SELECT mood FROM q ORDER BY id").await.unwrap();
        assert_eq!(rows[0].column(0).as_string::<i32>().iter().collect::<Vec<_>>(), [None, Some("ok")]);
    }

    insert(crm).await;
    cancel(crm).await;
    nothing_is_left(&pooled).await;
}

async fn insert(crm: &Crm) {
    let context = query();
    let schema = crm.table(&context, "taken").await.schema();
    let ids = Arc::new(Int64Array::from(vec![1, 2]));
    let notes = Arc::new(StringArray::from(vec![Some("a"), None]));
    let rows = RecordBatch::try_new(Arc::clone(&schema), vec![ids, notes]).unwrap();
    let into = InsertInto {
        schema: "public".to_string(),
        table: "taken".to_string(),
        columns: schema.fields().iter().cloned().collect(),
    };
    let rows = stream::iter([Ok(rows)]).boxed();
    assert_eq!(crm.source().insert(&context, &into, rows).await.unwrap(), 2);
    let row = crm.admin.query_one("SELECT count(*), count(note) FROM taken", &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (2, 1));
}

/// A statement that nobody reads any more ends on the server.
async fn cancel(crm: &Crm) {
    let context = query();
    let (plan, _) = crm.plan(&context, &["endless"], "SELECT s FROM endless").await;
    let task = session(&context, &crm.connections, 2).task_ctx();
    let mut rows = execute_stream(plan, task).unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(500), rows.next()).await;
    assert!(waited.is_err(), "it has rows at once");
    assert!(crm.backends(&context).await.iter().any(|backend| backend.contains("COPY")), "it runs");
    drop(rows);
    context.release();
    drop(context);
    let name = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%endless%' AND state <> 'idle'";
    for _ in 0..100 {
        if crm.admin.query_one(name, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the statement still runs");
}

/// The next client of the server's connections finds them as they were.
async fn nothing_is_left(pooled: &Pooled) {
    pooled.crm.source().refresh(); // closes what lies idle: by session it would keep its connections of the server
    let mut others = Vec::new();
    for _ in 0..6 {
        let (client, connection) = tokio_postgres::connect(&pooled.url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        others.push(client);
    }
    for other in &others {
        // Each holds a connection of the server's own.
        other.batch_execute("BEGIN").await.unwrap();
        let sql = "SELECT current_setting('default_transaction_read_only') || current_setting('TimeZone') || \
            current_setting('statement_timeout') || current_setting('application_name'), \
            (SELECT count(*)::text FROM pg_prepared_statements)";
        let rows = other.simple_query(sql).await.unwrap();
        let row = rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some((row.get(0).unwrap(), row.get(1).unwrap())),
            _ => None,
        });
        let (settings, prepared) = row.unwrap();
        // pgbouncer itself leaves the name that its last client gave at the start; that of a query is gone.
        assert!(settings.starts_with("off") && !settings.contains("townlake "), "{settings}");
        assert_eq!(prepared, "0", "{settings}");
        other.batch_execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_by_transaction() {
    everything_works("pooled_by_transaction", "transaction").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_by_session() {
    everything_works("pooled_by_session", "session").await;
}

/// The pooler makes a statement wait that it has no connection for: that is told, and not waited for without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_is_too_small_is_named() {
    let keys = "connect_timeout = \"700ms\"";
    let Some(pooled) = Pooled::start("pooled_too_small", "transaction", 1, keys).await else { return };
    let context = query();
    let session = pooled.crm.session(&context, 4, &["accounts"]).await;
    // The snapshot of the query has the only connection; its split gets none.
    let error = collect(&session, "SELECT sum(balance) AS s FROM accounts").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SourceUnavailable, "{error}");
    assert!(error.is_retryable() && error.message().contains("did not answer in time"), "{error}");
    drop(session);
    drop(Arc::clone(&context));
}
