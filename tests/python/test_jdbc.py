"""The Flight SQL JDBC driver, driven by a Java program of a few lines."""

import os
import subprocess
from pathlib import Path

JARS = Path(os.environ.get("TOWNLAKE_JARS", Path.home() / ".cache/townlake/jars"))
PROGRAM = Path(__file__).parents[1] / "java" / "Query.java"


def test_jdbc(demo):
    (jar,) = JARS.glob("flight-sql-jdbc-driver-*.jar")
    url = f"jdbc:arrow-flight-sql://{demo.address}?useEncryption=false"
    sql = (
        "SELECT c_mktsegment, count(*) AS n, sum(o_totalprice) AS total FROM lake.tpch.orders "
        "JOIN crm.public.customer ON c_custkey = o_custkey GROUP BY 1 ORDER BY 1"
    )
    run = subprocess.run(
        ["java", "--add-opens=java.base/java.nio=ALL-UNNAMED", "-cp", str(jar), str(PROGRAM), url, demo.user, demo.password, sql],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    rows = [line.split("|") for line in lines if line.startswith("row|")]
    assert [row[1].strip() for row in rows] == ["AUTOMOBILE", "BUILDING", "FURNITURE", "HOUSEHOLD", "MACHINERY"]
    assert sum(int(row[2]) for row in rows) == 15000
    assert "bound|Customer#000000042" in lines
    assert "product|Town Lake" in lines
    assert {"table|orders", "table|lineitem"} <= set(lines)
