"""Reading edges of the trie for a batch of queries, many at once, each behind its own ancestors.

Knows nothing about which edges are worth reading.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from groundrec.rank.search.scoring import NEVER, TrieMask, TrieScoring
from groundrec.rank.search.tree_reader import TreeReader
from groundrec.text.trie import ROOT

__all__ = ["LOGITS_AT_ONCE", "Branches", "Read"]

LOGITS_AT_ONCE = 2**27
"""Most logits one pass may hold (512 MiB in fp32)."""


@dataclass(frozen=True)
class Read:
    """What reading the edges into A nodes per query gave. Padding has `real` False and
    log-probabilities of -inf.
    """

    column: Tensor
    """Which of the nodes asked for this is. Shape: [Q, A]."""
    real: Tensor
    """Shape: [Q, A], bool."""
    place: Tensor
    """How many tokens of the edge have been read by now. Shape: [Q, A]."""
    ended: Tensor
    """Whether those are all that need to be read. Shape: [Q, A], bool."""
    slot: Tensor
    """Tree slot of the last of them. Shape: [Q, A]."""
    chain: Tensor
    """Log-probability of the token behind each one that was read now, inside the edge; then 0.
    Shape: [Q, A, L].
    """
    children: Tensor
    """Shape: [Q, A, C]."""
    entering: Tensor
    """Log-probability of entering each child, where the edge has ended. Shape: [Q, A, C]."""


class Branches:
    """The tree of one batch of Q queries, as far as it has been read."""

    def __init__(self, scoring: TrieScoring, reader: TreeReader, trie_mask: TrieMask) -> None:
        self.scoring = scoring
        self.reader = reader
        self.trie_mask = trie_mask
        self._seen = torch.zeros(
            len(trie_mask), 0, 0, dtype=torch.bool, device=scoring.depth.device
        )
        """Which tree tokens each one sees. Shape: [Q, S, S]."""
        self.spent = torch.zeros(len(trie_mask), dtype=torch.long, device=scoring.depth.device)
        """Tree tokens read for each query. Shape: [Q]."""
        self.read_before = 0
        """Tree tokens read for queries that are not kept any more."""

    def root(self) -> Read:
        """Return what follows the prompts, which needs no further reading: A = 1, no chain."""
        nodes = torch.full((len(self.trie_mask), 1), ROOT, device=self.spent.device)
        most = int(self.scoring.trie.child_counts[ROOT])
        weights = self.scoring.log_weights(self.reader.logits)
        none = torch.zeros_like(nodes)
        children, entering = self.scoring.log_children(weights, none, nodes, most, self.trie_mask)
        there = nodes == ROOT
        chain = torch.zeros(len(nodes), 1, 0, device=nodes.device)
        return Read(none, there, none, there, none - 1, chain, children, entering)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the queries only. `rows`: int64 [q]."""
        self.read_before += int(self.spent.sum() - self.spent[rows].sum())
        self.reader.keep(rows)
        self.trie_mask = self.trie_mask.take(rows)
        self._seen = self._seen[rows]
        self.spent = self.spent[rows]

    def read(
        self,
        nodes: Tensor,
        above: Tensor,
        wanted: Tensor,
        place: Tensor | None = None,
        stride: int = 2**31,
    ) -> list[Read]:
        """Read the edges into the `wanted` ones of `nodes`; several passes where one would hold too
        many logits.

        Nodes whose edge needs no reading are left out; the list is empty where none does.

        Args:
            nodes: Shape: [Q, W].
            above: Tree slot of the last token before each edge, -1 behind the prompt. Shape: [Q, W].
            wanted: Shape: [Q, W], bool.
            place: How many tokens of each edge have been read before; none when left out. Shape: [Q, W].
            stride: Most tokens to read of each edge.
        """
        place = torch.zeros_like(nodes) if place is None else place
        length = (self.scoring.tokens_to_read(nodes) - place).clamp(max=stride) * wanted
        fresh = length > 0
        sizes = [
            length.sum(1),
            length.amax(1),
            fresh.sum(1),
            (self.scoring.child_count[nodes] * fresh).amax(1),
        ]
        total, longest, width, most = (
            torch.stack(sizes).amax(1).tolist()
        )  # the one thing the host has to know
        if total == 0:
            return []
        rows = width if self.scoring.renormalised else total
        if width > 1 and len(nodes) * rows * self.scoring.outputs > LOGITS_AT_ONCE:
            half = fresh.cumsum(1) <= (width + 1) // 2
            return [
                part
                for side in (half, ~half)
                for part in self.read(nodes, above, fresh & side, place, stride)
            ]
        column = fresh.long().argsort(dim=1, descending=True, stable=True)[:, :width]
        nodes, above, place, length = (t.gather(1, column) for t in (nodes, above, place, length))
        return [self._pass(column, nodes, above, place, length, (total, longest, most))]

    def _pass(
        self,
        column: Tensor,
        nodes: Tensor,
        above: Tensor,
        start: Tensor,
        length: Tensor,
        sizes: tuple[int, int, int],
    ) -> Read:
        scoring = self.scoring
        device = nodes.device
        total, longest, most = sizes
        ends = length.cumsum(1)
        step = torch.arange(total, device=device).expand(len(nodes), -1).contiguous()
        real = step < ends[:, -1:]
        owner = torch.searchsorted(ends, step, right=True).clamp(max=nodes.shape[1] - 1)
        offset = step - (ends - length).gather(1, owner)
        place = start.gather(1, owner) + offset
        node = nodes.gather(1, owner)
        tokens = scoring.edge_token(node, place).where(real, 0)
        depth = (scoring.depth[node] - scoring.edge_length[node] + 1 + place).where(real, 1)
        before = self.reader.slots
        self._look(owner, place, above.gather(1, owner), real)
        last = (ends - 1).clamp(min=0)
        rows = last if scoring.renormalised else step
        weights = scoring.log_weights(self.reader.read(tokens, depth, self._seen[:, -total:], rows))
        behind = (
            torch.arange(nodes.shape[1], device=device).expand_as(nodes)
            if scoring.renormalised
            else last
        )
        children, entering = scoring.log_children(
            weights, behind, nodes, max(most, 1), self.trie_mask
        )
        there = length > 0
        reached = start + length
        ended = there & (reached == scoring.tokens_to_read(nodes))
        self.spent += ends[:, -1]
        return Read(
            column=column,
            real=there,
            place=reached,
            ended=ended,
            slot=before + last,
            chain=self._chain(
                weights, node, place, real, owner * longest + offset, (*nodes.shape, longest)
            ),
            children=children,
            entering=entering.masked_fill(~ended[:, :, None], NEVER),
        )

    def _look(self, owner: Tensor, place: Tensor, above: Tensor, real: Tensor) -> None:
        """Extend `seen` by T tokens: each sees what the slot `above` its edge sees, and its own
        edge so far.
        """
        old = self._seen.shape[1]
        new = owner.shape[1]
        own = (owner[:, :, None] == owner[:, None]) & (place[:, None] <= place[:, :, None])
        seen = torch.nn.functional.pad(self._seen, (0, new, 0, new))
        if old:
            rows = above.clamp(0, old - 1)[:, :, None].expand(-1, -1, old)
            seen[:, old:, :old] = self._seen.gather(1, rows) & (above >= 0)[:, :, None]
        seen[:, old:, old:] = own & real[:, :, None] & real[:, None]
        self._seen = seen

    def _chain(
        self,
        weights: Tensor,
        node: Tensor,
        place: Tensor,
        real: Tensor,
        at: Tensor,
        shape: tuple[int, ...],
    ) -> Tensor:
        """Return the log-probabilities of the forced tokens behind those read, put `at` their
        places of `shape`.
        """
        chain = torch.zeros(shape, device=node.device)
        if self.scoring.renormalised:
            return chain
        forced = real & (place + 1 < self.scoring.edge_length[node])
        following = self.scoring.edge_token(node, (place + 1).where(forced, 0))
        steps = weights.gather(2, following[:, :, None])[:, :, 0]
        steps = (steps * self.trie_mask.alpha).where(forced, 0)
        return chain.flatten(1).scatter_add(1, at.where(forced, 0), steps).view(shape)
