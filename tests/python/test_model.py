"""Random changes of a table against a model: a list of rows in Python that shares nothing with the lake. Hypothesis makes the
sequences, the same ones each time, and shrinks one that fails. `TOWNLAKE_SOAK=1` runs a thousand."""

import itertools
import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

SCHEMA = "model"
SEQUENCES = 1000 if os.environ.get("TOWNLAKE_SOAK") else 12
STEPS = 14
DAYS = ["2024-01-01", "2024-01-02", "2024-02-01", None]
PARTITIONS = ["", "PARTITIONED BY (day)", "PARTITIONED BY (bucket(3, id))", "PARTITIONED BY (month(day), truncate(2, v))"]

numbers = st.integers(0, 9)
texts = st.sampled_from(["a", "b", "abc", "", None])
rows = st.tuples(numbers, st.one_of(st.none(), numbers), texts, st.sampled_from(DAYS))


def sql_of(value):
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else f"'{value}'"


def values_of(rows):
    typed = lambda row: f"({row[0]}, CAST({sql_of(row[1])} AS INT), CAST({sql_of(row[2])} AS VARCHAR), CAST({sql_of(row[3])} AS DATE))"
    return ", ".join(map(typed, rows))


# SQL, and the same for a row (id, n, v, day); NULL is not true
predicates = st.one_of(
    numbers.map(lambda k: (f"id < {k}", lambda row: row[0] < k)),
    numbers.map(lambda k: (f"n > {k}", lambda row: row[1] is not None and row[1] > k)),
    st.just(("n IS NULL", lambda row: row[1] is None)),
    st.just(("v = 'a' OR v IS NULL", lambda row: row[2] in ("a", None))),
    st.just(("v LIKE 'a%'", lambda row: row[2] is not None and row[2].startswith("a"))),
    numbers.map(lambda k: (f"id % 3 = {k % 3} AND n <> {k}", lambda row: row[0] % 3 == k % 3 and row[1] not in (None, k))),
    st.sampled_from(DAYS[:3]).map(lambda d: (f"day = DATE '{d}'", lambda row: row[3] == d)),
    st.sampled_from(DAYS[:3]).map(lambda d: (f"day >= DATE '{d}' AND id > 2", lambda row: row[3] is not None and row[3] >= d and row[0] > 2)),
    st.just(("true", lambda row: True)),
)
# what an UPDATE sets, and what a row becomes
assignments = st.one_of(
    st.just(("n = n + 1", lambda row: (row[0], None if row[1] is None else row[1] + 1, row[2], row[3]))),
    texts.map(lambda t: (f"v = CAST({sql_of(t)} AS VARCHAR)", lambda row: (row[0], row[1], t, row[3]))),
    st.sampled_from(DAYS).map(lambda d: (f"day = CAST({sql_of(d)} AS DATE), id = id + 1", lambda row: (row[0] + 1, row[1], row[2], d))),
)
key = lambda row: tuple((value is not None, value) for value in row)
tables = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def schema(demo):
    with demo.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA lake.{SCHEMA}")


