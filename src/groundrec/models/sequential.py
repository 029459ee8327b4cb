"""SASRec: a causal transformer over item numbers (Kang & McAuley, "Self-Attentive Sequential Recommendation", 2018).

Unlike the paper's, it is trained with cross-entropy over the whole catalogue, knows places by their distance (a bias of
the attention) instead of by number, and begins every history with a learned start symbol, so that an empty one has a
distribution too. Knows nothing about users, times or titles.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from groundrec.core.types import NO_ITEM, Ragged

__all__ = ["SASRec", "pad"]


def pad(histories: Ragged, length: int) -> NDArray[np.int64]:
    """Return the last `length` items of each history, oldest first, `NO_ITEM` after the newest. Shape: [q, length]."""
    kept = np.minimum(histories.lengths, length)
    columns = np.arange(length)
    present = columns < kept[:, None]
    items = np.full((len(histories), length), NO_ITEM, np.int64)
    items[present] = histories.values[((histories.offsets[1:] - kept)[:, None] + columns)[present]]
    return items


class _Block(nn.Module):
    """One pre-norm layer: causal self-attention, then a feed-forward network of four times the width.

    Attention weights get a learned bias for each head and distance, [heads, max_length + 1].
    """

    def __init__(self, hidden: int, heads: int, dropout: float, max_length: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.distance_bias = nn.Parameter(torch.zeros(heads, max_length + 1))
        self.mlp = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, distance: Tensor) -> Tensor:
        states = states + self.dropout(self._attend(self.before_attention(states), distance))
        return states + self.dropout(self.mlp(self.before_mlp(states)))

    def _attend(self, states: Tensor, distance: Tensor) -> Tensor:
        batch, length, hidden = states.shape
        heads = (batch, length, 3, self.heads, hidden // self.heads)
        query, key, value = self.qkv(states).view(heads).permute(2, 0, 3, 1, 4)
        bias = self.distance_bias[:, distance.clamp(min=0)].masked_fill(distance < 0, -torch.inf)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, hidden))


class SASRec(nn.Module):
    """Scores every item as the next one of a history.

    Items come as [q, L], L ≤ `max_length`, with `NO_ITEM` for padding on either side; padding never changes a score.
    """

    def __init__(
        self, item_count: int, *, hidden: int, layers: int, heads: int, dropout: float, max_length: int
    ) -> None:
        super().__init__()
        self.item_count, self.max_length = item_count, max_length
        self.items = nn.Embedding(item_count + 1, hidden)
        self.bias = nn.Parameter(torch.zeros(item_count))
        self.blocks = nn.ModuleList(_Block(hidden, heads, dropout, max_length) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.items.weight, std=hidden**-0.5)

    def encode(self, items: Tensor) -> Tensor:
        """Return what is known after the start symbol and after each item. Shape: [q, L] → [q, L + 1, hidden].

        Padding on the left is moved to the right first, so a row's states begin in column 0.
        """
        items = items.gather(1, (items == NO_ITEM).to(torch.uint8).argsort(dim=1, stable=True))
        items = F.pad(items, (1, 0), value=self.item_count)
        states = self.dropout(self.items(items.clamp(min=0)))
        columns = torch.arange(items.shape[1], device=items.device)
        for block in self.blocks:
            states = block(states, columns[:, None] - columns)
        return self.norm(states)

    def logits(self, states: Tensor) -> Tensor:
        """Return unnormalised log-probabilities of every item. Shape: [..., hidden] → [..., I]."""
        return F.linear(states, self.items.weight[:-1], self.bias)

    def forward(self, items: Tensor) -> Tensor:
        """Return the scores of every item after the newest one of each history. Shape: [q, L] → [q, I]."""
        newest = (items != NO_ITEM).sum(1)
        return self.logits(self.encode(items)[torch.arange(len(items), device=items.device), newest])

    @torch.inference_mode()
    def scores(self, histories: Ragged, batch_size: int = 256) -> NDArray[np.float32]:
        """Return the scores of every item after each history, without dropout. Shape: [q, I]."""
        training, device = self.training, self.bias.device
        self.eval()
        batches = torch.from_numpy(pad(histories, self.max_length)).split(batch_size)
        parts = [self(batch.to(device)).float().cpu().numpy() for batch in batches]
        self.train(training)
        return np.concatenate(parts)
