"""Raw interactions as integer codes, in the order of the file, twenty bytes each.

Interactions that an engine has read, checked and filtered arrive in batches. Users, items and
ratings are replaced by integer codes, so that tens of millions of interactions fit in memory and
are counted in milliseconds. Knows nothing about time windows, titles or queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from groundrec.data.arrays import as_arrow, as_numpy, as_texts, stable_argsort
from groundrec.data.events import Events
from groundrec.data.raw.files import stream_batches

__all__ = ["NO_EVENTS", "CodedEvents", "by_first_appearance", "encode_events", "index_in"]

INITIAL_CAPACITY = 1 << 20
MAX_PENDING = 1 << 17
"""Maximum number of texts of a column that wait to be encoded."""

MAX_UNMERGED = 1 << 18
"""Maximum number of dictionary entries, equal texts in several dictionaries included."""


@dataclass(frozen=True)
class CodedEvents:
    """N interactions in the order of the file; codes index `users`, `items`, `ratings`."""

    user: NDArray[np.int32]
    """User code. Shape: [N]."""
    item: NDArray[np.int32]
    """Item code. Shape: [N]."""
    rating: NDArray[np.int32]
    """Rating code. Shape: [N]."""
    time: NDArray[np.int64]
    """Seconds UTC. Shape: [N]."""
    users: pa.StringArray
    items: pa.StringArray
    ratings: pa.StringArray

    def __len__(self) -> int:
        return len(self.time)

    def core(self, kept: NDArray[np.bool_], k: int) -> NDArray[np.bool_]:
        """Return which of the interactions `kept` [N] are in their k-core. Shape: [N]."""
        while True:
            frequent_users = np.bincount(self.user[kept], minlength=len(self.users)) >= k
            frequent_items = np.bincount(self.item[kept], minlength=len(self.items)) >= k
            smaller = kept & frequent_users[self.user] & frequent_items[self.item]
            if smaller.sum() == kept.sum():
                return kept
            kept = smaller

    def events(self, kept: NDArray[np.bool_], number: NDArray[np.int32]) -> Events:
        """Return the interactions `kept` [N] sorted by user and time.

        Users are in the order of first appearance, equal times in the order of the file. `number`
        is the final number of each item code.
        """
        user, user_codes = by_first_appearance(self.user[kept], len(self.users))
        time = self.time[kept]
        # stable sorts, the minor key first: by user, then time, then position in the file
        order = stable_argsort(time)
        order = order[stable_argsort(user[order])]
        item = number[self.item[kept]]
        return Events(
            users=np.array(self.users.take(as_arrow(user_codes)).to_pylist()),
            user=user[order],
            time=time[order],
            items=item[order],
            rating=self.rating[kept][order],
            ratings=tuple(self.ratings.to_pylist()),
        )


_NO_CODES = np.empty(0, np.int32)
_NO_TEXTS = as_texts([])
NO_EVENTS = CodedEvents(
    _NO_CODES, _NO_CODES, _NO_CODES, np.empty(0, np.int64), _NO_TEXTS, _NO_TEXTS, _NO_TEXTS
)


def encode_events(events: ir.Table) -> CodedEvents | None:
    """Return the rows of a table with user, item_id, rating, time and bad; None if any row is bad.

    The result is in the order of the column `row`; a table without it is already in order.
    """
    texts = {name: _TextColumn() for name in ("user", "item", "rating")}
    numbers = {name: _GrowingArray(np.int64) for name in ("time", "row") if name in events.columns}
    for batch in stream_batches(events.select("user", "rating", *numbers, "bad", item="item_id")):
        if as_numpy(batch["bad"]).any():
            return None
        for name, column in texts.items():
            column.append(batch[name])
        for name, column in numbers.items():
            column.append(as_numpy(batch[name]))
    values = {f"{name}s": column.values() for name, column in texts.items()}
    columns = {name: column.array for name, column in {**texts, **numbers}.items()}
    row = columns.pop("row", np.empty(0))
    if (row[1:] < row[:-1]).any():
        order = stable_argsort(row)
        columns = {name: column[order] for name, column in columns.items()}
    return CodedEvents(**columns, **values)


def by_first_appearance(
    codes: NDArray[np.int32], size: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return codes below `size` renumbered by first appearance, and the old code of each new one.

    Shapes: [N] → [N], [number of distinct codes].
    """
    # written from the end, so that of several positions the first is the one that remains
    first_position = np.full(size, len(codes))
    first_position[codes[::-1]] = np.arange(len(codes))[::-1]
    old_codes = np.flatnonzero(first_position < len(codes))
    old_codes = old_codes[np.argsort(first_position[old_codes])]
    new_code = np.empty(size, np.int32)
    new_code[old_codes] = np.arange(len(old_codes))
    return new_code[codes], old_codes


