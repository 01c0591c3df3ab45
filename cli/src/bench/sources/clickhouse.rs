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

const TABLE: &str = "CREATE TABLE big (id Int32, account Int64, amount Decimal(12, 2), day Date, note String) ENGINE = MergeTree ORDER BY id";

pub(super) async fn fill(clickhouse: &ClickHouse) -> Result<()> {
    clickhouse.run(TABLE, String::new()).await?;
    clickhouse.run(&fill_with(), String::new()).await
}

fn fill_with() -> String {
    format!(
        "INSERT INTO big SELECT toInt32(number + 1), toInt64(number % 1000003), toDecimal64((number % 100000) / 4, 2), \
         toDate('2024-01-01') + number % 700, concat('note number ', toString(number % 5000)) FROM numbers({ROWS})"
    )
}

pub(super) fn catalog(clickhouse: &ClickHouse) -> String {
    format!("[catalogs.stock]\ntype = \"clickhouse\"\nurl = \"{}\"\nreaders = [\"bench\"]\n", clickhouse.url())
}

pub(super) async fn run(bed: &Bed, clickhouse: &ClickHouse, rounds: usize) -> Result<()> {
    let beside = async || {
        let mut curl = curl(&clickhouse.url(), "SELECT id, account, amount, day, note FROM big FORMAT RowBinary");
        curl.args(["--output", "/dev/null"]);
        Ok(client(curl, "curl").await?.1)
    };
    scans(bed, &SUBJECT, rounds, beside).await?;
    let moved = async || Ok(moved(clickhouse).await?.0);
    joins(bed, &SUBJECT, rounds, async || reset(clickhouse).await, moved).await
}

/// Begins to count anew.
pub(super) async fn reset(clickhouse: &ClickHouse) -> Result<()> {
    settle().await;
    clickhouse.run("TRUNCATE TABLE IF EXISTS system.query_log", String::new()).await
}

/// The rows and bytes that it gave to scans since.
pub(super) async fn moved(clickhouse: &ClickHouse) -> Result<(u64, u64)> {
    settle().await;
    let sql = "SELECT sum(result_rows), sum(result_bytes) FROM system.query_log WHERE type = 2 AND query LIKE 'SELECT toUInt8(1)%'";
    let (told, _) = client(curl(&clickhouse.url(), sql), "curl").await?;
    let counts: Vec<u64> = told.split_whitespace().filter_map(|count| count.parse().ok()).collect();
    match counts.as_slice() {
        [rows, bytes] => Ok((*rows, *bytes)),
        _ => Err(Error::internal(format!("ClickHouse counts: {told}"))),
    }
}

/// The log is written each half second.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1500)).await;
}

fn curl(url: &str, sql: &str) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--data-binary", sql, url]);
    curl
}

/// A server of today, which somebody else has started: the variable has its URL. It is read as ArrowStream.
pub(super) struct Modern {
    url: String,
}

pub(super) const MODERN_URL: &str = "TOWNLAKE_MODERN_CLICKHOUSE";

const MODERN: Subject<'static> = Subject {
    scan: "SELECT count(*), sum(id), max(account), max(amount), max(day), max(note) FROM fresh.default.big",
    join: None,
    client: "ClickHouse of today: curl of FORMAT ArrowStream, its output thrown away",
};

impl Modern {
    /// The one that is given.
    pub(super) fn given() -> Option<Self> {
        std::env::var(MODERN_URL).ok().map(|url| Self { url })
    }

    pub(super) async fn fill(&self) -> Result<()> {
        for sql in
            [TABLE.replace("TABLE big", "TABLE IF NOT EXISTS big"), "TRUNCATE TABLE big".to_string(), fill_with()]
        {
            client(curl(&self.url, &sql), "curl").await?;
        }
        Ok(())
    }

    pub(super) fn catalog(&self) -> String {
        format!("[catalogs.fresh]\ntype = \"clickhouse\"\nurl = \"{}\"\nreaders = [\"bench\"]\n", self.url)
    }

    pub(super) async fn run(&self, bed: &Bed, rounds: usize) -> Result<()> {
        let beside = async || {
            let sql = "SELECT id, account, amount, day, note FROM big FORMAT ArrowStream";
            let mut curl = curl(&self.url, sql);
            curl.args(["--output", "/dev/null"]);
            Ok(client(curl, "curl").await?.1)
        };
        scans(bed, &MODERN, rounds, beside).await
    }
}
