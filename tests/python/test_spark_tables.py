"""Tables as years of Spark leave them: several partition specs and format versions, with row-level deletes in each, branches, rewrites.

Spark's reading is the answer: after each step both read the same rows.
"""

import json
from pathlib import Path

import pytest
from spark_town import MODES, SCHEMA, agree, cursor, ours, theirs  # noqa: F401 (fixtures)

ON_READ = ", ".join(f"'write.{command}.mode'='merge-on-read'" for command in ("delete", "update", "merge"))


def create(spark, name, columns, more="", version=2):
    spark.sql(
        f"CREATE TABLE {SCHEMA}.{name} ({columns}) USING iceberg {more} TBLPROPERTIES ('format-version'='{version}', {ON_READ})"
    )


def numbers(spark, name, first, last):
    spark.sql(
        f"INSERT INTO {SCHEMA}.{name} SELECT id, CAST(id % 3 AS INT), concat('v', id), "
        f"TIMESTAMP'2024-01-01 00:00:00' + make_interval(0, 0, 0, CAST(id AS INT)) FROM range({first}, {last})"
    )


def ids(rows):
    return sorted(row["id"] for row in rows)


def same_answers(spark, cursor, name, conditions, columns="id"):
    """Both find the same rows by each condition; none that holds for no row."""
    for condition in conditions:
        sql = f"SELECT {columns} FROM {SCHEMA}.{name} WHERE {condition}"
        found = ours(cursor, sql)
        assert found and found == theirs(spark, sql), condition


def delete_files(spark, name):
    return spark.sql(f"SELECT spec_id, file_format, record_count FROM {SCHEMA}.{name}.delete_files")


@pytest.mark.parametrize("version", [2, 3])
def test_deletes_in_each_of_several_specs(spark, cursor, version):
    name = f"specs_{version}"
    create(spark, name, "id BIGINT, p INT, v STRING, t TIMESTAMP", "PARTITIONED BY (p)", version)
    changes = (
        ["ADD PARTITION FIELD bucket(2, id)"],
        ["REPLACE PARTITION FIELD p WITH truncate(1, v) AS short", "DROP PARTITION FIELD bucket(2, id)"],
        ["DROP PARTITION FIELD short"],
    )
    numbers(spark, name, 0, 60)
    spark.sql(f"DELETE FROM {SCHEMA}.{name} WHERE id % 7 = 1")
    left = [n for n in range(60) if n % 7 != 1]
    for number, change in enumerate(changes, 1):
        for one in change:
            spark.sql(f"ALTER TABLE {SCHEMA}.{name} {one}")
        numbers(spark, name, number * 60, number * 60 + 60)
        # In files of this spec and of all before it.
        spark.sql(f"DELETE FROM {SCHEMA}.{name} WHERE id % 11 = {number}")
        left = [n for n in [*left, *range(number * 60, number * 60 + 60)] if n % 11 != number]
        assert ids(agree(spark, cursor, name)) == left
    spark.sql(f"UPDATE {SCHEMA}.{name} SET v = 'changed' WHERE id % 13 = 1")
    changed = {row["id"] for row in agree(spark, cursor, name) if row["v"] == "changed"}
    assert changed == {n for n in left if n % 13 == 1}
    deletes = delete_files(spark, name)
    assert {row["spec_id"] for row in deletes} == {0, 1, 3, 4}  # 2 is between two changes
    assert {row["file_format"] for row in deletes} == {"PARQUET" if version == 2 else "PUFFIN"}
    same_answers(spark, cursor, name, ["p = 1", "id = 99", "v LIKE 'v1%' AND p = 2"])
    if version == 2:
        cursor.execute(f"DELETE FROM {name} WHERE id % 17 = 0")
        cursor.execute(f"UPDATE {name} SET p = 77 WHERE id % 19 = 0")
        rows = agree(spark, cursor, name)
        assert ids(rows) == [n for n in left if n % 17]
        assert {row["id"] for row in rows if row["p"] == 77} == {n for n in left if n % 17 and n % 19 == 0}
    rows = agree(spark, cursor, name)
    spark.sql(f"CALL lake.system.rewrite_data_files(table => 'java.{name}', options => map('rewrite-all','true'))")
    assert agree(spark, cursor, name) == rows


