"""Prefix trees: examples that begin alike as one sequence, in which what they share is read once.

Sliding windows repeat nearly all their tokens. Here the histories of successive targets begin at
the same item, the block's anchor, so that each prompt is a beginning of the next one but for its
tail. The tokens stand in depth-first order, at the position they have in their own row, and see
their ancestors alone: token j is one of token i where j <= i < ends[j]. Loss and gradients are
those of one row per example. Knows nothing about optimisers.
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

__all__ = ["Block", "Tree", "anchored_blocks", "check_attention", "tree_masks", "with_padding_ends"]


@dataclass(frozen=True)
class Tree:
    """T tokens in depth-first order, of which some are learned, each as often as examples learn it."""

    tokens: NDArray[np.int32]
    depth: NDArray[np.int32]
    ends: NDArray[np.int32]
    """Behind the last descendant of each token. Shape: [T]."""
    parents: NDArray[np.int32]
    """-1 for the first token of an example."""
    weights: NDArray[np.int32]
    """How many examples learn each token; 0 for a first one, before which nothing stands. Shape:
    [T].
    """

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Tree:
        """Return the tree whose branches are the examples."""
        lengths = np.array([len(e.input_ids) for e in examples])
        real = np.arange(lengths.max()) < lengths[:, None]
        rows = np.full(real.shape, -1, np.int32)
        learned = np.zeros(real.shape, bool)
        rows[real] = np.concatenate([e.input_ids for e in examples])
        learned[real] = np.concatenate([e.labels != IGNORED for e in examples])
        order = np.lexsort(rows.T[::-1])
        rows = rows[order]
        learned = learned[order]
        real = real[order]
        shared = np.zeros(real.shape, bool)
        shared[1:] = np.logical_and.accumulate(rows[1:] == rows[:-1], axis=1)
        new = real & ~shared
        node = np.maximum.accumulate(np.where(new, new.cumsum().reshape(new.shape) - 1, -1), axis=0)
        before = np.pad(node[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
        ends = np.zeros(new.sum(), np.int32)
        ends[node[real]] = np.repeat(
            new.sum(1).cumsum(), real.sum(1)
        )  # of equal places, the last row's stays
        weights = np.bincount(node[real], learned[real], len(ends)).astype(np.int32)
        parents = before[new].astype(np.int32)
        return cls(
            rows[new],
            np.nonzero(new)[1].astype(np.int32),
            ends,
            parents,
            np.where(parents < 0, 0, weights),
        )

    def row(self) -> dict[str, torch.Tensor]:
        """Return the tree as the Trainer reads it. Shapes: [T], and [R] for `sources`, `labels` and
        `weights`.

        `labels` are the learned tokens, `sources` where in the tree the token before each one
        stands.
        """
        learned = self.weights > 0
        found = {
            "input_ids": self.tokens,
            "position_ids": self.depth,
            "ends": self.ends,
            "sources": self.parents[learned],
            "labels": self.tokens[learned],
            "weights": self.weights[learned],
        }
        return {name: torch.from_numpy(values).long() for name, values in found.items()}


@dataclass(frozen=True)
class Block:
    """Successive targets of one user whose histories begin at the same item: target j follows
    `items[:places[j]]`.
    """

    items: NDArray[np.int32]
    places: NDArray[np.int64]
    targets: NDArray[np.int32]

    def first(self, n: int) -> Block:
        """Return the block of the first `n` targets."""
        return Block(self.items, self.places[:n], self.targets[:n])

    def examples(self, encoder: Encoder, *, train_on_inputs: bool = False) -> list[Example]:
        """Return one row per target."""
        return [
            encoder.example(self.items[:n], int(target), train_on_inputs=train_on_inputs)
            for n, target in zip(self.places, self.targets, strict=True)
        ]


def anchored_blocks(queries: Queries, encoder: Encoder, most: int) -> Iterator[Block]:
    """Yield blocks of up to `most` targets that hold every target of the queries with a history
    once.

    The first history of a block is `most` / 2 items shorter than that query's own, but has one item
    at least, so that the one in the middle is as long as the queries' own; and shorter where the
    last prompt would not fit. The targets of one query stay together. A query whose history does
    not go on from the one before begins a block.
    """
    for chain in _chains(queries):
        while chain:
            block, taken = _block(queries, chain, encoder, most)
            chain = chain[taken:]
            yield block


def _chains(queries: Queries) -> Iterator[list[int]]:
    """Yield runs of one user's queries, by time, in which each history ends with the one before and
    its targets.
    """
    _, users = np.unique(queries.users, return_inverse=True)
    chain: list[int] = []
    for i in np.lexsort([queries.times, users]).tolist():
        if not len(queries.history[i]):
            continue
        if chain and not (users[chain[-1]] == users[i] and _goes_on(queries, chain[-1], i)):
            yield chain
            chain = []
        chain.append(i)
    if chain:
        yield chain


def _goes_on(queries: Queries, before: int, i: int) -> bool:
    known = np.concatenate([queries.history[before], queries.targets[before]])
    history = queries.history[i]
    n = min(len(known), len(history))
    return n >= len(queries.targets[before]) and np.array_equal(known[-n:], history[-n:])


def _block(queries: Queries, chain: list[int], encoder: Encoder, most: int) -> tuple[Block, int]:
    """Return the block that a chain begins with, and how many queries it holds."""
    history = queries.history[chain[0]]
    history = history[-max(1, len(history) - most // 2) :]
    counts = np.array([len(queries.targets[i]) for i in chain[:most]])
    taken = max(1, int(np.searchsorted(counts.cumsum(), most, side="right")))
    items = np.concatenate([history, *(queries.targets[i] for i in chain[:taken])])
    places = len(history) + counts[:taken].cumsum() - counts[:taken]
    while (cut := int(places[taken - 1]) - encoder.fitting(items[: places[taken - 1]])) >= len(
        history
    ) and taken > 1:
        taken -= 1
    targets = np.concatenate([queries.targets[i] for i in chain[:taken]])
    encoder.trimmed += len(targets) if cut > 0 else 0
    return Block(items[cut:], (places[:taken] - cut).repeat(counts[:taken]), targets), taken


def check_attention(section: config_learn.Train) -> None:
    """Raise `ConfigError` where trees cannot be trained under `section.tree_attention` on this
    machine.
    """
    if section.tree_attention == FLEX and not torch.cuda.is_available():
        raise ConfigError(
            "FlexAttention computes gradients on CUDA devices alone",
            value="no CUDA device",
            accepted="train.tree_attention = sdpa",
            next_step="--set train.tree_attention=sdpa",
        )


def with_padding_ends(ends: torch.Tensor) -> torch.Tensor:
    """Return the `ends` of trees that zeros fill up on the right, [Q, T], such that what fills up
    sees itself alone.
    """
    itself = torch.arange(1, ends.shape[1] + 1).expand_as(ends)
    return torch.where(ends == 0, itself, ends)


def tree_masks(model: PreTrainedModel, ends: torch.Tensor, depth: torch.Tensor) -> Any:
    """Return what the model's layers take as attention mask: a block mask for FlexAttention, else
    additive ones.

    `ends` and `depth` as in `Tree`. Shapes: [Q, T] → [Q, 1, T, T].
    """
    if model.config._attn_implementation == FLEX:
        return for_layers(model, lambda window: _block_mask(ends, depth, window))
    place = torch.arange(ends.shape[1], device=ends.device)
    sees = (place <= place[:, None]) & (place[:, None] < ends[:, None])
    back = depth[:, :, None] - depth[:, None]
    return for_layers(
        model,
        lambda window: additive(sees if window is None else sees & (back < window), model.dtype),
    )


def _block_mask(ends: torch.Tensor, depth: torch.Tensor, window: int | None) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(q: torch.Tensor, _: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        ancestor = (j <= i) & (i < ends[q, j])
        return ancestor if window is None else ancestor & (depth[q, i] - depth[q, j] < window)

    return create_block_mask(
        sees, ends.shape[0], None, ends.shape[1], ends.shape[1], device=ends.device
    )
