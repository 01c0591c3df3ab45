"""pyiceberg reads what we wrote, and we read what pyiceberg wrote: values, field ids, statistics."""

import datetime
import decimal
import math

import pyarrow as pa
import pyarrow.parquet as pq
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


def path_of(uri):
    return uri.removeprefix("file://")


def field_ids(fields):
    """The field ids of Arrow fields by path, in depth."""
    found = {}
    for field in fields:
        inner = field.type
        if pa.types.is_struct(inner):
            below = {field.name: list(inner)}
        elif pa.types.is_list(inner):
            below = {f"{field.name}.element": [inner.value_field.with_name("element")]}
        elif pa.types.is_map(inner):
            key, value = inner.key_field.with_name("key"), inner.item_field.with_name("value")
            below = {f"{field.name}.key": [key], f"{field.name}.value": [value]}
        else:
            below = {}
        found[field.name] = int(field.metadata[b"PARQUET:field_id"])
        for children in below.values():
            found |= {f"{field.name}.{path}": number for path, number in field_ids(children).items()}
    return found


def test_reads_nested_columns_times_bytes_and_metrics(catalog, cursor):
    cursor.execute(
        "CREATE TABLE lake.tpch.shapes AS SELECT CAST(1 AS BIGINT) AS id, CAST('NaN' AS DOUBLE) AS ratio, "
        "repeat('z', 20) AS long, TIMESTAMPTZ '2024-02-29T01:02:03.000004+02:00' AS at, TIME '01:02:03.000004' AS clock, "
        "X'00ff10' AS raw, [CAST(1 AS INT), CAST(NULL AS INT)] AS numbers, "
        "named_struct('a', CAST(7 AS BIGINT), 'b', 'x') AS pair, MAP {'k': CAST(0.5 AS DOUBLE)} AS counts"
    )
    cursor.execute("INSERT INTO lake.tpch.shapes (id, ratio, long) VALUES (2, 0.5, 'a'), (3, -1, 'b')")
    table = catalog.load_table("tpch.shapes")
    rows = sorted(table.scan().to_arrow().to_pylist(), key=lambda row: row["id"])
    first = rows[0]
    assert math.isnan(first.pop("ratio"))
    assert first == {
        "id": 1,
        "long": "z" * 20,
        "at": datetime.datetime(2024, 2, 28, 23, 2, 3, 4, tzinfo=datetime.timezone.utc),
        "clock": datetime.time(1, 2, 3, 4),
        "raw": b"\x00\xff\x10",
        "numbers": [1, None],
        "pair": {"a": 7, "b": "x"},
        "counts": [("k", 0.5)],
    }
    assert [row["ratio"] for row in rows[1:]] == [0.5, -1.0]
    assert all(rows[1][name] is None for name in ("at", "clock", "raw", "numbers", "pair", "counts"))

    files = {file.record_count: file for file in (task.file for task in table.scan().plan_files())}
    ids = {name: table.schema().find_field(name).field_id for name in table.schema().column_names}
    # pyarrow and Iceberg name the same fields: those of the file have the table's ids at every depth
    theirs = field_ids(pq.read_schema(path_of(files[1].file_path)))
    assert theirs and theirs == {name: ids[name] for name in theirs}
    assert {"numbers.element", "pair.a", "pair.b", "counts.key", "counts.value"} <= set(theirs)

    one, two = files[1], files[2]
    assert (one.nan_value_counts[ids["ratio"]], two.nan_value_counts[ids["ratio"]]) == (1, 0)
    assert ids["ratio"] not in one.upper_bounds, "NaN is no bound"
    readable = {r["record_count"]: r["readable_metrics"] for r in table.inspect.files().to_pylist()}
    assert (readable[2]["ratio"]["lower_bound"], readable[2]["ratio"]["upper_bound"]) == (-1.0, 0.5)
    upper = readable[1]["long"]["upper_bound"]
    assert len(upper) == 16 and upper >= "z" * 20, "cut, and still above"
    assert (readable[2]["at"]["null_value_count"], readable[2]["at"]["upper_bound"]) == (2, None)
    assert table.scan(row_filter="long = 'zzzzzzzzzzzzzzzzzzzz'").to_arrow().num_rows == 1
    assert table.scan(row_filter="ratio > 0.2").to_arrow().column("id").to_pylist() == [2]


def test_partition_values_of_floats_cross_both_ways(catalog, cursor):
    cursor.execute("CREATE TABLE lake.tpch.floats (id BIGINT, f REAL) PARTITIONED BY (f)")
    cursor.execute(
        "INSERT INTO lake.tpch.floats VALUES (1, CAST('NaN' AS REAL)), (2, CAST('inf' AS REAL)), (3, 10.1), (4, NULL)"
    )
    table = catalog.load_table("tpch.floats")
    partitions = {task.file.partition[0] for task in table.scan().plan_files()}
    assert {str(value) for value in partitions} == {"nan", "inf", str(pa.scalar(10.1, pa.float32()).as_py()), "None"}
    assert {row["id"]: str(row["f"])[:4] for row in table.scan().to_arrow().to_pylist()} == {
        1: "nan",
        2: "inf",
        3: "10.1",
        4: "None",
    }
    cursor.execute("SELECT id, CAST(f AS VARCHAR) FROM lake.tpch.floats ORDER BY id")
    assert cursor.fetchall() == [(1, "NaN"), (2, "inf"), (3, "10.1"), (4, None)]


def test_tables_of_format_version_1(catalog, cursor):
    schema = pa.schema([("id", pa.int64()), ("name", pa.string())])
    table = catalog.create_table("tpch.first", schema=schema, properties={"format-version": "1"})
    assert table.format_version == 1
    table.append(pa.table({"id": [1, 2], "name": ["a", None]}, schema=schema))
    cursor.execute("INSERT INTO lake.tpch.first VALUES (3, 'c')")
    table.refresh()
    table.append(pa.table({"id": [4], "name": ["d"]}, schema=schema))
    cursor.execute("INSERT INTO lake.tpch.first VALUES (5, NULL)")
    table.refresh()
    assert table.format_version == 1 and len(table.snapshots()) == 4
    expected = [(1, "a"), (2, None), (3, "c"), (4, "d"), (5, None)]
    rows = sorted(table.scan().to_arrow().to_pylist(), key=lambda row: row["id"])
    assert [(row["id"], row["name"]) for row in rows] == expected
    cursor.execute("SELECT * FROM lake.tpch.first ORDER BY id")
    assert cursor.fetchall() == expected
    cursor.execute("SELECT count(*) FROM lake.tpch.first WHERE id > 2")
    assert cursor.fetchone() == (3,)
    assert table.current_snapshot().summary["total-records"] == "5"
    # without delete files: what loses rows is written anew, whatever the table asks for
    cursor.execute("ALTER TABLE lake.tpch.first SET TBLPROPERTIES ('write.delete.mode' = 'merge-on-read')")
    cursor.execute("DELETE FROM lake.tpch.first WHERE id = 1 OR id = 4")
    cursor.execute("UPDATE lake.tpch.first SET name = 'z' WHERE id = 2")
    rows = sorted(table.refresh().scan().to_arrow().to_pylist(), key=lambda row: row["id"])
    assert [(row["id"], row["name"]) for row in rows] == [(2, "z"), (3, "c"), (5, None)]
    assert table.format_version == 1
    cursor.execute("SELECT * FROM lake.tpch.first ORDER BY id")
    assert cursor.fetchall() == [(2, "z"), (3, "c"), (5, None)]
