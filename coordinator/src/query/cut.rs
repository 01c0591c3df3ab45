//! The cut of a query: `SHOW CUT`, and `SET SESSION cut`, under which a session reads what an earlier query read. See docs/cut.md.

use std::sync::Arc;

use townlake_common::{Cut, Error, ErrorCode, Principal, QueryId, Result};

use super::service::{QueryService, Run};
use super::settings;
use super::statement::{Statement, StatementKind};
use crate::session::{CUT, Session};

impl QueryService {
    /// Sets a setting of a session, and gives its value as it is shown.
    ///
    /// Errors: `INVALID_ARGUMENT` naming the setting and what it takes, `QUERY_NOT_FOUND` for a cut of an unknown query, those of
    /// [`Session::set`].
    pub fn set_setting(&self, session: &Session, name: &str, value: &str) -> Result<String> {
        if name != CUT {
            let value = settings::validate(name, value)?;
            session.set(name, &value)?;
            return Ok(value);
        }
        let value = value.trim();
        if value.is_empty() {
            session.reset(CUT);
        } else {
            session.set_cut(value, Arc::new(self.cut_named(&session.principal, value)?));
        }
        Ok(value.to_string())
    }

    /// The cut that a text is, or that the query of this id has.
    fn cut_named(&self, principal: &Principal, text: &str) -> Result<Cut> {
        match QueryId::parse(text) {
            Ok(id) => self.cut_of(principal, &id),
            Err(_) => Cut::parse(text),
        }
    }

    fn cut_of(&self, principal: &Principal, id: &QueryId) -> Result<Cut> {
        let info = self.registry().info(id);
        let visible = info.filter(|info| info.user == principal.name || self.is_admin(principal));
        visible.map(|info| info.cut).ok_or_else(|| {
            Error::new(ErrorCode::QueryNotFound, format!("there is no query {id}"))
                .with_hint("this coordinator remembers its last 1000 queries; a cut can also be given as text")
        })
    }
}

impl Run<'_> {
    /// The rows of `SHOW CUT`: of the session's last query, or that of this id.
    pub(super) fn show_cut(&self, query: Option<&str>) -> Result<Vec<Vec<Option<String>>>> {
        let id = match query {
            Some(query) => QueryId::parse(query)?,
            // A session that nothing was changed in is another at each call.
            None => self.session.last_query().or_else(|| self.last_of(&self.session.principal)).ok_or_else(|| {
                let message = "no query was run yet";
                Error::new(ErrorCode::QueryNotFound, message).with_hint("SHOW CUT FOR 'query id'")
            })?,
        };
        let cut = self.service.cut_of(&self.session.principal, &id)?;
        let row = |(what, pinned): (&str, &townlake_common::Pinned)| {
            let values = [id.as_str(), what, &pinned.kind, &pinned.at, pinned.promise.as_str()];
            values.into_iter().map(|value| Some(value.to_string())).collect()
        };
        Ok(cut.iter().map(row).collect())
    }

    fn last_of(&self, principal: &Principal) -> Option<QueryId> {
        let newest_first = self.service.registry().list().into_iter();
        newest_first
            .filter(|query| query.user == principal.name)
            .find(|query| !query.cut.is_empty())
            .map(|query| query.id)
    }

    /// Whether the statement may run while the session reads the past: what writes must see what it changes as it is now.
    ///
    /// Errors: `INVALID_QUERY`.
    pub(super) fn check_cut(&self, statement: &Statement) -> Result<()> {
        if self.settings.cut.is_none() || reads(statement) {
            return Ok(());
        }
        let message = "the session reads the cut of an earlier query, and this statement changes something";
        Err(Error::new(ErrorCode::InvalidQuery, message).with_hint("RESET SESSION cut"))
    }
}

fn reads(statement: &Statement) -> bool {
    match statement {
        Statement::Explain { statement, .. } => reads(statement),
        // Its rows are of the past, its table is new.
        Statement::CreateTable(create) => create.as_query,
        Statement::Use(_) | Statement::SetSession { .. } | Statement::ResetSession { .. } => true,
        other => other.kind() == StatementKind::Query,
    }
}
