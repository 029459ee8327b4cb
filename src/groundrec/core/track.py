"""What a run tells its user while it works: log lines, progress bars, `metrics.jsonl`,
`progress.json`.

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
    "gradients",
    "gradients_to",
    "kept_in",
    "log",
    "log_to",
    "metrics_to",
    "progress",
    "progress_bar",
    "progress_to",
]

T = TypeVar("T")
Histogram = tuple[list[float], list[float]]
"""Counts, and the edges between which they lie: one more than counts."""
log = logging.getLogger("groundrec")
console = Console(stderr=True, highlight=False)
PULSE = 1.0
"""Least seconds between two notes of how far the work is."""


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else None
        console.print(self.format(record), style=style, markup=False, soft_wrap=True)


def log_to(file: Path | None = None, *, quiet: bool = False) -> None:
    """Send log lines to the terminal (unless `quiet`) and, with times, to `file`; earlier targets
    are dropped.
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


class _Notes:
    """Where progress is noted for other processes: the last bar that moved."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self._last = 0.0

    def write(self, values: dict[str, Any], *, now: bool) -> None:
        """Replace the note, unless there is a fresh one; `now` in any case."""
        if self.path is None or (not now and time.monotonic() - self._last < PULSE):
            return
        self._last = time.monotonic()
        part = self.path.with_suffix(".part")
        with contextlib.suppress(OSError):  # a full disk stops the run where it matters, not here
            part.write_text(json.dumps({**values, "updated": time.time()}), encoding="utf-8")
            part.replace(self.path)


_notes = _Notes()


def progress_to(file: Path | None) -> None:
    """Note in `file`, about once a second, how far the newest progress bar is; None stops that."""
    _notes.path = file


@contextlib.contextmanager
def kept_in(run: Path) -> Iterator[None]:
    """Within the block, keep log lines and progress in a run directory too, whatever is shown
    elsewhere.
    """
    level = log.level
    # Python's last resort shows warnings as long as nobody has asked for log lines; this file is
    # nobody's wish.
    usual = [] if log.hasHandlers() or logging.lastResort is None else [logging.lastResort]
    kept = _file_handler(run / "log.txt")
    for handler in (kept, *usual):
        log.addHandler(handler)
    log.setLevel(level or logging.INFO)
    progress_to(run / "progress.json")
    try:
        yield
    finally:
        progress_to(None)
        log.setLevel(level)
        for handler in (kept, *usual):
            log.removeHandler(handler)
        kept.close()


class _Bar(Progress):
    """A progress bar that is noted too: `what`, `completed` of `total`, and `since` when, beginning
    at `first`.
    """

    _begun: dict[TaskID, tuple[float, float]]

    def add_task(self, description: str, *arguments: Any, **options: Any) -> TaskID:
        task = super().add_task(description, *arguments, **options)
        self._begun = {
            **getattr(self, "_begun", {}),
            task: (time.time(), options.get("completed", 0)),
        }
        self._note(task, now=True)
        return task

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._note(task_id)

    def update(self, task_id: TaskID, **options: Any) -> None:
        super().update(task_id, **options)
        self._note(task_id)

    def _note(self, task_id: TaskID, *, now: bool = False) -> None:
        task = self._tasks[task_id]
        since, first = self._begun[task_id]
        values = {"what": task.description, "completed": task.completed, "total": task.total}
        _notes.write({**values, "since": since, "first": first}, now=now or task.finished)


def progress_bar() -> Progress:
    """Return a progress bar with the time that remains; silent when not on a terminal, or where
    only warnings count.
    """
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    silent = log.level > logging.INFO or not sys.stderr.isatty()
    return _Bar(*columns, console=console, transient=True, disable=silent)


def progress(steps: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield `steps` behind a progress bar."""
    with progress_bar() as bar:
        task = bar.add_task(what, total=len(steps) if isinstance(steps, Sized) else total)
        for step in steps:
            yield step
            bar.advance(task)


_listeners: list[Callable[[str, dict[str, Any]], None]] = []


def metrics_to(listener: Callable[[str, dict[str, Any]], None] | None) -> None:
    """Tell `listener` too what is written to `metrics.jsonl`, by stage; None stops that."""
    _listeners[:] = [listener] if listener else []


_watchers: list[tuple[int, Callable[[int, Callable[[], dict[str, Histogram]]], None]]] = []


def gradients_to(
    listener: Callable[[int, Callable[[], dict[str, Histogram]]], None] | None, every: int = 0
) -> None:
    """Give `listener` each `every`-th optimiser step, and what measures its gradients; None or 0
    stops that.
    """
    _watchers[:] = [(every, listener)] if listener and every else []


def gradients(step: int, measure: Callable[[], dict[str, Histogram]]) -> None:
    """Offer an optimiser step's gradients by weight; nothing is measured unless somebody watches
    this step.
    """
    for every, listener in _watchers:
        if step % every == 0:
            listener(step, measure)


class Metrics:
    """Appends one JSON object per call to `metrics.jsonl`; each has `stage`, `time` and the values
    given.
    """

    def __init__(self, path: Path, stage: str) -> None:
        self._path = path
        self._stage = stage
        self._torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")

    def write(self, **values: Any) -> None:
        """Append one line, behind what a crash may have left of another."""
        line = json.dumps({"stage": self._stage, "time": round(time.time(), 3), **values})
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._torn + line + "\n")
        self._torn = False
        for listener in _listeners:
            listener(self._stage, values)

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
