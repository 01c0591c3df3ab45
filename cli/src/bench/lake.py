"""Runs the scans of the benchmark in another engine: its name, the folder, how often, and scans as JSON (text, table) are the arguments.

Prints the median time of each scan in milliseconds; the first time is not counted.
"""

import json
import os
import sqlite3
import statistics
import sys
import time


def metadata(folder, table):
    with sqlite3.connect(f"{folder}/catalog.db") as catalog:
        query = "SELECT metadata_location FROM iceberg_tables WHERE table_name = ?"
        return catalog.execute(query, (table,)).fetchone()[0]


def duckdb_runner(folder):
    os.environ["HOME"] = folder  # where the extensions go
    import duckdb
    from duckdb_extensions import import_extension

    connection = duckdb.connect()
    for extension in ("avro", "iceberg"):
        import_extension(extension)
        connection.execute(f"LOAD {extension}")
    connection.execute("SET threads = 2")

    def run(text, table):
        source = f"iceberg_scan('{metadata(folder, table).removeprefix('file://')}')"
        return lambda: connection.execute(text.replace("{}", source)).fetchall()

    return run


def pyiceberg_runner(folder):
    import duckdb
    from pyiceberg.table import StaticTable

    connection = duckdb.connect()
    connection.execute("SET threads = 2")

    def run(text, table):
        loaded = StaticTable.from_metadata(metadata(folder, table))
        columns = tuple(name for name in ("k", "d", "name") if f"({name})" in text or f" {name} " in text)
        _, _, condition = text.partition(" WHERE ")

        def once():
            scan = loaded.scan(row_filter=condition or "True", selected_fields=columns)
            rows = scan.to_arrow()  # noqa: F841: DuckDB reads it by its name
            return connection.execute(text.replace("{}", "rows")).fetchall()

        return once

    return run


engine, folder, rounds, scans = sys.argv[1:]
runner = {"duckdb": duckdb_runner, "pyiceberg": pyiceberg_runner}[engine](folder)
for text, table in json.loads(scans):
    run, took = runner(text, table), []
    for attempt in range(int(rounds) + 1):
        started = time.perf_counter()
        run()
        took.append((time.perf_counter() - started) * 1000)
    print(f"{text} of {table}: {statistics.median(took[1:]):.0f} ms")
