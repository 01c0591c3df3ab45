//! A catalog that one may not read does not exist, wherever one looks.

use arrow_flight::sql::{CommandGetDbSchemas, CommandGetPrimaryKeys, CommandGetTables};
use townlake_common::ErrorCode;

use super::{assert_code, cells, client, connect, error, read, town, typed};

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_catalog_does_not_exist() {
    let town = town().await;
    let (ann, bob, carol) = (connect(&town, "ann").await, connect(&town, "bob").await, connect(&town, "carol").await);
    assert_eq!(cells(&ann, "SHOW CATALOGS").await, ["crm", "lake", "ledger", "system"]);
    assert_eq!(cells(&bob, "SHOW CATALOGS").await, ["lake", "system"]);
    assert_eq!(cells(&carol, "SHOW CATALOGS").await, ["system"]);
    assert_eq!(cells(&ann, "SELECT balance FROM ledger.books.accounts").await, ["12.50"]);
    assert_eq!(cells(&bob, "SELECT count(*) FROM lake.sales.orders").await, ["1000"]);

    // Whatever is asked of it, the answer is that of a catalog that is not there.
    for sql in [
        "SELECT * FROM ledger.books.accounts",
        "SELECT nothing FROM ledger.books.accounts",
        "SELECT * FROM ledger.books.nothing",
        "SELECT * FROM ledger.nothing.accounts",
        "SELECT * FROM lake.sales.orders o JOIN ledger.books.accounts a ON o.id = a.balance",
        "SELECT (SELECT max(balance) FROM ledger.books.accounts)",
        "WITH x AS (SELECT * FROM ledger.books.accounts) SELECT 1",
        "SELECT * FROM ledger.books.accounts FOR VERSION AS OF 1",
        "SELECT * FROM ledger.books.\"accounts$files\"",
        "SELECT * FROM ledger.books.\"accounts$nothing\"",
        "DESCRIBE ledger.books.\"accounts$refs\"",
        "ALTER TABLE ledger.books.accounts ADD COLUMN x INT",
        "COMMENT ON TABLE ledger.books.accounts IS 'x'",
        "SELECT * FROM ledger.information_schema.tables",
        "SELECT * FROM ledger.information_schema.columns",
        "SHOW SCHEMAS FROM ledger",
        "SHOW TABLES FROM ledger.books",
        "SHOW COLUMNS FROM ledger.books.accounts",
        "DESCRIBE ledger.books.accounts",
        "EXPLAIN SELECT * FROM ledger.books.accounts",
        "EXPLAIN ANALYZE SELECT * FROM ledger.books.accounts",
        "EXPLAIN INSERT INTO ledger.books.accounts SELECT 'x', 1",
        "USE ledger.books",
        "USE ledger",
        "INSERT INTO ledger.books.accounts VALUES ('x', 1)",
        "INSERT INTO ledger.books.nothing VALUES ('x', 1)",
        "CREATE SCHEMA ledger.mine",
        "CREATE SCHEMA IF NOT EXISTS ledger.books",
        "CREATE TABLE ledger.books.mine (x INT)",
        "CREATE TABLE IF NOT EXISTS ledger.books.accounts (x INT)",
        "CREATE TABLE ledger.books.mine AS SELECT 1 AS x",
        "DROP TABLE ledger.books.accounts",
        "DROP TABLE IF EXISTS ledger.books.accounts",
        "DROP SCHEMA ledger.books",
        "DROP SCHEMA IF EXISTS ledger.books",
    ] {
        for connection in [&bob, &carol] {
            let hidden = error(connection, sql).await;
            assert_code(&hidden, ErrorCode::CatalogNotFound, sql);
            let missing = error(connection, &sql.replace("ledger", "ledgex")).await;
            assert_eq!(hidden.to_string().replace("ledger", "ledgex"), missing.to_string(), "{sql}");
        }
    }
    assert_eq!(cells(&ann, "SELECT count(*) FROM ledger.books.accounts").await, ["1"]);

    // A name that is nearly right is not put right.
    let near = error(&bob, "SELECT * FROM ledge.books.accounts").await;
    assert!(!near.to_string().contains("ledger"), "{near}");
    let near = error(&ann, "SELECT * FROM ledge.books.accounts").await;
    assert!(near.to_string().contains("did you mean ledger"), "{near}");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn information_schema_is_of_one_catalog() {
    let town = town().await;
    let bob = connect(&town, "bob").await;
    for table in ["schemata", "tables", "columns"] {
        let seen = cells(&bob, &format!("SELECT * FROM lake.information_schema.{table}")).await.join(" ");
        assert!(!seen.contains("ledger") && !seen.contains("accounts") && !seen.contains("books"), "{table}: {seen}");
        let seen = cells(&bob, &format!("SELECT * FROM system.information_schema.{table}")).await.join(" ");
        assert!(!seen.contains("ledger") && !seen.contains("lake"), "{table}: {seen}");
    }
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flight_sql_metadata_is_filtered() {
    let town = town().await;
    let mut ann = client(&town, "ann").await;
    let info = ann.get_catalogs().await.expect("GetCatalogs");
    assert_eq!(read(&mut ann, &info).await.expect("read").concat(), ["crm", "lake", "ledger", "system"]);
    let of_ledger = CommandGetTables { catalog: Some("ledger".into()), ..Default::default() };
    let info = ann.get_tables(of_ledger.clone()).await.expect("GetTables");
    assert!(read(&mut ann, &info).await.expect("read").concat().contains(&"accounts".to_string()));
    let the_ticket_of_ann = info;

    let mut bob = client(&town, "bob").await;
    let mut seen = Vec::new();
    let info = bob.get_catalogs().await.expect("GetCatalogs");
    seen.extend(read(&mut bob, &info).await.expect("read").concat());
    for catalog in [None, Some("ledger".to_string())] {
        let schemas = CommandGetDbSchemas { catalog: catalog.clone(), db_schema_filter_pattern: None };
        let info = bob.get_db_schemas(schemas).await.expect("GetDbSchemas");
        seen.extend(read(&mut bob, &info).await.expect("read").concat());
        for include_schema in [false, true] {
            let tables = CommandGetTables { catalog: catalog.clone(), include_schema, ..Default::default() };
            let info = bob.get_tables(tables).await.expect("GetTables");
            seen.extend(read(&mut bob, &info).await.expect("read").concat());
        }
    }
    // A metadata ticket is a question: who brings another's gets his own answer.
    seen.extend(read(&mut bob, &the_ticket_of_ann).await.expect("read").concat());
    assert!(seen.contains(&"orders".to_string()), "{seen:?}");
    for hidden in ["ledger", "books", "accounts", "crm"] {
        assert!(!seen.iter().any(|cell| cell.contains(hidden)), "{hidden} in {seen:?}");
    }
    let keys = CommandGetPrimaryKeys {
        catalog: Some("ledger".into()),
        db_schema: Some("books".into()),
        table: "accounts".into(),
    };
    let info = bob.get_primary_keys(keys).await.expect("GetPrimaryKeys");
    if let Err(error) = read(&mut bob, &info).await {
        assert_code(&error, ErrorCode::CatalogNotFound, "keys");
    }
    let refused =
        bob.prepare("SELECT * FROM ledger.books.accounts".to_string(), None).await.expect_err("a hidden table");
    assert_code(&typed(refused), ErrorCode::CatalogNotFound, "prepare");
    town.stop().await;
}
