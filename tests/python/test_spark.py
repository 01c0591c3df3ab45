"""Spark writes, we read; we write, Spark reads: values, not counts. Both work on one catalog in Postgres at the same time."""

import threading

import pytest
from engines import EngineError
from spark_town import MODES, SCHEMA, agree, counted, cursor, ours, theirs  # noqa: F401 (fixtures)


@pytest.mark.parametrize("mode", MODES)
def test_rows_that_spark_changes(spark, cursor, mode):
    name = f"theirs_{mode[0]}"
    modes = ", ".join(f"'write.{command}.mode'='{mode}'" for command in ("delete", "update", "merge"))
    spark.sql(
        f"CREATE TABLE {SCHEMA}.{name} (id BIGINT, v STRING, day DATE) USING iceberg "
        f"PARTITIONED BY (days(day)) TBLPROPERTIES ('format-version'='2', {modes})"
    )
    spark.sql(
        f"INSERT INTO {SCHEMA}.{name} SELECT id, concat('v', id), date_add(DATE'2024-01-01', CAST(id % 3 AS INT)) FROM range(200)"
    )
    spark.sql(f"DELETE FROM {SCHEMA}.{name} WHERE id % 7 = 0")
    spark.sql(f"UPDATE {SCHEMA}.{name} SET v = 'changed' WHERE id % 5 = 0")
    spark.sql(
        f"MERGE INTO {SCHEMA}.{name} t USING (SELECT id * 10 AS id FROM range(30)) s ON t.id = s.id "
        "WHEN MATCHED THEN UPDATE SET t.v = 'merged' WHEN NOT MATCHED THEN INSERT (id, v, day) VALUES (s.id, 'new', DATE'2025-01-01')"
    )
    rows = agree(spark, cursor, name)
    assert len(rows) > 170 and {"changed", "merged", "new"} <= {row["v"] for row in rows}
    if mode == "merge-on-read":
        assert any(row["content"] == 1 for row in counted(spark, name))
    # And on with our changes on top of theirs, and theirs on ours.
    cursor.execute(f"DELETE FROM {name} WHERE id % 11 = 0")
    cursor.execute(f"UPDATE {name} SET v = 'ours' WHERE id % 13 = 0")
    agree(spark, cursor, name)
    spark.sql(f"CALL lake.system.rewrite_data_files(table => 'java.{name}', options => map('min-input-files','2'))")
    agree(spark, cursor, name)
    cursor.execute(f"CALL lake.system.optimize('java.{name}')")
    spark.sql(f"CALL lake.system.rewrite_position_delete_files('java.{name}')")
    cursor.execute(f"CALL lake.system.rewrite_position_deletes('java.{name}')")
    spark.sql(f"CALL lake.system.rewrite_manifests('java.{name}')")
    cursor.execute(f"CALL lake.system.rewrite_manifests('java.{name}')")
    agree(spark, cursor, name)
    spark.sql(
        f"CALL lake.system.expire_snapshots(table => 'java.{name}', older_than => TIMESTAMP '2261-01-01 00:00:00')"
    )
    agree(spark, cursor, name)
    cursor.execute(f"INSERT INTO {name} VALUES (1000, 'last', DATE '2026-01-01')")
    cursor.execute(f"CALL lake.system.expire_snapshots('java.{name}', TIMESTAMP '2261-01-01 00:00:00')")
    assert {"id": 1000, "v": "last", "day": "2026-01-01"} in agree(spark, cursor, name)


