"""Rows of validation and test that stand in train too: what a model was trained on, it can repeat.

A row is the same if user, history, targets and time are the same, as far as they are known. Where
users are unknown, only a long history tells: short ones are those of many people. Knows nothing
about files.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from groundrec.core.types import Queries, Ragged

__all__ = ["LONG_HISTORY", "SHARED", "count_shared", "shared_rows"]

LONG_HISTORY = 5
"""Items of a history that two people do not take by chance in the same order, and one more."""

SHARED = {"valid": "valid_rows_that_stand_in_train", "test": "test_rows_that_stand_in_train"}
"""Keys of the counts in a card's section `leakage`."""


def count_shared(
    splits: Mapping[str, Queries], *, users_known: bool, times_known: bool
) -> dict[str, int]:
    """Return how many rows of validation and of test stand in train too, by their card's keys."""
    found = shared_rows(splits, users_known=users_known, times_known=times_known)
    return {SHARED[name]: len(rows) for name, rows in found.items()}


def shared_rows(
    splits: Mapping[str, Queries], *, users_known: bool, times_known: bool
) -> dict[str, NDArray[np.intp]]:
    """Return the index of each row of `valid` and of `test` that stands in `train` too."""
    texts = np.concatenate([splits[name].users for name in ("train", *SHARED)])
    # [all rows]: the number of each row's user, 0 where users are unknown.
    codes = np.unique(texts, return_inverse=True)[1] if users_known else np.zeros(len(texts), int)
    sizes = np.cumsum([len(splits[name]) for name in ("train", *SHARED)])
    users = dict(zip(("train", *SHARED), np.split(codes, sizes[:-1]), strict=True))
    keys = {name: _keys(splits[name], users[name], times_known) for name in users}
    found = {}
    for name in SHARED:
        likely = np.isin(keys[name], keys["train"])
        if not users_known:
            likely &= splits[name].history.lengths >= LONG_HISTORY
        # Two rows may have one key by chance: only rows that are equal count.
        in_train = np.flatnonzero(np.isin(keys["train"], keys[name][likely]))
        known = {_row(splits["train"], users["train"], i, times_known) for i in in_train}
        rows = np.flatnonzero(likely)
        equal = [_row(splits[name], users[name], i, times_known) in known for i in rows]
        found[name] = rows[np.array(equal, bool)]
    return found


def _row(
    queries: Queries, users: NDArray[np.integer], row: np.intp, times_known: bool
) -> tuple[object, ...]:
    time = int(queries.times[row]) if times_known else 0
    return (
        users[row],
        time,
        queries.history[int(row)].tobytes(),
        queries.targets[int(row)].tobytes(),
    )


def _keys(queries: Queries, users: NDArray[np.integer], times_known: bool) -> NDArray[np.uint64]:
    """Return a number for each row, the same for equal rows. Shape: [Q]."""
    keys = _mixed(users.astype(np.uint64)) ^ _sums(queries.history) + _mixed(_sums(queries.targets))
    return keys + _mixed(queries.times.astype(np.uint64)) if times_known else keys


def _sums(rows: Ragged) -> NDArray[np.uint64]:
    """Return a number for the values of each row and their order. Shape: [rows]."""
    place = np.arange(len(rows.values)) - rows.offsets[:-1].repeat(rows.lengths)
    mixed = _mixed(rows.values.astype(np.uint64) + (place.astype(np.uint64) << np.uint64(32)))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
    return sums[rows.offsets[1:]] - sums[rows.offsets[:-1]] + _mixed(rows.lengths.astype(np.uint64))


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return numbers of 64 bits in which small differences have spread; overflow is wanted."""
    numbers = (numbers ^ (numbers >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    return numbers ^ (numbers >> np.uint64(29))
