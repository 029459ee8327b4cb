"""The rows that training reads: one per example, whole lists, or prefix trees.

Knows nothing about what is learned from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from torch.utils.data import Dataset

from groundrec.core import config_learn
from groundrec.core.errors import TrainingError
from groundrec.core.track import log
from groundrec.core.types import PreparedDataset, Queries
from groundrec.text.tokens import Encoder, Example
from groundrec.train.packing import Block, Tree, anchored_blocks

__all__ = ["Domain", "PaddedRows", "Row", "Rows", "training_rows", "validation_rows"]

T = TypeVar("T")
Row: TypeAlias = Example | Tree


class Rows(Dataset[Row]):
    """Training rows as the Trainer reads them. Row `i` of epoch `e` is always the same."""

    def __init__(self, length: int, row: Callable[[int, int], Row]) -> None:
        self._length = length
        self._row_of = row
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Move on to an epoch; the data loader calls this, also on resume."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Row:
        return self._row_of(i, self._epoch)


class _JoinedRows(Rows):
    """The rows of several data sets, one after the other."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        super().__init__(int(self._ends[-1]), self._row)

    def set_epoch(self, epoch: int) -> None:
        """Move all parts on to an epoch."""
        super().set_epoch(epoch)
        for part in self._parts:
            part.set_epoch(epoch)

    def _row(self, i: int, epoch: int) -> Row:
        number = int(np.searchsorted(self._ends, i, side="right"))
        part = self._parts[number]
        start = int(self._ends[number]) - len(part)
        return part._row_of(i - start, epoch)


