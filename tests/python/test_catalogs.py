"""Catalogs that are made by SQL: live at once, kept, the same on every node, and no secret of theirs is told."""

import socket
import sqlite3
import threading
import time
from contextlib import closing, contextmanager, suppress

import pytest
from asking import refused, rows
from servers import Cluster, Etcd, Postgres, free_ports
from standalone import Standalone, catalog_text
from town import Servers, running

ADMINS = f'[auth]\nadmins = ["{Cluster.USER}"]\n'


class Two(Servers):
    """Postgres, and two nodes of ours that share a store."""

    def begin(self):
        self.postgres = self.add(Postgres(self.folder))
        with closing(self.postgres.connect("postgres")) as admin, admin.cursor() as cursor:
            for name in ("one", "two"):
                cursor.execute(f"CREATE DATABASE {name}")
        for name, count in (("one", 1000), ("two", 2000)):
            with closing(self.postgres.connect(name)) as database, database.cursor() as cursor:
                cursor.execute(f"CREATE TABLE t AS SELECT i AS id FROM generate_series(1, {count}) i")
        self.nodes = []
        for number in (1, 2):
            folder = self.folder / f"node{number}"
            folder.mkdir()
            text = catalog_text(self.folder).replace("writers", "readers")
            node = Standalone(folder, text, ADMINS)
            node.config.write_text(node.config.read_text().replace(f"{folder}/state.db", f"{self.folder}/state.db"))
            self.nodes.append((node, self.add(node.start())))


@pytest.fixture(scope="module")
def two():
    with running(Two, "catalogs") as two:
        yield two


@pytest.fixture()
def cursor(two):
    with two.nodes[0][0].connect() as connection, connection.cursor() as cursor:
        yield cursor


def until(true, limit=10):
    deadline = time.monotonic() + limit
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def create(two, name, database, more=""):
    url = two.postgres.url(database)
    return f"CREATE CATALOG {name} USING postgres WITH (url = '{url}', connections = 4{more})"


def test_a_catalog_is_live_on_every_node_and_kept(two, cursor):
    refused(cursor, "CATALOG_NOT_FOUND", "SELECT * FROM shop.public.t")
    rows(cursor, create(two, "shop", "one"))
    assert rows(cursor, "SELECT count(*) FROM shop.public.t") == [(1000,)]
    cursor.execute("SET SESSION execution = 'cluster'")
    assert rows(cursor, "SELECT sum(id) FROM shop.public.t WHERE id > 990") == [(9955,)]
    cursor.execute("RESET SESSION execution")
    assert ("shop",) in rows(cursor, "SHOW CATALOGS")
    with two.nodes[1][0].connect() as connection, connection.cursor() as other:
        assert rows(other, "SELECT count(*) FROM shop.public.t") == [(1000,)]
        until(lambda: ("shop",) in rows(other, "SHOW CATALOGS"))
        refused(cursor, "ALREADY_EXISTS", create(two, "shop", "two"))
        rows(cursor, create(two, "shop", "two").replace("CATALOG", "CATALOG IF NOT EXISTS", 1))
        # another one of the name
        rows(cursor, "DROP CATALOG shop")
        refused(cursor, "CATALOG_NOT_FOUND", "SELECT * FROM shop.public.t")
        refused(other, "CATALOG_NOT_FOUND", "SELECT * FROM shop.public.nothing")
        rows(other, create(two, "shop", "two"))
        for some in (other, cursor):
            some.execute("SET SESSION execution = 'cluster'")
            assert rows(some, "SELECT count(*) FROM shop.public.t WHERE id > 0") == [(2000,)]
            some.execute("RESET SESSION execution")
    node, process = two.nodes[1]
    process.stop()
    two.started.remove(process)
    two.nodes[1] = (node, two.add(node.start()))
    with node.connect() as connection, connection.cursor() as again:
        assert ("shop",) in rows(again, "SHOW CATALOGS")
        assert rows(again, "SELECT count(*) FROM shop.public.t") == [(2000,)]
        rows(again, "DROP CATALOG shop")
        refused(again, "CATALOG_NOT_FOUND", "DROP CATALOG shop")
        rows(again, "DROP CATALOG IF EXISTS shop")


