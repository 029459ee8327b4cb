"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from groundrec import __version__
from groundrec.app.boards import require, shown
from groundrec.app.commands.compare import compare
from groundrec.app.commands.debug import DebugAttach, DebugRank, awaited
from groundrec.app.commands.doctor import doctor
from groundrec.app.commands.explain import explain
from groundrec.app.commands.models import app as models_app
from groundrec.app.commands.recipes import app as recipes_app
from groundrec.app.commands.runs import After, Detach, Grid, MaxParallel, hand_in
from groundrec.app.commands.runs import app as runs_app
from groundrec.app.commands.tokenize import tokenize
from groundrec.app.commands.track import app as track_app
from groundrec.app.jobs.job import Job
from groundrec.app.stages.checks import check_names, check_paths
from groundrec.app.stages.domains import size_table, sizes
from groundrec.core.errors import ConfigError, GroundrecError, did_you_mean
from groundrec.core.processes import Processes, launcher_started_one
from groundrec.core.recipe import Recipe, load_recipe, settings
from groundrec.core.recipe_files import find_recipe
from groundrec.core.registry import BUILT_IN, names
from groundrec.core.runs import IfExists, Run
from groundrec.core.stop import EXIT_CODE, Stopped, stop_on_sigterm
from groundrec.core.track import log, log_to, progress_to

__all__ = ["app", "main"]

app = typer.Typer(
    help="Turn a language model into a recommender whose every answer is a real catalogue item.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(runs_app, name="runs")
app.add_typer(recipes_app, name="recipes")
app.add_typer(models_app, name="models")
app.add_typer(track_app, name="track")
COLLECT_AFTER = 100_000
STAGE_NAMES = ("prepare", "signals", "train", "recommend", "fuse", "evaluate")
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
RecipeFile = Annotated[
    Path, typer.Argument(help="A recipe: a TOML file, or a name from `groundrec recipes list`.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.SETTING=VALUE", help="Override a setting; may be given again."
    ),
]


def main() -> None:
    """Run the command line; errors a user can mend are printed without a traceback and exit with 2."""
    # Looking for garbage among modules, while they load and at the end, takes a third of a second.
    gc.set_threshold(COLLECT_AFTER)
    # Arrow's own allocator keeps what was freed: a tenth of what preparing data takes.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    atexit.register(gc.freeze)
    try:
        app()
    except GroundrecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@app.command()
def run(
    recipe: RecipeFile,
    set_: Set = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where to write; `runs/<name>` when left out.")
    ] = None,
    if_exists: Annotated[
        str,
        typer.Option(
            help="When the directory holds a run: resume it, begin a new one beside it, or fail."
        ),
    ] = "fail",
    until: Annotated[
        str | None, typer.Option(help=f"Stop behind a stage: {', '.join(STAGE_NAMES)}.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print every setting and where it came from; do nothing."),
    ] = False,
    detach: Detach = False,
    after: After = None,
    max_parallel: MaxParallel = None,
    grid: Grid = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print only errors; the log file has the rest.")
    ] = False,
    debug_attach: DebugAttach = None,
    debug_rank: DebugRank = None,
    as_json: Json = False,
) -> None:
    """Run a recipe from raw data to report, skipping what is finished."""
    recipe = find_recipe(recipe)
    resolved, origin = load_recipe(recipe, set_ or [])
    _one_of("--if-exists", if_exists, ("resume", "new", "fail"))
    if until:
        _one_of("--until", until, STAGE_NAMES)
    check_names(resolved)
    if dry_run:
        _print_settings(resolved, origin, as_json)
        return
    check_paths(resolved)
    require(resolved.track)
    job = Job(tuple(set_ or ()), until, str(Path.cwd()), max_parallel=max_parallel)
    if detach and debug_attach:
        raise ConfigError(
            "nobody sees a run in the background wait for a debugger",
            next_step="leave out --detach",
        )
    if detach:
        hand_in(recipe, job, run_dir, if_exists, after or [], grid or [], as_json=as_json)  # type: ignore[arg-type]
        return
    if after or max_parallel or grid:
        raise ConfigError(
            "--after, --max-parallel and --grid are for runs in the background",
            next_step="add --detach",
        )
    path = run_dir or Path("runs") / resolved.name
    processes = awaited(Processes.of(), debug_attach, debug_rank)
    try:
        with stop_on_sigterm():
            _run(resolved, recipe, path, processes, if_exists, job, quiet, as_json)  # type: ignore[arg-type]
    except Stopped:
        print(
            "stopped: the same command with --if-exists resume goes on from here", file=sys.stderr
        )
        sys.exit(EXIT_CODE)
    except KeyboardInterrupt:
        print(
            "interrupted: the same command with --if-exists resume goes on from here",
            file=sys.stderr,
        )
        raise


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    context: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print every setting; import and train nothing.")
    ] = False,
) -> None:
    """Train as the originals' train.py is told to: --base_model … --train_data_path … and the other
    words they have.

    The words become a recipe beside --output_dir, the data files a data set there; then the recipe
    runs up to training.
    """
    from groundrec.app.commands.published_flags import recipe_file, understood

    asked = understood(context.args)
    if dry_run:
        _print_settings(
            *load_recipe(None, [f"{key}={value}" for key, value in asked.settings.items()]), False
        )
        return
    log_to(None)
    file = recipe_file(asked)
    log.info(f"groundrec run {file} --run-dir {asked.out}")
    run(file, run_dir=asked.out, if_exists="resume" if asked.resume else "fail", until="train")


