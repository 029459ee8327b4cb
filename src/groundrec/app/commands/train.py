"""`groundrec train`: a recipe up to its training, or the training command of published code.

Knows nothing about what the published flags mean; `published_flags` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

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
    options_given,
)
from groundrec.app.commands.run import RunOptions, start
from groundrec.app.commands.settings_table import print_settings
from groundrec.core.errors import ConfigError, did_you_mean
from groundrec.core.recipe import load_recipe
from groundrec.core.track import log, log_to

__all__ = ["PUBLISHED_FLAGS", "train"]

PUBLISHED_FLAGS = (
    "base_model",
    "train_data_path",
    "val_data_path",
    "test_data_path",
    "train_file",
    "eval_file",
    "output_dir",
    "resume_from_checkpoint",
    "seed",
    "sample",
    "batch_size",
    "micro_batch_size",
    "num_epochs",
    "learning_rate",
    "cutoff_len",
    "train_on_inputs",
    "group_by_length",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
)
"""Flags of BIGRec's, D3's and alpaca-lora's train.py that mean something here."""
BOTH_FORMS = "groundrec train RECIPE, or groundrec train --base_model … --train_data_path …"
HELP = f"""Train the model of RECIPE, or train with the flags of BIGRec's or D3's train.py.

With a recipe, run its stages up to training. This is `groundrec run RECIPE
--until train`, and takes the same options.

    groundrec train demo --set train.epochs=3

With the flags of the published code, write a recipe and import the data
files next to --output_dir, and train; --dry-run prints the recipe instead.

    groundrec train --base_model hf:ORG/NAME --output_dir runs/mine
      --train_data_path data/train.json --val_data_path data/valid.json

Flags it understands: {", ".join(f"--{flag}" for flag in PUBLISHED_FLAGS)}.
The two forms cannot be mixed.
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
        _refuse_options(context)
        _train_by_flags(arguments, dry_run=dry_run)
    else:
        _refuse_flags(arguments, context)
        start(Path(arguments[0]), options)


train.__doc__ = HELP


def _train_by_flags(arguments: Sequence[str], *, dry_run: bool) -> None:
    from groundrec.app.commands.published_flags import parse_flags, write_recipe

    parsed = parse_flags(arguments)
    if dry_run:
        assignments = [f"{key}={value}" for key, value in parsed.settings.items()]
        print_settings(*load_recipe(None, assignments), as_json=False)
        return
    log_to(None)
    file = write_recipe(parsed)
    log.info(f"groundrec train {file} --run-dir {parsed.out}")
    if_exists = "resume" if parsed.resume else "fail"
    start(file, RunOptions(run_dir=parsed.out, if_exists=if_exists, until="train"))


def _refuse_options(context: typer.Context) -> None:
    """Raise `ConfigError` if options for recipes come with the flags of published code."""
    for name, option in options_given(context):
        if name not in ("recipe", "dry_run"):
            raise ConfigError(
                "options for a recipe do not mix with the flags of published code",
                value=option,
                accepted=BOTH_FORMS,
                next_step="--dry-run with the flags, or a recipe with the options",
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
