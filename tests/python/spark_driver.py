"""Runs in Spark's own environment: answers each line of standard input, a JSON text with SQL, by a line of JSON.

`{"rows": [...]}` holds values as texts where JSON has no such type; `{"error": "…"}` is Spark's message.
"""

import json
import sys

from pyspark.sql import SparkSession


def shown(value):
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    if hasattr(value, "asDict"):
        return {name: shown(inner) for name, inner in value.asDict().items()}
    if isinstance(value, dict):
        return [[shown(key), shown(inner)] for key, inner in value.items()]
    if isinstance(value, (list, tuple)):
        return [shown(inner) for inner in value]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def main():
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    builder = SparkSession.builder.master("local[1]")
    for key, value in json.loads(sys.argv[1]).items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    print(json.dumps({"rows": []}), file=answers, flush=True)
    for line in sys.stdin:
        try:
            answer = {"rows": [shown(row) for row in session.sql(json.loads(line)).collect()]}
        except Exception as error:  # noqa: BLE001: it is the answer
            answer = {"error": str(error)[:2000]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
