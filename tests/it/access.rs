//! Who may see and do what, through the real door: catalogs, queries of others, credentials, tickets, the audit log, and
//! errors that tell what failed and no secret.

mod audit;
mod credentials;
mod failures;
mod queries;
mod tickets;
mod visibility;
mod writing;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_flight::FlightInfo;
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::TryStreamExt;
use tonic::transport::{Channel, Endpoint};
use townlake_cli::connection::Connection;
use townlake_common::{Error, ErrorCode, Result};
use townlake_tests::town::{Town, TownSpec};

/// Everyone's password.
const PASSWORD: &str = "hunter2-door";
/// The password in the URL of the catalog `crm`.
const CRM_PASSWORD: &str = "hunter2-crm";
/// The token of the service `ci`, an analyst.
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// `lake` is read by analysts (bob, ci) and written by ann; `ledger` is ann's alone; `crm` is a Postgres that is down, ann's
/// too. carol may nothing, root is the administrator and reads no catalog.
fn spec() -> TownSpec {
    TownSpec::default()
        .executors(1)
        .toml("[auth]\nadmins = [\"operators\"]")
        .user("ann", PASSWORD, &[])
        .user("bob", PASSWORD, &["analysts"])
        .user("carol", PASSWORD, &["nobodies"])
        .user("root", PASSWORD, &["operators"])
        .token("ci", TOKEN, &["analysts"])
        .lake("lake", &["analysts"], &["ann"])
        .lake("ledger", &[], &["ann"])
        .toml(&format!(
            "[catalogs.crm]\ntype = \"postgres\"\nurl = \"postgres://app:{CRM_PASSWORD}@127.0.0.1:1/crm\"\n\
             connect_timeout = \"2s\"\nreaders = [\"ann\"]"
        ))
}

/// [`spec`], started, with the tables `lake.sales.orders` and `ledger.books.accounts`.
async fn town() -> Town {
    let town = spec().start().await;
    fill(&town).await;
    town
}

async fn fill(town: &Town) {
    let ann = connect(town, "ann").await;
    for sql in [
        "CREATE SCHEMA lake.sales",
        "CREATE TABLE lake.sales.orders AS SELECT value AS id, value % 7 AS k FROM generate_series(1, 1000)",
        "CREATE SCHEMA ledger.books",
        "CREATE TABLE ledger.books.accounts (iban VARCHAR, balance DECIMAL(12, 2))",
        "INSERT INTO ledger.books.accounts VALUES ('CZ65', 12.50)",
    ] {
        run(&ann, sql).await;
    }
}

async fn connect(town: &Town, user: &str) -> Connection {
    town.connect(user, PASSWORD).await
}

async fn run(connection: &Connection, sql: &str) {
    connection.run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// The rows of a query that must succeed, as text.
async fn rows(connection: &Connection, sql: &str) -> Vec<Vec<String>> {
    let (_, batches) = connection.collect(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    batches.iter().flat_map(text).collect()
}

/// Every cell of a query's result, one after the other.
async fn cells(connection: &Connection, sql: &str) -> Vec<String> {
    rows(connection, sql).await.into_iter().flatten().collect()
}

/// The error of a statement that must fail.
async fn error(connection: &Connection, sql: &str) -> Error {
    match connection.collect(sql).await {
        Err(error) => error,
        Ok((_, batches)) => panic!("{sql} gave {:?}", batches.iter().flat_map(text).collect::<Vec<_>>()),
    }
}

fn text(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).expect("a column that can be shown"))
        .collect();
    (0..batch.num_rows()).map(|row| columns.iter().map(|column| column.value(row).to_string()).collect()).collect()
}

/// A bare Flight SQL client, not signed in.
async fn stranger(town: &Town) -> FlightSqlServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(town.url()).expect("a URL");
    FlightSqlServiceClient::new(endpoint.connect().await.expect("reach the door"))
}

/// A bare Flight SQL client with a session of its own.
async fn client(town: &Town, user: &str) -> FlightSqlServiceClient<Channel> {
    let mut client = stranger(town).await;
    client.handshake(user, PASSWORD).await.expect("sign in");
    client
}

/// Reads what a FlightInfo promises.
async fn read(client: &mut FlightSqlServiceClient<Channel>, info: &FlightInfo) -> Result<Vec<Vec<String>>> {
    let ticket = info.endpoint.first().and_then(|endpoint| endpoint.ticket.clone()).expect("a ticket");
    let stream = client.do_get(ticket).await.map_err(typed)?;
    let batches: Vec<RecordBatch> = stream.try_collect().await.map_err(typed)?;
    Ok(batches.iter().flat_map(text).collect())
}

/// The typed error that came over the wire.
fn typed(error: FlightError) -> Error {
    match error {
        FlightError::Tonic(status) => Error::from_status("the door", &status),
        other => panic!("no error of the door: {other}"),
    }
}

fn assert_code(error: &Error, code: ErrorCode, what: &str) {
    assert_eq!(error.code(), code, "{what}: {error}");
}
