"""Nessie's Iceberg REST catalog, whose prefix is `main|warehouse`: we write and pyiceberg reads, and the other way round."""

from concurrent.futures import ThreadPoolExecutor

import adbc_driver_manager
import pyarrow as pa
import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.io.pyarrow import PyArrowFileIO
from servers import Cluster, Etcd, Nessie, SeaweedFS
from town import Servers, running


class Setting(Servers):
    def begin(self):
        self.etcd = self.add(Etcd(self.folder))
        self.weed = self.add(SeaweedFS(self.folder))
        self.nessie = self.add(Nessie(self.folder, self.weed))
        catalog = (
            f'[catalogs.nessie]\ntype = "iceberg"\ncatalog = "rest"\nuri = "{self.nessie.rest}"\nwarehouse = "warehouse"\n'
            f's3_endpoint = "{self.weed.s3}"\ns3_region = "us-east-1"\ns3_path_style = true\n'
            f's3_access_key_id = "{self.weed.ACCESS_KEY}"\ns3_secret_access_key = "{self.weed.SECRET_KEY}"\n'
            f'writers = ["{Cluster.USER}"]\n'
        )
        self.cluster = self.add(Cluster(self.folder, self.etcd, catalog))

    def pyiceberg(self, name):
        """A table, as pyiceberg sees it: with keys of its own, where Nessie would have it sign requests by fsspec."""
        weed = self.weed
        keys = {"s3.access-key-id": weed.ACCESS_KEY, "s3.secret-access-key": weed.SECRET_KEY}
        properties = {**keys, "s3.endpoint": weed.s3, "s3.region": "us-east-1"}
        catalog = load_catalog("nessie", type="rest", uri=self.nessie.rest, warehouse="warehouse", **properties)
        table = catalog.load_table(name)
        table.io = PyArrowFileIO(properties)
        return table


@pytest.fixture(scope="module")
def setting():
    with running(Setting, "nessie") as setting:
        yield setting


@pytest.fixture
def cursor(setting):
    with setting.connect() as connection, connection.cursor() as cursor:
        yield cursor


def fetch(cursor, sql):
    cursor.execute(sql)
    return cursor.fetchall()


def test_tables_both_ways(setting, cursor):
    cursor.execute("CREATE SCHEMA nessie.sales")
    cursor.execute(
        "CREATE TABLE nessie.sales.orders (id BIGINT, region VARCHAR, price DECIMAL(10, 2)) PARTITIONED BY (region) "
        "WITH ('write.delete.mode' = 'merge-on-read')"
    )
    values = "SELECT value, 'r' || CAST(value % 3 AS VARCHAR), CAST(value AS DECIMAL(10, 2)) AS price FROM generate_series(0, 299)"
    assert fetch(cursor, f"INSERT INTO nessie.sales.orders {values}") == [(300,)]
    assert fetch(cursor, "DELETE FROM nessie.sales.orders WHERE id < 30") == [(30,)]
    cursor.execute("ALTER TABLE nessie.sales.orders ADD COLUMN note VARCHAR")
    assert fetch(cursor, "UPDATE nessie.sales.orders SET note = 'x' WHERE region = 'r1' AND id < 60") == [(10,)]
    table = setting.pyiceberg("sales.orders")
    rows = table.scan().to_arrow().sort_by("id").to_pylist()
    assert [row["id"] for row in rows] == list(range(30, 300)) and sum(row["note"] == "x" for row in rows) == 10
    table.append(
        pa.Table.from_pylist([{**rows[0], "id": 1000, "note": "theirs"}], schema=table.scan().to_arrow().schema)
    )
    assert fetch(cursor, "SELECT id, note FROM nessie.sales.orders WHERE id > 299") == [(1000, "theirs")]
    cursor.execute("CALL nessie.system.optimize('sales.orders', sort_order => 'id')")
    assert fetch(cursor, "SELECT count(*), sum(id) FROM nessie.sales.orders") == [(271, sum(range(30, 300)) + 1000)]
    # Of its snapshots Nessie shows the newest only: older states are commits of its own.
    assert fetch(cursor, 'SELECT count(*) FROM nessie.sales."orders$snapshots"') == [(1,)]


def test_names_lists_and_errors(setting, cursor):
    for name in ('"with space"', '"a%b"', "plain"):
        cursor.execute(f"CREATE SCHEMA nessie.{name}")
        cursor.execute(f"CREATE TABLE nessie.{name}.t AS SELECT 1 AS a")
        assert fetch(cursor, f"SELECT a FROM nessie.{name}.t") == [(1,)]
    shown = {row[0] for row in fetch(cursor, "SHOW SCHEMAS FROM nessie")}
    assert {"with space", "a%b", "plain"} <= shown
    assert [row[0] for row in fetch(cursor, "SHOW TABLES FROM nessie.plain")] == ["t"]
    for sql, code in [
        ("CREATE SCHEMA nessie.plain", "ALREADY_EXISTS"),
        ("CREATE TABLE nessie.plain.t (a INT)", "ALREADY_EXISTS"),
        ("SELECT * FROM nessie.plain.nothing", "TABLE_NOT_FOUND"),
        ("CREATE TABLE nessie.nowhere.t (a INT)", "SCHEMA_NOT_FOUND"),
        ("DROP SCHEMA nessie.plain", ""),
    ]:
        with pytest.raises(adbc_driver_manager.Error) as failed:
            cursor.execute(sql)
        assert code in str(failed.value), sql
    cursor.execute("ALTER TABLE nessie.plain.t RENAME TO u")
    cursor.execute("DROP TABLE nessie.plain.u")
    assert fetch(cursor, "SHOW TABLES FROM nessie.plain") == []


def test_writers_at_once_lose_no_row(setting, cursor):
    cursor.execute("CREATE SCHEMA nessie.race")
    cursor.execute("CREATE TABLE nessie.race.t (id BIGINT)")

    def insert(writer):
        with setting.connect() as connection, connection.cursor() as own:
            for number in range(5):
                own.execute(f"INSERT INTO nessie.race.t VALUES ({writer * 100 + number})")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(insert, range(4)))
    expected = sorted(writer * 100 + number for writer in range(4) for number in range(5))
    assert [id for (id,) in fetch(cursor, "SELECT id FROM nessie.race.t ORDER BY id")] == expected
    # Nessie shows the newest snapshot only: its number tells how many there were.
    assert setting.pyiceberg("race.t").current_snapshot().sequence_number == 20
