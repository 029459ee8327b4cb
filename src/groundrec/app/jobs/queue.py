"""Whose turn it is: the detached runs of one user on one machine, first come, first served.

One small file holds a ticket for each; every reader drops the tickets of dead processes. Knows
nothing about what a run does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypedDict

from filelock import FileLock

from groundrec.core.alive import Identity
from groundrec.core.files import read_json, write_json

__all__ = ["GPUS", "Queue", "Ticket", "gpus", "state_folder"]

GPUS = "CUDA_VISIBLE_DEVICES"


class TicketRecord(TypedDict):
    """A ticket as it stands in the file; `supervisor` and `worker` are identities."""

    run: str
    order: float
    supervisor: object
    worker: object
    max_parallel: int | None
    gpu: str | None
    working: bool


@dataclass(frozen=True)
class Ticket:
    """A detached run that waits or works."""

    run: str
    order: float
    """When it was submitted."""
    supervisor: Identity
    worker: Identity | None = None
    max_parallel: int | None = None
    """How many detached runs may run while it does, itself included."""
    gpu: str | None = None
    working: bool = False

    @classmethod
    def from_json(cls, record: TicketRecord) -> Ticket | None:
        """Return the ticket that was written as JSON; None if no supervisor is readable in it."""
        supervisor = Identity.from_json(record["supervisor"])
        if supervisor is None:
            return None
        return cls(
            run=record["run"],
            order=record["order"],
            supervisor=supervisor,
            worker=Identity.from_json(record["worker"]),
            max_parallel=record["max_parallel"],
            gpu=record["gpu"],
            working=record["working"],
        )

    @property
    def is_alive(self) -> bool:
        """Whether its supervisor or its worker is alive."""
        return any(process.is_alive() for process in (self.supervisor, self.worker) if process)


class Queue:
    """The tickets in `folder`."""

    def __init__(self, folder: Path, devices: list[str]) -> None:
        self._folder = folder
        self._devices = devices

    def take(self, mine: Ticket) -> Ticket | str:
        """Return the ticket to start with, or what it has to wait for.

        No ticket overtakes an earlier one that waits for the same.
        """
        with self._tickets() as tickets:
            others = [t for t in tickets if t.run != mine.run]
            working = [t for t in others if t.working]
            free = [name for name in self._devices if name not in {t.gpu for t in working}]
            ahead = [
                t for t in others if not t.working and t.order < mine.order and self._is_bounded(t)
            ]
            waits = ""
            if self._is_bounded(mine) and ahead:
                waits = f"{len(ahead)} ahead in the queue"
            elif mine.max_parallel and len(working) >= mine.max_parallel:
                waits = f"{len(working)} running, --max-parallel {mine.max_parallel}"
            elif self._devices and not free:
                waits = "a free GPU"
            mine = replace(mine, working=not waits, gpu=free[0] if free and not waits else None)
            tickets[:] = [*others, mine]
        return waits or mine

    def set_worker(self, run: str, worker: Identity) -> None:
        """Record the process of a run, so that it keeps its turn even if its supervisor dies."""
        with self._tickets() as tickets:
            tickets[:] = [replace(t, worker=worker) if t.run == run else t for t in tickets]

    def leave(self, run: str) -> None:
        """Give up the turn of a run."""
        with self._tickets() as tickets:
            tickets[:] = [t for t in tickets if t.run != run]

    def _is_bounded(self, ticket: Ticket) -> bool:
        return bool(self._devices or ticket.max_parallel)

    @contextmanager
    def _tickets(self) -> Iterator[list[Ticket]]:
        """Yield the tickets of live processes, locked; what the block makes of them is written."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / "queue.lock"):
            records = read_json(self._folder / "queue.json") or []
            tickets = [t for t in map(Ticket.from_json, records) if t and t.is_alive]
            yield tickets
            write_json(self._folder / "queue.json", [asdict(ticket) for ticket in tickets])


def state_folder() -> Path:
    """Return the folder of the queue: `$GROUNDREC_STATE`, or `~/.local/state/groundrec`."""
    return Path(os.environ.get("GROUNDREC_STATE") or Path.home() / ".local" / "state" / "groundrec")


def gpus() -> list[str]:
    """Return the GPUs that runs may use: `$CUDA_VISIBLE_DEVICES`, or all that nvidia-smi lists.

    A number becomes the GPU's own name, so that one GPU has one name.
    """
    listed = os.environ.get(GPUS)
    known = _installed_gpus()
    if listed is None:
        return list(known.values())
    wanted = [name.strip() for name in listed.split(",")]
    return [known.get(name, name) for name in wanted if name not in ("", "-1")]


def _installed_gpus() -> dict[str, str]:
    """Return the name of each GPU by its number."""
    if not shutil.which("nvidia-smi"):
        return {}
    query = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    rows = [
        line.split(",") for line in done.stdout.splitlines() if done.returncode == 0 and "," in line
    ]
    return {index.strip(): name.strip() for index, name in rows}