def test_secrets_are_kept_and_never_told(two, cursor):
    rows(cursor, create(two, "vault", "one", ", readers = 'bob, eve', pass_through = true"))
    text = rows(cursor, "SHOW CREATE CATALOG vault")[0][0]
    for part in ("CREATE CATALOG vault USING postgres", "url = '***'", "connections = 4", "ARRAY['bob', 'eve']"):
        assert part in text, text
    # it is for bob and eve alone
    refused(cursor, "CATALOG_NOT_FOUND", "SELECT * FROM vault.public.t")
    refused(cursor, "SYNTAX_ERROR", create(two, "broken", "one").replace("url =", "url"))
    refused(cursor, "INVALID_ARGUMENT", create(two, "broken", "one", ", conections = 4"), "did you mean `connections`")
    refused(cursor, "INVALID_ARGUMENT", create(two, "broken", "one", ", connect_timeout = 'soon'"), "connect_timeout")
    refused(cursor, "INVALID_ARGUMENT", create(two, "Broken-1", "one").replace("Broken-1", '"Broken-1"'), "lower-case")
    refused(cursor, "ALREADY_EXISTS", create(two, "lake", "one"), "configuration")
    refused(
        cursor, "INVALID_ARGUMENT", create(two, "broken", "one").replace("postgres W", "oracle W"), "must be one of"
    )
    refused(cursor, "NOT_SUPPORTED", "DROP CATALOG lake", "[catalogs.lake]")
    told = "\n".join(row[0] or "" for row in rows(cursor, "SELECT sql FROM system.runtime.queries"))
    assert "CREATE CATALOG vault USING postgres" in told and Postgres.PASSWORD not in told
    with closing(sqlite3.connect(two.folder / "state.db")) as store:
        audit = store.execute("SELECT * FROM query_audit").fetchall()
    assert any("CREATE CATALOG vault" in str(row) for row in audit)
    assert not any(Postgres.PASSWORD in str(row) for row in audit)
    for _, process in two.nodes:
        assert Postgres.PASSWORD not in process.log()
    rows(cursor, "DROP CATALOG vault")


def test_one_that_cannot_be_reached_says_so(two, cursor):
    url = two.postgres.url("one", password="hunter2-wrong")
    rows(cursor, f"CREATE CATALOG away USING postgres WITH (url = '{url}')")
    refused(cursor, "SOURCE_DENIED", "SELECT * FROM away.public.t", "away")
    rows(cursor, "DROP CATALOG away")


@contextmanager
def relayed(port, to):
    """What connects to `port` meanwhile is connected to the port `to`."""

    def pump(one, other):
        with suppress(OSError):
            while some := one.recv(65536):
                other.sendall(some)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept():
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", to))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", port)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield


def test_a_refresh_reaches_every_node(two, cursor):
    (port,) = free_ports(1)
    url = two.postgres.url("one").replace(str(two.postgres.port), str(port))
    settings = "breaker_failures = 1, breaker_pause = '1h'"
    rows(cursor, f"CREATE CATALOG far USING postgres WITH (url = '{url}', {settings})")
    count = "SELECT count(*) FROM far.public.t"
    with two.nodes[1][0].connect() as connection, connection.cursor() as other:
        for some in (cursor, other):
            refused(some, "SOURCE_UNAVAILABLE", count, "cannot be reached")
            refused(some, "SOURCE_UNAVAILABLE", count, "tried again in 3600 s")
        with relayed(port, two.postgres.port):
            for some in (cursor, other):
                refused(some, "SOURCE_UNAVAILABLE", count, "1 times in a row")
            rows(cursor, "CALL far.system.refresh()")
            assert rows(cursor, count) == [(1000,)]

            def answers():
                try:
                    return rows(other, count) == [(1000,)]
                except Exception:
                    return False

            until(answers, 5)
            with closing(two.postgres.connect("one")) as database, database.cursor() as admin:
                refused(other, "TABLE_NOT_FOUND", "SELECT * FROM far.public.later")
                admin.execute("CREATE TABLE later AS SELECT 1 AS a")
                rows(cursor, "CALL far.system.refresh()")
                assert rows(other, "SELECT * FROM far.public.later") == [(1,)]
                admin.execute("ALTER TABLE later ADD b int DEFAULT 2")
                assert rows(other, "SELECT * FROM far.public.later") == [(1, 2)]
    rows(cursor, "DROP CATALOG far")


def test_executors_of_a_cluster_learn_of_it():
    class Town(Servers):
        def begin(self):
            self.etcd = self.add(Etcd(self.folder))
            self.postgres = self.add(Postgres(self.folder))
            with closing(self.postgres.connect("postgres")) as database, database.cursor() as cursor:
                cursor.execute("CREATE TABLE t AS SELECT i AS id FROM generate_series(1, 5000) i")
            self.cluster = self.add(Cluster(self.folder, self.etcd, catalog_text(self.folder) + ADMINS))

    with running(Town, "made") as town, town.connect() as connection, connection.cursor() as cursor:
        rows(cursor, create(town, "shop", "postgres"))
        cursor.execute("SET SESSION execution = 'cluster'")
        assert rows(cursor, "SELECT count(*), sum(id) FROM shop.public.t WHERE id > 10") == [(4990, 12502445)]
        for node in town.cluster.nodes:
            assert Postgres.PASSWORD not in node.log()
