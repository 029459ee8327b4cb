"""Beam search along the trie: all hypotheses grow by one token a step.

The same hypotheses, scores and stopping as transformers' `generate` with `early_stopping="never"`.
Forced tokens are read together, some at a time, and handed out one a step. Knows nothing about
items.
"""

from __future__ import annotations

import torch
from torch import Tensor

from groundrec.rank.search.branches import Branches, Read
from groundrec.rank.search.scoring import NEVER
from groundrec.text.trie import ROOT

__all__ = ["WHOLE", "BeamSearch"]

WHOLE = 2**31
"""A stride that no edge is longer than."""


class BeamSearch:
    """One beam search over Q queries. Hypotheses are columns of [Q, B] tensors; dead ones have
    score -inf.

    The best `keep` finished ones are kept; one of n tokens scores its log-probability divided by n
    ** `length_penalty`. At most `stride` tokens of an edge are read at once: more take fewer passes
    and read some in vain.
    """

    def __init__(
        self,
        branches: Branches,
        beams: int,
        keep: int,
        length_penalty: float = 0.0,
        *,
        stride: int = WHOLE,
    ) -> None:
        self._branches = branches
        self._scoring = branches.scoring
        self._beams = beams
        self._stride = stride
        self._penalty = length_penalty
        self._keep = keep
        device = self._scoring.depth.device
        shape = (len(branches.trie_mask), beams)
        self._node = torch.full(shape, ROOT, device=device)
        self._used = torch.zeros(shape, dtype=torch.long, device=device)
        """Tokens of the edge into the node that the hypothesis has taken."""
        self._place = torch.zeros(shape, dtype=torch.long, device=device)
        """Tokens of that edge that have been read."""
        self._score = torch.full(shape, NEVER, device=device)
        self._score[:, 0] = 0
        self._slot = torch.full(shape, -1, device=device)
        """Tree slot of the last token that has been read."""
        self._chain = torch.zeros(*shape, 1, device=device)
        self._first = torch.zeros(shape, dtype=torch.long, device=device)
        """Log-probability of the token behind each one of the edge from the `first` on. Shapes: [Q,
        B, L], [Q, B].
        """
        self._kids = torch.zeros(*shape, 1, dtype=torch.long, device=device)
        self._kids_log = torch.full((*shape, 1), NEVER, device=device)
        """The best children of the node, and their log-probabilities. Shape: [Q, B, W]."""
        self._found = torch.full((shape[0], keep), ROOT, device=device)
        self._found_score = torch.full((shape[0], keep), NEVER, device=device)
        self.steps = 0

    def run(self) -> tuple[Tensor, Tensor]:
        """Return the best finished leaves and their scores, descending. Shapes: [Q, keep]."""
        self.begin()
        while self.goes_on():
            self.step()
        return self._found, self._found_score

    def begin(self) -> None:
        """Note what follows the prompts."""
        self._note(self._branches.root())

    def goes_on(self) -> bool:
        """Return whether any hypothesis may still end among the best found."""
        longest = int(self._scoring.trie.depth.max()) if self._penalty > 0 else max(self.steps, 1)
        hope = self._score.amax(1) / longest**self._penalty
        return bool(((hope > self._found_score[:, -1]) & (hope > NEVER)).any())

    def holds(self, node: int, used: int) -> bool:
        """Return whether the first query has a living hypothesis that took `used` tokens of the
        edge into `node`.
        """
        here = (self._node[0] == node) & (self._used[0] == used) & (self._score[0] > NEVER)
        return bool(here.any())

    def has_found(self, leaf: int) -> bool:
        """Return whether `leaf` is among the finished hypotheses kept for the first query."""
        return bool(((self._found[0] == leaf) & (self._found_score[0] > NEVER)).any())

    def step(self) -> None:
        """Grow every hypothesis by one token; keep the best, note the finished ones, read new
        edges.
        """
        self.steps += 1
        at_end = self._used == self._scoring.edge_length[self._node]
        grow = self._score[:, :, None] + self._kids_log.masked_fill(~at_end[:, :, None], NEVER)
        place = (self._used - 1 - self._first).clamp(0, self._chain.shape[2] - 1)
        forced = self._chain.gather(2, place[:, :, None])
        forced = self._score[:, :, None] + forced.masked_fill(at_end[:, :, None], NEVER)
        every = torch.cat([grow, forced], dim=2)
        width = every.shape[2]
        score, flat = every.flatten(1).topk(min(2 * self._beams, every.shape[1] * width), dim=1)
        origin = flat // width
        column = flat % width
        branched = column < width - 1
        child = self._kids.flatten(1).gather(1, origin * (width - 1) + column.clamp(max=width - 2))
        node = torch.where(branched, child, self._node.gather(1, origin))
        used = torch.where(branched, 1, self._used.gather(1, origin) + 1)
        done = self._scoring.is_leaf(node) & (used == self._scoring.edge_length[node])
        self._finish(
            node[:, : self._beams],
            score[:, : self._beams].masked_fill(~done[:, : self._beams], NEVER),
        )
        score, kept = score.masked_fill(done, NEVER).topk(self._beams, dim=1)
        origin = origin.gather(1, kept)
        self._score = score
        self._node = node.gather(1, kept)
        self._used = used.gather(1, kept)
        branched = branched.gather(1, kept)
        self._place, self._first = (
            t.gather(1, origin).masked_fill(branched, 0) for t in (self._place, self._first)
        )
        self._slot = self._slot.gather(1, origin)
        self._chain, self._kids, self._kids_log = (
            _rows(t, origin) for t in (self._chain, self._kids, self._kids_log)
        )
        self._read()

    def _finish(self, node: Tensor, score: Tensor) -> None:
        score = score / self.steps**self._penalty
        score, best = torch.cat([self._found_score, score], 1).topk(self._keep, dim=1)
        self._found = torch.cat([self._found, node], 1).gather(1, best)
        self._found_score = score

    def _read(self) -> None:
        """Read on where the next token needs it; note chains, children and slots."""
        needed = torch.minimum(self._used, self._scoring.tokens_to_read(self._node))
        wanted = (self._place < needed) & (self._score > NEVER)
        for read in self._branches.read(self._node, self._slot, wanted, self._place, self._stride):
            self._note(read)

    def _note(self, read: Read) -> None:
        before = self._place.gather(1, read.column)
        self._first = self._first.scatter(
            1, read.column, before.where(read.real, self._first.gather(1, read.column))
        )
        self._place = self._place.scatter(1, read.column, read.place.where(read.real, before))
        entering, best = read.entering.topk(min(2 * self._beams, read.entering.shape[2]), dim=2)
        self._slot = self._slot.scatter(
            1, read.column, read.slot.where(read.real, self._slot.gather(1, read.column))
        )
        self._chain = _put(self._chain, read, read.chain, 0)
        self._kids = _put(self._kids, read, read.children.gather(2, best), 0)
        self._kids_log = _put(self._kids_log, read, entering, NEVER)


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """Return rows `index` [Q, A] of `table` [Q, B, W]."""
    return table.gather(1, index[:, :, None].expand(-1, -1, table.shape[2]))


def _put(table: Tensor, read: Read, rows: Tensor, fill: float) -> Tensor:
    """Return `table` [Q, B, W] with what was read in its rows, and `fill` behind it."""
    width = max(table.shape[2], rows.shape[2])
    table, rows = (
        torch.nn.functional.pad(t, (0, width - t.shape[2]), value=fill) for t in (table, rows)
    )
    rows = rows.where(read.real[:, :, None], _rows(table, read.column))
    return table.scatter(1, read.column[:, :, None].expand_as(rows), rows)
