"""What lies below each node of the trie: allowed items, and a signal's share of probability.

A mask is a list of items per query, and a node's count of them a difference of two look-ups in the
trie's item order, so the cost of a mask grows with the list, not with the catalogue. Knows nothing
about language models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundrec.core.errors import SearchError
from groundrec.core.types import Ragged, Scores
from groundrec.rank.fuse import log_softmax
from groundrec.text.trie import Trie

__all__ = ["Guide", "Mask", "Mass", "guide_steps", "guide_totals"]

Mass = Literal["sum", "max"]
LEAST = 1e-20
"""Least probability of an allowed item under a signal: a signal alone never forbids."""


@dataclass(frozen=True)
class Mask:
    """The items each of Q queries may be given: only those in `listed`, or all but those."""

    listed: Ragged
    only: bool

    @classmethod
    def of(cls, queries: int, allow: Ragged | None = None, deny: Ragged | None = None) -> Mask:
        """Return the mask of allow-lists and deny-lists, one row per query; an item denied is never
        allowed.
        """
        if allow is None:
            return cls(Ragged.of([[]] * queries) if deny is None else deny, only=False)
        if deny is None:
            return cls(allow, only=True)
        kept = [np.setdiff1d(a, d) for a, d in zip(allow, deny, strict=True)]
        return cls(Ragged.of(kept), only=True)

    def dense(self, items: int) -> NDArray[np.bool_]:
        """Return which items are allowed. Shape: [Q, I]."""
        table = np.full((len(self.listed), items), not self.only)
        table[self.listed.rows, self.listed.values] = self.only
        return table

    def allows(self, rows: NDArray[np.intp], items: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return whether query `rows[i]` may be given `items[i]`. Shape: [n]."""
        width = int(max(items.max(initial=0), self.listed.values.max(initial=0))) + 1
        listed = np.isin(rows * width + items, self.listed.rows * width + self.listed.values)
        return listed == self.only

    def check(self, items: int) -> None:
        """Raise `SearchError` where a list names no item of the catalogue, or a query has no item
        left.
        """
        values = self.listed.values
        if len(values) and (values.min() < 0 or values.max() >= items):
            wrong = values[(values < 0) | (values >= items)][0]
            raise SearchError(
                "a mask names an item that is not in the catalogue",
                value=int(wrong),
                accepted=f"0 to {items - 1}",
            )
        if len(empty := np.flatnonzero(~self.leaves_any(items))):
            raise SearchError(
                "no item is left",
                value=f"the mask of query {empty[0]} of the batch allows nothing",
                accepted="at least one item",
            )

    def leaves_any(self, items: int) -> NDArray[np.bool_]:
        """Return whether any of so many `items` is left to each query. Shape: [Q]."""
        distinct = np.array([len(np.unique(row)) for row in self.listed], np.int64)
        return distinct > 0 if self.only else distinct < items

    def places(self, trie: Trie) -> NDArray[np.int64]:
        """Return the listed items' places in the trie's order, ascending, then I. Shape: [Q,
        longest].
        """
        place = np.empty(len(trie.item_order), np.int64)
        place[trie.item_order] = np.arange(len(place))
        rows = [np.unique(place[row]) for row in self.listed]
        table = np.full((len(rows), max((len(r) for r in rows), default=0)), len(place))
        for row, found in zip(table, rows, strict=True):
            row[: len(found)] = found
        return table


@dataclass(frozen=True)
class Guide:
    """A signal that takes part in the search: D3's assistant (arXiv 2406.14900, section 4.2).

    At each branching, `alpha * log p_LM + (1 - alpha) * log p_signal`, where the signal's
    probability of a child is the `mass` below it (`sum` of its items' probabilities, or their
    `max`) among the mass of its siblings.
    """

    scores: Scores
    """Unnormalised log-probabilities of every item. Shape: [Q, I]."""
    alpha: float
    mass: Mass = "sum"


def guide_steps(trie: Trie, guide: Guide, mask: Mask) -> Tensor:
    """Return log p_signal of entering each node from its parent, among allowed items; 0 at the
    root. [Q, N], fp32.
    """
    allowed = mask.dense(len(trie.item_order))[:, trie.item_order]
    p = np.exp(log_softmax(guide.scores[:, trie.item_order], allowed).astype(np.float64)).clip(
        LEAST
    )
    p = np.where(allowed, p, 0.0)
    value = np.zeros((len(p), len(trie)))
    leaves = np.flatnonzero(trie.child_counts == 0)
    gather = np.add if guide.mass == "sum" else np.maximum
    value[:, leaves] = gather.reduceat(
        p, trie.item_lo[leaves], axis=1
    )  # leaves tile the items, in order
    siblings = np.zeros_like(value)
    level = trie.level
    for depth in range(int(level.max(initial=0)), 0, -1):
        nodes = np.flatnonzero(level == depth)
        parents = trie.parent[nodes]
        first = np.flatnonzero(
            np.diff(parents, prepend=-1)
        )  # children of one node are neighbours at their level
        above = parents[first]
        siblings[:, above] = np.add.reduceat(value[:, nodes], first, axis=1)
        value[:, above] = gather.reduceat(value[:, nodes], first, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.log(value[:, 1:]) - np.log(siblings[:, trie.parent[1:]])
    steps = np.where(np.isnan(steps), -np.inf, steps)
    return torch.from_numpy(
        np.concatenate([np.zeros((len(p), 1)), steps], axis=1).astype(np.float32)
    )


def guide_totals(trie: Trie, guide: Guide, mask: Mask) -> Scores:
    """Return log p_signal of each item, summed along its path; -inf where it is not allowed. Shape:
    [Q, I].
    """
    total = guide_steps(trie, guide, mask).numpy().astype(np.float64)
    level = trie.level
    for depth in range(1, int(level.max(initial=0)) + 1):
        nodes = np.flatnonzero(level == depth)
        total[:, nodes] += total[:, trie.parent[nodes]]
    leaves = np.flatnonzero(trie.child_counts == 0)
    scores = np.empty((len(total), len(trie.item_order)), np.float32)
    scores[:, trie.item_order] = np.repeat(
        total[:, leaves], trie.item_hi[leaves] - trie.item_lo[leaves], axis=1
    )
    return np.where(mask.dense(scores.shape[1]), scores, np.float32(-np.inf))
