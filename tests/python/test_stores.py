"""Catalogs and stores that nobody here wrote: SeaweedFS's Iceberg REST catalog and S3, and a real Postgres.

A cluster of a coordinator and two executors writes and reads there, and pyiceberg reads and writes the same tables.
"""

import datetime
import decimal
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pyarrow as pa
import pyarrow.compute
import pytest
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.transforms import BucketTransform
from servers import Cluster, Postgres, SeaweedFS, client_ports
from town import ROWS, WRONG

SECRETS = (SeaweedFS.SECRET_KEY, Postgres.PASSWORD, Cluster.PASSWORD, WRONG)


@pytest.fixture()
def cursor(town):
    with town.connect() as connection, connection.cursor() as cursor:
        yield cursor


def rows(cursor, sql):
    cursor.execute(sql)
    return cursor.fetchall()


def rejected(cursor, sql, *words):
    with pytest.raises(Exception) as caught:
        rows(cursor, sql)
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert not any(secret in text for secret in SECRETS), "a secret in an error"
    return text


def files_read(cursor, sql):
    """Files that EXPLAIN says are read, and files of the table."""
    (plan,) = set(re.findall(r"files=(\d+)/(\d+)", str(rows(cursor, f"EXPLAIN {sql}"))))
    return tuple(map(int, plan))


def sales(first, last, months="1 + value % 3"):
    """Rows of the table of [`create_sales`], a month and a region each."""
    return (
        f"SELECT value, make_date(2024, CAST({months} AS INT), CAST(1 + value % 28 AS INT)), "
        f"CASE value % 2 WHEN 0 THEN 'a/b c=é%' ELSE NULL END, CAST(value AS DECIMAL(12, 2)) / 4 "
        f"FROM generate_series({first}, {last})"
    )


def words(first, more):
    return f"SELECT value, 'ours' || value FROM generate_series({first}, {first + more})"


def create_sales(cursor, schema):
    cursor.execute(f"CREATE SCHEMA {schema}")
    cursor.execute(
        f"CREATE TABLE {schema}.sales (id BIGINT NOT NULL, day DATE, region VARCHAR, amount DECIMAL(12, 2)) "
        "PARTITIONED BY (month(day), region)"
    )
    assert rows(cursor, f"INSERT INTO {schema}.sales {sales(1, 3000)}") == [(3000,)]


