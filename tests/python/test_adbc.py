"""The Flight SQL door as a Python user sees it, through the ADBC driver."""

import threading
import time

import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog

FEDERATED = """
SELECT n_name, count(*) AS orders FROM lake.tpch.orders
JOIN crm.public.customer ON c_custkey = o_custkey
JOIN crm.public.nation ON n_nationkey = c_nationkey
GROUP BY n_name ORDER BY orders DESC, n_name
"""

#: What is wrong, and words that the error must hold.
BAD_INPUT = [
    ("SELECT * FROM lake.tpch.lineitm", ["TABLE_NOT_FOUND", "lineitem"]),
    ("SELECT o_totalprize FROM lake.tpch.orders", ["COLUMN_NOT_FOUND", "o_totalprice"]),
    ("SELECT 1 FROM nowhere.a.b", ["CATALOG_NOT_FOUND", "nowhere"]),
    ("SELECT 1\nFROM lake.tpch.orders WHRE 1", ["SYNTAX_ERROR", "Line: 2"]),
    ("SELECT 1; SELECT 2", ["NOT_ONE_STATEMENT"]),
    ("COPY lake.tpch.orders TO '/tmp/x.csv'", ["NOT_SUPPORTED"]),
    ("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'", ["NOT_SUPPORTED"]),
    ("SELECT * FROM '/etc/passwd'", ["NOT_FOUND"]),
    ("SELECT count(*) FROM lake.tpch.orders FOR VERSION AS OF 12345", ["SNAPSHOT_NOT_FOUND", "12345"]),
]


def one(cursor, sql, parameters=None):
    cursor.execute(sql, parameters)
    return cursor.fetchone()


def rejected(cursor, sql, *words):
    with pytest.raises(Exception) as caught:
        cursor.execute(sql)
        cursor.fetchall()
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return str(caught.value)


def test_federated_join_counts_every_order(cursor):
    cursor.execute(FEDERATED)
    table = cursor.fetch_arrow_table()
    assert table.column_names == ["n_name", "orders"]
    assert sum(table["orders"].to_pylist()) == one(cursor, "SELECT count(*) FROM lake.tpch.orders")[0] == 150_000


def test_the_query_ran_in_stages_on_both_executors(connection):
    with connection.cursor() as cursor:
        cursor.execute(FEDERATED + " -- stages")
        cursor.fetchall()
        query, state = one(
            cursor,
            "SELECT id, state FROM system.runtime.queries WHERE sql LIKE '%-- stages' AND sql LIKE '%n_name%' "
            "ORDER BY created DESC LIMIT 1",
        )
        assert state == "FINISHED"
        cursor.execute(f"SELECT DISTINCT stage, executor FROM system.runtime.tasks WHERE query_id = '{query}'")
        rows = cursor.fetchall()
    assert len({stage for stage, _ in rows}) >= 2
    assert len({executor for _, executor in rows}) == 2


def test_prepared_statement_with_bound_parameters(cursor):
    sql = "SELECT o_orderkey, o_totalprice FROM lake.tpch.orders WHERE o_orderkey = $1 OR o_orderkey = $2 ORDER BY 1"
    cursor.execute(sql, (1, 7))
    assert [row[0] for row in cursor.fetchall()] == [1, 7]
    cursor.execute(sql, (2, 3))
    assert [row[0] for row in cursor.fetchall()] == [2, 3]
    assert one(cursor, "SELECT $1 || 'x'", ("é'; --",))[0] == "é'; --x"
    assert one(cursor, "SELECT c_name FROM crm.public.customer WHERE c_custkey = ?", (42,))[0] == "Customer#000000042"


def test_ingest_creates_appends_and_replaces(cursor):
    table = pa.table({"id": pa.array([1, 2, None], pa.int64()), "name": ["ann", "bob", None]})
    where = {"catalog_name": "lake", "db_schema_name": "tpch"}
    assert cursor.adbc_ingest("people", table, mode="create", **where) == 3
    assert cursor.adbc_ingest("people", table, mode="append", **where) == 3
    assert one(cursor, "SELECT count(*), count(id) FROM lake.tpch.people") == (6, 4)
    assert cursor.adbc_ingest("people", table.slice(0, 1), mode="replace", **where) == 1
    assert one(cursor, "SELECT id, name FROM lake.tpch.people") == (1, "ann")
    with pytest.raises(Exception, match="ALREADY_EXISTS"):
        cursor.adbc_ingest("people", table, mode="create", **where)
    cursor.execute("DROP TABLE lake.tpch.people")


def test_insert_and_create_table_as(cursor):
    cursor.execute("CREATE TABLE lake.tpch.big_orders AS SELECT * FROM lake.tpch.orders WHERE o_totalprice > 300000")
    expected = one(cursor, "SELECT count(*) FROM lake.tpch.orders WHERE o_totalprice > 300000")
    assert one(cursor, "SELECT count(*) FROM lake.tpch.big_orders") == expected
    cursor.execute("INSERT INTO lake.tpch.big_orders (o_orderkey, o_comment) VALUES (-1, 'mine'), (-2, NULL)")
    assert one(cursor, "SELECT count(*) FROM lake.tpch.big_orders WHERE o_orderkey < 0 AND o_custkey IS NULL")[0] == 2
    cursor.execute("DROP TABLE lake.tpch.big_orders")


