//! A nested column of a data file as the table has it now.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;

use super::conform::{Defaults, Matching, conform};

/// Casts a struct, list or map by field id at every depth: children are renamed, reordered, widened, dropped, and filled
/// with their defaults. It lives inside an open file only and never crosses a wire.
#[derive(Debug, Clone)]
pub(super) struct FieldIdCast {
    input: Arc<dyn PhysicalExpr>,
    source: FieldRef,
    target: FieldRef,
    defaults: Arc<Defaults>,
}

impl FieldIdCast {
    pub(super) fn new(
        input: Arc<dyn PhysicalExpr>,
        source: FieldRef,
        target: FieldRef,
        defaults: Arc<Defaults>,
    ) -> Self {
        Self { input, source, target, defaults }
    }
}

impl PartialEq for FieldIdCast {
    fn eq(&self, other: &Self) -> bool {
        self.input.eq(&other.input) && self.source == other.source && self.target == other.target
    }
}

impl Eq for FieldIdCast {}

impl Hash for FieldIdCast {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.target.hash(state);
    }
}

impl fmt::Display for FieldIdCast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BY_FIELD_ID({} AS {})", self.input, self.target.name())
    }
}

impl PhysicalExpr for FieldIdCast {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(self.target.data_type().clone())
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(self.target.is_nullable())
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let array = self.input.evaluate(batch)?.into_array(batch.num_rows())?;
        let array = conform(&array, &self.source, &self.target, Matching::FieldId(&self.defaults))?;
        Ok(ColumnarValue::Array(array))
    }

    fn return_field(&self, _: &Schema) -> Result<FieldRef> {
        Ok(Arc::clone(&self.target))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.input]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let input = children.pop().unwrap_or_else(|| Arc::clone(&self.input));
        Ok(Arc::new(Self { input, ..self.as_ref().clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.input.fmt_sql(f)
    }
}