def check_both_ways(town, cursor, catalog):
    """Everything that a user does with tables, and pyiceberg on the other side."""
    schema, theirs = f"{catalog}.shop", town.pyiceberg(catalog)
    create_sales(cursor, schema)
    table = theirs.load_table("shop.sales")
    first = table.current_snapshot()
    time.sleep(0.01)  # snapshots carry milliseconds
    assert rows(cursor, f"INSERT INTO {schema}.sales {sales(3001, 3100, '12')}") == [(100,)]

    # pyiceberg reads what we wrote
    table = theirs.load_table("shop.sales")
    read = table.scan().to_arrow()
    assert sorted(read["id"].to_pylist()) == list(range(1, 3101))
    row = table.scan(row_filter="id == 8").to_arrow().to_pylist()
    assert row == [{"id": 8, "day": datetime.date(2024, 3, 9), "region": "a/b c=é%", "amount": decimal.Decimal("2.00")}]
    files = table.inspect.files().to_pylist()
    assert all(file["file_path"].startswith("s3://") for file in files)
    assert {file["partition"]["region"] for file in files} == {"a/b c=é%", None}

    # pruning, time travel
    december = f"{schema}.sales WHERE day >= DATE '2024-12-01'"
    kept, total = files_read(cursor, f"SELECT * FROM {december}")
    assert kept < total == len(files), (kept, total)
    assert rows(cursor, f"SELECT count(*), min(id) FROM {december}") == [(100, 3001)]
    assert rows(cursor, f"SELECT count(*), count(region), sum(amount) FROM {schema}.sales") == [
        (3100, 1550, decimal.Decimal(3100 * 3101) / 8)
    ]
    moment = datetime.datetime.fromtimestamp(first.timestamp_ms / 1000, datetime.timezone.utc)
    moment = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    for version in (f"VERSION AS OF {first.snapshot_id}", f"TIMESTAMP AS OF TIMESTAMP '{moment}'"):
        assert rows(cursor, f"SELECT count(*), max(id) FROM {schema}.sales FOR {version}") == [(3000, 3000)]
    rejected(cursor, f"SELECT * FROM {schema}.sales FOR VERSION AS OF 1", "SNAPSHOT_NOT_FOUND")

    # we read what pyiceberg wrote, and write on
    data = pa.table({"id": pa.array(range(500), pa.int64()), "name": [f"n{i}" if i % 7 else None for i in range(500)]})
    table = theirs.create_table("shop.theirs", schema=data.schema)
    table.append(data)
    assert rows(cursor, f"SELECT count(*), count(name), max(id) FROM {schema}.theirs") == [(500, 428, 499)]
    assert rows(cursor, f"SELECT name FROM {schema}.theirs WHERE id = 8") == [("n8",)]
    with table.update_schema() as update:
        update.rename_column("name", "label")
    with table.update_spec() as update:
        update.add_field("id", BucketTransform(4), "id_bucket")
    assert rows(cursor, f"INSERT INTO {schema}.theirs {words(500, 99)}") == [(100,)]
    table.refresh()
    for wanted in (3, 500, 537, 599):  # it hashes the value and reads that bucket only: ours must be the same hash
        assert table.scan(row_filter=f"id == {wanted}").to_arrow()["id"].to_pylist() == [wanted]
    assert sorted({file["spec_id"] for file in table.inspect.files().to_pylist()}) == [0, 1]
    kept, total = files_read(cursor, f"SELECT * FROM {schema}.theirs WHERE id = 537")
    assert kept < total
    assert rows(cursor, f"SELECT count(*), count(label) FROM {schema}.theirs WHERE id IN (0, 8, 537)") == [(3, 2)]

    # CREATE TABLE AS, names, the end
    cursor.execute(
        f"CREATE TABLE {schema}.totals AS SELECT region, sum(amount) AS total FROM {schema}.sales GROUP BY 1"
    )
    totals = theirs.load_table("shop.totals").scan().to_arrow().to_pylist()
    assert {row["region"]: row["total"] for row in totals} == dict(rows(cursor, f"SELECT * FROM {schema}.totals"))
    rejected(cursor, f"CREATE TABLE {schema}.totals (id BIGINT)", "ALREADY_EXISTS")
    rejected(cursor, f"CREATE SCHEMA {schema}", "ALREADY_EXISTS")
    rejected(cursor, f"CREATE TABLE {catalog}.nowhere.t (id BIGINT)", "SCHEMA_NOT_FOUND")
    rejected(cursor, f"SELECT * FROM {schema}.total", "TABLE_NOT_FOUND", "totals")
    rejected(cursor, f"DROP SCHEMA {schema}", "INVALID_QUERY", "not empty")
    assert sorted(name for _, name in theirs.list_tables("shop")) == ["sales", "theirs", "totals"]
    for name in ("sales", "theirs", "totals"):
        cursor.execute(f"DROP TABLE {schema}.{name}")
    rejected(cursor, f"DROP TABLE {schema}.sales", "TABLE_NOT_FOUND")
    cursor.execute(f"DROP SCHEMA {schema}")
    assert ("shop",) not in theirs.list_namespaces()
    rejected(cursor, f"SELECT * FROM {schema}.sales", "NOT_FOUND")


@pytest.mark.parametrize("catalog", ["rest", "files", "shared"])
def test_tables_both_ways(town, cursor, catalog):
    check_both_ways(town, cursor, catalog)


def test_nested_namespaces(town, cursor):
    theirs = town.pyiceberg("rest")
    for levels in (("deep",), ("deep", "er")):
        theirs.create_namespace(levels)
    theirs.create_table(("deep", "er", "t"), schema=pa.schema([("id", pa.int64())])).append(pa.table({"id": [7]}))
    assert ("deep.er",) in [row[-1:] for row in rows(cursor, "SHOW SCHEMAS FROM rest")]
    assert rows(cursor, 'SELECT id FROM rest."deep.er".t') == [(7,)]


