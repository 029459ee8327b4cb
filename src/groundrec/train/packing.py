"""Prefix trees: examples with a common prefix as one sequence, in which that prefix is read once.

Sliding windows repeat nearly all their tokens. Here the histories of successive targets start at
the same item, so that each prompt is a prefix of the next one, except for its ending. Tokens stand
in depth-first order, at the position they have in their own row, and attend to their ancestors
only: token j is an ancestor of token i where j <= i < subtree_ends[j]. Loss and gradients are those
of one row per example. Knows nothing about optimisers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from groundrec.core import config_learn
from groundrec.core.errors import ConfigError
from groundrec.core.types import Queries
from groundrec.models.attention import FLEX, additive, for_layers
from groundrec.text.tokens import IGNORED, Encoder, Example

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Block", "Tree", "anchored_blocks", "check_attention", "tree_masks"]


@dataclass(frozen=True)
class Tree:
    """T tokens in depth-first order. Shape of every field: [T]."""

    input_ids: NDArray[np.int32]
    depth: NDArray[np.int32]
    """The position of each token in its own row."""
    subtree_ends: NDArray[np.int32]
    """One past the last descendant of each token."""
    parents: NDArray[np.int32]
    """-1 for the first token of an example."""
    weights: NDArray[np.int32]
    """How many examples learn each token; 0 for first tokens, which nothing predicts."""

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Tree:
        """Return the tree whose branches are the examples."""
        # E examples as rows of at most L tokens, padded with -1. Shapes: [E, L].
        lengths = np.array([len(e.input_ids) for e in examples])
        real = np.arange(lengths.max()) < lengths[:, None]
        rows = np.full(real.shape, -1, np.int32)
        learned = np.zeros(real.shape, bool)
        rows[real] = np.concatenate([e.input_ids for e in examples])
        learned[real] = np.concatenate([e.labels != IGNORED for e in examples])
        # Sorted rows with a common prefix are neighbours, and row by row is depth-first order.
        order = np.lexsort(rows.T[::-1])
        rows = rows[order]
        learned = learned[order]
        real = real[order]
        # A token is in the tree already where its whole prefix equals that of the row above.
        shared = np.zeros(real.shape, bool)
        shared[1:] = np.logical_and.accumulate(rows[1:] == rows[:-1], axis=1)
        new = real & ~shared
        # New tokens are numbered in order; a shared one has the number of the one above it.
        numbers = np.where(new, new.cumsum().reshape(new.shape) - 1, -1)
        node = np.maximum.accumulate(numbers, axis=0)
        before = np.pad(node[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
        # A subtree ends with the last row through its root: the last assignment to a node stays.
        subtree_ends = np.zeros(new.sum(), np.int32)
        subtree_ends[node[real]] = np.repeat(new.sum(1).cumsum(), real.sum(1))
        weights = np.bincount(node[real], learned[real], len(subtree_ends)).astype(np.int32)
        parents = before[new].astype(np.int32)
        depth = np.nonzero(new)[1].astype(np.int32)
        return cls(rows[new], depth, subtree_ends, parents, np.where(parents < 0, 0, weights))


@dataclass(frozen=True)
class Block:
    """Successive targets of one user, whose histories start at the same item.

    The history of `targets[j]` is `items[:lengths[j]]`.
    """

    items: NDArray[np.int32]
    lengths: NDArray[np.int64]
    targets: NDArray[np.int32]

    def first(self, n: int) -> Block:
        """Return the block of the first `n` targets."""
        return Block(self.items, self.lengths[:n], self.targets[:n])

    def examples(self, encoder: Encoder, *, train_on_inputs: bool = False) -> list[Example]:
        """Return one row per target."""
        return [
            encoder.example(self.items[:n], int(target), train_on_inputs=train_on_inputs)
            for n, target in zip(self.lengths, self.targets, strict=True)
        ]


def anchored_blocks(queries: Queries, encoder: Encoder, most: int) -> Iterator[Block]:
    """Yield blocks of up to `most` targets: each target of a query with a history is in one block.

    The first history of a block is up to `most` / 2 items shorter than that of its query, so that
    the one in the middle has the query's own length; shorter still where the last prompt would not
    fit, but never empty. The targets of one query stay together. A query whose history does not
    continue the one before starts a new block.
    """
    for chain in _chains(queries):
        while chain:
            block, taken = _block(queries, chain, encoder, most)
            chain = chain[taken:]
            yield block


def _chains(queries: Queries) -> Iterator[list[int]]:
    """Yield runs of one user's queries by time, each history continuing the one before."""
    _, users = np.unique(queries.users, return_inverse=True)
    chain: list[int] = []
    for i in np.lexsort([queries.times, users]).tolist():
        if not len(queries.history[i]):
            continue
        if chain and not (users[chain[-1]] == users[i] and _continues(queries, chain[-1], i)):
            yield chain
            chain = []
        chain.append(i)
    if chain:
        yield chain


