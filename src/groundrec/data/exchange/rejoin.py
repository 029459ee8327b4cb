"""Rows that repeat their histories, as queries and as windows over shared events.

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
from groundrec.data.protocols.windows import Windows, concatenated_ranges

__all__ = ["ImportedRows", "rejoin", "to_queries"]


def _integers() -> array[int]:
    return array("q")


@dataclass
class ImportedRows:
    """The rows of one split, column by column: R rows with one target each, H history items."""

    users: list[str] = field(default_factory=list)
    """Shape: [R]."""
    targets: array[int] = field(default_factory=_integers)
    """Item number. Shape: [R]."""
    times: array[int] = field(default_factory=_integers)
    """Seconds UTC, or any number that increases with time. Shape: [R]."""
    ratings: array[int] = field(default_factory=_integers)
    """Rating code; empty if there are no ratings. Shape: [R] or [0]."""
    lengths: array[int] = field(default_factory=_integers)
    """Length of the history. Shape: [R]."""
    history: array[int] = field(default_factory=_integers)
    """Item numbers of all histories, concatenated. Shape: [H]."""
    past_times: array[int] = field(default_factory=_integers)
    """Shape: [H] or [0]."""
    past_ratings: array[int] = field(default_factory=_integers)
    """Shape: [H] or [0]."""


def to_queries(parts: Mapping[str, ImportedRows]) -> dict[str, Queries]:
    """Return one query per row; ids continue from split to split."""
    splits = {}
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
        splits[name] = Queries(ids, users, np.array(part.times, np.int64), history, targets)
        first += count
    return splits


def rejoin(
    parts: Mapping[str, ImportedRows], ratings: Sequence[str]
) -> tuple[Events, dict[str, Windows]] | None:
    """Return the events, and the rows as windows over them; None if the rows are inconsistent.

    A user's events are the history of their first row, then the target of every row. The history of
    each row must be the events right before its target.
    """
    if not any(part.users for part in parts.values()):
        return None
    names, user = np.unique(_column(parts, "users"), return_inverse=True)
    index = _EventIndex.of(user, _column(parts, "lengths"))
    columns = []
    for now, past in (("times", "past_times"), ("targets", "history"), ("ratings", "past_ratings")):
        column = index.merge(_column(parts, now), _column(parts, past))
        if column is None:
            return None
        columns.append(column)
    time, items, rating = columns
    owner = np.repeat(np.arange(len(names), dtype=np.int32), index.size)
    events = Events(
        names, owner, time, items.astype(np.int32), rating.astype(np.int32), tuple(ratings)
    )
    return events, _windows(parts, events, user.astype(np.int32), index)


def _windows(
    parts: Mapping[str, ImportedRows], events: Events, user: NDArray[np.int32], index: _EventIndex
) -> dict[str, Windows]:
    """Return the rows of each split as windows; `user` is the user number of each row [R]."""
    splits = {}
    first = 0
    for name, part in parts.items():
        rows = slice(first, first + len(part.users))
        target = index.target[rows]
        splits[name] = Windows(
            names=events.users,
            items=events.items,
            first_id=first,
            users=user[rows],
            times=np.array(part.times, np.int64),
            history_start=target - index.length[rows],
            target_start=target,
            target_stop=target + 1,
        )
        first = rows.stop
    return splits


@dataclass(frozen=True)
class _EventIndex:
    """Indices of U users' events and R rows' targets among all E events."""

    size: NDArray[np.int64]
    """Number of events of each user. Shape: [U]."""
    user_start: NDArray[np.int64]
    """First event of each row's user. Shape: [R]."""
    target: NDArray[np.int64]
    """The event that is each row's target. Shape: [R]."""
    length: NDArray[np.int64]
    """Length of each row's history. Shape: [R]."""
    first_row: NDArray[np.int64]
    """First row of each user. Shape: [U]."""

    @classmethod
    def of(cls, user: NDArray[np.int64], length: NDArray[np.int64]) -> _EventIndex:
        """Return the index for rows whose users [R] have numbers without gaps.

        The rows of one user are in the order of time; `length` [R] are those of their histories.
        """
        count = np.bincount(user)  # rows per user: [U]
        before = np.cumsum(count) - count  # rows of all users before: [U]
        order = np.argsort(user, kind="stable")  # rows grouped by user: [R]
        first_row = order[before]
        size = length[first_row] + count
        user_start = (np.cumsum(size) - size)[user]
        # the n-th row of a user has its target n events after the history of the first row
        target = user_start + length[first_row][user]
        target[order] += np.arange(len(user)) - before[user[order]]
        return cls(size, user_start, target, length, first_row)

    def merge(self, now: NDArray[np.int64], past: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return one value per event from those of targets [R] and histories [H]. Shape: [E].

        None if the histories contradict the targets or each other.
        """
        offset = np.cumsum(self.length) - self.length  # where each row's history starts in `past`
        start = self.user_start[self.first_row]
        length = self.length[self.first_row]
        values = np.empty(self.size.sum(), np.int64)
        first_histories = concatenated_ranges(
            offset[self.first_row], offset[self.first_row] + length
        )
        values[concatenated_ranges(start, start + length)] = past[first_histories]
        values[self.target] = now
        # every row's history must repeat the events before its target, and only those of its user
        history_start = self.target - self.length
        if (history_start < self.user_start).any():
            return None
        if (values[concatenated_ranges(history_start, self.target)] != past).any():
            return None
        return values


def _column(parts: Mapping[str, ImportedRows], name: str) -> NDArray:
    values = [getattr(part, name) for part in parts.values()]
    return np.concatenate(
        [np.array(value, None if name == "users" else np.int64) for value in values if len(value)]
    )
