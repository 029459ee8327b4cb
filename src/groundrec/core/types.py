"""The nouns that all stages share: catalogue, queries, slates, scores.

An *item* is always its number, 0 … I-1; an *item_id* is the raw id. Nothing here reads or writes
files or knows what a model is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from groundrec.core.order import best_items

__all__ = [
    "NO_ITEM",
    "Card",
    "Catalogue",
    "PreparedDataset",
    "Queries",
    "Query",
    "Ragged",
    "Scores",
    "Slates",
]

NO_ITEM = -1
"""Fills the end of a slate that has fewer than K items."""

Card: TypeAlias = Mapping[str, Any]
"""What is known of a data set, as JSON holds it: counts, notes, words; see `data.prepare`."""

Scores = NDArray[np.float32]
"""One signal's scores of all items for a batch of queries; higher is better. Shape: [q, I]."""


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in two arrays: row `i` is `values[offsets[i]:offsets[i + 1]]`."""

    values: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Iterable[Sequence[int] | NDArray[np.integer]]) -> Ragged:
        """Return the rows as one ragged array."""
        arrays = [np.asarray(row, dtype=np.int32) for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(a) for a in arrays])]).astype(np.int64)
        values = np.concatenate(arrays) if arrays else np.empty(0, np.int32)
        return cls(values.astype(np.int32), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> NDArray[np.int32]:
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        return (self[i] for i in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of values in each row. Shape: [rows]."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row number of each value. Shape: [values]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def joined(self, other: Ragged) -> Ragged:
        """Return each row followed by the same row of `other`, which has as many rows."""
        return Ragged.of(np.concatenate(pair) for pair in zip(self, other, strict=True))

    def take(self, index: NDArray[np.integer]) -> Ragged:
        """Return the rows of `index`, in that order."""
        lengths = self.lengths[index]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        # How far each new value lies from its old position. Shape: [values].
        shift = np.repeat(self.offsets[:-1][index] - offsets[:-1], lengths)
        return Ragged(self.values[np.arange(offsets[-1]) + shift], offsets)

    @classmethod
    def concatenate(cls, parts: Sequence[Ragged]) -> Ragged:
        """Return the rows of all parts, part by part."""
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(
            np.concatenate([part.values for part in parts]),
            np.concatenate([[0], np.cumsum(lengths)]),
        )


@dataclass(frozen=True)
class Catalogue:
    """The items that can be recommended. Titles may repeat; item numbers and ids may not."""

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.titles)


@dataclass(frozen=True)
class Query:
    """One moment at which items are to be recommended to `user`."""

    id: int
    user: str
    time: int
    """Integer seconds, UTC."""
    history: NDArray[np.int32]
    """Item numbers strictly before `time`, oldest first."""
    targets: NDArray[np.int32]
    """Item numbers the user took at `time`; several if events share that second."""


@dataclass(frozen=True)
class Queries:
    """Many `Query` rows, column by column. All columns have the same length."""

    ids: NDArray[np.int64]
    users: NDArray[np.str_]
    times: NDArray[np.int64]
    history: Ragged
    targets: Ragged

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Query:
        return Query(
            int(self.ids[i]),
            str(self.users[i]),
            int(self.times[i]),
            self.history[i],
            self.targets[i],
        )

    def __iter__(self) -> Iterator[Query]:
        return (self[i] for i in range(len(self)))

    def take(self, index: NDArray[np.integer]) -> Queries:
        """Return the queries at the positions `index`, in that order."""
        return Queries(
            self.ids[index],
            self.users[index],
            self.times[index],
            self.history.take(index),
            self.targets.take(index),
        )

    def batches(self, size: int) -> Iterator[Queries]:
        """Yield the queries in their order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))

    @classmethod
    def of(cls, histories: Ragged, time: int) -> Queries:
        """Return queries of unnamed users at `time`, numbered from 0, without targets."""
        rows = len(histories)
        nothing = Ragged(np.empty(0, np.int32), np.zeros(rows + 1, np.int64))
        return cls(np.arange(rows), np.full(rows, ""), np.full(rows, time), histories, nothing)

    def sample(self, size: int | None, seed: int) -> Queries:
        """Return `size` queries drawn without replacement, in their original order.

        Returns all of them if `size` is None.
        """
        if size is None or size >= len(self):
            return self
        chosen = np.random.default_rng(seed).choice(len(self), size, replace=False)
        return self.take(np.sort(chosen))

    def sequences(self) -> Ragged:
        """Return each user's items as one sequence: the first query's history, then all targets by
        time.

        Users are in order of first appearance. Nothing later than this split's last query is
        included.
        """
        rows: dict[str, list[NDArray[np.int32]]] = {}
        for i in np.argsort(self.times, kind="stable"):
            user = str(self.users[i])
            if user not in rows:
                rows[user] = [self.history[i]]
            rows[user].append(self.targets[i])
        return Ragged.of(np.concatenate(parts) for parts in rows.values())

    def moments(self) -> NDArray[np.int32]:
        """Return one number per value of `sequences()`: equal neighbours happened at one time."""
        # Each item of a history is a moment of its own: alternating -1, -2 differ from their
        # neighbours and from the numbers of queries, which stand for the moments of targets.
        alternating = -1 - np.arange(len(self.history.values)) % 2
        history = Ragged(alternating.astype(np.int32), self.history.offsets)
        targets = Ragged(self.targets.rows.astype(np.int32), self.targets.offsets)
        return replace(self, history=history, targets=targets).sequences().values


