//! A real Apache Kafka of a test's own: one broker in KRaft mode from Maven Central, in a temporary folder, on free loopback
//! ports; and producers that nobody here wrote (librdkafka, through confluent-kafka for Python).

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use townlake_cli::local::kafka::{self, Listener};
use townlake_cli::local::{Process, fetched};

use crate::server::{free_port, shared, skip};

/// The password of user `reader` on the SASL listener, to be looked for where it must not be.
pub const PASSWORD: &str = "hunter2-kafka";

static SHARED: Mutex<Weak<Kafka>> = Mutex::new(Weak::new());

/// A running broker. Dropped, also by a failing test, it is killed by its process id and its folder removed.
pub struct Kafka {
    server: Mutex<Process>,
    folder: tempfile::TempDir,
    python: PathBuf,
    plain: u16,
    sasl: u16,
    tls: u16,
    mutual: u16,
}

impl Kafka {
    /// A broker of one's own; `None` (and a line on standard error) where Kafka or the Python client was not fetched, unless
    /// `TOWNLAKE_REQUIRE_SERVERS` is set. Panics when it is there and does not start.
    pub fn start(test: &str) -> Option<Self> {
        Self::start_with(test, "")
    }

    /// The same, with further lines of its settings.
    pub fn start_with(test: &str, settings: &str) -> Option<Self> {
        let jars = kafka::jars();
        let python = fetched("TOWNLAKE_VENV", "venv").join("bin/python");
        let has_client = || {
            let check = Command::new(&python).args(["-c", "import confluent_kafka"]).stderr(Stdio::null()).status();
            check.is_ok_and(|status| status.success())
        };
        if !jars.join("complete.stamp").exists() || !has_client() {
            let missing = format!("Apache Kafka in {}, or no confluent-kafka in {}", jars.display(), python.display());
            return skip(test, &missing);
        }
        let folder = tempfile::Builder::new().prefix("townlake-kafka-").tempdir().expect("a temporary folder");
        let [plain, sasl, tls, mutual, controller] = [(); 5].map(|()| free_port());
        make_certificates(folder.path());
        configure(folder.path(), [plain, sasl, tls, mutual, controller], settings);
        format(folder.path());
        let server = Mutex::new(launch(folder.path()));
        let kafka = Self { server, folder, python, plain, sasl, tls, mutual };
        kafka.wait_until_ready();
        Some(kafka)
    }

    /// The broker that tests share while one of them runs. Each test works in topics of its own.
    pub fn shared(test: &str) -> Option<Arc<Self>> {
        shared(&SHARED, || Self::start(test))
    }

    /// `host:port` of the listener without login.
    pub fn broker(&self) -> String {
        format!("127.0.0.1:{}", self.plain)
    }

    /// The port of it.
    pub fn port(&self) -> u16 {
        self.plain
    }

    /// `host:port` of the listener that wants a login: PLAIN or SCRAM, as `reader`.
    pub fn sasl_broker(&self) -> String {
        format!("127.0.0.1:{}", self.sasl)
    }

    /// `host:port` of the listener that speaks TLS, and of the one that wants a certificate of ours as well.
    pub fn tls_brokers(&self) -> [String; 2] {
        [self.tls, self.mutual].map(|port| format!("127.0.0.1:{port}"))
    }

