"""Runs in the background: submitted, one or a whole grid of them, stopped, resumed, removed.

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
from groundrec.core.files import read_json
from groundrec.core.recipe import Recipe, load_recipe
from groundrec.core.runs import IfExists, Run

__all__ = ["grid_of", "remove", "resume", "stop", "submit_jobs"]

PATIENCE = 600.0
"""Seconds that a run has to save its work."""
LEAVING = 10.0
"""Seconds that a supervisor has to exit after recording how its run ended."""


def submit_jobs(
    recipe_file: Path,
    job: Job,
    run_dir: Path | None,
    if_exists: IfExists,
    after: Sequence[Path] = (),
    grid: Sequence[str] = (),
) -> list[Path]:
    """Submit a run, or every run of a grid, and return their directories.

    All are checked before the first one starts.
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
    """Return directory, recipe and job of one cell of the grid; raise if it cannot be run."""
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
    """Return every combination of `section.setting=value,value…`; the last setting varies fastest.

    A comma within brackets does not separate values.
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
    """Return the part of a run's name that tells the cells of a grid apart.

    A setting is shortened to its last part if no other setting ends in it.
    """
    last = [key.rpartition(".")[2] for key in cell]
    keys = [short if last.count(short) == 1 else key for short, key in zip(last, cell, strict=True)]
    values = (re.sub(r"[^\w.+-]+", "_", value) for value in cell.values())
    return "".join(f"+{key}={value}" for key, value in zip(keys, values, strict=True))


def resume(path: Path) -> None:
    """Resume a run in the background; raise `ArtifactError` if there is nothing left to do.

    A run that finished the stage of its `--until` runs to the end.
    """
    state = _settled(path)
    if not state.is_over:
        raise _busy(path)
    if state.state == "finished" and not state.until:
        raise ArtifactError(
            "this run has finished",
            value=path,
            accepted="a run that stopped, failed or finished at --until",
            next_step=f"groundrec runs show {path}",
        )
    job = replace(Job.of(path), submitted=time.time())
    launch(path, replace(job, until=None) if state.state == "finished" else job)


def _settled(path: Path) -> State:
    """Return the state of a run; if it has ended, wait until its supervisor has exited too.

    A supervisor that is still there would keep the next one out.
    """
    deadline = time.monotonic() + LEAVING
    while (state := state_of(path)).is_over and state.supervisor and time.monotonic() < deadline:
        time.sleep(0.05)
    return state


def stop(path: Path, *, force: bool = False, patience: float = PATIENCE) -> State:
    """Ask a run to save and exit, or kill it with `force`; return its state once it has ended."""
    state = state_of(path)
    if state.is_over:
        raise ArtifactError(
            f"this run is {state.state}",
            value=path,
            accepted="a queued or running run",
            next_step="groundrec runs",
        )
    _send(path, state, signal.SIGKILL if force and state.pid else signal.SIGTERM)
    deadline = time.monotonic() + patience
    while not (state := state_of(path)).is_over:
        if time.monotonic() > deadline:
            raise ProcessError(
                "the run was asked to stop and is still running",
                value=path,
                accepted=f"an end within {patience:.0f} s",
                next_step=f"groundrec runs stop {path} --force, which saves nothing",
            )
        time.sleep(0.1)
    return state


def _send(path: Path, state: State, number: int) -> None:
    """Send a signal to the process of a run, or to the supervisor that waits for its turn."""
    record = read_json(path / "supervisor.json") or {}
    for value in (read_json(path / "status.json"), record.get("worker"), record.get("supervisor")):
        found = Identity.from_json(value)
        if found and found.pid in (state.pid, state.supervisor) and found.send_signal(number):
            return


def remove(path: Path) -> None:
    """Remove the directory of a run that has ended."""
    if not state_of(path).is_over:
        raise _busy(path)
    with lock_folder(path):
        gone = path.with_name(f".{path.name}.{os.getpid()}.removed")
        path.rename(gone)
    shutil.rmtree(gone)


def _busy(path: Path) -> ArtifactError:
    return ArtifactError(
        "this run is queued or running",
        value=path,
        accepted="a run that has ended, or another --run-dir",
        next_step=f"groundrec runs stop {path}",
    )
