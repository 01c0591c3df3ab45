//! TPC-H spread over five systems: `lineitem` stays in the lake, the other seven tables lie in four sources, each a real server
//! of this machine but for BigQuery, whose stand-in is an emulator.

use std::path::Path;

use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use serde_json::Value;
use townlake_common::{Error, Result};

use super::{cluster, step};
use crate::local::{BigQueryEmulator, ClickHouse, Kafka, Postgres};
use crate::tpch::Table;

/// Which table lies where: its full name. `lineitem` is in `lake.tpch`.
pub const PLACES: [(Table, &str); 8] = [
    (Table::Nation, "crm.public.nation"),
    (Table::Customer, "crm.public.customer"),
    (Table::Part, "stock.tpch.part"),
    (Table::PartSupp, "stock.tpch.partsupp"),
    (Table::Orders, "bus.tpch.orders"),
    (Table::Supplier, "partners.tpch.supplier"),
    (Table::Region, "partners.tpch.region"),
    (Table::LineItem, "lake.tpch.lineitem"),
];

/// The partitions of the topic `orders`.
const PARTITIONS: u32 = 4;

const CLICKHOUSE_TABLES: [(Table, &str); 2] = [
    (
        Table::Part,
        "CREATE TABLE tpch.part (p_partkey Int64, p_name String, p_mfgr String, p_brand String, p_type String, p_size Int32, \
         p_container String, p_retailprice Decimal(15, 2), p_comment String) ENGINE = MergeTree ORDER BY p_partkey",
    ),
    (
        Table::PartSupp,
        "CREATE TABLE tpch.partsupp (ps_partkey Int64, ps_suppkey Int64, ps_availqty Int32, ps_supplycost Decimal(15, 2), \
         ps_comment String) ENGINE = MergeTree ORDER BY (ps_partkey, ps_suppkey)",
    ),
];

/// A table of BigQuery: its columns and their types.
type Columns = [(&'static str, &'static str)];

const BIGQUERY_TABLES: [(Table, &Columns); 2] = [
    (Table::Region, &[("r_regionkey", "INT64"), ("r_name", "STRING"), ("r_comment", "STRING")]),
    (
        Table::Supplier,
        &[
            ("s_suppkey", "INT64"),
            ("s_name", "STRING"),
            ("s_address", "STRING"),
            ("s_nationkey", "INT64"),
            ("s_phone", "STRING"),
            ("s_acctbal", "NUMERIC"),
            ("s_comment", "STRING"),
        ],
    ),
];

