"""Which items a query may be given, and how a signal guides a search.

A mask is a list of items per query. How many of them are below a node of the trie is the difference
of two look-ups in the trie's item order, so a mask costs as much as its list is long, not as the
catalogue is. Knows nothing about language models.
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

__all__ = ["Guide", "Mask", "Mass", "check_shape", "guide_steps", "guide_totals"]

Mass = Literal["sum", "max"]
LEAST = 1e-20
"""Minimum probability of an allowed item under a signal: a signal alone never forbids."""


@dataclass(frozen=True)
class Mask:
    """The items each of Q queries may be given: only those in `listed`, or all but those."""

    listed: Ragged
    only: bool

    @classmethod
    def of(cls, queries: int, allow: Ragged | None = None, deny: Ragged | None = None) -> Mask:
        """Return the mask of allow-lists and deny-lists, a row per query.

        A denied item is never allowed.
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
        """Raise `SearchError` for an unknown item, and for a query without an item left."""
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
        """Return whether each query may be given any of the `items` items. Shape: [Q]."""
        distinct = np.array([len(np.unique(row)) for row in self.listed], np.int64)
        return distinct > 0 if self.only else distinct < items

    def positions(self, trie: Trie) -> NDArray[np.int64]:
        """Return the listed items' positions in the trie's order, ascending. Shape: [Q, longest].

        Shorter rows are padded with I, which is past every position.
        """
        position = np.empty(len(trie.item_order), np.int64)
        position[trie.item_order] = np.arange(len(position))
        rows = [np.unique(position[row]) for row in self.listed]
        table = np.full((len(rows), max(map(len, rows), default=0)), len(position))
        for padded, row in zip(table, rows, strict=True):
            padded[: len(row)] = row
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


def check_shape(scores: Scores, queries: int, items: int) -> None:
    """Raise `SearchError` unless a signal's scores are of that many queries and items."""
    if scores.shape != (queries, items):
        raise SearchError(
            "the signal was made for another catalogue, or for other queries",
            value=f"{scores.shape[0]} queries and {scores.shape[1]} items",
            accepted=f"{queries} queries and {items} items",
        )


def guide_steps(trie: Trie, guide: Guide, mask: Mask) -> Tensor:
    """Return log p_signal of entering each node from its parent, among allowed items. [Q, N], fp32.

    0 at the root, -inf where no allowed item is below.
    """
    # Probabilities in the trie's order, so that the items below a node are neighbours. [Q, I].
    allowed = mask.dense(len(trie.item_order))[:, trie.item_order]
    log_p = log_softmax(guide.scores[:, trie.item_order], allowed).astype(np.float64)
    p = np.where(allowed, np.exp(log_p).clip(LEAST), 0.0)
    # The mass below each node, and that of its children together. [Q, N].
    mass = np.zeros((len(p), len(trie)))
    child_mass = np.zeros_like(mass)
    gather = np.add if guide.mass == "sum" else np.maximum
    leaves = np.flatnonzero(trie.child_counts == 0)
    mass[:, leaves] = gather.reduceat(p, trie.item_lo[leaves], axis=1)  # leaves tile the items
    level = trie.level
    for depth in range(int(level.max(initial=0)), 0, -1):
        nodes = np.flatnonzero(level == depth)
        parents = trie.parent[nodes]
        # The children of one node are neighbours at their level: `first` is each family's first.
        first = np.flatnonzero(np.diff(parents, prepend=-1))
        above = parents[first]
        child_mass[:, above] = np.add.reduceat(mass[:, nodes], first, axis=1)
        mass[:, above] = gather.reduceat(mass[:, nodes], first, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.log(mass[:, 1:]) - np.log(child_mass[:, trie.parent[1:]])
    steps = np.where(np.isnan(steps), -np.inf, steps)
    root = np.zeros((len(p), 1))
    return torch.from_numpy(np.concatenate([root, steps], axis=1).astype(np.float32))


def guide_totals(trie: Trie, guide: Guide, mask: Mask) -> Scores:
    """Return log p_signal of each item, summed along its path; -inf where forbidden. [Q, I]."""
    total = guide_steps(trie, guide, mask).numpy().astype(np.float64)
    level = trie.level
    for depth in range(1, int(level.max(initial=0)) + 1):
        nodes = np.flatnonzero(level == depth)
        total[:, nodes] += total[:, trie.parent[nodes]]
    leaves = np.flatnonzero(trie.child_counts == 0)
    # Each leaf's total for all its items, from the trie's order to item numbers. [Q, I].
    width = trie.item_hi[leaves] - trie.item_lo[leaves]
    scores = np.empty((len(total), len(trie.item_order)), np.float32)
    scores[:, trie.item_order] = np.repeat(total[:, leaves], width, axis=1)
    return np.where(mask.dense(scores.shape[1]), scores, np.float32(-np.inf))
