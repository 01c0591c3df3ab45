//! A whole coordinator without executors, asked by arrow-flight's own client.

use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{CommandGetTables, CommandGetXdbcTypeInfo, SqlInfo};
use arrow_flight::{Action, FlightInfo, Ticket};
use futures::TryStreamExt;
use tonic::Request;
use tonic::transport::Channel;
use townlake_cluster::EmbeddedMembership;
use townlake_common::config::Config;

use super::PROGRESS_ACTION;
use crate::{Coordinator, CoordinatorHandle};

type Client = FlightSqlServiceClient<Channel>;

async fn start(folder: &std::path::Path) -> CoordinatorHandle {
    let hash = townlake_governance::hash_password("right").unwrap();
    let token = townlake_governance::hash_token("ci token");
    let text = format!(
        r#"
        [server]
        flight = "127.0.0.1:0"
        http = "127.0.0.1:0"
        [cluster]
        internal = "127.0.0.1:0"
        [store]
        url = "sqlite://{folder}/state.db"
        [limits]
        executor_wait = "1s"
        [[auth.users]]
        name = "ann"
        password_hash = "{hash}"
        groups = ["analysts"]
        [[auth.users]]
        name = "bob"
        password_hash = "{hash}"
        [[auth.tokens]]
        name = "ci"
        token_hash = "{token}"
        [catalogs.lake]
        type = "iceberg"
        catalog = "sql"
        uri = "sqlite://{folder}/catalog.db"
        warehouse = "file://{folder}/warehouse"
        readers = ["analysts"]
        writers = ["ann"]
        "#,
        folder = folder.display()
    );
    Coordinator::start(Config::from_toml(&text).unwrap(), Arc::new(EmbeddedMembership::default())).await.unwrap()
}

async fn client(server: &CoordinatorHandle) -> Client {
    let channel = Channel::from_shared(format!("http://{}", server.flight_addr)).unwrap().connect().await.unwrap();
    FlightSqlServiceClient::new(channel)
}

async fn ann(server: &CoordinatorHandle) -> Client {
    let mut client = client(server).await;
    client.handshake("ann", "right").await.unwrap();
    client
}

fn ticket(info: &FlightInfo) -> Ticket {
    info.endpoint[0].ticket.clone().unwrap()
}

async fn rows(client: &mut Client, sql: &str) -> Vec<RecordBatch> {
    let info = client.execute(sql.to_string(), None).await.unwrap();
    client.do_get(ticket(&info)).await.unwrap().try_collect().await.unwrap()
}

/// The stable code in front of an error's message.
fn code<T, E: std::fmt::Display>(outcome: Result<T, E>) -> String {
    let text = outcome.err().expect("an error").to_string();
    let known = townlake_common::ErrorCode::ALL.iter().map(|code| code.as_str());
    known
        .filter(|known| text.contains(&format!("{known}: ")))
        .max_by_key(|known| known.len())
        .unwrap_or(&text)
        .to_string()
}

#[tokio::test]
async fn statements_run_and_tickets_are_guarded() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await;
    let mut ann = ann(&server).await;

    let info = ann.execute("SELECT 41 + 1 AS answer".to_string(), None).await.unwrap();
    assert_eq!(info.clone().try_decode_schema().unwrap().field(0).name(), "answer");
    assert!(info.endpoint[0].location.is_empty());
    let metadata: serde_json::Value = serde_json::from_slice(&info.app_metadata).unwrap();
    let query_id = metadata["query_id"].as_str().unwrap().to_string();

    let mut bob = client(&server).await;
    bob.handshake("bob", "right").await.unwrap();
    assert_eq!(code(bob.do_get(ticket(&info)).await), "TICKET_INVALID");
    let batches: Vec<RecordBatch> = ann.do_get(ticket(&info)).await.unwrap().try_collect().await.unwrap();
    assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().value(0), 42);
    assert_eq!(code(ann.do_get(ticket(&info)).await), "TICKET_INVALID");

    let progress = async |client: &mut Client| {
        let action = Request::new(Action::new(PROGRESS_ACTION, query_id.clone()));
        let body = client.do_action(action).await.unwrap().try_next().await.unwrap().unwrap().body;
        serde_json::from_slice::<serde_json::Value>(&body).unwrap()["state"].as_str().unwrap().to_string()
    };
    assert_eq!(progress(&mut ann).await, "FINISHED");
    assert_eq!(progress(&mut bob).await, "WAITING"); // another's query does not exist

    assert_eq!(code(ann.execute("SELEC 1".to_string(), None).await), "SYNTAX_ERROR");
    assert_eq!(code(ann.execute("SELECT 1; SELECT 2".to_string(), None).await), "NOT_ONE_STATEMENT");
    server.shutdown().await;
}

