"""What a training may start from: the run that it names, and the settings both must share.

Knows nothing about how checkpoints are written or read.
"""

from __future__ import annotations

from pathlib import Path

from groundrec.core.errors import ConfigError
from groundrec.core.files import read_json
from groundrec.core.inputs import Inputs, as_recorded, difference, plain, step_folder
from groundrec.core.recipe import Recipe
from groundrec.train.start import StartPoint, find_start, find_weights, trained_epochs

__all__ = ["start_point"]

FREE = (
    *("resume_from", "epochs", "learning_rate", "schedule", "warmup_steps", "weight_decay"),
    *("patience", "average", "select", "validation_queries", "precision"),
    *("gradient_checkpointing", "micro_batch_size", "lora_dropout"),
)
"""Settings of [train] that may change when a checkpoint is resumed: none of them changes which
examples a step sees.
"""


def start_point(recipe: Recipe, run: Path, inputs: Inputs) -> StartPoint | None:
    """Return where the training of a run with these inputs starts; None for its base model.

    Raises `ConfigError` where `train.resume_from` names nothing, the run itself, or a checkpoint
    that cannot be resumed with these settings.
    """
    path = recipe.train.resume_from
    if path is None:
        return None
    find = find_weights if recipe.train.method == "none" else find_start
    start = find(path, recipe.model.weights)
    own = step_folder(run, "train").resolve()
    if own in (start.path.resolve(), *start.path.resolve().parents):
        raise ConfigError(
            "a training cannot start from its own run, whose model is removed first",
            value=path,
            accepted="another run directory for the new model",
            next_step=f"--run-dir {run}-2",
        )
    if start.kind == "checkpoint":
        _require_same_steps(start, recipe.train.epochs, inputs)
    elif start.kind == "adapters" and recipe.train.method == "full":
        raise ConfigError(
            "there are only adapters to start from, and train.method = full has none",
            value=start.path,
            accepted="train.method = lora",
            next_step="--set train.method=lora",
        )
    return start


def _require_same_steps(start: StartPoint, epochs: float, inputs: Inputs) -> None:
    """Raise `ConfigError` unless the checkpoint's steps mean the same here, and some are left."""
    before = as_recorded(read_json(start.stage / "inputs.json"), plain(inputs))
    weights_alone = (
        f"--set train.resume_from={start.stage}, once that training has finished: its weights alone"
    )
    if reason := difference(_shared(before), _shared(inputs)):
        raise ConfigError(
            f"the steps of this checkpoint mean something else here: {reason}",
            value=start.path,
            accepted=f"the same settings except {', '.join(FREE[1:])}",
            next_step=weights_alone,
        )
    done = trained_epochs(start.path)
    if done >= epochs:
        raise ConfigError(
            "nothing is left to train: train.epochs counts the epochs before the checkpoint too",
            value=f"{done:g} epochs in {start.path}, train.epochs = {epochs:g}",
            accepted=f"more than {done:g}",
            next_step=f"--set train.epochs={done + epochs:g}, or {weights_alone}",
        )


def _shared(inputs: Inputs) -> Inputs:
    """Return inputs of a training without those that may change."""
    train = {key: value for key, value in inputs["train"].items() if key not in FREE}
    free = ("start", "recommend", "files")
    return {**{key: value for key, value in inputs.items() if key not in free}, "train": train}
