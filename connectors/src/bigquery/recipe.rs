//! What a scan is, as it travels to executors: the table, the columns, the predicate, the read session's streams or the job.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use prost::Message;
use townlake_common::Result;
use townlake_proto::bigquery as wire;

use super::KIND;
use super::sql::{identifier, relation};
use super::types::Column;
use crate::scan::{Estimate, unreadable};

/// One scan of one table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recipe {
    pub catalog: String,
    pub project: String,
    pub dataset: String,
    pub table: String,
    /// What stands in FROM in the table's place: a query that was passed through.
    pub from: Option<String>,
    pub query_id: String,
    /// The name of who asks.
    pub principal: String,
    pub columns: Vec<Column>,
    /// The column that is read where none is wanted.
    pub selected: Option<String>,
    /// The filters that BigQuery applies, in SQL.
    pub predicate: Option<String>,
    /// Rows per split.
    pub limit: Option<u64>,
    /// The filters that stayed with us, each with the reason.
    pub local_filters: Vec<String>,
    pub estimate: Estimate,
    pub way: Way,
}

/// How rows are had.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Way {
    /// Streams of a read session, made when the scan was planned: all of one moment.
    Session {
        /// The moment, in µs since 1970.
        snapshot_micros: i64,
        /// The session's schema, an IPC message.
        arrow_schema: Vec<u8>,
    },
    /// A query job that is run when the scan is: views, and what the Storage API cannot read.
    Job(Job),
}

/// A query job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    /// The same in each try, so that no try costs anew.
    pub id: String,
    /// Where the dataset lies.
    pub location: String,
}

impl Recipe {
    /// The Arrow schema of the rows.
    pub fn arrow_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns.iter().map(Column::field).collect::<Vec<_>>()))
    }

    /// The names of the columns that are read.
    pub fn selected_fields(&self) -> Vec<String> {
        match &self.selected {
            Some(column) => vec![column.clone()],
            None => self.columns.iter().map(|column| column.name.clone()).collect(),
        }
    }

    /// `catalog.dataset.table`.
    pub fn name(&self) -> String {
        format!("{}.{}.{}", self.catalog, self.dataset, self.table)
    }

    /// What we are about, for errors.
    pub fn reading(&self) -> String {
        format!("read table {}.{}", self.dataset, self.table)
    }

    /// The statement of a query job.
    pub fn select(&self) -> String {
        let columns: Vec<_> = self.selected_fields().iter().map(|name| identifier(name)).collect();
        let from = self.from.clone().unwrap_or_else(|| relation(&self.project, &self.dataset, &self.table));
        let mut sql = format!("SELECT {} FROM {from}", columns.join(", "));
        if let Some(predicate) = &self.predicate {
            sql.push_str(" WHERE ");
            sql.push_str(predicate);
        }
        if let Some(limit) = self.limit {
            sql.push_str(&format!(" LIMIT {limit}"));
        }
        sql
    }

    /// The recipe on the wire.
    pub fn to_wire(&self) -> wire::Scan {
        let (snapshot_micros, arrow_schema, job) = match &self.way {
            Way::Session { snapshot_micros, arrow_schema } => (Some(*snapshot_micros), arrow_schema.clone(), None),
            Way::Job(Job { id, location }) => {
                (None, Vec::new(), Some(wire::Job { id: id.clone(), location: location.clone() }))
            }
        };
        wire::Scan {
            catalog: self.catalog.clone(),
            project: self.project.clone(),
            dataset: self.dataset.clone(),
            table: self.table.clone(),
            from: self.from.clone().unwrap_or_default(),
            query_id: self.query_id.clone(),
            principal: self.principal.clone(),
            columns: self.columns.iter().map(Column::to_wire).collect(),
            predicate: self.predicate.clone().unwrap_or_default(),
            limit: self.limit,
            local_filters: self.local_filters.clone(),
            rows: self.estimate.rows,
            bytes: self.estimate.bytes,
            selected: self.selected.clone().unwrap_or_default(),
            snapshot_micros,
            arrow_schema,
            job,
        }
    }

    /// The recipe that [`Recipe::to_wire`] wrote.
    ///
    /// Errors: `INTERNAL` for a recipe of another build.
    pub fn from_wire(scan: wire::Scan) -> Result<Self> {
        let way = match (scan.job, scan.snapshot_micros) {
            (Some(wire::Job { id, location }), None) => Way::Job(Job { id, location }),
            (None, Some(snapshot_micros)) => Way::Session { snapshot_micros, arrow_schema: scan.arrow_schema },
            _ => return Err(unreadable(KIND)),
        };
        Ok(Self {
            catalog: scan.catalog,
            project: scan.project,
            dataset: scan.dataset,
            table: scan.table,
            from: Some(scan.from).filter(|sql| !sql.is_empty()),
            query_id: scan.query_id,
            principal: scan.principal,
            columns: scan.columns.into_iter().map(Column::from_wire).collect(),
            selected: Some(scan.selected).filter(|name| !name.is_empty()),
            predicate: Some(scan.predicate).filter(|sql| !sql.is_empty()),
            limit: scan.limit,
            local_filters: scan.local_filters,
            estimate: Estimate { rows: scan.rows, bytes: scan.bytes, columns: Vec::new() },
            way,
        })
    }
}

