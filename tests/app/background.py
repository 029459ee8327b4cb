"""Runs in the background for tests: a source that waits until it is let go, and commands in
processes of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import groundrec
from groundrec.app.jobs.state import State, state_of

__all__ = ["Terminal", "at_work", "until"]

SOURCE = '''
"""A source of another package, which waits for a file that is called `go`."""

import time
from pathlib import Path

from groundrec.data.sources.table import TableSource


class Waits(TableSource):
    def read(self, connection):
        while not Path("go").exists():
            time.sleep(0.02)
        return super().read(connection)
'''
ENTRY = "[groundrec.sources]\nwaits = waits:Waits\n"
PATIENCE = 90


class Terminal:
    """A folder with a recipe whose first stage waits for `go()`, and a queue of its own."""

    def __init__(self, folder: Path, recipe: Path) -> None:
        self.folder, self.recipe = folder, recipe
        package = folder / "package"
        (package / "waits-1.dist-info").mkdir(parents=True)
        (package / "waits-1.dist-info" / "METADATA").write_text(
            "Name: waits\nVersion: 1\n", encoding="utf-8"
        )
        (package / "waits-1.dist-info" / "entry_points.txt").write_text(ENTRY, encoding="utf-8")
        (package / "waits.py").write_text(SOURCE, encoding="utf-8")
        paths = [str(package), str(Path(groundrec.__file__).parents[1])]
        hidden = ("CUDA_VISIBLE_DEVICES", "RANK", "WORLD_SIZE")
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in hidden},
            "PYTHONPATH": os.pathsep.join(paths),
            "GROUNDREC_STATE": str(folder / "state"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }

    def call(self, *arguments: object, code: int = 0, **environment: str) -> str:
        """Return what `groundrec ARGUMENTS` prints on both streams; it must end with `code`."""
        done = subprocess.run(
            [sys.executable, "-m", "groundrec", *map(str, arguments)],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def detach(
        self, name: str, *arguments: object, waiting: bool = True, **environment: str
    ) -> Path:
        """Hand in a run of the first stage alone, which waits for `go()`; return its directory."""
        source = ["--set", "data.source=waits", "--until", "prepare"] if waiting else []
        self.call(
            "run",
            self.recipe,
            "--run-dir",
            f"runs/{name}",
            "--detach",
            *source,
            *arguments,
            **environment,
        )
        return self.folder / "runs" / name

    def json(self, *arguments: object) -> Any:
        """Return the value that a command prints with `--json`."""
        return json.loads(self.call(*arguments, "--json"))

    def listed(self) -> dict[str, dict[str, Any]]:
        """Return what `groundrec runs --json` says, by name."""
        return {row["name"]: row for row in self.json("runs")}

    def go(self) -> None:
        """Let all waiting runs go on."""
        (self.folder / "go").touch()

    def end(self) -> None:
        """Kill whatever is still at work."""
        for path in (self.folder / "runs").glob("*"):
            state = state_of(path)
            for pid in (state.supervisor, state.pid):
                if pid:
                    with contextlib.suppress(ProcessLookupError):  # ended by itself since
                        os.kill(pid, signal.SIGKILL)
        until(lambda: all(state_of(path).is_over for path in (self.folder / "runs").glob("*")))


def until(when: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Return as soon as `when()` holds."""
    deadline = time.monotonic() + seconds
    while not when():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def at_work(path: Path) -> State:
    """Return the state of a run when its first stage has begun."""
    until(lambda: state_of(path).stage == "prepare")
    return state_of(path)
