//! The session actions of Flight: options by name, and the end of the session.
//!
//! `catalog` and `schema` are what `USE` sets; every other option is a setting of `SET SESSION`.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use townlake_common::{Error, ErrorCode, QueryContext, QueryId, Result};
use townlake_proto::flight_session::close_session_result::Status as CloseStatus;
use townlake_proto::flight_session::session_option_value::OptionValue;
use townlake_proto::flight_session::set_session_options_result::{Error as OptionError, ErrorValue};
use townlake_proto::flight_session::{
    CloseSessionResult, GetSessionOptionsResult, SessionOptionValue, SetSessionOptionsRequest, SetSessionOptionsResult,
};

use super::put::unreadable;
use super::service::Parts;
use crate::query::settings;
use crate::session::Session;

/// The actions' names.
pub const SET: &str = "SetSessionOptions";
/// See [`SET`].
pub const GET: &str = "GetSessionOptions";
/// See [`SET`].
pub const CLOSE: &str = "CloseSession";

const CATALOG: &str = "catalog";
const SCHEMA: &str = "schema";

/// Sets options, each on its own: the answer names those that could not be set.
pub async fn set(parts: &Parts, session: &Arc<Session>, body: Bytes) -> Result<Bytes> {
    let request = SetSessionOptionsRequest::decode(body).map_err(|_| unreadable(SET))?;
    let mut options = request.session_options;
    let (catalog, schema) = (options.remove(CATALOG), options.remove(SCHEMA));
    let mut errors = HashMap::new();
    if let Some((option, value)) = set_current(parts, session, catalog, schema).await? {
        errors.insert(option.to_string(), OptionError { value: value.into() });
    }
    for (name, value) in options {
        if let Err(value) = set_setting(parts, session, &name, &value) {
            errors.insert(name, OptionError { value: value.into() });
        }
    }
    Ok(SetSessionOptionsResult { errors }.encode_to_vec().into())
}

/// Sets catalog and schema together, since a schema is one of a catalog. Gives the option that was refused.
///
/// Errors: what the catalog reports.
async fn set_current(
    parts: &Parts,
    session: &Arc<Session>,
    catalog: Option<SessionOptionValue>,
    schema: Option<SessionOptionValue>,
) -> Result<Option<(&'static str, ErrorValue)>> {
    if catalog.is_none() && schema.is_none() {
        return Ok(None);
    }
    let (current, current_schema) = session.current();
    let changes_catalog = catalog.is_some();
    let wanted_catalog = match catalog.map(|value| text(&value)) {
        None => current,
        Some(Ok(name)) => name,
        Some(Err(())) => return Ok(Some((CATALOG, ErrorValue::InvalidValue))),
    };
    let wanted_schema = match schema.map(|value| text(&value)) {
        None if changes_catalog => None,
        None => current_schema,
        Some(Ok(name)) => name,
        Some(Err(())) => return Ok(Some((SCHEMA, ErrorValue::InvalidValue))),
    };
    let catalogs = parts.queries.catalogs();
    if let Some(catalog) = &wanted_catalog
        && !catalogs.list_catalogs(&session.principal).contains(catalog)
    {
        return Ok(Some((CATALOG, ErrorValue::InvalidValue)));
    }
    if let Some(schema) = &wanted_schema {
        let Some(catalog) = &wanted_catalog else { return Ok(Some((SCHEMA, ErrorValue::InvalidValue))) };
        let query = QueryContext::new(QueryId::generate(), session.principal.clone());
        if !catalogs.list_schemas(&query, catalog).await?.contains(schema) {
            return Ok(Some((SCHEMA, ErrorValue::InvalidValue)));
        }
    }
    session.use_catalog(wanted_catalog, wanted_schema);
    Ok(None)
}

fn set_setting(parts: &Parts, session: &Session, name: &str, value: &SessionOptionValue) -> Result<(), ErrorValue> {
    settings::find(name).map_err(|_| ErrorValue::InvalidName)?;
    match text(value).map_err(|()| ErrorValue::InvalidValue)? {
        None => session.reset(name),
        Some(value) => {
            parts.queries.set_setting(session, name, &value).map_err(|error: Error| match error.code() {
                ErrorCode::InvalidArgument | ErrorCode::QueryNotFound => ErrorValue::InvalidValue,
                _ => ErrorValue::Error,
            })?;
        }
    }
    Ok(())
}

/// An option's value as text; `None` to unset it. A list is no value of ours.
fn text(value: &SessionOptionValue) -> Result<Option<String>, ()> {
    match &value.option_value {
        None => Ok(None),
        Some(OptionValue::StringValue(text)) if text.is_empty() => Ok(None),
        Some(OptionValue::StringValue(text)) => Ok(Some(text.clone())),
        Some(OptionValue::BoolValue(value)) => Ok(Some(value.to_string())),
        Some(OptionValue::Int64Value(value)) => Ok(Some(value.to_string())),
        Some(OptionValue::DoubleValue(value)) => Ok(Some(value.to_string())),
        Some(OptionValue::StringListValue(_)) => Err(()),
    }
}

/// The options of the session as they are.
pub fn get(session: &Session) -> Bytes {
    let (catalog, schema) = session.current();
    let current = [(CATALOG, catalog), (SCHEMA, schema)];
    let current = current.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?)));
    let option = |(name, value)| (name, SessionOptionValue { option_value: Some(OptionValue::StringValue(value)) });
    let session_options = current.chain(session.settings()).map(option).collect();
    GetSessionOptionsResult { session_options }.encode_to_vec().into()
}

/// Ends the session, its prepared statements and the results that wait for it. Queries that run go on to their end.
pub fn close(parts: &Parts, session: &Session) -> Bytes {
    parts.sessions.close(session);
    parts.statements.forget_session(&session.id);
    parts.pending.forget_session(&session.id);
    CloseSessionResult { status: CloseStatus::Closed.into() }.encode_to_vec().into()
}
