//! Which manifests and files can hold rows that match: DataFusion's pruning over Iceberg's bounds.
//!
//! A manifest and a file are both a *container*: bounds of columns, and for bucket partitions the buckets that can be in
//! it. So one predicate serves both, and every transform except `bucket` is a matter of bounds.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::SchemaRef;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr_rewriter::unnormalize_col;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::{PhysicalExpr, conjunction_opt, create_physical_expr};
use datafusion_pruning::{PruningPredicate, PruningPredicateBuilder};
use iceberg::spec::{PrimitiveLiteral, Schema, Transform};
use iceberg::transform::create_transform_function;

use super::bounds::datum;
use super::file_bounds::FileBounds;

/// What is known of all rows of each of some manifests or files.
pub(super) struct Containers<'a> {
    pub bounds: &'a FileBounds,
    pub count: usize,
    pub rows: Option<Arc<UInt64Array>>,
    /// Of each container; empty where no column is in buckets.
    pub buckets: Vec<Vec<Buckets>>,
}

/// The buckets of a column that rows of a container can be in: `low ..= high` of `count`.
#[derive(Clone)]
pub(super) struct Buckets {
    pub column: i32,
    pub count: u32,
    pub low: i32,
    pub high: i32,
}

/// The filters of a query, ready to be asked about containers.
pub(super) struct Pruner {
    predicate: Option<PruningPredicate>,
    schema: Arc<Schema>,
    arrow: SchemaRef,
}

impl Pruner {
    /// A filter that cannot be used for pruning is left out: pruning may keep too much, never too little.
    pub fn new(filters: &[Expr], schema: Arc<Schema>, arrow: SchemaRef) -> Self {
        let predicate = physical(filters, &arrow).and_then(|predicate| {
            let built = PruningPredicateBuilder::new().with_file_schema(Arc::clone(&arrow)).try_build(predicate);
            built.ok().filter(|predicate| !predicate.always_true())
        });
        Self { predicate, schema, arrow }
    }

    /// For each container, whether it may hold a matching row.
    pub fn may_match(&self, containers: &Containers<'_>) -> Vec<bool> {
        let keep_all = || vec![true; containers.count];
        let Some(predicate) = &self.predicate else { return keep_all() };
        let statistics = Statistics { pruner: self, containers };
        predicate.prune(&statistics).unwrap_or_else(|error| {
            tracing::debug!(%error, "pruning failed, everything is read");
            keep_all()
        })
    }
}

fn physical(filters: &[Expr], schema: &SchemaRef) -> Option<Arc<dyn PhysicalExpr>> {
    let schema = DFSchema::try_from(Arc::clone(schema)).ok()?;
    let (properties, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
    let filters = filters.iter().filter_map(|filter| {
        create_physical_expr(&unnormalize_col(filter.clone()), &schema, &properties, &context).ok()
    });
    conjunction_opt(filters)
}

struct Statistics<'a> {
    pruner: &'a Pruner,
    containers: &'a Containers<'a>,
}

impl Statistics<'_> {
    fn bounds(&self, column: &Column, pick: fn(&FileBounds, i32) -> Option<&ArrayRef>) -> Option<ArrayRef> {
        pick(self.containers.bounds, self.field_id(column)?).cloned()
    }

    fn field_id(&self, column: &Column) -> Option<i32> {
        let field = self.pruner.arrow.field_with_name(&column.name).ok()?;
        crate::schema::field_id(field)
    }

    /// The buckets of `values`, by number of buckets; `None` where one cannot be computed.
    fn buckets_of(&self, id: i32, count: u32, values: &[ScalarValue]) -> Option<HashSet<i32>> {
        let primitive = self.pruner.schema.field_by_id(id)?.field_type.as_primitive_type()?;
        let transform = create_transform_function(&Transform::Bucket(count)).ok()?;
        let bucket = |value: &ScalarValue| {
            let bucket = transform.transform_literal(&datum(value, primitive)?).ok()??;
            match bucket.literal() {
                PrimitiveLiteral::Int(bucket) => Some(*bucket),
                _ => None,
            }
        };
        values.iter().map(bucket).collect()
    }
}

impl PruningStatistics for Statistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, FileBounds::lower)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, FileBounds::upper)
    }

    fn num_containers(&self) -> usize {
        self.containers.count
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let counts = self.containers.bounds.null_counts(self.field_id(column)?)?;
        Some(Arc::new(counts.clone()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::clone(self.containers.rows.as_ref()?) as ArrayRef)
    }

    #[allow(clippy::mutable_key_type)] // the signature is the trait's
    fn contained(&self, column: &Column, values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        if self.containers.buckets.is_empty() {
            return None;
        }
        let id = self.field_id(column)?;
        let data_type = self.pruner.arrow.field_with_name(&column.name).ok()?.data_type();
        // Null is in no bucket and no row equals it.
        let values = values.iter().filter(|value| !value.is_null()).map(|value| value.cast_to(data_type));
        let values = values.collect::<Result<Vec<_>, _>>().ok()?;
        let mut by_count: HashMap<u32, Option<HashSet<i32>>> = HashMap::new();
        let contained = self.containers.buckets.iter().map(|buckets| {
            let ours = buckets.iter().filter(|buckets| buckets.column == id);
            let mut impossible = false;
            for buckets in ours {
                let wanted =
                    by_count.entry(buckets.count).or_insert_with(|| self.buckets_of(id, buckets.count, &values));
                let may = |wanted: &HashSet<i32>| wanted.iter().any(|b| (buckets.low..=buckets.high).contains(b));
                impossible |= wanted.as_ref().is_some_and(|wanted| !may(wanted));
            }
            impossible.then_some(false)
        });
        Some(contained.collect())
    }
}
