"""ALTER TABLE and metadata tables against pyiceberg: it reads what we changed, and its `inspect` says what we say."""

import datetime
import decimal
import json

import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.types import DecimalType, DoubleType, LongType, StringType

SCHEMA = "altered"


@pytest.fixture(scope="module")
def catalog(demo):
    return SqlCatalog("lake", uri=f"sqlite:///{demo.folder}/catalog.db", warehouse=f"file://{demo.folder}/warehouse")


@pytest.fixture(scope="module", autouse=True)
def schema(demo):
    with demo.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA lake.{SCHEMA}")


def rows_of(cursor, sql):
    """The rows as dictionaries, times without their zone as pyiceberg has them."""
    cursor.execute(sql)
    rows = cursor.fetch_arrow_table().to_pylist(maps_as_pydicts="strict")
    naive = lambda value: value.replace(tzinfo=None) if isinstance(value, datetime.datetime) else value
    return [{name: naive(value) for name, value in row.items()} for row in rows]


def inspected(table):
    return table.to_pylist(maps_as_pydicts="strict")


def by(key, rows):
    found = {row[key]: row for row in rows}
    assert len(found) == len(rows)
    return found


def test_it_reads_what_we_changed(catalog, cursor):
    name = f"lake.{SCHEMA}.shop"
    cursor.execute(f"CREATE TABLE {name} (id INT NOT NULL, f REAL, price DECIMAL(5, 2), name VARCHAR, pair STRUCT<a INT>)")
    cursor.execute(f"INSERT INTO {name} VALUES (1, 0.5, 123.45, 'old', named_struct('a', 7))")
    for change in (
        "ADD COLUMN extra VARCHAR COMMENT 'came later' AFTER id",
        "ADD COLUMN pair.b VARCHAR",
        "RENAME COLUMN name TO label",
        "ALTER COLUMN id TYPE BIGINT",
        "ALTER COLUMN f TYPE DOUBLE",
        "ALTER COLUMN price TYPE DECIMAL(12, 2)",
        "ALTER COLUMN id DROP NOT NULL",
        "CREATE TAG before",
        "SET TBLPROPERTIES ('owner' = 'ann')",
    ):
        cursor.execute(f"ALTER TABLE {name} {change}")
    cursor.execute(f"COMMENT ON TABLE {name} IS 'what is sold'")
    cursor.execute(
        f"INSERT INTO {name} VALUES (5000000000, 'e', 1.5, 1234567890.12, 'new', named_struct('a', 8, 'b', 'x'))"
    )
    table = catalog.load_table(f"{SCHEMA}.shop")
    fields = [(f.field_id, f.name, f.field_type, f.required, f.doc) for f in table.schema().fields]
    assert fields[:5] == [
        (1, "id", LongType(), False, None),
        (7, "extra", StringType(), False, "came later"),
        (2, "f", DoubleType(), False, None),
        (3, "price", DecimalType(12, 2), False, None),
        (4, "label", StringType(), False, None),
    ]
    assert [(f.field_id, f.name) for f in table.schema().find_field("pair").field_type.fields] == [(6, "a"), (8, "b")]
    rows = sorted(table.scan().to_arrow().to_pylist(), key=lambda row: row["id"])
    assert rows == [
        {"id": 1, "extra": None, "f": 0.5, "price": decimal.Decimal("123.45"), "label": "old", "pair": {"a": 7, "b": None}},
        {
            "id": 5000000000,
            "extra": "e",
            "f": 1.5,
            "price": decimal.Decimal("1234567890.12"),
            "label": "new",
            "pair": {"a": 8, "b": "x"},
        },
    ]
    assert table.properties == {"owner": "ann", "comment": "what is sold"}
    tagged = table.snapshot_by_name("before")
    assert table.scan(snapshot_id=tagged.snapshot_id).to_arrow().num_rows == 1
    cursor.execute(f"SELECT count(*) FROM {name} FOR VERSION AS OF 'before'")
    assert cursor.fetchone() == (1,)

    cursor.execute(f"ALTER TABLE {name} DROP COLUMN label")
    cursor.execute(f"ALTER TABLE {name} ADD COLUMN label VARCHAR")
    cursor.execute(f"ALTER TABLE {name} RENAME TO store")
    table = catalog.load_table(f"{SCHEMA}.store")
    assert table.schema().find_field("label").field_id == 9
    assert table.scan().to_arrow().column("label").to_pylist() == [None, None]
    with table.update_schema() as update:  # and it goes on from there
        update.add_column("theirs", LongType())
    cursor.execute(f"INSERT INTO lake.{SCHEMA}.store (id, theirs) VALUES (2, 3)")
    cursor.execute(f"SELECT sum(theirs), count(*) FROM lake.{SCHEMA}.store")
    assert cursor.fetchone() == (3, 3)


