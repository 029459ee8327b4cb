"""The best items of the catalogue under a language model: the answer to "how do I know that the item exists?".

Only paths of the catalogue's trie are ever scored, so every answer is an item. A hypothesis is a trie node, carried
through the search, never recomputed from text. The score of an item is the sum of the log-probabilities of its
tokens; `full` normalises each over the whole vocabulary, as BIGRec and D3 sum it, `renormalised` over the tokens
that lead to an allowed item, so a forced token costs nothing and the items' probabilities sum to one.

Knows nothing about users, prompts' words or signals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundrec.core.errors import SearchError
from groundrec.core.types import NO_ITEM, Scores
from groundrec.rank.tree import TreeReader
from groundrec.text.trie import ROOT, Trie

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["ScoreKind", "Search", "Work"]

ScoreKind = Literal["full", "renormalised"]
NEVER = float("-inf")
LOGITS_AT_ONCE = 2**27
"""Most logits one pass of `all` may hold (512 MiB in fp32)."""
TOKENS_AT_ONCE = 1024
"""Most tree tokens one pass of `all` reads per query: attention among them costs their square."""


@dataclass
class Work:
    """What a search asked of the model: forward passes of a batch, and tokens of all its queries."""

    passes: int = 0
    tokens: int = 0


class Search:
    """Finds items of one catalogue with one model. Results do not depend on how queries are batched."""

    def __init__(self, model: PreTrainedModel, trie: Trie, score: ScoreKind = "full") -> None:
        self._model, self._trie = model, trie
        self.renormalised = score == "renormalised"
        self.work = Work()

        def tensor(array: NDArray) -> Tensor:
            return torch.from_numpy(np.asarray(array, dtype=np.int64)).to(model.device)

        self.depth = tensor(trie.depth)
        self._edge_start = tensor(trie.edge_start[:-1])
        self._edge_tokens = tensor(trie.edge_tokens)
        self.edge_length = tensor(trie.edge_lengths)
        self._first_token = tensor(trie.first_tokens)
        self._child_start = tensor(trie.child_start[:-1])
        self.child_count = tensor(trie.child_counts)
        self._children = tensor(trie.children)
        self._item_lo, self._item_hi = tensor(trie.item_lo), tensor(trie.item_hi)
        self._parent = tensor(trie.parent)

    @torch.inference_mode()
    def beam(
        self, prompts: list[list[int]], k: int, beams: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int32], Scores]:
        """Return the `k` best items found by beam search, and their scores. Shapes: [Q, k].

        All hypotheses grow by one token a step, as in transformers' `generate` with `length_penalty=0` and
        `early_stopping="never"`; forced tokens are read together and handed out one a step. The best item can be
        lost where its first tokens look worse than those of `beams` others. `allowed` [Q, I] masks items.
        """
        if beams < k:
            raise SearchError("fewer beams than places in the slate", value=beams, accepted=f"at least {k}")
        reader = TreeReader(self._model, prompts)
        nodes, scores = _BeamSearch(self, reader, self._mass(allowed, len(prompts)), beams, k).run()
        self._count(reader)
        return self._slate(nodes.cpu().numpy(), scores.cpu().numpy(), k, allowed)

    @torch.inference_mode()
    def all(self, prompts: list[list[int]], allowed: NDArray[np.bool_] | None = None) -> Scores:
        """Return the exact score of every item; -inf where `allowed` [Q, I] forbids it. Shape: [Q, I]."""
        reader = TreeReader(self._model, prompts)
        mass = self._mass(allowed, len(prompts))
        entry = torch.zeros(len(prompts), len(self._trie), device=self._model.device)
        chain = torch.zeros_like(entry)
        for nodes in self._chunks(len(prompts)):
            self._read_nodes(reader, nodes, mass, entry, chain)
            reader.forget()
        self._count(reader)
        leaves = np.flatnonzero(self._trie.child_counts == 0)
        total = self._sum_down(entry + chain).cpu().numpy()[:, leaves]
        scores = np.empty((len(prompts), len(self._trie.item_order)), np.float32)
        width = self._trie.item_hi[leaves] - self._trie.item_lo[leaves]
        scores[:, self._trie.item_order] = np.repeat(total, width, axis=1)
        return scores if allowed is None else np.where(allowed, scores, NEVER).astype(np.float32)

    def _mass(self, allowed: NDArray[np.bool_] | None, q: int) -> Tensor:
        """Return running counts of allowed items in the trie's order, from 0. Shape: [Q, I + 1]."""
        order = self._trie.item_order
        table = np.ones((q, len(order)), bool) if allowed is None else allowed[:, order]
        if not table.any(axis=1).all():
            raise SearchError(
                "no item is left", value="a query whose mask allows nothing", accepted="at least one item"
            )
        counts = torch.from_numpy(table.cumsum(axis=1)).to(self._model.device)
        return torch.nn.functional.pad(counts, (1, 0))

    def log_children(self, logits: Tensor, queries: Tensor, nodes: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
        """Return the children of n nodes and the log-probability of entering each. Shapes: [n, C].

        Args:
            logits: What the model says behind each node. Shape: [n, V].
            queries: Row of `mass` for each node. Shape: [n].
            nodes: Shape: [n].
            mass: Running counts of allowed items. Shape: [Q, I + 1].

        Places past a node's last child, and children without an allowed item, have log-probability -inf.
        """
        count = self.child_count[nodes]
        place = torch.arange(int(count.max()), device=nodes.device)
        there = place < count[:, None]
        children = self._children[torch.where(there, self._child_start[nodes][:, None] + place, 0)]
        below = mass[queries[:, None], self._item_hi[children]] - mass[queries[:, None], self._item_lo[children]]
        chosen = logits.gather(1, self._first_token[children].clamp(min=0))
        chosen = chosen.masked_fill(~there | (below == 0), NEVER)
        over = chosen if self.renormalised else logits
        return children, chosen - over.logsumexp(dim=1, keepdim=True)

    def log_chain(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Return the log-probability of forced `tokens` [n] behind `logits` [n, V]; 0 when renormalised. [n]."""
        if self.renormalised:
            return torch.zeros(len(tokens), device=tokens.device)
        return logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=1)

    def edge_token(self, nodes: Tensor, place: Tensor) -> Tensor:
        """Return the token `place` steps into the edge of each node; any token for the root. Shape: [n]."""
        return self._edge_tokens[(self._edge_start[nodes] + place).clamp(max=len(self._edge_tokens) - 1)]

    def tokens_to_read(self, nodes: Tensor) -> Tensor:
        """Return how many tokens of the edge into each node the model must read to score what lies below. [n]."""
        inner = self.child_count[nodes] > 0
        for_leaf = 0 if self.renormalised else 1
        return torch.where(inner, self.edge_length[nodes], (self.edge_length[nodes] - 1).clamp(min=0) * for_leaf)

    def _count(self, reader: TreeReader) -> None:
        self.work.passes += reader.passes
        self.work.tokens += reader.tokens

    def _slate(
        self, nodes: NDArray, scores: Scores, k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.int32], Scores]:
        """Return the items of the leaves `nodes` [Q, k], best first, those of one leaf in the trie's order."""
        q = len(nodes)
        items, best = np.full((q, k), NO_ITEM, np.int32), np.full((q, k), NEVER, np.float32)
        leaves = np.where(np.isneginf(scores), ROOT, nodes)
        width = np.where(leaves == ROOT, 0, self._trie.item_hi[leaves] - self._trie.item_lo[leaves]).ravel()
        row = np.repeat(np.arange(q).repeat(k), width)
        place = np.arange(width.sum()) - np.repeat(width.cumsum() - width, width)
        item = self._trie.item_order[np.repeat(self._trie.item_lo[leaves].ravel(), width) + place]
        score = np.repeat(scores.ravel(), width)
        keep = np.ones(len(item), bool) if allowed is None else allowed[row, item]
        row, item, score = row[keep], item[keep], score[keep]
        column = np.arange(len(row)) - np.searchsorted(row, row)
        inside = column < k
        items[row[inside], column[inside]] = item[inside]
        best[row[inside], column[inside]] = score[inside]
        return items, best

    # -- every item ------------------------------------------------------------------------------------------------

    def _chunks(self, q: int) -> list[Tensor]:
        """Return the nodes to read, a pass at a time, each set closed under ancestors."""
        vocabulary = int(self._model.config.vocab_size)
        limit = min(TOKENS_AT_ONCE, max(64, LOGITS_AT_ONCE // (q * vocabulary)))
        every = torch.arange(len(self._trie), device=self._model.device)
        length = self.tokens_to_read(every)
        needed = every[(length > 0) | (every == ROOT)]
        group = (length[needed].cumsum(0) / limit).long().cpu()
        parts = torch.split(needed, torch.unique_consecutive(group, return_counts=True)[1].tolist())
        return [torch.cat([self._ancestors(int(part[0])), part]) for part in parts]

    def _ancestors(self, node: int) -> Tensor:
        """Return what lies strictly above `node`, root first."""
        above = []
        while (node := int(self._trie.parent[node])) >= 0:
            above.append(node)
        return torch.tensor(above[::-1], dtype=torch.long, device=self._model.device)

    def _read_nodes(self, reader: TreeReader, nodes: Tensor, mass: Tensor, entry: Tensor, chain: Tensor) -> None:
        """Read the edges into `nodes` for every query.

        Fills in `entry` [Q, N], the log-probability of each child's first token, and `chain` [Q, N], the sum over
        the forced tokens of each edge.
        """
        q = len(entry)
        length = self.tokens_to_read(nodes)
        length[nodes == ROOT] = 1
        owner = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), length)
        place = torch.arange(len(owner), device=nodes.device) - (length.cumsum(0) - length)[owner]
        node = nodes[owner]
        tokens = self.edge_token(node, place).repeat(q, 1)
        tokens[:, node == ROOT] = reader.roots[:, None]
        depth = (self.depth[node] - self.edge_length[node] + 1 + place).masked_fill(node == ROOT, 0)
        branches = (place == length[owner] - 1) & (self.child_count[node] > 0)
        chained = (place + 1 < self.edge_length[node]) & (not self.renormalised)
        wanted = branches | chained
        seen = self._sees(node, place).expand(q, -1, -1)
        logits = reader.read(tokens, depth.expand(q, -1), seen, wanted.expand(q, -1)).view(q, int(wanted.sum()), -1)
        reader.tokens += q * len(owner)
        self._enter(logits[:, branches[wanted]], node[branches], mass, entry)
        if not self.renormalised:
            chain[:, nodes] = 0
            following = self.edge_token(node[chained], place[chained] + 1).repeat(q)
            steps = self.log_chain(logits[:, chained[wanted]].flatten(0, 1), following).view(q, -1)
            chain.index_add_(1, node[chained], steps)

    def _sees(self, node: Tensor, place: Tensor) -> Tensor:
        """Return which of T tokens, `place` steps into the edges of `node`, each one descends from. [T, T]."""
        lo, hi = self._item_lo[node], self._item_hi[node]
        above = (lo <= lo[:, None]) & (hi[:, None] <= hi) & (node < node[:, None])
        return above | ((node == node[:, None]) & (place <= place[:, None]))

    def _enter(self, logits: Tensor, nodes: Tensor, mass: Tensor, entry: Tensor) -> None:
        """Fill in `entry` [Q, N] for all children of n nodes, given the logits behind each node [Q, n, V]."""
        count = self.child_count[nodes]
        owner = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), count)
        place = torch.arange(len(owner), device=nodes.device) - (count.cumsum(0) - count)[owner]
        children = self._children[self._child_start[nodes][owner] + place]
        chosen = logits[:, owner, self._first_token[children]]
        forbidden = mass[:, self._item_hi[children]] == mass[:, self._item_lo[children]]
        chosen = chosen.masked_fill(forbidden, NEVER)
        total = _logsumexp_by(chosen, owner, len(nodes)) if self.renormalised else logits.logsumexp(dim=2)
        entry[:, children] = (chosen - total[:, owner]).masked_fill(forbidden, NEVER)

    def _sum_down(self, edge: Tensor) -> Tensor:
        """Return each node's total from the root, level by level."""
        level = self._trie.level
        for step in range(1, int(level.max()) + 1):
            nodes = torch.from_numpy(np.flatnonzero(level == step)).to(edge.device)
            edge[:, nodes] += edge[:, self._parent[nodes]]
        return edge


