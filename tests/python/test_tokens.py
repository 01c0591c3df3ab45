"""Bearer tokens of the configuration, from ADBC and JDBC: who holds one is its principal, and a wrong one is nobody."""

import os
import subprocess
from pathlib import Path

import adbc_driver_flightsql.dbapi as flightsql
import pytest

from servers import Process, free_ports, http_status

TOKEN, OTHER = "0123456789abcdef-town", "fedcba9876543210-town"
JARS = Path(os.environ.get("TOWNLAKE_JARS", Path.home() / ".cache/townlake/jars"))
PROGRAM = Path(__file__).parents[1] / "java" / "Token.java"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A standalone node with two tokens, `ci`, which writes the lake, and `guest`, which may nothing."""
    folder, binary = tmp_path_factory.mktemp("tokens"), os.environ["TOWNLAKE_BIN"]

    def hashed(token):
        command = [binary, "hash-password", "--token"]
        return subprocess.run(command, input=token, capture_output=True, text=True, check=True).stdout.strip()

    flight, http = free_ports(2)
    path = folder / "node.toml"
    path.write_text(f"""
        [server]
        flight = "127.0.0.1:{flight}"
        http = "127.0.0.1:{http}"
        [cluster]
        internal = "127.0.0.1:0"
        [store]
        url = "sqlite://{folder}/state.db"
        [executor]
        listen = "127.0.0.1:0"
        http = "127.0.0.1:0"
        memory = "1GB"
        spill_dir = "{folder}/spill"
        [[auth.tokens]]
        name = "ci"
        token_hash = "{hashed(TOKEN)}"
        [[auth.tokens]]
        name = "guest"
        token_hash = "{hashed(OTHER)}"
        [catalogs.lake]
        type = "iceberg"
        catalog = "sql"
        uri = "sqlite://{folder}/catalog.db"
        warehouse = "file://{folder}/warehouse"
        writers = ["ci"]
    """)
    node = Process("node", folder, [binary, "standalone", "--config", path])
    try:
        node.wait_until(lambda: http_status(f"http://127.0.0.1:{http}/readyz") == 200)
        yield f"127.0.0.1:{flight}"
    finally:
        node.stop()
    for secret in (TOKEN, OTHER):
        assert secret not in node.log()


def connect(address, token):
    header = {"adbc.flight.sql.authorization_header": f"Bearer {token}"}
    return flightsql.connect(f"grpc://{address}", db_kwargs=header, autocommit=True)


def jdbc(address, token, sql):
    (jar,) = JARS.glob("flight-sql-jdbc-driver-*.jar")
    url = f"jdbc:arrow-flight-sql://{address}/?useEncryption=false&token={token}"
    java = ["java", "--add-opens=java.base/java.nio=ALL-UNNAMED", "-cp", str(jar), str(PROGRAM), url, sql]
    return subprocess.run(java, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def filled(address):
    with connect(address, TOKEN) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA lake.build")
        cursor.execute("CREATE TABLE lake.build.runs AS SELECT value AS id FROM generate_series(1, 3)")
    return address


SQL = "SELECT id FROM lake.build.runs ORDER BY id"


def test_adbc(filled):
    with connect(filled, TOKEN) as connection, connection.cursor() as cursor:
        cursor.execute(SQL)
        assert cursor.fetchall() == [(1,), (2,), (3,)]
        cursor.execute("SELECT DISTINCT \"user\" FROM system.runtime.queries WHERE sql LIKE '%lake.build.runs%'")
        assert cursor.fetchall() == [("ci",)]


def test_jdbc(filled):
    run = jdbc(filled, TOKEN, SQL)
    assert run.returncode == 0, run.stdout + run.stderr
    assert [line for line in run.stdout.splitlines() if line.startswith("row|")] == ["row|1", "row|2", "row|3"]


@pytest.mark.parametrize("token, code", [(OTHER, "CATALOG_NOT_FOUND"), ("guess", "UNAUTHENTICATED")])
def test_another_token_is_another_principal_and_a_wrong_one_nobody(filled, token, code):
    with pytest.raises(Exception) as refused:
        with connect(filled, token) as connection, connection.cursor() as cursor:
            cursor.execute(SQL)
    assert code in str(refused.value), str(refused.value)
    assert token not in str(refused.value)
    run = jdbc(filled, token, SQL)
    assert run.returncode != 0 and code in run.stderr, run.stdout + run.stderr
