"""Catalogs and stores that nobody here wrote, and a cluster of a coordinator and two executors that is configured for them."""

import os
import shutil
from contextlib import closing, contextmanager
from pathlib import Path

import adbc_driver_flightsql.dbapi as flightsql
from pyiceberg.catalog import load_catalog
from servers import Cluster, Etcd, Postgres, SeaweedFS, free_ports

WRONG = "hunter2-wrong"
ROWS = 200_000


class Servers:
    """Servers that begin one after another, and a cluster of ours among them (`cluster`)."""

    def __init__(self, folder):
        self.folder, self.started = folder, []
        try:
            self.begin()
        except BaseException:
            self.stop()
            raise

    def begin(self):
        raise NotImplementedError

    def add(self, server):
        self.started.append(server)
        return server

    def stop(self):
        while self.started:
            self.started.pop().stop()

    def connect(self):
        login = {"username": Cluster.USER, "password": Cluster.PASSWORD}
        return flightsql.connect(f"grpc://{self.cluster.address}", db_kwargs=login, autocommit=True)


@contextmanager
def running(kind, name):
    """Servers of a kind, in a folder that goes with them. (Not pytest's private one: the user `postgres` must be able to enter.)"""
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"townlake-{name}-{os.getpid()}"
    folder.mkdir(mode=0o755)
    servers = None
    try:
        servers = kind(folder)
        yield servers
    finally:
        if servers:
            servers.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Town(Servers):
    """All servers, and the cluster that is configured for them."""

    def begin(self):
        self.etcd = self.add(Etcd(self.folder))
        self.postgres = self.add(Postgres(self.folder))
        self.weed = self.add(SeaweedFS(self.folder))
        fill(self.postgres)
        self.cluster = self.add(Cluster(self.folder, self.etcd, self.catalogs()))

    def catalogs(self):
        weed, postgres = self.weed, self.postgres
        (closed,) = free_ports(1)
        rest = f'catalog = "rest"\nuri = "{weed.rest}"\nwarehouse = "s3://lake"\nscope = ""\n'
        return "".join(
            (
                iceberg("rest", f'{rest}credential = "{weed.credential}"\n{self.s3()}'),
                iceberg("rest_refused", f'{rest}credential = "{weed.ACCESS_KEY}:{WRONG}"\n{self.s3()}'),
                iceberg("rest_keys", f'{rest}credential = "{weed.credential}"\n{self.s3(WRONG)}'),
                iceberg("rest_gone", f'{rest}credential = "a:{WRONG}"\n{self.s3()}'.replace(weed.rest, gone(closed))),
                iceberg("files", sql(f"sqlite://{self.folder}/files.db", "s3://warehouse/files") + self.s3()),
                iceberg("shared", sql(postgres.url("lake"), "s3://warehouse/shared") + self.s3()),
                iceberg("shared_refused", sql(postgres.url("lake", password=WRONG), "s3://warehouse/shared")),
                f'[catalogs.drop]\ntype = "files"\nlocation = "s3://warehouse/drop"\nreaders = ["ann"]\n{self.s3()}',
                f'[catalogs.drop_refused]\ntype = "files"\nlocation = "s3://warehouse/drop"\nreaders = ["ann"]\n{self.s3(WRONG)}',
                f'[catalogs.crm]\ntype = "postgres"\nurl = "{postgres.url("crm")}"\nreaders = ["ann"]\n',
            )
        )

    def s3(self, secret=SeaweedFS.SECRET_KEY):
        return (
            f's3_endpoint = "{self.weed.s3}"\ns3_region = "us-east-1"\ns3_path_style = true\n'
            f's3_access_key_id = "{self.weed.ACCESS_KEY}"\ns3_secret_access_key = "{secret}"\n'
        )

    def pyiceberg(self, name):
        """The same catalog, as pyiceberg sees it."""
        properties = {
            "s3.endpoint": self.weed.s3,
            "s3.access-key-id": self.weed.ACCESS_KEY,
            "s3.secret-access-key": self.weed.SECRET_KEY,
            "s3.region": "us-east-1",
        }
        if name == "rest":
            uri, own = self.weed.rest, {"type": "rest", "warehouse": "s3://lake"}
            own |= {"credential": self.weed.credential, "scope": "", "view-endpoints-supported": "true"}
        else:
            shared = self.postgres.url("lake", "postgresql+psycopg")
            uri = {"files": f"sqlite:///{self.folder}/files.db", "shared": shared}[name]
            own = {"type": "sql", "warehouse": f"s3://warehouse/{name}"}
        return load_catalog(name, uri=uri, **own, **properties)


def iceberg(name, text):
    return f'[catalogs.{name}]\ntype = "iceberg"\nwriters = ["ann"]\n{text}'


def sql(uri, warehouse):
    return f'catalog = "sql"\nuri = "{uri}"\nwarehouse = "{warehouse}"\n'


def gone(port):
    return f"http://127.0.0.1:{port}"


def fill(postgres):
    with closing(postgres.connect("postgres")) as admin, admin.cursor() as cursor:
        cursor.execute("CREATE DATABASE lake")
        cursor.execute("CREATE DATABASE crm")
    with closing(postgres.connect("crm")) as crm, crm.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE account (id bigint PRIMARY KEY, region text, balance bigint);"
            f"INSERT INTO account SELECT i, 'r' || i % 5, 100 FROM generate_series(1, {ROWS}) i; ANALYZE account"
        )
