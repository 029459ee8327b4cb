"""Which layers of a model see how far back: attention masks made once for each kind of layer.

Knows nothing about what is masked, or why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["additive", "for_layers"]

Mask = TypeVar("Mask")
WINDOW, FULL = "sliding_attention", "full_attention"


def for_layers(model: PreTrainedModel, mask: Callable[[int | None], Mask]) -> Mask | dict[str, Mask]:
    """Return `mask(window)` where all layers see equally far (None: everything), else one for each kind of layer."""
    shape = model.config.get_text_config()
    kinds = set(getattr(shape, "layer_types", None) or ())
    window = getattr(shape, "sliding_window", None)
    if window is None or kinds == {FULL}:
        return mask(None)
    return {kind: mask(window if kind == WINDOW else None) for kind in kinds} if kinds else mask(window)


def additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to attention scores so that only `visible` is seen, bool [Q, T, S] → [Q, 1, T, S]."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
