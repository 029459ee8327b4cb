"""The command line: every command registered under its name.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
from typing import Annotated

import typer

from groundrec import __version__
from groundrec.app.commands import data_commands
from groundrec.app.commands.compare import compare_command
from groundrec.app.commands.doctor import doctor
from groundrec.app.commands.evaluate import evaluate
from groundrec.app.commands.explain import explain_setting
from groundrec.app.commands.explain_item import explain_item
from groundrec.app.commands.inference import inference
from groundrec.app.commands.language_option import give_every_command_its_language
from groundrec.app.commands.models import app as models_app
from groundrec.app.commands.new import new
from groundrec.app.commands.options import Json, check_choice
from groundrec.app.commands.recipes import app as recipes_app
from groundrec.app.commands.recommend import recommend
from groundrec.app.commands.run import run
from groundrec.app.commands.runs import app as runs_app
from groundrec.app.commands.settings_table import settings_command
from groundrec.app.commands.tokenize import tokenize
from groundrec.app.commands.track import app as track_app
from groundrec.app.commands.train import train
from groundrec.core.errors import GroundrecError
from groundrec.core.language import choose_language, localize_error, use_language
from groundrec.core.registry import BUILT_IN, names

__all__ = ["app", "main"]

COLLECT_AFTER = 100_000
FLAGS_PASS = {"ignore_unknown_options": True}
"""Flags that are not ours reach the command, which knows those of published code."""

app = typer.Typer(
    help="Turn a language model into a recommender whose every answer is a real catalogue item.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; print the user's errors without a traceback and exit with 2."""
    # Collecting garbage among modules, while they load and at the end, takes a third of a second.
    gc.set_threshold(COLLECT_AFTER)
    # Arrow's own allocator keeps what was freed: a tenth of what preparing data takes.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    atexit.register(gc.freeze)
    use_language(choose_language())
    try:
        app()
    except GroundrecError as error:
        print(localize_error(error), file=sys.stderr)
        sys.exit(2)


def list_command(
    seam: Annotated[str, typer.Argument(help=f"One kind only: {', '.join(BUILT_IN)}.")] = "",
    as_json: Json = False,
) -> None:
    """List the names that a recipe may use, of all seams or of SEAM, e.g. signals or metrics."""
    if seam:
        check_choice("seam", seam, tuple(BUILT_IN))
    known = {kind: names(kind) for kind in ([seam] if seam else BUILT_IN)}
    if as_json:
        print(json.dumps(known))
        return
    for kind, found in known.items():
        print(f"{kind:<12} {', '.join(found)}")


def version() -> None:
    """Print the version."""
    print(__version__)


app.command()(new)
app.command()(run)
app.command(context_settings=FLAGS_PASS)(train)
app.command(context_settings=FLAGS_PASS)(inference)
app.command(context_settings={**FLAGS_PASS, "allow_extra_args": True})(evaluate)
app.command()(recommend)
app.command("explain-item")(explain_item)
app.command()(data_commands.prepare)
app.command()(data_commands.export)
app.command("import")(data_commands.import_command)
app.command()(data_commands.card)
app.command("settings")(settings_command)
app.command("explain")(explain_setting)
app.command()(tokenize)
app.command("compare")(compare_command)
app.command()(doctor)
app.command("list")(list_command)
app.command()(version)
app.add_typer(recipes_app, name="recipes")
app.add_typer(runs_app, name="runs")
app.add_typer(models_app, name="models")
app.add_typer(track_app, name="track")
give_every_command_its_language(app)
