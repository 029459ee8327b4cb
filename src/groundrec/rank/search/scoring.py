"""The catalogue's trie on the model's device: what continues a node, and how likely it is.

Knows nothing about the order in which nodes are visited.
"""

from __future__ import annotations

import copy
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
        """The model, with logits of the tokens that are ever chosen alone where it can."""
        first = column if narrow else trie.first_tokens[1:]
        self._logit = tensor(np.append(0, first))
        """Column of the logits that enters each node. Shape: [N]."""
        self.outputs = len(chosen) if narrow else int(model.config.get_text_config().vocab_size)

    def __len__(self) -> int:
        return len(self.depth)

    def edge_token(self, nodes: Tensor, place: Tensor) -> Tensor:
        """Return the token `place` steps into the edge of each node; any token for the root. Same
        shape.
        """
        return self._edge_tokens[
            (self._edge_start[nodes] + place).clamp(max=len(self._edge_tokens) - 1)
        ]

    def tokens_to_read(self, nodes: Tensor) -> Tensor:
        """Return how many tokens the model must read to score what lies below each node, from its
        edge. Same shape.
        """
        leaf_tokens = 0 if self.renormalised else (self.edge_length[nodes] - 1).clamp(min=0)
        return torch.where(self.child_count[nodes] > 0, self.edge_length[nodes], leaf_tokens)

    def is_leaf(self, nodes: Tensor) -> Tensor:
        """Return whether each node is the end of a title. Same shape."""
        return self.child_count[nodes] == 0

    def children(self, nodes: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Return the children of `nodes` [Q, n], and which of the places hold one. Shapes: [Q, n,
        most].
        """
        place = torch.arange(most, device=nodes.device)
        there = place < self.child_count[nodes][:, :, None]
        at = torch.where(there, self._child_start[nodes][:, :, None] + place, 0)
        return self._children[at.clamp(max=max(len(self._children) - 1, 0))], there

    def child(self, nodes: Tensor, place: Tensor) -> Tensor:
        """Return the child of each node at `place`. Same shape."""
        return self._children[self._child_start[nodes] + place]

    def log_weights(self, logits: Tensor) -> Tensor:
        """Return logits [..., V], tempered: as log-probabilities, or as they are when children
        share them out.
        """
        logits = logits if self.temperature == 1 else logits / self.temperature
        return logits if self.renormalised else logits.log_softmax(-1)

    def log_children(
        self, weights: Tensor, at: Tensor, nodes: Tensor, most: int, trie_mask: TrieMask
    ) -> tuple[Tensor, Tensor]:
        """Return the children of nodes and the log-probability of entering each; -inf for none or a
        forbidden one.

        Args:
            weights: What `log_weights` gave. Shape: [Q, R, V].
            at: Which of the R rows lies behind each node. Shape: [Q, n].
            nodes: Shape: [Q, n].
            most: Most children any of them has.
            trie_mask: Mask and guide.

        Shapes: [Q, n, most], twice.
        """
        children, there = self.children(nodes, most)
        v = weights.shape[2]
        column = (at[:, :, None] * v + self._logit[children]).flatten(1)
        chosen = weights.flatten(1).gather(1, column).view(children.shape)
        there &= trie_mask.allowed(children.flatten(1)).view(children.shape)
        chosen = chosen.masked_fill(~there, NEVER)
        entering = (
            chosen - chosen.logsumexp(2, keepdim=True) if self.renormalised else chosen
        ).flatten(1)
        return children, trie_mask.mix(entering, children.flatten(1)).view(
            children.shape
        ).masked_fill(~there, NEVER)

    def logit_of(self, nodes: Tensor) -> Tensor:
        """Return the column of the logits that enters each node. Same shape."""
        return self._logit[nodes]


class TrieMask:
    """A mask and perhaps a guide over the trie, for one batch of Q queries, on the model's device."""

    def __init__(self, scoring: TrieScoring, mask: Mask, guide: Guide | None = None) -> None:
        self._scoring = scoring
        self._only = mask.only
        device = scoring.depth.device
        self._places = torch.from_numpy(mask.places(scoring.trie)).to(device)
        self._steps = guide_steps(scoring.trie, guide, mask).to(device) if guide else None
        self.alpha = guide.alpha if guide else 1.0

    def __len__(self) -> int:
        return len(self._places)

    def take(self, rows: Tensor) -> TrieMask:
        """Return the same for some of the queries. `rows`: int64 [q]."""
        some = copy.copy(self)
        some._places = self._places[rows]
        some._steps = None if self._steps is None else self._steps[rows]
        return some

    def allowed(self, nodes: Tensor) -> Tensor:
        """Return whether any allowed item lies below each of `nodes` [Q, n]. Shape: [Q, n]."""
        lo = self._scoring.item_lo[nodes]
        hi = self._scoring.item_hi[nodes]
        listed = torch.searchsorted(self._places, hi) - torch.searchsorted(self._places, lo)
        return listed > 0 if self._only else listed < hi - lo

    def mix(self, lm: Tensor, nodes: Tensor) -> Tensor:
        """Return log p_LM of entering `nodes` [Q, n], mixed with the guide's. Shape: [Q, n]."""
        if self._steps is None:
            return lm
        return self.alpha * lm + (1 - self.alpha) * self._steps.gather(1, nodes)
