//! Iceberg views: a query that a catalog keeps, with the columns that it gave when it was made.
//!
//! Format: <https://iceberg.apache.org/view-spec/>. This crate keeps and finds them; the coordinator plans their queries.

mod manage;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, SchemaRef};
use iceberg::spec::{PrimitiveType, Type, ViewMetadata, ViewRepresentation};
use townlake_common::{Error, ErrorCode, Result};

use crate::catalog::TableName;
use crate::catalog::views::ViewHead;
use crate::lake_catalog::COMMENT;
use crate::schema;

/// The dialect of the queries that we keep.
const OUR_DIALECT: &str = "townlake";
/// The dialects that are read, the best first.
const DIALECTS: [&str; 4] = [OUR_DIALECT, "trino", "spark", "ansi"];
/// In the summary of a version: the columns of its query, a JSON array of names in the order of the view's columns. A view
/// with names of its own cannot be matched to its query by name without it.
const QUERY_COLUMNS: &str = "townlake.query-columns";
/// The same as Spark has it: a property of the view, names between commas.
const SPARK_QUERY_COLUMNS: &str = "spark.query-column-names";

/// `CREATE [OR REPLACE] VIEW`.
#[derive(Debug, Clone, Default)]
pub struct CreateView {
    /// The schema to create it in; it must exist.
    pub schema: String,
    /// The view's name.
    pub view: String,
    /// The text of its query.
    pub sql: String,
    /// The catalog of names in it that have none; `None`: the view's own.
    pub default_catalog: Option<String>,
    /// The schema of names in it that have none.
    pub default_schema: String,
    /// Its columns; a field's metadata `comment` is kept.
    pub columns: Vec<FieldRef>,
    /// The names that its query gives these columns.
    pub query_columns: Vec<String>,
    /// Kept as the property `comment`.
    pub comment: Option<String>,
    /// Take the place of a view that is there.
    pub replace: bool,
    /// Say nothing when it is there already.
    pub if_not_exists: bool,
}

/// A view as its catalog has it.
#[derive(Clone)]
pub struct LoadedView {
    /// The catalog's name in the configuration.
    pub catalog: String,
    /// The schema (Iceberg: namespace; levels joined by `.`).
    pub schema: String,
    /// The view's name.
    pub view: String,
    /// The whole metadata.
    pub metadata: Arc<ViewMetadata>,
    /// The columns for Arrow, with their comments as metadata (`comment`).
    pub described: SchemaRef,
}

impl LoadedView {
    fn new(catalog: &str, name: &TableName, head: ViewHead) -> Result<Self> {
        let iceberg = head.metadata.current_schema();
        Ok(Self {
            catalog: catalog.to_string(),
            schema: name.namespace.clone(),
            view: name.table.clone(),
            described: schema::with_comments(&*schema::to_arrow(iceberg)?, iceberg),
            metadata: head.metadata,
        })
    }

    /// `catalog.schema.view`, for messages.
    pub fn full_name(&self) -> String {
        format!("{}.{}.{}", self.catalog, self.schema, self.view)
    }

    /// The dialect and the text of its query.
    ///
    /// Errors: `NOT_SUPPORTED` naming the dialects of a view that is written in others than those that are read.
    pub fn text(&self) -> Result<(&str, &str)> {
        let texts: Vec<_> = self.metadata.current_version().representations().iter().map(sql_of).collect();
        let in_dialect = |wanted: &&str| texts.iter().find(|(dialect, _)| dialect.eq_ignore_ascii_case(wanted));
        if let Some(text) = DIALECTS.iter().find_map(in_dialect) {
            return Ok(*text);
        }
        let known: Vec<&str> = texts.iter().map(|(dialect, _)| *dialect).collect();
        let message = format!("view {} is written in the dialect {}", self.full_name(), known.join(", "));
        Err(Error::new(ErrorCode::NotSupported, message).with_hint(format!("{} are read", DIALECTS.join(", "))))
    }

    fn is_foreign(&self) -> bool {
        self.text().is_ok_and(|(dialect, _)| !dialect.eq_ignore_ascii_case(OUR_DIALECT))
    }

    /// The catalog of names in its query that have none.
    pub fn default_catalog(&self) -> &str {
        self.metadata.current_version().default_catalog().map_or(&self.catalog, String::as_str)
    }

    /// The schema of names in its query that have none.
    pub fn default_schema(&self) -> String {
        self.metadata.current_version().default_namespace().as_ref().join(".")
    }

    /// COMMENT.
    pub fn comment(&self) -> Option<&str> {
        self.metadata.properties().get(COMMENT).map(String::as_str)
    }

    /// The name that the query gives the column of the view at this position; `None`: another engine made the view and did not
    /// say.
    pub fn query_columns(&self) -> Option<Vec<String>> {
        if let Some(names) = self.metadata.current_version().summary().get(QUERY_COLUMNS) {
            return serde_json::from_str(names).ok();
        }
        let names = self.metadata.properties().get(SPARK_QUERY_COLUMNS)?;
        Some(names.split(',').map(str::to_string).collect())
    }

    /// Whether what the query gives now can be read as the view's column at this position: the same type, or a narrower one.
    /// Whole numbers in the text of another engine are its `int` and our `bigint`: where one does not fit, the cast fails.
    pub fn fits(&self, position: usize, now: &FieldRef) -> bool {
        let then = self.metadata.current_schema().as_struct().fields().get(position);
        let now = schema::from_arrow(std::slice::from_ref(now));
        match (then, now.as_ref().map(|schema| schema.as_struct().fields())) {
            (Some(then), Ok([now])) => {
                let (now, then) = (now.field_type.as_ref(), then.field_type.as_ref());
                let int = Type::Primitive(PrimitiveType::Int);
                fits(now, then) || (*then == int && *now == Type::Primitive(PrimitiveType::Long) && self.is_foreign())
            }
            _ => false,
        }
    }
}

fn sql_of(representation: &ViewRepresentation) -> (&str, &str) {
    let ViewRepresentation::Sql(sql) = representation;
    (&sql.dialect, &sql.sql)
}

/// Whether each value of one type is one of the other.
fn fits(now: &Type, then: &Type) -> bool {
    use PrimitiveType as P;
    match (now, then) {
        (Type::Primitive(now), Type::Primitive(then)) => match (now, then) {
            (P::Int, P::Long) | (P::Float, P::Double) => true,
            (P::Decimal { precision: p, scale: s }, P::Decimal { precision: to, scale: at }) => s == at && p <= to,
            _ => now == then,
        },
        (Type::Struct(now), Type::Struct(then)) => {
            let (now, then) = (now.fields(), then.fields());
            now.len() == then.len()
                && now.iter().zip(then).all(|(a, b)| a.name == b.name && fits(&a.field_type, &b.field_type))
        }
        (Type::List(now), Type::List(then)) => fits(&now.element_field.field_type, &then.element_field.field_type),
        (Type::Map(now), Type::Map(then)) => {
            fits(&now.key_field.field_type, &then.key_field.field_type)
                && fits(&now.value_field.field_type, &then.value_field.field_type)
        }
        _ => false,
    }
}

impl fmt::Debug for LoadedView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedView").field("name", &self.full_name()).finish_non_exhaustive()
    }
}
