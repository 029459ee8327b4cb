"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table

from groundrec import __version__
from groundrec.app.checks import check_names, check_paths
from groundrec.core.errors import ConfigError, GroundrecError, closest
from groundrec.core.recipe import Recipe, load_recipe, settings
from groundrec.core.registry import BUILT_IN, names
from groundrec.core.runs import IfExists, Run
from groundrec.core.track import log, log_to

__all__ = ["app", "main"]

app = typer.Typer(
    help="Turn a language model into a recommender whose every answer is a real catalogue item.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
STAGE_NAMES = ("prepare", "signals", "train", "recommend", "fuse", "evaluate")
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
RecipeFile = Annotated[Path, typer.Argument(help="A recipe: TOML file. `recipes/demo.toml` is a good start.")]
Set = Annotated[
    Optional[list[str]],  # noqa: UP045, typer reads this at run time on Python 3.10 too
    typer.Option("--set", metavar="SECTION.SETTING=VALUE", help="Override a setting; may be given again."),
]


def main() -> None:
    """Run the command line; errors a user can mend are printed without a traceback and exit with 2."""
    try:
        app()
    except GroundrecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@app.command()
def run(
    recipe: RecipeFile,
    set_: Set = None,
    run_dir: Annotated[Optional[Path], typer.Option(help="Where to write; `runs/<name>` when left out.")] = None,  # noqa: UP045
    if_exists: Annotated[
        str, typer.Option(help="When the directory holds a run: resume it, begin a new one beside it, or fail.")
    ] = "fail",
    until: Annotated[Optional[str], typer.Option(help=f"Stop behind a stage: {', '.join(STAGE_NAMES)}.")] = None,  # noqa: UP045
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print every setting and where it came from; do nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only errors; the log file has the rest.")] = False,
    as_json: Json = False,
) -> None:
    """Run a recipe from raw data to report, skipping what is finished."""
    resolved, origin = load_recipe(recipe, set_ or [])
    _one_of("--if-exists", if_exists, ("resume", "new", "fail"))
    if until:
        _one_of("--until", until, STAGE_NAMES)
    check_names(resolved)
    if dry_run:
        _print_settings(resolved, origin, as_json)
        return
    check_paths(resolved)
    try:
        _run(resolved, recipe, run_dir or Path("runs") / resolved.name, if_exists, until, quiet, as_json)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        print("interrupted: the same command with --if-exists resume goes on from here", file=sys.stderr)
        raise


def _run(
    recipe: Recipe, file: Path, path: Path, if_exists: IfExists, until: str | None, quiet: bool, as_json: bool
) -> None:
    log_to(None, quiet=quiet or as_json)
    opened = Run.open(path, recipe, file, if_exists)
    log_to(opened.path / "log.txt", quiet=quiet or as_json)
    _announce(recipe, opened.path)
    from groundrec.app.stages import run_recipe

    experiment = run_recipe(recipe, opened, until)
    if until in (None, "evaluate"):
        from groundrec.app.results import show

        if as_json or not quiet:
            show(experiment, as_json=as_json)
        _farewell(experiment)


def _announce(recipe: Recipe, path: Path) -> None:
    if recipe.about:
        log.info(recipe.about.strip())
    log.info(f"writing to {path}\n")


def _farewell(experiment: Any) -> None:
    path = experiment.run.path
    title = experiment.dataset.catalogue.titles[int(experiment.dataset.popularity().argmax())]
    log.info(
        f"\nlook at  {path / 'report.html'}\n         {path / 'report.png'}\n         {path / 'eval' / 'test.json'}"
    )
    log.info(f'try      groundrec recommend {path} "{title}" -k 5')
    log.info(f"         groundrec run {path / 'recipe.toml'} --dry-run")
    log.info("         groundrec settings train")


@app.command()
def recommend(
    run: Annotated[Path, typer.Argument(help="A run directory whose training has finished.")],
    history: Annotated[list[str], typer.Argument(help="Titles or item ids of the catalogue, oldest first.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    as_json: Json = False,
) -> None:
    """Recommend items to someone who took HISTORY."""
    log_to(None, quiet=as_json)
    from groundrec.app.recommender import Recommender

    found = Recommender.load(run).recommend(history, k)
    if as_json:
        print(json.dumps([vars(r) for r in found], ensure_ascii=False))
        return
    for place, r in enumerate(found, 1):
        print(f"{place:>3}  {r.score:8.3f}  {r.title}  [{r.item_id}]")


@app.command("settings")
def settings_command(
    section: Annotated[str, typer.Argument(help="Show one section only.")] = "", as_json: Json = False
) -> None:
    """Show every setting of a recipe with its default and what it means."""
    rows = [row for row in settings(Recipe()) if row[0].startswith(section)]
    if not rows:
        known = {key.partition(".")[0] for key, *_ in settings(Recipe())}
        raise ConfigError(f"no such section{closest(section, known)}", value=section, accepted=", ".join(sorted(known)))
    if as_json:
        print(json.dumps([dict(zip(("setting", "default", "meaning"), r, strict=True)) for r in rows], default=str))
        return
    table = Table("setting", "default", "meaning", show_lines=False)
    for key, value, text in rows:
        table.add_row(key, _plain(value), text)
    _print(table)


@app.command("list")
def list_command(seam: Annotated[str, typer.Argument(help="One kind only.")] = "", as_json: Json = False) -> None:
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
        raise ConfigError(f"unknown {what}{closest(value, known)}", value=value, accepted=", ".join(known))


def _print_settings(recipe: Recipe, origin: dict[str, str], as_json: bool) -> None:
    if as_json:
        rows = {key: {"value": value, "from": origin[key]} for key, value, _ in settings(recipe)}
        print(json.dumps(rows, default=str))
        return
    table = Table("setting", "value", "from")
    for key, value, _ in settings(recipe):
        given = origin[key] != "default"
        table.add_row(key, _plain(value), origin[key], style="bold" if given else "dim")
    _print(table)


def _plain(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False) if value is not None else "–"


def _print(table: Table) -> None:
    Console(highlight=False).print(table)
