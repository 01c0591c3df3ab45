//! The session configuration under which plans are made and run.
//!
//! What it differs from Ballista's defaults in, and why:
//!
//! - **Static planner.** The adaptive one hangs on a lost finished output; the static one recovers, and with hash joins it
//!   is as fast (measured).
//! - **Hash joins preferred.** A build side that does not fit its memory fails its own query with `MEMORY_LIMIT`.
//! - **Exchange not compressed.** On loopback and a local disk LZ4 cost a tenth (q4, q21) to a fifth (q18, q22) of the
//!   executors' CPU time; a session may switch it on where the network is the narrower place.
//! - **View types on.** Ballista turns them off because a batch of views drags its whole buffers into every message. Here
//!   nothing travels that is not compacted: the sort writer compacts by itself, our engine compacts under the passthrough
//!   writers, and results are cut and compacted in the coordinator ([`crate::batches`]).
//! - **Dynamic filters off**, as in Ballista: across stages the scan would wait for ever.
//! - **Parquet predicates prune and do not filter while reading** (`pushdown_filters = false`, DataFusion's default): row
//!   groups, pages and bloom filters are pruned either way. Late materialisation was measured 1.5 to 2.9 times slower on four
//!   of seven scans of local files and up to 1.5 times faster on two; a session may switch it on.
//!
//! The coordinator sends these entries as text with each task and they win over the executor's own: a secret must never be
//! a configuration entry. Extensions (objects) do not travel; each side installs its own.

use std::sync::Arc;

use ballista_core::config::{
    BALLISTA_BROADCAST_JOIN_THRESHOLD_BYTES, BALLISTA_CLIENT_GRPC_CONNECT_TIMEOUT_SECONDS,
    BALLISTA_CLIENT_GRPC_HTTP2_KEEPALIVE_INTERVAL_SECONDS, BALLISTA_CLIENT_GRPC_MAX_MESSAGE_SIZE,
    BALLISTA_CLIENT_GRPC_TIMEOUT_SECONDS, BALLISTA_CLIENT_IO_RETRIES_TIMES, BALLISTA_CLIENT_IO_RETRY_WAIT_TIME_MS,
    BALLISTA_SHUFFLE_COMPRESSION_CODEC,
};
use ballista_core::extension::{
    SessionConfigExt, ballista_aggregate_functions, ballista_scalar_functions, ballista_window_functions,
};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::optimizer::{Analyzer, AnalyzerRule, OptimizerRule};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::prelude::SessionConfig;

use townlake_connectors::pushdown::PushIntoSources;

use crate::filter_pushdown::guarded;
use crate::network::{self, MAX_MESSAGE_BYTES};
use crate::semi_joins::SemiJoinsDown;
use crate::sql_types::{SqlTypes, ZONE};
use crate::subqueries::ScalarSubqueries;
use crate::text_as_time::TextAsTime;

/// See [`with_broadcast_limit`]. Each task builds the hash table anew, so a large one costs more than an exchange; TPC-H at
/// scale 1 took 7.3 s with 10 MB, 7.1 s with 40 MB and 7.7 s with Ballista's 128 MB.
const BROADCAST_LIMIT: usize = 40_000_000;

/// The configuration of every session, on coordinator and executor. `target_partitions` is the number of partitions of an
/// exchange and of a scan.
pub fn base_config(target_partitions: usize) -> SessionConfig {
    let mut config = SessionConfig::new_with_ballista()
        .with_target_partitions(target_partitions.max(1))
        .with_ballista_adaptive_query_planner(false)
        .with_ballista_override_create_grpc_client_endpoint(Arc::new(|endpoint| {
            Ok(network::internal_endpoint(endpoint))
        }))
        .set_usize(BALLISTA_CLIENT_GRPC_MAX_MESSAGE_SIZE, MAX_MESSAGE_BYTES)
        .set_u64(BALLISTA_CLIENT_GRPC_CONNECT_TIMEOUT_SECONDS, network::CONNECT_TIMEOUT.as_secs())
        .set_u64(BALLISTA_CLIENT_GRPC_TIMEOUT_SECONDS, 5)
        .set_u64(BALLISTA_CLIENT_GRPC_HTTP2_KEEPALIVE_INTERVAL_SECONDS, 5)
        .set_str(BALLISTA_SHUFFLE_COMPRESSION_CODEC, "none")
        // A fetch that fails is tried twice more, half a second apart; then the stage that made the data runs again.
        .set_u64(BALLISTA_CLIENT_IO_RETRIES_TIMES, 2)
        .set_u64(BALLISTA_CLIENT_IO_RETRY_WAIT_TIME_MS, 500);
    let options = config.options_mut();
    options.optimizer.prefer_hash_join = true;
    options.execution.parquet.pushdown_filters = false;
    options.execution.parquet.schema_force_view_types = true;
    options.sql_parser.map_string_types_to_utf8view = true;
    options.execution.time_zone = Some(ZONE.to_string());
    with_broadcast_limit(config, BROADCAST_LIMIT)
}

