"""A source beside the lake, as a user works with both: rows into Postgres, its own SQL, keys of a join in its scan."""

import time
from contextlib import closing

import pytest
from asking import refused, rows
from servers import Cluster, Postgres
from standalone import Standalone, catalog_text
from town import Servers, running

SCHEMA = """
CREATE TYPE mood AS ENUM ('ok', 'bad');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE customer (id int PRIMARY KEY, name text NOT NULL, city text DEFAULT 'here', since timestamptz, mood mood, tags text[],
  price numeric(10, 2), doc jsonb, n positive, raw bytea, ref uuid);
CREATE TABLE sale (id serial PRIMARY KEY, customer int, amount numeric(10, 2));
CREATE TABLE big (id int PRIMARY KEY, v text);
INSERT INTO big SELECT i, 'v' || i FROM generate_series(1, 100000) i;
CREATE TABLE pair (a int, b int, UNIQUE (a) DEFERRABLE INITIALLY DEFERRED);
CREATE VIEW names AS SELECT name FROM customer WHERE id < 10;
ANALYZE;
"""


class Sources(Servers):
    """Postgres, and one process of ours over it and a lake."""

    def begin(self):
        self.postgres = self.add(Postgres(self.folder))
        with closing(self.postgres.connect("postgres")) as admin, admin.cursor() as cursor:
            cursor.execute("CREATE DATABASE crm")
        with self.crm() as crm, crm.cursor() as cursor:
            cursor.execute(SCHEMA)
        text = catalog_text(self.folder)
        for name, keys in (
            ("crm", f'writers = ["{Cluster.USER}"]\npass_through = true'),
            ("closed", f'readers = ["{Cluster.USER}"]'),
            ("narrow", f'writers = ["{Cluster.USER}"]\nconnections = 2'),
        ):
            text += f'[catalogs.{name}]\ntype = "postgres"\nurl = "{self.postgres.url("crm")}"\n{keys}\n'
        self.one = Standalone(self.folder, text)
        self.add(self.one.start())

    def crm(self):
        return closing(self.postgres.connect("crm"))

    def asked(self, sql):
        with self.crm() as crm, crm.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()


@pytest.fixture(scope="module")
def sources():
    with running(Sources, "sources") as sources:
        yield sources


@pytest.fixture()
def cursor(sources):
    with sources.one.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA IF NOT EXISTS lake.s")
        yield cursor


def test_rows_go_into_postgres_in_one_transaction(sources, cursor):
    rows(
        cursor,
        "CREATE TABLE lake.s.found AS SELECT CAST(value AS INT) AS id, concat('name\t\\', value) AS name, "
        "CASE WHEN value % 2 = 0 THEN 'ok' END AS mood, [CAST(value AS VARCHAR), NULL, 'a \"b\"'] AS tags, "
        "CAST(value AS DECIMAL(10, 2)) / 4 AS price, '{\"k\": [1, 2]}' AS doc, X'00ff5c' AS raw, "
        "TIMESTAMP '2024-02-29 12:34:56.789012' AS since FROM generate_series(1, 5000)",
    )
    sql = (
        "INSERT INTO crm.public.customer (name, id, since, mood, tags, price, doc, n, raw, ref) "
        "SELECT name, id, since, mood, tags, price, doc, id, raw, '6f9619ff-8b86-d011-b42d-00c04fc964ff' FROM lake.s.found"
    )
    text = dict(rows(cursor, f"EXPLAIN {sql}"))
    assert text["write"] == "copy into crm.public.customer, one transaction"
    assert rows(cursor, sql) == [(5000,)]
    found = sources.asked(
        "SELECT name, city, since = '2024-02-29 12:34:56.789012+00', mood::text, tags, price::text, doc->'k'->>1, n, raw, ref::text "
        "FROM customer WHERE id = 6"
    )
    reference = "6f9619ff-8b86-d011-b42d-00c04fc964ff"
    assert found == [("name\t\\6", "here", True, "ok", ["6", None, 'a "b"'], "1.50", "2", 6, b"\x00\xff\\", reference)]
    # what is read back is what was written
    same = "SELECT count(*) FROM crm.public.customer AS c JOIN lake.s.found AS f ON c.id = f.id AND c.name = f.name AND c.price = f.price"
    assert rows(cursor, same) == [(5000,)]
    assert rows(cursor, "INSERT INTO crm.public.sale (customer, amount) VALUES (1, 1.5), (2, NULL)") == [(2,)]
    assert rows(cursor, "INSERT INTO crm.public.sale (customer) SELECT id FROM crm.public.customer WHERE id <= 3") == [
        (3,)
    ]
    assert sources.asked("SELECT count(*), count(DISTINCT id), sum(amount) FROM sale")[0][:2] == (5, 5)
    assert rows(cursor, "INSERT INTO crm.public.sale (customer) SELECT id FROM lake.s.found WHERE id < 0") == [(0,)]


def test_a_source_of_two_connections_reads_and_writes_at_once(sources, cursor):
    before = sources.asked("SELECT count(*) FROM big")[0][0]
    sql = "INSERT INTO narrow.public.big SELECT id + 1000000, v FROM narrow.public.big WHERE id <= 100000"
    assert rows(cursor, sql) == [(100000,)]
    assert sources.asked("SELECT count(*) FROM big")[0][0] == before + 100000
    sources.asked("DELETE FROM big WHERE id > 1000000 RETURNING 1")


