"""A Spark and a cluster of ours on one catalog in Postgres and one folder, and how their answers are compared."""

import datetime
import json
from contextlib import closing

import pytest
from servers import Cluster, Etcd, Postgres
from spark import Spark
from town import Servers

SCHEMA = "lake.java"
MODES = ["merge-on-read", "copy-on-write"]


class SparkTown(Servers):
    """A cluster of ours and a Spark on one catalog and one folder."""

    def begin(self):
        folder = self.folder
        etcd, postgres = self.add(Etcd(folder)), self.add(Postgres(folder))
        with closing(postgres.connect("postgres")) as admin:
            admin.execute("CREATE DATABASE lake")
        catalog = (
            f'[catalogs.lake]\ntype = "iceberg"\ncatalog = "sql"\nuri = "{postgres.url("lake")}"\n'
            f'warehouse = "file://{folder}/warehouse"\nwriters = ["{Cluster.USER}"]\n'
        )
        self.cluster = self.add(Cluster(folder, etcd, catalog))
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE SCHEMA {SCHEMA}")
        self.spark = self.add(Spark(folder, postgres, "lake", folder / "warehouse"))


@pytest.fixture
def cursor(spark_town):
    with spark_town.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"USE {SCHEMA}")
        yield cursor


def shown(value):
    """As the driver of Spark shows it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: shown(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(inner) for inner in value]
    if isinstance(value, datetime.datetime):
        return str(value.replace(tzinfo=None))
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def ours(cursor, sql):
    cursor.execute(sql)
    return in_order(shown(cursor.fetch_arrow_table().to_pylist()))


def theirs(spark, sql):
    return in_order(spark.sql(sql))


def in_order(rows):
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def agree(spark, cursor, table, at="", theirs_at=""):
    """Both read the same rows; returns them."""
    rows = ours(cursor, f"SELECT * FROM {SCHEMA}.{table}{at}")
    assert rows == theirs(spark, f"SELECT * FROM {SCHEMA}.{table}{theirs_at}"), table
    return rows


def counted(spark, table):
    """The entries of a table's snapshots as Spark's metadata tables tell them."""
    return spark.sql(
        f"SELECT content, count(*) AS n, sum(record_count) AS r FROM {SCHEMA}.{table}.files GROUP BY content"
    )