    /// `ca.crt`, `client.crt` or `client.key`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs Python with `B` (the broker), `confluent_kafka`'s names and the helpers of [`PRELUDE`]. Panics when it fails; gives
    /// what it prints.
    pub fn python(&self, script: &str) -> String {
        let mut child = self.python_child(script);
        drop(child.stdin.take());
        let output = child.wait_with_output().expect("wait for Python");
        assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The same as a process that goes on by itself. It may end itself when its standard input is closed.
    pub fn python_child(&self, script: &str) -> Child {
        let text = format!("B = '{}'\n{PRELUDE}\n{script}\n", self.broker());
        let mut command = Command::new(&self.python);
        command.arg("-c").arg(text).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("start Python")
    }

    /// Writes lines into a topic with Kafka's own client, packed by `codec`.
    pub fn java_producer(&self, topic: &str, codec: &str, lines: &str) {
        let mut command = kafka::java(self.folder.path());
        command.args([
            "org.apache.kafka.tools.ConsoleProducer",
            "--bootstrap-server",
            &self.broker(),
            "--topic",
            topic,
        ]);
        command.args(["--compression-codec", codec, "--batch-size", "5000"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("java");
        let mut stdin = child.stdin.take().expect("its standard input");
        stdin.write_all(lines.as_bytes()).expect("write lines");
        drop(stdin);
        let output = child.wait_with_output().expect("wait for Kafka's producer");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Kills the broker.
    pub fn stop(&self) {
        self.server().kill();
    }

    /// Starts it again, on the same ports and data.
    pub fn restart(&self) {
        let mut server = self.server();
        server.kill();
        *server = launch(self.folder.path());
        drop(server);
        self.wait_until_ready();
    }

    fn server(&self) -> MutexGuard<'_, Process> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(90);
        while Instant::now() < deadline {
            if TcpStream::connect(("127.0.0.1", self.plain)).is_ok()
                && TcpStream::connect(("127.0.0.1", self.sasl)).is_ok()
            {
                return;
            }
            let ended = self.server().ended();
            assert!(ended.is_none(), "Kafka ended at once ({ended:?}):\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("Kafka does not get ready:\n{}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("kafka.log")).unwrap_or_default()
    }
}

/// What scripts begin with.
const PRELUDE: &str = r"
import sys, time
from confluent_kafka import Producer, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
admin = AdminClient({'bootstrap.servers': B})
def done(futures):
    for future in futures.values():
        future.result()
def topic(name, partitions=1, **config):
    done(admin.create_topics([NewTopic(name, partitions, 1, config={k.replace('_', '.'): str(v) for k, v in config.items()})]))
def producer(**config):
    settings = {'bootstrap.servers': B, 'linger.ms': 5}
    settings.update({k.replace('_', '.'): v for k, v in config.items()})
    return Producer(settings)
";

fn format(folder: &Path) {
    let scram = |mechanism| ["--add-scram".to_string(), format!("{mechanism}=[name=reader,password={PASSWORD}]")];
    let logins = ["SCRAM-SHA-256", "SCRAM-SHA-512"].map(scram).concat();
    let mut format = kafka::format(folder, &logins).expect("run Kafka's StorageTool");
    let status = loop {
        match format.ended() {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    assert!(status.success(), "{}", fs::read_to_string(format.log()).unwrap_or_default());
}

/// It is killed when nobody wants it any more.
fn launch(folder: &Path) -> Process {
    kafka::launch(folder).expect("start Kafka").with_stop(Signal::SIGKILL, Duration::from_secs(5))
}

/// An authority, and certificates of the broker and of a client, each as Kafka and as we take it.
fn make_certificates(folder: &Path) {
    fs::write(folder.join("extensions"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").expect("write");
    let mut steps =
        vec!["req -x509 -newkey rsa:2048 -nodes -subj /CN=authority -keyout ca.key -out ca.crt".to_string()];
    for name in ["server", "client"] {
        steps.push(format!("req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        steps.push(format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -set_serial 1 -extfile extensions -out {name}.crt"
        ));
    }
    for step in steps {
        let mut openssl = Command::new("openssl");
        let output = openssl.args(step.split(' ')).current_dir(folder).stdin(Stdio::null()).output().expect("openssl");
        assert!(output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let read = |name: &str| fs::read_to_string(folder.join(name)).expect("read a certificate");
    let both = [read("server.key"), read("server.crt")].concat();
    fs::write(folder.join("server.pem"), both).expect("write the broker's certificate");
}

fn configure(folder: &Path, ports: [u16; 5], more: &str) {
    let [plain, sasl, tls, mutual, controller] = ports;
    let plain_login = "org.apache.kafka.common.security.plain.PlainLoginModule required";
    let scram_login = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let settings = format!(
        "ssl.keystore.type=PEM\nssl.keystore.location={folder}/server.pem\n\
         ssl.truststore.type=PEM\nssl.truststore.location={folder}/ca.crt\n\
         listener.name.mutual.ssl.client.auth=required\n\
         sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
         listener.name.login.plain.sasl.jaas.config={plain_login} user_reader=\"{PASSWORD}\";\n\
         listener.name.login.scram-sha-256.sasl.jaas.config={scram_login}\n\
         listener.name.login.scram-sha-512.sasl.jaas.config={scram_login}\n\
         offsets.topic.num.partitions=1\ntransaction.state.log.num.partitions=1\n\
         group.initial.rebalance.delay.ms=0\n\
         log.cleaner.backoff.ms=100\nlog.cleaner.min.compaction.lag.ms=0\nlog.retention.check.interval.ms=500\n\
         log.initial.task.delay.ms=100\n{more}",
        folder = folder.display()
    );
    let listener = |name, port, protocol| Listener { name, port, protocol };
    let listeners = [
        listener("OPEN", plain, "PLAINTEXT"),
        listener("LOGIN", sasl, "SASL_PLAINTEXT"),
        listener("SECURE", tls, "SSL"),
        listener("MUTUAL", mutual, "SSL"),
    ];
    kafka::configure(folder, &listeners, controller, &settings).expect("write the settings");
}
