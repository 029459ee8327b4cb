"""Rows that repeat their histories: as queries, and as windows over the events that they tell of.

Knows nothing about files.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from groundrec.core.types import Queries, Ragged
from groundrec.data.events import Events
from groundrec.data.protocols.windows import Windows, ranges

__all__ = ["Rows", "queries_of", "rejoin"]


def _integers() -> array[int]:
    return array("q")


@dataclass
class Rows:
    """The rows of one split, column by column: R rows with one target each, and H items in their
    histories.
    """

    users: list[str] = field(default_factory=list)
    """Shape: [R]."""
    targets: array[int] = field(default_factory=_integers)
    """Item number. Shape: [R]."""
    times: array[int] = field(default_factory=_integers)
    """Seconds UTC, or any number that grows with time. Shape: [R]."""
    ratings: array[int] = field(default_factory=_integers)
    """Number that stands for a rating; empty where there are none. Shape: [R] or [0]."""
    lengths: array[int] = field(default_factory=_integers)
    """Items in the history. Shape: [R]."""
    history: array[int] = field(default_factory=_integers)
    """Item numbers of all histories. Shape: [H]."""
    past_times: array[int] = field(default_factory=_integers)
    """Shape: [H] or [0]."""
    past_ratings: array[int] = field(default_factory=_integers)
    """Shape: [H] or [0]."""


def queries_of(parts: Mapping[str, Rows]) -> dict[str, Queries]:
    """Return one query per row; ids run on from part to part."""
    found = {}
    first = 0
    for name, part in parts.items():
        count = len(part.users)
        history = Ragged(
            np.array(part.history, np.int32),
            np.concatenate([[0], np.cumsum(part.lengths)]).astype(np.int64),
        )
        targets = Ragged(np.array(part.targets, np.int32), np.arange(count + 1, dtype=np.int64))
        users = np.array(part.users) if count else np.empty(0, np.str_)
        ids = np.arange(first, first + count, dtype=np.int64)
        found[name] = Queries(ids, users, np.array(part.times, np.int64), history, targets)
        first += count
    return found


def rejoin(
    parts: Mapping[str, Rows], ratings: Sequence[str]
) -> tuple[Events, dict[str, Windows]] | None:
    """Return the events, and the rows as windows over them; None where the rows tell of no such
    events.

    A user's events are the history of the first row, then the target of every row; the history of
    each row must be the events right before its target.
    """
    if not any(part.users for part in parts.values()):
        return None
    names, user = np.unique(_column(parts, "users"), return_inverse=True)
    places = _Places.of(user, _column(parts, "lengths"))
    columns = []
    for now, past in (("times", "past_times"), ("targets", "history"), ("ratings", "past_ratings")):
        column = places.joined(_column(parts, now), _column(parts, past))
        if column is None:
            return None
        columns.append(column)
    time, items, rating = columns
    owner = np.repeat(np.arange(len(names), dtype=np.int32), places.size)
    events = Events(
        names, owner, time, items.astype(np.int32), rating.astype(np.int32), tuple(ratings)
    )
    return events, _windows(parts, events, user.astype(np.int32), places)


def _windows(
    parts: Mapping[str, Rows], events: Events, user: NDArray[np.int32], places: _Places
) -> dict[str, Windows]:
    found = {}
    first = 0
    for name, part in parts.items():
        rows = slice(first, first + len(part.users))
        start = places.start[rows]
        times = np.array(part.times, np.int64)
        since = start - places.length[rows]
        found[name] = Windows(
            events.users, events.items, first, user[rows], times, since, start, start + 1
        )
        first = rows.stop
    return found


@dataclass(frozen=True)
class _Places:
    """Where the events of U users and the targets of R rows are among all events."""

    size: NDArray[np.int64]
    """Events of each user. Shape: [U]."""
    since: NDArray[np.int64]
    """First event of each row's user. Shape: [R]."""
    start: NDArray[np.int64]
    """The target of each row. Shape: [R]."""
    length: NDArray[np.int64]
    """Items in the history of each row. Shape: [R]."""
    first: NDArray[np.int64]
    """The first row of each user. Shape: [U]."""

    @classmethod
    def of(cls, user: NDArray[np.int64], length: NDArray[np.int64]) -> _Places:
        """Return the places for rows of users numbered without gaps, each user's rows in the order
        of time.
        """
        count = np.bincount(user)
        before = np.cumsum(count) - count
        order = np.argsort(user, kind="stable")
        first = order[before]
        size = length[first] + count
        since = (np.cumsum(size) - size)[user]
        start = since + length[first][user]
        start[order] += np.arange(len(user)) - before[user[order]]
        return cls(size, since, start, length, first)

    def joined(self, now: NDArray[np.int64], past: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return one value per event from those of targets [R] and of histories [H]; None where
        they disagree.
        """
        offset = np.cumsum(self.length) - self.length
        since = self.since[self.first]
        length = self.length[self.first]
        found = np.empty(self.size.sum(), np.int64)
        found[ranges(since, since + length)] = past[
            ranges(offset[self.first], offset[self.first] + length)
        ]
        found[self.start] = now
        begin = self.start - self.length
        if (begin < self.since).any() or (found[ranges(begin, self.start)] != past).any():
            return None
        return found


def _column(parts: Mapping[str, Rows], name: str) -> NDArray:
    values = [getattr(part, name) for part in parts.values()]
    return np.concatenate(
        [np.array(value, None if name == "users" else np.int64) for value in values if len(value)]
    )
