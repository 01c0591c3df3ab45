"""Looking after tables: what pyiceberg sees before and after, what lies on disk, and who may do it."""

import datetime
import os
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.sql import SqlCatalog

DAY = 24 * 60 * 60


@pytest.fixture(scope="module")
def lake(demo):
    return SqlCatalog("lake", uri=f"sqlite:///{demo.folder}/catalog.db", warehouse=f"file://{demo.folder}/warehouse")


@pytest.fixture
def cursor(demo):
    with demo.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA IF NOT EXISTS lake.care")
        yield cursor


def fetch(cursor, sql):
    cursor.execute(sql)
    return cursor.fetchall()


def call(cursor, sql):
    """The one row of a procedure, by its columns."""
    cursor.execute(f"CALL lake.system.{sql}")
    (row,) = cursor.fetch_arrow_table().to_pylist()
    return row


def folder_of(table):
    return Path(table.location().removeprefix("file://"))


def files(table):
    return {path for path in folder_of(table).rglob("*") if path.is_file()}


def make(cursor, name, rows=3, **properties):
    cursor.execute(f"DROP TABLE IF EXISTS lake.care.{name}")
    quoted = ", ".join(f"'{key}' = '{value}'" for key, value in properties.items())
    cursor.execute(f"CREATE TABLE lake.care.{name} (id BIGINT, part INT)" + (f" WITH ({quoted})" if quoted else ""))
    for number in range(rows):
        cursor.execute(f"INSERT INTO lake.care.{name} VALUES ({number}, {number % 2})")


def test_expired_snapshots_take_their_files_along(lake, cursor):
    make(cursor, "expired", 4)
    cursor.execute("DELETE FROM lake.care.expired WHERE id = 0")
    cursor.execute("UPDATE lake.care.expired SET part = 9 WHERE id = 1")
    table = lake.load_table("care.expired")
    before, rows = files(table), table.scan().to_arrow().sort_by("id").to_pylist()
    row = call(cursor, "expire_snapshots('care.expired', now(), 1)")
    assert row["expired_snapshots_count"] == 5 and row["deleted_data_files_count"] == 2 and row["left_files_count"] == 0
    table = lake.load_table("care.expired")
    assert len(table.snapshots()) == 1
    assert table.scan().to_arrow().sort_by("id").to_pylist() == rows
    gone = before - files(table)
    counted = sum(value for key, value in row.items() if key.startswith("deleted_"))
    assert len(gone) == counted and sum(path.suffix == ".parquet" for path in gone) == 2
    # What is left is what the table leads to, but for old metadata.
    known = {Path(task.file.file_path.removeprefix("file://")) for task in table.scan().plan_files()}
    assert {path for path in files(table) if path.suffix == ".parquet"} == known


def test_a_running_query_keeps_its_snapshot(demo, lake, cursor):
    make(cursor, "pinned", 0)
    values = ", ".join(f"({n}, {n % 7})" for n in range(200))
    cursor.execute(f"INSERT INTO lake.care.pinned VALUES {values}")
    # Far more rows than fit on the way: the query is still running when its first rows are read.
    sql = "SELECT a.id, b.id FROM lake.care.pinned a CROSS JOIN lake.care.pinned b CROSS JOIN lake.care.pinned c"
    with demo.connect() as other, other.cursor() as reader:
        reader.execute(sql)
        stream = reader.fetch_record_batch()
        first = next(stream).num_rows
        cursor.execute("DELETE FROM lake.care.pinned WHERE id >= 100")
        assert call(cursor, "expire_snapshots('care.pinned', now(), 1)")["expired_snapshots_count"] == 0
        pins = fetch(cursor, "SELECT pins FROM system.runtime.queries WHERE state = 'RUNNING' AND sql LIKE '%CROSS JOIN%'")
        assert any("lake.care.pinned" in pin for (pin,) in pins), pins
        assert first + sum(batch.num_rows for batch in stream) == 200**3
    deadline = time.monotonic() + 20
    while call(cursor, "expire_snapshots('care.pinned', now(), 1)")["expired_snapshots_count"] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert fetch(cursor, "SELECT count(*) FROM lake.care.pinned") == [(100,)]


def test_orphans_are_found_and_removed(lake, cursor):
    make(cursor, "orphans")
    table = lake.load_table("care.orphans")
    known = files(table)
    orphan, young = folder_of(table) / "data" / "left.parquet", folder_of(table) / "data" / "young.parquet"
    for path, age in ((orphan, 4 * DAY), (young, DAY / 2), *((path, 9 * DAY) for path in known)):
        if path not in known:
            path.write_bytes(b"left by a writer that was killed")
        os.utime(path, (time.time() - age,) * 2)
    cursor.execute("CALL lake.system.remove_orphan_files('care.orphans', dry_run => true)")
    found = cursor.fetch_arrow_table()
    assert found.column("orphan_file_location").to_pylist() == [f"file://{orphan}"]
    assert found.column("bytes").to_pylist() == [len(b"left by a writer that was killed")]
    assert orphan.exists()
    cursor.execute("CALL lake.system.remove_orphan_files('care.orphans')")
    assert cursor.fetch_arrow_table().num_rows == 1
    assert not orphan.exists() and files(table) == known | {young}
    assert fetch(cursor, "SELECT count(*) FROM lake.care.orphans") == [(3,)]


