//! Result tickets: forged, foreign, expired, replayed.

use std::time::Duration;

use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{Any, ProstMessageExt, TicketStatementQuery};
use arrow_flight::{FlightInfo, Ticket};
use futures::TryStreamExt;
use prost::Message;
use tonic::transport::Channel;
use townlake_common::{Error, ErrorCode};

use super::{PASSWORD, assert_code, client, read, spec, town, typed};

const SQL: &str = "SELECT count(*) FROM ledger.books.accounts";

/// The signed part of a ticket.
fn handle(info: &FlightInfo) -> Vec<u8> {
    let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
    let any = Any::decode(ticket.ticket).expect("a Flight SQL ticket");
    let statement: TicketStatementQuery = any.unpack().expect("of a statement").expect("of a statement");
    statement.statement_handle.to_vec()
}

fn ticket(handle: Vec<u8>) -> Ticket {
    Ticket::new(TicketStatementQuery { statement_handle: handle.into() }.as_any().encode_to_vec())
}

async fn refusal(client: &mut FlightSqlServiceClient<Channel>, ticket: Ticket) -> Error {
    match client.do_get(ticket).await {
        Err(error) => typed(error),
        Ok(stream) => typed(stream.try_collect::<Vec<_>>().await.expect_err("this ticket must not be good")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_foreign_and_replayed_tickets_are_invalid() {
    let town = town().await;
    let mut ann = client(&town, "ann").await;
    let info = ann.execute(SQL.to_string(), None).await.expect("plan");
    let good = handle(&info);

    // foreign: right in everything but who brings it
    let mut bob = client(&town, "bob").await;
    let foreign = refusal(&mut bob, ticket(good.clone())).await;
    assert_code(&foreign, ErrorCode::TicketInvalid, "another's ticket");

    // forged: one bit anywhere, cut short, lengthened, empty, nonsense
    let mut texts = vec![foreign.to_string()];
    for position in (0..good.len()).step_by(5) {
        let mut forged = good.clone();
        forged[position] ^= 0x10;
        texts.push(refusal(&mut ann, ticket(forged)).await.to_string());
    }
    let long = [good.clone(), vec![0; 5000]].concat();
    for forged in [Vec::new(), good[..good.len() / 2].to_vec(), long, b"nonsense".to_vec(), good.repeat(2)] {
        let refused = refusal(&mut ann, ticket(forged)).await;
        assert_code(&refused, ErrorCode::TicketInvalid, "a forged ticket");
        texts.push(refused.to_string());
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "one text for all: {texts:?}");
    assert!(texts[0].starts_with("TICKET_INVALID"), "{texts:?}");
    // not even the envelope of a ticket
    for bytes in [Vec::new(), b"nonsense".to_vec(), vec![0xff; 64]] {
        let refused = refusal(&mut ann, Ticket::new(bytes)).await;
        assert!(matches!(refused.code(), ErrorCode::TicketInvalid | ErrorCode::InvalidArgument), "{refused}");
    }

    // another purpose: the token of a session, the handle of a prepared statement
    let token = ann.token().cloned().expect("a session token").into_bytes();
    assert_code(&refusal(&mut ann, ticket(token)).await, ErrorCode::TicketInvalid, "a session token");
    let prepared = ann.prepare(SQL.to_string(), None).await.expect("prepare");
    drop(prepared);

    // after all that it is still good, once
    assert_eq!(read(&mut ann, &info).await.expect("the first reading").concat(), ["1"]);
    let replayed = refusal(&mut ann, ticket(good)).await;
    assert_code(&replayed, ErrorCode::TicketInvalid, "a ticket that was read");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_of_another_cluster_is_invalid() {
    let (here, there) = (town().await, town().await);
    let (mut ann_here, mut ann_there) = (client(&here, "ann").await, client(&there, "ann").await);
    let info = ann_there.execute(SQL.to_string(), None).await.expect("plan");
    let refused = refusal(&mut ann_here, ticket(handle(&info))).await;
    assert_code(&refused, ErrorCode::TicketInvalid, "another cluster's ticket");
    here.stop().await;
    there.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_waited_too_long_is_expired() {
    let town = spec().toml("[limits]\nticket_ttl = \"1s\"").user("dora", PASSWORD, &[]).start().await;
    let mut ann = client(&town, "ann").await;
    let info = ann.execute("SELECT 1".to_string(), None).await.expect("plan");
    let mut dora = client(&town, "dora").await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    // to another it is not even expired
    assert_code(&refusal(&mut dora, ticket(handle(&info))).await, ErrorCode::TicketInvalid, "another's expired ticket");
    assert_code(&refusal(&mut ann, ticket(handle(&info))).await, ErrorCode::TicketExpired, "an expired ticket");
    let info = ann.execute("SELECT 1".to_string(), None).await.expect("plan again");
    assert_eq!(read(&mut ann, &info).await.expect("in time").concat(), ["1"]);
    town.stop().await;
}
