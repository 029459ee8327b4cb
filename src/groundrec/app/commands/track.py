"""`groundrec track sync`: uploads the wandb data of offline runs, with wandb's own client.

Knows nothing about what was kept.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from groundrec.core.errors import ArtifactError, MissingDependency

__all__ = ["app"]

app = typer.Typer(help="Upload the offline data of tracking boards.", no_args_is_help=True)


@app.callback()
def track() -> None:
    """Upload the offline data of tracking boards."""


@app.command()
def sync(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories whose board was wandb, offline.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print wandb's command; upload nothing.")
    ] = False,
) -> None:
    """Upload the offline wandb data of RUNS to wandb's server, or your own (`WANDB_BASE_URL`)."""
    folders = [folder for run in runs for folder in _offline_folders(run)]
    command = ["-m", "wandb", "sync", *map(str, folders)]
    if dry_run:
        print(" ".join(["python", *command]))
        return
    if importlib.util.find_spec("wandb") is None:
        raise MissingDependency("wandb", "wandb")
    # Without a terminal wandb asks nothing: a missing login is an error instead of a question.
    done = subprocess.run([sys.executable, *command], check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ArtifactError(
            "wandb could not upload everything; its own message is above",
            value=", ".join(folder.name for folder in folders),
            accepted="a login, and a server that answers",
            next_step="wandb login; for a server of your own first export WANDB_BASE_URL=https://…",
        )


def _offline_folders(run: Path) -> list[Path]:
    """Return the folders wandb wrote for a run, oldest first; raise `ArtifactError` for none."""
    folders = sorted((run / "wandb").glob("offline-run-*"))
    if not folders:
        raise ArtifactError(
            "no offline data of wandb in this run",
            value=run,
            accepted=(
                'a run directory of a recipe with [track] board = "wandb" and mode = "offline"'
            ),
            next_step="groundrec run RECIPE --set track.board=wandb",
        )
    return folders
