"""scripts/setup.sh on a machine where little is installed, for a user who may not install more."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "setup.sh"
TOOLS = ["bash", "dirname", "cmp", "grep", "mktemp", "rm", "cp", "awk", "sort", "cat"]


@pytest.fixture()
def setup(tmp_path):
    """Runs the script with these few programs, as an ordinary user without sudo; Python makes no environments."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for tool in TOOLS:
        (programs / tool).symlink_to(shutil.which(tool))
    for name, script in {"id": "echo 1000", "python3": "echo no room >&2; exit 1"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)

    def run(level, **environment):
        fixed = {"PATH": str(programs), "HOME": str(tmp_path), "TOWNLAKE_BIN": "/bin/true"}
        return subprocess.run(
            [shutil.which("bash"), str(SCRIPT), level],
            env={**fixed, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    return run


def test_without_root_it_says_what_to_ask_for_and_what_goes_without(setup):
    told = setup("demo")
    assert told.returncode == 1
    assert "apt-get install" in told.stderr and "etcd-server" in told.stderr
    assert "make demo DEMO_FLAGS=--embedded" in told.stderr
    told = setup("demo", TOWNLAKE_BIN="")
    assert "mold" in told.stderr and "but with " in told.stderr, "an embedded demo is built, too"


@pytest.mark.parametrize("flags", ["--embedded", "--embedded --exit", "--exit --embedded"])
def test_an_embedded_demo_asks_for_no_server(setup, flags):
    told = setup("demo", DEMO_FLAGS=flags)
    assert told.returncode == 0, told.stderr
    assert "apt-get" not in told.stderr


def test_a_demo_starts_without_its_python_client(setup, tmp_path):
    told = setup("demo", DEMO_FLAGS="--embedded")
    assert told.returncode == 0 and "no Python client then" in told.stdout, told.stdout
    (tmp_path / "venv/lib/python3.11/site-packages/adbc_driver_flightsql").mkdir(parents=True)
    told = setup("demo", DEMO_FLAGS="--embedded", TOWNLAKE_VENV=str(tmp_path / "venv"))
    assert told.returncode == 0 and not told.stdout, "with the client there is nothing to say"


def test_every_script_parses():
    for script in SCRIPT.parent.glob("*.sh"):
        subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(SCRIPT, os.X_OK)
