"""What a run reports while it works: log lines, progress bars, `metrics.jsonl`, `progress.json`.

Knows nothing about what is being measured.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = [
    "Histogram",
    "Metrics",
    "console",
    "gradients_to",
    "log",
    "log_to",
    "metrics_to",
    "progress",
    "progress_bar",
    "progress_to",
    "record_in",
    "report_gradients",
]

T = TypeVar("T")
Histogram = tuple[list[float], list[float]]
"""The counts of the bins, and the edges of the bins: one more than counts."""
log = logging.getLogger("groundrec")
console = Console(stderr=True, highlight=False)
WRITE_INTERVAL = 1.0
"""Minimum seconds between two writes of the progress file."""


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else None
        console.print(self.format(record), style=style, markup=False, soft_wrap=True)


def log_to(file: Path | None = None, *, quiet: bool = False) -> None:
    """Send log lines to the terminal (unless `quiet`) and, with times, to `file`; replaces earlier
    targets.
    """
    for old in list(log.handlers):
        log.removeHandler(old)
        old.close()
    log.setLevel(logging.INFO)
    log.propagate = False
    if not quiet:
        log.addHandler(_ConsoleHandler())
    if file:
        log.addHandler(_file_handler(file))


def _file_handler(file: Path) -> logging.Handler:
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


class _ProgressFile:
    """The file in which other processes read the state of the progress bar that last moved."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self._last = 0.0

    def write(self, values: dict[str, Any], *, now: bool) -> None:
        """Replace the file's values, unless it was just written; with `now` in any case."""
        if self.path is None or (not now and time.monotonic() - self._last < WRITE_INTERVAL):
            return
        self._last = time.monotonic()
        part = self.path.with_suffix(".part")
        with contextlib.suppress(OSError):  # a full disk must not fail a run here
            part.write_text(json.dumps({**values, "updated": time.time()}), encoding="utf-8")
            part.replace(self.path)


_progress_file = _ProgressFile()


def progress_to(file: Path | None) -> None:
    """Write the progress of the newest bar to `file` about once a second; None stops it."""
    _progress_file.path = file


@contextlib.contextmanager
def record_in(run: Path) -> Iterator[None]:
    """Within the block, also write log lines and progress to a run directory."""
    level = log.level
    # Without handlers, Python shows warnings through `lastResort`. Adding the file's handler would
    # silence it, so it is added, too.
    usual = [] if log.hasHandlers() or logging.lastResort is None else [logging.lastResort]
    file = _file_handler(run / "log.txt")
    for handler in (file, *usual):
        log.addHandler(handler)
    log.setLevel(level or logging.INFO)
    progress_to(run / "progress.json")
    try:
        yield
    finally:
        progress_to(None)
        log.setLevel(level)
        for handler in (file, *usual):
            log.removeHandler(handler)
        file.close()


class _Bar(Progress):
    """A progress bar that is also written to the progress file: `what` is done, `completed` of
    `total`, and `since` when, having started at `first`.
    """

    _started: dict[TaskID, tuple[float, float]]

    def add_task(self, description: str, *arguments: Any, **options: Any) -> TaskID:
        task = super().add_task(description, *arguments, **options)
        self._started = {
            **getattr(self, "_started", {}),
            task: (time.time(), options.get("completed", 0)),
        }
        self._write(task, now=True)
        return task

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._write(task_id)

    def update(self, task_id: TaskID, **options: Any) -> None:
        super().update(task_id, **options)
        self._write(task_id)

    def _write(self, task_id: TaskID, *, now: bool = False) -> None:
        task = self._tasks[task_id]
        since, first = self._started[task_id]
        values = {"what": task.description, "completed": task.completed, "total": task.total}
        _progress_file.write({**values, "since": since, "first": first}, now=now or task.finished)


def progress_bar() -> Progress:
    """Return a progress bar with the remaining time; hidden if stderr is not a terminal or the log
    shows only warnings.
    """
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    hidden = log.level > logging.INFO or not sys.stderr.isatty()
    return _Bar(*columns, console=console, transient=True, disable=hidden)


def progress(steps: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield `steps` while showing a progress bar."""
    with progress_bar() as bar:
        task = bar.add_task(what, total=len(steps) if isinstance(steps, Sized) else total)
        for step in steps:
            yield step
            bar.advance(task)


_listeners: list[Callable[[str, dict[str, Any]], None]] = []


def metrics_to(listener: Callable[[str, dict[str, Any]], None] | None) -> None:
    """Also call `listener(stage, values)` for each line of `metrics.jsonl`; None stops it."""
    _listeners[:] = [listener] if listener else []


_gradient_listeners: list[
    tuple[int, Callable[[int, Callable[[], dict[str, Histogram]]], None]]
] = []


def gradients_to(
    listener: Callable[[int, Callable[[], dict[str, Histogram]]], None] | None, every: int = 0
) -> None:
    """Call `listener(step, measure)` at every `every`-th optimiser step; None or 0 stops it.

    `measure()` returns the histogram of each weight's gradient.
    """
    _gradient_listeners[:] = [(every, listener)] if listener and every else []


def report_gradients(step: int, measure: Callable[[], dict[str, Histogram]]) -> None:
    """Offer the gradients of an optimiser step; `measure` is called only if a listener asks."""
    for every, listener in _gradient_listeners:
        if step % every == 0:
            listener(step, measure)


class Metrics:
    """Appends one JSON object per call to `metrics.jsonl`: `stage`, `time` and the values."""

    def __init__(self, path: Path, stage: str) -> None:
        self._path = path
        self._stage = stage
        self._partial_line = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")

    def write(self, **values: Any) -> None:
        """Append one line; a partial line left by a crash is ended first."""
        line = json.dumps({"stage": self._stage, "time": round(time.time(), 3), **values})
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._partial_line + line + "\n")
        self._partial_line = False
        for listener in _listeners:
            listener(self._stage, values)

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """Return all complete lines of a metrics file; a line cut short by a crash is skipped."""
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return rows
