//! Query jobs: for views, and for what the Storage API cannot read. Each has a guard of its cost.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};
use townlake_common::{Error, ErrorCode, Result};

use super::client::{Client, Refused};
use super::error::Reason;
use super::recipe::{Job, Recipe, Way};

/// How long one call waits for the end of a job.
const WAIT: Duration = Duration::from_secs(10);
/// A server that answers at once that a job still runs is asked again after a pause.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the end of an abandoned job may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// A job that has ended well.
#[derive(Debug, Clone)]
pub(crate) struct DoneJob {
    pub job: Job,
    /// Project, dataset and name of the table of its rows.
    pub destination: Option<(String, String, String)>,
}

/// A job on the server. Dropped before its end, it is cancelled there.
pub(crate) struct RunningJob {
    client: Arc<Client>,
    job: Job,
    doing: String,
    runtime: Handle,
    is_over: bool,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    configuration: Configuration,
    #[serde(default)]
    status: State,
    #[serde(default)]
    statistics: Statistics,
}

#[derive(Default, Deserialize)]
struct Configuration {
    #[serde(default)]
    query: Query,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Query {
    destination_table: Option<TableReference>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TableReference {
    project_id: String,
    dataset_id: String,
    table_id: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct State {
    error_result: Option<Reason>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Statistics {
    total_bytes_processed: Option<String>,
    query: QueryStatistics,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct QueryStatistics {
    total_bytes_processed: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Progress {
    #[serde(default)]
    job_complete: bool,
}

/// The bytes that the scan's job would read, by a dry run, which costs nothing.
///
/// Errors: `RESOURCE_EXHAUSTED` when they are more than the configuration allows.
pub(crate) async fn dry_run(client: &Client, recipe: &Recipe) -> Result<u64> {
    let Way::Job(job) = &recipe.way else { return Err(Error::internal("a table is read without a job")) };
    let doing = format!("measure the query of view {}.{}", recipe.dataset, recipe.table);
    let mut body =
        json!({"configuration": {"dryRun": true, "query": {"query": recipe.select(), "useLegacySql": false}}});
    if !job.location.is_empty() {
        body["jobReference"] = json!({"projectId": client.settings.billing_project, "location": job.location});
    }
    let answer: Answer = match client.post(&doing, &client.settings.billing_project, &["jobs"], &[], &body).await? {
        Ok(answer) => answer,
        Err(refused) => return Err(client.server().refused(&doing, refused.status, &refused.body)),
    };
    if let Some(reason) = answer.status.error_result {
        return Err(client.server().because(&doing, None, &reason));
    }
    let Statistics { total_bytes_processed, query } = answer.statistics;
    let bytes = total_bytes_processed.or(query.total_bytes_processed).and_then(|bytes| bytes.parse().ok());
    let bytes = bytes.ok_or_else(|| client.server().corrupt("a dry run that measures nothing"))?;
    guard(client, &recipe.name(), bytes)?;
    Ok(bytes)
}

/// Refuses what would read more bytes than the configuration allows.
pub(crate) fn guard(client: &Client, table: &str, bytes: u64) -> Result<()> {
    match client.settings.maximum_bytes {
        Some(most) if bytes > most => {
            let message =
                format!("table {table}: BigQuery would read {bytes} bytes, and `maximum_bytes_billed` is {most}");
            Err(Error::new(ErrorCode::ResourceExhausted, message).with_hint(client.server().guard_hint()))
        }
        _ => Ok(()),
    }
}

impl RunningJob {
    /// Starts the job of a scan. In a second try the job of the first is taken up.
    pub async fn start(client: &Arc<Client>, recipe: &Recipe) -> Result<Self> {
        let Way::Job(job) = &recipe.way else { return Err(Error::internal("a table is read without a job")) };
        let project = &client.settings.billing_project;
        let mut query = json!({"query": recipe.select(), "useLegacySql": false});
        if let Some(most) = client.settings.maximum_bytes {
            query["maximumBytesBilled"] = json!(most.to_string());
        }
        let mut reference = json!({"projectId": project, "jobId": job.id});
        if !job.location.is_empty() {
            reference["location"] = json!(job.location);
        }
        let timeout_ms = client.settings.job_timeout.as_millis().to_string();
        let labels = json!({"townlake_query": recipe.query_id});
        let body = json!({
            "jobReference": reference,
            "configuration": {"query": query, "labels": labels, "jobTimeoutMs": timeout_ms},
        });
        let running = Self {
            client: Arc::clone(client),
            job: job.clone(),
            doing: recipe.reading(),
            runtime: Handle::current(),
            is_over: false,
        };
        match client.post::<Value>(&running.doing, project, &["jobs"], &[], &body).await? {
            Ok(_) | Err(Refused { status: 409, .. }) => Ok(running),
            Err(refused) => {
                let error = client.server().refused(&running.doing, refused.status, &refused.body);
                running.over();
                Err(error)
            }
        }
    }

    /// Waits for its end.
    pub async fn finish(self) -> Result<DoneJob> {
        let Self { client, job, doing, .. } = &self;
        let limit = client.settings.job_timeout;
        let deadline = Instant::now() + limit;
        let project = &client.settings.billing_project;
        let located = |mut parameters: Vec<(&'static str, String)>| {
            if !job.location.is_empty() {
                parameters.push(("location", job.location.clone()));
            }
            parameters
        };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(client.server().timed_out(doing, limit.as_secs(), Some("job_timeout")));
            }
            let wait = left.min(WAIT).as_millis().max(1).to_string();
            let parameters = located(vec![("maxResults", "0".to_string()), ("timeoutMs", wait)]);
            let progress = client.get::<Progress>(doing, project, &["queries", &job.id], &parameters).await?;
            match progress {
                None => return Err(client.server().corrupt("a job that is gone")),
                Some(Progress { job_complete: true }) => break,
                Some(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        let answer = client.get::<Answer>(doing, project, &["jobs", &job.id], &located(Vec::new())).await?;
        let answer = answer.ok_or_else(|| client.server().corrupt("a job that is gone"))?;
        if let Some(reason) = &answer.status.error_result {
            let error = client.server().because(doing, None, reason);
            self.over();
            return Err(error);
        }
        let destination = answer.configuration.query.destination_table;
        let destination = destination.map(|table| (table.project_id, table.dataset_id, table.table_id));
        let done = DoneJob { job: job.clone(), destination };
        self.over();
        Ok(done)
    }

    fn over(mut self) {
        self.is_over = true;
    }
}

impl Drop for RunningJob {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let (client, job) = (Arc::clone(&self.client), self.job.clone());
        self.runtime.spawn(async move {
            let project = &client.settings.billing_project;
            let path = ["jobs", &job.id, "cancel"];
            let body = json!({});
            let parameters: &[_] = match job.location.is_empty() {
                true => &[],
                false => &[("location", job.location.clone())],
            };
            let cancelled =
                timeout(FAREWELL, client.post::<Value>("cancel a job", project, &path, parameters, &body)).await;
            if !matches!(cancelled, Ok(Ok(Ok(_)))) {
                tracing::debug!(catalog = %client.server().catalog, "the server could not be asked to cancel a job");
            }
        });
    }
}
