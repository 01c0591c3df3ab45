"""Processes that are killed in the middle of a commit, as `kill -9` kills: the table is always readable, and always what it was
before the statement or after it.

A round tells a node to die at one point (`TOWNLAKE_FAULT`, `common/src/fault.rs`), runs statements until it does, and looks at the
table from a fresh process. The model is a dict in Python. `TOWNLAKE_SOAK=1` runs two hundred rounds.
"""

import datetime
import os
import random
import signal
import subprocess

from pyiceberg.catalog.sql import SqlCatalog
from servers import Cluster, Etcd, Process
from standalone import Standalone, catalog_text, connect

SOAK = bool(os.environ.get("TOWNLAKE_SOAK"))
SEED = int(os.environ.get("TOWNLAKE_SEED", "3"))
ROUNDS = 200 if SOAK else 12
EXECUTOR_ROUNDS = 40 if SOAK else 3
COORDINATOR_POINTS = [
    "commit.begin",
    "commit.manifests",
    "commit.manifest",
    "commit.list",
    "commit.done",
    "catalog.metadata",
    "catalog.swapped",
    "cleanup.deleted",
]
EXECUTOR_POINTS = ["write.file", "write.finished", "write.deletes"]


class Table:
    """What the table must be: `rows` if the last statement did not happen, `after` if it did."""

    def __init__(self, name, random):
        self.name, self.random, self.rows, self.after, self.next = name, random, {}, {}, 0

    def statement(self):
        kind = self.random.choice(["insert", "insert", "delete", "update", "merge", "optimize", "manifests", "expire"])
        self.after = dict(self.rows)
        short = self.name.split(".", 1)[1]
        if kind == "insert" or not self.rows:
            new = {self.next + n: self.random.randrange(5) for n in range(self.random.randrange(1, 6))}
            self.next += len(new)
            self.after.update(new)
            return f"INSERT INTO {self.name} VALUES " + ", ".join(f"({id}, {v})" for id, v in new.items())
        rest = self.random.randrange(4)
        if kind == "delete":
            self.after = {id: v for id, v in self.rows.items() if id % 4 != rest}
            return f"DELETE FROM {self.name} WHERE id % 4 = {rest}"
        if kind == "update":
            self.after = {id: v + 1 if id % 4 == rest else v for id, v in self.rows.items()}
            return f"UPDATE {self.name} SET v = v + 1 WHERE id % 4 = {rest}"
        if kind == "merge":
            new, old = self.next, self.random.choice(sorted(self.rows))
            self.next += 1
            self.after.update({new: 7, old: 9})
            return (
                f"MERGE INTO {self.name} t USING (VALUES ({new}, 7), ({old}, 9)) s (id, v) ON t.id = s.id "
                "WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, s.v)"
            )
        procedure = {"optimize": f"optimize('{short}')", "manifests": f"rewrite_manifests('{short}')"}
        return f"CALL lake.system.{procedure.get(kind, f'''expire_snapshots('{short}', now() + INTERVAL '1 minute', 2)''')}"

    def happened(self):
        self.rows = self.after

    def check(self, found):
        assert found in (self.rows, self.after), f"neither before nor after: {found}"
        self.rows = found


def read(cursor, name):
    cursor.execute(f"SELECT id, v FROM {name}")
    rows = cursor.fetchall()
    assert len({id for id, _ in rows}) == len(rows), "a row came twice"
    return dict(rows)


def create(cursor, name, mode):
    properties = ", ".join(f"'write.{command}.mode' = '{mode}'" for command in ("delete", "update", "merge"))
    cursor.execute(f"CREATE TABLE {name} (id INT, v INT) PARTITIONED BY (bucket(2, id)) WITH ({properties})")


