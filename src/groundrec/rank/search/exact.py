"""Best-first search along the trie: the exact best K leaves, and the proof.

Log-probabilities are never positive, so that of a node bounds that of every leaf below it, and the
goal makes a bound of the score from it. The nodes with the best bounds are read, several per pass,
until no remaining bound exceeds the K-th score. Knows nothing about items.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from groundrec.rank.search.branches import Branches, Read
from groundrec.rank.search.goals import Goal
from groundrec.rank.search.scoring import NEVER
from groundrec.text.trie import ROOT

__all__ = ["STRIDE", "BestFirst", "BestLeaves", "best_columns"]

FRONTIER = 4096
"""Most open nodes kept for each query; the best bound among those dropped is remembered."""
STRIDE = 4
"""Most tokens of an edge that are read before its bound is compared again."""
SHRINK = 0.75
"""Finished queries leave the batch once at most this share of it is still searched."""


@dataclass(frozen=True)
class BestLeaves:
    """The best leaves of Q queries."""

    leaves: Tensor
    """Shape: [Q, K]."""
    scores: Tensor
    """By the goal, descending; -inf where there are fewer leaves. Shape: [Q, K]."""
    log_p: Tensor
    """Their log-probabilities. Shape: [Q, K]."""
    bound: Tensor
    """No other leaf scores more than this; -inf where the list is proved. Shape: [Q]."""


class BestFirst:
    """One best-first search over Q queries, until all are proved or have read `budget` tree tokens.

    About `width` tokens are read per pass for each query: more take fewer passes and read some
    nodes needlessly. What is best, the `goal` says.
    """

    def __init__(self, branches: Branches, goal: Goal, k: int, width: int, budget: int) -> None:
        self._branches = branches
        self._scoring = branches.scoring
        self._goal = goal
        self._width = width
        self._budget = budget
        self._k = k
        q = len(branches.trie_mask)
        device = self._scoring.depth.device
        self._query = torch.arange(q, device=device)
        """Which query each row of the tensors below is about."""
        # The frontier: nodes whose edge or children are still to be read, best bound first.
        self._open = torch.full((q, 1), ROOT, device=device)
        """Nodes. Shape: [Q, F]."""
        self._bound = torch.full((q, 1), NEVER, device=device)
        """No leaf below a node scores more. Shape: [Q, F]."""
        self._log_p = torch.full((q, 1), NEVER, device=device)
        """Log-probability of all tokens up to the next to be read. Shape: [Q, F]."""
        self._above = torch.full((q, 1), -1, device=device)
        """Tree slot of the last token read before the rest of the edge. Shape: [Q, F]."""
        self._n_read = torch.zeros((q, 1), dtype=torch.long, device=device)
        """How many tokens of the edge have been read. Shape: [Q, F]."""
        self._dropped = torch.full((q,), NEVER, device=device)
        """The best bound of the nodes that a full frontier has dropped. Shape: [Q]."""
        self._leaf = torch.full((q, k), ROOT, device=device)
        """The best leaves so far. Shape: [Q, K]."""
        self._score = torch.full((q, k), NEVER, device=device)
        """Their scores, descending. Shape: [Q, K]."""
        self._leaf_log_p = self._score
        """Their log-probabilities. Shape: [Q, K]."""
        self._result = BestLeaves(
            self._leaf.clone(), self._score.clone(), self._score.clone(), self._dropped.clone()
        )

    def run(self) -> BestLeaves:
        """Return the best leaves."""
        self._add(self._branches.root(), torch.zeros_like(self._log_p), self._open)
        while self._step():
            pass
        return self._result

    def _step(self) -> bool:
        """Read the nodes with the best bounds; return whether there were any."""
        chosen = self._choose()
        searching = chosen.any(1)
        count = int(searching.sum())
        if count < len(searching) and (count == 0 or count <= SHRINK * len(searching)):
            self._leave(~searching, searching.nonzero()[:, 0])
            chosen = chosen[searching]
        if count == 0:
            return False
        width = chosen.shape[1]
        log_p = self._log_p[:, :width]
        node = self._open[:, :width]
        reads = self._branches.read(
            node, self._above[:, :width], chosen, self._n_read[:, :width], STRIDE
        )
        # What is being read leaves the frontier; `_add` puts back what is unfinished.
        left = self._bound[:, :width].masked_fill(chosen, NEVER)
        self._bound = torch.cat([left, self._bound[:, width:]], 1)
        for read in reads:
            self._add(read, log_p.gather(1, read.column), node.gather(1, read.column))
        return True

    def _choose(self) -> Tensor:
        """Return which of the best open nodes to read next, about `width` tokens. Shape: [Q, W].

        None whose bound is below the K-th score, and none of a query out of budget.
        """
        width = min(self._width, self._bound.shape[1])
        bound = self._bound[:, :width]
        length = self._scoring.tokens_to_read(self._open[:, :width])
        length = (length - self._n_read[:, :width]).clamp(max=STRIDE)
        tokens_before = length.cumsum(1) - length
        useful = (bound >= self._score[:, -1:]) & (bound > NEVER) & (tokens_before < self._width)
        return useful & (self._branches.spent < self._budget)[:, None]

    def _leave(self, finished: Tensor, kept: Tensor) -> None:
        """Save the results of the `finished` [Q] queries, and continue with the rows `kept` [q]."""
        rows = self._query[finished]
        bound = torch.maximum(self._bound[:, 0], self._dropped)
        bound = bound.where(bound >= self._score[:, -1], NEVER)
        self._result.leaves[rows] = self._leaf[finished]
        self._result.scores[rows] = self._score[finished]
        self._result.log_p[rows] = self._leaf_log_p[finished]
        self._result.bound[rows] = bound[finished]
        self._query = self._query[kept]
        self._open = self._open[kept]
        self._bound = self._bound[kept]
        self._log_p = self._log_p[kept]
        self._above = self._above[kept]
        self._n_read = self._n_read[kept]
        self._dropped = self._dropped[kept]
        self._leaf = self._leaf[kept]
        self._score = self._score[kept]
        self._leaf_log_p = self._leaf_log_p[kept]
        self._goal = self._goal.take(kept)
        if len(kept):
            self._branches.keep(kept)

    def _add(self, read: Read, log_p: Tensor, node: Tensor) -> None:
        """Add what was read to the best leaves and to the frontier.

        `node` [Q, A] are the nodes read, `log_p` [Q, A] the log-probabilities of all tokens up to
        the first of the edge that was read now.
        """
        reached = (log_p + read.chain.sum(2)).masked_fill(~read.real, NEVER)
        finished = self._scoring.is_leaf(node) & read.ended
        self._add_leaves(node, reached.masked_fill(~finished, NEVER))
        # The children of each node in a row: [Q, A, C] → [Q, A · C].
        child = read.children.flatten(1)
        entered = (reached[:, :, None] + read.entering).flatten(1)
        finished = self._scoring.is_leaf(child) & (self._scoring.tokens_to_read(child) == 0)
        self._add_leaves(child, entered.masked_fill(~finished, NEVER))
        above = read.slot[:, :, None].expand_as(read.children).flatten(1)
        self._add_open(child, entered.masked_fill(finished, NEVER), above, torch.zeros_like(child))
        # Edges that were not read to their end.
        self._add_open(node, reached.masked_fill(read.ended, NEVER), read.slot, read.n_read)

    def _add_leaves(self, leaf: Tensor, log_p: Tensor) -> None:
        """Keep the best K of the leaves so far and of `leaf` [Q, n]; -inf is no leaf."""
        score = torch.cat([self._score, self._goal.bound(leaf, log_p)], 1)
        leaf = torch.cat([self._leaf, leaf], 1)
        best = best_columns(score, self._goal.order(leaf), self._k)
        self._score = score.gather(1, best)
        self._leaf = leaf.gather(1, best)
        self._leaf_log_p = torch.cat([self._leaf_log_p, log_p], 1).gather(1, best)

    def _add_open(self, node: Tensor, log_p: Tensor, above: Tensor, n_read: Tensor) -> None:
        """Put nodes [Q, n] into the frontier, and keep the `FRONTIER` best; -inf is no node."""
        bounds = torch.cat([self._bound, self._goal.bound(node, log_p)], 1)
        kept, best = bounds.topk(min(FRONTIER + 1, bounds.shape[1]), dim=1)
        if kept.shape[1] > FRONTIER:
            self._dropped = torch.maximum(self._dropped, kept[:, -1])
        self._bound = kept[:, :FRONTIER]
        best = best[:, :FRONTIER]
        self._log_p = torch.cat([self._log_p, log_p], 1).gather(1, best)
        self._open = torch.cat([self._open, node], 1).gather(1, best)
        self._above = torch.cat([self._above, above], 1).gather(1, best)
        self._n_read = torch.cat([self._n_read, n_read], 1).gather(1, best)


def best_columns(scores: Tensor, order: Tensor, k: int) -> Tensor:
    """Return the columns of the `k` best of `scores` [Q, n], best first. Shape: [Q, k].

    Of equal scores, the smaller `order` [Q, n] goes first; topk alone lets the number of columns
    decide, and so the batch.
    """
    # The bits of a float sort as an integer does, negative ones after their magnitude is turned
    # round; the order then fills the lower half of 64 bits. Adding 0 makes -0 equal 0.
    bits = (scores + 0.0).view(torch.int32).long()
    high = bits.where(bits >= 0, bits ^ 0x7FFFFFFF)
    return ((high << 32) - order).topk(k, dim=1).indices
