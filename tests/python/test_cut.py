"""The cut of a query: SHOW CUT, and SET SESSION cut, which reads again what an earlier query read."""

import json

import pytest
from asking import refused, rows
from standalone import Standalone


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    one = Standalone(tmp_path_factory.mktemp("cut"))
    process = one.start()
    try:
        with one.connect() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA lake.s")
            yield connection
    finally:
        process.stop()


def cut(cursor):
    return {source: (query, kind, at, promise) for query, source, kind, at, promise in rows(cursor, "SHOW CUT")}


def reset(cursor):
    cursor.execute("RESET SESSION cut")


def test_a_session_reads_what_an_earlier_query_read(lake):
    with lake.cursor() as cursor:
        rows(cursor, "CREATE TABLE lake.s.orders (id INT, total INT)")
        rows(cursor, "CREATE TABLE lake.s.empty (id INT)")
        rows(cursor, "INSERT INTO lake.s.orders VALUES (1, 10), (2, 20)")
        sql = "SELECT sum(total), count(*), (SELECT count(*) FROM lake.s.empty) FROM lake.s.orders"
        assert rows(cursor, sql) == [(30, 2, 0)]
        first = cut(cursor)
        assert set(first) == {"lake.s.orders", "lake.s.empty"}
        assert {entry[1:2] + entry[3:] for entry in first.values()} == {("iceberg", "repeatable")}
        query = first["lake.s.orders"][0]

        rows(cursor, "UPDATE lake.s.orders SET total = total + 1")
        rows(cursor, "INSERT INTO lake.s.empty VALUES (1)")
        rows(cursor, "ALTER TABLE lake.s.orders RENAME COLUMN total TO amount")
        refused(cursor, "COLUMN_NOT_FOUND", sql)
        assert rows(cursor, f"SHOW CUT FOR '{query}'") == sorted(
            (query, source, *entry[1:]) for source, entry in first.items()
        )

        cursor.execute(f"SET SESSION cut = '{query}'")
        assert rows(cursor, sql) == [(30, 2, 0)]
        assert {source: entry[1:] for source, entry in cut(cursor).items()} == {
            source: entry[1:] for source, entry in first.items()
        }
        assert rows(cursor, "SHOW SESSION LIKE 'cut'")[0][1] == query
        assert [row[0] for row in rows(cursor, "DESCRIBE lake.s.orders")] == ["id", "amount"]
        text = "\n".join(row[1] for row in rows(cursor, f"EXPLAIN {sql}") if row[0] == "cut")
        assert first["lake.s.orders"][2] in text and "lake.s.empty" in text
        for write in (
            "INSERT INTO lake.s.orders VALUES (3, 30)",
            "DELETE FROM lake.s.orders",
            "DROP TABLE lake.s.orders",
            "TRUNCATE TABLE lake.s.orders",
            "ALTER TABLE lake.s.orders DROP COLUMN id",
        ):
            refused(cursor, "INVALID_QUERY", write, "cut", "RESET SESSION cut")
        rows(cursor, "CREATE TABLE lake.s.kept AS SELECT * FROM lake.s.orders")
        reset(cursor)
        assert rows(cursor, "SELECT sum(amount) FROM lake.s.orders") == [(32,)]
        assert rows(cursor, "SELECT sum(total) FROM lake.s.kept") == [(30,)]


def test_the_text_of_a_cut_is_as_good_as_its_query(lake):
    with lake.cursor() as cursor:
        rows(cursor, "CREATE TABLE lake.s.t (id INT)")
        rows(cursor, "INSERT INTO lake.s.t VALUES (1)")
        rows(cursor, "ALTER TABLE lake.s.t CREATE BRANCH audit")
        sql = "SELECT (SELECT count(*) FROM lake.s.t), (SELECT count(*) FROM lake.s.t FOR VERSION AS OF 'audit')"
        assert rows(cursor, sql) == [(1, 1)]
        query = cut(cursor)["lake.s.t"][0]
        text = rows(cursor, f"SELECT cut FROM system.runtime.queries WHERE id = '{query}'")[0][0]
        assert set(json.loads(text)) == {"lake.s.t", "lake.s.t FOR VERSION AS OF 'audit'"}
        rows(cursor, "INSERT INTO lake.s.t VALUES (2)")
        rows(cursor, "ALTER TABLE lake.s.t DROP BRANCH audit")
        literal = text.replace("'", "''")
        cursor.execute(f"SET SESSION cut = '{literal}'")
        assert rows(cursor, sql) == [(1, 1)]
        cursor.execute("SET SESSION cut = ''")
        assert rows(cursor, "SELECT count(*) FROM lake.s.t") == [(2,)]


def test_what_cannot_be_read_again_is_said(lake):
    with lake.cursor() as cursor:
        for table in ("gone", "other"):
            rows(cursor, f"CREATE TABLE lake.s.{table} (id INT)")
            rows(cursor, f"INSERT INTO lake.s.{table} VALUES (1)")
        assert rows(cursor, "SELECT count(*) FROM lake.s.gone") == [(1,)]
        query = cut(cursor)["lake.s.gone"][0]
        cursor.execute(f"SET SESSION cut = '{query}'")
        refused(cursor, "SNAPSHOT_NOT_FOUND", "SELECT * FROM lake.s.other", "lake.s.other", "RESET SESSION cut")
        assert rows(cursor, "SELECT count(*) FROM lake.information_schema.columns WHERE table_name = 'other'") == [(1,)]
        reset(cursor)
        rows(cursor, "DELETE FROM lake.s.gone")
        rows(
            cursor,
            "CALL lake.system.expire_snapshots('s.gone', older_than => TIMESTAMP '2100-01-01 00:00:00', retain_last => 1)",
        )
        cursor.execute(f"SET SESSION cut = '{query}'")
        refused(cursor, "SNAPSHOT_NOT_FOUND", "SELECT * FROM lake.s.gone", "lake.s.gone", "not there any more")
        reset(cursor)
        rows(cursor, "DROP TABLE lake.s.gone")
        rows(cursor, "CREATE TABLE lake.s.gone (id INT)")
        cursor.execute(f"SET SESSION cut = '{query}'")
        refused(cursor, "SNAPSHOT_NOT_FOUND", "SELECT * FROM lake.s.gone", "another table")
        for bad in ("01hzzzzzzzzzzzzzzzzzzzzzzz", "yesterday", "{}x", '{"a": 1}'):
            refused(cursor, "QUERY_NOT_FOUND|INVALID_ARGUMENT", f"SET SESSION cut = '{bad}'")
        assert rows(cursor, "SHOW SESSION LIKE 'cut'")[0][1] == query
        cursor.execute("RESET ALL")
        assert rows(cursor, "SELECT count(*) FROM lake.s.gone") == [(0,)]


def test_the_cut_of_a_federated_query_names_every_source(cursor):
    sql = "SELECT count(*) FROM lake.tpch.orders AS o JOIN crm.public.customer AS c ON o.o_custkey = c.c_custkey"
    count = rows(cursor, sql)
    first = cut(cursor)
    assert {source: (kind, promise) for source, (_, kind, _, promise) in first.items()} == {
        "lake.tpch.orders": ("iceberg", "repeatable"),
        "crm": ("postgres", "held"),
    }
    query = first["crm"][0]
    cursor.execute(f"SET SESSION cut = '{query}'")
    try:
        refused(cursor, "SNAPSHOT_NOT_FOUND", sql, "crm (postgres)")
        assert rows(cursor, "SELECT count(*) FROM lake.tpch.orders")[0][0] > 0
    finally:
        reset(cursor)
    assert rows(cursor, sql) == count
