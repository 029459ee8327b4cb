"""`groundrec train`: a recipe up to its training, or the training command of published code.

Knows nothing about what the published flags mean; `published_flags` does.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from groundrec.app.commands.debug import DebugAttach, DebugRank
from groundrec.app.commands.options import (
    After,
    Detach,
    Grid,
    IfExistsOption,
    Json,
    MaxParallel,
    Quiet,
    RunDir,
    Set,
    check_choice,
    options_given,
)
from groundrec.app.commands.published_defaults import SCRIPTS
from groundrec.app.commands.published_flags import OWN, parse_flags
from groundrec.app.commands.published_train import (
    check,
    explain,
    help_lines,
    recipe_of,
    write_recipe,
)
from groundrec.app.commands.run import RunOptions, start
from groundrec.app.commands.settings_table import print_settings
from groundrec.core.errors import ConfigError, did_you_mean
from groundrec.core.processes import Processes
from groundrec.core.runs import IfExists
from groundrec.core.track import log, log_to

__all__ = ["PUBLISHED_FLAGS", "train"]

PUBLISHED_FLAGS = tuple(
    dict.fromkeys([*(word for script in SCRIPTS.values() for word in script.words), *OWN])
)
"""The words of BIGRec's and D3's train.py, and those that go with them here."""
BOTH_FORMS = "groundrec train RECIPE, or groundrec train --base_model … --train_data_path …"
HELP = f"""Train the model of RECIPE, or train with the words of BIGRec's or D3's train.py.

With a recipe, run its stages up to training. This is `groundrec run RECIPE
--until train`, and takes the same options.

    groundrec train demo --set train.epochs=3

With the words of a published script, import the data files once, into
imported-data/, write a recipe next to --output_dir, and train. Words left out
have that script's defaults. The same command continues what is half made.
--dry-run prints the settings instead; the other options work here too.

    groundrec train --base_model hf:ORG/NAME --output_dir runs/mine
      --train_data_path data/train.json --val_data_path data/valid.json

Each word, its default in the scripts, and the setting it decides:

{chr(10).join(help_lines())}
"""


def train(
    context: typer.Context,
    recipe: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE", help="A recipe, as for `groundrec run`. Omit it to use flags."
        ),
    ] = None,
    set_: Set = None,
    run_dir: RunDir = None,
    if_exists: IfExistsOption = "fail",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print every setting; import and train nothing.")
    ] = False,
    detach: Detach = False,
    after: After = None,
    max_parallel: MaxParallel = None,
    grid: Grid = None,
    quiet: Quiet = False,
    debug_attach: DebugAttach = None,
    debug_rank: DebugRank = None,
    as_json: Json = False,
) -> None:  # its docstring is HELP, which names the flags
    options = RunOptions(
        settings=tuple(set_ or ()),
        run_dir=run_dir,
        if_exists=if_exists,
        until="train",
        dry_run=dry_run,
        detach=detach,
        after=tuple(after or ()),
        max_parallel=max_parallel,
        grid=tuple(grid or ()),
        quiet=quiet,
        debug_attach=debug_attach,
        debug_rank=debug_rank,
        as_json=as_json,
    )
    arguments = recipe or []
    if not arguments:
        raise ConfigError(
            "nothing to train", accepted=BOTH_FORMS, next_step="groundrec train --help"
        )
    if arguments[0].startswith("-"):
        asked = if_exists if "if_exists" in dict(options_given(context)) else None
        _train_by_words(arguments, options, asked)
    else:
        _refuse_flags(arguments, context)
        start(Path(arguments[0]), options)


train.__doc__ = HELP


def _train_by_words(arguments: Sequence[str], options: RunOptions, asked: str | None) -> None:
    """Train as a published command asks; `asked` is what to do with an existing run."""
    if asked is not None:
        check_choice("--if-exists", asked, get_args(IfExists))
    log_to(None, quiet=options.quiet or options.as_json)
    parsed = parse_flags(arguments)
    if options.run_dir:
        parsed = parsed.at(options.run_dir)
    recipe, origin = recipe_of(parsed, options.settings)
    if not options.as_json and Processes.of().is_main:
        for line in explain(parsed, recipe):
            log.info(line)
    reuse = check(parsed, recipe, cast(IfExists | None, asked))
    if options.dry_run:
        print_settings(recipe, origin, as_json=options.as_json)
        return
    file = write_recipe(parsed)
    if Processes.of().is_main:
        overrides = "".join(f" --set {shlex.quote(text)}" for text in options.settings)
        log.info(f"as a recipe: groundrec train {file} --run-dir {parsed.out}{overrides}")
    start(
        file,
        replace(
            options,
            run_dir=parsed.out,
            if_exists=reuse,
            to_continue="the same command continues",
        ),
    )


def _refuse_flags(arguments: Sequence[str], context: typer.Context) -> None:
    """Raise `ConfigError` if anything but one recipe is given: flags, typos, a second recipe."""
    rest = arguments[1:]
    if not rest:
        return
    flag = next((word for word in rest if word.startswith("-")), "")
    name = flag.lstrip("-").partition("=")[0].replace("-", "_")
    if name in PUBLISHED_FLAGS:
        raise ConfigError(
            "a recipe does not mix with the flags of published code",
            value=f"{arguments[0]} {flag}",
            accepted=BOTH_FORMS,
            next_step=f"groundrec explain {name} names the setting to give with --set",
        )
    if flag:
        known = [option for parameter in context.command.params for option in parameter.opts]
        raise ConfigError(
            f"no such option{did_you_mean(flag, known)}",
            value=flag,
            accepted=", ".join(option for option in known if option.startswith("--")),
            next_step="groundrec train --help",
        )
    raise ConfigError(
        "one recipe at a time",
        value=" ".join(arguments),
        accepted="one TOML file; --grid for several runs of it",
        next_step=f"groundrec train {arguments[0]}",
    )
