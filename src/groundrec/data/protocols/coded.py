"""Raw interactions as numbers: users, items and ratings by code, in the order of the file, twenty
bytes each.

What an engine has read, checked and filtered comes in batches and leaves its texts behind, so that
tens of millions of interactions fit in memory and can be counted in milliseconds. Knows nothing
about time windows, titles or queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from groundrec.data.arrays import as_arrow, as_numpy, as_texts, order_of
from groundrec.data.events import Events
from groundrec.data.raw.files import streamed

__all__ = ["EMPTY", "Coded", "coded", "first_seen", "places"]

LEAST_ROOM = 1 << 20
MOST_WAITING = 1 << 17
"""Texts of a column that may wait for a number."""

MOST_REPEATED = 1 << 18
"""Texts of a column that may have several numbers."""


@dataclass(frozen=True)
class Coded:
    """N interactions in the order of the file."""

    user: NDArray[np.int32]
    """Which of `users`. Shape: [N]."""
    item: NDArray[np.int32]
    """Which of `items`. Shape: [N]."""
    rating: NDArray[np.int32]
    """Which of `ratings`. Shape: [N]."""
    time: NDArray[np.int64]
    """Seconds UTC. Shape: [N]."""
    users: pa.StringArray
    items: pa.StringArray
    ratings: pa.StringArray

    def __len__(self) -> int:
        return len(self.time)

    def core(self, kept: NDArray[np.bool_], k: int) -> NDArray[np.bool_]:
        """Return which of the interactions `kept` are in their k-core. Shape: [N]."""
        while True:
            users = np.bincount(self.user[kept], minlength=len(self.users)) >= k
            items = np.bincount(self.item[kept], minlength=len(self.items)) >= k
            smaller = kept & users[self.user] & items[self.item]
            if smaller.sum() == kept.sum():
                return kept
            kept = smaller

    def events(self, kept: NDArray[np.bool_], number: NDArray[np.int32]) -> Events:
        """Return the interactions `kept` by user and time, users in the order of first appearance.

        `number` is the final number of each item code. Equal times stay in the order of the file.
        """
        user, seen = first_seen(self.user[kept], len(self.users))
        time = self.time[kept]
        order = order_of(time)
        order = order[order_of(user[order])]
        names = self.users.take(as_arrow(seen)).to_pylist()
        item = number[self.item[kept]]
        rating = self.rating[kept]
        return Events(
            np.array(names),
            user[order],
            time[order],
            item[order],
            rating[order],
            tuple(self.ratings.to_pylist()),
        )


_NO_CODES = np.empty(0, np.int32)
_NO_TEXTS = as_texts([])
EMPTY = Coded(
    _NO_CODES, _NO_CODES, _NO_CODES, np.empty(0, np.int64), _NO_TEXTS, _NO_TEXTS, _NO_TEXTS
)


def coded(events: ir.Table) -> Coded | None:
    """Return the interactions of a table with user, item_id, rating, time and bad; None as soon as
    one is bad.

    They are in the order of `row`; a table without it is in order.
    """
    texts = {name: _Texts() for name in ("user", "item", "rating")}
    numbers = {name: _Growing(np.int64) for name in ("time", "row") if name in events.columns}
    for batch in streamed(events.select("user", "rating", *numbers, "bad", item="item_id")):
        if as_numpy(batch["bad"]).any():
            return None
        for name, column in texts.items():
            column.append(batch[name])
        for name, column in numbers.items():
            column.append(as_numpy(batch[name]))
    values = {f"{name}s": column.values() for name, column in texts.items()}
    found = {name: column.array for name, column in {**texts, **numbers}.items()}
    row = found.pop("row", np.empty(0))
    if (row[1:] < row[:-1]).any():
        order = order_of(row)
        found = {name: column[order] for name, column in found.items()}
    return Coded(**found, **values)


def first_seen(codes: NDArray[np.int32], size: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return codes below `size` renumbered in the order of first appearance, and the old code of
    each new one.
    """
    place = np.full(size, len(codes))
    place[codes[::-1]] = np.arange(len(codes))[
        ::-1
    ]  # of several places the last one written stays: the first
    seen = np.flatnonzero(place < len(codes))
    seen = seen[np.argsort(place[seen])]
    number = np.empty(size, np.int32)
    number[seen] = np.arange(len(seen))
    return number[codes], seen


def places(texts: pa.StringArray, known: pa.StringArray) -> pa.Int32Array:
    """Return where each text is among `known`, null where it is not."""
    return pc.call_function("index_in", [texts], pc.SetLookupOptions(known))


class _Growing:
    """An array that grows in place."""

    def __init__(self, dtype: type[np.integer]) -> None:
        self._room = np.empty(LEAST_ROOM, dtype)
        self._used = 0

    @property
    def array(self) -> NDArray[Any]:
        """What was appended so far."""
        return self._room[: self._used]

    def append(self, values: NDArray[np.integer]) -> None:
        """Add values at the end."""
        used = self._used + len(values)
        if used > len(self._room):
            self._room.resize(2 * used, refcheck=False)
        self._room[self._used : used] = values
        self._used = used


class _Texts:
    """A growing column of texts as numbers.

    To look the texts of a batch up among all that are known takes a table of those, each time. So
    texts wait until a table of their own pays, bring their different ones along, and equal ones of
    several tables are found when there are as many as pays.
    """

    def __init__(self) -> None:
        self._numbers = _Growing(np.int32)
        self._settled = 0
        self._waiting: list[pa.StringArray] = []
        self._parts = [as_texts([])]
        self._size = 0

    @property
    def array(self) -> NDArray[np.int32]:
        """Which of `values` each text is, once that was called."""
        return self._numbers.array

    def append(self, column: pa.StringArray) -> None:
        """Add texts, none of them null, at the end."""
        self._waiting.append(column)
        if sum(map(len, self._waiting)) >= MOST_WAITING:
            self._number()
        if self._size > max(MOST_REPEATED, 8 * len(self._parts[0])):
            self.values()

    def values(self) -> pa.StringArray:
        """Return the different texts in the order of first appearance, and let the numbers be
        theirs.
        """
        self._number()
        together = pa.concat_arrays(self._parts).dictionary_encode()
        new = self.array[self._settled :]
        new[:] = as_numpy(together.indices)[new]
        self._parts, self._size, self._settled = (
            [together.dictionary],
            len(together.dictionary),
            len(self.array),
        )
        return together.dictionary

    def _number(self) -> None:
        """Number the texts that wait."""
        found = pa.chunked_array(self._waiting, pa.string()).dictionary_encode()
        for chunk in found.chunks:
            self._numbers.append(as_numpy(chunk.indices) + np.int32(self._size))
        if self._waiting:
            self._parts.append(found.chunk(0).dictionary)
            self._size += len(self._parts[-1])
        self._waiting = []
