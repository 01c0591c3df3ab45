"""Keys that the catalog vends: a cluster without a key of S3 in its configuration, over SeaweedFS's REST catalog.

SeaweedFS vends keys that live 900 seconds at least. A proxy that says they live three seconds shows that they are asked for again;
`TOWNLAKE_SOAK=1` waits until some have expired.
"""

import json
import os
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pyiceberg.catalog import load_catalog
from servers import Cluster, Etcd, SeaweedFS
from town import Servers, running

SOAK = bool(os.environ.get("TOWNLAKE_SOAK"))
LIFE = 900
TOLD = 3


class ShorteningProxy:
    """Hands requests on to a REST catalog, and says of vended keys that they live `TOLD` seconds."""

    def __init__(self, upstream):
        self.vended = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length")}
                body = self.rfile.read(length) if length else None
                request = urllib.request.Request(upstream + self.path, body, headers, method=self.command)
                try:
                    with urllib.request.urlopen(request, timeout=30) as answer:
                        status, text = answer.status, answer.read()
                except urllib.error.HTTPError as error:
                    status, text = error.code, error.read()
                if self.headers.get("X-Iceberg-Access-Delegation") and self.command == "GET" and status == 200:
                    text = proxy.shortened(self.path, text)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_DELETE = do_HEAD = answer

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def shortened(self, path, text):
        answer = json.loads(text)
        settings = [answer.get("config", {}), *(grant["config"] for grant in answer.get("storage-credentials", []))]
        for of in settings:
            if "s3.session-token" in of:
                of["s3.session-token-expires-at-ms"] = str(int((time.time() + TOLD) * 1000))
        if "/tables/" in path:
            self.vended.append(path)
        return json.dumps(answer).encode()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Setting(Servers):
    def begin(self):
        self.etcd = self.add(Etcd(self.folder))
        self.weed = self.add(SeaweedFS(self.folder, LIFE))
        self.proxy = self.add(ShorteningProxy(self.weed.rest))
        catalogs = self.catalog("vended", self.weed.rest) + self.catalog("short", self.proxy.uri)
        self.cluster = self.add(Cluster(self.folder, self.etcd, catalogs))

    def catalog(self, name, uri):
        return (
            f'[catalogs.{name}]\ntype = "iceberg"\ncatalog = "rest"\nuri = "{uri}"\nwarehouse = "s3://lake"\nscope = ""\n'
            f'credential = "{self.weed.credential}"\nwriters = ["{Cluster.USER}"]\n'
        )

    def pyiceberg(self):
        weed = self.weed
        login = {"credential": weed.credential, "scope": "", "s3.region": "us-east-1", "s3.endpoint": weed.s3}
        keys = {"s3.access-key-id": weed.ACCESS_KEY, "s3.secret-access-key": weed.SECRET_KEY}
        return load_catalog("rest", type="rest", uri=weed.rest, warehouse="s3://lake", **login, **keys)


@pytest.fixture(scope="module")
def setting():
    with running(Setting, "vended") as setting:
        yield setting


@pytest.fixture
def cursor(setting):
    with setting.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION execution = cluster")  # on the executors, however few the rows
        yield cursor


def fetch(cursor, sql):
    cursor.execute(sql)
    return cursor.fetchall()


def fill(cursor, table):
    cursor.execute(f"CREATE SCHEMA {table.rsplit('.', 1)[0]}")
    modes = ", ".join(f"'write.{kind}.mode' = 'merge-on-read'" for kind in ("delete", "update", "merge"))
    cursor.execute(
        f"CREATE TABLE {table} (id BIGINT, p BIGINT, v VARCHAR) PARTITIONED BY (bucket(4, p)) WITH ({modes})"
    )
    values = "SELECT value, value % 7, 'v' || CAST(value AS VARCHAR) FROM generate_series(0, 19999)"
    assert fetch(cursor, f"INSERT INTO {table} {values}") == [(20000,)]
    assert fetch(cursor, f"DELETE FROM {table} WHERE id % 5 = 0") == [(4000,)]
    assert fetch(cursor, f"UPDATE {table} SET v = 'new' WHERE id % 100 = 1") == [(200,)]


def test_a_configuration_without_keys_reads_and_writes(setting, cursor):
    table = "vended.first.t"
    fill(cursor, table)
    expected = [(16000, 16000 * 10000, 200)]
    totals = f"SELECT count(*), sum(id), count(*) FILTER (WHERE v = 'new') FROM {table}"
    assert fetch(cursor, totals) == expected
    cursor.execute("CALL vended.system.optimize('first.t')")
    assert cursor.fetchone()[0] > 0
    assert fetch(cursor, totals) == expected
    cursor.execute("CREATE TABLE vended.first.copy AS SELECT * FROM vended.first.t WHERE p = 3")
    theirs = setting.pyiceberg()
    rows = theirs.load_table("first.t").scan().to_arrow()
    assert sorted(rows["id"].to_pylist()) == [id for id in range(20000) if id % 5]
    assert (
        theirs.load_table("first.copy").scan().to_arrow().num_rows
        == fetch(cursor, f"SELECT count(*) FROM {table} WHERE p = 3")[0][0]
    )
    plan = "\n".join(row[1] for row in fetch(cursor, f"EXPLAIN ANALYZE SELECT sum(id) FROM {table}"))
    assert "ASIA" not in plan and "eyJ" not in plan


def test_keys_are_asked_for_again_before_they_expire(setting, cursor):
    table = "short.second.t"
    fill(cursor, table)
    before = len(setting.proxy.vended)
    for _ in range(3):
        time.sleep(TOLD)
        assert fetch(cursor, f"SELECT count(*), sum(id) FROM {table}") == [(16000, 160000000)]
        cursor.execute(f"INSERT INTO {table} VALUES (0, 0, 'more')")
        cursor.execute(f"DELETE FROM {table} WHERE v = 'more'")
    asked = len(setting.proxy.vended) - before
    # Coordinator and executors ask for themselves, in each round, and not with every request.
    assert 6 <= asked <= 40, asked


@pytest.mark.skipif(not SOAK, reason="waits a quarter of an hour: make soak")
def test_a_read_after_the_keys_have_expired(setting, cursor):
    table = "vended.third.t"
    fill(cursor, table)
    time.sleep(LIFE + 5)
    assert fetch(cursor, f"SELECT count(*), sum(id) FROM {table}") == [(16000, 160000000)]
    assert fetch(cursor, f"INSERT INTO {table} VALUES (0, 0, 'x')") == [(1,)]


def test_no_vended_key_in_a_log(setting):
    for name, text in setting.cluster.logs().items():
        assert "ASIA" not in text and "eyJ" not in text and setting.weed.SECRET_KEY not in text, name
