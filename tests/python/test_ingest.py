"""Bulk ingest through the ADBC driver: a value that does not fit is an error, and a table is replaced as a whole or not."""

import datetime

import pyarrow as pa
import pytest

WHERE = {"catalog_name": "lake", "db_schema_name": "tpch"}


@pytest.fixture()
def table(cursor):
    cursor.execute("CREATE TABLE lake.tpch.narrow (id INT, day DATE)")
    cursor.adbc_ingest("narrow", pa.table({"id": pa.array([1], pa.int32())}), mode="append", **WHERE)
    yield lambda: (cursor.execute("SELECT * FROM lake.tpch.narrow"), cursor.fetchall())[1]
    cursor.execute("DROP TABLE lake.tpch.narrow")


@pytest.mark.parametrize(
    "column, values",
    [
        ("id", pa.array(["1", "abc"])),
        ("id", pa.array([1, 1 << 40])),
        ("id", pa.array([1.0, 1.5])),
        ("day", pa.array([datetime.datetime(2024, 2, 29), datetime.datetime(2024, 2, 29, 12, 30)])),
    ],
)
def test_a_value_that_does_not_fit_is_refused(cursor, table, column, values):
    with pytest.raises(Exception, match=f"column {column} of table lake.tpch.narrow") as caught:
        cursor.adbc_ingest("narrow", pa.table({column: values}), mode="append", **WHERE)
    assert not any(value in str(caught.value) for value in ("abc", str(1 << 40), "1.5", "12:30"))
    assert table() == [(1, None)]


def test_whole_floats_and_midnights_fit(cursor, table):
    rows = pa.table({"id": [2.0, None], "day": [datetime.datetime(2024, 2, 29), None]})
    assert cursor.adbc_ingest("narrow", rows, mode="append", **WHERE) == 2
    assert sorted(table(), key=repr) == [(1, None), (2, datetime.date(2024, 2, 29)), (None, None)]


def test_a_failed_replace_keeps_the_old_table(cursor, table):
    with pytest.raises(Exception, match="column gone"):
        cursor.adbc_ingest("narrow", pa.table({"gone": pa.nulls(1)}), mode="replace", **WHERE)
    assert table() == [(1, None)]

    def rows():
        yield pa.record_batch({"other": ["x"]})
        raise RuntimeError("the source broke")

    broken = pa.RecordBatchReader.from_batches(pa.schema({"other": pa.string()}), rows())
    with pytest.raises(Exception):
        cursor.adbc_ingest("narrow", broken, mode="replace", **WHERE)
    assert table() == [(1, None)]
    assert cursor.adbc_ingest("narrow", pa.table({"other": ["x", "y"]}), mode="replace", **WHERE) == 2
    assert table() == [("x",), ("y",)]