@pytest.mark.parametrize("order", ["id DESC NULLS LAST, v", "zorder(id, p)"])
def test_files_that_spark_sorts(spark, cursor, order):
    name = "sorted_z" if "zorder" in order else "sorted"
    create(spark, name, "id BIGINT, p INT, v STRING, t TIMESTAMP", "PARTITIONED BY (bucket(2, id))")
    numbers(spark, name, 0, 200)
    numbers(spark, name, 200, 400)
    spark.sql(f"DELETE FROM {SCHEMA}.{name} WHERE id % 3 = 0")
    cursor.execute(f"DELETE FROM {name} WHERE id % 4 = 0")
    before = agree(spark, cursor, name)
    spark.sql(
        f"CALL lake.system.rewrite_data_files(table => 'java.{name}', strategy => 'sort', sort_order => '{order}', "
        "options => map('rewrite-all','true'))"
    )
    assert agree(spark, cursor, name) == before
    cursor.execute(f"UPDATE {name} SET v = 'ours' WHERE id < 50")
    spark.sql(
        f"CALL lake.system.rewrite_position_delete_files(table => 'java.{name}', options => map('rewrite-all','true'))"
    )
    rows = agree(spark, cursor, name)
    assert ids(rows) == [n for n in range(400) if n % 3 and n % 4]
    same_answers(spark, cursor, name, ["id > 390", "p = 2", "v = 'ours' AND id > 40"])


def test_position_deletes_that_spark_rewrites(spark, cursor):
    create(spark, "positions", "id BIGINT, p INT, v STRING, t TIMESTAMP", "PARTITIONED BY (p)")
    numbers(spark, "positions", 0, 200)
    for rest in range(4):
        spark.sql(f"DELETE FROM {SCHEMA}.positions WHERE id % 10 = {rest}")
        cursor.execute(f"DELETE FROM positions WHERE id % 10 = {rest} + 4 AND id > 100")
    before, rows = len(delete_files(spark, "positions")), agree(spark, cursor, "positions")
    spark.sql(
        "CALL lake.system.rewrite_position_delete_files(table => 'java.positions', options => map('rewrite-all','true'))"
    )
    assert len(delete_files(spark, "positions")) < before
    assert agree(spark, cursor, "positions") == rows
    assert ids(rows) == [n for n in range(200) if n % 10 > 7 or n % 10 > 3 and n <= 100]


@pytest.mark.parametrize("last", [2, 3])
def test_one_table_through_all_format_versions(spark, cursor, last):
    name = f"aged_{last}"
    create(spark, name, "id INT, p INT, v STRING, t TIMESTAMP", "PARTITIONED BY (bucket(2, p))", 1)
    numbers(spark, name, 0, 50)
    spark.sql(f"ALTER TABLE {SCHEMA}.{name} SET TBLPROPERTIES ('write.delete.mode'='copy-on-write')")
    spark.sql(f"DELETE FROM {SCHEMA}.{name} WHERE id = 7")
    spark.sql(f"ALTER TABLE {SCHEMA}.{name} SET TBLPROPERTIES ('write.delete.mode'='merge-on-read')")
    spark.sql(f"ALTER TABLE {SCHEMA}.{name} DROP PARTITION FIELD bucket(2, p)")
    numbers(spark, name, 50, 100)
    agree(spark, cursor, name)
    spark.sql(f"ALTER TABLE {SCHEMA}.{name} SET TBLPROPERTIES ('format-version'='2')")
    spark.sql(f"DELETE FROM {SCHEMA}.{name} WHERE id % 10 = 3")
    cursor.execute(f"DELETE FROM {name} WHERE id % 10 = 4")
    # What was written in version 1 is older than each of these deletes.
    spark.java("equality_delete", f"{SCHEMA}.{name}", ["id"], [[10], [60], [105]])
    numbers(spark, name, 100, 110)
    left = [n for n in range(110) if n >= 100 or n not in (7, 10, 60) and n % 10 not in (3, 4)]
    assert ids(agree(spark, cursor, name)) == left
    if last == 3:
        spark.sql(f"ALTER TABLE {SCHEMA}.{name} SET TBLPROPERTIES ('format-version'='3')")
        assert ids(agree(spark, cursor, name)) == left
    # In version 3 vectors take in the position deletes of the files they are for, and stand beside those of others.
    spark.sql(f"DELETE FROM {SCHEMA}.{name} WHERE id IN (20, 25, 108)")
    assert ids(agree(spark, cursor, name)) == [n for n in left if n not in (20, 25, 108)]
    assert {row["file_format"] for row in delete_files(spark, name)} == (
        {"PARQUET", "PUFFIN"} if last == 3 else {"PARQUET"}
    )
    same_answers(spark, cursor, name, ["p = 0", "id BETWEEN 15 AND 30", "v = 'v109'"])
    versions = [row["snapshot_id"] for row in spark.sql(f"SELECT snapshot_id FROM {SCHEMA}.{name}.snapshots")]
    for version in versions:
        agree(spark, cursor, name, f" FOR VERSION AS OF {version}", f" VERSION AS OF {version}")