def test_schemas_and_partitions_that_spark_evolves(spark, cursor):
    table = f"{SCHEMA}.evolved"
    spark.sql(
        f"CREATE TABLE {table} (id INT, f FLOAT, d DECIMAL(5,2), s STRUCT<a: INT, b: ARRAY<STRUCT<x: INT, y: STRING>>>, "
        "m MAP<STRING, STRUCT<p: INT>>, gone STRING, t TIMESTAMP) USING iceberg PARTITIONED BY (truncate(10, id))"
    )
    first = (
        f"INSERT INTO {table} VALUES (1, 1.5F, 1.25, named_struct('a', 1, 'b', array(named_struct('x', 1, 'y', 'q'))), "
        "map('k', named_struct('p', 1)), 'gone', TIMESTAMP '2024-01-01 10:00:00'), (25, NULL, NULL, NULL, NULL, NULL, NULL)"
    )
    spark.sql(first)
    for change in (
        "ALTER COLUMN id TYPE BIGINT",
        "ALTER COLUMN f TYPE DOUBLE",
        "ALTER COLUMN d TYPE DECIMAL(12,2)",
        "DROP COLUMN gone",
        "ADD COLUMN gone INT AFTER id",
        "RENAME COLUMN t TO moment",
        "ADD COLUMN s.b.element.z DOUBLE",
        "DROP COLUMN s.b.element.x",
        "ADD COLUMN m.value.q STRING",
        "ALTER COLUMN s.b FIRST",
        "ADD PARTITION FIELD hours(moment)",
        "DROP PARTITION FIELD truncate(10, id)",
        "ADD PARTITION FIELD bucket(4, id)",
    ):
        spark.sql(f"ALTER TABLE {table} {change}")
    spark.sql(
        f"INSERT INTO {table} VALUES (30, 7, 2.5D, 123456.78, named_struct('b', array(named_struct('y', 'r', 'z', 0.5D)), 'a', 2), "
        "map('k2', named_struct('p', 2, 'q', 'text')), TIMESTAMP '2024-06-01 12:30:00')"
    )
    rows = agree(spark, cursor, "evolved")
    assert len(rows) == 3 and {row["gone"] for row in rows} == {None, 7}
    for condition in ("id = 25", "id > 20", "moment >= TIMESTAMP '2024-05-01 00:00:00'", "d > 100", "s.a = 1"):
        sql = f"SELECT id FROM {table} WHERE {condition}"
        found = ours(cursor, sql.replace("TIMESTAMP '2024-05-01 00:00:00'", "TIMESTAMP '2024-05-01 00:00:00+00:00'"))
        assert found == theirs(spark, sql), condition


def test_every_type_that_spark_writes(spark, cursor):
    table = f"{SCHEMA}.types"
    for codec in ("zstd", "gzip", "snappy"):
        spark.sql(f"DROP TABLE IF EXISTS {table}")
        spark.sql(
            f"CREATE TABLE {table} (b BOOLEAN, i INT, l BIGINT, f FLOAT, d DOUBLE, e DECIMAL(38,10), t DATE, z TIMESTAMP, "
            f"n TIMESTAMP_NTZ, s STRING, x BINARY, a ARRAY<INT>, m MAP<STRING, BIGINT>) USING iceberg "
            f"TBLPROPERTIES ('write.parquet.compression-codec'='{codec}')"
        )
        spark.sql(
            f"INSERT INTO {table} VALUES (true, -2147483648, 9223372036854775807, 1.5F, -0.1D, 1234567890123456789012345678.0123456789, "
            "DATE '1969-12-31', TIMESTAMP '1960-01-01 00:00:00.123456', TIMESTAMP_NTZ '2500-01-01 00:00:00.000001', 'é😀', "
            "X'00ff', array(1, NULL, 3), map('a', 1L, 'b', NULL)), "
            "(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"
        )
        rows = ours(cursor, f"SELECT * FROM {table}")
        assert rows == theirs(spark, f"SELECT * FROM {table}")


def test_branches_tags_and_time_travel_of_spark(spark, cursor):
    table = f"{SCHEMA}.lines"
    spark.sql(f"CREATE TABLE {table} (id INT) USING iceberg")
    spark.sql(f"INSERT INTO {table} VALUES (1)")
    spark.sql(f"ALTER TABLE {table} CREATE TAG one")
    spark.sql(f"ALTER TABLE {table} CREATE BRANCH audit")
    spark.sql(f"INSERT INTO {table}.branch_audit VALUES (2)")
    cursor.execute("INSERT INTO lines FOR VERSION AS OF 'audit' VALUES (3)")
    cursor.execute("INSERT INTO lines VALUES (9)")
    for name, ids in (("one", [1]), ("audit", [1, 2, 3]), ("main", [1, 9])):
        rows = agree(spark, cursor, "lines", f" FOR VERSION AS OF '{name}'", f" VERSION AS OF '{name}'")
        assert [row["id"] for row in rows] == ids, name
    cursor.execute("CALL lake.system.set_current_snapshot('java.lines', ref => 'one')")
    spark.sql("CALL lake.system.fast_forward('java.lines', 'main', 'audit')")
    assert [row["id"] for row in agree(spark, cursor, "lines")] == [1, 2, 3]
    snapshots = spark.sql(f"SELECT snapshot_id, operation FROM {table}.snapshots ORDER BY committed_at")
    cursor.execute('SELECT snapshot_id, operation FROM "lines$snapshots" ORDER BY committed_at')
    assert cursor.fetch_arrow_table().to_pylist() == snapshots


