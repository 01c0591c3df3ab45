//! `EXPLAIN` and `EXPLAIN ANALYZE`: what will be done, where, and what was done.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::JobId;
use ballista_scheduler::planner::{DefaultDistributedPlanner, DistributedPlanner};
use datafusion::arrow::array::StringArray;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use futures::{FutureExt, StreamExt};
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::error::from_datafusion;
use townlake_lake::{LoadedTable, RowCommand, merges_on_read};

use super::changes::PlannedChange;
use super::here::HerePlan;
use super::parameters::bind;
use super::placement::{Placement, placement};
use super::planner::Planned;
use super::registry::Tracked;
use super::rows::{Source, one_batch};
use super::service::{QueryService, Run};
use super::statement::Statement;
use crate::scheduling::StageStats;

/// Two columns: what a text is, and the text.
pub(super) fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![text("plan_type"), text("plan")]))
}

type Texts = Vec<(String, String)>;

impl Run<'_> {
    pub(super) async fn explain(&self, statement: &Statement, analyze: bool, verbose: bool) -> Result<Source> {
        let planner = self.planner();
        let (planned, target) = match statement {
            Statement::Query(ast) => (planner.plan(ast).await?, None),
            _ if analyze => {
                return Err(Error::new(ErrorCode::NotSupported, "EXPLAIN ANALYZE of a write is not supported")
                    .with_hint("EXPLAIN ANALYZE the query alone"));
            }
            Statement::Insert { .. } => match self.service.plan_source_insert(&planner, statement).await? {
                Some((planned, target)) => (planned, Some(format!("copy into {}, one transaction", target.name))),
                None => {
                    let (planned, _, table) = self.service.plan_insert(&planner, statement).await?;
                    (planned, Some(append(&table.full_name())))
                }
            },
            Statement::Change(change) => {
                let PlannedChange { planned, target, .. } = self.service.plan_change(&planner, change).await?;
                (planned, Some(change_text(target.loaded(), change.command)?))
            }
            Statement::CreateTable(create) => {
                let name = planner.current.table(create.name.parts())?;
                (self.service.plan_create_as(&planner, create).await?, Some(append(&name.to_string())))
            }
            _ => return Err(Error::internal("this statement has no plan")),
        };
        let Planned { plan, state, catalogs } = planned;
        self.tracked.set_catalogs(catalogs);
        let plan = bind(plan, self.parameters.as_ref())?;
        let optimized = state.optimize(&plan).map_err(|error| from_datafusion(&error))?;
        let physical = state
            .query_planner()
            .create_physical_plan(&optimized, &state)
            .await
            .map_err(|error| from_datafusion(&error))?;
        if analyze {
            return Ok(self.analyze(physical, state, verbose));
        }
        let mut texts = Texts::new();
        if verbose {
            texts.push(("initial_logical_plan".to_string(), plan.display_indent().to_string()));
        }
        if let Some(target) = target {
            texts.push(("write".to_string(), target));
        }
        texts.extend(self.plans(&optimized, &physical, &state, verbose));
        let cut = self.tracked.context.cut();
        if !cut.is_empty() {
            texts.push(("cut".to_string(), cut.to_string()));
        }
        Ok(Source::batch(batch(texts)?))
    }

    fn plans(
        &self,
        logical: &LogicalPlan,
        physical: &Arc<dyn ExecutionPlan>,
        state: &SessionState,
        verbose: bool,
    ) -> Texts {
        let mut texts = vec![
            ("logical_plan".to_string(), logical.display_indent().to_string()),
            ("physical_plan".to_string(), displayable(physical.as_ref()).indent(verbose).to_string()),
        ];
        match placement(physical, self.settings.always_cluster) {
            Placement::Cluster => texts.extend(stages(physical, state, verbose)),
            Placement::Memory => texts.push(("stages".to_string(), "none: runs in the coordinator".to_string())),
            Placement::Recursive => {
                texts.push(("stages".to_string(), "none: a recursive query runs in the coordinator".to_string()));
            }
            Placement::Local => {
                texts.push((
                    "stages".to_string(),
                    "none: one tiny scan, which the coordinator reads itself".to_string(),
                ));
            }
        }
        texts
    }

    /// Runs the plan when the text is asked for, and throws its rows away.
    fn analyze(&self, physical: Arc<dyn ExecutionPlan>, state: SessionState, verbose: bool) -> Source {
        let (service, tracked) = (Arc::clone(self.service), Arc::clone(&self.tracked));
        let always_cluster = self.settings.always_cluster;
        let run = async move {
            let texts = analyze(service, tracked, physical, state, always_cluster, verbose).await?;
            Ok(one_batch(batch(texts)?))
        };
        Source::Lazy(run.boxed())
    }
}

