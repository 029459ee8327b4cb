"""Recipe section for experiment tracking."""

from __future__ import annotations

from typing import Literal

from groundrec.core.config import Section, setting

__all__ = ["Track"]


class Track(Section):
    """Where a running run's metrics are shown besides `metrics.jsonl`. No stage depends on it."""

    board: Literal["none", "wandb", "tensorboard", "trackio"] = setting(
        (),
        default="none",
        description=(
            "Also show metrics in `wandb`, `tensorboard` or `trackio`, through its own client. A"
            " failing board never stops a run."
        ),
    )
    mode: Literal["online", "offline", "disabled"] = setting(
        (),
        default="offline",
        description=(
            "`online` sends to wandb's server, which requires a login; `offline` keeps the files"
            " in the run directory, for `groundrec track sync`; `disabled` shows nothing."
            " TensorBoard and Trackio stay in the run directory in any case."
        ),
    )
    project: str = setting(
        (),
        default="groundrec",
        min_length=1,
        description="Name of the project in wandb and Trackio.",
    )
    watch: int = setting(
        (),
        default=0,
        ge=0,
        description=(
            "Interval, in optimiser steps of the fine-tuning, at which the board shows the gradient"
            " distribution of each trained weight; 0 never shows it. Requires a board."
        ),
    )
    model: bool = setting(
        (),
        default=False,
        description=(
            "Also log the trained model to wandb as the artifact `NAME-model`, where NAME is the"
            " recipe's name. Each run adds a version, which `train.resume_from` accepts as"
            " `wandb:ENTITY/PROJECT/NAME-model:v0`. Requires wandb as the board."
        ),
    )
