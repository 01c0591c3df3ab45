//! All 22 TPC-H queries on a coordinator and two executors, each a process of its own, once with every table in Iceberg and
//! once with two of them in Postgres: value by value and in order what single-process DataFusion makes of the same Parquet
//! files, and really spread.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Cursor;
use std::ops::ControlFlow;

use arrow::array::RecordBatch;
use datafusion::sql::sqlparser::ast::{Ident, ObjectName, visit_relations_mut};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use futures::SinkExt;
use tokio_postgres::Client;
use townlake_benchmarks::{Engine, SingleProcess, difference, is_ordered};
use townlake_cli::args::LoadMode;
use townlake_cli::load;
use townlake_cli::tpch::{QUERIES, Table};
use townlake_tests::bed::{BedSpec, TestBed};
use tpchgen::generators::{CustomerGenerator, NationGenerator};

const SCALE: f64 = 0.1;

/// The tables that lie in Postgres the second time.
const IN_POSTGRES: [&str; 2] = ["customer", "nation"];

#[tokio::test(flavor = "multi_thread")]
async fn all_22_queries_are_right_and_spread_over_two_executors() {
    let spec = BedSpec { executors: 2, memory: "2GB", executor_wait: "10s", scale: 0.0, postgres: true };
    let Some(bed) = TestBed::start("tpch", spec).await else { return };
    load::tpch(&bed.connection, "lake", "tpch", SCALE, &Table::ALL, LoadMode::Create).await.expect("load TPC-H");
    load_postgres(&bed).await;
    bed.run("USE lake.tpch").await;
    bed.run("SET SESSION execution = 'cluster'").await;
    let single = SingleProcess::new(2);
    for table in Table::ALL {
        let folder = bed.folder().join("warehouse").join("tpch").join(table.name()).join("data");
        single.register(table.name(), &folder).await.expect("register the same files");
    }
    let mut faults = Vec::new();
    for (number, sql) in (1..).zip(QUERIES) {
        let expected = single.run(sql).await.unwrap_or_else(|error| panic!("q{number}: {error:?}"));
        assert!(expected.iter().any(|batch| batch.num_rows() > 0), "q{number} says nothing: it proves nothing");
        for (place, text) in [("Iceberg", sql.to_string()), ("Iceberg and Postgres", partly_in_postgres(sql))] {
            let found = check(&bed, &text, is_ordered(sql), &expected).await;
            faults.extend(found.err().map(|fault| format!("q{number} over {place}: {fault}")));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    bed.finish(&[]);
}

/// Runs a query; says how its answer differs, or how it did not run as it should have.
async fn check(bed: &TestBed, sql: &str, ordered: bool, expected: &[RecordBatch]) -> Result<(), String> {
    let query = bed.connection.query(sql).await.map_err(|error| format!("{error:?}"))?;
    let ours = read(bed, &query).await.map_err(|error| format!("{error:?}"))?;
    if let Some(difference) = difference(&ours, expected, ordered) {
        return Err(difference);
    }
    is_spread(bed, &query.id.expect("the server names the query")).await
}

/// What `system.runtime.tasks` says of a query: at least two stages, one of them of several partitions whose exchange both
/// executors took part in, and every task at the first attempt.
async fn is_spread(bed: &TestBed, query: &str) -> Result<(), String> {
    let sql = format!(
        "SELECT stage, executor, max(attempt), sum(partitions), count(*) FROM system.runtime.tasks \
         WHERE query_id = '{query}' GROUP BY stage, executor ORDER BY stage, executor"
    );
    let number = |text: &String| text.parse::<u64>().expect("a number");
    let rows = bed.rows(&sql).await;
    let mut partitions = BTreeMap::<&str, u64>::new();
    let mut tasks = BTreeMap::<&str, u64>::new();
    for row in &rows {
        *partitions.entry(&row[0]).or_default() += number(&row[3]);
        *tasks.entry(&row[1]).or_default() += number(&row[4]);
    }
    let fault = if rows.iter().any(|row| number(&row[2]) != 1) {
        "a task was tried again"
    } else if partitions.len() < 2 {
        "there is no exchange between stages"
    } else if !partitions.values().any(|partitions| *partitions >= 2) {
        "no stage has several partitions"
    } else if tasks.len() != 2 {
        "not both executors had tasks"
    } else {
        return Ok(());
    };
    let header = "stage, executor, last attempt, partitions, tasks";
    Err(format!("{fault} ({header}): {}", rows.iter().map(|row| row.join(" ")).collect::<Vec<_>>().join("; ")))
}

async fn read(bed: &TestBed, query: &townlake_cli::connection::Query) -> townlake_common::Result<Vec<RecordBatch>> {
    use futures::TryStreamExt;
    bed.connection.rows(query).await?.batches.try_collect().await
}

/// The query with [`IN_POSTGRES`] read from there. Only relations are renamed: `nation` is an alias of a column, too.
fn partly_in_postgres(sql: &str) -> String {
    let mut statements = Parser::parse_sql(&GenericDialect {}, sql).expect("parse a TPC-H query");
    let _ = visit_relations_mut(&mut statements, |name| {
        let table = name.to_string();
        if IN_POSTGRES.contains(&table.as_str()) {
            *name = ObjectName::from(["crm", "public", table.as_str()].map(Ident::new).to_vec());
        }
        ControlFlow::<()>::Continue(())
    });
    statements[0].to_string()
}

const TABLES: &str = "
CREATE TABLE nation (n_nationkey bigint PRIMARY KEY, n_name varchar(25) NOT NULL, n_regionkey bigint NOT NULL, n_comment varchar(152));
CREATE TABLE customer (c_custkey bigint PRIMARY KEY, c_name varchar(25) NOT NULL, c_address varchar(40) NOT NULL,
    c_nationkey bigint NOT NULL REFERENCES nation, c_phone char(15) NOT NULL, c_acctbal numeric(15,2) NOT NULL,
    c_mktsegment varchar(10) NOT NULL, c_comment varchar(117) NOT NULL);";

async fn load_postgres(bed: &TestBed) {
    let postgres = bed.postgres.as_ref().expect("the bed has a Postgres");
    let client = postgres.connect("postgres").await.expect("connect to Postgres");
    client.batch_execute(TABLES).await.expect("create tables in Postgres");
    copy(&client, "nation", NationGenerator::new(SCALE, 1, 1).iter()).await;
    copy(&client, "customer", CustomerGenerator::new(SCALE, 1, 1).iter()).await;
    client.batch_execute("ANALYZE").await.expect("analyse");
}

/// Copies rows in TPC-H's own form: fields and a last one end with `|`, which no field contains.
async fn copy(client: &Client, table: &str, rows: impl Iterator<Item = impl Display>) {
    let text: String = rows.map(|row| format!("{}\n", row.to_string().trim_end_matches('|'))).collect();
    let statement = format!("COPY {table} FROM STDIN (DELIMITER '|')");
    let sink = client.copy_in::<_, Cursor<Vec<u8>>>(statement.as_str()).await.expect("begin COPY");
    futures::pin_mut!(sink);
    sink.send(Cursor::new(text.into_bytes())).await.expect("COPY");
    sink.finish().await.expect("end COPY");
}
