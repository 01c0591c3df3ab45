"""The connection lines that the demo prints work as they stand, in the shell of whoever reads them."""

import os
import re
import subprocess
from pathlib import Path


def printed(demo, client):
    output = (demo.folder.parent / "demo.out").read_text()
    return re.search(rf"^  {client} +(.*)$", output, re.MULTILINE)[1]


def run(line, **options):
    return subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60, **options)


def test_the_shell_line(demo):
    told = run(printed(demo, "shell"), input="SELECT count(*) AS n FROM lake.tpch.region WHERE r_regionkey < 5;")
    assert told.returncode == 0 and "| 5 " in told.stdout, told.stdout + told.stderr


def test_the_adbc_line(demo):
    """It names the Python that `make demo` installed the driver for."""
    line = printed(demo, "ADBC")
    assert line.startswith(str(os.environ.get("TOWNLAKE_VENV", Path.home() / ".cache/townlake/venv"))), line
    told = run(line)
    assert told.returncode == 0 and "600572" in told.stdout, told.stdout + told.stderr


def test_the_jdbc_line(demo):
    line = printed(demo, "JDBC")
    assert line == (
        f"jdbc:arrow-flight-sql://{demo.address}?useEncryption=false&user={demo.user}&password={demo.password}"
    )
