"""The exact score of every item of the catalogue: the whole trie is read behind each prompt.

Knows nothing about which items are wanted.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from groundrec.rank.search import branches
from groundrec.rank.search.scoring import NEVER, Below, Paths
from groundrec.rank.search.tree_reader import TreeReader
from groundrec.text.trie import ROOT

__all__ = ["TOKENS_AT_ONCE", "score_leaves"]

TOKENS_AT_ONCE = 1024
"""Most tree tokens one pass reads per query: attention among them costs their square."""


def score_leaves(paths: Paths, reader: TreeReader, below: Below) -> Tensor:
    """Return the score of reaching each node, exact for leaves; -inf where nothing allowed is
    below. Shape: [Q, N].
    """
    entry = torch.zeros(len(below), len(paths), device=paths.depth.device)
    chain = torch.zeros_like(entry)
    root = torch.full((1,), ROOT, device=entry.device)
    _enter(paths, paths.log_weights(reader.logits), root, below, entry)
    for nodes in _chunks(paths, len(below)):
        _read_nodes(paths, reader, nodes, below, entry, chain)
        reader.forget()
    children = torch.arange(1, len(paths), device=entry.device).expand(len(below), -1)
    mixed = below.mix(entry[:, 1:], children).masked_fill(~below.allowed(children), NEVER)
    total = torch.cat([entry[:, :1], mixed], 1) + below.alpha * chain
    return _sum_down(paths, total)


def _chunks(paths: Paths, q: int) -> list[Tensor]:
    """Return the nodes to read, a pass at a time, each set closed under ancestors."""
    limit = min(TOKENS_AT_ONCE, max(64, branches.LOGITS_AT_ONCE // (q * paths.outputs)))
    every = torch.arange(len(paths), device=paths.depth.device)
    length = paths.tokens_to_read(every)
    needed = every[length > 0]
    if not len(needed):
        return []
    group = (length[needed].cumsum(0) / limit).long().cpu()
    parts = torch.split(needed, torch.unique_consecutive(group, return_counts=True)[1].tolist())
    return [torch.cat([_ancestors(paths, int(part[0])), part]) for part in parts]


def _ancestors(paths: Paths, node: int) -> Tensor:
    """Return what lies between the root and `node`, top first."""
    above = []
    while (node := int(paths.trie.parent[node])) > ROOT:
        above.append(node)
    return torch.tensor(above[::-1], dtype=torch.long, device=paths.depth.device)


def _read_nodes(
    paths: Paths, reader: TreeReader, nodes: Tensor, below: Below, entry: Tensor, chain: Tensor
) -> None:
    """Read the edges into `nodes` for every query.

    Fills in `entry` [Q, N], log p_LM of each child's first token, and `chain` [Q, N], the sum over
    the forced tokens of each edge.
    """
    q = len(entry)
    length = paths.tokens_to_read(nodes)
    owner = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), length)
    place = torch.arange(len(owner), device=nodes.device) - (length.cumsum(0) - length)[owner]
    node = nodes[owner]
    tokens = paths.edge_token(node, place).expand(q, -1)
    depth = paths.depth[node] - paths.edge_length[node] + 1 + place
    branching = (place == length[owner] - 1) & ~paths.is_leaf(node)
    chained = (place + 1 < paths.edge_length[node]) & (not paths.renormalised)
    wanted = branching | chained
    seen = _sees(paths, node, place).expand(q, -1, -1)
    at = wanted.nonzero()[:, 0].expand(q, -1)
    weights = paths.log_weights(reader.read(tokens, depth.expand(q, -1), seen, at))
    reader.tokens += q * len(owner)
    _enter(paths, weights[:, branching[wanted]], node[branching], below, entry)
    if not paths.renormalised:
        chain[:, nodes] = 0
        behind = weights[:, chained[wanted]]
        following = paths.edge_token(node[chained], place[chained] + 1).expand(q, -1)[:, :, None]
        chain.index_add_(1, node[chained], behind.gather(2, following)[:, :, 0])


def _sees(paths: Paths, node: Tensor, place: Tensor) -> Tensor:
    """Return which of T tokens, `place` steps into the edges of `node`, each one descends from. [T,
    T].
    """
    lo = paths.item_lo[node]
    hi = paths.item_hi[node]
    above = (lo <= lo[:, None]) & (hi[:, None] <= hi) & (node < node[:, None])
    return above | ((node == node[:, None]) & (place <= place[:, None]))


def _enter(paths: Paths, weights: Tensor, nodes: Tensor, below: Below, entry: Tensor) -> None:
    """Fill in `entry` [Q, N] for all children of n nodes, given the log-weights behind each node
    [Q, n, V].
    """
    count = paths.child_count[nodes]
    owner = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), count)
    place = torch.arange(len(owner), device=nodes.device) - (count.cumsum(0) - count)[owner]
    children = paths.child(nodes[owner], place)
    chosen = weights[:, owner, paths.logit_of(children)]
    if paths.renormalised:
        forbidden = ~below.allowed(children.expand(len(entry), -1))
        chosen = (
            chosen
            - _logsumexp_by(chosen.masked_fill(forbidden, NEVER), owner, len(nodes))[:, owner]
        )
    entry[:, children] = chosen


def _sum_down(paths: Paths, edge: Tensor) -> Tensor:
    """Return each node's total from the root, level by level."""
    level = paths.trie.level
    for step in range(1, int(level.max()) + 1):
        nodes = torch.from_numpy(np.flatnonzero(level == step)).to(edge.device)
        edge[:, nodes] += edge[:, paths.parent[nodes]]
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
