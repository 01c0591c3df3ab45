//! What a scan is, as it travels to executors: the relation, the columns, the predicate, the snapshot, the splits.

use std::sync::Arc;

use arrow::array::{Array, BinaryArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use prost::Message;
use townlake_common::{Error, Result};
use townlake_proto::postgres as wire;

use super::sql::relation;
use super::types::{Column, ColumnType};

/// One scan of one relation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recipe {
    pub catalog: String,
    pub schema: String,
    pub table: String,
    pub query_id: String,
    /// The name of who asks.
    pub principal: String,
    /// The id of the exported snapshot.
    pub snapshot: String,
    pub columns: Vec<Column>,
    /// The filters that the server applies, in SQL.
    pub predicate: Option<String>,
    /// Rows per split.
    pub limit: Option<u64>,
    /// The filters that stayed with us, each with the reason.
    pub local_filters: Vec<String>,
    pub estimate: Estimate,
}

/// What the server's planner expects of the scan.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Estimate {
    pub rows: Option<u64>,
    pub bytes: Option<u64>,
    /// Per column of the scan.
    pub columns: Vec<ColumnEstimate>,
}

/// What the server's statistics say of a column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ColumnEstimate {
    pub nulls: Option<u64>,
    pub distinct: Option<u64>,
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
        let columns: Vec<_> = self.columns.iter().map(Column::expression).collect();
        let first = split.first.map(|block| format!("ctid >= '({block},0)'::tid"));
        let end = split.end.map(|block| format!("ctid < '({block},0)'::tid"));
        let conditions: Vec<_> = first.into_iter().chain(end).chain(self.predicate.clone()).collect();
        let mut sql = format!("SELECT {} FROM {}", columns.join(", "), relation(&self.schema, &self.table));
        if !conditions.is_empty() {
            sql.push_str(" WHERE ");
            sql.push_str(&conditions.join(" AND "));
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
        for column in scan.columns {
            let column_type = column.r#type.as_ref().and_then(ColumnType::from_wire).ok_or_else(unreadable)?;
            let wire::Column { name, nullable, metadata, .. } = column;
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
            predicate: Some(scan.predicate).filter(|sql| !sql.is_empty()),
            limit: scan.limit,
            local_filters: scan.local_filters,
            estimate: Estimate { rows: scan.rows, bytes: scan.bytes, columns: estimates },
        })
    }
}

/// A recipe that cannot be decoded: another build, or damage.
pub(crate) fn unreadable() -> Error {
    Error::internal("a Postgres scan recipe cannot be decoded").with_hint("run one build on all nodes")
}

/// The schema of the batches that carry splits: one binary column.
pub(crate) fn splits_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("split", DataType::Binary, false)]))
}

/// Splits as partitions of data: one partition, one batch, one row a split.
pub(crate) fn splits_to_partitions(splits: &[Split]) -> Result<Vec<Vec<RecordBatch>>> {
    let batch = |split: &Split| {
        let bytes = wire::Split { first_block: split.first, end_block: split.end }.encode_to_vec();
        // A message of only defaults encodes to nothing, which is a value all the same: the whole relation.
        let column = BinaryArray::from_vec(vec![bytes.as_slice()]);
        RecordBatch::try_new(splits_schema(), vec![Arc::new(column)])
            .map_err(|error| Error::internal("a split cannot be written").with_source(error))
    };
    splits.iter().map(|split| Ok(vec![batch(split)?])).collect()
}

/// The splits of one batch that [`splits_to_partitions`] wrote.
pub(crate) fn splits_from_batch(batch: &RecordBatch) -> Result<Vec<Split>> {
    let column = batch.columns().first().and_then(|column| column.as_any().downcast_ref::<BinaryArray>());
    let column = column.filter(|column| column.null_count() == 0).ok_or_else(unreadable)?;
    let decode = |bytes: Option<&[u8]>| {
        let split = wire::Split::decode(bytes.unwrap_or_default()).map_err(|error| unreadable().with_source(error))?;
        Ok(Split { first: split.first_block, end: split.end_block })
    };
    column.iter().map(decode).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashMap;

    use super::super::types::Scalar;
    use super::*;

    pub(crate) fn sample() -> Recipe {
        let column = |name: &str, scalar| Column {
            name: name.to_string(),
            column_type: ColumnType { scalar, list: false },
            nullable: true,
            metadata: HashMap::from([("townlake.source_type".to_string(), "x".to_string())]),
        };
        Recipe {
            catalog: "crm".into(),
            schema: "public".into(),
            table: "cust\"omer".into(),
            query_id: "q".into(),
            principal: "ann".into(),
            snapshot: "00000003-1B-1".into(),
            columns: vec![column("id", Scalar::Int8), column("balance", Scalar::Numeric { precision: 15, scale: 2 })],
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
        let partitions = splits_to_partitions(&splits).unwrap();
        let back: Vec<_> = partitions.iter().flatten().flat_map(|batch| splits_from_batch(batch).unwrap()).collect();
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
