"""Spark with Iceberg's own Java runtime over an SQL catalog in Postgres: a reader and writer that nobody here wrote.

(Not in SQLite: its driver for Java keeps reading the state of its first look.)
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

from servers import require

# As scripts/setup.sh has them.
CACHE = Path.home() / ".cache" / "townlake"
VENV = Path(os.environ.get("TOWNLAKE_VENV", CACHE / "venv")).with_name("venv-spark")
JAR_FOLDER = Path(os.environ.get("TOWNLAKE_JARS", CACHE / "jars"))
JARS = ("iceberg-spark-runtime-3.5_2.12-1.10.0.jar", "postgresql-42.7.7.jar")


class SparkError(Exception):
    pass


class Spark:
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
        environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "TZ": "UTC", "PYSPARK_PYTHON": str(python)}
        driver = Path(__file__).with_name("spark_driver.py")
        self.log = (folder / "spark.log").open("wb")
        self.child = subprocess.Popen(
            [str(python), str(driver), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd=folder,
            env=environment,
            text=True,
        )
        self.answer()

    def sql(self, text):
        """The rows of a statement, each a dict."""
        self.child.stdin.write(json.dumps(text) + "\n")
        self.child.stdin.flush()
        return self.answer()

    def answer(self):
        line = self.child.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError(f"Spark ended: {Path(self.log.name).read_text()[-3000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise SparkError(answer["error"])
        return answer["rows"]

    def stop(self):
        if self.child.poll() is None:
            self.child.stdin.close()
            try:
                self.child.wait(20)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        self.log.close()