def _run(
    recipe: Recipe,
    file: Path,
    path: Path,
    processes: Processes,
    if_exists: IfExists,
    job: Job,
    quiet: bool,
    as_json: bool,
) -> None:
    log_to(None, quiet=quiet or as_json)
    if not processes.is_main:
        log.setLevel(logging.WARNING)
    elif launcher_started_one():
        log.warning(
            "accelerate launch was asked for several processes and started this one alone, which"
            " does all the work"
        )
        log.warning(
            "  torchrun --nproc_per_node 2 -m groundrec run … starts several on one machine, with"
            " or without GPUs"
        )
    with Run.shared(path, recipe, file, if_exists, processes) as opened:
        if processes.is_main:
            log_to(opened.path / "log.txt", quiet=quiet or as_json)
            progress_to(opened.path / "progress.json")
            job.keep(opened.path)
            _announce(recipe, opened)
        from groundrec.app.stages.stages import run_recipe

        with shown(recipe, opened.path) if processes.is_main else contextlib.nullcontext():
            experiment = run_recipe(recipe, opened, job.until)
    if processes.is_main and job.is_whole:
        from groundrec.app.stages.results import show

        if as_json or not quiet:
            show(experiment, as_json=as_json)
        _farewell(experiment)


def _announce(recipe: Recipe, run: Run) -> None:
    if recipe.about:
        log.info(recipe.about.strip())
    if run.processes.world_size > 1:
        log.info(
            f"{run.processes.world_size} processes train and recommend together; the main one does the"
            " rest"
        )
    log.info(f"writing to {run.path}\n")


def _farewell(experiment: Any) -> None:
    path = experiment.run.path
    title = experiment.dataset.catalogue.titles[int(experiment.dataset.popularity().argmax())]
    log.info(
        f"\nlook at  {path / 'report.html'}\n         {path / 'report.png'}\n        "
        f" {path / 'eval' / 'test.json'}"
    )
    log.info(f'try      groundrec recommend {path} "{title}" -k 5')
    log.info(f"         groundrec run {path / 'recipe.toml'} --dry-run")
    log.info("         groundrec settings train")


