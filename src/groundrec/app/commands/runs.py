"""`groundrec runs`: what runs do, shown and steered from the terminal.

Knows nothing about processes and files; it asks, and prints.
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

from groundrec.app.commands.runs_tables import BEGUN_AGAIN, comparison, facts, listing, print_table
from groundrec.app.jobs.job import Job
from groundrec.app.jobs.state import ROOT, named, runs_in, state_of
from groundrec.core.errors import ConfigError
from groundrec.core.runs import IfExists

__all__ = ["After", "Detach", "Grid", "MaxParallel", "Runs", "app", "hand_in"]

app = typer.Typer(
    help="Show and steer runs: what they are doing, how they ended, how they compare.",
    invoke_without_command=True,
)
LOOK = 0.2
"""Seconds between two looks at a log."""
Root = Annotated[
    Path,
    typer.Option("--root", help="The folder that holds the run directories.", show_default=True),
]
Run = Annotated[
    str, typer.Argument(help="A run directory, its name below the root, or the name of a sweep.")
]
Runs = Annotated[
    list[str],
    typer.Argument(help="Run directories, their names below the root, or the names of sweeps."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Detach = Annotated[
    bool,
    typer.Option(
        "--detach",
        help="Run in the background, past the end of this terminal; see `groundrec runs`.",
    ),
]
After = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RUN", help="With --detach: begin when this run has finished; may be given again."
    ),
]
MaxParallel = Annotated[
    int | None,
    typer.Option(min=1, help="With --detach: wait while so many detached runs are at work."),
]
Grid = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SECTION.SETTING=VALUE,VALUE",
        help="With --detach: a run for each value; may be given again.",
    ),
]


def hand_in(
    recipe: Path,
    job: Job,
    run_dir: Path | None,
    if_exists: IfExists,
    after: Sequence[str],
    grid: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Hand in runs for the background, and print where they are."""
    from groundrec.app.jobs.background import submit

    paths = submit(
        recipe, job, run_dir, if_exists, _all(after, run_dir.parent if run_dir else ROOT), grid
    )
    states = [state_of(path) for path in paths]
    if as_json:
        print(json.dumps([asdict(state) for state in states]))
        return
    for state in states:
        print(f"{state.path}: {state.state}" + (f", waits: {state.why}" if state.why else ""))
    look = (
        f"to follow it: groundrec runs logs -f {states[0].path}"
        if len(states) == 1
        else "to see them: groundrec runs"
    )
    print(look, file=sys.stderr)


@app.callback()
def list_command(context: typer.Context, root: Root = ROOT, as_json: Json = False) -> None:
    """Show and steer runs; without a command, list them: state, stage, progress, best metric,
    memory.
    """
    if context.invoked_subcommand:
        context.obj = root
        return
    states = list(runs_in(root))
    if as_json:
        print(json.dumps([asdict(state) for state in states]))
    elif not states:
        print(f"no runs in {root}: `groundrec run demo --detach` begins one")
    else:
        print_table(listing(states))
        if again := [s.name for s in states if s.state in BEGUN_AGAIN]:
            print(f"to go on: groundrec runs resume {again[0]}", file=sys.stderr)


@app.command()
def show(context: typer.Context, run: Run, as_json: Json = False) -> None:
    """Show one run: its state and why, how far it is, its settings, processes, memory, exit status."""
    states = [state_of(path, context.obj) for path in named(run, context.obj)]
    if as_json:
        found = [asdict(state) for state in states]
        print(json.dumps(found[0] if len(found) == 1 else found))
        return
    for state in states:
        print_table(facts(state))


@app.command()
def logs(
    context: typer.Context,
    run: Run,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on printing until the run ends.")
    ] = False,
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, help="How many lines to begin with.")
    ] = 20,
) -> None:
    """Print the end of a run's log."""
    path = _one(run, context.obj)
    for text in _log(path, follow, lines):
        print(text, end="", flush=True)


@app.command()
def stop(
    context: typer.Context,
    runs: Runs,
    force: Annotated[
        bool, typer.Option("--force", help="End it at once, with SIGKILL; nothing is saved.")
    ] = False,
) -> None:
    """Ask runs to save a checkpoint and end; wait until they have."""
    from groundrec.app.jobs.background import stop as end

    for path in _all(runs, context.obj):
        state = end(path, force=force)
        print(f"{state.name}: {state.state}")


@app.command()
def resume(context: typer.Context, runs: Runs) -> None:
    """Let runs go on in the background from where they ended; one that finished behind `--until`
    goes on to the end.
    """
    from groundrec.app.jobs.background import resume as begin

    for path in _all(runs, context.obj):
        begin(path)
        print(f"{path}: {state_of(path).state}")


@app.command()
def compare(
    context: typer.Context,
    runs: Runs,
    method: Annotated[
        list[str] | None,
        typer.Option(help="A method of the runs, or `all`; the language model when left out."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="A metric, e.g. `hr@10`; those of the recipe's main cut-off when left out."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare runs query by query: means with 95% intervals, differences from the first run, runs
    not yet measured.
    """
    states = [state_of(path, context.obj) for path in _all(runs, context.obj)]
    measured = {
        s.name: Path(s.path) for s in states if (Path(s.path) / "eval" / "manifest.json").exists()
    }
    waiting = [s for s in states if s.name not in measured]
    if not measured:
        raise ConfigError(
            "none of these runs has measured anything yet",
            value=", ".join(f"{s.name} ({s.state})" for s in states),
            accepted="at least one run whose stage `evaluate` has finished",
            next_step="groundrec runs",
        )
    from groundrec.app.stages.comparison import compare_runs

    swept = dict.fromkeys(key for s in states for key in s.grid)
    found = compare_runs(measured, method or ["language model"], metric or [], list(swept))
    if as_json:
        print(json.dumps({**asdict(found), "unmeasured": {s.name: s.state for s in waiting}}))
        return
    print_table(comparison(found, waiting))
    left = f"; {found.left_out} that not all have ranked are left out" if found.left_out else ""
    print(
        f"{found.queries} queries of {found.users} users{left}. Differences from the first row, p"
        " after Holm."
    )


@app.command()
def rm(
    context: typer.Context,
    runs: Runs,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove the directories of runs that are over."""
    from groundrec.app.jobs.background import remove

    for path in _all(runs, context.obj):
        if not yes and not typer.confirm(f"remove {path} and all in it?"):
            continue
        remove(path)
        print(f"{path}: removed")


def _all(names: Sequence[str], root: Path) -> list[Path]:
    return list(dict.fromkeys(path for name in names for path in named(name, root)))


def _one(name: str, root: Path) -> Path:
    found = named(name, root)
    if len(found) > 1:
        known = ", ".join(path.name for path in found)
        raise ConfigError("a sweep has many logs", value=name, accepted=known)
    return found[0]


def _log(path: Path, follow: bool, lines: int) -> Iterator[str]:
    """Yield the last `lines` of a run's log, and what is added until the run ends where it is
    followed.
    """
    log = path / "log.txt"
    place = 0
    while True:
        over = not follow or state_of(path).is_over  # before reading: what comes last is read too
        if log.exists():
            with log.open(encoding="utf-8", errors="replace") as file:
                if place:
                    file.seek(place)
                    yield file.read()
                else:
                    yield "".join(file.readlines()[-lines:] if lines else file.readlines()[:0])
                place = file.tell()
        if over:
            return
        time.sleep(LOOK)
