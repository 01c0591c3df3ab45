"""DELETE, UPDATE, MERGE and INSERT OVERWRITE on the executors: the same answers from DuckDB on a copy, and pyiceberg reads what
we wrote. Beside each other, changes of the same rows are conflicts, and no row is lost or doubled."""

import random
import threading

import duckdb
import pytest
from pyiceberg.catalog.sql import SqlCatalog

SCHEMA = "changes"
MERGE_ON_READ = ", ".join(f"'write.{command}.mode' = 'merge-on-read'" for command in ("delete", "update", "merge"))
# (properties, partitioning) of the tables
LAYOUTS = {
    "cow": ("", ""),
    "mor": (f"WITH ({MERGE_ON_READ})", ""),
    "mor_partitioned": (f"WITH ({MERGE_ON_READ})", "PARTITIONED BY (l_returnflag, bucket(4, l_orderkey))"),
    "cow_partitioned": ("", "PARTITIONED BY (l_linestatus)"),
}
COLUMNS = "l_orderkey, l_linenumber, l_quantity, l_returnflag, l_linestatus, l_shipdate, l_comment"
CHANGES = [
    "DELETE FROM {t} WHERE l_shipdate < DATE '1993-06-01' AND l_linenumber > 1",
    "UPDATE {t} SET l_quantity = l_quantity + 1, l_comment = upper(l_comment) WHERE l_orderkey % 10 = 3",
    "DELETE FROM {t} WHERE l_orderkey IN (SELECT l_orderkey FROM {t} GROUP BY l_orderkey HAVING count(*) = 7)",
    "UPDATE {t} SET l_returnflag = 'X', l_linestatus = 'P' WHERE l_shipdate BETWEEN DATE '1995-01-01' AND DATE '1995-02-01'",
    """MERGE INTO {t} AS t USING (
           SELECT l_orderkey * 2 AS k, l_linenumber AS n, max(l_quantity) AS q FROM {t} WHERE l_linenumber < 3 GROUP BY 1, 2
       ) AS s ON t.l_orderkey = s.k AND t.l_linenumber = s.n
       WHEN MATCHED AND s.q > 40 THEN DELETE
       WHEN MATCHED THEN UPDATE SET l_quantity = s.q, l_comment = 'merged'
       WHEN NOT MATCHED THEN INSERT (l_orderkey, l_linenumber, l_quantity, l_returnflag, l_linestatus)
           VALUES (s.k, s.n, s.q, 'N', 'O')""",
    "DELETE FROM {t} WHERE l_returnflag = 'A'",
]


@pytest.fixture(scope="module")
def catalog(demo):
    return SqlCatalog("lake", uri=f"sqlite:///{demo.folder}/catalog.db", warehouse=f"file://{demo.folder}/warehouse")


@pytest.fixture(scope="module", autouse=True)
def schema(demo):
    with demo.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA lake.{SCHEMA}")


@pytest.fixture()
def cluster(demo):
    """A session that sends every scan to the executors, however small."""
    with demo.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION execution = 'cluster'")
        yield cursor


def fetch(cursor, sql):
    cursor.execute(sql)
    return cursor.fetch_arrow_table()


def changed(cursor, sql):
    """How many rows a change says that it has changed."""
    return fetch(cursor, sql).column(0)[0].as_py()


def in_order(table):
    return sorted(tuple(row.values()) for row in table.to_pylist())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_as_duckdb_and_pyiceberg_reads_it(cluster, catalog, layout):
    name = f"lake.{SCHEMA}.{layout}"
    properties, partitions = LAYOUTS[layout]
    cluster.execute(f"CREATE TABLE {name} {partitions} {properties} AS SELECT {COLUMNS} FROM lake.tpch.lineitem WHERE l_orderkey < 60000")
    original = fetch(cluster, f"SELECT * FROM {name}")
    oracle = duckdb.connect()
    oracle.register("original", original)
    oracle.execute("CREATE TABLE t AS SELECT * FROM original")
    for change in CHANGES:
        ours, theirs = changed(cluster, change.format(t=name)), oracle.execute(change.format(t="t")).fetchone()[0]
        assert ours == theirs, change
    ours = "SELECT l_orderkey, l_linenumber, l_quantity, l_returnflag, l_linestatus, coalesce(l_shipdate, DATE '1900-01-01') AS l_shipdate, coalesce(l_comment, '') AS l_comment"
    expected = sorted(oracle.execute(f"{ours} FROM t").fetchall())
    assert in_order(fetch(cluster, f"{ours} FROM {name}")) == expected
    # another engine reads the same, and the first snapshot is what it was
    table = catalog.load_table(f"{SCHEMA}.{layout}")
    oracle.register("read", table.scan().to_arrow())
    assert sorted(oracle.execute(f"{ours} FROM read").fetchall()) == expected
    first = next(snapshot for snapshot in table.snapshots() if snapshot.parent_snapshot_id is None).snapshot_id
    assert fetch(cluster, f"SELECT * FROM {name} FOR VERSION AS OF {first}").num_rows == original.num_rows
    oracle.register("files", table.inspect.files())
    content = dict(oracle.execute("SELECT content, count(*) FROM files GROUP BY content").fetchall())
    assert (1 in content) == layout.startswith("mor"), content
    summary = table.current_snapshot().summary
    assert summary["total-data-files"] == str(content[0]), "the totals are kept"
    assert summary.get("total-delete-files") == str(content.get(1, 0))


