"""The small JSON files of a run directory that tell what the run is doing.

`status.json` is the run's own, `supervisor.json` that of the process that watches a detached run.
Knows nothing about how they are written or believed.
"""

from __future__ import annotations

from typing import TypedDict

__all__ = ["RECORD", "Exit", "JobRecord", "Status", "SupervisorRecord"]

RECORD = "supervisor.json"


class Exit(TypedDict):
    """How a process ended: its exit code or the signal, when, and its peak memory in bytes."""

    code: int | None
    signal: str | None
    ended: float
    peak: int


class Status(TypedDict, total=False):
    """What a run last said of itself, with the identity of the process that wrote it."""

    state: str
    stage: str
    error: str
    host: str
    peak: int
    updated: float


class SupervisorRecord(TypedDict, total=False):
    """What a supervisor knows: identities of the two processes, and how the run ended."""

    supervisor: object
    worker: object
    exit: Exit | None
    waits: str
    gpu: str | None


class JobRecord(TypedDict, total=False):
    """What was asked of a run; see `jobs.job.Job`."""

    settings: list[str]
    until: str | None
    place: str
    after: list[str]
    max_parallel: int | None
    sweep: str
    grid: dict[str, str]
    submitted: float
