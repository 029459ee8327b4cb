"""A language model reading a tree: each prompt once, then many branches in one pass.

The prompt's keys and values stay in the cache. Tree tokens are appended after it; a 4-D mask lets
each see the prompt and its own ancestors only, at the position it would have in plain text. Padding
never changes a number. Knows nothing about items or scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from groundrec.models.attention import additive, for_layers, skipping
from groundrec.models.forward import logits_at

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Instruction", "TreeReader", "bytes_per_token"]


def bytes_per_token(model: PreTrainedModel) -> int:
    """Return how much memory the keys and values of one token take."""
    shape = model.config.get_text_config()
    heads = getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads
    width = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    return 2 * shape.num_hidden_layers * heads * width * model.dtype.itemsize


@dataclass(frozen=True)
class Instruction:
    """Tokens that every prompt of a run begins with, read once, and their keys and values, one pair
    per layer.
    """

    tokens: tuple[int, ...]
    layers: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    @torch.inference_mode()
    def read(cls, model: PreTrainedModel, tokens: Sequence[int]) -> Instruction:
        """Return the instruction as `model` reads it; an empty one for no tokens."""
        cache = DynamicCache()
        if tokens:
            ids = torch.tensor([list(tokens)], device=model.device)
            logits_at(
                model, torch.zeros_like(ids[:, :1]), input_ids=ids, cache=cache, use_cache=True
            )
        layers: Any = cache.layers  # typed as layers that may not hold keys and values
        return cls(tuple(tokens), tuple((layer.keys, layer.values) for layer in layers))

    def begins(self, prompts: list[list[int]]) -> bool:
        """Return whether every prompt begins with it and goes on."""
        n = len(self.tokens)
        return n > 0 and all(len(p) > n and tuple(p[:n]) == self.tokens for p in prompts)


class TreeReader:
    """Reads one batch of Q prompts, and then the trees after them.

    `logits` [Q, 1, V] are the logits after the prompts. `slots` counts the tree tokens
    read so far; `passes` and `tokens` what the model was asked to do, without padding, and
    `prompt_tokens` are those of `tokens` that the prompts took.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: list[list[int]],
        instruction: Instruction | None = None,
    ) -> None:
        self._model = model
        device = model.device
        self._lengths = torch.tensor([len(p) for p in prompts], device=device)
        self._width = max(map(len, prompts))
        self._cache = DynamicCache()
        self.slots = 0
        self.passes = 0
        self.tokens = 0
        self.prompt_tokens = 0
        self._positions = torch.arange(self._width, device=device).expand(len(prompts), -1)
        """Position of each token in the cache. Shape: [Q, width + slots]."""
        self._prompt_seen = self._positions < self._lengths[:, None]
        known = (
            self._recall(instruction, len(prompts))
            if instruction and instruction.begins(prompts)
            else 0
        )
        self.logits = self._read_prompts([p[known:] for p in prompts], self._width - known)

    def _recall(self, instruction: Instruction, q: int) -> int:
        for i, (keys, values) in enumerate(instruction.layers):
            self._cache.update(keys.expand(q, -1, -1, -1), values.expand(q, -1, -1, -1), i)
        return len(instruction.tokens)

    def _read_prompts(self, rest: list[list[int]], width: int) -> Tensor:
        # Padded on the right and causal: real tokens never look at the padding, so no mask is
        # needed.
        rows = torch.tensor(
            [[*p, *[0] * (width - len(p))] for p in rest], device=self._model.device
        )
        last = torch.tensor([[len(p) - 1] for p in rest], device=rows.device)
        out = logits_at(self._model, last, input_ids=rows, cache=self._cache, use_cache=True)
        self.passes += 1
        self.prompt_tokens = sum(map(len, rest))
        self.tokens += self.prompt_tokens
        return out.logits.float()

    def read(self, tokens: Tensor, depth: Tensor, seen: Tensor, wanted: Tensor) -> Tensor:
        """Read T more tree tokens per query and return the logits after the `wanted` ones, fp32.

        Args:
            tokens: Token ids. Shape: [Q, T].
            depth: Distance of each token from the end of the prompt, from 1. Shape: [Q, T].
            seen: Which tree tokens each one sees, itself included. Shape: [Q, T, slots + T], bool.
            wanted: Indices of the positions whose logits are needed, [Q, R] → [Q, R, V].
        """
        q, t = tokens.shape
        visible = torch.cat([self._prompt_seen[:, None].expand(q, t, self._width), seen], dim=2)
        position = self._lengths[:, None] - 1 + depth
        self._positions = torch.cat([self._positions, position], dim=1)
        with skipping(self._model):
            out = logits_at(
                self._model,
                wanted,
                input_ids=tokens,
                attention_mask=self._masks(visible, position),
                position_ids=position,
                cache=self._cache,
                use_cache=True,
            )
        self.slots += t
        self.passes += 1
        return out.logits.float()

    def _masks(self, visible: Tensor, position: Tensor) -> Tensor | dict[str, Tensor]:
        """Return additive masks [Q, 1, T, S]: one, or one for each kind of layer where some see
        only a window.
        """
        back = position[:, :, None] - self._positions[:, None]
        dtype = self._model.dtype
        return for_layers(
            self._model,
            lambda window: additive(
                visible if window is None else visible & (back < window), dtype
            ),
        )

    def keep(self, rows: Tensor) -> None:
        """Continue with some of the queries only. `rows`: int64 [q]."""
        self._cache.batch_select_indices(rows)
        self._lengths, self._positions, self._prompt_seen = (
            t[rows] for t in (self._lengths, self._positions, self._prompt_seen)
        )

    def forget(self) -> None:
        """Drop every tree token read so far; the prompts stay."""
        if self.slots:
            self._cache.crop(-self.slots)
            self._positions = self._positions[:, : self._width]
        self.slots = 0
