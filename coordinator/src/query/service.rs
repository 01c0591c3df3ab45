//! What the doors talk to: prepare a statement, execute it, cancel it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::{Int64Array, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::execution::context::SessionContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use futures::future::BoxFuture;
use tokio::time::{Instant, interval};
use townlake_common::config::Config;
use townlake_common::{Error, ErrorCode, Principal, QueryContext, QueryId, Result};
use townlake_connectors::dynamic_filters::{RunPlan, with_dynamic_filters};
use townlake_connectors::pushdown::PUSH_INTO_SOURCES;
use townlake_connectors::{FindDefinition, SourceConnections};
use townlake_engine::error::from_datafusion;
use townlake_lake::LakeObjects;
use townlake_store::Store;

use super::again::{Again, Tries, anew};
use super::catalogs::without_secrets;
use super::here::{Here, HerePlan};
use super::parameters::{bind, parameters_of};
use super::parse::parse;
use super::placement::{Placement, placement, with_known_leaves};
use super::planner::{Planned, Planner};
use super::registry::{Begun, QueryState, Registry, Tracked};
use super::rows::{Limits, Source, caught, rows};
use super::settings::Effective;
use super::statement::{Statement, StatementKind};
use super::wire::check_levels;
use crate::catalogs::{Catalogs, Current};
use crate::scheduling::Scheduler;
use crate::session::Session;
use crate::system::System;

/// How often a query that waits for its turn on the cluster is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How often the catalogs that other coordinators make are looked for.
const LOOK_FOR_CATALOGS: Duration = Duration::from_secs(1);

/// Plans and runs statements for sessions.
pub struct QueryService {
    pub(super) config: Arc<Config>,
    pub(super) scheduler: Arc<Scheduler>,
    pub(super) catalogs: Catalogs,
    store: Store,
    registry: Arc<Registry>,
    system: Arc<System>,
    pub(super) runtime: Arc<RuntimeEnv>,
    /// Where queries that run here spill; removed with the service.
    _spill: tempfile::TempDir,
    /// Where queries run that do not run on the cluster.
    pub(super) here: Here,
}

/// A statement that was parsed and checked, ready to be executed any number of times.
pub struct Prepared {
    /// The statement as it was given.
    pub sql: String,
    /// The columns of its result.
    pub schema: SchemaRef,
    /// Its parameters in their order; the type `Null` where none could be inferred.
    pub parameters: SchemaRef,
    /// How a client sees it.
    pub kind: StatementKind,
    pub(super) statement: Statement,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("sql", &without_secrets(&self.sql)).finish_non_exhaustive()
    }
}

/// A statement that runs.
pub struct Running {
    /// Its id.
    pub id: QueryId,
    /// The columns of its rows.
    pub schema: SchemaRef,
    /// Its rows. Dropping them cancels the query.
    pub rows: SendableRecordBatchStream,
}

/// One execution on its way from the statement to its rows.
pub(super) struct Run<'a> {
    pub service: &'a Arc<QueryService>,
    pub session: &'a Arc<Session>,
    pub tracked: Arc<Tracked>,
    pub settings: Effective,
    pub parameters: Option<RecordBatch>,
}

impl QueryService {
    /// A service over these catalogs, executors and store.
    ///
    /// Errors: `CONFIG_INVALID`, naming the catalog; `INTERNAL` when there is no place for temporary files.
    pub async fn new(config: Arc<Config>, scheduler: Arc<Scheduler>, store: Store) -> Result<Arc<Self>> {
        let objects = LakeObjects::from_config(&config.catalogs)?;
        let sources = SourceConnections::with_definitions(&config.catalogs, Some(found_in(store.clone())))?;
        sources.set_made(store.catalogs().await?);
        keep_up(&sources, store.clone());
        let registry = Registry::new(store.clone(), scheduler.internal_addr().to_string());
        let admins = config.auth.admins.clone();
        let system = System::new(Arc::clone(&scheduler), Arc::clone(&registry), admins);
        let spill = tempfile::Builder::new().prefix("townlake-coordinator-").tempdir().map_err(|e| {
            Error::new(ErrorCode::ConfigInvalid, "the coordinator has no place for temporary files")
                .with_hint("set TMPDIR to a folder that it may write")
                .with_source(e)
        })?;
        let runtime =
            townlake_engine::runtime::runtime_env(&objects, config.limits.coordinator_memory.as_u64(), spill.path())
                .map_err(|error| from_datafusion(&error))?;
        let here = Here::start(config.limits.concurrent_queries)?;
        Ok(Arc::new(Self {
            catalogs: Catalogs::new(&config.catalogs, objects, sources, Arc::clone(&system)),
            config,
            scheduler,
            store,
            registry,
            system,
            runtime,
            _spill: spill,
            here,
        }))
    }

