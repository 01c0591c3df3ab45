//! Kafka beside its own consumer (`ConsumerPerformance`, which decodes nothing).

use tokio::process::Command;
use townlake_common::{Error, Result};

use super::{Bed, ROWS, Subject, client, scans};
use crate::local::Kafka;

const RAW: Subject<'static> = Subject {
    scan: "SELECT count(*), max(_offset), max(_value) FROM bus.default.big",
    join: None,
    client: "Kafka: ConsumerPerformance, the time that it says it fetched",
};
const JSON: Subject<'static> = Subject {
    scan: "SELECT count(*), sum(id), max(account), max(amount), max(day), max(note) FROM bus.bench.big",
    client: "Kafka: the same again, beside our scan that decodes JSON",
    ..RAW
};
const PARTITIONS: u32 = 4;

pub(super) async fn fill(kafka: &Kafka) -> Result<()> {
    kafka.create_topic("big", PARTITIONS).await?;
    let rows = (1..=ROWS).map(|i| {
        let (account, amount, day, note) = (i % 1_000_003, (i % 100_000) as f64 / 4.0, i % 28 + 1, i % 5000);
        let row = format!("\"id\":{i},\"account\":{account},\"amount\":{amount:.2},\"day\":\"2024-01-{day:02}\"");
        Ok(format!("{{{row},\"note\":\"note number {note}\"}}\n"))
    });
    kafka.produce("big", rows).await
}

pub(super) fn catalog(kafka: &Kafka) -> String {
    let columns =
        [("id", "integer"), ("account", "bigint"), ("amount", "decimal(12, 2)"), ("day", "date"), ("note", "varchar")];
    let columns = columns.map(|(name, kind)| format!("{{ name = \"{name}\", type = \"{kind}\" }}")).join(", ");
    let table =
        |schema: &str, more: &str| format!("[[catalogs.bus.tables]]\ntopic = \"big\"\nschema = \"{schema}\"\n{more}\n");
    format!(
        "[catalogs.bus]\ntype = \"kafka\"\nbrokers = [\"{}\"]\nreaders = [\"bench\"]\n{}{}",
        kafka.broker(),
        table("default", "format = \"raw\""),
        table("bench", &format!("format = \"json\"\ncolumns = [{columns}]"))
    )
}

pub(super) async fn run(bed: &Bed, kafka: &Kafka, rounds: usize) -> Result<()> {
    for subject in [RAW, JSON] {
        scans(bed, &subject, rounds, async || consume(kafka).await).await?;
    }
    Ok(())
}

/// Kafka's own measure of its consumer, without the start of its Java.
async fn consume(kafka: &Kafka) -> Result<f64> {
    let mut tool = Command::from(kafka.tool("org.apache.kafka.tools.ConsumerPerformance"));
    tool.args(["--topic", "big", "--messages", &ROWS.to_string(), "--group", &new_group()]);
    let (lines, _) = client(tool, "default-jre-headless").await?;
    // A head and a line of numbers: `fetch.time.ms` is the eighth.
    let numbers = lines.lines().last().unwrap_or_default().split(',').map(str::trim).collect::<Vec<_>>();
    let fetched = numbers.get(7).and_then(|text| text.parse::<f64>().ok());
    fetched.map(|ms| ms / 1000.0).ok_or_else(|| Error::internal(format!("ConsumerPerformance says: {lines}")))
}

/// A group that has read nothing yet.
fn new_group() -> String {
    format!("bench-{:016x}", rand::random::<u64>())
}