def test_a_statement_that_fails_leaves_nothing(sources, cursor):
    before = sources.asked("SELECT (SELECT count(*) FROM customer), (SELECT count(*) FROM pair)")
    refused(
        cursor,
        "CONSTRAINT_VIOLATION",
        "INSERT INTO crm.public.customer (id, name) VALUES (9001, 'a'), (9001, 'b')",
        "customer_pkey",
    )
    refused(cursor, "CONSTRAINT_VIOLATION", "INSERT INTO crm.public.customer (id) VALUES (9002)", "name")
    refused(
        cursor,
        "CONSTRAINT_VIOLATION",
        "INSERT INTO crm.public.customer (id, name, n) VALUES (9003, 'a', -1)",
        "positive_check",
    )
    refused(cursor, "SOURCE_ERROR", "INSERT INTO crm.public.customer (id, name, mood) VALUES (9004, 'a', 'secret')")
    refused(cursor, "CONSTRAINT_VIOLATION", "INSERT INTO crm.public.pair VALUES (1, 1), (1, 2)", "pair_a_key")
    refused(
        cursor,
        "ARITHMETIC|CAST|INVALID",
        "INSERT INTO crm.public.customer (id, name) SELECT CAST(x AS INT), 'a' FROM (VALUES ('9005'), ('no number')) AS v(x)",
    )
    assert sources.asked("SELECT (SELECT count(*) FROM customer), (SELECT count(*) FROM pair)") == before
    deadline = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'townlake%' AND state <> 'idle'"
    limit = time.monotonic() + 2
    while sources.asked(deadline)[0][0]:
        assert time.monotonic() < limit, "a backend is left"
        time.sleep(0.05)


def test_what_may_not_be_written_is_refused(cursor):
    refused(
        cursor, "PERMISSION_DENIED", "INSERT INTO closed.public.sale (customer) VALUES (1)", "[catalogs.closed] writers"
    )
    refused(cursor, "NOT_SUPPORTED", "INSERT OVERWRITE crm.public.sale SELECT 1, 1, 1", "INSERT OVERWRITE")
    refused(cursor, "NOT_SUPPORTED", "DELETE FROM crm.public.sale", "read only but for INSERT INTO")
    refused(cursor, "NOT_SUPPORTED", "CREATE TABLE crm.public.t (id INT)", "read only but for INSERT INTO")
    refused(cursor, "TABLE_NOT_FOUND", "INSERT INTO crm.public.nothing VALUES (1)")
    refused(cursor, "COLUMN_NOT_FOUND|INVALID", "INSERT INTO crm.public.sale (nothing) VALUES (1)", "nothing")
    refused(cursor, "SCHEMA_NOT_FOUND", "INSERT INTO crm.pg_catalog.pg_class (relname) VALUES ('x')")


def test_its_own_sql_is_a_table(sources, cursor):
    sql = (
        "SELECT q.initial, count(*) AS n FROM TABLE(crm.system.query('SELECT substr(v, 1, 2) AS initial, id FROM big "
        "WHERE v ~ ''^v[0-9]{3}$''')) AS q GROUP BY q.initial ORDER BY 1"
    )
    assert rows(cursor, sql) == [(f"v{digit}", 100) for digit in range(1, 10)]
    assert rows(cursor, "SELECT * FROM TABLE(crm.system.query($$SELECT 1 AS one, 'x' AS \"Two\"$$))") == [(1, "x")]
    rows(cursor, "CREATE OR REPLACE VIEW lake.s.passed AS SELECT * FROM TABLE(crm.system.query('SELECT 7 AS seven'))")
    assert rows(cursor, "SELECT seven + 1 FROM lake.s.passed") == [(8,)]
    refused(cursor, "NOT_SUPPORTED", "SELECT * FROM TABLE(closed.system.query('SELECT 1 AS x'))", "pass_through = true")
    refused(cursor, "NOT_SUPPORTED", "SELECT * FROM TABLE(lake.system.query('SELECT 1 AS x'))", "lake")
    refused(cursor, "CATALOG_NOT_FOUND", "SELECT * FROM TABLE(nothing.system.query('SELECT 1 AS x'))")
    refused(cursor, "SOURCE_ERROR", "SELECT * FROM TABLE(crm.system.query('SELEC 1'))", "syntax error")
    refused(cursor, "INVALID_QUERY", "SELECT * FROM TABLE(crm.system.query('DELETE FROM big'))", "gives no rows")
    refused(cursor, "SOURCE_ERROR", "SELECT * FROM TABLE(crm.system.query('DELETE FROM big RETURNING id'))")
    refused(cursor, "INVALID_QUERY", "SELECT * FROM TABLE(crm.system.query(1))", "one text")
    assert sources.asked("SELECT count(*) FROM big") == [(100000,)]


def test_keys_of_the_small_side_go_into_the_scan(sources, cursor):
    rows(cursor, "CREATE TABLE lake.s.few AS SELECT * FROM (VALUES (7, 'a'), (77, 'b'), (200000, 'c')) AS v(id, name)")
    sql = "SELECT f.name, b.v FROM lake.s.few AS f JOIN crm.public.big AS b ON b.id = f.id ORDER BY 1"
    log = sources.postgres.process.log_path
    for pushdown, filtered in (("all", True), ("filters", False)):
        cursor.execute(f"SET SESSION source_pushdown = '{pushdown}'")
        begin = log.stat().st_size
        assert rows(cursor, sql) == [("a", "v7"), ("b", "v77")]
        said = log.read_bytes()[begin:].decode()
        assert ("IN ('7'::int4, '77'::int4, '200000'::int4)" in said) == filtered, said
    cursor.execute("RESET SESSION source_pushdown")
