//! `1e3` is a DOUBLE, as in the standard; `1000.0` is a decimal. DataFusion knows one of the two ways for both.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{CastKind, DataType, ExactNumberInfo, Expr, Value, VisitMut, VisitorMut};

/// Makes numbers with an exponent doubles.
pub(super) fn as_double(parsed: &mut impl VisitMut) {
    let _: ControlFlow<()> = parsed.visit(&mut AsDouble);
}

struct AsDouble;

impl VisitorMut for AsDouble {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Value(value) = expr
            && let Value::Number(digits, _) = &mut value.value
            && digits.contains(['e', 'E'])
        {
            let digits = std::mem::take(digits).replace('_', "");
            value.value = Value::SingleQuotedString(digits);
            *expr = Expr::Cast {
                kind: CastKind::Cast,
                expr: Box::new(expr.clone()),
                data_type: DataType::Double(ExactNumberInfo::None),
                array: false,
                format: None,
            };
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use crate::query::parse::parse_ast;
    use crate::query::tokens::tokens_of_one_statement;

    #[test]
    fn only_an_exponent_makes_a_double() {
        let sql = "SELECT 1.5, 1, -2.5E-3 FROM t WHERE a > 1e300 AND b IN (0.1, 1_0e2)";
        let parsed = parse_ast(&tokens_of_one_statement(sql).unwrap()).unwrap().to_string();
        let wanted = "SELECT 1.5, 1, -CAST('2.5E-3' AS DOUBLE) FROM t WHERE a > CAST('1e300' AS DOUBLE) \
            AND b IN (0.1, CAST('10e2' AS DOUBLE))";
        assert_eq!(parsed, wanted);
    }
}
