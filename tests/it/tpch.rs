//! All 22 TPC-H queries on a coordinator and two executors, each a process of its own: with every table in Iceberg, with two
//! of them in Postgres, and with the eight spread over Postgres, ClickHouse, Kafka, BigQuery's stand-in and Iceberg. Value by
//! value and in order what single-process DataFusion makes of the same Parquet files, and really spread.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use arrow::array::RecordBatch;
use datafusion::sql::sqlparser::ast::{Ident, ObjectName, visit_relations_mut};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use townlake_benchmarks::{Engine, SingleProcess, difference, is_ordered};
use townlake_cli::args::LoadMode;
use townlake_cli::demo::PLACES;
use townlake_cli::load;
use townlake_cli::tpch::{QUERIES, Table};
use townlake_tests::bed::{BedSpec, TestBed};

const SCALE: f64 = 0.1;

#[tokio::test(flavor = "multi_thread")]
async fn all_22_queries_are_right_and_spread_over_two_executors() {
    let spec = BedSpec {
        executors: 2,
        memory: "2GB",
        executor_wait: "10s",
        scale: 0.0,
        federation: true,
        ..BedSpec::default()
    };
    let Some(bed) = TestBed::start("tpch", spec).await else { return };
    load::tpch(&bed.connection, "lake", "tpch", SCALE, &Table::ALL, LoadMode::Create).await.expect("load TPC-H");
    bed.sources.as_ref().expect("the bed has sources").load(SCALE).await.expect("load the sources");
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
        let in_postgres = |table| matches!(table, Table::Customer | Table::Nation);
        for (place, text) in [
            ("Iceberg", sql.to_string()),
            ("Iceberg and Postgres", placed(sql, in_postgres)),
            ("five systems", placed(sql, |_| true)),
        ] {
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

/// The query with these tables read from their [`PLACES`]. Only relations are renamed: `nation` is an alias of a column, too.
fn placed(sql: &str, is_moved: impl Fn(Table) -> bool) -> String {
    let mut statements = Parser::parse_sql(&GenericDialect {}, sql).expect("parse a TPC-H query");
    let _ = visit_relations_mut(&mut statements, |name| {
        let written = name.to_string();
        if let Some((_, place)) = PLACES.iter().find(|(table, _)| table.name() == written && is_moved(*table)) {
            *name = ObjectName::from(place.split('.').map(Ident::new).collect::<Vec<_>>());
        }
        ControlFlow::<()>::Continue(())
    });
    statements[0].to_string()
}
