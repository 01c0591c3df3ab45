"""Row-level deletes through the cluster: delete files made by hand, as pyiceberg writes none, checked against pyiceberg where
it reads them (positions) and against Python (keys)."""

import os
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestContent, ManifestWriterV2
from pyiceberg.typedef import Record

SCHEMA = "deleted"
FILES, ROWS = 6, 20_000
PATHS = [("file_path", pa.string(), 2147483546), ("pos", pa.int64(), 2147483545)]


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


def create(catalog, name):
    """`FILES` files of `ROWS` rows each: `id` over all of them, `k` twice `id`, `name`."""
    fields = [("id", pa.int64()), ("k", pa.int64()), ("name", pa.string())]
    table = catalog.create_table(f"{SCHEMA}.{name}", schema=pa.schema(fields))
    for file in range(FILES):
        append(table, range(file * ROWS, (file + 1) * ROWS))
    return table.refresh()


def append(table, ids):
    ids = list(ids)
    table.append(pa.table({"id": ids, "k": [2 * i for i in ids], "name": [f"n{i}" for i in ids]}, schema=table.schema().as_arrow()))


def delete(table, monkeypatch, name, columns, rows, **more):
    """Commits one delete file of these columns (name, type, field id)."""
    fields = [pa.field(column, of, True, {"PARQUET:field_id": str(number)}) for column, of, number in columns]
    uri = f"{table.location()}/data/{name}.parquet"
    path = uri.removeprefix("file://")
    pq.write_table(pa.table([list(values) for values in zip(*rows)], schema=pa.schema(fields)), path)
    with open(path, "rb") as file:
        size = len(file.read())
    args = dict(file_path=uri, file_format=FileFormat.PARQUET, partition=Record(), record_count=len(rows), file_size_in_bytes=size)
    file = DataFile.from_args(**args, **more)
    file.spec_id = 0
    with monkeypatch.context() as patch:
        patch.setattr(ManifestWriterV2, "content", lambda self: ManifestContent.DELETES)
        with table.transaction() as transaction, transaction.update_snapshot().fast_append() as snapshot:
            snapshot.append_data_file(file)
    table.refresh()


def delete_positions(table, monkeypatch, name, rows):
    delete(table, monkeypatch, name, PATHS, sorted(rows), content=DataFileContent.POSITION_DELETES)


def delete_keys(table, monkeypatch, name, columns, rows):
    ids = [number for _, _, number in columns]
    delete(table, monkeypatch, name, columns, rows, content=DataFileContent.EQUALITY_DELETES, equality_ids=ids)


def answers(cursor, name):
    cursor.execute(f"SELECT count(*), sum(id), min(id), max(name) FROM lake.{SCHEMA}.{name}")
    (total,) = cursor.fetchall()
    cursor.execute(f"SELECT id, name FROM lake.{SCHEMA}.{name} WHERE k < 400 ORDER BY id")
    first = cursor.fetchall()
    cursor.execute(f"SELECT count(*) FROM (SELECT name FROM lake.{SCHEMA}.{name} LIMIT 100)")
    assert cursor.fetchone() == (min(100, total[0]),)
    return total, first


def expected(ids):
    ids = sorted(ids)
    total = (len(ids), sum(ids), min(ids), max(f"n{i}" for i in ids))
    return total, [(i, f"n{i}") for i in ids if i < 200]


