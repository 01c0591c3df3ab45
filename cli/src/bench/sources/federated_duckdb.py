"""Runs the statement over three systems in DuckDB: the port of Postgres, the folder of the lake, how often, and the SQL with `{lineitem}` are
the arguments. Prints the median time in seconds, then the rows; the first time is not counted.
"""

import sqlite3
import statistics
import sys
import time

import duckdb
from duckdb_extensions import import_extension

port, folder, rounds, sql = sys.argv[1:]
with sqlite3.connect(f"{folder}/catalog.db") as catalog:
    found = "SELECT metadata_location FROM iceberg_tables WHERE table_name = 'lineitem'"
    metadata = catalog.execute(found).fetchone()[0].removeprefix("file://")
connection = duckdb.connect()
for extension in ("avro", "iceberg", "postgres_scanner"):
    import_extension(extension)
    connection.execute(f"LOAD {extension}")
connection.execute("SET threads = 2")
connection.execute(f"ATTACH 'host=127.0.0.1 port={port} user=postgres dbname=postgres' AS crm (TYPE postgres, READ_ONLY)")
sql = sql.replace("{lineitem}", f"iceberg_scan('{metadata}')")
took = []
for _ in range(int(rounds) + 1):
    started = time.perf_counter()
    rows = connection.execute(sql).fetchall()
    took.append(time.perf_counter() - started)
print(statistics.median(took[1:]), "; ".join(" ".join(str(cell) for cell in row) for row in rows))
