//! What a scan is, as it travels to executors: the relation, the columns, the predicate, the snapshot, the splits.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use prost::Message;
use townlake_common::Result;
use townlake_proto::postgres as wire;

use super::KIND;
use super::sql::relation;
use super::types::{Column, ColumnType};
use crate::scan::{ColumnEstimate, Estimate, unreadable};

/// One scan of one relation, of several that are joined, or of what is made of their rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recipe {
    pub catalog: String,
    /// The relation that is cut into splits.
    pub schema: String,
    pub table: String,
    /// What stands in FROM in the relation's place: a query that was passed through. It is not cut.
    pub from: Option<String>,
    pub query_id: String,
    /// The name of who asks.
    pub principal: String,
    /// The id of the exported snapshot.
    pub snapshot: String,
    pub columns: Vec<Column>,
    /// The SQL of each column.
    pub expressions: Vec<String>,
    /// What is joined to the relation, in SQL.
    pub joins: Vec<String>,
    /// The relations that are joined, for EXPLAIN.
    pub joined: Vec<String>,
    /// The filters that the server applies, in SQL.
    pub predicate: Option<String>,
    /// How many of the first columns are grouped by; `None`: nothing is grouped.
    pub grouped: Option<u32>,
    /// The keys of an order, in SQL, for a limit.
    pub order: Vec<String>,
    /// Rows per split.
    pub limit: Option<u64>,
    /// Per column: whether its text compares equal exactly when its bytes are equal. Only where it is planned.
    pub deterministic: Vec<bool>,
    /// The filters that stayed with us, each with the reason.
    pub local_filters: Vec<String>,
    pub estimate: Estimate,
}

/// A range of heap blocks, the end exclusive; without bounds the whole relation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Split {
    pub first: Option<u32>,
    pub end: Option<u32>,
}

impl Recipe {
    /// The Arrow schema of the rows.
    pub fn arrow_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns.iter().map(Column::field).collect::<Vec<_>>()))
    }

    /// The SELECT of one split.
    pub fn select(&self, split: Split) -> String {
        // Beside a join's sub-query a row's place must say whose it is.
        let place =
            if self.joins.is_empty() { "ctid" } else { &format!("{}.ctid", relation(&self.schema, &self.table)) };
        let first = split.first.map(|block| format!("{place} >= '({block},0)'::tid"));
        let end = split.end.map(|block| format!("{place} < '({block},0)'::tid"));
        let conditions: Vec<_> = first.into_iter().chain(end).chain(self.predicate.clone()).collect();
        let from = self.from.clone().unwrap_or_else(|| relation(&self.schema, &self.table));
        let mut sql = format!("SELECT {} FROM {from}", self.expressions.join(", "));
        for join in &self.joins {
            sql.push_str(&format!(" JOIN {join}"));
        }
        if !conditions.is_empty() {
            sql.push_str(" WHERE ");
            sql.push_str(&conditions.join(" AND "));
        }
        if let Some(count) = self.grouped.filter(|count| *count > 0) {
            let places: Vec<_> = (1..=count).map(|place| place.to_string()).collect();
            sql.push_str(&format!(" GROUP BY {}", places.join(", ")));
        }
        if !self.order.is_empty() {
            sql.push_str(&format!(" ORDER BY {}", self.order.join(", ")));
        }
        if let Some(limit) = self.limit {
            sql.push_str(&format!(" LIMIT {limit}"));
        }
        sql
    }

    /// The recipe on the wire.
    pub fn to_wire(&self) -> wire::Scan {
        let estimate = |index: usize| self.estimate.columns.get(index).copied().unwrap_or_default();
        let column = |(index, column): (usize, &Column)| wire::Column {
            expression: self.expressions.get(index).cloned().unwrap_or_default(),
            name: column.name.clone(),
            r#type: Some(column.column_type.to_wire()),
            nullable: column.nullable,
            metadata: column.metadata.clone(),
            null_count: estimate(index).nulls,
            distinct_count: estimate(index).distinct,
        };
        wire::Scan {
            catalog: self.catalog.clone(),
            schema: self.schema.clone(),
            table: self.table.clone(),
            query_id: self.query_id.clone(),
            principal: self.principal.clone(),
            snapshot: self.snapshot.clone(),
            columns: self.columns.iter().enumerate().map(column).collect(),
            predicate: self.predicate.clone().unwrap_or_default(),
            limit: self.limit,
            local_filters: self.local_filters.clone(),
            from: self.from.clone().unwrap_or_default(),
            joins: self.joins.clone(),
            joined: self.joined.clone(),
            grouped: self.grouped,
            order: self.order.clone(),
            rows: self.estimate.rows,
            bytes: self.estimate.bytes,
        }
    }

    /// The recipe that [`Recipe::to_wire`] wrote.
    ///
    /// Errors: `INTERNAL` for a type of another build.
    pub fn from_wire(scan: wire::Scan) -> Result<Self> {
        let mut columns = Vec::with_capacity(scan.columns.len());
        let mut estimates = Vec::with_capacity(scan.columns.len());
        let mut expressions = Vec::with_capacity(scan.columns.len());
        for column in scan.columns {
            let column_type = column.r#type.as_ref().and_then(ColumnType::from_wire).ok_or_else(|| unreadable(KIND))?;
            let wire::Column { name, nullable, metadata, expression, .. } = column;
            expressions.push(expression);
            estimates.push(ColumnEstimate { nulls: column.null_count, distinct: column.distinct_count });
            columns.push(Column { name, column_type, nullable, metadata });
        }
        Ok(Self {
            catalog: scan.catalog,
            schema: scan.schema,
            table: scan.table,
            query_id: scan.query_id,
            principal: scan.principal,
            snapshot: scan.snapshot,
            columns,
            expressions,
            from: Some(scan.from).filter(|sql| !sql.is_empty()),
            joins: scan.joins,
            joined: scan.joined,
            grouped: scan.grouped,
            order: scan.order,
            deterministic: Vec::new(),
            predicate: Some(scan.predicate).filter(|sql| !sql.is_empty()),
            limit: scan.limit,
            local_filters: scan.local_filters,
            estimate: Estimate { rows: scan.rows, bytes: scan.bytes, columns: estimates },
        })
    }
}

