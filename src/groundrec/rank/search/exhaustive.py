"""The exact score of every item of the catalogue: the whole trie is read behind each prompt.

Knows nothing about which items are wanted.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from groundrec.rank.search import branches
from groundrec.rank.search.scoring import NEVER, TrieMask, TrieScoring
from groundrec.rank.search.tree_reader import TreeReader
from groundrec.text.trie import ROOT

__all__ = ["TOKENS_AT_ONCE", "score_leaves"]

TOKENS_AT_ONCE = 1024
"""Most tree tokens one pass reads per query: attention among them costs their square."""


def score_leaves(scoring: TrieScoring, reader: TreeReader, trie_mask: TrieMask) -> Tensor:
    """Return the score of reaching each node, exact for leaves; -inf where nothing allowed is
    below. Shape: [Q, N].
    """
    entry = torch.zeros(len(trie_mask), len(scoring), device=scoring.depth.device)
    chain = torch.zeros_like(entry)
    root = torch.full((1,), ROOT, device=entry.device)
    _enter(scoring, scoring.log_weights(reader.logits), root, trie_mask, entry)
    for nodes in _chunks(scoring, len(trie_mask)):
        _read_nodes(scoring, reader, nodes, trie_mask, entry, chain)
        reader.forget()
    children = torch.arange(1, len(scoring), device=entry.device).expand(len(trie_mask), -1)
    mixed = trie_mask.mix(entry[:, 1:], children).masked_fill(~trie_mask.allowed(children), NEVER)
    total = torch.cat([entry[:, :1], mixed], 1) + trie_mask.alpha * chain
    return _sum_down(scoring, total)


def _chunks(scoring: TrieScoring, q: int) -> list[Tensor]:
    """Return the nodes to read, a pass at a time, each set closed under ancestors."""
    limit = min(TOKENS_AT_ONCE, max(64, branches.LOGITS_AT_ONCE // (q * scoring.outputs)))
    every = torch.arange(len(scoring), device=scoring.depth.device)
    length = scoring.tokens_to_read(every)
    needed = every[length > 0]
    if not len(needed):
        return []
    group = (length[needed].cumsum(0) / limit).long().cpu()
    parts = torch.split(needed, torch.unique_consecutive(group, return_counts=True)[1].tolist())
    return [torch.cat([_ancestors(scoring, int(part[0])), part]) for part in parts]


def _ancestors(scoring: TrieScoring, node: int) -> Tensor:
    """Return what lies between the root and `node`, top first."""
    above = []
    while (node := int(scoring.trie.parent[node])) > ROOT:
        above.append(node)
    return torch.tensor(above[::-1], dtype=torch.long, device=scoring.depth.device)


def _read_nodes(
    scoring: TrieScoring,
    reader: TreeReader,
    nodes: Tensor,
    trie_mask: TrieMask,
    entry: Tensor,
    chain: Tensor,
) -> None:
    """Read the edges into `nodes` for every query.

    Fills in `entry` [Q, N], log p_LM of each child's first token, and `chain` [Q, N], the sum over
    the forced tokens of each edge.
    """
    q = len(entry)
    length = scoring.tokens_to_read(nodes)
    owner = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), length)
    place = torch.arange(len(owner), device=nodes.device) - (length.cumsum(0) - length)[owner]
    node = nodes[owner]
    tokens = scoring.edge_token(node, place).expand(q, -1)
    depth = scoring.depth[node] - scoring.edge_length[node] + 1 + place
    branching = (place == length[owner] - 1) & ~scoring.is_leaf(node)
    chained = (place + 1 < scoring.edge_length[node]) & (not scoring.renormalised)
    wanted = branching | chained
    seen = _sees(scoring, node, place).expand(q, -1, -1)
    at = wanted.nonzero()[:, 0].expand(q, -1)
    weights = scoring.log_weights(reader.read(tokens, depth.expand(q, -1), seen, at))
    reader.tokens += q * len(owner)
    _enter(scoring, weights[:, branching[wanted]], node[branching], trie_mask, entry)
    if not scoring.renormalised:
        chain[:, nodes] = 0
        behind = weights[:, chained[wanted]]
        following = scoring.edge_token(node[chained], place[chained] + 1).expand(q, -1)[:, :, None]
        chain.index_add_(1, node[chained], behind.gather(2, following)[:, :, 0])


def _sees(scoring: TrieScoring, node: Tensor, place: Tensor) -> Tensor:
    """Return which of T tokens, `place` steps into the edges of `node`, each one descends from. [T,
    T].
    """
    lo = scoring.item_lo[node]
    hi = scoring.item_hi[node]
    above = (lo <= lo[:, None]) & (hi[:, None] <= hi) & (node < node[:, None])
    return above | ((node == node[:, None]) & (place <= place[:, None]))


def _enter(
    scoring: TrieScoring, weights: Tensor, nodes: Tensor, trie_mask: TrieMask, entry: Tensor
) -> None:
    """Fill in `entry` [Q, N] for all children of n nodes, given the log-weights behind each node
    [Q, n, V].
    """
    count = scoring.child_count[nodes]
    owner = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), count)
    place = torch.arange(len(owner), device=nodes.device) - (count.cumsum(0) - count)[owner]
    children = scoring.child(nodes[owner], place)
    chosen = weights[:, owner, scoring.logit_of(children)]
    if scoring.renormalised:
        forbidden = ~trie_mask.allowed(children.expand(len(entry), -1))
        chosen = (
            chosen
            - _logsumexp_by(chosen.masked_fill(forbidden, NEVER), owner, len(nodes))[:, owner]
        )
    entry[:, children] = chosen


def _sum_down(scoring: TrieScoring, edge: Tensor) -> Tensor:
    """Return each node's total from the root, level by level."""
    level = scoring.trie.level
    for step in range(1, int(level.max()) + 1):
        nodes = torch.from_numpy(np.flatnonzero(level == step)).to(edge.device)
        edge[:, nodes] += edge[:, scoring.parent[nodes]]
    return edge


def _logsumexp_by(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Return the logsumexp of each group of columns of `values` [Q, C]; -inf where a group has
    none. [Q, groups].
    """
    top = values.new_full((len(values), groups), NEVER).scatter_reduce_(
        1, group.expand_as(values), values, "amax"
    )
    top = top.nan_to_num(neginf=0.0)
    return (
        values.new_zeros(len(values), groups)
        .index_add_(1, group, (values - top[:, group]).exp())
        .log()
        + top
    )