def test_format_versions_and_formats(spark, cursor):
    spark.sql(
        f"CREATE TABLE {SCHEMA}.v1 (id INT, p STRING) USING iceberg PARTITIONED BY (p) TBLPROPERTIES ('format-version'='1')"
    )
    spark.sql(f"INSERT INTO {SCHEMA}.v1 VALUES (1, 'a'), (2, 'b')")
    cursor.execute("INSERT INTO v1 VALUES (3, 'b')")
    cursor.execute("DELETE FROM v1 WHERE id = 2")
    assert [row["id"] for row in agree(spark, cursor, "v1")] == [1, 3]
    spark.sql(f"ALTER TABLE {SCHEMA}.v1 SET TBLPROPERTIES ('format-version'='2')")
    spark.sql(f"INSERT INTO {SCHEMA}.v1 VALUES (4, 'c')")
    assert len(agree(spark, cursor, "v1")) == 3

    spark.sql(
        f"CREATE TABLE {SCHEMA}.v3 (id BIGINT, v STRING) USING iceberg "
        "TBLPROPERTIES ('format-version'='3', 'write.delete.mode'='merge-on-read', 'write.update.mode'='merge-on-read')"
    )
    spark.sql(f"INSERT INTO {SCHEMA}.v3 SELECT id, concat('v', id) FROM range(1000)")
    spark.sql(f"DELETE FROM {SCHEMA}.v3 WHERE id % 3 = 0")
    spark.sql(f"DELETE FROM {SCHEMA}.v3 WHERE id % 5 = 0")
    spark.sql(f"UPDATE {SCHEMA}.v3 SET v = 'x' WHERE id % 7 = 0")
    deletes = spark.sql(f"SELECT file_format FROM {SCHEMA}.v3.delete_files")
    assert {row["file_format"] for row in deletes} == {"PUFFIN"}
    assert len(agree(spark, cursor, "v3")) == len([n for n in range(1000) if n % 3 and n % 5])
    with pytest.raises(Exception, match="FORMAT_NOT_SUPPORTED.*version 3"):
        cursor.execute("INSERT INTO v3 VALUES (1, 'x')")

    for file_format in ("orc", "avro"):
        spark.sql(
            f"CREATE TABLE {SCHEMA}.in_{file_format} (id INT) USING iceberg TBLPROPERTIES ('write.format.default'='{file_format}')"
        )
        spark.sql(f"INSERT INTO {SCHEMA}.in_{file_format} VALUES (1)")
        with pytest.raises(Exception, match=f"(?i)FORMAT_NOT_SUPPORTED.*{file_format}"):
            ours(cursor, f"SELECT * FROM in_{file_format}")


OUR_TYPES = (
    "b BOOLEAN, i INT, l BIGINT, f REAL, d DOUBLE, e DECIMAL(38, 10), t DATE, z TIMESTAMP WITH TIME ZONE, n TIMESTAMP, "
    "s VARCHAR, x BYTEA, a INT[], p STRUCT<u INT, w VARCHAR>"
)