/// Up to which estimated size, in bytes, the build side of a join is sent whole to every task.
///
/// DataFusion and Ballista have a limit each, and they must be the same: a join that DataFusion has planned over two exchanges
/// and Ballista broadcasts all the same pays for both.
pub fn with_broadcast_limit(config: SessionConfig, bytes: usize) -> SessionConfig {
    let mut config = config.set_usize(BALLISTA_BROADCAST_JOIN_THRESHOLD_BYTES, bytes);
    config.options_mut().optimizer.hash_join_single_partition_threshold = bytes;
    config
}

/// The logical optimizer rules: DataFusion's with Ballista's in front, without which NOT IN becomes a join in one task, and
/// ours: without the first, scalar subqueries do not become joins that are right; the last moves semi joins down.
pub fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let mut rules = ballista_core::optimizer::ballista_default_optimizer_rules();
    rules.insert(0, Arc::new(ScalarSubqueries));
    rules.push(Arc::new(SemiJoinsDown));
    rules
}

/// The physical optimizer rules: DataFusion's with ours between them. `push`: sources get more to do than filters.
pub fn physical_rules(push: bool) -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = crate::joins::physical_rules();
    if push {
        // Sides of joins are chosen by then, and distribution is not planned yet.
        let place = rules.iter().position(|rule| rule.name() == "join_selection").map_or(0, |index| index + 1);
        rules.insert(place, Arc::new(PushIntoSources));
    }
    guarded(rules)
}

/// DataFusion's rules of types, behind one of ours.
fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let mut rules = Analyzer::new().rules;
    rules.insert(0, Arc::new(TextAsTime));
    rules
}

/// The state of a session with our functions and rules, to which the coordinator adds catalogs, an id and its own rules.
pub fn state_builder(config: SessionConfig, runtime: Arc<RuntimeEnv>) -> SessionStateBuilder {
    SessionStateBuilder::new()
        .with_default_features()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_type_planner(Arc::new(SqlTypes))
        .with_analyzer_rules(analyzer_rules())
        .with_optimizer_rules(optimizer_rules())
        .with_physical_optimizer_rules(physical_rules(true))
        .with_scalar_functions(ballista_scalar_functions())
        .with_aggregate_functions(ballista_aggregate_functions())
        .with_window_functions(ballista_window_functions())
}

/// [`state_builder`] without additions.
pub fn state(config: SessionConfig, runtime: Arc<RuntimeEnv>) -> SessionState {
    state_builder(config, runtime).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ballista_core::extension::SessionConfigHelperExt;

    #[test]
    fn the_choices_survive_the_way_to_the_executor() {
        let sent = base_config(7).to_key_value_pairs();
        let config = SessionConfig::new_with_ballista().update_from_key_value_pair(&sent);
        let options = config.options();
        assert_eq!(config.target_partitions(), 7);
        assert!(!config.ballista_adaptive_query_planner_enabled());
        assert!(options.optimizer.prefer_hash_join);
        assert!(!options.execution.parquet.pushdown_filters);
        assert!(!options.optimizer.enable_dynamic_filter_pushdown);
        assert!(!options.optimizer.enable_join_dynamic_filter_pushdown);
        assert!(!options.optimizer.enable_round_robin_repartition);
    }
}
