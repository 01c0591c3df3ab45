"""Views in catalogs that nobody here wrote: SeaweedFS's Iceberg REST catalog, and SQL catalogs on SQLite and a real Postgres.

pyiceberg reads and makes the views of the REST catalog; in SQL catalogs it has none, and must not take ours for tables.
"""

import gzip
import json
import sqlite3
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal

import pyarrow as pa
import pytest
from pyiceberg.exceptions import NoSuchTableError, NoSuchViewError
from pyiceberg.view.metadata import ViewVersion
from test_stores import cursor, rejected, rows  # noqa: F401 (fixtures)

CATALOGS = ["rest", "files", "shared"]


def names(cursor, sql):
    return [row[0] for row in rows(cursor, sql)]


def make_orders(cursor, schema):
    cursor.execute(f"CREATE SCHEMA {schema}")
    cursor.execute(f"CREATE TABLE {schema}.orders (id BIGINT, who VARCHAR, total DECIMAL(12, 2))")
    values = "(1, 'ann', 1.50), (2, 'bob', 2.25), (3, 'ann', 4.00), (4, NULL, 8.00)"
    assert rows(cursor, f"INSERT INTO {schema}.orders VALUES {values}") == [(4,)]


@pytest.mark.parametrize("catalog", CATALOGS)
def test_a_view_from_its_making_to_its_end(town, cursor, catalog):
    schema = f"{catalog}.life"
    make_orders(cursor, schema)
    cursor.execute(f"USE {schema}")
    query = "SELECT who, sum(total)\n  FROM orders -- all of them\n GROUP BY 1"
    cursor.execute(f"CREATE VIEW totals (who COMMENT 'a name', sum) COMMENT 'each one''s' AS {query}")
    totals = [("ann", Decimal("5.50")), ("bob", Decimal("2.25")), (None, Decimal("8.00"))]
    assert rows(cursor, "SELECT * FROM totals ORDER BY who NULLS LAST") == totals
    join = "SELECT o.id FROM orders o JOIN totals t ON t.who = o.who WHERE t.sum > 3 ORDER BY 1"
    assert rows(cursor, join) == [(1,), (3,)]
    cursor.execute("CREATE VIEW top AS SELECT who FROM totals WHERE sum > 3")
    assert rows(cursor, "SELECT * FROM top ORDER BY 1 NULLS LAST") == [("ann",), (None,)]
    assert rows(cursor, "SHOW TABLES") == [
        ("orders", "BASE TABLE", None), ("top", "VIEW", None), ("totals", "VIEW", None)
    ]  # fmt: skip
    assert rows(cursor, "SHOW VIEWS LIKE 'tot%'") == [("totals", "each one's")]
    assert [row[:2] + row[3:] for row in rows(cursor, "DESCRIBE totals")] == [
        ("who", "varchar", "a name"), ("sum", "decimal(22, 2)", None)
    ]  # fmt: skip
    ((shown,),) = rows(cursor, "SHOW CREATE VIEW totals")
    assert shown.endswith(f"COMMENT 'each one''s'\nAS\n{query}")

    rejected(cursor, "CREATE VIEW totals AS SELECT 1 AS a", "ALREADY_EXISTS")
    rejected(cursor, "CREATE VIEW orders AS SELECT 1 AS a", "ALREADY_EXISTS", "is a table")
    rejected(cursor, "CREATE TABLE totals (a BIGINT)", "ALREADY_EXISTS", "is a view")
    rejected(cursor, "INSERT INTO totals VALUES ('x', 1)", "NOT_SUPPORTED", "is a view")
    rejected(cursor, "DROP TABLE totals", "NOT_SUPPORTED", "is a view")
    rejected(cursor, "DROP VIEW orders", "NOT_SUPPORTED", "is a table")
    rejected(cursor, "CREATE OR REPLACE VIEW totals AS SELECT who, 1 AS sum FROM top", "reads itself")
    rejected(cursor, f"CREATE VIEW {catalog}.nowhere.v AS SELECT 1 AS a", "SCHEMA_NOT_FOUND")
    rejected(cursor, f"DROP SCHEMA {schema}", "INVALID_QUERY", "not empty")

    assert names(cursor, "SHOW TABLES") == ["orders", "top", "totals"]

    # what SHOW CREATE VIEW says makes the same view again
    cursor.execute("DROP VIEW totals")
    rejected(cursor, "SELECT * FROM top", "TABLE_NOT_FOUND", f"view {schema}.top cannot be read")
    cursor.execute(shown)
    assert rows(cursor, "SHOW CREATE VIEW totals") == [(shown,)]
    assert rows(cursor, "SELECT * FROM totals ORDER BY who NULLS LAST") == totals

    cursor.execute("CREATE OR REPLACE VIEW totals AS SELECT who, total AS sum FROM orders WHERE id = 1")
    assert rows(cursor, "SELECT * FROM totals") == [("ann", Decimal("1.50"))]
    assert rows(cursor, "SHOW VIEWS LIKE 'totals'") == [("totals", None)], "a replaced view has the new comment: none"
    cursor.execute("COMMENT ON VIEW totals IS 'one'")
    cursor.execute("COMMENT ON COLUMN totals.sum IS 'in euro'")
    assert rows(cursor, "SHOW VIEWS LIKE 'totals'") == [("totals", "one")]
    assert [row[3] for row in rows(cursor, "DESCRIBE totals")] == [None, "in euro"]
    assert rows(cursor, "SELECT * FROM totals") == [("ann", Decimal("1.50"))]
    cursor.execute("ALTER TABLE orders ADD COLUMN note VARCHAR")
    assert rows(cursor, "SELECT * FROM totals") == [("ann", Decimal("1.50"))]

    cursor.execute(f"CREATE SCHEMA {catalog}.life2")
    cursor.execute(f"ALTER VIEW totals RENAME TO {schema}.sums")
    assert names(cursor, "SHOW VIEWS") == ["sums", "top"]
    assert rows(cursor, "SELECT * FROM sums") == [("ann", Decimal("1.50"))]
    rejected(cursor, "ALTER VIEW sums RENAME TO top", "ALREADY_EXISTS")
    rejected(cursor, "ALTER VIEW sums RENAME TO orders", "ALREADY_EXISTS")
    cursor.execute("ALTER VIEW sums RENAME TO life2.sums")
    cursor.execute(f"USE {catalog}.life2")
    assert rows(cursor, "SELECT * FROM sums") == [("ann", Decimal("1.50"))], "its short names are those of its old schema"
    cursor.execute("DROP VIEW sums")
    cursor.execute("DROP VIEW IF EXISTS sums")
    rejected(cursor, "DROP VIEW sums", "TABLE_NOT_FOUND")
    cursor.execute(f"DROP SCHEMA {catalog}.life2")
    cursor.execute(f"DROP VIEW {schema}.top")
    cursor.execute(f"DROP TABLE {schema}.orders")
    cursor.execute(f"DROP SCHEMA {schema}")


