"""A running demo (etcd, Postgres, coordinator, two executors) for every test here, started and stopped as a user would."""

import os
import re
import signal
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import adbc_driver_flightsql.dbapi as flightsql
import pytest
from spark_town import SparkTown
from town import Town, running

SCALE = "0.1"


@dataclass
class Demo:
    """Where the demo listens, and who may come in."""

    address: str
    user: str
    password: str
    folder: Path
    process: subprocess.Popen

    def connect(self, user=None, password=None, **options):
        kwargs = {"username": user or self.user, "password": password or self.password, **options}
        return flightsql.connect(f"grpc://{self.address}", db_kwargs=kwargs, autocommit=True)


def wait_for_door(process, limit=300):
    """Reads the demo's output until it prints its connection lines."""
    lines, found = [], {}
    timer = threading.Timer(limit, process.kill)
    timer.start()
    try:
        for line in process.stdout:
            lines.append(line)
            match = re.search(r'connect\("grpc://(\S+?)".*"username": "(\w+)", "password": "(\w+)"', line)
            if match:
                found = dict(zip(("address", "user", "password"), match.groups()))
            if "catalogs:" in line and found:
                return found, "".join(lines)
    finally:
        timer.cancel()
    raise RuntimeError("the demo ended before its door was open:\n" + "".join(lines[-60:]))


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    # Postgres does not run as root, and its user must be able to enter the folder: not under pytest's private one.
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"townlake-pytest-{os.getpid()}"
    folder.mkdir(mode=0o755)
    binary = os.environ["TOWNLAKE_BIN"]
    process = subprocess.Popen(
        [binary, "demo", "--scale", SCALE],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    try:
        found, output = wait_for_door(process)
        (folder / "demo.out").write_text(output)
        # nobody reads the pipe from here on: drain it
        threading.Thread(target=process.stdout.read, daemon=True).start()
        lake = next(path for path in folder.glob("townlake-demo-*") if (path / "catalog.db").exists())
        yield Demo(folder=lake, process=process, **found)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            process.kill()
    left = list(folder.glob("townlake-*"))
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    assert not left, f"Ctrl-C left {left}"


@pytest.fixture(scope="session")
def whole_lake(demo):
    """The two tables that the demo has in Postgres, in Iceberg as well: generated again, not copied from there."""
    command = [os.environ["TOWNLAKE_BIN"], "load", "tpch", "--scale", SCALE, "--tables", "customer,nation"]
    command += ["--mode", "create", "--url", f"grpc://{demo.address}", "--user", demo.user]
    environment = {**os.environ, "TOWNLAKE_PASSWORD": demo.password}
    loaded = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert loaded.returncode == 0, loaded.stderr


@pytest.fixture()
def connection(demo):
    with demo.connect() as connection:
        yield connection


@pytest.fixture()
def cursor(connection):
    with connection.cursor() as cursor:
        yield cursor


@pytest.fixture(scope="module")
def town():
    with running(Town, "stores") as town:
        yield town


@pytest.fixture(scope="session")
def spark_town():
    with running(SparkTown, "spark") as town:
        yield town


@pytest.fixture
def spark(spark_town):
    return spark_town.spark
