"""Runs in Spark's own environment: answers each line of standard input by a line of JSON. A line is a JSON text with SQL, or an
object with what Iceberg's Java library does without Spark: the name of a function of `Java`, and its arguments.

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


class Java:
    """What Spark's SQL cannot say, in Iceberg's Java library."""

    def __init__(self, session):
        self.session, self.gateway = session, session.sparkContext._gateway
        self.iceberg = self.gateway.jvm.org.apache.iceberg

    def table(self, name):
        return self.iceberg.spark.Spark3Util.loadIcebergTable(self.session._jsparkSession, name)

    def equality_delete(self, table, columns, rows, spec=None, partition_of=None):
        """Deletes the rows that have these values in these columns. `partition_of`: a row of the partition they are in."""
        iceberg, table = self.iceberg, self.table(table)
        schema, spec = table.schema(), table.spec() if spec is None else table.specs().get(spec)
        ids = self.gateway.new_array(self.gateway.jvm.int, len(columns))
        for place, column in enumerate(columns):
            ids[place] = schema.findField(column).fieldId()
        names = self.gateway.jvm.java.util.ArrayList()
        for column in columns:
            names.add(column)
        deleted = schema.select(names)
        key = None
        if partition_of is not None:
            key = iceberg.PartitionKey(spec, schema)
            wrapper = iceberg.data.InternalRecordWrapper(schema.asStruct())
            key.partition(wrapper.wrap(self.record(schema, partition_of)))
        parquet = iceberg.FileFormat.PARQUET
        factory = iceberg.data.GenericAppenderFactory(schema, spec, ids, deleted, None)
        files = iceberg.io.OutputFileFactory.builderFor(table, 1, 1).format(parquet).build()
        output = files.newOutputFile() if key is None else files.newOutputFile(spec, key)
        writer = factory.newEqDeleteWriter(output, parquet, key)
        for row in rows:
            writer.write(self.record(deleted, dict(zip(columns, row))))
        writer.close()
        table.newRowDelta().addDeletes(writer.toDeleteFile()).commit()

    def record(self, schema, values):
        record = self.iceberg.data.GenericRecord.create(schema)
        for name, value in values.items():
            record.setField(name, value)
        return record

    def add_column_with_default(self, table, name, default):
        types = self.iceberg.types.Types
        of = types.StringType.get() if isinstance(default, str) else types.IntegerType.get()
        literal = self.iceberg.expressions.Expressions.lit(default)
        self.table(table).updateSchema().addColumn(name, of, "with a default", literal).commit()


def main():
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    builder = SparkSession.builder.master("local[1]")
    for key, value in json.loads(sys.argv[1]).items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    java = Java(session)
    print(json.dumps({"rows": []}), file=answers, flush=True)
    for line in sys.stdin:
        try:
            asked = json.loads(line)
            if isinstance(asked, dict):
                getattr(java, asked["call"])(*asked["arguments"])
                answer = {"rows": []}
            else:
                answer = {"rows": [shown(row) for row in session.sql(asked).collect()]}
        except Exception as error:  # noqa: BLE001: it is the answer
            answer = {"error": str(error)[:2000]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
