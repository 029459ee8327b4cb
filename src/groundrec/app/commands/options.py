"""Arguments and options that several commands share, and the check of a choice.

Knows nothing about what commands do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from groundrec.core.errors import ConfigError, did_you_mean

__all__ = [
    "After",
    "Bootstrap",
    "Dataset",
    "Detach",
    "Grid",
    "History",
    "IfExistsOption",
    "Json",
    "MaxParallel",
    "Overwrite",
    "Quiet",
    "RecipeFile",
    "Root",
    "RunDir",
    "RunName",
    "RunNames",
    "Set",
    "TrainedRun",
    "check_choice",
    "options_given",
]

RecipeFile = Annotated[
    Path, typer.Argument(help="A recipe: a TOML file, or a name from `groundrec recipes list`.")
]
TrainedRun = Annotated[Path, typer.Argument(help="A run directory whose training has finished.")]
RunName = Annotated[
    str, typer.Argument(help="A run directory, its name below the root, or the name of a sweep.")
]
RunNames = Annotated[
    list[str],
    typer.Argument(help="Run directories, their names below the root, or the names of sweeps."),
]
Dataset = Annotated[Path, typer.Argument(help="A prepared data set, or a run directory.")]
History = Annotated[
    list[str], typer.Argument(help="Titles or item ids of the catalogue, oldest first.")
]

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.SETTING=VALUE", help="Override a setting; repeatable."),
]
RunDir = Annotated[Path | None, typer.Option(help="Where to write. Default: `runs/<name>`.")]
IfExistsOption = Annotated[
    str,
    typer.Option(
        help=(
            "What to do if the directory already holds a run: `resume` it, start a `new` one in"
            " another directory, or `fail`."
        )
    ),
]
Detach = Annotated[
    bool,
    typer.Option(
        "--detach",
        help="Run in the background, even after this terminal closes; see `groundrec runs`.",
    ),
]
After = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RUN", help="With --detach: start after this run has finished; repeatable."
    ),
]
MaxParallel = Annotated[
    int | None,
    typer.Option(min=1, help="With --detach: wait while this many detached runs are running."),
]
Grid = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SECTION.SETTING=VALUE,VALUE",
        help="With --detach: one run per value, or per combination of values; repeatable.",
    ),
]
Root = Annotated[
    Path,
    typer.Option("--root", help="The folder that holds the run directories.", show_default=True),
]
Bootstrap = Annotated[
    int, typer.Option(min=0, help="Number of bootstrap samples for each 95% interval.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is already in the output folder.")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="Print only errors; a run's log file has the rest.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def check_choice(what: str, value: str, accepted: Sequence[str]) -> None:
    """Raise `ConfigError` unless `value` is one of those accepted."""
    if value not in accepted:
        raise ConfigError(
            f"unknown {what}{did_you_mean(value, accepted)}",
            value=value,
            accepted=", ".join(accepted),
        )


def options_given(context: typer.Context) -> Iterator[tuple[str, str]]:
    """Yield the parameters given on the command line: each one's name and how it is written."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        # By name: typer and click may each have a class of this enumeration.
        if source is not None and source.name == "COMMANDLINE":
            yield name, parameter.opts[0]
