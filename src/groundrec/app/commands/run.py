"""`groundrec run`, and what `train` and `evaluate` share with it.

A run is carried out in this process, or submitted for the background. Knows nothing about what
stages do.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from groundrec.app.boards import require, shown
from groundrec.app.commands.debug import DebugAttach, DebugRank, wait_for_debugger
from groundrec.app.commands.options import (
    After,
    Detach,
    Grid,
    IfExistsOption,
    Json,
    MaxParallel,
    Quiet,
    RecipeFile,
    RunDir,
    Set,
    check_choice,
)
from groundrec.app.commands.plan import print_plan
from groundrec.app.commands.runs import submit
from groundrec.app.commands.settings_table import print_settings
from groundrec.app.commands.terminal import print_next
from groundrec.app.jobs.job import Job
from groundrec.app.jobs.state import ROOT
from groundrec.app.stages.checks import check_names, check_paths
from groundrec.core.affects import STAGES
from groundrec.core.errors import ConfigError
from groundrec.core.inputs import step_folder
from groundrec.core.processes import Processes, launcher_started_one
from groundrec.core.recipe import Recipe, load_recipe
from groundrec.core.recipe_files import find_recipe
from groundrec.core.runs import IfExists, Run
from groundrec.core.stop import EXIT_CODE, Stopped, stop_on_sigterm
from groundrec.core.track import log, log_to, progress_to

__all__ = ["RunOptions", "execute", "run", "start"]


@dataclass(frozen=True)
class RunOptions:
    """What the command line asks of a run, besides its recipe."""

    settings: tuple[str, ...] = ()
    run_dir: Path | None = None
    if_exists: str = "fail"
    until: str | None = None
    dry_run: bool = False
    plan: bool = False
    detach: bool = False
    after: tuple[str, ...] = ()
    max_parallel: int | None = None
    grid: tuple[str, ...] = ()
    quiet: bool = False
    debug_attach: int | None = None
    debug_rank: int | None = None
    as_json: bool = False
    to_continue: str = "add --if-exists resume to the same command to continue"
    """What to do after an interruption, printed then."""

    @property
    def reuse(self) -> IfExists:
        """What to do with an existing run, checked."""
        check_choice("--if-exists", self.if_exists, get_args(IfExists))
        return cast(IfExists, self.if_exists)


def run(
    recipe: RecipeFile,
    set_: Set = None,
    run_dir: RunDir = None,
    if_exists: IfExistsOption = "fail",
    until: Annotated[
        str | None, typer.Option(help=f"Stop after this stage: {', '.join(STAGES)}.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print every setting and where it came from; do nothing."),
    ] = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Print which steps would be skipped or run, and why; do nothing."
        ),
    ] = False,
    detach: Detach = False,
    after: After = None,
    max_parallel: MaxParallel = None,
    grid: Grid = None,
    quiet: Quiet = False,
    debug_attach: DebugAttach = None,
    debug_rank: DebugRank = None,
    as_json: Json = False,
) -> None:
    """Run RECIPE from raw data to report, skipping the stages that are finished."""
    options = RunOptions(
        settings=tuple(set_ or ()),
        run_dir=run_dir,
        if_exists=if_exists,
        until=until,
        dry_run=dry_run,
        plan=plan,
        detach=detach,
        after=tuple(after or ()),
        max_parallel=max_parallel,
        grid=tuple(grid or ()),
        quiet=quiet,
        debug_attach=debug_attach,
        debug_rank=debug_rank,
        as_json=as_json,
    )
    start(recipe, options)


def start(file: Path, options: RunOptions) -> None:
    """Run a recipe here or in the background, or only print its settings or its plan."""
    named = file
    file = find_recipe(named)
    recipe, origin = load_recipe(file, options.settings)
    reuse = options.reuse
    if options.until:
        check_choice("--until", options.until, STAGES)
    check_names(recipe)
    if options.dry_run:
        print_settings(recipe, origin, as_json=options.as_json)
        if not options.as_json:
            print_next(*_same_run(named, options), "--plan")
        return
    check_paths(recipe)
    path = options.run_dir or ROOT / recipe.name
    if options.plan:
        print_plan(recipe, path, reuse, options.until, as_json=options.as_json)
        if not options.as_json:
            print_next(*_same_run(named, options))
        return
    require(recipe.track)
    _refuse_contradictions(options)
    job = Job(options.settings, options.until, str(Path.cwd()), max_parallel=options.max_parallel)
    if options.detach:
        submit(
            file,
            job,
            options.run_dir,
            reuse,
            options.after,
            options.grid,
            as_json=options.as_json,
        )
        return
    execute(recipe, file, path, reuse, job, options, to_continue=options.to_continue)


def _same_run(named: Path, options: RunOptions) -> list[object]:
    """Return the words of `groundrec run` that stand for the same run."""
    settings = [word for setting in options.settings for word in ("--set", setting)]
    folder = ["--run-dir", options.run_dir] if options.run_dir else []
    reuse = ["--if-exists", options.if_exists] if options.if_exists != "fail" else []
    until = ["--until", options.until] if options.until else []
    return ["run", named, *settings, *folder, *reuse, *until]


def _refuse_contradictions(options: RunOptions) -> None:
    if options.detach and options.debug_attach:
        raise ConfigError(
            "a run in the background cannot wait for a debugger",
            value=f"--detach --debug-attach {options.debug_attach}",
            accepted="one of the two",
            next_step="leave out --detach",
        )
    if not options.detach and (options.after or options.max_parallel or options.grid):
        raise ConfigError(
            "--after, --max-parallel and --grid need --detach",
            accepted="--detach with them",
            next_step="add --detach",
        )


def execute(
    recipe: Recipe,
    file: Path | None,
    path: Path,
    reuse: IfExists,
    job: Job,
    options: RunOptions,
    *,
    to_continue: str,
) -> None:
    """Run the stages of a recipe in `path`, in this process and those a launcher has started.

    `to_continue` is what to do after an interruption, and is printed then.
    """
    processes = wait_for_debugger(Processes.of(), options.debug_attach, options.debug_rank)
    with _stopping_cleanly(to_continue):
        log_to(None, quiet=options.quiet or options.as_json)
        _log_processes(processes)
        with Run.shared(path, recipe, file, reuse, processes) as opened:
            if processes.is_main:
                log_to(opened.path / "log.txt", quiet=options.quiet or options.as_json)
                progress_to(opened.path / "progress.json")
                job.keep(opened.path)
                _log_start(recipe, opened)
            # Late: it imports torch, which the other commands do without.
            from groundrec.app.stages.stages import run_recipe

            with shown(recipe, opened.path) if processes.is_main else contextlib.nullcontext():
                run_recipe(recipe, opened, job.until)
        if processes.is_main and job.is_whole:
            from groundrec.app.stages.page import print_results

            if options.as_json or not options.quiet:
                print_results(opened.path, as_json=options.as_json)
            _log_what_to_look_at(opened.path)


@contextlib.contextmanager
def _stopping_cleanly(to_continue: str) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the block, and print how to continue."""
    try:
        with stop_on_sigterm():
            yield
    except Stopped:
        print(f"stopped: {to_continue}", file=sys.stderr)
        sys.exit(EXIT_CODE)
    except KeyboardInterrupt:
        print(f"interrupted: {to_continue}", file=sys.stderr)
        raise


