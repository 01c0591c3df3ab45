//! Sources and files that fail: the error names what failed, and no secret.

use std::path::{Path, PathBuf};

use arrow_flight::sql::CommandGetTables;
use townlake_common::ErrorCode;

use super::{CRM_PASSWORD, assert_code, cells, client, connect, error, read, run, town};

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_down_is_named_without_its_password() {
    let town = town().await;
    let ann = connect(&town, "ann").await;
    for sql in [
        "SELECT * FROM crm.public.customer",
        "SELECT * FROM lake.sales.orders o JOIN crm.public.customer c ON o.id = c.id",
        "SHOW SCHEMAS FROM crm",
        "SHOW TABLES FROM crm.public",
        "DESCRIBE crm.public.customer",
        "EXPLAIN SELECT * FROM crm.public.customer",
        "SELECT * FROM crm.information_schema.tables",
        "USE crm.public",
    ] {
        let down = error(&ann, sql).await;
        assert_code(&down, ErrorCode::SourceUnavailable, sql);
        assert!(down.message().contains("crm") && down.message().contains("127.0.0.1"), "{sql}: {down}");
        for text in [down.to_string(), format!("{down:?}")] {
            assert!(!text.contains(CRM_PASSWORD), "{sql}: {text}");
        }
    }
    // The others go on.
    assert_eq!(cells(&ann, "SHOW CATALOGS").await, ["crm", "lake", "ledger", "system"]);
    assert_eq!(cells(&ann, "SELECT count(*) FROM lake.sales.orders").await, ["1000"]);
    let mut raw = client(&town, "ann").await;
    let info = raw.get_tables(CommandGetTables::default()).await.expect("GetTables");
    let seen = read(&mut raw, &info).await.expect("the tables of the others").concat();
    assert!(seen.contains(&"orders".to_string()) && seen.contains(&"accounts".to_string()), "{seen:?}");
    let info = raw
        .get_tables(CommandGetTables { catalog: Some("crm".into()), ..Default::default() })
        .await
        .expect("GetTables");
    assert_code(
        &read(&mut raw, &info).await.expect_err("the tables of crm"),
        ErrorCode::SourceUnavailable,
        "GetTables of crm",
    );
    // and who may not see it learns nothing of it
    let bob = connect(&town, "bob").await;
    assert_code(&error(&bob, "SHOW SCHEMAS FROM crm").await, ErrorCode::CatalogNotFound, "bob");
    town.stop().await;
}

/// The one data file of a table in `lake.sales`.
fn data_file(folder: &Path, table: &str) -> PathBuf {
    let data = folder.join("lake").join("sales").join(table).join("data");
    let files: Vec<_> =
        std::fs::read_dir(&data).expect("the data folder").map(|file| file.expect("a file").path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_missing_files_are_named() {
    let town = town().await;
    let ann = connect(&town, "ann").await;
    type Damage = fn(&Path, &[u8]);
    let damages: [(&str, Damage, ErrorCode); 5] = [
        (
            "halved",
            |path, bytes| std::fs::write(path, &bytes[..bytes.len() / 2]).expect("write"),
            ErrorCode::DataCorrupt,
        ),
        (
            "shortened",
            |path, bytes| std::fs::write(path, &bytes[..bytes.len() - 1]).expect("write"),
            ErrorCode::DataCorrupt,
        ),
        ("emptied", |path, _| std::fs::write(path, []).expect("write"), ErrorCode::DataCorrupt),
        (
            "overwritten",
            |path, bytes| std::fs::write(path, vec![b'x'; bytes.len()]).expect("write"),
            ErrorCode::DataCorrupt,
        ),
        ("removed", |path, _| std::fs::remove_file(path).expect("remove"), ErrorCode::FileNotFound),
    ];
    for (name, damage, code) in damages {
        for execution in ["auto", "cluster"] {
            let table = format!("{name}_{execution}");
            run(&ann, &format!("SET SESSION execution = '{execution}'")).await;
            let rows = "SELECT value AS id, 'row ' || CAST(value AS VARCHAR) AS s FROM generate_series(1, 5000)";
            run(&ann, &format!("CREATE TABLE lake.sales.{table} AS {rows}")).await;
            let file = data_file(town.folder(), &table);
            let bytes = std::fs::read(&file).expect("read the file");
            damage(&file, &bytes);
            let broken = error(&ann, &format!("SELECT max(s), count(DISTINCT id) FROM lake.sales.{table}")).await;
            assert_code(&broken, code, &table);
            let file_name = file.file_name().expect("a name").to_string_lossy().to_string();
            assert!(broken.message().contains(&file_name), "{table}: {broken}");
        }
    }
    // Others are read as ever.
    assert_eq!(cells(&ann, "SELECT sum(id) FROM lake.sales.orders").await, ["500500"]);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_snapshot_is_named() {
    let town = town().await;
    let ann = connect(&town, "ann").await;
    let missing = error(&ann, "SELECT * FROM lake.sales.orders FOR VERSION AS OF 4711").await;
    assert_code(&missing, ErrorCode::SnapshotNotFound, "a snapshot id");
    assert!(missing.message().contains("4711") && missing.message().contains("lake.sales.orders"), "{missing}");
    let missing = error(&ann, "SELECT * FROM lake.sales.orders FOR VERSION AS OF 'autumn'").await;
    assert_code(&missing, ErrorCode::SnapshotNotFound, "a tag");
    assert!(missing.message().contains("autumn"), "{missing}");
    town.stop().await;
}