@pytest.mark.parametrize("mode", MODES)
def test_row_lineage_is_no_column(spark, cursor, mode):
    """An update of version 3 carries `_row_id` and `_last_updated_sequence_number` along in its data files."""
    name = f"lineage_{mode[0]}"
    create(spark, name, "id BIGINT, p INT, v STRING, t TIMESTAMP", "PARTITIONED BY (p)", 3)
    for command in ("delete", "update", "merge"):
        spark.sql(f"ALTER TABLE {SCHEMA}.{name} SET TBLPROPERTIES ('write.{command}.mode'='{mode}')")
    numbers(spark, name, 0, 40)
    spark.sql(f"UPDATE {SCHEMA}.{name} SET v = 'new' WHERE id % 4 = 0")
    spark.sql(
        f"MERGE INTO {SCHEMA}.{name} t USING (SELECT explode(array(1L, 5L, 900L)) AS id) s ON t.id = s.id "
        "WHEN MATCHED AND s.id = 5 THEN DELETE WHEN MATCHED THEN UPDATE SET v = 'merged' "
        "WHEN NOT MATCHED THEN INSERT (id, p, v) VALUES (s.id, 9, 'inserted')"
    )
    rows = agree(spark, cursor, name)
    assert list(rows[0]) == ["id", "p", "v", "t"] and ids(rows) == [n for n in range(40) if n != 5] + [900]
    lineage = spark.sql(f"SELECT id, _row_id AS r FROM {SCHEMA}.{name}")
    assert len({row["r"] for row in lineage}) == 40
    spark.sql(f"CALL lake.system.rewrite_data_files(table => 'java.{name}', options => map('rewrite-all','true'))")
    assert agree(spark, cursor, name) == rows


def test_structs_in_lists_in_maps_change(spark, cursor):
    """Fields three levels down come, go, move, widen and change their names, and one comes back under the name of another."""
    create(spark, "nested", "id INT, m MAP<STRING, ARRAY<STRUCT<a: INT, b: FLOAT, c: STRUCT<d: INT, e: STRING>>>>")
    old = "map('k', array(named_struct('a', {0}, 'b', 0.5F, 'c', named_struct('d', {0}, 'e', 'e{0}')), NULL), 'none', NULL)"
    spark.sql(f"INSERT INTO {SCHEMA}.nested VALUES (1, {old.format(1)}), (2, NULL), (3, map('empty', array()))")
    field = "m.value.element"
    for change in (
        f"ALTER COLUMN {field}.a TYPE BIGINT",
        f"ALTER COLUMN {field}.b TYPE DOUBLE",
        f"RENAME COLUMN {field}.a TO first",
        f"DROP COLUMN {field}.c.e",
        f"ADD COLUMN {field}.c.e INT",
        f"ADD COLUMN {field}.c.f STRUCT<g: STRING> AFTER d",
        f"ADD COLUMN {field}.a STRING FIRST",
        f"ALTER COLUMN {field}.c AFTER a",
    ):
        spark.sql(f"ALTER TABLE {SCHEMA}.nested {change}")
        agree(spark, cursor, "nested")
    new = (
        "map('k', array(named_struct('a', 'new', 'c', named_struct('d', 4, 'f', named_struct('g', 'deep'), 'e', 40), "
        "'first', 5000000000L, 'b', 0.25D)))"
    )
    spark.sql(f"INSERT INTO {SCHEMA}.nested VALUES (4, {new})")
    spark.sql(f"UPDATE {SCHEMA}.nested SET m = NULL WHERE id = 3")
    rows = {row["id"]: row["m"] for row in agree(spark, cursor, "nested")}
    was = {"a": None, "c": {"d": 1, "f": None, "e": None}, "first": 1, "b": 0.5}
    assert rows[1] == [["k", [was, None]], ["none", None]] and rows[2] is rows[3] is None
    cursor.execute("UPDATE nested SET id = 20 WHERE id = 2")
    cursor.execute("CALL lake.system.optimize('java.nested', file_size_threshold => '1GB')")
    assert rows[1] == next(row["m"] for row in agree(spark, cursor, "nested") if row["id"] == 1)


