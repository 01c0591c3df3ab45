//! Starts an executor, and ends it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow_flight::flight_service_server::FlightServiceServer;
use ballista_core::serde::protobuf::executor_grpc_server::ExecutorGrpcServer;
use ballista_core::serde::protobuf::{
    ExecutorRegistration, ExecutorResource, ExecutorSpecification, executor_resource,
};
use ballista_core::{BALLISTA_PROTOCOL_VERSION, ConfigProducer, RuntimeProducer};
use ballista_executor::executor::Executor as BallistaExecutor;
use tokio::net::TcpListener;
use tokio::sync::{OnceCell, RwLock};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use townlake_cluster::{BUILD, Membership, Node, Role, Seat, State};
use townlake_common::config::{Config, ExecutorConfig, StoreConfig};
use townlake_common::{Error, ErrorCode, Result};
use townlake_connectors::share::ProcessRole;
use townlake_connectors::{FindDefinition, SourceConnections};
use townlake_engine::network::{MAX_LAUNCH_BYTES, MAX_MESSAGE_BYTES, split_address};
use townlake_engine::standing::Follower;
use townlake_engine::{error, functions, runtime, session};
use townlake_lake::LakeObjects;
use townlake_proto::control::executor_server::ExecutorServer;
use townlake_store::Store;

use crate::clients::ClientPool;
use crate::directories::Directories;
use crate::ending::Ending;
use crate::exchange::{ExchangeEngine, OutputMemory, Outputs};
use crate::flight::GuardedFlight;
use crate::grpc::{LookService, TaskService};
use crate::health::{self, Health};
use crate::memory::TaskMemory;
use crate::metrics::{Metrics, NoCollector};
use crate::outbox::{Limits, Outbox};
use crate::report::GrpcDelivery;
use crate::runner::Runner;

/// How long the last statuses of an executor that stops may take.
const LAST_REPORTS: Duration = Duration::from_secs(3);

/// One executor of a cluster.
pub struct Executor;

/// A running executor. Dropping it stops it without a word, as a kill would.
pub struct ExecutorHandle {
    addr: SocketAddr,
    http_addr: SocketAddr,
    node: Node,
    drain_limit: Duration,
    seat: Arc<RwLock<Option<Box<dyn Seat>>>>,
    runner: Runner,
    outbox: Outbox,
    outputs: Arc<Outputs>,
    doors: Vec<JoinHandle<()>>,
    shutdown: DropGuard,
    _tasks: CancelTasks,
}

/// Cancels what runs when it is dropped.
struct CancelTasks(Runner);

impl Drop for CancelTasks {
    fn drop(&mut self) {
        self.0.registry().cancel_all();
    }
}

impl Executor {
    /// Starts an executor as `config` says and puts it on the member list.
    ///
    /// Errors: `CONFIG_INVALID` for an address that is not loopback or taken, a directory that cannot be used or a catalog
    /// that makes no sense; `MEMBERSHIP_UNAVAILABLE`.
    pub async fn start(config: &Config, membership: Arc<dyn Membership>) -> Result<ExecutorHandle> {
        let settings = &config.executor;
        require_loopback(settings.listen)?;
        let exchange_memory = settings.exchange_memory()?;
        let directories = Directories::open(&settings.spill_dir)?;
        let memory = OutputMemory::new(usize::try_from(exchange_memory.as_u64()).unwrap_or(usize::MAX));
        let outputs = Arc::new(Outputs { directories, memory });
        let (listener, addr) = bind("executor.listen", settings.listen).await?;
        let (http, http_addr) = bind("executor.http", settings.http).await?;
        let node = node(settings, addr)?;
        let slots = node.slots;
        tracing::info!(address = %addr, http = %http_addr, incarnation = node.incarnation, slots, "executor listens");

        let parts = Parts::build(config, &node, &outputs)?;
        let shutdown = CancellationToken::new();
        let following = shutdown.clone();
        let seat = Arc::new(RwLock::new(None));
        let health = Health {
            seat: Arc::clone(&seat),
            runner: parts.runner.clone(),
            outbox: parts.outbox.clone(),
            memory: parts.memory,
            outputs: Arc::clone(&outputs),
            metrics: Arc::clone(&parts.metrics),
            sources: Arc::clone(&parts.sources),
        };
        let ending = Ending::new(Arc::clone(parts.runner.registry()), Arc::clone(&outputs), parts.outbox.clone());
        tokio::spawn(ending.clone().follow(Arc::clone(&membership), config.cluster.lease_ttl, shutdown.clone()));
        let services = Services {
            tasks: TaskService::new(parts.runner.clone(), ending),
            look: LookService::new(parts.runner.clone(), parts.outbox.clone(), &node.incarnation),
            flight: GuardedFlight::new(
                path_text(outputs.directories.shuffle())?,
                Arc::clone(&outputs.memory),
                parts.metrics,
            ),
        };
        let doors =
            vec![serve_internal(listener, services, shutdown.clone()), serve_http(http, health, shutdown.clone())];
        let handle = ExecutorHandle {
            addr,
            http_addr,
            node: node.clone(),
            drain_limit: settings.drain_limit,
            seat,
            _tasks: CancelTasks(parts.runner.clone()),
            runner: parts.runner,
            outbox: parts.outbox,
            outputs,
            doors,
            shutdown: shutdown.drop_guard(),
        };
        *handle.seat.write().await = Some(membership.join(node).await?);
        tokio::spawn(parts.shares.follow(membership, following));
        Ok(handle)
    }
}

