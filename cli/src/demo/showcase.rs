//! The questions of the demo.

mod federation;

use std::time::Instant;

use arrow::util::pretty::pretty_format_batches;
use futures::TryStreamExt;
use townlake_common::{Error, Result};

use super::sources::Sources;
use crate::args::ConnectArgs;
use crate::connection::Connection;

/// Where the data lies.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    /// In Iceberg, and in Postgres.
    Cluster,
    /// In Iceberg, and in a second Iceberg catalog.
    Embedded,
    /// In Iceberg and four sources: other questions.
    Federation(&'a Sources),
}

impl Place<'_> {
    /// The catalogs, to be told.
    pub fn catalogs(self) -> &'static str {
        match self {
            Place::Cluster | Place::Embedded => "lake (Iceberg, schema tpch) and crm (schema public)",
            Place::Federation(_) => {
                "lake (Iceberg), crm (Postgres, schema public), stock (ClickHouse), bus (Kafka), partners (BigQuery's stand-in); \
                 but for crm the schema is tpch"
            }
        }
    }
}

const FEDERATED: &str = "\
SELECT n.n_name AS nation, count(DISTINCT o.o_orderkey) AS orders,
       sum(l.l_extendedprice * (1 - l.l_discount)) AS revenue
FROM lake.tpch.lineitem l
JOIN lake.tpch.orders o ON o.o_orderkey = l.l_orderkey
JOIN crm.public.customer c ON c.c_custkey = o.o_custkey
JOIN crm.public.nation n ON n.n_nationkey = c.c_nationkey
WHERE c.c_mktsegment = 'BUILDING' AND o.o_orderdate >= DATE '1997-01-01'
GROUP BY n.n_name ORDER BY revenue DESC LIMIT 5";

const AGGREGATE: &str = "\
SELECT l_returnflag, l_linestatus, count(*) AS items, sum(l_quantity) AS quantity,
       avg(l_extendedprice) AS average_price
FROM lake.tpch.lineitem WHERE l_shipdate <= DATE '1998-09-02'
GROUP BY l_returnflag, l_linestatus ORDER BY 1, 2";

/// Asks the questions and prints what comes back.
pub async fn run(connect: &ConnectArgs, place: Place<'_>) -> Result<()> {
    let connection = Connection::open(connect).await?;
    let second = match place {
        Place::Federation(sources) => return federation::run(&connection, sources).await,
        Place::Cluster => "customers and nations from Postgres",
        Place::Embedded => "customers and nations from a second Iceberg catalog",
    };
    ask(&connection, 1, &format!("a federated join: orders and line items from Iceberg, {second}"), FEDERATED).await?;
    ask(&connection, 2, "an aggregate over Iceberg", AGGREGATE).await?;
    ask(&connection, 3, "what each source is asked, and the stages", &format!("EXPLAIN {FEDERATED}")).await?;

    let before = chrono::Utc::now().format("%Y-%m-%d %H:%M:%S%.3f");
    // a snapshot's time has milliseconds: the next one must be later than `before`
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    connection.run("INSERT INTO lake.tpch.region VALUES (5, 'ATLANTIS', 'risen')").await?;
    let travel = format!(
        "SELECT 'now' AS at, count(*) AS regions FROM lake.tpch.region\n\
         UNION ALL\n\
         SELECT 'before', count(*) FROM lake.tpch.region FOR TIMESTAMP AS OF TIMESTAMP '{before}'\n\
         ORDER BY regions"
    );
    ask(&connection, 4, "time travel: a sixth region was just inserted", &travel).await?;
    Ok(())
}

/// Asks one question and prints the answer; the query's id.
async fn ask(connection: &Connection, number: usize, title: &str, sql: &str) -> Result<Option<String>> {
    println!("\n── {number}. {title} ──\n{sql}\n");
    let started = Instant::now();
    let query = connection.query(sql).await?;
    let batches: Vec<_> = connection.rows(&query).await?.batches.try_collect().await?;
    let elapsed = started.elapsed();
    if sql.starts_with("EXPLAIN") {
        print_plan(&batches);
    } else {
        let table = pretty_format_batches(&batches);
        println!("{}", table.map_err(|e| Error::internal("the result cannot be shown").with_source(e))?);
    }
    println!("({:.3} s)", elapsed.as_secs_f64());
    Ok(query.id)
}

/// A plan is text of many lines in few cells: shown as it is, not inside a frame.
fn print_plan(batches: &[arrow::record_batch::RecordBatch]) {
    for batch in batches {
        for row in 0..batch.num_rows() {
            for column in batch.columns() {
                let cell = arrow::util::display::array_value_to_string(column, row).unwrap_or_default();
                println!("{cell}");
            }
        }
    }
}
