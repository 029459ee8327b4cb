"""Which layers of a model see how far back: masks made once for each kind of layer, and attention that uses them.

Knows nothing about what is masked, or why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["additive", "for_layers", "skipping"]

Mask = TypeVar("Mask")
WINDOW, FULL = "sliding_attention", "full_attention"
SKIPPING = "sdpa_of_what_is_seen"
RUN = 128
"""How many tokens on end share the keys that they are compared with."""


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


@contextmanager
def skipping(model: PreTrainedModel) -> Iterator[None]:
    """Let a model that attends with SDPA on a processor leave out what additive masks hide, backward passes too.

    Elsewhere, where another implementation is chosen and outside this context, nothing changes.
    """
    if model.config._attn_implementation != "sdpa" or model.device.type != "cpu":
        yield
        return
    from transformers import AttentionInterface

    AttentionInterface.register(SKIPPING, _seen_attention)
    model.config._attn_implementation = SKIPPING
    try:
        yield
    finally:
        model.config._attn_implementation = "sdpa"


def _seen_attention(
    _: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    **__: Any,
) -> tuple[torch.Tensor, None]:
    """Return SDPA under an additive mask that shows every token something; a run of tokens reads what any of it sees.

    Heads that share their keys are one head with more queries. Shapes: [Q, H, T, D], twice [Q, H / g, S, D] and
    [Q, 1, T, S] → [Q, T, H, D].
    """
    count, heads, _, width = query.shape
    shared = heads // key.shape[1]
    seen = [run.any(0).nonzero()[:, 0] for run in (attention_mask == 0).any(0)[0].split(RUN)]
    sizes = [len(places) for places in seen]
    keys, values = (x.index_select(2, torch.cat(seen)).split(sizes, 2) for x in (key, value))
    found = [
        scaled_dot_product_attention(
            q.reshape(count, heads // shared, -1, width),
            k,
            v,
            attn_mask=mask.index_select(3, places).repeat(1, 1, shared, 1),
            dropout_p=dropout,
            scale=scaling,
        ).reshape(count, heads, -1, v.shape[-1])
        for q, mask, places, k, v in zip(
            query.split(RUN, 2), attention_mask.split(RUN, 2), seen, keys, values, strict=True
        )
    ]
    return torch.cat(found, 2).transpose(1, 2).contiguous(), None
