//! The expressions of a WHEN clause that has a row of one side only: they may name columns of that side alone. (In the join those of the
//! other are there, and NULL.)

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Query, VisitMut, VisitorMut};
use townlake_common::{Error, ErrorCode, Result};

use super::expressions::ident;
use crate::query::parse::normalize;

/// The side that has a row, and the one that has none.
#[derive(Clone, Copy)]
pub(super) struct OneSide<'a> {
    pub own: &'a str,
    pub missing: &'a str,
    /// The clause, for messages.
    pub clause: &'static str,
}

impl OneSide<'_> {
    /// The expression with each plain name as one of the side that is there.
    ///
    /// Errors: `INVALID_QUERY` for a column of the other.
    pub fn of(self, expr: &Expr) -> Result<Expr> {
        let mut expr = expr.clone();
        let mut names = Names { side: self, queries: 0 };
        match expr.visit(&mut names) {
            ControlFlow::Continue(()) => Ok(expr),
            ControlFlow::Break(name) => {
                let Self { own, missing, clause } = self;
                let message = format!("MERGE: {name} has no value in {clause}: there is no row of {missing}");
                Err(Error::new(ErrorCode::InvalidQuery, message).with_hint(format!("use columns of {own}")))
            }
        }
    }
}

struct Names<'a> {
    side: OneSide<'a>,
    /// How many queries deep: those have names of their own.
    queries: usize,
}

impl VisitorMut for Names<'_> {
    type Break = String;

    fn pre_visit_query(&mut self, _query: &mut Query) -> ControlFlow<String> {
        self.queries += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<String> {
        self.queries -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<String> {
        if self.queries > 0 {
            return ControlFlow::Continue(());
        }
        match expr {
            Expr::Identifier(name) => {
                *expr = Expr::CompoundIdentifier(vec![ident(self.side.own), name.clone()]);
            }
            Expr::CompoundIdentifier(parts) => {
                let first = parts.first().cloned().map(normalize).unwrap_or_default();
                if first == self.side.missing {
                    return ControlFlow::Break(expr.to_string());
                }
                // A field in a column.
                if first != self.side.own && parts.len() == 2 {
                    parts.insert(0, ident(self.side.own));
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
