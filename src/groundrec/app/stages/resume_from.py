"""What a training may go on from: the run it names, and the settings that both must share.

Knows nothing about how checkpoints are written or read.
"""

from __future__ import annotations

from typing import Any

from groundrec.app.stages.artefacts import Experiment
from groundrec.core.errors import ConfigError
from groundrec.core.runs import difference, read_json
from groundrec.train.start import StartPoint, find_start, find_weights, trained_epochs

__all__ = ["begun_at"]

FREE = (
    *(
        "resume_from",
        "epochs",
        "learning_rate",
        "schedule",
        "warmup_steps",
        "weight_decay",
        "patience",
        "average",
    ),
    *(
        "select",
        "validation_queries",
        "precision",
        "gradient_checkpointing",
        "micro_batch_size",
        "lora_dropout",
    ),
)
"""Settings of [train] that may change when a checkpoint goes on: those that move no step to another
example.
"""


def begun_at(x: Experiment, inputs: dict[str, Any]) -> StartPoint | None:
    """Return where the training of a run with these inputs begins; None for its base model.

    Raises `ConfigError` where there is nothing, where it is this run's own, or where a checkpoint
    cannot go on.
    """
    path = x.recipe.train.resume_from
    if path is None:
        return None
    found = find_weights if x.recipe.train.method == "none" else find_start
    start = found(path, x.recipe.model.weights)
    own = (x.run.path / "model").resolve()
    if own in (start.path.resolve(), *start.path.resolve().parents):
        raise ConfigError(
            "a training cannot go on from its own run: its model is removed before it begins anew",
            value=path,
            accepted="another run directory for what comes of it",
            next_step=f"--run-dir {x.run.path}-on",
        )
    if start.kind == "checkpoint":
        _require_going_on(start, x, inputs)
    elif start.kind == "adapters" and x.recipe.train.method == "full":
        raise ConfigError(
            "there are only adapters to start from, and train.method = full has none",
            value=start.path,
            accepted="train.method = lora",
            next_step="--set train.method=lora",
        )
    return start


def _require_going_on(start: StartPoint, x: Experiment, inputs: dict[str, Any]) -> None:
    before = read_json(start.stage / "inputs.json")
    differs = difference(_shared(before), _shared(inputs))
    weights_alone = (
        f"--set train.resume_from={start.stage}, once that training has finished: its weights alone"
    )
    if differs:
        raise ConfigError(
            f"this checkpoint's steps mean something else here: {differs}",
            value=start.path,
            accepted=f"the same settings but for {', '.join(FREE[1:])}",
            next_step=weights_alone,
        )
    if (done := trained_epochs(start.path)) >= (epochs := x.recipe.train.epochs):
        raise ConfigError(
            "nothing is left to train: train.epochs counts those before the checkpoint too",
            value=f"{done:g} epochs in {start.path}, train.epochs = {epochs:g}",
            accepted=f"more than {done:g}",
            next_step=f"--set train.epochs={done + epochs:g}, or {weights_alone}",
        )


def _shared(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return inputs of a training without those that may change."""
    train = {key: value for key, value in inputs["train"].items() if key not in FREE}
    return {**{key: value for key, value in inputs.items() if key != "from"}, "train": train}
