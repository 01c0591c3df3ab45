//! From a parsed query to a logical plan over exactly the tables that its principal may read.
//!
//! Names are resolved before planning, one by one, through [`Catalogs`]: DataFusion's planner sees a catalog that holds the
//! tables of this statement and nothing else.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider, TableProvider,
};
use datafusion::common::TableReference;
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast::{Expr, Statement as AstStatement, Visit, Visitor};
use townlake_common::{Error, ErrorCode, QueryContext, Result, nearest};
use townlake_connectors::NothingPushed;
use townlake_engine::error::from_datafusion;
use townlake_engine::session::{base_config, physical_rules, state_builder};
use townlake_lake::{LakeTable, TargetTable};

use super::depth::check_relations;
use super::equal_names::{is_of_equal_names, with_names_apart};
use super::insert_target::{InsertTarget, target_of_values};
use super::memory::runtime_of_query;
use super::parse::{name_of, normalize};
use super::pass_through::calls;
use super::relation::{VersionedTables, table_functions, versioned_names};
use super::settings::{Effective, SourcePushdown};
use super::views::Found;
use crate::catalogs::{Catalogs, Current, TableName};

/// A default catalog that no name ever resolves to: short names are completed by us.
const NOTHING: &str = "-";

/// What planning needs to know of a query.
pub(super) struct Planner<'a> {
    pub catalogs: &'a Catalogs,
    /// That of all queries; each has memory of its own.
    pub runtime: &'a RuntimeEnv,
    pub context: &'a Arc<QueryContext>,
    pub current: Current,
    pub settings: &'a Effective,
    /// The id under which executors keep what the queries of one session share.
    pub session_id: String,
}

/// A logical plan, and the state of the session that made it and will run it.
pub(super) struct Planned {
    pub plan: LogicalPlan,
    pub state: SessionState,
    /// The catalogs that it touches, for the audit.
    pub catalogs: Vec<String>,
}

impl Planner<'_> {
    /// The configuration under which the query is planned and run.
    pub(super) fn config(&self) -> SessionConfig {
        let catalog = self.current.catalog.as_deref().unwrap_or(NOTHING);
        let schema = self.current.schema.as_deref().unwrap_or(NOTHING);
        let config = base_config(self.settings.target_partitions)
            .with_default_catalog_and_schema(catalog, schema)
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(false)
            .with_extension(Arc::clone(self.context))
            .with_extension(Arc::clone(self.catalogs.sources()));
        self.settings.apply(config)
    }

    /// Plans a query or an insert.
    ///
    /// Errors: `*_NOT_FOUND` with the nearest visible name, `INVALID_QUERY`, `NOT_SUPPORTED`, and what catalogs report.
    pub(super) async fn plan(&self, statement: &AstStatement) -> Result<Planned> {
        self.plan_over(statement, None, &mut Found::default()).await
    }

    /// Plans the query of a statement that changes rows of `target`, which the query names once by its mark.
    ///
    /// Errors: as [`Planner::plan`].
    pub(super) async fn plan_change(
        &self,
        select: &AstStatement,
        name: TableName,
        target: Arc<TargetTable>,
    ) -> Result<Planned> {
        let mut found = Found::default();
        found.touched.insert(name.catalog.clone());
        if target.loaded().is_main() {
            // A statement that also reads what it changes sees one state of it.
            found.insert(name, LakeTable::new(Arc::clone(target.loaded())));
        }
        self.plan_over(select, Some(target), &mut found).await
    }

    /// Plans a statement, or the query of one of its views.
    pub(super) async fn plan_over(
        &self,
        statement: &AstStatement,
        target: Option<Arc<TargetTable>>,
        found: &mut Found,
    ) -> Result<Planned> {
        check_relations(statement)?;
        let mut versioned = self.versioned_tables(statement, &mut found.touched).await?;
        for call in calls(statement)? {
            found.touched.insert(call.catalog.clone());
            let mut table = self.catalogs.query(self.context, &call.catalog, &call.sql).await?;
            if self.settings.source_pushdown == SourcePushdown::None {
                table = Arc::new(NothingPushed(table));
            }
            versioned.passed_through.add(call, provider_as_source(table));
        }
        let list = self.tables(statement, found).await?;
        if let Some(target) = target {
            versioned.set_target(provider_as_source(target));
        }
        let mut state = state_builder(self.config(), runtime_of_query(self.runtime))
            .with_session_id(self.session_id.clone())
            .with_catalog_list(list)
            .with_relation_planners(vec![Arc::new(versioned)])
            .with_physical_optimizer_rules(physical_rules(self.settings.source_pushdown == SourcePushdown::All))
            .build();
        // now() and its kin are one moment for the whole query, and this is it
        state.mark_start_execution();
        let planned =
            |statement: AstStatement| state.statement_to_plan(DataFusionStatement::Statement(Box::new(statement)));
        let plan = match planned(statement.clone()).await {
            Err(error) if is_of_equal_names(&error) => planned(with_names_apart(statement)).await,
            plan => plan,
        };
        let plan = plan.map_err(|error| planning_error(statement, &state, &error))?;
        let is_insert = matches!(statement, AstStatement::Insert(_));
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(is_insert)
            .with_allow_statements(false)
            .verify_plan(&plan)
            .map_err(|error| {
                let message = "this statement would be run inside the engine, past our catalogs, and is not supported";
                Error::new(ErrorCode::NotSupported, message).with_source(error)
            })?;
        Self::check_expanded(&plan, found)?;
        Ok(Planned { plan, state, catalogs: found.touched.iter().cloned().collect() })
    }

    /// A state that knows no table: for what names none.
    pub(super) fn empty_state(&self) -> SessionState {
        state_builder(self.config(), runtime_of_query(self.runtime))
            .with_session_id(self.session_id.clone())
            .with_catalog_list(Arc::new(MemoryCatalogProviderList::new()))
            .build()
    }

    async fn versioned_tables(
        &self,
        statement: &AstStatement,
        touched: &mut BTreeSet<String>,
    ) -> Result<VersionedTables> {
        let mut tables = VersionedTables::default();
        for (name, version) in versioned_names(statement)? {
            let full = self.current.table(name.parts())?;
            touched.insert(full.catalog.clone());
            match self.catalogs.table(self.context, &full, Some(&version)).await? {
                Some(table) => tables.add(name, version, provider_as_source(table)),
                None => return Err(self.no_versions(&full).await),
            }
        }
        Ok(tables)
    }

    async fn no_versions(&self, name: &TableName) -> Error {
        match self.catalogs.check_no_view(self.context, name).await {
            Err(error) if error.code() == ErrorCode::NotSupported => {
                let message = format!("{name} is a view: FOR VERSION and FOR TIMESTAMP AS OF work on tables only");
                Error::new(ErrorCode::NotSupported, message).with_hint("read the tables beneath as of a version")
            }
            _ => self.catalogs.not_found(self.context, name).await,
        }
    }

    /// Every other table that the statement names, as the catalog that DataFusion plans with.
    async fn tables(&self, statement: &AstStatement, found: &mut Found) -> Result<Arc<dyn CatalogProviderList>> {
        let wrapped = DataFusionStatement::Statement(Box::new(statement.clone()));
        let (references, _) = datafusion::sql::resolve::resolve_table_references(&wrapped, true)
            .map_err(|error| from_datafusion(&error))?;
        let mut names: Vec<TableName> = Vec::new();
        let functions = table_functions(statement);
        for reference in &references {
            let parts = parts(reference);
            if functions.iter().any(|function| function.parts() == parts) {
                continue;
            }
            let name = self.current.table(&parts)?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let target = match target_of_values(statement) {
            Some(name) => Some(self.current.table(name.parts())?),
            None => None,
        };
        let mut resolved = Vec::with_capacity(names.len());
        for name in names {
            let mut table = self.relation(&name, found).await?;
            let is_source = || self.catalogs.sources().source(&name.catalog).is_some();
            if self.settings.source_pushdown == SourcePushdown::None && is_source() {
                table = Arc::new(NothingPushed(table));
            }
            let is_target = target.as_ref() == Some(&name);
            resolved.push((name, if is_target { InsertTarget::wrap(table) } else { table }));
        }
        catalog_of(resolved).map_err(|error| from_datafusion(&error))
    }
}