def test_the_coordinator_is_killed_at_every_step_of_a_commit(tmp_path):
    print("seed", SEED)
    rng = random.Random(SEED)
    node, died = Standalone(tmp_path), {}
    process = node.start()
    try:
        with node.connect() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA lake.s")
            for mode in ("merge-on-read", "copy-on-write"):
                create(cursor, f"lake.s.{mode.replace('-', '_')}", mode)
        tables = [Table(f"lake.s.{mode}", rng) for mode in ("merge_on_read", "copy_on_write")]
        process.stop()
        for number in range(ROUNDS):
            points = COORDINATOR_POINTS + EXECUTOR_POINTS
            point, table = points[number % len(points)], tables[number // len(points) % 2]
            process = node.start(f"{point}:{rng.randrange(1, 4)}")
            died[point] = died.get(point, 0) + run_until_death(node, process, table)
            process.stop()
            process = node.start()
            with node.connect() as connection, connection.cursor() as cursor:
                table.check(read(cursor, table.name))
                # It is not only read: the next statement finds nothing in its way.
                sql = table.statement()
                cursor.execute(sql)
                table.happened()
                table.check(read(cursor, table.name))
            theirs = SqlCatalog(
                "lake", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/warehouse"
            )
            rows = theirs.load_table(table.name.split(".", 1)[1]).scan().to_arrow().to_pydict()
            assert dict(zip(rows["id"], rows["v"])) == table.rows
            process.stop()
    finally:
        process.stop()
    print("deaths", died)
    assert sum(died.values()) >= ROUNDS * 0.7, died
    assert SOAK is False or all(died.get(point) for point in COORDINATOR_POINTS + EXECUTOR_POINTS), died


def run_until_death(node, process, table):
    """Runs statements until the process dies; whether it did. (The ADBC driver does not outlive its server in this process.)"""
    login = {"TOWNLAKE_URL": node.address, "TOWNLAKE_USER": Cluster.USER, "TOWNLAKE_PASSWORD": Cluster.PASSWORD}
    for _ in range(14):
        sql = table.statement()
        command = [os.environ["TOWNLAKE_BIN"], "sql", "--format", "quiet", "-e", sql]
        done = subprocess.run(command, env={**os.environ, **login}, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            process.child.wait(10)
            assert process.child.returncode == -signal.SIGABRT, f"{sql}: {done.stderr}"
            return True
        table.happened()
    return False


def test_an_executor_is_killed_while_it_writes(tmp_path):
    """Its tasks are run again elsewhere: the statement ends well, and no row comes twice."""
    print("seed", SEED)
    rng = random.Random(SEED)
    etcd = Etcd(tmp_path)
    cluster = None
    try:
        cluster = Cluster(tmp_path, etcd, catalog_text(tmp_path))
        with connect(cluster.address) as connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION execution = 'cluster'")
            cursor.execute("CREATE SCHEMA lake.s")
            create(cursor, "lake.s.t", "merge-on-read")
            table, died = Table("lake.s.t", rng), 0
            for number in range(EXECUTOR_ROUNDS):
                victim = restart(cluster, cursor, number % 2, f"{EXECUTOR_POINTS[number % 3]}:1")
                for _ in range(14):
                    sql = table.statement()
                    try:
                        cursor.execute(sql)
                        cursor.fetchall()
                        table.happened()
                    except Exception as error:
                        assert victim.child.poll() is not None, f"{sql}: {error}"
                    table.check(read(cursor, table.name))
                    if victim.child.poll() is not None:
                        died += 1
                        break
                restart(cluster, cursor, number % 2, None)
                table.check(read(cursor, table.name))
            assert died >= EXECUTOR_ROUNDS * 0.6, died
    finally:
        if cluster is not None:
            cluster.stop()
        etcd.stop()


def restart(cluster, cursor, number, fault):
    """The executor anew, to die at this point; returns when the coordinator knows it."""
    node, begun = cluster.nodes[number], datetime.datetime.now(datetime.timezone.utc)
    node.stop()
    environment = {**os.environ, "TOWNLAKE_LOG": "warn,townlake=debug", "NO_COLOR": "1"}
    if fault:
        environment["TOWNLAKE_FAULT"] = fault
    command = [cluster.binary, "executor", "--config", cluster.folder / f"{node.name}.toml"]
    cluster.nodes[number] = Process(node.name, cluster.folder, command, env=environment)

    def is_known():
        cursor.execute("SELECT max(started) FROM system.runtime.nodes WHERE role = 'executor' AND state = 'ACTIVE'")
        ((newest,),) = cursor.fetchall()
        return newest is not None and newest >= begun

    cluster.nodes[number].wait_until(is_known)
    return cluster.nodes[number]