def test_a_table_goes_back(lake, cursor):
    make(cursor, "back", 3)
    snapshots = sorted(lake.load_table("care.back").snapshots(), key=lambda snapshot: snapshot.sequence_number)
    ids = [snapshot.snapshot_id for snapshot in snapshots]
    row = call(cursor, f"rollback_to_snapshot('care.back', {ids[0]})")
    assert row == {"previous_snapshot_id": ids[2], "current_snapshot_id": ids[0]}
    assert lake.load_table("care.back").scan().to_arrow().column("id").to_pylist() == [0]
    row = call(cursor, f"set_current_snapshot(table => 'care.back', snapshot_id => {ids[1]})")
    assert row["current_snapshot_id"] == ids[1]
    assert fetch(cursor, "SELECT id FROM lake.care.back ORDER BY id") == [(0,), (1,)]
    history = [entry.snapshot_id for entry in lake.load_table("care.back").history()]
    assert history == [*ids, ids[0], ids[1]]


def test_a_metadata_file_becomes_a_table(lake, cursor):
    make(cursor, "origin", 3)
    origin = lake.load_table("care.origin")
    cursor.execute("DROP TABLE lake.care.origin")
    row = call(cursor, f"register_table('care.again', '{origin.metadata_location}')")
    assert row["current_snapshot_id"] == origin.current_snapshot().snapshot_id
    assert row["total_records_count"] == 3 and row["total_data_files_count"] == 3
    assert fetch(cursor, "SELECT sum(id) FROM lake.care.again") == [(3,)]
    cursor.execute("INSERT INTO lake.care.again VALUES (10, 1)")
    assert lake.load_table("care.again").scan().to_arrow().num_rows == 4


def test_a_folder_of_parquet_becomes_a_table(demo, lake, cursor):
    folder = demo.folder / "warehouse" / "old"
    for day, ids in (("2024-01-01", [1, 2]), ("2024-01-02", [3])):
        (folder / f"day={day}").mkdir(parents=True)
        rows = pa.table({"id": pa.array(ids, pa.int32()), "tags": pa.array([[f"t{i}"] for i in ids])})
        pq.write_table(rows, folder / f"day={day}" / "part-0.parquet")
    before = {path: path.read_bytes() for path in folder.rglob("*.parquet")}
    row = call(cursor, f"migrate('care.old', 'file://{folder}')")
    assert row == {"added_files_count": 2, "added_records_count": 3}
    expected = [
        {"id": 1, "tags": ["t1"], "day": datetime.date(2024, 1, 1)},
        {"id": 2, "tags": ["t2"], "day": datetime.date(2024, 1, 1)},
        {"id": 3, "tags": ["t3"], "day": datetime.date(2024, 1, 2)},
    ]
    cursor.execute("SELECT * FROM lake.care.old ORDER BY id")
    assert cursor.fetch_arrow_table().to_pylist() == expected
    assert lake.load_table("care.old").scan().to_arrow().sort_by("id").to_pylist() == expected
    assert lake.load_table("care.old").scan(row_filter="day = '2024-01-02'").to_arrow().num_rows == 1
    cursor.execute("DELETE FROM lake.care.old WHERE id = 1")
    cursor.execute("INSERT INTO lake.care.old VALUES (9, ['t9'], DATE '2024-01-02')")
    more = demo.folder / "warehouse" / "more" / "day=2024-01-03"
    more.mkdir(parents=True)
    pq.write_table(pa.table({"id": pa.array([7], pa.int32())}), more / "part-0.parquet")
    assert call(cursor, f"add_files('care.old', 'file://{more.parent}')")["added_records_count"] == 1
    assert fetch(cursor, "SELECT id FROM lake.care.old ORDER BY id") == [(2,), (3,), (7,), (9,)]
    call(cursor, "expire_snapshots('care.old', now(), 1)")
    cursor.execute("DROP TABLE lake.care.old")
    assert {path: path.read_bytes() for path in folder.rglob("*.parquet")} == before, "the files are the user's"


