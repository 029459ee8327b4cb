"""Several processes of one run: which of them this is, and how they wait for each other.

`torchrun` and `accelerate launch` start the same command several times and say so in the
environment. The processes communicate through small files in the run directory, which all of them
must be able to see. Each renews its heartbeat file every few seconds. A process that waits for
another polls that file, and gives up when it has not changed for a minute of polls. Knows nothing
about stages, nor about libraries with their own communication, such as torch.distributed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from groundrec.core.errors import ProcessError

__all__ = ["MAIN", "SINGLE_PROCESS", "Processes", "launcher_started_one"]

MAIN = 0
HEARTBEAT = 2.0
"""Seconds between two heartbeats."""
POLL = 0.2
"""Seconds between two polls."""
TIMEOUT = 60.0
"""Seconds without a heartbeat, counted in polls, after which a process is considered lost."""
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Processes:
    """The processes that were started together, and which of them this one is.

    `rank` and `world_size` are over all machines, `local_rank` and `local_world_size` on this one.
    """

    rank: int = MAIN
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    folder: Path | None = None
    """Folder of the heartbeat files; None before `rendezvous`."""
    times_out: bool = True
    """Whether waiting ends when a process shows no heartbeat; off while a debugger may pause it."""

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Processes:
        """Return the processes described by a launcher's environment; a single one without it."""
        if "RANK" not in environment or "WORLD_SIZE" not in environment:
            return SINGLE_PROCESS
        rank = int(environment["RANK"])
        world_size = int(environment["WORLD_SIZE"])
        local_rank = int(environment.get("LOCAL_RANK", rank))
        local_world_size = int(environment.get("LOCAL_WORLD_SIZE", world_size))
        return cls(rank, world_size, local_rank, local_world_size)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the status, logs and manifests."""
        return self.rank == MAIN

    def share(self, count: int) -> range:
        """Return which of `count` pieces of work this process does."""
        return range(self.rank, count, self.world_size)

    @contextlib.contextmanager
    def rendezvous(self, folder: Path, message: str = "") -> Iterator[tuple[Processes, str]]:
        """Yield the processes once all have arrived, and the main one's `message` in every process.

        Within the block each process writes heartbeats to `folder`, which is used for nothing else
        and need not exist. Raises `ProcessError` when a process does not arrive.
        """
        if self.world_size == 1:
            yield self, message
            return
        here = replace(self, folder=folder)
        with here._lead(folder, message) if self.is_main else here._follow() as message:
            yield here, message

    @contextlib.contextmanager
    def _lead(self, folder: Path, message: str) -> Iterator[str]:
        # The others write only after the main process's first heartbeat, so that after this removal
        # every file belongs to this launch.
        _remove(folder)
        folder.mkdir(parents=True)
        others = range(MAIN + 1, self.world_size)
        with self._beating(message):
            self.wait(lambda: all(map(self._heartbeat, others)), "all processes to arrive")
            yield message
        _remove(folder)

    @contextlib.contextmanager
    def _follow(self) -> Iterator[str]:
        stale = self._heartbeat(MAIN)  # may be left from an earlier launch
        self.wait(lambda: self._heartbeat(MAIN) not in ({}, stale), "the run to be opened", [MAIN])
        message = self._heartbeat(MAIN)["message"]
        with self._beating(message):
            yield message

    def wait(self, done: Callable[[], bool], what: str, on: Iterable[int] | None = None) -> None:
        """Return when `done()`; raise `ProcessError` when one of the ranks `on` has no heartbeat.

        `what` names what is waited for in that error. `on` defaults to all other ranks.
        """
        ranks = [r for r in (range(self.world_size) if on is None else on) if r != self.rank]
        last = {rank: self._heartbeat(rank) for rank in ranks}
        silent = dict.fromkeys(ranks, 0)  # polls since the last new heartbeat
        while not done():
            time.sleep(POLL)
            for rank in ranks:
                heartbeat = self._heartbeat(rank)
                silent[rank] = silent[rank] + 1 if heartbeat in ({}, last[rank]) else 0
                last[rank] = heartbeat or last[rank]
                if self.times_out and silent[rank] * POLL > TIMEOUT and not done():
                    raise self._lost(rank, what)

    @contextlib.contextmanager
    def as_single_process(self) -> Iterator[None]:
        """Hide the launcher's variables within the block: libraries then see a single process."""
        hidden = {name: os.environ.pop(name) for name in VARIABLES if name in os.environ}
        try:
            yield
        finally:
            os.environ.update(hidden)

    def _file(self, rank: int) -> Path:
        return (self.folder or Path()) / f"{rank}.json"

    def _heartbeat(self, rank: int) -> dict[str, Any]:
        try:
            return json.loads(self._file(rank).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    @contextlib.contextmanager
    def _beating(self, message: str) -> Iterator[None]:
        file = self._file(self.rank)
        over = threading.Event()

        def beat() -> None:
            part = file.with_suffix(".part")
            while not over.is_set():
                text = json.dumps({"beat": time.time_ns(), "message": message})
                with contextlib.suppress(OSError):  # the disk may only be full for now
                    part.write_text(text, encoding="utf-8")
                    part.replace(file)
                over.wait(HEARTBEAT)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _lost(self, rank: int, what: str) -> ProcessError:
        name = "the main process" if rank == MAIN else f"process {rank} of {self.world_size}"
        return ProcessError(
            f"{name} is lost",
            value=f"no heartbeat for {TIMEOUT:.0f} s while waiting for {what}",
            accepted="processes that all run to the end and see the same run directory",
            next_step="start the same command again with --if-exists resume",
        )


SINGLE_PROCESS = Processes()


def _remove(folder: Path) -> None:
    """Remove a folder that others may still be writing to."""
    gone = folder.with_name(f".{folder.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def launcher_started_one(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether `accelerate launch` was asked for several processes but started one.

    It does so on CPUs without MPI: it then sets a master address but no world size.
    """
    several = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment
    return several and "WORLD_SIZE" not in environment