class _BeamSearch:
    """One beam search over Q queries. Hypotheses are columns of [Q, B] tensors; dead ones have score -inf."""

    def __init__(self, search: Search, reader: TreeReader, mass: Tensor, beams: int, k: int) -> None:
        self._search, self._reader, self._mass, self._beams, self._k = search, reader, mass, beams, k
        q, device = len(mass), mass.device
        shape = (q, beams)
        self._node = torch.full(shape, ROOT, device=device)
        self._used = torch.zeros(shape, dtype=torch.long, device=device)
        """Tokens of the edge into the node that the hypothesis has taken."""
        self._score = torch.full(shape, NEVER, device=device)
        self._score[:, 0] = 0
        self._slot = torch.full(shape, -1, device=device)
        """Tree slot of the last token of that edge, once read."""
        self._chain = torch.zeros(*shape, 1, device=device)
        """Log-probability of each later token of the edge. Shape: [Q, B, longest edge]."""
        self._kids = torch.zeros(*shape, 1, dtype=torch.long, device=device)
        self._kids_log = torch.full((*shape, 1), NEVER, device=device)
        """The best children of the node, and their log-probabilities. Shape: [Q, B, W]."""
        self._seen = torch.zeros(q, 0, 0, dtype=torch.bool, device=device)
        self._found = torch.full((q, k), ROOT, device=device)
        self._found_score = torch.full((q, k), NEVER, device=device)

    def run(self) -> tuple[Tensor, Tensor]:
        """Return the best finished leaves and their scores, descending. Shapes: [Q, k]."""
        self._read(self._score > NEVER)
        while (self._score.amax(1) > self._found_score[:, -1]).any():
            self._step()
        return self._found, self._found_score

    def _step(self) -> None:
        """Grow every hypothesis by one token; keep the best, move finished ones to the slate, read new edges."""
        s = self._search
        at_end = self._used == s.edge_length[self._node]
        grow = self._score[:, :, None] + self._kids_log.masked_fill(~at_end[:, :, None], NEVER)
        forced = self._chain.gather(2, (self._used - 1).clamp(0, self._chain.shape[2] - 1)[:, :, None])
        forced = self._score[:, :, None] + forced.masked_fill(at_end[:, :, None], NEVER)
        every = torch.cat([grow, forced], dim=2)
        width = every.shape[2]
        score, flat = every.flatten(1).topk(min(2 * self._beams, every.shape[1] * width), dim=1)
        origin, column = flat // width, flat % width
        branched = column < width - 1
        child = self._kids.flatten(1).gather(1, origin * (width - 1) + column.clamp(max=width - 2))
        node = torch.where(branched, child, self._node.gather(1, origin))
        used = torch.where(branched, 1, self._used.gather(1, origin) + 1)
        done = (s.child_count[node] == 0) & (used == s.edge_length[node])
        self._finish(node[:, : self._beams], score[:, : self._beams].masked_fill(~done[:, : self._beams], NEVER))
        score, kept = score.masked_fill(done, NEVER).topk(self._beams, dim=1)
        origin = origin.gather(1, kept)
        self._score, self._node, self._used = score, node.gather(1, kept), used.gather(1, kept)
        self._slot = self._slot.gather(1, origin)
        self._chain, self._kids, self._kids_log = (_rows(t, origin) for t in (self._chain, self._kids, self._kids_log))
        self._read(branched.gather(1, kept) & (score > NEVER))

    def _finish(self, node: Tensor, score: Tensor) -> None:
        score, best = torch.cat([self._found_score, score], 1).topk(self._k, dim=1)
        self._found, self._found_score = torch.cat([self._found, node], 1).gather(1, best), score

    def _read(self, fresh: Tensor) -> None:
        """Read the edges into the nodes of `fresh` [Q, B] hypotheses; note their chains, children and slots."""
        s, device = self._search, self._node.device
        count = torch.where(self._node == ROOT, 1, s.tokens_to_read(self._node)) * fresh
        total = int(count.sum(1).max())
        if total == 0:
            return
        q, b, place = _spread(count)
        column = (count.cumsum(1) - count)[q, b] + place
        node = self._node[q, b]
        tokens = torch.zeros(len(count), total, dtype=torch.long, device=device)
        tokens[q, column] = torch.where(node == ROOT, self._reader.roots[q], s.edge_token(node, place))
        depth = torch.zeros_like(tokens)
        depth[q, column] = torch.where(node == ROOT, 0, s.depth[node] - s.edge_length[node] + 1 + place)
        self._look(q, column, place, self._slot[q, b], total)
        last = place == count[q, b] - 1
        wanted = torch.zeros(tokens.shape, dtype=torch.bool, device=device)
        wanted[q, column] = last if s.renormalised else True
        row = wanted.flatten().cumsum(0).view(wanted.shape) - 1
        before = self._reader.slots
        logits = self._reader.read(tokens, depth, self._seen[:, -total:], wanted)
        self._reader.tokens += len(q)
        self._slot[q[last], b[last]] = before + column[last]
        self._note_children(logits, row, q[last], b[last], column[last])
        if not s.renormalised:
            self._note_chains(logits, row, q, b, column, place)

    def _look(self, q: Tensor, column: Tensor, place: Tensor, parent: Tensor, total: int) -> None:
        """Extend `seen` [Q, S, S] by `total` tokens: each sees what its parent sees, and its own edge so far."""
        old = self._seen.shape[1]
        seen = torch.nn.functional.pad(self._seen, (0, total, 0, total))
        if old:
            seen[q, old + column, :old] = self._seen[q, parent]
        own = torch.arange(total, device=q.device)
        own = (own >= (column - place)[:, None]) & (own <= column[:, None])
        seen[q, old + column, old:] = own
        self._seen = seen

    def _note_children(self, logits: Tensor, row: Tensor, q: Tensor, b: Tensor, column: Tensor) -> None:
        s = self._search
        inner = s.child_count[self._node[q, b]] > 0
        q, b, column = q[inner], b[inner], column[inner]
        if len(q) == 0:
            return
        children, entering = s.log_children(logits[row[q, column]], q, self._node[q, b], self._mass)
        entering, best = entering.topk(min(2 * self._beams, entering.shape[1]), dim=1)
        children = children.gather(1, best)
        self._kids = _widen(self._kids, children.shape[1], 0)
        self._kids_log = _widen(self._kids_log, children.shape[1], NEVER)
        self._kids_log[q, b] = NEVER
        self._kids[q, b, : children.shape[1]] = children
        self._kids_log[q, b, : children.shape[1]] = entering

    def _note_chains(self, logits: Tensor, row: Tensor, q: Tensor, b: Tensor, column: Tensor, place: Tensor) -> None:
        s = self._search
        inside = (place + 1 < s.edge_length[self._node[q, b]]) & (self._node[q, b] != ROOT)
        q, b, column, place = q[inside], b[inside], column[inside], place[inside]
        if len(q) == 0:
            return
        self._chain = _widen(self._chain, int(place.max()) + 1, 0.0)
        following = s.edge_token(self._node[q, b], place + 1)
        self._chain[q, b, place] = s.log_chain(logits[row[q, column]], following)


def _logsumexp_by(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Return the logsumexp of each group of columns of `values` [Q, C]; -inf where a group has none. [Q, groups]."""
    top = values.new_full((len(values), groups), NEVER).scatter_reduce_(1, group.expand_as(values), values, "amax")
    top = top.nan_to_num(neginf=0.0)
    return values.new_zeros(len(values), groups).index_add_(1, group, (values - top[:, group]).exp()).log() + top


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """Return rows `index` [Q, B] of `table` [Q, B, W]."""
    return table.gather(1, index[:, :, None].expand(-1, -1, table.shape[2]))


def _widen(table: Tensor, width: int, fill: float) -> Tensor:
    return torch.nn.functional.pad(table, (0, max(0, width - table.shape[2])), value=fill)


def _spread(count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return row, column and place of each of `count` [Q, B] tokens, row by row. Shapes: [n]."""
    q, b = count.nonzero(as_tuple=True)
    each = count[q, b]
    owner = torch.repeat_interleave(torch.arange(len(each), device=count.device), each)
    place = torch.arange(len(owner), device=count.device) - (each.cumsum(0) - each)[owner]
    return q[owner], b[owner], place