def _continues(queries: Queries, before: int, i: int) -> bool:
    """Return whether history `i` ends with the history and the targets of query `before`."""
    known = np.concatenate([queries.history[before], queries.targets[before]])
    history = queries.history[i]
    n = min(len(known), len(history))
    return n >= len(queries.targets[before]) and np.array_equal(known[-n:], history[-n:])


def _block(queries: Queries, chain: list[int], encoder: Encoder, most: int) -> tuple[Block, int]:
    """Return the block at the start of a chain, and how many queries are in it."""
    history = queries.history[chain[0]]
    history = history[-max(1, len(history) - most // 2) :]
    counts = np.array([len(queries.targets[i]) for i in chain[:most]])
    taken = max(1, int(np.searchsorted(counts.cumsum(), most, side="right")))
    items = np.concatenate([history, *(queries.targets[i] for i in chain[:taken])])
    # How many items precede the targets of each query.
    lengths = len(history) + counts[:taken].cumsum() - counts[:taken]
    # All prompts of a block lose the items that do not fit the last one. The first must keep some:
    # otherwise the block takes fewer queries.
    cut = int(lengths[taken - 1]) - encoder.n_items_that_fit(items[: lengths[taken - 1]])
    while cut >= len(history) and taken > 1:
        taken -= 1
        cut = int(lengths[taken - 1]) - encoder.n_items_that_fit(items[: lengths[taken - 1]])
    targets = np.concatenate([queries.targets[i] for i in chain[:taken]])
    encoder.trimmed += len(targets) if cut > 0 else 0
    return Block(items[cut:], (lengths[:taken] - cut).repeat(counts[:taken]), targets), taken


def check_attention(section: config_learn.Train) -> None:
    """Raise `ConfigError` where this machine cannot train under `section.tree_attention`."""
    if section.tree_attention == FLEX and not torch.cuda.is_available():
        raise ConfigError(
            "FlexAttention computes gradients on CUDA devices only",
            value="no CUDA device",
            accepted="train.tree_attention = sdpa",
            next_step="--set train.tree_attention=sdpa",
        )


def tree_masks(model: PreTrainedModel, subtree_ends: torch.Tensor, depth: torch.Tensor) -> Any:
    """Return the attention mask of a batch of trees, as the layers of the model take it.

    A block mask for FlexAttention, otherwise additive ones. Shapes: [Q, T] → [Q, 1, T, T].
    """
    if model.config._attn_implementation == FLEX:
        return for_layers(model, lambda window: _block_mask(subtree_ends, depth, window))
    token = torch.arange(subtree_ends.shape[1], device=subtree_ends.device)
    # sees[q, i, j]: j is an ancestor of i, or i itself; distance[q, i, j]: how far above it.
    sees = (token <= token[:, None]) & (token[:, None] < subtree_ends[:, None])
    distance = depth[:, :, None] - depth[:, None]
    return for_layers(
        model,
        lambda window: additive(
            sees if window is None else sees & (distance < window), model.dtype
        ),
    )


def _block_mask(subtree_ends: torch.Tensor, depth: torch.Tensor, window: int | None) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(q: torch.Tensor, _: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        ancestor = (j <= i) & (i < subtree_ends[q, j])
        return ancestor if window is None else ancestor & (depth[q, i] - depth[q, j] < window)

    count, length = subtree_ends.shape
    return create_block_mask(sees, count, None, length, length, device=subtree_ends.device)
