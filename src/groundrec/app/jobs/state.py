"""What runs are doing, read from their directories and from live processes.

What a dead process wrote about itself is not believed: a run whose process is gone without having
recorded an end is lost. Knows nothing about how runs are started.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import psutil

from groundrec.app.jobs.job import LAST
from groundrec.app.jobs.records import RECORD, Exit, JobRecord, Status, SupervisorRecord
from groundrec.core.alive import Identity, lock_folder
from groundrec.core.errors import ArtifactError, did_you_mean
from groundrec.core.files import read_json
from groundrec.core.inputs import step_folder
from groundrec.core.track import Metrics

__all__ = ["ROOT", "Best", "State", "named", "runs_in", "state_of"]

ROOT = Path("runs")
StateName = Literal["queued", "running", "finished", "failed", "stopped", "killed", "lost"]
FINAL = ("finished", "failed", "stopped")
PATIENCE = 3.0
"""Seconds that a supervisor has to record how its run ended."""


@dataclass(frozen=True)
class Best:
    """The best value so far: of the recipe's main test metric, or else of the validation loss."""

    metric: str
    value: float
    method: str


@dataclass(frozen=True)
class State:
    """What one run is doing, or how it ended."""

    name: str
    path: str
    state: StateName
    why: str
    """What it waits for, what is wrong, or what ended it; empty if there is nothing to say."""
    stage: str
    what: str = ""
    """The part of the stage of which `completed` of `total` are done."""
    completed: float | None = None
    total: float | None = None
    eta: float | None = None
    """Seconds until that part is done, without what comes after it."""
    best: Best | None = None
    memory: int = 0
    """Bytes: what the processes of a live run hold now, or the peak of an ended one."""
    pid: int | None = None
    supervisor: int | None = None
    gpu: str | None = None
    exit: Exit | None = None
    """How the process ended; None if no supervisor saw it."""
    submitted: float = 0.0
    updated: float = 0.0
    until: str = ""
    """The stage to stop after; empty if that is the last one."""
    sweep: str = ""
    grid: dict[str, str] = field(default_factory=dict)
    """The settings of this cell of its sweep."""
    settings: tuple[str, ...] = field(default=())

    @property
    def is_over(self) -> bool:
        """Whether the run has ended: no process waits or works for it."""
        return self.state not in ("queued", "running")


@dataclass(frozen=True)
class _Progress:
    """How far a part of a stage is; see `State`."""

    what: str = ""
    completed: float | None = None
    total: float | None = None
    eta: float | None = None


@dataclass(frozen=True)
class _Signs:
    """What a run directory says, and which of the processes it names are alive."""

    status: Status
    record: SupervisorRecord
    job: JobRecord
    writer: Identity | None
    """The process that wrote `status`, if alive."""
    started: Identity | None
    """The process that the supervisor started, if alive."""
    supervisor: Identity | None

    @classmethod
    def of(cls, path: Path) -> _Signs:
        """Return the files of a run directory and the processes they name, as of one moment."""
        files = _read_files(path)
        status, record, job = files
        processes = (status, record.get("worker"), record.get("supervisor"))
        signs = cls(status, record, job, *map(_if_alive, processes))
        # A file that changed meanwhile may name other processes: read everything again.
        return signs if _read_files(path) == files else cls.of(path)

    @property
    def until(self) -> str:
        """The stage to stop after; empty if that is the last one."""
        until = self.job.get("until")
        return until if until and until != LAST else ""

    @property
    def is_alone(self) -> bool:
        """Whether the process that a supervisor has started works on without it."""
        return bool(
            self.worker
            and self.worker == Identity.from_json(self.record.get("worker"))
            and not self.supervisor
        )

    @property
    def recorded_end(self) -> str:
        """The end that the run itself has recorded; empty if it has not."""
        state = self.status.get("state", "")
        is_of_stage = state == "finished" and self.status.get("stage")
        return state if state in FINAL and not is_of_stage else ""

    @property
    def worker(self) -> Identity | None:
        """The live process that does the work, unless it has recorded its end."""
        if self.writer and not self.recorded_end:
            return self.writer
        return self.started if self.started != self.writer else None

    @property
    def stage(self) -> str:
        """The stage in progress, or the last one."""
        if self.worker and self.worker != Identity.from_json(self.status):
            return "starting"
        return self.status.get("stage") or ("starting" if self.worker else "")

    @property
    def exit(self) -> Exit | None:
        """How the newest attempt ended, if a supervisor saw it."""
        found = self.record.get("exit")
        worker = Identity.from_json(self.record.get("worker"))
        if not found:
            return None
        is_of_status = worker == Identity.from_json(self.status)
        return found if is_of_status or found["ended"] > self.status.get("updated", 0) else None

    @property
    def is_ending(self) -> bool:
        """Whether the process has ended and its supervisor is about to record that."""
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
    while signs.is_ending and time.monotonic() < deadline:
        time.sleep(0.05)
        signs = _Signs.of(path)
    name, why = _state_name(path, signs)
    worker = signs.worker
    progress = _progress(path, signs.status) if name == "running" else _Progress()
    return State(
        name=str(path.relative_to(root)) if root and path.is_relative_to(root) else str(path),
        path=str(path),
        state=name,
        why=why,
        stage="" if name in ("queued", "finished") else signs.stage,
        best=_best(path),
        memory=_memory_in_use(worker) if worker else _peak_memory(signs),
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
        what=progress.what,
        completed=progress.completed,
        total=progress.total,
        eta=progress.eta,
    )