class PaddedRows(Dataset[Row]):
    """Rows, followed by as many fillers as make their number a multiple of a batch.

    `filler` returns a row of the same kind that teaches nothing.
    """

    def __init__(self, rows: Rows, multiple: int, filler: Callable[[Row], Row]) -> None:
        self.rows = rows
        self._length = -(-len(rows) // multiple) * multiple
        self._filler = filler(rows[0]) if len(rows) < self._length else None

    def set_epoch(self, epoch: int) -> None:
        """Move on to an epoch."""
        self.rows.set_epoch(epoch)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Row:
        if i < len(self.rows):
            return self.rows[i]
        if self._filler is None or i >= self._length:
            raise IndexError(i)
        return self._filler


@dataclass(frozen=True)
class Domain:
    """A data set to learn from, and the encoder that tokenises it."""

    dataset: PreparedDataset
    encoder: Encoder
    name: str = ""


def training_rows(domains: Sequence[Domain], section: config_learn.Train, seed: int) -> Rows:
    """Return the rows of the training splits: trees, whole lists, or a row per target.

    Where `section.max_examples` is set, no more than that of each domain.
    """
    parts = [_rows(domain, section, seed) for domain in domains]
    if len(parts) > 1:
        for domain, rows in zip(domains, parts, strict=True):
            log.info(f"  {domain.name}: {len(rows):,} rows to train on")
    return _joined(parts)


def validation_rows(domains: Sequence[Domain], limit: int, seed: int) -> Rows:
    """Return a row for each of up to `limit` random examples of each validation split."""
    examples = [_examples(domain.dataset.valid, domain.encoder, limit, seed) for domain in domains]
    return _joined([_listed(part) for part in examples])


def _joined(parts: Sequence[Rows]) -> Rows:
    return parts[0] if len(parts) == 1 else _JoinedRows(parts)


def _rows(domain: Domain, section: config_learn.Train, seed: int) -> Rows:
    train = domain.dataset.train
    encoder = domain.encoder
    if section.packing == "tree":
        rows = _trees(train, encoder, section, seed)
    elif encoder.template.running:
        rows = _ListRows(train, encoder, section, seed)
    else:
        rows = _listed(_examples(train, encoder, section.max_examples, seed, section))
    if not len(rows):
        raise TrainingError(
            "no training examples",
            value=domain.name or None,
            accepted="a data set with training queries that have a history",
        )
    return rows


def _listed(rows: Sequence[Row]) -> Rows:
    return Rows(len(rows), lambda i, _: rows[i])


def _trees(queries: Queries, encoder: Encoder, section: config_learn.Train, seed: int) -> Rows:
    every = list(anchored_blocks(queries, encoder, section.tree_targets))
    blocks = _sample_blocks(every, section.max_examples, seed)
    trees = []
    n_separate = 0
    for block in blocks:
        examples = block.examples(encoder, train_on_inputs=section.train_on_inputs)
        n_separate += sum(len(example.input_ids) for example in examples)
        trees.append(Tree.of(examples))
    targets = sum(len(block.targets) for block in blocks)
    tokens = sum(len(tree.input_ids) for tree in trees)
    if trees:
        log.info(
            f"  {targets:,} examples in {len(trees):,} trees: {tokens:,} tokens instead of"
            f" {n_separate:,}"
        )
    return _listed(trees)


def _sample_blocks(blocks: list[Block], limit: int | None, seed: int) -> list[Block]:
    """Return random blocks, in their order, with `limit` targets in all; the last drawn is cut."""
    if limit is None:
        return blocks
    left = limit
    drawn = {}
    for i in np.random.default_rng(seed).permutation(len(blocks)).tolist():
        if left > 0:
            drawn[i] = blocks[i].first(left)
            left -= len(drawn[i].targets)
    return [drawn[i] for i in sorted(drawn)]


class _ListRows(Rows):
    """Rows of a running template: each user's items once, in pieces of up to `cutoff_len` tokens.

    Each epoch draws where lists are cut, the order of items of one moment, which have none of their
    own, and which items are left out. A user has as many rows in every epoch; the last may be
    empty.
    """

    def __init__(
        self, queries: Queries, encoder: Encoder, section: config_learn.Train, seed: int
    ) -> None:
        self._sequences = queries.sequences()
        self._encoder = encoder
        self._section = section
        self._seed = seed
        # The number of its moment for each item of all sequences, to sort by.
        self._moments = np.append(0, np.cumsum(np.diff(queries.moments()) != 0))
        pieces = [
            (user, piece)
            for user, items in enumerate(self._sequences)
            for piece in range(len(encoder.cuts(items)))
        ]
        self._pieces = _sample(pieces, section.max_examples, seed)
        super().__init__(len(self._pieces), self._row)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the cuts of an epoch."""
        super().set_epoch(epoch)
        shares = np.random.default_rng([self._seed, epoch]).random(len(self._sequences))
        self._cuts = [
            self._encoder.cuts(items, share)
            for items, share in zip(self._sequences, shares, strict=True)
        ]

    def _row(self, i: int, epoch: int) -> Example:
        user, piece = self._pieces[i]
        cuts = self._sequences.offsets[user] + self._cuts[user]
        # This epoch's cuts may make a piece fewer than the most there can be: then it is empty.
        a, b = cuts[piece : piece + 2] if piece + 1 < len(cuts) else (cuts[-1], cuts[-1])
        draw = np.random.default_rng([self._seed, epoch, i]).random((2, b - a))
        order = np.lexsort([draw[0], self._moments[a:b]])
        kept = order[draw[1] >= self._section.drop_items]
        return self._encoder.running(self._sequences.values[a:b][kept])


def _examples(
    queries: Queries,
    encoder: Encoder,
    limit: int | None,
    seed: int,
    section: config_learn.Train | None = None,
) -> list[Example]:
    """Return one row per target of the queries with a history, or a random `limit` of them.

    With a section they are for training: the prompt may be learned too, and its instruction may
    vary.
    """
    some = queries.take(np.flatnonzero(queries.history.lengths > 0))
    pairs = [(query.history, int(target)) for query in some for target in query.targets]
    drawn = _sample(pairs, limit, seed)
    options = {"train_on_inputs": section.train_on_inputs, "varied": True} if section else {}
    return [encoder.example(history, target, **options) for history, target in drawn]


def _sample(values: list[T], limit: int | None, seed: int) -> list[T]:
    """Return a random `limit` of the values, in their order."""
    if limit is None or limit >= len(values):
        return values
    drawn = np.random.default_rng(seed).choice(len(values), limit, replace=False)
    return [values[i] for i in np.sort(drawn)]