    /// The catalogs, filtered for whoever asks.
    pub fn catalogs(&self) -> &Catalogs {
        &self.catalogs
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Running and ended queries.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Parses and plans one statement. Nothing runs.
    ///
    /// Errors: all that a statement can be wrong in; they leave an audit row too.
    pub async fn prepare(self: &Arc<Self>, session: &Arc<Session>, sql: &str) -> Result<Arc<Prepared>> {
        match caught(self.try_prepare(session, sql)).await {
            Ok(prepared) => Ok(Arc::new(prepared)),
            Err(error) => {
                let shown: String = without_secrets(sql).chars().take(self.statement_limit()).collect();
                self.registry.begin(&session.principal, &shown).await?.end(Some(&error)).await;
                Err(error)
            }
        }
    }

    async fn try_prepare(&self, session: &Arc<Session>, sql: &str) -> Result<Prepared> {
        if sql.len() > self.statement_limit() {
            let message = format!("the statement has {} bytes; the limit is {}", sql.len(), self.statement_limit());
            return Err(Error::new(ErrorCode::ResourceExhausted, message).with_hint("load data with bulk ingest"));
        }
        let statement = parse(sql)?;
        let settings = self.settings(session);
        let cut = settings.cut.as_ref().map(|(_, cut)| Arc::clone(cut));
        let context = QueryContext::replaying(QueryId::generate(), session.principal.clone(), cut);
        let planner = self.planner(session, &context, &settings);
        let (schema, parameters) = self.describe(&planner, &statement).await?;
        Ok(Prepared { sql: sql.to_string(), schema, parameters, kind: statement.kind(), statement })
    }

    /// The result's columns and the parameters of a statement.
    async fn describe(&self, planner: &Planner<'_>, statement: &Statement) -> Result<(SchemaRef, SchemaRef)> {
        let none = Arc::new(Schema::empty());
        match statement {
            Statement::Query(ast) => {
                let planned = planner.plan(ast).await?;
                Ok((result_schema(&planned.state, &planned.plan), parameters_of(&planned.plan)?))
            }
            Statement::Insert { .. } => {
                let plan = match self.plan_source_insert(planner, statement).await? {
                    Some((planned, _)) => planned.plan,
                    None => self.plan_insert(planner, statement).await?.0.plan,
                };
                Ok((count_schema(), parameters_of(&plan)?))
            }
            Statement::Change(change) => {
                let plan = self.plan_change(planner, change).await?.planned.plan;
                Ok((count_schema(), parameters_of(&plan)?))
            }
            Statement::CreateTable(create) if create.as_query => {
                let planned = self.plan_create_as(planner, create).await?;
                Ok((count_schema(), parameters_of(&planned.plan)?))
            }
            Statement::Explain { statement, .. } => {
                let (_, parameters) = Box::pin(self.describe(planner, statement)).await?;
                Ok((super::explain::schema(), parameters))
            }
            other => Ok((super::show::schema_of(other).unwrap_or_else(command_schema), none)),
        }
    }

    /// Runs a prepared statement with one row of parameters, under `id` where the client was told one. Its rows begin to be computed when they are first asked for.
    ///
    /// Errors: `STORE_UNAVAILABLE` when it cannot be audited, all that planning finds; what happens while it runs comes
    /// with the rows.
    pub async fn execute(
        self: &Arc<Self>,
        session: &Arc<Session>,
        prepared: &Arc<Prepared>,
        parameters: Option<RecordBatch>,
        id: Option<QueryId>,
    ) -> Result<Running> {
        let id = id.unwrap_or_else(QueryId::generate);
        let settings = self.settings(session);
        let cut = settings.cut.as_ref().map(|(_, cut)| Arc::clone(cut));
        let shown = match &prepared.statement {
            Statement::CreateCatalog(_) => without_secrets(&prepared.sql),
            _ => prepared.sql.clone(),
        };
        let begun = self.registry.begin_as(id, &session.principal, &shown, cut).await?;
        let tracked = Arc::clone(begun.tracked()?);
        if prepared.kind != StatementKind::Command && !prepared.statement.is_about_the_server() {
            session.ran(&tracked.context.id);
        }
        let limits = self.limits(&tracked, &settings);
        tracked.enter(QueryState::Planning);
        let run = Run { service: self, session, tracked: Arc::clone(&tracked), settings, parameters };
        let mut tries = Tries::of(&prepared.statement, run.settings.cut.is_some());
        // In a box of its own: the compiler bounds how deep futures may lie in one another.
        let start: BoxFuture<'_, Result<(SchemaRef, Source)>> = Box::pin(async {
            loop {
                match run.start(&prepared.statement).await {
                    Err(error) if tries.after(&error) => anew(&tracked, &error).await,
                    started => return started,
                }
            }
        });
        let started = limits.guard(start).await;
        let id = tracked.context.id.clone();
        match started {
            Ok((schema, source)) => {
                let counted = prepared.kind == StatementKind::Query;
                let again = Again::of(&run, prepared, tries, &schema);
                let rows = rows(begun, Arc::clone(&schema), (source, again), limits, counted);
                Ok(Running { id, schema, rows })
            }
            Err(error) => {
                begun.end(Some(&error)).await;
                Err(error)
            }
        }
    }

    /// Cancels a running query of the principal's own, or any for an administrator.
    ///
    /// Errors: `QUERY_NOT_FOUND`, the same for a query that ended, never was, or is another's.
    pub async fn cancel(&self, principal: &Principal, id: &QueryId) -> Result<()> {
        let Some(tracked) = self.visible(principal, id) else {
            return Err(Error::new(ErrorCode::QueryNotFound, format!("there is no running query {id}"))
                .with_hint("see system.runtime.queries"));
        };
        tracked.cancelled().cancel();
        self.scheduler.cancel(id).await;
        Ok(())
    }

    /// Whether the principal may see the queries of others.
    pub(super) fn is_admin(&self, principal: &Principal) -> bool {
        self.system.is_admin(principal)
    }

    fn visible(&self, principal: &Principal, id: &QueryId) -> Option<Arc<Tracked>> {
        let own = |tracked: &Arc<Tracked>| {
            tracked.context.principal.name == principal.name || self.system.is_admin(principal)
        };
        self.registry.find(id).filter(own)
    }

    /// Begins a query that is no statement (bulk ingest).
    pub(super) async fn begin(&self, principal: &Principal, what: &str) -> Result<Begun> {
        self.registry.begin(principal, what).await
    }

    pub(super) fn settings(&self, session: &Session) -> Effective {
        let mut settings = Effective::new(&session.settings(), &self.config.limits, self.scheduler.slots());
        settings.cut = session.cut();
        settings
    }

    pub(super) fn limits(&self, tracked: &Tracked, settings: &Effective) -> Limits {
        // A deadline that the clock cannot tell is none.
        let deadline = settings.timeout.and_then(|limit| Instant::now().checked_add(limit));
        Limits { cancel: tracked.cancelled().clone(), deadline }
    }

    pub(super) fn planner<'a>(
        &'a self,
        session: &Session,
        context: &'a Arc<QueryContext>,
        settings: &'a Effective,
    ) -> Planner<'a> {
        let (catalog, schema) = session.current();
        Planner {
            catalogs: &self.catalogs,
            runtime: &self.runtime,
            context,
            current: Current { catalog, schema },
            settings,
            session_id: session.id.clone(),
        }
    }

    fn statement_limit(&self) -> usize {
        usize::try_from(self.config.limits.statement_size.as_u64()).unwrap_or(usize::MAX)
    }

    /// Runs a physical plan where it belongs.
    pub(super) async fn run_plan(
        self: Arc<Self>,
        tracked: Arc<Tracked>,
        plan: Arc<dyn ExecutionPlan>,
        state: SessionState,
        always_cluster: bool,
    ) -> Result<SendableRecordBatchStream> {
        let plan = self.with_dynamic_filters(&tracked, plan, &state).await;
        match placement(&plan, always_cluster) {
            Placement::Memory | Placement::Local | Placement::Recursive => {
                self.here.run(&tracked, HerePlan::new(plan, &tracked)?, state.task_ctx()).await
            }
            Placement::Cluster => {
                let plan = with_known_leaves(plan, &state.task_ctx()).await?;
                check_levels(&plan, &state)?;
                let session = Arc::new(SessionContext::new_with_state(state));
                let rows = self.run_on_cluster(&tracked, plan, session).await?;
                tracked.set_stages(self.scheduler.stages(&tracked.context.id).await.len());
                Ok(rows)
            }
        }
    }

    /// The plan whose scans of sources have the keys of their joins in them.
    async fn with_dynamic_filters(
        &self,
        tracked: &Tracked,
        plan: Arc<dyn ExecutionPlan>,
        state: &SessionState,
    ) -> Arc<dyn ExecutionPlan> {
        if !pushes_into_sources(state) {
            return plan;
        }
        let aside = Aside { here: &self.here, tracked, context: state.task_ctx() };
        let (plan, count) = with_dynamic_filters(plan, &aside).await;
        if count > 0 {
            tracing::debug!(query = %tracked.context.id, count, "scans of sources have dynamic filters");
        }
        plan
    }

    /// Runs a plan on the executors. It waits for its turn and for executors before it runs; a query that is quick is never
    /// seen to run.
    async fn run_on_cluster(
        &self,
        tracked: &Tracked,
        plan: Arc<dyn ExecutionPlan>,
        session: Arc<SessionContext>,
    ) -> Result<SendableRecordBatchStream> {
        tracked.enter(QueryState::Queued);
        let mut look = interval(LOOK);
        let its_turn = async {
            while self.scheduler.progress(&tracked.context.id).await.is_none() {
                look.tick().await;
            }
            tracked.enter(QueryState::Running);
            std::future::pending().await
        };
        let rows = tokio::select! {
            biased;
            rows = self.scheduler.run(&tracked.context, plan, session) => rows?,
            never = its_turn => never,
        };
        tracked.enter(QueryState::Running);
        Ok(rows)
    }
}

