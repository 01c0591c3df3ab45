"""Eight writers change one table at once, over each kind of catalog: every row is accounted for, and the history is one line.

Each writer appends, deletes and merges rows of its own, and says a statement again that lost a race. `TOWNLAKE_SOAK=1` runs forty
statements each.
"""

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import adbc_driver_manager
import pytest

WRITERS = 8
STATEMENTS = 40 if os.environ.get("TOWNLAKE_SOAK") else 5
SEED = int(os.environ.get("TOWNLAKE_SEED", "8"))
ATTEMPTS = 200


class Writer:
    """One writer, and what its rows must be."""

    def __init__(self, number, table):
        self.number, self.table, self.random = number, table, random.Random(SEED * 100 + number)
        self.rows, self.next, self.commits = {}, number * 1_000_000, 0

    def run(self, town, start):
        with town.connect() as connection, connection.cursor() as cursor:
            start.wait()
            for _ in range(STATEMENTS):
                kinds = [self.append, self.append, self.delete, self.merge] if self.rows else [self.append]
                statement, after = self.random.choice(kinds)()
                self.execute(cursor, statement)
                self.rows = after

    def execute(self, cursor, statement):
        for _ in range(ATTEMPTS):
            try:
                cursor.execute(statement)
                cursor.fetchall()
                self.commits += 1
                return
            except adbc_driver_manager.Error as error:
                assert "COMMIT_CONFLICT" in str(error), error
        raise AssertionError(f"{statement} lost {ATTEMPTS} races")

    def append(self):
        new = {self.next + n: self.random.randrange(1000) for n in range(10)}
        self.next += 10
        values = ", ".join(f"({id}, {self.number}, {v})" for id, v in new.items())
        return f"INSERT INTO {self.table} VALUES {values}", self.rows | new

    def delete(self):
        gone = self.random.sample(sorted(self.rows), k=min(4, len(self.rows)))
        after = {id: v for id, v in self.rows.items() if id not in gone}
        return f"DELETE FROM {self.table} WHERE id IN ({', '.join(map(str, gone))})", after

    def merge(self):
        some = self.random.sample(sorted(self.rows), k=min(3, len(self.rows)))
        changed = {id: self.random.randrange(1000) for id in [*some, self.next, self.next + 1]}
        self.next += 2
        values = ", ".join(f"({id}, {v})" for id, v in changed.items())
        statement = (
            f"MERGE INTO {self.table} t USING (VALUES {values}) AS s (id, v) ON t.id = s.id "
            f"WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT VALUES (s.id, {self.number}, s.v)"
        )
        return statement, self.rows | changed


@pytest.mark.parametrize(
    "catalog, mode",
    [("rest", "merge-on-read"), ("shared", "merge-on-read"), ("files", "merge-on-read"), ("shared", "copy-on-write")],
)
def test_every_row_is_accounted_for(town, catalog, mode):
    print("seed", SEED)
    schema = f"{catalog}.crowd_{mode.replace('-', '_')}"
    table = f"{schema}.t"
    modes = ", ".join(f"'write.{kind}.mode' = '{mode}'" for kind in ("delete", "update", "merge"))
    with town.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {schema}")
        cursor.execute(f"CREATE TABLE {table} (id BIGINT, writer INT, v INT) WITH ({modes})")
    writers, start = [Writer(number, table) for number in range(WRITERS)], threading.Barrier(WRITERS)
    with ThreadPoolExecutor(WRITERS) as pool:
        for done in [pool.submit(writer.run, town, start) for writer in writers]:
            done.result()
    expected = {id: (writer.number, v) for writer in writers for id, v in writer.rows.items()}
    with town.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT id, writer, v FROM {table}")
        found = cursor.fetchall()
    assert {id: (writer, v) for id, writer, v in found} == expected and len(found) == len(expected)
    # pyiceberg reads the same, and sees one line of snapshots, one for each statement that was answered.
    theirs = town.pyiceberg(catalog).load_table(table.split(".", 1)[1])
    rows = theirs.scan().to_arrow().to_pylist()
    assert {row["id"]: (row["writer"], row["v"]) for row in rows} == expected and len(rows) == len(expected)
    by_id = {snapshot.snapshot_id: snapshot for snapshot in theirs.snapshots()}
    line, snapshot = [], theirs.current_snapshot()
    while snapshot:
        line.append(snapshot.snapshot_id)
        snapshot = by_id.get(snapshot.parent_snapshot_id)
    assert sorted(line) == sorted(by_id) and len(line) == sum(writer.commits for writer in writers)
    assert [by_id[id].sequence_number for id in reversed(line)] == list(range(1, len(line) + 1))