impl ExecutorHandle {
    /// Where tasks and exchange are served.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where health and metrics are served.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// The incarnation id of this start.
    pub fn incarnation(&self) -> &str {
        &self.node.incarnation
    }

    /// Ends in good order: takes no new task, hands back what has not started, finishes what runs, serves its output until
    /// the coordinators have removed it, and leaves. All of it within `executor.drain_limit`; what runs then is handed back.
    pub async fn drain(self) {
        let deadline = tokio::time::Instant::now() + self.drain_limit;
        let left = || deadline.saturating_duration_since(tokio::time::Instant::now());
        tracing::info!(incarnation = self.node.incarnation, tasks = self.runner.registry().len(), "executor drains");
        // First of all it takes no more: those who are told may be slow to hear it.
        self.runner.drain();
        let draining = Node { state: State::Draining.into(), ..self.node.clone() };
        if let Some(seat) = self.seat.read().await.as_ref()
            && let Err(error) = seat.update(draining).await
        {
            tracing::warn!(code = %error.code(), "the member list does not know that this executor drains");
        }
        if self.runner.wait_idle(left()).await {
            self.outbox.flush(left()).await;
            while !self.outputs.is_empty().await && !left().is_zero() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        self.stop().await;
    }

    /// Ends now: running tasks are cancelled and handed back, and the executor leaves.
    pub async fn stop(self) {
        self.runner.drain();
        self.runner.registry().cancel_all();
        self.runner.wait_idle(LAST_REPORTS).await;
        self.outbox.flush(LAST_REPORTS).await;
        if let Some(seat) = self.seat.write().await.take()
            && let Err(error) = seat.leave().await
        {
            tracing::info!(code = %error.code(), "the seat was not left: it ends with its lease");
        }
        drop(self.shutdown);
        for mut door in self.doors {
            if tokio::time::timeout(Duration::from_secs(1), &mut door).await.is_err() {
                door.abort();
            }
        }
        tracing::info!(incarnation = self.node.incarnation, "executor stopped");
    }
}

/// What an executor is made of.
struct Parts {
    runner: Runner,
    outbox: Outbox,
    memory: Arc<TaskMemory>,
    metrics: Arc<Metrics>,
    sources: Arc<SourceConnections>,
    shares: Follower,
}

impl Parts {
    fn build(config: &Config, node: &Node, outputs: &Outputs) -> Result<Self> {
        let settings = &config.executor;
        let slots = settings.slots.max(1);
        let lake = LakeObjects::from_config(&config.catalogs)?;
        let connections = SourceConnections::with_definitions(&config.catalogs, Some(found_in(&config.store)))?;
        let sources = Arc::clone(&connections);
        let shares = Follower::new(Arc::clone(&sources), &node.incarnation, ProcessRole::Executor);
        let memory = settings.memory.as_u64();
        let directories = &outputs.directories;
        let base = runtime::runtime_env(&lake, memory, directories.spill()).map_err(|e| error::from_datafusion(&e))?;
        let for_tasks = memory - settings.exchange_memory()?.as_u64();
        let task_memory = Arc::new(TaskMemory::new(Arc::clone(&base), for_tasks, slots));
        // Plans are decoded with this one; tasks run with the one of TaskMemory. Both share stores and caches.
        let runtimes: RuntimeProducer = Arc::new(move |_| Ok(Arc::clone(&base)));
        let configs: ConfigProducer =
            Arc::new(move || session::base_config(slots).with_extension(Arc::clone(&connections)));
        let registration = registration(node)?;
        let engine = Arc::new(ExchangeEngine::new(&registration.id, Arc::clone(&outputs.memory), ClientPool::start()));
        let metrics = Arc::new(Metrics::new()?);
        let executor = BallistaExecutor::new(
            registration,
            &path_text(directories.shuffle())?,
            runtimes,
            configs,
            functions::registry(),
            Arc::new(NoCollector),
            slots,
            Arc::clone(&engine) as _,
        )
        .with_session_runtime_cache(Some(Arc::clone(&task_memory) as _));
        let outbox = Outbox::new(Arc::new(GrpcDelivery::new(&node.incarnation)), &node.incarnation, Limits::default());
        let runner = Runner::start(executor, engine, outbox.clone(), Arc::clone(&metrics))?;
        Ok(Self { runner, outbox, memory: task_memory, metrics, sources, shares })
    }
}

/// What the coordinators' store keeps of a catalog that `CREATE CATALOG` made. It is opened when the first is asked for.
fn found_in(store: &StoreConfig) -> FindDefinition {
    let (url, opened) = (store.url.clone(), Arc::new(OnceCell::<Store>::new()));
    Arc::new(move |name| {
        let (url, opened) = (url.clone(), Arc::clone(&opened));
        Box::pin(async move {
            let store = opened.get_or_try_init(|| Store::open_to_read(&url)).await.map_err(|error| {
                let message =
                    format!("catalog {name} is not in this executor's configuration, and its store cannot be opened");
                Error::new(ErrorCode::ConfigInvalid, message)
                    .with_hint("give executors the [store] of the coordinators: it has the catalogs of CREATE CATALOG")
                    .with_source(error)
            })?;
            store.catalog(&name).await
        })
    })
}

/// Until mutual TLS comes, whoever reaches this door can run plans: it must not leave the machine.
fn require_loopback(listen: SocketAddr) -> Result<()> {
    if listen.ip().is_loopback() {
        return Ok(());
    }
    let message = format!("executor.listen is {listen}, and traffic between nodes is loopback only in this version");
    Err(Error::new(ErrorCode::ConfigInvalid, message).with_hint("listen on 127.0.0.1"))
}

async fn bind(key: &str, addr: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let fail = |error| Error::new(ErrorCode::ConfigInvalid, format!("{key}: cannot listen on {addr}: {error}"));
    let listener = TcpListener::bind(addr).await.map_err(fail)?;
    let addr = listener.local_addr().map_err(fail)?;
    Ok((listener, addr))
}

fn node(settings: &ExecutorConfig, addr: SocketAddr) -> Result<Node> {
    let address = settings.advertise.clone().unwrap_or_else(|| addr.to_string());
    if split_address(&address).is_none() {
        return Err(Error::new(ErrorCode::ConfigInvalid, "executor.advertise must be host:port"));
    }
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Node {
        incarnation: townlake_cluster::incarnation(),
        role: Role::Executor.into(),
        state: State::Active.into(),
        address,
        slots: u32::try_from(settings.slots.max(1)).unwrap_or(u32::MAX),
        memory_bytes: settings.memory.as_u64(),
        build: BUILD.to_string(),
        started_at_ms: i64::try_from(started.as_millis()).unwrap_or(i64::MAX),
    })
}