def test_deletes_on_branches(spark, cursor):
    """A branch has deletes, columns and rows that `main` has not, and the other way; a tag keeps what it was made for."""
    create(spark, "forked", "id BIGINT, p INT, v STRING, t TIMESTAMP", "PARTITIONED BY (p)")
    table = f"{SCHEMA}.forked"
    numbers(spark, "forked", 0, 30)
    spark.sql(f"DELETE FROM {table} WHERE id = 3")
    spark.sql(f"ALTER TABLE {table} CREATE BRANCH work RETAIN 7 DAYS WITH SNAPSHOT RETENTION 5 SNAPSHOTS")
    spark.sql(f"ALTER TABLE {table} CREATE TAG `before work` RETAIN 30 DAYS")
    spark.sql(f"DELETE FROM {table}.branch_work WHERE id % 2 = 0")
    spark.sql(f"UPDATE {table}.branch_work SET v = 'work' WHERE id = 5")
    spark.sql(f"UPDATE {table} SET v = 'main' WHERE id = 4")
    cursor.execute("DELETE FROM forked FOR VERSION AS OF 'work' WHERE id = 7")
    spark.sql(f"ALTER TABLE {table} CREATE TAG done AS OF VERSION {head(spark, table, 'work')}")
    spark.sql(f"INSERT INTO {table}.branch_work VALUES (100, 1, 'late', NULL)")
    expected = {
        "main": [n for n in range(30) if n != 3],
        "before work": [n for n in range(30) if n != 3],
        "done": [n for n in range(1, 30, 2) if n not in (3, 7)],
        "work": [n for n in range(1, 30, 2) if n not in (3, 7)] + [100],
    }
    for name, wanted in expected.items():
        rows = agree(spark, cursor, "forked", f" FOR VERSION AS OF '{name}'", f" VERSION AS OF '{name}'")
        assert ids(rows) == wanted, name
    assert ours(cursor, 'SELECT name, "type" AS k FROM "forked$refs"') == theirs(
        spark, f"SELECT name, type AS k FROM {table}.refs"
    )
    # Spark's rewriting of a branch's head leaves the others alone; a branch that is replaced is another one.
    spark.sql(f"ALTER TABLE {table} CREATE OR REPLACE BRANCH work AS OF VERSION {head(spark, table, 'done')}")
    spark.sql(f"ALTER TABLE {table} ADD COLUMN more STRING")
    spark.sql(f"INSERT INTO {table} VALUES (200, 2, 'v', NULL, 'more')")
    rows = agree(spark, cursor, "forked")
    assert {"id": 200, "p": 2, "v": "v", "t": None, "more": "more"} in rows
    for name in ("before work", "done"):
        rows = agree(spark, cursor, "forked", f" FOR VERSION AS OF '{name}'", f" VERSION AS OF '{name}'")
        assert ids(rows) == expected[name] and "more" not in rows[0]
    found = ours(cursor, "SELECT id FROM forked FOR VERSION AS OF 'work'")
    assert ids(found) == expected["done"] == ids(theirs(spark, f"SELECT id FROM {table} VERSION AS OF 'work'"))


def head(spark, table, name):
    return spark.sql(f"SELECT snapshot_id AS s FROM {table}.refs WHERE name = '{name}'")[0]["s"]


