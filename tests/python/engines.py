"""Engines that nobody here wrote, each in a process of its own that answers lines of JSON."""

import json
import os
import subprocess
from pathlib import Path

CACHE = Path.home() / ".cache" / "townlake"
# As scripts/setup.sh has them.
VENVS = Path(os.environ.get("TOWNLAKE_VENV", CACHE / "venv")).parent


class EngineError(Exception):
    """What the engine said."""


class Engine:
    """A driver that runs: a script, with the Python of its environment and these arguments."""

    def __init__(self, name, folder, python, driver, arguments, environment):
        self.name, self.log = name, (folder / f"{name}.log").open("wb")
        self.child = subprocess.Popen(
            [str(python), str(Path(__file__).with_name(driver)), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd=folder,
            env={**os.environ, **environment},
            text=True,
        )
        self.answer()

    def sql(self, text):
        """The rows of a statement, each a dict."""
        return self.ask(text)

    def ask(self, what):
        self.child.stdin.write(json.dumps(what) + "\n")
        self.child.stdin.flush()
        return self.answer()

    def answer(self):
        line = self.child.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError(f"{self.name} ended: {Path(self.log.name).read_text()[-3000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise EngineError(answer["error"])
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