/// What a store keeps of catalogs that were made.
pub fn found_in(store: Store) -> FindDefinition {
    Arc::new(move |name| {
        let store = store.clone();
        Box::pin(async move { store.catalog(&name).await })
    })
}

/// Learns of what other coordinators make, drop and refresh, as long as the connections live.
fn keep_up(sources: &Arc<SourceConnections>, store: Store) {
    let sources = Arc::downgrade(sources);
    tokio::spawn(async move {
        let mut refreshed = BTreeMap::new();
        loop {
            tokio::time::sleep(LOOK_FOR_CATALOGS).await;
            let Some(sources) = sources.upgrade() else { return };
            let heard = async {
                sources.set_made(store.catalogs().await?);
                store.catalog_refreshes().await
            };
            match heard.await {
                Ok(refreshes) => {
                    for (name, _) in refreshes.iter().filter(|(name, id)| refreshed.get(*name) != Some(*id)) {
                        if let Some(source) = sources.source(name) {
                            source.refresh();
                        }
                    }
                    refreshed = refreshes;
                }
                Err(error) => tracing::warn!(%error, "what other coordinators made cannot be told"),
            }
        }
    });
}

/// Runs small plans for a query that has not begun.
struct Aside<'a> {
    here: &'a Here,
    tracked: &'a Tracked,
    context: Arc<TaskContext>,
}