impl Split {
    /// The split on the wire.
    pub fn encode(self) -> Vec<u8> {
        wire::Split { first_block: self.first, end_block: self.end }.encode_to_vec()
    }

    /// The split that [`Split::encode`] wrote.
    ///
    /// Errors: `INTERNAL` for bytes of another build.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let split = wire::Split::decode(bytes).map_err(|error| unreadable(KIND).with_source(error))?;
        Ok(Self { first: split.first_block, end: split.end_block })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashMap;

    use super::super::types::Scalar;
    use super::*;

    pub(crate) fn sample() -> Recipe {
        let column = |name: &str, scalar| Column {
            name: name.to_string(),
            column_type: ColumnType::of(scalar),
            nullable: true,
            metadata: HashMap::from([("townlake.source_type".to_string(), "x".to_string())]),
        };
        let columns = vec![column("id", Scalar::Int8), column("balance", Scalar::Numeric { precision: 15, scale: 2 })];
        Recipe {
            catalog: "crm".into(),
            schema: "public".into(),
            table: "cust\"omer".into(),
            from: None,
            query_id: "q".into(),
            principal: "ann".into(),
            snapshot: "00000003-1B-1".into(),
            expressions: columns.iter().map(Column::expression).collect(),
            columns,
            joins: vec![],
            joined: vec![],
            grouped: None,
            order: vec![],
            deterministic: vec![],
            predicate: Some("(\"id\"::int8 > '5'::int8)".into()),
            limit: Some(10),
            local_filters: vec!["x: y".into()],
            estimate: Estimate {
                rows: Some(7),
                bytes: None,
                columns: vec![ColumnEstimate { nulls: Some(0), distinct: None }; 2],
            },
        }
    }

    #[test]
    fn recipes_and_splits_cross_the_wire() {
        let recipe = sample();
        let bytes = recipe.to_wire().encode_to_vec();
        assert_eq!(Recipe::from_wire(wire::Scan::decode(bytes.as_slice()).unwrap()).unwrap(), recipe);
        let splits = [Split::default(), Split { first: None, end: Some(9) }, Split { first: Some(9), end: None }];
        let back: Vec<_> = splits.iter().map(|split| Split::decode(&split.encode()).unwrap()).collect();
        assert_eq!(back, splits);
    }

    #[test]
    fn a_split_is_one_range_of_one_select() {
        let sql = sample().select(Split { first: Some(64), end: Some(128) });
        assert_eq!(
            sql,
            "SELECT \"id\"::int8, \"balance\"::numeric FROM \"public\".\"cust\"\"omer\" WHERE ctid >= '(64,0)'::tid \
             AND ctid < '(128,0)'::tid AND (\"id\"::int8 > '5'::int8) LIMIT 10"
        );
    }
}