@pytest.mark.parametrize("catalog", ["rest", "files", "shared"])
def test_a_table_is_replaced_in_one_commit(town, cursor, catalog):
    where, theirs = {"catalog_name": catalog, "db_schema_name": "swap"}, town.pyiceberg(catalog)
    cursor.execute(f"CREATE SCHEMA {catalog}.swap")
    cursor.execute(f"CREATE TABLE {catalog}.swap.t (id BIGINT, name VARCHAR) PARTITIONED BY (bucket(4, id))")
    cursor.execute(f"INSERT INTO {catalog}.swap.t VALUES (1, 'old'), (2, 'older')")
    cursor.fetchall()
    before = theirs.load_table("swap.t")
    with pytest.raises(Exception, match="column gone"):
        cursor.adbc_ingest("t", pa.table({"gone": pa.nulls(1)}), mode="replace", **where)
    for new in (pa.table({"id": ["a", "b"]}), pa.table({"id": ["c"]})):
        assert cursor.adbc_ingest("t", new, mode="replace", **where) == new.num_rows
        assert rows(cursor, f"SELECT * FROM {catalog}.swap.t ORDER BY 1") == [(text,) for text in new["id"].to_pylist()]
        table = theirs.load_table("swap.t")
        assert sorted(table.scan().to_arrow()["id"].to_pylist()) == new["id"].to_pylist()
    table.append(pa.table({"id": ["theirs"]}))
    assert rows(cursor, f"SELECT id FROM {catalog}.swap.t ORDER BY 1") == [("c",), ("theirs",)]
    assert table.metadata.table_uuid == before.metadata.table_uuid and len(table.snapshots()) == 4
    old = f"SELECT name FROM {catalog}.swap.t FOR VERSION AS OF {before.current_snapshot().snapshot_id} WHERE id = 2"
    assert rows(cursor, old) == [("older",)]


@pytest.mark.parametrize("catalog", ["rest", "files", "shared"])
def test_tables_are_changed_both_ways(town, cursor, catalog):
    schema, theirs = f"{catalog}.evolve", town.pyiceberg(catalog)
    cursor.execute(f"CREATE SCHEMA {schema}")
    cursor.execute(f"CREATE TABLE {schema}.t (id INT, name VARCHAR) PARTITIONED BY (name)")
    cursor.execute(f"INSERT INTO {schema}.t VALUES (1, 'a')")
    for change in (
        "ADD COLUMN more VARCHAR COMMENT 'later' FIRST",
        "RENAME COLUMN name TO label",
        "ALTER COLUMN id TYPE BIGINT",
        "CREATE TAG v1",
        "CREATE BRANCH audit RETAIN 7 DAYS",
        "SET PROPERTIES owner = 'ann'",
        "DROP PARTITION FIELD name",
        "ADD PARTITION FIELD bucket(4, id)",
    ):
        cursor.execute(f"ALTER TABLE {schema}.t {change}")
    assert rows(cursor, f"INSERT INTO {schema}.t VALUES ('m', 5000000000, 'b')") == [(1,)]
    table = theirs.load_table("evolve.t")
    assert [(f.field_id, f.name, str(f.field_type)) for f in table.schema().fields] == [
        (3, "more", "string"),
        (1, "id", "long"),
        (2, "label", "string"),
    ]
    assert [field.name for field in table.spec().fields] == ["id_bucket"]
    assert table.properties["owner"] == "ann"
    assert {name: ref.snapshot_ref_type.value for name, ref in table.refs().items()} == {
        "main": "branch",
        "audit": "branch",
        "v1": "tag",
    }
    read = sorted(table.scan().to_arrow().to_pylist(), key=lambda row: row["id"])
    ours = rows(cursor, f"SELECT more, id, label FROM {schema}.t ORDER BY id")
    assert ours == [tuple(row.values()) for row in read] == [(None, 1, "a"), ("m", 5_000_000_000, "b")]
    assert rows(cursor, f"SELECT * FROM {schema}.t FOR VERSION AS OF 'v1'") == [(1, "a")]
    files = rows(cursor, f'SELECT file_path, spec_id, record_count FROM {schema}."t$files" ORDER BY spec_id')
    inspected = sorted(table.inspect.files().to_pylist(), key=lambda file: file["spec_id"])
    assert files == [tuple(file[key] for key in ("file_path", "spec_id", "record_count")) for file in inspected]
    rejected(cursor, f'ALTER TABLE {schema}.t ADD COLUMN "MORE" INT', "ALREADY_EXISTS", "more")
    cursor.execute(f"ALTER TABLE {schema}.t DROP TAG v1")
    cursor.execute(f"ALTER TABLE {schema}.t DROP COLUMN label")
    cursor.execute(f"ALTER TABLE {schema}.t RENAME TO u")
    assert theirs.load_table("evolve.u").schema().column_names == ["more", "id"]
    rejected(cursor, f"SELECT * FROM {schema}.t", "TABLE_NOT_FOUND")
    assert rows(cursor, f"SELECT count(*), sum(id) FROM {schema}.u") == [(2, 5_000_000_001)]


