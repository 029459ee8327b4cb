"""The catalogue as a prefix tree over token sequences, compiled once to flat arrays.

Chains without branches are compressed: an edge holds one or more tokens, of which only the first is
a choice. The items below a node are a contiguous range of `item_order`. Knows nothing about users,
prompts or models.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from groundrec.core.errors import DataError
from groundrec.core.files import atomic_write
from groundrec.core.types import Ragged

__all__ = ["ROOT", "Trie"]

ROOT = 0
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Trie:
    """A compressed prefix tree of N nodes over I items, numbered depth first from the root, 0.

    Node `n` is reached from `parent[n]` by the tokens `edge(n)`, is `depth[n]` tokens below the
    root, has the children `children[child_start[n]:child_start[n + 1]]`, and has the items
    `item_order[item_lo[n]:item_hi[n]]` below it. A node without children is a leaf: one token
    sequence, and every item that is written with it.
    """

    parent: Ints
    depth: Ints
    edge_start: NDArray[np.int64]
    edge_tokens: Ints
    child_start: Ints
    children: Ints
    item_lo: Ints
    item_hi: Ints
    item_order: Ints

    @classmethod
    def compile(cls, sequences: Ragged, priority: NDArray[np.integer] | None = None) -> Trie:
        """Return the tree of `sequences`, in which row `i` holds the tokens of item `i`.

        Items with equal tokens share a leaf, ordered by `priority` (higher first, e.g. popularity),
        then by number. Raises `DataError` if a sequence is empty or is a prefix of another: end
        each with an end token that occurs nowhere else in it.
        """
        if len(sequences) == 0 or not sequences.lengths.all():
            empty = np.flatnonzero(sequences.lengths == 0)
            raise DataError(
                "an item without tokens",
                value=empty[:5].tolist(),
                accepted="at least one token per item",
            )
        order = _sorted(sequences, priority)
        rows = sequences.take(order)
        common = _common_prefix(rows)
        # Rows that equal the row before them add no leaf: keep the first of each run of equal rows.
        first = np.flatnonzero(common < rows.lengths)
        return _compile(rows.take(first), common[first], np.append(first, len(order)), order)

    def __len__(self) -> int:
        return len(self.parent)

    @property
    def edge_lengths(self) -> Ints:
        """Tokens on the edge into each node; 0 at the root. Shape: [N]."""
        return np.diff(self.edge_start).astype(np.int32)

    @property
    def child_counts(self) -> Ints:
        """Children of each node; 0 at a leaf. Shape: [N]."""
        return np.diff(self.child_start)

    @property
    def level(self) -> Ints:
        """Number of nodes above each node; 0 at the root. Shape: [N]."""
        # All nodes climb together, one parent at a time; past the root they hold -1 and stop.
        level = np.zeros(len(self), np.int32)
        above = self.parent
        while (below_root := above >= 0).any():
            level += below_root
            above = np.where(below_root, self.parent[above], -1)
        return level

    @property
    def first_tokens(self) -> Ints:
        """The token chosen to enter each node; -1 at the root. Shape: [N]."""
        tokens = self.edge_tokens[self.edge_start[:-1].clip(max=len(self.edge_tokens) - 1)]
        return np.where(self.edge_lengths > 0, tokens, -1).astype(np.int32)

    def edge(self, node: int) -> Ints:
        """Return the tokens from the parent to `node`."""
        return self.edge_tokens[self.edge_start[node] : self.edge_start[node + 1]]

    def items(self, node: int) -> Ints:
        """Return the items below `node`, depth first."""
        return self.item_order[self.item_lo[node] : self.item_hi[node]]

    def path(self, node: int) -> list[int]:
        """Return the tokens from the root to `node`."""
        tokens: list[int] = []
        while node != ROOT:
            tokens[:0] = self.edge(node).tolist()
            node = int(self.parent[node])
        return tokens

    def choices(self, sequences: Ragged) -> Ragged:
        """Return 1 for each token that had alternatives in the tree, and 0 for each forced one.

        `sequences` are those of `compile`; the result has the same rows.
        """
        choice = np.zeros(len(sequences.values), np.int32)
        # [I]: the leaf of each item, from which all items climb to the root together.
        leaf_of = np.empty(len(sequences), np.int32)
        leaves = np.flatnonzero(self.child_counts == 0)
        leaf_of[self.item_order] = np.repeat(leaves, self.item_hi[leaves] - self.item_lo[leaves])
        node = leaf_of
        while (inside := self.parent[node] >= 0).any():
            above = self.parent[node]
            # Only the first token of an edge, `depth[above]` tokens into the row, can be a choice.
            several = inside & (self.child_counts[above] > 1)
            choice[(sequences.offsets[:-1] + self.depth[above])[several]] = 1
            node = np.where(inside, above, node)
        return Ragged(choice, sequences.offsets)

    def save(self, path: Path) -> None:
        """Write the arrays to an `.npz` file, atomically."""
        with atomic_write(path) as part, part.open("wb") as file:
            np.savez(file, **{f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Trie:
        """Return the tree saved at `path`."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{f.name: arrays[f.name] for f in fields(cls)})


def _sorted(sequences: Ragged, priority: NDArray[np.integer] | None) -> Ints:
    """Return row numbers sorted by tokens; equal rows by priority, then by number. Shape: [I]."""
    order = np.arange(len(sequences)) if priority is None else np.argsort(-priority, kind="stable")
    rows = sequences.take(order)
    # As big-endian bytes, tokens sort as their numbers do, so Arrow sorts rows as byte strings.
    offsets = rows.offsets * 4
    tokens = rows.values.astype(">u4")
    keys = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(rows), [None, pa.py_buffer(offsets), pa.py_buffer(tokens)]
    )
    # Arrow's sort is stable, so equal rows keep the order of their priorities.
    return order[pc.call_function("sort_indices", [keys]).to_numpy()].astype(np.int32)


