//! Actions beyond statements: cancel a query, ask how far it is, session options.

use arrow_flight::sql::{Any, Command};
use arrow_flight::{Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo};
use bytes::Bytes;
use prost::Message;
use serde_json::json;
use townlake_common::{Error, ErrorCode, QueryId, Result};

use super::PROGRESS_ACTION;
use super::put::unreadable;
use super::service::Parts;
use super::session_actions;
use crate::session::Session;

const CANCEL: &str = "CancelFlightInfo";

/// What `ListActions` answers.
pub fn offered() -> Vec<ActionType> {
    [
        ("CreatePreparedStatement", "Prepares a statement. ActionCreatePreparedStatementRequest → ...Result"),
        ("ClosePreparedStatement", "Closes a prepared statement. ActionClosePreparedStatementRequest → nothing"),
        ("CancelQuery", "Cancels a query (older clients). ActionCancelQueryRequest → ActionCancelQueryResult"),
        (CANCEL, "Cancels a query. CancelFlightInfoRequest → CancelFlightInfoResult"),
        (session_actions::SET, "Sets catalog, schema and settings. SetSessionOptionsRequest → SetSessionOptionsResult"),
        (
            session_actions::GET,
            "Tells catalog, schema and settings. GetSessionOptionsRequest → GetSessionOptionsResult",
        ),
        (session_actions::CLOSE, "Ends the session. CloseSessionRequest → CloseSessionResult"),
        (PROGRESS_ACTION, "Tells how far a query is. Query id → JSON"),
    ]
    .map(|(name, description)| ActionType { r#type: name.to_string(), description: description.to_string() })
    .to_vec()
}

/// Runs an action that is not of Flight SQL itself and gives the body of its result.
///
/// Errors: `NOT_SUPPORTED` for one that is not offered; what the action reports.
pub async fn run(parts: &Parts, session: &std::sync::Arc<Session>, action: Action) -> Result<Bytes> {
    match action.r#type.as_str() {
        CANCEL => {
            let request = CancelFlightInfoRequest::decode(action.body).map_err(|_| unreadable(CANCEL))?;
            let info = request.info.ok_or_else(|| unreadable("the FlightInfo of CancelFlightInfo"))?;
            let status = match cancel(parts, session, &info).await? {
                true => CancelStatus::Cancelled,
                false => CancelStatus::NotCancellable,
            };
            Ok(CancelFlightInfoResult { status: status.into() }.encode_to_vec().into())
        }
        PROGRESS_ACTION => progress(parts, session, &action.body).await,
        session_actions::SET => session_actions::set(parts, session, action.body).await,
        session_actions::GET => Ok(session_actions::get(session)),
        session_actions::CLOSE => Ok(session_actions::close(parts, session)),
        _ => Err(Error::new(ErrorCode::NotSupported, "there is no such action").with_hint("ListActions lists all")),
    }
}

/// Cancels the query of a `FlightInfo` that we made. Whether there was something to cancel.
///
/// Errors: `TICKET_INVALID` for a ticket that is not this principal's.
pub async fn cancel(parts: &Parts, session: &Session, info: &FlightInfo) -> Result<bool> {
    let ticket = info.endpoint.first().and_then(|endpoint| endpoint.ticket.as_ref());
    let command = ticket.and_then(|ticket| Any::decode(ticket.ticket.clone()).ok());
    let Some(Ok(Command::TicketStatementQuery(ticket))) = command.map(Command::try_from) else {
        return Ok(false); // metadata: there is no query
    };
    let id = match parts.tokens.check_result_ticket(&ticket.statement_handle, &session.principal) {
        Ok(id) => id,
        Err(error) if error.code() == ErrorCode::TicketExpired => return Ok(false),
        Err(error) => return Err(error),
    };
    if parts.pending.take(&id, &session.principal.name).is_ok() {
        return Ok(true); // planned and not read: now it never will be
    }
    match parts.queries.cancel(&session.principal, &id).await {
        Ok(()) => Ok(true),
        Err(error) if error.code() == ErrorCode::QueryNotFound => Ok(false), // it has ended
        Err(error) => Err(error),
    }
}

/// How far a query of this principal is, as JSON:
/// `{"query_id", "state", "rows", "bytes", "elapsed_ms", "stages": [{"stage", "state", "tasks", "done", "running"}]}`.
async fn progress(parts: &Parts, session: &Session, body: &Bytes) -> Result<Bytes> {
    let text = std::str::from_utf8(body).map_err(|_| unreadable("the query id"))?;
    let id = QueryId::parse(text.trim())?;
    let known = parts.queries.registry().info(&id);
    let Some(query) = known.filter(|query| query.user == session.principal.name) else {
        // Planned and not begun, or ended and forgotten: the client knows which, it holds the ticket.
        let answer = json!({ "query_id": id.as_str(), "state": "WAITING", "stages": [] });
        return Ok(answer.to_string().into());
    };
    let stages = parts.scheduler.progress(&id).await.map(|progress| progress.stages).unwrap_or_default();
    let stages: Vec<_> = stages
        .iter()
        .map(|stage| {
            json!({
                "stage": stage.stage,
                "state": stage.state.as_str(),
                "tasks": stage.tasks_total,
                "done": stage.tasks_done,
                "running": stage.tasks_running,
            })
        })
        .collect();
    let end = query.ended.unwrap_or_else(chrono::Utc::now);
    let answer = json!({
        "query_id": id.as_str(),
        "state": query.state.as_str(),
        "rows": query.rows,
        "bytes": query.bytes,
        "elapsed_ms": (end - query.created).num_milliseconds().max(0),
        "stages": stages,
    });
    Ok(answer.to_string().into())
}
