"""The exact score of every item of the catalogue: the whole trie is read after each prompt.

Knows nothing about which items are wanted.
"""

from __future__ import annotations

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
    """Return the score of reaching each node, exact for leaves. Shape: [Q, N].

    -inf where nothing allowed is below.
    """
    q = len(trie_mask)
    entry = torch.zeros(q, len(scoring), device=scoring.depth.device)
    chain = torch.zeros_like(entry)
    root = torch.full((1,), ROOT, device=entry.device)
    _enter(scoring, scoring.log_weights(reader.logits), root, trie_mask, entry)
    for nodes in _chunks(scoring, q):
        _read_nodes(scoring, reader, nodes, trie_mask, entry, chain)
        reader.forget()
    nodes = torch.arange(1, len(scoring), device=entry.device).expand(q, -1)  # all but the root
    mixed = trie_mask.mix(entry[:, 1:], nodes).masked_fill(~trie_mask.allowed(nodes), NEVER)
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
    # Nodes are in depth-first order, so the ancestors of a chunk's first node close it.
    group = (length[needed].cumsum(0) / limit).long().cpu()
    parts = torch.split(needed, torch.unique_consecutive(group, return_counts=True)[1].tolist())
    return [torch.cat([_ancestors(scoring, int(part[0])), part]) for part in parts]


def _ancestors(scoring: TrieScoring, node: int) -> Tensor:
    """Return the nodes between the root and `node`, top first."""
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
    """Read the edges into `nodes` [n] for every query.

    Fills in `entry` [Q, N], log p_LM of each child's first token, and `chain` [Q, N], the sum over
    the forced tokens of each edge.
    """
    q = len(entry)
    # The tokens of all edges, one edge after the other: T in all, the same for every query.
    owner, offset = _spread(scoring.tokens_to_read(nodes))
    node = nodes[owner]
    ids = scoring.edge_token(node, offset).expand(q, -1)
    depth = scoring.depth[node] - scoring.edge_length[node] + 1 + offset
    # Logits are wanted after the last token of an edge with children, and before a forced token.
    last = offset == scoring.tokens_to_read(node) - 1
    branching = last & ~scoring.is_leaf(node)
    forced_next = (offset + 1 < scoring.edge_length[node]) & (not scoring.renormalised)
    wanted = branching | forced_next
    seen = _sees(scoring, node, offset).expand(q, -1, -1)
    at = wanted.nonzero()[:, 0].expand(q, -1)  # [Q, R]
    weights = scoring.log_weights(reader.read(ids, depth.expand(q, -1), seen, at))  # [Q, R, V]
    reader.tokens += q * len(owner)
    _enter(scoring, weights[:, branching[wanted]], node[branching], trie_mask, entry)
    if not scoring.renormalised:
        chain[:, nodes] = 0  # an ancestor may have been read before, with another chunk
        before = weights[:, forced_next[wanted]]
        following = scoring.edge_token(node[forced_next], offset[forced_next] + 1)
        log_p = before.gather(2, following.expand(q, -1)[:, :, None])[:, :, 0]
        chain.index_add_(1, node[forced_next], log_p)


def _spread(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for `counts[i]` members of each group i in a row, their groups and their indices.

    Counts [2, 0, 3] give groups [0, 0, 2, 2, 2] and indices [0, 1, 0, 1, 2].
    """
    group = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    start = counts.cumsum(0) - counts
    return group, torch.arange(len(group), device=counts.device) - start[group]


def _sees(scoring: TrieScoring, node: Tensor, offset: Tensor) -> Tensor:
    """Return which of T tokens each one descends from, itself included. Shape: [T, T].

    A token is at `offset` [T] of the edge into `node` [T].
    """
    lo = scoring.item_lo[node]
    hi = scoring.item_hi[node]
    # An ancestor's range of items holds the descendant's, and its number is smaller.
    above = (lo <= lo[:, None]) & (hi[:, None] <= hi) & (node < node[:, None])
    return above | ((node == node[:, None]) & (offset <= offset[:, None]))


def _enter(
    scoring: TrieScoring, weights: Tensor, nodes: Tensor, trie_mask: TrieMask, entry: Tensor
) -> None:
    """Fill in `entry` [Q, N] for all children of `nodes` [n], from the log-weights after each node.

    Shape of `weights`: [Q, n, V].
    """
    # The children of all nodes, one family after the other: C in all.
    owner, number = _spread(scoring.child_count[nodes])
    children = scoring.child(nodes[owner], number)
    log_p = weights[:, owner, scoring.logit_of(children)]  # [Q, C]
    if scoring.renormalised:
        forbidden = ~trie_mask.allowed(children.expand(len(entry), -1))
        total = _logsumexp_by(log_p.masked_fill(forbidden, NEVER), owner, len(nodes))
        log_p = log_p - total[:, owner]
    entry[:, children] = log_p


def _sum_down(scoring: TrieScoring, edge: Tensor) -> Tensor:
    """Sum `edge` [Q, N] from the root to each node, level by level, in place."""
    for nodes in reversed(scoring.levels):
        edge[:, nodes] += edge[:, scoring.parent[nodes]]
    return edge


def _logsumexp_by(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Return the logsumexp of each group of columns of `values` [Q, C]. Shape: [Q, groups].

    -inf for an empty group.
    """
    top = values.new_full((len(values), groups), NEVER)
    top = top.scatter_reduce_(1, group.expand_as(values), values, "amax").nan_to_num(neginf=0.0)
    total = values.new_zeros(len(values), groups)
    return total.index_add_(1, group, (values - top[:, group]).exp()).log() + top
