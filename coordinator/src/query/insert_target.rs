//! The table of `INSERT … VALUES` as the planner sees it.
//!
//! DataFusion makes the literal rows in the schema of the target. A NULL for a NOT NULL column would then be its error, about
//! `column1`, and lists in different rows would differ in the field ids of the table's schema. So the planner sees the columns'
//! names and types only; the writer checks the rows against the table itself, and names table and column.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::source_as_provider;
use datafusion::error::Result;
use datafusion::logical_expr::{DmlStatement, Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::sqlparser::ast::{SetExpr, Statement as AstStatement, TableObject};
use townlake_lake::{LakeTable, LoadedTable};

use super::parse::name_of;
use super::statement::Name;

/// The table that literal rows are inserted into; `None` for every other statement.
pub(super) fn target_of_values(statement: &AstStatement) -> Option<Name> {
    let AstStatement::Insert(insert) = statement else { return None };
    let literal = matches!(insert.source.as_ref()?.body.as_ref(), SetExpr::Values(_));
    match &insert.table {
        TableObject::TableName(name) if literal => name_of(name).ok(),
        _ => None,
    }
}

/// The table that an INSERT was planned for, the one that its rows fit; `None` for a table that is not the lake's.
pub(super) fn planned_target(insert: &DmlStatement) -> Option<Arc<LoadedTable>> {
    let provider = source_as_provider(&insert.target).ok()?;
    let table = provider.downcast_ref::<InsertTarget>().map_or(&provider, |target| &target.table);
    table.downcast_ref::<LakeTable>().map(|lake| Arc::clone(lake.loaded()))
}

/// A table whose columns may all be NULL and carry no metadata.
#[derive(Debug)]
pub(super) struct InsertTarget {
    table: Arc<dyn TableProvider>,
    schema: SchemaRef,
}

impl InsertTarget {
    pub(super) fn wrap(table: Arc<dyn TableProvider>) -> Arc<dyn TableProvider> {
        let fields: Vec<FieldRef> = table.schema().fields().iter().map(plain).collect();
        Arc::new(Self { table, schema: Arc::new(Schema::new(fields)) })
    }
}

#[async_trait]
impl TableProvider for InsertTarget {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        self.table.table_type()
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.table.scan(state, projection, filters, limit).await
    }
}

fn plain(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(field.name(), plain_type(field.data_type()), true))
}

/// The type with all that it is made of nullable, and without metadata.
pub(super) fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::List(item) => DataType::List(plain(item)),
        DataType::LargeList(item) => DataType::LargeList(plain(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(plain(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain).collect()),
        DataType::Map(entries, sorted) => DataType::Map(plain_entries(entries), *sorted),
        other => other.clone(),
    }
}

/// The entries and keys of a map are never NULL, in any schema.
fn plain_entries(entries: &FieldRef) -> FieldRef {
    let DataType::Struct(fields) = entries.data_type() else { return Arc::clone(entries) };
    let fields = fields.iter().enumerate().map(|(index, field)| {
        let nullable = index > 0;
        Arc::new(plain(field).as_ref().clone().with_nullable(nullable))
    });
    Arc::new(Field::new(entries.name(), DataType::Struct(fields.collect()), false))
}