@dataclass(frozen=True)
class PreparedDataset:
    """A catalogue and three splits of queries. `fingerprint` is a digest of its contents."""

    catalogue: Catalogue
    train: Queries
    valid: Queries
    test: Queries
    fingerprint: str
    card: Card = field(default_factory=dict)
    """Counts before and after each filter, split times, leakage; see `data.prepare`."""

    def split(self, name: str) -> Queries:
        """Return the queries of the split `train`, `valid` or `test`."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]

    def popularity(self) -> NDArray[np.int64]:
        """Return how often each item occurs in the training sequences. Shape: [I]."""
        return self._popularity

    @cached_property
    def _popularity(self) -> NDArray[np.int64]:
        return np.bincount(self.train.sequences().values, minlength=len(self.catalogue))


@dataclass(frozen=True)
class Slates:
    """Ranked items of Q queries: `items` int32 [Q, K], -1 where there is none, and `scores` float32
    [Q, K], descending.
    """

    query_ids: NDArray[np.int64]
    items: NDArray[np.int32]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.query_ids)

    @property
    def k(self) -> int:
        """Number of places in each slate."""
        return self.items.shape[1]

    @classmethod
    def from_scores(cls, query_ids: NDArray[np.int64], scores: Scores, k: int) -> Slates:
        """Return the `k` best items of each row of `scores` [q, I]; ties go to the smaller number.

        Items with score -inf are left out; the remaining places hold `NO_ITEM` with score -inf.
        """
        items = best_items(scores, k)
        best = np.take_along_axis(scores, items, axis=1).astype(np.float32)
        items[np.isneginf(best)] = NO_ITEM
        padding = ((0, 0), (0, k - items.shape[1]))
        return cls(
            query_ids,
            np.pad(items, padding, constant_values=NO_ITEM),
            np.pad(best, padding, constant_values=-np.inf),
        )

    @classmethod
    def empty(cls, k: int) -> Slates:
        """Return slates of `k` places for no queries."""
        none = np.empty((0, k))
        return cls(np.empty(0, np.int64), none.astype(np.int32), none.astype(np.float32))

    @classmethod
    def concatenate(cls, parts: Sequence[Slates]) -> Slates:
        """Return slates of the same width as one object."""
        return cls(
            np.concatenate([p.query_ids for p in parts]),
            np.concatenate([p.items for p in parts]),
            np.concatenate([p.scores for p in parts]),
        )
