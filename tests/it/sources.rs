//! What the tests of all sources do alike: a query, its session, its rows, its typed error.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use townlake_common::config::Config;
use townlake_common::{Error, Principal, QueryContext, QueryId};
use townlake_connectors::SourceConnections;
use townlake_engine::session::physical_rules;

/// The sources of a configuration in TOML.
pub fn connections_of(toml: &str) -> Arc<SourceConnections> {
    let config = Config::from_toml(toml).expect("the test's configuration");
    SourceConnections::from_config(&config.catalogs).expect("the test's sources")
}

/// A query of nobody.
pub fn query() -> Arc<QueryContext> {
    QueryContext::new(QueryId::generate(), Principal::anonymous())
}

/// A session of `query` over these sources.
pub fn session(query: &Arc<QueryContext>, connections: &Arc<SourceConnections>, partitions: usize) -> SessionContext {
    let config = SessionConfig::new()
        .with_target_partitions(partitions)
        .with_extension(Arc::clone(query))
        .with_extension(Arc::clone(connections));
    SessionContext::new_with_config(config)
}

/// A session in which sources are asked for all that they may be, or for rows alone.
pub fn pushing(query: &Arc<QueryContext>, connections: &Arc<SourceConnections>, pushed: bool) -> SessionContext {
    let config = SessionConfig::new()
        .with_target_partitions(3)
        .with_extension(Arc::clone(query))
        .with_extension(Arc::clone(connections));
    let state = SessionStateBuilder::new_with_default_features().with_config(config);
    SessionContext::new_with_state(state.with_physical_optimizer_rules(physical_rules(pushed)).build())
}

/// The rows of a query.
pub async fn collect(session: &SessionContext, sql: &str) -> Result<Vec<RecordBatch>, Error> {
    let frame = session.sql(sql).await.map_err(typed)?;
    frame.collect().await.map_err(typed)
}

/// Our error inside DataFusion's.
pub fn typed(error: DataFusionError) -> Error {
    let text = error.to_string();
    match error.find_root() {
        DataFusionError::External(inner) => match inner.downcast_ref::<Error>() {
            Some(error) => error.clone(),
            None => panic!("an error of another type: {text}"),
        },
        _ => panic!("an error without type: {text}"),
    }
}

/// The seed of random tests: `TOWNLAKE_SEED`, else a fixed one, or one of the moment under `make soak`.
pub fn seed() -> u64 {
    let given = std::env::var("TOWNLAKE_SEED").ok().map(|seed| seed.parse().expect("TOWNLAKE_SEED is a number"));
    let of_the_moment = || if std::env::var_os("TOWNLAKE_SOAK").is_some() { rand::random() } else { 20_261_125 };
    given.unwrap_or_else(of_the_moment)
}