@pytest.fixture(scope="module")
def evolved(demo):
    """A table with several snapshots, partition specs, branches and tags, and a snapshot that deleted a file."""
    name = f"lake.{SCHEMA}.evolved"
    with demo.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {name} (id INT, day DATE, kind VARCHAR, ratio DOUBLE) PARTITIONED BY (month(day))")
        cursor.execute(
            f"INSERT INTO {name} VALUES (1, DATE '2024-01-31', 'a', 0.5), (2, DATE '2024-01-01', NULL, 'NaN'), "
            "(3, DATE '2024-02-29', 'cc', -1), (4, NULL, 'dd', NULL)"
        )
        cursor.execute(f"ALTER TABLE {name} CREATE TAG first RETAIN 10 DAYS")
        cursor.execute(f"ALTER TABLE {name} ALTER COLUMN id TYPE BIGINT")
        cursor.execute(f"ALTER TABLE {name} ADD PARTITION FIELD bucket(4, id)")
        cursor.execute(f"ALTER TABLE {name} ADD PARTITION FIELD kind")
        cursor.execute(f"INSERT INTO {name} VALUES (6000000000, DATE '2024-03-01', 'e', 2.5), (7, DATE '2024-03-02', 'f', 3)")
        cursor.execute(f"ALTER TABLE {name} CREATE BRANCH audit WITH SNAPSHOT RETENTION 2 SNAPSHOTS 3 DAYS")
    catalog = SqlCatalog("lake", uri=f"sqlite:///{demo.folder}/catalog.db", warehouse=f"file://{demo.folder}/warehouse")
    table = catalog.load_table(f"{SCHEMA}.evolved")
    table.delete("id = 3")  # the whole file of a partition
    return name, table.refresh()


def metadata_table(name, of):
    return name.removesuffix("evolved") + f'"evolved${of}"'


def test_snapshots_history_refs_and_properties(evolved, cursor):
    name, table = evolved
    ours = by("snapshot_id", rows_of(cursor, f"SELECT * FROM {metadata_table(name, 'snapshots')}"))
    theirs = by("snapshot_id", inspected(table.inspect.snapshots()))
    assert len(ours) == 3 and ours == theirs
    ours = rows_of(cursor, f"SELECT * FROM {metadata_table(name, 'history')} ORDER BY made_current_at")
    assert ours == inspected(table.inspect.history())
    ours = by("name", rows_of(cursor, f"SELECT * FROM {metadata_table(name, 'refs')}"))
    assert ours == by("name", inspected(table.inspect.refs())) and set(ours) == {"audit", "first", "main"}
    assert ours["first"]["max_reference_age_in_ms"] == 864_000_000
    cursor.execute(f"ALTER TABLE {name} SET PROPERTIES owner = 'ann', \"a.b\" = 'c'")
    ours = rows_of(cursor, f"SELECT * FROM {metadata_table(name, 'properties')}")
    assert {row["key"]: row["value"] for row in ours} == table.refresh().properties == {"owner": "ann", "a.b": "c"}


def test_files(evolved, cursor):
    name, table = evolved
    for version, snapshot in (("", None), (" FOR VERSION AS OF 'first'", table.snapshot_by_name("first").snapshot_id)):
        ours = by("file_path", rows_of(cursor, f"SELECT * FROM {metadata_table(name, 'files')}{version}"))
        theirs = by("file_path", inspected(table.inspect.files(snapshot)))
        assert len(ours) == (4 if snapshot is None else 3) and ours.keys() == theirs.keys()
        for path, their in theirs.items():
            our = ours[path]
            for column in ("content", "file_format", "record_count", "file_size_in_bytes", "split_offsets", "sort_order_id"):
                assert our[column] == their[column], (path, column)
            for column in ("column_sizes", "value_counts", "null_value_counts", "nan_value_counts"):
                assert (our[column] or {}) == (their[column] or {}), (path, column)
            assert our["key_metadata"] is None and not our["equality_ids"]
            assert our["spec_id"] == their["spec_id"]
            assert our["partition"] == {field: their["partition"].get(field) for field in our["partition"]}
            readable = {
                column: {key: plain(value) for key, value in metrics.items()}
                for column, metrics in their["readable_metrics"].items()
            }
            assert json.loads(our["readable_metrics"]) == readable
            for bounds, key in (("lower_bounds", "lower_bound"), ("upper_bounds", "upper_bound")):
                texts = {table.schema().find_column_name(i): text for i, text in (our[bounds] or {}).items()}
                bounded = {column: str(m[key]) for column, m in readable.items() if m[key] is not None}
                assert texts == bounded, (path, bounds)


def plain(value):
    """A value as our JSON has it."""
    return str(value) if isinstance(value, (datetime.date, datetime.datetime, decimal.Decimal)) else value


def test_partitions(evolved, cursor):
    name, table = evolved
    key = lambda row: json.dumps(row["partition"], default=str, sort_keys=True)
    theirs = {key(row): row for row in inspected(table.inspect.partitions())}
    ours = {key(row): row for row in rows_of(cursor, f"SELECT * FROM {metadata_table(name, 'partitions')}")}
    assert len(ours) == 4 and ours.keys() == theirs.keys()
    for partition, their in theirs.items():
        our = ours[partition]
        assert (our["record_count"], our["file_count"]) == (their["record_count"], their["file_count"])
        assert our["total_size"] == their["total_data_file_size_in_bytes"]
    january = next(row for row in ours.values() if row["partition"]["day_month"] == 648)
    assert january["data"]["id"] == {"min": 1, "max": 2, "null_count": 0, "nan_count": None}
    assert january["data"]["day"]["max"] == datetime.date(2024, 1, 31)
    assert january["data"]["ratio"]["nan_count"] == 1
    assert "kind" not in january["data"], "its partition says it"


def test_manifests(evolved, cursor):
    name, table = evolved
    ours = by("path", rows_of(cursor, f"SELECT * FROM {metadata_table(name, 'manifests')}"))
    theirs = by("path", inspected(table.inspect.manifests()))
    assert len(ours) >= 2 and ours.keys() == theirs.keys()
    for path, their in theirs.items():
        for column in (
            "length",
            "partition_spec_id",
            "added_snapshot_id",
            "added_data_files_count",
            "existing_data_files_count",
            "deleted_data_files_count",
            "partition_summaries",
        ):
            assert ours[path][column] == their[column], (path, column)