def test_pyiceberg_reads_our_views_over_rest(town, cursor):
    make_orders(cursor, "rest.ours")
    cursor.execute("USE files.information_schema")
    query = "SELECT id, who AS name, CAST(total * 2 AS DECIMAL(14, 2)) AS twice FROM rest.ours.orders"
    cursor.execute(f"CREATE VIEW rest.ours.v COMMENT 'c' AS {query}")
    cursor.execute("USE rest.ours")
    cursor.execute("CREATE VIEW short AS SELECT * FROM orders")
    theirs = town.pyiceberg("rest")
    assert sorted(theirs.list_views("ours")) == [("ours", "short"), ("ours", "v")]
    assert theirs.view_exists("ours.v") and not theirs.view_exists("ours.orders")
    assert theirs.list_tables("ours") == [("ours", "orders")]
    view = theirs.load_view("ours.v")
    version = view.current_version()
    assert [(field.name, str(field.field_type), field.required) for field in view.schema().fields] == [
        ("id", "long", False), ("name", "string", False), ("twice", "decimal(14, 2)", False)
    ]  # fmt: skip
    assert view.properties["comment"] == "c"
    (representation,) = version.representations
    assert representation.root.dialect == "townlake"
    assert representation.root.sql == query
    assert (version.default_catalog, version.default_namespace) == ("files", ("information_schema",))
    short = theirs.load_view("ours.short").current_version()
    assert (short.default_catalog, short.default_namespace) == (None, ("ours",))
    for number in range(3):
        cursor.execute(f"CREATE OR REPLACE VIEW v AS SELECT {number} AS n")
    cursor.execute("CREATE OR REPLACE VIEW v AS SELECT 0 AS n")
    assert rows(cursor, "SELECT n FROM v") == [(0,)], "a version of before is the current one again"
    cursor.execute("CREATE OR REPLACE VIEW v AS SELECT 2 AS n")
    view = theirs.load_view("ours.v")
    assert len(view.versions) == 4 and view.current_version().representations[0].root.sql == "SELECT 2 AS n"
    assert "comment" not in view.properties
    theirs.drop_view("ours.v")
    rejected(cursor, "SELECT * FROM v", "TABLE_NOT_FOUND")
    cursor.execute("DROP VIEW short")
    with pytest.raises(NoSuchViewError):
        theirs.load_view("ours.short")


