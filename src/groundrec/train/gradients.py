"""How the gradients of a training are distributed, for whoever watches them.

They are counted where they are, and only the counts come to the CPU. Knows nothing about who
watches.
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
    """Tells each optimiser step's gradients, as clipped, before the step is made; not those held in
    pieces.
    """

    def __init__(self, *, in_pieces: bool) -> None:
        self._in_pieces = in_pieces
        self._said = False

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        report_gradients(state.global_step + 1, lambda: self._measure(model))

    def _measure(self, model: torch.nn.Module) -> dict[str, Histogram]:
        if not self._in_pieces:
            return {
                name: histogram(p.grad)
                for name, p in model.named_parameters()
                if p.grad is not None
            }
        if not self._said:
            log.warning("  gradients are not shown: FSDP and DeepSpeed hold them in pieces")
        self._said = True
        return {}


@torch.no_grad()
def histogram(values: torch.Tensor) -> Histogram:
    """Return how many of the finite values lie between equally distant edges from the least to the
    greatest.
    """
    finite = values.detach().float().flatten()
    if not finite.isfinite().all():
        finite = finite[finite.isfinite()]
    if not len(finite):
        return [0], [0.0, 1.0]
    low, high = (float(end) for end in finite.aminmax())
    if low == high:
        low = low - 0.5
        high = high + 0.5
    return finite.histc(BINS, low, high).tolist(), np.linspace(low, high, BINS + 1).tolist()