fn append(table: &str) -> String {
    format!("append to {table}: data files by each task, one commit")
}

fn change_text(table: &LoadedTable, command: RowCommand) -> Result<String> {
    let how = match merges_on_read(table, command)? {
        true => "merge-on-read: position delete files and new rows by each task, one commit",
        false => "copy-on-write: the files that lose rows are then written anew, one commit",
    };
    Ok(format!("change {}, {how}", table.full_name()))
}

async fn analyze(
    service: Arc<QueryService>,
    tracked: Arc<Tracked>,
    physical: Arc<dyn ExecutionPlan>,
    state: SessionState,
    always_cluster: bool,
    verbose: bool,
) -> Result<Texts> {
    let here = placement(&physical, always_cluster) != Placement::Cluster;
    let began = Instant::now();
    // The plan that runs is the one whose metrics are shown.
    let (physical, mut rows) = if here {
        let plan = HerePlan::new(physical, &tracked)?;
        let shown = Arc::clone(&plan.plan);
        (shown, service.here.run(&tracked, plan, state.task_ctx()).await?)
    } else {
        let run = Arc::clone(&service).run_plan(Arc::clone(&tracked), Arc::clone(&physical), state, always_cluster);
        (physical, run.await?)
    };
    let mut count = 0;
    while let Some(batch) = rows.next().await {
        count += batch.map_err(|error| from_datafusion(&error))?.num_rows();
    }
    drop(rows);
    let mut texts = vec![("total".to_string(), format!("{count} rows in {}", time(began.elapsed())))];
    if here {
        let plan = DisplayableExecutionPlan::with_metrics(physical.as_ref()).indent(verbose).to_string();
        texts.push(("coordinator".to_string(), plan));
        return Ok(texts);
    }
    for stage in service.scheduler.stages(&tracked.context.id).await {
        texts.push((format!("stage {}", stage.stage), stage_text(&stage)));
    }
    Ok(texts)
}

fn stage_text(stage: &StageStats) -> String {
    let inputs = match stage.inputs.as_slice() {
        [] => String::new(),
        inputs => {
            let inputs: Vec<_> = inputs.iter().map(ToString::to_string).collect();
            format!(", reads stage {}", inputs.join(", "))
        }
    };
    let mut text = format!(
        "{} rows, {} bytes, {} in {} tasks over {} partitions{inputs}\n",
        stage.rows,
        stage.bytes,
        time(Duration::from_millis(stage.elapsed_ms)),
        stage.tasks,
        stage.partitions,
    );
    if stage.operators.is_empty() {
        text.push_str(&stage.plan);
        return text;
    }
    for operator in &stage.operators {
        let metrics: Vec<_> = operator.metrics.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let indent = "  ".repeat(operator.depth);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{indent}{}, metrics=[{}]", operator.description, metrics.join(", "));
    }
    text
}

/// The stages into which Ballista's planner cuts the plan: each is run by several tasks, and its output is exchanged.
fn stages(physical: &Arc<dyn ExecutionPlan>, state: &SessionState, verbose: bool) -> Texts {
    let job = JobId::new("explain".to_string());
    let planned =
        DefaultDistributedPlanner::new().plan_query_stages(&job, Arc::clone(physical), state.config_options());
    match planned {
        Ok(stages) => {
            let text = |stage: &dyn ExecutionPlan| displayable(stage).indent(verbose).to_string();
            stages.iter().map(|stage| (format!("stage {}", stage.stage_id()), text(stage.as_ref()))).collect()
        }
        Err(error) => {
            let error = from_datafusion(&datafusion::error::DataFusionError::External(Box::new(error)));
            vec![("stages".to_string(), format!("the plan cannot be cut into stages: {error}"))]
        }
    }
}

fn time(duration: Duration) -> String {
    format!("{:.3} s", duration.as_secs_f64())
}

fn batch(texts: Texts) -> Result<RecordBatch> {
    let (kinds, plans): (Vec<_>, Vec<_>) =
        texts.into_iter().map(|(kind, plan)| (kind, plan.trim_end().to_string())).unzip();
    let columns: Vec<datafusion::arrow::array::ArrayRef> =
        vec![Arc::new(StringArray::from(kinds)), Arc::new(StringArray::from(plans))];
    RecordBatch::try_new(schema(), columns)
        .map_err(|error| Error::internal("a plan could not be shown").with_source(error))
}