@pytest.mark.parametrize("catalog", ["files", "shared"])
def test_pyiceberg_does_not_take_a_view_for_a_table(town, cursor, catalog):
    make_orders(cursor, f"{catalog}.apart")
    cursor.execute(f"CREATE VIEW {catalog}.apart.v AS SELECT id FROM {catalog}.apart.orders")
    theirs = town.pyiceberg(catalog)
    assert theirs.list_tables("apart") == [("apart", "orders")]
    with pytest.raises(NoSuchTableError):
        theirs.load_table("apart.v")
    assert names(cursor, f"SELECT id FROM {catalog}.apart.v ORDER BY 1") == [1, 2, 3, 4]


def foreign(theirs, name, columns, *texts, **more):
    """A view that another engine made, of one text for each dialect."""
    representations = [{"type": "sql", "dialect": dialect, "sql": sql} for dialect, sql in texts]
    namespace = name.split(".")[:1]
    version = {"schema-id": 0, "representations": representations, "default-namespace": namespace, **more}
    theirs.create_view(name, pa.schema(columns), ViewVersion(**version))


def test_views_of_other_engines_over_rest(town, cursor):
    make_orders(cursor, "rest.theirs")
    theirs = town.pyiceberg("rest")
    who, total = ("who", pa.string()), ("total", pa.decimal128(12, 2))
    foreign(theirs, "theirs.trino", [who, total], ("trino", 'SELECT "who", total FROM orders WHERE total > 3'))
    spark = ("spark", "SELECT `who`, max(total) FROM rest.theirs.orders GROUP BY who")
    foreign(theirs, "theirs.spark", [who, total], spark, **{"default-catalog": "rest"})
    foreign(theirs, "theirs.int", [("n", pa.int32())], ("trino", "SELECT 7 AS n"))
    read = rows(cursor, "SELECT who, total FROM rest.theirs.trino ORDER BY total")
    assert read == [("ann", Decimal("4.00")), (None, Decimal("8.00"))]
    read = rows(cursor, "SELECT total FROM rest.theirs.spark ORDER BY total")
    assert read == [(Decimal(n),) for n in ("2.25", "4.00", "8.00")]
    assert rows(cursor, "SELECT n FROM rest.theirs.int") == [(7,)]
    foreign(theirs, "theirs.both", [who], ("spark", "SELECT 's' AS who"), ("trino", "SELECT 't' AS who"))
    assert rows(cursor, "SELECT * FROM rest.theirs.both") == [("t",)]

    foreign(theirs, "theirs.duck", [who], ("duckdb", "SELECT who FROM orders"))
    rejected(cursor, "SELECT * FROM rest.theirs.duck", "NOT_SUPPORTED", "duckdb")
    foreign(theirs, "theirs.odd", [who], ("trino", "SELECT who FROM orders MATCH_RECOGNIZE (nonsense"))
    rejected(cursor, "SELECT * FROM rest.theirs.odd", "NOT_SUPPORTED", "trino", "rest.theirs.odd")
    foreign(theirs, "theirs.division", [("half", pa.float64())], ("spark", "SELECT id / 2 AS half FROM orders"))
    rejected(cursor, "SELECT * FROM rest.theirs.division", "INVALID_QUERY", "column half was double and is bigint now")
    foreign(theirs, "theirs.elsewhere", [who], ("trino", "SELECT who FROM orders"), **{"default-catalog": "hive"})
    rejected(cursor, "SELECT * FROM rest.theirs.elsewhere", "CATALOG_NOT_FOUND", "rest.theirs.elsewhere")
    foreign(theirs, "theirs.fewer", [who], ("trino", "SELECT who, total FROM orders"))
    rejected(cursor, "SELECT * FROM rest.theirs.fewer", "INVALID_QUERY", "stale", "gives 2 columns")
    # all are listed, described and dropped
    listed = [("trino", 2), ("duck", 1), ("odd", 1)]
    for view, columns in listed:
        assert len(rows(cursor, f"DESCRIBE rest.theirs.{view}")) == columns
    # the text for another engine is not lost unasked
    rejected(cursor, "CREATE OR REPLACE VIEW rest.theirs.trino AS SELECT 'x' AS who", "NOT_SUPPORTED", "other engines")
    for (view,) in rows(cursor, "SELECT table_name FROM rest.information_schema.views WHERE table_schema = 'theirs'"):
        cursor.execute(f"DROP VIEW rest.theirs.{view}")
    assert rows(cursor, "SHOW TABLES FROM rest.theirs") == [("orders", "BASE TABLE", None)]


