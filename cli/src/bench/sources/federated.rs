//! TPC-H query 5 over three systems in one statement: `lineitem` in Iceberg; `customer`, `nation` and `region` in Postgres; `orders` and
//! `supplier` in ClickHouse. Beside DuckDB, which cannot read ClickHouse: it is given those two tables in Postgres.

use std::time::Instant;

use arrow::record_batch::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use tokio::process::Command;
use townlake_benchmarks::median;
use townlake_common::{Error, Result};

use super::postgres::DUCKDB_PYTHON;
use super::{Bed, clickhouse, client, postgres};
use crate::args::LoadMode;
use crate::demo::fill_clickhouse;
use crate::load;
use crate::local::{ClickHouse, Postgres};
use crate::tpch::Table;

/// TPC-H's scale: 6 million rows of `lineitem`, 1.5 million of `orders`.
const SCALE: f64 = 1.0;

const IN_POSTGRES: [&str; 3] = [
    "customer (c_custkey bigint PRIMARY KEY, c_name text, c_address text, c_nationkey bigint, c_phone text, c_acctbal numeric(15, 2), \
     c_mktsegment text, c_comment text)",
    "nation (n_nationkey bigint PRIMARY KEY, n_name text, n_regionkey bigint, n_comment text)",
    "region (r_regionkey bigint PRIMARY KEY, r_name text, r_comment text)",
];

const IN_CLICKHOUSE: [(Table, &str); 2] = [
    (
        Table::Orders,
        "orders (o_orderkey Int64, o_custkey Int64, o_orderstatus String, o_totalprice Decimal(15, 2), o_orderdate Date, \
         o_orderpriority String, o_clerk String, o_shippriority Int32, o_comment String) ENGINE = MergeTree ORDER BY o_orderkey",
    ),
    (
        Table::Supplier,
        "supplier (s_suppkey Int64, s_name String, s_address String, s_nationkey Int64, s_phone String, s_acctbal Decimal(15, 2), \
         s_comment String) ENGINE = MergeTree ORDER BY s_suppkey",
    ),
];

/// The same two in Postgres, for DuckDB alone.
const COPIES: [&str; 2] = [
    "orders (o_orderkey bigint PRIMARY KEY, o_custkey bigint, o_orderstatus text, o_totalprice numeric(15, 2), o_orderdate date, \
     o_orderpriority text, o_clerk text, o_shippriority int, o_comment text)",
    "supplier (s_suppkey bigint PRIMARY KEY, s_name text, s_address text, s_nationkey bigint, s_phone text, s_acctbal numeric(15, 2), \
     s_comment text)",
];

const QUERY: &str = "SELECT n_name, sum(l_extendedprice * (1 - l_discount)) AS revenue \
    FROM {customer} AS c, {orders} AS o, {lineitem} AS l, {supplier} AS s, {nation} AS n, {region} AS r \
    WHERE c_custkey = o_custkey AND l_orderkey = o_orderkey AND l_suppkey = s_suppkey AND c_nationkey = s_nationkey \
    AND s_nationkey = n_nationkey AND n_regionkey = r_regionkey AND r_name = 'ASIA' \
    AND o_orderdate >= DATE '1994-01-01' AND o_orderdate < DATE '1995-01-01' GROUP BY n_name ORDER BY revenue DESC";

/// The query in DuckDB.
const DUCKDB: &str = include_str!("federated_duckdb.py");

pub(super) async fn run(bed: &Bed, of_postgres: &Postgres, of_clickhouse: &ClickHouse, rounds: usize) -> Result<()> {
    load_all(bed, of_postgres, of_clickhouse).await?;
    let sql = query("crm.public", "stock.tpch", "lake.tpch.lineitem");
    println!(
        "TPC-H query 5 at scale {SCALE}: Iceberg (lineitem), Postgres (customer, nation, region), ClickHouse (orders, supplier)"
    );
    let admin = of_postgres.connect("postgres").await?;
    let modes = ["none", "filters", "all"];
    let (mut times, mut counts, mut answers) = (vec![Vec::new(); modes.len()], vec![None; modes.len()], Vec::new());
    for _ in 0..rounds.max(1) {
        for (place, pushdown) in modes.into_iter().enumerate() {
            bed.connection.run(&format!("SET SESSION source_pushdown = '{pushdown}'")).await?;
            postgres::reset(&admin).await?;
            clickhouse::reset(of_clickhouse).await?;
            let started = Instant::now();
            let (_, rows) = bed.connection.collect(&sql).await?;
            if let Some(times) = times.get_mut(place) {
                times.push(started.elapsed().as_secs_f64());
            }
            let moved = (postgres::moved(&admin).await?, clickhouse::moved(of_clickhouse).await?);
            if let Some(count) = counts.get_mut(place) {
                *count = Some(moved);
            }
            answers.push(shown(&rows)?);
        }
    }
    answers.dedup();
    if answers.len() != 1 {
        return Err(Error::internal(format!("the answers differ: {answers:?}")));
    }
    let plain = times.first().and_then(|times| median(times)).unwrap_or_default();
    for (place, pushdown) in modes.into_iter().enumerate() {
        let took = times.get(place).and_then(|times| median(times)).unwrap_or_default();
        let (of_postgres, (rows, bytes)) = counts.get(place).copied().flatten().unwrap_or_default();
        bed.connection.run(&format!("SET SESSION source_pushdown = '{pushdown}'")).await?;
        let wire = wire_bytes(bed, &sql).await?;
        println!(
            "  source_pushdown = {pushdown:<7} {took:>6.2} s ({:.2})   Postgres {of_postgres:>7} rows, {wire} bytes by our scans   \
             ClickHouse {rows:>8} rows, {bytes} bytes",
            took / plain
        );
    }
    bed.connection.run("RESET SESSION source_pushdown").await?;
    duckdb(bed, of_postgres, rounds, plain, answers.first().map(String::as_str).unwrap_or_default()).await
}

