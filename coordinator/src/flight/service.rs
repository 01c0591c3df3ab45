//! The Flight SQL calls. Each is a few lines: who calls, what is asked, which part of the door answers.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::sql::server::{DoPutError, FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{
    ActionBeginTransactionRequest, ActionBeginTransactionResult, ActionCancelQueryRequest, ActionCancelQueryResult,
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
    Any, Command, CommandPreparedStatementQuery, CommandPreparedStatementUpdate, CommandStatementIngest,
    CommandStatementQuery, CommandStatementUpdate, DoPutPreparedStatementResult, ProstMessageExt, SqlInfo,
    TicketStatementQuery,
};
use arrow_flight::{
    Action, FlightDescriptor, FlightEndpoint, FlightInfo, IpcMessage, SchemaAsIpc, SchemaResult, Ticket,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use prost::Message;
use tonic::{Request, Response, Status};
use townlake_common::config::LimitsConfig;
use townlake_common::{Error, ErrorCode, QueryId, Result};

use super::admission::Caller;
use super::pending::{Pending, PendingResult};
use super::results::{self, FlightStream};
use super::statements::{Statement, Statements};
use super::tokens::Tokens;
use super::{actions, metadata, put};
use crate::http::Metrics;
use crate::query::{Prepared, QueryService, StatementKind};
use crate::scheduling::Scheduler;
use crate::session::{Session, SessionStore};

/// Values of `ActionCancelQueryResult.CancelResult`, an enumeration that arrow-flight does not give out.
const CANCEL_RESULT_CANCELLED: i32 = 1;
const CANCEL_RESULT_NOT_CANCELLABLE: i32 = 3;

/// A handle is good as long as its statement, which ends when it is closed or not used; this only bounds a leaked one.
const STATEMENT_HANDLE_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// The Flight SQL service of one coordinator. Clones share everything.
#[derive(Clone)]
pub struct FlightSql(Arc<Parts>);

/// What the calls work with.
pub(super) struct Parts {
    pub(super) queries: Arc<QueryService>,
    pub(super) scheduler: Arc<Scheduler>,
    pub(super) sessions: SessionStore,
    pub(super) tokens: Tokens,
    pub(super) statements: Statements,
    pub(super) pending: Pending,
    pub(super) metrics: Arc<Metrics>,
}

impl FlightSql {
    /// The service over its parts.
    pub fn new(
        queries: Arc<QueryService>,
        scheduler: Arc<Scheduler>,
        sessions: SessionStore,
        tokens: Tokens,
        metrics: Arc<Metrics>,
        limits: &LimitsConfig,
    ) -> Self {
        Self(Arc::new(Parts {
            queries,
            scheduler,
            sessions,
            tokens,
            statements: Statements::new(limits.session_ttl),
            pending: Pending::new(limits.ticket_ttl),
            metrics,
        }))
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// Forgets statements and results that nobody came back for. A background task calls it now and then.
    pub fn expire(&self) {
        self.0.statements.expire();
        self.0.pending.expire();
        self.0.sessions.expire();
    }

    /// What `GetSchema` answers: the columns of a statement that is not run.
    pub(super) async fn schema_of(
        &self,
        session: &Arc<Session>,
        descriptor: &FlightDescriptor,
    ) -> Result<SchemaResult> {
        let schema = match command_of(&descriptor.cmd) {
            Some(Command::CommandStatementQuery(query)) => {
                results::wire_schema(&self.0.queries.prepare(session, &query.query).await?.schema)
            }
            Some(Command::CommandPreparedStatementQuery(query)) => {
                let (_, statement) = self.0.statement(session, &query.prepared_statement_handle)?;
                results::wire_schema(&self.0.prepared_anew(&statement).await?.schema)
            }
            Some(other) => metadata::schema_of(&other)?.ok_or_else(|| put::unreadable("the command of GetSchema"))?,
            None => return Err(put::unreadable("the command of GetSchema")),
        };
        Ok(SchemaResult { schema: ipc_schema(&schema)? })
    }

    /// Where to get the answer to a metadata command; `None` when it is not one.
    ///
    /// The command itself is the ticket: the call that brings it back is authenticated too, and answered from what its
    /// caller may see.
    pub(super) fn describe_metadata(&self, descriptor: &FlightDescriptor) -> Result<Option<FlightInfo>> {
        let Some(command) = command_of(&descriptor.cmd) else { return Ok(None) };
        let Some(schema) = metadata::schema_of(&command)? else { return Ok(None) };
        let ticket = Ticket::new(descriptor.cmd.clone());
        let endpoint = FlightEndpoint::new().with_ticket(ticket);
        let mut info = FlightInfo::new().with_descriptor(descriptor.clone()).with_endpoint(endpoint);
        info.schema = ipc_schema(&schema)?;
        Ok(Some(info))
    }

    /// The answer to a metadata command; `None` when the ticket is not one.
    pub(super) async fn metadata(&self, session: &Session, ticket: &Ticket) -> Result<Option<FlightStream>> {
        let Some(command) = command_of(&ticket.ticket) else { return Ok(None) };
        match metadata::answer(self.0.queries.catalogs(), session, command).await? {
            Some(batch) => results::stream_batch(&batch, &self.0.metrics).map(Some),
            None => Ok(None),
        }
    }
}

impl Parts {
    /// The id and the statement of a handle, if it is this principal's.
    pub(super) fn statement(&self, session: &Session, handle: &[u8]) -> Result<(String, Statement)> {
        let id = self.tokens.check_statement_handle(handle, &session.principal)?;
        let statement = self.statements.find(&id)?;
        Ok((id, statement))
    }

    /// The statement of a handle with the columns that it has today: those of its tables may have changed since it was prepared,
    /// and clients prepare a text once.
    async fn statement_of_today(&self, session: &Session, handle: &[u8]) -> Result<Statement> {
        let (id, statement) = self.statement(session, handle)?;
        if self.statements.is_of_today(&id) {
            return Ok(statement);
        }
        let prepared = self.prepared_anew(&statement).await?;
        self.statements.renew(&id, &prepared);
        Ok(Statement { prepared, ..statement })
    }

    async fn prepared_anew(&self, statement: &Statement) -> Result<Arc<Prepared>> {
        self.queries.prepare(&statement.session, &statement.prepared.sql).await
    }

    /// Promises the result of a planned statement: a ticket for one reading by this principal.
    fn promise(&self, result: PendingResult, descriptor: FlightDescriptor) -> Result<FlightInfo> {
        let id = QueryId::generate();
        let principal = &result.session.principal;
        let statement_handle = self.tokens.result_ticket(&id, principal, self.pending.ttl()).into();
        let ticket = Ticket::new(TicketStatementQuery { statement_handle }.as_any().encode_to_vec());
        let schema = match promised_schema(&result.prepared) {
            Some(schema) => ipc_schema(&schema)?,
            None => Bytes::new(),
        };
        let mut info = FlightInfo::new()
            .with_descriptor(descriptor)
            .with_endpoint(FlightEndpoint::new().with_ticket(ticket))
            .with_app_metadata(serde_json::json!({ "query_id": id.as_str() }).to_string());
        info.schema = schema;
        let session = Arc::clone(&result.session);
        self.pending.put(id, &session, result.size(), result);
        Ok(info)
    }

    /// Runs what was promised.
    async fn run_promised(&self, session: &Session, ticket: &[u8]) -> Result<FlightStream> {
        let id = self.tokens.check_result_ticket(ticket, &session.principal)?;
        let PendingResult { session, prepared, parameters } = self.pending.take(&id, &session.principal.name)?;
        let mut counted = self.metrics.query_started();
        let started = async {
            let running = self.queries.execute(&session, &prepared, parameters, Some(id)).await?;
            let now = results::wire_schema(&running.schema);
            let schema = promised_schema(&prepared).unwrap_or_else(|| Arc::clone(&now));
            check_promise(&prepared, &schema, &now)?;
            match prepared.kind {
                StatementKind::Query => Ok((running.rows, schema)),
                // To the end, before the client hears a word: see `promised_schema`.
                StatementKind::Update | StatementKind::Command => {
                    Ok((results::read_whole(running.rows).await?, schema))
                }
            }
        };
        match started.await {
            Ok((rows, schema)) => Ok(results::stream_rows(rows, schema, counted, &self.metrics)),
            Err(error) => {
                counted.failed(Error::code(&error));
                Err(error)
            }
        }
    }
}

/// The columns that `GetFlightInfo` promises and the stream then has; `None` where it promises nothing.
///
/// A statement that changes something promises no schema. A client that has none yet reads the beginning of the stream before
/// it goes on, and that begins when the statement has run: nobody moves on from an INSERT, or closes its cursor, before it
/// happened. Nor does a query where a parameter's type is open: its columns are known when a value is bound.
fn promised_schema(prepared: &Prepared) -> Option<SchemaRef> {
    let open = prepared.parameters.fields().iter().any(|parameter| parameter.data_type().is_null());
    (prepared.kind == StatementKind::Query && !open).then(|| results::wire_schema(&prepared.schema))
}

/// Refuses to run a prepared statement whose columns are others by now: they would be read as those that were promised. Where it
/// has parameters, a value may decide the type of a column, and its name where that tells of the parameter.
///
/// Errors: `COMMIT_CONFLICT`.
fn check_promise(prepared: &Prepared, promised: &Schema, now: &Schema) -> Result<()> {
    let has_parameters = !prepared.parameters.fields().is_empty();
    let is_kept = |(promised, now): (&FieldRef, &FieldRef)| {
        let named = promised.name() == now.name() || (has_parameters && promised.name().contains('$'));
        let is_plain = !promised.data_type().is_nested() && !now.data_type().is_nested();
        named && (promised.data_type() == now.data_type() || (has_parameters && is_plain))
    };
    let same_count = promised.fields().len() == now.fields().len();
    if same_count && promised.fields().iter().zip(now.fields()).all(is_kept) {
        return Ok(());
    }
    let message = "the columns of this statement have changed since it was prepared";
    Err(Error::new(ErrorCode::CommitConflict, message).with_hint("prepare it again").retryable())
}

/// The schema in the encapsulated form that every client reads.
pub(super) fn ipc_schema(schema: &Schema) -> Result<Bytes> {
    let message: std::result::Result<IpcMessage, _> = SchemaAsIpc::new(schema, &IpcWriteOptions::default()).try_into();
    message.map(|message| message.0).map_err(|e| Error::internal("a schema cannot be encoded").with_source(e))
}

/// The session that the door put into the request.
fn session_of<T>(request: &Request<T>) -> Result<Arc<Session>> {
    let caller = request.extensions().get::<Caller>();
    caller.map(|caller| Arc::clone(&caller.session)).ok_or_else(|| Error::internal("a call came in past the door"))
}

fn command_of(bytes: &Bytes) -> Option<Command> {
    Command::try_from(Any::decode(bytes.clone()).ok()?).ok()
}

fn refuse_transaction(id: Option<&Bytes>) -> Result<()> {
    match id {
        Some(id) if !id.is_empty() => Err(no_transactions()),
        _ => Ok(()),
    }
}

fn no_transactions() -> Error {
    Error::new(ErrorCode::NotSupported, "there are no transactions over several statements")
        .with_hint("use autocommit: each statement commits as a whole")
}

#[tonic::async_trait]
impl FlightSqlService for FlightSql {
    type FlightService = FlightSql;

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        refuse_transaction(query.transaction_id.as_ref())?;
        let session = session_of(&request)?;
        let prepared = self.0.queries.prepare(&session, &query.query).await?;
        let result = PendingResult { session, prepared, parameters: None };
        Ok(Response::new(self.0.promise(result, request.into_inner())?))
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let session = session_of(&request)?;
        let statement = self.0.statement_of_today(&session, &query.prepared_statement_handle).await?;
        let Statement { session, prepared, parameters } = statement;
        let result = PendingResult { session, prepared, parameters };
        Ok(Response::new(self.0.promise(result, request.into_inner())?))
    }

    /// Every ticket that we gave is a command that we know.
    async fn do_get_fallback(
        &self,
        _request: Request<Ticket>,
        _message: Any,
    ) -> Result<Response<FlightStream>, Status> {
        Err(Error::new(ErrorCode::TicketInvalid, "the ticket is not valid here").into())
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<FlightStream>, Status> {
        let session = session_of(&request)?;
        Ok(Response::new(self.0.run_promised(&session, &ticket.statement_handle).await?))
    }

    async fn do_put_error_callback(
        &self,
        _request: Request<PeekableFlightDataStream>,
        _error: DoPutError,
    ) -> Result<Response<<Self as arrow_flight::flight_service_server::FlightService>::DoPutStream>, Status> {
        Err(Error::new(ErrorCode::InvalidArgument, "the first message of DoPut names no command").into())
    }

    async fn do_put_statement_update(
        &self,
        update: CommandStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        refuse_transaction(update.transaction_id.as_ref())?;
        let session = session_of(&request)?;
        let prepared = self.0.queries.prepare(&session, &update.query).await?;
        Ok(put::run_update(&self.0, &session, &prepared, None).await?)
    }

    async fn do_put_prepared_statement_update(
        &self,
        update: CommandPreparedStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let session = session_of(&request)?;
        let (_, statement) = self.0.statement(&session, &update.prepared_statement_handle)?;
        Ok(put::run_prepared_update(&self.0, &statement, request.into_inner()).await?)
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let session = session_of(&request)?;
        let (id, _) = self.0.statement(&session, &query.prepared_statement_handle)?;
        let parameters = put::one_row(request.into_inner()).await?;
        self.0.statements.bind(&id, parameters)?;
        // The handle stays: what is bound lies with the statement, here.
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(query.prepared_statement_handle) })
    }

    async fn do_put_statement_ingest(
        &self,
        ingest: CommandStatementIngest,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        refuse_transaction(ingest.transaction_id.as_ref())?;
        let session = session_of(&request)?;
        Ok(put::ingest(&self.0, &session, ingest, request.into_inner()).await?)
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        refuse_transaction(query.transaction_id.as_ref())?;
        let session = session_of(&request)?;
        let prepared = self.0.queries.prepare(&session, &query.query).await?;
        // No schema of the result is how drivers know a statement that is to be run as an update.
        let dataset_schema = match prepared.kind {
            StatementKind::Query => ipc_schema(&results::wire_schema(&prepared.schema))?,
            StatementKind::Update | StatementKind::Command => Bytes::new(),
        };
        let parameter_schema = ipc_schema(&put::parameter_schema(&prepared.parameters))?;
        let id = self.0.statements.open(&session, prepared)?;
        let handle = self.0.tokens.statement_handle(&id, &session.principal, STATEMENT_HANDLE_TTL);
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: handle.into(),
            dataset_schema,
            parameter_schema,
        })
    }

    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<(), Status> {
        let session = session_of(&request)?;
        let id = self.0.tokens.check_statement_handle(&query.prepared_statement_handle, &session.principal)?;
        self.0.statements.close(&id);
        Ok(())
    }

    async fn do_action_begin_transaction(
        &self,
        _query: ActionBeginTransactionRequest,
        _request: Request<Action>,
    ) -> Result<ActionBeginTransactionResult, Status> {
        Err(no_transactions().into())
    }

    async fn do_action_cancel_query(
        &self,
        query: ActionCancelQueryRequest,
        request: Request<Action>,
    ) -> Result<ActionCancelQueryResult, Status> {
        let session = session_of(&request)?;
        let info = FlightInfo::decode(query.info).map_err(|_| put::unreadable("the FlightInfo of CancelQuery"))?;
        let result = match actions::cancel(&self.0, &session, &info).await? {
            true => CANCEL_RESULT_CANCELLED,
            false => CANCEL_RESULT_NOT_CANCELLABLE,
        };
        Ok(ActionCancelQueryResult { result })
    }

    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Result<Response<<Self as arrow_flight::flight_service_server::FlightService>::DoActionStream>, Status> {
        let session = session_of(&request)?;
        let body = actions::run(&self.0, &session, request.into_inner()).await?;
        Ok(Response::new(stream::iter([Ok(arrow_flight::Result { body })]).boxed()))
    }

    /// What the server can do is fixed ([`sql_info`](super::sql_info)).
    async fn register_sql_info(&self, _id: i32, _result: &SqlInfo) {}
}
