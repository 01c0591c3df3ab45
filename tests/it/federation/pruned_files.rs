//! A large table of the lake joined with few rows of a source: the keys of these decide which row groups are read.

use townlake_cli::connection::Connection;
use townlake_tests::postgres::Postgres;
use townlake_tests::town::TownSpec;

/// 160 MB of text that nothing compresses, in row groups of 8 MB: keys prune files from 128 MiB on.
const BIG: [&str; 2] = [
    "CREATE TABLE lake.s.big (id BIGINT, note VARCHAR) \
     WITH (\"write.parquet.compression-codec\" = 'uncompressed', \"write.parquet.row-group-size-bytes\" = '8388608')",
    "INSERT INTO lake.s.big SELECT value, value || repeat('x', 1000) FROM generate_series(1, 160000) AS g(value) ORDER BY value",
];

const JOIN: &str = "SELECT count(*) AS n, sum(length(b.note)) AS s, min(b.id) AS least, max(b.id) AS most \
    FROM lake.s.big AS b JOIN crm.public.few AS f ON f.id = b.id";

/// What the scan of the lake told of itself: rows that it gave, bytes that it read.
async fn scanned(ann: &Connection) -> [u64; 2] {
    let (_, batches) =
        ann.collect(&format!("EXPLAIN ANALYZE {JOIN}")).await.unwrap_or_else(|error| panic!("{error:?}"));
    let text = arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
    let scan = text.lines().find(|line| line.contains("bytes_scanned=")).unwrap_or_else(|| panic!("{text}"));
    ["output_rows=", "bytes_scanned="].map(|name| {
        let value = scan.split(name).nth(1).unwrap_or_else(|| panic!("{name} in {scan}"));
        counted(value).unwrap_or_else(|| panic!("{name} is no number in {scan}"))
    })
}

/// A count as people read it: `160.0 K`, `163.5 M`.
fn counted(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (digits, rest) = text.split_at(end);
    let unit = match rest.trim_start().chars().next()? {
        'K' => 1e3,
        'M' => 1e6,
        'G' | 'B' => 1e9,
        _ => 1.0,
    };
    Some((digits.parse::<f64>().ok()? * unit) as u64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_source_prune_row_groups_of_a_large_table() {
    let Some(postgres) = Postgres::shared("pruned_files") else { return };
    let admin = postgres.create_database("pruned_files").await;
    let few = "CREATE TABLE few AS SELECT 70000 + i * 7 AS id FROM generate_series(1, 40) i; ANALYZE few";
    admin.batch_execute(few).await.unwrap();
    let catalog = format!(
        "[catalogs.crm]\ntype = \"postgres\"\nurl = \"{}\"\nreaders = [\"ann\"]\n",
        postgres.url("pruned_files")
    );
    let spec = TownSpec::default().user("ann", "a password", &[]).lake("lake", &[], &["ann"]).toml(&catalog);
    let town = spec.start().await;
    let ann = town.connect("ann", "a password").await;
    let run = async |sql: &str| ann.run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    run("CREATE SCHEMA lake.s").await;
    for sql in BIG {
        run(sql).await;
    }
    let mut answers = Vec::new();
    let mut read = Vec::new();
    for pushdown in ["filters", "all"] {
        run(&format!("SET SESSION source_pushdown = '{pushdown}'")).await;
        let (_, rows) = ann.collect(JOIN).await.unwrap_or_else(|error| panic!("{error:?}"));
        answers.push(arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string());
        read.push(scanned(&ann).await);
    }
    assert_eq!(answers[0], answers[1]);
    assert!(answers[0].contains("| 40 | 40200 | 70007 | 70280 |"), "{}", answers[0]);
    let [[all_rows, all_bytes], [rows, bytes]] = [read[0], read[1]];
    eprintln!("  {all_rows} rows of {all_bytes} bytes; with the keys {rows} rows of {bytes} bytes");
    assert!(all_rows == 160_000 && all_bytes > 128 << 20, "{read:?}");
    assert!(rows * 4 < all_rows && bytes * 4 < all_bytes, "{read:?}");
    assert!(rows >= 40, "{read:?}");
    town.stop().await;
}
