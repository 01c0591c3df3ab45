//! Bulk ingest: a client's stream of batches into an Iceberg table, as fast as it can be written and no faster.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::new_null_array;
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::EmptyRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use townlake_common::{Error, ErrorCode, QueryContext, Result, nearest};
use townlake_engine::error::{from_datafusion, to_datafusion};
use townlake_lake::{CreateTable, LakeCatalog, Leftovers, LoadedTable, Replacement, write_plan};

use super::assign::assign;
use super::new_table::NewTable;
use super::placement::execute_here;
use super::registry::{QueryState, Tracked};
use super::service::QueryService;
use super::write::commit;
use crate::catalogs::TableName;
use crate::session::Session;

/// Where a stream of rows goes.
#[derive(Debug, Clone)]
pub struct IngestTarget {
    /// The catalog; by default the session's.
    pub catalog: Option<String>,
    /// The schema; by default the session's.
    pub schema: Option<String>,
    /// The table.
    pub table: String,
    /// What to do about a table that is there, or not.
    pub mode: IngestMode,
}

/// What bulk ingest does about a table that is there, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IngestMode {
    /// Make it; it must not be there.
    Create,
    /// Append; it must be there.
    Append,
    /// Make it, in place of one that is there: that one stays until all rows are written.
    Replace,
    /// Append, and make it if it is not there.
    CreateAppend,
}

/// A table that rows are on their way to.
struct Target {
    catalog: Arc<LakeCatalog>,
    /// The table that the rows are written for.
    table: Arc<LoadedTable>,
    /// It is as new as its rows.
    new_table: Option<NewTable>,
    /// The rows are to be the whole table.
    replacement: Option<Replacement>,
}

impl QueryService {
    /// Writes the batches of `data` to a table in one commit and returns the number of rows. It runs in this process; `data`
    /// is read no faster than it is written. Columns go by name; a column that is not given is NULL.
    ///
    /// Errors: `*_NOT_FOUND`, `PERMISSION_DENIED`, `ALREADY_EXISTS`, `COLUMN_NOT_FOUND` for a column that the table has not,
    /// `INVALID_ARGUMENT` for a value that does not fit its column, and what writing and committing report. Then nothing has
    /// changed: a table that was made for the rows is dropped again, and one that they were to replace is what it was.
    pub async fn ingest(
        self: &Arc<Self>,
        session: &Arc<Session>,
        target: IngestTarget,
        data: SendableRecordBatchStream,
    ) -> Result<u64> {
        let (catalog, schema) = session.current();
        let (Some(catalog), Some(schema)) = (target.catalog.or(catalog), target.schema.or(schema)) else {
            let message = format!("no catalog and schema are current for the table {}", target.table);
            return Err(Error::new(ErrorCode::TableNotFound, message)
                .with_hint("name catalog and schema in the call, or USE catalog.schema"));
        };
        let name = TableName::new(catalog, schema, target.table);
        let begun = self.begin(&session.principal, &format!("-- bulk ingest into {name} ({:?})", target.mode)).await?;
        let tracked = Arc::clone(begun.tracked()?);
        tracked.set_catalogs(vec![name.catalog.clone()]);
        let settings = self.settings(session);
        let limits = self.limits(&tracked, &settings);
        let result = limits.guard(self.write_stream(session, &tracked, &name, target.mode, data)).await;
        begun.end(result.as_ref().err()).await;
        result
    }

    async fn write_stream(
        &self,
        session: &Session,
        tracked: &Arc<Tracked>,
        name: &TableName,
        mode: IngestMode,
        data: SendableRecordBatchStream,
    ) -> Result<u64> {
        let Target { catalog, table, new_table, replacement } =
            self.ingest_target(&tracked.context, name, mode, &data.schema()).await?;
        let data = in_columns_of(&table, data)?;
        let input = StreamingTableExec::try_new(
            Arc::clone(&table.arrow_schema),
            vec![Arc::new(OneStream::new(Arc::clone(&table.arrow_schema), data))],
            None,
            [],
            false,
            None,
        )
        .map_err(|error| from_datafusion(&error))?;
        let settings = self.settings(session);
        let state = self.planner(session, &tracked.context, &settings).empty_state();
        let plan = write_plan(&table, Arc::new(input), &tracked.context.id)?;
        let leftovers = Leftovers::new(&catalog, &table, &tracked.context.id);
        tracked.enter(QueryState::Running);
        let written = execute_here(plan, state.task_ctx())?;
        let batches: Vec<RecordBatch> = written.try_collect().await.map_err(|error| from_datafusion(&error))?;
        // HTTP/2 tells of a client that took its call back as if its rows had ended. The server drops the call then, at the
        // next point where it gives way: that is here, and not in the midst of the commit.
        tokio::task::yield_now().await;
        let outcome = commit(Arc::clone(tracked), catalog, &table, replacement, batches, leftovers).await;
        if let Some(new_table) = new_table {
            new_table.committed(&outcome);
        }
        outcome
    }

