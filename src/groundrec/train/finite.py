"""A loss that is no number ends a training before anything is logged or saved behind it.

Losses stay where they were computed until the Trainer reads numbers anyway, so that no batch waits
for a GPU. Knows nothing about what is trained.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import TrainerCallback

from groundrec.core.errors import TrainingError

__all__ = ["FiniteLoss", "require_finite"]


class FiniteLoss(TrainerCallback):
    """Looks at the losses it saw before a log, a checkpoint and the end of an epoch; raises
    `TrainingError`.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[int, float, torch.Tensor]] = []

    def record(self, loss: torch.Tensor, state: Any) -> None:
        """Keep the loss of a micro batch of the step that is being made."""
        self._seen.append((state.global_step + 1, state.epoch or 0, loss.detach()))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_log or control.should_save:
            self._check(args)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._check(args)

    def _check(self, args: Any) -> None:
        seen = self._seen
        self._seen = []
        values = torch.stack([loss for *_, loss in seen]).tolist() if seen else []
        for (step, epoch, _), value in zip(seen, values, strict=True):
            require_finite(value, f"the batch of step {step}", epoch, args)


def require_finite(loss: float, where: str, epoch: float, args: Any) -> None:
    """Raise `TrainingError` for a loss that is no number, with the rate to try instead of that of
    `args`.
    """
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is no number any more: {where}, epoch {epoch:.2f}",
            value=loss,
            accepted="a finite loss; the checkpoints before it are kept",
            next_step=(
                f"--set train.learning_rate={args.learning_rate / 3:.0e}, or more"
                " train.warmup_steps"
            ),
        )
