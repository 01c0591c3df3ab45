//! What is the same for every source whose filters are an allow-list.

use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};

/// Longest SQL of a filter in bytes: a recipe travels with each task.
pub(crate) const SQL_LIMIT: usize = 64 << 10;
/// Deepest nesting that is translated.
pub(crate) const DEPTH_LIMIT: usize = 64;

/// The SQL of a filter, or why it stays with us.
pub(crate) type Translated = Result<String, String>;

/// Filters that are pushed, as one SQL condition, and those that stay, each with its reason.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Divided {
    pub pushed: Option<String>,
    pub local: Vec<String>,
}

impl Divided {
    /// Divides the filters of a scan. Whatever translates was promised to be applied by the server, so that it must be.
    pub fn of(filters: &[Expr], translate: impl Fn(&Expr) -> Translated) -> Self {
        let mut divided = Self::default();
        let mut pushed = Vec::new();
        for filter in filters {
            match translate(filter) {
                Ok(sql) => pushed.push(sql),
                Err(reason) => divided.local.push(format!("{filter}: {reason}")),
            }
        }
        divided.pushed = (!pushed.is_empty()).then(|| pushed.join(" AND "));
        divided
    }
}

/// A condition more, in SQL.
pub(crate) fn and(predicate: Option<&str>, condition: String) -> String {
    match predicate {
        Some(predicate) => format!("{predicate} AND {condition}"),
        None => condition,
    }
}

/// Exact for what the server applies. The rest is called inexact rather than unsupported: DataFusion filters it all the same, and
/// the scan learns of it and can tell the reason in EXPLAIN.
pub(crate) fn support(filters: &[&Expr], translate: impl Fn(&Expr) -> Translated) -> Vec<TableProviderFilterPushDown> {
    let decide = |filter: &&Expr| match translate(filter) {
        Ok(_) => TableProviderFilterPushDown::Exact,
        Err(_) => TableProviderFilterPushDown::Inexact,
    };
    filters.iter().map(decide).collect()
}