@app.command()
def recommend(
    run: Annotated[Path, typer.Argument(help="A run directory whose training has finished.")],
    history: Annotated[
        list[str], typer.Argument(help="Titles or item ids of the catalogue, oldest first.")
    ],
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    allow: Annotated[
        list[str] | None, typer.Option(help="Recommend nothing but this; may be given again.")
    ] = None,
    deny: Annotated[
        list[str] | None, typer.Option(help="Never recommend this; may be given again.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Recommend items to someone who took HISTORY."""
    log_to(None, quiet=as_json)
    from groundrec.app.recommender import Recommender

    found = Recommender.load(run).recommend(history, k, allow=allow or None, deny=deny or None)
    if as_json:
        print(json.dumps([vars(r) for r in found], ensure_ascii=False))
        return
    for place, r in enumerate(found, 1):
        print(f"{place:>3}  {r.score:8.3f}  {r.title}  [{r.item_id}]")


@app.command("explain-item")
def explain_item(
    run: Annotated[Path, typer.Argument(help="A run directory whose training has finished.")],
    item: Annotated[str, typer.Argument(help="A title or item id of the catalogue.")],
    history: Annotated[
        list[str], typer.Argument(help="Titles or item ids of the catalogue, oldest first.")
    ],
    beams: Annotated[
        list[int] | None, typer.Option(help="A number of beams to try; may be given again.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how ITEM comes by its score after HISTORY, token by token, and where beam searches lose
    it.
    """
    log_to(None, quiet=as_json)
    from groundrec.app.commands.explain_item import show

    show(run, item, history, beams or [5, 10, 20, 50], as_json=as_json)


@app.command()
def evaluate(
    input_dir: Annotated[
        Path,
        typer.Option(
            "--input_dir", "--input-dir", help="Folder of JSON files of BIGRec or D3, or one file."
        ),
    ],
    catalogue: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Data set, run directory, or text file of a title and a tab per line: counts shared"
                " titles."
            )
        ),
    ] = None,
    k: Annotated[
        list[int] | None, typer.Option("-k", min=1, help="A cut-off; may be given again.")
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Bootstrap samples behind each 95% interval.")
    ] = 1000,
    as_json: Json = False,
) -> None:
    """Score result files of the originals by title. A run is evaluated by `groundrec run`."""
    log_to(None, quiet=as_json)
    from groundrec.app.commands.score_files import show

    show(input_dir, catalogue, k or [], samples=bootstrap, as_json=as_json)


@app.command()
def prepare(
    source: Annotated[
        str, typer.Argument(help="A data source: `groundrec list sources` shows what is known.")
    ],
    out: Annotated[Path, typer.Option(help="Where to write the data set.")],
    path: Annotated[str | None, typer.Option(help="File, folder or URL of the raw data.")] = None,
    category: Annotated[
        str | None, typer.Option(help="Which files of the folder, e.g. `Books`.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="How to split: `groundrec list protocols`. `d3` where a window of time is given."
        ),
    ] = None,
    k_core: Annotated[
        int | None,
        typer.Option("--k-core", "--K", help="Least interactions of users and items."),
    ] = None,
    st_year: Annotated[
        int | None, typer.Option("--st_year", help="First year of the window of `d3`.")
    ] = None,
    st_month: Annotated[
        int | None, typer.Option("--st_month", help="First month of the window.")
    ] = None,
    ed_year: Annotated[
        int | None, typer.Option("--ed_year", help="Year in which the window ends.")
    ] = None,
    ed_month: Annotated[
        int | None, typer.Option("--ed_month", help="Month in which the window ends.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="What computes: `groundrec list engines`.")
    ] = None,
    memory_limit: Annotated[
        str | None, typer.Option(help="Most memory of the engine, e.g. `2GB`.")
    ] = None,
    set_: Set = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the data set in OUT.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only errors.")] = False,
    as_json: Json = False,
) -> None:
    """Make a data set of raw interactions, for recipes (`data.dataset`) and for `export`."""
    log_to(None, quiet=quiet or as_json)
    from groundrec.app.commands.datasets import make, recipe_of

    given = {
        "data.source": source,
        "data.path": path,
        "data.category": category,
        "prepare.protocol": protocol,
        "prepare.k_core": k_core,
        "prepare.engine": engine,
        "prepare.memory_limit": memory_limit,
        "prepare.d3.st_year": st_year,
        "prepare.d3.st_month": st_month,
        "prepare.d3.ed_year": ed_year,
        "prepare.d3.ed_month": ed_month,
    }
    made = make(recipe_of(given, set_ or []), out, overwrite=overwrite)
    if as_json:
        print(json.dumps(made))
    elif not quiet:
        print(f"{out}: " + ", ".join(f"{key} {value}" for key, value in made.items()))


@app.command()
def export(
    dataset: Annotated[Path, typer.Argument(help="A prepared data set, or a run directory.")],
    format_: Annotated[
        str, typer.Option("--format", help="What to write: `groundrec list formats`.")
    ],
    out: Annotated[Path, typer.Option(help="Where to write it.")],
    template: Annotated[
        Path | None,
        typer.Option(
            help=(
                "TOML file with the words of `bigrec`: `instruction`, and `input` with `{titles}`"
                " in it."
            )
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of the same names in OUT.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a data set in the file format of other code."""
    _one_of("--format", format_, tuple(names("formats")))
    log_to(None, quiet=as_json)
    from groundrec.app.commands.datasets import export as write

    files = [str(file) for file in write(dataset, format_, out, template, overwrite=overwrite)]
    print(json.dumps(files) if as_json else "\n".join(files))


@app.command("import")
def import_command(
    folder: Annotated[Path, typer.Argument(help="A folder that other code has prepared.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format", help="What wrote it: `groundrec list imports` shows what is known."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where to write the data set.")],
    category: Annotated[
        str, typer.Option(help="Which files of FOLDER, where it holds several categories.")
    ] = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the data set in OUT.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Import a data set that is already split, and show its card."""
    _one_of("--format", format_, tuple(names("imports")))
    log_to(None, quiet=as_json)
    from groundrec.app.commands.card import show
    from groundrec.app.commands.datasets import bring

    bring(folder, format_, out, category, overwrite=overwrite)
    show(out, as_json=as_json)


@app.command()
def card(
    dataset: Annotated[Path, typer.Argument(help="A prepared data set, or a run directory.")],
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Folder or tokenizer.json to count titles in; the run's own, else words."
        ),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Where to draw; `card.png` in the data set.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a data set holds and what it leaks: a table and one picture."""
    from groundrec.app.commands.card import show

    show(dataset, tokenizer, picture, as_json=as_json)


@app.command("settings")
def settings_command(
    section: Annotated[str, typer.Argument(help="Show one section only.")] = "",
    as_json: Json = False,
) -> None:
    """Show every setting of a recipe with its default and what it means."""
    rows = [row for row in settings(Recipe()) if row[0].startswith(section)]
    if not rows:
        known = {key.partition(".")[0] for key, *_ in settings(Recipe())}
        raise ConfigError(
            f"no such section{did_you_mean(section, known)}",
            value=section,
            accepted=", ".join(sorted(known)),
        )
    if as_json:
        print(
            json.dumps(
                [dict(zip(("setting", "default", "meaning"), r, strict=True)) for r in rows],
                default=str,
            )
        )
        return
    table = Table("setting", "default", "meaning", show_lines=False)
    for key, value, text in rows:
        table.add_row(key, _plain(value), text)
    _print(table)


app.command()(tokenize)
app.command()(explain)
app.command()(doctor)
app.command()(compare)


@app.command("list")
def list_command(
    seam: Annotated[str, typer.Argument(help="One kind only.")] = "", as_json: Json = False
) -> None:
    """List what there is to name in a recipe: sources, protocols, base models, signals, metrics."""
    if seam:
        _one_of("seam", seam, tuple(BUILT_IN))
    found = {kind: names(kind) for kind in ([seam] if seam else BUILT_IN)}
    if as_json:
        print(json.dumps(found))
        return
    for kind, known in found.items():
        print(f"{kind:<12} {', '.join(known)}")


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(
            f"unknown {what}{did_you_mean(value, known)}", value=value, accepted=", ".join(known)
        )


def _print_settings(recipe: Recipe, origin: dict[str, str], as_json: bool) -> None:
    domains = list(sizes(recipe)) if recipe.train.also else []
    if as_json:
        rows = {key: {"value": value, "from": origin[key]} for key, value, _ in settings(recipe)}
        rows["train.also"] |= {"sizes": [vars(size) for size in domains]} if domains else {}
        print(json.dumps(rows, default=str))
        return
    table = Table("setting", "value", "from")
    for key, value, _ in settings(recipe):
        given = origin[key] != "default"
        table.add_row(key, escape(_plain(value)), origin[key], style="bold" if given else "dim")
    _print(table)
    if domains:
        _print(size_table(domains))


def _plain(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False) if value is not None else "–"


def _print(table: Table) -> None:
    Console(highlight=False).print(table)
