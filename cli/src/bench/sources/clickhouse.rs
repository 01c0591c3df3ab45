//! ClickHouse (Debian's server of 2018, which has no ArrowStream: both sides read RowBinary) beside curl. Rows are counted by
//! `system.query_log`.

use std::time::Duration;

use tokio::process::Command;
use townlake_common::{Error, Result};

use super::{Bed, ROWS, Subject, client, joins, scans};
use crate::local::ClickHouse;

const SUBJECT: Subject<'static> = Subject {
    scan: "SELECT count(*), sum(id), max(account), max(amount), max(day), max(note) FROM stock.default.big",
    join: Some("SELECT count(*), sum(b.amount) FROM lake.bench.few AS f JOIN stock.default.big AS b ON b.id = f.id"),
    client: "ClickHouse: curl of FORMAT RowBinary, its output thrown away",
};

pub(super) async fn fill(clickhouse: &ClickHouse) -> Result<()> {
    let table = "CREATE TABLE big (id Int32, account Int64, amount Decimal(12, 2), day Date, note String) ENGINE = MergeTree ORDER BY id";
    clickhouse.run(table, String::new()).await?;
    let fill = format!(
        "INSERT INTO big SELECT toInt32(number + 1), toInt64(number % 1000003), toDecimal64((number % 100000) / 4, 2), \
         toDate('2024-01-01') + number % 700, concat('note number ', toString(number % 5000)) FROM numbers({ROWS})"
    );
    clickhouse.run(&fill, String::new()).await
}

pub(super) fn catalog(clickhouse: &ClickHouse) -> String {
    format!("[catalogs.stock]\ntype = \"clickhouse\"\nurl = \"{}\"\nreaders = [\"bench\"]\n", clickhouse.url())
}

pub(super) async fn run(bed: &Bed, clickhouse: &ClickHouse, rounds: usize) -> Result<()> {
    let beside = async || {
        let mut curl = curl(clickhouse, "SELECT id, account, amount, day, note FROM big FORMAT RowBinary");
        curl.args(["--output", "/dev/null"]);
        Ok(client(curl, "curl").await?.1)
    };
    scans(bed, &SUBJECT, rounds, beside).await?;
    // The log is written each half second.
    let settle = async || tokio::time::sleep(Duration::from_millis(1500)).await;
    let reset = async || {
        settle().await;
        clickhouse.run("TRUNCATE TABLE IF EXISTS system.query_log", String::new()).await
    };
    let moved = async || {
        settle().await;
        let sql =
            "SELECT sum(result_rows) FROM system.query_log WHERE type = 2 AND query LIKE 'SELECT toUInt8(1)%`big`%'";
        let (rows, _) = client(curl(clickhouse, sql), "curl").await?;
        rows.trim().parse().map_err(|error| Error::internal("a count of ClickHouse").with_source(error))
    };
    joins(bed, &SUBJECT, rounds, reset, moved).await
}

fn curl(clickhouse: &ClickHouse, sql: &str) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--data-binary", sql, &clickhouse.url()]);
    curl
}
