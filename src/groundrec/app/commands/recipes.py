"""The commands `groundrec recipes`: packaged recipes listed, shown, and copied to be edited.

Knows nothing about what a recipe's settings mean.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from groundrec.core.errors import ConfigError, did_you_mean
from groundrec.core.recipe import load_recipe
from groundrec.core.recipe_files import packaged_files

__all__ = ["app"]

ACCELERATE = ".yaml"
"""Suffix of the settings for `accelerate launch --config_file`, packaged beside the recipes."""
Name = Annotated[str, typer.Argument(help="A name from `groundrec recipes list`.")]

app = typer.Typer(
    help="Packaged recipes and settings for accelerate: list, show, copy.", no_args_is_help=True
)


@app.command("list")
def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the packaged recipes, each with the first line of its description."""
    rows = {name: _summary(path) for name, path in _files().items()}
    if as_json:
        print(json.dumps([{"name": name, "about": about} for name, about in rows.items()]))
        return
    width = max(map(len, rows))
    for name, about in rows.items():
        print(f"{name:<{width}}  {about}")


@app.command()
def show(name: Name) -> None:
    """Print a packaged recipe."""
    print(_file_of(name).read_text(encoding="utf-8"), end="")


@app.command()
def copy(
    name: Name,
    to: Annotated[
        str, typer.Option(help="File or folder to write; the current folder when left out.")
    ] = ".",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.")
    ] = False,
) -> None:
    """Copy a packaged recipe into the current folder, to be edited."""
    source = _file_of(name)
    path = Path(to, source.name) if to.endswith("/") or Path(to).is_dir() else Path(to)
    if path.exists() and not (overwrite and path.is_file()):
        raise ConfigError(
            "the file exists",
            value=path,
            accepted="a new file, or --overwrite",
            next_step=f"groundrec recipes copy {name} --to OTHER{source.suffix}",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(source.read_bytes())
    print(f"wrote {path}; edit it, then:")
    file = shlex.quote(str(path))
    if source.suffix == ACCELERATE:
        print(f"  accelerate launch --config_file {file} -m groundrec run RECIPE")
    else:
        print(f"  groundrec run {file}")


def _files() -> dict[str, Path]:
    return packaged_files() | packaged_files(ACCELERATE)


def _file_of(name: str) -> Path:
    files = _files()
    if name not in files:
        raise ConfigError(
            f"no such packaged recipe{did_you_mean(name, files)}",
            value=name,
            accepted=", ".join(files),
            next_step="groundrec recipes list",
        )
    return files[name]


def _summary(path: Path) -> str:
    """Return the first line of a recipe's `about`, or of a YAML file's opening comment."""
    if path.suffix == ACCELERATE:
        return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    return load_recipe(path)[0].about.strip().partition("\n")[0]
