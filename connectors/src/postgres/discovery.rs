//! What is in a database: schemas, relations, columns with their types, keys, comments, statistics.

use std::collections::HashMap;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use townlake_common::{Error, ErrorCode, Result};

use super::error::Server;
use super::sql::{identifier, literal};
use super::types::{Column, ColumnType, MOST_DIMENSIONS, Resolved, classify};
use crate::pass_through::{SCHEMA, TABLE, check_names};
use crate::{COMMENT, ForeignKey, NOTE, SOURCE_TYPE, SourceTable, TableKeys, TableKind};

const SCHEMAS: &str = "SELECT nspname::text FROM pg_catalog.pg_namespace \
     WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND pg_catalog.has_schema_privilege(oid, 'USAGE') ORDER BY 1";

/// Only what the connection's user may read: the rest would only fail.
const TABLES: &str = "SELECT c.relname::text, c.relkind::text, pg_catalog.obj_description(c.oid, 'pg_class') \
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE n.nspname = $1::text AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' \
       AND pg_catalog.has_any_column_privilege(c.oid, 'SELECT') ORDER BY 1";

const RELATION: &str = "SELECT c.relkind::text, c.relhassubclass, \
       (SELECT pg_catalog.pg_encoding_to_char(encoding) = 'UTF8' FROM pg_catalog.pg_database \
        WHERE datname = pg_catalog.current_database()) \
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE n.nspname = $1::text AND c.relname = $2::text AND c.relkind IN ('r', 'p', 'v', 'm', 'f') \
       AND c.relpersistence <> 't'";

/// Each column with the type behind its domains and, of an array, its element's and the dimensions that are declared (a view's columns
/// declare none). `typarray` tells true arrays from types
/// that only look like them (int2vector).
const COLUMNS: &str = "WITH RECURSIVE cols AS ({}), base(attnum, typid, typmod, dims, declared, depth) AS ( \
       SELECT attnum, atttypid, atttypmod, 0, attndims::int4, 0 FROM cols \
       UNION ALL \
       SELECT b.attnum, CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE e.oid END, \
         CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE b.typmod END, \
         CASE WHEN t.typtype = 'd' THEN b.dims ELSE GREATEST(b.declared, 1) END, t.typndims, b.depth + 1 \
       FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.typid \
         LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND e.typarray = t.oid \
       WHERE t.typtype = 'd' OR (e.oid IS NOT NULL AND b.dims = 0)), \
     resolved AS (SELECT DISTINCT ON (attnum) attnum, typid, typmod, dims FROM base ORDER BY attnum, depth DESC) \
     SELECT c.attname::text, pg_catalog.format_type(c.atttypid, c.atttypmod), c.attnotnull, r.dims, \
       tn.nspname::text, t.typname::text, t.typtype = 'e', r.typmod, \
       COALESCE(l.collisdeterministic, true), pg_catalog.col_description(c.attrelid, c.attnum) \
     FROM cols c JOIN resolved r USING (attnum) JOIN pg_catalog.pg_type t ON t.oid = r.typid \
       JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace \
       LEFT JOIN pg_catalog.pg_collation l ON l.oid = c.attcollation \
     ORDER BY c.attnum";

/// The columns of a relation.
const OF_RELATION: &str = "SELECT a.attnum, a.attname, a.atttypid, a.atttypmod, a.attndims, a.attnotnull, a.attcollation, a.attrelid \
       FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
       WHERE n.nspname = $1::text AND c.relname = $2::text AND a.attnum > 0 AND NOT a.attisdropped";

/// Of a table with children the statistics over all of them, else its own.
const STATISTICS: &str = "SELECT DISTINCT ON (attname) attname::text, null_frac::float8, n_distinct::float8 \
     FROM pg_catalog.pg_stats WHERE schemaname = $1::text AND tablename = $2::text ORDER BY attname, inherited DESC";

const IS_UTF8: &str = "SELECT pg_catalog.pg_encoding_to_char(encoding) = 'UTF8' FROM pg_catalog.pg_database \
     WHERE datname = pg_catalog.current_database()";

const KEYS: &str = "SELECT k.conname::text, k.contype::text, \
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY u(num, pos) \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.pos), \
       fn.nspname::text, fc.relname::text, \
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY u(num, pos) \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num ORDER BY u.pos) \
     FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid \
       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
       LEFT JOIN pg_catalog.pg_class fc ON fc.oid = k.confrelid LEFT JOIN pg_catalog.pg_namespace fn ON fn.oid = fc.relnamespace \
     WHERE n.nspname = $1::text AND c.relname = $2::text AND k.contype IN ('p', 'f') ORDER BY 1";

/// Whether a schema is the server's own. These are neither listed nor read: all principals of a catalog share one
/// account there, so that `pg_stat_activity`, for one, would show each the statements of the others.
pub(crate) fn is_system(schema: &str) -> bool {
    schema.starts_with("pg_") || schema == "information_schema"
}