pub(super) fn parts(reference: &TableReference) -> Vec<String> {
    let parts = [reference.catalog(), reference.schema(), Some(reference.table())];
    parts.into_iter().flatten().map(str::to_string).collect()
}

fn catalog_of(
    tables: Vec<(TableName, Arc<dyn TableProvider>)>,
) -> Result<Arc<dyn CatalogProviderList>, DataFusionError> {
    let list = MemoryCatalogProviderList::new();
    let mut schemas: HashMap<(String, String), Arc<MemorySchemaProvider>> = HashMap::new();
    for (name, table) in tables {
        let key = (name.catalog, name.schema);
        let schema = Arc::clone(schemas.entry(key).or_default());
        schema.register_table(name.table, table)?;
    }
    let mut catalogs: HashMap<String, Arc<MemoryCatalogProvider>> = HashMap::new();
    for ((catalog, schema), provider) in schemas {
        catalogs.entry(catalog).or_default().register_schema(&schema, provider)?;
    }
    for (name, catalog) in catalogs {
        list.register_catalog(name, catalog);
    }
    Ok(Arc::new(list))
}

/// DataFusion reports an unknown function as one planning error among many: it is told apart by looking the names up.
fn planning_error(statement: &AstStatement, state: &SessionState, error: &DataFusionError) -> Error {
    let typed = from_datafusion(error);
    if typed.code() != ErrorCode::InvalidQuery {
        return typed;
    }
    let mut called = table_functions(statement).into_iter().map(|name| name.to_string());
    if let Some(name) = called.find(|name| !state.table_functions().contains_key(name)) {
        return function_not_found(&name, state.table_functions().keys().map(String::as_str));
    }
    let mut unknown = UnknownFunction { state };
    match statement.visit(&mut unknown) {
        ControlFlow::Break(name) => function_not_found(&name, function_names(state)),
        ControlFlow::Continue(()) => typed,
    }
}

fn function_not_found<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let error = Error::new(ErrorCode::FunctionNotFound, format!("there is no function {name}"));
    match nearest(name, known) {
        Some(near) => error.with_hint(format!("did you mean {near}?")),
        None => error,
    }
}

struct UnknownFunction<'a> {
    state: &'a SessionState,
}

impl Visitor for UnknownFunction<'_> {
    type Break = String;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<String> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let name = match function.name.0.as_slice() {
            [part] => part.as_ident().cloned().map(normalize),
            _ => name_of(&function.name).ok().map(|name| name.to_string()),
        };
        match name {
            // `unnest` is part of the planner itself.
            Some(name) if name != "unnest" && !function_names(self.state).any(|known| known == name) => {
                ControlFlow::Break(name)
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

fn function_names(state: &SessionState) -> impl Iterator<Item = &str> {
    let scalar = state.scalar_functions().keys();
    let higher_order = state.higher_order_functions().keys();
    let aggregate = state.aggregate_functions().keys();
    let window = state.window_functions().keys();
    scalar.chain(higher_order).chain(aggregate).chain(window).map(String::as_str)
}