fn registration(node: &Node) -> Result<ExecutorRegistration> {
    let (host, port) = split_address(&node.address).ok_or_else(|| Error::internal("a node without an address"))?;
    let vcores = ExecutorResource { resource: Some(executor_resource::Resource::Vcores(node.slots)) };
    Ok(ExecutorRegistration {
        id: node.incarnation.clone(),
        host: Some(host.to_string()),
        port: u32::from(port),
        grpc_port: u32::from(port),
        specification: Some(ExecutorSpecification { resources: vec![vcores] }),
        os_info: None,
        ballista_protocol_version: BALLISTA_PROTOCOL_VERSION,
    })
}

/// Ballista takes its directory as text.
fn path_text(path: &std::path::Path) -> Result<String> {
    let text = path.to_str().map(str::to_string);
    text.ok_or_else(|| Error::new(ErrorCode::ConfigInvalid, "executor.spill_dir must be valid UTF-8"))
}

/// What the internal door offers.
struct Services {
    tasks: TaskService,
    look: LookService,
    flight: GuardedFlight,
}

fn serve_internal(listener: TcpListener, services: Services, shutdown: CancellationToken) -> JoinHandle<()> {
    let tasks = ExecutorGrpcServer::new(services.tasks).max_decoding_message_size(MAX_LAUNCH_BYTES);
    let look = ExecutorServer::new(services.look).max_encoding_message_size(MAX_MESSAGE_BYTES);
    let flight = FlightServiceServer::new(services.flight)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(tasks)
        .add_service(look)
        .add_service(flight);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned()).await {
            tracing::error!(?error, "the internal door of the executor failed");
        }
    })
}

