"""The Flight SQL JDBC driver, driven by a Java program of a few lines: what ADBC is told, it is told, too."""

import datetime
import decimal
import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest

from test_adbc import BAD_INPUT, FEDERATED
from tpch import FEDERATED as PLACES
from tpch import QUERIES, qualified

JARS = Path(os.environ.get("TOWNLAKE_JARS", Path.home() / ".cache/townlake/jars"))
PROGRAM = Path(__file__).parents[1] / "java" / "Query.java"

#: A NULL and an edge of each type that both drivers read.
TYPES = """
SELECT b, i, l, d, n, day, t FROM (VALUES
  (true, CAST(-2147483648 AS INT), 9223372036854775807, 0.1, CAST('-0.05' AS DECIMAL(12, 2)), DATE '0001-01-01', 'ä|''"'),
  (false, 7, -1, CAST('-1e300' AS DOUBLE), CAST('9999999999.99' AS DECIMAL(12, 2)), DATE '9999-12-31', ''),
  (NULL, NULL, NULL, NULL, NULL, NULL, NULL)) AS v(b, i, l, d, n, day, t)
ORDER BY i NULLS LAST
"""

STATEMENTS = {
    "federated": FEDERATED,
    "types": TYPES,
    "escapes": "SELECT 'a\tb\nc\\d' AS t, NULL AS n",
    **{path.stem: qualified(path.read_text(), PLACES) for path in QUERIES},
}


@pytest.fixture(scope="module")
def told(demo, tmp_path_factory):
    """All that the program prints, by kind of line and statement. One JVM runs everything."""
    folder = tmp_path_factory.mktemp("statements")
    bad = {f"bad{number}": sql for number, (sql, _) in enumerate(BAD_INPUT)}
    for name, sql in {**STATEMENTS, **bad}.items():
        (folder / f"{name}.sql").write_text(sql)
    (jar,) = JARS.glob("flight-sql-jdbc-driver-*.jar")
    url = f"jdbc:arrow-flight-sql://{demo.address}?useEncryption=false"
    command = ["java", "--add-opens=java.base/java.nio=ALL-UNNAMED", "-Dfile.encoding=UTF-8", "-Duser.timezone=UTC"]
    command += ["-cp", str(jar), str(PROGRAM), url, demo.user, demo.password, str(folder)]
    run = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    found = {}
    for line in run.stdout.split("\n"):
        kind, *cells = line.split("\t")
        found.setdefault(kind, []).append([unescape(cell) for cell in cells])
    return found


def unescape(cell):
    """What the program's `escape` was given."""
    if cell == r"\N":
        return None
    out, parts = [], iter(cell)
    for char in parts:
        out.append({"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}[next(parts)] if char == "\\" else char)
    return "".join(out)


def typed(text, data_type):
    """The driver's text of a value as the Python value that ADBC gives for this type."""
    if text is None:
        return None
    if pa.types.is_boolean(data_type):
        return {"true": True, "false": False}[text]
    if pa.types.is_integer(data_type):
        return int(text)
    if pa.types.is_floating(data_type):
        return float(text)
    if pa.types.is_decimal(data_type):
        return decimal.Decimal(text)
    if pa.types.is_date(data_type):
        return datetime.date.fromisoformat(text)
    assert pa.types.is_string(data_type) or pa.types.is_null(data_type), data_type
    return text


def close(left, right):
    """Sums of floats depend on the order of their parts, which differs between two runs."""
    if isinstance(left, float) and isinstance(right, float):
        return abs(left - right) <= 1e-9 * max(abs(left), abs(right))
    return left == right


@pytest.mark.parametrize("name", STATEMENTS)
def test_rows_are_those_of_adbc(name, told, connection):
    failed = [message for failed, message in told.get("error", []) if failed == name]
    assert not failed, failed
    with connection.cursor() as cursor:
        cursor.execute(STATEMENTS[name])
        expected = cursor.fetch_arrow_table()
    assert expected.num_rows > 0
    (columns,) = [cells[1:] for cells in told["columns"] if cells[0] == name]
    assert columns == expected.column_names
    types = expected.schema.types
    got = [[typed(text, t) for text, t in zip(cells[1:], types, strict=True)] for cells in told["row"] if cells[0] == name]
    for number, (row, wanted) in enumerate(zip(got, expected.to_pylist())):
        wanted = list(wanted.values())
        assert all(close(a, b) for a, b in zip(row, wanted, strict=True)), f"row {number}: {row} is not {wanted}"
    assert len(got) == expected.num_rows


@pytest.mark.parametrize("number", range(len(BAD_INPUT)), ids=lambda number: BAD_INPUT[number][0][:40])
def test_bad_input_is_named(number, told):
    (message,) = [message for name, message in told["error"] if name == f"bad{number}"]
    assert all(word in message for word in BAD_INPUT[number][1]), message


def test_bound_parameters_and_metadata(told):
    assert told["bound"] == [["Customer#000000042"]]
    assert told["product"] == [["Town Lake"]]
    assert {("orders", "TABLE"), ("lineitem", "TABLE"), ("jdbc_view", "VIEW")} <= {tuple(row) for row in told["table"]}
    assert told["viewcolumn"] == [["jdbc_view", "id"]]