def _log_processes(processes: Processes) -> None:
    """Warn if a launcher started fewer processes than asked; let only the main one log the rest."""
    if not processes.is_main:
        log.setLevel(logging.WARNING)
    elif launcher_started_one():
        log.warning(
            "accelerate launch was asked for several processes but started only this one, which"
            " does all the work"
        )
        log.warning(
            "  torchrun --nproc_per_node 2 -m groundrec run … starts several on one machine, with"
            " or without GPUs"
        )


def _log_start(recipe: Recipe, run: Run) -> None:
    if recipe.about:
        log.info(recipe.about.strip())
    if run.processes.world_size > 1:
        log.info(
            f"{run.processes.world_size} processes train and recommend together; the main one does"
            " the rest"
        )
    log.info(f"writing to {run.path}\n")


def _log_what_to_look_at(path: Path) -> None:
    """Log where the results are, and commands to try next."""
    from groundrec.data import dataset

    prepared = dataset.load(step_folder(path, "prepare"))
    title = prepared.catalogue.titles[int(prepared.popularity().argmax())]
    log.info(f"\nlook at  {path / 'report.html'}")
    log.info(f"         {path / 'report.png'}")
    log.info(f"         {step_folder(path, 'evaluate') / 'test.json'}")
    log.info(f'try      groundrec recommend {path} "{title}" -k 5')
    log.info(f"         groundrec run {path / 'recipe.toml'} --dry-run")
    log.info("         groundrec settings train")