#[async_trait]
impl RunPlan for Aside<'_> {
    async fn run(&self, plan: Arc<dyn ExecutionPlan>) -> Result<SendableRecordBatchStream> {
        self.here.run_aside(HerePlan::new(plan, self.tracked)?, Arc::clone(&self.context)).await
    }

    fn connections(&self) -> Option<Arc<SourceConnections>> {
        self.context.session_config().get_extension()
    }
}

/// Whether the session lets sources do more than filter.
fn pushes_into_sources(state: &SessionState) -> bool {
    state.physical_optimizers().iter().any(|rule| rule.name() == PUSH_INTO_SOURCES)
}

impl Run<'_> {
    /// Plans the statement, or does what a command says.
    async fn start(&self, statement: &Statement) -> Result<(SchemaRef, Source)> {
        self.check_cut(statement)?;
        match statement {
            Statement::Query(ast) => {
                let planned = self.planner().plan(ast).await?;
                self.start_query(planned).await
            }
            Statement::Explain { analyze, verbose, statement } => {
                let source = self.explain(statement, *analyze, *verbose).await?;
                Ok((super::explain::schema(), source))
            }
            Statement::Insert { .. } => Ok((count_schema(), self.insert(statement).await?)),
            Statement::Change(change) => Ok((count_schema(), self.change_rows(change).await?)),
            Statement::CreateTable(create) if create.as_query => {
                Ok((count_schema(), self.create_table_as(create).await?))
            }
            command => {
                let batch = self.command(command).await?;
                Ok((batch.schema(), Source::batch(batch)))
            }
        }
    }

    pub(super) async fn start_query(&self, planned: Planned) -> Result<(SchemaRef, Source)> {
        let Planned { plan, state, catalogs } = planned;
        self.tracked.set_catalogs(catalogs);
        let plan = bind(plan, self.parameters.as_ref())?;
        let schema = result_schema(&state, &plan);
        let physical = state.create_physical_plan(&plan).await.map_err(|error| from_datafusion(&error))?;
        let service = Arc::clone(self.service);
        let run = service.run_plan(Arc::clone(&self.tracked), physical, state, self.settings.always_cluster);
        Ok((schema, Source::Lazy(Box::pin(run))))
    }

    pub(super) fn planner(&self) -> Planner<'_> {
        self.service.planner(self.session, &self.tracked.context, &self.settings)
    }
}