def test_positions(catalog, cluster, cursor, monkeypatch):
    table = create(catalog, "positions")
    paths = [task.file.file_path for task in table.scan().plan_files()]
    rng = random.Random(7)
    rows = {(path, row) for path in paths for row in rng.sample(range(ROWS), ROWS // 100)}
    delete_positions(table, monkeypatch, "first", rows)
    # the whole of one file, in a delete file of its own
    delete_positions(table, monkeypatch, "second", {(paths[0], row) for row in range(ROWS)})
    left = table.scan().to_arrow().column("id").to_pylist()
    assert ROWS * (FILES - 1) * 0.98 < len(left) < ROWS * (FILES - 1), "pyiceberg applies them, too"
    assert answers(cluster, "positions") == answers(cursor, "positions") == expected(left)
    # the snapshot before them has every row
    before = table.snapshots()[-3].snapshot_id
    cluster.execute(f"SELECT count(*), sum(id) FROM lake.{SCHEMA}.positions FOR VERSION AS OF {before}")
    assert cluster.fetchone() == (FILES * ROWS, sum(range(FILES * ROWS)))
    cluster.execute(f"EXPLAIN SELECT id FROM lake.{SCHEMA}.positions")
    assert "delete_files=2" in str(cluster.fetchall())
    # an insert keeps the deletes, and its rows
    cluster.execute(f"INSERT INTO lake.{SCHEMA}.positions SELECT id, k, name FROM lake.{SCHEMA}.positions WHERE id < 1000")
    left += [i for i in left if i < 1000]
    assert sorted(table.refresh().scan().to_arrow().column("id").to_pylist()) == sorted(left)
    assert answers(cluster, "positions") == expected(left)


def test_keys(catalog, cluster, cursor, monkeypatch):
    table = create(catalog, "keys")
    (oldest,) = (task.file.file_path for task in table.scan(row_filter="id = 0").plan_files())
    gone = set(random.Random(8).sample(range(100, FILES * ROWS), 1500))
    # by a column that most queries do not ask for
    delete_keys(table, monkeypatch, "by_k", [("k", pa.int64(), 2)], [(2 * i,) for i in gone])
    left = [i for i in range(FILES * ROWS) if i not in gone]
    assert answers(cluster, "keys") == answers(cursor, "keys") == expected(left)
    # what comes later is not deleted
    back = sorted(gone)[:50]
    append(table, back)
    left += back
    assert answers(cluster, "keys") == expected(left)
    # both columns must match, and positions go along
    pairs = [(f"n{i}", i) for i in range(10, 20)] + [("n1", 2), (None, 3)]
    delete_keys(table, monkeypatch, "by_both", [("name", pa.string(), 3), ("id", pa.int64(), 1)], pairs)
    left = [i for i in left if not 10 <= i < 20]
    delete_positions(table, monkeypatch, "by_place", {(oldest, 0)})
    left.remove(0)
    assert answers(cluster, "keys") == answers(cursor, "keys") == expected(left)
    # rows are changed in both modes where they lie beside deleted ones
    for mode, rest in (("merge-on-read", 5), ("copy-on-write", 6)):
        cluster.execute(f"ALTER TABLE lake.{SCHEMA}.keys SET TBLPROPERTIES ('write.delete.mode' = '{mode}')")
        cluster.execute(f"DELETE FROM lake.{SCHEMA}.keys WHERE id % 1000 = {rest} OR id = {rest + 100}")
        left = [i for i in left if i % 1000 != rest and i != rest + 100]
        assert answers(cluster, "keys") == answers(cursor, "keys") == expected(left)
    # the key gets another name, and goes
    cluster.execute(f"ALTER TABLE lake.{SCHEMA}.keys RENAME COLUMN k TO twice")
    cluster.execute(f"SELECT count(*), sum(twice) FROM lake.{SCHEMA}.keys")
    assert cluster.fetchone() == (len(left), 2 * sum(left))
    cluster.execute(f"ALTER TABLE lake.{SCHEMA}.keys DROP COLUMN twice")
    cluster.execute(f"SELECT count(*), sum(id) FROM lake.{SCHEMA}.keys")
    assert cluster.fetchone() == (len(left), sum(left))


def test_a_missing_delete_file_is_named(catalog, cluster, monkeypatch):
    table = catalog.create_table(f"{SCHEMA}.broken", schema=pa.schema([("id", pa.int64())]))
    table.append(pa.table({"id": pa.array(range(10), pa.int64())}))
    delete_keys(table, monkeypatch, "lost", [("id", pa.int64(), 1)], [(1,)])
    os.remove(f"{table.location()}/data/lost.parquet".removeprefix("file://"))
    with pytest.raises(Exception, match="FILE_NOT_FOUND.*lost.parquet"):
        cluster.execute(f"SELECT id FROM lake.{SCHEMA}.broken")
        cluster.fetchall()