def test_executemany_is_one_commit(demo, cursor):
    catalog = SqlCatalog("lake", uri=f"sqlite:///{demo.folder}/catalog.db", warehouse=f"file://{demo.folder}/warehouse")
    cursor.execute("CREATE TABLE lake.tpch.many (id INT NOT NULL, name VARCHAR, kind VARCHAR)")
    insert = "INSERT INTO lake.tpch.many (kind, name, id) VALUES ('fixed', ?, ?)"
    cursor.executemany(insert, [(None if i % 10 == 0 else f"n{i}", i) for i in range(1000)])
    assert cursor.rowcount in (1000, -1)
    everything = "SELECT count(*), sum(id), count(name), min(kind), max(name) FROM lake.tpch.many"
    expected = (1000, sum(range(1000)), 900, "fixed", "n999")
    assert one(cursor, everything) == expected
    assert len(catalog.load_table("tpch.many").snapshots()) == 1

    # a row in the middle that cannot be: nothing of the others, either
    for bad in (None, 1 << 40):
        with pytest.raises(Exception) as caught:
            cursor.executemany(insert, [("x", bad if i == 500 else i) for i in range(1000)])
        assert str(1 << 40) not in str(caught.value)
    assert one(cursor, everything) == expected
    assert len(catalog.load_table("tpch.many").snapshots()) == 1

    # more than one row in the statement, and one parameter twice
    cursor.executemany("INSERT INTO lake.tpch.many VALUES ($1, $2, 'a'), ($1 + 1, $2, 'b')", [(-10, "p"), (-20, "q")])
    cursor.execute("SELECT id, name, kind FROM lake.tpch.many WHERE id < 0 ORDER BY id")
    assert cursor.fetchall() == [(-20, "q", "a"), (-19, "q", "b"), (-10, "p", "a"), (-9, "p", "b")]
    assert len(catalog.load_table("tpch.many").snapshots()) == 2
    cursor.execute("DROP TABLE lake.tpch.many")


def test_a_limit_can_be_bound(cursor):
    sql = "SELECT n_nationkey FROM crm.public.nation ORDER BY 1 LIMIT ? OFFSET ?"
    cursor.execute(sql, (2, 3))
    assert [row[0] for row in cursor.fetchall()] == [3, 4]
    schema = cursor.adbc_prepare(sql)
    assert [field.type for field in schema] == [pa.int64(), pa.int64()]


def test_metadata(connection):
    info = connection.adbc_get_info()
    assert info["vendor_name"] == "Town Lake"
    assert connection.adbc_get_table_types() 
    schema = connection.adbc_get_table_schema("orders", catalog_filter="lake", db_schema_filter="tpch")
    assert schema.field("o_totalprice").type == pa.decimal128(15, 2)
    objects = connection.adbc_get_objects(depth="columns", catalog_filter="crm").read_all().to_pylist()
    schemas = {s["db_schema_name"]: s for s in objects[0]["catalog_db_schemas"]}
    tables = {t["table_name"]: t for t in schemas["public"]["db_schema_tables"]}
    assert {"customer", "nation"} <= set(tables)
    assert "c_acctbal" in {c["column_name"] for c in tables["customer"]["table_columns"]}


def test_a_session_keeps_its_schema(connection):
    with connection.cursor() as cursor:
        cursor.execute("USE lake.tpch")
        cursor.fetchall()
        assert one(cursor, "SELECT count(*) FROM region")[0] >= 5


@pytest.mark.parametrize("sql, words", BAD_INPUT)
def test_bad_input_is_named(cursor, sql, words):
    rejected(cursor, sql, *words)


def test_wrong_password_is_refused(demo):
    with pytest.raises(Exception, match="(?i)unauth"):
        with demo.connect(password="wrong") as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")


def test_cancel_ends_the_query_on_the_server(demo):
    slow = "SELECT count(*) FROM lake.tpch.lineitem a, lake.tpch.lineitem b WHERE a.l_comment < b.l_comment -- slow"
    with demo.connect() as connection, connection.cursor() as cursor:
        timer = threading.Timer(2.0, cursor.adbc_cancel)
        timer.start()
        started = time.monotonic()
        with pytest.raises(Exception):
            cursor.execute(slow)
            cursor.fetchall()
        assert time.monotonic() - started < 20
    deadline = time.monotonic() + 5
    with demo.connect() as connection, connection.cursor() as cursor:
        while True:
            states = "SELECT state FROM system.runtime.queries WHERE sql LIKE '%-- slow' AND sql NOT LIKE '%runtime%'"
            cursor.execute(states)
            states = {row[0] for row in cursor.fetchall()}
            if states == {"CANCELLED"}:
                break
            assert time.monotonic() < deadline, states
            time.sleep(0.2)
