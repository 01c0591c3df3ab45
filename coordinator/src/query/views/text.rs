//! The text of a view: as a query, and for who may read it.

use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast::{Query, SelectItem, SetExpr, Statement as AstStatement};
use townlake_common::{Error, ErrorCode, Principal, Result};
use townlake_engine::error::from_datafusion;
use townlake_lake::LoadedView;

use crate::catalogs::{Catalogs, Current};
use crate::query::parse::parse;
use crate::query::planner::parts;
use crate::query::relation::{table_functions, versioned_names};
use crate::query::statement::Statement;

/// The longest text of a view, in bytes: another engine may have written it.
const MAX_TEXT: usize = 1 << 20;

/// The query of a view.
///
/// Errors: `NOT_SUPPORTED` naming the dialect that is not read, or in which its text is none of ours; `RESOURCE_EXHAUSTED`.
/// None of them quotes the text: it may name what the caller must not know of.
pub(super) fn query_of(view: &LoadedView) -> Result<Box<AstStatement>> {
    let (dialect, text) = view.text()?;
    if text.len() > MAX_TEXT {
        let message =
            format!("the query of view {} has {} bytes; the limit is {MAX_TEXT}", view.full_name(), text.len());
        return Err(Error::new(ErrorCode::ResourceExhausted, message));
    }
    let refused = |what: &str| {
        let message = format!("view {} is written in the dialect {dialect}, and {what}", view.full_name());
        Error::new(ErrorCode::NotSupported, message).with_hint("CREATE OR REPLACE VIEW writes it anew")
    };
    match parse(text) {
        Ok(Statement::Query(query)) => Ok(query),
        Ok(_) => Err(refused("is no query")),
        Err(error) => Err(refused("does not parse here").with_source(error)),
    }
}

/// What completes the short names of a view's query.
pub(super) fn current_of(view: &LoadedView) -> Current {
    Current { catalog: Some(view.default_catalog().to_string()), schema: Some(view.default_schema()) }
}

/// The text of a view's query, unless it names catalogs that the principal may not know of.
///
/// Errors: those of the text itself, and `PERMISSION_DENIED`, the same for a catalog that is hidden and one that is not there.
pub(crate) fn visible_text(catalogs: &Catalogs, principal: &Principal, view: &LoadedView) -> Result<String> {
    let query = query_of(view)?;
    let mut names = Vec::new();
    let wrapped = DataFusionStatement::Statement(query.clone());
    let (references, _) =
        datafusion::sql::resolve::resolve_table_references(&wrapped, true).map_err(|error| from_datafusion(&error))?;
    names.extend(references.iter().map(parts));
    names.extend(versioned_names(&query)?.into_iter().map(|(name, _)| name.parts().to_vec()));
    let functions = table_functions(&query);
    names.retain(|name| !functions.iter().any(|function| function.parts() == name.as_slice()));
    let current = current_of(view);
    for name in names {
        let known = current.table(&name).is_ok_and(|name| catalogs.knows(principal, &name.catalog));
        if !known {
            let message =
                format!("the text of view {} names a catalog that does not exist, or not for you", view.full_name());
            return Err(Error::new(ErrorCode::PermissionDenied, message));
        }
    }
    view.text().map(|(_, text)| text.to_string())
}

/// Whether the text says which columns the query gives, and in which order: no `*` stands for what a table happens to have.
pub(super) fn names_its_columns(query: &Query) -> bool {
    body_names_its_columns(&query.body)
}

fn body_names_its_columns(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => {
            let wild = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
            !select.projection.is_empty() && !select.projection.iter().any(wild)
        }
        SetExpr::Query(query) => names_its_columns(query),
        SetExpr::SetOperation { left, .. } => body_names_its_columns(left),
        SetExpr::Values(_) => true,
        _ => false,
    }
}
