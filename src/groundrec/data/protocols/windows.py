"""Queries as windows over each user's events: what every protocol ends in.

A window says where in the events of its user a history begins, where it ends and where the targets
end, so that a million overlapping histories take a few numbers each; `blocks` writes them out, some
at a time. Knows nothing about raw data, files or how a window was chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from groundrec.core.track import log
from groundrec.core.types import Catalogue, Queries, Query, Ragged
from groundrec.data.arrays import order_of
from groundrec.data.events import NO_QUERY, Events

__all__ = [
    "BLOCK",
    "SPLITS",
    "Prepared",
    "Windows",
    "log_counts",
    "one_target_each",
    "query_of_each",
    "ranges",
]

SPLITS = ("train", "valid", "test")
BLOCK = 1 << 14
"""Queries written out at a time."""


@dataclass(frozen=True)
class Windows:
    """Q queries: history `items[since:start]`, targets `items[start:stop]`. Ids run on from
    `first_id`.
    """

    names: NDArray[np.str_]
    """Name of each user number. Shape: [U]."""
    items: NDArray[np.int32]
    """Item number of each event. Shape: [E]."""
    first_id: int
    users: NDArray[np.int32]
    """User number. Shape: [Q]."""
    times: NDArray[np.int64]
    """Seconds UTC. Shape: [Q]."""
    since: NDArray[np.integer]
    start: NDArray[np.integer]
    stop: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.users)

    def __iter__(self) -> Iterator[Query]:
        return (query for block in self.blocks() for query in block)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Query ids. Shape: [Q]."""
        return np.arange(self.first_id, self.first_id + len(self), dtype=np.int64)

    @property
    def target_counts(self) -> NDArray[np.integer]:
        """Number of targets. Shape: [Q]."""
        return self.stop - self.start

    @property
    def target_items(self) -> NDArray[np.int32]:
        """The targets of all queries, one after the other."""
        return self.items[ranges(self.start, self.stop)]

    def lists(self, size: int = BLOCK) -> Iterator[tuple[slice, Ragged, Ragged]]:
        """Yield the histories and targets of at most `size` queries at a time, and which queries
        they are of.
        """
        for first in range(0, len(self), size):
            rows = slice(first, first + size)
            history = _slices(self.items, self.since[rows], self.start[rows])
            yield rows, history, _slices(self.items, self.start[rows], self.stop[rows])

    def blocks(self, size: int = BLOCK) -> Iterator[Queries]:
        """Yield the queries in order, at most `size` at a time."""
        for rows, history, targets in self.lists(size):
            yield Queries(
                self.ids[rows], self.names[self.users[rows]], self.times[rows], history, targets
            )


@dataclass(frozen=True)
class Prepared:
    """What a protocol makes of raw tables."""

    catalogue: Catalogue
    events: Events
    splits: Mapping[str, Windows]
    rows: Mapping[str, int]
    """Rows read, taken by each filter, and kept."""
    card: Mapping[str, object] = field(default_factory=dict)
    """What else the card should say; `notes` is a list of sentences."""


def one_target_each(
    events: Events, *, least: int | NDArray[np.integer], most: int
) -> dict[str, Windows]:
    """Return one query for each event that has `least` earlier ones of its user; its history is the
    `most` latest.

    `least` may be another number for each event. Shape: [E].

    Earlier means before it in `events`, be it in the same second. Queries are sorted by time, equal
    times as in `events`; the first 80% are train, the next 10% valid, the rest test.
    """
    first = events.first[events.user]
    start = np.flatnonzero(np.arange(len(events), dtype=first.dtype) - first >= least).astype(
        first.dtype
    )
    start = start[order_of(events.time[start])]
    cuts = [0, int(len(start) * 0.8), int(len(start) * 0.9), len(start)]
    return {
        name: _windows(events, start[a:b], first[start[a:b]], most, a)
        for name, a, b in zip(SPLITS, cuts, cuts[1:], strict=False)
    }


def query_of_each(events: Events, splits: Mapping[str, Windows]) -> NDArray[np.int64]:
    """Return the id of the query that each event is a target of, or -1. Shape: [E]."""
    query_ids = np.full(len(events), NO_QUERY, np.int64)
    for split in splits.values():
        query_ids[ranges(split.start, split.stop)] = np.repeat(split.ids, split.target_counts)
    return query_ids


def log_counts(splits: Mapping[str, Windows]) -> None:
    """Log how many queries there are, under the names of the published script."""
    log.info(f"  interaction_list: {sum(map(len, splits.values()))}")
    log.info("  " + ", ".join(f"{name}: {len(part)}" for name, part in splits.items()))


def _windows(
    events: Events, start: NDArray[np.integer], first: NDArray[np.integer], most: int, first_id: int
) -> Windows:
    since = np.maximum(first, start - most)
    return Windows(
        events.users,
        events.items,
        first_id,
        events.user[start],
        events.time[start],
        since,
        start,
        start + 1,
    )


def _slices(
    values: NDArray[np.int32], start: NDArray[np.integer], stop: NDArray[np.integer]
) -> Ragged:
    """Return `values[start[i]:stop[i]]` as row i."""
    offsets = np.concatenate([[0], np.cumsum(stop - start)]).astype(np.int64)
    return Ragged(values[ranges(start, stop)], offsets)


def ranges(start: NDArray[np.integer], stop: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return `start[i], …, stop[i] - 1` for each i, one after the other."""
    lengths = stop - start
    if (lengths == 1).all():
        return start
    offsets = (np.cumsum(lengths) - lengths).astype(start.dtype)
    return np.arange(lengths.sum(), dtype=start.dtype) + np.repeat(start - offsets, lengths)
