"""What runs are doing, read from their directories and from the processes that are really there.

Nothing is believed that a dead process said of itself: who was at work and is gone, without a word
about the end, is lost. Knows nothing about how runs are started.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import psutil

from groundrec.app.jobs.job import LAST
from groundrec.core.alive import Identity, lock_folder
from groundrec.core.errors import ArtifactError, did_you_mean
from groundrec.core.inputs import step_folder
from groundrec.core.runs import read_json
from groundrec.core.track import Metrics

__all__ = ["RECORD", "ROOT", "Best", "State", "named", "runs_in", "state_of"]

RECORD = "supervisor.json"
ROOT = Path("runs")
Word = Literal["queued", "running", "finished", "failed", "stopped", "killed", "lost"]
FINAL = ("finished", "failed", "stopped")
PATIENCE = 3.0
"""Seconds that a supervisor has to write down how its run ended."""


@dataclass(frozen=True)
class Best:
    """The best value so far: of the test metric that the recipe names, or else the loss on
    validation.
    """

    metric: str
    value: float
    method: str


@dataclass(frozen=True)
class State:
    """What one run is doing, or how it ended."""

    name: str
    path: str
    state: Word
    why: str
    """What it waits for, works without, or was ended by; empty where there is nothing to say."""
    stage: str
    what: str = ""
    """The part of the stage that `completed` of `total` are done of."""
    completed: float | None = None
    total: float | None = None
    eta: float | None = None
    """Seconds until that part is done; what comes after it is not in it."""
    best: Best | None = None
    memory: int = 0
    """Bytes: what the run's processes hold now, or the most one of them held where it has ended."""
    pid: int | None = None
    supervisor: int | None = None
    gpu: str | None = None
    exit: dict[str, Any] | None = None
    """How the process ended: `code` or `signal`, when, the most memory; None where nobody was there
    to see it.
    """
    submitted: float = 0.0
    updated: float = 0.0
    until: str = ""
    """The stage that it was asked to end behind; empty where that is the last."""
    sweep: str = ""
    grid: dict[str, str] = field(default_factory=dict)
    """What the sweep has set."""
    settings: tuple[str, ...] = field(default=())

    @property
    def is_over(self) -> bool:
        """Whether nobody waits or works."""
        return self.state not in ("queued", "running")


@dataclass(frozen=True)
class _Signs:
    """What a run directory says, and which of those it speaks of were seen alive, each looked at
    once.
    """

    status: dict[str, Any]
    record: dict[str, Any]
    job: dict[str, Any]
    teller: Identity | None
    """Who wrote `status`."""
    started: Identity | None
    """Whom the supervisor started."""
    supervisor: Identity | None

    @classmethod
    def of(cls, path: Path) -> _Signs:
        """Return what `path` still says after its processes were looked at: whoever was seen dead
        says no more.
        """
        status, record, job = files = _files(path)
        looked_for = (status, record.get("worker"), record.get("supervisor"))
        signs = cls(status, record, job, *map(_alive, looked_for))
        return signs if _files(path) == files else cls.of(path)

    @property
    def until(self) -> str:
        """The stage that it was asked to end behind; empty where that is the last."""
        until = self.job.get("until")
        return until if until and until != LAST else ""

    @property
    def is_alone(self) -> bool:
        """Whether the process that a supervisor has started is at work without it."""
        return bool(
            self.worker
            and self.worker == Identity.from_json(self.record.get("worker"))
            and not self.supervisor
        )

    @property
    def said(self) -> str:
        """What the run said of its own end; empty where it said nothing."""
        state = self.status.get("state", "")
        return (
            state
            if state in FINAL and not (state == "finished" and self.status.get("stage"))
            else ""
        )

    @property
    def worker(self) -> Identity | None:
        """The living process that does the work, unless it has said that it is at the end."""
        return (None if self.said else self.teller) or (
            self.started if self.started != self.teller else None
        )

    @property
    def stage(self) -> str:
        """The stage that is at work, or was the last."""
        starting = self.worker and self.worker != Identity.from_json(self.status)
        return (
            "starting"
            if starting
            else self.status.get("stage") or ("starting" if self.worker else "")
        )

    @property
    def exit(self) -> dict[str, Any] | None:
        """How the newest attempt ended, where a supervisor saw it."""
        found = self.record.get("exit")
        worker = Identity.from_json(self.record.get("worker"))
        is_newest = found and (
            worker == Identity.from_json(self.status)
            or found["ended"] > self.status.get("updated", 0)
        )
        return found if is_newest else None

    @property
    def is_between(self) -> bool:
        """Whether the process has ended and its supervisor is about to write that down."""
        return bool(
            self.record.get("worker")
            and not self.record.get("exit")
            and self.supervisor
            and not self.worker
        )


def state_of(path: Path, root: Path | None = None) -> State:
    """Return what the run in `path` is doing; its name is its path below `root`."""
    signs = _Signs.of(path)
    deadline = time.monotonic() + PATIENCE
    while signs.is_between and time.monotonic() < deadline:
        time.sleep(0.05)
        signs = _Signs.of(path)
    word, why = _word(path, signs)
    worker = signs.worker
    return State(
        name=str(path.relative_to(root)) if root and path.is_relative_to(root) else str(path),
        path=str(path),
        state=word,
        why=why,
        stage="" if word in ("queued", "finished") else signs.stage,
        best=_best(path),
        memory=_held(worker) if worker else _peak(signs),
        pid=worker.pid if worker else None,
        supervisor=signs.supervisor.pid if signs.supervisor else None,
        gpu=signs.record.get("gpu"),
        exit=signs.exit,
        submitted=signs.job.get("submitted", 0.0),
        updated=signs.status.get("updated", 0.0),
        until=signs.until,
        sweep=signs.job.get("sweep", ""),
        grid=signs.job.get("grid", {}),
        settings=tuple(signs.job.get("settings", ())),
        **(_progress(path, signs.status) if word == "running" else {}),
    )