def test_position_deletes_become_one_file_each(lake, cursor):
    make(cursor, "deletes", 0, **{"write.delete.mode": "merge-on-read"})
    for part in range(2):
        values = ", ".join(f"({n}, {part})" for n in range(part * 1000, part * 1000 + 1000))
        cursor.execute(f"INSERT INTO lake.care.deletes VALUES {values}")
    for rest in range(3):
        cursor.execute(f"DELETE FROM lake.care.deletes WHERE id % 10 = {rest}")
    table = lake.load_table("care.deletes")
    assert sum(file["content"] == 1 for file in table.inspect.files().to_pylist()) == 6
    cursor.execute("SET SESSION execution = 'cluster'")
    row = call(cursor, "rewrite_position_deletes('care.deletes')")
    cursor.execute("RESET ALL")
    assert row == {"rewritten_delete_files_count": 6, "added_delete_files_count": 2}
    table = lake.load_table("care.deletes")
    deletes = [file for file in table.inspect.files().to_pylist() if file["content"] == 1]
    assert [file["record_count"] for file in deletes] == [300, 300]
    left = [n for n in range(2000) if n % 10 > 2]
    assert sorted(table.scan().to_arrow().column("id").to_pylist()) == left
    assert [row[0] for row in fetch(cursor, "SELECT id FROM lake.care.deletes ORDER BY id")] == left
    assert table.current_snapshot().summary.operation.value == "replace"
    assert call(cursor, "rewrite_position_deletes('care.deletes')")["rewritten_delete_files_count"] == 0
    # Deletes of a data file that is gone apply to nothing.
    cursor.execute("ALTER TABLE lake.care.deletes SET PROPERTIES 'write.delete.mode' = 'copy-on-write'")
    cursor.execute("DELETE FROM lake.care.deletes WHERE part = 1")
    call(cursor, "rewrite_position_deletes('care.deletes')")
    files = lake.load_table("care.deletes").inspect.files().to_pylist()
    assert sum(file["content"] == 1 for file in files) == 1


def test_manifests_of_pyiceberg_are_merged(lake, cursor):
    make(cursor, "manifests", 0)
    table = lake.load_table("care.manifests")
    for number in range(5):
        table.append(pa.table({"id": pa.array([number], pa.int64()), "part": pa.array([number], pa.int32())}))
    assert call(cursor, "rewrite_manifests('care.manifests')")["rewritten_manifests_count"] == 5
    table = lake.load_table("care.manifests")
    assert len(table.inspect.manifests()) == 1
    assert sorted(table.scan().to_arrow().column("id").to_pylist()) == list(range(5))
    entries = table.inspect.entries().to_pylist()
    assert sorted(entry["sequence_number"] for entry in entries) == [1, 2, 3, 4, 5]
    table.append(pa.table({"id": pa.array([9], pa.int64()), "part": pa.array([9], pa.int32())}))
    assert fetch(cursor, "SELECT count(*), max(id) FROM lake.care.manifests") == [(6, 9)]


def test_looking_after_a_table_beside_writers_loses_nothing(demo, lake, cursor):
    make(cursor, "busy", 4)
    stop, failures, written = threading.Event(), [], []

    def write(writer):
        try:
            with demo.connect() as connection, connection.cursor() as own:
                for number in range(12):
                    own.execute(f"INSERT INTO lake.care.busy VALUES ({100 * writer + number}, 1)")
                    written.append(100 * writer + number)
        except Exception as error:  # noqa: BLE001: shown below
            failures.append(error)

    def look_after():
        sql = ("optimize('care.busy')", "rewrite_manifests('care.busy')", "expire_snapshots('care.busy', now(), 2)")
        with demo.connect() as connection, connection.cursor() as own:
            while not stop.is_set():
                for one in sql:
                    try:
                        own.execute(f"CALL lake.system.{one}")
                        own.fetchall()
                    except Exception as error:  # noqa: BLE001
                        if "COMMIT_CONFLICT" not in str(error):
                            failures.append(error)
                            return

    keeper = threading.Thread(target=look_after)
    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(1, 4)]
    for thread in (keeper, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    keeper.join()
    assert not failures, failures
    rows = fetch(cursor, "SELECT id FROM lake.care.busy ORDER BY id")
    assert [row[0] for row in rows] == sorted([*range(4), *written]) and len(written) == 36
    call(cursor, "expire_snapshots('care.busy', now(), 1)")
    assert sorted(lake.load_table("care.busy").scan().to_arrow().column("id").to_pylist()) == [row[0] for row in rows]


def test_only_writers_of_a_catalog_look_after_it(demo, cursor):
    with pytest.raises(Exception, match="CATALOG_NOT_FOUND|PERMISSION_DENIED"):
        cursor.execute("CALL nowhere.system.optimize('s.t')")
    with pytest.raises(Exception, match="NOT_SUPPORTED.*read only"):
        cursor.execute("CALL crm.system.optimize('public.customer')")
