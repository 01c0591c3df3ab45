"""A cluster in one process."""

import os
import subprocess

import adbc_driver_flightsql.dbapi as flightsql
from servers import Cluster, Process, free_ports, http_status


def catalog_text(folder):
    return (
        f'[catalogs.lake]\ntype = "iceberg"\ncatalog = "sql"\nuri = "sqlite://{folder}/catalog.db"\n'
        f'warehouse = "file://{folder}/warehouse"\nwriters = ["{Cluster.USER}"]\n'
    )


class Standalone:
    """One process that is coordinator and executor, over files that outlive it."""

    def __init__(self, folder, catalogs=None, more=""):
        self.folder = folder
        binary = os.environ["TOWNLAKE_BIN"]
        hashed = subprocess.run(
            [binary, "hash-password"], input=Cluster.PASSWORD, capture_output=True, text=True, check=True
        ).stdout.strip()
        flight, self.http, internal, executor, executor_http = free_ports(5)
        self.address = f"127.0.0.1:{flight}"
        self.config = folder / "standalone.toml"
        self.config.touch(mode=0o600)
        self.config.write_text(
            f'[server]\nflight = "{self.address}"\nhttp = "127.0.0.1:{self.http}"\n'
            f'[cluster]\ninternal = "127.0.0.1:{internal}"\n[store]\nurl = "sqlite://{folder}/state.db"\n'
            f'[executor]\nlisten = "127.0.0.1:{executor}"\nhttp = "127.0.0.1:{executor_http}"\nslots = 2\n'
            f'spill_dir = "{folder}/spill"\n[[auth.users]]\nname = "{Cluster.USER}"\npassword_hash = "{hashed}"\n'
            + (catalogs or catalog_text(folder))
            + more
        )
        self.command = [binary, "standalone", "--config", self.config]

    def start(self, fault=None):
        environment = {**os.environ, "TOWNLAKE_LOG": "warn", "NO_COLOR": "1"}
        if fault:
            environment["TOWNLAKE_FAULT"] = fault
        process = Process("standalone", self.folder, self.command, env=environment)
        process.wait_until(lambda: http_status(f"http://127.0.0.1:{self.http}/readyz") == 200)
        return process

    def connect(self):
        return connect(self.address)


def connect(address):
    login = {"username": Cluster.USER, "password": Cluster.PASSWORD}
    return flightsql.connect(f"grpc://{address}", db_kwargs=login, autocommit=True)
