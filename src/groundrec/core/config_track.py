"""The section of a recipe that says where else its numbers are shown."""

from __future__ import annotations

from typing import Literal

from groundrec.core.config import Section, setting

__all__ = ["Track"]


class Track(Section):
    """Where the numbers of a run are shown while it works, beside `metrics.jsonl`. No stage depends
    on it.
    """

    board: Literal["none", "wandb", "tensorboard", "trackio"] = setting(
        (),
        default="none",
        description=(
            "`wandb`, `tensorboard` or `trackio`, whose own client is then used; a board that fails"
            " never stops a run."
        ),
    )
    mode: Literal["online", "offline", "disabled"] = setting(
        (),
        default="offline",
        description=(
            "`online` sends to wandb's server, which needs a login; `offline` keeps the files in"
            " the run directory, for `groundrec track sync`; `disabled` shows nothing. TensorBoard"
            " and Trackio stay in the run directory either way."
        ),
    )
    project: str = setting(
        (), default="groundrec", min_length=1, description="The project on wandb and Trackio."
    )
    watch: int = setting(
        (),
        default=0,
        ge=0,
        description=(
            "Every so many optimiser steps of the fine-tuning, the board shows how the gradient of"
            " each trained weight is distributed; 0: never. Needs a board."
        ),
    )
    model: bool = setting(
        (),
        default=False,
        description=(
            "Also give wandb the trained model, as the artifact `NAME-model` of the recipe's name;"
            " each run is a version of it, which `train.resume_from` takes as"
            " `wandb:ENTITY/PROJECT/NAME-model:v0`. Needs wandb as the board."
        ),
    )