/// A relation as it was when it was looked up.
#[derive(Debug, Clone)]
pub(crate) struct Relation {
    pub schema: String,
    pub table: String,
    /// What stands in FROM in the table's place: a query that was passed through.
    pub from: Option<String>,
    pub kind: TableKind,
    pub columns: Vec<Column>,
    /// Per column: whether equal text is equal bytes.
    pub deterministic: Vec<bool>,
    /// Per column: what `pg_stats` says.
    pub statistics: Vec<ColumnStatistics>,
    /// Whether the database stores UTF-8.
    pub is_utf8: bool,
}

/// `pg_stats` of a column; without a row there everything is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct ColumnStatistics {
    /// Fraction of NULLs.
    pub null_fraction: Option<f64>,
    /// Distinct values; negative: per row.
    pub distinct: Option<f64>,
}

impl ColumnStatistics {
    /// The expected number of NULLs and of distinct values among `rows`.
    pub fn estimate(&self, rows: u64) -> crate::scan::ColumnEstimate {
        let rows = rows as f64;
        let count = |value: f64| (value.is_finite() && value >= 0.0).then_some(value as u64);
        let distinct = self.distinct.filter(|distinct| *distinct != 0.0);
        let distinct = distinct.map(|distinct| if distinct < 0.0 { -distinct * rows } else { distinct.min(rows) });
        crate::scan::ColumnEstimate {
            nulls: self.null_fraction.and_then(|fraction| count(fraction * rows)),
            distinct: distinct.and_then(|distinct| count(distinct.max(1.0))),
        }
    }
}

/// Looks things up over one connection.
pub(crate) struct Discovery<'a> {
    pub client: &'a Client,
    pub server: &'a Server,
}

impl Discovery<'_> {
    /// The schemas that the connection's user may use, without the server's own.
    pub async fn schemas(&self) -> Result<Vec<String>> {
        self.rows(SCHEMAS, &[], |row| row.try_get::<_, String>(0)).await
    }

    /// The relations of a schema that the connection's user may read.
    pub async fn tables(&self, schema: &str) -> Result<Vec<SourceTable>> {
        let read = |row: &Row| {
            Ok(SourceTable {
                name: row.try_get(0)?,
                kind: kind_of(&row.try_get::<_, String>(1)?),
                comment: row.try_get::<_, Option<String>>(2)?,
            })
        };
        self.rows(TABLES, &[schema], read).await
    }

    /// A relation with all that planning needs.
    pub async fn relation(&self, schema: &str, table: &str) -> Result<Option<Relation>> {
        let name = [schema, table];
        let columns = COLUMNS.replace("{}", OF_RELATION);
        let (found, columns, statistics) = tokio::try_join!(
            self.rows(RELATION, &name, |row| Ok((
                row.try_get::<_, String>(0)?,
                row.try_get::<_, bool>(1)?,
                row.try_get::<_, bool>(2)?
            ))),
            self.rows(&columns, &name, Found::read),
            self.rows(STATISTICS, &name, |row| {
                let statistics = ColumnStatistics { null_fraction: row.try_get(1)?, distinct: row.try_get(2)? };
                Ok((row.try_get::<_, String>(0)?, statistics))
            }),
        )?;
        let Some((relkind, has_children, is_utf8)) = found.into_iter().next() else { return Ok(None) };
        // NOT NULL holds for rows that the table itself stores or its partitions do; children by inheritance may differ,
        // and foreign servers are not asked.
        let not_null_holds = relkind == "p" || (relkind == "r" && !has_children);
        let statistics: HashMap<_, _> = statistics.into_iter().collect();
        let mut relation = Relation {
            schema: schema.to_string(),
            table: table.to_string(),
            from: None,
            kind: kind_of(&relkind),
            columns: Vec::with_capacity(columns.len()),
            deterministic: Vec::with_capacity(columns.len()),
            statistics: Vec::with_capacity(columns.len()),
            is_utf8,
        };
        for found in columns {
            relation.deterministic.push(found.deterministic);
            relation.statistics.push(statistics.get(&found.name).copied().unwrap_or_default());
            relation.columns.push(found.into_column(not_null_holds));
        }
        Ok(Some(relation))
    }

    /// The result of a query as a relation.
    ///
    /// Errors: what the server says of the query; `INVALID_QUERY` for one with parameters, or that gives no rows.
    pub async fn query(&self, sql: &str) -> Result<Relation> {
        let refused = |what: &str| {
            let message = format!("the query for catalog {} {what}", self.server.catalog);
            Error::new(ErrorCode::InvalidQuery, message)
        };
        // By itself first: what closes our parenthesis is no statement of its own.
        let prepared = self.client.prepare(sql).await.map_err(|error| self.server.error("plan the query", error))?;
        if !prepared.params().is_empty() {
            return Err(refused("has parameters"));
        }
        let columns = prepared.columns();
        if columns.is_empty() {
            return Err(refused("gives no rows"));
        }
        check_names(&self.server.catalog, columns.iter().map(|column| column.name()))?;
        let given = columns.iter().enumerate().map(|(index, column)| {
            let (name, oid) = (literal(column.name()), column.type_().oid());
            format!("({}::int2, {name}::name, {oid}::oid, {}::int4)", index + 1, column.type_modifier())
        });
        let given = given.collect::<Vec<_>>().join(", ");
        let of_query = format!(
            "SELECT v.num AS attnum, v.name AS attname, v.typid AS atttypid, v.typmod AS atttypmod, 0 AS attndims, false AS attnotnull, \
             0::oid AS attcollation, 0::oid AS attrelid FROM (VALUES {given}) AS v(num, name, typid, typmod)"
        );
        let look_up = COLUMNS.replace("{}", &of_query);
        let (found, is_utf8) = tokio::try_join!(
            self.rows(&look_up, &[], Found::read),
            self.rows(IS_UTF8, &[], |row| row.try_get::<_, bool>(0))
        )?;
        let names: Vec<_> = columns.iter().map(|column| identifier(column.name())).collect();
        let columns: Vec<_> = found.into_iter().map(|found| found.into_column(false)).collect();
        Ok(Relation {
            schema: SCHEMA.to_string(),
            table: TABLE.to_string(),
            // On lines of its own: it may end in a comment.
            from: Some(format!("(\n{sql}\n) AS \"query\" ({})", names.join(", "))),
            kind: TableKind::View,
            // A query may give its text any collation.
            deterministic: vec![false; columns.len()],
            statistics: vec![ColumnStatistics::default(); columns.len()],
            is_utf8: is_utf8.first() == Some(&true),
            columns,
        })
    }

    /// The declared keys of a table.
    pub async fn keys(&self, schema: &str, table: &str) -> Result<TableKeys> {
        let read = |row: &Row| {
            let key = ForeignKey {
                name: row.try_get(0)?,
                columns: row.try_get(2)?,
                referenced_schema: row.try_get::<_, Option<_>>(3)?.unwrap_or_default(),
                referenced_table: row.try_get::<_, Option<_>>(4)?.unwrap_or_default(),
                referenced_columns: row.try_get(5)?,
            };
            Ok((row.try_get::<_, String>(1)? == "p", key))
        };
        let mut keys = TableKeys::default();
        for (is_primary, key) in self.rows(KEYS, &[schema, table], read).await? {
            if is_primary { keys.primary = key.columns } else { keys.foreign.push(key) }
        }
        Ok(keys)
    }

    async fn rows<T>(
        &self,
        sql: &str,
        texts: &[&str],
        read: impl Fn(&Row) -> std::result::Result<T, tokio_postgres::Error>,
    ) -> Result<Vec<T>> {
        let parameters: Vec<_> = texts.iter().map(|text| (text as &(dyn ToSql + Sync), Type::TEXT)).collect();
        let rows = self.client.query_typed(sql, &parameters).await;
        let rows = rows.and_then(|rows| rows.iter().map(read).collect());
        rows.map_err(|error| self.server.error("look up its catalog", error))
    }
}

