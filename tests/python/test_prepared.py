"""A statement that a client has prepared, run again after its table has changed. (ADBC prepares each text once for a cursor.)"""

import pytest
from standalone import Standalone

CHANGES = {
    "moved": ["ALTER COLUMN y FIRST"],
    "moved in a struct": ["ALTER COLUMN s.q FIRST"],
    "renamed": ["RENAME COLUMN x TO first"],
    "widened": ["ALTER COLUMN x TYPE BIGINT"],
    "added": ["ADD COLUMN z VARCHAR"],
    "dropped": ["DROP COLUMN y"],
    "another one of the type": ["DROP COLUMN y", "ADD COLUMN z INT AFTER x"],
}


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    one = Standalone(tmp_path_factory.mktemp("prepared"))
    process = one.start()
    try:
        with one.connect() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA lake.s")
            yield connection
    finally:
        process.stop()


def read(cursor, sql):
    cursor.execute(sql)
    return cursor.fetch_arrow_table().to_pylist()


@pytest.mark.parametrize("what", CHANGES)
def test_a_prepared_statement_sees_the_table_of_today(lake, what):
    """Or says that it is stale; never values under the names or in the types of other columns."""
    table = f"lake.s.{what.replace(' ', '_')}"
    with lake.cursor() as old, lake.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} (x INT, y INT, s STRUCT<p INT, q INT>)")
        cursor.execute(f"INSERT INTO {table} VALUES (1, 2, named_struct('p', 3, 'q', 4))")
        cursor.fetchall()
        sql = f"SELECT * FROM {table}"
        assert read(old, sql) == [{"x": 1, "y": 2, "s": {"p": 3, "q": 4}}]
        for change in CHANGES[what]:
            cursor.execute(f"ALTER TABLE {table} {change}")
        if what == "widened":
            cursor.execute(f"UPDATE {table} SET x = 5000000000")
            cursor.fetchall()
        now = read(cursor, sql)
        again = read(old, sql)
        assert again == now and [list(row) for row in again] == [list(row) for row in now]
        if what.startswith("moved in"):
            assert list(again[0]["s"]) == list(now[0]["s"])


def test_a_statement_with_parameters_sees_the_table_of_today(lake):
    with lake.cursor() as old, lake.cursor() as cursor:
        cursor.execute("CREATE TABLE lake.s.bound (x INT, y INT)")
        cursor.execute("INSERT INTO lake.s.bound VALUES (1, 2), (3, 4)")
        cursor.fetchall()
        sql = "SELECT *, x + ? AS sum FROM lake.s.bound WHERE y > ?"
        old.execute(sql, (10, 2))
        assert old.fetch_arrow_table().to_pylist() == [{"x": 3, "y": 4, "sum": 13}]
        cursor.execute("ALTER TABLE lake.s.bound ALTER COLUMN y FIRST")
        old.execute(sql, (20, 3))
        assert old.fetch_arrow_table().to_pylist() == [{"y": 4, "x": 3, "sum": 23}]
        cursor.execute("ALTER TABLE lake.s.bound ALTER COLUMN x TYPE BIGINT")
        cursor.execute("UPDATE lake.s.bound SET x = 5000000000")
        old.execute(sql, (20, 3))
        assert old.fetch_arrow_table().to_pylist() == [{"y": 4, "x": 5000000000, "sum": 5000000020}]


def test_a_statement_over_a_table_that_is_gone_says_so(lake):
    with lake.cursor() as old, lake.cursor() as cursor:
        cursor.execute("CREATE TABLE lake.s.gone (x INT)")
        assert read(old, "SELECT * FROM lake.s.gone") == []
        cursor.execute("DROP TABLE lake.s.gone")
        with pytest.raises(Exception, match="TABLE_NOT_FOUND"):
            old.execute("SELECT * FROM lake.s.gone")


def test_a_promise_that_cannot_be_kept_is_an_error(lake):
    """Between the answer of `GetFlightInfo` and the reading."""
    with lake.cursor() as old, lake.cursor() as cursor:
        cursor.execute("CREATE TABLE lake.s.promised (x INT, y INT)")
        cursor.execute("INSERT INTO lake.s.promised VALUES (1, 2)")
        cursor.fetchall()
        partitions, _ = old.adbc_execute_partitions("SELECT * FROM lake.s.promised")
        cursor.execute("ALTER TABLE lake.s.promised ALTER COLUMN y FIRST")
        with pytest.raises(Exception, match="COMMIT_CONFLICT.*prepare it again"):
            old.adbc_read_partition(partitions[0])
            old.fetch_arrow_table()