#[tokio::test]
async fn nobody_comes_in_without_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await;
    let mut nobody = client(&server).await;
    assert_eq!(code(nobody.handshake("ann", "wrong").await), "UNAUTHENTICATED");
    assert_eq!(code(nobody.execute("SELECT 1".to_string(), None).await), "UNAUTHENTICATED");
    assert_eq!(code(nobody.get_catalogs().await), "UNAUTHENTICATED");
    let channel = Channel::from_shared(format!("http://{}", server.flight_addr)).unwrap().connect().await.unwrap();
    let mut raw = FlightServiceClient::new(channel);
    let status = raw.list_actions(arrow_flight::Empty {}).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
    let status = raw.list_flights(arrow_flight::Criteria::default()).await.map(|_| ()).unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
    nobody.set_token("ci token".to_string());
    assert_eq!(rows(&mut nobody, "SELECT 1").await[0].num_rows(), 1);
}

#[tokio::test]
async fn a_session_remembers_and_its_end_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await;
    let mut ann = ann(&server).await;
    assert_eq!(ann.execute_update("CREATE SCHEMA lake.shop".to_string(), None).await.unwrap(), 0);
    // A statement that is no query promises no schema, and has happened when its stream begins.
    let info = ann.execute("USE lake.shop".to_string(), None).await.unwrap();
    assert!(info.schema.is_empty());
    drop(ann.do_get(ticket(&info)).await.unwrap());
    ann.execute_update("CREATE TABLE items (id BIGINT, name VARCHAR)".to_string(), None).await.unwrap();

    let command = CommandGetTables { catalog: Some("lake".to_string()), include_schema: true, ..Default::default() };
    let info = ann.get_tables(command.clone()).await.unwrap();
    let tables: Vec<RecordBatch> = ann.do_get(ticket(&info)).await.unwrap().try_collect().await.unwrap();
    let names: Vec<_> = tables[0].column(2).as_string::<i32>().iter().flatten().collect();
    assert!(names.contains(&"items"), "{names:?}");
    let mut ci = client(&server).await;
    ci.set_token("ci token".to_string());
    let info = ci.get_tables(command).await.unwrap();
    let hidden: Vec<RecordBatch> = ci.do_get(ticket(&info)).await.unwrap().try_collect().await.unwrap();
    assert_eq!(hidden.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    let info = ann.get_sql_info(vec![SqlInfo::FlightSqlServerName]).await.unwrap();
    ann.do_get(ticket(&info)).await.unwrap().try_collect::<Vec<_>>().await.unwrap();
    let info = ann.get_xdbc_type_info(CommandGetXdbcTypeInfo { data_type: None }).await.unwrap();
    let types: Vec<RecordBatch> = ann.do_get(ticket(&info)).await.unwrap().try_collect().await.unwrap();
    assert_eq!(types.iter().map(RecordBatch::num_rows).sum::<usize>(), 13);

    let close = Request::new(Action::new(super::session_actions::CLOSE, ""));
    ann.do_action(close).await.unwrap();
    assert_eq!(code(ann.execute("SELECT 1".to_string(), None).await), "SESSION_NOT_FOUND");
}

#[tokio::test]
async fn prepared_statements_take_parameters() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await;
    let mut ann = ann(&server).await;
    let mut statement = ann.prepare("SELECT $1 + 1 AS n, $2 AS t".to_string(), None).await.unwrap();
    assert_eq!(statement.parameter_schema().unwrap().fields().len(), 2);
    for number in [1_i64, 2] {
        let parameters = RecordBatch::try_from_iter([
            ("1", Arc::new(Int64Array::from(vec![number])) as _),
            ("2", Arc::new(StringArray::from(vec!["x"])) as _),
        ]);
        statement.set_parameters(parameters.unwrap()).unwrap();
        let info = statement.execute().await.unwrap();
        let batches: Vec<RecordBatch> = ann.do_get(ticket(&info)).await.unwrap().try_collect().await.unwrap();
        assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().value(0), number + 1);
        assert_eq!(batches[0].column(1).as_string::<i32>().value(0), "x");
    }
    statement.close().await.unwrap();
}
