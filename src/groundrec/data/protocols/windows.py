"""Queries as windows over each user's events: the result of every protocol.

A window is three indices into the events: where its history starts, where its targets start and
where they end. A million overlapping histories thus take a few numbers each; `blocks` expands them,
a block at a time. Knows nothing about raw data, files or how a window was chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from groundrec.core.track import log
from groundrec.core.types import Catalogue, Queries, Query, Ragged
from groundrec.data.arrays import stable_argsort
from groundrec.data.events import NO_QUERY, Events

__all__ = [
    "BLOCK",
    "SPLITS",
    "Prepared",
    "Windows",
    "concatenated_ranges",
    "log_split_sizes",
    "one_query_per_event",
    "target_query_ids",
]

SPLITS = ("train", "valid", "test")
BLOCK = 1 << 14
"""Queries expanded at a time."""


@dataclass(frozen=True)
class Windows:
    """Q queries over E events of U users, as slices of `items`; ids are consecutive.

    The history of query q is `items[history_start[q]:target_start[q]]`, its targets are
    `items[target_start[q]:target_stop[q]]`.
    """

    names: NDArray[np.str_]
    """Name of each user number. Shape: [U]."""
    items: NDArray[np.int32]
    """Item number of each event. Shape: [E]."""
    first_id: int
    """Id of the first query."""
    users: NDArray[np.int32]
    """User number. Shape: [Q]."""
    times: NDArray[np.int64]
    """Seconds UTC. Shape: [Q]."""
    history_start: NDArray[np.integer]
    """Shape: [Q]."""
    target_start: NDArray[np.integer]
    """Shape: [Q]."""
    target_stop: NDArray[np.integer]
    """Shape: [Q]."""

    def __len__(self) -> int:
        return len(self.users)

    def __iter__(self) -> Iterator[Query]:
        return (query for block in self.blocks() for query in block)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Return the query ids. Shape: [Q]."""
        return np.arange(self.first_id, self.first_id + len(self), dtype=np.int64)

    @property
    def target_counts(self) -> NDArray[np.integer]:
        """Return the number of targets of each query. Shape: [Q]."""
        return self.target_stop - self.target_start

    @property
    def target_items(self) -> NDArray[np.int32]:
        """Return the targets of all queries, concatenated. Shape: [number of targets]."""
        return self.items[concatenated_ranges(self.target_start, self.target_stop)]

    def lists(self, size: int = BLOCK) -> Iterator[tuple[slice, Ragged, Ragged]]:
        """Yield the rows, histories and targets of at most `size` queries at a time."""
        for first in range(0, len(self), size):
            rows = slice(first, first + size)
            start = self.target_start[rows]
            history = _slices(self.items, self.history_start[rows], start)
            yield rows, history, _slices(self.items, start, self.target_stop[rows])

    def blocks(self, size: int = BLOCK) -> Iterator[Queries]:
        """Yield the queries in order, at most `size` at a time."""
        for rows, history, targets in self.lists(size):
            users = self.names[self.users[rows]]
            yield Queries(self.ids[rows], users, self.times[rows], history, targets)


@dataclass(frozen=True)
class Prepared:
    """The result of a protocol."""

    catalogue: Catalogue
    events: Events
    splits: Mapping[str, Windows]
    rows: Mapping[str, int]
    """Number of rows read, removed by each filter, and kept."""
    card: Mapping[str, object] = field(default_factory=dict)
    """Further entries of the card; `notes` is a list of sentences."""


def one_query_per_event(
    events: Events, *, min_history: int | NDArray[np.integer], max_history: int
) -> dict[str, Windows]:
    """Return one query, with one target, per event that has at least `min_history` earlier ones.

    Its history is the latest `max_history` of them. Earlier means before it in its user's events,
    possibly in the same second; `min_history` may differ per event, shape [E]. Queries are sorted
    by time, equal times in the order of `events`; the first 80% are train, the next 10% valid.
    """
    user_start = events.first[events.user]  # [E]
    n_earlier = np.arange(len(events), dtype=user_start.dtype) - user_start
    # kept in the type of `events.first`, int32 while it suffices: half the memory
    target = np.flatnonzero(n_earlier >= min_history).astype(user_start.dtype)  # [Q]
    target = target[stable_argsort(events.time[target])]
    cuts = [0, int(len(target) * 0.8), int(len(target) * 0.9), len(target)]
    return {
        name: _windows(events, target[a:b], user_start[target[a:b]], max_history, first_id=a)
        for name, a, b in zip(SPLITS, cuts, cuts[1:], strict=False)
    }


def target_query_ids(events: Events, splits: Mapping[str, Windows]) -> NDArray[np.int64]:
    """Return the id of the query whose target each event is, or -1. Shape: [E]."""
    query_ids = np.full(len(events), NO_QUERY, np.int64)
    for split in splits.values():
        targets = concatenated_ranges(split.target_start, split.target_stop)
        query_ids[targets] = np.repeat(split.ids, split.target_counts)
    return query_ids


def log_split_sizes(splits: Mapping[str, Windows]) -> None:
    """Log the number of queries, with the labels of the published script."""
    log.info(f"  interaction_list: {sum(map(len, splits.values()))}")
    log.info("  " + ", ".join(f"{name}: {len(part)}" for name, part in splits.items()))


def _windows(
    events: Events,
    target: NDArray[np.integer],
    user_start: NDArray[np.integer],
    max_history: int,
    first_id: int,
) -> Windows:
    """Return the windows whose only target is the event `target` [Q]."""
    return Windows(
        names=events.users,
        items=events.items,
        first_id=first_id,
        users=events.user[target],
        times=events.time[target],
        history_start=np.maximum(user_start, target - max_history),
        target_start=target,
        target_stop=target + 1,
    )


def _slices(
    values: NDArray[np.int32], start: NDArray[np.integer], stop: NDArray[np.integer]
) -> Ragged:
    """Return the rows `values[start[i]:stop[i]]`."""
    offsets = np.concatenate([[0], np.cumsum(stop - start)]).astype(np.int64)
    return Ragged(values[concatenated_ranges(start, stop)], offsets)


def concatenated_ranges(
    start: NDArray[np.integer], stop: NDArray[np.integer]
) -> NDArray[np.integer]:
    """Return `start[i], …, stop[i] - 1` for all i, concatenated: [3, 7], [5, 8] → [3, 4, 7].

    Shapes: [N] → [Σ (stop - start)].
    """
    lengths = stop - start
    if (lengths == 1).all():
        return start
    # a running index over the result, shifted so that it is start[i] where range i begins
    offsets = (np.cumsum(lengths) - lengths).astype(start.dtype)
    return np.arange(lengths.sum(), dtype=start.dtype) + np.repeat(start - offsets, lengths)
