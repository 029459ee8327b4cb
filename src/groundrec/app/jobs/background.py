"""Runs in the background: handed in, one or a whole grid of them, stopped, resumed, removed.

Knows nothing about how they are shown.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from groundrec.app.jobs.job import Job
from groundrec.app.jobs.queue import gpus
from groundrec.app.jobs.state import ROOT, State, state_of
from groundrec.app.jobs.supervise import launch
from groundrec.app.stages.checks import check_names, check_paths
from groundrec.core.alive import Identity, lock_folder
from groundrec.core.errors import ArtifactError, ConfigError, ProcessError
from groundrec.core.recipe import Recipe, load_recipe
from groundrec.core.runs import IfExists, Run, read_json

__all__ = ["grid_of", "remove", "resume", "stop", "submit_jobs"]

PATIENCE = 600.0
"""Seconds that a run has to save what it has."""
LEAVING = 10.0
"""Seconds that a supervisor has to be gone when it has told how its run ended."""


def submit_jobs(
    recipe_file: Path,
    job: Job,
    run_dir: Path | None,
    if_exists: IfExists,
    after: Sequence[Path] = (),
    grid: Sequence[str] = (),
) -> list[Path]:
    """Hand in a run, or every run of a grid, and return their directories; all are checked before
    the first begins.
    """
    job = replace(job, after=tuple(str(path.resolve()) for path in after))
    if grid and not job.max_parallel:
        job = replace(job, max_parallel=max(1, len(gpus())))
    planned = [_planned(recipe_file, job, run_dir, if_exists, cell) for cell in grid_of(grid)]
    for path, recipe, one in planned:
        with lock_folder(path):
            Run(path).write(recipe, recipe_file)
        launch(path, replace(one, submitted=time.time()))
    return [path for path, *_ in planned]


def _planned(
    recipe_file: Path, job: Job, run_dir: Path | None, if_exists: IfExists, cell: dict[str, str]
) -> tuple[Path, Recipe, Job]:
    """Return directory, recipe and job of one cell of the grid, when nothing stands against them."""
    settings = (*job.settings, *(f"{key}={value}" for key, value in cell.items()))
    recipe, _ = load_recipe(recipe_file, settings)
    check_names(recipe)
    check_paths(recipe)
    base = run_dir or ROOT / recipe.name
    path = Run.place(base.with_name(base.name + _suffix(cell)), recipe, if_exists)
    if path.exists() and not _settled(path).is_over:
        raise _busy(path)
    return path, recipe, replace(job, settings=settings, grid=cell, sweep=base.name if cell else "")


def grid_of(texts: Sequence[str]) -> list[dict[str, str]]:
    """Return every combination of `section.setting=value,value…`, the last setting changing
    fastest.

    A comma within brackets separates no values.
    """
    axes: dict[str, list[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        found = [value.strip() for value in re.split(r",(?![^\[]*\])", values)]
        if (
            not equals
            or not key.strip()
            or not all(found)
            or len(set(found)) < len(found)
            or key.strip() in axes
        ):
            raise ConfigError(
                "--grid does not look like a setting with values",
                value=text,
                accepted="section.setting=value,value with each setting and each value once",
                next_step="--grid train.learning_rate=1e-4,3e-4 --grid seed=0,1,2",
            )
        axes[key.strip()] = found
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _suffix(cell: dict[str, str]) -> str:
    """Return what a name says of a cell of the grid: the last word of each setting, where that is
    clear.
    """
    last = [key.rpartition(".")[2] for key in cell]
    words = [word if last.count(word) == 1 else key for word, key in zip(last, cell, strict=True)]
    values = (re.sub(r"[^\w.+-]+", "_", value) for value in cell.values())
    return "".join(f"+{word}={value}" for word, value in zip(words, values, strict=True))


def resume(path: Path) -> None:
    """Let a run go on in the background from where it ended; raise `ArtifactError` where there is
    nothing to do.

    One that has finished what was asked for with `--until` goes on to the end.
    """
    state = _settled(path)
    if not state.is_over:
        raise _busy(path)
    if state.state == "finished" and not state.until:
        raise ArtifactError(
            "this run has finished",
            value=path,
            accepted="a run that has not",
            next_step=f"groundrec runs show {path}",
        )
    job = replace(Job.of(path), submitted=time.time())
    launch(path, replace(job, until=None) if state.state == "finished" else job)


def _settled(path: Path) -> State:
    """Return the state of a run; where it is over, when its supervisor has gone, which keeps the
    next one out.
    """
    deadline = time.monotonic() + LEAVING
    while (state := state_of(path)).is_over and state.supervisor and time.monotonic() < deadline:
        time.sleep(0.05)
    return state


def stop(path: Path, *, force: bool = False, patience: float = PATIENCE) -> State:
    """Ask a run to save and end, or end it at once by `force`; return its state when it has ended."""
    state = state_of(path)
    if state.is_over:
        raise ArtifactError(
            f"this run is {state.state}",
            value=path,
            accepted="a run that waits or works",
            next_step="groundrec runs",
        )
    _send(path, state, signal.SIGKILL if force and state.pid else signal.SIGTERM)
    deadline = time.monotonic() + patience
    while not (state := state_of(path)).is_over:
        if time.monotonic() > deadline:
            raise ProcessError(
                "the run was asked to stop and is still at work",
                value=path,
                accepted=f"an end within {patience:.0f} s",
                next_step=f"groundrec runs stop {path} --force, which saves nothing",
            )
        time.sleep(0.1)
    return state


def _send(path: Path, state: State, number: int) -> None:
    """Send a signal to whoever works for a run, else to whoever waits for its turn."""
    record = read_json(path / "supervisor.json") or {}
    for value in (read_json(path / "status.json"), record.get("worker"), record.get("supervisor")):
        found = Identity.from_json(value)
        if found and found.pid in (state.pid, state.supervisor) and found.send_signal(number):
            return


def remove(path: Path) -> None:
    """Remove the directory of a run that is over."""
    if not state_of(path).is_over:
        raise _busy(path)
    with lock_folder(path):
        gone = path.with_name(f".{path.name}.{os.getpid()}.removed")
        path.rename(gone)
    shutil.rmtree(gone)


def _busy(path: Path) -> ArtifactError:
    return ArtifactError(
        "this run waits or works",
        value=path,
        accepted="a run that is over, or another --run-dir",
        next_step=f"groundrec runs stop {path}",
    )