@pytest.mark.parametrize("mode", ["copy-on-write", "merge-on-read"])
@pytest.mark.parametrize("catalog", ["rest", "files", "shared"])
def test_rows_are_changed_both_ways(town, cursor, catalog, mode):
    schema = f"{catalog}.rows_{mode[:4]}"
    cursor.execute(f"CREATE SCHEMA {schema}")
    modes = ", ".join(f"'write.{command}.mode' = '{mode}'" for command in ("delete", "update", "merge"))
    cursor.execute(f"CREATE TABLE {schema}.t (id INT, name VARCHAR) PARTITIONED BY (bucket(2, id)) WITH ({modes})")
    assert rows(cursor, f"INSERT INTO {schema}.t VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')") == [(4,)]
    assert rows(cursor, f"DELETE FROM {schema}.t WHERE id = 2") == [(1,)]
    assert rows(cursor, f"UPDATE {schema}.t SET name = 'z', id = id + 10 WHERE id > 2") == [(2,)]
    merge = f"MERGE INTO {schema}.t USING (VALUES (13, 'y'), (5, 'e')) AS s (id, name) ON t.id = s.id "
    merge += "WHEN MATCHED THEN UPDATE SET name = s.name WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.name)"
    assert rows(cursor, merge) == [(2,)]
    expected = [(1, "a"), (5, "e"), (13, "y"), (14, "z")]
    assert rows(cursor, f"SELECT * FROM {schema}.t ORDER BY id") == expected
    theirs = town.pyiceberg(catalog)
    read = theirs.load_table(f"{schema.split('.')[1]}.t").scan().to_arrow().to_pylist()
    assert sorted(tuple(row.values()) for row in read) == expected
    cursor.execute(f"ALTER TABLE {schema}.t EXECUTE optimize")
    assert rows(cursor, f"SELECT * FROM {schema}.t ORDER BY id") == expected
    assert rows(cursor, f'SELECT count(*) FROM {schema}."t$files" WHERE content <> 0') == [(0,)]


@pytest.mark.parametrize("catalog", ["rest", "shared"])
def test_changes_of_columns_and_inserts_at_once(town, cursor, catalog):
    writers, rounds = 3, 4
    schema, theirs = f"{catalog}.hustle", town.pyiceberg(catalog)
    cursor.execute(f"CREATE SCHEMA {schema}")
    cursor.execute(f"CREATE TABLE {schema}.t (id BIGINT)")
    start = threading.Barrier(writers)

    def work(writer):
        with town.connect() as connection, connection.cursor() as own:
            start.wait()
            for number in range(rounds):
                own.execute(f"ALTER TABLE {schema}.t ADD COLUMN c{writer}_{number} INT")
                assert rows(own, f"INSERT INTO {schema}.t (id, c{writer}_{number}) VALUES ({writer}, 1)") == [(1,)]

    with ThreadPoolExecutor(writers) as pool:
        for done in [pool.submit(work, writer) for writer in range(writers)]:
            done.result()
    table = theirs.load_table("hustle.t")
    ids = [field.field_id for field in table.schema().fields]
    assert sorted(ids) == list(range(1, writers * rounds + 2)), "each column has an id of its own"
    read = table.scan().to_arrow()
    for writer in range(writers):
        for number in range(rounds):
            name = f"c{writer}_{number}"
            assert [row["id"] for row in read.to_pylist() if row[name] == 1] == [writer]
            assert rows(cursor, f"SELECT id, count(*) FROM {schema}.t WHERE {name} = 1 GROUP BY 1") == [(writer, 1)]


@pytest.mark.parametrize("catalog", ["rest", "shared"])
def test_concurrent_writers_lose_no_row(town, cursor, catalog):
    writers, rounds, size = 4, 3, 50
    schema, theirs = f"{catalog}.race", town.pyiceberg(catalog)
    cursor.execute(f"CREATE SCHEMA {schema}")
    cursor.execute(f"CREATE TABLE {schema}.t (id BIGINT, writer BIGINT)")
    start = threading.Barrier(writers + 1)

    def ours(writer):
        with town.connect() as connection, connection.cursor() as own:
            start.wait()
            for number in range(rounds):
                low = (writer * rounds + number) * size
                sql = f"SELECT value, {writer} FROM generate_series({low}, {low + size - 1})"
                assert rows(own, f"INSERT INTO {schema}.t {sql}") == [(size,)]

    def pyiceberg():
        data = pa.table({"id": pa.array([-1], pa.int64()), "writer": pa.array([-1], pa.int64())})
        start.wait()
        for _ in range(20):  # it may lose against us
            try:
                return theirs.load_table("race.t").append(data)
            except CommitFailedException:
                continue
        raise AssertionError("pyiceberg never got its commit in")

    with ThreadPoolExecutor(writers + 1) as pool:
        for done in [pool.submit(pyiceberg), *(pool.submit(ours, writer) for writer in range(writers))]:
            done.result()
    total = writers * rounds * size
    assert rows(cursor, f"SELECT count(*), count(DISTINCT id), min(id), max(id) FROM {schema}.t") == [
        (total + 1, total + 1, -1, total - 1)
    ]
    table = theirs.load_table("race.t")
    assert sorted(table.scan().to_arrow()["id"].to_pylist()) == list(range(-1, total))
    assert len(table.snapshots()) == writers * rounds + 1, "one commit an INSERT"


