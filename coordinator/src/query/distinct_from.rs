//! `IS [NOT] DISTINCT FROM`: the parser (sqlparser 0.62, `parse_infix`) takes everything behind it as its right side, `AND` and `OR`
//! included: `a IS DISTINCT FROM b AND c` would be `a IS DISTINCT FROM (b AND c)`. So it sees an operator of its own in place of the
//! words, which binds as it should, and the expression is put back afterwards.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::tokens::is_keyword;

// No text has such operators: none is made of letters.
const DISTINCT: &str = "IS DISTINCT FROM";
const NOT_DISTINCT: &str = "IS NOT DISTINCT FROM";

/// The tokens with operators in place of the words.
pub(super) fn with_operators(tokens: &[TokenWithSpan]) -> Vec<TokenWithSpan> {
    let mut taken = Vec::with_capacity(tokens.len());
    let mut rest = tokens;
    while let Some((first, behind)) = rest.split_first() {
        let words = |keywords: &[Keyword]| {
            keywords.iter().enumerate().all(|(place, keyword)| is_keyword(rest.get(place), *keyword))
        };
        let (operator, count) = if words(&[Keyword::IS, Keyword::DISTINCT, Keyword::FROM]) {
            (DISTINCT, 3)
        } else if words(&[Keyword::IS, Keyword::NOT, Keyword::DISTINCT, Keyword::FROM]) {
            (NOT_DISTINCT, 4)
        } else {
            taken.push(first.clone());
            rest = behind;
            continue;
        };
        taken.push(TokenWithSpan::new(Token::CustomBinaryOperator(operator.to_string()), first.span));
        rest = rest.get(count..).unwrap_or_default();
    }
    taken
}

/// Puts the expressions back into what was parsed of [`with_operators`].
pub(super) fn put_back(parsed: &mut impl VisitMut) {
    let _: ControlFlow<()> = parsed.visit(&mut PutBack);
}

struct PutBack;

impl VisitorMut for PutBack {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::BinaryOp { left, op: BinaryOperator::Custom(operator), right } = expr {
            let put_back = match operator.as_str() {
                DISTINCT => Expr::IsDistinctFrom,
                NOT_DISTINCT => Expr::IsNotDistinctFrom,
                _ => return ControlFlow::Continue(()),
            };
            *expr = put_back(left.clone(), right.clone());
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use crate::query::parse::parse_ast;
    use crate::query::tokens::tokens_of_one_statement;

    #[test]
    fn what_stands_behind_is_not_swallowed() {
        let parsed = |sql: &str| parse_ast(&tokens_of_one_statement(sql).unwrap()).unwrap();
        for (condition, means) in [
            ("a IS DISTINCT FROM b AND c", "(a IS DISTINCT FROM b) AND c"),
            ("a IS NOT DISTINCT FROM b AND c OR d", "((a IS NOT DISTINCT FROM b) AND c) OR d"),
            ("NOT a IS DISTINCT FROM b AND c", "(NOT (a IS DISTINCT FROM b)) AND c"),
            (
                "a IS DISTINCT FROM b AND c IS NOT DISTINCT FROM d OR e",
                "((a IS DISTINCT FROM b) AND (c IS NOT DISTINCT FROM d)) OR e",
            ),
            ("a IS DISTINCT FROM b + 1 AND c", "(a IS DISTINCT FROM (b + 1)) AND c"),
            ("a IS DISTINCT FROM (b AND c)", "a IS DISTINCT FROM (b AND c)"),
            (
                "x IN (1) AND a IS DISTINCT FROM CASE WHEN b THEN c END AND d",
                "(x IN (1) AND (a IS DISTINCT FROM CASE WHEN b THEN c END)) AND d",
            ),
        ] {
            let shape = |condition: &str| {
                let mut text = format!("{:?}", without_nesting(parsed(&format!("SELECT 1 WHERE {condition}"))));
                // Places differ with the parentheses.
                while let Some(start) = text.find("Location(") {
                    let end = text[start..].find(')').unwrap() + start;
                    text.replace_range(start..=end, "");
                }
                text
            };
            assert_eq!(shape(condition), shape(means), "{condition}");
        }
    }

    fn without_nesting(
        mut statement: datafusion::sql::sqlparser::ast::Statement,
    ) -> datafusion::sql::sqlparser::ast::Statement {
        use std::ops::ControlFlow;

        use datafusion::sql::sqlparser::ast::{Expr, visit_expressions_mut};
        let _: ControlFlow<()> = visit_expressions_mut(&mut statement, |expr| {
            while let Expr::Nested(inner) = expr {
                *expr = inner.as_ref().clone();
            }
            ControlFlow::Continue(())
        });
        statement
    }
}