@pytest.mark.parametrize("catalog", CATALOGS)
def test_views_are_replaced_while_they_are_read(town, cursor, catalog):
    writers, rounds = 4, 6
    view = f"{catalog}.rush.v"
    cursor.execute(f"CREATE SCHEMA {catalog}.rush")
    start, done = threading.Barrier(writers + 1), threading.Event()

    def write(writer):
        with town.connect() as connection, connection.cursor() as own:
            start.wait()
            for number in range(rounds):
                own.execute(f"CREATE OR REPLACE VIEW {view} AS SELECT {writer} AS writer, {number} AS round")

    def read():
        seen = set()
        with town.connect() as connection, connection.cursor() as own:
            start.wait()
            while not done.is_set():
                try:
                    seen.update(rows(own, f"SELECT writer, round FROM {view}"))
                except Exception as error:
                    assert "TABLE_NOT_FOUND" in str(error) and not seen, (str(error), seen)  # it is not there yet
        return seen

    with ThreadPoolExecutor(writers + 1) as pool:
        reader = pool.submit(read)
        try:
            for one in [pool.submit(write, writer) for writer in range(writers)]:
                one.result()
        finally:
            done.set()
        seen = reader.result()
    every = {(writer, number) for writer in range(writers) for number in range(rounds)}
    assert seen <= every
    (last,) = rows(cursor, f"SELECT writer, round FROM {view}")
    assert last in every and last[1] == rounds - 1, "the last version is the last of one of them"
    if catalog == "rest":
        versions = town.pyiceberg("rest").load_view("rush.v").versions
        assert len({version.version_id for version in versions}) == len(versions)

    # of many who make it one does
    def make(number):
        with town.connect() as connection, connection.cursor() as own:
            try:
                own.execute(f"CREATE VIEW {catalog}.rush.one AS SELECT {number} AS maker")
                return number
            except Exception as error:
                assert "ALREADY_EXISTS" in str(error), error
                return None

    with ThreadPoolExecutor(4) as pool:
        makers = [number for number in pool.map(make, range(4)) if number is not None]
    ((maker,),) = rows(cursor, f"SELECT maker FROM {catalog}.rush.one")
    assert maker in makers
    # SeaweedFS itself may tell two that they made it.
    assert len(makers) == 1 or catalog == "rest"


