//! Each query leaves a durable row: who, what, which catalogs, how it ended.

use std::collections::BTreeMap;
use std::path::Path;

use sqlx::Row;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

use super::{CRM_PASSWORD, PASSWORD, connect, error, run, town};

/// Start and end of a query, as the log has them.
#[derive(Debug, Default, PartialEq)]
struct Audit {
    principal: String,
    sql: String,
    state: Option<String>,
    code: Option<String>,
    rows: Option<i64>,
    catalogs: String,
}

/// The log in the coordinator's SQLite file, by query id.
async fn log(folder: &Path) -> Vec<Audit> {
    let options = SqliteConnectOptions::new().filename(folder.join("state.db")).read_only(true);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.expect("open the store");
    let select = "SELECT query_id, event, principal, sql_text, state, code, row_count, catalogs FROM query_audit ORDER BY sequence";
    let rows = sqlx::query(select).fetch_all(&pool).await.expect("read the log");
    pool.close().await;
    let mut queries: BTreeMap<String, Audit> = BTreeMap::new();
    for row in rows {
        let query = queries.entry(row.get("query_id")).or_default();
        if row.get::<String, _>("event") == "started" {
            query.principal = row.get("principal");
            query.sql = row.get("sql_text");
        } else {
            assert_eq!(query.principal, row.get::<String, _>("principal"), "a query starts before it ends");
            (query.state, query.code, query.rows) = (row.get("state"), row.get("code"), row.get("row_count"));
            query.catalogs = row.get("catalogs");
        }
    }
    queries.into_values().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_is_in_the_log() {
    let town = town().await;
    let (ann, bob) = (connect(&town, "ann").await, connect(&town, "bob").await);
    let federated = "SELECT o.id FROM lake.sales.orders o JOIN ledger.books.accounts a ON o.id <= a.balance ORDER BY 1";
    let hidden = "SELECT * FROM ledger.books.accounts";
    let wrong = "SELEC 1";
    let late = "SELECT id / (id - 500) FROM lake.sales.orders";
    run(&ann, federated).await;
    run(&ann, "INSERT INTO lake.sales.orders VALUES (2000, 1), (2001, 2)").await;
    error(&bob, hidden).await;
    error(&bob, wrong).await;
    error(&bob, late).await;
    run(&bob, "SHOW CATALOGS").await;

    let folder = town.folder().to_path_buf();
    let log = log(&folder).await;
    let find = |principal: &str, sql: &str| {
        let found: Vec<_> = log.iter().filter(|query| query.principal == principal && query.sql == sql).collect();
        assert_eq!(found.len(), 1, "{principal}: {sql}: {log:#?}");
        found[0]
    };
    let told = |query: &Audit| {
        (query.state.clone().unwrap_or_default(), query.code.clone(), query.rows, query.catalogs.clone())
    };
    let text = |text: &str| text.to_string();
    assert_eq!(told(find("ann", federated)), (text("finished"), None, Some(12), text(r#"["lake","ledger"]"#)));
    let insert = find("ann", "INSERT INTO lake.sales.orders VALUES (2000, 1), (2001, 2)");
    assert_eq!(told(insert), (text("finished"), None, Some(2), text(r#"["lake"]"#)));
    assert_eq!(told(find("bob", hidden)).1, Some(text("CATALOG_NOT_FOUND")));
    assert_eq!(told(find("bob", hidden)).0, "failed");
    assert_eq!(told(find("bob", wrong)).1, Some(text("SYNTAX_ERROR")));
    assert_eq!(told(find("bob", late)).1, Some(text("ARITHMETIC_ERROR")));
    assert_eq!(told(find("bob", late)).3, r#"["lake"]"#);
    assert_eq!(told(find("bob", "SHOW CATALOGS")).0, "finished");
    assert!(log.iter().all(|query| query.state.is_some()), "all have ended: {log:#?}");

    // No credential ever gets there.
    town.stop().await;
    for file in ["state.db", "state.db-wal"] {
        let bytes = std::fs::read(folder.join(file)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(PASSWORD) && !text.contains(CRM_PASSWORD), "{file} holds a password");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_whose_client_goes_away_ends_in_the_log() {
    let town = town().await;
    let ann = connect(&town, "ann").await;
    let sql = "SELECT a.id FROM lake.sales.orders a, lake.sales.orders b, lake.sales.orders c";
    let query = ann.query(sql).await.expect("plan");
    let rows = ann.rows(&query).await.expect("the first rows");
    drop(rows);
    let state =
        async || log(town.folder()).await.into_iter().find(|query| query.sql == sql).and_then(|query| query.state);
    for _ in 0..60 {
        if state().await.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(state().await.as_deref(), Some("cancelled"));
    town.stop().await;
}