fn serve_http(listener: TcpListener, health: Health, shutdown: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let served = axum::serve(listener, health::router(Arc::new(health)))
            .with_graceful_shutdown(shutdown.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(?error, "the health door of the executor failed");
        }
    })
}

#[cfg(test)]
mod tests {
    use ballista_core::serde::protobuf::executor_grpc_client::ExecutorGrpcClient;
    use ballista_core::serde::protobuf::{LaunchMultiTaskParams, MultiTaskDefinition, TaskId};
    use townlake_proto::control::LookParams;
    use townlake_proto::control::executor_client::ExecutorClient;

    use super::*;

    async fn get(addr: SocketAddr, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut connection = tokio::net::TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn starts_joins_drains_and_leaves() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.executor.listen = "127.0.0.1:0".parse().unwrap();
        config.executor.http = "127.0.0.1:0".parse().unwrap();
        config.executor.spill_dir = directory.path().to_path_buf();
        config.executor.slots = 3;
        let membership = townlake_cluster::EmbeddedMembership::new();
        let mut watch = membership.watch(Role::Executor).await.unwrap();
        let executor = Executor::start(&config, Arc::new(membership.clone())).await.unwrap();

        let mut seen = Vec::new();
        while !seen.iter().any(|node: &Node| node.incarnation == executor.incarnation()) {
            match watch.recv().await.unwrap() {
                townlake_cluster::NodeEvent::Listed(nodes) => seen.extend(nodes),
                townlake_cluster::NodeEvent::Changed(node) => seen.push(node),
                townlake_cluster::NodeEvent::Gone(_) => panic!("nobody left"),
            }
        }
        let node = seen.last().unwrap();
        assert_eq!((node.slots, node.address.as_str()), (3, executor.addr().to_string().as_str()));
        assert!(get(executor.http_addr(), "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get(executor.http_addr(), "/readyz").await.contains("ready"));
        assert!(get(executor.http_addr(), "/metrics").await.contains("townlake_executor_tasks_running 0"));

        // A job's output is served until its coordinator removes it.
        let output = directory.path().join("shuffle/job");
        std::fs::create_dir(&output).unwrap();
        let http = executor.http_addr();
        let draining = tokio::spawn(executor.drain());
        let townlake_cluster::NodeEvent::Changed(node) = watch.recv().await.unwrap() else { panic!("no change") };
        assert_eq!(node.state(), State::Draining);
        while !get(http, "/readyz").await.ends_with("draining") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::fs::remove_dir(&output).unwrap();
        draining.await.unwrap();
        assert!(matches!(watch.recv().await.unwrap(), townlake_cluster::NodeEvent::Gone(_)));
        assert!(tokio::net::TcpStream::connect(http).await.is_err());
        Directories::open(directory.path()).unwrap();
    }

    async fn started(folder: &std::path::Path, membership: &townlake_cluster::EmbeddedMembership) -> ExecutorHandle {
        let mut config = Config::default();
        config.executor.listen = "127.0.0.1:0".parse().unwrap();
        config.executor.http = "127.0.0.1:0".parse().unwrap();
        config.executor.spill_dir = folder.to_path_buf();
        config.cluster.lease_ttl = Duration::from_millis(500);
        Executor::start(&config, Arc::new(membership.clone())).await.unwrap()
    }

    fn launch(job: &str, plan: usize, endpoint: &str) -> LaunchMultiTaskParams {
        let task_ids = vec![TaskId::default()];
        let (job_id, session_id) = (job.to_string(), "session".to_string());
        let task = MultiTaskDefinition { job_id, session_id, task_ids, plan: vec![0; plan], ..Default::default() };
        LaunchMultiTaskParams { multi_tasks: vec![task], scheduler_endpoint: endpoint.to_string() }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_large_launch_fails_its_job_and_not_the_call() {
        let folder = tempfile::tempdir().unwrap();
        let executor = started(folder.path(), &townlake_cluster::EmbeddedMembership::new()).await;
        let client = ExecutorGrpcClient::connect(format!("http://{}", executor.addr())).await.unwrap();
        let mut client = client.max_encoding_message_size(MAX_LAUNCH_BYTES);
        let answer = client.launch_multi_task(launch("job", MAX_MESSAGE_BYTES + 1, "127.0.0.1:1")).await.unwrap();
        assert_eq!(answer.into_inner().failed_jobs, ["job"]);
        executor.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_says_what_it_has_and_ends_what_a_lost_coordinator_left() {
        let (folder, membership) = (tempfile::tempdir().unwrap(), townlake_cluster::EmbeddedMembership::new());
        let executor = started(folder.path(), &membership).await;
        let record = |port| Node {
            incarnation: townlake_cluster::incarnation(),
            role: Role::Coordinator.into(),
            address: format!("127.0.0.1:{port}"),
            ..Default::default()
        };
        let _stays = membership.join(record(1)).await.unwrap();
        let goes = membership.join(record(2)).await.unwrap();
        let registry = Arc::clone(executor.runner.registry());
        let attempt =
            |job: &str| crate::registry::Attempt { job: job.to_string(), stage: 1, stage_attempt: 0, task: 3 };
        let [kept, left] = [("kept", "127.0.0.1:1"), ("left", "127.0.0.1:2")].map(|(job, endpoint)| {
            std::fs::create_dir(folder.path().join("shuffle").join(job)).unwrap();
            registry.take_job(job, endpoint);
            registry.admit(attempt(job)).unwrap()
        });

        let mut client = ExecutorClient::connect(format!("http://{}", executor.addr())).await.unwrap();
        let asked =
            |incarnation: &str| LookParams { incarnation: incarnation.into(), coordinator: "127.0.0.1:2".into() };
        let seen = client.look(asked(executor.incarnation())).await.unwrap().into_inner();
        assert_eq!((seen.jobs.as_slice(), seen.tasks.len(), seen.reports.len()), (&["left".to_string()][..], 1, 0));
        assert_eq!((seen.tasks[0].job_id.as_str(), seen.tasks[0].task_id), ("left", 3));
        let other = client.look(asked("another")).await.unwrap_err();
        assert_eq!(other.code(), tonic::Code::FailedPrecondition);

        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!left.cancel.is_cancelled(), "its coordinator is there");
        drop(goes);
        tokio::time::timeout(Duration::from_secs(10), left.cancel.cancelled()).await.unwrap();
        drop(left);
        while folder.path().join("shuffle/left").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!kept.cancel.is_cancelled() && folder.path().join("shuffle/kept").exists());
        drop(kept);
        executor.stop().await;
    }

    #[test]
    fn a_door_to_the_network_is_refused() {
        let error = require_loopback("0.0.0.0:50061".parse().unwrap()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ConfigInvalid);
        assert!(require_loopback("127.0.0.1:0".parse().unwrap()).is_ok());
    }
}
