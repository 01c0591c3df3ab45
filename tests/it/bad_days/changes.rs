//! Tables that change between planning and reading, and tables that are dropped in the middle of a scan.

use std::time::Duration;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::ipc::writer::StreamWriter;
use tonic::Status;
use townlake_common::{Error, ErrorCode, Result};
use townlake_proto::bigquery_storage as google;
use townlake_tests::line::Mode;

use super::scene::{BigQuery, InClickHouse, InKafka, InPostgres, Kind, Sources, ask, lines, rows, tells_no_secret};
use crate::bigquery::mock_google::Step;
use crate::sources::{connections_of, query, session, typed};

/// Looks up a table `t` of a source, lets it change, plans its scan and reads. (The door does all of it when it is read, so that this asks the
/// connector. Once the scan is planned, Postgres holds the table for us: changes wait.)
async fn read_after(sources: &Sources, kind: Kind, sql: &str, change: impl AsyncFn()) -> Result<Vec<String>> {
    let (connections, query) = (connections_of(&sources.catalogs()), query());
    let session = session(&query, &connections, 2);
    let schema = if kind == InPostgres { "public" } else { "big" };
    let table = connections.source(kind.catalog()).unwrap().table(&query, schema, "t").await?;
    session.register_table("t", table.expect("the table is there")).unwrap();
    let planned = session.sql(sql).await.map_err(typed)?;
    change().await;
    let plan = planned.create_physical_plan().await.map_err(typed)?;
    let batches = datafusion::physical_plan::collect(plan, session.task_ctx()).await.map_err(typed)?;
    Ok(lines(&batches))
}