def test_files_in_many_parts(town, cursor):
    """Larger than one upload part of ours and than one chunk of the server's."""
    cursor.execute("CREATE SCHEMA files.wide")
    cursor.execute(
        "CREATE TABLE files.wide.t AS SELECT value AS id, "
        "CAST(random() AS VARCHAR) || CAST(random() AS VARCHAR) AS pad FROM generate_series(1, 1000000)"
    )
    table = town.pyiceberg("files").load_table("wide.t")
    sizes = [file["file_size_in_bytes"] for file in table.inspect.files().to_pylist()]
    assert max(sizes) > 12 << 20, sizes
    assert rows(cursor, "SELECT count(*), sum(id), count(pad) FROM files.wide.t") == [(10**6, 500000500000, 10**6)]
    ids = table.scan(selected_fields=("id",)).to_arrow()["id"]
    assert pyarrow.compute.sum(ids).as_py() == 500000500000


def test_wrong_credentials_are_told_without_the_secret(town, cursor):
    rejected(cursor, "SHOW SCHEMAS FROM rest_refused", "SOURCE_DENIED", "rest_refused")
    rejected(cursor, "SELECT * FROM rest_refused.s.t", "SOURCE_DENIED", "rest_refused")
    rejected(cursor, "SHOW SCHEMAS FROM shared_refused", "SOURCE_DENIED", "shared_refused")
    # The catalog lets us in and its store does not.
    cursor.execute("CREATE SCHEMA rest.locked")
    cursor.execute("CREATE TABLE rest.locked.t (id BIGINT)")
    cursor.execute("INSERT INTO rest.locked.t VALUES (1)")
    rejected(cursor, "SELECT * FROM rest_keys.locked.t", "SOURCE_DENIED", "s3://lake/")
    rejected(cursor, "INSERT INTO rest_keys.locked.t VALUES (2)", "SOURCE_DENIED", "s3://lake/")
    assert rows(cursor, "SELECT id FROM rest.locked.t") == [(1,)]


