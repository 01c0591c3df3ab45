//! The keys of the small side of a join in a scan: a read session of its own, for a session's restriction never changes.

use std::sync::Arc;

use townlake_common::Result;

use super::BigQuerySource;
use super::filters::Translator;
use super::provider::open_session;
use super::recipe::{Recipe, Way, split_to_bytes};
use crate::SourceConnections;
use crate::filters::and;
use crate::operation::Operation;
use crate::scan::{Estimate, SourceScanExec};

impl Recipe {
    /// The recipe with these keys, or why it does not take them. It has no session until [`Recipe::with_session`].
    pub fn with_keys(&self, operation: &Operation<'_>) -> std::result::Result<Self, String> {
        let filter = operation.as_filter(&self.arrow_schema()).ok_or("BigQuery is asked for rows only")?;
        let Way::Session { snapshot_micros, .. } = self.way else {
            return Err("its query job was measured when it was planned".to_string());
        };
        if self.limit.is_some() {
            return Err("it would come before the limit".to_string());
        }
        let condition = Translator { columns: &self.columns }.translate(&filter)?;
        let predicate = Some(and(self.predicate.as_deref(), condition));
        let way = Way::Session { snapshot_micros, arrow_schema: Vec::new() };
        Ok(Self { predicate, way, ..self.clone() })
    }

    /// The scan with a session, where the recipe has none.
    ///
    /// Errors: those of making one.
    pub async fn with_session(
        &self,
        connections: &SourceConnections,
        partitions: usize,
    ) -> Result<Option<SourceScanExec>> {
        let snapshot_micros = match &self.way {
            Way::Session { snapshot_micros, arrow_schema } if arrow_schema.is_empty() => *snapshot_micros,
            _ => return Ok(None),
        };
        let source = connections.of::<BigQuerySource>(&self.catalog)?;
        let _place = source.client().place().await?;
        let session = open_session(source.client(), self, snapshot_micros, partitions).await?;
        let estimate =
            Estimate { rows: session.rows.or(self.estimate.rows), bytes: session.bytes, columns: Vec::new() };
        let way = Way::Session { snapshot_micros, arrow_schema: session.arrow_schema };
        let splits: Vec<_> = session.streams.iter().map(|stream| split_to_bytes(stream)).collect();
        let recipe = Self { way, estimate, ..self.clone() };
        Ok(Some(SourceScanExec::new(Arc::new(recipe), &splits)?))
    }
}