def machine_of(cursor):
    class Table(RuleBasedStateMachine):
        def run(self, sql):
            cursor.execute(sql)
            return cursor.fetch_arrow_table().to_pylist()

        def change(self, sql, count):
            assert self.run(sql) == [{"count": count}], sql
            snapshot = self.run(f'SELECT snapshot_id FROM lake.{SCHEMA}."{self.short}$refs" WHERE name = \'main\'')
            if snapshot:
                self.past.append((snapshot[0]["snapshot_id"], list(self.rows)))

        @initialize(partition=st.sampled_from(PARTITIONS), modes=st.lists(st.booleans(), min_size=3, max_size=3), first=st.lists(rows, max_size=8))
        def create(self, partition, modes, first):
            self.short, self.partition, self.rows, self.past = f"t{next(tables)}", partition, [], []
            self.name = f"lake.{SCHEMA}.{self.short}"
            modes = zip(("delete", "update", "merge"), ("merge-on-read" if mode else "copy-on-write" for mode in modes))
            properties = ", ".join(f"'write.{command}.mode' = '{mode}'" for command, mode in modes)
            self.run(f"CREATE TABLE {self.name} (id INT, n INT, v VARCHAR, day DATE) {partition} WITH ({properties})")
            if first:
                self.insert(first)

        @rule(new=st.lists(rows, min_size=1, max_size=6))
        def insert(self, new):
            self.rows = self.rows + new
            self.change(f"INSERT INTO {self.name} VALUES {values_of(new)}", len(new))

        @rule(predicate=predicates)
        def delete(self, predicate):
            sql, matches = predicate
            kept = [row for row in self.rows if not matches(row)]
            count, self.rows = len(self.rows) - len(kept), kept
            self.change(f"DELETE FROM {self.name} WHERE {sql}", count)

        @rule(predicate=predicates, assignment=assignments)
        def update(self, predicate, assignment):
            (where, matches), (set_, becomes) = predicate, assignment
            count = sum(map(matches, self.rows))
            self.rows = [becomes(row) if matches(row) else row for row in self.rows]
            self.change(f"UPDATE {self.name} SET {set_} WHERE {where}", count)

        @rule(source=st.lists(rows, min_size=1, max_size=5, unique_by=lambda row: row[0]), deletes=numbers, alone=st.booleans())
        def merge(self, source, deletes, alone):
            by_id = {row[0]: row for row in source}
            after, count = [], 0
            for row in self.rows:
                match = by_id.get(row[0])
                if match is not None:
                    count += 1
                    if row[0] >= deletes:
                        after.append((row[0], match[1], row[2], row[3]))
                elif alone and row[1] is None:
                    count += 1
                    after.append((row[0], 0, row[2], row[3]))
                else:
                    after.append(row)
            new = [row for row in source if row[0] not in {row[0] for row in self.rows}]
            sql = (
                f"MERGE INTO {self.name} AS t USING (VALUES {values_of(source)}) AS s (id, n, v, day) ON t.id = s.id "
                f"WHEN MATCHED AND t.id < {deletes} THEN DELETE WHEN MATCHED THEN UPDATE SET n = s.n "
                "WHEN NOT MATCHED THEN INSERT (id, v, day) VALUES (s.id, s.v, s.day)"
            )
            if alone:
                sql += " WHEN NOT MATCHED BY SOURCE AND t.n IS NULL THEN UPDATE SET n = 0"
            self.rows = after + [(row[0], None, row[2], row[3]) for row in new]
            self.change(sql, count + len(new))

        @precondition(lambda self: self.partition in PARTITIONS[:2])
        @rule(new=st.lists(rows, min_size=1, max_size=4))
        def overwrite(self, new):
            days = {row[3] for row in new}
            kept = [row for row in self.rows if row[3] not in days] if self.partition else []
            self.rows = kept + new
            self.change(f"INSERT OVERWRITE {self.name} VALUES {values_of(new)}", len(new))

        @rule()
        def truncate(self):
            self.rows = []
            self.run(f"TRUNCATE TABLE {self.name}")

        @precondition(lambda self: self.past)
        @rule(which=st.integers(0, 100))
        def look_back(self, which):
            snapshot, expected = self.past[which % len(self.past)]
            assert self.read(f" FOR VERSION AS OF {snapshot}") == sorted(expected, key=key)

        @invariant()
        def is_the_model(self):
            if hasattr(self, "name"):
                assert self.read() == sorted(self.rows, key=key)
                assert self.run(f"SELECT count(*) AS c FROM {self.name}") == [{"c": len(self.rows)}]

        def read(self, at=""):
            found = self.run(f"SELECT id, n, v, CAST(day AS VARCHAR) AS day FROM {self.name}{at}")
            return sorted((tuple(row.values()) for row in found), key=key)

    return Table


@pytest.mark.parametrize("execution", ["auto", "cluster"])
def test_random_changes(demo, execution):
    budget = settings(
        max_examples=SEQUENCES if execution == "auto" else max(SEQUENCES // 4, 3),
        stateful_step_count=STEPS,
        derandomize=True,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    with demo.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"SET SESSION execution = '{execution}'")
        run_state_machine_as_test(machine_of(cursor), settings=budget)