const ORDERS: &str = "[[catalogs.bus.tables]]
topic = \"orders\"
schema = \"tpch\"
format = \"json\"
columns = [
  { name = \"o_orderkey\", type = \"bigint\" }, { name = \"o_custkey\", type = \"bigint\" },
  { name = \"o_orderstatus\", type = \"varchar\" }, { name = \"o_totalprice\", type = \"decimal(15, 2)\" },
  { name = \"o_orderdate\", type = \"date\" }, { name = \"o_orderpriority\", type = \"varchar\" },
  { name = \"o_clerk\", type = \"varchar\" }, { name = \"o_shippriority\", type = \"integer\" },
  { name = \"o_comment\", type = \"varchar\" },
]
";

/// The four sources. Dropped, their processes end.
pub struct Sources {
    /// `crm`.
    pub postgres: Postgres,
    /// `stock`.
    pub clickhouse: ClickHouse,
    /// `bus`.
    pub kafka: Kafka,
    /// `partners`.
    pub bigquery: BigQueryEmulator,
}

impl Sources {
    /// What is not installed of what [`Sources::start`] needs.
    pub fn missing() -> Option<&'static str> {
        match () {
            () if !Postgres::is_installed() => Some("Postgres"),
            () if !ClickHouse::is_installed() => Some("ClickHouse"),
            () if !Kafka::is_installed() => Some("Kafka"),
            () if !BigQueryEmulator::is_installed() => Some("the BigQuery emulator"),
            () => None,
        }
    }

    /// Starts all four, without data.
    pub async fn start(folder: &Path) -> Result<Self> {
        Ok(Self {
            postgres: step("a private Postgres", cluster::start_postgres()).await?,
            clickhouse: step("a private ClickHouse", ClickHouse::start(folder)).await?,
            kafka: step("a private Kafka", Kafka::start(folder)).await?,
            bigquery: step("an emulator of BigQuery", BigQueryEmulator::start(folder)).await?,
        })
    }

    /// Their catalogs, which `user` may read, in TOML.
    pub fn sections(&self, user: &str) -> String {
        let readers = format!("readers = [\"{user}\"]\n");
        let own_language = "pass_through = true\n";
        format!(
            "[catalogs.crm]\ntype = \"postgres\"\nurl = \"{}\"\n{readers}writers = [\"{user}\"]\n{own_language}\
             [catalogs.stock]\ntype = \"clickhouse\"\nurl = \"{}\"\n{readers}{own_language}\
             [catalogs.partners]\n{}{readers}\
             [catalogs.bus]\ntype = \"kafka\"\nbrokers = [\"{}\"]\n{readers}{ORDERS}",
            self.postgres.url("crm"),
            self.clickhouse.url(),
            self.bigquery.keys(),
            self.kafka.broker()
        )
    }

    /// The passwords in [`Sources::sections`], to be looked for where they must not be.
    pub fn passwords(&self) -> [String; 2] {
        [self.postgres.password(), self.clickhouse.password()].map(str::to_string)
    }

    /// Makes and fills their tables.
    pub async fn load(&self, scale: f64) -> Result<()> {
        step("customer and nation into Postgres", cluster::load_postgres(&self.postgres, scale)).await?;
        step("part and partsupp into ClickHouse", self.load_clickhouse(scale)).await?;
        step("orders into Kafka, as JSON", self.load_kafka(scale)).await?;
        step("supplier and region into the emulator of BigQuery", self.load_bigquery(scale)).await
    }

    async fn load_clickhouse(&self, scale: f64) -> Result<()> {
        self.clickhouse.run("CREATE DATABASE tpch", String::new()).await?;
        for (table, definition) in CLICKHOUSE_TABLES {
            self.clickhouse.run(definition, String::new()).await?;
            fill_clickhouse(&self.clickhouse, table, scale).await?;
        }
        Ok(())
    }

    async fn load_kafka(&self, scale: f64) -> Result<()> {
        self.kafka.create_topic("orders", PARTITIONS).await?;
        let lines = Table::Orders.batches(scale).map(|batch| json_lines(&batch.map_err(unwritten)?));
        self.kafka.produce("orders", lines).await
    }

    async fn load_bigquery(&self, scale: f64) -> Result<()> {
        /// Google asks for no more in one request.
        const ROWS: usize = 500;
        self.bigquery.create_dataset("tpch").await?;
        for (table, columns) in BIGQUERY_TABLES {
            self.bigquery.create_table("tpch", table.name(), "REQUIRED", columns).await?;
            for batch in table.batches(scale) {
                let parse = |line: &str| serde_json::from_str(line).map_err(|e| Error::internal("JSON").with_source(e));
                let rows =
                    json_lines(&batch.map_err(unwritten)?)?.lines().map(parse).collect::<Result<Vec<Value>>>()?;
                for rows in rows.chunks(ROWS) {
                    self.bigquery.insert("tpch", table.name(), rows.to_vec()).await?;
                }
            }
        }
        Ok(())
    }
}

/// The rows of a table into `tpch.<table>`.
pub(crate) async fn fill_clickhouse(clickhouse: &ClickHouse, table: Table, scale: f64) -> Result<()> {
    /// Rows of one INSERT: each becomes a part on disk.
    const ROWS: usize = 100_000;
    let insert = format!("INSERT INTO tpch.{table} FORMAT CSV");
    let (mut text, mut rows) = (Vec::new(), 0);
    for batch in table.batches(scale) {
        let batch = batch.map_err(unwritten)?;
        rows += batch.num_rows();
        arrow::csv::WriterBuilder::new().with_header(false).build(&mut text).write(&batch).map_err(unwritten)?;
        if rows >= ROWS {
            clickhouse.run(&insert, utf8(std::mem::take(&mut text))?).await?;
            rows = 0;
        }
    }
    if rows > 0 {
        clickhouse.run(&insert, utf8(text)?).await?;
    }
    Ok(())
}

/// The rows as objects of JSON, one a line, each with an end.
fn json_lines(batch: &RecordBatch) -> Result<String> {
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    writer.write(batch).map_err(unwritten)?;
    writer.finish().map_err(unwritten)?;
    utf8(writer.into_inner())
}

fn unwritten(error: ArrowError) -> Error {
    Error::internal("TPC-H data cannot be written as text").with_source(error)
}

fn utf8(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| Error::internal("text of Arrow is UTF-8").with_source(e))
}
