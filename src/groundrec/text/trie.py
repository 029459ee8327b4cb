"""The catalogue as a prefix tree over token sequences, compiled once to flat arrays.

Chains without a choice are compressed: an edge holds one or more tokens, of which only the first
was chosen. Items below a node are a contiguous range of `item_order`. Knows nothing about users,
prompts or models; only sequences.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from groundrec.core.errors import DataError
from groundrec.core.runs import atomic_write
from groundrec.core.types import Ragged

__all__ = ["ROOT", "Trie"]

ROOT = 0
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Trie:
    """A compressed prefix tree of N nodes over I items. Nodes are numbered depth first, the root is
    0.

    Node `n` is reached from `parent[n]` by the tokens `edge(n)`, ends `depth[n]` tokens below the
    root, has the children `children[child_start[n]:child_start[n + 1]]`, and the items
    `item_order[item_lo[n]:item_hi[n]]` below it. A node without children is a leaf: one token
    sequence, and every item that is written so.
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
        """Return the tree of item `i`'s tokens `sequences[i]`.

        Items with equal tokens share a leaf, ordered by `priority` (higher first, e.g. popularity),
        then by number. Raises `DataError` for an empty sequence, and where one sequence continues
        another: end every one with an end token that occurs nowhere else in it.
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
        """Return 1 where a token of item `i`'s sequence was one of several, 0 where it was forced;
        rows as given.
        """
        choice = np.zeros(len(sequences.values), np.int32)
        leaf_of = np.empty(len(sequences), np.int32)
        leaves = np.flatnonzero(self.child_counts == 0)
        leaf_of[self.item_order] = np.repeat(leaves, self.item_hi[leaves] - self.item_lo[leaves])
        node = leaf_of
        while (inside := self.parent[node] >= 0).any():
            above = self.parent[node]
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
    """Return the numbers of the rows in the order of their tokens; equal rows by priority, then by
    number.
    """
    order = np.arange(len(sequences)) if priority is None else np.argsort(-priority, kind="stable")
    rows = sequences.take(order)
    offsets, tokens = (
        rows.offsets * 4,
        rows.values.astype(">u4"),
    )  # bytes in the order of the numbers they spell
    keys = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(rows), [None, pa.py_buffer(offsets), pa.py_buffer(tokens)]
    )
    return order[pc.call_function("sort_indices", [keys]).to_numpy()].astype(
        np.int32
    )  # a stable sort


def _compile(
    rows: Ragged, common: NDArray[np.int64], item_bounds: NDArray[np.int64], item_order: Ints
) -> Trie:
    """Return the tree of sorted, distinct rows, each `common` tokens like the one before.

    Items of row r: `item_order[item_bounds[r]:item_bounds[r + 1]]`.
    """
    lo, hi, depth, parent, leaf_parent = _branching_nodes(common)
    each = np.arange(len(rows))
    lo = np.concatenate([lo, each])
    hi = np.concatenate([hi, each + 1])
    depth = np.concatenate([depth, rows.lengths])
    parent = np.concatenate([parent, leaf_parent])
    # Depth-first numbers: by first row, then the shallower (larger) node first.
    order = np.lexsort([depth, lo])
    number = np.empty(len(order), np.int32)
    number[order] = np.arange(len(order))
    lo = lo[order]
    hi = hi[order]
    depth = depth[order].astype(np.int32)
    parent = np.where(parent[order] < 0, -1, number[parent[order]]).astype(np.int32)
    above = np.where(parent < 0, 0, depth[parent])
    edge_start = np.concatenate([[0], np.cumsum(depth - above)])
    edges = Ragged(np.empty(int(edge_start[-1]), np.int32), edge_start)
    column = np.arange(len(edges.values)) - np.repeat(edge_start[:-1] - above, edges.lengths)
    children = np.argsort(parent, kind="stable")[1:].astype(np.int32)
    child_start = np.concatenate(
        [[0], np.cumsum(np.bincount(parent[1:], minlength=len(parent)))]
    ).astype(np.int32)
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
    """Return how many tokens each row shares with the row before it; -1 for the first row."""
    start = rows.offsets[:-1]
    lengths = rows.lengths
    shorter = np.minimum(lengths, np.concatenate([[0], lengths[:-1]]))
    common = np.zeros(len(rows), np.int64)
    alike = np.arange(1, len(rows))
    depth = 0
    while len(alike := alike[shorter[alike] > depth]):
        alike = alike[rows.values[start[alike] + depth] == rows.values[start[alike - 1] + depth]]
        depth += 1
        common[alike] = depth
    common[0] = -1
    continues = (common == shorter) & (lengths != np.concatenate([[0], lengths[:-1]]))
    if len(clash := np.flatnonzero(continues)):
        raise DataError(
            "a token sequence continues another",
            value=rows[int(clash[0])].tolist(),
            accepted="every title ends with an end token",
        )
    return common


def _branching_nodes(common: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Return where rows part: (first row, row after the last, depth, parent) per node, root first;
    owner per row.

    The owner of a row is the deepest such node above it.
    """
    found = [(np.array([0]), np.array([len(common)]), np.array([0]), np.array([-1]))]
    owner = np.zeros(len(common), np.int64)
    count = 1
    depth = 1
    rows = np.arange(len(common))
    while len(rows):
        opens = (common[rows] < depth) | np.append(True, np.diff(rows) > 1)
        start = np.flatnonzero(opens)
        size = np.diff(np.append(start, len(rows)))
        inner = np.where(opens, np.iinfo(np.int64).max, common[rows])
        parts = (size > 1) & (np.minimum.reduceat(inner, start) == depth)
        lo = rows[start[parts]]
        hi = rows[start[parts]] + size[parts]
        if len(lo):
            found.append((lo, hi, np.full(len(lo), depth), owner[lo]))
            members = np.repeat(parts, size)
            owner[rows[members]] = np.repeat(np.arange(count, count + len(lo)), size[parts])
            count += len(lo)
        rows = rows[np.repeat(size > 1, size)]
        depth += 1
    return (*(np.concatenate(column) for column in zip(*found, strict=True)), owner)
