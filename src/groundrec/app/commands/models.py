"""The commands `groundrec models`: base models of the hubs fetched, listed and checked.

Knows nothing about how a hub is asked.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from groundrec.core.errors import ArtifactError, ConfigError
from groundrec.core.track import log_to

if TYPE_CHECKING:
    from groundrec.models.hubs import Pinned

__all__ = ["app"]

app = typer.Typer(
    help="Base models of the hubs on this machine: get, list, check.", no_args_is_help=True
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


@app.command()
def get(
    name: Annotated[
        str,
        typer.Argument(
            help=(
                "hf:ORG/NAME or modelscope:ORG/NAME, perhaps with @REVISION; or"
                " wandb:ENTITY/PROJECT/NAME:vN."
            )
        ),
    ],
    weights: Annotated[
        str,
        typer.Option(
            help="`safetensors`, or `any`: also pickled weights where there are no others."
        ),
    ] = "safetensors",
    newest: Annotated[
        bool,
        typer.Option(
            "--newest", help="Ask the hub again, and move the name to its newest revision."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch a base model, or go on fetching it; the name then means this revision, without a
    connection.
    """
    from groundrec.models.hubs import fetch

    log_to(None, quiet=as_json)
    if weights not in ("safetensors", "any"):
        raise ConfigError("no such kind of weights", value=weights, accepted="safetensors, any")
    model = fetch(name, weights, newest=newest, thorough=True)
    print(json.dumps(_facts(model)) if as_json else model.path)


@app.command("list")
def list_command(as_json: Json = False) -> None:
    """List the base models that were fetched, with revision and size."""
    from groundrec.models.hubs import pinned

    found = [_facts(model) for model in pinned()]
    if as_json:
        print(json.dumps(found))
        return
    table = Table("model", "revision", "size", "state")
    for facts in found:
        state = "whole" if facts["whole"] else "incomplete: groundrec models get"
        table.add_row(
            facts["name"], facts["revision"][:12], f"{facts['bytes'] / 1e6:,.1f} MB", state
        )
    Console(highlight=False).print(
        table if found else "no models yet: groundrec models get hf:ORG/NAME"
    )


@app.command()
def check(
    name: Annotated[str | None, typer.Argument(help="One model only.")] = None,
    as_json: Json = False,
) -> None:
    """Read every file of the fetched models, and say what is missing or has changed; exit with 1
    where something is.
    """
    from groundrec.models.hubs import pinned

    models = [_fetched(name)] if name else pinned()
    faults = {model.name: list(model.faults()) for model in models}
    if as_json:
        print(json.dumps(faults))
    else:
        for model in models:
            print(
                f"{model.name}: "
                + ("; ".join(faults[model.name]) or f"all {len(model.files)} files are as fetched")
            )
    if any(faults.values()):
        sys.exit(1)


def _fetched(name: str) -> Pinned:
    from groundrec.models.hubs import parse, pinned

    parse(name)
    found = [model for model in pinned() if model.name == name]
    if not found:
        raise ArtifactError(
            "this model was not fetched",
            value=name,
            accepted=", ".join(model.name for model in pinned()) or "no model yet",
            next_step=f"groundrec models get {name}",
        )
    return found[0]


def _facts(model: Pinned) -> dict[str, Any]:
    return {
        "name": model.name,
        "revision": model.revision,
        "contents": model.contents,
        "bytes": model.size,
        "files": len(model.files),
        "path": str(Path(model.path)),
        "whole": model.is_whole(),
    }