def _compile(
    rows: Ragged, common: NDArray[np.int64], item_bounds: NDArray[np.int64], item_order: Ints
) -> Trie:
    """Return the tree of R sorted, distinct rows; each shares `common` tokens with the one before.

    The items of row r are `item_order[item_bounds[r]:item_bounds[r + 1]]`.
    """
    # [B] each for the branching nodes; the rows below a node are lo … hi - 1.
    lo, hi, depth, parent, leaf_parent = _branching_nodes(common)
    # Each row ends in a leaf: append R of them, [N] with N = B + R.
    each = np.arange(len(rows))
    lo = np.concatenate([lo, each])
    hi = np.concatenate([hi, each + 1])
    depth = np.concatenate([depth, rows.lengths])
    parent = np.concatenate([parent, leaf_parent])
    # Number depth first: by first row, and the shallower node first where several start there.
    order = np.lexsort([depth, lo])
    number = np.empty(len(order), np.int32)
    number[order] = np.arange(len(order))
    lo = lo[order]
    hi = hi[order]
    depth = depth[order].astype(np.int32)
    parent = np.where(parent[order] < 0, -1, number[parent[order]]).astype(np.int32)
    # The edge into a node holds its tokens from the parent's depth to its own, read from row `lo`.
    above = np.where(parent < 0, 0, depth[parent])
    edge_start = np.concatenate([[0], np.cumsum(depth - above)])
    edges = Ragged(np.empty(int(edge_start[-1]), np.int32), edge_start)
    column = np.arange(len(edges.values)) - np.repeat(edge_start[:-1] - above, edges.lengths)
    # A stable sort by parent groups siblings, still depth first; the root (parent -1) comes first.
    children = np.argsort(parent, kind="stable")[1:].astype(np.int32)
    child_start = np.concatenate(
        [[0], np.cumsum(np.bincount(parent[1:], minlength=len(parent)))]
    ).astype(np.int32)
    # Rows to items: the rows below a node are contiguous, and so are their items.
    return Trie(
        parent=parent,
        depth=depth,
        edge_start=edge_start,
        edge_tokens=rows.values[rows.offsets[lo[edges.rows]] + column],
        child_start=child_start,
        children=children,
        item_lo=item_bounds[lo].astype(np.int32),
        item_hi=item_bounds[hi].astype(np.int32),
        item_order=item_order,
    )


def _common_prefix(rows: Ragged) -> NDArray[np.int64]:
    """Return how many tokens each sorted row shares with the row before; -1 for the first. [R]."""
    start = rows.offsets[:-1]
    lengths = rows.lengths
    shorter = np.minimum(lengths, np.concatenate([[0], lengths[:-1]]))
    common = np.zeros(len(rows), np.int64)
    # Compare one token column at a time. `alike` holds the rows that equal the row before them in
    # all columns so far, so the work is the sum of the prefixes and not rows times columns.
    alike = np.arange(1, len(rows))
    depth = 0
    while len(alike := alike[shorter[alike] > depth]):
        alike = alike[rows.values[start[alike] + depth] == rows.values[start[alike - 1] + depth]]
        depth += 1
        common[alike] = depth
    common[0] = -1
    # In sorted order a prefix of another row comes just before a row that continues it.
    continues = (common == shorter) & (lengths != np.concatenate([[0], lengths[:-1]]))
    if len(clash := np.flatnonzero(continues)):
        raise DataError(
            "a token sequence continues another",
            value=rows[int(clash[0])].tolist(),
            accepted="sequences that all end with an end token",
        )
    return common


def _branching_nodes(common: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Return lo, hi, depth, parent [B] of the nodes where rows diverge, and each row's owner [R].

    The rows below a node are lo … hi - 1; the root comes first. The owner of a row is the deepest
    of these nodes above it.
    """
    nodes = [(np.array([0]), np.array([len(common)]), np.array([0]), np.array([-1]))]
    owner = np.zeros(len(common), np.int64)
    count = 1
    depth = 1
    # Go down one token at a time; `rows` are those that are not yet alone in their group.
    rows = np.arange(len(common))
    while len(rows):
        # A group is a run of rows with the same first `depth` tokens. It starts where a row shares
        # fewer with the one before, or where rows between them have been dropped.
        opens = (common[rows] < depth) | np.append(True, np.diff(rows) > 1)
        start = np.flatnonzero(opens)
        size = np.diff(np.append(start, len(rows)))
        # A group diverges here if its rows share exactly `depth` tokens: the minimum of `common`
        # within it, without its first row, which is compared with a row outside.
        inner = np.where(opens, np.iinfo(np.int64).max, common[rows])
        diverges = (size > 1) & (np.minimum.reduceat(inner, start) == depth)
        lo = rows[start[diverges]]
        hi = lo + size[diverges]
        if len(lo):
            # The owner so far is the node above; read it before it changes.
            nodes.append((lo, hi, np.full(len(lo), depth), owner[lo]))
            members = np.repeat(diverges, size)
            owner[rows[members]] = np.repeat(np.arange(count, count + len(lo)), size[diverges])
            count += len(lo)
        # A row alone in its group has no branch below.
        rows = rows[np.repeat(size > 1, size)]
        depth += 1
    return (*(np.concatenate(column) for column in zip(*nodes, strict=True)), owner)
