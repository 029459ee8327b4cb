"""The catalogue's trie on the model's device: what continues a node, and how likely each is.

Knows nothing about the order in which nodes are visited.
"""

from __future__ import annotations

import copy
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundrec.models.forward import narrowed
from groundrec.rank.search.masks import Guide, Mask, guide_steps
from groundrec.text.trie import Trie

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["NEVER", "ScoreKind", "TrieMask", "TrieScoring"]

ScoreKind = Literal["full", "renormalised"]
NEVER = float("-inf")


class TrieScoring:
    """A trie of N nodes as tensors, and how its tokens are scored.

    `full` normalises a token's probability over the whole vocabulary, `renormalised` over the
    tokens that lead to an allowed item; then the model's output layer is cut down to the tokens
    that are ever chosen.
    """

    def __init__(
        self, model: PreTrainedModel, trie: Trie, score: ScoreKind, temperature: float = 1.0
    ) -> None:
        def tensor(array: NDArray) -> Tensor:
            return torch.from_numpy(np.asarray(array, dtype=np.int64)).to(model.device)

        self.trie = trie
        self.renormalised = score == "renormalised"
        self.temperature = temperature
        self.parent = tensor(trie.parent)
        self.depth = tensor(trie.depth)
        self.item_lo = tensor(trie.item_lo)
        self.item_hi = tensor(trie.item_hi)
        self.edge_length = tensor(trie.edge_lengths)
        self.child_count = tensor(trie.child_counts)
        self._edge_start = tensor(trie.edge_start[:-1])
        self._edge_tokens = tensor(trie.edge_tokens)
        self._child_start = tensor(trie.child_start[:-1])
        self._children = tensor(trie.children)
        chosen, column = np.unique(trie.first_tokens[1:], return_inverse=True)
        narrow = narrowed(model, tensor(chosen)) if self.renormalised else None
        self.model = narrow or model
        """The model; where possible, its output layer is cut down to the tokens ever chosen."""
        first = column if narrow else trie.first_tokens[1:]
        self._logit = tensor(np.append(0, first))
        """Column of the logits for the first token of each node's edge. Shape: [N]."""
        self.outputs = len(chosen) if narrow else int(model.config.get_text_config().vocab_size)

    def __len__(self) -> int:
        return len(self.depth)

    @cached_property
    def leaf_of(self) -> Tensor:
        """The leaf of each item, in the trie's order. Shape: [I]."""
        leaves = self.is_leaf(torch.arange(len(self), device=self.depth.device)).nonzero()[:, 0]
        return leaves.repeat_interleave(self.item_hi[leaves] - self.item_lo[leaves])

    @cached_property
    def levels(self) -> list[Tensor]:
        """The nodes with as many nodes above them, deepest first, without the root."""
        level = self.trie.level
        by_level = (np.flatnonzero(level == n) for n in range(int(level.max()), 0, -1))
        return [torch.from_numpy(nodes).to(self.depth.device) for nodes in by_level]

    def edge_token(self, nodes: Tensor, offset: Tensor) -> Tensor:
        """Return the token at `offset` in the edge into each node; any for the root. Same shape."""
        # The root has no edge, and its start may lie past the end: clamped, not read out of bounds.
        index = (self._edge_start[nodes] + offset).clamp(max=len(self._edge_tokens) - 1)
        return self._edge_tokens[index]

    def tokens_to_read(self, nodes: Tensor) -> Tensor:
        """Return how many tokens of each node's edge the model must read. Same shape.

        All of them to score the children; at a leaf, all but the last, or none where forced tokens
        cost nothing.
        """
        leaf_tokens = 0 if self.renormalised else (self.edge_length[nodes] - 1).clamp(min=0)
        return torch.where(self.child_count[nodes] > 0, self.edge_length[nodes], leaf_tokens)

    def is_leaf(self, nodes: Tensor) -> Tensor:
        """Return whether each node is the end of a title. Same shape."""
        return self.child_count[nodes] == 0

    def children(self, nodes: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Return the children of `nodes` [Q, n], and which are real, not padding. [Q, n, most]."""
        number = torch.arange(most, device=nodes.device)
        real = number < self.child_count[nodes][:, :, None]
        index = torch.where(real, self._child_start[nodes][:, :, None] + number, 0)
        return self._children[index.clamp(max=max(len(self._children) - 1, 0))], real

    def child(self, nodes: Tensor, number: Tensor) -> Tensor:
        """Return the `number`-th child of each node, from 0. Same shape."""
        return self._children[self._child_start[nodes] + number]

    def log_weights(self, logits: Tensor) -> Tensor:
        """Return what logits [..., V] say of each token: log-probabilities after the temperature.

        Renormalised, still logits: `log_children` normalises them over the children.
        """
        logits = logits if self.temperature == 1 else logits / self.temperature
        return logits if self.renormalised else logits.log_softmax(-1)

    def log_children(
        self, weights: Tensor, rows: Tensor, nodes: Tensor, most: int, trie_mask: TrieMask
    ) -> tuple[Tensor, Tensor]:
        """Return the children of nodes and the log-probability of entering each.

        Padding and forbidden children have -inf.

        Args:
            weights: What `log_weights` gave. Shape: [Q, R, V].
            rows: Which of the R rows follows each node. Shape: [Q, n].
            nodes: Shape: [Q, n].
            most: Most children any of them has.
            trie_mask: Mask and guide.

        Shapes: [Q, n, most], twice.
        """
        children, real = self.children(nodes, most)
        flat = children.flatten(1)  # [Q, n · most], as the mask and the guide take them
        real &= trie_mask.allowed(flat).view(children.shape)
        # One gather from [Q, R · V]: row `rows` of each node, column of each child.
        column = (rows[:, :, None] * weights.shape[2] + self._logit[children]).flatten(1)
        log_p = weights.flatten(1).gather(1, column).view(children.shape)
        log_p = log_p.masked_fill(~real, NEVER)
        if self.renormalised:
            log_p = log_p - log_p.logsumexp(2, keepdim=True)
        mixed = trie_mask.mix(log_p.flatten(1), flat).view(children.shape)
        return children, mixed.masked_fill(~real, NEVER)

    def logit_of(self, nodes: Tensor) -> Tensor:
        """Return the column of the logits for the first token of each edge. Same shape."""
        return self._logit[nodes]


class TrieMask:
    """A mask, and perhaps a guide, over the trie for Q queries, on the model's device."""

    def __init__(self, scoring: TrieScoring, mask: Mask, guide: Guide | None = None) -> None:
        self._scoring = scoring
        self._only = mask.only
        device = scoring.depth.device
        self._listed = torch.from_numpy(mask.positions(scoring.trie)).to(device)
        """The listed items' positions in the trie's order, ascending. Shape: [Q, longest]."""
        self._steps = guide_steps(scoring.trie, guide, mask).to(device) if guide else None
        """log p_signal of entering each node. Shape: [Q, N]."""
        self.alpha = guide.alpha if guide else 1.0

    def __len__(self) -> int:
        return len(self._listed)

    def take(self, rows: Tensor) -> TrieMask:
        """Return the same for some of the queries. `rows`: int64 [q]."""
        some = copy.copy(self)
        some._listed = self._listed[rows]
        some._steps = None if self._steps is None else self._steps[rows]
        return some

    def allowed(self, nodes: Tensor) -> Tensor:
        """Return whether any allowed item lies below each of `nodes` [Q, n]. Shape: [Q, n]."""
        # The items below a node are the range [lo, hi) of the trie's order.
        lo = self._scoring.item_lo[nodes]
        hi = self._scoring.item_hi[nodes]
        listed = torch.searchsorted(self._listed, hi) - torch.searchsorted(self._listed, lo)
        return listed > 0 if self._only else listed < hi - lo

    def mix(self, lm: Tensor, nodes: Tensor) -> Tensor:
        """Return log p_LM of entering `nodes` [Q, n], mixed with the guide's. Shape: [Q, n]."""
        if self._steps is None:
            return lm
        return self.alpha * lm + (1 - self.alpha) * self._steps.gather(1, nodes)