def runs_in(root: Path) -> Iterator[State]:
    """Yield the state of every run directory below `root`, the oldest first."""
    states = [state_of(path, root) for path in _folders(root)]
    yield from sorted(states, key=lambda state: (state.submitted, state.name))


def named(name: str, root: Path) -> list[Path]:
    """Return the run directories that a path, a name below `root` or the name of a sweep stands
    for.
    """
    for path in (root / name, Path(name)):
        if _is_run(path):
            return [path]
    folders = _folders(root)
    if of_sweep := [
        path for path in folders if (read_json(path / "job.json") or {}).get("sweep") == name
    ]:
        return of_sweep
    known = [path.relative_to(root).as_posix() for path in folders]
    raise ArtifactError(
        f"no such run{did_you_mean(name, known)}",
        value=name,
        accepted=", ".join(known) or f"a run directory; there is none in {root}",
        next_step="groundrec runs",
    )


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if _is_run(path)) if root.is_dir() else []


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in ("config.json", "job.json"))


def _files(path: Path) -> tuple[dict[str, Any], ...]:
    return tuple(read_json(path / name) or {} for name in ("status.json", RECORD, "job.json"))


def _alive(value: Any) -> Identity | None:
    found = Identity.from_json(value)
    return found if found and found.is_alive() else None


def _word(path: Path, signs: _Signs) -> tuple[Word, str]:
    """Return the state and what there is to say of it."""
    if signs.worker:
        return "running", "its supervisor is gone, and nobody will see how it ends" * signs.is_alone
    if signs.supervisor and not signs.record.get("worker"):
        return "queued", signs.record.get("waits", "")
    if signs.exit:
        return _ended(signs.exit, signs.status)
    if signs.said:
        return cast(Word, signs.said), signs.status.get("error", "")
    if _works_elsewhere(path, signs):
        return "running", f"on {signs.status['host']}"
    return "lost", _why_lost(signs)


def _ended(exit: dict[str, Any], status: dict[str, Any]) -> tuple[Word, str]:
    if exit["code"] == 0:
        return "finished", ""
    if exit["signal"] == "SIGTERM" or status.get("state") == "stopped":
        return "stopped", ""
    if exit["signal"]:
        return "killed", f"by {exit['signal']}" + ", or for want of memory" * (
            exit["signal"] == "SIGKILL"
        )
    return "failed", status.get("error", "") or f"exit {exit['code']}"


def _works_elsewhere(path: Path, signs: _Signs) -> bool:
    """Return whether the lock is held for another machine that sees the same directory."""
    worker = Identity.from_json(signs.status)
    if worker is None or not worker.is_remote:
        return False
    try:
        with lock_folder(path):
            return False
    except ArtifactError:
        return True


def _why_lost(signs: _Signs) -> str:
    last = Identity.from_json(signs.status) or Identity.from_json(signs.record.get("supervisor"))
    restarted = last and not last.is_remote and last.boot != Identity.of().boot
    return (
        "the machine was restarted" if restarted else "its process is gone, and nobody saw it end"
    )


def _progress(path: Path, status: dict[str, Any]) -> dict[str, Any]:
    """Return how far the newest progress bar of the stage at work is."""
    note = read_json(path / "progress.json") or {}
    if note.get("updated", 0) < status.get("updated", 0) or status.get("state") != "running":
        return {}
    done = note["completed"] - note["first"]
    total = note["total"]
    found = {"what": note["what"], "completed": note["completed"], "total": total}
    if done <= 0 or not total:
        return found
    seconds = (total - note["completed"]) * (note["updated"] - note["since"]) / done
    return {**found, "eta": max(0.0, seconds - (time.time() - note["updated"]))}


def _best(path: Path) -> Best | None:
    metric = ((read_json(path / "config.json") or {}).get("fuse") or {}).get("metric")
    done = (step_folder(path, "evaluate") / "manifest.json").exists()
    methods = (
        (read_json(step_folder(path, "evaluate") / "test.json") or {}).get("methods", {})
        if done
        else {}
    )
    values = {
        name: m["metrics"][metric]["mean"] for name, m in methods.items() if metric in m["metrics"]
    }
    if values:
        name = max(values, key=lambda n: values[n] or 0)
        return Best(str(metric), values[name], name)
    losses = [
        row["eval_loss"] for row in Metrics.read(path / "metrics.jsonl") if "eval_loss" in row
    ]
    return Best("validation loss", min(losses), "") if losses else None


def _held(worker: Identity) -> int:
    """Return how much memory a process and those it has started hold."""
    total = 0
    try:
        first = psutil.Process(worker.pid)
        for process in (first, *first.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
    except psutil.Error:
        return total
    return total


def _peak(signs: _Signs) -> int:
    return max(signs.status.get("peak", 0), (signs.exit or {}).get("peak", 0))
