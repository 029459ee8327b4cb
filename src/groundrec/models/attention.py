"""Attention masks for each kind of layer, and attention that skips what they hide.

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
"""Arguments that change scores beyond the mask; transformers' own SDPA applies or refuses them."""
_skips: ContextVar[bool] = ContextVar("skips", default=False)
"""Whether this thread is within `skipping`; other threads may use the same model outside it."""
CHUNK = 128
"""Number of consecutive tokens that share one selection of keys."""


def for_layers(
    model: PreTrainedModel, mask: Callable[[int | None], Mask]
) -> Mask | dict[str, Mask]:
    """Return one mask if all layers have the same window, else a mask for each kind of layer.

    `mask` makes the mask of a window; the window None means full attention.
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
    """Return the mask to add to attention scores: bool `visible` [Q, T, S] → [Q, 1, T, S]."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


@contextmanager
def attending(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    """Let a model use another of transformers' attention implementations."""
    before = model.config._attn_implementation
    model.config._attn_implementation = implementation
    try:
        yield
    finally:
        model.config._attn_implementation = before


@contextmanager
def skipping(model: PreTrainedModel) -> Iterator[None]:
    """Let a model skip the keys that additive masks hide, if it uses SDPA on a CPU.

    This holds for the backward pass too. Heads that share keys read them without a copy. The masks
    must let every token see at least one key. Other threads, devices and implementations are not
    affected.
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
    """Compute transformers' own SDPA, or `_attention` in a thread that is within `skipping`.

    All models call this function, so `skipping` changes no state of a model.
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
    """Compute SDPA with the arguments and result of transformers' attention functions.

    Shapes: query [Q, H, T, D], key and value [Q, H / g, S, D], mask [Q, 1, T, S] → [Q, T, H, D].
    """
    if any(others.get(name) is not None for name in OTHER_SCORES):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    # Cut T into chunks. Each needs only the keys that one of its tokens in some row sees.
    queries = query.split(CHUNK, 2)
    masks = attention_mask.split(CHUNK, 2)
    keys, values = (key,), (value,)
    if len(queries) > 1:
        # For each chunk, the indices of its visible keys: mask [Q, 1, t, S] → [visible keys].
        visible = [(mask == 0).any(0)[0].any(0).nonzero()[:, 0] for mask in masks]
        masks = tuple(
            mask.index_select(3, columns) for mask, columns in zip(masks, visible, strict=True)
        )
        # One gather for all chunks, then views of it: the backward pass scatters only once.
        keys, values = (
            x.index_select(2, torch.cat(visible)).split([len(columns) for columns in visible], 2)
            for x in (key, value)
        )
    outputs = [
        _grouped(*chunk, dropout, scaling)
        for chunk in zip(queries, keys, values, masks, strict=True)
    ]
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


def _grouped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """Compute SDPA with the g heads that share keys as one head with g times as many queries.

    Shapes: query [Q, H, T, D], key and value [Q, H / g, S, D], mask [Q, 1, T, S] → [Q, H, T, D].
    """
    count, heads, _, width = query.shape
    group = heads // key.shape[1]
    # [Q, H / g, g · T, D]: keys and values are read as they are, not repeated for each head.
    stacked = query.reshape(count, heads // group, -1, width)
    output = scaled_dot_product_attention(
        stacked, key, value, attn_mask=mask.repeat(1, 1, group, 1), dropout_p=dropout, scale=scaling
    )
    return output.reshape(count, heads, -1, value.shape[-1])
