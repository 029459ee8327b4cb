"""Several processes at one run: which of them this is, and how they wait for each other.

`torchrun` and `accelerate launch` start the same command several times and say so in the
environment. The processes meet through small files in the run directory, so it must be one that all
of them see. Each renews its file every few seconds; who waits for a process counts the looks at
which that file had not changed, and gives up in the end. Knows nothing about stages, nor about the
libraries that talk between processes by themselves.
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

__all__ = ["ALONE", "MAIN", "Processes", "silently_alone"]

MAIN = 0
BEAT = 2.0
"""Seconds between two signs of life."""
LOOK = 0.2
"""Seconds between two looks."""
SILENCE = 60.0
"""Seconds without a sign of life, counted in looks, after which a process is given up."""
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Processes:
    """The processes that were started together; this one is number `rank` of `world`, `local_rank`
    on its machine.
    """

    rank: int = MAIN
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    folder: Path | None = None
    """Where they show signs of life; None until they met."""
    gives_up: bool = True
    """Whether who waits for a process gives it up when it is silent; not where a debugger may stop
    it.
    """

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Processes:
        """Return the processes that a launcher has described in the environment; one where none
        has.
        """
        if "RANK" not in environment or "WORLD_SIZE" not in environment:
            return ALONE
        rank = int(environment["RANK"])
        world = int(environment["WORLD_SIZE"])
        return cls(
            rank,
            world,
            int(environment.get("LOCAL_RANK", rank)),
            int(environment.get("LOCAL_WORLD_SIZE", world)),
        )

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes status, logs and manifests."""
        return self.rank == MAIN

    def share(self, count: int) -> range:
        """Return which of `count` pieces of work are this process's."""
        return range(self.rank, count, self.world)

    @contextlib.contextmanager
    def meet(self, folder: Path, word: str = "") -> Iterator[tuple[Processes, str]]:
        """Yield the processes when all are there, with the main one's `word`; show signs of life
        within the block.

        `folder` is theirs alone, and need not be there. Raises `ProcessError` where one does not
        come.
        """
        if self.world == 1:
            yield self, word
            return
        here = replace(self, folder=folder)
        with here._leading(folder, word) if self.is_main else here._following() as word:
            yield here, word

    @contextlib.contextmanager
    def _leading(self, folder: Path, word: str) -> Iterator[str]:
        _remove(
            folder
        )  # before the first sign, and nobody else begins sooner: what comes now is new
        folder.mkdir(parents=True)
        with self._showing_life(word):
            self.wait(
                lambda: all(self._sign(rank) for rank in range(MAIN + 1, self.world)),
                "all processes to come",
            )
            yield word
        _remove(folder)

    @contextlib.contextmanager
    def _following(self) -> Iterator[str]:
        before = self._sign(MAIN)
        self.wait(lambda: self._sign(MAIN) not in ({}, before), "the run to be opened", [MAIN])
        word = self._sign(MAIN)["word"]
        with self._showing_life(word):
            yield word

    def wait(self, done: Callable[[], bool], what: str, on: Iterable[int] | None = None) -> None:
        """Return when `done()`; raise `ProcessError` when a process it depends `on` shows no more
        signs of life.

        `what` is waited for. `on` lists ranks; all others when left out.
        """
        ranks = [r for r in (range(self.world) if on is None else on) if r != self.rank]
        signs = {rank: self._sign(rank) for rank in ranks}
        silent = dict.fromkeys(ranks, 0)
        while not done():
            time.sleep(LOOK)
            for rank in ranks:
                sign = self._sign(rank)
                silent[rank] = silent[rank] + 1 if sign in ({}, signs[rank]) else 0
                signs[rank] = sign or signs[rank]
                if self.gives_up and silent[rank] * LOOK > SILENCE and not done():
                    raise self._lost(rank, what)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Within the block, libraries that ask the environment find one process."""
        hidden = {name: os.environ.pop(name) for name in NAMES if name in os.environ}
        try:
            yield
        finally:
            os.environ.update(hidden)

    def _file(self, rank: int) -> Path:
        return (self.folder or Path()) / f"{rank}.json"

    def _sign(self, rank: int) -> dict[str, Any]:
        try:
            return json.loads(self._file(rank).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    @contextlib.contextmanager
    def _showing_life(self, word: str) -> Iterator[None]:
        file = self._file(self.rank)
        over = threading.Event()

        def beat() -> None:
            part = file.with_suffix(".part")
            while not over.is_set():
                with contextlib.suppress(OSError):  # a full disk may not be full at the next beat
                    part.write_text(
                        json.dumps({"beat": time.time_ns(), "word": word}), encoding="utf-8"
                    )
                    part.replace(file)
                over.wait(BEAT)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _lost(self, rank: int, what: str) -> ProcessError:
        name = "the main process" if rank == MAIN else f"process {rank} of {self.world}"
        return ProcessError(
            f"{name} is gone",
            value=f"no sign of life for {SILENCE:.0f} s while waiting for {what}",
            accepted="processes that all live to the end and see one run directory",
            next_step="start the same command again with --if-exists resume",
        )


ALONE = Processes()


def _remove(folder: Path) -> None:
    """Remove a folder into which others may still write."""
    gone = folder.with_name(f".{folder.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def silently_alone(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether `accelerate launch` was asked for several processes and started one.

    It does that on CPUs without MPI; then it names a place to meet, and nobody who comes.
    """
    asked = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment
    return asked and "WORLD_SIZE" not in environment
