//! What a source may do on top of a scan, in each split of it.

use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::Expr;

use crate::scan::SourceScan;

/// One operation. Columns are places in the scan's schema.
#[derive(Debug)]
pub enum Operation<'a> {
    /// One row for each group of equal values: these columns, then the states. Without columns one row in all.
    ///
    /// The rows of all splits are put together here: a state is what an aggregate function has after some of the rows.
    Group {
        /// The columns that are grouped by.
        by: &'a [usize],
        /// The states.
        states: &'a [State],
    },
    /// The rows whose value of a column is one of these (none of which is NULL).
    Among {
        /// The column.
        column: usize,
        /// The values, each of the column's type or one that a literal of it may have.
        values: &'a [ScalarValue],
    },
    /// The rows whose value of a column lies between these, ends included.
    Between {
        /// The column.
        column: usize,
        /// The least.
        low: &'a ScalarValue,
        /// The greatest.
        high: &'a ScalarValue,
    },
    /// The first rows in an order; which of equal ones is open. The order of the rows that come is open, too.
    First {
        /// The order.
        order: &'a [OrderBy],
        /// How many rows.
        rows: u64,
    },
    /// Each pair of rows of this scan and of another one of the same catalog that are equal in these columns: the columns of
    /// this, then those of the other.
    Join {
        /// The other scan.
        right: &'a Arc<dyn SourceScan>,
        /// Column here and column there.
        on: &'a [(usize, usize)],
    },
}

/// The state of an aggregate function.
#[derive(Debug, Clone)]
pub struct State {
    /// What it holds.
    pub of: StateOf,
    /// Name, type and whether it may be NULL. A source may give another type of number that is cast here.
    pub field: FieldRef,
}

/// What a state holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateOf {
    /// The number of rows.
    Rows,
    /// The number of values that are not NULL.
    Count(usize),
    /// The same; NULL without any.
    CountOrNull(usize),
    /// Their sum; NULL without any.
    Sum(usize),
    /// The least.
    Min(usize),
    /// The greatest.
    Max(usize),
}

/// One key of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderBy {
    /// The column.
    pub column: usize,
    /// From high to low.
    pub descending: bool,
    /// NULL before all values.
    pub nulls_first: bool,
}

/// The scan that does it, or why it does not.
pub type Pushed = Result<Arc<dyn SourceScan>, String>;

impl Operation<'_> {
    /// What it is called in EXPLAIN.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Group { .. } => "aggregate",
            Self::First { .. } => "top rows",
            Self::Among { .. } | Self::Between { .. } => "dynamic filter",
            Self::Join { .. } => "join",
        }
    }

    /// A dynamic filter as a condition on the columns of `schema`; `None` for other operations.
    pub fn as_filter(&self, schema: &Schema) -> Option<Expr> {
        let of = |column: usize| Some(Expr::Column(Column::from_name(schema.fields().get(column)?.name())));
        let literal = |value: &ScalarValue| Expr::Literal(value.clone(), None);
        match self {
            Self::Among { column, values } => {
                Some(of(*column)?.in_list(values.iter().map(literal).collect::<Vec<_>>(), false))
            }
            Self::Between { column, low, high } => Some(of(*column)?.between(literal(low), literal(high))),
            _ => None,
        }
    }
}
