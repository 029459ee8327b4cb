"""Reading edges of the trie for a batch of queries, many at once, each after its own ancestors.

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
    """What reading the edges into A nodes of each query gave.

    Padding has `real` False and log-probabilities of -inf.
    """

    column: Tensor
    """Which of the nodes asked for each one is. Shape: [Q, A]."""
    real: Tensor
    """Shape: [Q, A], bool."""
    n_read: Tensor
    """How many tokens of the edge have been read by now. Shape: [Q, A]."""
    ended: Tensor
    """Whether those are all that need to be read. Shape: [Q, A], bool."""
    slot: Tensor
    """Tree slot of the last of them. Shape: [Q, A]."""
    chain: Tensor
    """Log-probability of the forced token after each token read in this pass; then 0.
    Shape: [Q, A, L].
    """
    children: Tensor
    """Shape: [Q, A, C]."""
    entering: Tensor
    """Log-probability of entering each child, where the edge has ended. Shape: [Q, A, C]."""


@dataclass(frozen=True)
class _TreeTokens:
    """The T tokens of one pass. Shapes: [Q, T]."""

    owner: Tensor
    """Which of the A edges each token belongs to."""
    index: Tensor
    """How many tokens of this edge come before it in this pass."""
    offset: Tensor
    """How many tokens of this edge come before it in all."""
    node: Tensor
    """The node that the edge leads into."""
    real: Tensor
    """False for padding."""


class Branches:
    """The tree of one batch of Q queries, as far as it has been read."""

    def __init__(self, scoring: TrieScoring, reader: TreeReader, trie_mask: TrieMask) -> None:
        self.scoring = scoring
        self.reader = reader
        self.trie_mask = trie_mask
        q = len(trie_mask)
        device = scoring.depth.device
        self._seen = torch.zeros(q, 0, 0, dtype=torch.bool, device=device)
        """Which tree tokens each one attends to. Shape: [Q, S, S]."""
        self.spent = torch.zeros(q, dtype=torch.long, device=device)
        """Tree tokens read for each query. Shape: [Q]."""
        self.read_before = 0
        """Tree tokens read for queries that have left the batch."""

    def root(self) -> Read:
        """Return what follows the prompts, which needs no further reading: A = 1, L = 0."""
        nodes = torch.full((len(self.trie_mask), 1), ROOT, device=self.spent.device)
        most = int(self.scoring.trie.child_counts[ROOT])
        weights = self.scoring.log_weights(self.reader.logits)
        zero = torch.zeros_like(nodes)
        real = nodes == ROOT
        children, entering = self.scoring.log_children(weights, zero, nodes, most, self.trie_mask)
        return Read(
            column=zero,
            real=real,
            n_read=zero,
            ended=real,
            slot=zero - 1,
            chain=torch.zeros(len(nodes), 1, 0, device=nodes.device),
            children=children,
            entering=entering,
        )

    def keep(self, rows: Tensor) -> None:
        """Continue with some of the queries only. `rows`: int64 [q]."""
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
        n_read: Tensor | None = None,
        stride: int = 2**31,
    ) -> list[Read]:
        """Read the edges into the `wanted` ones of `nodes`, in several passes if logits are many.

        Nodes whose edge needs no reading are left out; the list is empty if all are.

        Args:
            nodes: Shape: [Q, W].
            above: Tree slot of the last token before each edge, -1 after the prompt. Shape: [Q, W].
            wanted: Shape: [Q, W], bool.
            n_read: How many tokens of each edge were read before; 0 when omitted. Shape: [Q, W].
            stride: Most tokens to read of each edge.
        """
        n_read = torch.zeros_like(nodes) if n_read is None else n_read
        length = (self.scoring.tokens_to_read(nodes) - n_read).clamp(max=stride) * wanted
        fresh = length > 0
        sizes = [
            length.sum(1),
            length.amax(1),
            fresh.sum(1),
            (self.scoring.child_count[nodes] * fresh).amax(1),
        ]
        # The only transfer to the host: four numbers at once, the largest over all queries.
        total, longest, width, most = torch.stack(sizes).amax(1).tolist()
        if total == 0:
            return []
        rows = width if self.scoring.renormalised else total
        if width > 1 and len(nodes) * rows * self.scoring.outputs > LOGITS_AT_ONCE:
            half = fresh.cumsum(1) <= (width + 1) // 2
            return [
                part
                for side in (half, ~half)
                for part in self.read(nodes, above, fresh & side, n_read, stride)
            ]
        # Move what is to be read to the left and cut the rest off: [Q, W] → [Q, A].
        column = fresh.long().argsort(dim=1, descending=True, stable=True)[:, :width]
        nodes, above, n_read, length = (t.gather(1, column) for t in (nodes, above, n_read, length))
        return [self._pass(column, nodes, above, n_read, length, (total, longest, most))]

    def _pass(
        self,
        column: Tensor,
        nodes: Tensor,
        above: Tensor,
        n_read: Tensor,
        length: Tensor,
        sizes: tuple[int, int, int],
    ) -> Read:
        """Read `length` more tokens of the edges into `nodes` in one pass. Shapes: [Q, A].

        `sizes` are T, the most tokens of a query; L, the most of an edge; the most children.
        """
        scoring = self.scoring
        total, longest, most = sizes
        tokens = self._lay_out(nodes, n_read, length, total)
        before = self.reader.slots
        weights = self._read_tokens(tokens, above, length)
        last = (length.cumsum(1) - 1).clamp(min=0)  # the last token of each edge, in [0, T)
        # Renormalised, only the last token of each edge has logits; else every token has.
        rows = (
            torch.arange(nodes.shape[1], device=nodes.device).expand_as(nodes)
            if scoring.renormalised
            else last
        )
        children, entering = scoring.log_children(
            weights, rows, nodes, max(most, 1), self.trie_mask
        )
        real = length > 0
        ended = real & (n_read + length == scoring.tokens_to_read(nodes))
        self.spent += length.sum(1)
        return Read(
            column=column,
            real=real,
            n_read=n_read + length,
            ended=ended,
            slot=before + last,
            chain=self._chain(weights, tokens, (len(nodes), nodes.shape[1], longest)),
            children=children,
            entering=entering.masked_fill(~ended[:, :, None], NEVER),
        )

    def _lay_out(self, nodes: Tensor, n_read: Tensor, length: Tensor, total: int) -> _TreeTokens:
        """Return the tokens of all edges [Q, A], one edge after the other, padded to [Q, T]."""
        ends = length.cumsum(1)
        step = torch.arange(total, device=nodes.device).expand(len(nodes), -1).contiguous()
        owner = torch.searchsorted(ends, step, right=True).clamp(max=nodes.shape[1] - 1)
        index = step - (ends - length).gather(1, owner)
        offset = n_read.gather(1, owner) + index
        return _TreeTokens(owner, index, offset, nodes.gather(1, owner), step < ends[:, -1:])

    def _read_tokens(self, tokens: _TreeTokens, above: Tensor, length: Tensor) -> Tensor:
        """Return log-weights after the tokens, or only after each edge's last. [Q, T or A, V]."""
        scoring = self.scoring
        ids = scoring.edge_token(tokens.node, tokens.offset).where(tokens.real, 0)
        edge_start = scoring.depth[tokens.node] - scoring.edge_length[tokens.node]
        depth = (edge_start + 1 + tokens.offset).where(tokens.real, 1)
        self._extend_seen(tokens, above.gather(1, tokens.owner))
        if scoring.renormalised:
            wanted = (length.cumsum(1) - 1).clamp(min=0)
        else:
            wanted = torch.arange(ids.shape[1], device=ids.device).expand_as(ids).contiguous()
        logits = self.reader.read(ids, depth, self._seen[:, -ids.shape[1] :], wanted)
        return scoring.log_weights(logits)

    def _extend_seen(self, tokens: _TreeTokens, above: Tensor) -> None:
        """Extend `_seen` from [Q, S, S] to [Q, S + T, S + T].

        Each new token attends to what the slot `above` [Q, T] its edge attends to, and to the
        tokens of its own edge up to itself.
        """
        old = self._seen.shape[1]
        new = above.shape[1]
        same_edge = tokens.owner[:, :, None] == tokens.owner[:, None]
        not_later = tokens.offset[:, None] <= tokens.offset[:, :, None]
        seen = torch.nn.functional.pad(self._seen, (0, new, 0, new))
        if old:
            rows = above.clamp(0, old - 1)[:, :, None].expand(-1, -1, old)
            seen[:, old:, :old] = self._seen.gather(1, rows) & (above >= 0)[:, :, None]
        both_real = tokens.real[:, :, None] & tokens.real[:, None]
        seen[:, old:, old:] = same_edge & not_later & both_real
        self._seen = seen

    def _chain(self, weights: Tensor, tokens: _TreeTokens, shape: tuple[int, int, int]) -> Tensor:
        """Return the log-probability of the forced token after each token read. [Q, A, L].

        `weights` [Q, T, V]; a forced token is one inside an edge, and costs nothing renormalised.
        """
        chain = torch.zeros(shape, device=weights.device)
        if self.scoring.renormalised:
            return chain
        following = tokens.offset + 1
        forced = tokens.real & (following < self.scoring.edge_length[tokens.node])
        ids = self.scoring.edge_token(tokens.node, following.where(forced, 0))
        log_p = weights.gather(2, ids[:, :, None])[:, :, 0]
        log_p = (log_p * self.trie_mask.alpha).where(forced, 0)
        # Each token's cell of the flat [Q, A · L]; those not forced add 0 to the first cell.
        cell = tokens.owner * shape[2] + tokens.index
        return chain.flatten(1).scatter_add(1, cell.where(forced, 0), log_p).view(shape)