def encoded(sql, version=1, **more):
    """The metadata file of a view of one column, `id`, as Spark writes it."""
    fields = [{"id": 1, "name": "id", "required": False, "type": "long"}]
    representation = {"type": "sql", "dialect": "spark", "sql": sql}
    metadata = {
        "format-version": 1,
        "view-uuid": str(uuid.uuid4()),
        "location": "s3://warehouse/files/hostile/v",
        "current-version-id": version,
        "properties": {},
        "version-log": [{"timestamp-ms": 1, "version-id": 1}],
        "schemas": [{"schema-id": 0, "type": "struct", "fields": fields}],
        "versions": [
            {
                "version-id": 1,
                "timestamp-ms": 1,
                "schema-id": 0,
                "summary": {"engine-name": "spark"},
                "representations": [representation],
                "default-namespace": ["hostile"],
            }
        ],
    }
    return json.dumps(metadata | more).encode()


def put_view(town, name, content, location=None):
    """A row and a file as Java's JdbcCatalog makes them."""
    suffix = ".gz.metadata.json" if content[:2] == b"\x1f\x8b" else ".metadata.json"
    path = f"warehouse/files/hostile/{name}/metadata/00000-{uuid.uuid4()}{suffix}"
    with town.weed.store().open_output_stream(path) as out:
        out.write(content)
    with closing(sqlite3.connect(town.folder / "files.db", timeout=30)) as database, database:
        row = ("files", "hostile", name, location or f"s3://{path}")
        database.execute("DELETE FROM iceberg_tables WHERE table_name = ? AND iceberg_type = 'VIEW'", (name,))
        database.execute(
            "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, iceberg_type) "
            "VALUES (?, ?, ?, ?, 'VIEW')",
            row,
        )