/// A column as the catalog has it.
struct Found {
    name: String,
    declared: String,
    not_null: bool,
    dimensions: i32,
    type_schema: String,
    type_name: String,
    is_enum: bool,
    modifier: i32,
    deterministic: bool,
    comment: Option<String>,
}

impl Found {
    fn read(row: &Row) -> std::result::Result<Self, tokio_postgres::Error> {
        Ok(Self {
            name: row.try_get(0)?,
            declared: row.try_get(1)?,
            not_null: row.try_get(2)?,
            dimensions: row.try_get(3)?,
            type_schema: row.try_get(4)?,
            type_name: row.try_get(5)?,
            is_enum: row.try_get(6)?,
            modifier: row.try_get(7)?,
            deterministic: row.try_get(8)?,
            comment: row.try_get(9)?,
        })
    }

    fn into_column(self, not_null_holds: bool) -> Column {
        let (scalar, note) = classify(&Resolved {
            schema: &self.type_schema,
            name: &self.type_name,
            is_enum: self.is_enum,
            modifier: self.modifier,
        });
        let dimensions = u8::try_from(self.dimensions).map_or(MOST_DIMENSIONS, |given| given.min(MOST_DIMENSIONS));
        let entries = [(SOURCE_TYPE, Some(self.declared)), (NOTE, note), (COMMENT, self.comment)];
        let metadata = entries.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?)));
        Column {
            name: self.name,
            column_type: ColumnType { scalar, dimensions },
            nullable: !(self.not_null && not_null_holds),
            metadata: metadata.collect(),
        }
    }
}

fn kind_of(relkind: &str) -> TableKind {
    match relkind {
        "v" => TableKind::View,
        "m" => TableKind::MaterializedView,
        "f" => TableKind::Foreign,
        _ => TableKind::Table,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::ColumnEstimate;

    #[test]
    fn statistics_scale_with_the_rows() {
        let statistics = ColumnStatistics { null_fraction: Some(0.25), distinct: Some(-0.5) };
        assert_eq!(statistics.estimate(100), ColumnEstimate { nulls: Some(25), distinct: Some(50) });
        let statistics = ColumnStatistics { null_fraction: Some(f64::NAN), distinct: Some(300.0) };
        assert_eq!(statistics.estimate(100), ColumnEstimate { nulls: None, distinct: Some(100) });
        assert_eq!(ColumnStatistics::default().estimate(100), ColumnEstimate::default());
    }
}