WRITERS, CHANGES_EACH = 6, 8


@pytest.mark.parametrize("layout", ["cow", "mor"])
def test_writers_beside_each_other(demo, cursor, catalog, layout):
    """Each writer changes rows of its own, which lie in files that all of them change. A conflict is tried again, as its hint
    says; in the end every row is what its writer made of it."""
    name = f"lake.{SCHEMA}.beside_{layout}"
    cursor.execute(f"CREATE TABLE {name} (writer INT, id INT, v INT) {LAYOUTS[layout][0]}")
    rows = [(writer, id, 0) for writer in range(WRITERS) for id in range(20)]
    cursor.execute(f"INSERT INTO {name} VALUES {', '.join(map(str, rows))}")
    states, problems, conflicts = {}, [], []

    def write(writer):
        rng = random.Random(writer)
        state = {id: 0 for id in range(20)}
        with demo.connect() as connection, connection.cursor() as cursor:
            for step in range(1, CHANGES_EACH + 1):
                id = rng.randrange(30)
                kind = rng.choice(["append", "delete", "update", "merge"])
                after = dict(state)
                if kind == "append":
                    fresh = 100 + step
                    sql = f"INSERT INTO {name} VALUES ({writer}, {fresh}, {step})"
                    after[fresh] = step
                elif kind == "delete":
                    sql = f"DELETE FROM {name} WHERE writer = {writer} AND id = {id}"
                    after.pop(id, None)
                elif kind == "update":
                    sql = f"UPDATE {name} SET v = {step} WHERE writer = {writer} AND id >= {id}"
                    after = {i: step if i >= id else v for i, v in state.items()}
                else:
                    sql = (
                        f"MERGE INTO {name} AS t USING (VALUES ({writer}, {id})) AS s (w, i) ON t.writer = s.w AND t.id = s.i "
                        f"WHEN MATCHED THEN UPDATE SET v = {step} WHEN NOT MATCHED THEN INSERT VALUES (s.w, s.i, {step})"
                    )
                    after[id] = step
                while True:
                    try:
                        cursor.execute(sql)
                        cursor.fetchall()
                        break
                    except Exception as error:
                        if "COMMIT_CONFLICT" not in str(error):
                            raise
                        conflicts.append(kind)
                state = after
        states[writer] = state

    def run(writer):
        try:
            write(writer)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=run, args=(writer,)) for writer in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=240)
    assert not problems and len(states) == WRITERS, problems
    expected = sorted((writer, id, v) for writer, state in states.items() for id, v in state.items())
    assert in_order(fetch(cursor, f"SELECT * FROM {name}")) == expected
    table = catalog.load_table(f"{SCHEMA}.beside_{layout}")
    assert in_order(table.scan().to_arrow()) == expected
    # history is a line, and no change was made twice
    snapshots = {snapshot.snapshot_id: snapshot for snapshot in table.snapshots()}
    line, at = [], table.current_snapshot()
    while at is not None:
        line.append(at)
        at = snapshots.get(at.parent_snapshot_id)
    assert len(line) == len(snapshots)
    queries = [snapshot.summary["town.query-id"] for snapshot in line]
    assert len(set(queries)) == len(queries)
    print(f"{layout}: {len(conflicts)} conflicts were tried again")


def test_a_failed_change_leaves_nothing(demo, cluster):
    name = f"lake.{SCHEMA}.failed"
    cluster.execute(f"CREATE TABLE {name} AS SELECT l_orderkey AS k, l_quantity AS q FROM lake.tpch.lineitem WHERE l_orderkey < 20000")
    before = fetch(cluster, f"SELECT count(*), sum(k), sum(q) FROM {name}").to_pylist()
    with pytest.raises(Exception, match="ARITHMETIC_ERROR|divide"):
        changed(cluster, f"UPDATE {name} SET k = k / (k % 2)")
    assert fetch(cluster, f"SELECT count(*), sum(k), sum(q) FROM {name}").to_pylist() == before
    assert fetch(cluster, f'SELECT * FROM "lake"."{SCHEMA}"."failed$snapshots"').num_rows == 1


def test_prepared_changes_take_parameters(cursor):
    name = f"lake.{SCHEMA}.bound"
    cursor.execute(f"CREATE TABLE {name} (id BIGINT, v VARCHAR)")
    cursor.executemany(f"INSERT INTO {name} VALUES (?, ?)", [(1, "a"), (2, "b"), (3, "c")])
    cursor.execute(f"UPDATE {name} SET v = ? WHERE id = ?", ("z", 2))
    cursor.executemany(f"DELETE FROM {name} WHERE id = ?", [(1,), (3,)])
    assert fetch(cursor, f"SELECT * FROM {name}").to_pylist() == [{"id": 2, "v": "z"}]
