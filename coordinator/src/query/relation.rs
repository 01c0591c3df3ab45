//! Tables as of a version: each `t FOR … AS OF …` of a statement is planned on its own pinned table.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::{Result as DFResult, TableReference, not_impl_err};
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{LogicalPlanBuilder, TableSource};
use datafusion::sql::sqlparser::ast::{Statement as AstStatement, TableFactor, Visit, Visitor};
use townlake_common::{Error, ErrorCode, Result};
use townlake_lake::TableVersion;

use super::changes::TARGET;
use super::parse::name_of;
use super::pass_through::PassedThrough;
use super::statement::Name;
use super::time_travel::from_ast;

/// The tables of one statement that are read as of a version, and the one whose rows it changes.
#[derive(Default)]
pub(super) struct VersionedTables {
    tables: Vec<(Name, TableVersion, Arc<dyn TableSource>)>,
    target: Option<Arc<dyn TableSource>>,
    /// The queries in the language of a source.
    pub(super) passed_through: PassedThrough,
}

impl VersionedTables {
    pub(super) fn add(&mut self, name: Name, version: TableVersion, source: Arc<dyn TableSource>) {
        self.tables.push((name, version, source));
    }

    /// The table whose rows the statement changes: at the place that is [marked](TARGET) so.
    pub(super) fn set_target(&mut self, source: Arc<dyn TableSource>) {
        self.target = Some(source);
    }

    fn find(&self, name: &Name, version: &TableVersion) -> Option<Arc<dyn TableSource>> {
        let found = self.tables.iter().find(|(n, v, _)| n == name && v == version);
        found.map(|(_, _, source)| Arc::clone(source))
    }
}

impl fmt::Debug for VersionedTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.tables.iter().map(|(name, version, _)| (name, version))).finish()
    }
}

impl RelationPlanner for VersionedTables {
    fn plan_relation(&self, relation: TableFactor, _: &mut dyn RelationPlannerContext) -> DFResult<RelationPlanning> {
        if let TableFactor::TableFunction { expr, alias } = &relation {
            return self.passed_through.plan(expr, alias.clone());
        }
        let TableFactor::Table { name, alias, version, sample, partitions, .. } = &relation else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        if sample.is_some() {
            // DataFusion would read the whole table and say nothing.
            return not_impl_err!("TABLESAMPLE is not supported");
        }
        if let Some(partition) = partitions.first() {
            let Some(target) = self.target.as_ref().filter(|_| partition.value == TARGET) else {
                return not_impl_err!("PARTITION (…) of a table is not supported");
            };
            let name = name_of(name).map_err(townlake_engine::error::to_datafusion)?;
            let plan = LogicalPlanBuilder::scan(table_reference(&name)?, Arc::clone(target), None)?.build()?;
            return Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))));
        }
        let Some(version) = version else { return Ok(RelationPlanning::Original(Box::new(relation))) };
        let name = name_of(name).map_err(townlake_engine::error::to_datafusion)?;
        let source = from_ast(version).and_then(|version| self.find(&name, &version)).ok_or_else(|| {
            let message = format!("the version of {name} was not resolved before planning");
            townlake_engine::error::to_datafusion(Error::internal(message))
        })?;
        let plan = LogicalPlanBuilder::scan(table_reference(&name)?, source, None)?.build()?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))))
    }
}

/// The name as DataFusion qualifies columns with it: as the user wrote it.
fn table_reference(name: &Name) -> DFResult<TableReference> {
    match name.parts() {
        [table] => Ok(TableReference::bare(table.as_str())),
        [schema, table] => Ok(TableReference::partial(schema.as_str(), table.as_str())),
        [catalog, schema, table] => Ok(TableReference::full(catalog.as_str(), schema.as_str(), table.as_str())),
        _ => not_impl_err!("{name} has more than three parts"),
    }
}

/// Every `name FOR … AS OF …` of the statement.
pub(super) fn versioned_names(statement: &AstStatement) -> Result<Vec<(Name, TableVersion)>> {
    let mut collect = Collect { found: Vec::new() };
    match statement.visit(&mut collect) {
        ControlFlow::Continue(()) => Ok(collect.found),
        ControlFlow::Break(error) => Err(*error),
    }
}

/// The names that the statement calls as table functions (`generate_series(1, 3)`) and does not also use as tables.
pub(super) fn table_functions(statement: &AstStatement) -> Vec<Name> {
    let mut uses = TableUses::default();
    let _: ControlFlow<()> = statement.visit(&mut uses);
    let TableUses { mut called, plain } = uses;
    called.retain(|name| !plain.contains(name));
    called
}

#[derive(Default)]
struct TableUses {
    called: Vec<Name>,
    plain: Vec<Name>,
}

impl Visitor for TableUses {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args, .. } = factor
            && let Ok(name) = name_of(name)
        {
            match args {
                Some(_) => self.called.push(name),
                None => self.plain.push(name),
            }
        }
        ControlFlow::Continue(())
    }
}

struct Collect {
    found: Vec<(Name, TableVersion)>,
}

impl Visitor for Collect {
    type Break = Box<Error>;

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Box<Error>> {
        let TableFactor::Table { name, version: Some(version), .. } = factor else { return ControlFlow::Continue(()) };
        let found = match (name_of(name), from_ast(version)) {
            (Ok(name), Some(version)) => (name, version),
            (Err(error), _) => return ControlFlow::Break(Box::new(error)),
            (_, None) => {
                let message = format!("{name}: this form of table version is not supported");
                return ControlFlow::Break(Box::new(Error::new(ErrorCode::NotSupported, message)));
            }
        };
        if !self.found.contains(&found) {
            self.found.push(found);
        }
        ControlFlow::Continue(())
    }
}
