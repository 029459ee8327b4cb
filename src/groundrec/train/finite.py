"""A loss that becomes NaN or infinite ends training before anything is logged or saved.

Losses stay on the device until the Trainer reads numbers anyway, so that no batch waits for a GPU.
Knows nothing about what is trained.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import TrainerCallback

from groundrec.core.errors import TrainingError

__all__ = ["FiniteLoss", "require_finite"]


class FiniteLoss(TrainerCallback):
    """Checks the recorded losses before a log, a checkpoint and the end of an epoch."""

    def __init__(self) -> None:
        self._recorded: list[tuple[int, float, torch.Tensor]] = []

    def record(self, loss: torch.Tensor, state: Any) -> None:
        """Keep the loss of a micro batch of the current step."""
        self._recorded.append((state.global_step + 1, state.epoch or 0, loss.detach()))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_log or control.should_save:
            self._check(args)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._check(args)

    def _check(self, args: Any) -> None:
        recorded = self._recorded
        self._recorded = []
        if not recorded:
            return
        # One read for all losses: each read waits for the device.
        values = torch.stack([loss for *_, loss in recorded]).tolist()
        for (step, epoch, _), value in zip(recorded, values, strict=True):
            require_finite(value, f"the batch of step {step}", epoch, args)


def require_finite(loss: float, batch: str, epoch: float, args: Any) -> None:
    """Raise `TrainingError` unless the loss of a batch is finite."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss became NaN or infinite: {batch}, epoch {epoch:.2f}",
            value=loss,
            accepted="a finite loss; earlier checkpoints are kept",
            next_step=(
                f"--set train.learning_rate={args.learning_rate / 3:.0e}, or more"
                " train.warmup_steps"
            ),
        )
