//! `CALL catalog.system.procedure(…)`: looking after the tables of a lake, forgetting what is remembered of a source, and ending queries.
//!
//! What there is stands in [`list`]; arguments are constants, by position or by name ([`arguments`]); [`maintain`],
//! [`branches`] and [`import`] do the work in the lake's words.

mod arguments;
mod branches;
mod import;
mod list;
mod maintain;

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use townlake_common::{Error, ErrorCode, QueryId, Result};
use townlake_lake::{LakeCatalog, LoadedTable};

use self::arguments::Arguments;
pub use self::arguments::CallArgument;
use self::list::{Procedure, Task};
use super::service::{Run, command_batch};
use super::statement::Name;
use crate::catalogs::TableName;

/// The columns of what a procedure returns; `None` where it says one line, or is not known.
pub(super) fn schema_of(name: &Name) -> Option<SchemaRef> {
    let procedure = Procedure::find(name.parts().last()?)?;
    (!procedure.results.is_empty()).then(|| procedure.schema())
}

/// A procedure that is called: for which table of which catalog, with which arguments.
struct Call<'a> {
    procedure: &'static Procedure,
    arguments: &'a Arguments,
    lake: Arc<LakeCatalog>,
    table: TableName,
}

impl Run<'_> {
    /// Calls a procedure.
    ///
    /// Errors: `PROCEDURE_NOT_FOUND` with those that there are, `INVALID_ARGUMENT` naming the argument, and those of what the
    /// procedure does.
    pub(super) async fn call(&self, name: &Name, arguments: &[CallArgument]) -> Result<RecordBatch> {
        let (catalog, procedure) = match name.parts() {
            [catalog, schema, procedure] if schema == "system" && catalog != "system" => (Some(catalog), procedure),
            [schema, procedure] if schema == "system" => (None, procedure),
            [catalog, schema, procedure] if catalog == "system" && schema == "runtime" => (Some(catalog), procedure),
            _ => return Err(not_found(name)),
        };
        let procedure = Procedure::find(procedure).ok_or_else(|| not_found(name))?;
        let is_runtime = catalog.is_some_and(|catalog| catalog == "system");
        if is_runtime != (procedure.task == Task::KillQuery) {
            return Err(not_found(name));
        }
        let mut state = self.planner().empty_state();
        state.mark_start_execution();
        let arguments = Arguments::bind(procedure, arguments, &state)?;
        if procedure.task == Task::KillQuery {
            return self.kill_query(&arguments).await;
        }
        let Some(catalog) = catalog.cloned().or_else(|| self.session.current().0) else {
            return Err(Error::new(ErrorCode::InvalidQuery, format!("{name}: no catalog is current"))
                .with_hint("CALL catalog.system.procedure(…), or USE catalog first"));
        };
        if procedure.task == Task::Refresh {
            return self.refresh(catalog).await;
        }
        let lake = self.service.catalogs.writable(&self.session.principal, &catalog).await?;
        let table = self.table_argument(&arguments, &catalog)?;
        self.tracked.set_catalogs(vec![catalog]);
        let call = Call { procedure, arguments: &arguments, lake, table };
        if call.procedure.maintains {
            call.lake.check_maintained_by_us()?;
        }
        match procedure.task {
            Task::Optimize => self.call_optimize(&call).await,
            Task::ExpireSnapshots => self.expire_snapshots(&call).await,
            Task::RemoveOrphanFiles => self.remove_orphan_files(&call).await,
            Task::RewriteManifests => self.rewrite_manifests(&call).await,
            Task::RewritePositionDeletes => self.rewrite_position_deletes(&call).await,
            Task::Migrate | Task::AddFiles => self.import(&call).await,
            Task::RollbackToSnapshot | Task::RollbackToTimestamp | Task::SetCurrentSnapshot | Task::FastForward => {
                self.move_branch(&call).await
            }
            Task::RegisterTable => self.register_table(&call).await,
            Task::Refresh | Task::KillQuery => Err(not_found(name)),
        }
    }

    /// Here at once, on the other coordinators when they look into the store.
    async fn refresh(&self, catalog: String) -> Result<RecordBatch> {
        let source = self.service.catalogs.source(&self.session.principal, &catalog).await?;
        self.tracked.set_catalogs(vec![catalog.clone()]);
        source.refresh();
        self.service.store().refresh_catalog(&catalog, self.tracked.context.id.as_str()).await?;
        command_batch(format!("catalog {catalog} is refreshed"))
    }

    async fn kill_query(&self, arguments: &Arguments) -> Result<RecordBatch> {
        let id = QueryId::parse(&arguments.text("id")?)?;
        self.service.cancel(&self.session.principal, &id).await?;
        command_batch(format!("query {id} is cancelled"))
    }

    /// The table that the argument `table` names: its catalog is that of the procedure.
    fn table_argument(&self, arguments: &Arguments, catalog: &str) -> Result<TableName> {
        let name = arguments.name("table")?;
        let current = self.planner().current;
        match (name.parts(), current.schema) {
            ([table], Some(schema)) if current.catalog.as_deref() == Some(catalog) => {
                Ok(TableName::new(catalog, schema, table))
            }
            ([schema, table], _) => Ok(TableName::new(catalog, schema, table)),
            ([of, schema, table], _) if of == catalog => Ok(TableName::new(catalog, schema, table)),
            ([of, ..], _) if name.parts().len() == 3 => {
                let message = format!("table: {name} is a table of catalog {of}, and the procedure is of {catalog}");
                Err(Error::new(ErrorCode::InvalidArgument, message).with_hint(format!("CALL {of}.system.…")))
            }
            _ => {
                let message = format!("table: {name} says no schema, and none of catalog {catalog} is current");
                Err(Error::new(ErrorCode::InvalidArgument, message).with_hint("write 'schema.table'"))
            }
        }
    }

    /// The table of a call, as it is now.
    async fn loaded(&self, call: &Call<'_>) -> Result<Arc<LoadedTable>> {
        let (_, table) = self.service.catalogs.table_to_write(&self.tracked.context, &call.table).await?;
        Ok(table)
    }
}

fn not_found(name: &Name) -> Error {
    let error = Error::new(ErrorCode::NotSupported, format!("there is no procedure {name}"));
    let known = list::names();
    let near = name.parts().last().and_then(|last| townlake_common::nearest(last, known.iter().copied()));
    match near {
        Some("kill_query") => error.with_hint("did you mean system.runtime.kill_query?"),
        Some(near) => error.with_hint(format!("did you mean catalog.system.{near}?")),
        None => {
            error.with_hint(format!("there are system.runtime.kill_query and catalog.system.{{{}}}", known.join(", ")))
        }
    }
}

/// One row of numbers and texts in the columns of the procedure.
enum Value {
    Count(u64),
    Id(Option<i64>),
    Text(String),
}

fn one_row(procedure: &Procedure, values: Vec<Value>) -> Result<RecordBatch> {
    let columns = values.into_iter().map(|value| match value {
        Value::Count(count) => Arc::new(Int64Array::from(vec![i64::try_from(count).unwrap_or(i64::MAX)])) as ArrayRef,
        Value::Id(id) => Arc::new(Int64Array::from(vec![id])) as ArrayRef,
        Value::Text(text) => Arc::new(StringArray::from(vec![text])) as ArrayRef,
    });
    RecordBatch::try_new(procedure.schema(), columns.collect())
        .map_err(|error| Error::internal("the result of a procedure could not be built").with_source(error))
}

impl Procedure {
    fn schema(&self) -> SchemaRef {
        let fields = self.results.iter().map(|(name, of)| Field::new(*name, of.clone(), true));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }
}
