"""All 22 TPC-H queries, value by value, against DuckDB over the same files; `customer` and `nation` lie in Postgres."""

import datetime
import decimal
import re
from pathlib import Path

import duckdb
import pytest
from pyiceberg.catalog.sql import SqlCatalog

QUERIES = sorted((Path(__file__).parents[2] / "cli" / "queries" / "tpch").glob("q*.sql"))
LAKE = ["region", "supplier", "part", "partsupp", "orders", "lineitem"]
CRM = ["nation", "customer"]


@pytest.fixture(scope="module")
def oracle(demo):
    """DuckDB with the lake's tables as pyiceberg reads them (at their first snapshot), and Postgres's as psql would."""
    catalog = SqlCatalog("lake", uri=f"sqlite:///{demo.folder}/catalog.db", warehouse=f"file://{demo.folder}/warehouse")
    duck = duckdb.connect()
    for name in LAKE:
        table = catalog.load_table(("tpch", name))
        first = table.history()[0].snapshot_id
        arrow = table.scan(snapshot_id=first).to_arrow()
        duck.register("arrow_table", arrow)
        duck.execute(f"CREATE TABLE {name} AS SELECT * FROM arrow_table")
    with demo.connect() as connection, connection.cursor() as cursor:
        for name in CRM:
            cursor.execute(f"SELECT * FROM crm.public.{name}")
            duck.register("arrow_table", cursor.fetch_arrow_table())
            duck.execute(f"CREATE TABLE {name} AS SELECT * FROM arrow_table")
    return duck


@pytest.fixture(scope="module")
def federated(demo):
    with demo.connect() as connection:
        with connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA IF NOT EXISTS lake.mixed")
        yield connection


def qualified(sql):
    """Table names with their catalogs: where a FROM list names them, and nowhere else (`nation` is an alias too)."""
    for catalog, names in (("lake.tpch", LAKE), ("crm.public", CRM)):
        for name in names:
            sql = re.sub(rf"((?:\bfrom|\bjoin|,)\s+){name}\b", rf"\1{catalog}.{name}", sql)
    return sql


def normal(value):
    if isinstance(value, (decimal.Decimal, float)):
        return float(value)
    if isinstance(value, datetime.datetime):
        return value.date()
    if isinstance(value, str):
        return value.rstrip(" ")  # char(15) comes padded from Postgres
    return value


def same(left, right):
    if isinstance(left, float) and isinstance(right, float):
        return abs(left - right) <= 1e-6 * max(1.0, abs(left), abs(right))
    return left == right


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_query(path, oracle, federated):
    sql = path.read_text()
    expected = oracle.execute(sql).fetchall()
    with federated.cursor() as cursor:
        cursor.execute(qualified(sql))
        got = cursor.fetchall()
    assert len(got) == len(expected)
    for number, (row, wanted) in enumerate(zip(got, expected)):
        pairs = [(normal(a), normal(b)) for a, b in zip(row, wanted)]
        assert all(same(a, b) for a, b in pairs), f"row {number}: {row} is not {wanted}"
