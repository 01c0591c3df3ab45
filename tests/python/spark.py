"""Spark with Iceberg's own Java runtime over an SQL catalog in Postgres: a reader and writer that nobody here wrote.

(Not in SQLite: its driver for Java keeps reading the state of its first look.)
"""

import json
import os
import shutil
from pathlib import Path

from engines import CACHE, VENVS, Engine
from servers import require

# As scripts/setup.sh has them.
VENV = VENVS / "venv-spark"
JAR_FOLDER = Path(os.environ.get("TOWNLAKE_JARS", CACHE / "jars"))
JARS = ("iceberg-spark-runtime-3.5_2.12-1.10.0.jar", "postgresql-42.7.7.jar")


class Spark(Engine):
    """One session in a process of its own."""

    def __init__(self, folder, postgres, database, warehouse):
        python = VENV / "bin" / "python"
        jars = [JAR_FOLDER / name for name in JARS]
        there = shutil.which("java") and python.exists() and all(jar.exists() for jar in jars)
        require(there or None, "Spark with Iceberg's runtime is not installed (scripts/setup.sh test)")
        settings = {
            "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
            "spark.ui.enabled": "false",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.memory": "1g",
            "spark.jars": ",".join(map(str, jars)),
            "spark.sql.shuffle.partitions": "2",
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.catalog.lake": "org.apache.iceberg.spark.SparkCatalog",
            "spark.sql.catalog.lake.catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
            "spark.sql.catalog.lake.uri": f"jdbc:postgresql://127.0.0.1:{postgres.port}/{database}",
            "spark.sql.catalog.lake.jdbc.user": "postgres",
            "spark.sql.catalog.lake.jdbc.password": postgres.PASSWORD,
            "spark.sql.catalog.lake.jdbc.schema-version": "V1",
            "spark.sql.catalog.lake.warehouse": f"file://{warehouse}",
            # What one engine has committed the other must see at once.
            "spark.sql.catalog.lake.cache-enabled": "false",
        }
        environment = {"SPARK_LOCAL_IP": "127.0.0.1", "TZ": "UTC", "PYSPARK_PYTHON": str(python)}
        super().__init__("spark", folder, python, "spark_driver.py", [json.dumps(settings)], environment)

    def java(self, call, *arguments):
        """Calls a function of `Java` in spark_driver.py."""
        self.ask({"call": call, "arguments": arguments})
