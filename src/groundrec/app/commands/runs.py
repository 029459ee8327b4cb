"""`groundrec runs`: what runs are doing, shown and controlled from the terminal.

Knows nothing about processes and files; it asks `app.jobs`, and prints.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from groundrec.app.commands.options import Json, Root, RunName, RunNames
from groundrec.app.commands.runs_tables import (
    RESUMABLE,
    comparison_table,
    details_table,
    runs_table,
    seeds_table,
)
from groundrec.app.commands.terminal import print_table
from groundrec.app.jobs.job import Job
from groundrec.app.jobs.measured import split_measured
from groundrec.app.jobs.state import ROOT, named, runs_in, state_of
from groundrec.core.errors import ConfigError
from groundrec.core.runs import IfExists

__all__ = ["app", "submit"]

app = typer.Typer(
    help="Show and control runs: what they are doing, how they ended, how they compare.",
    invoke_without_command=True,
)
POLL = 0.2
"""Seconds between two reads of a log that is followed."""


def submit(
    recipe: Path,
    job: Job,
    run_dir: Path | None,
    if_exists: IfExists,
    after: Sequence[str],
    grid: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Submit a run, or one per cell of a grid, to the background, and print their states."""
    from groundrec.app.jobs.background import submit_jobs

    first = _directories(after, run_dir.parent if run_dir else ROOT)
    paths = submit_jobs(recipe, job, run_dir, if_exists, first, grid)
    states = [state_of(path) for path in paths]
    if as_json:
        print(json.dumps([asdict(state) for state in states]))
        return
    for state in states:
        print(f"{state.path}: {state.state}" + (f", waiting: {state.why}" if state.why else ""))
    one = f"to follow it: groundrec runs logs -f {states[0].path}"
    print(one if len(states) == 1 else "to list them: groundrec runs", file=sys.stderr)


@app.callback()
def list_runs(context: typer.Context, root: Root = ROOT, as_json: Json = False) -> None:
    """Show and control runs; without a command, list the runs below --root.

    The list has each run's state, stage, progress, best metric and memory.
    """
    if context.invoked_subcommand:
        context.obj = root
        return
    states = list(runs_in(root))
    if as_json:
        print(json.dumps([asdict(state) for state in states]))
    elif not states:
        print(f"no runs in {root}: `groundrec run demo --detach` starts one")
    else:
        print_table(runs_table(states))
        if resumable := [s.name for s in states if s.state in RESUMABLE]:
            print(f"to resume: groundrec runs resume {resumable[0]}", file=sys.stderr)


@app.command("show")
def show_run(context: typer.Context, run: RunName, as_json: Json = False) -> None:
    """Show the state of RUN and why, its progress, settings, processes, memory and exit status."""
    states = [state_of(path, context.obj) for path in named(run, context.obj)]
    if as_json:
        found = [asdict(state) for state in states]
        print(json.dumps(found[0] if len(found) == 1 else found))
        return
    for state in states:
        print_table(details_table(state))


@app.command("logs")
def print_log(
    context: typer.Context,
    run: RunName,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Keep printing until the run ends.")
    ] = False,
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, help="Number of lines to start with.")
    ] = 20,
) -> None:
    """Print the end of the log of RUN."""
    found = named(run, context.obj)
    if len(found) > 1:
        raise ConfigError(
            "a sweep has one log per run",
            value=run,
            accepted=", ".join(path.name for path in found),
            next_step=f"groundrec runs logs {found[0]}",
        )
    for text in _log_lines(found[0], follow, lines):
        print(text, end="", flush=True)


@app.command("stop")
def stop_runs(
    context: typer.Context,
    runs: RunNames,
    force: Annotated[
        bool, typer.Option("--force", help="Kill at once, with SIGKILL; nothing is saved.")
    ] = False,
) -> None:
    """Stop RUNS: ask them to save a checkpoint and exit, and wait until they have."""
    from groundrec.app.jobs.background import stop

    for path in _directories(runs, context.obj):
        state = stop(path, force=force)
        print(f"{state.name}: {state.state}")


@app.command("resume")
def resume_runs(context: typer.Context, runs: RunNames) -> None:
    """Resume RUNS in the background; those that finished at `--until` run to the end."""
    from groundrec.app.jobs.background import resume

    for path in _directories(runs, context.obj):
        resume(path)
        print(f"{path}: {state_of(path).state}")


@app.command("compare")
def compare_by_query(
    context: typer.Context,
    runs: RunNames,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="A method of the runs, or `all`. Default: the first one of each run's recipe."
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="A metric, e.g. `hr@10`. Default: those at the recipe's main cut-off."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare RUNS query by query: means and differences from the first run, with 95% intervals.

    Runs that differ in their seed alone are one more row, above. Runs that have not measured
    anything yet are listed with their states.
    """
    paths, unmeasured = split_measured(_directories(runs, context.obj), context.obj)
    states = [state_of(path, context.obj) for path in paths]
    measured = {s.name: Path(s.path) for s in states}
    from groundrec.app.stages.comparison import compare_runs
    from groundrec.app.stages.seeds import over_seeds

    swept = dict.fromkeys(key for s in (*states, *unmeasured) for key in s.grid)
    found = compare_runs(measured, method or [], metric or [], list(swept))
    if as_json:
        others = {
            "seeds": [asdict(row) for row in over_seeds(found)],
            "unmeasured": {s.name: s.state for s in unmeasured},
        }
        print(json.dumps({**asdict(found), **others}))
        return
    if seeds := over_seeds(found):
        print_table(seeds_table(seeds))
        print("Means ± standard deviations over runs that differ in their seed alone.\n")
    print_table(comparison_table(found, unmeasured))
    left = f"; {found.left_out} not ranked by all runs are left out" if found.left_out else ""
    print(
        f"{found.queries} queries of {found.users} users{left}."
        " Differences are from the first row; p-values are Holm-adjusted."
    )


@app.command("rm")
def remove_runs(
    context: typer.Context,
    runs: RunNames,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove the directories of RUNS that have ended."""
    from groundrec.app.jobs.background import remove

    for path in _directories(runs, context.obj):
        if not yes and not typer.confirm(f"remove {path} and everything in it?"):
            continue
        remove(path)
        print(f"{path}: removed")


def _directories(names: Sequence[str], root: Path) -> list[Path]:
    """Return the run directories the names stand for, each once."""
    return list(dict.fromkeys(path for name in names for path in named(name, root)))


def _log_lines(path: Path, follow: bool, lines: int) -> Iterator[str]:
    """Yield the last `lines` of a run's log; to `follow` it, also what is added until it ends."""
    log = path / "log.txt"
    read_until = 0
    while True:
        # Asked before reading, so that the last lines of an ending run are read too. A run that is
        # over may still have a supervisor, which logs how it ended.
        state = state_of(path)
        is_last = not follow or (state.is_over and not state.supervisor)
        if log.exists():
            with log.open(encoding="utf-8", errors="replace") as file:
                if read_until:
                    file.seek(read_until)
                    yield file.read()
                else:
                    every = file.readlines()
                    yield "".join(every[len(every) - lines :] if lines < len(every) else every)
                read_until = file.tell()
        if is_last:
            return
        time.sleep(POLL)
