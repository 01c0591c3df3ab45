//! A private Apache Kafka: one broker in KRaft mode, loopback only. Its jars come from Maven Central by `scripts/setup.sh`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::net::TcpStream;
use townlake_common::{Error, ErrorCode, Result};

use super::process::{Process, command, fetched, find_program, free_port, write_private};

/// A running broker.
pub struct Kafka {
    /// The process.
    pub process: Process,
    port: u16,
    folder: PathBuf,
}

impl Kafka {
    /// Whether Java and Kafka's jars are there.
    pub fn is_installed() -> bool {
        find_program("java").is_some() && jars().join("complete.stamp").exists()
    }

    /// Starts a broker with its data in `<folder>/kafka` and waits until it listens.
    pub async fn start(folder: &Path) -> Result<Self> {
        if !Self::is_installed() {
            return Err(Error::new(ErrorCode::ConfigInvalid, format!("no Java, or no Kafka in {}", jars().display()))
                .with_hint("`make demo-federation` installs both; TOWNLAKE_KAFKA names another folder of jars"));
        }
        let folder = folder.join("kafka");
        let failed = |e| Error::new(ErrorCode::Internal, format!("{} cannot be made: {e}", folder.display()));
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let (port, controller) = (free_port()?, free_port()?);
        let listeners = [Listener { name: "OPEN", port, protocol: "PLAINTEXT" }];
        configure(&folder, &listeners, controller, "")?;
        format(&folder, &[])?.finish(Duration::from_secs(60)).await?;
        let process = launch(&folder)?;
        let mut kafka = Self { process, port, folder };
        let listens = || async { TcpStream::connect(("127.0.0.1", port)).await.is_ok() };
        kafka.process.wait_until(Duration::from_secs(90), listens).await?;
        Ok(kafka)
    }

    /// `host:port` of the broker.
    pub fn broker(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// One of Kafka's own tools, told where the broker is.
    pub fn tool(&self, class: &str) -> Command {
        let mut tool = java(&self.folder);
        tool.args([class, "--bootstrap-server", &self.broker()]);
        tool
    }

    /// Makes a topic.
    pub async fn create_topic(&self, topic: &str, partitions: u32) -> Result<()> {
        let mut tool = self.tool("org.apache.kafka.tools.TopicCommand");
        tool.args(["--create", "--topic", topic, "--partitions", &partitions.to_string()]);
        Process::start("kafka-topic", tool, &self.folder)?.finish(Duration::from_secs(60)).await
    }

    /// Writes a record a line of each text with Kafka's own producer, and returns when the broker has them all.
    pub async fn produce<Texts>(&self, topic: &str, texts: Texts) -> Result<()>
    where
        Texts: Iterator<Item = Result<String>> + Send + 'static,
    {
        let mut tool = self.tool("org.apache.kafka.tools.ConsoleProducer");
        tool.args(["--topic", topic, "--compression-codec", "lz4", "--batch-size", "65536"]);
        let written = tokio::task::spawn_blocking(move || feed(tool, texts)).await;
        written.map_err(|e| Error::internal("Kafka's producer").with_source(e))?
    }
}

fn feed(mut tool: Command, texts: impl Iterator<Item = Result<String>>) -> Result<()> {
    let failed = |what: String| Error::new(ErrorCode::SourceError, format!("Kafka's producer: {what}"));
    let child = tool.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|e| failed(e.to_string()))?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| {
        texts.into_iter().try_for_each(|text| stdin.write_all(text?.as_bytes()).map_err(|e| failed(e.to_string())))
    });
    // its own words say more than a broken pipe does
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    let words = String::from_utf8_lossy(&output.stderr);
    // it reports records that were not delivered, and ends well
    if !output.status.success() || words.contains("ERROR") {
        return Err(failed(words.into_owned()));
    }
    written
}

/// The folder of Kafka's jars.
pub fn jars() -> PathBuf {
    fetched("TOWNLAKE_KAFKA", "kafka")
}

/// Java over Kafka's jars, with the log of `folder`: a class and its arguments are to follow.
pub fn java(folder: &Path) -> Command {
    let mut java = command(Path::new("java"), Signal::SIGTERM);
    java.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
    java.arg(format!("-Dlog4j2.configurationFile={}", folder.join("log4j2.xml").display()));
    java.arg("-cp").arg(jars().join("*")).current_dir(folder).stdin(Stdio::null());
    java
}

/// Where a broker listens.
pub struct Listener<'a> {
    /// Kafka's name for it, of the first of which brokers among themselves make use.
    pub name: &'a str,
    /// On loopback.
    pub port: u16,
    /// `PLAINTEXT`, `SASL_PLAINTEXT`, `SSL`.
    pub protocol: &'a str,
}

/// Writes the settings of one broker in KRaft mode, which keeps its data in `folder`; `more`: further lines of them.
pub fn configure(folder: &Path, listeners: &[Listener<'_>], controller: u16, more: &str) -> Result<()> {
    let of = |what: &dyn Fn(&Listener<'_>) -> String| listeners.iter().map(what).collect::<Vec<_>>().join(",");
    let addresses = of(&|listener| format!("{}://127.0.0.1:{}", listener.name, listener.port));
    let protocols = of(&|listener| format!("{}:{}", listener.name, listener.protocol));
    let first = listeners.first().map(|listener| listener.name).unwrap_or_default();
    let settings = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners={addresses},CONTROLLER://127.0.0.1:{controller}\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,{protocols}\n\
         controller.listener.names=CONTROLLER\ninter.broker.listener.name={first}\nlog.dirs={}/data\n\
         offsets.topic.replication.factor=1\ntransaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\nauto.create.topics.enable=false\n{more}",
        folder.display()
    );
    let log = "<Configuration><Appenders><Console name=\"C\" target=\"SYSTEM_ERR\"><PatternLayout pattern=\"%p %m (%c)%n\"/>\
               </Console></Appenders><Loggers><Root level=\"warn\"><AppenderRef ref=\"C\"/></Root></Loggers></Configuration>";
    write_private(&folder.join("log4j2.xml"), log)?;
    write_private(&folder.join("server.properties"), &settings)
}

/// Makes the broker's storage, as it is configured; `more`: further arguments of the tool.
pub fn format(folder: &Path, more: &[String]) -> Result<Process> {
    let mut format = java(folder);
    format.args(["kafka.tools.StorageTool", "format", "-t", "dG93bmxha2UtZGVtby1hLTE", "-c", "server.properties"]);
    format.args(more);
    Process::start("kafka-format", format, folder)
}

/// Starts the broker, as it is configured.
pub fn launch(folder: &Path) -> Result<Process> {
    let mut server = java(folder);
    server.args(["kafka.Kafka", "server.properties"]);
    Process::start("kafka", server, folder)
}
