"""Beam search along the trie: all hypotheses grow by one token per step.

The same hypotheses, scores and stopping as transformers' `generate` with `early_stopping="never"`.
Forced tokens are read several at a time, and consumed one per step. With another goal than the
likeliest leaves, hypotheses are ranked by its bounds. Knows nothing about items.
"""

from __future__ import annotations

import torch
from torch import Tensor

from groundrec.rank.search.branches import Branches, Read
from groundrec.rank.search.goals import Goal
from groundrec.rank.search.scoring import NEVER
from groundrec.text.trie import ROOT

__all__ = ["WHOLE", "BeamSearch"]

WHOLE = 2**31
"""A stride longer than any edge."""


class BeamSearch:
    """One beam search over Q queries.

    Hypotheses are columns of [Q, B] tensors; dead ones score -inf.

    The best `keep` finished ones are kept; one of n tokens scores its log-probability divided by n
    ** `length_penalty`. At most `stride` tokens of an edge are read at once: more take fewer passes
    and read some needlessly.
    """

    def __init__(
        self,
        branches: Branches,
        beams: int,
        keep: int,
        length_penalty: float = 0.0,
        *,
        stride: int = WHOLE,
        goal: Goal | None = None,
    ) -> None:
        self._branches = branches
        self._scoring = branches.scoring
        self._beams = beams
        self._stride = stride
        self._penalty = length_penalty
        self._goal = goal or Goal()
        self._keep = keep
        device = self._scoring.depth.device
        shape = (len(branches.trie_mask), beams)
        self._node = torch.full(shape, ROOT, device=device)
        """The node whose edge the hypothesis is in. Shape: [Q, B]."""
        self._used = torch.zeros(shape, dtype=torch.long, device=device)
        """How many tokens of that edge the hypothesis has taken. Shape: [Q, B]."""
        self._n_read = torch.zeros(shape, dtype=torch.long, device=device)
        """How many tokens of that edge the model has read. Shape: [Q, B]."""
        self._log_p = torch.full(shape, NEVER, device=device)
        """Log-probability of the tokens taken. Shape: [Q, B]."""
        self._log_p[:, 0] = 0
        self._bound = self._log_p
        """What the goal makes of it. Shape: [Q, B]."""
        self._slot = torch.full(shape, -1, device=device)
        """Tree slot of the last token read. Shape: [Q, B]."""
        self._first = torch.zeros(shape, dtype=torch.long, device=device)
        """Offset in the edge of the first token that `_chain` is about. Shape: [Q, B]."""
        self._chain = torch.zeros(*shape, 1, device=device)
        """Log-probability of the token after each token of the edge from `_first` on. [Q, B, L]."""
        self._children = torch.zeros(*shape, 1, dtype=torch.long, device=device)
        """The best children of the node. Shape: [Q, B, W]."""
        self._children_log_p = torch.full((*shape, 1), NEVER, device=device)
        """Their log-probabilities. Shape: [Q, B, W]."""
        self._leaf = torch.full((shape[0], keep), ROOT, device=device)
        """The best finished hypotheses. Shape: [Q, K]."""
        self._leaf_score = torch.full((shape[0], keep), NEVER, device=device)
        """Their scores by the goal, descending. Shape: [Q, K]."""
        self._leaf_log_p = self._leaf_score
        """Their log-probabilities, divided by the length penalty as scores are. Shape: [Q, K]."""
        self.steps = 0

    def run(self) -> tuple[Tensor, Tensor]:
        """Return the best leaves, best first, and their log-probabilities. Shapes: [Q, K], twice.

        These are divided by the length penalty.
        """
        self.begin()
        while self.continues():
            self.step()
        return self._leaf, self._leaf_log_p

    def begin(self) -> None:
        """Take the root's children as the first tokens."""
        self._update(self._branches.root())

    def continues(self) -> bool:
        """Return whether any hypothesis may still end among the best."""
        longest = int(self._scoring.trie.depth.max()) if self._penalty > 0 else max(self.steps, 1)
        hope = self._bound.amax(1) / longest**self._penalty
        return bool(((hope > self._leaf_score[:, -1]) & (hope > NEVER)).any())

    def is_alive(self, node: int, used: int) -> bool:
        """Return whether the first query has a living hypothesis `used` tokens into the edge."""
        here = (self._node[0] == node) & (self._used[0] == used) & (self._bound[0] > NEVER)
        return bool(here.any())

    def has_kept(self, leaf: int) -> bool:
        """Return whether `leaf` is among the finished hypotheses kept for the first query."""
        return bool(((self._leaf[0] == leaf) & (self._leaf_score[0] > NEVER)).any())

    def step(self) -> None:
        """Grow every hypothesis by one token; keep the best, finish those at a leaf, read on."""
        self.steps += 1
        # Candidates of each hypothesis: W children if it is at the end of its edge, else the one
        # forced token, in the last column. Shape: [Q, B, W + 1].
        candidates = torch.cat([self._branching_log_p(), self._forced_log_p()], dim=2)
        width = candidates.shape[2]
        log_p = candidates.flatten(1)
        node = torch.cat([self._children, self._node[:, :, None]], dim=2).flatten(1)
        # Twice as many as beams: at most half of them can be finished ones.
        count = min(2 * self._beams, log_p.shape[1])
        bound, flat = self._goal.bound(node, log_p).topk(count, dim=1)
        log_p = log_p.gather(1, flat)
        node = node.gather(1, flat)
        origin = flat // width  # the hypothesis each one continues, [Q, C]
        branched = flat % width < width - 1
        used = torch.where(branched, 1, self._used.gather(1, origin) + 1)
        finished = self._scoring.is_leaf(node) & (used == self._scoring.edge_length[node])
        # As in `generate`, only the best B candidates may finish.
        b = self._beams
        ended = bound.masked_fill(~finished, NEVER)
        self._finish(node[:, :b], ended[:, :b], log_p[:, :b])
        self._bound, kept = bound.masked_fill(finished, NEVER).topk(b, dim=1)  # [Q, C] → [Q, B]
        self._log_p = log_p.gather(1, kept).masked_fill(self._bound == NEVER, NEVER)
        self._node = node.gather(1, kept)
        self._used = used.gather(1, kept)
        self._inherit(origin.gather(1, kept), branched.gather(1, kept))
        self._read()

    def _branching_log_p(self) -> Tensor:
        """Return the log-probability up to each child; -inf inside an edge. Shape: [Q, B, W]."""
        at_end = self._used == self._scoring.edge_length[self._node]
        log_p = self._children_log_p.masked_fill(~at_end[:, :, None], NEVER)
        return self._log_p[:, :, None] + log_p

    def _forced_log_p(self) -> Tensor:
        """Return it up to the next token of the edge; -inf at its end. Shape: [Q, B, 1]."""
        at_end = self._used == self._scoring.edge_length[self._node]
        index = (self._used - 1 - self._first).clamp(0, self._chain.shape[2] - 1)
        log_p = self._chain.gather(2, index[:, :, None])
        return self._log_p[:, :, None] + log_p.masked_fill(at_end[:, :, None], NEVER)

    def _inherit(self, origin: Tensor, branched: Tensor) -> None:
        """Give each hypothesis what was read for the one it continues.

        `origin` [Q, B] is that hypothesis. Where `branched` [Q, B], a new edge begins.
        """
        self._n_read = self._n_read.gather(1, origin).masked_fill(branched, 0)
        self._first = self._first.gather(1, origin).masked_fill(branched, 0)
        self._slot = self._slot.gather(1, origin)
        self._chain = _rows(self._chain, origin)
        self._children = _rows(self._children, origin)
        self._children_log_p = _rows(self._children_log_p, origin)

    def _finish(self, node: Tensor, score: Tensor, log_p: Tensor) -> None:
        """Keep the best K of the finished hypotheses so far and of `node` [Q, B]; -inf is none."""
        length = self.steps**self._penalty
        score, best = torch.cat([self._leaf_score, score / length], 1).topk(self._keep, dim=1)
        self._leaf_score = score
        self._leaf = torch.cat([self._leaf, node], 1).gather(1, best)
        log_p = torch.cat([self._leaf_log_p, log_p / length], 1).gather(1, best)
        self._leaf_log_p = log_p.masked_fill(score == NEVER, NEVER)

    def _read(self) -> None:
        """Read on where the next token needs it."""
        needed = torch.minimum(self._used, self._scoring.tokens_to_read(self._node))
        wanted = (self._n_read < needed) & (self._bound > NEVER)
        for read in self._branches.read(self._node, self._slot, wanted, self._n_read, self._stride):
            self._update(read)

    def _update(self, read: Read) -> None:
        """Store what was read in the columns [Q, A] it was read for."""
        before = self._n_read.gather(1, read.column)
        first = before.where(read.real, self._first.gather(1, read.column))
        slot = read.slot.where(read.real, self._slot.gather(1, read.column))
        self._first = self._first.scatter(1, read.column, first)
        self._n_read = self._n_read.scatter(1, read.column, read.n_read.where(read.real, before))
        self._slot = self._slot.scatter(1, read.column, slot)
        # Of one node's children, those with the best bounds go on: all have its log-probability.
        bound = self._goal.bound(read.children.flatten(1), read.entering.flatten(1))
        most = min(2 * self._beams, read.children.shape[2])
        best = bound.view_as(read.entering).topk(most, dim=2).indices
        self._chain = _put(self._chain, read, read.chain, 0)
        self._children = _put(self._children, read, read.children.gather(2, best), 0)
        entering = read.entering.gather(2, best)
        self._children_log_p = _put(self._children_log_p, read, entering, NEVER)


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """Return rows `index` [Q, A] of `table` [Q, B, W]."""
    return table.gather(1, index[:, :, None].expand(-1, -1, table.shape[2]))


def _put(table: Tensor, read: Read, rows: Tensor, fill: float) -> Tensor:
    """Return `table` [Q, B, W] with `rows` [Q, A, w] in the columns read, padded with `fill`."""
    width = max(table.shape[2], rows.shape[2])
    table, rows = (
        torch.nn.functional.pad(t, (0, width - t.shape[2]), value=fill) for t in (table, rows)
    )
    rows = rows.where(read.real[:, :, None], _rows(table, read.column))
    return table.scatter(1, read.column[:, :, None].expand_as(rows), rows)