/// The columns of a plan's result. Every one may be null: what the physical plan knows better must not surprise a client.
pub(super) fn result_schema(state: &SessionState, plan: &LogicalPlan) -> SchemaRef {
    // Types are final after analysis; a plan with parameters of unknown type cannot be analysed yet.
    let analyzed = state.analyzer().execute_and_check(plan.clone(), state.config_options(), |_, _| {});
    let schema = analyzed.as_ref().unwrap_or(plan).schema();
    let fields = schema.fields().iter().map(|field| {
        // Of a column's metadata a client is told its extension type (uuid, for one), not the ids of our files.
        let metadata = field.metadata().iter().filter(|(key, _)| key.starts_with("ARROW:extension:"));
        let metadata = metadata.map(|(key, value)| (key.clone(), value.clone())).collect();
        Arc::new(Field::new(field.name(), field.data_type().clone(), true).with_metadata(metadata))
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// What an update returns: one row with the number of rows that it wrote.
pub(super) fn count_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("count", DataType::Int64, false)]))
}

pub(super) fn count_batch(count: u64) -> Result<RecordBatch> {
    let column = Int64Array::from(vec![i64::try_from(count).unwrap_or(i64::MAX)]);
    RecordBatch::try_new(count_schema(), vec![Arc::new(column)])
        .map_err(|error| Error::internal("the row count could not be built").with_source(error))
}

/// What a command returns: one line that says what was done.
fn command_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("result", DataType::Utf8, false)]))
}

pub(super) fn command_batch(done: impl Into<String>) -> Result<RecordBatch> {
    let column = StringArray::from(vec![done.into()]);
    RecordBatch::try_new(command_schema(), vec![Arc::new(column)])
        .map_err(|error| Error::internal("the result of a command could not be built").with_source(error))
}