async fn load_all(bed: &Bed, of_postgres: &Postgres, of_clickhouse: &ClickHouse) -> Result<()> {
    let tables = [Table::LineItem, Table::Orders, Table::Supplier, Table::Customer, Table::Nation, Table::Region];
    load::tpch(&bed.connection, "lake", "tpch", SCALE, &tables, LoadMode::Create).await?;
    let admin = of_postgres.connect("postgres").await?;
    for definition in IN_POSTGRES.into_iter().chain(COPIES) {
        let create = format!("CREATE TABLE {definition}");
        admin.batch_execute(&create).await.map_err(|error| postgres::failed(&create, error))?;
        let name = definition.split(' ').next().unwrap_or_default();
        bed.connection.run(&format!("INSERT INTO crm.public.{name} SELECT * FROM lake.tpch.{name}")).await?;
    }
    admin.batch_execute("VACUUM ANALYZE").await.map_err(|error| postgres::failed("VACUUM ANALYZE", error))?;
    of_clickhouse.run("CREATE DATABASE tpch", String::new()).await?;
    for (table, definition) in IN_CLICKHOUSE {
        of_clickhouse.run(&format!("CREATE TABLE tpch.{definition}"), String::new()).await?;
        fill_clickhouse(of_clickhouse, table, SCALE).await?;
    }
    Ok(())
}

fn query(of_postgres: &str, of_clickhouse: &str, lineitem: &str) -> String {
    let mut sql = QUERY.replace("{lineitem}", lineitem);
    for (names, place) in
        [(&["customer", "nation", "region"][..], of_postgres), (&["orders", "supplier"], of_clickhouse)]
    {
        for name in names {
            sql = sql.replace(&format!("{{{name}}}"), &format!("{place}.{name}"));
        }
    }
    sql
}

fn shown(rows: &[RecordBatch]) -> Result<String> {
    let table = pretty_format_batches(rows).map_err(|e| Error::internal("rows cannot be shown").with_source(e))?;
    let cells =
        |line: &str| line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join(" ");
    Ok(table.to_string().lines().skip(3).filter(|line| line.starts_with('|')).map(cells).collect::<Vec<_>>().join("; "))
}

/// Postgres counts no bytes: what its scans say that came over the wire.
async fn wire_bytes(bed: &Bed, sql: &str) -> Result<u64> {
    let (_, rows) = bed.connection.collect(&format!("EXPLAIN ANALYZE {sql}")).await?;
    let table = pretty_format_batches(&rows).map_err(|e| Error::internal("a plan cannot be shown").with_source(e))?;
    // As people read it: `1.5 M`.
    let of = |line: &str| {
        let text = line.split("bytes_read=").nth(1)?;
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (digits, rest) = text.split_at_checked(end)?;
        let unit = match rest.trim_start().chars().next() {
            Some('K') => 1e3,
            Some('M') => 1e6,
            Some('G' | 'B') => 1e9,
            _ => 1.0,
        };
        Some((digits.parse::<f64>().ok()? * unit) as u64)
    };
    Ok(table.to_string().lines().filter(|line| line.contains("PostgresScanExec")).filter_map(of).sum())
}

async fn duckdb(bed: &Bed, of_postgres: &Postgres, rounds: usize, plain: f64, answer: &str) -> Result<()> {
    let Some(python) = std::env::var_os(DUCKDB_PYTHON) else {
        println!("  DuckDB: set {DUCKDB_PYTHON} to a Python that has it and its extensions for Iceberg and Postgres");
        return Ok(());
    };
    let admin = of_postgres.connect("postgres").await?;
    postgres::reset(&admin).await?;
    let sql = query("crm.public", "crm.public", "{lineitem}");
    let folder = bed.folder.path().display().to_string();
    let mut command = Command::new(python);
    command.args(["-c", DUCKDB, &of_postgres.port().to_string(), &folder, &rounds.max(1).to_string(), &sql]);
    command.env("PGPASSWORD", of_postgres.password()).env("HOME", bed.folder.path());
    let (lines, _) = client(command, "python3").await?;
    let (took, found) = lines.trim().split_once(' ').unwrap_or_default();
    let seconds: f64 = took.parse().unwrap_or_default();
    let rows = postgres::moved(&admin).await? / (rounds.max(1) as u64 + 1);
    println!(
        "  DuckDB, two threads, all but lineitem in Postgres: {seconds:.2} s ({:.2})   Postgres {rows} rows   the answer is {}",
        seconds / plain,
        if found.trim() == answer { "the same" } else { "ANOTHER" }
    );
    Ok(())
}
