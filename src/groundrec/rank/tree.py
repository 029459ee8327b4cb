"""A language model reading a tree: each prompt once, then many branches in one pass.

The prompt's keys and values stay in the cache. Tree tokens are appended behind it; a 4-D mask lets each see the
prompt and its own ancestors only, at the position it would have in plain text. Padding never changes a number.
Knows nothing about items or scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache

from groundrec.models.language import logits_only

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["TreeReader"]


class TreeReader:
    """Reads one batch of Q prompts, all but their last token; that token is the root of the tree to come.

    `slots` counts the tree tokens read so far; `passes` and `tokens` what the model was asked to do, without padding.
    """

    def __init__(self, model: PreTrainedModel, prompts: list[list[int]]) -> None:
        self._model = model
        device = model.device
        self.roots = torch.tensor([p[-1] for p in prompts], device=device)
        self._lengths = torch.tensor([len(p) - 1 for p in prompts], device=device)
        self._width = max(len(p) - 1 for p in prompts)
        self._cache = DynamicCache()
        self.slots, self.passes, self.tokens = 0, 1, sum(len(p) - 1 for p in prompts)
        self._prompt_seen = torch.arange(self._width, device=device) < self._lengths[:, None]
        if self._width:
            rows = [[*p[:-1], *[0] * (self._width - len(p) + 1)] for p in prompts]
            # Padded on the right and causal: real tokens never look at the padding, so no mask is needed.
            nothing = torch.zeros(len(prompts), self._width, dtype=torch.bool, device=device)
            with logits_only(model, nothing):
                model(input_ids=torch.tensor(rows, device=device), cache=self._cache, use_cache=True)

    def read(self, tokens: Tensor, depth: Tensor, seen: Tensor, wanted: Tensor) -> Tensor:
        """Read T more tree tokens per query and return the logits behind the `wanted` ones, row by row. [n, V], fp32.

        Args:
            tokens: Token ids. Shape: [Q, T].
            depth: Tokens below the root, 0 for the root itself. Shape: [Q, T].
            seen: Which tree tokens each one sees, itself included. Shape: [Q, T, slots + T], bool.
            wanted: Positions whose logits are needed. Shape: [Q, T], bool.
        """
        q, t = tokens.shape
        visible = torch.cat([self._prompt_seen[:, None].expand(q, t, self._width), seen], dim=2)
        least = torch.finfo(self._model.dtype).min
        mask = torch.zeros(visible.shape, dtype=self._model.dtype, device=tokens.device).masked_fill_(~visible, least)
        with logits_only(self._model, wanted):
            out = self._model(
                input_ids=tokens,
                attention_mask=mask[:, None],
                position_ids=self._lengths[:, None] + depth,
                cache=self._cache,
                use_cache=True,
            )
        self.slots += t
        self.passes += 1
        return out.logits.float()

    def forget(self) -> None:
        """Drop every tree token read so far; the prompts stay."""
        if self.slots:
            self._cache.crop(-self.slots)
        self.slots = 0
