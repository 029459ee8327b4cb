"""What a run tells its user while it works: log lines, progress bars, `metrics.jsonl`.

Knows nothing about what is being measured.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["Metrics", "console", "log", "log_to", "progress", "progress_bar"]

T = TypeVar("T")
log = logging.getLogger("groundrec")
console = Console(stderr=True, highlight=False)


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else None
        console.print(self.format(record), style=style, markup=False, soft_wrap=True)


def log_to(file: Path | None = None, *, quiet: bool = False) -> None:
    """Send log lines to the terminal (unless `quiet`) and, with times, to `file`; earlier targets are dropped."""
    for old in list(log.handlers):
        log.removeHandler(old)
        old.close()
    log.setLevel(logging.INFO)
    log.propagate = False
    if not quiet:
        log.addHandler(_ConsoleHandler())
    if file:
        handler = logging.FileHandler(file, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)


def progress_bar() -> Progress:
    """Return a progress bar with the time that remains; silent when not on a terminal, or where only warnings count."""
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    silent = log.level > logging.INFO or not sys.stderr.isatty()
    return Progress(*columns, console=console, transient=True, disable=silent)


def progress(steps: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield `steps` behind a progress bar."""
    with progress_bar() as bar:
        yield from bar.track(steps, total=len(steps) if isinstance(steps, Sized) else total, description=what)


class Metrics:
    """Appends one JSON object per call to `metrics.jsonl`; each has `stage`, `time` and the values given."""

    def __init__(self, path: Path, stage: str) -> None:
        self._path, self._stage = path, stage
        self._torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")

    def write(self, **values: Any) -> None:
        """Append one line, behind what a crash may have left of another."""
        line = json.dumps({"stage": self._stage, "time": round(time.time(), 3), **values})
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._torn + line + "\n")
        self._torn = False

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """Return every whole line of a metrics file; a line cut short by a crash is left out."""
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return rows