/// The bytes of one split: a stream of the session, or none.
pub(crate) fn split_to_bytes(stream: &str) -> Vec<u8> {
    wire::Split { stream: stream.to_string() }.encode_to_vec()
}

/// The stream that [`split_to_bytes`] wrote.
///
/// Errors: `INTERNAL` for bytes of another build.
pub(crate) fn split_from_bytes(bytes: &[u8]) -> Result<String> {
    let split = wire::Split::decode(bytes).map_err(|error| unreadable(KIND).with_source(error))?;
    Ok(split.stream)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::types::tests::column;
    use super::*;

    pub(crate) fn sample(way: Way) -> Recipe {
        Recipe {
            catalog: "bq".into(),
            project: "p".into(),
            dataset: "d".into(),
            table: "cust`omer".into(),
            from: None,
            query_id: "q".into(),
            principal: "ann".into(),
            columns: vec![column("id", "INTEGER", "REQUIRED"), column("s", "STRING", "")],
            selected: None,
            predicate: Some("(`id` > 5)".into()),
            limit: Some(10),
            local_filters: vec!["x: y".into()],
            estimate: Estimate { rows: Some(7), bytes: None, columns: Vec::new() },
            way,
        }
    }

    #[test]
    fn recipes_and_splits_cross_the_wire() {
        let session = Way::Session { snapshot_micros: 0, arrow_schema: vec![1, 2] };
        for way in [session, Way::Job(Job { id: "j".into(), location: "EU".into() })] {
            let recipe = sample(way);
            let bytes = recipe.to_wire().encode_to_vec();
            assert_eq!(Recipe::from_wire(wire::Scan::decode(bytes.as_slice()).unwrap()).unwrap(), recipe);
        }
        assert!(Recipe::from_wire(wire::Scan::default()).is_err());
        assert_eq!(split_from_bytes(&split_to_bytes("a/b")).unwrap(), "a/b");
        assert!(split_from_bytes(&[0xff]).is_err());
    }

    #[test]
    fn a_job_is_one_select() {
        let mut recipe = sample(Way::Job(Job { id: "j".into(), location: String::new() }));
        assert_eq!(recipe.select(), "SELECT `id`, `s` FROM `p`.`d`.`cust\\`omer` WHERE (`id` > 5) LIMIT 10");
        (recipe.columns, recipe.predicate, recipe.limit) = (Vec::new(), None, None);
        recipe.selected = Some("id".into());
        assert_eq!(recipe.select(), "SELECT `id` FROM `p`.`d`.`cust\\`omer`");
        recipe.from = Some("(\nSELECT 1 AS id\n)".into());
        assert_eq!(recipe.select(), "SELECT `id` FROM (\nSELECT 1 AS id\n)");
    }
}
