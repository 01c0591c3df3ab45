"""All 22 TPC-H queries, value by value and in order, against DuckDB over the same files: once with every table in Iceberg,
once with `customer` and `nation` in Postgres."""

import datetime
import decimal

import duckdb
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from tpch import CRM, FEDERATED, ICEBERG, LAKE, QUERIES, qualified


@pytest.fixture(scope="module")
def oracle(demo, whole_lake):
    """DuckDB with the lake's tables as pyiceberg reads them, at their first snapshot. No row comes through our engine."""
    catalog = SqlCatalog("lake", uri=f"sqlite:///{demo.folder}/catalog.db", warehouse=f"file://{demo.folder}/warehouse")
    duck = duckdb.connect()
    for name in LAKE + CRM:
        table = catalog.load_table(("tpch", name))
        first = table.history()[0].snapshot_id
        arrow = table.scan(snapshot_id=first).to_arrow()
        assert arrow.num_rows > 0
        duck.register("arrow_table", arrow)
        duck.execute(f"CREATE TABLE {name} AS SELECT * FROM arrow_table")
        duck.unregister("arrow_table")
    return duck


@pytest.fixture(scope="module")
def answers(oracle):
    """What DuckDB says to each query, asked once."""
    found = {}

    def answer(path):
        if path not in found:
            found[path] = oracle.execute(path.read_text()).fetchall()
        return found[path]

    return answer


@pytest.fixture(scope="module")
def session(demo):
    with demo.connect() as connection:
        yield connection


def normal(value):
    return value.date() if isinstance(value, datetime.datetime) else value


def same(left, right):
    numbers = (decimal.Decimal, float)
    if isinstance(left, numbers) and isinstance(right, numbers) and float in (type(left), type(right)):
        left, right = float(left), float(right)
        return abs(left - right) <= 1e-6 * max(1.0, abs(left), abs(right))
    return left == right


@pytest.mark.parametrize("places", [ICEBERG, FEDERATED], ids=["iceberg", "federated"])
@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_query(path, places, answers, session):
    expected = answers(path)
    assert expected, "an empty answer proves nothing"
    with session.cursor() as cursor:
        cursor.execute(qualified(path.read_text(), places))
        got = cursor.fetchall()
    for number, (row, wanted) in enumerate(zip(got, expected)):
        pairs = [(normal(a), normal(b)) for a, b in zip(row, wanted, strict=True)]
        assert all(same(a, b) for a, b in pairs), f"row {number}: {row} is not {wanted}"
    assert len(got) == len(expected)
