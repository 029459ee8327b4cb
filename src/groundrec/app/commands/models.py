"""The commands `groundrec models`: base models from hubs, downloaded, listed and checked.

Knows nothing about how a hub is asked.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from groundrec.app.commands.options import Json, check_choice
from groundrec.app.commands.terminal import print_next, print_table
from groundrec.core.errors import ArtifactError
from groundrec.core.track import log_to

if TYPE_CHECKING:
    from groundrec.models.hubs import Pinned

__all__ = ["app"]

app = typer.Typer(help="Download, list and check base models from the hubs.", no_args_is_help=True)


class ModelFacts(TypedDict):
    """What `--json` prints about one downloaded model."""

    name: str
    revision: str
    contents: str
    bytes: int
    files: int
    path: str
    whole: bool


@app.command()
def get(
    name: Annotated[
        str,
        typer.Argument(
            help=(
                "hf:ORG/NAME or modelscope:ORG/NAME, optionally with @REVISION; or"
                " wandb:ENTITY/PROJECT/NAME:vN."
            )
        ),
    ],
    weights: Annotated[
        str,
        typer.Option(
            help="`safetensors`, or `any` to accept pickled weights if there are no others."
        ),
    ] = "safetensors",
    newest: Annotated[
        bool,
        typer.Option("--newest", help="Pin the name to the hub's newest revision."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Download the base model NAME, or resume; from then on NAME is pinned to this revision."""
    from groundrec.models.hubs import fetch

    log_to(None, quiet=as_json)
    check_choice("--weights", weights, ("safetensors", "any"))
    model = fetch(name, weights, newest=newest, thorough=True)
    print(json.dumps(_facts(model)) if as_json else model.path)
    if not as_json:
        print_next("new", "my-recipe", "--model", name)


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the downloaded base models with revision and size."""
    from groundrec.models.hubs import pinned

    models = [_facts(model) for model in pinned()]
    if as_json:
        print(json.dumps(models))
        return
    if not models:
        Console(highlight=False).print("no models yet: groundrec models get hf:ORG/NAME")
        return
    table = Table("model", "revision", "size", "state")
    for facts in models:
        state = "complete" if facts["whole"] else "incomplete: groundrec models get"
        size = f"{facts['bytes'] / 1e6:,.1f} MB"
        table.add_row(escape(facts["name"]), facts["revision"][:12], size, state)
    print_table(table)


@app.command()
def check(
    name: Annotated[str | None, typer.Argument(help="Check this model only.")] = None,
    as_json: Json = False,
) -> None:
    """Check every file of the downloaded models, or of NAME; exit with 1 if one is damaged.

    Missing and changed files are listed.
    """
    from groundrec.models.hubs import pinned

    models = [_downloaded(name)] if name else pinned()
    faults = {model.name: list(model.faults()) for model in models}
    if as_json:
        print(json.dumps(faults))
    else:
        for model in models:
            well = f"all {len(model.files)} files are as downloaded"
            print(f"{model.name}: {'; '.join(faults[model.name]) or well}")
    if any(faults.values()):
        sys.exit(1)


def _downloaded(name: str) -> Pinned:
    from groundrec.models.hubs import parse, pinned

    parse(name)
    models = {model.name: model for model in pinned()}
    if name not in models:
        raise ArtifactError(
            "this model was not downloaded",
            value=name,
            accepted=", ".join(models) or "no model yet",
            next_step=f"groundrec models get {name}",
        )
    return models[name]


def _facts(model: Pinned) -> ModelFacts:
    return {
        "name": model.name,
        "revision": model.revision,
        "contents": model.contents,
        "bytes": model.size,
        "files": len(model.files),
        "path": str(Path(model.path)),
        "whole": model.is_whole(),
    }
