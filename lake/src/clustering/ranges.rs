//! From sampled rows to ranges.

use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::Result as DFResult;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::repartition::BatchPartitioner;
use townlake_common::{Error, Result};

use super::Clustering;
use super::key::Curve;
use super::zorder::QUANTILES;

/// So many tokens are tried for each task before two ranges share one.
const TRIES: i64 = 64;

/// Where each range begins, and what sends its rows to a task of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// Of a z-order: the bounds of the ranks of each column.
    pub(super) quantiles: Vec<Vec<Vec<u8>>>,
    /// Where the second and later ranges begin.
    pub(super) bounds: Vec<Vec<u8>>,
    /// One for each range.
    pub(super) tokens: Vec<i64>,
}

impl Clustering {
    /// Ranges of about the same number of rows, for at most `tasks` tasks, from what the tasks of [`Clustering::sample_plan`] have
    /// answered.
    ///
    /// Errors: `INTERNAL` for an answer of another form.
    pub fn ranges(&self, samples: &[RecordBatch], tasks: usize) -> Result<Ranges> {
        let mut rows: Vec<Vec<&[u8]>> = Vec::new();
        for batch in samples {
            let columns: Option<Vec<_>> = batch.columns().iter().map(|column| column.as_binary_opt::<i32>()).collect();
            let columns = columns.ok_or_else(|| Error::internal("sampled rows are no bytes"))?;
            rows.extend((0..batch.num_rows()).map(|row| columns.iter().map(|column| column.value(row)).collect()));
        }
        let curve = match self.spec.curve {
            Curve::Linear => Curve::Linear,
            Curve::Z { .. } => {
                let parts = 1..=self.spec.order.len();
                let of_part = |part: usize| {
                    rows.iter().filter_map(|row| row.get(part).map(|value: &&[u8]| value.to_vec())).collect()
                };
                Curve::Z { quantiles: parts.map(|part| bounds(of_part(part), QUANTILES + 1)).collect() }
            }
        };
        let key = |row: &Vec<&[u8]>| {
            let (partition, values) = row.split_first()?;
            let mut key = partition.to_vec();
            curve.extend(values, &mut key);
            Some(key)
        };
        let bounds = bounds(rows.iter().filter_map(key).collect(), tasks);
        let tokens = tokens(bounds.len() + 1)
            .map_err(|error| Error::internal("rows cannot be sent to their ranges").with_source(error))?;
        let quantiles = if let Curve::Z { quantiles } = curve { quantiles } else { Vec::new() };
        Ok(Ranges { quantiles, bounds, tokens })
    }
}

/// What cuts these values into at most `parts` of about the same number of them.
fn bounds(mut values: Vec<Vec<u8>>, parts: usize) -> Vec<Vec<u8>> {
    values.sort_unstable();
    let at = |part: usize| values.get(part * values.len() / parts.max(1)).cloned();
    let mut bounds: Vec<_> = (1..parts).filter_map(at).collect();
    bounds.dedup();
    // One at the least value would have nothing before it.
    bounds.retain(|bound| Some(bound) != values.first());
    bounds
}

/// Numbers that the hash of an exchange between `count` tasks sends to a task each. Where an executor hashes otherwise, or not
/// every task is met, some ranges share a task: their files are less apart, and no row is lost.
fn tokens(count: usize) -> DFResult<Vec<i64>> {
    let tries = i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(TRIES);
    let schema = Arc::new(Schema::new(vec![Field::new("range", DataType::Int64, false)]));
    let numbers = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from_iter_values(0..tries))])?;
    let key = Arc::new(Column::new("range", 0));
    let mut found: Vec<Option<i64>> = vec![None; count];
    BatchPartitioner::new_hash_partitioner(vec![key], count, Time::new())?.partition(numbers, |task, sent| {
        let first = sent.columns().first().and_then(|column| column.as_primitive_opt::<arrow::datatypes::Int64Type>());
        if let (Some(found), Some(first)) = (found.get_mut(task), first) {
            *found = first.values().first().copied();
        }
        Ok(())
    })?;
    Ok((0_i64..).zip(found).map(|(range, token)| token.unwrap_or(range)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_range_has_a_task_of_its_own() {
        for count in [1, 2, 3, 7, 16, 64] {
            let tokens = tokens(count).unwrap();
            let schema = Arc::new(Schema::new(vec![Field::new("range", DataType::Int64, false)]));
            let batch = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(tokens))]).unwrap();
            let key = Arc::new(Column::new("range", 0));
            let mut met = Vec::new();
            let mut partitioner = BatchPartitioner::new_hash_partitioner(vec![key], count, Time::new()).unwrap();
            partitioner
                .partition(batch, |task, sent| {
                    met.push((task, sent.num_rows()));
                    Ok(())
                })
                .unwrap();
            met.sort_unstable();
            assert_eq!(met, (0..count).map(|task| (task, 1)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn bounds_part_the_values_and_never_leave_a_part_empty() {
        let values = |numbers: &[u8]| numbers.iter().map(|n| vec![*n]).collect::<Vec<_>>();
        assert_eq!(bounds(values(&[4, 1, 3, 2, 5, 6]), 3), values(&[3, 5]));
        assert_eq!(bounds(values(&[1, 1, 1, 1, 1, 9]), 3), values(&[]));
        assert_eq!(bounds(values(&[1, 1, 2, 2, 2, 2]), 3), values(&[2]));
        assert_eq!(bounds(Vec::new(), 3), values(&[]));
    }
}