fn told(found: Result<Vec<String>>, code: ErrorCode, names: &[&str]) -> Error {
    let error = found.expect_err("the table has changed");
    assert_eq!(error.code(), code, "{error:?}");
    assert!(names.iter().all(|name| error.message().contains(name)), "{names:?}: {error:?}");
    tells_no_secret(&error);
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_column_that_is_dropped_or_changed_between_planning_and_reading_is_told() {
    let Some(sources) = Sources::start("changed_schema").await else { return };
    let town = sources.town().await;
    let ann = town.connect("ann", "a password").await;
    let admin = sources.postgres.connect("postgres").await;
    let make =
        "DROP TABLE IF EXISTS t; CREATE TABLE t AS SELECT i::int8 AS id, 'n' || i AS note FROM generate_series(1, 9) i";
    let in_postgres = async |sql: &str| admin.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let all = "SELECT id, note FROM t WHERE note LIKE '%7'";

    in_postgres(make).await;
    let found =
        read_after(&sources, InPostgres, all, async || in_postgres("ALTER TABLE t DROP COLUMN note").await).await;
    told(found, ErrorCode::ColumnNotFound, &["catalog pg", "public.t", "note"]);
    // Another type is cast to the planned one where that is possible, and an error where not.
    in_postgres(make).await;
    let found = read_after(&sources, InPostgres, all, async || {
        in_postgres("ALTER TABLE t ALTER note TYPE bytea USING 'x7'").await
    })
    .await;
    assert!(found.as_ref().is_ok_and(|rows| rows.iter().all(|row| !row.contains("n7"))) || found.is_err(), "{found:?}");
    in_postgres(make).await;
    let words = "ALTER TABLE t ALTER id TYPE text USING 'hunter2 ' || id";
    let error = told(
        read_after(&sources, InPostgres, all, async || in_postgres(words).await).await,
        ErrorCode::SourceError,
        &["public.t"],
    );
    assert!(error.message().contains("22P02"), "{error:?}");

    let run = async |sql: &str| drop(sources.clickhouse.run(sql).await);
    let make = async || {
        for sql in [
            "DROP TABLE IF EXISTS big.t",
            "CREATE TABLE big.t (id Int64, note String) ENGINE = MergeTree ORDER BY tuple()",
            "INSERT INTO big.t SELECT toInt64(number), concat('n', toString(number)) FROM numbers(9)",
        ] {
            run(sql).await;
        }
    };
    let all = "SELECT id, note FROM t WHERE note LIKE '%7'";
    make().await;
    let drop = "ALTER TABLE big.t DROP COLUMN note";
    let found = read_after(&sources, InClickHouse, all, async || run(drop).await).await;
    told(found, ErrorCode::ColumnNotFound, &["catalog ch", "big.t"]);
    make().await;
    let change = "ALTER TABLE big.t MODIFY COLUMN id String";
    let found = read_after(&sources, InClickHouse, all, async || run(change).await).await;
    assert_eq!(found.unwrap(), ["7 n7"], "text that is a number is cast to the planned type");

    // Of the mock: the session was planned as INT64, and text comes.
    let texts: ArrayRef = std::sync::Arc::new(StringArray::from(vec!["hunter2"]));
    let batch = RecordBatch::try_from_iter([("id", texts)]).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    let schema = std::mem::take(writer.get_mut());
    writer.write(&batch).unwrap();
    let batch = std::mem::take(writer.get_mut());
    sources.bigquery.state().session = Some(google::ReadSession {
        name: "projects/p/locations/eu/sessions/s".to_string(),
        arrow_schema: Some(google::ArrowSchema { serialized_schema: schema }),
        streams: vec![google::ReadStream { name: "projects/p/locations/eu/sessions/s/streams/1".to_string() }],
        ..Default::default()
    });
    sources.bigquery_answers((0..9).map(|_| vec![Step::Bytes(batch.clone())]));
    let found = rows(&ann, "SELECT id FROM bq.d.t").await;
    let error = told(found, ErrorCode::DataCorrupt, &["column bq.d.t.id", "comes as Utf8, not Int64", "stream 1"]);
    assert!(error.hint().is_some_and(|hint| hint.contains("changed meanwhile")), "{error:?}");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_table_that_is_dropped_in_mid_scan_is_read_whole_or_told() {
    let Some(sources) = Sources::start("dropped_in_mid_scan").await else { return };
    let town = sources.town().await;
    let ann = town.connect("ann", "a password").await;
    // Postgres keeps the table for whoever reads it: the DROP waits.
    let (sql, answer) = InPostgres.read_all();
    sources.stop_in_the_middle(InPostgres, Mode::Silent);
    let (_, reading) = ask(&ann, &sql).await;
    sources.until_in_the_middle(InPostgres).await;
    let admin = sources.postgres.connect("postgres").await;
    let locked = admin.batch_execute("SET lock_timeout = '300ms'; DROP TABLE big").await.unwrap_err();
    assert_eq!(locked.code().map(|code| code.code()), Some("55P03"), "{locked}");
    sources.line(InPostgres).set(Mode::Open);
    assert_eq!(reading.await.unwrap().unwrap(), [answer]);
    admin.batch_execute("SET lock_timeout = '5s'; DROP TABLE big").await.expect("nobody holds it now");

    // ClickHouse: whole, or told; splits that begin after the DROP do not find it.
    let (sql, answer) = InClickHouse.read_all();
    sources.stop_in_the_middle(InClickHouse, Mode::Silent);
    let (_, reading) = ask(&ann, &sql).await;
    sources.until_in_the_middle(InClickHouse).await;
    let dropping = sources.clickhouse.run("DROP TABLE big.big");
    let opening = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        sources.line(InClickHouse).set(Mode::Open);
    };
    tokio::join!(dropping, opening);
    whole_or_gone(reading.await.unwrap(), &answer);

    // Kafka: what a broker has sent is read, and the rest is not there any more.
    let (sql, answer) = InKafka.read_all();
    sources.stop_in_the_middle(InKafka, Mode::Silent);
    let (_, reading) = ask(&ann, &sql).await;
    sources.until_in_the_middle(InKafka).await;
    sources.line(InKafka).set(Mode::Open);
    tokio::task::block_in_place(|| sources.kafka.python("done(admin.delete_topics(['big']))"));
    whole_or_gone(reading.await.unwrap(), &answer);

    // BigQuery, of the mock: the session's table is gone behind some rows.
    let gone = || vec![Step::Below(8192), Step::Fails(Status::not_found("Table is gone"))];
    sources.bigquery_answers((0..9).map(|_| gone()));
    told(rows(&ann, &BigQuery.read_all().0).await, ErrorCode::TableNotFound, &["catalog bq", "d.t"]);
    for kind in super::scene::ALL {
        sources.until_gone(kind, "its table was dropped").await;
    }
    town.stop().await;
}

fn whole_or_gone(found: Result<Vec<String>>, answer: &str) {
    eprintln!("  {found:?}");
    match found {
        Ok(found) => assert_eq!(found, [answer], "no row is missing"),
        Err(error) => assert_eq!(error.code(), ErrorCode::TableNotFound, "{error:?}"),
    }
}