def runs_in(root: Path) -> Iterator[State]:
    """Yield the state of every run directory below `root`, the oldest first."""
    states = [state_of(path, root) for path in _folders(root)]
    yield from sorted(states, key=lambda state: (state.submitted, state.name))


def named(name: str, root: Path) -> list[Path]:
    """Return the run directories named by a path, a name below `root`, or a sweep."""
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
        accepted=", ".join(known) or f"a run directory; there are none in {root}",
        next_step="groundrec runs",
    )


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if _is_run(path)) if root.is_dir() else []


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in ("config.json", "job.json"))


def _read_files(path: Path) -> tuple[Status, SupervisorRecord, JobRecord]:
    return (
        read_json(path / "status.json") or {},
        read_json(path / RECORD) or {},
        read_json(path / "job.json") or {},
    )


def _if_alive(value: object) -> Identity | None:
    found = Identity.from_json(value)
    return found if found and found.is_alive() else None


def _state_name(path: Path, signs: _Signs) -> tuple[StateName, str]:
    """Return the state and the reason, if there is one."""
    if signs.worker:
        unwatched = "its supervisor is gone, so its exit status will not be recorded"
        return "running", unwatched if signs.is_alone else ""
    if signs.supervisor and not signs.record.get("worker"):
        return "queued", signs.record.get("waits", "")
    if signs.exit:
        return _ended(signs.exit, signs.status)
    if signs.recorded_end:
        return cast(StateName, signs.recorded_end), signs.status.get("error", "")
    if _works_elsewhere(path, signs):
        return "running", f"on {signs.status.get('host')}"
    return "lost", _why_lost(signs)


def _ended(exit: Exit, status: Status) -> tuple[StateName, str]:
    if exit["code"] == 0:
        return "finished", ""
    if exit["signal"] == "SIGTERM" or status.get("state") == "stopped":
        return "stopped", ""
    if exit["signal"]:
        # The kernel kills so when memory runs out.
        hint = ", possibly out of memory" if exit["signal"] == "SIGKILL" else ""
        return "killed", f"by {exit['signal']}{hint}"
    return "failed", status.get("error", "") or f"exit {exit['code']}"


def _works_elsewhere(path: Path, signs: _Signs) -> bool:
    """Return whether a process of another machine holds the lock of this shared directory."""
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
    return "the machine was restarted" if restarted else "its process is gone without a record"


def _progress(path: Path, status: Status) -> _Progress:
    """Return how far the newest progress bar of the current stage is, if there is one."""
    note = read_json(path / "progress.json") or {}
    if note.get("updated", 0) < status.get("updated", 0) or status.get("state") != "running":
        return _Progress()
    done = note["completed"] - note["first"]
    total = note["total"]
    found = _Progress(note["what"], note["completed"], total)
    if done <= 0 or not total:
        return found
    seconds = (total - note["completed"]) * (note["updated"] - note["since"]) / done
    return replace(found, eta=max(0.0, seconds - (time.time() - note["updated"])))


def _best(path: Path) -> Best | None:
    metric = ((read_json(path / "config.json") or {}).get("fuse") or {}).get("metric")
    evaluation = step_folder(path, "evaluate")
    done = (evaluation / "manifest.json").exists()
    methods = (read_json(evaluation / "test.json") or {}).get("methods", {}) if done else {}
    values = {
        name: m["metrics"][metric]["mean"] for name, m in methods.items() if metric in m["metrics"]
    }
    if values:
        name = max(values, key=lambda n: values[n] or 0)
        return Best(str(metric), values[name], name)
    rows = Metrics.read(path / "metrics.jsonl")
    losses = [row["eval_loss"] for row in rows if "eval_loss" in row]
    return Best("validation loss", min(losses), "") if losses else None


def _memory_in_use(worker: Identity) -> int:
    """Return how much memory a process and its descendants hold now."""
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


def _peak_memory(signs: _Signs) -> int:
    return max(signs.status.get("peak", 0), signs.exit["peak"] if signs.exit else 0)
