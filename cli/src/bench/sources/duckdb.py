"""Runs the scan and the join of the benchmark of sources in DuckDB: the port of Postgres, the folder of the small table's Parquet files
and how often are the arguments. Prints the median time of each; the first time is not counted.
"""

import statistics
import sys
import time

import duckdb
from duckdb_extensions import import_extension

port, folder, rounds = sys.argv[1:]
connection = duckdb.connect()
import_extension("postgres_scanner")
connection.execute("LOAD postgres_scanner")
connection.execute("SET threads = 2")
connection.execute(f"ATTACH 'host=127.0.0.1 port={port} user=postgres dbname=postgres' AS crm (TYPE postgres, READ_ONLY)")
few = f"read_parquet('{folder}/*.parquet')"
queries = {
    "scan": "SELECT count(*), sum(id), max(account), max(amount), max(day), max(note) FROM crm.public.big",
    "join": f"SELECT count(*), sum(b.amount) FROM {few} AS f JOIN crm.public.big AS b ON b.id = f.id",
}
for name, sql in queries.items():
    took = []
    for _ in range(int(rounds) + 1):
        started = time.perf_counter()
        connection.execute(sql).fetchall()
        took.append(time.perf_counter() - started)
    print(f"{name} {statistics.median(took[1:]):.2f} s")
