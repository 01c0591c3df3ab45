//! Credentials that a source refuses: told by type, and shown nowhere.

use serde_json::json;
use townlake_common::ErrorCode;
use townlake_tests::clickhouse::{ClickHouse, Engine, PASSWORD as CLICKHOUSE_PASSWORD};
use townlake_tests::kafka::Kafka;
use townlake_tests::postgres::{PASSWORD as POSTGRES_PASSWORD, Postgres};
use townlake_tests::town::TownSpec;

use super::scene::rows;
use crate::bigquery::mock_google::{Answer, MockGoogle};
use crate::bigquery::mock_tokens::key_file;

/// Where it must not be.
const WRONG: &str = "hunter2-wrong";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_credential_is_denied_and_shown_nowhere() {
    let (Some(postgres), Some(clickhouse), Some(kafka)) = (
        Postgres::shared("refused_everywhere"),
        ClickHouse::shared(Engine::Old, "refused_everywhere"),
        Kafka::shared("refused_everywhere"),
    ) else {
        return;
    };
    let (mock, folder) = (MockGoogle::start().await, tempfile::tempdir().unwrap());
    let Some(path) = key_file(folder.path(), &mock) else { return };
    let key = std::fs::read_to_string(folder.path().join("key.pem")).unwrap().lines().nth(1).unwrap().to_string();
    let refused = json!({"error": "invalid_grant", "error_description": format!("{WRONG} is wrong")});
    mock.answer("POST /token", [Answer(400, refused)]);
    let readers = "readers = [\"ann\"]\nbreaker_failures = 0";
    let catalogs = format!(
        "[catalogs.pg]\ntype = \"postgres\"\nurl = \"{}\"\n{readers}\n[catalogs.ch]\ntype = \"clickhouse\"\nurl = \"{}\"\n{readers}\n\
         [catalogs.bus]\ntype = \"kafka\"\nbrokers = [\"{}\"]\nsasl = \"SCRAM-SHA-256\"\nusername = \"reader\"\npassword = \"{WRONG}\"\n{readers}\n\
         [catalogs.bq]\n{}{readers}\n",
        postgres.url("postgres").replace(POSTGRES_PASSWORD, WRONG),
        clickhouse.url().replace(CLICKHOUSE_PASSWORD, WRONG),
        kafka.sasl_broker(),
        mock.keys_with(&path),
    );
    let town = TownSpec::default().user("ann", "a password", &[]).toml(&catalogs).start().await;
    let ann = town.connect("ann", "a password").await;
    for (catalog, table) in [("pg", "public.t"), ("ch", "default.t"), ("bus", "default.t"), ("bq", "d.t")] {
        for statement in ["SELECT * FROM", "EXPLAIN SELECT * FROM", "EXPLAIN ANALYZE SELECT * FROM"] {
            let error = rows(&ann, &format!("{statement} {catalog}.{table}")).await.expect_err("it is refused");
            assert_eq!(error.code(), ErrorCode::SourceDenied, "{statement} {catalog}: {error:?}");
            assert!(error.message().contains(&format!("catalog {catalog}")), "{error:?}");
            assert!(!error.is_retryable(), "{error:?}");
            let told = format!("{error} {error:?} {}", error.to_wire());
            for secret in [WRONG, key.as_str()] {
                assert!(!told.contains(secret), "{told}");
            }
        }
        let shown = rows(&ann, &format!("SHOW CREATE CATALOG {catalog}")).await;
        assert!(!format!("{shown:?}").contains(WRONG), "{shown:?}");
    }
    // What the queries say of themselves, and the audit trail, which has a row of each.
    let queries = rows(&ann, "SELECT * FROM system.runtime.queries").await.unwrap();
    assert!(queries.iter().filter(|query| query.contains("SOURCE_DENIED")).count() >= 12, "{queries:#?}");
    assert!(!queries.join("\n").contains(WRONG), "{queries:#?}");
    let folder = town.folder().to_path_buf();
    let mut seen = 0;
    for name in ["state.db", "state.db-wal"] {
        let bytes = std::fs::read(folder.join(name)).unwrap_or_default();
        seen += bytes.len();
        for secret in [WRONG, key.as_str()] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{name} has a secret");
        }
    }
    assert!(seen > 1000, "the store is {seen} bytes");
    town.stop().await;
}