@pytest.mark.parametrize("mode", MODES)
def test_rows_that_we_write_and_change(spark, cursor, mode):
    name = f"ours_{mode[0]}"
    modes = ", ".join(f"'write.{command}.mode' = '{mode}'" for command in ("delete", "update", "merge"))
    cursor.execute(
        f"CREATE TABLE {name} ({OUR_TYPES}) PARTITIONED BY (bucket(3, l), truncate(2, s), month(n)) SORTED BY (i DESC, s) WITH ({modes})"
    )
    cursor.execute(
        f"INSERT INTO {name} SELECT v % 2 = 0, v, v * 1000000007, v / 4.0, v / 8.0, v * 1.0000000001, DATE '1969-12-01' + v, "
        "TIMESTAMP WITH TIME ZONE '2024-01-01 00:00:00.123456+00:00', CAST(DATE '2024-01-15' + v AS TIMESTAMP), "
        "CASE WHEN v % 9 = 0 THEN NULL ELSE concat('ä', v) END, decode('00ff', 'hex'), [v, NULL, v], "
        "named_struct('u', v, 'w', 'text') FROM generate_series(1, 100) AS g(v)"
    )
    rows = agree(spark, cursor, name)
    assert len(rows) == 100
    cursor.execute(f"DELETE FROM {name} WHERE i % 7 = 0")
    cursor.execute(f"UPDATE {name} SET s = 'changed', d = NULL WHERE i % 5 = 0")
    cursor.execute(
        f"MERGE INTO {name} t USING (VALUES (1, 'one'), (500, 'new')) s (i, s) ON t.i = s.i "
        "WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (i, l, s) VALUES (s.i, s.i, s.s)"
    )
    agree(spark, cursor, name)
    # Counts and bounds in our manifests are those of the data, as Spark reads both.
    metrics = spark.sql(
        f"SELECT min(readable_metrics.i.lower_bound) AS low, max(readable_metrics.i.upper_bound) AS high, "
        f"sum(readable_metrics.s.null_value_count) AS nulls, sum(record_count) AS n FROM {SCHEMA}.{name}.data_files"
    )[0]
    assert metrics["high"] == 500 and metrics["low"] in (1, 2)
    if mode == "copy-on-write":
        (data,) = spark.sql(
            f"SELECT min(i) AS low, sum(CAST(s IS NULL AS BIGINT)) AS nulls, count(*) AS n FROM {SCHEMA}.{name}"
        )
        assert metrics == {**data, "high": 500}
    ordered = spark.sql(f"SELECT DISTINCT sort_order_id FROM {SCHEMA}.{name}.data_files")
    assert ordered == [{"sort_order_id": 1}]
    for change in (
        "ADD COLUMN more VARCHAR FIRST",
        "ALTER COLUMN i TYPE BIGINT",
        "RENAME COLUMN d TO dd",
        "DROP COLUMN f",
    ):
        cursor.execute(f"ALTER TABLE {name} {change}")
    cursor.execute(f"ALTER TABLE {name} DROP PARTITION FIELD truncate(2, s)")
    cursor.execute(f"INSERT INTO {name} (more, i, l) VALUES ('m', 9000000000, 3)")
    agree(spark, cursor, name)
    spark.sql(f"DELETE FROM {SCHEMA}.{name} WHERE i % 2 = 0")
    spark.sql(f"INSERT INTO {SCHEMA}.{name} SELECT * FROM {SCHEMA}.{name} WHERE i < 30")
    agree(spark, cursor, name)
    cursor.execute(f"CALL lake.system.optimize('java.{name}', file_size_threshold => '1GB')")
    agree(spark, cursor, name)
    cursor.execute(f"INSERT OVERWRITE {name} SELECT * FROM {name} WHERE i > 50")
    cursor.execute(f"CALL lake.system.expire_snapshots('java.{name}', now(), 1)")
    assert agree(spark, cursor, name)
    cursor.execute(f"TRUNCATE TABLE {name}")
    assert agree(spark, cursor, name) == []


def test_what_both_do_at_once_is_not_lost(spark, cursor):
    """Spark's commit validates against ours, and ours against Spark's."""
    table = f"{SCHEMA}.both"
    cursor.execute("CREATE TABLE both (id INT, who VARCHAR)")
    failures = []

    def their_part():
        try:
            for number in range(8):
                spark.sql(f"INSERT INTO {table} VALUES ({number}, 'spark')")
        except EngineError as error:
            failures.append(error)

    thread = threading.Thread(target=their_part)
    thread.start()
    for number in range(20):
        cursor.execute(f"INSERT INTO both VALUES ({number}, 'us')")
    thread.join()
    assert not failures, failures
    rows = agree(spark, cursor, "both")
    assert [sum(row["who"] == who for row in rows) for who in ("spark", "us")] == [8, 20]


def test_a_folder_that_we_migrated_is_read_by_spark(spark_town, spark, cursor):
    folder = spark_town.folder / "warehouse" / "hive"
    spark.sql(
        f"CREATE TABLE {SCHEMA}.source USING iceberg AS SELECT id, concat('n', id) AS name, CAST(id % 2 AS INT) AS part FROM range(10)"
    )
    # Spark's own Parquet files, as Hive would partition them.
    spark.sql(f"INSERT OVERWRITE DIRECTORY 'file://{folder}' USING parquet SELECT id, name FROM {SCHEMA}.source")
    cursor.execute(f"CALL lake.system.migrate('java.migrated', 'file://{folder}')")
    rows = agree(spark, cursor, "migrated")
    assert [row["name"] for row in sorted(rows, key=lambda row: row["id"])] == [f"n{n}" for n in range(10)]
