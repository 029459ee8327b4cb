"""Where a training starts: its own last complete checkpoint, another run's, or weights only.

Another run's checkpoint is copied to the checkpoints of the new training, which then resumes as if
it had been interrupted there. Knows nothing about how weights are trained, nor about the settings
that two runs must share.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from groundrec.core.errors import ConfigError
from groundrec.core.files import read_json, write_json
from groundrec.core.inputs import step_folder
from groundrec.core.processes import Processes
from groundrec.core.track import log
from groundrec.models.adapters import FILES as ADAPTERS
from groundrec.models.hubs import fetch

__all__ = [
    "ADAPTERS",
    "COMPLETE",
    "StartPoint",
    "copy_checkpoint",
    "find_start",
    "find_weights",
    "last_complete_checkpoint",
    "trained_epochs",
]

COMPLETE = "whole.json"
"""Written into a checkpoint last."""
STATE = "trainer_state.json"
BEST = "best_model_checkpoint"


@dataclass(frozen=True)
class StartPoint:
    """What `train.resume_from` names: a run's checkpoint, adapters, or the weights of a model."""

    kind: Literal["checkpoint", "adapters", "model"]
    path: Path
    weights: str = "safetensors"
    """Which weights are read, as in `model.weights`."""

    @property
    def stage(self) -> Path:
        """The folder of the stage that wrote a checkpoint."""
        return self.path.parent.parent

    def contents(self) -> list[list[str]]:
        """Return the name and the digest of each file that is read."""
        files = [
            p
            for p in sorted(self.path.iterdir())
            if p.suffix in (".safetensors", ".bin", ".pt", ".json")
        ]
        return [[p.name, _sha256(p)] for p in files if p.name != "manifest.json"]


def find_start(path: Path, weights: str = "safetensors") -> StartPoint:
    """Return what training can start from in a folder; raise `ConfigError` where it has nothing.

    A run directory stands for its last complete checkpoint, or for its model where it keeps none.
    `wandb:…` stands for the files of an artifact, downloaded unless they are here already.
    """
    if str(path).startswith("wandb:"):
        return find_start(Path(fetch(str(path), weights).path), weights)
    stage = step_folder(path, "train")
    if (stage / "inputs.json").is_file():
        return find_start(_last(stage / "checkpoints") or stage, weights)
    if (path / COMPLETE).is_file() and (path.parent.parent / "inputs.json").is_file():
        return StartPoint("checkpoint", path, weights)
    return _weights_in(path, weights)


def find_weights(path: Path, weights: str = "safetensors") -> StartPoint:
    """Return the weights in a folder, as `find_start` does; of a run, its trained model's."""
    if str(path).startswith("wandb:"):
        return find_weights(Path(fetch(str(path), weights).path), weights)
    stage = step_folder(path, "train")
    return _weights_in(stage if (stage / "inputs.json").is_file() else path, weights)


def _weights_in(path: Path, weights: str) -> StartPoint:
    if any((path / name).is_file() for name in ADAPTERS):
        return StartPoint("adapters", path, weights)
    if (path / "config.json").is_file() and any(path.glob("*model*")):
        return StartPoint("model", path, weights)
    raise ConfigError(
        "train.resume_from names nothing to start from",
        value=path,
        accepted=(
            f"a run directory, one of its checkpoints, a folder with {ADAPTERS[0]} or with a model,"
            " or wandb:ENTITY/PROJECT/NAME:vN"
        ),
        next_step="groundrec runs",
    )


def last_complete_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint; the main process removes incomplete newer ones."""
    last = _last(folder)
    for path in _checkpoints(folder):
        if path == last:
            break
        if Processes.of().is_main:
            log.warning(f"  {path.name} is incomplete: removed, the one before it is used")
            shutil.rmtree(path)
    return last


def copy_checkpoint(source: Path, folder: Path) -> Path:
    """Copy a checkpoint, and the best one beside it, to the checkpoints of a training in `folder`.

    Return the copy.
    """
    state: dict[str, Any] = json.loads((source / STATE).read_text(encoding="utf-8"))
    best = source.parent / Path(state[BEST]).name if state.get(BEST) else None
    if best and (best / COMPLETE).is_file():
        state[BEST] = str(folder / best.name)
        state_of_best = json.loads((best / STATE).read_text(encoding="utf-8"))
        _copy(best, folder, {**state_of_best, BEST: state[BEST]})
    else:
        state |= {BEST: None, "best_metric": None, "best_global_step": None}
    return _copy(source, folder, state)


def trained_epochs(checkpoint: Path) -> float:
    """Return how many epochs were trained before a checkpoint."""
    return float(read_json(checkpoint / STATE)["epoch"])


def _copy(source: Path, folder: Path, state: dict[str, Any]) -> Path:
    """Copy all or nothing, without the averaged weights, which belong to one training only."""
    copy = folder / source.name
    part = folder / f".{source.name}"
    if not copy.exists():
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part, ignore=shutil.ignore_patterns("mean.safetensors"))
        write_json(part / STATE, state)
        part.rename(copy)
    return copy


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, newest first."""
    return sorted(
        folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]), reverse=True
    )


def _last(folder: Path) -> Path | None:
    return next((path for path in _checkpoints(folder) if (path / COMPLETE).is_file()), None)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
