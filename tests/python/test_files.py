"""Plain files of a bucket as tables: what pyarrow writes there, through the door, on executors."""

import adbc_driver_flightsql.dbapi as flightsql
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from asking import refused, rows
from town import WRONG

N = 50_000


@pytest.fixture(scope="module")
def cursor(town):
    store = town.weed.store()
    store.create_dir("warehouse/drop/events/2024", recursive=True)
    numbers = pa.table({"n": range(N), "t": [None if n % 3 == 0 else f"t{n}" for n in range(N)]})
    for name, part in (("a", numbers.slice(0, N // 2)), ("2024/b", numbers.slice(N // 2))):
        pyarrow.parquet.write_table(part, f"warehouse/drop/events/{name}.parquet", filesystem=store, row_group_size=5000)
    with store.open_output_stream("warehouse/drop/people.csv") as file:
        pyarrow.csv.write_csv(pa.table({"id": [1, 2], "name": ["Ann", "it's"]}), file)
    with store.open_output_stream("warehouse/drop/log.jsonl") as file:
        file.write(b'{"id": 1, "at": {"lat": 1.5}}\n{"id": 2, "tags": ["x"]}\n')
    with town.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION execution = 'cluster'")
        yield cursor


def test_files_of_a_bucket_are_tables(cursor):
    assert rows(cursor, "SHOW TABLES FROM drop.default") != []
    found = rows(cursor, "SELECT count(*), sum(n), count(t), max(n) FROM drop.default.events")
    assert found == [(N, N * (N - 1) // 2, sum(n % 3 != 0 for n in range(N)), N - 1)]
    joined = "SELECT p.name, e.t FROM drop.default.people AS p JOIN drop.default.events AS e ON p.id = e.n ORDER BY 1"
    assert rows(cursor, joined) == [("Ann", "t1"), ("it's", "t2")]
    assert rows(cursor, "SELECT id, at['lat'], tags[1] FROM drop.default.log ORDER BY id") == [(1, 1.5, None), (2, None, "x")]


def test_a_table_that_is_not_there(cursor):
    for name in ("nothing", '"a/b"', '".."', '"events/2024"'):
        refused(cursor, "TABLE_NOT_FOUND", f"SELECT * FROM drop.default.{name}")


def test_wrong_keys_are_refused_and_not_shown(cursor):
    with pytest.raises(flightsql.Error, match="SOURCE_DENIED") as raised:
        rows(cursor, "SELECT * FROM drop_refused.default.people")
    assert "drop_refused" in str(raised.value) and WRONG not in str(raised.value), raised.value
