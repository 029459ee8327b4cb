"""Commands in processes of their own, and their workers found and killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from tests.app.conftest import USERS, Tiny

__all__ = ["PATIENCE", "TORCHRUN", "arguments", "begun", "killed", "output", "started"]

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SETTINGS = ["recommend.mode=exact", "recommend.score=full", "recommend.shard_size=1"]
PATIENCE = 600


def arguments(tiny: Tiny, run: Path, *settings: str) -> list[str]:
    """Return the command that recommends in `run`, a file for each query, and goes on to fusion."""
    given = [word for setting in [*SETTINGS, *settings] for word in ("--set", setting)]
    start = ["-m", "groundrec", "run", str(tiny.recipe), "--run-dir", str(run)]
    return [*start, "--if-exists", "resume", "--until", "fuse", *given]


def begun(tiny: Tiny, run: Path) -> Path:
    """Return a copy of the run without its slates and its log."""
    shutil.copytree(
        tiny.run, run, ignore=shutil.ignore_patterns("recommend", "fuse", "evaluate", "log.txt")
    )
    return run


@contextmanager
def started(command: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a command at work with as many threads as this process; nothing of it outlives the
    block.
    """
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        command,
        env={**os.environ, **threads, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        for one in [*descendants(process), process]:
            one.kill()
        process.wait()


def output(process: subprocess.Popen[str]) -> str:
    """Return all that a command printed, when it has ended."""
    return process.communicate(timeout=PATIENCE)[0]


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def killed(
    process: subprocess.Popen[str], is_worker: Callable[[list[str]], bool], which: int, run: Path
) -> None:
    """Kill one of two workers with SIGKILL as soon as the first slate of `run` is there."""
    deadline = time.monotonic() + PATIENCE
    while not slates(run) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    workers = [one for one in descendants(process) if is_worker(one.cmdline())]
    assert len(workers) == 2
    sorted(workers, key=lambda one: one.create_time())[which].kill()
    assert 0 < slates(run) < USERS, "killed too late"


def slates(run: Path) -> int:
    """Return how many slates of validation queries are there."""
    return len(list(run.glob("recommend/valid/*.parquet")))
