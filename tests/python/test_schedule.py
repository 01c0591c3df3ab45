"""Maintenance by the clock: a coordinator calls procedures as the properties of a table say."""

import time

import pytest
from servers import Cluster
from standalone import Standalone, catalog_text


def catalog(name, folder, more=""):
    text = catalog_text(folder).replace("[catalogs.lake]", f"[catalogs.{name}]").replace("catalog.db", f"{name}.db")
    return text.replace("/warehouse", f"/{name}") + more


def fetch(cursor, sql):
    cursor.execute(sql)
    return cursor.fetchall()


def eventually(cursor, sql, expected, limit=60):
    deadline = time.monotonic() + limit
    while (found := fetch(cursor, sql)) != expected:
        assert time.monotonic() < deadline, f"{sql}: {found} is not {expected}"
        time.sleep(0.5)


def fill(cursor, name):
    every = "'townlake.optimize.every' = '1 day', 'townlake.expire-snapshots.every' = '1s'"
    retention = "'history.expire.max-snapshot-age-ms' = '1'"
    cursor.execute(f"CREATE SCHEMA {name.rsplit('.', 1)[0]}")
    cursor.execute(f"CREATE TABLE {name} (id INT)")
    for number in range(5):
        cursor.execute(f"INSERT INTO {name} VALUES ({number})")
    cursor.execute(
        f"ALTER TABLE {name} SET TBLPROPERTIES ({every}, {retention}, 'townlake.rewrite-manifests.every' = 'often')"
    )


@pytest.fixture
def node(tmp_path):
    both = f'writers = ["{Cluster.USER}", "maintenance"]'
    only_ours = f'writers = ["{Cluster.USER}"]'
    lake = catalog("lake", tmp_path).replace(only_ours, both)
    closed = catalog("closed", tmp_path)
    maintained = catalog("maintained", tmp_path, "self_maintained = true\n").replace(only_ours, both)
    every = '[maintenance]\ncheck_every = "1s"\n'
    return Standalone(tmp_path, lake + closed + maintained, every)


def test_tables_are_looked_after_as_their_properties_say(node):
    process = node.start()
    try:
        with node.connect() as connection, connection.cursor() as cursor:
            for name in ("closed.s.t", "maintained.s.t", "lake.s.t"):
                fill(cursor, name)
            eventually(cursor, 'SELECT count(*) FROM lake.s."t$files"', [(1,)])
            eventually(cursor, 'SELECT count(*) FROM lake.s."t$snapshots"', [(1,)])
            assert fetch(cursor, "SELECT sum(id), count(*) FROM lake.s.t") == [(10, 5)]
            # In the name of `maintenance` only where it may write, and where nobody else looks after tables.
            for catalog in ("closed", "maintained"):
                assert fetch(cursor, f'SELECT count(*) FROM {catalog}.s."t$files"') == [(5,)]
            # Once a day means once, also after a restart.
            for number in range(5, 9):
                cursor.execute(f"INSERT INTO lake.s.t VALUES ({number})")
        process.stop()
        process = node.start()
        with node.connect() as connection, connection.cursor() as cursor:
            eventually(cursor, 'SELECT count(*) FROM lake.s."t$snapshots"', [(1,)])
            assert fetch(cursor, 'SELECT count(*) FROM lake.s."t$files"') == [(5,)]
        assert "townlake.rewrite-manifests.every" in process.log(), "a property that is no duration is told"
    finally:
        process.stop()