def test_a_snapshot_table_of_spark(spark_town, spark, cursor):
    """`snapshot` makes a table over the files of one that is no Iceberg table; names alone connect its columns."""
    folder = spark_town.folder / "warehouse" / "parquet_source"
    spark.sql(
        f"CREATE TABLE plain_source (id INT, v STRING, p STRING) USING parquet PARTITIONED BY (p) LOCATION '{folder}'"
    )
    spark.sql("INSERT INTO plain_source VALUES (1, 'a', 'x'), (2, NULL, 'y z'), (3, 'c', NULL)")
    spark.sql(f"CALL lake.system.snapshot('spark_catalog.default.plain_source', '{SCHEMA}.snapped')")
    rows = agree(spark, cursor, "snapped")
    assert [tuple(row.values()) for row in rows] == [(1, "a", "x"), (2, None, "y z"), (3, "c", None)]
    spark.sql(f"ALTER TABLE {SCHEMA}.snapped RENAME COLUMN v TO word")
    spark.sql(f"ALTER TABLE {SCHEMA}.snapped ADD COLUMN n INT")
    spark.sql(f"DELETE FROM {SCHEMA}.snapped WHERE id = 2")
    cursor.execute("INSERT INTO snapped (id, word, p, n) VALUES (4, 'd', 'x', 40)")
    cursor.execute("UPDATE snapped SET n = 10 WHERE id = 1")
    rows = {row["id"]: (row["word"], row["p"], row["n"]) for row in agree(spark, cursor, "snapped")}
    assert rows == {1: ("a", "x", 10), 3: ("c", None, None), 4: ("d", "x", 40)}
    same_answers(spark, cursor, "snapped", ["p = 'x'", "word = 'c'", "n = 10", "p IS NULL"])


def test_a_partition_that_version_1_drops(spark, cursor):
    """It stays as a field that is always NULL, under the name of its column."""
    create(spark, "voided", "id BIGINT, p INT, v STRING, t TIMESTAMP", "PARTITIONED BY (p)", 1)
    numbers(spark, "voided", 0, 10)
    spark.sql(f"ALTER TABLE {SCHEMA}.voided DROP PARTITION FIELD p")
    numbers(spark, "voided", 10, 20)
    assert ids(agree(spark, cursor, "voided")) == list(range(20))
    same_answers(spark, cursor, "voided", ["p = 1", "id = 15"])


def first_edition(text, manifests):
    """Metadata of version 1 as the first writers made them: without what the specification has asked for since."""
    metadata = json.loads(text)
    for later in (
        "table-uuid",
        "schemas",
        "current-schema-id",
        "partition-specs",
        "default-spec-id",
        "last-partition-id",
    ):
        metadata.pop(later, None)
    for later in ("sort-orders", "default-sort-order-id", "refs", "statistics", "partition-statistics", "metadata-log"):
        metadata.pop(later, None)
    metadata["schema"].pop("schema-id", None)
    for field in metadata["partition-spec"]:
        field.pop("field-id")
    (snapshot,) = metadata["snapshots"]
    for later in ("sequence-number", "schema-id"):
        snapshot.pop(later, None)
    if manifests:
        snapshot.pop("manifest-list")
        snapshot["manifests"] = manifests
    return json.dumps(metadata)


