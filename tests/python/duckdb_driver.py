"""Runs in DuckDB's own environment: answers each line of standard input, a JSON text with SQL, by a line of JSON, as Spark's driver does.

The arguments: a folder to live in, which gets the extensions, and the statements to begin with.
"""

import json
import os
import sys


def shown(value):
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    if isinstance(value, dict):
        return {name: shown(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(inner) for inner in value]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def main():
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    os.environ["HOME"] = sys.argv[1]
    import duckdb
    from duckdb_extensions import import_extension

    connection = duckdb.connect()
    for extension in ("avro", "httpfs", "iceberg"):
        import_extension(extension)
        connection.execute(f"LOAD {extension}")
    for statement in json.loads(sys.argv[2]):
        connection.execute(statement)
    print(json.dumps({"rows": []}), file=answers, flush=True)
    for line in sys.stdin:
        try:
            cursor = connection.execute(json.loads(line))
            names = [column[0] for column in cursor.description or []]
            answer = {"rows": [dict(zip(names, map(shown, row))) for row in cursor.fetchall()]}
        except Exception as error:  # noqa: BLE001: it is the answer
            answer = {"error": str(error)[:2000]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
