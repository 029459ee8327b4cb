"""Histograms of the gradients of a training, for a board.

Values are counted on their device, and only the counts come to the CPU. Knows nothing about boards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from groundrec.core.track import Histogram, log, report_gradients

__all__ = ["GradientHistograms", "histogram"]

BINS = 64


class GradientHistograms(TrainerCallback):
    """Reports the clipped gradients of a step before it is made; those of whole models only."""

    def __init__(self, *, is_sharded: bool) -> None:
        self._is_sharded = is_sharded
        self._has_warned = False

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        report_gradients(state.global_step + 1, lambda: self._measure(model))

    def _measure(self, model: torch.nn.Module) -> dict[str, Histogram]:
        if not self._is_sharded:
            gradients = {name: weight.grad for name, weight in model.named_parameters()}
            return {name: histogram(g) for name, g in gradients.items() if g is not None}
        if not self._has_warned:
            log.warning("  gradients are not shown: FSDP and DeepSpeed shard them")
        self._has_warned = True
        return {}


@torch.no_grad()
def histogram(values: torch.Tensor) -> Histogram:
    """Return the counts of the finite values in equal bins from minimum to maximum, and edges."""
    finite = values.detach().float().flatten()
    if not finite.isfinite().all():
        finite = finite[finite.isfinite()]
    if not len(finite):
        return [0], [0.0, 1.0]
    low, high = (float(end) for end in finite.aminmax())
    if low == high:
        low -= 0.5
        high += 0.5
    return finite.histc(BINS, low, high).tolist(), np.linspace(low, high, BINS + 1).tolist()