@pytest.mark.parametrize("inline", [False, True], ids=["list", "inline"])
def test_metadata_of_the_first_writers(spark, cursor, inline):
    """Made by hand, for no writer makes them any more: no ids of schemas, specs, partition fields; manifests named in the snapshot."""
    source, name = f"first_source_{inline}".lower(), f"first_{inline}".lower()
    create(spark, source, "id BIGINT, p INT, v STRING, t TIMESTAMP", "PARTITIONED BY (p, bucket(3, v))", 1)
    numbers(spark, source, 0, 40)
    log = spark.sql(f"SELECT file FROM {SCHEMA}.{source}.metadata_log_entries ORDER BY timestamp DESC LIMIT 1")
    path = Path(log[0]["file"].removeprefix("file:"))
    manifests = [row["path"] for row in spark.sql(f"SELECT path FROM {SCHEMA}.{source}.manifests")]
    old = path.with_name(f"00000-{name}.metadata.json")
    old.write_text(first_edition(path.read_text(), manifests if inline else None))
    register = f"CALL lake.system.register_table('java.{name}', 'file://{old}')"
    if inline:
        with pytest.raises(Exception, match="FORMAT_NOT_SUPPORTED.*manifest lists"):
            cursor.execute(register)
        return
    cursor.execute(register)
    rows = ours(cursor, f"SELECT * FROM {name}")  # Spark 3.5 itself fails to plan a scan of it
    assert rows == ours(cursor, f"SELECT * FROM {source}") and len(rows) == 40
    for condition in ("p = 1", "v = 'v17'", "id > 30 AND p < 2"):
        assert ours(cursor, f"SELECT id FROM {name} WHERE {condition}") == theirs(
            spark, f"SELECT id FROM {SCHEMA}.{source} WHERE {condition}"
        )
    # Whoever changes it brings it into the present.
    cursor.execute(f"INSERT INTO {name} VALUES (1000, 1, 'ours', NULL)")
    same_answers(spark, cursor, name, ["p = 1", "v = 'v17'", "id > 30 AND p < 2"])
    spark.sql(f"INSERT INTO {SCHEMA}.{name} VALUES (1001, 2, 'theirs', NULL)")
    cursor.execute(f"ALTER TABLE {name} ADD COLUMN more INT")
    cursor.execute(f"DELETE FROM {name} WHERE id = 5")
    assert ids(agree(spark, cursor, name)) == [n for n in range(40) if n != 5] + [1000, 1001]


def test_views_of_either_side(spark, cursor):
    create(spark, "sold", "id BIGINT, p INT, v STRING, t TIMESTAMP")
    numbers(spark, "sold", 0, 30)
    spark.sql(
        f"CREATE VIEW {SCHEMA}.their_view (p COMMENT 'a number', n) AS SELECT p, count(*) FROM {SCHEMA}.sold GROUP BY p"
    )
    assert [row["n"] for row in agree(spark, cursor, "their_view")] == [10, 10, 10]
    cursor.execute("CREATE VIEW our_view AS SELECT id, concat(v, '!') AS shout FROM sold WHERE id % 10 = 3")
    assert [row["shout"] for row in agree(spark, cursor, "our_view")] == ["v13!", "v23!", "v3!"]
    # One on top of the other; made anew, renamed, dropped by who did not make it.
    cursor.execute("CREATE VIEW both_views AS SELECT o.id, t.n FROM our_view o JOIN their_view t ON o.id % 3 = t.p")
    assert {row["n"] for row in agree(spark, cursor, "both_views")} == {10}
    # Java's library keeps a view from losing a dialect unless its owner lets it.
    spark.sql(f"ALTER VIEW {SCHEMA}.our_view SET TBLPROPERTIES ('replace.drop-dialect.allowed'='true')")
    spark.sql(f"CREATE OR REPLACE VIEW {SCHEMA}.our_view AS SELECT id, v AS shout FROM {SCHEMA}.sold WHERE id = 7")
    assert ids(agree(spark, cursor, "our_view")) == [7]
    anew = "VIEW their_view AS SELECT p, CAST(3 AS BIGINT) AS n FROM sold WHERE id = 1"
    with pytest.raises(Exception, match="NOT_SUPPORTED.*also written for other engines"):
        cursor.execute(f"CREATE OR REPLACE {anew}")
    cursor.execute("DROP VIEW their_view")
    cursor.execute(f"CREATE {anew}")
    assert agree(spark, cursor, "their_view") == [{"p": 1, "n": 3}]
    cursor.execute("ALTER VIEW their_view RENAME TO moved_view")
    assert agree(spark, cursor, "moved_view") == [{"p": 1, "n": 3}]
    spark.sql(f"DROP VIEW {SCHEMA}.moved_view")
    with pytest.raises(Exception, match="TABLE_NOT_FOUND"):
        ours(cursor, "SELECT * FROM moved_view")
    cursor.execute("DROP VIEW both_views")
    shown = {row["viewName"] for row in spark.sql(f"SHOW VIEWS IN {SCHEMA}")}
    assert "our_view" in shown and not {"both_views", "moved_view"} & shown
