"""Best-first search along the trie: the exact best K leaves, and the proof.

Log-probabilities are never positive, so the score of a node bounds that of every leaf below it. The
nodes with the best bounds are read, several a pass; when K finished leaves score above every bound
that is left, nothing better can be hidden. Knows nothing about items.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from groundrec.rank.search.branches import Branches, Read
from groundrec.rank.search.scoring import NEVER, TrieMask
from groundrec.text.trie import ROOT

__all__ = ["STRIDE", "BestFirst", "Found"]

FRONTIER = 4096
"""Most open nodes kept for each query; the best bound among those dropped is remembered."""
STRIDE = 4
"""Most tokens of an edge that are read before its bound is looked at again."""
SHRINK = 0.75
"""Finished queries leave the batch when no more than this share of it is still searched."""


@dataclass(frozen=True)
class Found:
    """The best leaves that were found for Q queries."""

    leaves: Tensor
    """Shape: [Q, K]."""
    scores: Tensor
    """Descending; -inf where there are fewer leaves. Shape: [Q, K]."""
    bound: Tensor
    """No leaf outside scores more than this; -inf where the list is proved. Shape: [Q]."""


class BestFirst:
    """One best-first search over Q queries, until all are proved or have read `budget` tree tokens.

    About `width` tokens are read a pass for each query: more take fewer passes and read some nodes
    in vain. With a `goal`, only leaves that it allows are looked for.
    """

    def __init__(
        self, branches: Branches, k: int, width: int, budget: int, goal: TrieMask | None = None
    ) -> None:
        self._branches = branches
        self._scoring = branches.scoring
        self._goal = goal
        self._width = width
        self._budget = budget
        self._k = k
        q = len(branches.trie_mask)
        device = self._scoring.depth.device
        self._query = torch.arange(q, device=device)
        """Which query each row of what follows is about."""
        self._open = torch.full((q, 1), ROOT, device=device)
        self._bound = torch.full((q, 1), NEVER, device=device)
        """Open nodes and their bounds, best first. Shapes: [Q, F]."""
        self._above = torch.full((q, 1), -1, device=device)
        """Tree slot of the last token before what is to be read of the edge into each. Shape: [Q,
        F].
        """
        self._place = torch.zeros((q, 1), dtype=torch.long, device=device)
        """How many tokens of that edge have been read. Shape: [Q, F]."""
        self._dropped = torch.full((q,), NEVER, device=device)
        self._leaf = torch.full((q, k), ROOT, device=device)
        self._score = torch.full((q, k), NEVER, device=device)
        """The best leaves so far, and their scores. Shapes: [Q, K]."""
        self._found = Found(self._leaf.clone(), self._score.clone(), self._dropped.clone())

    def run(self) -> Found:
        """Return the best leaves."""
        root = torch.zeros_like(self._bound)
        self._note(self._branches.root(), root, self._open)
        while self._step():
            pass
        return self._found

    def _step(self) -> bool:
        """Read the nodes with the best bounds; return whether there were any."""
        worth = self._worth()
        searched = worth.any(1)
        count = int(searched.sum())
        if count < len(searched) and (count == 0 or count <= SHRINK * len(searched)):
            self._leave(~searched, searched.nonzero()[:, 0])
            worth = worth[searched]
        if count == 0:
            return False
        width = worth.shape[1]
        bound = self._bound[:, :width]
        node = self._open[:, :width]
        reads = self._branches.read(
            node, self._above[:, :width], worth, self._place[:, :width], STRIDE
        )
        self._bound = torch.cat([bound.masked_fill(worth, NEVER), self._bound[:, width:]], 1)
        for read in reads:
            self._note(read, bound.gather(1, read.column), node.gather(1, read.column))
        return True

    def _worth(self) -> Tensor:
        """Return which of the best open nodes to read next: enough for `width` tokens, none in
        vain. Shape: [Q, W].
        """
        width = min(self._width, self._bound.shape[1])
        bound = self._bound[:, :width]
        length = self._scoring.tokens_to_read(self._open[:, :width])
        length = (length - self._place[:, :width]).clamp(max=STRIDE)
        worth = (
            (bound >= self._score[:, -1:])
            & (bound > NEVER)
            & (length.cumsum(1) - length < self._width)
        )
        return worth & (self._branches.spent < self._budget)[:, None]

    def _leave(self, finished: Tensor, kept: Tensor) -> None:
        """Write down the result of the `finished` queries, and go on with the `kept` ones."""
        rows = self._query[finished]
        bound = torch.maximum(self._bound[:, 0], self._dropped)
        bound = bound.where(bound >= self._score[:, -1], NEVER)
        self._found.leaves[rows] = self._leaf[finished]
        self._found.scores[rows] = self._score[finished]
        self._found.bound[rows] = bound[finished]
        for name in (
            "_query",
            "_open",
            "_bound",
            "_above",
            "_place",
            "_dropped",
            "_leaf",
            "_score",
        ):
            setattr(self, name, getattr(self, name)[kept])
        if len(kept):
            self._branches.keep(kept)
            self._goal = self._goal and self._goal.take(kept)

    def _note(self, read: Read, bound: Tensor, node: Tensor) -> None:
        """Finish the leaves that were read, open or finish their children, and go on with
        unfinished edges later.
        """
        reached = (bound + read.chain.sum(2)).masked_fill(~read.real, NEVER)
        self._finish(node, reached.masked_fill(~(self._scoring.is_leaf(node) & read.ended), NEVER))
        child = read.children.flatten(1)
        score = (reached[:, :, None] + read.entering).flatten(1)
        if self._goal:
            score = score.masked_fill(~self._goal.allowed(child), NEVER)
        done = self._scoring.is_leaf(child) & (self._scoring.tokens_to_read(child) == 0)
        self._finish(child, score.masked_fill(~done, NEVER))
        above = read.slot[:, :, None].expand_as(read.children).flatten(1)
        self._enlarge(child, score.masked_fill(done, NEVER), above, torch.zeros_like(child))
        self._enlarge(node, reached.masked_fill(read.ended, NEVER), read.slot, read.place)

    def _finish(self, leaf: Tensor, score: Tensor) -> None:
        self._score, best = torch.cat([self._score, score], 1).topk(self._k, dim=1)
        self._leaf = torch.cat([self._leaf, leaf], 1).gather(1, best)

    def _enlarge(self, node: Tensor, bound: Tensor, above: Tensor, place: Tensor) -> None:
        every = torch.cat([self._bound, bound], 1)
        kept, best = every.topk(min(FRONTIER + 1, every.shape[1]), dim=1)
        if kept.shape[1] > FRONTIER:
            self._dropped = torch.maximum(self._dropped, kept[:, -1])
        self._bound = kept[:, :FRONTIER]
        best = best[:, :FRONTIER]
        self._open = torch.cat([self._open, node], 1).gather(1, best)
        self._above = torch.cat([self._above, above], 1).gather(1, best)
        self._place = torch.cat([self._place, place], 1).gather(1, best)
