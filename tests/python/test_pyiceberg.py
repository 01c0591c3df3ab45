"""pyiceberg reads what we wrote, and we read what pyiceberg wrote: values, field ids, statistics."""

import datetime
import decimal

import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.types import IntegerType


@pytest.fixture(scope="module")
def catalog(demo):
    return SqlCatalog("lake", uri=f"sqlite:///{demo.folder}/catalog.db", warehouse=f"file://{demo.folder}/warehouse")


def test_reads_what_we_wrote(catalog, cursor):
    cursor.execute(
        "CREATE TABLE lake.tpch.kinds (id BIGINT NOT NULL, flag BOOLEAN, small INT, ratio DOUBLE, price DECIMAL(10, 2), "
        "day DATE, at TIMESTAMP, name VARCHAR) PARTITIONED BY (month(day))"
    )
    cursor.execute(
        "INSERT INTO lake.tpch.kinds VALUES "
        "(1, true, 7, 0.5, 12.30, DATE '2024-02-29', TIMESTAMP '2024-02-29 01:02:03.000004', 'ä'), "
        "(2, NULL, NULL, NULL, NULL, DATE '2023-12-31', NULL, NULL)"
    )
    table = catalog.load_table("tpch.kinds")
    rows = sorted(table.scan().to_arrow().to_pylist(), key=lambda row: row["id"])
    assert rows[0] == {
        "id": 1,
        "flag": True,
        "small": 7,
        "ratio": 0.5,
        "price": decimal.Decimal("12.30"),
        "day": datetime.date(2024, 2, 29),
        "at": datetime.datetime(2024, 2, 29, 1, 2, 3, 4),
        "name": "ä",
    }
    assert rows[1]["id"] == 2 and rows[1]["name"] is None
    assert [field.field_id for field in table.schema().fields] == list(range(1, 9))
    files = table.inspect.files().to_pylist()
    assert len(files) == 2, "one file a month"
    metrics = {name: m for f in files if f["record_count"] == 1 for name, m in f["readable_metrics"].items()}
    assert metrics["id"]["null_value_count"] == 0
    assert all(f["readable_metrics"]["id"]["lower_bound"] in (1, 2) for f in files)


def test_we_read_what_it_wrote(catalog, cursor):
    rows = pa.table(
        {
            "id": pa.array(range(1000), pa.int64()),
            "name": pa.array([f"n{i}" if i % 7 else None for i in range(1000)]),
            "day": pa.array([datetime.date(2024, 1, 1) + datetime.timedelta(days=i % 60) for i in range(1000)]),
            "tags": pa.array([[f"t{i % 3}"] if i % 5 else [] for i in range(1000)], pa.list_(pa.string())),
        }
    )
    table = catalog.create_table("tpch.theirs", schema=rows.schema)
    table.append(rows.slice(0, 600))
    first = table.current_snapshot().snapshot_id
    with table.update_schema() as update:
        update.rename_column("name", "label")
        update.add_column("extra", IntegerType())
    more = rows.slice(600).rename_columns(["id", "label", "day", "tags"])
    table.refresh()
    table.append(more.append_column("extra", pa.array([1] * 400, pa.int32())))
    cursor.execute("SELECT count(*), count(label), count(extra), min(day), max(id) FROM lake.tpch.theirs")
    labels = sum(1 for i in range(1000) if i % 7)
    assert cursor.fetchone() == (1000, labels, 400, datetime.date(2024, 1, 1), 999)
    cursor.execute(f"SELECT count(*) FROM lake.tpch.theirs FOR VERSION AS OF {first}")
    assert cursor.fetchone()[0] == 600
    cursor.execute("SELECT id, label, tags FROM lake.tpch.theirs WHERE id IN (7, 8) ORDER BY id")
    assert cursor.fetchall() == [(7, None, ["t1"]), (8, "n8", ["t2"])]


def test_a_table_with_deletes_is_refused_or_read_right(catalog, cursor):
    table = catalog.create_table("tpch.shrunk", schema=pa.schema([("id", pa.int64())]))
    table.append(pa.table({"id": pa.array(range(100), pa.int64())}))
    table.delete("id < 10")  # pyiceberg rewrites the file (copy-on-write)
    cursor.execute("SELECT count(*), min(id) FROM lake.tpch.shrunk")
    assert cursor.fetchone() == (90, 10)
