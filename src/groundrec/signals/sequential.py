"""Sequential networks, which score every item as the next one: SASRec, GRU4Rec, Caser.

Each uses the same embeddings for input and output, has a bias for each item, and starts every
history with a learned start symbol, so that an empty one has a distribution too. Knows nothing
about users, times, titles or objectives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from groundrec.core.config_signals import Sequential
from groundrec.core.errors import TrainingError
from groundrec.core.types import NO_ITEM, Ragged

__all__ = ["NETWORKS", "CaserNetwork", "GRU4RecNetwork", "NextItem", "SASRecNetwork", "pad"]


def pad(histories: Ragged, length: int) -> NDArray[np.int64]:
    """Return the last `length` items of each history, padded on the right. Shape: [q, length]."""
    kept = np.minimum(histories.lengths, length)
    columns = np.arange(length)
    present = columns < kept[:, None]
    items = np.full((len(histories), length), NO_ITEM, np.int64)
    # Column j of row q is value `end of q - kept[q] + j`.
    items[present] = histories.values[((histories.offsets[1:] - kept)[:, None] + columns)[present]]
    return items


class _Block(nn.Module):
    """A pre-norm layer: causal self-attention and a feed-forward network of four times the width.

    Attention scores get a learned bias for each head and distance, [heads, max_length + 1].
    """

    def __init__(self, hidden: int, heads: int, dropout: float, max_length: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(hidden)
        self.before_mlp = nn.LayerNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.distance_bias = nn.Parameter(torch.zeros(heads, max_length + 1))
        self.mlp = nn.Sequential(
            nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, distance: Tensor) -> Tensor:
        states = states + self.dropout(self._attend(self.before_attention(states), distance))
        return states + self.dropout(self.mlp(self.before_mlp(states)))

    def _attend(self, states: Tensor, distance: Tensor) -> Tensor:
        batch, length, hidden = states.shape
        # [b, L, 3h] → three times [b, heads, L, h / heads].
        shape = (batch, length, 3, self.heads, hidden // self.heads)
        query, key, value = self.qkv(states).view(shape).permute(2, 0, 3, 1, 4)
        # [heads, L, L]; a negative distance is a later item, which a causal model must not see.
        bias = self.distance_bias[:, distance.clamp(min=0)].masked_fill(distance < 0, -torch.inf)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, hidden))


class NextItem(nn.Module, ABC):
    """A network that scores every item as the next one of a history.

    Its input is [q, L], L ≤ `max_length`, with `NO_ITEM` as padding on either side; padding never
    changes a score.
    """

    scale: Tensor
    """The factor that turns scores into log-probabilities; 1 until calibrated. Shape: []."""

    def __init__(self, item_count: int, section: Sequential) -> None:
        super().__init__()
        self.item_count = item_count
        self.max_length = section.max_length
        self.items = nn.Embedding(item_count + 1, section.hidden)
        self.bias = nn.Parameter(torch.zeros(item_count))
        self.dropout = nn.Dropout(section.dropout)
        self.register_buffer("scale", torch.ones(()))
        self.add_layers(section)
        nn.init.normal_(self.items.weight, std=section.hidden**-0.5)

    @abstractmethod
    def add_layers(self, section: Sequential) -> None:
        """Add the layers that `read` uses."""

    def encode(self, items: Tensor) -> Tensor:
        """Return the states [q, L + 1, hidden] after the start symbol and after each item [q, L].

        Padding on the left is moved to the right first, so a row's states start in column 0.
        """
        # A stable sort by "is padding" keeps the items in order; the start symbol is item number I.
        items = items.gather(1, (items == NO_ITEM).to(torch.uint8).argsort(dim=1, stable=True))
        items = F.pad(items, (1, 0), value=self.item_count)
        return self.read(self.dropout(self.items(items.clamp(min=0))))

    @abstractmethod
    def read(self, items: Tensor) -> Tensor:
        """Return the state after each embedded item, from it and those before. [q, n, hidden]."""

    def logits(self, states: Tensor) -> Tensor:
        """Return unnormalised log-probabilities of every item. Shape: [..., hidden] → [..., I]."""
        return F.linear(states, self.items.weight[:-1], self.bias)

    def forward(self, items: Tensor) -> Tensor:
        """Return the scores of every item as the next of each history. Shape: [q, L] → [q, I]."""
        # [q]: the column of the state after the newest item; 0, the start symbol's, without items.
        newest = (items != NO_ITEM).sum(1)
        return self.logits(
            self.encode(items)[torch.arange(len(items), device=items.device), newest]
        )

    @torch.inference_mode()
    def scores(self, histories: Ragged, batch_size: int = 256) -> NDArray[np.float32]:
        """Return the scores of every item after each history, without dropout. Shape: [q, I]."""
        training = self.training
        device = self.bias.device
        self.eval()
        batches = torch.from_numpy(pad(histories, self.max_length)).split(batch_size)
        parts = [(self.scale * self(batch.to(device))).float().cpu().numpy() for batch in batches]
        self.train(training)
        return np.concatenate(parts)


class SASRecNetwork(NextItem):
    """A causal transformer (Kang & McAuley, "Self-Attentive Sequential Recommendation", 2018).

    Positions enter as an attention bias by distance, not as embeddings of absolute positions.
    """

    def add_layers(self, section: Sequential) -> None:
        if section.hidden % section.heads:
            raise TrainingError(
                "sequential.hidden is not divisible by the number of heads",
                value=f"hidden = {section.hidden}, heads = {section.heads}",
                accepted="a multiple of sequential.heads",
                next_step=(
                    f"--set sequential.heads=1 or --set sequential.hidden={section.heads * 16}"
                ),
            )
        shape = (section.hidden, section.heads, section.dropout, section.max_length)
        self.blocks = nn.ModuleList(_Block(*shape) for _ in range(section.layers))
        self.norm = nn.LayerNorm(section.hidden)

    def read(self, items: Tensor) -> Tensor:
        columns = torch.arange(items.shape[1], device=items.device)
        for block in self.blocks:
            items = block(items, columns[:, None] - columns)
        return self.norm(items)


class GRU4RecNetwork(NextItem):
    """A gated recurrent network (Hidasi et al., 2016).

    The paper is "Session-based Recommendations with Recurrent Neural Networks". Here a sequence is
    a user's history, not a session, and a linear layer maps states to the item embeddings' space.
    """

    def add_layers(self, section: Sequential) -> None:
        between = section.dropout if section.layers > 1 else 0.0
        self.gru = nn.GRU(
            section.hidden, section.hidden, section.layers, batch_first=True, dropout=between
        )
        self.out = nn.Linear(section.hidden, section.hidden)

    def read(self, items: Tensor) -> Tensor:
        return self.out(self.dropout(self.gru(items)[0]))


class CaserNetwork(NextItem):
    """Convolutions over the last few items (Tang & Wang, 2018).

    The paper is "Personalized Top-N Sequential Recommendation ...". Horizontal filters of every
    height detect patterns of consecutive items, vertical filters weigh the items by position. It
    has no user embedding, unlike the paper's, so it serves any user.
    """

    def add_layers(self, section: Sequential) -> None:
        hidden = section.hidden
        self.window = section.window
        heights = range(1, section.window + 1)
        self.horizontal = nn.ModuleList(
            nn.Conv2d(1, section.horizontal, (h, hidden)) for h in heights
        )
        self.vertical = nn.Conv2d(1, section.vertical, (section.window, 1))
        self.out = nn.Linear(
            section.horizontal * section.window + section.vertical * hidden, hidden
        )

    def read(self, items: Tensor) -> Tensor:
        q, n, hidden = items.shape
        # The last `window` items at each of the n positions, as images [q · n, 1, window, hidden].
        images = F.pad(items, (0, 0, self.window - 1, 0)).unfold(1, self.window, 1)
        images = images.transpose(2, 3).reshape(q * n, 1, self.window, hidden)
        # Each filter's maximum over the window, [q · n, horizontal], for each height.
        patterns = [filters(images).relu().amax((2, 3)) for filters in self.horizontal]
        joined = torch.cat([*patterns, self.vertical(images).flatten(1)], 1)
        return self.out(self.dropout(joined)).view(q, n, hidden)


NETWORKS: dict[str, type[NextItem]] = {
    "sasrec": SASRecNetwork,
    "gru4rec": GRU4RecNetwork,
    "caser": CaserNetwork,
}