def index_in(texts: pa.StringArray, known: pa.StringArray) -> pa.Int32Array:
    """Return the index of each text in `known`, null where it is missing."""
    return pc.call_function("index_in", [texts], pc.SetLookupOptions(known))


class _GrowingArray:
    """An array that doubles its capacity in place when it is full."""

    def __init__(self, dtype: type[np.integer]) -> None:
        self._buffer = np.empty(INITIAL_CAPACITY, dtype)
        self._used = 0

    @property
    def array(self) -> NDArray[Any]:
        """Return the values appended so far."""
        return self._buffer[: self._used]

    def append(self, values: NDArray[np.integer]) -> None:
        """Append values."""
        used = self._used + len(values)
        if used > len(self._buffer):
            self._buffer.resize(2 * used, refcheck=False)
        self._buffer[self._used : used] = values
        self._used = used


class _TextColumn:
    """A growing column of texts, encoded as indices into a dictionary.

    Looking up each batch in one dictionary of all known texts would rebuild its hash table every
    time. Instead batches collect until they are worth a dictionary of their own, whose indices
    continue after those of the previous ones; dictionaries are merged once they have grown large.
    """

    def __init__(self) -> None:
        self._codes = _GrowingArray(np.int32)
        self._n_merged = 0
        """Number of codes that already refer to the merged dictionary."""
        self._pending: list[pa.StringArray] = []
        self._dictionaries = [as_texts([])]
        """The merged dictionary, then those not merged yet."""
        self._size = 0
        """Entries of all dictionaries."""

    @property
    def array(self) -> NDArray[np.int32]:
        """Return the code of each text; call `values` first."""
        return self._codes.array

    def append(self, column: pa.StringArray) -> None:
        """Append texts, none of them null."""
        self._pending.append(column)
        if sum(map(len, self._pending)) >= MAX_PENDING:
            self._encode_pending()
        if self._size > max(MAX_UNMERGED, 8 * len(self._dictionaries[0])):
            self.values()

    def values(self) -> pa.StringArray:
        """Return the distinct texts by first appearance, after merging all dictionaries."""
        self._encode_pending()
        merged = pa.concat_arrays(self._dictionaries).dictionary_encode()
        # indices[i] is the merged index of entry i of the concatenated dictionaries. The merged
        # one comes first and keeps its indices, so that older codes remain valid.
        new = self.array[self._n_merged :]
        new[:] = as_numpy(merged.indices)[new]
        self._dictionaries = [merged.dictionary]
        self._size = len(merged.dictionary)
        self._n_merged = len(self.array)
        return merged.dictionary

    def _encode_pending(self) -> None:
        """Encode the collected texts with a dictionary of their own."""
        encoded = pa.chunked_array(self._pending, pa.string()).dictionary_encode()
        for chunk in encoded.chunks:
            self._codes.append(as_numpy(chunk.indices) + np.int32(self._size))
        if self._pending:
            # all chunks share one dictionary
            self._dictionaries.append(encoded.chunk(0).dictionary)
            self._size += len(self._dictionaries[-1])
        self._pending = []
