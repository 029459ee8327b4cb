"""Which layers of a model see how far back: masks made once for each kind of layer, and attention
that uses them.

Knows nothing about what is masked, or why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["FLEX", "additive", "attending", "for_layers", "skipping"]

Mask = TypeVar("Mask")
WINDOW = "sliding_attention"
FULL = "full_attention"
FLEX = "flex_attention"
SDPA = "sdpa"
OTHER_SCORES = ("softcap", "position_bias", "s_aux")
"""What some layers ask for beyond a mask; transformers' own SDPA applies or refuses it."""
_skips: ContextVar[bool] = ContextVar("skips", default=False)
"""Whether this thread is within `skipping`: other threads are not, though the model is the same."""
RUN = 128
"""How many tokens on end share the keys that they are compared with."""


def for_layers(
    model: PreTrainedModel, mask: Callable[[int | None], Mask]
) -> Mask | dict[str, Mask]:
    """Return `mask(window)` where all layers see equally far (None: everything), else one for each
    kind of layer.
    """
    shape = model.config.get_text_config()
    kinds = set(getattr(shape, "layer_types", None) or ())
    window = getattr(shape, "sliding_window", None)
    if window is None or kinds == {FULL}:
        return mask(None)
    return (
        {kind: mask(window if kind == WINDOW else None) for kind in kinds}
        if kinds
        else mask(window)
    )


def additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to attention scores so that only `visible` is seen, bool [Q, T, S] → [Q,
    1, T, S].
    """
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


@contextmanager
def attending(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    """Let a model attend with another of transformers' implementations."""
    before = model.config._attn_implementation
    model.config._attn_implementation = implementation
    try:
        yield
    finally:
        model.config._attn_implementation = before


@contextmanager
def skipping(model: PreTrainedModel) -> Iterator[None]:
    """Let a model that attends with SDPA on a processor leave out what additive masks hide,
    backward passes too.

    Heads that share their keys read them where they are. A mask shows every token something. Other
    threads, devices and implementations are not affected.
    """
    if model.config._attn_implementation != SDPA or model.device.type != "cpu":
        yield
        return
    AttentionInterface.register(SDPA, _dispatch)
    before = _skips.set(True)
    try:
        yield
    finally:
        _skips.reset(before)


def _dispatch(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Return transformers' own SDPA, or `_attention` for a thread that is within `skipping`.

    Every model attends through this, so nothing about one model has to be switched for a while.
    """
    chosen = _attention if _skips.get() else sdpa_attention_forward
    return chosen(module, query, key, value, attention_mask, **others)  # type: ignore[arg-type]


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Return SDPA as transformers' layers ask for it.

    Shapes: [Q, H, T, D], twice [Q, H / g, S, D] and [Q, 1, T, S] → [Q, T, H, D].
    """
    if any(others.get(name) is not None for name in OTHER_SCORES):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    queries = query.split(RUN, 2)
    masks = attention_mask.split(RUN, 2)
    keys, values = (key,), (value,)
    if len(queries) > 1:
        seen = [(mask == 0).any(0)[0].any(0).nonzero()[:, 0] for mask in masks]
        masks = tuple(
            mask.index_select(3, places) for mask, places in zip(masks, seen, strict=True)
        )
        keys, values = (
            x.index_select(2, torch.cat(seen)).split([len(p) for p in seen], 2)
            for x in (key, value)
        )
    found = [
        _shared(*run, dropout, scaling) for run in zip(queries, keys, values, masks, strict=True)
    ]
    return torch.cat(found, 2).transpose(1, 2).contiguous(), None


def _shared(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """Return SDPA where the heads that share their keys are one head with more queries."""
    count, heads, _, width = query.shape
    alike = heads // key.shape[1]
    one = query.reshape(count, heads // alike, -1, width)
    found = scaled_dot_product_attention(
        one, key, value, attn_mask=mask.repeat(1, 1, alike, 1), dropout_p=dropout, scale=scaling
    )
    return found.reshape(count, heads, -1, value.shape[-1])
