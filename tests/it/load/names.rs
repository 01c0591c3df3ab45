//! What tables and files are called.

use townlake_common::ErrorCode;

use super::Host;

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_named_as_in_sql() {
    let host = Host::start().await;
    let file = host.file("people.csv", "id\n1\n");
    host.loads(&[&file, "--table", "Lake.HR.People"]).await;
    assert_eq!(host.rows("SELECT id FROM lake.hr.people").await, ["1"]);
    host.loads(&[&file, "--table", "lake.\"HR\".\"New.people\""]).await;
    assert_eq!(host.rows("SELECT id FROM lake.\"HR\".\"New.people\"").await, ["1"]);
    host.loads(&[&file, "--table", "lake.\"HR\".\"New.people\""]).await;
    assert_eq!(host.rows("SELECT count(*) FROM lake.\"HR\".\"New.people\"").await, ["2"], "appended to the same");
    assert_eq!(host.error("SELECT id FROM lake.hr.\"New.people\"").await.code(), ErrorCode::TableNotFound);
    host.fails(&[&file, "--table", "lake.new-people"], &["INVALID_ARGUMENT", "catalog.schema.table"]).await;
    host.town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_name_is_no_pattern() {
    let host = Host::start().await;
    let odd = host.file("a[1]* ?#%.csv", "id\n1\n");
    host.file("a1.csv", "id\n2\n");
    host.file("a1 x#%.csv", "id\n3\n");
    host.loads(&[&odd, "--table", "lake.web.odd"]).await;
    assert_eq!(host.rows("SELECT id FROM lake.web.odd").await, ["1"]);
    let missing = host.folder.path().join("a?.csv");
    let missing = missing.to_str().expect("a plain path");
    host.fails(&[missing, "--table", "lake.web.odd"], &["there is no file", "a?.csv"]).await;
    host.town.stop().await;
}
