//! The types that CSV is read with.

use std::fmt::Write as _;

use super::Host;

#[tokio::test(flavor = "multi_thread")]
async fn codes_keep_their_leading_zeros() {
    let host = Host::start().await;
    let zips = host.file("zips.csv", "zip,people\n10115,1\n00501,2\n7,3\n");
    host.loads(&[&zips, "--table", "lake.web.zips"]).await;
    let ask = "SELECT zip, people FROM lake.web.zips ORDER BY people";
    assert_eq!(host.rows(ask).await, ["10115|1", "00501|2", "7|3"]);
    host.town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_added_are_read_in_the_tables_types() {
    let host = Host::start().await;
    host.run(
        "CREATE TABLE lake.web.t (zip VARCHAR, price DECIMAL(10, 2), day DATE, seen TIMESTAMP, ok BOOLEAN, n INT)",
    )
    .await;
    // the first thousand records look like other types
    let mut text = String::from("n,zip,price,ok,day,seen\n");
    for row in 0..1_500 {
        writeln!(text, "{row},{},{row},1,,", 10_000 + row).expect("write to a text");
    }
    text.push_str("1500,00501,12.30,no,2024-02-29,2024-02-29 01:02:03\n");
    host.loads(&[&host.file("rows.csv", &text), "--table", "lake.web.t"]).await;
    let ask = "SELECT count(*), count(*) FILTER (WHERE ok), min(price), max(zip) FROM lake.web.t";
    assert_eq!(host.rows(ask).await, ["1501|1500|0.00|11499"]);
    let last = "SELECT zip, price, day, seen, ok, n FROM lake.web.t WHERE n = 1500";
    assert_eq!(host.rows(last).await, ["00501|12.30|2024-02-29|2024-02-29T01:02:03|false|1500"]);
    let bad = host.file("bad.csv", "zip,n\n1,x\n");
    host.fails(&[&bad, "--table", "lake.web.t"], &["bad.csv", "'x'", "--types"]).await;
    let unknown = host.file("unknown.csv", "zpi\n1\n");
    host.fails(&[&unknown, "--table", "lake.web.t"], &["COLUMN_NOT_FOUND", "did you mean zip?"]).await;
    assert_eq!(host.rows("SELECT count(*) FROM lake.web.t").await, ["1501"]);
    host.town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn types_that_the_user_says() {
    let host = Host::start().await;
    let file = host.file("said.csv", "id,price,seen\n7,12.30,2300-01-01T00:00:00\n");
    let types = "id=varchar, price=decimal(12,2), seen=timestamp";
    host.loads(&[&file, "--table", "lake.web.said", "--types", types]).await;
    let ask = "SELECT column_name, data_type FROM lake.information_schema.columns WHERE table_name = 'said' ORDER BY 1";
    let columns = host.rows(ask).await.join(" ").to_lowercase();
    assert!(columns.contains("id|varchar") && columns.contains("price|decimal(12"), "{columns}");
    let ask = "SELECT id, price, extract(year FROM seen) FROM lake.web.said";
    assert_eq!(host.rows(ask).await, ["7|12.30|2300"]);
    for (types, words) in [
        ("idd=varchar", ["COLUMN_NOT_FOUND", "did you mean id?"]),
        ("id=nonsense", ["INVALID_ARGUMENT", "nonsense"]),
        ("id", ["INVALID_ARGUMENT", "--types"]),
    ] {
        host.fails(&[&file, "--table", "lake.web.said", "--types", types], &words).await;
    }
    host.town.stop().await;
}
