"""DuckDB's iceberg extension over SeaweedFS's REST catalog, as a third reader and writer: values, not counts."""

import datetime
import decimal
import json

import pytest
from engines import VENVS, Engine, EngineError
from servers import require
from town import Town

SCHEMA = "rest.ducks"


class DuckDB(Engine):
    def __init__(self, folder, town: Town):
        home = folder / "duckdb"
        home.mkdir()
        python = VENVS / "venv-duckdb" / "bin" / "python"
        require(python if python.exists() else None, "DuckDB's environment is not there (scripts/setup.sh test)")
        weed = town.weed
        host = weed.s3.removeprefix("http://")
        begin = [
            f"CREATE SECRET (TYPE s3, KEY_ID '{weed.ACCESS_KEY}', SECRET '{weed.SECRET_KEY}', ENDPOINT '{host}', "
            "URL_STYLE 'path', USE_SSL false, REGION 'us-east-1')",
            f"CREATE SECRET login (TYPE iceberg, CLIENT_ID '{weed.ACCESS_KEY}', CLIENT_SECRET '{weed.SECRET_KEY}', "
            f"OAUTH2_SERVER_URI '{weed.rest}/v1/oauth/tokens', OAUTH2_SCOPE '')",
            f"ATTACH 's3://lake' AS rest (TYPE iceberg, ENDPOINT '{weed.rest}', SECRET login, ACCESS_DELEGATION_MODE 'none', READ_ONLY false)",
            "SET TimeZone = 'UTC'",
        ]
        super().__init__("duckdb", folder, python, "duckdb_driver.py", [home, json.dumps(begin)], {})


@pytest.fixture(scope="module")
def duck(town):
    with town.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {SCHEMA}")
    duck = DuckDB(town.folder, town)
    yield duck
    duck.stop()


@pytest.fixture
def cursor(town):
    with town.connect() as connection, connection.cursor() as cursor:
        yield cursor


def shown(value):
    """As DuckDB's driver shows it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: shown(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shown(inner) for inner in value]
    if isinstance(value, (decimal.Decimal, datetime.date, datetime.time)):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def ours(cursor, sql):
    cursor.execute(sql)
    return [shown(row) for row in cursor.fetch_arrow_table().to_pylist()]


def agree(duck, cursor, table, columns="*", order="id"):
    sql = f"SELECT {columns} FROM {SCHEMA}.{table} ORDER BY {order}"
    rows = ours(cursor, sql)
    assert rows == duck.sql(sql), table
    return rows


def test_what_duckdb_writes(duck, cursor):
    duck.sql(
        f"CREATE TABLE {SCHEMA}.theirs (id BIGINT, i INTEGER, d DOUBLE, s VARCHAR, b BOOLEAN, day DATE, moment TIMESTAMP, n DECIMAL(12, 3))"
    )
    values = "i, CAST(i % 7 AS INTEGER), i / 4, 'v' || i, i % 2 = 0, DATE '2026-01-01' + CAST(i AS INTEGER), TIMESTAMP '2026-01-01' + INTERVAL (i) SECOND, CAST(i / 8 AS DECIMAL(12, 3))"
    duck.sql(f"INSERT INTO {SCHEMA}.theirs SELECT {values} FROM range(1000) t(i)")
    duck.sql(f"INSERT INTO {SCHEMA}.theirs (id) VALUES (1000)")
    rows = agree(duck, cursor, "theirs")
    assert len(rows) == 1001 and rows[-1]["s"] is None and rows[5]["day"] == "2026-01-06"
    duck.sql(f"DELETE FROM {SCHEMA}.theirs WHERE id % 10 = 3")
    rows = agree(duck, cursor, "theirs")
    assert len(rows) == 901
    assert ours(cursor, f"SELECT count(*) AS c, sum(id) AS s FROM {SCHEMA}.theirs WHERE i = 3") == duck.sql(
        f"SELECT count(*) AS c, CAST(sum(id) AS BIGINT) AS s FROM {SCHEMA}.theirs WHERE i = 3"
    )
    # We go on with it, and DuckDB with what we did.
    cursor.execute(f"UPDATE {SCHEMA}.theirs SET s = 'ours' WHERE id < 5")
    cursor.execute(f"DELETE FROM {SCHEMA}.theirs WHERE id > 990")
    agree(duck, cursor, "theirs")
    cursor.execute("CALL rest.system.optimize('ducks.theirs')")
    rows = agree(duck, cursor, "theirs")
    assert [row["s"] for row in rows[:4]] == ["ours"] * 4  # 3 is gone


def test_what_we_write(duck, cursor):
    table = f"{SCHEMA}.mine"
    modes = ", ".join(f"'write.{kind}.mode' = 'merge-on-read'" for kind in ("delete", "update", "merge"))
    cursor.execute(
        f"CREATE TABLE {table} (id BIGINT NOT NULL, s VARCHAR, d DOUBLE, n DECIMAL(20, 2), day DATE, moment TIMESTAMP, list BIGINT[], "
        f"pair STRUCT<x INT, y VARCHAR>) PARTITIONED BY (bucket(3, id)) WITH ({modes})"
    )
    cursor.execute(
        f"INSERT INTO {table} SELECT value, 'v' || CAST(value AS VARCHAR), value / 2.0, CAST(value AS DECIMAL(20, 2)) AS n, "
        "DATE '2026-01-01', TIMESTAMP '2026-01-01 10:00:00', [value, NULL], named_struct('x', CAST(value AS INT), 'y', 'y') "
        "FROM generate_series(1, 500)"
    )
    cursor.execute(f"INSERT INTO {table} (id) VALUES (501)")
    assert len(agree(duck, cursor, "mine")) == 501
    cursor.execute(f"DELETE FROM {table} WHERE id % 7 = 0")
    cursor.execute(f"UPDATE {table} SET s = NULL, d = 0.5 WHERE id % 11 = 0")
    cursor.execute(
        f"MERGE INTO {table} t USING (VALUES (1, 'one'), (900, 'new')) AS x (id, s) ON t.id = x.id "
        "WHEN MATCHED THEN UPDATE SET s = x.s WHEN NOT MATCHED THEN INSERT (id, s) VALUES (x.id, x.s)"
    )
    rows = agree(duck, cursor, "mine")
    assert len(rows) == 501 - 71 + 1 and rows[0]["s"] == "one"
    cursor.execute(f"ALTER TABLE {table} ADD COLUMN more VARCHAR")
    cursor.execute(f"ALTER TABLE {table} RENAME COLUMN s TO text")
    cursor.execute(f"ALTER TABLE {table} DROP COLUMN d")
    cursor.execute(f"INSERT INTO {table} (id, more) VALUES (901, 'more')")
    assert agree(duck, cursor, "mine")[-1]["more"] == "more"
    cursor.execute("CALL rest.system.rewrite_position_deletes('ducks.mine')")
    cursor.execute("CALL rest.system.rewrite_manifests('ducks.mine')")
    agree(duck, cursor, "mine")
    cursor.execute("CALL rest.system.optimize('ducks.mine', sort_order => 'zorder(id, text)')")
    agree(duck, cursor, "mine")


def test_a_table_that_is_not_there_is_told(duck):
    with pytest.raises(EngineError):
        duck.sql(f"SELECT * FROM {SCHEMA}.nothing")
