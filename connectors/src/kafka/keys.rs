//! The keys of the small side of a join in a scan of a topic: what they say of partitions, offsets and times narrows its ranges.

use std::sync::Arc;

use townlake_common::{Principal, QueryContext, QueryId, Result};

use super::KafkaSource;
use super::filters::is_used;
use super::pins::PinnedTopic;
use super::recipe::{Planned, Recipe};
use super::splits::{cut_and_encode, narrowed, show_ranges};
use crate::SourceConnections;
use crate::operation::Operation;
use crate::scan::{Estimate, SourceScanExec};

impl Recipe {
    /// The recipe with these keys, or why it does not take them. Its splits are old until [`Recipe::narrowed_by_keys`].
    pub fn with_keys(&self, operation: &Operation<'_>) -> std::result::Result<Self, String> {
        let filter = operation.as_filter(&self.arrow_schema()).ok_or("Kafka is asked for records only")?;
        let Some(Planned { ranges, keys }) = &self.planned else {
            return Err("its ranges are not known here".to_string());
        };
        if self.limit.is_some() {
            return Err("it would come before the limit".to_string());
        }
        if !is_used(&filter) {
            return Err("Kafka knows partitions, offsets and times".to_string());
        }
        let keys = keys.iter().cloned().chain([filter]).collect();
        Ok(Self { planned: Some(Planned { ranges: ranges.clone(), keys }), ..self.clone() })
    }

    /// The scan of what its keys leave of its ranges, in at most about so many splits; `None` without keys.
    ///
    /// Errors: those of looking offsets up.
    pub async fn narrowed_by_keys(
        &self,
        connections: &SourceConnections,
        splits: usize,
    ) -> Result<Option<SourceScanExec>> {
        let Some(Planned { ranges, keys }) = self.planned.as_ref().filter(|planned| !planned.keys.is_empty()) else {
            return Ok(None);
        };
        let source = connections.of::<KafkaSource>(&self.catalog)?;
        // It only gives its names: nothing is pinned by it.
        let query = QueryContext::new(QueryId::parse(&self.query_id)?, Principal::new(&self.principal, Vec::new()));
        let pinned = PinnedTopic { topic_id: self.topic_id, ranges: ranges.clone() };
        let ranges = narrowed(source.cluster(), &query, &self.topic, &pinned, keys).await?;
        let recipe = Self {
            ranges: show_ranges(&ranges),
            estimate: Estimate { rows: Some(ranges.iter().map(|range| range.len()).sum()), ..Estimate::default() },
            planned: Some(Planned { ranges: ranges.clone(), keys: Vec::new() }),
            ..self.clone()
        };
        Ok(Some(SourceScanExec::new(Arc::new(recipe), &cut_and_encode(&ranges, splits))?))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::common::ScalarValue;

    use super::super::recipe::{Split, tests::sample};
    use super::*;

    #[test]
    fn keys_of_places_are_taken_and_others_are_not() {
        let planned = Planned { ranges: vec![Split { partition: 0, start: 3, end: 9 }], keys: Vec::new() };
        let recipe = Recipe { limit: None, planned: Some(planned), ..sample() };
        let place = |name: &str| recipe.columns.iter().position(|column| column.name == name).unwrap();
        let (low, high) = (ScalarValue::Int64(Some(4)), ScalarValue::Int64(Some(5)));
        let offsets = Operation::Between { column: place("_offset"), low: &low, high: &high };
        let twice = recipe.with_keys(&offsets).unwrap().with_keys(&offsets).unwrap();
        assert_eq!(twice.planned.unwrap().keys.len(), 2);
        let values = [ScalarValue::Int32(Some(1))];
        assert!(recipe.with_keys(&Operation::Among { column: place("_partition"), values: &values }).is_ok());
        let text = [ScalarValue::from("x")];
        assert!(recipe.with_keys(&Operation::Among { column: place("_value"), values: &text }).is_err());
        assert!(Recipe { limit: Some(1), ..recipe.clone() }.with_keys(&offsets).is_err(), "before a limit");
        assert!(Recipe { planned: None, ..recipe }.with_keys(&offsets).is_err(), "off the coordinator");
    }
}