    /// The table to write to, made first where the mode says so.
    async fn ingest_target(
        &self,
        query: &Arc<QueryContext>,
        name: &TableName,
        mode: IngestMode,
        schema: &SchemaRef,
    ) -> Result<Target> {
        if mode == IngestMode::Append {
            return self.existing_target(query, name).await;
        }
        let catalog = self.catalogs.writable(&query.principal, &name.catalog).await?;
        self.catalogs.check_schema(query, &name.catalog, &name.schema).await?;
        let columns: Vec<FieldRef> = schema.fields().iter().cloned().collect();
        if mode == IngestMode::Replace
            && let Some(old) = catalog.load(&name.schema, &name.table, None).await?
        {
            let replacement = catalog.plan_replace(&old, &columns)?;
            let table = Arc::clone(replacement.table());
            return Ok(Target { catalog, table, new_table: None, replacement: Some(replacement) });
        }
        let create = CreateTable {
            schema: name.schema.clone(),
            table: name.table.clone(),
            columns,
            if_not_exists: mode == IngestMode::CreateAppend,
            ..Default::default()
        };
        match catalog.create_table(create).await? {
            Some(table) => {
                let new_table = Some(NewTable::new(&catalog, &table));
                Ok(Target { catalog, table, new_table, replacement: None })
            }
            None => self.existing_target(query, name).await,
        }
    }

    async fn existing_target(&self, query: &Arc<QueryContext>, name: &TableName) -> Result<Target> {
        let (catalog, table) = self.catalogs.table_to_write(query, name).await?;
        Ok(Target { catalog, table, new_table: None, replacement: None })
    }
}

/// The rows in the table's columns and types: by name, NULL for what is not given.
fn in_columns_of(table: &LoadedTable, data: SendableRecordBatchStream) -> Result<SendableRecordBatchStream> {
    let given = data.schema();
    let wanted = Arc::clone(&table.arrow_schema);
    for field in given.fields() {
        if wanted.index_of(field.name()).is_err() {
            let message = format!("table {} has no column {}", table.full_name(), field.name());
            let error = Error::new(ErrorCode::ColumnNotFound, message);
            let near = nearest(field.name(), wanted.fields().iter().map(|field| field.name().as_str()));
            return Err(match near {
                Some(near) => error.with_hint(format!("did you mean {near}?")),
                None => error,
            });
        }
    }
    let columns: Vec<Option<usize>> = wanted.fields().iter().map(|field| given.index_of(field.name()).ok()).collect();
    let (schema, table) = (Arc::clone(&wanted), table.full_name());
    let batches = data
        .map(move |batch| batch.and_then(|batch| project(&batch, &columns, &wanted, &table).map_err(to_datafusion)));
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
}

fn project(batch: &RecordBatch, columns: &[Option<usize>], schema: &SchemaRef, table: &str) -> Result<RecordBatch> {
    let mut arrays = Vec::with_capacity(columns.len());
    for (index, field) in columns.iter().zip(schema.fields()) {
        let array = match index.and_then(|index| batch.columns().get(index)) {
            None => new_null_array(field.data_type(), batch.num_rows()),
            Some(array) => assign(array, field.data_type(), field.name(), table)?,
        };
        if !field.is_nullable() && array.null_count() > 0 {
            let message =
                format!("column {} of table {table} is NOT NULL, and a row has no value for it", field.name());
            return Err(Error::new(ErrorCode::ConstraintViolation, message));
        }
        arrays.push(array);
    }
    RecordBatch::try_new(Arc::clone(schema), arrays)
        .map_err(|error| Error::new(ErrorCode::InvalidArgument, "a batch does not fit the table").with_source(error))
}

/// One stream as the one partition of a plan. It can be read once.
struct OneStream {
    schema: SchemaRef,
    stream: Mutex<Option<SendableRecordBatchStream>>,
}

impl OneStream {
    fn new(schema: SchemaRef, stream: SendableRecordBatchStream) -> Self {
        Self { schema, stream: Mutex::new(Some(stream)) }
    }
}

impl fmt::Debug for OneStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneStream")
    }
}

impl PartitionStream for OneStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        match self.stream.lock().take() {
            Some(stream) => stream,
            None => Box::pin(EmptyRecordBatchStream::new(Arc::clone(&self.schema))),
        }
    }
}