# The first read of the footer begins in what is left of the file, and beyond its end.
@pytest.mark.parametrize("rows_of_file", [1000, 200_000])
def test_a_data_file_that_is_gone_or_cut_is_named(town, cursor, rows_of_file):
    schema = f"broken{rows_of_file}"
    cursor.execute(f"CREATE SCHEMA files.{schema}")
    cursor.execute(
        f"CREATE TABLE files.{schema}.t AS SELECT value AS id, CAST(random() AS VARCHAR) AS pad "
        f"FROM generate_series(1, {rows_of_file})"
    )
    files = town.pyiceberg("files").load_table(f"{schema}.t").inspect.files().to_pylist()
    path = max(files, key=lambda file: file["file_size_in_bytes"])["file_path"]
    store, key = town.weed.store(), path.removeprefix("s3://")
    with store.open_input_file(key) as file:
        whole = file.read()
    with store.open_output_stream(key) as file:
        file.write(whole[: len(whole) // 2])
    name = path.rsplit("/")[-1]
    rejected(cursor, f"SELECT sum(id) FROM files.{schema}.t", "DATA_CORRUPT", name)
    store.delete_file(key)
    rejected(cursor, f"SELECT sum(id) FROM files.{schema}.t", "FILE_NOT_FOUND", name)


def test_a_scan_of_postgres_is_split_over_both_executors_on_one_snapshot(town, cursor):
    stop = threading.Event()

    def transfers():
        """Moves money in both directions of the table: only a single snapshot has the right sum."""
        done = 0
        with closing(town.postgres.connect("crm")) as crm, crm.cursor() as own:
            while not stop.is_set():
                own.execute(
                    "UPDATE account SET balance = balance + CASE WHEN id <= 20 THEN 7 ELSE -7 END "
                    f"WHERE id <= 20 OR id > {ROWS - 20}"
                )
                done += 1
        return done

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(transfers)
        try:
            sql = "SELECT region, count(*), sum(balance) FROM crm.public.account GROUP BY region"
            result = rows(cursor, f"{sql} ORDER BY region")
        finally:
            stop.set()
        assert writer.result() > 0
    assert [(region, count) for region, count, _ in result] == [(f"r{i}", ROWS // 5) for i in range(5)]
    assert sum(balance for _, _, balance in result) == ROWS * 100
    ((query,),) = rows(
        cursor,
        "SELECT id FROM system.runtime.queries WHERE sql LIKE '%crm.public.account%' AND sql NOT LIKE '%runtime%'",
    )

    # lines of Postgres's own: process, host(port), <application>
    line = re.compile(r"^(\d+) 127\.0\.0\.1\((\d+)\) <([^>]*)> .*?(COPY \(SELECT .*|SET TRANSACTION SNAPSHOT '[^']+')")
    found = [match for match in map(line.match, town.postgres.process.log().splitlines()) if match]
    copies = [m for m in found if m[4].startswith("COPY") and query in m[3]]
    ranges = []
    for copy in copies:
        low, high = (re.search(rf"ctid {sign} '\((\d+),0\)'", copy[4]) for sign in (">=", "<"))
        ranges.append((int(low[1]) if low else 0, int(high[1]) if high else None))
    ranges.sort()
    assert len(ranges) >= 4, ranges
    assert ranges[0][0] == 0 and ranges[-1][1] is None, ranges
    assert all(high == following[0] for (_, high), following in zip(ranges, ranges[1:])), f"not disjoint: {ranges}"

    backends = {copy[1] for copy in copies}
    snapshots = {m[4] for m in found if m[4].startswith("SET") and m[1] in backends}
    assert len(snapshots) == 1, snapshots

    # whose connections they were: the pools keep them for a while
    executors = [node for node in town.cluster.nodes if node.name.startswith("executor")]
    owners = {node.name: client_ports(node.pid) for node in executors}
    readers = {name for copy in copies for name, ports in owners.items() if int(copy[2]) in ports}
    assert readers == {"executor-1", "executor-2"}, (owners, [copy[2] for copy in copies])


def until_found(cursor, sql):
    """A store that has just begun to answer may not find its own parts for a moment."""
    for _ in range(40):
        try:
            return rows(cursor, sql)
        except Exception as error:
            assert "SOURCE_UNAVAILABLE" in str(error), error
            time.sleep(0.5)
    raise AssertionError(f"{sql}: away for 20 s")


def test_a_server_that_is_away_is_named_and_found_again(town, cursor):
    rejected(cursor, "SHOW SCHEMAS FROM rest_gone", "SOURCE_UNAVAILABLE", "rest_gone")
    rejected(cursor, "SELECT * FROM rest_gone.s.t", "SOURCE_UNAVAILABLE", "rest_gone")
    cursor.execute("CREATE SCHEMA rest.kept")
    cursor.execute("CREATE TABLE rest.kept.t AS SELECT 1 AS id")
    cursor.execute("CREATE SCHEMA files.kept")
    cursor.execute("CREATE TABLE files.kept.t AS SELECT 2 AS id")
    town.weed.stop()
    for sql, word in (("SELECT * FROM rest.kept.t", "catalog rest"), ("SELECT * FROM files.kept.t", "s3://warehouse/")):
        began = time.monotonic()
        rejected(cursor, sql, "SOURCE_UNAVAILABLE", word)
        assert time.monotonic() - began < 45, "the object store's client retries for 30 s"
    town.weed.start()
    until_found(cursor, "SELECT id FROM files.kept.t")
    assert rows(cursor, "SELECT id FROM rest.kept.t UNION SELECT id FROM files.kept.t ORDER BY id") == [(1,), (2,)]


def test_no_secret_in_a_log(town):
    """Stands last: it looks at what all tests above left."""
    for name, log in town.cluster.logs().items():
        assert log, name
        for secret in SECRETS:
            assert secret not in log, f"a secret in the log of {name}"
        loud = [line for line in log.splitlines() if re.search(r"\b(ERROR|WARN)\b", line)]
        # A write failed because its store was away, where what it left cannot be removed either.
        loud = [line for line in loud if "data files of a write may be left" not in line]
        assert not loud, f"{name}: {loud}"
