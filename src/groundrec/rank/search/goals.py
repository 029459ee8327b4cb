"""What a best-first search looks for: the likeliest leaves, some leaves only, or those that rank
highest by the model and a signal together.

A goal turns the log-probability of a path into a bound on all leaves below its node. With a fused
signal, item i scores

    alpha · log p_LM(i) + (1 - alpha) · log p_signal(i)

where log p_LM is the search's own score of the item and p_signal a softmax of the signal over the
items that the query may be given and that the signal scores (-inf forbids an item). This is
`fuse.mix` of all items' scores plus alpha times the logarithm of the probability that the model
gives to those items together. That is one number for each query: it changes no ranking, needs the
whole trie to be known, and is therefore left out. It is 0, so that scores equal `mix`, with the
score `renormalised` where no title occurs twice and the signal scores whatever the mask allows. A
difference of two scores of one query, such as a gap, is that of `mix` always. What the signal
forbids changes no log p_LM: `renormalised` divides by what the mask allows. Several signals are
one: a weighted sum of their log-probabilities.

Knows nothing about the order in which nodes are read.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundrec.core.errors import SearchError
from groundrec.core.types import Scores
from groundrec.rank.fuse import log_softmax
from groundrec.rank.search.masks import Mask, check_shape
from groundrec.rank.search.scoring import NEVER, TrieMask, TrieScoring

__all__ = ["AllowedGoal", "FusedGoal", "FusedSignal", "Goal"]


@dataclass(frozen=True)
class FusedSignal:
    """A signal by which items are ranked together with the model, for Q queries."""

    scores: Scores
    """Unnormalised log-probabilities; -inf for an item that may not be recommended. Shape: [Q, I].
    """
    alpha: float
    """The model's weight, from 0 (the signal alone) to 1 (the model alone)."""

    def check(self, queries: int, items: int) -> None:
        """Raise `SearchError` for a weight, a shape or scores that cannot be fused."""
        if not 0 <= self.alpha <= 1:
            raise SearchError(
                "alpha must be between 0 and 1", value=self.alpha, accepted="a number from 0 to 1"
            )
        check_shape(self.scores, queries, items)
        if (wrong := np.isnan(self.scores) | np.isposinf(self.scores)).any():
            raise SearchError(
                "the scores of the signal contain NaN or infinity",
                value=f"{int(wrong.sum())} of {wrong.size}",
                accepted="finite scores, or -inf for an item that is not to be ranked",
            )

    def terms(self, mask: Mask) -> Scores:
        """Return (1 - alpha) · log p_signal of each item, its share of the fused score; -inf for
        those that may not be recommended. Shape: [Q, I].
        """
        allowed = mask.dense(self.scores.shape[1]) & ~np.isneginf(self.scores)
        log_p = log_softmax(self.scores, allowed)
        # Not 0 · -inf, which is NaN.
        return np.where(allowed, np.float32(1 - self.alpha) * np.where(allowed, log_p, 0), -np.inf)

    def fuse(self, log_p: Scores, mask: Mask) -> Scores:
        """Return the fused scores, given the model's of every item. Shape: [Q, I]."""
        terms = self.terms(mask)
        return terms if self.alpha == 0 else np.float32(self.alpha) * log_p + terms


class Goal:
    """The likeliest leaves; those of equal score in the trie's order."""

    def take(self, rows: Tensor) -> Self:
        """Return the same for some of the queries. `rows`: int64 [q]."""
        return self

    def bound(self, nodes: Tensor, log_p: Tensor) -> Tensor:
        """Return what no leaf below `nodes` scores more than, of the leaf itself its score; -inf
        where none is looked for.

        `log_p` are the nodes' log-probabilities. All of shape [Q, n].
        """
        return log_p

    def order(self, leaves: Tensor) -> Tensor:
        """Return integers below 2^31: of leaves of one score, the smaller goes first. [Q, n]."""
        return leaves

    def rank(
        self, rows: NDArray[np.intp], items: NDArray[np.int32], log_p: Scores
    ) -> tuple[NDArray[np.intp], Scores]:
        """Return in which order `items` are recommended, and the score of each. Shape: [n], twice.

        `rows`, ascending, are their queries; `log_p` the log-probabilities of their leaves, of
        which each is complete and goes before the next. An item that scores -inf may not be
        recommended.
        """
        return np.arange(len(items)), log_p


class AllowedGoal(Goal):
    """The likeliest of the leaves that a mask allows."""

    def __init__(self, trie_mask: TrieMask) -> None:
        self._trie_mask = trie_mask

    def take(self, rows: Tensor) -> Self:
        """Return the same for some of the queries. `rows`: int64 [q]."""
        some = copy.copy(self)
        some._trie_mask = self._trie_mask.take(rows)
        return some

    def bound(self, nodes: Tensor, log_p: Tensor) -> Tensor:
        """Return `log_p` [Q, n] where an allowed item is below, else -inf."""
        return log_p.masked_fill(~self._trie_mask.allowed(nodes), NEVER)


class FusedGoal(Goal):
    """The leaves whose best item scores highest by model and signal; ties go to the smaller item.

    With alpha = 1 the signal only forbids, and ties go as without it.
    """

    def __init__(self, scoring: TrieScoring, terms: Scores, alpha: float) -> None:
        """Take the `terms` [Q, I] of a fused signal.

        The best term below each node is found once, from the leaves up: a pass over the trie, which
        takes a sixth of the memory of a table of range maxima over the items.
        """
        self._alpha = alpha
        self._terms = terms
        device = scoring.depth.device
        number = torch.from_numpy(scoring.trie.item_order).to(device)  # [I], in the trie's order
        term = torch.from_numpy(terms).to(device)[:, number.long()]
        q = len(terms)
        leaf = scoring.leaf_of.expand(q, -1)
        best = torch.full((q, len(scoring)), NEVER, device=device)
        best.scatter_reduce_(1, leaf, term, "amax")
        numbers = number.expand(q, -1).where(term == best.gather(1, leaf), len(number))
        self._first = torch.full_like(best, len(number), dtype=number.dtype)
        """The smallest of the best items of each leaf. Shape: [Q, N]."""
        self._first.scatter_reduce_(1, leaf, numbers, "amin")
        for nodes in scoring.levels:  # the deepest first
            above = scoring.parent[nodes].expand(q, -1)
            best.scatter_reduce_(1, above, best[:, nodes], "amax")
        self._best = best
        """The best term of the items below each node. Shape: [Q, N]."""

    def take(self, rows: Tensor) -> Self:
        """Return the same for some of the queries. `rows`: int64 [q]."""
        some = copy.copy(self)
        some._best = self._best[rows]
        some._first = self._first[rows]
        return some

    def bound(self, nodes: Tensor, log_p: Tensor) -> Tensor:
        """Return alpha · `log_p` [Q, n] + the best term below.

        Rounding is monotone, so no item's score exceeds it by the last bit either.
        """
        return self._alpha * log_p + self._best.gather(1, nodes)

    def order(self, leaves: Tensor) -> Tensor:
        """Return the smallest of the best items of each leaf. Shape: [Q, n]."""
        return leaves if self._alpha == 1 else self._first.gather(1, leaves).long()

    def rank(
        self, rows: NDArray[np.intp], items: NDArray[np.int32], log_p: Scores
    ) -> tuple[NDArray[np.intp], Scores]:
        """Return the items' order, of one title by their own terms, and their scores. [n], twice.

        Only before `take`.
        """
        scores = np.float32(self._alpha) * log_p + self._terms[rows, items]
        order = np.arange(len(items)) if self._alpha == 1 else np.lexsort((items, -scores, rows))
        return order, scores
