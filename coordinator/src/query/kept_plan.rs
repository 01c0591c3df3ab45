//! The plan that `GetFlightInfo` made, kept for the `DoGet` that follows it: such a statement is planned once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::datatypes::SchemaRef;
use townlake_common::{Principal, QueryContext, QueryId};

use super::planner::Planned;
use super::settings::Effective;

/// How long a plan is good for. It reads the tables as they stood when it was made, and `now()` is that moment: a client that
/// comes back later gets a new one.
const FRESH: Duration = Duration::from_secs(10);

/// A logical plan of one query, and what it was made for.
pub struct KeptPlan {
    context: Arc<QueryContext>,
    settings: Effective,
    planned: Planned,
    schema: SchemaRef,
    made: Instant,
}

impl KeptPlan {
    /// What a plan counts for among the results that wait, in bytes: an estimate, tables' metadata is shared.
    pub const BYTES: usize = 64 << 10;

    pub(super) fn new(context: Arc<QueryContext>, settings: Effective, planned: Planned, schema: SchemaRef) -> Self {
        Self { context, settings, planned, schema, made: Instant::now() }
    }

    /// Whether it is fresh, this principal's, and would be made under the same settings now.
    fn is_usable(&self, principal: &Principal, settings: &Effective) -> bool {
        self.made.elapsed() < FRESH && self.context.principal == *principal && self.settings == *settings
    }
}

/// An execution whose id the client was told before it begins.
pub struct Promised {
    id: QueryId,
    plan: Option<KeptPlan>,
}

impl Promised {
    /// One under a fresh id, with the plan that was made for it, if any.
    pub fn new(plan: Option<KeptPlan>) -> Self {
        let id = plan.as_ref().map_or_else(QueryId::generate, |plan| plan.context.id.clone());
        Self { id, plan }
    }

    /// The id.
    pub fn id(&self) -> &QueryId {
        &self.id
    }

    /// What it is counted as while it waits, in bytes, besides its statement.
    pub fn size(&self) -> usize {
        if self.plan.is_some() { KeptPlan::BYTES } else { 0 }
    }

    /// The context to run in, and the plan with its columns if it is still good.
    ///
    /// The context is the one that the plan's tables were resolved in: what it pinned holds for the execution.
    pub(super) fn redeem(
        self,
        principal: &Principal,
        settings: &Effective,
    ) -> (Arc<QueryContext>, Option<(Planned, SchemaRef)>) {
        let usable = self.plan.filter(|plan| plan.is_usable(principal, settings));
        match usable {
            Some(KeptPlan { context, planned, schema, .. }) => (context, Some((planned, schema))),
            None => (QueryContext::new(self.id, principal.clone()), None),
        }
    }
}