def test_metadata_of_friends_and_enemies(town, cursor):
    make_orders(cursor, "files.hostile")
    cursor.execute("CREATE VIEW files.hostile.ours AS SELECT id FROM files.hostile.orders")
    good = encoded("SELECT id FROM orders")
    put_view(town, "packed", gzip.compress(good))  # as Java does by default
    assert names(cursor, "SELECT id FROM files.hostile.packed ORDER BY 1") == [1, 2, 3, 4]
    cursor.execute("COMMENT ON VIEW files.hostile.packed IS 'ours now'")
    assert rows(cursor, "SHOW VIEWS FROM files.hostile LIKE 'packed'") == [("packed", "ours now")]
    with closing(sqlite3.connect(town.folder / "files.db", timeout=30)) as database:
        ((location,),) = database.execute("SELECT metadata_location FROM iceberg_tables WHERE table_name = 'packed'")
    assert "/00001-" in location and ".gz." not in location, "Java takes a file of that name for a packed one"

    bomb = gzip.compress(b" " * (300 << 20))
    missing = "s3://warehouse/files/hostile/v/metadata/00000-gone.metadata.json"
    for name, content, location, code in (
        ("cut", good[:-40], None, "DATA_CORRUPT"),
        ("empty", b"", None, "DATA_CORRUPT"),
        ("list", b"[]", None, "DATA_CORRUPT"),
        ("nested", b"[" * 1_000_000, None, "DATA_CORRUPT"),
        ("cut_packed", gzip.compress(good)[:-20], None, "DATA_CORRUPT"),
        ("bomb", bomb, None, "DATA_CORRUPT"),
        ("version", encoded("SELECT 1 AS id", version=9), None, "DATA_CORRUPT"),
        ("no_schema", encoded("SELECT 1 AS id", schemas=[]), None, "DATA_CORRUPT"),
        ("gone", good, missing, "FILE_NOT_FOUND"),
        ("outside", good, "file:///etc/passwd", "PERMISSION_DENIED"),
    ):
        put_view(town, name, content, location)
        began = time.monotonic()
        rejected(cursor, f"SELECT * FROM files.hostile.{name}", code)
        assert time.monotonic() - began < 30
        # it hides nothing else
        assert {"ours", "orders", name} <= set(names(cursor, "SHOW TABLES FROM files.hostile"))
    columns = "SELECT DISTINCT table_name FROM files.information_schema.columns WHERE table_schema = 'hostile' ORDER BY 1"
    rejected(cursor, columns, "PERMISSION_DENIED")
    cursor.execute("DROP VIEW files.hostile.outside")
    assert names(cursor, columns) == ["orders", "ours", "packed"]
    texts = "SELECT table_name, view_definition FROM files.information_schema.views WHERE table_schema = 'hostile'"
    texts = dict(rows(cursor, texts))
    assert texts["ours"] == "SELECT id FROM files.hostile.orders" and texts["cut"] is None

    for name, sql in (("ping", "SELECT id FROM pong"), ("pong", "SELECT id FROM files.hostile.ping")):
        put_view(town, name, encoded(sql))
    circle = "files.hostile.ping → files.hostile.pong → files.hostile.ping"
    rejected(cursor, "SELECT * FROM files.hostile.ping", "INVALID_QUERY", circle)
    for number in range(20):
        below = f"SELECT id FROM d{number - 1}"
        sql = "SELECT id FROM orders" if number == 0 else f"{below} UNION ALL {below}"
        put_view(town, f"d{number}", encoded(sql))
    assert rows(cursor, "SELECT count(*) FROM files.hostile.d3") == [(32,)]
    rejected(cursor, "SELECT count(*) FROM files.hostile.d19", "NOT_SUPPORTED", "16 levels")
    rejected(cursor, "SELECT count(*) FROM files.hostile.d14", "NOT_SUPPORTED", "more than 1000 tables")
    big = f"SELECT id FROM orders WHERE who <> '{'x' * (2 << 20)}'"
    put_view(town, "big", encoded(big))
    rejected(cursor, "SELECT * FROM files.hostile.big", "RESOURCE_EXHAUSTED", "files.hostile.big")
    for name in names(cursor, "SHOW VIEWS FROM files.hostile"):
        cursor.execute(f"DROP VIEW files.hostile.{name}")
    assert names(cursor, "SHOW TABLES FROM files.hostile") == ["orders"]


def test_clients_see_views_as_views(town, cursor):
    make_orders(cursor, "shared.seen")
    cursor.execute("CREATE VIEW shared.seen.v AS SELECT who AS name FROM shared.seen.orders")
    with town.connect() as connection:
        assert {"TABLE", "VIEW"} <= set(connection.adbc_get_table_types())
        filters = {"catalog_filter": "shared", "db_schema_filter": "seen"}
        table, view = {"orders": "TABLE"}, {"v": "VIEW"}
        for types, wanted in ((None, table | view), (["VIEW"], view), (["TABLE"], table)):
            objects = connection.adbc_get_objects(depth="columns", table_types_filter=types, **filters)
            (schema,) = objects.read_all().to_pylist()[0]["catalog_db_schemas"]
            tables = {table["table_name"]: table for table in schema["db_schema_tables"]}
            assert {name: table["table_type"] for name, table in tables.items()} == wanted
            if "v" in tables:
                assert [column["column_name"] for column in tables["v"]["table_columns"]] == ["name"]
        assert connection.adbc_get_table_schema("v", catalog_filter="shared", db_schema_filter="seen").names == ["name"]
    for mode in ("append", "create", "replace", "create_append"):
        with pytest.raises(Exception, match="shared.seen.v is a view"):
            where = {"catalog_name": "shared", "db_schema_name": "seen"}
            cursor.adbc_ingest("v", pa.table({"name": ["x"]}), mode=mode, **where)
    cursor.execute("SELECT name FROM shared.seen.v WHERE name = ?", ("bob",))
    assert cursor.fetchall() == [("bob",)]
